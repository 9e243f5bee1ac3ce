//! [`Notices`] of the store: each method is a question for a reader, or a change for the writer.

use async_trait::async_trait;
use postrider_core::notice::Notice;
use postrider_core::tenant::Mode;
use postrider_core::{Id, Timestamp, id};
use postrider_store::{
    DueNotices, MailAudience, NoticeChannel, NoticeFilter, Notices, Page, PageRequest, StoreError,
};

use crate::SqlStore;
use crate::read::Reader;
use crate::writer::Tx;

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
        loop {
            let read = move |reader: &Reader| reader.due_notices(due, limit);
            let (notices, unreadable) = self.lists.read(read).await?;
            if unreadable.is_empty() {
                return Ok(notices);
            }
            // Nobody can be told of those: they wait no more, and stand before nobody.
            let channel = due.channel();
            let settle = move |tx: &mut Tx| tx.settle_notices(channel, &unreadable);
            self.writer.call(settle).await?;
            if !notices.is_empty() {
                return Ok(notices);
            }
        }
    }

    async fn settle_notices(
        &self,
        channel: NoticeChannel,
        ids: Vec<Id<id::Notice>>,
    ) -> Result<(), StoreError> {
        let keys: Vec<i64> = ids.into_iter().map(Id::key).collect();
        self.writer
            .call(move |tx| tx.settle_notices(channel, &keys))
            .await
    }
}
