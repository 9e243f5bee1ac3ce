//! Events: publish one or a batch, list, read.

use axum::body::Body;
use axum::extract::State;
use axum::response::IntoResponse as _;
use http::{HeaderMap, StatusCode};
use postrider_core::limits::{BATCH_BODY_BYTES_MAX, BATCH_EVENTS_MAX};
use postrider_core::tenant::Mode;
use postrider_core::trace::TraceParent;
use postrider_core::{Id, Timestamp, id};
use postrider_service::{Caller, ErrorCode, EventQuery, NewEvent, Publication, Refusal, Sent};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};

use super::views::EventView;
use crate::Api;
use crate::openapi::{IdempotencyKey, OfEvent, OfTenant, Refusals};
use crate::problem::{Answer, ProblemView, status};
use crate::request::{
    List, NoBody, Path, Query, given_time, json, list as list_of, must_be_json, ok, page_request,
    read_id, typed, well_formed,
};

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct PublishedView {
    id: Id<id::Event>,
    /// How many endpoints get it.
    deliveries: u32,
    /// The idempotency key was used before: this is the first event.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    duplicate: bool,
    /// What is not as it should be, though accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    warning: Option<String>,
    /// What to do where nobody gets it.
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'static str>,
}

const NOBODY_GETS_IT: &str = "no enabled endpoint of this tenant takes this type in this mode; POST the same body to /v1/tenants/{tenant}/explain, which says why of each";

impl From<Publication> for PublishedView {
    fn from(publication: Publication) -> Self {
        Self {
            id: publication.event,
            deliveries: publication.deliveries,
            duplicate: publication.duplicate,
            warning: publication.warning,
            hint: (publication.deliveries == 0).then_some(NOBODY_GETS_IT),
        }
    }
}

/// The trace that a request belongs to; what is none is ignored, as W3C Trace Context wants it.
pub(crate) fn traceparent(headers: &HeaderMap) -> Option<TraceParent> {
    let mut given = headers.get_all("traceparent").iter();
    let first = given.next()?.to_str().ok()?.parse().ok()?;
    given.next().is_none().then_some(first)
}

/// Publishes an event; 202 when it is on disk.
#[utoipa::path(
    post, path = "/v1/tenants/{tenant}/events", tag = "Events", operation_id = "publishEvent",
    params(OfTenant, IdempotencyKey),
    request_body = NewEvent<'_>,
    responses((status = ACCEPTED, description = "Begun, or on its way.", body = PublishedView), Refusals),
)]
pub(crate) async fn publish(
    State(api): State<Api>,
    caller: Caller,
    Path(tenant): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let tenant = read_id(&tenant)?;
    must_be_json(&headers)?;
    let held = api.body(caller.holder(), body).await?;
    well_formed(&held)?;
    let mut event: NewEvent<'_> = typed(&held)?;
    event.idempotency_key = idempotency_key(&headers, event.idempotency_key)?;
    // `whole`, because the event's data may stay a slice of a body that is little else.
    let sent = Sent {
        raw: &held,
        whole: Some(&held),
        traceparent: traceparent(&headers),
    };
    let published = api.service.publish(&caller, tenant, event, sent).await?;
    Ok(json(StatusCode::ACCEPTED, &PublishedView::from(published)))
}

/// The key of the header, or of the body; where both have one they must not differ.
fn idempotency_key(
    headers: &HeaderMap,
    own: Option<String>,
) -> postrider_service::Result<Option<String>> {
    let Some(value) = headers.get("idempotency-key") else {
        return Ok(own);
    };
    let given = value
        .to_str()
        .map_err(|_| Refusal::invalid("Idempotency-Key", "must be ASCII"))?;
    if own.as_ref().is_some_and(|own| own != given) {
        let rule = "is not the same as the header Idempotency-Key; send one of them";
        return Err(Refusal::invalid("idempotencyKey", rule));
    }
    Ok(Some(given.to_owned()))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct BatchBody<'b> {
    #[serde(borrow)]
    #[schema(value_type = Vec<NewEvent<'b>>)]
    events: Vec<&'b RawValue>,
}

/// The answer for one event of a batch: what was published, or why not.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
enum BatchAnswer {
    Published(PublishedView),
    Refused {
        code: ErrorCode,
        detail: String,
        field: Option<String>,
    },
}

impl From<postrider_service::Result<Publication>> for BatchAnswer {
    fn from(answer: postrider_service::Result<Publication>) -> Self {
        match answer {
            Ok(publication) => Self::Published(publication.into()),
            Err(refusal) => {
                refusal.log();
                Self::Refused {
                    code: refusal.code,
                    detail: refusal.detail,
                    field: refusal.field,
                }
            }
        }
    }
}

#[derive(Serialize, ToSchema)]
struct BatchView {
    data: Vec<BatchAnswer>,
}

/// Takes a batch apart. Each event is read by itself: a bad one has its own answer. Only what cannot be taken apart
/// is refused as a whole.
fn events_of(bytes: &[u8]) -> postrider_service::Result<Vec<&RawValue>> {
    let batch: BatchBody<'_> = typed(bytes).map_err(|mut refusal: Refusal| {
        // Asked only where it failed: a batch may have 16 MiB, and its form is looked at event by event.
        if str::from_utf8(bytes).is_err() || serde_json::from_slice::<&RawValue>(bytes).is_err() {
            refusal.code = ErrorCode::BodyNotJson;
        }
        refusal
    })?;
    if batch.events.is_empty() || batch.events.len() > BATCH_EVENTS_MAX {
        return Err(Refusal::invalid(
            "events",
            format!("must have 1 to {BATCH_EVENTS_MAX} entries"),
        ));
    }
    Ok(batch.events)
}

/// One event of a batch.
fn event_of(
    raw: &RawValue,
    bytes_max: usize,
    traceparent: Option<TraceParent>,
) -> postrider_service::Result<(NewEvent<'_>, Sent<'_>)> {
    let raw = raw.get().as_bytes();
    if raw.len() > bytes_max {
        return Err(Refusal::new(
            ErrorCode::BodyTooLarge,
            format!("an event may have {bytes_max} bytes"),
        ));
    }
    well_formed(raw)?;
    // Not `whole`: a slice would keep the batch in memory for as long as one of its events waits.
    let sent = Sent {
        raw,
        whole: None,
        traceparent,
    };
    Ok((typed(raw)?, sent))
}

/// Publishes up to 1,000 events. Each is accepted or refused by itself; a batch of which nothing
/// was accepted for want of room is refused as a whole.
#[utoipa::path(
    post, path = "/v1/tenants/{tenant}/events/batch", tag = "Events", operation_id = "publishEvents",
    params(OfTenant),
    request_body = BatchBody<'_>,
    responses(Refusals, (status = ACCEPTED, description = "Begun, or on its way.", body = BatchView), (status = BAD_REQUEST, description = "None was accepted: each says why; or the batch cannot be taken apart.", content((BatchView = "application/json"), (ProblemView<'_> = "application/problem+json")))),
)]
pub(crate) async fn publish_batch(
    State(api): State<Api>,
    caller: Caller,
    Path(tenant): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let tenant = read_id(&tenant)?;
    must_be_json(&headers)?;
    let held = api
        .body_of(caller.holder(), body, BATCH_BODY_BYTES_MAX)
        .await?;
    let (bytes_max, traceparent) = (api.options().body_max, traceparent(&headers));
    let events = events_of(&held)?.into_iter();
    // Lazy: each is parsed when its turn comes, not all of them before the first is looked at.
    let events = events.map(|raw| event_of(raw, bytes_max, traceparent));
    let answers = api.service.publish_many(&caller, tenant, events).await?;
    let any = answers.iter().any(Result::is_ok);
    let refusals = answers.iter().filter_map(|answer| answer.as_ref().err());
    let mut full =
        refusals.filter(|refusal| status(refusal.code) == StatusCode::SERVICE_UNAVAILABLE);
    // One whose outcome is not known speaks for all: after the others nothing was stored, which is not to be believed.
    let is_unknown = |full: &&Refusal| full.code == ErrorCode::OutcomeUnknown;
    let full: Vec<&Refusal> = full.by_ref().collect();
    let full = full
        .iter()
        .copied()
        .find(|full| is_unknown(full))
        .or(full.last().copied());
    let full = full.map(|full| (full.code, full.detail.clone()));
    // Before the batch may be refused as a whole, since it logs why each was refused.
    let data = answers.into_iter().map(BatchAnswer::from).collect();
    if let (Some((code, detail)), false) = (full, any) {
        return Err(Refusal::new(code, detail).into());
    }
    // A client that looks at the status alone must not take a batch of refusals for accepted.
    let status = if any {
        StatusCode::ACCEPTED
    } else {
        StatusCode::BAD_REQUEST
    };
    Ok(json(status, &BatchView { data }))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct EventParams {
    /// Of this event type.
    r#type: Option<String>,
    /// Of this mode.
    mode: Option<Mode>,
    /// From this time on.
    #[param(value_type = Option<Timestamp>)]
    since: Option<String>,
    /// Before this time.
    #[param(value_type = Option<Timestamp>)]
    until: Option<String>,
    /// Rows of the page.
    #[param(value_type = Option<u16>, minimum = 1, maximum = 250)]
    limit: Option<String>,
    /// `nextCursor` of the page before.
    cursor: Option<String>,
}

/// Lists a tenant's events without their data, the newest first.
#[utoipa::path(
    get, path = "/v1/tenants/{tenant}/events", tag = "Events", operation_id = "listEvents",
    params(OfTenant, EventParams),
    responses((status = OK, description = "Done.", body = List<EventView>), Refusals),
)]
pub(crate) async fn list(
    State(api): State<Api>,
    caller: Caller,
    Path(tenant): Path<String>,
    Query(params): Query<EventParams>,
) -> Answer {
    let query = EventQuery {
        event_type: params.r#type,
        mode: params.mode,
        since: given_time("since", params.since.as_deref())?,
        until: given_time("until", params.until.as_deref())?,
    };
    let page = page_request(params.limit.as_deref(), params.cursor.as_deref())?;
    let found = api
        .service
        .list_events(&caller, read_id(&tenant)?, query, page);
    Ok(list_of(found.await?, EventView::brief))
}

/// Reads an event with its data.
#[utoipa::path(
    get, path = "/v1/events/{event}", tag = "Events", operation_id = "getEvent",
    params(OfEvent),
    responses((status = OK, description = "Done.", body = EventView), Refusals),
)]
pub(crate) async fn read(State(api): State<Api>, caller: Caller, Path(id): Path<String>) -> Answer {
    let event = api.service.event(&caller, event_id(&id)?).await?;
    Ok(ok(&EventView::whole(&event)))
}

/// A receiver that reports a problem knows the message id; for a standard profile that is the event's.
fn event_id(text: &str) -> postrider_service::Result<Id<id::Event>> {
    match text.strip_prefix("msg_") {
        Some(rest) => read_id(&format!("evt_{rest}")),
        None => read_id(text),
    }
}

/// Deletes what an event said: its `data` and `meta`, and what receivers answered to it. What waits of it is cancelled,
/// and nothing of it is sent again; when it was sent, to whom, and with which status, stays.
#[utoipa::path(
    delete, path = "/v1/events/{event}/content", tag = "Events", operation_id = "deleteEventContent",
    params(OfEvent),
    responses((status = NO_CONTENT, description = "Done."), Refusals),
)]
pub(crate) async fn delete_content(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    _: NoBody,
) -> Answer {
    api.service.delete_content(&caller, event_id(&id)?).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
