//! Connections that are kept, and those that have to end.

use super::*;

/// A receiver of HTTP/1.1 that writes what it likes: `answers[n]` for the nth request of a connection,
/// none closes it after the request was read. Tells how many connections there were.
pub(super) async fn raw_receiver(
    answers: &'static [Option<&'static str>],
) -> (SocketAddr, Arc<AtomicUsize>) {
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

pub(super) const FINE: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

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

/// It has processed the request: it began to answer it.
#[tokio::test]
async fn what_was_answered_in_part_is_not_sent_again() {
    let (address, connections) = raw_receiver(&[Some(FINE), Some("HTTP/1.1 20")]).await;
    let transport = local();
    let request = to(&format!("http://{address}/"));
    assert_eq!(status(&transport.send(&request).await), Some(200));
    let exchange = transport.send(&request).await;
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

/// A receiver that reads nothing, of as many connections as there are; `answer` is written to each as soon as a request
/// begins.
async fn deaf_receiver(tls: Option<tokio_rustls::TlsAcceptor>, answer: &'static str) -> u16 {
    use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
    trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
    impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}
    let listener = tokio::net::TcpListener::bind((LOCAL, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let mut kept: Vec<Box<dyn Stream>> = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            let mut stream: Box<dyn Stream> = match &tls {
                Some(tls) => Box::new(tls.accept(stream).await.unwrap()),
                None => {
                    stream.readable().await.unwrap();
                    Box::new(stream)
                }
            };
            stream.write_all(answer.as_bytes()).await.unwrap();
            kept.push(stream);
        }
    });
    port
}

/// The rest of a request has nowhere to go, whatever became of the attempt: each connection that waited for ever would be a
/// descriptor, and there are only so many for all.
#[tokio::test]
async fn a_receiver_that_reads_nothing_does_not_keep_its_connection() {
    /// More than what systems hold for a connection.
    const BODY_BYTES: usize = 32 * 1_024 * 1_024;
    let authority = Authority::default();
    let trusting = trusting(&authority);
    let acceptor = |alpn: &[&str]| {
        tokio_rustls::TlsAcceptor::from(authority.server("hooks.example", false, alpn))
    };
    let mut kept = Vec::new();
    for (scheme, protocol, answer) in [
        ("http", &[][..], FINE),
        ("http", &[], ""),
        ("https", &[], FINE),
        ("https", &[], ""),
        ("https", &["h2"], ""),
    ] {
        let tls = (scheme == "https").then(|| acceptor(protocol));
        let port = deaf_receiver(tls, answer).await;
        let url = format!("{scheme}://hooks.example:{port}/");
        let request = Request {
            body: Bytes::from(vec![b'1'; BODY_BYTES]),
            ..quick(&url)
        };
        let tasks = || {
            tokio::runtime::Handle::current()
                .metrics()
                .num_alive_tasks()
        };
        let before = tasks();
        let exchange = trusting.send(&request).await;
        let expected = (!answer.is_empty()).then_some(200);
        assert_eq!(status(&exchange), expected, "{exchange:?}");
        let ended = async {
            while tasks() > before {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        if tokio::time::timeout(Duration::from_secs(5), ended)
            .await
            .is_err()
        {
            kept.push(format!("{scheme} {protocol:?} {answer:?}"));
        }
    }
    assert_eq!(kept, Vec::<String>::new());
}
