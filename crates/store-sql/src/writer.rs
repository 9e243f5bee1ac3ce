//! The writer thread: the only place that writes.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use postrider_core::id::IdGenerator;
use postrider_core::time::Moment;
use postrider_core::{Id, id};
use postrider_store::life::Head;
use postrider_store::{Batch, Entity, FirstUse, Rule, StoreError, Written};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::convert;
use crate::convert::{aborted, commit_failed, note_ahead};
use crate::erase::Erasing;
use crate::fanout::Fanout;
use crate::home::Home;
use crate::line::Line;
use crate::metrics::Metrics;
use crate::outcomes::Counted;
use crate::pieces::Pieces;
use crate::postgres;
use crate::segments::{Segments, Unentered, indexed_until};
use crate::shares::{Found, Shares, Stored};
use crate::sql::{Connection, SqlResult};
use crate::sqlite::checkpoint::Checkpointer;

/// Pieces that are entered into segments behind each job: more than the largest job makes, so that they never become
/// more and more, and what an old store has is entered between others' jobs.
const PIECES_EACH: u32 = 32;

/// Jobs that wait for the thread: one under way, one behind it; the journal gathers meanwhile.
const QUEUE: usize = 2;
/// Changes among them, whoever makes how many: the journal's next batch and the sign of life wait for no more.
const CHANGES_MAX: usize = 2;

type Job = Box<dyn FnOnce(&mut Tx) + Send>;

#[derive(Debug)]
pub(crate) struct Writer {
    /// None only while it is dropped.
    jobs: Option<mpsc::Sender<Job>>,
    /// How many changes may stand among the jobs.
    changes: Arc<Semaphore>,
    /// Those that somebody asked for, behind these.
    line: Line,
    thread: Option<std::thread::JoinHandle<()>>,
    /// Cancelled when the thread has ended, however it did.
    ended: CancellationToken,
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.end();
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

impl Begin {
    /// Of what the store has. `salt` is for one that has none yet.
    pub(crate) fn of(
        connection: &Connection,
        salt: u64,
        segments: Segments,
        metrics: Arc<Metrics>,
    ) -> SqlResult<Self> {
        let salt = convert::salt(connection, salt)?;
        // Ids go on behind every key that is stored, whatever the clock says now.
        let floor = convert::greatest_key(connection)?;
        let ids = Arc::new(IdGenerator::new(salt, floor));
        // Lists by time look so much further for the rows of earlier runs too.
        ids.was_ahead(convert::ahead(connection)?);
        Ok(Self {
            ids,
            salt,
            last_sequence: convert::last_sequence(connection)?,
            segments,
            metrics,
        })
    }
}

/// What a transaction works with.
pub(crate) struct Tx {
    pub(crate) connection: Connection,
    pub(crate) ids: Arc<IdGenerator>,
    pub(crate) salt: u64,
    pub(crate) fanout: Fanout,
    pub(crate) pieces: Pieces,
    /// Who has stored how much of late.
    pub(crate) shares: Shares,
    /// What is known already of deliveries whose records are about to be written.
    pub(crate) heads: HashMap<i64, (i64, Head)>,
    /// And of idempotency keys of a batch: whether they were used before it, or in it.
    pub(crate) uses: Option<HashMap<(i64, String), FirstUse>>,
    pub(crate) last_sequence: i64,
    pub(crate) segments: Segments,
    /// Every delivery and event up to this key is in a segment.
    pub(crate) indexed_until: i64,
    pub(crate) unentered: Unentered,
    /// Deliveries that are in no tally until the batch that changes them is written, each with its segment.
    pub(crate) moving: HashMap<i64, i64>,
    /// Attempts of deliveries in segments that are not counted yet.
    pub(crate) outcomes: Vec<Counted>,
    pub(crate) erasing: Erasing,
    /// The last callback that was asked whether it can go, of a tenant and a mode.
    pub(crate) callbacks_asked: HashMap<(i64, i64), i64>,
    /// None when the last write is done.
    pub(crate) checkpointer: Option<Checkpointer>,
    pub(crate) metrics: Arc<Metrics>,
    /// Since when something that was deleted stands in the log.
    pub(crate) log_holds_since: Option<Instant>,
    /// When it was emptied last for that.
    pub(crate) log_emptied: Option<Instant>,
    noted_ahead: Duration,
    /// A commit by itself, of late.
    pub(crate) commit_takes: Duration,
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
        let (jobs, queue) = mpsc::channel::<Job>(QUEUE);
        let checkpointer = home.checkpointer(&mut connection, metrics.clone())?;
        let mut tx = Tx {
            connection,
            ids,
            salt,
            fanout: Fanout::default(),
            pieces: Pieces::default(),
            shares: Shares::default(),
            heads: HashMap::new(),
            uses: None,
            last_sequence,
            segments,
            indexed_until: 0,
            unentered: Unentered::default(),
            moving: HashMap::new(),
            outcomes: Vec::new(),
            erasing: Erasing::default(),
            callbacks_asked: HashMap::new(),
            checkpointer,
            metrics,
            log_holds_since: None,
            log_emptied: None,
            noted_ahead: Duration::ZERO,
            commit_takes: Duration::ZERO,
            has_no_standby: false,
            home,
        };
        tx.indexed_until = indexed_until(&tx.connection)?;
        tx.pieces = Pieces::left(&tx.connection)?;
        while tx.pieces.has_refused() {
            tx.take_back_some();
        }
        tx.enter_all();
        let ended = CancellationToken::new();
        let ends = ended.clone().drop_guard();
        let thread = std::thread::Builder::new()
            .name("postrider-writer".to_owned())
            .spawn(move || {
                let _ends = ends;
                tx.work(queue);
            })
            .expect("a process that cannot start one thread cannot run");
        Ok(Self {
            jobs: Some(jobs),
            changes: Arc::new(Semaphore::new(CHANGES_MAX)),
            line: Line::default(),
            thread: Some(thread),
            ended,
        })
    }

    /// Waits until nothing can be written any more.
    pub(crate) async fn ended(&self) {
        self.ended.cancelled().await;
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended.is_cancelled()
    }

    /// Waits for what is under way: after it, the directory is free for the next owner.
    pub(crate) fn end(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
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

    /// One transaction for a batch. Where it broke off there is no answer to anything.
    pub(crate) async fn commit(&self, now: Moment, batch: Batch) -> Written {
        let written = self.run(move |tx| tx.commit_batch(now, batch)).await;
        written.unwrap_or_default()
    }

    /// One transaction for a change that lets the store grow, and that deliveries do not wait for: it is
    /// refused while the disk has no more than they need.
    pub(crate) async fn change<T: Send + 'static>(
        &self,
        account: u128,
        change: impl FnOnce(&mut Tx) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.call_by(account, move |tx| {
            tx.must_have_reserve()?;
            let before = tx.home.used(&tx.connection)?;
            let changed = change(tx)?;
            let after = tx.home.used(&tx.connection)?;
            let stored = Stored {
                events: 0,
                changes: after.saturating_sub(before),
            };
            tx.shares.note(account, stored);
            Ok(changed)
        })
        .await
    }

    /// The same for one that makes something: whoever has stored too much of late may change what is there, and come in.
    pub(crate) async fn make<T: Send + 'static>(
        &self,
        account: u128,
        make: impl FnOnce(&mut Tx) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.change(account, move |tx| {
            tx.must_have_share(account, 0)?;
            make(tx)
        })
        .await
    }

    /// One transaction for one change that somebody asked for, in their turn.
    pub(crate) async fn call_by<T: Send + 'static>(
        &self,
        account: u128,
        change: impl FnOnce(&mut Tx) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let place = match account {
            0 => None,
            account => Some(self.line.take(account).await?),
        };
        let changed = self.call(change).await;
        drop(place);
        changed
    }

    /// One transaction for one change.
    pub(crate) async fn call<T: Send + 'static>(
        &self,
        change: impl FnOnce(&mut Tx) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        // It lasts as long as the job, which is done though whoever asked goes away.
        let place = self.changes.clone().acquire_owned().await;
        let place = place.map_err(StoreError::aborted)?;
        let changed = self.run(move |tx| {
            let changed = tx.in_transaction(change);
            drop(place);
            changed
        });
        changed.await.unwrap_or_else(|| Err(gone()))
    }
}

/// The write broke off by a panic, and was rolled back.
fn gone() -> StoreError {
    StoreError::aborted("the write broke off inside the server")
}

impl Tx {
    /// Does one job after the other, until nobody has another.
    fn work(mut self, mut queue: mpsc::Receiver<Job>) {
        let waits = Builder::new_current_thread().enable_time().build();
        let waits = waits.expect("a process that cannot make a timer cannot run");
        while let Some(job) = self.next_job(&mut queue, &waits) {
            // What breaks off costs whoever asked for it, and nobody else.
            if catch_unwind(AssertUnwindSafe(|| job(&mut self))).is_err() {
                tracing::error!("a write broke off inside the server; it was undone");
                self.roll_back();
            }
            self.enter_guarded(PIECES_EACH);
            if self.pieces.has_refused() {
                self.take_back_guarded();
            }
            self.look_at_log();
            self.empty_log_in_time();
        }
        // Waits for the copier: while it copies, the log is not emptied.
        self.checkpointer = None;
        self.empty_log_at_end();
        self.home.close(&self.connection);
    }

    /// The next job. While there is none, what is left to be entered is, and the log is emptied when it is time.
    fn next_job(&mut self, queue: &mut mpsc::Receiver<Job>, waits: &Runtime) -> Option<Job> {
        loop {
            match queue.try_recv() {
                Ok(job) => return Some(job),
                // One after the other: a job that comes meanwhile waits for one.
                Err(mpsc::error::TryRecvError::Empty) if self.has_due() => self.enter_guarded(1),
                Err(mpsc::error::TryRecvError::Empty) if self.pieces.has_refused() => {
                    self.take_back_guarded();
                }
                Err(_) => match self.log_is_due() {
                    None => return queue.blocking_recv(),
                    Some(due) => {
                        match waits.block_on(async { timeout_at(due, queue.recv()).await }) {
                            Ok(job) => return job,
                            Err(_) => self.empty_log_in_time(),
                        }
                    }
                },
            }
        }
    }

    /// Whoever asked has the answer by now, and does not wait for these.
    fn enter_guarded(&mut self, pieces: u32) {
        if catch_unwind(AssertUnwindSafe(|| self.enter_due(pieces))).is_err() {
            tracing::error!("what is written could not be entered; lists find it all the same");
            self.roll_back();
            // As if there were none, until more is written.
            self.unentered = Unentered::default();
        }
    }

    fn take_back_guarded(&mut self) {
        if catch_unwind(AssertUnwindSafe(|| self.take_back_some())).is_err() {
            tracing::error!(
                "what was begun of an event that is not accepted stays until the next start"
            );
            self.roll_back();
            self.pieces.forget_refused();
        }
    }

    pub(crate) fn in_transaction<T>(
        &mut self,
        change: impl FnOnce(&mut Self) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.must_be_at_home()?;
        if self.has_no_standby {
            let detail = "the database waits for no standby any more (synchronous_standby_names), and store.require_sync_standby is set".to_owned();
            return Err(StoreError::Unavailable { detail });
        }
        let found = || {
            let room = self.home.room(&self.connection).ok()??;
            let used = self.home.used(&self.connection).ok()?;
            Some(Found { room, used })
        };
        self.shares.look(Instant::now(), found);
        self.connection.begin().map_err(aborted)?;
        let changed = change(self)
            .and_then(|value| self.note_ahead().map(|()| value))
            // Before the commit: what fails only there would be an outcome that nobody knows.
            .and_then(|value| self.connection.flush().map_err(aborted).map(|()| value));
        match changed {
            Ok(value) => match self.timed(|tx| tx.connection.execute_batch("commit")) {
                Ok(()) => {
                    self.fanout.is_true();
                    self.pieces.is_true();
                    self.shares.settle();
                    Ok(value)
                }
                // Some failures of a commit leave the transaction open.
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

    fn timed<T>(&mut self, commit: impl FnOnce(&mut Self) -> T) -> T {
        let began = Instant::now();
        let committed = commit(self);
        // One that had to wait for something else counts for an eighth.
        self.commit_takes = (self.commit_takes * 7 + began.elapsed()) / 8;
        committed
    }

    /// Goes back to a database that was away.
    fn must_be_at_home(&mut self) -> Result<(), StoreError> {
        if let Some(connection) = self.home.must_be_there(&self.connection)? {
            // What became of the last commit there nobody has told.
            let indexed_until = indexed_until(&connection).map_err(aborted)?;
            // It may lack a piece, or have one that nobody here knows was committed.
            let pieces = Pieces::left(&connection).map_err(aborted)?;
            // All at once: with one of them from before, what was begun there would be gone on with here.
            (self.connection, self.indexed_until) = (connection, indexed_until);
            self.pieces = pieces;
            self.fanout.clear();
            self.unentered = Unentered::default();
            // What was erased it may have again.
            self.erasing = Erasing::default();
            // It may be another server that answers now.
            self.look_for_standby()?;
        }
        Ok(())
    }

    /// Refuses what could wait while there is room left only for events and records.
    /// Refuses whoever has stored more of late than there is room for, while others store too.
    pub(crate) fn must_have_share(&self, account: u128, more: usize) -> Result<(), StoreError> {
        // Zero is the server itself.
        if account == 0 || self.shares.may(account, more) {
            return Ok(());
        }
        Err(StoreError::conflict(Rule::ShareStored))
    }

    fn must_have_reserve(&self) -> Result<(), StoreError> {
        self.home.must_have_reserve(&self.connection)
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
        let beat = self.home.beat(&self.connection).map_err(aborted);
        // It may have failed behind its own `begin`.
        if beat.is_err() {
            self.roll_back();
        }
        beat?;
        self.look_for_standby()
    }

    fn look_for_standby(&mut self) -> Result<(), StoreError> {
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

    pub(crate) fn roll_back(&mut self) {
        self.connection.roll_back();
        // What the cache learned inside the transaction did not happen.
        self.fanout.undo();
        self.pieces.undo(0);
        self.shares.undo(0);
        self.moving.clear();
        self.outcomes.clear();
        // It may be undone, so it is noted again.
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

#[cfg(test)]
mod tests {
    use postrider_core::tenant::{Application, ApplicationSettings};
    use postrider_store::conformance::fixture::{at, by, world};
    use postrider_store::{Catalogue as _, unconditionally};

    use super::*;
    use crate::{Options, SqlStore};

    /// Something that can be there once.
    fn make(tx: &mut Tx) -> Result<usize, StoreError> {
        let sql = "insert into meta (key, value) values ('a test', 1)";
        tx.connection.execute(sql, ()).map_err(aborted)
    }

    #[tokio::test]
    async fn a_write_that_breaks_off_is_undone_and_costs_nobody_else_theirs() {
        let directory = tempfile::tempdir().unwrap();
        let store = SqlStore::open(directory.path(), &Options::default()).unwrap();
        let writer = &store.writer;
        // More than may stand among the jobs: none of them keeps its place.
        for _ in 0..=CHANGES_MAX {
            let broken = writer.call(|tx| -> Result<usize, StoreError> {
                make(tx)?;
                panic!("the write breaks off");
            });
            let error = broken.await.unwrap_err();
            assert!(matches!(error, StoreError::Aborted { .. }), "{error:?}");
        }
        // What is no change has no answer at all.
        let broken = writer.run(|_| -> usize { panic!("the job breaks off") });
        assert_eq!(broken.await, None);
        assert_eq!(writer.call(make).await.unwrap(), 1, "it was not there");
    }

    /// Whatever happened to it: the process must not go on without.
    #[tokio::test]
    async fn a_thread_that_has_ended_is_heard_of() {
        let directory = tempfile::tempdir().unwrap();
        let mut store = SqlStore::open(directory.path(), &Options::default()).unwrap();
        let waits = Duration::from_millis(20);
        let lost = tokio::time::timeout(waits, store.lost(|| (), |()| ()));
        assert!(lost.await.is_err(), "it is there");
        store.writer.end();
        store.lost(|| (), |()| ()).await;
    }

    /// To read all of its tenants' takes as long as they have endpoints, and everybody waits.
    #[tokio::test]
    async fn an_application_that_changes_its_colour_keeps_its_tenants_endpoints_in_memory() {
        let directory = tempfile::tempdir().unwrap();
        let store = SqlStore::open(directory.path(), &Options::default()).unwrap();
        let world = world(&store).await;
        world.publish(at(1)).await;
        let held = || store.writer.call(|tx| Ok(tx.fanout.held()));
        let change = |change: fn(&mut ApplicationSettings, Id<id::Tenant>)| {
            let tenant = world.tenant;
            let change = unconditionally(move |application: &mut Application| {
                change(&mut application.settings, tenant);
            });
            store.update_application(world.application, change, by())
        };
        let coloured = change(|settings, _| settings.branding.accent = Some("#123456".into()));
        coloured.await.unwrap();
        assert_eq!(held().await.unwrap(), 1);
        // Who is told of failures is another matter.
        let told = change(|settings, tenant| settings.operations_tenant = Some(tenant));
        told.await.unwrap();
        assert_eq!(held().await.unwrap(), 0);
    }
}
