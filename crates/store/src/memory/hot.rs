//! The way of an event through the model.

use std::sync::Arc;

use postrider_core::audit::Actor;
use postrider_core::delivery::{Delivery, DeliveryState};
use postrider_core::endpoint::{Endpoint, EndpointKind};
use postrider_core::event::{Event, EventSummary};
use postrider_core::health::HealthChange;
use postrider_core::id::IdGenerator;
use postrider_core::judge::Next;
use postrider_core::limits::ATTEMPTS_MAX;
use postrider_core::time::Moment;
use postrider_core::{Id, Timestamp, id};

use super::{DeliveryRow, IdempotencyRow, State};
use crate::queries::query_digest;
use crate::{
    DeliveryFilter, DueDelivery, DuePage, EXPIRED_TEXT, Entity, EventFilter, Failure,
    FinishDelivery, FirstUse, LaneBacklog, LoadDue, NewEvent, Page, PageRequest, Published,
    RecordAttempt, Recorded, Resend, Rule, StoreError, Target, Write, Written, beginning,
    failed_for_good, gave_out_text, tells_of_waiting,
};

impl State {
    pub(super) fn write(
        &mut self,
        ids: &IdGenerator,
        now: Moment,
        write: Write,
    ) -> Result<Written, StoreError> {
        match write {
            Write::Publish(new) => self.publish(ids, now, *new).map(Written::Published),
            Write::Record(record) => self.record(ids, now.wall, *record).map(Written::Recorded),
            Write::Finish(finish) => self.finish(ids, now.wall, finish).map(Written::Finished),
            Write::Resend(resend) => self.resend(now.steady, resend).map(Written::Resent),
            Write::CatchUp(missed) => self.catch_up(ids, now, missed).map(Written::Resent),
        }
    }

    fn finish(
        &mut self,
        ids: &IdGenerator,
        now: Timestamp,
        finish: FinishDelivery,
    ) -> Result<bool, StoreError> {
        let delivery = self.delivery(finish.delivery)?;
        if delivery.state != DeliveryState::Pending {
            return Ok(false);
        }
        self.set_state(finish.delivery, finish.state, now);
        if failed_for_good(delivery.series.single, delivery.state, finish.state) {
            let endpoint = self.endpoints.get(&delivery.endpoint.as_u128());
            let failure = Failure {
                endpoint: delivery.endpoint,
                delivery: delivery.id,
                url: endpoint.map_or_else(String::new, |row| row.endpoint.url.clone()),
                attempts: delivery.attempts,
                error: EXPIRED_TEXT.to_owned(),
            };
            self.tell(ids, now, &failure, true, false);
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
        let idempotency = new
            .idempotency
            .map(|given| ((event.application.as_u128(), given.key), given.fingerprint));
        if let Some((key, fingerprint)) = &idempotency
            && let Some(row) = self.idempotency.get(key)
        {
            if row.first.fingerprint != *fingerprint {
                return Err(StoreError::conflict(Rule::IdempotencyKeyReused));
            }
            return Ok(Published {
                event: row.first.event,
                created: false,
                count: row.first.count,
                deliveries: Vec::new(),
            });
        }
        self.application(event.application)?;
        if !self.tenants.contains_key(&event.tenant.as_u128()) {
            return Err(StoreError::not_found(Entity::Tenant));
        }
        let recipients = self.targets(&event, new.target)?;
        self.last_sequence = now.steady.as_micros().max(self.last_sequence + 1);
        let mut deliveries = Vec::with_capacity(recipients.len());
        for (endpoint, state) in recipients {
            let delivery = Delivery {
                state,
                completed_at: state.is_final().then_some(now.wall),
                ..Delivery::new(ids.next(now.wall), &event, endpoint, new.profile, now)
            };
            self.insert_delivery(delivery.clone());
            if state.is_final() {
                continue;
            }
            deliveries.push(DueDelivery {
                delivery,
                event: event.clone(),
                sequence: self.last_sequence,
            });
        }
        let count = u32::try_from(deliveries.len()).unwrap_or(u32::MAX);
        if let Some((key, fingerprint)) = idempotency {
            self.idempotency.insert(
                key,
                IdempotencyRow {
                    first: FirstUse {
                        event: event.id,
                        fingerprint,
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
            deliveries,
        })
    }

    pub(super) fn targets(
        &self,
        event: &Event,
        target: Target,
    ) -> Result<Vec<(Id<id::Endpoint>, DeliveryState)>, StoreError> {
        match target {
            Target::Endpoint(id) => {
                let row = self
                    .endpoints
                    .get(&id.as_u128())
                    .filter(|row| !row.deleted && row.endpoint.tenant == event.tenant)
                    .filter(|row| row.endpoint.mode == event.mode);
                let row = row.ok_or(StoreError::not_found(Entity::Endpoint))?;
                if !row.endpoint.health.is_enabled() {
                    return Err(StoreError::conflict(Rule::EndpointDisabled));
                }
                Ok(vec![(id, DeliveryState::Pending)])
            }
            Target::Nobody => Ok(Vec::new()),
            Target::IfEnabled(id) => {
                let row = self.endpoints.get(&id.as_u128()).filter(|row| {
                    !row.deleted
                        && row.endpoint.kind != EndpointKind::Callback
                        && row.endpoint.tenant == event.tenant
                        && row.endpoint.mode == event.mode
                        && row.endpoint.health.is_enabled()
                });
                let live = row.map(|_| (id, DeliveryState::Pending));
                Ok(live.into_iter().collect())
            }
            Target::Matching | Target::Distributions => {
                let chosen = self
                    .endpoints
                    .values()
                    .filter(|row| !row.deleted)
                    .filter(|row| match row.endpoint.kind {
                        EndpointKind::Registered => target == Target::Matching,
                        EndpointKind::Distribution(_) => target == Target::Distributions,
                        EndpointKind::Callback | EndpointKind::Key(_) => false,
                    })
                    .map(|row| &row.endpoint)
                    .filter(|e| e.tenant == event.tenant && e.mode == event.mode)
                    .filter(|e| e.subscription.matches(&event.event_type));
                let begins = |e: &Endpoint| {
                    let state = beginning(target, e.health.is_enabled())?;
                    Some((e.id, state))
                };
                Ok(chosen.filter_map(begins).collect())
            }
        }
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
        let number = record.attempt.number;
        let by_hand = record.series.single;
        let failure = Failure::from(&record);
        let row = self
            .deliveries
            .get(&record.delivery.as_u128())
            .ok_or(StoreError::not_found(Entity::Delivery))?;
        let (attempts, state) = (row.delivery.attempts, row.delivery.state);
        if attempts + 1 != number {
            return Ok(Recorded {
                applied: false,
                disabled: None,
            });
        }
        self.attempts
            .entry(record.delivery.as_u128())
            .or_default()
            .push(record.attempt);
        // A delivery that was ended while its attempt ran stays ended, unless the attempt succeeded.
        let ended = state != DeliveryState::Pending;
        let stays = ended && record.next != Next::Delivered;
        let next_state = if stays { state } else { record.next.state() };
        if !stays {
            self.set_state(record.delivery, next_state, now);
        }
        let row = self
            .deliveries
            .get_mut(&record.delivery.as_u128())
            .ok_or(StoreError::not_found(Entity::Delivery))?;
        row.delivery.attempts = number;
        if !stays {
            row.delivery.series = record.series;
        }
        if let (Next::Retry { at }, false) = (record.next, ended) {
            row.delivery.due_at = at;
            if !record.keep_place {
                let (endpoint, id) = (row.delivery.endpoint.as_u128(), row.delivery.id.as_u128());
                self.pending.remove(&(endpoint, row.sequence, id));
                row.sequence = at.as_micros();
                self.pending.insert((endpoint, row.sequence, id), ());
            }
        }
        let health = if ended && record.health != HealthChange::Success {
            HealthChange::None
        } else {
            record.health
        };
        let endpoint = self.endpoints.get_mut(&record.endpoint.as_u128());
        let endpoint = endpoint.filter(|row| !row.deleted);
        let before = endpoint.as_ref().map(|row| row.endpoint.clone());
        let disabled = endpoint.and_then(|row| row.endpoint.health.apply(health, record.rule, now));
        if disabled.is_some() {
            let after = self.endpoints.get(&record.endpoint.as_u128());
            let after = after.map(|row| row.endpoint.clone());
            self.note(ids, &Actor::system(now), before.as_ref(), after.as_ref());
        }
        let failed = failed_for_good(by_hand, state, next_state);
        self.tell(ids, now, &failure, failed, disabled.is_some());
        Ok(Recorded {
            applied: true,
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
        now: Timestamp,
        resend: Resend,
    ) -> Result<DueDelivery, StoreError> {
        let row = self
            .deliveries
            .get(&resend.delivery.as_u128())
            .ok_or(StoreError::not_found(Entity::Delivery))?;
        let is_as_seen = row.delivery.attempts == resend.attempts;
        if row.delivery.state == DeliveryState::Pending || !is_as_seen {
            return Err(StoreError::conflict(Rule::DeliveryPending));
        }
        if row.delivery.attempts >= ATTEMPTS_MAX {
            return Err(StoreError::conflict(Rule::AttemptsMax));
        }
        let endpoint = self
            .endpoints
            .get(&row.delivery.endpoint.as_u128())
            .filter(|row| !row.deleted);
        if !endpoint
            .ok_or(StoreError::not_found(Entity::Endpoint))?
            .endpoint
            .health
            .is_enabled()
        {
            return Err(StoreError::conflict(Rule::EndpointDisabled));
        }
        self.last_sequence = now.as_micros().max(self.last_sequence + 1);
        let sequence = self.last_sequence;
        if let Some(row) = self.deliveries.get_mut(&resend.delivery.as_u128()) {
            row.sequence = sequence;
            row.delivery.due_at = now;
            row.delivery.series = resend.series;
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
        let row = self.endpoints.get(&endpoint);
        let goes_on = |endpoint: &Endpoint| endpoint.health.is_enabled() || endpoint.is_held();
        if row.is_some_and(|row| !row.deleted && goes_on(&row.endpoint)) {
            return 0;
        }
        let told = row
            .filter(|row| !row.deleted && tells_of_waiting(state, row.endpoint.health))
            .map(|row| (row.endpoint.url.clone(), row.endpoint.kind.class()));
        let range = (endpoint, i64::MIN, 0)..=(endpoint, i64::MAX, u128::MAX);
        let ids: Vec<u128> = self
            .pending
            .range(range)
            .map(|((_, _, id), ())| *id)
            .take(limit as usize)
            .collect();
        for id in &ids {
            self.set_state(Id::from_u128(*id), state, now);
            let (Some((url, class)), Some(row)) = (&told, self.deliveries.get(id)) else {
                continue;
            };
            let failure = Failure {
                endpoint: row.delivery.endpoint,
                delivery: row.delivery.id,
                url: url.clone(),
                attempts: row.delivery.attempts,
                error: gave_out_text(*class).to_owned(),
            };
            self.tell(ids_of, now, &failure, !row.delivery.series.single, false);
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
