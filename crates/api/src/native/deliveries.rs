//! Deliveries: list by any column, read with attempts, resend.

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use postrider_core::delivery::Delivery;
use postrider_store::{DeliveryFilter, StatePattern};
use serde::Deserialize;

use super::applications::confined;
use super::events::bounds;
use super::views::DeliveryView;
use crate::Api;
use crate::auth::Caller;
use crate::problem::{ApiError, ApiResult};
use crate::request::{Path, Query, given_id, json, list as list_of, ok, page_request, path_id};

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DeliveryQuery {
    application: Option<String>,
    tenant: Option<String>,
    endpoint: Option<String>,
    event: Option<String>,
    r#type: Option<String>,
    status: Option<String>,
    since: Option<String>,
    until: Option<String>,
    limit: Option<String>,
    cursor: Option<String>,
}

pub(crate) fn status(text: Option<&str>) -> ApiResult<Option<StatePattern>> {
    let invalid = || ApiError::invalid("status", "must be pending, delivered, failed or cancelled");
    text.map(|text| StatePattern::parse(text).ok_or_else(invalid))
        .transpose()
}

pub(crate) async fn list(
    State(api): State<Api>,
    caller: Caller,
    Query(query): Query<DeliveryQuery>,
) -> ApiResult<Response> {
    let (own_application, own_tenant) = confined(&caller);
    let application = given_id("application", query.application.as_deref())?;
    let tenant = given_id("tenant", query.tenant.as_deref())?;
    let (since, until) = bounds(query.since.as_deref(), query.until.as_deref())?;
    // Another's id filters everything away: the own one is always there too.
    if own_application.is_some_and(|own| application.is_some_and(|given| given != own)) {
        return Err(ApiError::not_found("application"));
    }
    if let Some(tenant) = tenant {
        caller.tenant(&api, tenant).await?;
    }
    let filter = DeliveryFilter {
        application: own_application.or(application),
        tenant: own_tenant.or(tenant),
        endpoint: given_id("endpoint", query.endpoint.as_deref())?,
        event: given_id("event", query.event.as_deref())?,
        event_type: query.r#type,
        state: status(query.status.as_deref())?,
        since,
        until,
    };
    let page = page_request(query.limit.as_deref(), query.cursor.as_deref())?;
    Ok(list_of(
        api.store().list_deliveries(filter, page).await?,
        |delivery| DeliveryView::brief(&delivery),
    ))
}

async fn found(api: &Api, caller: &Caller, id: &str) -> ApiResult<Delivery> {
    let delivery = api.store().delivery(path_id(id)?).await?;
    let tenant = api.0.directory.tenant(delivery.tenant).await?;
    if caller.may_see(tenant.application, tenant.id) {
        Ok(delivery)
    } else {
        Err(ApiError::not_found("delivery"))
    }
}

pub(crate) async fn read(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Response> {
    let delivery = found(&api, &caller, &id).await?;
    let attempts = api.store().attempts(delivery.id).await?;
    Ok(ok(&DeliveryView::with_attempts(&delivery, attempts)))
}

/// Sends it again now; 202 as soon as that is durable.
pub(crate) async fn resend(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Response> {
    let delivery = found(&api, &caller, &id).await?;
    let profile = api.engine().profiles().version(delivery.profile);
    let series = profile.is_some_and(|profile| profile.resend.series);
    let due = api.engine().resend(delivery.id, series).await?;
    Ok(json(
        StatusCode::ACCEPTED,
        &DeliveryView::brief(&due.delivery),
    ))
}
