//! Vignetim's webhook management, to the key and the status (`vendors.md` 3.1, V-36 to V-67).

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use postrider_core::Timestamp;
use postrider_core::attempt::Outcome;
use postrider_core::endpoint::{Endpoint, EndpointKind};
use postrider_core::endpoint_url::InvalidUrl;
use postrider_core::filter::Subscription;
use postrider_core::limits::{
    DESCRIPTION_BYTES_MAX, KEY_BYTES_MAX, PAGE_ROWS_MAX, SUBSCRIPTION_PATTERNS_MAX,
};
use postrider_core::profile::{ApiSpec, Profile};
use postrider_core::seal::hex;
use postrider_core::secret::constant_time_eq;
use postrider_core::tenant::{ApiKey, Mode, Scope, Tenant};
use postrider_engine::CurrentProfile;
use postrider_store::{PageRequest, Rule, StoreError};
use serde::Serialize;
use serde_json::{Map, Value};

use super::rate::Standing;
use crate::Api;
use crate::native::endpoints::{fresh_endpoint, send_test, set_active, valid_url};
use crate::native::keys::KEY_SECRET_CONTEXT;
use crate::problem::{ApiError, RETRY_AFTER_SECS};
use crate::request::{read_body, well_formed};

pub(crate) const NAME: &str = "vignetim";

pub(crate) fn routes(profile: &Profile) -> Router<Api> {
    let base = profile.api.as_ref().map_or("", |api| api.base.as_str());
    Router::new()
        .route(&format!("{base}/webhooks"), post(create).get(list))
        .route(
            &format!("{base}/webhooks/{{id}}"),
            put(update).delete(delete),
        )
        .route(&format!("{base}/webhooks/{{id}}/test"), post(test))
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

/// An error as NestJS writes it.
#[derive(Debug)]
struct Refusal {
    status: StatusCode,
    message: Message,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Message {
    One(String),
    /// Validation tells all mistakes.
    Many(Vec<String>),
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RefusalView<'r> {
    status_code: u16,
    message: &'r Message,
    error: &'static str,
}

type Answer = Result<Response, Refusal>;

impl Refusal {
    fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: Message::One(message.into()),
        }
    }

    fn from_api(spec: &ApiSpec, error: &ApiError) -> Self {
        error.log();
        match error.code.status() {
            StatusCode::SERVICE_UNAVAILABLE => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, spec.text("unavailable"))
            }
            StatusCode::INTERNAL_SERVER_ERROR => {
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "Internal server error")
            }
            StatusCode::NOT_FOUND => Self::new(StatusCode::NOT_FOUND, spec.text("not_found")),
            StatusCode::PAYLOAD_TOO_LARGE => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, spec.text("body_too_large"))
            }
            _ => Self::new(StatusCode::BAD_REQUEST, error.detail.clone()),
        }
    }

    fn from_store(spec: &ApiSpec, error: StoreError) -> Self {
        match error {
            StoreError::Conflict {
                rule: Rule::EndpointsMax,
            } => Self::new(StatusCode::BAD_REQUEST, spec.text("endpoints_max")),
            error => Self::from_api(spec, &ApiError::from(error)),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let error = self.status.canonical_reason().unwrap_or("Error");
        let mut response = json(
            self.status,
            &RefusalView {
                status_code: self.status.as_u16(),
                message: &self.message,
                error,
            },
        );
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECS));
        }
        response
    }
}

fn json(status: StatusCode, value: &impl Serialize) -> Response {
    crate::request::json(status, value)
}

fn with_standing(mut response: Response, standing: Standing) -> Response {
    let mut set = |name: &'static str, value: HeaderValue| {
        response
            .headers_mut()
            .insert(HeaderName::from_static(name), value);
    };
    set("x-ratelimit-limit", HeaderValue::from(standing.limit));
    set(
        "x-ratelimit-remaining",
        HeaderValue::from(standing.remaining),
    );
    set(
        "x-ratelimit-reset",
        HeaderValue::from(standing.resets_at.as_unix()),
    );
    response
}

/// Before a key is known, nothing is counted.
fn uncounted(spec: &ApiSpec, now: Timestamp) -> Standing {
    Standing {
        limit: spec.rate_live,
        remaining: spec.rate_live,
        resets_at: now.plus(spec.rate_window),
        exceeded: false,
    }
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

/// A caller whose signature was verified.
struct Partner {
    tenant: std::sync::Arc<Tenant>,
    mode: Mode,
    current: CurrentProfile,
    body: Bytes,
}

impl Partner {
    fn spec(&self) -> &ApiSpec {
        self.current
            .profile
            .api
            .as_ref()
            .expect("routes exist only for profiles with an [api] section")
    }
}

/// Verifies a request, counts it, and lets `handle` answer it.
async fn signed(
    api: &Api,
    request: Request,
    handle: impl AsyncFnOnce(&Partner) -> Answer,
) -> Response {
    let now = api.now();
    let Some(spec) = spec_of(api, request.uri().path()) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let verified = match verify(api, &spec, request, now).await {
        Ok(verified) => verified,
        Err(refusal) => return with_standing(refusal.into_response(), uncounted(&spec, now)),
    };
    let limit = match verified.key.mode {
        Mode::Live => spec.rate_live,
        Mode::Test => spec.rate_test,
    };
    // Before anything is written: a partner over the limit costs the store nothing.
    let standing = api
        .0
        .rates
        .count(verified.key.id, limit, spec.rate_window, now);
    if standing.exceeded {
        let seconds = standing.resets_at.since(now).as_secs_f64().ceil();
        let text = spec
            .text("rate_limited")
            .replace("{seconds}", &seconds.to_string());
        return with_standing(
            Refusal::new(StatusCode::TOO_MANY_REQUESTS, text).into_response(),
            standing,
        );
    }
    let answer = match admit(api, &spec, verified, now).await {
        Ok(partner) => handle(&partner).await,
        Err(refusal) => Err(refusal),
    };
    with_standing(answer.unwrap_or_else(IntoResponse::into_response), standing)
}

/// The API section of the profile that lives at this path. Until the key tells whose profile it is,
/// the first one speaks.
fn spec_of(api: &Api, path: &str) -> Option<ApiSpec> {
    let profiles = api.engine().profiles();
    let mut current = profiles
        .names()
        .into_iter()
        .filter_map(|name| profiles.current(&name));
    current.find_map(|current| {
        let spec = current.profile.api.clone()?;
        path.strip_prefix(spec.base.as_str())?
            .starts_with('/')
            .then_some(spec)
    })
}

/// A request whose signature is right.
struct Verified {
    key: ApiKey,
    nonce: String,
    body: Bytes,
}

async fn verify(
    api: &Api,
    spec: &ApiSpec,
    request: Request,
    now: Timestamp,
) -> Result<Verified, Refusal> {
    let refuse = |name| Refusal::new(StatusCode::UNAUTHORIZED, spec.text(name));
    let (parts, body) = request.into_parts();
    let given = |name| text_header(&parts.headers, name).ok_or_else(|| refuse("unauthorized"));
    let public_id = given("x-api-key")?;
    let timestamp = given("x-timestamp")?;
    let nonce = given("x-nonce")?;
    let signature = given("x-signature")?;
    let sent_at: i64 = timestamp.parse().map_err(|_| refuse("timestamp"))?;
    if now.as_unix().abs_diff(sent_at) > spec.skew.as_secs() {
        return Err(refuse("timestamp"));
    }
    let key = match api.store().key_by_public_id(public_id).await {
        Ok(key) => key,
        Err(error) if error.is_not_found() => return Err(refuse("signature")),
        Err(error) => return Err(Refusal::from_store(spec, error)),
    };
    let options = &api.0.options;
    let body = read_body(body, options.body_max, options.body_timeout)
        .await
        .map_err(|error| Refusal::from_api(spec, &error))?;
    let sealed = key
        .sealed_secret
        .as_deref()
        .ok_or_else(|| refuse("signature"))?;
    let secret = api
        .0
        .sealer
        .open(sealed, KEY_SECRET_CONTEXT)
        .map_err(|error| Refusal::from_api(spec, &ApiError::internal(error)))?;
    let mut message =
        format!("{timestamp}.{nonce}.{}.{}.", parts.method, parts.uri.path()).into_bytes();
    message.extend_from_slice(&body);
    let hmac_key =
        aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, secret.expose().as_bytes());
    let expected = hex(aws_lc_rs::hmac::sign(&hmac_key, &message).as_ref());
    if !constant_time_eq(expected.as_bytes(), signature.as_bytes()) {
        return Err(refuse("signature"));
    }
    Ok(Verified {
        nonce: nonce.to_owned(),
        key,
        body,
    })
}

/// Uses up the nonce and finds whose request it is.
async fn admit(
    api: &Api,
    spec: &ApiSpec,
    verified: Verified,
    now: Timestamp,
) -> Result<Partner, Refusal> {
    let Verified { key, nonce, body } = verified;
    // After the signature, so that a stranger cannot use up a partner's nonces. Kept as long as the
    // timestamp could be accepted again.
    let expires_at = now.plus(spec.skew * 2);
    let fresh = nonce.len() <= KEY_BYTES_MAX
        && api
            .store()
            .use_nonce(key.id, &nonce, expires_at)
            .await
            .map_err(|error| Refusal::from_store(spec, error))?;
    if !fresh {
        return Err(Refusal::new(StatusCode::UNAUTHORIZED, spec.text("nonce")));
    }
    let forbidden = || Refusal::new(StatusCode::FORBIDDEN, spec.text("forbidden"));
    let Scope::Tenant(application, tenant) = key.scope else {
        return Err(forbidden());
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
        .is_none_or(|own| own.base != spec.base)
    {
        return Err(forbidden());
    }
    let tenant = api.0.directory.tenant(tenant).await.map_err(internal)?;
    Ok(Partner {
        tenant,
        mode: key.mode,
        current,
        body,
    })
}

fn text_header<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers
        .get(name)?
        .to_str()
        .ok()
        .map(str::trim)
        .filter(|text| !text.is_empty())
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

/// What a body asks for; what it does not name is none.
#[derive(Default)]
struct Fields {
    url: Option<String>,
    events: Option<Vec<String>>,
    description: Option<Option<String>>,
    active: Option<bool>,
}

/// Reads a body and tells every mistake in it.
fn fields(api: &Api, partner: &Partner, creating: bool) -> Result<Fields, Refusal> {
    let spec = partner.spec();
    if let Err(error) = well_formed(&partner.body) {
        return Err(Refusal::new(StatusCode::BAD_REQUEST, error.detail));
    }
    let Ok(Value::Object(body)) = serde_json::from_slice::<Value>(&partner.body) else {
        return Err(Refusal::new(
            StatusCode::BAD_REQUEST,
            spec.text("body_object"),
        ));
    };
    let mut mistakes = Vec::new();
    let mut fields = Fields::default();
    unknown_properties(spec, &body, creating, &mut mistakes);
    match body.get("url") {
        None if !creating => {}
        None => mistakes.push(spec.text("url_required").to_owned()),
        Some(Value::String(url)) => match valid_url(api, &partner.current.profile, url) {
            Ok(()) => fields.url = Some(url.clone()),
            Err(error) => mistakes.push(url_mistake(spec, &error)),
        },
        Some(_) => mistakes.push(spec.text("url_invalid").to_owned()),
    }
    match body.get("events") {
        None if !creating => {}
        None => mistakes.push(spec.text("events_required").to_owned()),
        Some(events) => match event_patterns(spec, &partner.current.profile, events) {
            Ok(patterns) => fields.events = Some(patterns),
            Err(mistake) => mistakes.push(mistake),
        },
    }
    match body.get("description") {
        None => {}
        Some(Value::Null) => fields.description = Some(None),
        Some(Value::String(text)) if text.len() <= DESCRIPTION_BYTES_MAX => {
            fields.description = Some(Some(text.clone()))
        }
        Some(_) => mistakes.push(spec.text("description_text").to_owned()),
    }
    match body.get("active").filter(|_| !creating) {
        None => {}
        Some(Value::Bool(active)) => fields.active = Some(*active),
        Some(_) => mistakes.push(spec.text("active_boolean").to_owned()),
    }
    if mistakes.is_empty() {
        Ok(fields)
    } else {
        Err(Refusal {
            status: StatusCode::BAD_REQUEST,
            message: Message::Many(mistakes),
        })
    }
}

fn unknown_properties(
    spec: &ApiSpec,
    body: &Map<String, Value>,
    creating: bool,
    mistakes: &mut Vec<String>,
) {
    for name in body.keys() {
        let known = matches!(name.as_str(), "url" | "events" | "description")
            || (!creating && name == "active");
        if !known {
            mistakes.push(spec.text("unknown_property").replace("{name}", name));
        }
    }
}

fn url_mistake(spec: &ApiSpec, error: &InvalidUrl) -> String {
    let name = match error {
        InvalidUrl::HttpsOnly | InvalidUrl::Scheme => "url_https",
        InvalidUrl::Localhost | InvalidUrl::Address(_) => "url_private",
        InvalidUrl::TooLong | InvalidUrl::NotAUrl | InvalidUrl::Credentials => "url_invalid",
    };
    spec.text(name).to_owned()
}

fn event_patterns(
    spec: &ApiSpec,
    profile: &Profile,
    events: &Value,
) -> Result<Vec<String>, String> {
    let list = events
        .as_array()
        .filter(|list| !list.is_empty())
        .ok_or_else(|| spec.text("events_required").to_owned())?;
    let texts: Option<Vec<String>> = list
        .iter()
        .map(|item| item.as_str().map(str::to_owned))
        .collect();
    let texts = texts.ok_or_else(|| spec.text("events_each").to_owned())?;
    if texts.len() > SUBSCRIPTION_PATTERNS_MAX
        || !texts
            .iter()
            .all(|pattern| profile.events.allows_pattern(pattern))
    {
        return Err(spec.text("events_unknown").to_owned());
    }
    Ok(texts)
}

fn subscription(spec: &ApiSpec, patterns: Vec<String>) -> Result<Subscription, Refusal> {
    Subscription::new(patterns)
        .map_err(|_| Refusal::new(StatusCode::BAD_REQUEST, spec.text("events_unknown")))
}

async fn create(State(api): State<Api>, request: Request<Body>) -> Response {
    let handle = async |partner: &Partner| {
        let spec = partner.spec();
        let fields = fields(&api, partner, true)?;
        let subscription = subscription(spec, fields.events.unwrap_or_default())?;
        let profile = &partner.current.profile;
        let (endpoint, secret) = fresh_endpoint(
            &api,
            profile,
            &partner.tenant,
            fields.url.unwrap_or_default(),
            subscription,
        );
        let endpoint = Endpoint {
            description: fields.description.flatten(),
            mode: partner.mode,
            ..endpoint
        };
        let stored = api
            .store()
            .create_endpoint(endpoint.clone(), profile.endpoints_max)
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
        let mut data = Vec::new();
        let mut page = PageRequest::first(PAGE_ROWS_MAX);
        loop {
            let found = api.store().list_endpoints(partner.tenant.id, page).await;
            let found = found.map_err(|error| Refusal::from_store(partner.spec(), error))?;
            let of_mode = found
                .rows
                .into_iter()
                .filter(|endpoint| endpoint.mode == partner.mode);
            data.extend(
                of_mode.map(|endpoint| WebhookView::new(endpoint, &partner.current.profile)),
            );
            page.cursor = found.next;
            if page.cursor.is_none() {
                break;
            }
        }
        // In the order of their creation.
        data.reverse();
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
            .change_endpoint(endpoint.id, Box::new(change))
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
        api.delete_endpoint(endpoint.id)
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
        let sent = send_test(&api, &endpoint, &partner.current).await;
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
        let message = if success {
            &profile.test.ok
        } else {
            &profile.test.fail
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
