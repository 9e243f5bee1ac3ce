//! Tenants: their settings, and the secret that signs for endpoints without one of their own.

use axum::body::Body;
use axum::extract::State;
use http::{HeaderMap, StatusCode};
use postrider_core::tenant::{Mode, Tenant};
use postrider_service::{Caller, NewTenant, Page, Refusal, TenantPatch};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::views::TenantView;
use crate::Api;
use crate::openapi::{OfApplication, OfTenant, Refusals};
use crate::problem::Answer;
use crate::request::{List, Path, Query, json, list as list_of, ok, page_request, read_id};

/// Makes a tenant; its secrets are in this answer only.
#[utoipa::path(
    post, path = "/v1/applications/{application}/tenants", tag = "Tenants", operation_id = "createTenant",
    params(OfApplication),
    request_body = NewTenant,
    responses((status = CREATED, description = "Made.", body = TenantView), Refusals),
)]
pub(crate) async fn create(
    State(api): State<Api>,
    caller: Caller,
    Path(application): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let application = read_id(&application)?;
    let new = api.read(&caller, &headers, body).await?;
    let made = api.service.create_tenant(&caller, application, new).await?;
    let view = TenantView::new(made.tenant, &made.profile);
    let view = view.with_secrets(made.live.expose(), made.test.expose());
    Ok(json(StatusCode::CREATED, &view))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
pub(crate) struct TenantQuery {
    /// The one with this id of the product's own.
    external_id: Option<String>,
    /// Rows of the page.
    #[param(value_type = Option<u16>, minimum = 1, maximum = 250)]
    limit: Option<String>,
    /// `nextCursor` of the page before.
    cursor: Option<String>,
}

/// Lists tenants, the newest first, or the one with an `externalId`.
#[utoipa::path(
    get, path = "/v1/applications/{application}/tenants", tag = "Tenants", operation_id = "listTenants",
    params(OfApplication, TenantQuery),
    responses((status = OK, description = "Done.", body = List<TenantView>), Refusals),
)]
pub(crate) async fn list(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    Query(query): Query<TenantQuery>,
) -> Answer {
    let application = read_id(&id)?;
    // Also where there is one at most: what is wrong is told.
    let page = page_request(query.limit.as_deref(), query.cursor.as_deref())?;
    let (page, profile) = match &query.external_id {
        Some(external_id) => {
            let found = api
                .service
                .tenant_by_external_id(&caller, application, external_id);
            let (tenant, profile) = found.await?;
            let rows = tenant.iter().map(|tenant| Tenant::clone(tenant)).collect();
            (Page { rows, next: None }, profile)
        }
        None => {
            let found = api.service.list_tenants(&caller, application, false, page);
            found.await?
        }
    };
    Ok(list_of(page, |tenant| TenantView::new(tenant, &profile)))
}

/// Reads a tenant.
#[utoipa::path(
    get, path = "/v1/tenants/{tenant}", tag = "Tenants", operation_id = "getTenant",
    params(OfTenant),
    responses((status = OK, description = "Done.", body = TenantView), Refusals),
)]
pub(crate) async fn read(State(api): State<Api>, caller: Caller, Path(id): Path<String>) -> Answer {
    let (tenant, profile) = api.service.tenant(&caller, read_id(&id)?).await?;
    let view = TenantView::new(Tenant::clone(&tenant), &profile);
    Ok(ok(&view.seen_by(&caller)))
}

/// Changes a tenant: what is not named stays.
#[utoipa::path(
    patch, path = "/v1/tenants/{tenant}", tag = "Tenants", operation_id = "changeTenant",
    params(OfTenant),
    request_body = TenantPatch,
    responses((status = OK, description = "Done.", body = TenantView), Refusals),
)]
pub(crate) async fn update(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let id = read_id(&id)?;
    let patch = api.read(&caller, &headers, body).await?;
    let (changed, profile) = api.service.change_tenant(&caller, id, patch).await?;
    let view = TenantView::new(changed, &profile);
    Ok(ok(&view.seen_by(&caller)))
}

/// Which of the tenant's secrets; the mode of the caller's key when it is not given.
#[derive(Default, Deserialize, ToSchema, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct SecretQuery {
    /// The key's, when it is not given.
    mode: Option<Mode>,
}

/// What takes the place of a tenant's secret.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewSecret {
    /// The key's, when it is not given.
    mode: Option<Mode>,
    /// One that the customer has already; one is made otherwise.
    secret: Option<String>,
}

#[derive(Serialize, ToSchema)]
struct TenantSecretView<'s> {
    mode: Mode,
    secret: &'s str,
}

/// Shows a tenant's secret, where its profile has one for all endpoints.
#[utoipa::path(
    get, path = "/v1/tenants/{tenant}/secret", tag = "Tenants", operation_id = "getTenantSecret",
    params(OfTenant, SecretQuery),
    responses((status = OK, description = "Done.", body = TenantSecretView<'_>), Refusals),
)]
pub(crate) async fn read_secret(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    Query(query): Query<SecretQuery>,
) -> Answer {
    let shown = api
        .service
        .tenant_secret(&caller, read_id(&id)?, query.mode);
    let (mode, secret) = shown.await?;
    let secret = secret.expose();
    Ok(ok(&TenantSecretView { mode, secret }))
}

/// Replaces a tenant's secret of a mode at once.
#[utoipa::path(
    post, path = "/v1/tenants/{tenant}/rotate-secret", tag = "Tenants", operation_id = "rotateTenantSecret",
    params(OfTenant, SecretQuery),
    request_body(content = Option<NewSecret>),
    responses((status = OK, description = "Done.", body = TenantSecretView<'_>), Refusals),
)]
pub(crate) async fn rotate_secret(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    Query(query): Query<SecretQuery>,
    body: Body,
) -> Answer {
    let id = read_id(&id)?;
    let asked: NewSecret = api.read_optional(&caller, body).await?;
    if query.mode.is_some() && asked.mode.is_some() && query.mode != asked.mode {
        return Err(Refusal::invalid("mode", "is another one in the query").into());
    }
    let mode = asked.mode.or(query.mode);
    let rotated = api
        .service
        .rotate_tenant_secret(&caller, id, mode, asked.secret);
    let (mode, secret) = rotated.await?;
    let secret = secret.expose();
    Ok(ok(&TenantSecretView { mode, secret }))
}
