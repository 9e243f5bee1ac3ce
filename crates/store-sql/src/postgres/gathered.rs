//! Rows on their way, column by column: as many as go in one statement.

use std::sync::Arc;

use bytes::BytesMut;
use tokio_postgres::Statement;
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};

use crate::sql::ValueRef;

/// Rows, and bytes of them, that are gathered before they are sent.
const ROWS_MAX: usize = 2_048;
const BYTES_MAX: usize = 8 * 1_024 * 1_024;

/// Rows by the statement that writes them, in the order of the statements' first rows.
#[derive(Default)]
pub(super) struct Gathered {
    pub(super) statements: Vec<(Arc<Statement>, Vec<Values>)>,
    rows: usize,
    bytes: usize,
}

/// What a column has in all rows.
#[derive(Debug, Default)]
pub(super) struct Values(Vec<Owned>);

/// A value that outlives whoever wrote it.
#[derive(Debug)]
enum Owned {
    Null,
    Integer(i64),
    Text(String),
    Blob(Vec<u8>),
}

impl Owned {
    fn borrowed(&self) -> ValueRef<'_> {
        match self {
            Self::Null => ValueRef::Null,
            Self::Integer(value) => ValueRef::Integer(*value),
            Self::Text(text) => ValueRef::Text(text),
            Self::Blob(bytes) => ValueRef::Blob(bytes),
        }
    }
}

impl Gathered {
    /// True when it is time to send what there is.
    pub(super) fn add(&mut self, of_many: &Arc<Statement>, values: &[ValueRef<'_>]) -> bool {
        // They are a handful.
        let mut known = self.statements.iter();
        let at = known.position(|(known, _)| Arc::ptr_eq(known, of_many));
        let at = at.unwrap_or_else(|| {
            let columns = values.iter().map(|_| Values::default()).collect();
            self.statements.push((of_many.clone(), columns));
            self.statements.len() - 1
        });
        for (column, value) in self.statements[at].1.iter_mut().zip(values) {
            let (value, bytes) = match value {
                ValueRef::Null => (Owned::Null, 1),
                ValueRef::Integer(value) => (Owned::Integer(*value), 8),
                ValueRef::Text(text) => (Owned::Text((*text).to_owned()), text.len()),
                ValueRef::Blob(bytes) => (Owned::Blob(bytes.to_vec()), bytes.len()),
            };
            self.bytes += bytes;
            column.0.push(value);
        }
        self.rows += 1;
        self.rows >= ROWS_MAX || self.bytes >= BYTES_MAX
    }
}

impl ToSql for Values {
    fn to_sql(
        &self,
        kind: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        let values: Vec<ValueRef<'_>> = self.0.iter().map(Owned::borrowed).collect();
        values.to_sql(kind, out)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}
