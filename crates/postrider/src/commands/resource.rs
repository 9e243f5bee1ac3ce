//! What is managed with the bodies that the API takes: distributions, event types, logs and long work.

use clap::{Args, Subcommand};
use http::Method;

use super::{Connection, Paging, with_query};
use crate::client::Client;

#[derive(Debug, Args)]
pub struct Id {
    pub id: String,
    #[command(flatten)]
    connection: Connection,
}

/// A list of a tenant's.
#[derive(Debug, Args)]
pub struct OfTenant {
    #[arg(long)]
    tenant: String,
    #[command(flatten)]
    paging: Paging,
    #[command(flatten)]
    connection: Connection,
}

/// A body for a tenant.
#[derive(Debug, Args)]
pub struct ForTenant {
    #[arg(long)]
    tenant: String,
    /// JSON; @FILE reads it from a file, - from standard input
    body: String,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Args)]
pub struct Change {
    id: String,
    /// What changes, as JSON; @FILE reads it from a file, - from standard input
    body: String,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Subcommand)]
pub enum DistributionCommand {
    /// Create one: name, eventName, url, events, payload
    Create(ForTenant),
    /// List a tenant's
    List(OfTenant),
    /// Show one
    Get(Id),
    /// Change one, or pause it with {"status":"paused"}
    Update(Change),
    /// Send a signed test request now
    Test(Id),
    /// Delete one
    Delete(Id),
}

const DISTRIBUTION: &[&str] = &[
    "id",
    "wireId",
    "name",
    "eventName",
    "url",
    "status",
    "pausedReason",
];

pub async fn distribution(command: DistributionCommand) -> anyhow::Result<()> {
    match command {
        DistributionCommand::Create(given) => {
            for_tenant(Method::POST, given, &["distributions"], DISTRIBUTION).await
        }
        DistributionCommand::List(given) => of_tenant(given, "distributions", DISTRIBUTION).await,
        DistributionCommand::Get(id) => {
            one(Method::GET, id, &["distributions"], &[], DISTRIBUTION).await
        }
        DistributionCommand::Update(given) => change(given, "distributions", DISTRIBUTION).await,
        DistributionCommand::Test(id) => tested(id, "distributions").await,
        DistributionCommand::Delete(id) => {
            one(Method::DELETE, id, &["distributions"], &[], &[]).await
        }
    }
}

#[derive(Debug, Subcommand)]
pub enum EventTypeCommand {
    /// Declare one, or change it: description, schema, example
    Put {
        name: String,
        #[arg(long)]
        application: String,
        /// JSON; @FILE reads it from a file, - from standard input
        #[arg(default_value = "{}")]
        body: String,
        #[command(flatten)]
        connection: Connection,
    },
    /// List an application's
    List {
        #[arg(long)]
        application: String,
        #[command(flatten)]
        connection: Connection,
    },
    /// Delete one; events of this type are not touched
    Delete(OfType),
}

#[derive(Debug, Args)]
pub struct OfType {
    name: String,
    #[arg(long)]
    application: String,
    #[command(flatten)]
    connection: Connection,
}

impl OfType {
    async fn delete(self) -> anyhow::Result<()> {
        let path = Client::path(&["applications", &self.application, "event-types", &self.name])?;
        call(&self.connection, Method::DELETE, &path, None, &[]).await
    }
}

const EVENT_TYPE: &[&str] = &["name", "description", "source", "createdAt"];

pub async fn event_type(command: EventTypeCommand) -> anyhow::Result<()> {
    match command {
        EventTypeCommand::Put {
            name,
            application,
            body,
            connection,
        } => {
            let path = Client::path(&["applications", &application, "event-types", &name])?;
            call(&connection, Method::PUT, &path, Some(&body), EVENT_TYPE).await
        }
        EventTypeCommand::List {
            application,
            connection,
        } => {
            let path = Client::path(&["applications", &application, "event-types"])?;
            call(&connection, Method::GET, &path, None, EVENT_TYPE).await
        }
        EventTypeCommand::Delete(of) => of.delete().await,
    }
}

#[derive(Debug, Args)]
pub struct AuditArgs {
    /// Changes of this tenant's things
    #[arg(long)]
    tenant: Option<String>,
    /// Changes of this thing, by its id
    #[arg(long)]
    subject: Option<String>,
    /// Such as endpoint.updated
    #[arg(long)]
    action: Option<String>,
    #[command(flatten)]
    paging: Paging,
    #[command(flatten)]
    connection: Connection,
}

pub async fn audit(args: AuditArgs) -> anyhow::Result<()> {
    let mut query = args.paging.query();
    query.extend(args.tenant.map(|id| ("tenant", id)));
    query.extend(args.subject.map(|id| ("subject", id)));
    query.extend(args.action.map(|name| ("action", name)));
    let path = with_query("/v1/audit", query);
    let columns = &["at", "actor", "action", "subject"];
    call(&args.connection, Method::GET, &path, None, columns).await
}

#[derive(Debug, Subcommand)]
pub enum NotificationCommand {
    /// List a tenant's notices of failures
    List(OfTenant),
    /// Mark them as read up to one: {"upTo":"…"}
    Read(ForTenant),
}

pub async fn notification(command: NotificationCommand) -> anyhow::Result<()> {
    match command {
        NotificationCommand::List(given) => {
            let columns = &["id", "type", "eventType", "url", "error", "at", "readAt"];
            of_tenant(given, "notifications", columns).await
        }
        NotificationCommand::Read(given) => {
            for_tenant(Method::POST, given, &["notifications", "read"], &["read"]).await
        }
    }
}

#[derive(Debug, Subcommand)]
pub enum SendOutCommand {
    /// List a tenant's webhooks as they were sent
    List(OfTenant),
    /// Show one whole
    Get(Id),
    /// Send one again
    Retry(Id),
}

const SEND_OUT: &[&str] = &[
    "delivery",
    "type",
    "status",
    "targetUrl",
    "attempts",
    "executedAt",
    "reason",
];

pub async fn send_out(command: SendOutCommand) -> anyhow::Result<()> {
    match command {
        SendOutCommand::List(given) => of_tenant(given, "send-outs", SEND_OUT).await,
        SendOutCommand::Get(id) => one(Method::GET, id, &["send-outs"], &[], SEND_OUT).await,
        SendOutCommand::Retry(id) => {
            one(Method::POST, id, &["send-outs"], &["retry"], SEND_OUT).await
        }
    }
}

#[derive(Debug, Subcommand)]
pub enum ReplayCommand {
    /// List a tenant's replays; `postrider delivery replay` begins one
    List(OfTenant),
    /// Show how far one is
    Get(Id),
    /// Stop one; what it has sent stays sent
    Cancel(Id),
}

const REPLAY: &[&str] = &[
    "id",
    "status",
    "total",
    "done",
    "skipped",
    "error",
    "createdAt",
];

pub async fn replay(command: ReplayCommand) -> anyhow::Result<()> {
    match command {
        ReplayCommand::List(given) => of_tenant(given, "replays", REPLAY).await,
        ReplayCommand::Get(id) => one(Method::GET, id, &["replays"], &[], REPLAY).await,
        ReplayCommand::Cancel(id) => one(Method::POST, id, &["replays"], &["cancel"], REPLAY).await,
    }
}

#[derive(Debug, Subcommand)]
pub enum DeletionCommand {
    /// Show how far the deletion of a tenant or an application is
    Get(Id),
}

pub async fn deletion(command: DeletionCommand) -> anyhow::Result<()> {
    let DeletionCommand::Get(id) = command;
    one(Method::GET, id, &["deletions"], &[], super::DELETION).await
}

/// One thing, or an act on it.
pub(super) async fn one(
    method: Method,
    id: Id,
    before: &[&str],
    after: &[&str],
    columns: &[&str],
) -> anyhow::Result<()> {
    let path = Client::path(&[before, &[id.id.as_str()], after].concat())?;
    call(&id.connection, method, &path, None, columns).await
}

/// A test call; fails where the receiver did not take it.
pub(super) async fn tested(id: Id, of: &str) -> anyhow::Result<()> {
    let path = Client::path(&[of, &id.id, "test"])?;
    let result = id.connection.client()?;
    let result = result.post(&path, &serde_json::json!({})).await?;
    let shown = &["success", "statusCode", "responseTime", "message", "error"];
    id.connection.show(&result, shown);
    anyhow::ensure!(
        result["success"] == true,
        "the endpoint did not accept the test"
    );
    Ok(())
}

pub(super) async fn change(given: Change, of: &str, columns: &[&str]) -> anyhow::Result<()> {
    let path = Client::path(&[of, &given.id])?;
    call(
        &given.connection,
        Method::PATCH,
        &path,
        Some(&given.body),
        columns,
    )
    .await
}

pub(super) async fn for_tenant(
    method: Method,
    given: ForTenant,
    after: &[&str],
    columns: &[&str],
) -> anyhow::Result<()> {
    let path = Client::path(&[&["tenants", given.tenant.as_str()], after].concat())?;
    let body = super::api::read(&given.body)?;
    let answer = given.connection.client()?;
    let answer = answer.call(method, &path, Some(body)).await?;
    given.connection.show(&answer, columns);
    // A batch is taken as far as it can be, and each that was refused says so in its row.
    let rows = answer["data"].as_array();
    let refused = rows.map_or(0, |rows| {
        rows.iter().filter(|row| !row["code"].is_null()).count()
    });
    anyhow::ensure!(
        refused == 0,
        "{refused} were refused, for what their rows say; the others are accepted"
    );
    Ok(())
}

async fn of_tenant(given: OfTenant, what: &str, columns: &[&str]) -> anyhow::Result<()> {
    let path = Client::path(&["tenants", &given.tenant, what])?;
    let path = with_query(&path, given.paging.query());
    call(&given.connection, Method::GET, &path, None, columns).await
}

async fn call(
    connection: &Connection,
    method: Method,
    path: &str,
    body: Option<&str>,
    columns: &[&str],
) -> anyhow::Result<()> {
    let body = body.map(super::api::read).transpose()?;
    let answer = connection.client()?.call(method, path, body).await?;
    if !answer.is_null() {
        connection.show(&answer, columns);
    }
    Ok(())
}
