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

/// Publishes what is due. What cannot be published now stays due.
pub(crate) async fn publish_due(store: &dyn Store, engine: &Engine) -> Result<(), StoreError> {
    let due = store
        .due_notices(DueNotices::Publish, PUBLISHED_MAX)
        .await?;
    let mut settled = Vec::with_capacity(due.len());
    for notice in due {
        match publish(store, engine, &notice).await {
            Ok(()) => settled.push(notice.id),
            Err(PublishError::Busy(_)) => break,
            // Its tenant is gone, or it was published before: nothing more to do.
            Err(PublishError::Store(StoreError::NotFound { .. } | StoreError::Conflict { .. })) => {
                settled.push(notice.id);
            }
            Err(PublishError::Store(error)) => return Err(error),
        }
    }
    if settled.is_empty() {
        return Ok(());
    }
    store.settle_notices(NoticeChannel::Publish, settled).await
}

async fn publish(store: &dyn Store, engine: &Engine, notice: &Notice) -> Result<(), PublishError> {
    let application = store.application(notice.application).await?;
    let Some(operations) = application.settings.operations_tenant else {
        return Ok(());
    };
    let tenant = store.tenant(operations).await?;
    let owner = store.application(tenant.application).await?;
    let Some(current) = engine.profiles().current(&owner.profile) else {
        tracing::warn!(
            profile = owner.profile,
            "operational webhooks use a profile that is not there"
        );
        return Ok(());
    };
    let now = engine.clock().now();
    let data = json!({
        "application": notice.application,
        "tenant": notice.tenant,
        "endpoint": notice.endpoint,
        "delivery": notice.delivery,
        "eventType": &*notice.event_type,
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
    engine.publish(new).await.map(drop)
}
