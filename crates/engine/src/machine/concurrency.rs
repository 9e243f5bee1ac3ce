//! How many requests at once an endpoint gets: learned from how long it takes.
//!
//! More requests at once are worth it only while they bring more answers. When they only wait behind
//! each other, answers take longer in proportion: of `limit` requests, `limit * (1 - shortest / now)` wait
//! in a queue (Vegas; Brakmo and Peterson 1995). The limit grows while that queue is nearly empty and
//! shrinks when it is long, so a receiver that answers in a millisecond sees a handful of connections,
//! and one that is far away gets as many as its distance needs.

use std::collections::VecDeque;
use std::time::Duration;

use postrider_core::Timestamp;

/// Requests at once that a lane begins with, before it has learned anything; waiting alone never
/// brings it lower.
const START: f64 = 16.0;
/// The same, as a number.
const BEGUN: usize = 16;
/// Waiting in the receiver's queue: with fewer there is room for more.
const QUEUE_SHORT: f64 = 2.0;
/// With more there are too many.
const QUEUE_LONG: f64 = 5.0;
/// A receiver that can answer within this gets no more than a lane begins with: that many are 8,000 answers a
/// second, and what takes longer then is waiting, in the receiver or in this server.
const FAST: f64 = 0.002;
/// How much one answer counts in the average.
const SMOOTHING: f64 = 0.1;
/// Where the schedule is exact, what has no answer for so long keeps no other back: a receiver that hangs would else be
/// sent a handful in each time-out, and nothing would come at its time.
const HANGS: Duration = Duration::from_millis(100);
/// The shortest time is forgotten after this: receivers move.
const FORGET_AFTER: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Concurrency {
    limit: f64,
    ceiling: f64,
    /// The same, as it was given.
    most: usize,
    /// Doubling until something speaks against it.
    slow_start: bool,
    last_decrease: Timestamp,
    /// Seconds, both.
    shortest: Option<f64>,
    average: f64,
    shortest_since: Timestamp,
}

impl Concurrency {
    /// At most `ceiling` at once.
    pub(super) fn new(ceiling: usize) -> Self {
        let most = ceiling.max(1);
        let ceiling = most as f64;
        Self {
            limit: START.min(ceiling),
            ceiling,
            most,
            slow_start: true,
            last_decrease: Timestamp::default(),
            shortest: None,
            average: 0.0,
            shortest_since: Timestamp::default(),
        }
    }

    /// Requests that may be under way where that is not learned.
    pub(super) fn ceiling(&self) -> usize {
        self.most
    }

    /// Requests that may be under way.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a limit is at least 1 and at most the ceiling"
    )]
    pub(super) fn allowed(&self) -> usize {
        self.limit as usize
    }

    /// An answer came. `busy`: as many requests were under way as are allowed, so it says something
    /// of the limit.
    pub(super) fn answered(&mut self, now: Timestamp, took: Option<Duration>, busy: bool) {
        // Learned from every answer: the shortest time is seen when few requests are under way.
        let queue = self.queue(now, took);
        if !busy {
            return;
        }
        let fast = self.shortest.is_some_and(|shortest| shortest < FAST);
        if queue <= QUEUE_SHORT && !(fast && self.limit >= START) {
            self.limit += if self.slow_start {
                1.0
            } else {
                // One more when each of those under way was answered once.
                1.0 / self.limit
            };
        } else {
            self.slow_start = false;
            if (fast || queue >= QUEUE_LONG) && self.limit > START {
                self.limit -= 1.0 / self.limit;
            }
        }
        self.limit = self.limit.min(self.ceiling);
    }

    /// Requests that wait behind others at the receiver.
    fn queue(&mut self, now: Timestamp, took: Option<Duration>) -> f64 {
        // Never zero, for the average is divided by.
        let Some(took) = took.map(|took| took.as_secs_f64().max(1e-6)) else {
            return 0.0;
        };
        if self.shortest.is_some() && now.since(self.shortest_since) >= FORGET_AFTER {
            // With half of the requests the queue is short, and the shortest time can be seen.
            self.shortest = None;
            // Not above where it is: strain may have brought it below where lanes begin.
            self.limit = (self.limit / 2.0).max(START.min(self.limit));
        }
        let shortest = match self.shortest {
            None => {
                self.shortest_since = now;
                // The average begins anew too, or a receiver that became faster would seem to have a queue.
                self.average = took;
                took
            }
            Some(shortest) => shortest.min(took),
        };
        self.shortest = Some(shortest);
        self.average += (took - self.average) * SMOOTHING;
        self.limit * (1.0 - shortest / self.average).max(0.0)
    }

    /// It cannot keep up: half as many, once for all requests that were under way together.
    pub(super) fn strained(&mut self, now: Timestamp, started_at: Timestamp) {
        if started_at > self.last_decrease {
            self.limit = (self.limit / 2.0).max(1.0);
            self.slow_start = false;
            self.last_decrease = now;
        }
    }
}

/// When the last requests began.
#[derive(Debug, Default)]
pub(super) struct Begun(VecDeque<Timestamp>);

impl Begun {
    /// One begins.
    pub(super) fn started(&mut self, now: Timestamp) {
        self.0.push_back(now);
        // Those before them are not asked about.
        if self.0.len() > BEGUN {
            self.0.pop_front();
        }
    }

    /// When one more may begin than is learned: as many as a lane begins with in the time that an answer has.
    pub(super) fn next_at(&self, now: Timestamp) -> Timestamp {
        match self.0.front() {
            Some(oldest) if self.0.len() >= BEGUN => oldest.plus(HANGS).max(now),
            _ => now,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The limit after many answers of a receiver that works on `workers` at once, each for `service`,
    /// at the end of a way of `distance`.
    fn learned(service: Duration, workers: f64, distance: Duration) -> usize {
        let mut learned = Concurrency::new(128);
        let mut now = Timestamp::from_secs(1_000);
        // The first request is alone.
        learned.answered(now, Some(service + distance), false);
        for _ in 0..20_000 {
            // Those that are on their way do not wait for a worker.
            let waits = service.mul_f64(learned.allowed() as f64 / workers);
            let took = waits.max(service + distance);
            now = now.plus(took / u32::try_from(learned.allowed()).unwrap_or(1));
            learned.answered(now, Some(took), true);
        }
        learned.allowed()
    }

    #[test]
    fn a_receiver_that_answers_in_a_millisecond_sees_a_handful() {
        let ms = Duration::from_millis;
        assert!(learned(ms(1), 1.0, Duration::ZERO) <= 16);
        assert!(learned(ms(1), 4.0, Duration::ZERO) <= 16);
        assert!(learned(ms(1), 8.0, Duration::from_micros(100)) <= 16);
    }

    #[test]
    fn a_far_receiver_gets_as_many_as_its_distance_needs() {
        let ms = Duration::from_millis;
        assert_eq!(learned(ms(1), 1_000.0, ms(100)), 128);
        let one_worker = learned(ms(1), 1.0, ms(20));
        assert!((16..64).contains(&one_worker), "{one_worker}");
    }

    #[test]
    fn a_fast_receiver_beside_a_busy_server_gets_no_more() {
        // All answers take longer, since this server is busy; the queue looks short.
        let mut learned = Concurrency::new(128);
        let now = Timestamp::from_secs(1_000);
        learned.answered(now, Some(Duration::from_micros(1_900)), false);
        for _ in 0..1_000 {
            learned.answered(now, Some(Duration::from_micros(2_000)), true);
        }
        assert_eq!(learned.allowed(), 16);
    }

    #[test]
    fn strain_halves_once_for_what_was_under_way_together() {
        let at = Timestamp::from_secs;
        let mut learned = Concurrency::new(64);
        learned.strained(at(10), at(9));
        learned.strained(at(10), at(9));
        assert_eq!(learned.allowed(), 8);
    }
}
