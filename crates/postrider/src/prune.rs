//! `postrider prune`: what is old goes now, or is only counted.

use postrider_core::{Id, id};
use postrider_engine::{Clock as _, SystemClock};
use postrider_service::{RetentionPace, forget_what_is_old};
use postrider_store::Pruned;
use postrider_store_sql::{SqlStore, plan};

use crate::cli::PruneArgs;
use crate::output::tell;

/// Forgets what is older than the configuration keeps it, or with `--plan` counts it, also while a server runs.
///
/// # Errors
/// When there is no database, the configuration has mistakes, or a server uses what is to be pruned.
pub(crate) async fn run(args: &PruneArgs) -> anyhow::Result<()> {
    let config = args.store.load()?;
    let (rule, directory) = (config.retention.rule(), &config.store.directory);
    let clock = SystemClock;
    if args.plan {
        let now = clock.now();
        let planned_by = rule.clone();
        let keep = move |own: &[(Id<id::Application>, u32)]| planned_by.keep(own, now);
        let planned = match config.store.postgres() {
            Some(options) => SqlStore::plan_in(options, keep).await?,
            None => plan(directory, keep)?,
        };
        tell_of("would go", planned);
        if let Some(max) = rule.max_bytes {
            tell(&format!(
                "and as long as more than retention.max_bytes ({max}) is stored, the oldest that are older than a day"
            ));
        }
        return Ok(());
    }
    anyhow::ensure!(
        !args.vacuum || config.store.url.is_none(),
        "--vacuum is for a database in a directory; PostgreSQL gives room back by itself (autovacuum)"
    );
    let store = config.store.open_existing().await?;
    let round = forget_what_is_old(&store, &clock, &rule, RetentionPace::Alone).await?;
    tell_of("are gone", round.pruned);
    if args.vacuum {
        store.vacuum().await?;
        tell("the file was written anew");
    }
    Ok(())
}

fn tell_of(what: &str, pruned: Pruned) {
    let Pruned {
        events,
        deliveries,
        notices,
        tasks,
        audit,
        endpoints,
        damaged,
    } = pruned;
    tell(&format!(
        "{events} events, {deliveries} deliveries, {notices} notifications, {tasks} tasks, {audit} entries of the audit log and {endpoints} deleted endpoints {what}"
    ));
    if damaged > 0 {
        tell("some of it is damaged, or belongs to what is, and stays: see postrider doctor");
    }
}
