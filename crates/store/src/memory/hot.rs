//! The way of an event through the model.

use std::sync::Arc;

use postrider_core::audit::Actor;
use postrider_core::delivery::{Delivery, DeliveryState};
use postrider_core::event::{Event, EventSummary};
use postrider_core::id::IdGenerator;
use postrider_core::limits::TRANSACTION_ROWS;
use postrider_core::tenant::Mode;
use postrider_core::time::Moment;
use postrider_core::{Id, Timestamp, id};

use super::{DeliveryRow, EndpointRow, IdempotencyRow, State};
use crate::life::{self, Address, Candidate, Finish, Head, Offered};
use crate::queries::query_digest;
use crate::{
    Answers, Batch, DeliveryFilter, DueDelivery, DuePage, Entity, EventFilter, Failure,
    FinishDelivery, FirstUse, LaneBacklog, LoadDue, NewEvent, Page, PageRequest, Published,
    RecordAttempt, Recorded, Resend, StoreError, Target,
};

impl State {
    pub(super) fn commit(&mut self, ids: &IdGenerator, now: Moment, batch: &Batch) -> Answers {
        let mut answers = Answers::default();
        for record in &batch.records {
            let record = RecordAttempt::clone(record);
            answers.records.push(self.record(ids, now.wall, record));
        }
        for finish in &batch.finishes {
            answers.finishes.push(self.finish(ids, now.wall, *finish));
        }
        for resend in &batch.resends {
            answers.resends.push(self.resend(now, *resend));
        }
        for missed in &batch.catch_ups {
            answers.catch_ups.push(self.catch_up(ids, now, *missed));
        }
        let mut rows = 0;
        for new in &batch.publishes {
            // The others come back: here too, so that whoever runs on this one meets it.
            if rows >= TRANSACTION_ROWS {
                return answers;
            }
            let published = self.publish(ids, now, new.clone());
            rows += published.as_ref().map_or(0, |published| published.rows);
            answers.publishes.push(published);
        }
        answers
    }

    fn finish(
        &mut self,
        ids: &IdGenerator,
        now: Timestamp,
        finish: FinishDelivery,
    ) -> Result<bool, StoreError> {
        let delivery = self.delivery(finish.delivery)?;
        let Finish::Ends { is_told } = life::finish(&delivery, finish.state) else {
            return Ok(false);
        };
        self.set_state(finish.delivery, finish.state, now);
        if is_told {
            let endpoint = self.endpoints.get(&delivery.endpoint.as_u128());
            let url = endpoint.map_or_else(String::new, |row| row.endpoint.url.clone());
            self.tell(ids, now, &life::expired(&delivery, url), true, false);
        }
        Ok(true)
    }

    fn publish(
        &mut self,
        ids: &IdGenerator,
        now: Moment,
        new: NewEvent,
    ) -> Result<Published, StoreError> {
        let event = new.event;
        let idempotency = new.idempotency.map(|given| {
            let key = (event.application.as_u128(), given.key.clone());
            (key, given)
        });
        // Before all else is asked: the first answer holds, whatever was turned off or deleted since.
        if let Some((key, given)) = &idempotency
            && let Some(row) = self.idempotency.get(key)
        {
            return life::repeated(&row.first, given);
        }
        self.application(event.application)?;
        if !self.tenants.contains_key(&event.tenant.as_u128()) {
            return Err(StoreError::not_found(Entity::Tenant));
        }
        // The last that can be refused: nothing is changed before it.
        let recipients = self.targets(&event, new.target)?;
        self.last_sequence = life::next_place(self.last_sequence, now.steady);
        let rows = recipients.len();
        let mut deliveries = Vec::with_capacity(rows);
        for (endpoint, state) in recipients {
            let id = ids.next(now.wall);
            let delivery = life::accept(id, &event, endpoint, state, new.profile, now);
            self.insert_delivery(delivery.clone());
            // Skipped: it is in the log and in no lane.
            if state.is_final() {
                continue;
            }
            deliveries.push(DueDelivery {
                delivery,
                event: event.clone(),
                sequence: self.last_sequence,
            });
        }
        // Of those that are sent; the skipped ones are not among them.
        let count = u32::try_from(deliveries.len()).unwrap_or(u32::MAX);
        if let Some((key, given)) = idempotency {
            self.idempotency.insert(
                key,
                IdempotencyRow {
                    first: FirstUse {
                        event: event.id,
                        fingerprint: given.fingerprint,
                        count,
                    },
                    at: now.steady,
                },
            );
        }
        let id = event.id;
        self.events.insert(id.as_u128(), event);
        self.addressees.insert(id.as_u128(), new.target);
        Ok(Published {
            event: id,
            created: true,
            count,
            rows,
            work: rows,
            deliveries,
        })
    }

    pub(super) fn targets(
        &self,
        event: &Event,
        target: Target,
    ) -> Result<Vec<(Id<id::Endpoint>, DeliveryState)>, StoreError> {
        // Whoever names an endpoint is told that it takes nothing; the other targets then reach nobody.
        if let Target::Endpoint(id) = target {
            life::must_take(self.takes(id, event.tenant, Some(event.mode)))?;
        }
        let of_tenant = self.endpoints.values();
        let of_tenant = of_tenant.filter(|row| !row.deleted && row.endpoint.tenant == event.tenant);
        let offered = Offered::from(event);
        let begins = |row: &EndpointRow| {
            let candidate = Candidate::new(&row.endpoint, target);
            let state = candidate.begins(target, &offered)?;
            Some((row.endpoint.id, state))
        };
        Ok(of_tenant.filter_map(begins).collect())
    }

    /// Whether an endpoint of a tenant is enabled; none where it is not there, or not of the mode.
    pub(super) fn takes(
        &self,
        endpoint: Id<id::Endpoint>,
        tenant: Id<id::Tenant>,
        mode: Option<Mode>,
    ) -> Option<bool> {
        let row = self.endpoints.get(&endpoint.as_u128());
        let row = row.filter(|row| !row.deleted && row.endpoint.tenant == tenant)?;
        let of_mode = mode.is_none_or(|mode| mode == row.endpoint.mode);
        of_mode.then(|| row.endpoint.health.is_enabled())
    }

    pub(super) fn insert_delivery(&mut self, delivery: Delivery) {
        let sequence = self.last_sequence;
        if delivery.state == DeliveryState::Pending {
            self.pending.insert(
                (delivery.endpoint.as_u128(), sequence, delivery.id.as_u128()),
                (),
            );
        }
        self.deliveries
            .insert(delivery.id.as_u128(), DeliveryRow { delivery, sequence });
    }

    fn record(
        &mut self,
        ids: &IdGenerator,
        now: Timestamp,
        record: RecordAttempt,
    ) -> Result<Recorded, StoreError> {
        let failure = Failure::from(&record);
        let row = self
            .deliveries
            .get(&record.delivery.as_u128())
            .ok_or(StoreError::not_found(Entity::Delivery))?;
        let head = Head {
            attempts: row.delivery.attempts,
            state: row.delivery.state,
        };
        let Some(recording) = life::record(head, &record, now) else {
            let number = record.attempt.number;
            return Ok(Recorded::not_applied(head.attempts, number));
        };
        if let Some(change) = recording.change {
            self.set_state(record.delivery, change.state, now);
        }
        let row = self
            .deliveries
            .get_mut(&record.delivery.as_u128())
            .ok_or(StoreError::not_found(Entity::Delivery))?;
        row.delivery.attempts = record.attempt.number;
        if let Some(change) = recording.change {
            row.delivery.series = change.series;
            row.delivery.completed_at = change.completed_at;
            row.delivery.due_at = change.due_at.unwrap_or(row.delivery.due_at);
            if let Some(place) = change.place {
                let (endpoint, id) = (row.delivery.endpoint.as_u128(), row.delivery.id.as_u128());
                // The index goes by place, so what it has moves along.
                self.pending.remove(&(endpoint, row.sequence, id));
                row.sequence = place.as_micros();
                self.pending.insert((endpoint, row.sequence, id), ());
            }
        }
        let sent_to = Address::of(&record.attempt.url);
        self.attempts
            .entry(record.delivery.as_u128())
            .or_default()
            .push(record.attempt);
        let endpoint = self.endpoints.get_mut(&record.endpoint.as_u128());
        // Of a deleted one nothing counts any more.
        let endpoint = endpoint.filter(|row| !row.deleted);
        let before = endpoint.as_ref().map(|row| row.endpoint.clone());
        let apply = |row: &mut EndpointRow| {
            let change = recording.counts(sent_to, Address::of(&row.endpoint.url));
            row.endpoint.health.apply(change, record.rule, now)
        };
        let disabled = endpoint.and_then(apply);
        if disabled.is_some() {
            let after = self.endpoints.get(&record.endpoint.as_u128());
            let after = after.map(|row| row.endpoint.clone());
            self.note(ids, &Actor::system(now), before.as_ref(), after.as_ref());
        }
        self.tell(ids, now, &failure, recording.is_told, disabled.is_some());
        Ok(Recorded {
            applied: true,
            is_behind: false,
            ended: recording.ends(),
            disabled,
        })
    }

    fn set_state(&mut self, id: Id<id::Delivery>, state: DeliveryState, now: Timestamp) {
        let Some(row) = self.deliveries.get_mut(&id.as_u128()) else {
            return;
        };
        let place = (row.delivery.endpoint.as_u128(), row.sequence, id.as_u128());
        row.delivery.state = state;
        if state.is_final() {
            row.delivery.completed_at = Some(now);
            self.pending.remove(&place);
        } else {
            row.delivery.completed_at = None;
            self.pending.insert(place, ());
        }
    }

    pub(super) fn resend(
        &mut self,
        now: Moment,
        resend: Resend,
    ) -> Result<DueDelivery, StoreError> {
        let delivery = self.delivery(resend.delivery)?;
        let endpoint = self.takes(delivery.endpoint, delivery.tenant, None);
        let event = self.event(delivery.event)?;
        let again = life::resend(&delivery, &event, endpoint, &resend, now)?;
        let now = now.steady;
        self.last_sequence = life::next_place(self.last_sequence, now);
        let sequence = self.last_sequence;
        if let Some(row) = self.deliveries.get_mut(&resend.delivery.as_u128()) {
            // Before the state, with which it is entered under its place.
            row.sequence = sequence;
            row.delivery = again;
        }
        self.set_state(resend.delivery, DeliveryState::Pending, now);
        self.due(resend.delivery.as_u128())
            .ok_or(StoreError::not_found(Entity::Event))
    }

    fn due(&self, id: u128) -> Option<DueDelivery> {
        let row = self.deliveries.get(&id)?;
        let event = self.events.get(&row.delivery.event.as_u128())?.clone();
        Some(DueDelivery {
            delivery: row.delivery.clone(),
            event,
            sequence: row.sequence,
        })
    }

    pub(super) fn last_place(&self) -> Timestamp {
        Timestamp::from_micros(self.last_sequence)
    }

    pub(super) fn load_due(&self, query: LoadDue) -> DuePage {
        let endpoint = query.endpoint.as_u128();
        let mut places = self
            .pending
            .range((endpoint, query.from.as_micros(), 0)..=(endpoint, i64::MAX, u128::MAX))
            .map(|(place, ())| *place)
            .peekable();
        let mut rows = Vec::new();
        let mut bytes = 0;
        // Only looked at: the first that is not among the rows is what `next` tells.
        while let Some((_, place, id)) = places.peek().copied() {
            let is_full = rows.len() >= query.limit as usize || bytes >= query.bytes;
            if is_full || place > query.until.as_micros() {
                break;
            }
            if let Some(due) = self.due(id) {
                bytes += due.event.payload_bytes();
                rows.push(due);
            }
            places.next();
        }
        DuePage {
            rows,
            next: places
                .next()
                .map(|(_, place, _)| Timestamp::from_micros(place)),
        }
    }

    pub(super) fn backlog(&self) -> Vec<LaneBacklog> {
        let mut lanes: Vec<LaneBacklog> = Vec::new();
        for (endpoint, place, _) in self.pending.keys() {
            let endpoint = Id::from_u128(*endpoint);
            if lanes.last().is_none_or(|lane| lane.endpoint != endpoint) {
                lanes.push(LaneBacklog {
                    endpoint,
                    first: Timestamp::from_micros(*place),
                });
            }
        }
        lanes
    }

    pub(super) fn finish_pending(
        &mut self,
        ids_of: &IdGenerator,
        endpoint: Id<id::Endpoint>,
        state: DeliveryState,
        now: Timestamp,
        limit: u32,
    ) -> u32 {
        let endpoint = endpoint.as_u128();
        let row = self.endpoints.get(&endpoint).cloned();
        let told = match &row {
            // It was erased: nobody is left to be told.
            None => false,
            Some(row) => match life::gives_out(&row.endpoint, row.deleted, state) {
                None => return 0,
                Some(is_told) => is_told,
            },
        };
        let range = (endpoint, i64::MIN, 0)..=(endpoint, i64::MAX, u128::MAX);
        let ids: Vec<u128> = self
            .pending
            .range(range)
            .map(|((_, _, id), ())| *id)
            .take(limit as usize)
            .collect();
        for id in &ids {
            self.set_state(Id::from_u128(*id), state, now);
            let waiting = self.deliveries.get(id).filter(|_| told);
            let (Some(row), Some(waiting)) = (&row, waiting) else {
                continue;
            };
            let delivery = &waiting.delivery;
            let by_hand = delivery.series.single;
            let failure = life::waited(delivery.id, delivery.attempts, &row.endpoint);
            self.tell(ids_of, now, &failure, !by_hand, false);
        }
        u32::try_from(ids.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn event(&self, id: Id<id::Event>) -> Result<Event, StoreError> {
        let event = self
            .events
            .get(&id.as_u128())
            .ok_or(StoreError::not_found(Entity::Event))?;
        Ok(Arc::unwrap_or_clone(event.clone()))
    }

    pub(super) fn delivery(&self, id: Id<id::Delivery>) -> Result<Delivery, StoreError> {
        let row = self
            .deliveries
            .get(&id.as_u128())
            .ok_or(StoreError::not_found(Entity::Delivery))?;
        Ok(row.delivery.clone())
    }

    pub(super) fn list_events(
        &self,
        filter: &EventFilter,
        page: PageRequest,
    ) -> Result<Page<EventSummary>, StoreError> {
        let query = query_digest(filter);
        let after = page.after(query)?.unwrap_or(u128::MAX);
        let matches = |event: &&Arc<Event>| {
            filter.application.is_none_or(|id| id == event.application)
                && filter.tenant.is_none_or(|id| id == event.tenant)
                && filter
                    .event_type
                    .as_deref()
                    .is_none_or(|name| *name == *event.event_type)
                && filter.mode.is_none_or(|mode| mode == event.mode)
                && filter.since.is_none_or(|at| event.created_at >= at)
                && filter.until.is_none_or(|at| event.created_at < at)
        };
        let rows = self
            .events
            .range(..after)
            .rev()
            .map(|(_, event)| event)
            .filter(matches);
        let rows = rows
            .take(page.limit + 1)
            .map(|event| EventSummary::from(&**event))
            .collect();
        Ok(Page::cut(
            rows,
            page.limit,
            query,
            |event: &EventSummary| event.id.as_u128(),
        ))
    }

    pub(super) fn list_deliveries(
        &self,
        filter: &DeliveryFilter,
        page: PageRequest,
    ) -> Result<Page<Delivery>, StoreError> {
        let query = query_digest(filter);
        let after = page.after(query)?;
        // A delivery does not know its application: a deleted tenant's are none's.
        let application = |delivery: &Delivery| {
            self.tenants
                .get(&delivery.tenant.as_u128())
                .map(|tenant| tenant.application)
        };
        let matches = |delivery: &&Delivery| {
            filter
                .application
                .is_none_or(|id| Some(id) == application(delivery))
                && filter.tenant.is_none_or(|id| id == delivery.tenant)
                && filter.endpoint.is_none_or(|id| id == delivery.endpoint)
                && filter.event.is_none_or(|id| id == delivery.event)
                && filter
                    .event_type
                    .as_deref()
                    .is_none_or(|name| *name == *delivery.event_type)
                && filter.mode.is_none_or(|mode| mode == delivery.mode)
                && filter
                    .state
                    .is_none_or(|pattern| pattern.matches(delivery.state))
                && filter.answer.is_none_or(|wanted| {
                    let attempts = self.attempts.get(&delivery.id.as_u128());
                    let last = attempts.and_then(|attempts| attempts.last());
                    last.is_some_and(|last| wanted.matches(&last.outcome))
                })
                && filter.since.is_none_or(|at| delivery.created_at >= at)
                && filter.until.is_none_or(|at| delivery.created_at < at)
        };
        let rows: Vec<Delivery> = if filter.oldest_first {
            let from = after.map_or(0, |after| after + 1);
            let rows = self.deliveries.range(from..);
            let rows = rows.map(|(_, row)| &row.delivery).filter(matches);
            rows.take(page.limit + 1).cloned().collect()
        } else {
            let rows = self.deliveries.range(..after.unwrap_or(u128::MAX)).rev();
            let rows = rows.map(|(_, row)| &row.delivery).filter(matches);
            rows.take(page.limit + 1).cloned().collect()
        };
        Ok(Page::cut(rows, page.limit, query, |delivery: &Delivery| {
            delivery.id.as_u128()
        }))
    }
}
