//! Who gets what: a tenant's registered endpoints, as the writer knows them.
//!
//! Only the writer thread uses it, and every change goes through that thread, so it is never stale:
//! a change of an endpoint forgets its tenant, a rollback forgets everything.

use std::collections::HashMap;

use postrider_core::filter::Subscription;
use postrider_core::health::Health;
use postrider_core::tenant::Mode;
use rusqlite::Connection;

use crate::convert::{SqlResult, mode, unreadable};
use crate::read::health;

/// Tenants held; beyond, all are forgotten and read again as they come.
const TENANTS_MAX: usize = 10_000;

#[derive(Debug, Default)]
pub(crate) struct Fanout {
    tenants: HashMap<i64, Vec<Recipient>>,
}

#[derive(Debug)]
pub(crate) struct Recipient {
    pub(crate) endpoint: i64,
    pub(crate) mode: Mode,
    pub(crate) subscription: Subscription,
    pub(crate) health: Health,
}

impl Fanout {
    pub(crate) fn clear(&mut self) {
        self.tenants.clear();
    }

    pub(crate) fn forget(&mut self, tenant: i64) {
        self.tenants.remove(&tenant);
    }

    /// The tenant's registered endpoints that are not deleted; none when there is no such tenant.
    pub(crate) fn recipients(
        &mut self,
        connection: &Connection,
        tenant: i64,
    ) -> SqlResult<Option<&mut Vec<Recipient>>> {
        if !self.tenants.contains_key(&tenant) {
            let mut exists = connection.prepare_cached("select 1 from tenant where id = ?1")?;
            if !exists.exists([tenant])? {
                return Ok(None);
            }
            if self.tenants.len() >= TENANTS_MAX {
                self.tenants.clear();
            }
            let recipients = load(connection, tenant)?;
            self.tenants.insert(tenant, recipients);
        }
        Ok(self.tenants.get_mut(&tenant))
    }
}

fn load(connection: &Connection, tenant: i64) -> SqlResult<Vec<Recipient>> {
    let mut statement = connection.prepare_cached(
        "select id, mode, subscription, disabled_reason, disabled_at, consecutive_failures, failing_since
         from endpoint where tenant_id = ?1 and kind = 0 and deleted = 0 order by id",
    )?;
    let rows = statement.query_map([tenant], |row| {
        Ok(Recipient {
            endpoint: row.get(0)?,
            mode: mode(row, 1)?,
            subscription: serde_json::from_str(row.get_ref(2)?.as_str()?)
                .map_err(|error| unreadable(2, error.to_string()))?,
            health: health(row, 3)?,
        })
    })?;
    rows.collect()
}
