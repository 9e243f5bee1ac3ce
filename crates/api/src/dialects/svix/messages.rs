//! Messages: our events. What Svix knows of one beside its payload (its `eventId`, channels and tags) is the event's
//! `meta`.

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::IntoResponse as _;
use axum::routing::{delete, get, post};
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use postrider_core::event::EventSummary;
use postrider_core::limits::KEY_BYTES_MAX;
use postrider_core::tenant::Tenant;
use postrider_core::{Id, Timestamp, id};
use postrider_service::{
    self as service, ErrorCode, EventQuery, NewEvent, PageRequest, Refusal, Sent,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::applications::{ApplicationIn, make_on_the_way};
use super::endpoints::{NAME_BYTES_MAX, check_channels, is_name};
use super::lists::{Params, list as list_of};
use super::{Answer, Client, Path};
use crate::Api;
use crate::native::traceparent;
use crate::request::{json, ok, typed, well_formed};

pub(super) fn routes(base: &str) -> Router<Api> {
    let app = format!("{base}/app/{{app}}");
    Router::new()
        .route(&format!("{app}/msg"), get(list).post(create))
        .route(&format!("{app}/msg/{{message}}"), get(read))
        .route(
            &format!("{app}/msg/{{message}}/content"),
            delete(delete_content),
        )
        .route(
            &format!("{app}/endpoint/{{endpoint}}/send-example"),
            post(send_example),
        )
}

/// Tags that a message may have.
const TAGS_MAX: usize = 5;
/// Channels that a message may be in.
const CHANNELS_MAX: usize = 5;
/// The type whose example every endpoint knows, and that.
const PING: (&str, &str) = ("svix.ping", "{\"success\":true}");
/// Rows that are read at once while a page is put together.
const PIECE: usize = 100;
/// Bytes of payloads and answers in one page; the row that goes beyond is the last.
pub(super) const ANSWER_BYTES_MAX: usize = 1024 * 1024;
/// Rows that are looked at for one page; what is not wanted is passed over.
pub(super) const LOOKED_AT_MAX: usize = 1_000;

/// What is kept with a message, as the event's `meta`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Meta {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) event_id: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) channels: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) tags: Vec<String>,
}

impl Meta {
    /// Of an event, whoever published it.
    pub(super) fn of(meta: Option<&Bytes>) -> Self {
        let read = meta.and_then(|meta| serde_json::from_slice(meta).ok());
        read.unwrap_or_default()
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct MessageOut {
    #[serde(skip_serializing_if = "Option::is_none")]
    event_id: Option<String>,
    event_type: String,
    payload: Box<RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    channels: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tags: Option<Vec<String>>,
    id: String,
    timestamp: Timestamp,
}

/// Nothing, where a payload is not asked for.
fn empty() -> Box<RawValue> {
    RawValue::from_string("{}".to_owned()).unwrap_or_default()
}

fn payload(data: &[u8]) -> Box<RawValue> {
    let text = String::from_utf8_lossy(data).into_owned();
    RawValue::from_string(text).unwrap_or_else(|_| empty())
}

pub(super) fn some(list: Vec<String>) -> Option<Vec<String>> {
    Some(list).filter(|list| !list.is_empty())
}

impl MessageOut {
    pub(super) fn new(client: &Client, event: &EventSummary, data: Option<&[u8]>) -> Self {
        let meta = Meta::of(event.meta.as_ref());
        Self {
            event_id: meta.event_id,
            event_type: event.event_type.to_string(),
            // Where it was deleted it is shown as where nobody asked for it.
            payload: data
                .filter(|data| !data.is_empty())
                .map_or_else(empty, payload),
            channels: some(meta.channels),
            tags: some(meta.tags),
            id: client.profile().ids.message.render(event.id),
            timestamp: event.created_at,
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MessageIn<'b> {
    event_type: String,
    #[serde(borrow)]
    payload: &'b RawValue,
    event_id: Option<String>,
    channels: Option<Vec<String>>,
    tags: Option<Vec<String>>,
    application: Option<ApplicationIn>,
    #[serde(borrow)]
    transformations_params: Option<&'b RawValue>,
    #[serde(borrow)]
    deliver_at: Option<&'b RawValue>,
    /// Days.
    payload_retention_period: Option<u64>,
    payload_retention_hours: Option<u64>,
}

/// Of the payload, when a message says nothing.
const RETENTION_DAYS: u64 = 90;

impl MessageIn<'_> {
    fn check(&self) -> service::Result<()> {
        if !self.payload.get().starts_with('{') {
            return Err(Refusal::invalid("payload", "must be a JSON object"));
        }
        if let Some(event_id) = &self.event_id {
            // It is stored as an idempotency key, whose bound holds with what stands before it.
            let room = KEY_BYTES_MAX - key_of_event_id("").len();
            if !is_name(event_id) || event_id.len() > room {
                let rule = format!("must be at most {room} letters, digits, -, _ and .");
                return Err(Refusal::invalid("eventId", rule));
            }
        }
        check_channels(self.channels.as_deref().unwrap_or_default(), CHANNELS_MAX)?;
        let tags = self.tags.as_deref().unwrap_or_default();
        if tags.len() > TAGS_MAX || tags.iter().any(|tag| tag.len() > NAME_BYTES_MAX) {
            let rule = format!("must be at most {TAGS_MAX} of up to {NAME_BYTES_MAX} bytes");
            return Err(Refusal::invalid("tags", rule));
        }
        // Passed over, they would make it another message than was asked for.
        for (field, given) in [
            ("transformationsParams", self.transformations_params),
            ("deliverAt", self.deliver_at),
        ] {
            if given.is_some() {
                let rule = "is not supported here: the payload is sent as it is, and at once";
                return Err(Refusal::invalid(field, rule));
            }
        }
        // Who asks for less would be told that it is kept no longer, and it would be. What the SDKs may send unasked is
        // the original's default.
        let rule = "is not supported for one message: settings.retentionDays of the application is how long all are kept, and DELETE …/content takes one away";
        if self
            .payload_retention_period
            .is_some_and(|days| days < RETENTION_DAYS)
        {
            return Err(Refusal::invalid("payloadRetentionPeriod", rule));
        }
        if self
            .payload_retention_hours
            .is_some_and(|hours| hours < RETENTION_DAYS * 24)
        {
            return Err(Refusal::invalid("payloadRetentionHours", rule));
        }
        Ok(())
    }

    fn meta(&self) -> service::Result<Option<Box<RawValue>>> {
        let meta = Meta {
            event_id: self.event_id.clone(),
            channels: self.channels.clone().unwrap_or_default(),
            tags: self.tags.clone().unwrap_or_default(),
        };
        let has_none = meta.event_id.is_none() && meta.channels.is_empty() && meta.tags.is_empty();
        let text = serde_json::to_string(&meta).map_err(Refusal::internal)?;
        let raw = RawValue::from_string(text).map_err(Refusal::internal)?;
        Ok((!has_none).then_some(raw))
    }
}

/// What an `eventId` is remembered by: messages of one id are published once, as with an idempotency key.
pub(super) fn key_of_event_id(event_id: &str) -> String {
    format!("eventId:{event_id}")
}

/// Publishes a message. One of an `eventId` that was used is a conflict, unless it is the retry of a request whose
/// answer was lost: that has the same `Idempotency-Key`, which the SDKs make by themselves.
pub(super) async fn create(
    State(api): State<Api>,
    client: Client,
    Path(app): Path<String>,
    params: Params,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let with_content = params.flag("with_content", true)?;
    let bytes = api.body(client.caller.holder(), body).await?;
    well_formed(&bytes)?;
    let mut given: MessageIn<'_> = typed(&bytes)?;
    // Before an application may be made on the way: a message that is refused makes none.
    given.check()?;
    let app = match (client.app(&api, &app).await, given.application.take()) {
        (Err(refusal), Some(new)) if refusal.code == ErrorCode::NotFound => {
            make_on_the_way(&api, &client, &app, new).await?
        }
        (found, _) => found?,
    };
    let idempotency = key_of_request(&headers)?;
    let meta = given.meta()?;
    let (key, raw) = match &given.event_id {
        // Both together, so that the same message with another key is another request.
        Some(event_id) => {
            let both = [idempotency.unwrap_or_default().as_bytes(), &bytes].concat();
            (Some(key_of_event_id(event_id)), Bytes::from(both))
        }
        None => (idempotency.map(str::to_owned), bytes.clone()),
    };
    let event = NewEvent {
        meta: meta.as_deref(),
        idempotency_key: key,
        ..new_event(given.event_type.clone(), given.payload)
    };
    let sent = Sent {
        raw: &raw,
        whole: Some(&bytes),
        traceparent: traceparent(&headers),
    };
    let published = api.service.publish(&client.caller, app.id, event, sent);
    let published = published.await?;
    // Without a key nobody can tell the retry of a request from another one of the same id.
    if published.duplicate && given.event_id.is_some() && idempotency.is_none() {
        let detail = "a message has this eventId";
        return Err(Refusal::new(ErrorCode::NameTaken, detail).into());
    }
    let id = published.event;
    let view = MessageOut {
        event_id: given.event_id,
        event_type: given.event_type,
        payload: match with_content {
            true => given.payload.to_owned(),
            false => empty(),
        },
        channels: given.channels.and_then(some),
        tags: given.tags.and_then(some),
        id: client.profile().ids.message.render(id),
        timestamp: id.created_at(),
    };
    Ok(json(StatusCode::ACCEPTED, &view))
}

fn key_of_request(headers: &HeaderMap) -> service::Result<Option<&str>> {
    let invalid = |_| Refusal::invalid("Idempotency-Key", "must be printable ASCII");
    let given = headers.get("idempotency-key");
    given
        .map(|value| value.to_str().map_err(invalid))
        .transpose()
}

fn new_event(r#type: String, data: &RawValue) -> NewEvent<'_> {
    NewEvent {
        r#type,
        data,
        meta: None,
        occurred_at: None,
        mode: None,
        ordering_key: None,
        deliver_before: None,
        callback_url: None,
        endpoint: None,
        key: None,
        distribution: None,
        idempotency_key: None,
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ExampleIn<'b> {
    event_type: String,
    /// Instead of the example.
    #[serde(borrow)]
    payload: Option<&'b RawValue>,
}

/// Publishes the example of an event type to one endpoint.
pub(super) async fn send_example(
    State(api): State<Api>,
    client: Client,
    Path((app, endpoint)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let app = client.app(&api, &app).await?;
    let known = client.endpoint(&api, &app, &endpoint).await?;
    let bytes = api.body(client.caller.holder(), body).await?;
    well_formed(&bytes)?;
    let given: ExampleIn<'_> = typed(&bytes)?;
    let example = match given.payload {
        Some(payload) => payload.to_owned(),
        None => example(&api, &client, &app, &given.event_type).await?,
    };
    let event = NewEvent {
        endpoint: Some(known.id.to_string()),
        idempotency_key: key_of_request(&headers)?.map(str::to_owned),
        ..new_event(given.event_type, &example)
    };
    // The same example for another endpoint is another request.
    let raw = Bytes::from([known.id.to_string().as_bytes(), &bytes].concat());
    let sent = Sent {
        raw: &raw,
        // An example is no part of the body.
        whole: None,
        traceparent: None,
    };
    let published = api.service.publish(&client.caller, app.id, event, sent);
    let event = api.service.event(&client.caller, published.await?.event);
    let event = event.await?;
    let data = Some(&*event.data);
    let view = MessageOut::new(&client, &EventSummary::from(&event), data);
    Ok(ok(&view))
}

async fn example(
    api: &Api,
    client: &Client,
    app: &Tenant,
    event_type: &str,
) -> service::Result<Box<RawValue>> {
    let example = api
        .service
        .event_example(&client.caller, app.id, event_type);
    let ping = || (event_type == PING.0).then(|| PING.1.to_owned());
    let example = example.await?.or_else(ping).ok_or_else(|| {
        let rule = "has no example: give its schema one in examples, or send a payload";
        Refusal::invalid("eventType", rule)
    })?;
    RawValue::from_string(example).map_err(Refusal::internal)
}

/// Which messages a list shows, beside what the store decides.
pub(super) struct Wanted {
    types: Vec<String>,
    channel: Option<String>,
    tag: Option<String>,
}

impl Wanted {
    pub(super) fn new(params: &Params) -> Self {
        let types = params.texts("event_types").into_iter().map(str::to_owned);
        Self {
            types: types.collect(),
            channel: params.text("channel").map(str::to_owned),
            tag: params.text("tag").map(str::to_owned),
        }
    }

    /// The only type, where there is one: that the store can look for.
    pub(super) fn only_type(&self) -> Option<String> {
        match self.types.as_slice() {
            [only] => Some(only.clone()),
            _ => None,
        }
    }

    /// Whether it takes an event itself to decide.
    pub(super) fn asks_meta(&self) -> bool {
        self.channel.is_some() || self.tag.is_some()
    }

    pub(super) fn has_type(&self, event_type: &str) -> bool {
        self.types.is_empty() || self.types.iter().any(|known| known == event_type)
    }

    pub(super) fn has_meta(&self, meta: Option<&Bytes>) -> bool {
        if !self.asks_meta() {
            return true;
        }
        let meta = Meta::of(meta);
        let is_in = |wanted: &Option<String>, all: &[String]| {
            wanted.as_ref().is_none_or(|wanted| all.contains(wanted))
        };
        is_in(&self.channel, &meta.channels) && is_in(&self.tag, &meta.tags)
    }
}

/// Messages, the newest first. A page may have fewer than asked for, and end before the last one: payloads may be
/// large, and what is not wanted is passed over.
pub(super) async fn list(
    State(api): State<Api>,
    client: Client,
    Path(app): Path<String>,
    params: Params,
) -> Answer {
    let app = client.app(&api, &app).await?;
    let with_content = params.flag("with_content", true)?;
    let ids = &client.profile().ids.message;
    let (page, wanted) = (params.page::<id::Event>(ids)?, Wanted::new(&params));
    let (after, before) = (params.time("after")?, params.time("before")?);
    let (mut data, mut bytes, mut looked, mut cursor) = (Vec::new(), 0, 0, page.cursor);
    let mut last = None;
    loop {
        let query = EventQuery {
            event_type: wanted.only_type(),
            mode: Some(client.caller.own_mode()),
            since: after,
            until: before,
        };
        let limit = PIECE;
        let piece = PageRequest { limit, cursor };
        let service = &api.service;
        let found = service.list_events(&client.caller, app.id, query, piece);
        let found = found.await?;
        // As for a full piece: where few rows came, the store may have looked at many for them.
        looked += PIECE;
        for event in found.rows {
            // Before `last` moves on to it, so that the next page begins with this row.
            if data.len() >= page.limit || bytes >= ANSWER_BYTES_MAX {
                return Ok(list_of(data, last, false));
            }
            last = Some(ids.render(event.id));
            if !wanted.has_type(&event.event_type) || !wanted.has_meta(event.meta.as_ref()) {
                continue;
            }
            let whole = match with_content {
                true => still(api.service.event(&client.caller, event.id).await)?,
                false => None,
            };
            let payload = whole.as_ref().map(|event| &*event.data);
            bytes += payload.map_or(0, <[u8]>::len);
            data.push(MessageOut::new(&client, &event, payload));
        }
        cursor = found.next;
        if cursor.is_none() || looked >= LOOKED_AT_MAX {
            // The store may have ended where it showed nothing.
            let behind = cursor.map(|next| ids.render(Id::<id::Event>::from_u128(next.after)));
            return Ok(list_of(data, behind.or(last), cursor.is_none()));
        }
    }
}

/// What may have been erased since it was listed.
pub(super) fn still<T>(found: service::Result<T>) -> service::Result<Option<T>> {
    match found {
        Err(refusal) if refusal.code == ErrorCode::NotFound => Ok(None),
        found => found.map(Some),
    }
}

pub(super) async fn read(
    State(api): State<Api>,
    client: Client,
    Path((app, message)): Path<(String, String)>,
    params: Params,
) -> Answer {
    let app: std::sync::Arc<Tenant> = client.app(&api, &app).await?;
    let event = client.message(&api, &app, &message).await?;
    let with_content = params.flag("with_content", true)?;
    let data = with_content.then_some(&*event.data);
    let view = MessageOut::new(&client, &EventSummary::from(&event), data);
    Ok(ok(&view))
}

pub(super) async fn delete_content(
    State(api): State<Api>,
    client: Client,
    Path((app, message)): Path<(String, String)>,
) -> Answer {
    let app = client.app(&api, &app).await?;
    let event = client.message(&api, &app, &message).await?;
    api.service.delete_content(&client.caller, event.id).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
