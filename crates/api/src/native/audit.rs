//! The audit log: every change of configuration, by whom, before and after.

use axum::extract::State;
use postrider_core::audit::AuditEntry;
use postrider_core::{Id, Timestamp, id};
use postrider_service::{AuditQuery, Caller};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};

use crate::Api;
use crate::openapi::Refusals;
use crate::problem::Answer;
use crate::request::{List, Query, given_id, given_time, list as list_of, page_request};

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct AuditParams {
    /// Of this application.
    #[param(value_type = Option<Id<id::Application>>)]
    application: Option<String>,
    /// Of this tenant.
    #[param(value_type = Option<Id<id::Tenant>>)]
    tenant: Option<String>,
    /// Of the thing with this id.
    subject: Option<String>,
    /// Such as `endpoint.created`.
    action: Option<String>,
    /// By this key.
    #[param(value_type = Option<Id<id::ApiKey>>)]
    key: Option<String>,
    /// By this user of the console.
    #[param(value_type = Option<Id<id::User>>)]
    user: Option<String>,
    /// From this time on.
    #[param(value_type = Option<Timestamp>)]
    since: Option<String>,
    /// Before this time.
    #[param(value_type = Option<Timestamp>)]
    until: Option<String>,
    /// Rows of the page.
    #[param(value_type = Option<u16>, minimum = 1, maximum = 250)]
    limit: Option<String>,
    /// `nextCursor` of the page before.
    cursor: Option<String>,
}

#[derive(Serialize, ToSchema)]
struct ActorView {
    key: Option<Id<id::ApiKey>>,
    /// The user of the console who did it.
    user: Option<Id<id::User>>,
    name: String,
}

#[derive(Serialize, ToSchema)]
struct AuditView {
    id: Id<id::AuditEntry>,
    at: Timestamp,
    /// The key that asked, or the user of the console; the server itself is neither.
    actor: ActorView,
    action: String,
    subject: String,
    application: Option<Id<id::Application>>,
    tenant: Option<Id<id::Tenant>>,
    #[schema(value_type = Option<HashMap<String, Value>>)]
    before: Option<Box<RawValue>>,
    #[schema(value_type = Option<HashMap<String, Value>>)]
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
                user: entry.actor.user,
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

/// Lists who changed what, the newest first.
#[utoipa::path(
    get, path = "/v1/audit", tag = "Audit log", operation_id = "listAudit",
    params(AuditParams),
    responses((status = OK, description = "Done.", body = List<AuditView>), Refusals),
)]
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
        user: given_id("user", params.user.as_deref())?,
        since: given_time("since", params.since.as_deref())?,
        until: given_time("until", params.until.as_deref())?,
    };
    let page = page_request(params.limit.as_deref(), params.cursor.as_deref())?;
    let found = api.service.list_audit(&caller, query, page).await?;
    Ok(list_of(found, AuditView::from))
}
