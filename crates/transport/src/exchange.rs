//! One request and its answer, inside its deadlines.

use std::borrow::Cow;
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
/// A kept connection that ends so soon after a request was being closed already; one that ends later
/// has had the request.
const CLOSED_UNDER: Duration = Duration::from_secs(1);
/// Times that a request is sent again inside one attempt because the receiver refused to process it.
const REFUSALS_MAX: u32 = 3;
/// How long a connection may take to be ready again after a response.
const READY_TIMEOUT: Duration = Duration::from_millis(500);

pub(crate) async fn run(connector: &Connector, pool: &Pool, request: &Request) -> Exchange {
    let started = now();
    let mut timings = Timings::default();
    let mut local = None;
    let result = answered(connector, pool, request, started, &mut timings, &mut local).await;
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
            region: connector.region(request).cloned(),
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
    let deadline = started + request.total_timeout;
    let (connection, response) = {
        let exchange = exchange(connector, pool, request, &url, &origin, timings, local);
        // Around all tries together: a request that is sent again gets no more time.
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
        retry_after_secs: retry_after(response.headers(), connector.unix_now()),
    };
    let keep_alive = keep_alive(response.headers());
    let kept = kept_headers(response.headers());
    let (body, complete) = read_body(response.into_body(), request.read_max).await;
    let truncated = !complete || body.len() > RESPONSE_BODY_KEPT_BYTES;
    // The rest of a body that was not read to its end would be taken for the next answer.
    if complete {
        give_back(pool, origin, connection, keep_alive).await;
    }
    let body = kept_body(&body, truncated);
    Ok((
        outcome,
        Response {
            headers: kept,
            body,
            truncated,
        },
    ))
}

/// Sends on a kept connection, or on a fresh one. Inside one attempt a request is sent again when it is
/// known, or very likely, that the receiver did not process it: a kept connection turned out closed
/// before a byte of it left; a server of HTTP/2 refused it (RFC 9113 8.7), a few times; a kept
/// connection was closed under it before a byte of an answer came, within a second and once, where the profile
/// allows that (RFC 9110 9.2.2: receivers tell repetitions by `webhook-id`).
async fn exchange(
    connector: &Connector,
    pool: &Pool,
    request: &Request,
    url: &Url,
    origin: &Origin,
    timings: &mut Timings,
    local: &mut Option<IpAddr>,
) -> Result<(Connection, http::Response<Incoming>), Failure> {
    let mut refusals = 0;
    while let Some(mut connection) = pool.take(origin) {
        *local = Some(connection.local);
        let message = make(request, url, &connection)?;
        let http2 = matches!(connection.link, Link::Http2(_));
        let (sent, heard) = (now(), connection.heard());
        match try_send(&mut connection, message).await {
            Ok(response) => return Ok((connection, response)),
            // The next connection may leave from another address.
            Err(Unsent::NeverLeft) => *local = None,
            Err(Unsent::Refused(_)) if refusals < REFUSALS_MAX => {
                refusals += 1;
                *local = None;
                // The pool would give the same connection once more: the last try is on a fresh one.
                if refusals == REFUSALS_MAX {
                    break;
                }
            }
            // Over HTTP/2 a reset says nothing of what became of the request; only a refusal does.
            Err(Unsent::Failed(failure))
                if request.repeat
                    && !http2
                    && failure.reason == UnreachableReason::Reset
                    && connection.heard() == heard
                    && sent.elapsed() < CLOSED_UNDER =>
            {
                *local = None;
                break;
            }
            Err(Unsent::Refused(failure) | Unsent::Failed(failure)) => return Err(failure),
        }
    }
    loop {
        // In a box of its own: most find a connection, and would carry the room for names, addresses and TLS.
        let opened = open_and_send(connector, pool, request, url, origin, timings, local);
        match Box::pin(opened).await {
            Err(Unsent::Refused(_)) if refusals < REFUSALS_MAX => refusals += 1,
            Ok(answered) => return Ok(answered),
            Err(Unsent::NeverLeft) => {
                return Err(Failure::new(
                    UnreachableReason::Reset,
                    "the connection closed before the request",
                ));
            }
            Err(Unsent::Refused(failure) | Unsent::Failed(failure)) => return Err(failure),
        }
    }
}

/// Sends on a fresh connection.
async fn open_and_send(
    connector: &Connector,
    pool: &Pool,
    request: &Request,
    url: &Url,
    origin: &Origin,
    timings: &mut Timings,
    local: &mut Option<IpAddr>,
) -> Result<(Connection, http::Response<Incoming>), Unsent> {
    // Names, addresses and TLS in one: all of it is connecting.
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
    })
    .flatten()
    .map_err(Unsent::Failed)?;
    *local = Some(connection.local);
    let message = make(request, url, &connection).map_err(Unsent::Failed)?;
    let response = try_send(&mut connection, message).await?;
    // Others get it when it has answered once: one that accepts and is silent costs this request only.
    if let Some(shared) = connection.shared() {
        pool.put(origin.clone(), shared, None);
    }
    Ok((connection, response))
}

enum Unsent {
    NeverLeft,
    /// The receiver says that it did not process it.
    Refused(Failure),
    Failed(Failure),
}

async fn try_send(
    connection: &mut Connection,
    message: http::Request<Full<Bytes>>,
) -> Result<http::Response<Incoming>, Unsent> {
    let result = match &mut connection.link {
        Link::Http1(sender) => sender.try_send_request(message).await,
        Link::Http2(sender) => sender.try_send_request(message).await,
    };
    result.map_err(|mut error| {
        // The message comes back only where nothing of it was written.
        if error.take_message().is_some() {
            Unsent::NeverLeft
        } else if Failure::was_refused(error.error()) {
            Unsent::Refused(Failure::http(error.error()))
        } else {
            Unsent::Failed(Failure::http(error.error()))
        }
    })
}

/// The message in the form of the connection's protocol: a path for HTTP/1.1, a whole URI for HTTP/2.
fn make(
    request: &Request,
    url: &Url,
    connection: &Connection,
) -> Result<http::Request<Full<Bytes>>, Failure> {
    let http2 = matches!(connection.link, Link::Http2(_));
    let path = encoded(&url[url::Position::BeforePath..url::Position::AfterQuery]);
    let target = if http2 {
        let origin = &url[url::Position::BeforeScheme..url::Position::AfterPort];
        format!("{origin}{path}")
    } else {
        path.into_owned()
    };
    let internal = |detail: String| Failure::new(UnreachableReason::Internal, detail);
    let mut message = http::Request::builder()
        .method(Method::POST)
        .uri(target)
        .body(Full::new(request.body.clone()))
        .map_err(|error| internal(error.to_string()))?;
    *message.headers_mut() = header_map(request, url).map_err(internal)?;
    // There `:authority` says it (RFC 9113 8.3.1).
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

/// What RFC 3986 does not allow in a path or query, percent-encoded; what is encoded already stays.
fn encoded(target: &str) -> Cow<'_, str> {
    let bytes = target.as_bytes();
    let is_escape = |at: usize| {
        let digits = bytes.get(at + 1..at + 3);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    };
    let must_be = |at: usize| match bytes[at] {
        b'%' => !is_escape(at),
        byte => byte <= b' ' || byte >= 0x7f || b"[]{}|^`\"<>\\#".contains(&byte),
    };
    if !(0..bytes.len()).any(must_be) {
        return Cow::Borrowed(target);
    }
    let mut encoded = String::with_capacity(target.len() + 8);
    for (at, byte) in bytes.iter().enumerate() {
        if must_be(at) {
            encoded.push_str(&format!("%{byte:02X}"));
        } else {
            encoded.push(char::from(*byte));
        }
    }
    Cow::Owned(encoded)
}

/// `Retry-After` in seconds, in all of its forms (RFC 9110 10.2.3); the profile bounds it. A date is
/// counted from the answer's own `Date`, so that the receiver's clock need not agree with ours, or from
/// `now` in seconds since 1970.
pub(crate) fn retry_after(headers: &HeaderMap, now: i64) -> Option<u32> {
    let text = |name| Some(headers.get(name)?.to_str().ok()?.trim());
    let given = text(http::header::RETRY_AFTER)?;
    if !given.is_empty() && given.bytes().all(|byte| byte.is_ascii_digit()) {
        // What does not fit is longer than any profile heeds.
        return Some(given.parse().unwrap_or(u32::MAX));
    }
    let date = |text: &str| {
        let at = httpdate::parse_http_date(text).ok()?;
        let since = at.duration_since(std::time::UNIX_EPOCH).ok()?;
        i64::try_from(since.as_secs()).ok()
    };
    let now = text(http::header::DATE).and_then(date).unwrap_or(now);
    let secs = date(given)?.saturating_sub(now).max(0);
    Some(u32::try_from(secs).unwrap_or(u32::MAX))
}

/// How long the server says that it keeps the connection: `Keep-Alive: timeout=5`.
fn keep_alive(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("keep-alive")?.to_str().ok()?;
    text.split(',').find_map(|part| {
        let secs = part.trim().strip_prefix("timeout=")?;
        secs.trim().parse().ok().map(Duration::from_secs)
    })
}

/// The part of a body that is kept: cut between two characters, where it is text.
fn kept_body(body: &Bytes, truncated: bool) -> Bytes {
    let body = body.slice(..body.len().min(RESPONSE_BODY_KEPT_BYTES));
    match std::str::from_utf8(&body) {
        // No length of an error means that a character lacks its end; what is no text at all stays as it
        // came.
        Err(error) if truncated && error.error_len().is_none() => body.slice(..error.valid_up_to()),
        _ => body,
    }
}

fn kept_headers(headers: &HeaderMap) -> Vec<(String, String)> {
    let mut room = RESPONSE_HEADERS_KEPT_BYTES;
    let mut kept = Vec::new();
    for (name, value) in headers {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        let size = name.as_str().len() + value.len();
        // The first that does not fit ends it: what is shown is how the headers began, without holes.
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
                // No more than the room is ever taken, so this never goes below zero.
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

async fn give_back(
    pool: &Pool,
    origin: Origin,
    mut connection: Connection,
    keep_alive: Option<Duration>,
) {
    if let Link::Http1(sender) = &mut connection.link {
        // Before it is ready, `take` would hold it for closed.
        let ready = timeout(READY_TIMEOUT, sender.ready()).await;
        if matches!(ready, Ok(Ok(()))) {
            pool.put(origin, connection, keep_alive);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &str)| {
            let value = HeaderValue::from_str(value).unwrap();
            (HeaderName::from_static(name), value)
        };
        lines.iter().map(pair).collect()
    }

    #[test]
    fn retry_after_is_read_in_all_of_its_forms() {
        let now = 784_111_777; // Sun, 06 Nov 1994 08:49:37 GMT
        let read = |text: &str| retry_after(&headers(&[("retry-after", text)]), now);
        assert_eq!(read("120"), Some(120));
        assert_eq!(read("99999999999999999999"), Some(u32::MAX));
        assert_eq!(read("Sun, 06 Nov 1994 08:51:37 GMT"), Some(120));
        assert_eq!(read("Sunday, 06-Nov-94 08:51:37 GMT"), Some(120));
        assert_eq!(read("Sun Nov  6 08:51:37 1994"), Some(120));
        assert_eq!(read("Fri, 31 Dec 9999 23:59:59 GMT"), Some(u32::MAX));
        assert_eq!(read("Sun, 06 Nov 1994 08:40:37 GMT"), Some(0));
        assert_eq!((read("soon"), read("-5"), read("")), (None, None, None));
        let own_date = headers(&[
            ("retry-after", "Sun, 06 Nov 1994 08:51:37 GMT"),
            ("date", "Sun, 06 Nov 1994 08:51:07 GMT"),
        ]);
        assert_eq!(retry_after(&own_date, now), Some(30));
    }

    #[test]
    fn what_a_url_may_not_hold_is_encoded() {
        assert_eq!(encoded("/a%20b?c=[1]"), "/a%20b?c=%5B1%5D");
        assert_eq!(encoded("/{x}|^%zz%"), "/%7Bx%7D%7C%5E%25zz%25");
        assert!(matches!(encoded("/plain?x=1&y=%41"), Cow::Borrowed(_)));
    }

    #[test]
    fn a_cut_body_ends_between_characters() {
        let text = "é".repeat(RESPONSE_BODY_KEPT_BYTES);
        let odd = Bytes::from(format!("x{text}"));
        let kept = kept_body(&odd, true);
        assert!(std::str::from_utf8(&kept).is_ok());
        let broken = Bytes::from_static(b"ab\xc3");
        assert_eq!(kept_body(&broken, false), broken);
    }

    #[test]
    fn a_server_says_how_long_it_keeps_a_connection() {
        let said = |text| keep_alive(&headers(&[("keep-alive", text)]));
        assert_eq!(said("timeout=5, max=100"), Some(Duration::from_secs(5)));
        assert_eq!(said("max=100"), None);
    }
}
