//! Send-outs: deliveries as Voucherify's audit log shows them (`docs/systems.md`, F-24 to F-26).

use axum::extract::State;
use http::StatusCode;
use postrider_core::attempt::Egress;
use postrider_core::delivery::DeliveryState;
use postrider_core::{Id, Timestamp, id};
use postrider_service::{Caller, SendOut, SendOutQuery, SendOutStatus};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};

use super::views::raw_bytes;
use crate::Api;
use crate::openapi::{OfDelivery, OfTenant, Refusals};
use crate::problem::Answer;
use crate::request::{
    List, NoBody, Path, Query, given_time, json, list as list_of, ok, page_request, read_id,
};

#[derive(Serialize, ToSchema)]
struct SourceView {
    id: String,
    object: &'static str,
    name: Option<String>,
}

#[derive(Serialize, ToSchema)]
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
    #[schema(value_type = Option<serde_json::Value>)]
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

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
pub(crate) struct SendOutParams {
    /// How they stand.
    status: Option<SendOutStatus>,
    /// As receivers see it.
    r#type: Option<String>,
    /// With this message id.
    send_out_id: Option<String>,
    /// An endpoint or a distribution.
    source: Option<String>,
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

/// Lists a tenant's webhook send-outs, the newest first.
#[utoipa::path(
    get, path = "/v1/tenants/{tenant}/send-outs", tag = "Send-outs", operation_id = "listSendOuts",
    params(OfTenant, SendOutParams),
    responses((status = OK, description = "Done.", body = List<SendOutView>), Refusals),
)]
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

/// Reads a send-out with the complete webhook.
#[utoipa::path(
    get, path = "/v1/send-outs/{delivery}", tag = "Send-outs", operation_id = "getSendOut",
    params(OfDelivery),
    responses((status = OK, description = "Done.", body = SendOutView), Refusals),
)]
pub(crate) async fn read(State(api): State<Api>, caller: Caller, Path(id): Path<String>) -> Answer {
    let (found, body) = api.service.send_out(&caller, read_id(&id)?).await?;
    Ok(ok(&SendOutView {
        data: body.as_deref().and_then(raw_bytes),
        ..SendOutView::from(found)
    }))
}

/// Sends it again: the same id and body, a new attempt.
#[utoipa::path(
    post, path = "/v1/send-outs/{delivery}/retry", tag = "Send-outs", operation_id = "retrySendOut",
    params(OfDelivery),
    responses((status = ACCEPTED, description = "Begun, or on its way.", body = SendOutView), Refusals),
)]
pub(crate) async fn retry(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    _: NoBody,
) -> Answer {
    let again = api.service.retry_send_out(&caller, read_id(&id)?).await?;
    Ok(json(StatusCode::ACCEPTED, &SendOutView::from(again)))
}
