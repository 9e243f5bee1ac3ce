//! Lanes without a brake: whatever their receiver does, attempts are made at the times of the schedule.

#![expect(
    clippy::unwrap_used,
    reason = "a test stops where something is not as it must be"
)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use postrider_core::delivery::{Delivery, DeliveryState, FailReason};
use postrider_core::endpoint::Ordering;
use postrider_core::event::Event;
use postrider_core::judge::{Next, Signal};
use postrider_core::tenant::Mode;
use postrider_core::time::Moment;
use postrider_core::{Id, Timestamp, id};
use postrider_engine::machine::{Action, Input, LaneConfig, Machine, MachineLimits};
use postrider_store::{DueDelivery, DuePage};

const START: Timestamp = Timestamp::from_secs(1_000);
const TIME_OUT: Duration = Duration::from_secs(10);
/// Later than this an attempt is not at its time.
const LATE: Duration = Duration::from_millis(500);

fn due(endpoint: u128, number: u128, at: Timestamp) -> DueDelivery {
    let event = Event {
        id: Id::from_u128(endpoint << 32 | number),
        application: Id::from_u128(1),
        tenant: Id::from_u128(1),
        event_type: "order.completed".into(),
        data: Bytes::from_static(b"{}"),
        meta: None,
        mode: Mode::Live,
        occurred_at: at,
        created_at: at,
        ordering_key: None,
        deliver_before: None,
        traceparent: None,
    };
    let id = Id::from_u128(endpoint << 32 | number);
    DueDelivery {
        delivery: Delivery::new(id, &event, Id::from_u128(endpoint), 1, at.into()),
        event: Arc::new(event),
        sequence: at.as_micros() + i64::try_from(number).unwrap(),
    }
}

fn configure(endpoint: u128, rate_limit: Option<u32>, braked: bool) -> Input {
    Input::Configure {
        endpoint: Id::from_u128(endpoint),
        config: LaneConfig {
            tenant: Id::from_u128(1),
            closed: None,
            held: false,
            ordering: Ordering::None,
            rate_limit,
            breaker: braked,
            throttle: braked,
            receiver: 1,
        },
    }
}

/// A machine with one endpoint, whose requests end by the clock of the test.
struct World {
    machine: Machine,
    now: Timestamp,
    braked: bool,
    /// What the store has.
    pending: BTreeMap<i64, DueDelivery>,
    under_way: Vec<(Timestamp, Box<DueDelivery>)>,
    /// Of each delivery by its number, when it was sent.
    sent: Vec<Vec<Duration>>,
    most_under_way: usize,
    /// How far the clock goes at once.
    step_of: Duration,
}

impl World {
    fn new(deliveries: usize, braked: bool) -> Self {
        let mut world = Self {
            machine: Machine::new(MachineLimits::default()),
            now: START,
            braked,
            pending: BTreeMap::new(),
            under_way: Vec::new(),
            sent: vec![Vec::new(); deliveries],
            most_under_way: 0,
            step_of: Duration::from_millis(10),
        };
        for number in 0..deliveries as u128 {
            world.publish(due(7, number, START));
        }
        world
    }

    fn publish(&mut self, due: DueDelivery) {
        self.pending.insert(due.sequence, due.clone());
        self.step(Input::Due(vec![due]));
    }

    fn step(&mut self, input: Input) {
        let mut actions = self.machine.step(self.now, input);
        while let Some(action) = actions.pop() {
            let next = match action {
                Action::Send(due) => {
                    let number = due.delivery.id.as_u128() & 0xffff_ffff;
                    self.sent[usize::try_from(number).unwrap()].push(self.now.since(START));
                    self.under_way.push((self.now, due));
                    self.most_under_way = self.most_under_way.max(self.under_way.len());
                    Input::Started
                }
                Action::Configure(endpoint) => configure(endpoint.as_u128(), None, self.braked),
                Action::Load {
                    endpoint,
                    until,
                    wish,
                } => {
                    let range = wish.from.as_micros()..=until.as_micros();
                    let found = self.pending.range(range).map(|(_, due)| due.clone());
                    let mut found = found.filter(|due| due.delivery.endpoint == endpoint);
                    let rows: Vec<_> = found.by_ref().take(wish.rows as usize).collect();
                    let next = found.next();
                    let next = next.map(|due| Timestamp::from_micros(due.sequence));
                    let page = DuePage { rows, next };
                    Input::Loaded { endpoint, page }
                }
                Action::Expire(_) | Action::FinishPending { .. } => continue,
            };
            actions.extend(self.machine.step(self.now, next));
        }
    }

    /// Lets the time go on; each request ends after `lasts`, with this signal, and is retried a minute after it began.
    fn run(&mut self, until: Duration, lasts: Duration, signal: Signal) {
        while self.now.since(START) < until {
            self.now = self.now.plus(self.step_of);
            self.step(Input::Tick);
            let over = |(at, _): &(Timestamp, Box<DueDelivery>)| self.now.since(*at) >= lasts;
            let (ended, rest) = std::mem::take(&mut self.under_way)
                .into_iter()
                .partition(over);
            self.under_way = rest;
            for (started_at, due) in ended {
                self.pending.remove(&due.sequence);
                let endpoint: Id<id::Endpoint> = due.delivery.endpoint;
                let took = (signal == Signal::Well).then_some(lasts);
                let next = match signal {
                    Signal::Well => Next::Delivered,
                    _ => {
                        let at = started_at.plus(Duration::from_secs(60));
                        let mut later = (*due).clone();
                        later.delivery.due_at = at;
                        later.sequence = at.as_micros();
                        while self.pending.contains_key(&later.sequence) {
                            later.sequence += 1;
                        }
                        self.pending.insert(later.sequence, later);
                        Next::Retry { at }
                    }
                };
                self.step(Input::Released {
                    endpoint,
                    started_at,
                    took,
                    signal,
                });
                let keep_place = false;
                self.step(Input::Settled {
                    due,
                    next,
                    keep_place,
                });
            }
        }
    }
}

#[test]
fn a_receiver_that_hangs_is_sent_each_at_its_time() {
    let mut world = World::new(40, false);
    let strained = Signal::Strained { pause: None };
    world.run(Duration::from_secs(130), TIME_OUT, strained);
    for times in &world.sent {
        assert_eq!(times.len(), 3, "{times:?}");
        for (round, at) in times.iter().enumerate() {
            let wanted = Duration::from_secs(60 * round as u64);
            assert!(
                *at >= wanted && *at < wanted + LATE * (round as u32 + 1),
                "{times:?}"
            );
        }
    }
    // The control: with a brake they wait for each other.
    let mut braked = World::new(40, true);
    braked.run(Duration::from_secs(130), TIME_OUT, strained);
    assert!(braked.sent.iter().any(|times| times.len() < 3));
}

#[test]
fn what_is_new_does_not_wait_for_those_that_hang() {
    let mut world = World::new(30, false);
    let strained = Signal::Strained { pause: None };
    world.run(Duration::from_secs(65), TIME_OUT, strained);
    world.sent.push(Vec::new());
    let now = world.now;
    world.publish(due(7, 30, now));
    world.run(Duration::from_secs(67), TIME_OUT, strained);
    assert_eq!(world.sent[30].len(), 1);
    assert!(world.sent[30][0] < now.since(START) + LATE);
}

#[test]
fn endpoints_that_hang_leave_slots_to_another_of_the_same_customer() {
    let mut world = World::new(0, false);
    world.sent = vec![Vec::new(); 151];
    for endpoint in 100..120 {
        for number in 0..150 {
            world.publish(due(endpoint, number, START));
        }
    }
    let strained = Signal::Strained { pause: None };
    world.run(Duration::from_secs(5), TIME_OUT, strained);
    let under_way = world.under_way.len();
    assert!((1_000..1_500).contains(&under_way), "{under_way}");
    let now = world.now;
    world.publish(due(7, 150, now));
    assert_eq!(world.sent[150].len(), 1);
}

#[test]
fn a_lane_goes_on_when_the_others_of_its_customer_have_ended() {
    let mut world = World::new(0, false);
    world.sent = vec![Vec::new(); 200];
    for endpoint in 100..108 {
        for number in 0..150 {
            world.publish(due(endpoint, number, START));
        }
    }
    let strained = Signal::Strained { pause: None };
    world.run(Duration::from_secs(5), TIME_OUT, strained);
    // The customer has what it may have beside what is learned; this one gets what it begins with.
    let now = world.now;
    for number in 150..190 {
        world.publish(due(7, number, now));
    }
    let of_it = |world: &World| {
        let sent = world.sent[150..190].iter();
        sent.filter(|sent| !sent.is_empty()).count()
    };
    world.run(Duration::from_secs(9), TIME_OUT, strained);
    assert_eq!(of_it(&world), 16);
    // The others have given up at ten seconds, and its own have not.
    world.run(Duration::from_millis(12_500), TIME_OUT, strained);
    assert_eq!(of_it(&world), 40);
}

#[test]
fn a_receiver_that_is_fast_gets_a_handful_at_once() {
    let mut world = World::new(2_000, false);
    let one = Duration::from_millis(1);
    world.step_of = one;
    world.run(Duration::from_millis(500), one, Signal::Well);
    assert!(world.sent.iter().all(|times| times.len() == 1));
    assert!(world.most_under_way <= 32, "{}", world.most_under_way);
}

#[test]
fn a_rate_holds_though_there_are_too_many_lanes_to_keep() {
    const MANY: u128 = 50_050;
    let mut machine = Machine::new(MachineLimits::default());
    let mut sends = |input: Input, now: Timestamp| -> Vec<Box<DueDelivery>> {
        let actions = machine.step(now, input);
        let sent = actions.into_iter().filter_map(|action| match action {
            Action::Send(due) => Some(due),
            _ => None,
        });
        sent.collect()
    };
    for endpoint in 1..=MANY {
        sends(Input::Due(vec![due(endpoint, 1, START)]), START);
        let sent = sends(configure(endpoint, Some(1), false), START);
        let [sent] = <[Box<DueDelivery>; 1]>::try_from(sent).unwrap();
        sends(Input::Started, START);
        let endpoint = Id::from_u128(endpoint);
        let released = Input::Released {
            endpoint,
            started_at: START,
            took: Some(Duration::from_millis(1)),
            signal: Signal::Well,
        };
        sends(released, START);
        let settled = Input::Settled {
            due: sent,
            next: Next::Delivered,
            keep_place: false,
        };
        sends(settled, START);
    }
    let second = sends(Input::Due(vec![due(MANY, 2, START)]), START);
    let second = [second, sends(configure(MANY, Some(1), false), START)].concat();
    assert!(second.is_empty(), "a second one in the same second");
    let later = START.plus(Duration::from_millis(1_020));
    assert_eq!(sends(Input::Tick, later).len(), 1);
    // What is over is let go.
    let later = START.plus(Duration::from_secs(5));
    sends(Input::Tick, later);
    assert!(machine.stats().lanes <= 50_001, "{:?}", machine.stats());
}

/// A process that stood still for longer than others wait: what is due was made by its successor.
#[test]
fn nothing_is_sent_by_who_may_not_be_the_owner_any_more() {
    let mut machine = Machine::new(MachineLimits::default());
    let sent = |actions: Vec<Action>| {
        let sent = actions
            .iter()
            .filter(|action| matches!(action, Action::Send(_)));
        sent.count()
    };
    let later = |secs| START.plus(Duration::from_secs(secs));
    let owned = |until: Timestamp| Input::Owned {
        until: until.into(),
    };
    let new = |number| Input::Due(vec![due(1, number, START)]);
    machine.step(START, configure(1, None, false));
    machine.step(START, new(1));
    machine.step(START, configure(1, None, false));
    assert_eq!(sent(machine.step(START, new(2))), 1, "it is nobody else's");
    machine.step(START, owned(later(10)));
    assert_eq!(sent(machine.step(later(9), new(3))), 1);
    assert_eq!(sent(machine.step(later(60), new(4))), 0);
    assert_eq!(sent(machine.step(later(60), Input::Tick)), 0);
    assert_eq!(sent(machine.step(later(60), owned(later(70)))), 1);
    // A machine that is suspended: the steady clock stood still with it.
    let resumed = Moment {
        wall: later(600),
        steady: later(61),
    };
    assert_eq!(sent(machine.step(resumed, new(5))), 0);
}

/// Its receiver asked for a day's pause; its owner has since moved it to another one, or disabled and enabled it.
#[test]
fn what_its_owner_does_about_an_endpoint_ends_a_pause_that_its_receiver_asked_for() {
    let sent = |actions: Vec<Action>| {
        let sent = actions
            .iter()
            .filter(|action| matches!(action, Action::Send(_)));
        sent.count()
    };
    let config = |receiver, closed| match configure(1, None, true) {
        Input::Configure { endpoint, config } => Input::Configure {
            endpoint,
            config: LaneConfig {
                receiver,
                closed,
                ..config
            },
        },
        other => other,
    };
    let disabled = DeliveryState::Failed(FailReason::EndpointDisabled);
    for is_moved in [true, false] {
        let mut machine = Machine::new(MachineLimits::default());
        let first = due(1, 1, START);
        machine.step(START, Input::Due(vec![first.clone()]));
        assert_eq!(sent(machine.step(START, config(1, None))), 1);
        let pause = Duration::from_secs(86_400);
        let released = Input::Released {
            endpoint: Id::from_u128(1),
            started_at: START,
            took: Some(LATE),
            signal: Signal::Strained { pause: Some(pause) },
        };
        machine.step(START, released);
        let settled = Input::Settled {
            due: Box::new(first),
            next: Next::Failed(FailReason::Exhausted),
            keep_place: true,
        };
        machine.step(START, settled);
        assert_eq!(sent(machine.step(START, config(1, None))), 0);
        if !is_moved {
            machine.step(START, config(1, Some(disabled)));
        }
        machine.step(START, config(if is_moved { 2 } else { 1 }, None));
        let later = START.plus(LATE);
        let second = due(1, 2, START);
        let new = Input::Due(vec![second.clone()]);
        assert_eq!(sent(machine.step(later, new)), 1, "{is_moved}");
        // What was under way before says so once more.
        if is_moved {
            machine.step(later.plus(LATE), config(3, None));
            let released = Input::Released {
                endpoint: Id::from_u128(1),
                started_at: later,
                took: Some(LATE),
                signal: Signal::Strained { pause: Some(pause) },
            };
            machine.step(later.plus(LATE), released);
            let new = Input::Due(vec![due(1, 3, START)]);
            assert_eq!(sent(machine.step(later.plus(LATE), new)), 1);
        }
    }
}
