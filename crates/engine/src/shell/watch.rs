//! Tasks that must run as long as the engine does.

use tokio_util::sync::CancellationToken;

/// Tells when its task ends early, by a panic or otherwise: an engine without it would answer and
/// deliver nothing.
pub(super) struct Watch {
    name: &'static str,
    stop: CancellationToken,
    failed: CancellationToken,
}

impl Watch {
    pub(super) fn new(
        name: &'static str,
        stop: &CancellationToken,
        failed: &CancellationToken,
    ) -> Self {
        Self {
            name,
            stop: stop.clone(),
            failed: failed.clone(),
        }
    }

    pub(super) async fn over(self, task: impl Future<Output = ()>) {
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
