//! Random texts: keys and secrets, from the operating system's generator.

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use postrider_core::Secret;
use postrider_core::profile::SecretFormat;
use postrider_core::seal::{SealNonce, hex};
use postrider_core::tenant::Mode;

/// `len` random bytes.
///
/// # Panics
/// When the operating system gives no randomness: then nothing may be signed or sealed.
pub fn bytes(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    SystemRandom::new()
        .fill(&mut bytes)
        .expect("the operating system has a random generator");
    bytes
}

/// A nonce for one sealing.
pub(crate) fn seal_nonce() -> SealNonce {
    let mut nonce = SealNonce::default();
    let random = bytes(nonce.len());
    nonce.copy_from_slice(&random);
    nonce
}

/// A secret in a profile's format, for something of this mode.
pub(crate) fn secret_text(format: &SecretFormat, mode: Mode) -> Secret {
    format.make(mode, &bytes(format.random_len()))
}

/// An API key: a prefix that secret scanners can find, and 32 random bytes.
pub(crate) fn key_text(mode: Mode) -> Secret {
    Secret::new(format!(
        "pr_{}_{}",
        mode.as_str(),
        URL_SAFE_NO_PAD.encode(bytes(32))
    ))
}

/// The public part of a key whose requests are signed.
pub(crate) fn public_key_id(mode: Mode) -> String {
    format!("pk_{}_{}", mode.as_str(), hex(&bytes(12)))
}
