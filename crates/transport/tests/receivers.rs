//! The transport against receivers that behave in every way they can.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test stops where something is not as it must be"
)]

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
use postrider_testkit::certificates::Authority;
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
async fn certificates_are_verified_before_a_byte_is_sent() {
    let authority = Authority::default();
    for (name, expired) in [("hooks.example", true), ("other.example", false)] {
        let receiver = Receiver::with_tls(
            Behaviour::Status(200),
            Some(authority.server(name, expired, &[])),
        )
        .await;
        let url = format!("https://hooks.example:{}/", receiver.address.port());
        assert_eq!(
            reason(&trusting(&authority).send(&to(&url)).await),
            UnreachableReason::Tls,
            "{name}, expired: {expired}"
        );
        assert_eq!(receiver.requests().len(), 0);
    }
    let receiver = Receiver::with_tls(
        Behaviour::Status(200),
        Some(authority.server("hooks.example", false, &[])),
    )
    .await;
    let url = format!("https://hooks.example:{}/", receiver.address.port());
    assert_eq!(
        reason(&local().send(&to(&url)).await),
        UnreachableReason::Tls,
        "an unknown authority"
    );
    let exchange = trusting(&authority).send(&to(&url)).await;
    assert_eq!(status(&exchange), Some(200));
    assert!(exchange.timings.tls_micros.is_some());
}

#[tokio::test]
async fn http2_is_used_where_both_speak_it() {
    let authority = Authority::default();
    let tls = authority.server("hooks.example", false, &["h2", "http/1.1"]);
    let receiver = Receiver::with_tls(Behaviour::Status(200), Some(tls)).await;
    let url = format!("https://hooks.example:{}/two", receiver.address.port());
    let transport = trusting(&authority);
    for _ in 0..3 {
        assert_eq!(status(&transport.send(&to(&url)).await), Some(200));
    }
    let requests = receiver.wait_for(3).await;
    assert!(
        requests
            .iter()
            .all(|request| request.version == http::Version::HTTP_2 && request.connection == 0)
    );
    assert_eq!(
        (requests[0].target.as_str(), &requests[0].body[..]),
        ("/two", &b"{\"a\":1}"[..])
    );
}

#[tokio::test]
async fn a_full_http2_connection_is_not_given_out() {
    let authority = Authority::default();
    let tls = authority.server("hooks.example", false, &["h2"]);
    let receiver = Receiver::with_tls(Behaviour::Status(200), Some(tls)).await;
    let url = format!("https://hooks.example:{}/", receiver.address.port());
    let transport = Arc::new(trusting(&authority));
    assert_eq!(status(&transport.send(&to(&url)).await), Some(200));
    receiver.behave(Behaviour::Hang);
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..101 {
        let (transport, url) = (transport.clone(), url.clone());
        waiting.spawn(async move { transport.send(&to(&url)).await });
    }
    let requests = receiver.wait_for(102).await;
    let on = |number| {
        let first = requests.iter().skip(1);
        first.filter(|request| request.connection == number).count()
    };
    assert_eq!((on(0), on(1)), (100, 1));
    waiting.abort_all();
}

#[tokio::test]
async fn a_proxy_is_asked_for_a_tunnel_to_the_vetted_address() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let proxy = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .unwrap();
    let proxy_url = format!("http://user:p%40w@{}", proxy.local_addr().unwrap());
    let target = receiver.address;
    let (head_out, head_in) = tokio::sync::oneshot::channel();
    // The host has a second address, and the proxy cannot reach the first.
    let dead = SocketAddr::new("127.0.0.9".parse().unwrap(), target.port());
    tokio::spawn(async move {
        let (mut client, head) = loop {
            let (mut client, _) = proxy.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(client.read_u8().await.unwrap());
            }
            if !head.starts_with(format!("CONNECT {dead} ").as_bytes()) {
                break (client, head);
            }
            client
                .write_all(b"HTTP/1.1 502 no route\r\n\r\n")
                .await
                .unwrap();
        };
        client
            .write_all(b"HTTP/1.1 204 There You Are\r\n\r\n")
            .await
            .unwrap();
        head_out.send(String::from_utf8(head).unwrap()).unwrap();
        let mut upstream = tokio::net::TcpStream::connect(target).await.unwrap();
        drop(tokio::io::copy_bidirectional(&mut client, &mut upstream).await);
    });
    let names = Names {
        first: vec![dead.ip(), LOCAL],
        then: Vec::new(),
        asked: AtomicUsize::new(0),
    };
    let transport = HttpTransport::new(Options {
        proxy: Some(proxy_url.parse().unwrap()),
        resolver: Arc::new(names),
        ..options(&["127.0.0.0/8"])
    })
    .unwrap();
    let exchange = transport
        .send(&to(&format!("http://hooks.example:{}/", target.port())))
        .await;
    assert_eq!(status(&exchange), Some(200));
    let head = head_in.await.unwrap();
    assert!(
        head.starts_with(&format!("CONNECT {target} HTTP/1.1\r\n")),
        "{head}"
    );
    assert!(
        head.contains("Proxy-Authorization: Basic dXNlcjpwQHc="),
        "{head}"
    );
}

#[tokio::test]
async fn a_proxy_that_is_away_is_no_receivers_fault() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let free = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .unwrap();
    let gone = free.local_addr().unwrap();
    drop(free);
    // It wants another login than ours, whoever is asked for.
    let strict = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .unwrap();
    let strict_at = strict.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = strict.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(client.read_u8().await.unwrap());
            }
            let answer = b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n";
            client.write_all(answer).await.unwrap();
        }
    });
    for proxy in [gone, strict_at] {
        let transport = HttpTransport::new(Options {
            proxy: Some(format!("http://{proxy}").parse().unwrap()),
            ..options(&["127.0.0.0/8"])
        })
        .unwrap();
        let exchange = transport.send(&to("http://127.0.0.1:9/")).await;
        let Outcome::Unreachable { reason, detail } = &exchange.outcome else {
            panic!("{:?}", exchange.outcome);
        };
        assert_eq!(*reason, UnreachableReason::Local, "{detail}");
        assert!(detail.starts_with("the proxy "), "{detail}");
    }
}

#[tokio::test]
async fn settings_that_cannot_work_are_refused_at_start() {
    let bind = Options {
        regions: vec![region(None, &["203.0.113.7"])],
        ..options(&[])
    };
    assert!(matches!(
        HttpTransport::new(bind),
        Err(SetupError::Bind { .. })
    ));
    let ca = Options {
        extra_ca: Some("/nonexistent.pem".into()),
        ..options(&[])
    };
    assert!(matches!(
        HttpTransport::new(ca),
        Err(SetupError::Certificates { .. })
    ));
    let proxy = Options {
        proxy: Some("ftp://proxy".parse().unwrap()),
        ..options(&[])
    };
    assert!(matches!(HttpTransport::new(proxy), Err(SetupError::Proxy)));
    let bound = HttpTransport::new(Options {
        regions: vec![region(None, &["127.0.0.1"])],
        ..options(&["127.0.0.0/8"])
    })
    .unwrap();
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    assert_eq!(
        status(&bound.send(&to(&receiver.url("/"))).await),
        Some(200)
    );
    let both = Options {
        regions: vec![region(None, &["127.0.0.1"])],
        proxy: Some("http://proxy:3128".parse().unwrap()),
        ..options(&[])
    };
    assert!(matches!(
        HttpTransport::new(both),
        Err(SetupError::ProxyAndAddresses)
    ));
}

fn region(name: Option<&str>, bind: &[&str]) -> Region {
    Region {
        name: name.map(Arc::from),
        bind: bind.iter().map(|text| text.parse().unwrap()).collect(),
    }
}

#[tokio::test]
async fn requests_leave_from_the_addresses_of_their_region_in_turn() {
    let transport = HttpTransport::new(Options {
        regions: vec![
            region(Some("eu1"), &["127.0.0.2", "127.0.0.3"]),
            region(Some("us1"), &["127.0.0.4"]),
            region(Some("six"), &["::1"]),
        ],
        default_region: Some(Arc::from("us1")),
        ..options(&["127.0.0.0/8"])
    })
    .unwrap();
    // A receiver that closes each connection: every request opens its own.
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let left = async |region: Option<&str>| {
        let request = Request {
            region: region.map(Arc::from),
            ..to(&receiver.url("/"))
        };
        transport.send(&request).await
    };
    let mut seen = std::collections::BTreeSet::new();
    let (first, second) = tokio::join!(left(Some("eu1")), left(Some("eu1")));
    for exchange in [first, second] {
        let egress = exchange.egress.unwrap();
        assert_eq!(egress.region.as_deref(), Some("eu1"));
        seen.insert(egress.address.to_string());
    }
    assert_eq!(
        seen.into_iter().collect::<Vec<_>>(),
        ["127.0.0.2", "127.0.0.3"]
    );
    // A connection of one region is not used for another, however warm it is.
    let default = left(None).await.egress.unwrap();
    assert_eq!(default.address.to_string(), "127.0.0.4");
    assert_eq!(default.region.as_deref(), Some("us1"));
    for (unusable, reason) in [
        ("six", UnreachableReason::Connect),
        ("as1", UnreachableReason::Local),
    ] {
        let exchange = left(Some(unusable)).await;
        assert_eq!(exchange.egress, None);
        assert!(
            matches!(&exchange.outcome, Outcome::Unreachable { reason: told, .. } if *told == reason),
            "{exchange:?}"
        );
    }
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

/// A receiver of HTTP/1.1 that writes what it likes: `answers[n]` for the nth request of a connection,
/// none closes it after the request was read. Tells how many connections there were.
async fn raw_receiver(answers: &'static [Option<&'static str>]) -> (SocketAddr, Arc<AtomicUsize>) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind((LOCAL, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let count = connections.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                for answer in answers {
                    let mut read = Vec::new();
                    while !read.ends_with(b"{\"a\":1}") {
                        let Ok(byte) = stream.read_u8().await else {
                            return;
                        };
                        read.push(byte);
                    }
                    let Some(answer) = answer else { return };
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (address, connections)
}

const FINE: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

#[tokio::test]
async fn a_kept_connection_that_is_closed_under_a_request_is_no_failure() {
    let (address, connections) = raw_receiver(&[Some(FINE), None]).await;
    let transport = local();
    let url = format!("http://{address}/");
    for _ in 0..3 {
        assert_eq!(status(&transport.send(&to(&url)).await), Some(200));
    }
    assert_eq!(connections.load(Ordering::SeqCst), 3);
    // On a fresh one it is a failure: nothing says that the receiver did not process it.
    let (address, connections) = raw_receiver(&[None]).await;
    let exchange = transport.send(&to(&format!("http://{address}/"))).await;
    assert_eq!(reason(&exchange), UnreachableReason::Reset);
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn who_counts_requests_gets_none_twice_in_an_attempt() {
    let (address, connections) = raw_receiver(&[Some(FINE), None]).await;
    let transport = local();
    let request = Request {
        repeat: false,
        ..to(&format!("http://{address}/"))
    };
    assert_eq!(status(&transport.send(&request).await), Some(200));
    let exchange = transport.send(&request).await;
    assert_eq!(reason(&exchange), UnreachableReason::Reset);
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_connection_is_kept_no_longer_than_its_server_says() {
    const SHORT: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nkeep-alive: timeout=1\r\n\r\n";
    let (address, connections) = raw_receiver(&[Some(SHORT), Some(SHORT)]).await;
    let transport = local();
    let url = format!("http://{address}/");
    for _ in 0..2 {
        assert_eq!(status(&transport.send(&to(&url)).await), Some(200));
    }
    assert_eq!(
        connections.load(Ordering::SeqCst),
        2,
        "a second less is none"
    );
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
        let (address, _) = raw_receiver(answers).await;
        let exchange = local().send(&to(&format!("http://{address}/"))).await;
        assert_eq!(status(&exchange), Some(200), "{exchange:?}");
    }
}

#[tokio::test]
async fn what_http2_refuses_to_process_is_sent_again_at_once() {
    let authority = Authority::default();
    let tls = tokio_rustls::TlsAcceptor::from(authority.server("hooks.example", false, &["h2"]));
    let listener = tokio::net::TcpListener::bind((LOCAL, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let refused = Arc::new(AtomicUsize::new(0));
    let count = refused.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (tls, count) = (tls.clone(), count.clone());
            tokio::spawn(async move {
                let stream = tls.accept(stream).await.unwrap();
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    // The first two requests there are.
                    if count.fetch_add(1, Ordering::SeqCst) < 2 {
                        respond.send_reset(h2::Reason::REFUSED_STREAM);
                        continue;
                    }
                    let answer = http::Response::new(());
                    respond.send_response(answer, true).unwrap();
                }
            });
        }
    });
    let transport = trusting(&authority);
    let url = format!("https://hooks.example:{port}/");
    assert_eq!(status(&transport.send(&to(&url)).await), Some(200));
    assert_eq!(
        refused.load(Ordering::SeqCst),
        3,
        "two refused, one answered"
    );
}

#[tokio::test]
async fn mistakes_of_certificates_are_told_apart() {
    use rcgen::{CertificateParams, KeyPair};
    use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["hooks.example".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap().der().clone();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let self_signed = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let other = Authority::default();
    for (config, sentence) in [
        (Arc::new(self_signed), "self-signed"),
        (other.server("hooks.example", false, &[]), "full chain"),
    ] {
        let receiver = Receiver::with_tls(Behaviour::Status(200), Some(config)).await;
        let url = format!("https://hooks.example:{}/", receiver.address.port());
        let exchange = local().send(&to(&url)).await;
        assert_eq!(reason(&exchange), UnreachableReason::Tls);
        let told = format!("{:?}", exchange.outcome);
        assert!(told.contains(sentence), "{told}");
    }
}

/// A frame of HTTP/2 (RFC 9113 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// How it goes away: the last stream that it has taken, and why.
type GoingAway = (u32, h2::Reason);

/// A receiver of HTTP/2 that writes its frames itself: `answers[n]` for the nth request that it has whole, on whichever
/// connection; none is an answer. Where it goes away it says so, and writes no more on that connection. Tells how many
/// connections and requests there were.
async fn going_receiver(
    authority: &Authority,
    answers: &[Option<GoingAway>],
) -> (String, Arc<[AtomicUsize; 2]>) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    const DATA: u8 = 0;
    const HEADERS: u8 = 1;
    const SETTINGS: u8 = 4;
    const GOAWAY: u8 = 7;
    const ACK: u8 = 1;
    const END_STREAM: u8 = 1;
    const END_HEADERS: u8 = 4;
    /// The preface of a client (RFC 9113 3.4).
    const PREFACE_BYTES: usize = 24;
    /// `:status: 200` (RFC 7541, appendix A).
    const OK: u8 = 0x88;
    let tls = tokio_rustls::TlsAcceptor::from(authority.server("hooks.example", false, &["h2"]));
    let listener = tokio::net::TcpListener::bind((LOCAL, 0)).await.unwrap();
    let url = format!(
        "https://hooks.example:{}/",
        listener.local_addr().unwrap().port()
    );
    let counts = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
    let (counted, answers) = (counts.clone(), Arc::new(answers.to_vec()));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            counted[0].fetch_add(1, Ordering::SeqCst);
            let (tls, counted, answers) = (tls.clone(), counted.clone(), answers.clone());
            tokio::spawn(async move {
                let mut stream = tls.accept(stream).await.unwrap();
                let mut preface = [0; PREFACE_BYTES];
                stream.read_exact(&mut preface).await.unwrap();
                let settings = frame(SETTINGS, 0, 0, &[]);
                stream.write_all(&settings).await.unwrap();
                let mut head = [0; 9];
                // To the end of what the client writes: one that is closed before would be reset.
                while stream.read_exact(&mut head).await.is_ok() {
                    let [length @ .., kind, flags, a, b, c, d] = head;
                    let [high, middle, low] = length;
                    let length = u32::from_be_bytes([0, high, middle, low]);
                    let mut payload = vec![0; length as usize];
                    stream.read_exact(&mut payload).await.unwrap();
                    if kind == SETTINGS && flags & ACK == 0 {
                        let heard = frame(SETTINGS, ACK, 0, &[]);
                        stream.write_all(&heard).await.unwrap();
                    }
                    let is_whole = matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0;
                    if !is_whole {
                        continue;
                    }
                    let number = counted[1].fetch_add(1, Ordering::SeqCst);
                    match answers.get(number).copied().flatten() {
                        None => {
                            let id = u32::from_be_bytes([a, b, c, d]);
                            let answer = frame(HEADERS, END_HEADERS | END_STREAM, id, &[OK]);
                            stream.write_all(&answer).await.unwrap();
                        }
                        Some((last, why)) => {
                            let [last, why] = [last, why.into()].map(u32::to_be_bytes);
                            let goes = frame(GOAWAY, 0, 0, &[last, why].concat());
                            stream.write_all(&goes).await.unwrap();
                            stream.shutdown().await.unwrap();
                        }
                    }
                }
            });
        }
    });
    (url, counts)
}

#[tokio::test]
async fn what_a_server_that_goes_away_did_not_begin_is_sent_again_and_nothing_else() {
    use h2::Reason;
    let authority = Authority::default();
    let transport = trusting(&authority);
    let seen = |counts: &[AtomicUsize; 2]| {
        let [connections, requests] = counts;
        let now = |count: &AtomicUsize| count.load(Ordering::SeqCst);
        (now(connections), now(requests))
    };
    // It ends in order, before it began the request: another connection answers that.
    let (url, counts) = going_receiver(&authority, &[Some((0, Reason::NO_ERROR)), None]).await;
    assert_eq!(status(&transport.send(&to(&url)).await), Some(200));
    assert_eq!(seen(&counts), (2, 2));
    // What it has taken it may have processed, however it ends.
    for why in [Reason::INTERNAL_ERROR, Reason::NO_ERROR] {
        let (url, counts) = going_receiver(&authority, &[Some((1, why))]).await;
        let exchange = transport.send(&to(&url)).await;
        assert_eq!(reason(&exchange), UnreachableReason::Reset, "{exchange:?}");
        assert_eq!(seen(&counts), (1, 1));
    }
    // On a connection that was kept, too.
    let answers = [None, Some((3, Reason::INTERNAL_ERROR))];
    let (url, counts) = going_receiver(&authority, &answers).await;
    assert_eq!(status(&transport.send(&to(&url)).await), Some(200));
    let exchange = transport.send(&to(&url)).await;
    assert_eq!(reason(&exchange), UnreachableReason::Reset, "{exchange:?}");
    assert_eq!(seen(&counts), (1, 2));
}

#[tokio::test]
async fn a_receiver_that_demands_a_client_certificate_is_told_so() {
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use rustls::server::WebPkiClientVerifier;
    let authority = Authority::default();
    let (certificate, key) = authority.certified("hooks.example");
    let read = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(read(&authority.pem)).unwrap();
    let roots = Arc::new(roots);
    let transport = trusting(&authority);
    // The one refuses in its handshake, and the other when that has ended on our side.
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_client_cert_verifier(verifier.build().unwrap())
            .with_single_cert(
                vec![read(&certificate)],
                PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
            )
            .unwrap();
        let tls = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = tokio::net::TcpListener::bind((LOCAL, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let refusing = async {
            let (stream, _) = listener.accept().await.unwrap();
            let accepted = tls.accept(stream).into_fallible().await;
            let Err((_, mut stream)) = accepted else {
                panic!("nobody showed a certificate");
            };
            // To its end: what it says would be lost with a reset.
            drop(tokio::io::copy(&mut stream, &mut tokio::io::sink()).await);
        };
        let request = to(&format!("https://hooks.example:{port}/"));
        let (exchange, ()) = tokio::join!(transport.send(&request), refusing);
        assert_eq!(reason(&exchange), UnreachableReason::Tls, "{version:?}");
        let told = format!("{:?}", exchange.outcome);
        assert!(told.contains("demands a client certificate"), "{told}");
    }
}
