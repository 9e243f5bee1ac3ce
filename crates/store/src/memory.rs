//! The model: a store in memory. Small enough to be believed, fast enough for the simulation.
//!
//! It keeps nothing over a restart; a simulated crash keeps the store and drops the engine.

mod hot;
mod manage;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use postrider_core::attempt::Attempt;
use postrider_core::delivery::{Delivery, DeliveryState, ProfileVersion};
use postrider_core::endpoint::Endpoint;
use postrider_core::event::Event;
use postrider_core::id::IdGenerator;
use postrider_core::tenant::{ApiKey, Application, EventType, Tenant};
use postrider_core::{Id, Timestamp, id};

use crate::{
    DeliveryFilter, DuePage, EndpointChange, EndpointStats, EventFilter, LaneBacklog, LoadDue,
    Page, PageRequest, ProfileRecord, Store, StoreError, Task, Write, Written,
};

#[derive(Debug)]
pub struct MemoryStore {
    ids: IdGenerator,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    applications: BTreeMap<u128, Application>,
    tenants: BTreeMap<u128, Tenant>,
    event_types: BTreeMap<(u128, String), EventType>,
    endpoints: BTreeMap<u128, EndpointRow>,
    events: BTreeMap<u128, Arc<Event>>,
    deliveries: BTreeMap<u128, DeliveryRow>,
    /// Pending deliveries by endpoint and place.
    pending: BTreeMap<(u128, i64, u128), ()>,
    attempts: HashMap<u128, Vec<Attempt>>,
    idempotency: HashMap<(u128, String), IdempotencyRow>,
    keys: BTreeMap<u128, ApiKey>,
    nonces: HashMap<(u128, String), Timestamp>,
    profiles: Vec<ProfileRecord>,
    tasks: BTreeMap<u128, Task>,
    last_sequence: i64,
}

#[derive(Debug)]
struct EndpointRow {
    endpoint: Endpoint,
    deleted: bool,
}

#[derive(Debug)]
struct DeliveryRow {
    delivery: Delivery,
    sequence: i64,
}

#[derive(Debug)]
struct IdempotencyRow {
    event: Id<id::Event>,
    fingerprint: [u8; 32],
    at: Timestamp,
    count: u32,
}

impl MemoryStore {
    pub fn new(salt: u64) -> Self {
        Self {
            ids: IdGenerator::new(salt, 0),
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Store for MemoryStore {
    fn ids(&self) -> &IdGenerator {
        &self.ids
    }

    async fn commit(&self, now: Timestamp, batch: Vec<Write>) -> Vec<Result<Written, StoreError>> {
        let mut state = self.state();
        batch
            .into_iter()
            .map(|write| state.write(&self.ids, now, write))
            .collect()
    }

    async fn load_due(&self, query: LoadDue) -> Result<DuePage, StoreError> {
        Ok(self.state().load_due(query))
    }

    async fn backlog(&self) -> Result<Vec<LaneBacklog>, StoreError> {
        Ok(self.state().backlog())
    }

    async fn finish_pending(
        &self,
        endpoint: Id<id::Endpoint>,
        state: DeliveryState,
        now: Timestamp,
        limit: u32,
    ) -> Result<u32, StoreError> {
        Ok(self.state().finish_pending(endpoint, state, now, limit))
    }

    async fn event(&self, id: Id<id::Event>) -> Result<Event, StoreError> {
        self.state().event(id)
    }

    async fn list_events(
        &self,
        filter: EventFilter,
        page: PageRequest,
    ) -> Result<Page<Event>, StoreError> {
        self.state().list_events(&filter, page)
    }

    async fn delivery(&self, id: Id<id::Delivery>) -> Result<Delivery, StoreError> {
        self.state().delivery(id)
    }

    async fn list_deliveries(
        &self,
        filter: DeliveryFilter,
        page: PageRequest,
    ) -> Result<Page<Delivery>, StoreError> {
        self.state().list_deliveries(&filter, page)
    }

    async fn attempts(&self, delivery: Id<id::Delivery>) -> Result<Vec<Attempt>, StoreError> {
        Ok(self
            .state()
            .attempts
            .get(&delivery.as_u128())
            .cloned()
            .unwrap_or_default())
    }

    async fn endpoint_stats(
        &self,
        endpoint: Id<id::Endpoint>,
        since: Timestamp,
    ) -> Result<EndpointStats, StoreError> {
        let mut stats = EndpointStats::default();
        for row in self
            .state()
            .deliveries
            .values()
            .filter(|row| row.delivery.endpoint == endpoint && row.delivery.created_at >= since)
        {
            stats.count(row.delivery.state, row.delivery.attempts, 1);
        }
        Ok(stats)
    }

    async fn create_application(&self, application: Application) -> Result<(), StoreError> {
        self.state().create_application(application)
    }

    async fn application(&self, id: Id<id::Application>) -> Result<Application, StoreError> {
        self.state().application(id)
    }

    async fn list_applications(&self, page: PageRequest) -> Result<Page<Application>, StoreError> {
        self.state().list_applications(page)
    }

    async fn update_application(&self, application: Application) -> Result<(), StoreError> {
        self.state().update_application(application)
    }

    async fn create_tenant(&self, tenant: Tenant) -> Result<(), StoreError> {
        self.state().create_tenant(tenant)
    }

    async fn tenant(&self, id: Id<id::Tenant>) -> Result<Tenant, StoreError> {
        self.state().tenant(id)
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
        application: Id<id::Application>,
        page: PageRequest,
    ) -> Result<Page<Tenant>, StoreError> {
        self.state().list_tenants(application, page)
    }

    async fn put_event_type(&self, event_type: EventType) -> Result<(), StoreError> {
        self.state().put_event_type(event_type)
    }

    async fn list_event_types(
        &self,
        application: Id<id::Application>,
    ) -> Result<Vec<EventType>, StoreError> {
        Ok(self
            .state()
            .event_types
            .values()
            .filter(|t| t.application == application)
            .cloned()
            .collect())
    }

    async fn delete_event_type(
        &self,
        application: Id<id::Application>,
        name: &str,
    ) -> Result<(), StoreError> {
        self.state().delete_event_type(application, name)
    }

    async fn create_endpoint(
        &self,
        endpoint: Endpoint,
        max: Option<u32>,
    ) -> Result<(), StoreError> {
        self.state().create_endpoint(endpoint, max)
    }

    async fn endpoint(&self, id: Id<id::Endpoint>) -> Result<Endpoint, StoreError> {
        self.state().endpoint(id)
    }

    async fn lane_endpoint(&self, id: Id<id::Endpoint>) -> Result<(Endpoint, bool), StoreError> {
        self.state().lane_endpoint(id)
    }

    async fn list_endpoints(
        &self,
        tenant: Id<id::Tenant>,
        page: PageRequest,
    ) -> Result<Page<Endpoint>, StoreError> {
        self.state().list_endpoints(tenant, page)
    }

    async fn update_endpoint(
        &self,
        id: Id<id::Endpoint>,
        change: EndpointChange,
    ) -> Result<Endpoint, StoreError> {
        self.state().update_endpoint(id, change)
    }

    async fn delete_endpoint(&self, id: Id<id::Endpoint>) -> Result<(), StoreError> {
        self.state().delete_endpoint(id)
    }

    async fn callback_endpoint(
        &self,
        tenant: Id<id::Tenant>,
        url: &str,
    ) -> Result<Option<Endpoint>, StoreError> {
        Ok(self.state().callback_endpoint(tenant, url))
    }

    async fn create_key(&self, key: ApiKey) -> Result<(), StoreError> {
        self.state().create_key(key)
    }

    async fn key_by_hash(&self, hash: [u8; 32]) -> Result<ApiKey, StoreError> {
        self.state().key_where(|key| key.secret_hash == hash)
    }

    async fn key_by_public_id(&self, public_id: &str) -> Result<ApiKey, StoreError> {
        self.state()
            .key_where(|key| key.public_id.as_deref() == Some(public_id))
    }

    async fn key(&self, id: Id<id::ApiKey>) -> Result<ApiKey, StoreError> {
        self.state().key_where(|key| key.id == id)
    }

    async fn list_keys(
        &self,
        application: Option<Id<id::Application>>,
        page: PageRequest,
    ) -> Result<Page<ApiKey>, StoreError> {
        self.state().list_keys(application, page)
    }

    async fn delete_key(&self, id: Id<id::ApiKey>) -> Result<(), StoreError> {
        self.state().delete_key(id)
    }

    async fn use_nonce(
        &self,
        key: Id<id::ApiKey>,
        nonce: &str,
        expires_at: Timestamp,
    ) -> Result<bool, StoreError> {
        Ok(self
            .state()
            .nonces
            .insert((key.as_u128(), nonce.to_owned()), expires_at)
            .is_none())
    }

    async fn put_profile(&self, name: &str, source: &str) -> Result<ProfileVersion, StoreError> {
        Ok(self.state().put_profile(name, source))
    }

    async fn profiles(&self) -> Result<Vec<ProfileRecord>, StoreError> {
        Ok(self.state().profiles.clone())
    }

    async fn put_task(&self, task: Task) -> Result<(), StoreError> {
        self.state().tasks.insert(task.id.as_u128(), task);
        Ok(())
    }

    async fn task(&self, id: Id<id::Task>) -> Result<Task, StoreError> {
        self.state().task(id)
    }

    async fn unfinished_tasks(&self) -> Result<Vec<Task>, StoreError> {
        let running = |task: &&Task| task.state == crate::TaskState::Running;
        Ok(self
            .state()
            .tasks
            .values()
            .filter(running)
            .cloned()
            .collect())
    }

    async fn sweep(&self, idempotency_before: Timestamp, now: Timestamp) -> Result<(), StoreError> {
        let mut state = self.state();
        state
            .idempotency
            .retain(|_, row| row.at >= idempotency_before);
        state.nonces.retain(|_, expires_at| *expires_at > now);
        Ok(())
    }

    async fn ping(&self) -> Result<(), StoreError> {
        Ok(())
    }
}
