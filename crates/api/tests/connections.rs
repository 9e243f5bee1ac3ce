//! Clients of the listener that take nothing, and that ask nothing.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use bytes::Bytes;
use hyper::body::Frame;
use ipnet::IpNet;
use postrider_api::{Certificate, Connections, Listener, ServerLimits, Tls};
use postrider_testkit::certificates::Authority;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// An answer without end, that tells when it is let go.
struct Endless(tokio::sync::mpsc::Sender<()>);

impl hyper::body::Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[b'x'; 65_536])))))
    }
}

impl Drop for Endless {
    fn drop(&mut self) {
        self.0.try_send(()).unwrap_or_default();
    }
}

/// A listener that serves; stops when it is told to.
struct Serving {
    address: SocketAddr,
    connections: Connections,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Serving {
    async fn start(
        router: Router,
        limits: ServerLimits,
        proxies: &[IpNet],
    ) -> std::io::Result<Self> {
        let listener = Listener::bind(SocketAddr::from(([127, 0, 0, 1], 0)), limits).await?;
        let listener = listener.with_proxies(proxies);
        let (address, connections) = (listener.address()?, listener.connections());
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        tasks.spawn(listener.serve(router, stop.clone()));
        Ok(Self {
            address,
            connections,
            stop,
            tasks,
        })
    }

    async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

fn places(connections_max: usize) -> ServerLimits {
    ServerLimits {
        connections_max,
        ..ServerLimits::default()
    }
}

#[tokio::test]
async fn a_client_that_does_not_take_its_answer_is_let_go() -> std::io::Result<()> {
    let (ended, mut has_ended) = tokio::sync::mpsc::channel(1);
    let answer = move || async move { Body::new(Endless(ended)) };
    let limits = ServerLimits {
        write_timeout: Duration::from_millis(50),
        ..ServerLimits::default()
    };
    let router = Router::new().route("/", get(answer));
    let serving = Serving::start(router, limits, &[]).await?;
    let mut client = TcpStream::connect(serving.address).await?;
    client
        .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        .await?;
    let ended = tokio::time::timeout(Duration::from_secs(30), has_ended.recv()).await;
    assert_eq!(ended, Ok(Some(())), "its answer is not held for ever");
    serving.stop().await;
    drop(client);
    Ok(())
}

/// A connection from an address of this machine.
async fn connect_from(from: [u8; 4], to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from((from, 0)))?;
    socket.connect(to).await
}

/// Asks on a connection, and waits for the first bytes of the answer.
async fn ask(client: &mut TcpStream) -> std::io::Result<String> {
    client
        .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        .await?;
    let mut answer = [0; 128];
    let read = tokio::time::timeout(Duration::from_secs(20), client.read(&mut answer)).await??;
    Ok(String::from_utf8_lossy(&answer[..read]).into_owned())
}

// Other systems have one address of their own.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn who_holds_all_connections_keeps_nobody_out() -> std::io::Result<()> {
    const GREEDY: [u8; 4] = [127, 0, 0, 1];
    const OTHER: [u8; 4] = [127, 0, 0, 2];
    let router = Router::new().route("/", get(|| async { "here" }));
    let serving = Serving::start(router, places(32), &[]).await?;
    let (address, connections) = (serving.address, &serving.connections);
    // Idle for longer than all of the greedy one's, and few.
    let mut kept = connect_from(OTHER, address).await?;
    let answer = ask(&mut kept).await?;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let mut greedy = Vec::new();
    for number in 0..100 {
        let mut client = connect_from(GREEDY, address).await?;
        if number % 2 == 0 {
            // Headers that never end are no request.
            client.write_all(b"GET / HTTP/1.1\r\nho").await?;
        }
        greedy.push(client);
    }
    let mut another = connect_from(OTHER, address).await?;
    let answer = ask(&mut another).await?;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let answer = ask(&mut kept).await?;
    assert!(answer.starts_with("HTTP/1.1 200"), "still open: {answer}");
    assert!(connections.open() <= connections.max());
    drop(greedy);
    serving.stop().await;
    Ok(())
}

/// Nothing of it is idle: bodies that never come. Connections that others have are not taken for it, and half stays theirs.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn who_keeps_all_connections_busy_gets_half() -> std::io::Result<()> {
    const GREEDY: [u8; 4] = [127, 0, 0, 1];
    const OTHER: [u8; 4] = [127, 0, 0, 2];
    const PROXY: [u8; 4] = [127, 0, 0, 3];
    let router = Router::new()
        .route("/", get(|| async { "here" }))
        .route("/", axum::routing::post(|_: Bytes| async { "whole" }));
    let proxies = [IpAddr::from(PROXY).into()];
    let serving = Serving::start(router, places(32), &proxies).await?;
    let (address, connections) = (serving.address, &serving.connections);
    let mut kept = connect_from(OTHER, address).await?;
    let answer = ask(&mut kept).await?;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let mut greedy = Vec::new();
    for _ in 0..100 {
        let mut client = connect_from(GREEDY, address).await?;
        let head = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n";
        // Refused ones are closed in the middle.
        client.write_all(head).await.unwrap_or_default();
        greedy.push(client);
    }
    let mut others = Vec::new();
    for _ in 0..5 {
        let mut another = connect_from(OTHER, address).await?;
        let answer = ask(&mut another).await?;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        others.push(another);
    }
    let answer = ask(&mut kept).await?;
    assert!(answer.starts_with("HTTP/1.1 200"), "still open: {answer}");
    assert!(connections.open() <= 16 + 6 + 1, "{}", connections.open());
    drop((greedy, others));
    // A proxy has everybody behind it.
    let mut proxys = Vec::new();
    for _ in 0..24 {
        let mut client = connect_from(PROXY, address).await?;
        let answer = ask(&mut client).await?;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        proxys.push(client);
    }
    serving.stop().await;
    Ok(())
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_request_under_way_keeps_its_connection() -> std::io::Result<()> {
    let (let_go, waits) = tokio::sync::watch::channel(false);
    let slow = move || async move {
        let mut waits = waits;
        let went = waits.wait_for(|is_let_go| *is_let_go).await.is_ok();
        went.to_string()
    };
    let router = Router::new()
        .route("/slow", get(slow))
        .route("/", get(|| async { "here" }));
    let serving = Serving::start(router, places(4), &[]).await?;
    let mut slow = TcpStream::connect(serving.address).await?;
    slow.write_all(b"GET /slow HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .await?;
    // More than there is room for, from the address of the slow one: theirs go before it.
    let mut idle = Vec::new();
    let mut answered = 0;
    while answered < 8 {
        let mut client = TcpStream::connect(serving.address).await?;
        // Where nothing is idle yet, one that comes is closed.
        if let Ok(answer) = ask(&mut client).await
            && answer.starts_with("HTTP/1.1 200")
        {
            answered += 1;
        }
        idle.push(client);
    }
    let_go.send_replace(true);
    let mut answer = String::new();
    slow.read_to_string(&mut answer).await?;
    assert!(answer.ends_with("true"), "{answer}");
    serving.stop().await;
    Ok(())
}

#[tokio::test]
async fn who_begins_no_handshake_holds_no_connection() -> Result<(), Box<dyn std::error::Error>> {
    let files = tempfile::tempdir()?;
    let (certificate, key) = Authority::default().certified("localhost");
    let (chain, own) = (files.path().join("chain.pem"), files.path().join("key.pem"));
    std::fs::write(&chain, certificate)?;
    std::fs::write(&own, key)?;
    let limits = ServerLimits {
        handshake_timeout: Duration::from_millis(50),
        ..ServerLimits::default()
    };
    let listener = Listener::bind(SocketAddr::from(([127, 0, 0, 1], 0)), limits).await?;
    let tls = Tls::new(Certificate::read(&chain, &own)?)?;
    let listener = listener.with_tls(Some(tls));
    let address = listener.address()?;
    let stop = CancellationToken::new();
    let served = TaskTracker::new();
    served.spawn(listener.serve(Router::new(), stop.clone()));
    // One says nothing, and one begins to.
    for begins in [&b""[..], &[22, 3, 1]] {
        let mut client = TcpStream::connect(address).await?;
        client.write_all(begins).await?;
        let mut said = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(8), client.read_to_end(&mut said));
        assert_eq!(ended.await??, 0, "it is closed without a word");
    }
    stop.cancel();
    served.close();
    served.wait().await;
    Ok(())
}
