//! Opening a data directory: the lock, the connection settings, the migrations.

use std::fs::File;
use std::path::{Path, PathBuf};

use fs4::fs_std::FileExt;
use rusqlite::{Connection, OpenFlags};

use crate::OpenError;

pub(crate) const FILE: &str = "postrider.db";
const LOCK: &str = "postrider.lock";
/// Marks our files: "PRDR".
const APPLICATION_ID: i32 = 0x5052_4452;
const PAGE_SIZE: u32 = 8_192;
/// KiB of pages the writer keeps in memory, at most.
const WRITER_CACHE_KIB: i32 = 64 * 1_024;
const READER_CACHE_KIB: i32 = 4 * 1_024;
/// Pages in the write-ahead log before it is copied into the database.
const CHECKPOINT_PAGES: u32 = 4_000;
const BUSY_TIMEOUT_MS: u32 = 5_000;

/// Numbered, forward only. `user_version` is the number of the last one applied.
const MIGRATIONS: &[&str] = &[include_str!("../migrations/0001_initial.sql")];

/// A directory that this process owns until it is dropped.
#[derive(Debug)]
pub(crate) struct DataDirectory {
    pub(crate) file: PathBuf,
    _lock: File,
}

impl DataDirectory {
    pub(crate) fn claim(directory: &Path) -> Result<Self, OpenError> {
        let io = |source| OpenError::Io {
            path: directory.to_owned(),
            source,
        };
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true);
        // Customers' payloads are in there.
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(directory).map_err(io)?;
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(directory.join(LOCK))
            .map_err(io)?;
        match FileExt::try_lock_exclusive(&lock) {
            Ok(true) => Ok(Self {
                file: directory.join(FILE),
                _lock: lock,
            }),
            Ok(false) => Err(OpenError::InUse {
                path: directory.to_owned(),
            }),
            Err(source) => Err(io(source)),
        }
    }
}

/// Opens the writing connection, creating and migrating the database as needed.
pub(crate) fn open_writer(file: &Path, max_bytes: Option<u64>) -> Result<Connection, OpenError> {
    let wrap = |source| OpenError::from_sqlite(file, source);
    make_private(file).map_err(|source| OpenError::Io {
        path: file.to_owned(),
        source,
    })?;
    let mut connection = Connection::open(file).map_err(wrap)?;
    connection
        .pragma_update(None, "page_size", PAGE_SIZE)
        .map_err(wrap)?;
    check_file(&connection, file)?;
    connection
        .pragma_update(None, "journal_mode", "wal")
        .map_err(wrap)?;
    connection
        .pragma_update(None, "synchronous", "full")
        .map_err(wrap)?;
    connection
        .pragma_update(None, "cache_size", -WRITER_CACHE_KIB)
        .map_err(wrap)?;
    connection
        .pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)
        .map_err(wrap)?;
    connection
        .pragma_update(None, "temp_store", "memory")
        .map_err(wrap)?;
    connection
        .pragma_update(None, "busy_timeout", BUSY_TIMEOUT_MS)
        .map_err(wrap)?;
    if let Some(bytes) = max_bytes {
        connection
            .pragma_update(
                None,
                "max_page_count",
                i64::try_from(bytes.div_ceil(u64::from(PAGE_SIZE))).unwrap_or(i64::MAX),
            )
            .map_err(wrap)?;
    }
    connection.set_prepared_statement_cache_capacity(64);
    migrate(&mut connection).map_err(wrap)?;
    Ok(connection)
}

/// Makes the file for its owner only, if it is not there; SQLite gives its companions the same mode.
pub(crate) fn make_private(file: &Path) -> std::io::Result<()> {
    let mut options = File::options();
    options.create(true).truncate(false).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(file).map(drop)
}

pub(crate) fn open_reader(file: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(file, flags)?;
    connection.pragma_update(None, "cache_size", -READER_CACHE_KIB)?;
    connection.pragma_update(None, "busy_timeout", BUSY_TIMEOUT_MS)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

/// Refuses a file that is not ours, and one that a newer Postrider wrote.
fn check_file(connection: &Connection, file: &Path) -> Result<(), OpenError> {
    let wrap = |source| OpenError::from_sqlite(file, source);
    let number = |name: &str| {
        connection
            .pragma_query_value(None, name, |row| row.get::<_, i64>(0))
            .map_err(wrap)
    };
    let tables: i64 = connection
        .query_row("select count(*) from sqlite_master", [], |row| row.get(0))
        .map_err(wrap)?;
    if tables > 0 && number("application_id")? != i64::from(APPLICATION_ID) {
        return Err(OpenError::NotOurs {
            path: file.to_owned(),
        });
    }
    let version = number("user_version")?;
    if usize::try_from(version).is_ok_and(|version| version > MIGRATIONS.len()) {
        return Err(OpenError::Newer {
            path: file.to_owned(),
            found: version,
            known: MIGRATIONS.len(),
        });
    }
    Ok(())
}

fn migrate(connection: &mut Connection) -> rusqlite::Result<()> {
    let done: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    for (number, sql) in (1_i64..)
        .zip(MIGRATIONS)
        .filter(|(number, _)| *number > done)
    {
        let transaction = connection.transaction()?;
        transaction.execute_batch(sql)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", number)?;
        transaction.commit()?;
    }
    Ok(())
}

/// Refuses to make a database where the user means one that is there.
pub(crate) fn must_exist(file: &Path) -> Result<(), OpenError> {
    if file.exists() {
        return Ok(());
    }
    let source = std::io::Error::new(
        std::io::ErrorKind::NotFound,
        "there is no database; name the server's data directory with --data",
    );
    Err(OpenError::Io {
        path: file.to_owned(),
        source,
    })
}
