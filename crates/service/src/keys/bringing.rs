//! What a customer's key is already, in the system that a product moves from.

use postrider_core::Secret;
use postrider_core::limits::KEY_BYTES_MAX;
use postrider_core::profile::{Profile, SecretScope};
use postrider_store::{Rule, StoreError};

use super::NewKey;
use crate::endpoints::usable;
use crate::refusal::{ErrorCode, Refusal, Result};

/// Why a key was not made.
pub(super) fn not_made(error: StoreError) -> Refusal {
    match error {
        StoreError::Conflict {
            rule: Rule::NameTaken,
        } => Refusal::new(
            ErrorCode::NameTaken,
            "another key of this server has, or had, this publicId or this key",
        ),
        error => error.into(),
    }
}

/// What of a key only a tenant's has, if it is given.
pub(super) fn of_tenants(new: &NewKey) -> Option<&'static str> {
    let given = [
        ("webhook", new.webhook.is_some()),
        ("publicId", new.public_id.is_some()),
        ("key", new.key.is_some()),
        ("secret", new.secret.is_some()),
    ];
    let mut given = given.into_iter().filter(|(_, is_given)| *is_given);
    given.next().map(|(field, _)| field)
}

/// Bytes of a key's text that is brought: a shorter one could be found by trying.
const TEXT_BYTES_MIN: usize = 16;

/// What a customer has of their key already, in the system that moves here.
#[derive(Default)]
pub(super) struct Brought {
    pub(super) pair: Option<(String, Secret)>,
    /// Of its webhook.
    pub(super) secret: Option<Secret>,
}

impl Brought {
    pub(super) fn checked(profile: &Profile, new: &mut NewKey) -> Result<Self> {
        let plain = |field: &str, text: &str, min: usize| {
            let is_plain = text.bytes().all(|byte| byte.is_ascii_graphic());
            if is_plain && (min..=KEY_BYTES_MAX).contains(&text.len()) {
                return Ok(());
            }
            let rule = format!("must have {min} to {KEY_BYTES_MAX} printable ASCII characters");
            Err(Refusal::invalid(field, rule))
        };
        let pair = match (new.public_id.take(), new.key.take()) {
            (None, None) => None,
            (Some(public), Some(text)) => {
                plain("publicId", &public, 1)?;
                plain("key", &text, TEXT_BYTES_MIN)?;
                Some((public, Secret::new(text)))
            }
            (Some(_), None) => return Err(Refusal::invalid("key", "is needed with publicId")),
            (None, Some(_)) => return Err(Refusal::invalid("publicId", "is needed with key")),
        };
        let secret = match new.secret.take() {
            None => None,
            Some(_) if new.webhook.is_none() => {
                return Err(Refusal::invalid("secret", "is needed with webhook only"));
            }
            Some(_) if profile.secret.scope == SecretScope::Tenant => {
                return Err(Refusal::invalid(
                    "secret",
                    "is the tenant's: bring it there",
                ));
            }
            Some(text) => Some(usable(profile, "secret", text)?),
        };
        Ok(Self { pair, secret })
    }
}
