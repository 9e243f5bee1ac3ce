//! The last hour, minute by minute: how many attempts, how many were answered well, and how long they took.
//!
//! In memory alone, and of this process: it is for a glance, and the metrics are for keeping.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use postrider_core::Timestamp;

/// Minutes that are looked back.
pub const MINUTES: usize = 60;
const MINUTE_MICROS: i64 = 60 * 1_000_000;
/// Minutes as the clock counts them.
const MINUTES_COUNTED: i64 = 60;
/// Classes of times between a power of two, in microseconds, and the next.
const STEPS: u32 = 8;
/// The power of two beyond which times are in the last class: four minutes.
const POWERS: u32 = 28;
const CLASSES: usize = (STEPS * POWERS) as usize;

/// What happened in a minute.
#[derive(Debug, Clone, Copy)]
struct Minute {
    /// Its number since 1970, by the steady clock.
    number: i64,
    attempts: u64,
    succeeded: u64,
    times: [u32; CLASSES],
}

const NOTHING: Minute = Minute {
    // No time is in it, so a place that was never used is not taken for a minute.
    number: i64::MIN,
    attempts: 0,
    succeeded: 0,
    times: [0; CLASSES],
};

/// The minutes, each in its place: one that comes around takes that of an hour before.
#[derive(Debug)]
pub(crate) struct Lately(Mutex<Box<[Minute; MINUTES]>>);

/// The last hour of this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastHour {
    pub attempts: u64,
    /// Of them, those answered with 2xx.
    pub succeeded: u64,
    /// The time that half of the attempts took at most, and 99 of 100, to an eighth; none without an attempt.
    pub median: Option<Duration>,
    pub slowest_hundredth: Option<Duration>,
    /// Attempts of each minute and how many of them succeeded, the oldest first; the last is the one that runs.
    pub minutes: [(u64, u64); MINUTES],
}

impl Lately {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Box::new([NOTHING; MINUTES])))
    }

    /// Counts an attempt that ended at `now` of the steady clock.
    pub(crate) fn count(&self, now: Timestamp, succeeded: bool, took: Duration) {
        let number = number(now);
        let mut minutes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let minute = &mut minutes[place(number)];
        if minute.number != number {
            *minute = Minute { number, ..NOTHING };
        }
        minute.attempts += 1;
        minute.succeeded += u64::from(succeeded);
        let class = &mut minute.times[class(took)];
        *class = class.saturating_add(1);
    }

    /// What happened in the hour that ends at `now` of the steady clock.
    pub(crate) fn read(&self, now: Timestamp) -> LastHour {
        let last = number(now);
        let mut hour = LastHour {
            attempts: 0,
            succeeded: 0,
            median: None,
            slowest_hundredth: None,
            minutes: [(0, 0); MINUTES],
        };
        let mut times = [0_u64; CLASSES];
        let minutes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (number, shown) in (last - MINUTES_COUNTED + 1..).zip(&mut hour.minutes) {
            let minute = &minutes[place(number)];
            if minute.number != number {
                continue;
            }
            *shown = (minute.attempts, minute.succeeded);
            hour.attempts += minute.attempts;
            hour.succeeded += minute.succeeded;
            for (sum, count) in times.iter_mut().zip(minute.times) {
                *sum += u64::from(count);
            }
        }
        // Attempts that end meanwhile do not wait for the sums.
        drop(minutes);
        hour.median = quantile(&times, 500);
        hour.slowest_hundredth = quantile(&times, 990);
        hour
    }
}

fn number(at: Timestamp) -> i64 {
    at.as_micros().div_euclid(MINUTE_MICROS)
}

fn place(number: i64) -> usize {
    usize::try_from(number.rem_euclid(MINUTES_COUNTED)).unwrap_or(0)
}

fn class(took: Duration) -> usize {
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    // Below so many microseconds each has a class of its own.
    let micros = micros.max(u64::from(STEPS));
    let power = micros.ilog2();
    let step = (micros >> (power - STEPS.ilog2())) - u64::from(STEPS);
    let class = u64::from(power * STEPS) + step;
    usize::try_from(class)
        .unwrap_or(usize::MAX)
        .min(CLASSES - 1)
}

/// The longest time of a class.
fn longest(class: usize) -> Duration {
    let class = u64::try_from(class).unwrap_or(0);
    let (power, step) = (class / u64::from(STEPS), class % u64::from(STEPS));
    // No time is in the classes of the first powers, where this would be negative.
    let next = (u64::from(STEPS) + step + 1) << power.saturating_sub(u64::from(STEPS.ilog2()));
    Duration::from_micros(next - 1)
}

/// The class in which so many thousandths are.
fn quantile(times: &[u64; CLASSES], thousandths: u64) -> Option<Duration> {
    let all: u64 = times.iter().sum();
    let wanted = (all * thousandths).div_ceil(1_000);
    let mut sum = 0;
    let found = times.iter().position(|count| {
        sum += count;
        // Of nothing, the first class would have all that is wanted.
        all > 0 && sum >= wanted
    });
    found.map(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_secs(1_774_017_060 + secs)
    }

    #[test]
    fn an_hour_is_counted_and_then_forgotten() {
        let lately = Lately::new();
        for (secs, succeeded) in [(0, true), (59, false), (60, true)] {
            lately.count(at(secs), succeeded, Duration::from_millis(10));
        }
        let hour = lately.read(at(61));
        assert_eq!((hour.attempts, hour.succeeded), (3, 2));
        assert_eq!(hour.minutes[MINUTES - 2..], [(2, 1), (1, 1)]);
        // The minute of an hour before has given its place.
        lately.count(at(3_600), true, Duration::from_millis(10));
        let hour = lately.read(at(3_601));
        assert_eq!((hour.attempts, hour.succeeded), (2, 2));
        assert_eq!(lately.read(at(3 * 3_600)).attempts, 0);
    }

    #[test]
    fn the_times_that_many_took_at_most_are_right_to_an_eighth() {
        let lately = Lately::new();
        assert_eq!(lately.read(at(0)).median, None);
        for millis in 1..=100 {
            lately.count(at(0), true, Duration::from_millis(millis));
        }
        let hour = lately.read(at(0));
        for (told, right) in [(hour.median, 50), (hour.slowest_hundredth, 99)] {
            let (told, right) = (told.unwrap(), Duration::from_millis(right));
            assert!(told >= right && told <= right + right / STEPS, "{told:?}");
        }
        // What is out of all classes is in the nearest, and each time is in the class that ends with it or behind it.
        for took in [Duration::ZERO, Duration::MAX] {
            assert!(class(took) < CLASSES);
        }
        for micros in (8..200_000).chain([1 << 26, (1 << 27) + 7]) {
            let took = Duration::from_micros(micros);
            let longest = longest(class(took));
            assert!(
                longest >= took && longest <= took + took / STEPS,
                "{took:?}"
            );
        }
    }
}
