//! Attempts: by endpoint, by message, one; and what was to be sent, with how it stands.

use axum::Router;
use axum::extract::State;
use axum::response::IntoResponse as _;
use axum::routing::{delete, get, post};
use http::StatusCode;
use postrider_core::attempt::{Attempt, Outcome};
use postrider_core::delivery::{Delivery, DeliveryState};
use postrider_core::endpoint::Endpoint;
use postrider_core::event::EventSummary;
use postrider_core::profile::{Class, Profile};
use postrider_core::tenant::Tenant;
use postrider_core::{Id, Timestamp, id};
use postrider_service::{
    self as service, Cursor, DeliveryListed, DeliveryQuery, ErrorCode, PageRequest, Refusal,
    StatePattern,
};
use serde::Serialize;

use super::attempt_pages::{Shown, listed};
use super::endpoints::EndpointOut;
use super::lists::{Params, list as list_of, no_iterator};
use super::messages::{ANSWER_BYTES_MAX, MessageOut, still};
use super::{Answer, Client, Path};
use crate::Api;
use crate::request::ok;

pub(super) fn routes(base: &str) -> Router<Api> {
    let app = format!("{base}/app/{{app}}");
    let message = format!("{app}/msg/{{message}}");
    Router::new()
        .route(
            &format!("{app}/attempt/endpoint/{{endpoint}}"),
            get(list_by_endpoint),
        )
        .route(
            &format!("{app}/attempt/msg/{{message}}"),
            get(list_by_message),
        )
        .route(
            &format!("{app}/endpoint/{{endpoint}}/msg"),
            get(messages_of_endpoint),
        )
        .route(&format!("{message}/endpoint"), get(endpoints_of_message))
        // Under their old names, too: earlier SDKs ask there.
        .route(&format!("{message}/attempt"), get(list_by_message))
        .route(
            &format!("{message}/endpoint/{{endpoint}}/attempt"),
            get(list_by_message_and_endpoint),
        )
        .route(&format!("{message}/attempt/{{attempt}}"), get(read))
        .route(
            &format!("{message}/attempt/{{attempt}}/content"),
            delete(delete_answer),
        )
        .route(
            &format!("{message}/endpoint/{{endpoint}}/resend"),
            post(resend),
        )
}

/// Before an attempt's id: the letters and digits of its delivery, and its number.
const PREFIX: &str = "atmpt_";
/// The number of a delivery's first attempt.
pub(super) const FIRST: u32 = 1;
/// Letters and digits that hold a whole id.
const ID_LEN: usize = 22;
/// How something that was sent stands, as a number.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Success = 0,
    Pending = 1,
    Fail = 2,
    /// It failed, and is tried again.
    Sending = 3,
    Canceled = 4,
}

impl Status {
    fn text(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Pending => "pending",
            Self::Fail => "fail",
            Self::Sending => "sending",
            Self::Canceled => "canceled",
        }
    }

    pub(super) fn of_delivery(delivery: &Delivery) -> Self {
        match delivery.state {
            DeliveryState::Delivered => Self::Success,
            DeliveryState::Pending if delivery.attempts == 0 => Self::Pending,
            DeliveryState::Pending => Self::Sending,
            DeliveryState::Failed(_) => Self::Fail,
            DeliveryState::Cancelled | DeliveryState::Skipped => Self::Canceled,
        }
    }

    pub(super) fn of_attempt(attempt: &Attempt, profile: &Profile) -> Self {
        match profile.classify.class(&attempt.outcome) {
            Class::Ok => Self::Success,
            _ => Self::Fail,
        }
    }

    pub(super) fn wanted(params: &Params) -> service::Result<Option<Self>> {
        match params.text("status") {
            None => Ok(None),
            Some("0") => Ok(Some(Self::Success)),
            Some("1") => Ok(Some(Self::Pending)),
            Some("2") => Ok(Some(Self::Fail)),
            Some("3") => Ok(Some(Self::Sending)),
            Some("4") => Ok(Some(Self::Canceled)),
            Some(_) => {
                let rule = "must be 0 success, 1 pending, 2 fail, 3 sending or 4 canceled";
                Err(Refusal::invalid("status", rule))
            }
        }
    }

    /// Deliveries that stand so.
    fn pattern(self) -> Option<StatePattern> {
        StatePattern::parse(match self {
            Self::Success => "delivered",
            // One state of the store is both: whoever asks for one of them looks at what comes.
            Self::Pending | Self::Sending => "pending",
            Self::Fail => "failed",
            Self::Canceled => "cancelled",
        })
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AttemptOut {
    id: String,
    msg_id: String,
    endpoint_id: String,
    url: String,
    pub(super) response: String,
    response_status_code: u16,
    response_duration_ms: u64,
    status: u8,
    status_text: &'static str,
    trigger_type: u8,
    timestamp: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) msg: Option<MessageOut>,
}

pub(super) fn attempt_id(delivery: Id<id::Delivery>, number: u32) -> String {
    format!("{PREFIX}{}{number}", delivery.alnum(ID_LEN))
}

/// The delivery and number that an attempt's id names.
pub(super) fn read_attempt_id(text: &str) -> Option<(Id<id::Delivery>, u32)> {
    let rest = text.strip_prefix(PREFIX)?;
    let (delivery, number) = rest.split_at_checked(ID_LEN)?;
    let id = Id::from_wire(delivery)?;
    let number = number.parse().ok()?;
    // One spelling only: `01` and `+1` are numbers too.
    (attempt_id(id, number) == text).then_some((id, number))
}

impl AttemptOut {
    pub(super) fn new(client: &Client, delivery: &Delivery, attempt: &Attempt) -> Self {
        let profile = client.profile();
        let status = Status::of_attempt(attempt, profile);
        let body = attempt.response.as_ref().map(|response| &response.body);
        let said = match &attempt.outcome {
            Outcome::Answered { .. } => {
                String::from_utf8_lossy(body.map_or(&[], |body| &**body)).into_owned()
            }
            Outcome::Unreachable { reason, detail } => format!("{}: {detail}", reason.as_str()),
        };
        Self {
            id: attempt_id(delivery.id, attempt.number),
            msg_id: profile.ids.message.render(delivery.event),
            endpoint_id: profile.ids.endpoint.render(delivery.endpoint),
            url: attempt.url.clone(),
            response: said,
            response_status_code: status_code(attempt),
            response_duration_ms: u64::from(attempt.timings.total_micros) / 1_000,
            status: status as u8,
            status_text: status.text(),
            trigger_type: u8::from(attempt.manual),
            timestamp: attempt.started_at,
            msg: None,
        }
    }
}

/// 0 where no answer came.
pub(super) fn status_code(attempt: &Attempt) -> u16 {
    match attempt.outcome {
        Outcome::Answered { status, .. } => status,
        Outcome::Unreachable { .. } => 0,
    }
}

pub(super) async fn list_by_endpoint(
    State(api): State<Api>,
    client: Client,
    Path((app, endpoint)): Path<(String, String)>,
    params: Params,
) -> Answer {
    let app = client.app(&api, &app).await?;
    let known = client.endpoint(&api, &app, &endpoint).await?;
    let query = || DeliveryQuery {
        tenant: Some(app.id),
        endpoint: Some(known.id),
        ..DeliveryQuery::default()
    };
    listed(&api, &client, &params, query).await
}

pub(super) async fn list_by_message(
    State(api): State<Api>,
    client: Client,
    Path((app, message)): Path<(String, String)>,
    params: Params,
) -> Answer {
    let app = client.app(&api, &app).await?;
    let event = client.message(&api, &app, &message).await?;
    let endpoint = match params.text("endpoint_id") {
        Some(text) => Some(client.endpoint(&api, &app, text).await?.id),
        None => None,
    };
    let query = || DeliveryQuery {
        tenant: Some(app.id),
        event: Some(event.id),
        endpoint,
        ..DeliveryQuery::default()
    };
    listed(&api, &client, &params, query).await
}

pub(super) async fn list_by_message_and_endpoint(
    State(api): State<Api>,
    client: Client,
    Path((app, message, endpoint)): Path<(String, String, String)>,
    params: Params,
) -> Answer {
    let app = client.app(&api, &app).await?;
    let event = client.message(&api, &app, &message).await?;
    let endpoint = client.endpoint(&api, &app, &endpoint).await?;
    let query = || DeliveryQuery {
        tenant: Some(app.id),
        event: Some(event.id),
        endpoint: Some(endpoint.id),
        ..DeliveryQuery::default()
    };
    listed(&api, &client, &params, query).await
}

/// An attempt of a message, by its id.
async fn found(
    api: &Api,
    client: &Client,
    (app, message, attempt): (String, String, String),
) -> service::Result<(Delivery, Attempt)> {
    let app = client.app(api, &app).await?;
    let event = client.message(api, &app, &message).await?;
    let not_found = || Refusal::not_found("attempt");
    let (delivery, number) = read_attempt_id(&attempt).ok_or_else(not_found)?;
    let service = &api.service;
    // Behind the greatest number there is none: then the last ones come, and it is not among them.
    let found = service.attempts_before(&client.caller, delivery, number.checked_add(1));
    let (delivery, attempts) = found.await?;
    // An attempt of another message is not found under this one.
    let is_it = |attempt: &Attempt| attempt.number == number && delivery.event == event.id;
    let attempt = attempts.into_iter().find(is_it).ok_or_else(not_found)?;
    Ok((delivery, attempt))
}

pub(super) async fn read(
    State(api): State<Api>,
    client: Client,
    Path(path): Path<(String, String, String)>,
) -> Answer {
    let (delivery, attempt) = found(&api, &client, path).await?;
    Ok(ok(&AttemptOut::new(&client, &delivery, &attempt)))
}

pub(super) async fn delete_answer(
    State(api): State<Api>,
    client: Client,
    Path(path): Path<(String, String, String)>,
) -> Answer {
    let (delivery, attempt) = found(&api, &client, path).await?;
    let deleted = api
        .service
        .delete_answer(&client.caller, delivery.id, attempt.number);
    deleted.await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct MessageOfEndpoint {
    #[serde(flatten)]
    message: MessageOut,
    status: u8,
    status_text: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_attempt: Option<Timestamp>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EndpointOfMessage {
    #[serde(flatten)]
    endpoint: EndpointOut,
    status: u8,
    status_text: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_attempt: Option<Timestamp>,
}

/// When a delivery is tried again; none where it is not.
fn next_attempt(delivery: &Delivery) -> Option<Timestamp> {
    (delivery.state == DeliveryState::Pending).then_some(delivery.due_at)
}

/// The place behind a delivery, of which an iterator names the first attempt.
fn behind(params: &Params) -> service::Result<Option<Cursor>> {
    let named = |text| read_attempt_id(text).ok_or_else(no_iterator);
    let last = params.text("iterator").map(named).transpose()?;
    Ok(last.map(|(delivery, _)| Cursor::behind(delivery)))
}

/// The iterator of the page behind one that the store ended there, which may have shown nothing.
pub(super) fn goes_on(next: Option<Cursor>) -> Option<String> {
    next.map(|next| attempt_id(Id::from_u128(next.after), FIRST))
}

/// Messages that go to an endpoint, each with how it stands.
pub(super) async fn messages_of_endpoint(
    State(api): State<Api>,
    client: Client,
    Path((app, endpoint)): Path<(String, String)>,
    params: Params,
) -> Answer {
    let app = client.app(&api, &app).await?;
    let known = client.endpoint(&api, &app, &endpoint).await?;
    let shown = Shown::new(&params)?;
    let limit = params.limit()?;
    let cursor = behind(&params)?;
    let query = DeliveryQuery {
        tenant: Some(app.id),
        endpoint: Some(known.id),
        event_type: shown.wanted.only_type(),
        mode: Some(client.caller.own_mode()),
        state: shown.status.and_then(Status::pattern),
        since: shown.since,
        until: shown.until,
        ..DeliveryQuery::default()
    };
    let page = PageRequest { limit, cursor };
    let found = api.service.list_deliveries(&client.caller, query, page);
    let found = found.await?;
    let (mut data, mut bytes, mut last) = (Vec::new(), 0, None);
    for listed in found.rows {
        if bytes >= ANSWER_BYTES_MAX {
            return Ok(list_of(data, last, false));
        }
        let delivery = listed.delivery;
        last = Some(attempt_id(delivery.id, FIRST));
        let status = Status::of_delivery(&delivery);
        let is_wanted = shown.status.is_none_or(|wanted| wanted == status)
            && shown.wanted.has_type(&delivery.event_type);
        if !is_wanted {
            continue;
        }
        let event = still(api.service.event(&client.caller, delivery.event).await)?;
        let Some(event) = event.filter(|event| shown.wanted.has_meta(event.meta.as_ref())) else {
            continue;
        };
        let payload = shown.with_content.then_some(&*event.data);
        bytes += payload.map_or(0, <[u8]>::len);
        data.push(MessageOfEndpoint {
            message: MessageOut::new(&client, &EventSummary::from(&event), payload),
            status: status as u8,
            status_text: status.text(),
            next_attempt: next_attempt(&delivery),
        });
    }
    let done = found.next.is_none();
    Ok(list_of(data, goes_on(found.next).or(last), done))
}

/// Endpoints that a message goes to, each with how it stands.
pub(super) async fn endpoints_of_message(
    State(api): State<Api>,
    client: Client,
    Path((app, message)): Path<(String, String)>,
    params: Params,
) -> Answer {
    let app = client.app(&api, &app).await?;
    let event = client.message(&api, &app, &message).await?;
    let query = DeliveryQuery {
        tenant: Some(app.id),
        event: Some(event.id),
        mode: Some(client.caller.own_mode()),
        ..DeliveryQuery::default()
    };
    let limit = params.limit()?;
    let cursor = behind(&params)?;
    let page = PageRequest { limit, cursor };
    let found = api.service.list_deliveries(&client.caller, query, page);
    let found = found.await?;
    let id = |listed: &DeliveryListed| attempt_id(listed.delivery.id, FIRST);
    let (last, done) = (found.rows.last().map(id), found.next.is_none());
    let last = goes_on(found.next).or(last);
    let rows = found.rows.into_iter().filter_map(|listed| {
        let status = Status::of_delivery(&listed.delivery);
        Some(EndpointOfMessage {
            endpoint: EndpointOut::new(&client, listed.endpoint?),
            status: status as u8,
            status_text: status.text(),
            next_attempt: next_attempt(&listed.delivery),
        })
    });
    Ok(list_of(rows.collect(), last, done))
}

#[derive(Serialize)]
struct Nothing {}

/// Sends a message to an endpoint again, or for the first time where it was not there when the message came.
pub(super) async fn resend(
    State(api): State<Api>,
    client: Client,
    Path((app, message, endpoint)): Path<(String, String, String)>,
) -> Answer {
    let app = client.app(&api, &app).await?;
    let event = client.message(&api, &app, &message).await?;
    let known = client.endpoint(&api, &app, &endpoint).await?;
    match delivery_of(&api, &client, &app, event.id, &known).await? {
        Some(delivery) => match api.service.resend(&client.caller, delivery).await {
            // It is being sent, or waits for its next attempt.
            Err(refusal) if refusal.code == ErrorCode::DeliveryPending => {}
            sent => drop(sent?),
        },
        None => {
            let sent = api.service.send_missed(&client.caller, event.id, known.id);
            sent.await?;
        }
    }
    let answer = crate::request::json(StatusCode::ACCEPTED, &Nothing {});
    Ok(answer.into_response())
}

async fn delivery_of(
    api: &Api,
    client: &Client,
    app: &Tenant,
    event: Id<id::Event>,
    endpoint: &Endpoint,
) -> service::Result<Option<Id<id::Delivery>>> {
    let query = DeliveryQuery {
        tenant: Some(app.id),
        event: Some(event),
        endpoint: Some(endpoint.id),
        ..DeliveryQuery::default()
    };
    let page = PageRequest::first(1);
    let found = api.service.list_deliveries(&client.caller, query, page);
    let mut found = found.await?.rows.into_iter();
    Ok(found.next().map(|listed| listed.delivery.id))
}
