//! Reading applications, tenants, endpoints, keys, profiles and tasks.

use std::sync::Arc;

use postrider_core::endpoint::Endpoint;
use postrider_core::tenant::{ApiKey, Application, EventType, Scope, Tenant};
use postrider_core::{Id, id};
use postrider_store::queries::query_digest;
use postrider_store::{Entity, Page, PageRequest, ProfileRecord, StoreError, Task, TaskState};
use rusqlite::{OptionalExtension, Row, params};

use super::{Conditions, ENDPOINT, Reader, endpoint_row, read_endpoint, with_secrets};
use crate::convert::{SqlResult, mode, reading, time, time_opt, unreadable};

const TENANT: &str = "select id, application_id, name, external_id, sealed_secret, created_at, updated_at from tenant";
const API_KEY: &str = "select id, name, application_id, tenant_id, mode, secret_hash, public_id, sealed_secret, created_at from api_key";
const TASK: &str = "select id, application_id, tenant_id, request, state, error, done, skipped, cursor, created_at, finished_at from task";

impl Reader {
    fn application_row(&self, row: &Row<'_>) -> SqlResult<Application> {
        Ok(Application {
            id: Id::from_key(row.get(0)?, self.salt),
            name: row.get(1)?,
            profile: row.get(2)?,
            created_at: time(row, 3)?,
            updated_at: time(row, 4)?,
        })
    }

    pub(crate) fn application(&self, id: Id<id::Application>) -> Result<Application, StoreError> {
        let sql = "select id, name, profile, created_at, updated_at from application where id = ?1";
        self.one(sql, id, Entity::Application, |row| {
            self.application_row(row)
        })
    }

    pub(crate) fn list_applications(
        &self,
        page: PageRequest,
    ) -> Result<Page<Application>, StoreError> {
        let select = "select id, name, profile, created_at, updated_at from application";
        let row = |row: &Row<'_>| self.application_row(row);
        self.page(
            select,
            Conditions::default(),
            query_digest(&"applications"),
            page,
            row,
            |row| row.id.as_u128(),
        )
    }

    fn tenant_row(&self, row: &Row<'_>) -> SqlResult<Tenant> {
        Ok(Tenant {
            id: Id::from_key(row.get(0)?, self.salt),
            application: Id::from_key(row.get(1)?, self.salt),
            name: row.get(2)?,
            external_id: row.get(3)?,
            sealed_secret: row.get(4)?,
            created_at: time(row, 5)?,
            updated_at: time(row, 6)?,
        })
    }

    pub(crate) fn tenant(&self, id: Id<id::Tenant>) -> Result<Tenant, StoreError> {
        self.one(
            &format!("{TENANT} where id = ?1"),
            id,
            Entity::Tenant,
            |row| self.tenant_row(row),
        )
    }

    pub(crate) fn tenant_by_external_id(
        &self,
        application: Id<id::Application>,
        external_id: &str,
    ) -> Result<Tenant, StoreError> {
        let application = self.key(application, Entity::Tenant)?;
        let sql = format!("{TENANT} where application_id = ?1 and external_id = ?2");
        self.find(
            &sql,
            params![application, external_id],
            Entity::Tenant,
            |row| self.tenant_row(row),
        )
    }

    pub(crate) fn list_tenants(
        &self,
        application: Id<id::Application>,
        page: PageRequest,
    ) -> Result<Page<Tenant>, StoreError> {
        let mut conditions = Conditions::default();
        conditions.add("application_id = ?", application.key());
        let row = |row: &Row<'_>| self.tenant_row(row);
        self.page(
            TENANT,
            conditions,
            query_digest(&("tenants", application)),
            page,
            row,
            |row| row.id.as_u128(),
        )
    }

    pub(crate) fn list_event_types(
        &self,
        application: Id<id::Application>,
    ) -> Result<Vec<EventType>, StoreError> {
        let sql = "select name, description, created_at from event_type where application_id = ?1 order by name";
        self.all(sql, [application.key()], |row| {
            Ok(EventType {
                application,
                name: row.get(0)?,
                description: row.get(1)?,
                created_at: time(row, 2)?,
            })
        })
    }

    pub(crate) fn endpoint(&self, id: Id<id::Endpoint>) -> Result<Endpoint, StoreError> {
        let (endpoint, deleted) = self.lane_endpoint(id)?;
        if deleted {
            Err(StoreError::not_found(Entity::Endpoint))
        } else {
            Ok(endpoint)
        }
    }

    pub(crate) fn lane_endpoint(
        &self,
        id: Id<id::Endpoint>,
    ) -> Result<(Endpoint, bool), StoreError> {
        let key = self.key(id, Entity::Endpoint)?;
        read_endpoint(&self.connection, self.salt, key)
            .map_err(reading)?
            .ok_or(StoreError::not_found(Entity::Endpoint))
    }

    pub(crate) fn list_endpoints(
        &self,
        tenant: Id<id::Tenant>,
        page: PageRequest,
    ) -> Result<Page<Endpoint>, StoreError> {
        let mut conditions = Conditions::default();
        conditions.add("tenant_id = ?", tenant.key());
        conditions.add_text("kind = 0 and deleted = 0");
        let select = format!("select {ENDPOINT} from endpoint");
        let row = |row: &Row<'_>| with_secrets(&self.connection, endpoint_row(row, self.salt)?.0);
        self.page(
            &select,
            conditions,
            query_digest(&("endpoints", tenant)),
            page,
            row,
            |row| row.id.as_u128(),
        )
    }

    pub(crate) fn callback_endpoint(
        &self,
        tenant: Id<id::Tenant>,
        url: &str,
    ) -> Result<Option<Endpoint>, StoreError> {
        let sql = format!(
            "select {ENDPOINT} from endpoint where tenant_id = ?1 and kind = 1 and deleted = 0 and url = ?2"
        );
        let mut statement = self.connection.prepare_cached(&sql).map_err(reading)?;
        let values = params![tenant.key(), url];
        let found = statement
            .query_row(values, |row| endpoint_row(row, self.salt))
            .optional()
            .map_err(reading)?;
        found
            .map(|(endpoint, _)| with_secrets(&self.connection, endpoint).map_err(reading))
            .transpose()
    }

    fn key_row(&self, row: &Row<'_>) -> SqlResult<ApiKey> {
        let application: Option<i64> = row.get(2)?;
        let tenant: Option<i64> = row.get(3)?;
        let scope = match (application, tenant) {
            (None, _) => Scope::Root,
            (Some(application), None) => Scope::Application(Id::from_key(application, self.salt)),
            (Some(application), Some(tenant)) => Scope::Tenant(
                Id::from_key(application, self.salt),
                Id::from_key(tenant, self.salt),
            ),
        };
        Ok(ApiKey {
            id: Id::from_key(row.get(0)?, self.salt),
            name: row.get(1)?,
            scope,
            mode: mode(row, 4)?,
            secret_hash: row.get(5)?,
            public_id: row.get(6)?,
            sealed_secret: row.get(7)?,
            created_at: time(row, 8)?,
        })
    }

    pub(crate) fn key_by_hash(&self, hash: [u8; 32]) -> Result<ApiKey, StoreError> {
        self.find(
            &format!("{API_KEY} where secret_hash = ?1"),
            params![hash],
            Entity::ApiKey,
            |row| self.key_row(row),
        )
    }

    pub(crate) fn key_by_public_id(&self, public_id: &str) -> Result<ApiKey, StoreError> {
        self.find(
            &format!("{API_KEY} where public_id = ?1"),
            params![public_id],
            Entity::ApiKey,
            |row| self.key_row(row),
        )
    }

    pub(crate) fn key_by_id(&self, id: Id<id::ApiKey>) -> Result<ApiKey, StoreError> {
        self.one(
            &format!("{API_KEY} where id = ?1"),
            id,
            Entity::ApiKey,
            |row| self.key_row(row),
        )
    }

    pub(crate) fn list_keys(
        &self,
        application: Option<Id<id::Application>>,
        page: PageRequest,
    ) -> Result<Page<ApiKey>, StoreError> {
        let mut conditions = Conditions::default();
        conditions.add_opt("application_id = ?", application.map(Id::key));
        let row = |row: &Row<'_>| self.key_row(row);
        self.page(
            API_KEY,
            conditions,
            query_digest(&("keys", application)),
            page,
            row,
            |row| row.id.as_u128(),
        )
    }

    pub(crate) fn profiles(&self) -> Result<Vec<ProfileRecord>, StoreError> {
        self.all(
            "select version, name, source from profile order by version",
            [],
            |row| {
                let text = |column: usize| {
                    Ok::<_, rusqlite::Error>(Arc::from(row.get_ref(column)?.as_str()?))
                };
                Ok(ProfileRecord {
                    version: row.get(0)?,
                    name: text(1)?,
                    source: text(2)?,
                })
            },
        )
    }

    fn task_row(&self, row: &Row<'_>) -> SqlResult<Task> {
        Ok(Task {
            id: Id::from_key(row.get(0)?, self.salt),
            application: Id::from_key(row.get(1)?, self.salt),
            tenant: Id::from_key(row.get(2)?, self.salt),
            request: row.get(3)?,
            state: match row.get(4)? {
                0 => TaskState::Running,
                1 => TaskState::Finished,
                2 => TaskState::Failed(row.get::<_, Option<String>>(5)?.unwrap_or_default()),
                other => return Err(unreadable(4, format!("task state {other}"))),
            },
            done: row.get::<_, i64>(6)?.cast_unsigned(),
            skipped: row.get::<_, i64>(7)?.cast_unsigned(),
            cursor: row.get(8)?,
            created_at: time(row, 9)?,
            finished_at: time_opt(row, 10)?,
        })
    }

    pub(crate) fn task(&self, id: Id<id::Task>) -> Result<Task, StoreError> {
        self.one(&format!("{TASK} where id = ?1"), id, Entity::Task, |row| {
            self.task_row(row)
        })
    }

    pub(crate) fn unfinished_tasks(&self) -> Result<Vec<Task>, StoreError> {
        self.all(&format!("{TASK} where state = 0 order by id"), [], |row| {
            self.task_row(row)
        })
    }
}
