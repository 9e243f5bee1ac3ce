//! Distributions: named sets of events with an endpoint of their own, live or paused.

use std::collections::BTreeMap;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode};
use postrider_core::distribution::{Distribution, Payload};
use postrider_core::endpoint::{Endpoint, EndpointKind};
use postrider_core::filter::Subscription;
use postrider_core::limits::{ENDPOINTS_MAX, KEY_BYTES_MAX};
use postrider_core::profile::{DistributionSpec, Profile};
use postrider_core::tenant::Mode;
use postrider_core::{Id, Timestamp, id};
use postrider_store::{EndpointFilter, EndpointListing};
use serde::{Deserialize, Serialize};

use super::endpoints::{
    checked_rate, checked_url, custom_headers, found as found_endpoint, fresh_endpoint,
    must_lead_out, nullable, present, set_active,
};
use super::views::starred;
use crate::Api;
use crate::auth::Caller;
use crate::problem::{ApiError, ApiResult, ErrorCode};
use crate::request::{
    Paging, Path, Query, json, list as list_of, nullable_strictly, ok, path_id, required, strictly,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    #[default]
    Live,
    Paused,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct NewDistribution {
    name: String,
    /// The `type` of its webhooks.
    event_name: String,
    url: String,
    /// Event types that trigger it.
    events: Vec<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "strictly")]
    payload: Payload,
    rate_limit: Option<u32>,
    mode: Option<Mode>,
    #[serde(default)]
    status: Status,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DistributionView {
    id: Id<id::Endpoint>,
    /// The id as receivers know it.
    wire_id: String,
    application: Id<id::Application>,
    tenant: Id<id::Tenant>,
    name: String,
    event_name: String,
    url: String,
    events: Subscription,
    headers: BTreeMap<String, &'static str>,
    payload: Payload,
    rate_limit: Option<u32>,
    mode: Mode,
    status: Status,
    /// Why it is paused: by hand, or for its failures.
    paused_reason: Option<&'static str>,
    paused_at: Option<Timestamp>,
    created_at: Timestamp,
    updated_at: Timestamp,
}

impl DistributionView {
    fn new(endpoint: Endpoint, profile: &Profile) -> Option<Self> {
        let wire_id = profile.endpoint_id(endpoint.id, &endpoint.kind);
        let EndpointKind::Distribution(distribution) = endpoint.kind else {
            return None;
        };
        let paused = endpoint.health.disabled;
        Some(Self {
            id: endpoint.id,
            wire_id,
            application: endpoint.application,
            tenant: endpoint.tenant,
            name: distribution.name,
            event_name: distribution.event_name,
            url: endpoint.url,
            events: endpoint.subscription,
            headers: starred(endpoint.headers),
            payload: distribution.payload,
            rate_limit: endpoint.rate_limit,
            mode: endpoint.mode,
            status: if paused.is_none() {
                Status::Live
            } else {
                Status::Paused
            },
            paused_reason: paused.map(|paused| paused.reason.as_str()),
            paused_at: paused.map(|paused| paused.at),
            created_at: endpoint.created_at,
            updated_at: endpoint.updated_at,
        })
    }
}

fn spec(profile: &Profile) -> ApiResult<&DistributionSpec> {
    profile.distribution.as_ref().ok_or_else(|| {
        ApiError::new(
            ErrorCode::DistributionUnsupported,
            format!("the profile {} has endpoints only", profile.name),
        )
    })
}

fn triggers(spec: &DistributionSpec, events: Vec<String>) -> ApiResult<Subscription> {
    if let Some(unknown) = events.iter().find(|name| !spec.allows(name)) {
        let known = spec.events.iter().flatten().cloned();
        return Err(ApiError::field(
            ErrorCode::EventTypeUnknown,
            "events",
            format!(
                "{unknown:?} does not trigger distributions; those that do are {}",
                known.collect::<Vec<_>>().join(", ")
            ),
        ));
    }
    Subscription::new(events).map_err(|error| {
        ApiError::field(ErrorCode::SubscriptionInvalid, "events", error.to_string())
    })
}

fn checked_payload(payload: &Payload) -> ApiResult<()> {
    let checked = payload.check();
    checked.map_err(|error| ApiError::invalid("payload.fields", error.to_string()))
}

pub(crate) async fn create(
    State(api): State<Api>,
    caller: Caller,
    Path(tenant): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> ApiResult<Response> {
    let tenant = caller.tenant(&api, path_id(&tenant)?).await?;
    let profile = api.0.directory.profile(tenant.application).await?.profile;
    let spec = spec(&profile)?;
    let new: NewDistribution = api.read(&caller, &headers, body).await?;
    required("name", &new.name, KEY_BYTES_MAX)?;
    required("eventName", &new.event_name, KEY_BYTES_MAX)?;
    checked_url(&api, &profile, &new.url)?;
    must_lead_out(&api, "url", &new.url).await?;
    checked_rate(new.rate_limit)?;
    checked_payload(&new.payload)?;
    let triggers = triggers(spec, new.events)?;
    let mode = caller.mode(new.mode)?;
    let (mut endpoint, _) = fresh_endpoint(&api, &profile, &tenant, mode, new.url, triggers)?;
    endpoint.kind = EndpointKind::Distribution(Distribution {
        name: new.name,
        event_name: new.event_name,
        payload: new.payload,
    });
    custom_headers(&api, &profile, endpoint.id, &[], new.headers)?.put(&mut endpoint);
    endpoint.rate_limit = new.rate_limit;
    set_active(&mut endpoint, Some(new.status == Status::Live), api.now());
    api.store()
        .create_endpoint(endpoint.clone(), Some(ENDPOINTS_MAX), caller.actor(&api))
        .await?;
    Ok(json(
        StatusCode::CREATED,
        &DistributionView::new(endpoint, &profile),
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
        listing: EndpointListing::Distributions,
        mode: caller.shown(None)?,
    };
    let page = api
        .store()
        .list_endpoints(filter, paging.request()?)
        .await?;
    Ok(list_of(page, |endpoint| {
        DistributionView::new(endpoint, &profile)
    }))
}

async fn found(
    api: &Api,
    caller: &Caller,
    id: &str,
) -> ApiResult<(Endpoint, std::sync::Arc<Profile>)> {
    let not_found = || ApiError::not_found("distribution");
    let found = found_endpoint(api, caller, id).await;
    let (endpoint, current) = found.map_err(|error| match error.code {
        ErrorCode::NotFound => not_found(),
        _ => error,
    })?;
    match endpoint.kind {
        EndpointKind::Distribution(_) => Ok((endpoint, current.profile)),
        EndpointKind::Registered | EndpointKind::Callback | EndpointKind::Key(_) => {
            Err(not_found())
        }
    }
}

pub(crate) async fn read(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Response> {
    let (endpoint, profile) = found(&api, &caller, &id).await?;
    Ok(ok(&DistributionView::new(endpoint, &profile)))
}

/// What a change names; what it does not name stays.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct DistributionPatch {
    #[serde(default, deserialize_with = "present")]
    name: Option<String>,
    #[serde(default, deserialize_with = "present")]
    event_name: Option<String>,
    #[serde(default, deserialize_with = "present")]
    url: Option<String>,
    #[serde(default, deserialize_with = "present")]
    events: Option<Vec<String>>,
    #[serde(default, deserialize_with = "nullable")]
    headers: Option<Option<BTreeMap<String, String>>>,
    #[serde(default, deserialize_with = "nullable_strictly")]
    payload: Option<Option<Payload>>,
    #[serde(default, deserialize_with = "nullable")]
    rate_limit: Option<Option<u32>>,
    #[serde(default, deserialize_with = "present")]
    status: Option<Status>,
}

pub(crate) async fn update(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> ApiResult<Response> {
    let (endpoint, profile) = found(&api, &caller, &id).await?;
    let patch: DistributionPatch = api.read(&caller, &headers, body).await?;
    for (field, given) in [("name", &patch.name), ("eventName", &patch.event_name)] {
        if let Some(text) = given {
            required(field, text, KEY_BYTES_MAX)?;
        }
    }
    if let Some(url) = &patch.url {
        checked_url(&api, &profile, url)?;
        must_lead_out(&api, "url", url).await?;
    }
    let payload = patch.payload.map(Option::unwrap_or_default);
    if let Some(payload) = &payload {
        checked_payload(payload)?;
    }
    checked_rate(patch.rate_limit.flatten())?;
    let spec = spec(&profile)?;
    let triggers = patch.events.map(|events| triggers(spec, events));
    let triggers = triggers.transpose()?;
    let custom = patch.headers.map(Option::unwrap_or_default);
    let (id, known) = (endpoint.id, &endpoint.headers);
    let custom = custom.map(|given| custom_headers(&api, &profile, id, known, given));
    let custom = custom.transpose()?;
    let by = caller.actor(&api);
    let now = by.at;
    let change = move |endpoint: &mut Endpoint| {
        if let EndpointKind::Distribution(distribution) = &mut endpoint.kind {
            if let Some(name) = patch.name {
                distribution.name = name;
            }
            if let Some(event_name) = patch.event_name {
                distribution.event_name = event_name;
            }
            if let Some(payload) = payload {
                distribution.payload = payload;
            }
        }
        if let Some(url) = patch.url {
            endpoint.url = url;
        }
        if let Some(triggers) = triggers {
            endpoint.subscription = triggers;
        }
        if let Some(custom) = custom {
            custom.put(endpoint);
        }
        endpoint.rate_limit = patch.rate_limit.unwrap_or(endpoint.rate_limit);
        let active = patch.status.map(|status| status == Status::Live);
        set_active(endpoint, active, now);
        endpoint.updated_at = now;
    };
    let changed = api
        .change_endpoint(endpoint.id, Box::new(change), by)
        .await?;
    Ok(ok(&DistributionView::new(changed, &profile)))
}

pub(crate) async fn delete(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Response> {
    let (endpoint, _) = found(&api, &caller, &id).await?;
    api.delete_endpoint(endpoint.id, caller.actor(&api)).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
