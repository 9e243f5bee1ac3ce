//! A budget that callers share: nobody can use it up.
//!
//! A holder may have as much as is free (a dynamic threshold), so one that takes all it gets has half,
//! and there is always something for a holder that has nothing yet.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// So much of something, bytes or requests, for all holders together.
#[derive(Debug, Clone)]
pub struct Budget(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    max: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    holders: HashMap<u128, usize>,
}

/// What a holder has taken; given back when it is dropped.
#[derive(Debug)]
pub struct Grant {
    budget: Budget,
    holder: u128,
    amount: usize,
}

impl Budget {
    pub fn new(max: usize) -> Self {
        Self(Arc::new(Inner {
            max,
            taken: Mutex::default(),
        }))
    }

    /// Takes nothing yet.
    pub fn open(&self, holder: u128) -> Grant {
        Grant {
            budget: self.clone(),
            holder,
            amount: 0,
        }
    }

    /// Takes `amount`, or nothing when the holder may not have so much.
    pub fn take(&self, holder: u128, amount: usize) -> Option<Grant> {
        let mut grant = self.open(holder);
        grant.grow(amount).then_some(grant)
    }

    /// How much is taken.
    pub fn taken(&self) -> usize {
        self.lock().all
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Taken> {
        // Nothing panics between two numbers that belong together, so those of a poisoned lock are good.
        self.0.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Grant {
    /// Takes more; false when the holder may not have so much.
    #[must_use]
    pub fn grow(&mut self, more: usize) -> bool {
        let mut taken = self.budget.lock();
        let own = taken.holders.get(&self.holder).copied().unwrap_or(0);
        let free = self.budget.0.max.saturating_sub(taken.all);
        // The first comparison keeps the sum of the second from overflowing.
        if more > free || own + more > free {
            return false;
        }
        taken.all += more;
        *taken.holders.entry(self.holder).or_default() += more;
        self.amount += more;
        true
    }
}

impl Grant {
    /// What its holder has in all.
    pub fn held(&self) -> usize {
        let taken = self.budget.lock();
        taken.holders.get(&self.holder).copied().unwrap_or(0)
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        let mut taken = self.budget.lock();
        taken.all -= self.amount;
        if let Some(own) = taken.holders.get_mut(&self.holder) {
            *own -= self.amount;
            // Holders are callers, and of those there is no end.
            if *own == 0 {
                taken.holders.remove(&self.holder);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_takes_all_they_get_has_half_and_leaves_the_rest() {
        let budget = Budget::new(1_000);
        let mut greedy = budget.open(1);
        while greedy.grow(1) {}
        assert_eq!(budget.taken(), 500);
        assert!(budget.take(1, 1).is_none());
        let calm = budget.take(2, 200);
        assert!(calm.is_some());
        assert!(budget.take(3, 400).is_none());
        drop((greedy, calm));
        assert_eq!(budget.taken(), 0);
        assert!(budget.lock().holders.is_empty());
    }
}
