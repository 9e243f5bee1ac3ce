//! The shell: drives the machine with real time, a store and a transport.
//!
//! Every input goes through [`Engine::apply`], which steps the machine under a lock and starts what
//! it asks for. Nothing is held across an await; the machine never waits.

mod attempt;
mod chores;
mod configuring;
mod copies;
mod endpoints;
mod forms;
mod lanes;
mod past_lane;
mod seldom;
mod sources;
mod watch;

pub(crate) use past_lane::PastLane;

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use postrider_core::delivery::{Delivery, DeliveryState, ProfileVersion, Series};
use postrider_core::judge::Next;
use postrider_core::seal::Sealer;
use postrider_core::time::Moment;
use postrider_core::{Id, Timestamp, id};
use postrider_store::{
    CatchUp, DueDelivery, FinishDelivery, LoadDue, NewEvent, Published, Resend, Rule, Store,
    StoreError,
};
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::{Clock, Clocks};
use crate::journal::{Busy, Committed, Journal, RecordEntry, RecordWrite, RecordedEntry, journal};
use crate::lately::LastHour;
use crate::machine::{Action, Input, LaneSurvey, Machine, MachineLimits, MachineStats, Survey};
use crate::metrics::Metrics;
use crate::profiles::ProfileRegistry;
use crate::trace::Tracer;
use crate::transport::Transport;
use copies::Copies;
pub use endpoints::Verifier;
use endpoints::{EndpointCache, NotReady};
use forms::Forms;
use lanes::Lanes;
use past_lane::PastLanes;
use seldom::Seldom;
pub use watch::Watch;

/// How often, and after which pause, it is looked whether an attempt that has ended in the store has ended in its lane.
const SETTLING_LOOKS: u32 = 20;
const SETTLING_PAUSE: Duration = Duration::from_millis(10);
/// Pages of lanes that are read at once.
const LOADS_MAX: usize = 8;
/// Lanes that ask at once what their endpoints are: some reads' worth, so that an attempt that asks the same does not wait
/// for all of them.
const CONFIGURES_MAX: usize = 256;
/// Deliveries that have expired and are being recorded at once.
const EXPIRIES_MAX: usize = 64;

/// What an engine is made of.
pub struct Options {
    pub store: Arc<dyn Store>,
    pub transport: Arc<dyn Transport>,
    pub clock: Arc<dyn Clock>,
    pub profiles: Arc<ProfileRegistry>,
    pub sealer: Arc<Sealer>,
    pub limits: MachineLimits,
    /// Tenants that have counts of their own; see [`Metrics`].
    pub counted_tenants: usize,
    /// Whoever collects traces.
    pub tracer: Option<Arc<dyn Tracer>>,
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Options({:?})", self.limits)
    }
}

/// A running engine. Cheap to share.
pub struct Engine {
    store: Arc<dyn Store>,
    transport: Arc<dyn Transport>,
    clocks: Arc<Clocks>,
    profiles: Arc<ProfileRegistry>,
    endpoints: EndpointCache,
    machine: Mutex<Machine>,
    journal: Mutex<Option<Arc<Journal>>>,
    timer: Notify,
    /// When the timer will wake, in microseconds: a sooner wish has to wake it.
    timer_at: AtomicI64,
    tasks: TaskTracker,
    journal_done: TaskTracker,
    stop: CancellationToken,
    draining: AtomicBool,
    /// Cancelled when a task that must run has ended.
    failed: CancellationToken,
    /// Deliveries left as they are stored, because this process cannot bring them on.
    set_aside: AtomicU64,
    loads: Semaphore,
    expiries: Arc<Semaphore>,
    /// Times that all was looked at anew.
    looks: AtomicU64,
    configures: Semaphore,
    past_lanes: PastLanes,
    cannot_send: Seldom,
    /// Lines of endpoints that cannot be read.
    damaged: Seldom,
    copies: Copies,
    forms: Forms,
    metrics: Arc<Metrics>,
    tracer: Option<Arc<dyn Tracer>>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Engine({:?})", self.stats())
    }
}

/// Why an event was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    #[error(transparent)]
    Busy(#[from] Busy),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Engine {
    /// Starts an engine: its journal, its timer, and the lanes that have work in the store.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn start(options: Options) -> Result<Arc<Self>, StoreError> {
        let clocks = Arc::new(Clocks::new(
            options.clock,
            options.store.last_place().await?,
        ));
        let metrics = Arc::new(Metrics::new(options.counted_tenants));
        let (handle, task) = journal(options.store.clone(), clocks.clone(), metrics.clone());
        let engine = Arc::new(Self {
            endpoints: EndpointCache::new(
                options.store.clone(),
                options.sealer,
                options.profiles.clone(),
            ),
            store: options.store,
            transport: options.transport,
            clocks,
            profiles: options.profiles,
            machine: Mutex::new(Machine::new(options.limits)),
            journal: Mutex::new(Some(Arc::new(handle))),
            timer: Notify::new(),
            timer_at: AtomicI64::new(i64::MAX),
            tasks: TaskTracker::new(),
            journal_done: TaskTracker::new(),
            stop: CancellationToken::new(),
            draining: AtomicBool::new(false),
            failed: CancellationToken::new(),
            set_aside: AtomicU64::new(0),
            loads: Semaphore::new(LOADS_MAX),
            expiries: Arc::new(Semaphore::new(EXPIRIES_MAX)),
            looks: AtomicU64::new(0),
            configures: Semaphore::new(CONFIGURES_MAX),
            past_lanes: PastLanes::default(),
            cannot_send: Seldom::default(),
            damaged: Seldom::default(),
            copies: Copies::default(),
            forms: Forms::default(),
            metrics,
            tracer: options.tracer,
        });
        let watch = |name| Watch::new(name, &engine.stop, &engine.failed);
        let journal = task.run(Arc::new(Lanes(engine.clone())));
        // Not one of the tasks: it takes their records until the last of them has ended.
        engine.journal_done.spawn(watch("journal").over(journal));
        let timer = engine.clone().run_timer();
        engine.tasks.spawn(watch("timer").over(timer));
        let sweeper = engine.clone().run_sweeper();
        engine.tasks.spawn(watch("sweeper").over(sweeper));
        // Last, for with it attempts begin.
        engine.look().await?;
        Ok(engine)
    }

    /// Looks at the store anew, beside what is known of it: it may have been away, and be another one that lacks what was
    /// recorded last; and of a change that had no answer nobody knew whether it was written.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn look(self: &Arc<Self>) -> Result<(), StoreError> {
        let backlog = self.store.backlog().await?;
        self.endpoints.forget_all();
        let lanes = {
            let machine = self.machine.lock().unwrap_or_else(PoisonError::into_inner);
            machine.endpoints()
        };
        Lanes(self.clone()).backlog(backlog);
        if !lanes.is_empty() {
            let look = self.looks.fetch_add(1, Ordering::Relaxed) + 1;
            self.tasks.spawn(self.clone().configure_all(lanes, look));
        }
        Ok(())
    }

    /// Accepts an event: when this returns, it and its deliveries are durable.
    ///
    /// # Errors
    /// `Busy` when too much waits; the store's refusals and failures.
    pub async fn publish(&self, event: NewEvent) -> Result<Published, PublishError> {
        let (application, begun) = (event.event.application, self.now().steady);
        let published = self.publish_one(event).await;
        let took = self.now().steady.since(begun);
        self.metrics.published(application, took, &published);
        published
    }

    async fn publish_one(&self, event: NewEvent) -> Result<Published, PublishError> {
        Ok(self.journal()?.publish(event)?.answer().await?)
    }

    /// Accepts several events in their order; each has its own answer.
    pub async fn publish_many(
        &self,
        events: Vec<NewEvent>,
    ) -> Vec<Result<Published, PublishError>> {
        let begun = self.now().steady;
        let applications: Vec<_> = events.iter().map(|new| new.event.application).collect();
        let published = self.publish_all(events).await;
        let took = self.now().steady.since(begun);
        for (application, published) in applications.into_iter().zip(&published) {
            self.metrics.published(application, took, published);
        }
        published
    }

    async fn publish_all(&self, events: Vec<NewEvent>) -> Vec<Result<Published, PublishError>> {
        let Ok(journal) = self.journal() else {
            return events.iter().map(|_| Err(Busy.into())).collect();
        };
        // All are taken before the first is awaited: one commit holds many, and their order stays.
        let taken = events.into_iter().map(|event| journal.publish(event));
        let taken: Vec<_> = taken.collect();
        let mut answers = Vec::with_capacity(taken.len());
        for requested in taken {
            answers.push(match requested {
                Err(busy) => Err(busy.into()),
                Ok(requested) => requested.answer().await.map_err(PublishError::from),
            });
        }
        answers
    }

    /// Sends a finished delivery again: one attempt, or a whole series where the profile says so.
    ///
    /// # Errors
    /// `DeliveryPending` when it waits already, or was sent since it was read; `EndpointDisabled`, `NotFound`, `Busy`.
    pub async fn resend(
        &self,
        delivery: &Delivery,
        series: bool,
    ) -> Result<DueDelivery, PublishError> {
        self.must_not_be_under_way(delivery).await?;
        let series = Series {
            single: !series,
            ..Series::SCHEDULED
        };
        let resend = Resend {
            delivery: delivery.id,
            attempts: delivery.attempts,
            series,
        };
        let requested = self.journal()?.resend(delivery.tenant, resend)?;
        Ok(requested.answer().await?)
    }

    /// One that is cancelled can still be under way: what becomes of that attempt would be taken for a resend's.
    ///
    /// # Errors
    /// `DeliveryPending` while it is being sent.
    pub async fn must_not_be_under_way(&self, delivery: &Delivery) -> Result<(), PublishError> {
        for _ in 0..SETTLING_LOOKS {
            if !self.is_under_way(delivery) {
                return Ok(());
            }
            // What the store says of it may be on its way to the lane.
            tokio::time::sleep(SETTLING_PAUSE).await;
        }
        Err(StoreError::conflict(Rule::DeliveryPending).into())
    }

    fn is_under_way(&self, delivery: &Delivery) -> bool {
        let machine = self.machine.lock().unwrap_or_else(PoisonError::into_inner);
        self.past_lanes.holds(delivery.id) || machine.is_under_way(delivery.endpoint, delivery.id)
    }

    /// Ends a delivery that waits: it is cancelled, and nothing is sent any more. An attempt that is under way goes on,
    /// and only its success counts. False when it had ended before.
    ///
    /// # Errors
    /// `NotFound`, `Busy`.
    pub async fn cancel(&self, delivery: &Delivery) -> Result<bool, PublishError> {
        let finish = FinishDelivery {
            delivery: delivery.id,
            endpoint: delivery.endpoint,
            state: DeliveryState::Cancelled,
        };
        let requested = self.journal()?.finish(delivery.tenant, finish)?;
        let finished = requested.answer().await?;
        self.metrics
            .closed(DeliveryState::Cancelled, finished.into());
        Ok(finished)
    }

    /// Gives an endpoint an event that it missed, as if it were published now.
    ///
    /// # Errors
    /// `DeliveryExists` when it has it; `DeliveryExpired`, `EndpointDisabled`, `NotFound`, `Busy`.
    pub async fn catch_up(
        &self,
        tenant: Id<id::Tenant>,
        missed: CatchUp,
    ) -> Result<DueDelivery, PublishError> {
        Ok(self.journal()?.catch_up(tenant, missed)?.answer().await?)
    }

    /// Tells the engine that an endpoint was changed, disabled, enabled or deleted.
    pub fn endpoint_changed(self: &Arc<Self>, endpoint: Id<id::Endpoint>) {
        self.endpoints.forget(endpoint);
        self.spawn_configure(endpoint);
    }

    /// Tells the engine that a tenant or an application was changed.
    pub fn owner_changed<K>(&self, owner: Id<K>) {
        self.endpoints.forget(owner);
    }

    /// Whoever collects traces.
    pub fn tracer(&self) -> Option<&dyn Tracer> {
        self.tracer.as_deref()
    }

    /// Figures of the machine.
    pub fn stats(&self) -> MachineStats {
        self.machine
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .stats()
    }

    /// A look at every lane.
    pub fn survey(&self) -> Survey {
        let now = self.now().steady;
        let machine = self.machine.lock().unwrap_or_else(PoisonError::into_inner);
        machine.survey(now)
    }

    /// The attempts of the last hour, of this process.
    pub fn last_hour(&self) -> LastHour {
        self.metrics.lately.read(self.now().steady)
    }

    /// How an endpoint's lane stands; none of one that has nothing to do.
    pub fn survey_of(&self, endpoint: Id<id::Endpoint>) -> Option<LaneSurvey> {
        let now = self.now().steady;
        let machine = self.machine.lock().unwrap_or_else(PoisonError::into_inner);
        machine.survey_of(endpoint, now)
    }

    /// What verifies the requests of an endpoint under a version of its profile.
    ///
    /// # Errors
    /// What the store answers, and of secrets that cannot be opened.
    pub async fn verifier(
        &self,
        endpoint: Id<id::Endpoint>,
        version: ProfileVersion,
    ) -> Result<Verifier, StoreError> {
        match self.endpoints.get(endpoint, version).await {
            Ok(ready) => Ok(Verifier(ready)),
            Err(NotReady::Store(error)) => Err(error),
            Err(error) => Err(StoreError::aborted(error)),
        }
    }

    /// How many of them there may be; one more is refused.
    pub const WAITING_MAX: (usize, usize) = crate::journal::WAITING_MAX;

    /// Requests that wait for a commit, and their payload in KiB.
    pub fn waiting(&self) -> (usize, usize) {
        self.journal().map_or((0, 0), |journal| journal.waiting())
    }

    /// What it counts.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// What goes on evenly however the clock is set: for whatever waits.
    pub fn steady(&self) -> Timestamp {
        self.now().steady
    }

    pub fn clock(&self) -> &dyn Clock {
        self.clocks.wall()
    }

    /// What the wall clock will show when something is due.
    pub fn wall_of(&self, due_at: Timestamp) -> Timestamp {
        self.now().wall_of(due_at)
    }

    /// Waits until a task without which the engine does not deliver has ended: then the process has to.
    pub async fn failed(&self) {
        self.failed.cancelled().await;
    }

    /// Deliveries that were left as they are stored since the start, because a record of theirs was
    /// refused, their profile's version is unknown, or their attempt broke off inside this process.
    pub fn set_aside(&self) -> u64 {
        self.set_aside.load(Ordering::Relaxed)
    }

    /// Leaves a delivery as it is stored, and counts it.
    fn leave_aside(self: &Arc<Self>, due: DueDelivery) {
        self.set_aside.fetch_add(1, Ordering::Relaxed);
        self.leave_lane(due);
    }

    /// The lane goes on without it.
    fn leave_lane(self: &Arc<Self>, due: DueDelivery) {
        self.apply(Input::Settled {
            due: Box::new(due),
            // Any end will do: nothing is written, and a lane lets go of what has ended.
            next: Next::Failed(postrider_core::delivery::FailReason::Stopped),
            keep_place: true,
        });
    }

    pub fn profiles(&self) -> &ProfileRegistry {
        &self.profiles
    }

    /// The store was this process's at `at`. Deliveries are sent for so long after it, and then only when this has been said
    /// again: a process that stood still would send what its successor has sent.
    pub fn owned(self: &Arc<Self>, at: Moment, within: Duration) {
        let until = Moment {
            wall: at.wall.plus(within),
            steady: at.steady.plus(within),
        };
        self.apply(Input::Owned { until });
    }

    /// Starts no more attempts, waits for those under way and for their records.
    ///
    /// Returns false when `deadline` passed first: what was under way will be sent again at the next start.
    /// Of the time until then, `for_records` is kept for what is being recorded.
    pub async fn drain(
        self: &Arc<Self>,
        deadline: tokio::time::Instant,
        for_records: Duration,
    ) -> bool {
        // Before the halt, which a store that is well again would end otherwise (`available`).
        self.draining.store(true, Ordering::Relaxed);
        self.apply(Input::Halt);
        self.stop.cancel();
        self.tasks.close();
        // Attempts hand their records over as long as they run, so the journal is shut after them.
        let tasks = tokio::time::timeout_at(deadline - for_records, self.tasks.wait())
            .await
            .is_ok();
        drop(
            self.journal
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
        self.journal_done.close();
        let recorded = tokio::time::timeout_at(deadline, self.journal_done.wait())
            .await
            .is_ok();
        tasks && recorded
    }

    fn journal(&self) -> Result<Arc<Journal>, Busy> {
        self.journal
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
            .ok_or(Busy)
    }

    pub fn now(&self) -> Moment {
        self.clocks.now()
    }

    /// Steps the machine and starts what it asks for.
    fn apply(self: &Arc<Self>, input: Input) {
        let now = self.now();
        let (actions, sooner) = {
            let mut machine = self.machine.lock().unwrap_or_else(PoisonError::into_inner);
            let actions = machine.step(now, input);
            // Compared under the lock: the timer writes what it waits for under it too.
            let sooner = machine
                .next_wake()
                .is_some_and(|at| at.as_micros() < self.timer_at.load(Ordering::Relaxed));
            (actions, sooner)
        };
        if sooner {
            self.timer.notify_one();
        }
        for action in actions {
            self.start_action(action);
        }
    }

    fn start_action(self: &Arc<Self>, action: Action) {
        let engine = self.clone();
        match action {
            Action::Send(due) => drop(self.tasks.spawn(engine.start_attempt(*due))),
            Action::Expire(due) => drop(self.tasks.spawn(engine.expire(*due))),
            Action::Load {
                endpoint,
                until,
                wish,
            } => drop(self.tasks.spawn(async move {
                // Until the lane has taken the page in: pages that wait for that are memory too.
                let turn = engine.loads.acquire().await;
                let input = match engine
                    .store
                    .load_due(LoadDue {
                        endpoint,
                        from: wish.from,
                        until,
                        limit: wish.rows,
                        bytes: wish.bytes,
                    })
                    .await
                {
                    Ok(page) => Input::Loaded {
                        endpoint,
                        page: engine.copies.share(page),
                    },
                    Err(error) => {
                        engine.metrics.lane_reads_failed.inc();
                        tracing::warn!(
                            error = &error as &dyn std::error::Error,
                            "failed to read a lane; trying again"
                        );
                        Input::LoadFailed { endpoint }
                    }
                };
                engine.apply(input);
                drop(turn);
            })),
            Action::Configure(endpoint) => self.spawn_configure(endpoint),
            Action::FinishPending { endpoint, state } => {
                drop(self.tasks.spawn(engine.finish_pending(endpoint, state)))
            }
        }
    }

    async fn expire(self: Arc<Self>, due: DueDelivery) {
        // A tenant may have very many that expire in one moment, and others' records go the same way.
        let turn = self.expiries.clone().acquire_owned().await.ok();
        let state = DeliveryState::Failed(postrider_core::delivery::FailReason::Expired);
        let write = RecordWrite::Expiry(FinishDelivery {
            delivery: due.delivery.id,
            endpoint: due.delivery.endpoint,
            state,
        });
        let of = RecordedEntry {
            due,
            next: Next::Failed(postrider_core::delivery::FailReason::Expired),
            keep_place: true,
            past_lane: None,
            turn,
        };
        self.hand_over(RecordEntry { write, of }).await;
    }

    async fn hand_over(&self, entry: RecordEntry) {
        // Without a journal the drain is over, and the delivery is sent again after the next start.
        if let Ok(journal) = self.journal() {
            journal.record(entry).await;
        }
    }
}
