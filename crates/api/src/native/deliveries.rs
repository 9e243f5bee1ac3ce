//! Deliveries: list by any column, read with attempts, resend.

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use postrider_core::delivery::{Delivery, DeliveryState};
use postrider_core::profile::ResendFrom;
use postrider_core::tenant::{Mode, Scope};
use postrider_core::{Id, id};
use postrider_store::{DeliveryFilter, StatePattern};
use serde::Deserialize;

use super::applications::confined;
use super::events::bounds;
use super::views::{AttemptView, DeliveryView};
use crate::Api;
use crate::auth::Caller;
use crate::problem::{ApiError, ApiResult, ErrorCode};
use crate::request::{Path, Query, given_id, json, list as list_of, ok, page_request, path_id};

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DeliveryQuery {
    application: Option<String>,
    tenant: Option<String>,
    endpoint: Option<String>,
    event: Option<String>,
    /// The public id of an API key: what was sent to the endpoint that it owns.
    key: Option<String>,
    r#type: Option<String>,
    mode: Option<Mode>,
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
    let mut endpoint = given_id("endpoint", query.endpoint.as_deref())?;
    if let Some(key) = &query.key {
        endpoint = Some(endpoint_of(&api, &caller, key).await?);
    }
    let filter = DeliveryFilter {
        application: own_application.or(application),
        tenant: own_tenant.or(tenant),
        endpoint,
        event: given_id("event", query.event.as_deref())?,
        event_type: query.r#type,
        mode: caller.shown(query.mode)?,
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

/// The endpoint that the key with this public id owns.
pub(super) async fn endpoint_of(
    api: &Api,
    caller: &Caller,
    public_id: &str,
) -> ApiResult<Id<id::Endpoint>> {
    let addressee = api.0.directory.addressee(public_id).await?;
    let own = match addressee.key.scope {
        Scope::Tenant(application, tenant) => {
            caller.may_see(application, tenant) && caller.may_touch(addressee.key.mode)
        }
        Scope::Root | Scope::Application(_) => false,
    };
    let endpoint = addressee.endpoint.filter(|_| own);
    endpoint.ok_or_else(|| ApiError::invalid("key", "is not the public id of a key with a webhook"))
}

pub(super) async fn found(api: &Api, caller: &Caller, id: &str) -> ApiResult<Delivery> {
    let delivery = api.store().delivery(path_id(id)?).await?;
    let tenant = api.0.directory.tenant(delivery.tenant).await?;
    if caller.may_see(tenant.application, tenant.id) && caller.may_touch(delivery.mode) {
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
    Ok(ok(&with_attempts(&api, &delivery).await?))
}

/// A delivery with its attempts, each with the body it sent.
async fn with_attempts(api: &Api, delivery: &Delivery) -> ApiResult<DeliveryView> {
    let event = api.store().event(delivery.event).await?;
    let mut attempts = Vec::new();
    for attempt in api.store().attempts(delivery.id).await? {
        let body = api.engine().body_of(delivery, &event, Some(&attempt));
        let body = body.await?;
        attempts.push(AttemptView::with_body(attempt, body.as_deref()));
    }
    Ok(DeliveryView::with_attempts(delivery, attempts))
}

/// Whether a delivery may be sent again by its profile's rules (`vendors.md` S-32, F-26), and if a
/// resend is a whole series of attempts.
pub(super) fn resend_policy(api: &Api, delivery: &Delivery) -> ApiResult<bool> {
    let Some(profile) = api.engine().profiles().version(delivery.profile) else {
        return Ok(false);
    };
    let policy = &profile.resend;
    let refuse = |detail: String| Err(ApiError::new(ErrorCode::ResendNotAllowed, detail));
    // The store tells of one that is pending.
    if delivery.state != DeliveryState::Pending && !policy.allows(delivery.state) {
        let from = policy.from.iter().flatten();
        let names: Vec<&str> = from
            .filter_map(|end| ResendFrom::ALL.iter().find(|(_, known)| known == end))
            .map(|(name, _)| *name)
            .collect();
        let (name, ends) = (&profile.name, names.join(", "));
        return refuse(format!(
            "the profile {name} sends again what ended as {ends}"
        ));
    }
    let too_old = |max_age| api.now().since(delivery.created_at) > max_age;
    if policy.max_age.is_some_and(too_old) {
        let days = policy.max_age.unwrap_or_default().as_secs() / 86_400;
        return refuse(format!("it is older than {days} days"));
    }
    Ok(policy.series)
}

/// Sends it again now; 202 as soon as that is durable.
pub(crate) async fn resend(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Response> {
    let delivery = found(&api, &caller, &id).await?;
    let series = resend_policy(&api, &delivery)?;
    let due = api.engine().resend(delivery.id, series).await?;
    Ok(json(
        StatusCode::ACCEPTED,
        &DeliveryView::brief(&due.delivery),
    ))
}
