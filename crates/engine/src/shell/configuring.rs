//! Telling lanes what their endpoints are.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use postrider_core::{Id, id};

use super::Engine;
use crate::machine::Input;

/// How long a lane waits before it asks the store for its endpoint again.
pub(super) const CONFIGURE_RETRY: Duration = Duration::from_millis(500);
/// Lanes that are told anew at once, when all are.
const CONFIGURED_AT_ONCE: usize = 64;
/// The longest such wait: it doubles while the endpoint cannot be read.
const CONFIGURE_RETRY_MAX: Duration = Duration::from_secs(30);

impl Engine {
    /// Reads the endpoints of all lanes anew, some at a time: there may be very many, and fresh ones do not wait for them.
    pub(super) async fn configure_all(self: Arc<Self>, lanes: Vec<Id<id::Endpoint>>, look: u64) {
        let engine = &self;
        let each = stream::iter(lanes).map(|endpoint| async move {
            // Whoever looked again since reads all of them too.
            if engine.stop.is_cancelled() || engine.looks.load(Ordering::Relaxed) != look {
                return;
            }
            // One that cannot be read is tried again beside the others.
            if !engine.configured(endpoint).await {
                engine.spawn_configure(endpoint);
            }
        });
        each.buffer_unordered(CONFIGURED_AT_ONCE)
            .collect::<()>()
            .await;
    }

    pub(super) fn spawn_configure(self: &Arc<Self>, endpoint: Id<id::Endpoint>) {
        let engine = self.clone();
        self.tasks
            .spawn(async move { engine.configure(endpoint).await });
    }

    /// Tells a lane what its endpoint is now, as soon as that can be read.
    async fn configure(self: &Arc<Self>, endpoint: Id<id::Endpoint>) {
        let mut pause = CONFIGURE_RETRY;
        while !self.configured(endpoint).await {
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(CONFIGURE_RETRY_MAX);
        }
    }

    /// The same, once; false when its endpoint cannot be read.
    pub(super) async fn configured(self: &Arc<Self>, endpoint: Id<id::Endpoint>) -> bool {
        loop {
            // Before the endpoint is read, so that a change in between shows.
            let changes = self.endpoints.changes(endpoint);
            let turn = self.configures.acquire().await;
            let read = self.endpoints.lane_config(endpoint).await;
            // Not over a pause: an endpoint that cannot be read does not keep others from being read.
            drop(turn);
            match read {
                // It changed while it was read: what was read may be old.
                Ok(_) if self.endpoints.changes(endpoint) != changes => {}
                Ok(config) => {
                    self.apply(Input::Configure { endpoint, config });
                    return true;
                }
                // It was erased with its tenant, and its deliveries before it.
                Err(error) if error.is_not_found() => return true,
                Err(error) => {
                    self.metrics.lane_reads_failed.inc();
                    tracing::warn!(endpoint.id = %endpoint, error = &error as &dyn std::error::Error, "failed to read an endpoint; trying again");
                    return false;
                }
            }
        }
    }
}
