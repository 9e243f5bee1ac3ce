//! The writes of the hot path.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use postrider_core::attempt::{Attempt, Outcome, Rendering};
use postrider_core::audit::Actor;
use postrider_core::delivery::{Delivery, DeliveryState};
use postrider_core::endpoint::Endpoint;
use postrider_core::event::Event;
use postrider_core::tenant::Mode;
use postrider_core::time::Moment;
use postrider_core::{Id, Timestamp, id};
use postrider_store::life::{self, Address, Change, Finish, Head, Offered, Recording};
use postrider_store::{
    Batch, DueDelivery, Entity, FinishDelivery, FirstUse, NewEvent, Published, RecordAttempt,
    Recorded, Resend, StoreError, Target,
};

use crate::convert::{
    DELIVERY, EVENT, aborted, addressee_number, delivery, event, header_lines, mode_number, state,
    state_numbers, to_json,
};
use crate::fanout::Recipient;
use crate::manage::write_health;
use crate::pieces::{Begun, piece};
use crate::read::{read_endpoint, read_first_use, read_first_uses};
use crate::segments::keys_text;
use crate::shares::{attempt_bytes, event_bytes, of_event};
use crate::sql::{Optional, Row, SqlResult, params};
use crate::writer::Tx;

/// So many names of event types are compared, and so many steps of content filters taken, in the time that a delivery is
/// written in, about. An event that reaches nobody is work too.
const LOOKS_OF_A_DELIVERY: usize = 256;
const STEPS_OF_A_DELIVERY: usize = 1_000;

impl Tx {
    pub(crate) fn finish(
        &mut self,
        now: Timestamp,
        finish: FinishDelivery,
    ) -> Result<bool, StoreError> {
        let key = self.key(finish.delivery, Entity::Delivery)?;
        // It changes below, and may have been read ahead for a record.
        self.heads.remove(&key);
        let found = self.due(key).map_err(aborted)?;
        let delivery = found
            .ok_or(StoreError::not_found(Entity::Delivery))?
            .delivery;
        let Finish::Ends { is_told } = life::finish(&delivery, finish.state) else {
            return Ok(false);
        };
        self.end(key, finish.state, now).map_err(aborted)?;
        if is_told {
            let endpoint = delivery.endpoint.key();
            let endpoint = read_endpoint(&self.connection, self.salt, endpoint).map_err(aborted)?;
            let url = endpoint.map_or_else(String::new, |(endpoint, _)| endpoint.url);
            let failure = life::expired(&delivery, url);
            self.tell(now, delivery.tenant.key(), &failure, true, false)
                .map_err(aborted)?;
        }
        Ok(true)
    }

    /// Writes an event with all of its deliveries, or a piece of one that has very many, which is not accepted yet: none. And
    /// what it took, in deliveries.
    pub(crate) fn publish(
        &mut self,
        now: Moment,
        new: &NewEvent,
    ) -> Result<(Option<Published>, usize), StoreError> {
        let event = &new.event;
        let application = self.key(event.application, Entity::Application)?;
        let tenant = self.key(event.tenant, Entity::Tenant)?;
        // First of all: a repetition gets the first answer, whatever has changed since.
        if let Some(idempotency) = &new.idempotency
            && let Some(first) = self.first_use(application, &idempotency.key)?
        {
            self.pieces.give_up(event.id.key());
            return Ok((Some(life::repeated(&first, idempotency)?), 0));
        }
        self.must_have_share(event.tenant.as_u128(), event_bytes(event, 0))?;
        let (mut begun, looked) = self.begin(now, new, tenant)?;
        let (made, mut deliveries) = self.make_piece(now, new, tenant, &mut begun)?;
        let work = made.max(looked);
        let rows = begun.recipients.len();
        if begun.made < rows {
            if begun.made == made {
                self.mark_begun(event.id.key()).map_err(aborted)?;
            }
            self.pieces.made(event.id.key(), begun, deliveries);
            return Ok((None, work));
        }
        if made < rows {
            self.mark_ended(event.id.key()).map_err(aborted)?;
            let mut all = self.pieces.deliveries(event.id.key());
            all.append(&mut deliveries);
            deliveries = all;
            self.pieces.ended(event.id.key());
        }
        self.insert_event(event, application, tenant, addressee_number(new.target))
            .map_err(aborted)?;
        let stored = event_bytes(event, rows);
        self.shares.note(event.tenant.as_u128(), of_event(stored));
        let count = u32::try_from(deliveries.len()).unwrap_or(u32::MAX);
        if let Some(idempotency) = &new.idempotency {
            let sql = "insert into idempotency (application_id, key, event_id, fingerprint, deliveries, at) values (?1, ?2, ?3, ?4, ?5, ?6)";
            let values = params![
                application,
                idempotency.key,
                event.id.key(),
                idempotency.fingerprint,
                count,
                now.steady.as_micros()
            ];
            self.connection
                .prepare_cached(sql)
                .and_then(|mut s| s.enqueue(values))
                .map_err(aborted)?;
            if let Some(uses) = &mut self.uses {
                let used = FirstUse {
                    event: event.id,
                    fingerprint: idempotency.fingerprint,
                    count,
                };
                uses.insert((application, idempotency.key.clone()), used);
            }
        }
        let published = Published {
            event: event.id,
            created: true,
            count,
            rows,
            work: rows.max(looked),
            deliveries,
        };
        Ok((Some(published), work))
    }

    /// What was made by the first event with an idempotency key.
    fn first_use(&self, application: i64, key: &str) -> Result<Option<FirstUse>, StoreError> {
        match &self.uses {
            Some(uses) => Ok(uses.get(&(application, key.to_owned())).cloned()),
            None => read_first_use(&self.connection, self.salt, application, key).map_err(aborted),
        }
    }

    /// Where an event is: at its beginning, or where its last piece has left it. And what it took to see who gets it, in
    /// deliveries.
    fn begin(
        &mut self,
        now: Moment,
        new: &NewEvent,
        tenant: i64,
    ) -> Result<(Begun, usize), StoreError> {
        let event = new.event.id.key();
        if let Some(begun) = self.pieces.begun(event).cloned() {
            // Deleted since: nobody would erase what is written now.
            self.must_have_tenant(tenant)?;
            return Ok((begun, 0));
        }
        let (recipients, looked) = self.targets(&new.event, tenant, new.target)?;
        self.last_sequence = life::next_place(self.last_sequence, now.steady);
        let begun = Begun {
            recipients: Arc::new(recipients),
            sequence: self.last_sequence,
            made: 0,
        };
        Ok((begun, looked))
    }

    fn must_have_tenant(&mut self, tenant: i64) -> Result<(), StoreError> {
        let audience = self.fanout.audience(&self.connection, tenant);
        let found = audience.map_err(aborted)?;
        found.map(drop).ok_or(StoreError::not_found(Entity::Tenant))
    }

    /// Makes the next deliveries of an event; returns how many, and those that lanes are to be told of.
    fn make_piece(
        &mut self,
        now: Moment,
        new: &NewEvent,
        tenant: i64,
        begun: &mut Begun,
    ) -> Result<(usize, Vec<DueDelivery>), StoreError> {
        let recipients = begun.recipients.clone();
        let most = piece(self.commit_takes);
        let piece = recipients.iter().skip(begun.made).take(most);
        let (mut made, mut deliveries) = (0, Vec::with_capacity(piece.len()));
        for (endpoint, state) in piece {
            made += 1;
            let id = self.ids.next(now.wall);
            let of = self.id(*endpoint);
            let delivery = life::accept(id, &new.event, of, *state, new.profile, now);
            self.insert_delivery(&delivery, tenant, *endpoint, begun.sequence)
                .map_err(aborted)?;
            // It was skipped: stored, and nothing for a lane.
            if state.is_final() {
                continue;
            }
            deliveries.push(DueDelivery {
                delivery,
                event: new.event.clone(),
                sequence: begun.sequence,
            });
        }
        begun.made += made;
        Ok((made, deliveries))
    }

    /// Who gets an event; and what it took to see that, in deliveries.
    fn targets(
        &mut self,
        event: &Event,
        tenant: i64,
        target: Target,
    ) -> Result<(Vec<(i64, DeliveryState)>, usize), StoreError> {
        if let Target::Endpoint(id) = target {
            let key = self.key(id, Entity::Endpoint)?;
            // It may be a callback, and those are not among the recipients.
            life::must_take(self.takes(key, tenant, Some(event.mode))?)?;
            return Ok((vec![(key, DeliveryState::Pending)], 1));
        }
        let audience = self
            .fanout
            .audience(&self.connection, tenant)
            .map_err(aborted)?;
        let audience = audience.ok_or(StoreError::not_found(Entity::Tenant))?;
        let named = match target {
            Target::IfEnabled(id) => Some(id.key()),
            Target::Matching | Target::Distributions | Target::Nobody | Target::Endpoint(_) => None,
        };
        let offered = Offered::from(event);
        let begins = |r: &Recipient| {
            let candidate = r.candidate(named == Some(r.endpoint));
            let state = candidate.begins(target, &offered)?;
            Some((r.endpoint, state))
        };
        let begin = audience.recipients.iter().filter_map(begins).collect();
        let steps = usize::try_from(offered.content.steps_taken()).unwrap_or(usize::MAX);
        let looked = audience.looks / LOOKS_OF_A_DELIVERY + steps / STEPS_OF_A_DELIVERY;
        Ok((begin, looked))
    }

    /// Whether an endpoint of a tenant is enabled; none where it is not there, or not of the mode.
    pub(crate) fn takes(
        &self,
        endpoint: i64,
        tenant: i64,
        mode: Option<Mode>,
    ) -> Result<Option<bool>, StoreError> {
        // The cast tells PostgreSQL what the value is, where it is only compared with nothing.
        let sql = "select disabled_reason is null from endpoint where id = ?1 and tenant_id = ?2
                   and deleted = 0 and (cast(?3 as bigint) is null or mode = ?3)";
        let mut statement = self.connection.prepare_cached(sql).map_err(aborted)?;
        let values = params![endpoint, tenant, mode.map(mode_number)];
        let found = statement.query_row(values, |row| row.get(0)).optional();
        found.map_err(aborted)
    }

    fn insert_event(
        &mut self,
        event: &Event,
        application: i64,
        tenant: i64,
        addressee: i64,
    ) -> SqlResult<()> {
        let sql = "insert into event (id, application_id, tenant_id, type, mode, occurred_at, created_at, ordering_key, deliver_before, data, meta, addressee, traceparent)
                   values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)";
        let mut statement = self.connection.prepare_cached(sql)?;
        statement.enqueue(params![
            event.id.key(),
            application,
            tenant,
            &*event.event_type,
            mode_number(event.mode),
            event.occurred_at.as_micros(),
            event.created_at.as_micros(),
            event.ordering_key,
            event.deliver_before.map(Timestamp::as_micros),
            &*event.data,
            event.meta.as_deref(),
            addressee,
            event.traceparent.map(|trace| trace.to_string()),
        ])?;
        drop(statement);
        // If this is rolled back the count is too great; it is made anew with the next piece.
        self.unentered.events += 1;
        self.enter_late(event.id.key(), tenant)
    }

    pub(crate) fn insert_delivery(
        &mut self,
        delivery: &Delivery,
        tenant: i64,
        endpoint: i64,
        sequence: i64,
    ) -> SqlResult<()> {
        let sql = "insert into delivery (id, event_id, endpoint_id, tenant_id, event_type, profile, state, attempts, due_at, sequence,
                   series_attempts, series_single, created_at, mode, completed_at) values (?1, ?2, ?3, ?4, ?5, ?6, ?11, 0, ?7, ?8, 0, 0, ?9, ?10, ?12)";
        let mut statement = self.connection.prepare_cached(sql)?;
        statement.enqueue(params![
            delivery.id.key(),
            delivery.event.key(),
            endpoint,
            tenant,
            &*delivery.event_type,
            delivery.profile,
            delivery.due_at.as_micros(),
            sequence,
            delivery.created_at.as_micros(),
            mode_number(delivery.mode),
            state_numbers(delivery.state).0,
            delivery.completed_at.map(Timestamp::as_micros),
        ])?;
        drop(statement);
        self.unentered.deliveries += 1;
        Ok(())
    }

    pub(crate) fn record(
        &mut self,
        now: Timestamp,
        record: &RecordAttempt,
    ) -> Result<Recorded, StoreError> {
        let key = self.key(record.delivery, Entity::Delivery)?;
        let found = self.head(key).map_err(aborted)?;
        let (tenant, head) = found.ok_or(StoreError::not_found(Entity::Delivery))?;
        let Some(recording) = life::record(head, record, now) else {
            let number = record.attempt.number;
            return Ok(Recorded::not_applied(head.attempts, number));
        };
        // What was answered is the customer's to make large; that an attempt was made is recorded in any case.
        let holder = Id::<id::Tenant>::from_key(tenant, self.salt).as_u128();
        let has_answer = self.shares.may(holder, 0);
        self.insert_attempt(key, &record.attempt, has_answer)
            .map_err(aborted)?;
        let stored = attempt_bytes(&record.attempt, has_answer);
        self.shares.note(holder, of_event(stored));
        self.note_outcome(key, &record.attempt);
        self.counted(key, || {
            self.update_delivery(key, record.attempt.number, recording.change)
        })
        .map_err(aborted)?;
        let disabled = self
            .apply_health(tenant, record, &recording, now)
            .map_err(aborted)?;
        if recording.is_told || disabled.is_some() {
            let (is_told, is_disabled) = (recording.is_told, disabled.is_some());
            self.tell(now, tenant, &record.into(), is_told, is_disabled)
                .map_err(aborted)?;
        }
        Ok(Recorded {
            applied: true,
            is_behind: false,
            ended: recording.ends(),
            disabled,
        })
    }

    /// What was looked at ahead is not true any more, or one by one it is better asked for.
    pub(crate) fn look_ahead_at_nothing(&mut self) {
        self.heads.clear();
        self.uses = None;
    }

    /// Reads what the writes of a batch need together: who gets its events, and where each question has a way to go all else.
    pub(crate) fn look_ahead(&mut self, batch: &Batch) -> SqlResult<()> {
        self.look_ahead_at_nothing();
        if self.connection.is_remote() {
            self.look_at_heads(&batch.records)?;
            self.look_at_uses(&batch.publishes)?;
        }
        let of_publishes = batch.publishes.iter();
        let of_publishes = of_publishes.filter_map(|new| new.event.tenant.key_in(self.salt));
        // Those of records are mostly known, and their heads tell whose they are.
        let of_records = self.heads.values().map(|(tenant, _)| *tenant);
        self.fanout
            .read_ahead(&self.connection, of_publishes.chain(of_records))
    }

    fn look_at_uses(&mut self, publishes: &[NewEvent]) -> SqlResult<()> {
        let keyed = publishes.iter().filter_map(|new| {
            let key = new.idempotency.as_ref()?.key.as_str();
            // One of another store, or which no column takes, is refused where it is written.
            let application = new.event.application.key_in(self.salt)?;
            (!key.contains('\0')).then_some((application, key))
        });
        let keyed: Vec<_> = keyed.collect();
        if !keyed.is_empty() {
            self.uses = Some(read_first_uses(&self.connection, self.salt, &keyed)?);
        }
        Ok(())
    }

    fn look_at_heads(&mut self, records: &[Arc<RecordAttempt>]) -> SqlResult<()> {
        let keys = records.iter();
        let keys: Vec<i64> = keys
            .filter_map(|record| record.delivery.key_in(self.salt))
            .collect();
        if keys.is_empty() {
            return Ok(());
        }
        let sql = "select tenant_id, attempts, state, reason, id from delivery where id in (select value from json_each(?1))";
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut heads = HashMap::with_capacity(keys.len());
        statement.each([keys_text(&keys)], |row| {
            // One that does not read is told of where it is needed.
            if let Ok(head) = head(row) {
                heads.insert(row.get(4)?, head);
            }
            Ok(ControlFlow::Continue(()))
        })?;
        drop(statement);
        self.heads = heads;
        Ok(())
    }

    /// A delivery's tenant, and what its record needs.
    fn head(&mut self, key: i64) -> SqlResult<Option<(i64, Head)>> {
        // Known of the first write only: that changes it.
        if let Some(known) = self.heads.remove(&key) {
            return Ok(Some(known));
        }
        let mut statement = self.connection.prepare_cached(
            "select tenant_id, attempts, state, reason from delivery where id = ?1",
        )?;
        statement.query_row([key], head).optional()
    }

    /// Writes an attempt; without `has_answer` as if nothing of the answer's headers and body had been kept.
    fn insert_attempt(&self, delivery: i64, attempt: &Attempt, has_answer: bool) -> SqlResult<()> {
        let sql = "insert into attempt (delivery_id, number, started_at, ended_at, url, request_headers, status, retry_after, reason, detail,
                   response_headers, response_body, truncated, dns_us, connect_us, tls_us, first_byte_us, total_us, manual,
                   region, local_address, rendering_id)
                   values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22)";
        let rendering = attempt.rendering.as_deref();
        let rendering = rendering
            .map(|rendering| self.rendering_id(rendering))
            .transpose()?;
        let (status, retry_after, reason, detail) = match &attempt.outcome {
            Outcome::Answered {
                status,
                retry_after_secs,
            } => (Some(*status), *retry_after_secs, None, None),
            Outcome::Unreachable { reason, detail } => {
                (None, None, Some(reason.as_str()), Some(detail.as_str()))
            }
        };
        let response = attempt.response.as_ref();
        let kept = response.map(|response| match has_answer {
            true => (header_lines(&response.headers), &*response.body),
            false => Default::default(),
        });
        let timings = attempt.timings;
        self.connection.prepare_cached(sql)?.enqueue(params![
            delivery,
            attempt.number,
            attempt.started_at.as_micros(),
            attempt.ended_at.as_micros(),
            attempt.url,
            header_lines(&attempt.request_headers),
            status,
            retry_after,
            reason,
            detail,
            kept.as_ref().map(|(headers, _)| headers),
            kept.as_ref().map(|(_, body)| *body),
            response.is_some_and(|response| response.truncated || !has_answer),
            timings.dns_micros,
            timings.connect_micros,
            timings.tls_micros,
            timings.first_byte_micros,
            timings.total_micros,
            attempt.manual,
            attempt
                .egress
                .as_ref()
                .and_then(|egress| egress.region.as_deref()),
            attempt
                .egress
                .as_ref()
                .map(|egress| egress.address.to_string()),
            rendering,
        ])?;
        Ok(())
    }

    fn rendering_id(&self, rendering: &Rendering) -> SqlResult<i64> {
        let text = to_json(rendering);
        // Looked for first: PostgreSQL has no unique index of texts as long as these.
        let mut known = self
            .connection
            .prepare_cached("select id from rendering where text = ?1")?;
        if let Some(id) = known.query_row([&text], |row| row.get(0)).optional()? {
            return Ok(id);
        }
        let sql = "insert into rendering (text) values (?1) returning id";
        self.connection.query_row(sql, [&text], |row| row.get(0))
    }

    fn update_delivery(&self, key: i64, attempts: u32, change: Option<Change>) -> SqlResult<()> {
        let Some(change) = change else {
            let sql = "update delivery set attempts = ?2 where id = ?1";
            let mut statement = self.connection.prepare_cached(sql)?;
            return statement.enqueue(params![key, attempts]);
        };
        let sql = "update delivery set state = ?2, reason = ?3, attempts = ?4, due_at = coalesce(?5, due_at), sequence = coalesce(?6, sequence),
                   series_attempts = ?7, series_started_at = ?8, series_single = ?9, completed_at = ?10 where id = ?1";
        let (number, reason) = state_numbers(change.state);
        self.connection.prepare_cached(sql)?.enqueue(params![
            key,
            number,
            reason,
            attempts,
            change.due_at.map(Timestamp::as_micros),
            change.place.map(Timestamp::as_micros),
            change.series.attempts,
            change.series.started_at.map(Timestamp::as_micros),
            change.series.single,
            change.completed_at.map(Timestamp::as_micros),
        ])?;
        Ok(())
    }

    fn apply_health(
        &mut self,
        tenant: i64,
        record: &RecordAttempt,
        recording: &Recording,
        now: Timestamp,
    ) -> SqlResult<Option<postrider_core::health::DisableReason>> {
        // Before its tenant is looked up, of whom nothing else may be known: one-off endpoints have no health.
        if !recording.is_of_health() {
            return Ok(None);
        }
        let endpoint = record.endpoint.key();
        let Some(audience) = self.fanout.audience(&self.connection, tenant)? else {
            return Ok(None);
        };
        // A callback or one that was deleted: neither is disabled by its failures.
        let Some(recipient) = audience.recipient(endpoint) else {
            return Ok(None);
        };
        let before = recipient.health;
        let change = recording.counts(Address::of(&record.attempt.url), recipient.address);
        // Known here before it is written: each failure from here on empties the cache.
        let disabled = recipient.health.apply(change, record.rule, now);
        let after = recipient.health;
        // A success on a healthy endpoint, by far the most common, writes nothing.
        if after != before {
            // That the server disabled it is a change of configuration like a person's.
            let known = match disabled {
                Some(_) => read_endpoint(&self.connection, self.salt, endpoint)?,
                None => None,
            };
            write_health(&self.connection, endpoint, &after)?;
            if let Some((before, _)) = known {
                let changed = Endpoint {
                    health: after,
                    ..before.clone()
                };
                self.note(&Actor::system(now), Some(&before), Some(&changed))?;
            }
        }
        Ok(disabled)
    }

    pub(crate) fn resend(
        &mut self,
        now: Moment,
        resend: Resend,
    ) -> Result<DueDelivery, StoreError> {
        let key = self.key(resend.delivery, Entity::Delivery)?;
        self.heads.remove(&key);
        let found = self
            .due(key)
            .map_err(aborted)?
            .ok_or(StoreError::not_found(Entity::Delivery))?;
        let (endpoint, tenant) = (found.delivery.endpoint.key(), found.delivery.tenant.key());
        let endpoint = self.takes(endpoint, tenant, None)?;
        let delivery = life::resend(&found.delivery, &found.event, endpoint, &resend, now)?;
        self.last_sequence = life::next_place(self.last_sequence, now.steady);
        let sequence = self.last_sequence;
        let sql = "update delivery set state = 0, reason = null, completed_at = null, due_at = ?2, sequence = ?3, series_attempts = ?4,
                   series_started_at = ?5, series_single = ?6 where id = ?1";
        let series = delivery.series;
        let values = params![
            key,
            delivery.due_at.as_micros(),
            sequence,
            series.attempts,
            series.started_at.map(Timestamp::as_micros),
            series.single
        ];
        let revive = || {
            let mut statement = self.connection.prepare_cached(sql)?;
            statement.execute(values).map(drop)
        };
        self.counted(key, revive).map_err(aborted)?;
        Ok(DueDelivery {
            delivery,
            event: found.event,
            sequence,
        })
    }

    fn due(&self, key: i64) -> SqlResult<Option<DueDelivery>> {
        let sql = format!(
            "select {DELIVERY}, {} from delivery d join event e on e.id = d.event_id where d.id = ?1",
            EVENT
        );
        let mut statement = self.connection.prepare_cached(&sql)?;
        statement
            .query_row([key], |row| due_row(row, self.salt))
            .optional()
    }

    pub(crate) fn finish_pending(
        &mut self,
        endpoint: Id<id::Endpoint>,
        state: DeliveryState,
        now: Timestamp,
        limit: u32,
    ) -> Result<u32, StoreError> {
        let key = self.key(endpoint, Entity::Endpoint)?;
        let found = read_endpoint(&self.connection, self.salt, key).map_err(aborted)?;
        // Erased with its tenant: so is what was pending.
        let Some((endpoint, deleted)) = found else {
            return Ok(0);
        };
        let Some(is_told) = life::gives_out(&endpoint, deleted, state) else {
            return Ok(0);
        };
        let waiting = self.waiting(key, limit).map_err(aborted)?;
        let count = u32::try_from(waiting.len()).unwrap_or(u32::MAX);
        // All at once: what has waited long is in segments, and each by itself would be five questions.
        let entered = waiting.iter().map(|(delivery, ..)| *delivery);
        let entered = entered.filter(|delivery| *delivery <= self.indexed_until);
        self.leave_tallies(&entered.collect()).map_err(aborted)?;
        for (delivery, attempts, by_hand) in waiting {
            self.end(delivery, state, now).map_err(aborted)?;
            if is_told && !by_hand {
                let failure = life::waited(self.id(delivery), attempts, &endpoint);
                self.tell(now, endpoint.tenant.key(), &failure, true, false)
                    .map_err(aborted)?;
            }
        }
        self.come_back().map_err(aborted)?;
        Ok(count)
    }

    /// The first pending deliveries of an endpoint: their keys, attempts, and whether they are resent
    /// by hand.
    fn waiting(&self, endpoint: i64, limit: u32) -> SqlResult<Vec<(i64, u32, bool)>> {
        let sql = "select id, attempts, series_single from delivery where endpoint_id = ?1 and state = 0 order by sequence limit ?2";
        let mut statement = self.connection.prepare_cached(sql)?;
        let row = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
        statement.query_all([endpoint, limit.into()], row)
    }

    /// Gives a delivery its final state.
    fn end(&self, delivery: i64, state: DeliveryState, now: Timestamp) -> SqlResult<()> {
        let (number, reason) = state_numbers(state);
        let sql = "update delivery set state = ?2, reason = ?3, completed_at = ?4 where id = ?1";
        let values = params![delivery, number, reason, now.as_micros()];
        self.counted(delivery, || {
            let mut statement = self.connection.prepare_cached(sql)?;
            statement.enqueue(values)
        })
    }
}

/// A row of `tenant_id, attempts, state, reason`.
fn head(row: &Row<'_>) -> SqlResult<(i64, Head)> {
    let head = Head {
        attempts: row.get(1)?,
        state: state(row, 2)?,
    };
    Ok((row.get(0)?, head))
}

/// A row of `DELIVERY, EVENT`.
pub(crate) fn due_row(row: &Row<'_>, salt: u64) -> SqlResult<DueDelivery> {
    Ok(DueDelivery {
        delivery: delivery(row, salt)?,
        sequence: row.get(15)?,
        event: Arc::new(event(row, crate::convert::DELIVERY_COLUMNS, salt)?),
    })
}
