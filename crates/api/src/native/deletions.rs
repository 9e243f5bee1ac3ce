//! Deleting a tenant or an application: at once for whoever asks for it afterwards, and then, as a task in
//! small pieces, all that it had.

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use postrider_core::tenant::Scope;
use postrider_core::{Id, Timestamp, id};
use postrider_store::{Erased, Owner, StoreError, Task, TaskKind, TaskState};
use serde::Serialize;
use tokio::sync::Semaphore;

use super::tasks::{patiently, shown};
use crate::Api;
use crate::auth::Caller;
use crate::problem::{ApiError, ApiResult, ErrorCode};
use crate::request::{Path, json, ok, path_id};

/// Rows of a kind that one transaction erases; whoever publishes has a turn between two.
const PIECE: u32 = 250;

/// One deletion erases at a time.
pub(crate) struct Deletions {
    turn: Semaphore,
}

impl Default for Deletions {
    fn default() -> Self {
        Self {
            turn: Semaphore::new(1),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DeletionView {
    id: Id<id::Task>,
    application: Id<id::Application>,
    /// None: the whole application.
    tenant: Option<Id<id::Tenant>>,
    status: &'static str,
    /// Rows that are gone so far: events, deliveries, attempts and all else.
    erased: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    created_at: Timestamp,
    finished_at: Option<Timestamp>,
}

impl From<Task> for DeletionView {
    fn from(task: Task) -> Self {
        let (status, error) = shown(task.state);
        Self {
            id: task.id,
            application: task.application,
            tenant: task.tenant,
            status,
            erased: task.done,
            error,
            created_at: task.created_at,
            finished_at: task.finished_at,
        }
    }
}

pub(crate) async fn delete_tenant(
    State(api): State<Api>,
    caller: Caller,
    Path(tenant): Path<String>,
) -> ApiResult<Response> {
    let tenant = caller.tenant(&api, path_id(&tenant)?).await?;
    if matches!(caller.key.scope, Scope::Tenant(..)) {
        return Err(ApiError::new(
            ErrorCode::ScopeInsufficient,
            "a key of the application deletes its tenants",
        ));
    }
    caller.must_be_live()?;
    begin(api, &caller, tenant.application, Some(tenant.id)).await
}

pub(crate) async fn delete_application(
    State(api): State<Api>,
    caller: Caller,
    Path(application): Path<String>,
) -> ApiResult<Response> {
    caller.must_be_root()?;
    caller.must_be_live()?;
    let application = caller.application(&api, path_id(&application)?).await?.id;
    begin(api, &caller, application, None).await
}

async fn begin(
    api: Api,
    caller: &Caller,
    application: Id<id::Application>,
    tenant: Option<Id<id::Tenant>>,
) -> ApiResult<Response> {
    let by = caller.actor(&api);
    let task = Task {
        id: api.store().ids().next(by.at),
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
    let (beginning, first) = (api.clone(), task.clone());
    api.to_the_end(async move {
        let (api, task) = (beginning, first);
        let deleted = api.store().delete_owner(owner(&task), task.clone(), by);
        let deleted = deleted.await;
        // Keys, and what else is held of it, are asked for again, and not found.
        match tenant {
            Some(tenant) => {
                api.0.directory.forget(tenant);
                api.engine().owner_changed(tenant);
            }
            None => {
                api.0.directory.forget(application);
                api.engine().owner_changed(application);
            }
        }
        // Where nobody knows whether it was written, the task tells.
        if deleted.is_ok() || api.store().task(task.id).await.is_ok() {
            start(&api, task);
        }
        Ok(deleted?)
    })
    .await?;
    Ok(json(StatusCode::ACCEPTED, &DeletionView::from(task)))
}

pub(crate) async fn read(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Response> {
    let task = api.store().task(path_id(&id)?).await?;
    let allowed = match caller.key.scope {
        Scope::Root => true,
        Scope::Application(own) => task.application == own,
        Scope::Tenant(..) => false,
    };
    if task.kind != TaskKind::Deletion || !allowed {
        return Err(ApiError::not_found("deletion"));
    }
    Ok(ok(&DeletionView::from(task)))
}

fn owner(task: &Task) -> Owner {
    task.tenant
        .map_or(Owner::Application(task.application), Owner::Tenant)
}

/// Erases what is left, also after a restart. It is never given up: nobody could ask for it again.
pub(super) fn start(api: &Api, task: Task) {
    let api = api.clone();
    #[expect(
        clippy::disallowed_methods,
        reason = "a deletion outlives its request; its progress is in the store"
    )]
    tokio::spawn(async move {
        let mut task = task;
        // Its endpoints end at once; the rest waits for its turn.
        let erased = match close(&api, &mut task).await {
            Ok(()) => {
                let Ok(_turn) = api.0.deletions.turn.acquire().await else {
                    return;
                };
                run(&api, &mut task).await
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
        task.finished_at = Some(api.now());
        if let Err(error) = patiently(u32::MAX, || api.store().put_task(task.clone())).await {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "failed to record the end of a deletion"
            );
        }
    });
}

/// Stops replays, and ends endpoints until a piece has none.
async fn close(api: &Api, task: &mut Task) -> Result<(), StoreError> {
    let its = |other: &Task| {
        other.application == task.application
            && (task.tenant.is_none() || other.tenant == task.tenant)
    };
    for other in patiently(u32::MAX, || api.store().unfinished_tasks()).await? {
        if other.kind == TaskKind::Replay && its(&other) {
            api.0.replays.cancel(other.id);
        }
    }
    while !piece(api, task).await?.closed.is_empty() {}
    Ok(())
}

async fn run(api: &Api, task: &mut Task) -> Result<(), StoreError> {
    while !piece(api, task).await?.done {}
    Ok(())
}

async fn piece(api: &Api, task: &mut Task) -> Result<Erased, StoreError> {
    let erased = patiently(u32::MAX, || api.store().erase(owner(task), PIECE)).await?;
    for endpoint in &erased.closed {
        api.engine().endpoint_changed(*endpoint);
    }
    task.done += erased.rows;
    if !erased.done {
        patiently(u32::MAX, || api.store().put_task(task.clone())).await?;
    }
    Ok(erased)
}
