//! Lists: pages, cursors, filters, counts.

use std::collections::HashSet;
use std::sync::Arc;

use postrider_core::attempt::{Outcome, UnreachableReason};
use postrider_core::delivery::FailReason;
use postrider_core::endpoint::Endpoint;
use postrider_core::event::EventSummary;
use postrider_core::health::HealthChange;
use postrider_core::judge::Next;
use postrider_core::tenant::Mode;

use super::fixture::{at, by, record, secs, world};
use crate::{
    Cursor, DeliveryFilter, EndpointFilter, EndpointListing, EventFilter, LastAnswer, NewEvent,
    PageRequest, StatePattern, Store, StoreError, TenantFilter,
};

pub async fn pages_are_stable_while_rows_arrive(store: &dyn Store) {
    let world = world(store).await;
    let mut expected = Vec::new();
    for i in 0..7 {
        expected.push(world.publish(at(i)).await.event);
    }
    expected.reverse();
    let filter = EventFilter {
        tenant: Some(world.tenant),
        ..EventFilter::default()
    };
    let mut seen = Vec::new();
    let mut request = PageRequest::first(3);
    for i in 0..3 {
        let page = store.list_events(filter.clone(), request).await.unwrap();
        seen.extend(page.rows.iter().map(|event| event.id));
        request.cursor = page.next;
        world.publish(at(100 + i)).await;
    }
    assert_eq!(seen, expected);
    assert_eq!(request.cursor, None, "exactly the last page has no next");
}

pub async fn lists_can_be_of_one_mode(store: &dyn Store) {
    let world = world(store).await;
    let (live, test) = (world.an_endpoint(), world.an_endpoint());
    let test = Endpoint {
        mode: Mode::Test,
        ..test
    };
    for endpoint in [&live, &test] {
        let endpoint = endpoint.clone();
        store.create_endpoint(endpoint, None, by()).await.unwrap();
    }
    let mut event = world.an_event(at(1), "order.completed");
    event.mode = Mode::Test;
    let tested = event.id;
    let new = NewEvent {
        event: Arc::new(event),
        ..world.publishing(at(1), "order.completed")
    };
    world.publish_new(at(1), new).await.unwrap();
    let lived = world.publish(at(2)).await.event;
    for (mode, endpoint, event) in [(Mode::Live, live.id, lived), (Mode::Test, test.id, tested)] {
        let page = PageRequest::first(9);
        let endpoints = EndpointFilter {
            mode: Some(mode),
            ..world.listing(EndpointListing::Registered)
        };
        let endpoints = store.list_endpoints(endpoints, page).await.unwrap().rows;
        assert_eq!(
            endpoints.iter().map(|e| e.id).collect::<Vec<_>>(),
            [endpoint]
        );
        let events = EventFilter {
            mode: Some(mode),
            ..EventFilter::default()
        };
        let events = store.list_events(events, page).await.unwrap().rows;
        assert_eq!(events.iter().map(|e| e.id).collect::<Vec<_>>(), [event]);
    }
}

pub async fn a_summary_of_an_event_lacks_its_data_only(store: &dyn Store) {
    let world = world(store).await;
    let mut event = world.an_event(at(1), "order.completed");
    event.meta = Some(bytes::Bytes::from_static(b"{\"group_id\": \"g\"}"));
    event.ordering_key = Some("k".into());
    event.deliver_before = Some(at(99));
    let new = NewEvent {
        event: Arc::new(event.clone()),
        ..world.publishing(at(1), "order.completed")
    };
    world.publish_new(at(1), new).await.unwrap();
    let expected = [EventSummary::from(&event)];
    let stranger = store.ids().next(at(0));
    let summaries = store.event_summaries(vec![stranger, event.id]).await;
    assert_eq!(summaries.unwrap(), expected);
    let listed = store.list_events(EventFilter::default(), PageRequest::first(9));
    assert_eq!(listed.await.unwrap().rows, expected);
}

pub async fn what_a_clock_made_that_was_set_back_is_found_at_its_time(store: &dyn Store) {
    let world = world(store).await;
    let endpoint = world.endpoint().await;
    world.publish(secs(3_600)).await;
    let back = world.publish(secs(60)).await;
    let filter = DeliveryFilter {
        tenant: Some(world.tenant),
        until: Some(secs(120)),
        ..DeliveryFilter::default()
    };
    let found = store.list_deliveries(filter, PageRequest::first(9)).await;
    let found: Vec<_> = found.unwrap().rows.iter().map(|row| row.id).collect();
    assert_eq!(found, [back.deliveries[0].delivery.id]);
    let stats = store.endpoint_stats(endpoint, secs(0)).await.unwrap();
    assert_eq!(stats.pending, 2);
}

pub async fn a_cursor_of_another_query_is_refused(store: &dyn Store) {
    let world = world(store).await;
    for i in 0..3 {
        world.publish(at(i)).await;
    }
    let cursor = store
        .list_events(EventFilter::default(), PageRequest::first(1))
        .await
        .unwrap()
        .next;
    assert!(cursor.is_some());
    let other = EventFilter {
        event_type: Some("order.completed".into()),
        ..EventFilter::default()
    };
    let refused = store
        .list_events(other, PageRequest { limit: 1, cursor })
        .await
        .unwrap_err();
    assert!(matches!(refused, StoreError::BadCursor));
}

pub async fn deliveries_can_be_listed_from_the_oldest(store: &dyn Store) {
    let world = world(store).await;
    world.endpoint().await;
    let mut made = Vec::new();
    for second in 1..=5 {
        let published = world.publish(secs(second)).await;
        made.push(published.deliveries[0].delivery.id);
    }
    let filter = DeliveryFilter {
        tenant: Some(world.tenant),
        mode: Some(Mode::Live),
        oldest_first: true,
        ..DeliveryFilter::default()
    };
    let mut found = Vec::new();
    let mut page = PageRequest::first(2);
    loop {
        let part = store.list_deliveries(filter.clone(), page).await.unwrap();
        found.extend(part.rows.iter().map(|row| row.id));
        match part.next {
            None => break,
            next => page.cursor = next,
        }
    }
    assert_eq!(found, made);
    let newest = DeliveryFilter {
        oldest_first: false,
        ..filter
    };
    let mixed = store.list_deliveries(newest, page).await;
    assert!(matches!(mixed, Err(StoreError::BadCursor)), "{mixed:?}");
}

pub async fn tenants_are_listed_in_either_order(store: &dyn Store) {
    let world = world(store).await;
    let mut made = vec![world.tenant];
    for number in 0..3 {
        let tenant = world.a_tenant(store.ids().next(at(0)), Some(&format!("t-{number}")));
        made.push(tenant.id);
        store
            .create_tenant(tenant, "standard".into(), by())
            .await
            .unwrap();
    }
    for oldest_first in [true, false] {
        let filter = TenantFilter {
            application: world.application,
            oldest_first,
        };
        let mut found = Vec::new();
        let mut page = PageRequest::first(3);
        loop {
            let part = store.list_tenants(filter, page).await.unwrap();
            found.extend(part.rows.iter().map(|row| row.id));
            match part.next {
                None => break,
                next => page.cursor = next,
            }
        }
        assert_eq!(found, made, "{oldest_first}");
        // Behind a row that a door knows by its id, whatever the list.
        let behind = PageRequest {
            limit: 9,
            cursor: Some(Cursor::behind(made[1])),
        };
        let rest = store.list_tenants(filter, behind).await.unwrap().rows;
        let rest: Vec<_> = rest.iter().map(|row| row.id).collect();
        assert_eq!(rest, made[2..]);
        made.reverse();
    }
}

pub async fn endpoints_are_listed_in_either_order(store: &dyn Store) {
    let world = world(store).await;
    let mut made = Vec::new();
    for _ in 0..4 {
        made.push(world.endpoint().await);
    }
    for oldest_first in [true, false] {
        let filter = EndpointFilter {
            oldest_first,
            ..world.listing(EndpointListing::Registered)
        };
        let first = store.list_endpoints(filter, PageRequest::first(3)).await;
        let first = first.unwrap();
        let page = PageRequest {
            limit: 3,
            cursor: first.next,
        };
        let second = store.list_endpoints(filter, page).await.unwrap();
        let found = first.rows.iter().chain(&second.rows).map(|row| row.id);
        assert_eq!(found.collect::<Vec<_>>(), made, "{oldest_first}");
        made.reverse();
    }
}

pub async fn deliveries_are_filtered_by_every_column(store: &dyn Store) {
    let world = world(store).await;
    let endpoint = world.endpoint().await;
    let delivered = world.publish(at(1_000)).await.deliveries[0]
        .delivery
        .clone();
    let failed = world.publish(at(2_000)).await.deliveries[0]
        .delivery
        .clone();
    let pending = world
        .publish_new(at(3_000), world.publishing(at(3_000), "order.failed"))
        .await
        .unwrap()
        .deliveries[0]
        .delivery
        .clone();
    world
        .record(
            at(4_000),
            record(
                delivered.id,
                endpoint,
                1,
                Next::Delivered,
                HealthChange::Success,
                at(4_000),
            ),
        )
        .await
        .unwrap();
    let failure = HealthChange::Failure {
        delivery_failed: true,
    };
    let mut timed_out = record(
        failed.id,
        endpoint,
        1,
        Next::Failed(FailReason::Exhausted),
        failure,
        at(4_000),
    );
    timed_out.attempt.outcome = Outcome::Unreachable {
        reason: UnreachableReason::Timeout,
        detail: "no answer".into(),
    };
    world.record(at(4_000), timed_out).await.unwrap();
    let all = DeliveryFilter {
        tenant: Some(world.tenant),
        application: Some(world.application),
        ..DeliveryFilter::default()
    };
    let stranger = store.ids().next(at(0));
    let of_answer = |answer| DeliveryFilter {
        answer: Some(answer),
        ..all.clone()
    };
    for (filter, expected) in [
        (all.clone(), vec![pending.id, failed.id, delivered.id]),
        (
            DeliveryFilter {
                state: Some(StatePattern::Delivered),
                ..all.clone()
            },
            vec![delivered.id],
        ),
        (
            DeliveryFilter {
                state: Some(StatePattern::Failed),
                ..all.clone()
            },
            vec![failed.id],
        ),
        (
            DeliveryFilter {
                state: Some(StatePattern::Pending),
                ..all.clone()
            },
            vec![pending.id],
        ),
        (
            DeliveryFilter {
                state: Some(StatePattern::Cancelled),
                ..all.clone()
            },
            vec![],
        ),
        (
            DeliveryFilter {
                state: Some(StatePattern::Unsuccessful),
                ..all.clone()
            },
            vec![failed.id],
        ),
        (of_answer(LastAnswer::Class(5)), vec![delivered.id]),
        (of_answer(LastAnswer::Class(2)), vec![]),
        (of_answer(LastAnswer::None), vec![failed.id]),
        (
            of_answer(LastAnswer::Because(UnreachableReason::Timeout)),
            vec![failed.id],
        ),
        (
            of_answer(LastAnswer::Because(UnreachableReason::Dns)),
            vec![],
        ),
        (
            DeliveryFilter {
                event_type: Some("order.failed".into()),
                ..all.clone()
            },
            vec![pending.id],
        ),
        (
            DeliveryFilter {
                event: Some(failed.event),
                ..all.clone()
            },
            vec![failed.id],
        ),
        (
            DeliveryFilter {
                endpoint: Some(endpoint),
                ..all.clone()
            },
            vec![pending.id, failed.id, delivered.id],
        ),
        (
            DeliveryFilter {
                endpoint: Some(stranger),
                ..all.clone()
            },
            vec![],
        ),
        (
            DeliveryFilter {
                tenant: Some(stranger.cast()),
                ..all.clone()
            },
            vec![],
        ),
        (
            DeliveryFilter {
                application: Some(stranger.cast()),
                ..all.clone()
            },
            vec![],
        ),
        (
            DeliveryFilter {
                since: Some(at(2_000)),
                ..all.clone()
            },
            vec![pending.id, failed.id],
        ),
        (
            DeliveryFilter {
                until: Some(at(2_000)),
                ..all.clone()
            },
            vec![delivered.id],
        ),
    ] {
        let rows = store
            .list_deliveries(filter.clone(), PageRequest::first(9))
            .await
            .unwrap()
            .rows;
        assert_eq!(
            rows.iter().map(|row| row.id).collect::<Vec<_>>(),
            expected,
            "{filter:?}"
        );
    }
}

pub async fn counts_equal_what_the_pages_hold(store: &dyn Store) {
    let world = world(store).await;
    let endpoint = world.endpoint().await;
    for i in 0..9 {
        let delivery = world.publish(at(i * 1_000)).await.deliveries[0].delivery.id;
        match i % 3 {
            0 => drop(
                world
                    .record(
                        at(i * 1_000),
                        record(
                            delivery,
                            endpoint,
                            1,
                            Next::Delivered,
                            HealthChange::Success,
                            at(0),
                        ),
                    )
                    .await,
            ),
            1 => drop(world.fail_one(endpoint, at(i * 1_000)).await),
            _ => {}
        }
    }
    let stats = store.endpoint_stats(endpoint, at(0)).await.unwrap();
    let mut ids = HashSet::new();
    let mut request = PageRequest::first(2);
    loop {
        let page = store
            .list_deliveries(DeliveryFilter::default(), request)
            .await
            .unwrap();
        ids.extend(page.rows.iter().map(|row| row.id));
        request.cursor = page.next;
        if request.cursor.is_none() {
            break;
        }
    }
    assert_eq!(
        stats.pending + stats.delivered + stats.failed + stats.cancelled,
        ids.len() as u64
    );
    assert_eq!((stats.delivered, stats.failed, stats.attempts), (3, 3, 6));
    assert_eq!(
        store.endpoint_stats(endpoint, at(1_000_000)).await.unwrap(),
        crate::EndpointStats::default()
    );
}
