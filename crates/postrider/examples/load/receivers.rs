//! Who gets the events: receivers that answer at once, late, or never.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// What came to all receivers.
#[derive(Default)]
pub(crate) struct Received {
    pub(crate) count: AtomicU64,
    /// Connections to one receiver, at most.
    pub(crate) connections: AtomicU64,
    /// Microseconds from when an event was to be published until it came.
    pub(crate) latencies: Mutex<Vec<u32>>,
}

/// Answers at once, and notes when an event came.
pub(crate) async fn prompt(
    received: Arc<Received>,
    started: Instant,
) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    let open = Arc::new(AtomicU64::new(0));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            drop(stream.set_nodelay(true));
            let (received, open) = (received.clone(), open.clone());
            let now = open.fetch_add(1, Ordering::Relaxed) + 1;
            received.connections.fetch_max(now, Ordering::Relaxed);
            tokio::spawn(async move {
                let service = service_fn(|request: http::Request<Incoming>| {
                    let received = received.clone();
                    async move {
                        let body = request.into_body().collect().await?.to_bytes();
                        note(&received, &body, started);
                        Ok::<_, hyper::Error>(empty())
                    }
                });
                let connection = http1::Builder::new();
                drop(
                    connection
                        .serve_connection(TokioIo::new(stream), service)
                        .await,
                );
                open.fetch_sub(1, Ordering::Relaxed);
            });
        }
    });
    Ok(address)
}

fn note(received: &Received, body: &[u8], started: Instant) {
    received.count.fetch_add(1, Ordering::Relaxed);
    let text = String::from_utf8_lossy(body);
    let at = text
        .split("\"at\":")
        .nth(1)
        .and_then(|rest| rest.split(',').next());
    if let Some(at) = at.and_then(|at| at.parse::<u128>().ok()) {
        let took = started.elapsed().as_micros().saturating_sub(at);
        let took = u32::try_from(took).unwrap_or(u32::MAX);
        received.latencies.lock().unwrap().push(took);
    }
}

/// Answers after a while.
pub(crate) async fn slow(after: Duration) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let service = service_fn(move |request: http::Request<Incoming>| async move {
                    request.into_body().collect().await?;
                    tokio::time::sleep(after).await;
                    Ok::<_, hyper::Error>(empty())
                });
                let connection = http1::Builder::new();
                drop(
                    connection
                        .serve_connection(TokioIo::new(stream), service)
                        .await,
                );
            });
        }
    });
    Ok(address)
}

/// Accepts connections and never answers.
pub(crate) async fn hanging() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            held.push(stream);
        }
    });
    Ok(address)
}

fn empty() -> http::Response<Full<Bytes>> {
    http::Response::new(Full::new(Bytes::new()))
}
