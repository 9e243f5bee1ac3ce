//! The audit log: every change of configuration, by whom, before and after.

use axum::extract::State;
use axum::response::Response;
use postrider_core::audit::AuditEntry;
use postrider_core::{Id, Timestamp, id};
use postrider_store::AuditFilter;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::applications::confined;
use super::events::bounds;
use crate::Api;
use crate::auth::Caller;
use crate::problem::{ApiError, ApiResult};
use crate::request::{Query, given_id, list as list_of, page_request};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AuditQuery {
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
    Query(query): Query<AuditQuery>,
) -> ApiResult<Response> {
    // What was changed for live traffic is among it.
    caller.must_be_live()?;
    let (own_application, own_tenant) = confined(&caller);
    let application = given_id("application", query.application.as_deref())?;
    if own_application.is_some_and(|own| application.is_some_and(|given| given != own)) {
        return Err(ApiError::not_found("application"));
    }
    let tenant = given_id("tenant", query.tenant.as_deref())?;
    if let Some(tenant) = tenant {
        caller.tenant(&api, tenant).await?;
    }
    let (since, until) = bounds(query.since.as_deref(), query.until.as_deref())?;
    let filter = AuditFilter {
        application: own_application.or(application),
        tenant: own_tenant.or(tenant),
        subject: query.subject,
        action: query.action,
        key: given_id("key", query.key.as_deref())?,
        since,
        until,
    };
    let page = page_request(query.limit.as_deref(), query.cursor.as_deref())?;
    Ok(list_of(
        api.store().list_audit(filter, page).await?,
        AuditView::from,
    ))
}
