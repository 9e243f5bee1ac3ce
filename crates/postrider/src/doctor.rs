//! `postrider doctor` and `postrider restore`.

use std::path::Path;

use crate::output::line;

/// Reads all that is stored and tells what cannot be read. `rebuild` first finds deliveries and events anew.
///
/// # Errors
/// When there is no database, something in it cannot be read, or a server uses what is to be rebuilt.
pub fn run(data: &Path, rebuild: bool) -> anyhow::Result<()> {
    if rebuild {
        postrider_store_sql::SqlStore::rebuild(data)?;
        line("the segments were made anew");
    }
    let findings = postrider_store_sql::examine(data)?;
    for finding in &findings {
        let row = finding
            .row
            .map_or_else(String::new, |row| format!(" row {row}"));
        line(&format!("{}{row}: {}", finding.table, finding.what));
    }
    if findings.is_empty() {
        line("everything that is stored can be read");
        return Ok(());
    }
    anyhow::bail!(
        "{} findings; what they name is set aside by the server. Restore a backup beside it and compare (postrider restore)",
        findings.len()
    )
}

/// Puts a backup in the place of the database.
///
/// # Errors
/// When a server uses the directory, or the file is no backup.
pub fn restore(copy: &Path, data: &Path) -> anyhow::Result<()> {
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
    if !data.join("master.key").exists() {
        line(&format!(
            "put the master key beside it as {}, unless secrets.master_key_file names another place",
            data.join("master.key").display()
        ));
    }
    Ok(())
}
