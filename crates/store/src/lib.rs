//! The store seam: everything the house remembers goes through [`Store`], which is cut by who uses it: [`Lanes`] for the
//! engine, [`Records`], [`Catalogue`], [`Keys`] and [`Tasks`] for the service, [`Notices`] for who tells people.
//!
//! Every method is one transaction. `now` is always an argument; a store reads no clock, retries
//! nothing, and logs no error that it returns. [`memory::MemoryStore`] is the model: what it does
//! is right by definition, and the conformance suite holds the other stores to it.

mod audit;
mod batch;
mod catalogue;
#[macro_use]
pub mod conformance;
mod error;
mod keys;
mod lanes;
pub mod life;
pub mod memory;
mod model;
mod notices;
pub mod outbox;
mod outcomes;
pub mod queries;
mod records;
mod retention;
mod sessions;
mod statistics;
mod tasks;
mod users;
mod write;

pub use audit::Audit;
pub use batch::{Answers, Batch, Written};
pub use catalogue::Catalogue;
pub use error::{Entity, Rule, StoreError};
pub use keys::Keys;
pub use lanes::Lanes;
pub use outbox::Outbox;
pub use outcomes::{Outcomes, TOOK_MILLIS, Times, took_class};
pub use queries::{
    AuditFilter, Counted, Cursor, DeliveryFilter, DuePage, EndpointFilter, EndpointListing,
    EventFilter, KeyFilter, LaneBacklog, LaneEndpoint, LastAnswer, LoadDue, MissedPage,
    MissedQuery, NoticeFilter, Page, PageRequest, ProfileRecord, StatePattern, TaskFilter,
    TenantFilter,
};
pub use records::Records;
pub use retention::{Aged, ContentOf, Keep, PruneFrom, Pruned, Retention, UNTOLD_KEPT};
pub use sessions::{Sessions, SessionsOf};
pub use statistics::{
    Alike, AlikeAttempts, Count, ENDPOINTS_COUNTED_MAX, EndpointStats, Statistics, StatisticsPoint,
    StatisticsQuery, TYPES_COUNTED_MAX,
};
pub use tasks::Tasks;
pub use users::{UserChange, UserFilter, Users};
pub use write::{
    CatchUp, DueDelivery, FinishDelivery, FirstUse, Idempotency, NewEvent, Published,
    RecordAttempt, Recorded, Resend, Target,
};

use async_trait::async_trait;
use postrider_core::Timestamp;
use postrider_core::endpoint::Endpoint;
use postrider_core::id::IdGenerator;
use postrider_core::tenant::{ApiKey, Application, Tenant};

pub use model::{Erased, Owner, Task, TaskKind, TaskState};
pub use notices::{
    DueNotices, EXPIRED_TEXT, Failure, MailAudience, NoticeChannel, Notices, Ways, failure_text,
};

/// A change, applied inside the transaction that reads and writes what it is of. It may refuse by what it finds there: then
/// nothing is written.
type ChangeOf<T> = Box<dyn FnOnce(&mut T) -> Result<(), StoreError> + Send>;
pub type EndpointChange = ChangeOf<Endpoint>;
pub type ApplicationChange = ChangeOf<Application>;
pub type TenantChange = ChangeOf<Tenant>;

/// A change of an endpoint that refuses nothing.
pub fn always(change: impl FnOnce(&mut Endpoint) + Send + 'static) -> EndpointChange {
    unconditionally(change)
}

/// A change that refuses nothing, of an application or a tenant.
pub fn unconditionally<T>(change: impl FnOnce(&mut T) + Send + 'static) -> ChangeOf<T> {
    Box::new(|it| {
        change(it);
        Ok(())
    })
}

/// A change of a key and of the endpoint it owns. An endpoint put there is created, one taken away
/// is deleted.
pub type KeyChange = Box<dyn FnOnce(&mut ApiKey, &mut Option<Endpoint>) + Send>;

/// A boxed cause.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What the house remembers, and how it changes.
#[async_trait]
pub trait Store:
    Lanes + Records + Catalogue + Keys + Audit + Notices + Tasks + Sessions + Users + Retention + Outbox
{
    /// Makes the ids of this installation.
    fn ids(&self) -> &IdGenerator;

    /// Forgets idempotency keys older than `idempotency_before` (by the steady clock), and nonces and sessions that
    /// expired at `now` (by the wall clock).
    async fn sweep(&self, idempotency_before: Timestamp, now: Timestamp) -> Result<(), StoreError>;

    /// Answers when the store can be written; the readiness check.
    async fn ping(&self) -> Result<(), StoreError>;
}
