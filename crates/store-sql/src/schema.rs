//! Which migrations a store lacks, told before anything is done.

use std::path::Path;

use crate::postgres::{self, PostgresOptions};
use crate::sqlite::open;
use crate::{OpenError, SqlStore};

/// What brings a store to this version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    /// The number of the last migration that was applied; 0 of an empty database.
    pub found: i64,
    /// The number of the last one that there is.
    pub known: usize,
    /// Those that are left, each with what it is for.
    pub steps: Vec<(usize, String)>,
}

impl Pending {
    fn of(found: i64, migrations: &[&str]) -> Self {
        let done = usize::try_from(found).unwrap_or(0);
        let left = migrations.iter().enumerate().skip(done);
        Self {
            found,
            known: migrations.len(),
            steps: left.map(|(at, sql)| (at + 1, purpose(sql))).collect(),
        }
    }
}

/// The sentence that a migration begins with.
fn purpose(sql: &str) -> String {
    let comment = sql.lines().map_while(|line| line.strip_prefix("--"));
    let text: Vec<&str> = comment.map(str::trim).collect();
    let text = text.join(" ");
    match text.split_once(". ") {
        Some((first, _)) => format!("{first}."),
        None => text,
    }
}

/// What the store in `directory` lacks; a server may be running.
///
/// # Errors
/// When there is no database, it is not ours, or a newer version has written it.
pub fn pending(directory: &Path) -> Result<Pending, OpenError> {
    let file = directory.join(open::FILE);
    open::must_be_ours(&file)?;
    let wrap = |source| OpenError::from_sqlite(&file, source);
    // What a newer version wrote was refused just before.
    let connection = open::open_reader(&file).map_err(wrap)?;
    let found = connection.pragma_query_value(None, "user_version", |row| row.get(0));
    Ok(Pending::of(found.map_err(wrap)?, open::MIGRATIONS))
}

impl SqlStore {
    /// What a database lacks; a server may be running.
    ///
    /// # Errors
    /// When it cannot be reached or read, or a newer version has written it.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub async fn pending_in(options: PostgresOptions) -> Result<Pending, OpenError> {
        let look = move || {
            let (name, found) = postgres::found(&options)?;
            let pending = Pending::of(found, postgres::MIGRATIONS);
            if usize::try_from(found).is_ok_and(|found| found > pending.known) {
                return Err(OpenError::NewerDatabase {
                    name,
                    found,
                    known: pending.known,
                });
            }
            Ok(pending)
        };
        let looked = tokio::task::spawn_blocking(look).await;
        looked.unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_migration_says_what_it_is_for() {
        for migrations in [open::MIGRATIONS, postgres::MIGRATIONS] {
            for (number, told) in Pending::of(0, migrations).steps {
                assert!(
                    told.ends_with('.') && told.len() < 200,
                    "{number}: {told:?}"
                );
            }
        }
        assert_eq!(
            Pending::of(1, &["-- One.", "-- Two,\n-- in two lines. And more."]).steps,
            [(2, "Two, in two lines.".to_owned())]
        );
    }
}
