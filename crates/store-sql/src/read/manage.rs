//! Reading applications, tenants, keys, profiles and tasks.

use std::ops::RangeInclusive;
use std::sync::Arc;

use postrider_core::tenant::{
    ApiKey, Application, EventType, PreviousText, Scope, Tenant, TenantSecret,
};
use postrider_core::{Id, id};
use postrider_store::queries::query_digest;
use postrider_store::{
    Entity, KeyFilter, Page, PageRequest, ProfileRecord, StoreError, Task, TaskFilter, TaskKind,
    TaskState, TenantFilter,
};

use super::list::{Conditions, Order};
use super::{ByKey, Reader, found_for};
use crate::convert::{from_json, mode, mode_number, reading, task_kind_number, time, time_opt};
use crate::sql::{Connection, Optional, Row, SqlError, SqlResult, params, unreadable};

pub(crate) const APPLICATION: &str = "id, name, profile, created_at, updated_at, settings";
pub(crate) const TENANT: &str = "id, application_id, name, external_id, settings, created_at, updated_at, live_secret, live_since, \
    test_secret, test_since, metadata";
pub(crate) const EVENT_TYPE: &str =
    "select name, description, schema, example, created_at, vendor from event_type";
pub(crate) const API_KEY: &str = "id, name, application_id, tenant_id, mode, secret_hash, public_id, sealed_secret, created_at, allowed_ips, disabled_at, expires_at, read_only, rotated_at,
     previous_hash, previous_sealed, previous_since, previous_until";
/// Whose owner is still there.
const OWNED: &str =
    "(application_id is null or exists (select 1 from application where id = application_id))
    and (tenant_id is null or exists (select 1 from tenant where id = tenant_id))";
pub(crate) const TASK: &str = "id, application_id, tenant_id, request, state, error, done, skipped, cursor, created_at, finished_at, kind, total";

pub(crate) fn application_row(row: &Row<'_>, salt: u64) -> SqlResult<Application> {
    Ok(Application {
        id: Id::from_key(row.get(0)?, salt),
        name: row.get(1)?,
        profile: row.get(2)?,
        created_at: time(row, 3)?,
        updated_at: time(row, 4)?,
        settings: from_json(row, 5)?,
    })
}

pub(crate) fn tenant_row(row: &Row<'_>, salt: u64) -> SqlResult<Tenant> {
    Ok(Tenant {
        id: Id::from_key(row.get(0)?, salt),
        application: Id::from_key(row.get(1)?, salt),
        name: row.get(2)?,
        external_id: row.get(3)?,
        settings: from_json(row, 4)?,
        created_at: time(row, 5)?,
        updated_at: time(row, 6)?,
        live_secret: TenantSecret {
            sealed: row.get(7)?,
            since: time(row, 8)?,
        },
        test_secret: TenantSecret {
            sealed: row.get(9)?,
            since: time(row, 10)?,
        },
        metadata: from_json(row, 11)?,
    })
}

pub(crate) fn event_type_row(
    row: &Row<'_>,
    application: Id<id::Application>,
) -> SqlResult<EventType> {
    Ok(EventType {
        application,
        name: row.get(0)?,
        description: row.get(1)?,
        schema: row.get(2)?,
        example: row.get(3)?,
        created_at: time(row, 4)?,
        vendor: row.get(5)?,
    })
}

pub(crate) fn key_row(row: &Row<'_>, salt: u64) -> SqlResult<ApiKey> {
    let application: Option<i64> = row.get(2)?;
    let tenant: Option<i64> = row.get(3)?;
    let scope = match (application, tenant) {
        (None, _) => Scope::Root,
        (Some(application), None) => Scope::Application(Id::from_key(application, salt)),
        (Some(application), Some(tenant)) => {
            Scope::Tenant(Id::from_key(application, salt), Id::from_key(tenant, salt))
        }
    };
    Ok(ApiKey {
        id: Id::from_key(row.get(0)?, salt),
        name: row.get(1)?,
        scope,
        mode: mode(row, 4)?,
        secret_hash: row.get(5)?,
        public_id: row.get(6)?,
        sealed_secret: row.get(7)?,
        created_at: time(row, 8)?,
        allowed_ips: from_json(row, 9)?,
        read_only: row.get(12)?,
        disabled_at: time_opt(row, 10)?,
        expires_at: time_opt(row, 11)?,
        rotated_at: time_opt(row, 13)?,
        previous: match row.get(14)? {
            None => None,
            Some(secret_hash) => Some(PreviousText {
                secret_hash,
                sealed_secret: row.get(15)?,
                since: time(row, 16)?,
                until: time(row, 17)?,
            }),
        },
    })
}

/// One row by its key, on the writer's connection.
fn read_row<T>(
    connection: &Connection,
    (columns, table): (&str, &str),
    key: i64,
    row: impl FnOnce(&Row<'_>) -> SqlResult<T>,
) -> SqlResult<Option<T>> {
    let mut statement =
        connection.prepare_cached(&format!("select {columns} from {table} where id = ?1"))?;
    statement.query_row([key], row).optional()
}

pub(crate) fn read_application(
    connection: &Connection,
    salt: u64,
    key: i64,
) -> SqlResult<Option<Application>> {
    read_row(connection, (APPLICATION, "application"), key, |row| {
        application_row(row, salt)
    })
}

pub(crate) fn read_tenant(
    connection: &Connection,
    salt: u64,
    key: i64,
) -> SqlResult<Option<Tenant>> {
    read_row(connection, (TENANT, "tenant"), key, |row| {
        tenant_row(row, salt)
    })
}

pub(crate) fn read_key(connection: &Connection, salt: u64, key: i64) -> SqlResult<Option<ApiKey>> {
    read_row(connection, (API_KEY, "api_key"), key, |row| {
        key_row(row, salt)
    })
}

/// Whether a key that [`ApiKey::manages_all`] is there, beside `other_than`.
pub(crate) fn root_key_exists(
    connection: &Connection,
    other_than: Option<Id<id::ApiKey>>,
) -> SqlResult<bool> {
    // Not `<>`: where no key is left out it is compared with null, which lets nothing through.
    let sql = "select 1 from api_key where application_id is null and mode = 0 and read_only = 0 and disabled_at is null and expires_at is null and id is distinct from ?1";
    let other_than = other_than.map(Id::key);
    connection.prepare_cached(sql)?.exists([other_than])
}

impl Reader {
    pub(crate) fn application(&self, id: Id<id::Application>) -> Result<Application, StoreError> {
        let sql = format!("select {APPLICATION} from application where id = ?1");
        self.one(&sql, id, Entity::Application, |row| {
            application_row(row, self.salt)
        })
    }

    pub(crate) fn tenants_by_key(
        &self,
        keys: impl Iterator<Item = i64>,
    ) -> SqlResult<ByKey<Arc<Tenant>>> {
        let sql =
            format!("select {TENANT} from tenant where id in (select value from json_each(?1))");
        self.by_key(&sql, keys, |row| tenant_row(row, self.salt).map(Arc::new))
    }

    pub(crate) fn applications_by_key(
        &self,
        keys: impl Iterator<Item = i64>,
    ) -> SqlResult<ByKey<Arc<Application>>> {
        let sql = format!(
            "select {APPLICATION} from application where id in (select value from json_each(?1))"
        );
        self.by_key(&sql, keys, |row| {
            application_row(row, self.salt).map(Arc::new)
        })
    }

    pub(crate) fn list_applications(
        &self,
        page: PageRequest,
    ) -> Result<Page<Application>, StoreError> {
        let row = |row: &Row<'_>| application_row(row, self.salt);
        self.page(
            APPLICATION,
            Conditions::of("application"),
            query_digest(&"applications"),
            page,
            row,
            |row| row.id.as_u128(),
        )
    }

    /// In the order of `ids`.
    pub(crate) fn tenants(
        &self,
        ids: &[Id<id::Tenant>],
    ) -> SqlResult<Vec<Result<Tenant, StoreError>>> {
        let found = self.tenants_by_key(ids.iter().filter_map(|id| id.key_in(self.salt)))?;
        let found = ids.iter().map(|id| {
            let tenant = found_for(&found, self.key(*id, Entity::Tenant)?, Entity::Tenant);
            tenant.map(Arc::unwrap_or_clone)
        });
        Ok(found.collect())
    }

    pub(crate) fn tenant_by_external_id(
        &self,
        application: Id<id::Application>,
        external_id: &str,
    ) -> Result<Tenant, StoreError> {
        let application = self.key(application, Entity::Tenant)?;
        let sql =
            format!("select {TENANT} from tenant where application_id = ?1 and external_id = ?2");
        self.find(
            &sql,
            params![application, external_id],
            Entity::Tenant,
            |row| tenant_row(row, self.salt),
        )
    }

    pub(crate) fn list_tenants(
        &self,
        filter: TenantFilter,
        page: PageRequest,
    ) -> Result<Page<Tenant>, StoreError> {
        let order = if filter.oldest_first {
            Order::OldestFirst
        } else {
            Order::NewestFirst
        };
        let mut conditions = Conditions::of("tenant").in_order(order);
        conditions.add("application_id = ?", filter.application.key());
        let row = |row: &Row<'_>| tenant_row(row, self.salt);
        self.page(
            TENANT,
            conditions,
            query_digest(&("tenants", filter)),
            page,
            row,
            |row| row.id.as_u128(),
        )
    }

    pub(crate) fn event_type(
        &self,
        application: Id<id::Application>,
        name: &str,
    ) -> Result<Option<EventType>, StoreError> {
        let sql = format!("{EVENT_TYPE} where application_id = ?1 and name = ?2");
        let values = params![application.key(), name];
        let mut rows = self.all(&sql, values, |row| event_type_row(row, application))?;
        Ok(rows.pop())
    }

    pub(crate) fn event_type_names(
        &self,
        application: Id<id::Application>,
    ) -> Result<Vec<(String, usize)>, StoreError> {
        let sql = "select name, coalesce(octet_length(description), 0) + coalesce(octet_length(schema), 0)
                   + coalesce(octet_length(example), 0) + coalesce(octet_length(vendor), 0)
                   from event_type where application_id = ?1 order by name";
        self.all(sql, [application.key()], |row| {
            let bytes: i64 = row.get(1)?;
            Ok((row.get(0)?, usize::try_from(bytes).unwrap_or(usize::MAX)))
        })
    }

    pub(crate) fn list_event_types(
        &self,
        application: Id<id::Application>,
        names: &RangeInclusive<String>,
    ) -> Result<Vec<EventType>, StoreError> {
        let sql = format!(
            "{EVENT_TYPE} where application_id = ?1 and name between ?2 and ?3 order by name"
        );
        let values = params![application.key(), names.start(), names.end()];
        self.all(&sql, values, |row| event_type_row(row, application))
    }

    pub(crate) fn key_by_hash(&self, hash: [u8; 32]) -> Result<ApiKey, StoreError> {
        self.find(
            &format!("select {API_KEY} from api_key where (secret_hash = ?1 or previous_hash = ?1) and {OWNED}"),
            params![hash],
            Entity::ApiKey,
            |row| key_row(row, self.salt),
        )
    }

    pub(crate) fn key_by_public_id(&self, public_id: &str) -> Result<ApiKey, StoreError> {
        self.find(
            &format!("select {API_KEY} from api_key where public_id = ?1 and {OWNED}"),
            params![public_id],
            Entity::ApiKey,
            |row| key_row(row, self.salt),
        )
    }

    pub(crate) fn key_by_id(&self, id: Id<id::ApiKey>) -> Result<ApiKey, StoreError> {
        self.one(
            &format!("select {API_KEY} from api_key where id = ?1 and {OWNED}"),
            id,
            Entity::ApiKey,
            |row| key_row(row, self.salt),
        )
    }

    pub(crate) fn list_keys(
        &self,
        filter: KeyFilter,
        page: PageRequest,
    ) -> Result<Page<ApiKey>, StoreError> {
        let mut conditions = Conditions::of("api_key").that_read();
        match filter.tenant {
            Some(tenant) => {
                conditions.add("tenant_id = ?", tenant.key());
                conditions.filter_opt("application_id = ?", filter.application.map(Id::key));
            }
            None => conditions.add_opt("application_id = ?", filter.application.map(Id::key)),
        }
        conditions.filter_opt("mode = ?", filter.mode.map(mode_number));
        let row = |row: &Row<'_>| key_row(row, self.salt);
        self.page(
            API_KEY,
            conditions,
            query_digest(&("keys", filter)),
            page,
            row,
            |row| row.id.as_u128(),
        )
    }

    pub(crate) fn has_root_key(&self) -> Result<bool, StoreError> {
        root_key_exists(&self.connection, None).map_err(reading)
    }

    pub(crate) fn profiles(&self) -> Result<Vec<ProfileRecord>, StoreError> {
        // One by one, so that one that does not read keeps none of the others away.
        let versions: Vec<i64> =
            self.all("select version from profile order by version", (), |row| {
                row.get(0)
            })?;
        let mut profiles = Vec::with_capacity(versions.len());
        for version in versions {
            match self.profile(version) {
                Ok(profile) => profiles.push(profile),
                // It costs the deliveries that were made under it.
                Err(error) => {
                    tracing::error!(
                        version,
                        error = &error as &dyn std::error::Error,
                        "a stored profile cannot be read; its deliveries wait"
                    );
                }
            }
        }
        Ok(profiles)
    }

    fn profile(&self, version: i64) -> Result<ProfileRecord, StoreError> {
        let sql = "select version, name, source from profile where version = ?1";
        let mut found = self.all(sql, [version], |row| {
            let text = |column: usize| Ok::<_, SqlError>(Arc::from(row.text(column)?));
            Ok(ProfileRecord {
                version: row.get(0)?,
                name: text(1)?,
                source: text(2)?,
            })
        })?;
        found
            .pop()
            .ok_or_else(|| StoreError::aborted("a profile came and went"))
    }

    pub(crate) fn task_row(&self, row: &Row<'_>) -> SqlResult<Task> {
        Ok(Task {
            id: Id::from_key(row.get(0)?, self.salt),
            application: Id::from_key(row.get(1)?, self.salt),
            kind: match row.get(11)? {
                0 => TaskKind::Replay,
                1 => TaskKind::Deletion,
                other => return Err(unreadable(11, format!("task kind {other}"))),
            },
            tenant: match row.get(2)? {
                0 => None,
                tenant => Some(Id::from_key(tenant, self.salt)),
            },
            request: row.get(3)?,
            state: match row.get(4)? {
                0 => TaskState::Running,
                1 => TaskState::Finished,
                3 => TaskState::Cancelled,
                2 => TaskState::Failed(row.get::<Option<String>>(5)?.unwrap_or_default()),
                other => return Err(unreadable(4, format!("task state {other}"))),
            },
            total: row.get::<Option<i64>>(12)?.map(i64::cast_unsigned),
            done: row.get::<i64>(6)?.cast_unsigned(),
            skipped: row.get::<i64>(7)?.cast_unsigned(),
            cursor: row.get(8)?,
            created_at: time(row, 9)?,
            finished_at: time_opt(row, 10)?,
        })
    }

    pub(crate) fn task(&self, id: Id<id::Task>) -> Result<Task, StoreError> {
        self.one(
            &format!("select {TASK} from task where id = ?1"),
            id,
            Entity::Task,
            |row| self.task_row(row),
        )
    }

    /// Newest first.
    pub(crate) fn list_tasks(
        &self,
        filter: TaskFilter,
        page: PageRequest,
    ) -> Result<Page<Task>, StoreError> {
        let mut conditions = Conditions::of("task").that_read();
        conditions.filter_opt("application_id = ?", filter.application.map(Id::key));
        conditions.filter_opt("tenant_id = ?", filter.tenant.map(Id::key));
        conditions.filter_opt("kind = ?", filter.kind.map(task_kind_number));
        let row = |row: &Row<'_>| self.task_row(row);
        let query = query_digest(&filter);
        self.page(TASK, conditions, query, page, row, |row| row.id.as_u128())
    }

    pub(crate) fn unfinished_tasks(&self) -> Result<Vec<Id<id::Task>>, StoreError> {
        let sql = "select id from task where state = 0 order by id";
        self.all(sql, (), |row| Ok(Id::from_key(row.get(0)?, self.salt)))
    }
}
