//! Send-outs: deliveries as Voucherify's audit log shows them (`docs/systems.md`, F-24 to F-26).

use std::collections::{HashMap, HashSet};

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use postrider_core::attempt::{Attempt, Egress};
use postrider_core::delivery::{Delivery, DeliveryState};
use postrider_core::endpoint::{Endpoint, EndpointKind};
use postrider_core::event::EventSummary;
use postrider_core::limits::PAGE_ROWS_MAX;
use postrider_core::profile::{MessageScope, Profile};
use postrider_core::{Id, Timestamp, id};
use postrider_store::queries::query_digest;
use postrider_store::{Cursor, DeliveryFilter, Page, PageRequest, StatePattern, failure_text};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use super::deliveries;
use super::events::bounds;
use super::views::raw_bytes;
use crate::Api;
use crate::auth::Caller;
use crate::problem::{ApiError, ApiResult};
use crate::request::{Path, Query, json, list as list_of, ok, page_request, path_id};

/// Pages of deliveries that one search by type looks at.
const PAGES_SEARCHED: usize = 20;

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum Status {
    Succeeded,
    Retrying,
    Failed,
    /// Its distribution was paused.
    Skipped,
}

impl Status {
    fn of(state: DeliveryState) -> Self {
        match state {
            DeliveryState::Delivered => Self::Succeeded,
            DeliveryState::Pending => Self::Retrying,
            DeliveryState::Failed(_) | DeliveryState::Cancelled => Self::Failed,
            DeliveryState::Skipped => Self::Skipped,
        }
    }

    fn pattern(self) -> StatePattern {
        match self {
            Self::Succeeded => StatePattern::Delivered,
            Self::Retrying => StatePattern::Pending,
            Self::Failed => StatePattern::Unsuccessful,
            Self::Skipped => StatePattern::Skipped,
        }
    }
}

#[derive(Serialize)]
struct SourceView {
    id: String,
    object: &'static str,
    name: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SendOutView {
    status: Status,
    /// As receivers see it: the event's, or a distribution's event name.
    r#type: String,
    /// The message id on the wire.
    send_out_id: String,
    delivery: Id<id::Delivery>,
    source: SourceView,
    /// Of the last attempt, or the present one before the first.
    target_url: String,
    request_id: Option<String>,
    event_created_at: Timestamp,
    /// Start of the last attempt.
    executed_at: Option<Timestamp>,
    attempts: u32,
    next_attempt_at: Option<Timestamp>,
    /// Why it failed for good: `exhausted`, or `endpoint_disabled` when its source was disabled or
    /// paused while it waited.
    reason: Option<&'static str>,
    /// How the last attempt ended.
    error: Option<String>,
    egress: Option<Egress>,
    /// The complete webhook as it was sent; not in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Box<RawValue>>,
}

/// Nine bytes, as Voucherify's request ids have.
const REQUEST_ID_MASK: u128 = (1 << 72) - 1;

/// What the product's `meta` says of the event, where it says it as Voucherify does (F-10).
struct Meta {
    /// The request that caused the event.
    request_id: Option<String>,
    created_at: Option<Timestamp>,
}

impl Meta {
    fn of(event: &EventSummary) -> Self {
        let meta = event.meta.as_deref();
        let meta = meta.and_then(|meta| serde_json::from_slice::<Value>(meta).ok());
        let text = |name: &str| meta.as_ref()?.get(name)?.as_str();
        Self {
            // Whoever did not say which request it was gets one that is always the same for the event.
            request_id: text("group_id").map_or_else(
                || Some(format!("v-{:018x}", event.id.as_u128() & REQUEST_ID_MASK)),
                |given| Some(given.to_owned()),
            ),
            created_at: text("created_at").and_then(|text| text.parse().ok()),
        }
    }
}

fn profile_of(api: &Api, delivery: &Delivery) -> ApiResult<std::sync::Arc<Profile>> {
    let version = delivery.profile;
    let profile = api.engine().profiles().version(version);
    profile.ok_or_else(|| ApiError::internal(format!("profile version {version} is unknown")))
}

/// The endpoints of deliveries, deleted ones too.
async fn endpoints_of(
    api: &Api,
    deliveries: &[Delivery],
) -> ApiResult<HashMap<Id<id::Endpoint>, Endpoint>> {
    let ids: HashSet<Id<id::Endpoint>> = deliveries.iter().map(|d| d.endpoint).collect();
    let found = api.store().endpoints(ids.into_iter().collect()).await?;
    Ok(found.into_iter().map(|found| (found.id, found)).collect())
}

/// The views of a page of deliveries, in their order.
async fn views(api: &Api, deliveries: &[Delivery]) -> ApiResult<Vec<SendOutView>> {
    let endpoints = endpoints_of(api, deliveries).await?;
    let events: HashSet<Id<id::Event>> = deliveries.iter().map(|d| d.event).collect();
    let events = api.store().event_summaries(events.into_iter().collect());
    let events = events.await?.into_iter().map(|event| (event.id, event));
    let events: HashMap<Id<id::Event>, EventSummary> = events.collect();
    let ids = deliveries.iter().map(|delivery| delivery.id).collect();
    let last = api.store().last_attempts(ids).await?;
    let mut last: HashMap<Id<id::Delivery>, Attempt> = last.into_iter().collect();
    let without = |what| move || ApiError::internal(format!("a delivery without its {what}"));
    deliveries
        .iter()
        .map(|delivery| {
            let endpoint = endpoints.get(&delivery.endpoint);
            let endpoint = endpoint.ok_or_else(without("endpoint"))?;
            let event = events.get(&delivery.event).ok_or_else(without("event"))?;
            view(api, delivery, endpoint, event, last.remove(&delivery.id))
        })
        .collect()
}

async fn view_of_one(api: &Api, delivery: &Delivery) -> ApiResult<SendOutView> {
    let views = views(api, std::slice::from_ref(delivery)).await?;
    let view = views.into_iter().next();
    view.ok_or_else(|| ApiError::internal("one delivery has one view"))
}

fn view(
    api: &Api,
    delivery: &Delivery,
    endpoint: &Endpoint,
    event: &EventSummary,
    last: Option<Attempt>,
) -> ApiResult<SendOutView> {
    let profile = profile_of(api, delivery)?;
    let today = match &endpoint.kind {
        EndpointKind::Distribution(distribution) => Some(distribution),
        EndpointKind::Registered | EndpointKind::Callback | EndpointKind::Key(_) => None,
    };
    let sent = last.as_ref().and_then(|last| last.rendering.as_deref());
    let sent = sent.and_then(|sent| sent.distribution.as_ref());
    let source = SourceView {
        id: profile.endpoint_id(endpoint.id, &endpoint.kind),
        object: if today.is_some() {
            "distribution"
        } else {
            "webhook"
        },
        name: today.map(|distribution| distribution.name.clone()),
    };
    // Its owner may have typed another name since.
    let r#type = match sent.or(today) {
        Some(distribution) => distribution.event_name.clone(),
        None => delivery.event_type.as_ref().to_owned(),
    };
    let delivered = delivery.state == DeliveryState::Delivered;
    let meta = Meta::of(event);
    Ok(SendOutView {
        status: Status::of(delivery.state),
        r#type,
        send_out_id: profile.message_id(delivery.event, delivery.id),
        delivery: delivery.id,
        source,
        target_url: last
            .as_ref()
            .map_or_else(|| endpoint.url.clone(), |last| last.url.clone()),
        event_created_at: meta.created_at.unwrap_or(event.occurred_at),
        request_id: meta.request_id,
        executed_at: last.as_ref().map(|last| last.started_at),
        attempts: delivery.attempts,
        next_attempt_at: (delivery.state == DeliveryState::Pending).then_some(delivery.due_at),
        reason: match delivery.state {
            DeliveryState::Failed(reason) => Some(reason.as_str()),
            DeliveryState::Pending
            | DeliveryState::Delivered
            | DeliveryState::Cancelled
            | DeliveryState::Skipped => None,
        },
        error: last.as_ref().filter(|_| !delivered).map(failure_text),
        egress: last.and_then(|last| last.egress),
        data: None,
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct SendOutQuery {
    status: Option<Status>,
    r#type: Option<String>,
    send_out_id: Option<String>,
    /// An endpoint or a distribution.
    source: Option<String>,
    since: Option<String>,
    until: Option<String>,
    limit: Option<String>,
    cursor: Option<String>,
}

pub(crate) async fn list(
    State(api): State<Api>,
    caller: Caller,
    Path(tenant): Path<String>,
    Query(query): Query<SendOutQuery>,
) -> ApiResult<Response> {
    let tenant = caller.tenant(&api, path_id(&tenant)?).await?;
    let profile = api.0.directory.profile(tenant.application).await?.profile;
    let page = page_request(query.limit.as_deref(), query.cursor.as_deref())?;
    let (since, until) = bounds(query.since.as_deref(), query.until.as_deref())?;
    let mut filter = DeliveryFilter {
        tenant: Some(tenant.id),
        mode: caller.shown(None)?,
        state: query.status.map(Status::pattern),
        since,
        until,
        ..DeliveryFilter::default()
    };
    if profile.distribution.is_none() {
        filter.event_type = query.r#type.clone();
    }
    if let Some(source) = &query.source {
        let id = source.parse().ok();
        let id = id.or_else(|| profile.find_endpoint(source, api.store().ids()));
        let rule = "is not the id of an endpoint or a distribution";
        filter.endpoint = Some(id.ok_or_else(|| ApiError::invalid("source", rule))?);
    }
    let shown = match (&query.send_out_id, &query.r#type) {
        (Some(text), wanted) => {
            let page = with_id(&api, &profile, filter, text, page).await?;
            let mut rows = views(&api, &page.rows).await?;
            rows.retain(|row| wanted.as_ref().is_none_or(|wanted| *wanted == row.r#type));
            let next = page.next;
            Page { rows, next }
        }
        (None, Some(wanted)) => of_type(&api, filter, wanted, page).await?,
        (None, None) => {
            let page = api.store().list_deliveries(filter, page).await?;
            let rows = views(&api, &page.rows).await?;
            let next = page.next;
            Page { rows, next }
        }
    };
    Ok(list_of(shown, |view| view))
}

/// Those that are shown with a type: of a distribution's that is the name its owner had typed when
/// it was sent, which only the record knows. Looks at [`PAGES_SEARCHED`] pages at most.
async fn of_type(
    api: &Api,
    filter: DeliveryFilter,
    wanted: &str,
    page: PageRequest,
) -> ApiResult<Page<SendOutView>> {
    let query = query_digest(&filter);
    let mut searched = PageRequest {
        limit: PAGE_ROWS_MAX,
        ..page
    };
    let mut rows = Vec::new();
    for _ in 0..PAGES_SEARCHED {
        let found = api
            .store()
            .list_deliveries(filter.clone(), searched)
            .await?;
        let shown = views(api, &found.rows).await?;
        for view in shown.into_iter().filter(|view| view.r#type == wanted) {
            let after = view.delivery.as_u128();
            rows.push(view);
            if rows.len() == page.limit {
                let next = Some(Cursor { query, after });
                return Ok(Page { rows, next });
            }
        }
        searched.cursor = found.next;
        if found.next.is_none() {
            break;
        }
    }
    let next = searched.cursor;
    Ok(Page { rows, next })
}

/// The deliveries with a message id; more than one where it names an event for all endpoints.
async fn with_id(
    api: &Api,
    profile: &Profile,
    filter: DeliveryFilter,
    text: &str,
    page: PageRequest,
) -> ApiResult<Page<Delivery>> {
    let ids = api.store().ids();
    let mut rows = Vec::new();
    match profile.ids.message_scope {
        MessageScope::Event => {
            if let Some(event) = profile.ids.message.find(text, ids) {
                let event = Some(event);
                let filter = DeliveryFilter { event, ..filter };
                return Ok(api.store().list_deliveries(filter, page).await?);
            }
        }
        MessageScope::Delivery => {
            if let Some(id) = profile.ids.message.find(text, ids) {
                match api.store().delivery(id).await {
                    Ok(delivery) => rows.push(delivery),
                    Err(error) if error.is_not_found() => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
    }
    rows.retain(|delivery| matches(&filter, delivery));
    Ok(Page { rows, next: None })
}

fn matches(filter: &DeliveryFilter, delivery: &Delivery) -> bool {
    let of_type = filter.event_type.as_deref();
    filter.tenant == Some(delivery.tenant)
        && filter.endpoint.is_none_or(|id| id == delivery.endpoint)
        && filter.mode.is_none_or(|mode| mode == delivery.mode)
        && of_type.is_none_or(|wanted| *wanted == *delivery.event_type)
        && filter
            .state
            .is_none_or(|state| state.matches(delivery.state))
        && filter.since.is_none_or(|at| delivery.created_at >= at)
        && filter.until.is_none_or(|at| delivery.created_at < at)
}

pub(crate) async fn read(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Response> {
    let delivery = deliveries::found(&api, &caller, &id).await?;
    let mut view = view_of_one(&api, &delivery).await?;
    let event = api.store().event(delivery.event).await?;
    let last = api.store().attempts(delivery.id, None, 1).await?.pop();
    let body = api.engine().body_of(&delivery, &event, last.as_ref());
    view.data = body.await?.as_deref().and_then(raw_bytes);
    Ok(ok(&view))
}

/// Sends it again: the same id and body, a new attempt.
pub(crate) async fn retry(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Response> {
    let delivery = deliveries::found(&api, &caller, &id).await?;
    let again = deliveries::send_again(&api, delivery).await?;
    let view = view_of_one(&api, &again).await?;
    Ok(json(StatusCode::ACCEPTED, &view))
}
