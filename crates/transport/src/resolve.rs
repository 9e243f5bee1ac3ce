//! Name resolution, as a seam: tests decide what a name says, and when it says something else.

use std::net::IpAddr;

use async_trait::async_trait;
use hickory_resolver::TokioResolver;

/// Turns a name into addresses.
#[async_trait]
pub trait Resolve: Send + Sync + 'static {
    async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, ResolveError>;
}

/// The name has no address, or nobody answered.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ResolveError(pub String);

/// Asks the name servers of this machine's configuration, and its hosts file; caches by TTL.
#[derive(Debug)]
pub struct SystemResolver(TokioResolver);

impl SystemResolver {
    /// # Errors
    /// When the machine's resolver configuration cannot be read.
    pub fn new() -> Result<Self, ResolveError> {
        let wrap = |error: hickory_resolver::net::NetError| ResolveError(error.to_string());
        TokioResolver::builder_tokio()
            .and_then(|builder| builder.build())
            .map(Self)
            .map_err(wrap)
    }
}

#[async_trait]
impl Resolve for SystemResolver {
    async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, ResolveError> {
        let found = self
            .0
            .lookup_ip(host)
            .await
            .map_err(|error| ResolveError(error.to_string()))?;
        Ok(found.iter().collect())
    }
}
