//! What happens to the engine's calls of its store.

use std::sync::Arc;
use std::time::Duration;

use postrider_store::StoreError;

use super::Shared;

/// How long things take and how often they go wrong.
#[derive(Debug, Clone)]
pub(crate) struct Weather {
    /// Milliseconds at most for a call of the store.
    pub(crate) store_latency_ms: u64,
    /// One call in so many fails; 0 means none. Of commits that fail, some were made all the same.
    pub(crate) failure: u32,
    /// At one call in so many the process dies; 0 means none.
    pub(crate) crash: u32,
}

pub(crate) const FAIR: Weather = Weather {
    store_latency_ms: 0,
    failure: 0,
    crash: 0,
};

pub(crate) struct Skies(pub(super) Arc<Shared>);

impl std::fmt::Debug for Skies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Skies")
    }
}

/// What becomes of a call.
enum Fate {
    Dies,
    Fails,
    Passes(Duration),
}

impl Skies {
    fn fate(&self, after: bool) -> Fate {
        let mut state = self.0.state();
        if state.dead {
            return Fate::Dies;
        }
        if state.calm {
            return Fate::Passes(Duration::ZERO);
        }
        if after && std::mem::take(&mut state.lose_answer) {
            return Fate::Fails;
        }
        let weather = state.weather.clone();
        let rng = &mut state.rng;
        let mut one_in = |odds: u32| odds > 0 && rng.u32(0..odds) == 0;
        if one_in(weather.crash) {
            Fate::Dies
        } else if one_in(weather.failure) {
            Fate::Fails
        } else {
            let latency = state.rng.u64(0..=weather.store_latency_ms);
            Fate::Passes(Duration::from_millis(latency))
        }
    }
}

#[async_trait::async_trait]
impl postrider_store::memory::Weather for Skies {
    async fn before(&self) -> Result<(), StoreError> {
        match self.fate(false) {
            Fate::Dies => {
                self.0.die().await;
                Ok(())
            }
            Fate::Fails => Err(StoreError::aborted("bad weather")),
            Fate::Passes(Duration::ZERO) => Ok(()),
            Fate::Passes(latency) => {
                tokio::time::sleep(latency).await;
                Ok(())
            }
        }
    }

    async fn after_commit(&self) -> Result<(), StoreError> {
        match self.fate(true) {
            Fate::Dies => {
                self.0.die().await;
                Ok(())
            }
            Fate::Fails => {
                self.0.state().unknown += 1;
                Err(StoreError::OutcomeUnknown {
                    source: "bad weather".into(),
                })
            }
            Fate::Passes(_) => Ok(()),
        }
    }
}
