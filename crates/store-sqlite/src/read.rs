//! Reading: a small pool of read-only connections, used on blocking threads.

mod log;
mod manage;

pub(crate) use log::class_number;
pub(crate) use manage::{
    EVENT_TYPE, event_type_row, read_application, read_key, read_tenant, root_key_exists,
};

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use postrider_core::attempt::{Attempt, Rendering};
use postrider_core::delivery::Delivery;
use postrider_core::endpoint::{Endpoint, EndpointKind, EndpointSecret, Ordering};
use postrider_core::event::{Event, EventSummary};
use postrider_core::health::{DisableReason, Disabled, Health};
use postrider_core::{Id, Timestamp, id};
use postrider_store::queries::query_digest;
use postrider_store::{
    DeliveryFilter, DuePage, EndpointStats, Entity, EventFilter, FirstUse, LaneBacklog, LoadDue,
    Page, PageRequest, StatePattern, StoreError, TaskState,
};
use rusqlite::{Connection, OptionalExtension, Row, ToSql, params, params_from_iter};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::convert::{
    ATTEMPT, DELIVERY, EVENT, EVENT_SUMMARY, SqlResult, attempt, delivery, event, event_summary,
    from_json, mode, mode_number, reading, time, time_opt, unreadable,
};
use crate::open::open_reader;
use crate::write::due_row;

/// Ids never go back, though a clock may: for so long they can be ahead of it.
const CLOCK_SLACK: Duration = Duration::from_secs(3_600);

/// Keys of ids made at this time or later are not less.
fn first_key(at: Timestamp) -> i64 {
    at.as_millis().clamp(0, i64::MAX >> 16) << 16
}

/// Rows that a list with filters looks at before it gives what it has, and where to go on.
pub(crate) const SCAN_ROWS_MAX: u32 = 20_000;
/// Steps of SQLite's machine between two looks at the clock.
const STEPS_PER_LOOK: i32 = 10_000;

/// Connections for one kind of reading, so that the kinds do not wait for each other.
#[derive(Debug)]
pub(crate) struct Readers {
    shared: Arc<Shared>,
    permits: Arc<Semaphore>,
}

#[derive(Debug)]
struct Shared {
    file: PathBuf,
    salt: u64,
    time_max: Duration,
    idle: Mutex<Vec<Connection>>,
}

pub(crate) struct Reader {
    pub(crate) connection: Connection,
    salt: u64,
}

impl Readers {
    /// At most `connections`, opened as they are needed. What takes longer than `time_max` is broken off.
    pub(crate) fn new(file: PathBuf, salt: u64, connections: usize, time_max: Duration) -> Self {
        let shared = Arc::new(Shared {
            file,
            salt,
            time_max,
            idle: Mutex::default(),
        });
        Self {
            shared,
            permits: Arc::new(Semaphore::new(connections)),
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
            let mut reader = Reader {
                connection,
                salt: shared.salt,
            };
            let until = Instant::now() + shared.time_max;
            let over = move || Instant::now() >= until;
            let answer = reader
                .connection
                .progress_handler(STEPS_PER_LOOK, Some(over))
                .map_err(reading)
                .and_then(|()| query(&reader));
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

    /// A page, newest first, of what `select` and its conditions find. With filters, of the next
    /// [`SCAN_ROWS_MAX`] rows that they leave something of.
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
        let floor = self.floor(&conditions)?;
        if let Some(floor) = floor {
            conditions.add("id >= ?", floor);
        }
        let limit = page.limit + 1;
        let sql = format!(
            "{select}{} order by id desc limit {limit}",
            conditions.sql()
        );
        let rows = self.all(&sql, params_from_iter(conditions.values()), row)?;
        let page = Page::cut(rows, page.limit, query, id);
        Ok(page.or_next(
            query,
            floor.map(|floor| Id::<()>::from_key(floor, self.salt).as_u128()),
        ))
    }

    /// The id of the last row that a list may look at, if there are more.
    fn floor(&self, conditions: &Conditions) -> Result<Option<i64>, StoreError> {
        if conditions.filters.parts.is_empty() {
            return Ok(None);
        }
        let sql = format!(
            "select id from {}{} order by id desc limit 1 offset {SCAN_ROWS_MAX}",
            conditions.table,
            where_clause(conditions.indexed.parts.iter())
        );
        let found = self.all(&sql, params_from_iter(&conditions.indexed.values), |row| {
            row.get(0)
        })?;
        Ok(found.first().copied())
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
    ) -> Result<Page<EventSummary>, StoreError> {
        let mut conditions = Conditions::of("event");
        conditions.add_opt("tenant_id = ?", filter.tenant.map(Id::key));
        conditions.filter_opt("application_id = ?", filter.application.map(Id::key));
        conditions.filter_opt("type = ?", filter.event_type.clone());
        conditions.filter_opt("mode = ?", filter.mode.map(mode_number));
        conditions.add_between("created_at", filter.since, filter.until);
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
        let mut conditions = Conditions::of("delivery");
        // One of them says where to look; the others are looked at there.
        let narrow = [
            ("event_id = ?", filter.event.map(Id::key)),
            ("endpoint_id = ?", filter.endpoint.map(Id::key)),
            ("tenant_id = ?", filter.tenant.map(Id::key)),
        ];
        for (part, value) in narrow {
            if conditions.indexed.parts.is_empty() {
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

/// A `where` clause being built, of two kinds of conditions: an index serves the first, so that no
/// other row is looked at; the second look at each of those rows.
struct Conditions {
    table: &'static str,
    indexed: Clause,
    filters: Clause,
}

#[derive(Default)]
struct Clause {
    parts: Vec<String>,
    values: Vec<Box<dyn ToSql>>,
}

impl Conditions {
    fn of(table: &'static str) -> Self {
        Self {
            table,
            indexed: Clause::default(),
            filters: Clause::default(),
        }
    }

    fn add(&mut self, part: &str, value: impl ToSql + 'static) {
        self.indexed.parts.push(part.to_owned());
        self.indexed.values.push(Box::new(value));
    }

    fn add_opt(&mut self, part: &str, value: Option<impl ToSql + 'static>) {
        if let Some(value) = value {
            self.add(part, value);
        }
    }

    fn add_text(&mut self, part: &str) {
        self.indexed.parts.push(part.to_owned());
    }

    fn filter(&mut self, part: &str, value: impl ToSql + 'static) {
        // The plus keeps the planner from an index that does not have the order of the list.
        self.filters.parts.push(format!("+{part}"));
        self.filters.values.push(Box::new(value));
    }

    fn filter_opt(&mut self, part: &str, value: Option<impl ToSql + 'static>) {
        if let Some(value) = value {
            self.filter(part, value);
        }
    }

    /// An id begins with its time: what is out of the range is not even looked at.
    fn add_between(&mut self, column: &str, since: Option<Timestamp>, until: Option<Timestamp>) {
        if let Some(since) = since {
            self.add("id >= ?", first_key(since));
            self.add(&format!("+{column} >= ?"), since.as_micros());
        }
        if let Some(until) = until {
            self.add("id < ?", first_key(until.plus(CLOCK_SLACK)));
            self.add(&format!("+{column} < ?"), until.as_micros());
        }
    }

    /// Written out, so that the partial indexes can serve it.
    fn add_state(&mut self, state: Option<StatePattern>) {
        let filter = match state {
            None => return,
            Some(StatePattern::Pending) => "state = 0",
            Some(StatePattern::Delivered) => "state = 1",
            Some(StatePattern::Unsuccessful) => return self.add_text("state >= 2"),
            Some(StatePattern::Failed) => {
                self.add_text("state >= 2");
                "state = 2"
            }
            Some(StatePattern::Cancelled) => {
                self.add_text("state >= 2");
                "state = 3"
            }
        };
        self.filters.parts.push(filter.to_owned());
    }

    fn sql(&self) -> String {
        where_clause(self.indexed.parts.iter().chain(&self.filters.parts))
    }

    /// The values of [`Conditions::sql`].
    fn values(&self) -> impl Iterator<Item = &Box<dyn ToSql>> {
        self.indexed.values.iter().chain(&self.filters.values)
    }
}

fn where_clause<'p>(parts: impl Iterator<Item = &'p String>) -> String {
    let parts: Vec<&str> = parts.map(String::as_str).collect();
    if parts.is_empty() {
        String::new()
    } else {
        format!(" where {}", parts.join(" and "))
    }
}
