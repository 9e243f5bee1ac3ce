//! Tenants: the customers of an application.

use clap::{Args, Subcommand};
use http::Method;
use serde_json::json;

use super::endpoint::secret_of;
use super::resource::{Change, Id, change, one};
use super::{Connection, DELETION, Paging, given, with_query};
use crate::client::Client;

#[derive(Debug, Subcommand)]
pub enum TenantCommand {
    /// Create a tenant
    Create(NewTenant),
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
    /// Show one
    Get(Id),
    /// Change one; `docs/api.md` has the members
    Update(Change),
    /// Make a link that lets one of its people into the portal once
    PortalLink {
        id: String,
        /// Who comes, for the audit log
        #[arg(long)]
        name: Option<String>,
        /// They look, and change nothing
        #[arg(long)]
        read_only: bool,
        /// Seconds after which the link, and what it opened, end
        #[arg(long, value_name = "SECONDS")]
        lasts: Option<u64>,
        /// An origin whose pages may have the portal in a frame; can be given several times
        #[arg(long, value_name = "ORIGIN")]
        frame_origin: Vec<String>,
        #[command(flatten)]
        connection: Connection,
    },
    /// End a link into the portal, with what it opened, by the link's id
    EndPortalLink(Id),
    /// Count its deliveries by type, mode and endpoint
    Statistics(Id),
    /// Show its secret of a mode, where the profile has one for all endpoints and shows it again
    Secret(OfMode),
    /// Make its secret of a mode anew; the old one ends at once
    RotateSecret(OfMode),
    /// Delete a tenant with its endpoints, keys, events, deliveries and log; they are erased in the background
    Delete {
        id: String,
        #[command(flatten)]
        connection: Connection,
    },
}

/// A tenant to be made.
#[derive(Debug, Args)]
pub struct NewTenant {
    name: String,
    #[arg(long)]
    application: String,
    /// Your own id of this customer
    #[arg(long)]
    external_id: Option<String>,
    /// File with the secret of live endpoints that its customer has already, where the profile has one for all
    #[arg(long, value_name = "FILE")]
    secret_file: Option<String>,
    /// The same of test endpoints
    #[arg(long, value_name = "FILE")]
    test_secret_file: Option<String>,
    #[command(flatten)]
    connection: Connection,
}

impl NewTenant {
    async fn create(self) -> anyhow::Result<()> {
        let body = given(json!({
            "name": self.name,
            "externalId": self.external_id,
            "secret": self.secret_file.as_deref().map(secret_of).transpose()?,
            "testSecret": self.test_secret_file.as_deref().map(secret_of).transpose()?,
        }));
        let path = Client::path(&["applications", &self.application, "tenants"])?;
        let made = self.connection.client()?.post(&path, &body).await?;
        self.connection.show(&made, MADE);
        Ok(())
    }
}

/// A tenant's secret.
#[derive(Debug, Args)]
pub struct OfMode {
    id: String,
    /// live or test
    #[arg(long, default_value = "live")]
    mode: String,
    #[command(flatten)]
    connection: Connection,
}

impl OfMode {
    async fn show(self) -> anyhow::Result<()> {
        let path = Client::path(&["tenants", &self.id, "secret"])?;
        let path = with_query(&path, vec![("mode", self.mode)]);
        let secret = self.connection.client()?.get(&path).await?;
        self.connection.show(&secret, SECRET);
        Ok(())
    }

    async fn rotate(self) -> anyhow::Result<()> {
        let path = Client::path(&["tenants", &self.id, "rotate-secret"])?;
        let body = json!({ "mode": self.mode });
        let made = self.connection.client()?.post(&path, &body).await?;
        self.connection.show(&made, SECRET);
        Ok(())
    }
}

const SECRET: &[&str] = &["mode", "secret"];
const TENANT: &[&str] = &["id", "name", "externalId", "createdAt"];
const STATISTICS: &[&str] = &["since", "until", "totals", "moreEndpoints"];
const PORTAL_LINK: &[&str] = &["id", "url", "name", "readOnly", "expiresAt"];
/// The answer that made it, which alone has its secrets.
const MADE: &[&str] = &[
    "id",
    "name",
    "externalId",
    "createdAt",
    "secret",
    "testSecret",
];

pub async fn tenant(command: TenantCommand) -> anyhow::Result<()> {
    match command {
        TenantCommand::Create(new) => new.create().await?,
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
        TenantCommand::Delete { id, connection } => {
            let path = Client::path(&["tenants", &id])?;
            let deletion = connection.client()?.delete(&path).await?;
            connection.show(&deletion, DELETION);
        }
        TenantCommand::PortalLink {
            id,
            name,
            read_only,
            lasts,
            frame_origin,
            connection,
        } => {
            let body = given(json!({
                "name": name, "readOnly": read_only, "lastsSecs": lasts, "frameOrigins": frame_origin,
            }));
            let path = Client::path(&["tenants", &id, "portal-links"])?;
            let made = connection.client()?.post(&path, &body).await?;
            connection.show(&made, PORTAL_LINK);
        }
        TenantCommand::Get(id) => one(Method::GET, id, &["tenants"], &[], TENANT).await?,
        TenantCommand::Update(given) => change(given, "tenants", TENANT).await?,
        TenantCommand::EndPortalLink(id) => {
            one(Method::DELETE, id, &["portal-links"], &[], &[]).await?;
        }
        TenantCommand::Secret(of) => of.show().await?,
        TenantCommand::RotateSecret(of) => of.rotate().await?,
        TenantCommand::Statistics(id) => {
            one(Method::GET, id, &["tenants"], &["statistics"], STATISTICS).await?;
        }
    }
    Ok(())
}
