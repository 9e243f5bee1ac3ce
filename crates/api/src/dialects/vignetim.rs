//! Vignetim's webhook management, to the key and the status (`docs/systems.md`, V-36 to V-67).

mod body;
mod refusal;
mod signed;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use http::{Method, StatusCode};
use postrider_core::Timestamp;
use postrider_core::attempt::Outcome;
use postrider_core::endpoint::Endpoint;
use postrider_core::filter::Subscription;
use postrider_core::profile::{ApiSpec, Profile};
use postrider_service::{self as service, EndpointPatch, NewEndpoint, TestAsked};
use serde::Serialize;

use crate::Api;

use body::fields;
use refusal::{Refusal, json, uncounted, with_standing};
use signed::{Partner, signed};

pub(crate) const NAME: &str = "vignetim";

/// Below the base of a profile; and without it, unless another profile has those already: its key tells whose a request is.
pub(crate) fn routes(profile: &Profile, also_without_base: bool) -> Router<Api> {
    let base = profile.api.as_ref().map_or("", |api| api.base.as_str());
    let webhooks = |base: &str| {
        Router::new()
            .route(&format!("{base}/webhooks"), post(create).get(list))
            .route(
                &format!("{base}/webhooks/{{id}}"),
                put(update).delete(delete),
            )
            .route(&format!("{base}/webhooks/{{id}}/test"), post(test))
    };
    // The documentation writes its paths without the base; both are the same API.
    let without = match also_without_base {
        true => webhooks(""),
        false => Router::new(),
    };
    webhooks(base)
        .merge(without)
        // Everything else below the base is answered in the vendor's shape too.
        .route(
            &format!("{base}/{{*rest}}"),
            get(unknown)
                .post(unknown)
                .put(unknown)
                .delete(unknown)
                .patch(unknown),
        )
}

async fn unknown(State(api): State<Api>, request: Request) -> Response {
    super::not_found(&api, request.method(), request.uri().path())
        .unwrap_or_else(|| StatusCode::NOT_FOUND.into_response())
}

pub(crate) fn route_not_found(
    spec: &ApiSpec,
    method: &Method,
    path: &str,
    now: Timestamp,
) -> Response {
    let text = spec
        .text("route_not_found")
        .replace("{method}", method.as_str())
        .replace("{path}", path);
    with_standing(
        Refusal::new(StatusCode::NOT_FOUND, text).into_response(),
        uncounted(spec, spec.rate_live, now),
    )
}

/// The answer to what is refused before anybody looks whose key it is.
pub(crate) fn refused(spec: &ApiSpec, refusal: &service::Refusal, now: Timestamp) -> Response {
    let refused = Refusal::from_service(spec, refusal);
    with_standing(
        refused.into_response(),
        uncounted(spec, spec.rate_live, now),
    )
}

/// The answer to a creation (V-39); keys in the documented order.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CreatedView<'e> {
    id: String,
    url: &'e str,
    events: &'e Subscription,
    description: Option<&'e str>,
    active: bool,
    signing_secret: &'e str,
    created_at: Timestamp,
}

/// A list item, and the answer to a change (V-48, V-51).
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WebhookView {
    id: String,
    url: String,
    events: Subscription,
    description: Option<String>,
    active: bool,
    consecutive_failures: u32,
    created_at: Timestamp,
    updated_at: Timestamp,
}

impl WebhookView {
    fn new(endpoint: Endpoint, profile: &Profile) -> Self {
        Self {
            id: profile.ids.endpoint.render(endpoint.id),
            active: endpoint.health.is_enabled(),
            consecutive_failures: endpoint.health.consecutive_failures,
            url: endpoint.url,
            events: endpoint.subscription,
            description: endpoint.description,
            created_at: endpoint.created_at,
            updated_at: endpoint.updated_at,
        }
    }
}

#[derive(Serialize)]
struct ListView {
    data: Vec<WebhookView>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TestView<'t> {
    success: bool,
    status_code: Option<u16>,
    response_time: u64,
    message: &'t str,
}

async fn create(State(api): State<Api>, request: Request<Body>) -> Response {
    let handle = async |partner: &Partner| {
        let spec = partner.spec();
        let fields = fields(&api, partner, None).await?;
        let new = NewEndpoint {
            url: fields.url.unwrap_or_default(),
            events: fields.events,
            description: fields.description.flatten(),
            ..NewEndpoint::default()
        };
        let made = api
            .service
            .create_endpoint(&partner.caller, partner.tenant, new);
        let made = made
            .await
            .map_err(|error| Refusal::from_service(spec, &error))?;
        let endpoint = &made.endpoint;
        let view = CreatedView {
            id: made.profile.ids.endpoint.render(endpoint.id),
            url: &endpoint.url,
            events: &endpoint.subscription,
            description: endpoint.description.as_deref(),
            // No field of a creation says otherwise (V-41).
            active: true,
            signing_secret: made.secret.expose(),
            created_at: endpoint.created_at,
        };
        Ok(json(StatusCode::CREATED, &view))
    };
    signed(&api, request, handle).await
}

async fn list(State(api): State<Api>, request: Request<Body>) -> Response {
    let handle = async |partner: &Partner| {
        let view = |endpoint| WebhookView::new(endpoint, &partner.current.profile);
        let data = super::all_registered(&api, &partner.caller, partner.tenant, view).await;
        let (data, _held) = data.map_err(|error| Refusal::from_service(partner.spec(), &error))?;
        Ok(json(StatusCode::OK, &ListView { data }))
    };
    signed(&api, request, handle).await
}

/// The id in a path; one that does not even decode is no webhook's.
type PathId = Result<Path<String>, PathRejection>;

fn path_text(id: PathId) -> String {
    id.map_or_else(|_| String::new(), |Path(id)| id)
}

/// The webhook, if it is the partner's, and of the mode of its key.
async fn found(api: &Api, partner: &Partner, id: &str) -> Result<Endpoint, Refusal> {
    let profile = &partner.current.profile;
    let found = super::registered(api, &partner.caller, profile, partner.tenant, id).await;
    found.map_err(|error| Refusal::from_service(partner.spec(), &error))
}

async fn update(State(api): State<Api>, id: PathId, request: Request<Body>) -> Response {
    let id = path_text(id);
    let handle = async |partner: &Partner| {
        let endpoint = found(&api, partner, &id).await?;
        let fields = fields(&api, partner, Some(&endpoint)).await?;
        let patch = EndpointPatch {
            url: fields.url,
            events: fields.events.map(Some),
            description: fields.description,
            active: fields.active,
            ..EndpointPatch::default()
        };
        let id = endpoint.id.to_string();
        let changed = api.service.change_endpoint(&partner.caller, &id, patch);
        let (changed, profile) = changed
            .await
            .map_err(|error| Refusal::from_service(partner.spec(), &error))?;
        Ok(json(StatusCode::OK, &WebhookView::new(changed, &profile)))
    };
    signed(&api, request, handle).await
}

async fn delete(State(api): State<Api>, id: PathId, request: Request<Body>) -> Response {
    let id = path_text(id);
    let handle = async |partner: &Partner| {
        let endpoint = found(&api, partner, &id).await?;
        let id = endpoint.id.to_string();
        let deleted = api.service.delete_endpoint(&partner.caller, &id).await;
        deleted.map_err(|error| Refusal::from_service(partner.spec(), &error))?;
        Ok(StatusCode::NO_CONTENT.into_response())
    };
    signed(&api, request, handle).await
}

/// Always 200: the result is in the body.
async fn test(State(api): State<Api>, id: PathId, request: Request<Body>) -> Response {
    let id = path_text(id);
    let handle = async |partner: &Partner| {
        let endpoint = found(&api, partner, &id).await?;
        let id = endpoint.id.to_string();
        let tested = api
            .service
            .test_endpoint(&partner.caller, &id, TestAsked::default());
        let tested = tested
            .await
            .map_err(|error| Refusal::from_service(partner.spec(), &error))?;
        let (success, attempt, profile) = (tested.success, tested.attempt, tested.profile);
        let status_code = match attempt.outcome {
            Outcome::Answered { status, .. } => Some(status),
            // A number where there was none.
            Outcome::Unreachable { .. } => profile.test.no_response_status,
        };
        // The documented time is the time-out at most.
        let longest = profile.http.total_timeout.as_millis();
        // To the answer, not to the end of its body.
        let micros = attempt
            .timings
            .first_byte_micros
            .unwrap_or(attempt.timings.total_micros);
        let elapsed = u128::from(micros / 1_000).min(longest);
        let message: &str = match (&attempt.outcome, success) {
            (_, true) => &profile.test.ok,
            (Outcome::Answered { .. }, false) => &profile.test.fail,
            // There was no status: what happened instead is what its owner has to know.
            (Outcome::Unreachable { detail, .. }, false) => detail,
        };
        let response_time = u64::try_from(elapsed).unwrap_or(u64::MAX);
        Ok(json(
            StatusCode::OK,
            &TestView {
                success,
                status_code,
                response_time,
                message,
            },
        ))
    };
    signed(&api, request, handle).await
}
