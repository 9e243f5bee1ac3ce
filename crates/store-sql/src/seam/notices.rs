//! [`Notices`] of the store: each method is a question for a reader, or a change for the writer.

use async_trait::async_trait;
use postrider_core::notice::Notice;
use postrider_core::tenant::Mode;
use postrider_core::{Id, Timestamp, id};
use postrider_store::{
    DueNotices, MailAudience, NoticeChannel, NoticeFilter, Notices, Page, PageRequest, StoreError,
};

use crate::SqlStore;

/// Notices that one transaction marks as read.
const READ_EACH: u32 = 1_000;

#[async_trait]
impl Notices for SqlStore {
    async fn list_notices(
        &self,
        filter: NoticeFilter,
        page: PageRequest,
    ) -> Result<Page<Notice>, StoreError> {
        self.lists
            .read(move |reader| reader.list_notices(filter, page))
            .await
    }

    async fn read_notices(
        &self,
        tenant: Id<id::Tenant>,
        mode: Option<Mode>,
        last: Id<id::Notice>,
        now: Timestamp,
        account: u128,
    ) -> Result<u32, StoreError> {
        let mut read = 0;
        // Each a transaction of its own: of hundreds of thousands all commits would wait for one.
        loop {
            let some = self
                .writer
                .call_by(account, move |tx| {
                    tx.read_notices(tenant, mode, last, now, READ_EACH)
                })
                .await?;
            read += some;
            if some < READ_EACH {
                return Ok(read);
            }
        }
    }

    async fn mail_audiences(&self) -> Result<Vec<(MailAudience, Timestamp)>, StoreError> {
        self.chores.read(|reader| reader.mail_audiences()).await
    }

    async fn due_notices(&self, due: DueNotices, limit: u32) -> Result<Vec<Notice>, StoreError> {
        self.lists
            .read(move |reader| reader.due_notices(due, limit))
            .await
    }

    async fn settle_notices(
        &self,
        channel: NoticeChannel,
        ids: Vec<Id<id::Notice>>,
    ) -> Result<(), StoreError> {
        self.writer
            .call(move |tx| tx.settle_notices(channel, &ids))
            .await
    }
}
