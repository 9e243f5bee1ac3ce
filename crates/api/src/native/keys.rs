//! API keys: create (shown once), list, change, disable, delete; and the endpoint a key may own.

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode};
use ipnet::IpNet;
use postrider_core::endpoint::{Endpoint, EndpointKind};
use postrider_core::filter::Subscription;
use postrider_core::health::DisableReason;
use postrider_core::limits::{ALLOWED_IPS_MAX, KEY_BYTES_MAX};
use postrider_core::profile::Profile;
use postrider_core::seal::sha256;
use postrider_core::tenant::{ApiKey, Mode, Scope, Tenant};
use postrider_core::{Id, Secret, Timestamp, id};
use postrider_store::KeyFilter;
use serde::{Deserialize, Serialize};

use super::endpoints::{checked_url, fresh_endpoint, must_lead_out, nullable, present, rotate};
use crate::Api;
use crate::auth::Caller;
use crate::problem::{ApiError, ApiResult, ErrorCode};
use crate::random::{key_text, public_key_id, seal_nonce, secret_text};
use crate::request::{
    Path, Query, given_id, given_time, json, list as list_of, ok, page_request, path_id, required,
};

/// What the secrets of signing keys are sealed for.
pub(crate) const KEY_SECRET_CONTEXT: &str = "api key secret";

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct NewKey {
    name: String,
    /// None of both makes a root key.
    application: Option<String>,
    tenant: Option<String>,
    /// The caller's, when it is not given.
    mode: Option<Mode>,
    /// URL of an endpoint that the key owns; for a tenant's keys.
    webhook: Option<String>,
    /// Networks that callers must be in; none lets everybody.
    #[serde(default)]
    allowed_ips: Vec<String>,
    /// From then on it opens nothing.
    expires_at: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct KeyView {
    id: Id<id::ApiKey>,
    name: String,
    scope: &'static str,
    application: Option<Id<id::Application>>,
    tenant: Option<Id<id::Tenant>>,
    mode: Mode,
    /// Names the key: where events are addressed to it, and in APIs whose requests are signed.
    public_id: Option<String>,
    active: bool,
    allowed_ips: Vec<IpNet>,
    /// From then on it opens nothing; none is never.
    expires_at: Option<Timestamp>,
    created_at: Timestamp,
    /// The endpoint that it owns.
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint: Option<Id<id::Endpoint>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    webhook: Option<String>,
    /// Bearer text, and the secret that signs requests. Only in the answer that made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    /// Signs what its endpoint gets (SimplifyTrip's checksum key). Only in the answer that made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
}

impl From<ApiKey> for KeyView {
    fn from(key: ApiKey) -> Self {
        let (scope, application, tenant) = match key.scope {
            Scope::Root => ("root", None, None),
            Scope::Application(application) => ("application", Some(application), None),
            Scope::Tenant(application, tenant) => ("tenant", Some(application), Some(tenant)),
        };
        Self {
            id: key.id,
            name: key.name,
            scope,
            application,
            tenant,
            mode: key.mode,
            public_id: key.public_id,
            active: key.disabled_at.is_none(),
            allowed_ips: key.allowed_ips,
            expires_at: key.expires_at,
            created_at: key.created_at,
            endpoint: None,
            webhook: None,
            key: None,
            secret: None,
        }
    }
}

impl KeyView {
    fn with_endpoint(mut self, endpoint: Option<&Endpoint>) -> Self {
        self.endpoint = endpoint.map(|endpoint| endpoint.id);
        self.webhook = endpoint.map(|endpoint| endpoint.url.clone());
        self
    }
}

/// Networks, or single addresses.
pub(crate) fn networks(field: &str, given: &[String]) -> ApiResult<Vec<IpNet>> {
    if given.len() > ALLOWED_IPS_MAX {
        let rule = format!("must have at most {ALLOWED_IPS_MAX} entries");
        return Err(ApiError::invalid(field, rule));
    }
    let network = |text: &String| {
        let address = text.parse::<std::net::IpAddr>().map(IpNet::from);
        let network = address.or_else(|_| text.parse::<IpNet>());
        network.map(as_v4).map_err(|_| {
            let rule = format!("{text:?} is not an address or a network such as 192.0.2.0/24");
            ApiError::invalid(field, rule)
        })
    };
    given.iter().map(network).collect()
}

/// Callers over IPv4 are known by their IPv4 address: a network of mapped ones would hold nobody.
fn as_v4(network: IpNet) -> IpNet {
    const MAPPED_BITS: u8 = 96;
    let IpNet::V6(v6) = network else {
        return network;
    };
    let bits = v6.prefix_len().checked_sub(MAPPED_BITS);
    match (v6.addr().to_ipv4_mapped(), bits) {
        (Some(v4), Some(bits)) => ipnet::Ipv4Net::new(v4, bits).map_or(network, IpNet::V4),
        _ => network,
    }
}

/// When a key is to end: later than now.
fn end(field: &str, text: Option<&str>, now: Timestamp) -> ApiResult<Option<Timestamp>> {
    let at = given_time(field, text)?;
    if at.is_some_and(|at| at <= now) {
        return Err(ApiError::invalid(field, "must be later than now"));
    }
    Ok(at)
}

/// The endpoint of a key, which signs with a secret of its own where the profile has one for each.
fn owned_endpoint(
    api: &Api,
    profile: &Profile,
    tenant: &Tenant,
    key: &ApiKey,
    url: String,
) -> ApiResult<(Endpoint, Secret)> {
    checked_url(api, profile, &url).map_err(|mut error| {
        error.field = Some("webhook".to_owned());
        error
    })?;
    let (endpoint, secret) =
        fresh_endpoint(api, profile, tenant, key.mode, url, Subscription::all())?;
    let endpoint = Endpoint {
        kind: EndpointKind::Key(key.id),
        ..endpoint
    };
    Ok((endpoint, secret))
}

/// A key in the form that the profile gives those of tenants, and what it shows once.
pub(crate) struct FreshKey {
    pub(crate) key: ApiKey,
    pub(crate) text: Secret,
    pub(crate) endpoint: Option<(Endpoint, Secret)>,
}

/// Makes a tenant's key, and the endpoint that it is to own.
pub(crate) fn fresh_key(
    api: &Api,
    profile: &Profile,
    tenant: &Tenant,
    name: String,
    mode: Mode,
    allowed_ips: Vec<IpNet>,
    webhook: Option<String>,
) -> ApiResult<FreshKey> {
    let (public, text) = match &profile.api_keys {
        Some(formats) => (
            secret_text(&formats.public, mode).expose().to_owned(),
            secret_text(&formats.secret, mode),
        ),
        None => (public_key_id(mode), key_text(mode)),
    };
    // A tenant's key may sign requests of a vendor's API; verifying them needs the text, so it is sealed.
    let now = api.now();
    let id: Id<id::ApiKey> = api.store().ids().next(now);
    let sealer = &api.0.sealer;
    let sealed = sealer.seal(&text, seal_nonce(), KEY_SECRET_CONTEXT, id.as_u128());
    let key = ApiKey {
        id,
        name,
        scope: Scope::Tenant(tenant.application, tenant.id),
        mode,
        secret_hash: sha256(text.expose().as_bytes()),
        public_id: Some(public),
        sealed_secret: Some(sealed),
        allowed_ips,
        disabled_at: None,
        expires_at: None,
        created_at: now,
    };
    let owned = webhook.map(|url| owned_endpoint(api, profile, tenant, &key, url));
    Ok(FreshKey {
        endpoint: owned.transpose()?,
        key,
        text,
    })
}

pub(crate) async fn create(
    State(api): State<Api>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> ApiResult<Response> {
    let new: NewKey = api.read(&caller, &headers, body).await?;
    required("name", &new.name, KEY_BYTES_MAX)?;
    let application = given_id("application", new.application.as_deref())?;
    let tenant = given_id("tenant", new.tenant.as_deref())?;
    let allowed_ips = networks("allowedIps", &new.allowed_ips)?;
    let expires_at = end("expiresAt", new.expires_at.as_deref(), api.now())?;
    let mode = caller.mode(new.mode)?;
    if new.webhook.is_some() && tenant.is_none() {
        return Err(ApiError::invalid(
            "webhook",
            "belongs to a tenant's key; name the tenant",
        ));
    }
    if let Some(tenant) = tenant {
        // Whoever may publish for a tenant may give it a key.
        let tenant = caller.publisher(&api, tenant).await?;
        if application.is_some_and(|given| given != tenant.application) {
            return Err(ApiError::not_found("tenant"));
        }
        let profile = api.0.directory.profile(tenant.application).await?.profile;
        if let Some(url) = &new.webhook {
            must_lead_out(&api, "webhook", url).await?;
        }
        let fresh = fresh_key(
            &api,
            &profile,
            &tenant,
            new.name,
            mode,
            allowed_ips,
            new.webhook,
        )?;
        let (endpoint, secret) = fresh.endpoint.unzip();
        let key = ApiKey {
            expires_at,
            ..fresh.key
        };
        api.store()
            .create_key(key.clone(), endpoint.clone(), caller.actor(&api))
            .await?;
        let view = KeyView {
            key: Some(fresh.text.expose().to_owned()),
            secret: secret.map(|secret| secret.expose().to_owned()),
            ..KeyView::from(key).with_endpoint(endpoint.as_ref())
        };
        return Ok(json(StatusCode::CREATED, &view));
    }
    let scope = match application {
        None => {
            caller.must_be_root()?;
            Scope::Root
        }
        Some(application) => Scope::Application(caller.application(&api, application).await?.id),
    };
    let secret = key_text(mode);
    let now = api.now();
    let key = ApiKey {
        id: api.store().ids().next(now),
        name: new.name,
        scope,
        mode,
        secret_hash: sha256(secret.expose().as_bytes()),
        public_id: (scope != Scope::Root).then(|| public_key_id(mode)),
        sealed_secret: None,
        allowed_ips,
        disabled_at: None,
        expires_at,
        created_at: now,
    };
    api.store()
        .create_key(key.clone(), None, caller.actor(&api))
        .await?;
    let view = KeyView {
        key: Some(secret.expose().to_owned()),
        ..KeyView::from(key)
    };
    Ok(json(StatusCode::CREATED, &view))
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeyQuery {
    tenant: Option<String>,
    limit: Option<String>,
    cursor: Option<String>,
}

pub(crate) async fn list(
    State(api): State<Api>,
    caller: Caller,
    Query(query): Query<KeyQuery>,
) -> ApiResult<Response> {
    let application = match caller.key.scope {
        Scope::Root => None,
        Scope::Application(application) => Some(application),
        Scope::Tenant(..) => {
            return Err(ApiError::new(
                ErrorCode::ScopeInsufficient,
                "an application key is needed",
            ));
        }
    };
    let tenant = given_id("tenant", query.tenant.as_deref())?;
    if let Some(tenant) = tenant {
        caller.tenant(&api, tenant).await?;
    }
    let filter = KeyFilter {
        application,
        tenant,
        mode: caller.shown(None)?,
    };
    let page = page_request(query.limit.as_deref(), query.cursor.as_deref())?;
    let page = api.store().list_keys(filter, page).await?;
    let mut rows = Vec::with_capacity(page.rows.len());
    for key in page.rows {
        let endpoint = match key.scope {
            Scope::Tenant(..) => api.store().key_endpoint(key.id).await?,
            Scope::Root | Scope::Application(_) => None,
        };
        rows.push(KeyView::from(key).with_endpoint(endpoint.as_ref()));
    }
    let next = page.next;
    Ok(list_of(postrider_store::Page { rows, next }, |view| view))
}

/// The key, if the caller may manage it.
async fn found(api: &Api, caller: &Caller, id: &str) -> ApiResult<ApiKey> {
    let key = api.store().key(path_id(id)?).await?;
    let allowed = match (caller.key.scope, key.scope) {
        (Scope::Root, _) => true,
        (Scope::Application(own), Scope::Application(other) | Scope::Tenant(other, _)) => {
            own == other
        }
        // A tenant's key may look at itself, and move its own webhook.
        (Scope::Tenant(..), _) => caller.key.id == key.id,
        (Scope::Application(_), _) => false,
    };
    if allowed && caller.may_touch(key.mode) {
        Ok(key)
    } else {
        Err(ApiError::not_found("API key"))
    }
}

pub(crate) async fn read(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Response> {
    let key = found(&api, &caller, &id).await?;
    let endpoint = api.store().key_endpoint(key.id).await?;
    Ok(ok(&KeyView::from(key).with_endpoint(endpoint.as_ref())))
}

/// What a change names; what it does not name stays.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct KeyPatch {
    #[serde(default, deserialize_with = "present")]
    name: Option<String>,
    #[serde(default, deserialize_with = "nullable")]
    webhook: Option<Option<String>>,
    #[serde(default, deserialize_with = "nullable")]
    allowed_ips: Option<Option<Vec<String>>>,
    #[serde(default, deserialize_with = "present")]
    active: Option<bool>,
    #[serde(default, deserialize_with = "nullable")]
    expires_at: Option<Option<String>>,
}

/// A change of a key.
pub(crate) struct KeyChanges {
    pub(crate) name: Option<String>,
    pub(crate) webhook: Option<Option<String>>,
    pub(crate) allowed_ips: Option<Vec<IpNet>>,
    pub(crate) active: Option<bool>,
    pub(crate) expires_at: Option<Option<Timestamp>>,
}

/// Changes a key and its endpoint together; the secret of an endpoint that this makes comes back.
pub(crate) async fn change(
    api: &Api,
    by: postrider_core::audit::Actor,
    key: &ApiKey,
    changes: KeyChanges,
) -> ApiResult<(ApiKey, Option<Endpoint>, Option<Secret>)> {
    let now = by.at;
    let mut fresh = None;
    let mut secret = None;
    if let Some(Some(url)) = &changes.webhook {
        must_lead_out(api, "webhook", url).await?;
        let Scope::Tenant(application, tenant) = key.scope else {
            return Err(ApiError::invalid("webhook", "belongs to a tenant's key"));
        };
        let profile = api.0.directory.profile(application).await?.profile;
        let tenant = api.0.directory.tenant(tenant).await?;
        let (endpoint, made) = owned_endpoint(api, &profile, &tenant, key, url.clone())?;
        secret = Some((endpoint.id, made));
        fresh = Some(endpoint);
    }
    let change = move |key: &mut ApiKey, endpoint: &mut Option<Endpoint>| {
        key.name = changes.name.unwrap_or(std::mem::take(&mut key.name));
        if let Some(allowed_ips) = changes.allowed_ips {
            key.allowed_ips = allowed_ips;
        }
        key.expires_at = changes.expires_at.unwrap_or(key.expires_at);
        match changes.active {
            Some(true) => key.disabled_at = None,
            Some(false) => key.disabled_at = key.disabled_at.or(Some(now)),
            None => {}
        }
        match (changes.webhook, endpoint.as_mut()) {
            (Some(Some(url)), Some(endpoint)) => {
                endpoint.url = url;
                endpoint.updated_at = now;
            }
            (Some(Some(_)), None) => *endpoint = fresh,
            (Some(None), _) => *endpoint = None,
            (None, _) => {}
        }
        if let Some(endpoint) = endpoint {
            // One that its failures disabled is enabled by whoever asks for it, not by any change.
            let asked = changes.active == Some(true);
            match (key.disabled_at, endpoint.health.is_enabled()) {
                (Some(_), true) => endpoint.health.disable(DisableReason::Manual, now),
                (None, false) if asked => endpoint.health.enable(),
                (Some(_), false) | (None, _) => {}
            }
        }
    };
    let (key, endpoint) = api.change_key(key.id, Box::new(change), by).await?;
    // It had an endpoint already, perhaps since a moment ago: that one keeps its secret.
    let secret = secret.filter(|(fresh, _)| endpoint.as_ref().is_some_and(|it| it.id == *fresh));
    Ok((key, endpoint, secret.map(|(_, secret)| secret)))
}

pub(crate) async fn update(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> ApiResult<Response> {
    let key = found(&api, &caller, &id).await?;
    let patch: KeyPatch = api.read(&caller, &headers, body).await?;
    let other = patch.name.is_some() || patch.allowed_ips.is_some() || patch.active.is_some();
    let other = other || patch.expires_at.is_some();
    if matches!(caller.key.scope, Scope::Tenant(..)) && other {
        return Err(ApiError::new(
            ErrorCode::ScopeInsufficient,
            "a tenant's key changes its own webhook only",
        ));
    }
    if let Some(name) = &patch.name {
        required("name", name, KEY_BYTES_MAX)?;
    }
    if patch.active == Some(false) && key.id == caller.key.id {
        return Err(ApiError::invalid("active", "a key cannot disable itself"));
    }
    let allowed_ips = patch
        .allowed_ips
        .map(|given| networks("allowedIps", &given.unwrap_or_default()))
        .transpose()?;
    if let Some(networks) = allowed_ips.as_ref().filter(|_| key.id == caller.key.id) {
        caller.must_stay_in(networks)?;
    }
    let expires_at = patch
        .expires_at
        .map(|given| end("expiresAt", given.as_deref(), api.now()))
        .transpose()?;
    let changes = KeyChanges {
        name: patch.name,
        webhook: patch.webhook,
        allowed_ips,
        active: patch.active,
        expires_at,
    };
    let (key, endpoint, secret) = change(&api, caller.actor(&api), &key, changes).await?;
    let view = KeyView {
        secret: secret.map(|secret| secret.expose().to_owned()),
        ..KeyView::from(key).with_endpoint(endpoint.as_ref())
    };
    Ok(ok(&view))
}

/// Gives the key's endpoint a new secret (SimplifyTrip's checksum key).
pub(crate) async fn rotate_secret(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    body: Body,
) -> ApiResult<Response> {
    let key = found(&api, &caller, &id).await?;
    let endpoint = api.store().key_endpoint(key.id).await?;
    let endpoint = endpoint.ok_or_else(|| {
        ApiError::new(
            ErrorCode::RotationUnsupported,
            "the key owns no endpoint; give it a webhook first",
        )
    })?;
    let profile = api.0.directory.profile(endpoint.application).await?.profile;
    let rotation = api.read_optional(&caller, body).await?;
    rotate(&api, &caller, &endpoint, &profile, &rotation).await
}

/// Deletes a key with its endpoint, and tells the engine.
pub(crate) async fn remove(
    api: &Api,
    by: postrider_core::audit::Actor,
    key: Id<id::ApiKey>,
) -> ApiResult<()> {
    let deleting = api.clone();
    api.to_the_end(async move {
        let deleted = deleting.store().key(key).await?;
        let endpoint = deleting.store().key_endpoint(key).await?;
        deleting.store().delete_key(key, by).await?;
        deleting.0.directory.forget_key(&deleted);
        if let Some(endpoint) = endpoint {
            deleting.engine().endpoint_changed(endpoint.id);
        }
        Ok(())
    })
    .await
}

pub(crate) async fn delete(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Response> {
    let key = found(&api, &caller, &id).await?;
    if matches!(caller.key.scope, Scope::Tenant(..)) {
        return Err(ApiError::new(
            ErrorCode::ScopeInsufficient,
            "an application key deletes keys",
        ));
    }
    remove(&api, caller.actor(&api), key.id).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
