//! What happened: events, deliveries and attempts, and counts of them.

use async_trait::async_trait;
use postrider_core::attempt::Attempt;
use postrider_core::delivery::Delivery;
use postrider_core::event::{Event, EventSummary};
use postrider_core::{Id, Timestamp, id};

use crate::{
    Counted, DeliveryFilter, EndpointStats, EventFilter, FirstUse, MissedPage, MissedQuery, Page,
    PageRequest, Statistics, StatisticsQuery, StoreError,
};

/// Records to look at. A list looks at a bounded number of rows. What its filters leave of them is the page: it may
/// have fewer rows than asked for, even none, and there is more as long as it names a next one.
#[async_trait]
pub trait Records: Send + Sync + 'static {
    async fn event(&self, id: Id<id::Event>) -> Result<Event, StoreError>;

    /// Newest first.
    async fn list_events(
        &self,
        filter: EventFilter,
        page: PageRequest,
    ) -> Result<Page<EventSummary>, StoreError>;

    /// Those of `ids` that are there, in any order.
    async fn event_summaries(
        &self,
        ids: Vec<Id<id::Event>>,
    ) -> Result<Vec<EventSummary>, StoreError>;

    /// What an idempotency key was used for, as long as that is remembered.
    async fn first_use(
        &self,
        application: Id<id::Application>,
        key: &str,
    ) -> Result<Option<FirstUse>, StoreError>;

    async fn delivery(&self, id: Id<id::Delivery>) -> Result<Delivery, StoreError>;

    /// Counts a page of [`Records::list_deliveries`].
    async fn count_deliveries(
        &self,
        filter: DeliveryFilter,
        page: PageRequest,
    ) -> Result<Counted, StoreError>;

    /// What an endpoint missed, for [`CatchUp`](crate::CatchUp). A deleted endpoint is not found.
    async fn missed_events(&self, query: MissedQuery) -> Result<MissedPage, StoreError>;

    /// Newest first, unless the filter says otherwise.
    async fn list_deliveries(
        &self,
        filter: DeliveryFilter,
        page: PageRequest,
    ) -> Result<Page<Delivery>, StoreError>;

    /// The last `limit` of a delivery's attempts, or of those before the number `before`; in the order
    /// of their numbers.
    async fn attempts(
        &self,
        delivery: Id<id::Delivery>,
        before: Option<u32>,
        limit: u32,
    ) -> Result<Vec<Attempt>, StoreError>;

    /// The last attempt of each delivery that has one, in any order.
    async fn last_attempts(
        &self,
        deliveries: Vec<Id<id::Delivery>>,
    ) -> Result<Vec<(Id<id::Delivery>, Attempt)>, StoreError>;

    /// `TooLong` when there is more to count than the store counts at once.
    async fn endpoint_stats(
        &self,
        endpoint: Id<id::Endpoint>,
        since: Timestamp,
    ) -> Result<EndpointStats, StoreError>;

    /// Counts of a tenant's deliveries, grouped and over time. `TooLong` as above.
    async fn statistics(&self, query: StatisticsQuery) -> Result<Statistics, StoreError>;
}
