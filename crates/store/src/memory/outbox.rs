//! The model's outbox: nobody else sees its memory, so nothing is ever there.

use async_trait::async_trait;
use postrider_core::{Id, id};

use super::MemoryStore;
use crate::StoreError;
use crate::outbox::{Outbox, OutboxState, Submission};

#[async_trait]
impl Outbox for MemoryStore {
    fn takes_submissions(&self) -> bool {
        false
    }

    async fn submitters(
        &self,
        _: Option<Id<id::Tenant>>,
        _: Vec<Id<id::Tenant>>,
        _: u32,
    ) -> Result<Vec<Id<id::Tenant>>, StoreError> {
        Ok(Vec::new())
    }

    async fn submissions(
        &self,
        _: Id<id::Tenant>,
        _: i64,
        _: u32,
        _: usize,
    ) -> Result<Vec<Submission>, StoreError> {
        Ok(Vec::new())
    }

    async fn settle_submissions(
        &self,
        _: Vec<i64>,
        _: Vec<(i64, String)>,
    ) -> Result<(), StoreError> {
        Ok(())
    }

    async fn outbox_state(&self) -> Result<OutboxState, StoreError> {
        Ok(OutboxState::default())
    }
}
