//! [`Records`] of the model.

use async_trait::async_trait;
use postrider_core::attempt::Attempt;
use postrider_core::delivery::Delivery;
use postrider_core::event::{Event, EventSummary};
use postrider_core::{Id, Timestamp, id};

use crate::memory::MemoryStore;
use crate::{
    Counted, DeliveryFilter, EndpointStats, EventFilter, FirstUse, MissedPage, MissedQuery, Page,
    PageRequest, Records, Statistics, StatisticsQuery, StoreError,
};

#[async_trait]
impl Records for MemoryStore {
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
}
