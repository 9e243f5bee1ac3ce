//! What long work has in common: it has time, and waits for a store that fails for a while.

use std::time::Duration;

use postrider_store::{StoreError, TaskState};

pub(super) const PAUSE: Duration = Duration::from_millis(500);
pub(super) const PAUSE_MAX: Duration = Duration::from_secs(30);

/// How a task stands, and what it failed of.
pub(super) fn shown(state: TaskState) -> (&'static str, Option<String>) {
    match state {
        TaskState::Running => ("running", None),
        TaskState::Finished => ("finished", None),
        TaskState::Cancelled => ("cancelled", None),
        TaskState::Failed(error) => ("failed", Some(error)),
    }
}

/// Tries again until the store answers, at most `tries_max` times: a task has time, and whoever asked
/// for it has gone.
pub(super) async fn patiently<T, F>(tries_max: u32, ask: impl Fn() -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let mut pause = PAUSE;
    let mut tries: u32 = 0;
    loop {
        match ask().await {
            Err(error) if is_passing(&error) && tries < tries_max => {
                tries += 1;
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "a task waits for the store"
                );
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
            answer => return answer,
        }
    }
}

/// Whether the same call may succeed later.
pub(super) fn is_passing(error: &StoreError) -> bool {
    matches!(
        error,
        StoreError::TooLong
            | StoreError::Full
            | StoreError::Unavailable { .. }
            | StoreError::Aborted { .. }
            | StoreError::OutcomeUnknown { .. }
    )
}
