//! Telling lanes what their endpoints are.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use postrider_core::{Id, id};

use super::Engine;
use crate::machine::Input;

/// How long a lane waits before it asks the store for its endpoint again.
pub(super) const CONFIGURE_RETRY: Duration = Duration::from_millis(500);
/// The longest such wait: it doubles while the endpoint cannot be read.
const CONFIGURE_RETRY_MAX: Duration = Duration::from_secs(30);

impl Engine {
    /// Reads the endpoints of all lanes anew, one after the other: there may be very many, and fresh ones do not wait for them.
    pub(super) async fn configure_all(self: Arc<Self>, lanes: Vec<Id<id::Endpoint>>, look: u64) {
        for endpoint in lanes {
            // Whoever looked again since reads all of them too.
            if self.stop.is_cancelled() || self.looks.load(Ordering::Relaxed) != look {
                return;
            }
            // One that cannot be read is tried again beside the others.
            if !self.configured(endpoint).await {
                self.spawn_configure(endpoint);
            }
        }
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
            match self.endpoints.lane_config(endpoint).await {
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
