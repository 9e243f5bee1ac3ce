//! A small client of the HTTP API, for the command line and the demo.

mod own;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::{Method, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use postrider_core::Secret;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use url::Url;

/// Bytes of an answer.
const ANSWER_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Time for one call, where nothing else is said.
const TIME_MAX: Duration = Duration::from_secs(60);

/// What may be sent again is sent so often, with pauses that grow from the first to the last.
const TRIES: u32 = 9;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(30);

/// Where the API is, and the key to use.
#[derive(Debug, Clone)]
pub struct Client {
    base: Url,
    key: Secret,
    /// Authorities that may have signed the server's certificate.
    roots: Arc<RootCertStore>,
    /// It is this machine's own, and may have any certificate.
    is_own: bool,
    /// Time for one call.
    time_max: Duration,
}

/// What a server says; null where that is no JSON.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub body: Value,
}

impl Client {
    /// # Errors
    /// When `url` is not an http or https URL.
    pub fn new(url: &str, key: Secret) -> anyhow::Result<Self> {
        let base: Url = url
            .parse()
            .with_context(|| format!("{url:?} is not a URL; give --server or POSTRIDER_URL"))?;
        if !matches!(base.scheme(), "http" | "https") || base.host().is_none() {
            bail!("{url:?} must begin with http:// or https://");
        }
        let roots = RootCertStore {
            roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
        };
        Ok(Self {
            base,
            key,
            roots: Arc::new(roots),
            is_own: false,
            time_max: TIME_MAX,
        })
    }

    /// Takes any certificate: for who asks a server of its own machine, by an address that none names, for what is no
    /// secret. It has no key to lose.
    pub(crate) fn own(url: &str) -> anyhow::Result<Self> {
        let client = Self::new(url, Secret::new(""))?;
        Ok(Self {
            is_own: true,
            ..client
        })
    }

    /// Waits so long for each answer.
    pub(crate) fn within(self, time_max: Duration) -> Self {
        Self { time_max, ..self }
    }

    /// Trusts the authorities of a PEM file instead of those of the web.
    ///
    /// # Errors
    /// When it cannot be read, or holds none.
    pub fn trusting(self, authorities: &Path) -> anyhow::Result<Self> {
        let unusable = || format!("{} cannot be used", authorities.display());
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(authorities).with_context(unusable)? {
            let added = roots.add(certificate.with_context(unusable)?);
            added.with_context(unusable)?;
        }
        if roots.is_empty() {
            bail!("{} holds no certificate", authorities.display());
        }
        Ok(Self {
            roots: Arc::new(roots),
            ..self
        })
    }

    /// Joins what a user gave into a path, each part by itself: an id cannot lead elsewhere.
    ///
    /// # Errors
    /// When a part is empty or a step of a path.
    pub fn path(parts: &[&str]) -> anyhow::Result<String> {
        let mut path = String::from("/v1");
        for part in parts {
            // Joined to the base, `..` would be a step up, to another route.
            if part.is_empty() || part.chars().all(|c| c == '.') {
                bail!("{part:?} is not an id");
            }
            path.push('/');
            path.extend(url::form_urlencoded::byte_serialize(part.as_bytes()));
        }
        Ok(path)
    }

    pub async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.call(Method::GET, path, None).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        self.call(Method::POST, path, Some(body.to_string())).await
    }

    pub async fn patch(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        self.call(Method::PATCH, path, Some(body.to_string())).await
    }

    pub async fn delete(&self, path: &str) -> anyhow::Result<Value> {
        self.call(Method::DELETE, path, None).await
    }

    /// Calls the API; the body is sent as it is.
    ///
    /// # Errors
    /// When the server cannot be reached, or refuses: with its detail.
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<String>,
    ) -> anyhow::Result<Value> {
        let (status, bytes) = self.exchanged(method, path, body).await?;
        self.read(path, status, &bytes)
    }

    /// As [`Client::call`], for what the server takes once however often it comes: sent again while there is no answer that
    /// can be read, or one that passes. `told` gets the reason, before the first pause.
    ///
    /// # Errors
    /// As [`Client::call`], of the last try.
    pub async fn call_until_final(
        &self,
        method: Method,
        path: &str,
        body: Option<String>,
        told: impl Fn(&anyhow::Error),
    ) -> anyhow::Result<Value> {
        let mut pause = FIRST_PAUSE;
        for number in 1..TRIES {
            let sent = self.exchanged(method.clone(), path, body.clone()).await;
            let answer = sent.map(|(status, bytes)| {
                let is_final = !status.is_success() && !passes(status);
                (is_final, self.read(path, status, &bytes))
            });
            let error = match answer {
                Ok((true, answer) | (false, answer @ Ok(_))) => return answer,
                Ok((false, Err(error))) | Err(error) => error,
            };
            if number == 1 {
                told(&error);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LAST_PAUSE);
        }
        self.call(method, path, body).await
    }

    fn read(&self, path: &str, status: StatusCode, bytes: &[u8]) -> anyhow::Result<Value> {
        if !status.is_success() {
            let body = serde_json::from_slice(bytes).unwrap_or(Value::Null);
            return Err(refused(status, &body));
        }
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(bytes).with_context(|| {
            format!(
                "{path} was answered with something that is no JSON, or has numbers that do not fit: is {} a Postrider server?",
                self.base
            )
        })
    }

    /// As [`Client::call`], but a refusal is an answer too.
    ///
    /// # Errors
    /// When the server cannot be reached.
    pub async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<String>,
    ) -> anyhow::Result<Answer> {
        let (status, bytes) = self.exchanged(method, path, body).await?;
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        Ok(Answer { status, body })
    }

    /// What a path has that is no JSON.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn text(&self, path: &str) -> anyhow::Result<String> {
        let (status, bytes) = self.exchanged(Method::GET, path, None).await?;
        if !status.is_success() {
            let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
            return Err(refused(status, &body));
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    async fn exchanged(
        &self,
        method: Method,
        path: &str,
        body: Option<String>,
    ) -> anyhow::Result<(StatusCode, Bytes)> {
        let target = self.base.join(path)?;
        let mut request = http::Request::builder()
            .method(method)
            .uri(&target[url::Position::BeforePath..])
            .header(
                header::HOST,
                &target[url::Position::BeforeHost..url::Position::AfterPort],
            )
            .header(
                header::AUTHORIZATION,
                format!("Bearer {}", self.key.expose()),
            );
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let request = request.body(Full::new(Bytes::from(body.unwrap_or_default())))?;
        let sent = tokio::time::timeout(self.time_max, self.send(&target, request)).await;
        sent.map_err(|_| {
            anyhow::anyhow!(
                "no answer from {} within {} s",
                self.base,
                self.time_max.as_secs()
            )
        })?
    }

    /// One request on a connection of its own.
    pub(crate) async fn send(
        &self,
        target: &Url,
        request: http::Request<Full<Bytes>>,
    ) -> anyhow::Result<(StatusCode, Bytes)> {
        let host = target
            .host_str()
            .unwrap_or_default()
            .trim_matches(['[', ']'])
            .to_owned();
        // `new` takes schemes only that have a port.
        let port = target.port_or_known_default().unwrap_or(80);
        let stream = TcpStream::connect((host.as_str(), port))
            .await
            .with_context(|| format!("no server answers at {}; is `postrider serve` running? (--server or POSTRIDER_URL)", self.base))?;
        if target.scheme() == "http" {
            return exchange(stream, request).await;
        }
        let config = rustls::ClientConfig::builder();
        let config = if self.is_own {
            config
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(own::Own))
        } else {
            config.with_root_certificates(self.roots.clone())
        };
        let config = config.with_no_client_auth();
        let name = ServerName::try_from(host)?;
        let stream = tokio_rustls::TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
            .map_err(|error| self.unshaken(&error))?;
        exchange(stream, request).await
    }
}

impl Client {
    /// What to do about a handshake that failed.
    fn unshaken(&self, error: &std::io::Error) -> anyhow::Error {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
        let advice = match inner {
            Some(rustls::Error::InvalidCertificate(_)) => {
                "name its authority with --ca or POSTRIDER_CA, and the server as its certificate does"
            }
            _ => {
                "without server.tls, and without a proxy in front, it speaks plain HTTP: use http://"
            }
        };
        anyhow::anyhow!("no TLS with {}: {error}; {advice}", self.base)
    }
}

async fn exchange<S>(
    stream: S,
    request: http::Request<Full<Bytes>>,
) -> anyhow::Result<(StatusCode, Bytes)>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    #[expect(
        clippy::disallowed_methods,
        reason = "the connection ends with its one request"
    )]
    tokio::spawn(async move { drop(connection.await) });
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX);
    let body = body.collect().await.map_err(|error| {
        anyhow::anyhow!("the answer broke off, or has more than {ANSWER_BYTES_MAX} bytes: {error}")
    })?;
    Ok((status, body.to_bytes()))
}

/// Whether a server that answers so may answer otherwise in a moment.
fn passes(status: StatusCode) -> bool {
    status.is_server_error()
        || [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS].contains(&status)
}

/// What a server refused, and why.
fn refused(status: StatusCode, body: &Value) -> anyhow::Error {
    let text = |name: &str| body.get(name).and_then(Value::as_str).unwrap_or_default();
    let field = match text("field") {
        "" => String::new(),
        field => format!("{field} "),
    };
    let title = match text("title") {
        "" => "Refused",
        title => title,
    };
    anyhow::anyhow!("{title} ({status}): {field}{}", text("detail"))
}
