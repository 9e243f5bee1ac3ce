//! Signed requests: who asks, whether it is fresh, and whether it may (V-64 to V-66).

use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode};
use postrider_core::limits::KEY_BYTES_MAX;
use postrider_core::profile::ApiSpec;
use postrider_core::tenant::{Mode, Scope};
use postrider_core::{Id, Timestamp, id};
use postrider_service::{self as service, Caller, CurrentProfile, ErrorCode};

use super::NAME;
use super::refusal::{Answer, Refusal, uncounted, with_standing};
use crate::Api;
use crate::auth::came_from;
use crate::dialects::{holds, specs};
use crate::edge::AskedBy;
use crate::request::HeldBody;

/// A caller whose signature was verified.
pub(super) struct Partner {
    pub(super) caller: Caller,
    pub(super) tenant: Id<id::Tenant>,
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
    let now = api.service.now();
    let Some(spec) = spec_of(api, request.uri().path()) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let verified = match verify(api, &spec, request, now).await {
        Ok(verified) => verified,
        Err(refusal) => {
            let standing = uncounted(&spec, spec.rate_live, now);
            return with_standing(refusal.into_response(), standing);
        }
    };
    let (key, mode) = (verified.key, verified.caller.own_mode());
    // The documented limits (V-66) stand in for the server's own ones at this API.
    let limit = match mode {
        Mode::Live => spec.rate_live,
        Mode::Test => spec.rate_test,
    };
    // A request that was used before counts for nothing: whoever has captured one could use up the
    // partner's requests with it. What this process has seen lately it knows without the store.
    if !verified.bearer && api.service.saw_nonce(key, &verified.nonce) {
        let refusal = Refusal::new(StatusCode::UNAUTHORIZED, spec.text("nonce"));
        return with_standing(refusal.into_response(), uncounted(&spec, limit, now));
    }
    // Before anything is written: a partner over the limit costs the store nothing.
    let rates = &api.door.rates;
    let steady = api.service.steady();
    let mut standing = rates.count(key, limit, spec.rate_window, steady);
    let resets_in = standing.resets_at.since(steady);
    // Told as the clock shows it now; the window ends by the other one.
    standing.resets_at = now.plus(resets_in);
    if standing.exceeded {
        let seconds = resets_in.as_secs_f64().ceil();
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
    specs(api.service.profiles()).find(|spec| spec.dialect == NAME && holds(spec, path))
}

/// A request whose signature is right.
struct Verified {
    key: Id<id::ApiKey>,
    caller: Caller,
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
    // Before the store is asked for a key: a stale request costs nothing more.
    let sent_at: i64 = timestamp.parse().map_err(|_| refuse("timestamp"))?;
    if now.as_unix().abs_diff(sent_at) > spec.skew.as_secs() {
        return Err(refuse("timestamp"));
    }
    let internal = |error: service::Refusal| Refusal::from_service(spec, &error);
    let claim = api.service.claim(public_id, came_from(&parts)).await;
    let claim = claim.map_err(internal)?;
    // As of a wrong signature: whoever tries ids does not learn which of them exist.
    let claim = claim.ok_or_else(|| refuse("signature"))?;
    // On the key's account before anything is proved, since the signature is of the body.
    let body = api.body(claim.holder(), body).await.map_err(internal)?;
    let mut message =
        format!("{timestamp}.{nonce}.{}.{}.", parts.method, parts.uri.path()).into_bytes();
    message.extend_from_slice(&body);
    let proof = claim.by_signature(&api.service, &message, signature);
    let proof = proof
        .map_err(internal)?
        .ok_or_else(|| refuse("signature"))?;
    let key = proof.id();
    asked_by(&parts, key);
    // Only who proved to have the key hears that it is disabled, or may not be used from there.
    let caller = api.service.admit(proof, came_from(&parts));
    let caller = caller.map_err(|_| Refusal::new(StatusCode::FORBIDDEN, spec.text("forbidden")))?;
    Ok(Verified {
        key,
        nonce: nonce.to_owned(),
        bearer: false,
        caller,
        body,
    })
}

/// Whose answers these are, and whose line of the log.
fn asked_by(parts: &http::request::Parts, key: Id<id::ApiKey>) {
    if let Some(asked_by) = parts.extensions.get::<AskedBy>() {
        asked_by.set(&key);
    }
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
    let proof = match api.service.prove(text, came_from(parts)).await {
        Ok(proof) => proof,
        Err(error) if matches!(error.code, ErrorCode::KeyUnknown | ErrorCode::KeyExpired) => {
            return Err(refuse("unauthorized"));
        }
        Err(error) => return Err(Refusal::from_service(spec, &error)),
    };
    let key = proof.id();
    asked_by(parts, key);
    let caller = api.service.admit(proof, came_from(parts));
    let caller = caller.map_err(|_| Refusal::new(StatusCode::FORBIDDEN, spec.text("forbidden")))?;
    let body = api.body(key.as_u128(), body).await;
    Ok(Verified {
        key,
        nonce: String::new(),
        bearer: true,
        caller,
        body: body.map_err(|error| Refusal::from_service(spec, &error))?,
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
        caller,
        nonce,
        bearer,
        body,
    } = verified;
    let internal = |error: service::Refusal| Refusal::from_service(spec, &error);
    // After the signature, so that a stranger cannot use up a partner's nonces. Kept as long as the
    // timestamp could be accepted again.
    let expires_at = now.plus(spec.skew * 2);
    let used = || api.service.use_nonce(key, &nonce, expires_at);
    let fresh = bearer || nonce.len() <= KEY_BYTES_MAX && used().await.map_err(internal)?;
    if !fresh {
        return Err(Refusal::new(StatusCode::UNAUTHORIZED, spec.text("nonce")));
    }
    let forbidden = || Refusal::new(StatusCode::FORBIDDEN, spec.text("forbidden"));
    // An organization is a tenant (V-62), so an application's key is no partner's.
    let Scope::Tenant(application, tenant) = caller.scope() else {
        return Err(forbidden());
    };
    let current = api.service.profile_of(application).await;
    let current = current.map_err(internal)?;
    let own = current.profile.api.as_ref();
    if own.is_none_or(|own| own.base != spec.base) {
        return Err(forbidden());
    }
    Ok(Partner {
        caller,
        tenant,
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
