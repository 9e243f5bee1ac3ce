//! Replays: many deliveries again, by filter, or what an endpoint missed, as a task that shows its progress and
//! survives restarts.

mod running;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::{HeaderMap, StatusCode};
use postrider_core::tenant::Mode;
use postrider_core::{Id, Timestamp, id};
use postrider_store::{
    DeliveryFilter, MissedQuery, Page, Rule, StatePattern, StoreError, Task, TaskKind, TaskState,
};
use serde::{Deserialize, Serialize};

use super::deliveries::status;
use super::endpoints;
use super::events::bounds;
use super::tasks::shown;
use crate::Api;
use crate::auth::Caller;
use crate::problem::{ApiError, ApiResult};
use crate::request::{Paging, Path, Query, given_id, json, list as list_of, ok, path_id};
pub(crate) use running::Replays;
pub(super) use running::resume;

/// Begins the stored place of a task that goes from the oldest to the newest.
const FORWARD: char = '+';
/// Events that a catch-up looks at at once.
const EVENTS_LOOKED_AT: u32 = 200;

/// What to replay. Without a status: what failed.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReplayBody {
    endpoint: Option<String>,
    event: Option<String>,
    r#type: Option<String>,
    mode: Option<Mode>,
    status: Option<String>,
    /// Instead: what the endpoint has no delivery of, because it was disabled or not there when the event came.
    #[serde(default)]
    missed: bool,
    since: Option<String>,
    until: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ReplayView {
    id: Id<id::Task>,
    tenant: Option<Id<id::Tenant>>,
    status: &'static str,
    /// How many there are to send; none while they are counted.
    total: Option<u64>,
    /// Deliveries sent so far.
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
            total: task.total,
            done: task.done,
            skipped: task.skipped,
            error,
            created_at: task.created_at,
            finished_at: task.finished_at,
        }
    }
}

/// The endpoint that catches up, and what else is asked for; none for a replay of deliveries.
fn missed(task: &Task, body: &ReplayBody) -> ApiResult<Option<MissedQuery>> {
    if !body.missed {
        return Ok(None);
    }
    let rule = "cannot be together with missed";
    let given = [
        ("event", body.event.is_some()),
        ("type", body.r#type.is_some()),
        ("status", body.status.is_some()),
    ];
    if let Some((field, _)) = given.into_iter().find(|(_, is_given)| *is_given) {
        return Err(ApiError::invalid(field, rule));
    }
    let endpoint = given_id("endpoint", body.endpoint.as_deref())?;
    let rule = "is needed with missed: one endpoint catches up at a time";
    let endpoint = endpoint.ok_or_else(|| ApiError::invalid("endpoint", rule))?;
    let (since, until) = bounds(body.since.as_deref(), body.until.as_deref())?;
    let rule = "is needed with missed: the time from which on the endpoint catches up";
    since.ok_or_else(|| ApiError::invalid("since", rule))?;
    Ok(Some(MissedQuery {
        endpoint,
        after: None,
        since,
        until: end_of(task, until),
        rows: EVENTS_LOOKED_AT,
    }))
}

/// Only what was there when the replay began, so that it ends.
fn end_of(task: &Task, until: Option<Timestamp>) -> Timestamp {
    until.map_or(task.created_at, |until| until.min(task.created_at))
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
        until: Some(end_of(task, until)),
        // As they would have gone; one that an earlier version began goes on as it was.
        oldest_first: task
            .cursor
            .as_deref()
            .is_none_or(|cursor| cursor.starts_with(FORWARD)),
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
    let mut task = Task {
        id: api.store().ids().next(now),
        kind: TaskKind::Replay,
        application: tenant.application,
        tenant: Some(tenant.id),
        request: String::new(),
        state: TaskState::Running,
        total: None,
        done: 0,
        skipped: 0,
        cursor: None,
        created_at: now,
        finished_at: None,
    };
    filter(&task, &body)?;
    if let Some(missed) = missed(&task, &body)? {
        let (endpoint, _) = endpoints::found(&api, &caller, &missed.endpoint.to_string()).await?;
        if endpoint.tenant != tenant.id {
            return Err(ApiError::not_found("endpoint"));
        }
        if body.mode.is_some_and(|mode| mode != endpoint.mode) {
            return Err(ApiError::invalid("mode", "is not the endpoint's"));
        }
        if !endpoint.health.is_enabled() {
            return Err(StoreError::conflict(Rule::EndpointDisabled).into());
        }
        // Whoever may not touch its mode may not see this either.
        body.mode = Some(endpoint.mode);
    }
    task.request = serde_json::to_string(&body).map_err(ApiError::internal)?;
    let place = api.0.replays.place(tenant.id)?;
    let (starting, first) = (api.clone(), task.clone());
    api.to_the_end(async move {
        starting.store().put_task(first.clone()).await?;
        running::start(&starting, first, place);
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
