//! `postrider serve`: wiring, start and shutdown.

mod cells;
mod node;
mod parts;
mod traces;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use postrider_api::{Api, Exposition, Listener, Tls, metrics_router};
use postrider_core::Secret;
use postrider_engine::{Clock, Engine, ProfileRegistry, SystemClock, Watch};
use postrider_nodes::Door;
use postrider_notify::Notifier;
use postrider_service::Service;
use postrider_store::Store;
use postrider_transport::HttpTransport;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cli::ServeArgs;
use crate::config::{self, Config};
use crate::log::set_log_level;
use crate::metrics::{Metrics, Sources};
use crate::output::tell;
use crate::{log, patrol, profiles, supervisor};
use node::{Turn, hand_over};
use parts::{
    Opened, Prepared, api_options, collectors, disk, first_console_link, first_root_key, owned,
    root_key_target, router,
};
pub(crate) use parts::{addresses, transport, unusable};
use traces::{Collected, Measured, Traces};

/// What a shutdown may take after a part of the server has ended.
const FAILED_SHUTDOWN: Duration = Duration::from_secs(5);
/// Between two tries to look for what waits in a database that is there again.
const LOOK_PAUSE: Duration = Duration::from_secs(1);

/// A server that accepts and delivers.
pub struct Server {
    pub address: SocketAddr,
    /// Where metrics are served without a key, if they are.
    pub metrics_address: Option<SocketAddr>,
    /// Where the API and the pages are, as this machine reaches them.
    pub url: String,
    /// The root key, if this start made it.
    pub root_key: Option<Secret>,
    /// A link that opens the console once, with that key.
    pub console: Option<Secret>,
    engine: Arc<Engine>,
    store: Arc<dyn Store>,
    profiles: Arc<ProfileRegistry>,
    changeable: Changeable,
    traces: Traces,
    measured: Measured,
    running: Running,
    /// None where it is the only one of its store.
    door: Option<Door>,
    shutdown: Duration,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Server({})", self.address)
    }
}

/// What runs as long as the server does.
#[derive(Clone, Default)]
pub(crate) struct Running {
    stop: CancellationToken,
    failed: CancellationToken,
    /// Cancelled when the server does what it can do while another one leads.
    follows: CancellationToken,
    /// What of such a server can change while it runs.
    changeable: Arc<OnceLock<Changeable>>,
    tasks: TaskTracker,
    /// Cancelled when another server owns the database: nothing can be recorded any more.
    lost: CancellationToken,
    /// Cancelled when nothing is to be recorded any more.
    drained: CancellationToken,
    /// What ends then.
    owning: TaskTracker,
}

impl Running {
    /// Ends what runs, within some time.
    async fn end(&self, within: Duration) {
        self.stop.cancel();
        self.drained.cancel();
        self.tasks.close();
        drop(tokio::time::timeout(within, self.tasks.wait()).await);
    }

    /// Without it the process would answer and not deliver, or the other way round.
    fn must(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let watch = Watch::new(name, &self.stop, &self.failed);
        self.tasks.spawn(watch.over(Box::pin(task)));
    }

    /// Owns the database until all is recorded, and not only until the server is told to stop: whoever waits for it would
    /// take what says nothing any more for a server that stands still.
    fn must_own(
        &self,
        store: Arc<postrider_store_sql::SqlStore>,
        engine: Arc<Engine>,
        service: Service,
    ) {
        self.must_look_again(store.clone(), service);
        let (drained, lost) = (self.drained.clone(), self.lost.clone());
        let watch = Watch::new("ownership", &self.drained, &self.failed);
        // Not among the other tasks, which end before it.
        self.owning.spawn(watch.over(async move {
            if drained
                .run_until_cancelled(owned(store, engine))
                .await
                .is_some()
            {
                lost.cancel();
            }
        }));
    }

    /// Looks at everything anew each time that a database is there again.
    fn must_look_again(&self, store: Arc<postrider_store_sql::SqlStore>, service: Service) {
        let look = move || {
            let service = service.clone();
            async move {
                while let Err(refusal) = service.look_again().await {
                    tracing::warn!(
                        error = &refusal as &dyn std::error::Error,
                        "failed to look at the database that is there again; trying again"
                    );
                    tokio::time::sleep(LOOK_PAUSE).await;
                }
            }
        };
        self.must_until_stopped("look", async move { store.on_return(look).await });
    }

    /// What the service does without being asked.
    fn must_do_by_itself(&self, service: Service) {
        let taking = service.clone();
        self.must_until_stopped("outbox", async move { taking.take_submissions().await });
        self.must_until_stopped("retention", async move { service.retain().await });
    }

    /// The same of a task that ends when the server does.
    fn must_until_stopped(
        &self,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        let stop = self.stop.clone();
        let task = Box::pin(task);
        self.must(name, async move {
            stop.run_until_cancelled(task).await;
        });
    }
}

/// What can change while a server runs, whether it leads or not.
struct Changeable {
    tls: Option<Tls>,
    transport: Arc<HttpTransport>,
}

impl Changeable {
    /// # Errors
    /// When one of them cannot be read; then that, and those after it, stay as they are.
    fn reload(&self, config: &Config) -> anyhow::Result<()> {
        set_log_level(&config.log)?;
        // Turned on or off it is not: connections that are open, and the socket, are one or the other.
        if let (Some(tls), Some(config)) = (&self.tls, &config.server.tls) {
            tls.replace(config.read()?);
        }
        self.transport
            .reload_certificates(config.egress.extra_ca.as_deref())?;
        Ok(())
    }
}

impl Server {
    /// Starts a server with the given configuration.
    ///
    /// One of several nodes follows the one that leads, and starts when its turn has come.
    ///
    /// In this order: the store and the keys to it; all that a configuration can have wrong; the socket; then the
    /// engine, because a server that cannot serve must not deliver either; the service and its doors; last the root
    /// key, because it is told once.
    ///
    /// # Errors
    /// When anything it needs is not there; the text says what to do.
    pub async fn start(config: Config) -> anyhow::Result<Self> {
        Self::start_in(config, Running::default()).await
    }

    /// The same; whoever has `running` can stop it before it has started.
    async fn start_in(config: Config, running: Running) -> anyhow::Result<Self> {
        let mut turn = Turn::new(&config, &running)?;
        let opened = Opened::open(&config, &mut turn).await?;
        let mut prepared = Prepared::new(&config, &opened).await?;
        let key_target = root_key_target(&config)?;
        let place = turn.place(&prepared.shares, &opened.sealer).await?;
        let face = place.face.clone();
        prepared.service.nodes = place.nodes();
        let collectors = collectors(&config).await?;
        let url = config.server.url(face.address);
        let metrics_address = collectors.as_ref().map(Listener::address).transpose()?;
        let clock = Arc::new(SystemClock);
        let transport = place.transport(&prepared.transport);
        let engine = prepared.engine(&opened, transport, clock.clone(), config.metrics.tenants);
        let engine = Engine::start(engine).await?;
        let (store, sealer) = (opened.store.clone(), opened.sealer);
        let service = Service::new(store.clone(), engine.clone(), sealer, prepared.service);
        service.resume_tasks().await?;
        let notifier = Notifier::new(
            service.clone(),
            prepared.mailer,
            Duration::from_secs(config.notifications.every_secs),
            config.server.public_url.clone(),
            prepared.questions,
        );
        let api = Api::new(service.clone(), api_options(&config));
        let metrics = exposition(Sources {
            engine: engine.clone(),
            store: opened.sql.clone(),
            service: service.clone(),
            api: api.clone(),
            connections: face.connections,
            followers: place.followers(),
            disk: disk(&config),
        });
        let measured = Measured::new(&config, metrics.clone(), clock.clone(), &running)?;
        let router = router(&config, &service, &api, metrics.clone());
        let root_key = first_root_key(&*store, clock.now(), key_target).await?;
        let console = first_console_link(&config, &service, root_key.as_ref(), &url).await?;
        let door = place.serve(router, &running);
        if let Some(collectors) = collectors {
            let serving = collectors.serve(metrics_router(metrics), running.stop.clone());
            running.must("metrics listener", serving);
        }
        running.must("notifier", notifier.run(running.stop.clone()));
        running.must_own(opened.sql.clone(), engine.clone(), service.clone());
        running.must_do_by_itself(service);
        running.must_until_stopped("patrol", patrol::patrol(opened.sql, prepared.damaged));
        let transport = prepared.transport.clone();
        running.must_until_stopped("reaper", async move { transport.run_reaper().await });
        Ok(Self {
            address: face.address,
            url,
            metrics_address,
            root_key,
            console,
            engine,
            store,
            profiles: prepared.profiles,
            changeable: Changeable {
                tls: face.tls,
                transport: prepared.transport,
            },
            traces: prepared.traces,
            measured,
            running,
            door,
            shutdown: Duration::from_secs(config.server.shutdown_secs),
        })
    }

    /// Waits until something without which the server cannot go on has ended.
    pub async fn failed(&self) {
        tokio::select! {
            () = self.running.failed.cancelled() => {}
            () = self.engine.failed() => {}
        }
    }

    /// Takes over what can change while the server runs: the log's level, the server's certificate, the certificate
    /// authorities, the profiles of the operator's own.
    ///
    /// # Errors
    /// When one of them cannot be read; then that, and those after it, stay as they are.
    pub async fn reload(&self, config: &Config) -> anyhow::Result<()> {
        self.changeable.reload(config)?;
        if let Some(directory) = &config.profiles.directory {
            let own = profiles::read_directory(directory)?;
            self.profiles.replace(&*self.store, own).await?;
        }
        Ok(())
    }

    /// Accepts no more, finishes what is under way. False when the time was not enough: what was
    /// cut off is delivered again after the next start.
    pub async fn shut_down(self) -> bool {
        let shutdown = hand_over(self.door.as_ref(), self.shutdown).await;
        self.running.stop.cancel();
        self.running.tasks.close();
        // One deadline for all: clients first, because they publish; then what is being sent; a
        // twentieth is kept for the records.
        let deadline = tokio::time::Instant::now() + shutdown;
        let for_clients = deadline - shutdown / 4;
        let clients = async {
            self.running.tasks.wait().await;
            // What followers passed on came over links, which are none of the listener's.
            if let Some(door) = &self.door {
                door.left().await;
            }
        };
        let served = tokio::time::timeout_at(for_clients, clients).await.is_ok();
        let drained = tokio::select! {
            drained = self.engine.drain(deadline, shutdown / 20) => drained,
            // What is under way there is sent again by whoever owns it now.
            () = self.running.lost.cancelled() => false,
        };
        self.running.drained.cancel();
        self.running.owning.close();
        self.running.owning.wait().await;
        // After the drain, whose attempts are spans too.
        tokio::join!(self.traces.end(), self.measured.end());
        served && drained
    }
}

fn exposition(sources: Sources) -> Arc<dyn Exposition> {
    Arc::new(Metrics::new(sources))
}

/// Runs a server until it is told to stop.
///
/// # Errors
/// When it cannot start, or something without which it cannot go on has ended.
pub async fn run(args: &ServeArgs) -> anyhow::Result<()> {
    let config = config::load(args)?;
    log::start(&config.log)?;
    let collected = Collected::new(&config)?;
    let ran = run_with(args, config).await;
    collected.end().await;
    ran
}

async fn run_with(args: &ServeArgs, config: Config) -> anyhow::Result<()> {
    if cells::is_one(&config) {
        return cells::run(args, config).await;
    }
    let data = config.store.directory.clone();
    // From here on no signal ends the process by itself, also while it starts.
    let mut signals = Signals::new()?;
    let lives = supervisor::lives();
    tokio::pin!(lives);
    let running = Running::default();
    let shutdown = Duration::from_secs(config.server.shutdown_secs);
    // It may wait for another server to end.
    let asked = async {
        while let Asked::Reload = signals.next().await {
            if let Some(changeable) = running.changeable.get() {
                let reloaded = config::load(args).and_then(|config| changeable.reload(&config));
                // Profiles are read by the one that leads.
                tell_reloaded(
                    reloaded,
                    "the log's level, the server's certificate and certificate authorities",
                );
            }
        }
    };
    let server = tokio::select! {
        server = Server::start_in(config, running.clone()) => server?,
        () = asked => {
            tokio::select! {
                () = running.end(shutdown) => {}
                () = signals.stop() => {}
            }
            return Ok(());
        }
        () = running.failed.cancelled() => {
            anyhow::bail!("a part of the server has ended; the log says which. Start it again");
        }
        // A supervisor waits for signs of life from when it has heard that the server is ready.
        never = async {
            running.follows.cancelled().await;
            (&mut lives).await
        } => match never {},
    };
    greet(&server, &data);
    supervisor::ready();
    loop {
        tokio::select! {
            never = &mut lives => match never {},
            signal = signals.next() => match signal {
                Asked::Stop => break,
                Asked::Reload => reload(&server, args).await,
            },
            () = server.failed() => {
                // What has ended may be what the others wait for.
                drop(tokio::time::timeout(FAILED_SHUTDOWN, server.shut_down()).await);
                anyhow::bail!("a part of the server has ended; the log says which. Start it again");
            }
        }
    }
    supervisor::stopping();
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
    let what = "the log's level, the server's certificate, certificate authorities and profiles";
    tell_reloaded(reloaded, what);
}

fn tell_reloaded(reloaded: anyhow::Result<()>, what: &str) {
    match reloaded {
        Ok(()) => tracing::info!("reloaded {what}; other settings need a restart"),
        Err(error) => tracing::error!("failed to reload, nothing more was changed: {error:#}"),
    }
}

enum Asked {
    Stop,
    #[cfg_attr(not(unix), expect(dead_code, reason = "there is no signal for it"))]
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
    let url = &server.url;
    tell(&format!(
        "Postrider {} listens on {url}, data in {}",
        env!("CARGO_PKG_VERSION"),
        data.display()
    ));
    if let Some(metrics) = server.metrics_address {
        tell(&format!(
            "Metrics for Prometheus on http://{metrics}/metrics"
        ));
    }
    let Some(root_key) = &server.root_key else {
        return;
    };
    let root_key = root_key.expose();
    let console = server.console.as_ref().map_or_else(String::new, |link| {
        format!("\nThe console, opened once by this link; later ones are made by `postrider console`:\n\n    {}\n", link.expose())
    });
    tell(&format!(
        "
This is the root key. It is shown once, now; keep it:

    {root_key}
{console}
A product, a customer, an endpoint, an event:

    export POSTRIDER_URL={url} POSTRIDER_KEY={root_key}
    postrider application create shop
    postrider tenant create --application <app_…> 'Ada Ltd'
    postrider endpoint create --tenant <ten_…> <URL>
    postrider event publish --tenant <ten_…> order.completed '{{\"orderId\":\"1\"}}'
    postrider delivery list

No URL at hand? Start with `serve --dev`, run `postrider listen`, and use http://127.0.0.1:9000/
"
    ));
}
