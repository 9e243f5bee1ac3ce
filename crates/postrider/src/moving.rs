//! `postrider import` and `postrider export`: from a directory into PostgreSQL, and back.

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};
use postrider_store_sql::{Progress, export, import};

use crate::cli::StoreArgs;
use crate::config::Config;
use crate::output::line;

/// Copies the store in the data directory into the database of `store.url`.
///
/// # Errors
/// When a server uses either, there is nothing to move, or the database has another store.
pub(crate) async fn run_import(args: &StoreArgs) -> anyhow::Result<()> {
    let config = args.load()?;
    let (directory, into) = (&config.store.directory, target(&config)?);
    let rows = import(directory, into, shown()).await?;
    let (from, key) = (directory.display(), directory.join("master.key"));
    line(&format!(
        "{rows} rows are in the database, counted table by table. Start the server with the same configuration."
    ));
    line(&format!(
        "What is in {from} stays as it is: keep it as a copy, and start no server on it without store.url, which would send everything again."
    ));
    line(&format!(
        "The master key moves by hand, to each machine that runs a server: {}, or secrets.master_key_file.",
        key.display()
    ));
    Ok(())
}

/// Copies the store in the database of `store.url` into the data directory.
///
/// # Errors
/// When a server uses either, there is nothing to move, or the directory has another store.
pub(crate) async fn run_export(args: &StoreArgs) -> anyhow::Result<()> {
    let config = args.load()?;
    let (directory, from) = (&config.store.directory, target(&config)?);
    let rows = export(from, directory, shown()).await?;
    let to = directory.display();
    line(&format!(
        "{rows} rows are in {to}, counted table by table. Start the server with store.directory = \"{to}\", and without store.url."
    ));
    line(
        "The database stays as it is: start no server on it any more, which would send everything again.",
    );
    Ok(())
}

fn target(config: &Config) -> anyhow::Result<postrider_store_sql::PostgresOptions> {
    let options = config.store.postgres();
    options.context("store.url is not set: name the database, in the file of --config or as POSTRIDER__STORE__URL=postgres://user@host/database")
}

/// A bar for each table, for a person at the terminal; elsewhere nothing of it is seen.
fn shown() -> impl FnMut(Progress<'_>) + Send + 'static {
    let style = ProgressStyle::with_template("{msg:>20} {wide_bar} {pos}/{len} {per_sec}");
    let bar = ProgressBar::no_length().with_style(style.expect("a fixed template is right"));
    move |progress| {
        bar.set_message(progress.table.to_owned());
        bar.set_length(progress.all);
        bar.set_position(progress.done);
    }
}
