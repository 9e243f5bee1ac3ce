//! A client of the listener that takes nothing.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use bytes::Bytes;
use hyper::body::Frame;
use postrider_api::{Listener, ServerLimits};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
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

#[tokio::test]
async fn a_client_that_does_not_take_its_answer_is_let_go() -> std::io::Result<()> {
    let (ended, mut has_ended) = tokio::sync::mpsc::channel(1);
    let answer = move || async move { Body::new(Endless(ended)) };
    let limits = ServerLimits {
        write_timeout: Duration::from_millis(50),
        ..ServerLimits::default()
    };
    let listener = Listener::bind(SocketAddr::from(([127, 0, 0, 1], 0)), limits).await?;
    let address = listener.address()?;
    let stop = CancellationToken::new();
    let router = Router::new().route("/", get(answer));
    let tasks = TaskTracker::new();
    tasks.spawn(listener.serve(router, stop.clone()));
    let mut client = TcpStream::connect(address).await?;
    client
        .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        .await?;
    let ended = tokio::time::timeout(Duration::from_secs(30), has_ended.recv()).await;
    assert_eq!(ended, Ok(Some(())), "its answer is not held for ever");
    stop.cancel();
    tasks.close();
    tasks.wait().await;
    drop(client);
    Ok(())
}
