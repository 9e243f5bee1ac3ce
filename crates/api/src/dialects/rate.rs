//! Request limits by key: so many in a window that begins with the first request.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use postrider_core::{Id, Timestamp, id};

/// Keys counted at once; beyond, windows that are over are forgotten.
const KEYS_MAX: usize = 100_000;

pub(crate) struct RateLimits<K = id::ApiKey> {
    windows: Mutex<HashMap<Id<K>, Window>>,
}

impl<K> Default for RateLimits<K> {
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
pub(crate) struct Standing {
    pub(crate) limit: u32,
    pub(crate) remaining: u32,
    pub(crate) resets_at: Timestamp,
    /// This request was one too many.
    pub(crate) exceeded: bool,
}

impl<K> RateLimits<K> {
    /// Counts one request of `key`.
    pub(crate) fn count(
        &self,
        key: Id<K>,
        limit: u32,
        window: Duration,
        now: Timestamp,
    ) -> Standing {
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        if windows.len() >= KEYS_MAX {
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
            remaining: limit - current.used,
            resets_at: current.ends_at,
            exceeded,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_holds_so_many_and_then_begins_anew() {
        let limits = RateLimits::<id::ApiKey>::default();
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
}
