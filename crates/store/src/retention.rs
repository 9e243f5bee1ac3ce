//! The part of the seam that forgets: what ended long ago, in small pieces, oldest first.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use postrider_core::audit::AuditEntry;
use postrider_core::{Id, Timestamp, id};

use crate::StoreError;

/// Notices that somebody is to be told of are kept for so much longer, and no more: without a mailer they would stay for good.
pub const UNTOLD_KEPT: Duration = Duration::from_secs(7 * 86_400);

/// Until when what has ended is kept. What still waits is kept whatever its age.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keep {
    /// Events, deliveries with their attempts, notices and tasks that ended before go.
    pub before: Timestamp,
    /// Of applications that keep them longer or shorter.
    pub own: BTreeMap<Id<id::Application>, Timestamp>,
    /// Entries of the audit log before go.
    pub audit_before: Timestamp,
}

impl Keep {
    /// From when on an application's are kept.
    pub fn of(&self, application: Id<id::Application>) -> Timestamp {
        self.own.get(&application).copied().unwrap_or(self.before)
    }

    /// From when on everybody's are kept.
    pub fn latest(&self) -> Timestamp {
        self.own.values().copied().fold(self.before, Timestamp::max)
    }
}

/// What a round looks at, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Aged {
    /// With their deliveries and attempts.
    #[default]
    Events,
    Notices,
    Tasks,
    Audit,
    /// Those that were deleted, when the last of their deliveries has gone. Callbacks end by themselves, and may be very many.
    Endpoints,
}

impl Aged {
    /// What comes after it; none ends the round.
    pub fn next(self) -> Option<Self> {
        match self {
            Self::Events => Some(Self::Notices),
            Self::Notices => Some(Self::Tasks),
            Self::Tasks => Some(Self::Audit),
            Self::Audit => Some(Self::Endpoints),
            Self::Endpoints => None,
        }
    }
}

/// Where a round goes on: a round begins with the default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PruneFrom {
    pub what: Aged,
    /// The id of the last row that was looked at.
    pub after: u128,
}

impl PruneFrom {
    pub fn beginning(what: Aged) -> Self {
        Self { what, after: 0 }
    }
}

/// How much is gone, or would go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pruned {
    pub events: u64,
    pub deliveries: u64,
    pub notices: u64,
    pub tasks: u64,
    pub audit: u64,
    pub endpoints: u64,
    /// How often something was passed over because it is damaged, or belongs to what is: that stays.
    pub damaged: u64,
}

impl Pruned {
    pub fn is_nothing(self) -> bool {
        Self { damaged: 0, ..self } == Self::default()
    }
}

impl std::ops::AddAssign for Pruned {
    fn add_assign(&mut self, other: Self) {
        self.events += other.events;
        self.deliveries += other.deliveries;
        self.notices += other.notices;
        self.tasks += other.tasks;
        self.audit += other.audit;
        self.endpoints += other.endpoints;
        self.damaged += other.damaged;
    }
}

/// Whose content is deleted before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContentOf {
    /// Its data and `meta`, and with them what was answered to every attempt.
    Event(Id<id::Event>),
    /// What was answered to the attempt of this number.
    Attempt(Id<id::Delivery>, u32),
}

/// What ended long ago, and how it goes.
#[async_trait]
pub trait Retention: Send + Sync + 'static {
    /// Forgets what of the next rows is not to be kept, and returns where the round goes on; none when it has come to
    /// its end. A piece looks at a bounded number of rows. An event goes when the last of its deliveries does.
    async fn prune(
        &self,
        keep: &Keep,
        from: PruneFrom,
    ) -> Result<(Pruned, Option<PruneFrom>), StoreError>;

    /// Deletes what an event said, or what was answered to an attempt, and notes that if anything was there.
    ///
    /// # Errors
    /// `NotFound`; `DeliveryPending` while a delivery of the event waits.
    async fn delete_content(&self, of: ContentOf, entry: AuditEntry) -> Result<(), StoreError>;

    /// Days that applications keep what has ended, of those that have a time of their own. 0 is for ever, which is also
    /// that of one whose settings do not read.
    async fn own_days(&self) -> Result<Vec<(Id<id::Application>, u32)>, StoreError>;

    /// Bytes that all that is stored takes; what was freed and can be used again is not counted.
    async fn used_bytes(&self) -> Result<u64, StoreError>;
}
