//! `postrider backup`.

use std::cell::Cell;
use std::io::IsTerminal;

use crate::cli::BackupArgs;
use crate::master_key;

/// Copies the database, showing progress on a terminal.
///
/// # Errors
/// When there is no database, it is one of PostgreSQL, or the target cannot be written.
pub fn run(args: &BackupArgs) -> anyhow::Result<()> {
    let config = args.store.load()?;
    anyhow::ensure!(
        config.store.url.is_none(),
        "what is stored is in the database of store.url: copy that with PostgreSQL's own tools (pg_dump, pg_basebackup)"
    );
    let (data, target) = (&config.store.directory, &args.target);
    let terminal = std::io::stderr().is_terminal();
    let pages = Cell::new(0);
    postrider_store_sql::backup(data, target, |left, all| {
        pages.set(all);
        if terminal && all > 0 {
            #[expect(
                clippy::print_stderr,
                reason = "progress is for the person at the terminal"
            )]
            {
                eprint!("\r{:3} % of {all} pages", (all - left) * 100 / all);
            }
        }
    })?;
    #[expect(
        clippy::print_stderr,
        reason = "the result is for the person at the terminal"
    )]
    {
        eprintln!("\rcopied {} pages to {}", pages.get(), target.display());
        eprintln!(
            "The master key is not in it: keep {} in another safe place.",
            master_key::file(&config).display()
        );
    }
    Ok(())
}
