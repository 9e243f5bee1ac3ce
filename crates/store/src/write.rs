//! The writes of the hot path: what the journal gathers into one transaction.

use std::sync::Arc;

use postrider_core::attempt::Attempt;
use postrider_core::delivery::{Delivery, DeliveryState, ProfileVersion, Series};
use postrider_core::event::Event;
use postrider_core::health::{DisableReason, DisableRule, HealthChange};
use postrider_core::judge::Next;
use postrider_core::{Id, id};

/// An event to accept, together with its deliveries.
#[derive(Debug, Clone)]
pub struct NewEvent {
    pub event: Arc<Event>,
    pub target: Target,
    pub profile: ProfileVersion,
    pub idempotency: Option<Idempotency>,
}

/// Who gets an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Every enabled registered endpoint of the tenant whose subscription and mode match.
    Matching,
    /// Every live distribution of the tenant whose triggers and mode match. Those that are paused get a
    /// delivery that is skipped.
    Distributions,
    /// This endpoint if it is enabled and of the event's mode, and nobody otherwise: whoever owns it
    /// may turn it off without the product hearing of it.
    IfEnabled(Id<id::Endpoint>),
    /// Nobody: the event is stored all the same.
    Nobody,
    /// This endpoint, whatever it subscribed to, if it is enabled and of the event's mode.
    Endpoint(Id<id::Endpoint>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idempotency {
    pub key: String,
    /// SHA-256 of the request: the same key with another one is a conflict.
    pub fingerprint: [u8; 32],
}

/// What an idempotency key was first used for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirstUse {
    pub event: Id<id::Event>,
    pub fingerprint: [u8; 32],
    /// How many deliveries the event has.
    pub count: u32,
}

#[derive(Debug, Clone)]
pub struct Published {
    pub event: Id<id::Event>,
    /// False when the idempotency key had been used: then nothing was written.
    pub created: bool,
    /// How many deliveries the event has.
    pub count: u32,
    /// Deliveries that were written by this: also those that were skipped at once.
    pub rows: usize,
    /// What it took, in as many deliveries: at least those, and more where many endpoints were looked at for them. What a
    /// transaction is bounded by.
    pub work: usize,
    /// What was created, ready for its lanes, which take it: the engine's callers find none here.
    pub deliveries: Vec<DueDelivery>,
}

/// A pending delivery with all that an attempt needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueDelivery {
    pub delivery: Delivery,
    pub event: Arc<Event>,
    /// Its place in the lane: grows with acceptance; an unordered retry moves to its due time.
    pub sequence: i64,
}

/// An attempt that ended. Recording it twice is recording it once.
#[derive(Debug, Clone)]
pub struct RecordAttempt {
    pub delivery: Id<id::Delivery>,
    pub endpoint: Id<id::Endpoint>,
    pub attempt: Attempt,
    pub next: Next,
    pub series: Series,
    pub health: HealthChange,
    pub rule: DisableRule,
    /// An ordered lane keeps a delivery's place while it is retried.
    pub keep_place: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recorded {
    /// False when this attempt had been recorded before, or one before it is missing: then nothing was written.
    pub applied: bool,
    /// The store lacks an attempt before this one: it is another one than that which had recorded it.
    pub is_behind: bool,
    /// Whether the delivery has come to its end by it. One that somebody ended meanwhile had come to it before.
    pub ended: bool,
    /// Set exactly once: by the record that disabled the endpoint.
    pub disabled: Option<DisableReason>,
}

impl Recorded {
    /// Of an attempt that was not the next one of its delivery.
    pub fn not_applied(attempts: u32, number: u32) -> Self {
        Self {
            applied: false,
            is_behind: attempts + 1 < number,
            ended: false,
            disabled: None,
        }
    }
}

/// Ends a pending delivery without an attempt: it expired, or somebody cancelled it.
#[derive(Debug, Clone, Copy)]
pub struct FinishDelivery {
    pub delivery: Id<id::Delivery>,
    pub endpoint: Id<id::Endpoint>,
    pub state: DeliveryState,
}

/// Makes a finished delivery pending again, by hand.
#[derive(Debug, Clone, Copy)]
pub struct Resend {
    pub delivery: Id<id::Delivery>,
    /// Attempts that it had when whoever asks looked at it: with more, somebody else has sent it.
    pub attempts: u32,
    pub series: Series,
}

/// Gives an endpoint an event that came while it was disabled, or before it was there: a delivery of its
/// own, or the one that was skipped.
#[derive(Debug, Clone, Copy)]
pub struct CatchUp {
    pub event: Id<id::Event>,
    pub endpoint: Id<id::Endpoint>,
    pub profile: ProfileVersion,
}
