//! Profiles: everything a receiver can see or rely on, compiled from a TOML file into a plan.
//!
//! [`Profile::parse`] reads a file and explains every mistake with its line. A parsed profile
//! renders bodies and headers, signs them, and verifies what it signed. Texts, schedules and limits
//! of the vendors live in those files and nowhere else.

mod builtin;
mod flat_kv;
mod format;
mod parse;
mod reader;
mod render;
mod saved;
mod schedule;
mod sign;
mod template;
mod verify;

use std::time::Duration;

pub use builtin::{BUILT_IN, built_in};
pub use flat_kv::{Arrays, FlatKv, FormTooLong, Sort};
pub use format::{IdFormat, KeyBytes, SecretFormat, SecretPolicy, SecretScope, Visibility};
pub use reader::Mistake;
pub use render::{LEFT_OUT, RenderContext, Rendered};
pub use saved::{InvalidSaved, NoSecret, SavedHeaders, saved_request};
pub use schedule::{Anchor, RetrySchedule, Steps};
pub use sign::{
    Algorithm, Encoding, InvalidSecret, SignatureSpec, SignedInput, SigningKey, ed25519_public,
    ed25519_secret, signing_key,
};
pub use template::{Hole, RenderScope, Template};
pub use verify::VerifyError;

use crate::attempt::Outcome;
use crate::delivery::{DeliveryState, FailReason};
use crate::endpoint::EndpointKind;
use crate::endpoint_url::Scheme;
use crate::filter::WILDCARD;
use crate::health::DisableRule;
use crate::id::{self, Id, IdGenerator};
use crate::limits::ENDPOINTS_MAX;
use crate::tenant::Mode;

/// A compiled profile.
#[derive(Debug, Clone)]
pub struct Profile {
    pub name: String,
    /// The text it was compiled from: stored, so that deliveries keep their version.
    pub source: String,
    /// SHA-256 of `source`, in hex: its version.
    pub digest: String,
    pub summary: String,
    pub ids: Ids,
    pub secret: SecretPolicy,
    pub body: Template,
    /// The field of a form that carries the body, for endpoints that ask for a form (GitHub).
    pub form_field: Option<String>,
    pub json: JsonStyle,
    pub content_type: String,
    pub headers: Vec<HeaderSpec>,
    pub signatures: Vec<SignatureSpec>,
    pub http: HttpPolicy,
    pub classify: Classify,
    pub retry: RetrySchedule,
    /// Another schedule for events of mode test.
    pub retry_test: Option<RetrySchedule>,
    pub disable: DisableRule,
    pub resend: ResendPolicy,
    pub custom_headers: CustomHeaders,
    pub events: Catalogue,
    /// Event types that the vendor describes, with their schemas and examples.
    pub event_types: Vec<DescribedEvent>,
    /// How distributions look, where the profile has them.
    pub distribution: Option<DistributionSpec>,
    /// How API keys of tenants look, where the profile says.
    pub api_keys: Option<KeyFormats>,
    pub engine: EnginePolicy,
    pub(crate) endpoints_max: Option<u32>,
    pub modes: ModeLabels,
    pub test: TestSpec,
    pub portal: PortalNames,
    /// The management API this profile's vendor documents, if there is one.
    pub api: Option<ApiSpec>,
}

/// How the JSON of a body is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JsonStyle {
    /// The template's bytes, with the published bytes in them.
    Verbatim,
    /// Rewritten so that `JSON.stringify(JSON.parse(body))` gives the same bytes: for receivers that
    /// verify what they parsed (`docs/systems.md`, F-16).
    EsCompact,
}

/// A header of the profile.
#[derive(Debug, Clone)]
pub struct HeaderSpec {
    pub name: String,
    pub value: Template,
    /// Beyond what the vendor documents: an application may turn it on and off. Holds the default.
    pub extra: Option<bool>,
}

/// An event type that the vendor describes.
#[derive(Debug, Clone)]
pub struct DescribedEvent {
    pub name: String,
    pub description: Option<String>,
    /// A JSON Schema for the data.
    pub schema: Option<String>,
    /// Data for a test event.
    pub example: Option<String>,
}

/// Distributions of a profile (`docs/systems.md`, F-01, F-08, F-09, F-11).
#[derive(Debug, Clone)]
pub struct DistributionSpec {
    pub id: IdFormat,
    pub body: Template,
    /// The event types that trigger distributions; none allows all.
    pub events: Option<Vec<String>>,
}

impl DistributionSpec {
    pub fn allows(&self, event_type: &str) -> bool {
        let mut closed = self.events.iter().flatten();
        self.events.is_none() || closed.any(|known| known == event_type)
    }
}

/// How the keys of tenants look (`docs/systems.md`, S-38).
#[derive(Debug, Clone)]
pub struct KeyFormats {
    /// Names the key: `pk_test_…`.
    pub public: SecretFormat,
    /// Opens: `sk_test_…`.
    pub secret: SecretFormat,
}

/// How ids look on the wire.
#[derive(Debug, Clone)]
pub struct Ids {
    pub endpoint: IdFormat,
    pub message: IdFormat,
    pub message_scope: MessageScope,
    /// None shows the tenant's own id.
    pub tenant: Option<IdFormat>,
}

/// What a message id names: one event for all endpoints, or one event for one endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageScope {
    Event,
    Delivery,
}

#[derive(Debug, Clone)]
pub struct HttpPolicy {
    pub schemes: Vec<Scheme>,
    /// From the start of an attempt (name resolution included) to the response's headers.
    pub total_timeout: Duration,
    pub connect_timeout: Duration,
    /// Whether a request may be sent once more, inside its attempt, when a kept connection closed under it: its receivers tell
    /// repetitions by an id, and nobody counts requests.
    pub repeat: bool,
    /// Bytes of a response body that are read at all; a longer body is cut, not an error.
    pub read_max: usize,
    /// Header names go out as `Title-Case` over HTTP/1.1, as their documentation writes them;
    /// otherwise in lower case. HTTP/2 has lower case only.
    pub title_case: bool,
}

/// What a status or a failure of the network means.
#[derive(Debug, Clone)]
pub struct Classify {
    statuses: Vec<Class>,
    unreachable: Class,
    /// Whether a `Retry-After` answer is obeyed.
    pub retry_after: bool,
    /// The longest `Retry-After` obeyed.
    pub retry_after_max: Duration,
    /// How long a throttled endpoint is left alone when it names no time.
    pub throttle_pause: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    Ok,
    Retry,
    Stop,
    Disable,
    Throttle,
}

impl Classify {
    pub fn class(&self, outcome: &Outcome) -> Class {
        match outcome {
            Outcome::Answered { status, .. } => self
                .statuses
                .get(usize::from(*status))
                .copied()
                // HTTP has no status beyond 599 (RFC 9110 15): that is as good as no answer.
                .unwrap_or(self.unreachable),
            Outcome::Unreachable { .. } => self.unreachable,
        }
    }
}

#[derive(Debug, Clone, Default)]
pub struct ResendPolicy {
    /// The ends from which a delivery may be sent again; none allows all.
    pub from: Option<Vec<ResendFrom>>,
    /// How old a delivery may be; none is any age.
    pub max_age: Option<Duration>,
    /// A resend runs through the schedule again instead of being one attempt.
    pub series: bool,
    /// A resend is sent although the endpoint is disabled, which it stays.
    pub while_disabled: bool,
}

/// An end of a delivery that a resend may follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResendFrom {
    Delivered,
    Cancelled,
    Skipped,
    Failed(FailReason),
}

impl ResendFrom {
    pub const ALL: [(&'static str, Self); 7] = [
        ("delivered", Self::Delivered),
        ("cancelled", Self::Cancelled),
        ("skipped", Self::Skipped),
        ("exhausted", Self::Failed(FailReason::Exhausted)),
        ("stopped", Self::Failed(FailReason::Stopped)),
        ("expired", Self::Failed(FailReason::Expired)),
        (
            "endpoint_disabled",
            Self::Failed(FailReason::EndpointDisabled),
        ),
    ];

    fn is(self, state: DeliveryState) -> bool {
        match self {
            Self::Delivered => state == DeliveryState::Delivered,
            Self::Cancelled => state == DeliveryState::Cancelled,
            Self::Skipped => state == DeliveryState::Skipped,
            Self::Failed(reason) => state == DeliveryState::Failed(reason),
        }
    }
}

impl ResendPolicy {
    /// Whether a delivery that ended like this may be sent again.
    pub fn allows(&self, state: DeliveryState) -> bool {
        let mut from = self.from.iter().flatten();
        self.from.is_none() || from.any(|from| from.is(state))
    }
}

/// Headers that the owner of an endpoint may add.
#[derive(Debug, Clone)]
pub struct CustomHeaders {
    pub allow: bool,
    /// Names have lower-case letters, digits and dashes only (`docs/systems.md`, F-19).
    pub lower_case: bool,
    /// Names in lower case that may not be set; a trailing `*` covers a prefix.
    pub reserved: Vec<String>,
}

/// Which event types exist.
#[derive(Debug, Clone)]
pub struct Catalogue {
    /// The only event types, when the profile closes its catalogue.
    pub closed: Option<Vec<String>>,
    /// Whether `prefix.*` may be subscribed to.
    pub prefixes: bool,
}

impl Catalogue {
    /// Whether `pattern` may stand in a subscription.
    pub fn allows_pattern(&self, pattern: &str) -> bool {
        pattern == WILDCARD
            || (pattern.ends_with(".*") && self.prefixes)
            || (!pattern.contains('*') && self.allows_type(pattern))
    }

    pub fn allows_type(&self, event_type: &str) -> bool {
        self.closed
            .as_ref()
            .is_none_or(|closed| closed.iter().any(|known| known == event_type))
    }
}

/// What the engine may do beside the schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EnginePolicy {
    /// An endpoint that keeps failing is probed instead of tried; only where schedules are not exact.
    pub breaker: bool,
    /// A throttling answer pauses the whole lane, not only its delivery.
    pub throttle: bool,
}

#[derive(Debug, Clone)]
pub struct ModeLabels {
    pub live: String,
    pub test: String,
}

/// What the vendor's own pages are called, where a customer knows them by a name of theirs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortalNames {
    pub endpoints: String,
    pub deliveries: String,
    pub statistics: String,
    pub keys: String,
    pub distributions: String,
    pub notifications: String,
    pub settings: String,
}

/// The test call: what is sent, and what is answered about it.
#[derive(Debug, Clone)]
pub struct TestSpec {
    pub event: String,
    pub message: String,
    pub ok: String,
    pub fail: String,
    /// The status to report when no response came; none reports null.
    pub no_response_status: Option<u16>,
}

/// A vendor's management API: numbers and texts for the adapter that speaks it.
#[derive(Debug, Clone)]
pub struct ApiSpec {
    pub dialect: String,
    pub base: String,
    /// How far a signed request's timestamp may be off.
    pub skew: Duration,
    /// Requests per `rate_window` and key, by mode.
    pub rate_live: u32,
    pub rate_test: u32,
    pub rate_window: Duration,
    /// The vendor's sentences by name.
    pub texts: std::collections::BTreeMap<String, String>,
}

impl ApiSpec {
    /// The vendor's sentence called `name`; the name itself when the profile lacks it, which
    /// [`Profile::parse`] does not let happen for the dialects we speak.
    pub fn text<'a>(&'a self, name: &'a str) -> &'a str {
        self.texts.get(name).map_or(name, String::as_str)
    }
}

impl Profile {
    /// Endpoints of one mode that a tenant may have.
    pub fn endpoints_max(&self) -> u32 {
        self.endpoints_max.unwrap_or(ENDPOINTS_MAX)
    }

    /// An endpoint's id as receivers and the vendor's management API know it.
    pub fn endpoint_id(&self, id: Id<id::Endpoint>, kind: &EndpointKind) -> String {
        match (kind, &self.distribution) {
            (EndpointKind::Distribution(_), Some(spec)) => spec.id.render(id),
            _ => self.ids.endpoint.render(id),
        }
    }

    /// Reads an id that [`Profile::endpoint_id`] wrote.
    pub fn find_endpoint(&self, text: &str, ids: &IdGenerator) -> Option<Id<id::Endpoint>> {
        let of_distribution = || self.distribution.as_ref()?.id.find(text, ids);
        self.ids.endpoint.find(text, ids).or_else(of_distribution)
    }

    /// The schedule for deliveries of this mode.
    pub fn retry(&self, mode: Mode) -> &RetrySchedule {
        match (mode, &self.retry_test) {
            (Mode::Test, Some(retry)) => retry,
            (Mode::Test | Mode::Live, _) => &self.retry,
        }
    }

    /// The scope at which the body must be rendered again: the narrowest that its holes need.
    pub fn body_scope(&self) -> RenderScope {
        self.body.scope(self.ids.message_scope)
    }
}
