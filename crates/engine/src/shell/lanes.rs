//! What the journal tells the engine.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use postrider_core::delivery::DeliveryState;
use postrider_core::judge::Next;
use postrider_store::{DueDelivery, FinishDelivery, LaneBacklog, Recorded, StoreError};

use super::Engine;
use crate::journal::{Committed, RecordedEntry};
use crate::machine::Input;

/// How a delivery ended, if it did.
fn ends_as(next: Next) -> Option<DeliveryState> {
    match next {
        Next::Delivered => Some(DeliveryState::Delivered),
        Next::Failed(reason) => Some(DeliveryState::Failed(reason)),
        Next::Retry { .. } => None,
    }
}

/// What the journal tells the engine.
pub(super) struct Lanes(pub(super) Arc<Engine>);

impl Committed for Lanes {
    fn due(&self, deliveries: Vec<DueDelivery>) {
        if !deliveries.is_empty() {
            self.0.apply(Input::Due(deliveries));
        }
    }

    fn backlog(&self, lanes: Vec<LaneBacklog>) {
        for lane in lanes {
            self.0.apply(Input::Backlog {
                endpoint: lane.endpoint,
                first: lane.first,
            });
        }
    }

    fn ended(&self, finished: FinishDelivery) {
        self.0.apply(Input::Ended {
            endpoint: finished.endpoint,
            delivery: finished.delivery,
        });
    }

    fn settled(&self, settled: RecordedEntry, recorded: Option<Recorded>, ended: bool) {
        let RecordedEntry {
            due,
            next,
            keep_place,
            past_lane,
            turn: _,
        } = settled;
        let endpoint = due.delivery.endpoint;
        // What was cancelled under its last attempt was counted with that (`closed`).
        if let Some(state) = ends_as(next).filter(|_| ended) {
            self.0.metrics.ended(due.event.application, state);
        }
        // A record that had been applied before may have disabled the endpoint without us hearing of it.
        let look =
            recorded.is_some_and(|recorded| recorded.disabled.is_some() || !recorded.applied);
        if let Some(reason) = recorded.and_then(|recorded| recorded.disabled) {
            self.0.metrics.disabled(reason);
            tracing::info!(endpoint.id = %endpoint, reason = reason.as_str(), "endpoint disabled");
        }
        if look {
            self.0.endpoint_changed(endpoint);
        }
        if past_lane.is_some() {
            return;
        }
        let due = Box::new(due);
        if recorded.is_some_and(|recorded| recorded.is_behind) {
            return self.0.apply(Input::Behind { due });
        }
        self.0.apply(Input::Settled {
            due,
            next,
            keep_place,
        });
    }

    fn set_aside(&self, of: RecordedEntry, why: &StoreError) {
        tracing::error!(delivery.id = %of.due.delivery.id, error = why as &dyn std::error::Error, "the record of an attempt was refused; the delivery is set aside as it is stored, and tried again after the next start");
        if of.past_lane.is_none() {
            self.0.leave_aside(of.due);
        }
    }

    fn gone(&self, of: RecordedEntry) {
        tracing::info!(delivery.id = %of.due.delivery.id, "a delivery was deleted while an attempt was made; the attempt has no record");
        if of.past_lane.is_none() {
            self.0.leave_lane(of.due);
        }
    }

    fn available(&self, available: bool) {
        if available && !self.0.draining.load(Ordering::Relaxed) {
            self.0.apply(Input::Resume);
        } else {
            self.0.apply(Input::Halt);
        }
    }
}
