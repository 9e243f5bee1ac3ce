//! How attempts ended, and how soon they were answered, over a range of time.

use std::time::Duration;

use postrider_service::{Outcomes, Times};

use crate::words::{code, grouped, long};

/// Ends told one by one.
const ENDS_TOLD: usize = 12;

pub(crate) struct Ends {
    pub(crate) rows: Vec<End>,
    /// How many attempts ended in other ways.
    pub(crate) others: Option<String>,
    /// How soon answers came.
    pub(crate) answers: Option<String>,
}

pub(crate) struct End {
    pub(crate) how: String,
    /// The list of deliveries whose last attempt ended so.
    pub(crate) href: Option<String>,
    pub(crate) attempts: String,
    pub(crate) share: String,
}

impl Ends {
    /// `list` is where deliveries are listed by their last `answer`; what it is given follows there.
    pub(crate) fn of(outcomes: &Outcomes, list: impl Fn(&str) -> String) -> Self {
        let by_count = outcomes.by_count();
        let all: u64 = by_count.iter().map(|(_, attempts)| attempts).sum();
        let (told, others) = by_count.split_at(by_count.len().min(ENDS_TOLD));
        let rows = told.iter().map(|(end, attempts)| {
            let answer = match end.as_bytes() {
                // The list goes by classes of statuses, and knows those that mean something.
                [hundreds @ b'2'..=b'5', _, _] => Some(format!("{}xx", char::from(*hundreds))),
                [b'0'..=b'9', ..] => None,
                _ => Some((*end).to_owned()),
            };
            End {
                how: code(end),
                href: answer.map(|answer| list(&answer)),
                attempts: grouped(*attempts),
                share: share(*attempts, all),
            }
        });
        let others: u64 = others.iter().map(|(_, attempts)| attempts).sum();
        Self {
            rows: rows.collect(),
            others: (others > 0).then(|| grouped(others)),
            answers: sooner(&outcomes.times),
        }
    }
}

/// How soon answers came, in words; none without any.
fn sooner(times: &Times) -> Option<String> {
    let answers = times.answers();
    if answers == 0 {
        return None;
    }
    let within = |of_hundred| match times.within(of_hundred) {
        Some(within) => format!("within {}", long(within)),
        None => format!("after more than {}", long(Duration::from_secs(60))),
    };
    Some(format!(
        "half {}, 99 of 100 {} ({} answered)",
        within(50),
        within(99),
        grouped(answers)
    ))
}

/// A part in hundred; of what is there never nothing.
fn share(part: u64, all: u64) -> String {
    let tenths = u128::from(part) * 1_000 / u128::from(all.max(1));
    match tenths {
        0 if part > 0 => "< 0.1 %".to_owned(),
        tenths => format!("{}.{} %", tenths / 10, tenths % 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_what_is_there_is_never_nothing() {
        assert_eq!(share(1, 100_000), "< 0.1 %");
        assert_eq!(share(1, 3), "33.3 %");
        assert_eq!(share(0, 0), "0.0 %");
    }

    #[test]
    fn ends_lead_to_what_ended_so() {
        let mut outcomes = Outcomes::default();
        outcomes.count("503", 9, 3);
        outcomes.count("timeout", 28, 1);
        outcomes.count("999", 9, 1);
        let ends = Ends::of(&outcomes, |answer| format!("/deliveries?answer={answer}"));
        let rows: Vec<_> = ends
            .rows
            .iter()
            .map(|end| (&*end.how, end.href.as_deref(), &*end.attempts, &*end.share))
            .collect();
        assert_eq!(
            rows,
            [
                (
                    "503 Service Unavailable",
                    Some("/deliveries?answer=5xx"),
                    "3",
                    "60.0 %"
                ),
                ("999", None, "1", "20.0 %"),
                (
                    "timed out",
                    Some("/deliveries?answer=timeout"),
                    "1",
                    "20.0 %"
                ),
            ]
        );
        assert_eq!(
            ends.answers.as_deref(),
            Some("half within 50 ms, 99 of 100 within 50 ms (4 answered)")
        );
    }
}
