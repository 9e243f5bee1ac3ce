//! The HTTP API: native under `/v1`, and the vendors' dialects beside it.
//!
//! Handlers parse, ask the store or the engine, and write a view. Every refusal is a problem
//! (RFC 9457) with a stable `code`; what went wrong inside goes to the log, not to the client.

mod auth;
mod dialects;
mod directory;
mod native;
mod problem;
mod random;
mod request;
mod server;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use postrider_core::address::AddressPolicy;
use postrider_core::limits;
use postrider_core::seal::Sealer;
use postrider_core::tenant::{ApiKey, Mode, Scope};
use postrider_core::{Secret, Timestamp};
use postrider_engine::Engine;
use postrider_store::{Store, StoreError};

pub use problem::ErrorCode;
pub use random::{seal_nonce, secret_text};
pub use server::{Listener, ServerLimits};

use directory::Directory;

/// Bounds and policies of the API that an operator sets.
#[derive(Debug, Clone)]
pub struct ApiOptions {
    pub addresses: AddressPolicy,
    /// Allows plain HTTP endpoints whatever the profile says: for development.
    pub plain_http: bool,
    /// Bytes of a request body; of a batch, [`limits::BATCH_BODY_BYTES_MAX`].
    pub body_max: usize,
    /// Time for a request's body to arrive.
    pub body_timeout: Duration,
}

impl Default for ApiOptions {
    fn default() -> Self {
        Self {
            addresses: AddressPolicy::default(),
            plain_http: false,
            body_max: limits::BODY_BYTES_MAX,
            body_timeout: Duration::from_secs(30),
        }
    }
}

/// What every handler works with.
#[derive(Clone)]
pub struct Api(Arc<Inner>);

struct Inner {
    store: Arc<dyn Store>,
    engine: Arc<Engine>,
    sealer: Arc<Sealer>,
    directory: Directory,
    rates: dialects::RateLimits,
    options: ApiOptions,
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Api({:?})", self.0.options)
    }
}

impl Api {
    pub fn new(store: Arc<dyn Store>, engine: Arc<Engine>, sealer: Arc<Sealer>, options: ApiOptions) -> Self {
        let directory = Directory::new(store.clone(), engine.clone());
        Self(Arc::new(Inner { store, engine, sealer, directory, rates: dialects::RateLimits::default(), options }))
    }

    /// All routes.
    pub fn router(&self) -> Router {
        let router = native::routes().merge(dialects::routes(self.0.engine.profiles()));
        router.fallback(native::not_found).method_not_allowed_fallback(native::method_not_allowed).with_state(self.clone())
    }

    /// Goes on with replays that a restart interrupted.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn resume_tasks(&self) -> Result<(), StoreError> {
        native::resume_replays(self).await
    }

    fn store(&self) -> &dyn Store {
        &*self.0.store
    }

    fn engine(&self) -> &Arc<Engine> {
        &self.0.engine
    }

    /// Reads and parses a JSON body.
    async fn read<T: serde::de::DeserializeOwned>(&self, headers: &http::HeaderMap, body: axum::body::Body) -> problem::ApiResult<T> {
        request::must_be_json(headers)?;
        let bytes = request::read_body(body, self.0.options.body_max, self.0.options.body_timeout).await?;
        request::parse(&bytes)
    }

    fn now(&self) -> Timestamp {
        self.0.engine.clock().now()
    }
}

/// Makes a root key when there is none yet, and returns its text: the only time it can be seen.
///
/// # Errors
/// When the store fails.
pub async fn ensure_root_key(store: &dyn Store, now: Timestamp) -> Result<Option<Secret>, StoreError> {
    let mut request = postrider_store::PageRequest::first(limits::PAGE_ROWS_MAX);
    loop {
        let page = store.list_keys(None, request).await?;
        if page.rows.iter().any(|key| key.scope == Scope::Root) {
            return Ok(None);
        }
        request.cursor = page.next;
        if page.next.is_none() {
            break;
        }
    }
    let secret = random::key_text(Mode::Live);
    let key = ApiKey {
        id: store.ids().next(now),
        name: "root".to_owned(),
        scope: Scope::Root,
        mode: Mode::Live,
        secret_hash: postrider_core::seal::sha256(secret.expose().as_bytes()),
        public_id: None,
        sealed_secret: None,
        created_at: now,
    };
    store.create_key(key).await?;
    Ok(Some(secret))
}
