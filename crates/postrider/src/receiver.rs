//! A receiver on this machine: takes webhooks and lets a function answer them. For `listen` and `demo`.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// Bytes of a webhook that are read.
const BODY_MAX: usize = 32 * 1024 * 1024;

/// A webhook as it came in.
#[derive(Debug, Clone)]
pub struct Received {
    pub path: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Received {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// Answers a webhook.
pub type Answer = Arc<dyn Fn(Received) -> StatusCode + Send + Sync>;

/// After a connection that could not be taken.
const ACCEPT_PAUSE: std::time::Duration = std::time::Duration::from_millis(50);

/// Starts to receive; `tls` makes it HTTPS. Runs until the process ends.
///
/// # Errors
/// When the address cannot be bound.
pub async fn start(
    address: SocketAddr,
    tls: Option<Arc<rustls::ServerConfig>>,
    answer: Answer,
) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    let acceptor = tls.map(TlsAcceptor::from);
    #[expect(
        clippy::disallowed_methods,
        reason = "a receiver lives as long as its process"
    )]
    tokio::spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                // Out of descriptors, or a connection that ended before it was taken: the next one may do.
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let (acceptor, answer) = (acceptor.clone(), answer.clone());
            tokio::spawn(async move {
                match acceptor {
                    None => serve(stream, answer).await,
                    Some(acceptor) => {
                        if let Ok(stream) = acceptor.accept(stream).await {
                            serve(stream, answer).await;
                        }
                    }
                }
            });
        }
    });
    Ok(address)
}

async fn serve<S>(stream: S, answer: Answer)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
        let answer = answer.clone();
        async move {
            let (parts, body) = request.into_parts();
            let status = match Limited::new(body, BODY_MAX).collect().await {
                Ok(body) => answer(Received {
                    path: parts.uri.path().to_owned(),
                    headers: parts.headers,
                    body: body.to_bytes(),
                }),
                Err(_) => StatusCode::BAD_REQUEST,
            };
            http::Response::builder()
                .status(status)
                .body(Full::new(Bytes::from_static(b"OK")))
        }
    });
    // A sender that breaks off is no event of ours.
    drop(
        http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service)
            .await,
    );
}
