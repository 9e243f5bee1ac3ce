//! Tenants: their settings, and the secret that signs for endpoints without one of their own.

use std::fmt;
use std::sync::Arc;

use postrider_core::limits::{EMAILS_MAX, KEY_BYTES_MAX};
use postrider_core::notice::Channels;
use postrider_core::profile::{Profile, SecretScope, Visibility};
use postrider_core::tenant::{
    Metadata, Mode, Scope, TENANT_SECRET_CONTEXT, Tenant, TenantSecret, TenantSettings,
};
use postrider_core::{Id, Secret, id};
use postrider_store::{Page, PageRequest, Rule, StoreError, TenantFilter, unconditionally};
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::sync::OwnedSemaphorePermit;
use utoipa::ToSchema;

use crate::applications::merged;
use crate::changes::is_overtaken;
use crate::confirmations;
use crate::endpoints::{usable, without_secrets};
use crate::random::{seal_nonce, secret_text};
use crate::reading::{bounded_page, checked_metadata, nullable, present, required};
use crate::refusal::{ErrorCode, Refusal, Result};
use crate::{Caller, Service};

/// A tenant to be made.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct NewTenant {
    pub name: String,
    pub external_id: Option<String>,
    /// The product's own notes, texts by name.
    #[serde(default)]
    #[schema(value_type = HashMap<String, String>)]
    pub metadata: Metadata,
    #[schema(value_type = Option<TenantSettings>)]
    pub settings: Option<Map<String, Value>>,
    /// The secret of live endpoints that its customer has already, where the profile has one for all of them.
    pub secret: Option<String>,
    /// The same of test endpoints.
    pub test_secret: Option<String>,
}

impl fmt::Debug for NewTenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        without_secrets(f, "NewTenant", None)
    }
}

/// A tenant as it was made; its secrets are shown once.
#[derive(Debug)]
pub struct TenantMade {
    pub tenant: Tenant,
    pub profile: Arc<Profile>,
    pub live: Secret,
    pub test: Secret,
}

/// What changes of a tenant; what is not named stays.
#[derive(Debug, Default, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct TenantPatch {
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    pub name: Option<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub external_id: Option<Option<String>>,
    /// All of it anew.
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<HashMap<String, String>>)]
    pub metadata: Option<Option<Metadata>>,
    /// Merged into those that are there; null takes one back to its default (RFC 7396).
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false, value_type = Option<TenantSettings>)]
    pub settings: Option<Map<String, Value>>,
}

impl Service {
    /// # Errors
    /// Of a field that cannot be, or what the store answers.
    pub async fn create_tenant(
        &self,
        who: &Caller,
        application: Id<id::Application>,
        new: NewTenant,
    ) -> Result<TenantMade> {
        let application = who.application(self, application).await?.id;
        who.must_be_live()?;
        required("name", &new.name, KEY_BYTES_MAX)?;
        if let Some(external_id) = &new.external_id {
            required("externalId", external_id, KEY_BYTES_MAX)?;
        }
        checked_metadata(&new.metadata)?;
        let profile = self.profile_of(application).await?.profile;
        let now = self.now();
        let id = self.store().ids().next(now);
        // Whatever the profile: one-off URLs have no secret but these.
        let of = |mode, own| tenant_secret(self, &profile, id, mode, own);
        let own = new.secret.map(|text| ("secret", text));
        let (live, live_secret) = of(Mode::Live, own)?;
        let own = new.test_secret.map(|text| ("testSecret", text));
        let (test, test_secret) = of(Mode::Test, own)?;
        // Who makes a tenant is the product, and vouches for the addresses.
        let settings = match new.settings {
            None => TenantSettings::default(),
            Some(mut patch) => {
                confirmations::without_read_only(&mut patch);
                merged(&TenantSettings::default(), patch)?
            }
        };
        check_settings(self, &TenantSettings::default(), &settings)?;
        let tenant = Tenant {
            id,
            application,
            name: new.name,
            external_id: new.external_id,
            metadata: new.metadata,
            live_secret,
            test_secret,
            settings,
            created_at: now,
            updated_at: now,
        };
        self.store()
            .create_tenant(
                tenant.clone(),
                profile.name.as_str().into(),
                who.changes(now)?,
            )
            .await?;
        Ok(TenantMade {
            tenant,
            profile,
            live,
            test,
        })
    }

    /// The tenants of an application, the newest first unless the oldest are asked for, and the profile that they are
    /// shown by.
    ///
    /// # Errors
    /// `not_found`, or what the store answers.
    pub async fn list_tenants(
        &self,
        who: &Caller,
        application: Id<id::Application>,
        oldest_first: bool,
        page: PageRequest,
    ) -> Result<(Page<Tenant>, Arc<Profile>)> {
        let application = who.application(self, application).await?.id;
        let profile = self.profile_of(application).await?.profile;
        let filter = TenantFilter {
            application,
            oldest_first,
        };
        let found = self.store().list_tenants(filter, bounded_page(page));
        Ok((found.await?, profile))
    }

    /// The tenant that the product knows by this id of its own, or none.
    ///
    /// # Errors
    /// `not_found` of the application, or what the store answers.
    pub async fn tenant_by_external_id(
        &self,
        who: &Caller,
        application: Id<id::Application>,
        external_id: &str,
    ) -> Result<(Option<Arc<Tenant>>, Arc<Profile>)> {
        let application = who.application(self, application).await?.id;
        let profile = self.profile_of(application).await?.profile;
        let named = self.0.directory.tenant_named(application, external_id);
        match named.await {
            Ok(tenant) => Ok((Some(tenant), profile)),
            Err(refusal) if refusal.code == ErrorCode::NotFound => Ok((None, profile)),
            Err(refusal) => Err(refusal),
        }
    }

    /// The tenant, and the profile that it is shown by.
    ///
    /// # Errors
    /// `not_found`, also where it is another's.
    pub async fn tenant(
        &self,
        who: &Caller,
        id: Id<id::Tenant>,
    ) -> Result<(Arc<Tenant>, Arc<Profile>)> {
        let tenant = who.tenant(self, id).await?;
        let profile = self.profile_of(tenant.application).await?.profile;
        Ok((tenant, profile))
    }

    /// # Errors
    /// Of a field that cannot be, of what a tenant's key may not change, or what the store answers.
    pub async fn change_tenant(
        &self,
        who: &Caller,
        id: Id<id::Tenant>,
        patch: TenantPatch,
    ) -> Result<(Tenant, Arc<Profile>)> {
        let id = who.tenant(self, id).await?.id;
        who.must_be_live()?;
        who.must_change()?;
        let mut look = 1;
        let (tenant, changed) = loop {
            let turn = self.changing(who, id.as_u128()).await;
            let tenant = self.store().tenant(id).await?;
            let made = self.change_tenant_of(who, &tenant, patch.clone(), turn);
            let made = made.await;
            if !is_overtaken(&made, look) {
                break (tenant, made?);
            }
            look += 1;
        };
        // Behind the write: before it, a code would be of an address that nobody waits for.
        if let Err(refusal) = confirmations::ask_new(self, &tenant, &changed).await {
            // What was asked for is stored. Whoever asks for a code again gets one.
            tracing::warn!(
                tenant.id = %id,
                code = refusal.code.as_str(),
                "an address that is new could not be asked whether it wants mail"
            );
        }
        let profile = self.profile_of(tenant.application).await?.profile;
        Ok((changed, profile))
    }

    async fn change_tenant_of(
        &self,
        who: &Caller,
        before: &Tenant,
        patch: TenantPatch,
        turn: OwnedSemaphorePermit,
    ) -> Result<Tenant> {
        let mut settings = patch.settings.unwrap_or_default();
        let of_tenant = matches!(who.scope, Scope::Tenant(..));
        // Before the read-only part goes: by that it tells who sends back what was read.
        let consent = confirmations::Consent::new(of_tenant, &settings);
        let names_settings = !settings.is_empty();
        confirmations::without_read_only(&mut settings);
        let of_product =
            patch.name.is_some() || patch.external_id.is_some() || patch.metadata.is_some();
        // Its names, and where its deliveries leave from, are the product's to say.
        if of_tenant && (of_product || settings.contains_key("region")) {
            return Err(Refusal::new(
                ErrorCode::ScopeInsufficient,
                "a tenant's key changes its notifications only",
            ));
        }
        if let Some(name) = &patch.name {
            required("name", name, KEY_BYTES_MAX)?;
        }
        if let Some(Some(external_id)) = &patch.external_id {
            required("externalId", external_id, KEY_BYTES_MAX)?;
        }
        if let Some(Some(metadata)) = &patch.metadata {
            checked_metadata(metadata)?;
        }
        // Looked at as a whole, which the transaction must find as it was.
        let mut settings = merged(&before.settings, settings)?;
        check_settings(self, &before.settings, &settings)?;
        consent.apply(&before.settings.notifications, &mut settings.notifications);
        let by = who.changes(self.now())?;
        let now = by.at;
        let seen = before.settings.clone();
        let change = move |tenant: &mut Tenant| {
            if names_settings && tenant.settings != seen {
                return Err(StoreError::conflict(Rule::ChangedMeanwhile));
            }
            tenant.name = patch.name.unwrap_or(std::mem::take(&mut tenant.name));
            tenant.external_id = patch.external_id.unwrap_or(tenant.external_id.take());
            if let Some(metadata) = patch.metadata {
                tenant.metadata = metadata.unwrap_or_default();
            }
            if names_settings {
                tenant.settings = settings;
            }
            tenant.updated_at = now;
            Ok(())
        };
        self.write_tenant(before.id, Box::new(change), by, Some(turn))
            .await
    }

    /// The tenant's secret of a mode, the key's where none is given, where the profile has one for all its
    /// endpoints and shows it again.
    ///
    /// # Errors
    /// `secret_not_shown`, and `scope_insufficient` for a live one with a test key.
    pub async fn tenant_secret(
        &self,
        who: &Caller,
        id: Id<id::Tenant>,
        mode: Option<Mode>,
    ) -> Result<(Mode, Secret)> {
        // Who only looks sees no secret.
        who.must_change()?;
        let tenant = who.tenant(self, id).await?;
        let mode = who.mode(mode)?;
        let current = self.profile_of(tenant.application).await?;
        let policy = &current.profile.secret;
        if policy.scope != SecretScope::Tenant || policy.show != Visibility::Always {
            let detail = "this profile shows a tenant's secret only in the answer that made it";
            return Err(Refusal::new(ErrorCode::SecretNotShown, detail));
        }
        Ok((mode, opened_secret(self, &tenant, mode)?))
    }

    /// Replaces the tenant's secret of a mode at once, by one that is brought or made: the documentation of no profile has
    /// two at a time.
    ///
    /// # Errors
    /// `scope_insufficient` for a live one with a test key, or what the store answers.
    pub async fn rotate_tenant_secret(
        &self,
        who: &Caller,
        id: Id<id::Tenant>,
        mode: Option<Mode>,
        own: Option<String>,
    ) -> Result<(Mode, Secret)> {
        let tenant = who.tenant(self, id).await?;
        let mode = who.mode(mode)?;
        let profile = self.profile_of(tenant.application).await?.profile;
        if own.is_some() && !profile.secret.client_set && !who.is_product() {
            let rule = format!("the profile {} makes its secrets itself", profile.name);
            return Err(Refusal::invalid("secret", rule));
        }
        let own = own.map(|text| ("secret", text));
        let (text, fresh) = tenant_secret(self, &profile, tenant.id, mode, own)?;
        let by = who.changes(self.now())?;
        let now = by.at;
        let change = unconditionally(move |tenant: &mut Tenant| {
            *tenant.secret_mut(mode) = fresh;
            tenant.updated_at = now;
        });
        self.write_tenant(tenant.id, change, by, None).await?;
        Ok((mode, text))
    }
}

/// A secret that is brought, or one in the profile's format, and as a tenant keeps it.
fn tenant_secret(
    service: &Service,
    profile: &Profile,
    tenant: Id<id::Tenant>,
    mode: Mode,
    own: Option<(&str, String)>,
) -> Result<(Secret, TenantSecret)> {
    let text = match own {
        Some((field, text)) => {
            if profile.secret.scope != SecretScope::Tenant {
                let rule = format!(
                    "the profile {} has no secret of a tenant: bring those of its endpoints",
                    profile.name
                );
                return Err(Refusal::invalid(field, rule));
            }
            usable(profile, field, text)?
        }
        None => secret_text(&profile.secret.format, mode),
    };
    let sealer = &service.0.sealer;
    let sealed = sealer.seal(&text, seal_nonce(), TENANT_SECRET_CONTEXT, tenant.as_u128());
    let since = service.now();
    Ok((text, TenantSecret { sealed, since }))
}

/// The tenant's signing secret of a mode.
pub(crate) fn opened_secret(service: &Service, tenant: &Tenant, mode: Mode) -> Result<Secret> {
    let sealed = &tenant.secret(mode).sealed;
    let opened = service
        .0
        .sealer
        .open(sealed, TENANT_SECRET_CONTEXT, tenant.id.as_u128());
    opened.map_err(Refusal::internal)
}

/// Refuses settings that cannot work. What stays as it was is not looked at: it may be impossible since the operator changed
/// something, and whoever changes another setting could not mend it.
fn check_settings(
    service: &Service,
    before: &TenantSettings,
    settings: &TenantSettings,
) -> Result<()> {
    let (was, is) = (&before.notifications, &settings.notifications);
    for (name, was, channels) in [
        ("webhooks", &was.webhooks, &is.webhooks),
        ("distributions", &was.distributions, &is.distributions),
    ] {
        if channels == was {
            continue;
        }
        check_channels(service, name, channels)?;
        if channels.email && !service.0.options.mail {
            let field = format!("settings.notifications.{name}.email");
            let rule =
                "this server sends no mail: its operator has to configure notifications.smtp";
            return Err(Refusal::invalid(field, rule));
        }
    }
    if let Some(region) = &settings.region
        && before.region != settings.region
    {
        let known: Vec<&str> = service
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
            return Err(Refusal::invalid("settings.region", rule));
        }
    }
    Ok(())
}

fn check_channels(service: &Service, name: &str, channels: &Channels) -> Result<()> {
    let field = format!("settings.notifications.{name}.emails");
    if channels.emails.len() > EMAILS_MAX {
        return Err(Refusal::invalid(
            field,
            format!("must have at most {EMAILS_MAX} entries"),
        ));
    }
    if channels.email && channels.emails.is_empty() {
        return Err(Refusal::invalid(field, "must name who gets the mail"));
    }
    for email in &channels.emails {
        if email.len() > KEY_BYTES_MAX || !(service.0.options.is_mail_address)(email) {
            let rule = format!("{email:?} is not a mail address such as ada@example.com");
            return Err(Refusal::invalid(field, rule));
        }
    }
    Ok(())
}
