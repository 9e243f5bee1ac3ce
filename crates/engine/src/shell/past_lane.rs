//! Sending by hand what ended, although its endpoint is disabled: past the lane, which is closed.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use postrider_core::delivery::{Delivery, DeliveryState, Series};
use postrider_core::limits::ATTEMPTS_MAX;
use postrider_core::{Id, id};
use postrider_store::{DueDelivery, Rule, StoreError};

use super::{Engine, PublishError};
use crate::ids::IdMap;
use crate::journal::Busy;

/// Requests past their lanes at once; one more is refused.
const PAST_LANES_MAX: usize = 64;
/// Of them, to one endpoint.
const PAST_LANE_MAX: usize = 4;

type Underway = IdMap<id::Delivery, Id<id::Endpoint>>;

/// What is on its way past its lane.
#[derive(Debug, Default)]
pub(super) struct PastLanes(Arc<Mutex<Underway>>);

/// One of them, from the request to its record.
#[derive(Debug)]
pub(crate) struct PastLane {
    underway: Arc<Mutex<Underway>>,
    delivery: Id<id::Delivery>,
}

impl PastLanes {
    pub(super) fn holds(&self, delivery: Id<id::Delivery>) -> bool {
        let underway = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        underway.contains_key(&delivery)
    }

    fn enter(&self, delivery: &Delivery) -> Result<PastLane, PublishError> {
        let mut underway = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if underway.contains_key(&delivery.id) {
            return Err(StoreError::conflict(Rule::DeliveryPending).into());
        }
        let to_it = underway.values().filter(|to| **to == delivery.endpoint);
        if to_it.count() >= PAST_LANE_MAX || underway.len() >= PAST_LANES_MAX {
            return Err(Busy.into());
        }
        underway.insert(delivery.id, delivery.endpoint);
        Ok(PastLane {
            underway: self.0.clone(),
            delivery: delivery.id,
        })
    }
}

impl Drop for PastLane {
    fn drop(&mut self) {
        let mut underway = self.underway.lock().unwrap_or_else(PoisonError::into_inner);
        underway.remove(&self.delivery);
    }
}

impl Engine {
    /// Sends a finished delivery again although its endpoint is disabled: one attempt, now, past its
    /// lane. The delivery stays as it ended, unless the attempt succeeds; so does the endpoint. That
    /// it was asked for is not stored: a process that dies meanwhile forgets it.
    ///
    /// # Errors
    /// `DeliveryPending` when it waits, is being sent, or was sent since it was read, `DeliveryExpired`, `AttemptsMax`, `NotFound`;
    /// `Busy` when many are on their way, or the engine is being drained.
    pub async fn resend_while_disabled(
        self: &Arc<Self>,
        delivery: &Delivery,
    ) -> Result<Delivery, PublishError> {
        if self.draining.load(Ordering::Relaxed) {
            return Err(Busy.into());
        }
        self.must_not_be_under_way(delivery).await?;
        // Before it is read: from here on nobody else begins to send it.
        let past_lane = self.past_lanes.enter(delivery)?;
        // Read again: until now somebody else may have sent it.
        let seen = delivery.attempts;
        let mut delivery = self.store.delivery(delivery.id).await?;
        let refuse = |rule| Err(StoreError::conflict(rule).into());
        if delivery.state == DeliveryState::Pending || delivery.attempts != seen {
            return refuse(Rule::DeliveryPending);
        }
        if delivery.attempts >= ATTEMPTS_MAX {
            return refuse(Rule::AttemptsMax);
        }
        // A deleted endpoint gets nothing.
        self.store.endpoint(delivery.endpoint).await?;
        let event = Arc::new(self.store.event(delivery.event).await?);
        if !event.has_content() {
            return refuse(Rule::ContentDeleted);
        }
        if event
            .deliver_before
            .is_some_and(|limit| limit <= self.now().wall)
        {
            return refuse(Rule::DeliveryExpired);
        }
        let asked = delivery.clone();
        delivery.series = Series {
            single: true,
            ..Series::SCHEDULED
        };
        let due = DueDelivery {
            delivery,
            event,
            // No lane holds it, so it needs no place.
            sequence: 0,
        };
        // A task of its own: it goes on when whoever asked goes away.
        let engine = self.clone();
        self.tasks.spawn(engine.attempt_past_lane(due, past_lane));
        Ok(asked)
    }
}
