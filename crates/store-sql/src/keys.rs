//! Writes to API keys, the endpoints they own, and nonces.

use postrider_core::audit::Actor;
use postrider_core::endpoint::Endpoint;
use postrider_core::limits::ENDPOINTS_MAX;
use postrider_core::tenant::{ApiKey, Scope};
use postrider_core::{Id, Timestamp, id};
use postrider_store::{Entity, KeyChange, Rule, StoreError, always};

use crate::convert::{aborted, mode_number, to_json};
use crate::manage::taken;
use crate::read::{read_key, read_key_endpoint, root_key_exists};
use crate::sql::params;
use crate::writer::Tx;

impl Tx {
    pub(crate) fn create_key(
        &mut self,
        key: &ApiKey,
        endpoint: Option<&Endpoint>,
        max: usize,
        by: &Actor,
    ) -> Result<(), StoreError> {
        let (application, tenant) = match key.scope {
            Scope::Root => (None, None),
            Scope::Application(application) => (Some(application.key()), None),
            Scope::Tenant(application, tenant) => (Some(application.key()), Some(tenant.key())),
        };
        if let Some(application) = application {
            self.must_exist("application", application, Entity::Application)?;
        }
        if let Some(tenant) = tenant {
            self.must_exist("tenant", tenant, Entity::Tenant)?;
        }
        // Through the index of tenants in any case: an application's may have very many keys of theirs.
        let sql = match tenant {
            Some(_) => "select count(*) from api_key where tenant_id = ?1",
            None => {
                "select count(*) from api_key where tenant_id is null and +application_id is not distinct from ?1"
            }
        };
        let owner = tenant.or(application);
        let count = self.connection.query_row(sql, [owner], |row| row.get(0));
        let count: i64 = count.map_err(aborted)?;
        if usize::try_from(count).unwrap_or(usize::MAX) >= max {
            return Err(StoreError::conflict(Rule::KeysMax));
        }
        // Texts of now are kept apart by their index; this one may be what another key was called before.
        let sql = "select 1 from api_key where previous_hash = ?1";
        let mut statement = self.connection.prepare_cached(sql).map_err(aborted)?;
        let was_anothers = statement.exists([key.secret_hash]).map_err(aborted)?;
        drop(statement);
        if was_anothers {
            return Err(StoreError::conflict(Rule::NameTaken));
        }
        if let Some(endpoint) = endpoint {
            self.create_endpoint(endpoint, Some(ENDPOINTS_MAX), by)?;
        }
        let sql = "insert into api_key (id, name, application_id, tenant_id, mode, secret_hash, public_id, sealed_secret, allowed_ips, disabled_at, created_at, expires_at, read_only)
                   values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)";
        let values = params![
            key.id.key(),
            key.name,
            application,
            tenant,
            mode_number(key.mode),
            key.secret_hash,
            key.public_id,
            key.sealed_secret,
            to_json(&key.allowed_ips),
            key.disabled_at.map(Timestamp::as_micros),
            key.created_at.as_micros(),
            key.expires_at.map(Timestamp::as_micros),
            key.read_only
        ];
        self.connection.execute(sql, values).map_err(taken)?;
        self.note(by, None, Some(key)).map_err(aborted)
    }

    fn live_key(&self, id: Id<id::ApiKey>) -> Result<(ApiKey, Option<Endpoint>), StoreError> {
        let key = self.key(id, Entity::ApiKey)?;
        let found = read_key(&self.connection, self.salt, key)
            .map_err(aborted)?
            .ok_or(StoreError::not_found(Entity::ApiKey))?;
        let endpoint = read_key_endpoint(&self.connection, self.salt, key).map_err(aborted)?;
        Ok((found, endpoint))
    }

    pub(crate) fn update_key(
        &mut self,
        id: Id<id::ApiKey>,
        change: KeyChange,
        by: &Actor,
    ) -> Result<(ApiKey, Option<Endpoint>), StoreError> {
        let (before, endpoint_before) = self.live_key(id)?;
        let (mut key, mut endpoint) = (before.clone(), endpoint_before.clone());
        change(&mut key, &mut endpoint);
        // In the transaction of the change: of two that each take one of the last two, the second is refused.
        self.keep_a_root_key(&before, Some(&key))?;
        let sql = "update api_key set name = ?2, allowed_ips = ?3, disabled_at = ?4, expires_at = ?5, secret_hash = ?6, sealed_secret = ?7,
                   rotated_at = ?8, previous_hash = ?9, previous_sealed = ?10, previous_since = ?11, previous_until = ?12 where id = ?1";
        let previous = key.previous.as_ref();
        let values = params![
            id.key(),
            key.name,
            to_json(&key.allowed_ips),
            key.disabled_at.map(Timestamp::as_micros),
            key.expires_at.map(Timestamp::as_micros),
            key.secret_hash,
            key.sealed_secret,
            key.rotated_at.map(Timestamp::as_micros),
            previous.map(|text| text.secret_hash),
            previous.and_then(|text| text.sealed_secret.as_deref()),
            previous.map(|text| text.since.as_micros()),
            previous.map(|text| text.until.as_micros())
        ];
        self.connection.execute(sql, values).map_err(aborted)?;
        match (endpoint_before, &endpoint) {
            (None, None) => {}
            (None, Some(new)) => self.create_endpoint(new, Some(ENDPOINTS_MAX), by)?,
            (Some(old), None) => self.delete_endpoint(old.id, by)?,
            (Some(old), Some(new)) => {
                let new = new.clone();
                self.update_endpoint(old.id, always(move |endpoint| *endpoint = new), by)?;
            }
        }
        self.note(by, Some(&before), Some(&key)).map_err(aborted)?;
        Ok((key, endpoint))
    }

    /// Refuses a change that would leave nobody who can manage the server.
    fn keep_a_root_key(&self, before: &ApiKey, after: Option<&ApiKey>) -> Result<(), StoreError> {
        let lost = before.manages_all() && !after.is_some_and(ApiKey::manages_all);
        let others = || root_key_exists(&self.connection, Some(before.id)).map_err(aborted);
        if lost && !others()? {
            return Err(StoreError::conflict(Rule::LastRootKey));
        }
        Ok(())
    }

    pub(crate) fn delete_key(&mut self, id: Id<id::ApiKey>, by: &Actor) -> Result<(), StoreError> {
        let (before, endpoint) = self.live_key(id)?;
        self.keep_a_root_key(&before, None)?;
        if let Some(endpoint) = endpoint {
            self.delete_endpoint(endpoint.id, by)?;
        }
        self.connection
            .execute("delete from api_key where id = ?1", [id.key()])
            .map_err(aborted)?;
        self.note(by, Some(&before), None).map_err(aborted)
    }

    pub(crate) fn use_nonce(
        &mut self,
        key: Id<id::ApiKey>,
        nonce: &str,
        expires_at: Timestamp,
    ) -> Result<bool, StoreError> {
        // The insert decides who was first: of two requests with the same nonce one is let in.
        let sql = "insert into nonce (key_id, nonce, expires_at) values (?1, ?2, ?3) on conflict do nothing";
        let values = params![key.key(), nonce, expires_at.as_micros()];
        Ok(self
            .connection
            .prepare_cached(sql)
            .and_then(|mut s| s.execute(values))
            .map_err(aborted)?
            == 1)
    }
}
