//! Sealing of secrets at rest: AES-256-GCM under a master key.
//!
//! A sealed value is `[format 1][key id 4][nonce 12][ciphertext and tag]`. The key id tells which
//! of several master keys opens it, so that a master key can be replaced while old values remain.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::{digest, hmac};

use crate::Secret;

/// Bound to what kind of thing it belongs to: written by older versions.
const FORMAT_BY_KIND: u8 = 1;
/// Bound to the very row that it belongs to.
const FORMAT: u8 = 2;
const HEADER_LEN: usize = 1 + KEY_ID_LEN + NONCE_LEN;
const KEY_ID_LEN: usize = 4;

/// Random bytes that a caller must supply for one sealing; never used twice.
pub type SealNonce = [u8; NONCE_LEN];

/// Seals with its first key, opens with any.
pub struct Sealer {
    keys: Vec<MasterKey>,
}

struct MasterKey {
    id: [u8; KEY_ID_LEN],
    key: LessSafeKey,
    deriving: hmac::Key,
}

/// Why a value could not be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    #[error("a sealed value is shorter than its header or of an unknown format")]
    Malformed,
    #[error(
        "a sealed value needs a master key that is not configured; restore the master key file this store was created with"
    )]
    UnknownKey,
    #[error(
        "a sealed value does not open under its master key; the store or the key file was altered"
    )]
    Forged,
}

impl Sealer {
    /// `current` seals; `previous` keys only open. Each key is 32 bytes.
    pub fn new(current: &[u8; 32], previous: &[[u8; 32]]) -> Self {
        let keys = std::iter::once(current)
            .chain(previous)
            .map(MasterKey::new)
            .collect();
        Self { keys }
    }

    /// Seals `secret`; `context` and `row` must be the same when opening, so a value cannot be moved to
    /// another row or another column.
    pub fn seal(&self, secret: &Secret, nonce: SealNonce, context: &str, row: u128) -> Vec<u8> {
        // There is always one, and `new` has put the current one first.
        let master = &self.keys[0];
        let mut sealed = Vec::with_capacity(HEADER_LEN + secret.expose().len() + 16);
        sealed.push(FORMAT);
        sealed.extend_from_slice(&master.id);
        sealed.extend_from_slice(&nonce);
        let mut body = secret.expose().as_bytes().to_vec();
        master
            .key
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(place(context, row)),
                &mut body,
            )
            .expect("secrets are far below the limit of AES-GCM");
        sealed.extend_from_slice(&body);
        sealed
    }

    /// A secret that whoever has a master key can work out, and nobody else: one for each purpose and key, the key that
    /// seals first.
    pub fn derived_by_all(&self, purpose: &str) -> Vec<Secret> {
        let derive = |key: &MasterKey| {
            let tag = hmac::sign(&key.deriving, purpose.as_bytes());
            Secret::new(hex(tag.as_ref()))
        };
        self.keys.iter().map(derive).collect()
    }

    /// # Errors
    /// When the value is malformed, of an unknown key, altered, or sealed for another context.
    pub fn open(&self, sealed: &[u8], context: &str, row: u128) -> Result<Secret, SealError> {
        let place = match sealed.first() {
            Some(&FORMAT) => place(context, row),
            Some(&FORMAT_BY_KIND) => context.as_bytes().to_vec(),
            _ => return Err(SealError::Malformed),
        };
        // `split_at` panics at what is shorter.
        if sealed.len() < HEADER_LEN {
            return Err(SealError::Malformed);
        }
        let (header, body) = sealed.split_at(HEADER_LEN);
        let (id, nonce) = header[1..].split_at(KEY_ID_LEN);
        let master = self
            .keys
            .iter()
            .find(|master| master.id == id)
            .ok_or(SealError::UnknownKey)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| SealError::Malformed)?;
        let mut body = body.to_vec();
        let plain = master
            .key
            .open_in_place(nonce, Aad::from(place), &mut body)
            .map_err(|_| SealError::Forged)?;
        // Only texts are ever sealed.
        let text = std::str::from_utf8(plain).map_err(|_| SealError::Forged)?;
        Ok(Secret::new(text))
    }
}

/// Whether bytes are a sealed value. Text that may be a header's value never is.
pub fn is_sealed(bytes: &[u8]) -> bool {
    matches!(bytes.first(), Some(&(FORMAT | FORMAT_BY_KIND)))
}

fn place(context: &str, row: u128) -> Vec<u8> {
    let mut place = context.as_bytes().to_vec();
    place.extend_from_slice(&row.to_be_bytes());
    place
}

impl MasterKey {
    fn new(bytes: &[u8; 32]) -> Self {
        // The id stands in the clear beside every value: of the key it tells nothing.
        let hash = digest::digest(&digest::SHA256, bytes);
        let mut id = [0; KEY_ID_LEN];
        id.copy_from_slice(&hash.as_ref()[..KEY_ID_LEN]);
        let key = UnboundKey::new(&AES_256_GCM, bytes).expect("32 bytes are an AES-256 key");
        Self {
            id,
            key: LessSafeKey::new(key),
            deriving: hmac::Key::new(hmac::HMAC_SHA256, bytes),
        }
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealer({} keys)", self.keys.len())
    }
}

/// What only whoever has `secret` can make of a text: shows that they have it, and not what it is.
pub fn proof(secret: &Secret, text: &str) -> Secret {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.expose().as_bytes());
    Secret::new(hex(hmac::sign(&key, text.as_bytes()).as_ref()))
}

/// SHA-256, as lower-case hex.
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

/// SHA-256.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    digest::digest(&digest::SHA256, bytes)
        .as_ref()
        .try_into()
        .expect("SHA-256 has 32 bytes")
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text
}

/// What [`hex`] made of a digest; none of anything else.
pub fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut digest = [0; 32];
    if text.len() != 2 * digest.len() || !text.is_ascii() {
        return None;
    }
    for (byte, at) in digest.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(text.get(at..at + 2)?, 16).ok()?;
    }
    Some(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_derived_secret_is_of_the_key_and_of_its_purpose() {
        let derived = |key: u8, purpose| {
            Sealer::new(&[key; 32], &[])
                .derived_by_all(purpose)
                .remove(0)
        };
        let nodes = derived(1, "nodes");
        let all = Sealer::new(&[2; 32], &[[1; 32]]).derived_by_all("nodes");
        assert_eq!(all[1].expose(), nodes.expose());
        assert_eq!(proof(&nodes, "a").expose(), proof(&nodes, "a").expose());
        assert_ne!(proof(&nodes, "a").expose(), proof(&nodes, "b").expose());
        assert_eq!(nodes.expose().len(), 64);
        assert_eq!(derived(1, "nodes").expose(), nodes.expose());
        assert_ne!(derived(2, "nodes").expose(), nodes.expose());
        assert_ne!(derived(1, "other").expose(), nodes.expose());
    }

    #[test]
    fn a_sealed_secret_opens_only_whole_in_its_place_and_with_its_key() {
        let sealer = Sealer::new(&[1; 32], &[]);
        let sealed = sealer.seal(&Secret::new("whs_x"), [9; 12], "endpoint", 7);
        assert_eq!(
            sealer.open(&sealed, "endpoint", 7).unwrap().expose(),
            "whs_x"
        );
        assert_eq!(sealer.open(&sealed, "tenant", 7), Err(SealError::Forged));
        assert_eq!(
            sealer.open(&sealed, "endpoint", 8),
            Err(SealError::Forged),
            "another row"
        );
        assert_eq!(
            Sealer::new(&[2; 32], &[]).open(&sealed, "endpoint", 7),
            Err(SealError::UnknownKey)
        );
        assert_eq!(
            Sealer::new(&[2; 32], &[[1; 32]])
                .open(&sealed, "endpoint", 7)
                .unwrap()
                .expose(),
            "whs_x"
        );
        assert_eq!(
            sealer.open(&sealed[..10], "endpoint", 7),
            Err(SealError::Malformed)
        );
        for i in 17..sealed.len() {
            let mut altered = sealed.clone();
            altered[i] ^= 1;
            assert_eq!(
                sealer.open(&altered, "endpoint", 7),
                Err(SealError::Forged),
                "byte {i}"
            );
        }
    }
}
