//! A connection to PostgreSQL, asked by one thread.
//!
//! It has a runtime of its own, so that a question and its answer stay on the thread that asks. Rows that are enqueued are
//! gathered, statement by statement, and go out together with the next question: many rows in one statement, and no way
//! of their own.

use std::cell::RefCell;
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};

use bytes::BytesMut;
use futures_util::future::{join, join_all};
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::runtime::Runtime;
use tokio::task::AbortHandle;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{Client, Row, Statement};

use super::dialect;
use super::gathered::Gathered;
use super::options::{GivenUp, Target};
use crate::sql::{Failure, SqlError, SqlResult, ValueRef, unreadable};

/// Statements that a connection keeps ready; beyond, it begins anew.
// Lists put theirs together from their filters, so there are many.
const STATEMENTS_MAX: usize = 512;
/// Rows that are looked at in one go.
const ROWS_AT_ONCE: usize = 256;
/// A statement on its way, and its answer.
type Sent = Pin<Box<dyn Future<Output = Result<u64, tokio_postgres::Error>> + Send>>;

/// A statement that the database knows.
pub(crate) struct Prepared {
    /// Its text in the database's words.
    text: String,
    statement: Statement,
    /// The same for many rows, once somebody has more than one; none where there is no such thing.
    of_many: OnceLock<Option<Arc<Statement>>>,
}

pub(crate) struct Session {
    runtime: OwnRuntime,
    client: Arc<Client>,
    /// By what they were made of.
    statements: RefCell<HashMap<String, Arc<Prepared>>>,
    gathered: RefCell<Gathered>,
    sent: RefCell<Vec<Sent>>,
    /// What moves the bytes.
    connection: AbortHandle,
    given_up: Arc<GivenUp>,
    /// As often as that was when this one was made.
    given_up_before: u64,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").finish_non_exhaustive()
    }
}

/// A runtime that may be dropped where nobody may wait, and waits for nothing, such as a name that is looked up.
struct OwnRuntime(Option<Runtime>);

impl Drop for OwnRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl std::ops::Deref for OwnRuntime {
    type Target = Runtime;
    fn deref(&self) -> &Runtime {
        self.0.as_ref().expect("it is there until the drop")
    }
}

/// A value as its column has it: most are 64-bit integers, but what a statement only compares may be less.
impl ToSql for ValueRef<'_> {
    fn to_sql(
        &self,
        kind: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        match self {
            Self::Null => Ok(IsNull::Yes),
            Self::Integer(value) if *kind == Type::INT4 => i32::try_from(*value)?.to_sql(kind, out),
            Self::Integer(value) if *kind == Type::INT2 => i16::try_from(*value)?.to_sql(kind, out),
            Self::Integer(value) if *kind == Type::BOOL => (*value != 0).to_sql(kind, out),
            Self::Integer(value) => value.to_sql(kind, out),
            // The one character that its texts cannot have.
            Self::Text(text) if text.contains('\0') => {
                text.replace('\0', "\u{fffd}").to_sql(kind, out)
            }
            Self::Text(text) => text.to_sql(kind, out),
            Self::Blob(bytes) => bytes.to_sql(kind, out),
        }
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

/// A value of a row.
struct Read<'r>(ValueRef<'r>);

impl<'r> FromSql<'r> for Read<'r> {
    fn from_sql(
        kind: &Type,
        raw: &'r [u8],
    ) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(match *kind {
            Type::INT8 => ValueRef::Integer(i64::from_sql(kind, raw)?),
            Type::INT4 => ValueRef::Integer(i32::from_sql(kind, raw)?.into()),
            Type::INT2 => ValueRef::Integer(i16::from_sql(kind, raw)?.into()),
            Type::BOOL => ValueRef::Integer(bool::from_sql(kind, raw)?.into()),
            Type::BYTEA => ValueRef::Blob(raw),
            _ => ValueRef::Text(<&str>::from_sql(kind, raw)?),
        }))
    }

    fn from_sql_null(_: &Type) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(ValueRef::Null))
    }

    fn accepts(kind: &Type) -> bool {
        matches!(
            *kind,
            Type::INT8 | Type::INT4 | Type::INT2 | Type::BOOL | Type::BYTEA | Type::TEXT
        )
    }
}

pub(crate) fn value(row: &Row, column: usize) -> SqlResult<ValueRef<'_>> {
    row.try_get::<_, Read<'_>>(column)
        .map(|read| read.0)
        .map_err(|error| unreadable(column, text_of(&error)))
}

/// What the server says, and what it is about; never a value of a statement.
pub(crate) fn text_of(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(said) => format!("{} ({})", said.message(), said.code().code()),
        None => std::error::Error::source(error)
            .map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}")),
    }
}

pub(crate) fn failure(error: &tokio_postgres::Error) -> Failure {
    let Some(code) = error.code() else {
        // Not the server's answer: the way to it is broken, unless it is a value of ours.
        let is_ours = std::error::Error::source(error).is_some_and(|cause| {
            // The library tells what kind of error it is by its text alone.
            !cause.is::<std::io::Error>() && error.to_string().contains("serializing")
        });
        return if is_ours {
            Failure::Refused
        } else {
            Failure::Unreachable
        };
    };
    // Before the classes: a full disk is of 53, a question that was broken off of 57.
    if *code == SqlState::DISK_FULL {
        Failure::Full
    } else if *code == SqlState::UNIQUE_VIOLATION {
        Failure::Taken
    } else if *code == SqlState::QUERY_CANCELED {
        Failure::Interrupted
    } else if [
        SqlState::T_R_SERIALIZATION_FAILURE,
        SqlState::T_R_DEADLOCK_DETECTED,
        SqlState::LOCK_NOT_AVAILABLE,
    ]
    .contains(code)
    {
        Failure::Busy
    } else if *code == SqlState::DATA_CORRUPTED || *code == SqlState::INDEX_CORRUPTED {
        Failure::Unreadable
    } else {
        match code.code().get(..2) {
            // Connection exceptions, too few resources, the operator's intervention, a standby.
            Some("08" | "53" | "57") => Failure::Unreachable,
            _ if *code == SqlState::READ_ONLY_SQL_TRANSACTION => Failure::Unreachable,
            // Integrity constraints, values that a column cannot hold, rows that an index cannot.
            Some("22" | "23" | "54") => Failure::Refused,
            _ => Failure::Other,
        }
    }
}

impl Session {
    /// Makes a connection; `setup` is executed on it first.
    pub(super) fn connect(target: &Target, setup: &str) -> SqlResult<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| SqlError::Unreachable(error.to_string()))?;
        let runtime = OwnRuntime(Some(runtime));
        let given_up_before = target.given_up.times();
        let connecting = async {
            let config = target.config().map_err(|error| {
                SqlError::Unreachable(format!("its password cannot be read: {error}"))
            })?;
            // Whatever it says, nobody has got in: another password, another certificate or an end of a migration over there
            // may let the next try in.
            let away = |error: tokio_postgres::Error| match error.code() {
                Some(_) => SqlError::NotLetIn(text_of(&error)),
                None => SqlError::Unreachable(text_of(&error)),
            };
            let (client, connection) = config.connect(target.tls.clone()).await.map_err(away)?;
            // It ends with the client; whoever asks next hears why.
            let connection = runtime.spawn(async move { drop(connection.await) });
            client.batch_execute(setup).await.map_err(away)?;
            Ok::<_, SqlError>((client, connection.abort_handle()))
        };
        let time_max = target.time_max;
        let connected =
            runtime.block_on(async { tokio::time::timeout(time_max, connecting).await });
        let (client, connection) =
            connected.map_err(|_| SqlError::Unreachable("it does not answer".to_owned()))??;
        let client = Arc::new(client);
        Ok(Self {
            runtime,
            client,
            statements: RefCell::default(),
            gathered: RefCell::default(),
            sent: RefCell::default(),
            connection,
            given_up: target.given_up.clone(),
            given_up_before,
        })
    }

    /// Whether the connection is gone, as far as that is known.
    pub(crate) fn is_gone(&self) -> bool {
        let is_given_up = self.given_up.times() != self.given_up_before;
        if is_given_up {
            // Nobody may have waited on it when that was told.
            self.connection.abort();
        }
        self.turn();
        is_given_up || self.client.is_closed()
    }

    /// The connection looks at its socket only while somebody waits: a few turns are enough for what is there.
    fn turn(&self) {
        const TURNS: usize = 8;
        self.runtime.block_on(async {
            for _ in 0..TURNS {
                tokio::task::yield_now().await;
            }
        });
    }

    pub(crate) fn prepare(&self, sql: &str) -> SqlResult<Arc<Prepared>> {
        if let Some(known) = self.statements.borrow().get(sql) {
            return Ok(known.clone());
        }
        let text = dialect::postgres(sql);
        let statement = self.answer(self.client.prepare(&text))?;
        let prepared = Arc::new(Prepared {
            text,
            statement,
            of_many: OnceLock::new(),
        });
        let mut statements = self.statements.borrow_mut();
        // Those in use live on with whoever asks them.
        if statements.len() >= STATEMENTS_MAX {
            statements.clear();
        }
        statements.insert(sql.to_owned(), prepared.clone());
        Ok(prepared)
    }

    /// Waits for an answer, and for those of what went before.
    fn answer<T>(
        &self,
        question: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> SqlResult<T> {
        // What was enqueued goes first: the question may be about it.
        self.send_gathered();
        let sent = join_all(self.sent.take());
        let (sent, answer) = self.wait(join(sent, question))?;
        // The first that failed says why; what comes after it hears only that the transaction did.
        all_well(sent)?;
        Ok(answer?)
    }

    /// Waits for what the database says, until somebody knows that it does not: see [`super::Source::give_up`].
    fn wait<T>(&self, answer: impl Future<Output = T>) -> SqlResult<T> {
        let answered = self.runtime.block_on(async {
            tokio::select! {
                answer = answer => Some(answer),
                () = self.given_up.since(self.given_up_before) => None,
            }
        });
        answered.ok_or_else(|| {
            // With its socket: over there it may hold the lock that the next one needs, for as long as that is open.
            self.connection.abort();
            self.turn();
            SqlError::Unreachable("it does not answer on this connection any more".to_owned())
        })
    }

    pub(crate) fn execute(&self, prepared: &Prepared, values: &[ValueRef<'_>]) -> SqlResult<usize> {
        let changed = self.answer(self.client.execute_raw(&prepared.statement, values.iter()))?;
        Ok(usize::try_from(changed).unwrap_or(usize::MAX))
    }

    pub(crate) fn query(
        &self,
        prepared: &Prepared,
        values: &[ValueRef<'_>],
    ) -> SqlResult<Vec<Row>> {
        let values: Vec<&(dyn ToSql + Sync)> = values
            .iter()
            .map(|value| value as &(dyn ToSql + Sync))
            .collect();
        self.answer(self.client.query(&prepared.statement, &values))
    }

    /// Goes through the rows, some at a time. Nothing else may be asked meanwhile: it would wait for the rows, and they
    /// for us.
    pub(crate) fn stream(
        &self,
        prepared: &Prepared,
        values: &[ValueRef<'_>],
        mut row: impl FnMut(&Row) -> SqlResult<()>,
    ) -> SqlResult<()> {
        let rows = self.answer(self.client.query_raw(&prepared.statement, values.iter()))?;
        let mut rows = std::pin::pin!(rows.ready_chunks(ROWS_AT_ONCE));
        while let Some(found) = self.wait(rows.next())? {
            for found in found {
                row(&found?)?;
            }
        }
        Ok(())
    }

    /// Gathers a row for a statement. Rows of one statement stay in their order; which of two statements comes first is
    /// only certain where a question is between them.
    pub(crate) fn enqueue(&self, prepared: &Prepared, values: &[ValueRef<'_>]) -> SqlResult<()> {
        let Some(of_many) = self.of_many(prepared)? else {
            return self.execute(prepared, values).map(drop);
        };
        let is_full = self.gathered.borrow_mut().add(of_many, values);
        // Waited for, so that a long batch has no more than this on its way.
        if is_full {
            return self.flush();
        }
        Ok(())
    }

    fn of_many<'p>(&self, prepared: &'p Prepared) -> SqlResult<Option<&'p Arc<Statement>>> {
        if let Some(known) = prepared.of_many.get() {
            return Ok(known.as_ref());
        }
        let of_many = match dialect::of_many(&prepared.text, prepared.statement.params()) {
            Some(text) => Some(Arc::new(self.answer(self.client.prepare(&text))?)),
            None => None,
        };
        Ok(prepared.of_many.get_or_init(|| of_many).as_ref())
    }

    fn send_gathered(&self) {
        for (statement, columns) in self.gathered.take().statements {
            let client = self.client.clone();
            self.send(Box::pin(async move {
                client.execute_raw(&*statement, columns.iter()).await
            }));
        }
    }

    /// Puts a statement behind those that are on their way: it is written down when it is looked at first.
    fn send(&self, mut statement: Sent) {
        let statement = match (&mut statement).now_or_never() {
            // A future that has ended must not be looked at again.
            Some(answer) => Box::pin(std::future::ready(answer)),
            None => statement,
        };
        self.sent.borrow_mut().push(statement);
    }

    pub(crate) fn flush(&self) -> SqlResult<()> {
        self.send_gathered();
        let sent = self.sent.take();
        if sent.is_empty() {
            return Ok(());
        }
        all_well(self.wait(join_all(sent))?)
    }

    pub(crate) fn batch(&self, sql: &str) -> SqlResult<()> {
        self.answer(self.client.batch_execute(sql))
    }

    /// Begins a transaction together with its first statement.
    pub(crate) fn begin(&self) -> SqlResult<()> {
        if self.client.is_closed() {
            return Err(SqlError::Unreachable("the connection is gone".to_owned()));
        }
        self.forget();
        let client = self.client.clone();
        self.send(Box::pin(async move {
            client.batch_execute("begin").await.map(|()| 0)
        }));
        Ok(())
    }

    /// What an earlier transaction left is none of the next one's.
    pub(crate) fn forget(&self) {
        self.gathered.take();
        self.sent.take();
    }

    pub(crate) fn roll_back(&self) {
        self.forget();
        // Where that fails the connection is gone, and its transaction with it.
        drop(self.wait(self.client.batch_execute("rollback")));
    }
}

fn all_well(answers: Vec<Result<u64, tokio_postgres::Error>>) -> SqlResult<()> {
    for answer in answers {
        answer?;
    }
    Ok(())
}
