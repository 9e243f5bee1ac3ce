//! Reading: what each question asks of the database.

mod endpoints;
mod list;
mod log;
mod manage;
mod pool;
mod sessions;

pub(crate) use endpoints::{health, read_endpoint, read_key_endpoint};
pub(crate) use log::class_number;
pub(crate) use manage::{
    EVENT_TYPE, event_type_row, read_application, read_key, read_tenant, root_key_exists,
};
pub(crate) use pool::Readers;
pub(crate) use sessions::{SESSION, session_row};

use std::sync::Arc;
use std::time::Duration;

use postrider_core::attempt::{Attempt, Rendering};
use postrider_core::delivery::Delivery;
use postrider_core::event::{Event, EventSummary};
use postrider_core::{Id, Timestamp, id};
use postrider_store::life;
use postrider_store::queries::query_digest;
use postrider_store::{
    Counted, DeliveryFilter, DueDelivery, DuePage, EndpointStats, Entity, EventFilter, FirstUse,
    LaneBacklog, LoadDue, MissedPage, MissedQuery, Page, PageRequest, StoreError, TaskState,
};
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::convert::{
    ATTEMPT, DELIVERY, EVENT, EVENT_SUMMARY, SqlResult, addressee, attempt, delivery, event,
    event_summary, from_json, is_unreadable, mode, mode_number, reading, state, time,
};
use crate::write::due_row;
use list::{CLOCK_SLACK, Conditions, Order, first_key};

/// One connection, and how it is asked.
pub(crate) struct Reader {
    pub(crate) connection: Connection,
    salt: u64,
    /// How far ids have been ahead of the clock.
    ahead: Duration,
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
    let row = |row: &Row<'_>| {
        Ok(FirstUse {
            event: Id::from_key(row.get(0)?, salt),
            fingerprint: row.get(1)?,
            count: row.get(2)?,
        })
    };
    statement
        .query_row(params![application, key], row)
        .optional()
}

pub(crate) fn task_state(state: &TaskState) -> (i64, Option<&str>) {
    match state {
        TaskState::Running => (0, None),
        TaskState::Finished => (1, None),
        TaskState::Failed(error) => (2, Some(error)),
        TaskState::Cancelled => (3, None),
    }
}

impl Reader {
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

    fn find<T>(
        &self,
        sql: &str,
        values: impl rusqlite::Params,
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

    fn all<T>(
        &self,
        sql: &str,
        values: impl rusqlite::Params,
        row: impl FnMut(&Row<'_>) -> SqlResult<T>,
    ) -> Result<Vec<T>, StoreError> {
        let mut statement = self.connection.prepare_cached(sql).map_err(reading)?;
        let rows = statement.query_map(values, row).map_err(reading)?;
        rows.collect::<SqlResult<_>>().map_err(reading)
    }

    pub(crate) fn load_due(&self, query: LoadDue) -> Result<DuePage, StoreError> {
        let endpoint = self.key(query.endpoint, Entity::Endpoint)?;
        let sql = format!(
            "select {DELIVERY}, {EVENT} from delivery d join event e on e.id = d.event_id
             where d.endpoint_id = ?1 and d.state = 0 and d.sequence between ?2 and ?3 order by d.sequence, d.id limit ?4"
        );
        let (from, until) = (query.from.as_micros(), query.until.as_micros());
        let mut statement = self.connection.prepare_cached(&sql).map_err(reading)?;
        let mut found = statement
            .query(params![endpoint, from, until, query.limit])
            .map_err(reading)?;
        let mut rows: Vec<DueDelivery> = Vec::new();
        let mut bytes = 0;
        let (mut place, mut id) = (from, i64::MIN);
        while bytes < query.bytes
            && let Some(row) = found.next().map_err(reading)?
        {
            (id, place) = (row.get(0).map_err(reading)?, row.get(15).map_err(reading)?);
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
                Err(error) => return Err(reading(error)),
            }
        }
        drop(found);
        // The first place behind the page: strictly behind its last row.
        let sql = "select sequence from delivery where endpoint_id = ?1 and state = 0 and (sequence, id) > (?2, ?3)
                   order by sequence, id limit 1";
        let mut statement = self.connection.prepare_cached(sql).map_err(reading)?;
        let next = statement
            .query_row(params![endpoint, place, id], |row| time(row, 0))
            .optional()
            .map_err(reading)?;
        Ok(DuePage { rows, next })
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
        self.all(sql, [], |row| {
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
        let mut conditions = Conditions::of("event");
        conditions.add_opt("tenant_id = ?", filter.tenant.map(Id::key));
        conditions.filter_opt("application_id = ?", filter.application.map(Id::key));
        conditions.filter_opt("type = ?", filter.event_type.clone());
        conditions.filter_opt("mode = ?", filter.mode.map(mode_number));
        self.add_between(&mut conditions, "created_at", filter.since, filter.until);
        let select = format!("select {EVENT_SUMMARY} from event e");
        let row = |row: &Row<'_>| event_summary(row, self.salt);
        self.page(
            &select,
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
        let select = format!("select {DELIVERY} from delivery d");
        let row = |row: &Row<'_>| delivery(row, self.salt);
        self.page(
            &select,
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
            "select id from delivery d",
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
        let mut conditions = Conditions::of("delivery").in_order(order);
        // One of them says where to look; the others are looked at there.
        let narrow = [
            ("event_id = ?", filter.event.map(Id::key)),
            ("endpoint_id = ?", filter.endpoint.map(Id::key)),
            ("tenant_id = ?", filter.tenant.map(Id::key)),
        ];
        for (part, value) in narrow {
            if conditions.is_wide() {
                conditions.add_opt(part, value);
            } else {
                conditions.filter_opt(part, value);
            }
        }
        conditions.filter_opt(
            "tenant_id in (select id from tenant where application_id = ?)",
            filter.application.map(Id::key),
        );
        conditions.filter_opt("event_type = ?", filter.event_type.clone());
        conditions.filter_opt("mode = ?", filter.mode.map(mode_number));
        self.add_between(&mut conditions, "created_at", filter.since, filter.until);
        let narrow =
            filter.event.is_none() && (filter.endpoint.or(filter.tenant.map(Id::cast))).is_some();
        conditions.add_state(filter.state, narrow);
        conditions
    }

    pub(crate) fn missed_events(&self, query: &MissedQuery) -> Result<MissedPage, StoreError> {
        let (endpoint, deleted) = self.lane_endpoint(query.endpoint)?;
        if deleted {
            return Err(StoreError::not_found(Entity::Endpoint));
        }
        // An id begins with its time: events out of the range are not even looked at.
        let first = query.since.map_or(0, first_key);
        let after = query.after.map_or(i64::MIN, Id::key).max(first - 1);
        let before = first_key(query.until.plus(self.ahead).plus(CLOCK_SLACK));
        let sql = "select e.id, e.type, e.mode, e.addressee, e.created_at,
                   d.state, d.reason
                   from event e left join delivery d on d.event_id = e.id and d.endpoint_id = ?1 where e.tenant_id = ?2 and e.id > ?3 and e.id < ?4 order by e.id limit ?5";
        let values = params![
            endpoint.id.key(),
            endpoint.tenant.key(),
            after,
            before,
            query.rows
        ];
        let is_missed = |row: &Row<'_>| -> SqlResult<bool> {
            let created_at = time(row, 4)?;
            let in_range =
                query.since.is_none_or(|since| created_at >= since) && created_at < query.until;
            let addressee = addressee(row.get(3)?, endpoint.id);
            let event_type = row.get_ref(1)?.as_str()?;
            let known = match row.get::<_, Option<i64>>(5)? {
                None => None,
                Some(_) => Some(state(row, 5)?),
            };
            Ok(in_range && life::is_missed(addressee, mode(row, 2)?, event_type, &endpoint, known))
        };
        let looked_at = self.all(sql, values, |row| {
            let event = Id::<id::Event>::from_key(row.get(0)?, self.salt);
            match is_missed(row) {
                Ok(is_missed) => Ok((event, is_missed)),
                // One that does not read keeps nothing else from its endpoint.
                Err(error) if is_unreadable(&error) => {
                    tracing::error!(event.id = %event, error = &error as &dyn std::error::Error, "a stored event cannot be read; it is left out of a catch-up");
                    Ok((event, false))
                }
                Err(error) => Err(error),
            }
        })?;
        let is_full = looked_at.len() >= query.rows as usize;
        Ok(MissedPage {
            next: looked_at.last().filter(|_| is_full).map(|(id, _)| *id),
            events: looked_at
                .into_iter()
                .filter(|(_, missed)| *missed)
                .map(|(id, _)| id)
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
        rows.reverse();
        Ok(rows)
    }

    pub(crate) fn last_attempts(
        &self,
        deliveries: &[Id<id::Delivery>],
    ) -> Result<Vec<(Id<id::Delivery>, Attempt)>, StoreError> {
        let mut found = Vec::with_capacity(deliveries.len());
        for id in deliveries {
            let last = self.attempts(*id, None, 1)?.pop();
            found.extend(last.map(|attempt| (*id, attempt)));
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

    pub(crate) fn endpoint_stats(
        &self,
        endpoint: Id<id::Endpoint>,
        since: Timestamp,
    ) -> Result<EndpointStats, StoreError> {
        let key = self.key(endpoint, Entity::Endpoint)?;
        let sql = "select state, reason, sum(attempts), count(*) from delivery
                   where endpoint_id = ?1 and id >= ?2 and created_at >= ?3 group by state, reason";
        // An id begins with its time: rows before `since` are not even looked at.
        let floor = first_key(since);
        let mut stats = EndpointStats::default();
        let values = params![key, floor, since.as_micros()];
        let rows = self.all(sql, values, |row| {
            Ok((state(row, 0)?, row.get(2)?, row.get::<_, i64>(3)?))
        })?;
        for (state, attempts, deliveries) in rows {
            stats.count(state, attempts, deliveries.cast_unsigned());
        }
        Ok(stats)
    }
}
