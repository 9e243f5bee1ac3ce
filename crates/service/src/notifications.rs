//! In-app notifications of failures, for those who asked for them in the tenant's settings.

use postrider_core::notice::Notice;
use postrider_core::tenant::Mode;
use postrider_core::{Id, id};
use postrider_store::{NoticeFilter, Page, PageRequest};

use crate::reading::bounded_page;
use crate::refusal::Result;
use crate::{Caller, Service};

/// Which notices.
#[derive(Debug, Default)]
pub struct NoticeQuery {
    pub mode: Option<Mode>,
    /// Those that nobody has read.
    pub unread: bool,
}

impl Service {
    /// A tenant's notices, the newest first.
    ///
    /// # Errors
    /// `not_found`, or what the store answers.
    pub async fn list_notices(
        &self,
        who: &Caller,
        tenant: Id<id::Tenant>,
        query: NoticeQuery,
        page: PageRequest,
    ) -> Result<Page<Notice>> {
        let tenant = Some(who.tenant(self, tenant).await?.id);
        self.noticed(who, (None, tenant), query, page).await
    }

    /// What every tenant within the caller's scope had to be told, however it was, the newest first.
    ///
    /// # Errors
    /// `scope_insufficient` for whoever is one tenant's, or what the store answers.
    pub async fn list_all_notices(
        &self,
        who: &Caller,
        query: NoticeQuery,
        page: PageRequest,
    ) -> Result<Page<Notice>> {
        let application = who.product()?;
        self.noticed(who, (application, None), query, page).await
    }

    async fn noticed(
        &self,
        who: &Caller,
        (application, tenant): (Option<Id<id::Application>>, Option<Id<id::Tenant>>),
        query: NoticeQuery,
        page: PageRequest,
    ) -> Result<Page<Notice>> {
        let filter = NoticeFilter {
            application,
            tenant,
            mode: who.shown(query.mode)?,
            unread: query.unread,
        };
        let (store, page) = (self.0.store.clone(), bounded_page(page));
        let listed = self.listed(who, async move { store.list_notices(filter, page).await });
        listed.await
    }

    /// Marks a notice and all older ones as read; how many were not read before.
    ///
    /// # Errors
    /// `not_found`, or what the store answers.
    pub async fn read_notices(
        &self,
        who: &Caller,
        tenant: Id<id::Tenant>,
        up_to: Id<id::Notice>,
    ) -> Result<u32> {
        who.must_change()?;
        let tenant = who.tenant(self, tenant).await?.id;
        let mode = who.shown(None)?;
        let (now, account) = (self.now(), who.holder());
        let read = self.store().read_notices(tenant, mode, up_to, now, account);
        Ok(read.await?)
    }
}
