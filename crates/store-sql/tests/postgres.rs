//! The rules of the store on PostgreSQL, and what only a database on another machine can do to it.

#![expect(
    clippy::unwrap_used,
    reason = "a test stops where something is not as it must be"
)]

use postrider_core::delivery::DeliveryState;
use postrider_core::endpoint::Endpoint;
use postrider_store::conformance::fixture::{by, secs, world};
use postrider_store::{
    Catalogue as _, EventFilter, Lanes as _, PageRequest, Records as _, Store as _, StoreError,
};
use postrider_store_sql::{OpenError, PostgresOptions, Segments, SqlStore};
use postrider_testkit::Postgres;

fn at(url: &str) -> PostgresOptions {
    PostgresOptions {
        url: url.to_owned(),
        salt: 42,
        ..PostgresOptions::default()
    }
}

/// Waits until the database is nobody's.
async fn owned(url: &str) -> SqlStore {
    loop {
        match SqlStore::connect(at(url)).await {
            Ok(store) => return store,
            Err(OpenError::Owned { .. }) => tokio::task::yield_now().await,
            Err(error) => panic!("{error:?}"),
        }
    }
}

/// Ends all connections to a database, as a firewall or its operator does.
fn cut_off(url: &str) {
    let sql = "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'postrider' and datname = current_database()";
    assert!(Postgres::shared().execute(url, sql));
}

async fn fresh(segments: Segments) -> Box<SqlStore> {
    let options = PostgresOptions {
        segments,
        ..at(&Postgres::shared().database())
    };
    Box::new(SqlStore::connect(options).await.unwrap())
}

/// Everything is in no segment yet.
mod behind_the_segments {
    postrider_store::store_conformance!(super::fresh(super::Segments::default()).await);
}

/// Something is always in no segment yet.
mod in_part {
    const PART: super::Segments = super::Segments { piece: 2, size: 2 };
    postrider_store::store_conformance!(super::fresh(PART).await);
}

#[tokio::test]
async fn what_is_accepted_is_entered_into_segments() {
    let url = Postgres::shared().database();
    let options = PostgresOptions {
        segments: Segments { piece: 2, size: 2 },
        ..at(&url)
    };
    let store = SqlStore::connect(options).await.unwrap();
    {
        let world = world(&store).await;
        world.endpoint().await;
        for second in 0..7 {
            world.publish(secs(second)).await;
        }
    }
    // Entering comes behind the commit: the next transaction comes behind that.
    store.ping().await.unwrap();
    for count in [
        "(select count(*) from postrider.segment) >= 2",
        "(select count(*) from postrider.delivery_of_endpoint) >= 3",
        "(select count(*) from postrider.event_of_tenant) >= 3",
        "(select sum(deliveries) from postrider.tally) = (select count(*) from postrider.delivery_of_tenant)",
    ] {
        let must = format!("select 1 / (case when {count} then 1 else 0 end)");
        assert!(Postgres::shared().execute(&url, &must), "{count}");
    }
}

#[tokio::test]
async fn a_database_has_one_owner_and_the_next_finds_everything() {
    let url = Postgres::shared().database();
    let first = SqlStore::connect(at(&url)).await.unwrap();
    let event = {
        let world = world(&first).await;
        world.endpoint().await;
        world.publish(secs(1)).await.event
    };
    let second = SqlStore::connect(at(&url)).await;
    assert!(matches!(second, Err(OpenError::Owned { .. })), "{second:?}");
    drop(first);
    let second = owned(&url).await;
    assert_eq!(second.event(event).await.unwrap().id, event);
    assert_eq!(second.backlog().await.unwrap().len(), 1);
}

#[tokio::test]
async fn an_owner_that_was_cut_off_writes_no_more_once_another_has_taken_over() {
    let url = Postgres::shared().database();
    let first = SqlStore::connect(at(&url)).await.unwrap();
    let endpoint = {
        let world = world(&first).await;
        let endpoint = world.endpoint().await;
        world.publish(secs(1)).await;
        endpoint
    };
    cut_off(&url);
    let second = owned(&url).await;
    let late = first.finish_pending(endpoint, DeliveryState::Cancelled, secs(2), 10);
    let late = late.await;
    assert!(
        matches!(late, Err(StoreError::Unavailable { .. })),
        "{late:?}"
    );
    let late = first.ping().await;
    assert!(
        matches!(late, Err(StoreError::Unavailable { .. })),
        "{late:?}"
    );
    first.lost().await;
    assert_eq!(second.backlog().await.unwrap().len(), 1);
}

#[tokio::test]
async fn an_owner_that_was_cut_off_goes_on_where_nobody_has_taken_over() {
    let url = Postgres::shared().database();
    let store = SqlStore::connect(at(&url)).await.unwrap();
    let world = world(&store).await;
    world.endpoint().await;
    world.publish(secs(1)).await;
    for _ in 0..2 {
        cut_off(&url);
        while store.ping().await.is_err() {}
        world.publish(secs(2)).await;
        world.publish(secs(3)).await;
    }
    assert_eq!(store.backlog().await.unwrap().len(), 1);
    let page = PageRequest::first(10);
    let events = store.list_events(EventFilter::default(), page).await;
    assert_eq!(events.unwrap().rows.len(), 5);
}

#[tokio::test]
async fn what_a_crashed_database_acknowledged_is_there_when_it_is_back() {
    let mut server = Postgres::start();
    let url = server.database();
    let store = SqlStore::connect(at(&url)).await.unwrap();
    let world = world(&store).await;
    world.endpoint().await;
    let event = world.publish(secs(1)).await.event;
    server.crash();
    let refused = store.ping().await;
    assert!(
        matches!(refused, Err(StoreError::Unavailable { .. })),
        "{refused:?}"
    );
    let refused = store.event(event).await;
    assert!(
        matches!(refused, Err(StoreError::Unavailable { .. })),
        "{refused:?}"
    );
    server.start_again();
    while store.ping().await.is_err() {}
    assert_eq!(store.event(event).await.unwrap().id, event);
    world.publish(secs(2)).await;
}

#[tokio::test]
async fn texts_that_the_database_cannot_hold_are_held_all_the_same() {
    let store = fresh(Segments::default()).await;
    let world = world(&*store).await;
    let endpoint = world.endpoint().await;
    let named = |endpoint: &mut Endpoint| endpoint.description = Some("a\0b".to_owned());
    let change = store.update_endpoint(endpoint, postrider_store::always(named), by());
    change.await.unwrap();
    let found = store.endpoint(endpoint).await.unwrap();
    assert_eq!(found.description.as_deref(), Some("a\u{fffd}b"));
}
