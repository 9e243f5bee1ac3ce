//! Signed requests: who asks, whether it is fresh, and whether it may (V-64 to V-66).

use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode};
use postrider_core::Timestamp;
use postrider_core::limits::KEY_BYTES_MAX;
use postrider_core::profile::ApiSpec;
use postrider_core::seal::{hex, sha256};
use postrider_core::secret::constant_time_eq;
use postrider_core::tenant::{ApiKey, Mode, Scope, Tenant};
use postrider_engine::CurrentProfile;

use super::NAME;
use super::refusal::{Answer, Refusal, uncounted, with_standing};
use crate::Api;
use crate::dialects::{holds, specs};
use crate::native::keys::KEY_SECRET_CONTEXT;
use crate::problem::ApiError;
use crate::request::HeldBody;

/// A caller whose signature was verified.
pub(super) struct Partner {
    pub(super) tenant: std::sync::Arc<Tenant>,
    pub(super) key: ApiKey,
    pub(super) mode: Mode,
    pub(super) current: CurrentProfile,
    pub(super) body: HeldBody,
}

impl Partner {
    pub(super) fn spec(&self) -> &ApiSpec {
        self.current
            .profile
            .api
            .as_ref()
            .expect("routes exist only for profiles with an [api] section")
    }
}

/// Verifies a request, counts it, and lets `handle` answer it.
pub(super) async fn signed(
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
    // A request that was used before counts for nothing: whoever has captured one could use up the
    // partner's requests with it. What this process has seen lately it knows without the store.
    let seen = (verified.key.id.as_u128(), sha256(verified.nonce.as_bytes()));
    if !verified.bearer && api.0.nonces.get(&seen).is_some() {
        let refusal = Refusal::new(StatusCode::UNAUTHORIZED, spec.text("nonce"));
        return with_standing(refusal.into_response(), uncounted(&spec, now));
    }
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
    specs(api.engine().profiles()).find(|spec| spec.dialect == NAME && holds(spec, path))
}

/// A request whose signature is right.
struct Verified {
    key: ApiKey,
    nonce: String,
    /// The key itself was sent, over TLS, and nothing was signed: there is no nonce.
    bearer: bool,
    body: HeldBody,
}

async fn verify(
    api: &Api,
    spec: &ApiSpec,
    request: Request,
    now: Timestamp,
) -> Result<Verified, Refusal> {
    let refuse = |name| Refusal::new(StatusCode::UNAUTHORIZED, spec.text(name));
    let (parts, body) = request.into_parts();
    if !parts.headers.contains_key("x-api-key")
        && let Some(text) = bearer(&parts.headers)
    {
        return verify_bearer(api, spec, &parts, body, text).await;
    }
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
    let body = api
        .body(key.id.as_u128(), body)
        .await
        .map_err(|error| Refusal::from_api(spec, &error))?;
    let sealed = key
        .sealed_secret
        .as_deref()
        .ok_or_else(|| refuse("signature"))?;
    let secret = api
        .0
        .sealer
        .open(sealed, KEY_SECRET_CONTEXT, key.id.as_u128())
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
    // Only who proved to have the key hears that it is disabled, or may not be used from there.
    if crate::auth::admit(api, &key, &parts).is_err() {
        return Err(Refusal::new(StatusCode::FORBIDDEN, spec.text("forbidden")));
    }
    Ok(Verified {
        nonce: nonce.to_owned(),
        bearer: false,
        key,
        body,
    })
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, text) = text_header(headers, "authorization")?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| text.trim())
}

/// A tenant's key as a bearer token, as the overview of the documentation shows it.
async fn verify_bearer(
    api: &Api,
    spec: &ApiSpec,
    parts: &http::request::Parts,
    body: axum::body::Body,
    text: &str,
) -> Result<Verified, Refusal> {
    let refuse = |name| Refusal::new(StatusCode::UNAUTHORIZED, spec.text(name));
    let key = match api.0.directory.key(sha256(text.as_bytes())).await {
        Ok(key) => ApiKey::clone(&key),
        Err(error) if error.is_not_found() => return Err(refuse("unauthorized")),
        Err(error) => return Err(Refusal::from_store(spec, error)),
    };
    if crate::auth::admit(api, &key, parts).is_err() {
        return Err(Refusal::new(StatusCode::FORBIDDEN, spec.text("forbidden")));
    }
    let body = api
        .body(key.id.as_u128(), body)
        .await
        .map_err(|error| Refusal::from_api(spec, &error))?;
    Ok(Verified {
        nonce: String::new(),
        bearer: true,
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
    let Verified {
        key,
        nonce,
        bearer,
        body,
    } = verified;
    // After the signature, so that a stranger cannot use up a partner's nonces. Kept as long as the
    // timestamp could be accepted again.
    let expires_at = now.plus(spec.skew * 2);
    let fresh = bearer
        || nonce.len() <= KEY_BYTES_MAX
            && api
                .store()
                .use_nonce(key.id, &nonce, expires_at)
                .await
                .map_err(|error| Refusal::from_store(spec, error))?;
    if !fresh {
        return Err(Refusal::new(StatusCode::UNAUTHORIZED, spec.text("nonce")));
    }
    if !bearer {
        let seen = (key.id.as_u128(), sha256(nonce.as_bytes()));
        api.0.nonces.insert(seen, ());
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
        key: key.clone(),
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
