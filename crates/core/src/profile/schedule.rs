//! When the next attempt is due.

use std::time::Duration;

use crate::Timestamp;

/// The longest schedule a profile may write.
pub(super) const STEPS_MAX: usize = 64;

#[derive(Debug, Clone, PartialEq)]
pub struct RetrySchedule {
    pub steps: Steps,
    /// 0.1 spreads a delay evenly over ±10 %. An immediate retry is never spread.
    pub jitter: f64,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Steps {
    /// One delay for each retry, counted from `anchor`.
    Delays {
        delays: Vec<Duration>,
        anchor: Anchor,
    },
    /// Times since the first attempt of the series started.
    Offsets(Vec<Duration>),
    /// `base * factor^n`, at most `cap`, as long as the series is younger than `max_age`.
    Exponential {
        base: Duration,
        factor: f64,
        cap: Duration,
        max_age: Duration,
    },
}

/// What a delay is counted from (`docs/systems.md`, A-4, A-36).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Anchor {
    PreviousEnd,
    PreviousStart,
}

impl RetrySchedule {
    /// When the attempt after `made` attempts is due; none when the schedule has ended.
    ///
    /// A step that passed before the last attempt, while the delivery was held or the server stood still, is made up for as
    /// far behind that attempt as it was to be behind the step before it: none is lost, and they do not come all at once
    /// (`docs/systems.md`, A-27). Never before `ended_at`: one that passed while the attempt lasted is at once.
    pub fn due_at(
        &self,
        made: u32,
        first_start: Timestamp,
        started_at: Timestamp,
        ended_at: Timestamp,
        unit_random: f64,
    ) -> Option<Timestamp> {
        // The first attempt is no retry and has no step.
        let index = usize::try_from(made.checked_sub(1)?).ok()?;
        let due = match &self.steps {
            Steps::Delays { delays, anchor } => {
                let from = match anchor {
                    Anchor::PreviousEnd => ended_at,
                    Anchor::PreviousStart => started_at,
                };
                from.plus(self.spread(*delays.get(index)?, unit_random))
            }
            Steps::Offsets(offsets) => {
                let offset = *offsets.get(index)?;
                // Jitter spreads the gap and not the whole offset: the last of long offsets could come before
                // its neighbour.
                let before = index.checked_sub(1).map_or(Duration::ZERO, |i| offsets[i]);
                let gap = self.spread(offset.saturating_sub(before), unit_random);
                let step = first_start.plus(before + gap);
                if step < started_at {
                    started_at.plus(gap)
                } else {
                    step
                }
            }
            Steps::Exponential {
                base,
                factor,
                cap,
                max_age,
            } => {
                // A power that is too great is infinite, and `cap` is taken instead.
                let exponent = i32::try_from(index).unwrap_or(i32::MAX);
                let secs = (base.as_secs_f64() * factor.powi(exponent)).min(cap.as_secs_f64());
                let due = ended_at.plus(self.spread(Duration::from_secs_f64(secs), unit_random));
                if due.since(first_start) > *max_age {
                    return None;
                }
                due
            }
        };
        Some(due.max(ended_at))
    }

    fn spread(&self, delay: Duration, unit_random: f64) -> Duration {
        // The parser lets no jitter beyond 1 through, so the factor is never negative: that would panic.
        delay.mul_f64(1.0 + self.jitter * (2.0 * unit_random - 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(values: &[u64]) -> Vec<Duration> {
        values.iter().map(|s| Duration::from_secs(*s)).collect()
    }

    /// Starts of all attempts in seconds when each lasts `lasts` seconds.
    fn starts(schedule: &RetrySchedule, lasts: u64) -> Vec<u64> {
        let zero = Timestamp::from_secs(0);
        let mut starts = vec![zero];
        loop {
            let started = starts[starts.len() - 1];
            let made = u32::try_from(starts.len()).unwrap();
            match schedule.due_at(
                made,
                zero,
                started,
                started.plus(Duration::from_secs(lasts)),
                0.5,
            ) {
                Some(due) => starts.push(due),
                None => return starts.iter().map(|at| at.since(zero).as_secs()).collect(),
            }
        }
    }

    #[test]
    fn the_three_anchors() {
        let delays = |d: &[u64], anchor| RetrySchedule {
            steps: Steps::Delays {
                delays: secs(d),
                anchor,
            },
            jitter: 0.0,
        };
        assert_eq!(
            starts(&delays(&[0, 1, 5], Anchor::PreviousEnd), 0),
            [0, 0, 1, 6]
        );
        assert_eq!(
            starts(&delays(&[0, 1, 5], Anchor::PreviousEnd), 10),
            [0, 10, 21, 36]
        );
        assert_eq!(
            starts(&delays(&[300, 300, 300], Anchor::PreviousStart), 10),
            [0, 300, 600, 900]
        );
        let minutes: Vec<u64> = (0..11).map(|n| 60 << n).chain([86_400]).collect();
        let offsets = RetrySchedule {
            steps: Steps::Offsets(secs(&minutes)),
            jitter: 0.0,
        };
        let expected: Vec<u64> = std::iter::once(0).chain(minutes).collect();
        assert_eq!(starts(&offsets, 10), expected);
    }

    #[test]
    fn steps_that_passed_are_made_up_for_at_their_distance() {
        let offsets = RetrySchedule {
            steps: Steps::Offsets(secs(&[60, 120, 240, 480])),
            jitter: 0.0,
        };
        let at = Timestamp::from_secs;
        // The server stood still: the first retry came at 150, and the second was to be at 120.
        let next = |made, started| offsets.due_at(made, at(0), at(started), at(started), 0.5);
        assert_eq!(next(2, 150), Some(at(210)));
        assert_eq!(next(3, 210), Some(at(240)));
        // After a night none is lost, and they do not come together.
        assert_eq!(next(1, 30_000), Some(at(30_060)));
        assert_eq!(next(2, 30_060), Some(at(30_120)));
        assert_eq!(next(3, 30_120), Some(at(30_240)));
        assert_eq!(next(4, 30_240), Some(at(30_480)));
        assert_eq!(next(5, 30_480), None);
    }

    proptest::proptest! {
        #[test]
        fn a_retry_is_never_early_and_never_later_than_its_spread(delay in 0_u64..100_000, jitter in 0.0_f64..=0.5, r in 0.0_f64..1.0) {
            let schedule = RetrySchedule { steps: Steps::Delays { delays: secs(&[delay]), anchor: Anchor::PreviousEnd }, jitter };
            let end = Timestamp::from_secs(10);
            let due = schedule.due_at(1, Timestamp::from_secs(0), Timestamp::from_secs(0), end, r).unwrap();
            let waited = due.since(end).as_secs_f64();
            proptest::prop_assert!(waited >= delay as f64 * (1.0 - jitter) - 0.001);
            proptest::prop_assert!(waited <= delay as f64 * (1.0 + jitter) + 0.001);
            proptest::prop_assert!(schedule.due_at(2, Timestamp::from_secs(0), end, end, r).is_none());
        }
    }
}
