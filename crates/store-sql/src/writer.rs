//! The writer thread: the only place that writes.

use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use postrider_core::id::IdGenerator;
use postrider_core::limits::TRANSACTION_ROWS;
use postrider_core::time::Moment;
use postrider_core::{Id, id};
use postrider_store::life::Head;
use postrider_store::{Entity, StoreError, Write, Written};
use tokio::sync::{mpsc, oneshot};

use crate::convert::{aborted, commit_failed, note_ahead};
use crate::fanout::Fanout;
use crate::home::Home;
use crate::metrics::Metrics;
use crate::postgres;
use crate::segments::{Segments, Unentered, indexed_until};
use crate::sql::{Connection, Failure, SqlError, SqlResult};
use crate::sqlite::checkpoint::Checkpointer;

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

/// Where a writer begins, and what it tells of itself.
pub(crate) struct Begin {
    pub(crate) ids: Arc<IdGenerator>,
    pub(crate) salt: u64,
    pub(crate) last_sequence: i64,
    pub(crate) segments: Segments,
    pub(crate) metrics: Arc<Metrics>,
}

/// What a transaction works with.
pub(crate) struct Tx {
    pub(crate) connection: Connection,
    pub(crate) ids: Arc<IdGenerator>,
    pub(crate) salt: u64,
    pub(crate) fanout: Fanout,
    /// What is known already of deliveries whose records are about to be written.
    pub(crate) heads: HashMap<i64, (i64, Head)>,
    pub(crate) last_sequence: i64,
    pub(crate) segments: Segments,
    /// Every delivery and event up to this key is in a segment.
    pub(crate) indexed_until: i64,
    pub(crate) unentered: Unentered,
    /// Deliveries that are in no tally until the batch that changes them is written.
    pub(crate) moving: HashSet<i64>,
    /// None when the last write is done.
    pub(crate) checkpointer: Option<Checkpointer>,
    pub(crate) metrics: Arc<Metrics>,
    noted_ahead: Duration,
    /// The database acknowledges what only it has, which somebody does not want.
    has_no_standby: bool,
    /// Owned until the last write is done.
    home: Home,
}

impl Writer {
    pub(crate) fn start(home: Home, mut connection: Connection, begin: Begin) -> SqlResult<Self> {
        let Begin {
            ids,
            salt,
            last_sequence,
            segments,
            metrics,
        } = begin;
        let (jobs, mut queue) = mpsc::channel::<Job>(QUEUE);
        let checkpointer = home.checkpointer(&mut connection, metrics.clone())?;
        let mut tx = Tx {
            connection,
            ids,
            salt,
            fanout: Fanout::default(),
            heads: HashMap::new(),
            last_sequence,
            segments,
            indexed_until: 0,
            unentered: Unentered::default(),
            moving: HashSet::new(),
            checkpointer,
            metrics,
            noted_ahead: Duration::ZERO,
            has_no_standby: false,
            home,
        };
        tx.indexed_until = indexed_until(&tx.connection)?;
        tx.enter_all();
        let thread = std::thread::Builder::new()
            .name("postrider-writer".to_owned())
            .spawn(move || {
                while let Some(job) = queue.blocking_recv() {
                    // What breaks off costs whoever asked for it, and nobody else.
                    if catch_unwind(AssertUnwindSafe(|| job(&mut tx))).is_err() {
                        tracing::error!("a write broke off inside the server; it was undone");
                        tx.roll_back();
                    }
                    tx.enter_due();
                    tx.look_at_log();
                }
                tx.checkpointer = None;
                tx.home.close(&tx.connection);
            })
            .expect("a process that cannot start one thread cannot run");
        Ok(Self {
            jobs: Some(jobs),
            thread: Some(thread),
        })
    }

    pub(crate) async fn run<T: Send + 'static>(
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
        now: Moment,
        batch: Vec<Write>,
    ) -> Vec<Result<Written, StoreError>> {
        let count = batch.len();
        let answers = self.run(move |tx| tx.commit_batch(now, &batch)).await;
        answers.unwrap_or_else(|| (0..count).map(|_| Err(gone())).collect())
    }

    /// One transaction for a change that lets the store grow, and that deliveries do not wait for: it is
    /// refused while the disk has no more than they need.
    pub(crate) async fn change<T: Send + 'static>(
        &self,
        change: impl FnOnce(&mut Tx) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.call(|tx| {
            tx.must_have_reserve()?;
            change(tx)
        })
        .await
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

/// The write broke off by a panic, and was rolled back.
fn gone() -> StoreError {
    StoreError::aborted("the write broke off inside the server")
}

impl Tx {
    pub(crate) fn in_transaction<T>(
        &mut self,
        change: impl FnOnce(&mut Self) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.must_be_at_home()?;
        if self.has_no_standby {
            let detail = "the database waits for no standby any more (synchronous_standby_names), and store.require_sync_standby is set".to_owned();
            return Err(StoreError::Unavailable { detail });
        }
        self.connection.begin().map_err(aborted)?;
        let changed = change(self)
            .and_then(|value| self.note_ahead().map(|()| value))
            .and_then(|value| self.connection.flush().map_err(aborted).map(|()| value));
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

    /// Goes back to a database that was away.
    fn must_be_at_home(&mut self) -> Result<(), StoreError> {
        if let Some(connection) = self.home.must_be_there(&self.connection)? {
            // What became of the last commit there nobody has told.
            let indexed_until = indexed_until(&connection).map_err(aborted)?;
            (self.connection, self.indexed_until) = (connection, indexed_until);
            self.fanout.clear();
            self.unentered = Unentered::default();
        }
        Ok(())
    }

    /// Refuses what could wait while there is room left only for events and records.
    fn must_have_reserve(&self) -> Result<(), StoreError> {
        self.home.must_have_reserve(&self.connection)
    }

    /// Commits a batch, in as few transactions as their bound allows.
    fn commit_batch(&mut self, now: Moment, batch: &[Write]) -> Vec<Result<Written, StoreError>> {
        let mut answers = Vec::with_capacity(batch.len());
        while answers.len() < batch.len() {
            let rest = &batch[answers.len()..];
            answers.extend(self.commit_some(now, rest));
        }
        answers
    }

    /// One transaction for the first writes of `batch`, at least one. What cannot be written because a
    /// row that it needs is damaged spoils the transaction; then it is done again with a savepoint for
    /// each write, so that only that one is refused.
    fn commit_some(&mut self, now: Moment, batch: &[Write]) -> Vec<Result<Written, StoreError>> {
        let together = catch_unwind(AssertUnwindSafe(|| {
            self.in_transaction(|tx| tx.write_some(now, batch, false))
        }));
        let committed = match together {
            Ok(Err(error)) if only_one(&error) => {
                self.in_transaction(|tx| tx.write_some(now, batch, true))
            }
            Ok(committed) => committed,
            Err(_) => {
                self.roll_back();
                self.in_transaction(|tx| tx.write_some(now, batch, true))
            }
        };
        committed.unwrap_or_else(|error| batch.iter().map(|_| Err(same(&error))).collect())
    }

    fn write_some(
        &mut self,
        now: Moment,
        batch: &[Write],
        apart: bool,
    ) -> Result<Vec<Result<Written, StoreError>>, StoreError> {
        let mut answers = Vec::with_capacity(batch.len());
        let mut rows = 0;
        self.look_ahead(batch).map_err(aborted)?;
        if !apart {
            let entered = self.entered(batch);
            self.leave_tallies(entered).map_err(aborted)?;
        }
        for write in batch {
            let written = if apart {
                self.write_apart(now, write)
            } else {
                self.write(now, write)
            };
            match &written {
                Ok(Written::Published(published)) => rows += published.deliveries.len(),
                // What the caller did wrong was found before anything was written.
                Ok(_) | Err(StoreError::NotFound { .. } | StoreError::Conflict { .. }) => {}
                Err(error) if apart && only_one(error) => {}
                Err(_) => return written.map(|_| answers),
            }
            let written = written.map_err(|error| match error {
                // Tried again it would fail again, and everything would wait for it.
                StoreError::Aborted { source } if apart => StoreError::Corrupt {
                    place: source.to_string(),
                    source,
                },
                error => error,
            });
            answers.push(written);
            if rows >= TRANSACTION_ROWS {
                break;
            }
        }
        self.come_back().map_err(aborted)?;
        Ok(answers)
    }

    /// Deliveries of a batch's records that are in a segment.
    fn entered(&self, batch: &[Write]) -> HashSet<i64> {
        let records = batch.iter().filter_map(|write| match write {
            Write::Record(record) => record.delivery.key_in(self.salt),
            Write::Publish(_) | Write::Finish(_) | Write::Resend(_) | Write::CatchUp(_) => None,
        });
        records.filter(|key| *key <= self.indexed_until).collect()
    }

    /// A write inside a savepoint: when it fails, nothing of it is left.
    fn write_apart(&mut self, now: Moment, write: &Write) -> Result<Written, StoreError> {
        let run = |tx: &Self, sql| tx.connection.execute_batch(sql).map_err(aborted);
        run(self, "savepoint one")?;
        let written = catch_unwind(AssertUnwindSafe(|| self.write(now, write)));
        // What fails of it fails here.
        let written = written.map(|written| {
            written.and_then(|written| {
                self.connection.flush().map_err(aborted)?;
                Ok(written)
            })
        });
        let written = written.unwrap_or_else(|_| {
            Err(StoreError::Corrupt {
                place: "a write that broke off".to_owned(),
                source: "a panic inside the server".into(),
            })
        });
        if written.is_err() {
            self.fanout.clear();
            self.connection.roll_back_to("one").map_err(aborted)?;
        }
        run(self, "release one")?;
        written
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

    /// Tells those who wait for the database that its owner lives, and looks whether it is as it must be.
    pub(crate) fn beat(&mut self) -> Result<(), StoreError> {
        self.must_be_at_home()?;
        let beat = postgres::beat(&self.connection).map_err(aborted);
        if beat.is_err() {
            self.roll_back();
        }
        beat?;
        if self.home.needs_standby() {
            let missing = postgres::has_no_standby(&self.connection).map_err(aborted)?;
            if missing && !self.has_no_standby {
                tracing::error!(
                    "the database waits for no standby any more: nothing is accepted until it does (synchronous_standby_names)"
                );
            }
            self.has_no_standby = missing;
        }
        Ok(())
    }

    /// Between two transactions: whether the log is to be copied.
    pub(crate) fn look_at_log(&self) {
        if let (Some(checkpointer), Some(connection)) =
            (&self.checkpointer, self.connection.sqlite())
        {
            checkpointer.look(connection);
        }
    }

    fn roll_back(&mut self) {
        self.connection.roll_back();
        // What the cache learned inside the transaction did not happen.
        self.fanout.clear();
        self.moving.clear();
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

/// Whether it is the fault of one write, or of the rows that it needs, and not of the whole store.
fn only_one(error: &StoreError) -> bool {
    match error {
        StoreError::Corrupt { .. } => true,
        StoreError::Aborted { source } => source
            .downcast_ref::<SqlError>()
            .is_none_or(|error| matches!(error.failure(), Failure::Taken | Failure::Refused)),
        _ => false,
    }
}

/// The same failure for every write of a batch.
fn same(error: &StoreError) -> StoreError {
    match error {
        StoreError::Full => StoreError::Full,
        StoreError::Unavailable { detail } => StoreError::Unavailable {
            detail: detail.clone(),
        },
        StoreError::Corrupt { place, source } => StoreError::Corrupt {
            place: place.clone(),
            source: source.to_string().into(),
        },
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
