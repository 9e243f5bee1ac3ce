//! A world in virtual time: the machine, the memory store, scripted receivers, a journal that
//! commits late, reads that answer late, commits that fail, and crashes at any step.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;
use postrider_core::attempt::{Outcome, Timings, UnreachableReason};
use postrider_core::audit::Actor;
use postrider_core::delivery::{DeliveryState, FailReason, Series};
use postrider_core::endpoint::{Endpoint, EndpointKind, Ordering};
use postrider_core::event::Event;
use postrider_core::filter::Subscription;
use postrider_core::health::{DisableReason, Health};
use postrider_core::judge::Next;
use postrider_core::profile::{Profile, built_in};
use postrider_core::tenant::{
    Application, ApplicationSettings, Mode, Tenant, TenantSecret, TenantSettings,
};
use postrider_core::time::Moment;
use postrider_core::{Id, Timestamp, id};
use postrider_engine::machine::{Action, Input, LaneConfig, Machine, MachineLimits};
use postrider_engine::{Exchange, Sent, settle};
use postrider_store::memory::MemoryStore;
use postrider_store::{
    DeliveryFilter, DueDelivery, FinishDelivery, LoadDue, NewEvent, PageRequest, Resend, Store,
    Target, Write, Written,
};

pub(crate) type EndpointId = Id<id::Endpoint>;
pub(crate) type DeliveryId = Id<id::Delivery>;

/// How long things take and how often they go wrong.
#[derive(Debug, Clone)]
pub(crate) struct Weather {
    /// Milliseconds at most for a commit or a read.
    pub(crate) store_latency_ms: u64,
    /// One commit in so many fails; 0 means none.
    pub(crate) commit_failure: u32,
    /// One step in so many is followed by a crash; 0 means none.
    pub(crate) crash: u32,
}

pub(crate) const FAIR: Weather = Weather {
    store_latency_ms: 0,
    commit_failure: 0,
    crash: 0,
};

/// What a receiver answers, and after how long.
pub(crate) type Script = Box<dyn FnMut(&mut Rng) -> (Outcome, Duration)>;

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

enum Happening {
    AttemptEnds {
        due: Box<DueDelivery>,
        started_at: Timestamp,
        outcome: Outcome,
    },
    Commit,
    Load(LoadDue),
    Configure(EndpointId),
    FinishPending {
        endpoint: EndpointId,
        state: DeliveryState,
    },
    Deliver(Box<Input>),
}

struct Waiting {
    write: Write,
    /// A record, with what its lane is told afterwards; none for a publish.
    record: Option<(DueDelivery, Next, bool)>,
}

pub(crate) struct World {
    /// Attempts that were given out and do not wait for the network yet.
    starting: usize,
    /// By the steady clock, in which the world lives.
    pub(crate) now: Timestamp,
    /// What the wall clock is ahead of it, in seconds.
    wall_ahead: i64,
    pub(crate) store: MemoryStore,
    pub(crate) rng: Rng,
    pub(crate) requests: Vec<(Timestamp, EndpointId, DeliveryId, u32)>,
    pub(crate) crashes: u32,
    pub(crate) accepted: Vec<Id<id::Event>>,
    profile: &'static Profile,
    limits: MachineLimits,
    weather: Weather,
    machine: Machine,
    queue: BinaryHeap<Reverse<(Timestamp, u64)>>,
    happenings: HashMap<u64, Happening>,
    counter: u64,
    journal: Vec<Waiting>,
    commit_planned: bool,
    halted: bool,
    scripts: HashMap<EndpointId, Script>,
    orders: HashMap<EndpointId, Ordering>,
    /// Requests that are open, and attempts whose record is not committed yet.
    sending: BTreeMap<DeliveryId, EndpointId>,
    under_way: BTreeMap<DeliveryId, EndpointId>,
    application: Id<id::Application>,
    pub(crate) tenants: Vec<Id<id::Tenant>>,
}

/// The memory store never waits.
fn done<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match future.as_mut().poll(&mut context) {
        std::task::Poll::Ready(value) => value,
        std::task::Poll::Pending => panic!("the memory store waits for nothing"),
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
        let now = Timestamp::from_secs(1_774_017_075);
        let store = MemoryStore::new(seed);
        let application = store.ids().next(now);
        let row = Application {
            id: application,
            name: "sim".into(),
            profile: profile.into(),
            settings: ApplicationSettings::default(),
            created_at: now,
            updated_at: now,
        };
        done(store.create_application(row, Actor::system(now))).unwrap();
        let tenants: Vec<Id<id::Tenant>> = (0..tenants).map(|_| store.ids().next(now)).collect();
        for id in &tenants {
            let (name, external_id) = ("t".into(), None);
            let secret = TenantSecret {
                sealed: Vec::new(),
                since: now,
            };
            let tenant = Tenant {
                id: *id,
                application,
                name,
                external_id,
                live_secret: secret.clone(),
                test_secret: secret,
                settings: TenantSettings::default(),
                created_at: now,
                updated_at: now,
            };
            done(store.create_tenant(tenant, Actor::system(now))).unwrap();
        }
        Self {
            now,
            wall_ahead: 0,
            store,
            rng: Rng::with_seed(seed),
            requests: Vec::new(),
            crashes: 0,
            accepted: Vec::new(),
            profile: built_in()
                .iter()
                .find(|known| known.name == profile)
                .unwrap(),
            limits,
            weather,
            starting: 0,
            machine: Machine::new(limits),
            queue: BinaryHeap::new(),
            happenings: HashMap::new(),
            counter: 0,
            journal: Vec::new(),
            commit_planned: false,
            halted: false,
            scripts: HashMap::new(),
            orders: HashMap::new(),
            sending: BTreeMap::new(),
            under_way: BTreeMap::new(),
            application,
            tenants,
        }
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
            id,
            application: self.application,
            tenant,
            kind: EndpointKind::Registered,
            url: "https://example.com/".into(),
            description: None,
            subscription: Subscription::all(),
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
        done(
            self.store
                .create_endpoint(endpoint, None, Actor::system(self.now)),
        )
        .unwrap();
        self.scripts.insert(id, script);
        self.orders.insert(id, ordering);
        id
    }

    pub(crate) fn publish(
        &mut self,
        tenant: Id<id::Tenant>,
        key: Option<&str>,
        deliver_before: Option<Timestamp>,
    ) {
        let event = Event {
            id: self.store.ids().next(self.now),
            application: self.application,
            tenant,
            event_type: Arc::from("order.completed"),
            data: Bytes::from(vec![b'1'; self.rng.usize(1..400)]),
            meta: None,
            mode: Mode::Live,
            occurred_at: self.now,
            created_at: self.now,
            ordering_key: key.map(str::to_owned),
            deliver_before,
            traceparent: None,
        };
        let new = NewEvent {
            event: Arc::new(event),
            target: Target::Matching,
            profile: 1,
            idempotency: None,
        };
        self.journal_write(Write::Publish(Box::new(new)), None);
    }

    pub(crate) fn resend(&mut self, delivery: DeliveryId) {
        let attempts = done(self.store.delivery(delivery)).map_or(0, |row| row.attempts);
        self.journal_write(
            Write::Resend(Resend {
                delivery,
                attempts,
                series: Series {
                    single: true,
                    ..Series::SCHEDULED
                },
            }),
            None,
        );
    }

    /// Disables, enables or deletes; the engine hears of it a little later.
    pub(crate) fn churn(&mut self, endpoint: EndpointId) {
        let now = self.now;
        let changed = match self.rng.u8(0..10) {
            0 => done(self.store.delete_endpoint(endpoint, Actor::system(now))).is_ok(),
            1..5 => done(self.store.update_endpoint(
                endpoint,
                Box::new(move |e| e.health.disable(DisableReason::Manual, now)),
                Actor::system(now),
            ))
            .is_ok(),
            _ => done(self.store.update_endpoint(
                endpoint,
                Box::new(|e| e.health.enable()),
                Actor::system(now),
            ))
            .is_ok(),
        };
        if changed {
            self.plan_store(Happening::Configure(endpoint));
        }
    }

    /// From now on nothing goes wrong, and every receiver answers 200.
    pub(crate) fn clear_up(&mut self) {
        self.weather = FAIR;
        for script in self.scripts.values_mut() {
            *script = Box::new(|_| (status(200), Duration::from_millis(1)));
        }
    }

    /// Lets time pass until `until`, or until nothing is left to happen; true for the latter.
    pub(crate) fn run_until(&mut self, until: Timestamp) -> bool {
        loop {
            let next = self.queue.peek().map(|Reverse((at, _))| *at);
            let wake = self.machine.next_wake().filter(|_| !self.halted);
            let Some(at) = [next, wake].into_iter().flatten().min() else {
                return true;
            };
            if at > until {
                self.now = until;
                return false;
            }
            self.now = self.now.max(at);
            match next {
                Some(next) if next <= self.now => {
                    let Some(Reverse((_, number))) = self.queue.pop() else {
                        continue;
                    };
                    if let Some(happening) = self.happenings.remove(&number) {
                        self.happen(happening);
                    }
                }
                _ => self.input(Input::Tick),
            }
            if self.weather.crash > 0 && self.rng.u32(0..self.weather.crash) == 0 {
                self.crash();
            }
        }
    }

    /// The process dies: all but the store is gone. A new one starts.
    pub(crate) fn crash(&mut self) {
        self.crashes += 1;
        self.queue.clear();
        self.happenings.clear();
        self.journal.clear();
        self.under_way.clear();
        self.sending.clear();
        self.starting = 0;
        self.commit_planned = false;
        self.halted = false;
        self.machine = Machine::new(self.limits);
        for lane in done(self.store.backlog()).unwrap() {
            self.input(Input::Backlog {
                endpoint: lane.endpoint,
                first: lane.first,
            });
        }
    }

    /// Somebody sets the wall clock forward, or back when `secs` is negative.
    pub(crate) fn set_wall_clock(&mut self, secs: i64) {
        self.wall_ahead += secs;
    }

    fn moment(&self) -> Moment {
        self.moment_of(self.now)
    }

    fn moment_of(&self, steady: Timestamp) -> Moment {
        let ahead = self.wall_ahead * 1_000_000;
        Moment {
            steady,
            wall: Timestamp::from_micros(steady.as_micros() + ahead),
        }
    }

    fn plan(&mut self, after: Duration, happening: Happening) {
        self.counter += 1;
        self.happenings.insert(self.counter, happening);
        self.queue
            .push(Reverse((self.now.plus(after), self.counter)));
    }

    fn plan_store(&mut self, happening: Happening) {
        let after = Duration::from_millis(self.rng.u64(0..=self.weather.store_latency_ms));
        self.plan(after, happening);
    }

    fn journal_write(&mut self, write: Write, record: Option<(DueDelivery, Next, bool)>) {
        self.journal.push(Waiting { write, record });
        if !self.commit_planned {
            self.commit_planned = true;
            self.plan_store(Happening::Commit);
        }
    }

    fn input(&mut self, input: Input) {
        if matches!(input, Input::Started) {
            self.starting -= 1;
        }
        let actions = self.machine.step(self.moment(), input);
        let stats = self.machine.stats();
        assert!(stats.in_flight <= self.limits.in_flight_max, "{stats:?}");
        // The delivery that fills it, and every lane's share.
        let slack = (stats.lanes * 16 + 1) * 1_024;
        assert!(
            stats.memory_bytes <= self.limits.memory_max + slack,
            "{stats:?}"
        );
        for action in actions {
            match action {
                Action::Send(due) => self.send(due),
                Action::Expire(due) => {
                    assert!(
                        due.event
                            .deliver_before
                            .is_some_and(|limit| limit < self.now)
                    );
                    let state = DeliveryState::Failed(FailReason::Expired);
                    let write = Write::Finish(FinishDelivery {
                        delivery: due.delivery.id,
                        endpoint: due.delivery.endpoint,
                        state,
                    });
                    self.journal_write(
                        write,
                        Some((*due, Next::Failed(FailReason::Expired), true)),
                    );
                }
                Action::Load {
                    endpoint,
                    until,
                    wish,
                } => self.plan_store(Happening::Load(LoadDue {
                    endpoint,
                    from: wish.from,
                    until,
                    limit: wish.rows,
                    bytes: wish.bytes,
                })),
                Action::Configure(endpoint) => self.plan_store(Happening::Configure(endpoint)),
                Action::FinishPending { endpoint, state } => {
                    self.plan_store(Happening::FinishPending { endpoint, state })
                }
            }
        }
    }

    fn send(&mut self, due: Box<DueDelivery>) {
        let (endpoint, id) = (due.delivery.endpoint, due.delivery.id);
        assert!(due.delivery.due_at <= self.now, "never early");
        assert!(
            !self.under_way.contains_key(&id),
            "one attempt of a delivery at a time"
        );
        let row = done(self.store.delivery(id)).unwrap();
        let (state, closed) = (row.state, self.is_closed(endpoint));
        assert!(
            state == DeliveryState::Pending || closed,
            "no attempt after a final state: {state:?}"
        );
        assert_eq!(
            row.attempts, due.delivery.attempts,
            "the machine knows what was recorded"
        );
        self.check_order(&due);
        self.under_way.insert(id, endpoint);
        self.sending.insert(id, endpoint);
        self.starting += 1;
        assert!(
            self.starting <= self.limits.starting_max,
            "{} attempts are begun at once",
            self.starting
        );
        let begun = Duration::from_micros(self.rng.u64(0..=200));
        self.plan(begun, Happening::Deliver(Box::new(Input::Started)));
        let of_lane = self
            .sending
            .values()
            .filter(|other| **other == endpoint)
            .count();
        assert!(
            of_lane <= self.limits.lane_in_flight_max,
            "{of_lane} requests at once"
        );
        self.requests
            .push((self.now, endpoint, id, due.delivery.attempts + 1));
        let script = self.scripts.get_mut(&endpoint).unwrap();
        let (outcome, took) = script(&mut self.rng);
        self.plan(
            took,
            Happening::AttemptEnds {
                due,
                started_at: self.now,
                outcome,
            },
        );
    }

    fn is_closed(&self, endpoint: EndpointId) -> bool {
        let (row, deleted) = done(self.store.lane_endpoint(endpoint)).unwrap();
        deleted || !row.health.is_enabled()
    }

    /// An ordered lane sends nothing while something before it is undecided.
    fn check_order(&self, due: &DueDelivery) {
        let endpoint = due.delivery.endpoint;
        if self.orders[&endpoint] == Ordering::None || self.is_closed(endpoint) {
            return;
        }
        let page = done(self.store.load_due(LoadDue::all(endpoint))).unwrap();
        for earlier in page.rows.iter().filter(|row| row.sequence < due.sequence) {
            let same_key = due.event.ordering_key.is_some()
                && earlier.event.ordering_key == due.event.ordering_key;
            assert!(
                self.orders[&endpoint] == Ordering::Key && !same_key,
                "{} overtook {}",
                due.delivery.id,
                earlier.delivery.id
            );
        }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::AttemptEnds {
                due,
                started_at,
                outcome,
            } => self.attempt_ended(*due, started_at, outcome),
            Happening::Commit => self.commit(),
            Happening::Load(query) => {
                let endpoint = query.endpoint;
                let input = if self.weather.commit_failure > 0
                    && self.rng.u32(0..self.weather.commit_failure) == 0
                {
                    Input::LoadFailed { endpoint }
                } else {
                    Input::Loaded {
                        endpoint,
                        page: done(self.store.load_due(query)).unwrap(),
                    }
                };
                // What was read is old by the time it is told.
                self.plan_store(Happening::Deliver(Box::new(input)));
            }
            Happening::Configure(endpoint) => {
                let (row, deleted) = done(self.store.lane_endpoint(endpoint)).unwrap();
                let closed = if deleted {
                    Some(DeliveryState::Cancelled)
                } else {
                    (!row.health.is_enabled())
                        .then_some(DeliveryState::Failed(FailReason::EndpointDisabled))
                };
                let config = LaneConfig {
                    tenant: row.tenant,
                    closed,
                    held: false,
                    ordering: row.ordering,
                    rate_limit: row.rate_limit,
                    breaker: self.profile.engine.breaker,
                    throttle: self.profile.engine.throttle,
                };
                self.input(Input::Configure { endpoint, config });
            }
            Happening::FinishPending { endpoint, state } => {
                while done(self.store.finish_pending(endpoint, state, self.now, 3)).unwrap() > 0 {}
                self.plan_store(Happening::Deliver(Box::new(Input::PendingFinished {
                    endpoint,
                })));
            }
            Happening::Deliver(input) => self.input(*input),
        }
    }

    fn attempt_ended(&mut self, due: DueDelivery, started_at: Timestamp, outcome: Outcome) {
        let endpoint = due.delivery.endpoint;
        self.sending.remove(&due.delivery.id);
        let exchange = Exchange {
            outcome,
            response: None,
            timings: Timings::default(),
            egress: None,
        };
        let sent = Sent {
            url: String::new(),
            headers: Vec::new(),
            rendering: None,
            started: self.moment_of(started_at),
            ended: self.moment(),
            one_off: false,
        };
        let keep_place = self.orders[&endpoint] != Ordering::None;
        let settled = settle(
            self.profile,
            due,
            sent,
            exchange,
            keep_place,
            self.rng.f64(),
        );
        self.journal_write(
            Write::Record(Box::new(settled.record)),
            Some((settled.due, settled.next, keep_place)),
        );
        self.input(Input::Released {
            endpoint,
            started_at,
            took: Some(self.now.since(started_at)),
            signal: settled.signal,
        });
    }

    fn commit(&mut self) {
        self.commit_planned = false;
        let waiting = std::mem::take(&mut self.journal);
        if self.weather.commit_failure > 0 && self.rng.u32(0..self.weather.commit_failure) == 0 {
            // Publishers are refused; records are tried again.
            self.journal = waiting
                .into_iter()
                .filter(|entry| entry.record.is_some())
                .collect();
            if !self.journal.is_empty() {
                self.halted = true;
                self.commit_planned = true;
                self.plan(Duration::from_millis(250), Happening::Commit);
                self.input(Input::Halt);
            }
            return;
        }
        let batch = waiting.iter().map(|entry| entry.write.clone()).collect();
        let answers = done(self.store.commit(self.moment(), batch));
        let mut new = Vec::new();
        let mut settled = Vec::new();
        for (entry, answer) in waiting.into_iter().zip(answers) {
            match (entry.record, answer) {
                (Some((due, next, keep)), Ok(Written::Recorded(recorded))) => {
                    assert!(recorded.applied, "each attempt is recorded once");
                    settled.push((due, next, keep, recorded.disabled.is_some()));
                }
                (Some((due, next, keep)), Ok(Written::Finished(_))) => {
                    settled.push((due, next, keep, false))
                }
                (None, Ok(Written::Published(published))) => {
                    self.accepted.push(published.event);
                    new.extend(published.deliveries);
                }
                (None, Ok(Written::Resent(due))) => new.push(due),
                (None, Err(_)) => {}
                (_, other) => panic!("{other:?}"),
            }
        }
        // The answer may be lost: the process dies after the commit and before anybody hears of it.
        if self.weather.crash > 0 && self.rng.u32(0..self.weather.crash) == 0 {
            return self.crash();
        }
        if self.halted {
            self.halted = false;
            self.input(Input::Resume);
        }
        for (due, next, keep_place, disabled) in settled {
            self.under_way.remove(&due.delivery.id);
            if disabled {
                self.plan_store(Happening::Configure(due.delivery.endpoint));
            }
            self.input(Input::Settled {
                due: Box::new(due),
                next,
                keep_place,
            });
        }
        self.input(Input::Due(new));
    }

    /// All deliveries there are.
    pub(crate) fn deliveries(&self) -> Vec<postrider_core::delivery::Delivery> {
        let page = done(
            self.store
                .list_deliveries(DeliveryFilter::default(), PageRequest::first(1_000_000)),
        )
        .unwrap();
        page.rows
    }

    pub(crate) fn attempts(&self, delivery: DeliveryId) -> Vec<postrider_core::attempt::Attempt> {
        done(self.store.attempts(delivery, None, u32::MAX)).unwrap()
    }

    pub(crate) fn health(&self, endpoint: EndpointId) -> Health {
        done(self.store.lane_endpoint(endpoint)).unwrap().0.health
    }

    /// Seconds from the first request to each.
    pub(crate) fn starts(&self) -> Vec<f64> {
        let first = self.requests.first().map_or(self.now, |(at, ..)| *at);
        self.requests
            .iter()
            .map(|(at, ..)| at.since(first).as_secs_f64())
            .collect()
    }
}
