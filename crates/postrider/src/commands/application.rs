//! Applications: the products that send webhooks.

use clap::Subcommand;
use http::Method;
use serde_json::json;

use super::resource::{Change, Id, change, one};
use super::{Connection, DELETION, Paging, with_query};
use crate::client::Client;

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
    /// Show one
    Get(Id),
    /// Change one; `docs/api.md` has the members
    Update(Change),
    /// Delete an application with its tenants and all that they have; they are erased in the background
    Delete {
        id: String,
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
        ApplicationCommand::Delete { id, connection } => {
            let path = Client::path(&["applications", &id])?;
            let deletion = connection.client()?.delete(&path).await?;
            connection.show(&deletion, DELETION);
        }
        ApplicationCommand::Get(id) => {
            one(Method::GET, id, &["applications"], &[], APPLICATION).await?
        }
        ApplicationCommand::Update(given) => change(given, "applications", APPLICATION).await?,
    }
    Ok(())
}
