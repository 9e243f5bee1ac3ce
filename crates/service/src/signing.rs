//! Requests that are signed with a key, for the APIs that want them: the secret that verifies one, and that it
//! comes once.

use postrider_core::seal::sha256;
use postrider_core::tenant::ApiKey;
use postrider_core::{Id, Secret, Timestamp, id};

use crate::Service;
use crate::keys::KEY_SECRET_CONTEXT;
use crate::refusal::{Refusal, Result};

impl Service {
    /// The key with this public id, which proves nothing yet; none of it is known.
    ///
    /// # Errors
    /// What the store answers.
    pub async fn key_by_public_id(&self, public_id: &str) -> Result<Option<ApiKey>> {
        match self.store().key_by_public_id(public_id).await {
            Ok(key) => Ok(Some(key)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The secret that requests with a key are signed with; none of one whose requests are not.
    ///
    /// # Errors
    /// `internal` when it does not open.
    pub fn signing_secret(&self, key: &ApiKey) -> Result<Option<Secret>> {
        let Some(sealed) = key.sealed_secret.as_deref() else {
            return Ok(None);
        };
        let opened = self
            .0
            .sealer
            .open(sealed, KEY_SECRET_CONTEXT, key.id.as_u128());
        opened.map(Some).map_err(Refusal::internal)
    }

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
        let fresh = self.store().use_nonce(key, nonce, expires_at).await?;
        if fresh {
            self.0.nonces.insert(seen(key, nonce), ());
        }
        Ok(fresh)
    }
}

fn seen(key: Id<id::ApiKey>, nonce: &str) -> (u128, [u8; 32]) {
    (key.as_u128(), sha256(nonce.as_bytes()))
}
