//! Voucherify's management of project webhooks (`docs/systems.md`, F-37 to F-40).
//!
//! A project is a tenant; a management key is an application's key (or a tenant's, for its own
//! project): its public id and its text are `X-Management-Id` and `X-Management-Token`. It manages the
//! webhooks of its own mode.

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{HeaderValue, Method, StatusCode, header};
use postrider_core::endpoint::Endpoint;
use postrider_core::filter::Subscription;
use postrider_core::limits::SUBSCRIPTION_PATTERNS_MAX;
use postrider_core::profile::{ApiSpec, Profile};
use postrider_core::seal::hex;
use postrider_core::tenant::Scope;
use postrider_core::{Id, Timestamp, id};
use postrider_service::{
    self as service, Caller, CurrentProfile, EndpointPatch, ErrorCode, NewEndpoint, random,
};
use serde::Serialize;
use serde::ser::SerializeMap as _;
use serde_json::{Map, Value};

use crate::Api;
use crate::auth::{came_from, let_in};
use crate::problem::{RETRY_AFTER_SECS, status};
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
        if !self.key.is_empty() {
            map.serialize_entry("key", self.key)?;
        }
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

fn cannot_find(spec: &ApiSpec, what: &str, id: &str) -> String {
    spec.text("cannot_find")
        .replace("{type}", what)
        .replace("{id}", id)
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

    fn not_found(spec: &ApiSpec, id: &str) -> Self {
        Self {
            details: Some(cannot_find(spec, "webhook", id)),
            request_id: Some(request_id()),
            resource_id: Some(id.to_owned()),
            resource_type: Some("webhook"),
            ..Self::new(StatusCode::NOT_FOUND, "not_found", spec.text("not_found"))
        }
    }

    /// Which has less to say.
    fn no_project(spec: &ApiSpec, id: &str) -> Self {
        Self {
            details: Some(cannot_find(spec, "project", id)),
            ..Self::new(StatusCode::NOT_FOUND, "", spec.text("not_found"))
        }
    }

    pub(super) fn route(spec: &ApiSpec) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", spec.text("not_found"))
    }

    fn from_service(spec: &ApiSpec, error: &service::Refusal) -> Self {
        error.log();
        let status = status(error.code);
        match status {
            StatusCode::SERVICE_UNAVAILABLE => {
                Self::new(status, "service_unavailable", spec.text("unavailable"))
            }
            StatusCode::INTERNAL_SERVER_ERROR => {
                Self::new(status, "internal_error", spec.text("internal_error"))
            }
            StatusCode::TOO_MANY_REQUESTS => Self {
                details: Some(error.detail.clone()),
                ..Self::new(status, "too_many_requests", spec.text("too_many_requests"))
            },
            StatusCode::PAYLOAD_TOO_LARGE | StatusCode::REQUEST_TIMEOUT => Self {
                details: Some(error.detail.clone()),
                ..Self::new(status, "invalid_payload", spec.text("invalid_payload"))
            },
            // Its keys may all do everything; ours may be for reading only.
            StatusCode::FORBIDDEN => Self {
                details: Some(error.detail.clone()),
                ..Self::new(status, "forbidden", spec.text("forbidden"))
            },
            StatusCode::NOT_FOUND => Self::route(spec),
            // What the name leads to is seen by the service alone, which has another word for the field.
            _ if error.code == ErrorCode::EndpointUrlInvalid => {
                Self::invalid(spec, format!("Property .target_url {}", error.detail))
            }
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
    let mut names: Vec<String> = known.cloned().collect();
    // Those that the application declares have no pattern's place in the catalogue, but their own name.
    for own in patterns.iter().filter(|pattern| !pattern.contains('*')) {
        if !names.contains(own) {
            names.push(own.clone());
        }
    }
    names
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
    tenant: Id<id::Tenant>,
    current: CurrentProfile,
    caller: Caller,
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
    let profiles = api.service.profiles();
    let spec = super::specs(profiles)
        .find(|spec| spec.dialect == NAME && super::holds(spec, request.uri().path()));
    let Some(spec) = spec else {
        return StatusCode::NOT_FOUND.into_response();
    };
    // What does not decode is no project's, and is answered as the vendor answers that.
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
    let internal = |error: service::Refusal| Refusal::from_service(spec, &error);
    let unauthorized = || Refusal::unauthorized(spec);
    let claim = api.service.claim(public_id, came_from(&parts)).await;
    let claim = claim.map_err(internal)?;
    // Of the two it is not told which one is wrong.
    let proof = claim.and_then(|claim| claim.by_token(&api.service, token));
    let proof = proof.ok_or_else(unauthorized)?;
    let caller = match let_in(api, proof, &parts) {
        Ok(caller) => caller,
        // Whoever is not let in hears one thing only; one request too many is another matter.
        Err(over) if over.code == ErrorCode::RateLimited => return Err(internal(over)),
        Err(_) => return Err(unauthorized()),
    };
    let unknown = || Refusal::no_project(spec, project);
    let application = match caller.scope() {
        Scope::Root => return Err(unauthorized()),
        Scope::Application(application) | Scope::Tenant(application, _) => application,
    };
    let current = api.service.profile_of(application).await;
    let current = current.map_err(internal)?;
    let own = current.profile.api.as_ref();
    // The key opens an API below another base.
    if own.is_none_or(|own| own.base != spec.base) {
        return Err(unknown());
    }
    let format = current.profile.ids.tenant.as_ref().ok_or_else(unknown)?;
    let id: Id<id::Tenant> = api.service.find_id(format, project).ok_or_else(unknown)?;
    let tenant = match api.service.tenant(&caller, id).await {
        Ok((tenant, _)) => tenant.id,
        Err(error) if error.code == ErrorCode::NotFound => return Err(unknown()),
        Err(error) => return Err(internal(error)),
    };
    // Last: nothing of a body is read for somebody who is not let in.
    let body = api.body(caller.holder(), body).await.map_err(internal)?;
    Ok(Project {
        tenant,
        current,
        caller,
        body,
    })
}

/// What a body asks for.
struct Fields {
    target_url: String,
    events: Vec<String>,
    active: bool,
}

/// Reads a body; `target_url` and `events` are always required (an update replaces).
async fn fields(api: &Api, project: &Project, changed: Option<&Endpoint>) -> Answered<Fields> {
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
        // What is well formed may still have a number that does not fit.
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
    for name in ["target_url", "events"] {
        if !body.contains_key(name) {
            return Err(invalid(spec.text("required").replace("{name}", name)));
        }
    }
    let Some(url) = body.get("target_url").and_then(Value::as_str) else {
        return Err(invalid(must("target_url", "string")));
    };
    if body.get("events").is_some_and(|events| !events.is_array()) {
        return Err(invalid(must("events", "array")));
    }
    // In this API's words; the service looks again, and where the name leads.
    api.service
        .check_url(&project.current.profile, url)
        .map_err(|error| invalid(format!("Property .target_url {error}")))?;
    let events = events(api, project, &body, changed)
        .await
        .map_err(|error| Box::new(error.into_response()))?
        .ok_or_else(|| invalid(must("events", "an array of known events")))?;
    let active = match body.get("active") {
        // So for an update too, which replaces.
        None => true,
        Some(Value::Bool(active)) => *active,
        Some(_) => return Err(invalid(must("active", "boolean"))),
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
async fn events(
    api: &Api,
    project: &Project,
    body: &Map<String, Value>,
    changed: Option<&Endpoint>,
) -> Result<Option<Vec<String>>, Refusal> {
    let Some(list) = body.get("events").and_then(Value::as_array) else {
        return Ok(None);
    };
    let names = list.iter().map(|item| item.as_str().map(str::to_owned));
    let Some(names) = names.collect::<Option<Vec<String>>>() else {
        return Ok(None);
    };
    let can_be = (1..=SUBSCRIPTION_PATTERNS_MAX).contains(&names.len());
    if !can_be || names.iter().any(|name| name.contains('*')) {
        return Ok(None);
    }
    let profile = &project.current.profile;
    let has = changed.map(|endpoint| &endpoint.subscription);
    let unknown = api
        .service
        .unknown_type(profile, project.tenant, &names, has);
    let unknown = unknown
        .await
        .map_err(|error| Refusal::from_service(project.spec(), &error))?;
    Ok(unknown.is_none().then_some(names))
}

async fn create(State(api): State<Api>, ids: Ids, request: Request<Body>) -> Response {
    let handle = async |project: &Project, _: &str| {
        let fields = match fields(&api, project, None).await {
            Ok(fields) => fields,
            Err(response) => return Ok(*response),
        };
        let new = NewEndpoint {
            url: fields.target_url,
            events: Some(fields.events),
            active: Some(fields.active),
            ..NewEndpoint::default()
        };
        let made = api
            .service
            .create_endpoint(&project.caller, project.tenant, new);
        let made = made
            .await
            .map_err(|error| Refusal::from_service(project.spec(), &error))?;
        let view = WebhookView::new(made.endpoint, &made.profile);
        Ok(json(StatusCode::OK, &view))
    };
    managed(&api, ids, request, handle).await
}

async fn list(State(api): State<Api>, ids: Ids, request: Request<Body>) -> Response {
    let handle = async |project: &Project, _: &str| {
        let view = |endpoint| WebhookView::new(endpoint, &project.current.profile);
        let data = super::all_registered(&api, &project.caller, project.tenant, view).await;
        let (data, _held) = data.map_err(|error| Refusal::from_service(project.spec(), &error))?;
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
    let profile = &project.current.profile;
    let found = super::registered(api, &project.caller, profile, project.tenant, text).await;
    found.map_err(|error| match error.code {
        ErrorCode::NotFound => Refusal::not_found(project.spec(), text),
        _ => Refusal::from_service(project.spec(), &error),
    })
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
        let fields = match fields(&api, project, Some(&endpoint)).await {
            Ok(fields) => fields,
            Err(response) => return Ok(*response),
        };
        let patch = EndpointPatch {
            url: Some(fields.target_url),
            events: Some(Some(fields.events)),
            active: Some(fields.active),
            ..EndpointPatch::default()
        };
        let id = endpoint.id.to_string();
        let changed = api.service.change_endpoint(&project.caller, &id, patch);
        let (changed, _) = changed
            .await
            .map_err(|error| Refusal::from_service(project.spec(), &error))?;
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
        let id = endpoint.id.to_string();
        let deleted = api.service.delete_endpoint(&project.caller, &id).await;
        deleted.map_err(|error| Refusal::from_service(project.spec(), &error))?;
        Ok(StatusCode::NO_CONTENT.into_response())
    };
    managed(&api, ids, request, handle).await
}

/// The answer to a request below the base that no route takes.
pub(crate) fn route_not_found(spec: &ApiSpec) -> Response {
    Refusal::route(spec).into_response()
}

/// The answer to what is refused before a route is looked for.
pub(crate) fn refused(spec: &ApiSpec, refusal: &service::Refusal) -> Response {
    Refusal::from_service(spec, refusal).into_response()
}

/// The answer to a method that a route does not take.
pub(crate) fn method_not_allowed(spec: &ApiSpec, method: &Method, path: &str) -> Response {
    // The other route ends with an id.
    let allowed = if path.ends_with("/webhooks") {
        "GET or POST"
    } else {
        "GET, PUT or DELETE"
    };
    let details = spec
        .text("method_hint")
        .replace("{method}", method.as_str());
    let refusal = Refusal {
        details: Some(details.replace("{allowed}", allowed)),
        // As it is documented, without a key.
        ..Refusal::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "",
            spec.text("method_not_allowed"),
        )
    };
    refusal.into_response()
}
