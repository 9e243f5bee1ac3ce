//! Deliveries: list by any column, read with attempts, resend, cancel.

use axum::extract::State;
use axum::response::IntoResponse as _;
use http::StatusCode;
use postrider_core::limits::ATTEMPTS_SHOWN;
use postrider_core::tenant::Mode;
use postrider_core::{Id, Timestamp, id};
use postrider_service::{Caller, DeliveryQuery, Refusal, Result, read_answer, read_state};
use serde::Deserialize;
use utoipa::IntoParams;

use super::views::{AttemptView, DeliveryView};
use crate::Api;
use crate::openapi::{OfAttempt, OfDelivery, Refusals};
use crate::problem::Answer;
use crate::request::{
    List, NoBody, Paging, Path, Query, given_id, given_time, json, list as list_of, ok,
    page_request, read_id,
};

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct DeliveryParams {
    /// Of this application.
    #[param(value_type = Option<Id<id::Application>>)]
    application: Option<String>,
    /// Of this tenant.
    #[param(value_type = Option<Id<id::Tenant>>)]
    tenant: Option<String>,
    /// To this endpoint, by its id or its `wireId`.
    endpoint: Option<String>,
    /// Of this event; `webhookId` takes the ids that receivers log.
    #[param(value_type = Option<Id<id::Event>>)]
    event: Option<String>,
    /// The id that a receiver logs: `webhook-id`, a send-out's, a delivery's own.
    #[serde(rename = "webhookId")]
    webhook_id: Option<String>,
    /// The public id of an API key: what was sent to the endpoint that it owns.
    key: Option<String>,
    /// Of this event type.
    r#type: Option<String>,
    /// Of this mode.
    mode: Option<Mode>,
    /// `pending`, `delivered`, `failed`, `cancelled` or `skipped`.
    status: Option<String>,
    /// How its last attempt ended: `2xx`, `3xx`, `4xx`, `5xx`, `none`, or why there was no answer, such as `timeout`.
    answer: Option<String>,
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

/// The endpoint that a filter names.
pub(super) async fn endpoint_meant(
    api: &Api,
    text: Option<&str>,
) -> Result<Option<Id<id::Endpoint>>> {
    match text {
        Some(text) => Ok(Some(api.service.endpoint_meant("endpoint", text).await?)),
        None => Ok(None),
    }
}

/// Lists deliveries, the newest first.
#[utoipa::path(
    get, path = "/v1/deliveries", tag = "Deliveries", operation_id = "listDeliveries",
    params(DeliveryParams),
    responses((status = OK, description = "Done.", body = List<DeliveryView>), Refusals),
)]
pub(crate) async fn list(
    State(api): State<Api>,
    caller: Caller,
    Query(params): Query<DeliveryParams>,
) -> Answer {
    let query = DeliveryQuery {
        application: given_id("application", params.application.as_deref())?,
        tenant: given_id("tenant", params.tenant.as_deref())?,
        endpoint: endpoint_meant(&api, params.endpoint.as_deref()).await?,
        event: given_id("event", params.event.as_deref())?,
        webhook_id: params.webhook_id,
        key: params.key,
        event_type: params.r#type,
        mode: params.mode,
        state: read_state(params.status.as_deref())?,
        answer: read_answer(params.answer.as_deref())?,
        since: given_time("since", params.since.as_deref())?,
        until: given_time("until", params.until.as_deref())?,
    };
    let page = page_request(params.limit.as_deref(), params.cursor.as_deref())?;
    let found = api.service.list_deliveries(&caller, query, page).await?;
    Ok(list_of(found, DeliveryView::listed))
}

/// Reads a delivery with its last attempts.
#[utoipa::path(
    get, path = "/v1/deliveries/{delivery}", tag = "Deliveries", operation_id = "getDelivery",
    params(OfDelivery),
    responses((status = OK, description = "Done.", body = DeliveryView), Refusals),
)]
pub(crate) async fn read(State(api): State<Api>, caller: Caller, Path(id): Path<String>) -> Answer {
    let (delivery, attempts) = api.service.delivery(&caller, read_id(&id)?).await?;
    Ok(ok(&DeliveryView::with_attempts(&delivery, attempts)))
}

/// All attempts of a delivery in pages, the last first.
#[utoipa::path(
    get, path = "/v1/deliveries/{delivery}/attempts", tag = "Deliveries", operation_id = "listAttempts",
    params(OfDelivery, Paging),
    responses((status = OK, description = "Done.", body = List<AttemptView>), Refusals),
)]
pub(crate) async fn attempts(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    Query(paging): Query<Paging>,
) -> Answer {
    let (id, page) = (read_id(&id)?, paging.request_of(ATTEMPTS_SHOWN as usize)?);
    let found = api.service.list_attempts(&caller, id, page).await?;
    Ok(list_of(found, AttemptView::from))
}

/// Deletes what a receiver answered to an attempt, but for the status.
#[utoipa::path(
    delete, path = "/v1/deliveries/{delivery}/attempts/{attempt}/content", tag = "Deliveries", operation_id = "deleteAttemptContent",
    params(OfDelivery, OfAttempt),
    responses((status = NO_CONTENT, description = "Done."), Refusals),
)]
pub(crate) async fn delete_answer(
    State(api): State<Api>,
    caller: Caller,
    Path((id, attempt)): Path<(String, String)>,
    _: NoBody,
) -> Answer {
    let not_found = || Refusal::not_found("attempt");
    let number = attempt.parse().map_err(|_| not_found())?;
    let id = read_id(&id)?;
    api.service.delete_answer(&caller, id, number).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Sends it again now; 202 as soon as that is durable, or on its way past a closed lane.
#[utoipa::path(
    post, path = "/v1/deliveries/{delivery}/resend", tag = "Deliveries", operation_id = "resendDelivery",
    params(OfDelivery),
    responses((status = ACCEPTED, description = "Begun, or on its way.", body = DeliveryView), Refusals),
)]
pub(crate) async fn resend(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    _: NoBody,
) -> Answer {
    let again = api.service.resend(&caller, read_id(&id)?).await?;
    Ok(json(StatusCode::ACCEPTED, &DeliveryView::brief(&again)))
}

/// Ends what waits: nothing is sent any more.
#[utoipa::path(
    post, path = "/v1/deliveries/{delivery}/cancel", tag = "Deliveries", operation_id = "cancelDelivery",
    params(OfDelivery),
    responses((status = OK, description = "Done.", body = DeliveryView), Refusals),
)]
pub(crate) async fn cancel(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    _: NoBody,
) -> Answer {
    let cancelled = api.service.cancel(&caller, read_id(&id)?).await?;
    Ok(ok(&DeliveryView::brief(&cancelled)))
}
