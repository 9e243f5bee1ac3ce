//! The audit log. Changes enter it in their own transactions.

use async_trait::async_trait;
use postrider_core::audit::AuditEntry;

use crate::{AuditFilter, Page, PageRequest, StoreError};

/// What somebody did.
#[async_trait]
pub trait Audit: Send + Sync + 'static {
    /// Records what somebody did that changed nothing here: a test call. Not of a deleted owner: nobody would erase it.
    async fn note(&self, entry: AuditEntry) -> Result<(), StoreError>;

    /// Newest first.
    async fn list_audit(
        &self,
        filter: AuditFilter,
        page: PageRequest,
    ) -> Result<Page<AuditEntry>, StoreError>;
}
