//! Any call of the API, and what commands read from files and pipes.

use std::io::Read as _;

use anyhow::{Context as _, bail};
use clap::Args;
use http::Method;

use super::Connection;

/// Bytes of a body that a command sends: what the largest route takes.
const BODY_BYTES_MAX: u64 = 16 * 1024 * 1024;

#[derive(Debug, Args)]
pub struct ApiArgs {
    /// get, post, put, patch or delete
    pub method: String,
    /// Such as /v1/audit?limit=5
    pub path: String,
    /// The body, as JSON; @FILE reads it from a file, - from standard input
    pub body: Option<String>,
    #[command(flatten)]
    pub connection: Connection,
}

/// Calls any route of the API and prints its answer.
///
/// # Errors
/// When the body cannot be read, or the server refuses.
pub async fn api(args: ApiArgs) -> anyhow::Result<()> {
    let method = match args.method.to_ascii_lowercase().as_str() {
        "get" => Method::GET,
        "post" => Method::POST,
        "put" => Method::PUT,
        "patch" => Method::PATCH,
        "delete" => Method::DELETE,
        other => bail!("{other:?} is not get, post, put, patch or delete"),
    };
    if !args.path.starts_with('/') {
        bail!("{:?} must begin with /, such as /v1/audit", args.path);
    }
    let body = args.body.as_deref().map(read).transpose()?;
    let answer = args
        .connection
        .client()?
        .call(method, &args.path, body)
        .await?;
    if !answer.is_null() {
        crate::output::line(&serde_json::to_string_pretty(&answer)?);
    }
    Ok(())
}

/// A text as it stands, the content of the file after `@`, or what comes in on standard input for `-`.
pub(super) fn read(text: &str) -> anyhow::Result<String> {
    let mut content = String::new();
    if text == "-" {
        // One byte more than may be: what is too long is refused, not cut.
        std::io::stdin()
            .take(BODY_BYTES_MAX + 1)
            .read_to_string(&mut content)
            .context("failed to read standard input")?;
    } else if let Some(path) = text.strip_prefix('@') {
        std::fs::File::open(path)
            .and_then(|file| file.take(BODY_BYTES_MAX + 1).read_to_string(&mut content))
            .with_context(|| format!("failed to read {path}"))?;
    } else {
        return Ok(text.to_owned());
    }
    if content.len() as u64 > BODY_BYTES_MAX {
        bail!("a body may have {BODY_BYTES_MAX} bytes");
    }
    Ok(content)
}
