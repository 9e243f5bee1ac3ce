//! What a supervisor such as systemd is told: that the server is ready, stops, and lives. Without one nobody is.

use std::convert::Infallible;
use std::time::Duration;

/// A supervisor is told this often in the time after which it would take the process for dead.
const TIMES: u32 = 3;

/// Tells that the server answers and delivers.
pub(crate) fn ready() {
    #[cfg(target_os = "linux")]
    told(&[sd_notify::NotifyState::Ready]);
}

/// Tells that it finishes what is under way.
pub(crate) fn stopping() {
    #[cfg(target_os = "linux")]
    told(&[sd_notify::NotifyState::Stopping]);
}

/// Tells as often as the supervisor wants to know that the process lives; where it does not, this never ends either.
/// Whoever awaits it has to be what the server cannot live without.
pub(crate) async fn lives() -> Infallible {
    let Some(patience) = patience() else {
        return std::future::pending().await;
    };
    let mut interval = tokio::time::interval(patience / TIMES);
    loop {
        interval.tick().await;
        #[cfg(target_os = "linux")]
        told(&[sd_notify::NotifyState::Watchdog]);
    }
}

/// How long the supervisor waits for a sign of life, if it does.
fn patience() -> Option<Duration> {
    #[cfg(target_os = "linux")]
    {
        sd_notify::watchdog_enabled()
    }
    #[cfg(not(target_os = "linux"))]
    {
        None
    }
}

#[cfg(target_os = "linux")]
fn told(state: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "failed to tell the supervisor"
        );
    }
}
