//! An endpoint: where a tenant wants its events, signed with what, and how it has been doing.

use serde::{Deserialize, Serialize};

use crate::filter::Subscription;
use crate::health::Health;
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
    /// Newest first. A profile without rotation has one.
    pub secrets: Vec<EndpointSecret>,
    /// Deliveries per second at most; none means no limit.
    pub rate_limit: Option<u32>,
    pub ordering: Ordering,
    pub health: Health,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// Registered endpoints are listed and receive what they subscribed to; a callback exists for the
/// events that name its URL, and nobody sees it in a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndpointKind {
    Registered,
    Callback,
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
