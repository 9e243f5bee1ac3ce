//! Where schemas are checked: on threads of their own, a few at once, and the slow ones in turns.

use std::sync::Arc;

use postrider_core::{Id, id};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::refusal::{Refusal, Result};
use crate::turns::Turns;

/// Quick checks at once.
const QUICK_MAX: usize = 8;
/// Slow ones at once, and one of an application: they take a core each.
const SLOW_MAX: usize = 1;

pub(crate) struct Gate {
    quick: Arc<Semaphore>,
    slow: Arc<Semaphore>,
    applications: Turns<id::Application>,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            quick: Arc::new(Semaphore::new(QUICK_MAX)),
            slow: Arc::new(Semaphore::new(SLOW_MAX)),
            applications: Turns::default(),
        }
    }
}

/// A turn; it is held by the work itself, so that it lasts although whoever asked has gone.
pub(crate) struct Turn(Vec<OwnedSemaphorePermit>);

impl Gate {
    pub(super) async fn quick(&self) -> Result<Turn> {
        let permit = self.quick.clone().acquire_owned().await;
        Ok(Turn(vec![permit.map_err(Refusal::internal)?]))
    }

    /// First the application's turn, then one among all: who asks for much waits behind themselves.
    pub(crate) async fn slow(&self, application: Id<id::Application>) -> Result<Turn> {
        let own = self.applications.take(application).await?;
        let permit = self.slow.clone().acquire_owned().await;
        Ok(Turn(vec![own, permit.map_err(Refusal::internal)?]))
    }
}

impl Turn {
    pub(crate) async fn run<T: Send + 'static>(
        self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        off_the_workers(move || {
            let done = work();
            drop(self.0);
            done
        })
        .await
    }
}

/// Runs what may take long where no request waits for it.
pub(super) async fn off_the_workers<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(Refusal::internal)
}
