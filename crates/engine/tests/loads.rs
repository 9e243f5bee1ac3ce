//! How much a server reads at once whose store has work for very many lanes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use postrider_core::Timestamp;
use postrider_core::health::HealthChange;
use postrider_core::judge::Next;
use postrider_core::seal::Sealer;
use postrider_engine::machine::MachineLimits;
use postrider_engine::{Clock, Engine, Exchange, Options, ProfileRegistry, Request, Transport};
use postrider_store::StoreError;
use postrider_store::conformance::fixture::{at, record, secs, world};
use postrider_store::memory::{MemoryStore, Weather};
use tokio::time::Instant;

const LANES: usize = 100;
/// Pages that are read at once (`LOADS_MAX`).
const AT_ONCE: usize = 8;
/// How long a call of the store lasts.
const LATENCY: Duration = Duration::from_millis(100);

/// Calls of the store.
#[derive(Debug, Default)]
struct Calls {
    begun: usize,
    under_way: usize,
    most_under_way: usize,
}

/// Each call takes its time, and those that do are counted.
#[derive(Debug, Default)]
struct Slow(Mutex<Calls>);

impl Slow {
    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Weather for Slow {
    async fn before(&self) -> Result<(), StoreError> {
        {
            let mut calls = self.calls();
            calls.begun += 1;
            calls.under_way += 1;
            calls.most_under_way = calls.most_under_way.max(calls.under_way);
        }
        tokio::time::sleep(LATENCY).await;
        self.calls().under_way -= 1;
        Ok(())
    }

    async fn after_commit(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

/// Both clocks go on with the runtime's.
struct Virtual(Instant);

impl Clock for Virtual {
    fn now(&self) -> Timestamp {
        secs(1).plus(self.elapsed())
    }

    fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

/// Nothing is due while this test runs.
struct Nowhere;

#[async_trait]
impl Transport for Nowhere {
    async fn send(&self, request: &Request) -> Exchange {
        panic!("a request to {} before its time", request.url)
    }
}

#[tokio::test(start_paused = true)]
async fn a_hundred_lanes_with_work_have_a_few_of_their_pages_read_at_once() {
    let slow = Arc::new(Slow::default());
    let store = Arc::new(MemoryStore::in_weather(1, slow.clone()));
    let world = world(&*store).await;
    for _ in 0..LANES {
        world.endpoint().await;
    }
    // All wait for one moment beyond the horizon, and so for their pages until a minute before it.
    let retry = Next::Retry { at: secs(200) };
    let failed = HealthChange::Failure {
        delivery_failed: false,
    };
    let waiting = world.publish(at(1)).await.deliveries;
    assert_eq!(waiting.len(), LANES);
    for due in waiting {
        let (delivery, endpoint) = (due.delivery.id, due.delivery.endpoint);
        let attempt = record(delivery, endpoint, 1, retry, failed, at(2));
        assert!(world.record(at(2), attempt).await.unwrap().applied);
    }
    let limits = MachineLimits::default();
    assert_eq!(limits.horizon, Duration::from_secs(60));
    let profiles = ProfileRegistry::load(&*store, Vec::new()).await.unwrap();
    let engine = Engine::start(Options {
        store: store.clone(),
        transport: Arc::new(Nowhere),
        clock: Arc::new(Virtual(Instant::now())),
        profiles: Arc::new(profiles),
        sealer: Arc::new(Sealer::new(&[7; 32], &[])),
        limits,
        counted_tenants: 0,
        tracer: None,
    })
    .await
    .unwrap();
    // By then it knows each lane's endpoint, and has nothing more to ask for.
    tokio::time::sleep(Duration::from_secs(130)).await;
    assert_eq!(slow.calls().under_way, 0);
    *slow.calls() = Calls::default();
    tokio::time::sleep(Duration::from_secs(30)).await;
    {
        let calls = slow.calls();
        assert_eq!((calls.begun, calls.under_way), (LANES, 0));
        assert_eq!(calls.most_under_way, AT_ONCE);
    }
    engine.drain(Instant::now(), Duration::ZERO).await;
}
