//! [`Notices`] of the model.

use async_trait::async_trait;
use postrider_core::notice::Notice;
use postrider_core::tenant::Mode;
use postrider_core::{Id, Timestamp, id};

use crate::memory::MemoryStore;
use crate::{
    DueNotices, MailAudience, NoticeChannel, NoticeFilter, Notices, Page, PageRequest, StoreError,
};

#[async_trait]
impl Notices for MemoryStore {
    async fn list_notices(
        &self,
        filter: NoticeFilter,
        page: PageRequest,
    ) -> Result<Page<Notice>, StoreError> {
        self.state().list_notices(filter, page)
    }

    async fn read_notices(
        &self,
        tenant: Id<id::Tenant>,
        mode: Option<Mode>,
        last: Id<id::Notice>,
        now: Timestamp,
        _: u128,
    ) -> Result<u32, StoreError> {
        Ok(self.state().read_notices(tenant, mode, last, now))
    }

    async fn mail_audiences(&self) -> Result<Vec<(MailAudience, Timestamp)>, StoreError> {
        Ok(self.state().mail_audiences())
    }

    async fn due_notices(&self, due: DueNotices, limit: u32) -> Result<Vec<Notice>, StoreError> {
        Ok(self.state().due_notices(due, limit))
    }

    async fn settle_notices(
        &self,
        channel: NoticeChannel,
        ids: Vec<Id<id::Notice>>,
    ) -> Result<(), StoreError> {
        self.state().settle_notices(channel, &ids);
        Ok(())
    }
}
