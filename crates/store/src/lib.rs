//! The store seam: everything the house remembers goes through [`Store`].
//!
//! Every method is one transaction. `now` is always an argument; a store reads no clock, retries
//! nothing, and logs no error that it returns. [`memory::MemoryStore`] is the model: what it does
//! is right by definition, and the conformance suite holds the other stores to it.

#[macro_use]
pub mod conformance;
mod error;
pub mod memory;
mod model;
pub mod queries;
mod write;

pub use error::{Entity, Rule, StoreError};
pub use queries::{
    Cursor, DeliveryFilter, DuePage, EndpointStats, EventFilter, LaneBacklog, LoadDue, Page,
    PageRequest, ProfileRecord, StatePattern,
};
pub use write::{
    DueDelivery, FinishDelivery, Idempotency, NewEvent, Published, RecordAttempt, Recorded, Resend,
    Target, Write, Written,
};

use async_trait::async_trait;
use postrider_core::attempt::Attempt;
use postrider_core::delivery::{Delivery, DeliveryState, ProfileVersion};
use postrider_core::endpoint::Endpoint;
use postrider_core::event::Event;
use postrider_core::id::IdGenerator;
use postrider_core::tenant::{ApiKey, Application, EventType, Tenant};
use postrider_core::{Id, Timestamp, id};

pub use model::{Task, TaskState};

/// A change of an endpoint, applied inside the transaction that reads and writes it.
pub type EndpointChange = Box<dyn FnOnce(&mut Endpoint) + Send>;

/// A boxed cause.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What the house remembers, and how it changes.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Makes the ids of this installation.
    fn ids(&self) -> &IdGenerator;

    // --- The way of an event ---

    /// Commits all writes of `batch` in one transaction; the answers are in the same order.
    ///
    /// A write that cannot be (`NotFound`, `Conflict`) changes nothing and leaves the others be.
    /// When the transaction itself fails, every write answers `Aborted`, `Full` or `OutcomeUnknown`.
    async fn commit(&self, now: Timestamp, batch: Vec<Write>) -> Vec<Result<Written, StoreError>>;

    /// The first pending deliveries of one endpoint in the order of its lane.
    async fn load_due(&self, query: LoadDue) -> Result<DuePage, StoreError>;

    /// Every endpoint that has pending deliveries, with the place of the first.
    async fn backlog(&self) -> Result<Vec<LaneBacklog>, StoreError>;

    /// Gives up to `limit` pending deliveries of a disabled or deleted endpoint their final state;
    /// returns how many. An endpoint that was enabled meanwhile keeps what it has: 0.
    async fn finish_pending(
        &self,
        endpoint: Id<id::Endpoint>,
        state: DeliveryState,
        now: Timestamp,
        limit: u32,
    ) -> Result<u32, StoreError>;

    // --- Reading ---

    async fn event(&self, id: Id<id::Event>) -> Result<Event, StoreError>;
    /// Newest first.
    async fn list_events(
        &self,
        filter: EventFilter,
        page: PageRequest,
    ) -> Result<Page<Event>, StoreError>;
    async fn delivery(&self, id: Id<id::Delivery>) -> Result<Delivery, StoreError>;
    /// Newest first.
    async fn list_deliveries(
        &self,
        filter: DeliveryFilter,
        page: PageRequest,
    ) -> Result<Page<Delivery>, StoreError>;
    /// In the order of their numbers.
    async fn attempts(&self, delivery: Id<id::Delivery>) -> Result<Vec<Attempt>, StoreError>;
    async fn endpoint_stats(
        &self,
        endpoint: Id<id::Endpoint>,
        since: Timestamp,
    ) -> Result<EndpointStats, StoreError>;

    // --- Applications and tenants ---

    /// `Conflict(NameTaken)` when another application has the name.
    async fn create_application(&self, application: Application) -> Result<(), StoreError>;
    async fn application(&self, id: Id<id::Application>) -> Result<Application, StoreError>;
    async fn list_applications(&self, page: PageRequest) -> Result<Page<Application>, StoreError>;
    /// Gives an application another name or profile.
    async fn update_application(&self, application: Application) -> Result<(), StoreError>;

    /// `Conflict(NameTaken)` when the application has a tenant with the external id.
    async fn create_tenant(&self, tenant: Tenant) -> Result<(), StoreError>;
    async fn tenant(&self, id: Id<id::Tenant>) -> Result<Tenant, StoreError>;
    async fn tenant_by_external_id(
        &self,
        application: Id<id::Application>,
        external_id: &str,
    ) -> Result<Tenant, StoreError>;
    async fn list_tenants(
        &self,
        application: Id<id::Application>,
        page: PageRequest,
    ) -> Result<Page<Tenant>, StoreError>;

    async fn put_event_type(&self, event_type: EventType) -> Result<(), StoreError>;
    async fn list_event_types(
        &self,
        application: Id<id::Application>,
    ) -> Result<Vec<EventType>, StoreError>;
    async fn delete_event_type(
        &self,
        application: Id<id::Application>,
        name: &str,
    ) -> Result<(), StoreError>;

    // --- Endpoints ---

    /// `Conflict(EndpointsMax)` when the tenant has `max` registered endpoints of this mode already.
    async fn create_endpoint(&self, endpoint: Endpoint, max: Option<u32>)
    -> Result<(), StoreError>;
    /// Deleted endpoints are not found.
    async fn endpoint(&self, id: Id<id::Endpoint>) -> Result<Endpoint, StoreError>;
    /// The endpoint for a lane: deleted ones too, with `true`.
    async fn lane_endpoint(&self, id: Id<id::Endpoint>) -> Result<(Endpoint, bool), StoreError>;
    /// Registered endpoints, newest first.
    async fn list_endpoints(
        &self,
        tenant: Id<id::Tenant>,
        page: PageRequest,
    ) -> Result<Page<Endpoint>, StoreError>;
    /// Applies `change` and returns the endpoint as it is then.
    async fn update_endpoint(
        &self,
        id: Id<id::Endpoint>,
        change: EndpointChange,
    ) -> Result<Endpoint, StoreError>;
    /// It gets nothing from now on; what is pending is finished by the engine.
    async fn delete_endpoint(&self, id: Id<id::Endpoint>) -> Result<(), StoreError>;
    /// The tenant's callback endpoint for this URL, if it has had one.
    async fn callback_endpoint(
        &self,
        tenant: Id<id::Tenant>,
        url: &str,
    ) -> Result<Option<Endpoint>, StoreError>;

    // --- Keys ---

    async fn create_key(&self, key: ApiKey) -> Result<(), StoreError>;
    async fn key_by_hash(&self, hash: [u8; 32]) -> Result<ApiKey, StoreError>;
    async fn key_by_public_id(&self, public_id: &str) -> Result<ApiKey, StoreError>;
    async fn key(&self, id: Id<id::ApiKey>) -> Result<ApiKey, StoreError>;
    async fn list_keys(
        &self,
        application: Option<Id<id::Application>>,
        page: PageRequest,
    ) -> Result<Page<ApiKey>, StoreError>;
    async fn delete_key(&self, id: Id<id::ApiKey>) -> Result<(), StoreError>;
    /// Notes a nonce until `expires_at`; false when it is noted already.
    async fn use_nonce(
        &self,
        key: Id<id::ApiKey>,
        nonce: &str,
        expires_at: Timestamp,
    ) -> Result<bool, StoreError>;

    // --- Profiles, tasks, upkeep ---

    /// The version of a profile's text: the same text always has the same one.
    async fn put_profile(&self, name: &str, source: &str) -> Result<ProfileVersion, StoreError>;
    async fn profiles(&self) -> Result<Vec<ProfileRecord>, StoreError>;

    async fn put_task(&self, task: Task) -> Result<(), StoreError>;
    async fn task(&self, id: Id<id::Task>) -> Result<Task, StoreError>;
    async fn unfinished_tasks(&self) -> Result<Vec<Task>, StoreError>;

    /// Forgets idempotency keys older than `idempotency_before` and nonces that expired at `now`.
    async fn sweep(&self, idempotency_before: Timestamp, now: Timestamp) -> Result<(), StoreError>;

    /// Answers when the store can be written; the readiness check.
    async fn ping(&self) -> Result<(), StoreError>;
}
