//! A consistent copy of a database that may be in use.

use std::path::Path;
use std::time::Duration;

use crate::{OpenError, open};

/// Copies the database of `directory` to `target`, consistently, while a server may be writing to
/// it. `progress` gets the pages left and the pages in all.
///
/// # Errors
/// When there is no database, the target exists, or it cannot be written.
pub fn backup(
    directory: &Path,
    target: &Path,
    progress: impl Fn(i32, i32),
) -> Result<(), OpenError> {
    const PAGES_PER_STEP: i32 = 1_024;
    const BUSY_PAUSE: Duration = Duration::from_millis(10);
    let file = directory.join(open::FILE);
    let wrap = |source| OpenError::from_sqlite(&file, source);
    if target.exists() {
        let source = std::io::Error::new(
            std::io::ErrorKind::AlreadyExists,
            "the file exists already; choose another name",
        );
        return Err(OpenError::Io {
            path: target.to_owned(),
            source,
        });
    }
    open::must_exist(&file)?;
    let connection = open::open_reader(&file).map_err(wrap)?;
    open::make_private(target).map_err(|source| OpenError::Io {
        path: target.to_owned(),
        source,
    })?;
    // One read transaction for the whole copy: what commits meanwhile stays in the log.
    connection.execute_batch("begin").map_err(wrap)?;
    connection
        .query_row("select count(*) from meta", [], |_| Ok(()))
        .map_err(wrap)?;
    let mut copy = rusqlite::Connection::open(target).map_err(wrap)?;
    let backup = rusqlite::backup::Backup::new(&connection, &mut copy).map_err(wrap)?;
    loop {
        let step = backup.step(PAGES_PER_STEP).map_err(wrap)?;
        let state = backup.progress();
        progress(state.remaining, state.pagecount);
        match step {
            rusqlite::backup::StepResult::Done => return Ok(()),
            rusqlite::backup::StepResult::Busy | rusqlite::backup::StepResult::Locked => {
                std::thread::park_timeout(BUSY_PAUSE)
            }
            _ => {}
        }
    }
}
