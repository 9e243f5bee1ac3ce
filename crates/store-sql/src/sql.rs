//! One way to ask a database, whichever it is: every statement of this crate is written once, for both.
//!
//! Statements are SQLite's, of the part that both know; [`postgres`](crate::postgres) turns what is left into the
//! other's words. All numbers are 64-bit integers, in both.

mod value;

use std::sync::Arc;

pub(crate) use value::{Column, Params, Value, ValueRef, params};

use crate::postgres::{self, Prepared, Session};

pub(crate) type SqlResult<T> = Result<T, SqlError>;

/// Why a statement failed.
#[derive(Debug, thiserror::Error)]
pub enum SqlError {
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    /// What the server says has values in it, which are nobody's to print: it is no source.
    #[error("{}", postgres::text_of(.0))]
    Postgres(Box<tokio_postgres::Error>),
    /// The connection to the database is gone, and no new one could be made.
    #[error("the database cannot be reached: {0}")]
    Unreachable(String),
    /// It is there, and gives no connection now.
    #[error("the database cannot be reached: {0}")]
    NotLetIn(String),
    /// A value that is none of those we write.
    #[error("column {column} cannot be read: {what}")]
    Unreadable { column: usize, what: String },
    #[error("there is no such row")]
    NoRow,
}

impl From<tokio_postgres::Error> for SqlError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Postgres(Box::new(error))
    }
}

/// What a failure means, as far as the store tells it apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// No room on the disk.
    Full,
    /// A damaged page, or a value that is none of ours.
    Unreadable,
    /// Another row has what only one may have.
    Taken,
    /// A value that the database cannot hold.
    Refused,
    /// It took too long, and was broken off.
    Interrupted,
    /// Somebody else was in the way; nothing was done.
    Busy,
    /// The database cannot be reached, or does not take writes.
    Unreachable,
    Other,
}

impl SqlError {
    /// Whether a page of the file is damaged. SQLite writes nothing more in a transaction that has met one.
    pub(crate) fn is_of_a_page(&self) -> bool {
        matches!(self, Self::Sqlite(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseCorrupt))
    }

    /// Whether a database was there to say it.
    pub(crate) fn is_an_answer(&self) -> bool {
        match self {
            Self::Postgres(error) => error.code().is_some(),
            Self::NotLetIn(_) => true,
            _ => false,
        }
    }

    pub(crate) fn failure(&self) -> Failure {
        use rusqlite::ErrorCode;
        match self {
            Self::Sqlite(
                rusqlite::Error::FromSqlConversionFailure(..)
                | rusqlite::Error::InvalidColumnType(..)
                | rusqlite::Error::IntegralValueOutOfRange(..)
                | rusqlite::Error::Utf8Error(..),
            )
            | Self::Unreadable { .. } => Failure::Unreadable,
            Self::Sqlite(error) => match error.sqlite_error_code() {
                Some(ErrorCode::DiskFull) => Failure::Full,
                Some(ErrorCode::DatabaseCorrupt) => Failure::Unreadable,
                Some(ErrorCode::ConstraintViolation) => Failure::Taken,
                Some(ErrorCode::OperationInterrupted) => Failure::Interrupted,
                Some(ErrorCode::DatabaseBusy) => Failure::Busy,
                _ => Failure::Other,
            },
            Self::Postgres(error) => postgres::failure(error),
            Self::Unreachable(_) | Self::NotLetIn(_) => Failure::Unreachable,
            Self::NoRow => Failure::Other,
        }
    }
}

/// A column whose value is none of those we write.
pub(crate) fn unreadable(column: usize, what: impl Into<String>) -> SqlError {
    SqlError::Unreadable {
        column,
        what: what.into(),
    }
}

pub(crate) trait Optional<T> {
    /// None instead of an error where there is no row.
    fn optional(self) -> SqlResult<Option<T>>;
}

impl<T> Optional<T> for SqlResult<T> {
    fn optional(self) -> SqlResult<Option<T>> {
        match self {
            Ok(value) => Ok(Some(value)),
            Err(SqlError::NoRow) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// A row of an answer.
pub(crate) enum Row<'r> {
    Sqlite(&'r rusqlite::Row<'r>),
    Postgres(&'r tokio_postgres::Row),
}

impl Row<'_> {
    pub(crate) fn value(&self, column: usize) -> SqlResult<ValueRef<'_>> {
        match self {
            Self::Sqlite(row) => Ok(match row.get_ref(column)? {
                rusqlite::types::ValueRef::Null => ValueRef::Null,
                rusqlite::types::ValueRef::Integer(value) => ValueRef::Integer(value),
                rusqlite::types::ValueRef::Text(text) => match std::str::from_utf8(text) {
                    Ok(text) => ValueRef::Text(text),
                    Err(error) => return Err(unreadable(column, error.to_string())),
                },
                rusqlite::types::ValueRef::Blob(bytes) => ValueRef::Blob(bytes),
                // All numbers of ours are whole.
                rusqlite::types::ValueRef::Real(value) => {
                    return Err(unreadable(column, value.to_string()));
                }
            }),
            Self::Postgres(row) => postgres::value(row, column),
        }
    }

    pub(crate) fn columns(&self) -> usize {
        match self {
            Self::Sqlite(row) => row.as_ref().column_count(),
            Self::Postgres(row) => row.len(),
        }
    }

    pub(crate) fn get<T: Column>(&self, column: usize) -> SqlResult<T> {
        let value = self.value(column)?;
        T::of(value).ok_or_else(|| {
            let what = match value {
                ValueRef::Null => "a value is missing".to_owned(),
                ValueRef::Integer(value) => value.to_string(),
                ValueRef::Text(_) => "a text".to_owned(),
                ValueRef::Blob(_) => "bytes".to_owned(),
            };
            unreadable(column, what)
        })
    }

    pub(crate) fn text(&self, column: usize) -> SqlResult<&str> {
        match self.value(column)? {
            ValueRef::Text(text) => Ok(text),
            _ => Err(unreadable(column, "it is no text")),
        }
    }

    pub(crate) fn text_or_null(&self, column: usize) -> SqlResult<Option<&str>> {
        match self.value(column)? {
            ValueRef::Null => Ok(None),
            ValueRef::Text(text) => Ok(Some(text)),
            _ => Err(unreadable(column, "it is no text")),
        }
    }

    pub(crate) fn bytes(&self, column: usize) -> SqlResult<&[u8]> {
        match self.value(column)? {
            ValueRef::Blob(bytes) => Ok(bytes),
            _ => Err(unreadable(column, "it is not bytes")),
        }
    }
}

/// A connection to either database.
#[derive(Debug)]
pub(crate) enum Connection {
    Sqlite(rusqlite::Connection),
    Postgres(Session),
}

/// A statement that is ready to be asked, again and again.
pub(crate) enum Statement<'c> {
    Sqlite(rusqlite::CachedStatement<'c>),
    Postgres(&'c Session, Arc<Prepared>),
}

/// While it is there, all that is read is of one moment.
pub(crate) struct Snapshot<'c>(&'c Connection);

impl Drop for Snapshot<'_> {
    fn drop(&mut self) {
        // Nothing was written; a connection that is gone has nothing to end.
        drop(self.0.execute_batch("rollback"));
    }
}

impl Connection {
    pub(crate) fn prepare_cached(&self, sql: &str) -> SqlResult<Statement<'_>> {
        match self {
            Self::Sqlite(connection) => Ok(Statement::Sqlite(connection.prepare_cached(sql)?)),
            Self::Postgres(session) => Ok(Statement::Postgres(session, session.prepare(sql)?)),
        }
    }

    pub(crate) fn execute(&self, sql: &str, params: impl Params) -> SqlResult<usize> {
        self.prepare_cached(sql)?.execute(params)
    }

    pub(crate) fn query_row<T>(
        &self,
        sql: &str,
        params: impl Params,
        row: impl FnOnce(&Row<'_>) -> SqlResult<T>,
    ) -> SqlResult<T> {
        self.prepare_cached(sql)?.query_row(params, row)
    }

    /// Statements without values or answers.
    pub(crate) fn execute_batch(&self, sql: &str) -> SqlResult<()> {
        match self {
            Self::Sqlite(connection) => Ok(connection.execute_batch(sql)?),
            Self::Postgres(session) => session.batch(sql),
        }
    }

    /// Begins a transaction that writes.
    pub(crate) fn begin(&self) -> SqlResult<()> {
        match self {
            // A lock that another process has is waited for here, and not at the first write.
            Self::Sqlite(_) => self.execute_batch("begin immediate"),
            Self::Postgres(session) => session.begin(),
        }
    }

    pub(crate) fn snapshot(&self) -> SqlResult<Snapshot<'_>> {
        self.execute_batch(match self {
            Self::Sqlite(_) => "begin",
            // Otherwise each statement would see a moment of its own.
            Self::Postgres(_) => "begin isolation level repeatable read read only",
        })?;
        Ok(Snapshot(self))
    }

    pub(crate) fn roll_back(&self) {
        match self {
            // It has rolled back by itself after some errors; then there is nothing to do.
            Self::Sqlite(_) => drop(self.execute_batch("rollback")),
            Self::Postgres(session) => session.roll_back(),
        }
    }

    /// Undoes what came since a savepoint, and what was on its way.
    pub(crate) fn roll_back_to(&self, savepoint: &str) -> SqlResult<()> {
        if let Self::Postgres(session) = self {
            session.forget();
        }
        self.execute_batch(&format!("rollback to {savepoint}"))
    }

    /// Waits for what [`Statement::enqueue`] left on its way.
    pub(crate) fn flush(&self) -> SqlResult<()> {
        match self {
            Self::Sqlite(_) => Ok(()),
            Self::Postgres(session) => session.flush(),
        }
    }

    /// Whether it was cut off, as far as that is known.
    pub(crate) fn is_gone(&self) -> bool {
        match self {
            Self::Sqlite(_) => false,
            Self::Postgres(session) => session.is_gone(),
        }
    }

    /// Whether each question costs a way over the network.
    pub(crate) fn is_remote(&self) -> bool {
        matches!(self, Self::Postgres(_))
    }

    pub(crate) fn sqlite(&self) -> Option<&rusqlite::Connection> {
        match self {
            Self::Sqlite(connection) => Some(connection),
            Self::Postgres(_) => None,
        }
    }
}

impl Statement<'_> {
    /// Returns how many rows it changed.
    pub(crate) fn execute(&mut self, params: impl Params) -> SqlResult<usize> {
        match self {
            Self::Sqlite(statement) => {
                params.values(|values| Ok(statement.execute(rusqlite::params_from_iter(values))?))
            }
            Self::Postgres(session, statement) => {
                params.values(|values| session.execute(statement, values))
            }
        }
    }

    /// Executes it before the next question, together with others of its kind: what fails of it, that question, or
    /// [`Connection::flush`], tells. Not for two changes of one row.
    pub(crate) fn enqueue(&mut self, params: impl Params) -> SqlResult<()> {
        match self {
            Self::Sqlite(_) => self.execute(params).map(drop),
            Self::Postgres(session, statement) => {
                params.values(|values| session.enqueue(statement, values))
            }
        }
    }

    pub(crate) fn query_row<T>(
        &mut self,
        params: impl Params,
        row: impl FnOnce(&Row<'_>) -> SqlResult<T>,
    ) -> SqlResult<T> {
        match self {
            Self::Sqlite(statement) => params.values(|values| {
                let mut rows = statement.query(rusqlite::params_from_iter(values))?;
                match rows.next()? {
                    Some(found) => row(&Row::Sqlite(found)),
                    None => Err(SqlError::NoRow),
                }
            }),
            Self::Postgres(session, statement) => {
                let rows = params.values(|values| session.query(statement, values))?;
                rows.first()
                    .map_or(Err(SqlError::NoRow), |found| row(&Row::Postgres(found)))
            }
        }
    }

    /// Goes through rows that may be very many, without having all of them at once. `row` must not ask anything else of
    /// the connection, which answers one question after the other.
    pub(crate) fn stream(
        &mut self,
        params: impl Params,
        mut row: impl FnMut(&Row<'_>) -> SqlResult<()>,
    ) -> SqlResult<()> {
        match self {
            Self::Sqlite(_) => self.each(params, |found| {
                row(found)?;
                Ok(std::ops::ControlFlow::Continue(()))
            }),
            Self::Postgres(session, statement) => params.values(|values| {
                session.stream(statement, values, |found| row(&Row::Postgres(found)))
            }),
        }
    }

    /// Goes through the rows as long as `row` says so.
    pub(crate) fn each(
        &mut self,
        params: impl Params,
        mut row: impl FnMut(&Row<'_>) -> SqlResult<std::ops::ControlFlow<()>>,
    ) -> SqlResult<()> {
        match self {
            Self::Sqlite(statement) => params.values(|values| {
                let mut rows = statement.query(rusqlite::params_from_iter(values))?;
                while let Some(found) = rows.next()? {
                    if row(&Row::Sqlite(found))?.is_break() {
                        break;
                    }
                }
                Ok(())
            }),
            Self::Postgres(session, statement) => {
                // All have come by now: a statement whose rows have no bound is for `stream`.
                for found in params.values(|values| session.query(statement, values))? {
                    if row(&Row::Postgres(&found))?.is_break() {
                        break;
                    }
                }
                Ok(())
            }
        }
    }

    pub(crate) fn query_all<T>(
        &mut self,
        params: impl Params,
        mut row: impl FnMut(&Row<'_>) -> SqlResult<T>,
    ) -> SqlResult<Vec<T>> {
        let mut found = Vec::new();
        self.each(params, |each| {
            found.push(row(each)?);
            Ok(std::ops::ControlFlow::Continue(()))
        })?;
        Ok(found)
    }

    pub(crate) fn exists(&mut self, params: impl Params) -> SqlResult<bool> {
        Ok(self.query_row(params, |_| Ok(())).optional()?.is_some())
    }
}
