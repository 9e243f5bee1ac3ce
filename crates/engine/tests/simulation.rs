//! The engine's life in virtual time: crashes at every step, failing commits, late answers, hostile
//! receivers, from a seed. `SEEDS` sets how many seeds run, `SEED` runs one.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test stops where something is not as it must be"
)]

#[path = "sim/world.rs"]
mod world;

use std::collections::HashMap;
use std::time::Duration;

use postrider_core::Timestamp;
use postrider_core::attempt::{Outcome, UnreachableReason};
use postrider_core::delivery::{DeliveryState, FailReason};
use postrider_core::endpoint::Ordering;
use postrider_core::health::{DisableReason, Health};
use postrider_engine::machine::MachineLimits;
use world::{EndpointId, FAIR, Weather, World, status, timed_out};

const SEEDS_DEFAULT: u64 = 2_000;

/// Small enough that lanes overflow into the store, caps are reached, and horizons matter.
fn tight() -> MachineLimits {
    MachineLimits {
        in_flight_max: 6,
        starting_max: 3,
        lane_in_flight_max: 4,
        memory_max: 6_000,
        lane_items_max: 5,
        horizon: Duration::from_secs(3),
    }
}

fn one_life(seed: u64) {
    let mut dice = fastrand::Rng::with_seed(seed ^ 0xdead_beef);
    let profile = if dice.bool() { "vignetim" } else { "standard" };
    let weather = Weather {
        store_latency_ms: dice.u64(0..30),
        failure: dice.u32(5..40),
        crash: dice.u32(40..800),
    };
    let mut world = World::new(seed, profile, tight(), weather, 2);
    let mut endpoints: Vec<EndpointId> = Vec::new();
    for _ in 0..dice.usize(1..5) {
        let ordering = [Ordering::None, Ordering::Endpoint, Ordering::Key][dice.usize(0..3)];
        let rate = dice.bool().then(|| dice.u32(1..50));
        let bad = dice.u32(0..100);
        let tenant = world.tenants[dice.usize(0..2)];
        let script = Box::new(move |rng: &mut fastrand::Rng| {
            let took = Duration::from_millis(rng.u64(0..200));
            match rng.u32(0..100) {
                roll if roll >= bad => (status(200), took),
                roll if roll % 7 == 0 => (timed_out(), Duration::from_secs(10)),
                roll if roll % 13 == 0 => (status(410), took),
                roll if roll % 5 == 0 => (status(429), took),
                _ => (status(500), took),
            }
        });
        endpoints.push(world.endpoint(tenant, ordering, rate, script));
    }
    for _ in 0..dice.usize(5..30) {
        let pause = Duration::from_millis(dice.u64(0..400));
        world.run_until(world.now.plus(pause));
        match dice.u32(0..20) {
            0 => world.churn(endpoints[dice.usize(0..endpoints.len())]),
            1 => {
                let finished = world
                    .deliveries()
                    .into_iter()
                    .find(|delivery| delivery.state.is_final());
                if let Some(delivery) = finished {
                    world.resend(&delivery);
                }
            }
            3 => {
                let waiting = world.deliveries().into_iter();
                let waiting: Vec<_> = waiting.filter(|it| !it.state.is_final()).collect();
                if !waiting.is_empty() {
                    world.cancel(&waiting[dice.usize(0..waiting.len())]);
                }
            }
            2 => {
                let limit = world.now.plus(Duration::from_secs(2));
                world.publish(world.tenants[0], None, Some(limit));
            }
            4 => world.set_wall_clock([-3_600, 3_600][dice.usize(0..2)]),
            _ => {
                let key = ["a", "b", "c"][dice.usize(0..3)];
                world.publish(world.tenants[dice.usize(0..2)], Some(key), None);
            }
        }
    }
    world.run_until(world.now.plus(Duration::from_secs(30)));
    world.clear_up();
    // The longest schedule takes four days; all of it is over in a few steps.
    let idle = world.run_until(world.now.plus(Duration::from_secs(20 * 86_400)));
    assert!(idle, "something still happens after twenty days");
    check(&world);
}

/// What must hold when everything is over.
fn check(world: &World) {
    let mut requests: HashMap<_, u32> = HashMap::new();
    for (_, _, delivery, _) in &world.requests() {
        *requests.entry(*delivery).or_default() += 1;
    }
    let deliveries = world.deliveries();
    for delivery in &deliveries {
        assert!(
            delivery.state.is_final(),
            "{} is still pending",
            delivery.id
        );
        let numbers: Vec<u32> = world
            .attempts(delivery.id)
            .iter()
            .map(|attempt| attempt.number)
            .collect();
        assert_eq!(
            numbers,
            (1..=delivery.attempts).collect::<Vec<_>>(),
            "numbers without gaps"
        );
        let sent = requests.get(&delivery.id).copied().unwrap_or(0);
        assert!(
            sent >= delivery.attempts,
            "nothing is recorded that was not sent"
        );
        assert!(
            sent - delivery.attempts <= world.crashes,
            "only a crash makes a request that is not recorded"
        );
        if delivery.state == DeliveryState::Delivered {
            assert!(delivery.attempts > 0);
        }
    }
    // What nobody was told of was written by a process that died, or whose commit had no known outcome.
    let untold = deliveries
        .iter()
        .filter(|delivery| !world.accepted().contains(&delivery.event))
        .count();
    assert!(
        world.crashes > 0 || world.unknown() > 0 || untold == 0,
        "a delivery without an accepted event"
    );
    for (event, count) in world.promised() {
        let made = deliveries.iter().filter(|delivery| delivery.event == event);
        assert_eq!(
            made.count(),
            count as usize,
            "deliveries of {event}, which was accepted"
        );
    }
}

#[test]
fn every_accepted_delivery_ends_whatever_happens() {
    if let Ok(seed) = std::env::var("SEED") {
        return one_life(seed.parse().unwrap());
    }
    let seeds: u64 = std::env::var("SEEDS")
        .ok()
        .map_or(SEEDS_DEFAULT, |text| text.parse().unwrap());
    for seed in 0..seeds {
        let outcome = std::panic::catch_unwind(|| one_life(seed));
        assert!(outcome.is_ok(), "run again with SEED={seed}");
    }
}

/// One endpoint, one event, always the same answer.
fn one_delivery(profile: &str, answer: fn() -> Outcome, took: Duration) -> World {
    let mut world = World::new(1, profile, MachineLimits::default(), FAIR, 1);
    let tenant = world.tenants[0];
    world.endpoint(
        tenant,
        Ordering::None,
        None,
        Box::new(move |_| (answer(), took)),
    );
    world.publish(tenant, None, None);
    assert!(world.run_until(world.now.plus(Duration::from_secs(30 * 86_400))));
    world
}

#[test]
fn vignetim_makes_four_requests_at_0_0_1_and_6_seconds() {
    for code in [500, 404, 401, 410, 302, 100] {
        let world = match code {
            500 => one_delivery("vignetim", || status(500), Duration::ZERO),
            404 => one_delivery("vignetim", || status(404), Duration::ZERO),
            401 => one_delivery("vignetim", || status(401), Duration::ZERO),
            410 => one_delivery("vignetim", || status(410), Duration::ZERO),
            302 => one_delivery("vignetim", || status(302), Duration::ZERO),
            _ => one_delivery("vignetim", || status(100), Duration::ZERO),
        };
        assert_eq!(world.starts(), [0.0, 0.0, 1.0, 6.0], "{code}");
        assert_eq!(
            world.deliveries()[0].state,
            DeliveryState::Failed(FailReason::Exhausted)
        );
    }
}

#[test]
fn vignetims_schedule_counts_from_the_end_of_a_time_out() {
    let world = one_delivery("vignetim", timed_out, Duration::from_secs(10));
    assert_eq!(world.starts(), [0.0, 10.0, 21.0, 36.0]);
    let completed = world.deliveries()[0].completed_at.unwrap();
    assert_eq!(
        completed.since(world.requests()[0].0),
        Duration::from_secs(46)
    );
}

#[test]
fn the_standard_schedule_takes_ten_requests_within_its_jitter() {
    let world = one_delivery("standard", || status(500), Duration::ZERO);
    let delays = [
        5.0, 300.0, 1_800.0, 7_200.0, 18_000.0, 36_000.0, 50_400.0, 72_000.0, 86_400.0,
    ];
    let starts = world.starts();
    assert_eq!(starts.len(), 10);
    for (pair, delay) in starts.windows(2).zip(delays) {
        let gap = pair[1] - pair[0];
        // The breaker may add its cool-down of at most a minute, never take anything away.
        assert!(
            gap >= delay * 0.9 && gap <= delay * 1.1 + 60.0,
            "{gap} for {delay}"
        );
    }
}

#[test]
fn simplifytrip_makes_four_requests_five_minutes_apart_and_a_4xx_stops() {
    for took in [0, 10] {
        let world = one_delivery("simplifytrip", timed_out, Duration::from_secs(took));
        assert_eq!(world.starts(), [0.0, 300.0, 600.0, 900.0]);
    }
    for stop in [
        || status(400),
        || status(404),
        || status(429),
        || status(410),
    ] {
        let world = one_delivery("simplifytrip", stop, Duration::ZERO);
        assert_eq!(world.requests().len(), 1);
        assert_eq!(
            world.deliveries()[0].state,
            DeliveryState::Failed(FailReason::Stopped)
        );
        assert!(
            world.health(world.requests()[0].1).is_enabled(),
            "nothing disables it"
        );
    }
}

#[test]
fn voucherify_makes_thirteen_requests_in_a_day_and_is_disabled_by_the_last() {
    let minutes = [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1_024, 1_440];
    for answer in [|| status(500), || status(410), || status(404)] {
        let world = one_delivery("voucherify", answer, Duration::from_secs(3));
        let expected: Vec<f64> = minutes.iter().map(|m| f64::from(*m) * 60.0).collect();
        assert_eq!(world.starts(), expected);
        let health = world.health(world.requests()[0].1);
        assert_eq!(health.disabled.unwrap().reason, DisableReason::Failures);
        assert!(
            health.disabled.unwrap().at >= world.requests()[12].0,
            "not before the thirteenth"
        );
    }
}

#[test]
fn gone_disables_a_standard_endpoint_at_once() {
    let world = one_delivery("standard", || status(410), Duration::ZERO);
    assert_eq!(world.requests().len(), 1);
    let endpoint = world.requests()[0].1;
    assert_eq!(
        world.health(endpoint).disabled.unwrap().reason,
        DisableReason::Gone
    );
}

#[test]
fn retry_after_is_obeyed_by_the_standard_profile() {
    let mut world = World::new(1, "standard", MachineLimits::default(), FAIR, 1);
    let tenant = world.tenants[0];
    let mut answers = vec![
        status(200),
        Outcome::Answered {
            status: 429,
            retry_after_secs: Some(120),
        },
    ];
    world.endpoint(
        tenant,
        Ordering::None,
        None,
        Box::new(move |_| (answers.pop().unwrap(), Duration::ZERO)),
    );
    world.publish(tenant, None, None);
    world.run_until(world.now.plus(Duration::from_secs(3_600)));
    assert_eq!(world.starts(), [0.0, 120.0]);
}

#[test]
fn the_tenth_failed_vignetim_delivery_disables_and_a_success_between_starts_anew() {
    let mut world = World::new(1, "vignetim", MachineLimits::default(), FAIR, 1);
    let tenant = world.tenants[0];
    let mut made = 0;
    // Nine deliveries of four requests fail, one succeeds, ten more fail.
    let script = move |_: &mut fastrand::Rng| {
        made += 1;
        (status(if made == 37 { 200 } else { 500 }), Duration::ZERO)
    };
    let endpoint = world.endpoint(tenant, Ordering::None, None, Box::new(script));
    let mut failures = Vec::new();
    for _ in 0..20 {
        world.publish(tenant, None, None);
        world.run_until(world.now.plus(Duration::from_secs(60)));
        failures.push(world.health(endpoint).consecutive_failures);
    }
    let expected: Vec<u32> = (1..=9).chain([0]).chain(1..=10).collect();
    assert_eq!(failures, expected);
    assert_eq!(
        world.health(endpoint).disabled.unwrap().reason,
        DisableReason::Failures
    );
    world.publish(tenant, None, None);
    world.run_until(world.now.plus(Duration::from_secs(60)));
    assert_eq!(
        world.deliveries().len(),
        20,
        "a disabled endpoint gets nothing"
    );
}

#[test]
fn a_flooded_or_hanging_endpoint_does_not_delay_another() {
    let limits = MachineLimits {
        in_flight_max: 64,
        ..MachineLimits::default()
    };
    let mut world = World::new(1, "vignetim", limits, FAIR, 2);
    let (flooded, calm) = (world.tenants[0], world.tenants[1]);
    world.endpoint(
        flooded,
        Ordering::None,
        None,
        Box::new(|_| (timed_out(), Duration::from_secs(10))),
    );
    let healthy = world.endpoint(
        calm,
        Ordering::None,
        None,
        Box::new(|_| (status(200), Duration::from_millis(1))),
    );
    for _ in 0..2_000 {
        world.publish(flooded, None, None);
    }
    world.run_until(world.now.plus(Duration::from_millis(5)));
    let published_at = world.now;
    for _ in 0..50 {
        world.publish(calm, None, None);
    }
    world.run_until(world.now.plus(Duration::from_secs(1)));
    let arrivals: Vec<Timestamp> = world
        .requests()
        .iter()
        .filter(|(_, endpoint, ..)| *endpoint == healthy)
        .map(|(at, ..)| *at)
        .collect();
    assert_eq!(arrivals.len(), 50);
    assert!(
        arrivals
            .iter()
            .all(|at| at.since(published_at) <= Duration::from_millis(10))
    );
}

#[test]
fn a_rate_limit_holds_after_its_first_second() {
    let mut world = World::new(1, "standard", MachineLimits::default(), FAIR, 1);
    let tenant = world.tenants[0];
    world.endpoint(
        tenant,
        Ordering::None,
        Some(10),
        Box::new(|_| (status(200), Duration::from_millis(1))),
    );
    for _ in 0..60 {
        world.publish(tenant, None, None);
    }
    assert!(world.run_until(world.now.plus(Duration::from_secs(60))));
    let starts = world.starts();
    assert_eq!(starts.len(), 60);
    for second in 1..5 {
        let of_second = starts
            .iter()
            .filter(|at| (f64::from(second)..f64::from(second + 1)).contains(*at))
            .count();
        assert!(of_second <= 10, "{of_second} in second {second}");
    }
    assert!(starts[59] >= 5.0 - 0.01, "{}", starts[59]);
}

#[test]
fn a_tenant_with_many_hanging_endpoints_leaves_slots_to_others() {
    let limits = MachineLimits {
        in_flight_max: 64,
        ..MachineLimits::default()
    };
    let mut world = World::new(1, "vignetim", limits, FAIR, 2);
    let (greedy, calm) = (world.tenants[0], world.tenants[1]);
    for _ in 0..40 {
        let hang = |_: &mut fastrand::Rng| (timed_out(), Duration::from_secs(10));
        world.endpoint(greedy, Ordering::None, None, Box::new(hang));
    }
    let answer = |_: &mut fastrand::Rng| (status(200), Duration::from_millis(1));
    let healthy = world.endpoint(calm, Ordering::None, None, Box::new(answer));
    for _ in 0..20 {
        world.publish(greedy, None, None);
    }
    world.run_until(world.now.plus(Duration::from_secs(1)));
    assert_eq!(world.requests().len(), 32, "half of the slots, all hanging");
    let published_at = world.now;
    for _ in 0..50 {
        world.publish(calm, None, None);
    }
    world.run_until(world.now.plus(Duration::from_secs(1)));
    let arrivals: Vec<Timestamp> = world
        .requests()
        .iter()
        .filter(|(_, endpoint, ..)| *endpoint == healthy)
        .map(|(at, ..)| *at)
        .collect();
    assert_eq!(arrivals.len(), 50);
    let last = arrivals[49].since(published_at);
    assert!(last <= Duration::from_millis(10), "{last:?}");
}

#[test]
fn a_rate_limit_holds_in_the_second_after_a_pause() {
    let mut world = World::new(1, "standard", MachineLimits::default(), FAIR, 1);
    let tenant = world.tenants[0];
    let answer = |_: &mut fastrand::Rng| (status(200), Duration::from_millis(1));
    world.endpoint(tenant, Ordering::None, Some(40), Box::new(answer));
    for _ in 0..100 {
        world.publish(tenant, None, None);
    }
    assert!(world.run_until(world.now.plus(Duration::from_secs(60))));
    let starts = world.starts();
    for window in starts.windows(41) {
        assert!(window[40] - window[0] >= 1.0, "{window:?}");
    }
    assert!(starts[99] < 2.5, "and the limit is used: {}", starts[99]);
}

/// The wall clock is set while deliveries wait: nothing stalls, fires early or changes its order.
#[test]
fn a_clock_that_is_set_moves_nothing_that_waits() {
    for step in [-3_600, 3_600, -86_400] {
        let mut world = World::new(1, "vignetim", MachineLimits::default(), FAIR, 1);
        let tenant = world.tenants[0];
        let refuse = |_: &mut fastrand::Rng| (status(500), Duration::ZERO);
        world.endpoint(tenant, Ordering::Endpoint, Some(2), Box::new(refuse));
        world.publish(tenant, None, None);
        world.run_until(world.now.plus(Duration::from_millis(500)));
        world.set_wall_clock(step);
        world.publish(tenant, None, None);
        world.run_until(world.now.plus(Duration::from_secs(3)));
        world.set_wall_clock(step);
        assert!(world.run_until(world.now.plus(Duration::from_secs(60))));
        let first = world.requests()[0].2;
        let of_first: Vec<f64> = world
            .requests()
            .iter()
            .zip(world.starts())
            .filter(|((_, _, delivery, _), _)| *delivery == first)
            .map(|(_, at)| at)
            .collect();
        assert_eq!(of_first, [0.0, 0.0, 1.01, 6.01], "{step}");
        let order: Vec<bool> = world
            .requests()
            .iter()
            .map(|(.., id, _)| *id == first)
            .collect();
        assert_eq!(order, [true, true, true, true, false, false, false, false]);
    }
}

#[test]
fn what_a_commit_without_an_answer_accepted_is_sent_and_not_overtaken() {
    let mut world = World::new(1, "standard", MachineLimits::default(), FAIR, 1);
    let tenant = world.tenants[0];
    let answer = |_: &mut fastrand::Rng| (status(200), Duration::from_millis(1));
    world.endpoint(tenant, Ordering::Endpoint, None, Box::new(answer));
    world.lose_next_answer();
    world.publish(tenant, None, None);
    world.run_until(world.now.plus(Duration::from_millis(500)));
    assert_eq!(world.accepted().len(), 0, "nobody was told");
    world.publish(tenant, None, None);
    assert!(world.run_until(world.now.plus(Duration::from_secs(60))));
    let sent: Vec<_> = world.requests().iter().map(|(.., id, _)| *id).collect();
    let made: Vec<_> = world.deliveries().iter().rev().map(|it| it.id).collect();
    assert_eq!(sent, made, "both, in their order");
    assert_eq!(sent.len(), 2);
}

/// The clock is set back, and then the process dies: what waits does not wait again for what has passed.
#[test]
fn a_clock_that_was_set_back_delays_nothing_over_a_restart() {
    let mut world = World::new(1, "standard", MachineLimits::default(), FAIR, 1);
    let tenant = world.tenants[0];
    let refuse = |_: &mut fastrand::Rng| (status(500), Duration::ZERO);
    world.endpoint(tenant, Ordering::None, None, Box::new(refuse));
    world.publish(tenant, None, None);
    world.run_until(world.now.plus(Duration::from_secs(900)));
    let due = world.deliveries()[0].due_at;
    let made = world.requests().len();
    world.set_wall_clock(-86_400);
    world.crash();
    world.run_until(due.plus(Duration::from_secs(300)));
    let next = world.requests()[made].0;
    let late = next.since(due);
    assert!(late <= Duration::from_secs(62), "{late:?} after it was due");
}

/// One slot in all: one that is not given back is the end of everything.
fn one_slot() -> MachineLimits {
    MachineLimits {
        in_flight_max: 1,
        lane_in_flight_max: 1,
        ..MachineLimits::default()
    }
}

#[test]
fn a_request_that_breaks_off_in_the_transport_is_a_failed_attempt_and_no_lost_slot() {
    let mut world = World::new(1, "standard", one_slot(), FAIR, 1);
    let tenant = world.tenants[0];
    let answer = |_: &mut fastrand::Rng| (status(200), Duration::from_millis(1));
    let endpoint = world.endpoint(tenant, Ordering::None, None, Box::new(answer));
    world.break_next_request_off();
    world.publish(tenant, None, None);
    world.run_until(world.now.plus(Duration::from_millis(500)));
    let first = world.deliveries()[0].clone();
    assert_eq!((first.state, first.attempts), (DeliveryState::Pending, 1));
    let attempts = world.attempts(first.id);
    let failed = Outcome::Unreachable {
        reason: UnreachableReason::Internal,
        detail: "the transport failed".to_owned(),
    };
    assert_eq!(attempts[0].outcome, failed);
    let health = world.health(endpoint);
    assert_eq!(health, Health::default(), "the fault is not the receiver's");
    world.publish(tenant, None, None);
    world.run_until(world.now.plus(Duration::from_millis(500)));
    let sent: Vec<_> = world.requests().iter().map(|(.., id, _)| *id).collect();
    assert!(sent.len() == 1 && sent[0] != first.id, "the next one goes");
    // The first has its next attempt when its schedule says so.
    assert!(world.run_until(world.now.plus(Duration::from_secs(60))));
    let (.., last, number) = world.requests()[1];
    assert_eq!((last, number), (first.id, 2));
    assert_eq!(world.set_aside(), 0);
}

#[test]
fn an_attempt_that_breaks_off_before_its_record_costs_its_own_delivery_until_the_next_start() {
    let mut world = World::new(1, "standard", one_slot(), FAIR, 1);
    let tenant = world.tenants[0];
    let answer = |_: &mut fastrand::Rng| (status(200), Duration::from_millis(1));
    world.endpoint(tenant, Ordering::None, None, Box::new(answer));
    world.break_next_attempt_off();
    world.publish(tenant, None, None);
    world.run_until(world.now.plus(Duration::from_millis(500)));
    let first = world.deliveries()[0].clone();
    assert_eq!((first.state, first.attempts), (DeliveryState::Pending, 0));
    assert_eq!(world.set_aside(), 1);
    world.publish(tenant, None, None);
    world.run_until(world.now.plus(Duration::from_secs(900)));
    let sent: Vec<_> = world.requests().iter().map(|(.., id, _)| *id).collect();
    assert_eq!(sent.len(), 2, "the next one goes, and the first no more");
    assert!(sent[0] == first.id && sent[1] != first.id);
    world.crash();
    assert!(world.run_until(world.now.plus(Duration::from_secs(60))));
    let (.., last, number) = world.requests()[2];
    assert_eq!((last, number), (first.id, 1), "as it was stored");
}
