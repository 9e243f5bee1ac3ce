//! What the node that leads has of those that follow: it gives them attempts to make.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Method, Request as HttpRequest, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http2;
use hyper::upgrade::Upgraded;
use postrider_core::attempt::{Outcome, UnreachableReason};
use postrider_engine::{Exchange, Request, Transport};
use postrider_service::{NodeStanding, Nodes};
use tokio::time::Instant;

use crate::link;
use crate::wire;

/// Where a follower is asked to make an attempt.
pub(crate) const ATTEMPT: &str = "http://node/attempt";
/// Where a follower is told that its leader accepts no more.
pub(crate) const LEAVING: &str = "http://node/leaving";

/// Bytes of an answer that are read, its head counted in: a transport reads less of a receiver's.
const ANSWER_BYTES_MAX: usize = 32 * 1024 * 1024;
/// What a follower may take longer than the attempt itself.
const GRACE: Duration = Duration::from_secs(5);
/// Time for a follower to hear that its leader goes.
const GOODBYE: Duration = Duration::from_secs(1);
/// Origins that a follower could not reach, which are remembered; beyond, all are forgotten.
const UNREACHED_MAX: usize = 10_000;
/// So long they are this node's: as long as the longest pause between two attempts of a schedule that comes with the server.
const UNREACHED_FOR: Duration = Duration::from_secs(36 * 3_600);
/// Nodes that follow at once; of more, nobody needs so many.
const FOLLOWERS_MAX: usize = 64;

/// The nodes that follow this one.
#[derive(Clone, Default)]
pub struct Followers(Arc<Inner>);

#[derive(Default)]
struct Inner {
    list: Mutex<Vec<Arc<Follower>>>,
    /// Attempts whose follower went away, and that were made here.
    again: AtomicU64,
    /// No more are taken.
    leaving: AtomicBool,
}

impl std::fmt::Debug for Followers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Followers({})", self.list().len())
    }
}

struct Follower {
    url: String,
    version: String,
    at_once: usize,
    since: Instant,
    sender: http2::SendRequest<Full<Bytes>>,
    under_way: AtomicUsize,
    made: AtomicU64,
}

/// What a follower says of itself as it comes.
pub(crate) struct Introduced {
    pub(crate) url: String,
    pub(crate) version: String,
    pub(crate) at_once: usize,
}

/// There is no telling whether the attempt was made.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error("the link broke")]
    Link(#[from] hyper::Error),
    #[error("it answered {0}")]
    Refused(StatusCode),
    #[error("its answer broke off")]
    Answer,
    #[error("it did not answer in time")]
    Time,
    #[error(transparent)]
    Garbled(#[from] wire::Garbled),
}

impl Followers {
    fn list(&self) -> Vec<Arc<Follower>> {
        self.0
            .list
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Whether another one may come.
    pub(crate) fn has_room(&self) -> bool {
        !self.is_leaving() && self.list().len() < FOLLOWERS_MAX
    }

    /// Whether this node is about to end.
    pub(crate) fn is_leaving(&self) -> bool {
        self.0.leaving.load(Ordering::Relaxed)
    }

    /// Attempts that were made here because the follower that had them went away.
    pub fn made_again(&self) -> u64 {
        self.0.again.load(Ordering::Relaxed)
    }

    /// Gives a follower attempts until its link ends.
    pub(crate) async fn lead(&self, link: Upgraded, introduced: Introduced) {
        let Introduced {
            url,
            version,
            at_once,
        } = introduced;
        let (sender, connection) = match link::sending().handshake(link).await {
            Ok(made) => made,
            Err(error) => {
                tracing::warn!(
                    node = url,
                    error = &error as &dyn std::error::Error,
                    "a node came, and its link broke"
                );
                return;
            }
        };
        tracing::info!(node = url, version, at_once, "a node follows");
        let follower = Arc::new(Follower {
            url,
            version,
            at_once,
            since: Instant::now(),
            sender,
            under_way: AtomicUsize::new(0),
            made: AtomicU64::new(0),
        });
        self.change(|list| list.push(follower.clone()));
        let ended = connection.await;
        self.change(|list| list.retain(|known| !Arc::ptr_eq(known, &follower)));
        tracing::info!(
            node = follower.url,
            attempts = follower.made.load(Ordering::Relaxed),
            reason = ended.err().map(|error| error.to_string()),
            "a node follows no more"
        );
    }

    fn change(&self, change: impl FnOnce(&mut Vec<Arc<Follower>>)) {
        change(&mut self.0.list.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Tells all that they are to look for another leader; what they have under way they bring to its end. Returns
    /// whether there is anybody.
    pub async fn leave(&self) -> bool {
        // Before the list is taken: who comes later is refused, and need not be told.
        self.0.leaving.store(true, Ordering::Relaxed);
        let list = self.list();
        let tell = |follower: &Arc<Follower>| {
            let follower = follower.clone();
            async move { follower.ask(LEAVING, Bytes::new()).await }
        };
        let all = futures_util::future::join_all(list.iter().map(tell));
        drop(tokio::time::timeout(GOODBYE, all).await);
        !list.is_empty()
    }
}

impl Nodes for Followers {
    fn followers(&self) -> Vec<NodeStanding> {
        let standing = |follower: &Arc<Follower>| NodeStanding {
            url: follower.url.clone(),
            version: follower.version.clone(),
            follows_for: follower.since.elapsed(),
            under_way: follower.under_way.load(Ordering::Relaxed),
            attempts: follower.made.load(Ordering::Relaxed),
        };
        self.list().iter().map(standing).collect()
    }
}

/// Counts an attempt as long as it is under way.
struct UnderWay<'a>(&'a Follower);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Follower {
    fn has_room(&self) -> bool {
        // Attempts that begin together may all see the last place: the link lets no more through than it may.
        !self.sender.is_closed() && self.under_way.load(Ordering::Relaxed) < self.at_once
    }

    async fn ask(&self, to: &str, body: Bytes) -> Result<Bytes, Lost> {
        let request = HttpRequest::builder()
            .method(Method::POST)
            .uri(to)
            .body(Full::new(body))
            .expect("a method and an address of ours are a request");
        let response = self.sender.clone().send_request(request).await?;
        if response.status() != StatusCode::OK {
            return Err(Lost::Refused(response.status()));
        }
        let answer = Limited::new(response.into_body(), ANSWER_BYTES_MAX);
        let answer = answer.collect().await.map_err(|_| Lost::Answer)?;
        Ok(answer.to_bytes())
    }

    async fn attempt(&self, request: &Request) -> Result<Exchange, Lost> {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        let _under_way = UnderWay(self);
        let time = request.connect_timeout + request.total_timeout + GRACE;
        let asked = self.ask(ATTEMPT, wire::request_bytes(request));
        let answer = tokio::time::timeout(time, asked).await;
        let exchange = wire::read_exchange(answer.map_err(|_| Lost::Time)??)?;
        self.made.fetch_add(1, Ordering::Relaxed);
        Ok(exchange)
    }
}

/// Makes attempts here and on the nodes that follow: those to one origin always on the same node as long as the nodes
/// are the same, so that its connections are used again.
pub struct Spread {
    own: Arc<dyn Transport>,
    followers: Followers,
    unreached: Unreached,
}

/// Origins that a follower could not reach: the next attempt is this node's. When it cannot either, the one after that is
/// the follower's again. Otherwise a node whose way out is broken would use up the whole schedule of what is its.
#[derive(Default)]
struct Unreached(Mutex<HashMap<u64, Instant>>);

impl Unreached {
    fn has(&self, origin: u64) -> bool {
        let until = self.lock().get(&origin).copied();
        until.is_some_and(|until| Instant::now() < until)
    }

    /// How an attempt ended, and who made it.
    fn note(&self, origin: u64, outcome: &Outcome, is_own: bool) {
        if !matches!(outcome, Outcome::Unreachable { .. }) || is_local(outcome) {
            return;
        }
        let mut unreached = self.lock();
        if is_own {
            unreached.remove(&origin);
            return;
        }
        let now = Instant::now();
        if unreached.len() >= UNREACHED_MAX {
            unreached.retain(|_, until| now < *until);
        }
        if unreached.len() >= UNREACHED_MAX {
            unreached.clear();
        }
        unreached.insert(origin, now + UNREACHED_FOR);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Spread({:?})", self.followers)
    }
}

impl Spread {
    pub fn new(own: Arc<dyn Transport>, followers: Followers) -> Self {
        Self {
            own,
            followers,
            unreached: Unreached::default(),
        }
    }

    /// Who makes an attempt; none is this node itself.
    fn choose(&self, request: &Request) -> Option<Arc<Follower>> {
        let list = self.followers.0.list.lock();
        let list = list.unwrap_or_else(PoisonError::into_inner);
        if list.is_empty() {
            return None;
        }
        let origin = origin(&request.url);
        if self.unreached.has(weight("", origin)) {
            return None;
        }
        // This node takes part too; it gives itself no name.
        let mut best = (weight("", origin), None);
        for follower in list.iter().filter(|follower| follower.has_room()) {
            let weight = weight(&follower.url, origin);
            if weight > best.0 {
                best = (weight, Some(follower));
            }
        }
        best.1.cloned()
    }
}

#[async_trait]
impl Transport for Spread {
    /// What a follower cannot do, or did not come back from, is done here: the receiver may see it twice, as after a
    /// crash.
    async fn send(&self, request: &Request) -> Exchange {
        // By the number alone: which origins they are nobody asks.
        let origin = weight("", origin(&request.url));
        let Some(follower) = self.choose(request) else {
            let exchange = self.own.send(request).await;
            self.unreached.note(origin, &exchange.outcome, true);
            return exchange;
        };
        let attempted = follower.attempt(request).await;
        if let Ok(exchange) = &attempted {
            self.unreached.note(origin, &exchange.outcome, false);
        }
        match attempted {
            Ok(exchange) if !is_local(&exchange.outcome) => exchange,
            // It sent nothing, so this is no second time.
            Ok(_) => self.own.send(request).await,
            Err(lost) => {
                tracing::warn!(
                    node = follower.url,
                    error = &lost as &dyn std::error::Error,
                    "an attempt did not come back from its node; it is made here"
                );
                self.followers.0.again.fetch_add(1, Ordering::Relaxed);
                self.own.send(request).await
            }
        }
    }
}

/// Whether it was the node that could not.
fn is_local(outcome: &Outcome) -> bool {
    matches!(
        outcome,
        Outcome::Unreachable {
            reason: UnreachableReason::Local,
            ..
        }
    )
}

/// Scheme, host and port of an address, as it is written.
fn origin(url: &str) -> &str {
    let host = url.find("://").map_or(0, |scheme| scheme + 3);
    let end = url[host..].find(['/', '?', '#']);
    end.map_or(url, |end| &url[..host + end])
}

/// How much an origin belongs to a node: of several nodes the one with the most has it, and when one comes or goes only
/// what is its moves.
fn weight(node: &str, origin: &str) -> u64 {
    // One that another version hashes otherwise by will do: nobody but the leader chooses.
    let mut hasher = DefaultHasher::new();
    (node, origin).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_ends_where_its_path_begins() {
        for (url, wanted) in [
            ("https://a.example/x/y?z", "https://a.example"),
            ("http://a.example:81?z", "http://a.example:81"),
            ("https://a.example", "https://a.example"),
            ("nonsense", "nonsense"),
        ] {
            assert_eq!(origin(url), wanted);
        }
    }

    #[test]
    fn what_one_node_cannot_reach_the_other_one_tries() {
        let unreached = Unreached::default();
        let ended = |reason| Outcome::Unreachable {
            reason,
            detail: String::new(),
        };
        unreached.note(1, &ended(UnreachableReason::Local), false);
        assert!(!unreached.has(1), "it is made here at once");
        unreached.note(1, &ended(UnreachableReason::Dns), false);
        assert!(unreached.has(1) && !unreached.has(2));
        unreached.note(1, &ended(UnreachableReason::Timeout), true);
        assert!(!unreached.has(1));
    }

    #[test]
    fn origins_spread_evenly_and_few_move_when_a_node_goes() {
        let nodes = ["", "http://b", "http://c"];
        let owner = |nodes: &[&str], origin: &str| {
            let best = nodes.iter().max_by_key(|node| weight(node, origin));
            (*best.unwrap()).to_owned()
        };
        let mut counts = [0; 3];
        for number in 0..3_000 {
            let origin = format!("https://{number}.example");
            let before = owner(&nodes, &origin);
            counts[nodes.iter().position(|node| *node == before).unwrap()] += 1;
            if before != "http://c" {
                assert_eq!(owner(&nodes[..2], &origin), before, "it stays where it is");
            }
        }
        assert!(
            counts.iter().all(|count| (800..1_200).contains(count)),
            "{counts:?}"
        );
    }
}
