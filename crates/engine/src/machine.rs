//! The machine: decides which delivery is sent when. Pure: `step(now, input) -> actions`.
//!
//! It holds a lane for each endpoint that has work. A lane knows its order, its rate, its learned
//! concurrency and its breaker; a ring of tenants, and within each tenant a ring of lanes, gives
//! turns to those that can send now. Work is proportional to lanes with due work, never to lanes
//! that exist. What does not fit in memory stays in the store: a lane remembers only the place of
//! the first delivery it left there, and asks for a page when that comes near.

mod breaker;
mod lane;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use postrider_core::delivery::DeliveryState;
use postrider_core::endpoint::Ordering;
use postrider_core::judge::{Next, Signal};
use postrider_core::{Id, Timestamp, id};
use postrider_store::{DueDelivery, DuePage};

use lane::{Lane, Turn};

type EndpointId = Id<id::Endpoint>;
type TenantId = Id<id::Tenant>;

/// The machine's bounds.
#[derive(Debug, Clone, Copy)]
pub struct MachineLimits {
    /// Requests under way at once, over all lanes.
    pub in_flight_max: usize,
    /// Requests under way at once for one lane: the ceiling of what it may learn.
    pub lane_in_flight_max: usize,
    /// Bytes of deliveries held in memory; beyond, they wait in the store.
    pub memory_max: usize,
    /// Deliveries of one lane held in memory.
    pub lane_items_max: usize,
    /// A delivery due later than this is left in the store.
    pub horizon: Duration,
}

impl Default for MachineLimits {
    fn default() -> Self {
        Self {
            in_flight_max: 4_096,
            lane_in_flight_max: 512,
            memory_max: 64 * 1024 * 1024,
            lane_items_max: 1_024,
            horizon: Duration::from_secs(60),
        }
    }
}

/// What a lane has to know about its endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaneConfig {
    pub tenant: TenantId,
    /// Set when nothing may be sent: what pending deliveries become.
    pub closed: Option<DeliveryState>,
    pub ordering: Ordering,
    /// Deliveries per second.
    pub rate_limit: Option<u32>,
    pub breaker: bool,
    pub throttle: bool,
}

#[derive(Debug)]
pub enum Input {
    /// Deliveries that were just committed, in the order of their commit.
    Due(Vec<DueDelivery>),
    /// The store holds pending deliveries of this endpoint from this place on.
    Backlog {
        endpoint: EndpointId,
        first: Timestamp,
    },
    Configure {
        endpoint: EndpointId,
        config: LaneConfig,
    },
    /// The answer to [`Action::Load`].
    Loaded {
        endpoint: EndpointId,
        page: DuePage,
    },
    /// The page could not be read; it is asked for again later.
    LoadFailed {
        endpoint: EndpointId,
    },
    /// The request of an attempt ended and its slot is free; the record is on its way.
    Released {
        endpoint: EndpointId,
        started_at: Timestamp,
        signal: Signal,
    },
    /// What followed from an attempt (or an expiry) is committed.
    Settled {
        due: Box<DueDelivery>,
        next: Next,
    },
    /// The answer to [`Action::FinishPending`].
    PendingFinished {
        endpoint: EndpointId,
    },
    /// The store takes no records: start nothing until `Resume`.
    Halt,
    Resume,
    /// Time passed.
    Tick,
}

#[derive(Debug)]
pub enum Action {
    /// Make an attempt. Ends in `Released`, then `Settled`.
    Send(Box<DueDelivery>),
    /// `deliverBefore` passed: finish without an attempt. Ends in `Settled`.
    Expire(Box<DueDelivery>),
    /// Read the first `limit` pending deliveries up to `until`.
    Load {
        endpoint: EndpointId,
        until: Timestamp,
        limit: u32,
    },
    /// Look the endpoint up and answer with `Configure`.
    Configure(EndpointId),
    /// Give everything pending of a closed lane its final state.
    FinishPending {
        endpoint: EndpointId,
        state: DeliveryState,
    },
}

#[derive(Debug)]
pub struct Machine {
    limits: MachineLimits,
    lanes: HashMap<EndpointId, Lane>,
    /// Lanes that can send now, by tenant; a tenant is in `ring` as long as it has any.
    turns: HashMap<TenantId, VecDeque<EndpointId>>,
    ring: VecDeque<TenantId>,
    timers: BTreeSet<(Timestamp, EndpointId)>,
    in_flight: usize,
    memory: usize,
    halted: bool,
}

/// Figures for metrics and tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MachineStats {
    pub lanes: usize,
    pub in_flight: usize,
    pub memory_bytes: usize,
}

impl Machine {
    pub fn new(limits: MachineLimits) -> Self {
        Self {
            limits,
            lanes: HashMap::new(),
            turns: HashMap::new(),
            ring: VecDeque::new(),
            timers: BTreeSet::new(),
            in_flight: 0,
            memory: 0,
            halted: false,
        }
    }

    pub fn stats(&self) -> MachineStats {
        MachineStats {
            lanes: self.lanes.len(),
            in_flight: self.in_flight,
            memory_bytes: self.memory,
        }
    }

    /// When the machine wants its next `Tick`.
    pub fn next_wake(&self) -> Option<Timestamp> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Takes one input and says what to do.
    pub fn step(&mut self, now: Timestamp, input: Input) -> Vec<Action> {
        let mut actions = Vec::new();
        match input {
            Input::Due(deliveries) => {
                for due in deliveries {
                    let endpoint = due.delivery.endpoint;
                    self.admit(due);
                    self.look(now, endpoint, &mut actions);
                }
            }
            Input::Backlog { endpoint, first } => {
                self.lane(endpoint).leave_in_store(first);
                self.look(now, endpoint, &mut actions);
            }
            Input::Configure { endpoint, config } => {
                if let Some(lane) = self.lanes.get_mut(&endpoint) {
                    self.memory -= lane.configure(config);
                    self.look(now, endpoint, &mut actions);
                }
            }
            Input::Loaded { endpoint, page } => {
                self.loaded(endpoint, page);
                self.look(now, endpoint, &mut actions);
            }
            Input::LoadFailed { endpoint } => {
                self.lane(endpoint).load_failed(now);
                self.look(now, endpoint, &mut actions);
            }
            Input::Released {
                endpoint,
                started_at,
                signal,
            } => {
                self.in_flight -= 1;
                self.lane(endpoint).released(now, started_at, signal);
                self.look(now, endpoint, &mut actions);
            }
            Input::Settled { due, next } => {
                let endpoint = due.delivery.endpoint;
                self.settled(now, *due, next);
                self.look(now, endpoint, &mut actions);
            }
            Input::PendingFinished { endpoint } => {
                self.lane(endpoint).finishing = false;
                self.look(now, endpoint, &mut actions);
            }
            Input::Halt => self.halted = true,
            Input::Resume => self.halted = false,
            Input::Tick => {
                while let Some((at, endpoint)) =
                    self.timers.first().copied().filter(|(at, _)| *at <= now)
                {
                    self.timers.remove(&(at, endpoint));
                    self.lane(endpoint).timer = None;
                    self.look(now, endpoint, &mut actions);
                }
            }
        }
        self.give_turns(now, &mut actions);
        actions
    }

    fn lane(&mut self, endpoint: EndpointId) -> &mut Lane {
        let ceiling = self.limits.lane_in_flight_max.max(1);
        self.lanes
            .entry(endpoint)
            .or_insert_with(|| Lane::new(ceiling))
    }

    /// Takes a committed delivery into memory, or notes that it waits in the store.
    fn admit(&mut self, due: DueDelivery) {
        let (memory_max, items_max) = (self.limits.memory_max, self.limits.lane_items_max);
        let memory = self.memory;
        let lane = self.lane(due.delivery.endpoint);
        if lane.holds(&due) {
            // A page that was read after the commit brought it already.
            return;
        }
        // While older ones wait in the store, fresh ones leave room for them.
        let items_max = if lane.has_stored() {
            items_max / 2
        } else {
            items_max
        };
        let room = (memory < memory_max && lane.len() < items_max) || lane.has_share();
        // An ordered lane holds a prefix of its deliveries: nothing may pass what is in the store.
        if lane.is_closed() || !room || (lane.is_ordered() && lane.has_stored()) {
            lane.leave_in_store(Timestamp::from_micros(due.sequence));
        } else {
            let size = lane.insert(due);
            self.memory += size;
        }
    }

    fn loaded(&mut self, endpoint: EndpointId, page: DuePage) {
        let memory_max = self.limits.memory_max;
        let mut memory = self.memory;
        let lane = self.lane(endpoint);
        let closed = lane.is_closed();
        lane.end_load(page.next);
        let mut left = None;
        for due in page.rows {
            let place = Timestamp::from_micros(due.sequence);
            if lane.knows(&due) {
                continue;
            }
            if closed || left.is_some() || (memory >= memory_max && !lane.has_share()) {
                left.get_or_insert(place);
                continue;
            }
            memory += lane.insert(due);
        }
        lane.forget_settled();
        if let Some(place) = left {
            lane.leave_in_store(place);
        }
        self.memory = memory;
    }

    fn settled(&mut self, now: Timestamp, mut due: DueDelivery, next: Next) {
        let (memory_max, items_max, horizon) = (
            self.limits.memory_max,
            self.limits.lane_items_max,
            self.limits.horizon,
        );
        let size = self.lane(due.delivery.endpoint).settle(&due);
        self.memory -= size;
        let memory = self.memory;
        let lane = self.lane(due.delivery.endpoint);
        let Next::Retry { at } = next else { return };
        due.delivery.due_at = at;
        if !lane.is_ordered() {
            due.sequence = at.as_micros();
        }
        let room = (memory < memory_max && lane.len() < items_max) || lane.has_share();
        let keep = lane.is_ordered() || (at <= now.plus(horizon) && room);
        if lane.is_closed() || !keep {
            lane.leave_in_store(Timestamp::from_micros(due.sequence));
        } else {
            let size = lane.insert(due);
            self.memory += size;
        }
    }

    /// Looks at one lane after something about it changed: queues it for a turn, sets its timer,
    /// asks for what it lacks, or lets it go.
    fn look(&mut self, now: Timestamp, endpoint: EndpointId, actions: &mut Vec<Action>) {
        let Some(lane) = self.lanes.get_mut(&endpoint) else {
            return;
        };
        let Some(config) = lane.config else {
            if !lane.asked_config {
                lane.asked_config = true;
                actions.push(Action::Configure(endpoint));
            }
            return;
        };
        if let Some(state) = config.closed {
            if lane.wants_finish() {
                lane.begin_finish();
                actions.push(Action::FinishPending { endpoint, state });
            }
            self.let_go_if_idle(endpoint);
            return;
        }
        let full = self.memory >= self.limits.memory_max;
        if let Some(limit) = lane.wants_page(now, &self.limits, full) {
            actions.push(Action::Load {
                endpoint,
                until: now.plus(self.limits.horizon),
                limit,
            });
        }
        let wake = match lane.turn(now) {
            Turn::Now => {
                if !lane.queued {
                    lane.queued = true;
                    let queue = self.turns.entry(config.tenant).or_default();
                    if queue.is_empty() {
                        self.ring.push_back(config.tenant);
                    }
                    queue.push_back(endpoint);
                }
                None
            }
            Turn::At(at) => Some(at),
            Turn::Never => None,
        };
        let wake = [wake, lane.wake_for_page(now, &self.limits)]
            .into_iter()
            .flatten()
            .min();
        if lane.timer != wake {
            if let Some(old) = lane.timer {
                self.timers.remove(&(old, endpoint));
            }
            lane.timer = wake;
            if let Some(at) = wake {
                self.timers.insert((at, endpoint));
            }
        }
        self.let_go_if_idle(endpoint);
    }

    /// Gives turns, one delivery each: tenants in a ring, and the lanes of a tenant in a ring.
    fn give_turns(&mut self, now: Timestamp, actions: &mut Vec<Action>) {
        while self.in_flight < self.limits.in_flight_max && !self.halted {
            let Some(tenant) = self.ring.pop_front() else {
                break;
            };
            let Some(queue) = self.turns.get_mut(&tenant) else {
                continue;
            };
            let endpoint = queue.pop_front();
            if queue.is_empty() {
                self.turns.remove(&tenant);
            } else {
                self.ring.push_back(tenant);
            }
            let Some(endpoint) = endpoint else { continue };
            let Some(lane) = self.lanes.get_mut(&endpoint) else {
                continue;
            };
            lane.queued = false;
            if let Some(due) = lane.take(now) {
                let expired = due.event.deliver_before.is_some_and(|limit| now > limit);
                if expired {
                    actions.push(Action::Expire(Box::new(due)));
                } else {
                    lane.start(now);
                    self.in_flight += 1;
                    actions.push(Action::Send(Box::new(due)));
                }
            }
            self.look(now, endpoint, actions);
        }
    }

    /// An idle lane keeps what it learned, unless there are very many.
    fn let_go_if_idle(&mut self, endpoint: EndpointId) {
        const IDLE_LANES_KEPT: usize = 10_000;
        if self.lanes.len() > IDLE_LANES_KEPT
            && self.lanes.get(&endpoint).is_some_and(Lane::is_idle)
        {
            self.lanes.remove(&endpoint);
        }
    }
}
