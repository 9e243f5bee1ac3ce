//! Long forms of a body, that some profiles sign: a few kilobytes may make megabytes of them, which is too much for the
//! threads that serve everybody.

use std::sync::Arc;

use postrider_core::event::Event;
use postrider_core::limits::FLAT_INLINE_BYTES_MAX;
use postrider_core::profile::Profile;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::turns::Turns;

/// Long forms that are made at once.
const LONG_MAX: usize = 1;

/// Turns for making long forms: first among the tenant's own, then among all tenants.
pub(super) struct Forms {
    tenants: Turns,
    all: Arc<Semaphore>,
}

impl Default for Forms {
    fn default() -> Self {
        Self {
            tenants: Turns::default(),
            all: Arc::new(Semaphore::new(LONG_MAX)),
        }
    }
}

/// A turn for making one long form.
pub(super) struct Turn {
    _tenants: OwnedSemaphorePermit,
    _all: Option<OwnedSemaphorePermit>,
}

impl Forms {
    /// Waits for a turn, where what the profile signs of the event may be long.
    pub(super) async fn turn(&self, profile: &Profile, event: &Event) -> Option<Turn> {
        if event.data.len() <= FLAT_INLINE_BYTES_MAX || !profile.signs_flat_forms() {
            return None;
        }
        let tenants = self.tenants.take(event.tenant).await;
        // Nobody closes it.
        let all = self.all.clone().acquire_owned().await.ok();
        Some(Turn {
            _tenants: tenants,
            _all: all,
        })
    }
}

impl Turn {
    /// Makes a form off the threads that serve everybody. A panic goes on where it is waited for.
    pub(super) async fn run<T: Send + 'static>(
        self,
        make: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        let making = move || {
            let made = make();
            // Held by the work itself: it lasts although whoever waited has gone.
            drop(self);
            made
        };
        let made = tokio::task::spawn_blocking(making).await;
        made.unwrap_or_else(|ended| std::panic::resume_unwind(ended.into_panic()))
    }
}
