//! The audit log, notices and statistics of the model.

use std::collections::BTreeMap;

use postrider_core::audit::{Actor, AuditEntry, Audited, entry};
use postrider_core::endpoint::EndpointKind;
use postrider_core::id::IdGenerator;
use postrider_core::notice::{Notice, NoticeClass};
use postrider_core::tenant::Mode;
use postrider_core::{Id, Timestamp, id};

use super::State;
use super::manage::newest;
use crate::life;
use crate::{
    Alike, AlikeAttempts, AuditFilter, Count, DueNotices, Failure, MailAudience, NoticeChannel,
    NoticeFilter, Page, PageRequest, Statistics, StatisticsQuery, StoreError, Task, TaskFilter,
    Ways, took_class,
};

impl State {
    /// Records a change in the audit log.
    /// Records something unless its owner is gone: nobody would erase it.
    pub(super) fn note_of_owner(&mut self, entry: AuditEntry) {
        let (tenant, application) = (entry.tenant, entry.application);
        let exists = tenant.is_none_or(|id| self.tenants.contains_key(&id.as_u128()))
            && application.is_none_or(|id| self.applications.contains_key(&id.as_u128()));
        if exists {
            self.audit.insert(entry.id.as_u128(), entry);
        }
    }

    pub(super) fn note<T: Audited>(
        &mut self,
        ids: &IdGenerator,
        by: &Actor,
        before: Option<&T>,
        after: Option<&T>,
    ) {
        if let Some(entry) = entry(ids.next(by.at), by, before, after) {
            self.audit.insert(entry.id.as_u128(), entry);
        }
    }

    /// Writes the notices that a failure gives cause for.
    pub(super) fn tell(
        &mut self,
        ids: &IdGenerator,
        now: Timestamp,
        failure: &Failure,
        failed: bool,
        disabled: bool,
    ) {
        let Some(row) = self.deliveries.get(&failure.delivery.as_u128()) else {
            return;
        };
        // A deleted owner wants to hear of nothing, and nobody would erase the notice.
        let Some(tenant) = self.tenants.get(&row.delivery.tenant.as_u128()) else {
            return;
        };
        let Some(application) = self.applications.get(&tenant.application.as_u128()) else {
            return;
        };
        let endpoint = self.endpoints.get(&failure.endpoint.as_u128());
        let kind = endpoint.map_or(EndpointKind::Callback, |row| row.endpoint.kind.clone());
        let class = kind.class();
        let ways = Ways::new(&application.settings, &tenant.settings);
        if !ways.any(class) {
            return;
        }
        for kind in life::notices(failed, disabled) {
            let notice = Notice {
                id: ids.next(now),
                application: application.id,
                tenant: tenant.id,
                class,
                kind,
                endpoint: failure.endpoint,
                delivery: failure.delivery,
                event_type: row.delivery.event_type.clone(),
                mode: row.delivery.mode,
                url: failure.url.clone(),
                attempts: failure.attempts,
                error: failure.error.clone(),
                at: now,
                in_app: ways.in_app(class),
                mail_due: ways.mail(class),
                publish_due: ways.publish,
                read_at: None,
            };
            self.notices.insert(notice.id.as_u128(), notice);
        }
    }

    pub(super) fn list_audit(
        &self,
        filter: &AuditFilter,
        page: PageRequest,
    ) -> Result<Page<AuditEntry>, StoreError> {
        let is = |wanted: &Option<String>, text: &str| {
            wanted.as_deref().is_none_or(|wanted| wanted == text)
        };
        let rows = self.audit.iter().filter(|(_, entry)| {
            filter
                .application
                .is_none_or(|id| entry.application == Some(id))
                && filter.tenant.is_none_or(|id| entry.tenant == Some(id))
                && is(&filter.subject, &entry.subject)
                && is(&filter.action, &entry.action)
                && filter.key.is_none_or(|id| entry.actor.key == Some(id))
                && filter.user.is_none_or(|id| entry.actor.user == Some(id))
                && filter.since.is_none_or(|at| entry.actor.at >= at)
                && filter.until.is_none_or(|at| entry.actor.at < at)
        });
        newest(rows.map(|(id, row)| (*id, row)), filter, page)
    }

    pub(super) fn list_notices(
        &self,
        filter: NoticeFilter,
        page: PageRequest,
    ) -> Result<Page<Notice>, StoreError> {
        let rows = self.notices.iter().filter(|(_, notice)| {
            filter
                .tenant
                .is_none_or(|tenant| notice.in_app && notice.tenant == tenant)
                && filter
                    .application
                    .is_none_or(|own| own == notice.application)
                && filter.mode.is_none_or(|mode| mode == notice.mode)
                && !(filter.unread && notice.read_at.is_some())
        });
        newest(rows.map(|(id, row)| (*id, row)), &filter, page)
    }

    pub(super) fn list_tasks(
        &self,
        filter: TaskFilter,
        page: PageRequest,
    ) -> Result<Page<Task>, StoreError> {
        let rows = self.tasks.iter().filter(|(_, task)| {
            filter.application.is_none_or(|own| own == task.application)
                && filter.tenant.is_none_or(|own| task.tenant == Some(own))
                && filter.kind.is_none_or(|kind| kind == task.kind)
        });
        newest(rows.map(|(id, row)| (*id, row)), &filter, page)
    }

    pub(super) fn read_notices(
        &mut self,
        tenant: Id<id::Tenant>,
        mode: Option<Mode>,
        last: Id<id::Notice>,
        now: Timestamp,
    ) -> u32 {
        let unread = self
            .notices
            .range_mut(..=last.as_u128())
            .map(|(_, notice)| notice)
            .filter(|notice| notice.in_app && notice.tenant == tenant && notice.read_at.is_none())
            .filter(|notice| mode.is_none_or(|mode| mode == notice.mode));
        let mut count = 0;
        for notice in unread {
            notice.read_at = Some(now);
            count += 1;
        }
        count
    }

    pub(super) fn mail_audiences(&self) -> Vec<(MailAudience, Timestamp)> {
        let mut first = BTreeMap::new();
        for notice in self.notices.values().filter(|notice| notice.mail_due) {
            let audience = MailAudience {
                tenant: notice.tenant,
                class: notice.class,
            };
            let key = (notice.tenant, notice.class == NoticeClass::Distributions);
            // In the order of ids, so the first of an audience's is its oldest.
            first.entry(key).or_insert((audience, notice.at));
        }
        first.into_values().collect()
    }

    pub(super) fn due_notices(&self, due: DueNotices, limit: u32) -> Vec<Notice> {
        let due = |notice: &&Notice| match due {
            DueNotices::Mail(MailAudience { tenant, class }) => {
                notice.mail_due && notice.tenant == tenant && notice.class == class
            }
            DueNotices::Publish { after } => {
                notice.publish_due && after.is_none_or(|after| notice.id > after)
            }
        };
        let due = self.notices.values().filter(due);
        due.take(limit as usize).cloned().collect()
    }

    pub(super) fn settle_notices(&mut self, channel: NoticeChannel, ids: &[Id<id::Notice>]) {
        for id in ids {
            if let Some(notice) = self.notices.get_mut(&id.as_u128()) {
                match channel {
                    NoticeChannel::Mail => notice.mail_due = false,
                    NoticeChannel::Publish => notice.publish_due = false,
                }
            }
        }
    }

    pub(super) fn statistics(&self, query: &StatisticsQuery) -> Statistics {
        let counted = self.deliveries.values().map(|row| &row.delivery);
        let counted = counted.filter(|delivery| {
            delivery.tenant == query.tenant
                && delivery.created_at >= query.since
                && delivery.created_at < query.until
                && query
                    .event_type
                    .as_deref()
                    .is_none_or(|wanted| *wanted == *delivery.event_type)
                && query.endpoint.is_none_or(|id| id == delivery.endpoint)
                && query.mode.is_none_or(|mode| mode == delivery.mode)
                && query
                    .state
                    .is_none_or(|state| state.matches(delivery.state))
        });
        let mut count = Count::default();
        for delivery in counted {
            let alike = Alike {
                event_type: &delivery.event_type,
                endpoint: delivery.endpoint,
                mode: delivery.mode,
                state: delivery.state,
                at: delivery.created_at,
                deliveries: 1,
                attempts: delivery.attempts.into(),
            };
            count.add(query, &alike);
            if query.outcomes && query.state.is_none() {
                for attempt in self
                    .attempts
                    .get(&delivery.id.as_u128())
                    .into_iter()
                    .flatten()
                {
                    let alike = AlikeAttempts {
                        code: &attempt.outcome.code(),
                        class: took_class(attempt.timings.total_micros),
                        at: delivery.created_at,
                        attempts: 1,
                    };
                    count.add_attempts(query, &alike);
                }
            }
        }
        count.finish(query.outcomes && query.state.is_none())
    }
}
