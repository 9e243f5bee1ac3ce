//! Signatures: what is signed, with which key, and how it is written into a header.

use std::fmt;

use aws_lc_rs::hmac;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::Secret;
use crate::profile::{
    FlatKv, FormTooLong, Hole, KeyBytes, Profile, RenderContext, SecretPolicy, Template,
};
use crate::seal::hex;

/// Prefix of an Ed25519 private key in Standard Webhooks.
pub(super) const PRIVATE_KEY_PREFIX: &str = "whsk_";
/// Prefix of an Ed25519 public key in Standard Webhooks.
pub(super) const PUBLIC_KEY_PREFIX: &str = "whpk_";
const ED25519_SEED_LEN: usize = 32;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignatureSpec {
    pub header: String,
    pub algorithm: Algorithm,
    pub input: SignedInput,
    pub encoding: Encoding,
    /// How one signature is written, around `{sig}`.
    pub each: Template,
    /// Written once before the signatures of this header.
    pub prefix: Option<Template>,
    /// Between the parts.
    pub join: String,
}

/// What is signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SignedInput {
    /// A text with `{body}`.
    Text(Template),
    /// A canonical form of the body.
    FlatKv(FlatKv),
}

impl SignedInput {
    pub(super) fn holes(&self) -> Vec<Hole> {
        match self {
            Self::Text(template) => template.holes().collect(),
            Self::FlatKv(_) => vec![Hole::Body],
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    HmacSha256,
    HmacSha1,
    Ed25519,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    Hex,
    Base64,
}

impl Encoding {
    pub(super) fn encode(self, bytes: &[u8]) -> String {
        match self {
            Self::Hex => hex(bytes),
            Self::Base64 => STANDARD.encode(bytes),
        }
    }
}

/// A key ready for use.
pub enum SigningKey {
    Hmac(Box<HmacKeys>),
    Ed25519(Box<Ed25519KeyPair>),
    /// Verifies only.
    Ed25519Public(Vec<u8>),
}

/// One secret, ready for each hash.
pub struct HmacKeys {
    sha256: hmac::Key,
    sha1: hmac::Key,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hmac(_) => "SigningKey(hmac)",
            Self::Ed25519(_) => "SigningKey(ed25519)",
            Self::Ed25519Public(_) => "SigningKey(ed25519 public)",
        })
    }
}

/// The text is not a secret of the profile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a signing secret of this profile: {0}")]
pub struct InvalidSecret(pub &'static str);

/// Makes a key from the text of a secret. `whsk_` and `whpk_` are understood where the policy
/// knows asymmetric keys.
///
/// # Errors
/// When the text has not the form that the policy asks for.
pub fn signing_key(policy: &SecretPolicy, secret: &Secret) -> Result<SigningKey, InvalidSecret> {
    let text = secret.expose();
    let decode = |text: &str| {
        STANDARD
            .decode(text)
            .map_err(|_| InvalidSecret("not base 64"))
    };
    if policy.asymmetric
        && let Some(key) = text.strip_prefix(PRIVATE_KEY_PREFIX)
    {
        let bytes = decode(key)?;
        // Of 64 bytes the first half is the seed; the public key behind it follows from that.
        let seed = bytes
            .get(..ED25519_SEED_LEN)
            .ok_or(InvalidSecret("an Ed25519 key has 32 or 64 bytes"))?;
        let pair = Ed25519KeyPair::from_seed_unchecked(seed)
            .map_err(|_| InvalidSecret("not an Ed25519 seed"))?;
        return Ok(SigningKey::Ed25519(Box::new(pair)));
    }
    if policy.asymmetric
        && let Some(key) = text.strip_prefix(PUBLIC_KEY_PREFIX)
    {
        return Ok(SigningKey::Ed25519Public(decode(key)?));
    }
    let bytes = match policy.key {
        KeyBytes::Utf8 => text.as_bytes().to_vec(),
        KeyBytes::Base64AfterPrefix => decode(
            text.strip_prefix(policy.format.prefix.as_str())
                .unwrap_or(text),
        )?,
    };
    // HMAC takes an empty key, and then everybody can sign.
    if bytes.is_empty() {
        return Err(InvalidSecret("empty"));
    }
    // Which of the hashes is asked for only the signature says: a profile may have both (GitHub).
    Ok(SigningKey::Hmac(Box::new(HmacKeys {
        sha256: hmac::Key::new(hmac::HMAC_SHA256, &bytes),
        sha1: hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &bytes),
    })))
}

/// Makes an Ed25519 private key from 32 random bytes, in the form of Standard Webhooks.
pub fn ed25519_secret(seed: &[u8; ED25519_SEED_LEN]) -> Secret {
    let pair = Ed25519KeyPair::from_seed_unchecked(seed).expect("any 32 bytes are an Ed25519 seed");
    let mut both = seed.to_vec();
    both.extend_from_slice(pair.public_key().as_ref());
    Secret::new(format!("{PRIVATE_KEY_PREFIX}{}", STANDARD.encode(both)))
}

/// The `whpk_` of a `whsk_`; none for other secrets.
pub fn ed25519_public(secret: &Secret) -> Option<String> {
    let bytes = STANDARD
        .decode(secret.expose().strip_prefix(PRIVATE_KEY_PREFIX)?)
        .ok()?;
    let pair = Ed25519KeyPair::from_seed_unchecked(bytes.get(..ED25519_SEED_LEN)?).ok()?;
    Some(format!(
        "{PUBLIC_KEY_PREFIX}{}",
        STANDARD.encode(pair.public_key().as_ref())
    ))
}

impl SigningKey {
    /// Signs, if this key is of the algorithm.
    pub(super) fn sign(&self, algorithm: Algorithm, input: &[u8]) -> Option<Vec<u8>> {
        match (self, algorithm) {
            (Self::Hmac(keys), Algorithm::HmacSha256) => {
                Some(hmac::sign(&keys.sha256, input).as_ref().to_vec())
            }
            (Self::Hmac(keys), Algorithm::HmacSha1) => {
                Some(hmac::sign(&keys.sha1, input).as_ref().to_vec())
            }
            (Self::Ed25519(pair), Algorithm::Ed25519) => Some(pair.sign(input).as_ref().to_vec()),
            _ => None,
        }
    }
}

impl Profile {
    /// Whether the data of an event can be signed in every form that this profile signs.
    ///
    /// # Errors
    /// When a form would be too long.
    pub fn check_signable(&self, data: &[u8]) -> Result<(), FormTooLong> {
        for spec in &self.signatures {
            if let SignedInput::FlatKv(form) = &spec.input {
                form.check(data)?;
            }
        }
        Ok(())
    }

    /// The signature headers of `body`: one for each header name, holding a signature for each key.
    pub(super) fn sign(
        &self,
        context: &RenderContext<'_>,
        body: &[u8],
        keys: &[&SigningKey],
    ) -> Result<Vec<(String, String)>, FormTooLong> {
        let mut headers: Vec<(String, String)> = Vec::new();
        for spec in &self.signatures {
            // Made once, however many keys sign: a canonical form can be long work.
            let mut input = None;
            for key in keys {
                let input = match &mut input {
                    Some(input) => input,
                    none => none.insert(self.signed_input(spec, context, body)?),
                };
                // HMAC and Ed25519 keys stand side by side; each signs what is of its kind.
                let Some(signature) = key.sign(spec.algorithm, input) else {
                    continue;
                };
                let text = write_each(spec, &spec.encoding.encode(&signature));
                // All signatures of a header are one value: those of secrets in overlap, and of both kinds of
                // keys.
                match headers.iter_mut().find(|(name, _)| *name == spec.header) {
                    Some((_, value)) => {
                        value.push_str(&spec.join);
                        value.push_str(&text);
                    }
                    None => {
                        let mut value = String::new();
                        if let Some(prefix) = &spec.prefix {
                            value.push_str(&self.render_text(prefix, context));
                            value.push_str(&spec.join);
                        }
                        value.push_str(&text);
                        headers.push((spec.header.clone(), value));
                    }
                }
            }
        }
        Ok(headers)
    }

    fn signed_input(
        &self,
        spec: &SignatureSpec,
        context: &RenderContext<'_>,
        body: &[u8],
    ) -> Result<Vec<u8>, FormTooLong> {
        let template = match &spec.input {
            SignedInput::FlatKv(form) => return form.canonical(body),
            SignedInput::Text(template) => template,
        };
        let mut input = Vec::with_capacity(body.len() + 96);
        template.render(&mut input, |hole, out| match hole {
            Hole::Body => out.extend_from_slice(body),
            _ => self.fill_text(hole, context, out),
        });
        Ok(input)
    }
}

fn write_each(spec: &SignatureSpec, signature: &str) -> String {
    let mut text = Vec::new();
    spec.each.render(&mut text, |hole, out| {
        if hole == Hole::Sig {
            out.extend_from_slice(signature.as_bytes());
        }
    });
    String::from_utf8(text).unwrap_or_default()
}
