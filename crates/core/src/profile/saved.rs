//! A request that a receiver saved: what to verify when a signature is in doubt.

use super::{InvalidSecret, Profile, SigningKey, signing_key};
use crate::Secret;

/// A text that is no saved request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{found}a saved request has header lines such as \"webhook-id: msg_1\", an empty line, and the body"
)]
pub struct InvalidSaved {
    /// What was found instead, as the begin of the sentence.
    found: String,
}

/// A text that is no secret of a profile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoSecret {
    #[error(
        "a secret of the profile {profile} begins with {prefix}; copy the whole text that was shown with the endpoint"
    )]
    Prefix { profile: String, prefix: String },
    #[error(transparent)]
    Invalid(#[from] InvalidSecret),
}

/// Header lines by name, in their order.
pub type SavedHeaders<'s> = Vec<(&'s str, &'s str)>;

/// Header lines, with or without a request line before them, and the body after an empty line, byte for byte.
///
/// # Errors
/// When there is no empty line, or a line before it is no header.
pub fn saved_request(saved: &[u8]) -> Result<(SavedHeaders<'_>, &[u8]), InvalidSaved> {
    let invalid = || InvalidSaved {
        found: String::new(),
    };
    let mut headers = Vec::new();
    let mut rest = saved;
    loop {
        let end = rest.iter().position(|byte| *byte == b'\n');
        let end = end.ok_or_else(invalid)?;
        let text = std::str::from_utf8(&rest[..end]).map_err(|_| invalid())?;
        let text = text.trim_end_matches('\r');
        rest = &rest[end + 1..];
        if text.is_empty() {
            return Ok((headers, rest));
        }
        match text.split_once(':') {
            // A request line may have a colon too, that of a URL; the name of a header has no blank.
            Some((name, value)) if !name.contains(' ') => headers.push((name, value.trim())),
            // `POST /hook HTTP/1.1`
            _ if headers.is_empty() => {}
            _ => {
                let found = format!("{text:?} is no header; ");
                return Err(InvalidSaved { found });
            }
        }
    }
}

impl Profile {
    /// Reads a secret as this profile's receivers have it.
    ///
    /// # Errors
    /// When it has another form: it would refuse every signature without a reason.
    pub fn verifying_key(&self, text: &str) -> Result<SigningKey, NoSecret> {
        let format = &self.secret.format;
        let public = self.secret.asymmetric && text.starts_with("whpk_");
        if !public && !format.begins(text) {
            return Err(NoSecret::Prefix {
                profile: self.name.clone(),
                prefix: format.begin(),
            });
        }
        Ok(signing_key(&self.secret, &Secret::new(text))?)
    }
}
