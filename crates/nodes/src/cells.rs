//! One door to several cells: servers, or sets of nodes, that each have a database of their own. Applications are spread
//! over them, and a key is of one of them; so whoever asks is passed on to the one that has their key.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Limited};
use postrider_api::{KNOWS_PATH, Knows, credentials, peer, problem};
use postrider_core::seal::sha256;
use postrider_service::{ErrorCode, Refusal};
use quick_cache::sync::Cache;
use serde_json::json;
use tokio::sync::Semaphore;
use url::Url;

use crate::door::{health, is_health, strip, unknown};
use crate::link::Dialer;
use crate::passing::{NotPassed, Way};

/// Keys whose cell is remembered; any other is asked for again.
const KNOWN_MAX: usize = 100_000;
/// Keys that are asked for at once; more wait.
const ASKED_AT_ONCE: usize = 256;
/// How long a cell may take to say whether it has a key, or is ready.
const ASK_TIME: Duration = Duration::from_secs(5);
/// Bytes of such an answer.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// A door to several cells.
#[derive(Clone)]
pub struct Cells(Arc<Inner>);

struct Inner {
    cells: Vec<Cell>,
    /// The place of the cell that has a key, by the digest of what names it.
    known: Cache<[u8; 32], usize>,
    asking: Semaphore,
}

struct Cell {
    url: Url,
    way: Way,
}

impl std::fmt::Debug for Cells {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let urls = self.0.cells.iter().map(|cell| cell.url.as_str());
        f.debug_set().entries(urls).finish()
    }
}

/// What a request's cell is.
enum Whose {
    /// The place of one.
    Of(usize),
    /// All were asked, and none has it.
    Nobodys,
    /// None has it of those that answered; this one did not.
    Unreached(usize),
}

impl Cells {
    /// To the servers at these URLs. The first one answers what comes without a key, or with one that nobody knows.
    pub fn new(urls: Vec<Url>, dialer: &Dialer) -> Self {
        let cell = |url: Url| Cell {
            way: Way::plain(url.clone(), dialer.clone()),
            url,
        };
        Self(Arc::new(Inner {
            cells: urls.into_iter().map(cell).collect(),
            known: Cache::new(KNOWN_MAX),
            asking: Semaphore::new(ASKED_AT_ONCE),
        }))
    }

    /// What is served at the door.
    pub fn router(&self) -> Router {
        Router::new().fallback(enter).with_state(self.clone())
    }

    /// Whose a request is that brings these.
    async fn whose(&self, credentials: &HeaderMap, digest: [u8; 32]) -> Whose {
        if let Some(place) = self.0.known.get(&digest) {
            return Whose::Of(place);
        }
        let _turn = self.0.asking.acquire().await;
        // Somebody may have asked for the same one meanwhile.
        if let Some(place) = self.0.known.get(&digest) {
            return Whose::Of(place);
        }
        let ask = |place: usize| async move { (place, self.knows(place, credentials).await) };
        let mut asked: FuturesUnordered<_> = (0..self.0.cells.len()).map(ask).collect();
        let mut unreached = None;
        while let Some((place, knows)) = asked.next().await {
            match knows {
                Some(true) => {
                    self.0.known.insert(digest, place);
                    return Whose::Of(place);
                }
                Some(false) => {}
                None => unreached = Some(place),
            }
        }
        unreached.map_or(Whose::Nobodys, Whose::Unreached)
    }

    /// Whether a cell has a key; none when it does not say.
    async fn knows(&self, place: usize, credentials: &HeaderMap) -> Option<bool> {
        let answer = self.ask(place, KNOWS_PATH, credentials.clone()).await?;
        let knows: Knows = serde_json::from_slice(&answer.1).ok()?;
        (answer.0 == StatusCode::OK).then_some(knows.knows)
    }

    /// Asks a cell something of our own.
    async fn ask(
        &self,
        place: usize,
        path: &'static str,
        headers: HeaderMap,
    ) -> Option<(StatusCode, bytes::Bytes)> {
        let cell = self.0.cells.get(place)?;
        let mut request = http::Request::new(Body::empty());
        *request.uri_mut() = Uri::from_static(path);
        *request.headers_mut() = headers;
        request.headers_mut().insert(header::HOST, host(&cell.url)?);
        let asked = tokio::time::timeout(ASK_TIME, async {
            let response = cell.way.pass(request).await.ok()?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX);
            Some((status, body.collect().await.ok()?.to_bytes()))
        });
        asked.await.ok()?
    }

    /// Whether each of them accepts events.
    async fn ready(&self) -> Response {
        let ask = |place: usize| async move {
            (place, self.ask(place, "/ready", HeaderMap::new()).await)
        };
        let asked: FuturesUnordered<_> = (0..self.0.cells.len()).map(ask).collect();
        let asked: Vec<_> = asked.collect().await;
        let is_ready = |answer: &Option<(StatusCode, bytes::Bytes)>| {
            matches!(answer, Some((StatusCode::OK, _)))
        };
        let not_ready: Vec<&str> = asked
            .iter()
            .filter(|(_, answer)| !is_ready(answer))
            .filter_map(|(place, _)| Some(self.0.cells.get(*place)?.url.as_str()))
            .collect();
        if not_ready.is_empty() {
            return axum::Json(json!({ "status": "ready", "cells": asked.len() })).into_response();
        }
        let detail = format!("not every cell accepts events: {}", not_ready.join(", "));
        problem(Refusal::new(ErrorCode::StoreUnavailable, detail))
    }
}

async fn enter(State(cells): State<Cells>, request: Request) -> Response {
    if is_health(&request) {
        return health();
    }
    if request.uri().path() == "/ready" {
        return cells.ready().await;
    }
    let credentials = credentials(request.headers());
    let digest = digest(&credentials);
    let whose = match credentials.is_empty() {
        true => Whose::Nobodys,
        false => cells.whose(&credentials, digest).await,
    };
    let place = match whose {
        Whose::Of(place) => place,
        // It refuses in the shape of the API that was asked.
        Whose::Nobodys => 0,
        Whose::Unreached(place) => return unreached(&cells, place),
    };
    let Some(cell) = cells.0.cells.get(place) else {
        return unreached(&cells, place);
    };
    match cell.way.pass(prepared(request)).await {
        Ok(mut response) => {
            // It may have been deleted there, and its application be somewhere else now.
            if response.status() == StatusCode::UNAUTHORIZED {
                cells.0.known.remove(&digest);
            }
            strip(response.headers_mut());
            response
        }
        Err(NotPassed::Unsent(_)) => unreached(&cells, place),
        Err(NotPassed::Unknown) => unknown(),
    }
}

/// As it came, with whose it is: the cell trusts this door as it would any proxy.
fn prepared(mut request: Request) -> Request {
    let client = peer(&request);
    strip(request.headers_mut());
    // A request of HTTP/2 names its host in another place.
    let authority = request
        .uri()
        .authority()
        .map(|host| host.as_str().to_owned());
    if let (None, Some(authority)) = (request.headers().get(header::HOST), authority)
        && let Ok(host) = HeaderValue::try_from(authority)
    {
        request.headers_mut().insert(header::HOST, host);
    }
    let path = request.uri().path_and_query();
    let path = path.map_or("/", |path| path.as_str()).parse();
    *request.uri_mut() = path.unwrap_or_else(|_| Uri::from_static("/"));
    *request.version_mut() = http::Version::HTTP_11;
    *request.extensions_mut() = http::Extensions::new();
    // A line of its own behind what came: the nearest proxy writes last.
    let client = client.map(|client| HeaderValue::try_from(client.to_canonical().to_string()));
    if let Some(Ok(client)) = client {
        request.headers_mut().append(FORWARDED_FOR, client);
    }
    request
}

fn digest(credentials: &HeaderMap) -> [u8; 32] {
    let mut all = Vec::new();
    for (name, value) in credentials {
        all.extend_from_slice(name.as_str().as_bytes());
        all.push(0);
        all.extend_from_slice(value.as_bytes());
        all.push(0);
    }
    sha256(&all)
}

fn host(url: &Url) -> Option<HeaderValue> {
    let authority = &url[url::Position::BeforeHost..url::Position::AfterPort];
    HeaderValue::try_from(authority).ok()
}

fn unreached(cells: &Cells, place: usize) -> Response {
    let url = cells
        .0
        .cells
        .get(place)
        .map_or("", |cell| cell.url.as_str());
    tracing::warn!(cell = url, "a cell is not reached");
    let detail = "the servers that have this key are not reached just now; nothing of the request was done, send it again in a moment";
    problem(Refusal::new(ErrorCode::StoreUnavailable, detail))
}
