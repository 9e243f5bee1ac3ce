//! [`Keys`] of the model.

use async_trait::async_trait;
use postrider_core::audit::Actor;
use postrider_core::endpoint::Endpoint;
use postrider_core::limits::ENDPOINTS_MAX;
use postrider_core::tenant::ApiKey;
use postrider_core::{Id, Timestamp, id};

use crate::memory::MemoryStore;
use crate::{KeyChange, KeyFilter, Keys, Page, PageRequest, Rule, StoreError};

#[async_trait]
impl Keys for MemoryStore {
    async fn create_key(
        &self,
        key: ApiKey,
        endpoint: Option<Endpoint>,
        max: usize,
        by: Actor,
    ) -> Result<(), StoreError> {
        let mut state = self.state();
        let owned = state.keys.values().filter(|other| other.scope == key.scope);
        if owned.count() >= max {
            return Err(StoreError::conflict(Rule::KeysMax));
        }
        let is_taken = |other: &ApiKey| {
            let previous = other.previous.as_ref();
            other.secret_hash == key.secret_hash
                || previous.is_some_and(|text| text.secret_hash == key.secret_hash)
                || (key.public_id.is_some() && other.public_id == key.public_id)
        };
        if state.keys.values().any(is_taken) {
            return Err(StoreError::conflict(Rule::NameTaken));
        }
        if let Some(endpoint) = endpoint {
            state.create_endpoint(endpoint.clone(), Some(ENDPOINTS_MAX))?;
            state.note(&self.ids, &by, None, Some(&endpoint));
        }
        state.create_key(key.clone())?;
        state.note(&self.ids, &by, None, Some(&key));
        Ok(())
    }

    async fn key_by_hash(&self, hash: [u8; 32]) -> Result<ApiKey, StoreError> {
        let state = self.state();
        let is_its = |key: &ApiKey| {
            let previous = key.previous.as_ref();
            key.secret_hash == hash || previous.is_some_and(|text| text.secret_hash == hash)
        };
        // A deleted owner's keys open nothing from the deletion on, though they are erased later.
        state.key_where(|key| is_its(key) && state.is_owned(key.scope))
    }

    async fn key_by_public_id(&self, public_id: &str) -> Result<ApiKey, StoreError> {
        let state = self.state();
        state.key_where(|key| {
            key.public_id.as_deref() == Some(public_id) && state.is_owned(key.scope)
        })
    }

    async fn key(&self, id: Id<id::ApiKey>) -> Result<ApiKey, StoreError> {
        let state = self.state();
        state.key_where(|key| key.id == id && state.is_owned(key.scope))
    }

    async fn list_keys(
        &self,
        filter: KeyFilter,
        page: PageRequest,
    ) -> Result<Page<ApiKey>, StoreError> {
        self.state().list_keys(filter, page)
    }

    async fn key_endpoint(&self, key: Id<id::ApiKey>) -> Result<Option<Endpoint>, StoreError> {
        Ok(self.state().key_endpoint(key))
    }

    async fn has_root_key(&self) -> Result<bool, StoreError> {
        Ok(self.state().has_root_key())
    }

    async fn update_key(
        &self,
        id: Id<id::ApiKey>,
        change: KeyChange,
        by: Actor,
    ) -> Result<(ApiKey, Option<Endpoint>), StoreError> {
        self.state().update_key(&self.ids, id, change, &by)
    }

    async fn delete_key(&self, id: Id<id::ApiKey>, by: Actor) -> Result<(), StoreError> {
        let mut state = self.state();
        let before = state.key_where(|key| key.id == id)?;
        state.keep_a_root_key(&before, None)?;
        if let Some(endpoint) = state.key_endpoint(id) {
            state.delete_endpoint(endpoint.id, by.at)?;
            state.note(&self.ids, &by, Some(&endpoint), None);
        }
        state.delete_key(id)?;
        state.note(&self.ids, &by, Some(&before), None);
        Ok(())
    }

    async fn use_nonce(
        &self,
        key: Id<id::ApiKey>,
        nonce: &str,
        expires_at: Timestamp,
    ) -> Result<bool, StoreError> {
        Ok(self
            .state()
            .nonces
            .insert((key.as_u128(), nonce.to_owned()), expires_at)
            .is_none())
    }
}
