//! The native API under `/v1`.

mod applications;
mod deliveries;
pub(crate) mod endpoints;
mod events;
mod explain;
pub(crate) mod keys;
mod replays;
mod views;

use axum::Router;
use axum::extract::State;
use axum::response::Response;
use axum::routing::{delete, get, post, put};
use http::{Method, StatusCode, Uri};
use serde::Serialize;

use crate::Api;
use crate::problem::{ApiError, ApiResult, ErrorCode};
use crate::request::json;

pub(crate) use replays::resume as resume_replays;

pub(crate) fn routes() -> Router<Api> {
    Router::new()
        .route("/health", get(health))
        .route("/ready", get(ready))
        .route(
            "/v1/applications",
            post(applications::create).get(applications::list),
        )
        .route(
            "/v1/applications/{application}",
            get(applications::read).patch(applications::update),
        )
        .route(
            "/v1/applications/{application}/event-types",
            get(applications::list_event_types),
        )
        .route(
            "/v1/applications/{application}/event-types/{name}",
            put(applications::put_event_type).delete(applications::delete_event_type),
        )
        .route(
            "/v1/applications/{application}/tenants",
            post(applications::create_tenant).get(applications::list_tenants),
        )
        .route("/v1/tenants/{tenant}", get(applications::read_tenant))
        .route(
            "/v1/tenants/{tenant}/secret",
            get(applications::read_secret),
        )
        .route(
            "/v1/tenants/{tenant}/endpoints",
            post(endpoints::create).get(endpoints::list),
        )
        .route(
            "/v1/endpoints/{endpoint}",
            get(endpoints::read)
                .patch(endpoints::update)
                .delete(endpoints::delete),
        )
        .route("/v1/endpoints/{endpoint}/test", post(endpoints::test))
        .route("/v1/endpoints/{endpoint}/secret", get(endpoints::secret))
        .route(
            "/v1/endpoints/{endpoint}/rotate-secret",
            post(endpoints::rotate_secret),
        )
        .route("/v1/endpoints/{endpoint}/stats", get(endpoints::stats))
        .route(
            "/v1/tenants/{tenant}/events",
            post(events::publish).get(events::list),
        )
        .route(
            "/v1/tenants/{tenant}/events/batch",
            post(events::publish_batch),
        )
        .route("/v1/tenants/{tenant}/explain", post(explain::explain))
        .route("/v1/events/{event}", get(events::read))
        .route("/v1/deliveries", get(deliveries::list))
        .route("/v1/deliveries/{delivery}", get(deliveries::read))
        .route("/v1/deliveries/{delivery}/resend", post(deliveries::resend))
        .route("/v1/tenants/{tenant}/replays", post(replays::create))
        .route("/v1/replays/{replay}", get(replays::read))
        .route("/v1/keys", post(keys::create).get(keys::list))
        .route("/v1/keys/{key}", delete(keys::delete))
}

#[derive(Serialize)]
struct Health {
    status: &'static str,
    version: &'static str,
}

/// The process runs.
async fn health() -> Response {
    json(
        StatusCode::OK,
        &Health {
            status: "ok",
            version: env!("CARGO_PKG_VERSION"),
        },
    )
}

/// The store can be written, so events can be accepted.
async fn ready(State(api): State<Api>) -> ApiResult<Response> {
    api.is_ready().await?;
    Ok(json(
        StatusCode::OK,
        &Health {
            status: "ready",
            version: env!("CARGO_PKG_VERSION"),
        },
    ))
}

pub(crate) async fn not_found(State(api): State<Api>, method: Method, uri: Uri) -> Response {
    use axum::response::IntoResponse;
    if let Some(response) = crate::dialects::not_found(&api, &method, uri.path()) {
        return response;
    }
    ApiError::new(
        ErrorCode::RouteUnknown,
        format!("there is no {method} {}", uri.path()),
    )
    .into_response()
}

pub(crate) async fn method_not_allowed(
    State(api): State<Api>,
    method: Method,
    uri: Uri,
) -> Response {
    use axum::response::IntoResponse;
    if let Some(response) = crate::dialects::not_found(&api, &method, uri.path()) {
        return response;
    }
    ApiError::new(
        ErrorCode::MethodNotAllowed,
        format!("{} does not take {method}", uri.path()),
    )
    .into_response()
}
