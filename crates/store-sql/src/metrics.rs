//! What the store does beside answering, and how long it takes: commits wait meanwhile, or may have to.

use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use tokio::time::Instant;

/// The store's times.
#[derive(Debug)]
pub struct Metrics {
    /// Copying the log beside the writer.
    pub(crate) copies: Histogram,
    /// Entering a piece into its segment, for which the next commit waits.
    pub(crate) pieces: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        // From 1 ms to 8.2 s.
        let times = || Histogram::new(exponential_buckets(0.001, 2.0, 14));
        Self {
            copies: times(),
            pieces: times(),
        }
    }
}

impl Metrics {
    /// Adds all of them to what is shown.
    pub fn register(&self, registry: &mut Registry) {
        registry.register_with_unit(
            "checkpoint",
            "Copying the write-ahead log into the database, beside commits",
            Unit::Seconds,
            self.copies.clone(),
        );
        registry.register_with_unit(
            "segment_piece",
            "Entering what was accepted into its segment, between two commits",
            Unit::Seconds,
            self.pieces.clone(),
        );
    }
}

/// Does something and notes how long it took.
pub(crate) fn timed<T>(times: &Histogram, work: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let done = work();
    times.observe(begun.elapsed().as_secs_f64());
    done
}
