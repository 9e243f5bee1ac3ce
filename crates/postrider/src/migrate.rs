//! `postrider migrate`: brings a store to this version, or tells what that would do.

use postrider_store_sql::{Pending, SqlStore, pending};

use crate::cli::MigrateArgs;
use crate::output::line;

/// Tells which migrations a store lacks, also while a server of an older version runs, and without `--plan` applies them.
///
/// # Errors
/// When there is no store, it is of a newer version, or a server uses what is to be changed.
pub(crate) async fn run(args: &MigrateArgs) -> anyhow::Result<()> {
    let config = args.store.load()?;
    let found = match config.store.postgres() {
        Some(options) => SqlStore::pending_in(options).await?,
        None => pending(&config.store.directory)?,
    };
    tell(&found);
    if args.plan || found.steps.is_empty() {
        return Ok(());
    }
    // Opening applies them.
    drop(config.store.open_existing().await?);
    line("the store is of this version now");
    Ok(())
}

fn tell(found: &Pending) {
    let Pending {
        found,
        known,
        steps,
    } = found;
    if steps.is_empty() {
        line(&format!(
            "the store has schema {found}, as this version: nothing is to be done"
        ));
        return;
    }
    line(&format!(
        "the store has schema {found}, this version {known}:"
    ));
    for (number, purpose) in steps {
        line(&format!("  {number:>3}  {purpose}"));
    }
}
