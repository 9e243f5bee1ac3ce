//! A server among several of one database: what it does while another one leads, and what changes when its turn comes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use postrider_api::{Connections, Listener, Router, Tls};
use postrider_core::seal::Sealer;
use postrider_nodes::{Dialer, Door, Followers, Following, Myself, Spread};
use postrider_service::Nodes;
use postrider_store_sql::{Beat, OpenError, Owner, PostgresOptions, SqlStore};
use postrider_transport::HttpTransport;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::parts::{Sockets, addresses, transport, usable};
use super::{Changeable, Running};
use crate::config::Config;
use crate::descriptors::Shares;
use crate::master_key;
use crate::output::tell;

/// Between two tries to own a database that another server owns.
const BETWEEN_TRIES: Duration = Duration::from_millis(500);
/// The same at first, while clients wait for somebody to lead.
const BETWEEN_QUICK_TRIES: Duration = Duration::from_millis(100);
const QUICK_TRIES: u32 = 100;
/// Between two tries to bring tables on that somebody uses.
const WHILE_IN_USE: Duration = Duration::from_secs(5);
/// An owner that has given no sign of life for so long stands still. It gives one each second.
const SILENT_MAX: Duration = Duration::from_secs(15);
/// When it is told that nothing could be done about that.
const TOLD_AFTER: Duration = Duration::from_secs(60);
/// Between two looks at who leads, while that one is reached.
const BETWEEN_LOOKS: Duration = Duration::from_secs(1);
/// What a node that leads gives attempts under way when it goes: others wait for its place, and make them again.
const HANDING_OVER: Duration = Duration::from_secs(5);
/// What the nodes' token is derived for.
const TOKEN_PURPOSE: &str = "postrider nodes";

/// # Errors
/// When what is said of several servers cannot be.
pub(super) fn check(config: &Config) -> anyhow::Result<()> {
    Settings::of(config).map(drop)
}

/// How this server is one of several.
struct Settings {
    url: Url,
    dialer: Dialer,
}

impl Settings {
    fn of(config: &Config) -> anyhow::Result<Option<Self>> {
        let Some(url) = &config.nodes.url else {
            return Ok(None);
        };
        let parsed: Option<Url> = url.parse().ok();
        let parsed =
            parsed.filter(|url| matches!(url.scheme(), "http" | "https") && url.host().is_some());
        let parsed = parsed.with_context(|| {
            format!("nodes.url {url:?} must begin with http:// or https://, and name this machine")
        })?;
        anyhow::ensure!(
            config.store.url.is_some(),
            "nodes.url is for servers with one database: set store.url too"
        );
        let authorities = config.nodes.ca_file.as_deref();
        let dialer = Dialer::new(authorities).with_context(|| {
            let path = config.nodes.ca_file.clone().unwrap_or_default();
            format!("nodes.ca_file {} cannot be used", path.display())
        })?;
        Ok(Some(Self {
            url: parsed,
            dialer,
        }))
    }
}

/// A server that waits for its turn.
pub(super) struct Turn<'s> {
    config: &'s Config,
    running: &'s Running,
    settings: Option<Settings>,
    /// What was begun when another one was found to lead.
    begun: Option<Begun>,
    is_told: bool,
    /// The last sign of life of who owns the database, and since when there is no other.
    silence: Option<(Beat, Instant)>,
    is_told_of_silence: bool,
    /// What kept it from the database last, which is told once.
    kept: Option<String>,
}

/// A node that follows.
struct Begun {
    door: Door,
    followers: Followers,
    face: Face,
    leader: watch::Sender<Option<Url>>,
    /// Ends the following, when its turn has come.
    over: CancellationToken,
}

impl Begun {
    /// Says where the one is that leads.
    fn leads(&self, url: Option<&str>) {
        let leader = url.and_then(|url| url.parse().ok());
        self.leader.send_if_modified(|known| {
            let is_new = *known != leader;
            *known = leader;
            is_new
        });
    }
}

/// Where a server is reached.
#[derive(Clone)]
pub(super) struct Face {
    pub(super) address: SocketAddr,
    pub(super) tls: Option<Tls>,
    pub(super) connections: Connections,
}

impl Face {
    fn of(sockets: &Sockets) -> anyhow::Result<Self> {
        Ok(Self {
            address: sockets.api.address()?,
            tls: sockets.tls.clone(),
            connections: sockets.api.connections(),
        })
    }
}

/// What a server that leads is reached by, and, where it is one of several, those that follow it.
pub(super) struct Place {
    pub(super) face: Face,
    /// None where it is served already.
    listener: Option<Listener>,
    node: Option<(Url, Door, Followers)>,
}

impl<'s> Turn<'s> {
    pub(super) fn new(config: &'s Config, running: &'s Running) -> anyhow::Result<Self> {
        Ok(Self {
            config,
            running,
            settings: Settings::of(config)?,
            begun: None,
            is_told: false,
            silence: None,
            is_told_of_silence: false,
            kept: None,
        })
    }

    /// Tells what keeps it from the database, when that is something new.
    fn tell(&mut self, error: &OpenError) {
        let why = std::error::Error::source(error);
        let why = why.map_or_else(|| error.to_string(), |why| format!("{error}: {why}"));
        if self.kept.as_ref() != Some(&why) {
            tracing::warn!(
                "this server could not take the leader's place now, and tries again: {why}"
            );
            self.kept = Some(why);
        }
    }

    /// Opens a database of a server; waits as long as another one owns it.
    pub(super) async fn take_over(&mut self, options: PostgresOptions) -> anyhow::Result<SqlStore> {
        let url = self.settings.as_ref().map(|node| node.url.to_string());
        let options = PostgresOptions {
            node_url: url,
            serves: true,
            opens: Some(master_key::opens(self.config)),
            ..options
        };
        let mut tries: u32 = 0;
        loop {
            if self.is_led(&options).await {
                // Nobody waits while the leader is reached; when it is not, the quick tries begin.
                tries = 0;
                continue;
            }
            let error = match SqlStore::connect(options.clone()).await {
                Ok(store) => return Ok(store),
                Err(error) => error,
            };
            match &error {
                OpenError::Owned { owner, .. } => {
                    self.kept = None;
                    self.see(owner, &options).await;
                    self.wait(&error, owner.url.as_deref()).await?;
                }
                // Who waits goes on waiting when the database is away too: it may be why the other one ends.
                // Tables are to be brought on, and somebody uses one in a long transaction: those who publish wait behind
                // each try.
                error if error.is_busy() => {
                    self.tell(error);
                    tokio::time::sleep(WHILE_IN_USE).await;
                }
                OpenError::Database { .. } | OpenError::NoStandby { .. } if self.is_told => {
                    self.tell(&error);
                    self.silence = None;
                }
                _ => return Err(error.into()),
            }
            tries = tries.saturating_add(1);
            let pause = match self.begun {
                Some(_) if tries < QUICK_TRIES => BETWEEN_QUICK_TRIES,
                _ => BETWEEN_TRIES,
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Ends the connection of an owner that stands still. That is seen, not worked out from clocks: nothing is known of it as
    /// long as the database cannot be asked.
    async fn see(&mut self, owner: &Owner, options: &PostgresOptions) {
        let Some(beat) = &owner.beat else {
            self.silence = None;
            return;
        };
        match &self.silence {
            Some((known, since)) if known == beat => {
                let silent_for = since.elapsed();
                if silent_for < SILENT_MAX {
                    return;
                }
                match SqlStore::end_owner(options.clone(), beat.clone()).await {
                    Ok(false) if silent_for >= TOLD_AFTER && !self.is_told_of_silence => {
                        self.is_told_of_silence = true;
                        tracing::error!(
                            silent_secs = silent_for.as_secs(),
                            "the server that owns the database gives no sign of life, and cannot be replaced: either the database works for it yet, or the role of this server may not end its connection (all servers need the same role)"
                        );
                    }
                    Ok(false) => {}
                    Ok(true) => {
                        tracing::warn!(
                            silent_secs = silent_for.as_secs(),
                            "the server that owns the database stands still; its connection was ended"
                        );
                        // Whoever owns it next has all its time.
                        self.silence = None;
                    }
                    Err(error) => self.tell(&error),
                }
            }
            _ => {
                self.silence = Some((beat.clone(), Instant::now()));
                self.is_told_of_silence = false;
            }
        }
    }

    /// Whether another node leads, and is reached: then nobody tries for its place, which it may only have lost for a moment,
    /// together with its database. Waits a while in that case.
    async fn is_led(&mut self, options: &PostgresOptions) -> bool {
        let follows = |begun: &&Begun| begun.door.follows();
        if self.begun.as_ref().filter(follows).is_none() {
            return false;
        }
        let found = SqlStore::owner(options.clone()).await;
        let silent_for = match found {
            Ok(owner) => {
                if let Some(begun) = &self.begun {
                    begun.leads(owner.url.as_deref());
                }
                self.see(&owner, options).await;
                self.silence.as_ref().map(|(_, since)| since.elapsed())
            }
            // It may be away from the leader too; nobody takes its place then.
            Err(error) => {
                self.tell(&error);
                self.silence = None;
                None
            }
        };
        if silent_for.is_some_and(|silent_for| silent_for >= SILENT_MAX) {
            return false;
        }
        if let Some(begun) = &self.begun {
            let ended = begun.door.follows_no_more();
            drop(tokio::time::timeout(BETWEEN_LOOKS, ended).await);
        }
        true
    }

    /// Follows the one that leads meanwhile, if this server is one of several.
    async fn wait(&mut self, error: &OpenError, leader: Option<&str>) -> anyhow::Result<()> {
        let is_new = !self.is_told;
        if is_new {
            self.is_told = true;
            tracing::info!("waiting to take over when it ends: {error}");
        }
        let Some(settings) = &self.settings else {
            if is_new {
                // Who started it must not wait until the other one ends, which may be for ever.
                crate::supervisor::ready();
                self.running.follows.cancel();
            }
            return Ok(());
        };
        if self.begun.is_none() {
            self.begun = Some(begin(self.config, self.running, settings).await?);
        }
        if let Some(begun) = &self.begun {
            begun.leads(leader);
        }
        Ok(())
    }

    /// Its turn has come.
    pub(super) async fn place(self, shares: &Shares, sealer: &Sealer) -> anyhow::Result<Place> {
        if let (Some(begun), Some(settings)) = (self.begun, self.settings) {
            begun.over.cancel();
            return Ok(Place {
                face: begun.face,
                listener: None,
                node: Some((settings.url, begun.door, begun.followers)),
            });
        }
        let sockets = Sockets::open(self.config, shares.connections).await?;
        let node = Settings::of(self.config)?.map(|settings| {
            let followers = Followers::default();
            let tokens = sealer.derived_by_all(TOKEN_PURPOSE);
            let door = Door::new(settings.url.clone(), tokens, followers.clone());
            (settings.url, door, followers)
        });
        Ok(Place {
            face: Face::of(&sockets)?,
            listener: Some(sockets.api),
            node,
        })
    }
}

/// Answers clients, and makes attempts, for whoever leads.
async fn begin(config: &Config, running: &Running, settings: &Settings) -> anyhow::Result<Begun> {
    let key_file = master_key::file(config);
    let previous = &config.secrets.previous_key_files;
    let sealer = master_key::sealer(&key_file, previous, false).with_context(|| {
        let there = key_file.display();
        format!(
            "nodes of one database have the same master key: copy it from the first one to {there}"
        )
    })?;
    // What only a leader needs must not be found wrong on the day when it is to lead.
    usable(config).await?;
    let shares = Shares::of(config);
    let transport: Arc<HttpTransport> = Arc::new(transport(config, addresses(config))?);
    let sockets = Sockets::open(config, shares.connections).await?;
    let face = Face::of(&sockets)?;
    let followers = Followers::default();
    let tokens = sealer.derived_by_all(TOKEN_PURPOSE);
    let token = tokens.first().cloned().context("there is no master key")?;
    let door = Door::new(settings.url.clone(), tokens, followers.clone());
    let (leader, known) = watch::channel(None);
    // A child: it ends with the server too.
    let over = running.stop.child_token();
    let following = Following {
        door: door.clone(),
        dialer: settings.dialer.clone(),
        myself: Myself {
            url: settings.url.clone(),
            at_once: shares.in_flight,
            token,
        },
        transport: transport.clone(),
    };
    running.must(
        "listener",
        sockets.api.serve(door.router(), running.stop.clone()),
    );
    let changeable = Changeable {
        tls: face.tls.clone(),
        transport: transport.clone(),
    };
    // It is set once: a server begins to follow once.
    drop(running.changeable.set(changeable));
    let reaping = over.clone();
    // No `must` for these two: they end when its turn has come, and the server goes on.
    running.tasks.spawn(async move {
        reaping.run_until_cancelled(transport.run_reaper()).await;
    });
    running.tasks.spawn(following.run(known, over.clone()));
    tell(&format!(
        "Postrider {} listens on {}, follows the node that leads, and takes its place when it goes",
        env!("CARGO_PKG_VERSION"),
        config.server.url(face.address)
    ));
    crate::supervisor::ready();
    running.follows.cancel();
    Ok(Begun {
        door,
        followers,
        face,
        leader,
        over,
    })
}

impl Place {
    /// What attempts go through: this node, and those that follow it.
    pub(super) fn transport(
        &self,
        own: &Arc<HttpTransport>,
    ) -> Arc<dyn postrider_engine::Transport> {
        match &self.node {
            Some((_, _, followers)) => Arc::new(Spread::new(own.clone(), followers.clone())),
            None => own.clone(),
        }
    }

    /// Where other nodes reach this one, and those that follow it.
    pub(super) fn nodes(&self) -> Option<(String, Arc<dyn Nodes>)> {
        let (url, _, followers) = self.node.as_ref()?;
        Some((url.to_string(), Arc::new(followers.clone())))
    }

    /// Those that follow, where this server is one of several.
    pub(super) fn followers(&self) -> Option<Followers> {
        self.node
            .as_ref()
            .map(|(_, _, followers)| followers.clone())
    }

    /// From now on this server answers by itself.
    pub(super) fn serve(self, router: Router, running: &Running) -> Option<Door> {
        let door = self.node.map(|(_, door, _)| door);
        if let Some(listener) = self.listener {
            let served = door.as_ref().map_or_else(|| router.clone(), Door::router);
            running.must("listener", listener.serve(served, running.stop.clone()));
        }
        if let Some(door) = &door {
            door.lead(router);
        }
        door
    }
}

/// Sends followers to the next leader. Returns how long what is under way may take.
pub(super) async fn hand_over(door: Option<&Door>, shutdown: Duration) -> Duration {
    match door {
        Some(door) if door.leave().await => shutdown.min(HANDING_OVER),
        _ => shutdown,
    }
}
