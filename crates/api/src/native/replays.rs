//! Replays: many deliveries again, by filter, or what an endpoint missed, as a task that shows its progress and
//! survives restarts.

use axum::body::Body;
use axum::extract::State;
use http::{HeaderMap, StatusCode};
use postrider_core::{Id, Timestamp, id};
use postrider_service::{Caller, NewReplay, Replay};
use serde::Serialize;
use utoipa::ToSchema;

use super::views::task_status;
use crate::Api;
use crate::openapi::{OfReplay, OfTenant, Refusals};
use crate::problem::Answer;
use crate::request::{List, NoBody, Paging, Path, Query, json, list as list_of, ok, read_id};

#[derive(Serialize, ToSchema)]
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

impl From<Replay> for ReplayView {
    fn from(task: Replay) -> Self {
        let (status, error) = task_status(task.status);
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

/// Sends many deliveries again, or gives an endpoint what it missed.
#[utoipa::path(
    post, path = "/v1/tenants/{tenant}/replays", tag = "Replays", operation_id = "createReplay",
    params(OfTenant),
    request_body = NewReplay,
    responses((status = ACCEPTED, description = "Begun, or on its way.", body = ReplayView), Refusals),
)]
pub(crate) async fn create(
    State(api): State<Api>,
    caller: Caller,
    Path(tenant): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let tenant = read_id(&tenant)?;
    let new = api.read(&caller, &headers, body).await?;
    let begun = api.service.create_replay(&caller, tenant, new).await?;
    Ok(json(StatusCode::ACCEPTED, &ReplayView::from(begun)))
}

/// Reads how a replay stands.
#[utoipa::path(
    get, path = "/v1/replays/{replay}", tag = "Replays", operation_id = "getReplay",
    params(OfReplay),
    responses((status = OK, description = "Done.", body = ReplayView), Refusals),
)]
pub(crate) async fn read(State(api): State<Api>, caller: Caller, Path(id): Path<String>) -> Answer {
    let found = api.service.replay(&caller, read_id(&id)?).await?;
    Ok(ok(&ReplayView::from(found)))
}

/// Lists a tenant's replays, the newest first.
#[utoipa::path(
    get, path = "/v1/tenants/{tenant}/replays", tag = "Replays", operation_id = "listReplays",
    params(OfTenant, Paging),
    responses((status = OK, description = "Done.", body = List<ReplayView>), Refusals),
)]
pub(crate) async fn list(
    State(api): State<Api>,
    caller: Caller,
    Path(tenant): Path<String>,
    Query(paging): Query<Paging>,
) -> Answer {
    let (tenant, page) = (read_id(&tenant)?, paging.request()?);
    let found = api.service.list_replays(&caller, tenant, page).await?;
    Ok(list_of(found, ReplayView::from))
}

/// Stops a replay; what it has sent stays sent. One that has ended stays as it ended.
#[utoipa::path(
    post, path = "/v1/replays/{replay}/cancel", tag = "Replays", operation_id = "cancelReplay",
    params(OfReplay),
    responses((status = OK, description = "Done.", body = ReplayView), Refusals),
)]
pub(crate) async fn cancel(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    _: NoBody,
) -> Answer {
    let ended = api.service.cancel_replay(&caller, read_id(&id)?).await?;
    Ok(ok(&ReplayView::from(ended)))
}
