//! What the machine looks like from outside, at one moment.

use std::time::Duration;

use postrider_core::Timestamp;

use super::breaker::Breaker;
use super::lane::{Lane, Turn};
use super::{EndpointId, Machine, MachineLimits};

/// How a lane stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Standing {
    /// It has nothing to send.
    Idle,
    /// It could send, and waits for its turn: for a slot, or for the store to take records.
    Ready,
    /// It could send, but its tenant has as many requests under way as it may while others may want some.
    Share,
    /// It has as many requests under way as its receiver takes at once.
    Busy,
    /// Nothing is due, or its rate limit or its receiver's `Retry-After` holds it back; or it is being read.
    Waiting,
    /// Its breaker is open: the receiver failed again and again.
    Broken,
    /// Its endpoint is disabled, deleted or paused.
    Closed,
}

impl Standing {
    pub const ALL: [Self; 7] = [
        Self::Idle,
        Self::Ready,
        Self::Share,
        Self::Busy,
        Self::Waiting,
        Self::Broken,
        Self::Closed,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Ready => "ready",
            Self::Share => "share",
            Self::Busy => "busy",
            Self::Waiting => "waiting",
            Self::Broken => "broken",
            Self::Closed => "closed",
        }
    }
}

/// The lanes of one standing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LanesStanding {
    pub standing: Standing,
    pub lanes: usize,
    /// Deliveries that they hold in memory.
    pub held: usize,
    /// How long the delivery is due that is due the longest; zero where nothing is.
    pub oldest_due: Duration,
}

/// Figures of the machine, gathered by looking at every lane: some hundred nanoseconds each, and more where one is ordered
/// by key and holds much.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survey {
    pub lanes: [LanesStanding; Standing::ALL.len()],
    pub in_flight: usize,
    pub memory_bytes: usize,
    pub limits: MachineLimits,
}

impl Machine {
    /// What it looks like at `now` of the steady clock.
    pub fn survey(&self, now: Timestamp) -> Survey {
        let mut lanes = Standing::ALL.map(|standing| LanesStanding {
            standing,
            lanes: 0,
            held: 0,
            oldest_due: Duration::ZERO,
        });
        for lane in self.lanes.values() {
            let standing = match lane.standing(now) {
                Standing::Ready if self.has_its_share(lane) => Standing::Share,
                standing => standing,
            };
            let Some(all) = lanes.iter_mut().find(|all| all.standing == standing) else {
                continue;
            };
            all.lanes += 1;
            all.held += lane.len();
            if let Some(due) = lane.due_since(now) {
                all.oldest_due = all.oldest_due.max(now.since(due));
            }
        }
        Survey {
            lanes,
            in_flight: self.shares.in_flight(),
            memory_bytes: self.shares.memory(),
            limits: self.limits,
        }
    }
}

/// How one endpoint's lane stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaneSurvey {
    pub standing: Standing,
    /// Requests under way, and how many its receiver takes at once, as far as that was learned.
    pub in_flight: usize,
    pub at_once: usize,
    /// Deliveries that it holds in memory, and whether more are in the store.
    pub held: usize,
    pub has_stored: bool,
    /// How long the delivery is due that is due the longest; zero where nothing is.
    pub oldest_due: Duration,
    /// When it can send again, where it waits for a time.
    pub next_in: Option<Duration>,
}

impl Machine {
    /// How the lane of an endpoint stands at `now` of the steady clock; none of one that has nothing to do.
    pub fn survey_of(&self, endpoint: EndpointId, now: Timestamp) -> Option<LaneSurvey> {
        let lane = self.lanes.get(&endpoint)?;
        let standing = match lane.standing(now) {
            Standing::Ready if self.has_its_share(lane) => Standing::Share,
            standing => standing,
        };
        let due = lane.due_since(now);
        // That one more may be sent beside those that hang is no wait worth telling.
        let next_in = match lane.turn(now, true) {
            Turn::At(at) => Some(at.since(now)),
            Turn::Now | Turn::Never => None,
        };
        let (in_flight, at_once) = lane.in_flight();
        Some(LaneSurvey {
            standing,
            in_flight,
            at_once,
            held: lane.len(),
            has_stored: lane.has_stored(),
            oldest_due: due.map_or(Duration::ZERO, |due| now.since(due)),
            next_in,
        })
    }

    fn has_its_share(&self, lane: &Lane) -> bool {
        lane.config
            .is_some_and(|config| self.shares.is_parked(config.tenant))
    }
}

impl Lane {
    fn standing(&self, now: Timestamp) -> Standing {
        if self.is_closed() || self.is_held() {
            return Standing::Closed;
        }
        if self.len() == 0 && !self.has_stored() && !self.has_underway() {
            return Standing::Idle;
        }
        // Before its turn is asked: that only says until when it waits, and not why.
        if !matches!(self.breaker(), Breaker::Closed { .. }) {
            return Standing::Broken;
        }
        match self.turn(now, true) {
            Turn::Now => Standing::Ready,
            Turn::At(_) => Standing::Waiting,
            Turn::Never if self.has_underway() => Standing::Busy,
            Turn::Never => Standing::Waiting,
        }
    }
}
