//! What is long is done in turns: a tenant's counts wait for each other, and so do its replays, to
//! leave room for those of the others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use postrider_core::{Id, id};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::problem::{ApiError, ApiResult};

#[derive(Default)]
pub(crate) struct Turns(Mutex<HashMap<Id<id::Tenant>, Weak<Semaphore>>>);

impl Turns {
    /// Waits until no other has the tenant's turn; it lasts as long as the permit.
    pub(crate) async fn take(&self, tenant: Id<id::Tenant>) -> ApiResult<OwnedSemaphorePermit> {
        let turn = self.of(tenant);
        turn.acquire_owned().await.map_err(ApiError::internal)
    }

    fn of(&self, tenant: Id<id::Tenant>) -> Arc<Semaphore> {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(turn) = turns.get(&tenant).and_then(Weak::upgrade) {
            return turn;
        }
        turns.retain(|_, turn| turn.strong_count() > 0);
        let turn = Arc::new(Semaphore::new(1));
        turns.insert(tenant, Arc::downgrade(&turn));
        turn
    }
}
