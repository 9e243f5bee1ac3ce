//! [`Lanes`] of the model.

use std::sync::Arc;

use async_trait::async_trait;
use postrider_core::attempt::Rendering;
use postrider_core::delivery::DeliveryState;
use postrider_core::time::Moment;
use postrider_core::{Id, Timestamp, id};

use crate::memory::{MemoryStore, failed};
use crate::{
    Answers, Batch, DuePage, LaneBacklog, LaneEndpoint, Lanes, LoadDue, StoreError, Written,
};

#[async_trait]
impl Lanes for MemoryStore {
    async fn commit(&self, now: Moment, batch: Batch) -> Written {
        let none_of = |batch: &Batch, error: &StoreError| Written {
            answers: Answers::failed(batch, || failed(error)),
            rest: Batch::default(),
        };
        if let Err(error) = self.before().await {
            return none_of(&batch, &error);
        }
        let answers = self.state().commit(&self.ids, now, &batch);
        if let Some(weather) = &self.weather {
            // What was written stays written: only the answer is lost.
            if let Err(error) = weather.after_commit().await {
                return none_of(&batch, &error);
            }
        }
        Written {
            rest: batch.behind(&answers),
            answers,
        }
    }

    async fn last_place(&self) -> Result<Timestamp, StoreError> {
        Ok(self.state().last_place())
    }

    async fn note_steady(&self, now: Timestamp) -> Result<(), StoreError> {
        self.before().await?;
        let mut state = self.state();
        // Places go by the steady clock, so the next one must be behind whatever it has shown.
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

    async fn lane_endpoints(
        &self,
        ids: &[Id<id::Endpoint>],
    ) -> Vec<Result<LaneEndpoint, StoreError>> {
        if let Err(error) = self.before().await {
            return ids.iter().map(|_| Err(failed(&error))).collect();
        }
        let state = self.state();
        let found = ids.iter().map(|id| {
            let (endpoint, is_deleted) = state.lane_endpoint(*id)?;
            Ok(LaneEndpoint {
                tenant: state.tenant(endpoint.tenant).map(Arc::new),
                application: state.application(endpoint.application).map(Arc::new),
                endpoint,
                is_deleted,
            })
        });
        found.collect()
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
}
