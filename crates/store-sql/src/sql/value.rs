//! Values: what goes into a statement, and what comes out of a row.

use std::rc::Rc;
use std::sync::Arc;

/// A value on its way into a statement, or out of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ValueRef<'v> {
    Null,
    Integer(i64),
    Text(&'v str),
    Blob(&'v [u8]),
}

impl ValueRef<'_> {
    /// About what it takes.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Null | Self::Integer(_) => 8,
            Self::Text(text) => text.len(),
            Self::Blob(bytes) => bytes.len(),
        }
    }
}

/// What can be given to a statement.
pub(crate) trait Value {
    fn value(&self) -> ValueRef<'_>;
}

macro_rules! integers {
    ($($type:ty),*) => {$(
        impl Value for $type {
            fn value(&self) -> ValueRef<'_> {
                ValueRef::Integer(i64::from(*self))
            }
        }
        impl Column for $type {
            fn of(value: ValueRef<'_>) -> Option<Self> {
                match value {
                    ValueRef::Integer(value) => value.try_into().ok(),
                    ValueRef::Null | ValueRef::Text(_) | ValueRef::Blob(_) => None,
                }
            }
        }
    )*};
}
// No u64: both databases have 64 bits with a sign.
integers!(i64, i32, u32, u16);

impl Value for bool {
    fn value(&self) -> ValueRef<'_> {
        ValueRef::Integer(i64::from(*self))
    }
}

impl Value for str {
    fn value(&self) -> ValueRef<'_> {
        ValueRef::Text(self)
    }
}

impl Value for String {
    fn value(&self) -> ValueRef<'_> {
        ValueRef::Text(self)
    }
}

impl Value for [u8] {
    fn value(&self) -> ValueRef<'_> {
        ValueRef::Blob(self)
    }
}

impl Value for Vec<u8> {
    fn value(&self) -> ValueRef<'_> {
        ValueRef::Blob(self)
    }
}

impl<const N: usize> Value for [u8; N] {
    fn value(&self) -> ValueRef<'_> {
        ValueRef::Blob(self)
    }
}

impl<T: Value> Value for Option<T> {
    fn value(&self) -> ValueRef<'_> {
        self.as_ref().map_or(ValueRef::Null, Value::value)
    }
}

impl<T: Value + ?Sized> Value for &T {
    fn value(&self) -> ValueRef<'_> {
        T::value(self)
    }
}

impl<T: Value + ?Sized> Value for Arc<T> {
    fn value(&self) -> ValueRef<'_> {
        T::value(self)
    }
}

impl<T: Value + ?Sized> Value for Rc<T> {
    fn value(&self) -> ValueRef<'_> {
        T::value(self)
    }
}

/// What can be read from a row.
pub(crate) trait Column: Sized {
    fn of(value: ValueRef<'_>) -> Option<Self>;
}

impl Column for bool {
    fn of(value: ValueRef<'_>) -> Option<Self> {
        match value {
            ValueRef::Integer(value) => Some(value != 0),
            ValueRef::Null | ValueRef::Text(_) | ValueRef::Blob(_) => None,
        }
    }
}

impl Column for String {
    fn of(value: ValueRef<'_>) -> Option<Self> {
        match value {
            ValueRef::Text(text) => Some(text.to_owned()),
            ValueRef::Null | ValueRef::Integer(_) | ValueRef::Blob(_) => None,
        }
    }
}

impl Column for Vec<u8> {
    fn of(value: ValueRef<'_>) -> Option<Self> {
        match value {
            ValueRef::Blob(bytes) => Some(bytes.to_vec()),
            ValueRef::Null | ValueRef::Integer(_) | ValueRef::Text(_) => None,
        }
    }
}

impl<const N: usize> Column for [u8; N] {
    fn of(value: ValueRef<'_>) -> Option<Self> {
        match value {
            ValueRef::Blob(bytes) => bytes.try_into().ok(),
            ValueRef::Null | ValueRef::Integer(_) | ValueRef::Text(_) => None,
        }
    }
}

impl<T: Column> Column for Option<T> {
    fn of(value: ValueRef<'_>) -> Option<Self> {
        match value {
            ValueRef::Null => Some(None),
            value => T::of(value).map(Some),
        }
    }
}

/// The values of a statement, in their order.
pub(crate) trait Params {
    fn values<R>(self, take: impl FnOnce(&[ValueRef<'_>]) -> R) -> R;
}

impl Params for () {
    fn values<R>(self, take: impl FnOnce(&[ValueRef<'_>]) -> R) -> R {
        take(&[])
    }
}

impl<T: Value, const N: usize> Params for [T; N] {
    fn values<R>(self, take: impl FnOnce(&[ValueRef<'_>]) -> R) -> R {
        take(&self.each_ref().map(Value::value))
    }
}

impl<const N: usize> Params for &[&dyn Value; N] {
    fn values<R>(self, take: impl FnOnce(&[ValueRef<'_>]) -> R) -> R {
        take(&self.map(Value::value))
    }
}

impl Params for Vec<Rc<dyn Value>> {
    fn values<R>(self, take: impl FnOnce(&[ValueRef<'_>]) -> R) -> R {
        let values: Vec<_> = self.iter().map(|value| value.value()).collect();
        take(&values)
    }
}

/// Values of several types.
macro_rules! params {
    ($($value:expr),* $(,)?) => {
        &[$(&$value as &dyn $crate::sql::Value),*]
    };
}
pub(crate) use params;

impl rusqlite::ToSql for ValueRef<'_> {
    fn to_sql(&self) -> rusqlite::Result<rusqlite::types::ToSqlOutput<'_>> {
        use rusqlite::types::{ToSqlOutput, ValueRef as Sqlite};
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null => Sqlite::Null,
            Self::Integer(value) => Sqlite::Integer(*value),
            Self::Text(text) => Sqlite::Text(text.as_bytes()),
            Self::Blob(bytes) => Sqlite::Blob(bytes),
        }))
    }
}
