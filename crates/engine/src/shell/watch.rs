//! Tasks that must run as long as the server does.

use tokio_util::sync::CancellationToken;

/// Tells when its task ends early, by a panic or otherwise: a server without it would answer and
/// not deliver, or the other way round.
#[derive(Debug)]
pub struct Watch {
    name: &'static str,
    stop: CancellationToken,
    failed: CancellationToken,
}

impl Watch {
    /// Cancels `failed` when the task ends before `stop` is cancelled.
    pub fn new(name: &'static str, stop: &CancellationToken, failed: &CancellationToken) -> Self {
        Self {
            name,
            stop: stop.clone(),
            failed: failed.clone(),
        }
    }

    /// Runs the task.
    pub async fn over(self, task: impl Future<Output = ()>) {
        task.await;
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if !self.stop.is_cancelled() {
            tracing::error!(
                task = self.name,
                "a task that must run has ended; the server stops"
            );
            self.failed.cancel();
        }
    }
}
