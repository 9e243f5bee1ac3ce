//! Deliveries and events are found and counted alike, whatever of them is in a segment.

#![expect(
    clippy::unwrap_used,
    reason = "a test stops where something is not as it must be"
)]

use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::time::Duration;

use postrider_core::Timestamp;
use postrider_core::delivery::FailReason;
use postrider_core::health::HealthChange;
use postrider_core::judge::Next;
use postrider_core::{Id, id};
use postrider_store::conformance::fixture::{World, at, record, secs, world};
use postrider_store::{
    Batch, Cursor, DeliveryFilter, EventFilter, Lanes as _, PageRequest, Statistics,
    StatisticsQuery, Store,
};
use postrider_store_sql::{Options, Segments, SqlStore, examine, pending};

/// Nothing is entered.
const NONE: Segments = Segments {
    piece: u32::MAX,
    size: u32::MAX,
};
/// Of ten deliveries and their events, seven are in two segments.
const SMALL: Segments = Segments { piece: 4, size: 3 };

fn open(directory: &Path, segments: Segments) -> SqlStore {
    let options = Options {
        salt: 7,
        segments,
        ..Options::default()
    };
    SqlStore::open(directory, &options).unwrap()
}

/// All that can be asked about a tenant and its endpoint, page by page.
#[derive(Debug, PartialEq)]
struct Seen {
    deliveries: Vec<Vec<Id<id::Delivery>>>,
    of_endpoint: Vec<Id<id::Delivery>>,
    events: Vec<Id<id::Event>>,
    statistics: Vec<Statistics>,
}

async fn look(store: &dyn Store, tenant: Id<id::Tenant>, endpoint: Id<id::Endpoint>) -> Seen {
    let of_tenant = |oldest_first| DeliveryFilter {
        tenant: Some(tenant),
        oldest_first,
        ..DeliveryFilter::default()
    };
    let of_endpoint = DeliveryFilter {
        endpoint: Some(endpoint),
        event_type: Some("even".into()),
        ..DeliveryFilter::default()
    };
    let mut statistics = Vec::new();
    for (since, until) in [(0, 1_000), (3, 8), (0, 5), (5, 5)] {
        // By five minutes tallies can answer, by seven they cannot.
        for minutes in [5, 7] {
            let query = StatisticsQuery {
                tenant,
                since: minute(since),
                until: minute(until),
                event_type: None,
                endpoint: None,
                mode: None,
                state: None,
                outcomes: true,
                period: Duration::from_secs(60 * minutes),
            };
            statistics.push(store.statistics(query).await.unwrap());
        }
    }
    Seen {
        deliveries: vec![
            deliveries(store, of_tenant(false)).await,
            deliveries(store, of_tenant(true)).await,
        ],
        of_endpoint: deliveries(store, of_endpoint).await,
        events: events(store, tenant).await,
        statistics,
    }
}

async fn deliveries(store: &dyn Store, filter: DeliveryFilter) -> Vec<Id<id::Delivery>> {
    let (mut found, mut cursor): (_, Option<Cursor>) = (Vec::new(), None);
    loop {
        let page = PageRequest { limit: 4, cursor };
        let page = store.list_deliveries(filter.clone(), page).await.unwrap();
        found.extend(page.rows.iter().map(|row| row.id));
        cursor = page.next;
        if cursor.is_none() {
            return found;
        }
    }
}

async fn events(store: &dyn Store, tenant: Id<id::Tenant>) -> Vec<Id<id::Event>> {
    let filter = EventFilter {
        tenant: Some(tenant),
        ..EventFilter::default()
    };
    let (mut found, mut cursor): (_, Option<Cursor>) = (Vec::new(), None);
    loop {
        let page = PageRequest { limit: 4, cursor };
        let page = store.list_events(filter.clone(), page).await.unwrap();
        found.extend(page.rows.iter().map(|row| row.id));
        cursor = page.next;
        if cursor.is_none() {
            return found;
        }
    }
}

fn minute(minutes: i64) -> Timestamp {
    secs(60 * minutes)
}

/// Ten events, a minute apart, of two kinds.
async fn ten(world: &World<'_>) -> Vec<Id<id::Delivery>> {
    world.store.put_profile("standard", "").await.unwrap();
    let mut made = Vec::new();
    for i in 0..10 {
        let kind = if i % 2 == 0 { "even" } else { "odd" };
        let new = world.publishing(minute(i), kind);
        let published = world.publish_new(minute(i), new).await.unwrap();
        made.push(published.deliveries[0].delivery.id);
    }
    made
}

async fn ten_events(world: &World<'_>) {
    for i in 0..10 {
        let new = world.publishing(minute(i), "even");
        world.publish_new(minute(i), new).await.unwrap();
    }
}

/// One fails, one is delivered at the second attempt: both long after they were entered.
async fn go_on(world: &World<'_>, endpoint: Id<id::Endpoint>, made: &[Id<id::Delivery>]) {
    let stopped = Next::Failed(FailReason::Stopped);
    let failed = record(
        made[0],
        endpoint,
        1,
        stopped,
        HealthChange::None,
        minute(20),
    );
    world.record(minute(20), failed).await.unwrap();
    let later = Next::Retry { at: minute(22) };
    let retried = record(made[4], endpoint, 1, later, HealthChange::None, minute(21));
    world.record(minute(21), retried).await.unwrap();
    let done = record(
        made[4],
        endpoint,
        2,
        Next::Delivered,
        HealthChange::Success,
        minute(22),
    );
    world.record(minute(22), done).await.unwrap();
}

#[tokio::test]
async fn what_an_earlier_version_stored_is_entered_when_it_is_opened() {
    let directory = tempfile::tempdir().unwrap();
    let (tenant, endpoint, expected) = {
        let store = open(directory.path(), NONE);
        let world = world(&store).await;
        let endpoint = world.endpoint().await;
        let made = ten(&world).await;
        go_on(&world, endpoint, &made).await;
        let seen = look(&store, world.tenant, endpoint).await;
        assert_eq!(seen.deliveries[0].len(), 10);
        assert_eq!(seen.of_endpoint.len(), 5);
        assert_eq!(seen.events.len(), 10);
        (world.tenant, endpoint, seen)
    };
    as_of_version_4(directory.path());
    let left = pending(directory.path()).unwrap();
    assert_eq!((left.found, left.steps[0].0), (4, 5));
    assert_eq!(left.steps.len(), left.known - 4);
    let store = open(directory.path(), SMALL);
    assert_eq!(pending(directory.path()).unwrap().steps, []);
    assert_eq!(entered(directory.path()), (2, 7, 7, 7));
    assert_eq!(look(&store, tenant, endpoint).await, expected);
    drop(store);
    assert_eq!(examine(directory.path()).unwrap().findings, []);
}

#[tokio::test]
async fn what_is_in_segments_is_counted_as_it_changes() {
    let (by_rows, by_tallies) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut seen = Vec::new();
    for (directory, segments) in [(&by_rows, NONE), (&by_tallies, SMALL)] {
        let store = open(directory.path(), segments);
        let world = world(&store).await;
        let endpoint = world.endpoint().await;
        let made = ten(&world).await;
        go_on(&world, endpoint, &made).await;
        seen.push(look(&store, world.tenant, endpoint).await.statistics);
    }
    // Ids differ from store to store; counts do not.
    let counts = |statistics: &[Statistics]| -> Vec<_> {
        let of_types = statistics.iter().flat_map(|one| &one.by_type);
        of_types.cloned().collect()
    };
    assert_eq!(counts(&seen[0]), counts(&seen[1]));
    let series = |statistics: &[Statistics]| -> Vec<_> {
        statistics.iter().map(|one| one.series.clone()).collect()
    };
    assert_eq!(series(&seen[0]), series(&seen[1]));
    let outcomes = |statistics: &[Statistics]| -> Vec<_> {
        let outcomes = statistics.iter();
        outcomes.map(|one| one.outcomes.clone()).collect()
    };
    assert_eq!(outcomes(&seen[0]), outcomes(&seen[1]));
    let (name, whole) = &seen[1][0].by_type[0];
    assert_eq!((&**name, whole.delivered), ("even", 1));
    assert_eq!((whole.failed, whole.pending), (1, 3));
    assert_eq!(whole.attempts, 3);
    assert_eq!(examine(by_tallies.path()).unwrap().findings, []);
}

#[tokio::test]
async fn events_that_nobody_gets_fill_segments_too() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path(), SMALL);
    let world = world(&store).await;
    ten_events(&world).await;
    assert_eq!(entered(directory.path()), (2, 0, 0, 8));
}

#[tokio::test]
async fn an_event_whose_id_others_have_overtaken_is_listed_in_its_place() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path(), Segments { piece: 1, size: 2 });
    let world = world(&store).await;
    world.endpoint().await;
    let early = world.publishing(at(1), "order.completed");
    let expected = early.event.id;
    let mut others = Vec::new();
    for i in 2..6 {
        others.push(world.publish(at(i)).await.event);
    }
    world.publish_new(at(6), early).await.unwrap();
    others.reverse();
    others.push(expected);
    assert_eq!(events(&store, world.tenant).await, others);
}

/// What a version had entered that counted no outcomes stays by itself: what comes later is counted from its beginning.
#[tokio::test]
async fn a_segment_from_before_outcomes_takes_nothing_more() {
    let directory = tempfile::tempdir().unwrap();
    let large = Segments {
        piece: 4,
        size: 1_000,
    };
    let size_of = |number: i64| {
        let connection = rusqlite::Connection::open(directory.path().join("postrider.db")).unwrap();
        let sql = "select size from segment where number = ?1";
        connection
            .query_row(sql, [number], |row| row.get::<_, i64>(0))
            .unwrap_or(0)
    };
    {
        let store = open(directory.path(), large);
        let world = world(&store).await;
        world.endpoint().await;
        ten_events(&world).await;
        assert_eq!((size_of(1), size_of(2)), (8, 0));
        // As the migration leaves such a store.
        let connection = rusqlite::Connection::open(directory.path().join("postrider.db")).unwrap();
        let sql = "update meta set value = 2 where key = 'outcomes_from'";
        assert_eq!(connection.execute(sql, []).unwrap(), 1);
        ten_events(&world).await;
    }
    assert_eq!((size_of(1), size_of(2)), (8, 12));
}

/// A page of counted outcomes has those of many tenants: where it is damaged, statistics lack something, and no attempt its
/// record.
#[tokio::test]
async fn a_damaged_page_of_counts_costs_no_record() {
    let directory = tempfile::tempdir().unwrap();
    let ends = |delivery, endpoint| {
        record(
            delivery,
            endpoint,
            1,
            Next::Delivered,
            HealthChange::Success,
            minute(30),
        )
    };
    let (made, endpoint) = {
        let store = open(directory.path(), SMALL);
        let world = world(&store).await;
        let endpoint = world.endpoint().await;
        let made = ten(&world).await;
        world
            .record(minute(30), ends(made[0], endpoint))
            .await
            .unwrap();
        (made, endpoint)
    };
    let file = directory.path().join("postrider.db");
    let connection = rusqlite::Connection::open(&file).unwrap();
    connection
        .query_row("pragma wal_checkpoint(truncate)", [], |_| Ok(()))
        .unwrap();
    let sql = "select rootpage, page_size from sqlite_master, pragma_page_size where name = 'outcome_tally'";
    let (page, size): (i64, i64) = connection
        .query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?)))
        .unwrap();
    drop(connection);
    let (page, size) = (page.unsigned_abs(), size.unsigned_abs());
    let mut open_file = std::fs::OpenOptions::new().write(true).open(&file).unwrap();
    open_file.seek(SeekFrom::Start((page - 1) * size)).unwrap();
    let rubbish = vec![0xa5; usize::try_from(size).unwrap()];
    open_file.write_all(&rubbish).unwrap();
    drop(open_file);

    let store = open(directory.path(), SMALL);
    // One is in a segment, one is not yet.
    let records = [ends(made[1], endpoint), ends(made[9], endpoint)];
    let written = store
        .commit_all(minute(30).into(), Batch::of_records(records))
        .await;
    for answer in &written.records {
        assert!(
            answer.as_ref().is_ok_and(|recorded| recorded.applied),
            "{answer:?}"
        );
    }
    assert_eq!(written.records.len(), 2);
}

#[tokio::test]
async fn a_segment_that_lacks_something_is_found() {
    let directory = tempfile::tempdir().unwrap();
    {
        let store = open(directory.path(), SMALL);
        let world = world(&store).await;
        world.endpoint().await;
        ten(&world).await;
    }
    let connection = rusqlite::Connection::open(directory.path().join("postrider.db")).unwrap();
    for sql in [
        "delete from delivery_of_tenant where segment = 1 and key in (select min(key) from delivery_of_tenant)",
        "update tally set deliveries = deliveries + 1 where segment = 2",
    ] {
        assert!(connection.execute(sql, []).unwrap() > 0);
    }
    drop(connection);
    let found = examine(directory.path()).unwrap().findings;
    let found: Vec<_> = found.iter().map(|f| (&*f.table, f.row)).collect();
    assert_eq!(found, [("segment", Some(1)), ("segment", Some(2))]);
    SqlStore::rebuild(directory.path()).unwrap();
    assert_eq!(examine(directory.path()).unwrap().findings, []);
}

/// The file as the version before segments left it.
fn as_of_version_4(directory: &Path) {
    let connection = rusqlite::Connection::open(directory.join("postrider.db")).unwrap();
    connection
        .execute_batch(
            "drop index endpoint_deleted; drop table tally; drop table outcome_tally; delete from meta where key = 'outcomes_from'; drop table event_of_tenant; drop table delivery_of_endpoint;
             drop table delivery_of_tenant; drop table segment; drop table outbox;
             alter table endpoint drop column content_filter; alter table api_key drop column read_only;
             drop index endpoint_external; alter table endpoint drop column external_id; alter table endpoint drop column metadata;
             alter table tenant drop column metadata; alter table event_type drop column vendor;
             drop index api_key_previous; alter table api_key drop column rotated_at; alter table api_key drop column previous_hash;
             alter table api_key drop column previous_sealed; alter table api_key drop column previous_since; alter table api_key drop column previous_until;
             drop index endpoint_failing; alter table meta drop column text; drop table console_user; drop index session_of_user; alter table session drop column user_id; alter table audit drop column user_id;
             create index event_tenant on event (tenant_id, id);
             create index delivery_tenant on delivery (tenant_id, id);
             create index delivery_endpoint on delivery (endpoint_id, id);
             pragma user_version = 4;",
        )
        .unwrap();
}

/// Segments, and what is in them: deliveries by tenant and by endpoint, events.
fn entered(directory: &Path) -> (i64, i64, i64, i64) {
    let connection = rusqlite::Connection::open(directory.join("postrider.db")).unwrap();
    let count = |table: &str| {
        let sql = format!("select count(*) from {table}");
        connection.query_row(&sql, [], |row| row.get(0)).unwrap()
    };
    (
        count("segment"),
        count("delivery_of_tenant"),
        count("delivery_of_endpoint"),
        count("event_of_tenant"),
    )
}
