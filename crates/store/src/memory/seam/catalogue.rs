//! [`Catalogue`] of the model.

use std::ops::RangeInclusive;

use async_trait::async_trait;
use postrider_core::audit::Actor;
use postrider_core::delivery::ProfileVersion;
use postrider_core::endpoint::Endpoint;
use postrider_core::tenant::{Application, EventType, Mode, Tenant};
use postrider_core::{Id, id};

use crate::memory::{MemoryStore, failed};
use crate::{
    ApplicationChange, Catalogue, EndpointChange, EndpointFilter, Entity, Page, PageRequest,
    ProfileRecord, Rule, StoreError, TenantChange, TenantFilter,
};

#[async_trait]
impl Catalogue for MemoryStore {
    async fn create_application(
        &self,
        application: Application,
        by: Actor,
    ) -> Result<(), StoreError> {
        let mut state = self.state();
        state.create_application(application.clone())?;
        state.note(&self.ids, &by, None, Some(&application));
        Ok(())
    }

    async fn application(&self, id: Id<id::Application>) -> Result<Application, StoreError> {
        self.before().await?;
        self.state().application(id)
    }

    async fn list_applications(&self, page: PageRequest) -> Result<Page<Application>, StoreError> {
        self.state().list_applications(page)
    }

    async fn update_application(
        &self,
        id: Id<id::Application>,
        change: ApplicationChange,
        by: Actor,
    ) -> Result<Application, StoreError> {
        let mut state = self.state();
        let before = state.application(id)?;
        let mut after = before.clone();
        change(&mut after)?;
        let has_tenants = state
            .tenants
            .values()
            .any(|tenant| tenant.application == id);
        if after.profile != before.profile && has_tenants {
            return Err(StoreError::conflict(Rule::ProfileInUse));
        }
        state.update_application(after.clone())?;
        state.note(&self.ids, &by, Some(&before), Some(&after));
        Ok(after)
    }

    async fn create_tenant(
        &self,
        tenant: Tenant,
        profile: Box<str>,
        by: Actor,
    ) -> Result<(), StoreError> {
        let mut state = self.state();
        if state.application(tenant.application)?.profile != *profile {
            return Err(StoreError::conflict(Rule::ChangedMeanwhile));
        }
        state.create_tenant(tenant.clone())?;
        state.note(&self.ids, &by, None, Some(&tenant));
        Ok(())
    }

    async fn update_tenant(
        &self,
        id: Id<id::Tenant>,
        change: TenantChange,
        by: Actor,
    ) -> Result<Tenant, StoreError> {
        let mut state = self.state();
        let before = state.tenant(id)?;
        let mut after = before.clone();
        change(&mut after)?;
        state.must_be_free_for_tenant(&after)?;
        state.tenants.insert(id.as_u128(), after.clone());
        state.note(&self.ids, &by, Some(&before), Some(&after));
        Ok(after)
    }

    async fn tenants(&self, ids: &[Id<id::Tenant>]) -> Vec<Result<Tenant, StoreError>> {
        if let Err(error) = self.before().await {
            return ids.iter().map(|_| Err(failed(&error))).collect();
        }
        let state = self.state();
        ids.iter().map(|id| state.tenant(*id)).collect()
    }

    async fn tenant_by_external_id(
        &self,
        application: Id<id::Application>,
        external_id: &str,
    ) -> Result<Tenant, StoreError> {
        self.state().tenant_by_external_id(application, external_id)
    }

    async fn list_tenants(
        &self,
        filter: TenantFilter,
        page: PageRequest,
    ) -> Result<Page<Tenant>, StoreError> {
        self.state().list_tenants(filter, page)
    }

    async fn put_event_type(
        &self,
        event_type: EventType,
        seen: Option<EventType>,
        max: usize,
        by: Actor,
    ) -> Result<EventType, StoreError> {
        let mut state = self.state();
        let key = (event_type.application.as_u128(), event_type.name.clone());
        let before = state.event_types.get(&key).cloned();
        if before != seen {
            return Err(StoreError::conflict(Rule::ChangedMeanwhile));
        }
        state.put_event_type(event_type, max)?;
        let after = state.event_types.get(&key).cloned();
        state.note(&self.ids, &by, before.as_ref(), after.as_ref());
        after.ok_or(StoreError::not_found(Entity::EventType))
    }

    async fn event_type(
        &self,
        application: Id<id::Application>,
        name: &str,
    ) -> Result<Option<EventType>, StoreError> {
        let key = (application.as_u128(), name.to_owned());
        Ok(self.state().event_types.get(&key).cloned())
    }

    async fn event_type_names(
        &self,
        application: Id<id::Application>,
    ) -> Result<Vec<(String, usize)>, StoreError> {
        let state = self.state();
        let own = state
            .event_types
            .values()
            .filter(|t| t.application == application);
        let mut names: Vec<_> = own.map(|t| (t.name.clone(), t.text_bytes())).collect();
        names.sort_unstable();
        Ok(names)
    }

    async fn list_event_types(
        &self,
        application: Id<id::Application>,
        names: RangeInclusive<String>,
    ) -> Result<Vec<EventType>, StoreError> {
        let state = self.state();
        let own = state
            .event_types
            .values()
            .filter(|t| t.application == application && names.contains(&t.name));
        let mut found: Vec<EventType> = own.cloned().collect();
        found.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    async fn delete_event_type(
        &self,
        application: Id<id::Application>,
        name: &str,
        by: Actor,
    ) -> Result<(), StoreError> {
        let mut state = self.state();
        let before = state.delete_event_type(application, name)?;
        state.note(&self.ids, &by, Some(&before), None);
        Ok(())
    }

    async fn create_endpoint(
        &self,
        endpoint: Endpoint,
        max: Option<u32>,
        by: Actor,
    ) -> Result<(), StoreError> {
        let mut state = self.state();
        state.create_endpoint(endpoint.clone(), max)?;
        state.note(&self.ids, &by, None, Some(&endpoint));
        Ok(())
    }

    async fn endpoint_by_external_id(
        &self,
        tenant: Id<id::Tenant>,
        mode: Mode,
        external_id: &str,
    ) -> Result<Endpoint, StoreError> {
        self.state()
            .endpoint_by_external_id(tenant, mode, external_id)
    }

    async fn endpoint(&self, id: Id<id::Endpoint>) -> Result<Endpoint, StoreError> {
        self.state().endpoint(id)
    }

    async fn endpoints(&self, ids: Vec<Id<id::Endpoint>>) -> Result<Vec<Endpoint>, StoreError> {
        let state = self.state();
        let known = |id: &Id<id::Endpoint>| state.lane_endpoint(*id).ok();
        Ok(ids.iter().filter_map(known).map(|row| row.0).collect())
    }

    async fn list_endpoints(
        &self,
        filter: EndpointFilter,
        page: PageRequest,
    ) -> Result<Page<Endpoint>, StoreError> {
        self.state().list_endpoints(filter, page)
    }

    async fn failing_endpoints(
        &self,
        application: Option<Id<id::Application>>,
        limit: u32,
    ) -> Result<Vec<Endpoint>, StoreError> {
        Ok(self.state().failing_endpoints(application, limit))
    }

    async fn update_endpoint(
        &self,
        id: Id<id::Endpoint>,
        change: EndpointChange,
        by: Actor,
    ) -> Result<Endpoint, StoreError> {
        let mut state = self.state();
        let before = state.endpoint(id)?;
        let after = state.update_endpoint(id, change)?;
        state.note(&self.ids, &by, Some(&before), Some(&after));
        Ok(after)
    }

    async fn delete_endpoint(&self, id: Id<id::Endpoint>, by: Actor) -> Result<(), StoreError> {
        let mut state = self.state();
        let before = state.endpoint(id)?;
        state.delete_endpoint(id, by.at)?;
        state.note(&self.ids, &by, Some(&before), None);
        Ok(())
    }

    async fn callback_endpoint(
        &self,
        tenant: Id<id::Tenant>,
        mode: Mode,
        url: &str,
    ) -> Result<Option<Endpoint>, StoreError> {
        Ok(self.state().callback_endpoint(tenant, mode, url))
    }

    async fn put_profile(&self, name: &str, source: &str) -> Result<ProfileVersion, StoreError> {
        Ok(self.state().put_profile(name, source))
    }

    async fn profiles(&self) -> Result<Vec<ProfileRecord>, StoreError> {
        Ok(self.state().profiles.clone())
    }
}
