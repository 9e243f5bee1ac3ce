//! API keys: create (shown once), list, change, disable, delete; and the endpoint a key may own.

use axum::body::Body;
use axum::extract::State;
use axum::response::IntoResponse;
use http::{HeaderMap, StatusCode};
use ipnet::IpNet;
use postrider_core::tenant::{Mode, Scope};
use postrider_core::{Id, Timestamp, id};
use postrider_service::{Caller, KeyPatch, KeyRotation, KeyShown, NewKey, Rotation};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::endpoints::SecretView;
use crate::Api;
use crate::openapi::{OfKey, Refusals};
use crate::problem::Answer;
use crate::request::{
    List, NoBody, Path, Query, given_id, json, list as list_of, ok, page_request, read_id,
};

#[derive(Serialize, ToSchema)]
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
    #[schema(value_type = Vec<String>)]
    allowed_ips: Vec<IpNet>,
    /// It sees what is in its scope but secrets, and changes and sends nothing.
    read_only: bool,
    /// From then on it opens nothing; none is never.
    expires_at: Option<Timestamp>,
    created_at: Timestamp,
    /// Since when its text is the present one, if it had another.
    #[serde(skip_serializing_if = "Option::is_none")]
    rotated_at: Option<Timestamp>,
    /// Until when the text before opens too.
    #[serde(skip_serializing_if = "Option::is_none")]
    previous_until: Option<Timestamp>,
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

impl From<KeyShown> for KeyView {
    fn from(shown: KeyShown) -> Self {
        let KeyShown { key, endpoint } = shown;
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
            read_only: key.read_only,
            expires_at: key.expires_at,
            created_at: key.created_at,
            rotated_at: key.rotated_at,
            previous_until: key.previous.map(|text| text.until),
            endpoint: endpoint.as_ref().map(|endpoint| endpoint.id),
            webhook: endpoint.map(|endpoint| endpoint.url),
            key: None,
            secret: None,
        }
    }
}

/// Makes an API key; its text is in this answer only.
#[utoipa::path(
    post, path = "/v1/keys", tag = "Keys", operation_id = "createKey",
    request_body = NewKey,
    responses((status = CREATED, description = "Made.", body = KeyView), Refusals),
)]
pub(crate) async fn create(
    State(api): State<Api>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let new = api.read(&caller, &headers, body).await?;
    let made = api.service.create_key(&caller, new).await?;
    let view = KeyView {
        key: Some(made.text.expose().to_owned()),
        secret: made.secret.map(|secret| secret.expose().to_owned()),
        ..KeyView::from(made.shown)
    };
    Ok(json(StatusCode::CREATED, &view))
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct KeyQuery {
    /// Of this tenant.
    #[param(value_type = Option<Id<id::Tenant>>)]
    tenant: Option<String>,
    /// Rows of the page.
    #[param(value_type = Option<u16>, minimum = 1, maximum = 250)]
    limit: Option<String>,
    /// `nextCursor` of the page before.
    cursor: Option<String>,
}

/// Lists API keys, the newest first.
#[utoipa::path(
    get, path = "/v1/keys", tag = "Keys", operation_id = "listKeys",
    params(KeyQuery),
    responses((status = OK, description = "Done.", body = List<KeyView>), Refusals),
)]
pub(crate) async fn list(
    State(api): State<Api>,
    caller: Caller,
    Query(query): Query<KeyQuery>,
) -> Answer {
    let tenant = given_id("tenant", query.tenant.as_deref())?;
    let page = page_request(query.limit.as_deref(), query.cursor.as_deref())?;
    let found = api.service.list_keys(&caller, tenant, page).await?;
    Ok(list_of(found, KeyView::from))
}

/// Reads an API key, without its text.
#[utoipa::path(
    get, path = "/v1/keys/{key}", tag = "Keys", operation_id = "getKey",
    params(OfKey),
    responses((status = OK, description = "Done.", body = KeyView), Refusals),
)]
pub(crate) async fn read(State(api): State<Api>, caller: Caller, Path(id): Path<String>) -> Answer {
    let found = api.service.key(&caller, read_id(&id)?).await?;
    Ok(ok(&KeyView::from(found)))
}

/// Changes an API key: what is not named stays.
#[utoipa::path(
    patch, path = "/v1/keys/{key}", tag = "Keys", operation_id = "changeKey",
    params(OfKey),
    request_body = KeyPatch,
    responses((status = OK, description = "Done.", body = KeyView), Refusals),
)]
pub(crate) async fn update(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let id = read_id(&id)?;
    let patch = api.read(&caller, &headers, body).await?;
    let (changed, secret) = api.service.change_key(&caller, id, patch).await?;
    let view = KeyView {
        secret: secret.map(|secret| secret.expose().to_owned()),
        ..KeyView::from(changed)
    };
    Ok(ok(&view))
}

/// Gives the key's endpoint a new secret (SimplifyTrip's checksum key).
#[utoipa::path(
    post, path = "/v1/keys/{key}/rotate-secret", tag = "Keys", operation_id = "rotateKeySecret",
    params(OfKey),
    request_body(content = Option<Rotation>),
    responses((status = OK, description = "Done.", body = SecretView), Refusals),
)]
pub(crate) async fn rotate_secret(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    body: Body,
) -> Answer {
    let id = read_id(&id)?;
    let rotation: Rotation = api.read_optional(&caller, body).await?;
    let fresh = api.service.rotate_key_secret(&caller, id, &rotation);
    Ok(ok(&SecretView::from(fresh.await?)))
}

/// Gives an API key another text, in this answer only; the old one opens too until the overlap is over.
#[utoipa::path(
    post, path = "/v1/keys/{key}/rotate", tag = "Keys", operation_id = "rotateKey",
    params(OfKey),
    request_body(content = Option<KeyRotation>),
    responses((status = OK, description = "Done.", body = KeyView), Refusals),
)]
pub(crate) async fn rotate(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    body: Body,
) -> Answer {
    let id = read_id(&id)?;
    let rotation: KeyRotation = api.read_optional(&caller, body).await?;
    let made = api.service.rotate_key(&caller, id, &rotation).await?;
    let view = KeyView {
        key: Some(made.text.expose().to_owned()),
        ..KeyView::from(made.shown)
    };
    Ok(ok(&view))
}

/// Deletes an API key with the endpoint that it owns.
#[utoipa::path(
    delete, path = "/v1/keys/{key}", tag = "Keys", operation_id = "deleteKey",
    params(OfKey),
    responses((status = NO_CONTENT, description = "Gone."), Refusals),
)]
pub(crate) async fn delete(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    _: NoBody,
) -> Answer {
    api.service.delete_key(&caller, read_id(&id)?).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
