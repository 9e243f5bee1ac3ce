//! Users: the people of the console.

use clap::{Subcommand, ValueEnum};
use http::Method;
use serde_json::json;

use super::resource::{Id, one};
use super::{Connection, Paging, given, with_query};
use crate::client::Client;

#[derive(Debug, Subcommand)]
pub enum UserCommand {
    /// Make a user, and print the link by which that person chooses a password
    Create {
        /// What they come in with: a mail address, a name
        name: String,
        #[arg(long, default_value = "developer")]
        role: Role,
        /// Confine them to an application; without, they reach everything
        #[arg(long)]
        application: Option<String>,
        #[command(flatten)]
        connection: Connection,
    },
    /// List users
    List {
        #[command(flatten)]
        paging: Paging,
        #[command(flatten)]
        connection: Connection,
    },
    /// Show one
    Get(Id),
    /// Give a user another role, or keep them out
    Update {
        id: String,
        #[arg(long)]
        role: Option<Role>,
        /// false keeps them out, and whoever is in is out; true lets them in again
        #[arg(long)]
        active: Option<bool>,
        #[command(flatten)]
        connection: Connection,
    },
    /// Print a link by which a user chooses another password: for one that was forgotten
    Link(Id),
    /// Delete a user: whoever is in as them is out
    Delete {
        id: String,
        #[command(flatten)]
        connection: Connection,
    },
}

/// What somebody may do.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Role {
    /// Everything
    Owner,
    /// All but users, the keys of products, and what is deleted for good
    Developer,
    /// Looks, and sees no secret
    Viewer,
}

impl Role {
    fn as_str(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Developer => "developer",
            Self::Viewer => "viewer",
        }
    }
}

const USER: &[&str] = &[
    "id",
    "name",
    "role",
    "application",
    "active",
    "passwordSince",
    "createdAt",
    "url",
];
const LINK: &[&str] = &["url", "expiresAt"];

pub async fn user(command: UserCommand) -> anyhow::Result<()> {
    match command {
        UserCommand::Create {
            name,
            role,
            application,
            connection,
        } => {
            let body = json!({ "name": name, "role": role.as_str(), "application": application });
            let made = connection.client()?.post("/v1/users", &given(body)).await?;
            connection.show(&made, USER);
        }
        UserCommand::List { paging, connection } => {
            let path = with_query("/v1/users", paging.query());
            let page = connection.client()?.get(&path).await?;
            connection.show(&page, USER);
        }
        UserCommand::Update {
            id,
            role,
            active,
            connection,
        } => {
            let body = given(json!({ "role": role.map(Role::as_str), "active": active }));
            let path = Client::path(&["users", &id])?;
            let changed = connection.client()?.patch(&path, &body).await?;
            connection.show(&changed, USER);
        }
        UserCommand::Link(id) => one(Method::POST, id, &["users"], &["links"], LINK).await?,
        UserCommand::Delete { id, connection } => {
            let path = Client::path(&["users", &id])?;
            connection.client()?.delete(&path).await?;
        }
        UserCommand::Get(id) => one(Method::GET, id, &["users"], &[], USER).await?,
    }
    Ok(())
}
