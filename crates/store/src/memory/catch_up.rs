//! What an endpoint missed, in the model.

use std::sync::Arc;

use postrider_core::delivery::{Delivery, DeliveryState};
use postrider_core::event::Event;
use postrider_core::id::IdGenerator;
use postrider_core::time::Moment;
use postrider_core::{Id, id};

use super::State;
use crate::life::{self, CatchingUp, Head, Offered};
use crate::{CatchUp, DueDelivery, Entity, MissedPage, MissedQuery, StoreError};

impl State {
    pub(super) fn catch_up(
        &mut self,
        ids: &IdGenerator,
        now: Moment,
        missed: CatchUp,
    ) -> Result<DueDelivery, StoreError> {
        let event = self
            .events
            .get(&missed.event.as_u128())
            .cloned()
            .ok_or(StoreError::not_found(Entity::Event))?;
        let endpoint = self.takes(missed.endpoint, event.tenant, Some(event.mode));
        let known = self.delivery_to(missed.event, missed.endpoint);
        let known = known.map(|delivery| {
            let head = Head {
                attempts: delivery.attempts,
                state: delivery.state,
            };
            (delivery.id, head)
        });
        match life::catch_up(&event, endpoint, known, now)? {
            // Its delivery is in the log already, as skipped: a second one would show the event twice.
            CatchingUp::Again(resend) => return self.resend(now, resend),
            CatchingUp::New => {}
        }
        self.last_sequence = life::next_place(self.last_sequence, now.steady);
        let id = ids.next(now.wall);
        let begins = DeliveryState::Pending;
        let delivery = life::accept(id, &event, missed.endpoint, begins, missed.profile, now);
        self.insert_delivery(delivery.clone());
        Ok(DueDelivery {
            delivery,
            event,
            sequence: self.last_sequence,
        })
    }

    fn delivery_to(&self, event: Id<id::Event>, endpoint: Id<id::Endpoint>) -> Option<&Delivery> {
        let mut all = self.deliveries.values().map(|row| &row.delivery);
        all.find(|delivery| delivery.event == event && delivery.endpoint == endpoint)
    }

    pub(super) fn missed_events(&self, query: &MissedQuery) -> Result<MissedPage, StoreError> {
        let endpoint = self
            .endpoints
            .get(&query.endpoint.as_u128())
            .filter(|row| !row.deleted)
            .map(|row| &row.endpoint)
            .ok_or(StoreError::not_found(Entity::Endpoint))?;
        let is_missed = |event: &Event| {
            let addressee = self.addressees.get(&event.id.as_u128()).copied();
            let known = self.delivery_to(event.id, endpoint.id);
            let known = known.map(|known| known.state);
            query.since.is_none_or(|since| event.created_at >= since)
                && event.created_at < query.until
                && life::is_missed(addressee, &Offered::from(event), endpoint, known)
        };
        let after = query.after.map_or(0, Id::as_u128);
        let looked_at: Vec<&Arc<Event>> = self
            .events
            .range(after + 1..)
            .map(|(_, event)| event)
            .filter(|event| event.tenant == endpoint.tenant)
            .take(query.rows as usize)
            .collect();
        let is_full = looked_at.len() >= query.rows as usize;
        let missed = looked_at.iter().filter(|event| is_missed(event));
        Ok(MissedPage {
            next: looked_at.last().filter(|_| is_full).map(|event| event.id),
            events: missed.map(|event| event.id).collect(),
        })
    }
}
