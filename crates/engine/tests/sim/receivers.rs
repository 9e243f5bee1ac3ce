//! Scripted receivers, who see whether what must hold of every request does.

use std::sync::Arc;

use postrider_core::attempt::{Outcome, Timings};
use postrider_core::delivery::{Delivery, DeliveryState};
use postrider_core::endpoint::Ordering;
use postrider_core::{Id, Timestamp, id};
use postrider_engine::machine::MachineLimits;
use postrider_engine::{Exchange, Request, Transport};
use postrider_store::memory::MemoryStore;
use postrider_store::{
    Catalogue as _, DeliveryFilter, Lanes as _, LoadDue, PageRequest, Records as _,
};

use super::{EndpointId, Shared, done};

pub(crate) struct Receivers {
    pub(super) shared: Arc<Shared>,
    pub(super) store: Arc<MemoryStore>,
    pub(super) limits: MachineLimits,
}

#[async_trait::async_trait]
impl Transport for Receivers {
    async fn send(&self, request: &Request) -> Exchange {
        if self.shared.state().dead {
            self.shared.die().await;
        }
        let now = self.shared.virtual_now();
        // The world looks, and has no weather of its own.
        let was_calm = std::mem::replace(&mut self.shared.state().calm, true);
        let (endpoint, delivery) = self.of(request);
        let violations = self.look(now, endpoint, &delivery);
        let (outcome, took) = {
            let mut state = self.shared.state();
            state.calm = was_calm;
            state.violations.extend(violations);
            if std::mem::take(&mut state.breaks_off.request) {
                drop(state);
                panic!("the transport breaks off");
            }
            let number = delivery.attempts + 1;
            state.requests.push((now, endpoint, delivery.id, number));
            state.sending.insert(delivery.id, endpoint);
            let mut script = state.scripts.remove(&endpoint).unwrap();
            let answer = script(&mut state.rng);
            state.scripts.insert(endpoint, script);
            answer
        };
        if !took.is_zero() {
            tokio::time::sleep(took).await;
        }
        self.shared.state().sending.remove(&delivery.id);
        let micros = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
        let answered = matches!(outcome, Outcome::Answered { .. });
        Exchange {
            outcome,
            response: None,
            timings: Timings {
                first_byte_micros: answered.then_some(micros),
                total_micros: micros,
                ..Timings::default()
            },
            egress: None,
        }
    }
}

impl Receivers {
    /// Whose request it is: the URL has the endpoint, the trace the event.
    fn of(&self, request: &Request) -> (EndpointId, Delivery) {
        let (_, endpoint) = request.url.rsplit_once('/').unwrap();
        let endpoint: EndpointId = endpoint.parse().unwrap();
        let named = |(name, _): &&(String, String)| name.eq_ignore_ascii_case("traceparent");
        let (_, trace) = request.headers.iter().find(named).unwrap();
        let event = trace.split('-').nth(1).unwrap();
        let event: Id<id::Event> = Id::from_u128(u128::from_str_radix(event, 16).unwrap());
        let filter = DeliveryFilter {
            endpoint: Some(endpoint),
            event: Some(event),
            ..DeliveryFilter::default()
        };
        let found = done(self.store.list_deliveries(filter, PageRequest::first(2))).unwrap();
        (endpoint, found.rows[0].clone())
    }

    /// What must not be.
    fn look(&self, now: Timestamp, endpoint: EndpointId, delivery: &Delivery) -> Vec<String> {
        let mut seen = Vec::new();
        let id = delivery.id;
        let is_closed = self.is_closed(endpoint);
        let state = delivery.state;
        // What is cancelled may have been on its way.
        let may_be_sent = matches!(state, DeliveryState::Pending | DeliveryState::Cancelled);
        if !may_be_sent && !is_closed {
            seen.push(format!("{id} is sent although it is {state:?}"));
        }
        // By the clock that it waits by, which a restart sets to what the wall clock shows.
        let steady = self.shared.steady_now();
        if state == DeliveryState::Pending && delivery.due_at > steady {
            seen.push(format!(
                "{id} is sent at {steady:?}, before {:?}",
                delivery.due_at
            ));
        }
        let sending = &self.shared.state().sending.clone();
        if sending.contains_key(&id) {
            seen.push(format!("{id} is sent twice at once"));
        }
        let of_lane = sending.values().filter(|other| **other == endpoint).count();
        if of_lane >= self.limits.lane_in_flight_max || sending.len() >= self.limits.in_flight_max {
            seen.push(format!(
                "{of_lane} to one endpoint, {} in all",
                sending.len()
            ));
        }
        if !is_closed && state == DeliveryState::Pending {
            seen.extend(self.overtaken(now, endpoint, delivery));
        }
        seen
    }

    fn is_closed(&self, endpoint: EndpointId) -> bool {
        let found = done(self.store.endpoint(endpoint));
        found.map_or(true, |endpoint| !endpoint.health.is_enabled())
    }

    /// An ordered lane sends nothing while something before it is undecided.
    fn overtaken(&self, now: Timestamp, endpoint: EndpointId, delivery: &Delivery) -> Vec<String> {
        let order = self.shared.state().orders[&endpoint];
        if order == Ordering::None {
            return Vec::new();
        }
        let page = done(self.store.load_due(LoadDue::all(endpoint))).unwrap();
        let Some(own) = page.rows.iter().find(|row| row.delivery.id == delivery.id) else {
            return Vec::new();
        };
        let before = page.rows.iter().filter(|row| row.sequence < own.sequence);
        let of_key = before.filter(|row| {
            let key = &own.event.ordering_key;
            order == Ordering::Endpoint || (key.is_some() && row.event.ordering_key == *key)
        });
        of_key
            .map(|row| {
                let (own, other) = (&own, &row);
                format!(
                    "at {now:?} {} (place {}, {} attempts) overtook {} (place {}, {} attempts, due {:?}, {:?})",
                    delivery.id,
                    own.sequence,
                    delivery.attempts,
                    other.delivery.id,
                    other.sequence,
                    other.delivery.attempts,
                    other.delivery.due_at,
                    other.delivery.series,
                )
            })
            .collect()
    }
}
