//! Name resolution, as a seam: tests decide what a name says, and when it says something else.

use std::net::IpAddr;
use std::time::Duration;

use async_trait::async_trait;
use hickory_resolver::TokioResolver;
use hickory_resolver::net::NetError;

/// Turns a name into addresses.
#[async_trait]
pub trait Resolve: Send + Sync + 'static {
    async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, ResolveError>;
}

/// Why there is no address.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// The name has none, or its servers gave no answer: that is its owner's matter.
    #[error("{0}")]
    Unknown(String),
    /// Nobody could be asked: the way to this machine's name servers is broken, or no socket was to be had.
    #[error("no name server could be asked: {0}")]
    Unasked(String),
}

impl From<NetError> for ResolveError {
    fn from(error: NetError) -> Self {
        let text = error.to_string();
        match error {
            NetError::Io(_) | NetError::NoConnections | NetError::Busy => Self::Unasked(text),
            _ => Self::Unknown(text),
        }
    }
}

/// How long one question waits, and how often it is asked again: together less than the shortest time that profiles give a
/// connection. A name server that leaves one kind of question unanswered (AAAA, of old load balancers) costs so much and no
/// more; what another kind brought is used then.
const PATIENCE: Duration = Duration::from_secs(2);
const AGAIN: usize = 1;

/// Asks the name servers of this machine's configuration, and its hosts file; caches by TTL.
#[derive(Debug)]
pub struct SystemResolver(TokioResolver);

impl SystemResolver {
    /// # Errors
    /// When the machine's resolver configuration cannot be read.
    pub fn new() -> Result<Self, ResolveError> {
        let mut builder = TokioResolver::builder_tokio()?;
        let options = builder.options_mut();
        options.timeout = PATIENCE;
        options.attempts = AGAIN;
        Ok(Self(builder.build()?))
    }
}

#[async_trait]
impl Resolve for SystemResolver {
    async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, ResolveError> {
        let found = self.0.lookup_ip(host).await?;
        Ok(found.iter().collect())
    }
}
