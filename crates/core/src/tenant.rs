//! Applications, their tenants, and the keys that act for them.

use serde::{Deserialize, Serialize};

use crate::id;
use crate::{Id, Timestamp};

/// A product that sends webhooks: one profile, one catalogue of event types.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Application {
    pub id: Id<id::Application>,
    pub name: String,
    /// Name of the profile; its current version is looked up when something is written.
    pub profile: String,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

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
    /// Sealed. Signs deliveries to a one-off `callbackUrl` (`vendors.md` A-40).
    pub sealed_secret: Vec<u8>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// Test and live traffic are kept apart: an endpoint gets only events of its own mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
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
    pub created_at: Timestamp,
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
    pub created_at: Timestamp,
}
