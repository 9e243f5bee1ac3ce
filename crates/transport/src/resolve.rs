//! Name resolution, as a seam: tests decide what a name says, and when it says something else.

use std::net::IpAddr;
use std::time::Duration;

use async_trait::async_trait;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{LookupIpStrategy, ResolverOpts};
use hickory_resolver::net::NetError;
use hickory_resolver::proto::rr::RecordType;

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

/// How long one question waits, and how often it is asked again: together less than the shortest time that profiles give a
/// connection.
const PATIENCE: Duration = Duration::from_secs(2);
const AGAIN: usize = 1;
/// How long the answer for one kind of address is waited for when that for the other one is there (RFC 8305, 3): some name
/// servers leave questions for IPv6 unanswered.
const OTHER_KIND: Duration = Duration::from_millis(300);
/// How long name servers have to say anything at all.
const ANYTHING: Duration = Duration::from_secs(1);

/// Asks the name servers of this machine's configuration, and its hosts file; caches by TTL.
#[derive(Debug)]
pub struct SystemResolver {
    four: TokioResolver,
    six: TokioResolver,
    /// Remembers nothing: it is asked whether anybody answers.
    probe: TokioResolver,
}

impl SystemResolver {
    /// # Errors
    /// When the machine's resolver configuration cannot be read.
    pub fn new() -> Result<Self, ResolveError> {
        let resolver = |change: &dyn Fn(&mut ResolverOpts)| {
            let mut builder = TokioResolver::builder_tokio()?;
            let options = builder.options_mut();
            options.timeout = PATIENCE;
            options.attempts = AGAIN;
            change(options);
            builder.build()
        };
        let made = || {
            Ok::<_, NetError>(Self {
                four: resolver(&|options| options.ip_strategy = LookupIpStrategy::Ipv4Only)?,
                six: resolver(&|options| options.ip_strategy = LookupIpStrategy::Ipv6Only)?,
                probe: resolver(&|options| {
                    options.cache_size = 0;
                    options.timeout = ANYTHING;
                    options.attempts = 0;
                })?,
            })
        };
        made().map_err(|error| ResolveError::Unasked(error.to_string()))
    }

    /// Both kinds of addresses: what came first, and what comes soon after it.
    async fn both(&self, host: &str) -> Result<Vec<IpAddr>, Vec<NetError>> {
        let (four, six) = (self.four.lookup_ip(host), self.six.lookup_ip(host));
        tokio::pin!(four, six);
        let (first, other) = tokio::select! {
            first = &mut four => (first, six),
            first = &mut six => (first, four),
        };
        let other = match &first {
            Ok(_) => tokio::time::timeout(OTHER_KIND, other).await.ok(),
            Err(_) => Some(other.await),
        };
        let (mut found, mut errors) = (Vec::new(), Vec::new());
        for answer in [Some(first), other].into_iter().flatten() {
            match answer {
                Ok(answer) => found.extend(answer.iter()),
                Err(error) => errors.push(error),
            }
        }
        // IPv6 first, as it is preferred everywhere.
        found.sort_by_key(IpAddr::is_ipv4);
        if found.is_empty() {
            return Err(errors);
        }
        Ok(found)
    }

    /// Whether the name servers say anything: where the root's are is known to each of them.
    async fn is_answered(&self) -> bool {
        match self.probe.lookup(".", RecordType::NS).await {
            Ok(_) => true,
            Err(error) => !is_own(&error) && !matches!(error, NetError::Timeout),
        }
    }
}

#[async_trait]
impl Resolve for SystemResolver {
    async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, ResolveError> {
        let errors = match self.both(host).await {
            Ok(found) => return Ok(found),
            Err(errors) => errors,
        };
        let text = |error: &NetError| error.to_string();
        if let Some(own) = errors.iter().find(|error| is_own(error)) {
            return Err(ResolveError::Unasked(text(own)));
        }
        // A name's own servers may be silent, and so may ours: the latter say nothing of anything.
        if let Some(silent) = errors
            .iter()
            .find(|error| matches!(error, NetError::Timeout))
            && !self.is_answered().await
        {
            return Err(ResolveError::Unasked(text(silent)));
        }
        let why = errors.first().map(text).unwrap_or_default();
        Err(ResolveError::Unknown(why))
    }
}

/// Whether nobody was asked, which is this machine's matter.
fn is_own(error: &NetError) -> bool {
    matches!(
        error,
        NetError::Io(_) | NetError::NoConnections | NetError::Busy
    )
}
