//! Applications, their tenants, and the keys that act for them.

use std::collections::BTreeMap;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::branding::Branding;
use crate::id;
use crate::notice::NotificationSettings;
use crate::{Id, Timestamp};

/// A product that sends webhooks: one profile, one catalogue of event types.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Application {
    pub id: Id<id::Application>,
    pub name: String,
    /// Name of the profile; its current version is looked up when something is written.
    pub profile: String,
    pub settings: ApplicationSettings,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// What an application's owner may choose; absent settings are the defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ApplicationSettings {
    /// What happens to an event whose data does not fit its type's schema.
    pub validate: Validation,
    /// The profile's optional headers that are sent; none sends those that are on by default.
    pub extra_headers: Option<Vec<String>>,
    /// What the profile's payloads call the two modes; none is as the profile has them.
    pub mode_names: Option<ModeNames>,
    /// Requests to receivers carry the trace of their event's publish.
    pub traceparent: bool,
    /// Gets this application's operational events as ordinary events, at its own endpoints.
    pub operations_tenant: Option<Id<id::Tenant>>,
    /// Days that events, deliveries and notifications are kept when they have ended; none is as long as the server
    /// keeps them.
    pub retention_days: Option<u32>,
    /// How the portal looks to the customers.
    pub branding: Branding,
    /// Origins whose pages may have the portal in a frame, for links that name none themselves: `https://shop.example`.
    pub frame_origins: Vec<String>,
}

/// Names of the two modes, as receivers know them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ModeNames {
    pub live: String,
    pub test: String,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Validation {
    Off,
    /// Accepted, with a warning in the answer.
    Warn,
    /// Refused.
    #[default]
    Enforce,
}

/// What the product notes about something of its own, for itself: nothing here acts on it.
pub type Metadata = BTreeMap<String, String>;

/// What tenants' secrets are sealed for.
pub const TENANT_SECRET_CONTEXT: &str = "tenant secret";

/// One customer of an application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    pub id: Id<id::Tenant>,
    pub application: Id<id::Application>,
    pub name: String,
    /// The application's own id for this customer; unique within the application.
    pub external_id: Option<String>,
    pub metadata: Metadata,
    /// One for each mode, so that whoever may only test cannot sign what is live.
    pub live_secret: TenantSecret,
    pub test_secret: TenantSecret,
    pub settings: TenantSettings,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// Signs for every endpoint that has no secret of its own: all of a profile whose secret is the
/// tenant's (`docs/systems.md`, F-13), and those of one-off `callbackUrl`s (A-40).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantSecret {
    pub sealed: Vec<u8>,
    /// When it was made.
    pub since: Timestamp,
}

impl Tenant {
    pub fn secret(&self, mode: Mode) -> &TenantSecret {
        match mode {
            Mode::Live => &self.live_secret,
            Mode::Test => &self.test_secret,
        }
    }

    pub fn secret_mut(&mut self, mode: Mode) -> &mut TenantSecret {
        match mode {
            Mode::Live => &mut self.live_secret,
            Mode::Test => &mut self.test_secret,
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TenantSettings {
    pub notifications: NotificationSettings,
    /// The egress region that its deliveries leave from; none is the server's default.
    pub region: Option<String>,
}

/// Test and live traffic are kept apart: an endpoint gets only events of its own mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    #[default]
    Live,
    Test,
}

impl Mode {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Test => "test",
        }
    }
}

/// An event type that an application declared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventType {
    pub application: Id<id::Application>,
    pub name: String,
    pub description: Option<String>,
    /// A JSON Schema that `data` must fit, as its owner wrote it.
    pub schema: Option<String>,
    /// Data of a test event, as JSON.
    pub example: Option<String>,
    /// What a vendor's API says of it that only that API knows: a JSON object.
    pub vendor: Option<String>,
    pub created_at: Timestamp,
}

impl EventType {
    /// Bytes of what is said of it, beside its name.
    pub fn text_bytes(&self) -> usize {
        let texts = [&self.description, &self.schema, &self.example, &self.vendor];
        texts.into_iter().flatten().map(String::len).sum()
    }
}

/// What a key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The operator: everything.
    Root,
    /// Publish, and manage the application's tenants and all they own.
    Application(Id<id::Application>),
    /// A tenant's own endpoints, events and deliveries.
    Tenant(Id<id::Application>, Id<id::Tenant>),
}

/// A key as stored: never the secret itself, only what verifies it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    pub id: Id<id::ApiKey>,
    pub name: String,
    pub scope: Scope,
    pub mode: Mode,
    /// SHA-256 of the secret; 32 random bytes need no slow hash.
    pub secret_hash: [u8; 32],
    /// The public part of a key whose requests are HMAC-signed (Vignetim's `X-API-Key`).
    pub public_id: Option<String>,
    /// Sealed; only for keys whose requests are HMAC-signed, because verifying needs the text.
    pub sealed_secret: Option<Vec<u8>>,
    /// Networks that callers must be in; none lets everybody.
    pub allowed_ips: Vec<IpNet>,
    /// It sees what is in its scope but secrets, and changes and sends nothing.
    pub read_only: bool,
    /// While set, the key opens nothing and its endpoint gets nothing.
    pub disabled_at: Option<Timestamp>,
    /// From then on it opens nothing; none is never.
    pub expires_at: Option<Timestamp>,
    pub created_at: Timestamp,
    /// Since when its text is the present one, if it had another.
    pub rotated_at: Option<Timestamp>,
    pub previous: Option<PreviousText>,
}

/// The text that a key had before, as long as it opens too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreviousText {
    pub secret_hash: [u8; 32],
    pub sealed_secret: Option<Vec<u8>>,
    /// Since when it was the key's.
    pub since: Timestamp,
    pub until: Timestamp,
}

impl ApiKey {
    /// SHA-256 of the texts that open it, and until when they do where that is known.
    pub fn opening(&self, now: Timestamp) -> impl Iterator<Item = (&[u8; 32], Option<Timestamp>)> {
        let previous = self.previous_at(now);
        let previous = previous.map(|text| (&text.secret_hash, Some(text.until)));
        std::iter::once((&self.secret_hash, None)).chain(previous)
    }

    /// What its requests may be signed with, sealed.
    pub fn signing(&self, now: Timestamp) -> impl Iterator<Item = &[u8]> {
        let previous = self.previous_at(now);
        let previous = previous.and_then(|text| text.sealed_secret.as_deref());
        self.sealed_secret.as_deref().into_iter().chain(previous)
    }

    /// Whether what somebody began with it then may go on: not with a text that opens nothing any more.
    pub fn lets_go_on(&self, begun_at: Timestamp, now: Timestamp) -> bool {
        // As long as the text before opens, what was begun with it goes on; of an older one nothing does.
        match (self.previous_at(now), self.rotated_at) {
            (Some(previous), _) => begun_at >= previous.since,
            (None, Some(rotated_at)) => begun_at >= rotated_at,
            (None, None) => true,
        }
    }

    fn previous_at(&self, now: Timestamp) -> Option<&PreviousText> {
        self.previous.as_ref().filter(|text| now < text.until)
    }

    /// Whether the whole server can be managed with it, now and later.
    pub fn manages_all(&self) -> bool {
        self.scope == Scope::Root
            && self.mode == Mode::Live
            && !self.read_only
            && self.disabled_at.is_none()
            // With its end nobody could manage the server any more.
            && self.expires_at.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_with_what_a_later_version_added_are_read_without_it() {
        let text = r#"{"region":"eu1","later":{"a":[1]},"notifications":{"later":true,
            "webhooks":{"email":true,"emails":["ada@example.com"],"later":null}}}"#;
        let read: TenantSettings = serde_json::from_str(text).unwrap();
        let mut expected = TenantSettings {
            region: Some("eu1".to_owned()),
            ..TenantSettings::default()
        };
        let webhooks = &mut expected.notifications.webhooks;
        webhooks.email = true;
        webhooks.emails.push("ada@example.com".to_owned());
        assert_eq!(read, expected);
        let text = r##"{"validate":"warn","later":"a","branding":{"accent":"#2457c5","later":1},
            "modeNames":{"live":"on","test":"off","later":[]}}"##;
        let read: ApplicationSettings = serde_json::from_str(text).unwrap();
        let expected = ApplicationSettings {
            validate: Validation::Warn,
            mode_names: Some(ModeNames {
                live: "on".to_owned(),
                test: "off".to_owned(),
            }),
            branding: Branding {
                accent: Some("#2457c5".to_owned()),
                ..Branding::default()
            },
            ..ApplicationSettings::default()
        };
        assert_eq!(read, expected);
    }

    #[test]
    fn settings_that_an_earlier_version_did_not_have_are_the_defaults() {
        let read: TenantSettings = serde_json::from_str("{}").unwrap();
        assert_eq!(read, TenantSettings::default());
        let read: ApplicationSettings = serde_json::from_str("{}").unwrap();
        assert_eq!(read, ApplicationSettings::default());
    }
}
