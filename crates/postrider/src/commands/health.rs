//! Whether a server accepts events: for container engines, which ask by a command.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::bail;
use http::Method;
use postrider_core::Secret;

use super::Address;
use crate::cli::ServeArgs;
use crate::client::Client;
use crate::config::{self, ServerConfig};
use crate::output::line;

/// Tells that a server is ready, as its exit code. Without an address it is the one that the configuration here is of:
/// so a container asks its own, wherever that listens and whatever its certificate is called.
///
/// # Errors
/// When it cannot be reached, or accepts nothing: with why.
pub async fn health(address: &Address) -> anyhow::Result<()> {
    let client = if address.is_given() {
        address.client(Secret::new(""))?
    } else {
        of_here(&config::load(&ServeArgs::here())?.server)?.within(address.timeout())
    };
    let answer = client.ask(Method::GET, "/ready", None).await?;
    if !answer.status.is_success() {
        let detail = answer.body["detail"].as_str().unwrap_or("no reason given");
        bail!("not ready ({}): {detail}", answer.status);
    }
    line("ready");
    Ok(())
}

/// The server of this machine that has this configuration.
fn of_here(server: &ServerConfig) -> anyhow::Result<Client> {
    let ip = match server.listen.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    let address = SocketAddr::new(ip, server.listen.port());
    let scheme = if server.tls.is_some() {
        "https"
    } else {
        "http"
    };
    Client::own(&format!("{scheme}://{address}"))
}
