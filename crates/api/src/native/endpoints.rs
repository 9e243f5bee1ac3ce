//! Endpoints: create, list, read, change, delete; their secret, the test call, and counts.

use axum::body::Body;
use axum::extract::State;
use axum::response::IntoResponse;
use http::{HeaderMap, StatusCode};
use postrider_core::Timestamp;
use postrider_core::attempt::Outcome;
use postrider_service::{
    Caller, EndpointPatch, NewEndpoint, Page, Rotation, SecretShown, TestAsked,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};

use super::views::EndpointView;
use crate::Api;
use crate::openapi::{OfDistribution, OfEndpoint, OfTenant, Refusals};
use crate::problem::Answer;
use crate::request::{
    List, NoBody, Path, Query, given_time, json, list as list_of, ok, page_request, read_id, typed,
    well_formed,
};

/// Makes an endpoint; its secret is in this answer only, unless the profile shows it again.
#[utoipa::path(
    post, path = "/v1/tenants/{tenant}/endpoints", tag = "Endpoints", operation_id = "createEndpoint",
    params(OfTenant),
    request_body = NewEndpoint,
    responses((status = CREATED, description = "Made.", body = EndpointView), Refusals),
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
    let made = api.service.create_endpoint(&caller, tenant, new).await?;
    let view = EndpointView::new(made.endpoint, &made.profile);
    let view = view.with_secret(made.secret.expose(), made.public_key);
    Ok(json(StatusCode::CREATED, &view))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
pub(crate) struct EndpointQuery {
    /// The one of the key's mode with this id of the product's own.
    external_id: Option<String>,
    /// Rows of the page.
    #[param(value_type = Option<u16>, minimum = 1, maximum = 250)]
    limit: Option<String>,
    /// `nextCursor` of the page before.
    cursor: Option<String>,
}

/// Lists a tenant's endpoints, the newest first, or the one with an `externalId`.
#[utoipa::path(
    get, path = "/v1/tenants/{tenant}/endpoints", tag = "Endpoints", operation_id = "listEndpoints",
    params(OfTenant, EndpointQuery),
    responses((status = OK, description = "Done.", body = List<EndpointView>), Refusals),
)]
pub(crate) async fn list(
    State(api): State<Api>,
    caller: Caller,
    Path(tenant): Path<String>,
    Query(query): Query<EndpointQuery>,
) -> Answer {
    let tenant = read_id(&tenant)?;
    // Also where there is one at most: what is wrong is told.
    let page = page_request(query.limit.as_deref(), query.cursor.as_deref())?;
    let (page, profile) = match &query.external_id {
        Some(external_id) => {
            let service = &api.service;
            let found = service.endpoint_by_external_id(&caller, tenant, external_id);
            let (endpoint, profile) = found.await?;
            let rows = endpoint.into_iter().collect();
            (Page { rows, next: None }, profile)
        }
        None => {
            let found = api.service.list_endpoints(&caller, tenant, None, page);
            found.await?
        }
    };
    let view = |endpoint| EndpointView::new(endpoint, &profile);
    Ok(list_of(page, view))
}

/// Reads an endpoint.
#[utoipa::path(
    get, path = "/v1/endpoints/{endpoint}", tag = "Endpoints", operation_id = "getEndpoint",
    params(OfEndpoint),
    responses((status = OK, description = "Done.", body = EndpointView), Refusals),
)]
pub(crate) async fn read(State(api): State<Api>, caller: Caller, Path(id): Path<String>) -> Answer {
    let (endpoint, current) = api.service.endpoint(&caller, &id).await?;
    Ok(ok(&EndpointView::new(endpoint, &current.profile)))
}

/// Changes an endpoint: what is not named stays.
#[utoipa::path(
    patch, path = "/v1/endpoints/{endpoint}", tag = "Endpoints", operation_id = "changeEndpoint",
    params(OfEndpoint),
    request_body = EndpointPatch,
    responses((status = OK, description = "Done.", body = EndpointView), Refusals),
)]
pub(crate) async fn update(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let patch = api.read(&caller, &headers, body).await?;
    let (changed, profile) = api.service.change_endpoint(&caller, &id, patch).await?;
    Ok(ok(&EndpointView::new(changed, &profile)))
}

/// Deletes an endpoint; what waits for it is cancelled.
#[utoipa::path(
    delete, path = "/v1/endpoints/{endpoint}", tag = "Endpoints", operation_id = "deleteEndpoint",
    params(OfEndpoint),
    responses((status = NO_CONTENT, description = "Gone."), Refusals),
)]
pub(crate) async fn delete(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    _: NoBody,
) -> Answer {
    api.service.delete_endpoint(&caller, &id).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct SecretView {
    secret: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    public_key: Option<String>,
    /// Until when the secret before this one is accepted too.
    #[serde(skip_serializing_if = "Option::is_none")]
    previous_valid_until: Option<Timestamp>,
}

impl From<SecretShown> for SecretView {
    fn from(shown: SecretShown) -> Self {
        Self {
            secret: shown.secret.expose().to_owned(),
            public_key: shown.public_key,
            previous_valid_until: shown.previous_valid_until,
        }
    }
}

/// Shows the secret that signs, where the profile shows it again.
#[utoipa::path(
    get, path = "/v1/endpoints/{endpoint}/secret", tag = "Endpoints", operation_id = "getEndpointSecret",
    params(OfEndpoint),
    responses((status = OK, description = "Done.", body = SecretView), Refusals),
)]
pub(crate) async fn secret(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
) -> Answer {
    let shown = api.service.endpoint_secret(&caller, &id).await?;
    Ok(ok(&SecretView::from(shown)))
}

/// Gives an endpoint a new secret; the old one signs too for the overlap.
#[utoipa::path(
    post, path = "/v1/endpoints/{endpoint}/rotate-secret", tag = "Endpoints", operation_id = "rotateEndpointSecret",
    params(OfEndpoint),
    request_body(content = Option<Rotation>),
    responses((status = OK, description = "Done.", body = SecretView), Refusals),
)]
pub(crate) async fn rotate_secret(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    body: Body,
) -> Answer {
    let rotation: Rotation = api.read_optional(&caller, body).await?;
    let service = &api.service;
    let fresh = service.rotate_endpoint_secret(&caller, &id, &rotation);
    Ok(ok(&SecretView::from(fresh.await?)))
}

/// Which event to send. Without a body: the profile's own test event.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct TestBody<'b> {
    r#type: Option<String>,
    /// The example of the event type, when it is not given.
    #[serde(borrow)]
    #[schema(value_type = Option<serde_json::Value>)]
    data: Option<&'b RawValue>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct TestView<'t> {
    success: bool,
    status_code: Option<u16>,
    /// Milliseconds.
    response_time: u64,
    message: &'t str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Sends a test event to an endpoint now, whatever its state.
#[utoipa::path(
    post, path = "/v1/endpoints/{endpoint}/test", tag = "Endpoints", operation_id = "testEndpoint",
    params(OfEndpoint),
    request_body(content = Option<TestBody<'_>>),
    responses((status = OK, description = "Done.", body = TestView<'_>), Refusals),
)]
pub(crate) async fn test(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    body: Body,
) -> Answer {
    let bytes = api.body(caller.holder(), body).await?;
    let mut asked = TestAsked::default();
    if !bytes.is_empty() {
        well_formed(&bytes)?;
        let body: TestBody<'_> = typed(&bytes)?;
        asked.event_type = body.r#type;
        asked.data = body.data.map(|data| data.get().to_owned());
    }
    let tested = api.service.test_endpoint(&caller, &id, asked).await?;
    let (status_code, error) = match &tested.attempt.outcome {
        Outcome::Answered { status, .. } => (Some(*status), None),
        Outcome::Unreachable { reason, detail } => {
            (None, Some(format!("{}: {detail}", reason.as_str())))
        }
    };
    let messages = &tested.profile.test;
    let timings = &tested.attempt.timings;
    // To the answer, not to the end of its body; without one, until it was given up.
    let micros = timings.first_byte_micros.unwrap_or(timings.total_micros);
    Ok(ok(&TestView {
        success: tested.success,
        status_code,
        response_time: u64::from(micros / 1_000),
        message: if tested.success {
            &messages.ok
        } else {
            &messages.fail
        },
        error,
    }))
}

/// Sends a test event to a distribution now, whatever its state.
#[utoipa::path(
    post, path = "/v1/distributions/{distribution}/test", tag = "Distributions", operation_id = "testDistribution",
    params(OfDistribution),
    request_body(content = Option<TestBody<'_>>),
    responses((status = OK, description = "Done.", body = TestView<'_>), Refusals),
)]
pub(crate) async fn test_distribution(
    api: State<Api>,
    caller: Caller,
    id: Path<String>,
    body: Body,
) -> Answer {
    test(api, caller, id, body).await
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct StatsQuery {
    /// From this time on.
    #[param(value_type = Option<Timestamp>)]
    since: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct StatsView {
    since: Timestamp,
    pending: u64,
    delivered: u64,
    failed: u64,
    cancelled: u64,
    skipped: u64,
    attempts: u64,
}

/// Counts an endpoint's deliveries, of the last day when no time is given.
#[utoipa::path(
    get, path = "/v1/endpoints/{endpoint}/stats", tag = "Endpoints", operation_id = "getEndpointStats",
    params(OfEndpoint, StatsQuery),
    responses((status = OK, description = "Done.", body = StatsView), Refusals),
)]
pub(crate) async fn stats(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    Query(query): Query<StatsQuery>,
) -> Answer {
    let since = given_time("since", query.since.as_deref())?;
    let (since, s) = api.service.endpoint_stats(&caller, &id, since).await?;
    let view = StatsView {
        since,
        pending: s.pending,
        delivered: s.delivered,
        failed: s.failed,
        cancelled: s.cancelled,
        skipped: s.skipped,
        attempts: s.attempts,
    };
    Ok(ok(&view))
}
