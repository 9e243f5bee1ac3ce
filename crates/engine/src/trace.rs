//! Spans of a publish and of each attempt, for whoever collects traces.

use std::fmt::Debug;

use postrider_core::attempt::{Outcome, Timings};
use postrider_core::judge::Next;
use postrider_core::trace::TraceParent;
use postrider_core::{Id, Timestamp, id};

/// Hears of spans when they have ended. It is called on the way of every event: it must not wait, and may
/// lose what is too much.
pub trait Tracer: Debug + Send + Sync {
    /// A span that begins now: of its parent's trace, or of a new one. Whether it is sampled is decided here.
    fn begin(&self, parent: Option<TraceParent>) -> TraceParent;

    /// An event was published, or refused. The span is sampled.
    fn published(&self, span: &PublishSpan<'_>);

    /// An attempt was made. Its event's span is sampled.
    fn attempted(&self, span: &AttemptSpan<'_>);
}

#[derive(Debug)]
pub struct PublishSpan<'s> {
    pub context: TraceParent,
    pub parent: Option<TraceParent>,
    pub began: Timestamp,
    pub ended: Timestamp,
    pub application: Id<id::Application>,
    pub tenant: Id<id::Tenant>,
    /// None where what was given is no type.
    pub event_type: Option<&'s str>,
    /// The event and how many deliveries it has, or the code of why it was refused.
    pub result: Result<(Id<id::Event>, u32), &'static str>,
}

#[derive(Debug)]
pub struct AttemptSpan<'s> {
    /// The span of its event's publish.
    pub publish: TraceParent,
    /// Its own, which the request carries where the application passes traces on.
    pub span: u64,
    pub began: Timestamp,
    pub ended: Timestamp,
    pub application: Id<id::Application>,
    pub tenant: Id<id::Tenant>,
    pub endpoint: Id<id::Endpoint>,
    pub event: Id<id::Event>,
    pub event_type: &'s str,
    pub delivery: Id<id::Delivery>,
    /// From 1.
    pub number: u32,
    pub url: &'s str,
    pub outcome: &'s Outcome,
    pub timings: Timings,
    pub next: Next,
}

/// The span of an attempt: the same whoever asks, so that the request and the record need not tell each other.
pub(crate) fn span_of(delivery: Id<id::Delivery>, number: u32) -> u64 {
    // A delivery's bits are mixed so that ids that follow each other differ everywhere (the finalizer of
    // SplitMix64).
    let id = delivery.as_u128();
    // Masked to 64 bits, so it always fits.
    let half = |bits: u128| u64::try_from(bits & u128::from(u64::MAX)).unwrap_or_default();
    let mut bits = half(id >> 64).wrapping_mul(0xd129_0fc1_8a5d_4b35) ^ half(id);
    bits = bits.wrapping_add(u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    // A span of zero is none (W3C Trace Context).
    (bits ^ (bits >> 31)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_have_spans_of_their_own() {
        let spans = (1..100_u128).flat_map(|delivery| {
            (1..10).map(move |number| span_of(Id::from_u128(delivery << 64 | delivery), number))
        });
        let mut spans: Vec<u64> = spans.collect();
        let count = spans.len();
        spans.sort_unstable();
        spans.dedup();
        assert_eq!(spans.len(), count);
    }
}
