//! Tells people and systems that deliveries failed and endpoints gave out.
//!
//! The store writes a notice in the transaction of the record that caused it; this sends what is due, and asks the
//! service what that is.
//! A mail may be sent twice when the server dies between sending it and noting that it did; an
//! operational webhook is published once, because its idempotency key is the notice's id.

mod confirming;
mod digest;
mod mail;
mod mailing;

use std::time::Duration;

use postrider_core::notice::Confirmation;
use postrider_service::Service;
use postrider_service::budget::Grant;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub use mail::{MailError, Mailer, SmtpOptions, SmtpTls, is_mail_address};

/// How often the store is asked for notices.
const TICK: Duration = Duration::from_secs(1);

/// Sends notices on their way.
pub struct Notifier {
    service: Service,
    mailer: Option<Mailer>,
    /// Time between two mails to one audience; what happens meanwhile is gathered into the next.
    every: Duration,
    /// Where people reach this server.
    public_url: Option<String>,
    confirmations: mpsc::Receiver<(Confirmation, Grant)>,
}

impl std::fmt::Debug for Notifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Notifier(every {:?})", self.every)
    }
}

impl Notifier {
    pub fn new(
        service: Service,
        mailer: Option<Mailer>,
        every: Duration,
        public_url: Option<String>,
        confirmations: mpsc::Receiver<(Confirmation, Grant)>,
    ) -> Self {
        Self {
            service,
            mailer,
            every,
            public_url,
            confirmations,
        }
    }

    /// Runs until `stop`. Operational webhooks and mail do not wait for each other.
    pub async fn run(mut self, stop: CancellationToken) {
        // Its other end is the service's.
        let confirmations = std::mem::replace(&mut self.confirmations, mpsc::channel(1).1);
        // It may be cut off anywhere: what is not settled is published again, under the same key.
        let publishing = stop.run_until_cancelled(self.publish());
        let confirming = async {
            if let Some(mailer) = &self.mailer {
                confirming::Confirming::new(&self.service, mailer, self.public_url.as_deref())
                    .run(confirmations, &stop)
                    .await;
            }
        };
        let mailing = async {
            if let Some(mailer) = &self.mailer {
                mailing::Mailing::new(&self.service, mailer, self.every)
                    .run(&stop)
                    .await;
            }
        };
        tokio::join!(publishing, mailing, confirming);
    }

    /// For ever.
    async fn publish(&self) {
        let mut after = None;
        loop {
            after = self
                .service
                .publish_notices(after)
                .await
                .unwrap_or_else(|error| {
                    tracing::warn!(
                        error = error.cause(),
                        "failed to publish operational webhooks; trying again"
                    );
                    None
                });
            tokio::time::sleep(TICK).await;
        }
    }
}
