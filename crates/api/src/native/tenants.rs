//! Tenants: their settings, and the secret that signs for endpoints without one of their own.

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::{HeaderMap, StatusCode};
use postrider_core::limits::{EMAILS_MAX, KEY_BYTES_MAX};
use postrider_core::notice::Channels;
use postrider_core::profile::{Profile, SecretScope, Visibility};
use postrider_core::tenant::{
    Mode, Scope, TENANT_SECRET_CONTEXT, Tenant, TenantSecret, TenantSettings,
};
use postrider_core::{Id, Secret, id};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::applications::{merge, merged};
use super::confirmations;
use super::endpoints::present;
use super::views::TenantView;
use crate::auth::Caller;
use crate::problem::{ApiError, ApiResult, ErrorCode};
use crate::random::{seal_nonce, secret_text};
use crate::request::{Path, Query, json, list as list_of, ok, path_id, required};
use crate::{Api, request};

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct NewTenant {
    name: String,
    external_id: Option<String>,
    settings: Option<Map<String, Value>>,
}

pub(crate) async fn create(
    State(api): State<Api>,
    caller: Caller,
    Path(application): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> ApiResult<Response> {
    let application = caller.application(&api, path_id(&application)?).await?.id;
    caller.must_be_live()?;
    let new: NewTenant = api.read(&caller, &headers, body).await?;
    required("name", &new.name, KEY_BYTES_MAX)?;
    if let Some(external_id) = &new.external_id {
        required("externalId", external_id, KEY_BYTES_MAX)?;
    }
    let profile = api.0.directory.profile(application).await?.profile;
    let now = api.now();
    let id = api.store().ids().next(now);
    let (live, live_secret) = fresh_secret(&api, &profile, id, Mode::Live);
    let (test, test_secret) = fresh_secret(&api, &profile, id, Mode::Test);
    // Who makes a tenant is the product, and vouches for the addresses.
    let settings = match new.settings {
        None => TenantSettings::default(),
        Some(mut patch) => {
            confirmations::without_read_only(&mut patch);
            merged(&TenantSettings::default(), patch)?
        }
    };
    check_settings(&api, &settings)?;
    let tenant = Tenant {
        id,
        application,
        name: new.name,
        external_id: new.external_id,
        live_secret,
        test_secret,
        settings,
        created_at: now,
        updated_at: now,
    };
    api.store()
        .create_tenant(tenant.clone(), caller.actor(&api))
        .await?;
    Ok(json(
        StatusCode::CREATED,
        &TenantView::new(tenant, &profile).with_secrets(live.expose(), test.expose()),
    ))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct TenantQuery {
    external_id: Option<String>,
    limit: Option<String>,
    cursor: Option<String>,
}

pub(crate) async fn list(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    Query(query): Query<TenantQuery>,
) -> ApiResult<Response> {
    let application = caller.application(&api, path_id(&id)?).await?.id;
    let profile = api.0.directory.profile(application).await?.profile;
    let view = |tenant| TenantView::new(tenant, &profile);
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
        return Ok(list_of(postrider_store::Page { rows, next: None }, view));
    }
    let page = request::page_request(query.limit.as_deref(), query.cursor.as_deref())?;
    Ok(list_of(
        api.store().list_tenants(application, page).await?,
        view,
    ))
}

/// A secret in the profile's format, and as a tenant keeps it.
fn fresh_secret(
    api: &Api,
    profile: &Profile,
    tenant: Id<id::Tenant>,
    mode: Mode,
) -> (Secret, TenantSecret) {
    let text = secret_text(&profile.secret.format, mode);
    let sealer = &api.0.sealer;
    let sealed = sealer.seal(&text, seal_nonce(), TENANT_SECRET_CONTEXT, tenant.as_u128());
    let since = api.now();
    (text, TenantSecret { sealed, since })
}

/// The tenant's signing secret of a mode.
pub(crate) fn tenant_secret(api: &Api, tenant: &Tenant, mode: Mode) -> ApiResult<Secret> {
    let sealed = &tenant.secret(mode).sealed;
    let opened = api
        .0
        .sealer
        .open(sealed, TENANT_SECRET_CONTEXT, tenant.id.as_u128());
    opened.map_err(ApiError::internal)
}

/// Which of the tenant's secrets; the mode of the caller's key when it is not given.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SecretQuery {
    mode: Option<Mode>,
}

#[derive(Serialize)]
struct TenantSecretView {
    mode: Mode,
    secret: String,
}

/// The tenant's secret, where the profile has one for all its endpoints and shows it again.
pub(crate) async fn read_secret(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    Query(query): Query<SecretQuery>,
) -> ApiResult<Response> {
    let tenant = caller.tenant(&api, path_id(&id)?).await?;
    let mode = caller.mode(query.mode)?;
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
    let secret = tenant_secret(&api, &tenant, mode)?.expose().to_owned();
    Ok(ok(&TenantSecretView { mode, secret }))
}

pub(crate) async fn read(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Response> {
    let tenant = caller.tenant(&api, path_id(&id)?).await?;
    let profile = api.0.directory.profile(tenant.application).await?.profile;
    Ok(ok(&TenantView::new(Tenant::clone(&tenant), &profile)))
}

/// Refuses settings that cannot work.
fn check_settings(api: &Api, settings: &TenantSettings) -> ApiResult<()> {
    let notifications = &settings.notifications;
    for (name, channels) in [
        ("webhooks", &notifications.webhooks),
        ("distributions", &notifications.distributions),
    ] {
        check_channels(api, name, channels)?;
        if channels.email && !api.0.options.mail {
            let field = format!("settings.notifications.{name}.email");
            let rule =
                "this server sends no mail: its operator has to configure notifications.smtp";
            return Err(ApiError::invalid(field, rule));
        }
    }
    if let Some(region) = &settings.region {
        let known: Vec<&str> = api
            .0
            .options
            .regions
            .iter()
            .map(|r| r.name.as_str())
            .collect();
        if !known.contains(&region.as_str()) {
            let rule = match known.as_slice() {
                [] => "this server has no regions".to_owned(),
                known => format!("must be one of: {}", known.join(", ")),
            };
            return Err(ApiError::invalid("settings.region", rule));
        }
    }
    Ok(())
}

fn check_channels(api: &Api, name: &str, channels: &Channels) -> ApiResult<()> {
    let field = format!("settings.notifications.{name}.emails");
    if channels.emails.len() > EMAILS_MAX {
        return Err(ApiError::invalid(
            field,
            format!("must have at most {EMAILS_MAX} entries"),
        ));
    }
    if channels.email && channels.emails.is_empty() {
        return Err(ApiError::invalid(field, "must name who gets the mail"));
    }
    for email in &channels.emails {
        if email.len() > KEY_BYTES_MAX || !(api.0.options.is_mail_address)(email) {
            let rule = format!("{email:?} is not a mail address such as ada@example.com");
            return Err(ApiError::invalid(field, rule));
        }
    }
    Ok(())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TenantPatch {
    #[serde(default, deserialize_with = "present")]
    name: Option<String>,
    #[serde(default, deserialize_with = "present")]
    settings: Option<Map<String, Value>>,
}

pub(crate) async fn update(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> ApiResult<Response> {
    let tenant = caller.tenant(&api, path_id(&id)?).await?;
    caller.must_be_live()?;
    let patch: TenantPatch = api.read(&caller, &headers, body).await?;
    let mut settings = patch.settings.unwrap_or_default();
    let of_tenant = matches!(caller.key.scope, Scope::Tenant(..));
    let consent = confirmations::Consent::new(of_tenant, &settings);
    confirmations::without_read_only(&mut settings);
    if of_tenant && (patch.name.is_some() || settings.contains_key("region")) {
        return Err(ApiError::new(
            ErrorCode::ScopeInsufficient,
            "a tenant's key changes its notifications only",
        ));
    }
    if let Some(name) = &patch.name {
        required("name", name, KEY_BYTES_MAX)?;
    }
    check_settings(&api, &merged(&tenant.settings, settings.clone())?)?;
    let by = caller.actor(&api);
    let now = by.at;
    let change = move |tenant: &mut Tenant| {
        let before = tenant.settings.notifications.clone();
        tenant.name = patch.name.unwrap_or(std::mem::take(&mut tenant.name));
        merge(&mut tenant.settings, settings);
        consent.apply(&before, &mut tenant.settings.notifications);
        tenant.updated_at = now;
    };
    let changed = api.change_tenant(tenant.id, Box::new(change), by).await?;
    confirmations::ask_new(&api, &tenant, &changed).await?;
    let profile = api.0.directory.profile(tenant.application).await?.profile;
    Ok(ok(&TenantView::new(changed, &profile)))
}

/// Replaces the tenant's secret of a mode at once: the documentation of no profile has two at a time.
pub(crate) async fn rotate_secret(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    Query(query): Query<SecretQuery>,
    body: Body,
) -> ApiResult<Response> {
    let tenant = caller.tenant(&api, path_id(&id)?).await?;
    let asked: SecretQuery = api.read_optional(&caller, body).await?;
    if query.mode.is_some() && asked.mode.is_some() && query.mode != asked.mode {
        return Err(ApiError::invalid("mode", "is another one in the query"));
    }
    let mode = caller.mode(asked.mode.or(query.mode))?;
    let profile = api.0.directory.profile(tenant.application).await?.profile;
    let (text, fresh) = fresh_secret(&api, &profile, tenant.id, mode);
    let by = caller.actor(&api);
    let now = by.at;
    let change = move |tenant: &mut Tenant| {
        *tenant.secret_mut(mode) = fresh;
        tenant.updated_at = now;
    };
    api.change_tenant(tenant.id, Box::new(change), by).await?;
    let secret = text.expose().to_owned();
    Ok(ok(&TenantSecretView { mode, secret }))
}
