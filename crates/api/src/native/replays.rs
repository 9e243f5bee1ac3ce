//! Replays: many deliveries again, by filter, as a task that shows its progress and survives restarts.

use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::{HeaderMap, StatusCode};
use postrider_core::delivery::Delivery;
use postrider_core::tenant::Mode;
use postrider_core::{Id, Timestamp, id};
use postrider_engine::PublishError;
use postrider_store::queries::query_digest;
use postrider_store::{
    Cursor, DeliveryFilter, PageRequest, StatePattern, StoreError, Task, TaskState,
};
use serde::{Deserialize, Serialize};

use super::deliveries::{resend_policy, status};
use super::events::bounds;
use crate::Api;
use crate::auth::Caller;
use crate::problem::{ApiError, ApiResult};
use crate::request::{Path, given_id, json, ok, path_id};

/// Deliveries read at once.
const PAGE: usize = 200;
/// Deliveries between two records of progress: after a crash, so many may be counted as neither.
const RECORD_EVERY: u64 = 10;
const PAUSE: Duration = Duration::from_millis(500);

/// What to replay. Without a status: what failed.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReplayBody {
    endpoint: Option<String>,
    event: Option<String>,
    r#type: Option<String>,
    mode: Option<Mode>,
    status: Option<String>,
    since: Option<String>,
    until: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ReplayView {
    id: Id<id::Task>,
    tenant: Id<id::Tenant>,
    status: &'static str,
    /// Deliveries resent so far.
    done: u64,
    /// Deliveries that could not be: waiting already, their endpoint is disabled or gone, or the
    /// profile does not send again what ended as they did.
    skipped: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    created_at: Timestamp,
    finished_at: Option<Timestamp>,
}

impl From<Task> for ReplayView {
    fn from(task: Task) -> Self {
        let (status, error) = match task.state {
            TaskState::Running => ("running", None),
            TaskState::Finished => ("finished", None),
            TaskState::Failed(error) => ("failed", Some(error)),
        };
        Self {
            id: task.id,
            tenant: task.tenant,
            status,
            done: task.done,
            skipped: task.skipped,
            error,
            created_at: task.created_at,
            finished_at: task.finished_at,
        }
    }
}

fn filter(task: &Task, body: &ReplayBody) -> ApiResult<DeliveryFilter> {
    let (since, until) = bounds(body.since.as_deref(), body.until.as_deref())?;
    Ok(DeliveryFilter {
        application: Some(task.application),
        tenant: Some(task.tenant),
        endpoint: given_id("endpoint", body.endpoint.as_deref())?,
        event: given_id("event", body.event.as_deref())?,
        event_type: body.r#type.clone(),
        mode: body.mode,
        state: Some(status(body.status.as_deref())?.unwrap_or(StatePattern::Failed)),
        since,
        // Only what was there when the replay began, so that it ends.
        until: Some(until.map_or(task.created_at, |until| until.min(task.created_at))),
    })
}

pub(crate) async fn create(
    State(api): State<Api>,
    caller: Caller,
    Path(tenant): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> ApiResult<Response> {
    let tenant = caller.tenant(&api, path_id(&tenant)?).await?;
    let mut body: ReplayBody = api.read(&headers, body).await?;
    body.mode = caller.shown(body.mode)?;
    let now = api.now();
    let task = Task {
        id: api.store().ids().next(now),
        application: tenant.application,
        tenant: tenant.id,
        request: serde_json::to_string(&body).map_err(ApiError::internal)?,
        state: TaskState::Running,
        done: 0,
        skipped: 0,
        cursor: None,
        created_at: now,
        finished_at: None,
    };
    filter(&task, &body)?;
    let (starting, first) = (api.clone(), task.clone());
    api.to_the_end(async move {
        starting.store().put_task(first.clone()).await?;
        start(&starting, first);
        Ok(())
    })
    .await?;
    Ok(json(StatusCode::ACCEPTED, &ReplayView::from(task)))
}

pub(crate) async fn read(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Response> {
    let task = api.store().task(path_id(&id)?).await?;
    let request: ReplayBody = serde_json::from_str(&task.request).map_err(ApiError::internal)?;
    // Without a mode it is of both.
    let visible = caller.may_touch(request.mode.unwrap_or_default());
    if !visible || !caller.may_see(task.application, task.tenant) {
        return Err(ApiError::not_found("replay"));
    }
    Ok(ok(&ReplayView::from(task)))
}

/// Goes on with what a restart interrupted.
pub(crate) async fn resume(api: &Api) -> Result<(), StoreError> {
    for task in api.store().unfinished_tasks().await? {
        start(api, task);
    }
    Ok(())
}

fn start(api: &Api, task: Task) {
    let api = api.clone();
    #[expect(
        clippy::disallowed_methods,
        reason = "a replay outlives its request; its progress is in the store"
    )]
    tokio::spawn(async move {
        let mut task = task;
        let state = match run(&api, &mut task).await {
            Ok(()) => TaskState::Finished,
            Err(error) => {
                error.log();
                TaskState::Failed(error.detail)
            }
        };
        task.state = state;
        task.finished_at = Some(api.now());
        if let Err(error) = api.store().put_task(task).await {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "failed to record the end of a replay"
            );
        }
    });
}

async fn run(api: &Api, task: &mut Task) -> ApiResult<()> {
    let body: ReplayBody = serde_json::from_str(&task.request).map_err(ApiError::internal)?;
    let filter = filter(task, &body)?;
    let query = query_digest(&filter);
    loop {
        let cursor = task.cursor.as_deref().map(str::parse).transpose();
        let cursor = cursor.map_err(ApiError::internal)?;
        let request = PageRequest {
            limit: PAGE,
            cursor,
        };
        let page = api.store().list_deliveries(filter.clone(), request).await?;
        for delivery in page.rows {
            resend(api, task, &delivery).await?;
            let after = delivery.id.as_u128();
            task.cursor = Some(Cursor { query, after }.to_string());
            if (task.done + task.skipped).is_multiple_of(RECORD_EVERY) {
                api.store().put_task(task.clone()).await?;
            }
        }
        task.cursor = page.next.map(|cursor| cursor.to_string());
        api.store().put_task(task.clone()).await?;
        if page.next.is_none() {
            return Ok(());
        }
    }
}

/// Sends one again, and counts it.
async fn resend(api: &Api, task: &mut Task, delivery: &Delivery) -> ApiResult<()> {
    let Ok(series) = resend_policy(api, delivery) else {
        task.skipped += 1;
        return Ok(());
    };
    let mut recorded = false;
    loop {
        match api.engine().resend(delivery.id, series).await {
            Ok(_) => task.done += 1,
            // The journal is full, or the server is shutting down: publishers go first, a replay has time.
            Err(PublishError::Busy(_)) => {
                if !std::mem::replace(&mut recorded, true) {
                    api.store().put_task(task.clone()).await?;
                }
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            Err(PublishError::Store(StoreError::Conflict { .. } | StoreError::NotFound { .. })) => {
                task.skipped += 1
            }
            Err(PublishError::Store(error)) => return Err(error.into()),
        }
        return Ok(());
    }
}
