//! An endpoint's health: what each delivery does to it, and when it is disabled.
//!
//! Both stores call [`Health::apply`] inside the transaction that records an attempt, so that ten
//! failures at once disable once and are told once.

use std::time::Duration;

use crate::Timestamp;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Health {
    pub disabled: Option<Disabled>,
    /// Deliveries (not attempts) that failed since the last success.
    pub consecutive_failures: u32,
    /// Start of the present run of failures.
    pub failing_since: Option<Timestamp>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disabled {
    pub reason: DisableReason,
    pub at: Timestamp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DisableReason {
    /// By a person, through an API.
    Manual,
    /// The profile's threshold of failures was reached.
    Failures,
    /// The receiver answered 410.
    Gone,
}

impl DisableReason {
    pub const ALL: [Self; 3] = [Self::Manual, Self::Failures, Self::Gone];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Manual => "manual",
            Self::Failures => "failures",
            Self::Gone => "gone",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == text)
    }
}

/// When a profile disables an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DisableRule {
    Never,
    /// So many failed deliveries in a row (`docs/systems.md`, V-30, A-5).
    FailedDeliveries(u32),
    /// Nothing but failures for so long.
    FailingFor(Duration),
}

/// What an attempt means for the endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HealthChange {
    /// Nothing: a test, or a delivery that ended without an attempt.
    None,
    Success,
    /// An attempt failed; `delivery_failed` when it was the last one of its delivery.
    Failure {
        delivery_failed: bool,
    },
    /// The receiver wants no more.
    Gone,
}

impl Health {
    pub fn is_enabled(&self) -> bool {
        self.disabled.is_none()
    }

    /// Applies one change. Returns the reason exactly when this change disabled the endpoint.
    pub fn apply(
        &mut self,
        change: HealthChange,
        rule: DisableRule,
        now: Timestamp,
    ) -> Option<DisableReason> {
        let reason = match change {
            HealthChange::None => None,
            HealthChange::Success => {
                self.consecutive_failures = 0;
                self.failing_since = None;
                None
            }
            HealthChange::Failure { delivery_failed } => {
                self.consecutive_failures = self
                    .consecutive_failures
                    .saturating_add(u32::from(delivery_failed));
                // Kept under every rule: the list of endpoints that fail is in the order of it.
                let since = *self.failing_since.get_or_insert(now);
                let over = match rule {
                    DisableRule::Never => false,
                    DisableRule::FailedDeliveries(count) => {
                        // An attempt that is retried is no failed delivery. Not `==`: another version
                        // of the profile may have a smaller count than was reached already.
                        delivery_failed && self.consecutive_failures >= count
                    }
                    DisableRule::FailingFor(limit) => now.since(since) >= limit,
                };
                over.then_some(DisableReason::Failures)
            }
            HealthChange::Gone => {
                // A 410 ends its delivery, so a delivery has failed.
                self.consecutive_failures = self.consecutive_failures.saturating_add(1);
                self.failing_since.get_or_insert(now);
                Some(DisableReason::Gone)
            }
        };
        // What was under way when it was disabled ends later: that neither disables nor tells again.
        let reason = reason.filter(|_| self.is_enabled())?;
        self.disabled = Some(Disabled { reason, at: now });
        Some(reason)
    }

    /// Enables again: the counters start anew (`docs/systems.md`, V-33).
    pub fn enable(&mut self) {
        *self = Self::default();
    }

    pub fn disable(&mut self, reason: DisableReason, now: Timestamp) {
        // One that its failures disabled stays so: only who was disabled by hand is held
        // (`Endpoint::is_held`).
        self.disabled.get_or_insert(Disabled { reason, at: now });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAILED: HealthChange = HealthChange::Failure {
        delivery_failed: true,
    };
    const RULE: DisableRule = DisableRule::FailedDeliveries(10);

    #[test]
    fn the_tenth_failed_delivery_in_a_row_disables_once() {
        let mut health = Health::default();
        let now = Timestamp::from_secs(1);
        for _ in 0..9 {
            assert_eq!(health.apply(FAILED, RULE, now), None);
        }
        assert_eq!(
            health.apply(
                HealthChange::Failure {
                    delivery_failed: false
                },
                RULE,
                now
            ),
            None
        );
        assert_eq!(health.apply(HealthChange::Success, RULE, now), None);
        for _ in 0..9 {
            assert_eq!(health.apply(FAILED, RULE, now), None);
        }
        assert_eq!(
            health.apply(FAILED, RULE, now),
            Some(DisableReason::Failures)
        );
        assert_eq!(health.apply(FAILED, RULE, now), None);
        assert!(!health.is_enabled());
        health.enable();
        assert_eq!(health, Health::default());
    }

    #[test]
    fn one_that_wants_no_more_fails_since_then() {
        let mut health = Health::default();
        let now = Timestamp::from_secs(7);
        let reason = health.apply(HealthChange::Gone, RULE, now);
        assert_eq!(reason, Some(DisableReason::Gone));
        assert_eq!(health.failing_since, Some(now));
    }

    #[test]
    fn failing_for_days_disables_and_one_success_starts_anew() {
        let rule = DisableRule::FailingFor(Duration::from_secs(5 * 86_400));
        let mut health = Health::default();
        let day = |d: i64| Timestamp::from_secs(d * 86_400);
        assert_eq!(health.apply(FAILED, rule, day(0)), None);
        assert_eq!(health.apply(FAILED, rule, day(4)), None);
        assert_eq!(health.apply(HealthChange::Success, rule, day(4)), None);
        assert_eq!(health.apply(FAILED, rule, day(5)), None);
        assert_eq!(
            health.apply(FAILED, rule, day(10)),
            Some(DisableReason::Failures)
        );
    }
}
