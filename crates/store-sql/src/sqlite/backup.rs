//! A consistent copy of a database that may be in use.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::open;
use crate::OpenError;

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
    // Before SQLite makes it, which would let others read it.
    open::make_private(target).map_err(|source| OpenError::Io {
        path: target.to_owned(),
        source,
    })?;
    // One read transaction for the whole copy: what commits meanwhile stays in the log.
    connection.execute_batch("begin").map_err(wrap)?;
    connection
        // A transaction has its moment with the first row that it reads.
        .query_row("select count(*) from meta", [], |_| Ok(()))
        .map_err(wrap)?;
    let mut copy = rusqlite::Connection::open(target).map_err(wrap)?;
    let backup = rusqlite::backup::Backup::new(&connection, &mut copy).map_err(wrap)?;
    loop {
        let step = backup.step(PAGES_PER_STEP).map_err(wrap)?;
        let state = backup.progress();
        progress(state.remaining, state.pagecount);
        match step {
            rusqlite::backup::StepResult::Done => break,
            rusqlite::backup::StepResult::Busy | rusqlite::backup::StepResult::Locked => {
                std::thread::park_timeout(BUSY_PAUSE)
            }
            _ => {}
        }
    }
    drop(backup);
    // It needs no log: one that lies beside it later is another database's.
    copy.execute_batch("pragma journal_mode = delete")
        .map_err(wrap)?;
    open::set_mark(&copy, open::Mark::Copy)
        .map(drop)
        .map_err(wrap)
}

/// Puts a copy that [`backup`] made into `directory` as its database. One that is there is kept under
/// another name, whose path is returned.
///
/// # Errors
/// When a server uses the directory, or the copy is not a database of ours.
pub fn restore(copy: &Path, directory: &Path) -> Result<Option<PathBuf>, OpenError> {
    let owned = open::DataDirectory::claim_for_restore(directory)?;
    open::must_be_ours(copy)?;
    let io = |source| OpenError::Io {
        path: directory.to_owned(),
        source,
    };
    let file = directory.join(open::FILE);
    // Whole or not at all, though the machine stops meanwhile: what is there moves aside when the copy is on the disk.
    let fresh = directory.join(format!("{}.restoring", open::FILE));
    drop(std::fs::remove_file(&fresh));
    // Not `fs::copy`, which copies the mode too: a backup may be kept as nobody may write it, or anybody may read it.
    let mut written = open::make_new(&fresh).map_err(io)?;
    std::fs::File::open(copy)
        .and_then(|mut copy| std::io::copy(&mut copy, &mut written))
        .and_then(|_| written.sync_all())
        .map_err(io)?;
    for made in [&written, owned.lock()] {
        open::hand_over(directory, made).map_err(io)?;
    }
    let aside = (1..)
        .map(|number| directory.join(format!("{}.before-restore-{number}", open::FILE)))
        .find(|path| !path.exists());
    let had_one = std::fs::metadata(&file).is_ok_and(|found| found.len() > 0);
    let aside = aside.filter(|_| had_one);
    for suffix in ["-wal", "-shm"] {
        let companion = PathBuf::from(format!("{}{suffix}", file.display()));
        match &aside {
            Some(aside) if companion.exists() => {
                let kept = PathBuf::from(format!("{}{suffix}", aside.display()));
                std::fs::rename(&companion, kept).map_err(io)?;
            }
            _ => drop(std::fs::remove_file(&companion)),
        }
    }
    if let Some(aside) = &aside {
        std::fs::rename(&file, aside).map_err(io)?;
    }
    std::fs::rename(&fresh, &file).map_err(io)?;
    drop(owned);
    Ok(aside)
}
