//! Configuration: defaults, then a TOML file, then `POSTRIDER__SECTION__KEY` variables, then the
//! command line.

mod file;
mod impossible;
mod schema;

use impossible::{impossible, unusable};

pub use schema::schema;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::Context as _;
use ipnet::{IpNet, Ipv6Net};
use postrider_api::Certificate;
use postrider_store_sql::{Options, PostgresOptions, SqlStore};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::cli::ServeArgs;

/// All settings of a server. Every key is optional.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    pub server: ServerConfig,
    pub store: StoreConfig,
    pub nodes: NodesConfig,
    pub cells: CellsConfig,
    pub secrets: SecretsConfig,
    pub egress: EgressConfig,
    pub limits: LimitsConfig,
    pub retention: RetentionConfig,
    pub notifications: NotificationsConfig,
    pub profiles: ProfilesConfig,
    pub pages: PagesConfig,
    pub metrics: MetricsConfig,
    pub telemetry: TelemetryConfig,
    pub log: LogConfig,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ServerConfig {
    /// Where the API listens.
    #[schema(value_type = String)]
    pub listen: SocketAddr,
    /// Where people reach this server, for links in mails and into its pages: `https://hooks.example.com`.
    pub public_url: Option<String>,
    /// Connections at once; fewer where the machine has not that many file descriptors.
    pub connections_max: usize,
    /// Seconds that an idle connection is kept open; more than the proxy in front keeps it.
    pub keep_alive_secs: u64,
    /// File that the first root key is written to; none prints it.
    #[schema(value_type = Option<String>)]
    pub root_key_file: Option<PathBuf>,
    /// Seconds that requests and attempts under way get at a shutdown.
    pub shutdown_secs: u64,
    /// Networks of proxies in front whose `X-Forwarded-For` is believed, for keys with `allowedIps` and for who comes in by name.
    /// They may have all of `connections_max`; any other network has no more than are free.
    #[schema(value_type = Vec<String>)]
    #[serde(deserialize_with = "networks")]
    pub trusted_proxies: Vec<IpNet>,
    /// Origins of web pages whose scripts may call the API, such as `https://app.example.com`; none are.
    pub cors_origins: Vec<String>,
    /// TLS by the server itself; none leaves it to a proxy in front.
    pub tls: Option<TlsConfig>,
}

impl ServerConfig {
    /// Where the API is that listens on `address`: by the name in its certificate, if it has one.
    pub(crate) fn url(&self, mut address: SocketAddr) -> String {
        // All addresses of the machine: none that a browser keeps what lets somebody in for, over plain HTTP.
        if address.ip().is_unspecified() {
            address.set_ip(match address {
                SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
            });
        }
        match (&self.tls, &self.public_url) {
            (Some(_), Some(named)) => named.clone(),
            (Some(_), None) => format!("https://{address}"),
            (None, _) => format!("http://{address}"),
        }
    }
}

/// What the server shows to prove who it is. Both files are read again at a SIGHUP.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// PEM file with the certificate, followed by those that lead to its authority.
    #[schema(value_type = String)]
    pub certificate: PathBuf,
    /// PEM file with the certificate's private key.
    #[schema(value_type = String)]
    pub key: PathBuf,
}

impl TlsConfig {
    pub(crate) fn read(&self) -> anyhow::Result<Certificate> {
        Certificate::read(&self.certificate, &self.key).context("server.tls cannot be used")
    }
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
            public_url: None,
            connections_max: 10_000,
            keep_alive_secs: 75,
            root_key_file: None,
            shutdown_secs: 30,
            trusted_proxies: Vec::new(),
            cors_origins: Vec::new(),
            tls: None,
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct StoreConfig {
    /// Directory of the database and the master key; one process owns it.
    #[schema(value_type = String)]
    pub directory: PathBuf,
    /// Bytes the database may grow to; none is the disk's size.
    pub max_bytes: Option<u64>,
    /// A PostgreSQL database instead of one in the directory: `postgres://user@host/database?sslmode=require`. One server
    /// at a time owns it; others wait and take over.
    pub url: Option<String>,
    /// File with the password for it alone; otherwise it is the URL's.
    #[schema(value_type = Option<String>)]
    pub password_file: Option<PathBuf>,
    /// PEM file with the authorities that may have signed the database's certificate; then the connection is encrypted.
    /// None is those of the web.
    #[schema(value_type = Option<String>)]
    pub ca_file: Option<PathBuf>,
    /// Accepts nothing while the database of `url` acknowledges what no standby has (`synchronous_standby_names` is empty): then a
    /// failover loses nothing that was acknowledged.
    pub require_sync_standby: bool,
    /// Makes a new store in a directory that has remains of an earlier one.
    #[serde(skip)]
    pub new_store: bool,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            directory: PathBuf::from("./postrider-data"),
            max_bytes: None,
            url: None,
            password_file: None,
            ca_file: None,
            require_sync_standby: false,
            new_store: false,
        }
    }
}

impl StoreConfig {
    /// The store of a server that is stopped; it must be there.
    ///
    /// # Errors
    /// When there is none, or a server uses it.
    pub(crate) async fn open_existing(&self) -> anyhow::Result<SqlStore> {
        let must_exist = true;
        Ok(match self.postgres() {
            Some(options) => {
                let options = PostgresOptions {
                    must_exist,
                    ..options
                };
                SqlStore::connect(options).await?
            }
            None => SqlStore::open_existing(&self.directory, &Options::default())?,
        })
    }

    /// The database of a server, if everything is to be kept in one.
    pub(crate) fn postgres(&self) -> Option<PostgresOptions> {
        let url = self.url.clone()?;
        Some(PostgresOptions {
            url,
            password_file: self.password_file.clone(),
            ca_file: self.ca_file.clone(),
            require_sync_standby: self.require_sync_standby,
            salt: fastrand::u64(..),
            ..PostgresOptions::default()
        })
    }
}

/// Several servers with one PostgreSQL database: one leads, the others answer clients and make attempts for it, and take
/// its place when it goes.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct NodesConfig {
    /// Where the other servers reach this one, such as `http://10.0.0.1:8080`: its own `server.listen`, by a network that
    /// is theirs alone, or over `server.tls`. None takes no part, and waits without answering while another one leads.
    pub url: Option<String>,
    /// PEM file with the authorities that may have signed the others' certificates; none is those of the web.
    #[schema(value_type = Option<String>)]
    pub ca_file: Option<PathBuf>,
}

/// One door to several servers, or sets of nodes, that each have a database of their own: a server with these has no store,
/// and passes each request on to the cell that has its key.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CellsConfig {
    /// Where each cell is reached, such as `http://10.0.1.1:8080`; each has this door's address in its
    /// `server.trusted_proxies`.
    pub urls: Vec<String>,
    /// PEM file with the authorities that may have signed their certificates; none is those of the web.
    #[schema(value_type = Option<String>)]
    pub ca_file: Option<PathBuf>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SecretsConfig {
    /// File with the master key (64 hex digits); none is `master.key` in the data directory.
    #[schema(value_type = Option<String>)]
    pub master_key_file: Option<PathBuf>,
    /// Files with master keys that were used before: they open, the first one seals.
    #[schema(value_type = Vec<String>)]
    pub previous_key_files: Vec<PathBuf>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EgressConfig {
    /// Networks that endpoints may be in although they are not public.
    #[schema(value_type = Vec<String>)]
    #[serde(deserialize_with = "networks")]
    pub allow: Vec<IpNet>,
    /// Networks that endpoints may not be in although they are public, or allowed.
    #[schema(value_type = Vec<String>)]
    #[serde(deserialize_with = "networks")]
    pub deny: Vec<IpNet>,
    /// The only ports of endpoints; none is any.
    #[serde(deserialize_with = "one_or_many")]
    pub ports: Vec<u16>,
    /// Prefixes (/96) of this network's translators from IPv6 to IPv4, beside `64:ff9b::/96`.
    #[schema(value_type = Vec<String>)]
    pub nat64: Vec<Ipv6Net>,
    /// Allows plain HTTP endpoints whatever their profile says.
    pub plain_http: bool,
    /// PEM file with certificate authorities trusted besides the public ones.
    #[schema(value_type = Option<String>)]
    pub extra_ca: Option<PathBuf>,
    /// Local addresses that deliveries leave from, in turn; none lets the system choose. Where there
    /// are regions, those say it.
    #[schema(value_type = Vec<String>)]
    pub bind: Vec<IpAddr>,
    /// Regions with the addresses that receivers allow-list.
    pub regions: Vec<RegionConfig>,
    /// The region of tenants that name none; none is the first.
    pub default_region: Option<String>,
    /// HTTP proxy that deliveries are tunnelled through.
    pub proxy: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RegionConfig {
    /// What tenants call it.
    pub name: String,
    /// What the world sees, and `/v1/egress-ips` tells.
    #[schema(value_type = Vec<String>)]
    pub published: Vec<IpAddr>,
    /// This machine's addresses that they stand for, where a gateway translates them; none are the
    /// published ones themselves.
    #[schema(value_type = Option<Vec<String>>)]
    pub bind: Option<Vec<IpAddr>>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct NotificationsConfig {
    /// Seconds between two mails to the same people; what fails meanwhile is one digest.
    pub every_secs: u64,
    /// The mail server; none sends no mail.
    pub smtp: Option<SmtpConfig>,
}

impl Default for NotificationsConfig {
    fn default() -> Self {
        Self {
            every_secs: 300,
            smtp: None,
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SmtpConfig {
    /// Name or address of the mail server.
    pub host: String,
    /// None is 465 for `tls`, 587 for `starttls`, 25 for `none`.
    pub port: Option<u16>,
    /// `tls` from the start, `starttls` (unless this says otherwise), or `none`.
    #[serde(default)]
    pub tls: SmtpTlsConfig,
    /// The sender, such as `Postrider <postrider@example.com>`.
    pub from: String,
    /// The account; goes with `password_file`.
    pub username: Option<String>,
    /// File with the password.
    #[schema(value_type = Option<String>)]
    pub password_file: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum SmtpTlsConfig {
    Tls,
    #[default]
    StartTls,
    /// Never: for a mail server on the same machine.
    None,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// Bytes of a request body.
    pub body_bytes: usize,
    /// Bytes of request bodies in memory, of all requests together.
    pub bodies_bytes: usize,
    /// Bytes of answers that were not taken yet, of all together.
    pub answers_bytes: usize,
    /// Deliveries under way at once.
    pub in_flight: usize,
    /// Deliveries under way at once to one endpoint.
    pub endpoint_in_flight: usize,
    /// Bytes of waiting deliveries held in memory; more wait in the store.
    pub memory_bytes: usize,
    /// Requests a minute of each key of an application; none is any number.
    pub application_requests: Option<u32>,
    /// Requests a minute of each key of a tenant; none is any number. Vignetim's API has its own.
    pub tenant_requests: Option<u32>,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        let machine = postrider_engine::machine::MachineLimits::default();
        Self {
            body_bytes: postrider_core::limits::BODY_BYTES_MAX,
            bodies_bytes: 256 * 1024 * 1024,
            answers_bytes: 256 * 1024 * 1024,
            in_flight: machine.in_flight_max,
            endpoint_in_flight: machine.lane_in_flight_max,
            memory_bytes: machine.memory_max,
            application_requests: None,
            tenant_requests: None,
        }
    }
}

/// How long what has ended is kept. What waits is kept whatever its age.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RetentionConfig {
    /// Days that events, deliveries with their attempts, notifications and replays are kept; 0 is for ever.
    /// Applications may have their own (`settings.retentionDays`).
    pub days: u32,
    /// Days that entries of the audit log are kept; 0 is for ever.
    pub audit_days: u32,
    /// Bytes of all that is stored above which the oldest go earlier, but nothing younger than a day, and nothing of
    /// applications with a time of their own.
    pub max_bytes: Option<u64>,
    /// Seconds between two rounds; the first comes after as many.
    pub every_secs: u64,
}

impl Default for RetentionConfig {
    fn default() -> Self {
        let rule = postrider_service::RetentionRule::default();
        Self {
            days: rule.days,
            audit_days: rule.audit_days,
            max_bytes: rule.max_bytes,
            every_secs: rule.every.as_secs(),
        }
    }
}

impl RetentionConfig {
    pub(crate) fn rule(&self) -> postrider_service::RetentionRule {
        postrider_service::RetentionRule {
            days: self.days,
            audit_days: self.audit_days,
            max_bytes: self.max_bytes,
            every: std::time::Duration::from_secs(self.every_secs.max(1)),
        }
    }
}

#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ProfilesConfig {
    /// Directory with profiles of your own (`*.toml`).
    #[schema(value_type = Option<String>)]
    pub directory: Option<PathBuf>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PagesConfig {
    /// Serves the console at `/` and the portal at `/portal`, on the API's port.
    pub enabled: bool,
    /// Cookies go over plain HTTP too, as on this very machine; people's sessions can be read on the way then.
    pub plain_http: bool,
    /// People without a server of their own can make addresses of this one, which keep what comes to them for a day. On with `--dev`.
    pub catcher: bool,
}

impl Default for PagesConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            plain_http: false,
            catcher: false,
        }
    }
}

#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MetricsConfig {
    /// Where `/metrics` is served to everybody who reaches it, such as `127.0.0.1:9464`; none serves it on the API's port only, to root keys.
    #[schema(value_type = Option<String>)]
    pub listen: Option<SocketAddr>,
    /// Tenants that have counts of their own, the first that come; all others are one.
    pub tenants: usize,
}

/// Traces of OpenTelemetry: each publish, and each attempt that follows from it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TelemetryConfig {
    /// Where a collector takes OTLP over HTTP, such as `http://127.0.0.1:4318`; none sends nothing.
    pub endpoint: Option<String>,
    /// File with headers for the collector, a `name: value` a line.
    #[schema(value_type = Option<String>)]
    pub headers_file: Option<PathBuf>,
    /// PEM file with the authorities that may have signed its certificate; none is those of the web.
    #[schema(value_type = Option<String>)]
    pub ca_file: Option<PathBuf>,
    /// What the collector calls this server.
    pub service_name: String,
    /// What of it is sent: `traces`, `metrics`, `logs`.
    pub signals: Vec<TelemetrySignal>,
    /// Seconds between two times that metrics are sent.
    pub metrics_secs: u64,
    /// Of the traces that begin here, the share that is recorded, from 0 to 1. Publishers that send a `traceparent` have
    /// decided for theirs.
    pub sample: f64,
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self {
            endpoint: None,
            headers_file: None,
            ca_file: None,
            service_name: "postrider".to_owned(),
            signals: vec![
                TelemetrySignal::Traces,
                TelemetrySignal::Metrics,
                TelemetrySignal::Logs,
            ],
            metrics_secs: 60,
            sample: 1.0,
        }
    }
}

/// A kind of what a collector gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum TelemetrySignal {
    Traces,
    Metrics,
    Logs,
}

#[cfg(feature = "otel")]
impl TelemetrySignal {
    /// The last part of its address at a collector.
    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Traces => "traces",
            Self::Metrics => "metrics",
            Self::Logs => "logs",
        }
    }

    /// What they are.
    pub(crate) fn noun(self) -> &'static str {
        match self {
            Self::Traces => "spans",
            Self::Metrics => "metrics",
            Self::Logs => "lines of the log",
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// A level, or a filter such as `postrider=debug,warn`.
    pub level: String,
    /// `text` or `json`.
    pub format: LogFormat,
    /// Milliseconds of a request above which it is told as a warning, with its path, key and id.
    pub slow_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Text,
    Json,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            level: "info".to_owned(),
            format: LogFormat::Text,
            slow_ms: 2_000,
        }
    }
}

/// Loads the configuration for `serve`.
///
/// # Errors
/// When the file cannot be read, or a key or value is unknown; the text names it.
pub fn load(args: &ServeArgs) -> anyhow::Result<Config> {
    let mut config: Config = typed(sources(args)?)?;
    if let Some(listen) = args.listen {
        config.server.listen = listen;
    }
    if let Some(data) = &args.data {
        config.store.directory.clone_from(data);
    }
    if let Some(file) = &args.root_key_file {
        config.server.root_key_file = Some(file.clone());
    }
    // From the command line alone: a file that says so would make a new store at each start.
    config.store.new_store = args.new_store;
    // A variable that is empty is none.
    config.server.public_url = config.server.public_url.filter(|url| !url.is_empty());
    if args.dev {
        config.egress.plain_http = true;
        config.pages.plain_http = true;
        config.pages.catcher = true;
        config
            .egress
            .allow
            .extend(["127.0.0.0/8".parse::<IpNet>()?, "::1/128".parse()?]);
    }
    let wrong = impossible(&config);
    anyhow::ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(config)
}

/// The file and the variables.
fn sources(args: &ServeArgs) -> anyhow::Result<config::Config> {
    let mut sources = config::Config::builder();
    if let Some(path) = &args.config {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the configuration {}", path.display()))?;
        // Read by itself first: the library stops at the first mistake and does not say where it is.
        let mistakes = file::mistakes(&text);
        let told: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
        anyhow::ensure!(
            told.is_empty(),
            "{} has mistakes; docs/configuration.md, or `postrider config schema`, has the keys and their forms:\n  {}",
            path.display(),
            told.join("\n  ")
        );
        sources =
            sources.add_source(config::File::from(path.as_path()).format(config::FileFormat::Toml));
    }
    let mut environment = config::Environment::with_prefix("POSTRIDER")
        .prefix_separator("__")
        .separator("__")
        .try_parsing(true)
        .list_separator(",");
    // Named one by one: otherwise every text with a comma would become a list.
    for list in [
        "cells.urls",
        "egress.allow",
        "egress.deny",
        "egress.ports",
        "egress.nat64",
        "egress.bind",
        "secrets.previous_key_files",
        "server.cors_origins",
        "server.trusted_proxies",
        "telemetry.signals",
    ] {
        environment = environment.with_list_parse_key(list);
    }
    // What is added last wins: the variables are above the file.
    sources
        .add_source(environment)
        .build()
        .context("failed to read the configuration")
}

/// Reads the configuration as `serve` would, and tells all that is wrong with it.
///
/// # Errors
/// As [`load`].
pub fn check(args: &ServeArgs) -> anyhow::Result<()> {
    let config = load(args)?;
    let wrong = unusable(&config);
    anyhow::ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    let path = args.config.as_ref();
    let what = path.map_or("the environment".to_owned(), |path| {
        path.display().to_string()
    });
    crate::output::line(&format!("{what}: no mistakes"));
    Ok(())
}

/// A variable has no types: one number is no list yet, and the parts of a list are texts.
fn one_or_many<'de, D: serde::Deserializer<'de>>(given: D) -> Result<Vec<u16>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Port {
        Number(u16),
        Text(String),
    }
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Given {
        One(Port),
        Many(Vec<Port>),
    }
    let many = match Given::deserialize(given)? {
        Given::One(one) => vec![one],
        Given::Many(many) => many,
    };
    let read = |port| match port {
        Port::Number(number) => Ok(number),
        Port::Text(text) => text.trim().parse().map_err(serde::de::Error::custom),
    };
    many.into_iter().map(read).collect()
}

/// A network, or an address, which is the network that it alone is in.
struct Network(IpNet);

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: serde::Deserializer<'de>>(given: D) -> Result<Self, D::Error> {
        struct Text;

        impl serde::de::Visitor<'_> for Text {
            type Value = Network;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a network, as \"10.0.0.0/8\", or an address")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Network, E> {
                let address = text.trim().parse::<IpAddr>().map(IpNet::from);
                let read = text.trim().parse().or(address).map(Network);
                read.map_err(|_| E::invalid_value(serde::de::Unexpected::Str(text), &self))
            }
        }

        // Refused in there, so that a mistake has its line.
        given.deserialize_str(Text)
    }
}

fn networks<'de, D: serde::Deserializer<'de>>(given: D) -> Result<Vec<IpNet>, D::Error> {
    let given = Vec::<Network>::deserialize(given)?;
    let networks = given.into_iter();
    Ok(networks
        .map(|network| postrider_core::address::as_v4(network.0))
        .collect())
}

fn typed(sources: config::Config) -> anyhow::Result<Config> {
    sources
        .try_deserialize()
        .context("the configuration has a mistake; docs/configuration.md, or `postrider config schema`, has the keys and their forms")
}
