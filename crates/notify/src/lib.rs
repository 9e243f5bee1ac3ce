//! Tells people and systems that deliveries failed and endpoints gave out.
//!
//! The store writes a notice in the transaction of the record that caused it; this sends what is due.
//! A mail may be sent twice when the server dies between sending it and noting that it did; an
//! operational webhook is published once, because its idempotency key is the notice's id.

mod digest;
mod mail;
mod operations;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use postrider_core::notice::{Notice, NoticeClass};
use postrider_core::{Id, Timestamp, id};
use postrider_engine::Engine;
use postrider_store::{NoticeChannel, Store, StoreError};
use tokio_util::sync::CancellationToken;

pub use mail::{MailError, Mailer, SmtpOptions, SmtpTls};

/// How often the store is asked for notices.
const TICK: Duration = Duration::from_secs(1);
/// What fails within this time of the first failure goes into the same mail.
const GATHER: Duration = Duration::from_secs(2);
/// Notices looked at in one turn.
const NOTICES_MAX: u32 = 1_000;

/// Whose mail it is: one tenant, one kind of endpoint.
type Audience = (Id<id::Tenant>, NoticeClass);

/// Sends notices on their way.
pub struct Notifier {
    store: Arc<dyn Store>,
    engine: Arc<Engine>,
    mailer: Option<Mailer>,
    /// Time between two mails to one audience; what happens meanwhile is gathered into the next.
    every: Duration,
    /// When an audience may get its next mail.
    next: HashMap<Audience, Timestamp>,
}

impl std::fmt::Debug for Notifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Notifier(every {:?})", self.every)
    }
}

impl Notifier {
    pub fn new(
        store: Arc<dyn Store>,
        engine: Arc<Engine>,
        mailer: Option<Mailer>,
        every: Duration,
    ) -> Self {
        Self {
            store,
            engine,
            mailer,
            every,
            next: HashMap::new(),
        }
    }

    /// Runs until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            if let Err(error) = self.turn().await {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "failed to send notices; trying again"
                );
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(TICK) => {}
            }
        }
    }

    async fn turn(&mut self) -> Result<(), StoreError> {
        operations::publish_due(&*self.store, &self.engine).await?;
        let Some(mailer) = &self.mailer else {
            return Ok(());
        };
        let now = self.engine.clock().now();
        self.next.retain(|_, at| *at > now);
        let due = self
            .store
            .due_notices(NoticeChannel::Mail, NOTICES_MAX)
            .await?;
        for (audience, notices) in by_audience(due) {
            let gathering = notices
                .first()
                .is_some_and(|first| now.since(first.at) < GATHER);
            if gathering || self.next.contains_key(&audience) {
                continue;
            }
            let ids = notices.iter().map(|notice| notice.id).collect();
            let tenant = self.store.tenant(audience.0).await?;
            let channels = tenant.settings.notifications.of(audience.1);
            if channels.mails() {
                let text = digest::digest(&tenant.name, audience.1, &notices);
                if let Err(error) = mailer.send(&channels.emails, &text).await {
                    tracing::warn!(
                        tenant.id = %tenant.id,
                        error = &error as &dyn std::error::Error,
                        "failed to send a notification by mail; trying again"
                    );
                    self.next.insert(audience, now.plus(self.every));
                    continue;
                }
                self.next.insert(audience, now.plus(self.every));
            }
            self.store.settle_notices(NoticeChannel::Mail, ids).await?;
        }
        Ok(())
    }
}

/// Groups notices, each group in the order of time.
fn by_audience(notices: Vec<Notice>) -> Vec<(Audience, Vec<Notice>)> {
    let mut groups: Vec<(Audience, Vec<Notice>)> = Vec::new();
    for notice in notices {
        let audience = (notice.tenant, notice.class);
        match groups.iter_mut().find(|(known, _)| *known == audience) {
            Some((_, group)) => group.push(notice),
            None => groups.push((audience, vec![notice])),
        }
    }
    groups
}
