//! Publishing: events, fan-out, idempotency.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use postrider_core::Timestamp;
use postrider_core::attempt::Response;
use postrider_core::audit::{Actor, content_entry};
use postrider_core::delivery::{DeliveryState, Series};
use postrider_core::endpoint::{Endpoint, EndpointKind};
use postrider_core::filter::Subscription;
use postrider_core::health::{DisableReason, HealthChange};
use postrider_core::judge::Next;
use postrider_core::limits::{IDEMPOTENCY_HOURS, TRANSACTION_ROWS};
use postrider_core::tenant::Mode;
use postrider_core::time::Moment;

use super::fixture::{at, by, filter, only, record, secs, world};
use crate::{
    AuditFilter, Batch, ContentOf, DeliveryFilter, DueDelivery, FinishDelivery, FirstUse, NewEvent,
    PageRequest, Resend, Rule, Store, StoreError, Target, always,
};

pub async fn a_published_event_and_its_deliveries_appear_together(store: &dyn Store) {
    let world = world(store).await;
    let (a, b) = (world.endpoint().await, world.endpoint().await);
    let published = world.publish(at(5)).await;
    assert!(published.created);
    assert_eq!(published.count, 2);
    let event = store.event(published.event).await.unwrap();
    assert_eq!(&*event.event_type, "order.completed");
    let filter = DeliveryFilter {
        event: Some(published.event),
        ..DeliveryFilter::default()
    };
    let page = store
        .list_deliveries(filter, PageRequest::first(10))
        .await
        .unwrap();
    let mut endpoints: Vec<_> = page.rows.iter().map(|delivery| delivery.endpoint).collect();
    endpoints.sort();
    assert_eq!(endpoints, [a, b]);
    for due in &published.deliveries {
        assert_eq!(store.delivery(due.delivery.id).await.unwrap(), due.delivery);
        assert_eq!(
            world.due(due.delivery.endpoint, at(5), 9).await.rows,
            std::slice::from_ref(due)
        );
    }
}

pub async fn the_same_key_and_body_returns_the_first_event(store: &dyn Store) {
    let world = world(store).await;
    world.endpoint().await;
    let first = world
        .publish_new(at(1), world.keyed(at(1), "k", 1))
        .await
        .unwrap();
    let second = world
        .publish_new(at(2), world.keyed(at(2), "k", 1))
        .await
        .unwrap();
    assert_eq!(
        (second.event, second.created, second.count),
        (first.event, false, 1)
    );
    assert!(second.deliveries.is_empty());
    let both = Batch::of_publishes([world.keyed(at(3), "m", 1), world.keyed(at(3), "m", 1)]);
    let answers = store.commit_all(at(3).into(), both).await.publishes;
    let created = answers.iter().flatten().filter(|answer| answer.created);
    assert_eq!(created.count(), 1, "two in one batch are one");
    assert_eq!(
        store
            .list_deliveries(DeliveryFilter::default(), PageRequest::first(10))
            .await
            .unwrap()
            .rows
            .len(),
        2
    );
}

pub async fn the_same_key_with_another_body_is_a_conflict(store: &dyn Store) {
    let world = world(store).await;
    world
        .publish_new(at(1), world.keyed(at(1), "k", 1))
        .await
        .unwrap();
    let refused = world
        .publish_new(at(2), world.keyed(at(2), "k", 2))
        .await
        .unwrap_err();
    assert!(matches!(
        refused,
        StoreError::Conflict {
            rule: Rule::IdempotencyKeyReused
        }
    ));
}

pub async fn an_idempotency_key_is_forgotten_after_its_time(store: &dyn Store) {
    let world = world(store).await;
    let first = world
        .publish_new(secs(1), world.keyed(secs(1), "k", 1))
        .await
        .unwrap();
    store.sweep(secs(1), secs(9)).await.unwrap();
    assert!(
        !world
            .publish_new(secs(2), world.keyed(secs(2), "k", 1))
            .await
            .unwrap()
            .created,
        "still inside its time"
    );
    store.sweep(secs(2), secs(9)).await.unwrap();
    let second = world
        .publish_new(secs(3), world.keyed(secs(3), "k", 2))
        .await
        .unwrap();
    assert!(second.created && second.event != first.event);
}

pub async fn an_idempotency_key_is_remembered_however_the_clock_is_set(store: &dyn Store) {
    const REMEMBERED: Duration = Duration::from_secs(IDEMPOTENCY_HOURS * 3_600);
    const STEP_SECS: i64 = 25 * 3_600;
    let world = world(store).await;
    // A clock that goes wrong by more than keys are remembered, and is set right a minute later.
    for (key, ahead, begin) in [
        ("ahead", STEP_SECS, secs(0)),
        ("behind", -STEP_SECS, secs(1_000_000)),
    ] {
        let wrong = Moment {
            wall: Timestamp::from_micros(begin.as_micros() + ahead * 1_000_000),
            steady: begin,
        };
        let publish = async |now: Moment| {
            let new = world.keyed(now.wall, key, 1);
            let batch = Batch::of_publishes([new]);
            only(store.commit_all(now, batch).await.publishes).unwrap()
        };
        let sweep = async |now: Moment| {
            let before = now.steady.minus(REMEMBERED);
            store.sweep(before, now.wall).await.unwrap();
        };
        let first = publish(wrong).await;
        assert!(first.created, "{key}");
        // Until its last microsecond.
        for after in [Duration::from_secs(60), REMEMBERED] {
            let right = Moment::from(begin.plus(after));
            sweep(right).await;
            let again = publish(right).await;
            let known = (again.event, again.created);
            assert_eq!(known, (first.event, false), "{key}: after {after:?}");
        }
        let right = Moment::from(begin.plus(REMEMBERED + Duration::from_micros(1)));
        sweep(right).await;
        assert!(publish(right).await.created, "{key}: its time is over");
    }
}

pub async fn an_idempotency_key_tells_its_first_use(store: &dyn Store) {
    let world = world(store).await;
    world.endpoint().await;
    let first = world.keyed(secs(1), "k", 7);
    let first = world.publish_new(secs(1), first).await.unwrap();
    let known = store.first_use(world.application, "k").await.unwrap();
    let expected = FirstUse {
        event: first.event,
        fingerprint: [7; 32],
        count: 1,
    };
    assert_eq!(known, Some(expected));
    let stranger = store.ids().next(at(0));
    for unknown in [
        store.first_use(world.application, "l").await.unwrap(),
        store.first_use(stranger, "k").await.unwrap(),
    ] {
        assert_eq!(unknown, None);
    }
    store.sweep(secs(2), secs(2)).await.unwrap();
    let forgotten = store.first_use(world.application, "k").await.unwrap();
    assert_eq!(forgotten, None);
}

pub async fn payload_bytes_come_back_unchanged(store: &dyn Store) {
    let world = world(store).await;
    let data = b"{ \"b\":\t1.50,\n \"a\":\"\\u00e9\xc3\xa9/\\/\", \"n\":1e400 }";
    let mut event = world.an_event(at(1), "x");
    event.data = Bytes::from_static(data);
    event.meta = Some(Bytes::from_static(b"{\"channel\" : \"API\"}"));
    event.ordering_key = Some("k".into());
    event.deliver_before = Some(at(99));
    let new = NewEvent {
        event: Arc::new(event.clone()),
        ..world.publishing(at(1), "x")
    };
    world.publish_new(at(1), new).await.unwrap();
    assert_eq!(store.event(event.id).await.unwrap(), event);
}

pub async fn an_event_that_matches_nothing_is_stored(store: &dyn Store) {
    let world = world(store).await;
    let published = world.publish(at(1)).await;
    assert_eq!((published.created, published.count), (true, 0));
    assert!(store.event(published.event).await.is_ok());
}

pub async fn an_endpoint_created_later_gets_nothing_from_the_past(store: &dyn Store) {
    let world = world(store).await;
    world.publish(at(1)).await;
    let endpoint = world.endpoint().await;
    assert!(world.due(endpoint, secs(99), 9).await.rows.is_empty());
    assert_eq!(world.publish(at(2)).await.count, 1);
}

pub async fn only_subscribed_enabled_endpoints_of_the_mode_get_it(store: &dyn Store) {
    let world = world(store).await;
    let other = world.a_tenant(store.ids().next(at(0)), None);
    let other_tenant = other.id;
    store
        .create_tenant(other, "standard".into(), by())
        .await
        .unwrap();
    let subscribed = |patterns: &[&str]| {
        Subscription::new(patterns.iter().map(|p| (*p).to_owned()).collect()).unwrap()
    };
    let mut expected = Vec::new();
    for (endpoint, gets) in [
        (
            Endpoint {
                subscription: subscribed(&["order.completed"]),
                ..world.an_endpoint()
            },
            true,
        ),
        (
            Endpoint {
                subscription: subscribed(&["order.*"]),
                ..world.an_endpoint()
            },
            true,
        ),
        (
            Endpoint {
                subscription: subscribed(&["order.failed"]),
                ..world.an_endpoint()
            },
            false,
        ),
        (
            Endpoint {
                mode: Mode::Test,
                ..world.an_endpoint()
            },
            false,
        ),
        (
            Endpoint {
                tenant: other_tenant,
                ..world.an_endpoint()
            },
            false,
        ),
    ] {
        expected.extend(gets.then_some(endpoint.id));
        store.create_endpoint(endpoint, None, by()).await.unwrap();
    }
    let disabled = world.endpoint().await;
    // Publish first, so that a store that remembers endpoints has to notice the change.
    assert_eq!(world.publish(at(1)).await.count, 3);
    store
        .update_endpoint(
            disabled,
            always(|endpoint| endpoint.health.disable(DisableReason::Manual, at(2))),
            by(),
        )
        .await
        .unwrap();
    let mut got: Vec<_> = world
        .publish(at(3))
        .await
        .deliveries
        .iter()
        .map(|due| due.delivery.endpoint)
        .collect();
    got.sort();
    assert_eq!(got, expected);
}

pub async fn an_endpoint_with_a_filter_gets_what_meets_it(store: &dyn Store) {
    let world = world(store).await;
    let large = Endpoint {
        filter: Some(filter(r#"{ "data.amount": { "$gte": 100 } }"#)),
        ..world.an_endpoint()
    };
    let team = Endpoint {
        filter: Some(filter(r#"{ "meta.team": { "$in": ["a", "b"] } }"#)),
        ..world.an_endpoint()
    };
    let all = world.endpoint().await;
    let (large_id, team_id) = (large.id, team.id);
    for endpoint in [large, team] {
        store.create_endpoint(endpoint, None, by()).await.unwrap();
    }
    let publish = async |data: &'static str, meta: Option<&'static str>, target| {
        let mut event = world.an_event(at(1), "order.completed");
        event.data = Bytes::from_static(data.as_bytes());
        event.meta = meta.map(|meta| Bytes::from_static(meta.as_bytes()));
        let new = NewEvent {
            event: Arc::new(event),
            target,
            ..world.publishing(at(1), "order.completed")
        };
        let published = world.publish_new(at(1), new).await.unwrap();
        let mut got: Vec<_> = published
            .deliveries
            .iter()
            .map(|due| due.delivery.endpoint)
            .collect();
        got.sort();
        got
    };
    let sorted = |mut ids: Vec<_>| {
        ids.sort();
        ids
    };
    let (small, big) = (r#"{"amount":99.99}"#, r#"{"amount":100}"#);
    assert_eq!(publish(small, None, Target::Matching).await, [all]);
    assert_eq!(
        publish(big, Some(r#"{"team":"b"}"#), Target::Matching).await,
        sorted(vec![all, large_id, team_id])
    );
    // Whoever names it reaches it.
    assert_eq!(
        publish(small, None, Target::Endpoint(large_id)).await,
        [large_id]
    );
    let taken = |endpoint: &mut Endpoint| endpoint.filter = None;
    let changed = store.update_endpoint(large_id, always(taken), by());
    changed.await.unwrap();
    assert_eq!(
        publish(small, None, Target::Matching).await,
        sorted(vec![all, large_id])
    );
}

pub async fn an_event_may_be_addressed_to_one_endpoint(store: &dyn Store) {
    let world = world(store).await;
    let (a, b) = (world.endpoint().await, world.endpoint().await);
    let to = |endpoint| NewEvent {
        target: Target::Endpoint(endpoint),
        ..world.publishing(at(1), "x")
    };
    let published = world.publish_new(at(1), to(a)).await.unwrap();
    assert_eq!(
        published
            .deliveries
            .iter()
            .map(|due| due.delivery.endpoint)
            .collect::<Vec<_>>(),
        [a]
    );
    store
        .update_endpoint(
            b,
            always(|endpoint| endpoint.health.disable(DisableReason::Manual, at(2))),
            by(),
        )
        .await
        .unwrap();
    let refused = world.publish_new(at(3), to(b)).await.unwrap_err();
    assert!(matches!(
        refused,
        StoreError::Conflict {
            rule: Rule::EndpointDisabled
        }
    ));
}

pub async fn an_addressed_event_reaches_no_endpoint_of_another_mode(store: &dyn Store) {
    let world = world(store).await;
    let registered = world.endpoint().await;
    let callback = Endpoint {
        kind: EndpointKind::Callback,
        ..world.an_endpoint()
    };
    let callback_id = callback.id;
    store.create_endpoint(callback, None, by()).await.unwrap();
    let to = |endpoint| {
        let mut event = world.an_event(at(1), "x");
        event.mode = Mode::Test;
        NewEvent {
            event: Arc::new(event),
            target: Target::Endpoint(endpoint),
            ..world.publishing(at(1), "x")
        }
    };
    for endpoint in [registered, callback_id] {
        let refused = world.publish_new(at(1), to(endpoint)).await;
        assert!(refused.unwrap_err().is_not_found());
    }
}

pub async fn a_batch_larger_than_a_transaction_is_answered_by_kind(store: &dyn Store) {
    const ENDPOINTS: usize = 16;
    const EVENTS: usize = TRANSACTION_ROWS / ENDPOINTS + 3;
    let world = world(store).await;
    let lane = world.endpoint().await;
    let (ended, waiting) = (
        world.publish(at(1)).await.deliveries[0].delivery.clone(),
        world.publish(at(1)).await.deliveries[0].delivery.clone(),
    );
    for _ in 1..ENDPOINTS {
        world.endpoint().await;
    }
    let delivered = record(
        ended.id,
        lane,
        1,
        Next::Delivered,
        HealthChange::Success,
        at(2),
    );
    let cancelled = |delivery| FinishDelivery {
        delivery,
        endpoint: lane,
        state: DeliveryState::Cancelled,
    };
    let resend = |delivery, attempts| Resend {
        delivery,
        attempts,
        series: Series::SCHEDULED,
    };
    let batch = Batch {
        resends: vec![resend(ended.id, 1), resend(waiting.id, 0)],
        publishes: (0..EVENTS).map(|_| world.publishing(at(2), "x")).collect(),
        finishes: vec![cancelled(ended.id), cancelled(waiting.id)],
        records: vec![Arc::new(delivered)],
        ..Batch::default()
    };
    assert_eq!(batch.len(), EVENTS + 5);
    let mut written = store.commit(at(2).into(), batch).await;
    let made = written.answers.publishes.len() * ENDPOINTS;
    assert!(made < TRANSACTION_ROWS + ENDPOINTS, "{made} in one");
    assert_eq!(
        (
            written.answers.records.len(),
            written.answers.finishes.len()
        ),
        (1, 2)
    );
    let left = written.rest.publishes.len();
    assert_eq!(written.answers.publishes.len() + left, EVENTS);
    assert!(left > 0 && written.answers.resends.len() == 2);
    let next = store.commit_all(at(2).into(), written.rest).await;
    written.answers.append(next);
    let answers = written.answers;
    assert_eq!(answers.len(), EVENTS + 5);
    assert!(only(answers.records).unwrap().ended);
    let finished: Vec<bool> = answers.finishes.into_iter().map(Result::unwrap).collect();
    assert_eq!(finished, [false, true], "records come first");
    let published: Vec<_> = answers.publishes.into_iter().map(Result::unwrap).collect();
    assert!(
        published
            .iter()
            .all(|one| one.deliveries.len() == ENDPOINTS)
    );
    let resent: Vec<_> = answers.resends.into_iter().map(Result::unwrap).collect();
    let ids: Vec<_> = resent.iter().map(|due| due.delivery.id).collect();
    assert_eq!(
        ids,
        [ended.id, waiting.id],
        "what a batch finishes it may send again"
    );
    let in_lane = published.iter().map(|one| {
        let of_lane = |due: &&DueDelivery| due.delivery.endpoint == lane;
        one.deliveries.iter().find(of_lane).unwrap().delivery.id
    });
    let rows = world.due(lane, secs(9), 1_000).await.rows;
    let stored: Vec<_> = rows.iter().map(|due| due.delivery.id).collect();
    assert_eq!(stored, ids.into_iter().chain(in_lane).collect::<Vec<_>>());
}

pub async fn an_event_for_very_many_is_there_whole_or_not_at_all(store: &dyn Store) {
    const ENDPOINTS: usize = 700;
    let world = world(store).await;
    let lane = world.endpoint().await;
    for _ in 1..ENDPOINTS {
        world.endpoint().await;
    }
    let large = world.keyed(at(2), "large", 1);
    let id = large.event.id;
    let batch = Batch::of_publishes([large, world.publishing(at(3), "next")]);
    let mut written = store.commit(at(3).into(), batch).await;
    while written.answers.publishes.is_empty() {
        // It may take several transactions; until it is accepted there is no such event, and no lane has anything of it.
        assert!(store.event(id).await.unwrap_err().is_not_found());
        assert_eq!(world.due(lane, secs(9), 10).await.rows.len(), 0);
        written = store.commit(at(3).into(), written.rest).await;
    }
    let rest = store.commit_all(at(3).into(), written.rest).await;
    written.answers.append(rest);
    let [large, next] = <[_; 2]>::try_from(written.answers.publishes).unwrap();
    let (large, next) = (large.unwrap(), next.unwrap());
    assert_eq!(
        (large.event, large.count),
        (id, u32::try_from(ENDPOINTS).unwrap())
    );
    assert_eq!((large.rows, large.deliveries.len()), (ENDPOINTS, ENDPOINTS));
    let stored = world.due(lane, secs(9), 10).await.rows;
    let events: Vec<_> = stored.iter().map(|due| due.event.id).collect();
    assert_eq!(events, [id, next.event], "in their order");
    // A repetition gets the first answer, and writes nothing.
    let again = world
        .publish_new(at(4), world.keyed(at(4), "large", 1))
        .await;
    let again = again.unwrap();
    assert_eq!(
        (again.event, again.count, again.created),
        (id, large.count, false)
    );
    let filter = DeliveryFilter {
        event: Some(id),
        ..DeliveryFilter::default()
    };
    let page = store
        .list_deliveries(filter, PageRequest::first(1_000))
        .await;
    assert_eq!(page.unwrap().rows.len(), ENDPOINTS);
}

pub async fn what_an_event_said_is_deleted_when_nothing_of_it_waits(store: &dyn Store) {
    let world = world(store).await;
    let (lane, other) = (world.endpoint().await, world.endpoint().await);
    let published = world.publish(at(1)).await;
    let to = |endpoint| {
        let due = published.deliveries.iter();
        let mut due = due.filter(|due| due.delivery.endpoint == endpoint);
        due.next().unwrap().delivery.id
    };
    let (first, second) = (to(lane), to(other));
    let event = store.event(published.event).await.unwrap();
    let delete = async |of| {
        let id = store.ids().next(at(5));
        let entry = content_entry(id, Actor::system(at(5)), &event, None);
        store.delete_content(of, entry).await
    };
    let whole = ContentOf::Event(published.event);
    let waits = StoreError::conflict(Rule::DeliveryPending);
    let refused = delete(whole).await.unwrap_err();
    assert_eq!(format!("{refused:?}"), format!("{waits:?}"));
    for (delivery, endpoint) in [(first, lane), (second, other)] {
        let mut answered = record(
            delivery,
            endpoint,
            1,
            Next::Delivered,
            HealthChange::Success,
            at(2),
        );
        answered.attempt.response = Some(Response {
            headers: vec![("x-a".into(), "b".into())],
            body: Bytes::from_static(b"thanks, Ada"),
            truncated: true,
        });
        world.record(at(2), answered).await.unwrap();
    }
    let responses = async || {
        let mut found = Vec::new();
        for delivery in [first, second] {
            let attempts = store.attempts(delivery, None, 9).await.unwrap();
            found.push(only(attempts).response.is_some());
        }
        found
    };
    let answer = |number| ContentOf::Attempt(first, number);
    assert!(delete(answer(2)).await.unwrap_err().is_not_found());
    delete(answer(1)).await.unwrap();
    assert_eq!(responses().await, [false, true]);
    let noted = async || {
        let all = store.list_audit(AuditFilter::default(), PageRequest::first(99));
        let rows = all.await.unwrap().rows.into_iter();
        rows.filter(|entry| entry.action == "event.content_deleted")
            .count()
    };
    for _ in 0..2 {
        delete(whole).await.unwrap();
        assert_eq!(noted().await, 2, "again it changes nothing");
    }
    assert_eq!(responses().await, [false, false]);
    let left = store.event(published.event).await.unwrap();
    assert!(!left.has_content() && left.meta.is_none());
    assert_eq!(left.event_type, event.event_type);
    assert_eq!(
        store.delivery(first).await.unwrap().state,
        DeliveryState::Delivered
    );
    let again = Resend {
        delivery: first,
        attempts: 1,
        series: Series::SCHEDULED,
    };
    let refused = world.resend(at(6), again).await.unwrap_err();
    let gone = StoreError::conflict(Rule::ContentDeleted);
    assert_eq!(format!("{refused:?}"), format!("{gone:?}"));
    let nobody = ContentOf::Event(store.ids().next(at(6)));
    assert!(delete(nobody).await.unwrap_err().is_not_found());
}

pub async fn one_bad_write_does_not_spoil_the_batch(store: &dyn Store) {
    let world = world(store).await;
    let endpoint = world.endpoint().await;
    let mut stranger = world.an_event(at(1), "x");
    stranger.tenant = store.ids().next(at(1));
    let bad = NewEvent {
        event: Arc::new(stranger),
        ..world.publishing(at(1), "x")
    };
    let finish = FinishDelivery {
        delivery: store.ids().next(at(1)),
        endpoint,
        state: DeliveryState::Cancelled,
    };
    let batch = Batch {
        publishes: vec![
            world.publishing(at(1), "x"),
            bad,
            world.publishing(at(1), "x"),
        ],
        finishes: vec![finish],
        ..Batch::default()
    };
    let answers = store.commit_all(at(1).into(), batch).await;
    let published: Vec<bool> = answers.publishes.iter().map(Result::is_ok).collect();
    assert_eq!(published, [true, false, true]);
    assert!(only(answers.finishes).unwrap_err().is_not_found());
    assert_eq!(world.due(endpoint, at(9), 9).await.rows.len(), 2);
}
