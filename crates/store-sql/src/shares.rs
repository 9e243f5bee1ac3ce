//! Of the room that is left for what is stored, a share for each account: nobody fills the disk for the others.
//!
//! What counts is what an account has stored of late, not all that it has: that would have to be known of every row
//! that goes, and a disk that fills over months is the operator's to see. An account may have stored as much as is
//! free, so one that stores all it can has half; but one that nobody else's events come beside may have all.

use std::collections::HashMap;
use std::mem;
use std::ops::AddAssign;
use std::time::Duration;

use postrider_core::attempt::Attempt;
use postrider_core::event::Event;
use tokio::time::Instant;

/// What was stored counts for so long at least, and for twice as long at most.
const COUNTED: Duration = Duration::from_secs(12 * 3_600);
/// How long the room that was found is taken to be there.
const ROOM_KNOWN: Duration = Duration::from_millis(100);
/// Accounts that are counted, of each half; of more, those that stored little are forgotten.
const ACCOUNTS_MAX: usize = 100_000;
/// What an event takes beside its payload, about, with what finds it.
const EVENT_BYTES: usize = 400;
/// The same of a delivery, and of an attempt.
const DELIVERY_BYTES: usize = 300;
const ATTEMPT_BYTES: usize = 200;

/// What accounts have stored of late, and what room there is.
#[derive(Debug, Default)]
pub(crate) struct Shares {
    /// Of this half and of the one before, which is forgotten with the next.
    halves: [Half; 2],
    began: Option<Instant>,
    /// When it was found; none when nobody tells.
    found: Option<(Instant, Option<Found>)>,
    /// What a transaction has written that is not committed yet.
    noted: Vec<(u128, Stored)>,
}

/// Bytes that can be stored beside what is there, and that all that is there takes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Found {
    pub(crate) room: u64,
    pub(crate) used: u64,
}

/// Bytes that were stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Stored {
    /// Of events, with their deliveries and attempts.
    pub(crate) events: u64,
    /// Of all else: endpoints, keys, tenants and the like.
    pub(crate) changes: u64,
}

#[derive(Debug, Default)]
struct Half {
    /// What all that is stored took when it began, as far as that is known.
    used: Option<u64>,
    all: Stored,
    accounts: HashMap<u128, Stored>,
}

impl Stored {
    fn sum(self) -> u64 {
        self.events + self.changes
    }
}

impl AddAssign for Stored {
    fn add_assign(&mut self, more: Self) {
        self.events += more.events;
        self.changes += more.changes;
    }
}

impl Half {
    fn of(&self, account: u128) -> Stored {
        self.accounts.get(&account).copied().unwrap_or_default()
    }

    fn add(&mut self, account: u128, stored: Stored) {
        if self.accounts.len() >= ACCOUNTS_MAX && !self.accounts.contains_key(&account) {
            let average = self.all.sum() / ACCOUNTS_MAX as u64;
            self.accounts.retain(|_, stored| stored.sum() > average);
            self.all = total(self.accounts.values().copied());
        }
        self.all += stored;
        *self.accounts.entry(account).or_default() += stored;
    }
}

fn total(stored: impl Iterator<Item = Stored>) -> Stored {
    let mut total = Stored::default();
    stored.for_each(|one| total += one);
    total
}

impl Shares {
    /// Finds out what room there is, where that was a while ago.
    pub(crate) fn look(&mut self, now: Instant, find: impl FnOnce() -> Option<Found>) {
        if self.found.is_none_or(|(at, _)| now - at >= ROOM_KNOWN) {
            self.found = Some((now, find()));
        }
        let lasted = self.began.map(|began| now - began);
        if lasted.is_none_or(|lasted| lasted >= COUNTED) {
            self.began = Some(now);
            self.halves.swap(0, 1);
            let found = self.found.and_then(|(_, found)| found);
            self.halves[0] = Half {
                used: found.map(|found| found.used),
                ..Half::default()
            };
            // Nothing was written meanwhile.
            if lasted.is_none_or(|lasted| lasted >= 2 * COUNTED) {
                self.halves[1] = Half::default();
            }
        }
    }

    /// Whether the account may store so many bytes more.
    pub(crate) fn may(&self, account: u128, more: usize) -> bool {
        let Some((_, Some(Found { room, used }))) = self.found else {
            return true;
        };
        let all = total(self.halves.iter().map(|half| half.all));
        let more = more as u64;
        // Then nobody has more than there is room for.
        if all.sum() + more <= room {
            return true;
        }
        let own = total(self.halves.iter().map(|half| half.of(account)));
        // What retention and deletions freed meanwhile: where as much goes as comes, nobody fills anything.
        let before = self.halves[1].used.or(self.halves[0].used).unwrap_or(used);
        let freed = all.sum().saturating_sub(used.saturating_sub(before));
        own.sum() + more <= room + freed || own.events == all.events
    }

    /// Notes what a transaction writes.
    pub(crate) fn note(&mut self, account: u128, stored: Stored) {
        self.noted.push((account, stored));
    }

    /// How many notes there are.
    pub(crate) fn so_far(&self) -> usize {
        self.noted.len()
    }

    /// What was noted behind so many notes is undone.
    pub(crate) fn undo(&mut self, so_far: usize) {
        self.noted.truncate(so_far);
    }

    /// It is.
    pub(crate) fn settle(&mut self) {
        let mut noted = mem::take(&mut self.noted);
        for (account, stored) in noted.drain(..) {
            self.halves[0].add(account, stored);
        }
        self.noted = noted;
    }
}

/// Bytes that an event takes with so many deliveries, about.
pub(crate) fn event_bytes(event: &Event, deliveries: usize) -> usize {
    EVENT_BYTES + event.payload_bytes() + deliveries * DELIVERY_BYTES
}

/// What is stored of an event so far.
pub(crate) fn of_event(bytes: usize) -> Stored {
    Stored {
        events: bytes as u64,
        changes: 0,
    }
}

/// Bytes that an attempt takes, about.
pub(crate) fn attempt_bytes(attempt: &Attempt, has_answer: bool) -> usize {
    let lines = |headers: &[(String, String)]| -> usize {
        let lines = headers.iter();
        lines.map(|(name, value)| name.len() + value.len()).sum()
    };
    let answer = attempt.response.as_ref().filter(|_| has_answer);
    let answer = answer.map_or(0, |answer| answer.body.len() + lines(&answer.headers));
    ATTEMPT_BYTES + attempt.url.len() + lines(&attempt.request_headers) + answer
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(shares: &mut Shares, account: u128, bytes: usize) {
        shares.note(account, of_event(bytes));
        shares.settle();
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_stores_all_it_can_has_half_and_a_day_later_goes_on() {
        let mut shares = Shares::default();
        let look = |shares: &mut Shares, room: u64, used: u64| {
            shares.look(Instant::now(), || Some(Found { room, used }));
        };
        look(&mut shares, 1_000, 0);
        store(&mut shares, 2, 1);
        let mut stored = 1;
        for _ in 0..1_000 {
            tokio::time::advance(ROOM_KNOWN).await;
            look(&mut shares, 1_000 - stored, stored);
            if shares.may(1, 10) {
                store(&mut shares, 1, 10);
                stored += 10;
            }
        }
        // As much goes as came: there is as much room as before, and nobody fills it.
        let mut steady = Shares::default();
        look(&mut steady, 100, 9_900);
        store(&mut steady, 2, 1);
        for _ in 0..100 {
            tokio::time::advance(ROOM_KNOWN).await;
            look(&mut steady, 100, 9_900);
            assert!(steady.may(1, 10));
            store(&mut steady, 1, 10);
        }
        assert_eq!(stored, 1 + 500, "half of a thousand, in pieces of ten");
        assert!(shares.may(2, 100), "another has what is left");
        for _ in 0..2 {
            tokio::time::advance(COUNTED).await;
            look(&mut shares, 1_000 - stored, stored);
        }
        assert!(shares.may(1, 10), "what it stored then was long ago");
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_alone_may_have_all_and_what_is_undone_does_not_count() {
        let mut shares = Shares::default();
        let look = async |shares: &mut Shares, used: u64| {
            tokio::time::advance(ROOM_KNOWN).await;
            shares.look(Instant::now(), || Some(Found { room: 100, used }));
        };
        look(&mut shares, 0).await;
        store(&mut shares, 1, 90);
        look(&mut shares, 90).await;
        assert!(shares.may(1, 1_000), "the disk itself says when it is full");
        shares.note(2, of_event(500));
        shares.undo(0);
        shares.settle();
        assert!(shares.may(1, 1_000));
        let changes = Stored {
            events: 0,
            changes: 1,
        };
        shares.note(3, changes);
        shares.settle();
        look(&mut shares, 91).await;
        assert!(shares.may(1, 1_000), "nobody else's events come");
        assert!(!shares.may(3, 100), "but who changes leaves room for them");
        store(&mut shares, 2, 1);
        look(&mut shares, 92).await;
        assert!(!shares.may(1, 11));
        assert!(shares.may(1, 10));
    }

    #[test]
    fn of_more_accounts_than_are_counted_the_greedy_are_remembered() {
        let mut half = Half::default();
        half.add(1, of_event(1_000_000));
        for account in 2..ACCOUNTS_MAX as u128 * 2 {
            half.add(account, of_event(10));
        }
        assert!(half.accounts.len() <= ACCOUNTS_MAX);
        assert_eq!(half.of(1), of_event(1_000_000));
    }
}
