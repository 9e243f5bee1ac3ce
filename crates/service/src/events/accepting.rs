//! What was sent is turned into an event of its tenant, or refused with a reason.

use std::sync::Arc;

use bytes::Bytes;
use postrider_core::Timestamp;
use postrider_core::event::Event;
use postrider_core::filter::{WILDCARD, is_event_type};
use postrider_core::limits::{FLAT_INLINE_BYTES_MAX, KEY_BYTES_MAX, META_BYTES_MAX};
use postrider_core::profile::Profile;
use postrider_core::seal::sha256;
use postrider_core::tenant::{Mode, Tenant, Validation};
use postrider_store::{Idempotency, NewEvent as Storable};
use serde_json::value::RawValue;

use super::address::{address, known_type};
use super::{NewEvent, Publication, Sent};
use crate::reading::required;
use crate::refusal::{ErrorCode, Refusal, Result};
use crate::schemas::Whose;
use crate::{Caller, CurrentProfile, Service};

/// Bytes of a request's body beside the data, up to which the data stays a slice of it: it counts
/// against the memory bound with its own length only.
const SLICE_OVERHEAD_MAX: usize = 512;

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
        .event_type(&service.0.schemas, application.id, &body.r#type)
        .await?;
    let checked = known
        .check(&service.0.schemas, tenant.into(), body.data.get())
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
pub(crate) async fn carriable(
    service: &Service,
    whose: Whose,
    profile: &Arc<Profile>,
    data: &[u8],
    meta: Option<&[u8]>,
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
    // A profile that carries bytes as they are looks at nothing.
    let inline_max = match profile.signs_flat_forms() {
        true => FLAT_INLINE_BYTES_MAX,
        false => INLINE_BYTES_MAX,
    };
    if data.len() <= inline_max || !profile.parses() {
        return look(profile, data, meta);
    }
    let (profile, data) = (profile.clone(), data.to_vec());
    let meta = meta.map(<[u8]>::to_vec);
    let turn = service.0.schemas.slow(whose).await?;
    turn.run(move || look(&profile, &data, meta.as_deref()))
        .await?
}

/// An event ready to be published.
pub(super) struct Accepted {
    pub(super) new: Storable,
    pub(super) warning: Option<String>,
    /// The one-off URL that it is for.
    pub(super) callback: Option<String>,
}

/// What becomes of an event that was sent.
pub(super) enum Judged {
    Accepted(Accepted),
    /// It was published before.
    Before(Publication),
}

/// The event, ready to be published. One that is refused now may have been published before: the answer to a
/// retry must not depend on what has passed or been deleted since.
pub(super) async fn accepted_or_before(
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

/// Refuses a type that is none, and one that neither the profile's catalogue has nor the application declares.
async fn must_be_a_type(
    service: &Service,
    tenant: &Tenant,
    current: &CurrentProfile,
    body: &NewEvent<'_>,
) -> Result<()> {
    if !is_event_type(&body.r#type) {
        return Err(Refusal::invalid(
            "type",
            "must be letters, digits, _ and -, with dots between parts, at most 128 bytes",
        ));
    }
    if let Err(unknown) = known_type(&current.profile, &body.r#type, body.distribution.is_some()) {
        // What the application has declared itself extends a closed catalogue, of distributions too.
        let directory = &service.0.directory;
        let own = directory.event_type(&service.0.schemas, tenant.application, &body.r#type);
        if !own.await?.declared {
            return Err(unknown);
        }
    }
    Ok(())
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
    must_be_a_type(service, tenant, current, &body).await?;
    let data = body.data.get().as_bytes();
    let meta = body.meta.map(|meta| meta.get().as_bytes());
    carriable(service, tenant.into(), &current.profile, data, meta).await?;
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
pub(super) fn scoped(tenant: &Tenant, mode: Mode, key: &str) -> String {
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
