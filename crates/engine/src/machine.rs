//! The machine: decides which delivery is sent when. Pure: `step(now, input) -> actions`.
//!
//! It holds a lane for each endpoint that has work. A lane knows its order, its rate, its learned
//! concurrency and its breaker; a ring of tenants, and within each tenant a ring of lanes, gives
//! turns to those that can send now. Work is proportional to lanes with due work, never to lanes
//! that exist. What does not fit in memory stays in the store: a lane remembers only the place of
//! the first delivery it left there, and asks for a page when that comes near.

mod breaker;
mod concurrency;
mod lane;
mod rate;
mod shares;
mod survey;

use std::collections::BTreeSet;
use std::time::Duration;

use postrider_core::delivery::DeliveryState;
use postrider_core::endpoint::Ordering;
use postrider_core::judge::{Next, Signal};
use postrider_core::time::Moment;
use postrider_core::{Id, Timestamp, id};
use postrider_store::{DueDelivery, DuePage};

use crate::ids::IdMap;
use lane::{Lane, Turn};
use shares::Shares;

pub use survey::{LaneSurvey, LanesStanding, Standing, Survey};

/// How long a lane waits that has what it has learned and would have more, were its tenant's lanes not that many.
const CROWDED_PAUSE: Duration = Duration::from_millis(100);
/// With more lanes than these, those that are idle are let go.
const IDLE_LANES_KEPT: usize = 50_000;

type EndpointId = Id<id::Endpoint>;
type TenantId = Id<id::Tenant>;

/// The machine's bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MachineLimits {
    /// Requests under way at once, over all lanes.
    pub in_flight_max: usize,
    /// Attempts that are given out, and neither ended nor known to wait for a receiver that takes its time: each is some tens of
    /// microseconds of work. Whoever has a thousand of them to do would otherwise stand before everybody with all of it.
    pub starting_max: usize,
    /// Requests under way at once for one lane: the ceiling of what it may learn. Few receivers gain
    /// from more, and all of them pay for each connection.
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
            // Measured beside another tenant's fan-out of 1,000 each second: the p99 of 500 events/s went
            // from 150 to 44 ms by it, and full speed stayed.
            starting_max: 64,
            lane_in_flight_max: 128,
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
    /// Nothing is sent, and nothing given up either: it waits in the store until the owner goes on.
    pub held: bool,
    pub ordering: Ordering,
    /// Deliveries per second.
    pub rate_limit: Option<u32>,
    pub breaker: bool,
    pub throttle: bool,
    /// Which receiver it is: another number where the URL is another one.
    pub receiver: u64,
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
    /// An attempt has ended, or waits for a receiver that takes its time.
    Started,
    /// The request of an attempt ended and its slot is free; the record is on its way.
    Released {
        endpoint: EndpointId,
        /// By the steady clock.
        started_at: Timestamp,
        /// How long the receiver needed for its answer, connecting left out; none without an answer.
        took: Option<Duration>,
        signal: Signal,
    },
    /// What followed from an attempt (or an expiry) is committed.
    Settled {
        due: Box<DueDelivery>,
        next: Next,
        /// The store keeps its place: it has not moved to the time of its retry.
        keep_place: bool,
    },
    /// The record of an attempt was not taken, because the store lacks one before it: it is another one than it was, and knows
    /// alone what is left to do.
    Behind {
        due: Box<DueDelivery>,
    },
    /// A delivery that was given out was not tried: this server cannot send it now. Nothing of it was written.
    PutOff {
        due: Box<DueDelivery>,
    },
    /// Somebody ended a delivery that waited; that is committed, or may be.
    Ended {
        endpoint: EndpointId,
        delivery: Id<id::Delivery>,
    },
    /// The answer to [`Action::FinishPending`].
    PendingFinished {
        endpoint: EndpointId,
    },
    /// The store takes no records: start nothing until `Resume`.
    Halt,
    Resume,
    /// The store is this process's until then; after it nothing is sent before another of these.
    Owned {
        until: Moment,
    },
    /// Time passed.
    Tick,
}

#[derive(Debug)]
pub enum Action {
    /// Make an attempt. Soon `Started`; ends in `Released`, then `Settled`.
    Send(Box<DueDelivery>),
    /// `deliverBefore` passed: finish without an attempt. Ends in `Settled`.
    Expire(Box<DueDelivery>),
    /// Read the first pending deliveries up to `until`.
    Load {
        endpoint: EndpointId,
        until: Timestamp,
        wish: PageWish,
    },
    /// Look the endpoint up and answer with `Configure`.
    Configure(EndpointId),
    /// Give everything pending of a closed lane its final state.
    FinishPending {
        endpoint: EndpointId,
        state: DeliveryState,
    },
}

/// How much a lane wants of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageWish {
    /// Nothing that waits in the store only has a place before it.
    pub from: Timestamp,
    pub rows: u32,
    /// Of payload; the page ends with the delivery that reaches it.
    pub bytes: usize,
}

#[derive(Debug)]
pub struct Machine {
    limits: MachineLimits,
    lanes: IdMap<id::Endpoint, Lane>,
    shares: Shares,
    timers: BTreeSet<(Timestamp, EndpointId)>,
    /// Attempts given out that are not `Started`.
    starting: usize,
    halted: bool,
    /// Until when the store is surely this process's; none where nobody else could have it.
    owned_until: Option<Moment>,
}

/// Figures that cost nothing to read.
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
            lanes: IdMap::default(),
            shares: Shares::new(limits.in_flight_max, limits.memory_max),
            timers: BTreeSet::new(),
            starting: 0,
            halted: false,
            owned_until: None,
        }
    }

    pub fn stats(&self) -> MachineStats {
        MachineStats {
            lanes: self.lanes.len(),
            in_flight: self.shares.in_flight(),
            memory_bytes: self.shares.memory(),
        }
    }

    /// Whether an attempt of the delivery is being made or recorded.
    pub fn is_under_way(&self, endpoint: EndpointId, delivery: Id<id::Delivery>) -> bool {
        let lane = self.lanes.get(&endpoint);
        lane.is_some_and(|lane| lane.is_under_way(delivery))
    }

    /// Endpoints that have a lane here.
    pub fn endpoints(&self) -> Vec<EndpointId> {
        self.lanes.keys().copied().collect()
    }

    /// When the machine wants its next `Tick`.
    pub fn next_wake(&self) -> Option<Timestamp> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Takes one input and says what to do.
    ///
    /// All waiting is by the steady clock; the wall clock only says whether a `deliverBefore` has passed.
    #[expect(
        clippy::too_many_lines,
        reason = "one arm for each input: what the machine is"
    )]
    pub fn step(&mut self, at: impl Into<Moment>, input: Input) -> Vec<Action> {
        let at = at.into();
        let now = at.steady;
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
                // A lane that is not here asks for its endpoint when it has work.
                if let Some(lane) = self.lanes.get_mut(&endpoint) {
                    let let_go = lane.configure(now, config);
                    self.shares.give_memory(config.tenant, let_go);
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
                took,
                signal,
            } => {
                let lane = self.lane(endpoint);
                lane.released(now, started_at, took, signal);
                // This failure may have made it a failing lane.
                let let_go = lane.leave_most();
                // A lane that has sent is configured: before that it has no turn.
                if let Some(tenant) = lane.config.map(|config| config.tenant) {
                    self.shares.give_slot(tenant);
                    self.shares.give_memory(tenant, let_go);
                }
                self.look(now, endpoint, &mut actions);
            }
            Input::PutOff { due } => {
                let endpoint = due.delivery.endpoint;
                self.put_off(*due);
                self.look(now, endpoint, &mut actions);
            }
            Input::Settled {
                due,
                next,
                keep_place,
            } => {
                let endpoint = due.delivery.endpoint;
                self.settled(now, *due, next, keep_place);
                self.look(now, endpoint, &mut actions);
            }
            Input::Behind { due } => {
                let endpoint = due.delivery.endpoint;
                self.behind(&due);
                self.look(now, endpoint, &mut actions);
            }
            Input::Ended { endpoint, delivery } => {
                // Without a lane nothing is held, and what the store says is read when one is made.
                if let Some(lane) = self.lanes.get_mut(&endpoint) {
                    if let Some((tenant, size)) = lane.end(delivery) {
                        self.shares.give_memory(tenant, size);
                    }
                    self.look(now, endpoint, &mut actions);
                }
            }
            Input::PendingFinished { endpoint } => {
                self.lane(endpoint).finishing = false;
                self.look(now, endpoint, &mut actions);
            }
            Input::Started => self.starting -= 1,
            Input::Halt => self.halted = true,
            Input::Resume => self.halted = false,
            Input::Owned { until } => self.owned_until = Some(until),
            Input::Tick => {
                while let Some((at, endpoint)) =
                    self.timers.first().copied().filter(|(at, _)| *at <= now)
                {
                    // Taken out first: `look` sets the next one, which is later than now, so this ends.
                    self.timers.remove(&(at, endpoint));
                    self.lane(endpoint).timer = None;
                    self.look(now, endpoint, &mut actions);
                }
            }
        }
        // After every input, for any of them may free a slot or make a lane ready.
        self.give_turns(at, &mut actions);
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
        let items_max = self.limits.lane_items_max;
        let tenant = due.delivery.tenant;
        let has_room = self.shares.has_room(tenant);
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
        // What waits for dead receivers would fill the memory, and everybody else's would go by the store.
        let has_room = has_room && !lane.is_failing();
        let room = (has_room && lane.len() < items_max) || lane.has_share();
        // An ordered lane holds a prefix of its deliveries: nothing may pass what is in the store.
        if lane.is_closed() || lane.is_held() || !room || (lane.is_ordered() && lane.has_stored()) {
            lane.leave_in_store(Timestamp::from_micros(due.sequence));
        } else {
            let size = lane.insert(due);
            self.shares.take_memory(tenant, size);
        }
    }

    fn loaded(&mut self, endpoint: EndpointId, page: DuePage) {
        let lane = self.lane(endpoint);
        // It may have been closed while the page was read.
        let is_void = lane.is_page_void();
        let closed = is_void || lane.is_closed() || lane.is_held();
        // Before the rows: those that are left below only make the place earlier.
        lane.end_load(page.next);
        let mut left = None;
        for due in page.rows {
            let place = Timestamp::from_micros(due.sequence);
            let tenant = due.delivery.tenant;
            let has_room = self.shares.has_room(tenant);
            let lane = self.lane(endpoint);
            if lane.knows(&due) {
                continue;
            }
            // What is due before all that is held is taken however full memory is: otherwise the same page
            // would be asked for again and again.
            let is_first = lane.first_place().is_some_and(|first| place < first);
            // A failing lane takes the whole page, which is small, and keeps the first of all below.
            let has_room = has_room || lane.is_failing();
            // Behind the first row that is left all are left: what is held stays a prefix of what waits.
            if closed || left.is_some() || (!has_room && !lane.has_share() && !is_first) {
                left.get_or_insert(place);
                continue;
            }
            let size = lane.insert(due);
            self.shares.take_memory(tenant, size);
        }
        let lane = self.lane(endpoint);
        // After the rows were compared with it, and before the lane sheds: an ordered one waits for that.
        lane.forget_settled();
        if let Some(place) = left {
            lane.leave_in_store(place);
        }
        let let_go = lane.leave_most();
        if let Some(tenant) = lane.config.map(|config| config.tenant) {
            self.shares.give_memory(tenant, let_go);
        }
    }

    fn settled(&mut self, now: Timestamp, mut due: DueDelivery, next: Next, keep_place: bool) {
        let (items_max, horizon) = (self.limits.lane_items_max, self.limits.horizon);
        let tenant = due.delivery.tenant;
        let (size, ended) = self.lane(due.delivery.endpoint).settle(&due);
        // Whatever follows: a retry that stays in memory takes it anew.
        self.shares.give_memory(tenant, size);
        let Next::Retry { at } = next else { return };
        if ended {
            // The retry is not wanted any more, unless it was resent: the store knows.
            let place = Timestamp::from_micros(due.sequence).min(at);
            return self.lane(due.delivery.endpoint).leave_in_store(place);
        }
        let has_room = self.shares.has_room(tenant);
        let lane = self.lane(due.delivery.endpoint);
        due.delivery.due_at = at;
        // The place that the store has, whatever the lane's order has become meanwhile: pages are asked
        // for from the first place that was left there.
        if !keep_place {
            due.sequence = at.as_micros();
        }
        let has_room = has_room && !lane.is_failing();
        let room = (has_room && lane.len() < items_max) || lane.has_share();
        // In an ordered lane it keeps back what comes after it, so it stays however late its retry is.
        let keep = lane.is_ordered() || (at <= now.plus(horizon) && room);
        if lane.is_closed() || lane.is_held() || !keep {
            lane.leave_in_store(Timestamp::from_micros(due.sequence));
        } else {
            let size = lane.insert(due);
            self.shares.take_memory(tenant, size);
        }
    }

    /// Lets a delivery go that is to be read anew, wherever the store has its place.
    fn behind(&mut self, due: &DueDelivery) {
        let tenant = due.delivery.tenant;
        let lane = self.lane(due.delivery.endpoint);
        let (mut size, _) = lane.settle(due);
        // Those behind it would overtake it, were they given out before it is read.
        if lane.is_ordered() {
            size += lane.drop_items();
            lane.begin_with_first();
        } else {
            lane.leave_in_store(Timestamp::default());
        }
        self.shares.give_memory(tenant, size);
    }

    /// A delivery that was not tried comes back to where it was. It stays in memory, where it was counted: the store has
    /// it due, and would give it back at once. It is the next of its lane again, so that no more are taken out and put off
    /// than are sent at once.
    fn put_off(&mut self, due: DueDelivery) {
        let tenant = due.delivery.tenant;
        let (size, ended) = self.lane(due.delivery.endpoint).settle(&due);
        self.shares.give_memory(tenant, size);
        let lane = self.lane(due.delivery.endpoint);
        if ended || lane.is_closed() || lane.is_held() {
            return lane.leave_in_store(Timestamp::from_micros(due.sequence));
        }
        let size = lane.insert(due);
        self.shares.take_memory(tenant, size);
    }

    /// Looks at one lane after something about it changed: queues it for a turn, sets its timer,
    /// asks for what it lacks, or lets it go.
    fn look(&mut self, now: Timestamp, endpoint: EndpointId, actions: &mut Vec<Action>) {
        let is_many = self.lanes.len() > IDLE_LANES_KEPT;
        let Some(lane) = self.lanes.get_mut(&endpoint) else {
            return;
        };
        let Some(config) = lane.config else {
            // Asked once: the shell tries until it has an answer.
            if !lane.asked_config {
                lane.asked_config = true;
                actions.push(Action::Configure(endpoint));
            }
            return;
        };
        // A timer that is still set stays: when it fires, the lane is found closed or let go.
        if let Some(state) = config.closed {
            if lane.wants_finish() {
                lane.begin_finish();
                actions.push(Action::FinishPending { endpoint, state });
            }
            self.let_go_if_idle(endpoint);
            return;
        }
        let full = !self.shares.has_room(config.tenant);
        if let Some(wish) = lane.wants_page(now, &self.limits, full) {
            actions.push(Action::Load {
                endpoint,
                until: now.plus(self.limits.horizon),
                wish,
            });
        }
        let crowded = lane.would_have_more() && self.shares.is_crowded(config.tenant);
        let wake = match lane.turn(now, crowded) {
            Turn::Now => {
                if !lane.queued {
                    lane.queued = true;
                    self.shares.queue(config.tenant, endpoint);
                }
                None
            }
            Turn::At(at) => Some(at),
            // Nobody tells it when the others of its tenant have ended: it looks again itself.
            Turn::Never if crowded => match lane.turn(now, false) {
                Turn::Never => None,
                Turn::Now => Some(now.plus(CROWDED_PAUSE)),
                Turn::At(at) => Some(at.max(now.plus(CROWDED_PAUSE))),
            },
            Turn::Never => None,
        };
        let wake = [wake, lane.wake_for_page(now, &self.limits)]
            .into_iter()
            .flatten()
            .min()
            // It would be let go while what it has sent counts.
            .or_else(|| lane.limited_until(now).filter(|_| is_many));
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
    fn give_turns(&mut self, at: Moment, actions: &mut Vec<Action>) {
        let now = at.steady;
        // A process that stood still does not know yet that another one has taken its place, and made what is due here.
        // By both clocks: the steady one stands still with a machine that is suspended, the other one may be set.
        let is_owner = self
            .owned_until
            .is_none_or(|until| now < until.steady && at.wall < until.wall);
        while is_owner && !self.halted && self.starting < self.limits.starting_max {
            let Some(endpoint) = self.shares.next() else {
                break;
            };
            let Some(lane) = self.lanes.get_mut(&endpoint) else {
                continue;
            };
            lane.queued = false;
            // It could send when it was queued; since then it may have been closed, or lost what it had.
            let tenant = lane.config.filter(|_| lane.would_have_more());
            let crowded = tenant.is_some_and(|config| self.shares.is_crowded(config.tenant));
            if let Some(due) = lane.take(now, crowded) {
                let expired = due
                    .event
                    .deliver_before
                    .is_some_and(|limit| at.wall > limit);
                // It goes nowhere, so it takes neither a slot nor a place in the rate.
                if expired {
                    actions.push(Action::Expire(Box::new(due)));
                } else {
                    lane.start(now);
                    self.starting += 1;
                    self.shares.take_slot(due.delivery.tenant);
                    actions.push(Action::Send(Box::new(due)));
                }
            }
            // With more to send it goes to the end of its tenant's ring.
            self.look(now, endpoint, actions);
        }
    }

    /// An idle lane keeps what it learned, unless there are very many.
    fn let_go_if_idle(&mut self, endpoint: EndpointId) {
        if self.lanes.len() > IDLE_LANES_KEPT
            && self.lanes.get(&endpoint).is_some_and(Lane::is_idle)
        {
            self.lanes.remove(&endpoint);
        }
    }
}
