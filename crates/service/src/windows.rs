//! So many in a window that begins with the first.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use postrider_core::{Id, Timestamp, id};

/// Keys counted at once; beyond, windows that are over are forgotten.
const WINDOWS_MAX: usize = 100_000;

/// Counts of what each key, or tenant, has done in its present window.
pub struct Windows<K = id::ApiKey> {
    windows: Mutex<HashMap<Id<K>, Window>>,
}

impl<K> std::fmt::Debug for Windows<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Windows")
    }
}

impl<K> Default for Windows<K> {
    fn default() -> Self {
        Self {
            windows: Mutex::default(),
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Window {
    ends_at: Timestamp,
    used: u32,
}

/// Where a key stands after a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    pub limit: u32,
    pub remaining: u32,
    pub resets_at: Timestamp,
    /// This request was one too many.
    pub exceeded: bool,
}

impl<K> Windows<K> {
    /// Counts one request of `key`. `now` is a steady time, and so is when the window ends.
    pub fn count(&self, key: Id<K>, limit: u32, window: Duration, now: Timestamp) -> Standing {
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        // Not with each request: it goes through all of them.
        if windows.len() >= WINDOWS_MAX {
            windows.retain(|_, window| window.ends_at > now);
        }
        let fresh = Window {
            ends_at: now.plus(window),
            used: 0,
        };
        let current = windows.entry(key).or_insert(fresh);
        if current.ends_at <= now {
            *current = fresh;
        }
        let exceeded = current.used >= limit;
        current.used = current.used.saturating_add(u32::from(!exceeded));
        Standing {
            limit,
            // The limit may have been lowered since the window began.
            remaining: limit.saturating_sub(current.used),
            resets_at: current.ends_at,
            exceeded,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_that_is_lowered_inside_a_window_leaves_nothing() {
        let limits = Windows::<id::ApiKey>::default();
        let (key, minute) = (Id::from_u128(1), Duration::from_secs(60));
        let now = Timestamp::from_secs(0);
        for _ in 0..5 {
            limits.count(key, 9, minute, now);
        }
        let standing = limits.count(key, 3, minute, now);
        assert!(standing.exceeded);
        assert_eq!(standing.remaining, 0);
    }

    #[test]
    fn a_window_holds_so_many_and_then_begins_anew() {
        let limits = Windows::<id::ApiKey>::default();
        let key = Id::from_u128(1);
        let minute = Duration::from_secs(60);
        let at = Timestamp::from_secs;
        for used in 1..=3 {
            let standing = limits.count(key, 3, minute, at(10));
            assert_eq!((standing.remaining, standing.exceeded), (3 - used, false));
        }
        let refused = limits.count(key, 3, minute, at(69));
        assert_eq!(
            (refused.remaining, refused.exceeded, refused.resets_at),
            (0, true, at(70))
        );
        assert!(!limits.count(key, 3, minute, at(70)).exceeded);
        assert!(!limits.count(Id::from_u128(2), 3, minute, at(69)).exceeded);
    }

    #[test]
    fn windows_that_are_over_are_forgotten_when_there_are_many() {
        let limits = Windows::<id::ApiKey>::default();
        let minute = Duration::from_secs(60);
        for key in 0..WINDOWS_MAX {
            limits.count(
                Id::from_u128(key as u128),
                9,
                minute,
                Timestamp::from_secs(0),
            );
        }
        let held = || limits.windows.lock().unwrap().len();
        assert_eq!(held(), WINDOWS_MAX);
        let one_more = Id::from_u128(u128::MAX);
        limits.count(one_more, 9, minute, Timestamp::from_secs(60));
        assert_eq!(held(), 1);
    }
}
