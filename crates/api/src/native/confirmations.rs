//! Mail addresses that agree to get notifications: with the code of a mail, or a button behind its link.

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode, header};
use postrider_core::{Id, id};
use postrider_service::Caller;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Api;
use crate::openapi::{OfCode, OfTenant, Refusals};
use crate::problem::{Answer, Problem, status};
use crate::request::{Path, json, must_be_json, ok, read_id, typed, well_formed};

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct AskBody {
    email: String,
}

/// Sends the mail again.
#[utoipa::path(
    post, path = "/v1/tenants/{tenant}/notifications/confirmations", tag = "Notifications", operation_id = "askMailAddress",
    params(OfTenant),
    request_body = AskBody,
    responses((status = ACCEPTED, description = "Begun, or on its way.", body = AskedView), Refusals),
)]
pub(crate) async fn ask_again(
    State(api): State<Api>,
    caller: Caller,
    Path(tenant): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let tenant = read_id(&tenant)?;
    let AskBody { email } = api.read(&caller, &headers, body).await?;
    api.service.ask_again(&caller, tenant, &email).await?;
    Ok(json(StatusCode::ACCEPTED, &AskedView { email }))
}

#[derive(Serialize, ToSchema)]
struct AskedView {
    email: String,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ConfirmBody {
    code: String,
}

#[derive(Serialize, ToSchema)]
struct ConfirmedView {
    tenant: Id<id::Tenant>,
    email: String,
}

/// On whose account bodies go that need no key.
const NOBODY: u128 = 0;
/// Bytes of the body of a confirmation: it needs no key.
const CONFIRM_BYTES_MAX: usize = 4_096;

/// Takes a code back. It needs no key: who has the code reads the address.
#[utoipa::path(
    post, path = "/v1/mail-confirmations", tag = "Notifications", operation_id = "confirmMailAddress",
    request_body = ConfirmBody,
    security(()),
    responses((status = OK, description = "Done.", body = ConfirmedView), Refusals),
)]
pub(crate) async fn confirm(State(api): State<Api>, headers: HeaderMap, body: Body) -> Answer {
    must_be_json(&headers)?;
    let bytes = api.body_of(NOBODY, body, CONFIRM_BYTES_MAX).await?;
    well_formed(&bytes)?;
    let body: ConfirmBody = typed(&bytes)?;
    let (tenant, email) = api.service.confirm(&body.code).await?;
    Ok(ok(&ConfirmedView { tenant, email }))
}

/// The page behind the link of the mail. Programs that look at links on the way only read it: a button confirms.
#[utoipa::path(
    get, path = "/confirm/{code}", tag = "Notifications", operation_id = "mailConfirmationPage",
    params(OfCode),
    security(()),
    responses((status = OK, description = "A page.", content_type = "text/html", body = String), (status = BAD_REQUEST, description = "The link has ended.", content_type = "text/html", body = String)),
)]
pub(crate) async fn page(Path(_code): Path<String>) -> Response {
    html(
        StatusCode::OK,
        "<h1>Confirm this mail address</h1>\
         <p>Messages about failed webhook deliveries will be sent to the address that got this link.</p>\
         <form method=post><button>Confirm</button></form>",
    )
}

/// The button of that page.
#[utoipa::path(
    post, path = "/confirm/{code}", tag = "Notifications", operation_id = "confirmMailAddressPage",
    params(OfCode),
    security(()),
    responses((status = OK, description = "A page.", content_type = "text/html", body = String), (status = BAD_REQUEST, description = "The link has ended.", content_type = "text/html", body = String)),
)]
pub(crate) async fn confirm_page(State(api): State<Api>, Path(code): Path<String>) -> Response {
    match api.service.confirm(&code).await {
        Ok(_) => html(
            StatusCode::OK,
            "<h1>Confirmed</h1><p>This page can be closed.</p>",
        ),
        Err(refusal) if status(refusal.code).is_client_error() => html(
            status(refusal.code),
            "<h1>This link is no longer valid</h1><p>Ask whoever named the address for a new one.</p>",
        ),
        Err(refusal) => Problem(refusal).into_response(),
    }
}

fn html(status: StatusCode, body: &str) -> Response {
    let page = format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
         <title>Postrider</title><body>{body}"
    );
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; form-action 'self'; frame-ancestors 'none'",
        ),
        // The link is the secret.
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (status, headers, page).into_response()
}
