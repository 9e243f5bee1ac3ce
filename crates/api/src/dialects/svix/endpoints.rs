//! Endpoints: made, listed, read, changed, deleted.

use std::collections::BTreeMap;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::IntoResponse as _;
use axum::routing::get;
use http::StatusCode;
use postrider_core::endpoint::Endpoint;
use postrider_core::filter::{ContentFilter, WILDCARD};
use postrider_core::tenant::Metadata;
use postrider_core::{Timestamp, id};
use postrider_service::{
    self as service, EndpointPatch, ErrorCode, NewEndpoint, Refusal, nullable, present,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::applications::check_uid;
use super::lists::{Params, page_of};
use super::{Answer, Client, Path};
use crate::Api;
use crate::request::{json as json_of, ok};

/// Of the interface for endpoints; the original has had one version only.
const VERSION: u32 = 1;
/// Channels that one endpoint may listen to.
const CHANNELS_MAX: usize = 10;
/// Bytes of the name of a channel, and of what else is a name here.
pub(super) const NAME_BYTES_MAX: usize = 256;
/// Where a message's channels are in its event.
const CHANNELS: &str = "meta.channels";

pub(super) fn routes(base: &str) -> Router<Api> {
    let all = format!("{base}/app/{{app}}/endpoint");
    let one = get(read).put(put).patch(change).delete(delete);
    Router::new()
        .route(&all, get(list).post(create))
        .route(&format!("{all}/{{endpoint}}"), one)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct EndpointOut {
    description: String,
    // The same twice: each generation of the SDKs has a name of its own for it, and for the types.
    #[serde(skip_serializing_if = "Option::is_none")]
    rate_limit: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    throttle_rate: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<String>,
    url: String,
    version: u32,
    disabled: bool,
    filter_types: Option<Vec<String>>,
    event_types: Option<Vec<String>>,
    channels: Option<Vec<String>>,
    id: String,
    created_at: Timestamp,
    updated_at: Timestamp,
    metadata: Metadata,
}

impl EndpointOut {
    pub(super) fn new(client: &Client, endpoint: Endpoint) -> Self {
        let patterns = endpoint.subscription.patterns();
        let all = patterns.iter().any(|pattern| pattern == WILDCARD);
        let types = (!all).then(|| patterns.to_vec());
        Self {
            filter_types: types.clone(),
            event_types: types,
            channels: channels(&endpoint),
            description: endpoint.description.unwrap_or_default(),
            rate_limit: endpoint.rate_limit,
            throttle_rate: endpoint.rate_limit,
            uid: endpoint.external_id,
            url: endpoint.url,
            version: VERSION,
            disabled: !endpoint.health.is_enabled(),
            id: client.profile().ids.endpoint.render(endpoint.id),
            created_at: endpoint.created_at,
            updated_at: endpoint.updated_at,
            metadata: endpoint.metadata,
        }
    }
}

/// The channels that an endpoint listens to, where its filter is no other condition.
pub(super) fn channels(endpoint: &Endpoint) -> Option<Vec<String>> {
    let filter = endpoint.filter.as_ref().map(ContentFilter::written)?;
    let conditions = filter.as_object().filter(|all| all.len() == 1)?;
    let wanted = conditions.get(CHANNELS)?.as_object()?;
    let names = wanted.get("$in").filter(|_| wanted.len() == 1)?;
    serde_json::from_value(names.clone()).ok()
}

/// The condition that listens to channels only.
fn of_channels(channels: Option<Vec<String>>) -> service::Result<Option<Value>> {
    let channels = channels.filter(|channels| !channels.is_empty());
    let Some(channels) = channels else {
        return Ok(None);
    };
    check_channels(&channels, CHANNELS_MAX)?;
    Ok(Some(json!({ CHANNELS: { "$in": channels } })))
}

pub(super) fn check_channels(channels: &[String], max: usize) -> service::Result<()> {
    if channels.len() > max || !channels.iter().all(|name| is_name(name)) {
        let rule = format!("must be at most {max} names of letters, digits, -, _ and .");
        return Err(Refusal::invalid("channels", rule));
    }
    Ok(())
}

/// Whether it is what may be a uid, a channel or an `eventId`.
pub(super) fn is_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    !text.is_empty() && text.len() <= NAME_BYTES_MAX && text.bytes().all(plain)
}

/// Types that are listened to; none and an empty list are all of them.
fn of_types(types: Option<Vec<String>>) -> Option<Vec<String>> {
    types.filter(|types| !types.is_empty())
}

#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct EndpointIn {
    url: String,
    uid: Option<String>,
    description: Option<String>,
    rate_limit: Option<u32>,
    throttle_rate: Option<u32>,
    disabled: Option<bool>,
    filter_types: Option<Vec<String>>,
    event_types: Option<Vec<String>>,
    channels: Option<Vec<String>>,
    secret: Option<String>,
    metadata: Option<Metadata>,
    headers: Option<BTreeMap<String, String>>,
}

pub(super) async fn list(
    State(api): State<Api>,
    client: Client,
    Path(app): Path<String>,
    params: Params,
) -> Answer {
    let app = client.app(&api, &app).await?;
    let ascending = params.ascending(false)?;
    let ids = &client.profile().ids.endpoint;
    let page = params.page::<id::Endpoint>(ids)?;
    let service = &api.service;
    let found = service.list_endpoints_in_order(&client.caller, app.id, ascending, page);
    let (page, _) = found.await?;
    let id = |endpoint: &Endpoint| ids.render(endpoint.id);
    let view = |endpoint| EndpointOut::new(&client, endpoint);
    Ok(page_of(page, id, view))
}

pub(super) async fn create(
    State(api): State<Api>,
    client: Client,
    Path(app): Path<String>,
    body: Body,
) -> Answer {
    let app = client.app(&api, &app).await?;
    let given: EndpointIn = client.read(&api, body).await?;
    made(&api, &client, &app, given).await
}

async fn made(
    api: &Api,
    client: &Client,
    app: &postrider_core::tenant::Tenant,
    given: EndpointIn,
) -> Answer {
    check_uid(given.uid.as_deref())?;
    let new = NewEndpoint {
        url: given.url,
        external_id: given.uid,
        metadata: given.metadata.unwrap_or_default(),
        events: of_types(given.filter_types.or(given.event_types)),
        filter: of_channels(given.channels)?,
        description: given.description,
        headers: given.headers.unwrap_or_default(),
        rate_limit: given.rate_limit.or(given.throttle_rate),
        secret: given.secret,
        active: given.disabled.map(|disabled| !disabled),
        ..NewEndpoint::default()
    };
    let made = api.service.create_endpoint(&client.caller, app.id, new);
    let view = EndpointOut::new(client, made.await?.endpoint);
    Ok(json_of(StatusCode::CREATED, &view))
}

pub(super) async fn read(
    State(api): State<Api>,
    client: Client,
    Path((app, endpoint)): Path<(String, String)>,
) -> Answer {
    let app = client.app(&api, &app).await?;
    let endpoint = client.endpoint(&api, &app, &endpoint).await?;
    Ok(ok(&EndpointOut::new(&client, endpoint)))
}

/// Changes all of it but its secret and headers, or makes it where there is none; by the name in the path, where the
/// body has none.
pub(super) async fn put(
    State(api): State<Api>,
    client: Client,
    Path((app, endpoint)): Path<(String, String)>,
    body: Body,
) -> Answer {
    let app = client.app(&api, &app).await?;
    let given: EndpointIn = client.read(&api, body).await?;
    let known = match client.endpoint(&api, &app, &endpoint).await {
        Err(refusal) if refusal.code == ErrorCode::NotFound => {
            let uid = given.uid.clone().unwrap_or_else(|| endpoint.clone());
            let new = EndpointIn {
                uid: Some(uid.clone()),
                ..given.clone()
            };
            match made(&api, &client, &app, new).await {
                // Somebody else was sooner.
                Err(refused) if refused.is(ErrorCode::NameTaken) && uid == endpoint => {
                    client.endpoint(&api, &app, &uid).await?
                }
                answer => return answer,
            }
        }
        found => found?,
    };
    check_uid(given.uid.as_deref())?;
    let patch = EndpointPatch {
        url: Some(given.url),
        // The name that it was asked for by stays, where no other is given.
        external_id: Some(
            given
                .uid
                .or_else(|| known.external_id.clone().filter(|uid| *uid == endpoint)),
        ),
        metadata: Some(given.metadata),
        events: Some(of_types(given.filter_types.or(given.event_types))),
        filter: Some(of_channels(given.channels)?).filter(|to| replaces(&known, to.as_ref())),
        description: Some(given.description),
        rate_limit: Some(given.rate_limit.or(given.throttle_rate)),
        active: Some(!given.disabled.unwrap_or(false)),
        ..EndpointPatch::default()
    };
    written(&api, &client, &known, patch).await
}

/// Whether channels take the place of what is there: a filter that this API does not show is left alone by whoever
/// names no channels.
fn replaces(known: &Endpoint, to: Option<&Value>) -> bool {
    to.is_some() || known.filter.is_none() || channels(known).is_some()
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct EndpointPatchIn {
    #[serde(default, deserialize_with = "present")]
    url: Option<String>,
    #[serde(default, deserialize_with = "nullable")]
    uid: Option<Option<String>>,
    #[serde(default, deserialize_with = "present")]
    description: Option<String>,
    #[serde(default, deserialize_with = "nullable")]
    rate_limit: Option<Option<u32>>,
    #[serde(default, deserialize_with = "nullable")]
    throttle_rate: Option<Option<u32>>,
    #[serde(default, deserialize_with = "present")]
    disabled: Option<bool>,
    #[serde(default, deserialize_with = "nullable")]
    filter_types: Option<Option<Vec<String>>>,
    #[serde(default, deserialize_with = "nullable")]
    event_types: Option<Option<Vec<String>>>,
    #[serde(default, deserialize_with = "nullable")]
    channels: Option<Option<Vec<String>>>,
    #[serde(default, deserialize_with = "nullable")]
    secret: Option<Option<String>>,
    #[serde(default, deserialize_with = "nullable")]
    metadata: Option<Option<Metadata>>,
}

pub(super) async fn change(
    State(api): State<Api>,
    client: Client,
    Path((app, endpoint)): Path<(String, String)>,
    body: Body,
) -> Answer {
    let app = client.app(&api, &app).await?;
    let given: EndpointPatchIn = client.read(&api, body).await?;
    check_uid(given.uid.as_ref().and_then(Option::as_deref))?;
    let known = client.endpoint(&api, &app, &endpoint).await?;
    let filter = given.channels.map(of_channels).transpose()?;
    let patch = EndpointPatch {
        url: given.url,
        external_id: given.uid,
        metadata: given.metadata,
        events: given.filter_types.or(given.event_types).map(of_types),
        filter: filter.filter(|to| replaces(&known, to.as_ref())),
        description: given.description.map(Some),
        rate_limit: given.rate_limit.or(given.throttle_rate),
        active: given.disabled.map(|disabled| !disabled),
        secret: given.secret.flatten(),
        ..EndpointPatch::default()
    };
    written(&api, &client, &known, patch).await
}

async fn written(api: &Api, client: &Client, known: &Endpoint, patch: EndpointPatch) -> Answer {
    let id = known.id.to_string();
    let changed = api.service.change_endpoint(&client.caller, &id, patch);
    let (changed, _) = changed.await?;
    Ok(ok(&EndpointOut::new(client, changed)))
}

pub(super) async fn delete(
    State(api): State<Api>,
    client: Client,
    Path((app, endpoint)): Path<(String, String)>,
) -> Answer {
    let app = client.app(&api, &app).await?;
    let known = client.endpoint(&api, &app, &endpoint).await?;
    let id = known.id.to_string();
    api.service.delete_endpoint(&client.caller, &id).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
