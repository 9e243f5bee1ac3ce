//! Applications, tenants, endpoints, keys and profiles in the model.

use std::sync::Arc;

use postrider_core::audit::Actor;
use postrider_core::delivery::ProfileVersion;
use postrider_core::endpoint::{Endpoint, EndpointKind};
use postrider_core::id::IdGenerator;
use postrider_core::limits::PAGE_BYTES_MAX;
use postrider_core::tenant::{ApiKey, Application, EventType, Mode, Scope, Tenant};
use postrider_core::{Id, Timestamp, id};

use super::{EndpointRow, State};
use crate::queries::query_digest;
use crate::{
    EndpointChange, EndpointFilter, EndpointListing, Entity, KeyChange, KeyFilter, Page,
    PageRequest, ProfileRecord, Rule, StoreError, Task, TenantFilter,
};

impl State {
    pub(super) fn create_application(
        &mut self,
        application: Application,
    ) -> Result<(), StoreError> {
        if self
            .applications
            .values()
            .any(|other| other.name == application.name)
        {
            return Err(StoreError::conflict(Rule::NameTaken));
        }
        self.applications
            .insert(application.id.as_u128(), application);
        Ok(())
    }

    pub(super) fn application(&self, id: Id<id::Application>) -> Result<Application, StoreError> {
        self.applications
            .get(&id.as_u128())
            .cloned()
            .ok_or(StoreError::not_found(Entity::Application))
    }

    pub(super) fn update_application(
        &mut self,
        application: Application,
    ) -> Result<(), StoreError> {
        let taken =
            |other: &Application| other.name == application.name && other.id != application.id;
        if self.applications.values().any(taken) {
            return Err(StoreError::conflict(Rule::NameTaken));
        }
        let row = self.applications.get_mut(&application.id.as_u128());
        *row.ok_or(StoreError::not_found(Entity::Application))? = application;
        Ok(())
    }

    pub(super) fn list_applications(
        &self,
        page: PageRequest,
    ) -> Result<Page<Application>, StoreError> {
        newest(
            self.applications.iter().map(|(id, row)| (*id, row)),
            &"applications",
            page,
        )
    }

    pub(super) fn create_tenant(&mut self, tenant: Tenant) -> Result<(), StoreError> {
        self.application(tenant.application)?;
        self.must_be_free_for_tenant(&tenant)?;
        self.tenants.insert(tenant.id.as_u128(), tenant);
        Ok(())
    }

    pub(super) fn must_be_free_for_tenant(&self, tenant: &Tenant) -> Result<(), StoreError> {
        let taken = |other: &Tenant| {
            other.application == tenant.application
                && other.id != tenant.id
                && tenant.external_id.is_some()
                && other.external_id == tenant.external_id
        };
        if self.tenants.values().any(taken) {
            return Err(StoreError::conflict(Rule::NameTaken));
        }
        Ok(())
    }

    pub(super) fn must_be_free_for_endpoint(&self, endpoint: &Endpoint) -> Result<(), StoreError> {
        let Some(external_id) = &endpoint.external_id else {
            return Ok(());
        };
        let (tenant, mode) = (endpoint.tenant, endpoint.mode);
        match self.endpoint_by_external_id(tenant, mode, external_id) {
            Ok(other) if other.id != endpoint.id => Err(StoreError::conflict(Rule::NameTaken)),
            _ => Ok(()),
        }
    }

    pub(super) fn endpoint_by_external_id(
        &self,
        tenant: Id<id::Tenant>,
        mode: Mode,
        external_id: &str,
    ) -> Result<Endpoint, StoreError> {
        let is_it = |row: &&EndpointRow| {
            !row.deleted
                && row.endpoint.tenant == tenant
                && row.endpoint.mode == mode
                && row.endpoint.external_id.as_deref() == Some(external_id)
        };
        let found = self.endpoints.values().find(is_it);
        found
            .map(|row| row.endpoint.clone())
            .ok_or(StoreError::not_found(Entity::Endpoint))
    }

    pub(super) fn tenant(&self, id: Id<id::Tenant>) -> Result<Tenant, StoreError> {
        self.tenants
            .get(&id.as_u128())
            .cloned()
            .ok_or(StoreError::not_found(Entity::Tenant))
    }

    pub(super) fn tenant_by_external_id(
        &self,
        application: Id<id::Application>,
        external_id: &str,
    ) -> Result<Tenant, StoreError> {
        let is_it = |tenant: &&Tenant| {
            tenant.application == application && tenant.external_id.as_deref() == Some(external_id)
        };
        self.tenants
            .values()
            .find(is_it)
            .cloned()
            .ok_or(StoreError::not_found(Entity::Tenant))
    }

    pub(super) fn list_tenants(
        &self,
        filter: TenantFilter,
        page: PageRequest,
    ) -> Result<Page<Tenant>, StoreError> {
        let rows = self
            .tenants
            .iter()
            .filter(|(_, row)| row.application == filter.application)
            .map(|(id, row)| (*id, row));
        let query = &("tenants", filter);
        if filter.oldest_first {
            oldest(rows, query, page)
        } else {
            newest(rows, query, page)
        }
    }

    pub(super) fn put_event_type(
        &mut self,
        event_type: EventType,
        max: usize,
    ) -> Result<(), StoreError> {
        self.application(event_type.application)?;
        let key = (event_type.application.as_u128(), event_type.name.clone());
        let of_application = (key.0, String::new())..(key.0 + 1, String::new());
        let is_new = !self.event_types.contains_key(&key);
        if is_new && self.event_types.range(of_application).count() >= max {
            return Err(StoreError::conflict(Rule::EventTypesMax));
        }
        match self.event_types.get_mut(&key) {
            Some(row) => {
                // A declared type keeps when it was made, whatever its change says.
                let created_at = row.created_at;
                *row = EventType {
                    created_at,
                    ..event_type
                };
            }
            None => drop(self.event_types.insert(key, event_type)),
        }
        Ok(())
    }

    pub(super) fn delete_event_type(
        &mut self,
        application: Id<id::Application>,
        name: &str,
    ) -> Result<EventType, StoreError> {
        let removed = self
            .event_types
            .remove(&(application.as_u128(), name.to_owned()));
        removed.ok_or(StoreError::not_found(Entity::EventType))
    }

    pub(super) fn create_endpoint(
        &mut self,
        endpoint: Endpoint,
        max: Option<u32>,
    ) -> Result<(), StoreError> {
        self.tenant(endpoint.tenant)?;
        let kind = std::mem::discriminant(&endpoint.kind);
        let counts = |row: &&EndpointRow| {
            !row.deleted
                && std::mem::discriminant(&row.endpoint.kind) == kind
                && row.endpoint.tenant == endpoint.tenant
                && row.endpoint.mode == endpoint.mode
        };
        if max.is_some_and(|max| self.endpoints.values().filter(counts).count() >= max as usize) {
            let waits = |id: u128| {
                self.pending
                    .range((id, i64::MIN, 0)..(id + 1, i64::MIN, 0))
                    .next()
            };
            // In the order of their ids, so the first is the oldest.
            let mut idle = self.endpoints.iter().filter(|(id, row)| {
                row.endpoint.kind == EndpointKind::Callback && counts(row) && waits(**id).is_none()
            });
            let idle = match endpoint.kind {
                EndpointKind::Callback => idle.next().map(|(_, row)| row.endpoint.id),
                _ => None,
            };
            let idle = idle.ok_or(StoreError::conflict(Rule::EndpointsMax))?;
            self.delete_endpoint(idle, endpoint.created_at)?;
        }
        let (tenant, mode) = (endpoint.tenant, endpoint.mode);
        if endpoint.kind == EndpointKind::Callback
            && self
                .callback_endpoint(tenant, mode, &endpoint.url)
                .is_some()
        {
            return Err(StoreError::conflict(Rule::NameTaken));
        }
        self.must_be_free_for_endpoint(&endpoint)?;
        self.endpoints.insert(
            endpoint.id.as_u128(),
            EndpointRow {
                endpoint,
                deleted: false,
            },
        );
        Ok(())
    }

    pub(super) fn endpoint(&self, id: Id<id::Endpoint>) -> Result<Endpoint, StoreError> {
        match self.lane_endpoint(id)? {
            (endpoint, false) => Ok(endpoint),
            (_, true) => Err(StoreError::not_found(Entity::Endpoint)),
        }
    }

    pub(super) fn lane_endpoint(
        &self,
        id: Id<id::Endpoint>,
    ) -> Result<(Endpoint, bool), StoreError> {
        let row = self
            .endpoints
            .get(&id.as_u128())
            .ok_or(StoreError::not_found(Entity::Endpoint))?;
        Ok((row.endpoint.clone(), row.deleted))
    }

    pub(super) fn failing_endpoints(
        &self,
        application: Option<Id<id::Application>>,
        limit: u32,
    ) -> Vec<Endpoint> {
        let rows = self.endpoints.values().filter(|row| !row.deleted);
        let mut failing: Vec<_> = rows
            .map(|row| &row.endpoint)
            .filter(|endpoint| endpoint.health.failing_since.is_some())
            .filter(|endpoint| application.is_none_or(|own| own == endpoint.application))
            .collect();
        failing.sort_by_key(|endpoint| (endpoint.health.failing_since, endpoint.id.as_u128()));
        failing.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        failing.into_iter().cloned().collect()
    }

    pub(super) fn list_endpoints(
        &self,
        filter: EndpointFilter,
        page: PageRequest,
    ) -> Result<Page<Endpoint>, StoreError> {
        let listed = |kind: &EndpointKind| match filter.listing {
            EndpointListing::Registered => *kind == EndpointKind::Registered,
            EndpointListing::Distributions => matches!(kind, EndpointKind::Distribution(_)),
        };
        let rows = self.endpoints.iter().filter(|(_, row)| {
            !row.deleted
                && listed(&row.endpoint.kind)
                && row.endpoint.tenant == filter.tenant
                && filter.mode.is_none_or(|mode| mode == row.endpoint.mode)
        });
        let query = ("endpoints", filter);
        let rows = rows.map(|(id, row)| (*id, &row.endpoint));
        let page = if filter.oldest_first {
            oldest(rows, &query, page)?
        } else {
            newest(rows, &query, page)?
        };
        let digest = query_digest(&query);
        Ok(
            page.within(PAGE_BYTES_MAX, digest, Endpoint::text_bytes, |row| {
                row.id.as_u128()
            }),
        )
    }

    pub(super) fn update_endpoint(
        &mut self,
        id: Id<id::Endpoint>,
        change: EndpointChange,
    ) -> Result<Endpoint, StoreError> {
        let mut after = self.endpoint(id)?;
        change(&mut after)?;
        self.must_be_free_for_endpoint(&after)?;
        if let Some(row) = self.endpoints.get_mut(&id.as_u128()) {
            row.endpoint = after.clone();
        }
        Ok(after)
    }

    pub(super) fn delete_endpoint(
        &mut self,
        id: Id<id::Endpoint>,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        let row = self
            .endpoints
            .get_mut(&id.as_u128())
            .filter(|row| !row.deleted);
        let row = row.ok_or(StoreError::not_found(Entity::Endpoint))?;
        row.deleted = true;
        row.endpoint.updated_at = at;
        // What records need of it stays; what took room is let go.
        row.endpoint.headers.clear();
        row.endpoint.secrets.clear();
        row.endpoint.description = None;
        Ok(())
    }

    pub(super) fn callback_endpoint(
        &self,
        tenant: Id<id::Tenant>,
        mode: Mode,
        url: &str,
    ) -> Option<Endpoint> {
        let is_it = |row: &&EndpointRow| {
            !row.deleted
                && row.endpoint.kind == EndpointKind::Callback
                && row.endpoint.tenant == tenant
                && row.endpoint.mode == mode
                && row.endpoint.url == url
        };
        self.endpoints
            .values()
            .find(is_it)
            .map(|row| row.endpoint.clone())
    }

    pub(super) fn create_key(&mut self, key: ApiKey) -> Result<(), StoreError> {
        match key.scope {
            Scope::Root => {}
            Scope::Application(application) => drop(self.application(application)?),
            Scope::Tenant(_, tenant) => drop(self.tenant(tenant)?),
        }
        self.keys.insert(key.id.as_u128(), key);
        Ok(())
    }

    pub(super) fn key_where(&self, is_it: impl Fn(&ApiKey) -> bool) -> Result<ApiKey, StoreError> {
        self.keys
            .values()
            .find(|key| is_it(key))
            .cloned()
            .ok_or(StoreError::not_found(Entity::ApiKey))
    }

    pub(super) fn list_keys(
        &self,
        filter: KeyFilter,
        page: PageRequest,
    ) -> Result<Page<ApiKey>, StoreError> {
        let matches = |key: &ApiKey| {
            let (application, tenant) = match key.scope {
                Scope::Root => (None, None),
                Scope::Application(application) => (Some(application), None),
                Scope::Tenant(application, tenant) => (Some(application), Some(tenant)),
            };
            filter
                .application
                .is_none_or(|wanted| application == Some(wanted))
                && filter.tenant.is_none_or(|wanted| tenant == Some(wanted))
                && filter.mode.is_none_or(|wanted| key.mode == wanted)
        };
        let rows = self.keys.iter().filter(|(_, key)| matches(key));
        newest(rows.map(|(id, row)| (*id, row)), &("keys", filter), page)
    }

    pub(super) fn key_endpoint(&self, key: Id<id::ApiKey>) -> Option<Endpoint> {
        let owned =
            |row: &&EndpointRow| !row.deleted && row.endpoint.kind == EndpointKind::Key(key);
        let found = self.endpoints.values().find(owned);
        found.map(|row| row.endpoint.clone())
    }

    pub(super) fn update_key(
        &mut self,
        ids: &IdGenerator,
        id: Id<id::ApiKey>,
        change: KeyChange,
        by: &Actor,
    ) -> Result<(ApiKey, Option<Endpoint>), StoreError> {
        let before = self.key_where(|key| key.id == id)?;
        let endpoint_before = self.key_endpoint(id);
        let (mut key, mut endpoint) = (before.clone(), endpoint_before.clone());
        change(&mut key, &mut endpoint);
        // Before anything is written: a change that is refused leaves all as it was.
        self.keep_a_root_key(&before, Some(&key))?;
        self.keys.insert(id.as_u128(), key.clone());
        match (&endpoint_before, &endpoint) {
            (_, Some(endpoint)) => {
                let row = EndpointRow {
                    endpoint: endpoint.clone(),
                    deleted: false,
                };
                self.endpoints.insert(endpoint.id.as_u128(), row);
            }
            (Some(gone), None) => self.delete_endpoint(gone.id, by.at)?,
            (None, None) => {}
        }
        self.note(ids, by, endpoint_before.as_ref(), endpoint.as_ref());
        self.note(ids, by, Some(&before), Some(&key));
        Ok((key, endpoint))
    }

    pub(super) fn has_root_key(&self) -> bool {
        self.keys.values().any(ApiKey::manages_all)
    }

    /// Refuses a change that would leave nobody who can manage the server.
    pub(super) fn keep_a_root_key(
        &self,
        before: &ApiKey,
        after: Option<&ApiKey>,
    ) -> Result<(), StoreError> {
        let lost = before.manages_all() && !after.is_some_and(ApiKey::manages_all);
        let mut others = self.keys.values().filter(|key| key.id != before.id);
        if lost && !others.any(ApiKey::manages_all) {
            return Err(StoreError::conflict(Rule::LastRootKey));
        }
        Ok(())
    }

    pub(super) fn delete_key(&mut self, id: Id<id::ApiKey>) -> Result<(), StoreError> {
        self.keys
            .remove(&id.as_u128())
            .map(drop)
            .ok_or(StoreError::not_found(Entity::ApiKey))
    }

    pub(super) fn put_profile(&mut self, name: &str, source: &str) -> ProfileVersion {
        if let Some(known) = self
            .profiles
            .iter()
            .find(|record| *record.name == *name && *record.source == *source)
        {
            return known.version;
        }
        let version =
            // No version is ever taken away, so their number is the last of them.
            ProfileVersion::try_from(self.profiles.len() + 1).unwrap_or(ProfileVersion::MAX);
        self.profiles.push(ProfileRecord {
            version,
            name: Arc::from(name),
            source: Arc::from(source),
        });
        version
    }

    pub(super) fn task(&self, id: Id<id::Task>) -> Result<Task, StoreError> {
        self.tasks
            .get(&id.as_u128())
            .cloned()
            .ok_or(StoreError::not_found(Entity::Task))
    }
}

/// A page of rows with their ids, newest first.
pub(super) fn newest<'r, T: Clone + 'r>(
    rows: impl DoubleEndedIterator<Item = (u128, &'r T)>,
    query: &impl std::fmt::Debug,
    page: PageRequest,
) -> Result<Page<T>, StoreError> {
    let query = query_digest(query);
    let after = page.after(query)?.unwrap_or(u128::MAX);
    cut(rows.rev().filter(|(id, _)| *id < after), query, page)
}

fn oldest<'r, T: Clone + 'r>(
    rows: impl Iterator<Item = (u128, &'r T)>,
    query: &impl std::fmt::Debug,
    page: PageRequest,
) -> Result<Page<T>, StoreError> {
    let query = query_digest(query);
    let after = page.after(query)?.unwrap_or(0);
    cut(rows.filter(|(id, _)| *id > after), query, page)
}

fn cut<'r, T: Clone + 'r>(
    rows: impl Iterator<Item = (u128, &'r T)>,
    query: u32,
    page: PageRequest,
) -> Result<Page<T>, StoreError> {
    let rows = rows.take(page.limit + 1);
    let page = Page::cut(rows.collect(), page.limit, query, |(id, _): &(u128, &T)| {
        *id
    });
    Ok(Page {
        rows: page.rows.into_iter().map(|(_, row)| row.clone()).collect(),
        next: page.next,
    })
}
