//! Send-outs: deliveries as Voucherify's audit log shows them (`docs/systems.md`, F-24 to F-26).

use axum::extract::State;
use http::StatusCode;
use postrider_core::attempt::Egress;
use postrider_core::delivery::DeliveryState;
use postrider_core::{Id, Timestamp, id};
use postrider_service::{Caller, SendOut, SendOutQuery, SendOutStatus};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::views::raw_bytes;
use crate::Api;
use crate::problem::Answer;
use crate::request::{Path, Query, given_time, json, list as list_of, ok, page_request, read_id};

#[derive(Serialize)]
struct SourceView {
    id: String,
    object: &'static str,
    name: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SendOutView {
    status: SendOutStatus,
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

impl From<SendOut> for SendOutView {
    fn from(s: SendOut) -> Self {
        let delivery = s.delivery;
        let pending = delivery.state == DeliveryState::Pending;
        Self {
            status: s.status,
            r#type: s.shown_type,
            send_out_id: s.send_out_id,
            delivery: delivery.id,
            source: SourceView {
                id: s.source.id,
                object: s.source.object,
                name: s.source.name,
            },
            target_url: s.target_url,
            request_id: s.request_id,
            event_created_at: s.event_created_at,
            executed_at: s.executed_at,
            attempts: delivery.attempts,
            next_attempt_at: pending.then_some(delivery.due_at),
            reason: match delivery.state {
                DeliveryState::Failed(reason) => Some(reason.as_str()),
                DeliveryState::Pending
                | DeliveryState::Delivered
                | DeliveryState::Cancelled
                | DeliveryState::Skipped => None,
            },
            error: s.error,
            egress: s.egress,
            data: None,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct SendOutParams {
    status: Option<SendOutStatus>,
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
    Query(params): Query<SendOutParams>,
) -> Answer {
    let query = SendOutQuery {
        status: params.status,
        shown_type: params.r#type,
        send_out_id: params.send_out_id,
        source: params.source,
        since: given_time("since", params.since.as_deref())?,
        until: given_time("until", params.until.as_deref())?,
    };
    let page = page_request(params.limit.as_deref(), params.cursor.as_deref())?;
    let found = api
        .service
        .list_send_outs(&caller, read_id(&tenant)?, query, page);
    Ok(list_of(found.await?, SendOutView::from))
}

pub(crate) async fn read(State(api): State<Api>, caller: Caller, Path(id): Path<String>) -> Answer {
    let (found, body) = api.service.send_out(&caller, read_id(&id)?).await?;
    Ok(ok(&SendOutView {
        data: body.as_deref().and_then(raw_bytes),
        ..SendOutView::from(found)
    }))
}

/// Sends it again: the same id and body, a new attempt.
pub(crate) async fn retry(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
) -> Answer {
    let again = api.service.retry_send_out(&caller, read_id(&id)?).await?;
    Ok(json(StatusCode::ACCEPTED, &SendOutView::from(again)))
}
