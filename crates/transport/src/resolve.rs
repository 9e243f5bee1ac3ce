//! Name resolution, as a seam: tests decide what a name says, and when it says something else.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{LookupIpStrategy, ResolverOpts};
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::RecordType;
use tokio::time::Instant;

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
/// How long an answer for IPv6 is waited for when that for IPv4 is there (RFC 8305, 3): some name servers leave such questions
/// unanswered. Longer than it takes to send one again that was lost.
const FOR_IPV6: Duration = Duration::from_secs(1);
/// How long a name may take in all, with the search domains that it is looked for in.
const IN_ALL: Duration = Duration::from_secs(7);
/// How long name servers have to say anything at all.
const ANYTHING: Duration = Duration::from_secs(1);
/// Between two tries to learn whether they do.
const LEARN_EVERY: Duration = Duration::from_secs(60);

/// Asks the name servers of this machine's configuration, and its hosts file; caches by TTL.
#[derive(Debug)]
pub struct SystemResolver {
    four: TokioResolver,
    six: TokioResolver,
    /// Both at once: names without a dot are looked for in the search domains until one has either.
    any: TokioResolver,
    /// Remembers nothing: it is asked whether anybody answers.
    probe: TokioResolver,
    /// Somebody has answered it. Where nobody ever did, it says nothing that nobody does.
    has_answered: Arc<AtomicBool>,
    /// When that was tried last, while all is well.
    tried: Mutex<Option<Instant>>,
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
                any: resolver(&|options| options.ip_strategy = LookupIpStrategy::Ipv6AndIpv4)?,
                probe: resolver(&|options| {
                    options.cache_size = 0;
                    options.timeout = ANYTHING;
                    options.attempts = 0;
                })?,
                has_answered: Arc::default(),
                tried: Mutex::default(),
            })
        };
        made().map_err(|error| ResolveError::Unasked(error.to_string()))
    }

    /// Addresses of both kinds, IPv6 first.
    async fn both(&self, host: &str) -> Result<Vec<IpAddr>, Vec<NetError>> {
        if !host.contains('.') {
            let found = self.any.lookup_ip(host).await;
            return found
                .map(|found| found.iter().collect())
                .map_err(|error| vec![error]);
        }
        let (four, six) = (self.four.lookup_ip(host), self.six.lookup_ip(host));
        tokio::pin!(four, six);
        let (four, six) = tokio::select! {
            // Most receivers have it, and many machines have no other way out: it is waited for in any case.
            six = &mut six => (four.await, Some(six)),
            four = &mut four => match four {
                Ok(_) => (four, tokio::time::timeout(FOR_IPV6, six).await.ok()),
                Err(_) => (four, Some(six.await)),
            },
        };
        let (mut found, mut errors) = (Vec::new(), Vec::new());
        for answer in six.into_iter().chain([four]) {
            match answer {
                Ok(answer) => found.extend(answer.iter()),
                Err(error) => errors.push(error),
            }
        }
        if found.is_empty() {
            return Err(errors);
        }
        Ok(found)
    }

    /// Whether the name servers say anything.
    async fn is_answered(&self) -> bool {
        let answered = answers(&self.probe).await;
        if answered {
            self.has_answered.store(true, Ordering::Relaxed);
        }
        answered || !self.has_answered.load(Ordering::Relaxed)
    }

    /// While all is well it is found out whether they answer such a question at all: only then does a silence mean something.
    fn learn(&self) {
        if self.has_answered.load(Ordering::Relaxed) {
            return;
        }
        let mut tried = self.tried.lock().unwrap_or_else(PoisonError::into_inner);
        if tried.is_some_and(|tried| tried.elapsed() < LEARN_EVERY) {
            return;
        }
        *tried = Some(Instant::now());
        drop(tried);
        let (probe, has_answered) = (self.probe.clone(), self.has_answered.clone());
        #[expect(
            clippy::disallowed_methods,
            reason = "one question, which ends by itself; nobody waits for it"
        )]
        tokio::spawn(async move {
            if answers(&probe).await {
                has_answered.store(true, Ordering::Relaxed);
            }
        });
    }
}

#[async_trait]
impl Resolve for SystemResolver {
    async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, ResolveError> {
        let both = tokio::time::timeout(IN_ALL, self.both(host)).await;
        let errors = match both.unwrap_or_else(|_| Err(vec![NetError::Timeout])) {
            Ok(found) => {
                // Not of what needs nobody.
                if host.trim_end_matches('.') != "localhost" {
                    self.learn();
                }
                return Ok(found);
            }
            Err(errors) => errors,
        };
        let text = |error: &NetError| error.to_string();
        if let Some(own) = errors.iter().find(|error| is_own(error)) {
            return Err(ResolveError::Unasked(text(own)));
        }
        // A name's own servers may be silent, and so may ours: the latter say nothing of anything.
        if let Some(silent) = errors.iter().find(|error| is_silent(error))
            && !self.is_answered().await
        {
            return Err(ResolveError::Unasked(text(silent)));
        }
        let why = errors.first().map(text).unwrap_or_default();
        Err(ResolveError::Unknown(why))
    }
}

/// Where the root's name servers are is known to each of them. One that says that it failed has nobody to ask itself.
async fn answers(probe: &TokioResolver) -> bool {
    match probe.lookup(".", RecordType::NS).await {
        Ok(_) => true,
        Err(error) => !is_own(&error) && !is_silent(&error),
    }
}

/// Whether nobody was asked, which is this machine's matter.
fn is_own(error: &NetError) -> bool {
    matches!(
        error,
        NetError::Io(_) | NetError::NoConnections | NetError::Busy
    )
}

/// Whether there was no answer to what was asked: nobody's, or one that says that somebody else did not answer.
fn is_silent(error: &NetError) -> bool {
    matches!(
        error,
        NetError::Timeout
            | NetError::Dns(DnsError::ResponseCode(
                ResponseCode::ServFail | ResponseCode::Refused
            ))
    )
}
