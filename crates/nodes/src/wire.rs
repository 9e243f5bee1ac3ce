//! An attempt on its way to another node, and how it went on its way back.
//!
//! Length of the head (four bytes, the most significant first), the head as JSON, and the body as it is. What a head has
//! that a reader does not know is left out, and what it lacks has a default: nodes of two versions understand each other.

use std::net::IpAddr;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use postrider_core::attempt::{Egress, Outcome, Response, Timings, UnreachableReason};
use postrider_engine::{Exchange, Request};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

const LENGTH_BYTES: usize = 4;

/// What came is no attempt, or none that this version understands.
#[derive(Debug, thiserror::Error)]
#[error("another node sent what this one does not understand: {0}")]
pub(crate) struct Garbled(String);

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RequestHead {
    url: String,
    headers: Vec<(String, String)>,
    connect_micros: u64,
    total_micros: u64,
    read_max: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    region: Option<String>,
    #[serde(default)]
    title_case: bool,
    #[serde(default)]
    repeat: bool,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ExchangeHead {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    retry_after_secs: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    detail: String,
    /// None where there is no response.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    headers: Option<Vec<(String, String)>>,
    #[serde(default)]
    truncated: bool,
    timings: Timings,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    region: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    local: Option<IpAddr>,
}

pub(crate) fn request_bytes(request: &Request) -> Bytes {
    let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    let head = RequestHead {
        url: request.url.clone(),
        headers: request.headers.clone(),
        connect_micros: micros(request.connect_timeout),
        total_micros: micros(request.total_timeout),
        read_max: request.read_max,
        region: request.region.as_deref().map(str::to_owned),
        title_case: request.title_case,
        repeat: request.repeat,
    };
    joined(&head, &request.body)
}

pub(crate) fn read_request(bytes: Bytes) -> Result<Request, Garbled> {
    let (head, body): (RequestHead, Bytes) = parted(bytes)?;
    Ok(Request {
        url: head.url,
        headers: head.headers,
        body,
        connect_timeout: Duration::from_micros(head.connect_micros),
        total_timeout: Duration::from_micros(head.total_micros),
        read_max: head.read_max,
        region: head.region.map(Into::into),
        title_case: head.title_case,
        repeat: head.repeat,
    })
}

pub(crate) fn exchange_bytes(exchange: &Exchange) -> Bytes {
    let (status, retry_after_secs, reason, detail) = match &exchange.outcome {
        Outcome::Answered {
            status,
            retry_after_secs,
        } => (Some(*status), *retry_after_secs, None, String::new()),
        Outcome::Unreachable { reason, detail } => {
            (None, None, Some(reason.as_str().to_owned()), detail.clone())
        }
    };
    let response = exchange.response.as_ref();
    let egress = exchange.egress.as_ref();
    let head = ExchangeHead {
        status,
        retry_after_secs,
        reason,
        detail,
        headers: response.map(|response| response.headers.clone()),
        truncated: response.is_some_and(|response| response.truncated),
        timings: exchange.timings,
        region: egress.and_then(|egress| egress.region.as_deref().map(str::to_owned)),
        local: egress.map(|egress| egress.address),
    };
    joined(&head, response.map_or(&[], |response| &response.body))
}

pub(crate) fn read_exchange(bytes: Bytes) -> Result<Exchange, Garbled> {
    let (head, body): (ExchangeHead, Bytes) = parted(bytes)?;
    let outcome = match (head.status, head.reason) {
        (Some(status), _) => Outcome::Answered {
            status,
            retry_after_secs: head.retry_after_secs,
        },
        (None, Some(reason)) => Outcome::Unreachable {
            reason: UnreachableReason::parse(&reason)
                .ok_or_else(|| Garbled(format!("the reason {reason:?}")))?,
            detail: head.detail,
        },
        (None, None) => return Err(Garbled("neither a status nor a reason".to_owned())),
    };
    Ok(Exchange {
        outcome,
        response: head.headers.map(|headers| Response {
            headers,
            body,
            truncated: head.truncated,
        }),
        timings: head.timings,
        egress: head.local.map(|address| Egress {
            region: head.region.map(Into::into),
            address,
        }),
    })
}

fn joined(head: &impl Serialize, body: &[u8]) -> Bytes {
    let head = serde_json::to_vec(head).expect("strings and numbers are JSON");
    let mut bytes = BytesMut::with_capacity(LENGTH_BYTES + head.len() + body.len());
    bytes.put_u32(u32::try_from(head.len()).expect("a head is far below 4 GiB"));
    bytes.extend_from_slice(&head);
    bytes.extend_from_slice(body);
    bytes.freeze()
}

fn parted<T: DeserializeOwned>(mut bytes: Bytes) -> Result<(T, Bytes), Garbled> {
    let Some(length) = bytes.get(..LENGTH_BYTES) else {
        return Err(Garbled("it ends early".to_owned()));
    };
    let length = length
        .iter()
        .fold(0_usize, |sum, byte| (sum << 8) | usize::from(*byte));
    let rest = bytes.split_off(LENGTH_BYTES);
    if rest.len() < length {
        return Err(Garbled("its head ends early".to_owned()));
    }
    let head = serde_json::from_slice(&rest[..length]);
    let head = head.map_err(|error| Garbled(error.to_string()))?;
    Ok((head, rest.slice(length..)))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn a_request() -> Request {
        Request {
            url: "https://example.com/hook?x=1".to_owned(),
            headers: vec![("X-Webhook-Signature".to_owned(), "ab=, \"é\"".to_owned())],
            body: Bytes::from_static(b"\x00{\"a\":1}\xff"),
            connect_timeout: Duration::from_micros(1_234_567),
            total_timeout: Duration::from_secs(30),
            read_max: 4_096,
            region: Some("eu".into()),
            title_case: true,
            repeat: true,
        }
    }

    #[test]
    fn a_request_comes_as_it_was_sent() {
        let sent = a_request();
        let read = read_request(request_bytes(&sent)).unwrap();
        assert_eq!(format!("{read:?}"), format!("{sent:?}"));
    }

    #[test]
    fn an_exchange_comes_as_it_went() {
        let answered = Exchange {
            outcome: Outcome::Answered {
                status: 503,
                retry_after_secs: Some(7),
            },
            response: Some(Response {
                headers: vec![("retry-after".to_owned(), "7".to_owned())],
                body: Bytes::from_static(b"\xffno"),
                truncated: true,
            }),
            timings: Timings {
                dns_micros: Some(1),
                total_micros: 9,
                ..Timings::default()
            },
            egress: Some(Egress {
                region: None,
                address: Ipv4Addr::LOCALHOST.into(),
            }),
        };
        let mut all = vec![answered];
        for reason in UnreachableReason::ALL {
            all.push(Exchange {
                outcome: Outcome::Unreachable {
                    reason,
                    detail: "nobody".to_owned(),
                },
                response: None,
                timings: Timings::default(),
                egress: None,
            });
        }
        for sent in all {
            assert_eq!(read_exchange(exchange_bytes(&sent)).unwrap(), sent);
        }
    }

    #[test]
    fn what_is_cut_or_no_attempt_is_refused() {
        let whole = request_bytes(&a_request());
        let head = whole.len() - a_request().body.len();
        for end in 0..head {
            assert!(read_request(whole.slice(..end)).is_err(), "{end}");
        }
        for wrong in [&b"\xff\xff\xff\xff{}"[..], b"\0\0\0\x02{}", b"\0\0\0\x01{"] {
            assert!(read_request(Bytes::from_static(wrong)).is_err());
            assert!(read_exchange(Bytes::from_static(wrong)).is_err());
        }
    }
}
