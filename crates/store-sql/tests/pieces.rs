//! Events that are written in pieces, and a process that ends between two of them.

#![expect(
    clippy::unwrap_used,
    reason = "a test stops where something is not as it must be"
)]

use postrider_core::endpoint::{Endpoint, EndpointKind};
use postrider_core::filter::Subscription;
use postrider_core::limits::TRANSACTION_ROWS;
use postrider_store::conformance::fixture::{World, at, by, world};
use postrider_store::{
    Batch, Catalogue as _, DeliveryFilter, Lanes as _, NewEvent, PageRequest, Records as _, Store,
    Target,
};
use postrider_store_sql::{Options, Segments, SqlStore, examine};

const ENDPOINTS: usize = 1_000;

/// Small ones, so that what is begun is entered into segments too.
const SMALL: Segments = Segments {
    size: 400,
    piece: 100,
};

fn open(directory: &std::path::Path) -> SqlStore {
    let options = Options {
        segments: SMALL,
        ..Options::default()
    };
    SqlStore::open(directory, &options).unwrap()
}

async fn deliveries(store: &dyn Store) -> usize {
    let page = PageRequest::first(10_000);
    let all = store.list_deliveries(DeliveryFilter::default(), page);
    all.await.unwrap().rows.len()
}

async fn many(store: &SqlStore) -> World<'_> {
    let world = world(store).await;
    store.put_profile("standard", "").await.unwrap();
    for _ in 0..ENDPOINTS {
        world.endpoint().await;
    }
    world
}

#[tokio::test]
async fn what_a_process_left_begun_is_gone_at_the_next_start() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let world = many(&store).await;
    let whole = world.publish(at(1)).await;
    assert_eq!(whole.count as usize, ENDPOINTS);
    let begun = world.publishing(at(2), "order.paid");
    let id = begun.event.id;
    let mut written = store
        .commit(at(2).into(), Batch::of_publishes([begun]))
        .await;
    written = store.commit(at(2).into(), written.rest).await;
    assert!(written.answers.is_empty() && written.rest.publishes.len() == 1);
    // As if the process were killed now.
    drop(store);
    let store = open(directory.path());
    assert!(store.event(id).await.unwrap_err().is_not_found());
    assert_eq!(deliveries(&store).await, ENDPOINTS);
    let lanes = store.backlog().await.unwrap();
    assert_eq!(lanes.len(), ENDPOINTS, "of the first event alone");
    let stats = store
        .endpoint_stats(lanes[0].endpoint, at(0))
        .await
        .unwrap();
    assert_eq!(stats.pending, 1);
    drop(store);
    assert_eq!(examine(directory.path()).unwrap().findings, []);
}

#[tokio::test]
async fn what_is_refused_between_its_pieces_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let world = many(&store).await;
    let large = world.keyed(at(2), "once", 1);
    let written = store
        .commit(at(2).into(), Batch::of_publishes([large]))
        .await;
    assert!(written.answers.is_empty());
    // Another event of the same key comes before its last piece.
    let small = NewEvent {
        target: Target::Nobody,
        ..world.keyed(at(3), "once", 1)
    };
    let first = world.publish_new(at(3), small).await.unwrap();
    let rest = store.commit_all(at(4).into(), written.rest).await;
    let [answer] = <[_; 1]>::try_from(rest.publishes).unwrap();
    let answer = answer.unwrap();
    assert_eq!((answer.event, answer.created), (first.event, false));
    // What was begun goes behind the commit, and before the next.
    let nobody = NewEvent {
        target: Target::Nobody,
        ..world.publishing(at(5), "a")
    };
    world.publish_new(at(5), nobody).await.unwrap();
    assert_eq!(deliveries(&store).await, 0);
    drop(store);
    assert_eq!(examine(directory.path()).unwrap().findings, []);
}

/// An event that nobody gets is work too, where very many might have got it: one tenant's do not fill a transaction that
/// everybody waits for.
#[tokio::test]
async fn looking_for_who_gets_an_event_takes_room_in_a_transaction() {
    const EVENTS: usize = 16;
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let world = world(&store).await;
    store.put_profile("standard", "").await.unwrap();
    let patterns = (0..100).map(|number| format!("order.{number}"));
    let subscription = Subscription::new(patterns.collect()).unwrap();
    for _ in 0..ENDPOINTS {
        let endpoint = Endpoint {
            subscription: subscription.clone(),
            ..world.an_endpoint()
        };
        store.create_endpoint(endpoint, None, by()).await.unwrap();
    }
    let events = (0..EVENTS).map(|_| world.publishing(at(2), "voucher.made"));
    let batch = Batch::of_publishes(events);
    let mut written = store.commit(at(2).into(), batch).await;
    // A hundred names of each endpoint and the endpoint itself, of which 256 count as a delivery.
    let of_one = ENDPOINTS * 101 / 256;
    let mut answered = TRANSACTION_ROWS.div_ceil(of_one);
    assert_eq!(written.answers.publishes.len(), answered);
    while !written.rest.publishes.is_empty() {
        written = store.commit(at(3).into(), written.rest).await;
        answered += written.answers.publishes.len();
    }
    assert_eq!(answered, EVENTS);
    assert_eq!(deliveries(&store).await, 0);
}

/// Callbacks that something waits for stay, however old: those behind them are found all the same, without asking all.
#[tokio::test]
async fn callbacks_whose_receivers_are_gone_keep_no_new_one_out() {
    const WAITING: usize = 70;
    const MAX: u32 = 80;
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let world = world(&store).await;
    store.put_profile("standard", "").await.unwrap();
    let callback = |number: usize| Endpoint {
        kind: EndpointKind::Callback,
        url: format!("https://example.com/{number}"),
        ..world.an_endpoint()
    };
    for number in 0..MAX as usize {
        let one = callback(number);
        let target = Target::Endpoint(one.id);
        let made = store.create_endpoint(one, Some(MAX), by()).await;
        made.unwrap();
        if number < WAITING {
            let event = NewEvent {
                target,
                ..world.publishing(at(1), "a")
            };
            world.publish_new(at(1), event).await.unwrap();
        }
    }
    let mut made = 0;
    for number in 100..140 {
        let made_one = store.create_endpoint(callback(number), Some(MAX), by());
        made += usize::from(made_one.await.is_ok());
    }
    // Where it goes past those that wait, none is found at once.
    assert!(made >= 30, "{made}");
}
