//! An endpoint: where a tenant wants its events, signed with what, and how it has been doing.

use serde::{Deserialize, Serialize};

use crate::distribution::Distribution;
use crate::filter::Subscription;
use crate::health::{DisableReason, Disabled, Health};
use crate::notice::NoticeClass;
use crate::tenant::Mode;
use crate::{Id, Timestamp, id};

/// What an endpoint's secrets are sealed for.
pub const SECRET_CONTEXT: &str = "endpoint secret";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub id: Id<id::Endpoint>,
    pub application: Id<id::Application>,
    pub tenant: Id<id::Tenant>,
    pub kind: EndpointKind,
    pub url: String,
    pub description: Option<String>,
    pub subscription: Subscription,
    pub mode: Mode,
    pub headers: Vec<(String, String)>,
    /// Newest first. Without one the tenant's secret signs.
    pub secrets: Vec<EndpointSecret>,
    /// Deliveries per second at most; none means no limit.
    pub rate_limit: Option<u32>,
    pub ordering: Ordering,
    /// Gets its payload as a form, where the profile has one.
    pub form: bool,
    pub health: Health,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

impl Endpoint {
    /// Its owner has paused it and will go on: what waits is not given up.
    pub fn is_held(&self) -> bool {
        let by_hand = |disabled: Disabled| disabled.reason == DisableReason::Manual;
        matches!(self.kind, EndpointKind::Distribution(_))
            && self.health.disabled.is_some_and(by_hand)
    }

    /// Bytes of what its owner may make long.
    pub fn text_bytes(&self) -> usize {
        let headers = self.headers.iter();
        let headers: usize = headers.map(|(name, value)| name.len() + value.len()).sum();
        let patterns: usize = self.subscription.patterns().iter().map(String::len).sum();
        let description = self.description.as_ref().map_or(0, String::len);
        self.url.len() + headers + patterns + description + 1
    }
}

/// Whose an endpoint is, and so which events reach it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndpointKind {
    /// Gets the events it subscribed to.
    Registered,
    /// Exists for the events that name its URL; nobody sees it in a list.
    Callback,
    /// An API key's: gets the events addressed to that key (`docs/systems.md`, S-05, S-06).
    Key(Id<id::ApiKey>),
    /// A distribution's: gets the events addressed to it, or to all distributions.
    Distribution(Distribution),
}

impl EndpointKind {
    /// Which settings of notifications it comes under.
    pub fn class(&self) -> NoticeClass {
        match self {
            Self::Registered | Self::Callback | Self::Key(_) => NoticeClass::Webhooks,
            Self::Distribution(_) => NoticeClass::Distributions,
        }
    }
}

/// Sealed signing material, valid until `expires_at` (for ever when none).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointSecret {
    pub sealed: Vec<u8>,
    pub created_at: Timestamp,
    pub expires_at: Option<Timestamp>,
}

/// In which order an endpoint gets its deliveries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Ordering {
    /// Side by side, as fast as the endpoint takes them.
    #[default]
    None,
    /// One at a time in the order of acceptance; a failing one holds the rest until it is decided.
    Endpoint,
    /// As `Endpoint`, for each `orderingKey` by itself; events without a key are not ordered.
    Key,
}
