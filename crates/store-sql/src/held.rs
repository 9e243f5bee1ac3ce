//! A database that this server owns, as it looks from beside the connection that writes.

use std::pin::pin;
use std::sync::mpsc;
use std::time::Duration;

use tokio::sync::watch;

use crate::postgres::{self, Source};

/// Between two looks at a database that does not answer. With the second one something is done: a process that stood still
/// finds the first one due at once.
// No statement of the writer takes as long; a commit may, where it waits for a standby.
const ANSWER_EXPECTED: Duration = Duration::from_secs(15);

/// How long it is waited while the database refuses such a look: it may be the silent connections that take all the room.
const REFUSED_MAX: Duration = Duration::from_secs(120);

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
        let silent_secs = silent_for.as_secs();
        match postgres::works_for(&self.source, self.epoch).await {
            Ok(true) => tracing::warn!(
                silent_secs,
                "the database does not answer: it works for the last question, or waits for a standby; nothing is accepted meanwhile"
            ),
            Ok(false) => {
                tracing::warn!(
                    silent_secs,
                    "the database does not answer, and does nothing for this server: the way there is broken, and taken anew"
                );
                self.source.give_up();
            }
            Err(error) if error.is_an_answer() && silent_for < REFUSED_MAX => tracing::warn!(
                silent_secs,
                error = &error as &dyn std::error::Error,
                "the database does not answer, and cannot be asked why; it is there"
            ),
            Err(error) => {
                tracing::warn!(
                    silent_secs,
                    error = &error as &dyn std::error::Error,
                    "the database does not answer, nor can it be asked why; the way there is taken anew"
                );
                self.source.give_up();
            }
        }
    }

    /// Gives the way up if what is returned is not dropped soon: whoever waits for the writer's end would wait for ever.
    pub(crate) fn patience(&self) -> mpsc::Sender<()> {
        let (waits, over) = mpsc::channel();
        let source = self.source.clone();
        let watch = move || {
            let waited = over.recv_timeout(ANSWER_EXPECTED);
            if waited == Err(mpsc::RecvTimeoutError::Timeout) {
                source.give_up();
            }
        };
        // Without it the wait may be long, and that is all.
        drop(std::thread::Builder::new().spawn(watch));
        waits
    }
}
