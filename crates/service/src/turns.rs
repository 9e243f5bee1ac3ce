//! What is long is done in turns: a tenant's counts wait for each other, and so do its replays, to
//! leave room for those of the others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use postrider_core::{Id, id};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::refusal::{Refusal, Result};

pub(crate) struct Turns<K = id::Tenant> {
    turns: Mutex<HashMap<Id<K>, Weak<Semaphore>>>,
    /// That one may have at once.
    each: usize,
}

impl<K> Default for Turns<K> {
    fn default() -> Self {
        Self::of_several(1)
    }
}

impl<K> Turns<K> {
    pub(crate) fn of_several(each: usize) -> Self {
        let turns = Mutex::default();
        Self { turns, each }
    }

    /// Waits until as few others have a turn of whose it is; it lasts as long as the permit.
    pub(crate) async fn take(&self, whose: Id<K>) -> Result<OwnedSemaphorePermit> {
        let turn = self.of(whose);
        turn.acquire_owned().await.map_err(Refusal::internal)
    }

    fn of(&self, whose: Id<K>) -> Arc<Semaphore> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(turn) = turns.get(&whose).and_then(Weak::upgrade) {
            return turn;
        }
        // Only with a new one: whoever has a turn or waits for it keeps it alive, and nobody else needs it.
        turns.retain(|_, turn| turn.strong_count() > 0);
        let turn = Arc::new(Semaphore::new(self.each));
        turns.insert(whose, Arc::downgrade(&turn));
        turn
    }
}
