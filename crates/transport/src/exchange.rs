//! One request and its answer, inside its deadlines.

use std::net::IpAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use postrider_core::attempt::{Egress, Outcome, Response, Timings, UnreachableReason};
use postrider_core::limits::{RESPONSE_BODY_KEPT_BYTES, RESPONSE_HEADERS_KEPT_BYTES};
use postrider_engine::{Exchange, Request};
use tokio::time::{Instant, timeout, timeout_at};
use url::Url;

use crate::connect::{Connector, micros, now};
use crate::failure::Failure;
use crate::pool::{Connection, Link, Origin, Pool};

/// Time for a response body after its headers: the verdict is known by then.
const BODY_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a connection may take to be ready again after a response.
const READY_TIMEOUT: Duration = Duration::from_millis(500);

pub(crate) async fn run(connector: &Connector, pool: &Pool, request: Request) -> Exchange {
    let started = now();
    let mut timings = Timings::default();
    let mut local = None;
    let result = answered(connector, pool, &request, started, &mut timings, &mut local).await;
    let (outcome, response) = match result {
        Ok((head, response)) => (head, Some(response)),
        Err(failure) => (
            Outcome::Unreachable {
                reason: failure.reason,
                detail: failure.detail,
            },
            None,
        ),
    };
    timings.total_micros = micros(started);
    Exchange {
        outcome,
        response,
        timings,
        egress: local.map(|address| Egress {
            region: connector.region(&request).cloned(),
            address,
        }),
    }
}

async fn answered(
    connector: &Connector,
    pool: &Pool,
    request: &Request,
    started: Instant,
    timings: &mut Timings,
    local: &mut Option<IpAddr>,
) -> Result<(Outcome, Response), Failure> {
    let internal = |detail: String| Failure::new(UnreachableReason::Internal, detail);
    let url = Url::parse(&request.url).map_err(|error| internal(format!("not a URL: {error}")))?;
    let origin = Origin {
        region: connector.region(request).cloned(),
        https: url.scheme() == "https",
        host: url
            .host_str()
            .unwrap_or_default()
            .trim_matches(['[', ']'])
            .to_owned(),
        port: url.port_or_known_default().unwrap_or(443),
        title_case: request.title_case,
    };
    let headers = header_map(request, &url).map_err(internal)?;
    let deadline = started + request.total_timeout;
    let (connection, response) = {
        let exchange = exchange(
            connector, pool, request, &url, &origin, &headers, timings, local,
        );
        let exchanged = timeout_at(deadline, exchange).await.unwrap_or_else(|_| {
            let waited = request.total_timeout.as_secs_f64();
            Err(Failure::new(
                UnreachableReason::Timeout,
                format!("no answer within {waited} s"),
            ))
        });
        if exchanged.is_err() {
            // A shared connection that went dead would fail the next attempt too.
            pool.drop_shared(&origin);
        }
        exchanged?
    };
    timings.first_byte_micros = Some(micros(started));
    let outcome = Outcome::Answered {
        status: response.status().as_u16(),
        retry_after_secs: retry_after(response.headers()),
    };
    let kept = kept_headers(response.headers());
    let (body, complete) = read_body(response.into_body(), request.read_max).await;
    let truncated = !complete || body.len() > RESPONSE_BODY_KEPT_BYTES;
    if complete {
        give_back(pool, origin, connection).await;
    }
    let body = body.slice(..body.len().min(RESPONSE_BODY_KEPT_BYTES));
    Ok((
        outcome,
        Response {
            headers: kept,
            body,
            truncated,
        },
    ))
}

#[expect(
    clippy::too_many_arguments,
    reason = "what is sent, on what, and the two things it tells of itself as it goes"
)]
/// Sends on a kept connection, or on a fresh one. A request is sent again only when a kept
/// connection turned out closed before a byte of it left.
async fn exchange(
    connector: &Connector,
    pool: &Pool,
    request: &Request,
    url: &Url,
    origin: &Origin,
    headers: &HeaderMap,
    timings: &mut Timings,
    local: &mut Option<IpAddr>,
) -> Result<(Connection, http::Response<Incoming>), Failure> {
    while let Some(mut connection) = pool.take(origin) {
        *local = Some(connection.local);
        let message = make(request, url, headers, &connection)?;
        match try_send(&mut connection, message).await {
            Ok(response) => return Ok((connection, response)),
            // The next connection may leave from another address.
            Err(Unsent::NeverLeft) => *local = None,
            Err(Unsent::Failed(failure)) => return Err(failure),
        }
    }
    let mut connection = timeout(
        request.connect_timeout,
        connector.open(url, origin, timings),
    )
    .await
    .map_err(|_| {
        let waited = request.connect_timeout.as_secs_f64();
        Failure::new(
            UnreachableReason::Timeout,
            format!("no connection within {waited} s"),
        )
    })??;
    *local = Some(connection.local);
    let message = make(request, url, headers, &connection)?;
    match try_send(&mut connection, message).await {
        Ok(response) => {
            if let Some(shared) = connection.shared() {
                pool.put(origin.clone(), shared);
            }
            Ok((connection, response))
        }
        Err(Unsent::NeverLeft) => Err(Failure::new(
            UnreachableReason::Reset,
            "the connection closed before the request",
        )),
        Err(Unsent::Failed(failure)) => Err(failure),
    }
}

enum Unsent {
    NeverLeft,
    Failed(Failure),
}

async fn try_send(
    connection: &mut Connection,
    message: http::Request<Full<Bytes>>,
) -> Result<http::Response<Incoming>, Unsent> {
    let result = match &mut connection.link {
        Link::Http1(sender) => sender.try_send_request(message).await,
        Link::Http2(shared) => shared.sender.try_send_request(message).await,
    };
    result.map_err(|mut error| {
        if error.take_message().is_some() {
            Unsent::NeverLeft
        } else {
            Unsent::Failed(Failure::http(error.error()))
        }
    })
}

/// The message in the form of the connection's protocol: a path for HTTP/1.1, a whole URI for HTTP/2.
fn make(
    request: &Request,
    url: &Url,
    headers: &HeaderMap,
    connection: &Connection,
) -> Result<http::Request<Full<Bytes>>, Failure> {
    let http2 = matches!(connection.link, Link::Http2(_));
    let target = if http2 {
        url.as_str()
    } else {
        &url[url::Position::BeforePath..url::Position::AfterQuery]
    };
    let internal =
        |error: http::Error| Failure::new(UnreachableReason::Internal, error.to_string());
    let mut message = http::Request::builder()
        .method(Method::POST)
        .uri(target)
        .body(Full::new(request.body.clone()))
        .map_err(internal)?;
    *message.headers_mut() = headers.clone();
    if http2 {
        message.headers_mut().remove(http::header::HOST);
    }
    Ok(message)
}

fn header_map(request: &Request, url: &Url) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::with_capacity(request.headers.len() + 1);
    let host = &url[url::Position::BeforeHost..url::Position::AfterPort];
    headers.insert(
        http::header::HOST,
        HeaderValue::from_str(host).map_err(|error| error.to_string())?,
    );
    for (name, value) in &request.headers {
        let name = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| format!("{name:?} is not a header name"))?;
        let value = HeaderValue::from_str(value)
            .map_err(|_| format!("the value of {name} cannot be sent"))?;
        headers.insert(name, value);
    }
    Ok(headers)
}

/// `Retry-After` in seconds. A date is counted from the answer's own `Date`, so that the receiver's
/// clock need not agree with ours.
fn retry_after(headers: &HeaderMap) -> Option<u32> {
    let text = |name| Some(headers.get(name)?.to_str().ok()?.trim());
    let given = text(http::header::RETRY_AFTER)?;
    if let Ok(secs) = given.parse() {
        return Some(secs);
    }
    let date = |text: &str| {
        jiff::fmt::rfc2822::parse(text)
            .ok()
            .map(|at| at.timestamp().as_second())
    };
    let secs = date(given)? - date(text(http::header::DATE)?)?;
    u32::try_from(secs.max(0)).ok()
}

fn kept_headers(headers: &HeaderMap) -> Vec<(String, String)> {
    let mut room = RESPONSE_HEADERS_KEPT_BYTES;
    let mut kept = Vec::new();
    for (name, value) in headers {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        let size = name.as_str().len() + value.len();
        if size > room {
            break;
        }
        room -= size;
        kept.push((name.as_str().to_owned(), value));
    }
    kept
}

/// Reads at most `max` bytes; false when there was more, or it did not come.
async fn read_body(mut body: Incoming, max: usize) -> (Bytes, bool) {
    let mut bytes = BytesMut::new();
    let read = async {
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame else { return false };
            if let Some(data) = frame.data_ref() {
                let room = max - bytes.len();
                bytes.extend_from_slice(&data[..data.len().min(room)]);
                if data.len() > room {
                    return false;
                }
            }
        }
        true
    };
    let complete = timeout(BODY_TIMEOUT, read).await.unwrap_or(false);
    (bytes.freeze(), complete)
}

async fn give_back(pool: &Pool, origin: Origin, connection: Connection) {
    let local = connection.local;
    if let Link::Http1(mut sender) = connection.link {
        let ready = timeout(READY_TIMEOUT, sender.ready()).await;
        if matches!(ready, Ok(Ok(()))) {
            let link = Link::Http1(sender);
            pool.put(origin, Connection { link, local });
        }
    }
}
