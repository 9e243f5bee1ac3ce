//! `postrider serve`: wiring, start and shutdown.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use anyhow::Context as _;
use postrider_api::{Api, ApiOptions, Listener, ServerLimits};
use postrider_core::Secret;
use postrider_core::address::AddressPolicy;
use postrider_core::seal::Sealer;
use postrider_core::tenant::TENANT_SECRET_CONTEXT;
use postrider_engine::machine::MachineLimits;
use postrider_engine::{Clock, Engine, ProfileRegistry, SystemClock, Watch};
use postrider_notify::{Mailer, Notifier, SmtpOptions, SmtpTls};
use postrider_service::{Lookup, Names, RegionInfo, Service, ensure_root_key};
use postrider_store::{PageRequest, Store};
use postrider_store_sqlite::SqliteStore;
use postrider_transport::{HttpTransport, Region, SystemResolver};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cli::ServeArgs;
use crate::config::{self, Config, EgressConfig, NotificationsConfig, RegionConfig, SmtpTlsConfig};
use crate::log::set_log_level;
use crate::output::tell;
use crate::{descriptors, log, master_key, patrol, profiles};

/// What a shutdown may take after a part of the server has ended.
const FAILED_SHUTDOWN: Duration = Duration::from_secs(5);
/// Questions to mail addresses on their way to the mailer; the API bounds them before.
const CONFIRMATIONS_MAX: usize = 1_024;
/// Applications looked through for something that the master key must open.
const PROBED: usize = 100;

/// A server that accepts and delivers.
pub struct Server {
    pub address: SocketAddr,
    /// The root key, if this start made it.
    pub root_key: Option<Secret>,
    engine: Arc<Engine>,
    store: Arc<dyn Store>,
    profiles: Arc<ProfileRegistry>,
    transport: Arc<HttpTransport>,
    stop: CancellationToken,
    failed: CancellationToken,
    tasks: TaskTracker,
    shutdown: Duration,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Server({})", self.address)
    }
}

type BoxedTask = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

/// Looks names up as deliveries do.
struct SystemNames(SystemResolver);

#[async_trait::async_trait]
impl Lookup for SystemNames {
    async fn addresses(&self, host: &str) -> Vec<std::net::IpAddr> {
        use postrider_transport::Resolve as _;
        self.0.resolve(host).await.unwrap_or_default()
    }
}

impl Server {
    /// Starts a server with the given configuration.
    ///
    /// # Errors
    /// When anything it needs is not there; the text says what to do.
    pub async fn start(config: Config) -> anyhow::Result<Self> {
        let directory = config.store.directory.clone();
        let options = postrider_store_sqlite::Options {
            max_bytes: config.store.max_bytes,
            salt: fastrand::u64(..),
            new_store: config.store.new_store,
        };
        let sqlite = Arc::new(SqliteStore::open(&directory, &options)?);
        let store: Arc<dyn Store> = sqlite.clone();
        let key_file = config
            .secrets
            .master_key_file
            .clone()
            .unwrap_or_else(|| directory.join("master.key"));
        let is_new = store
            .list_applications(PageRequest::first(1))
            .await?
            .rows
            .is_empty();
        let sealer = Arc::new(master_key::sealer(
            &key_file,
            &config.secrets.previous_key_files,
            is_new,
        )?);
        must_open(&*store, &sealer, &key_file).await?;
        let own: Vec<postrider_core::profile::Profile> = config
            .profiles
            .directory
            .as_deref()
            .map_or_else(|| Ok(Vec::new()), profiles::read_directory)?;
        for profile in own.iter().filter(|own| is_built_in(&own.name)) {
            tracing::warn!(
                profile = profile.name,
                "a profile of yours replaces the built-in one of its name"
            );
        }
        let registry = Arc::new(ProfileRegistry::load(&*store, own).await?);
        let addresses = AddressPolicy::new(config.egress.allow.clone())
            .denying(config.egress.deny.clone())
            .with_ports(config.egress.ports.clone())
            .with_nat64(config.egress.nat64.clone());
        let transport = Arc::new(transport(&config, addresses.clone())?);
        let shares = descriptors::share(config.server.connections_max, config.limits.in_flight);
        let limits = MachineLimits {
            in_flight_max: shares.in_flight,
            lane_in_flight_max: config.limits.endpoint_in_flight,
            memory_max: config.limits.memory_bytes,
            ..MachineLimits::default()
        };
        let mailer = mailer(&config.notifications)?;
        let (confirmations, confirmed) = mpsc::channel(CONFIRMATIONS_MAX);
        let damaged = Arc::new(AtomicU64::new(0));
        let service_options = postrider_service::Options {
            damaged: damaged.clone(),
            addresses,
            names: Names(Some(Arc::new(SystemNames(SystemResolver::new()?)))),
            regions: region_infos(&config.egress),
            default_region: default_region(&config.egress)?,
            mail: mailer.is_some(),
            is_mail_address: postrider_notify::is_mail_address,
            confirmations: mailer.is_some().then_some(confirmations),
            plain_http: config.egress.plain_http,
        };
        let api_options = ApiOptions {
            trusted_proxies: config.server.trusted_proxies.clone(),
            body_max: config.limits.body_bytes,
            keep_alive: Duration::from_secs(config.server.keep_alive_secs),
            bodies_bytes_max: config.limits.bodies_bytes,
            answers_bytes_max: config.limits.answers_bytes,
            ..ApiOptions::default()
        };
        let key_target = root_key_target(&config)?;
        let server_limits = ServerLimits {
            connections_max: shares.connections,
            idle_timeout: Duration::from_secs(config.server.keep_alive_secs),
            ..ServerLimits::default()
        };
        let listener = Listener::bind(config.server.listen, server_limits)
            .await
            .with_context(|| {
                format!(
                    "failed to listen on {}; choose another address with --listen",
                    config.server.listen
                )
            })?;
        let address = listener.address()?;
        // All that can be wrong was found by now: a server that cannot serve does not deliver either.
        let clock = Arc::new(SystemClock);
        let engine = Engine::start(postrider_engine::Options {
            store: store.clone(),
            transport: transport.clone(),
            clock: clock.clone(),
            profiles: registry.clone(),
            sealer: sealer.clone(),
            limits,
        })
        .await?;
        let service = Service::new(store.clone(), engine.clone(), sealer, service_options);
        service.resume_tasks().await?;
        let notifier = Notifier::new(
            service.clone(),
            mailer,
            Duration::from_secs(config.notifications.every_secs),
            config.notifications.public_url.clone(),
            confirmed,
        );
        let api = Api::new(service, api_options);
        // Last, because it is told once: nothing after it can fail.
        let mut root_key = ensure_root_key(&*store, clock.now()).await?;
        if let (Some(key), Some(mut file)) = (&root_key, key_target) {
            std::io::Write::write_all(&mut file, key.expose().as_bytes())
                .context("failed to write server.root_key_file")?;
            root_key = None;
        }
        let stop = CancellationToken::new();
        let failed = CancellationToken::new();
        let tasks = TaskTracker::new();
        // Without any of them the process would answer and not deliver, or the other way round.
        let must_run = |name, task: BoxedTask| Watch::new(name, &stop, &failed).over(task);
        let serving = Box::pin(listener.serve(api.router(), stop.clone()));
        tasks.spawn(must_run("listener", serving));
        tasks.spawn(must_run("notifier", Box::pin(notifier.run(stop.clone()))));
        let patrolling = stop.clone();
        let patrolling = async move {
            let round = patrol::patrol(sqlite, damaged);
            patrolling.run_until_cancelled(round).await;
        };
        tasks.spawn(must_run("patrol", Box::pin(patrolling)));
        let reaper = stop.clone();
        let reaping = transport.clone();
        let reaping = async move {
            tokio::select! {
                () = reaper.cancelled() => {}
                () = reaping.run_reaper() => {}
            }
        };
        tasks.spawn(must_run("reaper", Box::pin(reaping)));
        let shutdown = Duration::from_secs(config.server.shutdown_secs);
        Ok(Self {
            address,
            root_key,
            engine,
            store,
            profiles: registry,
            transport,
            stop,
            failed,
            tasks,
            shutdown,
        })
    }

    /// Waits until something without which the server cannot go on has ended.
    pub async fn failed(&self) {
        tokio::select! {
            () = self.failed.cancelled() => {}
            () = self.engine.failed() => {}
        }
    }

    /// Takes over what can change while the server runs: the log's level, the certificate authorities,
    /// the profiles of the operator's own.
    ///
    /// # Errors
    /// When one of them cannot be read; then that stays as it is.
    pub async fn reload(&self, config: &Config) -> anyhow::Result<()> {
        set_log_level(&config.log)?;
        self.transport
            .reload_certificates(config.egress.extra_ca.as_deref())?;
        if let Some(directory) = &config.profiles.directory {
            let own = profiles::read_directory(directory)?;
            self.profiles.replace(&*self.store, own).await?;
        }
        Ok(())
    }

    /// Accepts no more, finishes what is under way. False when the time was not enough: what was
    /// cut off is delivered again after the next start.
    pub async fn shut_down(self) -> bool {
        self.stop.cancel();
        self.tasks.close();
        // One deadline for all: clients first, because they publish; then what is being sent; a
        // twentieth is kept for the records.
        let deadline = tokio::time::Instant::now() + self.shutdown;
        let for_clients = deadline - self.shutdown / 4;
        let served = tokio::time::timeout_at(for_clients, self.tasks.wait())
            .await
            .is_ok();
        let drained = self.engine.drain(deadline, self.shutdown / 20).await;
        served && drained
    }
}

fn is_built_in(name: &str) -> bool {
    postrider_core::profile::BUILT_IN
        .iter()
        .any(|(known, _)| *known == name)
}

/// Refuses a master key that does not open what the store has: with it every delivery would fail.
async fn must_open(store: &dyn Store, sealer: &Sealer, key_file: &Path) -> anyhow::Result<()> {
    let applications = store.list_applications(PageRequest::first(PROBED)).await?;
    for application in applications.rows {
        let listed = store.list_tenants(application.id, PageRequest::first(1));
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
        return opened.map(drop).with_context(|| {
            let file = key_file.display();
            format!("{file} is not the master key of this store; put the right one back, or name it in secrets.previous_key_files")
        });
    }
    Ok(())
}

fn transport(config: &Config, addresses: AddressPolicy) -> anyhow::Result<HttpTransport> {
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
fn root_key_target(config: &Config) -> anyhow::Result<Option<std::fs::File>> {
    let Some(path) = &config.server.root_key_file else {
        return Ok(None);
    };
    let mut options = std::fs::File::options();
    options.create(true).append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = options.open(path);
    file.map(Some)
        .with_context(|| format!("failed to write server.root_key_file {}", path.display()))
}

/// Runs a server until it is told to stop.
///
/// # Errors
/// When it cannot start, or something without which it cannot go on has ended.
pub async fn run(args: &ServeArgs) -> anyhow::Result<()> {
    let config = config::load(args)?;
    log::start(&config.log)?;
    let data = config.store.directory.clone();
    let mut signals = Signals::new()?;
    let server = Server::start(config).await?;
    greet(&server, &data);
    loop {
        tokio::select! {
            signal = signals.next() => match signal {
                Asked::Stop => break,
                Asked::Reload => reload(&server, args).await,
            },
            () = server.failed() => {
                drop(tokio::time::timeout(FAILED_SHUTDOWN, server.shut_down()).await);
                anyhow::bail!("a part of the server has ended; the log says which. Start it again");
            }
        }
    }
    tracing::info!("shutting down; a second signal stops at once");
    tokio::select! {
        clean = server.shut_down() => {
            if !clean {
                tracing::warn!("some requests were cut off; they are delivered again after the next start");
            }
        }
        () = signals.stop() => tracing::warn!("stopped at once; what was under way is delivered again after the next start"),
    }
    Ok(())
}

async fn reload(server: &Server, args: &ServeArgs) {
    let reloaded = match config::load(args) {
        Ok(config) => server.reload(&config).await,
        Err(error) => Err(error),
    };
    match reloaded {
        Ok(()) => tracing::info!(
            "reloaded the log's level, certificate authorities and profiles; other settings need a restart"
        ),
        Err(error) => tracing::error!("failed to reload, nothing more was changed: {error:#}"),
    }
}

enum Asked {
    Stop,
    Reload,
}

#[cfg(unix)]
struct Signals {
    stop: [tokio::signal::unix::Signal; 3],
    reload: tokio::signal::unix::Signal,
    /// Would end the process; nothing is meant by them here.
    ignored: [tokio::signal::unix::Signal; 2],
}

#[cfg(unix)]
impl Signals {
    fn new() -> anyhow::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            stop: [
                signal(SignalKind::interrupt())?,
                signal(SignalKind::terminate())?,
                signal(SignalKind::quit())?,
            ],
            reload: signal(SignalKind::hangup())?,
            ignored: [
                signal(SignalKind::user_defined1())?,
                signal(SignalKind::user_defined2())?,
            ],
        })
    }

    async fn next(&mut self) -> Asked {
        let [interrupt, terminate, quit] = &mut self.stop;
        let [first, second] = &mut self.ignored;
        loop {
            tokio::select! {
                _ = interrupt.recv() => return Asked::Stop,
                _ = terminate.recv() => return Asked::Stop,
                _ = quit.recv() => return Asked::Stop,
                _ = self.reload.recv() => return Asked::Reload,
                _ = first.recv() => {}
                _ = second.recv() => {}
            }
        }
    }

    async fn stop(&mut self) {
        while !matches!(self.next().await, Asked::Stop) {}
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> anyhow::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) -> Asked {
        drop(tokio::signal::ctrl_c().await);
        Asked::Stop
    }

    async fn stop(&mut self) {
        self.next().await;
    }
}

/// What the operator has to know, all at the first start.
fn greet(server: &Server, data: &Path) {
    let address = server.address;
    tell(&format!(
        "Postrider {} listens on http://{address}, data in {}",
        env!("CARGO_PKG_VERSION"),
        data.display()
    ));
    let Some(root_key) = &server.root_key else {
        return;
    };
    let root_key = root_key.expose();
    tell(&format!(
        "
This is the root key. It is shown once, now; keep it:

    {root_key}

A product, a customer, an endpoint, an event:

    export POSTRIDER_URL=http://{address} POSTRIDER_KEY={root_key}
    postrider application create shop
    postrider tenant create --application <app_…> 'Ada Ltd'
    postrider endpoint create --tenant <ten_…> <URL>
    postrider event publish --tenant <ten_…> order.completed '{{\"orderId\":\"1\"}}'
    postrider delivery list

No URL at hand? Start with `serve --dev`, run `postrider listen`, and use http://127.0.0.1:9000/
"
    ));
}
