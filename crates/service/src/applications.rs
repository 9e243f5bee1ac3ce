//! Applications and their settings.

use std::sync::Arc;

use postrider_core::branding::{Branding, Colour, LOGO_BYTES_MAX, Logo, NAME_BYTES_MAX};
use postrider_core::limits::KEY_BYTES_MAX;
use postrider_core::profile::LEFT_OUT;
use postrider_core::tenant::{Application, ApplicationSettings};
use postrider_core::{Id, id};
use postrider_store::{Page, PageRequest, Rule, StoreError};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::changes::is_overtaken;
use crate::reading::{bounded_page, only_known, present, required};
use crate::refusal::{ErrorCode, Refusal, Result};
use crate::retention::DAYS_MAX;
use crate::sessions::origins;
use crate::{Caller, Service};

/// An application to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewApplication {
    pub name: String,
    /// Name of a profile this server knows.
    #[serde(default = "standard")]
    pub profile: String,
    #[schema(value_type = Option<ApplicationSettings>)]
    pub settings: Option<Map<String, Value>>,
}

fn standard() -> String {
    "standard".to_owned()
}

/// What changes of an application; what is not named stays.
#[derive(Debug, Default, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ApplicationPatch {
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    pub name: Option<String>,
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    pub profile: Option<String>,
    /// Merged into those that are there; null takes one back to its default (RFC 7396).
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false, value_type = Option<ApplicationSettings>)]
    pub settings: Option<Map<String, Value>>,
}

impl Service {
    /// Makes an application; a root key may.
    ///
    /// # Errors
    /// Of a field that cannot be, or what the store answers.
    pub async fn create_application(
        &self,
        who: &Caller,
        new: NewApplication,
    ) -> Result<Application> {
        who.must_be_root()?;
        who.must_be_live()?;
        required("name", &new.name, KEY_BYTES_MAX)?;
        must_be_profile(self, &new.profile)?;
        let now = self.now();
        let settings = match new.settings {
            None => ApplicationSettings::default(),
            Some(patch) => merged(&ApplicationSettings::default(), patch)?,
        };
        let application = Application {
            id: self.store().ids().next(now),
            name: new.name,
            profile: new.profile,
            settings,
            created_at: now,
            updated_at: now,
        };
        check_settings(self, None, &application).await?;
        self.store()
            .create_application(application.clone(), who.changes(now)?)
            .await?;
        Ok(application)
    }

    /// All applications, the newest first, for a root key.
    ///
    /// # Errors
    /// `scope_insufficient`, or what the store answers.
    pub async fn list_applications(
        &self,
        who: &Caller,
        page: PageRequest,
    ) -> Result<Page<Application>> {
        who.must_be_root()?;
        Ok(self.store().list_applications(bounded_page(page)).await?)
    }

    /// # Errors
    /// `not_found`, also where it is another's.
    pub async fn application(
        &self,
        who: &Caller,
        id: Id<id::Application>,
    ) -> Result<Arc<Application>> {
        who.application(self, id).await
    }

    /// # Errors
    /// Of a field that cannot be, of what only the operator changes, or what the store answers.
    pub async fn change_application(
        &self,
        who: &Caller,
        id: Id<id::Application>,
        patch: ApplicationPatch,
    ) -> Result<Application> {
        let id = who.application(self, id).await?.id;
        who.must_be_live()?;
        who.must_change()?;
        let mut look = 1;
        loop {
            let made = self.change_application_once(who, id, patch.clone()).await;
            if !is_overtaken(&made, look) {
                return made;
            }
            look += 1;
        }
    }

    async fn change_application_once(
        &self,
        who: &Caller,
        id: Id<id::Application>,
        patch: ApplicationPatch,
    ) -> Result<Application> {
        let turn = self.changing(who, id.as_u128()).await;
        let before = self.store().application(id).await?;
        let settings = patch.settings.unwrap_or_default();
        let is_compared = patch.profile.is_some() || !settings.is_empty();
        // The product chooses its own settings; what reaches beyond it is the operator's.
        let beyond = ["operationsTenant", "retentionDays"];
        let reaches_beyond = beyond.iter().any(|name| settings.contains_key(*name));
        if patch.name.is_some() || patch.profile.is_some() || reaches_beyond {
            who.must_be_root()?;
        }
        if settings.contains_key("retentionDays") {
            who.must_own("what is deleted for good")?;
        }
        if let Some(name) = &patch.name {
            required("name", name, KEY_BYTES_MAX)?;
        }
        if let Some(profile) = &patch.profile {
            must_be_profile(self, profile)?;
        }
        // Looked at as a whole, which the transaction must find as it was.
        let mut imagined = before.clone();
        imagined.settings = merged(&before.settings, settings)?;
        if let Some(profile) = &patch.profile {
            imagined.profile.clone_from(profile);
        }
        check_settings(self, Some(&before), &imagined).await?;
        let by = who.changes(self.now())?;
        let now = by.at;
        let change = move |application: &mut Application| {
            let (is, was) = (&application, &before);
            if is_compared && (is.settings != was.settings || is.profile != was.profile) {
                return Err(StoreError::conflict(Rule::ChangedMeanwhile));
            }
            application.name = patch.name.unwrap_or(std::mem::take(&mut application.name));
            application.profile = patch
                .profile
                .unwrap_or(std::mem::take(&mut application.profile));
            if is_compared {
                application.settings = imagined.settings;
            }
            application.updated_at = now;
            Ok(())
        };
        self.write_application(id, Box::new(change), by, turn).await
    }
}

fn must_be_profile(service: &Service, name: &str) -> Result<()> {
    if service.engine().profiles().current(name).is_some() {
        return Ok(());
    }
    let known = service.engine().profiles().names().join(", ");
    Err(Refusal::invalid(
        "profile",
        format!("must be one of: {known}"),
    ))
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
pub(crate) fn merged<T: Serialize + DeserializeOwned>(
    current: &T,
    patch: Map<String, Value>,
) -> Result<T> {
    let mut whole = serde_json::to_value(current).map_err(Refusal::internal)?;
    // What is taken away is absent then, and reads as its default.
    merge_patch(&mut whole, Value::Object(patch));
    serde_path_to_error::deserialize(&whole)
        .map_err(|error| {
            let path = error.path().to_string();
            let field = if path == "." {
                "settings".to_owned()
            } else {
                format!("settings.{path}")
            };
            Refusal::invalid(field, error.into_inner().to_string())
        })
        .and_then(|merged| {
            // The type itself is tolerant, for the sake of what is stored.
            only_known(&whole, &merged)
                .map_err(|name| Refusal::invalid(format!("settings.{name}"), "is not a setting"))?;
            Ok(merged)
        })
}

/// Bytes of what an application calls a mode.
const MODE_NAME_BYTES_MAX: usize = 32;

/// Refuses settings that name what is not there. What stays as it was is not looked at: it may be impossible since somebody
/// deleted what it names, and whoever changes another setting may be nobody who could mend it.
async fn check_settings(
    service: &Service,
    before: Option<&Application>,
    application: &Application,
) -> Result<()> {
    let defaults = ApplicationSettings::default();
    let (was, is) = (
        before.map_or(&defaults, |before| &before.settings),
        &application.settings,
    );
    if is.mode_names != was.mode_names {
        check_mode_names(is)?;
    }
    let is_of_profile = before.is_some_and(|before| before.profile == application.profile);
    if is.extra_headers != was.extra_headers || !is_of_profile {
        check_extra_headers(service, application)?;
    }
    if is.branding != was.branding {
        check_branding(&is.branding)?;
    }
    if is.frame_origins != was.frame_origins {
        origins("settings.frameOrigins", &is.frame_origins)?;
    }
    let days = is.retention_days;
    if days.is_some_and(|days| !(1..=DAYS_MAX).contains(&days)) {
        let rule = format!("must be 1 to {DAYS_MAX}, or null for as long as the server keeps it");
        return Err(Refusal::invalid("settings.retentionDays", rule));
    }
    match is.operations_tenant {
        Some(tenant) if is.operations_tenant != was.operations_tenant => {
            check_operations_tenant(service, application, tenant).await
        }
        _ => Ok(()),
    }
}

fn check_mode_names(settings: &ApplicationSettings) -> Result<()> {
    if let Some(names) = &settings.mode_names {
        let modes = [("live", &names.live), ("test", &names.test)];
        for (mode, name) in modes {
            let plain = |byte: u8| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\';
            if name.is_empty() || name.len() > MODE_NAME_BYTES_MAX || !name.bytes().all(plain) {
                let rule =
                    format!("must be 1 to {MODE_NAME_BYTES_MAX} printable characters of ASCII");
                return Err(Refusal::invalid(format!("settings.modeNames.{mode}"), rule));
            }
        }
        if names.live == names.test {
            let rule = "must not be the same for both modes";
            return Err(Refusal::invalid("settings.modeNames", rule));
        }
    }
    Ok(())
}

fn check_extra_headers(service: &Service, application: &Application) -> Result<()> {
    let profile = service.engine().profiles().current(&application.profile);
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
            return Err(Refusal::invalid("settings.extraHeaders", rule));
        }
    }
    Ok(())
}

async fn check_operations_tenant(
    service: &Service,
    application: &Application,
    operations: Id<id::Tenant>,
) -> Result<()> {
    let field = "settings.operationsTenant";
    let tenant = match service.0.directory.tenant(operations).await {
        Ok(tenant) => tenant,
        Err(error) if error.code == ErrorCode::NotFound => {
            return Err(Refusal::invalid(field, "there is no such tenant"));
        }
        Err(error) => return Err(error),
    };
    let owner = service.0.directory.application(tenant.application).await?;
    // What happens there would be told there again, without end.
    if owner.id == application.id || owner.settings.operations_tenant.is_some() {
        let rule = "must be a tenant of another application, which has no operationsTenant itself";
        return Err(Refusal::invalid(field, rule));
    }
    Ok(())
}

fn check_branding(branding: &Branding) -> Result<()> {
    let wrong = |field: &str, rule: String| {
        let field = format!("settings.branding.{field}");
        Err(Refusal::invalid(field, rule))
    };
    if let Some(name) = &branding.name {
        required("settings.branding.name", name, NAME_BYTES_MAX)?;
    }
    if let Some(logo) = &branding.logo {
        if logo.len() > LOGO_BYTES_MAX {
            return wrong("logo", format!("must have at most {LOGO_BYTES_MAX} bytes"));
        }
        if Logo::read(logo).is_none() {
            let rule = "must be a data URL of a picture, such as data:image/svg+xml;base64,… (SVG, PNG, JPEG, GIF, WebP)";
            return wrong("logo", rule.to_owned());
        }
    }
    if branding
        .accent
        .as_ref()
        .is_some_and(|text| Colour::read(text).is_none())
    {
        return wrong("accent", "must be a colour such as #2457c5".to_owned());
    }
    Ok(())
}
