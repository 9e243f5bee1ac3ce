//! Deliveries: list by any column, read with attempts, resend.

use std::collections::{HashMap, HashSet};

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use postrider_core::attempt::Attempt;
use postrider_core::delivery::{Delivery, DeliveryState};
use postrider_core::limits::ATTEMPTS_SHOWN;
use postrider_core::profile::{MessageScope, ResendFrom, ResendPolicy};
use postrider_core::tenant::{Mode, Scope};
use postrider_core::{Id, id};
use postrider_engine::PublishError;
use postrider_store::queries::query_digest;
use postrider_store::{Cursor, DeliveryFilter, Page, Rule, StatePattern, StoreError};
use serde::Deserialize;

use super::applications::confined;
use super::events::bounds;
use super::views::{AttemptView, DeliveryView};
use crate::Api;
use crate::auth::Caller;
use crate::problem::{ApiError, ApiResult, ErrorCode};
use crate::request::{
    Paging, Path, Query, given_id, json, list as list_of, ok, page_request, path_id,
};

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DeliveryQuery {
    application: Option<String>,
    tenant: Option<String>,
    endpoint: Option<String>,
    event: Option<String>,
    /// The id that a receiver logs: `webhook-id`, a send-out's, a delivery's own.
    #[serde(rename = "webhookId")]
    webhook_id: Option<String>,
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
    let invalid = || {
        ApiError::invalid(
            "status",
            "must be pending, delivered, failed, cancelled or skipped",
        )
    };
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
    let endpoint = endpoint_or_key(
        &api,
        &caller,
        query.endpoint.as_deref(),
        query.key.as_deref(),
    )
    .await?;
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
        oldest_first: false,
    };
    let page = page_request(query.limit.as_deref(), query.cursor.as_deref())?;
    let found = match &query.webhook_id {
        None => api.store().list_deliveries(filter, page).await?,
        Some(text) => match logged(&api, text).await? {
            Some(Logged::Event(event)) => {
                if filter.event.is_some_and(|given| given != event) {
                    let rule = "is of another event than the one in event";
                    return Err(ApiError::invalid("webhookId", rule));
                }
                let filter = DeliveryFilter {
                    event: Some(event),
                    ..filter
                };
                api.store().list_deliveries(filter, page).await?
            }
            Some(Logged::Delivery(delivery)) => {
                let other = filter.event.is_some_and(|given| given != delivery.event)
                    || filter
                        .endpoint
                        .is_some_and(|given| given != delivery.endpoint);
                if other {
                    Page {
                        rows: Vec::new(),
                        next: None,
                    }
                } else {
                    // An event has one delivery to an endpoint.
                    let filter = DeliveryFilter {
                        event: Some(delivery.event),
                        endpoint: Some(delivery.endpoint),
                        ..filter
                    };
                    api.store().list_deliveries(filter, page).await?
                }
            }
            None => Page {
                rows: Vec::new(),
                next: None,
            },
        },
    };
    let rows = with_last(&api, found.rows).await?;
    let next = found.next;
    Ok(list_of(Page { rows, next }, |view| view))
}

/// What an id names that a person found in a log.
enum Logged {
    Event(Id<id::Event>),
    Delivery(Box<Delivery>),
}

/// Looks an id up in every form that a current profile gives to messages.
async fn logged(api: &Api, text: &str) -> ApiResult<Option<Logged>> {
    let (mut events, mut deliveries) = (Vec::new(), Vec::new());
    events.extend(text.parse::<Id<id::Event>>().ok());
    deliveries.extend(text.parse::<Id<id::Delivery>>().ok());
    let ids = api.store().ids();
    let profiles = api.engine().profiles();
    for current in profiles
        .names()
        .iter()
        .filter_map(|name| profiles.current(name))
    {
        let known = &current.profile.ids;
        match known.message_scope {
            MessageScope::Event => events.extend(known.message.find(text, ids)),
            MessageScope::Delivery => deliveries.extend(known.message.find(text, ids)),
        }
    }
    for delivery in deliveries {
        match api.store().delivery(delivery).await {
            Ok(delivery) => return Ok(Some(Logged::Delivery(Box::new(delivery)))),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
    }
    for event in events {
        match api.store().event(event).await {
            Ok(event) => return Ok(Some(Logged::Event(event.id))),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(None)
}

/// The rows of a list, each with where it went and how its last attempt ended.
async fn with_last(api: &Api, deliveries: Vec<Delivery>) -> ApiResult<Vec<DeliveryView>> {
    let endpoints: HashSet<_> = deliveries
        .iter()
        .map(|delivery| delivery.endpoint)
        .collect();
    let endpoints = api
        .store()
        .endpoints(endpoints.into_iter().collect())
        .await?;
    let endpoints: HashMap<_, _> = endpoints
        .into_iter()
        .map(|endpoint| (endpoint.id, endpoint))
        .collect();
    let tried = deliveries.iter().filter(|delivery| delivery.attempts > 0);
    let tried = tried.map(|delivery| delivery.id).collect();
    let last = api.store().last_attempts(tried).await?;
    let last: HashMap<_, _> = last.into_iter().collect();
    let view = |delivery: &Delivery| {
        let endpoint = endpoints.get(&delivery.endpoint);
        DeliveryView::listed(delivery, endpoint, last.get(&delivery.id))
    };
    Ok(deliveries.iter().map(view).collect())
}

/// The endpoint that a query asks for, by its id or by the key that owns it.
pub(super) async fn endpoint_or_key(
    api: &Api,
    caller: &Caller,
    endpoint: Option<&str>,
    key: Option<&str>,
) -> ApiResult<Option<Id<id::Endpoint>>> {
    match (endpoint, key) {
        (Some(_), Some(_)) => Err(ApiError::invalid("key", "cannot be together with endpoint")),
        (endpoint, None) => given_id("endpoint", endpoint),
        (None, Some(key)) => endpoint_of(api, caller, key).await.map(Some),
    }
}

/// The endpoint that the key with this public id owns.
async fn endpoint_of(api: &Api, caller: &Caller, public_id: &str) -> ApiResult<Id<id::Endpoint>> {
    // Those of others and those that never were read alike.
    let unknown = || ApiError::invalid("key", "is not the public id of a key with a webhook");
    let addressee = match api.0.directory.addressee(public_id).await {
        Err(error) if error.is_not_found() => return Err(unknown()),
        found => found?,
    };
    let own = match addressee.key.scope {
        Scope::Tenant(application, tenant) => {
            caller.may_see(application, tenant) && caller.may_touch(addressee.key.mode)
        }
        Scope::Root | Scope::Application(_) => false,
    };
    let endpoint = addressee.endpoint.filter(|_| own);
    endpoint.ok_or_else(unknown)
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

/// A delivery with its last attempts, each with the body it sent.
async fn with_attempts(api: &Api, delivery: &Delivery) -> ApiResult<DeliveryView> {
    let last = api.store().attempts(delivery.id, None, ATTEMPTS_SHOWN);
    let attempts = with_bodies(api, delivery, last.await?).await?;
    Ok(DeliveryView::with_attempts(delivery, attempts))
}

async fn with_bodies(
    api: &Api,
    delivery: &Delivery,
    attempts: Vec<Attempt>,
) -> ApiResult<Vec<AttemptView>> {
    let event = api.store().event(delivery.event).await?;
    let mut views = Vec::with_capacity(attempts.len());
    for attempt in attempts {
        let body = api.engine().body_of(delivery, &event, Some(&attempt));
        let body = body.await?;
        views.push(AttemptView::with_body(attempt, body.as_deref()));
    }
    Ok(views)
}

/// All attempts of a delivery in pages, the last first.
pub(crate) async fn attempts(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    Query(paging): Query<Paging>,
) -> ApiResult<Response> {
    let delivery = found(&api, &caller, &id).await?;
    let page = paging.request_of(ATTEMPTS_SHOWN as usize)?;
    let query = query_digest(&("attempts", delivery.id));
    let before = page.after(query)?;
    let before = before.map(|number| u32::try_from(number).unwrap_or(u32::MAX));
    let limit = u32::try_from(page.limit).unwrap_or(u32::MAX);
    let found = api.store().attempts(delivery.id, before, limit).await?;
    let more = found.first().filter(|first| first.number > 1);
    let next = more.map(|first| Cursor {
        query,
        after: first.number.into(),
    });
    let mut rows = with_bodies(&api, &delivery, found).await?;
    rows.reverse();
    Ok(list_of(Page { rows, next }, |view| view))
}

/// How a delivery is sent again, if its profile allows that (`docs/systems.md`, S-32, F-26).
pub(super) fn resend_policy(api: &Api, delivery: &Delivery) -> ApiResult<ResendPolicy> {
    let Some(profile) = api.engine().profiles().version(delivery.profile) else {
        return Ok(ResendPolicy::default());
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
    Ok(policy.clone())
}

/// Sends it again, as its profile has it; the delivery as it is then. A client that goes away does
/// not change that.
pub(super) async fn send_again(api: &Api, delivery: Delivery) -> ApiResult<Delivery> {
    let policy = resend_policy(api, &delivery)?;
    let sending = api.clone();
    api.to_the_end(async move {
        let engine = sending.engine();
        match engine.resend(&delivery, policy.series).await {
            Ok(due) => Ok(due.delivery),
            Err(PublishError::Store(StoreError::Conflict {
                rule: Rule::EndpointDisabled,
            })) if policy.while_disabled => Ok(engine.resend_while_disabled(&delivery).await?),
            Err(error) => Err(error.into()),
        }
    })
    .await
}

/// Sends it again now; 202 as soon as that is durable, or on its way past a closed lane.
pub(crate) async fn resend(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Response> {
    let delivery = found(&api, &caller, &id).await?;
    let again = send_again(&api, delivery).await?;
    Ok(json(StatusCode::ACCEPTED, &DeliveryView::brief(&again)))
}

/// Ends what waits: nothing is sent any more.
pub(crate) async fn cancel(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Response> {
    let delivery = found(&api, &caller, &id).await?;
    let (cancelling, id) = (api.clone(), delivery.id);
    let cancelled = api
        .to_the_end(async move { Ok(cancelling.engine().cancel(&delivery).await?) })
        .await?;
    if !cancelled {
        let detail = "only what is pending can be cancelled";
        return Err(ApiError::new(ErrorCode::DeliveryEnded, detail));
    }
    let cancelled = api.store().delivery(id).await?;
    Ok(ok(&DeliveryView::brief(&cancelled)))
}
