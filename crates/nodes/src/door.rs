//! What every request to a node goes through: it is answered here by the node that leads, and passed on to it by the others.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version, header};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::upgrade::Upgraded;
use postrider_api::{arrived_from, peer, problem};
use postrider_core::Secret;
use postrider_core::secret::constant_time_eq;
use postrider_service::{ErrorCode, Refusal};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;
use url::Url;

use crate::leader::{Followers, Introduced};
use crate::link::{self, Kind};
use crate::passing::{NotPassed, Way};

/// How long a request waits for a node that leads.
const HOLD: Duration = Duration::from_secs(15);
/// Between two tries to pass a request on to a leader that does not take it.
const BETWEEN_TRIES: Duration = Duration::from_millis(200);
/// Requests that wait at once.
const HELD_MAX: usize = 1_024;
/// Between two of them that are told.
const TOLD_EVERY: Duration = Duration::from_secs(60);
/// Bytes of what somebody says who is refused.
const TOLD_BYTES_MAX: usize = 100;
/// Whose request it is, between two nodes: an address, and the version of HTTP.
const CLIENT: HeaderName = HeaderName::from_static("x-postrider-client");

/// What a node is for those who ask it.
#[derive(Clone)]
enum Role {
    /// Nobody is known to lead.
    Searching,
    Following(Way),
    Leading(Router),
}

/// The door of a node.
#[derive(Clone)]
pub struct Door(Arc<Inner>);

struct Inner {
    role: watch::Sender<Role>,
    held: Semaphore,
    /// Where other nodes reach this one.
    url: Url,
    /// What each of its master keys shows; the one that seals is first.
    tokens: Vec<Secret>,
    followers: Followers,
    /// What followers pass on, as long as this node leads.
    passed: TaskTracker,
    /// Followers that make attempts; they end with their links.
    making: TaskTracker,
    stop: CancellationToken,
    /// One refusal of a follower is told, not each of its tries.
    told: Mutex<Option<(String, tokio::time::Instant)>>,
}

impl std::fmt::Debug for Door {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Door")
    }
}

impl Door {
    /// Of the node at `url`; links are for whoever has one of `tokens`.
    pub fn new(url: Url, tokens: Vec<Secret>, followers: Followers) -> Self {
        Self(Arc::new(Inner {
            role: watch::Sender::new(Role::Searching),
            held: Semaphore::new(HELD_MAX),
            url,
            tokens,
            followers,
            passed: TaskTracker::new(),
            making: TaskTracker::new(),
            stop: CancellationToken::new(),
            told: Mutex::new(None),
        }))
    }

    /// What is served at the node's port.
    pub fn router(&self) -> Router {
        Router::new().fallback(enter).with_state(self.clone())
    }

    /// From now on this node answers by itself.
    pub fn lead(&self, router: Router) {
        self.0.role.send_replace(Role::Leading(router));
    }

    /// Whether another node leads, and is reached.
    pub fn follows(&self) -> bool {
        matches!(*self.0.role.borrow(), Role::Following(_))
    }

    /// Waits until no node is followed any more.
    pub async fn follows_no_more(&self) {
        let mut role = self.0.role.subscribe();
        let ended = role.wait_for(|role| !matches!(role, Role::Following(_)));
        drop(ended.await);
    }

    /// A leader that takes nothing is on its way out: waits a moment for its links to say so.
    async fn leads_no_more(&self, leader: &Way) {
        let mut role = self.0.role.subscribe();
        let other = role.wait_for(|role| match role {
            Role::Following(now) => !now.is(leader),
            Role::Searching | Role::Leading(_) => true,
        });
        drop(tokio::time::timeout(BETWEEN_TRIES, other).await);
    }

    pub(crate) fn follow(&self, leader: Way) {
        self.become_if(Role::Following(leader), |now| {
            !matches!(now, Role::Leading(_))
        });
    }

    /// Whoever was followed is no more. Who leads already goes on: it hears late of the end of another.
    pub(crate) fn search(&self) {
        self.become_if(Role::Searching, |now| matches!(now, Role::Following(_)));
    }

    fn become_if(&self, role: Role, may: impl FnOnce(&Role) -> bool) {
        self.0.role.send_if_modified(|now| {
            let may = may(now);
            if may {
                *now = role;
            }
            may
        });
    }

    /// Sends followers to the next leader, brings to its end what came over their links, and takes no more. Returns
    /// whether there was a follower.
    pub async fn leave(&self) -> bool {
        // Told first: they hold what comes next for another leader, and what came before is answered.
        let somebody = self.0.followers.leave().await;
        self.0.stop.cancel();
        self.0.passed.close();
        somebody
    }

    /// Waits until all that followers passed on is answered.
    pub async fn left(&self) {
        self.0.passed.close();
        self.0.passed.wait().await;
    }

    /// Who answers; none when nobody came to lead in time, or too many wait for that.
    async fn role(&self, until: tokio::time::Instant) -> Option<Role> {
        let mut role = self.0.role.subscribe();
        let now = role.borrow_and_update().clone();
        if !matches!(now, Role::Searching) {
            return Some(now);
        }
        // Only who waits takes room: what somebody answers at once is never refused for want of it.
        let _held = self.0.held.try_acquire().ok()?;
        let known = role.wait_for(|role| !matches!(role, Role::Searching));
        let known = tokio::time::timeout_at(until, known).await;
        known.ok()?.ok().map(|role| role.clone())
    }

    /// Takes a follower's link.
    fn take_link(&self, mut request: Request) -> Response {
        let router = match &*self.0.role.borrow() {
            Role::Leading(router) => router.clone(),
            Role::Searching | Role::Following(_) => return nobody_leads(),
        };
        let headers = request.headers();
        let upgrade = headers.get(header::UPGRADE);
        let kind = headers.get(link::KIND);
        let kind = kind.and_then(|kind| Kind::parse(kind.as_bytes()));
        let nonce = headers.get(link::NONCE).and_then(|text| text.to_str().ok());
        let is_node = upgrade.is_some_and(|to| to == link::PROTOCOL);
        let (Some(kind), Some(nonce), true) = (kind, nonce, is_node) else {
            let detail = "this is where another node opens its link";
            return problem(Refusal::new(ErrorCode::HeaderInvalid, detail));
        };
        let given = headers.get(header::AUTHORIZATION);
        let shows = |token: &&Secret| {
            let wanted = link::credentials(token, &self.0.url, kind, nonce);
            given.is_some_and(|given| constant_time_eq(given.as_bytes(), wanted.as_bytes()))
        };
        // Any key of this node will do: a master key is replaced node by node.
        let Some(token) = self.0.tokens.iter().find(shows) else {
            self.tell_once(headers);
            let detail = "nodes of one store have the same master key, and reach each other by nodes.url: copy the key from the first one";
            return problem(Refusal::new(ErrorCode::KeyUnknown, detail));
        };
        let proof = link::answer(token, nonce);
        // Requests of one that follows already need no place among the followers.
        let has_room = match kind {
            Kind::Attempts => self.0.followers.has_room(),
            Kind::Requests => !self.0.followers.is_leaving(),
        };
        if !has_room {
            return nobody_leads();
        }
        let introduced = introduced(headers);
        let upgraded = hyper::upgrade::on(&mut request);
        let door = self.clone();
        let links = match kind {
            Kind::Attempts => &self.0.making,
            Kind::Requests => &self.0.passed,
        };
        links.spawn(async move {
            let Ok(upgraded) = upgraded.await else { return };
            match kind {
                Kind::Attempts => door.0.followers.lead(upgraded, introduced).await,
                Kind::Requests => door.answer(upgraded, router).await,
            }
        });
        let headers = [
            (header::CONNECTION, HeaderValue::from_static("upgrade")),
            (header::UPGRADE, HeaderValue::from_static(link::PROTOCOL)),
            (link::PROOF, proof),
        ];
        (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
    }

    /// Answers what a follower's clients ask, until its link ends or this node leaves.
    async fn answer(&self, upgraded: Upgraded, router: Router) {
        let service = service_fn(move |mut request: http::Request<Incoming>| {
            restore(&mut request);
            postrider_api::answer(router.clone(), request)
        });
        let connection = link::taking().serve_connection(upgraded, service);
        tokio::pin!(connection);
        tokio::select! {
            ended = &mut connection => drop(ended),
            () = self.0.stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                drop(connection.await);
            }
        }
    }

    fn tell_once(&self, headers: &HeaderMap) {
        let mut node = introduced(headers).url;
        // It goes into the log, of somebody who has shown nothing.
        node.truncate(node.floor_char_boundary(TOLD_BYTES_MAX));
        let mut told = self.0.told.lock().unwrap_or_else(PoisonError::into_inner);
        // Nor does one who takes another name each time fill it.
        let is_new = told
            .as_ref()
            .is_none_or(|(last, at)| *last != node && at.elapsed() >= TOLD_EVERY);
        if is_new {
            tracing::warn!(
                node,
                "refused a node that has another master key, or somebody who pretends to be one"
            );
            *told = Some((node, tokio::time::Instant::now()));
        }
    }
}

async fn enter(State(door): State<Door>, request: Request) -> Response {
    if request.uri().path() == link::PATH {
        return door.take_link(request);
    }
    // One deadline for all tries together.
    let until = tokio::time::Instant::now() + HOLD;
    let mut request = request;
    let mut is_prepared = false;
    loop {
        match door.role(until).await {
            Some(Role::Leading(router)) => {
                // It was to be passed on, and then the leader's place became this node's.
                if is_prepared {
                    restore(&mut request);
                }
                return match router.oneshot(request).await {
                    Ok(response) => response,
                    Err(never) => match never {},
                };
            }
            Some(Role::Following(_)) if is_health(&request) => return health(),
            Some(Role::Following(leader)) => {
                // Once: afterwards its address and version are in a header alone.
                if !is_prepared {
                    prepare(&mut request);
                    is_prepared = true;
                }
                match leader.pass(request).await {
                    Ok(mut response) => {
                        strip(response.headers_mut());
                        return response;
                    }
                    // Nothing of it was done: another one may lead in a moment.
                    Err(NotPassed::Unsent(unsent)) => {
                        if tokio::time::Instant::now() >= until {
                            return nobody_leads();
                        }
                        request = *unsent;
                        door.leads_no_more(&leader).await;
                    }
                    Err(NotPassed::Unknown) => return unknown(),
                }
            }
            Some(Role::Searching) | None if is_health(&request) => return health(),
            Some(Role::Searching) | None => return nobody_leads(),
        }
    }
}

/// Whether the process runs is its own to say.
pub(crate) fn is_health(request: &Request) -> bool {
    request.uri().path() == "/health"
}

pub(crate) fn health() -> Response {
    let version = env!("CARGO_PKG_VERSION");
    axum::Json(serde_json::json!({ "status": "ok", "version": version })).into_response()
}

pub(crate) fn unknown() -> Response {
    let detail = "the server that had this request went away meanwhile, and whether it was done is not known; send it again, an event with the same Idempotency-Key";
    problem(Refusal::new(ErrorCode::OutcomeUnknown, detail))
}

fn nobody_leads() -> Response {
    let detail = "no node leads just now; send it again in a moment, nothing of it was done";
    problem(Refusal::new(ErrorCode::StoreUnavailable, detail))
}

/// What a node says of itself with its link.
fn introduced(headers: &HeaderMap) -> Introduced {
    let text = |name: HeaderName| {
        let value = headers.get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default().to_owned()
    };
    Introduced {
        url: text(link::NODE),
        version: text(link::VERSION),
        at_once: text(link::AT_ONCE).parse().unwrap_or(0),
    }
}

/// Makes of a client's request what is passed on: as it came, with whose it is.
fn prepare<B>(request: &mut http::Request<B>) {
    // Before the extensions go: the address is one of them.
    let client = client_value(peer(request), request.version());
    // Before the header is written: a client that sends one of its own would choose its address.
    strip(request.headers_mut());
    request.headers_mut().insert(CLIENT, client);
    // Links speak nothing else; the leader gives the request its own version back.
    *request.version_mut() = Version::HTTP_11;
    *request.extensions_mut() = http::Extensions::new();
}

/// Takes away what is between the two ends of one connection (RFC 9110 7.6.1), and what only nodes say. What a client
/// names in `Connection` stays: it could name what a proxy has written.
pub(crate) fn strip(headers: &mut HeaderMap) {
    for name in [
        header::CONNECTION,
        header::PROXY_AUTHENTICATE,
        header::PROXY_AUTHORIZATION,
        header::TE,
        header::TRAILER,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        // It is written again from what the body is.
        header::CONTENT_LENGTH,
        HeaderName::from_static("keep-alive"),
        HeaderName::from_static("proxy-connection"),
        CLIENT,
    ] {
        headers.remove(name);
    }
}

fn client_value(client: Option<IpAddr>, version: Version) -> HeaderValue {
    let version = match version {
        Version::HTTP_10 => "1.0",
        _ => "1.1",
    };
    let address = client.map_or_else(|| "-".to_owned(), |address| address.to_string());
    HeaderValue::try_from(format!("{address} {version}"))
        .expect("an address and a number are a header's value")
}

/// Makes a request that was passed on what it was when its client sent it.
fn restore<B>(request: &mut http::Request<B>) {
    let given = request.headers_mut().remove(CLIENT);
    let given = given.as_ref().and_then(|given| given.to_str().ok());
    let (address, version) = given.and_then(|given| given.split_once(' ')).unzip();
    *request.version_mut() = match version {
        Some("1.0") => Version::HTTP_10,
        _ => Version::HTTP_11,
    };
    if let Some(address) = address.and_then(|address| address.parse().ok()) {
        arrived_from(request, address);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn what_belongs_to_one_connection_is_not_passed_on() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, x-forwarded-for"),
            ("x-forwarded-for", "203.0.113.9"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("x-postrider-client", "10.0.0.1 1.1"),
            ("authorization", "Bearer x"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        strip(&mut headers);
        let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["authorization", "x-forwarded-for"]);
    }

    #[test]
    fn a_request_arrives_as_from_its_client() {
        let client = Ipv4Addr::new(203, 0, 113, 5).into();
        let mut request = http::Request::get("/v1/x?y=1")
            .version(Version::HTTP_10)
            .header(CLIENT, "198.51.100.1 1.1")
            .body(())
            .unwrap();
        arrived_from(&mut request, client);
        prepare(&mut request);
        assert_eq!(peer(&request), None, "another process does not see it");
        assert_eq!(request.version(), Version::HTTP_11);
        restore(&mut request);
        assert_eq!(peer(&request), Some(client));
        assert_eq!(request.uri(), "/v1/x?y=1");
        assert_eq!(request.version(), Version::HTTP_10);
        assert!(request.headers().is_empty());
    }
}
