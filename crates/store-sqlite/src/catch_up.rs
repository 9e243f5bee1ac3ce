//! Giving an endpoint what it missed.

use postrider_core::delivery::{Delivery, DeliveryState, Series};
use postrider_core::event::Event;
use postrider_core::time::Moment;
use postrider_store::{CatchUp, DueDelivery, Entity, Resend, Rule, StoreError};
use rusqlite::OptionalExtension;

use crate::convert::{EVENT, SqlResult, aborted, event, state};
use crate::writer::Tx;

impl Tx {
    pub(crate) fn catch_up(
        &mut self,
        now: Moment,
        missed: CatchUp,
    ) -> Result<DueDelivery, StoreError> {
        let key = self.key(missed.event, Entity::Event)?;
        let endpoint = self.key(missed.endpoint, Entity::Endpoint)?;
        let event = self
            .event(key)
            .map_err(aborted)?
            .ok_or(StoreError::not_found(Entity::Event))?;
        if event.deliver_before.is_some_and(|limit| now.wall > limit) {
            return Err(StoreError::conflict(Rule::DeliveryExpired));
        }
        self.must_be_enabled(endpoint, event.tenant.key(), Some(event.mode))?;
        if let Some((known, attempts, state)) = self.delivery_to(key, endpoint).map_err(aborted)? {
            if state != DeliveryState::Skipped {
                return Err(StoreError::conflict(Rule::DeliveryExists));
            }
            let resend = Resend {
                delivery: self.id(known),
                attempts,
                series: Series::SCHEDULED,
            };
            return self.resend(now.steady, resend);
        }
        self.last_sequence = now.steady.as_micros().max(self.last_sequence + 1);
        let sequence = self.last_sequence;
        let id = self.ids.next(now.wall);
        let delivery = Delivery::new(id, &event, missed.endpoint, missed.profile, now);
        self.insert_delivery(&delivery, event.tenant.key(), endpoint, sequence)
            .map_err(aborted)?;
        Ok(DueDelivery {
            delivery,
            event: std::sync::Arc::new(event),
            sequence,
        })
    }

    fn event(&self, key: i64) -> SqlResult<Option<Event>> {
        let sql = format!("select {EVENT} from event e where e.id = ?1");
        let mut statement = self.connection.prepare_cached(&sql)?;
        statement
            .query_row([key], |row| event(row, 0, self.salt))
            .optional()
    }

    /// The delivery of an event to an endpoint: its key, attempts and state.
    fn delivery_to(
        &self,
        event: i64,
        endpoint: i64,
    ) -> SqlResult<Option<(i64, u32, DeliveryState)>> {
        let mut statement = self.connection.prepare_cached(
            "select id, attempts, state, reason from delivery where event_id = ?1 and endpoint_id = ?2",
        )?;
        statement
            .query_row([event, endpoint], |row| {
                Ok((row.get(0)?, row.get(1)?, state(row, 2)?))
            })
            .optional()
    }
}
