//! The way into the console for whoever has a key.

use serde_json::json;

use super::Connection;
use crate::output::line;

const LINK: &[&str] = &["url", "expiresAt"];

/// Prints the link alone, so that it can be opened by whatever opens links.
pub async fn console(connection: &Connection) -> anyhow::Result<()> {
    let made = connection
        .client()?
        .post("/v1/console-links", &json!({}))
        .await?;
    if connection.json {
        connection.show(&made, LINK);
    } else {
        line(made["url"].as_str().unwrap_or_default());
    }
    Ok(())
}
