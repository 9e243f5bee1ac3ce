//! What a lane does when somebody ends a delivery: what the store has of it is the truth.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use postrider_core::delivery::Delivery;
use postrider_core::endpoint::Ordering;
use postrider_core::event::Event;
use postrider_core::id::IdGenerator;
use postrider_core::judge::{Next, Signal};
use postrider_core::tenant::Mode;
use postrider_core::{Id, Timestamp};
use postrider_engine::machine::{Action, Input, LaneConfig, Machine, MachineLimits};
use postrider_store::{DueDelivery, DuePage};

const NOW: Timestamp = Timestamp::from_secs(1_000);

fn a_delivery(due_at: Timestamp) -> DueDelivery {
    let ids = IdGenerator::new(1, 0);
    let event = Event {
        id: ids.next(NOW),
        application: ids.next(NOW),
        tenant: ids.next(NOW),
        event_type: Arc::from("a"),
        data: Bytes::from_static(b"1"),
        meta: None,
        mode: Mode::Live,
        occurred_at: NOW,
        created_at: NOW,
        ordering_key: None,
        deliver_before: None,
        traceparent: None,
    };
    let delivery = Delivery {
        due_at,
        ..Delivery::new(ids.next(NOW), &event, Id::from_u128(7), 1, NOW.into())
    };
    DueDelivery {
        delivery,
        event: Arc::new(event),
        sequence: NOW.as_micros(),
    }
}

fn configured(due: &DueDelivery) -> Input {
    Input::Configure {
        endpoint: due.delivery.endpoint,
        config: LaneConfig {
            tenant: due.delivery.tenant,
            closed: None,
            held: false,
            ordering: Ordering::None,
            rate_limit: None,
            breaker: false,
            throttle: false,
            receiver: 1,
        },
    }
}

fn ended(due: &DueDelivery) -> Input {
    Input::Ended {
        endpoint: due.delivery.endpoint,
        delivery: due.delivery.id,
    }
}

fn loaded(due: &DueDelivery, rows: Vec<DueDelivery>) -> Input {
    Input::Loaded {
        endpoint: due.delivery.endpoint,
        page: DuePage { rows, next: None },
    }
}

fn sends(actions: &[Action]) -> bool {
    actions
        .iter()
        .any(|action| matches!(action, Action::Send(_)))
}

fn loads(actions: &[Action]) -> bool {
    actions
        .iter()
        .any(|action| matches!(action, Action::Load { .. }))
}

#[test]
fn an_attempt_that_has_to_wait_does_not_bring_back_what_was_ended() {
    let due = a_delivery(NOW);
    let mut machine = Machine::new(MachineLimits::default());
    machine.step(NOW, Input::Due(vec![due.clone()]));
    assert!(sends(&machine.step(NOW, configured(&due))));
    machine.step(NOW, Input::Started);
    machine.step(NOW, ended(&due));
    let released = Input::Released {
        endpoint: due.delivery.endpoint,
        started_at: NOW,
        took: None,
        signal: Signal::Well,
    };
    machine.step(NOW, released);
    let later = NOW.plus(Duration::from_secs(2));
    let waits = Input::Settled {
        due: Box::new(due.clone()),
        next: Next::Retry { at: later },
        keep_place: true,
    };
    assert!(loads(&machine.step(NOW, waits)), "the store is asked");
    assert!(!sends(&machine.step(NOW, loaded(&due, Vec::new()))));
    let much_later = NOW.plus(Duration::from_secs(60));
    assert!(!sends(&machine.step(much_later, Input::Tick)));
    assert_eq!(machine.stats().memory_bytes, 0);
}

#[test]
fn what_was_resent_meanwhile_is_found_in_the_store() {
    let later = NOW.plus(Duration::from_secs(5));
    let due = a_delivery(later);
    let mut machine = Machine::new(MachineLimits::default());
    machine.step(NOW, configured(&due));
    machine.step(NOW, Input::Due(vec![due.clone()]));
    machine.step(NOW, configured(&due));
    assert!(
        loads(&machine.step(NOW, ended(&due))),
        "it may wait there again"
    );
    let resent = a_delivery(NOW);
    let row = DueDelivery {
        delivery: Delivery {
            due_at: NOW,
            ..due.delivery.clone()
        },
        ..resent
    };
    assert!(sends(&machine.step(NOW, loaded(&due, vec![row]))));
}

#[test]
fn what_is_ended_before_its_lane_knows_its_endpoint_holds_no_memory() {
    let due = a_delivery(NOW);
    let mut machine = Machine::new(MachineLimits::default());
    machine.step(NOW, Input::Due(vec![due.clone()]));
    assert_ne!(machine.stats().memory_bytes, 0);
    machine.step(NOW, ended(&due));
    assert_eq!(machine.stats().memory_bytes, 0);
    assert!(!sends(&machine.step(NOW, configured(&due))));
}

/// Three deliveries of one endpoint; the record of the first is lost, as a database loses it that went away.
fn with_the_first_lost(ordering: Ordering) -> (Vec<DueDelivery>, Vec<Action>, Machine) {
    let first = a_delivery(NOW);
    let rows = (1..4).map(|place: u128| {
        let delivery = Delivery {
            id: Id::from_u128(first.delivery.id.as_u128() + place),
            ..first.delivery.clone()
        };
        let sequence = NOW.as_micros() + i64::try_from(place).unwrap_or_default();
        DueDelivery {
            delivery,
            sequence,
            event: first.event.clone(),
        }
    });
    let rows: Vec<_> = rows.collect();
    let mut machine = Machine::new(MachineLimits::default());
    machine.step(NOW, Input::Due(rows.clone()));
    let Input::Configure { endpoint, config } = configured(&first) else {
        unreachable!("it configures")
    };
    let config = LaneConfig { ordering, ..config };
    machine.step(NOW, Input::Configure { endpoint, config });
    // The others of a lane without order are on their way by now; they are not looked at.
    let released = Input::Released {
        endpoint,
        started_at: NOW,
        took: None,
        signal: Signal::Well,
    };
    machine.step(NOW, released);
    let due = Box::new(rows[0].clone());
    let actions = machine.step(NOW, Input::Behind { due });
    (rows, actions, machine)
}

#[test]
fn nothing_of_a_page_that_is_on_its_way_overtakes_it_either() {
    let (rows, actions, mut machine) = with_the_first_lost(Ordering::Endpoint);
    assert!(loads(&actions), "{actions:?}");
    let [first, second, third] = &rows[..] else {
        unreachable!("there are three")
    };
    // The store answers that it lacks a record of the second while that page is being read.
    let sent = machine.step(NOW, loaded(first, vec![first.clone()]));
    assert!(sends(&sent), "{sent:?}");
    let fourth = DueDelivery {
        delivery: Delivery {
            id: Id::from_u128(third.delivery.id.as_u128() + 1),
            ..third.delivery.clone()
        },
        sequence: third.sequence + 1,
        event: third.event.clone(),
    };
    let endpoint = first.delivery.endpoint;
    let backlog = Input::Backlog {
        endpoint,
        first: Timestamp::from_micros(second.sequence),
    };
    assert!(loads(&machine.step(NOW, backlog)));
    let due = Box::new(first.clone());
    machine.step(NOW, Input::Behind { due });
    let began_before = vec![second.clone(), third.clone(), fourth];
    let actions = machine.step(NOW, loaded(first, began_before));
    assert!(!sends(&actions) && loads(&actions), "{actions:?}");
}

#[test]
fn nothing_overtakes_a_delivery_whose_record_was_lost() {
    let (rows, actions, mut machine) = with_the_first_lost(Ordering::Endpoint);
    assert!(!sends(&actions) && loads(&actions), "{actions:?}");
    let sent = machine.step(NOW, loaded(&rows[0], rows.clone()));
    let sent: Vec<_> = sent
        .iter()
        .filter_map(|action| match action {
            Action::Send(due) => Some(due.delivery.id),
            _ => None,
        })
        .collect();
    assert_eq!(sent, [rows[0].delivery.id]);
}

#[test]
fn a_lane_without_order_goes_on_meanwhile() {
    let (_, actions, _) = with_the_first_lost(Ordering::None);
    assert!(loads(&actions), "{actions:?}");
}

/// A page that begins behind what the lane holds is being read when its order becomes another one: the lane reads all anew.
#[test]
fn nothing_of_a_page_from_before_its_order_overtakes_what_the_lane_let_go() {
    let first = a_delivery(NOW.plus(Duration::from_secs(10)));
    let behind = DueDelivery {
        sequence: first.sequence + 1,
        ..a_delivery(NOW)
    };
    let mut machine = Machine::new(MachineLimits::default());
    machine.step(NOW, Input::Due(vec![first.clone()]));
    machine.step(NOW, configured(&first));
    let endpoint = first.delivery.endpoint;
    let backlog = Input::Backlog {
        endpoint,
        first: Timestamp::from_micros(behind.sequence),
    };
    assert!(loads(&machine.step(NOW, backlog)));
    let Input::Configure { config, .. } = configured(&first) else {
        unreachable!("it configures")
    };
    let ordering = Ordering::Endpoint;
    let config = LaneConfig { ordering, ..config };
    machine.step(NOW, Input::Configure { endpoint, config });
    let actions = machine.step(NOW, loaded(&first, vec![behind]));
    assert!(!sends(&actions) && loads(&actions), "{actions:?}");
}
