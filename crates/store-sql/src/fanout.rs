//! Who gets what: a tenant's endpoints, as the writer knows them, and who is told of failures.
//!
//! Only the writer thread uses it, and every change goes through that thread, so it is never stale:
//! a change of an endpoint forgets its tenant, and a rollback those that its transaction had to do with.

use std::collections::HashMap;

use postrider_core::filter::{ContentFilter, Subscription};
use postrider_core::health::Health;
use postrider_core::tenant::Mode;
use postrider_store::Ways;
use postrider_store::life::{Candidate, RecipientKind};

use crate::convert::{from_json, from_json_opt, mode};
use crate::read::health;
use crate::sql::{Connection, Optional, SqlResult, unreadable};

/// Tenants held; beyond, all are forgotten and read again as they come.
const TENANTS_MAX: usize = 10_000;

#[derive(Debug, Default)]
pub(crate) struct Fanout {
    tenants: HashMap<i64, Audience>,
    /// Those that the transaction which is open has read or changed: what is known of them may be undone. Of all others
    /// it is true whatever becomes of it, and anybody's refused change would else have everybody's read again.
    open: Vec<i64>,
}

/// All that a tenant has for its events.
#[derive(Debug)]
pub(crate) struct Audience {
    pub(crate) application: i64,
    /// Not the callbacks: those are many, and nothing is asked of them. By their keys, so that one is found.
    pub(crate) recipients: Vec<Recipient>,
    pub(crate) ways: Ways,
    /// What looking at all of them for an event takes, in names that are compared.
    pub(crate) looks: usize,
}

impl Audience {
    pub(crate) fn recipient(&mut self, endpoint: i64) -> Option<&mut Recipient> {
        let at = self
            .recipients
            .binary_search_by_key(&endpoint, |recipient| recipient.endpoint);
        self.recipients.get_mut(at.ok()?)
    }
}

#[derive(Debug)]
pub(crate) struct Recipient {
    pub(crate) endpoint: i64,
    pub(crate) kind: RecipientKind,
    pub(crate) mode: Mode,
    pub(crate) subscription: Subscription,
    pub(crate) filter: Option<ContentFilter>,
    pub(crate) health: Health,
}

impl Recipient {
    pub(crate) fn candidate(&self, is_named: bool) -> Candidate<'_> {
        Candidate {
            kind: self.kind,
            mode: self.mode,
            subscription: &self.subscription,
            filter: self.filter.as_ref(),
            is_enabled: self.health.is_enabled(),
            is_named,
        }
    }
}

impl Fanout {
    pub(crate) fn clear(&mut self) {
        self.tenants.clear();
        self.open.clear();
    }

    /// The transaction is committed.
    pub(crate) fn is_true(&mut self) {
        self.open.clear();
    }

    /// The transaction, or a part of it, is rolled back.
    pub(crate) fn undo(&mut self) {
        for tenant in self.open.drain(..) {
            self.tenants.remove(&tenant);
        }
    }

    pub(crate) fn forget(&mut self, tenant: i64) {
        self.tenants.remove(&tenant);
    }

    /// The tenant's endpoints that are not deleted; none when there is no such tenant.
    pub(crate) fn audience(
        &mut self,
        connection: &Connection,
        tenant: i64,
    ) -> SqlResult<Option<&mut Audience>> {
        if !self.tenants.contains_key(&tenant) {
            // By the application too: it goes first, while the rows of its tenants are still there.
            let mut statement = connection.prepare_cached(
                "select t.application_id, a.settings, t.settings from tenant t
                 join application a on a.id = t.application_id where t.id = ?1",
            )?;
            let found = statement.query_row([tenant], |row| {
                let ways = Ways::new(&from_json(row, 1)?, &from_json(row, 2)?);
                Ok((row.get(0)?, ways))
            });
            let Some((application, ways)) = found.optional()? else {
                // Not kept: nobody would forget it when such a tenant is made.
                return Ok(None);
            };
            if self.tenants.len() >= TENANTS_MAX {
                // Each that comes again costs two questions.
                self.tenants.clear();
            }
            let recipients = load(connection, tenant)?;
            let looks = |recipient: &Recipient| 1 + recipient.subscription.patterns().len();
            let audience = Audience {
                application,
                looks: recipients.iter().map(looks).sum(),
                recipients,
                ways,
            };
            self.tenants.insert(tenant, audience);
        }
        // Mostly it is the one that was asked for just before; and twice is not wrong.
        if self.open.last() != Some(&tenant) {
            self.open.push(tenant);
        }
        Ok(self.tenants.get_mut(&tenant))
    }
}

/// By the kinds, since the index of those that are not deleted begins with them: the others may be very many.
const LOAD: &str = "select id, mode, subscription, disabled_reason, disabled_at, consecutive_failures, failing_since, kind, content_filter
     from endpoint where tenant_id = ?1 and kind in (0, 2, 3) and deleted = 0";

fn load(connection: &Connection, tenant: i64) -> SqlResult<Vec<Recipient>> {
    let mut statement = connection.prepare_cached(LOAD)?;
    let mut recipients = statement.query_all([tenant], |row| {
        let endpoint: i64 = row.get(0)?;
        let filter: Option<ContentFilter> = from_json_opt(row, 8)?;
        if filter.as_ref().is_some_and(|filter| !filter.is_understood()) {
            tracing::warn!(
                endpoint,
                "an endpoint has a filter that this version does not understand; it gets every event of its types"
            );
        }
        Ok(Recipient {
            endpoint,
            kind: match row.get(7)? {
                0 => RecipientKind::Registered,
                2 => RecipientKind::Key,
                3 => RecipientKind::Distribution,
                other => return Err(unreadable(7, format!("endpoint kind {other}"))),
            },
            mode: mode(row, 1)?,
            subscription: from_json(row, 2)?,
            filter,
            health: health(row, 3)?,
        })
    })?;
    recipients.sort_unstable_by_key(|recipient| recipient.endpoint);
    Ok(recipients)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sqlite::open::plan;

    /// Of a tenant that has had a million callbacks, the writer reads the endpoints that there are.
    #[test]
    fn endpoints_that_are_deleted_and_callbacks_are_not_looked_at() -> SqlResult<()> {
        let plan = plan(LOAD, [1])?;
        assert!(
            plan.contains("INDEX endpoint_listed (tenant_id=? AND kind=?)"),
            "{plan}"
        );
        Ok(())
    }

    #[test]
    fn a_rollback_forgets_those_of_its_transaction_only() {
        let audience = || Audience {
            application: 1,
            recipients: Vec::new(),
            ways: Ways::default(),
            looks: 0,
        };
        let mut fanout = Fanout::default();
        for tenant in [1, 2] {
            fanout.tenants.insert(tenant, audience());
            fanout.open.push(tenant);
        }
        fanout.is_true();
        fanout.open.push(2);
        fanout.undo();
        assert!(fanout.tenants.contains_key(&1) && !fanout.tenants.contains_key(&2));
        fanout.undo();
        assert!(fanout.tenants.contains_key(&1));
    }
}
