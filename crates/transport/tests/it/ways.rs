//! The way there: proxies, regions and the addresses they leave from.

use super::*;

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
