//! The audit log: who changed what, and what it was before. Secrets are never in it: of a secret it
//! tells only since when it is the newest one.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::attempt::Outcome;
use crate::endpoint::{CustomHeader, Endpoint, EndpointKind};
use crate::event::Event;
use crate::seal::{hex, sha256};
use crate::tenant::{ApiKey, Application, EventType, Scope, Tenant};
use crate::{Id, Timestamp, id};

/// Bytes of one value in an entry, as JSON; a longer one is told by its length and its digest. Whoever makes and deletes
/// things all day would fill the log, which is kept for long.
pub const VALUE_BYTES_MAX: usize = 2_048;

/// Who changes something, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    /// The key that asked; none when the server itself acted.
    pub key: Option<Id<id::ApiKey>>,
    /// The user of the console who did it.
    pub user: Option<Id<id::User>>,
    pub name: Arc<str>,
    /// On whose account the change goes while it waits: a tenant's, an application's, or whoever reaches all. Zero is
    /// the server itself, and what is read from the log.
    pub account: u128,
    pub at: Timestamp,
}

impl Actor {
    /// The server itself.
    pub fn system(at: Timestamp) -> Self {
        Self {
            key: None,
            user: None,
            name: Arc::from("postrider"),
            account: 0,
            at,
        }
    }
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditEntry {
    pub id: Id<id::AuditEntry>,
    pub application: Option<Id<id::Application>>,
    pub tenant: Option<Id<id::Tenant>>,
    pub actor: Actor,
    /// A noun and `created`, `updated`, `deleted`, `tested` or `content_deleted`: `endpoint.updated`.
    pub action: String,
    /// The id or the name of what was changed.
    pub subject: String,
    /// JSON objects; none before a creation and after a deletion.
    pub before: Option<String>,
    pub after: Option<String>,
}

/// Something whose changes are recorded.
pub trait Audited {
    /// What the log calls it.
    fn noun(&self) -> &'static str;
    fn application(&self) -> Option<Id<id::Application>>;
    fn tenant(&self) -> Option<Id<id::Tenant>>;
    fn subject(&self) -> String;
    /// All that a change may be about, without secrets.
    fn describe(&self) -> Value;
    /// Names of what has another value than in `before` and is described by its name only.
    fn replaced(&self, before: &Self) -> Vec<&str> {
        let _ = before;
        Vec::new()
    }
    /// Whether its changes are of interest; the server's own helpers are not.
    fn is_recorded(&self) -> bool {
        true
    }
}

/// The entry for a test call: who made it, and how it ended.
pub fn test_entry(
    id: Id<id::AuditEntry>,
    actor: Actor,
    endpoint: &Endpoint,
    event_type: &str,
    success: bool,
    outcome: &Outcome,
) -> AuditEntry {
    let (status, error) = match outcome {
        Outcome::Answered { status, .. } => (Some(*status), None),
        Outcome::Unreachable { reason, .. } => (None, Some(reason.as_str())),
    };
    let after = serde_json::json!({
        "type": event_type, "url": endpoint.url, "success": success, "statusCode": status, "error": error,
    });
    AuditEntry {
        id,
        application: Some(endpoint.application),
        tenant: Some(endpoint.tenant),
        actor,
        action: format!("{}.tested", endpoint.noun()),
        subject: endpoint.id.to_string(),
        before: None,
        after: Some(after.to_string()),
    }
}

/// The entry for deleting what an event said, or what was answered to one of its attempts, which `after` tells.
pub fn content_entry(
    id: Id<id::AuditEntry>,
    actor: Actor,
    event: &Event,
    attempt: Option<(Id<id::Delivery>, u32)>,
) -> AuditEntry {
    let after =
        attempt.map(|(delivery, number)| json!({ "delivery": delivery, "attempt": number }));
    AuditEntry {
        id,
        application: Some(event.application),
        tenant: Some(event.tenant),
        actor,
        action: "event.content_deleted".to_owned(),
        subject: event.id.to_string(),
        before: None,
        after: after.map(|after| after.to_string()),
    }
}

/// The entry for a change from `before` to `after`; none when nothing changed.
pub fn entry<T: Audited>(
    id: Id<id::AuditEntry>,
    actor: &Actor,
    before: Option<&T>,
    after: Option<&T>,
) -> Option<AuditEntry> {
    let subject = after.or(before)?;
    let verb = match (before, after) {
        (None, _) => "created",
        (Some(_), Some(_)) => "updated",
        (Some(_), None) => "deleted",
    };
    let replaced = match (before, after) {
        (Some(before), Some(after)) => after.replaced(before),
        (None, _) | (_, None) => Vec::new(),
    };
    let [before, mut after] = [before, after].map(|thing| thing.map(Audited::describe));
    // By this alone the two may differ: names stay as they were when a value is replaced.
    if let (Some(Value::Object(after)), false) = (&mut after, replaced.is_empty()) {
        after.insert("replaced".to_owned(), json!(replaced));
    }
    if before == after || !subject.is_recorded() {
        return None;
    }
    let [before, after] = [before, after].map(|described| described.map(shortened));
    Some(AuditEntry {
        id,
        application: subject.application(),
        tenant: subject.tenant(),
        actor: actor.clone(),
        action: format!("{}.{verb}", subject.noun()),
        subject: subject.subject(),
        before: before.map(|before| before.to_string()),
        after: after.map(|after| after.to_string()),
    })
}

/// Without what is too long for the log.
fn shortened(mut described: Value) -> Value {
    let members = described.as_object_mut().into_iter().flatten();
    for (_, value) in members {
        let text = value.to_string();
        if text.len() > VALUE_BYTES_MAX {
            *value = json!({ "bytes": text.len(), "sha256": hex(&sha256(text.as_bytes())) });
        }
    }
    described
}

impl Audited for Application {
    fn noun(&self) -> &'static str {
        "application"
    }
    fn application(&self) -> Option<Id<id::Application>> {
        Some(self.id)
    }
    fn tenant(&self) -> Option<Id<id::Tenant>> {
        None
    }
    fn subject(&self) -> String {
        self.id.to_string()
    }
    fn describe(&self) -> Value {
        let mut settings = json!(self.settings);
        // Of a picture, which it is.
        if let Some(logo) = &self.settings.branding.logo {
            settings["branding"]["logo"] = hex(&sha256(logo.as_bytes())).into();
        }
        json!({ "name": self.name, "profile": self.profile, "settings": settings })
    }
}

impl Audited for Tenant {
    fn noun(&self) -> &'static str {
        "tenant"
    }
    fn application(&self) -> Option<Id<id::Application>> {
        Some(self.application)
    }
    fn tenant(&self) -> Option<Id<id::Tenant>> {
        Some(self.id)
    }
    fn subject(&self) -> String {
        self.id.to_string()
    }
    fn describe(&self) -> Value {
        json!({
            "name": self.name,
            "externalId": self.external_id,
            "metadata": self.metadata,
            "secretSince": self.live_secret.since,
            "testSecretSince": self.test_secret.since,
            "settings": self.settings,
        })
    }
}

impl Audited for EventType {
    fn noun(&self) -> &'static str {
        "event_type"
    }
    fn application(&self) -> Option<Id<id::Application>> {
        Some(self.application)
    }
    fn tenant(&self) -> Option<Id<id::Tenant>> {
        None
    }
    fn subject(&self) -> String {
        self.name.clone()
    }
    fn describe(&self) -> Value {
        // What a vendor's API keeps may be long: that it changed is what counts.
        let vendor = self
            .vendor
            .as_deref()
            .map(|text| hex(&sha256(text.as_bytes())));
        json!({ "description": self.description, "schema": self.schema, "example": self.example, "vendor": vendor })
    }
}

impl Audited for Endpoint {
    fn noun(&self) -> &'static str {
        match self.kind {
            EndpointKind::Registered | EndpointKind::Callback | EndpointKind::Key(_) => "endpoint",
            EndpointKind::Distribution(_) => "distribution",
        }
    }
    fn application(&self) -> Option<Id<id::Application>> {
        Some(self.application)
    }
    fn tenant(&self) -> Option<Id<id::Tenant>> {
        Some(self.tenant)
    }
    fn subject(&self) -> String {
        self.id.to_string()
    }
    fn describe(&self) -> Value {
        let (key, distribution) = match &self.kind {
            EndpointKind::Registered | EndpointKind::Callback => (None, None),
            EndpointKind::Key(key) => (Some(key), None),
            EndpointKind::Distribution(distribution) => (None, Some(distribution)),
        };
        // A header's value may be somebody's password: only its name is told.
        let headers: Vec<&String> = self.headers.iter().map(|header| &header.name).collect();
        json!({
            "url": self.url,
            "description": self.description,
            "events": self.subscription,
            "externalId": self.external_id,
            "metadata": self.metadata,
            "filter": self.filter,
            "mode": self.mode,
            "headers": headers,
            "rateLimit": self.rate_limit,
            "ordering": self.ordering,
            "form": self.form,
            "active": self.health.is_enabled(),
            "disabledReason": self.health.disabled.map(|disabled| disabled.reason.as_str()),
            "key": key,
            "distribution": distribution,
            "secretSince": self.secrets.first().map(|secret| secret.created_at),
        })
    }
    fn replaced(&self, before: &Self) -> Vec<&str> {
        let other = |header: &&CustomHeader| {
            let mut known = before.headers.iter();
            let known = known.find(|known| known.name == header.name);
            known.is_some_and(|known| known != *header)
        };
        let replaced = self.headers.iter().filter(other);
        replaced.map(|header| header.name.as_str()).collect()
    }
    fn is_recorded(&self) -> bool {
        // They come with events and go by themselves: nobody manages them.
        self.kind != EndpointKind::Callback
    }
}

impl Audited for ApiKey {
    fn noun(&self) -> &'static str {
        "key"
    }
    fn application(&self) -> Option<Id<id::Application>> {
        match self.scope {
            Scope::Root => None,
            Scope::Application(application) | Scope::Tenant(application, _) => Some(application),
        }
    }
    fn tenant(&self) -> Option<Id<id::Tenant>> {
        match self.scope {
            Scope::Root | Scope::Application(_) => None,
            Scope::Tenant(_, tenant) => Some(tenant),
        }
    }
    fn subject(&self) -> String {
        self.id.to_string()
    }
    fn describe(&self) -> Value {
        let scope = match self.scope {
            Scope::Root => "root",
            Scope::Application(_) => "application",
            Scope::Tenant(..) => "tenant",
        };
        json!({
            "name": self.name,
            "scope": scope,
            "mode": self.mode,
            "publicId": self.public_id,
            "allowedIps": self.allowed_ips,
            "readOnly": self.read_only,
            "active": self.disabled_at.is_none(),
            "expiresAt": self.expires_at,
            "rotatedAt": self.rotated_at,
            "previousUntil": self.previous.as_ref().map(|text| text.until),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_long_for_the_log_is_told_by_its_length_and_digest() {
        // With the quotes of a text.
        let text = |bytes: usize| json!("x".repeat(bytes - 2));
        let described = json!({ "fits": text(VALUE_BYTES_MAX), "long": text(VALUE_BYTES_MAX + 1) });
        let shown = shortened(described.clone());
        assert_eq!(shown["fits"], described["fits"]);
        assert_eq!(shown["long"]["bytes"], VALUE_BYTES_MAX + 1);
        assert!(shown["long"]["sha256"].is_string());
    }
}
