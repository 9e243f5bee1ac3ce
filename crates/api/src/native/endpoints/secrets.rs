//! An endpoint's signing secret: shown where the profile allows it, and rotated with an overlap.

use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use postrider_core::endpoint::{Endpoint, EndpointSecret, SECRET_CONTEXT};
use postrider_core::limits::SECRETS_MAX;
use postrider_core::profile::{Profile, SecretScope, Visibility, ed25519_public, ed25519_secret};
use postrider_core::time::parse_duration;
use postrider_core::{Id, Secret, Timestamp, id};
use serde::{Deserialize, Serialize};

use super::{found, may_sign, sealed};
use crate::Api;
use crate::auth::Caller;
use crate::native::tenants::tenant_secret;
use crate::problem::{ApiError, ApiResult, ErrorCode};
use crate::random::{bytes as random_bytes, secret_text};
use crate::request::{Path, ok};

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
    may_sign(&caller, &endpoint)?;
    if profile.profile.secret.show == Visibility::Once {
        let detail = format!(
            "the profile {} shows a secret only when it is made",
            profile.profile.name
        );
        return Err(ApiError::new(ErrorCode::SecretNotShown, detail));
    }
    if endpoint.secrets.is_empty() {
        let tenant = api.0.directory.tenant(endpoint.tenant).await?;
        let secret = tenant_secret(&api, &tenant, endpoint.mode)?
            .expose()
            .to_owned();
        return Ok(ok(&SecretView {
            secret,
            public_key: None,
            previous_valid_until: None,
        }));
    }
    let open = |secret: &EndpointSecret| {
        api.0
            .sealer
            .open(&secret.sealed, SECRET_CONTEXT, endpoint.id.as_u128())
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

/// Whether a secret is an Ed25519 key; one that does not open is none.
pub(super) fn is_pair(api: &Api, endpoint: Id<id::Endpoint>, secret: &EndpointSecret) -> bool {
    let sealer = &api.0.sealer;
    let text = sealer.open(&secret.sealed, SECRET_CONTEXT, endpoint.as_u128());
    text.is_ok_and(|text| ed25519_public(&text).is_some())
}

/// How a secret is replaced; without a body, as the profile has it.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Rotation {
    /// How long the old secret signs too, such as `2h`; `0s` ends it now. The profile's is the most.
    overlap: Option<String>,
    /// Replaces the Ed25519 key instead of the secret.
    #[serde(default)]
    asymmetric: bool,
}

impl Rotation {
    fn overlap(&self, most: Duration) -> ApiResult<Duration> {
        let Some(text) = &self.overlap else {
            return Ok(most);
        };
        let given = parse_duration(text).filter(|given| *given <= most);
        given.ok_or_else(|| {
            let rule = format!(
                "must be a duration such as 0s or 2h, at most {} s",
                most.as_secs()
            );
            ApiError::invalid("overlap", rule)
        })
    }
}

pub(crate) async fn rotate_secret(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    body: Body,
) -> ApiResult<Response> {
    let (endpoint, profile) = found(&api, &caller, &id).await?;
    may_sign(&caller, &endpoint)?;
    let rotation = api.read_optional(&caller, body).await?;
    rotate(&api, &caller, &endpoint, &profile.profile, &rotation).await
}

/// Gives an endpoint a new secret; the old one stays valid for the overlap.
pub(crate) async fn rotate(
    api: &Api,
    caller: &Caller,
    endpoint: &Endpoint,
    profile: &Profile,
    rotation: &Rotation,
) -> ApiResult<Response> {
    if profile.secret.scope == SecretScope::Tenant {
        let detail = "its secret is the tenant's: POST /v1/tenants/{tenant}/rotate-secret";
        return Err(ApiError::new(ErrorCode::RotationUnsupported, detail));
    }
    let Some(most) = profile.secret.overlap else {
        let detail = format!(
            "the profile {} knows no rotation: create a new endpoint and delete this one",
            profile.name
        );
        return Err(ApiError::new(ErrorCode::RotationUnsupported, detail));
    };
    if rotation.asymmetric && !profile.secret.asymmetric {
        let rule = format!("the profile {} has no asymmetric keys", profile.name);
        return Err(ApiError::invalid("asymmetric", rule));
    }
    let overlap = rotation.overlap(most)?;
    let now = api.now();
    let (secret, public_key) = if rotation.asymmetric {
        let pair = fresh_pair()?;
        let public_key = ed25519_public(&pair);
        (pair, public_key)
    } else {
        (secret_text(&profile.secret.format, endpoint.mode), None)
    };
    let fresh = sealed(api, endpoint.id, &secret, now);
    let until = now.plus(overlap);
    let (sealer, row) = (api.0.sealer.clone(), endpoint.id.as_u128());
    let is_pair = move |sealed: &EndpointSecret| {
        sealer
            .open(&sealed.sealed, SECRET_CONTEXT, row)
            .is_ok_and(|text| ed25519_public(&text).is_some())
    };
    let asymmetric = rotation.asymmetric;
    let change = Box::new(move |endpoint: &mut Endpoint| {
        for old in &mut endpoint.secrets {
            // The other kind stays as it is.
            if is_pair(old) == asymmetric {
                old.expires_at = Some(old.expires_at.map_or(until, |at| at.min(until)));
            }
        }
        endpoint
            .secrets
            .retain(|secret| secret.expires_at.is_none_or(|at| at > now));
        endpoint.secrets.insert(0, fresh);
        // Whoever rotates again and again gives up the oldest before its time.
        while endpoint.secrets.len() > SECRETS_MAX {
            let ends = endpoint.secrets.iter().enumerate();
            let first = ends
                .filter_map(|(at, secret)| Some((secret.expires_at?, at)))
                .min();
            let Some((_, at)) = first else { break };
            endpoint.secrets.remove(at);
        }
        endpoint.updated_at = now;
    });
    api.change_endpoint(endpoint.id, change, caller.actor(api))
        .await?;
    Ok(ok(&SecretView {
        secret: secret.expose().to_owned(),
        public_key,
        previous_valid_until: (!overlap.is_zero()).then_some(until),
    }))
}

/// An Ed25519 key pair, as it is kept.
pub(super) fn fresh_pair() -> ApiResult<Secret> {
    let seed: [u8; 32] = random_bytes(32)
        .try_into()
        .map_err(|_| ApiError::internal("32 random bytes"))?;
    Ok(ed25519_secret(&seed))
}
