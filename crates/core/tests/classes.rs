//! What an answer means to each documented system, for every status there is.

use std::time::Duration;

use postrider_core::Timestamp;
use postrider_core::attempt::{Outcome, UnreachableReason};
use postrider_core::delivery::{FailReason, Series};
use postrider_core::health::HealthChange;
use postrider_core::judge::{AttemptFacts, Next, Signal, judge};
use postrider_core::profile::{Class, Profile, built_in};
use postrider_core::tenant::Mode;

#[test]
fn every_answer_means_what_its_system_documents() {
    for (name, stops) in [
        ("vignetim", 0..0),
        ("simplifytrip", 400..500),
        ("voucherify", 0..0),
    ] {
        let profile = built_in().iter().find(|profile| profile.name == name);
        let classify = &profile.unwrap().classify;
        for status in 100..=599 {
            let class = classify.class(&Outcome::Answered {
                status,
                retry_after_secs: Some(60),
            });
            let expected = match status {
                200..=299 => Class::Ok,
                _ if stops.contains(&status) => Class::Stop,
                _ => Class::Retry,
            };
            assert_eq!(class, expected, "{name}: {status}");
        }
        for reason in UnreachableReason::ALL {
            let detail = String::new();
            let class = classify.class(&Outcome::Unreachable { reason, detail });
            assert_eq!(class, Class::Retry, "{name}: {reason:?}");
        }
    }
}

#[test]
fn a_fault_of_ours_is_not_held_against_the_receiver() {
    let facts = AttemptFacts {
        series: Series::SCHEDULED,
        started_at: Timestamp::from_secs(1),
        ended_at: Timestamp::from_secs(1),
        deliver_before: None,
        one_off: false,
        unit_random: 0.5,
    };
    for profile in built_in() {
        for reason in UnreachableReason::ALL {
            let detail = String::new();
            let outcome = Outcome::Unreachable { reason, detail };
            let retry = profile.retry(Mode::Live);
            let health = judge(&profile.classify, retry, &outcome, &facts).health;
            let ours = matches!(
                reason,
                UnreachableReason::Internal | UnreachableReason::Local
            );
            assert_eq!(
                health == HealthChange::None,
                ours,
                "{}: {reason:?}",
                profile.name
            );
        }
    }
}

#[test]
fn a_time_of_its_own_that_a_delivery_is_not_sent_beyond_is_no_failed_delivery() {
    let facts = AttemptFacts {
        series: Series::SCHEDULED,
        started_at: Timestamp::from_secs(1),
        ended_at: Timestamp::from_secs(1),
        // Before any retry.
        deliver_before: Some(Timestamp::from_secs(0)),
        one_off: false,
        unit_random: 0.5,
    };
    let outcome = Outcome::Answered {
        status: 500,
        retry_after_secs: None,
    };
    for profile in built_in() {
        let retry = profile.retry(Mode::Live);
        let verdict = judge(&profile.classify, retry, &outcome, &facts);
        if profile.name == "github" {
            // It tries nothing a second time, so nothing comes too late.
            continue;
        }
        let expired = Next::Failed(FailReason::Expired);
        assert_eq!(verdict.next, expired, "{}", profile.name);
        let one_request = HealthChange::Failure {
            delivery_failed: false,
        };
        assert_eq!(verdict.health, one_request, "{}", profile.name);
    }
}

#[test]
fn what_somebody_sends_again_by_hand_fails_without_counting() {
    let facts = AttemptFacts {
        series: Series {
            single: true,
            ..Series::SCHEDULED
        },
        started_at: Timestamp::from_secs(1),
        ended_at: Timestamp::from_secs(1),
        deliver_before: None,
        one_off: false,
        unit_random: 0.5,
    };
    for profile in built_in() {
        let verdict = |status| {
            let outcome = Outcome::Answered {
                status,
                retry_after_secs: None,
            };
            let retry = profile.retry(Mode::Live);
            judge(&profile.classify, retry, &outcome, &facts)
        };
        let failed = verdict(500);
        assert_eq!(failed.health, HealthChange::None, "{}", profile.name);
        assert!(failed.next.state().is_final());
        assert_eq!(verdict(200).health, HealthChange::Success);
    }
}

#[test]
fn steps_that_passed_while_nothing_was_sent_are_made_up_for_one_by_one() {
    let profile = built_in()
        .iter()
        .find(|profile| profile.name == "voucherify");
    let profile = profile.unwrap();
    let minutes = |minutes| Timestamp::from_secs(60 * minutes);
    // The first attempt was at 0 and one retry came in time, at one minute; the next came when the pause was over.
    let after = |started: i64, lasted: i64| {
        let facts = AttemptFacts {
            series: Series {
                attempts: 2,
                started_at: Some(minutes(0)),
                ..Series::SCHEDULED
            },
            started_at: minutes(started),
            ended_at: minutes(started + lasted),
            deliver_before: None,
            one_off: false,
            unit_random: 0.5,
        };
        let outcome = Outcome::Answered {
            status: 500,
            retry_after_secs: None,
        };
        judge(
            &profile.classify,
            profile.retry(Mode::Live),
            &outcome,
            &facts,
        )
        .next
    };
    for (started, lasted, next) in [
        (2, 0, 4),
        // In time, but it lasted beyond the next step: that is at once.
        (2, 3, 5),
        // Three hours later the next comes two minutes behind this one, as it was to: not at once, and not lost.
        (180, 0, 182),
        (24 * 60 + 1, 0, 24 * 60 + 3),
    ] {
        assert_eq!(
            after(started, lasted),
            Next::Retry { at: minutes(next) },
            "{started}"
        );
    }
}

#[test]
fn a_pause_without_end_is_as_long_as_the_profile_heeds() {
    let facts = AttemptFacts {
        series: Series::SCHEDULED,
        started_at: Timestamp::from_secs(1),
        ended_at: Timestamp::from_secs(2),
        deliver_before: None,
        one_off: false,
        unit_random: 0.5,
    };
    let standard = built_in().iter().find(|profile| profile.name == "standard");
    let standard = standard.unwrap();
    let (written, shorter) = ("retry_after_max = \"24h\"", "retry_after_max = \"7m\"");
    assert!(standard.source.contains(written));
    let own = Profile::parse(&standard.source.replace(written, shorter)).unwrap();
    for (profile, minutes) in [(standard, 24 * 60), (&own, 7)] {
        let longest = Duration::from_secs(minutes * 60);
        // A 503 may name a time as well as a 429.
        for status in [429, 503] {
            let outcome = Outcome::Answered {
                status,
                retry_after_secs: Some(u32::MAX),
            };
            let retry = profile.retry(Mode::Live);
            let verdict = judge(&profile.classify, retry, &outcome, &facts);
            let pause = Some(longest);
            assert_eq!(verdict.signal, Signal::Strained { pause }, "{status}");
            let at = facts.ended_at.plus(longest);
            assert_eq!(verdict.next, Next::Retry { at }, "{status}");
        }
    }
}

#[test]
fn a_delay_that_is_longer_than_there_is_time_ends_with_it() {
    let source = include_str!("../../../fuzz/seeds/profile/far-delay");
    let profile = Profile::parse(source).unwrap();
    let outcome = Outcome::Answered {
        status: 500,
        retry_after_secs: None,
    };
    let next = |deliver_before| {
        let facts = AttemptFacts {
            series: Series::SCHEDULED,
            started_at: Timestamp::from_secs(1_774_017_075),
            ended_at: Timestamp::from_secs(1_774_017_076),
            deliver_before,
            one_off: false,
            unit_random: 0.5,
        };
        let retry = profile.retry(Mode::Live);
        judge(&profile.classify, retry, &outcome, &facts).next
    };
    assert_eq!(next(None), Next::Retry { at: Timestamp::MAX });
    let expired = Next::Failed(FailReason::Expired);
    assert_eq!(next(Some(Timestamp::from_secs(1_774_017_099))), expired);
}
