//! Verification: what a receiver does with a request of this profile.

use std::collections::HashMap;
use std::time::Duration;

use aws_lc_rs::signature::{ED25519, KeyPair, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::Timestamp;
use crate::limits::SIGNATURE_TOLERANCE_SECS;
use crate::profile::{Algorithm, Hole, Profile, SignatureSpec, SignedInput, SigningKey};
use crate::secret::constant_time_eq;

/// Signatures of one header that are verified one by one: more than an endpoint has secrets.
const ED25519_PARTS_MAX: usize = 16;

/// Why a request is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    #[error("the header {0} is missing")]
    MissingHeader(String),
    #[error("the header {0} has not the form that the profile writes")]
    Malformed(String),
    #[error("the signed time is more than {SIGNATURE_TOLERANCE_SECS} s off")]
    Stale,
    #[error("no signature matches the secret")]
    Mismatch,
    #[error(transparent)]
    TooLong(#[from] super::FormTooLong),
}

impl Profile {
    /// Verifies a request as its receiver: one matching signature of any key is enough.
    ///
    /// `header` looks a header up whatever its case. A signed time (`attempt.unix`) must be near `now`.
    ///
    /// # Errors
    /// When a header is missing or malformed, the time is off, or nothing matches.
    pub fn verify<'h>(
        &self,
        header: &dyn Fn(&str) -> Option<&'h str>,
        body: &[u8],
        keys: &[SigningKey],
        now: Timestamp,
    ) -> Result<(), VerifyError> {
        let keys: Vec<&SigningKey> = keys.iter().collect();
        self.verify_by(header, body, &keys, now)
    }

    /// As [`Profile::verify`], with keys that are kept elsewhere.
    ///
    /// # Errors
    /// As [`Profile::verify`].
    pub fn verify_by<'h>(
        &self,
        header: &dyn Fn(&str) -> Option<&'h str>,
        body: &[u8],
        keys: &[&SigningKey],
        now: Timestamp,
    ) -> Result<(), VerifyError> {
        let mut known = self.captured(header);
        // A profile may sign twice, and one signature is enough: what is missing is told when none matches.
        let mut missing = None;
        for spec in &self.signatures {
            let Some(value) = header(&spec.header) else {
                missing.get_or_insert_with(|| VerifyError::MissingHeader(spec.header.clone()));
                continue;
            };
            let mut parts: Vec<&str> = value.split(spec.join.as_str()).collect();
            // An empty separator cuts between all characters.
            if spec.join.is_empty() {
                parts = vec![value];
            }
            if let Some(prefix) = &spec.prefix {
                let captured = parts.first().and_then(|part| prefix.capture(part));
                let (hole, text) =
                    captured.ok_or_else(|| VerifyError::Malformed(spec.header.clone()))?;
                known.insert(hole, text.to_owned());
            }
            let input = self.input_from(spec, &known, body)?;
            if !matches_any(spec, &parts, &input, keys) {
                continue;
            }
            // Behind the signature, and only where that holds the time: any other may be anybody's.
            return match known.get(&Hole::AttemptUnix) {
                Some(at) if spec.input.holes().contains(&Hole::AttemptUnix) => fresh(at, now),
                _ => Ok(()),
            };
        }
        Err(missing.unwrap_or(VerifyError::Mismatch))
    }

    /// What each signature of a request is of: the header that has it, and the bytes that were signed, as a receiver makes
    /// them of the headers and the body. Signatures that the request has not are left out.
    pub fn signed<'h>(
        &self,
        header: &dyn Fn(&str) -> Option<&'h str>,
        body: &[u8],
    ) -> Vec<(&str, Vec<u8>)> {
        let mut known = self.captured(header);
        let mut signed = Vec::new();
        for spec in &self.signatures {
            let Some(value) = header(&spec.header) else {
                continue;
            };
            let first = value.split(spec.join.as_str()).next().unwrap_or_default();
            let first = if spec.join.is_empty() { value } else { first };
            let prefix = spec.prefix.as_ref();
            if let Some((hole, text)) = prefix.and_then(|prefix| prefix.capture(first)) {
                known.insert(hole, text.to_owned());
            }
            if let Ok(input) = self.input_from(spec, &known, body) {
                signed.push((spec.header.as_str(), input));
            }
        }
        signed
    }

    /// The values that the headers of this profile carry.
    fn captured<'h>(&self, header: &dyn Fn(&str) -> Option<&'h str>) -> HashMap<Hole, String> {
        let captures = self
            .headers
            .iter()
            .filter_map(|spec| spec.value.capture(header(&spec.name)?));
        captures
            .map(|(hole, text)| (hole, text.to_owned()))
            .collect()
    }

    fn input_from(
        &self,
        spec: &SignatureSpec,
        known: &HashMap<Hole, String>,
        body: &[u8],
    ) -> Result<Vec<u8>, VerifyError> {
        let template = match &spec.input {
            SignedInput::FlatKv(form) => return Ok(form.canonical(body)?),
            SignedInput::Text(template) => template,
        };
        let mut input = Vec::new();
        let mut lacking = None;
        template.render(&mut input, |hole, out| match (hole, known.get(&hole)) {
            (Hole::Body, _) => out.extend_from_slice(body),
            (_, Some(text)) => out.extend_from_slice(text.as_bytes()),
            (_, None) => lacking = Some(hole),
        });
        match lacking {
            None => Ok(input),
            Some(hole) => {
                let carrier = self
                    .headers
                    .iter()
                    .find(|spec| spec.value.holes().any(|h| h == hole));
                Err(VerifyError::MissingHeader(carrier.map_or_else(
                    || spec.header.clone(),
                    |spec| spec.name.clone(),
                )))
            }
        }
    }
}

/// Whether one of a header's parts is a signature by one of the keys. Each key signs once, however many parts a sender
/// writes; where a part itself has to be looked at, the first few are.
fn matches_any(spec: &SignatureSpec, parts: &[&str], input: &[u8], keys: &[&SigningKey]) -> bool {
    let given = parts
        .iter()
        .filter_map(|part| match spec.each.capture(part) {
            Some((Hole::Sig, given)) => Some(given),
            Some(_) | None => None,
        });
    let given: Vec<&str> = given.collect();
    let any_of = |public: &[u8]| {
        let mut looked_at = given.iter().take(ED25519_PARTS_MAX);
        looked_at.any(|given| ed25519_matches(public, input, given))
    };
    keys.iter().any(|key| match (spec.algorithm, key) {
        (Algorithm::Ed25519, SigningKey::Ed25519(pair)) => any_of(pair.public_key().as_ref()),
        (Algorithm::Ed25519, SigningKey::Ed25519Public(public)) => any_of(public),
        (algorithm, key) => key.sign(algorithm, input).is_some_and(|expected| {
            let expected = spec.encoding.encode(&expected);
            let is_it = |given: &&str| constant_time_eq(expected.as_bytes(), given.as_bytes());
            given.iter().any(is_it)
        }),
    })
}

fn ed25519_matches(public: &[u8], input: &[u8], given: &str) -> bool {
    let Ok(signature) = STANDARD.decode(given) else {
        return false;
    };
    UnparsedPublicKey::new(&ED25519, public)
        .verify(input, &signature)
        .is_ok()
}

fn fresh(at: &str, now: Timestamp) -> Result<(), VerifyError> {
    let at: i64 = at.parse().map_err(|_| VerifyError::Stale)?;
    let distance = (now.as_unix() - at).unsigned_abs();
    if Duration::from_secs(distance) > Duration::from_secs(SIGNATURE_TOLERANCE_SECS) {
        return Err(VerifyError::Stale);
    }
    Ok(())
}
