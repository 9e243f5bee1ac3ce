//! Looks whether everything that is stored can be read, while a server may be using it.

use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;

use super::open;
use crate::OpenError;
use crate::convert::can_open;
use crate::misread::{Examined, Finding};
use crate::postgres::Opens;
use crate::read::Reader;
use crate::sql;
use crate::sql::SqlResult;

/// Mistakes of the file's structure that are told of one table.
const TOLD_MAX: u32 = 20;

/// Reads all that is stored in `directory`. Each finding names the table and, where it is known, the row.
///
/// # Errors
/// When there is no database, or none of it can be read.
pub fn examine(directory: &Path) -> Result<Examined, OpenError> {
    let file = directory.join(open::FILE);
    open::must_be_ours(&file)?;
    let wrap = |source| OpenError::from_sqlite(&file, source);
    let connection = open::open_reader(&file).map_err(wrap)?;
    let mut findings = Vec::new();
    // One after the other, so that each finding has the name of its table.
    for table in tables(&connection).map_err(|source| OpenError::from_sqlite(&file, source))? {
        structure(&connection, &table, &mut findings);
    }
    segments(&connection, &mut findings);
    let version: rusqlite::Result<u32> =
        connection.pragma_query_value(None, "user_version", |row| row.get(0));
    let is_current = version.is_ok_and(|version| version as usize == open::MIGRATIONS.len());
    if is_current {
        // Whose rows they are nobody asks: any salt will do.
        let reader = Reader::new(sql::Connection::Sqlite(connection), 0, Duration::ZERO);
        match reader.all_misread() {
            Ok(found) => findings.extend(found),
            Err(source) => {
                return Err(OpenError::Unreadable {
                    path: file.clone(),
                    source: Box::new(source),
                });
            }
        }
    }
    Ok(Examined {
        findings,
        is_current,
    })
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
