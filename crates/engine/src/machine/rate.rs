//! The rate limit of a lane: never more than so many requests in any second.
//!
//! A token bucket lets nearly twice its rate out in the second after a pause. This one remembers when
//! requests started, so the limit holds in every second, and after a pause a second's worth may still
//! go at once.

use std::collections::VecDeque;
use std::time::Duration;

use postrider_core::Timestamp;

/// A second, and what requests may lose of their distance on the way to the receiver.
const WINDOW: Duration = Duration::from_millis(1_010);
/// What is remembered at most: of a high limit, several starts together.
const CHUNKS_MAX: u32 = 50;

#[derive(Debug, Clone, Copy)]
struct Chunk {
    last: Timestamp,
    count: u32,
}

/// The starts of the last second.
#[derive(Debug, Default)]
pub(super) struct Rate {
    chunks: VecDeque<Chunk>,
}

impl Rate {
    /// When the next request may start.
    pub(super) fn opens_at(&self, limit: u32, now: Timestamp) -> Timestamp {
        let mut left = self.chunks.iter().map(|chunk| chunk.count).sum::<u32>();
        let mut at = now;
        for chunk in &self.chunks {
            let over = chunk.last.plus(WINDOW);
            if left < limit.max(1) {
                break;
            }
            left -= chunk.count;
            at = at.max(over);
        }
        at
    }

    /// When nothing that was sent counts any more; none when nothing does.
    pub(super) fn over_at(&self) -> Option<Timestamp> {
        Some(self.chunks.back()?.last.plus(WINDOW))
    }

    /// A request starts.
    pub(super) fn started(&mut self, limit: u32, now: Timestamp) {
        while self
            .chunks
            .front()
            .is_some_and(|chunk| chunk.last.plus(WINDOW) <= now)
        {
            self.chunks.pop_front();
        }
        let together = limit.div_ceil(CHUNKS_MAX);
        match self.chunks.back_mut() {
            Some(chunk) if chunk.count < together => {
                chunk.count += 1;
                // All of a chunk count as the last of them: rather a little late than one too many.
                chunk.last = now;
            }
            _ => self.chunks.push_back(Chunk {
                last: now,
                count: 1,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Starts as many as it may, whenever it may, with pauses between.
    fn starts(limit: u32) -> Vec<Timestamp> {
        let mut rate = Rate::default();
        let mut now = Timestamp::from_secs(1_000);
        let mut starts = Vec::new();
        for turn in 0..limit * 5 {
            if turn % (limit * 3 / 2 + 1) == 0 {
                now = now.plus(Duration::from_millis(u64::from(turn) * 37 % 1_500));
            }
            now = rate.opens_at(limit, now);
            rate.started(limit, now);
            starts.push(now);
        }
        starts
    }

    #[test]
    fn no_second_has_more_than_the_limit_not_even_the_one_after_a_pause() {
        for limit in [1, 2, 40, 77, 1_000, 10_000] {
            let starts = starts(limit);
            for window in starts.windows(limit as usize + 1) {
                let took = window[limit as usize].since(window[0]);
                assert!(took >= Duration::from_secs(1), "{limit}: {took:?}");
            }
        }
    }

    #[test]
    fn a_seconds_worth_may_go_at_once_and_the_limit_is_used() {
        let starts = starts(40);
        assert_eq!(starts[39], starts[0]);
        let all = starts[starts.len() - 1].since(starts[0]);
        assert!(all < Duration::from_secs(9), "{all:?}");
    }
}
