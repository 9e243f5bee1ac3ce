//! One event on its way to one endpoint.

use std::sync::Arc;

use crate::event::Event;
use crate::tenant::Mode;
use crate::time::Moment;
use crate::{Id, Timestamp, id};

/// The profile version a delivery was made under; it keeps it whatever becomes of the profile.
pub type ProfileVersion = u32;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    pub id: Id<id::Delivery>,
    pub event: Id<id::Event>,
    pub endpoint: Id<id::Endpoint>,
    pub tenant: Id<id::Tenant>,
    pub event_type: Arc<str>,
    /// The event's.
    pub mode: Mode,
    pub profile: ProfileVersion,
    pub state: DeliveryState,
    /// All attempts ever made; they are numbered from 1 without gaps.
    pub attempts: u32,
    /// When the next attempt is due; meaningful while pending.
    pub due_at: Timestamp,
    pub series: Series,
    pub created_at: Timestamp,
    pub completed_at: Option<Timestamp>,
}

impl Delivery {
    /// A delivery of an event that is made now and due at once.
    pub fn new(
        id: Id<id::Delivery>,
        event: &Event,
        endpoint: Id<id::Endpoint>,
        profile: ProfileVersion,
        now: Moment,
    ) -> Self {
        Self {
            id,
            event: event.id,
            endpoint,
            tenant: event.tenant,
            event_type: event.event_type.clone(),
            mode: event.mode,
            profile,
            state: DeliveryState::Pending,
            attempts: 0,
            due_at: now.steady,
            series: Series::SCHEDULED,
            created_at: now.wall,
            completed_at: None,
        }
    }
}

/// Where a delivery is in its present run through the schedule.
///
/// A manual resend begins a series of its own; numbers of attempts go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Series {
    /// Attempts made in this series.
    pub attempts: u32,
    /// Start of the first attempt of this series; none before it.
    pub started_at: Option<Timestamp>,
    /// A manual resend is one attempt without retries, unless the profile says otherwise.
    pub single: bool,
}

impl Series {
    pub const SCHEDULED: Self = Self {
        attempts: 0,
        started_at: None,
        single: false,
    };
}

/// `pending → delivered | failed | cancelled`, or `skipped` from the start; an attempt under way is known only to the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeliveryState {
    Pending,
    Delivered,
    Failed(FailReason),
    Cancelled,
    /// Its distribution was paused when the event came: it is not sent unless somebody asks.
    Skipped,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailReason {
    /// The schedule ended.
    Exhausted,
    /// The answer forbids a retry.
    Stopped,
    /// The endpoint was disabled while the delivery waited.
    EndpointDisabled,
    /// `deliverBefore` passed.
    Expired,
}

impl DeliveryState {
    pub fn is_final(self) -> bool {
        self != Self::Pending
    }

    /// The word the API shows and filters by.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Failed(_) => "failed",
            Self::Cancelled => "cancelled",
            Self::Skipped => "skipped",
        }
    }
}

impl FailReason {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exhausted => "exhausted",
            Self::Stopped => "stopped",
            Self::EndpointDisabled => "endpoint_disabled",
            Self::Expired => "expired",
        }
    }
}
