//! A database that this server owns, as it looks from beside the connection that writes.

use std::pin::pin;
use std::time::Duration;

use tokio::sync::watch;

use crate::postgres::{self, Source};
use crate::sql::SqlError;

/// Between two looks at a database that does not answer. With the second one something is done: a process that stood still
/// finds the first one due at once.
// No statement of the writer takes as long; a commit may, where it waits for a standby.
const ANSWER_EXPECTED: Duration = Duration::from_secs(15);

/// How long such a look may take.
const LOOK_TIME_MAX: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) source: Source,
    pub(crate) epoch: i64,
    /// Turns true when somebody else owns it.
    pub(crate) lost: watch::Receiver<bool>,
}

impl Held {
    pub(crate) fn is_lost(&self) -> bool {
        *self.lost.borrow()
    }

    /// Waits for the writer. While its database says nothing, looks by another connection whether it ever will: a pooler or a
    /// proxy keeps a connection as if all were well whose other end is gone.
    pub(crate) async fn answered<T>(&self, answer: impl Future<Output = T>) -> T {
        let mut answer = pin!(answer);
        let mut looks: u32 = 0;
        loop {
            let look = async {
                tokio::time::sleep(ANSWER_EXPECTED).await;
                looks += 1;
                if looks > 1 {
                    self.see(ANSWER_EXPECTED * looks).await;
                }
            };
            tokio::select! {
                answered = &mut answer => return answered,
                () = look => {}
            }
        }
    }

    async fn see(&self, silent_for: Duration) {
        let (source, epoch) = (self.source.clone(), self.epoch);
        let look = tokio::task::spawn_blocking(move || postgres::works_for(&source, epoch));
        let silent_secs = silent_for.as_secs();
        // The new way may be as silent as the other one.
        let looked = tokio::time::timeout(LOOK_TIME_MAX, look).await;
        match looked.unwrap_or(Ok(Err(SqlError::Unreachable(
            "it does not answer on another connection either".to_owned(),
        )))) {
            Ok(Ok(true)) => tracing::warn!(
                silent_secs,
                "the database does not answer: it works for the last question, or waits for a standby; nothing is accepted meanwhile"
            ),
            Ok(Ok(false)) => {
                tracing::warn!(
                    silent_secs,
                    "the database does not answer, and does nothing for this server: the way there is broken, and taken anew"
                );
                self.source.give_up();
            }
            Ok(Err(error)) => {
                tracing::warn!(
                    silent_secs,
                    error = &error as &dyn std::error::Error,
                    "the database does not answer, nor can it be asked why; the way there is taken anew"
                );
                self.source.give_up();
            }
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        }
    }
}
