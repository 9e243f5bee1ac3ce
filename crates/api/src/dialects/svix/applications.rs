//! Their applications: our tenants.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::IntoResponse as _;
use axum::routing::get;
use http::StatusCode;
use postrider_core::tenant::{Metadata, Tenant};
use postrider_core::{Timestamp, id};
use postrider_service::{
    self as service, ErrorCode, NewTenant, Refusal, TenantPatch, nullable, present,
};
use serde::{Deserialize, Serialize};

use super::endpoints::is_name;
use super::lists::{Params, page_of};
use super::refusal::{APPLICATION, taken};
use super::{Answer, Client, Path};
use crate::Api;
use crate::request::{json, ok};

pub(super) fn routes(base: &str) -> Router<Api> {
    let one = get(read).put(put).patch(change).delete(delete);
    Router::new()
        .route(&format!("{base}/app"), get(list).post(create))
        .route(&format!("{base}/app/{{app}}"), one)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ApplicationOut {
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<String>,
    name: String,
    id: String,
    created_at: Timestamp,
    updated_at: Timestamp,
    metadata: Metadata,
}

impl ApplicationOut {
    fn new(client: &Client, tenant: &Tenant) -> Self {
        Self {
            uid: tenant.external_id.clone(),
            name: tenant.name.clone(),
            id: client.app_id(tenant.id),
            created_at: tenant.created_at,
            updated_at: tenant.updated_at,
            metadata: tenant.metadata.clone(),
        }
    }
}

#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ApplicationIn {
    name: String,
    uid: Option<String>,
    rate_limit: Option<u32>,
    throttle_rate: Option<u32>,
    #[serde(default)]
    metadata: Option<Metadata>,
}

impl ApplicationIn {
    fn checked(self) -> service::Result<Self> {
        check_uid(self.uid.as_deref())?;
        must_have_no_rate(self.rate_limit.or(self.throttle_rate))?;
        Ok(self)
    }
}

/// An id that the owner of something gives it.
pub(super) fn check_uid(uid: Option<&str>) -> service::Result<()> {
    match uid {
        Some(uid) if !is_name(uid) => {
            let rule = "must have letters, digits, -, _ and . only";
            Err(Refusal::invalid("uid", rule))
        }
        _ => Ok(()),
    }
}

/// Rates are held for each endpoint.
fn must_have_no_rate(rate: Option<u32>) -> service::Result<()> {
    match rate {
        None => Ok(()),
        Some(_) => {
            let rule = "is not held for a whole application here: give it to its endpoints";
            Err(Refusal::invalid("rateLimit", rule))
        }
    }
}

pub(super) async fn list(State(api): State<Api>, client: Client, params: Params) -> Answer {
    let ascending = params.ascending(true)?;
    let page = params.page::<id::Tenant>(client.app_ids())?;
    let service = &api.service;
    let found = service.list_tenants(&client.caller, client.application, ascending, page);
    let (page, _) = found.await?;
    let id = |tenant: &Tenant| client.app_id(tenant.id);
    let view = |tenant: Tenant| ApplicationOut::new(&client, &tenant);
    Ok(page_of(page, id, view))
}

pub(super) async fn create(
    State(api): State<Api>,
    client: Client,
    params: Params,
    body: Body,
) -> Answer {
    let given: ApplicationIn = client.read(&api, body).await?;
    let existing = params.flag("get_if_exists", false)?;
    let (made, tenant) = make(&api, &client, given, existing).await?;
    let status = if made {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    Ok(json(status, &ApplicationOut::new(&client, &tenant)))
}

/// Makes an application, or, where that is asked for, finds the one with its uid; and which of the two.
pub(super) async fn make(
    api: &Api,
    client: &Client,
    given: ApplicationIn,
    existing: bool,
) -> service::Result<(bool, Arc<Tenant>)> {
    let given = given.checked()?;
    let uid = given.uid.clone().filter(|_| existing);
    if let Some(uid) = &uid {
        match client.app(api, uid).await {
            Err(refusal) if refusal.code == ErrorCode::NotFound => {}
            found => return Ok((false, found?)),
        }
    }
    let new = NewTenant {
        name: given.name,
        external_id: given.uid,
        metadata: given.metadata.unwrap_or_default(),
        ..NewTenant::default()
    };
    let service = &api.service;
    let made = service.create_tenant(&client.caller, client.application, new);
    match (made.await, uid) {
        (Ok(made), _) => Ok((true, Arc::new(made.tenant))),
        // Somebody else was sooner.
        (Err(refusal), Some(uid)) if refusal.code == ErrorCode::NameTaken => {
            Ok((false, client.app(api, &uid).await?))
        }
        (Err(refusal), _) if refusal.code == ErrorCode::NameTaken => Err(taken(APPLICATION)),
        (Err(refusal), _) => Err(refusal),
    }
}

pub(super) async fn read(
    State(api): State<Api>,
    client: Client,
    Path(app): Path<String>,
) -> Answer {
    let tenant = client.app(&api, &app).await?;
    Ok(ok(&ApplicationOut::new(&client, &tenant)))
}

/// Makes an application that a request names in its path and describes in its body.
pub(super) async fn make_on_the_way(
    api: &Api,
    client: &Client,
    named: &str,
    given: ApplicationIn,
) -> service::Result<Arc<Tenant>> {
    if given.uid.as_deref() != Some(named) {
        let rule = "must be the application's name in the path";
        return Err(Refusal::invalid("application.uid", rule));
    }
    Ok(make(api, client, given, true).await?.1)
}

/// Changes all of it, or makes it where there is none; by the name in the path, where the body has none.
pub(super) async fn put(
    State(api): State<Api>,
    client: Client,
    Path(app): Path<String>,
    body: Body,
) -> Answer {
    let given: ApplicationIn = client.read(&api, body).await?;
    let mut given = given.checked()?;
    let tenant = match client.app(&api, &app).await {
        Err(refusal) if refusal.code == ErrorCode::NotFound => {
            given.uid = given.uid.or_else(|| Some(app.clone()));
            // Somebody else may be sooner; one of another name is not to be overwritten.
            let same = given.uid.as_ref() == Some(&app);
            let (is_new, tenant) = make(&api, &client, given.clone(), same).await?;
            if is_new {
                let view = ApplicationOut::new(&client, &tenant);
                return Ok(json(StatusCode::CREATED, &view));
            }
            tenant
        }
        found => found?,
    };
    let patch = TenantPatch {
        name: Some(given.name),
        // The name that it was asked for by stays, where no other is given.
        external_id: Some(
            given
                .uid
                .or_else(|| tenant.external_id.clone().filter(|uid| *uid == app)),
        ),
        metadata: Some(given.metadata),
        settings: None,
    };
    written(&api, &client, &tenant, patch).await
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ApplicationPatchIn {
    #[serde(default, deserialize_with = "present")]
    name: Option<String>,
    #[serde(default, deserialize_with = "nullable")]
    uid: Option<Option<String>>,
    rate_limit: Option<u32>,
    throttle_rate: Option<u32>,
    #[serde(default, deserialize_with = "nullable")]
    metadata: Option<Option<Metadata>>,
}

pub(super) async fn change(
    State(api): State<Api>,
    client: Client,
    Path(app): Path<String>,
    body: Body,
) -> Answer {
    let given: ApplicationPatchIn = client.read(&api, body).await?;
    check_uid(given.uid.as_ref().and_then(Option::as_deref))?;
    must_have_no_rate(given.rate_limit.or(given.throttle_rate))?;
    let tenant = client.app(&api, &app).await?;
    let patch = TenantPatch {
        name: given.name,
        external_id: given.uid,
        metadata: given.metadata,
        settings: None,
    };
    written(&api, &client, &tenant, patch).await
}

async fn written(api: &Api, client: &Client, tenant: &Tenant, patch: TenantPatch) -> Answer {
    let changed = api.service.change_tenant(&client.caller, tenant.id, patch);
    let (changed, _) = changed.await?;
    Ok(ok(&ApplicationOut::new(client, &changed)))
}

pub(super) async fn delete(
    State(api): State<Api>,
    client: Client,
    Path(app): Path<String>,
) -> Answer {
    let tenant = client.app(&api, &app).await?;
    api.service.delete_tenant(&client.caller, tenant.id).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
