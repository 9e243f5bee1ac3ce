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

#[cfg(test)]
mod tests {
    use std::panic::AssertUnwindSafe;

    use futures_util::FutureExt as _;

    use super::*;

    /// Whether the server hears that a task has ended.
    async fn is_told(stop: &CancellationToken, task: impl Future<Output = ()>) -> bool {
        let failed = CancellationToken::new();
        let watched = Watch::new("a task of a test", stop, &failed).over(task);
        drop(AssertUnwindSafe(watched).catch_unwind().await);
        failed.is_cancelled()
    }

    async fn breaks_off() {
        panic!("it breaks off")
    }

    #[tokio::test]
    async fn a_task_that_ends_early_is_told_however_it_ends() {
        let stop = CancellationToken::new();
        assert!(is_told(&stop, async {}).await, "it returned");
        assert!(is_told(&stop, breaks_off()).await, "it broke off");
    }

    #[tokio::test]
    async fn a_task_that_ends_at_the_stop_is_not_told() {
        let stop = CancellationToken::new();
        // The stop comes while it runs, as it does to those that wait for it.
        let ends = async { stop.cancel() };
        assert!(!is_told(&stop, ends).await, "it returned");
        assert!(!is_told(&stop, breaks_off()).await, "it broke off");
    }
}
