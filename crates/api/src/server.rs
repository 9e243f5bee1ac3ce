//! The accept loop: bounded connections, a deadline for headers, a graceful end.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use http::Request;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::util::MapRequest;

/// Bounds of the HTTP server.
#[derive(Debug, Clone, Copy)]
pub struct ServerLimits {
    /// Connections at once; more wait to be accepted.
    pub connections_max: usize,
    /// Time for a request's headers.
    pub header_timeout: Duration,
    /// Bytes of a request's headers.
    pub header_bytes_max: usize,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            connections_max: 10_000,
            header_timeout: Duration::from_secs(15),
            header_bytes_max: 32 * 1_024,
        }
    }
}

/// The other end of a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) IpAddr);

/// A bound socket.
#[derive(Debug)]
pub struct Listener {
    listener: TcpListener,
    limits: ServerLimits,
}

impl Listener {
    /// # Errors
    /// When the address cannot be bound.
    pub async fn bind(address: SocketAddr, limits: ServerLimits) -> std::io::Result<Self> {
        Ok(Self {
            listener: TcpListener::bind(address).await?,
            limits,
        })
    }

    /// # Errors
    /// When the socket does not tell.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `stop`; then accepts no more and waits for the requests under way.
    pub async fn serve(self, router: Router, stop: CancellationToken) {
        let permits = Arc::new(Semaphore::new(self.limits.connections_max));
        let graceful = GracefulShutdown::new();
        let connections = TaskTracker::new();
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.header_timeout)
            .max_buf_size(self.limits.header_bytes_max.max(8_192))
            .pipeline_flush(true);
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                accepted = accept(&self.listener, &permits) => accepted,
            };
            let Some((stream, peer, permit)) = accepted else {
                continue;
            };
            let service = MapRequest::new(router.clone(), move |mut request: Request<_>| {
                request.extensions_mut().insert(Peer(peer));
                request
            });
            let service = TowerToHyperService::new(service);
            let connection =
                graceful.watch(builder.serve_connection(TokioIo::new(stream), service));
            connections.spawn(async move {
                // A client that breaks off is no event of ours.
                drop(connection.await);
                drop(permit);
            });
        }
        drop(self.listener);
        graceful.shutdown().await;
        // Until the last one let go of what it serves from: whoever opens the store next needs it free.
        connections.close();
        connections.wait().await;
    }
}

async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> Option<(TcpStream, IpAddr, tokio::sync::OwnedSemaphorePermit)> {
    const PAUSE: Duration = Duration::from_millis(50);
    let permit = permits.clone().acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, peer)) => {
            // Answers are small and somebody waits for them.
            drop(stream.set_nodelay(true));
            Some((stream, peer.ip(), permit))
        }
        Err(error) => {
            // Out of file descriptors, most likely: leave it a moment.
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "failed to accept a connection"
            );
            tokio::time::sleep(PAUSE).await;
            None
        }
    }
}
