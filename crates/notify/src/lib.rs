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

use postrider_core::Timestamp;
use postrider_engine::Engine;
use postrider_store::{DueNotices, MailAudience, NoticeChannel, Store, StoreError};
use tokio_util::sync::CancellationToken;

pub use mail::{MailError, Mailer, SmtpOptions, SmtpTls, is_mail_address};

/// How often the store is asked for notices.
const TICK: Duration = Duration::from_secs(1);
/// What fails within this time of the first failure goes into the same mail.
const GATHER: Duration = Duration::from_secs(2);
/// Notices that go into one mail.
const NOTICES_MAX: u32 = 5_000;

/// Sends notices on their way.
pub struct Notifier {
    store: Arc<dyn Store>,
    engine: Arc<Engine>,
    mailer: Option<Arc<Mailer>>,
    /// Time between two mails to one audience; what happens meanwhile is gathered into the next.
    every: Duration,
    /// When an audience may get its next mail.
    next: HashMap<MailAudience, Timestamp>,
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
            mailer: mailer.map(Arc::new),
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
        let Some(mailer) = self.mailer.clone() else {
            return Ok(());
        };
        let now = self.engine.clock().now();
        self.next.retain(|_, at| *at > now);
        for (audience, first) in self.store.mail_audiences().await? {
            let gathering = now.since(first) < GATHER;
            if gathering || self.next.contains_key(&audience) {
                continue;
            }
            self.next.insert(audience, now.plus(self.every));
            self.mail(&mailer, audience).await?;
        }
        Ok(())
    }

    /// Mails what waits for one audience. What the mail server cannot take now stays due; what it
    /// will never take is settled, or it would be tried for ever.
    async fn mail(&self, mailer: &Mailer, audience: MailAudience) -> Result<(), StoreError> {
        let due = DueNotices::Mail(audience);
        let notices = self.store.due_notices(due, NOTICES_MAX).await?;
        let tenant = self.store.tenant(audience.tenant).await?;
        let channels = tenant.settings.notifications.of(audience.class);
        if channels.mails() {
            let text = digest::digest(&tenant.name, audience.class, &notices);
            if let Err(error) = mailer.send_to_all(&channels.emails, &text).await {
                tracing::warn!(
                    tenant.id = %tenant.id,
                    error = &error as &dyn std::error::Error,
                    "failed to send a notification by mail; trying again"
                );
                return Ok(());
            }
        }
        let ids = notices.iter().map(|notice| notice.id).collect();
        self.store.settle_notices(NoticeChannel::Mail, ids).await
    }
}
