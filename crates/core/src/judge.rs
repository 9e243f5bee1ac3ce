//! The verdict on an attempt: a pure function of how it ended and what the profile says.

use std::time::Duration;

use crate::Timestamp;
use crate::attempt::{Outcome, UnreachableReason};
use crate::delivery::{DeliveryState, FailReason, Series};
use crate::health::HealthChange;
use crate::profile::{Class, Classify, RetrySchedule};

/// What the judge has to know about the attempt besides its outcome.
#[derive(Debug, Clone, Copy)]
pub struct AttemptFacts {
    /// The series before this attempt.
    pub series: Series,
    pub started_at: Timestamp,
    pub ended_at: Timestamp,
    pub deliver_before: Option<Timestamp>,
    /// The endpoint exists for the events that name its URL. Nobody could enable it again, and the next event may name
    /// the same URL: nothing disables it.
    pub one_off: bool,
    /// Uniform in `0..1`; jitter is drawn from it.
    pub unit_random: f64,
}

/// What follows from an attempt.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Verdict {
    pub next: Next,
    pub health: HealthChange,
    /// What the lane learns about the endpoint's capacity.
    pub signal: Signal,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    Delivered,
    Retry { at: Timestamp },
    Failed(FailReason),
}

impl Next {
    pub fn state(self) -> DeliveryState {
        match self {
            Self::Delivered => DeliveryState::Delivered,
            Self::Retry { .. } => DeliveryState::Pending,
            Self::Failed(reason) => DeliveryState::Failed(reason),
        }
    }
}

/// What an outcome says about the endpoint, whatever becomes of the delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// It answered and means it: 2xx, or a refusal of this one delivery.
    Well,
    /// Nothing came of it that says anything of the receiver: the fault is ours. Until `pause` is over the next one would
    /// fare no better.
    Unheard { pause: Option<Duration> },
    /// It cannot keep up or is not there: time-outs, 429, 5xx, no connection. Ask less of it.
    Strained { pause: Option<Duration> },
}

/// Decides what follows an attempt. The same arguments always give the same verdict.
#[must_use]
pub fn judge(
    classify: &Classify,
    retry: &RetrySchedule,
    outcome: &Outcome,
    facts: &AttemptFacts,
) -> Verdict {
    let class = classify.class(outcome);
    let pause = throttle_pause(classify, class, outcome);
    let next = match class {
        Class::Ok => Next::Delivered,
        Class::Stop => Next::Failed(FailReason::Stopped),
        // Nothing is disabled by it, so the delivery must not say that its endpoint was.
        Class::Disable if facts.one_off => Next::Failed(FailReason::Stopped),
        Class::Disable => Next::Failed(FailReason::EndpointDisabled),
        Class::Retry | Class::Throttle => next_attempt(retry, facts, pause),
    };
    let ours = matches!(
        outcome,
        Outcome::Unreachable {
            reason: UnreachableReason::Internal | UnreachableReason::Local,
            ..
        }
    );
    let health = match (class, next) {
        // The fault is on our side: it must not disable the receiver's endpoint.
        _ if ours => HealthChange::None,
        _ if facts.one_off => HealthChange::None,
        (Class::Ok, _) => HealthChange::Success,
        (Class::Disable, _) => HealthChange::Gone,
        // Somebody tried by hand: no further delivery failed (`docs/systems.md`, V-30).
        _ if facts.series.single => HealthChange::None,
        // Given up because of a time that its publisher set: the receiver had fewer requests than a failed delivery has.
        // `Delivered` comes with `Class::Ok` only, which an arm above has taken.
        (_, Next::Failed(FailReason::Expired) | Next::Retry { .. } | Next::Delivered) => {
            HealthChange::Failure {
                delivery_failed: false,
            }
        }
        (_, Next::Failed(_)) => HealthChange::Failure {
            delivery_failed: true,
        },
    };
    Verdict {
        next,
        health,
        signal: signal(outcome, pause),
    }
}

fn next_attempt(retry: &RetrySchedule, facts: &AttemptFacts, pause: Option<Duration>) -> Next {
    if facts.series.single {
        return Next::Failed(FailReason::Exhausted);
    }
    // Of the first attempt of a series nothing is stored yet: this one is it.
    let first_start = facts.series.started_at.unwrap_or(facts.started_at);
    let due = retry.due_at(
        facts.series.attempts + 1,
        first_start,
        facts.started_at,
        facts.ended_at,
        facts.unit_random,
    );
    let Some(due) = due else {
        return Next::Failed(FailReason::Exhausted);
    };
    // A receiver that names a time gets at least that; it never makes a retry earlier.
    let at = pause.map_or(due, |pause| due.max(facts.ended_at.plus(pause)));
    match facts.deliver_before {
        Some(limit) if at > limit => Next::Failed(FailReason::Expired),
        _ => Next::Retry { at },
    }
}

fn throttle_pause(classify: &Classify, class: Class, outcome: &Outcome) -> Option<Duration> {
    match (class, outcome) {
        // A 503 may name a time too (RFC 9110 10.2.3), whatever class its profile gives it.
        (
            Class::Throttle | Class::Retry,
            Outcome::Answered {
                retry_after_secs: Some(secs),
                ..
            },
        ) if classify.retry_after => {
            Some(Duration::from_secs(u64::from(*secs)).min(classify.retry_after_max))
        }
        (Class::Throttle, _) => Some(classify.throttle_pause),
        _ => None,
    }
}

fn signal(outcome: &Outcome, pause: Option<Duration>) -> Signal {
    match outcome {
        Outcome::Answered {
            status: 429 | 500..=599,
            ..
        }
        // Our own faults too: while they last, the lane's deliveries must not use up their attempts.
        | Outcome::Unreachable { .. } => Signal::Strained { pause },
        Outcome::Answered { .. } => Signal::Well,
    }
}
