//! The model: a store in memory. Small enough to be believed, fast enough for the simulation.
//!
//! It keeps nothing over a restart; a simulated crash keeps the store and drops the engine.

mod catch_up;
mod erase;
mod hot;
mod log;
mod manage;
mod outbox;
mod retention;
mod sessions;
mod users;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use postrider_core::attempt::{Attempt, Rendering};
use postrider_core::audit::{Actor, AuditEntry};
use postrider_core::delivery::{Delivery, DeliveryState, ProfileVersion};
use postrider_core::endpoint::Endpoint;
use postrider_core::event::{Event, EventSummary};
use postrider_core::id::IdGenerator;
use postrider_core::notice::Notice;
use postrider_core::session::Session;
use postrider_core::tenant::{ApiKey, Application, EventType, Mode, Tenant};
use postrider_core::time::Moment;
use postrider_core::user::User;
use postrider_core::{Id, Timestamp, id};

use crate::{
    ApplicationChange, AuditFilter, Counted, DeliveryFilter, DueNotices, DuePage, EndpointChange,
    EndpointFilter, EndpointStats, Entity, EventFilter, FirstUse, KeyChange, KeyFilter,
    LaneBacklog, LoadDue, MailAudience, MissedPage, MissedQuery, NoticeChannel, NoticeFilter, Page,
    PageRequest, ProfileRecord, Statistics, StatisticsQuery, Store, StoreError, Target, Task,
    TaskFilter, TenantChange, TenantFilter, Write, Written,
};

#[derive(Debug)]
pub struct MemoryStore {
    ids: IdGenerator,
    state: Mutex<State>,
    weather: Option<Arc<dyn Weather>>,
}

/// What happens to an engine's calls of the model, for simulations: they are answered late, or never, or fail.
#[async_trait]
pub trait Weather: std::fmt::Debug + Send + Sync {
    /// Before a call has read or changed anything; an error is its answer.
    async fn before(&self) -> Result<(), StoreError>;
    /// After a commit, before anybody hears of it; an error is the answer of all its writes.
    async fn after_commit(&self) -> Result<(), StoreError>;
}

#[derive(Debug, Default)]
struct State {
    applications: BTreeMap<u128, Application>,
    tenants: BTreeMap<u128, Tenant>,
    event_types: BTreeMap<(u128, String), EventType>,
    endpoints: BTreeMap<u128, EndpointRow>,
    events: BTreeMap<u128, Arc<Event>>,
    /// Whom each event was published to.
    addressees: HashMap<u128, Target>,
    deliveries: BTreeMap<u128, DeliveryRow>,
    /// Pending deliveries by endpoint and place.
    pending: BTreeMap<(u128, i64, u128), ()>,
    attempts: HashMap<u128, Vec<Attempt>>,
    idempotency: HashMap<(u128, String), IdempotencyRow>,
    keys: BTreeMap<u128, ApiKey>,
    sessions: BTreeMap<u128, Session>,
    users: BTreeMap<u128, User>,
    nonces: HashMap<(u128, String), Timestamp>,
    profiles: Vec<ProfileRecord>,
    tasks: BTreeMap<u128, Task>,
    audit: BTreeMap<u128, AuditEntry>,
    notices: BTreeMap<u128, Notice>,
    last_sequence: i64,
}

#[derive(Debug, Clone)]
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
    first: FirstUse,
    at: Timestamp,
}

impl MemoryStore {
    pub fn new(salt: u64) -> Self {
        Self {
            ids: IdGenerator::new(salt, 0),
            state: Mutex::default(),
            weather: None,
        }
    }

    /// A model whose callers have weather.
    pub fn in_weather(salt: u64, weather: Arc<dyn Weather>) -> Self {
        Self {
            weather: Some(weather),
            ..Self::new(salt)
        }
    }

    async fn before(&self) -> Result<(), StoreError> {
        match &self.weather {
            Some(weather) => weather.before().await,
            None => Ok(()),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The answers of a transaction that failed as a whole.
fn failed(count: usize, error: &StoreError) -> Vec<Result<Written, StoreError>> {
    let answer = || match error {
        StoreError::OutcomeUnknown { .. } => StoreError::OutcomeUnknown {
            source: error.to_string().into(),
        },
        error => StoreError::aborted(error.to_string()),
    };
    (0..count).map(|_| Err(answer())).collect()
}

#[async_trait]
impl Store for MemoryStore {
    fn ids(&self) -> &IdGenerator {
        &self.ids
    }

    async fn commit(&self, now: Moment, batch: Vec<Write>) -> Vec<Result<Written, StoreError>> {
        let count = batch.len();
        if let Err(error) = self.before().await {
            return failed(count, &error);
        }
        let answers = {
            let mut state = self.state();
            let writes = batch.into_iter();
            writes
                .map(|write| state.write(&self.ids, now, write))
                .collect()
        };
        match &self.weather {
            None => answers,
            Some(weather) => match weather.after_commit().await {
                Ok(()) => answers,
                Err(error) => failed(count, &error),
            },
        }
    }

    async fn last_place(&self) -> Result<Timestamp, StoreError> {
        Ok(self.state().last_place())
    }

    async fn note_steady(&self, now: Timestamp) -> Result<(), StoreError> {
        self.before().await?;
        let mut state = self.state();
        state.last_sequence = state.last_sequence.max(now.as_micros());
        Ok(())
    }

    async fn load_due(&self, query: LoadDue) -> Result<DuePage, StoreError> {
        self.before().await?;
        Ok(self.state().load_due(query))
    }

    async fn backlog(&self) -> Result<Vec<LaneBacklog>, StoreError> {
        self.before().await?;
        Ok(self.state().backlog())
    }

    async fn finish_pending(
        &self,
        endpoint: Id<id::Endpoint>,
        state: DeliveryState,
        now: Timestamp,
        limit: u32,
    ) -> Result<u32, StoreError> {
        self.before().await?;
        Ok(self
            .state()
            .finish_pending(&self.ids, endpoint, state, now, limit))
    }

    async fn event(&self, id: Id<id::Event>) -> Result<Event, StoreError> {
        self.state().event(id)
    }

    async fn list_events(
        &self,
        filter: EventFilter,
        page: PageRequest,
    ) -> Result<Page<EventSummary>, StoreError> {
        self.state().list_events(&filter, page)
    }

    async fn event_summaries(
        &self,
        ids: Vec<Id<id::Event>>,
    ) -> Result<Vec<EventSummary>, StoreError> {
        let state = self.state();
        let found = ids.iter().filter_map(|id| state.events.get(&id.as_u128()));
        Ok(found.map(|event| (&**event).into()).collect())
    }

    async fn first_use(
        &self,
        application: Id<id::Application>,
        key: &str,
    ) -> Result<Option<FirstUse>, StoreError> {
        let key = (application.as_u128(), key.to_owned());
        let state = self.state();
        let found = state.idempotency.get(&key);
        Ok(found.map(|row| row.first.clone()))
    }

    async fn delivery(&self, id: Id<id::Delivery>) -> Result<Delivery, StoreError> {
        self.state().delivery(id)
    }

    async fn count_deliveries(
        &self,
        filter: DeliveryFilter,
        page: PageRequest,
    ) -> Result<Counted, StoreError> {
        let page = self.state().list_deliveries(&filter, page)?;
        Ok(Counted {
            rows: page.rows.len() as u64,
            next: page.next,
        })
    }

    async fn missed_events(&self, query: MissedQuery) -> Result<MissedPage, StoreError> {
        self.state().missed_events(&query)
    }

    async fn list_deliveries(
        &self,
        filter: DeliveryFilter,
        page: PageRequest,
    ) -> Result<Page<Delivery>, StoreError> {
        self.state().list_deliveries(&filter, page)
    }

    async fn attempts(
        &self,
        delivery: Id<id::Delivery>,
        before: Option<u32>,
        limit: u32,
    ) -> Result<Vec<Attempt>, StoreError> {
        let state = self.state();
        let all = state.attempts.get(&delivery.as_u128());
        let mut rows: Vec<Attempt> = all
            .into_iter()
            .flatten()
            .filter(|attempt| before.is_none_or(|before| attempt.number < before))
            .cloned()
            .collect();
        Ok(rows.split_off(rows.len().saturating_sub(limit as usize)))
    }

    async fn last_attempts(
        &self,
        deliveries: Vec<Id<id::Delivery>>,
    ) -> Result<Vec<(Id<id::Delivery>, Attempt)>, StoreError> {
        let state = self.state();
        let last = |id: Id<id::Delivery>| {
            let attempts = state.attempts.get(&id.as_u128())?;
            Some((id, attempts.last()?.clone()))
        };
        Ok(deliveries.into_iter().filter_map(last).collect())
    }

    async fn first_rendering(
        &self,
        delivery: Id<id::Delivery>,
    ) -> Result<Option<Arc<Rendering>>, StoreError> {
        self.before().await?;
        let state = self.state();
        let attempts = state.attempts.get(&delivery.as_u128());
        let mut renderings = attempts.into_iter().flatten().map(|a| a.rendering.clone());
        Ok(renderings.find_map(|rendering| rendering))
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
            stats.count(row.delivery.state, row.delivery.attempts.into(), 1);
        }
        Ok(stats)
    }

    async fn statistics(&self, query: StatisticsQuery) -> Result<Statistics, StoreError> {
        Ok(self.state().statistics(&query))
    }

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
        change(&mut after);
        state.update_application(after.clone())?;
        state.note(&self.ids, &by, Some(&before), Some(&after));
        Ok(after)
    }

    async fn create_tenant(&self, tenant: Tenant, by: Actor) -> Result<(), StoreError> {
        let mut state = self.state();
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
        change(&mut after);
        state.must_be_free_for_tenant(&after)?;
        state.tenants.insert(id.as_u128(), after.clone());
        state.note(&self.ids, &by, Some(&before), Some(&after));
        Ok(after)
    }

    async fn tenant(&self, id: Id<id::Tenant>) -> Result<Tenant, StoreError> {
        self.before().await?;
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
        filter: TenantFilter,
        page: PageRequest,
    ) -> Result<Page<Tenant>, StoreError> {
        self.state().list_tenants(filter, page)
    }

    async fn put_event_type(
        &self,
        event_type: EventType,
        max: usize,
        by: Actor,
    ) -> Result<EventType, StoreError> {
        let mut state = self.state();
        let key = (event_type.application.as_u128(), event_type.name.clone());
        let before = state.event_types.get(&key).cloned();
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

    async fn endpoint(&self, id: Id<id::Endpoint>) -> Result<Endpoint, StoreError> {
        self.state().endpoint(id)
    }

    async fn lane_endpoint(&self, id: Id<id::Endpoint>) -> Result<(Endpoint, bool), StoreError> {
        self.before().await?;
        self.state().lane_endpoint(id)
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
        state.delete_endpoint(id)?;
        state.note(&self.ids, &by, Some(&before), None);
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

    async fn callback_endpoint(
        &self,
        tenant: Id<id::Tenant>,
        mode: Mode,
        url: &str,
    ) -> Result<Option<Endpoint>, StoreError> {
        Ok(self.state().callback_endpoint(tenant, mode, url))
    }

    async fn create_key(
        &self,
        key: ApiKey,
        endpoint: Option<Endpoint>,
        by: Actor,
    ) -> Result<(), StoreError> {
        let mut state = self.state();
        if let Some(endpoint) = endpoint {
            state.create_endpoint(endpoint.clone(), None)?;
            state.note(&self.ids, &by, None, Some(&endpoint));
        }
        state.create_key(key.clone())?;
        state.note(&self.ids, &by, None, Some(&key));
        Ok(())
    }

    async fn key_by_hash(&self, hash: [u8; 32]) -> Result<ApiKey, StoreError> {
        let state = self.state();
        let is_its = |key: &ApiKey| {
            let previous = key.previous.as_ref();
            key.secret_hash == hash || previous.is_some_and(|text| text.secret_hash == hash)
        };
        state.key_where(|key| is_its(key) && state.is_owned(key.scope))
    }

    async fn key_by_public_id(&self, public_id: &str) -> Result<ApiKey, StoreError> {
        let state = self.state();
        state.key_where(|key| {
            key.public_id.as_deref() == Some(public_id) && state.is_owned(key.scope)
        })
    }

    async fn key(&self, id: Id<id::ApiKey>) -> Result<ApiKey, StoreError> {
        self.state().key_where(|key| key.id == id)
    }

    async fn list_keys(
        &self,
        filter: KeyFilter,
        page: PageRequest,
    ) -> Result<Page<ApiKey>, StoreError> {
        self.state().list_keys(filter, page)
    }

    async fn key_endpoint(&self, key: Id<id::ApiKey>) -> Result<Option<Endpoint>, StoreError> {
        Ok(self.state().key_endpoint(key))
    }

    async fn has_root_key(&self) -> Result<bool, StoreError> {
        Ok(self.state().has_root_key())
    }

    async fn update_key(
        &self,
        id: Id<id::ApiKey>,
        change: KeyChange,
        by: Actor,
    ) -> Result<(ApiKey, Option<Endpoint>), StoreError> {
        self.state().update_key(&self.ids, id, change, &by)
    }

    async fn delete_key(&self, id: Id<id::ApiKey>, by: Actor) -> Result<(), StoreError> {
        let mut state = self.state();
        let before = state.key_where(|key| key.id == id)?;
        state.keep_a_root_key(&before, None)?;
        if let Some(endpoint) = state.key_endpoint(id) {
            state.delete_endpoint(endpoint.id)?;
            state.note(&self.ids, &by, Some(&endpoint), None);
        }
        state.delete_key(id)?;
        state.note(&self.ids, &by, Some(&before), None);
        Ok(())
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

    async fn note(&self, entry: AuditEntry) -> Result<(), StoreError> {
        let mut state = self.state();
        let tenant = entry.tenant;
        let application = entry.application;
        let exists = tenant.is_none_or(|id| state.tenants.contains_key(&id.as_u128()))
            && application.is_none_or(|id| state.applications.contains_key(&id.as_u128()));
        if exists {
            state.audit.insert(entry.id.as_u128(), entry);
        }
        Ok(())
    }

    async fn list_audit(
        &self,
        filter: AuditFilter,
        page: PageRequest,
    ) -> Result<Page<AuditEntry>, StoreError> {
        self.state().list_audit(&filter, page)
    }

    async fn list_notices(
        &self,
        filter: NoticeFilter,
        page: PageRequest,
    ) -> Result<Page<Notice>, StoreError> {
        self.state().list_notices(filter, page)
    }

    async fn read_notices(
        &self,
        tenant: Id<id::Tenant>,
        mode: Option<Mode>,
        last: Id<id::Notice>,
        now: Timestamp,
    ) -> Result<u32, StoreError> {
        Ok(self.state().read_notices(tenant, mode, last, now))
    }

    async fn mail_audiences(&self) -> Result<Vec<(MailAudience, Timestamp)>, StoreError> {
        Ok(self.state().mail_audiences())
    }

    async fn due_notices(&self, due: DueNotices, limit: u32) -> Result<Vec<Notice>, StoreError> {
        Ok(self.state().due_notices(due, limit))
    }

    async fn settle_notices(
        &self,
        channel: NoticeChannel,
        ids: Vec<Id<id::Notice>>,
    ) -> Result<(), StoreError> {
        self.state().settle_notices(channel, &ids);
        Ok(())
    }

    async fn put_profile(&self, name: &str, source: &str) -> Result<ProfileVersion, StoreError> {
        Ok(self.state().put_profile(name, source))
    }

    async fn profiles(&self) -> Result<Vec<ProfileRecord>, StoreError> {
        Ok(self.state().profiles.clone())
    }

    async fn delete_owner(
        &self,
        owner: crate::Owner,
        task: Task,
        by: Actor,
    ) -> Result<(), StoreError> {
        self.state().delete_owner(&self.ids, owner, task, &by)
    }

    async fn erase(&self, owner: crate::Owner, _limit: u32) -> Result<crate::Erased, StoreError> {
        Ok(self.state().erase(owner))
    }

    async fn put_task(&self, task: Task) -> Result<(), StoreError> {
        let mut state = self.state();
        let known = state.tasks.get(&task.id.as_u128());
        // A replay of a deleted tenant's is not remembered.
        let owned = |tenant: Id<id::Tenant>| state.tenants.contains_key(&tenant.as_u128());
        let lost = task.kind == crate::TaskKind::Replay && !task.tenant.is_some_and(owned);
        if !lost && known.is_none_or(|known| known.state == crate::TaskState::Running) {
            state.tasks.insert(task.id.as_u128(), task);
        }
        Ok(())
    }

    async fn list_tasks(
        &self,
        filter: TaskFilter,
        page: PageRequest,
    ) -> Result<Page<Task>, StoreError> {
        self.state().list_tasks(filter, page)
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
        state.sessions.retain(|_, row| row.expires_at > now);
        Ok(())
    }

    async fn ping(&self) -> Result<(), StoreError> {
        Ok(())
    }
}
