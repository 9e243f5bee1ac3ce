//! What is to be forgotten, by clocks that are set.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use postrider_core::seal::Sealer;
use postrider_core::{Id, Timestamp};
use postrider_engine::machine::MachineLimits;
use postrider_engine::{Clock, Engine, Exchange, Options, ProfileRegistry, Request, Transport};
use postrider_store::Keys;
use postrider_store::conformance::fixture::secs;
use postrider_store::memory::MemoryStore;
use tokio::time::Instant;

/// Between two sweeps, and a little more.
const SWEPT: Duration = Duration::from_secs(61);

/// The wall clock is set; the other one goes on with the runtime's.
struct Set {
    begun: Instant,
    ahead_secs: AtomicU64,
}

impl Clock for Set {
    fn now(&self) -> Timestamp {
        let ahead = Duration::from_secs(self.ahead_secs.load(Ordering::Relaxed));
        secs(1_000_000).plus(self.elapsed() + ahead)
    }

    fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }
}

struct Nowhere;

#[async_trait]
impl Transport for Nowhere {
    async fn send(&self, request: &Request) -> Exchange {
        panic!("a request to {}", request.url)
    }
}

/// Whoever caught a signed request could send it again as soon as the clock was set back.
#[tokio::test(start_paused = true)]
async fn a_nonce_is_not_forgotten_by_a_step_forward_and_back() {
    let store = Arc::new(MemoryStore::new(1));
    let profiles = ProfileRegistry::load(&*store, Vec::new()).await.unwrap();
    let clock = Arc::new(Set {
        begun: Instant::now(),
        ahead_secs: AtomicU64::new(0),
    });
    let engine = Engine::start(Options {
        store: store.clone(),
        transport: Arc::new(Nowhere),
        clock: clock.clone(),
        profiles: Arc::new(profiles),
        sealer: Arc::new(Sealer::new(&[7; 32], &[])),
        limits: MachineLimits::default(),
        counted_tenants: 0,
        tracer: None,
    })
    .await
    .unwrap();
    let (key, kept) = (Id::from_u128(1), Duration::from_secs(600));
    let until = clock.now().plus(kept);
    assert!(store.use_nonce(key, "n", until).await.unwrap());
    clock.ahead_secs.store(3_600, Ordering::Relaxed);
    tokio::time::sleep(SWEPT).await;
    clock.ahead_secs.store(0, Ordering::Relaxed);
    assert!(
        !store.use_nonce(key, "n", until).await.unwrap(),
        "it was used"
    );
    // When its time is over by both clocks, it is.
    tokio::time::sleep(kept + SWEPT).await;
    assert!(store.use_nonce(key, "n", until).await.unwrap());
    engine.drain(Instant::now(), Duration::ZERO).await;
}
