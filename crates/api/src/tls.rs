//! TLS of the listener: a certificate from files, replaced while connections go on.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// The first byte of a handshake (RFC 8446 5.1).
const HANDSHAKE: u8 = 22;
/// For whoever asks in plain HTTP.
const SPEAKS_TLS: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\ncontent-length: 47\r\n\
connection: close\r\n\r\nThis port speaks TLS: ask for it with https://\n";

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: {why}", path.display())]
pub struct CertificateError {
    path: PathBuf,
    why: String,
}

/// What a server shows its clients to prove who it is.
#[derive(Debug, Clone)]
pub struct Certificate(Arc<CertifiedKey>);

impl Certificate {
    /// Reads PEM files: the certificate with those that lead to its authority, and its private key.
    ///
    /// # Errors
    /// When a file cannot be read, holds something else, or the two do not belong together.
    pub fn read(chain: &Path, key: &Path) -> Result<Self, CertificateError> {
        let fail = |path: &Path, why: String| CertificateError {
            path: path.to_owned(),
            why,
        };
        let certificates = CertificateDer::pem_file_iter(chain).and_then(Iterator::collect);
        let certificates: Vec<_> = certificates.map_err(|error| fail(chain, error.to_string()))?;
        if certificates.is_empty() {
            return Err(fail(chain, "it holds no certificate".to_owned()));
        }
        let private = PrivateKeyDer::from_pem_file(key);
        let private = private.map_err(|error| fail(key, error.to_string()))?;
        let certified = CertifiedKey::from_der(certificates, private, &provider());
        let certified = certified.map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                fail(key, format!("is not the key of {}", chain.display()))
            }
            error => fail(chain, error.to_string()),
        })?;
        Ok(Self(Arc::new(certified)))
    }
}

/// TLS of a listener.
#[derive(Debug, Clone)]
pub struct Tls {
    shown: Arc<Shown>,
    config: Arc<ServerConfig>,
}

/// The certificate that the next client is shown.
#[derive(Debug)]
struct Shown(RwLock<Certificate>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // Poisoned or not, what is there is whole: nothing else is done under this lock.
        let shown = self.0.read().unwrap_or_else(PoisonError::into_inner);
        Some(shown.0.clone())
    }
}

impl Tls {
    /// # Errors
    /// When the cryptography knows none of the protocol's versions.
    pub fn new(certificate: Certificate) -> Result<Self, rustls::Error> {
        let shown = Arc::new(Shown(RwLock::new(certificate)));
        let mut config = ServerConfig::builder_with_provider(Arc::new(provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(shown.clone());
        // All that the connection speaks: a client that prefers HTTP/2 must not begin with it.
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self {
            shown,
            config: Arc::new(config),
        })
    }

    /// Shows this one from now on; connections that are open stay.
    pub fn replace(&self, certificate: Certificate) {
        *self.shown.0.write().unwrap_or_else(PoisonError::into_inner) = certificate;
    }

    /// A client's connection, if it is one of TLS and becomes one within `time`.
    pub(crate) async fn accept(
        &self,
        stream: TcpStream,
        time: Duration,
    ) -> Option<TlsStream<TcpStream>> {
        // Around the first byte too: who connects and says nothing holds a connection no longer.
        let shaken = tokio::time::timeout(time, self.shake(stream)).await;
        shaken.ok().flatten()
    }

    async fn shake(&self, mut stream: TcpStream) -> Option<TlsStream<TcpStream>> {
        let mut first = [0];
        stream.peek(&mut first).await.ok()?;
        if first[0] != HANDSHAKE {
            drop(stream.write_all(SPEAKS_TLS).await);
            drop(stream.shutdown().await);
            return None;
        }
        TlsAcceptor::from(self.config.clone())
            .accept(stream)
            .await
            .ok()
    }
}

fn provider() -> CryptoProvider {
    aws_lc_rs::default_provider()
}
