//! What is long is done in turns: what one asks for waits for each other, to leave room for that of the others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use postrider_core::{Id, id};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Turns of whoever has one of these ids.
pub struct Turns<K = id::Tenant> {
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
    pub fn of_several(each: usize) -> Self {
        let turns = Mutex::default();
        Self { turns, each }
    }

    /// Waits until as few others have a turn of whose it is; it lasts as long as the permit.
    ///
    /// # Panics
    /// Never: nobody closes what is waited for.
    pub async fn take(&self, whose: Id<K>) -> OwnedSemaphorePermit {
        let turn = self.of(whose).acquire_owned().await;
        turn.expect("turns do not end")
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

/// Turns of whoever has one of these ids, among all of them: whoever asks for much waits behind themselves.
pub struct SharedTurns<K = id::Tenant> {
    own: Turns<K>,
    all: Arc<Semaphore>,
}

/// A turn; it lasts as long as this is there.
pub struct SharedTurn {
    _own: OwnedSemaphorePermit,
    _all: OwnedSemaphorePermit,
}

impl<K> SharedTurns<K> {
    /// So many at once of each, and of all together.
    pub fn new(each: usize, all: usize) -> Self {
        Self {
            own: Turns::of_several(each),
            all: Arc::new(Semaphore::new(all)),
        }
    }

    /// Waits for a turn.
    ///
    /// # Panics
    /// Never: nobody closes what is waited for.
    pub async fn take(&self, whose: Id<K>) -> SharedTurn {
        let own = self.own.take(whose).await;
        let all = self.all.clone().acquire_owned().await;
        SharedTurn {
            _own: own,
            _all: all.expect("turns do not end"),
        }
    }
}
