//! What a server is made of, made from its configuration.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use anyhow::Context as _;
use http::HeaderValue;
use postrider_api::{
    Api, ApiOptions, Exposition, Listener, RequestLimits, Router, ServerLimits, Tls,
};
use postrider_core::address::AddressPolicy;
use postrider_core::notice::Confirmation;
use postrider_core::profile::Profile;
use postrider_core::seal::Sealer;
use postrider_core::tenant::TENANT_SECRET_CONTEXT;
use postrider_core::{Secret, Timestamp};
use postrider_engine::machine::MachineLimits;
use postrider_engine::{Clock, Engine, ProfileRegistry, SystemClock, Transport};
use postrider_notify::{Mailer, SmtpOptions, SmtpTls};
use postrider_pages::{Pages, PagesOptions};
use postrider_service::budget::Grant;
use postrider_service::{Lookup, Names, RegionInfo, Service, ensure_root_key, origin};
use postrider_store::{PageRequest, Store, StoreError, TenantFilter};
use postrider_store_sql::SqlStore;
use postrider_transport::{HttpTransport, Region, SystemResolver};
use tokio::sync::mpsc;

use super::node::Turn;
use super::traces::Traces;
use crate::config::{Config, EgressConfig, NotificationsConfig, RegionConfig, SmtpTlsConfig};
use crate::descriptors::Shares;
use crate::{master_key, profiles};

/// Questions to mail addresses on their way to the mailer; the API bounds them before.
const CONFIRMATIONS_MAX: usize = 1_024;
/// Applications looked through for something that the master key must open.
const PROBED: usize = 100;

/// Looks names up as deliveries do.
struct SystemNames(SystemResolver);

#[async_trait::async_trait]
impl Lookup for SystemNames {
    async fn addresses(&self, host: &str) -> Vec<std::net::IpAddr> {
        use postrider_transport::Resolve as _;
        self.0.resolve(host).await.unwrap_or_default()
    }
}

/// The store, and what opens the secrets in it.
pub(super) struct Opened {
    pub(super) sql: Arc<SqlStore>,
    pub(super) store: Arc<dyn Store>,
    pub(super) sealer: Arc<Sealer>,
}

impl Opened {
    pub(super) async fn open(config: &Config, turn: &mut Turn<'_>) -> anyhow::Result<Self> {
        let directory = &config.store.directory;
        let options = postrider_store_sql::Options {
            max_bytes: config.store.max_bytes,
            salt: fastrand::u64(..),
            new_store: config.store.new_store,
            ..postrider_store_sql::Options::default()
        };
        let sql = Arc::new(match config.store.postgres() {
            Some(options) => {
                make_private(directory)?;
                turn.take_over(options).await?
            }
            None => SqlStore::open(directory, &options)?,
        });
        let store: Arc<dyn Store> = sql.clone();
        let key_file = master_key::file(config);
        // One that does not read is one.
        let has_some = match store.list_applications(PageRequest::first(1)).await {
            Err(StoreError::Corrupt { .. }) => true,
            applications => !applications?.rows.is_empty(),
        };
        let sealer = Arc::new(master_key::sealer(
            &key_file,
            &config.secrets.previous_key_files,
            // Nothing is sealed before there is an application.
            !has_some,
        )?);
        must_open(&*store, &sealer, &key_file).await?;
        Ok(Self { sql, store, sealer })
    }
}

/// Makes the directory for the master key, where the database is elsewhere.
fn make_private(directory: &Path) -> anyhow::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    let made = builder.create(directory);
    made.with_context(|| format!("failed to create {}", directory.display()))
}

/// So long after its last sign of life an owner may send: less than others wait before they take its place.
const OWNED_FOR: Duration = Duration::from_secs(10);

/// Ends when another server has taken over the database.
pub(super) async fn owned(store: Arc<SqlStore>, engine: Arc<Engine>) {
    let owned = |at| engine.owned(at, OWNED_FOR);
    store.lost(|| engine.now(), owned).await;
    // What falls due until the process has ended is the next owner's.
    engine.owned(engine.now(), Duration::ZERO);
    tracing::error!("this server does not own its database any more");
}

/// What the parts of a server are made of: all that a configuration can have wrong was found when there is one.
pub(super) struct Prepared {
    pub(super) profiles: Arc<ProfileRegistry>,
    pub(super) transport: Arc<HttpTransport>,
    pub(super) limits: MachineLimits,
    pub(super) shares: Shares,
    pub(super) mailer: Option<Mailer>,
    /// Where the service's questions to mail addresses come out.
    pub(super) questions: mpsc::Receiver<(Confirmation, Grant)>,
    pub(super) service: postrider_service::Options,
    pub(super) damaged: Arc<AtomicU64>,
    pub(super) traces: Traces,
}

impl Prepared {
    pub(super) async fn new(config: &Config, opened: &Opened) -> anyhow::Result<Self> {
        let profiles = ProfileRegistry::load(&*opened.store, own_profiles(config)?).await;
        let profiles = Arc::new(profiles.context(
            "the profiles cannot be used; where what is stored of them is damaged, `postrider doctor` tells what, and `postrider restore` puts a backup in its place",
        )?);
        let addresses = addresses(config);
        let transport = Arc::new(transport(config, addresses.clone())?);
        let shares = Shares::of(config);
        let limits = MachineLimits {
            in_flight_max: shares.in_flight,
            lane_in_flight_max: config.limits.endpoint_in_flight,
            memory_max: config.limits.memory_bytes,
            ..MachineLimits::default()
        };
        let mailer = mailer(&config.notifications)?;
        let (asking, questions) = mpsc::channel(CONFIRMATIONS_MAX);
        let damaged = Arc::new(AtomicU64::new(0));
        let service = postrider_service::Options {
            addresses,
            names: Names(Some(Arc::new(SystemNames(SystemResolver::new()?)))),
            plain_http: config.egress.plain_http,
            regions: region_infos(&config.egress),
            default_region: default_region(&config.egress)?,
            damaged: damaged.clone(),
            mail: mailer.is_some(),
            is_mail_address: postrider_notify::is_mail_address,
            confirmations: mailer.is_some().then_some(asking),
            retention: config.retention.rule(),
            catcher: config.pages.enabled && config.pages.catcher,
            nodes: None,
        };
        Ok(Self {
            profiles,
            transport,
            limits,
            shares,
            mailer,
            questions,
            service,
            damaged,
            traces: Traces::new(config)?,
        })
    }
}

impl Prepared {
    /// What the engine is made of.
    pub(super) fn engine(
        &self,
        opened: &Opened,
        transport: Arc<dyn Transport>,
        clock: Arc<dyn Clock>,
        counted_tenants: usize,
    ) -> postrider_engine::Options {
        postrider_engine::Options {
            store: opened.store.clone(),
            transport,
            clock,
            profiles: self.profiles.clone(),
            sealer: opened.sealer.clone(),
            limits: self.limits,
            counted_tenants,
            tracer: self.traces.tracer(),
        }
    }
}

/// Finds what a configuration has wrong of the parts that need no store.
pub(super) async fn usable(config: &Config) -> anyhow::Result<()> {
    drop(mailer(&config.notifications)?);
    drop(own_profiles(config)?);
    drop(root_key_target(config)?);
    default_region(&config.egress)?;
    // Bound, and given back at once: only who leads serves it.
    drop(collectors(config).await?);
    Ok(())
}

/// What would keep a server from starting, of all that is made of the configuration alone: each as its own sentence.
pub(crate) fn unusable(config: &Config) -> Vec<String> {
    let tries = [
        transport(config, addresses(config)).map(drop),
        mailer(&config.notifications).map(drop),
        own_profiles(config).map(drop),
        super::node::check(config),
        super::cells::check(config),
    ];
    // Which addresses a machine has says nothing of a configuration, which may be another machine's.
    let of_machine = |error: &anyhow::Error| {
        let found = error.downcast_ref();
        matches!(found, Some(postrider_transport::SetupError::Bind { .. }))
    };
    let wrong = tries.into_iter().filter_map(Result::err);
    wrong
        .filter(|error| !of_machine(error))
        .map(|error| format!("{error:#}"))
        .collect()
}

/// Which addresses attempts go to.
pub(crate) fn addresses(config: &Config) -> AddressPolicy {
    AddressPolicy::new(config.egress.allow.clone())
        .denying(config.egress.deny.clone())
        .with_ports(config.egress.ports.clone())
        .with_nat64(config.egress.nat64.clone())
}

/// The operator's own profiles.
fn own_profiles(config: &Config) -> anyhow::Result<Vec<Profile>> {
    let directory = config.profiles.directory.as_deref();
    let own = directory.map_or_else(|| Ok(Vec::new()), profiles::read_directory)?;
    for profile in own.iter().filter(|own| is_built_in(&own.name)) {
        tracing::warn!(
            profile = profile.name,
            "a profile of yours replaces the built-in one of its name"
        );
    }
    Ok(own)
}

pub(super) fn api_options(config: &Config) -> ApiOptions {
    ApiOptions {
        trusted_proxies: config.server.trusted_proxies.clone(),
        public_url: config.server.public_url.clone(),
        cors_origins: config
            .server
            .cors_origins
            .iter()
            .filter_map(|given| HeaderValue::from_str(&origin(given)?).ok())
            .collect(),
        requests: RequestLimits {
            application: config.limits.application_requests,
            tenant: config.limits.tenant_requests,
        },
        slow: Duration::from_millis(config.log.slow_ms),
        tls: config.server.tls.is_some(),
        body_max: config.limits.body_bytes,
        keep_alive: Duration::from_secs(config.server.keep_alive_secs),
        bodies_bytes_max: config.limits.bodies_bytes,
        answers_bytes_max: config.limits.answers_bytes,
        ..ApiOptions::default()
    }
}

/// Connections at once of those who collect metrics.
const COLLECTORS_MAX: usize = 16;

/// Where the server listens.
pub(super) struct Sockets {
    pub(super) api: Listener,
    /// What its clients are shown, if it speaks TLS.
    pub(super) tls: Option<Tls>,
}

impl Sockets {
    pub(super) async fn open(config: &Config, connections: usize) -> anyhow::Result<Self> {
        let tls = match &config.server.tls {
            Some(tls) => Some(Tls::new(tls.read()?)?),
            None => None,
        };
        let api = listen(config, config.server.listen, connections, "--listen").await?;
        Ok(Self {
            api: api.with_tls(tls.clone()),
            tls,
        })
    }
}

/// Where metrics are served without a key, if they are.
pub(super) async fn collectors(config: &Config) -> anyhow::Result<Option<Listener>> {
    Ok(match config.metrics.listen {
        Some(address) => Some(listen(config, address, COLLECTORS_MAX, "metrics.listen").await?),
        None => None,
    })
}

async fn listen(
    config: &Config,
    address: SocketAddr,
    connections_max: usize,
    setting: &str,
) -> anyhow::Result<Listener> {
    let limits = ServerLimits {
        connections_max,
        idle_timeout: Duration::from_secs(config.server.keep_alive_secs),
        ..ServerLimits::default()
    };
    let bound = Listener::bind(address, limits).await;
    let bound = bound.with_context(|| {
        format!("failed to listen on {address}; choose another address with {setting}")
    })?;
    Ok(bound.with_proxies(&config.server.trusted_proxies))
}

/// All that is served at the API's port.
pub(super) fn router(
    config: &Config,
    service: &Service,
    api: &Api,
    metrics: Arc<dyn Exposition>,
) -> Router {
    match pages(config, service) {
        Some(pages) => postrider_pages::dress(api.router(Some(pages.router()), metrics)),
        None => api.router(None, metrics),
    }
}

/// The directory whose disk the store fills.
pub(super) fn disk(config: &Config) -> Option<PathBuf> {
    let here = config.store.url.is_none();
    here.then(|| config.store.directory.clone())
}

/// The root key, if this start makes it and nobody else keeps it.
pub(super) async fn first_root_key(
    store: &dyn Store,
    now: Timestamp,
    target: Option<std::fs::File>,
) -> anyhow::Result<Option<Secret>> {
    let key = ensure_root_key(store, now).await?;
    let (Some(key), Some(mut file)) = (&key, target) else {
        return Ok(key);
    };
    // The key of a store that was here before, if there is one, is of no use here.
    file.set_len(0)
        .and_then(|()| std::io::Write::write_all(&mut file, key.expose().as_bytes()))
        .and_then(|()| file.sync_all())
        .context("failed to write server.root_key_file; `postrider root-key` makes another key while the server is stopped")?;
    Ok(None)
}

/// The pages, as far as they are wanted.
fn pages(config: &Config, service: &Service) -> Option<Pages> {
    if !config.pages.enabled {
        return None;
    }
    let options = PagesOptions {
        plain_http: config.pages.plain_http,
        // By what people type: a proxy in between asks in plain HTTP.
        https: config
            .server
            .public_url
            .as_ref()
            .map_or(config.server.tls.is_some(), |url| {
                url.starts_with("https://")
            }),
        public_url: config.server.public_url.clone(),
    };
    Some(Pages::new(service.clone(), options))
}

/// A link that opens the console once, as whoever has the root key, if this start made it and there are pages.
pub(super) async fn first_console_link(
    config: &Config,
    service: &Service,
    root_key: Option<&Secret>,
    url: &str,
) -> anyhow::Result<Option<Secret>> {
    let Some(key) = root_key.filter(|_| config.pages.enabled) else {
        return Ok(None);
    };
    let own = config.server.public_url.clone();
    let base = own.as_deref().unwrap_or(url);
    let who = service.admit(service.prove(key.expose(), None).await?, None)?;
    Ok(Some(service.console_link(&who).await?.at(base)))
}

fn is_built_in(name: &str) -> bool {
    postrider_core::profile::BUILT_IN
        .iter()
        .any(|(known, _)| *known == name)
}

/// Refuses a master key that does not open what the store has: with it every delivery would fail.
async fn must_open(store: &dyn Store, sealer: &Sealer, key_file: &Path) -> anyhow::Result<()> {
    let applications = match store.list_applications(PageRequest::first(PROBED)).await {
        Err(error @ StoreError::Corrupt { .. }) => {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "an application cannot be read; whether the master key is the right one shows when it is used"
            );
            return Ok(());
        }
        applications => applications?.rows,
    };
    let mut refused = Ok(());
    for application in applications {
        let listed = store.list_tenants(TenantFilter::of(application.id), PageRequest::first(1));
        // One damaged row must not keep the server from starting for all others.
        let Ok(tenants) = listed.await else { continue };
        let Some(tenant) = tenants.rows.first() else {
            continue;
        };
        let opened = sealer.open(
            &tenant.live_secret.sealed,
            TENANT_SECRET_CONTEXT,
            tenant.id.as_u128(),
        );
        refused = opened.map(drop).with_context(|| {
            let file = key_file.display();
            format!("{file} is not the master key of this store; put the right one back, or name it in secrets.previous_key_files")
        });
        // One is enough: all are sealed with this key or one of those before it. One that does not open may be damaged.
        if refused.is_ok() {
            break;
        }
    }
    refused
}

pub(crate) fn transport(
    config: &Config,
    addresses: AddressPolicy,
) -> anyhow::Result<HttpTransport> {
    let proxy = match &config.egress.proxy {
        None => None,
        Some(text) => Some(
            text.parse()
                .context("egress.proxy is not a URL such as http://proxy:3128")?,
        ),
    };
    let resolver =
        SystemResolver::new().context("failed to read this machine's name server configuration")?;
    Ok(HttpTransport::new(postrider_transport::Options {
        addresses,
        resolver: Arc::new(resolver),
        extra_ca: config.egress.extra_ca.clone(),
        regions: regions(&config.egress)?,
        default_region: default_region(&config.egress)?.map(Arc::from),
        proxy,
        clock: Arc::new(SystemClock),
    })?)
}

/// The regions with this machine's addresses.
fn regions(egress: &EgressConfig) -> anyhow::Result<Vec<Region>> {
    if egress.regions.is_empty() {
        let bind = egress.bind.clone();
        return Ok(vec![Region { name: None, bind }]);
    }
    anyhow::ensure!(
        egress.bind.is_empty(),
        "egress.bind does not go with egress.regions: give each region its own bind"
    );
    let mut regions: Vec<Region> = Vec::new();
    for region in &egress.regions {
        let name: Arc<str> = Arc::from(region.name.as_str());
        let known = regions
            .iter()
            .any(|known| known.name.as_ref() == Some(&name));
        anyhow::ensure!(!known, "egress.regions has {name} twice");
        anyhow::ensure!(
            !region.published.is_empty(),
            "the egress region {name} publishes no address"
        );
        let bind = region.bind.clone();
        regions.push(Region {
            name: Some(name),
            bind: bind.unwrap_or_else(|| region.published.clone()),
        });
    }
    Ok(regions)
}

fn region_infos(egress: &EgressConfig) -> Vec<RegionInfo> {
    let info = |region: &RegionConfig| RegionInfo {
        name: region.name.clone(),
        published: region.published.clone(),
    };
    egress.regions.iter().map(info).collect()
}

fn default_region(egress: &EgressConfig) -> anyhow::Result<Option<String>> {
    let first = egress.regions.first().map(|region| region.name.clone());
    let Some(name) = &egress.default_region else {
        return Ok(first);
    };
    anyhow::ensure!(
        egress.regions.iter().any(|region| region.name == *name),
        "egress.default_region {name:?} is not among egress.regions"
    );
    Ok(Some(name.clone()))
}

/// The mail server, if one is configured.
fn mailer(config: &NotificationsConfig) -> anyhow::Result<Option<Mailer>> {
    let Some(smtp) = &config.smtp else {
        return Ok(None);
    };
    let (tls, port) = match smtp.tls {
        SmtpTlsConfig::Tls => (SmtpTls::Tls, 465),
        SmtpTlsConfig::StartTls => (SmtpTls::StartTls, 587),
        SmtpTlsConfig::None => (SmtpTls::None, 25),
    };
    let password = smtp.password_file.as_ref().map(|path| {
        let text = std::fs::read_to_string(path);
        let text = text.with_context(|| format!("failed to read {}", path.display()))?;
        anyhow::Ok(Secret::new(text.trim_end()))
    });
    let login = match (&smtp.username, password.transpose()?) {
        (Some(name), Some(password)) => Some((name.clone(), password)),
        (None, None) => None,
        _ => anyhow::bail!("notifications.smtp needs both username and password_file, or none"),
    };
    let mailer = Mailer::new(SmtpOptions {
        host: smtp.host.clone(),
        port: smtp.port.unwrap_or(port),
        tls,
        login,
        from: smtp.from.clone(),
    });
    Ok(Some(mailer.context("notifications.smtp cannot be used")?))
}

/// Where the first root key goes, made now: a key that nobody can read would be lost.
pub(super) fn root_key_target(config: &Config) -> anyhow::Result<Option<std::fs::File>> {
    let Some(path) = &config.server.root_key_file else {
        return Ok(None);
    };
    let mut options = std::fs::File::options();
    // Every start opens it and the first one writes: truncated, it would lose the key.
    options.create(true).append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let opened = options.open(path).and_then(|file| {
        // It may have been there, open to others.
        #[cfg(unix)]
        file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        Ok(file)
    });
    let file = opened.map(Some);
    file.with_context(|| format!("failed to write server.root_key_file {}", path.display()))
}
