//! Events: published singly or many at once, listed, read.

mod address;

use std::sync::Arc;

use bytes::Bytes;
use postrider_core::event::{Event, EventSummary};
use postrider_core::filter::{WILDCARD, is_event_type};
use postrider_core::limits::{KEY_BYTES_MAX, META_BYTES_MAX};
use postrider_core::profile::Profile;
use postrider_core::seal::sha256;
use postrider_core::tenant::{Mode, Tenant, Validation};
use postrider_core::trace::TraceParent;
use postrider_core::{Id, Timestamp, id};
use postrider_engine::PublishError;
use postrider_store::{
    Entity, EventFilter, Idempotency, NewEvent as Storable, Page, PageRequest, Published,
    StoreError, Target,
};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::endpoints::callback;
use crate::reading::{bounded_page, must_be_range, required};
use crate::refusal::{ErrorCode, Refusal, Result};
use crate::spans::Publishing;
use crate::{Caller, CurrentProfile, Service};

use address::{address, known_type};
use utoipa::ToSchema;

/// Bytes of a request's body beside the data, up to which the data stays a slice of it: it counts
/// against the memory bound with its own length only.
const SLICE_OVERHEAD_MAX: usize = 512;

/// An event to be published.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct NewEvent<'b> {
    pub r#type: String,
    /// Kept as it came, byte for byte.
    #[serde(borrow)]
    #[schema(value_type = serde_json::Value)]
    pub data: &'b RawValue,
    /// What else a profile's body says of the event (Voucherify's `event`).
    #[serde(borrow)]
    #[schema(value_type = Option<HashMap<String, Value>>)]
    pub meta: Option<&'b RawValue>,
    pub occurred_at: Option<Timestamp>,
    /// The key's, when it is not given.
    pub mode: Option<Mode>,
    pub ordering_key: Option<String>,
    pub deliver_before: Option<Timestamp>,
    pub callback_url: Option<String>,
    pub endpoint: Option<String>,
    /// The public id of the API key that the event belongs to.
    pub key: Option<String>,
    /// A distribution's id; `*` is every distribution that the type triggers.
    pub distribution: Option<String>,
    /// The same key and event again are taken for a retry.
    pub idempotency_key: Option<String>,
}

/// How an event came.
#[derive(Debug, Clone, Copy)]
pub struct Sent<'s> {
    /// The event as it was sent: what an idempotency key vouches for.
    pub raw: &'s [u8],
    /// What the event was sent in, where that is the event and nothing else.
    pub whole: Option<&'s Bytes>,
    pub traceparent: Option<TraceParent>,
}

impl Sent<'_> {
    /// The same within a span of ours.
    fn within(self, span: &Publishing) -> Self {
        Self {
            traceparent: span.context(),
            ..self
        }
    }
}

/// An event that is durable.
#[derive(Debug, Clone)]
pub struct Publication {
    pub event: Id<id::Event>,
    /// How many endpoints get it.
    pub deliveries: u32,
    /// The idempotency key was used before: this is the first event.
    pub duplicate: bool,
    /// What is not as it should be, though accepted.
    pub warning: Option<String>,
}

impl Publication {
    fn new(published: &Published, warning: Option<String>) -> Self {
        Self {
            event: published.event,
            deliveries: published.count,
            duplicate: !published.created,
            warning,
        }
    }
}

/// Which events.
#[derive(Debug, Default)]
pub struct EventQuery {
    pub event_type: Option<String>,
    pub mode: Option<Mode>,
    pub since: Option<Timestamp>,
    pub until: Option<Timestamp>,
}

impl Service {
    /// Publishes an event; when this returns, it is durable.
    ///
    /// # Errors
    /// Of a field that cannot be, `data_invalid`, `overloaded`, or what the store answers. A retry of what was
    /// published before is never refused.
    pub async fn publish(
        &self,
        who: &Caller,
        tenant: Id<id::Tenant>,
        event: NewEvent<'_>,
        sent: Sent<'_>,
    ) -> Result<Publication> {
        let tenant = who.publisher(self, tenant).await?;
        let current = self.profile_of(tenant.application).await?;
        let span = Publishing::begin(self, sent.traceparent, &event.r#type);
        let sent = sent.within(&span);
        let published = self.publish_one(who, &tenant, &current, event, sent).await;
        span.end(self, &tenant, &published);
        published
    }

    async fn publish_one(
        &self,
        who: &Caller,
        tenant: &Tenant,
        current: &CurrentProfile,
        event: NewEvent<'_>,
        sent: Sent<'_>,
    ) -> Result<Publication> {
        match accepted_or_before(self, who, tenant, current, event, sent).await? {
            Judged::Accepted(Accepted {
                new,
                warning,
                callback,
            }) => {
                let again = Again::of(&new, callback);
                let published = self.engine().publish(new).await;
                let published = self.or_again(tenant, published, again).await?;
                Ok(Publication::new(&published, warning))
            }
            Judged::Before(publication) => Ok(publication),
        }
    }

    /// What became of an event; one to a one-off URL is published again where another URL took the place of its own
    /// between its being found and the transaction.
    async fn or_again(
        &self,
        tenant: &Tenant,
        mut published: std::result::Result<Published, PublishError>,
        again: Option<Again>,
    ) -> Result<Published> {
        const TRIES: usize = 3;
        let Some(Again { mut new, url }) = again else {
            return Ok(published?);
        };
        for _ in 0..TRIES {
            match published {
                Err(PublishError::Store(StoreError::NotFound {
                    entity: Entity::Endpoint,
                })) => {
                    let endpoint = callback(self, tenant, new.event.mode, url.clone()).await?;
                    new.target = Target::Endpoint(endpoint);
                    published = self.engine().publish(new.clone()).await;
                }
                published => return Ok(published?),
            }
        }
        Ok(published?)
    }

    /// Publishes many events, each of which is accepted or refused by itself; the answers are in their order. One that
    /// could not even be read is refused with why. They are taken one at a time: the last is read when those before it
    /// were judged.
    ///
    /// # Errors
    /// The outer one, where the caller may not publish for the tenant at all.
    pub async fn publish_many<'e>(
        &self,
        who: &Caller,
        tenant: Id<id::Tenant>,
        events: impl Iterator<Item = Result<(NewEvent<'e>, Sent<'e>)>>,
    ) -> Result<Vec<Result<Publication>>> {
        let tenant = who.publisher(self, tenant).await?;
        let current = self.profile_of(tenant.application).await?;
        let mut answers: Vec<Option<Result<Publication>>> = Vec::new();
        let mut accepted = Vec::new();
        let mut pending = Vec::new();
        for event in events {
            let (judged, span) = match event {
                Ok((event, sent)) => {
                    let span = Publishing::begin(self, sent.traceparent, &event.r#type);
                    let sent = sent.within(&span);
                    let judged = accepted_or_before(self, who, &tenant, &current, event, sent);
                    (judged.await, Some(span))
                }
                Err(refusal) => (Err(refusal), None),
            };
            let answer = match judged {
                Ok(Judged::Accepted(Accepted {
                    new,
                    warning,
                    callback,
                })) => {
                    // In step with `accepted`, with whose answers it is put together below.
                    pending.push((warning, Again::of(&new, callback), span));
                    accepted.push(new);
                    answers.push(None);
                    continue;
                }
                Ok(Judged::Before(publication)) => Ok(publication),
                Err(refusal) => Err(refusal),
            };
            if let Some(span) = span {
                span.end(self, &tenant, &answer);
            }
            answers.push(Some(answer));
        }
        let published = self.engine().publish_many(accepted).await;
        let mut published = published.into_iter().zip(pending);
        let mut whole = Vec::with_capacity(answers.len());
        for answer in answers {
            if let Some(answer) = answer {
                whole.push(answer);
                continue;
            }
            let Some((published, (warning, again, span))) = published.next() else {
                whole.push(Err(PublishError::Busy(postrider_engine::Busy).into()));
                continue;
            };
            let published = self.or_again(&tenant, published, again).await;
            let published = published.map(|new| Publication::new(&new, warning));
            if let Some(span) = span {
                span.end(self, &tenant, &published);
            }
            whole.push(published);
        }
        Ok(whole)
    }

    /// The event of the caller's mode that was published with an idempotency key, as long as that is remembered.
    ///
    /// # Errors
    /// `not_found`, or what the store answers.
    pub async fn event_published_as(
        &self,
        who: &Caller,
        tenant: Id<id::Tenant>,
        key: &str,
    ) -> Result<Id<id::Event>> {
        let tenant = who.tenant(self, tenant).await?;
        let key = scoped(&tenant, who.own_mode(), key);
        let first = self.store().first_use(tenant.application, &key).await?;
        let first = first.ok_or_else(|| Refusal::not_found("event"))?;
        Ok(first.event)
    }

    /// A tenant's events, the newest first.
    ///
    /// # Errors
    /// `not_found`, of a range that is empty, or what the store answers.
    pub async fn list_events(
        &self,
        who: &Caller,
        tenant: Id<id::Tenant>,
        query: EventQuery,
        page: PageRequest,
    ) -> Result<Page<EventSummary>> {
        let tenant = who.tenant(self, tenant).await?;
        let (application, _) = who.confined();
        must_be_range(query.since, query.until)?;
        let filter = EventFilter {
            application,
            tenant: Some(tenant.id),
            event_type: query.event_type,
            mode: who.shown(query.mode)?,
            since: query.since,
            until: query.until,
        };
        Ok(self.store().list_events(filter, bounded_page(page)).await?)
    }

    /// Those of `ids` that are there and the caller's, without their data, in any order.
    ///
    /// # Errors
    /// What the store answers.
    pub async fn event_summaries(
        &self,
        who: &Caller,
        ids: Vec<Id<id::Event>>,
    ) -> Result<Vec<EventSummary>> {
        let mut found = self.store().event_summaries(ids).await?;
        let tenants = found.iter().map(|event| event.tenant);
        let there = self.0.directory.tenants_there(tenants).await?;
        found.retain(|event| {
            there.contains(&event.tenant)
                && who.may_see(event.application, event.tenant)
                && who.may_touch(event.mode)
        });
        Ok(found)
    }

    /// # Errors
    /// `not_found`, also where it is another's.
    pub async fn event(&self, who: &Caller, id: Id<id::Event>) -> Result<Event> {
        let event = self.store().event(id).await?;
        // Of a tenant that is being erased the row has gone first: what it still has is not found.
        let there = self.0.directory.tenants_there([event.tenant]).await?;
        if there.is_empty() || !who.may_see_event(&event) {
            return Err(Refusal::not_found("event"));
        }
        Ok(event)
    }
}

/// Checks the data against the schema of its type; what is wrong refuses the event or is a warning,
/// as the application has it.
async fn check_data(
    service: &Service,
    tenant: &Tenant,
    body: &NewEvent<'_>,
) -> Result<Option<String>> {
    let application = service.0.directory.application(tenant.application).await?;
    let validate = application.settings.validate;
    if validate == Validation::Off {
        return Ok(None);
    }
    let known = service
        .0
        .directory
        .event_type(application.id, &body.r#type)
        .await?;
    let checked = known
        .check(&service.0.schemas, application.id, body.data.get())
        .await?;
    match (checked, validate) {
        (Ok(()), _) => Ok(None),
        (Err((path, why)), Validation::Warn) => Ok(Some(format!("{path}: {why}"))),
        (Err((path, why)), _) => Err(Refusal::field(ErrorCode::DataInvalid, path, why)),
    }
}

/// Bytes of data that are looked through where the request is handled; more leave the threads that
/// serve everybody, in their application's turn.
const INLINE_BYTES_MAX: usize = 16 * 1024;

/// Refuses what the profile can neither write nor sign.
async fn carriable(
    service: &Service,
    tenant: &Tenant,
    current: &CurrentProfile,
    body: &NewEvent<'_>,
) -> Result<()> {
    fn look(profile: &Profile, data: &[u8], meta: Option<&[u8]>) -> Result<()> {
        profile
            .check_signable(data)
            .map_err(|error| Refusal::invalid("data", error.to_string()))?;
        for (field, json) in [("data", Some(data)), ("meta", meta)] {
            if let Some(why) = json.and_then(|json| profile.unwritable(json)) {
                return Err(Refusal::invalid(field, why));
            }
        }
        Ok(())
    }
    let data = body.data.get().as_bytes();
    let meta = body.meta.map(|meta| meta.get().as_bytes());
    // A profile that carries bytes as they are looks at nothing.
    if data.len() <= INLINE_BYTES_MAX || !current.profile.parses() {
        return look(&current.profile, data, meta);
    }
    let (profile, data) = (current.profile.clone(), data.to_vec());
    let meta = meta.map(<[u8]>::to_vec);
    let turn = service.0.schemas.slow(tenant.application).await?;
    turn.run(move || look(&profile, &data, meta.as_deref()))
        .await?
}

/// An event ready to be published.
struct Accepted {
    new: Storable,
    warning: Option<String>,
    /// The one-off URL that it is for.
    callback: Option<String>,
}

/// What publishing an event to a one-off URL again takes.
struct Again {
    new: Storable,
    url: String,
}

impl Again {
    fn of(new: &Storable, callback: Option<String>) -> Option<Self> {
        callback.map(|url| Self {
            new: new.clone(),
            url,
        })
    }
}

/// What becomes of an event that was sent.
enum Judged {
    Accepted(Accepted),
    /// It was published before.
    Before(Publication),
}

/// The event, ready to be published. One that is refused now may have been published before: the answer to a
/// retry must not depend on what has passed or been deleted since.
async fn accepted_or_before(
    service: &Service,
    who: &Caller,
    tenant: &Tenant,
    current: &CurrentProfile,
    event: NewEvent<'_>,
    sent: Sent<'_>,
) -> Result<Judged> {
    let refused = Refused::new(who, &event);
    match acceptable(service, who, tenant, current, event, sent).await {
        Ok(accepted) => Ok(Judged::Accepted(accepted)),
        Err(refusal) => {
            let before = published_before(service, who, tenant, sent.raw, &refused);
            before.await?.map(Judged::Before).ok_or(refusal)
        }
    }
}

/// Turns what was sent into an event of the tenant.
async fn acceptable(
    service: &Service,
    who: &Caller,
    tenant: &Tenant,
    current: &CurrentProfile,
    body: NewEvent<'_>,
    sent: Sent<'_>,
) -> Result<Accepted> {
    let Sent {
        raw,
        whole,
        traceparent,
    } = sent;
    let key = body.idempotency_key.clone();
    if !is_event_type(&body.r#type) {
        return Err(Refusal::invalid(
            "type",
            "must be letters, digits, _ and -, with dots between parts, at most 128 bytes",
        ));
    }
    if let Err(unknown) = known_type(&current.profile, &body.r#type, body.distribution.is_some()) {
        // What the application has declared itself extends a closed catalogue, of distributions too.
        let directory = &service.0.directory;
        let own = directory.event_type(tenant.application, &body.r#type);
        if !own.await?.declared {
            return Err(unknown);
        }
    }
    let data = body.data.get().as_bytes();
    carriable(service, tenant, current, &body).await?;
    let warning = check_data(service, tenant, &body).await?;
    let warning = warning.or_else(|| current.profile.changed("data", data));
    let warning = warning.or_else(|| {
        let meta = body.meta?.get().as_bytes();
        current.profile.changed("meta", meta)
    });
    let address = address(service, tenant, &current.profile, &body).await?;
    let mode = who.mode(body.mode.or(address.mode))?;
    if address.mode.is_some_and(|own| own != mode) {
        let own = address.mode.unwrap_or_default().as_str();
        return Err(Refusal::invalid(
            "mode",
            format!("must be {own}, as whom the event is for"),
        ));
    }
    let now = service.now();
    // By the moment at which it is accepted.
    check_fields(&body, now)?;
    let event = Event {
        id: service.store().ids().next(now),
        application: tenant.application,
        tenant: tenant.id,
        event_type: Arc::from(body.r#type),
        data: slice_of(whole, data),
        meta: body
            .meta
            // A copy: it is small, and a slice would hold the whole request in memory.
            .map(|meta| Bytes::copy_from_slice(meta.get().as_bytes())),
        mode,
        occurred_at: body.occurred_at.unwrap_or(now),
        created_at: now,
        ordering_key: body.ordering_key,
        deliver_before: body.deliver_before,
        traceparent,
    };
    let idempotency = key.map(|key| Idempotency {
        key: scoped(tenant, mode, &key),
        fingerprint: sha256(raw),
    });
    let callback = address.callback();
    let new = Storable {
        event: Arc::new(event),
        target: address.target(service, tenant, mode).await?,
        profile: current.version,
        idempotency,
    };
    Ok(Accepted {
        new,
        warning,
        callback,
    })
}

/// Refuses what can be told to be wrong of each field by itself.
fn check_fields(body: &NewEvent<'_>, now: Timestamp) -> Result<()> {
    if let Some(key) = &body.ordering_key {
        required("orderingKey", key, KEY_BYTES_MAX)?;
    }
    if let Some(key) = &body.idempotency_key {
        required("idempotencyKey", key, KEY_BYTES_MAX)?;
    }
    if let Some(meta) = body.meta.map(RawValue::get) {
        if !meta.starts_with('{') {
            return Err(Refusal::invalid("meta", "must be a JSON object"));
        }
        if meta.len() > META_BYTES_MAX {
            let rule = format!("must have at most {META_BYTES_MAX} bytes; data may have more");
            return Err(Refusal::invalid("meta", rule));
        }
    }
    if body.deliver_before.is_some_and(|limit| limit <= now) {
        return Err(Refusal::invalid("deliverBefore", "must be in the future"));
    }
    Ok(())
}

/// The data without a copy, where it is nearly all of what it was sent in, which the slice holds.
fn slice_of(whole: Option<&Bytes>, data: &[u8]) -> Bytes {
    let holds = |whole: &&Bytes| {
        // `slice_ref` panics at bytes that are not of the same buffer.
        let inside = whole.as_ptr_range().contains(&data.as_ptr());
        inside && whole.len() <= data.len() + SLICE_OVERHEAD_MAX
    };
    match whole.filter(holds) {
        Some(whole) => whole.slice_ref(data),
        None => Bytes::copy_from_slice(data),
    }
}

/// An idempotency key as the store knows it: of one tenant and one mode.
fn scoped(tenant: &Tenant, mode: Mode, key: &str) -> String {
    format!("{}/{}/{key}", tenant.id, mode.as_str())
}

/// What a refused event was published as before, if it was: the answer to a retry must not depend
/// on what has passed or been deleted since.
async fn published_before(
    service: &Service,
    who: &Caller,
    tenant: &Tenant,
    raw: &[u8],
    refused: &Refused,
) -> Result<Option<Publication>> {
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
    // A test key does not learn what was published live.
    for mode in modes.into_iter().filter(|mode| who.may_touch(*mode)) {
        let key = scoped(tenant, mode, key);
        let first = service.store().first_use(tenant.application, &key).await?;
        if let Some(first) = first.filter(|first| first.fingerprint == fingerprint) {
            return Ok(Some(Publication {
                event: first.event,
                deliveries: first.count,
                duplicate: true,
                warning: None,
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
    fn new(who: &Caller, body: &NewEvent<'_>) -> Self {
        // All distributions have no mode in common, so the caller's counts.
        let all = body.distribution.as_deref() == Some(WILDCARD);
        let of_address = body.key.is_some() || (body.distribution.is_some() && !all);
        let own = (!of_address).then_some(who.own_mode());
        let mode = body.mode.or(own);
        let key = body.idempotency_key.clone();
        Self { key, mode }
    }
}

/// An event as it would be published.
pub(crate) async fn imagined(
    service: &Service,
    who: &Caller,
    tenant: &Tenant,
    current: &CurrentProfile,
    event: NewEvent<'_>,
    whole: &Bytes,
) -> Result<Storable> {
    if event.callback_url.is_some() {
        let rule = "cannot be explained: the event would make its endpoint";
        return Err(Refusal::invalid("callbackUrl", rule));
    }
    let event = NewEvent {
        idempotency_key: None,
        ..event
    };
    let sent = Sent {
        raw: whole,
        whole: Some(whole),
        traceparent: None,
    };
    let accepted = acceptable(service, who, tenant, current, event, sent);
    Ok(accepted.await?.new)
}
