//! `postrider listen`: prints what comes in and says whether its signature is right.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context as _;
use clap::Args;
use http::StatusCode;
use postrider_core::profile::Profile;
use postrider_engine::{Clock, SystemClock};

use crate::interrupt::Interrupt;
use crate::output::line;
use crate::{receiver, verify};

#[derive(Debug, Args)]
pub struct ListenArgs {
    /// Address to listen on
    #[arg(long, default_value = "127.0.0.1:9000")]
    pub listen: SocketAddr,
    /// Profile whose signatures to verify: a built-in name, or a file
    #[arg(long, default_value = "standard")]
    pub profile: String,
    /// Signing secret of the endpoint; several while a rotation is under way
    #[arg(long, env = "POSTRIDER_SECRET", hide_env_values = true)]
    pub secret: Vec<String>,
    /// Status to answer with
    #[arg(long, default_value_t = 200)]
    pub status: u16,
}

/// # Errors
/// When the profile, a secret or the address cannot be used.
pub async fn run(args: ListenArgs) -> anyhow::Result<()> {
    let profile = verify::profile(&args.profile)?;
    let keys = verify::keys(&profile, &args.secret)?;
    let status = StatusCode::from_u16(args.status).context("--status must be from 100 to 999")?;
    let count = AtomicU64::new(0);
    let name = profile.name.clone();
    let verifies = !keys.is_empty();
    let answer = move |received: receiver::Received| {
        let (verdict, accepted) = verdict(&profile, &keys, &received);
        let number = count.fetch_add(1, Ordering::Relaxed) + 1;
        print_webhook(number, &received, &verdict);
        if accepted {
            status
        } else {
            StatusCode::UNAUTHORIZED
        }
    };
    let address = receiver::start(args.listen, None, Arc::new(answer))
        .await
        .with_context(|| {
            format!(
                "failed to listen on {}; choose another address with --listen",
                args.listen
            )
        })?;
    // Before anybody knows that it is there.
    let interrupt = Interrupt::listen()?;
    greet(address, &name, verifies);
    interrupt.pressed().await;
    Ok(())
}

fn verdict(
    profile: &Profile,
    keys: &[postrider_core::profile::SigningKey],
    received: &receiver::Received,
) -> (String, bool) {
    if keys.is_empty() {
        return ("signature not checked (give --secret)".to_owned(), true);
    }
    match profile.verify(
        &|name| received.header(name),
        &received.body,
        keys,
        SystemClock.now(),
    ) {
        Ok(()) => ("signature valid".to_owned(), true),
        Err(error) => (format!("SIGNATURE REFUSED, answered 401: {error}"), false),
    }
}

fn print_webhook(number: u64, received: &receiver::Received, verdict: &str) {
    line(&format!(
        "\n#{number} {} POST {}  {verdict}",
        SystemClock.now(),
        printable(&received.path)
    ));
    for (name, value) in &received.headers {
        line(&format!(
            "  {name}: {}",
            printable(&String::from_utf8_lossy(value.as_bytes()))
        ));
    }
    let body = printable(&String::from_utf8_lossy(&received.body));
    // Each line of it, so that none passes for one of ours.
    line(&format!("  {}", body.replace('\n', "\n  ")));
}

/// What a stranger sent must not steer the terminal.
pub(crate) fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' => shown.push(c),
            c if c.is_control() => shown.extend(c.escape_default()),
            c => shown.push(c),
        }
    }
    shown
}

fn greet(address: SocketAddr, profile: &str, verifies: bool) {
    line(&format!(
        "listening on http://{address}/ for webhooks of the profile {profile} (a server started with --dev may call it)"
    ));
    if !verifies {
        line("give --secret with an endpoint's signing secret to verify signatures");
    }
}
