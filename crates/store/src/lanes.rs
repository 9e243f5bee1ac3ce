//! The way of an event: what the engine writes, and what it reads to go on.

use std::sync::Arc;

use async_trait::async_trait;
use postrider_core::attempt::Rendering;
use postrider_core::delivery::DeliveryState;
use postrider_core::time::Moment;
use postrider_core::{Id, Timestamp, id};

use crate::{Answers, Batch, DuePage, LaneBacklog, LaneEndpoint, LoadDue, StoreError, Written};

/// What the engine works with.
#[async_trait]
pub trait Lanes: Send + Sync + 'static {
    /// Commits the writes of `batch` in one transaction, each whole or not at all, and answers each. What would make
    /// more deliveries than one takes ([`limits::TRANSACTION_ROWS`]) comes back: others are to have their turn first.
    /// Places, due times and the age of idempotency keys are by the steady clock, all else by the wall
    /// clock.
    ///
    /// A write that cannot be (`NotFound`, `Conflict`, and `Corrupt` where a row that it needs cannot be read)
    /// changes nothing and leaves the others be. When a transaction itself fails, all its writes
    /// answer `Aborted`, `Full` or `OutcomeUnknown`.
    ///
    /// [`limits::TRANSACTION_ROWS`]: postrider_core::limits::TRANSACTION_ROWS
    async fn commit(&self, now: Moment, batch: Batch) -> Written;

    /// Commits all of `batch`, one transaction after the other.
    async fn commit_all(&self, now: Moment, batch: Batch) -> Answers {
        let mut written = self.commit(now, batch).await;
        while !written.rest.is_empty() {
            let next = self.commit(now, std::mem::take(&mut written.rest)).await;
            written.answers.append(next.answers);
            written.rest = next.rest;
        }
        written.answers
    }

    /// The latest place that a fresh delivery has, by the steady clock of whoever made it, or what
    /// [`Lanes::note_steady`] noted if that is later.
    async fn last_place(&self) -> Result<Timestamp, StoreError>;

    /// Notes how far the steady clock has come, so that the next process begins there, however little is accepted
    /// and whatever the wall clock shows then.
    async fn note_steady(&self, now: Timestamp) -> Result<(), StoreError>;

    /// The first pending deliveries of one endpoint in the order of its lane.
    async fn load_due(&self, query: LoadDue) -> Result<DuePage, StoreError>;

    /// Every endpoint that has pending deliveries, with the place of the first.
    async fn backlog(&self) -> Result<Vec<LaneBacklog>, StoreError>;

    /// Gives up to `limit` pending deliveries of a disabled or deleted endpoint their final state;
    /// returns how many. An endpoint that was enabled meanwhile keeps what it has, one that was erased has none: 0.
    async fn finish_pending(
        &self,
        endpoint: Id<id::Endpoint>,
        state: DeliveryState,
        now: Timestamp,
        limit: u32,
    ) -> Result<u32, StoreError>;

    /// Endpoints for their lanes, in the order of `ids`, deleted ones too. One that cannot be read costs no other.
    async fn lane_endpoints(
        &self,
        ids: &[Id<id::Endpoint>],
    ) -> Vec<Result<LaneEndpoint, StoreError>>;

    /// What of its endpoint made a delivery's first body.
    async fn first_rendering(
        &self,
        delivery: Id<id::Delivery>,
    ) -> Result<Option<Arc<Rendering>>, StoreError>;
}
