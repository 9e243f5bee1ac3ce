//! Applications, their tenants and event types.

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode};
use postrider_core::Secret;
use postrider_core::filter::is_event_type;
use postrider_core::limits::{DESCRIPTION_BYTES_MAX, KEY_BYTES_MAX};
use postrider_core::profile::{SecretScope, Visibility};
use postrider_core::tenant::{Application, EventType, Scope, TENANT_SECRET_CONTEXT, Tenant};
use serde::{Deserialize, Serialize};

use super::views::{ApplicationView, EventTypeView, TenantView};
use crate::auth::Caller;
use crate::problem::{ApiError, ApiResult, ErrorCode};
use crate::random::{seal_nonce, secret_text};
use crate::request::{Paging, Path, Query, bounded, json, list as list_of, ok, path_id, required};
use crate::{Api, request};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewApplication {
    name: String,
    #[serde(default = "standard")]
    profile: String,
}

fn standard() -> String {
    "standard".to_owned()
}

fn must_be_profile(api: &Api, name: &str) -> ApiResult<()> {
    if api.engine().profiles().current(name).is_some() {
        return Ok(());
    }
    let known = api.engine().profiles().names().join(", ");
    Err(ApiError::invalid(
        "profile",
        format!("must be one of: {known}"),
    ))
}

pub(crate) async fn create(
    State(api): State<Api>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> ApiResult<Response> {
    caller.must_be_root()?;
    let new: NewApplication = api.read(&headers, body).await?;
    required("name", &new.name, KEY_BYTES_MAX)?;
    must_be_profile(&api, &new.profile)?;
    let now = api.now();
    let application = Application {
        id: api.store().ids().next(now),
        name: new.name,
        profile: new.profile,
        created_at: now,
        updated_at: now,
    };
    api.store().create_application(application.clone()).await?;
    Ok(json(
        StatusCode::CREATED,
        &ApplicationView::from(application),
    ))
}

pub(crate) async fn list(
    State(api): State<Api>,
    caller: Caller,
    Query(paging): Query<Paging>,
) -> ApiResult<Response> {
    caller.must_be_root()?;
    Ok(list_of(
        api.store().list_applications(paging.request()?).await?,
        ApplicationView::from,
    ))
}

pub(crate) async fn read(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Response> {
    let application = caller.application(&api, path_id(&id)?).await?;
    Ok(ok(&ApplicationView::from(Application::clone(&application))))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ApplicationPatch {
    name: Option<String>,
    profile: Option<String>,
}

pub(crate) async fn update(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> ApiResult<Response> {
    caller.must_be_root()?;
    let mut application = Application::clone(&*caller.application(&api, path_id(&id)?).await?);
    let patch: ApplicationPatch = api.read(&headers, body).await?;
    if let Some(name) = patch.name {
        required("name", &name, KEY_BYTES_MAX)?;
        application.name = name;
    }
    if let Some(profile) = patch.profile {
        must_be_profile(&api, &profile)?;
        // Secrets have the form of the profile they were made under.
        let page = postrider_store::PageRequest::first(1);
        if profile != application.profile
            && !api
                .store()
                .list_tenants(application.id, page)
                .await?
                .rows
                .is_empty()
        {
            return Err(ApiError::new(
                ErrorCode::ProfileInUse,
                "create a new application with the other profile and move its tenants",
            ));
        }
        application.profile = profile;
    }
    application.updated_at = api.now();
    let changing = api.clone();
    let changed = api
        .to_the_end(async move {
            changing
                .store()
                .update_application(application.clone())
                .await?;
            changing.0.directory.forget_applications();
            Ok(application)
        })
        .await?;
    Ok(ok(&ApplicationView::from(changed)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EventTypeBody {
    description: Option<String>,
}

pub(crate) async fn put_event_type(
    State(api): State<Api>,
    caller: Caller,
    Path((id, name)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> ApiResult<Response> {
    let application = caller.application(&api, path_id(&id)?).await?.id;
    if !is_event_type(&name) {
        return Err(ApiError::invalid(
            "name",
            "must have letters, digits, _ and -, with dots between parts",
        ));
    }
    let given: EventTypeBody = api.read(&headers, body).await?;
    if let Some(description) = &given.description {
        bounded("description", description, DESCRIPTION_BYTES_MAX)?;
    }
    let event_type = EventType {
        application,
        name,
        description: given.description,
        created_at: api.now(),
    };
    api.store().put_event_type(event_type.clone()).await?;
    Ok(ok(&EventTypeView::from(event_type)))
}

pub(crate) async fn list_event_types(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Response> {
    let application = caller.application(&api, path_id(&id)?).await?.id;
    let rows = api.store().list_event_types(application).await?;
    Ok(list_of(
        postrider_store::Page { rows, next: None },
        EventTypeView::from,
    ))
}

pub(crate) async fn delete_event_type(
    State(api): State<Api>,
    caller: Caller,
    Path((id, name)): Path<(String, String)>,
) -> ApiResult<Response> {
    let application = caller.application(&api, path_id(&id)?).await?.id;
    api.store().delete_event_type(application, &name).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct NewTenant {
    name: String,
    external_id: Option<String>,
}

pub(crate) async fn create_tenant(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> ApiResult<Response> {
    let application = caller.application(&api, path_id(&id)?).await?.id;
    let new: NewTenant = api.read(&headers, body).await?;
    required("name", &new.name, KEY_BYTES_MAX)?;
    if let Some(external_id) = &new.external_id {
        required("externalId", external_id, KEY_BYTES_MAX)?;
    }
    let profile = api.0.directory.profile(application).await?.profile;
    let secret = secret_text(&profile.secret.format);
    let now = api.now();
    let tenant = Tenant {
        id: api.store().ids().next(now),
        application,
        name: new.name,
        external_id: new.external_id,
        sealed_secret: api
            .0
            .sealer
            .seal(&secret, seal_nonce(), TENANT_SECRET_CONTEXT),
        created_at: now,
        updated_at: now,
    };
    api.store().create_tenant(tenant.clone()).await?;
    Ok(json(
        StatusCode::CREATED,
        &TenantView::from(tenant).with_secret(secret.expose()),
    ))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct TenantQuery {
    external_id: Option<String>,
    limit: Option<String>,
    cursor: Option<String>,
}

pub(crate) async fn list_tenants(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    Query(query): Query<TenantQuery>,
) -> ApiResult<Response> {
    let application = caller.application(&api, path_id(&id)?).await?.id;
    if let Some(external_id) = &query.external_id {
        let found = api
            .store()
            .tenant_by_external_id(application, external_id)
            .await;
        let rows = match found {
            Ok(tenant) => vec![tenant],
            Err(error) if error.is_not_found() => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        return Ok(list_of(
            postrider_store::Page { rows, next: None },
            TenantView::from,
        ));
    }
    let page = request::page_request(query.limit.as_deref(), query.cursor.as_deref())?;
    Ok(list_of(
        api.store().list_tenants(application, page).await?,
        TenantView::from,
    ))
}

/// The tenant's signing secret.
pub(super) fn tenant_secret(api: &Api, tenant: &Tenant) -> ApiResult<Secret> {
    let sealed = &tenant.sealed_secret;
    let opened = api.0.sealer.open(sealed, TENANT_SECRET_CONTEXT);
    opened.map_err(ApiError::internal)
}

#[derive(Serialize)]
struct TenantSecretView {
    secret: String,
}

/// The tenant's secret, where the profile has one for all its endpoints and shows it again.
pub(crate) async fn read_secret(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Response> {
    let tenant = caller.tenant(&api, path_id(&id)?).await?;
    let policy = &api
        .0
        .directory
        .profile(tenant.application)
        .await?
        .profile
        .secret;
    if policy.scope != SecretScope::Tenant || policy.show != Visibility::Always {
        let detail = "this profile shows a tenant's secret only in the answer that made it";
        return Err(ApiError::new(ErrorCode::SecretNotShown, detail));
    }
    let secret = tenant_secret(&api, &tenant)?.expose().to_owned();
    Ok(ok(&TenantSecretView { secret }))
}

pub(crate) async fn read_tenant(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Response> {
    let tenant = caller.tenant(&api, path_id(&id)?).await?;
    Ok(ok(&TenantView::from(Tenant::clone(&tenant))))
}

/// The scope that a caller's lists are confined to.
pub(crate) fn confined(
    caller: &Caller,
) -> (
    Option<postrider_core::Id<postrider_core::id::Application>>,
    Option<postrider_core::Id<postrider_core::id::Tenant>>,
) {
    match caller.key.scope {
        Scope::Root => (None, None),
        Scope::Application(application) => (Some(application), None),
        Scope::Tenant(_, tenant) => (None, Some(tenant)),
    }
}
