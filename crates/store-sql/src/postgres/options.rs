//! Where a database is, and how to get in.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio::sync::Notify;
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::OpenError;

/// How long one address may take to answer, unless the URL says it.
const CONNECT_TIME: Duration = Duration::from_secs(1);
/// How long a host may take until a connection is ready.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(3);
const KEEPALIVE_IDLE: Duration = Duration::from_secs(5);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
const KEEPALIVE_RETRIES: u32 = 3;
/// How long what was sent may be on its way.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(10);

/// A PostgreSQL database to keep everything in.
#[derive(Clone, Default)]
pub struct PostgresOptions {
    /// `postgres://user@host/database`, or the words of libpq; `sslmode=require` and the like are understood.
    pub url: String,
    /// A file that holds the password alone; otherwise it is the URL's.
    pub password_file: Option<PathBuf>,
    /// Certificates in PEM that the server's must be signed by; otherwise those of the web.
    pub ca_file: Option<PathBuf>,
    /// A random number for a new store; a store that exists keeps its own.
    pub salt: u64,
    pub segments: crate::Segments,
    /// Where other nodes reach this one while it owns the database.
    pub node_url: Option<String>,
    /// Refuses a database that acknowledges what no standby has.
    pub require_sync_standby: bool,
    /// A server is to run on it: `postrider.publish()` works again after an export.
    pub serves: bool,
    /// Refuses a database that has no store yet, instead of making one.
    pub must_exist: bool,
    /// Asked of a sealed secret and whose it is before the database is taken: a server that cannot open what is stored must
    /// not take the place of one that can.
    pub opens: Option<Opens>,
}

/// Whether a tenant's sealed secret can be opened.
pub type Opens = Arc<dyn Fn(&[u8], u128) -> bool + Send + Sync>;

impl std::fmt::Debug for PostgresOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The URL may have a password.
        f.debug_struct("PostgresOptions")
            .field("segments", &self.segments)
            .finish_non_exhaustive()
    }
}

impl PostgresOptions {
    /// Looks at everything that can be wrong with them without a database.
    ///
    /// # Errors
    /// When the URL is none, or a file that they name cannot be used.
    pub fn check(&self) -> Result<(), OpenError> {
        Target::new(self).map(drop)
    }
}

/// How a connection is made.
#[derive(Clone)]
pub(super) struct Target {
    config: tokio_postgres::Config,
    /// Read for each connection: passwords are replaced while servers run.
    password_file: Option<PathBuf>,
    pub(super) tls: MakeRustlsConnect,
    /// How long it may take to be ready, whichever of its hosts answers.
    pub(super) time_max: Duration,
    /// For messages, without the password.
    pub(super) name: Arc<str>,
    pub(super) given_up: Arc<GivenUp>,
}

/// Told when no answer comes any more on the connections that there are.
#[derive(Debug, Default)]
pub(super) struct GivenUp {
    /// How often that was. What waits for nothing just now sees by it that its connection is older.
    times: AtomicU64,
    told: Notify,
}

impl GivenUp {
    pub(super) fn times(&self) -> u64 {
        self.times.load(Ordering::Acquire)
    }

    pub(super) fn tell(&self) {
        self.times.fetch_add(1, Ordering::AcqRel);
        self.told.notify_waiters();
    }

    /// Waits until it is told; at once where it was since `times`.
    pub(super) async fn since(&self, times: u64) {
        // Before the look, so that nothing is told in between.
        let told = self.told.notified();
        if self.times() == times {
            told.await;
        }
    }
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Target").field(&self.name).finish()
    }
}

impl Target {
    pub(super) fn new(options: &PostgresOptions) -> Result<Self, OpenError> {
        let wrong = |what: String| OpenError::Url { what };
        let mut config: tokio_postgres::Config = options
            .url
            .parse()
            .map_err(|error: tokio_postgres::Error| wrong(super::session::text_of(&error)))?;
        let io = |path: &PathBuf| {
            let path = path.clone();
            move |source| OpenError::Io { path, source }
        };
        if let Some(path) = &options.password_file {
            // Whether it can be read is better known now than when it is needed.
            password_in(path).map_err(io(path))?;
        }
        if config.get_dbname().is_none() {
            return Err(wrong("it names no database".to_owned()));
        }
        config.application_name("postrider");
        // A replica has locks of its own, and takes no writes.
        config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT_TIME);
        }
        // It would be the end of a password, and messages name the host.
        let mut hosts = config.get_hosts().iter();
        if hosts.any(|host| matches!(host, Host::Tcp(name) if name.contains('@'))) {
            return Err(wrong(
                "its host has an @: write %40 for one in the password, or use store.password_file"
                    .to_owned(),
            ));
        }
        let hosts = u32::try_from(config.get_hosts().len()).unwrap_or(u32::MAX);
        let time_max = CONNECT_TIME_MAX.saturating_mul(hosts.max(1));
        // A database that vanishes without a word is noticed after about ten seconds.
        config
            .keepalives_idle(KEEPALIVE_IDLE)
            .keepalives_interval(KEEPALIVE_INTERVAL)
            .keepalives_retries(KEEPALIVE_RETRIES)
            .tcp_user_timeout(UNACKNOWLEDGED_MAX);
        let mut roots = rustls::RootCertStore::empty();
        match &options.ca_file {
            Some(path) => {
                let pem = std::fs::read(path).map_err(io(path))?;
                for certificate in CertificateDer::pem_slice_iter(&pem) {
                    let certificate = certificate
                        .map_err(|error| wrong(format!("{}: {error}", path.display())))?;
                    roots
                        .add(certificate)
                        .map_err(|error| wrong(format!("{}: {error}", path.display())))?;
                }
                if roots.is_empty() {
                    return Err(wrong(format!("{} has no certificate", path.display())));
                }
                // Whoever names whom to trust does not want to go on in the clear.
                config.ssl_mode(SslMode::Require);
            }
            None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| wrong(error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = name_of(&config).into();
        Ok(Self {
            config,
            password_file: options.password_file.clone(),
            tls: MakeRustlsConnect::new(tls),
            time_max,
            name,
            given_up: Arc::default(),
        })
    }
}

impl Target {
    /// How to get in now.
    ///
    /// # Errors
    /// When the password's file cannot be read.
    pub(super) fn config(&self) -> std::io::Result<tokio_postgres::Config> {
        let mut config = self.config.clone();
        if let Some(path) = &self.password_file {
            config.password(password_in(path)?);
        }
        Ok(config)
    }
}

/// The password that a file holds.
fn password_in(path: &Path) -> std::io::Result<String> {
    let text = std::fs::read_to_string(path)?;
    // An editor ends the file with a line break.
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

fn name_of(config: &tokio_postgres::Config) -> String {
    let host = match config.get_hosts().first() {
        Some(Host::Tcp(host)) => host.clone(),
        #[cfg(unix)]
        Some(Host::Unix(path)) => path.display().to_string(),
        None => "localhost".to_owned(),
    };
    format!("{} at {host}", config.get_dbname().unwrap_or_default())
}
