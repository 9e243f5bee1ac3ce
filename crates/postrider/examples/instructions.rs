//! Publishes so many events of 1 KB to one endpoint, from JSON to the record in a store on disk, and answers each attempt at
//! once: what a delivery costs without the network. `cargo xtask instructions` counts what the processor does for it.
//!
//! `cargo run -p postrider --example instructions 1000`

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use postrider_core::attempt::{Outcome, Response, Timings};
use postrider_core::seal::Sealer;
use postrider_engine::machine::MachineLimits;
use postrider_engine::{Clock, Engine, Exchange, ProfileRegistry, Request, SystemClock, Transport};
use postrider_service::{
    Caller, NewApplication, NewEndpoint, NewEvent, NewTenant, Sent, Service, new_root_key,
};
use postrider_store_sql::{Options, SqlStore};

/// Events that are published at once.
const GROUP: usize = 50;
/// Bytes of an event's data.
const BYTES: usize = 1_024;

/// Every receiver answers at once.
#[derive(Default)]
struct Answers(AtomicUsize);

#[async_trait::async_trait]
impl Transport for Answers {
    async fn send(&self, request: &Request) -> Exchange {
        // As the wire has it, so that nothing of it is made for nobody.
        std::hint::black_box(request);
        self.0.fetch_add(1, Ordering::Relaxed);
        Exchange {
            outcome: Outcome::Answered {
                status: 200,
                retry_after_secs: None,
            },
            response: Some(Response {
                headers: vec![("content-length".to_owned(), "2".to_owned())],
                body: "ok".into(),
                truncated: false,
            }),
            timings: Timings::default(),
            egress: None,
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let count: usize = std::env::args().nth(1).ok_or("how many?")?.parse()?;
    let directory = tempfile::tempdir()?;
    let store = Arc::new(SqlStore::open(directory.path(), &Options::default())?);
    let sealer = Arc::new(Sealer::new(&[7; 32], &[]));
    let answers = Arc::new(Answers::default());
    let engine = Engine::start(postrider_engine::Options {
        store: store.clone(),
        transport: answers.clone(),
        clock: Arc::new(SystemClock),
        profiles: Arc::new(ProfileRegistry::load(&*store, Vec::new()).await?),
        sealer: sealer.clone(),
        limits: MachineLimits::default(),
        counted_tenants: 0,
        tracer: None,
    })
    .await?;
    let options = postrider_service::Options::default();
    let service = Service::new(store.clone(), engine.clone(), sealer, options);
    let root = new_root_key(&*store, SystemClock.now()).await?;
    let operator = service.admit(service.prove(root.expose(), None).await?, None)?;
    let tenant = tenant(&service, &operator).await?;

    let body = format!(
        r#"{{"type":"order.completed","data":{{"orderId":"1","text":"{}"}}}}"#,
        "x".repeat(BYTES)
    );
    let raw = bytes::Bytes::from(body);
    let events = (0..count).collect::<Vec<_>>();
    for group in events.chunks(GROUP) {
        let events = group.iter().map(|_| {
            let event: NewEvent<'_> = serde_json::from_slice(&raw).expect("it is an event");
            let sent = Sent {
                raw: &raw,
                whole: Some(&raw),
                traceparent: None,
            };
            Ok((event, sent))
        });
        let published = service.publish_many(&operator, tenant, events).await?;
        assert!(published.iter().all(Result::is_ok));
    }
    while answers.0.load(Ordering::Relaxed) < count {
        tokio::task::yield_now().await;
    }
    let soon = tokio::time::Instant::now() + Duration::from_secs(60);
    assert!(engine.drain(soon, Duration::from_secs(1)).await);
    Ok(())
}

async fn tenant(
    service: &Service,
    operator: &Caller,
) -> postrider_service::Result<postrider_core::Id<postrider_core::id::Tenant>> {
    let shop = NewApplication {
        name: "shop".to_owned(),
        profile: "standard".to_owned(),
        settings: None,
    };
    let shop = service.create_application(operator, shop).await?;
    let ada = NewTenant {
        name: "Ada Ltd".to_owned(),
        ..NewTenant::default()
    };
    let ada = service.create_tenant(operator, shop.id, ada).await?.tenant;
    let hook = NewEndpoint {
        url: "https://ada.example/hooks".to_owned(),
        ..NewEndpoint::default()
    };
    service.create_endpoint(operator, ada.id, hook).await?;
    Ok(ada.id)
}
