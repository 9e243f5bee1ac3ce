//! Giving an endpoint what it missed.

use postrider_core::delivery::DeliveryState;
use postrider_core::event::Event;
use postrider_core::time::Moment;
use postrider_core::{Id, id};
use postrider_store::life::{self, CatchingUp, Head};
use postrider_store::{CatchUp, DueDelivery, Entity, StoreError};

use crate::convert::{EVENT, aborted, event, state};
use crate::sql::{Optional, Row, SqlResult};
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
        let takes = self.takes(endpoint, event.tenant.key(), Some(event.mode))?;
        let known = self.delivery_to(key, endpoint).map_err(aborted)?;
        match life::catch_up(&event, takes, known, now)? {
            CatchingUp::Again(resend) => return self.resend(now, resend),
            CatchingUp::New => {}
        }
        self.last_sequence = life::next_place(self.last_sequence, now.steady);
        let sequence = self.last_sequence;
        let id = self.ids.next(now.wall);
        let begins = DeliveryState::Pending;
        let delivery = life::accept(id, &event, missed.endpoint, begins, missed.profile, now);
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

    /// The delivery of an event to an endpoint.
    fn delivery_to(
        &self,
        event: i64,
        endpoint: i64,
    ) -> SqlResult<Option<(Id<id::Delivery>, Head)>> {
        let mut statement = self.connection.prepare_cached(
            // There is one at most: what is sent again is the same delivery.
            "select id, attempts, state, reason from delivery where event_id = ?1 and endpoint_id = ?2",
        )?;
        let row = |row: &Row<'_>| {
            let head = Head {
                attempts: row.get(1)?,
                state: state(row, 2)?,
            };
            Ok((self.id(row.get(0)?), head))
        };
        statement.query_row([event, endpoint], row).optional()
    }
}
