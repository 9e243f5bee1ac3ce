//! Voucherify's management of project webhooks (`docs/systems.md`, F-37 to F-40).
//!
//! A project is a tenant; a management key is an application's key (or a tenant's, for its own
//! project): its public id and its text are `X-Management-Id` and `X-Management-Token`. It manages the
//! webhooks of its own mode.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{HeaderValue, StatusCode, header};
use postrider_core::endpoint::{Endpoint, EndpointKind};
use postrider_core::filter::Subscription;
use postrider_core::limits::SUBSCRIPTION_PATTERNS_MAX;
use postrider_core::profile::{ApiSpec, Profile};
use postrider_core::seal::{hex, sha256};
use postrider_core::secret::constant_time_eq;
use postrider_core::tenant::{ApiKey, Scope, Tenant};
use postrider_core::{Id, Timestamp, id};
use postrider_engine::CurrentProfile;
use serde::Serialize;
use serde::ser::SerializeMap as _;
use serde_json::{Map, Value};

use crate::Api;
use crate::auth::{actor, admit};
use crate::native::endpoints::{fresh_endpoint, must_lead_out, set_active, valid_url};
use crate::problem::{ApiError, ErrorCode, RETRY_AFTER_SECS};
use crate::random;
use crate::request::{HeldBody, json, well_formed};

pub(crate) const NAME: &str = "voucherify";
/// Bytes of randomness in a request id: 18 hex digits.
const REQUEST_ID_BYTES: usize = 9;

pub(crate) fn routes(profile: &Profile) -> Router<Api> {
    let base = profile.api.as_ref().map_or("", |api| api.base.as_str());
    Router::new()
        .route(
            &format!("{base}/{{project}}/webhooks"),
            get(list).post(create),
        )
        .route(
            &format!("{base}/{{project}}/webhooks/{{id}}"),
            get(read).put(update).delete(delete),
        )
}

/// An error as Voucherify writes it; the keys that a case does not have are left out.
#[derive(Debug)]
pub(super) struct Refusal {
    code: u16,
    key: &'static str,
    message: String,
    details: Option<String>,
    request_id: Option<String>,
    resource_id: Option<String>,
    resource_type: Option<&'static str>,
}

impl Serialize for Refusal {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("code", &self.code)?;
        // In the documented order, which for this one is another.
        if self.code == StatusCode::UNAUTHORIZED {
            map.serialize_entry("message", &self.message)?;
            map.serialize_entry("key", self.key)?;
            return map.end();
        }
        map.serialize_entry("key", self.key)?;
        map.serialize_entry("message", &self.message)?;
        for (name, text) in [
            ("details", self.details.as_deref()),
            ("request_id", self.request_id.as_deref()),
            ("resource_id", self.resource_id.as_deref()),
            ("resource_type", self.resource_type),
        ] {
            if let Some(text) = text {
                map.serialize_entry(name, text)?;
            }
        }
        map.end()
    }
}

type Answer = Result<Response, Refusal>;

impl Refusal {
    fn new(status: StatusCode, key: &'static str, message: impl Into<String>) -> Self {
        Self {
            code: status.as_u16(),
            key,
            message: message.into(),
            details: None,
            request_id: None,
            resource_id: None,
            resource_type: None,
        }
    }

    fn unauthorized(spec: &ApiSpec) -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "unauthorized",
            spec.text("unauthorized"),
        )
    }

    fn invalid(spec: &ApiSpec, details: impl Into<String>) -> Self {
        Self {
            details: Some(details.into()),
            request_id: Some(request_id()),
            ..Self::new(
                StatusCode::BAD_REQUEST,
                "invalid_payload",
                spec.text("invalid_payload"),
            )
        }
    }

    fn not_found(spec: &ApiSpec, resource_type: &'static str, id: &str) -> Self {
        let details = spec
            .text("cannot_find")
            .replace("{type}", resource_type)
            .replace("{id}", id);
        Self {
            details: Some(details),
            request_id: Some(request_id()),
            resource_id: Some(id.to_owned()),
            resource_type: Some(resource_type),
            ..Self::new(StatusCode::NOT_FOUND, "not_found", spec.text("not_found"))
        }
    }

    pub(super) fn route(spec: &ApiSpec) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", spec.text("not_found"))
    }

    fn from_api(spec: &ApiSpec, error: &ApiError) -> Self {
        error.log();
        let status = error.code.status();
        match status {
            StatusCode::SERVICE_UNAVAILABLE => {
                Self::new(status, "service_unavailable", spec.text("unavailable"))
            }
            StatusCode::INTERNAL_SERVER_ERROR => {
                Self::new(status, "internal_error", spec.text("internal_error"))
            }
            StatusCode::PAYLOAD_TOO_LARGE | StatusCode::REQUEST_TIMEOUT => Self {
                details: Some(error.detail.clone()),
                ..Self::new(status, "invalid_payload", spec.text("invalid_payload"))
            },
            _ => Self::invalid(spec, error.detail.clone()),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = json(status, &self);
        if status == StatusCode::SERVICE_UNAVAILABLE {
            let after = HeaderValue::from(RETRY_AFTER_SECS);
            response.headers_mut().insert(header::RETRY_AFTER, after);
        }
        response
    }
}

fn request_id() -> String {
    format!("v-{}", hex(&random::bytes(REQUEST_ID_BYTES)))
}

/// A webhook as the API shows it, in the documented order. It never holds a secret.
#[derive(Serialize)]
struct WebhookView {
    object: &'static str,
    created_at: Timestamp,
    id: String,
    events: Vec<String>,
    target_url: String,
    active: bool,
}

/// Event names as this API has them: a pattern, which only other ways of managing know, is what it
/// matches (F-38).
fn names(subscription: &Subscription, profile: &Profile) -> Vec<String> {
    let patterns = subscription.patterns();
    if patterns.iter().all(|pattern| !pattern.contains('*')) {
        return patterns.to_vec();
    }
    let known = profile.events.closed.iter().flatten();
    let known = known.filter(|name| subscription.matches(name));
    known.cloned().collect()
}

impl WebhookView {
    fn new(endpoint: Endpoint, profile: &Profile) -> Self {
        Self {
            object: "webhook",
            created_at: endpoint.created_at,
            id: profile.ids.endpoint.render(endpoint.id),
            active: endpoint.health.is_enabled(),
            events: names(&endpoint.subscription, profile),
            target_url: endpoint.url,
        }
    }
}

#[derive(Serialize)]
struct ListView {
    object: &'static str,
    data_ref: &'static str,
    data: Vec<WebhookView>,
    total: usize,
}

/// A project that the caller manages.
struct Project {
    tenant: Arc<Tenant>,
    current: CurrentProfile,
    key: ApiKey,
    body: HeldBody,
}

impl Project {
    fn spec(&self) -> &ApiSpec {
        let spec = self.current.profile.api.as_ref();
        spec.expect("routes exist only for profiles with an [api] section")
    }
}

type Ids = Result<Path<Vec<String>>, PathRejection>;

/// Finds the caller's project, and lets `handle` answer with the id that follows it in the path.
async fn managed(
    api: &Api,
    ids: Ids,
    request: Request,
    handle: impl AsyncFnOnce(&Project, &str) -> Answer,
) -> Response {
    let profiles = api.engine().profiles();
    let spec = super::specs(profiles)
        .find(|spec| spec.dialect == NAME && super::holds(spec, request.uri().path()));
    let Some(spec) = spec else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let ids = ids.map_or_else(|_| Vec::new(), |Path(ids)| ids);
    let (project, id) = (
        ids.first().map_or("", String::as_str),
        ids.get(1).map_or("", String::as_str),
    );
    let answer = match authenticate(api, &spec, project, request).await {
        Ok(project) => handle(&project, id).await,
        Err(refusal) => Err(refusal),
    };
    answer.unwrap_or_else(IntoResponse::into_response)
}

async fn authenticate(
    api: &Api,
    spec: &ApiSpec,
    project: &str,
    request: Request,
) -> Result<Project, Refusal> {
    let (parts, body) = request.into_parts();
    let given = |name: &str| {
        parts
            .headers
            .get(name)
            .and_then(|value| value.to_str().ok())
    };
    let (Some(public_id), Some(token)) = (given("x-management-id"), given("x-management-token"))
    else {
        return Err(Refusal::unauthorized(spec));
    };
    let key = match api.store().key_by_public_id(public_id).await {
        Ok(key) => key,
        Err(error) if error.is_not_found() => return Err(Refusal::unauthorized(spec)),
        Err(error) => return Err(Refusal::from_api(spec, &error.into())),
    };
    if !constant_time_eq(&sha256(token.as_bytes()), &key.secret_hash) {
        return Err(Refusal::unauthorized(spec));
    }
    if admit(api, &key, &parts).is_err() {
        return Err(Refusal::unauthorized(spec));
    }
    let unknown = || Refusal::not_found(spec, "project", project);
    let (application, own) = match key.scope {
        Scope::Root => return Err(Refusal::unauthorized(spec)),
        Scope::Application(application) => (application, None),
        Scope::Tenant(application, tenant) => (application, Some(tenant)),
    };
    let internal = |error: ApiError| Refusal::from_api(spec, &error);
    let current = api
        .0
        .directory
        .profile(application)
        .await
        .map_err(internal)?;
    if current
        .profile
        .api
        .as_ref()
        .is_none_or(|api| api.base != spec.base)
    {
        return Err(unknown());
    }
    let format = current.profile.ids.tenant.as_ref().ok_or_else(unknown)?;
    let id: Id<id::Tenant> = format
        .find(project, api.store().ids())
        .ok_or_else(unknown)?;
    let tenant = match api.store().tenant(id).await {
        Ok(tenant) if tenant.application == application && own.is_none_or(|own| own == id) => {
            tenant
        }
        Ok(_) => return Err(unknown()),
        Err(error) if error.is_not_found() => return Err(unknown()),
        Err(error) => return Err(Refusal::from_api(spec, &error.into())),
    };
    let body = api.body(key.id.as_u128(), body).await.map_err(internal)?;
    Ok(Project {
        tenant: Arc::new(tenant),
        current,
        key,
        body,
    })
}

/// What a body asks for.
struct Fields {
    target_url: String,
    events: Subscription,
    active: Option<bool>,
}

/// Reads a body; `target_url` and `events` are always required (an update replaces).
fn fields(api: &Api, project: &Project) -> Answered<Fields> {
    let spec = project.spec();
    let invalid = |details: String| Box::new(Refusal::invalid(spec, details).into_response());
    match well_formed(&project.body) {
        Ok(()) => {}
        Err(error) if error.code == ErrorCode::BodyNotJson => {
            return Err(Box::new(unparsable(spec)));
        }
        Err(error) => return Err(invalid(error.detail)),
    }
    let body = match serde_json::from_slice::<Value>(&project.body) {
        Ok(Value::Object(body)) => body,
        Ok(_) => return Err(invalid(spec.text("not_object").to_owned())),
        Err(_) => return Err(Box::new(unparsable(spec))),
    };
    let must = |name: &str, what: &str| {
        spec.text("property")
            .replace("{name}", name)
            .replace("{what}", what)
    };
    if let Some(unknown) = body
        .keys()
        .find(|key| !matches!(key.as_str(), "target_url" | "events" | "active"))
    {
        return Err(invalid(
            spec.text("unknown_property").replace("{name}", unknown),
        ));
    }
    let Some(url) = body.get("target_url").and_then(Value::as_str) else {
        return Err(invalid(must("target_url", "a string")));
    };
    valid_url(api, &project.current.profile, url)
        .map_err(|error| invalid(format!("Property .target_url {error}")))?;
    let events = events(&body, &project.current.profile)
        .ok_or_else(|| invalid(must("events", "an array of known events")))?;
    let active = match body.get("active") {
        None => None,
        Some(Value::Bool(active)) => Some(*active),
        Some(_) => return Err(invalid(must("active", "a boolean"))),
    };
    Ok(Fields {
        target_url: url.to_owned(),
        events,
        active,
    })
}

/// Bodies that are not even JSON are refused in another shape.
type Answered<T> = Result<T, Box<Response>>;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Unparsable<'s> {
    status_code: u16,
    error: &'static str,
    message: &'s str,
}

fn unparsable(spec: &ApiSpec) -> Response {
    let message = spec.text("not_json");
    json(
        StatusCode::BAD_REQUEST,
        &Unparsable {
            status_code: 400,
            error: "Bad Request",
            message,
        },
    )
}

/// Known event names, and at least one; this API has no wildcard (F-38).
fn events(body: &Map<String, Value>, profile: &Profile) -> Option<Subscription> {
    let list = body.get("events")?.as_array()?;
    let names: Vec<String> = list
        .iter()
        .map(|item| item.as_str().map(str::to_owned))
        .collect::<Option<_>>()?;
    let known = names
        .iter()
        .all(|name| !name.contains('*') && profile.events.allows_type(name));
    (known && names.len() <= SUBSCRIPTION_PATTERNS_MAX).then(|| Subscription::new(names).ok())?
}

async fn create(State(api): State<Api>, ids: Ids, request: Request<Body>) -> Response {
    let handle = async |project: &Project, _: &str| {
        let fields = match fields(&api, project) {
            Ok(fields) => fields,
            Err(response) => return Ok(*response),
        };
        must_lead_out(&api, "target_url", &fields.target_url)
            .await
            .map_err(|error| Refusal::from_api(project.spec(), &error))?;
        let profile = &project.current.profile;
        let internal = |error: ApiError| Refusal::from_api(project.spec(), &error);
        let made = fresh_endpoint(
            &api,
            profile,
            &project.tenant,
            project.key.mode,
            fields.target_url,
            fields.events,
        );
        let (mut endpoint, _) = made.map_err(internal)?;
        set_active(&mut endpoint, fields.active, api.now());
        let stored = api
            .store()
            .create_endpoint(
                endpoint.clone(),
                Some(profile.endpoints_max()),
                actor(&project.key, &api),
            )
            .await;
        stored.map_err(|error| internal(error.into()))?;
        Ok(json(StatusCode::OK, &WebhookView::new(endpoint, profile)))
    };
    managed(&api, ids, request, handle).await
}

async fn list(State(api): State<Api>, ids: Ids, request: Request<Body>) -> Response {
    let handle = async |project: &Project, _: &str| {
        let found = super::all_registered(&api, project.tenant.id, project.key.mode).await;
        let found = found.map_err(|error| Refusal::from_api(project.spec(), &error.into()))?;
        let views = found.into_iter();
        let views = views.map(|endpoint| WebhookView::new(endpoint, &project.current.profile));
        let data: Vec<WebhookView> = views.collect();
        let total = data.len();
        Ok(json(
            StatusCode::OK,
            &ListView {
                object: "list",
                data_ref: "data",
                data,
                total,
            },
        ))
    };
    managed(&api, ids, request, handle).await
}

async fn found(api: &Api, project: &Project, text: &str) -> Result<Endpoint, Refusal> {
    let unknown = || Refusal::not_found(project.spec(), "webhook", text);
    let id = project
        .current
        .profile
        .ids
        .endpoint
        .read(text)
        .ok_or_else(unknown)?;
    match api.store().endpoint(id).await {
        Ok(endpoint)
            if endpoint.tenant == project.tenant.id
                && endpoint.mode == project.key.mode
                && endpoint.kind == EndpointKind::Registered =>
        {
            Ok(endpoint)
        }
        Ok(_) => Err(unknown()),
        Err(error) if error.is_not_found() => Err(unknown()),
        Err(error) => Err(Refusal::from_api(project.spec(), &error.into())),
    }
}

async fn read(State(api): State<Api>, ids: Ids, request: Request<Body>) -> Response {
    let handle = async |project: &Project, id: &str| {
        let endpoint = found(&api, project, id).await?;
        Ok(json(
            StatusCode::OK,
            &WebhookView::new(endpoint, &project.current.profile),
        ))
    };
    managed(&api, ids, request, handle).await
}

async fn update(State(api): State<Api>, ids: Ids, request: Request<Body>) -> Response {
    let handle = async |project: &Project, id: &str| {
        let endpoint = found(&api, project, id).await?;
        let fields = match fields(&api, project) {
            Ok(fields) => fields,
            Err(response) => return Ok(*response),
        };
        must_lead_out(&api, "target_url", &fields.target_url)
            .await
            .map_err(|error| Refusal::from_api(project.spec(), &error))?;
        let now = api.now();
        let change = move |endpoint: &mut Endpoint| {
            endpoint.url = fields.target_url;
            endpoint.subscription = fields.events;
            set_active(endpoint, fields.active, now);
            endpoint.updated_at = now;
        };
        let by = actor(&project.key, &api);
        let changed = api.change_endpoint(endpoint.id, Box::new(change), by).await;
        let changed = changed.map_err(|error| Refusal::from_api(project.spec(), &error))?;
        Ok(json(
            StatusCode::OK,
            &WebhookView::new(changed, &project.current.profile),
        ))
    };
    managed(&api, ids, request, handle).await
}

async fn delete(State(api): State<Api>, ids: Ids, request: Request<Body>) -> Response {
    let handle = async |project: &Project, id: &str| {
        let endpoint = found(&api, project, id).await?;
        let by = actor(&project.key, &api);
        let deleted = api.delete_endpoint(endpoint.id, by).await;
        deleted.map_err(|error| Refusal::from_api(project.spec(), &error))?;
        Ok(StatusCode::NO_CONTENT.into_response())
    };
    managed(&api, ids, request, handle).await
}

/// The answer to a request below the base that no route takes.
pub(crate) fn route_not_found(spec: &ApiSpec) -> Response {
    Refusal::route(spec).into_response()
}
