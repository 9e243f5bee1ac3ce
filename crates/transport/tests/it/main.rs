//! The transport against receivers that behave in every way they can.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test stops where something is not as it must be"
)]

mod bounds;
mod certificates;
mod connections;
mod http2;
mod ways;

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use postrider_core::address::AddressPolicy;
use postrider_core::attempt::{Outcome, UnreachableReason};
use postrider_engine::{Exchange, Request, Transport};
use postrider_testkit::certificates::{Authority, self_signed};
use postrider_testkit::{Behaviour, Receiver};
use postrider_transport::{
    HttpTransport, Options, Region, Resolve, ResolveError, SetupError, SystemResolver,
};

/// Says one thing the first time and another from then on.
struct Names {
    first: Vec<IpAddr>,
    then: Vec<IpAddr>,
    asked: AtomicUsize,
}

#[async_trait]
impl Resolve for Names {
    async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, ResolveError> {
        // The way to the name servers is broken.
        if host.starts_with("unasked.") {
            return Err(ResolveError::Unasked("connection refused".to_owned()));
        }
        if host.ends_with(".invalid.") {
            return Err(ResolveError::Unknown("no such name".to_owned()));
        }
        let first = self.asked.fetch_add(1, Ordering::Relaxed) == 0;
        Ok(if first {
            self.first.clone()
        } else {
            self.then.clone()
        })
    }
}

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn options(allow: &[&str]) -> Options {
    let names = Names {
        first: vec![LOCAL],
        then: vec![LOCAL],
        asked: AtomicUsize::new(0),
    };
    Options {
        addresses: AddressPolicy::new(allow.iter().map(|net| net.parse().unwrap()).collect()),
        resolver: Arc::new(names),
        extra_ca: None,
        regions: Vec::new(),
        default_region: None,
        proxy: None,
        clock: Arc::new(postrider_engine::SystemClock),
    }
}

fn local() -> HttpTransport {
    HttpTransport::new(options(&["127.0.0.0/8"])).unwrap()
}

fn to(url: &str) -> Request {
    Request {
        url: url.to_owned(),
        headers: vec![
            ("Content-Type".to_owned(), "application/json".to_owned()),
            ("X-Test".to_owned(), "1".to_owned()),
        ],
        body: Bytes::from_static(b"{\"a\":1}"),
        connect_timeout: Duration::from_secs(2),
        total_timeout: Duration::from_secs(5),
        region: None,
        title_case: false,
        repeat: true,
        read_max: 64 * 1024,
    }
}

fn quick(url: &str) -> Request {
    Request {
        total_timeout: Duration::from_millis(300),
        ..to(url)
    }
}

fn status(exchange: &Exchange) -> Option<u16> {
    match exchange.outcome {
        Outcome::Answered { status, .. } => Some(status),
        Outcome::Unreachable { .. } => None,
    }
}

fn reason(exchange: &Exchange) -> UnreachableReason {
    match &exchange.outcome {
        Outcome::Unreachable { reason, .. } => *reason,
        Outcome::Answered { .. } => panic!("{exchange:?}"),
    }
}

/// A name that has no address is its owner's matter; one that nobody could be asked for is ours.
#[tokio::test]
async fn a_resolver_that_cannot_be_asked_is_not_held_against_the_receiver() {
    for (host, expected) in [
        ("hooks.invalid", UnreachableReason::Dns),
        ("unasked.example.com", UnreachableReason::Local),
    ] {
        let exchange = local().send(&to(&format!("http://{host}/"))).await;
        assert_eq!(reason(&exchange), expected, "{host}");
    }
}

#[tokio::test]
async fn a_request_arrives_whole_and_its_connection_is_used_again() {
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let transport = local();
    for _ in 0..3 {
        let exchange = transport.send(&to(&receiver.url("/hook?x=1"))).await;
        assert_eq!(status(&exchange), Some(200));
        assert_eq!(&exchange.response.as_ref().unwrap().body[..], b"ok");
        assert!(exchange.timings.first_byte_micros.is_some());
    }
    let requests = receiver.wait_for(3).await;
    assert!(
        requests.iter().all(|request| request.connection == 0),
        "one connection for all"
    );
    assert_eq!(requests[0].target, "/hook?x=1");
    assert_eq!(&requests[0].body[..], b"{\"a\":1}");
    assert_eq!(requests[0].headers["host"], receiver.address.to_string());
    assert_eq!(requests[0].headers["x-test"], "1");
    assert_eq!(requests[0].headers["content-length"], "7");
}

#[tokio::test]
async fn statuses_are_reported_and_redirects_not_followed() {
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let elsewhere = receiver.url("/elsewhere");
    receiver.script([
        Behaviour::StatusWith(302, "location", elsewhere),
        Behaviour::Status(410),
        Behaviour::StatusWith(429, "retry-after", "17".to_owned()),
        Behaviour::StatusWith(
            503,
            "date: Wed, 21 Oct 2015 07:28:00 GMT\r\nretry-after",
            "Wed, 21 Oct 2015 07:30:05 GMT".to_owned(),
        ),
        Behaviour::StatusWith(502, "retry-after", "soon".to_owned()),
        Behaviour::Status(500),
    ]);
    let transport = local();
    let mut outcomes = Vec::new();
    for _ in 0..6 {
        outcomes.push(transport.send(&to(&receiver.url("/"))).await.outcome);
    }
    let answered = |status, retry_after_secs| Outcome::Answered {
        status,
        retry_after_secs,
    };
    assert_eq!(
        outcomes,
        [
            answered(302, None),
            answered(410, None),
            answered(429, Some(17)),
            answered(503, Some(125)),
            answered(502, None),
            answered(500, None)
        ]
    );
    assert_eq!(receiver.requests().len(), 6, "nobody called /elsewhere");
}

#[tokio::test]
async fn a_receiver_that_hangs_or_is_slow_runs_into_the_deadline() {
    let receiver = Receiver::start(Behaviour::Hang).await;
    let transport = local();
    assert_eq!(
        reason(&transport.send(&quick(&receiver.url("/"))).await),
        UnreachableReason::Timeout
    );
    receiver.behave(Behaviour::SlowStatus(Duration::from_secs(20), 200));
    assert_eq!(
        reason(&transport.send(&quick(&receiver.url("/"))).await),
        UnreachableReason::Timeout
    );
    receiver.behave(Behaviour::SlowStatus(Duration::from_millis(20), 204));
    assert_eq!(
        status(&transport.send(&to(&receiver.url("/"))).await),
        Some(204)
    );
}

#[tokio::test]
async fn broken_answers_are_classified() {
    let receiver = Receiver::start(Behaviour::Reset).await;
    let transport = local();
    for (behaviour, expected) in [
        (Behaviour::Reset, UnreachableReason::Reset),
        (Behaviour::Garbage, UnreachableReason::Protocol),
        (Behaviour::EndlessHeaders, UnreachableReason::TooLarge),
    ] {
        receiver.behave(behaviour);
        assert_eq!(
            reason(&transport.send(&to(&receiver.url("/"))).await),
            expected
        );
    }
}

#[tokio::test]
async fn a_body_is_bounded_and_the_verdict_does_not_depend_on_it() {
    let receiver = Receiver::start(Behaviour::CutBody).await;
    let transport = local();
    for behaviour in [Behaviour::CutBody, Behaviour::EndlessBody] {
        receiver.behave(behaviour);
        let exchange = transport.send(&to(&receiver.url("/"))).await;
        let response = exchange.response.as_ref().unwrap();
        assert_eq!(status(&exchange), Some(200));
        assert!(response.truncated && response.body.len() <= 16 * 1024);
    }
    receiver.behave(Behaviour::Status(200));
    assert_eq!(
        status(&transport.send(&to(&receiver.url("/"))).await),
        Some(200)
    );
    let connections: HashSet<usize> = receiver
        .requests()
        .iter()
        .map(|request| request.connection)
        .collect();
    assert_eq!(
        connections.len(),
        3,
        "a connection with an unread body is not used again"
    );
}

#[tokio::test]
async fn nobody_listening_and_unknown_names_are_told_apart() {
    let closed = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .unwrap()
        .local_addr()
        .unwrap();
    let transport = local();
    assert_eq!(
        reason(&transport.send(&to(&format!("http://{closed}/"))).await),
        UnreachableReason::Connect
    );
    assert_eq!(
        reason(&transport.send(&to("https://nobody.invalid/")).await),
        UnreachableReason::Dns
    );
}

#[tokio::test]
async fn an_address_is_checked_in_the_url_and_after_resolution() {
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let port = receiver.address.port();
    let transport = HttpTransport::new(options(&[])).unwrap();
    for host in [
        "127.0.0.1",
        "127.1",
        "0x7f000001",
        "2130706433",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "10.0.0.1",
        "public.example",
    ] {
        let exchange = transport
            .send(&quick(&format!("http://{host}:{port}/")))
            .await;
        // What a name means in this network is not told; whoever writes an address knows it.
        let expected = if host == "public.example" {
            UnreachableReason::Dns
        } else {
            UnreachableReason::AddressForbidden
        };
        assert_eq!(reason(&exchange), expected, "{host}");
    }
    assert_eq!(receiver.requests().len(), 0);
}

#[tokio::test]
async fn a_name_that_turns_private_at_connect_time_is_refused() {
    let receiver = Receiver::start(Behaviour::Reset).await;
    let private = vec![
        "10.0.0.1".parse().unwrap(),
        "169.254.169.254".parse().unwrap(),
    ];
    let names = Names {
        first: vec![LOCAL],
        then: private,
        asked: AtomicUsize::new(0),
    };
    let transport = HttpTransport::new(Options {
        resolver: Arc::new(names),
        ..options(&["127.0.0.0/8"])
    })
    .unwrap();
    let url = format!("http://rebound.example:{}/", receiver.address.port());
    assert_eq!(
        reason(&transport.send(&to(&url)).await),
        UnreachableReason::Reset,
        "the first answer was allowed"
    );
    let exchange = transport.send(&to(&url)).await;
    assert_eq!(reason(&exchange), UnreachableReason::Dns);
    let told = format!("{:?}", exchange.outcome);
    assert!(
        !told.contains("10.0.0.1") && !told.contains("private"),
        "{told}"
    );
    assert_eq!(receiver.requests().len(), 1);
}

fn trusting(authority: &Authority) -> HttpTransport {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &authority.pem).unwrap();
    HttpTransport::new(Options {
        extra_ca: Some(file.path().to_owned()),
        ..options(&["127.0.0.0/8"])
    })
    .unwrap()
}

#[tokio::test]
async fn the_system_knows_localhost() {
    let addresses = SystemResolver::new()
        .unwrap()
        .resolve("localhost")
        .await
        .unwrap();
    assert!(addresses.iter().all(IpAddr::is_loopback) && !addresses.is_empty());
}

#[tokio::test]
async fn header_names_are_written_as_the_profile_has_them() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let transport = local();
    for (title_case, expected) in [
        (true, "X-Test: 1"),
        (false, "x-test: 1"),
        (true, "X-Test: 1"),
    ] {
        let request = Request {
            title_case,
            ..to(&url)
        };
        let answering = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.windows(4).any(|end| end == b"\r\n\r\n") {
                let read = stream.read_buf(&mut head).await.unwrap();
                assert!(read > 0);
            }
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            stream.write_all(answer).await.unwrap();
            String::from_utf8(head).unwrap()
        };
        let (exchange, head) = tokio::join!(transport.send(&request), answering);
        assert!(matches!(
            exchange.outcome,
            Outcome::Answered { status: 200, .. }
        ));
        assert!(head.contains(expected), "{head}");
    }
}

#[tokio::test]
async fn the_status_counts_whatever_the_headers_look_like() {
    let many: String = (0..900).map(|n| format!("x-{n}: {n}\r\n")).collect();
    let many = format!("HTTP/1.1 200 OK\r\n{many}content-length: 0\r\n\r\n");
    let many: &'static str = Box::leak(many.into_boxed_str());
    for answer in [
        "HTTP/1.1 200 OK\r\nx-folded: a\r\n b\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nx-space : a\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nno colon at all\r\ncontent-length: 0\r\n\r\n",
        many,
    ] {
        let answers: &'static [Option<&'static str>] = Box::leak(Box::new([Some(answer)]));
        let (address, _) = connections::raw_receiver(answers).await;
        let exchange = local().send(&to(&format!("http://{address}/"))).await;
        assert_eq!(status(&exchange), Some(200), "{exchange:?}");
    }
}
