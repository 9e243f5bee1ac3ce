//! Reading: a small pool of read-only connections, used on blocking threads.

mod log;
mod manage;

pub(crate) use log::class_number;
pub(crate) use manage::{EVENT_TYPE, event_type_row, read_application, read_key, read_tenant};

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use postrider_core::attempt::Attempt;
use postrider_core::delivery::Delivery;
use postrider_core::endpoint::{Endpoint, EndpointKind, EndpointSecret, Ordering};
use postrider_core::event::Event;
use postrider_core::health::{DisableReason, Disabled, Health};
use postrider_core::{Id, Timestamp, id};
use postrider_store::queries::query_digest;
use postrider_store::{
    DeliveryFilter, DuePage, EndpointStats, Entity, EventFilter, LaneBacklog, LoadDue, Page,
    PageRequest, StatePattern, StoreError, TaskState,
};
use rusqlite::{Connection, OptionalExtension, Row, ToSql, params, params_from_iter};
use tokio::sync::Semaphore;

use crate::convert::{
    ATTEMPT, DELIVERY, EVENT, SqlResult, attempt, delivery, event, from_json, mode, mode_number,
    reading, time, time_opt, unreadable,
};
use crate::open::open_reader;
use crate::write::due_row;

/// Ids never go back, though a clock may: for so long they can be ahead of it.
const CLOCK_SLACK: Duration = Duration::from_secs(3_600);

/// Keys of ids made at this time or later are not less.
fn first_key(at: Timestamp) -> i64 {
    at.as_millis().clamp(0, i64::MAX >> 16) << 16
}

/// Connections at most; they are opened as they are needed.
const CONNECTIONS_MAX: usize = 4;

#[derive(Debug)]
pub(crate) struct Readers {
    shared: Arc<Shared>,
    permits: Arc<Semaphore>,
}

#[derive(Debug)]
struct Shared {
    file: PathBuf,
    salt: u64,
    idle: Mutex<Vec<Connection>>,
}

pub(crate) struct Reader {
    pub(crate) connection: Connection,
    salt: u64,
}

impl Readers {
    pub(crate) fn new(file: PathBuf, salt: u64) -> Self {
        let shared = Arc::new(Shared {
            file,
            salt,
            idle: Mutex::default(),
        });
        Self {
            shared,
            permits: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
        }
    }

    pub(crate) async fn read<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Reader) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let permit = self
            .permits
            .clone()
            .acquire_owned()
            .await
            .map_err(StoreError::aborted)?;
        let shared = self.shared.clone();
        let work = move || {
            let idle = shared
                .idle
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .pop();
            let connection = idle
                .map_or_else(|| open_reader(&shared.file), Ok)
                .map_err(reading)?;
            let reader = Reader {
                connection,
                salt: shared.salt,
            };
            let answer = query(&reader);
            shared
                .idle
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(reader.connection);
            drop(permit);
            answer
        };
        tokio::task::spawn_blocking(work)
            .await
            .map_err(StoreError::aborted)?
    }
}

pub(crate) fn health(row: &Row<'_>, at: usize) -> SqlResult<Health> {
    let disabled = match row.get::<_, Option<String>>(at)? {
        None => None,
        Some(text) => {
            let reason = DisableReason::parse(&text).ok_or_else(|| unreadable(at, text))?;
            Some(Disabled {
                reason,
                at: time(row, at + 1)?,
            })
        }
    };
    Ok(Health {
        disabled,
        consecutive_failures: row.get(at + 2)?,
        failing_since: time_opt(row, at + 3)?,
    })
}

const ENDPOINT: &str = "id, application_id, tenant_id, kind, url, description, subscription, mode, headers, rate_limit, ordering, \
    disabled_reason, disabled_at, consecutive_failures, failing_since, created_at, updated_at, deleted, key_id, distribution, form";

fn endpoint_row(row: &Row<'_>, salt: u64) -> SqlResult<(Endpoint, bool)> {
    let endpoint = Endpoint {
        id: Id::from_key(row.get(0)?, salt),
        application: Id::from_key(row.get(1)?, salt),
        tenant: Id::from_key(row.get(2)?, salt),
        kind: match row.get(3)? {
            0 => EndpointKind::Registered,
            1 => EndpointKind::Callback,
            2 => EndpointKind::Key(Id::from_key(row.get(18)?, salt)),
            3 => EndpointKind::Distribution(from_json(row, 19)?),
            other => return Err(unreadable(3, format!("endpoint kind {other}"))),
        },
        url: row.get(4)?,
        description: row.get(5)?,
        subscription: from_json(row, 6)?,
        mode: mode(row, 7)?,
        headers: from_json(row, 8)?,
        secrets: Vec::new(),
        rate_limit: row.get(9)?,
        ordering: match row.get(10)? {
            0 => Ordering::None,
            1 => Ordering::Endpoint,
            2 => Ordering::Key,
            other => return Err(unreadable(10, format!("ordering {other}"))),
        },
        form: row.get(20)?,
        health: health(row, 11)?,
        created_at: time(row, 15)?,
        updated_at: time(row, 16)?,
    };
    Ok((endpoint, row.get(17)?))
}

fn with_secrets(connection: &Connection, mut endpoint: Endpoint) -> SqlResult<Endpoint> {
    let sql = "select sealed, created_at, expires_at from endpoint_secret where endpoint_id = ?1 order by position";
    let mut statement = connection.prepare_cached(sql)?;
    let rows = statement.query_map([endpoint.id.key()], |row| {
        Ok(EndpointSecret {
            sealed: row.get(0)?,
            created_at: time(row, 1)?,
            expires_at: time_opt(row, 2)?,
        })
    })?;
    endpoint.secrets = rows.collect::<SqlResult<_>>()?;
    Ok(endpoint)
}

/// An endpoint with its secrets, and whether it is deleted.
pub(crate) fn read_endpoint(
    connection: &Connection,
    salt: u64,
    key: i64,
) -> SqlResult<Option<(Endpoint, bool)>> {
    let mut statement =
        connection.prepare_cached(&format!("select {ENDPOINT} from endpoint where id = ?1"))?;
    let found = statement
        .query_row([key], |row| endpoint_row(row, salt))
        .optional()?;
    found
        .map(|(endpoint, deleted)| Ok((with_secrets(connection, endpoint)?, deleted)))
        .transpose()
}

/// The endpoint that a key owns, unless it is deleted.
pub(crate) fn read_key_endpoint(
    connection: &Connection,
    salt: u64,
    key: i64,
) -> SqlResult<Option<Endpoint>> {
    let sql =
        format!("select {ENDPOINT} from endpoint where key_id = ?1 and kind = 2 and deleted = 0");
    let mut statement = connection.prepare_cached(&sql)?;
    let found = statement
        .query_row([key], |row| endpoint_row(row, salt))
        .optional()?;
    found
        .map(|(endpoint, _)| with_secrets(connection, endpoint))
        .transpose()
}

pub(crate) fn task_state(state: &TaskState) -> (i64, Option<&str>) {
    match state {
        TaskState::Running => (0, None),
        TaskState::Finished => (1, None),
        TaskState::Failed(error) => (2, Some(error)),
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

    /// A page, newest first, of what `select` and its conditions find.
    fn page<T>(
        &self,
        select: &str,
        mut conditions: Conditions,
        query: u32,
        page: PageRequest,
        row: impl Fn(&Row<'_>) -> SqlResult<T>,
        id: impl Fn(&T) -> u128,
    ) -> Result<Page<T>, StoreError> {
        if let Some(after) = page.after(query)? {
            conditions.add("id < ?", Id::<()>::from_u128(after).key());
        }
        let limit = page.limit + 1;
        let sql = format!(
            "{select}{} order by id desc limit {limit}",
            conditions.sql()
        );
        let rows = self.all(&sql, params_from_iter(&conditions.values), row)?;
        Ok(Page::cut(rows, page.limit, query, id))
    }

    pub(crate) fn load_due(&self, query: LoadDue) -> Result<DuePage, StoreError> {
        let endpoint = self.key(query.endpoint, Entity::Endpoint)?;
        let sql = format!(
            "select {DELIVERY}, {EVENT} from delivery d join event e on e.id = d.event_id
             where d.endpoint_id = ?1 and d.state = 0 and d.sequence <= ?2 order by d.sequence, d.id limit ?3"
        );
        let rows = self.all(
            &sql,
            params![endpoint, query.until.as_micros(), query.limit],
            |row| due_row(row, self.salt),
        )?;
        // The first place behind the page: strictly behind its last row.
        let (place, id) = rows.last().map_or((i64::MIN, i64::MIN), |due| {
            (due.sequence, due.delivery.id.key())
        });
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
        // One look into the index for each endpoint, however long its backlog is.
        let sql = "select id, place from (select id, (select min(sequence) from delivery
                   where endpoint_id = endpoint.id and state = 0) as place from endpoint) where place is not null";
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
    ) -> Result<Page<Event>, StoreError> {
        let mut conditions = Conditions::default();
        conditions.add_opt("application_id = ?", filter.application.map(Id::key));
        conditions.add_opt("tenant_id = ?", filter.tenant.map(Id::key));
        conditions.add_opt("type = ?", filter.event_type.clone());
        conditions.add_opt("mode = ?", filter.mode.map(mode_number));
        conditions.add_between("created_at", filter.since, filter.until);
        let select = format!("select {EVENT} from event e");
        let row = |row: &Row<'_>| event(row, 0, self.salt);
        self.page(
            &select,
            conditions,
            query_digest(filter),
            page,
            row,
            |event| event.id.as_u128(),
        )
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
        let mut conditions = Conditions::default();
        conditions.add_opt(
            "tenant_id in (select id from tenant where application_id = ?)",
            filter.application.map(Id::key),
        );
        conditions.add_opt("tenant_id = ?", filter.tenant.map(Id::key));
        conditions.add_opt("endpoint_id = ?", filter.endpoint.map(Id::key));
        conditions.add_opt("event_id = ?", filter.event.map(Id::key));
        conditions.add_opt("event_type = ?", filter.event_type.clone());
        conditions.add_opt("mode = ?", filter.mode.map(mode_number));
        conditions.add_between("created_at", filter.since, filter.until);
        conditions.add_state(filter.state);
        let select = format!("select {DELIVERY} from delivery d");
        let row = |row: &Row<'_>| delivery(row, self.salt);
        self.page(
            &select,
            conditions,
            query_digest(filter),
            page,
            row,
            |delivery| delivery.id.as_u128(),
        )
    }

    pub(crate) fn attempts(&self, delivery: Id<id::Delivery>) -> Result<Vec<Attempt>, StoreError> {
        let key = self.key(delivery, Entity::Delivery)?;
        self.all(
            &format!("select {ATTEMPT} from attempt where delivery_id = ?1 order by number"),
            [key],
            attempt,
        )
    }

    pub(crate) fn endpoint_stats(
        &self,
        endpoint: Id<id::Endpoint>,
        since: Timestamp,
    ) -> Result<EndpointStats, StoreError> {
        let tenant = self.endpoint(endpoint)?.tenant.key();
        let sql = "select state, reason, sum(attempts), count(*) from delivery
                   where tenant_id = ?1 and id >= ?2 and endpoint_id = ?3 and created_at >= ?4 group by state, reason";
        // An id begins with its time: rows before `since` are not even looked at.
        let floor = first_key(since);
        let mut stats = EndpointStats::default();
        let values = params![tenant, floor, endpoint.key(), since.as_micros()];
        let rows = self.all(sql, values, |row| {
            Ok((
                crate::convert::state(row, 0)?,
                row.get(2)?,
                row.get::<_, i64>(3)?,
            ))
        })?;
        for (state, attempts, deliveries) in rows {
            stats.count(state, attempts, deliveries.cast_unsigned());
        }
        Ok(stats)
    }
}

/// A `where` clause being built.
#[derive(Default)]
struct Conditions {
    parts: Vec<String>,
    values: Vec<Box<dyn ToSql>>,
}

impl Conditions {
    fn add(&mut self, part: &str, value: impl ToSql + 'static) {
        self.parts.push(part.to_owned());
        self.values.push(Box::new(value));
    }

    fn add_opt(&mut self, part: &str, value: Option<impl ToSql + 'static>) {
        if let Some(value) = value {
            self.add(part, value);
        }
    }

    /// An id begins with its time: what is out of the range is not even looked at.
    fn add_between(&mut self, column: &str, since: Option<Timestamp>, until: Option<Timestamp>) {
        if let Some(since) = since {
            self.add("id >= ?", first_key(since));
            self.add(&format!("{column} >= ?"), since.as_micros());
        }
        if let Some(until) = until {
            self.add("id < ?", first_key(until.plus(CLOCK_SLACK)));
            self.add(&format!("{column} < ?"), until.as_micros());
        }
    }

    fn add_text(&mut self, part: &str) {
        self.parts.push(part.to_owned());
    }

    /// Written out, so that the partial indexes can serve it.
    fn add_state(&mut self, state: Option<StatePattern>) {
        match state {
            None => {}
            Some(StatePattern::Pending) => self.add_text("state = 0"),
            Some(StatePattern::Delivered) => self.add_text("state = 1"),
            Some(StatePattern::Failed) => self.add_text("state >= 2 and state = 2"),
            Some(StatePattern::Cancelled) => self.add_text("state >= 2 and state = 3"),
            Some(StatePattern::Unsuccessful) => self.add_text("state >= 2"),
        }
    }

    fn sql(&self) -> String {
        if self.parts.is_empty() {
            String::new()
        } else {
            format!(" where {}", self.parts.join(" and "))
        }
    }
}
