//! The commands that manage a running server over its API: tables for people, `--json` for programs.

mod table;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use postrider_core::Secret;
use serde_json::{Value, json};

use crate::client::Client;
use table::show;

/// Which server, and how to answer.
#[derive(Debug, Args)]
pub struct Connection {
    /// The server's URL
    #[arg(
        id = "server",
        long = "url",
        value_name = "URL",
        env = "POSTRIDER_URL",
        default_value = "http://127.0.0.1:8080"
    )]
    url: String,
    /// An API key of the server
    #[arg(
        id = "api-key",
        long = "key",
        value_name = "KEY",
        env = "POSTRIDER_KEY",
        hide_env_values = true
    )]
    key: Option<String>,
    /// Print the API's JSON instead of a table
    #[arg(long)]
    json: bool,
}

impl Connection {
    fn client(&self) -> anyhow::Result<Client> {
        let key = self.key.clone().filter(|key| !key.is_empty());
        let key = key.context("an API key is needed: --key or POSTRIDER_KEY (`serve` prints the root key at its first start)")?;
        Client::new(&self.url, Secret::new(key))
    }

    fn show(&self, value: &Value, columns: &[&str]) {
        show(value, columns, self.json);
    }
}

#[derive(Debug, Args)]
pub struct Paging {
    /// Rows at most
    #[arg(long, default_value_t = 50)]
    limit: usize,
    /// Where to go on: nextCursor of the page before
    #[arg(long)]
    cursor: Option<String>,
}

impl Paging {
    fn query(&self) -> Vec<(&'static str, String)> {
        let mut query = vec![("limit", self.limit.to_string())];
        query.extend(self.cursor.clone().map(|cursor| ("cursor", cursor)));
        query
    }
}

fn with_query(path: &str, query: Vec<(&str, String)>) -> String {
    let mut text = url::form_urlencoded::Serializer::new(String::new());
    text.extend_pairs(query);
    format!("{path}?{}", text.finish())
}

/// An object without the members that were not given.
fn given(members: Value) -> Value {
    match members {
        Value::Object(members) => Value::Object(
            members
                .into_iter()
                .filter(|(_, value)| !value.is_null())
                .collect(),
        ),
        other => other,
    }
}

#[derive(Debug, Subcommand)]
pub enum ApplicationCommand {
    /// Create an application
    Create {
        name: String,
        /// What its receivers see: a built-in profile (`postrider profile show` lists them), or your own
        #[arg(long, default_value = "standard")]
        profile: String,
        #[command(flatten)]
        connection: Connection,
    },
    /// List applications
    List {
        #[command(flatten)]
        paging: Paging,
        #[command(flatten)]
        connection: Connection,
    },
}

const APPLICATION: &[&str] = &["id", "name", "profile", "createdAt"];

/// # Errors
/// When the server cannot be reached or refuses; all commands alike.
pub async fn application(command: ApplicationCommand) -> anyhow::Result<()> {
    match command {
        ApplicationCommand::Create {
            name,
            profile,
            connection,
        } => {
            let made = connection
                .client()?
                .post(
                    "/v1/applications",
                    &json!({ "name": name, "profile": profile }),
                )
                .await?;
            connection.show(&made, APPLICATION);
        }
        ApplicationCommand::List { paging, connection } => {
            let page = connection
                .client()?
                .get(&with_query("/v1/applications", paging.query()))
                .await?;
            connection.show(&page, APPLICATION);
        }
    }
    Ok(())
}

#[derive(Debug, Subcommand)]
pub enum TenantCommand {
    /// Create a tenant
    Create {
        name: String,
        #[arg(long)]
        application: String,
        /// Your own id of this customer
        #[arg(long)]
        external_id: Option<String>,
        #[command(flatten)]
        connection: Connection,
    },
    /// List the tenants of an application
    List {
        #[arg(long)]
        application: String,
        /// Only the one with this id of yours
        #[arg(long)]
        external_id: Option<String>,
        #[command(flatten)]
        paging: Paging,
        #[command(flatten)]
        connection: Connection,
    },
}

const TENANT: &[&str] = &["id", "name", "externalId", "createdAt"];

pub async fn tenant(command: TenantCommand) -> anyhow::Result<()> {
    match command {
        TenantCommand::Create {
            name,
            application,
            external_id,
            connection,
        } => {
            let body = given(json!({ "name": name, "externalId": external_id }));
            let made = connection
                .client()?
                .post(
                    &Client::path(&["applications", &application, "tenants"])?,
                    &body,
                )
                .await?;
            connection.show(&made, TENANT);
        }
        TenantCommand::List {
            application,
            external_id,
            paging,
            connection,
        } => {
            let mut query = paging.query();
            query.extend(external_id.map(|id| ("externalId", id)));
            let page = connection
                .client()?
                .get(&with_query(
                    &Client::path(&["applications", &application, "tenants"])?,
                    query,
                ))
                .await?;
            connection.show(&page, TENANT);
        }
    }
    Ok(())
}

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

pub async fn endpoint(command: EndpointCommand) -> anyhow::Result<()> {
    let path = |id: &str| Client::path(&["endpoints", id]);
    match command {
        EndpointCommand::Create {
            url,
            tenant,
            events,
            description,
            mode,
            rate_limit,
            ordering,
            connection,
        } => {
            let body = given(json!({
                "url": url, "events": events, "description": description, "mode": mode, "rateLimit": rate_limit, "ordering": ordering,
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
    }
    Ok(())
}

#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Create a key: for a tenant, for an application, or (with neither) a root key
    Create {
        name: String,
        #[arg(long)]
        application: Option<String>,
        #[arg(long)]
        tenant: Option<String>,
        /// live or test
        #[arg(long)]
        mode: Option<String>,
        #[command(flatten)]
        connection: Connection,
    },
    /// List keys
    List {
        #[command(flatten)]
        paging: Paging,
        #[command(flatten)]
        connection: Connection,
    },
    /// Delete a key: it is refused from now on
    Delete {
        id: String,
        #[command(flatten)]
        connection: Connection,
    },
}

const KEY: &[&str] = &[
    "id",
    "name",
    "scope",
    "mode",
    "publicId",
    "createdAt",
    "key",
];

pub async fn key(command: KeyCommand) -> anyhow::Result<()> {
    match command {
        KeyCommand::Create {
            name,
            application,
            tenant,
            mode,
            connection,
        } => {
            let body = given(
                json!({ "name": name, "application": application, "tenant": tenant, "mode": mode }),
            );
            connection.show(&connection.client()?.post("/v1/keys", &body).await?, KEY);
        }
        KeyCommand::List { paging, connection } => {
            connection.show(
                &connection
                    .client()?
                    .get(&with_query("/v1/keys", paging.query()))
                    .await?,
                KEY,
            );
        }
        KeyCommand::Delete { id, connection } => drop(
            connection
                .client()?
                .delete(&Client::path(&["keys", &id])?)
                .await?,
        ),
    }
    Ok(())
}

#[derive(Debug, Subcommand)]
pub enum EventCommand {
    /// Publish an event
    Publish {
        /// Such as order.completed
        r#type: String,
        /// The payload, as JSON; it is delivered byte for byte
        data: String,
        #[arg(long)]
        tenant: String,
        /// live or test
        #[arg(long)]
        mode: Option<String>,
        /// Publishing again with the same key gives the first event
        #[arg(long)]
        idempotency_key: Option<String>,
        #[command(flatten)]
        connection: Connection,
    },
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
}

pub async fn event(command: EventCommand) -> anyhow::Result<()> {
    match command {
        EventCommand::Publish {
            r#type,
            data,
            tenant,
            mode,
            idempotency_key,
            connection,
        } => {
            let others =
                given(json!({ "type": r#type, "mode": mode, "idempotencyKey": idempotency_key }))
                    .to_string();
            // The payload goes in as it was typed: rewriting it would change its bytes.
            let body = format!("{},\"data\":{data}}}", others.trim_end_matches('}'));
            let path = Client::path(&["tenants", &tenant, "events"])?;
            let made = connection
                .client()?
                .call(http::Method::POST, &path, Some(body))
                .await?;
            connection.show(&made, &["id", "deliveries", "duplicate"]);
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
    }
    Ok(())
}

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
        /// pending, delivered, failed or cancelled
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
    /// Send everything of a tenant that failed again; prints progress until it is done
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
        DeliveryCommand::Replay {
            tenant,
            endpoint,
            r#type,
            status,
            connection,
        } => {
            let client = connection.client()?;
            let body = given(json!({ "endpoint": endpoint, "type": r#type, "status": status }));
            let mut task = client
                .post(&Client::path(&["tenants", &tenant, "replays"])?, &body)
                .await?;
            while task["status"] == "running" {
                table::progress(&format!(
                    "resent {}, skipped {}",
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
            connection.show(&task, &["id", "status", "done", "skipped", "error"]);
        }
    }
    Ok(())
}
