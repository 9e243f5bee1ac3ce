//! Deleting a tenant or an application with all that it had, as a task.

use axum::extract::State;
use http::StatusCode;
use postrider_core::{Id, Timestamp, id};
use postrider_service::{Caller, Deletion};
use serde::Serialize;
use utoipa::ToSchema;

use super::views::task_status;
use crate::Api;
use crate::openapi::{OfApplication, OfDeletion, OfTenant, Refusals};
use crate::problem::Answer;
use crate::request::{NoBody, Path, json, ok, read_id};

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct DeletionView {
    id: Id<id::Task>,
    application: Id<id::Application>,
    /// None: the whole application.
    tenant: Option<Id<id::Tenant>>,
    status: &'static str,
    /// Rows that are gone so far: events, deliveries, attempts and all else.
    erased: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    created_at: Timestamp,
    finished_at: Option<Timestamp>,
}

impl From<Deletion> for DeletionView {
    fn from(task: Deletion) -> Self {
        let (status, error) = task_status(task.status);
        Self {
            id: task.id,
            application: task.application,
            tenant: task.tenant,
            status,
            erased: task.erased,
            error,
            created_at: task.created_at,
            finished_at: task.finished_at,
        }
    }
}

/// Deletes a tenant with all that it has.
#[utoipa::path(
    delete, path = "/v1/tenants/{tenant}", tag = "Tenants", operation_id = "deleteTenant",
    params(OfTenant),
    responses((status = ACCEPTED, description = "Begun, or on its way.", body = DeletionView), Refusals),
)]
pub(crate) async fn delete_tenant(
    State(api): State<Api>,
    caller: Caller,
    Path(tenant): Path<String>,
    _: NoBody,
) -> Answer {
    let begun = api
        .service
        .delete_tenant(&caller, read_id(&tenant)?)
        .await?;
    Ok(json(StatusCode::ACCEPTED, &DeletionView::from(begun)))
}

/// Deletes an application with all that it has; a root key may.
#[utoipa::path(
    delete, path = "/v1/applications/{application}", tag = "Applications", operation_id = "deleteApplication",
    params(OfApplication),
    responses((status = ACCEPTED, description = "Begun, or on its way.", body = DeletionView), Refusals),
)]
pub(crate) async fn delete_application(
    State(api): State<Api>,
    caller: Caller,
    Path(application): Path<String>,
    _: NoBody,
) -> Answer {
    let id = read_id(&application)?;
    let begun = api.service.delete_application(&caller, id).await?;
    Ok(json(StatusCode::ACCEPTED, &DeletionView::from(begun)))
}

/// Reads how a deletion stands.
#[utoipa::path(
    get, path = "/v1/deletions/{deletion}", tag = "Applications", operation_id = "getDeletion",
    params(OfDeletion),
    responses((status = OK, description = "Done.", body = DeletionView), Refusals),
)]
pub(crate) async fn read(State(api): State<Api>, caller: Caller, Path(id): Path<String>) -> Answer {
    let found = api.service.deletion(&caller, read_id(&id)?).await?;
    Ok(ok(&DeletionView::from(found)))
}
