//! Events: published singly or many at once, listed, read.

mod accepting;
mod address;

use bytes::Bytes;
use postrider_core::event::{Event, EventSummary};
use postrider_core::tenant::{Mode, Tenant};
use postrider_core::trace::TraceParent;
use postrider_core::{Id, Timestamp, id};
use postrider_engine::PublishError;
use postrider_store::{
    Entity, EventFilter, NewEvent as Storable, Page, PageRequest, Published, StoreError, Target,
};
use serde::Deserialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::endpoints::callback;
use crate::reading::{bounded_page, must_be_range};
use crate::refusal::{Refusal, Result};
use crate::spans::Publishing;
use crate::{Caller, CurrentProfile, Service};

use accepting::{Accepted, Judged, accepted_or_before, scoped};
pub(crate) use accepting::{carriable, imagined};

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
        let (store, page) = (self.0.store.clone(), bounded_page(page));
        let list = async move { store.list_events(filter, page).await };
        self.listed(who, list).await
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
