//! Endpoints: create, list, read, change, delete; and the hidden ones of callback URLs.

mod headers;
mod probe;
mod rules;
mod secrets;

use std::collections::BTreeMap;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, StatusCode};
use postrider_core::audit::Actor;
use postrider_core::endpoint::{Endpoint, EndpointKind, EndpointSecret, Ordering, SECRET_CONTEXT};
use postrider_core::filter::Subscription;
use postrider_core::health::{DisableReason, Health};
use postrider_core::limits::{CALLBACKS_MAX, KEY_BYTES_MAX};
use postrider_core::profile::{KeyBytes, Profile, SecretScope, ed25519_public};
use postrider_core::tenant::{Mode, Scope, Tenant};
use postrider_core::{Id, Secret, Timestamp, id};
use postrider_engine::CurrentProfile;
use postrider_store::{EndpointFilter, EndpointListing, Rule, StoreError};
use serde::Deserialize;

use super::views::EndpointView;
use crate::Api;
use crate::auth::Caller;
use crate::problem::{ApiError, ApiResult, ErrorCode};
use crate::random::{seal_nonce, secret_text};
use crate::request::{Paging, Path, Query, json, list as list_of, ok, path_id, required};

use super::tenants::tenant_secret;
pub(super) use headers::custom_headers;
pub(super) use rules::{checked_description, checked_rate, checked_url, subscription};

pub(crate) use probe::{Probes, TestEvent, send_test, stats, test};
pub(crate) use rules::{must_lead_out, valid_url};
pub(crate) use secrets::{rotate, rotate_secret, secret};

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct NewEndpoint {
    url: String,
    events: Option<Vec<String>>,
    description: Option<String>,
    /// The key's, when it is not given.
    mode: Option<Mode>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    rate_limit: Option<u32>,
    #[serde(default)]
    ordering: Ordering,
    /// Adds an Ed25519 key, where the profile knows them.
    #[serde(default)]
    asymmetric: bool,
    /// Where the profile lets its owner bring one.
    secret: Option<String>,
    #[serde(default)]
    content_type: ContentType,
}

/// What an endpoint's body is, where the profile has a choice.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ContentType {
    #[default]
    Json,
    Form,
}

impl ContentType {
    fn is_form(self, profile: &Profile) -> ApiResult<bool> {
        if self == Self::Form && profile.form_field.is_none() {
            let rule = format!("the profile {} sends JSON only", profile.name);
            return Err(ApiError::invalid("contentType", rule));
        }
        Ok(self == Self::Form)
    }
}

/// A secret that the owner of an endpoint brings.
fn brought(profile: &Profile, text: String) -> ApiResult<Secret> {
    if !profile.secret.client_set {
        let rule = format!("the profile {} makes its secrets itself", profile.name);
        return Err(ApiError::invalid("secret", rule));
    }
    required("secret", &text, KEY_BYTES_MAX)?;
    let policy = &profile.secret;
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
            return Err(ApiError::invalid("secret", rule));
        }
    }
    Ok(Secret::new(text))
}

/// Of a secret that its owner brings: as the Standard Webhooks specification has it.
const BROUGHT_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// A sealed secret in the profile's format, valid without end.
fn sealed(
    api: &Api,
    endpoint: Id<id::Endpoint>,
    secret: &Secret,
    now: Timestamp,
) -> EndpointSecret {
    let sealed = {
        let sealer = &api.0.sealer;
        sealer.seal(secret, seal_nonce(), SECRET_CONTEXT, endpoint.as_u128())
    };
    EndpointSecret {
        sealed,
        created_at: now,
        expires_at: None,
    }
}

/// An endpoint as a dialect or the native API is about to store it, and the secret that signs for it:
/// one of its own, or the tenant's, as the profile has it.
pub(crate) fn fresh_endpoint(
    api: &Api,
    profile: &Profile,
    tenant: &Tenant,
    mode: Mode,
    url: String,
    subscription: Subscription,
) -> ApiResult<(Endpoint, Secret)> {
    let mut endpoint = endpoint_without_secret(api, tenant, mode, url, subscription);
    let secret = match profile.secret.scope {
        SecretScope::Tenant => tenant_secret(api, tenant, mode)?,
        SecretScope::Endpoint | SecretScope::ApiKey => {
            let secret = secret_text(&profile.secret.format, mode);
            endpoint
                .secrets
                .push(sealed(api, endpoint.id, &secret, endpoint.created_at));
            secret
        }
    };
    Ok((endpoint, secret))
}

/// An endpoint for which the tenant's secret signs.
pub(super) fn endpoint_without_secret(
    api: &Api,
    tenant: &Tenant,
    mode: Mode,
    url: String,
    subscription: Subscription,
) -> Endpoint {
    let now = api.now();
    Endpoint {
        id: api.store().ids().next(now),
        application: tenant.application,
        tenant: tenant.id,
        kind: EndpointKind::Registered,
        url,
        description: None,
        subscription,
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
    api: &Api,
    tenant: &Tenant,
    mode: Mode,
    url: String,
) -> ApiResult<Id<id::Endpoint>> {
    let known = api.store().callback_endpoint(tenant.id, mode, &url).await?;
    if let Some(known) = known {
        return Ok(known.id);
    }
    let all = Subscription::all();
    let endpoint = endpoint_without_secret(api, tenant, mode, url.clone(), all);
    let id = endpoint.id;
    let endpoint = Endpoint {
        kind: EndpointKind::Callback,
        ..endpoint
    };
    let by = Actor::system(api.now());
    let max = Some(CALLBACKS_MAX);
    match api.store().create_endpoint(endpoint, max, by).await {
        Ok(()) => Ok(id),
        // Another event with this URL was sooner.
        Err(StoreError::Conflict {
            rule: Rule::NameTaken,
        }) => {
            let known = api.store().callback_endpoint(tenant.id, mode, &url).await?;
            let known = known.ok_or_else(|| ApiError::internal("a callback came and went"))?;
            Ok(known.id)
        }
        Err(error) => Err(error.into()),
    }
}

pub(crate) async fn create(
    State(api): State<Api>,
    caller: Caller,
    Path(tenant): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> ApiResult<Response> {
    let tenant = caller.tenant(&api, path_id(&tenant)?).await?;
    let new: NewEndpoint = api.read(&caller, &headers, body).await?;
    let profile = api.0.directory.profile(tenant.application).await?.profile;
    if profile.secret.scope == SecretScope::ApiKey {
        return Err(ApiError::new(
            ErrorCode::EndpointNeedsKey,
            "create an API key with its webhook: POST /v1/keys with tenant and webhook",
        ));
    }
    checked_url(&api, &profile, &new.url)?;
    must_lead_out(&api, "url", &new.url).await?;
    checked_description(new.description.as_deref())?;
    checked_rate(new.rate_limit)?;
    let subscription = new.events.map_or_else(
        || Ok(Subscription::all()),
        |events| subscription(&profile, events),
    )?;
    if new.asymmetric && !profile.secret.asymmetric {
        return Err(ApiError::invalid(
            "asymmetric",
            format!("the profile {} has no asymmetric keys", profile.name),
        ));
    }
    let mode = caller.mode(new.mode)?;
    let form = new.content_type.is_form(&profile)?;
    let own = new.secret.map(|text| brought(&profile, text)).transpose()?;
    let (mut endpoint, mut secret) =
        fresh_endpoint(&api, &profile, &tenant, mode, new.url, subscription)?;
    if let Some(own) = own {
        endpoint.secrets = vec![sealed(&api, endpoint.id, &own, endpoint.created_at)];
        secret = own;
    }
    endpoint.description = new.description;
    endpoint.form = form;
    custom_headers(&api, &profile, endpoint.id, &[], new.headers)?.put(&mut endpoint);
    endpoint.rate_limit = new.rate_limit;
    endpoint.ordering = new.ordering;
    let mut public_key = None;
    if new.asymmetric {
        let pair = secrets::fresh_pair()?;
        public_key = ed25519_public(&pair);
        endpoint
            .secrets
            .push(sealed(&api, endpoint.id, &pair, endpoint.created_at));
    }
    api.store()
        .create_endpoint(
            endpoint.clone(),
            Some(profile.endpoints_max()),
            caller.actor(&api),
        )
        .await?;
    Ok(json(
        StatusCode::CREATED,
        &EndpointView::new(endpoint, &profile).with_secret(secret.expose(), public_key),
    ))
}

pub(crate) async fn list(
    State(api): State<Api>,
    caller: Caller,
    Path(tenant): Path<String>,
    Query(paging): Query<Paging>,
) -> ApiResult<Response> {
    let tenant = caller.tenant(&api, path_id(&tenant)?).await?;
    let profile = api.0.directory.profile(tenant.application).await?.profile;
    let filter = EndpointFilter {
        tenant: tenant.id,
        listing: EndpointListing::Registered,
        mode: caller.shown(None)?,
    };
    let page = api
        .store()
        .list_endpoints(filter, paging.request()?)
        .await?;
    Ok(list_of(page, |endpoint| {
        EndpointView::new(endpoint, &profile)
    }))
}

/// The endpoint, if the caller may see it, and its profile. Its id, or the profile's form of it.
pub(super) async fn found(
    api: &Api,
    caller: &Caller,
    text: &str,
) -> ApiResult<(Endpoint, CurrentProfile)> {
    let id: Id<id::Endpoint> = match text.parse() {
        Ok(id) => id,
        Err(_) => {
            let formats = api
                .engine()
                .profiles()
                .names()
                .into_iter()
                .filter_map(|name| api.engine().profiles().current(&name));
            let ids = api.store().ids();
            let mut ids = formats.filter_map(|current| current.profile.find_endpoint(text, ids));
            ids.next().ok_or_else(|| ApiError::not_found("endpoint"))?
        }
    };
    let endpoint = api.store().endpoint(id).await?;
    let own =
        caller.may_see(endpoint.application, endpoint.tenant) && caller.may_touch(endpoint.mode);
    if !own || endpoint.kind == EndpointKind::Callback {
        return Err(ApiError::not_found("endpoint"));
    }
    let profile = api.0.directory.profile(endpoint.application).await?;
    Ok((endpoint, profile))
}

pub(crate) async fn read(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Response> {
    let (endpoint, profile) = found(&api, &caller, &id).await?;
    Ok(ok(&EndpointView::new(endpoint, &profile.profile)))
}

/// What is signed with the secret of an API key's endpoint is for that key, and for who manages keys,
/// to see and to cause.
pub(super) fn may_sign(caller: &Caller, endpoint: &Endpoint) -> ApiResult<()> {
    match (&endpoint.kind, caller.key.scope) {
        (EndpointKind::Key(owner), Scope::Tenant(..)) if *owner != caller.key.id => {
            Err(ApiError::new(
                ErrorCode::ScopeInsufficient,
                "the endpoint belongs to another API key; use that key, or one of the application",
            ))
        }
        _ => Ok(()),
    }
}

/// Keys' and distributions' endpoints are changed where they belong.
fn must_be_registered(endpoint: &Endpoint) -> ApiResult<()> {
    let place = match &endpoint.kind {
        EndpointKind::Registered | EndpointKind::Callback => return Ok(()),
        EndpointKind::Key(key) => format!("/v1/keys/{key}"),
        EndpointKind::Distribution(_) => format!("/v1/distributions/{}", endpoint.id),
    };
    Err(ApiError::new(
        ErrorCode::AddressUnclear,
        format!("it is changed and deleted at {place}"),
    ))
}

/// What a change names; what it does not name stays.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct EndpointPatch {
    #[serde(default, deserialize_with = "present")]
    url: Option<String>,
    #[serde(default, deserialize_with = "nullable")]
    events: Option<Option<Vec<String>>>,
    #[serde(default, deserialize_with = "nullable")]
    description: Option<Option<String>>,
    #[serde(default, deserialize_with = "nullable")]
    headers: Option<Option<BTreeMap<String, String>>>,
    #[serde(default, deserialize_with = "nullable")]
    rate_limit: Option<Option<u32>>,
    #[serde(default, deserialize_with = "nullable")]
    ordering: Option<Option<Ordering>>,
    #[serde(default, deserialize_with = "present")]
    active: Option<bool>,
    #[serde(default, deserialize_with = "present")]
    secret: Option<String>,
    #[serde(default, deserialize_with = "nullable")]
    content_type: Option<Option<ContentType>>,
}

/// For what may be left out of a change but not be null (RFC 7396: null takes away).
pub(super) fn present<'de, T: Deserialize<'de>, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// Tells null, which clears, from absence, which keeps.
pub(super) fn nullable<'de, T: Deserialize<'de>, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

pub(crate) async fn update(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> ApiResult<Response> {
    let (endpoint, CurrentProfile { profile, .. }) = found(&api, &caller, &id).await?;
    must_be_registered(&endpoint)?;
    let patch: EndpointPatch = api.read(&caller, &headers, body).await?;
    if let Some(url) = &patch.url {
        checked_url(&api, &profile, url)?;
        must_lead_out(&api, "url", url).await?;
    }
    checked_description(patch.description.as_ref().and_then(|text| text.as_deref()))?;
    checked_rate(patch.rate_limit.flatten())?;
    let subscription = match patch.events {
        Some(Some(events)) => Some(subscription(&profile, events)?),
        Some(None) => Some(Subscription::all()),
        None => None,
    };
    let (id, known) = (endpoint.id, &endpoint.headers);
    let custom = patch
        .headers
        .map(|given| custom_headers(&api, &profile, id, known, given.unwrap_or_default()))
        .transpose()?;
    let by = caller.actor(&api);
    let now = by.at;
    let own = patch
        .secret
        .map(|text| brought(&profile, text))
        .transpose()?;
    let own = own.map(|secret| sealed(&api, endpoint.id, &secret, now));
    let opening = api.clone();
    let form = patch
        .content_type
        .map(|given| given.unwrap_or_default().is_form(&profile));
    let form = form.transpose()?;
    let changed = api
        .change_endpoint(
            endpoint.id,
            Box::new(move |endpoint| {
                endpoint.url = patch.url.unwrap_or(std::mem::take(&mut endpoint.url));
                endpoint.description = patch.description.unwrap_or(endpoint.description.take());
                endpoint.rate_limit = patch.rate_limit.unwrap_or(endpoint.rate_limit);
                if let Some(ordering) = patch.ordering {
                    endpoint.ordering = ordering.unwrap_or_default();
                }
                if let Some(subscription) = subscription {
                    endpoint.subscription = subscription;
                }
                if let Some(custom) = custom {
                    custom.put(endpoint);
                }
                if let Some(own) = own {
                    // It takes the place of the secrets, not of an Ed25519 key beside them.
                    let id = endpoint.id;
                    let is_pair = |secret: &_| secrets::is_pair(&opening, id, secret);
                    endpoint.secrets.retain(is_pair);
                    endpoint.secrets.insert(0, own);
                }
                endpoint.form = form.unwrap_or(endpoint.form);
                set_active(endpoint, patch.active, now);
                endpoint.updated_at = now;
            }),
            by,
        )
        .await?;
    Ok(ok(&EndpointView::new(changed, &profile)))
}

/// Enables or disables by hand; enabling starts the counters anew.
pub(crate) fn set_active(endpoint: &mut Endpoint, active: Option<bool>, now: Timestamp) {
    match active {
        Some(true) if !endpoint.health.is_enabled() => endpoint.health.enable(),
        Some(false) => endpoint.health.disable(DisableReason::Manual, now),
        Some(true) | None => {}
    }
}

pub(crate) async fn delete(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Response> {
    let (endpoint, _) = found(&api, &caller, &id).await?;
    must_be_registered(&endpoint)?;
    api.delete_endpoint(endpoint.id, caller.actor(&api)).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
