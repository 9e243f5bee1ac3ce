//! Deliveries with their attempts: look, send again.

use clap::Subcommand;
use serde_json::json;

use super::{Connection, Paging, given, table, with_query};
use crate::client::Client;

#[derive(Debug, Subcommand)]
pub enum DeliveryCommand {
    /// List deliveries, newest first
    List {
        #[arg(long)]
        tenant: Option<String>,
        #[arg(long)]
        endpoint: Option<String>,
        #[arg(long)]
        event: Option<String>,
        #[arg(long)]
        r#type: Option<String>,
        /// pending, delivered, failed, cancelled or skipped
        #[arg(long)]
        status: Option<String>,
        #[command(flatten)]
        paging: Paging,
        #[command(flatten)]
        connection: Connection,
    },
    /// Show one delivery with every attempt
    Get {
        id: String,
        #[command(flatten)]
        connection: Connection,
    },
    /// Send one delivery again
    Resend {
        id: String,
        #[command(flatten)]
        connection: Connection,
    },
    /// End one delivery that waits: nothing is sent any more
    Cancel {
        id: String,
        #[command(flatten)]
        connection: Connection,
    },
    /// Send everything of a tenant that failed again, or what an endpoint missed; shows progress until it is done
    Replay {
        #[arg(long)]
        tenant: String,
        #[arg(long)]
        endpoint: Option<String>,
        #[arg(long)]
        r#type: Option<String>,
        /// [default: failed]
        #[arg(long)]
        status: Option<String>,
        /// What --endpoint has no delivery of since --since, because it was disabled or not there
        #[arg(long, requires = "endpoint", requires = "since", conflicts_with_all = ["type", "status"])]
        missed: bool,
        /// An RFC 3339 time
        #[arg(long)]
        since: Option<String>,
        #[arg(long)]
        until: Option<String>,
        #[command(flatten)]
        connection: Connection,
    },
}

const DELIVERY: &[&str] = &[
    "id",
    "eventType",
    "endpoint",
    "status",
    "reason",
    "attemptsMade",
    "nextAttemptAt",
    "createdAt",
];

#[expect(clippy::too_many_lines, reason = "one arm for each command")]
pub async fn delivery(command: DeliveryCommand) -> anyhow::Result<()> {
    match command {
        DeliveryCommand::List {
            tenant,
            endpoint,
            event,
            r#type,
            status,
            paging,
            connection,
        } => {
            let mut query = paging.query();
            let filters = [
                ("tenant", tenant),
                ("endpoint", endpoint),
                ("event", event),
                ("type", r#type),
                ("status", status),
            ];
            query.extend(
                filters
                    .into_iter()
                    .filter_map(|(name, value)| Some((name, value?))),
            );
            connection.show(
                &connection
                    .client()?
                    .get(&with_query("/v1/deliveries", query))
                    .await?,
                DELIVERY,
            );
        }
        DeliveryCommand::Get { id, connection } => {
            let delivery = connection
                .client()?
                .get(&Client::path(&["deliveries", &id])?)
                .await?;
            connection.show(&delivery, DELIVERY);
            if !connection.json {
                let attempts = json!({ "data": delivery["attempts"] });
                connection.show(
                    &attempts,
                    &[
                        "number",
                        "startedAt",
                        "statusCode",
                        "error",
                        "manual",
                        "responseBody",
                    ],
                );
            }
        }
        DeliveryCommand::Resend { id, connection } => {
            connection.show(
                &connection
                    .client()?
                    .post(&Client::path(&["deliveries", &id, "resend"])?, &json!({}))
                    .await?,
                DELIVERY,
            );
        }
        DeliveryCommand::Cancel { id, connection } => {
            connection.show(
                &connection
                    .client()?
                    .post(&Client::path(&["deliveries", &id, "cancel"])?, &json!({}))
                    .await?,
                DELIVERY,
            );
        }
        DeliveryCommand::Replay {
            tenant,
            endpoint,
            r#type,
            status,
            missed,
            since,
            until,
            connection,
        } => {
            let client = connection.client()?;
            let mut body = given(json!({
                "endpoint": endpoint, "type": r#type, "status": status, "since": since, "until": until,
            }));
            if missed {
                body["missed"] = json!(true);
            }
            let mut task = client
                .post(&Client::path(&["tenants", &tenant, "replays"])?, &body)
                .await?;
            let progress = table::progress();
            while task["status"] == "running" {
                progress.tick();
                let of = task["total"].as_u64();
                let of = of.map_or_else(|| "counting".to_owned(), |total| format!("of {total}"));
                progress.set_message(format!(
                    "{of}: sent {}, skipped {}",
                    task["done"], task["skipped"]
                ));
                tokio::time::sleep(std::time::Duration::from_millis(300)).await;
                task = client
                    .get(&format!(
                        "/v1/replays/{}",
                        task["id"].as_str().unwrap_or_default()
                    ))
                    .await?;
            }
            progress.finish_and_clear();
            connection.show(
                &task,
                &["id", "status", "total", "done", "skipped", "error"],
            );
            let status = task["status"].as_str().unwrap_or_default();
            anyhow::ensure!(
                status == "finished",
                "the replay is {status}: not all that was to be sent again was"
            );
        }
    }
    Ok(())
}
