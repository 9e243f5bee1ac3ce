//! Who gets the events: receivers that answer at once, late, or never.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// What came to all receivers.
#[derive(Default)]
pub(crate) struct Received {
    pub(crate) count: AtomicU64,
    /// Connections to one receiver, at most.
    pub(crate) connections: AtomicU64,
    /// Microseconds from when an event was to be published until it came.
    pub(crate) latencies: Mutex<Vec<u32>>,
}

/// TLS with the certificate and the key in a directory.
pub(crate) fn tls(directory: &Path) -> anyhow::Result<TlsAcceptor> {
    let chain = CertificateDer::pem_file_iter(directory.join("certificate.pem"))?;
    let key = PrivateKeyDer::from_pem_file(directory.join("key.pem"))?;
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain.collect::<Result<_, _>>()?, key)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Answers at once, and notes when an event came; a port of 0 is any that is free.
pub(crate) async fn prompt(
    port: u16,
    tls: Option<TlsAcceptor>,
    received: Arc<Received>,
    started: Instant,
) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    let address = listener.local_addr()?;
    let open = Arc::new(AtomicU64::new(0));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            drop(stream.set_nodelay(true));
            let (received, open, tls) = (received.clone(), open.clone(), tls.clone());
            let now = open.fetch_add(1, Ordering::Relaxed) + 1;
            received.connections.fetch_max(now, Ordering::Relaxed);
            tokio::spawn(async move {
                match tls {
                    None => answer_on(stream, &received, started).await,
                    Some(tls) => {
                        if let Ok(stream) = tls.accept(stream).await {
                            answer_on(stream, &received, started).await;
                        }
                    }
                }
                open.fetch_sub(1, Ordering::Relaxed);
            });
        }
    });
    Ok(address)
}

async fn answer_on(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    received: &Arc<Received>,
    started: Instant,
) {
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
