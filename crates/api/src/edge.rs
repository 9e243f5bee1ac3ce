//! What holds for every request and every answer, whatever route it takes.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header};
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use ipnet::IpNet;
use postrider_core::seal::sha256;
use postrider_service::budget::{Budget, Grant};
use postrider_service::{AsAskedFor, CameFrom, ErrorCode, Refusal, Result};

use crate::metrics::Metrics;
use crate::native::traceparent;
use crate::problem::Problem;
use crate::rate::Used;
use crate::server::Peer;
use crate::{Api, ApiOptions, dialects};

/// Bytes that are handed to the connection at once: what it has not asked for is still counted.
const PIECE: usize = 64 * 1024;

/// What answers have in common, in one place: each request gets it several times.
#[derive(Debug, Clone)]
pub(crate) struct Answers(Arc<Common>);

impl std::ops::Deref for Answers {
    type Target = Common;

    fn deref(&self) -> &Common {
        &self.0
    }
}

#[derive(Debug)]
pub(crate) struct Common {
    /// Whose shape a refusal has depends on where it was asked for.
    api: Api,
    budget: Budget,
    metrics: Arc<Metrics>,
    keep_alive: HeaderValue,
    slow: Duration,
    /// Networks of proxies whose `X-Forwarded-For` is believed.
    proxies: Arc<[IpNet]>,
}

impl Answers {
    pub(crate) fn new(api: &Api, options: &ApiOptions) -> Self {
        let keep_alive = format!("timeout={}", options.keep_alive.as_secs());
        Self(Arc::new(Common {
            api: api.clone(),
            budget: api.door.answers.clone(),
            metrics: api.door.metrics.clone(),
            slow: options.slow,
            proxies: Arc::from(options.trusted_proxies.as_slice()),
            keep_alive: HeaderValue::from_str(&keep_alive)
                .expect("a number of seconds is a header value"),
        }))
    }
}

/// Refuses what HTTP leaves unclear, and counts answers as long as their clients have not taken them.
pub(crate) async fn edge(State(answers): State<Answers>, request: Request, next: Next) -> Response {
    // Before anything can be refused: refusals are in the log too.
    let line = Line::begin(&request);
    let mut request = request;
    // Shared with the handlers, which find out whose key it is.
    request.extensions_mut().insert(line.asked_by.clone());
    let from = came_from(&request, &answers.proxies);
    request.extensions_mut().insert(from);
    let mut response = answered(&answers, request, next).await;
    line.end(&response, &answers);
    let headers = response.headers_mut();
    headers.insert("keep-alive", answers.keep_alive.clone());
    // Here, and not where it was counted: then it is on refusals too.
    if let Some(used) = line.asked_by.used() {
        used.tell(headers);
    }
    headers.insert(REQUEST_ID, line.id);
    response
}

fn came_from(request: &Request, proxies: &[IpNet]) -> CameFrom {
    let address = address_of(request, proxies);
    let peer = request.extensions().get::<Peer>();
    let peer = peer.map(|peer| peer.0.to_canonical());
    let told = ["x-forwarded-for", "forwarded"];
    let is_told = told
        .iter()
        .any(|name| request.headers().contains_key(*name));
    let is_trusted = peer.is_some_and(|peer| proxies.iter().any(|net| net.contains(&peer)));
    // Whoever is not trusted may have made the line up, so the address stays; but it may be many people's.
    CameFrom {
        address,
        is_proxys: is_told && !is_trusted,
    }
}

/// The address of who asks: the connection's other end, or, when that is a trusted proxy, the last
/// one in `X-Forwarded-For` that is none.
fn address_of(request: &Request, proxies: &[IpNet]) -> Option<IpAddr> {
    let trusted = |address: &IpAddr| proxies.iter().any(|net| net.contains(address));
    // On a socket of IPv6 a client's IPv4 address comes mapped, which no network of the settings holds.
    let mut address = request.extensions().get::<Peer>()?.0.to_canonical();
    let mut lines: Vec<_> = request
        .headers()
        .get_all("x-forwarded-for")
        .iter()
        .collect();
    // The nearest proxy wrote last. What cannot be read makes the address unknown, never another one.
    while let Some(line) = lines.pop().filter(|_| trusted(&address)) {
        for text in line.to_str().ok()?.rsplit(',') {
            if !trusted(&address) {
                break;
            }
            address = text.trim().parse::<IpAddr>().ok()?.to_canonical();
        }
    }
    Some(address)
}

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Bytes of an id that a client gives.
const REQUEST_ID_BYTES_MAX: usize = 128;
/// Of a request's path in the log: anybody may send one.
const PATH_TOLD_MAX: usize = 256;

/// Whose key made a request, and how much of its limit it has used, once that is known.
#[derive(Debug, Clone, Default)]
pub(crate) struct AskedBy(Arc<Asked>);

#[derive(Debug, Default)]
struct Asked {
    key: OnceLock<String>,
    used: OnceLock<Used>,
}

impl AskedBy {
    pub(crate) fn set(&self, key: &impl ToString) {
        // Whoever looks at the key again finds the same.
        drop(self.0.key.set(key.to_string()));
    }

    pub(crate) fn used(&self) -> Option<Used> {
        self.0.used.get().copied()
    }

    pub(crate) fn has_used(&self, used: Used) {
        self.0.used.get_or_init(|| used);
    }
}

/// The line of the log for one request.
struct Line {
    id: HeaderValue,
    method: Method,
    path: String,
    route: Option<MatchedPath>,
    asked_by: AskedBy,
    /// Of the trace that the client gave.
    trace: Option<String>,
    began: tokio::time::Instant,
}

impl Line {
    fn begin(request: &Request) -> Self {
        // One that the client or its proxy gives is kept, so that their log and ours have the same.
        let given = request.headers().get(REQUEST_ID).filter(|given| {
            // It goes into the log as it came.
            let plain = |byte: &u8| byte.is_ascii_graphic();
            !given.is_empty()
                && given.len() <= REQUEST_ID_BYTES_MAX
                && given.as_bytes().iter().all(plain)
        });
        let made = || {
            // No secret, so that it need not be what nobody could guess.
            let id = format!("req_{:016x}{:08x}", fastrand::u64(..), fastrand::u32(..));
            HeaderValue::from_str(&id).expect("hex digits are a header value")
        };
        Self {
            id: given.cloned().unwrap_or_else(made),
            method: request.method().clone(),
            path: match request.uri().path() {
                // What comes behind is a secret.
                path if path.starts_with("/confirm/") => "/confirm/…".to_owned(),
                path if path.starts_with("/catch/") => "/catch/…".to_owned(),
                path => path.chars().take(PATH_TOLD_MAX).collect(),
            },
            route: request.extensions().get().cloned(),
            asked_by: AskedBy::default(),
            trace: traceparent(request.headers()).map(|given| given.trace_id()),
            began: tokio::time::Instant::now(),
        }
    }

    fn end(&self, response: &Response, answers: &Answers) {
        let status = response.status();
        // What somebody asked for is no failure of ours, and takes as long as its sender does.
        let asked_for = response.extensions().get::<AsAskedFor>().is_some();
        let own = if asked_for { StatusCode::OK } else { status };
        let took = self.began.elapsed();
        answers
            .metrics
            .answered(&self.method, self.route.as_ref(), own, took);
        let (id, key) = (
            self.id.to_str().unwrap_or_default(),
            self.asked_by.0.key.get().map_or("-", String::as_str),
        );
        let trace = self.trace.as_deref();
        let micros = took.as_micros();
        let (method, path, status_code) = (&self.method, &self.path, status.as_u16());
        // A test call takes as long as its receiver does.
        if took >= answers.slow && !path.ends_with("/test") && !asked_for {
            tracing::warn!(target: "postrider::slow", %method, path, status = status_code, micros, key, request.id = id, trace.id = trace, "slow request");
        }
        // What succeeds is told where somebody looks for it; a failure of ours always.
        if own.is_server_error() {
            tracing::warn!(target: "postrider::access", %method, path, status = status_code, micros, key, request.id = id, trace.id = trace, "request");
        } else if own.is_client_error() || !(method.is_safe() || is_publish(path)) {
            tracing::info!(target: "postrider::access", %method, path, status = status_code, micros, key, request.id = id, trace.id = trace, "request");
        } else {
            tracing::debug!(target: "postrider::access", %method, path, status = status_code, micros, key, request.id = id, trace.id = trace, "request");
        }
    }
}

/// Publishing is what a server does all day: nobody wants a line for each.
pub(crate) fn is_publish(path: &str) -> bool {
    path.ends_with("/events") || path.ends_with("/events/batch") || path.ends_with("/msg")
}

async fn answered(answers: &Answers, request: Request, next: Next) -> Response {
    let uri = request.uri().clone();
    let refused = |refusal: Refusal| {
        dialects::refused(&answers.api, uri.path(), &refusal)
            .unwrap_or_else(|| Problem(refusal).into_response())
    };
    if let Err(refusal) = must_be_clear(&request) {
        return refused(refusal);
    }
    let (peer, asked_by) = (
        request.extensions().get::<Peer>().copied(),
        request.extensions().get::<AskedBy>().cloned(),
    );
    // What a change has done must be told: only what was asked for to be read can be asked for again.
    let counts = request.method().is_safe() || request.uri().path().ends_with("/explain");
    let response = next.run(request).await;
    let (parts, body) = response.into_parts();
    // Answers are whole when they are made; an endless one would have no size.
    let Some(size) = body.size_hint().exact() else {
        return Response::from_parts(parts, body);
    };
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    // One piece is with the connection at once: what is counted would be given back before it is taken.
    if size <= PIECE || !counts {
        return Response::from_parts(parts, body);
    }
    let Some(grant) = answers.budget.take(holder(asked_by.as_ref(), peer), size) else {
        let detail = "your answers that were not taken yet hold as much memory as they may; read them, or ask for less";
        let mut response = refused(Refusal::new(ErrorCode::Overloaded, detail));
        // The request was counted.
        for (name, value) in &parts.headers {
            if name.as_str().starts_with("x-ratelimit-") {
                response.headers_mut().insert(name, value.clone());
            }
        }
        return response;
    };
    // In memory as it is: nothing is waited for.
    let Ok(whole) = body.collect().await else {
        return refused(Refusal::internal("an answer broke off"));
    };
    let body = Counted {
        rest: whole.to_bytes(),
        _grant: grant,
    };
    Response::from_parts(parts, Body::new(body))
}

/// On whose account an answer goes: the key that asked for it, once it is proved, or where it was asked from. By what
/// anybody writes into a header somebody could be as many as they like.
fn holder(asked_by: Option<&AskedBy>, peer: Option<Peer>) -> u128 {
    let key = asked_by.and_then(|asked_by| asked_by.0.key.get());
    let digest = match (key, peer) {
        (Some(key), _) => sha256(key.as_bytes()),
        (None, Some(Peer(address))) => sha256(address.to_string().as_bytes()),
        (None, None) => return 0,
    };
    let mut half = [0; 16];
    half.copy_from_slice(&digest[..16]);
    u128::from_be_bytes(half)
}

/// Bytes of a request's header lines. The connection stops reading some time after it, as it reads in pieces.
const HEADERS_BYTES_MAX: usize = 32 * 1024;
/// What a line has beside its name and value: a colon, a space and its end.
const LINE_BYTES: usize = 4;

fn must_be_clear(request: &Request) -> Result<()> {
    let headers = request.headers();
    // RFC 9112 3.2: with none or two, a proxy and this server may disagree on who is meant.
    let hosts = headers.get_all(header::HOST).iter().count();
    if request.version() == Version::HTTP_11 && hosts != 1 {
        let detail = format!("has {hosts} lines; HTTP/1.1 wants exactly one");
        return Err(Refusal::field(ErrorCode::HeaderInvalid, "Host", detail));
    }
    let encoded = headers
        .get_all(header::CONTENT_ENCODING)
        .iter()
        .any(|value| !value.as_bytes().eq_ignore_ascii_case(b"identity"));
    if encoded {
        let detail = "send the body as it is, without Content-Encoding";
        return Err(Refusal::new(ErrorCode::ContentEncodingUnsupported, detail));
    }
    let bytes = headers.iter();
    let bytes: usize = bytes
        .map(|(name, value)| name.as_str().len() + value.len() + LINE_BYTES)
        .sum();
    if bytes > HEADERS_BYTES_MAX {
        let detail = format!(
            "headers of one request may have {HEADERS_BYTES_MAX} bytes; these have {bytes}"
        );
        return Err(Refusal::new(ErrorCode::HeadersTooLarge, detail));
    }
    // Of two lines the handlers read the first; a proxy may have looked at the other.
    for name in [
        "idempotency-key",
        "authorization",
        "content-type",
        "x-api-key",
        "x-timestamp",
        "x-nonce",
        "x-signature",
        "x-management-id",
        "x-management-token",
    ] {
        only_once(headers, name)?;
    }
    Ok(())
}

fn only_once(headers: &HeaderMap, name: &'static str) -> Result<()> {
    if headers.get_all(name).iter().nth(1).is_none() {
        return Ok(());
    }
    let detail = "is there twice; send it once";
    Err(Refusal::field(ErrorCode::HeaderInvalid, name, detail))
}

/// An answer that is counted until its last piece is on its way.
struct Counted {
    rest: Bytes,
    _grant: Grant,
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        let at = self.rest.len().min(PIECE);
        let piece = self.rest.split_to(at);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        // With it the answer has a Content-Length; without, it would go in chunks.
        SizeHint::with_exact(self.rest.len() as u64)
    }
}
