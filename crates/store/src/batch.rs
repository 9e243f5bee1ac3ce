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
    pub publishes: Vec<NewEvent>,
    pub resends: Vec<Resend>,
    pub catch_ups: Vec<CatchUp>,
}

/// The answers to a [`Batch`], or to its beginning: one for each write, in the same order.
#[derive(Debug, Default)]
pub struct Answers {
    pub records: Vec<Result<Recorded, StoreError>>,
    /// Whether the delivery was pending, and so was finished.
    pub finishes: Vec<Result<bool, StoreError>>,
    pub publishes: Vec<Result<Published, StoreError>>,
    /// Each with its new place in the lane.
    pub resends: Vec<Result<DueDelivery, StoreError>>,
    pub catch_ups: Vec<Result<DueDelivery, StoreError>>,
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
}

impl Answers {
    /// Those to a batch of which nothing could be written.
    pub fn failed(batch: &Batch, why: impl Fn() -> StoreError) -> Self {
        let mut answers = Self::default();
        answers.fail_rest(batch, why);
        answers
    }

    /// Answers what of `batch` has no answer yet.
    pub fn fail_rest(&mut self, batch: &Batch, why: impl Fn() -> StoreError) {
        fn fill<A>(
            answers: &mut Vec<Result<A, StoreError>>,
            count: usize,
            why: impl Fn() -> StoreError,
        ) {
            // What has an answer keeps it: there are never more answers than writes.
            answers.resize_with(count, || Err(why()));
        }
        fill(&mut self.records, batch.records.len(), &why);
        fill(&mut self.finishes, batch.finishes.len(), &why);
        fill(&mut self.publishes, batch.publishes.len(), &why);
        fill(&mut self.resends, batch.resends.len(), &why);
        fill(&mut self.catch_ups, batch.catch_ups.len(), &why);
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
