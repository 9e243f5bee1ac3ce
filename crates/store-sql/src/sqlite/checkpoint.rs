//! Copying the log into the database beside the writer, which would stand still for it otherwise.
//!
//! A thread of its own copies what the log has when it begins; the writer goes on meanwhile. Then the writer copies the
//! little that came in the meantime, so that it may begin the log anew: only then can nobody have added to it.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::Connection;

use super::open::checkpoint;
use crate::metrics::{Metrics, timed};

/// Pages in the log from which on it is copied.
// With 1,000 the slowest commits are as slow, and there are more of them (docs/performance.md).
const COPY_PAGES: i32 = 4_000;
/// Pages from which on the writer copies them itself: the thread does not keep up, or is gone.
const FULL_PAGES: i32 = 16_000;

#[derive(Debug)]
pub(crate) struct Checkpointer {
    begin: Option<SyncSender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
    /// Pages in the log at the last commit.
    pages: Arc<AtomicI32>,
    /// The thread has copied what there was when it began.
    copied: Arc<AtomicBool>,
    /// Held while it copies.
    copying: Arc<Mutex<()>>,
}

fn not_copied(error: &rusqlite::Error) {
    tracing::warn!(
        error = error as &dyn std::error::Error,
        "the write-ahead log could not be copied into the database, and grows until it can; see whether the disk is full"
    );
}

impl Drop for Checkpointer {
    fn drop(&mut self) {
        drop(self.begin.take());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

impl Checkpointer {
    /// Watches the commits of the writer's connection, which copies nothing by itself from now on.
    pub(crate) fn start(
        file: &Path,
        writer: &mut Connection,
        metrics: Arc<Metrics>,
    ) -> rusqlite::Result<Self> {
        let connection = Connection::open(file)?;
        // What the thread copies is on the disk before the log is begun anew.
        connection.pragma_update(None, "synchronous", "full")?;
        let (pages, copied) = (
            Arc::new(AtomicI32::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        let copying = Arc::new(Mutex::new(()));
        let (begin, begun) = sync_channel::<()>(1);
        let thread = std::thread::Builder::new()
            .name("postrider-copier".to_owned())
            .spawn({
                let (copied, copying) = (copied.clone(), copying.clone());
                move || {
                    while begun.recv().is_ok() {
                        let _held = copying.lock();
                        match timed(&metrics.copies, || checkpoint(&connection, "passive")) {
                            Ok(_) => copied.store(true, Ordering::Release),
                            Err(error) => not_copied(&error),
                        }
                    }
                }
            })
            .expect("a process that cannot start one thread cannot run");
        let seen = pages.clone();
        // This takes the place of SQLite's own hook, by which the writer copied.
        writer.wal_hook(Some(move |_: &mut _, pages| {
            seen.store(pages, Ordering::Relaxed);
            Ok(())
        }))?;
        Ok(Self {
            begin: Some(begin),
            thread: Some(thread),
            pages,
            copied,
            copying,
        })
    }

    /// Waits for a copy that is under way; none begins while the guard is there.
    pub(crate) fn wait(&self) -> MutexGuard<'_, ()> {
        self.copying.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Between two commits of the writer.
    pub(crate) fn look(&self, writer: &Connection) {
        let pages = self.pages.load(Ordering::Relaxed);
        let is_copied = self.copied.swap(false, Ordering::Acquire);
        if is_copied || pages >= FULL_PAGES {
            // The next commit tells how many are left; until then nothing is begun.
            self.pages.store(0, Ordering::Relaxed);
            if let Err(error) = checkpoint(writer, "passive") {
                not_copied(&error);
            }
            return;
        }
        if pages >= COPY_PAGES
            && let Some(begin) = &self.begin
        {
            // A copy that is under way is enough; without the thread the log is copied when it is full.
            let _is_begun = begin.try_send(()).is_ok();
        }
    }
}
