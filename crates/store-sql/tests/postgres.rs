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
    first.lost(|| (), |()| ()).await;
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

/// Of another user than the cluster's owner.
fn as_user(url: &str, user: &str) -> String {
    url.replacen("postgres@", &format!("{user}@"), 1)
}

#[tokio::test]
async fn a_password_that_is_replaced_lets_the_next_connection_in() {
    let server = Postgres::start();
    let url = server.database();
    let rules = "local all postgres trust\nlocal all all scram-sha-256\n";
    std::fs::write(server.directory().join("data/pg_hba.conf"), rules).unwrap();
    assert!(server.execute(
        &url,
        "set password_encryption = 'scram-sha-256'; create role app login password 'one'; grant create on database test_0 to app;
         select pg_reload_conf()"
    ));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("password");
    std::fs::write(&file, "one\n").unwrap();
    let options = PostgresOptions {
        password_file: Some(file.clone()),
        ..at(&as_user(&url, "app"))
    };
    let store = SqlStore::connect(options).await.unwrap();
    let cut = "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'app'";
    let other = format!("alter role app password 'two'; {cut}");
    assert!(server.execute(&url, &other));
    // Whoever publishes is to come back later, and not to be told of a fault of this server's.
    let refused = store.ping().await;
    assert!(
        matches!(refused, Err(StoreError::Unavailable { .. })),
        "{refused:?}"
    );
    std::fs::write(&file, "two\n").unwrap();
    while store.ping().await.is_err() {}
}

#[tokio::test]
async fn a_database_that_cannot_keep_every_text_is_refused() {
    let url = Postgres::shared().database();
    let sql = "create database latin encoding 'LATIN1' locale 'C' template template0";
    assert!(Postgres::shared().execute(&url, sql));
    let (server, _) = url.rsplit_once('/').unwrap();
    let refused = SqlStore::connect(at(&format!("{server}/latin"))).await;
    let told = refused.unwrap_err().to_string();
    assert!(told.contains("LATIN1") && told.contains("UTF8"), "{told}");
}

#[tokio::test]
async fn a_schema_that_somebody_made_for_it_will_do() {
    let url = Postgres::shared().database();
    let sql = "create role tenantless login; create schema postrider authorization tenantless";
    assert!(Postgres::shared().execute(&url, sql));
    let store = SqlStore::connect(at(&as_user(&url, "tenantless")))
        .await
        .unwrap();
    store.ping().await.unwrap();
}

#[tokio::test]
async fn an_owner_whose_database_is_not_its_own_any_more_hears_of_it_while_it_is_connected() {
    let url = Postgres::shared().database();
    let store = SqlStore::connect(at(&url)).await.unwrap();
    let sql = "update postrider.meta set value = value - 1 where key = 'epoch'";
    assert!(Postgres::shared().execute(&url, sql));
    store.lost(|| (), |()| ()).await;
}

#[tokio::test]
async fn who_cannot_open_what_is_stored_does_not_take_the_place_of_who_can() {
    let url = Postgres::shared().database();
    {
        let store = SqlStore::connect(at(&url)).await.unwrap();
        world(&store).await;
    }
    let sql = "create table seen as select value from postrider.meta where key = 'epoch'";
    assert!(Postgres::shared().execute(&url, sql));
    let options = PostgresOptions {
        opens: Some(std::sync::Arc::new(|_, _| false)),
        ..at(&url)
    };
    let refused = loop {
        match SqlStore::connect(options.clone()).await {
            Err(OpenError::Owned { .. }) => tokio::task::yield_now().await,
            other => break other,
        }
    };
    assert!(
        matches!(refused, Err(OpenError::Sealed { .. })),
        "{refused:?}"
    );
    let same = "select 1 / (case when (select value from seen) = (select value from postrider.meta where key = 'epoch') then 1 else 0 end)";
    assert!(Postgres::shared().execute(&url, same));
}

/// Products publish while a new version starts: it does not stand in their way for long, and comes again.
#[tokio::test(flavor = "multi_thread")]
async fn tables_that_somebody_uses_are_brought_on_later() {
    let url = Postgres::shared().database();
    drop(SqlStore::connect(at(&url)).await.unwrap());
    drop(owned(&url).await);
    // As the version before had left it.
    let back = "drop index postrider.outbox_turns; update postrider.meta set value = value - 1 where key = 'schema'";
    assert!(Postgres::shared().execute(&url, back));
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls)
        .await
        .unwrap();
    #[expect(clippy::disallowed_methods, reason = "it ends with its client")]
    tokio::spawn(connection);
    let used = "begin; lock table postrider.outbox in row exclusive mode";
    client.batch_execute(used).await.unwrap();
    let busy = loop {
        match SqlStore::connect(at(&url)).await {
            Err(OpenError::Owned { .. }) => tokio::task::yield_now().await,
            other => break other,
        }
    };
    assert!(matches!(&busy, Err(error) if error.is_busy()), "{busy:?}");
    client.batch_execute("rollback").await.unwrap();
    drop(owned(&url).await);
    let there = "select 1 / (select count(*) from pg_indexes where indexname = 'outbox_turns')";
    assert!(Postgres::shared().execute(&url, there));
}
