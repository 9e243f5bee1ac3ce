//! Between SQLite's values and ours, and from its errors to ours.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use postrider_core::attempt::{Attempt, Egress, Outcome, Response, Timings, UnreachableReason};
use postrider_core::delivery::{Delivery, DeliveryState, FailReason, Series};
use postrider_core::endpoint::{EndpointKind, Ordering};
use postrider_core::event::{Event, EventSummary};
use postrider_core::tenant::Mode;
use postrider_core::trace::TraceParent;
use postrider_core::{Id, Timestamp, id};
use postrider_store::{StoreError, Target, TaskKind};

use crate::postgres::Opens;
use crate::segments::indexed_until;
use crate::sql::{Connection, Failure, Optional, Row, SqlError, SqlResult, unreadable};

/// As the column of tasks has it.
pub(crate) fn task_kind_number(kind: TaskKind) -> i64 {
    match kind {
        TaskKind::Replay => 0,
        TaskKind::Deletion => 1,
    }
}

/// The store's salt: kept from its first day.
pub(crate) fn salt(connection: &Connection, fresh: u64) -> SqlResult<u64> {
    // The first one stays: every id that is out has a lower half that was made with it.
    connection.execute(
        "insert into meta (key, value) values ('salt', ?1) on conflict do nothing",
        [fresh.cast_signed()],
    )?;
    salt_of(connection)
}

/// The salt of a store that has one.
pub(crate) fn salt_of(connection: &Connection) -> SqlResult<u64> {
    let sql = "select value from meta where key = 'salt'";
    connection
        .query_row(sql, (), |row| row.get::<i64>(0))
        .map(i64::cast_unsigned)
}

/// Whether the secret of a tenant opens; of one of a few is enough, for one may be damaged, and where there is none nothing is
/// sealed. What cannot be read is not
/// held against the key: a store that is there in part is told of as such, and one damaged row keeps no server from starting.
pub(crate) fn can_open(connection: &Connection, opens: &Opens) -> bool {
    let sql = "select id, live_secret from tenant order by id limit 10";
    let row = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?));
    let found = connection.prepare_cached(sql);
    let found: SqlResult<Vec<(i64, Vec<u8>)>> =
        found.and_then(|mut found| found.query_all((), row));
    let (Ok(salt), Ok(found)) = (salt_of(connection), found) else {
        return true;
    };
    let one_opens = found.iter().any(|(key, sealed)| {
        let id: Id<id::Tenant> = Id::from_key(*key, salt);
        opens(sealed, id.as_u128())
    });
    found.is_empty() || one_opens
}

/// How far ids have been ahead of the clock, in all the store's time.
pub(crate) fn ahead(connection: &Connection) -> SqlResult<Duration> {
    let sql = "select value from meta where key = 'ids_ahead_ms'";
    let found: Option<i64> = connection.query_row(sql, (), |row| row.get(0)).optional()?;
    Ok(Duration::from_millis(found.unwrap_or(0).unsigned_abs()))
}

pub(crate) fn note_ahead(connection: &Connection, ahead: Duration) -> SqlResult<()> {
    let sql = "insert into meta (key, value) values ('ids_ahead_ms', ?1) on conflict (key) do update set value = excluded.value";
    let millis = i64::try_from(ahead.as_millis()).unwrap_or(i64::MAX);
    connection.execute(sql, [millis]).map(drop)
}

/// The greatest id key of any table.
pub(crate) fn greatest_key(connection: &Connection) -> SqlResult<i64> {
    // Tables whose keys are ids. Profiles, renderings and the outbox have numbers of their own.
    let mut greatest = 0;
    for table in [
        "application",
        "tenant",
        "endpoint",
        "event",
        "delivery",
        "api_key",
        "task",
        "audit",
        "notice",
        "session",
        "console_user",
    ] {
        let max: Option<i64> =
            connection.query_row(&format!("select max(id) from {table}"), (), |row| {
                row.get(0)
            })?;
        greatest = greatest.max(max.unwrap_or(0));
    }
    // Whatever of it is left.
    Ok(greatest.max(indexed_until(connection)?))
}

/// How far the steady clock comes at most until that is noted again, which is each minute.
const NOTED_BEFORE_MAX_MICROS: i64 = 10 * 60 * 1_000_000;

/// A place that no fresh delivery has reached yet: new ones go behind it, whatever the clock says.
/// Only places count that cannot be a retry's: those lie ahead, and stay with a delivery that was
/// ended while it waited. Or how far the steady clock had come, if that is later.
pub(crate) fn last_sequence(connection: &Connection) -> SqlResult<i64> {
    // Places have no index of their own; looking at all would take longer with the history.
    const NEWEST: u32 = 10_000;
    let sql = "select max(sequence) from (select sequence, state, attempts from delivery order by id desc limit ?1) as newest
               where attempts = 0 or (state = 1 and attempts = 1)";
    let noted = "select max(value) from meta where key = 'steady'";
    let noted: Option<i64> = connection.query_row(noted, (), |row| row.get(0))?;
    let newest = connection.query_row(sql, [NEWEST], |row| row.get::<Option<i64>>(0));
    let newest = match newest {
        // How far it had come nobody can say, but no further than this.
        Err(error) if error.is_of_a_page() => noted.map(|noted| noted + NOTED_BEFORE_MAX_MICROS),
        newest => newest?,
    };
    Ok(newest.max(noted).unwrap_or(0))
}

/// A write that failed inside its transaction: it was rolled back.
pub(crate) fn aborted(error: SqlError) -> StoreError {
    match error.failure() {
        Failure::Full => StoreError::Full,
        Failure::Unreadable => corrupt(error),
        Failure::Unreachable => unavailable(&error),
        Failure::Taken
        | Failure::Refused
        | Failure::Interrupted
        | Failure::Busy
        | Failure::Other => StoreError::aborted(error),
    }
}

/// A value that is none of those we write, or a damaged page.
pub(crate) fn is_unreadable(error: &SqlError) -> bool {
    error.failure() == Failure::Unreadable
}

fn corrupt(error: SqlError) -> StoreError {
    StoreError::Corrupt {
        place: error.to_string(),
        source: Box::new(error),
    }
}

fn unavailable(error: &SqlError) -> StoreError {
    StoreError::Unavailable {
        detail: error.to_string(),
    }
}

/// A commit that failed: unless the database says that it undid it, nobody knows.
pub(crate) fn commit_failed(error: SqlError) -> StoreError {
    match (error.failure(), &error) {
        // The other database may be full behind what it has written already.
        (Failure::Full, SqlError::Sqlite(_)) => StoreError::Full,
        (Failure::Busy, _) => StoreError::aborted(error),
        // It was there to say so.
        (Failure::Taken | Failure::Refused, SqlError::Postgres(_)) => StoreError::aborted(error),
        _ => StoreError::OutcomeUnknown {
            source: Box::new(error),
        },
    }
}

pub(crate) fn reading(error: SqlError) -> StoreError {
    match error.failure() {
        Failure::Unreadable => corrupt(error),
        Failure::Interrupted => StoreError::TooLong,
        Failure::Unreachable => unavailable(&error),
        Failure::Full | Failure::Taken | Failure::Refused | Failure::Busy | Failure::Other => {
            StoreError::aborted(error)
        }
    }
}

/// Whether a damaged page is why. In a transaction that met one nothing more is written.
pub(crate) fn is_of_a_page(error: &StoreError) -> bool {
    let source = std::error::Error::source(error);
    source.is_some_and(|source| {
        source
            .downcast_ref::<SqlError>()
            .is_some_and(SqlError::is_of_a_page)
    })
}

pub(crate) fn time(row: &Row<'_>, column: usize) -> SqlResult<Timestamp> {
    row.get(column).map(Timestamp::from_micros)
}

pub(crate) fn time_opt(row: &Row<'_>, column: usize) -> SqlResult<Option<Timestamp>> {
    Ok(row.get::<Option<i64>>(column)?.map(Timestamp::from_micros))
}

pub(crate) fn mode_number(mode: Mode) -> i64 {
    match mode {
        Mode::Live => 0,
        Mode::Test => 1,
    }
}

pub(crate) fn mode(row: &Row<'_>, column: usize) -> SqlResult<Mode> {
    match row.get(column)? {
        0 => Ok(Mode::Live),
        1 => Ok(Mode::Test),
        other => Err(unreadable(column, format!("mode {other}"))),
    }
}

pub(crate) fn kind_number(kind: &EndpointKind) -> i64 {
    match kind {
        EndpointKind::Registered => 0,
        EndpointKind::Callback => 1,
        EndpointKind::Key(_) => 2,
        EndpointKind::Distribution(_) => 3,
    }
}

/// A value kept as JSON.
pub(crate) fn from_json<T: serde::de::DeserializeOwned>(
    row: &Row<'_>,
    column: usize,
) -> SqlResult<T> {
    let text = row.text(column)?;
    serde_json::from_str(text).map_err(|error| unreadable(column, error.to_string()))
}

/// The same where there may be none.
pub(crate) fn from_json_opt<T: serde::de::DeserializeOwned>(
    row: &Row<'_>,
    column: usize,
) -> SqlResult<Option<T>> {
    let text: Option<String> = row.get(column)?;
    let read = text.map(|text| serde_json::from_str(&text));
    read.transpose()
        .map_err(|error| unreadable(column, error.to_string()))
}

pub(crate) fn to_json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("settings and lists of texts are JSON")
}

pub(crate) fn ordering_number(ordering: Ordering) -> i64 {
    match ordering {
        Ordering::None => 0,
        Ordering::Endpoint => 1,
        Ordering::Key => 2,
    }
}

/// Whom an event was published to: 0 whoever subscribed, 1 distributions, 2 nobody, else an endpoint's key.
pub(crate) fn addressee_number(target: Target) -> i64 {
    match target {
        Target::Matching => 0,
        Target::Distributions => 1,
        Target::Nobody => 2,
        Target::IfEnabled(endpoint) | Target::Endpoint(endpoint) => endpoint.key(),
    }
}

/// Whom an event was published to, as far as it matters for an endpoint; none where that was not written down yet.
pub(crate) fn addressee(number: i64, endpoint: Id<id::Endpoint>) -> Option<Target> {
    match number {
        // A key begins with milliseconds since 1970, so it is none of the small numbers.
        _ if number == endpoint.key() => Some(Target::Endpoint(endpoint)),
        -1 => None,
        0 => Some(Target::Matching),
        1 => Some(Target::Distributions),
        // Nobody, or another one.
        _ => Some(Target::Nobody),
    }
}

pub(crate) fn state_numbers(state: DeliveryState) -> (i64, Option<i64>) {
    match state {
        DeliveryState::Pending => (0, None),
        DeliveryState::Delivered => (1, None),
        DeliveryState::Failed(FailReason::Exhausted) => (2, Some(0)),
        DeliveryState::Failed(FailReason::Stopped) => (2, Some(1)),
        DeliveryState::Failed(FailReason::EndpointDisabled) => (2, Some(2)),
        DeliveryState::Failed(FailReason::Expired) => (2, Some(3)),
        DeliveryState::Cancelled => (3, None),
        DeliveryState::Skipped => (4, None),
    }
}

pub(crate) fn state(row: &Row<'_>, column: usize) -> SqlResult<DeliveryState> {
    match (row.get(column)?, row.get::<Option<i64>>(column + 1)?) {
        (0, _) => Ok(DeliveryState::Pending),
        (1, _) => Ok(DeliveryState::Delivered),
        (2, Some(0)) => Ok(DeliveryState::Failed(FailReason::Exhausted)),
        (2, Some(1)) => Ok(DeliveryState::Failed(FailReason::Stopped)),
        (2, Some(2)) => Ok(DeliveryState::Failed(FailReason::EndpointDisabled)),
        (2, Some(3)) => Ok(DeliveryState::Failed(FailReason::Expired)),
        (3, _) => Ok(DeliveryState::Cancelled),
        (4, _) => Ok(DeliveryState::Skipped),
        (state, reason) => Err(unreadable(column, format!("state {state:?} {reason:?}"))),
    }
}

/// Columns of a delivery, in the order that [`delivery`] reads; with `d.` for joins.
pub(crate) const DELIVERY: &str = "d.id, d.event_id, d.endpoint_id, d.tenant_id, d.event_type, d.profile, d.state, d.reason, \
    d.attempts, d.due_at, d.series_attempts, d.series_started_at, d.series_single, d.created_at, d.completed_at, d.sequence, d.mode";
/// How many they are.
pub(crate) const DELIVERY_COLUMNS: usize = 17;

pub(crate) fn delivery(row: &Row<'_>, salt: u64) -> SqlResult<Delivery> {
    Ok(Delivery {
        id: Id::from_key(row.get(0)?, salt),
        event: Id::from_key(row.get(1)?, salt),
        endpoint: Id::from_key(row.get(2)?, salt),
        tenant: Id::from_key(row.get(3)?, salt),
        event_type: Arc::from(row.text(4)?),
        mode: mode(row, 16)?,
        profile: row.get(5)?,
        state: state(row, 6)?,
        attempts: row.get(8)?,
        due_at: time(row, 9)?,
        series: Series {
            attempts: row.get(10)?,
            started_at: time_opt(row, 11)?,
            single: row.get(12)?,
        },
        created_at: time(row, 13)?,
        completed_at: time_opt(row, 14)?,
    })
}

/// Columns of an event, in the order that [`event`] reads; with `e.` for joins.
pub(crate) const EVENT: &str = "e.id, e.application_id, e.tenant_id, e.type, e.mode, e.occurred_at, e.created_at, e.ordering_key, e.deliver_before, e.data, e.meta, e.traceparent";

pub(crate) const EVENT_SUMMARY: &str = "e.id, e.application_id, e.tenant_id, e.type, e.mode, e.occurred_at, e.created_at, e.ordering_key, e.deliver_before, e.meta, e.traceparent";

pub(crate) fn event_summary(row: &Row<'_>, salt: u64) -> SqlResult<EventSummary> {
    Ok(EventSummary {
        id: Id::from_key(row.get(0)?, salt),
        application: Id::from_key(row.get(1)?, salt),
        tenant: Id::from_key(row.get(2)?, salt),
        event_type: Arc::from(row.text(3)?),
        mode: mode(row, 4)?,
        occurred_at: time(row, 5)?,
        created_at: time(row, 6)?,
        ordering_key: row.get(7)?,
        deliver_before: time_opt(row, 8)?,
        meta: row.get::<Option<Vec<u8>>>(9)?.map(Bytes::from),
        traceparent: traceparent(row, 10)?,
    })
}

/// Reads an event from the columns that begin at `at`.
pub(crate) fn event(row: &Row<'_>, at: usize, salt: u64) -> SqlResult<Event> {
    Ok(Event {
        id: Id::from_key(row.get(at)?, salt),
        application: Id::from_key(row.get(at + 1)?, salt),
        tenant: Id::from_key(row.get(at + 2)?, salt),
        event_type: Arc::from(row.text(at + 3)?),
        mode: mode(row, at + 4)?,
        occurred_at: time(row, at + 5)?,
        created_at: time(row, at + 6)?,
        ordering_key: row.get(at + 7)?,
        deliver_before: time_opt(row, at + 8)?,
        data: Bytes::copy_from_slice(row.bytes(at + 9)?),
        meta: row.get::<Option<Vec<u8>>>(at + 10)?.map(Bytes::from),
        traceparent: traceparent(row, at + 11)?,
    })
}

/// One that does not read is none: it is only for whoever looks at traces.
fn traceparent(row: &Row<'_>, at: usize) -> SqlResult<Option<TraceParent>> {
    let text = row.text_or_null(at)?;
    Ok(text.and_then(|text| text.parse().ok()))
}

/// `name: value` lines. Neither can hold a line break: the transport would not have sent it.
pub(crate) fn header_lines(headers: &[(String, String)]) -> String {
    let mut text = String::with_capacity(
        headers
            .iter()
            .map(|(name, value)| name.len() + value.len() + 3)
            .sum(),
    );
    for (name, value) in headers {
        text.push_str(name);
        text.push_str(": ");
        text.push_str(value);
        text.push('\n');
    }
    text
}

fn headers(text: &str) -> Vec<(String, String)> {
    let pairs = text.lines().filter_map(|line| line.split_once(": "));
    pairs
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// Columns of an attempt, in the order that [`attempt`] reads.
pub(crate) const ATTEMPT: &str = "number, started_at, ended_at, url, request_headers, status, retry_after, reason, detail, \
    response_headers, response_body, truncated, dns_us, connect_us, tls_us, first_byte_us, total_us, manual, region, local_address, \
    (select text from rendering where id = rendering_id)";

pub(crate) fn attempt(row: &Row<'_>) -> SqlResult<Attempt> {
    let status: Option<u16> = row.get(5)?;
    let outcome = match status {
        Some(status) => Outcome::Answered {
            status,
            retry_after_secs: row.get(6)?,
        },
        None => {
            let reason: String = row.get(7)?;
            let reason = UnreachableReason::parse(&reason).ok_or_else(|| unreadable(7, reason))?;
            Outcome::Unreachable {
                reason,
                detail: row.get::<Option<String>>(8)?.unwrap_or_default(),
            }
        }
    };
    let response = match row.get::<Option<String>>(9)? {
        None => None,
        Some(text) => Some(Response {
            headers: headers(&text),
            body: Bytes::from(row.get::<Option<Vec<u8>>>(10)?.unwrap_or_default()),
            truncated: row.get(11)?,
        }),
    };
    Ok(Attempt {
        number: row.get(0)?,
        started_at: time(row, 1)?,
        ended_at: time(row, 2)?,
        url: row.get(3)?,
        request_headers: headers(row.text(4)?),
        outcome,
        response,
        timings: Timings {
            dns_micros: row.get(12)?,
            connect_micros: row.get(13)?,
            tls_micros: row.get(14)?,
            first_byte_micros: row.get(15)?,
            total_micros: row.get(16)?,
        },
        manual: row.get(17)?,
        egress: match row.get::<Option<String>>(19)? {
            None => None,
            Some(address) => Some(Egress {
                region: row.get::<Option<String>>(18)?.map(Arc::from),
                address: address.parse().map_err(|_| unreadable(19, address))?,
            }),
        },
        rendering: match row.get::<Option<String>>(20)? {
            None => None,
            // Without the rendering a body cannot be made again, so one that does not read is an error.
            Some(_) => Some(Arc::new(from_json(row, 20)?)),
        },
    })
}
