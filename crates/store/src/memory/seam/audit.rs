//! [`Audit`] of the model.

use async_trait::async_trait;
use postrider_core::audit::AuditEntry;

use crate::memory::MemoryStore;
use crate::{Audit, AuditFilter, Page, PageRequest, StoreError};

#[async_trait]
impl Audit for MemoryStore {
    async fn note(&self, entry: AuditEntry) -> Result<(), StoreError> {
        let mut state = self.state();
        let tenant = entry.tenant;
        let application = entry.application;
        let exists = tenant.is_none_or(|id| state.tenants.contains_key(&id.as_u128()))
            && application.is_none_or(|id| state.applications.contains_key(&id.as_u128()));
        if exists {
            state.audit.insert(entry.id.as_u128(), entry);
        }
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
