//! Counts of attempts: by how they ended, and of those that were answered by how long that took.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// The ends of the classes that durations are counted in, each within the next one's; what took longer is in one more.
pub const TOOK_MILLIS: [u32; 28] = [
    1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 150, 200, 300, 500, 700, 1_000, 1_500, 2_000,
    3_000, 5_000, 7_000, 10_000, 15_000, 20_000, 30_000, 60_000,
];
const CLASSES: usize = TOOK_MILLIS.len() + 1;

/// The class that a duration is counted in, from 0 on.
pub fn took_class(micros: u32) -> usize {
    TOOK_MILLIS.partition_point(|end| u64::from(micros) > u64::from(*end) * 1_000)
}

/// How long answers took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times([u64; CLASSES]);

impl Default for Times {
    fn default() -> Self {
        Self([0; CLASSES])
    }
}

impl Times {
    /// Counts answers of a class; of one that there is not, as the slowest.
    pub fn count(&mut self, class: usize, answers: u64) {
        self.0[class.min(CLASSES - 1)] += answers;
    }

    /// Answers that were counted.
    pub fn answers(&self) -> u64 {
        self.0.iter().sum()
    }

    /// What so many of 100 answers took at most, as exactly as the classes are; none without answers, and none where it
    /// is longer than the classes know.
    pub fn within(&self, of_hundred: u32) -> Option<Duration> {
        let answers = self.answers();
        if answers == 0 {
            return None;
        }
        let wanted = (u128::from(answers) * u128::from(of_hundred)).div_ceil(100);
        let mut so_far = 0;
        let class = self.0.iter().position(|answers| {
            so_far += u128::from(*answers);
            so_far >= wanted
        });
        let end = TOOK_MILLIS.get(class?)?;
        Some(Duration::from_millis(u64::from(*end)))
    }
}

/// Attempts by how they ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcomes {
    /// By a status, or by why there was no answer. There are some nine hundred at most.
    pub by_code: BTreeMap<Arc<str>, u64>,
    /// Of those that were answered.
    pub times: Times,
}

impl Outcomes {
    /// The most frequent first.
    pub fn by_count(&self) -> Vec<(&str, u64)> {
        let by_code = self.by_code.iter();
        let mut by_count: Vec<_> = by_code.map(|(code, count)| (&**code, *count)).collect();
        by_count.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        by_count
    }

    /// Counts attempts that ended alike, in a time of the same class.
    pub fn count(&mut self, code: &str, class: usize, attempts: u64) {
        match self.by_code.get_mut(code) {
            Some(count) => *count += attempts,
            None => drop(self.by_code.insert(Arc::from(code), attempts)),
        }
        if is_status(code) {
            self.times.count(class, attempts);
        }
    }
}

/// Without an answer a time is how long it was waited for one.
pub(crate) fn is_status(code: &str) -> bool {
    code.starts_with(|first: char| first.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_within_the_end_of_its_class() {
        let at = |micros| TOOK_MILLIS.get(took_class(micros)).copied();
        assert_eq!(at(0), Some(1));
        assert_eq!(at(1_000), Some(1));
        assert_eq!(at(1_001), Some(2));
        assert_eq!(at(60_000_000), Some(60_000));
        assert_eq!(at(60_000_001), None);
        assert_eq!(at(u32::MAX), None);
    }

    #[test]
    fn what_most_answers_took_is_told_as_their_class_ends() {
        let mut times = Times::default();
        assert_eq!(times.within(50), None);
        times.count(took_class(4_000), 98);
        times.count(took_class(400_000), 1);
        times.count(took_class(70_000_000), 1);
        assert_eq!(times.within(50), Some(Duration::from_millis(5)));
        assert_eq!(times.within(98), Some(Duration::from_millis(5)));
        assert_eq!(times.within(99), Some(Duration::from_millis(500)));
        assert_eq!(times.within(100), None);
    }

    #[test]
    fn what_was_not_answered_has_no_time_of_an_answer() {
        let mut outcomes = Outcomes::default();
        outcomes.count("timeout", took_class(30_000_000), 3);
        outcomes.count("200", took_class(10_000), 2);
        assert_eq!(outcomes.times.answers(), 2);
        assert_eq!(outcomes.by_code.len(), 2);
    }
}
