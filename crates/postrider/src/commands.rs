//! The commands that manage a running server over its API: tables for people, `--json` for programs.

mod api;
mod application;
mod console;
mod delivery;
mod endpoint;
mod event;
mod health;
mod import_svix;
mod key;
mod resource;
mod table;
mod tenant;
mod top;
mod user;

pub use api::{ApiArgs, api};
pub use application::{ApplicationCommand, application};
pub use console::console;
pub use delivery::{DeliveryCommand, delivery};
pub use endpoint::{EndpointCommand, endpoint};
pub use event::{EventCommand, event};
pub use health::health;
pub use import_svix::{ImportSvixArgs, import_svix};
pub use key::{KeyCommand, key};
pub use resource::{
    AuditArgs, DeletionCommand, DistributionCommand, EventTypeCommand, NotificationCommand,
    ReplayCommand, SendOutCommand, audit, deletion, distribution, event_type, notification, replay,
    send_out,
};
pub use tenant::{TenantCommand, tenant};
pub use top::{TopArgs, top};
pub use user::{UserCommand, user};

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use postrider_core::Secret;
use serde_json::Value;

use crate::client::Client;
use table::show;

/// Where commands look for a server that nobody named.
const SERVER_DEFAULT: &str = "http://127.0.0.1:8080";

/// Which server.
#[derive(Debug, Args)]
pub struct Address {
    /// The server's URL [default: http://127.0.0.1:8080]
    #[arg(
        id = "server",
        long = "server",
        value_name = "URL",
        env = "POSTRIDER_URL"
    )]
    url: Option<String>,
    /// PEM file with the authorities that may have signed the server's certificate; none is those of the web
    #[arg(long, value_name = "FILE", env = "POSTRIDER_CA")]
    ca: Option<PathBuf>,
    /// Seconds to wait for an answer
    #[arg(
        long,
        value_name = "SECONDS",
        env = "POSTRIDER_TIMEOUT",
        default_value_t = 60,
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    timeout: u32,
}

impl Address {
    /// Whether a server is named; otherwise one of this machine is meant.
    fn is_given(&self) -> bool {
        self.named().is_some()
    }

    fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout.into())
    }

    fn named(&self) -> Option<&str> {
        // An empty variable is none.
        self.url.as_deref().filter(|url| !url.is_empty())
    }

    fn client(&self, key: Secret) -> anyhow::Result<Client> {
        let client = Client::new(self.named().unwrap_or(SERVER_DEFAULT), key)?;
        let client = client.within(self.timeout());
        // An empty variable is none.
        match self.ca.as_ref().filter(|ca| !ca.as_os_str().is_empty()) {
            Some(authorities) => client.trusting(authorities),
            None => Ok(client),
        }
    }
}

/// Which server, and how to answer.
#[derive(Debug, Args)]
pub struct Connection {
    #[command(flatten)]
    address: Address,
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
        self.address.client(Secret::new(key))
    }

    fn show(&self, value: &Value, columns: &[&str]) {
        show(value, columns, self.json);
    }
}

/// How far a deletion is: GET /v1/deletions/{id} shows it again.
const DELETION: &[&str] = &["id", "status", "erased", "createdAt"];

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
