//! Endpoints: made, listed, changed, tried out and deleted in one place, whichever door asks; and the hidden ones
//! of callback URLs.

mod changing;
mod filters;
mod headers;
mod probe;
mod rules;
mod secrets;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use postrider_core::audit::Actor;
use postrider_core::endpoint::{Endpoint, EndpointKind, EndpointSecret, Ordering, SECRET_CONTEXT};
use postrider_core::endpoint_url::InvalidUrl;
use postrider_core::filter::{Subscription, is_event_type};
use postrider_core::health::{DisableReason, Health};
use postrider_core::limits::{
    CALLBACKS_MAX, KEY_BYTES_MAX, PAGE_ROWS_MAX, SUBSCRIPTION_PATTERNS_MAX,
};
use postrider_core::profile::{KeyBytes, Profile, SecretScope, ed25519_public};
use postrider_core::tenant::{Metadata, Mode, Tenant};
use postrider_core::{Id, Secret, Timestamp, id};
use postrider_store::{EndpointFilter, EndpointListing, Page, PageRequest, Rule, StoreError};
use serde::Deserialize;
use serde_json::Value;

use crate::random::{seal_nonce, secret_text};
use crate::reading::{bounded_page, required};
use crate::refusal::{ErrorCode, Refusal, Result};
use crate::tenants::opened_secret;
use crate::{Caller, CurrentProfile, Service};

pub use changing::EndpointPatch;
pub use filters::FilterTried;
pub use probe::{EndpointStats, TestAsked, Tested};
pub use secrets::{Rotation, SecretShown};

pub(crate) use headers::custom_headers;
pub(crate) use probe::Probes;
pub(crate) use rules::{Lookups, checked_rate, checked_url, must_lead_out, valid_url};
pub(crate) use secrets::rotate;

pub(crate) use filters::content_filter;
use rules::{checked_description, checked_names, subscription};
use utoipa::ToSchema;

/// An endpoint to be made.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct NewEndpoint {
    pub url: String,
    /// The product's own id for it; unique among the tenant's endpoints of its mode.
    pub external_id: Option<String>,
    /// The product's own notes, texts by name.
    #[serde(default)]
    #[schema(value_type = HashMap<String, String>)]
    pub metadata: Metadata,
    /// Names or patterns of event types; all when none are given.
    pub events: Option<Vec<String>>,
    /// Conditions on `data` and `meta`, such as `{"data.amount": {"$gte": 100}}`; only events that meet them are sent.
    #[schema(value_type = Option<HashMap<String, Value>>)]
    pub filter: Option<Value>,
    pub description: Option<String>,
    /// The key's, when it is not given.
    pub mode: Option<Mode>,
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// Deliveries in a second.
    #[schema(minimum = 1, maximum = 100_000)]
    pub rate_limit: Option<u32>,
    #[serde(default)]
    pub ordering: Ordering,
    /// Adds an Ed25519 key, where the profile knows them.
    #[serde(default)]
    pub asymmetric: bool,
    /// One that its owner has already, where the profile lets them bring it; the product may under every profile.
    pub secret: Option<String>,
    #[serde(default)]
    pub content_type: ContentType,
    /// Made disabled with false, which only a vendor's API asks for.
    #[serde(skip)]
    pub active: Option<bool>,
}

/// An endpoint as it was made; its secret is shown once.
#[derive(Debug)]
pub struct EndpointMade {
    pub endpoint: Endpoint,
    pub profile: Arc<Profile>,
    /// What signs: one of its own, or the tenant's, as the profile has it.
    pub secret: Secret,
    pub public_key: Option<String>,
}

impl fmt::Debug for NewEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        without_secrets(f, "NewEndpoint", Some(&self.url))
    }
}

/// A command with secrets and headers in it, which may be passwords, without them.
pub(crate) fn without_secrets(
    f: &mut fmt::Formatter<'_>,
    command: &str,
    url: Option<&str>,
) -> fmt::Result {
    let mut shown = f.debug_struct(command);
    shown.field("url", &url).finish_non_exhaustive()
}

/// What an endpoint's body is, where the profile has a choice.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ContentType {
    #[default]
    Json,
    Form,
}

impl ContentType {
    fn is_form(self, profile: &Profile) -> Result<bool> {
        if self == Self::Form && profile.form_field.is_none() {
            let rule = format!("the profile {} sends JSON only", profile.name);
            return Err(Refusal::invalid("contentType", rule));
        }
        Ok(self == Self::Form)
    }
}

/// Pages of endpoints that are looked through for a text.
const PAGES_LOOKED_THROUGH: usize = 20;

impl Service {
    /// Makes an endpoint.
    ///
    /// # Errors
    /// Of a field that cannot be, `endpoints_max`, `endpoint_needs_key` where the profile's endpoints belong to
    /// keys, or what the store answers.
    pub async fn create_endpoint(
        &self,
        who: &Caller,
        tenant: Id<id::Tenant>,
        new: NewEndpoint,
    ) -> Result<EndpointMade> {
        // Before a name is looked up for them.
        who.must_change()?;
        let tenant = who.tenant(self, tenant).await?;
        let profile = self.profile_of(tenant.application).await?.profile;
        if profile.secret.scope == SecretScope::ApiKey {
            return Err(Refusal::new(
                ErrorCode::EndpointNeedsKey,
                "create an API key with its webhook: POST /v1/keys with tenant and webhook",
            ));
        }
        checked_url(self, &profile, &new.url)?;
        must_lead_out(self, tenant.id, "url", &new.url).await?;
        checked_names(new.external_id.as_deref(), Some(&new.metadata))?;
        checked_description(new.description.as_deref())?;
        checked_rate(new.rate_limit)?;
        let subscription = match new.events {
            Some(events) => subscription(self, &profile, tenant.id, events, None).await?,
            None => Subscription::all(),
        };
        let filter = new.filter.map(content_filter).transpose()?;
        if new.asymmetric && !profile.secret.asymmetric {
            return Err(Refusal::invalid(
                "asymmetric",
                format!("the profile {} has no asymmetric keys", profile.name),
            ));
        }
        let mode = who.mode(new.mode)?;
        let form = new.content_type.is_form(&profile)?;
        let own = new.secret.map(|text| brought(who, &profile, text));
        let own = own.transpose()?;
        let (mut endpoint, mut secret) =
            fresh_endpoint(self, &profile, &tenant, mode, new.url, subscription)?;
        if let Some(own) = own {
            endpoint.secrets = vec![sealed(self, endpoint.id, &own, endpoint.created_at)];
            secret = own;
        }
        endpoint.external_id = new.external_id;
        endpoint.metadata = new.metadata;
        endpoint.filter = filter;
        endpoint.description = new.description;
        endpoint.form = form;
        custom_headers(self, &profile, endpoint.id, &[], new.headers)?.put(&mut endpoint);
        endpoint.rate_limit = new.rate_limit;
        endpoint.ordering = new.ordering;
        let mut public_key = None;
        if new.asymmetric {
            let pair = secrets::fresh_pair()?;
            public_key = ed25519_public(&pair);
            // Behind the secret: the first one is what the audit log dates a rotation by.
            endpoint
                .secrets
                .push(sealed(self, endpoint.id, &pair, endpoint.created_at));
        }
        let by = who.changes(self.now())?;
        set_active(&mut endpoint, new.active, by.at);
        self.store()
            .create_endpoint(endpoint.clone(), Some(profile.endpoints_max()), by)
            .await?;
        Ok(EndpointMade {
            endpoint,
            profile,
            secret,
            public_key,
        })
    }

    /// A tenant's registered endpoints, the newest first, and the profile that they are shown by. Those of one
    /// mode, or of all that the caller may see.
    ///
    /// # Errors
    /// `not_found`, `scope_insufficient`, or what the store answers.
    pub async fn list_endpoints(
        &self,
        who: &Caller,
        tenant: Id<id::Tenant>,
        mode: Option<Mode>,
        page: PageRequest,
    ) -> Result<(Page<Endpoint>, Arc<Profile>)> {
        let listing = EndpointListing::Registered;
        listed(self, who, tenant, listing, mode, false, page).await
    }

    /// Endpoints whose URL, description or id has a text in it, whatever its case, among the newest of a tenant that are looked
    /// through; and whether there are more than those.
    ///
    /// # Errors
    /// As [`Service::list_endpoints`].
    pub async fn find_endpoints(
        &self,
        who: &Caller,
        tenant: Id<id::Tenant>,
        text: &str,
        limit: usize,
    ) -> Result<(Vec<Endpoint>, bool)> {
        let text = text.trim().to_lowercase();
        let has = |whole: &str| whole.to_lowercase().contains(&text);
        let (mut found, mut cursor) = (Vec::new(), None);
        for _ in 0..PAGES_LOOKED_THROUGH {
            let page = PageRequest {
                limit: PAGE_ROWS_MAX,
                cursor,
            };
            let (page, _) = self.list_endpoints(who, tenant, None, page).await?;
            found.extend(page.rows.into_iter().filter(|endpoint| {
                has(&endpoint.url)
                    || endpoint.description.as_deref().is_some_and(has)
                    || has(&endpoint.id.to_string())
            }));
            if found.len() > limit {
                found.truncate(limit);
                return Ok((found, true));
            }
            cursor = page.next;
            if cursor.is_none() {
                return Ok((found, false));
            }
        }
        Ok((found, true))
    }

    /// Endpoints that fail now or were disabled when they did, within the caller's reach: those that have failed for the
    /// longest first.
    ///
    /// # Errors
    /// `scope_insufficient` for whoever is one tenant's, or what the store answers.
    pub async fn failing_endpoints(&self, who: &Caller, limit: u32) -> Result<Vec<Endpoint>> {
        let failing = self.store().failing_endpoints(who.product()?, limit);
        let mut failing = failing.await?;
        // The store asks for no mode here, so there may be fewer than the limit.
        failing.retain(|endpoint| who.may_touch(endpoint.mode));
        Ok(failing)
    }

    /// As [`Service::list_endpoints`], of the mode of the caller's key, and the oldest first if that is asked for.
    ///
    /// # Errors
    /// As [`Service::list_endpoints`].
    pub async fn list_endpoints_in_order(
        &self,
        who: &Caller,
        tenant: Id<id::Tenant>,
        oldest_first: bool,
        page: PageRequest,
    ) -> Result<(Page<Endpoint>, Arc<Profile>)> {
        let (listing, mode) = (EndpointListing::Registered, Some(who.own_mode()));
        listed(self, who, tenant, listing, mode, oldest_first, page).await
    }

    /// What a tenant has that can be sent to, the newest first: its registered endpoints, its distributions and its
    /// API keys' endpoints that the caller may see, so many of each kind at most; and whether there are more.
    ///
    /// # Errors
    /// As [`Service::list_endpoints`].
    pub async fn endpoints_of_every_kind(
        &self,
        who: &Caller,
        tenant: Id<id::Tenant>,
        of_each: usize,
    ) -> Result<(Vec<Endpoint>, bool)> {
        let page = || PageRequest::first(of_each);
        let (registered, profile) = self.list_endpoints(who, tenant, None, page()).await?;
        let mut more = registered.next.is_some();
        let mut endpoints = registered.rows;
        if profile.distribution.is_some() {
            let (listed, _) = self.list_distributions(who, tenant, page()).await?;
            more |= listed.next.is_some();
            endpoints.extend(listed.rows);
        }
        match self.list_keys(who, Some(tenant), page()).await {
            Ok(keys) => {
                more |= keys.next.is_some();
                endpoints.extend(keys.rows.into_iter().filter_map(|key| key.endpoint));
            }
            // A tenant's key does not see the others.
            Err(refusal) if refusal.code == ErrorCode::ScopeInsufficient => {}
            Err(refusal) => return Err(refusal),
        }
        Ok((endpoints, more))
    }

    /// The endpoint with this id, or the profile's form of it.
    ///
    /// # Errors
    /// `not_found`, also where it is another's, or of a mode that the key may not see.
    pub async fn endpoint(&self, who: &Caller, id: &str) -> Result<(Endpoint, CurrentProfile)> {
        found(self, who, id).await
    }

    /// The tenant's registered endpoint of the caller's mode that the product knows by this id of its own, or none,
    /// and the profile that it is shown by.
    ///
    /// # Errors
    /// `not_found` of the tenant, or what the store answers.
    pub async fn endpoint_by_external_id(
        &self,
        who: &Caller,
        tenant: Id<id::Tenant>,
        external_id: &str,
    ) -> Result<(Option<Endpoint>, Arc<Profile>)> {
        let tenant = who.tenant(self, tenant).await?;
        let profile = self.profile_of(tenant.application).await?.profile;
        let store = self.store();
        let named = store.endpoint_by_external_id(tenant.id, who.own_mode(), external_id);
        match named.await {
            Ok(endpoint) => Ok((Some(endpoint), profile)),
            Err(error) if error.is_not_found() => Ok((None, profile)),
            Err(error) => Err(error.into()),
        }
    }

    /// # Errors
    /// `not_found`, of an endpoint that is deleted elsewhere, or what the store answers.
    pub async fn delete_endpoint(&self, who: &Caller, id: &str) -> Result<()> {
        let (endpoint, _) = found(self, who, id).await?;
        must_be_registered(&endpoint)?;
        self.erase_endpoint(endpoint.id, who.changes(self.now())?)
            .await
    }

    /// Whether a URL can be an endpoint's under a profile and the operator's policy, for doors that tell what is
    /// wrong in their own words. Names are not looked up.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check_url(&self, profile: &Profile, url: &str) -> Result<(), InvalidUrl> {
        valid_url(self, profile, url)
    }

    /// The first of some event patterns that a tenant's endpoint cannot have: neither has the profile's catalogue it, nor
    /// did the application declare it, nor is it among those that the endpoint has.
    ///
    /// # Errors
    /// `not_found`, or what the store answers.
    pub async fn unknown_type<'p>(
        &self,
        profile: &Profile,
        tenant: Id<id::Tenant>,
        patterns: &'p [String],
        has: Option<&Subscription>,
    ) -> Result<Option<&'p str>, Refusal> {
        let directory = &self.0.directory;
        let outside = patterns.iter();
        let has = |pattern: &String| has.is_some_and(|has| has.patterns().contains(pattern));
        let outside = outside
            .filter(|pattern| !profile.events.allows_pattern(pattern))
            .filter(|pattern| !has(pattern));
        // Asked one by one: of more than a subscription may have it does not matter which is told.
        for pattern in outside.take(SUBSCRIPTION_PATTERNS_MAX) {
            let declares = is_event_type(pattern) && {
                let application = directory.tenant(tenant).await?.application;
                let known = directory.event_type(&self.0.schemas, application, pattern);
                known.await?.declared
            };
            if !declares {
                return Ok(Some(pattern));
            }
        }
        Ok(None)
    }
}

/// A secret that the owner of an endpoint brings, or the product that moves here with those that its customers have.
fn brought(who: &Caller, profile: &Profile, text: String) -> Result<Secret> {
    if profile.secret.scope == SecretScope::Tenant {
        let rule = "is the tenant's: bring it with the tenant, or to POST /v1/tenants/{tenant}/rotate-secret";
        return Err(Refusal::invalid("secret", rule));
    }
    if !profile.secret.client_set && !who.is_product() {
        let rule = format!("the profile {} makes its secrets itself", profile.name);
        return Err(Refusal::invalid("secret", rule));
    }
    usable(profile, "secret", text)
}

/// A secret that was brought, if it can sign.
pub(crate) fn usable(profile: &Profile, field: &str, text: String) -> Result<Secret> {
    required(field, &text, KEY_BYTES_MAX)?;
    let policy = &profile.secret;
    // Where owners choose theirs, and the text is the key, it may be any.
    let is_any = policy.client_set && policy.key == KeyBytes::Utf8;
    if !is_any && !policy.format.begins(&text) {
        let rule = format!("must begin with {}", policy.format.begin());
        return Err(Refusal::invalid(field, rule));
    }
    if policy.key == KeyBytes::Base64AfterPrefix {
        let prefix = &policy.format.prefix;
        let key = text.strip_prefix(prefix.as_str());
        let bytes = key.and_then(|key| STANDARD.decode(key).ok());
        if !bytes.is_some_and(|bytes| BROUGHT_BYTES.contains(&bytes.len())) {
            let rule = format!(
                "must be {prefix} and {} to {} bytes in base 64",
                BROUGHT_BYTES.start(),
                BROUGHT_BYTES.end()
            );
            return Err(Refusal::invalid(field, rule));
        }
    }
    Ok(Secret::new(text))
}

/// Of a secret that its owner brings: as the Standard Webhooks specification has it.
const BROUGHT_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// A sealed secret in the profile's format, valid without end.
pub(crate) fn sealed(
    service: &Service,
    endpoint: Id<id::Endpoint>,
    secret: &Secret,
    now: Timestamp,
) -> EndpointSecret {
    let sealed = {
        let sealer = &service.0.sealer;
        sealer.seal(secret, seal_nonce(), SECRET_CONTEXT, endpoint.as_u128())
    };
    EndpointSecret {
        sealed,
        created_at: now,
        expires_at: None,
    }
}

/// A new endpoint, and the secret that signs for it: one of its own, or the tenant's, as the profile has it.
pub(crate) fn fresh_endpoint(
    service: &Service,
    profile: &Profile,
    tenant: &Tenant,
    mode: Mode,
    url: String,
    subscription: Subscription,
) -> Result<(Endpoint, Secret)> {
    let mut endpoint = endpoint_without_secret(service, tenant, mode, url, subscription);
    let secret = match profile.secret.scope {
        SecretScope::Tenant => opened_secret(service, tenant, mode)?,
        SecretScope::Endpoint | SecretScope::ApiKey => {
            let secret = secret_text(&profile.secret.format, mode);
            endpoint
                .secrets
                .push(sealed(service, endpoint.id, &secret, endpoint.created_at));
            secret
        }
    };
    Ok((endpoint, secret))
}

/// An endpoint for which the tenant's secret signs.
pub(crate) fn endpoint_without_secret(
    service: &Service,
    tenant: &Tenant,
    mode: Mode,
    url: String,
    subscription: Subscription,
) -> Endpoint {
    let now = service.now();
    Endpoint {
        id: service.store().ids().next(now),
        application: tenant.application,
        tenant: tenant.id,
        kind: EndpointKind::Registered,
        external_id: None,
        metadata: Metadata::new(),
        url,
        description: None,
        subscription,
        filter: None,
        mode,
        headers: Vec::new(),
        secrets: Vec::new(),
        rate_limit: None,
        ordering: Ordering::None,
        form: false,
        health: Health::default(),
        created_at: now,
        updated_at: now,
    }
}

/// The tenant's endpoint for a one-off URL, made when it is new (`docs/systems.md`, V-68, A-40).
pub(crate) async fn callback(
    service: &Service,
    tenant: &Tenant,
    mode: Mode,
    url: String,
) -> Result<Id<id::Endpoint>> {
    let known = service
        .store()
        .callback_endpoint(tenant.id, mode, &url)
        .await?;
    if let Some(known) = known {
        return Ok(known.id);
    }
    let all = Subscription::all();
    let endpoint = endpoint_without_secret(service, tenant, mode, url.clone(), all);
    let id = endpoint.id;
    let endpoint = Endpoint {
        kind: EndpointKind::Callback,
        ..endpoint
    };
    // Nobody has asked for it, and the audit log leaves such endpoints out. It waits on its tenant's account all the same.
    let by = Actor {
        account: tenant.id.as_u128(),
        ..Actor::system(service.now())
    };
    let max = Some(CALLBACKS_MAX);
    match service.store().create_endpoint(endpoint, max, by).await {
        Ok(()) => Ok(id),
        // Another event with this URL was sooner.
        Err(StoreError::Conflict {
            rule: Rule::NameTaken,
        }) => {
            let known = service
                .store()
                .callback_endpoint(tenant.id, mode, &url)
                .await?;
            let known = known.ok_or_else(|| Refusal::internal("a callback came and went"))?;
            Ok(known.id)
        }
        Err(error) => Err(error.into()),
    }
}

/// The endpoint, if the caller may see it, and its profile. Its id, or the profile's form of it.
pub(crate) async fn found(
    service: &Service,
    caller: &Caller,
    text: &str,
) -> Result<(Endpoint, CurrentProfile)> {
    let id: Id<id::Endpoint> = match text.parse() {
        Ok(id) => id,
        Err(_) => {
            // Its profile is known when it is found: until then the forms of all are tried.
            let formats = service
                .engine()
                .profiles()
                .names()
                .into_iter()
                .filter_map(|name| service.engine().profiles().current(&name));
            let ids = service.store().ids();
            let mut ids = formats.filter_map(|current| current.profile.find_endpoint(text, ids));
            ids.next().ok_or_else(|| Refusal::not_found("endpoint"))?
        }
    };
    let endpoint = service.store().endpoint(id).await?;
    let own =
        caller.may_see(endpoint.application, endpoint.tenant) && caller.may_touch(endpoint.mode);
    // No list shows those of callbacks, so nobody may come upon them by an id.
    if !own || endpoint.kind == EndpointKind::Callback {
        return Err(Refusal::not_found("endpoint"));
    }
    let profile = service.0.directory.profile(endpoint.application).await?;
    Ok((endpoint, profile))
}

/// What is signed with the secret of an API key's endpoint is for that key, and for who manages keys,
/// to see and to cause.
pub(crate) fn may_sign(caller: &Caller, endpoint: &Endpoint) -> Result<()> {
    match &endpoint.kind {
        EndpointKind::Key(owner) if caller.is_one_of_tenants_keys() && !caller.has_key(*owner) => {
            Err(Refusal::new(
                ErrorCode::ScopeInsufficient,
                "the endpoint belongs to another API key; use that key, or one of the application",
            ))
        }
        _ => Ok(()),
    }
}

/// Keys' and distributions' endpoints are changed where they belong.
fn must_be_registered(endpoint: &Endpoint) -> Result<()> {
    let place = match &endpoint.kind {
        // `found` gives none of callbacks.
        EndpointKind::Registered | EndpointKind::Callback => return Ok(()),
        EndpointKind::Key(key) => format!("/v1/keys/{key}"),
        EndpointKind::Distribution(_) => format!("/v1/distributions/{}", endpoint.id),
    };
    Err(Refusal::new(
        ErrorCode::AddressUnclear,
        format!("it is changed and deleted at {place}"),
    ))
}

/// A tenant's endpoints of one kind, the newest first, and the profile that they are shown by.
pub(crate) async fn listed(
    service: &Service,
    who: &Caller,
    tenant: Id<id::Tenant>,
    listing: EndpointListing,
    mode: Option<Mode>,
    oldest_first: bool,
    page: PageRequest,
) -> Result<(Page<Endpoint>, Arc<Profile>)> {
    let tenant = who.tenant(service, tenant).await?;
    let profile = service.profile_of(tenant.application).await?.profile;
    let filter = EndpointFilter {
        tenant: tenant.id,
        listing,
        mode: who.shown(mode)?,
        oldest_first,
    };
    let store = service.0.store.clone();
    let list = async move { store.list_endpoints(filter, bounded_page(page)).await };
    Ok((service.listed(who, list).await?, profile))
}

/// Gives it another URL, if there is one: what the old one failed of is not the new one's.
pub(crate) fn move_to(endpoint: &mut Endpoint, url: Option<String>) {
    let Some(url) = url.filter(|url| *url != endpoint.url) else {
        return;
    };
    endpoint.url = url;
    // One that is disabled stays so until somebody enables it.
    if endpoint.health.is_enabled() {
        endpoint.health.enable();
    }
}

/// Enables or disables by hand; enabling starts the counters anew.
pub(crate) fn set_active(endpoint: &mut Endpoint, active: Option<bool>, now: Timestamp) {
    match active {
        // One that is enabled keeps its counters: what it failed of has not ended.
        Some(true) if !endpoint.health.is_enabled() => endpoint.health.enable(),
        Some(false) => endpoint.health.disable(DisableReason::Manual, now),
        Some(true) | None => {}
    }
}
