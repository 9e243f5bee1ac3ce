//! API keys.

use clap::Subcommand;
use serde_json::json;

use super::{Connection, Paging, given, with_query};
use crate::client::Client;

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
