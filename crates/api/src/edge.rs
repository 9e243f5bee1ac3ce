//! What holds for every request and every answer, whatever route it takes.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Version, header};
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use postrider_core::seal::sha256;
use postrider_engine::budget::{Budget, Grant};

use crate::problem::{ApiError, ApiResult, ErrorCode};
use crate::server::Peer;

/// Bytes that are handed to the connection at once: what it has not asked for is still counted.
const PIECE: usize = 64 * 1024;

/// What answers have in common.
#[derive(Debug, Clone)]
pub(crate) struct Answers {
    budget: Budget,
    keep_alive: HeaderValue,
}

impl Answers {
    pub(crate) fn new(bytes_max: usize, keep_alive: Duration) -> Self {
        let keep_alive = format!("timeout={}", keep_alive.as_secs());
        Self {
            budget: Budget::new(bytes_max),
            keep_alive: HeaderValue::from_str(&keep_alive)
                .expect("a number of seconds is a header value"),
        }
    }
}

/// Refuses what HTTP leaves unclear, and counts answers as long as their clients have not taken them.
pub(crate) async fn edge(State(answers): State<Answers>, request: Request, next: Next) -> Response {
    let mut response = answered(&answers.budget, request, next).await;
    let headers = response.headers_mut();
    headers.insert("keep-alive", answers.keep_alive);
    response
}

async fn answered(answers: &Budget, request: Request, next: Next) -> Response {
    if let Err(refusal) = must_be_clear(&request) {
        return refusal.into_response();
    }
    let holder = holder(&request);
    let response = next.run(request).await;
    let (parts, body) = response.into_parts();
    // Answers are whole when they are made; an endless one would have no size.
    let Some(size) = body.size_hint().exact() else {
        return Response::from_parts(parts, body);
    };
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    if size <= PIECE {
        return Response::from_parts(parts, body);
    }
    let Some(grant) = answers.take(holder, size) else {
        let detail = "your answers that were not taken yet hold as much memory as they may; read them, or ask for less";
        return ApiError::new(ErrorCode::Overloaded, detail).into_response();
    };
    let Ok(whole) = body.collect().await else {
        return ApiError::internal("an answer broke off").into_response();
    };
    let body = Counted {
        rest: whole.to_bytes(),
        _grant: grant,
    };
    Response::from_parts(parts, Body::new(body))
}

/// On whose account an answer goes: the key that asked for it, or where it was asked from.
fn holder(request: &Request) -> u128 {
    let headers = request.headers();
    let keys = ["authorization", "x-api-key", "x-management-id"];
    let key = keys.iter().find_map(|name| headers.get(*name));
    let digest = match (key, request.extensions().get::<Peer>()) {
        (Some(key), _) => sha256(key.as_bytes()),
        (None, Some(Peer(address))) => sha256(address.to_string().as_bytes()),
        (None, None) => return 0,
    };
    let mut half = [0; 16];
    half.copy_from_slice(&digest[..16]);
    u128::from_be_bytes(half)
}

fn must_be_clear(request: &Request) -> ApiResult<()> {
    let headers = request.headers();
    // RFC 9112 3.2: with none or two, a proxy and this server may disagree on who is meant.
    let hosts = headers.get_all(header::HOST).iter().count();
    if request.version() == Version::HTTP_11 && hosts != 1 {
        let detail = format!("has {hosts} lines; HTTP/1.1 wants exactly one");
        return Err(ApiError::field(ErrorCode::HeaderInvalid, "Host", detail));
    }
    let encoded = headers
        .get_all(header::CONTENT_ENCODING)
        .iter()
        .any(|value| !value.as_bytes().eq_ignore_ascii_case(b"identity"));
    if encoded {
        let detail = "send the body as it is, without Content-Encoding";
        return Err(ApiError::new(ErrorCode::ContentEncodingUnsupported, detail));
    }
    for name in ["idempotency-key", "authorization", "content-type"] {
        only_once(headers, name)?;
    }
    Ok(())
}

fn only_once(headers: &HeaderMap, name: &'static str) -> ApiResult<()> {
    if headers.get_all(name).iter().nth(1).is_none() {
        return Ok(());
    }
    let detail = "is there twice; send it once";
    Err(ApiError::field(ErrorCode::HeaderInvalid, name, detail))
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
        SizeHint::with_exact(self.rest.len() as u64)
    }
}
