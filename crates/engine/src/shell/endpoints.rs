//! Endpoints ready for sending: secrets opened, keys made. Forgotten when they change.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering as AtomicOrdering};
use std::sync::{Arc, Mutex, PoisonError};

use postrider_core::attempt::Rendering;
use postrider_core::delivery::{DeliveryState, FailReason, ProfileVersion};
use postrider_core::endpoint::{Endpoint, EndpointKind, SECRET_CONTEXT};
use postrider_core::profile::{FormTooLong, Profile, SigningKey, signing_key};
use postrider_core::seal::Sealer;
use postrider_core::tenant::TENANT_SECRET_CONTEXT;
use postrider_core::{Id, Timestamp, id};
use postrider_store::{BoxError, Store, StoreError};

use crate::machine::LaneConfig;
use crate::profiles::ProfileRegistry;

/// Endpoints held ready; beyond, all are forgotten and made again as they are needed.
const READY_MAX: usize = 50_000;

type ReadyEndpoints = HashMap<(Id<id::Endpoint>, ProfileVersion), Arc<ReadyEndpoint>>;

pub(crate) struct EndpointCache {
    store: Arc<dyn Store>,
    sealer: Arc<Sealer>,
    profiles: Arc<ProfileRegistry>,
    ready: Mutex<ReadyEndpoints>,
    /// Counts changes: what was read before one must not be kept after it.
    generation: AtomicU64,
}

/// An endpoint with what an attempt needs.
pub(crate) struct ReadyEndpoint {
    pub(crate) endpoint: Endpoint,
    pub(crate) profile: Arc<Profile>,
    pub(crate) rendering: Option<Arc<Rendering>>,
    /// Keys without an end, which is nearly always all of them.
    keys: Vec<(SigningKey, Option<Timestamp>)>,
    /// The public id of the API key that owns it.
    pub(crate) key_id: Option<String>,
    /// What its application chose of the profile's optional headers.
    pub(crate) extra_headers: Option<Vec<String>>,
    /// The egress region of its tenant.
    pub(crate) region: Option<Arc<str>>,
}

/// Why an endpoint cannot be made ready.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotReady {
    #[error("failed to read the endpoint")]
    Store(#[from] StoreError),
    #[error("the profile version {0} is not known to this server")]
    Profile(ProfileVersion),
    #[error("a signing secret cannot be used")]
    Secret(#[source] BoxError),
    #[error(transparent)]
    Form(#[from] FormTooLong),
}

impl EndpointCache {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        sealer: Arc<Sealer>,
        profiles: Arc<ProfileRegistry>,
    ) -> Self {
        Self {
            store,
            sealer,
            profiles,
            ready: Mutex::default(),
            generation: AtomicU64::new(0),
        }
    }

    pub(crate) fn forget(&self, endpoint: Id<id::Endpoint>) {
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        self.generation.fetch_add(1, AtomicOrdering::Relaxed);
        // Versions are few and change rarely.
        for version in self.profiles.known_versions() {
            ready.remove(&(endpoint, version));
        }
    }

    /// Forgets all: what they have of their application or tenant has changed.
    pub(crate) fn forget_all(&self) {
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        self.generation.fetch_add(1, AtomicOrdering::Relaxed);
        ready.clear();
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(AtomicOrdering::Relaxed)
    }

    pub(crate) async fn get(
        &self,
        endpoint: Id<id::Endpoint>,
        version: ProfileVersion,
    ) -> Result<Arc<ReadyEndpoint>, NotReady> {
        let key = (endpoint, version);
        if let Some(ready) = self
            .ready
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&key)
        {
            return Ok(ready.clone());
        }
        let generation = self.generation();
        let (endpoint, _) = self.store.lane_endpoint(endpoint).await?;
        let profile = self
            .profiles
            .version(version)
            .ok_or(NotReady::Profile(version))?;
        let tenant = self.store.tenant(endpoint.tenant).await?;
        let application = self.store.application(endpoint.application).await?;
        let key_id = match endpoint.kind {
            EndpointKind::Key(key) => self.key_id(key).await?,
            EndpointKind::Registered | EndpointKind::Callback | EndpointKind::Distribution(_) => {
                None
            }
        };
        let mut keys = Vec::with_capacity(endpoint.secrets.len().max(1));
        for secret in &endpoint.secrets {
            let made = self.signing_key(&profile, &secret.sealed, SECRET_CONTEXT)?;
            keys.push((made, secret.expires_at));
        }
        if keys.is_empty() {
            let sealed = &tenant.secret(endpoint.mode).sealed;
            let made = self.signing_key(&profile, sealed, TENANT_SECRET_CONTEXT)?;
            keys.push((made, None));
        }
        let ready = Arc::new(ReadyEndpoint {
            rendering: Rendering::of(&endpoint).map(Arc::new),
            endpoint,
            profile,
            keys,
            key_id,
            extra_headers: application.settings.extra_headers,
            region: tenant.settings.region.map(Arc::from),
        });
        let mut all = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= READY_MAX {
            all.clear();
        }
        if self.generation() == generation {
            all.insert(key, ready.clone());
        }
        Ok(ready)
    }

    fn signing_key(
        &self,
        profile: &Profile,
        sealed: &[u8],
        context: &str,
    ) -> Result<SigningKey, NotReady> {
        let text = self
            .sealer
            .open(sealed, context)
            .map_err(|error| NotReady::Secret(error.into()))?;
        signing_key(&profile.secret, &text).map_err(|error| NotReady::Secret(error.into()))
    }

    /// The public id of a key; a deleted one has none.
    async fn key_id(&self, key: Id<id::ApiKey>) -> Result<Option<String>, StoreError> {
        match self.store.key(key).await {
            Ok(key) => Ok(key.public_id),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What the endpoint's lane has to know. The current profile decides, or the standard when there is none.
    pub(crate) async fn lane_config(&self, id: Id<id::Endpoint>) -> Result<LaneConfig, StoreError> {
        let (endpoint, deleted) = self.store.lane_endpoint(id).await?;
        let application = self.store.application(endpoint.application).await?;
        let engine = self
            .profiles
            .current(&application.profile)
            .map(|current| current.profile.engine);
        let closed = if deleted {
            Some(DeliveryState::Cancelled)
        } else if endpoint.health.is_enabled() {
            None
        } else {
            Some(DeliveryState::Failed(FailReason::EndpointDisabled))
        };
        Ok(LaneConfig {
            tenant: endpoint.tenant,
            closed,
            ordering: endpoint.ordering,
            rate_limit: endpoint.rate_limit,
            breaker: engine.is_some_and(|engine| engine.breaker),
            throttle: engine.is_some_and(|engine| engine.throttle),
        })
    }
}

impl ReadyEndpoint {
    /// The headers of a request: the profile's, signed with the keys valid at `now`, then the endpoint's own.
    pub(crate) fn headers(
        &self,
        context: &postrider_core::profile::RenderContext<'_>,
        body: &[u8],
    ) -> Result<Vec<(String, String)>, FormTooLong> {
        let now = context.attempt_at;
        let expired = |at: &Option<Timestamp>| at.is_some_and(|at| at <= now);
        let mut headers = if self.keys.iter().any(|(_, expires_at)| expired(expires_at)) {
            // Rare: the overlap after a rotation has just ended.
            self.profile.render_headers(
                context,
                body,
                self.keys
                    .iter()
                    .filter(|(_, at)| !expired(at))
                    .map(|(key, _)| key),
            )?
        } else {
            self.profile
                .render_headers(context, body, self.keys.iter().map(|(key, _)| key))?
        };
        headers.extend(self.endpoint.headers.iter().cloned());
        Ok(headers)
    }
}
