//! Deliveries: listed by any column, read with their attempts, sent again, cancelled.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use postrider_core::attempt::{Attempt, UnreachableReason};
use postrider_core::delivery::{Delivery, DeliveryState};
use postrider_core::endpoint::{Endpoint, EndpointKind};
use postrider_core::id::InvalidId;
use postrider_core::limits::ATTEMPTS_SHOWN;
use postrider_core::profile::{MessageScope, Profile, ResendFrom, ResendPolicy};
use postrider_core::tenant::{Mode, Scope};
use postrider_core::{Id, Timestamp, id};
use postrider_engine::PublishError;
use postrider_store::queries::query_digest;
use postrider_store::{
    CatchUp, Cursor, DeliveryFilter, LastAnswer, Page, PageRequest, Rule, StatePattern, StoreError,
};

use crate::explain::hide_signatures;
use crate::reading::{bounded_page, must_be_range};
use crate::refusal::{ErrorCode, Refusal, Result};
use crate::{Caller, Service, endpoints};

/// Which deliveries. What belongs to others is filtered away.
#[derive(Debug, Default)]
pub struct DeliveryQuery {
    pub application: Option<Id<id::Application>>,
    pub tenant: Option<Id<id::Tenant>>,
    pub endpoint: Option<Id<id::Endpoint>>,
    pub event: Option<Id<id::Event>>,
    /// The id that a receiver logs: `webhook-id`, a send-out's, a delivery's own.
    pub webhook_id: Option<String>,
    /// The public id of an API key: what was sent to the endpoint that it owns.
    pub key: Option<String>,
    pub event_type: Option<String>,
    pub mode: Option<Mode>,
    pub state: Option<StatePattern>,
    /// How the last attempt ended.
    pub answer: Option<LastAnswer>,
    pub since: Option<Timestamp>,
    pub until: Option<Timestamp>,
}

/// A delivery with where it goes now and how its last attempt ended.
#[derive(Debug)]
pub struct DeliveryListed {
    pub delivery: Delivery,
    pub endpoint: Option<Endpoint>,
    pub last: Option<Attempt>,
}

/// An attempt with the body that it sent, made again from the event: it is the same for the same attempt. None
/// where it cannot be made again.
#[derive(Debug, Clone)]
pub struct AttemptShown {
    pub attempt: Attempt,
    pub body: Option<Bytes>,
}

impl Service {
    /// Deliveries, the newest first.
    ///
    /// # Errors
    /// Of a filter that cannot be, `not_found` of what is another's, or what the store answers.
    pub async fn list_deliveries(
        &self,
        who: &Caller,
        query: DeliveryQuery,
        page: PageRequest,
    ) -> Result<Page<DeliveryListed>> {
        let (own_application, own_tenant) = who.confined();
        must_be_range(query.since, query.until)?;
        // Another's id filters everything away: the own one is always there too.
        if own_application.is_some_and(|own| query.application.is_some_and(|given| given != own)) {
            return Err(Refusal::not_found("application"));
        }
        if let Some(tenant) = query.tenant {
            who.tenant(self, tenant).await?;
        }
        let endpoint = endpoint_or_key(self, who, query.endpoint, query.key.as_deref()).await?;
        let mut filter = DeliveryFilter {
            application: own_application.or(query.application),
            tenant: own_tenant.or(query.tenant),
            endpoint,
            event: query.event,
            event_type: query.event_type,
            mode: who.shown(query.mode)?,
            state: query.state,
            answer: query.answer,
            since: query.since,
            until: query.until,
            oldest_first: false,
        };
        if let Some(text) = &query.webhook_id
            && !narrowed(self, &mut filter, text).await?
        {
            return Ok(Page {
                rows: Vec::new(),
                next: None,
            });
        }
        let found = self.deliveries_for(who, filter, bounded_page(page)).await?;
        Ok(Page {
            rows: with_last(self, who, found.rows).await?,
            next: found.next,
        })
    }

    /// Deliveries, the newest first, each with its last attempts in the order of their numbers.
    ///
    /// # Errors
    /// As [`Service::list_deliveries`].
    pub async fn list_attempted(
        &self,
        who: &Caller,
        query: DeliveryQuery,
        page: PageRequest,
    ) -> Result<Page<(Delivery, Vec<Attempt>)>> {
        let page = self.list_deliveries(who, query, page).await?;
        let mut rows = Vec::with_capacity(page.rows.len());
        for listed in page.rows {
            // The list has brought the last one along: the store is asked only where there are more.
            let attempts = match (listed.delivery.attempts, listed.last) {
                (0, _) | (_, None) => Vec::new(),
                (1, Some(only)) => vec![only],
                _ => {
                    let id = listed.delivery.id;
                    attempts_of(self, who, id, None, ATTEMPTS_SHOWN).await?
                }
            };
            let attempts = as_seen_by(self, who, &listed.delivery, attempts);
            rows.push((listed.delivery, attempts));
        }
        Ok(Page {
            rows,
            next: page.next,
        })
    }

    /// A delivery, and its last attempts before the one with a number, without bodies; at most 25 of them.
    ///
    /// # Errors
    /// `not_found`, also where it is another's.
    pub async fn attempts_before(
        &self,
        who: &Caller,
        id: Id<id::Delivery>,
        before: Option<u32>,
    ) -> Result<(Delivery, Vec<Attempt>)> {
        let delivery = found(self, who, id).await?;
        let attempts = attempts_of(self, who, id, before, ATTEMPTS_SHOWN).await?;
        let attempts = as_seen_by(self, who, &delivery, attempts);
        Ok((delivery, attempts))
    }

    /// A delivery with its last attempts, each with the body it sent.
    ///
    /// # Errors
    /// `not_found`, also where it is another's.
    pub async fn delivery(
        &self,
        who: &Caller,
        id: Id<id::Delivery>,
    ) -> Result<(Delivery, Vec<AttemptShown>)> {
        let delivery = found(self, who, id).await?;
        let last = attempts_of(self, who, id, None, ATTEMPTS_SHOWN).await?;
        let last = as_seen_by(self, who, &delivery, last);
        let attempts = with_bodies(self, &delivery, last).await?;
        Ok((delivery, attempts))
    }

    /// A delivery alone: for whoever waits for it to change.
    ///
    /// # Errors
    /// `not_found`, also where it is another's.
    pub async fn glance(&self, who: &Caller, id: Id<id::Delivery>) -> Result<Delivery> {
        found(self, who, id).await
    }

    /// All attempts of a delivery in pages, the last first.
    ///
    /// # Errors
    /// `not_found`, `cursor_invalid`, or what the store answers.
    pub async fn list_attempts(
        &self,
        who: &Caller,
        id: Id<id::Delivery>,
        page: PageRequest,
    ) -> Result<Page<AttemptShown>> {
        let delivery = found(self, who, id).await?;
        let query = query_digest(&("attempts", delivery.id));
        let before = page.after(query)?;
        let before = before.map(|number| u32::try_from(number).unwrap_or(u32::MAX));
        let limit = u32::try_from(page.limit).unwrap_or(u32::MAX);
        let limit = limit.clamp(1, ATTEMPTS_SHOWN);
        let found = attempts_of(self, who, id, before, limit).await?;
        // They come in the order of their numbers, which have no gaps.
        let more = found.first().filter(|first| first.number > 1);
        let next = more.map(|first| Cursor {
            query,
            after: first.number.into(),
        });
        let found = as_seen_by(self, who, &delivery, found);
        let mut rows = with_bodies(self, &delivery, found).await?;
        rows.reverse();
        Ok(Page { rows, next })
    }

    /// Sends it again now; done as soon as that is durable, or on its way past a closed lane.
    ///
    /// # Errors
    /// `resend_not_allowed`, `delivery_pending`, `endpoint_disabled`, `not_found`, or what the store answers.
    pub async fn resend(&self, who: &Caller, id: Id<id::Delivery>) -> Result<Delivery> {
        who.must_change()?;
        let delivery = found(self, who, id).await?;
        send_again(self, delivery).await
    }

    /// Sends an event to a registered endpoint that has no delivery of it, whatever that subscribed to.
    ///
    /// # Errors
    /// `endpoint_disabled`, `delivery_pending` where it has one, `not_found`, or what the store answers.
    pub async fn send_missed(
        &self,
        who: &Caller,
        event: Id<id::Event>,
        endpoint: Id<id::Endpoint>,
    ) -> Result<()> {
        who.must_change()?;
        let event = self.event(who, event).await?;
        let (endpoint, current) = endpoints::found(self, who, &endpoint.to_string()).await?;
        let is_registered = endpoint.kind == EndpointKind::Registered;
        if !is_registered || endpoint.tenant != event.tenant || endpoint.mode != event.mode {
            return Err(Refusal::not_found("endpoint"));
        }
        let missed = CatchUp {
            event: event.id,
            endpoint: endpoint.id,
            profile: current.version,
        };
        let service = self.clone();
        self.to_the_end(async move {
            let sent = service.engine().catch_up(event.tenant, missed);
            Ok(sent.await.map(drop)?)
        })
        .await
    }

    /// Ends what waits: nothing is sent any more.
    ///
    /// # Errors
    /// `delivery_ended`, `not_found`, or what the store answers.
    pub async fn cancel(&self, who: &Caller, id: Id<id::Delivery>) -> Result<Delivery> {
        who.must_change()?;
        let delivery = found(self, who, id).await?;
        let (service, id) = (self.clone(), delivery.id);
        let cancelled = self
            .to_the_end(async move { Ok(service.engine().cancel(&delivery).await?) })
            .await?;
        if !cancelled {
            let detail = "only what is pending can be cancelled";
            return Err(Refusal::new(ErrorCode::DeliveryEnded, detail));
        }
        Ok(self.store().delivery(id).await?)
    }
}

/// Reads how deliveries stand.
///
/// # Errors
/// Of a word that is none.
pub fn read_state(text: Option<&str>) -> Result<Option<StatePattern>> {
    let invalid = || {
        Refusal::invalid(
            "status",
            "must be pending, delivered, failed, cancelled or skipped",
        )
    };
    text.map(|text| StatePattern::parse(text).ok_or_else(invalid))
        .transpose()
}

/// How a last attempt ended, as it is written.
///
/// # Errors
/// Of a word that is none.
pub fn read_answer(text: Option<&str>) -> Result<Option<LastAnswer>> {
    let invalid = || {
        let reasons: Vec<&str> = UnreachableReason::ALL.map(UnreachableReason::as_str).into();
        let reasons = reasons.join(", ");
        let rule = format!("must be 2xx, 3xx, 4xx, 5xx, none, or why there was none: {reasons}");
        Refusal::invalid("answer", rule)
    };
    text.map(|text| LastAnswer::parse(text).ok_or_else(invalid))
        .transpose()
}

/// Confines a list to what a person found in a log; false where there is nothing of it.
async fn narrowed(service: &Service, filter: &mut DeliveryFilter, text: &str) -> Result<bool> {
    match logged(service, text).await? {
        Some(Logged::Event(event)) => {
            // Whose it is nobody has looked at: whoever asks is not told that it is there.
            let is_of_it = filter.event.is_none_or(|given| given == event);
            filter.event = Some(event);
            Ok(is_of_it)
        }
        Some(Logged::Delivery(delivery)) => {
            let event = filter.event.is_none_or(|given| given == delivery.event);
            let endpoint = filter.endpoint;
            let endpoint = endpoint.is_none_or(|given| given == delivery.endpoint);
            // An event has one delivery to an endpoint.
            filter.event = Some(delivery.event);
            filter.endpoint = Some(delivery.endpoint);
            Ok(event && endpoint)
        }
        None => Ok(false),
    }
}

/// What an id names that a person found in a log.
enum Logged {
    Event(Id<id::Event>),
    Delivery(Box<Delivery>),
}

/// Looks an id up in every form that a current profile gives to messages.
async fn logged(service: &Service, text: &str) -> Result<Option<Logged>> {
    // One text may be an id in several forms, of this server and of a vendor: every reading is looked up.
    let (mut events, mut deliveries) = (Vec::new(), Vec::new());
    events.extend(text.parse::<Id<id::Event>>().ok());
    deliveries.extend(text.parse::<Id<id::Delivery>>().ok());
    let ids = service.store().ids();
    for profile in current_profiles(service) {
        let known = &profile.ids;
        match known.message_scope {
            MessageScope::Event => events.extend(known.message.find(text, ids)),
            MessageScope::Delivery => deliveries.extend(known.message.find(text, ids)),
        }
    }
    for delivery in deliveries {
        match service.store().delivery(delivery).await {
            Ok(delivery) => return Ok(Some(Logged::Delivery(Box::new(delivery)))),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
    }
    for event in events {
        match service.store().event(event).await {
            Ok(event) => return Ok(Some(Logged::Event(event.id))),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(None)
}

impl Service {
    /// The endpoint that a caller means: by its own id, or by the one that its receivers and the vendor's API know. Whether
    /// it is there, and whose it is, is not said.
    ///
    /// # Errors
    /// Of a text that is no such id, or what the store answers.
    pub async fn endpoint_meant(&self, field: &str, text: &str) -> Result<Id<id::Endpoint>> {
        let wrong: InvalidId = match text.parse() {
            Ok(id) => return Ok(id),
            Err(error) => error,
        };
        let ids = self.store().ids();
        let find = |profile: Arc<Profile>| profile.find_endpoint(text, ids);
        // One text may be an id in several forms: what there is decides.
        let meant: Vec<_> = current_profiles(self).filter_map(find).collect();
        let Some(first) = meant.first().copied() else {
            return Err(Refusal::invalid(field, wrong.to_string()));
        };
        let there = self.store().endpoints(meant).await?;
        Ok(there.first().map_or(first, |endpoint| endpoint.id))
    }
}

fn current_profiles(service: &Service) -> impl Iterator<Item = Arc<Profile>> {
    let profiles = service.engine().profiles();
    let names = profiles.names().into_iter();
    names.filter_map(|name| profiles.current(&name).map(|current| current.profile))
}

/// The rows of a list, each with where it went and how its last attempt ended.
async fn with_last(
    service: &Service,
    who: &Caller,
    mut deliveries: Vec<Delivery>,
) -> Result<Vec<DeliveryListed>> {
    let tenants = deliveries.iter().map(|delivery| delivery.tenant);
    let there = service.0.directory.tenants_there(tenants).await?;
    // What is being erased is not found.
    deliveries.retain(|delivery| there.contains(&delivery.tenant));
    let endpoints: HashSet<_> = deliveries
        .iter()
        .map(|delivery| delivery.endpoint)
        .collect();
    let tried = deliveries.iter().filter(|delivery| delivery.attempts > 0);
    let tried = tried.map(|delivery| delivery.id).collect();
    // In a turn like the list itself: endpoints with all their headers are the larger half of it.
    let store = service.0.store.clone();
    let read = async move {
        let endpoints = store.endpoints(endpoints.into_iter().collect()).await?;
        Ok((endpoints, store.last_attempts(tried).await?))
    };
    let (endpoints, last) = service.listed(who, read).await?;
    let endpoints: HashMap<_, _> = endpoints
        .into_iter()
        .map(|endpoint| (endpoint.id, endpoint))
        .collect();
    let mut last: HashMap<_, _> = last.into_iter().collect();
    let listed = |delivery: Delivery| DeliveryListed {
        endpoint: endpoints.get(&delivery.endpoint).cloned(),
        last: last.remove(&delivery.id),
        delivery,
    };
    Ok(deliveries.into_iter().map(listed).collect())
}

/// The endpoint that a query asks for, by its id or by the key that owns it.
pub(crate) async fn endpoint_or_key(
    service: &Service,
    who: &Caller,
    endpoint: Option<Id<id::Endpoint>>,
    key: Option<&str>,
) -> Result<Option<Id<id::Endpoint>>> {
    match (endpoint, key) {
        (Some(_), Some(_)) => Err(Refusal::invalid("key", "cannot be together with endpoint")),
        (endpoint, None) => Ok(endpoint),
        (None, Some(key)) => endpoint_of(service, who, key).await.map(Some),
    }
}

/// The endpoint that the key with this public id owns.
async fn endpoint_of(service: &Service, who: &Caller, public_id: &str) -> Result<Id<id::Endpoint>> {
    // Those of others and those that never were read alike.
    let unknown = || Refusal::invalid("key", "is not the public id of a key with a webhook");
    let addressee = match service
        .0
        .directory
        .addressee(public_id, Id::from_u128(who.holder()))
        .await
    {
        Err(error) if error.is_not_found() => return Err(unknown()),
        found => found?,
    };
    let own = match addressee.key.scope {
        Scope::Tenant(application, tenant) => {
            who.may_see(application, tenant) && who.may_touch(addressee.key.mode)
        }
        Scope::Root | Scope::Application(_) => false,
    };
    let endpoint = addressee.endpoint.filter(|_| own);
    endpoint.ok_or_else(unknown)
}

/// The delivery, if the caller may see it.
pub(crate) async fn found(
    service: &Service,
    who: &Caller,
    id: Id<id::Delivery>,
) -> Result<Delivery> {
    let delivery = service.store().delivery(id).await?;
    // Of a tenant that is being erased the row has gone first: what it still has is not found.
    let tenant = service.0.directory.tenant(delivery.tenant).await?;
    if who.may_see(tenant.application, tenant.id) && who.may_touch(delivery.mode) {
        Ok(delivery)
    } else {
        Err(Refusal::not_found("delivery"))
    }
}

/// Whoever may send nothing sees no signatures: with one they could send what it is of, for ever where it has no time.
fn as_seen_by(
    service: &Service,
    who: &Caller,
    delivery: &Delivery,
    mut attempts: Vec<Attempt>,
) -> Vec<Attempt> {
    if who.is_read_only()
        && let Some(profile) = service.engine().profiles().version(delivery.profile)
    {
        for attempt in &mut attempts {
            hide_signatures(&profile, &mut attempt.request_headers);
        }
    }
    attempts
}

/// Attempts of a delivery, in the order of their numbers, when it is somebody's turn.
pub(crate) async fn attempts_of(
    service: &Service,
    who: &Caller,
    delivery: Id<id::Delivery>,
    before: Option<u32>,
    limit: u32,
) -> Result<Vec<Attempt>> {
    let store = service.0.store.clone();
    // In a turn, as lists are: with what was answered they are as large.
    let read = async move { store.attempts(delivery, before, limit).await };
    service.listed(who, read).await
}

async fn with_bodies(
    service: &Service,
    delivery: &Delivery,
    attempts: Vec<Attempt>,
) -> Result<Vec<AttemptShown>> {
    let event = service.store().event(delivery.event).await?;
    let mut shown = Vec::with_capacity(attempts.len());
    for attempt in attempts {
        let body = service.engine().body_of(delivery, &event, Some(&attempt));
        let body = body.await?;
        shown.push(AttemptShown { attempt, body });
    }
    Ok(shown)
}

/// How a delivery is sent again, if its profile allows that (`docs/systems.md`, S-32, F-26).
pub(crate) fn resend_policy(service: &Service, delivery: &Delivery) -> Result<ResendPolicy> {
    let Some(profile) = service.engine().profiles().version(delivery.profile) else {
        return Ok(ResendPolicy::default());
    };
    let policy = &profile.resend;
    let refuse = |detail: String| Err(Refusal::new(ErrorCode::ResendNotAllowed, detail));
    // The store tells of one that is pending.
    if delivery.state != DeliveryState::Pending && !policy.allows(delivery.state) {
        let from = policy.from.iter().flatten();
        let names: Vec<&str> = from
            .filter_map(|end| ResendFrom::ALL.iter().find(|(_, known)| known == end))
            .map(|(name, _)| *name)
            .collect();
        let (name, ends) = (&profile.name, names.join(", "));
        return refuse(format!(
            "the profile {name} sends again what ended as {ends}"
        ));
    }
    let too_old = |max_age| service.now().since(delivery.created_at) > max_age;
    if policy.max_age.is_some_and(too_old) {
        let days = policy.max_age.unwrap_or_default().as_secs() / 86_400;
        return refuse(format!("it is older than {days} days"));
    }
    Ok(policy.clone())
}

/// Sends it again, as its profile has it; the delivery as it is then. A client that goes away does
/// not change that.
pub(crate) async fn send_again(service: &Service, delivery: Delivery) -> Result<Delivery> {
    let policy = resend_policy(service, &delivery)?;
    let sending = service.clone();
    service
        .to_the_end(async move {
            let engine = sending.engine();
            match engine.resend(&delivery, policy.series).await {
                Ok(due) => Ok(due.delivery),
                // Only when the store has refused: what is enabled gets it by its lane, in its turn.
                Err(PublishError::Store(StoreError::Conflict {
                    rule: Rule::EndpointDisabled,
                })) if policy.while_disabled => Ok(engine.resend_while_disabled(&delivery).await?),
                Err(error) => Err(error.into()),
            }
        })
        .await
}
