//! What the bound on memory counts.

use std::sync::Arc;

use bytes::Bytes;
use postrider_core::delivery::Delivery;
use postrider_core::event::Event;
use postrider_core::id::IdGenerator;
use postrider_core::tenant::Mode;
use postrider_core::{Id, Timestamp};
use postrider_engine::machine::{Input, Machine, MachineLimits};
use postrider_store::DueDelivery;

#[test]
fn all_that_an_event_holds_counts() {
    const META: usize = 10_000;
    let (ids, now) = (IdGenerator::new(1, 0), Timestamp::from_secs(1));
    let event = Event {
        id: ids.next(now),
        application: ids.next(now),
        tenant: ids.next(now),
        event_type: Arc::from("a"),
        data: Bytes::from_static(b"1"),
        meta: Some(Bytes::from(vec![b' '; META])),
        mode: Mode::Live,
        occurred_at: now,
        created_at: now,
        ordering_key: None,
        deliver_before: None,
        traceparent: None,
    };
    let delivery = Delivery::new(ids.next(now), &event, Id::from_u128(7), 1, now.into());
    let due = DueDelivery {
        delivery,
        event: Arc::new(event),
        sequence: 1,
    };
    let mut machine = Machine::new(MachineLimits::default());
    machine.step(now, Input::Due(vec![due]));
    assert!(machine.stats().memory_bytes > META);
}
