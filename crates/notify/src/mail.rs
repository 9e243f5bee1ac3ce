//! Mail over SMTP.

use std::time::Duration;

use lettre::message::{Mailbox, header::ContentType};
use lettre::transport::smtp::authentication::{Credentials, DEFAULT_MECHANISMS};
use lettre::transport::smtp::client::{AsyncSmtpConnection, TlsParameters};
use lettre::transport::smtp::commands::{Data, Mail, Rcpt, Rset};
use lettre::transport::smtp::extension::{ClientId, Extension, MailBodyParameter, MailParameter};
use lettre::{Address, Message};
use postrider_core::Secret;
use tokio::time::timeout;

use crate::digest::Digest;

/// Time for a connection, and for one recipient's mail until the server has said that it has it.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Time for the farewell.
const QUIT_TIMEOUT: Duration = Duration::from_secs(2);
/// Replies to a recipient that say that there is nobody (RFC 5321, 4.2.3). Other refusals are about
/// us or the moment: the login, the sender, a limit.
const NOBODY: [u16; 3] = [550, 551, 553];

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
    /// What it says is of the recipients: others may fare better.
    #[error("the mail server put all of the recipients off")]
    PutOff(#[source] lettre::transport::smtp::Error),
    #[error("the mail server refused our sender or text")]
    Refused(#[source] lettre::transport::smtp::Error),
    #[error("the mail server took longer than {} s", TIMEOUT.as_secs())]
    Timeout,
}

/// Sends mail: a connection for each, since there are few.
pub struct Mailer {
    options: SmtpOptions,
    tls: Option<TlsParameters>,
    credentials: Option<Credentials>,
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
    // Other letters need SMTPUTF8 (RFC 6531), which is not asked for.
    text.is_ascii() && text.parse::<Address>().is_ok()
}

async fn take_back(connection: &mut AsyncSmtpConnection) -> Result<(), MailError> {
    let reset = timeout(TIMEOUT, connection.command(Rset)).await;
    reset.map_err(|_| MailError::Timeout)??;
    Ok(())
}

impl Mailer {
    /// # Errors
    /// When the sender is no address, or TLS cannot be set up. The server is not asked yet.
    pub fn new(mut options: SmtpOptions) -> Result<Self, MailError> {
        let from = mailbox(&options.from)?;
        if !is_mail_address(from.email.as_ref()) {
            return Err(MailError::Address(options.from));
        }
        let tls = match options.tls {
            SmtpTls::Tls | SmtpTls::StartTls => Some(TlsParameters::new(options.host.clone())?),
            SmtpTls::None => None,
        };
        let credentials = options
            .login
            .take()
            .map(|(name, password)| Credentials::new(name, password.expose().to_owned()));
        Ok(Self {
            options,
            tls,
            credentials,
            from,
        })
    }

    /// Sends one mail to all of `to`. Returns those whom the server puts off though others got it: they
    /// may be tried again later. Nobody waits for an address that does not exist; it is logged.
    ///
    /// # Errors
    /// When nobody got it, and somebody may when it is tried again.
    pub(crate) async fn send(
        &self,
        to: &[String],
        digest: &Digest,
    ) -> Result<Vec<String>, MailError> {
        let connecting = timeout(TIMEOUT, self.connect()).await;
        let mut connection = connecting.unwrap_or(Err(MailError::Timeout))?;
        let put_off = self.hand_over(&mut connection, to, digest).await;
        // What was taken is taken, however the server takes leave.
        drop(timeout(QUIT_TIMEOUT, connection.abort()).await);
        put_off
    }

    async fn connect(&self) -> Result<AsyncSmtpConnection, MailError> {
        let SmtpOptions {
            host, port, tls, ..
        } = &self.options;
        let hello = ClientId::default();
        let at_once = self.tls.clone().filter(|_| *tls == SmtpTls::Tls);
        let server = (host.as_str(), *port);
        let mut connection =
            // This limit is for each step; the one for all of them is around it.
            AsyncSmtpConnection::connect_tokio1(server, Some(TIMEOUT), &hello, at_once, None)
                .await?;
        // Before the login, which is never sent in the clear then.
        if let (SmtpTls::StartTls, Some(parameters)) = (tls, &self.tls) {
            connection.starttls(parameters.clone(), &hello).await?;
        }
        if let Some(credentials) = &self.credentials {
            connection.auth(DEFAULT_MECHANISMS, credentials).await?;
        }
        Ok(connection)
    }

    async fn hand_over(
        &self,
        connection: &mut AsyncSmtpConnection,
        to: &[String],
        digest: &Digest,
    ) -> Result<Vec<String>, MailError> {
        let mut taken = false;
        let mut put_off = Vec::new();
        let mut why = None;
        // A mail for each: nobody learns of the others' addresses.
        for (at, address) in to.iter().enumerate() {
            let trying = timeout(TIMEOUT, self.hand_over_one(connection, address, digest)).await;
            let broken_off = match trying.unwrap_or(Err(MailError::Timeout)) {
                Ok(()) => {
                    taken = true;
                    None
                }
                // With a status it is a reply about this recipient; without one the connection is at fault.
                Err(MailError::Smtp(error)) if error.status().is_some() => {
                    let code = error.status().map(u16::from);
                    if code.is_some_and(|code| NOBODY.contains(&code)) {
                        tracing::warn!(
                            address,
                            error = &error as &dyn std::error::Error,
                            "the mail server knows no such address; nobody gets the notification there"
                        );
                    } else {
                        put_off.push(address.clone());
                        why = Some(error);
                    }
                    // What was begun is taken back, for the next one.
                    take_back(connection).await.err()
                }
                Err(error) => {
                    put_off.push(address.clone());
                    Some(error)
                }
            };
            match broken_off {
                None => {}
                // Who has it must not get it again for the sake of the others.
                Some(error) if taken => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "the mail server broke off; who has not got the notification is tried again"
                    );
                    put_off.extend_from_slice(&to[at + 1..]);
                    return Ok(put_off);
                }
                Some(error) => return Err(error),
            }
        }
        // Nobody has it here: with a reason it stays due, and without one there is nobody who could get it.
        if taken {
            return Ok(put_off);
        }
        why.map_or(Ok(Vec::new()), |error| Err(MailError::PutOff(error)))
    }

    async fn hand_over_one(
        &self,
        connection: &mut AsyncSmtpConnection,
        to: &str,
        digest: &Digest,
    ) -> Result<(), MailError> {
        let recipient: Address = to.parse().map_err(|_| MailError::Address(to.to_owned()))?;
        let message = self.message(to, digest)?.formatted();
        let server = connection.server_info();
        let eight_bits = !message.is_ascii() && server.supports_feature(Extension::EightBitMime);
        let parameters = eight_bits.then_some(MailParameter::Body(MailBodyParameter::EightBitMime));
        let sender = Mail::new(
            Some(self.from.email.clone()),
            parameters.into_iter().collect(),
        );
        // A refused sender is about us, and so about all.
        connection
            .command(sender)
            .await
            .map_err(MailError::Refused)?;
        connection.command(Rcpt::new(recipient, Vec::new())).await?;
        // From here on it is the text that is refused, which is the same for all.
        connection.command(Data).await.map_err(MailError::Refused)?;
        connection
            .message(&message)
            .await
            .map_err(MailError::Refused)?;
        Ok(())
    }

    fn message(&self, to: &str, digest: &Digest) -> Result<Message, MailError> {
        let builder = Message::builder()
            .from(self.from.clone())
            .to(mailbox(to)?)
            .subject(digest.subject.clone())
            .header(ContentType::TEXT_PLAIN);
        Ok(builder.body(digest.body.clone())?)
    }
}
