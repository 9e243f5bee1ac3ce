//! Reading the audit log and notices.

use std::sync::Arc;

use postrider_core::audit::{Actor, AuditEntry};
use postrider_core::notice::{Notice, NoticeClass, NoticeKind};
use postrider_core::{Id, Timestamp};
use postrider_store::queries::query_digest;
use postrider_store::{
    AuditFilter, DueNotices, MailAudience, NoticeFilter, Page, PageRequest, StoreError,
};

use super::Reader;
use super::list::Conditions;
use crate::convert::{mode, mode_number, time, time_opt};
use crate::sql::{Row, SqlResult, params, unreadable};

pub(crate) const AUDIT: &str =
    "id, at, application_id, tenant_id, key_id, actor, action, subject, before, after, user_id";
pub(crate) const NOTICE: &str = "id, application_id, tenant_id, class, kind, endpoint_id, delivery_id, event_type, url, attempts, error, at, \
    in_app, mail_due, publish_due, read_at, mode";

pub(crate) fn audit_row(row: &Row<'_>, salt: u64) -> SqlResult<AuditEntry> {
    let key = |column: usize| row.get::<Option<i64>>(column);
    Ok(AuditEntry {
        id: Id::from_key(row.get(0)?, salt),
        application: key(2)?.map(|key| Id::from_key(key, salt)),
        tenant: key(3)?.map(|key| Id::from_key(key, salt)),
        actor: Actor {
            key: key(4)?.map(|key| Id::from_key(key, salt)),
            user: key(10)?.map(|key| Id::from_key(key, salt)),
            name: Arc::from(row.text(5)?),
            account: 0,
            at: time(row, 1)?,
        },
        action: row.get(6)?,
        subject: row.get(7)?,
        before: row.get(8)?,
        after: row.get(9)?,
    })
}

/// From one tenant to the next by the index, however much each of them waits for. The oldest is the one with the first id.
const AUDIENCES: &str = "with recursive turn (tenant_id) as (
       select tenant_id from (select tenant_id from notice where mail_due = 1 order by tenant_id limit 1) as first
       union all
       select (select n.tenant_id from notice n where n.mail_due = 1 and n.tenant_id > turn.tenant_id order by n.tenant_id limit 1)
       from turn where turn.tenant_id is not null),
     audience (tenant_id, class, oldest) as (
       select tenant_id, classes.class, (select n.at from notice n where n.mail_due = 1 and n.tenant_id = turn.tenant_id
           and n.class = classes.class order by n.id limit 1)
       from turn, (select cast(0 as bigint) as class union all select cast(1 as bigint)) as classes where tenant_id is not null)
     select tenant_id, class, oldest from audience where oldest is not null";

/// How a class is stored.
pub(crate) const fn class_number(class: NoticeClass) -> i64 {
    match class {
        NoticeClass::Webhooks => 0,
        NoticeClass::Distributions => 1,
    }
}

fn notice_class(row: &Row<'_>, column: usize) -> SqlResult<NoticeClass> {
    match row.get(column)? {
        0 => Ok(NoticeClass::Webhooks),
        1 => Ok(NoticeClass::Distributions),
        other => Err(unreadable(column, format!("notice class {other}"))),
    }
}

pub(crate) fn notice_row(row: &Row<'_>, salt: u64) -> SqlResult<Notice> {
    Ok(Notice {
        id: Id::from_key(row.get(0)?, salt),
        application: Id::from_key(row.get(1)?, salt),
        tenant: Id::from_key(row.get(2)?, salt),
        class: notice_class(row, 3)?,
        kind: match row.get(4)? {
            0 => NoticeKind::DeliveryFailed,
            1 => NoticeKind::EndpointDisabled,
            other => return Err(unreadable(4, format!("notice kind {other}"))),
        },
        endpoint: Id::from_key(row.get(5)?, salt),
        delivery: Id::from_key(row.get(6)?, salt),
        event_type: Arc::from(row.text(7)?),
        url: row.get(8)?,
        attempts: row.get(9)?,
        error: row.get(10)?,
        at: time(row, 11)?,
        in_app: row.get(12)?,
        mail_due: row.get(13)?,
        publish_due: row.get(14)?,
        read_at: time_opt(row, 15)?,
        mode: mode(row, 16)?,
    })
}

impl Reader {
    pub(crate) fn list_audit(
        &self,
        filter: &AuditFilter,
        page: PageRequest,
    ) -> Result<Page<AuditEntry>, StoreError> {
        let mut conditions = Conditions::of("audit").that_read();
        match filter.tenant {
            Some(tenant) => {
                conditions.add("tenant_id = ?", tenant.key());
                conditions.filter_opt("application_id = ?", filter.application.map(Id::key));
            }
            None => conditions.add_opt("application_id = ?", filter.application.map(Id::key)),
        }
        conditions.filter_opt("subject = ?", filter.subject.clone());
        conditions.filter_opt("action = ?", filter.action.clone());
        conditions.filter_opt("key_id = ?", filter.key.map(Id::key));
        conditions.filter_opt("user_id = ?", filter.user.map(Id::key));
        self.add_between(&mut conditions, "at", filter.since, filter.until);
        let row = |row: &Row<'_>| audit_row(row, self.salt);
        let query = query_digest(filter);
        self.page(AUDIT, conditions, query, page, row, |row| row.id.as_u128())
    }

    pub(crate) fn list_notices(
        &self,
        filter: NoticeFilter,
        page: PageRequest,
    ) -> Result<Page<Notice>, StoreError> {
        let mut conditions = Conditions::of("notice").that_read();
        match filter.tenant {
            Some(tenant) => {
                conditions.add("tenant_id = ?", tenant.key());
                conditions.add_text("in_app = 1");
                if filter.unread {
                    conditions.add_text("read_at is null");
                }
            }
            // Newest first through the table itself, which no index of a part serves.
            None if filter.unread => conditions.filter_text("read_at is null"),
            None => {}
        }
        conditions.filter_opt("application_id = ?", filter.application.map(Id::key));
        conditions.filter_opt("mode = ?", filter.mode.map(mode_number));
        let row = |row: &Row<'_>| notice_row(row, self.salt);
        let query = query_digest(&filter);
        self.page(NOTICE, conditions, query, page, row, |row| row.id.as_u128())
    }

    pub(crate) fn mail_audiences(&self) -> Result<Vec<(MailAudience, Timestamp)>, StoreError> {
        let read = self.all_that_read(AUDIENCES, (), |row| {
            let tenant = Id::from_key(row.get(0)?, self.salt);
            let class = notice_class(row, 1)?;
            Ok((MailAudience { tenant, class }, time(row, 2)?))
        });
        Ok(read?.rows)
    }

    /// Beside them the keys of those that do not read.
    pub(crate) fn due_notices(
        &self,
        due: DueNotices,
        limit: u32,
    ) -> Result<(Vec<Notice>, Vec<i64>), StoreError> {
        let row = |row: &Row<'_>| notice_row(row, self.salt);
        let read = match due {
            DueNotices::Mail(MailAudience { tenant, class }) => {
                let sql = format!(
                    "select {NOTICE} from notice where mail_due = 1 and tenant_id = ?1 and class = ?2 order by id limit ?3"
                );
                let values = params![tenant.key(), class_number(class), limit];
                self.all_that_read(&sql, values, row)?
            }
            DueNotices::Publish { after } => {
                let sql = format!(
                    "select {NOTICE} from notice where publish_due = 1 and id > ?1 order by id limit ?2"
                );
                let after = after.map_or(i64::MIN, Id::key);
                self.all_that_read(&sql, params![after, limit], row)?
            }
        };
        Ok((read.rows, read.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sqlite::open::plan;

    /// One tenant may have a million that wait.
    #[test]
    fn audiences_are_found_by_the_index() -> SqlResult<()> {
        let plan = plan(AUDIENCES, ())?;
        for step in ["(tenant_id>?)", "(tenant_id=? AND class=?)"] {
            let step = format!("SEARCH n USING COVERING INDEX notice_mail {step}");
            assert!(plan.contains(&step), "{plan}");
        }
        assert!(!plan.contains("TEMP B-TREE"), "{plan}");
        Ok(())
    }
}
