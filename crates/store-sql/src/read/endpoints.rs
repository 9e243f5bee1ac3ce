//! Reading endpoints with their secrets.

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;

use postrider_core::endpoint::{Endpoint, EndpointKind, EndpointSecret, Ordering};
use postrider_core::health::{DisableReason, Disabled, Health};
use postrider_core::limits::PAGE_BYTES_MAX;
use postrider_core::tenant::Mode;
use postrider_core::{Id, id};
use postrider_store::queries::query_digest;
use postrider_store::{
    EndpointFilter, EndpointListing, Entity, LaneEndpoint, Page, PageRequest, StoreError,
};

use super::list::{Conditions, Order, SCAN_ROWS_MAX};
use super::{Reader, found_for, if_it_reads};
use crate::convert::{
    from_json, from_json_opt, mode, mode_number, reading, time, time_opt, to_json,
};
use crate::sql::{Connection, Optional, Row, SqlResult, params, unreadable};

pub(crate) fn health(row: &Row<'_>, at: usize) -> SqlResult<Health> {
    let disabled = match row.get::<Option<String>>(at)? {
        None => None,
        Some(text) => {
            let reason = DisableReason::parse(&text).ok_or_else(|| unreadable(at, text))?;
            Some(Disabled {
                reason,
                at: time(row, at + 1)?,
            })
        }
    };
    Ok(Health {
        disabled,
        consecutive_failures: row.get(at + 2)?,
        failing_since: time_opt(row, at + 3)?,
    })
}

pub(crate) const ENDPOINT: &str = "id, application_id, tenant_id, kind, url, description, subscription, mode, headers, rate_limit, ordering, \
    disabled_reason, disabled_at, consecutive_failures, failing_since, created_at, updated_at, deleted, key_id, distribution, form, content_filter, \
    external_id, metadata";

pub(crate) fn endpoint_row(row: &Row<'_>, salt: u64) -> SqlResult<(Endpoint, bool)> {
    let endpoint = Endpoint {
        id: Id::from_key(row.get(0)?, salt),
        application: Id::from_key(row.get(1)?, salt),
        tenant: Id::from_key(row.get(2)?, salt),
        kind: match row.get(3)? {
            0 => EndpointKind::Registered,
            1 => EndpointKind::Callback,
            2 => EndpointKind::Key(Id::from_key(row.get(18)?, salt)),
            3 => EndpointKind::Distribution(from_json(row, 19)?),
            other => return Err(unreadable(3, format!("endpoint kind {other}"))),
        },
        external_id: row.get(22)?,
        metadata: from_json(row, 23)?,
        url: row.get(4)?,
        description: row.get(5)?,
        subscription: from_json(row, 6)?,
        filter: from_json_opt(row, 21)?,
        mode: mode(row, 7)?,
        headers: from_json(row, 8)?,
        secrets: Vec::new(),
        rate_limit: row.get(9)?,
        ordering: match row.get(10)? {
            0 => Ordering::None,
            1 => Ordering::Endpoint,
            2 => Ordering::Key,
            other => return Err(unreadable(10, format!("ordering {other}"))),
        },
        form: row.get(20)?,
        health: health(row, 11)?,
        created_at: time(row, 15)?,
        updated_at: time(row, 16)?,
    };
    Ok((endpoint, row.get(17)?))
}

fn with_secrets(connection: &Connection, mut endpoint: Endpoint) -> SqlResult<Endpoint> {
    let sql = "select sealed, created_at, expires_at from endpoint_secret where endpoint_id = ?1 order by position";
    let mut statement = connection.prepare_cached(sql)?;
    endpoint.secrets = statement.query_all([endpoint.id.key()], |row| secret(row, 0))?;
    Ok(endpoint)
}

/// The columns `sealed, created_at, expires_at`, from `at` on.
fn secret(row: &Row<'_>, at: usize) -> SqlResult<EndpointSecret> {
    Ok(EndpointSecret {
        sealed: row.get(at)?,
        created_at: time(row, at + 1)?,
        expires_at: time_opt(row, at + 2)?,
    })
}

/// An endpoint with its secrets, and whether it is deleted.
pub(crate) fn read_endpoint(
    connection: &Connection,
    salt: u64,
    key: i64,
) -> SqlResult<Option<(Endpoint, bool)>> {
    let mut statement =
        connection.prepare_cached(&format!("select {ENDPOINT} from endpoint where id = ?1"))?;
    let found = statement
        .query_row([key], |row| endpoint_row(row, salt))
        .optional()?;
    found
        .map(|(endpoint, deleted)| Ok((with_secrets(connection, endpoint)?, deleted)))
        .transpose()
}

/// The endpoint that a key owns, unless it is deleted.
pub(crate) fn read_key_endpoint(
    connection: &Connection,
    salt: u64,
    key: i64,
) -> SqlResult<Option<Endpoint>> {
    let sql =
        format!("select {ENDPOINT} from endpoint where key_id = ?1 and kind = 2 and deleted = 0");
    let mut statement = connection.prepare_cached(&sql)?;
    let found = statement
        .query_row([key], |row| endpoint_row(row, salt))
        .optional()?;
    found
        .map(|(endpoint, _)| with_secrets(connection, endpoint))
        .transpose()
}

impl Reader {
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

    /// Endpoints with their owners, in the order of `ids`: one question for each kind of row, however many there are.
    pub(crate) fn lane_endpoints(
        &self,
        ids: &[Id<id::Endpoint>],
    ) -> SqlResult<Vec<Result<LaneEndpoint, StoreError>>> {
        let keys = || ids.iter().filter_map(|id| id.key_in(self.salt));
        let sql = format!(
            "select {ENDPOINT} from endpoint where id in (select value from json_each(?1))"
        );
        let mut found = self.by_key(&sql, keys(), |row| endpoint_row(row, self.salt))?;
        for (key, own) in self.secrets(keys())? {
            if let Some(Ok((endpoint, _))) = found.get_mut(&key) {
                endpoint.secrets = own.into_values().collect();
            }
        }
        let endpoints = || found.values().flatten().map(|(endpoint, _)| endpoint);
        let tenants = self.tenants_by_key(endpoints().map(|it| it.tenant.key()))?;
        let applications = self.applications_by_key(endpoints().map(|it| it.application.key()))?;
        let rows = ids.iter().map(|id| {
            let key = self.key(*id, Entity::Endpoint)?;
            let (endpoint, is_deleted) = found_for(&found, key, Entity::Endpoint)?;
            let (tenant, application) = (endpoint.tenant.key(), endpoint.application.key());
            Ok(LaneEndpoint {
                tenant: found_for(&tenants, tenant, Entity::Tenant),
                application: found_for(&applications, application, Entity::Application),
                endpoint,
                is_deleted,
            })
        });
        Ok(rows.collect())
    }

    /// The secrets of some endpoints, by their positions.
    fn secrets(
        &self,
        keys: impl Iterator<Item = i64>,
    ) -> SqlResult<HashMap<i64, BTreeMap<i64, EndpointSecret>>> {
        let sql =
            "select endpoint_id, position, sealed, created_at, expires_at from endpoint_secret
                   where endpoint_id in (select value from json_each(?1))";
        let mut found: HashMap<i64, BTreeMap<_, _>> = HashMap::new();
        let mut statement = self.connection.prepare_cached(sql)?;
        statement.each([to_json(&Vec::from_iter(keys))], |row| {
            let of = found.entry(row.get(0)?).or_default();
            of.insert(row.get(1)?, secret(row, 2)?);
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(found)
    }

    pub(crate) fn endpoints(&self, ids: &[Id<id::Endpoint>]) -> Result<Vec<Endpoint>, StoreError> {
        let mut found = Vec::with_capacity(ids.len());
        for id in ids {
            match self.lane_endpoint(*id) {
                // Erased meanwhile.
                Err(error) if error.is_not_found() => {}
                read => found.extend(if_it_reads(read)?.map(|(endpoint, _)| endpoint)),
            }
        }
        Ok(found)
    }

    /// Those that have failed for the longest first, among so many as a list looks at.
    pub(crate) fn failing_endpoints(
        &self,
        application: Option<Id<id::Application>>,
        limit: u32,
    ) -> Result<Vec<Endpoint>, StoreError> {
        // Bounded before it is filtered: whose endpoints are all well does not look at all that fail.
        let sql = "select id from (select id, application_id, failing_since from endpoint
                       where failing_since is not null and deleted = 0 order by failing_since, id limit ?3) as failing
                   where cast(?1 as bigint) is null or application_id = ?1 order by failing_since, id limit ?2";
        let values = params![application.map(Id::key), limit, SCAN_ROWS_MAX];
        let keys: Vec<i64> = self.all(sql, values, |row| row.get(0))?;
        let ids: Vec<_> = keys
            .into_iter()
            .map(|key| Id::from_key(key, self.salt))
            .collect();
        self.endpoints(&ids)
    }

    pub(crate) fn list_endpoints(
        &self,
        filter: EndpointFilter,
        page: PageRequest,
    ) -> Result<Page<Endpoint>, StoreError> {
        let order = if filter.oldest_first {
            Order::OldestFirst
        } else {
            Order::NewestFirst
        };
        let mut conditions = Conditions::of("endpoint").in_order(order).that_read();
        conditions.add("tenant_id = ?", filter.tenant.key());
        conditions.add_text(match filter.listing {
            EndpointListing::Registered => "kind = 0 and deleted = 0",
            EndpointListing::Distributions => "kind = 3 and deleted = 0",
        });
        conditions.filter_opt("mode = ?", filter.mode.map(mode_number));
        let row = |row: &Row<'_>| with_secrets(&self.connection, endpoint_row(row, self.salt)?.0);
        let query = query_digest(&("endpoints", filter));
        let id = |row: &Endpoint| row.id.as_u128();
        let page = self.page(ENDPOINT, conditions, query, page, row, id)?;
        // 32 headers of 4 KiB each are allowed: 250 such endpoints would be 32 MB.
        Ok(page.within(PAGE_BYTES_MAX, query, Endpoint::text_bytes, id))
    }

    pub(crate) fn endpoint_by_external_id(
        &self,
        tenant: Id<id::Tenant>,
        mode: Mode,
        external_id: &str,
    ) -> Result<Endpoint, StoreError> {
        let sql = format!(
            "select {ENDPOINT} from endpoint where tenant_id = ?1 and mode = ?2 and external_id = ?3 and deleted = 0"
        );
        let tenant = self.key(tenant, Entity::Endpoint)?;
        let values = params![tenant, mode_number(mode), external_id];
        let row = |row: &Row<'_>| with_secrets(&self.connection, endpoint_row(row, self.salt)?.0);
        self.find(&sql, values, Entity::Endpoint, row)
    }

    pub(crate) fn callback_endpoint(
        &self,
        tenant: Id<id::Tenant>,
        mode: Mode,
        url: &str,
    ) -> Result<Option<Endpoint>, StoreError> {
        let sql = format!(
            "select {ENDPOINT} from endpoint where tenant_id = ?1 and kind = 1 and deleted = 0 and mode = ?2 and url = ?3"
        );
        let mut statement = self.connection.prepare_cached(&sql).map_err(reading)?;
        let values = params![tenant.key(), mode_number(mode), url];
        let found = statement
            .query_row(values, |row| endpoint_row(row, self.salt))
            .optional()
            .map_err(reading)?;
        found
            .map(|(endpoint, _)| with_secrets(&self.connection, endpoint).map_err(reading))
            .transpose()
    }

    pub(crate) fn key_endpoint(&self, key: Id<id::ApiKey>) -> Result<Option<Endpoint>, StoreError> {
        read_key_endpoint(&self.connection, self.salt, key.key()).map_err(reading)
    }
}
