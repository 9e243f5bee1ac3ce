//! Nonces: that a signed request comes once.

use postrider_core::seal::sha256;
use postrider_core::{Id, Timestamp, id};

use crate::Service;
use crate::refusal::Result;

impl Service {
    /// Whether this process has seen a nonce used lately. It writes nothing.
    pub fn saw_nonce(&self, key: Id<id::ApiKey>, nonce: &str) -> bool {
        self.0.nonces.get(&seen(key, nonce)).is_some()
    }

    /// Uses a nonce up until `expires_at`; false when it was used before.
    ///
    /// # Errors
    /// What the store answers.
    pub async fn use_nonce(
        &self,
        key: Id<id::ApiKey>,
        nonce: &str,
        expires_at: Timestamp,
    ) -> Result<bool> {
        // The store decides: a nonce may come twice at once, or have been used before the last start.
        let fresh = self.store().use_nonce(key, nonce, expires_at).await?;
        // One that was used before the last start, too: it is not asked for again with each repetition.
        self.0.nonces.insert(seen(key, nonce), ());
        Ok(fresh)
    }
}

fn seen(key: Id<id::ApiKey>, nonce: &str) -> (u128, [u8; 32]) {
    (key.as_u128(), sha256(nonce.as_bytes()))
}
