//! The HTTP API: native under `/v1`, and the vendors' dialects beside it.
//!
//! A door to the service and nothing else: handlers read a request, call it, and write a view. Every refusal is a
//! problem (RFC 9457) with a stable `code`; what went wrong inside goes to the log, not to the client.

mod auth;
mod connections;
mod cors;
mod dialects;
mod edge;
mod holder;
mod metrics;
mod native;
mod openapi;
mod problem;
mod rate;
mod request;
mod server;
mod tls;
mod unread;

use std::sync::Arc;
use std::time::Duration;

pub use axum::Router;
use axum::extract::{Request, State};
use http::HeaderValue;
use ipnet::IpNet;
use postrider_core::limits;
use postrider_service::budget::Budget;
use postrider_service::{Caller, LinkMade, Result, Service, Windows};

pub use connections::Connections;
pub use holder::{Knows, Named, PATH as KNOWS_PATH};
pub use metrics::{Exposition, Metrics, MetricsFormat, metrics_router};
pub use problem::problem;
use rate::Rates;
pub use rate::RequestLimits;
pub use server::{Listener, ServerLimits, answer, arrived_from, peer};
pub use tls::{Certificate, CertificateError, Tls};

/// Bounds and policies of HTTP that an operator sets.
#[derive(Debug, Clone)]
pub struct ApiOptions {
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
    /// Where people reach this server, for links; none takes the name that it is asked by.
    pub public_url: Option<String>,
    /// Origins of web pages that may call the API, as browsers write them.
    pub cors_origins: Vec<HeaderValue>,
    /// Requests a minute of each key.
    pub requests: RequestLimits,
    /// What took longer is told as a warning.
    pub slow: Duration,
    /// Whether the listener speaks TLS.
    pub tls: bool,
}

impl Default for ApiOptions {
    fn default() -> Self {
        Self {
            body_max: limits::BODY_BYTES_MAX,
            bodies_bytes_max: 256 * 1024 * 1024,
            answers_bytes_max: 256 * 1024 * 1024,
            keep_alive: ServerLimits::default().idle_timeout,
            body_timeout: Duration::from_secs(30),
            trusted_proxies: Vec::new(),
            public_url: None,
            cors_origins: Vec::new(),
            requests: RequestLimits::default(),
            slow: Duration::from_secs(2),
            tls: false,
        }
    }
}

/// The OpenAPI document of the native API, as `/v1/openapi.json` serves it.
pub fn openapi_json() -> &'static str {
    &native::DOCUMENT
}

/// What every handler works with.
#[derive(Debug, Clone)]
pub struct Api {
    service: Service,
    door: Arc<Door>,
}

/// What belongs to HTTP alone.
#[derive(Debug)]
struct Door {
    /// Of Vignetim's requests.
    rates: Windows,
    requests: Rates,
    bodies: Budget,
    answers: Budget,
    metrics: Arc<Metrics>,
    options: ApiOptions,
}

impl Api {
    pub fn new(service: Service, options: ApiOptions) -> Self {
        let door = Arc::new(Door {
            rates: Windows::default(),
            requests: Rates::new(options.requests),
            bodies: Budget::new(options.bodies_bytes_max),
            answers: Budget::new(options.answers_bytes_max),
            metrics: Arc::default(),
            options,
        });
        Self { service, door }
    }

    /// What it counts.
    pub fn metrics(&self) -> &Metrics {
        &self.door.metrics
    }

    /// Bytes of request bodies and of answers that are held now.
    pub fn held_bytes(&self) -> (usize, usize) {
        (self.door.bodies.taken(), self.door.answers.taken())
    }

    /// How many bytes there may be of either.
    pub fn held_bytes_max(&self) -> (usize, usize) {
        let options = self.options();
        (options.bodies_bytes_max, options.answers_bytes_max)
    }

    /// All routes, and behind the same edge those of `pages`; `/metrics` shows `exposition`.
    pub fn router(&self, pages: Option<Router>, exposition: Arc<dyn Exposition>) -> Router {
        let (native, _) = native::routes().split_for_parts();
        let dialects = dialects::routes(self);
        let without_slash = dialects
            .clone()
            .fallback(native::not_found)
            .method_not_allowed_fallback(native::method_not_allowed)
            .with_state(self.clone());
        let router = native
            .merge(dialects)
            .route(holder::PATH, axum::routing::get(holder::knows));
        let answers = edge::Answers::new(self, self.options());
        let router = router
            .fallback(move |api: State<Self>, request: Request| async move {
                match dialects::without_slash(&api, &request) {
                    Some(uri) => dialects::again(without_slash, request, uri).await,
                    None => {
                        native::not_found(api, request.method().clone(), request.uri().clone())
                            .await
                    }
                }
            })
            .method_not_allowed_fallback(native::method_not_allowed)
            .with_state(self.clone());
        let edge = axum::middleware::from_fn_with_state(answers, edge::edge);
        let router = router
            .layer(axum::Extension(exposition))
            .layer(edge.clone());
        // What the edge refuses is to be read by those pages too.
        cors::opened(router, &self.options().cors_origins)
            .merge(pages.unwrap_or_default().layer(edge))
    }

    /// A link as whoever asked reaches this server, where nobody has said how people do.
    fn link(&self, headers: &http::HeaderMap, made: &LinkMade) -> String {
        let own = self.options().public_url.clone();
        let asked = || {
            let host = headers
                .get(http::header::HOST)
                .and_then(|host| host.to_str().ok());
            let scheme = if self.options().tls { "https" } else { "http" };
            format!("{scheme}://{}", host.unwrap_or("localhost"))
        };
        made.at(&own.unwrap_or_else(asked)).expose().to_owned()
    }

    fn options(&self) -> &ApiOptions {
        &self.door.options
    }

    /// Reads and parses a JSON body.
    async fn read<T: serde::de::DeserializeOwned>(
        &self,
        caller: &Caller,
        headers: &http::HeaderMap,
        body: axum::body::Body,
    ) -> Result<T> {
        request::must_be_json(headers)?;
        request::parse(&self.body(caller.holder(), body).await?)
    }

    /// Reads and parses a JSON body that may be left out.
    async fn read_optional<T: serde::de::DeserializeOwned + Default>(
        &self,
        caller: &Caller,
        body: axum::body::Body,
    ) -> Result<T> {
        let body = self.body(caller.holder(), body).await?;
        if body.is_empty() {
            return Ok(T::default());
        }
        request::parse(&body)
    }

    /// Reads a body of the usual size; `holder` is on whose account its bytes go.
    async fn body(&self, holder: u128, body: axum::body::Body) -> Result<request::HeldBody> {
        self.body_of(holder, body, self.options().body_max).await
    }

    /// An answer that nothing but its caller's account bounds.
    fn answer(&self, caller: &Caller) -> request::Holding {
        request::Holding(self.door.answers.open(caller.holder()))
    }

    /// Reads a body of at most `max` bytes.
    async fn body_of(
        &self,
        holder: u128,
        body: axum::body::Body,
        max: usize,
    ) -> Result<request::HeldBody> {
        let grant = self.door.bodies.open(holder);
        request::read_body(body, max, self.options().body_timeout, grant).await
    }
}
