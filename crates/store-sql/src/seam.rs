//! The store's seam: each method is a question for a reader, or a change for the writer.

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
use postrider_store::{
    ApplicationChange, AuditFilter, Counted, DeliveryFilter, DueNotices, DuePage, EndpointChange,
    EndpointFilter, EndpointStats, Erased, EventFilter, FirstUse, KeyChange, KeyFilter,
    LaneBacklog, LoadDue, MailAudience, MissedPage, MissedQuery, NoticeChannel, NoticeFilter,
    Owner, Page, PageRequest, ProfileRecord, Statistics, StatisticsQuery, Store, StoreError, Task,
    TaskFilter, TenantChange, TenantFilter, Write, Written,
};

use crate::SqlStore;
use crate::convert::aborted;

#[async_trait]
impl Store for SqlStore {
    fn ids(&self) -> &IdGenerator {
        &self.ids
    }

    async fn commit(&self, now: Moment, batch: Vec<Write>) -> Vec<Result<Written, StoreError>> {
        self.writer.commit(now, batch).await
    }

    async fn last_place(&self) -> Result<Timestamp, StoreError> {
        self.writer
            .call(|tx| Ok(Timestamp::from_micros(tx.last_sequence)))
            .await
    }

    async fn note_steady(&self, now: Timestamp) -> Result<(), StoreError> {
        self.writer.call(move |tx| tx.note_steady(now)).await
    }

    async fn load_due(&self, query: LoadDue) -> Result<DuePage, StoreError> {
        self.points.read(move |reader| reader.load_due(query)).await
    }

    async fn backlog(&self) -> Result<Vec<LaneBacklog>, StoreError> {
        if self.lost.is_some() {
            // A commit that nobody was told the outcome of may still be under way on a connection that is cut off: the
            // lock of the next one is free when that has ended.
            self.writer.call(|_| Ok(())).await?;
        }
        self.points.read(|reader| reader.backlog()).await
    }

    async fn finish_pending(
        &self,
        endpoint: Id<id::Endpoint>,
        state: DeliveryState,
        now: Timestamp,
        limit: u32,
    ) -> Result<u32, StoreError> {
        self.writer
            .call(move |tx| tx.finish_pending(endpoint, state, now, limit))
            .await
    }

    async fn event(&self, id: Id<id::Event>) -> Result<Event, StoreError> {
        self.points.read(move |reader| reader.event(id)).await
    }

    async fn list_events(
        &self,
        filter: EventFilter,
        page: PageRequest,
    ) -> Result<Page<EventSummary>, StoreError> {
        self.lists
            .read(move |reader| reader.list_events(&filter, page))
            .await
    }

    async fn event_summaries(
        &self,
        ids: Vec<Id<id::Event>>,
    ) -> Result<Vec<EventSummary>, StoreError> {
        self.lists
            .read(move |reader| reader.event_summaries(&ids))
            .await
    }

    async fn first_use(
        &self,
        application: Id<id::Application>,
        key: &str,
    ) -> Result<Option<FirstUse>, StoreError> {
        let key = key.to_owned();
        self.points
            .read(move |reader| reader.first_use(application, &key))
            .await
    }

    async fn delivery(&self, id: Id<id::Delivery>) -> Result<Delivery, StoreError> {
        self.points.read(move |reader| reader.delivery(id)).await
    }

    async fn count_deliveries(
        &self,
        filter: DeliveryFilter,
        page: PageRequest,
    ) -> Result<Counted, StoreError> {
        self.lists
            .read(move |reader| reader.count_deliveries(&filter, page))
            .await
    }

    async fn missed_events(&self, query: MissedQuery) -> Result<MissedPage, StoreError> {
        self.lists
            .read(move |reader| reader.missed_events(&query))
            .await
    }

    async fn list_deliveries(
        &self,
        filter: DeliveryFilter,
        page: PageRequest,
    ) -> Result<Page<Delivery>, StoreError> {
        self.lists
            .read(move |reader| reader.list_deliveries(&filter, page))
            .await
    }

    async fn attempts(
        &self,
        delivery: Id<id::Delivery>,
        before: Option<u32>,
        limit: u32,
    ) -> Result<Vec<Attempt>, StoreError> {
        self.points
            .read(move |reader| reader.attempts(delivery, before, limit))
            .await
    }

    async fn last_attempts(
        &self,
        deliveries: Vec<Id<id::Delivery>>,
    ) -> Result<Vec<(Id<id::Delivery>, Attempt)>, StoreError> {
        self.lists
            .read(move |reader| reader.last_attempts(&deliveries))
            .await
    }

    async fn first_rendering(
        &self,
        delivery: Id<id::Delivery>,
    ) -> Result<Option<Arc<Rendering>>, StoreError> {
        self.points
            .read(move |reader| reader.first_rendering(delivery))
            .await
    }

    async fn endpoint_stats(
        &self,
        endpoint: Id<id::Endpoint>,
        since: Timestamp,
    ) -> Result<EndpointStats, StoreError> {
        self.counts
            .read(move |reader| reader.endpoint_stats(endpoint, since))
            .await
    }

    async fn statistics(&self, query: StatisticsQuery) -> Result<Statistics, StoreError> {
        self.counts
            .read(move |reader| reader.statistics(&query))
            .await
    }

    async fn create_application(
        &self,
        application: Application,
        by: Actor,
    ) -> Result<(), StoreError> {
        self.writer
            .change(move |tx| tx.create_application(&application, &by))
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
            .change(move |tx| tx.update_application(id, change, &by))
            .await
    }

    async fn create_tenant(&self, tenant: Tenant, by: Actor) -> Result<(), StoreError> {
        self.writer
            .change(move |tx| tx.create_tenant(&tenant, &by))
            .await
    }

    async fn update_tenant(
        &self,
        id: Id<id::Tenant>,
        change: TenantChange,
        by: Actor,
    ) -> Result<Tenant, StoreError> {
        self.writer
            .change(move |tx| tx.update_tenant(id, change, &by))
            .await
    }

    async fn tenant(&self, id: Id<id::Tenant>) -> Result<Tenant, StoreError> {
        self.points.read(move |reader| reader.tenant(id)).await
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
        max: usize,
        by: Actor,
    ) -> Result<EventType, StoreError> {
        self.writer
            .change(move |tx| tx.put_event_type(event_type, max, &by))
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

    async fn list_event_types(
        &self,
        application: Id<id::Application>,
    ) -> Result<Vec<EventType>, StoreError> {
        self.lists
            .read(move |reader| reader.list_event_types(application))
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
            .call(move |tx| tx.delete_event_type(application, &name, &by))
            .await
    }

    async fn create_endpoint(
        &self,
        endpoint: Endpoint,
        max: Option<u32>,
        by: Actor,
    ) -> Result<(), StoreError> {
        self.writer
            .change(move |tx| tx.create_endpoint(&endpoint, max, &by))
            .await
    }

    async fn endpoint(&self, id: Id<id::Endpoint>) -> Result<Endpoint, StoreError> {
        self.points.read(move |reader| reader.endpoint(id)).await
    }

    async fn lane_endpoint(&self, id: Id<id::Endpoint>) -> Result<(Endpoint, bool), StoreError> {
        self.points
            .read(move |reader| reader.lane_endpoint(id))
            .await
    }

    async fn endpoints(&self, ids: Vec<Id<id::Endpoint>>) -> Result<Vec<Endpoint>, StoreError> {
        self.points.read(move |reader| reader.endpoints(&ids)).await
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
            .change(move |tx| tx.update_endpoint(id, change, &by))
            .await
    }

    async fn delete_endpoint(&self, id: Id<id::Endpoint>, by: Actor) -> Result<(), StoreError> {
        self.writer
            .call(move |tx| tx.delete_endpoint(id, &by))
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

    async fn create_key(
        &self,
        key: ApiKey,
        endpoint: Option<Endpoint>,
        by: Actor,
    ) -> Result<(), StoreError> {
        self.writer
            .change(move |tx| tx.create_key(&key, endpoint.as_ref(), &by))
            .await
    }

    async fn key_by_hash(&self, hash: [u8; 32]) -> Result<ApiKey, StoreError> {
        self.points
            .read(move |reader| reader.key_by_hash(hash))
            .await
    }

    async fn key_by_public_id(&self, public_id: &str) -> Result<ApiKey, StoreError> {
        let public_id = public_id.to_owned();
        self.points
            .read(move |reader| reader.key_by_public_id(&public_id))
            .await
    }

    async fn key(&self, id: Id<id::ApiKey>) -> Result<ApiKey, StoreError> {
        self.points.read(move |reader| reader.key_by_id(id)).await
    }

    async fn list_keys(
        &self,
        filter: KeyFilter,
        page: PageRequest,
    ) -> Result<Page<ApiKey>, StoreError> {
        self.lists
            .read(move |reader| reader.list_keys(filter, page))
            .await
    }

    async fn key_endpoint(&self, key: Id<id::ApiKey>) -> Result<Option<Endpoint>, StoreError> {
        self.points
            .read(move |reader| reader.key_endpoint(key))
            .await
    }

    async fn has_root_key(&self) -> Result<bool, StoreError> {
        self.points.read(|reader| reader.has_root_key()).await
    }

    async fn update_key(
        &self,
        id: Id<id::ApiKey>,
        change: KeyChange,
        by: Actor,
    ) -> Result<(ApiKey, Option<Endpoint>), StoreError> {
        self.writer
            .change(move |tx| tx.update_key(id, change, &by))
            .await
    }

    async fn delete_key(&self, id: Id<id::ApiKey>, by: Actor) -> Result<(), StoreError> {
        self.writer.call(move |tx| tx.delete_key(id, &by)).await
    }

    async fn use_nonce(
        &self,
        key: Id<id::ApiKey>,
        nonce: &str,
        expires_at: Timestamp,
    ) -> Result<bool, StoreError> {
        let nonce = nonce.to_owned();
        self.writer
            .call(move |tx| tx.use_nonce(key, &nonce, expires_at))
            .await
    }

    async fn note(&self, entry: AuditEntry) -> Result<(), StoreError> {
        self.writer
            .call(move |tx| tx.note_of_owner(&entry).map_err(aborted))
            .await
    }

    async fn list_audit(
        &self,
        filter: AuditFilter,
        page: PageRequest,
    ) -> Result<Page<AuditEntry>, StoreError> {
        self.lists
            .read(move |reader| reader.list_audit(&filter, page))
            .await
    }

    async fn list_notices(
        &self,
        filter: NoticeFilter,
        page: PageRequest,
    ) -> Result<Page<Notice>, StoreError> {
        self.lists
            .read(move |reader| reader.list_notices(filter, page))
            .await
    }

    async fn read_notices(
        &self,
        tenant: Id<id::Tenant>,
        mode: Option<Mode>,
        last: Id<id::Notice>,
        now: Timestamp,
    ) -> Result<u32, StoreError> {
        self.writer
            .call(move |tx| tx.read_notices(tenant, mode, last, now))
            .await
    }

    async fn mail_audiences(&self) -> Result<Vec<(MailAudience, Timestamp)>, StoreError> {
        self.lists.read(|reader| reader.mail_audiences()).await
    }

    async fn due_notices(&self, due: DueNotices, limit: u32) -> Result<Vec<Notice>, StoreError> {
        self.lists
            .read(move |reader| reader.due_notices(due, limit))
            .await
    }

    async fn settle_notices(
        &self,
        channel: NoticeChannel,
        ids: Vec<Id<id::Notice>>,
    ) -> Result<(), StoreError> {
        self.writer
            .call(move |tx| tx.settle_notices(channel, &ids))
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

    async fn delete_owner(&self, owner: Owner, task: Task, by: Actor) -> Result<(), StoreError> {
        self.writer
            .call(move |tx| tx.delete_owner(owner, &task, &by))
            .await
    }

    async fn erase(&self, owner: Owner, limit: u32) -> Result<Erased, StoreError> {
        let erased = self.writer.call(move |tx| tx.erase(owner, limit)).await?;
        if erased.done {
            self.writer.run(|tx| tx.empty_log()).await;
        }
        Ok(erased)
    }

    async fn put_task(&self, task: Task) -> Result<(), StoreError> {
        self.writer.call(move |tx| tx.put_task(&task)).await
    }

    async fn task(&self, id: Id<id::Task>) -> Result<Task, StoreError> {
        self.points.read(move |reader| reader.task(id)).await
    }

    async fn list_tasks(
        &self,
        filter: TaskFilter,
        page: PageRequest,
    ) -> Result<Page<Task>, StoreError> {
        self.lists
            .read(move |reader| reader.list_tasks(filter, page))
            .await
    }

    async fn unfinished_tasks(&self) -> Result<Vec<Task>, StoreError> {
        self.points.read(|reader| reader.unfinished_tasks()).await
    }

    async fn sweep(&self, idempotency_before: Timestamp, now: Timestamp) -> Result<(), StoreError> {
        // Publishers have their turn between two pages.
        while self
            .writer
            .call(move |tx| tx.sweep(idempotency_before, now))
            .await?
        {}
        Ok(())
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.writer.call(|tx| tx.ping()).await
    }
}
