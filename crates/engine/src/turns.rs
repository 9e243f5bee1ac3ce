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

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::{Pin, pin};
    use std::task::Poll;

    use super::*;

    /// What comes of it, if it is there by now.
    async fn now<F: Future>(mut waiting: Pin<&mut F>) -> Option<F::Output> {
        poll_fn(|context| match waiting.as_mut().poll(context) {
            Poll::Ready(over) => Poll::Ready(Some(over)),
            Poll::Pending => Poll::Ready(None),
        })
        .await
    }

    /// What waits behind both: others of the same, and too many others.
    #[tokio::test]
    async fn each_has_its_own_and_all_have_no_more_than_there_are() {
        let turns: SharedTurns = SharedTurns::new(1, 2);
        let [one, two, three] = [1, 2, 3].map(Id::from_u128);
        let first = turns.take(one).await;
        let mut again = pin!(turns.take(one));
        assert!(now(again.as_mut()).await.is_none(), "its own comes first");
        let second = turns.take(two).await;
        let mut third = pin!(turns.take(three));
        assert!(now(third.as_mut()).await.is_none(), "there are two");
        drop(first);
        // Whoever waits for nobody but all others goes before who had one.
        let third = now(third.as_mut()).await;
        assert!(third.is_some(), "there is one");
        assert!(now(again.as_mut()).await.is_none());
        drop(second);
        assert!(now(again.as_mut()).await.is_some());
        drop(third);
    }

    #[tokio::test]
    async fn whose_turns_are_over_are_forgotten() {
        let turns: Turns = Turns::of_several(2);
        for number in 0..100 {
            drop(turns.take(Id::from_u128(number)).await);
        }
        let held = turns.take(Id::from_u128(1_000)).await;
        assert_eq!(turns.turns.lock().unwrap().len(), 1);
        drop(held);
    }
}
