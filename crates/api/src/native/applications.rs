//! Applications and their settings.

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::{HeaderMap, StatusCode};
use postrider_core::limits::KEY_BYTES_MAX;
use postrider_core::profile::LEFT_OUT;
use postrider_core::tenant::{Application, ApplicationSettings, Scope};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::endpoints::present;
use super::views::ApplicationView;
use crate::Api;
use crate::auth::Caller;
use crate::problem::{ApiError, ApiResult, ErrorCode};
use crate::request::{
    Paging, Path, Query, json, list as list_of, ok, only_known, path_id, required,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewApplication {
    name: String,
    #[serde(default = "standard")]
    profile: String,
    settings: Option<Map<String, Value>>,
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
    caller.must_be_live()?;
    let new: NewApplication = api.read(&caller, &headers, body).await?;
    required("name", &new.name, KEY_BYTES_MAX)?;
    must_be_profile(&api, &new.profile)?;
    let now = api.now();
    let settings = match new.settings {
        None => ApplicationSettings::default(),
        Some(patch) => merged(&ApplicationSettings::default(), patch)?,
    };
    let application = Application {
        id: api.store().ids().next(now),
        name: new.name,
        profile: new.profile,
        settings,
        created_at: now,
        updated_at: now,
    };
    check_settings(&api, &application).await?;
    api.store()
        .create_application(application.clone(), caller.actor(&api))
        .await?;
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
    #[serde(default, deserialize_with = "present")]
    name: Option<String>,
    #[serde(default, deserialize_with = "present")]
    profile: Option<String>,
    #[serde(default, deserialize_with = "present")]
    settings: Option<Map<String, Value>>,
}

/// RFC 7396: members are merged at every level, null takes one away, all else is replaced.
fn merge_patch(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(whole) = target else { return };
    for (name, value) in patch {
        match value {
            Value::Null => drop(whole.remove(&name)),
            value => merge_patch(whole.entry(name).or_insert(Value::Null), value),
        }
    }
}

/// Settings with some of them changed; null takes one back to its default.
pub(super) fn merged<T: Serialize + DeserializeOwned>(
    current: &T,
    patch: Map<String, Value>,
) -> ApiResult<T> {
    let mut whole = serde_json::to_value(current).map_err(ApiError::internal)?;
    merge_patch(&mut whole, Value::Object(patch));
    serde_path_to_error::deserialize(&whole)
        .map_err(|error| {
            let path = error.path().to_string();
            let field = if path == "." {
                "settings".to_owned()
            } else {
                format!("settings.{path}")
            };
            ApiError::invalid(field, error.into_inner().to_string())
        })
        .and_then(|merged| {
            only_known(&whole, &merged).map_err(|name| {
                ApiError::invalid(format!("settings.{name}"), "is not a setting")
            })?;
            Ok(merged)
        })
}

/// [`merged`] inside the transaction of a change. Each setting is checked by itself before, so it
/// fits whatever another request has made of the others meanwhile.
pub(super) fn merge<T: Serialize + DeserializeOwned>(current: &mut T, patch: Map<String, Value>) {
    if let Ok(settings) = merged(current, patch) {
        *current = settings;
    }
}

/// Bytes of what an application calls a mode.
const MODE_NAME_BYTES_MAX: usize = 32;

/// Refuses settings that name what is not there.
async fn check_settings(api: &Api, application: &Application) -> ApiResult<()> {
    let profile = api.engine().profiles().current(&application.profile);
    if let Some(names) = &application.settings.mode_names {
        let modes = [("live", &names.live), ("test", &names.test)];
        for (mode, name) in modes {
            let plain = |byte: u8| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\';
            if name.is_empty() || name.len() > MODE_NAME_BYTES_MAX || !name.bytes().all(plain) {
                let rule =
                    format!("must be 1 to {MODE_NAME_BYTES_MAX} printable characters of ASCII");
                return Err(ApiError::invalid(
                    format!("settings.modeNames.{mode}"),
                    rule,
                ));
            }
        }
        if names.live == names.test {
            let rule = "must not be the same for both modes";
            return Err(ApiError::invalid("settings.modeNames", rule));
        }
    }
    for name in application.settings.extra_headers.iter().flatten() {
        let name = name.strip_prefix(LEFT_OUT).unwrap_or(name);
        let headers = profile.iter().flat_map(|current| &current.profile.headers);
        let optional: Vec<&str> = headers
            .filter(|header| header.extra.is_some())
            .map(|header| header.name.as_str())
            .collect();
        if !optional
            .iter()
            .any(|known| known.eq_ignore_ascii_case(name))
        {
            let rule = match optional.as_slice() {
                [] => format!(
                    "the profile {} has no optional headers",
                    application.profile
                ),
                known => format!("must be among {}", known.join(", ")),
            };
            return Err(ApiError::invalid("settings.extraHeaders", rule));
        }
    }
    let Some(operations) = application.settings.operations_tenant else {
        return Ok(());
    };
    let field = "settings.operationsTenant";
    let tenant = match api.0.directory.tenant(operations).await {
        Ok(tenant) => tenant,
        Err(error) if error.code == ErrorCode::NotFound => {
            return Err(ApiError::invalid(field, "there is no such tenant"));
        }
        Err(error) => return Err(error),
    };
    let owner = api.0.directory.application(tenant.application).await?;
    // What happens there would be told there again, without end.
    if owner.id == application.id || owner.settings.operations_tenant.is_some() {
        let rule = "must be a tenant of another application, which has no operationsTenant itself";
        return Err(ApiError::invalid(field, rule));
    }
    Ok(())
}

pub(crate) async fn update(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> ApiResult<Response> {
    let before = caller.application(&api, path_id(&id)?).await?;
    caller.must_be_live()?;
    let patch: ApplicationPatch = api.read(&caller, &headers, body).await?;
    let settings = patch.settings.unwrap_or_default();
    // The product chooses its own settings; what reaches beyond it is the operator's.
    if patch.name.is_some() || patch.profile.is_some() || settings.contains_key("operationsTenant")
    {
        caller.must_be_root()?;
    }
    if let Some(name) = &patch.name {
        required("name", name, KEY_BYTES_MAX)?;
    }
    if let Some(profile) = &patch.profile {
        may_take_profile(&api, &before, profile).await?;
    }
    let mut imagined = Application::clone(&before);
    imagined.settings = merged(&before.settings, settings.clone())?;
    if let Some(profile) = &patch.profile {
        imagined.profile.clone_from(profile);
    }
    check_settings(&api, &imagined).await?;
    let by = caller.actor(&api);
    let now = by.at;
    let change = move |application: &mut Application| {
        application.name = patch.name.unwrap_or(std::mem::take(&mut application.name));
        application.profile = patch
            .profile
            .unwrap_or(std::mem::take(&mut application.profile));
        merge(&mut application.settings, settings);
        application.updated_at = now;
    };
    let changing = api.clone();
    let changed = api
        .to_the_end(async move {
            let id = imagined.id;
            let store = changing.store();
            let changed = store.update_application(id, Box::new(change), by).await?;
            changing.0.directory.forget(id);
            changing.engine().owner_changed(id);
            Ok(changed)
        })
        .await?;
    Ok(ok(&ApplicationView::from(changed)))
}

/// Refuses another profile for an application with tenants: secrets have the form of the profile
/// they were made under.
async fn may_take_profile(api: &Api, application: &Application, profile: &str) -> ApiResult<()> {
    must_be_profile(api, profile)?;
    if profile == application.profile {
        return Ok(());
    }
    let page = postrider_store::PageRequest::first(1);
    let tenants = api.store().list_tenants(application.id, page).await?;
    if tenants.rows.is_empty() {
        return Ok(());
    }
    Err(ApiError::new(
        ErrorCode::ProfileInUse,
        "create a new application with the other profile and move its tenants",
    ))
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
