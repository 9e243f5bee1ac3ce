//! Endpoints: where a tenant wants its events.

use clap::Subcommand;
use postrider_core::json::check_json;
use serde_json::{Value, json};

use super::resource::{Change, change};
use super::{Connection, Paging, given, with_query};
use crate::client::Client;

#[derive(Debug, Subcommand)]
pub enum EndpointCommand {
    /// Create an endpoint; its signing secret is in the answer
    Create {
        url: String,
        #[arg(long)]
        tenant: String,
        /// Event types or patterns [default: *]
        #[arg(long, value_delimiter = ',')]
        events: Option<Vec<String>>,
        /// Conditions on what events carry, as JSON: '{"data.amount": {"$gte": 100}}'
        #[arg(long, value_parser = json_of)]
        filter: Option<Value>,
        #[arg(long)]
        description: Option<String>,
        /// live or test: it gets only events of its mode
        #[arg(long)]
        mode: Option<String>,
        /// Deliveries per second at most
        #[arg(long)]
        rate_limit: Option<u32>,
        /// none, endpoint (one at a time, in order) or key (in order by orderingKey)
        #[arg(long)]
        ordering: Option<String>,
        #[command(flatten)]
        connection: Connection,
    },
    /// List the endpoints of a tenant
    List {
        #[arg(long)]
        tenant: String,
        #[command(flatten)]
        paging: Paging,
        #[command(flatten)]
        connection: Connection,
    },
    /// Show one endpoint
    Get {
        id: String,
        #[command(flatten)]
        connection: Connection,
    },
    /// Enable an endpoint again; its failure counter starts anew
    Enable {
        id: String,
        #[command(flatten)]
        connection: Connection,
    },
    /// Disable an endpoint; what is pending fails
    Disable {
        id: String,
        #[command(flatten)]
        connection: Connection,
    },
    /// Change one; `docs/api.md` has the members
    Update(Change),
    /// Delete an endpoint
    Delete {
        id: String,
        #[command(flatten)]
        connection: Connection,
    },
    /// Send a signed test request now
    Test {
        id: String,
        #[command(flatten)]
        connection: Connection,
    },
    /// Make a new signing secret; the old one stays valid for the profile's overlap
    RotateSecret {
        id: String,
        #[command(flatten)]
        connection: Connection,
    },
    /// Count its deliveries of the last 24 hours
    Stats {
        id: String,
        #[command(flatten)]
        connection: Connection,
    },
}

/// What the server refuses of it, it tells; a key that is there twice would not reach it.
fn json_of(text: &str) -> anyhow::Result<Value> {
    check_json(text.as_bytes())?;
    Ok(serde_json::from_str(text)?)
}

const ENDPOINT: &[&str] = &[
    "id",
    "url",
    "events",
    "mode",
    "active",
    "disabledReason",
    "consecutiveFailures",
    "secret",
];

#[expect(clippy::too_many_lines, reason = "one arm for each command")]
pub async fn endpoint(command: EndpointCommand) -> anyhow::Result<()> {
    let path = |id: &str| Client::path(&["endpoints", id]);
    match command {
        EndpointCommand::Create {
            url,
            tenant,
            events,
            filter,
            description,
            mode,
            rate_limit,
            ordering,
            connection,
        } => {
            let body = given(json!({
                "url": url, "events": events, "filter": filter, "description": description, "mode": mode, "rateLimit": rate_limit, "ordering": ordering,
            }));
            let made = connection
                .client()?
                .post(&Client::path(&["tenants", &tenant, "endpoints"])?, &body)
                .await?;
            connection.show(&made, ENDPOINT);
        }
        EndpointCommand::List {
            tenant,
            paging,
            connection,
        } => {
            let page = connection
                .client()?
                .get(&with_query(
                    &Client::path(&["tenants", &tenant, "endpoints"])?,
                    paging.query(),
                ))
                .await?;
            connection.show(&page, ENDPOINT);
        }
        EndpointCommand::Get { id, connection } => {
            connection.show(&connection.client()?.get(&path(&id)?).await?, ENDPOINT)
        }
        EndpointCommand::Enable { id, connection } => {
            connection.show(
                &connection
                    .client()?
                    .patch(&path(&id)?, &json!({ "active": true }))
                    .await?,
                ENDPOINT,
            );
        }
        EndpointCommand::Disable { id, connection } => {
            connection.show(
                &connection
                    .client()?
                    .patch(&path(&id)?, &json!({ "active": false }))
                    .await?,
                ENDPOINT,
            );
        }
        EndpointCommand::Delete { id, connection } => {
            drop(connection.client()?.delete(&path(&id)?).await?)
        }
        EndpointCommand::Test { id, connection } => {
            let result = connection
                .client()?
                .post(&format!("{}/test", path(&id)?), &json!({}))
                .await?;
            connection.show(
                &result,
                &["success", "statusCode", "responseTime", "message", "error"],
            );
            anyhow::ensure!(
                result["success"] == true,
                "the endpoint did not accept the test"
            );
        }
        EndpointCommand::RotateSecret { id, connection } => {
            let made = connection
                .client()?
                .post(&format!("{}/rotate-secret", path(&id)?), &json!({}))
                .await?;
            connection.show(&made, &["secret", "previousValidUntil"]);
        }
        EndpointCommand::Stats { id, connection } => {
            let stats = connection
                .client()?
                .get(&format!("{}/stats", path(&id)?))
                .await?;
            connection.show(
                &stats,
                &[
                    "since",
                    "pending",
                    "delivered",
                    "failed",
                    "cancelled",
                    "attempts",
                ],
            );
        }
        EndpointCommand::Update(given) => change(given, "endpoints", ENDPOINT).await?,
    }
    Ok(())
}
