//! Whether a server accepts events: for container engines, which ask by a command.

use std::path::PathBuf;

use anyhow::bail;
use clap::Args;
use http::Method;
use postrider_core::Secret;

use crate::client::Client;
use crate::output::line;

#[derive(Debug, Args)]
pub struct HealthArgs {
    /// The server's URL
    #[arg(
        long = "server",
        value_name = "URL",
        env = "POSTRIDER_URL",
        default_value = "http://127.0.0.1:8080"
    )]
    url: String,
    /// PEM file with the authorities that may have signed the server's certificate; none is those of the web
    #[arg(long, value_name = "FILE", env = "POSTRIDER_CA")]
    ca: Option<PathBuf>,
}

/// Tells that a server is ready, as its exit code.
///
/// # Errors
/// When it cannot be reached, or accepts nothing: with why.
pub async fn health(args: HealthArgs) -> anyhow::Result<()> {
    let client = Client::new(&args.url, Secret::new(""))?;
    let client = match &args.ca {
        Some(authorities) => client.trusting(authorities)?,
        None => client,
    };
    let answer = client.ask(Method::GET, "/ready", None).await?;
    if !answer.status.is_success() {
        let detail = answer.body["detail"].as_str().unwrap_or("no reason given");
        bail!("not ready ({}): {detail}", answer.status);
    }
    line("ready");
    Ok(())
}
