//! A line of the log that would come again and again.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use postrider_core::Timestamp;

/// Between two such lines.
const PAUSE: Duration = Duration::from_secs(1);

/// Lets one line through in each second, and counts those that it does not.
#[derive(Debug, Default)]
pub(super) struct Seldom(Mutex<Told>);

#[derive(Debug, Default)]
struct Told {
    last: Option<Timestamp>,
    left_out: u64,
}

impl Seldom {
    /// How many were left out before this one; none where this one is left out too.
    pub(super) fn may_tell(&self, now: Timestamp) -> Option<u64> {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if told.last.is_some_and(|last| now.since(last) < PAUSE) {
            told.left_out += 1;
            return None;
        }
        told.last = Some(now);
        Some(std::mem::take(&mut told.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_in_a_second_tells_how_many_there_were() {
        let at = Timestamp::from_secs;
        let seldom = Seldom::default();
        assert_eq!(seldom.may_tell(at(10)), Some(0));
        assert_eq!(seldom.may_tell(at(10)), None);
        assert_eq!(seldom.may_tell(at(10)), None);
        assert_eq!(seldom.may_tell(at(11)), Some(2));
        assert_eq!(seldom.may_tell(at(12)), Some(0));
    }
}
