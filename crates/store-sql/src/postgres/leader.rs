//! Where the owner is reached by other nodes, and that it lives: two rows of `meta` that those who wait read.
//!
//! The lock says who owns the database, and is free when its connection ends. A process that stands still keeps its
//! connection, and so the lock: it is known by its beat, and whoever sees the same one for long ends that connection.

use super::{OWNER_LOCK, schema};
use crate::sql::{Connection, Optional as _, Row, SqlResult, params};

/// The migration since which there is a place for the address.
const SINCE: i64 = 8;
/// The database's time in milliseconds.
const NOW: &str = "(extract(epoch from clock_timestamp()) * 1000)::bigint";

/// What the beat of an owner is that has only begun: nobody ends it, since bringing tables to a newer version takes as long
/// as it takes.
const BEGINS: i64 = i64::MAX;
/// The lock's number is kept in two halves.
const LOCK_HALVES: (i64, i64) = (OWNER_LOCK >> 32, OWNER_LOCK & 0xFFFF_FFFF);

/// Says that an owner begins. Tables from before there were beats have no row to change, and whoever waits looks for none.
pub(super) const BEGIN: &str = "update meta set value = 9223372036854775807 where key = 'beat';";

/// Says where this owner is reached, if anywhere.
pub(super) fn introduce(connection: &Connection, epoch: i64, url: Option<&str>) -> SqlResult<()> {
    let sql = "insert into meta (key, value, text) values ('leader', ?1, ?2)
               on conflict (key) do update set value = excluded.value, text = excluded.text";
    let url = url.map(str::to_owned);
    connection.execute(sql, params![epoch, url])?;
    let sql = "insert into meta (key, value, text) values ('beat', ?1, pg_backend_pid()::text)
               on conflict (key) do update set value = excluded.value, text = excluded.text";
    // The first beat of its own comes within a second, when the server runs.
    connection.execute(sql, [BEGINS]).map(drop)
}

/// Says that the owner of this epoch lives, if the lock is held by this very connection; false where it is not. Nobody waits
/// for it to be on a disk, here or elsewhere.
pub(super) fn beat(connection: &Connection, epoch: i64) -> SqlResult<bool> {
    let (high, low) = LOCK_HALVES;
    let sql = format!(
        "update meta set value = {NOW}, text = pg_backend_pid()::text where key = 'beat'
         and exists (select 1 from meta where key = 'epoch' and value = ?1)
         and exists (select 1 from pg_locks l where l.pid = pg_backend_pid() and l.locktype = 'advisory' and l.granted
             and l.classid = {high} and l.objid = {low} and l.objsubid = 1)"
    );
    connection.begin()?;
    connection.execute_batch("set local synchronous_commit = off")?;
    let changed = connection.execute(&sql, [epoch])?;
    connection.execute_batch("commit")?;
    Ok(changed > 0)
}

/// Whether the database works for the owner of this epoch just now, or waits for a standby. A connection of its that waits for
/// the owner instead has lost the way to it, and is ended: the next one needs its lock.
pub(super) fn works_for(connection: &Connection, epoch: i64) -> SqlResult<bool> {
    let (high, low) = LOCK_HALVES;
    // Where it may not be seen what the connection does, it works; so does one that has asked something lately.
    let sql = format!(
        "select count(case when works then 1 end), count(case when not works then pg_terminate_backend(pid) end) from
         (select l.pid, (a.wait_event_type is distinct from 'Client' or coalesce(a.state_change > clock_timestamp() - interval '10 seconds', false)) as works
          from meta m, pg_locks l join pg_stat_activity a on a.pid = l.pid
          where m.key = 'epoch' and m.value = ?1 and l.locktype = 'advisory' and l.granted
          and l.classid = {high} and l.objid = {low} and l.objsubid = 1
          and l.database = (select oid from pg_database where datname = current_database())) as owner"
    );
    let works: i64 = connection.query_row(&sql, [epoch], |row| row.get(0))?;
    Ok(works > 0)
}

/// Whether the database acknowledges what a standby does not have yet.
pub(crate) fn has_no_standby(connection: &Connection) -> SqlResult<bool> {
    let sql = "select current_setting('synchronous_standby_names') = ''";
    connection.query_row(sql, (), |row| row.get(0))
}

/// Who owns a database, as far as it is written there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Owner {
    /// Where other nodes reach it, if it says so.
    pub url: Option<String>,
    /// The last sign of life that it gave: another one each second.
    pub beat: Option<Beat>,
}

/// A sign of life: when it was given, and over which connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beat(i64, String);

/// Who owns it.
pub(super) fn found(connection: &Connection) -> SqlResult<Owner> {
    if schema(connection)? < SINCE {
        return Ok(Owner::default());
    }
    let sql = "select value, text from meta where key = 'beat'";
    let row = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?));
    let beat: Option<(i64, Option<String>)> = connection.query_row(sql, (), row).optional()?;
    let beat = beat.and_then(|(at, pid)| (at != BEGINS).then_some(Beat(at, pid?)));
    let sql = "select text from meta where key = 'leader'";
    let url: Option<Option<String>> = connection.query_row(sql, (), |row| row.get(0)).optional()?;
    let url = url.flatten();
    Ok(Owner { url, beat })
}

/// Ends the connection of the owner that gave this sign of life last, if the database waits for it: one that the database
/// works for, or that waits for a standby, does not stand still. True when it was ended.
pub(super) fn end(connection: &Connection, beat: &Beat) -> SqlResult<bool> {
    let (high, low) = LOCK_HALVES;
    // Compared with the beat as it is now: an owner that has just given another one is left alone.
    let sql = format!(
        "select count(pg_terminate_backend(l.pid)) from meta b, pg_locks l join pg_stat_activity a on a.pid = l.pid
         where b.key = 'beat' and b.value = ?1 and b.text = ?2 and l.pid::text = b.text
         and l.locktype = 'advisory' and l.granted and l.classid = {high} and l.objid = {low} and l.objsubid = 1
         and l.database = (select oid from pg_database where datname = current_database())
         and a.wait_event_type = 'Client' and coalesce(a.state_change < clock_timestamp() - interval '10 seconds', true)"
    );
    let ended: i64 = connection.query_row(&sql, params![beat.0, beat.1], |row| row.get(0))?;
    Ok(ended > 0)
}
