//! Mail over SMTP.

use std::time::Duration;

use lettre::message::{Mailbox, header::ContentType};
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Tls, TlsParameters};
use lettre::{AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};
use postrider_core::Secret;

use crate::digest::Digest;

/// Time for one mail.
const TIMEOUT: Duration = Duration::from_secs(20);

/// How the connection to the mail server is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SmtpTls {
    /// From the first byte (port 465).
    Tls,
    /// After a greeting in the clear, or not at all (port 587).
    StartTls,
    /// Never: for a mail server on the same machine.
    None,
}

/// The operator's mail server.
#[derive(Debug, Clone)]
pub struct SmtpOptions {
    pub host: String,
    pub port: u16,
    pub tls: SmtpTls,
    pub login: Option<(String, Secret)>,
    /// The sender: `Postrider <postrider@example.com>`.
    pub from: String,
}

/// Why mail cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum MailError {
    #[error("{0:?} is not a mail address such as Postrider <postrider@example.com>")]
    Address(String),
    #[error("the mail cannot be written")]
    Message(#[from] lettre::error::Error),
    #[error("the mail server did not take it")]
    Smtp(#[from] lettre::transport::smtp::Error),
}

/// Sends mail.
pub struct Mailer {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    from: Mailbox,
}

impl std::fmt::Debug for Mailer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Mailer(from {})", self.from)
    }
}

fn mailbox(text: &str) -> Result<Mailbox, MailError> {
    text.parse()
        .map_err(|_| MailError::Address(text.to_owned()))
}

/// Whether mail can be addressed to this: `ada@example.com`, nothing around it.
pub fn is_mail_address(text: &str) -> bool {
    text.is_ascii() && text.parse::<lettre::Address>().is_ok()
}

impl MailError {
    /// Whether trying again is in vain.
    fn is_permanent(&self) -> bool {
        match self {
            Self::Address(_) | Self::Message(_) => true,
            Self::Smtp(error) => error.is_permanent(),
        }
    }
}

impl Mailer {
    /// # Errors
    /// When the sender is no address, or TLS cannot be set up. The server is not asked yet.
    pub fn new(options: SmtpOptions) -> Result<Self, MailError> {
        let from = mailbox(&options.from)?;
        let tls = || TlsParameters::new(options.host.clone());
        let tls = match options.tls {
            SmtpTls::Tls => Tls::Wrapper(tls()?),
            SmtpTls::StartTls => Tls::Required(tls()?),
            SmtpTls::None => Tls::None,
        };
        let mut builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(&options.host)
            .port(options.port)
            .tls(tls)
            .timeout(Some(TIMEOUT));
        if let Some((name, password)) = options.login {
            builder = builder.credentials(Credentials::new(name, password.expose().to_owned()));
        }
        Ok(Self {
            transport: builder.build(),
            from,
        })
    }

    /// Sends one mail to all of `to`, or one to each when the server refuses one of them: a dead
    /// address must not keep the others from it. Those refused for good are logged.
    ///
    /// # Errors
    /// When the server cannot take it now.
    pub(crate) async fn send_to_all(
        &self,
        to: &[String],
        digest: &Digest,
    ) -> Result<(), MailError> {
        match self.send(to, digest).await {
            Err(error) if error.is_permanent() => {}
            result => return result,
        }
        for address in to {
            match self.send(std::slice::from_ref(address), digest).await {
                Ok(()) => {}
                Err(error) if error.is_permanent() => tracing::warn!(
                    address,
                    error = &error as &dyn std::error::Error,
                    "the mail server refuses a notification for good; it is not tried again"
                ),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn send(&self, to: &[String], digest: &Digest) -> Result<(), MailError> {
        let mut builder = Message::builder()
            .from(self.from.clone())
            .subject(digest.subject.clone())
            .header(ContentType::TEXT_PLAIN);
        for address in to {
            builder = builder.to(mailbox(address)?);
        }
        let message = builder.body(digest.body.clone())?;
        self.transport.send(message).await?;
        Ok(())
    }
}
