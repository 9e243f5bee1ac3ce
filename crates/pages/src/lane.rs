//! How an endpoint does just now: what waits for it, and how much it gets at once.

use std::time::Duration;

use postrider_core::endpoint::Ordering;
use postrider_service::{LaneStanding, LaneSurvey};

use crate::words::{grouped, long};

/// Its lane in one sentence; none while it has nothing to do.
pub(crate) fn sentence(lane: LaneSurvey, ordering: Ordering) -> Option<String> {
    let LaneSurvey {
        standing,
        in_flight,
        at_once,
        held,
        has_stored,
        oldest_due,
        next_in,
    } = lane;
    if standing == LaneStanding::Idle {
        return None;
    }
    let at_once = match ordering {
        Ordering::Endpoint => "one after the other".to_owned(),
        Ordering::None | Ordering::Key => format!("of {at_once} at once"),
    };
    let more = if has_stored { " or more" } else { "" };
    let waits = match held as u64 {
        0 if has_stored => "some wait in the store".to_owned(),
        0 => "nothing else waits".to_owned(),
        1 => format!("1{more} waits"),
        some => format!("{}{more} wait", grouped(some)),
    };
    let oldest = match oldest_due {
        Duration::ZERO => String::new(),
        due => format!(", the oldest due for {}", long(due)),
    };
    let why = match standing {
        LaneStanding::Broken => "the breaker is open after failures in a row",
        LaneStanding::Closed => "nothing is sent: it is disabled, paused or deleted",
        LaneStanding::Busy => "it has as many at once as it takes",
        LaneStanding::Share => "its customer has its share of this server under way",
        LaneStanding::Ready => "it waits for its turn",
        LaneStanding::Waiting | LaneStanding::Idle => "nothing may be sent yet",
    };
    let next = next_in.map_or_else(String::new, |next| format!("; the next in {}", long(next)));
    Some(format!(
        "{in_flight} under way, {at_once}; {waits}{oldest}: {why}{next}."
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_is_told_in_a_sentence() {
        let lane = LaneSurvey {
            standing: LaneStanding::Idle,
            in_flight: 0,
            at_once: 16,
            held: 0,
            has_stored: false,
            oldest_due: Duration::ZERO,
            next_in: None,
        };
        assert_eq!(sentence(lane, Ordering::None), None);
        let broken = LaneSurvey {
            standing: LaneStanding::Broken,
            held: 1_024,
            has_stored: true,
            oldest_due: Duration::from_secs(90),
            next_in: Some(Duration::from_secs(4)),
            ..lane
        };
        assert_eq!(
            sentence(broken, Ordering::Key).unwrap(),
            "0 under way, of 16 at once; 1,024 or more wait, the oldest due for 1 min 30 s: the breaker is open after failures in a row; the next in 4 s."
        );
    }
}
