//! The native API under `/v1`.

#![expect(
    unused_qualifications,
    reason = "what the macro writes that describes an operation"
)]

mod applications;
mod audit;
mod confirmations;
mod deletions;
mod deliveries;
mod distributions;
mod endpoints;
mod event_types;
mod events;
mod explain;
mod keys;
mod nodes;
mod notifications;
mod portal_links;
mod replays;
mod send_outs;
mod statistics;
mod tenants;
mod users;
mod views;

use std::sync::LazyLock;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{Method, StatusCode, Uri, header};
use postrider_service::{ErrorCode, Refusal};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::Api;
use crate::openapi::{Refusals, completed};
use crate::problem::{Answer, Problem};
use crate::request::json;

pub(crate) use events::traceparent;

/// Every route, and what the document says of it.
pub(crate) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(health))
        .routes(routes!(ready))
        .routes(routes!(crate::metrics::metrics))
        .routes(routes!(egress_ips))
        .routes(routes!(nodes::list))
        .routes(routes!(document))
        .routes(routes!(applications::create, applications::list))
        .routes(routes!(
            applications::read,
            applications::update,
            deletions::delete_application
        ))
        .routes(routes!(event_types::list))
        .routes(routes!(event_types::put, event_types::delete))
        .routes(routes!(tenants::create, tenants::list))
        .routes(routes!(
            tenants::read,
            tenants::update,
            deletions::delete_tenant
        ))
        .routes(routes!(tenants::read_secret))
        .routes(routes!(tenants::rotate_secret))
        .routes(routes!(distributions::create, distributions::list))
        .routes(routes!(
            distributions::read,
            distributions::update,
            distributions::delete
        ))
        .routes(routes!(endpoints::test_distribution))
        .routes(routes!(statistics::read))
        .routes(routes!(send_outs::list))
        .routes(routes!(send_outs::read))
        .routes(routes!(send_outs::retry))
        .routes(routes!(notifications::list))
        .routes(routes!(notifications::mark_read))
        .routes(routes!(confirmations::ask_again))
        .routes(routes!(confirmations::confirm))
        .routes(routes!(confirmations::page, confirmations::confirm_page))
        .routes(routes!(audit::list))
        .routes(routes!(endpoints::create, endpoints::list))
        .routes(routes!(
            endpoints::read,
            endpoints::update,
            endpoints::delete
        ))
        .routes(routes!(endpoints::test))
        .routes(routes!(endpoints::secret))
        .routes(routes!(endpoints::rotate_secret))
        .routes(routes!(endpoints::stats))
        .routes(routes!(events::publish, events::list))
        .routes(routes!(events::publish_batch))
        .routes(routes!(explain::explain))
        .routes(routes!(events::read))
        .routes(routes!(events::delete_content))
        .routes(routes!(deliveries::list))
        .routes(routes!(deliveries::read))
        .routes(routes!(deliveries::attempts))
        .routes(routes!(deliveries::delete_answer))
        .routes(routes!(deliveries::resend))
        .routes(routes!(deliveries::cancel))
        .routes(routes!(replays::create, replays::list))
        .routes(routes!(replays::read))
        .routes(routes!(replays::cancel))
        .routes(routes!(deletions::read))
        .merge(who_comes_in())
        .routes(routes!(keys::create, keys::list))
        .routes(routes!(keys::read, keys::update, keys::delete))
        .routes(routes!(keys::rotate))
        .routes(routes!(keys::rotate_secret))
}

/// People at the pages: links that let them in, and users.
fn who_comes_in() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(portal_links::create, portal_links::list))
        .routes(routes!(portal_links::end))
        .routes(routes!(portal_links::console))
        .routes(routes!(users::create, users::list))
        .routes(routes!(users::read, users::update, users::delete))
        .routes(routes!(users::link))
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Health {
    status: &'static str,
    version: &'static str,
    /// Deliveries that wait for the next start because this process cannot bring them on: the log says of each
    /// why, and `postrider doctor` what cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    set_aside: Option<u64>,
    /// Rows and tables that the last round through the store could not read.
    #[serde(skip_serializing_if = "Option::is_none")]
    damaged: Option<u64>,
}

/// The process runs.
#[utoipa::path(
    get, path = "/health", tag = "Server", operation_id = "getHealth", security(()),
    responses((status = OK, description = "It does.", body = Health)),
)]
async fn health() -> Response {
    // Nothing is asked: a process whose store is away runs all the same.
    json(
        StatusCode::OK,
        &Health {
            status: "ok",
            version: env!("CARGO_PKG_VERSION"),
            set_aside: None,
            damaged: None,
        },
    )
}

/// The store can be written, so events can be accepted.
#[utoipa::path(
    get, path = "/ready", tag = "Server", operation_id = "getReadiness", security(()),
    responses((status = OK, description = "It can.", body = Health), Refusals),
)]
async fn ready(State(api): State<Api>) -> Answer {
    let ready = api.service.readiness().await?;
    Ok(json(
        StatusCode::OK,
        &Health {
            status: "ready",
            version: env!("CARGO_PKG_VERSION"),
            set_aside: Some(ready.set_aside),
            damaged: Some(ready.damaged),
        },
    ))
}

/// This document.
#[utoipa::path(
    get, path = "/v1/openapi.json", tag = "Server", operation_id = "getOpenApi", security(()),
    responses((status = OK, description = "OpenAPI 3.1.", body = Object)),
)]
async fn document() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], &**DOCUMENT).into_response()
}

/// Made when it is first asked for.
pub(crate) static DOCUMENT: LazyLock<String> = LazyLock::new(|| {
    let (_, document) = routes().split_for_parts();
    let json = completed(document).to_pretty_json();
    json.expect("what describes the API is JSON")
});

#[derive(Serialize, ToSchema)]
struct EgressView<'a> {
    region: &'a str,
    /// What tenants without a region of their own get.
    default: bool,
    #[schema(value_type = Vec<String>)]
    addresses: &'a [std::net::IpAddr],
}

#[derive(Serialize, ToSchema)]
struct EgressList<'a> {
    data: Vec<EgressView<'a>>,
}

/// The addresses to allow-list (`docs/systems.md`, F-22). Open to all: firewalls have no keys.
#[utoipa::path(
    get, path = "/v1/egress-ips", tag = "Server", operation_id = "listEgressAddresses", security(()),
    responses((status = OK, description = "By region.", body = EgressList<'_>)),
)]
async fn egress_ips(State(api): State<Api>) -> Response {
    let (regions, default) = api.service.regions();
    let regions = regions.iter().map(|region| EgressView {
        region: &region.name,
        default: default == Some(region.name.as_str()),
        addresses: &region.published,
    });
    let data = regions.collect();
    json(StatusCode::OK, &EgressList { data })
}

pub(crate) async fn not_found(State(api): State<Api>, method: Method, uri: Uri) -> Response {
    // Below a dialect's base its vendor's clients ask, and read its vendor's shapes only.
    if let Some(response) = crate::dialects::not_found(&api, &method, uri.path()) {
        return response;
    }
    Problem(Refusal::new(
        ErrorCode::RouteUnknown,
        format!("there is no {method} {}", uri.path()),
    ))
    .into_response()
}

pub(crate) async fn method_not_allowed(
    State(api): State<Api>,
    method: Method,
    uri: Uri,
) -> Response {
    if let Some(response) = crate::dialects::method_not_allowed(&api, &method, uri.path()) {
        return response;
    }
    Problem(Refusal::new(
        ErrorCode::MethodNotAllowed,
        format!("{} does not take {method}", uri.path()),
    ))
    .into_response()
}
