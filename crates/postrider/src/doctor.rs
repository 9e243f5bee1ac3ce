//! `postrider doctor` and `postrider restore`.

mod machine;

use postrider_store_sql::{Examined, SqlStore};

use crate::cli::{DoctorArgs, RestoreArgs};
use crate::master_key;
use crate::output::line;
use machine::Verdict;

/// Looks at the machine, then reads all that is stored and tells what cannot be read. `rebuild` first finds deliveries and
/// events anew.
///
/// # Errors
/// When the configuration has mistakes, there is no database, something is bad or cannot be read, or a server uses what is to
/// be rebuilt.
pub(crate) async fn run(args: &DoctorArgs) -> anyhow::Result<()> {
    let config = args.store.load()?;
    let data = &config.store.directory;
    if args.rebuild {
        anyhow::ensure!(
            config.store.url.is_none(),
            "--rebuild is for a database in a directory"
        );
        SqlStore::rebuild(data)?;
        line("the segments were made anew");
    }
    let checks = machine::examine(&config, &args.reach).await;
    for check in &checks {
        let (of, verdict) = (check.of, check.verdict.as_str());
        line(&format!("{verdict:<8} {of}: {}", check.detail));
    }
    let bad = checks.iter().filter(|check| check.verdict == Verdict::Bad);
    let bad = bad.count();
    if !config.cells.urls.is_empty() {
        line("this is a door to cells and stores nothing: ask each of them");
    } else if let Some(options) = config.store.postgres() {
        let is_reached = checks
            .iter()
            .all(|check| check.of != "database" || check.verdict != Verdict::Bad);
        // Whatever keeps it from being reached was told above.
        if is_reached {
            let examined = SqlStore::examine_rows(options).await?;
            let todo = "Mend the rows, or put a copy of the database beside it and compare";
            tell(&examined, todo)?;
        }
        line(
            "whether its files are whole PostgreSQL checks by itself (data checksums, pg_amcheck)",
        );
    } else {
        let examined = postrider_store_sql::examine(data)?;
        let todo = "Restore a backup beside it and compare (postrider restore)";
        tell(&examined, todo)?;
    }
    anyhow::ensure!(bad == 0, "{bad} of these keep the server from working");
    Ok(())
}

/// Tells what was found of all that is stored, and what to do.
fn tell(examined: &Examined, todo: &str) -> anyhow::Result<()> {
    let findings = &examined.findings;
    for finding in findings {
        let row = finding
            .row
            .map_or_else(String::new, |row| format!(" row {row}"));
        line(&format!("{}{row}: {}", finding.table, finding.what));
    }
    if findings.is_empty() {
        line(if examined.is_current {
            "everything that is stored can be read"
        } else {
            "its tables are those of another version, so their rows were not read; ask again when this one has taken them on (postrider migrate)"
        });
        return Ok(());
    }
    anyhow::bail!(
        "{} findings; what they name is set aside by the server. {todo}",
        findings.len()
    )
}

/// Puts a backup in the place of the database.
///
/// # Errors
/// When the configuration has mistakes or names a database, a server uses the directory, or the file is no backup.
pub(crate) fn restore(args: &RestoreArgs) -> anyhow::Result<()> {
    let config = args.store.load()?;
    anyhow::ensure!(
        config.store.url.is_none(),
        "what is stored is in the database of store.url: put a copy back with PostgreSQL's own tools (pg_restore)"
    );
    let (copy, data) = (&args.copy, &config.store.directory);
    let key = master_key::file(&config);
    let aside = postrider_store_sql::restore(copy, data)?;
    line(&format!(
        "restored {} into {}",
        copy.display(),
        data.display()
    ));
    if let Some(aside) = aside {
        line(&format!(
            "the database that was there is {}",
            aside.display()
        ));
    }
    if !key.exists() {
        line(&format!(
            "put the master key that it was made with there as {}",
            key.display()
        ));
    }
    Ok(())
}
