//! What came while an endpoint was disabled, and what came while a distribution was paused.

use postrider_core::audit::AuditEntry;
use postrider_core::delivery::{DeliveryState, Series};
use postrider_core::endpoint::{Endpoint, EndpointKind};
use postrider_core::health::{DisableReason, HealthChange};
use postrider_core::judge::Next;
use postrider_core::{Id, Timestamp, id};

use super::fixture::{World, at, by, filter, only, record, secs, world};
use super::log::a_distribution;
use crate::{
    AuditFilter, Batch, CatchUp, DeliveryFilter, DueDelivery, MissedPage, MissedQuery, NewEvent,
    PageRequest, Resend, Rule, StatePattern, Store, StoreError, Target, always,
};

async fn publish(world: &World<'_>, now: Timestamp, target: Target) -> Id<id::Event> {
    let new = NewEvent {
        target,
        ..world.publishing(now, "order.completed")
    };
    world.publish_new(now, new).await.unwrap().event
}

async fn catch_up(
    store: &dyn Store,
    event: Id<id::Event>,
    endpoint: Id<id::Endpoint>,
) -> Result<DueDelivery, StoreError> {
    let missed = CatchUp {
        event,
        endpoint,
        profile: 1,
    };
    let batch = Batch {
        catch_ups: vec![missed],
        ..Batch::default()
    };
    only(store.commit_all(secs(90).into(), batch).await.catch_ups)
}

async fn missed(store: &dyn Store, endpoint: Id<id::Endpoint>, since: Timestamp) -> MissedPage {
    let query = MissedQuery {
        endpoint,
        after: None,
        since: Some(since),
        until: secs(60),
        rows: 100,
    };
    store.missed_events(query).await.unwrap()
}

async fn enable(store: &dyn Store, endpoint: Id<id::Endpoint>, enabled: bool) {
    let change = move |endpoint: &mut Endpoint| {
        if enabled {
            endpoint.health.enable();
        } else {
            endpoint.health.disable(DisableReason::Manual, at(1));
        }
    };
    let changed = store.update_endpoint(endpoint, always(change), by());
    changed.await.unwrap();
}

pub async fn an_endpoint_catches_up_on_what_it_missed_and_on_nothing_else(store: &dyn Store) {
    let world = world(store).await;
    let endpoint = world.endpoint().await;
    let other = world.endpoint().await;
    publish(&world, secs(1), Target::Matching).await;
    enable(store, endpoint, false).await;
    let early = publish(&world, secs(2), Target::Matching).await;
    let first = publish(&world, secs(10), Target::Matching).await;
    // Not for it: one for distributions, one for nobody, one for another endpoint.
    for target in [
        Target::Distributions,
        Target::Nobody,
        Target::IfEnabled(other),
    ] {
        publish(&world, secs(11), target).await;
    }
    let second = publish(&world, secs(12), Target::Matching).await;
    publish(&world, secs(60), Target::Matching).await;
    let refused = catch_up(store, first, endpoint).await.unwrap_err();
    let rule = Rule::EndpointDisabled;
    assert!(
        matches!(refused, StoreError::Conflict { rule: r } if r == rule),
        "{refused}"
    );
    enable(store, endpoint, true).await;

    let whole = missed(store, endpoint, secs(3)).await;
    assert_eq!((whole.events, whole.next), (vec![first, second], None));
    let all = missed(store, endpoint, secs(0)).await.events;
    assert_eq!(all, [early, first, second]);
    // In pages, each of which says where it ended.
    let mut query = MissedQuery {
        endpoint,
        after: None,
        since: Some(secs(3)),
        until: secs(60),
        rows: 2,
    };
    let mut found = Vec::new();
    loop {
        let page = store.missed_events(query.clone()).await.unwrap();
        found.extend(page.events);
        if page.next.is_none() {
            break;
        }
        query.after = page.next;
    }
    assert_eq!(found, [first, second]);

    let due = catch_up(store, first, endpoint).await.unwrap();
    let delivery = &due.delivery;
    assert_eq!((delivery.event, due.event.id), (first, first));
    assert_eq!(
        (delivery.state, delivery.attempts),
        (DeliveryState::Pending, 0)
    );
    assert_eq!(store.delivery(delivery.id).await.unwrap(), *delivery);
    let lane = world.due(endpoint, secs(100), 10).await.rows;
    assert_eq!(lane.last(), Some(&due), "behind what waits already");
    let again = catch_up(store, first, endpoint).await.unwrap_err();
    assert!(
        matches!(
            again,
            StoreError::Conflict {
                rule: Rule::DeliveryExists
            }
        ),
        "{again}"
    );
    assert_eq!(missed(store, endpoint, secs(3)).await.events, [second]);
    store.delete_endpoint(endpoint, by()).await.unwrap();
    let query = MissedQuery {
        after: None,
        ..query
    };
    assert!(store.missed_events(query).await.unwrap_err().is_not_found());
}

pub async fn what_does_not_meet_the_filter_was_not_missed(store: &dyn Store) {
    let world = world(store).await;
    let endpoint = world.endpoint().await;
    let with = |text: &'static str| {
        let change = move |endpoint: &mut Endpoint| endpoint.filter = Some(filter(text));
        store.update_endpoint(endpoint, always(change), by())
    };
    enable(store, endpoint, false).await;
    let event = publish(&world, secs(2), Target::Matching).await;
    with(r#"{ "data.nothing": { "$exists": true } }"#)
        .await
        .unwrap();
    assert_eq!(missed(store, endpoint, secs(0)).await.events, []);
    with(r#"{ "data.nothing": { "$exists": false } }"#)
        .await
        .unwrap();
    assert_eq!(missed(store, endpoint, secs(0)).await.events, [event]);
}

pub async fn an_endpoint_of_a_key_catches_up_on_what_was_addressed_to_it(store: &dyn Store) {
    let world = world(store).await;
    let owned = Endpoint {
        kind: EndpointKind::Key(store.ids().next(at(0))),
        ..world.an_endpoint()
    };
    store
        .create_endpoint(owned.clone(), None, by())
        .await
        .unwrap();
    enable(store, owned.id, false).await;
    publish(&world, secs(1), Target::Matching).await;
    let mine = publish(&world, secs(2), Target::IfEnabled(owned.id)).await;
    enable(store, owned.id, true).await;
    assert_eq!(missed(store, owned.id, secs(0)).await.events, [mine]);
}

pub async fn a_paused_distribution_skips_what_comes_until_somebody_asks_for_it(store: &dyn Store) {
    let world = world(store).await;
    let distribution = a_distribution(&world, &["order.completed"]);
    let endpoint = distribution.id;
    store
        .create_endpoint(distribution, None, by())
        .await
        .unwrap();
    enable(store, endpoint, false).await;
    let new = NewEvent {
        target: Target::Distributions,
        ..world.publishing(secs(1), "order.completed")
    };
    let published = world.publish_new(secs(1), new).await.unwrap();
    assert_eq!((published.count, published.deliveries.len()), (0, 0));
    assert_eq!(
        published.rows, 1,
        "it takes room in the transaction all the same"
    );
    let other = NewEvent {
        target: Target::Distributions,
        ..world.publishing(secs(1), "order.failed")
    };
    world.publish_new(secs(1), other).await.unwrap();
    let filter = |state| DeliveryFilter {
        tenant: Some(world.tenant),
        state,
        ..DeliveryFilter::default()
    };
    let page = PageRequest::first(10);
    let skipped = filter(Some(StatePattern::Skipped));
    let rows = store
        .list_deliveries(skipped.clone(), page)
        .await
        .unwrap()
        .rows;
    assert_eq!(rows.len(), 1, "only what it is triggered by");
    assert_eq!(
        (rows[0].state, rows[0].event),
        (DeliveryState::Skipped, published.event)
    );
    assert_eq!(rows[0].completed_at, Some(secs(1)));
    let unsuccessful = filter(Some(StatePattern::Unsuccessful));
    assert_eq!(
        store
            .list_deliveries(unsuccessful, page)
            .await
            .unwrap()
            .rows,
        []
    );
    assert_eq!(store.count_deliveries(skipped, page).await.unwrap().rows, 1);
    let stats = store.endpoint_stats(endpoint, at(0)).await.unwrap();
    assert_eq!((stats.skipped, stats.pending, stats.failed), (1, 0, 0));
    assert_eq!(world.due(endpoint, secs(100), 10).await.rows, []);
    assert_eq!(store.backlog().await.unwrap(), []);

    enable(store, endpoint, true).await;
    assert_eq!(
        missed(store, endpoint, secs(0)).await.events,
        [published.event]
    );
    let due = catch_up(store, published.event, endpoint).await.unwrap();
    assert_eq!(due.delivery.id, rows[0].id, "the one that was skipped");
    assert_eq!(due.delivery.state, DeliveryState::Pending);
    let again = store.delivery(rows[0].id).await.unwrap();
    assert_eq!(again.completed_at, None);
    assert_eq!(missed(store, endpoint, secs(0)).await.events, []);
}

pub async fn a_count_in_pages_is_what_the_pages_hold(store: &dyn Store) {
    let world = world(store).await;
    world.endpoint().await;
    for second in 1..=7 {
        world.publish(secs(second)).await;
    }
    let filter = DeliveryFilter {
        tenant: Some(world.tenant),
        until: Some(secs(7)),
        ..DeliveryFilter::default()
    };
    let mut page = PageRequest::first(4);
    let mut counts = Vec::new();
    loop {
        let counted = store.count_deliveries(filter.clone(), page).await.unwrap();
        counts.push(counted.rows);
        match counted.next {
            None => break,
            next => page.cursor = next,
        }
    }
    assert_eq!(counts, [4, 2]);
}

pub async fn what_has_expired_is_not_caught_up(store: &dyn Store) {
    let world = world(store).await;
    let endpoint = world.endpoint().await;
    enable(store, endpoint, false).await;
    let mut event = world.an_event(secs(1), "order.completed");
    event.deliver_before = Some(secs(30));
    let new = NewEvent {
        event: std::sync::Arc::new(event),
        ..world.publishing(secs(1), "order.completed")
    };
    let event = world.publish_new(secs(1), new).await.unwrap().event;
    enable(store, endpoint, true).await;
    let refused = catch_up(store, event, endpoint).await.unwrap_err();
    let rule = Rule::DeliveryExpired;
    assert!(
        matches!(refused, StoreError::Conflict { rule: r } if r == rule),
        "{refused}"
    );
}

pub async fn what_has_expired_is_not_sent_again(store: &dyn Store) {
    let world = world(store).await;
    let endpoint = world.endpoint().await;
    let mut event = world.an_event(secs(1), "order.completed");
    event.deliver_before = Some(secs(30));
    let new = NewEvent {
        event: std::sync::Arc::new(event),
        ..world.publishing(secs(1), "order.completed")
    };
    let published = world.publish_new(secs(1), new).await.unwrap();
    let delivery = published.deliveries[0].delivery.id;
    let done = record(
        delivery,
        endpoint,
        1,
        Next::Delivered,
        HealthChange::Success,
        secs(2),
    );
    world.record(secs(2), done).await.unwrap();
    let again = Resend {
        delivery,
        attempts: 1,
        series: Series::SCHEDULED,
    };
    let refused = world.resend(secs(31), again).await.unwrap_err();
    let rule = Rule::DeliveryExpired;
    assert!(
        matches!(refused, StoreError::Conflict { rule: r } if r == rule),
        "{refused}"
    );
    let left = store.delivery(delivery).await.unwrap().state;
    assert_eq!(left, DeliveryState::Delivered, "it stays as it ended");
    assert!(world.resend(secs(29), again).await.is_ok());
}

pub async fn nothing_is_noted_of_an_owner_that_is_gone(store: &dyn Store) {
    let world = world(store).await;
    let entry = |tenant| AuditEntry {
        id: store.ids().next(at(1)),
        application: Some(world.application),
        tenant: Some(tenant),
        actor: by(),
        action: "endpoint.tested".into(),
        subject: "ep".into(),
        before: None,
        after: None,
    };
    let (kept, lost) = (entry(world.tenant), entry(store.ids().next(at(1))));
    store.note(kept.clone()).await.unwrap();
    store.note(lost).await.unwrap();
    let filter = AuditFilter {
        action: Some("endpoint.tested".into()),
        ..AuditFilter::default()
    };
    let noted = store.list_audit(filter, PageRequest::first(9)).await;
    assert_eq!(noted.unwrap().rows, [kept]);
}
