//! The HTTP API: native under `/v1`, and the vendors' dialects beside it.
//!
//! Handlers parse, ask the store or the engine, and write a view. Every refusal is a problem
//! (RFC 9457) with a stable `code`; what went wrong inside goes to the log, not to the client.

mod auth;
mod dialects;
mod directory;
mod edge;
mod native;
mod problem;
mod random;
mod request;
mod schemas;
mod server;
mod turns;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use axum::Router;
use ipnet::IpNet;
use postrider_core::address::AddressPolicy;
use postrider_core::audit::Actor;
use postrider_core::endpoint::Endpoint;
use postrider_core::limits;
use postrider_core::notice::Confirmation;
use postrider_core::seal::Sealer;
use postrider_core::tenant::{ApiKey, Mode, Scope, Tenant};
use postrider_core::{Id, Secret, Timestamp, id};
use postrider_engine::Engine;
use postrider_engine::budget::{Budget, Grant};
use postrider_store::{Store, StoreError};

pub use problem::ErrorCode;
pub use random::{seal_nonce, secret_text};
pub use server::{Listener, ServerLimits};

use directory::Directory;

/// Parsers that nobody outside calls, for the fuzzer.
#[doc(hidden)]
pub mod fuzzing {
    /// Compiles a schema and checks data by it, where the counters let it.
    pub fn schema(schema: &str, data: &str) {
        crate::schemas::fuzz(schema, data);
    }
}

/// Bounds and policies of the API that an operator sets.
#[derive(Debug, Clone)]
pub struct ApiOptions {
    pub addresses: AddressPolicy,
    pub names: Names,
    /// Allows plain HTTP endpoints whatever the profile says: for development.
    pub plain_http: bool,
    /// Bytes of a request body; of a batch, [`limits::BATCH_BODY_BYTES_MAX`].
    pub body_max: usize,
    /// Bytes of request bodies in memory, of all requests together.
    pub bodies_bytes_max: usize,
    /// Bytes of answers in memory, of all together.
    pub answers_bytes_max: usize,
    /// What answers say of how long an idle connection is kept.
    pub keep_alive: Duration,
    /// Time for a request's body to arrive.
    pub body_timeout: Duration,
    /// Networks of proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// What receivers may allow-list.
    pub regions: Vec<RegionInfo>,
    /// The region of tenants that name none.
    pub default_region: Option<String>,
    /// How much of what is stored was found damaged.
    pub damaged: Arc<AtomicU64>,
    /// Whether this server can send mail.
    pub mail: bool,
    /// Whether mail can be addressed to a text, by the rules of whoever sends it.
    pub is_mail_address: fn(&str) -> bool,
    /// Who asks mail addresses whether they want notifications; none cannot.
    pub confirmations: Option<tokio::sync::mpsc::Sender<(Confirmation, Grant)>>,
}

/// Looks names up when endpoints are registered.
#[async_trait::async_trait]
pub trait Lookup: Send + Sync + 'static {
    /// The addresses of a name; none when it has none yet, or cannot be looked up now.
    async fn addresses(&self, host: &str) -> Vec<IpAddr>;
}

/// How the server looks names up; none does not.
#[derive(Clone, Default)]
pub struct Names(pub Option<Arc<dyn Lookup>>);

impl std::fmt::Debug for Names {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() {
            "Names"
        } else {
            "no names"
        })
    }
}

/// An egress region and the addresses that the world sees its requests come from.
#[derive(Debug, Clone)]
pub struct RegionInfo {
    pub name: String,
    pub published: Vec<IpAddr>,
}

impl Default for ApiOptions {
    fn default() -> Self {
        Self {
            addresses: AddressPolicy::default(),
            names: Names::default(),
            plain_http: false,
            body_max: limits::BODY_BYTES_MAX,
            bodies_bytes_max: 256 * 1024 * 1024,
            answers_bytes_max: 256 * 1024 * 1024,
            keep_alive: ServerLimits::default().idle_timeout,
            body_timeout: Duration::from_secs(30),
            trusted_proxies: Vec::new(),
            regions: Vec::new(),
            default_region: None,
            damaged: Arc::default(),
            mail: false,
            is_mail_address: |_| true,
            confirmations: None,
        }
    }
}

/// Used nonces that are known without the store.
const NONCES_KNOWN: usize = 100_000;

/// What every handler works with.
#[derive(Clone)]
pub struct Api(Arc<Inner>);

struct Inner {
    store: Arc<dyn Store>,
    engine: Arc<Engine>,
    sealer: Arc<Sealer>,
    directory: Directory,
    rates: dialects::RateLimits,
    counts: turns::Turns,
    schemas: schemas::Gate,
    bodies: Budget,
    probes: native::Probes,
    questions: Budget,
    /// Nonces that were used lately, by key.
    nonces: quick_cache::sync::Cache<(u128, [u8; 32]), ()>,
    replays: native::Replays,
    deletions: native::Deletions,
    options: ApiOptions,
    /// When the store last proved that it takes writes.
    ready: tokio::sync::Mutex<Option<Timestamp>>,
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Api({:?})", self.0.options)
    }
}

impl Api {
    pub fn new(
        store: Arc<dyn Store>,
        engine: Arc<Engine>,
        sealer: Arc<Sealer>,
        options: ApiOptions,
    ) -> Self {
        let directory = Directory::new(store.clone(), engine.clone());
        Self(Arc::new(Inner {
            store,
            engine,
            sealer,
            directory,
            rates: dialects::RateLimits::default(),
            counts: turns::Turns::default(),
            schemas: schemas::Gate::default(),
            bodies: Budget::new(options.bodies_bytes_max),
            probes: native::Probes::default(),
            questions: Budget::new(native::QUESTIONS_MAX),
            nonces: quick_cache::sync::Cache::new(NONCES_KNOWN),
            replays: native::Replays::default(),
            deletions: native::Deletions::default(),
            options,
            ready: tokio::sync::Mutex::default(),
        }))
    }

    /// All routes.
    pub fn router(&self) -> Router {
        let router = native::routes().merge(dialects::routes(self.0.engine.profiles()));
        let answers =
            edge::Answers::new(self.0.options.answers_bytes_max, self.0.options.keep_alive);
        router
            .fallback(native::not_found)
            .method_not_allowed_fallback(native::method_not_allowed)
            .with_state(self.clone())
            .layer(axum::middleware::from_fn_with_state(answers, edge::edge))
    }

    /// Goes on with replays and deletions that a restart interrupted.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn resume_tasks(&self) -> Result<(), StoreError> {
        native::resume_tasks(self).await
    }

    fn store(&self) -> &dyn Store {
        &*self.0.store
    }

    fn engine(&self) -> &Arc<Engine> {
        &self.0.engine
    }

    /// Runs a change to its end although the client may go away: what a change touches in memory
    /// must follow what it wrote.
    async fn to_the_end<T: Send + 'static>(
        &self,
        change: impl Future<Output = problem::ApiResult<T>> + Send + 'static,
    ) -> problem::ApiResult<T> {
        #[expect(
            clippy::disallowed_methods,
            reason = "awaited here, and ends by itself if nobody waits any more"
        )]
        let running = tokio::spawn(change);
        running.await.map_err(problem::ApiError::internal)?
    }

    /// Counts for a tenant, when it is its turn. A count that has begun holds the turn to its end,
    /// though the client may go away.
    async fn counted<T: Send + 'static>(
        &self,
        tenant: Id<id::Tenant>,
        count: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> problem::ApiResult<T> {
        let turn = self.0.counts.take(tenant).await?;
        self.to_the_end(async move {
            let counted = count.await;
            drop(turn);
            Ok(counted?)
        })
        .await
    }

    /// Changes an endpoint and tells the engine.
    async fn change_endpoint(
        &self,
        id: Id<id::Endpoint>,
        change: postrider_store::EndpointChange,
        by: Actor,
    ) -> problem::ApiResult<Endpoint> {
        let api = self.clone();
        self.to_the_end(async move {
            let changed = api.store().update_endpoint(id, change, by).await?;
            api.engine().endpoint_changed(id);
            Ok(changed)
        })
        .await
    }

    /// Changes a tenant and tells the engine.
    async fn change_tenant(
        &self,
        id: Id<id::Tenant>,
        change: postrider_store::TenantChange,
        by: Actor,
    ) -> problem::ApiResult<Tenant> {
        let api = self.clone();
        self.to_the_end(async move {
            let changed = api.store().update_tenant(id, change, by).await?;
            api.0.directory.forget(id);
            api.engine().owner_changed(id);
            Ok(changed)
        })
        .await
    }

    /// Changes a key and the endpoint that it owns, and tells the engine.
    async fn change_key(
        &self,
        id: Id<id::ApiKey>,
        change: postrider_store::KeyChange,
        by: Actor,
    ) -> problem::ApiResult<(ApiKey, Option<Endpoint>)> {
        let api = self.clone();
        self.to_the_end(async move {
            let before = api.store().key_endpoint(id).await?;
            let (key, endpoint) = api.store().update_key(id, change, by).await?;
            api.0.directory.forget_key(&key);
            for changed in before.iter().chain(&endpoint) {
                api.engine().endpoint_changed(changed.id);
            }
            Ok((key, endpoint))
        })
        .await
    }

    /// Deletes an endpoint and tells the engine.
    async fn delete_endpoint(&self, id: Id<id::Endpoint>, by: Actor) -> problem::ApiResult<()> {
        let api = self.clone();
        self.to_the_end(async move {
            api.store().delete_endpoint(id, by).await?;
            api.engine().endpoint_changed(id);
            Ok(())
        })
        .await
    }

    /// Whether the store takes writes, asked at most once a second however often this is called.
    async fn is_ready(&self) -> problem::ApiResult<()> {
        const EVERY: Duration = Duration::from_secs(1);
        let mut asked = self.0.ready.lock().await;
        let now = self.now();
        if asked.is_none_or(|at| now.since(at) >= EVERY || at > now) {
            *asked = None;
            self.store().ping().await?;
            *asked = Some(now);
        }
        Ok(())
    }

    /// Reads and parses a JSON body.
    async fn read<T: serde::de::DeserializeOwned>(
        &self,
        caller: &auth::Caller,
        headers: &http::HeaderMap,
        body: axum::body::Body,
    ) -> problem::ApiResult<T> {
        request::must_be_json(headers)?;
        request::parse(&self.body(caller.holder(), body).await?)
    }

    /// Reads and parses a JSON body that may be left out.
    async fn read_optional<T: serde::de::DeserializeOwned + Default>(
        &self,
        caller: &auth::Caller,
        body: axum::body::Body,
    ) -> problem::ApiResult<T> {
        let body = self.body(caller.holder(), body).await?;
        if body.is_empty() {
            return Ok(T::default());
        }
        request::parse(&body)
    }

    /// Reads a body of the usual size; `holder` is on whose account its bytes go.
    async fn body(
        &self,
        holder: u128,
        body: axum::body::Body,
    ) -> problem::ApiResult<request::HeldBody> {
        self.body_of(holder, body, self.0.options.body_max).await
    }

    /// Reads a body of at most `max` bytes.
    async fn body_of(
        &self,
        holder: u128,
        body: axum::body::Body,
        max: usize,
    ) -> problem::ApiResult<request::HeldBody> {
        let grant = self.0.bodies.open(holder);
        request::read_body(body, max, self.0.options.body_timeout, grant).await
    }

    fn now(&self) -> Timestamp {
        self.0.engine.clock().now()
    }
}

/// Makes a root key when none is there that is live and enabled, and returns its text: the only
/// time it can be seen.
///
/// # Errors
/// When the store fails.
pub async fn ensure_root_key(
    store: &dyn Store,
    now: Timestamp,
) -> Result<Option<Secret>, StoreError> {
    if store.has_root_key().await? {
        return Ok(None);
    }
    new_root_key(store, now).await.map(Some)
}

/// Makes a root key and returns its text: the only time it can be seen.
///
/// # Errors
/// When the store fails.
pub async fn new_root_key(store: &dyn Store, now: Timestamp) -> Result<Secret, StoreError> {
    let secret = random::key_text(Mode::Live);
    let key = ApiKey {
        id: store.ids().next(now),
        name: "root".to_owned(),
        scope: Scope::Root,
        mode: Mode::Live,
        secret_hash: postrider_core::seal::sha256(secret.expose().as_bytes()),
        public_id: None,
        sealed_secret: None,
        allowed_ips: Vec::new(),
        disabled_at: None,
        expires_at: None,
        created_at: now,
    };
    store.create_key(key, None, Actor::system(now)).await?;
    Ok(secret)
}
