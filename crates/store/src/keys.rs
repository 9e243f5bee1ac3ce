//! API keys, and the nonces of signed requests.

use async_trait::async_trait;
use postrider_core::audit::Actor;
use postrider_core::endpoint::Endpoint;
use postrider_core::tenant::ApiKey;
use postrider_core::{Id, Timestamp, id};

use crate::{KeyChange, KeyFilter, Page, PageRequest, StoreError};

/// Keys. Every change is recorded in the audit log, in the same transaction, as `by`'s.
#[async_trait]
pub trait Keys: Send + Sync + 'static {
    /// Makes a key, and the endpoint that it owns if it has one. `Conflict(KeysMax)` when its tenant, its application
    /// where it is none of a tenant's, or else the root would have more than `max`. `Conflict(NameTaken)` when another key has its
    /// public id, or has or had its text.
    async fn create_key(
        &self,
        key: ApiKey,
        endpoint: Option<Endpoint>,
        max: usize,
        by: Actor,
    ) -> Result<(), StoreError>;

    /// A deleted owner's keys are not found by what callers send.
    async fn key_by_hash(&self, hash: [u8; 32]) -> Result<ApiKey, StoreError>;

    async fn key_by_public_id(&self, public_id: &str) -> Result<ApiKey, StoreError>;

    async fn key(&self, id: Id<id::ApiKey>) -> Result<ApiKey, StoreError>;

    async fn list_keys(
        &self,
        filter: KeyFilter,
        page: PageRequest,
    ) -> Result<Page<ApiKey>, StoreError>;

    /// The endpoint that a key owns, unless it is deleted.
    async fn key_endpoint(&self, key: Id<id::ApiKey>) -> Result<Option<Endpoint>, StoreError>;

    /// Whether a root key is there with which a person can manage the server: live and not disabled.
    async fn has_root_key(&self) -> Result<bool, StoreError>;

    /// Applies `change` and returns the key and its endpoint as they are then.
    /// `Conflict(LastRootKey)` when no root key would be left that [`Keys::has_root_key`] means.
    async fn update_key(
        &self,
        id: Id<id::ApiKey>,
        change: KeyChange,
        by: Actor,
    ) -> Result<(ApiKey, Option<Endpoint>), StoreError>;

    /// Deletes a key and the endpoint that it owns. `Conflict(LastRootKey)` as above.
    async fn delete_key(&self, id: Id<id::ApiKey>, by: Actor) -> Result<(), StoreError>;

    /// Notes a nonce until `expires_at`; false when it is noted already.
    async fn use_nonce(
        &self,
        key: Id<id::ApiKey>,
        nonce: &str,
        expires_at: Timestamp,
    ) -> Result<bool, StoreError>;
}
