//! An endpoint's signing secret: shown where the profile allows it, and rotated with an overlap.

use std::fmt;
use std::time::Duration;

use postrider_core::endpoint::{Endpoint, EndpointSecret, SECRET_CONTEXT};
use postrider_core::limits::SECRETS_MAX;
use postrider_core::profile::{Profile, SecretScope, Visibility, ed25519_public, ed25519_secret};
use postrider_core::time::parse_duration;
use postrider_core::{Id, Secret, Timestamp, id};
use postrider_store::always;
use serde::Deserialize;
use utoipa::ToSchema;

use super::{brought, found, may_sign, sealed, without_secrets};
use crate::random::{bytes as random_bytes, secret_text};
use crate::refusal::{ErrorCode, Refusal, Result};
use crate::tenants::opened_secret;
use crate::{Caller, Service};

/// A secret for whoever may see it.
#[derive(Debug)]
pub struct SecretShown {
    pub secret: Secret,
    /// Of an Ed25519 key beside it, or that it is.
    pub public_key: Option<String>,
    /// Until when the secret before this one signs too.
    pub previous_valid_until: Option<Timestamp>,
}

impl Service {
    /// The secret that signs for an endpoint.
    ///
    /// # Errors
    /// `secret_not_shown` where the profile shows it once, `scope_insufficient` where it is another key's.
    pub async fn endpoint_secret(&self, who: &Caller, id: &str) -> Result<SecretShown> {
        // Who only looks sees no secret.
        who.must_change()?;
        let (endpoint, profile) = found(self, who, id).await?;
        may_sign(who, &endpoint)?;
        if profile.profile.secret.show == Visibility::Once {
            let detail = format!(
                "the profile {} shows a secret only when it is made",
                profile.profile.name
            );
            return Err(Refusal::new(ErrorCode::SecretNotShown, detail));
        }
        if endpoint.secrets.is_empty() {
            let tenant = self.0.directory.tenant(endpoint.tenant).await?;
            return Ok(SecretShown {
                secret: opened_secret(self, &tenant, endpoint.mode)?,
                public_key: None,
                previous_valid_until: None,
            });
        }
        let open = |secret: &EndpointSecret| {
            self.0
                .sealer
                .open(&secret.sealed, SECRET_CONTEXT, endpoint.id.as_u128())
                .map_err(Refusal::internal)
        };
        let texts = endpoint
            .secrets
            .iter()
            .map(open)
            .collect::<Result<Vec<Secret>>>()?;
        let public_key = texts.iter().find_map(ed25519_public);
        let current = texts
            .into_iter()
            .find(|text| ed25519_public(text).is_none());
        let ends = endpoint.secrets.iter();
        let ends = ends.filter_map(|secret| secret.expires_at);
        Ok(SecretShown {
            secret: current.ok_or_else(|| Refusal::not_found("secret"))?,
            public_key,
            previous_valid_until: ends.filter(|at| *at > self.now()).max(),
        })
    }

    /// Gives an endpoint a new secret; the old one stays valid for the overlap.
    ///
    /// # Errors
    /// `rotation_unsupported` where the profile knows none, `scope_insufficient` where it is another key's.
    pub async fn rotate_endpoint_secret(
        &self,
        who: &Caller,
        id: &str,
        rotation: &Rotation,
    ) -> Result<SecretShown> {
        let (endpoint, profile) = found(self, who, id).await?;
        may_sign(who, &endpoint)?;
        rotate(self, who, &endpoint, &profile.profile, rotation).await
    }
}

/// Whether a secret has the form of an Ed25519 key, which it is where the profile has those; elsewhere the same text is a
/// secret like any other. One that does not open has none.
pub(super) fn is_pair(
    service: &Service,
    endpoint: Id<id::Endpoint>,
    secret: &EndpointSecret,
) -> bool {
    let sealer = &service.0.sealer;
    let text = sealer.open(&secret.sealed, SECRET_CONTEXT, endpoint.as_u128());
    text.is_ok_and(|text| ed25519_public(&text).is_some())
}

/// How a secret is replaced; without a body, as the profile has it.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Rotation {
    /// How long the old secret signs too, such as `2h`; `0s` ends it now. The profile's is the most.
    pub overlap: Option<String>,
    /// Replaces the Ed25519 key instead of the secret.
    #[serde(default)]
    pub asymmetric: bool,
    /// The new one, where the profile lets the owner of an endpoint bring it, or the product does; one is made otherwise.
    pub secret: Option<String>,
}

impl fmt::Debug for Rotation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        without_secrets(f, "Rotation", None)
    }
}

impl Rotation {
    fn overlap(&self, most: Duration) -> Result<Duration> {
        let Some(text) = &self.overlap else {
            return Ok(most);
        };
        let given = parse_duration(text).filter(|given| *given <= most);
        given.ok_or_else(|| {
            let rule = format!(
                "must be a duration such as 0s or 2h, at most {} s",
                most.as_secs()
            );
            Refusal::invalid("overlap", rule)
        })
    }
}

/// Gives an endpoint a new secret; the old one stays valid for the overlap.
pub(crate) async fn rotate(
    service: &Service,
    who: &Caller,
    endpoint: &Endpoint,
    profile: &Profile,
    rotation: &Rotation,
) -> Result<SecretShown> {
    if profile.secret.scope == SecretScope::Tenant {
        let detail = "its secret is the tenant's: POST /v1/tenants/{tenant}/rotate-secret";
        return Err(Refusal::new(ErrorCode::RotationUnsupported, detail));
    }
    let Some(most) = profile.secret.overlap else {
        let detail = format!(
            "the profile {} knows no rotation: create a new endpoint and delete this one",
            profile.name
        );
        return Err(Refusal::new(ErrorCode::RotationUnsupported, detail));
    };
    if rotation.asymmetric && !profile.secret.asymmetric {
        let rule = format!("the profile {} has no asymmetric keys", profile.name);
        return Err(Refusal::invalid("asymmetric", rule));
    }
    if rotation.asymmetric && rotation.secret.is_some() {
        let rule = "cannot be together with asymmetric: a key pair is made here";
        return Err(Refusal::invalid("secret", rule));
    }
    let overlap = rotation.overlap(most)?;
    let now = service.now();
    let (secret, public_key) = new_secret(who, profile, endpoint, rotation)?;
    let fresh = sealed(service, endpoint.id, &secret, now);
    let until = now.plus(overlap);
    let (sealer, row) = (service.0.sealer.clone(), endpoint.id.as_u128());
    let has_pairs = profile.secret.asymmetric;
    let is_pair = move |sealed: &EndpointSecret| {
        has_pairs
            && sealer
                .open(&sealed.sealed, SECRET_CONTEXT, row)
                .is_ok_and(|text| ed25519_public(&text).is_some())
    };
    let asymmetric = rotation.asymmetric;
    let change = always(move |endpoint: &mut Endpoint| {
        for old in &mut endpoint.secrets {
            // The other kind stays as it is.
            if is_pair(old) == asymmetric {
                // What ends sooner stays so: no rotation makes an old secret live longer.
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
            // Those in use have no end, and are never among them.
            let first = ends
                .filter_map(|(at, secret)| Some((secret.expires_at?, at)))
                // Of two that end together the older one, which is behind.
                .min_by_key(|(ends, at)| (*ends, std::cmp::Reverse(*at)));
            let Some((_, at)) = first else { break };
            endpoint.secrets.remove(at);
        }
        endpoint.updated_at = now;
    });
    service
        .write_endpoint(endpoint.id, change, who.changes(now)?)
        .await?;
    Ok(SecretShown {
        secret,
        public_key,
        previous_valid_until: (!overlap.is_zero()).then_some(until),
    })
}

/// What takes the place of a secret, and the public key of a pair.
fn new_secret(
    who: &Caller,
    profile: &Profile,
    endpoint: &Endpoint,
    rotation: &Rotation,
) -> Result<(Secret, Option<String>)> {
    if rotation.asymmetric {
        let pair = fresh_pair()?;
        let public_key = ed25519_public(&pair);
        return Ok((pair, public_key));
    }
    let secret = match &rotation.secret {
        Some(text) => brought(who, profile, text.clone())?,
        None => secret_text(&profile.secret.format, endpoint.mode),
    };
    Ok((secret, None))
}

/// An Ed25519 key pair, as it is kept.
pub(super) fn fresh_pair() -> Result<Secret> {
    let seed: [u8; 32] = random_bytes(32)
        .try_into()
        .map_err(|_| Refusal::internal("32 random bytes"))?;
    Ok(ed25519_secret(&seed))
}
