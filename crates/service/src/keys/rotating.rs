//! A key's text is replaced; what the key is, and the endpoint that it owns, stay.

use std::time::Duration;

use postrider_core::endpoint::Endpoint;
use postrider_core::seal::sha256;
use postrider_core::tenant::{ApiKey, PreviousText, Scope};
use postrider_core::time::parse_duration;
use postrider_core::{Id, Secret, id};
use serde::Deserialize;
use utoipa::ToSchema;

use super::{KEY_SECRET_CONTEXT, KeyMade, KeyShown, managed};
use crate::random::{key_text, seal_nonce, secret_text};
use crate::refusal::{ErrorCode, Refusal, Result};
use crate::{Caller, Service};

/// How long the old text opens too, where nobody says it.
const OVERLAP: Duration = Duration::from_secs(24 * 3_600);
/// At most.
const OVERLAP_MAX: Duration = Duration::from_secs(30 * 24 * 3_600);

/// How a key's text is replaced.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct KeyRotation {
    /// How long the old text opens too, such as `2h`; `0s` ends it now. `24h` when it is not given, `30d` at most.
    pub overlap: Option<String>,
    /// The answer to the last rotation was lost: the text in it is replaced, and the one before opens on as it does.
    #[serde(default)]
    pub again: bool,
}

impl KeyRotation {
    fn overlap(&self) -> Result<Duration> {
        let Some(text) = &self.overlap else {
            return Ok(OVERLAP);
        };
        let given = parse_duration(text).filter(|given| *given <= OVERLAP_MAX);
        given.ok_or_else(|| {
            Refusal::invalid(
                "overlap",
                "must be a duration such as 0s or 24h, at most 30d",
            )
        })
    }
}

fn pending(before: &PreviousText) -> Refusal {
    let detail = format!(
        "the text before the last rotation opens until {}; wait for it, say `again` if the answer to that rotation was lost, or end all old ones now with the overlap 0s",
        before.until
    );
    Refusal::new(ErrorCode::RotationPending, detail)
}

impl Service {
    /// Gives a key another text, which comes back; the old one opens too until the overlap is over.
    ///
    /// # Errors
    /// Of a field that cannot be, `scope_insufficient` for a tenant's key, `rotation_pending` while the text before still
    /// opens, unless all old ones are to end now, `not_found`, or what the store answers.
    pub async fn rotate_key(
        &self,
        who: &Caller,
        id: Id<id::ApiKey>,
        rotation: &KeyRotation,
    ) -> Result<KeyMade> {
        let key = managed(self, who, id).await?;
        if matches!(who.scope, Scope::Tenant(..)) {
            // Whoever has stolen it could keep its owner out.
            return Err(Refusal::new(
                ErrorCode::ScopeInsufficient,
                "an application key rotates keys",
            ));
        }
        let overlap = rotation.overlap()?;
        let by = who.changes(self.now())?;
        let now = by.at;
        let before = key.previous.clone().filter(|text| now < text.until);
        if let Some(before) = &before
            && !overlap.is_zero()
            && !rotation.again
        {
            return Err(pending(before));
        }
        // Once more only where there was one: otherwise it is as any other.
        let kept = before.filter(|_| rotation.again && !overlap.is_zero());
        let text = self.fresh_text(&key).await?;
        let hash = sha256(text.expose().as_bytes());
        let sealed = key.sealed_secret.is_some().then(|| {
            let sealer = &self.0.sealer;
            sealer.seal(&text, seal_nonce(), KEY_SECRET_CONTEXT, key.id.as_u128())
        });
        let looked_at = key.secret_hash;
        let change = move |key: &mut ApiKey, _: &mut Option<Endpoint>| {
            // Somebody else has rotated it meanwhile, and their text would end here.
            if key.secret_hash != looked_at {
                return;
            }
            // With `again` nobody has the present text: it ends here, and the one before goes on.
            key.previous = kept.or_else(|| {
                (!overlap.is_zero()).then(|| PreviousText {
                    secret_hash: key.secret_hash,
                    sealed_secret: key.sealed_secret.take(),
                    since: key.rotated_at.unwrap_or(key.created_at),
                    until: now.plus(overlap),
                })
            });
            key.secret_hash = hash;
            key.sealed_secret = sealed;
            key.rotated_at = Some(now);
        };
        let (key, endpoint) = self.write_key(key.id, Box::new(change), by).await?;
        if key.secret_hash != hash {
            let detail =
                "somebody else has rotated the key at the same time; their text is the new one";
            return Err(Refusal::new(ErrorCode::RotationPending, detail));
        }
        Ok(KeyMade {
            shown: KeyShown { key, endpoint },
            text,
            secret: None,
        })
    }

    /// Another text for a key, in the form that its profile gives those of tenants.
    async fn fresh_text(&self, key: &ApiKey) -> Result<Secret> {
        let Scope::Tenant(application, _) = key.scope else {
            return Ok(key_text(key.mode));
        };
        let profile = self.profile_of(application).await?.profile;
        Ok(match &profile.api_keys {
            Some(formats) => secret_text(&formats.secret, key.mode),
            None => key_text(key.mode),
        })
    }
}
