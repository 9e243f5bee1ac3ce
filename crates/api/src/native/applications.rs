//! Applications and their settings.

use axum::body::Body;
use axum::extract::State;
use http::{HeaderMap, StatusCode};
use postrider_core::tenant::Application;
use postrider_service::{ApplicationPatch, Caller, NewApplication};

use super::views::ApplicationView;
use crate::Api;
use crate::openapi::{OfApplication, Refusals};
use crate::problem::Answer;
use crate::request::{List, Paging, Path, Query, json, list as list_of, ok, read_id};

/// Makes an application; a root key may.
#[utoipa::path(
    post, path = "/v1/applications", tag = "Applications", operation_id = "createApplication",
    request_body = NewApplication,
    responses((status = CREATED, description = "Made.", body = ApplicationView), Refusals),
)]
pub(crate) async fn create(
    State(api): State<Api>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let new = api.read(&caller, &headers, body).await?;
    let made = api.service.create_application(&caller, new).await?;
    Ok(json(StatusCode::CREATED, &ApplicationView::from(made)))
}

/// Lists applications, the newest first; a root key may.
#[utoipa::path(
    get, path = "/v1/applications", tag = "Applications", operation_id = "listApplications",
    params(Paging),
    responses((status = OK, description = "Done.", body = List<ApplicationView>), Refusals),
)]
pub(crate) async fn list(
    State(api): State<Api>,
    caller: Caller,
    Query(paging): Query<Paging>,
) -> Answer {
    let page = paging.request()?;
    let found = api.service.list_applications(&caller, page).await?;
    Ok(list_of(found, ApplicationView::from))
}

/// Reads an application.
#[utoipa::path(
    get, path = "/v1/applications/{application}", tag = "Applications", operation_id = "getApplication",
    params(OfApplication),
    responses((status = OK, description = "Done.", body = ApplicationView), Refusals),
)]
pub(crate) async fn read(State(api): State<Api>, caller: Caller, Path(id): Path<String>) -> Answer {
    let found = api.service.application(&caller, read_id(&id)?).await?;
    Ok(ok(&ApplicationView::from(Application::clone(&found))))
}

/// Changes an application: what is not named stays.
#[utoipa::path(
    patch, path = "/v1/applications/{application}", tag = "Applications", operation_id = "changeApplication",
    params(OfApplication),
    request_body = ApplicationPatch,
    responses((status = OK, description = "Done.", body = ApplicationView), Refusals),
)]
pub(crate) async fn update(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let id = read_id(&id)?;
    let patch = api.read(&caller, &headers, body).await?;
    let changed = api.service.change_application(&caller, id, patch).await?;
    Ok(ok(&ApplicationView::from(changed)))
}
