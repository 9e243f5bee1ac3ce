//! Moving everything from a directory into a database of a server, or back.
//!
//! Both have the same tables, so rows are copied as they are, in the order of their keys, and keep their ids. What was
//! broken off goes on where it was: the target says that it is being filled until all is there and counted, and no
//! server opens it meanwhile.

use std::path::Path;

use crate::postgres::{self, PostgresOptions};
use crate::sql::{
    Connection, Optional as _, Params, Row, SqlError, SqlResult, Value, ValueRef, params,
};
use crate::sqlite::open::{self, DataDirectory, Mark};
use crate::{OpenError, is_being_filled};

/// Rows, and bytes of them, in one transaction.
const ROWS_AT_ONCE: u64 = 5_000;
const BYTES_AT_ONCE: usize = 32 * 1_024 * 1_024;
/// What each store keeps for itself.
const OWN: &[&str] = &[
    "schema",
    "epoch",
    "mark",
    "filling",
    "filled_from",
    "moved",
    "leader",
    "beat",
];

/// How far a table is.
#[derive(Debug, Clone, Copy)]
pub struct Progress<'t> {
    pub table: &'t str,
    pub done: u64,
    pub all: u64,
}

/// Copies the store of a stopped server in `directory` into a database, which must be empty, or have a part of this very
/// copy. Returns how many rows there are.
///
/// # Errors
/// When a server uses either, the database is another store's, or what was copied does not count up.
///
/// # Panics
/// Where `progress` does; what was copied until then stays.
pub async fn import(
    directory: &Path,
    into: PostgresOptions,
    mut progress: impl FnMut(Progress<'_>) + Send + 'static,
) -> Result<u64, OpenError> {
    let directory = directory.to_owned();
    apart(move || import_now(&directory, &into, &mut progress)).await
}

/// Does on a thread of its own what waits for databases.
async fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic()))
}

fn import_now(
    directory: &Path,
    into: &PostgresOptions,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<u64, OpenError> {
    let file = directory.join(open::FILE);
    open::must_be_ours(&file)?;
    let target = postgres::own(into)?;
    let to = End {
        name: target.name,
        connection: target.connection,
    };
    let owned = DataDirectory::claim(directory, false)?;
    let from = End {
        name: file.display().to_string(),
        connection: Connection::Sqlite(open::open_writer(&owned.file, None)?),
    };
    let tables = tables(&from.connection).map_err(|error| from.error(error))?;
    let rows = copy(&from, &to, &tables, progress)?;
    postgres::look_at_tables(
        &to.connection,
        tables.iter().map(|table| table.name.as_str()),
    );
    Ok(rows)
}

/// Copies the store of a stopped server from its database into `directory`, which must have none, or a part of this very
/// copy. Returns how many rows there are.
///
/// # Errors
/// When a server uses either, the directory has another store, or what was copied does not count up.
///
/// # Panics
/// As [`import`].
pub async fn export(
    from: PostgresOptions,
    directory: &Path,
    mut progress: impl FnMut(Progress<'_>) + Send + 'static,
) -> Result<u64, OpenError> {
    let directory = directory.to_owned();
    apart(move || export_now(&from, &directory, &mut progress)).await
}

fn export_now(
    from: &PostgresOptions,
    directory: &Path,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<u64, OpenError> {
    let options = PostgresOptions {
        must_exist: true,
        ..from.clone()
    };
    let source = postgres::own(&options)?;
    let from = End {
        name: source.name,
        connection: source.connection,
    };
    // `copy` asks too; here it is before publishers are turned away.
    must_be_whole(&from)?;
    postgres::take_no_more(&from.connection).map_err(|error| from.error(error))?;
    // The master key may lie there already.
    let owned = DataDirectory::claim(directory, true)?;
    let to = End {
        name: owned.file.display().to_string(),
        connection: Connection::Sqlite(open::open_writer(&owned.file, None)?),
    };
    let tables = tables(&to.connection).map_err(|error| to.error(error))?;
    let copied = copy(&from, &to, &tables, progress)?;
    owned.hand_over(directory)?;
    Ok(copied)
}

/// One of the two stores.
struct End {
    name: String,
    connection: Connection,
}

impl End {
    fn error(&self, source: SqlError) -> OpenError {
        OpenError::Database {
            name: self.name.clone(),
            source,
        }
    }
}

impl Drop for End {
    /// What was opened is closed as a server closes it, however this ends.
    fn drop(&mut self) {
        if let Some(connection) = self.connection.sqlite()
            && let Err(error) = open::set_mark(connection, Mark::Closed)
        {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "failed to note that the store was closed"
            );
        }
    }
}

struct Table {
    name: String,
    columns: Vec<String>,
    /// The columns that tell rows apart, in their order.
    key: Vec<String>,
    /// Both databases have them in the same order.
    is_key_numbers: bool,
}

/// All tables but `meta`, as SQLite describes them.
fn tables(sqlite: &Connection) -> SqlResult<Vec<Table>> {
    // What a row refers to comes first.
    let sql = "select name from sqlite_master where type = 'table' and name not like 'sqlite_%' and name <> 'meta'
               order by exists (select 1 from pragma_foreign_key_list(sqlite_master.name)), name";
    let mut statement = sqlite.prepare_cached(sql)?;
    let names: Vec<String> = statement.query_all((), |row| row.get(0))?;
    let table = |name: String| {
        let sql = "select name, type, pk from pragma_table_info(?1) order by cid";
        let mut statement = sqlite.prepare_cached(sql)?;
        let row = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
        let columns: Vec<(String, String, u32)> = statement.query_all([&name], row)?;
        let mut key: Vec<_> = columns.iter().filter(|(_, _, place)| *place > 0).collect();
        key.sort_by_key(|(_, _, place)| *place);
        Ok(Table {
            is_key_numbers: key
                .iter()
                .all(|(_, kind, _)| kind.eq_ignore_ascii_case("integer")),
            key: key.iter().map(|(name, _, _)| name.clone()).collect(),
            columns: columns.iter().map(|(name, _, _)| name.clone()).collect(),
            name,
        })
    };
    names.into_iter().map(table).collect()
}

fn copy(
    from: &End,
    to: &End,
    tables: &[Table],
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<u64, OpenError> {
    must_be_whole(from)?;
    let wrap = |error| from.error(error);
    let salt = number(&from.connection, "salt").map_err(wrap)?;
    // Each server that begins or ends notes how far its time has come.
    let moment = number(&from.connection, "steady").map_err(wrap)?;
    begin(to, salt, moment.unwrap_or_default(), tables)?;
    let mut rows = 0;
    for table in tables {
        rows += table.copy(from, to, progress)?;
    }
    if to.connection.is_remote() {
        // Before the target is said to be whole: a server may open it at once, and gives numbers.
        postgres::count_on(&to.connection).map_err(|error| to.error(error))?;
    }
    finish(from, to)?;
    Ok(rows)
}

fn must_be_whole(from: &End) -> Result<(), OpenError> {
    if is_being_filled(&from.connection).map_err(|error| from.error(error))? {
        return Err(OpenError::Unfinished {
            name: from.name.clone(),
        });
    }
    Ok(())
}

fn number(connection: &Connection, key: &str) -> SqlResult<Option<i64>> {
    let mut statement = connection.prepare_cached("select value from meta where key = ?1")?;
    statement.query_row([key], |row| row.get(0)).optional()
}

/// Notes in the target what is about to fill it, unless another store is there.
fn begin(to: &End, salt: Option<i64>, moment: i64, tables: &[Table]) -> Result<(), OpenError> {
    let wrap = |error| to.error(error);
    let filling = number(&to.connection, "filling").map_err(wrap)?;
    if filling.is_some() && filling == salt {
        // What has changed since would be missing in what is there already.
        if number(&to.connection, "filled_from").map_err(wrap)? != Some(moment) {
            return Err(OpenError::Changed {
                name: to.name.clone(),
            });
        }
        return Ok(());
    }
    let mut is_used = filling.is_some() || number(&to.connection, "salt").map_err(wrap)?.is_some();
    for table in tables {
        is_used = is_used || count(&to.connection, &table.name).map_err(wrap)? > 0;
    }
    if is_used {
        return Err(OpenError::NotEmpty {
            name: to.name.clone(),
        });
    }
    let note = |key: &str, value: i64| {
        let sql = "insert into meta (key, value) values (?1, ?2) on conflict (key) do update set value = excluded.value";
        let noted = to.connection.execute(sql, params![key, value]);
        noted.map(drop).map_err(wrap)
    };
    // In this order: whoever finds that it is being filled must know since when.
    note("filled_from", moment)?;
    note("filling", salt.unwrap_or_default())
}

/// What both stores have in common goes with the sign that all is there.
fn finish(from: &End, to: &End) -> Result<(), OpenError> {
    let sql = "select key, value from meta order by key";
    let read = from
        .connection
        .prepare_cached(sql)
        .and_then(|mut statement| statement.query_all((), |row| Ok((row.get(0)?, row.get(1)?))));
    let kept: Vec<(String, i64)> = read.map_err(|error| from.error(error))?;
    let kept = kept.iter().filter(|(key, _)| !OWN.contains(&key.as_str()));
    let write = || {
        to.connection.begin()?;
        let sql = "insert into meta (key, value) values (?1, ?2) on conflict (key) do update set value = excluded.value";
        for (key, value) in kept {
            to.connection.execute(sql, params![key, value])?;
        }
        let sql = "delete from meta where key in ('filling', 'filled_from')";
        to.connection.execute(sql, ())?;
        to.connection.flush()?;
        to.connection.execute_batch("commit")
    };
    write().map_err(|error| to.error(error))
}

fn count(connection: &Connection, table: &str) -> SqlResult<u64> {
    let sql = format!("select count(*) from {table}");
    let count: i64 = connection.query_row(&sql, (), |row| row.get(0))?;
    Ok(count.unsigned_abs())
}

impl Table {
    /// Copies what the target lacks; returns how many rows there are.
    fn copy(
        &self,
        from: &End,
        to: &End,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<u64, OpenError> {
        let all = count(&from.connection, &self.name).map_err(|error| from.error(error))?;
        let mut done = count(&to.connection, &self.name).map_err(|error| to.error(error))?;
        let mut tell = |done| {
            progress(Progress {
                table: &self.name,
                done,
                all,
            });
        };
        tell(done);
        if done < all {
            let last = self.last(to).map_err(|error| to.error(error))?;
            if last.is_empty() {
                done = 0;
            }
            let mut filling = Filling {
                to,
                insert: self.insert(),
                rows: 0,
                bytes: 0,
            };
            // Which of the two ends has failed.
            let mut written = Ok(());
            let read = self.each(from, &last, |row| {
                written = filling.take(row);
                if written.is_err() {
                    return Err(SqlError::NoRow);
                }
                done += 1;
                if filling.rows == 0 {
                    tell(done);
                }
                Ok(())
            });
            written.map_err(|error| to.error(error))?;
            read.map_err(|error| from.error(error))?;
            filling.commit().map_err(|error| to.error(error))?;
            tell(done);
        }
        // Counted, though each row was taken: somebody may write at either end.
        let found = count(&to.connection, &self.name).map_err(|error| to.error(error))?;
        if found != all {
            return Err(OpenError::Incomplete {
                name: to.name.clone(),
                table: self.name.clone(),
                found,
                wanted: all,
            });
        }
        Ok(all)
    }

    /// The key of the last row that the target has. Where the databases have keys in other orders, what it has goes, and
    /// the table begins anew.
    fn last(&self, to: &End) -> SqlResult<Vec<i64>> {
        if !self.is_key_numbers {
            let sql = format!("delete from {}", self.name);
            return to.connection.execute_batch(&sql).map(|()| Vec::new());
        }
        let backwards: Vec<String> = self
            .key
            .iter()
            .map(|column| format!("{column} desc"))
            .collect();
        let (key, backwards) = (self.key.join(", "), backwards.join(", "));
        let sql = format!(
            "select {key} from {} order by {backwards} limit 1",
            self.name
        );
        let mut statement = to.connection.prepare_cached(&sql)?;
        let row = |row: &Row<'_>| (0..self.key.len()).map(|column| row.get(column)).collect();
        let last = statement.query_row((), row).optional()?;
        Ok(last.unwrap_or_default())
    }

    /// Goes through the rows behind a key, in its order.
    fn each(
        &self,
        from: &End,
        last: &[i64],
        row: impl FnMut(&Row<'_>) -> SqlResult<()>,
    ) -> SqlResult<()> {
        let (columns, key) = (self.columns.join(", "), self.key.join(", "));
        let behind = if last.is_empty() {
            String::new()
        } else {
            let marks: Vec<String> = (1..=last.len())
                .map(|number| format!("?{number}"))
                .collect();
            format!(" where ({key}) > ({})", marks.join(", "))
        };
        let sql = format!("select {columns} from {}{behind} order by {key}", self.name);
        let values: Vec<ValueRef<'_>> = last.iter().map(Value::value).collect();
        let mut statement = from.connection.prepare_cached(&sql)?;
        statement.stream(values.as_slice(), row)
    }

    fn insert(&self) -> String {
        let marks: Vec<String> = (1..=self.columns.len()).map(|n| format!("?{n}")).collect();
        let (columns, marks) = (self.columns.join(", "), marks.join(", "));
        format!("insert into {} ({columns}) values ({marks})", self.name)
    }
}

/// A transaction that takes rows.
struct Filling<'e> {
    to: &'e End,
    insert: String,
    rows: u64,
    bytes: usize,
}

impl Filling<'_> {
    /// Takes a row, and commits when there are enough.
    fn take(&mut self, row: &Row<'_>) -> SqlResult<()> {
        if self.rows == 0 {
            self.to.connection.begin()?;
        }
        let mut statement = self.to.connection.prepare_cached(&self.insert)?;
        let columns = row.columns();
        let values: SqlResult<Vec<ValueRef<'_>>> = (0..columns).map(|at| row.value(at)).collect();
        let values = values?;
        self.rows += 1;
        self.bytes += values.iter().map(|value| value.bytes()).sum::<usize>();
        statement.enqueue(values.as_slice())?;
        if self.rows >= ROWS_AT_ONCE || self.bytes >= BYTES_AT_ONCE {
            return self.commit();
        }
        Ok(())
    }

    fn commit(&mut self) -> SqlResult<()> {
        if self.rows == 0 {
            return Ok(());
        }
        (self.rows, self.bytes) = (0, 0);
        self.to.connection.flush()?;
        self.to.connection.execute_batch("commit")
    }
}

impl Params for &[ValueRef<'_>] {
    fn values<R>(self, take: impl FnOnce(&[ValueRef<'_>]) -> R) -> R {
        take(self)
    }
}
