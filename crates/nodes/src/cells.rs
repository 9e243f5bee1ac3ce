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
use postrider_api::{KNOWS_PATH, Knows, Named, peer, problem};
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
/// Keys that a cell is asked for at once; more wait, but not for one that another cell has.
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
    /// The place of the cell that has a key, by what names it.
    known: Cache<Named, usize>,
}

struct Cell {
    url: Url,
    way: Way,
    /// Its own: one that does not answer keeps nobody from asking the others.
    asking: Semaphore,
}

impl std::fmt::Debug for Cells {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let urls = self.0.cells.iter().map(|cell| cell.url.as_str());
        f.debug_set().entries(urls).finish()
    }
}

/// What a request's cell is.
enum Whose {
    /// The place of one, and what it has.
    Of(usize, Named),
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
            asking: Semaphore::new(ASKED_AT_ONCE),
        };
        Self(Arc::new(Inner {
            cells: urls.into_iter().map(cell).collect(),
            known: Cache::new(KNOWN_MAX),
        }))
    }

    /// What is served at the door.
    pub fn router(&self) -> Router {
        Router::new().fallback(enter).with_state(self.clone())
    }

    /// Whose a request is that names its key so, or so.
    async fn whose(&self, all: Vec<Named>) -> Whose {
        // First of all what is known: another name, of a gateway's own, may be nobody's.
        for named in &all {
            if let Some(place) = self.0.known.get(named) {
                return Whose::Of(place, named.clone());
            }
        }
        let mut unreached = None;
        for named in all {
            match self.holder(&named).await {
                Ok(Some(place)) => return Whose::Of(place, named),
                Ok(None) => {}
                Err(place) => unreached = Some(place),
            }
        }
        unreached.map_or(Whose::Nobodys, Whose::Unreached)
    }

    /// The place of the cell that has it.
    ///
    /// # Errors
    /// The place of one that did not say, when no other has it.
    async fn holder(&self, named: &Named) -> Result<Option<usize>, usize> {
        let ask = |place: usize| async move { (place, self.knows(place, named).await) };
        let mut asked: FuturesUnordered<_> = (0..self.0.cells.len()).map(ask).collect();
        let mut unreached = None;
        while let Some((place, knows)) = asked.next().await {
            match knows {
                Some(true) => {
                    self.0.known.insert(named.clone(), place);
                    return Ok(Some(place));
                }
                Some(false) => {}
                None => unreached = Some(place),
            }
        }
        unreached.map_or(Ok(None), Err)
    }

    /// Whether a cell has a key; none when it does not say.
    async fn knows(&self, place: usize, named: &Named) -> Option<bool> {
        let asking = &self.0.cells.get(place)?.asking;
        let turn = tokio::time::timeout(ASK_TIME, asking.acquire()).await;
        let _turn = turn.ok()?.ok()?;
        let headers = HeaderMap::from_iter([named.asked()]);
        let (status, answer) = self.ask(place, KNOWS_PATH, headers).await?;
        if status != StatusCode::OK {
            let url = self.0.cells.get(place)?.url.as_str();
            if status == StatusCode::NOT_FOUND {
                tracing::warn!(
                    cell = url,
                    "a cell does not say whether it has a key; is this door among its server.trusted_proxies?"
                );
            }
            return None;
        }
        let knows: Knows = serde_json::from_slice(&answer).ok()?;
        Some(knows.knows)
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

    /// Whether one of them accepts events at least, or all do: one that does not is no reason to send nobody here.
    async fn ready(&self, all: bool) -> Response {
        let ask = |place: usize| async move {
            let asked = self.ask(place, "/ready", HeaderMap::new()).await;
            asked.is_some_and(|(status, _)| status == StatusCode::OK)
        };
        let mut asked: FuturesUnordered<_> = (0..self.0.cells.len()).map(ask).collect();
        let (cells, mut ready) = (self.0.cells.len(), 0);
        while let Some(is_ready) = asked.next().await {
            ready += usize::from(is_ready);
            // Whoever asks whether to send somebody here does not wait for one that hangs.
            if ready == cells || (is_ready && !all) {
                return axum::Json(json!({ "status": "ready", "cells": cells })).into_response();
            }
        }
        let detail = format!(
            "{ready} of {cells} cells accept events; ask each of cells.urls for its /ready"
        );
        problem(Refusal::new(ErrorCode::StoreUnavailable, detail))
    }
}

async fn enter(State(cells): State<Cells>, request: Request) -> Response {
    if is_health(&request) {
        return health();
    }
    match request.uri().path() {
        "/ready" => return cells.ready(request.uri().query() == Some("all")).await,
        // What servers ask each other is not for clients, whom the cell would take for this door.
        path if path.starts_with("/node/") => {
            let detail = "there is nothing here";
            return problem(Refusal::new(ErrorCode::RouteUnknown, detail));
        }
        _ => {}
    }
    let (place, named) = match cells.whose(Named::all(request.headers())).await {
        Whose::Of(place, named) => (place, Some(named)),
        // It refuses in the shape of the API that was asked.
        Whose::Nobodys => (0, None),
        Whose::Unreached(place) => return unreached(&cells, place),
    };
    let Some(cell) = cells.0.cells.get(place) else {
        return unreached(&cells, place);
    };
    match cell.way.pass(prepared(request, &cell.url)).await {
        Ok(mut response) => {
            // It may have been deleted there, and be made somewhere else. Whoever knows an id can have a 401 for it.
            if response.status() == StatusCode::UNAUTHORIZED
                && let Some(named) = named
                && cells.knows(place, &named).await == Some(false)
            {
                cells.0.known.remove(&named);
            }
            strip(response.headers_mut());
            response
        }
        Err(NotPassed::Unsent(_)) => unreached(&cells, place),
        Err(NotPassed::Unknown) => unknown(),
    }
}

/// As it came, with whose it is: the cell trusts this door as it would any proxy.
fn prepared(mut request: Request, cell: &Url) -> Request {
    let client = peer(&request);
    strip(request.headers_mut());
    // HTTP/1.0 needs none, and what comes in absolute form has it there too.
    if !request.headers().contains_key(header::HOST) {
        let authority = request.uri().authority();
        let host = authority.and_then(|host| HeaderValue::try_from(host.as_str()).ok());
        if let Some(host) = host.or_else(|| self::host(cell)) {
            request.headers_mut().insert(header::HOST, host);
        }
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
    tracing::debug!(cell = url, "a cell is not reached");
    let detail = "the servers that have this key are not reached just now; nothing of the request was done, send it again in a moment";
    problem(Refusal::new(ErrorCode::StoreUnavailable, detail))
}
