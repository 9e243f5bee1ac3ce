//! The writer thread: the only place that writes.

use std::sync::Arc;
use std::time::Duration;

use postrider_core::id::IdGenerator;
use postrider_core::{Id, Timestamp, id};
use postrider_store::{Entity, StoreError, Write, Written};
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use crate::convert::{aborted, commit_failed, note_ahead};
use crate::fanout::Fanout;
use crate::open::DataDirectory;

/// Jobs that wait for the thread: one under way, one behind it; the journal gathers meanwhile.
const QUEUE: usize = 2;

type Job = Box<dyn FnOnce(&mut Tx) + Send>;

#[derive(Debug)]
pub(crate) struct Writer {
    /// None only while it is dropped.
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for Writer {
    /// Waits for what is under way: after it, the directory is free for the next owner.
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// What a transaction works with.
pub(crate) struct Tx {
    pub(crate) connection: Connection,
    pub(crate) ids: Arc<IdGenerator>,
    pub(crate) salt: u64,
    pub(crate) fanout: Fanout,
    pub(crate) last_sequence: i64,
    noted_ahead: Duration,
    /// Owned until the last write is done.
    _directory: DataDirectory,
}

impl Writer {
    pub(crate) fn start(
        directory: DataDirectory,
        connection: Connection,
        ids: Arc<IdGenerator>,
        salt: u64,
        last_sequence: i64,
    ) -> Self {
        let (jobs, mut queue) = mpsc::channel::<Job>(QUEUE);
        let mut tx = Tx {
            connection,
            ids,
            salt,
            fanout: Fanout::default(),
            last_sequence,
            noted_ahead: Duration::ZERO,
            _directory: directory,
        };
        let thread = std::thread::Builder::new()
            .name("postrider-writer".to_owned())
            .spawn(move || {
                while let Some(job) = queue.blocking_recv() {
                    job(&mut tx);
                }
            })
            .expect("a process that cannot start one thread cannot run");
        Self {
            jobs: Some(jobs),
            thread: Some(thread),
        }
    }

    async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Tx) -> T + Send + 'static,
    ) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |tx| drop(answer.send(job(tx))));
        self.jobs.as_ref()?.send(job).await.ok()?;
        answered.await.ok()
    }

    /// One transaction for a batch.
    pub(crate) async fn commit(
        &self,
        now: Timestamp,
        batch: Vec<Write>,
    ) -> Vec<Result<Written, StoreError>> {
        let count = batch.len();
        let answers = self.run(move |tx| tx.commit_batch(now, batch)).await;
        answers.unwrap_or_else(|| (0..count).map(|_| Err(gone())).collect())
    }

    /// One transaction for one change.
    pub(crate) async fn call<T: Send + 'static>(
        &self,
        change: impl FnOnce(&mut Tx) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.run(move |tx| tx.in_transaction(change))
            .await
            .unwrap_or_else(|| Err(gone()))
    }
}

/// The thread ended, which only a panic in it can do.
fn gone() -> StoreError {
    StoreError::OutcomeUnknown {
        source: "the writer thread has stopped; restart the server".into(),
    }
}

impl Tx {
    fn in_transaction<T>(
        &mut self,
        change: impl FnOnce(&mut Self) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.connection
            .execute_batch("begin immediate")
            .map_err(aborted)?;
        let changed = change(self).and_then(|value| self.note_ahead().map(|()| value));
        match changed {
            Ok(value) => match self.connection.execute_batch("commit") {
                Ok(()) => Ok(value),
                Err(error) => {
                    self.roll_back();
                    Err(commit_failed(error))
                }
            },
            Err(error) => {
                self.roll_back();
                Err(error)
            }
        }
    }

    fn commit_batch(
        &mut self,
        now: Timestamp,
        batch: Vec<Write>,
    ) -> Vec<Result<Written, StoreError>> {
        let count = batch.len();
        let committed = self.in_transaction(|tx| {
            let mut answers = Vec::with_capacity(count);
            for write in batch {
                answers.push(match tx.write(now, write) {
                    // What the caller did wrong was found before anything was written.
                    Err(error @ (StoreError::NotFound { .. } | StoreError::Conflict { .. })) => {
                        Err(error)
                    }
                    Err(error) => return Err(error),
                    Ok(written) => Ok(written),
                });
            }
            Ok(answers)
        });
        committed.unwrap_or_else(|error| (0..count).map(|_| Err(same(&error))).collect())
    }

    /// Keeps how far ids have been ahead of the clock: lists by time have to know.
    fn note_ahead(&mut self) -> Result<(), StoreError> {
        let ahead = self.ids.ahead();
        if ahead > self.noted_ahead {
            note_ahead(&self.connection, ahead).map_err(aborted)?;
            self.noted_ahead = ahead;
        }
        Ok(())
    }

    fn roll_back(&mut self) {
        // SQLite has rolled back by itself after some errors; then there is nothing to do.
        drop(self.connection.execute_batch("rollback"));
        // What the cache learned inside the transaction did not happen.
        self.fanout.clear();
        self.noted_ahead = Duration::ZERO;
    }

    /// The key of an id of this installation.
    pub(crate) fn key<K>(&self, id: Id<K>, entity: Entity) -> Result<i64, StoreError> {
        id.key_in(self.salt).ok_or(StoreError::not_found(entity))
    }

    pub(crate) fn id<K: id::Kind>(&self, key: i64) -> Id<K> {
        Id::from_key(key, self.salt)
    }
}

/// The same failure for every write of a batch.
fn same(error: &StoreError) -> StoreError {
    match error {
        StoreError::Full => StoreError::Full,
        StoreError::OutcomeUnknown { source } => StoreError::OutcomeUnknown {
            source: source.to_string().into(),
        },
        other => {
            let text = std::error::Error::source(other)
                .map_or_else(|| other.to_string(), ToString::to_string);
            StoreError::aborted(text)
        }
    }
}
