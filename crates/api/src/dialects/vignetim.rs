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
use postrider_core::endpoint::{Endpoint, EndpointKind};
use postrider_core::filter::Subscription;
use postrider_core::profile::{ApiSpec, Profile};
use serde::Serialize;

use crate::Api;
use crate::auth::actor;
use crate::native::endpoints::{TestEvent, fresh_endpoint, must_lead_out, send_test, set_active};

use body::{fields, subscription};
use refusal::{Refusal, json, uncounted, with_standing};
use signed::{Partner, signed};

pub(crate) const NAME: &str = "vignetim";

pub(crate) fn routes(profile: &Profile) -> Router<Api> {
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
    webhooks(base)
        .merge(webhooks(""))
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
        uncounted(spec, now),
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
        let fields = fields(&api, partner, true)?;
        if let Some(url) = &fields.url
            && must_lead_out(&api, "url", url).await.is_err()
        {
            return Err(Refusal::new(
                StatusCode::BAD_REQUEST,
                spec.text("url_private"),
            ));
        }
        let subscription = subscription(spec, fields.events.unwrap_or_default())?;
        let profile = &partner.current.profile;
        let made = fresh_endpoint(
            &api,
            profile,
            &partner.tenant,
            partner.mode,
            fields.url.unwrap_or_default(),
            subscription,
        );
        let (endpoint, secret) = made.map_err(|error| Refusal::from_api(spec, &error))?;
        let endpoint = Endpoint {
            description: fields.description.flatten(),
            ..endpoint
        };
        let stored = api
            .store()
            .create_endpoint(
                endpoint.clone(),
                Some(profile.endpoints_max()),
                actor(&partner.key, &api),
            )
            .await;
        stored.map_err(|error| Refusal::from_store(spec, error))?;
        let view = CreatedView {
            id: profile.ids.endpoint.render(endpoint.id),
            url: &endpoint.url,
            events: &endpoint.subscription,
            description: endpoint.description.as_deref(),
            active: true,
            signing_secret: secret.expose(),
            created_at: endpoint.created_at,
        };
        Ok(json(StatusCode::CREATED, &view))
    };
    signed(&api, request, handle).await
}

async fn list(State(api): State<Api>, request: Request<Body>) -> Response {
    let handle = async |partner: &Partner| {
        let found = super::all_registered(&api, partner.tenant.id, partner.mode).await;
        let found = found.map_err(|error| Refusal::from_store(partner.spec(), error))?;
        let views = found.into_iter();
        let views = views.map(|endpoint| WebhookView::new(endpoint, &partner.current.profile));
        let data = views.collect();
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
    let spec = partner.spec();
    let not_found = || Refusal::new(StatusCode::NOT_FOUND, spec.text("not_found"));
    let id = partner
        .current
        .profile
        .ids
        .endpoint
        .read(id)
        .ok_or_else(not_found)?;
    let endpoint = api
        .store()
        .endpoint(id)
        .await
        .map_err(|error| Refusal::from_store(spec, error))?;
    let own = endpoint.tenant == partner.tenant.id
        && endpoint.mode == partner.mode
        && endpoint.kind == EndpointKind::Registered;
    if own { Ok(endpoint) } else { Err(not_found()) }
}

async fn update(State(api): State<Api>, id: PathId, request: Request<Body>) -> Response {
    let id = path_text(id);
    let handle = async |partner: &Partner| {
        let spec = partner.spec();
        let endpoint = found(&api, partner, &id).await?;
        let fields = fields(&api, partner, false)?;
        if let Some(url) = &fields.url
            && must_lead_out(&api, "url", url).await.is_err()
        {
            return Err(Refusal::new(
                StatusCode::BAD_REQUEST,
                spec.text("url_private"),
            ));
        }
        let subscription = fields
            .events
            .map(|patterns| subscription(spec, patterns))
            .transpose()?;
        let now = api.now();
        let change = move |endpoint: &mut Endpoint| {
            endpoint.url = fields.url.unwrap_or(std::mem::take(&mut endpoint.url));
            endpoint.description = fields.description.unwrap_or(endpoint.description.take());
            if let Some(subscription) = subscription {
                endpoint.subscription = subscription;
            }
            set_active(endpoint, fields.active, now);
            endpoint.updated_at = now;
        };
        let changed = api
            .change_endpoint(endpoint.id, Box::new(change), actor(&partner.key, &api))
            .await
            .map_err(|error| Refusal::from_api(spec, &error))?;
        Ok(json(
            StatusCode::OK,
            &WebhookView::new(changed, &partner.current.profile),
        ))
    };
    signed(&api, request, handle).await
}

async fn delete(State(api): State<Api>, id: PathId, request: Request<Body>) -> Response {
    let id = path_text(id);
    let handle = async |partner: &Partner| {
        let endpoint = found(&api, partner, &id).await?;
        api.delete_endpoint(endpoint.id, actor(&partner.key, &api))
            .await
            .map_err(|error| Refusal::from_api(partner.spec(), &error))?;
        Ok(StatusCode::NO_CONTENT.into_response())
    };
    signed(&api, request, handle).await
}

/// Always 200: the result is in the body.
async fn test(State(api): State<Api>, id: PathId, request: Request<Body>) -> Response {
    let id = path_text(id);
    let handle = async |partner: &Partner| {
        let endpoint = found(&api, partner, &id).await?;
        let test = TestEvent::of_profile(&endpoint, &partner.current.profile);
        let by = actor(&partner.key, &api);
        let sent = send_test(&api, &endpoint, &partner.current, test, by).await;
        let (success, attempt) = sent.map_err(|error| Refusal::from_api(partner.spec(), &error))?;
        let profile = &partner.current.profile;
        let status_code = match attempt.outcome {
            Outcome::Answered { status, .. } => Some(status),
            Outcome::Unreachable { .. } => profile.test.no_response_status,
        };
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
