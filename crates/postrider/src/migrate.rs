//! `postrider migrate`: brings a store to this version, or tells what that would do.

use postrider_store_sql::{Pending, SqlStore, pending};

use crate::cli::MigrateArgs;
use crate::output::tell;

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
    tell_of(&found);
    if args.plan || found.steps.is_empty() {
        return Ok(());
    }
    // Opening applies them.
    drop(config.store.open_existing().await?);
    tell("the store is of this version now");
    Ok(())
}

fn tell_of(found: &Pending) {
    let Pending {
        found,
        known,
        steps,
    } = found;
    if steps.is_empty() {
        tell(&format!(
            "the store has schema {found}, as this version: nothing is to be done"
        ));
        return;
    }
    tell(&format!(
        "the store has schema {found}, this version {known}:"
    ));
    for (number, purpose) in steps {
        tell(&format!("  {number:>3}  {purpose}"));
    }
}
