//! Lanes and results: what is due, what an attempt changes, how an endpoint's health moves.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use postrider_core::Timestamp;
use postrider_core::attempt::{Attempt, Outcome, UnreachableReason};
use postrider_core::delivery::{DeliveryState, FailReason, Series};
use postrider_core::health::{DisableReason, HealthChange};
use postrider_core::judge::Next;
use postrider_core::limits::ATTEMPTS_MAX;

use super::fixture::{an_attempt, at, by, only, record, secs, world};
use crate::{Batch, LoadDue, NewEvent, RecordAttempt, Resend, Rule, Store, StoreError, always};

const RETRYING: HealthChange = HealthChange::Failure {
    delivery_failed: false,
};

pub async fn a_lane_is_read_in_order_and_in_pages(store: &dyn Store) {
    let world = world(store).await;
    let endpoint = world.endpoint().await;
    // All at one instant: the order of acceptance still holds.
    let mut expected = Vec::new();
    for _ in 0..5 {
        expected.push(world.publish(at(1)).await.deliveries[0].delivery.id);
    }
    let page = world.due(endpoint, secs(1), 3).await;
    assert_eq!(
        page.rows
            .iter()
            .map(|due| due.delivery.id)
            .collect::<Vec<_>>(),
        expected[..3]
    );
    assert!(
        page.rows
            .windows(2)
            .all(|pair| pair[0].sequence < pair[1].sequence)
    );
    assert!(
        page.next
            .is_some_and(|next| next.as_micros() > page.rows[2].sequence)
    );
    let all = world.due(endpoint, secs(1), 5).await;
    assert_eq!(all.rows.len(), 5);
    assert_eq!(all.next, None);
    let none = world.due(endpoint, at(0), 5).await;
    assert_eq!(
        (none.rows.len(), none.next),
        (0, Some(Timestamp::from_micros(all.rows[0].sequence)))
    );
}

pub async fn a_page_ends_with_the_delivery_that_reaches_its_bytes(store: &dyn Store) {
    const BYTES: usize = 100;
    let world = world(store).await;
    let endpoint = world.endpoint().await;
    let mut waiting = Vec::new();
    for _ in 0..5 {
        let mut event = world.an_event(at(1), "x");
        // What is said beside the data is payload too.
        event.data = Bytes::from(vec![b'1'; BYTES - 2]);
        event.meta = Some(Bytes::from_static(b"{}"));
        let new = NewEvent {
            event: Arc::new(event),
            ..world.publishing(at(1), "x")
        };
        let published = world.publish_new(at(1), new).await.unwrap();
        waiting.push(only(published.deliveries));
    }
    for (bytes, rows) in [
        (1, 1),
        (2 * BYTES + 1, 3),
        (3 * BYTES, 3),
        (5 * BYTES, 5),
        (9 * BYTES, 5),
    ] {
        let query = LoadDue {
            bytes,
            ..LoadDue::all(endpoint)
        };
        let page = store.load_due(query).await.unwrap();
        assert_eq!(page.rows, waiting[..rows], "{bytes} bytes");
        let behind = waiting.get(rows);
        let next = behind.map(|due| Timestamp::from_micros(due.sequence));
        assert_eq!(page.next, next, "{bytes} bytes");
    }
}

pub async fn an_unordered_retry_moves_to_its_time_and_an_ordered_one_stays(store: &dyn Store) {
    let world = world(store).await;
    let endpoint = world.endpoint().await;
    let first = world.publish(at(1)).await.deliveries[0].clone();
    let second = world.publish(at(2)).await.deliveries[0].clone();
    let retry = Next::Retry { at: secs(60) };
    let kept = RecordAttempt {
        keep_place: true,
        ..record(first.delivery.id, endpoint, 1, retry, RETRYING, at(3))
    };
    world.record(at(3), kept).await.unwrap();
    let page = world.due(endpoint, secs(1), 9).await;
    assert_eq!(page.rows[0].delivery.id, first.delivery.id);
    assert_eq!(
        (page.rows[0].delivery.due_at, page.rows[0].sequence),
        (secs(60), first.sequence)
    );
    world
        .record(
            at(4),
            record(second.delivery.id, endpoint, 1, retry, RETRYING, at(4)),
        )
        .await
        .unwrap();
    let page = world.due(endpoint, secs(1), 9).await;
    assert_eq!((page.rows.len(), page.next), (1, Some(secs(60))));
    assert_eq!(
        world.due(endpoint, secs(60), 9).await.rows[1]
            .delivery
            .attempts,
        1
    );
}

pub async fn the_backlog_names_every_lane_with_work(store: &dyn Store) {
    let world = world(store).await;
    let (a, b) = (world.endpoint().await, world.endpoint().await);
    assert_eq!(store.backlog().await.unwrap(), []);
    let published = world.publish(at(1)).await;
    let mut lanes = store.backlog().await.unwrap();
    lanes.sort_by_key(|lane| lane.endpoint);
    assert_eq!(
        lanes.iter().map(|lane| lane.endpoint).collect::<Vec<_>>(),
        [a, b]
    );
    assert!(
        lanes
            .iter()
            .all(|lane| lane.first.as_micros() == published.deliveries[0].sequence)
    );
    for due in published.deliveries {
        let done = record(
            due.delivery.id,
            due.delivery.endpoint,
            1,
            Next::Delivered,
            HealthChange::Success,
            at(2),
        );
        world.record(at(2), done).await.unwrap();
    }
    assert_eq!(store.backlog().await.unwrap(), []);
}

pub async fn recording_twice_is_recording_once(store: &dyn Store) {
    let world = world(store).await;
    let endpoint = world.endpoint().await;
    let delivery = world.publish(at(1)).await.deliveries[0].delivery.id;
    let failed = record(
        delivery,
        endpoint,
        1,
        Next::Failed(FailReason::Exhausted),
        HealthChange::Failure {
            delivery_failed: true,
        },
        at(2),
    );
    let batch = Batch::of_records([failed.clone(), failed.clone()]);
    let answers = store.commit_all(at(2).into(), batch).await.records;
    let applied: Vec<bool> = answers.iter().flatten().map(|one| one.applied).collect();
    assert_eq!(applied, [true, false]);
    assert!(!world.record(at(3), failed).await.unwrap().applied);
    assert_eq!(store.attempts(delivery, None, 9).await.unwrap().len(), 1);
    assert_eq!(
        store
            .endpoint(endpoint)
            .await
            .unwrap()
            .health
            .consecutive_failures,
        1
    );
}

pub async fn attempt_numbers_have_no_gaps(store: &dyn Store) {
    let world = world(store).await;
    let endpoint = world.endpoint().await;
    let delivery = world.publish(at(1)).await.deliveries[0].delivery.id;
    let retry = |number| {
        record(
            delivery,
            endpoint,
            number,
            Next::Retry { at: secs(1) },
            RETRYING,
            at(2),
        )
    };
    assert!(
        !world.record(at(2), retry(2)).await.unwrap().applied,
        "the first is missing"
    );
    for number in 1..=3 {
        assert!(world.record(at(2), retry(number)).await.unwrap().applied);
    }
    let numbers: Vec<u32> = store
        .attempts(delivery, None, 9)
        .await
        .unwrap()
        .iter()
        .map(|attempt| attempt.number)
        .collect();
    assert_eq!(numbers, [1, 2, 3]);
    assert_eq!(store.delivery(delivery).await.unwrap().attempts, 3);
}

pub async fn a_finished_delivery_is_never_due_again(store: &dyn Store) {
    let world = world(store).await;
    let endpoint = world.endpoint().await;
    let delivery = world.publish(at(1)).await.deliveries[0].delivery.id;
    world
        .record(
            at(2),
            record(
                delivery,
                endpoint,
                1,
                Next::Delivered,
                HealthChange::Success,
                at(2),
            ),
        )
        .await
        .unwrap();
    let late = record(
        delivery,
        endpoint,
        2,
        Next::Retry { at: at(9) },
        RETRYING,
        at(3),
    );
    world.record(at(3), late).await.unwrap();
    assert!(world.due(endpoint, secs(99), 9).await.rows.is_empty());
    let row = store.delivery(delivery).await.unwrap();
    assert_eq!(row.state, DeliveryState::Delivered);
    let cancel = crate::FinishDelivery {
        delivery,
        endpoint,
        state: DeliveryState::Cancelled,
    };
    assert!(!world.finish(at(4), cancel).await.unwrap());
}

pub async fn times_survive_to_the_microsecond(store: &dyn Store) {
    let world = world(store).await;
    let endpoint = world.endpoint().await;
    let delivery = world.publish(at(123_457)).await.deliveries[0].delivery.id;
    let due = at(987_654_321_123);
    world
        .record(
            at(200_001),
            record(
                delivery,
                endpoint,
                1,
                Next::Retry { at: due },
                RETRYING,
                at(200_001),
            ),
        )
        .await
        .unwrap();
    let row = store.delivery(delivery).await.unwrap();
    assert_eq!(
        (row.created_at, row.due_at, row.series.started_at),
        (at(123_457), due, Some(at(200_001)))
    );
}

pub async fn everything_about_an_attempt_comes_back(store: &dyn Store) {
    let world = world(store).await;
    let endpoint = world.endpoint().await;
    let delivery = world.publish(at(1)).await.deliveries[0].delivery.id;
    let answered = an_attempt(1, at(2));
    let silent = Attempt {
        outcome: Outcome::Unreachable {
            reason: UnreachableReason::Tls,
            detail: "certificate expired".into(),
        },
        response: None,
        manual: false,
        ..an_attempt(2, at(3))
    };
    for attempt in [answered.clone(), silent.clone()] {
        let number = attempt.number;
        let next = Next::Retry { at: secs(1) };
        world
            .record(
                at(3),
                RecordAttempt {
                    attempt,
                    ..record(delivery, endpoint, number, next, RETRYING, at(2))
                },
            )
            .await
            .unwrap();
    }
    assert_eq!(
        store.attempts(delivery, None, 9).await.unwrap(),
        [answered, silent]
    );
}

pub async fn a_long_history_is_read_from_its_end(store: &dyn Store) {
    let world = world(store).await;
    let endpoint = world.endpoint().await;
    let published = world.publish(at(1)).await.deliveries;
    let delivery = published[0].delivery.id;
    let silent = world.publish(at(1)).await.deliveries[0].delivery.id;
    for number in 1..=5 {
        let next = Next::Retry { at: secs(1) };
        let mut record = record(delivery, endpoint, number, next, RETRYING, at(2));
        record.attempt.rendering = an_attempt(number, at(2)).rendering.filter(|_| number == 2);
        world.record(at(2), record).await.unwrap();
    }
    let numbers = async |before, limit| {
        let rows = store.attempts(delivery, before, limit).await.unwrap();
        rows.iter().map(|row| row.number).collect::<Vec<_>>()
    };
    assert_eq!(numbers(None, 2).await, [4, 5]);
    assert_eq!(numbers(Some(4), 2).await, [2, 3]);
    assert_eq!(numbers(Some(2), 2).await, [1]);
    assert!(numbers(Some(1), 2).await.is_empty());
    let last = store.last_attempts(vec![silent, delivery]).await.unwrap();
    let last: Vec<_> = last.iter().map(|(id, row)| (*id, row.number)).collect();
    assert_eq!(last, [(delivery, 5)], "one had no attempt");
    let second = &store.attempts(delivery, Some(3), 1).await.unwrap()[0];
    assert!(second.rendering.is_some());
    let first = store.first_rendering(delivery).await.unwrap();
    assert_eq!(first, second.rendering);
    assert_eq!(store.first_rendering(silent).await.unwrap(), None);
}

pub async fn a_delivery_has_a_bounded_number_of_attempts(store: &dyn Store) {
    let world = world(store).await;
    let endpoint = world.endpoint().await;
    let delivery = world.publish(at(1)).await.deliveries[0].delivery.id;
    let attempts = (1..=ATTEMPTS_MAX).map(|number| {
        let next = if number < ATTEMPTS_MAX {
            Next::Retry { at: secs(1) }
        } else {
            Next::Delivered
        };
        record(delivery, endpoint, number, next, RETRYING, at(2))
    });
    let batch = Batch::of_records(attempts);
    store.commit_all(at(2).into(), batch).await;
    assert_eq!(
        store.delivery(delivery).await.unwrap().attempts,
        ATTEMPTS_MAX
    );
    let again = Resend {
        delivery,
        attempts: ATTEMPTS_MAX,
        series: Series::SCHEDULED,
    };
    let refused = world.resend(at(3), again).await;
    assert!(matches!(
        refused,
        Err(StoreError::Conflict {
            rule: Rule::AttemptsMax
        })
    ));
}

pub async fn a_delivery_ended_meanwhile_stays_ended_unless_it_succeeded(store: &dyn Store) {
    let world = world(store).await;
    let endpoint = world.endpoint().await;
    let (a, b) = (
        world.publish(at(1)).await.deliveries[0].delivery.id,
        world.publish(at(1)).await.deliveries[0].delivery.id,
    );
    store.delete_endpoint(endpoint, by()).await.unwrap();
    assert_eq!(
        store
            .finish_pending(endpoint, DeliveryState::Cancelled, at(2), 9)
            .await
            .unwrap(),
        2
    );
    let retry = Next::Retry { at: at(9) };
    let recorded = world.record(at(3), record(a, endpoint, 1, retry, RETRYING, at(1)));
    assert!(recorded.await.unwrap().applied);
    let success = record(
        b,
        endpoint,
        1,
        Next::Delivered,
        HealthChange::Success,
        at(1),
    );
    assert!(world.record(at(3), success).await.unwrap().applied);
    let ended = store.delivery(a).await.unwrap();
    assert_eq!(ended.state, DeliveryState::Cancelled);
    assert_eq!(
        (ended.attempts, ended.completed_at, ended.series),
        (1, Some(at(2)), Series::SCHEDULED),
        "it ended when it ended; the attempt is told"
    );
    assert_eq!(
        store.delivery(b).await.unwrap().state,
        DeliveryState::Delivered
    );
    assert!(world.due(endpoint, secs(99), 9).await.rows.is_empty());
}

pub async fn the_tenth_failure_disables_exactly_once(store: &dyn Store) {
    let world = world(store).await;
    let endpoint = world.endpoint().await;
    // Twelve that were published before the endpoint was disabled fail together.
    let mut deliveries = Vec::new();
    for i in 0..12 {
        deliveries.push(world.publish(at(i)).await.deliveries[0].delivery.id);
    }
    let failed = HealthChange::Failure {
        delivery_failed: true,
    };
    let batch = Batch::of_records(deliveries.iter().map(|delivery| {
        record(
            *delivery,
            endpoint,
            1,
            Next::Failed(FailReason::Exhausted),
            failed,
            at(20),
        )
    }));
    let answers = store.commit_all(at(20).into(), batch).await.records;
    let disabled: Vec<Option<DisableReason>> = answers
        .into_iter()
        .map(|answer| answer.unwrap().disabled)
        .collect();
    assert_eq!(disabled.iter().flatten().count(), 1);
    assert_eq!(disabled[9], Some(DisableReason::Failures));
    let health = store.endpoint(endpoint).await.unwrap().health;
    assert_eq!(
        health
            .disabled
            .map(|disabled| (disabled.reason, disabled.at)),
        Some((DisableReason::Failures, at(20)))
    );
    assert_eq!(world.publish(at(30)).await.count, 0);
    let enabled = store
        .update_endpoint(endpoint, always(|endpoint| endpoint.health.enable()), by())
        .await
        .unwrap();
    assert_eq!(enabled.health.consecutive_failures, 0);
    assert_eq!(world.publish(at(31)).await.count, 1);
}

pub async fn a_success_resets_the_counter(store: &dyn Store) {
    let world = world(store).await;
    let endpoint = world.endpoint().await;
    for i in 0..9 {
        assert_eq!(world.fail_one(endpoint, at(i)).await.disabled, None);
    }
    let health = store.endpoint(endpoint).await.unwrap().health;
    assert_eq!(
        (health.consecutive_failures, health.failing_since),
        (9, Some(at(0)))
    );
    let delivery = world.publish(at(10)).await.deliveries[0].delivery.id;
    world
        .record(
            at(11),
            record(
                delivery,
                endpoint,
                1,
                Next::Delivered,
                HealthChange::Success,
                at(11),
            ),
        )
        .await
        .unwrap();
    let health = store.endpoint(endpoint).await.unwrap().health;
    assert_eq!(
        (health.consecutive_failures, health.failing_since),
        (0, None)
    );
}

pub async fn a_closed_endpoints_pending_deliveries_are_finished_in_pages(store: &dyn Store) {
    let world = world(store).await;
    let endpoint = world.endpoint().await;
    let mut deliveries = Vec::new();
    for i in 0..5 {
        deliveries.push(world.publish(at(i)).await.deliveries[0].delivery.id);
    }
    store
        .update_endpoint(
            endpoint,
            always(|endpoint| endpoint.health.disable(DisableReason::Manual, at(9))),
            by(),
        )
        .await
        .unwrap();
    let failed = DeliveryState::Failed(FailReason::EndpointDisabled);
    let mut pages = Vec::new();
    for _ in 0..4 {
        pages.push(
            store
                .finish_pending(endpoint, failed, at(10), 2)
                .await
                .unwrap(),
        );
    }
    assert_eq!(pages, [2, 2, 1, 0]);
    for delivery in deliveries {
        let row = store.delivery(delivery).await.unwrap();
        assert_eq!((row.state, row.completed_at), (failed, Some(at(10))));
    }
}

pub async fn an_enabled_endpoint_keeps_what_is_pending(store: &dyn Store) {
    let world = world(store).await;
    let endpoint = world.endpoint().await;
    world.publish(at(1)).await;
    assert_eq!(
        store
            .finish_pending(endpoint, DeliveryState::Cancelled, at(2), 9)
            .await
            .unwrap(),
        0
    );
    assert_eq!(world.due(endpoint, secs(1), 9).await.rows.len(), 1);
}

/// Somebody mends the URL while the old one is being tried.
pub async fn another_address_says_nothing_of_an_endpoint(store: &dyn Store) {
    let world = world(store).await;
    let endpoint = world.endpoint().await;
    let failed = HealthChange::Failure {
        delivery_failed: true,
    };
    let under_way = world.publish(at(1)).await.deliveries[0].delivery.id;
    let other = world.publish(at(1)).await.deliveries[0].delivery.id;
    let moved = world
        .store
        .update_endpoint(
            endpoint,
            always(|endpoint| endpoint.url = "https://example.com/mended".into()),
            by(),
        )
        .await
        .unwrap();
    let next = Next::Failed(FailReason::Stopped);
    let gone = record(under_way, endpoint, 1, next, HealthChange::Gone, at(2));
    let recorded = world.record(at(2), gone).await.unwrap();
    assert_eq!((recorded.ended, recorded.disabled), (true, None));
    assert_eq!(store.endpoint(endpoint).await.unwrap(), moved);
    let mut fails = record(other, endpoint, 1, next, failed, at(3));
    fails.attempt.url = moved.url;
    world.record(at(3), fails).await.unwrap();
    let health = store.endpoint(endpoint).await.unwrap().health;
    assert_eq!(health.consecutive_failures, 1);
    // Nor does it show that the new one is there.
    let old = world.publish(at(4)).await.deliveries[0].delivery.id;
    let success = HealthChange::Success;
    let old = record(old, endpoint, 1, Next::Delivered, success, at(5));
    world.record(at(5), old).await.unwrap();
    assert_eq!(store.endpoint(endpoint).await.unwrap().health, health);
}

pub async fn a_resend_is_pending_again_with_its_own_series(store: &dyn Store) {
    let world = world(store).await;
    let endpoint = world.endpoint().await;
    let delivery = world.publish(at(1)).await.deliveries[0].delivery.id;
    let failed = HealthChange::Failure {
        delivery_failed: true,
    };
    world
        .record(
            at(2),
            record(
                delivery,
                endpoint,
                1,
                Next::Failed(FailReason::Stopped),
                failed,
                at(2),
            ),
        )
        .await
        .unwrap();
    let series = Series {
        attempts: 0,
        started_at: None,
        single: true,
    };
    let resend = |attempts| Resend {
        delivery,
        attempts,
        series,
    };
    let stale = world.resend(secs(50), resend(0)).await;
    assert!(
        matches!(
            stale,
            Err(StoreError::Conflict {
                rule: Rule::DeliveryPending
            })
        ),
        "somebody sent it since it was looked at"
    );
    let due = world.resend(secs(50), resend(1)).await.unwrap();
    assert_eq!(
        (
            due.delivery.attempts,
            due.delivery.series,
            due.delivery.due_at
        ),
        (1, series, secs(50))
    );
    assert_eq!(
        world
            .due(endpoint, secs(50).plus(Duration::from_secs(1)), 9)
            .await
            .rows,
        std::slice::from_ref(&due)
    );
    assert_eq!(store.delivery(delivery).await.unwrap(), due.delivery);
    world
        .record(
            secs(51),
            record(
                delivery,
                endpoint,
                2,
                Next::Delivered,
                HealthChange::Success,
                secs(51),
            ),
        )
        .await
        .unwrap();
    assert_eq!(
        store.delivery(delivery).await.unwrap().state,
        DeliveryState::Delivered
    );
}

pub async fn a_pending_delivery_is_not_resent(store: &dyn Store) {
    let world = world(store).await;
    let endpoint = world.endpoint().await;
    let delivery = world.publish(at(1)).await.deliveries[0].delivery.id;
    let resend = |attempts| Resend {
        delivery,
        attempts,
        series: Series::SCHEDULED,
    };
    assert!(matches!(
        world.resend(at(2), resend(0)).await,
        Err(StoreError::Conflict {
            rule: Rule::DeliveryPending
        })
    ));
    world
        .record(
            at(2),
            record(
                delivery,
                endpoint,
                1,
                Next::Delivered,
                HealthChange::Success,
                at(2),
            ),
        )
        .await
        .unwrap();
    store
        .update_endpoint(
            endpoint,
            always(|endpoint| endpoint.health.disable(DisableReason::Manual, at(3))),
            by(),
        )
        .await
        .unwrap();
    assert!(matches!(
        world.resend(at(4), resend(1)).await,
        Err(StoreError::Conflict {
            rule: Rule::EndpointDisabled
        })
    ));
    store.delete_endpoint(endpoint, by()).await.unwrap();
    let gone = world.resend(at(5), resend(1)).await.unwrap_err();
    assert!(gone.is_not_found());
}
