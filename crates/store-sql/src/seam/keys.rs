//! [`Keys`] of the store: each method is a question for a reader, or a change for the writer.

use async_trait::async_trait;
use postrider_core::audit::Actor;
use postrider_core::endpoint::Endpoint;
use postrider_core::tenant::ApiKey;
use postrider_core::{Id, Timestamp, id};
use postrider_store::{KeyChange, KeyFilter, Keys, Page, PageRequest, StoreError};

use crate::SqlStore;

#[async_trait]
impl Keys for SqlStore {
    async fn create_key(
        &self,
        key: ApiKey,
        endpoint: Option<Endpoint>,
        max: usize,
        by: Actor,
    ) -> Result<(), StoreError> {
        self.writer
            .make(by.account, move |tx| {
                tx.create_key(&key, endpoint.as_ref(), max, &by)
            })
            .await
    }

    async fn key_by_hash(&self, hash: [u8; 32]) -> Result<ApiKey, StoreError> {
        self.points
            .read(move |reader| reader.key_by_hash(hash))
            .await
    }

    async fn key_by_public_id(&self, public_id: &str) -> Result<ApiKey, StoreError> {
        let public_id = public_id.to_owned();
        self.points
            .read(move |reader| reader.key_by_public_id(&public_id))
            .await
    }

    async fn key(&self, id: Id<id::ApiKey>) -> Result<ApiKey, StoreError> {
        self.points.read(move |reader| reader.key_by_id(id)).await
    }

    async fn list_keys(
        &self,
        filter: KeyFilter,
        page: PageRequest,
    ) -> Result<Page<ApiKey>, StoreError> {
        self.lists
            .read(move |reader| reader.list_keys(filter, page))
            .await
    }

    async fn key_endpoint(&self, key: Id<id::ApiKey>) -> Result<Option<Endpoint>, StoreError> {
        self.points
            .read(move |reader| reader.key_endpoint(key))
            .await
    }

    async fn has_root_key(&self) -> Result<bool, StoreError> {
        self.points.read(|reader| reader.has_root_key()).await
    }

    async fn update_key(
        &self,
        id: Id<id::ApiKey>,
        change: KeyChange,
        by: Actor,
    ) -> Result<(ApiKey, Option<Endpoint>), StoreError> {
        self.writer
            .change(by.account, move |tx| tx.update_key(id, change, &by))
            .await
    }

    async fn delete_key(&self, id: Id<id::ApiKey>, by: Actor) -> Result<(), StoreError> {
        self.writer
            .call_by(by.account, move |tx| tx.delete_key(id, &by))
            .await
    }

    async fn use_nonce(
        &self,
        key: Id<id::ApiKey>,
        nonce: &str,
        expires_at: Timestamp,
    ) -> Result<bool, StoreError> {
        let nonce = nonce.to_owned();
        self.writer
            .call_by(key.as_u128(), move |tx| {
                tx.use_nonce(key, &nonce, expires_at)
            })
            .await
    }
}
