//! Outgoing HTTP: only to vetted addresses, within deadlines, with bounded reads.
//!
//! [`HttpTransport`] resolves a name itself, checks every address against the policy, and connects
//! only to one that passed: what a name says when it is registered and what it says later may
//! differ. It follows no redirect, verifies every certificate, and names what went wrong.

mod connect;
mod driver;
mod exchange;
mod failure;
mod pool;
mod resolve;
mod tls;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use postrider_core::address::AddressPolicy;
use postrider_engine::{Clock, Exchange, Request, Transport};
use url::Url;

pub use resolve::{Resolve, ResolveError, SystemResolver};

use connect::Connector;
use pool::Pool;

/// How the transport reaches the world.
pub struct Options {
    pub addresses: AddressPolicy,
    pub resolver: Arc<dyn Resolve>,
    /// PEM file with certificate authorities trusted besides the public ones.
    pub extra_ca: Option<PathBuf>,
    /// The egress regions; one without a name is for requests without a region.
    pub regions: Vec<Region>,
    /// The region of requests that name none.
    pub default_region: Option<Arc<str>>,
    /// HTTP proxy that connections are tunnelled through (CONNECT).
    pub proxy: Option<Url>,
    /// For dates in answers that do not say when they were made.
    pub clock: Arc<dyn Clock>,
}

/// Local addresses that connections leave from.
#[derive(Debug, Clone)]
pub struct Region {
    pub name: Option<Arc<str>>,
    /// Taken in turn; none lets the system choose.
    pub bind: Vec<IpAddr>,
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("addresses", &self.addresses)
            .field("regions", &self.regions)
            .finish_non_exhaustive()
    }
}

/// Why a transport cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error("failed to read certificates from {path}: {why}")]
    Certificates { path: PathBuf, why: String },
    #[error(
        "failed to bind outgoing connections to {address}: this machine does not have that address"
    )]
    Bind {
        address: IpAddr,
        #[source]
        source: std::io::Error,
    },
    #[error(
        "connections through a proxy leave from the proxy: egress.bind and egress.regions do not go with egress.proxy"
    )]
    ProxyAndAddresses,
    #[error("the proxy must be an http:// URL with a host")]
    Proxy,
    #[error("failed to set up TLS")]
    Tls(#[from] rustls::Error),
}

/// Makes requests over HTTP/1.1 and HTTP/2, and keeps connections for the next ones.
#[derive(Debug)]
pub struct HttpTransport {
    connector: Connector,
    pool: Arc<Pool>,
}

impl HttpTransport {
    /// # Errors
    /// When a setting cannot work: a CA file that does not read, an address this machine lacks.
    pub fn new(options: Options) -> Result<Self, SetupError> {
        Ok(Self {
            connector: Connector::new(options)?,
            pool: Arc::default(),
        })
    }

    /// Reads the operator's certificate authorities again, for connections that are opened from now on.
    ///
    /// # Errors
    /// When the file does not read: then those it held before are trusted.
    pub fn reload_certificates(&self, extra_ca: Option<&Path>) -> Result<(), SetupError> {
        self.connector.reload_certificates(extra_ca)
    }

    /// Closes connections that have been idle for long; runs until dropped.
    pub async fn run_reaper(&self) {
        // `take` gives out nothing that is over; this only closes what nobody asks for, within twice its
        // time.
        const EVERY: Duration = Duration::from_secs(15);
        loop {
            tokio::time::sleep(EVERY).await;
            self.pool.reap();
        }
    }
}

#[async_trait]
impl Transport for HttpTransport {
    async fn send(&self, request: &Request) -> Exchange {
        exchange::run(&self.connector, &self.pool, request).await
    }
}

/// Parsers that nobody outside calls, for the fuzzer.
#[doc(hidden)]
pub mod fuzzing {
    use http::{HeaderMap, HeaderValue, header};

    /// Reads `Retry-After` of an answer with this `Date`.
    pub fn retry_after(text: &str, date: Option<&str>) {
        let mut headers = HeaderMap::new();
        let given = [(header::RETRY_AFTER, Some(text)), (header::DATE, date)];
        for (name, text) in given {
            if let Some(Ok(value)) = text.map(HeaderValue::from_str) {
                headers.insert(name, value);
            }
        }
        crate::exchange::retry_after(&headers, 1_700_000_000);
    }
}
