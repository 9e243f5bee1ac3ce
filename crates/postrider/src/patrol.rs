//! The round that looks at everything that is stored, again and again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use postrider_store_sql::{Patrolled, SqlStore};

/// Between two pieces of some rows each: 2,000 rows a second, and some 1 % of a core.
const BETWEEN_PIECES: Duration = Duration::from_millis(100);
/// Between two rounds.
const BETWEEN_ROUNDS: Duration = Duration::from_secs(24 * 3_600);
/// While the store cannot be read.
const STORE_PAUSE: Duration = Duration::from_secs(30);
/// Findings of a round that are told one by one.
const TOLD_MAX: u64 = 20;

/// For ever. `damaged` is what the last whole round found, and at least what this one has found so far.
pub(crate) async fn patrol(store: Arc<SqlStore>, damaged: Arc<AtomicU64>) {
    loop {
        let found = round(&store, &damaged).await;
        damaged.store(found, Ordering::Relaxed);
        tokio::time::sleep(BETWEEN_ROUNDS).await;
    }
}

async fn round(store: &SqlStore, damaged: &AtomicU64) -> u64 {
    let mut found: u64 = 0;
    let mut from = Patrolled::default();
    loop {
        match store.patrol(from.clone()).await {
            Ok((findings, next)) => {
                for finding in findings {
                    found += 1;
                    damaged.fetch_max(found, Ordering::Relaxed);
                    if found <= TOLD_MAX {
                        let (table, row, what) = (finding.table, finding.row, finding.what);
                        tracing::error!(
                            table,
                            row,
                            what,
                            "something that is stored cannot be read; postrider doctor tells all"
                        );
                    }
                }
                // Only here does it move on: a piece that could not be read is asked for again.
                match next {
                    None => return found,
                    Some(next) => from = next,
                }
            }
            // It is told by whoever needs it now; this has time.
            Err(error) => {
                tracing::debug!(
                    error = &error as &dyn std::error::Error,
                    "the round waits for the store"
                );
                tokio::time::sleep(STORE_PAUSE).await;
            }
        }
        tokio::time::sleep(BETWEEN_PIECES).await;
    }
}
