//! What an endpoint missed, in the model.

use std::sync::Arc;

use postrider_core::delivery::{Delivery, DeliveryState, Series};
use postrider_core::endpoint::EndpointKind;
use postrider_core::event::Event;
use postrider_core::id::IdGenerator;
use postrider_core::time::Moment;
use postrider_core::{Id, id};

use super::State;
use crate::{
    CatchUp, DueDelivery, Entity, MissedPage, MissedQuery, Resend, Rule, StoreError, Target,
};

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
        if event.deliver_before.is_some_and(|limit| now.wall > limit) {
            return Err(StoreError::conflict(Rule::DeliveryExpired));
        }
        self.targets(&event, Target::Endpoint(missed.endpoint))?;
        if let Some(known) = self.delivery_to(missed.event, missed.endpoint) {
            if known.state != DeliveryState::Skipped {
                return Err(StoreError::conflict(Rule::DeliveryExists));
            }
            let resend = Resend {
                delivery: known.id,
                attempts: known.attempts,
                series: Series::SCHEDULED,
            };
            return self.resend(now.steady, resend);
        }
        self.last_sequence = now.steady.as_micros().max(self.last_sequence + 1);
        let id = ids.next(now.wall);
        let delivery = Delivery::new(id, &event, missed.endpoint, missed.profile, now);
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
        let by_type = match endpoint.kind {
            EndpointKind::Registered => Some(Target::Matching),
            EndpointKind::Distribution(_) => Some(Target::Distributions),
            EndpointKind::Callback | EndpointKind::Key(_) => None,
        };
        let is_missed = |event: &Event| {
            let addressee = self.addressees.get(&event.id.as_u128()).copied();
            let addressed = match addressee {
                Some(Target::Endpoint(id) | Target::IfEnabled(id)) => id == endpoint.id,
                other => other == by_type && endpoint.subscription.matches(&event.event_type),
            };
            let known = self.delivery_to(event.id, endpoint.id);
            addressed
                && event.mode == endpoint.mode
                && query.since.is_none_or(|since| event.created_at >= since)
                && event.created_at < query.until
                && known.is_none_or(|known| known.state == DeliveryState::Skipped)
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
