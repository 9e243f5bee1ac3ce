//! Reading: what each question asks of the database.

mod endpoints;
mod list;
mod log;
mod manage;
mod pool;
mod sessions;
mod statistics;
mod users;

pub(crate) use endpoints::{ENDPOINT, endpoint_row, health, read_endpoint, read_key_endpoint};
pub(crate) use log::{AUDIT, NOTICE, audit_row, class_number, notice_row};
pub(crate) use manage::{
    API_KEY, APPLICATION, EVENT_TYPE, TASK, TENANT, application_row, event_type_row, key_row,
    read_application, read_key, read_tenant, root_key_exists, tenant_row,
};
pub(crate) use pool::{Readers, Source};
pub(crate) use sessions::{SESSION, session_row};
pub(crate) use users::{USER, role_number, user_row};

use std::collections::{BTreeSet, HashMap};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use postrider_core::attempt::{Attempt, Rendering};
use postrider_core::delivery::Delivery;
use postrider_core::event::{Event, EventSummary};
use postrider_core::filter::Content;
use postrider_core::{Id, id};
use postrider_store::life::{self, Offered};
use postrider_store::queries::query_digest;
use postrider_store::{
    Counted, DeliveryFilter, DueDelivery, DuePage, Entity, EventFilter, FirstUse, LaneBacklog,
    LoadDue, MissedPage, MissedQuery, Page, PageRequest, StoreError, TaskState,
};

use crate::convert::{
    ATTEMPT, DELIVERY, EVENT, EVENT_SUMMARY, addressee, attempt, delivery, event, event_summary,
    from_json, is_unreadable, mode, mode_number, reading, state, time, to_json,
};
use crate::sql::{Connection, Optional, Params, Row, SqlResult, params};
use crate::write::due_row;
pub(crate) use list::key_before;
use list::{
    Conditions, DELIVERIES_OF_ENDPOINT, DELIVERIES_OF_TENANT, EVENTS_OF_TENANT, Order, first_key,
};

/// Rows by their keys, or why one cannot be read.
type ByKey<T> = HashMap<i64, Result<T, StoreError>>;

/// What was found for a key, for one of those who have it in common.
fn found_for<T: Clone>(found: &ByKey<T>, key: i64, entity: Entity) -> Result<T, StoreError> {
    match found.get(&key) {
        Some(Ok(found)) => Ok(found.clone()),
        Some(Err(error)) => Err(error.copied()),
        None => Err(StoreError::not_found(entity)),
    }
}

/// One connection, and how it is asked.
pub(crate) struct Reader {
    pub(crate) connection: Connection,
    pub(crate) salt: u64,
    /// How far ids have been ahead of the clock.
    pub(crate) ahead: Duration,
}

/// What an idempotency key was used for.
pub(crate) fn read_first_use(
    connection: &Connection,
    salt: u64,
    application: i64,
    key: &str,
) -> SqlResult<Option<FirstUse>> {
    let sql = "select event_id, fingerprint, deliveries from idempotency where application_id = ?1 and key = ?2";
    let mut statement = connection.prepare_cached(sql)?;
    statement
        .query_row(params![application, key], |row| first_use(row, salt))
        .optional()
}

/// The same of many in one question, where each has a way to go: of an application and a key each, and in PostgreSQL's words.
pub(crate) fn read_first_uses(
    connection: &Connection,
    salt: u64,
    keys: &[(i64, &str)],
) -> SqlResult<HashMap<(i64, String), FirstUse>> {
    let sql = "select event_id, fingerprint, deliveries, application_id, key from idempotency where (application_id, key) in
               (select cast(pair->>0 as bigint), pair->>1 from json_array_elements(cast(cast(?1 as text) as json)) as pairs(pair))";
    let mut statement = connection.prepare_cached(sql)?;
    let found = statement.query_all([to_json(&keys)], |row| {
        Ok(((row.get(3)?, row.get(4)?), first_use(row, salt)?))
    })?;
    Ok(found.into_iter().collect())
}

fn first_use(row: &Row<'_>, salt: u64) -> SqlResult<FirstUse> {
    Ok(FirstUse {
        event: Id::from_key(row.get(0)?, salt),
        fingerprint: row.get(1)?,
        count: row.get(2)?,
    })
}

pub(crate) fn task_state(state: &TaskState) -> (i64, Option<&str>) {
    match state {
        TaskState::Running => (0, None),
        TaskState::Finished => (1, None),
        TaskState::Failed(error) => (2, Some(error)),
        TaskState::Cancelled => (3, None),
    }
}

/// Rows of which those that do not read are left out.
struct ThatRead<T> {
    rows: Vec<T>,
    /// With those that were left out; and the key of the last of all.
    looked_at: usize,
    last: Option<i64>,
    left_out: Vec<i64>,
}

impl<T> Default for ThatRead<T> {
    fn default() -> Self {
        Self {
            rows: Vec::new(),
            looked_at: 0,
            last: None,
            left_out: Vec::new(),
        }
    }
}

impl Reader {
    pub(crate) fn new(connection: Connection, salt: u64, ahead: Duration) -> Self {
        Self {
            connection,
            salt,
            ahead,
        }
    }

    /// The id of a row, of whatever kind.
    pub(crate) fn id_of(&self, key: i64) -> u128 {
        Id::<()>::from_key(key, self.salt).as_u128()
    }

    fn key<K>(&self, id: Id<K>, entity: Entity) -> Result<i64, StoreError> {
        id.key_in(self.salt).ok_or(StoreError::not_found(entity))
    }

    /// One row by the key of its id.
    fn one<K, T>(
        &self,
        sql: &str,
        id: Id<K>,
        entity: Entity,
        row: impl FnOnce(&Row<'_>) -> SqlResult<T>,
    ) -> Result<T, StoreError> {
        let key = self.key(id, entity)?;
        self.find(sql, params![key], entity, row)
    }

    /// Rows of some keys in one question; the first column is the key. A row that does not read costs no other.
    fn by_key<T>(
        &self,
        sql: &str,
        keys: impl Iterator<Item = i64>,
        mut row: impl FnMut(&Row<'_>) -> SqlResult<T>,
    ) -> SqlResult<ByKey<T>> {
        // Each once, however often it is named.
        let keys: BTreeSet<i64> = keys.collect();
        let mut found = HashMap::with_capacity(keys.len());
        if keys.is_empty() {
            return Ok(found);
        }
        let mut statement = self.connection.prepare_cached(sql)?;
        statement.each([to_json(&keys)], |each| {
            let read = match row(each) {
                Err(error) if !is_unreadable(&error) => return Err(error),
                read => read.map_err(reading),
            };
            found.insert(each.get(0)?, read);
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(found)
    }

    fn find<T>(
        &self,
        sql: &str,
        values: impl Params,
        entity: Entity,
        row: impl FnOnce(&Row<'_>) -> SqlResult<T>,
    ) -> Result<T, StoreError> {
        let mut statement = self.connection.prepare_cached(sql).map_err(reading)?;
        statement
            .query_row(values, row)
            .optional()
            .map_err(reading)?
            .ok_or(StoreError::not_found(entity))
    }

    pub(crate) fn all<T>(
        &self,
        sql: &str,
        values: impl Params,
        row: impl FnMut(&Row<'_>) -> SqlResult<T>,
    ) -> Result<Vec<T>, StoreError> {
        let mut statement = self.connection.prepare_cached(sql).map_err(reading)?;
        statement.query_all(values, row).map_err(reading)
    }

    /// The same without the rows that do not read. The first column is their key.
    fn all_that_read<T>(
        &self,
        sql: &str,
        values: impl Params,
        row: impl Fn(&Row<'_>) -> SqlResult<T>,
    ) -> Result<ThatRead<T>, StoreError> {
        let mut read = ThatRead::default();
        let mut statement = self.connection.prepare_cached(sql).map_err(reading)?;
        let each = |found: &Row<'_>| {
            let key = found.get(0)?;
            (read.looked_at, read.last) = (read.looked_at + 1, Some(key));
            match row(found) {
                Ok(row) => read.rows.push(row),
                Err(error) if is_unreadable(&error) => {
                    tracing::error!(
                        key,
                        error = &error as &dyn std::error::Error,
                        "a stored row cannot be read and is left out"
                    );
                    read.left_out.push(key);
                }
                Err(error) => return Err(error),
            }
            Ok(ControlFlow::Continue(()))
        };
        statement.each(values, each).map_err(reading)?;
        drop(statement);
        Ok(read)
    }

    pub(crate) fn load_due(&self, query: LoadDue) -> Result<DuePage, StoreError> {
        let endpoint = self.key(query.endpoint, Entity::Endpoint)?;
        let sql = format!(
            "select {DELIVERY}, {EVENT} from delivery d join event e on e.id = d.event_id
             where d.endpoint_id = ?1 and d.state = 0 and d.sequence between ?2 and ?3 order by d.sequence, d.id limit ?4"
        );
        let (from, until) = (query.from.as_micros(), query.until.as_micros());
        let mut statement = self.connection.prepare_cached(&sql).map_err(reading)?;
        let limit = self.due_within(&query, endpoint).map_err(reading)?;
        let mut rows: Vec<DueDelivery> = Vec::new();
        let mut bytes = 0;
        let (mut place, mut id) = (from, i64::MIN);
        let each = |row: &Row<'_>| {
            // Before a row is taken, so that a page has one however large it is.
            if bytes >= query.bytes {
                return Ok(ControlFlow::Break(()));
            }
            // Noted before it is read: the next page begins behind one that does not read, too.
            (id, place) = (row.get(0)?, row.get(15)?);
            match due_row(row, self.salt) {
                Ok(due) => {
                    bytes += due.event.payload_bytes();
                    rows.push(due);
                }
                // The others of its lane are not to wait for it.
                Err(error) if is_unreadable(&error) => {
                    let delivery: Id<id::Delivery> = Id::from_key(id, self.salt);
                    tracing::error!(delivery.id = %delivery, error = &error as &dyn std::error::Error, "a stored delivery cannot be read; it is set aside until `postrider doctor` is satisfied and the server is started again");
                }
                Err(error) => return Err(error),
            }
            Ok(ControlFlow::Continue(()))
        };
        let values = params![endpoint, from, until, limit];
        statement.each(values, each).map_err(reading)?;
        // The first place behind the page: strictly behind its last row.
        // What has no event yet is none: with it the same page would be asked for until it has.
        let sql = "select d.sequence from delivery d join event e on e.id = d.event_id
                   where d.endpoint_id = ?1 and d.state = 0 and (d.sequence, d.id) > (?2, ?3) order by d.sequence, d.id limit 1";
        let mut statement = self.connection.prepare_cached(sql).map_err(reading)?;
        let next = statement
            .query_row(params![endpoint, place, id], |row| time(row, 0))
            .optional()
            .map_err(reading)?;
        Ok(DuePage { rows, next })
    }

    /// How many deliveries a page may have so that it is not much larger than was asked for: a database that is asked
    /// over the network sends all of them at once.
    fn due_within(&self, query: &LoadDue, endpoint: i64) -> SqlResult<u32> {
        if !self.connection.is_remote() {
            return Ok(query.limit);
        }
        let sql = "select octet_length(e.data) + coalesce(octet_length(e.meta), 0) from delivery d join event e on e.id = d.event_id
                   where d.endpoint_id = ?1 and d.state = 0 and d.sequence between ?2 and ?3 order by d.sequence, d.id limit ?4";
        let (mut rows, mut bytes) = (0, 0);
        let values = params![
            endpoint,
            query.from.as_micros(),
            query.until.as_micros(),
            query.limit
        ];
        self.connection.prepare_cached(sql)?.each(values, |row| {
            rows += 1;
            bytes += row.get::<u32>(0)? as usize;
            Ok(if bytes < query.bytes {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            })
        })?;
        Ok(rows)
    }

    pub(crate) fn backlog(&self) -> Result<Vec<LaneBacklog>, StoreError> {
        // One look into the index for each lane with work, however long and however many are idle.
        let sql = "with recursive lane(endpoint) as (
                       select min(endpoint_id) from delivery where state = 0
                       union all
                       select (select min(endpoint_id) from delivery where state = 0 and endpoint_id > lane.endpoint)
                       from lane where lane.endpoint is not null)
                   select endpoint, (select min(sequence) from delivery where state = 0 and endpoint_id = lane.endpoint)
                   from lane where endpoint is not null";
        self.all(sql, (), |row| {
            Ok(LaneBacklog {
                endpoint: Id::from_key(row.get(0)?, self.salt),
                first: time(row, 1)?,
            })
        })
    }

    pub(crate) fn event(&self, id: Id<id::Event>) -> Result<Event, StoreError> {
        self.one(
            &format!("select {EVENT} from event e where id = ?1"),
            id,
            Entity::Event,
            |row| event(row, 0, self.salt),
        )
    }

    pub(crate) fn list_events(
        &self,
        filter: &EventFilter,
        page: PageRequest,
    ) -> Result<Page<EventSummary>, StoreError> {
        let mut conditions = Conditions::of("event e").that_read();
        if let Some(tenant) = filter.tenant {
            conditions.owned_by(EVENTS_OF_TENANT, tenant.key());
        }
        conditions.filter_opt("application_id = ?", filter.application.map(Id::key));
        conditions.filter_opt("type = ?", filter.event_type.clone());
        conditions.filter_opt("mode = ?", filter.mode.map(mode_number));
        self.add_between(&mut conditions, "created_at", filter.since, filter.until);
        let row = |row: &Row<'_>| event_summary(row, self.salt);
        self.page(
            EVENT_SUMMARY,
            conditions,
            query_digest(filter),
            page,
            row,
            |event| event.id.as_u128(),
        )
    }

    pub(crate) fn event_summaries(
        &self,
        ids: &[Id<id::Event>],
    ) -> Result<Vec<EventSummary>, StoreError> {
        let sql = format!("select {EVENT_SUMMARY} from event e where id = ?1");
        let mut found = Vec::with_capacity(ids.len());
        for id in ids {
            found.extend(self.all(&sql, [id.key()], |row| event_summary(row, self.salt))?);
        }
        Ok(found)
    }

    pub(crate) fn first_use(
        &self,
        application: Id<id::Application>,
        key: &str,
    ) -> Result<Option<FirstUse>, StoreError> {
        read_first_use(&self.connection, self.salt, application.key(), key).map_err(reading)
    }

    pub(crate) fn delivery(&self, id: Id<id::Delivery>) -> Result<Delivery, StoreError> {
        let sql = format!("select {DELIVERY} from delivery d where id = ?1");
        self.one(&sql, id, Entity::Delivery, |row| delivery(row, self.salt))
    }

    pub(crate) fn list_deliveries(
        &self,
        filter: &DeliveryFilter,
        page: PageRequest,
    ) -> Result<Page<Delivery>, StoreError> {
        let row = |row: &Row<'_>| delivery(row, self.salt);
        self.page(
            DELIVERY,
            self.deliveries_of(filter),
            query_digest(filter),
            page,
            row,
            |delivery| delivery.id.as_u128(),
        )
    }

    pub(crate) fn count_deliveries(
        &self,
        filter: &DeliveryFilter,
        page: PageRequest,
    ) -> Result<Counted, StoreError> {
        let found = self.page(
            "d.id",
            self.deliveries_of(filter),
            query_digest(filter),
            page,
            |row| Ok(Id::<id::Delivery>::from_key(row.get(0)?, self.salt)),
            |id| id.as_u128(),
        )?;
        Ok(Counted {
            rows: found.rows.len() as u64,
            next: found.next,
        })
    }

    fn deliveries_of(&self, filter: &DeliveryFilter) -> Conditions {
        let order = if filter.oldest_first {
            Order::OldestFirst
        } else {
            Order::NewestFirst
        };
        let mut conditions = Conditions::of("delivery d").in_order(order).that_read();
        let (event, endpoint, tenant) = (
            filter.event.map(Id::key),
            filter.endpoint.map(Id::key),
            filter.tenant.map(Id::key),
        );
        // The narrowest of them says where to look; the others are looked at there.
        match (event, endpoint, tenant) {
            (Some(event), ..) => {
                conditions.add("event_id = ?", event);
                conditions.filter_opt("endpoint_id = ?", endpoint);
                conditions.filter_opt("tenant_id = ?", tenant);
                conditions.add_state(filter.state);
            }
            (None, Some(endpoint), _) => {
                conditions.add_state_of(DELIVERIES_OF_ENDPOINT, endpoint, filter.state);
                conditions.filter_opt("tenant_id = ?", tenant);
            }
            (None, None, Some(tenant)) => {
                conditions.add_state_of(DELIVERIES_OF_TENANT, tenant, filter.state);
            }
            (None, None, None) => conditions.add_state(filter.state),
        }
        conditions.filter_opt(
            "tenant_id in (select id from tenant where application_id = ?)",
            filter.application.map(Id::key),
        );
        conditions.filter_opt("event_type = ?", filter.event_type.clone());
        conditions.filter_opt("mode = ?", filter.mode.map(mode_number));
        conditions.filter_answer(filter.answer);
        self.add_between(&mut conditions, "created_at", filter.since, filter.until);
        conditions
    }

    pub(crate) fn missed_events(&self, query: &MissedQuery) -> Result<MissedPage, StoreError> {
        let (endpoint, deleted) = self.lane_endpoint(query.endpoint)?;
        if deleted {
            return Err(StoreError::not_found(Entity::Endpoint));
        }
        let mut conditions = Conditions::of("event e").in_order(Order::OldestFirst);
        conditions.owned_by(EVENTS_OF_TENANT, endpoint.tenant.key());
        // An id begins with its time: events out of the range are not even looked at.
        conditions.starting_at(query.since.map_or(0, first_key));
        conditions.ending_before(key_before(query.until, self.ahead));
        if let Some(after) = query.after {
            conditions.starting_at(after.key().saturating_add(1));
        }
        let state_of = |event: Id<id::Event>| {
            let sql = "select state, reason from delivery where event_id = ?1 and endpoint_id = ?2";
            let mut statement = self.connection.prepare_cached(sql)?;
            let values = [event.key(), endpoint.id.key()];
            statement.query_row(values, |row| state(row, 0)).optional()
        };
        let is_missed = |event, row: &Row<'_>| -> SqlResult<bool> {
            let created_at = time(row, 4)?;
            // Keys alone do not tell: a clock that was set back makes them later than what they are of.
            let in_range =
                query.since.is_none_or(|since| created_at >= since) && created_at < query.until;
            let addressee = addressee(row.get(3)?, endpoint.id);
            let known = state_of(event)?;
            let (data, meta) = if endpoint.filter.is_some() {
                let meta: Option<Vec<u8>> = row.get(6)?;
                (Bytes::from(row.get::<Vec<u8>>(5)?), meta.map(Bytes::from))
            } else {
                (Bytes::new(), None)
            };
            let offered = Offered {
                mode: mode(row, 2)?,
                event_type: row.text(1)?,
                content: Content::new(&data, meta.as_ref()),
            };
            Ok(in_range && life::is_missed(addressee, &offered, &endpoint, known))
        };
        let row = |row: &Row<'_>| {
            let event = Id::<id::Event>::from_key(row.get(0)?, self.salt);
            match is_missed(event, row) {
                Ok(is_missed) => Ok((event, is_missed)),
                // One that does not read keeps nothing else from its endpoint.
                Err(error) if is_unreadable(&error) => {
                    tracing::error!(event.id = %event, error = &error as &dyn std::error::Error, "a stored event cannot be read; it is left out of a catch-up");
                    Ok((event, false))
                }
                Err(error) => Err(error),
            }
        };
        // Payloads are read only where something is asked of them.
        let columns = match &endpoint.filter {
            Some(_) => "e.id, e.type, e.mode, e.addressee, e.created_at, e.data, e.meta",
            None => "e.id, e.type, e.mode, e.addressee, e.created_at",
        };
        let looked_at = self.page(
            columns,
            conditions,
            0,
            // No cursor goes out, so none has to be told from another query's; the next page is an id.
            PageRequest::first(query.rows as usize),
            row,
            |(event, _)| event.as_u128(),
        )?;
        Ok(MissedPage {
            next: looked_at.next.map(|cursor| Id::from_u128(cursor.after)),
            events: (looked_at.rows.iter())
                .filter(|(_, missed)| *missed)
                .map(|(event, _)| *event)
                .collect(),
        })
    }

    pub(crate) fn attempts(
        &self,
        delivery: Id<id::Delivery>,
        before: Option<u32>,
        limit: u32,
    ) -> Result<Vec<Attempt>, StoreError> {
        let key = self.key(delivery, Entity::Delivery)?;
        let sql = format!(
            "select {ATTEMPT} from attempt where delivery_id = ?1 and number < ?2 order by number desc limit ?3"
        );
        let before = before.unwrap_or(u32::MAX);
        let mut rows = self.all(&sql, params![key, before, limit], attempt)?;
        // The newest are found backwards, and given as they were made.
        rows.reverse();
        Ok(rows)
    }

    pub(crate) fn last_attempts(
        &self,
        deliveries: &[Id<id::Delivery>],
    ) -> Result<Vec<(Id<id::Delivery>, Attempt)>, StoreError> {
        let mut found = Vec::with_capacity(deliveries.len());
        for id in deliveries {
            let last = if_it_reads(self.attempts(*id, None, 1))?;
            found.extend(last.and_then(|mut last| last.pop()).map(|last| (*id, last)));
        }
        Ok(found)
    }

    pub(crate) fn first_rendering(
        &self,
        delivery: Id<id::Delivery>,
    ) -> Result<Option<Arc<Rendering>>, StoreError> {
        let key = self.key(delivery, Entity::Delivery)?;
        let sql = "select r.text from attempt a join rendering r on r.id = a.rendering_id
                   where a.delivery_id = ?1 order by a.number limit 1";
        let mut found = self.all(sql, [key], |row| Ok(Arc::new(from_json(row, 0)?)))?;
        Ok(found.pop())
    }
}

/// What was read, or nothing where it is damaged, which is told: one row keeps nobody from the others.
fn if_it_reads<T>(read: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
    match read {
        Err(error @ StoreError::Corrupt { .. }) => {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "a stored row cannot be read and is left out"
            );
            Ok(None)
        }
        read => read.map(Some),
    }
}
