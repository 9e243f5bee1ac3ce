//! An endpoint: where a tenant wants its events, signed with what, and how it has been doing.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::distribution::Distribution;
use crate::filter::{ContentFilter, Subscription};
use crate::health::{DisableReason, Disabled, Health};
use crate::notice::NoticeClass;
use crate::seal::{SealError, SealNonce, Sealer, is_sealed};
use crate::tenant::{Metadata, Mode};
use crate::{Id, Secret, Timestamp, id};

/// What an endpoint's secrets are sealed for.
pub const SECRET_CONTEXT: &str = "endpoint secret";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub id: Id<id::Endpoint>,
    pub application: Id<id::Application>,
    pub tenant: Id<id::Tenant>,
    pub kind: EndpointKind,
    /// The product's own id for it; unique among the tenant's endpoints of its mode.
    pub external_id: Option<String>,
    pub metadata: Metadata,
    pub url: String,
    pub description: Option<String>,
    pub subscription: Subscription,
    /// Of the events it subscribed to, only those that meet it.
    pub filter: Option<ContentFilter>,
    pub mode: Mode,
    pub headers: Vec<CustomHeader>,
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
        let headers: usize = headers.map(CustomHeader::bytes).sum();
        let patterns = self.subscription.patterns().iter();
        // One of a letter is a text by itself too.
        let patterns: usize = patterns
            .map(|pattern| size_of::<String>() + pattern.len())
            .sum();
        let description = self.description.as_ref().map_or(0, String::len);
        let metadata = self.metadata.iter();
        let metadata: usize = metadata.map(|(key, value)| key.len() + value.len()).sum();
        self.url.len() + headers + patterns + description + metadata + 1
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

/// A header that the endpoint's owner adds to every request. Its value may be a password of the receiver's,
/// so it is sealed, and shown to nobody.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(String, String)", into = "(String, String)")]
pub struct CustomHeader {
    pub name: String,
    /// Sealed; in the clear where an older version wrote it.
    value: Vec<u8>,
}

impl CustomHeader {
    /// What is shown in place of a value.
    pub const STARS: &str = "****";
    /// Before a sealed value in its stored form; an older version's value has nothing before it.
    const SEALED: &str = "sealed:";

    pub fn seal(
        name: String,
        value: &Secret,
        endpoint: Id<id::Endpoint>,
        sealer: &Sealer,
        nonce: SealNonce,
    ) -> Self {
        let value = sealer.seal(value, nonce, &Self::context(&name), endpoint.as_u128());
        Self { name, value }
    }

    /// The value as it is sent.
    ///
    /// # Errors
    /// When it does not open under the keys of `sealer`.
    pub fn open(&self, endpoint: Id<id::Endpoint>, sealer: &Sealer) -> Result<Secret, SealError> {
        if !is_sealed(&self.value) {
            return Ok(Secret::new(String::from_utf8_lossy(&self.value)));
        }
        sealer.open(&self.value, &Self::context(&self.name), endpoint.as_u128())
    }

    /// Its length, as it is stored.
    pub fn bytes(&self) -> usize {
        self.name.len() + self.value.len()
    }

    fn context(name: &str) -> String {
        format!("endpoint header {name}")
    }
}

impl fmt::Debug for CustomHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, Self::STARS)
    }
}

impl From<(String, String)> for CustomHeader {
    fn from((name, text): (String, String)) -> Self {
        let sealed = text.strip_prefix(Self::SEALED);
        let sealed = sealed.and_then(|text| STANDARD.decode(text).ok());
        // A value in the clear may begin with the same word.
        let sealed = sealed.filter(|bytes| is_sealed(bytes));
        let value = sealed.unwrap_or_else(|| text.into_bytes());
        Self { name, value }
    }
}

impl From<CustomHeader> for (String, String) {
    fn from(header: CustomHeader) -> Self {
        let text = if is_sealed(&header.value) {
            format!("{}{}", CustomHeader::SEALED, STANDARD.encode(&header.value))
        } else {
            String::from_utf8_lossy(&header.value).into_owned()
        };
        (header.name, text)
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
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
