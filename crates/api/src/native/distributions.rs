//! Distributions: named sets of events with an endpoint of their own, live or paused.

use std::collections::BTreeMap;

use axum::body::Body;
use axum::extract::State;
use axum::response::IntoResponse;
use http::{HeaderMap, StatusCode};
use postrider_core::distribution::Payload;
use postrider_core::endpoint::{Endpoint, EndpointKind};
use postrider_core::filter::Subscription;
use postrider_core::profile::Profile;
use postrider_core::tenant::Mode;
use postrider_core::{Id, Timestamp, id};
use postrider_service::{Activity, Caller, DistributionPatch, NewDistribution};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::views::starred;
use crate::Api;
use crate::openapi::{OfDistribution, OfTenant, Refusals};
use crate::problem::Answer;
use crate::request::{List, NoBody, Paging, Path, Query, json, list as list_of, ok, read_id};

#[derive(Serialize, ToSchema)]
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
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<HashMap<String, Value>>)]
    filter: Option<Value>,
    headers: BTreeMap<String, &'static str>,
    payload: Payload,
    rate_limit: Option<u32>,
    mode: Mode,
    status: Activity,
    /// Why it is paused: by hand, or for its failures.
    paused_reason: Option<&'static str>,
    paused_at: Option<Timestamp>,
    created_at: Timestamp,
    updated_at: Timestamp,
}

impl DistributionView {
    fn new(endpoint: Endpoint, profile: &Profile) -> Option<Self> {
        let wire_id = profile.endpoint_id(endpoint.id, &endpoint.kind);
        // The service finds nothing else by a distribution's id.
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
            filter: endpoint.filter.map(Into::into),
            headers: starred(endpoint.headers),
            payload: distribution.payload,
            rate_limit: endpoint.rate_limit,
            mode: endpoint.mode,
            status: if paused.is_none() {
                Activity::Live
            } else {
                Activity::Paused
            },
            paused_reason: paused.map(|paused| paused.reason.as_str()),
            paused_at: paused.map(|paused| paused.at),
            created_at: endpoint.created_at,
            updated_at: endpoint.updated_at,
        })
    }
}

/// Makes a distribution.
#[utoipa::path(
    post, path = "/v1/tenants/{tenant}/distributions", tag = "Distributions", operation_id = "createDistribution",
    params(OfTenant),
    request_body = NewDistribution,
    responses((status = CREATED, description = "Made.", body = DistributionView), Refusals),
)]
pub(crate) async fn create(
    State(api): State<Api>,
    caller: Caller,
    Path(tenant): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let tenant = read_id(&tenant)?;
    let new = api.read(&caller, &headers, body).await?;
    let made = api.service.create_distribution(&caller, tenant, new);
    let (made, profile) = made.await?;
    let view = DistributionView::new(made, &profile);
    Ok(json(StatusCode::CREATED, &view))
}

/// Lists a tenant's distributions, the newest first.
#[utoipa::path(
    get, path = "/v1/tenants/{tenant}/distributions", tag = "Distributions", operation_id = "listDistributions",
    params(OfTenant, Paging),
    responses((status = OK, description = "Done.", body = List<DistributionView>), Refusals),
)]
pub(crate) async fn list(
    State(api): State<Api>,
    caller: Caller,
    Path(tenant): Path<String>,
    Query(paging): Query<Paging>,
) -> Answer {
    let (tenant, page) = (read_id(&tenant)?, paging.request()?);
    let found = api.service.list_distributions(&caller, tenant, page);
    let (page, profile) = found.await?;
    let view = |endpoint| DistributionView::new(endpoint, &profile);
    Ok(list_of(page, view))
}

/// Reads a distribution.
#[utoipa::path(
    get, path = "/v1/distributions/{distribution}", tag = "Distributions", operation_id = "getDistribution",
    params(OfDistribution),
    responses((status = OK, description = "Done.", body = DistributionView), Refusals),
)]
pub(crate) async fn read(State(api): State<Api>, caller: Caller, Path(id): Path<String>) -> Answer {
    let (found, profile) = api.service.distribution(&caller, &id).await?;
    Ok(ok(&DistributionView::new(found, &profile)))
}

/// Changes a distribution: what is not named stays.
#[utoipa::path(
    patch, path = "/v1/distributions/{distribution}", tag = "Distributions", operation_id = "changeDistribution",
    params(OfDistribution),
    request_body = DistributionPatch,
    responses((status = OK, description = "Done.", body = DistributionView), Refusals),
)]
pub(crate) async fn update(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let patch = api.read(&caller, &headers, body).await?;
    let changed = api.service.change_distribution(&caller, &id, patch);
    let (changed, profile) = changed.await?;
    Ok(ok(&DistributionView::new(changed, &profile)))
}

/// Deletes a distribution.
#[utoipa::path(
    delete, path = "/v1/distributions/{distribution}", tag = "Distributions", operation_id = "deleteDistribution",
    params(OfDistribution),
    responses((status = NO_CONTENT, description = "Gone."), Refusals),
)]
pub(crate) async fn delete(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    _: NoBody,
) -> Answer {
    api.service.delete_distribution(&caller, &id).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
