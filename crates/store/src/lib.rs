//! The store seam: everything the house remembers goes through [`Store`].
//!
//! Every method is one transaction. `now` is always an argument; a store reads no clock, retries
//! nothing, and logs no error that it returns. [`memory::MemoryStore`] is the model: what it does
//! is right by definition, and the conformance suite holds the other stores to it.

#[macro_use]
pub mod conformance;
mod error;
pub mod life;
pub mod memory;
mod model;
mod notices;
pub mod outbox;
pub mod queries;
mod retention;
mod sessions;
mod users;
mod write;

pub use error::{Entity, Rule, StoreError};
pub use outbox::Outbox;
pub use queries::{
    AuditFilter, Counted, Cursor, DeliveryFilter, DuePage, EndpointFilter, EndpointListing,
    EndpointStats, EventFilter, KeyFilter, LaneBacklog, LastAnswer, LoadDue, MissedPage,
    MissedQuery, NoticeFilter, Page, PageRequest, ProfileRecord, StatePattern, Statistics,
    StatisticsGroup, StatisticsPoint, StatisticsQuery, TaskFilter, TenantFilter,
};
pub use retention::{Aged, Keep, PruneFrom, Pruned, Retention};
pub use sessions::{Sessions, SessionsOf};
pub use users::{UserChange, UserFilter, Users};
pub use write::{
    CatchUp, DueDelivery, FinishDelivery, FirstUse, Idempotency, NewEvent, Published,
    RecordAttempt, Recorded, Resend, Target, Write, Written,
};

use std::sync::Arc;

use async_trait::async_trait;
use postrider_core::attempt::{Attempt, Rendering};
use postrider_core::audit::{Actor, AuditEntry};
use postrider_core::delivery::{Delivery, DeliveryState, ProfileVersion};
use postrider_core::endpoint::Endpoint;
use postrider_core::event::{Event, EventSummary};
use postrider_core::id::IdGenerator;
use postrider_core::notice::Notice;
use postrider_core::tenant::{ApiKey, Application, EventType, Mode, Tenant};
use postrider_core::time::Moment;
use postrider_core::{Id, Timestamp, id};

pub use model::{Erased, Owner, Task, TaskKind, TaskState};
pub use notices::{
    DueNotices, EXPIRED_TEXT, Failure, MailAudience, NoticeChannel, Ways, failure_text,
};

/// A change of an endpoint, applied inside the transaction that reads and writes it.
pub type EndpointChange = Box<dyn FnOnce(&mut Endpoint) + Send>;
/// A change of an application, applied as an [`EndpointChange`] is.
pub type ApplicationChange = Box<dyn FnOnce(&mut Application) + Send>;
/// A change of a tenant, applied as an [`EndpointChange`] is.
pub type TenantChange = Box<dyn FnOnce(&mut Tenant) + Send>;
/// A change of a key and of the endpoint it owns. An endpoint put there is created, one taken away
/// is deleted.
pub type KeyChange = Box<dyn FnOnce(&mut ApiKey, &mut Option<Endpoint>) + Send>;

/// A boxed cause.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What the house remembers, and how it changes.
#[async_trait]
pub trait Store: Sessions + Users + Retention + Outbox + Send + Sync + 'static {
    /// Makes the ids of this installation.
    fn ids(&self) -> &IdGenerator;

    // --- The way of an event ---

    /// Commits the writes of `batch`, each whole or not at all; the answers are in the same order.
    /// Places, due times and the age of idempotency keys are by the steady clock, all else by the wall
    /// clock.
    ///
    /// They are one transaction, or a few when they are large ([`limits::TRANSACTION_ROWS`]). A write
    /// that cannot be (`NotFound`, `Conflict`, and `Corrupt` where a row that it needs cannot be read)
    /// changes nothing and leaves the others be. When a transaction itself fails, all its writes
    /// answer `Aborted`, `Full` or `OutcomeUnknown`.
    ///
    /// [`limits::TRANSACTION_ROWS`]: postrider_core::limits::TRANSACTION_ROWS
    async fn commit(&self, now: Moment, batch: Vec<Write>) -> Vec<Result<Written, StoreError>>;

    /// The latest place that a fresh delivery has, by the steady clock of whoever made it, or what
    /// [`Store::note_steady`] noted if that is later.
    async fn last_place(&self) -> Result<Timestamp, StoreError>;

    /// Notes how far the steady clock has come, so that the next process begins there, however little is accepted
    /// and whatever the wall clock shows then.
    async fn note_steady(&self, now: Timestamp) -> Result<(), StoreError>;

    /// The first pending deliveries of one endpoint in the order of its lane.
    async fn load_due(&self, query: LoadDue) -> Result<DuePage, StoreError>;

    /// Every endpoint that has pending deliveries, with the place of the first.
    async fn backlog(&self) -> Result<Vec<LaneBacklog>, StoreError>;

    /// Gives up to `limit` pending deliveries of a disabled or deleted endpoint their final state;
    /// returns how many. An endpoint that was enabled meanwhile keeps what it has, one that was erased has none: 0.
    async fn finish_pending(
        &self,
        endpoint: Id<id::Endpoint>,
        state: DeliveryState,
        now: Timestamp,
        limit: u32,
    ) -> Result<u32, StoreError>;

    // --- Reading ---

    //
    // A list looks at a bounded number of rows. What its filters leave of them is the page: it may
    // have fewer rows than asked for, even none, and there is more as long as it names a next one.

    async fn event(&self, id: Id<id::Event>) -> Result<Event, StoreError>;
    /// Newest first.
    async fn list_events(
        &self,
        filter: EventFilter,
        page: PageRequest,
    ) -> Result<Page<EventSummary>, StoreError>;
    /// Those of `ids` that are there, in any order.
    async fn event_summaries(
        &self,
        ids: Vec<Id<id::Event>>,
    ) -> Result<Vec<EventSummary>, StoreError>;
    /// What an idempotency key was used for, as long as that is remembered.
    async fn first_use(
        &self,
        application: Id<id::Application>,
        key: &str,
    ) -> Result<Option<FirstUse>, StoreError>;
    async fn delivery(&self, id: Id<id::Delivery>) -> Result<Delivery, StoreError>;
    /// Counts a page of [`Store::list_deliveries`].
    async fn count_deliveries(
        &self,
        filter: DeliveryFilter,
        page: PageRequest,
    ) -> Result<Counted, StoreError>;
    /// What an endpoint missed, for [`CatchUp`]. A deleted endpoint is not found.
    async fn missed_events(&self, query: MissedQuery) -> Result<MissedPage, StoreError>;
    /// Newest first, unless the filter says otherwise.
    async fn list_deliveries(
        &self,
        filter: DeliveryFilter,
        page: PageRequest,
    ) -> Result<Page<Delivery>, StoreError>;
    /// The last `limit` of a delivery's attempts, or of those before the number `before`; in the order
    /// of their numbers.
    async fn attempts(
        &self,
        delivery: Id<id::Delivery>,
        before: Option<u32>,
        limit: u32,
    ) -> Result<Vec<Attempt>, StoreError>;
    /// The last attempt of each delivery that has one, in any order.
    async fn last_attempts(
        &self,
        deliveries: Vec<Id<id::Delivery>>,
    ) -> Result<Vec<(Id<id::Delivery>, Attempt)>, StoreError>;
    /// What of its endpoint made a delivery's first body.
    async fn first_rendering(
        &self,
        delivery: Id<id::Delivery>,
    ) -> Result<Option<Arc<Rendering>>, StoreError>;
    /// `TooLong` when there is more to count than the store counts at once.
    async fn endpoint_stats(
        &self,
        endpoint: Id<id::Endpoint>,
        since: Timestamp,
    ) -> Result<EndpointStats, StoreError>;
    /// Counts of a tenant's deliveries, grouped and over time. `TooLong` as above.
    async fn statistics(&self, query: StatisticsQuery) -> Result<Statistics, StoreError>;

    // --- Applications and tenants ---
    //
    // Every change below is recorded in the audit log, in the same transaction, as `by`'s.

    /// `Conflict(NameTaken)` when another application has the name.
    async fn create_application(
        &self,
        application: Application,
        by: Actor,
    ) -> Result<(), StoreError>;
    async fn application(&self, id: Id<id::Application>) -> Result<Application, StoreError>;
    async fn list_applications(&self, page: PageRequest) -> Result<Page<Application>, StoreError>;
    /// Gives an application another name, profile or settings.
    async fn update_application(
        &self,
        id: Id<id::Application>,
        change: ApplicationChange,
        by: Actor,
    ) -> Result<Application, StoreError>;

    /// `Conflict(NameTaken)` when the application has a tenant with the external id.
    async fn create_tenant(&self, tenant: Tenant, by: Actor) -> Result<(), StoreError>;
    /// Applies `change` and returns the tenant as it is then. `Conflict(NameTaken)` when the application has another
    /// tenant with the external id.
    async fn update_tenant(
        &self,
        id: Id<id::Tenant>,
        change: TenantChange,
        by: Actor,
    ) -> Result<Tenant, StoreError>;
    async fn tenant(&self, id: Id<id::Tenant>) -> Result<Tenant, StoreError>;
    async fn tenant_by_external_id(
        &self,
        application: Id<id::Application>,
        external_id: &str,
    ) -> Result<Tenant, StoreError>;
    async fn list_tenants(
        &self,
        filter: TenantFilter,
        page: PageRequest,
    ) -> Result<Page<Tenant>, StoreError>;

    /// Deletes a tenant or an application: from now on it is not found, its keys open nothing, and nothing can be
    /// published for it. What it had is left for [`Store::erase`]; `task` remembers that, in the same transaction.
    async fn delete_owner(&self, owner: Owner, task: Task, by: Actor) -> Result<(), StoreError>;
    /// Erases up to about `limit` rows of each kind of a deleted owner's: first it ends its endpoints, then its
    /// records go. To be called until nothing is left. The audit log keeps who deleted the owner.
    async fn erase(&self, owner: Owner, limit: u32) -> Result<Erased, StoreError>;

    /// Declares an event type, or changes a declared one, and returns it as it is then: one that was there
    /// keeps when it was made. `Conflict(EventTypesMax)` when it would be more than `max`.
    async fn put_event_type(
        &self,
        event_type: EventType,
        max: usize,
        by: Actor,
    ) -> Result<EventType, StoreError>;
    async fn event_type(
        &self,
        application: Id<id::Application>,
        name: &str,
    ) -> Result<Option<EventType>, StoreError>;
    async fn list_event_types(
        &self,
        application: Id<id::Application>,
    ) -> Result<Vec<EventType>, StoreError>;
    async fn delete_event_type(
        &self,
        application: Id<id::Application>,
        name: &str,
        by: Actor,
    ) -> Result<(), StoreError>;

    // --- Endpoints ---

    /// `Conflict(EndpointsMax)` when the tenant has `max` endpoints of this kind and mode already; of callbacks
    /// the oldest that nothing waits for is deleted instead, if there is one.
    /// `Conflict(NameTaken)` when it has this callback, or another endpoint of this mode with the external id.
    async fn create_endpoint(
        &self,
        endpoint: Endpoint,
        max: Option<u32>,
        by: Actor,
    ) -> Result<(), StoreError>;
    /// A tenant's endpoint of this mode by the product's id for it. Deleted endpoints are not found.
    async fn endpoint_by_external_id(
        &self,
        tenant: Id<id::Tenant>,
        mode: Mode,
        external_id: &str,
    ) -> Result<Endpoint, StoreError>;
    /// Deleted endpoints are not found.
    async fn endpoint(&self, id: Id<id::Endpoint>) -> Result<Endpoint, StoreError>;
    /// The endpoint for a lane: deleted ones too, with `true`.
    async fn lane_endpoint(&self, id: Id<id::Endpoint>) -> Result<(Endpoint, bool), StoreError>;
    /// Those of `ids` that ever were, deleted ones too, in any order: for records of what they got.
    async fn endpoints(&self, ids: Vec<Id<id::Endpoint>>) -> Result<Vec<Endpoint>, StoreError>;
    /// Endpoints of one kind, newest first.
    async fn list_endpoints(
        &self,
        filter: EndpointFilter,
        page: PageRequest,
    ) -> Result<Page<Endpoint>, StoreError>;
    /// Applies `change` and returns the endpoint as it is then. `Conflict(NameTaken)` when the tenant has another
    /// endpoint of its mode with the external id.
    /// Endpoints that fail now or were disabled when they did, of an application or of all: those that have failed for the
    /// longest first, `limit` at most.
    async fn failing_endpoints(
        &self,
        application: Option<Id<id::Application>>,
        limit: u32,
    ) -> Result<Vec<Endpoint>, StoreError>;
    async fn update_endpoint(
        &self,
        id: Id<id::Endpoint>,
        change: EndpointChange,
        by: Actor,
    ) -> Result<Endpoint, StoreError>;
    /// It gets nothing from now on; what is pending is finished by the engine.
    async fn delete_endpoint(&self, id: Id<id::Endpoint>, by: Actor) -> Result<(), StoreError>;
    /// The tenant's callback endpoint of this mode for this URL, if it has had one.
    async fn callback_endpoint(
        &self,
        tenant: Id<id::Tenant>,
        mode: Mode,
        url: &str,
    ) -> Result<Option<Endpoint>, StoreError>;

    // --- Keys ---

    /// Makes a key, and the endpoint that it owns if it has one.
    async fn create_key(
        &self,
        key: ApiKey,
        endpoint: Option<Endpoint>,
        by: Actor,
    ) -> Result<(), StoreError>;
    /// A deleted owner's keys are not found by what callers send.
    async fn key_by_hash(&self, hash: [u8; 32]) -> Result<ApiKey, StoreError>;
    async fn key_by_public_id(&self, public_id: &str) -> Result<ApiKey, StoreError>;
    async fn key(&self, id: Id<id::ApiKey>) -> Result<ApiKey, StoreError>;
    async fn list_keys(
        &self,
        filter: KeyFilter,
        page: PageRequest,
    ) -> Result<Page<ApiKey>, StoreError>;
    /// The endpoint that a key owns, unless it is deleted.
    async fn key_endpoint(&self, key: Id<id::ApiKey>) -> Result<Option<Endpoint>, StoreError>;
    /// Whether a root key is there with which a person can manage the server: live and not disabled.
    async fn has_root_key(&self) -> Result<bool, StoreError>;
    /// Applies `change` and returns the key and its endpoint as they are then.
    /// `Conflict(LastRootKey)` when no root key would be left that [`Store::has_root_key`] means.
    async fn update_key(
        &self,
        id: Id<id::ApiKey>,
        change: KeyChange,
        by: Actor,
    ) -> Result<(ApiKey, Option<Endpoint>), StoreError>;
    /// Deletes a key and the endpoint that it owns. `Conflict(LastRootKey)` as above.
    async fn delete_key(&self, id: Id<id::ApiKey>, by: Actor) -> Result<(), StoreError>;
    /// Notes a nonce until `expires_at`; false when it is noted already.
    async fn use_nonce(
        &self,
        key: Id<id::ApiKey>,
        nonce: &str,
        expires_at: Timestamp,
    ) -> Result<bool, StoreError>;

    // --- Audit log and notices ---

    /// Records what somebody did that changed nothing here: a test call. Not of a deleted owner: nobody would erase it.
    async fn note(&self, entry: AuditEntry) -> Result<(), StoreError>;
    /// Newest first.
    async fn list_audit(
        &self,
        filter: AuditFilter,
        page: PageRequest,
    ) -> Result<Page<AuditEntry>, StoreError>;
    /// Newest first.
    async fn list_notices(
        &self,
        filter: NoticeFilter,
        page: PageRequest,
    ) -> Result<Page<Notice>, StoreError>;
    /// Marks a tenant's notices, of one mode or both, up to and including `last` as read; returns
    /// how many were not.
    async fn read_notices(
        &self,
        tenant: Id<id::Tenant>,
        mode: Option<Mode>,
        last: Id<id::Notice>,
        now: Timestamp,
    ) -> Result<u32, StoreError>;
    /// Everybody for whom a notice waits to be mailed, with the time of the oldest.
    async fn mail_audiences(&self) -> Result<Vec<(MailAudience, Timestamp)>, StoreError>;
    /// The oldest notices that wait.
    async fn due_notices(&self, due: DueNotices, limit: u32) -> Result<Vec<Notice>, StoreError>;
    /// They wait for the channel no more.
    async fn settle_notices(
        &self,
        channel: NoticeChannel,
        ids: Vec<Id<id::Notice>>,
    ) -> Result<(), StoreError>;

    // --- Profiles, tasks, upkeep ---

    /// The version of a profile's text: the same text always has the same one.
    async fn put_profile(&self, name: &str, source: &str) -> Result<ProfileVersion, StoreError>;
    async fn profiles(&self) -> Result<Vec<ProfileRecord>, StoreError>;

    /// Writes a task that is new or runs; one that has ended stays as it is.
    async fn put_task(&self, task: Task) -> Result<(), StoreError>;
    /// Newest first.
    async fn list_tasks(
        &self,
        filter: TaskFilter,
        page: PageRequest,
    ) -> Result<Page<Task>, StoreError>;
    async fn task(&self, id: Id<id::Task>) -> Result<Task, StoreError>;
    async fn unfinished_tasks(&self) -> Result<Vec<Task>, StoreError>;

    /// Forgets idempotency keys older than `idempotency_before` (by the steady clock), and nonces and sessions that
    /// expired at `now` (by the wall clock).
    async fn sweep(&self, idempotency_before: Timestamp, now: Timestamp) -> Result<(), StoreError>;

    /// Answers when the store can be written; the readiness check.
    async fn ping(&self) -> Result<(), StoreError>;
}
