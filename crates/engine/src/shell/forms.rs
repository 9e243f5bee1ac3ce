//! Long forms of a body, that some profiles sign: a few kilobytes may make megabytes of them, which is too much for the
//! threads that serve everybody.

use postrider_core::event::Event;
use postrider_core::limits::FLAT_INLINE_BYTES_MAX;
use postrider_core::profile::Profile;

use crate::turns::{SharedTurn, SharedTurns};

/// Long forms that are made at once, of one tenant and of all.
const LONG_MAX: usize = 1;

/// Turns for making long forms.
pub(super) struct Forms(SharedTurns);

impl Default for Forms {
    fn default() -> Self {
        Self(SharedTurns::new(LONG_MAX, LONG_MAX))
    }
}

/// A turn for making one long form.
pub(super) struct Turn(SharedTurn);

impl Forms {
    /// Waits for a turn, where what the profile signs of the event may be long.
    pub(super) async fn turn(&self, profile: &Profile, event: &Event) -> Option<Turn> {
        if event.data.len() <= FLAT_INLINE_BYTES_MAX || !profile.signs_flat_forms() {
            return None;
        }
        Some(Turn(self.0.take(event.tenant).await))
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
            drop(self.0);
            made
        };
        let made = tokio::task::spawn_blocking(making).await;
        made.unwrap_or_else(|ended| std::panic::resume_unwind(ended.into_panic()))
    }
}
