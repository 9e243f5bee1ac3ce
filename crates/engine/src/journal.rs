//! The journal: the group-commit front of the store.
//!
//! Writes of all tasks gather while the previous batch is being flushed, and go as one transaction.
//! Publishers are refused when too much waits, and those of one tenant before those of others;
//! records are never refused: their senders wait.

mod queue;
mod waiting;

use std::sync::Arc;

use postrider_core::judge::Next;
use postrider_core::{Id, id};
use postrider_store::{
    CatchUp, DueDelivery, FinishDelivery, LaneBacklog, Lanes, NewEvent, Published, RecordAttempt,
    Recorded, Resend, StoreError,
};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::Duration;

use crate::clock::Clocks;
use crate::metrics::Metrics;
use crate::shell::PastLane;
pub(crate) use queue::WAITING_MAX;
use queue::{Queue, Room, Taken};
use waiting::{Reply, Request, RequestEntry, Told, gather};

/// Writes in one transaction.
const BATCH_MAX: usize = 1_024;
/// Records in a batch beside events that make few deliveries.
const RECORDS_BESIDE: usize = 64;
/// Requests on their way to the task, which puts them in line at once; their number is bounded by the
/// room for what waits.
const REQUESTS_ON_THEIR_WAY: usize = 8_192;
/// Records that wait; the sender of one more waits.
const RECORDS_MAX: usize = 1_024;
/// How long the journal waits before it tries records again that the store did not take.
const RETRY_PAUSE: Duration = Duration::from_millis(250);

/// The journal is full: try again soon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("more writes are waiting than the store can take; try again in a second")]
pub struct Busy;

/// Where the journal tells what it committed, before it answers.
pub(crate) trait Committed: Send + Sync + 'static {
    /// New pending deliveries, in the order of their commit.
    fn due(&self, deliveries: Vec<DueDelivery>);
    /// Somebody ended a delivery, or may have: the outcome of the commit is not known.
    fn ended(&self, finished: FinishDelivery);
    /// Where the store has pending deliveries: some may be there that no answer told of.
    fn backlog(&self, lanes: Vec<LaneBacklog>);
    /// An attempt's record (or an expiry) is durable, and whether the delivery has come to its end by it.
    fn settled(&self, settled: RecordedEntry, recorded: Option<Recorded>, ended: bool);
    /// The store refuses an attempt's record for good: the delivery is left as it is stored.
    fn set_aside(&self, of: RecordedEntry, why: &StoreError);
    /// The delivery of an attempt was deleted while it ran: there is nothing to record.
    fn gone(&self, of: RecordedEntry);
    /// Whether the store takes records.
    fn available(&self, available: bool);
}

/// A request that was taken and is not answered yet.
pub(crate) struct Requested<A>(oneshot::Receiver<Result<A, StoreError>>);

impl<A> Requested<A> {
    pub(crate) async fn answer(self) -> Result<A, StoreError> {
        self.0
            .await
            .unwrap_or_else(|_| Err(StoreError::aborted("the server is shutting down")))
    }
}

/// A record, with what its lane is told afterwards.
pub(crate) struct RecordEntry {
    pub(crate) write: RecordWrite,
    pub(crate) of: RecordedEntry,
}

/// What a lane has the store keep.
pub(crate) enum RecordWrite {
    Attempt(Arc<RecordAttempt>),
    /// It waited longer than it may.
    Expiry(FinishDelivery),
}

/// Whose record it is.
pub(crate) struct RecordedEntry {
    pub(crate) due: DueDelivery,
    pub(crate) next: Next,
    /// Whether the store keeps its place.
    pub(crate) keep_place: bool,
    /// Set when it was sent past its lane, which is closed and knows nothing of it.
    pub(crate) past_lane: Option<PastLane>,
    /// Of one that has expired: how many of them may be on their way at once.
    #[expect(dead_code, reason = "given back on drop")]
    pub(crate) turn: Option<OwnedSemaphorePermit>,
}

#[derive(Clone)]
pub(crate) struct Journal {
    requests: mpsc::Sender<RequestEntry>,
    records: mpsc::Sender<RecordEntry>,
    room: Room,
}

pub(crate) struct JournalTask {
    store: Arc<dyn Lanes>,
    clocks: Arc<Clocks>,
    requests: mpsc::Receiver<RequestEntry>,
    records: mpsc::Receiver<RecordEntry>,
    metrics: Arc<Metrics>,
    /// A commit may have made deliveries that nobody was told of.
    look: bool,
}

pub(crate) fn journal(
    store: Arc<dyn Lanes>,
    clocks: Arc<Clocks>,
    metrics: Arc<Metrics>,
) -> (Journal, JournalTask) {
    // A gauge begins at zero, which would say that nothing can be written.
    metrics.store_takes_records.set(1);
    let (requests, requests_in) = mpsc::channel(REQUESTS_ON_THEIR_WAY);
    let (records, records_in) = mpsc::channel(RECORDS_MAX);
    let journal = Journal {
        requests,
        records,
        room: Room::default(),
    };
    (
        journal,
        JournalTask {
            store,
            clocks,
            requests: requests_in,
            records: records_in,
            metrics,
            look: false,
        },
    )
}

impl Journal {
    /// Takes an event; those of a tenant are committed in the order they are taken.
    pub(crate) fn publish(&self, event: NewEvent) -> Result<Requested<Published>, Busy> {
        let (tenant, bytes) = (event.event.tenant, event.event.payload_bytes());
        self.request(tenant, bytes, |reply| {
            Request::Publish(Box::new(event), reply)
        })
    }

    pub(crate) fn finish(
        &self,
        tenant: Id<id::Tenant>,
        finish: FinishDelivery,
    ) -> Result<Requested<bool>, Busy> {
        self.request(tenant, 0, |reply| Request::Finish(finish, reply))
    }

    pub(crate) fn resend(
        &self,
        tenant: Id<id::Tenant>,
        resend: Resend,
    ) -> Result<Requested<DueDelivery>, Busy> {
        self.request(tenant, 0, |reply| Request::Resend(resend, reply))
    }

    pub(crate) fn catch_up(
        &self,
        tenant: Id<id::Tenant>,
        missed: CatchUp,
    ) -> Result<Requested<DueDelivery>, Busy> {
        self.request(tenant, 0, |reply| Request::CatchUp(missed, reply))
    }

    /// Puts a request in line; `bytes` is its payload.
    fn request<A>(
        &self,
        tenant: Id<id::Tenant>,
        bytes: usize,
        request: impl FnOnce(Reply<A>) -> Request,
    ) -> Result<Requested<A>, Busy> {
        let place = self.room.take(tenant, bytes)?;
        let (reply, answered) = oneshot::channel();
        self.requests
            .try_send(RequestEntry {
                tenant,
                request: request(reply),
                place,
            })
            // Full or shut, the entry comes back and its place with it.
            .map_err(|_| Busy)?;
        Ok(Requested(answered))
    }

    /// Requests that wait, and their payload in KiB.
    pub(crate) fn waiting(&self) -> (usize, usize) {
        self.room.taken()
    }

    /// Hands a record over; waits while too many wait.
    pub(crate) async fn record(&self, entry: RecordEntry) {
        // The receiver lives as long as any sender of records: see JournalTask::run.
        drop(self.records.send(entry).await);
    }
}

impl JournalTask {
    /// Runs until every [`Journal`] handle is dropped and all that was handed over is committed.
    pub(crate) async fn run(mut self, committed: Arc<dyn Committed>) {
        let mut records: Vec<RecordEntry> = Vec::new();
        let mut queue = Queue::default();
        let mut failing = false;
        loop {
            let is_over =
                self.records.is_closed() && self.records.is_empty() && self.requests.is_empty();
            // What waits for a look is given up: a store that cannot be read does not hold up a shutdown.
            if is_over && records.is_empty() && (queue.is_empty() || self.look) {
                return;
            }
            // There is work already: without a pause it would be tried again and again.
            if failing || self.look {
                tokio::time::sleep(RETRY_PAUSE).await;
            } else if records.is_empty() && queue.is_empty() {
                tokio::select! {
                    entry = self.records.recv() => records.extend(entry),
                    entry = self.requests.recv() => entry.into_iter().for_each(|entry| queue.push(entry)),
                }
            }
            // All of them: turns are given among those in line, whatever the channel has in front.
            while let Ok(entry) = self.requests.try_recv() {
                queue.push(entry);
            }
            let Taken { mut requests, rows } = queue.take(BATCH_MAX / 2);
            // Half of a batch is for each, when there is more of both: neither starves the other. Somebody who publishes does
            // not wait for more records than a piece has, as long as not more deliveries are made than are recorded.
            let most = if requests.is_empty() {
                BATCH_MAX / 2
            } else {
                (2 * rows).clamp(RECORDS_BESIDE, BATCH_MAX / 2)
            };
            while records.len() < most
                && let Ok(entry) = self.records.try_recv()
            {
                records.push(entry);
            }
            if self.look && !self.look_for_deliveries(&*committed).await {
                // What is accepted now would overtake what may be there; records go on.
                refuse(std::mem::take(&mut requests));
            } else {
                self.look = false;
            }
            let left = self
                .commit(&*committed, records, requests, &mut queue)
                .await;
            let well = left.is_empty() && !self.look;
            if failing == well {
                failing = !well;
                self.metrics.store_takes_records.set(well.into());
                committed.available(well);
            }
            records = left;
        }
    }

    /// Tells lanes of what the store has, after a commit whose outcome is not known: deliveries of an event that
    /// nobody heard of would wait for the next start, and those accepted after them would overtake them. False when
    /// the store cannot be read now.
    async fn look_for_deliveries(&self, committed: &dyn Committed) -> bool {
        match self.store.backlog().await {
            Ok(lanes) => {
                committed.backlog(lanes);
                true
            }
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "failed to look for deliveries of a commit whose outcome is not known; trying again"
                );
                false
            }
        }
    }

    /// Commits one batch, tells and answers. Returns the records that the store did not take.
    async fn commit(
        &mut self,
        committed: &dyn Committed,
        records: Vec<RecordEntry>,
        requests: Vec<RequestEntry>,
        queue: &mut Queue,
    ) -> Vec<RecordEntry> {
        let now = self.clocks.now();
        let (batch, waiting) = gather(records, requests);
        // All that came may have been refused, and an empty transaction is a flush for nothing.
        if batch.is_empty() {
            return Vec::new();
        }
        let written = self.store.commit(now, batch).await;
        let writes = written.answers.len();
        self.metrics.commit_writes.observe(count_of(writes));
        let took = self.clocks.now().steady.since(now.steady);
        self.metrics.commits.observe(took.as_secs_f64());
        let Told { left, why, look } = waiting.tell(written, committed, queue);
        self.look |= look;
        if let Some(error) = why {
            self.metrics.commit_failures.inc();
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "the store does not take records; trying again"
            );
        }
        left
    }
}

/// As a histogram takes it.
fn count_of(writes: usize) -> f64 {
    u32::try_from(writes).map_or(f64::MAX, f64::from)
}

/// Answers those who cannot be served now.
fn refuse(requests: Vec<RequestEntry>) {
    for entry in requests {
        let detail =
            "the outcome of a commit is not known, and the store cannot be read".to_owned();
        entry.request.refuse(StoreError::Unavailable { detail });
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;
    use std::sync::{Mutex, PoisonError};
    use std::task::Poll;

    use postrider_core::Timestamp;
    use postrider_core::delivery::DeliveryState;
    use postrider_core::limits::TRANSACTION_ROWS;
    use postrider_store::conformance::fixture::{World, by, world};
    use postrider_store::memory::MemoryStore;
    use postrider_store::{Catalogue as _, Store as _};

    use super::*;
    use crate::clock::SystemClock;

    /// Whose deliveries were told of, in their order; and what is published after each commit.
    struct Told {
        tenants: Mutex<Vec<Id<id::Tenant>>>,
        then: Mutex<Option<(Journal, Vec<Vec<NewEvent>>)>>,
    }

    impl Committed for Told {
        fn due(&self, deliveries: Vec<DueDelivery>) {
            let of = deliveries.iter().map(|due| due.delivery.tenant);
            let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
            tenants.extend(of);
            let mut then = self.then.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((journal, events)) = &mut *then {
                for event in events.pop().into_iter().flatten() {
                    assert!(journal.publish(event).is_ok());
                }
                if events.is_empty() {
                    *then = None;
                }
            }
        }

        fn ended(&self, _: FinishDelivery) {}
        fn backlog(&self, _: Vec<LaneBacklog>) {}
        fn settled(&self, _: RecordedEntry, _: Option<Recorded>, _: bool) {}
        fn set_aside(&self, _: RecordedEntry, _: &StoreError) {}
        fn gone(&self, _: RecordedEntry) {}
        fn available(&self, _: bool) {}
    }

    #[tokio::test]
    async fn others_have_their_turn_between_the_transactions_of_one_batch() {
        const ENDPOINTS: usize = 64;
        const EVENTS: usize = 3 * TRANSACTION_ROWS / ENDPOINTS;
        let store = Arc::new(MemoryStore::new(1));
        let greedy = world(&*store).await;
        let calm = World {
            tenant: store.ids().next(Timestamp::from_secs(1)),
            ..greedy
        };
        let tenant = calm.a_tenant(calm.tenant, None);
        assert!(
            store
                .create_tenant(tenant, "standard".into(), by())
                .await
                .is_ok()
        );
        for _ in 0..ENDPOINTS {
            greedy.endpoint().await;
        }
        calm.endpoint().await;
        let clocks = Clocks::new(Arc::new(SystemClock), Timestamp::default());
        let metrics = Arc::new(Metrics::new(0));
        let (journal, task) = journal(store.clone(), Arc::new(clocks), metrics);
        let now = Timestamp::from_secs(1);
        // Its last event made nothing, so little is expected of those that come then.
        let nobody = NewEvent {
            target: postrider_store::Target::Nobody,
            ..greedy.publishing(now, "a")
        };
        assert!(journal.publish(nobody).is_ok());
        let many = (0..EVENTS).map(|_| greedy.publishing(now, "a"));
        // The last of them first.
        let then = vec![vec![calm.publishing(now, "a")], many.collect()];
        let told = Arc::new(Told {
            tenants: Mutex::default(),
            then: Mutex::new(Some((journal, then))),
        });
        task.run(told.clone()).await;
        let tenants = told.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        assert_eq!(tenants.len(), EVENTS * ENDPOINTS + 1);
        let at = tenants.iter().position(|tenant| *tenant == calm.tenant);
        let at = at.unwrap_or(usize::MAX);
        assert!(
            at <= 2 * TRANSACTION_ROWS + ENDPOINTS,
            "behind {at} of another's"
        );
    }

    /// Whoever has one more waits, and keeps the slot of its attempt: nothing of a record is ever refused.
    #[tokio::test]
    async fn records_beyond_what_may_wait_are_waited_for() {
        let store = Arc::new(MemoryStore::new(1));
        let world = world(&*store).await;
        world.endpoint().await;
        let published = world.publish(Timestamp::from_secs(1)).await;
        let due = &published.deliveries[0];
        let clocks = Clocks::new(Arc::new(SystemClock), Timestamp::default());
        // Its task does not run.
        let (journal, task) = journal(store.clone(), Arc::new(clocks), Arc::new(Metrics::new(0)));
        let entry = || RecordEntry {
            write: RecordWrite::Expiry(FinishDelivery {
                delivery: due.delivery.id,
                endpoint: due.delivery.endpoint,
                state: DeliveryState::Cancelled,
            }),
            of: RecordedEntry {
                due: due.clone(),
                next: Next::Delivered,
                keep_place: false,
                past_lane: None,
                turn: None,
            },
        };
        for _ in 0..RECORDS_MAX {
            journal.record(entry()).await;
        }
        let mut one_more = pin!(journal.record(entry()));
        let taken = poll_fn(|context| Poll::Ready(one_more.as_mut().poll(context).is_ready()));
        assert!(!taken.await);
        drop(task);
    }
}
