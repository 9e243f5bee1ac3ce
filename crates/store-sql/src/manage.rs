//! Writes to applications, tenants, endpoints, profiles and tasks.

use std::time::Duration;

use postrider_core::audit::Actor;
use postrider_core::delivery::ProfileVersion;
use postrider_core::endpoint::{Endpoint, EndpointKind};
use postrider_core::health::Health;
use postrider_core::tenant::{Application, EventType, Tenant};
use postrider_core::{Id, Timestamp, id};
use postrider_store::{
    ApplicationChange, EndpointChange, Entity, Rule, StoreError, Task, TenantChange, Ways,
};

use crate::convert::{
    aborted, kind_number, mode_number, ordering_number, task_kind_number, to_json,
};
use crate::read::{
    EVENT_TYPE, event_type_row, read_application, read_endpoint, read_tenant, task_state,
};
use crate::sql::{Connection, Failure, Optional, SqlError, SqlResult, params};
use crate::writer::Tx;

/// Rows of one kind that one sweep deletes at once; the writer is not kept for longer.
const SWEPT_MAX: u32 = 5_000;
/// So many of a tenant's callbacks are asked whether something waits for them, when one has to go for a new one: the oldest
/// that were not asked yet. When something waits for each of them the new one is refused, and the next event asks others: the
/// writer does not ask ten thousand for each.
const CALLBACKS_ASKED: u32 = 64;
/// Tenants of whom it is known which were asked.
const ASKED_MAX: usize = 1_000;
/// How long an event of the outbox stays that was refused.
const REFUSED_KEPT: Duration = Duration::from_secs(30 * 24 * 3_600);

/// A unique index that refuses a row tells the caller that a name is taken.
pub(crate) fn taken(error: SqlError) -> StoreError {
    match error.failure() {
        Failure::Taken => StoreError::conflict(Rule::NameTaken),
        _ => aborted(error),
    }
}

pub(crate) fn write_health(
    connection: &Connection,
    endpoint: i64,
    health: &Health,
) -> SqlResult<()> {
    let sql = "update endpoint set disabled_reason = ?2, disabled_at = ?3, consecutive_failures = ?4, failing_since = ?5 where id = ?1";
    connection.prepare_cached(sql)?.execute(params![
        endpoint,
        health.disabled.map(|disabled| disabled.reason.as_str()),
        health.disabled.map(|disabled| disabled.at.as_micros()),
        health.consecutive_failures,
        health.failing_since.map(Timestamp::as_micros),
    ])?;
    Ok(())
}

impl Tx {
    pub(crate) fn create_application(
        &mut self,
        application: &Application,
        by: &Actor,
    ) -> Result<(), StoreError> {
        let sql = "insert into application (id, name, profile, settings, created_at, updated_at) values (?1, ?2, ?3, ?4, ?5, ?6)";
        let values = params![
            application.id.key(),
            application.name,
            application.profile,
            to_json(&application.settings),
            application.created_at.as_micros(),
            application.updated_at.as_micros()
        ];
        self.connection.execute(sql, values).map_err(taken)?;
        self.note(by, None, Some(application)).map_err(aborted)
    }

    pub(crate) fn update_application(
        &mut self,
        id: Id<id::Application>,
        change: ApplicationChange,
        by: &Actor,
    ) -> Result<Application, StoreError> {
        let key = self.key(id, Entity::Application)?;
        let before = read_application(&self.connection, self.salt, key)
            .map_err(aborted)?
            .ok_or(StoreError::not_found(Entity::Application))?;
        let mut application = before.clone();
        // Inside the transaction: of two changes at once the second one begins with what the first one made.
        change(&mut application)?;
        if application.profile != before.profile && self.has_tenants(key)? {
            return Err(StoreError::conflict(Rule::ProfileInUse));
        }
        let sql = "update application set name = ?2, profile = ?3, settings = ?4, updated_at = ?5 where id = ?1";
        let values = params![
            key,
            application.name,
            application.profile,
            to_json(&application.settings),
            application.updated_at.as_micros()
        ];
        self.connection.execute(sql, values).map_err(taken)?;
        if Ways::are_others(&before.settings, &application.settings) {
            // Who is told of failures has changed for all its tenants.
            self.fanout.forget_application(key);
        }
        self.note(by, Some(&before), Some(&application))
            .map_err(aborted)?;
        Ok(application)
    }

    fn has_tenants(&self, application: i64) -> Result<bool, StoreError> {
        let sql = "select 1 from tenant where application_id = ?1 limit 1";
        let mut statement = self.connection.prepare_cached(sql).map_err(aborted)?;
        statement.exists([application]).map_err(aborted)
    }

    pub(crate) fn create_tenant(
        &mut self,
        tenant: &Tenant,
        profile: &str,
        by: &Actor,
    ) -> Result<(), StoreError> {
        let application = self.key(tenant.application, Entity::Application)?;
        let sql = "select profile from application where id = ?1";
        let is: Option<String> = self
            .connection
            .query_row(sql, [application], |row| row.get(0))
            .optional()
            .map_err(aborted)?;
        let is = is.ok_or(StoreError::not_found(Entity::Application))?;
        if is != profile {
            return Err(StoreError::conflict(Rule::ChangedMeanwhile));
        }
        let sql = "insert into tenant (id, application_id, name, external_id, settings, created_at, updated_at,
                   live_secret, live_since, test_secret, test_since, metadata)
                   values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)";
        let values = params![
            tenant.id.key(),
            application,
            tenant.name,
            tenant.external_id,
            to_json(&tenant.settings),
            tenant.created_at.as_micros(),
            tenant.updated_at.as_micros(),
            tenant.live_secret.sealed,
            tenant.live_secret.since.as_micros(),
            tenant.test_secret.sealed,
            tenant.test_secret.since.as_micros(),
            to_json(&tenant.metadata)
        ];
        self.connection.execute(sql, values).map_err(taken)?;
        self.note(by, None, Some(tenant)).map_err(aborted)
    }

    pub(crate) fn update_tenant(
        &mut self,
        id: Id<id::Tenant>,
        change: TenantChange,
        by: &Actor,
    ) -> Result<Tenant, StoreError> {
        let key = self.key(id, Entity::Tenant)?;
        let before = read_tenant(&self.connection, self.salt, key)
            .map_err(aborted)?
            .ok_or(StoreError::not_found(Entity::Tenant))?;
        let mut tenant = before.clone();
        change(&mut tenant)?;
        let sql = "update tenant set name = ?2, settings = ?3, updated_at = ?4, live_secret = ?5, live_since = ?6,
                   test_secret = ?7, test_since = ?8, external_id = ?9, metadata = ?10 where id = ?1";
        let values = params![
            key,
            tenant.name,
            to_json(&tenant.settings),
            tenant.updated_at.as_micros(),
            tenant.live_secret.sealed,
            tenant.live_secret.since.as_micros(),
            tenant.test_secret.sealed,
            tenant.test_secret.since.as_micros(),
            tenant.external_id,
            to_json(&tenant.metadata)
        ];
        self.connection.execute(sql, values).map_err(taken)?;
        if tenant.settings != before.settings {
            let renewed = self.fanout.renew_ways(&self.connection, key);
            renewed.map_err(aborted)?;
        }
        self.note(by, Some(&before), Some(&tenant))
            .map_err(aborted)?;
        Ok(tenant)
    }

    pub(crate) fn must_exist(
        &self,
        table: &str,
        key: i64,
        entity: Entity,
    ) -> Result<(), StoreError> {
        // Instead of foreign keys, which would cost each row of a hot table a look into another one.
        let sql = format!("select 1 from {table} where id = ?1");
        let found = self
            .connection
            .prepare_cached(&sql)
            .and_then(|mut s| s.exists([key]))
            .map_err(aborted)?;
        if found {
            Ok(())
        } else {
            Err(StoreError::not_found(entity))
        }
    }

    pub(crate) fn put_event_type(
        &mut self,
        mut event_type: EventType,
        seen: Option<&EventType>,
        max: usize,
        by: &Actor,
    ) -> Result<EventType, StoreError> {
        let application = self.key(event_type.application, Entity::Application)?;
        self.must_exist("application", application, Entity::Application)?;
        let before = self.event_type(event_type.application, &event_type.name)?;
        if before.as_ref() != seen {
            return Err(StoreError::conflict(Rule::ChangedMeanwhile));
        }
        match &before {
            Some(before) => event_type.created_at = before.created_at,
            None => {
                let sql = "select count(*) from event_type where application_id = ?1";
                let count: i64 = self
                    .connection
                    .query_row(sql, [application], |row| row.get(0))
                    .map_err(aborted)?;
                if usize::try_from(count).unwrap_or(usize::MAX) >= max {
                    return Err(StoreError::conflict(Rule::EventTypesMax));
                }
            }
        }
        let sql = "insert into event_type (application_id, name, description, schema, example, created_at, vendor) values (?1, ?2, ?3, ?4, ?5, ?6, ?7)
                   on conflict (application_id, name) do update set description = excluded.description, schema = excluded.schema,
                   example = excluded.example, vendor = excluded.vendor";
        let values = params![
            application,
            event_type.name,
            event_type.description,
            event_type.schema,
            event_type.example,
            event_type.created_at.as_micros(),
            event_type.vendor
        ];
        self.connection.execute(sql, values).map_err(aborted)?;
        self.note(by, before.as_ref(), Some(&event_type))
            .map_err(aborted)?;
        Ok(event_type)
    }

    fn event_type(
        &self,
        application: Id<id::Application>,
        name: &str,
    ) -> Result<Option<EventType>, StoreError> {
        let sql = format!("{EVENT_TYPE} where application_id = ?1 and name = ?2");
        self.connection
            .prepare_cached(&sql)
            .and_then(|mut statement| {
                let values = params![application.key(), name];
                statement
                    .query_row(values, |row| event_type_row(row, application))
                    .optional()
            })
            .map_err(aborted)
    }

    pub(crate) fn delete_event_type(
        &mut self,
        application: Id<id::Application>,
        name: &str,
        by: &Actor,
    ) -> Result<(), StoreError> {
        let key = self.key(application, Entity::EventType)?;
        let before = self
            .event_type(application, name)?
            .ok_or(StoreError::not_found(Entity::EventType))?;
        let sql = "delete from event_type where application_id = ?1 and name = ?2";
        self.connection
            .execute(sql, params![key, name])
            .map_err(aborted)?;
        self.note(by, Some(&before), None).map_err(aborted)
    }

    pub(crate) fn create_endpoint(
        &mut self,
        endpoint: &Endpoint,
        max: Option<u32>,
        by: &Actor,
    ) -> Result<(), StoreError> {
        let tenant = self.key(endpoint.tenant, Entity::Tenant)?;
        self.must_exist("tenant", tenant, Entity::Tenant)?;
        let (kind, mode) = (kind_number(&endpoint.kind), mode_number(endpoint.mode));
        if let Some(max) = max {
            let sql = "select count(*) from endpoint where tenant_id = ?1 and mode = ?2 and kind = ?3 and deleted = 0";
            let count: u32 = self
                .connection
                .query_row(sql, params![tenant, mode, kind], |row| row.get(0))
                .map_err(aborted)?;
            if count >= max {
                // Callbacks come with events, so nobody is there to delete the old ones.
                let idle = match endpoint.kind {
                    EndpointKind::Callback => self.idle_callback(tenant, mode).map_err(aborted)?,
                    _ => None,
                };
                let idle = idle.ok_or(StoreError::conflict(Rule::EndpointsMax))?;
                self.delete_endpoint(self.id(idle), by)?;
            }
        }
        // What never changes; the rest comes with `write_endpoint`, which knows it all for changes too.
        let sql = "insert into endpoint (id, application_id, tenant_id, kind, url, subscription, mode, headers, ordering, created_at, updated_at)
                   values (?1, ?2, ?3, ?4, '', '', ?5, '', 0, ?6, ?6)";
        let values = params![
            endpoint.id.key(),
            endpoint.application.key(),
            tenant,
            kind,
            mode,
            endpoint.created_at.as_micros()
        ];
        self.connection.execute(sql, values).map_err(aborted)?;
        // Here speak the unique indexes of callbacks' URLs and of external ids.
        self.write_endpoint(endpoint).map_err(taken)?;
        self.fanout.put(endpoint);
        self.note(by, None, Some(endpoint)).map_err(aborted)
    }

    /// The oldest callback that nothing waits for, of the next [`CALLBACKS_ASKED`]. Those that something waits for stay, and
    /// would be asked again each time.
    fn idle_callback(&mut self, tenant: i64, mode: i64) -> SqlResult<Option<i64>> {
        let after = self.callbacks_asked.remove(&(tenant, mode)).unwrap_or(0);
        let sql = "select max(id), count(*) from (select id from endpoint where tenant_id = ?1 and kind = 1 and mode = ?2 and deleted = 0
                   and id > ?4 order by id limit ?3) as asked";
        let values = params![tenant, mode, CALLBACKS_ASKED, after];
        let (last, asked): (Option<i64>, u32) = self
            .connection
            .prepare_cached(sql)?
            .query_row(values, |row| Ok((row.get(0)?, row.get(1)?)))?;
        let sql = "select id from (select id from endpoint where tenant_id = ?1 and kind = 1 and mode = ?2 and deleted = 0
                   and id > ?4 order by id limit ?3) as oldest
                   where not exists (select 1 from delivery where endpoint_id = oldest.id and state = 0) order by id limit 1";
        let mut statement = self.connection.prepare_cached(sql)?;
        let idle: Option<i64> = statement.query_row(values, |row| row.get(0)).optional()?;
        drop(statement);
        // Behind the last of all it begins with the first again.
        let is_last = idle.is_none() && asked < CALLBACKS_ASKED;
        if is_last && after > 0 {
            return self.idle_callback(tenant, mode);
        }
        if let Some(after) = idle.or(last).filter(|_| !is_last) {
            if self.callbacks_asked.len() >= ASKED_MAX {
                self.callbacks_asked.clear();
            }
            self.callbacks_asked.insert((tenant, mode), after);
        }
        Ok(idle)
    }

    /// Writes all that can change.
    fn write_endpoint(&self, endpoint: &Endpoint) -> SqlResult<()> {
        let key = endpoint.id.key();
        let (owner, distribution) = match &endpoint.kind {
            EndpointKind::Registered | EndpointKind::Callback => (None, None),
            EndpointKind::Key(owner) => (Some(owner.key()), None),
            EndpointKind::Distribution(distribution) => (None, Some(to_json(distribution))),
        };
        let sql = "update endpoint set url = ?2, description = ?3, subscription = ?4, headers = ?5, rate_limit = ?6, ordering = ?7,
                   updated_at = ?8, key_id = ?9, distribution = ?10, form = ?11, content_filter = ?12,
                   external_id = ?13, metadata = ?14 where id = ?1";
        self.connection.execute(
            sql,
            params![
                key,
                endpoint.url,
                endpoint.description,
                to_json(&endpoint.subscription),
                to_json(&endpoint.headers),
                endpoint.rate_limit,
                ordering_number(endpoint.ordering),
                endpoint.updated_at.as_micros(),
                owner,
                distribution,
                endpoint.form,
                endpoint.filter.as_ref().map(to_json),
                endpoint.external_id,
                to_json(&endpoint.metadata),
            ],
        )?;
        write_health(&self.connection, key, &endpoint.health)?;
        self.connection
            .execute("delete from endpoint_secret where endpoint_id = ?1", [key])?;
        // All anew: a secret that comes or goes moves the places of the others.
        for (position, secret) in (0_i64..).zip(&endpoint.secrets) {
            let sql = "insert into endpoint_secret (endpoint_id, position, sealed, created_at, expires_at) values (?1, ?2, ?3, ?4, ?5)";
            let expires_at = secret.expires_at.map(Timestamp::as_micros);
            self.connection.execute(
                sql,
                params![
                    key,
                    position,
                    secret.sealed,
                    secret.created_at.as_micros(),
                    expires_at
                ],
            )?;
        }
        Ok(())
    }

    fn live_endpoint(&self, id: Id<id::Endpoint>) -> Result<Endpoint, StoreError> {
        let key = self.key(id, Entity::Endpoint)?;
        let found = read_endpoint(&self.connection, self.salt, key).map_err(aborted)?;
        found
            .filter(|(_, deleted)| !deleted)
            .map(|(endpoint, _)| endpoint)
            .ok_or(StoreError::not_found(Entity::Endpoint))
    }

    pub(crate) fn update_endpoint(
        &mut self,
        id: Id<id::Endpoint>,
        change: EndpointChange,
        by: &Actor,
    ) -> Result<Endpoint, StoreError> {
        let before = self.live_endpoint(id)?;
        let mut endpoint = before.clone();
        change(&mut endpoint)?;
        self.write_endpoint(&endpoint).map_err(taken)?;
        self.fanout.put(&endpoint);
        self.note(by, Some(&before), Some(&endpoint))
            .map_err(aborted)?;
        Ok(endpoint)
    }

    pub(crate) fn delete_endpoint(
        &mut self,
        id: Id<id::Endpoint>,
        by: &Actor,
    ) -> Result<(), StoreError> {
        let before = self.live_endpoint(id)?;
        self.connection
            .execute(
                // What records need of it stays; what took room is let go.
                "update endpoint set deleted = 1, headers = '[]', description = null, metadata = '{}', content_filter = null,
                 subscription = case when kind = 3 then subscription else '[\"*\"]' end, updated_at = ?2 where id = ?1",
                [id.key(), by.at.as_micros()],
            )
            .map_err(aborted)?;
        self.connection
            .execute(
                "delete from endpoint_secret where endpoint_id = ?1",
                [id.key()],
            )
            .map_err(aborted)?;
        self.fanout.take_out(&before);
        self.note(by, Some(&before), None).map_err(aborted)
    }

    pub(crate) fn put_profile(
        &mut self,
        name: &str,
        source: &str,
    ) -> Result<ProfileVersion, StoreError> {
        let sql = "select version from profile where name = ?1 and source = ?2";
        let known = self
            .connection
            .query_row(sql, params![name, source], |row| row.get(0))
            .optional()
            .map_err(aborted)?;
        // The same text is the same version, so that a start adds none.
        if let Some(version) = known {
            return Ok(version);
        }
        let sql = "insert into profile (name, source) values (?1, ?2) returning version";
        self.connection
            .query_row(sql, params![name, source], |row| row.get(0))
            .map_err(aborted)
    }

    pub(crate) fn put_task(&mut self, task: &Task) -> Result<(), StoreError> {
        let (state, error) = task_state(&task.state);
        // One that has ended stays as it ended, whatever is noted of its progress afterwards; but who ran it may tell later
        // than who stopped it, and knows what was done.
        let sql = "insert into task (id, application_id, tenant_id, request, state, error, done, skipped, cursor, created_at, finished_at, kind, total)
                   select ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13
                   where cast(?12 as bigint) = 1 or exists (select 1 from tenant where id = ?3) -- not a replay of a deleted tenant's
                   on conflict (id) do update set state = case when task.state = 0 then excluded.state else task.state end,
                   error = case when task.state = 0 then excluded.error else task.error end, done = excluded.done,
                   skipped = excluded.skipped, total = coalesce(excluded.total, task.total), cursor = coalesce(excluded.cursor, task.cursor),
                   finished_at = coalesce(task.finished_at, excluded.finished_at)
                   where task.state = 0 or (task.done <= excluded.done and task.skipped <= excluded.skipped)";
        let values = params![
            task.id.key(),
            task.application.key(),
            task.tenant.map_or(0, Id::key),
            task.request,
            state,
            error,
            task.done.cast_signed(),
            task.skipped.cast_signed(),
            task.cursor,
            task.created_at.as_micros(),
            task.finished_at.map(Timestamp::as_micros),
            task_kind_number(task.kind),
            task.total.map(u64::cast_signed),
        ];
        self.connection
            .execute(sql, values)
            .map_err(aborted)
            .map(drop)
    }

    /// One page of what nobody asks for again; true when there may be more.
    pub(crate) fn sweep(
        &mut self,
        idempotency_before: Timestamp,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let delete = |sql: &str, before: Timestamp| {
            self.connection
                .execute(sql, params![before.as_micros(), SWEPT_MAX])
                .map_err(aborted)
        };
        let keys = delete(
            "delete from idempotency where (application_id, key) in
             (select application_id, key from idempotency where at < ?1 order by at limit ?2)",
            idempotency_before,
        )?;
        let nonces = delete(
            "delete from nonce where (key_id, nonce) in
             (select key_id, nonce from nonce where expires_at <= ?1 order by expires_at limit ?2)",
            now,
        )?;
        let sessions = delete(
            "delete from session where id in
             (select id from session where expires_at <= ?1 order by expires_at limit ?2)",
            now,
        )?;
        let refused = delete(
            "delete from outbox where id in
             (select id from outbox where refused is not null and created_at <= ?1 order by created_at limit ?2)",
            now.minus(REFUSED_KEPT),
        )?;
        Ok(keys.max(nonces).max(sessions).max(refused) >= SWEPT_MAX as usize)
    }

    pub(crate) fn note_steady(&mut self, now: Timestamp) -> Result<(), StoreError> {
        self.last_sequence = self.last_sequence.max(now.as_micros());
        let sql = "insert into meta (key, value) values ('steady', ?1) on conflict (key) do update set value = case when meta.value < excluded.value then excluded.value else meta.value end";
        let noted = self.connection.execute(sql, [now.as_micros()]);
        noted.map_err(aborted).map(drop)
    }

    /// Writes something that needs room, as an event does: a full or read-only disk shows, and so does a full file. What it
    /// took is free again at once.
    pub(crate) fn ping(&mut self) -> Result<(), StoreError> {
        const BYTES: usize = 8 * 1024;
        let sql = "insert into meta (key, value, text) values ('ping', 1, ?1) on conflict (key) do update set value = (meta.value + 1) % 1000, text = excluded.text";
        let text = "-".repeat(BYTES);
        self.connection.execute(sql, [text]).map_err(aborted)?;
        let sql = "update meta set text = null where key = 'ping'";
        self.connection.execute(sql, ()).map_err(aborted).map(drop)
    }
}
