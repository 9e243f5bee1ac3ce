//! What waits for receivers that are gone takes no room from those that are there.

#![expect(
    clippy::unwrap_used,
    reason = "a test stops where something is not as it must be"
)]

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use postrider_core::delivery::{Delivery, FailReason};
use postrider_core::endpoint::Ordering;
use postrider_core::event::Event;
use postrider_core::judge::{Next, Signal};
use postrider_core::tenant::Mode;
use postrider_core::{Id, Timestamp, id};
use postrider_engine::machine::{Action, Input, LaneConfig, Machine, MachineLimits, PageWish};
use postrider_store::{DueDelivery, DuePage};

const BYTES: usize = 1_024;
/// As many as the lanes that are broken.
const GONE: u128 = 50;

fn now() -> Timestamp {
    Timestamp::from_secs(1_000)
}

/// Whose endpoint keeps the order of keys.
const KEYED: u128 = 99;
/// Whose endpoint keeps the order of all.
const ORDERED: u128 = 98;
const RETRY_AFTER: Duration = Duration::from_secs(5);
const LOCAL_PAUSE: Duration = Duration::from_secs(2);

/// The `number`th delivery of a tenant, which has one endpoint.
fn due(tenant: u128, number: u32) -> DueDelivery {
    let event = Event {
        id: Id::from_u128(tenant << 32 | u128::from(number)),
        application: Id::from_u128(1),
        tenant: Id::from_u128(tenant),
        event_type: "order.completed".into(),
        data: Bytes::from(vec![b' '; BYTES]),
        meta: None,
        mode: Mode::Live,
        occurred_at: now(),
        created_at: now(),
        // Two keys: the last of many has one of its own.
        ordering_key: (tenant == KEYED).then(|| if number < 1_000 { "a" } else { "b" }.to_owned()),
        deliver_before: None,
        traceparent: None,
    };
    let id = Id::from_u128(tenant << 32 | u128::from(number));
    let endpoint = Id::from_u128(tenant);
    DueDelivery {
        delivery: Delivery::new(id, &event, endpoint, 1, now().into()),
        event: Arc::new(event),
        sequence: now().as_micros() + i64::from(number),
    }
}

fn open(tenant: u128, breaker: bool) -> Input {
    Input::Configure {
        endpoint: Id::from_u128(tenant),
        config: LaneConfig {
            tenant: Id::from_u128(tenant),
            closed: None,
            held: false,
            ordering: match tenant {
                KEYED => Ordering::Key,
                ORDERED => Ordering::Endpoint,
                _ => Ordering::None,
            },
            rate_limit: None,
            breaker,
            throttle: true,
            receiver: 1,
        },
    }
}

/// A machine, what the store has of each endpoint's deliveries, and whose receivers answer.
struct World {
    machine: Machine,
    now: Timestamp,
    pending: BTreeMap<u128, BTreeMap<i64, DueDelivery>>,
    answers: Option<u128>,
    /// A fault of this server's: no attempt is made.
    cannot_send: bool,
    delivered: usize,
    attempts: usize,
    /// Pages that were asked for.
    pages: usize,
}

impl World {
    /// Everybody has so many deliveries, and every attempt has failed until none was made any more.
    fn with_many_gone(each: u32, breaker: bool) -> Self {
        let mut world = Self {
            machine: Machine::new(MachineLimits {
                memory_max: 4 * 1_024 * 1_024,
                ..MachineLimits::default()
            }),
            now: Timestamp::from_secs(1_001),
            pending: BTreeMap::new(),
            answers: None,
            cannot_send: false,
            delivered: 0,
            attempts: 0,
            pages: 0,
        };
        for tenant in 1..=GONE {
            world.publish(tenant, 0..each);
            world.step(open(tenant, breaker));
        }
        world
    }

    fn publish(&mut self, tenant: u128, numbers: Range<u32>) {
        let all: Vec<_> = numbers.map(|number| due(tenant, number)).collect();
        let places = all.iter().map(|due| (due.sequence, due.clone()));
        self.pending.entry(tenant).or_default().extend(places);
        self.step(Input::Due(all));
    }

    /// Does what the machine says, until it says no more.
    fn step(&mut self, input: Input) {
        let mut actions = self.machine.step(self.now, input);
        while let Some(action) = actions.pop() {
            match action {
                Action::Send(due) => {
                    for input in self.attempt(due) {
                        actions.extend(self.machine.step(self.now, input));
                    }
                }
                Action::Load {
                    endpoint,
                    until,
                    wish,
                } => {
                    self.pages += 1;
                    let page = self.page(endpoint, until, wish);
                    let input = Input::Loaded { endpoint, page };
                    actions.extend(self.machine.step(self.now, input));
                }
                Action::Expire(_) | Action::Configure(_) | Action::FinishPending { .. } => {}
            }
        }
    }

    fn attempt(&mut self, mut due: Box<DueDelivery>) -> [Input; 3] {
        self.attempts += 1;
        if self.cannot_send {
            let released = Input::Released {
                endpoint: due.delivery.endpoint,
                started_at: self.now,
                took: None,
                signal: Signal::Unheard {
                    pause: Some(LOCAL_PAUSE),
                },
            };
            return [Input::Started, released, Input::PutOff { due }];
        }
        let keep_place = due.delivery.tenant.as_u128() == KEYED;
        let tenant = due.delivery.tenant.as_u128();
        let pending = self.pending.get_mut(&tenant).unwrap();
        let before = pending.remove(&due.sequence);
        assert!(before.is_some(), "a delivery is sent that waits no more");
        let (next, signal) = if self.answers == Some(tenant) {
            self.delivered += 1;
            (Next::Delivered, Signal::Well)
        } else {
            let at = self.now.plus(RETRY_AFTER);
            let mut later = (*due).clone();
            later.delivery.due_at = at;
            // Two retries cannot have one place in this store.
            // A lane that orders keeps a delivery's place; and two retries cannot have one place in this store.
            if !keep_place {
                later.sequence = at.as_micros() + i64::try_from(pending.len()).unwrap();
            }
            while pending.contains_key(&later.sequence) {
                later.sequence += 1;
            }
            due.delivery.due_at = at;
            pending.insert(later.sequence, later);
            (Next::Retry { at }, Signal::Strained { pause: None })
        };
        let released = Input::Released {
            endpoint: due.delivery.endpoint,
            started_at: self.now,
            took: None,
            signal,
        };
        let settled = Input::Settled {
            due,
            next,
            keep_place,
        };
        [Input::Started, released, settled]
    }

    fn page(&self, endpoint: Id<id::Endpoint>, until: Timestamp, wish: PageWish) -> DuePage {
        let pending = &self.pending[&endpoint.as_u128()];
        let mut rows = pending
            .range(wish.from.as_micros()..=until.as_micros())
            .map(|(_, due)| due.clone());
        let page: Vec<_> = rows.by_ref().take(wish.rows as usize).collect();
        let next = rows.next().map(|due| Timestamp::from_micros(due.sequence));
        DuePage { rows: page, next }
    }

    fn held(&self) -> usize {
        self.machine.stats().memory_bytes
    }
}

#[test]
fn lanes_whose_receivers_are_gone_hold_little() {
    for breaker in [true, false] {
        let mut world = World::with_many_gone(200, breaker);
        let held = world.held();
        assert!(held < 2 * 1_024 * 1_024, "{held} bytes for nobody");
        // Somebody with a receiver that answers is not sent to the store for what it was given.
        world.answers = Some(77);
        world.publish(77, 0..1);
        world.step(open(77, breaker));
        let pages = world.pages;
        world.publish(77, 1..500);
        assert_eq!((world.delivered, world.pages), (500, pages));
    }
}

#[test]
fn what_comes_for_a_receiver_that_is_gone_waits_in_the_store() {
    let mut world = World::with_many_gone(20, true);
    let held = world.held();
    world.publish(1, 1_000..2_000);
    assert!(world.held() <= held, "{held} bytes became {}", world.held());
}

#[test]
fn a_receiver_that_came_back_gets_what_was_left_in_the_store() {
    let mut world = World::with_many_gone(2_000, true);
    world.answers = Some(7);
    world.now = world.now.plus(RETRY_AFTER * 2);
    world.step(Input::Tick);
    assert_eq!(world.delivered, 2_000);
    assert!(world.pages < 500, "{} pages", world.pages);
}

#[test]
fn a_receiver_that_is_gone_is_asked_again_and_again_for_little() {
    let mut world = World::with_many_gone(200, true);
    let (held, pages) = (world.held(), world.pages);
    for _ in 0..100 {
        world.now = world.now.plus(Duration::from_secs(60));
        world.step(Input::Tick);
    }
    assert!(
        world.held() <= 2 * held,
        "{held} bytes became {}",
        world.held()
    );
    // One for each probe, at most.
    let asked = world.pages - pages;
    assert!(
        asked <= 100 * usize::try_from(GONE).unwrap(),
        "{asked} pages"
    );
}

#[test]
fn what_is_paged_in_for_a_receiver_that_fails_is_sent_before_more_is_asked_for() {
    let world = World::with_many_gone(200, false);
    let sent = 200 * usize::try_from(GONE).unwrap();
    assert!(world.pages <= sent / 8, "{} pages for {sent}", world.pages);
}

#[test]
fn one_key_that_fails_does_not_hold_back_another() {
    let mut world = World::with_many_gone(0, false);
    world.publish(KEYED, 0..50);
    world.step(open(KEYED, false));
    for _ in 0..10 {
        world.now = world.now.plus(RETRY_AFTER * 2);
        world.step(Input::Tick);
    }
    let before = world.attempts;
    world.publish(KEYED, 1_000..1_001);
    assert_eq!(world.attempts, before + 1);
}

#[test]
fn a_page_that_was_asked_for_before_does_not_overtake_what_a_failing_lane_left() {
    let endpoint = Id::from_u128(ORDERED);
    let mut machine = Machine::new(MachineLimits::default());
    let mut at = now();
    let all = |numbers: Range<u32>| numbers.map(|number| due(ORDERED, number)).collect();
    let sent = |actions: &[Action]| {
        let send = actions.iter().find_map(|action| match action {
            Action::Send(due) => Some(due.clone()),
            _ => None,
        });
        send.map(|due| (u32::try_from(due.event.id.as_u128() & 0xffff).unwrap(), due))
    };
    let released = |at, signal| Input::Released {
        endpoint,
        started_at: at,
        took: None,
        signal,
    };
    let settled = |due, next| Input::Settled {
        due,
        next,
        keep_place: true,
    };
    machine.step(at, Input::Due(all(0..41)));
    let mut actions = machine.step(at, open(ORDERED, false));
    // The first fails four times, and is sent once more.
    for _ in 0..4 {
        let (number, due) = sent(&actions).unwrap();
        assert_eq!(number, 0);
        machine.step(at, Input::Started);
        machine.step(at, released(at, Signal::Strained { pause: None }));
        let next = Next::Retry {
            at: at.plus(RETRY_AFTER),
        };
        machine.step(at, settled(due, next));
        at = at.plus(RETRY_AFTER * 2);
        actions = machine.step(at, Input::Tick);
    }
    let (_, first) = sent(&actions).unwrap();
    machine.step(at, Input::Started);
    // Somebody cancels the last one, so that a page from there on is asked for.
    let delivery = due(ORDERED, 40).delivery.id;
    let asked = machine.step(at, Input::Ended { endpoint, delivery });
    assert!(matches!(asked[..], [Action::Load { .. }]), "{asked:?}");
    machine.step(at, Input::Due(all(41..61)));
    machine.step(at, released(at, Signal::Strained { pause: None }));
    let failed = Next::Failed(FailReason::Exhausted);
    let mut actions = machine.step(at, settled(first, failed));
    let page = DuePage {
        rows: all(41..61),
        next: None,
    };
    let loaded = machine.step(at, Input::Loaded { endpoint, page });
    assert!(sent(&loaded).is_none(), "one after the other");
    // Now it answers, but the store does not for a while.
    let mut order = Vec::new();
    while let Some((number, due)) = sent(&actions) {
        order.push(number);
        machine.step(at, Input::Started);
        let mut next = machine.step(at, released(at, Signal::Well));
        next.extend(machine.step(at, settled(due, Next::Delivered)));
        for _ in next
            .iter()
            .filter(|action| matches!(action, Action::Load { .. }))
        {
            machine.step(at, Input::LoadFailed { endpoint });
        }
        actions = next;
    }
    let expected: Vec<u32> = (1..).take(order.len()).collect();
    assert_eq!(order, expected);
}

#[test]
fn what_a_lane_may_hold_when_memory_is_full_is_little_in_bytes_too() {
    const LARGE: usize = 64 * 1_024;
    let mut machine = Machine::new(MachineLimits {
        memory_max: 1_024 * 1_024,
        ..MachineLimits::default()
    });
    let large = |tenant, number| {
        let mut due = due(tenant, number);
        // As a page brings them: each has a copy of its own.
        Arc::make_mut(&mut due.event).data = Bytes::from(vec![b' '; LARGE]);
        due
    };
    // Nobody answers, and nobody fails: all that may be sent hangs.
    for tenant in 1..=GONE {
        let all = (0..16).map(|number| large(tenant, number)).collect();
        machine.step(now(), Input::Due(all));
        machine.step(now(), open(tenant, false));
    }
    let held = machine.stats().memory_bytes;
    let lanes = usize::try_from(GONE).unwrap();
    assert!(held > lanes * LARGE, "each lane goes on");
    assert!(held < 3 * lanes * LARGE, "{held} bytes");
}

#[test]
fn what_this_server_could_not_send_is_not_read_again_before_its_time() {
    const FAILURES: usize = 6;
    let mut machine = Machine::new(MachineLimits::default());
    let all: Vec<_> = (0..40).map(|number| due(1, number)).collect();
    machine.step(now(), Input::Due(all));
    let Input::Configure { endpoint, config } = open(1, false) else {
        unreachable!("it opens a lane");
    };
    // As every system has it but two: its schedule is exact, and no failure puts off the others.
    let config = LaneConfig {
        throttle: false,
        ..config
    };
    let sent = machine.step(now(), Input::Configure { endpoint, config });
    let mut sent: Vec<_> = sent
        .into_iter()
        .filter_map(|action| match action {
            Action::Send(due) => Some(due),
            _ => None,
        })
        .collect();
    assert!(sent.len() > FAILURES);
    for _ in 0..FAILURES {
        machine.step(now(), Input::Started);
        let released = Input::Released {
            endpoint,
            started_at: now(),
            took: None,
            signal: Signal::Strained { pause: None },
        };
        machine.step(now(), released);
    }
    let first = sent.swap_remove(0);
    let held = machine.stats().memory_bytes;
    let again = machine.step(now(), Input::PutOff { due: first });
    let read = |action: &Action| matches!(action, Action::Load { .. });
    // The store has it where it was: a page from there on would bring it back at once.
    assert!(!again.iter().any(read), "{again:?}");
    assert_eq!(machine.stats().memory_bytes, held, "it waits here");
}

#[test]
fn a_lane_that_this_server_cannot_send_for_waits_and_takes_no_more() {
    let mut world = World::with_many_gone(0, false);
    world.cannot_send = true;
    world.publish(1, 0..1_000);
    world.step(open(1, false));
    assert!(world.attempts > 0);
    let held = world.held();
    for _ in 0..200 {
        world.now = world.now.plus(LOCAL_PAUSE);
        world.step(Input::Tick);
    }
    // One every two seconds, after the sixteen that were on their way when the first of them told.
    assert!(world.attempts < 16 + 210, "{} attempts", world.attempts);
    assert!(world.pages < 210, "{} pages", world.pages);
    assert!(
        world.held() <= held + 64 * 1_024,
        "{held} bytes became {}",
        world.held()
    );
    // When it can, all are sent.
    world.cannot_send = false;
    world.answers = Some(1);
    world.now = world.now.plus(LOCAL_PAUSE);
    world.step(Input::Tick);
    assert_eq!(world.delivered, 1_000);
}
