//! The native API under `/v1`.

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
mod notifications;
mod replays;
mod send_outs;
mod statistics;
mod tenants;
mod views;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use http::{Method, StatusCode, Uri};
use postrider_service::{ErrorCode, Refusal};
use serde::Serialize;

use crate::Api;
use crate::problem::{Answer, Problem};
use crate::request::json;

pub(crate) use events::traceparent;

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
            get(applications::read)
                .patch(applications::update)
                .delete(deletions::delete_application),
        )
        .route(
            "/v1/applications/{application}/event-types",
            get(event_types::list),
        )
        .route(
            "/v1/applications/{application}/event-types/{name}",
            put(event_types::put).delete(event_types::delete),
        )
        .route(
            "/v1/applications/{application}/tenants",
            post(tenants::create).get(tenants::list),
        )
        .route(
            "/v1/tenants/{tenant}",
            get(tenants::read)
                .patch(tenants::update)
                .delete(deletions::delete_tenant),
        )
        .route("/v1/tenants/{tenant}/secret", get(tenants::read_secret))
        .route(
            "/v1/tenants/{tenant}/rotate-secret",
            post(tenants::rotate_secret),
        )
        .route(
            "/v1/tenants/{tenant}/distributions",
            post(distributions::create).get(distributions::list),
        )
        .route(
            "/v1/distributions/{distribution}",
            get(distributions::read)
                .patch(distributions::update)
                .delete(distributions::delete),
        )
        .route(
            "/v1/distributions/{distribution}/test",
            post(endpoints::test),
        )
        .route("/v1/tenants/{tenant}/statistics", get(statistics::read))
        .route("/v1/tenants/{tenant}/send-outs", get(send_outs::list))
        .route("/v1/send-outs/{delivery}", get(send_outs::read))
        .route("/v1/send-outs/{delivery}/retry", post(send_outs::retry))
        .route(
            "/v1/tenants/{tenant}/notifications",
            get(notifications::list),
        )
        .route(
            "/v1/tenants/{tenant}/notifications/read",
            post(notifications::mark_read),
        )
        .route(
            "/v1/tenants/{tenant}/notifications/confirmations",
            post(confirmations::ask_again),
        )
        .route("/v1/mail-confirmations", post(confirmations::confirm))
        .route(
            "/confirm/{code}",
            get(confirmations::page).post(confirmations::confirm_page),
        )
        .route("/v1/audit", get(audit::list))
        .route("/v1/egress-ips", get(egress_ips))
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
        .route(
            "/v1/deliveries/{delivery}/attempts",
            get(deliveries::attempts),
        )
        .route("/v1/deliveries/{delivery}/resend", post(deliveries::resend))
        .route("/v1/deliveries/{delivery}/cancel", post(deliveries::cancel))
        .route(
            "/v1/tenants/{tenant}/replays",
            post(replays::create).get(replays::list),
        )
        .route("/v1/deletions/{deletion}", get(deletions::read))
        .route("/v1/replays/{replay}", get(replays::read))
        .route("/v1/replays/{replay}/cancel", post(replays::cancel))
        .route("/v1/keys", post(keys::create).get(keys::list))
        .route(
            "/v1/keys/{key}",
            get(keys::read).patch(keys::update).delete(keys::delete),
        )
        .route("/v1/keys/{key}/rotate-secret", post(keys::rotate_secret))
}

#[derive(Serialize)]
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
async fn health() -> Response {
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

#[derive(Serialize)]
struct EgressView<'a> {
    region: &'a str,
    /// What tenants without a region of their own get.
    default: bool,
    addresses: &'a [std::net::IpAddr],
}

#[derive(Serialize)]
struct EgressList<'a> {
    data: Vec<EgressView<'a>>,
}

/// The addresses to allow-list (`docs/systems.md`, F-22). Open to all: firewalls have no keys.
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
    if let Some(response) = crate::dialects::not_found(&api, &method, uri.path()) {
        return response;
    }
    Problem(Refusal::new(
        ErrorCode::MethodNotAllowed,
        format!("{} does not take {method}", uri.path()),
    ))
    .into_response()
}
