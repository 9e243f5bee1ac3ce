//! [`Audit`] of the store: each method is a question for a reader, or a change for the writer.

use async_trait::async_trait;
use postrider_core::audit::AuditEntry;
use postrider_store::{Audit, AuditFilter, Page, PageRequest, StoreError};

use crate::SqlStore;
use crate::convert::aborted;
use crate::writer::Tx;

#[async_trait]
impl Audit for SqlStore {
    async fn note(&self, entry: AuditEntry) -> Result<(), StoreError> {
        let account = entry.actor.account;
        let note = move |tx: &mut Tx| tx.note_of_owner(&entry).map_err(aborted);
        self.writer.call_by(account, note).await
    }

    async fn list_audit(
        &self,
        filter: AuditFilter,
        page: PageRequest,
    ) -> Result<Page<AuditEntry>, StoreError> {
        self.lists
            .read(move |reader| reader.list_audit(&filter, page))
            .await
    }
}
