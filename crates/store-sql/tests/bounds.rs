//! What is bounded in the embedded store only: how many rows a list looks at, and what one damaged row costs.

use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use postrider_core::audit::Actor;
use postrider_core::endpoint::Endpoint;
use postrider_store::conformance::fixture::{World, at, by, secs, world};
use postrider_store::{
    Batch, Catalogue as _, DeliveryFilter, DueNotices, EventFilter, Lanes as _, Notices as _,
    PageRequest, Records as _, StatePattern, Store as _, StoreError,
};
use postrider_store_sql::{Options, SqlStore, plan};

/// More than a list looks at (`SCAN_ROWS_MAX`), both of what is in segments and of what is in none yet.
const MANY: usize = 42_000;

async fn publish(world: &World<'_>, event_type: &str, count: usize) {
    let batch = Batch::of_publishes((0..count).map(|_| world.publishing(at(1), event_type)));
    let answers = world.store.commit_all(at(1).into(), batch).await.publishes;
    assert!(answers.iter().all(Result::is_ok));
    assert_eq!(answers.len(), count);
}

#[tokio::test]
async fn a_rare_row_is_found_behind_many_others_in_a_later_page() {
    let directory = tempfile::tempdir().unwrap();
    let store = SqlStore::open(directory.path(), &Options::default()).unwrap();
    let world = world(&store).await;
    world.endpoint().await;
    publish(&world, "rare", 1).await;
    publish(&world, "common", MANY).await;
    let mut page = PageRequest::first(50);
    let rare = |since| DeliveryFilter {
        tenant: Some(world.tenant),
        event_type: Some("rare".into()),
        since,
        ..DeliveryFilter::default()
    };
    let first = store.list_deliveries(rare(None), page).await.unwrap();
    assert!(first.rows.is_empty() && first.next.is_some(), "{first:?}");
    let mut found = first;
    // How much is in no segment yet, nobody knows: it takes a page of its own or not.
    while found.rows.is_empty() {
        page.cursor = Some(found.next.unwrap());
        found = store.list_deliveries(rare(None), page).await.unwrap();
    }
    assert_eq!((found.rows.len(), found.next), (1, None));
    let events = EventFilter {
        tenant: Some(world.tenant),
        event_type: Some("rare".into()),
        ..EventFilter::default()
    };
    page.cursor = None;
    let first = store.list_events(events.clone(), page).await.unwrap();
    assert!(first.rows.is_empty());
    let mut found = first;
    while found.rows.is_empty() {
        page.cursor = Some(found.next.unwrap());
        found = store.list_events(events.clone(), page).await.unwrap();
    }
    assert_eq!((found.rows.len(), found.next), (1, None));
    // What an index serves needs no second page.
    page.cursor = None;
    let later = rare(Some(secs(1)));
    let none = store.list_deliveries(later, page).await.unwrap();
    assert_eq!((none.rows.len(), none.next), (0, None));
}

#[tokio::test]
async fn what_failed_is_looked_for_in_its_own_index_or_in_pages() {
    let directory = tempfile::tempdir().unwrap();
    let store = SqlStore::open(directory.path(), &Options::default()).unwrap();
    let world = world(&store).await;
    let endpoint = world.endpoint().await;
    publish(&world, "common", MANY).await;
    let page = PageRequest::first(50);
    let failed = DeliveryFilter {
        state: Some(StatePattern::Failed),
        ..DeliveryFilter::default()
    };
    // Of all tenants no index serves it: some rows are looked at, and there are more.
    let of_all = store.list_deliveries(failed.clone(), page).await.unwrap();
    assert!(of_all.rows.is_empty() && of_all.next.is_some());
    for narrow in [
        DeliveryFilter {
            tenant: Some(world.tenant),
            ..failed.clone()
        },
        DeliveryFilter {
            endpoint: Some(endpoint),
            ..failed.clone()
        },
    ] {
        let found = store.list_deliveries(narrow, page).await.unwrap();
        assert!(found.rows.is_empty() && found.next.is_none());
    }
}

/// After a start everybody's endpoints are read together.
#[tokio::test]
async fn what_cannot_be_read_of_one_endpoint_or_tenant_costs_no_other_its_lane() {
    let directory = tempfile::tempdir().unwrap();
    let store = SqlStore::open(directory.path(), &Options::default()).unwrap();
    let world = world(&store).await;
    let neighbour = world.a_tenant(store.ids().next(at(0)), None);
    store
        .create_tenant(neighbour.clone(), "standard".into(), by())
        .await
        .unwrap();
    let own = world.endpoint().await;
    let bad = world.endpoint().await;
    let beside = Endpoint {
        tenant: neighbour.id,
        ..world.an_endpoint()
    };
    let beside_id = beside.id;
    store.create_endpoint(beside, None, by()).await.unwrap();
    let connection = rusqlite::Connection::open(directory.path().join("postrider.db")).unwrap();
    for (sql, id) in [
        ("update endpoint set mode = 9 where id = ?1", bad.key()),
        (
            "update tenant set settings = '{' where id = ?1",
            neighbour.id.key(),
        ),
    ] {
        assert_eq!(connection.execute(sql, [id]).unwrap(), 1);
    }
    let found = store.lane_endpoints(&[bad, own, beside_id]).await;
    let [Err(first), Ok(second), Ok(third)] = found.as_slice() else {
        panic!("two can be read: {found:?}");
    };
    assert!(matches!(first, StoreError::Corrupt { .. }), "{first:?}");
    assert_eq!(second.endpoint.id, own);
    assert!(second.tenant.is_ok() && second.application.is_ok());
    // Whoever only has to know that it is deleted, or disabled, goes on.
    assert_eq!(third.endpoint.id, beside_id);
    let tenant = third.tenant.as_ref().unwrap_err();
    assert!(matches!(tenant, StoreError::Corrupt { .. }), "{tenant:?}");
    let found = store.tenants(&[neighbour.id, world.tenant]).await;
    let [Err(StoreError::Corrupt { .. }), Ok(tenant)] = found.as_slice() else {
        panic!("only the second can be read: {found:?}");
    };
    assert_eq!(tenant.id, world.tenant);
}

#[tokio::test]
async fn the_place_of_a_far_retry_is_no_time_to_begin_at() {
    use postrider_core::audit::Actor;
    use postrider_core::delivery::DeliveryState;
    use postrider_core::health::HealthChange;
    use postrider_core::judge::Next;
    use postrider_store::conformance::fixture::record;
    let directory = tempfile::tempdir().unwrap();
    let options = Options::default();
    let store = SqlStore::open(directory.path(), &options).unwrap();
    {
        let world = world(&store).await;
        let endpoint = world.endpoint().await;
        let delivery = world.publish(at(10)).await.deliveries[0].delivery.id;
        let far = Next::Retry { at: secs(86_400) };
        let failed = HealthChange::Failure {
            delivery_failed: false,
        };
        let attempt = record(delivery, endpoint, 1, far, failed, at(11));
        world.record(at(11), attempt).await.unwrap();
        store
            .delete_endpoint(endpoint, Actor::system(at(12)))
            .await
            .unwrap();
        let ended = store.finish_pending(endpoint, DeliveryState::Cancelled, at(12), 10);
        assert_eq!(ended.await.unwrap(), 1);
        world.endpoint().await;
        world.publish(at(20)).await;
    }
    drop(store);
    let store = SqlStore::open(directory.path(), &options).unwrap();
    assert_eq!(store.last_place().await.unwrap(), at(20));
    // How far the steady clock has come counts too, and only forward.
    store.note_steady(at(30)).await.unwrap();
    store.note_steady(at(25)).await.unwrap();
    drop(store);
    let store = SqlStore::open(directory.path(), &options).unwrap();
    assert_eq!(store.last_place().await.unwrap(), at(30));
}

#[tokio::test]
async fn what_is_old_is_forgotten_in_small_pieces_however_many_one_event_went_to() {
    use postrider_core::delivery::FailReason;
    use postrider_core::health::HealthChange;
    use postrider_core::judge::Next;
    use postrider_store::conformance::fixture::record;
    use postrider_store::{Keep, PruneFrom, Pruned};
    /// More than a piece (`PIECE_ROWS`) takes.
    const ENDPOINTS: usize = 450;
    let directory = tempfile::tempdir().unwrap();
    let store = SqlStore::open(directory.path(), &Options::default()).unwrap();
    let world = world(&store).await;
    for _ in 0..ENDPOINTS {
        world.endpoint().await;
    }
    let published = world.publish(at(1)).await;
    let ends = published.deliveries.iter().map(|due| {
        let (delivery, endpoint) = (due.delivery.id, due.delivery.endpoint);
        let stopped = Next::Failed(FailReason::Stopped);
        record(delivery, endpoint, 1, stopped, HealthChange::None, at(2))
    });
    let answers = store
        .commit_all(at(2).into(), Batch::of_records(ends))
        .await;
    assert!(answers.records.iter().all(Result::is_ok));
    let keep = Keep {
        before: secs(9),
        own: [].into(),
        audit_before: at(0),
    };
    // A plan deletes nothing, so it cannot go piece by piece.
    let planned = plan(directory.path(), |_| keep.clone()).unwrap();
    assert_eq!((planned.events, planned.deliveries), (1, ENDPOINTS as u64));
    let (mut sum, mut from) = (Pruned::default(), Some(PruneFrom::default()));
    while let Some(piece) = from {
        let (pruned, next) = postrider_store::Retention::prune(&store, &keep, piece)
            .await
            .unwrap();
        assert!(pruned.deliveries <= 200, "{pruned:?}");
        sum += pruned;
        from = next;
    }
    assert_eq!((sum.events, sum.deliveries), (1, ENDPOINTS as u64));
}

#[tokio::test]
async fn changes_stand_before_a_batch_by_twos_however_many_there_are() {
    const CHANGES: usize = 300;
    let directory = tempfile::tempdir().unwrap();
    let store = SqlStore::open(directory.path(), &Options::default()).unwrap();
    let world = world(&store).await;
    let endpoint = world.endpoint().await;
    let done = AtomicUsize::new(0);
    let change = |_| async {
        let change = postrider_store::always(|endpoint: &mut Endpoint| endpoint.rate_limit = None);
        store.update_endpoint(endpoint, change, by()).await.unwrap();
        done.fetch_add(1, Ordering::Relaxed);
    };
    let changes = join_all((0..CHANGES).map(change));
    let published = async {
        // Behind all of them.
        tokio::task::yield_now().await;
        world.publish(at(1)).await;
        done.load(Ordering::Relaxed)
    };
    let (_, before) = futures_util::future::join(changes, published).await;
    assert!(before < CHANGES / 2, "{before} changes came first");
}

/// Whoever sends changes as fast as they can waits for themselves: another's change is not behind all of theirs.
#[tokio::test]
async fn changes_of_one_account_wait_for_each_other_and_not_before_those_of_another() {
    const MANY: usize = 500;
    let directory = tempfile::tempdir().unwrap();
    let store = SqlStore::open(directory.path(), &Options::default()).unwrap();
    let world = world(&store).await;
    let endpoint = world.endpoint().await;
    let done = AtomicUsize::new(0);
    let change = |account: u128| {
        let by = Actor { account, ..by() };
        store.update_endpoint(endpoint, Box::new(|_| Ok(())), by)
    };
    let many = (0..MANY).map(async |_| {
        change(1).await.unwrap();
        done.fetch_add(1, Ordering::Relaxed);
    });
    let mut many = many.collect::<FuturesUnordered<_>>();
    // Each is asked for, and the first one is under way.
    assert!(many.next().await.is_some());
    let another = async {
        change(2).await.unwrap();
        done.load(Ordering::Relaxed)
    };
    let all = many.by_ref().collect::<Vec<()>>();
    let (before, _) = tokio::join!(another, all);
    assert!(before < MANY / 10, "{before} of {MANY} were before it");
    assert_eq!(done.load(Ordering::Relaxed), MANY);
}

/// What waits is in memory: of one account it is half of what may.
#[tokio::test]
async fn more_changes_than_may_wait_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let store = SqlStore::open(directory.path(), &Options::default()).unwrap();
    let world = world(&store).await;
    let endpoint = world.endpoint().await;
    let change = |account: u128| {
        let by = Actor { account, ..by() };
        store.update_endpoint(endpoint, Box::new(|_| Ok(())), by)
    };
    let many = (0..2_000).map(|_| change(1));
    let (many, another) = tokio::join!(join_all(many), change(2));
    assert!(another.is_ok(), "{another:?}");
    let refused = |answer: &Result<Endpoint, _>| matches!(answer, Err(StoreError::Busy));
    let (refused, done): (Vec<_>, Vec<_>) = many.into_iter().partition(refused);
    assert!(done.iter().all(Result::is_ok));
    // Where one is done while the others come, there is room for another.
    assert!((512..1_000).contains(&done.len()), "{}", done.len());
    assert_eq!(done.len() + refused.len(), 2_000);
}

/// More notices than are read at once do not read: those behind them are told, and nobody looks at these again.
#[tokio::test]
async fn notices_that_do_not_read_stand_before_no_others() {
    let directory = tempfile::tempdir().unwrap();
    let store = SqlStore::open(directory.path(), &Options::default()).unwrap();
    let file = directory.path().join("postrider.db");
    let database = rusqlite::Connection::open(&file).unwrap();
    for number in 1..=12 {
        let kind = if number <= 10 { 99 } else { 0 };
        database
            .execute(
                "insert into notice values (?1, 1, ?3, 0, ?2, 1, 1, 'a.b', 0, '', 1, '', ?1, 1, 1, 1, null)",
                [number, kind, number % 2],
            )
            .unwrap();
    }
    let audiences = store.mail_audiences().await.unwrap();
    let oldest: Vec<_> = audiences.iter().map(|(_, at)| at.as_micros()).collect();
    assert_eq!(oldest, [2, 1], "one for each tenant");
    let due = DueNotices::Publish { after: None };
    let read = store.due_notices(due, 4).await.unwrap();
    assert_eq!(read.len(), 2, "{read:?}");
    for (audience, _) in audiences {
        let read = store.due_notices(DueNotices::Mail(audience), 4).await;
        assert_eq!(read.unwrap().len(), 1);
    }
    let sql = "select count(*) from notice where mail_due = 1 or publish_due = 1";
    let wait: i64 = database.query_row(sql, [], |row| row.get(0)).unwrap();
    assert_eq!(wait, 2);
}
