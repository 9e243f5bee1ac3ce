//! Endpoints: where a tenant wants its events.

use clap::{Args, Subcommand};
use http::Method;
use postrider_core::json::check_json;
use serde_json::{Value, json};

use super::resource::{Change, Id, change, one, tested};
use super::{Connection, Paging, given, with_query};
use crate::client::Client;

#[derive(Debug, Subcommand)]
pub enum EndpointCommand {
    /// Create an endpoint; its signing secret is in the answer
    Create(Box<NewEndpoint>),
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
    Test(Id),
    /// Show its signing secret, where the profile shows it again
    Secret(Id),
    /// Make a new signing secret; the old one stays valid for the profile's overlap
    RotateSecret(Rotation),
    /// Count its deliveries of the last 24 hours
    Stats {
        id: String,
        #[command(flatten)]
        connection: Connection,
    },
}

#[derive(Debug, Args)]
pub struct NewEndpoint {
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
    /// Your own id of it
    #[arg(long)]
    external_id: Option<String>,
    /// live or test: it gets only events of its mode
    #[arg(long)]
    mode: Option<String>,
    /// A header of every request to it; can be given several times. @FILE as the value reads it from a file
    #[arg(long, value_name = "NAME: VALUE", value_parser = header)]
    header: Vec<(String, String)>,
    /// Deliveries per second at most
    #[arg(long)]
    rate_limit: Option<u32>,
    /// none, endpoint (one at a time, in order) or key (in order by orderingKey)
    #[arg(long)]
    ordering: Option<String>,
    /// json or form, where the profile has a choice
    #[arg(long)]
    content_type: Option<String>,
    #[command(flatten)]
    secret: SecretArgs,
    #[command(flatten)]
    connection: Connection,
}

/// What signs.
#[derive(Debug, Args)]
struct SecretArgs {
    /// File with the secret that they have already, where the profile lets its owner bring one, or by a root or application
    /// key; - is standard input
    #[arg(long, value_name = "FILE")]
    secret_file: Option<String>,
    /// An Ed25519 key, where the profile knows them
    #[arg(long)]
    asymmetric: bool,
}

impl SecretArgs {
    fn secret(&self) -> anyhow::Result<Option<String>> {
        self.secret_file.as_deref().map(secret_of).transpose()
    }

    /// None leaves it to the server.
    fn asymmetric(&self) -> Option<bool> {
        self.asymmetric.then_some(true)
    }
}

/// A new signing secret in the place of the one there is.
#[derive(Debug, Args)]
pub struct Rotation {
    id: String,
    /// How long the old secret signs too, such as 2h; 0s revokes it now [default: the profile's]
    #[arg(long)]
    overlap: Option<String>,
    #[command(flatten)]
    secret: SecretArgs,
    #[command(flatten)]
    connection: Connection,
}

impl Rotation {
    /// Of a thing of this collection.
    pub(super) async fn run(self, of: &str) -> anyhow::Result<()> {
        let body = given(json!({
            "overlap": self.overlap, "asymmetric": self.secret.asymmetric(), "secret": self.secret.secret()?,
        }));
        let path = Client::path(&[of, &self.id, "rotate-secret"])?;
        let made = self.connection.client()?.post(&path, &body).await?;
        let shown = &["secret", "publicKey", "previousValidUntil"];
        self.connection.show(&made, shown);
        Ok(())
    }
}

impl NewEndpoint {
    async fn create(self) -> anyhow::Result<()> {
        let mut headers = serde_json::Map::new();
        for (name, value) in self.header {
            let value = match value.strip_prefix('@') {
                Some(_) => super::api::read(&value)?.trim_end().to_owned(),
                None => value,
            };
            anyhow::ensure!(
                headers.insert(name.clone(), value.into()).is_none(),
                "the header {name} is given twice"
            );
        }
        let body = given(json!({
            "url": self.url,
            "events": self.events,
            "filter": self.filter,
            "description": self.description,
            "externalId": self.external_id,
            "mode": self.mode,
            "headers": (!headers.is_empty()).then_some(headers),
            "rateLimit": self.rate_limit,
            "ordering": self.ordering,
            "contentType": self.content_type,
            "secret": self.secret.secret()?,
            "asymmetric": self.secret.asymmetric(),
        }));
        let path = Client::path(&["tenants", &self.tenant, "endpoints"])?;
        let made = self.connection.client()?.post(&path, &body).await?;
        let mut shown = ENDPOINT.to_vec();
        shown.push("publicKey");
        self.connection.show(&made, &shown);
        Ok(())
    }
}

/// A secret as it is in a file, or on standard input for `-`, without the end of its line.
pub(super) fn secret_of(file: &str) -> anyhow::Result<String> {
    let from = match file {
        "-" => file.to_owned(),
        file => format!("@{file}"),
    };
    let text = super::api::read(&from)?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

fn header(text: &str) -> Result<(String, String), &'static str> {
    let (name, value) = text
        .split_once(':')
        .ok_or("must be a name and a value, such as 'x-team: a'")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
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

pub async fn endpoint(command: EndpointCommand) -> anyhow::Result<()> {
    let path = |id: &str| Client::path(&["endpoints", id]);
    match command {
        EndpointCommand::Create(new) => new.create().await?,
        EndpointCommand::Secret(id) => {
            let shown = &["secret", "publicKey"];
            one(Method::GET, id, &["endpoints"], &["secret"], shown).await?;
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
        EndpointCommand::Test(id) => tested(id, "endpoints").await?,
        EndpointCommand::RotateSecret(rotation) => rotation.run("endpoints").await?,
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
