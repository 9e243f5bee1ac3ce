//! What happened, on its way to people and systems: operational webhooks, which are ordinary events to a tenant that
//! the operator chose, with all that this brings; and what a mail tells, for whoever sends mail.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use postrider_core::delivery::ProfileVersion;
use postrider_core::endpoint::EndpointKind;
use postrider_core::event::Event;
use postrider_core::notice::Notice;
use postrider_core::seal::sha256;
use postrider_core::tenant::Mode;
use postrider_core::{Id, Timestamp, id};
use postrider_engine::PublishError;
use postrider_store::{
    DueNotices, Idempotency, MailAudience, NewEvent, NoticeChannel, Rule, StoreError, Target,
};
use serde_json::json;

use crate::Service;
use crate::refusal::{ErrorCode, Result};

/// Notices published in one turn.
const PUBLISHED_MAX: u32 = 200;

/// A mail that waits to be written.
#[derive(Debug)]
pub struct MailDue {
    pub tenant_name: String,
    pub recipients: Vec<String>,
    /// In the order of time.
    pub notices: Vec<Notice>,
}

impl Service {
    /// Publishes the operational webhooks that are due, from those behind `after` on. What cannot be published now stays
    /// due and holds up nothing behind it; each is published once, because its idempotency key is the notice's id.
    /// Returns behind which the next turn goes on: there was no room for some, and there may be for the others'.
    ///
    /// # Errors
    /// What the store answers.
    pub async fn publish_notices(
        &self,
        after: Option<Id<id::Notice>>,
    ) -> Result<Option<Id<id::Notice>>> {
        publish_due(self, after).await
    }

    /// Everybody for whom a notice waits to be mailed, with the time of the oldest.
    ///
    /// # Errors
    /// What the store answers.
    pub async fn mail_audiences(&self) -> Result<Vec<(MailAudience, Timestamp)>> {
        Ok(self.store().mail_audiences().await?)
    }

    /// What waits to be mailed to an audience, at most `notices_max` of it. Nobody to get it: no recipients.
    ///
    /// # Errors
    /// What the store answers.
    pub async fn mail_due(&self, audience: MailAudience, notices_max: u32) -> Result<MailDue> {
        let due = DueNotices::Mail(audience);
        let notices = self.store().due_notices(due, notices_max).await?;
        let tenant = match self.0.directory.tenant(audience.tenant).await {
            Ok(tenant) => tenant,
            // It was deleted, or its application: nobody is told, and what waits does so no more.
            Err(refusal) if refusal.code == ErrorCode::NotFound => {
                return Ok(MailDue {
                    recipients: Vec::new(),
                    tenant_name: String::new(),
                    notices,
                });
            }
            Err(refusal) => return Err(refusal),
        };
        let recipients = tenant.settings.notifications.recipients(audience.class);
        Ok(MailDue {
            recipients,
            tenant_name: tenant.name.clone(),
            notices,
        })
    }

    /// They were mailed, or nobody is to get them: they wait no more.
    ///
    /// # Errors
    /// What the store answers.
    pub async fn settle_mail(&self, notices: &[Notice]) -> Result<()> {
        let ids = notices.iter().map(|notice| notice.id).collect();
        let settled = self.store().settle_notices(NoticeChannel::Mail, ids);
        Ok(settled.await?)
    }

    /// What people call endpoints: the name of a key or distribution, or a description. Those without one are left
    /// out.
    ///
    /// # Errors
    /// What the store answers.
    pub async fn names_of_endpoints(
        &self,
        endpoints: Vec<Id<id::Endpoint>>,
    ) -> Result<HashMap<Id<id::Endpoint>, String>> {
        let mut names = HashMap::new();
        for endpoint in self.store().endpoints(endpoints).await? {
            let name = match endpoint.kind {
                EndpointKind::Distribution(distribution) => Some(distribution.name),
                EndpointKind::Key(key) => match self.store().key(key).await {
                    Ok(key) => Some(key.name),
                    Err(error) if error.is_not_found() => None,
                    Err(error) => return Err(error.into()),
                },
                EndpointKind::Registered | EndpointKind::Callback => endpoint.description,
            };
            names.extend(name.map(|name| (endpoint.id, name)));
        }
        Ok(names)
    }
}

async fn publish_due(
    service: &Service,
    mut after: Option<Id<id::Notice>>,
) -> Result<Option<Id<id::Notice>>> {
    let store = service.store();
    loop {
        let due = DueNotices::Publish { after };
        let due = store.due_notices(due, PUBLISHED_MAX).await?;
        let Some(last) = due.last() else {
            return Ok(None);
        };
        // Behind all of them, whatever becomes of each: what is not published now waits for the next turn.
        after = Some(last.id);
        let page = publish_page(service, due).await;
        if let Some(error) = page.failed {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "failed to publish an operational webhook; trying again"
            );
        }
        if !page.settled.is_empty() {
            store
                .settle_notices(NoticeChannel::Publish, page.settled)
                .await?;
        }
        if page.is_busy {
            return Ok(after);
        }
    }
}

/// What became of some notices.
#[derive(Default)]
struct Settled {
    settled: Vec<Id<id::Notice>>,
    /// One of the reasons why others are not.
    failed: Option<NotPublished>,
    /// The next ones would hardly find room, and take it from publishers.
    is_busy: bool,
}

impl Settled {
    fn add(&mut self, notice: Id<id::Notice>, published: std::result::Result<(), NotPublished>) {
        match published {
            Ok(()) => self.settled.push(notice),
            // It passes by itself.
            Err(
                error @ NotPublished::Engine(PublishError::Store(StoreError::Conflict {
                    rule: Rule::ShareStored,
                })),
            ) => self.failed = Some(error),
            // Its tenant is gone, or it was published before: nothing more to do.
            Err(NotPublished::Engine(PublishError::Store(
                StoreError::NotFound { .. } | StoreError::Conflict { .. },
            ))) => self.settled.push(notice),
            Err(NotPublished::Engine(PublishError::Busy(_))) => self.is_busy = true,
            Err(error) => self.failed = Some(error),
        }
    }
}

/// All of them go at once: one endpoint that gives out may leave a million, and others' stand behind those.
async fn publish_page(service: &Service, due: Vec<Notice>) -> Settled {
    let mut page = Settled::default();
    let mut known: HashMap<Id<id::Application>, Option<Operations>> = HashMap::new();
    let (mut notices, mut events) = (Vec::new(), Vec::new());
    for notice in due {
        let operations = match known.get(&notice.application) {
            Some(operations) => Ok(*operations),
            None => operations(service, notice.application).await,
        };
        match operations {
            Ok(operations) => {
                known.insert(notice.application, operations);
                match operations {
                    Some(operations) => {
                        notices.push(notice.id);
                        events.push(event(service, operations, &notice));
                    }
                    None => page.settled.push(notice.id),
                }
            }
            Err(error) => page.add(notice.id, Err(error)),
        }
    }
    let published = service.engine().publish_many(events).await;
    for (notice, published) in notices.into_iter().zip(published) {
        page.add(notice, published.map(drop).map_err(NotPublished::from));
    }
    page
}

/// Why a notice is not published.
#[derive(Debug, thiserror::Error)]
enum NotPublished {
    #[error("the profile {0} of the application that gets it is not on this server")]
    Profile(String),
    #[error(transparent)]
    Engine(#[from] PublishError),
}

impl From<StoreError> for NotPublished {
    fn from(error: StoreError) -> Self {
        Self::Engine(error.into())
    }
}

/// Who gets the operational webhooks of an application.
#[derive(Clone, Copy)]
struct Operations {
    application: Id<id::Application>,
    tenant: Id<id::Tenant>,
    profile: ProfileVersion,
}

/// None where nobody does.
async fn operations(
    service: &Service,
    of: Id<id::Application>,
) -> std::result::Result<Option<Operations>, NotPublished> {
    let (store, engine) = (service.store(), service.engine());
    let application = store.application(of).await?;
    let Some(operations) = application.settings.operations_tenant else {
        return Ok(None);
    };
    let tenant = store.tenant(operations).await?;
    let owner = store.application(tenant.application).await?;
    let current = engine.profiles().current(&owner.profile);
    let current = current.ok_or(NotPublished::Profile(owner.profile))?;
    Ok(Some(Operations {
        application: tenant.application,
        tenant: tenant.id,
        profile: current.version,
    }))
}

fn event(service: &Service, to: Operations, notice: &Notice) -> NewEvent {
    let now = service.now();
    let data = json!({
        "application": notice.application,
        "tenant": notice.tenant,
        "endpoint": notice.endpoint,
        "delivery": notice.delivery,
        "eventType": &*notice.event_type,
        "mode": notice.mode,
        "url": notice.url,
        "attempts": notice.attempts,
        "error": notice.error,
    });
    let event = Event {
        id: service.store().ids().next(now),
        application: to.application,
        tenant: to.tenant,
        event_type: Arc::from(notice.kind.event_type(notice.class)),
        data: Bytes::from(data.to_string()),
        meta: None,
        // Whatever the mode of what happened, which the data tells: operations are live.
        mode: Mode::Live,
        occurred_at: notice.at,
        created_at: now,
        ordering_key: None,
        deliver_before: None,
        traceparent: None,
    };
    let idempotency = Idempotency {
        // No publisher can have used it: the keys of events name a mode between the two.
        key: format!("{}/{}", to.tenant, notice.id),
        fingerprint: sha256(notice.id.to_string().as_bytes()),
    };
    NewEvent {
        event: Arc::new(event),
        target: Target::Matching,
        profile: to.profile,
        idempotency: Some(idempotency),
    }
}
