//! `postrider serve`: wiring, start and shutdown.

use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use postrider_api::{Api, ApiOptions, Listener, RegionInfo, ServerLimits, ensure_root_key};
use postrider_core::Secret;
use postrider_core::address::AddressPolicy;
use postrider_core::seal::Sealer;
use postrider_core::tenant::TENANT_SECRET_CONTEXT;
use postrider_engine::machine::MachineLimits;
use postrider_engine::{Clock, Engine, ProfileRegistry, SystemClock};
use postrider_notify::{Mailer, Notifier, SmtpOptions, SmtpTls};
use postrider_store::{PageRequest, Store};
use postrider_store_sqlite::SqliteStore;
use postrider_transport::{HttpTransport, Region, SystemResolver};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{
    Config, EgressConfig, LogConfig, LogFormat, NotificationsConfig, RegionConfig, SmtpTlsConfig,
};
use crate::output::tell;
use crate::{master_key, profiles};

/// Applications looked through for something that the master key must open.
const PROBED: usize = 100;

/// A server that accepts and delivers.
#[derive(Debug)]
pub struct Server {
    pub address: SocketAddr,
    /// The root key, if this start made it.
    pub root_key: Option<Secret>,
    engine: Arc<Engine>,
    stop: CancellationToken,
    tasks: TaskTracker,
    shutdown: Duration,
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
        };
        let store: Arc<dyn Store> = Arc::new(SqliteStore::open(&directory, &options)?);
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
        let addresses = AddressPolicy::new(config.egress.allow.clone());
        let transport = Arc::new(transport(&config, addresses.clone())?);
        let limits = MachineLimits {
            in_flight_max: config.limits.in_flight,
            lane_in_flight_max: config.limits.endpoint_in_flight,
            memory_max: config.limits.memory_bytes,
            ..MachineLimits::default()
        };
        // Bound before the engine starts, so that a server that cannot serve does not deliver either.
        let server_limits = ServerLimits {
            connections_max: config.server.connections_max,
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
        let clock = Arc::new(SystemClock);
        let engine = Engine::start(postrider_engine::Options {
            store: store.clone(),
            transport: transport.clone(),
            clock: clock.clone(),
            profiles: registry,
            sealer: sealer.clone(),
            limits,
        })
        .await?;
        let notifier = Notifier::new(
            store.clone(),
            engine.clone(),
            mailer(&config.notifications)?,
            Duration::from_secs(config.notifications.every_secs),
        );
        let api_options = ApiOptions {
            addresses,
            trusted_proxies: config.server.trusted_proxies.clone(),
            regions: region_infos(&config.egress),
            default_region: default_region(&config.egress)?,
            mail: config.notifications.smtp.is_some(),
            is_mail_address: postrider_notify::is_mail_address,
            plain_http: config.egress.plain_http,
            body_max: config.limits.body_bytes,
            ..ApiOptions::default()
        };
        let api_store = store.clone();
        let api = Api::new(store, engine.clone(), sealer, api_options);
        api.resume_tasks().await?;
        // Last, because it is told once: nothing after it can fail.
        let root_key = ensure_root_key(&*api_store, clock.now()).await?;
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        tasks.spawn(listener.serve(api.router(), stop.clone()));
        tasks.spawn(notifier.run(stop.clone()));
        let reaper = stop.clone();
        tasks.spawn(async move {
            tokio::select! {
                () = reaper.cancelled() => {}
                () = transport.run_reaper() => {}
            }
        });
        let shutdown = Duration::from_secs(config.server.shutdown_secs);
        Ok(Self {
            address,
            root_key,
            engine,
            stop,
            tasks,
            shutdown,
        })
    }

    /// Accepts no more, finishes what is under way. False when the time was not enough: what was
    /// cut off is delivered again after the next start.
    pub async fn shut_down(self) -> bool {
        self.stop.cancel();
        self.tasks.close();
        let served = tokio::time::timeout(self.shutdown, self.tasks.wait())
            .await
            .is_ok();
        let drained = self.engine.drain(self.shutdown).await;
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
        let tenants = store
            .list_tenants(application.id, PageRequest::first(1))
            .await?;
        let Some(tenant) = tenants.rows.first() else {
            continue;
        };
        let opened = sealer.open(&tenant.live_secret.sealed, TENANT_SECRET_CONTEXT);
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

/// Runs a server until it is told to stop.
///
/// # Errors
/// When it cannot start.
pub async fn run(config: Config) -> anyhow::Result<()> {
    start_log(&config.log)?;
    let data = config.store.directory.clone();
    let server = Server::start(config).await?;
    greet(&server, &data);
    let mut signals = Signals::new()?;
    signals.next().await;
    tracing::info!("shutting down; a second signal stops at once");
    tokio::select! {
        clean = server.shut_down() => {
            if !clean {
                tracing::warn!("some requests were cut off; they are delivered again after the next start");
            }
        }
        () = signals.next() => tracing::warn!("stopped at once; what was under way is delivered again after the next start"),
    }
    Ok(())
}

struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

fn start_log(config: &LogConfig) -> anyhow::Result<()> {
    // A filter takes any word for a module's name; a lone word must be a level.
    let lone = !config.level.contains(['=', ',']);
    if lone
        && config
            .level
            .parse::<tracing_subscriber::filter::LevelFilter>()
            .is_err()
    {
        anyhow::bail!(
            "log.level {:?} is not one of off, error, warn, info, debug, trace, or a filter such as postrider_engine=debug,info",
            config.level
        );
    }
    let filter = tracing_subscriber::EnvFilter::try_new(&config.level).with_context(|| {
        format!(
            "log.level {:?} is not a level such as info, or a filter",
            config.level
        )
    })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    // A second server in one process (the demo, tests) keeps the first one's log.
    drop(match config.format {
        LogFormat::Text => builder.with_target(false).try_init(),
        LogFormat::Json => builder.json().try_init(),
    });
    Ok(())
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
