//! Where the owner is reached by other nodes, and that it lives: two rows of `meta` that those who wait read.
//!
//! The lock says who owns the database, and is free when its connection ends. A process that stands still keeps its
//! connection, and so the lock: it is known by its beat, and whoever waits ends its connection then. All times are the
//! database's.

use std::time::Duration;

use super::{OWNER_LOCK, number, schema};
use crate::sql::{Connection, Optional as _, SqlResult, params};

/// An owner that has not written its beat for so long stands still. It writes one each second.
const SILENT_MAX: Duration = Duration::from_secs(15);
/// The migration since which there is a place for the address.
const SINCE: i64 = 8;
/// The database's time in milliseconds.
const NOW: &str = "(extract(epoch from clock_timestamp()) * 1000)::bigint";

/// Nobody ends an owner that has only begun: bringing tables to a newer version takes as long as it takes.
pub(super) fn begin(connection: &Connection) -> SqlResult<()> {
    let sql = "update meta set value = ?1 where key = 'beat'";
    connection.execute(sql, [i64::MAX]).map(drop)
}

/// Says where this owner is reached, if anywhere.
pub(super) fn introduce(connection: &Connection, epoch: i64, url: Option<&str>) -> SqlResult<()> {
    let sql = "insert into meta (key, value, text) values ('leader', ?1, ?2)
               on conflict (key) do update set value = excluded.value, text = excluded.text";
    let url = url.map(str::to_owned);
    connection.execute(sql, params![epoch, url])?;
    let sql = "insert into meta (key, value) values ('beat', ?1) on conflict (key) do nothing";
    connection.execute(sql, [i64::MAX]).map(drop)
}

/// Says that the owner lives. Nobody waits for it to be on a disk, here or elsewhere.
pub(crate) fn beat(connection: &Connection) -> SqlResult<()> {
    connection.execute_batch(&format!(
        "begin; set local synchronous_commit = off; update meta set value = {NOW} where key = 'beat'; commit"
    ))
}

/// Whether the database acknowledges what a standby does not have yet.
pub(crate) fn has_no_standby(connection: &Connection) -> SqlResult<bool> {
    let sql = "select current_setting('synchronous_standby_names') = ''";
    connection.query_row(sql, (), |row| row.get(0))
}

/// Who owns a database, as far as it is written there.
#[derive(Debug, Clone, Default)]
pub struct Owner {
    /// Where other nodes reach it, if it says so.
    pub url: Option<String>,
    /// It has said lately that it lives.
    pub lives: bool,
}

/// Who owns it. Ends the connection of an owner that stands still.
pub(super) fn found(connection: &Connection) -> SqlResult<Owner> {
    if schema(connection)? < SINCE {
        return Ok(Owner::default());
    }
    let sql = format!("select {NOW} - value from meta where key = 'beat'");
    let silent: Option<i64> = connection
        .query_row(&sql, (), |row| row.get(0))
        .optional()?;
    let silent = silent.and_then(|millis| u64::try_from(millis).ok());
    let silent = silent.map(Duration::from_millis).unwrap_or_default();
    let lives = silent <= SILENT_MAX;
    if !lives {
        tracing::warn!(
            silent_secs = silent.as_secs(),
            "the server that owns the database stands still; its connection is ended"
        );
        end_owner(connection)?;
    }
    let sql = "select text from meta where key = 'leader'";
    let found = connection.query_row(sql, (), |row| row.get(0)).optional()?;
    let url = found.flatten();
    Ok(Owner { url, lives })
}

/// Ends the connection that has the owner's lock, if the database waits for its client: one that the database works for,
/// or that waits for a standby, does not stand still.
fn end_owner(connection: &Connection) -> SqlResult<()> {
    // The lock's number is kept in two halves.
    let (high, low) = (OWNER_LOCK >> 32, OWNER_LOCK & 0xFFFF_FFFF);
    let sql = format!(
        "select count(pg_terminate_backend(l.pid)) from pg_locks l join pg_stat_activity a on a.pid = l.pid
         where l.locktype = 'advisory' and l.granted and l.classid = {high} and l.objid = {low} and l.objsubid = 1
         and l.database = (select oid from pg_database where datname = current_database())
         and (a.state <> 'active' or a.wait_event_type = 'Client')"
    );
    number(connection, &sql).map(drop)
}
