//! Deleting a tenant or an application: at once for whoever asks for it afterwards, and then, as a task in
//! small pieces, all that it had.

use std::time::Duration;

use postrider_core::tenant::Scope;
use postrider_core::{Id, Timestamp, id};
use postrider_store::{Erased, Owner, StoreError, Task, TaskKind, TaskState};
use tokio::sync::Semaphore;

use crate::refusal::{ErrorCode, Refusal, Result};
use crate::tasks::{Claim, TaskStatus, patiently, when_written};
use crate::{Caller, Service};

/// Rows of a kind that one transaction erases; whoever publishes has a turn between two.
const PIECE: u32 = 250;
/// The longest rest behind one.
const REST_MAX: Duration = Duration::from_secs(1);

/// Deletions whose endpoints end at once: each piece goes by the writer, and others' changes wait for few of them.
const CLOSES_MAX: usize = 4;

/// One deletion erases at a time.
pub(crate) struct Deletions {
    turn: Semaphore,
    closes: Semaphore,
}

impl Default for Deletions {
    fn default() -> Self {
        Self {
            turn: Semaphore::new(1),
            closes: Semaphore::new(CLOSES_MAX),
        }
    }
}

/// How a deletion stands.
#[derive(Debug)]
pub struct Deletion {
    pub id: Id<id::Task>,
    pub application: Id<id::Application>,
    /// None: the whole application.
    pub tenant: Option<Id<id::Tenant>>,
    pub status: TaskStatus,
    /// Rows that are gone so far: events, deliveries, attempts and all else.
    pub erased: u64,
    pub created_at: Timestamp,
    pub finished_at: Option<Timestamp>,
}

impl From<Task> for Deletion {
    fn from(task: Task) -> Self {
        Self {
            id: task.id,
            application: task.application,
            tenant: task.tenant,
            status: task.state.into(),
            erased: task.done,
            created_at: task.created_at,
            finished_at: task.finished_at,
        }
    }
}

impl Service {
    /// Deletes a tenant with all that it had; a key of its application may.
    ///
    /// # Errors
    /// `scope_insufficient`, `not_found`, or what the store answers.
    pub async fn delete_tenant(&self, who: &Caller, id: Id<id::Tenant>) -> Result<Deletion> {
        let tenant = who.tenant(self, id).await?;
        who.must_own("what is deleted for good")?;
        if matches!(who.scope, Scope::Tenant(..)) {
            return Err(Refusal::new(
                ErrorCode::ScopeInsufficient,
                "a key of the application deletes its tenants",
            ));
        }
        who.must_be_live()?;
        begin(self, who, tenant.application, Some(tenant.id)).await
    }

    /// Deletes an application with all that it had; a root key may.
    ///
    /// # Errors
    /// `scope_insufficient`, `not_found`, or what the store answers.
    pub async fn delete_application(
        &self,
        who: &Caller,
        id: Id<id::Application>,
    ) -> Result<Deletion> {
        who.must_be_root()?;
        who.must_own("what is deleted for good")?;
        who.must_be_live()?;
        let application = who.application(self, id).await?.id;
        begin(self, who, application, None).await
    }

    /// # Errors
    /// `not_found`, also where it is another's.
    pub async fn deletion(&self, who: &Caller, id: Id<id::Task>) -> Result<Deletion> {
        let task = self.store().task(id).await?;
        if !is_visible(who, &task) {
            return Err(Refusal::not_found("deletion"));
        }
        Ok(task.into())
    }
}

/// Whether the caller may see a deletion.
pub(crate) fn is_visible(who: &Caller, task: &Task) -> bool {
    let allowed = match who.scope {
        Scope::Root => true,
        Scope::Application(own) => task.application == own,
        Scope::Tenant(..) => false,
    };
    task.kind == TaskKind::Deletion && allowed
}

async fn begin(
    service: &Service,
    who: &Caller,
    application: Id<id::Application>,
    tenant: Option<Id<id::Tenant>>,
) -> Result<Deletion> {
    let by = who.changes(service.now())?;
    let task = Task {
        id: service.store().ids().next(by.at),
        kind: TaskKind::Deletion,
        application,
        tenant,
        request: String::new(),
        state: TaskState::Running,
        total: None,
        done: 0,
        skipped: 0,
        cursor: None,
        created_at: by.at,
        finished_at: None,
    };
    let claim = service.0.started.claim(task.id);
    let claim = claim.ok_or_else(|| Refusal::internal("a new task runs already"))?;
    let (beginning, first) = (service.clone(), task.clone());
    service
        .to_the_end(async move {
            let (service, task) = (beginning, first);
            let deleted = service.store().delete_owner(owner(&task), task.clone(), by);
            let deleted = deleted.await;
            // Keys, and what else is held of it, are asked for again, and not found.
            match tenant {
                Some(tenant) => {
                    service.0.directory.forget(tenant);
                    service.engine().owner_changed(tenant);
                }
                None => {
                    service.0.directory.forget(application);
                    service.engine().owner_changed(application);
                }
            }
            match &deleted {
                Ok(()) => start(&service, task, claim),
                Err(StoreError::OutcomeUnknown { .. }) => {
                    when_written(&service, task.id, |service| start(service, task, claim));
                }
                Err(_) => {}
            }
            Ok(deleted?)
        })
        .await?;
    Ok(task.into())
}

fn owner(task: &Task) -> Owner {
    task.tenant
        .map_or(Owner::Application(task.application), Owner::Tenant)
}

/// Erases what is left, also after a restart. It is never given up: nobody could ask for it again.
pub(crate) fn start(service: &Service, task: Task, claim: Claim) {
    let service = service.clone();
    #[expect(
        clippy::disallowed_methods,
        reason = "a deletion outlives its request; its progress is in the store"
    )]
    tokio::spawn(async move {
        // Until its end is recorded it is this one's.
        let _claim = claim;
        let mut task = task;
        // Its endpoints end at once; the rest waits for its turn.
        let erased = match close(&service, &mut task).await {
            Ok(()) => {
                let Ok(_turn) = service.0.deletions.turn.acquire().await else {
                    return;
                };
                run(&service, &mut task).await
            }
            Err(error) => Err(error),
        };
        task.state = match erased {
            Ok(()) => TaskState::Finished,
            Err(error) => {
                tracing::error!(
                    task.id = %task.id,
                    error = &error as &dyn std::error::Error,
                    "a deletion broke off; it goes on after the next start"
                );
                return;
            }
        };
        task.finished_at = Some(service.now());
        if let Err(error) = patiently(u32::MAX, || service.store().put_task(task.clone())).await {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "failed to record the end of a deletion"
            );
        }
    });
}

/// Stops replays, and ends endpoints until a piece has none.
async fn close(service: &Service, task: &mut Task) -> Result<(), StoreError> {
    let started = &service.0.started;
    started.cancel_replays(task.application, task.tenant);
    let closing = service.0.deletions.closes.acquire().await;
    let _closing = closing.map_err(StoreError::aborted)?;
    while !rested(service, task).await?.closed.is_empty() {}
    Ok(())
}

async fn run(service: &Service, task: &mut Task) -> Result<(), StoreError> {
    while !rested(service, task).await?.done {}
    Ok(())
}

/// A piece, and a rest as long as it took: what everybody publishes goes by the same writer. A store that was away is no
/// reason to wait.
async fn rested(service: &Service, task: &mut Task) -> Result<Erased, StoreError> {
    let began = service.engine().steady();
    let erased = piece(service, task).await?;
    if !erased.done {
        let took = service.engine().steady().since(began);
        tokio::time::sleep(took.min(REST_MAX)).await;
    }
    Ok(erased)
}

async fn piece(service: &Service, task: &mut Task) -> Result<Erased, StoreError> {
    let erased = patiently(u32::MAX, || service.store().erase(owner(task), PIECE)).await?;
    for endpoint in &erased.closed {
        // Its lane has what waits in memory, and would send that.
        service.engine().endpoint_changed(*endpoint);
    }
    task.done += erased.rows;
    if !erased.done {
        patiently(u32::MAX, || service.store().put_task(task.clone())).await?;
    }
    Ok(erased)
}
