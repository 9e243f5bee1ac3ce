//! [`Audit`] of the model.

use async_trait::async_trait;
use postrider_core::audit::AuditEntry;

use crate::memory::MemoryStore;
use crate::{Audit, AuditFilter, Page, PageRequest, StoreError};

#[async_trait]
impl Audit for MemoryStore {
    async fn note(&self, entry: AuditEntry) -> Result<(), StoreError> {
        self.state().note_of_owner(entry);
        Ok(())
    }

    async fn list_audit(
        &self,
        filter: AuditFilter,
        page: PageRequest,
    ) -> Result<Page<AuditEntry>, StoreError> {
        self.state().list_audit(&filter, page)
    }
}
