//! How things look in the native API.

use std::collections::BTreeMap;

use base64::Engine as _;
use postrider_core::attempt::{Egress, Outcome, Timings};
use postrider_core::delivery::{Delivery, DeliveryState};
use postrider_core::endpoint::{CustomHeader, Endpoint, EndpointKind, Ordering};
use postrider_core::event::{Event, EventSummary};
use postrider_core::filter::Subscription;
use postrider_core::profile::Profile;
use postrider_core::tenant::{
    Application, ApplicationSettings, EventType, Metadata, Mode, Scope, Tenant, TenantSettings,
};
use postrider_core::{Id, Timestamp, id};
use postrider_service::{AttemptShown, Caller, DeliveryListed, EventTypeListed, TaskStatus};
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::openapi::HeaderPair;

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ApplicationView {
    id: Id<id::Application>,
    name: String,
    profile: String,
    settings: ApplicationSettings,
    created_at: Timestamp,
    updated_at: Timestamp,
}

impl From<Application> for ApplicationView {
    fn from(a: Application) -> Self {
        Self {
            id: a.id,
            name: a.name,
            profile: a.profile,
            settings: a.settings,
            created_at: a.created_at,
            updated_at: a.updated_at,
        }
    }
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TenantView {
    id: Id<id::Tenant>,
    /// The id that receivers and the vendor's API know it by, where the profile has one
    /// (Voucherify's project id).
    #[serde(skip_serializing_if = "Option::is_none")]
    wire_id: Option<String>,
    application: Id<id::Application>,
    name: String,
    external_id: Option<String>,
    #[schema(value_type = HashMap<String, String>)]
    metadata: Metadata,
    settings: TenantSettings,
    created_at: Timestamp,
    updated_at: Timestamp,
    /// Signs deliveries to a `callbackUrl`, and all of a profile whose secret is the tenant's. Only
    /// in the answer that made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
    /// The same for what is of the test mode.
    #[serde(skip_serializing_if = "Option::is_none")]
    test_secret: Option<String>,
}

impl TenantView {
    pub(crate) fn with_secrets(mut self, live: &str, test: &str) -> Self {
        self.secret = Some(live.to_owned());
        self.test_secret = Some(test.to_owned());
        self
    }
}

impl TenantView {
    /// As its own customer sees it: without what the product keeps about it for itself.
    pub(crate) fn seen_by(mut self, who: &Caller) -> Self {
        if matches!(who.scope(), Scope::Tenant(..)) {
            self.external_id = None;
            self.metadata.clear();
        }
        self
    }

    pub(crate) fn new(t: Tenant, profile: &Profile) -> Self {
        Self {
            id: t.id,
            wire_id: profile.ids.tenant.as_ref().map(|ids| ids.render(t.id)),
            application: t.application,
            name: t.name,
            external_id: t.external_id,
            metadata: t.metadata,
            settings: t.settings,
            created_at: t.created_at,
            updated_at: t.updated_at,
            secret: None,
            test_secret: None,
        }
    }
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EventTypeView {
    name: String,
    description: Option<String>,
    #[schema(value_type = Option<serde_json::Value>)]
    schema: Option<Box<RawValue>>,
    #[schema(value_type = Option<serde_json::Value>)]
    example: Option<Box<RawValue>>,
    /// Who describes it: the application itself, or its profile.
    source: &'static str,
    created_at: Option<Timestamp>,
}

impl From<EventType> for EventTypeView {
    fn from(t: EventType) -> Self {
        Self {
            name: t.name,
            description: t.description,
            schema: t.schema.and_then(raw_json),
            example: t.example.and_then(raw_json),
            source: "application",
            created_at: Some(t.created_at),
        }
    }
}

impl EventTypeView {
    pub(crate) fn listed(t: EventTypeListed) -> Self {
        match t {
            EventTypeListed::Application(own) => own.into(),
            EventTypeListed::Profile(described) => Self {
                name: described.name,
                description: described.description,
                schema: described.schema.and_then(raw_json),
                example: described.example.and_then(raw_json),
                source: "profile",
                created_at: None,
            },
        }
    }
}

/// JSON as it was written.
fn raw_json(text: String) -> Option<Box<RawValue>> {
    // It was JSON when it came in. What no longer reads is left out, and spoils nothing else of the answer.
    RawValue::from_string(text).ok()
}

/// JSON as it was written, from bytes.
pub(crate) fn raw_bytes(bytes: &[u8]) -> Option<Box<RawValue>> {
    raw_json(String::from_utf8(bytes.to_vec()).ok()?)
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EndpointView {
    id: Id<id::Endpoint>,
    /// The id as the profile's receivers and its management API know it.
    wire_id: String,
    application: Id<id::Application>,
    tenant: Id<id::Tenant>,
    external_id: Option<String>,
    #[schema(value_type = HashMap<String, String>)]
    metadata: Metadata,
    url: String,
    description: Option<String>,
    events: Subscription,
    /// Of those events, only the ones that meet it; null where all are sent.
    #[schema(value_type = Option<HashMap<String, Value>>)]
    filter: Option<Value>,
    mode: Mode,
    headers: BTreeMap<String, &'static str>,
    rate_limit: Option<u32>,
    ordering: Ordering,
    content_type: &'static str,
    active: bool,
    disabled_reason: Option<&'static str>,
    disabled_at: Option<Timestamp>,
    consecutive_failures: u32,
    created_at: Timestamp,
    updated_at: Timestamp,
    /// Only in the answer that made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    public_key: Option<String>,
}

/// Custom headers as they are shown: a value may be a password of the receiver's.
pub(super) fn starred(headers: Vec<CustomHeader>) -> BTreeMap<String, &'static str> {
    let names = headers.into_iter().map(|header| header.name);
    names.map(|name| (name, CustomHeader::STARS)).collect()
}

impl EndpointView {
    pub(crate) fn new(e: Endpoint, profile: &Profile) -> Self {
        Self {
            wire_id: profile.endpoint_id(e.id, &e.kind),
            id: e.id,
            application: e.application,
            tenant: e.tenant,
            external_id: e.external_id,
            metadata: e.metadata,
            url: e.url,
            description: e.description,
            events: e.subscription,
            filter: e.filter.map(Into::into),
            mode: e.mode,
            headers: starred(e.headers),
            rate_limit: e.rate_limit,
            ordering: e.ordering,
            content_type: if e.form { "form" } else { "json" },
            active: e.health.is_enabled(),
            disabled_reason: e.health.disabled.map(|disabled| disabled.reason.as_str()),
            disabled_at: e.health.disabled.map(|disabled| disabled.at),
            consecutive_failures: e.health.consecutive_failures,
            created_at: e.created_at,
            updated_at: e.updated_at,
            secret: None,
            public_key: None,
        }
    }

    pub(crate) fn with_secret(mut self, secret: &str, public_key: Option<String>) -> Self {
        self.secret = Some(secret.to_owned());
        self.public_key = public_key;
        self
    }
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EventView {
    id: Id<id::Event>,
    application: Id<id::Application>,
    tenant: Id<id::Tenant>,
    r#type: String,
    mode: Mode,
    occurred_at: Timestamp,
    created_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    ordering_key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deliver_before: Option<Timestamp>,
    /// Of its publish.
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<String>,
    /// As published; left out of lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<serde_json::Value>)]
    data: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<HashMap<String, Value>>)]
    meta: Option<Box<RawValue>>,
    /// Its data and `meta` were deleted; not told in lists.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    content_deleted: bool,
}

impl EventView {
    pub(crate) fn brief(e: EventSummary) -> Self {
        Self {
            id: e.id,
            application: e.application,
            tenant: e.tenant,
            r#type: e.event_type.as_ref().to_owned(),
            mode: e.mode,
            occurred_at: e.occurred_at,
            created_at: e.created_at,
            ordering_key: e.ordering_key,
            deliver_before: e.deliver_before,
            traceparent: e.traceparent.map(|trace| trace.to_string()),
            data: None,
            meta: None,
            content_deleted: false,
        }
    }

    pub(crate) fn whole(e: &Event) -> Self {
        let data = raw_bytes(&e.data);
        let meta = e.meta.as_deref().and_then(raw_bytes);
        Self {
            data,
            meta,
            content_deleted: !e.has_content(),
            ..Self::brief(EventSummary::from(e))
        }
    }
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DeliveryView {
    id: Id<id::Delivery>,
    event: Id<id::Event>,
    endpoint: Id<id::Endpoint>,
    tenant: Id<id::Tenant>,
    event_type: String,
    mode: Mode,
    status: &'static str,
    /// Why it failed.
    reason: Option<&'static str>,
    attempts_made: u32,
    /// In lists: the API key that it belongs to, where it goes now, and how the last attempt ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<Id<id::ApiKey>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_error: Option<String>,
    /// When the next attempt is due.
    next_attempt_at: Option<Timestamp>,
    created_at: Timestamp,
    completed_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempts: Option<Vec<AttemptView>>,
}

impl DeliveryView {
    pub(crate) fn brief(d: &Delivery) -> Self {
        Self {
            id: d.id,
            event: d.event,
            endpoint: d.endpoint,
            tenant: d.tenant,
            event_type: d.event_type.as_ref().to_owned(),
            mode: d.mode,
            status: d.state.as_str(),
            reason: match d.state {
                DeliveryState::Failed(reason) => Some(reason.as_str()),
                DeliveryState::Pending
                | DeliveryState::Delivered
                | DeliveryState::Cancelled
                | DeliveryState::Skipped => None,
            },
            attempts_made: d.attempts,
            key: None,
            url: None,
            last_status: None,
            last_error: None,
            next_attempt_at: (d.state == DeliveryState::Pending).then_some(d.due_at),
            created_at: d.created_at,
            completed_at: d.completed_at,
            attempts: None,
        }
    }

    pub(crate) fn listed(row: DeliveryListed) -> Self {
        let (endpoint, last) = (row.endpoint.as_ref(), row.last.as_ref());
        let (last_status, last_error) = match last.map(|last| &last.outcome) {
            Some(Outcome::Answered { status, .. }) => (Some(*status), None),
            Some(Outcome::Unreachable { reason, detail }) => {
                (None, Some(format!("{}: {detail}", reason.as_str())))
            }
            None => (None, None),
        };
        let key = endpoint.and_then(|endpoint| match endpoint.kind {
            EndpointKind::Key(key) => Some(key),
            EndpointKind::Registered | EndpointKind::Callback | EndpointKind::Distribution(_) => {
                None
            }
        });
        Self {
            key,
            url: row.endpoint.map(|endpoint| endpoint.url),
            last_status,
            last_error,
            ..Self::brief(&row.delivery)
        }
    }

    pub(crate) fn with_attempts(d: &Delivery, attempts: Vec<AttemptShown>) -> Self {
        Self {
            attempts: Some(attempts.into_iter().map(AttemptView::from).collect()),
            ..Self::brief(d)
        }
    }
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AttemptView {
    number: u32,
    started_at: Timestamp,
    ended_at: Timestamp,
    manual: bool,
    /// Always POST: no documented system knows another.
    method: &'static str,
    url: String,
    #[schema(value_type = Vec<HeaderPair>)]
    request_headers: Vec<(String, String)>,
    /// Made again from the event: it is the same for the same attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    request_body: Option<String>,
    /// Where it left from.
    egress: Option<Egress>,
    /// None when no complete answer arrived; then `error` says why.
    status_code: Option<u16>,
    error: Option<ErrorView>,
    #[schema(value_type = Option<Vec<HeaderPair>>)]
    response_headers: Option<Vec<(String, String)>>,
    /// As text; in base 64 when it is not UTF-8 (`bodyEncoding`).
    response_body: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body_encoding: Option<&'static str>,
    response_truncated: bool,
    timings: Timings,
}

#[derive(Serialize, ToSchema)]
struct ErrorView {
    kind: &'static str,
    detail: String,
}

impl From<AttemptShown> for AttemptView {
    fn from(shown: AttemptShown) -> Self {
        let AttemptShown {
            attempt: a,
            body: sent,
        } = shown;
        let (status_code, error) = match a.outcome {
            Outcome::Answered { status, .. } => (Some(status), None),
            Outcome::Unreachable { reason, detail } => (
                None,
                Some(ErrorView {
                    kind: reason.as_str(),
                    detail,
                }),
            ),
        };
        let response_truncated = a
            .response
            .as_ref()
            .is_some_and(|response| response.truncated);
        let (headers, body) = a
            .response
            .map(|response| (response.headers, response.body))
            .unzip();
        let text = body.map(|body| match std::str::from_utf8(&body) {
            Ok(text) => (text.to_owned(), None),
            Err(_) => (
                base64::engine::general_purpose::STANDARD.encode(&body),
                Some("base64"),
            ),
        });
        let (response_body, body_encoding) = text.unzip();
        Self {
            number: a.number,
            started_at: a.started_at,
            ended_at: a.ended_at,
            manual: a.manual,
            method: "POST",
            url: a.url,
            request_headers: a.request_headers,
            request_body: sent.map(|body| String::from_utf8_lossy(&body).into_owned()),
            egress: a.egress,
            status_code,
            error,
            response_headers: headers,
            response_body,
            body_encoding: body_encoding.flatten(),
            response_truncated,
            timings: a.timings,
        }
    }
}

/// How a task stands, and what it failed of.
pub(super) fn task_status(status: TaskStatus) -> (&'static str, Option<String>) {
    match status {
        TaskStatus::Running => ("running", None),
        TaskStatus::Finished => ("finished", None),
        TaskStatus::Cancelled => ("cancelled", None),
        TaskStatus::Failed(error) => ("failed", Some(error)),
    }
}
