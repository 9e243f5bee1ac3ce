//! The store's seam: each method is a question for a reader, or a change for the writer.

mod audit;
mod catalogue;
mod keys;
mod lanes;
mod notices;
mod records;
mod tasks;

use async_trait::async_trait;
use postrider_core::Timestamp;
use postrider_core::id::IdGenerator;
use postrider_store::{Store, StoreError};

use crate::SqlStore;

#[async_trait]
impl Store for SqlStore {
    fn ids(&self) -> &IdGenerator {
        &self.ids
    }

    async fn sweep(&self, idempotency_before: Timestamp, now: Timestamp) -> Result<(), StoreError> {
        // Publishers have their turn between two pages.
        while self
            .writer
            .call(move |tx| tx.sweep(idempotency_before, now))
            .await?
        {}
        Ok(())
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.writer.call(|tx| tx.ping()).await
    }
}
