//! Deleting a tenant or an application, and then, in small pieces, all that was its.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use postrider_core::audit::Actor;
use postrider_core::{Id, id};
use postrider_store::{Entity, Erased, Owner, StoreError, Task};

use crate::convert::aborted;
use crate::read::{read_application, read_tenant};
use crate::segments::keys_text;
use crate::sql::{Optional, SqlResult, params};
use crate::sqlite::checkpoint::Checkpointer;
use crate::sqlite::open::{BUSY_TIMEOUT_MS, Mark, checkpoint, copies_all, write_mark};
use crate::writer::Tx;
use tokio::time::Instant;

/// Between two times that the log is emptied for what was deleted: somebody may delete again and again.
const EMPTY_EVERY: Duration = Duration::from_secs(10);
/// So long it is only tried, and then once in as much time readers are waited for.
const EMPTY_PATIENCE: Duration = Duration::from_secs(60);
/// How long emptying the log waits for readers.
// Less than what statements wait: no write goes on meanwhile.
const EMPTY_WAIT: Duration = Duration::from_millis(500);

/// What a tenant has beside endpoints, events and deliveries: tables with a `tenant_id`, each with which
/// of its rows go. The entry of the deletion tells who did it.
const OF_TENANT: &[(&str, &str)] = &[
    ("notice", "true"),
    ("session", "true"),
    ("outbox", "true"),
    ("audit", "action <> 'tenant.deleted'"),
    // The deletion is a task too, of kind 1, and has to go on.
    ("task", "kind = 0"),
    ("endpoint", "true"),
];
/// Endpoints that are not deleted. By their kinds, since the index of those begins with them: there may be very many that are.
const OPEN_OF_TENANT: &str = "select id, tenant_id from endpoint where tenant_id = ?1 and kind in (0, 1, 2, 3) and deleted = 0 and tenant_id >= ?3 limit ?2";
/// By its tenants in their order, from the one that the last piece has come to: those before it have none.
const OPEN_OF_APPLICATION: &str = "select e.id, t.id from tenant t cross join endpoint e on e.tenant_id = t.id and e.kind in (0, 1, 2, 3) and e.deleted = 0
     where t.application_id = ?1 and t.id >= ?3 order by t.id limit ?2";
const OF_APPLICATION: &[(&str, &str)] = &[
    ("audit", "action <> 'application.deleted'"),
    ("task", "kind = 0"),
];

/// How far deletions have come, so that each piece begins where the one before it has ended. Forgotten, it is found again.
#[derive(Debug, Default)]
pub(crate) struct Erasing {
    /// Applications of whose tenants no endpoint is left open. One that somebody makes all the same ends with its tenant.
    closed: HashSet<i64>,
    /// For an application: no tenant before this one has an endpoint that is open.
    open_from: HashMap<i64, i64>,
    /// For a tenant's deliveries and events: in no segment before this one there are any.
    from: HashMap<(&'static str, i64), i64>,
}

impl Tx {
    /// See [`Erasing`].
    pub(crate) fn erasing_from(&self, of: (&'static str, i64)) -> i64 {
        self.erasing.from.get(&of).copied().unwrap_or(i64::MIN)
    }

    pub(crate) fn erase_from(&mut self, of: (&'static str, i64), segment: i64) {
        self.erasing.from.insert(of, segment);
    }

    pub(crate) fn delete_owner(
        &mut self,
        owner: Owner,
        task: &Task,
        by: &Actor,
    ) -> Result<(), StoreError> {
        match owner {
            Owner::Tenant(id) => {
                let key = self.key(id, Entity::Tenant)?;
                let before = read_tenant(&self.connection, self.salt, key).map_err(aborted)?;
                let before = before.ok_or(StoreError::not_found(Entity::Tenant))?;
                let sql = "delete from tenant where id = ?1";
                self.connection.execute(sql, [key]).map_err(aborted)?;
                self.fanout.forget(key);
                self.note(by, Some(&before), None).map_err(aborted)?;
            }
            Owner::Application(id) => {
                let key = self.key(id, Entity::Application)?;
                let before = read_application(&self.connection, self.salt, key);
                let before = before.map_err(aborted)?;
                let before = before.ok_or(StoreError::not_found(Entity::Application))?;
                let sql = "delete from application where id = ?1";
                self.connection.execute(sql, [key]).map_err(aborted)?;
                self.fanout.forget_application(key);
                self.note(by, Some(&before), None).map_err(aborted)?;
            }
        }
        // In the same transaction: what a deleted owner had is always erased by somebody.
        self.put_task(task)
    }

    /// The last piece is not known to be written: it is found again how far they have come.
    pub(crate) fn erase_anew(&mut self) {
        self.erasing = Erasing::default();
    }

    /// One piece of what is left of a deleted owner's.
    pub(crate) fn erase(&mut self, owner: Owner, limit: u32) -> Result<Erased, StoreError> {
        // What is erased is not to be found in the file either; elsewhere the zeros would cost too much.
        self.zero_what_is_deleted(true)?;
        let erased = self.erase_piece(owner, limit);
        self.zero_what_is_deleted(false)?;
        erased
    }

    pub(crate) fn zero_what_is_deleted(&self, on: bool) -> Result<(), StoreError> {
        let Some(connection) = self.connection.sqlite() else {
            return Ok(());
        };
        let set = connection.pragma_update_and_check(None, "secure_delete", on, |_| Ok(()));
        set.map_err(|error| aborted(error.into()))
    }

    fn erase_piece(&mut self, owner: Owner, limit: u32) -> Result<Erased, StoreError> {
        match owner {
            Owner::Tenant(id) => {
                let key = self.key(id, Entity::Tenant)?;
                self.erase_tenant(key, limit).map_err(aborted)
            }
            Owner::Application(id) => {
                let key = self.key(id, Entity::Application)?;
                self.erase_application(key, limit).map_err(aborted)
            }
        }
    }

    /// What was deleted stands in the log until that is emptied or written over.
    pub(crate) fn log_is_to_be_empty(&mut self) {
        self.log_holds_since.get_or_insert_with(Instant::now);
    }

    /// When the log is to be emptied next, if it is.
    pub(crate) fn log_is_due(&self) -> Option<Instant> {
        self.log_holds_since?;
        let last = self.log_emptied.map(|last| last + EMPTY_EVERY);
        Some(last.unwrap_or_else(Instant::now))
    }

    /// Empties the log where something that was deleted stands in it: not more often than [`EMPTY_EVERY`]. While
    /// somebody reads it cannot be, and everybody's writes would wait for them: it is done once in [`EMPTY_PATIENCE`].
    pub(crate) fn empty_log_in_time(&mut self) {
        if let Some(since) = self.log_holds_since
            && self.log_is_due().is_some_and(|due| due <= Instant::now())
        {
            self.log_emptied = Some(Instant::now());
            let is_long = since.elapsed() >= EMPTY_PATIENCE;
            let wait = if is_long { EMPTY_WAIT } else { Duration::ZERO };
            // Where it could not be, it is only tried again for as long.
            let is_empty = self.empty_log_waiting(wait);
            self.log_holds_since = match is_empty {
                true => None,
                false if is_long => Some(Instant::now()),
                false => Some(since),
            };
        }
    }

    /// Nobody waits any more.
    pub(crate) fn empty_log_at_end(&mut self) {
        if self.log_holds_since.is_some() {
            self.empty_log_waiting(EMPTY_WAIT);
        }
    }

    /// Whether it is empty.
    fn empty_log_waiting(&mut self, wait: Duration) -> bool {
        let Some(connection) = self.connection.sqlite() else {
            return true;
        };
        // While the log is being copied, nobody empties it.
        let copying = self.checkpointer.as_ref().map(Checkpointer::wait);
        // An empty log is what a lost one looks like to the next start: whoever is killed behind it had closed the store.
        let emptied = connection
            .busy_timeout(wait)
            .and_then(|()| write_mark(connection, Mark::Closed))
            .and_then(|()| checkpoint(connection, "truncate"));
        // Into the file, where it is looked for; while a reader is in the way of that, it is not done.
        let marked = write_mark(connection, Mark::Open).and_then(|()| copies_all(connection));
        let emptied = marked.and_then(|is_marked| Ok(emptied? && is_marked));
        drop(copying);
        let is_empty = matches!(emptied, Ok(true));
        if matches!(emptied, Ok(false)) && !wait.is_zero() {
            tracing::warn!(
                "the log could not be emptied after a deletion; it is written over in time, and emptied at the next clean end"
            );
        }
        let usual = BUSY_TIMEOUT_MS;
        let restored = connection.pragma_update(None, "busy_timeout", usual);
        if let Err(error) = emptied.and(restored) {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "the log could not be emptied after a deletion"
            );
        }
        is_empty
    }

    fn erase_application(&mut self, application: i64, limit: u32) -> SqlResult<Erased> {
        // Those of all its tenants first: what is sent cannot be rendered any more. Once: each look is at every tenant.
        if !self.erasing.closed.contains(&application) {
            let from = self.erasing.open_from.get(&application);
            let from = from.copied().unwrap_or(i64::MIN);
            let (closed, last) =
                self.close_endpoints(OPEN_OF_APPLICATION, application, limit, from)?;
            if let Some(last) = last {
                self.erasing.open_from.insert(application, last);
                return Ok(Erased::closing(closed));
            }
            self.erasing.open_from.remove(&application);
            self.erasing.closed.insert(application);
        }
        let sql = "select id from tenant where application_id = ?1 limit 1";
        let tenant: Option<i64> = self
            .connection
            .query_row(sql, [application], |row| row.get(0))
            .optional()?;
        if let Some(tenant) = tenant {
            let mut erased = self.erase_tenant(tenant, limit)?;
            if erased.done {
                // Last, because by its row the next piece finds it again.
                let sql = "delete from tenant where id = ?1";
                self.connection.execute(sql, [tenant])?;
                self.fanout.forget(tenant);
                erased.rows += 1;
                // Of this tenant all is gone; the application may have more.
                erased.done = false;
            }
            return Ok(erased);
        }
        for sql in [
            "delete from idempotency where (application_id, key) in
             (select application_id, key from idempotency where application_id = ?1 limit ?2)",
            "delete from event_type where (application_id, name) in
             (select application_id, name from event_type where application_id = ?1 limit ?2)",
        ] {
            let rows = self.connection.execute(sql, params![application, limit])?;
            if rows > 0 {
                return Ok(Erased::of(rows));
            }
        }
        let rows = self.erase_keys("application_id", application, limit)?
            + self.erase_users(application, limit)?;
        if rows > 0 {
            return Ok(Erased::of(rows));
        }
        let erased = self.erase_rows(OF_APPLICATION, "application_id", application, limit)?;
        if erased.done {
            self.erasing.closed.remove(&application);
        }
        Ok(erased)
    }

    fn erase_tenant(&mut self, tenant: i64, limit: u32) -> SqlResult<Erased> {
        let (closed, _) = self.close_endpoints(OPEN_OF_TENANT, tenant, limit, tenant)?;
        if !closed.is_empty() {
            self.fanout.forget(tenant);
            // Whoever made it meanwhile may have published to it too.
            self.erasing.from.retain(|(_, of), _| *of != tenant);
            return Ok(Erased::closing(closed));
        }
        // Attempts and deliveries before events: an event goes when no delivery is left that needs it.
        let deliveries = self.some_of_tenant("delivery", tenant, limit)?;
        let rows = self.forget_deliveries(&deliveries)?.rows;
        if rows > 0 {
            return Ok(Erased::of(rows));
        }
        let events = self.some_of_tenant("event", tenant, limit)?;
        let rows = self.forget_events(&events)?;
        if rows > 0 {
            return Ok(Erased::of(rows));
        }
        let rows = self.erase_keys("tenant_id", tenant, limit)?;
        if rows > 0 {
            return Ok(Erased::of(rows));
        }
        let erased = self.erase_rows(OF_TENANT, "tenant_id", tenant, limit)?;
        if erased.done {
            self.erasing.from.retain(|(_, of), _| *of != tenant);
        }
        Ok(erased)
    }

    /// Endpoints end first, so that nothing is sent while the rest goes. Returns those, and the last one's tenant.
    fn close_endpoints(
        &self,
        live: &str,
        owner: i64,
        limit: u32,
        from: i64,
    ) -> SqlResult<(Vec<Id<id::Endpoint>>, Option<i64>)> {
        let mut statement = self.connection.prepare_cached(live)?;
        let found: Vec<(i64, i64)> = statement.query_all(params![owner, limit, from], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
        drop(statement);
        let Some((_, last)) = found.last().copied() else {
            return Ok((Vec::new(), None));
        };
        let keys: Vec<i64> = found.into_iter().map(|(key, _)| key).collect();
        let text = keys_text(&keys);
        for sql in [
            "update endpoint set deleted = 1, headers = '[]', description = null where id in (select value from json_each(?1))",
            // At once, though the row stays to the last: nothing is signed for it any more.
            "delete from endpoint_secret where endpoint_id in (select value from json_each(?1))",
        ] {
            self.connection.execute(sql, [&text])?;
        }
        let closed = keys.into_iter().map(|key| self.id(key)).collect();
        Ok((closed, Some(last)))
    }

    fn erase_keys(&self, column: &str, owner: i64, limit: u32) -> SqlResult<usize> {
        // The same keys for all three: they are still there when what hangs on them is looked for.
        let page = format!("select id from api_key where {column} = ?1 limit ?2");
        let values = params![owner, limit];
        let sql = format!("delete from nonce where key_id in ({page})");
        let nonces = self.connection.execute(&sql, values)?;
        let sql = format!("delete from session where key_id in ({page})");
        let sessions = self.connection.execute(&sql, values)?;
        let sql = format!("delete from api_key where id in ({page})");
        Ok(nonces + sessions + self.connection.execute(&sql, values)?)
    }

    /// The console's users that are confined to an application.
    fn erase_users(&self, application: i64, limit: u32) -> SqlResult<usize> {
        let page = "select id from console_user where application_id = ?1 limit ?2";
        let values = params![application, limit];
        let sql = format!("delete from session where user_id in ({page})");
        let sessions = self.connection.execute(&sql, values)?;
        let sql = format!("delete from console_user where id in ({page})");
        Ok(sessions + self.connection.execute(&sql, values)?)
    }

    fn erase_rows(
        &self,
        tables: &[(&str, &str)],
        column: &str,
        owner: i64,
        limit: u32,
    ) -> SqlResult<Erased> {
        for (table, which) in tables {
            let sql = format!(
                "delete from {table} where id in (select id from {table} where {column} = ?1 and {which} limit ?2)"
            );
            let rows = self.connection.execute(&sql, params![owner, limit])?;
            if rows > 0 {
                return Ok(Erased::of(rows));
            }
        }
        // Who deleted it is kept; what it was called and whom it mailed is not.
        let sql = format!(
            "update audit set before = null where {column} = ?1 and action like '%.deleted'"
        );
        self.connection.execute(&sql, [owner])?;
        Ok(Erased {
            closed: Vec::new(),
            rows: 0,
            done: true,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sqlite::open::plan;

    /// Each piece of a deletion asks once more whether an endpoint is open.
    #[test]
    fn endpoints_that_are_deleted_are_not_looked_at_again() -> SqlResult<()> {
        for sql in [OPEN_OF_TENANT, OPEN_OF_APPLICATION] {
            let plan = plan(sql, [1, 250, 1])?;
            assert!(plan.contains("INDEX endpoint_listed"), "{plan}");
        }
        Ok(())
    }
}
