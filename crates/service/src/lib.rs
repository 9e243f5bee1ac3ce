//! What can be done with Postrider: every act, by whom, and within which bounds.
//!
//! A door — the HTTP API, a vendor's dialect, a page — reads what somebody wants, calls one method of
//! [`Service`], and shows what it gives. The rules are here: permissions, modes, bounds, the checks of what
//! people type, and the order in which a change is written, told to the engine and forgotten by caches. Nothing
//! here knows HTTP.
//!
//! Whoever asks is a [`Caller`], and gets what they asked for or a [`Refusal`] with a stable code, the field that
//! is wrong and a sentence that says what to do. What belongs to somebody else is not found.

mod applications;
mod audit;
mod caller;
mod catchers;
mod changes;
mod confirmations;
mod content;
mod deletions;
mod deliveries;
mod directory;
mod distributions;
mod endpoints;
mod event_types;
mod events;
mod explain;
mod keys;
mod nonces;
mod notifications;
mod operator;
mod outbox;
pub mod random;
mod reading;
mod refusal;
mod replays;
mod retention;
mod schemas;
mod send_outs;
mod sessions;
mod spans;
mod statistics;
mod tasks;
mod telling;
mod tenants;
mod users;
mod windows;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use postrider_core::address::AddressPolicy;
use postrider_core::endpoint::Endpoint;
use postrider_core::notice::Confirmation;
use postrider_core::profile::Profile;
use postrider_core::seal::Sealer;
use postrider_core::tenant::Application;
use postrider_core::{Id, Timestamp, id};
use postrider_engine::{Engine, Turns};
use postrider_store::{Store, StoreError};
use tokio::sync::mpsc;

pub use postrider_engine::budget;
pub use postrider_engine::machine::{LaneSurvey, LanesStanding, Standing as LaneStanding, Survey};
pub use postrider_engine::{CurrentProfile, LastHour, MINUTES, ProfileRegistry};
pub use postrider_store::queries::InvalidCursor;
pub use postrider_store::{Cursor, MailAudience, Outcomes, Page, PageRequest, StatePattern, Times};

pub use applications::{ApplicationPatch, NewApplication};
pub use audit::AuditQuery;
pub use caller::{AsAskedFor, Caller, CameFrom, Claim, Proof};
pub use catchers::{CatcherListed, Caught, CaughtRequest, CaughtVerdict};
pub use deletions::Deletion;
pub use deliveries::{AttemptShown, DeliveryListed, DeliveryQuery, read_answer, read_state};
pub use distributions::{Activity, DistributionPatch, NewDistribution};
pub use endpoints::{
    ContentType, EndpointMade, EndpointPatch, EndpointStats, FilterTried, NewEndpoint, Rotation,
    SecretShown, TestAsked, Tested,
};
pub use event_types::{EventTypeListed, NewEventType};
pub use events::{EventQuery, NewEvent, Publication, Sent};
pub use explain::{EXPLAINED_MAX, Explained};
pub use keys::{KeyMade, KeyPatch, KeyRotation, KeyShown, NewKey};
pub use notifications::NoticeQuery;
pub use operator::{NodeStanding, Nodes, NodesStanding, Readiness, ensure_root_key, new_root_key};
pub use reading::{nullable, present, read_id, strictly, typed, well_formed};
pub use refusal::{ErrorCode, Refusal, Result};
pub use replays::{NewReplay, Replay};
pub use retention::{RetentionPace, RetentionRound, RetentionRule, forget_what_is_old};
pub use send_outs::{SendOut, SendOutQuery, SendOutSource, SendOutStatus};
pub use sessions::{LinkMade, NewPortalLink, Visit, origin};
pub use statistics::{Counts, CountsOfEndpoint, Point, Statistics, StatisticsAsked};
pub use tasks::{LongTask, TaskStatus};
pub use telling::MailDue;
pub use tenants::{NewTenant, TenantMade, TenantPatch};
pub use users::{NewUser, UserMade, UserPatch};
pub use windows::{Standing, Windows};

use budget::{Budget, Grant};
use directory::Directory;

/// Parsers that nobody outside calls, for the fuzzer.
#[doc(hidden)]
pub mod fuzzing {
    /// Compiles a schema and checks data by it, where the counters let it.
    pub fn schema(schema: &str, data: &str) {
        crate::schemas::fuzz(schema, data);
    }
}

/// Bounds and policies that an operator sets.
#[derive(Debug, Clone)]
pub struct Options {
    pub addresses: AddressPolicy,
    pub names: Names,
    /// Allows plain HTTP endpoints whatever the profile says: for development.
    pub plain_http: bool,
    /// What receivers may allow-list.
    pub regions: Vec<RegionInfo>,
    /// The region of tenants that name none.
    pub default_region: Option<String>,
    /// How much of what is stored was found damaged.
    pub damaged: Arc<AtomicU64>,
    /// Whether this server can send mail.
    pub mail: bool,
    /// Whether mail can be addressed to a text, by the rules of whoever sends it.
    pub is_mail_address: fn(&str) -> bool,
    /// Who asks mail addresses whether they want notifications; none cannot.
    pub confirmations: Option<mpsc::Sender<(Confirmation, Grant)>>,
    /// How long what has ended is kept.
    pub retention: RetentionRule,
    /// Keeps what comes to addresses of its own, for people without a server.
    pub catcher: bool,
    /// Where other nodes reach this one, and those that follow it; none where it is alone.
    pub nodes: Option<(String, Arc<dyn Nodes>)>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            addresses: AddressPolicy::default(),
            names: Names::default(),
            plain_http: false,
            regions: Vec::new(),
            default_region: None,
            damaged: Arc::default(),
            mail: false,
            is_mail_address: |_| true,
            confirmations: None,
            retention: RetentionRule::default(),
            catcher: false,
            nodes: None,
        }
    }
}

/// Looks names up when endpoints are registered.
#[async_trait::async_trait]
pub trait Lookup: Send + Sync + 'static {
    /// The addresses of a name; none when it has none yet, or cannot be looked up now.
    async fn addresses(&self, host: &str) -> Vec<IpAddr>;
}

/// How the server looks names up; none does not.
#[derive(Clone, Default)]
pub struct Names(pub Option<Arc<dyn Lookup>>);

impl std::fmt::Debug for Names {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() {
            "Names"
        } else {
            "no names"
        })
    }
}

/// An egress region and the addresses that the world sees its requests come from.
#[derive(Debug, Clone)]
pub struct RegionInfo {
    pub name: String,
    pub published: Vec<IpAddr>,
}

/// Used nonces that are known without the store.
const NONCES_KNOWN: usize = 100_000;

/// Long lists that one account may have made at once, of the four that the store makes.
const LISTS_EACH: usize = 2;

/// Everything that can be done, for whichever door. Cheap to clone.
#[derive(Clone)]
pub struct Service(Arc<Inner>);

struct Inner {
    store: Arc<dyn Store>,
    engine: Arc<Engine>,
    sealer: Arc<Sealer>,
    directory: Directory,
    counts: Turns,
    /// By whose account they go on.
    lists: Turns<()>,
    /// By whose account they go on.
    explanations: Turns<()>,
    /// Of an account that changes an application, a tenant or an event type.
    changing: Turns<()>,
    schemas: schemas::Gate,
    probes: endpoints::Probes,
    lookups: endpoints::Lookups,
    door: sessions::Door,
    passwords: users::Gate,
    catchers: catchers::Catchers,
    questions: Budget,
    /// Nonces that were used lately, by key.
    nonces: quick_cache::sync::Cache<(u128, [u8; 32]), ()>,
    started: tasks::Started,
    replays: replays::Replays,
    deletions: deletions::Deletions,
    rounds: retention::Rounds,
    options: Options,
    /// When the store last proved that it takes writes.
    ready: tokio::sync::Mutex<Option<Timestamp>>,
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Service({:?})", self.0.options)
    }
}

impl Service {
    pub fn new(
        store: Arc<dyn Store>,
        engine: Arc<Engine>,
        sealer: Arc<Sealer>,
        options: Options,
    ) -> Self {
        let directory = Directory::new(store.clone(), engine.clone());
        Self(Arc::new(Inner {
            store,
            engine,
            sealer,
            directory,
            counts: Turns::default(),
            lists: Turns::of_several(LISTS_EACH),
            explanations: Turns::default(),
            changing: Turns::default(),
            schemas: schemas::Gate::default(),
            probes: endpoints::Probes::default(),
            lookups: endpoints::Lookups::default(),
            door: sessions::Door::default(),
            passwords: users::Gate::default(),
            catchers: catchers::Catchers::default(),
            questions: Budget::new(confirmations::QUESTIONS_MAX),
            nonces: quick_cache::sync::Cache::new(NONCES_KNOWN),
            started: tasks::Started::default(),
            replays: replays::Replays::default(),
            deletions: deletions::Deletions::default(),
            rounds: retention::Rounds::default(),
            options,
            ready: tokio::sync::Mutex::default(),
        }))
    }

    /// Looks at the store anew: it was away, and what was changed last it may have or not. Tasks that it has and nobody
    /// runs begin.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn look_again(&self) -> Result<(), StoreError> {
        self.0.directory.forget_all();
        self.0.engine.look().await?;
        self.resume_tasks().await
    }

    /// Goes on with replays and deletions that nobody runs: a restart interrupted them, or whoever began them could not
    /// know that they were written.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn resume_tasks(&self) -> Result<(), StoreError> {
        tasks::resume(self).await
    }

    pub fn now(&self) -> Timestamp {
        self.0.engine.clock().now()
    }

    /// A time that goes on evenly however the clock is set. It says when to go on, and is never told anybody.
    pub fn steady(&self) -> Timestamp {
        self.0.engine.steady()
    }

    /// The profiles that this server knows.
    pub fn profiles(&self) -> &ProfileRegistry {
        self.0.engine.profiles()
    }

    /// The profile that new endpoints and events of an application get.
    ///
    /// # Errors
    /// `not_found`, and `internal` where this server does not have the profile.
    pub async fn profile_of(&self, application: Id<id::Application>) -> Result<CurrentProfile> {
        self.0.directory.profile(application).await
    }

    /// An application with its profile, for its portal.
    ///
    /// # Errors
    /// As [`Service::profile_of`].
    pub async fn product(
        &self,
        id: Id<id::Application>,
    ) -> Result<(Arc<Profile>, Arc<Application>)> {
        let profile = self.0.directory.profile(id).await?.profile;
        Ok((profile, self.0.directory.application(id).await?))
    }

    /// How the lane of an endpoint stands, which somebody may see; none of one that has nothing to do.
    pub fn lane(&self, endpoint: &Endpoint) -> Option<LaneSurvey> {
        self.0.engine.survey_of(endpoint.id)
    }

    /// What receivers may allow-list, and the region of tenants that name none.
    pub fn regions(&self) -> (&[RegionInfo], Option<&str>) {
        let options = &self.0.options;
        (&options.regions, options.default_region.as_deref())
    }

    /// Reads an id in the form that a profile gives to its own (Voucherify's project id).
    pub fn find_id<K: id::Kind>(
        &self,
        format: &postrider_core::profile::IdFormat,
        text: &str,
    ) -> Option<Id<K>> {
        format.find(text, self.0.store.ids())
    }

    fn store(&self) -> &dyn Store {
        &*self.0.store
    }

    fn engine(&self) -> &Arc<Engine> {
        &self.0.engine
    }
}
