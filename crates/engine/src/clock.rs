//! The clocks, as arguments.

use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use postrider_core::Timestamp;
use postrider_core::time::Moment;

/// Tells the time.
pub trait Clock: Send + Sync + 'static {
    /// The wall clock: what people and receivers read. It may be set forward and back.
    fn now(&self) -> Timestamp;
    /// How long this process runs, or anything else that goes on evenly and never back.
    fn elapsed(&self) -> Duration;
}

/// The machine's clocks.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

#[expect(
    clippy::disallowed_methods,
    reason = "this is the one place that reads the clocks"
)]
impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            // A clock that shows an earlier time is taken for 1970, the first that has a text (`Timestamp`).
            .unwrap_or_default();
        Timestamp::from_micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
    }

    fn elapsed(&self) -> Duration {
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        START.elapsed()
    }
}

/// What the steady clock may be ahead of the wall clock at a start before it is told.
const AHEAD_TOLD: Duration = Duration::from_secs(300);

/// Both clocks together. The steady one begins where the wall clock is, or where the store's last
/// process left it if that is later: what was made to wait by it goes on waiting in the same order.
pub(crate) struct Clocks {
    clock: Arc<dyn Clock>,
    begin: Timestamp,
    begun: Duration,
}

impl Clocks {
    pub(crate) fn new(clock: Arc<dyn Clock>, not_before: Timestamp) -> Self {
        let wall = clock.now();
        if not_before.since(wall) > AHEAD_TOLD {
            tracing::warn!(
                %wall,
                steady = %not_before,
                "the clock is behind what the last process saw: what waits was planned by that, and waits as long as it would have then"
            );
        }
        Self {
            begin: wall.max(not_before),
            begun: clock.elapsed(),
            clock,
        }
    }

    pub(crate) fn wall(&self) -> &dyn Clock {
        &*self.clock
    }

    pub(crate) fn now(&self) -> Moment {
        Moment {
            wall: self.clock.now(),
            steady: self
                .begin
                .plus(self.clock.elapsed().saturating_sub(self.begun)),
        }
    }
}
