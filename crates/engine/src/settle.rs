//! From an exchange to its record: pure.

use std::sync::Arc;

use postrider_core::attempt::{Attempt, Rendering};
use postrider_core::delivery::{FailReason, Series};
use postrider_core::judge::{AttemptFacts, Next, Signal, judge};
use postrider_core::limits::ATTEMPTS_MAX;
use postrider_core::profile::Profile;
use postrider_core::time::Moment;
use postrider_store::{DueDelivery, RecordAttempt};

use crate::transport::Exchange;

/// What an attempt led to.
#[derive(Debug, Clone)]
pub(crate) struct Settled {
    pub(crate) record: RecordAttempt,
    pub(crate) next: Next,
    pub(crate) signal: Signal,
    /// The delivery as it goes on, if it does.
    pub(crate) due: DueDelivery,
}

/// What was sent, when, and to where.
#[derive(Debug, Clone)]
pub(crate) struct Sent {
    pub(crate) url: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) rendering: Option<Arc<Rendering>>,
    pub(crate) started: Moment,
    pub(crate) ended: Moment,
    /// To an endpoint that exists for the events that name its URL.
    pub(crate) one_off: bool,
}

/// Judges an exchange and writes its record: what was is told by the wall clock, what is to come is
/// planned by the steady one. `keep_place` for deliveries of ordered lanes.
pub(crate) fn settle(
    profile: &Profile,
    mut due: DueDelivery,
    sent: Sent,
    exchange: Exchange,
    keep_place: bool,
    unit_random: f64,
) -> Settled {
    let delivery = &mut due.delivery;
    let facts = AttemptFacts {
        series: delivery.series,
        started_at: sent.started.steady,
        ended_at: sent.ended.steady,
        deliver_before: due
            .event
            .deliver_before
            .map(|limit| sent.ended.steady_of(limit)),
        one_off: sent.one_off,
        unit_random,
    };
    let verdict = judge(
        &profile.classify,
        profile.retry(delivery.mode),
        &exchange.outcome,
        &facts,
    );
    let number = delivery.attempts + 1;
    // A schedule may be endless by mistake; a delivery is not.
    let next = match verdict.next {
        Next::Retry { .. } if number >= ATTEMPTS_MAX => Next::Failed(FailReason::Exhausted),
        next => next,
    };
    let series = Series {
        attempts: delivery.series.attempts + 1,
        started_at: delivery.series.started_at.or(Some(sent.started.steady)),
        single: delivery.series.single,
    };
    // Somebody asked for it, where a series begins that is not the first.
    let manual = delivery.series.single || (delivery.attempts > 0 && delivery.series.attempts == 0);
    delivery.attempts = number;
    delivery.series = series;
    let attempt = Attempt {
        number,
        started_at: sent.started.wall,
        ended_at: sent.ended.wall,
        url: sent.url,
        request_headers: sent.headers,
        outcome: exchange.outcome,
        response: exchange.response,
        timings: exchange.timings,
        manual,
        egress: exchange.egress,
        rendering: sent.rendering,
    };
    let record = RecordAttempt {
        delivery: delivery.id,
        endpoint: delivery.endpoint,
        attempt,
        next,
        series,
        health: verdict.health,
        rule: profile.disable,
        keep_place,
    };
    Settled {
        record,
        next,
        signal: verdict.signal,
        due,
    }
}
