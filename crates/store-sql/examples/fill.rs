//! Fills the store of a server that is stopped, faster than a server could: what a year leaves behind, or what a long night
//! of dead receivers does.
//!
//! ```text
//! cargo run --release -p postrider-store-sql --example fill -- DIRECTORY|postgres://… DELIVERIES finished|pending
//! ```
//!
//! The events are for the tenants that are there, in turn, and go to all of their endpoints.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a tool for measuring, not a part of the server"
)]

use std::path::Path;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use postrider_core::Timestamp;
use postrider_core::event::Event;
use postrider_core::health::HealthChange;
use postrider_core::judge::Next;
use postrider_core::tenant::{Mode, Tenant};
use postrider_store::conformance::fixture::record;
use postrider_store::{
    Batch, Catalogue as _, Lanes as _, NewEvent, PageRequest, Store, Target, TenantFilter,
};
use postrider_store_sql::{Options, PostgresOptions, SqlStore};

/// Events in one commit.
const GROUP: usize = 64;
/// As small as events are: it is about their number.
const PAYLOAD: &[u8] = br#"{"orderId":"ord_2aFzKq0Q","total":"19.90","currency":"EUR"}"#;
/// Tenants asked for at once, and in all.
const PAGE: usize = 200;
const TENANTS_MAX: usize = 20_000;

#[tokio::main]
async fn main() {
    let args: Vec<String> = std::env::args().collect();
    let (directory, total) = (Path::new(&args[1]), args[2].parse::<usize>().unwrap());
    let ends = match args[3].as_str() {
        "finished" => true,
        "pending" => false,
        other => panic!("{other} is neither finished nor pending"),
    };
    let store = if args[1].starts_with("postgres://") {
        let options = PostgresOptions {
            url: args[1].clone(),
            ..PostgresOptions::default()
        };
        SqlStore::connect(options).await.unwrap()
    } else {
        SqlStore::open(directory, &Options::default()).unwrap()
    };
    let (tenants, profile) = tenants(&store).await;
    let begun = Instant::now();
    let (mut turns, mut waiting, mut done) = (tenants.iter().cycle(), Vec::new(), 0);
    while done < total {
        let now = now();
        let mut batch = Batch::of_records(std::mem::take(&mut waiting));
        batch.publishes.extend(
            turns
                .by_ref()
                .take(GROUP)
                .map(|tenant| publishing(&store, tenant, profile, now)),
        );
        let answers = store.commit_all(now.into(), batch).await;
        assert!(answers.records.iter().all(Result::is_ok));
        for published in answers.publishes {
            let published = published.unwrap();
            done += published.deliveries.len();
            assert!(published.count > 0, "a tenant has no endpoint");
            if ends {
                waiting.extend(published.deliveries.iter().map(|due| {
                    let (id, endpoint) = (due.delivery.id, due.delivery.endpoint);
                    record(id, endpoint, 1, Next::Delivered, HealthChange::Success, now)
                }));
            }
        }
    }
    let rest = store
        .commit_all(now().into(), Batch::of_records(waiting))
        .await;
    assert!(rest.records.iter().all(Result::is_ok));
    println!("{done} deliveries in {:.0?}", begun.elapsed());
}

/// Those of the first application, and the version of its profile.
async fn tenants(store: &SqlStore) -> (Vec<Tenant>, u32) {
    let applications = store
        .list_applications(PageRequest::first(1))
        .await
        .unwrap();
    let application = applications.rows.first().expect("there is no application");
    let profiles = store.profiles().await.unwrap();
    let versions = profiles
        .iter()
        .filter(|profile| *profile.name == *application.profile);
    let version = versions.map(|profile| profile.version).max().unwrap();
    let mut tenants = Vec::new();
    let mut page = PageRequest::first(PAGE);
    loop {
        let found = store
            .list_tenants(TenantFilter::of(application.id), page)
            .await;
        let found = found.unwrap();
        tenants.extend(found.rows);
        match found.next {
            Some(next) if tenants.len() < TENANTS_MAX => page.cursor = Some(next),
            _ => return (tenants, version),
        }
    }
}

fn publishing(store: &SqlStore, tenant: &Tenant, profile: u32, now: Timestamp) -> NewEvent {
    NewEvent {
        event: Arc::new(Event {
            id: store.ids().next(now),
            application: tenant.application,
            tenant: tenant.id,
            event_type: "load.test".into(),
            data: Bytes::from_static(PAYLOAD),
            meta: None,
            mode: Mode::Live,
            occurred_at: now,
            created_at: now,
            ordering_key: None,
            deliver_before: None,
            traceparent: None,
        }),
        target: Target::Matching,
        profile,
        idempotency: None,
    }
}

fn now() -> Timestamp {
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap();
    Timestamp::from_micros(i64::try_from(since.as_micros()).unwrap())
}
