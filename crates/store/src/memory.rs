//! The model: a store in memory. Small enough to be believed, fast enough for the simulation.
//!
//! It keeps nothing over a restart; a simulated crash keeps the store and drops the engine.

mod catch_up;
mod erase;
mod hot;
mod log;
mod manage;
mod outbox;
mod retention;
mod seam;
mod sessions;
mod users;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use postrider_core::Timestamp;
use postrider_core::attempt::Attempt;
use postrider_core::audit::AuditEntry;
use postrider_core::delivery::Delivery;
use postrider_core::endpoint::Endpoint;
use postrider_core::event::Event;
use postrider_core::id::IdGenerator;
use postrider_core::notice::Notice;
use postrider_core::session::Session;
use postrider_core::tenant::{ApiKey, Application, EventType, Tenant};
use postrider_core::user::User;

use crate::{FirstUse, ProfileRecord, Store, StoreError, Target, Task};

#[derive(Debug)]
pub struct MemoryStore {
    ids: IdGenerator,
    state: Mutex<State>,
    weather: Option<Arc<dyn Weather>>,
}

/// What happens to an engine's calls of the model, for simulations: they are answered late, or never, or fail.
#[async_trait]
pub trait Weather: std::fmt::Debug + Send + Sync {
    /// Before a call has read or changed anything; an error is its answer.
    async fn before(&self) -> Result<(), StoreError>;
    /// After a commit, before anybody hears of it; an error is the answer of all its writes.
    async fn after_commit(&self) -> Result<(), StoreError>;
}

#[derive(Debug, Default)]
struct State {
    applications: BTreeMap<u128, Application>,
    tenants: BTreeMap<u128, Tenant>,
    event_types: BTreeMap<(u128, String), EventType>,
    endpoints: BTreeMap<u128, EndpointRow>,
    events: BTreeMap<u128, Arc<Event>>,
    /// Whom each event was published to.
    addressees: HashMap<u128, Target>,
    deliveries: BTreeMap<u128, DeliveryRow>,
    /// Pending deliveries by endpoint and place.
    pending: BTreeMap<(u128, i64, u128), ()>,
    attempts: HashMap<u128, Vec<Attempt>>,
    idempotency: HashMap<(u128, String), IdempotencyRow>,
    keys: BTreeMap<u128, ApiKey>,
    sessions: BTreeMap<u128, Session>,
    users: BTreeMap<u128, User>,
    nonces: HashMap<(u128, String), Timestamp>,
    profiles: Vec<ProfileRecord>,
    tasks: BTreeMap<u128, Task>,
    audit: BTreeMap<u128, AuditEntry>,
    notices: BTreeMap<u128, Notice>,
    last_sequence: i64,
}

#[derive(Debug, Clone)]
struct EndpointRow {
    endpoint: Endpoint,
    deleted: bool,
}

#[derive(Debug)]
struct DeliveryRow {
    delivery: Delivery,
    sequence: i64,
}

#[derive(Debug)]
struct IdempotencyRow {
    first: FirstUse,
    at: Timestamp,
}

impl MemoryStore {
    pub fn new(salt: u64) -> Self {
        Self {
            ids: IdGenerator::new(salt, 0),
            state: Mutex::default(),
            weather: None,
        }
    }

    /// A model whose callers have weather.
    pub fn in_weather(salt: u64, weather: Arc<dyn Weather>) -> Self {
        Self {
            weather: Some(weather),
            ..Self::new(salt)
        }
    }

    async fn before(&self) -> Result<(), StoreError> {
        match &self.weather {
            Some(weather) => weather.before().await,
            None => Ok(()),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The answer to each write of a transaction that failed as a whole.
fn failed(error: &StoreError) -> StoreError {
    match error {
        // It alone leaves open whether anything was written; after any other error nothing was.
        StoreError::OutcomeUnknown { .. } => StoreError::OutcomeUnknown {
            source: error.to_string().into(),
        },
        error => StoreError::aborted(error.to_string()),
    }
}

#[async_trait]
impl Store for MemoryStore {
    fn ids(&self) -> &IdGenerator {
        &self.ids
    }

    async fn sweep(&self, idempotency_before: Timestamp, now: Timestamp) -> Result<(), StoreError> {
        let mut state = self.state();
        state
            .idempotency
            .retain(|_, row| row.at >= idempotency_before);
        state.nonces.retain(|_, expires_at| *expires_at > now);
        state.sessions.retain(|_, row| row.expires_at > now);
        Ok(())
    }

    async fn ping(&self) -> Result<(), StoreError> {
        Ok(())
    }
}
