//! Writing the audit log and notices, in the transaction of what they tell of.

use postrider_core::audit::{Actor, AuditEntry, Audited, entry};
use postrider_core::notice::{NoticeClass, NoticeKind};
use postrider_core::tenant::Mode;
use postrider_core::{Id, Timestamp, id};
use postrider_store::life::{self, RecipientKind};
use postrider_store::{Failure, NoticeChannel, StoreError};

use crate::convert::{aborted, mode_number};
use crate::read::class_number;
use crate::segments::keys_text;
use crate::sql::{Connection, Optional, SqlResult, params};
use crate::writer::Tx;

fn stored_class(connection: &Connection, endpoint: i64) -> SqlResult<NoticeClass> {
    let mut statement = connection.prepare_cached("select kind = 3 from endpoint where id = ?1")?;
    let distribution = statement
        .query_row([endpoint], |row| row.get(0))
        .optional()?;
    Ok(match distribution {
        Some(true) => NoticeClass::Distributions,
        Some(false) | None => NoticeClass::Webhooks,
    })
}

impl Tx {
    /// Records a change in the audit log.
    pub(crate) fn note<T: Audited>(
        &self,
        by: &Actor,
        before: Option<&T>,
        after: Option<&T>,
    ) -> SqlResult<()> {
        let Some(entry) = entry(self.ids.next(by.at), by, before, after) else {
            return Ok(());
        };
        self.insert_audit(&entry)
    }

    /// Records something unless its owner is gone: nobody would erase it.
    pub(crate) fn note_of_owner(&self, entry: &AuditEntry) -> SqlResult<()> {
        let sql = "select (cast(?1 as bigint) is null or exists (select 1 from tenant where id = ?1))
                   and (cast(?2 as bigint) is null or exists (select 1 from application where id = ?2))";
        let owner = params![entry.tenant.map(Id::key), entry.application.map(Id::key)];
        let exists: bool = self
            .connection
            .prepare_cached(sql)?
            .query_row(owner, |row| row.get(0))?;
        if exists {
            self.insert_audit(entry)
        } else {
            Ok(())
        }
    }

    fn insert_audit(&self, entry: &AuditEntry) -> SqlResult<()> {
        let sql = "insert into audit (id, at, application_id, tenant_id, key_id, actor, action, subject, before, after, user_id)
                   values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)";
        self.connection.prepare_cached(sql)?.execute(params![
            entry.id.key(),
            entry.actor.at.as_micros(),
            entry.application.map(Id::key),
            entry.tenant.map(Id::key),
            entry.actor.key.map(Id::key),
            &*entry.actor.name,
            entry.action,
            entry.subject,
            entry.before,
            entry.after,
            entry.actor.user.map(Id::key),
        ])?;
        Ok(())
    }

    /// Writes the notices that a failure gives cause for.
    pub(crate) fn tell(
        &mut self,
        now: Timestamp,
        tenant: i64,
        failure: &Failure,
        failed: bool,
        disabled: bool,
    ) -> SqlResult<()> {
        let (endpoint, delivery) = (failure.endpoint.key(), failure.delivery.key());
        let Some(audience) = self.fanout.audience(&self.connection, tenant)? else {
            // Its tenant was deleted: nobody is told, and nobody would erase what is written now.
            return Ok(());
        };
        let recipient = audience.recipient(endpoint);
        let class = match recipient.map(|recipient| recipient.kind) {
            Some(RecipientKind::Distribution) => NoticeClass::Distributions,
            Some(RecipientKind::Registered | RecipientKind::Callback | RecipientKind::Key) => {
                NoticeClass::Webhooks
            }
            // A callback, or one that was deleted meanwhile.
            None => stored_class(&self.connection, endpoint)?,
        };
        let (ways, application) = (audience.ways, audience.application);
        if !ways.any(class) {
            return Ok(());
        }
        // Type and mode come from the row, so that no caller has to read it for them.
        let sql = "insert into notice (id, application_id, tenant_id, class, kind, endpoint_id, delivery_id, event_type, mode, url, attempts, error, at, in_app, mail_due, publish_due) values (?1, ?2, ?3, ?4, ?5, ?6, ?7, (select event_type from delivery where id = ?7), (select mode from delivery where id = ?7), ?8, ?9, ?10, ?11, ?12, ?13, ?14)";
        for kind in life::notices(failed, disabled) {
            let id: Id<id::Notice> = self.ids.next(now);
            self.connection.prepare_cached(sql)?.enqueue(params![
                id.key(),
                application,
                tenant,
                class_number(class),
                match kind {
                    NoticeKind::DeliveryFailed => 0,
                    NoticeKind::EndpointDisabled => 1,
                },
                endpoint,
                delivery,
                failure.url,
                failure.attempts,
                failure.error,
                now.as_micros(),
                ways.in_app(class),
                ways.mail(class),
                ways.publish,
            ])?;
        }
        Ok(())
    }

    pub(crate) fn read_notices(
        &mut self,
        tenant: Id<id::Tenant>,
        mode: Option<Mode>,
        last: Id<id::Notice>,
        now: Timestamp,
        max: u32,
    ) -> Result<u32, StoreError> {
        // Up to the last one that was shown: what came since stays unread.
        let sql = "update notice set read_at = ?3 where id in (
                   select id from notice where tenant_id = ?1 and id <= ?2 and in_app = 1 and read_at is null
                   and (cast(?4 as bigint) is null or mode = ?4) order by id limit ?5)";
        let mode = mode.map(mode_number);
        let changed = self
            .connection
            .execute(
                sql,
                params![tenant.key(), last.key(), now.as_micros(), mode, max],
            )
            .map_err(aborted)?;
        Ok(u32::try_from(changed).unwrap_or(u32::MAX))
    }

    pub(crate) fn settle_notices(
        &mut self,
        channel: NoticeChannel,
        keys: &[i64],
    ) -> Result<(), StoreError> {
        // All of them in one: a digest has thousands, and everybody's commits wait meanwhile.
        let sql = match channel {
            NoticeChannel::Mail => {
                "update notice set mail_due = 0 where id in (select value from json_each(?1))"
            }
            NoticeChannel::Publish => {
                "update notice set publish_due = 0 where id in (select value from json_each(?1))"
            }
        };
        self.connection
            .prepare_cached(sql)
            .and_then(|mut statement| statement.execute([keys_text(keys)]))
            .map_err(aborted)?;
        Ok(())
    }
}
