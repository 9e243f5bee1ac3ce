//! An endpoint's signing secret: shown where the profile allows it, and rotated with an overlap.

use axum::extract::State;
use axum::response::Response;
use postrider_core::endpoint::{Endpoint, EndpointSecret, SECRET_CONTEXT};
use postrider_core::limits::SECRETS_MAX;
use postrider_core::profile::{Profile, SecretScope, Visibility, ed25519_public};
use postrider_core::{Secret, Timestamp};
use serde::Serialize;

use super::{found, may_sign, sealed};
use crate::Api;
use crate::auth::Caller;
use crate::native::tenants::tenant_secret;
use crate::problem::{ApiError, ApiResult, ErrorCode};
use crate::random::secret_text;
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
    may_sign(&caller, &endpoint)?;
    rotate(&api, &caller, &endpoint, &profile.profile).await
}

/// Gives an endpoint a new secret; the old one stays valid for the profile's overlap.
pub(crate) async fn rotate(
    api: &Api,
    caller: &Caller,
    endpoint: &Endpoint,
    profile: &Profile,
) -> ApiResult<Response> {
    if profile.secret.scope == SecretScope::Tenant {
        let detail = "its secret is the tenant's: POST /v1/tenants/{tenant}/rotate-secret";
        return Err(ApiError::new(ErrorCode::RotationUnsupported, detail));
    }
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
    let secret = secret_text(&profile.secret.format, endpoint.mode);
    let fresh = sealed(api, &secret, now);
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
    api.change_endpoint(endpoint.id, change, caller.actor(api))
        .await?;
    Ok(ok(&SecretView {
        secret: secret.expose().to_owned(),
        public_key: None,
        previous_valid_until: (!overlap.is_zero()).then_some(until),
    }))
}
