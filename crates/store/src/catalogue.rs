//! Who gets what: applications, tenants, event types, endpoints and profiles.

use std::ops::RangeInclusive;

use async_trait::async_trait;
use postrider_core::audit::Actor;
use postrider_core::delivery::ProfileVersion;
use postrider_core::endpoint::Endpoint;
use postrider_core::tenant::{Application, EventType, Mode, Tenant};
use postrider_core::{Id, id};

use crate::{
    ApplicationChange, EndpointChange, EndpointFilter, Entity, Page, PageRequest, ProfileRecord,
    StoreError, TenantChange, TenantFilter,
};

/// What is configured. Every change is recorded in the audit log, in the same transaction, as `by`'s.
#[async_trait]
pub trait Catalogue: Send + Sync + 'static {
    /// `Conflict(NameTaken)` when another application has the name.
    async fn create_application(
        &self,
        application: Application,
        by: Actor,
    ) -> Result<(), StoreError>;

    async fn application(&self, id: Id<id::Application>) -> Result<Application, StoreError>;

    async fn list_applications(&self, page: PageRequest) -> Result<Page<Application>, StoreError>;

    /// Gives an application another name, profile or settings. `Conflict(ProfileInUse)` when it has tenants and would have
    /// another profile.
    async fn update_application(
        &self,
        id: Id<id::Application>,
        change: ApplicationChange,
        by: Actor,
    ) -> Result<Application, StoreError>;

    /// `Conflict(NameTaken)` when the application has a tenant with the external id, `Conflict(ChangedMeanwhile)` when it
    /// has not the profile that the tenant's secrets were made for.
    async fn create_tenant(
        &self,
        tenant: Tenant,
        profile: Box<str>,
        by: Actor,
    ) -> Result<(), StoreError>;

    /// Applies `change` and returns the tenant as it is then. `Conflict(NameTaken)` when the application has another
    /// tenant with the external id.
    async fn update_tenant(
        &self,
        id: Id<id::Tenant>,
        change: TenantChange,
        by: Actor,
    ) -> Result<Tenant, StoreError>;

    /// Tenants in the order of `ids`. One that cannot be read costs no other.
    async fn tenants(&self, ids: &[Id<id::Tenant>]) -> Vec<Result<Tenant, StoreError>>;

    async fn tenant(&self, id: Id<id::Tenant>) -> Result<Tenant, StoreError> {
        let mut found = self.tenants(&[id]).await;
        found
            .pop()
            .unwrap_or(Err(StoreError::not_found(Entity::Tenant)))
    }

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

    /// Declares an event type, or changes a declared one, and returns it as it is then: one that was there
    /// keeps when it was made. `Conflict(ChangedMeanwhile)` when what is there is not what was `seen`, none where there was
    /// none; `Conflict(EventTypesMax)` when it would be more than `max`.
    async fn put_event_type(
        &self,
        event_type: EventType,
        seen: Option<EventType>,
        max: usize,
        by: Actor,
    ) -> Result<EventType, StoreError>;

    async fn event_type(
        &self,
        application: Id<id::Application>,
        name: &str,
    ) -> Result<Option<EventType>, StoreError>;

    /// The names of an application's event types in their order, each with the bytes of its other texts.
    async fn event_type_names(
        &self,
        application: Id<id::Application>,
    ) -> Result<Vec<(String, usize)>, StoreError>;

    /// Those from one name to another, with both, in the order of [`Catalogue::event_type_names`].
    async fn list_event_types(
        &self,
        application: Id<id::Application>,
        names: RangeInclusive<String>,
    ) -> Result<Vec<EventType>, StoreError>;

    async fn delete_event_type(
        &self,
        application: Id<id::Application>,
        name: &str,
        by: Actor,
    ) -> Result<(), StoreError>;

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

    /// Those of `ids` that ever were and read, deleted ones too, in any order: for records of what they got.
    async fn endpoints(&self, ids: Vec<Id<id::Endpoint>>) -> Result<Vec<Endpoint>, StoreError>;

    /// Endpoints of one kind, newest first.
    async fn list_endpoints(
        &self,
        filter: EndpointFilter,
        page: PageRequest,
    ) -> Result<Page<Endpoint>, StoreError>;

    /// Endpoints that fail now or were disabled when they did, of an application or of all: those that have failed for the
    /// longest first, `limit` at most.
    async fn failing_endpoints(
        &self,
        application: Option<Id<id::Application>>,
        limit: u32,
    ) -> Result<Vec<Endpoint>, StoreError>;

    /// Applies `change` and returns the endpoint as it is then. `Conflict(NameTaken)` when the tenant has another
    /// endpoint of its mode with the external id.
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

    /// The version of a profile's text: the same text always has the same one.
    async fn put_profile(&self, name: &str, source: &str) -> Result<ProfileVersion, StoreError>;

    async fn profiles(&self) -> Result<Vec<ProfileRecord>, StoreError>;
}
