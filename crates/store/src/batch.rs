//! What one commit writes, and what is answered: by kind.

use std::sync::Arc;

use crate::{
    CatchUp, DueDelivery, FinishDelivery, NewEvent, Published, RecordAttempt, Recorded, Resend,
    StoreError,
};

/// The writes of one commit. The kinds are written in the order of the fields, and those of a kind in their own
/// order. Whoever asks for two of them at once has the answer to neither, so that nobody can rely on another order;
/// what is asked for after an answer is in a later batch.
#[derive(Debug, Default)]
pub struct Batch {
    /// Shared, because the journal keeps them until they are written.
    pub records: Vec<Arc<RecordAttempt>>,
    pub finishes: Vec<FinishDelivery>,
    pub resends: Vec<Resend>,
    pub catch_ups: Vec<CatchUp>,
    /// The last, for there may not be room for all of them.
    pub publishes: Vec<NewEvent>,
}

/// What was done of a [`Batch`]: in one transaction, as long as nothing that it needs is damaged.
#[derive(Debug, Default)]
pub struct Written {
    pub answers: Answers,
    /// What found no room in it, in its order: the last of the publishes, for a transaction of their own.
    pub rest: Batch,
}

/// The answers to a [`Batch`], or to its beginning: one for each write, in the same order.
#[derive(Debug, Default)]
pub struct Answers {
    pub records: Vec<Result<Recorded, StoreError>>,
    /// Whether the delivery was pending, and so was finished.
    pub finishes: Vec<Result<bool, StoreError>>,
    /// Each with its new place in the lane.
    pub resends: Vec<Result<DueDelivery, StoreError>>,
    pub catch_ups: Vec<Result<DueDelivery, StoreError>>,
    pub publishes: Vec<Result<Published, StoreError>>,
}

impl Batch {
    pub fn of_records(records: impl IntoIterator<Item = RecordAttempt>) -> Self {
        Self {
            records: records.into_iter().map(Arc::new).collect(),
            ..Self::default()
        }
    }

    pub fn of_publishes(publishes: impl IntoIterator<Item = NewEvent>) -> Self {
        Self {
            publishes: publishes.into_iter().collect(),
            ..Self::default()
        }
    }

    pub fn len(&self) -> usize {
        // Taken apart, so that a kind that is added cannot be left out.
        let Self {
            records,
            finishes,
            publishes,
            resends,
            catch_ups,
        } = self;
        records.len() + finishes.len() + publishes.len() + resends.len() + catch_ups.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What comes behind the writes that `answers` are of.
    #[must_use]
    pub fn behind(self, answers: &Answers) -> Self {
        fn behind<W>(mut writes: Vec<W>, answered: usize) -> Vec<W> {
            // There are never more answers than writes; a drain beyond them would panic.
            writes.drain(..answered.min(writes.len()));
            writes
        }
        // As nearly always.
        if answers.len() >= self.len() {
            return Self::default();
        }
        Self {
            records: behind(self.records, answers.records.len()),
            finishes: behind(self.finishes, answers.finishes.len()),
            publishes: behind(self.publishes, answers.publishes.len()),
            resends: behind(self.resends, answers.resends.len()),
            catch_ups: behind(self.catch_ups, answers.catch_ups.len()),
        }
    }
}

impl Answers {
    /// Those to a batch of which nothing could be written.
    pub fn failed(batch: &Batch, why: impl Fn() -> StoreError) -> Self {
        fn fill<A>(count: usize, why: impl Fn() -> StoreError) -> Vec<Result<A, StoreError>> {
            std::iter::repeat_with(|| Err(why())).take(count).collect()
        }
        Self {
            records: fill(batch.records.len(), &why),
            finishes: fill(batch.finishes.len(), &why),
            publishes: fill(batch.publishes.len(), &why),
            resends: fill(batch.resends.len(), &why),
            catch_ups: fill(batch.catch_ups.len(), &why),
        }
    }

    pub fn len(&self) -> usize {
        let Self {
            records,
            finishes,
            publishes,
            resends,
            catch_ups,
        } = self;
        records.len() + finishes.len() + publishes.len() + resends.len() + catch_ups.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds the answers to what came next in the batch.
    pub fn append(&mut self, mut next: Self) {
        self.records.append(&mut next.records);
        self.finishes.append(&mut next.finishes);
        self.publishes.append(&mut next.publishes);
        self.resends.append(&mut next.resends);
        self.catch_ups.append(&mut next.catch_ups);
    }
}
