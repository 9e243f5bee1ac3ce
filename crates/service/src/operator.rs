//! What the operator sees to: whether the server can do its work, and the key above all others.

use std::sync::atomic::Ordering;
use std::time::Duration;

use postrider_core::audit::Actor;
use postrider_core::limits::KEYS_MAX;
use postrider_core::tenant::{ApiKey, Mode, Scope};
use postrider_core::{Secret, Timestamp};
use postrider_engine::LastHour;
use postrider_engine::machine::Survey;
use postrider_store::{Store, StoreError};

use crate::caller::Caller;
use crate::refusal::Result;
use crate::{Service, random};

/// How often the store is asked whether it takes writes, at most.
const ASKED_EVERY: Duration = Duration::from_secs(1);

/// A server that takes events, and what of its store it cannot bring on.
#[derive(Debug, Clone, Copy)]
pub struct Readiness {
    /// Deliveries that wait for the next start because this process cannot bring them on: the log says of each
    /// why, and `postrider doctor` what cannot be read.
    pub set_aside: u64,
    /// Rows and tables that the last round through the store could not read.
    pub damaged: u64,
}

/// A node that follows this one.
#[derive(Debug, Clone)]
pub struct NodeStanding {
    /// Where other nodes reach it.
    pub url: String,
    pub version: String,
    pub follows_for: Duration,
    /// Attempts that it makes just now, and has made since it follows.
    pub under_way: usize,
    pub attempts: u64,
}

/// The nodes that follow this one.
pub trait Nodes: std::fmt::Debug + Send + Sync {
    fn followers(&self) -> Vec<NodeStanding>;
}

/// All nodes of the store.
#[derive(Debug, Clone)]
pub struct NodesStanding {
    /// Where the node that leads, and answers this, is reached by others.
    pub leader: String,
    pub followers: Vec<NodeStanding>,
}

impl Service {
    /// The nodes of the store; none where there is one, without an address for others.
    ///
    /// # Errors
    /// `scope_insufficient` for all but root keys.
    pub fn nodes(&self, caller: &Caller) -> Result<Option<NodesStanding>> {
        caller.must_be_root()?;
        let nodes = self.0.options.nodes.as_ref();
        Ok(nodes.map(|(leader, nodes)| NodesStanding {
            leader: leader.clone(),
            followers: nodes.followers(),
        }))
    }

    /// Who sees what the server measures of itself: it tells of all tenants.
    ///
    /// # Errors
    /// `scope_insufficient` for all but root keys.
    pub fn must_see_metrics(&self, caller: &Caller) -> Result<()> {
        caller.must_be_root()
    }

    /// What the engine has under way and what waits, over all tenants.
    ///
    /// # Errors
    /// `scope_insufficient` for all but root keys.
    pub fn survey(&self, caller: &Caller) -> Result<Survey> {
        caller.must_be_root()?;
        Ok(self.engine().survey())
    }

    /// How the attempts of the last hour went, over all tenants, as far as this process made them.
    ///
    /// # Errors
    /// `scope_insufficient` for all but root keys.
    pub fn last_hour(&self, caller: &Caller) -> Result<LastHour> {
        caller.must_be_root()?;
        Ok(self.engine().last_hour())
    }

    /// Whether the store takes writes, asked at most once a second however often this is called.
    ///
    /// # Errors
    /// What the store answers.
    pub async fn readiness(&self) -> Result<Readiness> {
        // Held while the store is asked: whoever asks meanwhile waits for the same answer.
        let mut asked = self.0.ready.lock().await;
        let now = self.now();
        // A clock that is set back must not keep an old answer good.
        if asked.is_none_or(|at| now.since(at) >= ASKED_EVERY || at > now) {
            // Only a good answer is kept: after a failure the next one asks again.
            *asked = None;
            self.store().ping().await?;
            *asked = Some(now);
        }
        Ok(Readiness {
            set_aside: self.engine().set_aside(),
            damaged: self.0.options.damaged.load(Ordering::Relaxed),
        })
    }
}

/// Makes a root key when none is there that is live and enabled, and returns its text: the only
/// time it can be seen.
///
/// # Errors
/// When the store fails.
pub async fn ensure_root_key(
    store: &dyn Store,
    now: Timestamp,
) -> Result<Option<Secret>, StoreError> {
    if store.has_root_key().await? {
        return Ok(None);
    }
    new_root_key(store, now).await.map(Some)
}

/// Makes a root key and returns its text: the only time it can be seen.
///
/// # Errors
/// When the store fails.
pub async fn new_root_key(store: &dyn Store, now: Timestamp) -> Result<Secret, StoreError> {
    let secret = random::key_text(Mode::Live);
    let key = ApiKey {
        id: store.ids().next(now),
        name: "root".to_owned(),
        scope: Scope::Root,
        mode: Mode::Live,
        secret_hash: postrider_core::seal::sha256(secret.expose().as_bytes()),
        public_id: None,
        sealed_secret: None,
        allowed_ips: Vec::new(),
        read_only: false,
        disabled_at: None,
        expires_at: None,
        created_at: now,
        rotated_at: None,
        previous: None,
    };
    store
        .create_key(key, None, KEYS_MAX, Actor::system(now))
        .await?;
    Ok(secret)
}
