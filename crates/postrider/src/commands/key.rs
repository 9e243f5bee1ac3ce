//! API keys.

use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Value, json};

use super::endpoint::{Rotation, secret_of};
use super::resource::{Id, one};
use super::{Connection, Paging, given, with_query};
use crate::client::Client;

#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Create a key: for a tenant, for an application, or (with neither) a root key
    Create(NewKey),
    /// Change a key's webhook, or turn the key off and on
    Update {
        id: String,
        #[arg(long)]
        webhook: Option<String>,
        /// true or false
        #[arg(long)]
        active: Option<bool>,
        #[command(flatten)]
        connection: Connection,
    },
    /// Give a key another text, shown once; the old one opens too for a while
    Rotate {
        id: String,
        /// How long the old text opens, such as 2h; 0s ends it now
        #[arg(long, default_value = "24h")]
        overlap: String,
        /// The answer to the last rotation was lost: only the text in it is replaced
        #[arg(long)]
        again: bool,
        #[command(flatten)]
        connection: Connection,
    },
    /// Give a key's endpoint a new signing secret
    RotateSecret(Rotation),
    /// List keys
    List {
        /// Those of this tenant
        #[arg(long)]
        tenant: Option<String>,
        #[command(flatten)]
        paging: Paging,
        #[command(flatten)]
        connection: Connection,
    },
    /// Show one
    Get(Id),
    /// Delete a key: it is refused from now on
    Delete {
        id: String,
        #[command(flatten)]
        connection: Connection,
    },
}

/// A key to be made.
#[derive(Debug, Args)]
pub struct NewKey {
    name: String,
    #[arg(long)]
    application: Option<String>,
    #[arg(long)]
    tenant: Option<String>,
    /// live or test
    #[arg(long)]
    mode: Option<String>,
    /// URL of an endpoint that a tenant's key owns
    #[arg(long)]
    webhook: Option<String>,
    /// Address or network that callers must be in; may be given again
    #[arg(long = "allowed-ip")]
    allowed_ips: Vec<String>,
    /// When it ends, such as 2027-01-31T00:00:00Z
    #[arg(long)]
    expires_at: Option<String>,
    /// It sees all but secrets, and changes and sends nothing: for dashboards and metrics
    #[arg(long)]
    read_only: bool,
    /// The public id that a tenant's customer has already; with --key-file
    #[arg(long, requires = "key_file")]
    public_id: Option<String>,
    /// File with the text of the key that they have
    #[arg(long, value_name = "FILE", requires = "public_id")]
    key_file: Option<String>,
    /// File with the secret that signs for their webhook
    #[arg(long, value_name = "FILE", requires = "webhook")]
    secret_file: Option<String>,
    #[command(flatten)]
    connection: Connection,
}

impl NewKey {
    async fn create(self) -> anyhow::Result<()> {
        let body = given(json!({
            "name": self.name,
            "application": self.application,
            "tenant": self.tenant,
            "mode": self.mode,
            "webhook": self.webhook,
            "allowedIps": self.allowed_ips,
            "expiresAt": self.expires_at,
            "readOnly": self.read_only,
            "publicId": self.public_id,
            "key": self.key_file.as_deref().map(secret_of).transpose()?,
            "secret": self.secret_file.as_deref().map(secret_of).transpose()?,
        }));
        post(&self.connection, &[], &body, KEY).await
    }
}

const KEY: &[&str] = &[
    "id",
    "name",
    "scope",
    "mode",
    "publicId",
    "active",
    "webhook",
    "expiresAt",
    "createdAt",
    "key",
    "secret",
];

pub async fn key(command: KeyCommand) -> anyhow::Result<()> {
    match command {
        KeyCommand::Create(new) => new.create().await?,
        KeyCommand::Update {
            id,
            webhook,
            active,
            connection,
        } => {
            let body = given(json!({ "webhook": webhook, "active": active }));
            let path = Client::path(&["keys", &id])?;
            let changed = connection.client()?.patch(&path, &body).await?;
            connection.show(&changed, KEY);
        }
        KeyCommand::Rotate {
            id,
            overlap,
            again,
            connection,
        } => {
            let body = json!({ "overlap": overlap, "again": again });
            let shown = &["id", "name", "previousUntil", "key"];
            post(&connection, &[&id, "rotate"], &body, shown).await?;
        }
        KeyCommand::RotateSecret(rotation) => rotation.run("keys").await?,
        KeyCommand::List {
            tenant,
            paging,
            connection,
        } => {
            let mut query = paging.query();
            query.extend(tenant.map(|id| ("tenant", id)));
            connection.show(
                &connection
                    .client()?
                    .get(&with_query("/v1/keys", query))
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
        KeyCommand::Get(id) => one(Method::GET, id, &["keys"], &[], KEY).await?,
    }
    Ok(())
}

/// Posts to a path beneath `/v1/keys`, and shows the answer.
async fn post(
    connection: &Connection,
    parts: &[&str],
    body: &Value,
    columns: &[&str],
) -> anyhow::Result<()> {
    let path = Client::path(&[&["keys"], parts].concat())?;
    let answer = connection.client()?.post(&path, body).await?;
    connection.show(&answer, columns);
    Ok(())
}
