//! Operational webhooks: notices published as ordinary events to a tenant that the operator chose,
//! with all that this brings: signatures, retries, a record.

use std::sync::Arc;

use bytes::Bytes;
use postrider_core::event::Event;
use postrider_core::notice::Notice;
use postrider_core::seal::sha256;
use postrider_core::tenant::Mode;
use postrider_core::{Id, id};
use postrider_engine::{Engine, PublishError};
use postrider_store::{
    DueNotices, Idempotency, NewEvent, NoticeChannel, Store, StoreError, Target,
};
use serde_json::json;

/// Notices published in one turn.
const PUBLISHED_MAX: u32 = 200;

/// Publishes what is due. What cannot be published now stays due and holds up nothing behind it.
pub(crate) async fn publish_due(store: &dyn Store, engine: &Engine) -> Result<(), StoreError> {
    let mut after = None;
    let mut busy = false;
    while !busy {
        let due = DueNotices::Publish { after };
        let due = store.due_notices(due, PUBLISHED_MAX).await?;
        let Some(last) = due.last() else {
            return Ok(());
        };
        after = Some(last.id);
        let mut settled = Vec::with_capacity(due.len());
        let mut failed = None;
        for notice in due {
            match publish(store, engine, &notice).await {
                Ok(()) => settled.push(notice.id),
                // Its tenant is gone, or it was published before: nothing more to do.
                Err(NotPublished::Engine(PublishError::Store(
                    StoreError::NotFound { .. } | StoreError::Conflict { .. },
                ))) => settled.push(notice.id),
                Err(NotPublished::Engine(PublishError::Busy(_))) => {
                    busy = true;
                    break;
                }
                Err(error) => failed = Some(error),
            }
        }
        if let Some(error) = failed {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "failed to publish an operational webhook; trying again"
            );
        }
        if !settled.is_empty() {
            store
                .settle_notices(NoticeChannel::Publish, settled)
                .await?;
        }
    }
    Ok(())
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

async fn publish(store: &dyn Store, engine: &Engine, notice: &Notice) -> Result<(), NotPublished> {
    let application = store.application(notice.application).await?;
    let Some(operations) = application.settings.operations_tenant else {
        return Ok(());
    };
    let tenant = store.tenant(operations).await?;
    let owner = store.application(tenant.application).await?;
    let current = engine.profiles().current(&owner.profile);
    let current = current.ok_or(NotPublished::Profile(owner.profile))?;
    let now = engine.clock().now();
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
    let data = data.to_string();
    let id: Id<id::Event> = store.ids().next(now);
    let event = Event {
        id,
        application: tenant.application,
        tenant: tenant.id,
        event_type: Arc::from(notice.kind.event_type(notice.class)),
        data: Bytes::from(data),
        meta: None,
        mode: Mode::Live,
        occurred_at: notice.at,
        created_at: now,
        ordering_key: None,
        deliver_before: None,
        traceparent: None,
    };
    let idempotency = Idempotency {
        key: format!("{}/{}", tenant.id, notice.id),
        fingerprint: sha256(notice.id.to_string().as_bytes()),
    };
    let new = NewEvent {
        event: Arc::new(event),
        target: Target::Matching,
        profile: current.version,
        idempotency: Some(idempotency),
    };
    engine.publish(new).await?;
    Ok(())
}
