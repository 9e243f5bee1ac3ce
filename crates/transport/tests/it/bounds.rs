//! What a receiver, or a proxy, may make too much of.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

/// One that sends no more of its body holds its attempt no longer than a second; one that sends without end, no memory.
#[tokio::test]
async fn of_a_body_no_more_is_read_than_its_bytes_and_its_time() {
    let receiver = Receiver::start(Behaviour::StalledBody).await;
    let transport = local();
    let patient = Request {
        total_timeout: Duration::from_secs(120),
        ..to(&receiver.url("/"))
    };
    let stalled = tokio::time::timeout(Duration::from_secs(30), transport.send(&patient)).await;
    let stalled = stalled.expect("it is not waited for");
    assert_eq!(status(&stalled), Some(200));
    assert!(stalled.response.unwrap().truncated);
    receiver.behave(Behaviour::EndlessBody);
    let little = Request {
        read_max: 1_024,
        ..patient
    };
    let endless = transport.send(&little).await;
    assert_eq!(status(&endless), Some(200));
    let kept = endless.response.unwrap();
    assert_eq!((kept.body.len(), kept.truncated), (1_024, true));
}

#[tokio::test]
async fn no_more_headers_are_kept_than_have_room() {
    let headers = |bytes: usize| Behaviour::StatusWith(200, "x-large", "x".repeat(bytes));
    let receiver = Receiver::start(headers(7 * 1_024)).await;
    let transport = local();
    let kept = async |transport: &HttpTransport| {
        let exchange = transport.send(&to(&receiver.url("/"))).await;
        assert_eq!(status(&exchange), Some(200));
        let headers = exchange.response.unwrap().headers;
        headers.iter().any(|(name, _)| name == "x-large")
    };
    assert!(kept(&transport).await);
    receiver.behave(headers(9 * 1_024));
    assert!(!kept(&transport).await);
}

/// A server of HTTP/2 that does something with each request; says how many came.
async fn http2(
    authority: &Authority,
    answer: impl Fn(h2::server::SendResponse<Bytes>) + Copy + Send + 'static,
) -> (String, Arc<AtomicUsize>) {
    let tls = tokio_rustls::TlsAcceptor::from(authority.server("hooks.example", false, &["h2"]));
    let listener = TcpListener::bind((LOCAL, 0)).await.unwrap();
    let url = format!(
        "https://hooks.example:{}/",
        listener.local_addr().unwrap().port()
    );
    let came = Arc::new(AtomicUsize::new(0));
    let count = came.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (tls, count) = (tls.clone(), count.clone());
            tokio::spawn(async move {
                let stream = tls.accept(stream).await.unwrap();
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((_, respond))) = connection.accept().await {
                    count.fetch_add(1, Ordering::SeqCst);
                    answer(respond);
                }
            });
        }
    });
    (url, came)
}

#[tokio::test]
async fn one_that_refuses_to_process_anything_is_asked_four_times() {
    let authority = Authority::default();
    let refuse = |mut respond: h2::server::SendResponse<Bytes>| {
        respond.send_reset(h2::Reason::REFUSED_STREAM);
    };
    let (url, came) = http2(&authority, refuse).await;
    let exchange = trusting(&authority).send(&to(&url)).await;
    assert_eq!(reason(&exchange), UnreachableReason::Protocol);
    assert_eq!(came.load(Ordering::SeqCst), 4, "once, and three times more");
}

#[tokio::test]
async fn more_headers_than_are_read_are_no_answer() {
    let authority = Authority::default();
    let (url, _) = http2(&authority, |mut respond| {
        let mut answer = http::Response::new(());
        let long = http::HeaderValue::from_str(&"x".repeat(70 * 1_024)).unwrap();
        answer.headers_mut().insert("x-large", long);
        respond.send_response(answer, true).unwrap();
    })
    .await;
    let exchange = trusting(&authority).send(&to(&url)).await;
    assert_eq!(reason(&exchange), UnreachableReason::Protocol);
}

#[tokio::test]
async fn one_that_begins_no_handshake_has_the_time_to_connect() {
    let silent = TcpListener::bind((LOCAL, 0)).await.unwrap();
    let url = format!(
        "https://hooks.example:{}/",
        silent.local_addr().unwrap().port()
    );
    let request = Request {
        connect_timeout: Duration::from_millis(200),
        total_timeout: Duration::from_secs(120),
        ..to(&url)
    };
    let transport = local();
    let sent = tokio::time::timeout(Duration::from_secs(30), transport.send(&request)).await;
    let Outcome::Unreachable { reason, detail } = sent.expect("it has no more time").outcome else {
        panic!("somebody answered");
    };
    assert_eq!(reason, UnreachableReason::Timeout);
    assert!(detail.contains("connection"), "{detail}");
}

#[tokio::test]
async fn a_proxy_that_never_ends_its_answer_is_not_listened_to() {
    let proxy = TcpListener::bind((LOCAL, 0)).await.unwrap();
    let at = proxy.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut client, _) = proxy.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(client.read_u8().await.unwrap());
        }
        // Until the other end is closed.
        while client.write_all(&[b'x'; 4_096]).await.is_ok() {}
    });
    let transport = HttpTransport::new(Options {
        proxy: Some(format!("http://{at}").parse().unwrap()),
        ..options(&["127.0.0.0/8"])
    })
    .unwrap();
    let patient = Request {
        connect_timeout: Duration::from_secs(60),
        total_timeout: Duration::from_secs(120),
        ..to("http://127.0.0.1:9/")
    };
    let sent = tokio::time::timeout(Duration::from_secs(30), transport.send(&patient)).await;
    let Outcome::Unreachable { detail, .. } = sent.expect("it is not listened to").outcome else {
        panic!("somebody answered");
    };
    assert!(detail.contains("answered too much"), "{detail}");
}
