//! Endpoints ready for sending: secrets opened, keys made. Forgotten when they change.

use std::hash::{Hash as _, Hasher as _};
use std::sync::Arc;

use postrider_core::attempt::Rendering;
use postrider_core::delivery::{DeliveryState, FailReason, ProfileVersion};
use postrider_core::endpoint::{CustomHeader, Endpoint, EndpointKind, SECRET_CONTEXT};
use postrider_core::profile::{FormTooLong, Profile, SigningKey, VerifyError, signing_key};
use postrider_core::seal::Sealer;
use postrider_core::tenant::{ModeNames, TENANT_SECRET_CONTEXT};
use postrider_core::{Id, Secret, Timestamp, id};
use postrider_store::{BoxError, Store, StoreError};

use crate::cache::{Cache, Changes, Read};
use crate::machine::LaneConfig;
use crate::profiles::ProfileRegistry;
use crate::shell::sources::Sources;

/// Endpoints held ready.
const READY_MAX: usize = 50_000;
/// Bytes of what those have, about.
const READY_BYTES_MAX: u64 = 48 * 1024 * 1024;
/// Bytes of a key that signs, made ready.
const SIGNING_KEY: usize = 256;
/// Bytes that a ready endpoint has beside them.
const READY_OVERHEAD: usize = 512;

pub(crate) struct EndpointCache {
    store: Arc<dyn Store>,
    sealer: Arc<Sealer>,
    profiles: Arc<ProfileRegistry>,
    sources: Sources,
    ready: Cache<(Id<id::Endpoint>, ProfileVersion), ReadyEndpoint>,
    /// Of endpoints, tenants and applications.
    changes: Arc<Changes>,
}

/// An endpoint with what an attempt needs.
pub(crate) struct ReadyEndpoint {
    pub(crate) endpoint: Endpoint,
    pub(crate) profile: Arc<Profile>,
    pub(crate) rendering: Option<Arc<Rendering>>,
    /// Keys without an end, which is nearly always all of them.
    keys: Vec<(SigningKey, Option<Timestamp>)>,
    /// Its own headers, opened.
    custom: Vec<(String, Secret)>,
    /// The public id of the API key that owns it.
    pub(crate) key_id: Option<String>,
    /// What its application chose of the profile's optional headers.
    pub(crate) extra_headers: Option<Vec<String>>,
    pub(crate) mode_names: Option<ModeNames>,
    /// Whether its requests carry the trace of their event.
    pub(crate) passes_trace: bool,
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
        let changes = Arc::new(Changes::default());
        Self {
            sources: Sources::new(store.clone(), changes.clone()),
            store,
            sealer,
            profiles,
            ready: Cache::new(READY_MAX, READY_BYTES_MAX, changes.clone()),
            changes,
        }
    }

    /// An endpoint, a tenant or an application has changed: what was made of it is made again.
    pub(crate) fn forget<K>(&self, thing: Id<K>) {
        self.changes.note(thing.as_u128());
    }

    /// Everything may have changed.
    pub(crate) fn forget_all(&self) {
        self.changes.note_all();
    }

    /// How often the endpoint has changed.
    pub(crate) fn changes(&self, endpoint: Id<id::Endpoint>) -> u64 {
        self.changes.of(endpoint.as_u128())
    }

    pub(crate) async fn get(
        &self,
        endpoint: Id<id::Endpoint>,
        version: ProfileVersion,
    ) -> Result<Arc<ReadyEndpoint>, NotReady> {
        // In a box of its own: most find it, and would carry the room for making it.
        let read = async { Box::pin(self.make_ready(endpoint, version)).await };
        self.ready.get((endpoint, version), read).await
    }

    async fn make_ready(
        &self,
        id: Id<id::Endpoint>,
        version: ProfileVersion,
    ) -> Result<Read<ReadyEndpoint>, NotReady> {
        let source = self.sources.get(id).await?;
        let endpoint = &source.row.endpoint;
        let profile = self
            .profiles
            .version(version)
            .ok_or(NotReady::Profile(version))?;
        let tenant = source.row.tenant.as_ref().map_err(StoreError::copied)?;
        let application = source.row.application.as_ref();
        let application = application.map_err(StoreError::copied)?;
        let key_id = match endpoint.kind {
            EndpointKind::Key(key) => self.key_id(key).await?,
            EndpointKind::Registered | EndpointKind::Callback | EndpointKind::Distribution(_) => {
                None
            }
        };
        let mut keys = Vec::with_capacity(endpoint.secrets.len().max(1));
        for secret in &endpoint.secrets {
            let made = self.signing_key(&profile, &secret.sealed, SECRET_CONTEXT, id.as_u128())?;
            keys.push((made, secret.expires_at));
        }
        // An endpoint without a secret of its own signs with its tenant's.
        if keys.is_empty() {
            let sealed = &tenant.secret(endpoint.mode).sealed;
            let made =
                self.signing_key(&profile, sealed, TENANT_SECRET_CONTEXT, tenant.id.as_u128())?;
            keys.push((made, None));
        }
        let mut custom = Vec::with_capacity(endpoint.headers.len());
        // Sealed in the endpoint and opened beside it: both are held.
        let mut opened = 0;
        for header in &endpoint.headers {
            let value = header.open(id, &self.sealer);
            let value = value.map_err(|error| NotReady::Secret(error.into()))?;
            opened += header.name.len() + value.expose().len();
            custom.push((header.name.clone(), value));
        }
        let weight = READY_OVERHEAD + endpoint.text_bytes() + opened + parsed_bytes(endpoint);
        // The endpoint's own header of that name stands: with both the receiver would get two.
        let passes_trace = application.settings.traceparent
            && !endpoint
                .headers
                .iter()
                .any(|own| own.name.eq_ignore_ascii_case("traceparent"));
        let value = ReadyEndpoint {
            rendering: Rendering::of(endpoint).map(Arc::new),
            passes_trace,
            endpoint: endpoint.clone(),
            profile,
            keys,
            custom,
            key_id,
            extra_headers: application.settings.extra_headers.clone(),
            mode_names: application.settings.mode_names.clone(),
            region: tenant.settings.region.as_deref().map(Arc::from),
        };
        Ok(Read {
            value,
            weight: weight as u64,
            stamp: source.stamp.clone(),
        })
    }

    fn signing_key(
        &self,
        profile: &Profile,
        sealed: &[u8],
        context: &str,
        row: u128,
    ) -> Result<SigningKey, NotReady> {
        let text = self
            .sealer
            .open(sealed, context, row)
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
        let source = self.sources.get(id).await?;
        let (endpoint, deleted) = (&source.row.endpoint, source.row.is_deleted);
        // A deleted one may have lost its application, and sends nothing.
        let engine = if deleted {
            None
        } else {
            let application = source.row.application.as_ref();
            let application = application.map_err(StoreError::copied)?;
            let current = self.profiles.current(&application.profile);
            current.map(|current| current.profile.engine)
        };
        // Nobody goes on with a deleted one, so what waits for it ends.
        let held = endpoint.is_held() && !deleted;
        let closed = if held {
            None
        } else if deleted {
            Some(DeliveryState::Cancelled)
        } else if endpoint.health.is_enabled() {
            None
        } else {
            Some(DeliveryState::Failed(FailReason::EndpointDisabled))
        };
        Ok(LaneConfig {
            tenant: endpoint.tenant,
            closed,
            held,
            ordering: endpoint.ordering,
            rate_limit: endpoint.rate_limit,
            breaker: engine.is_some_and(|engine| engine.breaker),
            throttle: engine.is_some_and(|engine| engine.throttle),
            receiver: {
                let mut hasher = std::hash::DefaultHasher::new();
                endpoint.url.hash(&mut hasher);
                hasher.finish()
            },
        })
    }
}

/// What a filter, and what a distribution makes of its events, take: as JSON several times their text, and the latter is held
/// twice (`Rendering`).
pub(super) fn parsed_bytes(endpoint: &Endpoint) -> usize {
    const PARSED: usize = 4;
    let filter = endpoint.filter.as_ref();
    let filter = filter.map_or(0, |filter| filter.text().len() * PARSED);
    let payload = match &endpoint.kind {
        EndpointKind::Distribution(distribution) => 2 * distribution.bytes(),
        EndpointKind::Registered | EndpointKind::Callback | EndpointKind::Key(_) => 0,
    };
    let secrets: usize = endpoint
        .secrets
        .iter()
        .map(|secret| SIGNING_KEY + secret.sealed.len())
        .sum();
    filter + payload + secrets
}

/// What verifies the requests of an endpoint, as its receiver does.
#[derive(Clone)]
pub struct Verifier(pub(crate) Arc<ReadyEndpoint>);

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Verifier")
    }
}

impl Verifier {
    /// Verifies a request that came at `at`. Long work where the profile signs a canonical form.
    ///
    /// # Errors
    /// As [`Profile::verify`].
    pub fn verify<'h>(
        &self,
        header: &dyn Fn(&str) -> Option<&'h str>,
        body: &[u8],
        at: Timestamp,
    ) -> Result<(), VerifyError> {
        let keys = self.0.keys.iter();
        let valid = keys.filter(|(_, ends)| ends.is_none_or(|ends| at < ends));
        let keys: Vec<&SigningKey> = valid.map(|(key, _)| key).collect();
        self.0.profile.verify_by(header, body, &keys, at)
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
        let custom = self.custom.iter();
        headers.extend(custom.map(|(name, value)| (name.clone(), value.expose().to_owned())));
        Ok(headers)
    }

    /// The headers of a request as they may be recorded and shown: the endpoint's own, which are its last,
    /// without their values.
    pub(crate) fn shown(&self, mut headers: Vec<(String, String)>) -> Vec<(String, String)> {
        let own = headers.len().saturating_sub(self.custom.len());
        for (_, value) in &mut headers[own..] {
            CustomHeader::STARS.clone_into(value);
        }
        headers
    }
}
