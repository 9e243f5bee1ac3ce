//! Endpoints: create, read, change, delete, test, rotate, count.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use postrider_core::attempt::{Attempt, Outcome};
use postrider_core::endpoint::{Endpoint, EndpointKind, EndpointSecret, Ordering};
use postrider_core::endpoint_url::{InvalidUrl, Scheme, UrlPolicy, check_url};
use postrider_core::event::Event;
use postrider_core::filter::Subscription;
use postrider_core::health::{DisableReason, Health};
use postrider_core::limits::{
    CUSTOM_HEADERS_MAX, DESCRIPTION_BYTES_MAX, HEADER_VALUE_BYTES_MAX, SECRETS_MAX,
};
use postrider_core::profile::{Class, Profile, Visibility, ed25519_public, ed25519_secret};
use postrider_core::tenant::{Mode, Tenant};
use postrider_core::{Id, Secret, Timestamp, id};
use postrider_engine::CurrentProfile;
use serde::{Deserialize, Serialize};

use super::views::EndpointView;
use crate::Api;
use crate::auth::Caller;
use crate::problem::{ApiError, ApiResult, ErrorCode};
use crate::random::{bytes as random_bytes, seal_nonce, secret_text};
use crate::request::{
    Paging, Path, Query, bounded, given_time, json, list as list_of, ok, path_id,
};

/// What endpoint secrets are sealed for; the engine opens them under the same name.
const SECRET_CONTEXT: &str = "endpoint secret";
/// Headers that say where a message goes and where it ends: nobody's but the transport's.
const FRAMING_HEADERS: &[&str] = &[
    "host",
    "content-length",
    "content-type",
    "transfer-encoding",
    "connection",
    "te",
    "trailer",
    "upgrade",
    "expect",
    "keep-alive",
];
const HEADER_NAME_BYTES_MAX: usize = 128;
/// Deliveries per second that a limit may name.
const RATE_MAX: u32 = 100_000;
const STATS_DEFAULT: Duration = Duration::from_secs(24 * 3_600);

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct NewEndpoint {
    url: String,
    events: Option<Vec<String>>,
    description: Option<String>,
    /// The key's, when it is not given.
    mode: Option<Mode>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    rate_limit: Option<u32>,
    #[serde(default)]
    ordering: Ordering,
    /// Adds an Ed25519 key, where the profile knows them.
    #[serde(default)]
    asymmetric: bool,
}

/// Checks a URL against the profile's schemes and the operator's addresses.
pub(crate) fn valid_url(api: &Api, profile: &Profile, url: &str) -> Result<(), InvalidUrl> {
    let options = &api.0.options;
    let both = [Scheme::Https, Scheme::Http];
    let schemes: &[Scheme] = if options.plain_http {
        &both
    } else {
        &profile.http.schemes
    };
    check_url(
        url,
        UrlPolicy {
            schemes,
            addresses: &options.addresses,
        },
    )
    .map(drop)
}

fn checked_url(api: &Api, profile: &Profile, url: &str) -> ApiResult<()> {
    valid_url(api, profile, url)
        .map_err(|error| ApiError::field(ErrorCode::EndpointUrlInvalid, "url", error.to_string()))
}

fn subscription(profile: &Profile, patterns: Vec<String>) -> ApiResult<Subscription> {
    if let Some(unknown) = patterns
        .iter()
        .find(|pattern| !profile.events.allows_pattern(pattern))
    {
        return Err(ApiError::field(
            ErrorCode::EventTypeUnknown,
            "events",
            format!("{unknown:?} is not in the catalogue"),
        ));
    }
    Subscription::new(patterns).map_err(|error| {
        ApiError::field(ErrorCode::SubscriptionInvalid, "events", error.to_string())
    })
}

fn custom_headers(
    profile: &Profile,
    given: BTreeMap<String, String>,
) -> ApiResult<Vec<(String, String)>> {
    if given.is_empty() {
        return Ok(Vec::new());
    }
    if !profile.custom_headers.allow {
        return Err(ApiError::invalid(
            "headers",
            format!("the profile {} has no custom headers", profile.name),
        ));
    }
    if given.len() > CUSTOM_HEADERS_MAX {
        return Err(ApiError::invalid(
            "headers",
            format!("must have at most {CUSTOM_HEADERS_MAX} entries"),
        ));
    }
    let mut headers: Vec<(String, String)> = Vec::with_capacity(given.len());
    for (name, value) in given {
        let field = format!("headers.{name}");
        let lower = name.to_ascii_lowercase();
        if http::HeaderName::from_bytes(name.as_bytes()).is_err() {
            return Err(ApiError::invalid(field, "is not a header name"));
        }
        if name.len() > HEADER_NAME_BYTES_MAX {
            return Err(ApiError::invalid(
                field,
                format!("must have a name of at most {HEADER_NAME_BYTES_MAX} bytes"),
            ));
        }
        let framing = FRAMING_HEADERS.contains(&lower.as_str()) || lower.starts_with("proxy-");
        let reserved = framing
            || profile.custom_headers.reserved.iter().any(|pattern| {
                match pattern.strip_suffix('*') {
                    Some(prefix) => lower.starts_with(prefix),
                    None => lower == *pattern,
                }
            });
        let written = profile
            .headers
            .iter()
            .any(|(known, _)| known.eq_ignore_ascii_case(&name));
        if reserved
            || written
            || profile
                .signatures
                .iter()
                .any(|spec| spec.header.eq_ignore_ascii_case(&name))
        {
            return Err(ApiError::invalid(field, "is written by the server"));
        }
        if headers
            .iter()
            .any(|(known, _)| known.eq_ignore_ascii_case(&name))
        {
            return Err(ApiError::invalid(
                field,
                "is there twice; upper and lower case are the same",
            ));
        }
        let sendable = !value.is_empty()
            && value.len() <= HEADER_VALUE_BYTES_MAX
            && http::HeaderValue::from_str(&value).is_ok();
        if !sendable || !value.is_ascii() {
            let rule = format!(
                "must be 1 to {HEADER_VALUE_BYTES_MAX} ASCII characters without control characters"
            );
            return Err(ApiError::invalid(field, rule));
        }
        headers.push((name, value));
    }
    Ok(headers)
}

fn checked_rate(rate: Option<u32>) -> ApiResult<()> {
    match rate {
        Some(rate) if !(1..=RATE_MAX).contains(&rate) => Err(ApiError::invalid(
            "rateLimit",
            format!("must be a whole number from 1 to {RATE_MAX}, per second"),
        )),
        Some(_) | None => Ok(()),
    }
}

fn checked_description(description: Option<&str>) -> ApiResult<()> {
    description.map_or(Ok(()), |text| {
        bounded("description", text, DESCRIPTION_BYTES_MAX)
    })
}

/// A sealed secret in the profile's format, valid without end.
fn sealed(api: &Api, secret: &Secret, now: Timestamp) -> EndpointSecret {
    let sealed = api.0.sealer.seal(secret, seal_nonce(), SECRET_CONTEXT);
    EndpointSecret {
        sealed,
        created_at: now,
        expires_at: None,
    }
}

/// An endpoint as a dialect or the native API is about to store it, and its secret.
pub(crate) fn fresh_endpoint(
    api: &Api,
    profile: &Profile,
    tenant: &Tenant,
    url: String,
    subscription: Subscription,
) -> (Endpoint, Secret) {
    let now = api.now();
    let secret = secret_text(&profile.secret.format);
    let endpoint = Endpoint {
        id: api.store().ids().next(now),
        application: tenant.application,
        tenant: tenant.id,
        kind: EndpointKind::Registered,
        url,
        description: None,
        subscription,
        mode: Mode::Live,
        headers: Vec::new(),
        secrets: vec![sealed(api, &secret, now)],
        rate_limit: None,
        ordering: Ordering::None,
        health: Health::default(),
        created_at: now,
        updated_at: now,
    };
    (endpoint, secret)
}

/// The tenant's endpoint for a one-off URL, made when it is new (`vendors.md` V-68, A-40).
pub(crate) async fn callback(
    api: &Api,
    tenant: &Tenant,
    profile: &Profile,
    url: &str,
) -> ApiResult<Id<id::Endpoint>> {
    valid_url(api, profile, url).map_err(|error| {
        ApiError::field(
            ErrorCode::EndpointUrlInvalid,
            "callbackUrl",
            error.to_string(),
        )
    })?;
    if let Some(known) = api.store().callback_endpoint(tenant.id, url).await? {
        return Ok(known.id);
    }
    let secret = api
        .0
        .sealer
        .open(
            &tenant.sealed_secret,
            super::applications::TENANT_SECRET_CONTEXT,
        )
        .map_err(ApiError::internal)?;
    let (endpoint, _) = fresh_endpoint(api, profile, tenant, url.to_owned(), Subscription::all());
    let secrets = vec![sealed(api, &secret, endpoint.created_at)];
    let id = endpoint.id;
    api.store()
        .create_endpoint(
            Endpoint {
                kind: EndpointKind::Callback,
                secrets,
                ..endpoint
            },
            None,
        )
        .await?;
    Ok(id)
}

pub(crate) async fn create(
    State(api): State<Api>,
    caller: Caller,
    Path(tenant): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> ApiResult<Response> {
    let tenant = caller.tenant(&api, path_id(&tenant)?).await?;
    let new: NewEndpoint = api.read(&headers, body).await?;
    let profile = api.0.directory.profile(tenant.application).await?.profile;
    checked_url(&api, &profile, &new.url)?;
    checked_description(new.description.as_deref())?;
    checked_rate(new.rate_limit)?;
    let subscription = new.events.map_or_else(
        || Ok(Subscription::all()),
        |events| subscription(&profile, events),
    )?;
    let custom = custom_headers(&profile, new.headers)?;
    if new.asymmetric && !profile.secret.asymmetric {
        return Err(ApiError::invalid(
            "asymmetric",
            format!("the profile {} has no asymmetric keys", profile.name),
        ));
    }
    let (mut endpoint, secret) = fresh_endpoint(&api, &profile, &tenant, new.url, subscription);
    endpoint.description = new.description;
    endpoint.mode = caller.mode(new.mode)?;
    endpoint.headers = custom;
    endpoint.rate_limit = new.rate_limit;
    endpoint.ordering = new.ordering;
    let mut public_key = None;
    if new.asymmetric {
        let seed: [u8; 32] = random_bytes(32)
            .try_into()
            .map_err(|_| ApiError::internal("32 random bytes"))?;
        let pair = ed25519_secret(&seed);
        public_key = ed25519_public(&pair);
        endpoint
            .secrets
            .push(sealed(&api, &pair, endpoint.created_at));
    }
    api.store()
        .create_endpoint(endpoint.clone(), profile.endpoints_max)
        .await?;
    Ok(json(
        StatusCode::CREATED,
        &EndpointView::new(endpoint, &profile).with_secret(secret.expose(), public_key),
    ))
}

pub(crate) async fn list(
    State(api): State<Api>,
    caller: Caller,
    Path(tenant): Path<String>,
    Query(paging): Query<Paging>,
) -> ApiResult<Response> {
    let tenant = caller.tenant(&api, path_id(&tenant)?).await?;
    let profile = api.0.directory.profile(tenant.application).await?.profile;
    let page = api
        .store()
        .list_endpoints(tenant.id, paging.request()?)
        .await?;
    Ok(list_of(page, |endpoint| {
        EndpointView::new(endpoint, &profile)
    }))
}

/// The endpoint, if the caller may see it, and its profile. Its id, or the profile's form of it.
async fn found(api: &Api, caller: &Caller, text: &str) -> ApiResult<(Endpoint, CurrentProfile)> {
    let id: Id<id::Endpoint> = match text.parse() {
        Ok(id) => id,
        Err(_) => {
            let formats = api
                .engine()
                .profiles()
                .names()
                .into_iter()
                .filter_map(|name| api.engine().profiles().current(&name));
            let mut ids = formats.filter_map(|current| current.profile.ids.endpoint.read(text));
            ids.next().ok_or_else(|| ApiError::not_found("endpoint"))?
        }
    };
    let endpoint = api.store().endpoint(id).await?;
    let own =
        caller.may_see(endpoint.application, endpoint.tenant) && caller.may_touch(endpoint.mode);
    if !own || endpoint.kind == EndpointKind::Callback {
        return Err(ApiError::not_found("endpoint"));
    }
    let profile = api.0.directory.profile(endpoint.application).await?;
    Ok((endpoint, profile))
}

pub(crate) async fn read(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Response> {
    let (endpoint, profile) = found(&api, &caller, &id).await?;
    Ok(ok(&EndpointView::new(endpoint, &profile.profile)))
}

/// What a change names; what it does not name stays.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct EndpointPatch {
    url: Option<String>,
    events: Option<Vec<String>>,
    #[serde(default, deserialize_with = "nullable")]
    description: Option<Option<String>>,
    headers: Option<BTreeMap<String, String>>,
    #[serde(default, deserialize_with = "nullable")]
    rate_limit: Option<Option<u32>>,
    ordering: Option<Ordering>,
    active: Option<bool>,
}

/// Tells null, which clears, from absence, which keeps.
fn nullable<'de, T: Deserialize<'de>, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

pub(crate) async fn update(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> ApiResult<Response> {
    let (endpoint, CurrentProfile { profile, .. }) = found(&api, &caller, &id).await?;
    let patch: EndpointPatch = api.read(&headers, body).await?;
    if let Some(url) = &patch.url {
        checked_url(&api, &profile, url)?;
    }
    checked_description(patch.description.as_ref().and_then(|text| text.as_deref()))?;
    checked_rate(patch.rate_limit.flatten())?;
    let subscription = patch
        .events
        .map(|events| subscription(&profile, events))
        .transpose()?;
    let custom = patch
        .headers
        .map(|headers| custom_headers(&profile, headers))
        .transpose()?;
    let now = api.now();
    let changed = api
        .change_endpoint(
            endpoint.id,
            Box::new(move |endpoint| {
                endpoint.url = patch.url.unwrap_or(std::mem::take(&mut endpoint.url));
                endpoint.description = patch.description.unwrap_or(endpoint.description.take());
                endpoint.rate_limit = patch.rate_limit.unwrap_or(endpoint.rate_limit);
                endpoint.ordering = patch.ordering.unwrap_or(endpoint.ordering);
                if let Some(subscription) = subscription {
                    endpoint.subscription = subscription;
                }
                if let Some(custom) = custom {
                    endpoint.headers = custom;
                }
                set_active(endpoint, patch.active, now);
                endpoint.updated_at = now;
            }),
        )
        .await?;
    Ok(ok(&EndpointView::new(changed, &profile)))
}

/// Enables or disables by hand; enabling starts the counters anew.
pub(crate) fn set_active(endpoint: &mut Endpoint, active: Option<bool>, now: Timestamp) {
    match active {
        Some(true) if !endpoint.health.is_enabled() => endpoint.health.enable(),
        Some(false) => endpoint.health.disable(DisableReason::Manual, now),
        Some(true) | None => {}
    }
}

pub(crate) async fn delete(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Response> {
    let (endpoint, _) = found(&api, &caller, &id).await?;
    api.delete_endpoint(endpoint.id).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SecretView {
    secret: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    public_key: Option<String>,
    /// Until when the secret before this one is accepted too.
    #[serde(skip_serializing_if = "Option::is_none")]
    previous_valid_until: Option<Timestamp>,
}

pub(crate) async fn secret(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Response> {
    let (endpoint, profile) = found(&api, &caller, &id).await?;
    if profile.profile.secret.show == Visibility::Once {
        let detail = format!(
            "the profile {} shows a secret only when it is made",
            profile.profile.name
        );
        return Err(ApiError::new(ErrorCode::SecretNotShown, detail));
    }
    let open = |secret: &EndpointSecret| {
        api.0
            .sealer
            .open(&secret.sealed, SECRET_CONTEXT)
            .map_err(ApiError::internal)
    };
    let texts = endpoint
        .secrets
        .iter()
        .map(open)
        .collect::<ApiResult<Vec<Secret>>>()?;
    let current = texts.iter().find(|text| ed25519_public(text).is_none());
    let secret = current
        .ok_or_else(|| ApiError::not_found("secret"))?
        .expose()
        .to_owned();
    let previous = endpoint
        .secrets
        .iter()
        .filter_map(|secret| secret.expires_at)
        .filter(|at| *at > api.now())
        .max();
    let public_key = texts.iter().find_map(ed25519_public);
    Ok(ok(&SecretView {
        secret,
        public_key,
        previous_valid_until: previous,
    }))
}

pub(crate) async fn rotate_secret(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Response> {
    let (endpoint, profile) = found(&api, &caller, &id).await?;
    let profile = profile.profile;
    let Some(overlap) = profile.secret.overlap else {
        let detail = format!(
            "the profile {} knows no rotation: create a new endpoint and delete this one",
            profile.name
        );
        return Err(ApiError::new(ErrorCode::RotationUnsupported, detail));
    };
    let now = api.now();
    let live = endpoint
        .secrets
        .iter()
        .filter(|secret| secret.expires_at.is_none_or(|at| at > now))
        .count();
    if live >= SECRETS_MAX {
        return Err(ApiError::invalid(
            "secret",
            format!("{SECRETS_MAX} secrets are valid at once already; wait until one ends"),
        ));
    }
    let secret = secret_text(&profile.secret.format);
    let fresh = sealed(&api, &secret, now);
    let until = now.plus(overlap);
    // Only the symmetric secret is replaced; an Ed25519 key stays.
    let sealer = api.0.sealer.clone();
    let is_pair = move |sealed: &EndpointSecret| {
        sealer
            .open(&sealed.sealed, SECRET_CONTEXT)
            .is_ok_and(|text| ed25519_public(&text).is_some())
    };
    let change = Box::new(move |endpoint: &mut Endpoint| {
        endpoint
            .secrets
            .retain(|secret| secret.expires_at.is_none_or(|at| at > now));
        for old in endpoint
            .secrets
            .iter_mut()
            .filter(|secret| secret.expires_at.is_none())
        {
            if !is_pair(old) {
                old.expires_at = Some(until);
            }
        }
        endpoint.secrets.insert(0, fresh);
        endpoint.updated_at = now;
    });
    api.change_endpoint(endpoint.id, change).await?;
    Ok(ok(&SecretView {
        secret: secret.expose().to_owned(),
        public_key: None,
        previous_valid_until: Some(until),
    }))
}

/// Makes the test call: one signed request, now, not recorded, whatever the endpoint's state.
pub(crate) async fn send_test(
    api: &Api,
    endpoint: &Endpoint,
    current: &CurrentProfile,
) -> ApiResult<(bool, Attempt)> {
    let profile = &current.profile;
    let now = api.now();
    let wire_id = profile.ids.endpoint.render(endpoint.id);
    let data =
        serde_json::json!({ "webhookId": wire_id, "message": profile.test.message }).to_string();
    let event = Event {
        id: api.store().ids().next(now),
        application: endpoint.application,
        tenant: endpoint.tenant,
        event_type: Arc::from(profile.test.event.as_str()),
        data: Bytes::from(data),
        mode: endpoint.mode,
        occurred_at: now,
        created_at: now,
        ordering_key: None,
        deliver_before: None,
    };
    let attempt = api
        .engine()
        .test(endpoint.id, Arc::new(event), current.version)
        .await?;
    let success = profile.classify.class(&attempt.outcome) == Class::Ok;
    Ok((success, attempt))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TestView {
    success: bool,
    status_code: Option<u16>,
    /// Milliseconds.
    response_time: u64,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

pub(crate) async fn test(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Response> {
    let (endpoint, profile) = found(&api, &caller, &id).await?;
    let (success, attempt) = send_test(&api, &endpoint, &profile).await?;
    let (status_code, error) = match attempt.outcome {
        Outcome::Answered { status, .. } => (Some(status), None),
        Outcome::Unreachable { reason, detail } => {
            (None, Some(format!("{}: {detail}", reason.as_str())))
        }
    };
    let test = &profile.profile.test;
    let message = if success {
        test.ok.clone()
    } else {
        test.fail.clone()
    };
    let response_time = u64::from(
        attempt
            .timings
            .first_byte_micros
            .unwrap_or(attempt.timings.total_micros)
            / 1_000,
    );
    Ok(ok(&TestView {
        success,
        status_code,
        response_time,
        message,
        error,
    }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StatsQuery {
    since: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StatsView {
    since: Timestamp,
    pending: u64,
    delivered: u64,
    failed: u64,
    cancelled: u64,
    attempts: u64,
}

pub(crate) async fn stats(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    Query(query): Query<StatsQuery>,
) -> ApiResult<Response> {
    let (endpoint, _) = found(&api, &caller, &id).await?;
    let since = given_time("since", query.since.as_deref())?
        .unwrap_or_else(|| api.now().minus(STATS_DEFAULT));
    let s = api.store().endpoint_stats(endpoint.id, since).await?;
    let view = StatsView {
        since,
        pending: s.pending,
        delivered: s.delivered,
        failed: s.failed,
        cancelled: s.cancelled,
        attempts: s.attempts,
    };
    Ok(ok(&view))
}
