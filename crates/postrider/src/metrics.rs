//! `/metrics`: what every part counts, and what is read off when somebody asks.

mod process;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use postrider_api::{Api, Connections, Exposition, MetricsFormat};
use postrider_core::Timestamp;
use postrider_engine::Engine;
use postrider_nodes::Followers;
use postrider_service::{Nodes as _, Service};
use postrider_store::Retention;
use postrider_store_sql::SqlStore;
use prometheus_client::encoding::{EncodeLabelSet, prometheus_text, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

/// What the store may take to tell of itself: what shows that it is broken must not wait for it.
const STORE_PATIENCE: Duration = Duration::from_secs(2);

/// What is looked at when somebody asks.
pub(crate) struct Sources {
    pub(crate) engine: Arc<Engine>,
    pub(crate) store: Arc<SqlStore>,
    pub(crate) service: Service,
    pub(crate) api: Api,
    pub(crate) connections: Connections,
    /// Those that follow; none where this server is the only one of its store.
    pub(crate) followers: Option<Followers>,
    /// The directory whose disk the store fills; none where it is elsewhere.
    pub(crate) disk: Option<PathBuf>,
}

/// Everything that is shown.
pub(crate) struct Metrics {
    registry: Registry,
    sources: Sources,
    gauges: Gauges,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

impl Metrics {
    pub(crate) fn new(sources: Sources) -> Self {
        let mut registry = Registry::default();
        // These have the names that every dashboard knows.
        process::register(&mut registry);
        let ours = registry.sub_registry_with_prefix("postrider");
        ours.register(
            "build",
            "The version that runs",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
        let gauges = Gauges::default();
        gauges.register(ours, sources.disk.is_some());
        if sources.followers.is_some() {
            gauges.register_nodes(ours);
        }
        sources.engine.metrics().register(ours);
        sources.store.metrics().register(ours);
        sources.api.metrics().register(ours);
        Self {
            registry,
            sources,
            gauges,
        }
    }

    async fn look(&self) {
        let Sources {
            engine,
            store,
            service,
            ..
        } = &self.sources;
        self.look_at_engine();
        if let Some(followers) = &self.sources.followers {
            let list = followers.followers();
            self.gauges.followers.set(count(list.len()));
            let under_way = list.iter().map(|node| node.under_way).sum::<usize>();
            self.gauges.followers_attempts.set(count(under_way));
            // A counter cannot be set, so it gets what it lacks.
            let again = &self.gauges.made_again;
            again.inc_by(followers.made_again().saturating_sub(again.get()));
        }
        let readiness = tokio::time::timeout(STORE_PATIENCE, service.readiness()).await;
        match readiness {
            Ok(Ok(readiness)) => {
                self.gauges.ready.set(1);
                self.gauges.damaged.set(count(readiness.damaged));
            }
            Ok(Err(_)) | Err(_) => drop(self.gauges.ready.set(0)),
        }
        self.gauges.set_aside.set(count(engine.set_aside()));
        // Where it cannot be asked, what it last said is shown.
        if let Ok(Ok(bytes)) = tokio::time::timeout(STORE_PATIENCE, store.used_bytes()).await {
            self.gauges.store_bytes.set(count(bytes));
        }
        if let Ok(Ok(outbox)) = tokio::time::timeout(STORE_PATIENCE, service.outbox_state()).await {
            self.gauges.outbox_waiting.set(count(outbox.waiting));
            self.gauges.outbox_refused.set(count(outbox.refused));
            let oldest = outbox.oldest.map(|oldest| service.now().since(oldest));
            let oldest = oldest.unwrap_or_default().as_secs_f64();
            self.gauges.outbox_oldest.set(oldest);
        }
        if let Some(free) = self.sources.disk.as_deref().and_then(free_bytes) {
            self.gauges.disk_free.set(count(free));
        }
        let (_, round) = service.retention();
        let at = round.map_or(0.0, |round| seconds(round.at));
        self.gauges.retained.set(at);
    }

    fn look_at_engine(&self) {
        let survey = self.sources.engine.survey();
        for of in &survey.lanes {
            let standing = OfStanding {
                standing: of.standing.as_str(),
            };
            let lanes = self.gauges.lanes.get_or_create_owned(&standing);
            lanes.set(count(of.lanes));
            let held = self.gauges.held.get_or_create_owned(&standing);
            held.set(count(of.held));
            let oldest = self.gauges.oldest_due.get_or_create_owned(&standing);
            oldest.set(of.oldest_due.as_secs_f64());
        }
        let (bodies, answers) = self.sources.api.held_bytes();
        let (bodies_max, answers_max) = self.sources.api.held_bytes_max();
        let (requests, kib) = self.sources.engine.waiting();
        let (requests_max, kib_max) = Engine::WAITING_MAX;
        let connections = &self.sources.connections;
        let limits = survey.limits;
        for (budget, used, most) in [
            ("attempts", survey.in_flight, limits.in_flight_max),
            ("delivery_bytes", survey.memory_bytes, limits.memory_max),
            ("waiting_requests", requests, requests_max),
            ("waiting_kib", kib, kib_max),
            ("body_bytes", bodies, bodies_max),
            ("answer_bytes", answers, answers_max),
            ("connections", connections.open(), connections.max()),
        ] {
            let of = OfBudget { budget };
            let gauge = self.gauges.used.get_or_create_owned(&of);
            gauge.set(count(used));
            self.gauges.most.get_or_create_owned(&of).set(count(most));
        }
    }
}

#[async_trait::async_trait]
impl Exposition for Metrics {
    async fn text(&self, format: MetricsFormat) -> String {
        self.look().await;
        let mut written = String::new();
        let encoded = match format {
            MetricsFormat::Prometheus => prometheus_text::encode(&mut written, &self.registry),
            MetricsFormat::OpenMetrics => text::encode(&mut written, &self.registry),
        };
        encoded.expect("a text takes all that is written to it");
        written
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfStanding {
    standing: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfBudget {
    budget: &'static str,
}

type Float = Gauge<f64, AtomicU64>;

/// What is set before it is shown.
#[derive(Debug, Default)]
struct Gauges {
    ready: Gauge,
    lanes: Family<OfStanding, Gauge>,
    held: Family<OfStanding, Gauge>,
    oldest_due: Family<OfStanding, Float>,
    used: Family<OfBudget, Gauge>,
    most: Family<OfBudget, Gauge>,
    set_aside: Gauge,
    damaged: Gauge,
    store_bytes: Gauge,
    disk_free: Gauge,
    retained: Float,
    outbox_waiting: Gauge,
    outbox_refused: Gauge,
    outbox_oldest: Float,
    followers: Gauge,
    followers_attempts: Gauge,
    made_again: Counter,
}

impl Gauges {
    fn register(&self, to: &mut Registry, disk: bool) {
        let help = "1 where the store takes writes, so that events can be accepted";
        to.register("ready", help, self.ready.clone());
        let help = "Endpoints that the engine has in memory, by how they stand";
        to.register("lanes", help, self.lanes.clone());
        let help = "Deliveries that they hold in memory; more may wait in the store";
        to.register("lane_held", help, self.held.clone());
        let help =
            "How long the delivery is due that is due the longest, of the endpoints of a standing";
        let oldest_due = self.oldest_due.clone();
        to.register_with_unit("oldest_due", help, Unit::Seconds, oldest_due);
        let help = "What is taken of what all callers share";
        to.register("budget_used", help, self.used.clone());
        let help = "How much of it there is";
        to.register("budget_max", help, self.most.clone());
        let help =
            "Deliveries that wait for the next start because this process cannot bring them on";
        to.register("set_aside", help, self.set_aside.clone());
        let help = "Rows and tables that the last round through the store could not read";
        to.register("damaged", help, self.damaged.clone());
        let help = "What the store takes";
        to.register_with_unit("store", help, Unit::Bytes, self.store_bytes.clone());
        if disk {
            let help = "What is free on the disk of the data directory";
            to.register_with_unit("disk_free", help, Unit::Bytes, self.disk_free.clone());
        }
        let help = "When the last round of retention ended, since 1970; 0 before the first";
        let retained = self.retained.clone();
        to.register_with_unit("retention_round_timestamp", help, Unit::Seconds, retained);
        let help = "Events in the database's outbox that wait to be taken";
        to.register("outbox_waiting", help, self.outbox_waiting.clone());
        let help = "Events in the database's outbox that were refused; somebody has to look";
        to.register("outbox_refused", help, self.outbox_refused.clone());
        let help = "How long the first one waits";
        let oldest = self.outbox_oldest.clone();
        to.register_with_unit("outbox_oldest", help, Unit::Seconds, oldest);
    }
}

impl Gauges {
    /// What there is where this server is one of several.
    fn register_nodes(&self, to: &mut Registry) {
        let help = "Nodes that follow this one, which leads";
        to.register("followers", help, self.followers.clone());
        let help = "Attempts that they make just now";
        let under_way = self.followers_attempts.clone();
        to.register("followers_attempts", help, under_way);
        let help = "Attempts that did not come back from the node that had them, and were made again by the one that leads";
        to.register("attempts_made_again", help, self.made_again.clone());
    }
}

/// As a gauge takes it.
fn count(number: impl TryInto<i64>) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}

fn seconds(at: Timestamp) -> f64 {
    Duration::from_micros(at.as_micros().unsigned_abs()).as_secs_f64()
}

/// Bytes that the disk of a directory has for this process.
#[cfg(unix)]
pub(crate) fn free_bytes(directory: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(directory).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

#[cfg(not(unix))]
pub(crate) fn free_bytes(_: &Path) -> Option<u64> {
    None
}
