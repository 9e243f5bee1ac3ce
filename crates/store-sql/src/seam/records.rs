//! [`Records`] of the store: each method is a question for a reader, or a change for the writer.

use async_trait::async_trait;
use postrider_core::attempt::Attempt;
use postrider_core::delivery::Delivery;
use postrider_core::event::{Event, EventSummary};
use postrider_core::{Id, Timestamp, id};
use postrider_store::{
    Counted, DeliveryFilter, EndpointStats, EventFilter, FirstUse, MissedPage, MissedQuery, Page,
    PageRequest, Records, Statistics, StatisticsQuery, StoreError,
};

use crate::SqlStore;

#[async_trait]
impl Records for SqlStore {
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
        // Not beside what deliveries wait for.
        self.lists
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
}
