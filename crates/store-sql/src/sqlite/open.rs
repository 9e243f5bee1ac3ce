//! Opening a data directory: the lock, the connection settings, the migrations.

use std::fs::{File, TryLockError};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use crate::OpenError;

pub(crate) const FILE: &str = "postrider.db";
const LOCK: &str = "postrider.lock";
/// The server keeps its master key here, unless it is told another place.
const MASTER_KEY: &str = "master.key";
/// Marks our files: "PRDR".
const APPLICATION_ID: i32 = 0x5052_4452;
pub(crate) const PAGE_SIZE: u32 = 8_192;
/// KiB of pages the writer keeps in memory, at most.
const WRITER_CACHE_KIB: i32 = 64 * 1_024;
const READER_CACHE_KIB: i32 = 4 * 1_024;
pub(crate) const BUSY_TIMEOUT_MS: u32 = 5_000;

/// Numbered, forward only. `user_version` is the number of the last one applied.
pub(crate) const MIGRATIONS: &[&str] = &[
    include_str!("../../migrations/sqlite/0001_initial.sql"),
    include_str!("../../migrations/sqlite/0002_deletions.sql"),
    include_str!("../../migrations/sqlite/0003_addressees.sql"),
    include_str!("../../migrations/sqlite/0004_sessions.sql"),
    include_str!("../../migrations/sqlite/0005_segments.sql"),
    include_str!("../../migrations/sqlite/0006_content_filters.sql"),
    include_str!("../../migrations/sqlite/0007_outbox.sql"),
    include_str!("../../migrations/sqlite/0008_read_only_keys.sql"),
    include_str!("../../migrations/sqlite/0009_external_ids.sql"),
    include_str!("../../migrations/sqlite/0010_key_rotation.sql"),
    include_str!("../../migrations/sqlite/0011_users.sql"),
    include_str!("../../migrations/sqlite/0012_nodes.sql"),
    include_str!("../../migrations/sqlite/0013_failing.sql"),
    include_str!("../../migrations/sqlite/0014_outcomes.sql"),
    include_str!("../../migrations/sqlite/0015_deleted_endpoints.sql"),
];

/// How SQLite would go about a statement.
#[cfg(test)]
pub(crate) fn plan<P: crate::sql::Params>(sql: &str, values: P) -> crate::sql::SqlResult<String> {
    // A number of the step, its parent, one that is not used, and the text.
    const DETAIL: usize = 3;
    let connection = crate::sql::Connection::Sqlite(Connection::open_in_memory()?);
    for migration in MIGRATIONS {
        connection.execute_batch(migration)?;
    }
    let mut statement = connection.prepare_cached(&format!("explain query plan {sql}"))?;
    let plan = statement.query_all(values, |row| row.get::<String>(DETAIL))?;
    Ok(plan.join("\n"))
}

/// A directory that this process owns until it is dropped.
#[derive(Debug)]
pub(crate) struct DataDirectory {
    pub(crate) file: PathBuf,
    /// The database itself is locked: whoever deletes the lock file lets nobody else in. The file beside it
    /// keeps out versions that know only that.
    // Kept open: when a process closes a file, POSIX lets go of all its locks on it, SQLite's too.
    database: File,
    lock: File,
}

impl DataDirectory {
    /// Takes a directory, and makes the database's file in it if that is new and `may_create`.
    pub(crate) fn claim(directory: &Path, may_create: bool) -> Result<Self, OpenError> {
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
        let file = directory.join(FILE);
        let is_there = std::fs::metadata(&file).is_ok_and(|found| found.len() > 0);
        if !is_there
            && !may_create
            && let Some(left) = remains(directory)
        {
            return Err(OpenError::Missing {
                path: file,
                beside: left,
            });
        }
        let owned = Self::take(directory)?;
        // With the lock: a mark says something only when nobody else has it open.
        must_belong(&owned.file)?;
        Ok(owned)
    }

    fn take(directory: &Path) -> Result<Self, OpenError> {
        // The file, and not the directory: it may be there and belong to somebody else.
        let of = |path: PathBuf| move |source| OpenError::Io { path, source };
        let io = of(directory.to_owned());
        let file = directory.join(FILE);
        let lock = directory.join(LOCK);
        let mut options = File::options();
        options.create(true).truncate(false).write(true);
        // A link there would lead somewhere else, with the rights of whoever starts this.
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::custom_flags(
            &mut options,
            rustix::fs::OFlags::NOFOLLOW.bits().cast_signed(),
        );
        let lock = options.open(&lock).map_err(of(lock))?;
        let database = make_private(&file).map_err(of(file.clone()))?;
        for locked in [&lock, &database] {
            match locked.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    return Err(OpenError::InUse {
                        path: directory.to_owned(),
                    });
                }
                Err(TryLockError::Error(source)) => return Err(io(source)),
            }
        }
        Ok(Self {
            file,
            database,
            lock,
        })
    }

    /// Takes a directory whose database is about to be replaced, in whatever state it is.
    pub(crate) fn claim_for_restore(directory: &Path) -> Result<Self, OpenError> {
        Self::take(directory)
    }

    /// Gives what is in the directory to whom that belongs, where root has made it.
    pub(crate) fn hand_over(&self, directory: &Path) -> Result<(), OpenError> {
        let io = |source| OpenError::Io {
            path: directory.to_owned(),
            source,
        };
        // The lock was opened without following a link; of the database it is seen now that its name is no link to
        // somebody else's file.
        let of_name = std::fs::symlink_metadata(&self.file).map_err(io)?;
        for made in [&self.database, &self.lock] {
            if of_name.is_file() && self.is_in_place() {
                hand_over(directory, made).map_err(io)?;
            }
        }
        Ok(())
    }

    /// The file beside the database.
    pub(crate) fn lock(&self) -> &File {
        &self.lock
    }

    /// Whether the path still leads to the file that is open here.
    pub(crate) fn is_in_place(&self) -> bool {
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt as _;
            let same = |path: std::fs::Metadata, open: std::fs::Metadata| {
                (path.dev(), path.ino()) == (open.dev(), open.ino())
            };
            match (std::fs::metadata(&self.file), self.database.metadata()) {
                (Ok(path), Ok(open)) => same(path, open),
                _ => false,
            }
        }
        #[cfg(not(unix))]
        {
            self.file.exists() && self.database.metadata().is_ok()
        }
    }

    /// Bytes that the disk has for us.
    pub(crate) fn free_bytes(&self) -> Option<u64> {
        #[cfg(unix)]
        {
            let disk = rustix::fs::fstatvfs(&self.database).ok()?;
            // Not f_bfree, of which a part is root's.
            Some(disk.f_bavail.saturating_mul(disk.f_frsize))
        }
        #[cfg(not(unix))]
        None
    }
}

/// What of an earlier store is in a directory that has no database.
fn remains(directory: &Path) -> Option<String> {
    [MASTER_KEY, &companion("-wal"), &companion("-shm")]
        .into_iter()
        .find(|name| directory.join(name).exists())
        .map(str::to_owned)
}

fn companion(suffix: &str) -> String {
    format!("{FILE}{suffix}")
}

/// What a database says of itself in its own file, whatever is in its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i64)]
pub(crate) enum Mark {
    /// A process has it open, or died with it.
    Open = 0,
    /// It was closed, and has no log that matters.
    Closed = 1,
    /// `backup` made it, and nobody has opened it since.
    Copy = 2,
}

/// Refuses a copy beside the log of the database that was there before: SQLite would apply it. Tells
/// when the log is gone that an unclean end has left.
fn must_belong(file: &Path) -> Result<(), OpenError> {
    let log = PathBuf::from(format!("{}-wal", file.display()));
    let has_log = std::fs::metadata(&log).is_ok_and(|log| log.len() > 0);
    let mark = own_mark(file);
    if mark == Some(Mark::Copy as i64) && has_log {
        return Err(OpenError::ForeignLog { path: log });
    }
    if mark == Some(Mark::Open as i64) && !is_log(&log) {
        tracing::error!(
            path = %log.display(),
            "the last run did not end cleanly, and its write-ahead log is gone or does not read: what was accepted shortly before may be lost. Compare with what the product has published"
        );
    }
    Ok(())
}

/// Whether a file begins as SQLite's logs do: it passes over what does not, without a word.
fn is_log(log: &Path) -> bool {
    /// In big-endian order; the last bit says the order of the checksums (SQLite's file format, 4.1).
    const MAGIC: u32 = 0x377f_0682;
    let mut begin = [0; 4];
    let read = File::open(log).and_then(|mut log| log.read_exact(&mut begin));
    read.is_ok() && u32::from_be_bytes(begin) & !1 == MAGIC
}

/// The mark in the database's file itself. None when it is new, of an older version, or does not read.
fn own_mark(file: &Path) -> Option<i64> {
    let path = file
        .to_str()?
        .replace('%', "%25")
        .replace('?', "%3f")
        .replace('#', "%23");
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
    // So nothing of a log is applied, which may be another database's.
    let uri = format!("file:{path}?immutable=1");
    let connection = Connection::open_with_flags(uri, flags).ok()?;
    let sql = "select value from meta where key = 'mark'";
    connection.query_row(sql, [], |row| row.get(0)).ok()
}

/// Writes the mark, through the log into the file.
///
/// False when a reader was in the way: then it waits in the log with everything else.
pub(crate) fn set_mark(connection: &Connection, mark: Mark) -> rusqlite::Result<bool> {
    write_mark(connection, mark)?;
    let how = if mark == Mark::Closed {
        keep_log(connection, false)?;
        "truncate"
    } else {
        "full"
    };
    checkpoint(connection, how)
}

/// Writes the mark into the log.
pub(crate) fn write_mark(connection: &Connection, mark: Mark) -> rusqlite::Result<()> {
    let sql = "insert into meta (key, value) values ('mark', ?1) on conflict (key) do update set value = excluded.value";
    connection.execute(sql, [mark as i64]).map(drop)
}

/// Copies the log into the database. False when a reader was in the way.
pub(crate) fn checkpoint(connection: &Connection, how: &str) -> rusqlite::Result<bool> {
    connection.query_row(&format!("pragma wal_checkpoint({how})"), [], |row| {
        row.get::<_, i64>(0).map(|busy| busy == 0)
    })
}

/// Whether all that the log has is in the file, as far as readers let it be copied.
pub(crate) fn copies_all(connection: &Connection) -> rusqlite::Result<bool> {
    connection.query_row("pragma wal_checkpoint(passive)", [], |row| {
        let (logged, copied): (i64, i64) = (row.get(1)?, row.get(2)?);
        Ok(logged == copied)
    })
}

/// Whether the log stays when the last connection ends.
fn keep_log(connection: &Connection, stays: bool) -> rusqlite::Result<()> {
    let setting = DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE;
    connection.set_db_config(setting, stays).map(drop)
}

/// Opens the writing connection, creating and migrating the database as needed.
pub(crate) fn open_writer(file: &Path, max_bytes: Option<u64>) -> Result<Connection, OpenError> {
    let wrap = |source| OpenError::from_sqlite(file, source);
    let mut connection = Connection::open(file).map_err(wrap)?;
    // Whatever ends it before it is closed leaves the log, as a kill does: without one the next start would miss it.
    keep_log(&connection, true).map_err(wrap)?;
    connection
        // First of all: a file that has something in it keeps the size that it has.
        .pragma_update(None, "page_size", PAGE_SIZE)
        .map_err(wrap)?;
    // Before the journal's mode, which is written into the file: it may be somebody else's.
    check_file(&connection, file)?;
    connection
        .pragma_update(None, "journal_mode", "wal")
        .map_err(wrap)?;
    connection
        .pragma_update(None, "synchronous", "full")
        .map_err(wrap)?;
    connection
        // Below zero it counts KiB, above it pages.
        .pragma_update(None, "cache_size", -WRITER_CACHE_KIB)
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
    let was_copy = own_mark(file) == Some(Mark::Copy as i64);
    // Its log would look like another database's after a crash.
    if !set_mark(&connection, Mark::Open).map_err(wrap)? && was_copy {
        return Err(OpenError::InUse {
            path: file.to_owned(),
        });
    }
    Ok(connection)
}

/// Makes the file for its owner only, if it is not there; SQLite gives its companions the same mode.
pub(crate) fn make_private(file: &Path) -> std::io::Result<File> {
    let mut options = File::options();
    options.create(true).truncate(false).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(file)
}

/// The same of a file that must not be there, and is no link.
pub(crate) fn make_new(file: &Path) -> std::io::Result<File> {
    let mut options = File::options();
    options.create_new(true).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(file)
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
        // With the migration, so that it is made once, whenever the process ends.
        transaction.pragma_update(None, "user_version", number)?;
        transaction.commit()?;
    }
    Ok(())
}

/// Bytes that are in use, of the file's.
pub(crate) fn used_bytes(connection: &Connection) -> rusqlite::Result<u64> {
    let pages = pages(connection, "page_count")?;
    // Free pages are used again before the file grows.
    let bytes = pages.saturating_mul(PAGE_SIZE.into());
    Ok(bytes.saturating_sub(freed_bytes(connection)?))
}

/// Bytes of the file that nothing is in any more.
pub(crate) fn freed_bytes(connection: &Connection) -> rusqlite::Result<u64> {
    let pages = pages(connection, "freelist_count")?;
    Ok(pages.saturating_mul(PAGE_SIZE.into()))
}

fn pages(connection: &Connection, which: &str) -> rusqlite::Result<u64> {
    let value = connection.pragma_query_value(None, which, |row| row.get::<_, i64>(0));
    value.map(i64::unsigned_abs)
}

/// Refuses what is no database of ours, or of a newer version.
pub(crate) fn must_be_ours(file: &Path) -> Result<(), OpenError> {
    must_exist(file)?;
    let connection = open_reader(file).map_err(|source| OpenError::from_sqlite(file, source))?;
    check_file(&connection, file)?;
    let tables: i64 = connection
        .query_row("select count(*) from sqlite_master", [], |row| row.get(0))
        .map_err(|source| OpenError::from_sqlite(file, source))?;
    if tables == 0 {
        return Err(OpenError::NotOurs {
            path: file.to_owned(),
        });
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

/// Gives a file that root has made to whom its directory belongs: a service of less rights is to open it. By its handle,
/// never by its name, which somebody else may have made a link of. Who is not root can give nothing, and need not.
#[cfg(unix)]
pub(super) fn hand_over(directory: &Path, file: &File) -> std::io::Result<()> {
    use std::os::unix::fs::{MetadataExt as _, fchown};
    let (of, is) = (std::fs::metadata(directory)?, file.metadata()?);
    // One of several names may be somebody else's file.
    if (of.uid(), of.gid()) == (is.uid(), is.gid()) || is.nlink() > 1 {
        return Ok(());
    }
    match fchown(file, Some(of.uid()), Some(of.gid())) {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Ok(()),
        handed => handed,
    }
}

#[cfg(not(unix))]
pub(super) fn hand_over(_: &Path, _: &File) -> std::io::Result<()> {
    Ok(())
}
