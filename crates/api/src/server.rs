//! The accept loop: bounded connections, a deadline for headers, a graceful end.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use ipnet::IpNet;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::Instant;
use tokio_io_timeout::TimeoutStream;
use tokio_util::io::InspectWriter;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service as _;

use crate::connections::{Answer, Connections, Place};
use crate::tls::Tls;
use crate::unread::Unread;

/// Bounds of the HTTP server.
#[derive(Debug, Clone, Copy)]
pub struct ServerLimits {
    /// Connections at once; a network has no more of them than are free. Before all are in use, the longest idle ones of
    /// who has the most are closed.
    pub connections_max: usize,
    /// Time for the next request's headers, and so how long an idle connection is kept open. Longer than
    /// proxies in front keep theirs, so that they do not send on one that is being closed.
    pub idle_timeout: Duration,
    /// Bytes at which the connection stops reading a request's headers; what is allowed is less.
    pub header_bytes_max: usize,
    /// Time for a client to take the next bytes of an answer; it holds the memory of the answer.
    pub write_timeout: Duration,
    /// Time for a client's handshake, where the server speaks TLS; it asks for nothing until then.
    pub handshake_timeout: Duration,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            connections_max: 10_000,
            idle_timeout: Duration::from_secs(75),
            header_bytes_max: 64 * 1_024,
            write_timeout: Duration::from_secs(30),
            handshake_timeout: Duration::from_secs(10),
        }
    }
}

/// Bytes that the system keeps of an answer on its way.
const SEND_BUFFER: u32 = 256 * 1_024;
/// Time for what is on its way on a connection that nobody uses, when its place is for somebody else.
const LEAVE_TIME_MAX: Duration = Duration::from_millis(250);
/// Connections that wait to be accepted.
const BACKLOG: u32 = 1_024;

/// The other end of a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) IpAddr);

/// The other end of a request's connection, if it came over one.
pub fn peer<B>(request: &Request<B>) -> Option<IpAddr> {
    request.extensions().get::<Peer>().map(|peer| peer.0)
}

/// Says whose request it is that another node has passed on.
pub fn arrived_from<B>(request: &mut Request<B>, address: IpAddr) {
    request.extensions_mut().insert(Peer(address));
}

/// A bound socket.
#[derive(Debug)]
pub struct Listener {
    listener: TcpListener,
    tls: Option<Tls>,
    limits: ServerLimits,
    connections: Connections,
}

impl Listener {
    /// # Errors
    /// When the address cannot be bound.
    pub async fn bind(address: SocketAddr, limits: ServerLimits) -> std::io::Result<Self> {
        let socket = if address.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            TcpSocket::new_v6()?
        };
        // Connections of the process before linger on the address; on Windows it would let others take it.
        #[cfg(unix)]
        socket.set_reuseaddr(true)?;
        // What the system holds of an answer that nobody reads counts for nobody.
        socket.set_send_buffer_size(SEND_BUFFER)?;
        socket.bind(address)?;
        Ok(Self {
            listener: socket.listen(BACKLOG)?,
            tls: None,
            limits,
            connections: Connections::new(limits.connections_max, Arc::default()),
        })
    }

    /// The same, over TLS.
    #[must_use]
    pub fn with_tls(self, tls: Option<Tls>) -> Self {
        Self { tls, ..self }
    }

    /// The same; networks of proxies may have all connections.
    #[must_use]
    pub fn with_proxies(self, proxies: &[IpNet]) -> Self {
        Self {
            connections: Connections::new(self.limits.connections_max, proxies.into()),
            ..self
        }
    }

    pub fn connections(&self) -> Connections {
        self.connections.clone()
    }

    /// # Errors
    /// When the socket does not tell.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `stop`; then accepts no more and waits for the requests under way.
    pub async fn serve(self, router: Router, stop: CancellationToken) {
        let connections = TaskTracker::new();
        let mut builder = auto::Builder::new(TokioExecutor::new()).http1_only();
        // Without `pipeline_flush`, which buffers answers that nobody takes without a bound. hyper panics
        // below a `max_buf_size` of 8 KiB.
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.idle_timeout)
            .max_buf_size(self.limits.header_bytes_max.max(8_192));
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                accepted = accept(&self.listener, &self.connections) => accepted,
            };
            let Some((stream, peer, place)) = accepted else {
                continue;
            };
            let requests = place.requests();
            let router = router.clone();
            let service = service_fn(move |mut request: Request<Incoming>| {
                requests.begin();
                request.extensions_mut().insert(Peer(peer));
                let requests = requests.clone();
                let answer = answer(router.clone(), request);
                async move {
                    let response = answer.await?;
                    Ok::<_, Infallible>(response.map(|body| requests.answer(body)))
                }
            });
            let conversation = Conversation {
                builder: builder.clone(),
                stop: stop.clone(),
                place,
                write_timeout: self.limits.write_timeout,
            };
            let tls = self.tls.clone();
            let handshake_timeout = self.limits.handshake_timeout;
            connections.spawn(async move {
                match tls {
                    None => conversation.hold(stream, service).await,
                    Some(tls) => {
                        if let Some(stream) = conversation
                            .begin(tls.accept(stream, handshake_timeout))
                            .await
                        {
                            conversation.hold(stream, service).await;
                        }
                    }
                }
            });
        }
        // Before the wait: who comes now is refused by the system instead of waiting for nobody.
        drop(self.listener);
        // Until the last one let go of what it serves from: whoever opens the store next needs it free.
        connections.close();
        connections.wait().await;
    }
}

/// Has a router answer a request. What it does not read of the body is let pass, so that the sender gets the answer.
pub fn answer(
    mut router: Router,
    request: Request<Incoming>,
) -> impl Future<Output = Result<Response<Body>, Infallible>> + Send {
    let (request, unread) = Unread::of(request.map(Body::new));
    // A router is always ready.
    let answer = router.call(request);
    async move {
        let response = answer.await?;
        if let Some(unread) = unread {
            unread.answered(response.status());
        }
        Ok(response)
    }
}

/// How a connection's requests are taken.
struct Conversation {
    builder: auto::Builder<TokioExecutor>,
    /// No further requests, and those that are under way have their time.
    stop: CancellationToken,
    place: Place,
    write_timeout: Duration,
}

impl Conversation {
    /// Waits for a handshake, which is no request under way: neither end waits for it.
    async fn begin<T>(&self, handshake: impl Future<Output = Option<T>>) -> Option<T> {
        tokio::select! {
            () = self.stop.cancelled() => None,
            () = self.place.wanted() => None,
            stream = handshake => stream,
        }
    }

    /// Takes requests until the client leaves, the server stops, or somebody else is to have the place.
    async fn hold<IO, S>(self, stream: IO, service: S)
    where
        IO: AsyncRead + AsyncWrite + Send + 'static,
        S: Service<Request<Incoming>, Response = Response<Answer<Body>>, Error = Infallible>,
        S::Future: Send + 'static,
    {
        // hyper has no deadline for what a client does not take.
        let requests = self.place.requests();
        let stream = InspectWriter::new(stream, move |_: &[u8]| requests.wrote());
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(self.write_timeout));
        let stream = TokioIo::new(Box::pin(stream));
        let connection = self.builder.serve_connection_with_upgrades(stream, service);
        let mut connection = pin!(connection);
        let leaves = tokio::select! {
            // A client that breaks off is no event of ours.
            _ = connection.as_mut() => return,
            () = self.place.wanted() => true,
            () = self.stop.cancelled() => false,
        };
        connection.as_mut().graceful_shutdown();
        if !leaves {
            drop(connection.await);
            return;
        }
        // One that began in this moment has its time, and so has an answer that is being taken: nobody could say what
        // became of them.
        let until = Instant::now() + self.write_timeout;
        while tokio::time::timeout(LEAVE_TIME_MAX, connection.as_mut())
            .await
            .is_err()
        {
            let is_taken = self.place.is_used_within(LEAVE_TIME_MAX) && Instant::now() < until;
            if !self.place.is_busy() && !is_taken {
                return;
            }
            self.place.stays();
        }
    }
}

async fn accept(
    listener: &TcpListener,
    connections: &Connections,
) -> Option<(TcpStream, IpAddr, Place)> {
    const PAUSE: Duration = Duration::from_millis(50);
    // Before the socket: who has no permit stays in the backlog and takes no descriptor.
    let permit = connections.room().await;
    match listener.accept().await {
        Ok((stream, peer)) => {
            // Answers are small and somebody waits for them.
            drop(stream.set_nodelay(true));
            let peer = peer.ip();
            // Who has no more places is told by the end of it.
            let place = connections.place(permit, peer)?;
            Some((stream, peer, place))
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
