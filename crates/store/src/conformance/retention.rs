//! What ended long ago goes; what waits stays, however old.

use postrider_core::delivery::FailReason;
use postrider_core::health::HealthChange;
use postrider_core::judge::Next;
use postrider_core::{Id, Timestamp, id};

use super::fixture::{World, at, by, record, secs, world};
use super::notices::wants_notices;
use crate::{
    AuditFilter, DeliveryFilter, EventFilter, Keep, MissedQuery, NoticeFilter, PageRequest,
    PruneFrom, Pruned, Store, Target, Task, TaskKind, TaskState, UNTOLD_KEPT,
};

fn keep(before: Timestamp) -> Keep {
    Keep {
        before,
        own: [].into(),
        audit_before: Timestamp::from_micros(0),
    }
}

/// A whole round.
async fn prune(store: &dyn Store, keep: &Keep) -> Pruned {
    let (mut sum, mut from) = (Pruned::default(), Some(PruneFrom::default()));
    while let Some(piece) = from {
        let (pruned, next) = store.prune(keep, piece).await.unwrap();
        sum += pruned;
        from = next;
    }
    sum
}

async fn end(
    world: &World<'_>,
    endpoint: Id<id::Endpoint>,
    delivery: Id<id::Delivery>,
    now: Timestamp,
) {
    let failed = Next::Failed(FailReason::Stopped);
    let ended = record(delivery, endpoint, 1, failed, HealthChange::None, now);
    world.record(now, ended).await.unwrap();
}

async fn counted(world: &World<'_>) -> (usize, usize, u64) {
    let store = world.store;
    let deliveries = DeliveryFilter {
        tenant: Some(world.tenant),
        ..DeliveryFilter::default()
    };
    let events = EventFilter {
        tenant: Some(world.tenant),
        ..EventFilter::default()
    };
    let page = PageRequest::first(99);
    let deliveries = store.list_deliveries(deliveries, page).await.unwrap();
    let events = store.list_events(events, page).await.unwrap();
    let query = crate::StatisticsQuery {
        tenant: world.tenant,
        since: at(0),
        until: secs(9_999),
        event_type: None,
        endpoint: None,
        mode: None,
        state: None,
        outcomes: true,
        period: std::time::Duration::from_secs(3_600),
    };
    let statistics = store.statistics(query).await.unwrap();
    let outcomes = statistics.outcomes.expect("no state was asked for");
    let of_types = statistics.by_type.iter();
    let attempts: u64 = of_types.map(|(_, counts)| counts.attempts).sum();
    assert_eq!(outcomes.by_code.values().sum::<u64>(), attempts);
    let of_types = statistics.by_type.iter();
    let sum = of_types.map(|(_, counts)| counts.total());
    (deliveries.rows.len(), events.rows.len(), sum.sum())
}

pub async fn what_ended_long_ago_goes_and_what_waits_stays(store: &dyn Store) {
    let world = world(store).await;
    let (one, two) = (world.endpoint().await, world.endpoint().await);
    let nobody = crate::NewEvent {
        target: Target::Nobody,
        ..world.publishing(secs(1), "order.completed")
    };
    let nobody = world.publish_new(secs(1), nobody).await.unwrap().event;
    let both = world.publish(secs(2)).await;
    let half = world.publish(secs(3)).await;
    let late = world.publish(secs(4)).await;
    let young = world.publish(secs(500)).await;
    let to = |published: &crate::Published, endpoint| {
        let found = published.deliveries.iter().map(|due| &due.delivery);
        let mut found = found.filter(|delivery| delivery.endpoint == endpoint);
        found.next().unwrap().id
    };
    for endpoint in [one, two] {
        end(&world, endpoint, to(&both, endpoint), secs(10)).await;
        end(&world, endpoint, to(&young, endpoint), secs(501)).await;
    }
    // One of their deliveries waits, or its end is young: they stay whole.
    end(&world, one, to(&half, one), secs(10)).await;
    end(&world, one, to(&late, one), secs(10)).await;
    end(&world, two, to(&late, two), secs(400)).await;
    assert_eq!(counted(&world).await, (8, 5, 8));

    let none = prune(store, &keep(secs(1))).await;
    assert!(none.is_nothing(), "{none:?}");
    let pruned = prune(store, &keep(secs(100))).await;
    assert_eq!((pruned.events, pruned.deliveries), (2, 2));
    assert_eq!(counted(&world).await, (6, 3, 6));
    for event in [nobody, both.event] {
        assert!(store.event(event).await.unwrap_err().is_not_found());
    }
    let waits = to(&half, two);
    assert!(store.delivery(waits).await.is_ok());
    assert_eq!(world.due(two, Timestamp::MAX, 9).await.rows.len(), 1);
    let gone = to(&both, one);
    assert!(store.delivery(gone).await.unwrap_err().is_not_found());
    assert!(store.attempts(gone, None, 9).await.unwrap().is_empty());
    // What was sent is not missed, whatever else of the event waits.
    let missed = MissedQuery {
        endpoint: one,
        after: None,
        since: None,
        until: secs(9_999),
        rows: 99,
    };
    let missed = store.missed_events(missed).await.unwrap();
    assert_eq!(missed.events, []);
    // What is left ends, and goes with its event.
    end(&world, two, waits, secs(600)).await;
    let pruned = prune(store, &keep(secs(1_000))).await;
    assert_eq!((pruned.events, pruned.deliveries), (3, 6));
    assert_eq!(counted(&world).await, (0, 0, 0));
    // New ones are found as ever.
    world.publish(secs(1_001)).await;
    assert_eq!(counted(&world).await, (2, 1, 2));
}

pub async fn an_application_may_keep_what_it_has_for_longer(store: &dyn Store) {
    let world = world(store).await;
    let endpoint = world.endpoint().await;
    let delivery = world.publish(secs(1)).await.deliveries[0].delivery.id;
    end(&world, endpoint, delivery, secs(2)).await;
    let longer = Keep {
        own: [(world.application, secs(1))].into(),
        ..keep(secs(100))
    };
    assert!(prune(store, &longer).await.is_nothing());
    let shorter = Keep {
        own: [(world.application, secs(100))].into(),
        ..keep(secs(1))
    };
    let pruned = prune(store, &shorter).await;
    assert_eq!((pruned.events, pruned.deliveries), (1, 1));
}

pub async fn notices_tasks_and_the_audit_log_go_by_their_age(store: &dyn Store) {
    let world = world(store).await;
    wants_notices(&world).await;
    let endpoint = world.endpoint().await;
    let later = secs(50).plus(UNTOLD_KEPT);
    for now in [secs(1), later] {
        let delivery = world.publish(now).await.deliveries[0].delivery.id;
        end(&world, endpoint, delivery, now).await;
    }
    let task = |state, finished_at| Task {
        id: store.ids().next(at(1)),
        kind: TaskKind::Replay,
        application: world.application,
        tenant: Some(world.tenant),
        request: String::new(),
        state,
        total: None,
        done: 0,
        skipped: 0,
        cursor: None,
        created_at: at(1),
        finished_at,
    };
    let runs = task(TaskState::Running, None);
    let (old, young) = (
        task(TaskState::Finished, Some(secs(2))),
        task(TaskState::Finished, Some(later)),
    );
    for task in [&runs, &old, &young] {
        store.put_task(task.clone()).await.unwrap();
    }
    let notices = NoticeFilter {
        tenant: Some(world.tenant),
        ..NoticeFilter::default()
    };
    let page = PageRequest::first(9);
    let told = store.list_notices(notices, page).await.unwrap().rows.len();
    let pruned = prune(store, &keep(secs(10))).await;
    assert_eq!((pruned.events, pruned.tasks, pruned.audit), (1, 1, 0));
    // Somebody is to be told of it yet.
    assert_eq!((told, pruned.notices), (2, 0));
    // A server without mail would keep it for good.
    let pruned = prune(store, &keep(secs(10).plus(UNTOLD_KEPT))).await;
    let left = store.list_notices(notices, page).await.unwrap().rows.len();
    assert_eq!((left, pruned.notices), (1, 1));
    for (task, is_there) in [(runs, true), (old, false), (young, true)] {
        assert_eq!(store.task(task.id).await.is_ok(), is_there);
    }
    let entries = store
        .list_audit(AuditFilter::default(), page)
        .await
        .unwrap();
    assert!(!entries.rows.is_empty());
    let all = Keep {
        audit_before: by().at.plus(std::time::Duration::from_micros(1)),
        ..keep(at(0))
    };
    let pruned = prune(store, &all).await;
    assert_eq!(pruned.audit, entries.rows.len() as u64);
    let entries = store
        .list_audit(AuditFilter::default(), page)
        .await
        .unwrap();
    assert!(entries.rows.is_empty());
}

/// What records need of an endpoint that was deleted stays as long as there are records.
pub async fn an_endpoint_that_was_deleted_goes_with_the_last_of_its_deliveries(store: &dyn Store) {
    let world = world(store).await;
    let (kept, unused, used) = (
        world.endpoint().await,
        world.endpoint().await,
        world.endpoint().await,
    );
    let now = secs(10);
    let published = world.publish(now).await;
    for due in &published.deliveries {
        // One goes before the other, and neither is the unused one's.
        if due.delivery.endpoint == used {
            end(&world, used, due.delivery.id, secs(500)).await;
        } else {
            end(&world, due.delivery.endpoint, due.delivery.id, secs(20)).await;
        }
    }
    let late = crate::NewEvent {
        target: Target::Endpoint(used),
        ..world.publishing(secs(400), "order.paid")
    };
    let late = world.publish_new(secs(400), late).await.unwrap();
    end(&world, used, late.deliveries[0].delivery.id, secs(500)).await;
    for endpoint in [unused, used] {
        let by = postrider_core::audit::Actor::system(secs(30));
        store.delete_endpoint(endpoint, by).await.unwrap();
    }
    // The first event has a delivery that ended late, so all of it stays, and its endpoints.
    let pruned = prune(store, &keep(secs(100))).await;
    assert_eq!((pruned.events, pruned.endpoints), (0, 0));
    let all = prune(store, &keep(secs(1_000))).await;
    assert_eq!((all.events, all.endpoints), (2, 2));
    assert!(store.endpoint(kept).await.is_ok());
    // Deleted later than what is kept, it stays for now.
    let by = postrider_core::audit::Actor::system(secs(2_000));
    store.delete_endpoint(kept, by).await.unwrap();
    assert_eq!(prune(store, &keep(secs(1_000))).await.endpoints, 0);
    assert_eq!(prune(store, &keep(secs(3_000))).await.endpoints, 1);
}
