//! Counts of a tenant's deliveries: what is asked, and what comes of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use postrider_core::delivery::DeliveryState;
use postrider_core::tenant::Mode;
use postrider_core::{Id, Timestamp, id};

use crate::StatePattern;
use crate::outcomes::{Outcomes, Times, is_status};

/// Event types that are told apart in one count; of more the rest are counted together. Whoever writes an order's number
/// into the type has millions.
pub const TYPES_COUNTED_MAX: usize = 1_000;
/// Endpoints that are: more than a tenant has at once, for those of deleted ones are counted as well.
pub const ENDPOINTS_COUNTED_MAX: usize = 50_000;

/// Counts of an endpoint's deliveries since a time, and of the attempts they took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EndpointStats {
    pub pending: u64,
    pub delivered: u64,
    pub failed: u64,
    pub cancelled: u64,
    pub skipped: u64,
    pub attempts: u64,
}

impl EndpointStats {
    /// Counts deliveries in a state, and the attempts that they took together.
    pub fn count(&mut self, state: DeliveryState, attempts: u64, deliveries: u64) {
        let slot = match state {
            DeliveryState::Pending => &mut self.pending,
            DeliveryState::Delivered => &mut self.delivered,
            DeliveryState::Failed(_) => &mut self.failed,
            DeliveryState::Cancelled => &mut self.cancelled,
            DeliveryState::Skipped => &mut self.skipped,
        };
        *slot += deliveries;
        self.attempts += attempts;
    }

    /// Of all states.
    pub fn total(&self) -> u64 {
        self.pending + self.delivered + self.failed + self.cancelled + self.skipped
    }

    pub fn add(&mut self, other: Self) {
        self.pending += other.pending;
        self.delivered += other.delivered;
        self.failed += other.failed;
        self.cancelled += other.cancelled;
        self.skipped += other.skipped;
        self.attempts += other.attempts;
    }
}

/// What to count: deliveries of a tenant created from `since` until before `until`.
#[derive(Debug, Clone)]
pub struct StatisticsQuery {
    pub tenant: Id<id::Tenant>,
    pub since: Timestamp,
    pub until: Timestamp,
    pub event_type: Option<String>,
    pub endpoint: Option<Id<id::Endpoint>>,
    pub mode: Option<Mode>,
    pub state: Option<StatePattern>,
    /// With how attempts ended, which takes as long again.
    pub outcomes: bool,
    /// Length of a point of the series; points begin at its multiples since 1970.
    pub period: Duration,
}

impl StatisticsQuery {
    /// The start of the period that holds `at`.
    pub fn period_of(&self, at: Timestamp) -> Timestamp {
        let period = i64::try_from(self.period.as_micros())
            .unwrap_or(i64::MAX)
            // A period of nothing would be divided by.
            .max(1);
        Timestamp::from_micros(at.as_micros().div_euclid(period) * period)
    }
}

/// Counts by one thing after the other: each sums up to the same.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Statistics {
    /// By name; at most [`TYPES_COUNTED_MAX`].
    pub by_type: Vec<(Arc<str>, EndpointStats)>,
    /// Of all further types together.
    pub other_types: EndpointStats,
    /// By id; at most [`ENDPOINTS_COUNTED_MAX`].
    pub by_endpoint: Vec<(Id<id::Endpoint>, EndpointStats)>,
    /// Those of no deliveries are left out.
    pub by_mode: Vec<(Mode, EndpointStats)>,
    /// In the order of time; periods without deliveries are left out.
    pub series: Vec<StatisticsPoint>,
    /// Of the attempts of all these deliveries. None where deliveries of one state are asked for: of attempts nobody
    /// keeps in which state their delivery is. None as well where a version that did not
    /// count them recorded some, where reading them would take too long, and where nobody wants them.
    pub outcomes: Option<Outcomes>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatisticsPoint {
    pub at: Timestamp,
    pub counts: EndpointStats,
    /// How long answers took to attempts of these deliveries; without any where [`Statistics::outcomes`] are left out.
    pub times: Times,
}

/// Deliveries that are alike in all that statistics tell apart.
#[derive(Debug, Clone, Copy)]
pub struct Alike<'r> {
    pub event_type: &'r str,
    pub endpoint: Id<id::Endpoint>,
    pub mode: Mode,
    pub state: DeliveryState,
    /// When they were accepted, as exactly as the store knows.
    pub at: Timestamp,
    pub deliveries: u64,
    pub attempts: u64,
}

/// A count that is being made: its size is bounded, whatever is counted.
#[derive(Debug, Default)]
pub struct Count {
    by_type: BTreeMap<Arc<str>, EndpointStats>,
    other_types: EndpointStats,
    by_endpoint: BTreeMap<Id<id::Endpoint>, EndpointStats>,
    live: EndpointStats,
    test: EndpointStats,
    series: BTreeMap<Timestamp, (EndpointStats, Times)>,
    outcomes: Outcomes,
}

/// Attempts that are alike in all that statistics tell apart.
#[derive(Debug, Clone, Copy)]
pub struct AlikeAttempts<'r> {
    /// As [`Outcome::code`](postrider_core::attempt::Outcome::code) tells it.
    pub code: &'r str,
    /// As [`took_class`](crate::took_class) tells it.
    pub class: usize,
    /// When their deliveries were accepted, as exactly as the store knows.
    pub at: Timestamp,
    pub attempts: u64,
}

impl Count {
    pub fn add(&mut self, query: &StatisticsQuery, alike: &Alike<'_>) {
        let of_mode = match alike.mode {
            Mode::Live => &mut self.live,
            Mode::Test => &mut self.test,
        };
        // Not by an entry, which would copy the type for every row.
        let of_type = match self.by_type.contains_key(alike.event_type) {
            false if self.by_type.len() >= TYPES_COUNTED_MAX => Some(&mut self.other_types),
            false => Some(self.by_type.entry(Arc::from(alike.event_type)).or_default()),
            true => self.by_type.get_mut(alike.event_type),
        };
        let is_full = self.by_endpoint.len() >= ENDPOINTS_COUNTED_MAX;
        let of_endpoint = if is_full {
            self.by_endpoint.get_mut(&alike.endpoint)
        } else {
            Some(self.by_endpoint.entry(alike.endpoint).or_default())
        };
        let (point, _) = self.series.entry(query.period_of(alike.at)).or_default();
        let all = [of_type, of_endpoint, Some(of_mode), Some(point)];
        for counts in all.into_iter().flatten() {
            counts.count(alike.state, alike.attempts, alike.deliveries);
        }
    }

    /// Counts attempts of deliveries that are counted too.
    pub fn add_attempts(&mut self, query: &StatisticsQuery, alike: &AlikeAttempts<'_>) {
        self.outcomes.count(alike.code, alike.class, alike.attempts);
        if is_status(alike.code) {
            let (_, times) = self.series.entry(query.period_of(alike.at)).or_default();
            times.count(alike.class, alike.attempts);
        }
    }

    /// With attempts or without.
    pub fn finish(self, are_attempts_counted: bool) -> Statistics {
        let modes = [(Mode::Live, self.live), (Mode::Test, self.test)].into_iter();
        let points = self.series.into_iter();
        Statistics {
            by_type: self.by_type.into_iter().collect(),
            other_types: self.other_types,
            by_endpoint: self.by_endpoint.into_iter().collect(),
            by_mode: modes.filter(|(_, counts)| counts.total() > 0).collect(),
            series: points
                .map(|(at, (counts, times))| StatisticsPoint {
                    at,
                    counts,
                    // Those of a part of the attempts say nothing.
                    times: if are_attempts_counted {
                        times
                    } else {
                        Times::default()
                    },
                })
                .collect(),
            outcomes: are_attempts_counted.then_some(self.outcomes),
        }
    }
}
