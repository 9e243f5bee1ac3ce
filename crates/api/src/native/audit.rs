//! The audit log: every change of configuration, by whom, before and after.

use axum::extract::State;
use postrider_core::audit::AuditEntry;
use postrider_core::{Id, Timestamp, id};
use postrider_service::{AuditQuery, Caller};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::Api;
use crate::problem::Answer;
use crate::request::{Query, given_id, given_time, list as list_of, page_request};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AuditParams {
    application: Option<String>,
    tenant: Option<String>,
    subject: Option<String>,
    action: Option<String>,
    key: Option<String>,
    since: Option<String>,
    until: Option<String>,
    limit: Option<String>,
    cursor: Option<String>,
}

#[derive(Serialize)]
struct ActorView {
    key: Option<Id<id::ApiKey>>,
    name: String,
}

#[derive(Serialize)]
struct AuditView {
    id: Id<id::AuditEntry>,
    at: Timestamp,
    /// The key that asked; the server itself has none.
    actor: ActorView,
    action: String,
    subject: String,
    application: Option<Id<id::Application>>,
    tenant: Option<Id<id::Tenant>>,
    before: Option<Box<RawValue>>,
    after: Option<Box<RawValue>>,
}

impl From<AuditEntry> for AuditView {
    fn from(entry: AuditEntry) -> Self {
        let raw = |text: Option<String>| RawValue::from_string(text?).ok();
        Self {
            id: entry.id,
            at: entry.actor.at,
            actor: ActorView {
                key: entry.actor.key,
                name: entry.actor.name.as_ref().to_owned(),
            },
            action: entry.action,
            subject: entry.subject,
            application: entry.application,
            tenant: entry.tenant,
            before: raw(entry.before),
            after: raw(entry.after),
        }
    }
}

pub(crate) async fn list(
    State(api): State<Api>,
    caller: Caller,
    Query(params): Query<AuditParams>,
) -> Answer {
    let query = AuditQuery {
        application: given_id("application", params.application.as_deref())?,
        tenant: given_id("tenant", params.tenant.as_deref())?,
        subject: params.subject,
        action: params.action,
        key: given_id("key", params.key.as_deref())?,
        since: given_time("since", params.since.as_deref())?,
        until: given_time("until", params.until.as_deref())?,
    };
    let page = page_request(params.limit.as_deref(), params.cursor.as_deref())?;
    let found = api.service.list_audit(&caller, query, page).await?;
    Ok(list_of(found, AuditView::from))
}
