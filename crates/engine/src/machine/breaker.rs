//! The breaker of a lane: closed, open, half-open with one probe.

use std::time::Duration;

use postrider_core::Timestamp;

/// Failures in a row that open it.
pub(super) const FAILURES_TO_OPEN: u32 = 5;
const COOL_DOWN_MIN: Duration = Duration::from_secs(1);
const COOL_DOWN_MAX: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Breaker {
    Closed {
        failures: u32,
    },
    /// Nothing is sent before `until`; then one probe is.
    Open {
        until: Timestamp,
        cool_down: Duration,
    },
    HalfOpen {
        cool_down: Duration,
    },
}

impl Default for Breaker {
    fn default() -> Self {
        Self::Closed { failures: 0 }
    }
}

impl Breaker {
    pub(super) fn failed(&mut self, now: Timestamp) {
        *self = match *self {
            Self::Closed { failures } if failures + 1 < FAILURES_TO_OPEN => Self::Closed {
                failures: failures + 1,
            },
            Self::Closed { .. } => Self::Open {
                until: now.plus(COOL_DOWN_MIN),
                cool_down: COOL_DOWN_MIN,
            },
            // What was under way when it opened tells nothing new.
            Self::Open { until, cool_down } => Self::Open { until, cool_down },
            Self::HalfOpen { cool_down } => {
                let cool_down = (cool_down * 2).min(COOL_DOWN_MAX);
                Self::Open {
                    until: now.plus(cool_down),
                    cool_down,
                }
            }
        };
    }

    pub(super) fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// A request starts: after the cool-down it is the probe.
    pub(super) fn started(&mut self, now: Timestamp) {
        if let Self::Open { until, cool_down } = *self
            && until <= now
        {
            *self = Self::HalfOpen { cool_down };
        }
    }

    /// When the next request may start; none while a probe is under way.
    pub(super) fn opens_at(&self, now: Timestamp, in_flight: usize) -> Option<Timestamp> {
        match *self {
            Self::Closed { .. } => Some(now),
            // The probe goes alone: what was under way when it opened ends first.
            Self::Open { until, .. } if in_flight == 0 => Some(until.max(now)),
            // Every answer of a probe ends this state; should one leave it, the next request is the probe.
            Self::HalfOpen { .. } if in_flight == 0 => Some(now),
            Self::Open { .. } | Self::HalfOpen { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_probes_and_closes() {
        let at = Timestamp::from_secs;
        let mut breaker = Breaker::default();
        for _ in 0..4 {
            breaker.failed(at(10));
        }
        assert_eq!(breaker.opens_at(at(10), 3), Some(at(10)));
        breaker.failed(at(10));
        assert_eq!(breaker.opens_at(at(10), 0), Some(at(11)));
        breaker.started(at(11));
        assert_eq!(breaker.opens_at(at(11), 1), None, "one probe at a time");
        breaker.failed(at(12));
        assert_eq!(
            breaker.opens_at(at(12), 0),
            Some(at(14)),
            "the cool-down doubles"
        );
        breaker.started(at(14));
        breaker.succeeded();
        assert_eq!(breaker.opens_at(at(15), 7), Some(at(15)));
        for _ in 0..5 {
            breaker.failed(at(20));
        }
        let mut now = 20;
        for _ in 0..12 {
            now += 60;
            breaker.started(at(now));
            breaker.failed(at(now));
        }
        let opens = breaker.opens_at(at(now), 0);
        assert_eq!(opens, Some(at(now + 60)), "a minute at most");
    }
}
