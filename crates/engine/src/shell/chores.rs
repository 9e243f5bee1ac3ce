//! What goes on beside attempts: the time, what is swept, and lanes that are closed.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use postrider_core::delivery::DeliveryState;
use postrider_core::{Id, Timestamp, id};

use super::Engine;
use super::configuring::CONFIGURE_RETRY;
use crate::machine::Input;

/// Rows that one transaction gives their final state when an endpoint is closed.
const FINISH_ROWS: u32 = 1_000;
/// The timer wakes at least this often, whatever the machine waits for.
const TIMER_MAX: Duration = Duration::from_secs(60);
/// How often expired idempotency keys and nonces are forgotten, and how far the steady clock has come is noted.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

impl Engine {
    pub(super) async fn finish_pending(
        self: Arc<Self>,
        endpoint: Id<id::Endpoint>,
        state: DeliveryState,
    ) {
        let mut has_ended_any = false;
        while !self.stop.is_cancelled() {
            let began = self.now().steady;
            match self
                .store
                .finish_pending(endpoint, state, self.now().wall, FINISH_ROWS)
                .await
            {
                // Nothing is left, or it is enabled: then its lane reads what it has, once it knows.
                Ok(0) => {
                    if !has_ended_any {
                        self.spawn_configure(endpoint);
                    }
                    break;
                }
                Ok(finished) => {
                    has_ended_any = true;
                    self.metrics.closed(state, finished);
                    // It rests as long as it worked: what everybody publishes goes by the same writer.
                    tokio::time::sleep(self.now().steady.since(began)).await;
                }
                Err(error) if error.is_not_found() => break,
                Err(error) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "failed to finish a closed lane; trying again"
                    );
                    tokio::time::sleep(CONFIGURE_RETRY).await;
                }
            }
        }
        self.apply(Input::PendingFinished { endpoint });
    }

    pub(super) async fn run_timer(self: Arc<Self>) {
        loop {
            let wake = {
                let machine = self.machine.lock().unwrap_or_else(PoisonError::into_inner);
                let wake = machine.next_wake();
                self.timer_at.store(
                    // Where nothing is waited for, any wish is sooner.
                    wake.map_or(i64::MAX, Timestamp::as_micros),
                    Ordering::Relaxed,
                );
                wake
            };
            let sleep = wake.map_or(TIMER_MAX, |at| at.since(self.now().steady).min(TIMER_MAX));
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = self.timer.notified() => {}
                () = tokio::time::sleep(sleep) => self.apply(Input::Tick),
            }
        }
    }

    pub(super) async fn run_sweeper(self: Arc<Self>) {
        let kept = Duration::from_secs(postrider_core::limits::IDEMPOTENCY_HOURS * 3_600);
        loop {
            let now = self.now();
            // By both clocks: a nonce that a step forward swept away could be used again after a step back.
            let over_by_both = now.wall.min(now.steady);
            // Each by itself: the sweep makes room, which the note needs.
            for done in [
                self.store.sweep(now.steady.minus(kept), over_by_both).await,
                self.store.note_steady(now.steady).await,
            ] {
                if let Err(error) = done {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "failed to sweep, or to note the time; trying again later"
                    );
                }
            }
            tokio::select! {
                () = self.stop.cancelled() => break,
                () = tokio::time::sleep(SWEEP_EVERY) => {}
            }
        }
        // The next process begins here.
        drop(self.store.note_steady(self.now().steady).await);
    }
}
