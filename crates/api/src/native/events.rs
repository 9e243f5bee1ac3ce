//! Events: publish one or a batch, list, read.

mod address;

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use postrider_core::event::Event;
use postrider_core::filter::{WILDCARD, is_event_type};
use postrider_core::limits::{
    BATCH_BODY_BYTES_MAX, BATCH_EVENTS_MAX, KEY_BYTES_MAX, META_BYTES_MAX,
};
use postrider_core::profile::Profile;
use postrider_core::seal::sha256;
use postrider_core::tenant::{Mode, Tenant, Validation};
use postrider_core::trace::TraceParent;
use postrider_core::{Id, Timestamp, id};
use postrider_engine::{CurrentProfile, PublishError};
use postrider_store::{EventFilter, Idempotency, NewEvent, Published};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::applications::confined;
use super::views::EventView;
use address::{address, known_type};

use crate::Api;
use crate::auth::Caller;
use crate::problem::{ApiError, ApiResult, ErrorCode};
use crate::request::{
    Path, Query, given_time, json, list as list_of, must_be_json, ok, page_request, path_id,
    required, typed, well_formed,
};

/// Bytes of a request's body beside the data, up to which the data stays a slice of it: it counts
/// against the memory bound with its own length only.
const SLICE_OVERHEAD_MAX: usize = 512;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct EventBody<'b> {
    r#type: String,
    /// Kept as it came, byte for byte.
    #[serde(borrow)]
    data: &'b RawValue,
    /// What else a profile's body says of the event (Voucherify's `event`).
    #[serde(borrow)]
    meta: Option<&'b RawValue>,
    occurred_at: Option<String>,
    /// The key's, when it is not given.
    mode: Option<Mode>,
    ordering_key: Option<String>,
    deliver_before: Option<String>,
    callback_url: Option<String>,
    endpoint: Option<String>,
    /// The public id of the API key that the event belongs to.
    key: Option<String>,
    /// A distribution's id; `*` is every distribution that the type triggers.
    distribution: Option<String>,
    /// In a batch, where one header cannot speak for all.
    idempotency_key: Option<String>,
}

#[derive(Serialize)]
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

impl PublishedView {
    fn new(published: &Published, warning: Option<String>) -> Self {
        Self {
            id: published.event,
            deliveries: published.count,
            duplicate: !published.created,
            warning,
            hint: (published.count == 0).then_some(NOBODY_GETS_IT),
        }
    }
}

/// Checks the data against the schema of its type; what is wrong refuses the event or is a warning,
/// as the application has it.
async fn check_data(api: &Api, tenant: &Tenant, body: &EventBody<'_>) -> ApiResult<Option<String>> {
    let application = api.0.directory.application(tenant.application).await?;
    let validate = application.settings.validate;
    if validate == Validation::Off {
        return Ok(None);
    }
    let known = api
        .0
        .directory
        .event_type(application.id, &body.r#type)
        .await?;
    let checked = known
        .check(&api.0.schemas, application.id, body.data.get())
        .await?;
    match (checked, validate) {
        (Ok(()), _) => Ok(None),
        (Err((path, why)), Validation::Warn) => Ok(Some(format!("{path}: {why}"))),
        (Err((path, why)), _) => Err(ApiError::field(ErrorCode::DataInvalid, path, why)),
    }
}

/// Bytes of data that are looked through where the request is handled; more leave the threads that
/// serve everybody, in their application's turn.
const INLINE_BYTES_MAX: usize = 16 * 1024;

/// Refuses what the profile can neither write nor sign.
async fn carriable(
    api: &Api,
    tenant: &Tenant,
    current: &CurrentProfile,
    body: &EventBody<'_>,
) -> ApiResult<()> {
    fn look(profile: &Profile, data: &[u8], meta: Option<&[u8]>) -> ApiResult<()> {
        profile
            .check_signable(data)
            .map_err(|error| ApiError::invalid("data", error.to_string()))?;
        for (field, json) in [("data", Some(data)), ("meta", meta)] {
            if let Some(why) = json.and_then(|json| profile.unwritable(json)) {
                return Err(ApiError::invalid(field, why));
            }
        }
        Ok(())
    }
    let data = body.data.get().as_bytes();
    let meta = body.meta.map(|meta| meta.get().as_bytes());
    if data.len() <= INLINE_BYTES_MAX || !current.profile.parses() {
        return look(&current.profile, data, meta);
    }
    let (profile, data) = (current.profile.clone(), data.to_vec());
    let meta = meta.map(<[u8]>::to_vec);
    let turn = api.0.schemas.slow(tenant.application).await?;
    turn.run(move || look(&profile, &data, meta.as_deref()))
        .await?
}

/// An event ready to be published.
pub(super) struct Accepted {
    pub(super) new: NewEvent,
    warning: Option<String>,
}

/// How an event came.
struct Sent<'s> {
    /// The event as it was sent: what an idempotency key vouches for.
    raw: &'s [u8],
    /// Its idempotency key.
    key: Option<String>,
    /// The request's body, where that is the event.
    whole: Option<&'s Bytes>,
    traceparent: Option<TraceParent>,
}

/// The trace that a request belongs to; what is none is ignored, as W3C Trace Context wants it.
pub(crate) fn traceparent(headers: &HeaderMap) -> Option<TraceParent> {
    let mut given = headers.get_all("traceparent").iter();
    let first = given.next()?.to_str().ok()?.parse().ok()?;
    given.next().is_none().then_some(first)
}

/// Turns a body into an event of the tenant.
async fn new_event(
    api: &Api,
    caller: &Caller,
    tenant: &Tenant,
    current: &CurrentProfile,
    body: EventBody<'_>,
    sent: Sent<'_>,
) -> ApiResult<Accepted> {
    let Sent {
        raw,
        key,
        whole,
        traceparent,
    } = sent;
    if !is_event_type(&body.r#type) {
        return Err(ApiError::invalid(
            "type",
            "must be letters, digits, _ and -, with dots between parts, at most 128 bytes",
        ));
    }
    if let Err(unknown) = known_type(&current.profile, &body.r#type, body.distribution.is_some()) {
        // What the application has declared itself extends a closed catalogue.
        let directory = &api.0.directory;
        let own = directory.event_type(tenant.application, &body.r#type);
        if body.distribution.is_some() || !own.await?.declared {
            return Err(unknown);
        }
    }
    let data = body.data.get().as_bytes();
    carriable(api, tenant, current, &body).await?;
    let warning = check_data(api, tenant, &body).await?;
    let warning = warning.or_else(|| current.profile.changed("data", data));
    let warning = warning.or_else(|| {
        let meta = body.meta?.get().as_bytes();
        current.profile.changed("meta", meta)
    });
    let address = address(api, tenant, &current.profile, &body).await?;
    let mode = caller.mode(body.mode.or(address.mode))?;
    if address.mode.is_some_and(|own| own != mode) {
        let own = address.mode.unwrap_or_default().as_str();
        return Err(ApiError::invalid(
            "mode",
            format!("must be {own}, as whom the event is for"),
        ));
    }
    let now = api.now();
    if let Some(key) = &body.ordering_key {
        required("orderingKey", key, KEY_BYTES_MAX)?;
    }
    if let Some(key) = &key {
        required("idempotencyKey", key, KEY_BYTES_MAX)?;
    }
    if let Some(meta) = body.meta.map(RawValue::get) {
        if !meta.starts_with('{') {
            return Err(ApiError::invalid("meta", "must be a JSON object"));
        }
        if meta.len() > META_BYTES_MAX {
            let rule = format!("must have at most {META_BYTES_MAX} bytes; data may have more");
            return Err(ApiError::invalid("meta", rule));
        }
    }
    let event = Event {
        id: api.store().ids().next(now),
        application: tenant.application,
        tenant: tenant.id,
        event_type: Arc::from(body.r#type),
        data: match whole {
            // No copy where the data is nearly all of the request's body, which the slice holds.
            Some(whole) if whole.len() <= data.len() + SLICE_OVERHEAD_MAX => whole.slice_ref(data),
            Some(_) | None => Bytes::copy_from_slice(data),
        },
        meta: body
            .meta
            .map(|meta| Bytes::copy_from_slice(meta.get().as_bytes())),
        mode,
        occurred_at: given_time("occurredAt", body.occurred_at.as_deref())?.unwrap_or(now),
        created_at: now,
        ordering_key: body.ordering_key,
        deliver_before: given_time("deliverBefore", body.deliver_before.as_deref())?,
        traceparent,
    };
    if event.deliver_before.is_some_and(|limit| limit <= now) {
        return Err(ApiError::invalid("deliverBefore", "must be in the future"));
    }
    let idempotency = key.map(|key| Idempotency {
        key: scoped(tenant, mode, &key),
        fingerprint: sha256(raw),
    });
    let new = NewEvent {
        event: Arc::new(event),
        target: address.target(api, tenant, mode).await?,
        profile: current.version,
        idempotency,
    };
    Ok(Accepted { new, warning })
}

/// An idempotency key as the store knows it: of one tenant and one mode.
fn scoped(tenant: &Tenant, mode: Mode, key: &str) -> String {
    format!("{}/{}/{key}", tenant.id, mode.as_str())
}

/// What a refused event was published as before, if it was: the answer to a retry must not depend
/// on what has passed or been deleted since.
async fn published_before(
    api: &Api,
    caller: &Caller,
    tenant: &Tenant,
    raw: &[u8],
    refused: &Refused,
) -> ApiResult<Option<PublishedView>> {
    let Some(key) = &refused.key else {
        return Ok(None);
    };
    let fingerprint = sha256(raw);
    let modes = match refused.mode {
        Some(mode) => vec![mode],
        // That of the key or distribution which it names, and which may be gone: the same body named
        // it before, so the first event is of the same mode.
        None => vec![Mode::Live, Mode::Test],
    };
    for mode in modes.into_iter().filter(|mode| caller.may_touch(*mode)) {
        let key = scoped(tenant, mode, key);
        let first = api.store().first_use(tenant.application, &key).await?;
        if let Some(first) = first.filter(|first| first.fingerprint == fingerprint) {
            return Ok(Some(PublishedView {
                id: first.event,
                deliveries: first.count,
                duplicate: true,
                warning: None,
                hint: None,
            }));
        }
    }
    Ok(None)
}

/// What has to be known of an event that was refused, to tell whether it was published before.
struct Refused {
    key: Option<String>,
    /// None when it is that of whom the event is addressed to.
    mode: Option<Mode>,
}

impl Refused {
    fn new(caller: &Caller, body: &EventBody<'_>, key: Option<String>) -> Self {
        let all = body.distribution.as_deref() == Some(WILDCARD);
        let of_address = body.key.is_some() || (body.distribution.is_some() && !all);
        let own = (!of_address).then_some(caller.key.mode);
        let mode = body.mode.or(own);
        Self { key, mode }
    }
}

/// An event as it would be published, for [`super::explain`].
pub(super) async fn imagined(
    api: &Api,
    caller: &Caller,
    tenant: &Tenant,
    current: &CurrentProfile,
    bytes: &Bytes,
) -> ApiResult<NewEvent> {
    well_formed(bytes)?;
    let event: EventBody<'_> = typed(bytes)?;
    if event.callback_url.is_some() {
        let rule = "cannot be explained: the event would make its endpoint";
        return Err(ApiError::invalid("callbackUrl", rule));
    }
    let accepted = new_event(
        api,
        caller,
        tenant,
        current,
        event,
        Sent {
            raw: bytes,
            key: None,
            whole: Some(bytes),
            traceparent: None,
        },
    );
    Ok(accepted.await?.new)
}

pub(crate) async fn publish(
    State(api): State<Api>,
    caller: Caller,
    Path(tenant): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> ApiResult<Response> {
    let tenant = caller.publisher(&api, path_id(&tenant)?).await?;
    must_be_json(&headers)?;
    let bytes = api.body(caller.holder(), body).await?;
    well_formed(&bytes)?;
    let event: EventBody<'_> = typed(&bytes)?;
    let header = match headers.get("idempotency-key") {
        None => None,
        Some(value) => {
            let text = value
                .to_str()
                .map_err(|_| ApiError::invalid("Idempotency-Key", "must be ASCII"))?;
            Some(text.to_owned())
        }
    };
    let own = event.idempotency_key.clone();
    if header.is_some() && own.is_some() && header != own {
        let rule = "is not the same as the header Idempotency-Key; send one of them";
        return Err(ApiError::invalid("idempotencyKey", rule));
    }
    let key = header.or(own);
    let current = api.0.directory.profile(tenant.application).await?;
    let refused = Refused::new(&caller, &event, key.clone());
    let made = new_event(
        &api,
        &caller,
        &tenant,
        &current,
        event,
        Sent {
            raw: &bytes,
            key,
            whole: Some(&bytes),
            traceparent: traceparent(&headers),
        },
    );
    let view = match made.await {
        Ok(Accepted { new, warning }) => {
            let published = api.engine().publish(new).await?;
            PublishedView::new(&published, warning)
        }
        Err(refusal) => {
            let before = published_before(&api, &caller, &tenant, &bytes, &refused);
            before.await?.ok_or(refusal)?
        }
    };
    Ok(json(StatusCode::ACCEPTED, &view))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BatchBody<'b> {
    #[serde(borrow)]
    events: Vec<&'b RawValue>,
}

/// The answer for one event of a batch: what was published, or why not.
#[derive(Serialize)]
#[serde(untagged)]
enum BatchAnswer {
    Published(PublishedView),
    Refused {
        code: ErrorCode,
        detail: String,
        field: Option<String>,
    },
}

impl From<ApiError> for BatchAnswer {
    fn from(error: ApiError) -> Self {
        error.log();
        Self::Refused {
            code: error.code,
            detail: error.detail,
            field: error.field,
        }
    }
}

#[derive(Serialize)]
struct BatchView {
    data: Vec<BatchAnswer>,
}

/// Publishes up to 1,000 events. Each is accepted or refused by itself; a batch of which nothing
/// was accepted for want of room is refused as a whole.
pub(crate) async fn publish_batch(
    State(api): State<Api>,
    caller: Caller,
    Path(tenant): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> ApiResult<Response> {
    let tenant = caller.publisher(&api, path_id(&tenant)?).await?;
    must_be_json(&headers)?;
    let bytes = api
        .body_of(caller.holder(), body, BATCH_BODY_BYTES_MAX)
        .await?;
    // Each event is checked by itself: a bad one has its own entry. Only what cannot be taken apart is
    // refused as a whole.
    let batch: BatchBody<'_> = typed(&bytes).map_err(|mut error| {
        if str::from_utf8(&bytes).is_err() || serde_json::from_slice::<&RawValue>(&bytes).is_err() {
            error.code = ErrorCode::BodyNotJson;
        }
        error
    })?;
    if batch.events.is_empty() || batch.events.len() > BATCH_EVENTS_MAX {
        return Err(ApiError::invalid(
            "events",
            format!("must have 1 to {BATCH_EVENTS_MAX} entries"),
        ));
    }
    let current = api.0.directory.profile(tenant.application).await?;
    let traceparent = traceparent(&headers);
    let mut answers: Vec<Option<BatchAnswer>> = Vec::with_capacity(batch.events.len());
    let mut accepted = Vec::new();
    let mut warnings = Vec::new();
    let mut any = false;
    for raw in batch.events {
        let raw = raw.get().as_bytes();
        let made = async {
            if raw.len() > api.0.options.body_max {
                return Err(ApiError::new(
                    ErrorCode::BodyTooLarge,
                    format!("an event may have {} bytes", api.0.options.body_max),
                ));
            }
            well_formed(raw)?;
            let event: EventBody<'_> = typed(raw)?;
            let key = event.idempotency_key.clone();
            let refused = Refused::new(&caller, &event, key.clone());
            let sent = Sent {
                raw,
                key,
                whole: None,
                traceparent,
            };
            match new_event(&api, &caller, &tenant, &current, event, sent).await {
                Ok(accepted) => Ok(Ok(accepted)),
                Err(refusal) => {
                    let before = published_before(&api, &caller, &tenant, raw, &refused);
                    before.await?.map(Err).ok_or(refusal)
                }
            }
        };
        match made.await {
            Ok(Ok(Accepted { new, warning })) => {
                accepted.push(new);
                warnings.push(warning);
                answers.push(None);
            }
            Ok(Err(before)) => {
                any = true;
                answers.push(Some(BatchAnswer::Published(before)));
            }
            Err(error) => answers.push(Some(error.into())),
        }
    }
    let mut published = api.engine().publish_many(accepted).await.into_iter();
    let mut warnings = warnings.into_iter();
    let mut busy = None;
    for slot in answers.iter_mut().filter(|slot| slot.is_none()) {
        let answer = published
            .next()
            .unwrap_or(Err(PublishError::Busy(postrider_engine::Busy)));
        any |= answer.is_ok();
        let warning = warnings.next().flatten();
        *slot = Some(match answer {
            Ok(published) => BatchAnswer::Published(PublishedView::new(&published, warning)),
            Err(error) => {
                let error = ApiError::from(error);
                if error.code.status() == StatusCode::SERVICE_UNAVAILABLE {
                    busy = Some((error.code, error.detail.clone()));
                }
                error.into()
            }
        });
    }
    if let (Some((code, detail)), false) = (busy, any) {
        return Err(ApiError::new(code, detail));
    }
    // A client that looks at the status alone must not take a batch of refusals for accepted.
    let status = if any {
        StatusCode::ACCEPTED
    } else {
        StatusCode::BAD_REQUEST
    };
    Ok(json(
        status,
        &BatchView {
            data: answers.into_iter().flatten().collect(),
        },
    ))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EventQuery {
    r#type: Option<String>,
    mode: Option<Mode>,
    since: Option<String>,
    until: Option<String>,
    limit: Option<String>,
    cursor: Option<String>,
}

pub(crate) async fn list(
    State(api): State<Api>,
    caller: Caller,
    Path(tenant): Path<String>,
    Query(query): Query<EventQuery>,
) -> ApiResult<Response> {
    let tenant = caller.tenant(&api, path_id(&tenant)?).await?;
    let (application, _) = confined(&caller);
    let (since, until) = bounds(query.since.as_deref(), query.until.as_deref())?;
    let filter = EventFilter {
        application,
        tenant: Some(tenant.id),
        event_type: query.r#type,
        mode: caller.shown(query.mode)?,
        since,
        until,
    };
    let page = page_request(query.limit.as_deref(), query.cursor.as_deref())?;
    Ok(list_of(
        api.store().list_events(filter, page).await?,
        EventView::brief,
    ))
}

pub(crate) async fn read(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Response> {
    // A receiver that reports a problem knows the message id; for a standard profile that is the event's.
    let id = id
        .strip_prefix("msg_")
        .map_or(id.clone(), |rest| format!("evt_{rest}"));
    let event = api.store().event(path_id(&id)?).await?;
    if !caller.may_see_event(&event) {
        return Err(ApiError::not_found("event"));
    }
    Ok(ok(&EventView::whole(&event)))
}

/// The default of a time bound in a filter.
pub(crate) fn bounds(
    since: Option<&str>,
    until: Option<&str>,
) -> ApiResult<(Option<Timestamp>, Option<Timestamp>)> {
    let (since, until) = (given_time("since", since)?, given_time("until", until)?);
    if let (Some(since), Some(until)) = (since, until)
        && since >= until
    {
        return Err(ApiError::invalid("until", "must be after since"));
    }
    Ok((since, until))
}
