//! Events: publish and look.

use clap::Subcommand;
use http::Method;
use serde_json::json;

use super::resource::{ForTenant, for_tenant};
use super::{Connection, Paging, given, with_query};
use crate::client::Client;

#[derive(Debug, Subcommand)]
pub enum EventCommand {
    /// Publish an event
    Publish {
        /// Such as order.completed
        r#type: String,
        /// The payload, as JSON, delivered byte for byte; @FILE reads it from a file, - from standard input
        data: String,
        #[arg(long)]
        tenant: String,
        /// live or test
        #[arg(long)]
        mode: Option<String>,
        /// Public id of the API key that the event belongs to
        #[arg(long)]
        to_key: Option<String>,
        /// Distribution that the event is for; * is all that its type triggers
        #[arg(long)]
        distribution: Option<String>,
        /// Publishing again with the same key gives the first event; with one it is sent again while no answer comes, or one
        /// that passes (408, 429, 500 and above): nine times at most
        #[arg(long)]
        idempotency_key: Option<String>,
        #[command(flatten)]
        connection: Connection,
    },
    /// Publish up to 1,000: {"events":[…]}
    Batch(ForTenant),
    /// Ask who would get an event, and why not, and see the exact requests; nothing is sent
    Explain(ForTenant),
    /// List the events of a tenant
    List {
        #[arg(long)]
        tenant: String,
        #[arg(long)]
        r#type: Option<String>,
        #[command(flatten)]
        paging: Paging,
        #[command(flatten)]
        connection: Connection,
    },
    /// Show one event with its payload
    Get {
        id: String,
        #[command(flatten)]
        connection: Connection,
    },
    /// Delete what an event said, and what was answered to it; what waits of it is cancelled
    DeleteContent {
        id: String,
        #[command(flatten)]
        connection: Connection,
    },
}

/// For the person at the terminal; programs read the answer.
fn hint(text: &str) {
    #[expect(clippy::print_stderr, reason = "it is not part of the answer")]
    {
        eprintln!("{text}");
    }
}

#[expect(clippy::too_many_lines, reason = "one arm for each command")]
pub async fn event(command: EventCommand) -> anyhow::Result<()> {
    match command {
        EventCommand::Publish {
            r#type,
            data,
            tenant,
            mode,
            to_key,
            distribution,
            idempotency_key,
            connection,
        } => {
            let data = super::api::read(&data)?;
            // Without a key it could be published twice.
            let is_keyed = idempotency_key.is_some();
            let others = given(json!({
                "type": r#type,
                "mode": mode,
                "key": to_key,
                "distribution": distribution,
                "idempotencyKey": idempotency_key,
            }))
            .to_string();
            // The payload goes in as it was typed: rewriting it would change its bytes.
            let body = format!("{},\"data\":{data}}}", others.trim_end_matches('}'));
            let path = Client::path(&["tenants", &tenant, "events"])?;
            let client = connection.client()?;
            let made = if is_keyed {
                client
                    .call_until_final(Method::POST, &path, Some(body), |error| {
                        hint(&format!("{error:#}; trying again"));
                    })
                    .await?
            } else {
                client.call(Method::POST, &path, Some(body)).await?
            };
            connection.show(&made, &["id", "deliveries", "duplicate", "warning"]);
            if made["deliveries"] == 0 && made["duplicate"].is_null() {
                hint(&format!(
                    "Nobody asked for it. Who would get it, and why not: postrider event explain --tenant {tenant} '{{\"type\":…,\"data\":…}}'"
                ));
            }
        }
        EventCommand::List {
            tenant,
            r#type,
            paging,
            connection,
        } => {
            let mut query = paging.query();
            query.extend(r#type.map(|name| ("type", name)));
            let page = connection
                .client()?
                .get(&with_query(
                    &Client::path(&["tenants", &tenant, "events"])?,
                    query,
                ))
                .await?;
            connection.show(&page, &["id", "type", "mode", "occurredAt"]);
        }
        EventCommand::DeleteContent { id, connection } => {
            let path = Client::path(&["events", &id, "content"])?;
            connection.client()?.delete(&path).await?;
        }
        EventCommand::Get { id, connection } => {
            let event = connection
                .client()?
                .get(&Client::path(&["events", &id])?)
                .await?;
            connection.show(
                &event,
                &[
                    "id",
                    "type",
                    "mode",
                    "tenant",
                    "occurredAt",
                    "createdAt",
                    "data",
                ],
            );
        }
        EventCommand::Batch(given) => {
            let columns = &["id", "deliveries", "duplicate", "code", "detail"];
            for_tenant(Method::POST, given, &["events", "batch"], columns).await?;
        }
        EventCommand::Explain(given) => {
            let columns = &["endpoint", "url", "wouldReceive", "reasons"];
            for_tenant(Method::POST, given, &["explain"], columns).await?;
        }
    }
    Ok(())
}
