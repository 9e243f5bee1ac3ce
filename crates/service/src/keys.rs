//! API keys: shown once when they are made, changed, disabled, deleted; and the endpoint a key may own.

mod bringing;
mod rotating;

pub use rotating::KeyRotation;

use std::fmt;

use ipnet::IpNet;
use postrider_core::address;
use postrider_core::endpoint::{Endpoint, EndpointKind};
use postrider_core::filter::Subscription;
use postrider_core::health::DisableReason;
use postrider_core::limits::{ALLOWED_IPS_MAX, KEY_BYTES_MAX, KEYS_MAX};
use postrider_core::profile::Profile;
use postrider_core::seal::sha256;
use postrider_core::tenant::{ApiKey, Mode, Scope, Tenant};
use postrider_core::{Id, Secret, Timestamp, id};
use postrider_store::{KeyFilter, Page, PageRequest};
use serde::Deserialize;
use utoipa::ToSchema;

use self::bringing::{Brought, not_made, of_tenants};
use crate::endpoints::{
    Rotation, SecretShown, checked_url, fresh_endpoint, move_to, must_lead_out, rotate, sealed,
    without_secrets,
};
use crate::random::{key_text, public_key_id, seal_nonce, secret_text};
use crate::reading::{bounded_page, nullable, present, required};
use crate::refusal::{ErrorCode, Refusal, Result};
use crate::{Caller, Service};

/// Whoever makes one may do all that it may.
const PRODUCT_KEYS: &str = "about the keys of products";
/// What the secrets of signing keys are sealed for.
pub(crate) const KEY_SECRET_CONTEXT: &str = "api key secret";

/// A key to be made.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct NewKey {
    pub name: String,
    /// None of both makes a root key.
    pub application: Option<Id<id::Application>>,
    pub tenant: Option<Id<id::Tenant>>,
    /// The caller's, when it is not given.
    pub mode: Option<Mode>,
    /// URL of an endpoint that the key owns; for a tenant's keys.
    pub webhook: Option<String>,
    /// Networks that callers must be in; none lets everybody.
    #[serde(default)]
    pub allowed_ips: Vec<String>,
    /// From then on it opens nothing.
    pub expires_at: Option<Timestamp>,
    /// It sees what is in its scope but secrets, and changes and sends nothing.
    #[serde(default)]
    pub read_only: bool,
    /// Its id and text, both, that a customer of a system that moves here has already; for a tenant's keys.
    pub public_id: Option<String>,
    pub key: Option<String>,
    /// The same: what signs for its webhook.
    pub secret: Option<String>,
}

impl fmt::Debug for NewKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        without_secrets(f, "NewKey", self.webhook.as_deref())
    }
}

/// A key with the endpoint that it owns.
#[derive(Debug)]
pub struct KeyShown {
    pub key: ApiKey,
    pub endpoint: Option<Endpoint>,
}

/// A key as it was made; what it is and what signs are shown once.
#[derive(Debug)]
pub struct KeyMade {
    pub shown: KeyShown,
    /// Bearer text, and the secret that signs requests.
    pub text: Secret,
    /// Signs what its endpoint gets (SimplifyTrip's checksum key).
    pub secret: Option<Secret>,
}

/// What changes of a key; what is not named stays, and null takes away.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct KeyPatch {
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    pub name: Option<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub webhook: Option<Option<String>>,
    #[serde(default, deserialize_with = "nullable")]
    pub allowed_ips: Option<Option<Vec<String>>>,
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    pub active: Option<bool>,
    #[serde(default, deserialize_with = "nullable")]
    pub expires_at: Option<Option<Timestamp>>,
}

impl Service {
    /// Makes a key: for the server, an application, or a tenant.
    ///
    /// # Errors
    /// Of a field that cannot be, `scope_insufficient` for more than the caller has, or what the store answers.
    pub async fn create_key(&self, who: &Caller, mut new: NewKey) -> Result<KeyMade> {
        required("name", &new.name, KEY_BYTES_MAX)?;
        let allowed_ips = networks("allowedIps", &new.allowed_ips)?;
        must_be_later("expiresAt", new.expires_at, self.now())?;
        let mode = who.mode(new.mode)?;
        let made = match new.tenant {
            Some(tenant) => {
                // Whoever may publish for a tenant may give it a key.
                let tenant = who.publisher(self, tenant).await?;
                if new
                    .application
                    .is_some_and(|given| given != tenant.application)
                {
                    return Err(Refusal::not_found("tenant"));
                }
                let profile = self.profile_of(tenant.application).await?.profile;
                if let Some(url) = &new.webhook {
                    must_lead_out(self, tenant.id, "webhook", url).await?;
                }
                let brought = Brought::checked(&profile, &mut new)?;
                tenant_key(
                    self,
                    &profile,
                    &tenant,
                    new.name,
                    mode,
                    new.webhook,
                    brought,
                )?
            }
            None if let Some(field) = of_tenants(&new) => {
                let rule = "belongs to a tenant's key; name the tenant";
                return Err(Refusal::invalid(field, rule));
            }
            None => {
                who.must_own(PRODUCT_KEYS)?;
                let scope = match new.application {
                    None => {
                        who.must_be_root()?;
                        Scope::Root
                    }
                    Some(application) => {
                        Scope::Application(who.application(self, application).await?.id)
                    }
                };
                product_key(self, scope, new.name, mode)
            }
        };
        let key = ApiKey {
            allowed_ips,
            read_only: new.read_only,
            expires_at: new.expires_at,
            ..made.shown.key
        };
        let endpoint = made.shown.endpoint;
        self.store()
            .create_key(
                key.clone(),
                endpoint.clone(),
                KEYS_MAX,
                who.changes(self.now())?,
            )
            .await
            .map_err(not_made)?;
        Ok(KeyMade {
            shown: KeyShown { key, endpoint },
            ..made
        })
    }

    /// The keys of all, an application, or a tenant, the newest first.
    ///
    /// # Errors
    /// `scope_insufficient` for a tenant's key, `not_found`, or what the store answers.
    pub async fn list_keys(
        &self,
        who: &Caller,
        tenant: Option<Id<id::Tenant>>,
        page: PageRequest,
    ) -> Result<Page<KeyShown>> {
        let application = match who.scope {
            Scope::Root => None,
            Scope::Application(application) => Some(application),
            // A customer in the portal is the whole tenant, and none of its keys.
            Scope::Tenant(application, own)
                if !who.is_one_of_tenants_keys() && tenant == Some(own) =>
            {
                Some(application)
            }
            Scope::Tenant(..) => {
                return Err(Refusal::new(
                    ErrorCode::ScopeInsufficient,
                    "an application key is needed",
                ));
            }
        };
        if let Some(tenant) = tenant {
            who.tenant(self, tenant).await?;
        }
        let filter = KeyFilter {
            application,
            tenant,
            mode: who.shown(None)?,
        };
        let page = self.store().list_keys(filter, bounded_page(page)).await?;
        let mut rows = Vec::with_capacity(page.rows.len());
        for key in page.rows {
            let endpoint = match key.scope {
                Scope::Tenant(..) => self.store().key_endpoint(key.id).await?,
                Scope::Root | Scope::Application(_) => None,
            };
            rows.push(KeyShown { key, endpoint });
        }
        let next = page.next;
        Ok(Page { rows, next })
    }

    /// # Errors
    /// `not_found`, also where it is another's.
    pub async fn key(&self, who: &Caller, id: Id<id::ApiKey>) -> Result<KeyShown> {
        let key = found(self, who, id).await?;
        let endpoint = self.store().key_endpoint(key.id).await?;
        Ok(KeyShown { key, endpoint })
    }

    /// Changes a key and its endpoint together; the secret of an endpoint that this makes comes back.
    ///
    /// # Errors
    /// Of a field that cannot be, `scope_insufficient`, or what the store answers.
    pub async fn change_key(
        &self,
        who: &Caller,
        id: Id<id::ApiKey>,
        patch: KeyPatch,
    ) -> Result<(KeyShown, Option<Secret>)> {
        let key = managed(self, who, id).await?;
        let other = patch.name.is_some() || patch.allowed_ips.is_some() || patch.active.is_some();
        let other = other || patch.expires_at.is_some();
        if matches!(who.scope, Scope::Tenant(..)) && other {
            return Err(Refusal::new(
                ErrorCode::ScopeInsufficient,
                "a tenant's key changes its own webhook only",
            ));
        }
        if let Some(name) = &patch.name {
            required("name", name, KEY_BYTES_MAX)?;
        }
        if patch.active == Some(false) && who.has_key(key.id) {
            return Err(Refusal::invalid("active", "a key cannot disable itself"));
        }
        let allowed_ips = patch
            .allowed_ips
            .map(|given| networks("allowedIps", &given.unwrap_or_default()))
            .transpose()?;
        if let Some(networks) = allowed_ips.as_ref().filter(|_| who.has_key(key.id)) {
            who.must_stay_in(networks)?;
        }
        must_be_later("expiresAt", patch.expires_at.flatten(), self.now())?;
        // Before a name is looked up for them.
        let by = who.changes(self.now())?;
        let now = by.at;
        let (fresh, secret) = match &patch.webhook {
            // Made although there may be one: that shows in the transaction, where this one is dropped then.
            Some(Some(url)) => {
                let (endpoint, secret) = first_webhook(self, &key, url).await?;
                (Some(endpoint), Some(secret))
            }
            Some(None) | None => (None, None),
        };
        let fresh_id = fresh.as_ref().map(|endpoint| endpoint.id);
        let change = move |key: &mut ApiKey, endpoint: &mut Option<Endpoint>| {
            key.name = patch.name.unwrap_or(std::mem::take(&mut key.name));
            if let Some(allowed_ips) = allowed_ips {
                key.allowed_ips = allowed_ips;
            }
            key.expires_at = patch.expires_at.unwrap_or(key.expires_at);
            match patch.active {
                Some(true) => key.disabled_at = None,
                Some(false) => key.disabled_at = key.disabled_at.or(Some(now)),
                None => {}
            }
            match (patch.webhook, endpoint.as_mut()) {
                (Some(Some(url)), Some(endpoint)) => {
                    move_to(endpoint, Some(url));
                    endpoint.updated_at = now;
                }
                (Some(Some(_)), None) => *endpoint = fresh,
                (Some(None), _) => *endpoint = None,
                (None, _) => {}
            }
            if let Some(endpoint) = endpoint {
                // One that its failures disabled is enabled by whoever asks for it, not by any change.
                let asked = patch.active == Some(true);
                match (key.disabled_at, endpoint.health.is_enabled()) {
                    (Some(_), true) => endpoint.health.disable(DisableReason::Manual, now),
                    (None, false) if asked => endpoint.health.enable(),
                    (Some(_), false) | (None, _) => {}
                }
            }
        };
        let (key, endpoint) = self.write_key(key.id, Box::new(change), by).await?;
        // It had an endpoint already, perhaps since a moment ago: that one keeps its secret.
        let is_fresh = endpoint.as_ref().map(|endpoint| endpoint.id) == fresh_id;
        let secret = secret.filter(|_| is_fresh);
        Ok((KeyShown { key, endpoint }, secret))
    }

    /// Gives the key's endpoint a new secret (SimplifyTrip's checksum key).
    ///
    /// # Errors
    /// `rotation_unsupported` where it owns none or the profile knows no rotation, `not_found`.
    pub async fn rotate_key_secret(
        &self,
        who: &Caller,
        id: Id<id::ApiKey>,
        rotation: &Rotation,
    ) -> Result<SecretShown> {
        let key = found(self, who, id).await?;
        let endpoint = self.store().key_endpoint(key.id).await?;
        let endpoint = endpoint.ok_or_else(|| {
            Refusal::new(
                ErrorCode::RotationUnsupported,
                "the key owns no endpoint; give it a webhook first",
            )
        })?;
        let profile = self.profile_of(endpoint.application).await?.profile;
        rotate(self, who, &endpoint, &profile, rotation).await
    }

    /// Deletes a key with its endpoint.
    ///
    /// # Errors
    /// `scope_insufficient` for a tenant's key, `last_root_key`, `not_found`, or what the store answers.
    pub async fn delete_key(&self, who: &Caller, id: Id<id::ApiKey>) -> Result<()> {
        let key = managed(self, who, id).await?;
        if matches!(who.scope, Scope::Tenant(..)) {
            return Err(Refusal::new(
                ErrorCode::ScopeInsufficient,
                "an application key deletes keys",
            ));
        }
        self.erase_key(key.id, who.changes(self.now())?).await
    }
}

/// Networks, or single addresses.
fn networks(field: &str, given: &[String]) -> Result<Vec<IpNet>> {
    if given.len() > ALLOWED_IPS_MAX {
        let rule = format!("must have at most {ALLOWED_IPS_MAX} entries");
        return Err(Refusal::invalid(field, rule));
    }
    let network = |text: &String| {
        let address = text.parse::<std::net::IpAddr>().map(IpNet::from);
        let network = address.or_else(|_| text.parse::<IpNet>());
        network.map(address::as_v4).map_err(|_| {
            let rule = format!("{text:?} is not an address or a network such as 192.0.2.0/24");
            Refusal::invalid(field, rule)
        })
    };
    given.iter().map(network).collect()
}

/// Refuses an end that is none any more.
fn must_be_later(field: &str, at: Option<Timestamp>, now: Timestamp) -> Result<()> {
    if at.is_some_and(|at| at <= now) {
        return Err(Refusal::invalid(field, "must be later than now"));
    }
    Ok(())
}

/// The endpoint of a key, which signs with a secret of its own where the profile has one for each.
fn owned_endpoint(
    service: &Service,
    profile: &Profile,
    tenant: &Tenant,
    key: &ApiKey,
    url: String,
) -> Result<(Endpoint, Secret)> {
    checked_url(service, profile, &url).map_err(|mut error| {
        error.field = Some("webhook".to_owned());
        error
    })?;
    let (endpoint, secret) =
        fresh_endpoint(service, profile, tenant, key.mode, url, Subscription::all())?;
    let endpoint = Endpoint {
        kind: EndpointKind::Key(key.id),
        ..endpoint
    };
    Ok((endpoint, secret))
}

/// The endpoint that a key without one gets with a webhook.
async fn first_webhook(service: &Service, key: &ApiKey, url: &str) -> Result<(Endpoint, Secret)> {
    let Scope::Tenant(application, tenant) = key.scope else {
        return Err(Refusal::invalid("webhook", "belongs to a tenant's key"));
    };
    must_lead_out(service, tenant, "webhook", url).await?;
    let profile = service.profile_of(application).await?.profile;
    let tenant = service.0.directory.tenant(tenant).await?;
    owned_endpoint(service, &profile, &tenant, key, url.to_owned())
}

/// A tenant's key, one that is brought or in the form that the profile gives them, and the endpoint that it is to own.
fn tenant_key(
    service: &Service,
    profile: &Profile,
    tenant: &Tenant,
    name: String,
    mode: Mode,
    webhook: Option<String>,
    brought: Brought,
) -> Result<KeyMade> {
    let (public, text) = match &profile.api_keys {
        _ if let Some(pair) = brought.pair => pair,
        Some(formats) => (
            secret_text(&formats.public, mode).expose().to_owned(),
            secret_text(&formats.secret, mode),
        ),
        None => (public_key_id(mode), key_text(mode)),
    };
    // A tenant's key may sign requests of a vendor's API; verifying them needs the text, so it is sealed.
    let now = service.now();
    let id: Id<id::ApiKey> = service.store().ids().next(now);
    let sealer = &service.0.sealer;
    let sealed_text = sealer.seal(&text, seal_nonce(), KEY_SECRET_CONTEXT, id.as_u128());
    let key = ApiKey {
        id,
        name,
        scope: Scope::Tenant(tenant.application, tenant.id),
        mode,
        secret_hash: sha256(text.expose().as_bytes()),
        public_id: Some(public),
        sealed_secret: Some(sealed_text),
        allowed_ips: Vec::new(),
        read_only: false,
        disabled_at: None,
        expires_at: None,
        created_at: now,
        rotated_at: None,
        previous: None,
    };
    let owned = webhook.map(|url| owned_endpoint(service, profile, tenant, &key, url));
    let (mut endpoint, mut secret) = owned.transpose()?.unzip();
    if let (Some(endpoint), Some(own)) = (&mut endpoint, brought.secret) {
        endpoint.secrets = vec![sealed(service, endpoint.id, &own, now)];
        secret = Some(own);
    }
    Ok(KeyMade {
        shown: KeyShown { key, endpoint },
        text,
        secret,
    })
}

/// A key of the operator or of an application.
fn product_key(service: &Service, scope: Scope, name: String, mode: Mode) -> KeyMade {
    let text = key_text(mode);
    let now = service.now();
    let key = ApiKey {
        id: service.store().ids().next(now),
        name,
        scope,
        mode,
        secret_hash: sha256(text.expose().as_bytes()),
        public_id: (scope != Scope::Root).then(|| public_key_id(mode)),
        sealed_secret: None,
        allowed_ips: Vec::new(),
        read_only: false,
        disabled_at: None,
        expires_at: None,
        created_at: now,
        rotated_at: None,
        previous: None,
    };
    KeyMade {
        shown: KeyShown {
            key,
            endpoint: None,
        },
        text,
        secret: None,
    }
}

/// The key, if the caller may change what it is.
async fn managed(service: &Service, who: &Caller, id: Id<id::ApiKey>) -> Result<ApiKey> {
    let key = found(service, who, id).await?;
    if !matches!(key.scope, Scope::Tenant(..)) {
        who.must_own(PRODUCT_KEYS)?;
    }
    Ok(key)
}

/// The key, if the caller may manage it.
async fn found(service: &Service, who: &Caller, id: Id<id::ApiKey>) -> Result<ApiKey> {
    let key = service.store().key(id).await?;
    let allowed = match (who.scope, key.scope) {
        (Scope::Root, _) => true,
        (Scope::Application(own), Scope::Application(other) | Scope::Tenant(other, _)) => {
            own == other
        }
        // A tenant's key may look at itself, and move its own webhook; a customer in the portal has all of the
        // tenant's.
        (Scope::Tenant(_, own), Scope::Tenant(_, other)) if !who.is_one_of_tenants_keys() => {
            own == other
        }
        (Scope::Tenant(..), _) => who.has_key(key.id),
        (Scope::Application(_), _) => false,
    };
    if allowed && who.may_touch(key.mode) {
        Ok(key)
    } else {
        Err(Refusal::not_found("API key"))
    }
}
