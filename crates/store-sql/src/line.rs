//! Where changes wait for the writer: each account has one at a time before it, and a bound on how many may follow.
//!
//! Without it, whoever sends changes as fast as they can would have everybody's others (sign-ins, keys, nonces, the
//! progress of tasks) wait behind all of theirs, in memory.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use postrider_store::StoreError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Changes that wait, of all accounts together; one may have as many as are left, so it has half at most. One of each
/// waits in any case: others may have filled the line between them.
pub(crate) const WAITING_MAX: usize = 1_024;

#[derive(Debug, Clone, Default)]
pub(crate) struct Line(Arc<Mutex<Waiting>>);

#[derive(Debug, Default)]
struct Waiting {
    all: usize,
    accounts: HashMap<u128, Account>,
}

#[derive(Debug)]
struct Account {
    waiting: usize,
    turn: Arc<Semaphore>,
}

/// A place in the line; at its head once it is this account's turn.
#[derive(Debug)]
pub(crate) struct Place {
    _turn: OwnedSemaphorePermit,
    _counted: Counted,
}

#[derive(Debug)]
struct Counted {
    line: Line,
    account: u128,
}

impl Line {
    /// Waits for the account's turn, which lasts as long as what is given.
    ///
    /// # Errors
    /// `Busy` when as many of its changes wait as may.
    pub(crate) async fn take(&self, account: u128) -> Result<Place, StoreError> {
        let (counted, turn) = self.join(account).ok_or(StoreError::Busy)?;
        let turn = turn.acquire_owned().await.map_err(StoreError::aborted)?;
        Ok(Place {
            _turn: turn,
            _counted: counted,
        })
    }

    fn join(&self, account: u128) -> Option<(Counted, Arc<Semaphore>)> {
        let mut waiting = self.lock();
        let free = WAITING_MAX.saturating_sub(waiting.all);
        let own = waiting.accounts.get(&account);
        if own.is_some_and(|own| own.waiting >= free) {
            return None;
        }
        waiting.all += 1;
        let own = waiting.accounts.entry(account).or_insert_with(|| Account {
            waiting: 0,
            turn: Arc::new(Semaphore::new(1)),
        });
        own.waiting += 1;
        let turn = own.turn.clone();
        drop(waiting);
        let line = self.clone();
        Some((Counted { line, account }, turn))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Waiting> {
        // Nothing panics between two numbers that belong together, so those of a poisoned lock are good.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut waiting = self.line.lock();
        waiting.all -= 1;
        if let Some(own) = waiting.accounts.get_mut(&self.account) {
            own.waiting -= 1;
            // Accounts are callers, and of those there is no end.
            if own.waiting == 0 {
                waiting.accounts.remove(&self.account);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_account_has_half_of_the_line_and_the_others_the_rest() {
        let line = Line::default();
        let turn = line.take(1).await.expect("the line is empty");
        let mut places = vec![line.join(1)];
        while let Some(place) = line.join(1) {
            places.push(Some(place));
        }
        assert_eq!(places.len() + 1, WAITING_MAX / 2);
        assert!(line.take(2).await.is_ok(), "another's turn");
        // However many fill it, there is room for one that has nothing there.
        let mut others = Vec::new();
        for account in 2..20 {
            let mut own = 0;
            while let Some(place) = line.join(account) {
                others.push(place);
                own += 1;
            }
            assert!(own > 0, "{account}");
        }
        drop((turn, places, others));
        assert!(line.take(1).await.is_ok());
        assert!(line.lock().accounts.is_empty(), "nobody waits any more");
    }
}
