//! What an operator sees of the engine: counts and times of each stage from publish to receipt.
//!
//! Counting is on the hot path and is some atomic additions. What can be read off (lanes, memory) is not counted: the
//! [`Survey`](crate::machine::Survey) tells it when somebody asks.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use postrider_core::attempt::Outcome;
use postrider_core::delivery::{DeliveryState, FailReason};
use postrider_core::health::DisableReason;
use postrider_core::{Id, Timestamp, id};
use postrider_store::{Published, StoreError};
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::lately::Lately;
use crate::shell::PublishError;

/// Applications that have counts of their own; what comes after them is `other` together.
const APPLICATIONS_MAX: usize = 256;

/// Half a millisecond to a minute and a half: answers, commits, and the way from publish to receipt.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.000_5, 2.0, 18))
}

/// A millisecond to nine days: how late something is that waits for a receiver.
fn lateness() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 4.0, 16))
}

/// Writes of one commit.
fn sizes() -> Histogram {
    Histogram::new(exponential_buckets(1.0, 2.0, 10))
}

/// An owner, or all those beyond the bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Owner<K: id::Kind> {
    Known(Id<K>),
    Other,
}

impl<K: id::Kind> EncodeLabelValue for Owner<K> {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        match self {
            Self::Known(id) => EncodeLabelValue::encode(&id.to_string(), encoder),
            Self::Other => EncodeLabelValue::encode(&"other", encoder),
        }
    }
}

/// The first owners that came: each has series of its own, which live as long as the process.
#[derive(Debug)]
struct Owners<K: id::Kind> {
    max: usize,
    known: RwLock<HashSet<u128>>,
    kind: std::marker::PhantomData<fn() -> K>,
}

impl<K: id::Kind> Owners<K> {
    fn new(max: usize) -> Self {
        Self {
            max,
            known: RwLock::default(),
            kind: std::marker::PhantomData,
        }
    }

    fn label(&self, id: Id<K>) -> Owner<K> {
        let key = id.as_u128();
        {
            let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
            if known.contains(&key) {
                return Owner::Known(id);
            }
            if known.len() >= self.max {
                return Owner::Other;
            }
        }
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        // Asked again: between the two locks others may have come.
        if known.len() >= self.max && !known.contains(&key) {
            return Owner::Other;
        }
        known.insert(key);
        Owner::Known(id)
    }
}

type Application = Owner<id::Application>;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfApplication {
    application: Application,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfAttempt {
    application: Application,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfTenant {
    tenant: Owner<id::Tenant>,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfState {
    application: Application,
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Why {
    reason: &'static str,
}

/// The engine's counts.
#[derive(Debug)]
pub struct Metrics {
    applications: Owners<id::Application>,
    /// None where tenants have no counts of their own.
    tenants: Option<Owners<id::Tenant>>,
    events: Family<OfApplication, Counter>,
    repeated: Family<OfApplication, Counter>,
    refused: Family<Why, Counter>,
    deliveries: Family<OfApplication, Counter>,
    accepting: Histogram,
    pub(crate) commits: Histogram,
    pub(crate) commit_writes: Histogram,
    pub(crate) commit_failures: Counter,
    pub(crate) store_takes_records: Gauge,
    pub(crate) lane_reads_failed: Counter,
    attempts: Family<OfAttempt, Counter>,
    tenant_attempts: Family<OfTenant, Counter>,
    attempt_times: Histogram,
    late: Histogram,
    receipts: Histogram,
    ended: Family<OfState, Counter>,
    closed: Family<Why, Counter>,
    disabled: Family<Why, Counter>,
    pub(crate) lately: Lately,
}

impl Metrics {
    /// The first `tenants` tenants have counts of their own.
    pub fn new(tenants: usize) -> Self {
        Self {
            applications: Owners::new(APPLICATIONS_MAX),
            tenants: (tenants > 0).then(|| Owners::new(tenants)),
            events: Family::default(),
            repeated: Family::default(),
            refused: Family::default(),
            deliveries: Family::default(),
            accepting: seconds(),
            commits: seconds(),
            commit_writes: sizes(),
            commit_failures: Counter::default(),
            store_takes_records: Gauge::default(),
            lane_reads_failed: Counter::default(),
            attempts: Family::default(),
            tenant_attempts: Family::default(),
            attempt_times: seconds(),
            late: lateness(),
            receipts: lateness(),
            ended: Family::default(),
            closed: Family::default(),
            disabled: Family::default(),
            lately: Lately::new(),
        }
        .at_zero()
    }

    /// What is known beforehand begins at zero: of a series that begins with its first event, an alert on how fast it
    /// grows does not hear.
    fn at_zero(self) -> Self {
        for reason in ["busy", "full", "unavailable"] {
            drop(self.refused.get_or_create(&Why { reason }));
        }
        for reason in DisableReason::ALL.map(DisableReason::as_str) {
            drop(self.disabled.get_or_create(&Why { reason }));
        }
        for state in [
            DeliveryState::Cancelled,
            DeliveryState::Failed(FailReason::EndpointDisabled),
        ] {
            self.closed(state, 0);
        }
        self
    }

    /// Adds all of them to what is shown.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("events", "Events that were accepted", self.events.clone());
        registry.register(
            "events_repeated",
            "Events that had been accepted before under the same idempotency key",
            self.repeated.clone(),
        );
        registry.register(
            "events_refused",
            "Events that could not be accepted though nothing was wrong with them: busy, full, unavailable",
            self.refused.clone(),
        );
        registry.register(
            "deliveries",
            "Deliveries that accepted events made",
            self.deliveries.clone(),
        );
        registry.register_with_unit(
            "accept",
            "From a checked event to its being durable",
            Unit::Seconds,
            self.accepting.clone(),
        );
        registry.register_with_unit(
            "commit",
            "Commits of events and records, with the flush to the disk",
            Unit::Seconds,
            self.commits.clone(),
        );
        registry.register(
            "commit_writes",
            "Events, records and resends in one commit",
            self.commit_writes.clone(),
        );
        registry.register(
            "commit_failures",
            "Commits after which records wait for another try",
            self.commit_failures.clone(),
        );
        registry.register(
            "store_takes_records",
            "1 while records of attempts can be written; at 0 no attempt begins",
            self.store_takes_records.clone(),
        );
        registry.register(
            "lane_reads_failed",
            "Times that what waits for an endpoint, or the endpoint itself, could not be read; it is tried again",
            self.lane_reads_failed.clone(),
        );
        self.register_attempts(registry);
    }

    fn register_attempts(&self, registry: &mut Registry) {
        registry.register(
            "attempts",
            "Attempts, by how they ended: the class of the status, or why there was no answer",
            self.attempts.clone(),
        );
        if self.tenants.is_some() {
            registry.register(
                "tenant_attempts",
                "Attempts by tenant, as many tenants as metrics.tenants says",
                self.tenant_attempts.clone(),
            );
        }
        registry.register_with_unit(
            "attempt",
            "An attempt from its first step to the last byte of the answer",
            Unit::Seconds,
            self.attempt_times.clone(),
        );
        registry.register_with_unit(
            "attempt_late",
            "How long after it was due an attempt began, whatever held it back",
            Unit::Seconds,
            self.late.clone(),
        );
        registry.register_with_unit(
            "receipt",
            "From publish to receipt, of deliveries whose first attempt succeeded",
            Unit::Seconds,
            self.receipts.clone(),
        );
        registry.register(
            "deliveries_ended",
            "Deliveries that reached a final state by an attempt, or because they expired",
            self.ended.clone(),
        );
        registry.register(
            "deliveries_closed",
            "Deliveries that ended because somebody cancelled them, or their endpoint was disabled or deleted",
            self.closed.clone(),
        );
        registry.register(
            "endpoints_disabled",
            "Endpoints that the server disabled because of their failures",
            self.disabled.clone(),
        );
    }

    pub(crate) fn published(
        &self,
        application: Id<id::Application>,
        took: Duration,
        result: &Result<Published, PublishError>,
    ) {
        match result {
            Ok(published) if published.created => {
                let of = OfApplication {
                    application: self.applications.label(application),
                };
                self.events.get_or_create(&of).inc();
                let count = published.count.into();
                self.deliveries.get_or_create(&of).inc_by(count);
                self.accepting.observe(took.as_secs_f64());
            }
            Ok(_) => {
                let of = OfApplication {
                    application: self.applications.label(application),
                };
                self.repeated.get_or_create(&of).inc();
            }
            Err(error) => {
                if let Some(reason) = refusal(error) {
                    self.refused.get_or_create(&Why { reason }).inc();
                }
            }
        }
    }

    pub(crate) fn attempted(
        &self,
        application: Id<id::Application>,
        tenant: Id<id::Tenant>,
        attempt: &Attempted<'_>,
    ) {
        let outcome = outcome(attempt.outcome);
        let of = OfAttempt {
            application: self.applications.label(application),
            outcome,
        };
        self.attempts.get_or_create(&of).inc();
        if let Some(tenants) = &self.tenants {
            let of = OfTenant {
                tenant: tenants.label(tenant),
                outcome,
            };
            self.tenant_attempts.get_or_create(&of).inc();
        }
        self.lately
            .count(attempt.ended, outcome == "2xx", attempt.took);
        self.attempt_times.observe(attempt.took.as_secs_f64());
        self.late.observe(attempt.late.as_secs_f64());
        if let Some(receipt) = attempt.receipt {
            self.receipts.observe(receipt.as_secs_f64());
        }
    }

    pub(crate) fn ended(&self, application: Id<id::Application>, state: DeliveryState) {
        let of = OfState {
            application: self.applications.label(application),
            state: state_name(state),
        };
        self.ended.get_or_create(&of).inc();
    }

    pub(crate) fn closed(&self, state: DeliveryState, count: u32) {
        let reason = state_name(state);
        let closed = self.closed.get_or_create(&Why { reason });
        closed.inc_by(count.into());
    }

    pub(crate) fn disabled(&self, reason: DisableReason) {
        let reason = reason.as_str();
        self.disabled.get_or_create(&Why { reason }).inc();
    }
}

/// What is counted of an attempt.
#[derive(Debug)]
pub(crate) struct Attempted<'a> {
    pub(crate) outcome: &'a Outcome,
    /// By the steady clock.
    pub(crate) ended: Timestamp,
    pub(crate) took: Duration,
    /// Since it was due.
    pub(crate) late: Duration,
    /// Since the publish, where this first attempt has brought it.
    pub(crate) receipt: Option<Duration>,
}

/// The class of an answer, or why there was none: some sixteen values in all.
fn outcome(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Answered { status, .. } => match status / 100 {
            1 => "1xx",
            2 => "2xx",
            3 => "3xx",
            4 => "4xx",
            _ => "5xx",
        },
        Outcome::Unreachable { reason, .. } => reason.as_str(),
    }
}

fn state_name(state: DeliveryState) -> &'static str {
    match state {
        DeliveryState::Pending => "pending",
        DeliveryState::Delivered => "delivered",
        DeliveryState::Failed(FailReason::Exhausted) => "exhausted",
        DeliveryState::Failed(FailReason::Stopped) => "stopped",
        DeliveryState::Failed(FailReason::EndpointDisabled) => "endpoint_disabled",
        DeliveryState::Failed(FailReason::Expired) => "expired",
        DeliveryState::Cancelled => "cancelled",
        DeliveryState::Skipped => "skipped",
    }
}

/// Why an event was refused for the server's sake; none where it was the caller's mistake.
fn refusal(error: &PublishError) -> Option<&'static str> {
    match error {
        PublishError::Busy(_) => Some("busy"),
        PublishError::Store(StoreError::Full) => Some("full"),
        PublishError::Store(StoreError::NotFound { .. } | StoreError::Conflict { .. }) => None,
        PublishError::Store(_) => Some("unavailable"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_beyond_the_bound_are_counted_together() {
        let owners: Owners<id::Tenant> = Owners::new(2);
        let label = |n| owners.label(Id::from_u128(n));
        assert_eq!(label(1), Owner::Known(Id::from_u128(1)));
        assert_eq!(label(2), Owner::Known(Id::from_u128(2)));
        assert_eq!(label(3), Owner::Other);
        assert_eq!(label(1), Owner::Known(Id::from_u128(1)));
    }
}
