//! A connection between two nodes: a follower opens it, both show that they have the master key, and then one of them asks.
//! Attempts go over one link, as HTTP/2; clients' requests over as many as there are at once, as HTTP/1.1.

use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::{http1, http2 as client};
use hyper::server::conn::http2 as server;
use hyper::upgrade::Upgraded;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use postrider_core::Secret;
use postrider_core::seal::{hex, proof};
use postrider_core::secret::constant_time_eq;
use postrider_service::random;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use url::Url;

/// Where a node is asked for a link.
pub(crate) const PATH: &str = "/node/link";
/// What a connection becomes.
pub(crate) const PROTOCOL: &str = "postrider-node-1";
pub(crate) const KIND: HeaderName = HeaderName::from_static("x-postrider-link");
pub(crate) const NODE: HeaderName = HeaderName::from_static("x-postrider-node");
pub(crate) const VERSION: HeaderName = HeaderName::from_static("x-postrider-version");
/// Never twice the same, so that what shows the key shows it once.
pub(crate) const NONCE: HeaderName = HeaderName::from_static("x-postrider-nonce");
pub(crate) const PROOF: HeaderName = HeaderName::from_static("x-postrider-proof");
pub(crate) const AT_ONCE: HeaderName = HeaderName::from_static("x-postrider-at-once");

/// Time for a link to be there.
const DIAL_TIME: Duration = Duration::from_secs(3);
/// A node that does not answer a ping within this time is gone, or stands still.
const PING_TIME: Duration = Duration::from_secs(3);
const PING_EVERY: Duration = Duration::from_secs(2);
/// Bytes of one body, and of all together, that may be on their way unread.
const STREAM_WINDOW: u32 = 1024 * 1024;
const LINK_WINDOW: u32 = 16 * 1024 * 1024;
/// Bytes of a request's headers, a little more than a client may send.
const HEADER_BYTES_MAX: usize = 80 * 1024;
/// How long a link without a request is kept.
const IDLE_TIME: Duration = Duration::from_secs(75);
const NONCE_BYTES: usize = 16;
/// Bytes of a refusal that is told in the log.
const REFUSAL_BYTES_MAX: usize = 4_096;

/// What goes over a link: the leader's attempts, or a follower's clients' requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// From the leader to the follower.
    Attempts,
    /// From the follower to the leader, one at a time.
    Requests,
}

impl Kind {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Attempts => "attempts",
            Self::Requests => "requests",
        }
    }

    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        [Self::Attempts, Self::Requests]
            .into_iter()
            .find(|kind| kind.as_str().as_bytes() == text)
    }
}

/// Why there is no link.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    #[error("it cannot be reached")]
    Io(#[from] std::io::Error),
    #[error("it does not speak as a node does")]
    Http(#[from] hyper::Error),
    #[error("it does not answer in time")]
    Time,
    #[error("it answered {0}: {1}")]
    Refused(StatusCode, String),
    #[error("{0} cannot be the address of a node")]
    Address(Url),
    #[error("it does not have the master key of this node")]
    Stranger,
}

/// What a node says of itself.
#[derive(Debug, Clone)]
pub struct Myself {
    /// Where other nodes reach it.
    pub url: Url,
    /// Attempts that it makes at once for a leader.
    pub at_once: usize,
    /// What it shows the master key by.
    pub token: Secret,
}

/// Opens links.
#[derive(Clone)]
pub struct Dialer {
    tls: TlsConnector,
}

impl std::fmt::Debug for Dialer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Dialer")
    }
}

/// Why a file with authorities cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AuthoritiesError {
    #[error(transparent)]
    Pem(#[from] rustls::pki_types::pem::Error),
    #[error(transparent)]
    Tls(#[from] rustls::Error),
    #[error("it holds no certificate")]
    Empty,
}

impl Dialer {
    /// Trusts the authorities of a PEM file alone, or those of the web.
    ///
    /// # Errors
    /// When the file does not read, or holds none.
    pub fn new(authorities: Option<&Path>) -> Result<Self, AuthoritiesError> {
        let mut roots = RootCertStore::empty();
        match authorities {
            None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
            Some(path) => {
                for certificate in CertificateDer::pem_file_iter(path)? {
                    roots.add(certificate?)?;
                }
                if roots.is_empty() {
                    return Err(AuthoritiesError::Empty);
                }
            }
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self {
            tls: TlsConnector::from(Arc::new(config)),
        })
    }

    /// A link to the node at `to`.
    pub(crate) async fn link(
        &self,
        to: &Url,
        kind: Kind,
        myself: &Myself,
    ) -> Result<Upgraded, LinkError> {
        let linked = tokio::time::timeout(DIAL_TIME, self.linked(to, kind, myself)).await;
        linked.unwrap_or(Err(LinkError::Time))
    }

    /// A connection to the server at `to`, as any client opens one.
    pub(crate) async fn plain(&self, to: &Url) -> Result<TokioIo<Pin<Box<dyn Stream>>>, LinkError> {
        let dialed = tokio::time::timeout(DIAL_TIME, self.dialed(to)).await;
        dialed.unwrap_or(Err(LinkError::Time)).map(TokioIo::new)
    }

    async fn dialed(&self, to: &Url) -> Result<Pin<Box<dyn Stream>>, LinkError> {
        let wrong = || LinkError::Address(to.clone());
        // A URL has an address of IPv6 in brackets; who connects and who looks at certificates does not.
        let host = to.host_str().ok_or_else(wrong)?.trim_matches(['[', ']']);
        let port = to.port_or_known_default().ok_or_else(wrong)?;
        let stream = TcpStream::connect((host, port)).await?;
        stream.set_nodelay(true)?;
        if to.scheme() != "https" {
            return Ok(Box::pin(stream));
        }
        let name = ServerName::try_from(host.to_owned()).map_err(|_| wrong())?;
        Ok(Box::pin(self.tls.connect(name, stream).await?))
    }

    async fn linked(&self, to: &Url, kind: Kind, myself: &Myself) -> Result<Upgraded, LinkError> {
        let wrong = || LinkError::Address(to.clone());
        let stream = self.dialed(to).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        #[expect(
            clippy::disallowed_methods,
            reason = "it ends with the upgrade, or with the link"
        )]
        tokio::spawn(async move { drop(connection.with_upgrades().await) });
        let nonce = hex(&random::bytes(NONCE_BYTES));
        let authority = &to[url::Position::BeforeHost..url::Position::AfterPort];
        let request = http::Request::builder()
            .method(Method::POST)
            .uri(PATH)
            .header(header::HOST, authority)
            .header(header::CONNECTION, "upgrade")
            .header(header::UPGRADE, PROTOCOL)
            .header(
                header::AUTHORIZATION,
                credentials(&myself.token, to, kind, &nonce),
            )
            .header(NONCE, &nonce)
            .header(KIND, kind.as_str())
            .header(NODE, myself.url.as_str())
            .header(VERSION, env!("CARGO_PKG_VERSION"))
            .header(AT_ONCE, myself.at_once)
            .body(Empty::<Bytes>::new())
            .map_err(|_| wrong())?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        if status == StatusCode::SWITCHING_PROTOCOLS {
            // Before anything goes over the link: a stranger would get clients' requests, with their keys.
            let shown = response.headers().get(PROOF).map(HeaderValue::as_bytes);
            let wanted = answer(&myself.token, &nonce);
            if !shown.is_some_and(|shown| constant_time_eq(shown, wanted.as_bytes())) {
                return Err(LinkError::Stranger);
            }
            return Ok(hyper::upgrade::on(response).await?);
        }
        let told = Limited::new(response.into_body(), REFUSAL_BYTES_MAX);
        let told = told
            .collect()
            .await
            .map(http_body_util::Collected::to_bytes);
        let told = told.unwrap_or_default();
        Err(LinkError::Refused(
            status,
            String::from_utf8_lossy(&told).into_owned(),
        ))
    }
}

pub(crate) trait Stream: AsyncRead + AsyncWrite + Send {}
impl<S: AsyncRead + AsyncWrite + Send> Stream for S {}

/// What shows the one at `to` that a node has the master key: nobody else can use it.
pub(crate) fn credentials(token: &Secret, to: &Url, kind: Kind, nonce: &str) -> HeaderValue {
    let text = format!("follower {to} {} {nonce}", kind.as_str());
    sensitive(&format!("Node {}", proof(token, &text).expose()))
}

/// What shows a node that the one that it has asked has the master key.
pub(crate) fn answer(token: &Secret, nonce: &str) -> HeaderValue {
    sensitive(proof(token, &format!("leader {nonce}")).expose())
}

fn sensitive(text: &str) -> HeaderValue {
    let mut value = HeaderValue::try_from(text).expect("words and hex digits are a header's value");
    // A `Debug` of the headers does not show it then.
    value.set_sensitive(true);
    value
}

/// The end of a link that passes requests on, one at a time.
pub(crate) fn passing() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder.max_buf_size(HEADER_BYTES_MAX);
    builder
}

/// The end that answers them.
pub(crate) fn taking() -> hyper::server::conn::http1::Builder {
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE_TIME)
        .max_buf_size(HEADER_BYTES_MAX);
    builder
}

/// The end of a link that sends attempts.
pub(crate) fn sending() -> client::Builder<TokioExecutor> {
    let mut builder = client::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(LINK_WINDOW)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIME)
        // A node that stands still is noticed although no attempt is under way.
        .keep_alive_while_idle(true);
    builder
}

/// The end that makes them, so many at once.
pub(crate) fn answering(at_once: usize) -> server::Builder<TokioExecutor> {
    let mut builder = server::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(u32::try_from(at_once).unwrap_or(u32::MAX))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(LINK_WINDOW)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIME);
    builder
}
