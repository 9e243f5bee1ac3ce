//! [`Catalogue`] of the store: each method is a question for a reader, or a change for the writer.

use std::ops::RangeInclusive;

use async_trait::async_trait;
use postrider_core::audit::Actor;
use postrider_core::delivery::ProfileVersion;
use postrider_core::endpoint::Endpoint;
use postrider_core::tenant::{Application, EventType, Mode, Tenant};
use postrider_core::{Id, id};
use postrider_store::{
    ApplicationChange, Catalogue, EndpointChange, EndpointFilter, Page, PageRequest, ProfileRecord,
    StoreError, TenantChange, TenantFilter,
};

use crate::SqlStore;

#[async_trait]
impl Catalogue for SqlStore {
    async fn create_application(
        &self,
        application: Application,
        by: Actor,
    ) -> Result<(), StoreError> {
        self.writer
            .make(by.account, move |tx| {
                tx.create_application(&application, &by)
            })
            .await
    }

    async fn application(&self, id: Id<id::Application>) -> Result<Application, StoreError> {
        self.points.read(move |reader| reader.application(id)).await
    }

    async fn list_applications(&self, page: PageRequest) -> Result<Page<Application>, StoreError> {
        self.lists
            .read(move |reader| reader.list_applications(page))
            .await
    }

    async fn update_application(
        &self,
        id: Id<id::Application>,
        change: ApplicationChange,
        by: Actor,
    ) -> Result<Application, StoreError> {
        self.writer
            .change(by.account, move |tx| tx.update_application(id, change, &by))
            .await
    }

    async fn create_tenant(
        &self,
        tenant: Tenant,
        profile: Box<str>,
        by: Actor,
    ) -> Result<(), StoreError> {
        self.writer
            .make(by.account, move |tx| {
                tx.create_tenant(&tenant, &profile, &by)
            })
            .await
    }

    async fn update_tenant(
        &self,
        id: Id<id::Tenant>,
        change: TenantChange,
        by: Actor,
    ) -> Result<Tenant, StoreError> {
        self.writer
            .change(by.account, move |tx| tx.update_tenant(id, change, &by))
            .await
    }

    async fn tenants(&self, ids: &[Id<id::Tenant>]) -> Vec<Result<Tenant, StoreError>> {
        self.points
            .read_each(ids, |reader, ids| reader.tenants(ids))
            .await
    }

    async fn tenant_by_external_id(
        &self,
        application: Id<id::Application>,
        external_id: &str,
    ) -> Result<Tenant, StoreError> {
        let external_id = external_id.to_owned();
        self.points
            .read(move |reader| reader.tenant_by_external_id(application, &external_id))
            .await
    }

    async fn list_tenants(
        &self,
        filter: TenantFilter,
        page: PageRequest,
    ) -> Result<Page<Tenant>, StoreError> {
        self.lists
            .read(move |reader| reader.list_tenants(filter, page))
            .await
    }

    async fn put_event_type(
        &self,
        event_type: EventType,
        seen: Option<EventType>,
        max: usize,
        by: Actor,
    ) -> Result<EventType, StoreError> {
        self.writer
            .make(by.account, move |tx| {
                tx.put_event_type(event_type, seen.as_ref(), max, &by)
            })
            .await
    }

    async fn event_type(
        &self,
        application: Id<id::Application>,
        name: &str,
    ) -> Result<Option<EventType>, StoreError> {
        let name = name.to_owned();
        self.points
            .read(move |reader| reader.event_type(application, &name))
            .await
    }

    async fn event_type_names(
        &self,
        application: Id<id::Application>,
    ) -> Result<Vec<(String, usize)>, StoreError> {
        self.lists
            .read(move |reader| reader.event_type_names(application))
            .await
    }

    async fn list_event_types(
        &self,
        application: Id<id::Application>,
        names: RangeInclusive<String>,
    ) -> Result<Vec<EventType>, StoreError> {
        self.lists
            .read(move |reader| reader.list_event_types(application, &names))
            .await
    }

    async fn delete_event_type(
        &self,
        application: Id<id::Application>,
        name: &str,
        by: Actor,
    ) -> Result<(), StoreError> {
        let name = name.to_owned();
        self.writer
            // Not `change`, as with all deletions: where there is no room they have to be possible.
            .call_by(by.account, move |tx| {
                tx.delete_event_type(application, &name, &by)
            })
            .await
    }

    async fn create_endpoint(
        &self,
        endpoint: Endpoint,
        max: Option<u32>,
        by: Actor,
    ) -> Result<(), StoreError> {
        self.writer
            .make(by.account, move |tx| {
                tx.create_endpoint(&endpoint, max, &by)
            })
            .await
    }

    async fn endpoint_by_external_id(
        &self,
        tenant: Id<id::Tenant>,
        mode: Mode,
        external_id: &str,
    ) -> Result<Endpoint, StoreError> {
        let external_id = external_id.to_owned();
        self.points
            .read(move |reader| reader.endpoint_by_external_id(tenant, mode, &external_id))
            .await
    }

    async fn endpoint(&self, id: Id<id::Endpoint>) -> Result<Endpoint, StoreError> {
        self.points.read(move |reader| reader.endpoint(id)).await
    }

    async fn endpoints(&self, ids: Vec<Id<id::Endpoint>>) -> Result<Vec<Endpoint>, StoreError> {
        // Many, and each may have much: what deliveries and callers wait for goes beside it.
        self.lists.read(move |reader| reader.endpoints(&ids)).await
    }

    async fn list_endpoints(
        &self,
        filter: EndpointFilter,
        page: PageRequest,
    ) -> Result<Page<Endpoint>, StoreError> {
        self.lists
            .read(move |reader| reader.list_endpoints(filter, page))
            .await
    }

    async fn failing_endpoints(
        &self,
        application: Option<Id<id::Application>>,
        limit: u32,
    ) -> Result<Vec<Endpoint>, StoreError> {
        self.lists
            .read(move |reader| reader.failing_endpoints(application, limit))
            .await
    }

    async fn update_endpoint(
        &self,
        id: Id<id::Endpoint>,
        change: EndpointChange,
        by: Actor,
    ) -> Result<Endpoint, StoreError> {
        self.writer
            .change(by.account, move |tx| tx.update_endpoint(id, change, &by))
            .await
    }

    async fn delete_endpoint(&self, id: Id<id::Endpoint>, by: Actor) -> Result<(), StoreError> {
        self.writer
            .call_by(by.account, move |tx| tx.delete_endpoint(id, &by))
            .await
    }

    async fn callback_endpoint(
        &self,
        tenant: Id<id::Tenant>,
        mode: Mode,
        url: &str,
    ) -> Result<Option<Endpoint>, StoreError> {
        let url = url.to_owned();
        self.points
            .read(move |reader| reader.callback_endpoint(tenant, mode, &url))
            .await
    }

    async fn put_profile(&self, name: &str, source: &str) -> Result<ProfileVersion, StoreError> {
        let (name, source) = (name.to_owned(), source.to_owned());
        self.writer
            .call(move |tx| tx.put_profile(&name, &source))
            .await
    }

    async fn profiles(&self) -> Result<Vec<ProfileRecord>, StoreError> {
        self.points.read(|reader| reader.profiles()).await
    }
}
