//! Replays: many deliveries again, by filter, as a task that shows its progress and survives restarts.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

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
    Cursor, DeliveryFilter, Page, PageRequest, StatePattern, StoreError, Task, TaskKind, TaskState,
};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::deliveries::{resend_policy, status};
use super::events::bounds;
use super::tasks::{PAUSE, PAUSE_MAX, is_passing, patiently, shown};
use crate::Api;
use crate::auth::Caller;
use crate::problem::{ApiError, ApiResult, ErrorCode};
use crate::request::{Paging, Path, Query, given_id, json, list as list_of, ok, path_id};
use crate::turns::Turns;

/// Deliveries read at once.
const PAGE: usize = 200;
/// Deliveries between two records of progress: after a crash, so many may be counted as neither.
const RECORD_EVERY: u64 = 10;
/// Tries of one step, about an hour; then the replay ends as failed.
const TRIES_MAX: u32 = 120;
/// Unfinished replays of a tenant; more are refused.
const UNFINISHED_MAX: usize = 10;
/// Replays that run at once; the others wait for their turn.
const RUNNING_MAX: usize = 4;

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
    tenant: Option<Id<id::Tenant>>,
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
        let (status, error) = shown(task.state);
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
        tenant: task.tenant,
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
    let mut body: ReplayBody = api.read(&caller, &headers, body).await?;
    body.mode = caller.shown(body.mode)?;
    let now = api.now();
    let task = Task {
        id: api.store().ids().next(now),
        kind: TaskKind::Replay,
        application: tenant.application,
        tenant: Some(tenant.id),
        request: serde_json::to_string(&body).map_err(ApiError::internal)?,
        state: TaskState::Running,
        done: 0,
        skipped: 0,
        cursor: None,
        created_at: now,
        finished_at: None,
    };
    filter(&task, &body)?;
    let place = api.0.replays.place(tenant.id)?;
    let (starting, first) = (api.clone(), task.clone());
    api.to_the_end(async move {
        starting.store().put_task(first.clone()).await?;
        start(&starting, first, place);
        Ok(())
    })
    .await?;
    Ok(json(StatusCode::ACCEPTED, &ReplayView::from(task)))
}

/// Whether the caller may see a replay; without a mode it is of both.
fn is_visible(caller: &Caller, task: &Task) -> bool {
    let request: Option<ReplayBody> = serde_json::from_str(&task.request).ok();
    let mode = request.and_then(|request| request.mode).unwrap_or_default();
    let owned = task
        .tenant
        .is_some_and(|tenant| caller.may_see(task.application, tenant));
    task.kind == TaskKind::Replay && owned && caller.may_touch(mode)
}

async fn found(api: &Api, caller: &Caller, id: &str) -> ApiResult<Task> {
    let task = api.store().task(path_id(id)?).await?;
    if is_visible(caller, &task) {
        Ok(task)
    } else {
        Err(ApiError::not_found("replay"))
    }
}

pub(crate) async fn read(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Response> {
    let task = found(&api, &caller, &id).await?;
    Ok(ok(&ReplayView::from(task)))
}

pub(crate) async fn list(
    State(api): State<Api>,
    caller: Caller,
    Path(tenant): Path<String>,
    Query(paging): Query<Paging>,
) -> ApiResult<Response> {
    let tenant = caller.tenant(&api, path_id(&tenant)?).await?;
    let page = api.store().list_tasks(tenant.id, paging.request()?).await?;
    let rows: Vec<Task> = page
        .rows
        .into_iter()
        .filter(|task| is_visible(&caller, task))
        .collect();
    let next = page.next;
    Ok(list_of(Page { rows, next }, ReplayView::from))
}

/// Stops a replay; what it has sent stays sent. One that has ended stays as it ended.
pub(crate) async fn cancel(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Response> {
    let mut task = found(&api, &caller, &id).await?;
    if matches!(task.state, TaskState::Running | TaskState::Cancelled) {
        // First, so that it stops though its client goes away; and again, should it not have.
        api.0.replays.cancel(task.id);
    }
    if task.state == TaskState::Running {
        task.state = TaskState::Cancelled;
        task.finished_at = Some(api.now());
        // The store keeps the end, whatever the one who runs it writes afterwards.
        let (cancelling, ended) = (api.clone(), task.clone());
        api.to_the_end(async move { Ok(cancelling.store().put_task(ended).await?) })
            .await?;
    }
    let task = api.store().task(task.id).await?;
    Ok(ok(&ReplayView::from(task)))
}

/// Goes on with a replay that a restart interrupted.
pub(super) fn resume(api: &Api, task: Task, tenant: Id<id::Tenant>) {
    let place = api.0.replays.kept_place(tenant);
    start(api, task, place);
}

/// Who replays: a tenant's replays run one after the other, and few at once in all, so that they
/// leave the writer to publishers.
pub(crate) struct Replays {
    unfinished: Arc<Mutex<HashMap<Id<id::Tenant>, usize>>>,
    turns: Turns,
    running: Semaphore,
    /// Those that this process runs or will run, and whether they are to stop.
    started: Mutex<HashMap<Id<id::Task>, CancellationToken>>,
}

impl Default for Replays {
    fn default() -> Self {
        Self {
            unfinished: Arc::default(),
            turns: Turns::default(),
            running: Semaphore::new(RUNNING_MAX),
            started: Mutex::default(),
        }
    }
}

/// One of the replays that a tenant may have unfinished.
struct Place {
    unfinished: Arc<Mutex<HashMap<Id<id::Tenant>, usize>>>,
    tenant: Id<id::Tenant>,
}

impl Replays {
    fn place(&self, tenant: Id<id::Tenant>) -> ApiResult<Place> {
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
            return Err(ApiError::new(ErrorCode::ReplaysMax, detail));
        }
        *unfinished.entry(tenant).or_default() += 1;
        drop(unfinished);
        Ok(self.kept(tenant))
    }

    fn started(&self, task: Id<id::Task>) -> CancellationToken {
        let mut started = self.started.lock().unwrap_or_else(PoisonError::into_inner);
        started.entry(task).or_default().clone()
    }

    /// Stops one, if it runs or waits for its turn.
    pub(super) fn cancel(&self, task: Id<id::Task>) {
        let started = self.started.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(token) = started.get(&task) {
            token.cancel();
        }
    }

    fn ended(&self, task: Id<id::Task>) {
        let mut started = self.started.lock().unwrap_or_else(PoisonError::into_inner);
        started.remove(&task);
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

fn start(api: &Api, task: Task, place: Place) {
    let api = api.clone();
    let cancelled = api.0.replays.started(task.id);
    #[expect(
        clippy::disallowed_methods,
        reason = "a replay outlives its request; its progress is in the store"
    )]
    tokio::spawn(async move {
        let mut task = task;
        let replays = &api.0.replays;
        let ended = async {
            let _turn = replays.turns.take(place.tenant).await?;
            let _running = replays
                .running
                .acquire()
                .await
                .map_err(ApiError::internal)?;
            run(&api, &mut task).await
        };
        let ended = tokio::select! {
            ended = ended => Some(ended),
            // Between two deliveries: each is sent whole or not at all.
            () = cancelled.cancelled() => None,
        };
        task.state = match ended {
            None => TaskState::Cancelled,
            Some(Ok(())) => TaskState::Finished,
            Some(Err(error)) => {
                error.log();
                TaskState::Failed(error.detail)
            }
        };
        task.finished_at = Some(api.now());
        // Never given up: it holds nobody up, and an end that is not recorded would be none.
        let end = patiently(u32::MAX, || api.store().put_task(task.clone()));
        if let Err(error) = end.await {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "failed to record the end of a replay"
            );
        }
        api.0.replays.ended(task.id);
        drop(place);
    });
}

async fn run(api: &Api, task: &mut Task) -> ApiResult<()> {
    let body: ReplayBody = serde_json::from_str(&task.request).map_err(ApiError::internal)?;
    let filter = filter(task, &body)?;
    let query = query_digest(&filter);
    loop {
        let cursor = task.cursor.as_deref().map(|text| place_of(text, query));
        let cursor = cursor.transpose().map_err(ApiError::internal)?;
        let request = PageRequest {
            limit: PAGE,
            cursor,
        };
        let page = patiently(TRIES_MAX, || {
            api.store().list_deliveries(filter.clone(), request)
        })
        .await?;
        for delivery in page.rows {
            resend(api, task, &delivery).await?;
            task.cursor = Some(format!("{:032x}", delivery.id.as_u128()));
            if (task.done + task.skipped).is_multiple_of(RECORD_EVERY) {
                patiently(TRIES_MAX, || api.store().put_task(task.clone())).await?;
            }
        }
        // At the end the cursor stays: after a crash here nothing is sent again.
        let Some(next) = page.next else {
            return Ok(());
        };
        task.cursor = Some(format!("{:032x}", next.after));
        patiently(TRIES_MAX, || api.store().put_task(task.clone())).await?;
    }
}

/// Where a replay goes on. Only the place is stored: another version may write the query otherwise.
fn place_of(text: &str, query: u32) -> Result<Cursor, std::num::ParseIntError> {
    // Before it came the query.
    let place = text.get(text.len().saturating_sub(32)..).unwrap_or(text);
    let after = u128::from_str_radix(place, 16)?;
    Ok(Cursor { query, after })
}

/// Sends one again, and counts it.
async fn resend(api: &Api, task: &mut Task, delivery: &Delivery) -> ApiResult<()> {
    let Ok(policy) = resend_policy(api, delivery) else {
        task.skipped += 1;
        return Ok(());
    };
    let mut recorded = false;
    let mut tries = 0;
    loop {
        match api.engine().resend(delivery, policy.series).await {
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
                tries += u32::from(failing);
                if !std::mem::replace(&mut recorded, true) {
                    // What is not recorded now is with the next rows.
                    drop(api.store().put_task(task.clone()).await);
                }
                let pause = if failing { PAUSE_MAX } else { PAUSE };
                tokio::time::sleep(pause).await;
                continue;
            }
        }
        return Ok(());
    }
}
