//! Looks whether everything that is stored can be read, while a server may be using it.

use std::path::Path;

use postrider_store::StoreError;
use rusqlite::Connection;

use super::open;
use crate::OpenError;
use crate::convert::{can_open, from_json, is_unreadable};
use crate::postgres::Opens;
use crate::sql;
use crate::sql::SqlResult;
use crate::sql::{Row, SqlError, unreadable};

/// Something that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub table: String,
    /// The row's key in the database; none when it is about the table as a whole.
    pub row: Option<i64>,
    pub what: String,
}

/// Mistakes of the file's structure that are told of one table.
const TOLD_MAX: u32 = 20;

/// Texts that hold JSON, by table and column.
const JSON: &[(&str, &str, &str)] = &[
    ("application", "id", "settings"),
    ("tenant", "id", "settings"),
    ("tenant", "id", "metadata"),
    ("endpoint", "id", "metadata"),
    ("endpoint", "id", "subscription"),
    ("endpoint", "id", "content_filter"),
    ("endpoint", "id", "headers"),
    ("endpoint", "id", "distribution"),
    ("rendering", "id", "text"),
    ("session", "id", "terms"),
];

/// Numbers that stand for a few values, by table and column, with the greatest.
const NUMBERS: &[(&str, &str, &str, i64)] = &[
    ("endpoint", "id", "kind", 3),
    ("endpoint", "id", "mode", 1),
    ("endpoint", "id", "ordering", 2),
    ("event", "id", "mode", 1),
    ("delivery", "id", "mode", 1),
    ("delivery", "id", "state", 4),
    ("console_user", "id", "role", 2),
];

/// Reads all that is stored in `directory`. Each finding names the table and, where it is known, the row.
///
/// # Errors
/// When there is no database, or none of it can be read.
pub fn examine(directory: &Path) -> Result<Vec<Finding>, OpenError> {
    let file = directory.join(open::FILE);
    open::must_be_ours(&file)?;
    let wrap = |source| OpenError::from_sqlite(&file, source);
    let connection = open::open_reader(&file).map_err(wrap)?;
    let mut findings = Vec::new();
    // One after the other, so that each finding has the name of its table.
    for table in tables(&connection).map_err(|source| OpenError::from_sqlite(&file, source))? {
        structure(&connection, &table, &mut findings);
    }
    let json = JSON.iter().map(|(table, key, column)| (table, key, column));
    let numbers = NUMBERS.iter();
    let numbers = numbers.map(|(table, key, column, _)| (table, key, column));
    for (table, key, column) in json.chain(numbers) {
        values(&connection, table, key, column, &mut findings, |row| {
            must_read(row, 1, table, column)
        });
    }
    orphans(&connection, &mut findings);
    segments(&connection, &mut findings);
    Ok(findings)
}

/// Whether a secret that is stored in a directory opens; true where there is none.
///
/// # Errors
/// When there is no database of ours.
pub fn opens(directory: &Path, opens: &Opens) -> Result<bool, OpenError> {
    let file = directory.join(open::FILE);
    open::must_be_ours(&file)?;
    let connection = open::open_reader(&file);
    let connection = connection.map_err(|source| OpenError::from_sqlite(&file, source))?;
    Ok(can_open(&sql::Connection::Sqlite(connection), opens))
}

/// Reads a value that stands for something, as the server does; any other is as good as another.
pub(crate) fn must_read(
    row: &rusqlite::Row<'_>,
    at: usize,
    table: &str,
    column: &str,
) -> SqlResult<()> {
    let is = |known: &str, of: &str| known == table && of == column;
    if JSON.iter().any(|(known, _, of)| is(known, of)) {
        return match row.get_ref(at)? {
            rusqlite::types::ValueRef::Null => Ok(()),
            _ => from_json::<serde_json::Value>(&Row::Sqlite(row), at).map(drop),
        };
    }
    let Some((_, _, _, max)) = NUMBERS.iter().find(|(known, _, of, _)| is(known, of)) else {
        return Ok(());
    };
    let number: i64 = row.get(at)?;
    if (0..=*max).contains(&number) {
        return Ok(());
    }
    let what = format!("{number} is no {column}");
    Err(unreadable(at, what))
}

pub(crate) fn tables(connection: &Connection) -> SqlResult<Vec<String>> {
    let sql = "select name from sqlite_master where type = 'table' and name not like 'sqlite_%' order by name";
    let mut statement = connection.prepare(sql)?;
    let names = statement.query_map([], |row| row.get(0))?;
    Ok(names.collect::<rusqlite::Result<_>>()?)
}

/// Damaged pages, and indexes that disagree with their table.
fn structure(connection: &Connection, table: &str, findings: &mut Vec<Finding>) {
    let finding = |what: String| Finding {
        table: table.to_owned(),
        row: None,
        what,
    };
    let checked = connection
        .prepare(&format!("pragma integrity_check({table})"))
        .and_then(|mut statement| {
            let rows = statement.query_map([], |row| row.get::<_, String>(0))?;
            rows.take(TOLD_MAX as usize)
                .collect::<rusqlite::Result<Vec<_>>>()
        });
    match checked {
        Ok(told) => findings.extend(told.into_iter().filter(|told| told != "ok").map(finding)),
        Err(error) => findings.push(finding(error.to_string())),
    }
}

/// Every value of a column, read as the server reads it.
fn values(
    connection: &Connection,
    table: &str,
    key: &str,
    column: &str,
    findings: &mut Vec<Finding>,
    read: impl Fn(&rusqlite::Row<'_>) -> SqlResult<()>,
) {
    let finding = |row, what: String| Finding {
        table: table.to_owned(),
        row,
        what: format!("{column}: {what}"),
    };
    let sql = format!("select {key}, {column} from {table} order by {key}");
    let mut looked = || {
        let mut statement = connection.prepare(&sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            match read(row) {
                Ok(()) => {}
                Err(error) if is_unreadable(&error) => {
                    findings.push(finding(row.get(0).ok(), error.to_string()));
                }
                Err(error) => return Err(error),
            }
        }
        Ok::<_, SqlError>(())
    };
    if let Err(error) = looked() {
        findings.push(finding(None, StoreError::aborted(error).to_string()));
    }
}

/// Deliveries whose event, endpoint or profile is not there: they can never be sent.
fn orphans(connection: &Connection, findings: &mut Vec<Finding>) {
    for (table, column, key) in [
        ("event", "event_id", "id"),
        ("endpoint", "endpoint_id", "id"),
        ("profile", "profile", "version"),
    ] {
        // Of an event that is being written in pieces the deliveries come first; what is left of one goes when a server has the store.
        let begun = "not exists (select 1 from meta where key = 'fan_out ' || d.event_id)";
        let sql = format!(
            "select id from delivery d where state = 0 and not exists (select 1 from {table} where {key} = d.{column}) and {begun} limit {TOLD_MAX}"
        );
        let found = connection.prepare(&sql).and_then(|mut statement| {
            let rows = statement.query_map([], |row| row.get(0))?;
            rows.collect::<rusqlite::Result<Vec<i64>>>()
        });
        // What cannot be read at all `structure` has told of.
        for row in found.unwrap_or_default() {
            findings.push(Finding {
                table: "delivery".to_owned(),
                row: Some(row),
                what: format!("its {table} is not there, so it cannot be sent"),
            });
        }
    }
}

/// The migration since which segments count attempts.
const OUTCOMES_SINCE: i64 = 14;

/// Segments that lack something, or count what is not there: lists and counts would be wrong.
fn segments(connection: &Connection, findings: &mut Vec<Finding>) {
    // Tallies are compared from both sides: `except` tells what one has and the other lacks.
    let sql = "select number from segment s where (select count(*) from delivery where id between first_key and last_key) <>
                   (select count(*) from delivery_of_tenant where segment = s.number)
               or (select count(*) from delivery where id between first_key and last_key) <>
                   (select count(*) from delivery_of_endpoint where segment = s.number)
               or (select count(*) from event where id between first_key and last_key) <>
                   (select count(*) from event_of_tenant where segment = s.number)
               or exists (select tenant_id, state, count(*), sum(attempts) from delivery where id between first_key and last_key
                          group by tenant_id, state
                          except select tenant_id, state, sum(deliveries), sum(attempts) from tally where segment = s.number
                          group by tenant_id, state)
               or exists (select tenant_id, state, sum(deliveries), sum(attempts) from tally where segment = s.number
                          group by tenant_id, state
                          except select tenant_id, state, count(*), sum(attempts) from delivery where id between first_key and last_key
                          group by tenant_id, state)
               order by number";
    wrong_segments(connection, sql, findings);
    // A store of an earlier version has no such table.
    let version: rusqlite::Result<i64> =
        connection.pragma_query_value(None, "user_version", |row| row.get(0));
    if version.is_ok_and(|version| version >= OUTCOMES_SINCE) {
        let sql = "select number from segment s where number >= (select value from meta where key = 'outcomes_from')
                   and (select coalesce(sum(attempts), 0) from outcome_tally where segment = s.number) <>
                       (select count(*) from delivery d cross join attempt a on a.delivery_id = d.id where d.id between first_key and last_key)
                   order by number";
        wrong_segments(connection, sql, findings);
    }
}

/// Tells of the segments that a statement finds.
fn wrong_segments(connection: &Connection, sql: &str, findings: &mut Vec<Finding>) {
    let found = connection.prepare(sql).and_then(|mut statement| {
        let rows = statement.query_map([], |row| row.get(0))?;
        rows.take(TOLD_MAX as usize)
            .collect::<rusqlite::Result<Vec<i64>>>()
    });
    match found {
        Ok(found) => findings.extend(found.into_iter().map(|row| Finding {
            table: "segment".to_owned(),
            row: Some(row),
            what: "it does not hold what its deliveries and events are; lists and counts lack something. Stop the server and run `postrider doctor --rebuild`".to_owned(),
        })),
        Err(error) => findings.push(Finding {
            table: "segment".to_owned(),
            row: None,
            what: error.to_string(),
        }),
    }
}
