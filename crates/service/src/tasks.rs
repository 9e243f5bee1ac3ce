//! What long work has in common: it has time, and waits for a store that fails for a while.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use postrider_core::{Id, id};
use postrider_store::{Page, PageRequest, StoreError, TaskFilter, TaskKind, TaskState};
use tokio_util::sync::CancellationToken;

use crate::reading::bounded_page;
use crate::refusal::Result;
use crate::{Caller, Deletion, Replay, Service, deletions, replays};

pub(crate) const PAUSE: Duration = Duration::from_millis(500);
pub(crate) const PAUSE_MAX: Duration = Duration::from_secs(30);

/// How a task stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TaskStatus {
    Running,
    Finished,
    Cancelled,
    /// With what it failed of.
    Failed(String),
}

impl From<TaskState> for TaskStatus {
    fn from(state: TaskState) -> Self {
        match state {
            TaskState::Running => Self::Running,
            TaskState::Finished => Self::Finished,
            TaskState::Cancelled => Self::Cancelled,
            TaskState::Failed(error) => Self::Failed(error),
        }
    }
}

/// Work that goes on when its request has been answered.
#[derive(Debug)]
pub enum LongTask {
    Replay(Replay),
    Deletion(Deletion),
}

impl Service {
    /// The long work within the caller's scope, the newest first.
    ///
    /// # Errors
    /// `scope_insufficient` for whoever is one tenant's, or what the store answers.
    pub async fn list_tasks(&self, who: &Caller, page: PageRequest) -> Result<Page<LongTask>> {
        let filter = TaskFilter {
            application: who.product()?,
            ..TaskFilter::default()
        };
        let page = self.store().list_tasks(filter, bounded_page(page)).await?;
        let seen = page.rows.into_iter().filter_map(|task| match task.kind {
            TaskKind::Replay if replays::is_visible(who, &task) => {
                Some(LongTask::Replay(task.into()))
            }
            TaskKind::Deletion if deletions::is_visible(who, &task) => {
                Some(LongTask::Deletion(task.into()))
            }
            TaskKind::Replay | TaskKind::Deletion => None,
        });
        Ok(Page {
            rows: seen.collect(),
            next: page.next,
        })
    }
}

/// The tasks that this process runs or will run.
#[derive(Debug, Clone, Default)]
pub(crate) struct Started(Arc<Mutex<HashMap<Id<id::Task>, Claimed>>>);

#[derive(Debug, Default)]
struct Claimed {
    cancelled: CancellationToken,
    /// Whose deliveries it replays.
    replays: Option<(Id<id::Application>, Id<id::Tenant>)>,
}

/// A task is this one's to run, until it is dropped.
#[derive(Debug)]
pub(crate) struct Claim {
    started: Started,
    task: Id<id::Task>,
    /// Whether it is to stop.
    pub(crate) cancelled: CancellationToken,
}

impl Started {
    /// None when somebody runs it already.
    pub(crate) fn claim(&self, task: Id<id::Task>) -> Option<Claim> {
        let mut started = self.lock();
        if started.contains_key(&task) {
            return None;
        }
        let claimed = Claimed::default();
        let cancelled = claimed.cancelled.clone();
        started.insert(task, claimed);
        drop(started);
        Some(Claim {
            started: self.clone(),
            task,
            cancelled,
        })
    }

    /// Stops one, if it runs or waits for its turn.
    pub(crate) fn cancel(&self, task: Id<id::Task>) {
        if let Some(claimed) = self.lock().get(&task) {
            claimed.cancelled.cancel();
        }
    }

    /// Stops the replays of a tenant, or those of all tenants of an application.
    pub(crate) fn cancel_replays(
        &self,
        application: Id<id::Application>,
        tenant: Option<Id<id::Tenant>>,
    ) {
        for claimed in self.lock().values() {
            let is_its = claimed.replays.is_some_and(|(owner, of)| {
                owner == application && tenant.is_none_or(|tenant| tenant == of)
            });
            if is_its {
                claimed.cancelled.cancel();
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Id<id::Task>, Claimed>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Claim {
    /// It is a replay of a tenant's, which stops when that is deleted.
    pub(crate) fn replays(&self, application: Id<id::Application>, tenant: Id<id::Tenant>) {
        if let Some(claimed) = self.started.lock().get_mut(&self.task) {
            claimed.replays = Some((application, tenant));
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.started.lock().remove(&self.task);
    }
}

/// Begins a task of which nobody knows whether it was written, if it was: as soon as the store tells. Whoever asked for it
/// has an answer by then.
pub(crate) fn when_written(
    service: &Service,
    task: Id<id::Task>,
    start: impl FnOnce(&Service) + Send + 'static,
) {
    let service = service.clone();
    #[expect(
        clippy::disallowed_methods,
        reason = "it outlives its request, as the task does; it ends when the store answers"
    )]
    tokio::spawn(async move {
        if patiently(u32::MAX, || service.store().task(task))
            .await
            .is_ok()
        {
            start(&service);
        }
    });
}

/// Begins what is unfinished and nobody runs: what a restart interrupted, and what was written though nobody could tell
/// whoever asked for it.
pub(crate) async fn resume(service: &Service) -> std::result::Result<(), StoreError> {
    let mut to_erase = Vec::new();
    for id in service.store().unfinished_tasks().await? {
        let Some(claim) = service.0.started.claim(id) else {
            continue;
        };
        // Behind the claim: whoever had it until now has recorded how it ended.
        let task = match service.store().task(id).await {
            Ok(task) if task.state == TaskState::Running => task,
            Ok(_) => continue,
            Err(error) if is_passing(&error) => return Err(error),
            Err(error) => {
                // Erased meanwhile, or damaged: the others go on.
                tracing::warn!(
                    task.id = %id,
                    error = &error as &dyn std::error::Error,
                    "a task cannot be gone on with"
                );
                continue;
            }
        };
        match (task.kind, task.tenant) {
            (TaskKind::Replay, Some(tenant)) => replays::resume(service, task, tenant, claim),
            // None is made without a tenant, whose place it takes.
            (TaskKind::Replay, None) => {}
            (TaskKind::Deletion, _) => to_erase.push((task, claim)),
        }
    }
    // Behind the replays, which they stop.
    for (task, claim) in to_erase {
        deletions::start(service, task, claim);
    }
    Ok(())
}

/// Tries again until the store answers, at most `tries_max` times: a task has time, and whoever asked
/// for it has gone.
pub(crate) async fn patiently<T, F>(
    tries_max: u32,
    ask: impl Fn() -> F,
) -> std::result::Result<T, StoreError>
where
    F: Future<Output = std::result::Result<T, StoreError>>,
{
    let mut pause = PAUSE;
    let mut tries: u32 = 0;
    loop {
        match ask().await {
            Err(error) if is_passing(&error) && tries < tries_max => {
                tries += 1;
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "a task waits for the store"
                );
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
            answer => return answer,
        }
    }
}

/// Whether the same call may succeed later.
pub(crate) fn is_passing(error: &StoreError) -> bool {
    // An unknown outcome too: what tasks ask of the store may be asked twice.
    matches!(
        error,
        StoreError::TooLong
            | StoreError::Full
            | StoreError::Busy
            | StoreError::Unavailable { .. }
            | StoreError::Aborted { .. }
            | StoreError::OutcomeUnknown { .. }
    )
}
