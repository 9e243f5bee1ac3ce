//! `postrider serve` as one door to several cells: it has no store, and passes requests on.

use std::time::Duration;

use anyhow::Context as _;
use postrider_api::Tls;
use postrider_nodes::{Cells, Dialer};
use url::Url;

use super::parts::Sockets;
use super::{Asked, Running, Signals, tell_reloaded};
use crate::cli::ServeArgs;
use crate::config::{self, Config};
use crate::descriptors::Shares;
use crate::log::set_log_level;
use crate::output::tell;
use crate::supervisor;

/// More than one door should have to ask for a key.
const CELLS_MAX: usize = 128;

/// # Errors
/// When what is said of cells cannot be.
pub(super) fn check(config: &Config) -> anyhow::Result<()> {
    cells(config).map(drop)
}

/// Whether it is one.
pub(super) fn is_one(config: &Config) -> bool {
    !config.cells.urls.is_empty()
}

fn cells(config: &Config) -> anyhow::Result<Option<Cells>> {
    if !is_one(config) {
        return Ok(None);
    }
    anyhow::ensure!(
        config.store.url.is_none() && config.nodes.url.is_none(),
        "cells.urls makes this server a door to others: it has no store.url and no nodes.url"
    );
    anyhow::ensure!(
        config.cells.urls.len() <= CELLS_MAX,
        "cells.urls may name {CELLS_MAX} cells"
    );
    let read = |text: &String| {
        let parsed: Option<Url> = text.parse().ok();
        let parsed =
            parsed.filter(|url| matches!(url.scheme(), "http" | "https") && url.host().is_some());
        let bare = parsed
            .filter(|url| url.path() == "/" && url.query().is_none() && url.username().is_empty());
        bare.with_context(|| {
            format!("cells.urls has {text:?}, which must begin with http:// or https://, and name a machine and no path")
        })
    };
    let urls = config.cells.urls.iter().map(read);
    let urls = urls.collect::<anyhow::Result<Vec<Url>>>()?;
    let dialer = Dialer::new(config.cells.ca_file.as_deref()).with_context(|| {
        let path = config.cells.ca_file.clone().unwrap_or_default();
        format!("cells.ca_file {} cannot be used", path.display())
    })?;
    Ok(Some(Cells::new(urls, &dialer)))
}

/// Passes requests on until it is told to stop.
///
/// # Errors
/// When it cannot start, or its listener has ended.
pub(super) async fn run(args: &ServeArgs, config: Config) -> anyhow::Result<()> {
    let mut signals = Signals::new()?;
    let cells = cells(&config)?.context("cells.urls names no cell")?;
    let sockets = Sockets::open(&config, Shares::of(&config).connections).await?;
    let running = Running::default();
    let (url, tls) = (config.server.url(sockets.api.address()?), sockets.tls);
    let serving = sockets.api.serve(cells.router(), running.stop.clone());
    running.must("listener", serving);
    tell(&format!(
        "Postrider {} listens on {url}, and passes requests on to {} cells",
        env!("CARGO_PKG_VERSION"),
        config.cells.urls.len()
    ));
    supervisor::ready();
    let lives = supervisor::lives();
    tokio::pin!(lives);
    loop {
        tokio::select! {
            never = &mut lives => match never {},
            asked = signals.next() => match asked {
                Asked::Stop => break,
                Asked::Reload => {
                    let what = "the log's level and the server's certificate";
                    tell_reloaded(reload(args, tls.as_ref()), what);
                }
            },
            () = running.failed.cancelled() => {
                anyhow::bail!("the listener has ended; the log says why. Start it again");
            }
        }
    }
    supervisor::stopping();
    tokio::select! {
        () = running.end(Duration::from_secs(config.server.shutdown_secs)) => {}
        () = signals.stop() => {}
    }
    Ok(())
}

fn reload(args: &ServeArgs, tls: Option<&Tls>) -> anyhow::Result<()> {
    let config = config::load(args)?;
    set_log_level(&config.log)?;
    if let (Some(tls), Some(config)) = (tls, &config.server.tls) {
        tls.replace(config.read()?);
    }
    Ok(())
}
