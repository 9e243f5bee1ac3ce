//! A world in virtual time around a real engine: its journal, its shell and its machine over the model store, with
//! scripted receivers, a store that answers late or fails, and crashes at any step.
//!
//! Each life of the process is a runtime of its own whose clock stands still while anything runs. A crash drops the
//! runtime with all that was under way in it; the store stays.

mod receivers;
mod weather;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;
use postrider_core::attempt::{Attempt, Outcome, UnreachableReason};
use postrider_core::audit::Actor;
use postrider_core::delivery::Delivery;
use postrider_core::endpoint::{Endpoint, EndpointKind, Ordering};
use postrider_core::event::Event;
use postrider_core::filter::Subscription;
use postrider_core::health::{DisableReason, Health};
use postrider_core::profile::Profile;
use postrider_core::seal::{SealNonce, Sealer};
use postrider_core::tenant::{
    Application, ApplicationSettings, Metadata, Mode, TENANT_SECRET_CONTEXT, Tenant, TenantSecret,
    TenantSettings,
};
use postrider_core::trace::TraceParent;
use postrider_core::{Id, Timestamp, id};
use postrider_engine::machine::MachineLimits;
use postrider_engine::{AttemptSpan, Clock, Engine, Options, ProfileRegistry, PublishSpan, Tracer};
use postrider_store::memory::MemoryStore;
use postrider_store::{
    Catalogue as _, DeliveryFilter, Lanes as _, NewEvent, PageRequest, Records as _, Store, Target,
    always,
};
use tokio::runtime::Runtime;
use tokio::time::Instant;

use receivers::Receivers;
use weather::Skies;
pub(crate) use weather::{FAIR, Weather};

pub(crate) type EndpointId = Id<id::Endpoint>;
pub(crate) type DeliveryId = Id<id::Delivery>;

/// What a receiver answers, and after how long.
pub(crate) type Script = Box<dyn FnMut(&mut Rng) -> (Outcome, Duration) + Send>;

/// How long is waited for what happens next before the world looks whether anything is left.
const LOOKS: [Duration; 4] = [
    Duration::from_secs(1),
    Duration::from_secs(60),
    Duration::from_secs(3_600),
    Duration::from_secs(6 * 3_600),
];

pub(crate) fn status(status: u16) -> Outcome {
    Outcome::Answered {
        status,
        retry_after_secs: None,
    }
}

pub(crate) fn timed_out() -> Outcome {
    Outcome::Unreachable {
        reason: UnreachableReason::Timeout,
        detail: String::new(),
    }
}

/// What the engine's surroundings share.
pub(crate) struct Shared {
    state: Mutex<State>,
    crash: tokio::sync::Notify,
}

pub(crate) struct State {
    rng: Rng,
    weather: Weather,
    /// The process is dead: nothing that it called answers.
    dead: bool,
    /// The world itself asks: it has no weather.
    calm: bool,
    scripts: HashMap<EndpointId, Script>,
    orders: HashMap<EndpointId, Ordering>,
    requests: Vec<(Timestamp, EndpointId, DeliveryId, u32)>,
    /// Requests that are open.
    sending: BTreeMap<DeliveryId, EndpointId>,
    /// Events that were acknowledged, with how many deliveries.
    accepted: Vec<(Id<id::Event>, u32)>,
    /// Commits whose outcome nobody was told.
    unknown: u32,
    /// The next commit is made, and its answer lost.
    lose_answer: bool,
    /// What must not be, with where it was seen.
    violations: Vec<String>,
    /// Virtual time when this life began, and its runtime's clock then.
    life: (Timestamp, Option<Instant>),
    /// What the engine's steady clock showed then.
    steady_began: Timestamp,
    /// What the wall clock is ahead of virtual time, in seconds.
    wall_ahead: i64,
    breaks_off: BreaksOff,
}

/// What breaks off next inside the process.
#[derive(Debug, Default)]
struct BreaksOff {
    /// A request, in the transport.
    request: bool,
    /// An attempt, between its answer and its record.
    attempt: bool,
}

impl Shared {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The process dies here, or has died: whoever waits for this waits for ever.
    pub(crate) async fn die(&self) {
        // Once: what the dead still asks for while it goes must not kill the next life.
        if !std::mem::replace(&mut self.state().dead, true) {
            self.crash.notify_one();
        }
        std::future::pending().await
    }

    fn virtual_now(&self) -> Timestamp {
        let (began, clock) = self.state().life;
        clock.map_or(began, |clock| began.plus(clock.elapsed()))
    }

    /// What the wall clock shows at a virtual time.
    fn wall_at(&self, now: Timestamp) -> Timestamp {
        let ahead = self.state().wall_ahead;
        Timestamp::from_micros(now.as_micros() + ahead * 1_000_000)
    }

    /// What the engine's steady clock shows.
    fn steady_now(&self) -> Timestamp {
        let (began, (_, clock)) = {
            let state = self.state();
            (state.steady_began, state.life)
        };
        clock.map_or(began, |clock| began.plus(clock.elapsed()))
    }
}

/// Virtual time as the engine's clocks.
struct SimClock(Arc<Shared>);

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        self.0.wall_at(self.0.virtual_now())
    }

    fn elapsed(&self) -> Duration {
        let (_, clock) = self.0.state().life;
        clock.map_or(Duration::ZERO, |clock| clock.elapsed())
    }
}

/// Keeps no traces: it is where an attempt breaks off that has its answer and no record yet.
struct Traces(Arc<Shared>);

impl std::fmt::Debug for Traces {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Traces")
    }
}

impl Tracer for Traces {
    fn begin(&self, parent: Option<TraceParent>) -> TraceParent {
        parent.unwrap_or_else(|| TraceParent::root(1, 1, false))
    }

    fn published(&self, _: &PublishSpan<'_>) {}

    fn attempted(&self, _: &AttemptSpan<'_>) {
        let breaks_off = std::mem::take(&mut self.0.state().breaks_off.attempt);
        assert!(!breaks_off, "the attempt breaks off");
    }
}

pub(crate) struct World {
    pub(crate) now: Timestamp,
    pub(crate) crashes: u32,
    pub(crate) tenants: Vec<Id<id::Tenant>>,
    shared: Arc<Shared>,
    store: Arc<MemoryStore>,
    limits: MachineLimits,
    application: Id<id::Application>,
    sealer: Arc<Sealer>,
    profiles: Arc<ProfileRegistry>,
    profile_version: u32,
    process: Option<(Runtime, Arc<Engine>)>,
}

/// A future that waits for nothing.
fn done<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match future.as_mut().poll(&mut context) {
        std::task::Poll::Ready(value) => value,
        std::task::Poll::Pending => panic!("the model waits for nothing"),
    }
}

impl World {
    pub(crate) fn new(
        seed: u64,
        profile: &str,
        limits: MachineLimits,
        weather: Weather,
        tenants: usize,
    ) -> Self {
        // Jitter is the engine's own: from the thread's generator.
        fastrand::seed(seed);
        let now = Timestamp::from_secs(1_774_017_075);
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                rng: Rng::with_seed(seed),
                weather,
                dead: false,
                calm: true,
                scripts: HashMap::new(),
                orders: HashMap::new(),
                requests: Vec::new(),
                sending: BTreeMap::new(),
                accepted: Vec::new(),
                unknown: 0,
                lose_answer: false,
                violations: Vec::new(),
                life: (now, None),
                steady_began: now,
                wall_ahead: 0,
                breaks_off: BreaksOff::default(),
            }),
            crash: tokio::sync::Notify::new(),
        });
        let store = Arc::new(MemoryStore::in_weather(
            seed,
            Arc::new(Skies(shared.clone())),
        ));
        let sealer = Arc::new(Sealer::new(&[7; 32], &[]));
        let profiles = Arc::new(done(ProfileRegistry::load(&*store, Vec::new())).unwrap());
        let current = profiles.current(profile).unwrap();
        let mut world = Self {
            now,
            crashes: 0,
            tenants: Vec::new(),
            shared,
            application: store.ids().next(now),
            store,
            limits,
            sealer,
            profiles,
            profile_version: current.version,
            process: None,
        };
        world.furnish(profile, &current.profile, tenants);
        world.live();
        world
    }

    fn furnish(&mut self, name: &str, profile: &Profile, tenants: usize) {
        let now = self.now;
        let application = Application {
            id: self.application,
            name: "sim".into(),
            profile: name.into(),
            settings: ApplicationSettings {
                // How a receiver knows which event it got, whatever the profile.
                traceparent: true,
                ..ApplicationSettings::default()
            },
            created_at: now,
            updated_at: now,
        };
        done(
            self.store
                .create_application(application, Actor::system(now)),
        )
        .unwrap();
        for _ in 0..tenants {
            let id: Id<id::Tenant> = self.store.ids().next(now);
            let format = &profile.secret.format;
            let text = format.make(Mode::Live, &vec![7; format.random_len()]);
            let (nonce, row) = (SealNonce::default(), id.as_u128());
            let sealed = self.sealer.seal(&text, nonce, TENANT_SECRET_CONTEXT, row);
            let secret = TenantSecret { sealed, since: now };
            let tenant = Tenant {
                metadata: Metadata::new(),
                id,
                application: self.application,
                name: "t".into(),
                external_id: None,
                live_secret: secret.clone(),
                test_secret: secret,
                settings: TenantSettings::default(),
                created_at: now,
                updated_at: now,
            };
            done(
                self.store
                    .create_tenant(tenant, name.into(), Actor::system(now)),
            )
            .unwrap();
            self.tenants.push(id);
        }
    }

    /// A process begins.
    fn live(&mut self) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        {
            let mut state = self.shared.state();
            state.dead = false;
            state.sending.clear();
            state.calm = true;
        }
        // As the engine begins it.
        let place = done(self.store.last_place()).unwrap();
        let began = self.shared.wall_at(self.now).max(place);
        self.shared.state().steady_began = began;
        let engine = runtime.block_on(async {
            self.shared.state().life = (self.now, Some(Instant::now()));
            let options = Options {
                store: self.store.clone(),
                transport: Arc::new(Receivers {
                    shared: self.shared.clone(),
                    store: self.store.clone(),
                    limits: self.limits,
                }),
                clock: Arc::new(SimClock(self.shared.clone())),
                profiles: self.profiles.clone(),
                sealer: self.sealer.clone(),
                limits: self.limits,
                counted_tenants: 0,
                tracer: Some(Arc::new(Traces(self.shared.clone()))),
            };
            Engine::start(options).await.unwrap()
        });
        self.shared.state().calm = false;
        self.process = Some((runtime, engine));
    }

    /// The process dies: all but the store is gone. A new one starts.
    pub(crate) fn crash(&mut self) {
        self.crashes += 1;
        self.shared.state().dead = true;
        if let Some((runtime, engine)) = self.process.take() {
            // Nothing that it still asks for is answered; this only keeps it from spawning more while it goes.
            runtime.block_on(engine.drain(Instant::now(), Duration::ZERO));
            drop(runtime);
            drop(engine);
        }
        self.live();
    }

    pub(crate) fn endpoint(
        &mut self,
        tenant: Id<id::Tenant>,
        ordering: Ordering,
        rate_limit: Option<u32>,
        script: Script,
    ) -> EndpointId {
        let id = self.store.ids().next(self.now);
        let endpoint = Endpoint {
            external_id: None,
            metadata: Metadata::new(),
            id,
            application: self.application,
            tenant,
            kind: EndpointKind::Registered,
            // How a transport knows whose it is.
            url: format!("https://example.com/{id}"),
            description: None,
            subscription: Subscription::all(),
            filter: None,
            mode: Mode::Live,
            headers: Vec::new(),
            secrets: Vec::new(),
            rate_limit,
            ordering,
            form: false,
            health: Health::default(),
            created_at: self.now,
            updated_at: self.now,
        };
        let by = Actor::system(self.now);
        done(self.store.create_endpoint(endpoint, None, by)).unwrap();
        let mut state = self.shared.state();
        state.scripts.insert(id, script);
        state.orders.insert(id, ordering);
        id
    }

    pub(crate) fn publish(
        &mut self,
        tenant: Id<id::Tenant>,
        key: Option<&str>,
        deliver_before: Option<Timestamp>,
    ) {
        let id: Id<id::Event> = self.store.ids().next(self.now);
        let bytes = self.shared.state().rng.usize(1..400);
        let trace = format!("00-{:032x}-0000000000000001-01", id.as_u128());
        let event = Event {
            id,
            application: self.application,
            tenant,
            event_type: Arc::from("order.completed"),
            data: Bytes::from(vec![b'1'; bytes]),
            meta: None,
            mode: Mode::Live,
            occurred_at: self.now,
            created_at: self.now,
            ordering_key: key.map(str::to_owned),
            deliver_before,
            traceparent: Some(trace.parse::<TraceParent>().unwrap()),
        };
        let new = NewEvent {
            event: Arc::new(event),
            target: Target::Matching,
            profile: self.profile_version,
            idempotency: None,
        };
        let shared = self.shared.clone();
        self.ask(async move |engine| {
            if let Ok(published) = engine.publish(new).await {
                shared
                    .state()
                    .accepted
                    .push((published.event, published.count));
            }
        });
    }

    /// Somebody asks the engine for something, and may not live to hear the answer.
    fn ask<F>(&self, call: impl FnOnce(Arc<Engine>) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (runtime, engine) = self.process.as_ref().unwrap();
        runtime.spawn(call(engine.clone()));
    }

    pub(crate) fn resend(&mut self, delivery: &Delivery) {
        let delivery = delivery.clone();
        self.ask(|engine| async move { drop(engine.resend(&delivery, false).await) });
    }

    pub(crate) fn cancel(&mut self, delivery: &Delivery) {
        let delivery = delivery.clone();
        self.ask(|engine| async move { drop(engine.cancel(&delivery).await) });
    }

    /// Disables, enables or deletes; the engine hears of it afterwards.
    pub(crate) fn churn(&mut self, endpoint: EndpointId) {
        let (now, by) = (self.now, Actor::system(self.now));
        let chosen = self.shared.state().rng.u8(0..10);
        let changed = match chosen {
            0 => done(self.store.delete_endpoint(endpoint, by)).is_ok(),
            1..5 => {
                let disable =
                    always(move |e: &mut Endpoint| e.health.disable(DisableReason::Manual, now));
                done(self.store.update_endpoint(endpoint, disable, by)).is_ok()
            }
            _ => {
                let enable = always(|e: &mut Endpoint| e.health.enable());
                done(self.store.update_endpoint(endpoint, enable, by)).is_ok()
            }
        };
        if changed {
            self.ask(|engine| async move { engine.endpoint_changed(endpoint) });
        }
    }

    /// The next commit is made, and nobody is told whether it was.
    pub(crate) fn lose_next_answer(&mut self) {
        self.shared.state().lose_answer = true;
    }

    /// The next request breaks off inside the transport, before it is made.
    pub(crate) fn break_next_request_off(&mut self) {
        self.shared.state().breaks_off.request = true;
    }

    /// The next attempt breaks off inside the process when it has its answer, before it is recorded.
    pub(crate) fn break_next_attempt_off(&mut self) {
        self.shared.state().breaks_off.attempt = true;
    }

    /// Deliveries that this process cannot bring on.
    pub(crate) fn set_aside(&self) -> u64 {
        let (_, engine) = self.process.as_ref().unwrap();
        engine.set_aside()
    }

    /// From now on nothing goes wrong, and every receiver answers 200.
    pub(crate) fn clear_up(&mut self) {
        let mut state = self.shared.state();
        state.weather = FAIR;
        for script in state.scripts.values_mut() {
            *script = Box::new(|_| (status(200), Duration::from_millis(1)));
        }
    }

    /// Lets time pass until `until`, or until nothing is left to happen; true for the latter.
    pub(crate) fn run_until(&mut self, until: Timestamp) -> bool {
        let mut looks = LOOKS.iter();
        let mut look = LOOKS[0];
        while self.now < until {
            let next = self.now.plus(look).min(until);
            let died = self.pass(next);
            self.check();
            if died {
                self.crash();
            } else if next < until && self.is_idle() {
                return true;
            } else if let Some(longer) = looks.next() {
                look = *longer;
            }
        }
        self.is_idle()
    }

    /// Lets time pass; true when the process died on the way.
    fn pass(&mut self, until: Timestamp) -> bool {
        let (runtime, _) = self.process.as_ref().unwrap();
        let shared = self.shared.clone();
        let died = runtime.block_on(async {
            tokio::select! {
                biased;
                () = shared.crash.notified() => true,
                () = tokio::time::sleep(until.since(shared.virtual_now())) => false,
            }
        });
        self.now = runtime.block_on(async { self.shared.virtual_now() });
        died
    }

    fn is_idle(&self) -> bool {
        let open = self.shared.state().sending.is_empty();
        let deliveries = self.deliveries();
        open && deliveries.iter().all(|delivery| delivery.state.is_final())
    }

    fn check(&self) {
        let violations = std::mem::take(&mut self.shared.state().violations);
        assert!(violations.is_empty(), "{}", violations.join("\n"));
    }

    /// Somebody sets the wall clock forward, or back when `secs` is negative.
    pub(crate) fn set_wall_clock(&mut self, secs: i64) {
        self.shared.state().wall_ahead += secs;
    }

    /// When each request came, of what, with the number of its attempt.
    pub(crate) fn requests(&self) -> Vec<(Timestamp, EndpointId, DeliveryId, u32)> {
        self.shared.state().requests.clone()
    }

    pub(crate) fn accepted(&self) -> Vec<Id<id::Event>> {
        self.promised()
            .into_iter()
            .map(|(event, _)| event)
            .collect()
    }

    /// What was acknowledged: events, and how many deliveries they have.
    pub(crate) fn promised(&self) -> Vec<(Id<id::Event>, u32)> {
        self.shared.state().accepted.clone()
    }

    pub(crate) fn unknown(&self) -> u32 {
        self.shared.state().unknown
    }

    /// All deliveries there are.
    pub(crate) fn deliveries(&self) -> Vec<Delivery> {
        let all = PageRequest::first(1_000_000);
        done(self.store.list_deliveries(DeliveryFilter::default(), all))
            .unwrap()
            .rows
    }

    pub(crate) fn attempts(&self, delivery: DeliveryId) -> Vec<Attempt> {
        done(self.store.attempts(delivery, None, u32::MAX)).unwrap()
    }

    pub(crate) fn health(&self, endpoint: EndpointId) -> Health {
        let found = done(self.store.endpoints(vec![endpoint])).unwrap();
        found[0].health
    }

    /// Seconds from the first request to each.
    pub(crate) fn starts(&self) -> Vec<f64> {
        let requests = self.requests();
        let first = requests.first().map_or(self.now, |(at, ..)| *at);
        requests
            .iter()
            .map(|(at, ..)| at.since(first).as_secs_f64())
            .collect()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.shared.state().dead = true;
        if let Some((runtime, engine)) = self.process.take() {
            runtime.block_on(engine.drain(Instant::now(), Duration::ZERO));
        }
    }
}
