//! Whether a server accepts events: for container engines, which ask by a command.

use anyhow::bail;
use http::Method;
use postrider_core::Secret;

use super::Address;
use crate::output::line;

/// Tells that a server is ready, as its exit code.
///
/// # Errors
/// When it cannot be reached, or accepts nothing: with why.
pub async fn health(address: &Address) -> anyhow::Result<()> {
    let client = address.client(Secret::new(""))?;
    let answer = client.ask(Method::GET, "/ready", None).await?;
    if !answer.status.is_success() {
        let detail = answer.body["detail"].as_str().unwrap_or("no reason given");
        bail!("not ready ({}): {detail}", answer.status);
    }
    line("ready");
    Ok(())
}
