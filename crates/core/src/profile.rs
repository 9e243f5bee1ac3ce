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
mod schedule;
mod sign;
mod template;
mod verify;

use std::time::Duration;

pub use builtin::{BUILT_IN, built_in};
pub use flat_kv::FlatKv;
pub use format::{IdFormat, KeyBytes, SecretFormat, SecretPolicy, SecretScope, Visibility};
pub use reader::Mistake;
pub use render::{RenderContext, Rendered};
pub use schedule::{Anchor, RetrySchedule, Steps};
pub use sign::{
    Algorithm, Encoding, SignatureSpec, SignedInput, SigningKey, ed25519_public, ed25519_secret,
    signing_key,
};
pub use template::{Hole, RenderScope, Template};
pub use verify::VerifyError;

use crate::attempt::Outcome;
use crate::endpoint_url::Scheme;
use crate::filter::WILDCARD;
use crate::health::DisableRule;

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
    pub json: JsonStyle,
    pub content_type: String,
    pub headers: Vec<(String, Template)>,
    pub signatures: Vec<SignatureSpec>,
    pub http: HttpPolicy,
    pub classify: Classify,
    pub retry: RetrySchedule,
    pub disable: DisableRule,
    pub resend: ResendPolicy,
    pub custom_headers: CustomHeaders,
    pub events: Catalogue,
    pub engine: EnginePolicy,
    pub endpoints_max: Option<u32>,
    pub modes: ModeLabels,
    pub test: TestSpec,
    /// The management API this profile's vendor documents, if there is one.
    pub api: Option<ApiSpec>,
}

/// How the JSON of a body is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JsonStyle {
    /// The template's bytes, with the published bytes in them.
    Verbatim,
    /// Rewritten so that `JSON.stringify(JSON.parse(body))` gives the same bytes: for receivers that
    /// verify what they parsed (`vendors.md` F-16).
    EsCompact,
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
    /// Bytes of a response body that are read at all; a longer body is cut, not an error.
    pub read_max: usize,
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
                .unwrap_or(self.unreachable),
            Outcome::Unreachable { .. } => self.unreachable,
        }
    }
}

#[derive(Debug, Clone)]
pub struct ResendPolicy {
    /// A resend runs through the schedule again instead of being one attempt.
    pub series: bool,
}

/// Headers that the owner of an endpoint may add.
#[derive(Debug, Clone)]
pub struct CustomHeaders {
    pub allow: bool,
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
    /// The scope at which the body must be rendered again: the narrowest that its holes need.
    pub fn body_scope(&self) -> RenderScope {
        self.body.scope(self.ids.message_scope)
    }
}
