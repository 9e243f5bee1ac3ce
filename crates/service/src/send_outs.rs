//! Send-outs: deliveries as Voucherify's audit log shows them (`docs/systems.md`, F-24 to F-26).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
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
use utoipa::ToSchema;

use crate::deliveries;
use crate::reading::{bounded_page, must_be_range};
use crate::refusal::{Refusal, Result};
use crate::{Caller, Service};

/// Pages of deliveries that one search by type looks at.
const PAGES_SEARCHED: usize = 20;

/// How a delivery stands, in the words of the audit log.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum SendOutStatus {
    Succeeded,
    Retrying,
    Failed,
    /// Its distribution was paused.
    Skipped,
}

impl SendOutStatus {
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

/// What sent: an endpoint or a distribution.
#[derive(Debug)]
pub struct SendOutSource {
    /// As receivers know it.
    pub id: String,
    /// `webhook` or `distribution`.
    pub object: &'static str,
    pub name: Option<String>,
}

/// A delivery as the audit log shows it.
#[derive(Debug)]
pub struct SendOut {
    pub status: SendOutStatus,
    /// As receivers see it: the event's, or a distribution's event name.
    pub shown_type: String,
    /// The message id on the wire.
    pub send_out_id: String,
    pub delivery: Delivery,
    pub source: SendOutSource,
    /// Of the last attempt, or the present one before the first.
    pub target_url: String,
    pub request_id: Option<String>,
    pub event_created_at: Timestamp,
    /// Start of the last attempt.
    pub executed_at: Option<Timestamp>,
    /// How the last attempt ended, where it did not succeed.
    pub error: Option<String>,
    pub egress: Option<Egress>,
}

/// Which send-outs.
#[derive(Debug, Default)]
pub struct SendOutQuery {
    pub status: Option<SendOutStatus>,
    pub shown_type: Option<String>,
    pub send_out_id: Option<String>,
    /// An endpoint or a distribution.
    pub source: Option<String>,
    pub since: Option<Timestamp>,
    pub until: Option<Timestamp>,
}

impl Service {
    /// A tenant's send-outs, the newest first.
    ///
    /// # Errors
    /// Of a filter that cannot be, `not_found`, or what the store answers.
    pub async fn list_send_outs(
        &self,
        who: &Caller,
        tenant: Id<id::Tenant>,
        query: SendOutQuery,
        page: PageRequest,
    ) -> Result<Page<SendOut>> {
        let tenant = who.tenant(self, tenant).await?;
        let profile = self.profile_of(tenant.application).await?.profile;
        must_be_range(query.since, query.until)?;
        let mut filter = DeliveryFilter {
            tenant: Some(tenant.id),
            mode: who.shown(None)?,
            state: query.status.map(SendOutStatus::pattern),
            since: query.since,
            until: query.until,
            ..DeliveryFilter::default()
        };
        // Without distributions the type that is shown is the event's, and the store finds those itself.
        if profile.distribution.is_none() {
            filter.event_type = query.shown_type.clone();
        }
        if let Some(source) = &query.source {
            // As this server writes it, or as receivers know it.
            let id = source.parse().ok();
            let id = id.or_else(|| profile.find_endpoint(source, self.store().ids()));
            let rule = "is not the id of an endpoint or a distribution";
            filter.endpoint = Some(id.ok_or_else(|| Refusal::invalid("source", rule))?);
        }
        match (&query.send_out_id, &query.shown_type) {
            (Some(text), wanted) => {
                let page = with_id(self, who, &profile, filter, text, page).await?;
                let mut rows = send_outs(self, page.rows).await?;
                rows.retain(|row| {
                    wanted
                        .as_ref()
                        .is_none_or(|wanted| *wanted == row.shown_type)
                });
                let next = page.next;
                Ok(Page { rows, next })
            }
            (None, Some(wanted)) => of_type(self, who, filter, wanted, page).await,
            (None, None) => {
                let page = self.deliveries_for(who, filter, bounded_page(page)).await?;
                let rows = send_outs(self, page.rows).await?;
                let next = page.next;
                Ok(Page { rows, next })
            }
        }
    }

    /// A send-out with the complete webhook as it was sent.
    ///
    /// # Errors
    /// `not_found`, also where it is another's.
    pub async fn send_out(
        &self,
        who: &Caller,
        id: Id<id::Delivery>,
    ) -> Result<(SendOut, Option<Bytes>)> {
        let delivery = deliveries::found(self, who, id).await?;
        let event = self.store().event(delivery.event).await?;
        let last = deliveries::attempts_of(self, who, delivery.id, None, 1).await?;
        let last = last.into_iter().next_back();
        let body = self.engine().body_of(&delivery, &event, last.as_ref());
        let body = body.await?;
        Ok((one(self, delivery).await?, body))
    }

    /// Sends it again: the same id and body, a new attempt.
    ///
    /// # Errors
    /// As sending a delivery again has.
    pub async fn retry_send_out(&self, who: &Caller, id: Id<id::Delivery>) -> Result<SendOut> {
        who.must_change()?;
        let again = self.resend(who, id).await?;
        one(self, again).await
    }
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

fn profile_of(service: &Service, delivery: &Delivery) -> Result<Arc<Profile>> {
    let version = delivery.profile;
    let profile = service.engine().profiles().version(version);
    profile.ok_or_else(|| Refusal::internal(format!("profile version {version} is unknown")))
}

/// The endpoints of deliveries, deleted ones too.
async fn endpoints_of(
    service: &Service,
    deliveries: &[Delivery],
) -> Result<HashMap<Id<id::Endpoint>, Endpoint>> {
    let ids: HashSet<Id<id::Endpoint>> = deliveries.iter().map(|d| d.endpoint).collect();
    let found = service.store().endpoints(ids.into_iter().collect()).await?;
    Ok(found.into_iter().map(|found| (found.id, found)).collect())
}

/// A page of deliveries as send-outs, in their order.
async fn send_outs(service: &Service, deliveries: Vec<Delivery>) -> Result<Vec<SendOut>> {
    let endpoints = endpoints_of(service, &deliveries).await?;
    let events: HashSet<Id<id::Event>> = deliveries.iter().map(|d| d.event).collect();
    let events = service
        .store()
        .event_summaries(events.into_iter().collect());
    let events = events.await?.into_iter().map(|event| (event.id, event));
    let events: HashMap<Id<id::Event>, EventSummary> = events.collect();
    let ids = deliveries.iter().map(|delivery| delivery.id).collect();
    let last = service.store().last_attempts(ids).await?;
    let mut last: HashMap<Id<id::Delivery>, Attempt> = last.into_iter().collect();
    let without = |what| move || Refusal::internal(format!("a delivery without its {what}"));
    deliveries
        .into_iter()
        .filter_map(|delivery| {
            // It went by its age since the delivery was read.
            let event = events.get(&delivery.event)?;
            Some((delivery, event))
        })
        .map(|(delivery, event)| {
            let endpoint = endpoints.get(&delivery.endpoint);
            let endpoint = endpoint.ok_or_else(without("endpoint"))?;
            let last = last.remove(&delivery.id);
            send_out(service, delivery, endpoint, event, last)
        })
        .collect()
}

async fn one(service: &Service, delivery: Delivery) -> Result<SendOut> {
    let found = send_outs(service, vec![delivery]).await?;
    let one = found.into_iter().next();
    one.ok_or_else(|| Refusal::not_found("send-out"))
}

fn send_out(
    service: &Service,
    delivery: Delivery,
    endpoint: &Endpoint,
    event: &EventSummary,
    last: Option<Attempt>,
) -> Result<SendOut> {
    let profile = profile_of(service, &delivery)?;
    let today = match &endpoint.kind {
        EndpointKind::Distribution(distribution) => Some(distribution),
        EndpointKind::Registered | EndpointKind::Callback | EndpointKind::Key(_) => None,
    };
    let sent = last.as_ref().and_then(|last| last.rendering.as_deref());
    let sent = sent.and_then(|sent| sent.distribution.as_ref());
    let source = SendOutSource {
        id: profile.endpoint_id(endpoint.id, &endpoint.kind),
        object: if today.is_some() {
            "distribution"
        } else {
            "webhook"
        },
        name: today.map(|distribution| distribution.name.clone()),
    };
    // Its owner may have typed another name since.
    let shown_type = match sent.or(today) {
        Some(distribution) => distribution.event_name.clone(),
        None => delivery.event_type.as_ref().to_owned(),
    };
    let delivered = delivery.state == DeliveryState::Delivered;
    let meta = Meta::of(event);
    Ok(SendOut {
        status: SendOutStatus::of(delivery.state),
        shown_type,
        send_out_id: profile.message_id(delivery.event, delivery.id),
        source,
        target_url: last
            .as_ref()
            .map_or_else(|| endpoint.url.clone(), |last| last.url.clone()),
        event_created_at: meta.created_at.unwrap_or(event.occurred_at),
        request_id: meta.request_id,
        executed_at: last.as_ref().map(|last| last.started_at),
        error: last.as_ref().filter(|_| !delivered).map(failure_text),
        egress: last.and_then(|last| last.egress),
        delivery,
    })
}

/// Those that are shown with a type: of a distribution's that is the name its owner had typed when
/// it was sent, which only the record knows. Looks at [`PAGES_SEARCHED`] pages at most.
async fn of_type(
    service: &Service,
    who: &Caller,
    filter: DeliveryFilter,
    wanted: &str,
    page: PageRequest,
) -> Result<Page<SendOut>> {
    let query = query_digest(&filter);
    let page = bounded_page(page);
    // Whole pages, because most of their rows may be of other types.
    let mut searched = PageRequest {
        limit: PAGE_ROWS_MAX,
        ..page
    };
    let mut rows = Vec::new();
    for _ in 0..PAGES_SEARCHED {
        let found = service
            .deliveries_for(who, filter.clone(), searched)
            .await?;
        let shown = send_outs(service, found.rows).await?;
        for row in shown.into_iter().filter(|row| row.shown_type == wanted) {
            // The place of the row and not of the page: what is behind it is looked at again.
            let after = row.delivery.id.as_u128();
            rows.push(row);
            if rows.len() >= page.limit {
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
    service: &Service,
    who: &Caller,
    profile: &Profile,
    filter: DeliveryFilter,
    text: &str,
    page: PageRequest,
) -> Result<Page<Delivery>> {
    let ids = service.store().ids();
    let mut rows = Vec::new();
    match profile.ids.message_scope {
        MessageScope::Event => {
            if let Some(event) = profile.ids.message.find(text, ids) {
                let event = Some(event);
                let filter = DeliveryFilter { event, ..filter };
                return service
                    .deliveries_for(who, filter, bounded_page(page))
                    .await;
            }
        }
        MessageScope::Delivery => {
            if let Some(id) = profile.ids.message.find(text, ids) {
                match service.store().delivery(id).await {
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
    // As the store has it, for the one row that was found by its key.
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
