//! A delivery's life, decided once: who gets an event and how that begins, what an attempt's record changes, how one
//! ends without an attempt, what may be sent again, and of which ends somebody is told.
//!
//! Every function is pure. A store loads what a decision needs, asks, and writes what it is told, in one transaction;
//! it decides nothing itself. When ten failures disable an endpoint is decided by [`Health::apply`], when and whether
//! there is a next attempt by `postrider_core::judge`.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use postrider_core::delivery::{Delivery, DeliveryState, FailReason, ProfileVersion, Series};
use postrider_core::endpoint::{Endpoint, EndpointKind};
use postrider_core::event::Event;
use postrider_core::filter::{Content, ContentFilter, Subscription};
use postrider_core::health::{DisableReason, Health, HealthChange};
use postrider_core::judge::Next;
use postrider_core::limits::ATTEMPTS_MAX;
use postrider_core::notice::NoticeKind;
use postrider_core::tenant::Mode;
use postrider_core::time::Moment;
use postrider_core::{Id, Timestamp, id};

use crate::notices::{EXPIRED_TEXT, Failure, gave_out_text};
use crate::{
    Entity, FirstUse, Idempotency, Published, RecordAttempt, Resend, Rule, StoreError, Target,
};

/// What an endpoint is, as far as it matters for who gets an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecipientKind {
    Registered,
    Callback,
    Key,
    Distribution,
}

impl From<&EndpointKind> for RecipientKind {
    fn from(kind: &EndpointKind) -> Self {
        match kind {
            EndpointKind::Registered => Self::Registered,
            EndpointKind::Callback => Self::Callback,
            EndpointKind::Key(_) => Self::Key,
            EndpointKind::Distribution(_) => Self::Distribution,
        }
    }
}

/// What of an event decides whom it is for.
#[derive(Debug)]
pub struct Offered<'e> {
    pub mode: Mode,
    pub event_type: &'e str,
    /// One for all candidates of the event: what they look at is counted together.
    pub content: Content<'e>,
}

impl<'e> From<&'e Event> for Offered<'e> {
    fn from(event: &'e Event) -> Self {
        Self {
            mode: event.mode,
            event_type: &event.event_type,
            content: Content::new(&event.data, event.meta.as_ref()),
        }
    }
}

/// An endpoint of an event's tenant, not deleted, that the event may go to.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'e> {
    pub kind: RecipientKind,
    pub mode: Mode,
    pub subscription: &'e Subscription,
    pub filter: Option<&'e ContentFilter>,
    pub is_enabled: bool,
    /// The target names this one.
    pub is_named: bool,
}

impl<'e> Candidate<'e> {
    pub fn new(endpoint: &'e Endpoint, target: Target) -> Self {
        Self {
            kind: (&endpoint.kind).into(),
            mode: endpoint.mode,
            subscription: &endpoint.subscription,
            filter: endpoint.filter.as_ref(),
            is_enabled: endpoint.health.is_enabled(),
            is_named: match target {
                Target::Endpoint(id) | Target::IfEnabled(id) => id == endpoint.id,
                Target::Matching | Target::Distributions | Target::Nobody => false,
            },
        }
    }

    /// Whether an event is for it, enabled or not.
    pub fn is_chosen(&self, target: Target, event: &Offered<'_>) -> bool {
        let by_kind = match target {
            Target::Matching => self.kind == RecipientKind::Registered,
            Target::Distributions => self.kind == RecipientKind::Distribution,
            Target::IfEnabled(_) => {
                // Only an event that names a URL reaches a callback. A tenant may have very many of them, so
                // a store need not offer them here.
                return self.is_reached(event.mode) && self.kind != RecipientKind::Callback;
            }
            Target::Endpoint(_) => return self.is_reached(event.mode),
            Target::Nobody => false,
        };
        // What costs most comes last.
        by_kind
            && self.mode == event.mode
            && self.subscription.matches(event.event_type)
            && self
                .filter
                .is_none_or(|filter| filter.matches(&event.content))
    }

    /// Whoever names an endpoint reaches it whatever it subscribed to.
    fn is_reached(&self, mode: Mode) -> bool {
        self.is_named && self.mode == mode
    }

    /// How the delivery of an event to it begins; none where it gets none.
    pub fn begins(&self, target: Target, event: &Offered<'_>) -> Option<DeliveryState> {
        if !self.is_chosen(target, event) {
            return None;
        }
        match target {
            // First, because what is said of each target below is of an endpoint that is disabled.
            _ if self.is_enabled => Some(DeliveryState::Pending),
            // Whoever paused it wants to see what came meanwhile.
            Target::Distributions => Some(DeliveryState::Skipped),
            Target::Matching | Target::IfEnabled(_) | Target::Endpoint(_) | Target::Nobody => None,
        }
    }
}

/// The endpoint that somebody wants something sent to: whether it is enabled, none where it is not there, or not of
/// the mode.
///
/// # Errors
/// `NotFound`, `EndpointDisabled`.
pub fn must_take(is_enabled: Option<bool>) -> Result<(), StoreError> {
    match is_enabled {
        None => Err(StoreError::not_found(Entity::Endpoint)),
        Some(false) => Err(StoreError::conflict(Rule::EndpointDisabled)),
        Some(true) => Ok(()),
    }
}

/// The answer to a publish whose idempotency key was used before.
///
/// # Errors
/// `IdempotencyKeyReused` when it was another event.
pub fn repeated(first: &FirstUse, given: &Idempotency) -> Result<Published, StoreError> {
    if first.fingerprint != given.fingerprint {
        return Err(StoreError::conflict(Rule::IdempotencyKeyReused));
    }
    Ok(Published {
        event: first.event,
        created: false,
        count: first.count,
        // They are with their lanes already.
        rows: 0,
        work: 0,
        deliveries: Vec::new(),
    })
}

/// The place of what is accepted now, behind all that was: by the steady clock, and strictly growing.
pub fn next_place(last: i64, now: Timestamp) -> i64 {
    now.as_micros().max(last + 1)
}

/// A delivery as it is accepted.
pub fn accept(
    id: Id<id::Delivery>,
    event: &Event,
    endpoint: Id<id::Endpoint>,
    begins: DeliveryState,
    profile: ProfileVersion,
    now: Moment,
) -> Delivery {
    Delivery {
        state: begins,
        completed_at: begins.is_final().then_some(now.wall),
        ..Delivery::new(id, event, endpoint, profile, now)
    }
}

/// What has to be known of a delivery when an attempt of it is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Attempts that are recorded.
    pub attempts: u32,
    pub state: DeliveryState,
}

/// What the record of an attempt changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recording {
    /// None where the delivery was ended while its attempt ran, and stays so: only its attempts are counted.
    pub change: Option<Change>,
    /// What it says of where it was sent to.
    health: HealthChange,
    /// It failed for good, and somebody wants to hear of it.
    pub is_told: bool,
}

/// A delivery after an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    pub state: DeliveryState,
    pub series: Series,
    pub completed_at: Option<Timestamp>,
    /// When the next attempt is due; none leaves it as it is.
    pub due_at: Option<Timestamp>,
    /// Its new place in the lane; none leaves it where it is.
    pub place: Option<Timestamp>,
}

/// Where something is sent to, as far as that is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address(u64);

impl Address {
    pub fn of(url: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        url.hash(&mut hasher);
        Self(hasher.finish())
    }
}

impl Recording {
    /// What of it counts for the health of an endpoint that is at `address` now. Another one says nothing of it: it was
    /// being tried when somebody mended the URL.
    pub fn counts(&self, sent_to: Address, address: Address) -> HealthChange {
        // Without a URL there was nothing to send, wherever to.
        if sent_to == address || sent_to == Address::of("") {
            self.health
        } else {
            HealthChange::None
        }
    }

    /// Whether anything of it may count for a health.
    pub fn is_of_health(&self) -> bool {
        self.health != HealthChange::None
    }

    /// Whether the delivery comes to its end by it.
    pub fn ends(&self) -> bool {
        self.change.is_some_and(|change| change.state.is_final())
    }
}

/// Decides what an attempt's record changes. None when this attempt was recorded before: then nothing does.
pub fn record(head: Head, record: &RecordAttempt, now: Timestamp) -> Option<Recording> {
    // The fence: recorded twice is recorded once, whoever writes it again.
    if head.attempts + 1 != record.attempt.number {
        return None;
    }
    let ended = head.state != DeliveryState::Pending;
    // One that was ended while its attempt ran stays ended, unless the attempt succeeded.
    let stays = ended && record.next != Next::Delivered;
    let state = if stays {
        head.state
    } else {
        record.next.state()
    };
    let due_at = match record.next {
        Next::Retry { at } if !ended => Some(at),
        Next::Retry { .. } | Next::Delivered | Next::Failed(_) => None,
    };
    let change = Change {
        state,
        series: record.series,
        // Of one that was ended and succeeds after all it is the time of that.
        completed_at: state.is_final().then_some(now),
        due_at,
        place: due_at.filter(|_| !record.keep_place),
    };
    Some(Recording {
        change: (!stays).then_some(change),
        // It ended otherwise, so a failure counts for nothing; a success shows that the receiver is there.
        health: if ended && record.health != HealthChange::Success {
            HealthChange::None
        } else {
            record.health
        },
        // By the state before: what was ended while the attempt ran was told of when it ended, if at all.
        is_told: is_told(record.series.single, head.state, state),
    })
}

/// Whether somebody wants to hear that a delivery went from one state to another. A resend by hand is watched by
/// whoever asked for it.
fn is_told(by_hand: bool, before: DeliveryState, after: DeliveryState) -> bool {
    let failed = matches!(
        after,
        DeliveryState::Failed(FailReason::Exhausted | FailReason::Stopped | FailReason::Expired)
    );
    failed && before == DeliveryState::Pending && !by_hand
}

/// What ending a delivery without an attempt changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// It had ended before: nothing.
    Ended,
    /// It ends now, and somebody may want to hear of it.
    Ends { is_told: bool },
}

/// Decides what it means to end a delivery without an attempt: it expired, or somebody cancelled it.
pub fn finish(delivery: &Delivery, state: DeliveryState) -> Finish {
    if delivery.state != DeliveryState::Pending {
        return Finish::Ended;
    }
    Finish::Ends {
        is_told: is_told(delivery.series.single, delivery.state, state),
    }
}

/// What is told of a delivery whose time ran out.
pub fn expired(delivery: &Delivery, url: String) -> Failure {
    Failure {
        endpoint: delivery.endpoint,
        delivery: delivery.id,
        url,
        attempts: delivery.attempts,
        error: EXPIRED_TEXT.to_owned(),
    }
}

/// Makes a delivery that has ended pending again, by hand; `endpoint` as for [`must_take`].
///
/// # Errors
/// `DeliveryPending` when it waits, or has had an attempt since whoever asks looked at it; `DeliveryExpired`, because it would
/// end without a request, whatever it was before; `AttemptsMax`, `ContentDeleted`; and as [`must_take`].
pub fn resend(
    delivery: &Delivery,
    event: &Event,
    endpoint: Option<bool>,
    resend: &Resend,
    now: Moment,
) -> Result<Delivery, StoreError> {
    let is_as_seen = delivery.attempts == resend.attempts;
    // Two who resend at once would both be served otherwise: the second after the first had succeeded.
    if delivery.state == DeliveryState::Pending || !is_as_seen {
        return Err(StoreError::conflict(Rule::DeliveryPending));
    }
    if delivery.attempts >= ATTEMPTS_MAX {
        return Err(StoreError::conflict(Rule::AttemptsMax));
    }
    must_be_in_time(event, now)?;
    must_have_content(event)?;
    must_take(endpoint)?;
    Ok(Delivery {
        state: DeliveryState::Pending,
        completed_at: None,
        due_at: now.steady,
        series: resend.series,
        ..delivery.clone()
    })
}

fn must_be_in_time(event: &Event, now: Moment) -> Result<(), StoreError> {
    if event.deliver_before.is_some_and(|limit| now.wall > limit) {
        return Err(StoreError::conflict(Rule::DeliveryExpired));
    }
    Ok(())
}

fn must_have_content(event: &Event) -> Result<(), StoreError> {
    if event.has_content() {
        Ok(())
    } else {
        Err(StoreError::conflict(Rule::ContentDeleted))
    }
}

/// How an endpoint gets an event that it missed.
#[derive(Debug, Clone, Copy)]
pub enum CatchingUp {
    /// By a delivery of its own.
    New,
    /// By the one that was skipped.
    Again(Resend),
}

/// Decides how an endpoint gets an event that it missed; `endpoint` as for [`must_take`], `known` is its delivery of
/// the event.
///
/// # Errors
/// `DeliveryExpired`, `ContentDeleted`, `DeliveryExists` when it has it, and as [`must_take`].
pub fn catch_up(
    event: &Event,
    endpoint: Option<bool>,
    known: Option<(Id<id::Delivery>, Head)>,
    now: Moment,
) -> Result<CatchingUp, StoreError> {
    must_be_in_time(event, now)?;
    must_have_content(event)?;
    must_take(endpoint)?;
    match known {
        None => Ok(CatchingUp::New),
        Some((delivery, head)) if head.state == DeliveryState::Skipped => {
            Ok(CatchingUp::Again(Resend {
                delivery,
                attempts: head.attempts,
                // As if it were published now: a whole series, and no single attempt by hand.
                series: Series::SCHEDULED,
            }))
        }
        Some(_) => Err(StoreError::conflict(Rule::DeliveryExists)),
    }
}

/// Whether an endpoint missed an event that it would get now, were it enabled. Whom an old event was for is not known:
/// then it missed nothing.
pub fn is_missed(
    addressee: Option<Target>,
    event: &Offered<'_>,
    endpoint: &Endpoint,
    delivery: Option<DeliveryState>,
) -> bool {
    let is_for = |target| Candidate::new(endpoint, target).is_chosen(target, event);
    addressee.is_some_and(is_for) && delivery.is_none_or(|state| state == DeliveryState::Skipped)
}

/// Whether what waits for an endpoint ends, because it is disabled or deleted; and whether it is told of one by one:
/// not when somebody closed it, who knows. None where it goes on, or is held for whoever paused it.
pub fn gives_out(endpoint: &Endpoint, is_deleted: bool, state: DeliveryState) -> Option<bool> {
    if is_deleted {
        return Some(false);
    }
    if endpoint.health.is_enabled() || endpoint.is_held() {
        return None;
    }
    Some(tells_of_waiting(state, endpoint.health))
}

fn tells_of_waiting(state: DeliveryState, health: Health) -> bool {
    let by_itself = health
        .disabled
        .is_some_and(|disabled| disabled.reason != DisableReason::Manual);
    by_itself && state == DeliveryState::Failed(FailReason::EndpointDisabled)
}

/// What is told of a delivery that waited when its endpoint gave out.
pub fn waited(delivery: Id<id::Delivery>, attempts: u32, endpoint: &Endpoint) -> Failure {
    Failure {
        endpoint: endpoint.id,
        delivery,
        url: endpoint.url.clone(),
        attempts,
        error: gave_out_text(endpoint.kind.class()).to_owned(),
    }
}

/// The notices that there is cause for: that a delivery failed, that its endpoint was disabled.
pub fn notices(is_told: bool, is_disabled: bool) -> impl Iterator<Item = NoticeKind> {
    let failed = is_told.then_some(NoticeKind::DeliveryFailed);
    let disabled = is_disabled.then_some(NoticeKind::EndpointDisabled);
    failed.into_iter().chain(disabled)
}
