//! What the demo plays on: a server with a temporary store, an HTTPS receiver with a CA of its own.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use http::StatusCode;
use postrider_core::{Secret, Timestamp};
use postrider_engine::{Clock, SystemClock};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};

use super::verify::Method;
use crate::client::Client;
use crate::config::Config;
use crate::receiver::{self, Received};
use crate::serve::Server;

/// What SimplifyTrip's five minutes are here.
pub(super) const FIVE_MINUTES: Duration = Duration::from_secs(1);
/// What a minute of Voucherify's is here.
pub(super) const MINUTE: Duration = Duration::from_millis(5);
/// Its retries, in minutes since the first request (`docs/systems.md`, F-32).
pub(super) const VOUCHERIFY_MINUTES: [u32; 12] =
    [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1_024, 1_440];
/// Requests of one path that are told each by itself.
const LINES_MAX: usize = 14;
/// How often a condition is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);

pub(super) struct Stage {
    server: Server,
    receiver: SocketAddr,
    parts: Arc<Mutex<Parts>>,
    directory: PathBuf,
    root_key: Secret,
    console: Secret,
}

/// The receiver's parts, by path.
#[derive(Default)]
struct Parts {
    roles: HashMap<String, Role>,
    started: Option<Timestamp>,
    received: usize,
    verified: usize,
}

/// What a path of the receiver plays.
struct Role {
    method: Method,
    secret: Secret,
    /// Answers to give first; then 200.
    answers: Vec<u16>,
    received: usize,
}

/// A built-in profile whose retries come sooner; all else is as documented.
fn hurried(name: &str, key: &str, steps: &[Duration]) -> anyhow::Result<String> {
    let known = postrider_core::profile::BUILT_IN.iter();
    let mut sources = known.filter(|(known, _)| *known == name);
    let (_, source) = sources.next().context("a built-in profile")?;
    let steps: Vec<String> = steps
        .iter()
        .map(|step| format!("\"{}ms\"", step.as_millis()))
        .collect();
    let mut found = false;
    let mut text = String::with_capacity(source.len());
    for line in source.lines() {
        if line.starts_with(key) {
            found = true;
            text.push_str(&format!("{key} = [{}]", steps.join(", ")));
        } else {
            text.push_str(line);
        }
        text.push('\n');
    }
    anyhow::ensure!(found, "the profile {name} has no {key}");
    Ok(text)
}

impl Stage {
    pub(super) async fn set() -> anyhow::Result<Self> {
        let directory =
            std::env::temp_dir().join(format!("postrider-demo-{:016x}", fastrand::u64(..)));
        std::fs::create_dir_all(&directory)?;
        let (tls, ca) = certificates()?;
        let ca_file = directory.join("demo-ca.pem");
        std::fs::write(&ca_file, ca)?;
        let parts = Arc::new(Mutex::new(Parts::default()));
        let answering = parts.clone();
        let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let receiver = receiver::start(
            any_port,
            Some(tls),
            Arc::new(move |received| answer(&answering, &received)),
        )
        .await?;
        let mut config = Config::default();
        // So that the address of a catcher can be an endpoint.
        config.pages.catcher = true;
        config.egress.plain_http = true;
        config.server.listen = any_port;
        config.store.directory = directory.join("data");
        config.egress.allow = vec!["127.0.0.0/8".parse()?];
        config.egress.extra_ca = Some(ca_file);
        let profiles = directory.join("profiles");
        std::fs::create_dir_all(&profiles)?;
        let simplifytrip = hurried("simplifytrip", "delays", &[FIVE_MINUTES; 3])?;
        std::fs::write(profiles.join("simplifytrip.toml"), simplifytrip)?;
        let offsets = VOUCHERIFY_MINUTES.map(|minutes| MINUTE * minutes);
        let voucherify = hurried("voucherify", "offsets", &offsets)?;
        std::fs::write(profiles.join("voucherify.toml"), voucherify)?;
        config.profiles.directory = Some(profiles);
        let server = Server::start(config).await?;
        let root_key = server
            .root_key
            .clone()
            .context("a new store makes a root key")?;
        let console = server.console.clone();
        let console = console.context("a new store makes a link to the console")?;
        Ok(Self {
            server,
            receiver,
            parts,
            directory,
            root_key,
            console,
        })
    }

    pub(super) fn server_url(&self) -> String {
        format!("http://{}", self.server.address)
    }

    pub(super) fn receiver_url(&self) -> String {
        format!("https://localhost:{}", self.receiver.port())
    }

    pub(super) fn client(&self) -> anyhow::Result<Client> {
        Client::new(&self.server_url(), self.root_key.clone())
    }

    /// Creates an endpoint at a path of the receiver, which verifies by the method and gives these
    /// answers first, and then 200.
    pub(super) async fn endpoint(
        &self,
        client: &Client,
        tenant: &str,
        path: &str,
        method: Method,
        events: &str,
        answers: Vec<u16>,
    ) -> anyhow::Result<String> {
        let body = json!({ "url": self.url(path), "events": [events] });
        let made = client
            .post(&format!("/v1/tenants/{tenant}/endpoints"), &body)
            .await?;
        let secret = Secret::new(made["secret"].as_str().unwrap_or_default());
        self.play(path, method, secret, answers);
        Ok(made["id"].as_str().unwrap_or_default().to_owned())
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("{}/{path}", self.receiver_url())
    }

    /// Lets a path of the receiver play a part.
    pub(super) fn play(&self, path: &str, method: Method, secret: Secret, answers: Vec<u16>) {
        let role = Role {
            method,
            secret,
            answers,
            received: 0,
        };
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        parts.roles.insert(format!("/{path}"), role);
        parts.started.get_or_insert(SystemClock.now());
    }

    /// Requests received, and those among them with a valid signature.
    pub(super) fn counts(&self) -> (usize, usize) {
        let parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        (parts.received, parts.verified)
    }

    pub(super) fn invite(&self, tenant: &str, delivery: &str, portal: &str) {
        let url = self.server_url();
        say(&format!(
            "
Still running. Open it in a browser; each link lets in once:

    as who runs it    {}
    as a customer     {portal}

In another terminal:

    export POSTRIDER_URL={url} POSTRIDER_KEY={}
    postrider delivery list --tenant {tenant}
    postrider delivery get {delivery}
    postrider event publish --tenant {tenant} order.refunded '{{\"orderId\":\"ord-3\"}}'
    postrider endpoint list --tenant {tenant}
    curl -H \"Authorization: Bearer $POSTRIDER_KEY\" $POSTRIDER_URL/v1/applications

Ctrl-C ends it and removes everything.",
            self.console.expose(),
            self.root_key.expose()
        ));
    }

    pub(super) async fn clear(self) {
        self.server.shut_down().await;
        // What is left in the temporary directory goes with the next clean-up of the system.
        drop(std::fs::remove_dir_all(&self.directory));
    }
}

/// Verifies a webhook as its receiver, prints a line, and answers as its part says.
fn answer(parts: &Mutex<Parts>, received: &Received) -> StatusCode {
    let now = SystemClock.now();
    let mut parts = parts.lock().unwrap_or_else(PoisonError::into_inner);
    let started = parts.started.unwrap_or(now);
    let Some(role) = parts.roles.get_mut(&received.path) else {
        return StatusCode::NOT_FOUND;
    };
    let verified = role.method.accepts(received, &role.secret);
    let status = role.answers.get(role.received).copied().unwrap_or(200);
    role.received += 1;
    let number = role.received;
    let body: Value = serde_json::from_slice(&received.body).unwrap_or_default();
    let event_type = body["event"]
        .as_str()
        .or(body["type"].as_str())
        .unwrap_or("?")
        .to_owned();
    let verdict = if verified {
        "signature valid"
    } else {
        "SIGNATURE REFUSED"
    };
    if number == LINES_MAX {
        say(&format!("   …         {:<11} and so on", received.path));
    }
    if number < LINES_MAX {
        say(&format!(
            "   +{:6.3} s  {:<11} {event_type:<22} request {number:<3} {verdict}, answered {status}",
            now.since(started).as_secs_f64(),
            received.path
        ));
    }
    parts.received += 1;
    parts.verified += usize::from(verified);
    StatusCode::from_u16(status).unwrap_or(StatusCode::OK)
}

/// Prints every attempt of a delivery with the time since the one before ended.
pub(super) fn print_attempts(delivery: &Value) {
    let time = |value: &Value| {
        value
            .as_str()
            .and_then(|text| text.parse::<Timestamp>().ok())
    };
    let mut before: Option<Timestamp> = None;
    for attempt in delivery["attempts"].as_array().into_iter().flatten() {
        let started = time(&attempt["startedAt"]);
        let waited = started.zip(before).map(|(started, before)| {
            format!(
                "{:.3} s after the one before",
                started.since(before).as_secs_f64()
            )
        });
        say(&format!(
            "      attempt {} at {}  {}  {}",
            attempt["number"],
            attempt["startedAt"].as_str().unwrap_or_default(),
            attempt["statusCode"],
            waited.unwrap_or_default()
        ));
        before = time(&attempt["endedAt"]);
    }
}

/// Looks until there is something, or `patience` ends.
pub(super) async fn eventually<T>(
    patience: Duration,
    look: impl AsyncFn() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<Option<T>> {
    let looks = patience.as_millis() / LOOK_EVERY.as_millis();
    for _ in 0..looks {
        if let Some(found) = look().await? {
            return Ok(Some(found));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(None)
}

/// A certificate for localhost, and the CA that signed it.
fn certificates() -> anyhow::Result<(Arc<rustls::ServerConfig>, String)> {
    let ca_key = KeyPair::generate()?;
    let mut ca = CertificateParams::new(Vec::<String>::new())?;
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_certificate = ca.self_signed(&ca_key)?;
    let issuer = Issuer::new(ca, ca_key);
    let key = KeyPair::generate()?;
    let certificate =
        CertificateParams::new(vec!["localhost".to_owned()])?.signed_by(&key, &issuer)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)?;
    Ok((Arc::new(config), ca_certificate.pem()))
}

pub(super) use crate::output::line as say;
