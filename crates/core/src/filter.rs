//! Which events an endpoint asked for: event type names and the patterns that select them, and conditions on what an
//! event carries.

mod content;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use content::{Content, ContentFilter, InvalidFilter};

use crate::limits::{EVENT_TYPE_BYTES_MAX, SUBSCRIPTION_PATTERNS_MAX};

/// Selects every event type, those added later too.
pub const WILDCARD: &str = "*";

/// Whether `name` may be an event type: letters, digits, `_`, `-`, and dots between parts.
pub fn is_event_type(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= EVENT_TYPE_BYTES_MAX
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
        && !name.starts_with('.')
        && !name.ends_with('.')
        && !name.contains("..")
}

/// The event types an endpoint receives: exact names, `order.*`, or `*`. Kept as the user wrote it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
pub struct Subscription(Vec<String>);

/// Why a list of patterns is no subscription.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSubscription {
    #[error("must not be empty; use [\"*\"] for all events")]
    Empty,
    #[error("must have at most {SUBSCRIPTION_PATTERNS_MAX} entries")]
    TooMany,
    #[error("has {0:?}, which is not an event type")]
    NotAPattern(String),
}

impl Subscription {
    pub fn all() -> Self {
        Self(vec![WILDCARD.to_owned()])
    }

    /// # Errors
    /// When it is empty, too long, or an entry is neither a name, `prefix.*` nor `*`.
    pub fn new(patterns: Vec<String>) -> Result<Self, InvalidSubscription> {
        if patterns.is_empty() {
            return Err(InvalidSubscription::Empty);
        }
        if patterns.len() > SUBSCRIPTION_PATTERNS_MAX {
            return Err(InvalidSubscription::TooMany);
        }
        for pattern in &patterns {
            // The dot goes with the star: `order*` would take `orders.paid` too, and is refused.
            let name = pattern.strip_suffix(".*").unwrap_or(pattern);
            if pattern != WILDCARD && !is_event_type(name) {
                return Err(InvalidSubscription::NotAPattern(pattern.clone()));
            }
        }
        Ok(Self(patterns))
    }

    pub fn patterns(&self) -> &[String] {
        &self.0
    }

    pub fn matches(&self, event_type: &str) -> bool {
        self.0
            .iter()
            // Behind a dot or alone (`new`): so a prefix ends with its dot.
            .any(|pattern| match pattern.strip_suffix('*') {
                Some(prefix) => event_type.starts_with(prefix),
                None => pattern == event_type,
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_select_what_they_say() {
        let of = |patterns: &[&str]| {
            Subscription::new(patterns.iter().map(|p| (*p).to_owned()).collect())
        };
        assert!(of(&["*"]).unwrap().matches("order.completed"));
        assert!(of(&["order.*"]).unwrap().matches("order.completed"));
        assert!(!of(&["order.*"]).unwrap().matches("orders.completed"));
        assert!(!of(&["order.*"]).unwrap().matches("order"));
        assert!(of(&["a", "order.failed"]).unwrap().matches("order.failed"));
        assert!(!of(&["order.failed"]).unwrap().matches("order.failed2"));
        assert_eq!(of(&[]), Err(InvalidSubscription::Empty));
        for bad in ["", "a*", "*.a", "a..b", ".a", "a.", "a b", "ä", "a.*.b"] {
            assert!(
                matches!(of(&[bad]), Err(InvalidSubscription::NotAPattern(_))),
                "{bad}"
            );
        }
        assert_eq!(
            Subscription::new(vec!["a".to_owned(); 101]),
            Err(InvalidSubscription::TooMany)
        );
    }
}
