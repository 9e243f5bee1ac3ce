//! The store in SQL: SQLite in a directory of its own, or PostgreSQL, with one writer thread, and readers apart.
//!
//! All writes go through one thread that owns the writing connection. A batch of the journal is one
//! transaction, flushed to disk (`synchronous=FULL`) before it is answered. Readers see committed
//! data only and never wait for the writer.
//!
//! Each statement is written once, for both databases (`sql`); what only one of them has is in a module of its name.

mod catch_up;
mod commit;
mod content;
mod convert;
mod erase;
mod fanout;
mod forget;
mod held;
mod home;
mod keys;
mod line;
mod log;
mod manage;
mod metrics;
mod misread;
mod outbox;
mod outcomes;
mod pieces;
mod postgres;
mod read;
mod retention;
mod schema;
mod seam;
mod segments;
mod sessions;
mod shares;
mod sql;
mod sqlite;
mod transfer;
mod users;
mod write;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use postrider_core::id::IdGenerator;
use postrider_store::StoreError;

use held::Held;
use home::Home;
pub use metrics::Metrics;
pub use misread::{Examined, Finding};
pub use postgres::{Beat, Opens, Owner, PostgresOptions};
use read::{Readers, Source};
pub use retention::plan;
pub use schema::{Pending, pending};
pub use segments::Segments;
pub use sql::SqlError;
use sql::{Connection, SqlResult};
pub use sqlite::backup::{backup, restore};
pub use sqlite::doctor::{examine, opens};
use sqlite::open;
pub use sqlite::patrol::{Patrolled, Piece};
use tokio::sync::watch;
pub use transfer::{Progress, export, import};
use writer::{Begin, Tx, Writer};

/// Settings of the embedded store.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Bytes the database may grow to; beyond, writes are refused as on a full disk. None: the disk's.
    pub max_bytes: Option<u64>,
    /// A random number for a new store; a store that exists keeps its own.
    pub salt: u64,
    /// Makes a new store in a directory that has remains of an earlier one.
    pub new_store: bool,
    pub segments: Segments,
}

/// Why a data directory cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(
        "the data directory {path} is in use by another postrider process; stop that one, or choose another directory"
    )]
    InUse { path: PathBuf },
    #[error(
        "{path} is missing or empty, but {beside} is beside it: this was a store. Put the database back (postrider restore), name another directory, or say --new-store to begin anew"
    )]
    Missing { path: PathBuf, beside: String },
    #[error(
        "{path} is the log of another database than the one beside it, which would be damaged by it; move the log and the -shm file away, or use postrider restore, which does"
    )]
    ForeignLog { path: PathBuf },
    #[error("cannot use {path}")]
    Io {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(
        "{path} is not a Postrider database; choose another data directory, or move the file away"
    )]
    NotOurs { path: PathBuf },
    #[error(
        "{path} is damaged or not a database; restore it from a backup (postrider backup makes them)"
    )]
    Damaged { path: PathBuf },
    #[error(
        "{path} was written by a newer Postrider (schema {found}, this one knows {known}); run that version"
    )]
    Newer {
        path: PathBuf,
        found: i64,
        known: usize,
    },
    #[error("{path} cannot be read; `postrider doctor` tells what of it")]
    Unreadable {
        path: PathBuf,
        #[source]
        source: Box<StoreError>,
    },
    #[error("cannot open {path}")]
    Sqlite {
        path: PathBuf,
        #[source]
        source: SqlError,
    },
    #[error(
        "{name} has a part of a store only; let postrider import or export come to its end, or begin with an empty one"
    )]
    Unfinished { name: String },
    #[error(
        "a server ran on what {name} was being filled from, and changed what was copied already; begin anew with an empty one"
    )]
    Changed { name: String },
    #[error("{name} has a store already; name an empty database or directory")]
    NotEmpty { name: String },
    #[error(
        "{table} in {name} has {found} rows, and should have {wanted}: somebody wrote meanwhile; begin anew with an empty one"
    )]
    Incomplete {
        name: String,
        table: String,
        found: u64,
        wanted: u64,
    },
    #[error("store.url: {what}")]
    Url { what: String },
    #[error("the database {name} is in use by another postrider server; stop that one first")]
    Owned {
        name: String,
        /// Who that is, as far as it says so.
        owner: Owner,
    },
    #[error("cannot use the database {name}")]
    Database {
        name: String,
        #[source]
        source: SqlError,
    },
    #[error(
        "{name} waits for no standby, as store.require_sync_standby wants it: set synchronous_standby_names there"
    )]
    NoStandby { name: String },
    #[error(
        "the master key here is not that of the store in {name}; put the right one in its place, or name it in secrets.previous_key_files"
    )]
    Sealed { name: String },
    #[error("the database {name} cannot be read")]
    UnreadableDatabase {
        name: String,
        #[source]
        source: Box<StoreError>,
    },
    #[error(
        "the database {name} was written by a newer Postrider (schema {found}, this one knows {known}); run that version"
    )]
    NewerDatabase {
        name: String,
        found: i64,
        known: usize,
    },
}

/// Whether a store is being moved into it.
fn is_being_filled(connection: &Connection) -> SqlResult<bool> {
    let mut statement = connection.prepare_cached("select 1 from meta where key = 'filling'")?;
    statement.exists(())
}

impl OpenError {
    /// Somebody uses what has to be changed, and ends by itself: it may be tried again.
    pub fn is_busy(&self) -> bool {
        matches!(self, Self::Database { source, .. } if source.failure() == sql::Failure::Busy)
    }

    fn from_sqlite(path: &Path, source: impl Into<SqlError>) -> Self {
        use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
        let (path, source) = (path.to_owned(), source.into());
        let code = match &source {
            SqlError::Sqlite(error) => error.sqlite_error_code(),
            _ => None,
        };
        match code {
            Some(NotADatabase | DatabaseCorrupt) => Self::Damaged { path },
            _ => Self::Sqlite { path, source },
        }
    }
}

impl Drop for SqlStore {
    fn drop(&mut self) {
        let patience = self.held.as_ref().map(Held::patience);
        self.writer.end();
        drop(patience);
        // A reader that waits for an answer would keep the process: nobody is left to hear it.
        if let Some(held) = &self.held {
            held.source.give_up();
        }
    }
}

/// A store in a directory of its own, or in a database of a server.
#[derive(Debug)]
pub struct SqlStore {
    ids: Arc<IdGenerator>,
    /// None where nobody else can own it.
    held: Option<Held>,
    /// Changes when it is there again; none where it cannot be away.
    returns: Option<watch::Receiver<()>>,
    writer: Writer,
    metrics: Arc<Metrics>,
    /// For what is found by its key, and for the engine.
    points: Readers,
    /// For lists, which look at many rows.
    lists: Readers,
    /// For what nobody waits for: mail, replays, what is to be forgotten. Whoever lists much does not keep it waiting.
    chores: Readers,
    /// For what counts, and may look at all rows of a tenant.
    counts: Readers,
}

/// Connections for each kind of reading.
const POINT_CONNECTIONS: usize = 4;
const LIST_CONNECTIONS: usize = 4;
const COUNT_CONNECTIONS: usize = 2;
const CHORE_CONNECTIONS: usize = 1;
/// Between two looks whether the database is ours.
// A fraction of the 15 s after which a server that waits takes the owner to stand still.
const OWNERSHIP_PAUSE: Duration = Duration::from_secs(1);
/// How long a list or a count may take; beyond, it is broken off with `TooLong`.
const READ_TIME_MAX: Duration = Duration::from_secs(10);

impl SqlStore {
    /// What it measures of itself.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Looks at the next few rows of all that is stored; see [`Patrolled`].
    ///
    /// # Errors
    /// When the store cannot be read at all.
    pub async fn patrol(&self, from: Patrolled) -> Result<Piece, StoreError> {
        self.counts.read(move |reader| reader.patrol(&from)).await
    }

    /// Opens the store in `directory`, which must be there.
    ///
    /// # Errors
    /// As [`SqlStore::open`], and when there is no database.
    pub fn open_existing(directory: &Path, options: &Options) -> Result<Self, OpenError> {
        open::must_exist(&directory.join(open::FILE))?;
        Self::open(directory, options)
    }

    /// Finds all deliveries and events of a stopped server anew: for when [`examine`] says that a segment is wrong.
    ///
    /// # Errors
    /// As [`SqlStore::open_existing`].
    pub fn rebuild(directory: &Path) -> Result<(), OpenError> {
        let file = directory.join(open::FILE);
        open::must_exist(&file)?;
        {
            // Let go of before the store is opened below: the lock is this handle's, whoever has it.
            let _owned = open::DataDirectory::claim(directory, false)?;
            let connection = open::open_writer(&file, None)?;
            segments::clear(&connection)
                .and_then(|()| open::set_mark(&connection, open::Mark::Closed))
                .map_err(|source| OpenError::from_sqlite(&file, source))?;
        }
        Self::open(directory, &Options::default()).map(drop)
    }

    /// Opens the store in `directory`, which is created if it is missing and owned until drop.
    ///
    /// # Errors
    /// When another process owns it, the file is not ours, damaged, or of a newer version.
    pub fn open(directory: &Path, options: &Options) -> Result<Self, OpenError> {
        let directory = open::DataDirectory::claim(directory, options.new_store)?;
        let file = directory.file.clone();
        let connection = Connection::Sqlite(open::open_writer(&file, options.max_bytes)?);
        let home = Home::Directory {
            directory,
            max_bytes: options.max_bytes,
        };
        let is_part = is_being_filled(&connection);
        // A server on a part would deny what is not copied yet, and not send what waits in it.
        if is_part.map_err(|error| OpenError::from_sqlite(&file, error))? {
            return Err(OpenError::Unfinished {
                name: file.display().to_string(),
            });
        }
        let source = Source::File(file.clone());
        Self::start(home, connection, &source, options.salt, options.segments)
            .map_err(|error| OpenError::from_sqlite(&file, error))
    }

    /// Connects to a database, makes what it lacks, and owns it until drop.
    ///
    /// # Errors
    /// `Owned` while another server has it; when it cannot be reached or used; when a newer version has written it.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub async fn connect(options: PostgresOptions) -> Result<Self, OpenError> {
        let connect = move || {
            let owned = postgres::own(&options)?;
            let is_part = is_being_filled(&owned.connection);
            if is_part.map_err(|source| OpenError::Database {
                name: owned.name.clone(),
                source,
            })? {
                return Err(OpenError::Unfinished { name: owned.name });
            }
            if options.serves {
                // It is in use again, whatever was made of it meanwhile.
                let used = postgres::take_again(&owned.connection);
                used.map_err(|source| OpenError::Database {
                    name: owned.name.clone(),
                    source,
                })?;
            }
            let held = Held {
                source: owned.source.clone(),
                epoch: owned.epoch,
                lost: owned.lost,
            };
            let (home, source) = (Home::Server(owned.ownership), Source::Server(owned.source));
            let (salt, segments) = (options.salt, options.segments);
            let started = Self::start(home, owned.connection, &source, salt, segments);
            let mut store = started.map_err(|source| OpenError::Database {
                name: owned.name,
                source,
            })?;
            store.held = Some(held);
            store.returns = Some(owned.returns);
            Ok(store)
        };
        let connected = tokio::task::spawn_blocking(connect).await;
        connected.unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic()))
    }

    /// Who owns a database.
    ///
    /// # Errors
    /// When it cannot be reached.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub async fn owner(options: PostgresOptions) -> Result<Owner, OpenError> {
        postgres::owner(&options).await
    }

    /// Looks whether a server could open a database: that it is reached, will do, and has secrets that open.
    ///
    /// # Errors
    /// What a server would say.
    ///
    /// # Panics
    /// As [`SqlStore::owner`].
    pub async fn examine_database(options: PostgresOptions) -> Result<Owner, OpenError> {
        let look = tokio::task::spawn_blocking(move || postgres::examine(&options));
        let looked = look.await;
        looked.unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic()))
    }

    /// Reads all rows of a database, which a server may be using, and tells of those that do not read.
    ///
    /// # Errors
    /// When it cannot be reached or read.
    ///
    /// # Panics
    /// As [`SqlStore::owner`].
    pub async fn examine_rows(options: PostgresOptions) -> Result<Examined, OpenError> {
        let look = tokio::task::spawn_blocking(move || postgres::misread(&options));
        let looked = look.await;
        looked.unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic()))
    }

    /// Ends the connection of an owner that has given no other sign of life than this one for long. False when it was not
    /// idle, or has given another one meanwhile.
    ///
    /// # Errors
    /// As [`SqlStore::owner`].
    ///
    /// # Panics
    /// As [`SqlStore::owner`].
    pub async fn end_owner(options: PostgresOptions, beat: Beat) -> Result<bool, OpenError> {
        postgres::end_owner(&options, beat).await
    }

    /// Waits until another server owns the database, where that can be, or nothing can be written any more: then this one
    /// must stop.
    ///
    /// Says every second that it lives, so that a server that writes nothing hears of it too, is back as soon as its
    /// database, and is known to stand still when it does.
    /// Each time that it is the owner's still, `owned` hears what `now` said before that was asked.
    pub async fn lost<T>(&self, now: impl Fn() -> T, owned: impl Fn(T)) {
        let Some(held) = &self.held else {
            self.writer.ended().await;
            tracing::error!("the thread that writes has ended");
            return;
        };
        while !held.is_lost() {
            let asked = now();
            let beat = held.answered(self.writer.run(Tx::beat)).await;
            if self.writer.has_ended() {
                tracing::error!("the thread that writes has ended");
                return;
            }
            // What is wrong is told by whoever needs it.
            if let Some(Ok(())) = beat
                && !held.is_lost()
            {
                owned(asked);
            }
            tokio::time::sleep(OWNERSHIP_PAUSE).await;
        }
    }

    /// Calls `back` each time that the database is there again: it may be one that lacks what was recorded last. Never ends.
    pub async fn on_return<F: Future<Output = ()>>(&self, back: impl Fn() -> F) {
        let Some(mut returns) = self.returns.clone() else {
            return std::future::pending().await;
        };
        while returns.changed().await.is_ok() {
            back().await;
        }
        std::future::pending().await
    }

    fn start(
        home: Home,
        connection: Connection,
        source: &Source,
        salt: u64,
        segments: Segments,
    ) -> SqlResult<Self> {
        let metrics = Arc::new(Metrics::default());
        let begin = Begin::of(&connection, salt, segments, metrics.clone())?;
        let ids = begin.ids.clone();
        let writer = Writer::start(home, connection, begin)?;
        let readers = |connections, time_max| {
            Readers::new(source.clone(), ids.clone(), connections, time_max)
        };
        let (points, lists, counts, chores) = (
            // The engine's reads are among them: one that is broken off would only be asked again.
            readers(POINT_CONNECTIONS, None),
            readers(LIST_CONNECTIONS, Some(READ_TIME_MAX)),
            readers(COUNT_CONNECTIONS, Some(READ_TIME_MAX)),
            readers(CHORE_CONNECTIONS, Some(READ_TIME_MAX)),
        );
        Ok(Self {
            ids,
            held: None,
            returns: None,
            writer,
            metrics,
            points,
            lists,
            counts,
            chores,
        })
    }
}
