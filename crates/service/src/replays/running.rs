//! The work of replays: whose turn it is, and sending one delivery after the other.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use postrider_core::delivery::Delivery;
use postrider_core::{Id, id};
use postrider_engine::{CurrentProfile, PublishError, Turns};
use postrider_store::queries::query_digest;
use postrider_store::{
    CatchUp, Cursor, DeliveryFilter, MissedPage, MissedQuery, PageRequest, StoreError, Task,
    TaskState,
};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::{FORWARD, NewReplay, filter, missed};
use crate::Service;
use crate::deliveries::resend_policy;
use crate::refusal::{ErrorCode, Refusal, Result};
use crate::tasks::{Claim, PAUSE, PAUSE_MAX, is_passing, patiently};

/// Deliveries read at once.
const PAGE: usize = 200;
/// Deliveries counted at once.
const COUNTED: usize = 10_000;
/// Deliveries between two records of progress: after a crash, so many may be counted as neither.
const RECORD_EVERY: u64 = 10;
/// Tries of one step, about an hour; then the replay ends as failed.
const TRIES_MAX: u32 = 120;
/// Unfinished replays of a tenant; more are refused.
const UNFINISHED_MAX: usize = 10;
/// All replays are one account of those who list.
const REPLAYS: Id<()> = Id::from_u128(0);
/// What replays read and send at once; each waits for its turn with every page, and with every delivery.
const RUNNING_MAX: usize = 4;

/// Goes on with a replay that nobody runs.
pub(crate) fn resume(service: &Service, task: Task, tenant: Id<id::Tenant>, claim: Claim) {
    claim.replays(task.application, tenant);
    let place = service.0.replays.kept_place(tenant);
    start(service, task, place, claim);
}

/// Who replays: a tenant's replays run one after the other, and few at once in all, in turns, so that
/// they leave the writer to publishers.
pub(crate) struct Replays {
    unfinished: Arc<Mutex<HashMap<Id<id::Tenant>, usize>>>,
    turns: Turns,
    running: Semaphore,
}

impl Default for Replays {
    fn default() -> Self {
        Self {
            unfinished: Arc::default(),
            turns: Turns::default(),
            running: Semaphore::new(RUNNING_MAX),
        }
    }
}

/// One of the replays that a tenant may have unfinished.
pub(super) struct Place {
    unfinished: Arc<Mutex<HashMap<Id<id::Tenant>, usize>>>,
    tenant: Id<id::Tenant>,
}

impl Replays {
    /// A turn for the next page or delivery: a long replay goes on beside those that come later, and not before them.
    async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        // Nobody closes it.
        self.running.acquire().await.ok()
    }

    pub(super) fn place(&self, tenant: Id<id::Tenant>) -> Result<Place> {
        let mut unfinished = self
            .unfinished
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if unfinished
            .get(&tenant)
            .is_some_and(|count| *count >= UNFINISHED_MAX)
        {
            let detail =
                format!("{UNFINISHED_MAX} of this tenant are unfinished; wait for one to end");
            return Err(Refusal::new(ErrorCode::ReplaysMax, detail));
        }
        *unfinished.entry(tenant).or_default() += 1;
        drop(unfinished);
        Ok(self.kept(tenant))
    }

    /// The place of a replay that was accepted before a restart.
    fn kept_place(&self, tenant: Id<id::Tenant>) -> Place {
        let mut unfinished = self
            .unfinished
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *unfinished.entry(tenant).or_default() += 1;
        drop(unfinished);
        self.kept(tenant)
    }

    fn kept(&self, tenant: Id<id::Tenant>) -> Place {
        let unfinished = self.unfinished.clone();
        Place { unfinished, tenant }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut unfinished = self
            .unfinished
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = unfinished.get_mut(&self.tenant) {
            *count -= 1;
            if *count == 0 {
                unfinished.remove(&self.tenant);
            }
        }
    }
}

pub(super) fn start(service: &Service, task: Task, place: Place, claim: Claim) {
    let service = service.clone();
    #[expect(
        clippy::disallowed_methods,
        reason = "a replay outlives its request; its progress is in the store"
    )]
    tokio::spawn(async move {
        let mut task = task;
        let replays = &service.0.replays;
        let ended = async {
            // First the tenant's: otherwise the replays of one would wait for each other in all places that
            // there are.
            let _turn = replays.turns.take(place.tenant).await;
            run(&service, &mut task).await
        };
        let ended = tokio::select! {
            ended = ended => Some(ended),
            // Between two deliveries: each is sent whole or not at all.
            () = claim.cancelled.cancelled() => None,
        };
        task.state = match ended {
            None => TaskState::Cancelled,
            Some(Ok(())) => TaskState::Finished,
            Some(Err(error)) => {
                error.log();
                TaskState::Failed(error.detail)
            }
        };
        task.finished_at = Some(service.now());
        // Never given up: it holds nobody up, and an end that is not recorded would be none.
        let end = patiently(u32::MAX, || service.store().put_task(task.clone()));
        if let Err(error) = end.await {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "failed to record the end of a replay"
            );
        }
        // Until its end is recorded it is unfinished, and this one's.
        drop((claim, place));
    });
}

async fn run(service: &Service, task: &mut Task) -> Result<()> {
    let body: NewReplay = serde_json::from_str(&task.request).map_err(Refusal::internal)?;
    match missed(task, &body)? {
        Some(query) => catch_up(service, task, query).await,
        None => {
            let filter = filter(task, &body)?;
            send_again(service, task, filter).await
        }
    }
}

async fn record(service: &Service, task: &Task) -> Result<(), StoreError> {
    patiently(TRIES_MAX, || service.store().put_task(task.clone())).await
}

/// Notes how far it is: now and then, so that a task does not write more than what it sends.
async fn note_progress(service: &Service, task: &Task) -> Result<(), StoreError> {
    if (task.done + task.skipped).is_multiple_of(RECORD_EVERY) {
        record(service, task).await?;
    }
    Ok(())
}

async fn send_again(service: &Service, task: &mut Task, filter: DeliveryFilter) -> Result<()> {
    if task.total.is_none() {
        // What was done before a restart is not counted again: the count begins at the cursor.
        task.total = Some(task.done + task.skipped + count(service, &filter, task).await?);
        record(service, task).await?;
    }
    let query = query_digest(&filter);
    let oldest_first = filter.oldest_first;
    let place = |after: u128| {
        if oldest_first {
            format!("{FORWARD}{after:032x}")
        } else {
            format!("{after:032x}")
        }
    };
    loop {
        let cursor = task.cursor.as_deref().map(|text| place_of(text, query));
        let cursor = cursor.transpose().map_err(Refusal::internal)?;
        let request = PageRequest {
            limit: PAGE,
            cursor,
        };
        let list = || service.store().list_deliveries(filter.clone(), request);
        let page = in_turn(service, list).await?;
        for delivery in page.rows {
            // Made after it began, though by a clock that was set back: ids only grow.
            if oldest_first && delivery.id.as_u128() > task.id.as_u128() {
                return Ok(());
            }
            resend(service, task, &delivery).await?;
            task.cursor = Some(place(delivery.id.as_u128()));
            note_progress(service, task).await?;
        }
        // At the end the cursor stays: after a crash here nothing is sent again.
        let Some(next) = page.next else {
            return Ok(());
        };
        task.cursor = Some(place(next.after));
        record(service, task).await?;
    }
}

/// What is left to do.
async fn count(service: &Service, filter: &DeliveryFilter, task: &Task) -> Result<u64> {
    let mut total = 0;
    let query = query_digest(filter);
    let from = task.cursor.as_deref().map(|text| place_of(text, query));
    let mut page = PageRequest {
        limit: COUNTED,
        cursor: from.transpose().map_err(Refusal::internal)?,
    };
    loop {
        let counted = patiently(TRIES_MAX, || async {
            let _running = service.0.replays.turn().await;
            service.store().count_deliveries(filter.clone(), page).await
        });
        let counted = counted.await?;
        total += counted.rows;
        let Some(next) = counted.next else {
            return Ok(total);
        };
        page.cursor = Some(next);
    }
}

/// Gives an endpoint what it missed, the oldest first.
async fn catch_up(service: &Service, task: &mut Task, query: MissedQuery) -> Result<()> {
    if task.total.is_none() {
        task.total = Some(count_missed(service, query.clone()).await?);
        record(service, task).await?;
    }
    let Some(tenant) = task.tenant else {
        return Err(Refusal::internal("a catch-up without a tenant"));
    };
    loop {
        let after = task.cursor.as_deref().map(|text| place_of(text, 0));
        let after = after.transpose().map_err(Refusal::internal)?;
        let query = MissedQuery {
            after: after.map(|cursor| Id::from_u128(cursor.after)),
            ..query.clone()
        };
        let page = read_missed(service, &query).await?;
        for event in page.events {
            // Asked for each event: the profile may be replaced while the replay runs.
            let profile = current_profile(service, task.application).await?.version;
            let missed = CatchUp {
                event,
                endpoint: query.endpoint,
                profile,
            };
            unhurried(service, task, || service.engine().catch_up(tenant, missed)).await?;
            task.cursor = Some(place_text(event));
            note_progress(service, task).await?;
        }
        let Some(next) = page.next else {
            return Ok(());
        };
        task.cursor = Some(place_text(next));
        record(service, task).await?;
    }
}

async fn current_profile(
    service: &Service,
    application: Id<id::Application>,
) -> Result<CurrentProfile> {
    if let Ok(current) = service.0.directory.profile(application).await {
        return Ok(current);
    }
    // Where it is not known by heart the store is asked, which may be away for a while.
    patiently(TRIES_MAX, || service.store().application(application)).await?;
    service.0.directory.profile(application).await
}

async fn read_missed(service: &Service, query: &MissedQuery) -> Result<MissedPage> {
    let list = || service.store().missed_events(query.clone());
    Ok(in_turn(service, list).await?)
}

/// Many replays leave room for those who look; and whoever waits for the store leaves its turn to others.
async fn in_turn<T, F>(service: &Service, list: impl Fn() -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    patiently(TRIES_MAX, || async {
        let _running = service.0.replays.turn().await;
        let turn = service.0.lists.take(REPLAYS).await;
        let listed = list().await;
        drop(turn);
        listed
    })
    .await
}

async fn count_missed(service: &Service, mut query: MissedQuery) -> Result<u64> {
    let mut total = 0;
    loop {
        let page = read_missed(service, &query).await?;
        total += page.events.len() as u64;
        if page.next.is_none() {
            return Ok(total);
        }
        query.after = page.next;
    }
}

fn place_text<K>(id: Id<K>) -> String {
    format!("{:032x}", id.as_u128())
}

/// Where a replay goes on. Only the place is stored: another version may write the query otherwise.
fn place_of(text: &str, query: u32) -> Result<Cursor, std::num::ParseIntError> {
    // Before it came the query.
    let place = text.get(text.len().saturating_sub(32)..).unwrap_or(text);
    let after = u128::from_str_radix(place, 16)?;
    Ok(Cursor { query, after })
}

/// Sends one again, and counts it.
async fn resend(service: &Service, task: &mut Task, delivery: &Delivery) -> Result<()> {
    let Ok(policy) = resend_policy(service, delivery) else {
        task.skipped += 1;
        return Ok(());
    };
    unhurried(service, task, || {
        service.engine().resend(delivery, policy.series)
    })
    .await
}

/// Sends one, and counts it. Publishers go first: it waits while they fill the journal.
async fn unhurried<T, F>(service: &Service, task: &mut Task, send: impl Fn() -> F) -> Result<()>
where
    F: Future<Output = Result<T, PublishError>>,
{
    let mut recorded = false;
    let mut tries = 0;
    loop {
        let turn = service.0.replays.turn().await;
        let sent = send().await;
        // Not over a pause: whoever waits for publishers keeps no other replay waiting.
        drop(turn);
        match sent {
            Ok(_) => task.done += 1,
            Err(PublishError::Store(StoreError::Conflict { .. } | StoreError::NotFound { .. })) => {
                task.skipped += 1
            }
            Err(PublishError::Store(error)) if tries >= TRIES_MAX || !is_passing(&error) => {
                return Err(error.into());
            }
            // The journal is full, the disk is, or the server is shutting down: publishers go first,
            // a replay has time.
            Err(error) => {
                let failing = matches!(error, PublishError::Store(_));
                // Only a store that fails uses tries up; behind publishers a replay may wait as long as it
                // takes.
                tries += u32::from(failing);
                if !std::mem::replace(&mut recorded, true) {
                    // What is not recorded now is with the next rows.
                    drop(service.store().put_task(task.clone()).await);
                }
                let pause = if failing { PAUSE_MAX } else { PAUSE };
                tokio::time::sleep(pause).await;
                continue;
            }
        }
        return Ok(());
    }
}
