//! [`Lanes`] of the store: each method is a question for a reader, or a change for the writer.

use std::sync::Arc;

use async_trait::async_trait;
use postrider_core::attempt::Rendering;
use postrider_core::delivery::DeliveryState;
use postrider_core::time::Moment;
use postrider_core::{Id, Timestamp, id};
use postrider_store::{
    Batch, DuePage, LaneBacklog, LaneEndpoint, Lanes, LoadDue, StoreError, Written,
};

use crate::SqlStore;

#[async_trait]
impl Lanes for SqlStore {
    async fn commit(&self, now: Moment, batch: Batch) -> Written {
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
        if self.held.is_some() {
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

    async fn lane_endpoints(
        &self,
        ids: &[Id<id::Endpoint>],
    ) -> Vec<Result<LaneEndpoint, StoreError>> {
        self.points
            .read_each(ids, |reader, ids| reader.lane_endpoints(ids))
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
}
