//! What nearly every request asks: whose key, whose tenant, which profile. Held in memory.
//!
//! What changes is forgotten at once.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use postrider_core::tenant::{ApiKey, Application, Tenant};
use postrider_core::{Id, id};
use postrider_engine::{CurrentProfile, Engine};
use postrider_store::{Store, StoreError};

use crate::problem::{ApiError, ApiResult};
use crate::schemas::Schemas;

/// Entries held of a kind; beyond, all are forgotten and read again as they are needed.
const HELD_MAX: usize = 50_000;

pub(crate) struct Directory {
    store: Arc<dyn Store>,
    engine: Arc<Engine>,
    keys: Held<[u8; 32], ApiKey>,
    tenants: Held<Id<id::Tenant>, Tenant>,
    applications: Held<Id<id::Application>, Application>,
    schemas: Held<Id<id::Application>, Schemas>,
    /// Keys that events are addressed to, by their public id, each with its endpoint.
    addressees: Held<String, Addressee>,
}

/// A key that an event can be addressed to.
pub(crate) struct Addressee {
    pub(crate) key: ApiKey,
    pub(crate) endpoint: Option<Id<id::Endpoint>>,
}

struct Held<K, V> {
    values: Mutex<HashMap<K, Arc<V>>>,
    /// Counts forgettings: what was read before one must not be kept after it.
    generation: AtomicU64,
}

impl<K: Eq + Hash, V> Held<K, V> {
    fn new() -> Self {
        Self {
            values: Mutex::new(HashMap::new()),
            generation: AtomicU64::new(0),
        }
    }

    async fn get<E>(&self, key: K, read: impl Future<Output = Result<V, E>>) -> Result<Arc<V>, E> {
        if let Some(value) = self
            .values
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&key)
        {
            return Ok(value.clone());
        }
        let generation = self.generation.load(Ordering::Relaxed);
        let value = Arc::new(read.await?);
        let mut held = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        if self.generation.load(Ordering::Relaxed) != generation {
            return Ok(value);
        }
        if held.len() >= HELD_MAX {
            held.clear();
        }
        held.insert(key, value.clone());
        Ok(value)
    }

    fn forget(&self, key: &K) {
        let mut held = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        self.generation.fetch_add(1, Ordering::Relaxed);
        held.remove(key);
    }

    fn clear(&self) {
        let mut held = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        self.generation.fetch_add(1, Ordering::Relaxed);
        held.clear();
    }
}

impl Directory {
    pub(crate) fn new(store: Arc<dyn Store>, engine: Arc<Engine>) -> Self {
        Self {
            store,
            engine,
            keys: Held::new(),
            tenants: Held::new(),
            applications: Held::new(),
            schemas: Held::new(),
            addressees: Held::new(),
        }
    }

    pub(crate) async fn key(&self, hash: [u8; 32]) -> Result<Arc<ApiKey>, StoreError> {
        self.keys.get(hash, self.store.key_by_hash(hash)).await
    }

    pub(crate) async fn tenant(&self, id: Id<id::Tenant>) -> ApiResult<Arc<Tenant>> {
        Ok(self.tenants.get(id, self.store.tenant(id)).await?)
    }

    pub(crate) async fn application(&self, id: Id<id::Application>) -> ApiResult<Arc<Application>> {
        Ok(self
            .applications
            .get(id, self.store.application(id))
            .await?)
    }

    /// The key with this public id.
    pub(crate) async fn addressee(&self, public_id: &str) -> Result<Arc<Addressee>, StoreError> {
        let read = async {
            let key = self.store.key_by_public_id(public_id).await?;
            let endpoint = self.store.key_endpoint(key.id).await?;
            Ok(Addressee {
                key,
                endpoint: endpoint.map(|endpoint| endpoint.id),
            })
        };
        self.addressees.get(public_id.to_owned(), read).await
    }

    /// The schemas of an application's event types: its own, and those of its profile.
    pub(crate) async fn schemas(&self, id: Id<id::Application>) -> ApiResult<Arc<Schemas>> {
        let profile = self.profile(id).await?.profile;
        let read = async {
            let own = self.store.list_event_types(id).await?;
            Schemas::new(profile, own).await
        };
        self.schemas.get(id, read).await
    }

    pub(crate) fn forget_schemas(&self, application: Id<id::Application>) {
        self.schemas.forget(&application);
    }

    pub(crate) fn forget_tenants(&self) {
        self.tenants.clear();
    }

    /// The profile that new endpoints and events of an application get.
    pub(crate) async fn profile(
        &self,
        application: Id<id::Application>,
    ) -> ApiResult<CurrentProfile> {
        let application = self.application(application).await?;
        self.engine.profiles().current(&application.profile).ok_or_else(|| {
            ApiError::internal(format!(
                "the application {} uses the profile {:?}, which this server does not have; configure profiles.directory",
                application.id, application.profile
            ))
        })
    }

    pub(crate) fn forget_keys(&self) {
        self.keys.clear();
        self.addressees.clear();
    }

    pub(crate) fn forget_applications(&self) {
        self.applications.clear();
    }
}
