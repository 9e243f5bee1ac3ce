//! PostgreSQL instead of a file of our own.
//!
//! One server at a time owns a database: the connection that writes holds a lock, and loses it with itself. So nobody
//! can write who is not the owner, however late what he sends arrives; no clock and no lease is needed for that. Who
//! comes second waits, and takes over when the lock is free.

mod dialect;
mod gathered;
mod leader;
mod options;
mod session;

use std::sync::Arc;
use std::time::Duration;

pub(crate) use leader::has_no_standby;
pub use leader::{Beat, Owner};
pub use options::{Opens, PostgresOptions};
pub(crate) use session::{Prepared, Session, failure, text_of, value};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::OpenError;
use crate::convert::can_open;
use crate::misread::Examined;
use crate::read::Reader;
use crate::sql::{Connection, Optional as _, Row, SqlError, SqlResult};
use options::Target;

/// The lock of a database's owner: "PRDR", and which of our locks it is.
const OWNER_LOCK: i64 = 0x5052_4452_0000_0001;
/// The oldest PostgreSQL that has all that is used.
const VERSION_MIN: i64 = 130_000;
/// A number that nobody has had.
const FRESH_EPOCH: &str = "select ('x' || left(md5(gen_random_uuid()::text), 15))::bit(60)::bigint";
/// Between two tries to reach a database that is away: what is asked meanwhile is refused at once.
const RECONNECT_PAUSE: Duration = Duration::from_millis(500);

/// Numbered, forward only; `meta` has the number of the last one applied.
pub(crate) const MIGRATIONS: &[&str] = &[
    include_str!("../migrations/postgres/0001_initial.sql"),
    include_str!("../migrations/postgres/0002_content_filters.sql"),
    include_str!("../migrations/postgres/0003_outbox.sql"),
    include_str!("../migrations/postgres/0004_read_only_keys.sql"),
    include_str!("../migrations/postgres/0005_external_ids.sql"),
    include_str!("../migrations/postgres/0006_key_rotation.sql"),
    include_str!("../migrations/postgres/0007_users.sql"),
    include_str!("../migrations/postgres/0008_nodes.sql"),
    include_str!("../migrations/postgres/0009_failing.sql"),
    include_str!("../migrations/postgres/0010_outcomes.sql"),
    include_str!("../migrations/postgres/0011_strings.sql"),
    include_str!("../migrations/postgres/0012_deleted_endpoints.sql"),
    include_str!("../migrations/postgres/0013_outbox_turns.sql"),
];

/// What every connection is told first. A server that vanishes is to be noticed, by us and by the database: only then can
/// another take over. Every statement is meant to go by an index, row by row: what the planner takes tables to be like,
/// before it has looked at them or while they grow fast, must not make it read all of one.
/// What an operator may have made the default of a database or a user, and what would make of our statements others, is
/// said here too.
const SETUP: &str =
    "set search_path = postrider; set synchronous_commit = on; set lock_timeout = '10s';
    set default_transaction_isolation = 'read committed'; set standard_conforming_strings = on;
    set idle_in_transaction_session_timeout = '60s'; set client_min_messages = warning; set tcp_keepalives_idle = 5;
    set tcp_keepalives_interval = 2; set tcp_keepalives_count = 3; set tcp_user_timeout = 10000;
    set enable_seqscan = off; set enable_hashjoin = off; set enable_mergejoin = off; set jit = off;
    set plan_cache_mode = force_generic_plan";

/// How long the database may take for a look at its owner.
const LOOK_TIME_MAX: Duration = Duration::from_secs(5);
/// How long a migration waits for a table.
const MIGRATION_WAITS: &str = "2s";

/// Makes connections that read.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    target: Arc<Target>,
}

impl Source {
    /// Where connections come from, and what the database is called.
    pub(crate) fn of(options: &PostgresOptions) -> Result<(Self, String), OpenError> {
        let target = Target::new(options)?;
        let name = target.name.to_string();
        let target = Arc::new(target);
        Ok((Self { target }, name))
    }

    /// What takes longer than `time_max` is broken off by the database.
    pub(crate) fn open(&self, time_max: Option<Duration>) -> SqlResult<Connection> {
        let timeout = time_max.map_or(0, |time_max| time_max.as_millis());
        let setup = format!("{SETUP}; set statement_timeout = {timeout}");
        Session::connect(&self.target, &setup).map(Connection::Postgres)
    }

    /// Breaks off whatever waits for an answer just now. What became of it is not known, as if its connection had broken:
    /// what asks next goes by another one.
    pub(crate) fn give_up(&self) {
        self.target.given_up.tell();
    }

    /// Asks something short, by a connection of its own.
    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Connection) -> SqlResult<T> + Send + 'static,
    ) -> SqlResult<T> {
        let source = self.clone();
        let look = move || {
            source
                .open(Some(LOOK_TIME_MAX))
                .and_then(|it| question(&it))
        };
        let look = tokio::task::spawn_blocking(look);
        // The way may be silent behind its beginning too.
        match tokio::time::timeout(2 * LOOK_TIME_MAX, look).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(panicked)) => std::panic::resume_unwind(panicked.into_panic()),
            Err(_) => {
                self.give_up();
                Err(SqlError::Unreachable("it does not answer".to_owned()))
            }
        }
    }
}

/// The right to write, as long as its connection lives.
#[derive(Debug)]
pub(crate) struct Ownership {
    source: Source,
    /// Another number with each owner: who finds one that is not its own was not the owner all the time. By chance and not
    /// counted, because a standby that lacks the last owner would count to the same one.
    epoch: i64,
    lost: watch::Sender<bool>,
    returns: watch::Sender<()>,
    /// Nobody tries to reach the database before.
    next_try: Instant,
    /// It must wait for a standby before it acknowledges.
    pub(crate) needs_standby: bool,
}

/// A database that is ours, and the connection that says so.
pub(crate) struct Owned {
    pub(crate) name: String,
    pub(crate) connection: Connection,
    pub(crate) ownership: Ownership,
    pub(crate) source: Source,
    /// Turns true when somebody else owns it.
    pub(crate) lost: watch::Receiver<bool>,
    pub(crate) epoch: i64,
    /// Changes when it is there again.
    pub(crate) returns: watch::Receiver<()>,
}

/// Of a way of one's own: what is asked on it when nobody waits any more is not waited for either.
struct GivenUpOnDrop(Source);

impl Drop for GivenUpOnDrop {
    fn drop(&mut self) {
        self.0.give_up();
    }
}

/// What a database is called, and the number of the last migration that it has. Blocks.
pub(crate) fn found(options: &PostgresOptions) -> Result<(String, i64), OpenError> {
    let (source, name) = Source::of(options)?;
    let found = source.open(None).and_then(|connection| schema(&connection));
    match found {
        Ok(found) => Ok((name, found)),
        Err(source) => Err(OpenError::Database { name, source }),
    }
}

/// Who owns a database, for whoever has no reason to try for it.
pub(crate) async fn owner(options: &PostgresOptions) -> Result<Owner, OpenError> {
    let (source, name) = Source::of(options)?;
    let _ends = GivenUpOnDrop(source.clone());
    let found = source.ask(leader::found).await;
    found.map_err(|source| OpenError::Database { name, source })
}

/// A connection to a database that somebody may own, what it is called, and the version of its tables.
fn looked_into(options: &PostgresOptions) -> Result<(Connection, String, i64), OpenError> {
    let (source, name) = Source::of(options)?;
    let looked = source.open(None).and_then(|connection| {
        let found = schema(&connection)?;
        Ok((connection, found))
    });
    match looked {
        Ok((connection, found)) => Ok((connection, name, found)),
        Err(source) => Err(OpenError::Database { name, source }),
    }
}

/// Whether the database can be reached, and its store be opened by a server with this key. Blocks.
pub(crate) fn examine(options: &PostgresOptions) -> Result<Owner, OpenError> {
    let (connection, name, found) = looked_into(options)?;
    must_do(&connection, &name, found == 0)?;
    if usize::try_from(found).is_ok_and(|found| found > MIGRATIONS.len()) {
        return Err(OpenError::NewerDatabase {
            name,
            found,
            known: MIGRATIONS.len(),
        });
    }
    if let Some(opens) = options.opens.as_ref().filter(|_| found > 0)
        && !can_open(&connection, opens)
    {
        return Err(OpenError::Sealed { name });
    }
    leader::found(&connection).map_err(|source| OpenError::Database { name, source })
}

/// Rows that do not read. Blocks.
pub(crate) fn misread(options: &PostgresOptions) -> Result<Examined, OpenError> {
    let (connection, name, found) = looked_into(options)?;
    if usize::try_from(found).is_ok_and(|found| found != MIGRATIONS.len()) {
        return Ok(Examined {
            findings: Vec::new(),
            is_current: false,
        });
    }
    // Whose rows they are nobody asks: any salt will do.
    let looked = Reader::new(connection, 0, Duration::ZERO).all_misread();
    let findings = looked.map_err(|source| OpenError::UnreadableDatabase {
        name,
        source: Box::new(source),
    })?;
    Ok(Examined {
        findings,
        is_current: true,
    })
}

/// Ends the connection of an owner that stands still since it gave this sign of life.
pub(crate) async fn end_owner(options: &PostgresOptions, beat: Beat) -> Result<bool, OpenError> {
    let (source, name) = Source::of(options)?;
    let _ends = GivenUpOnDrop(source.clone());
    let ended = source.ask(move |it| leader::end(it, &beat)).await;
    ended.map_err(|source| OpenError::Database { name, source })
}

/// Whether the database works for the owner of this epoch; see [`leader::works_for`].
pub(crate) async fn works_for(source: &Source, epoch: i64) -> SqlResult<bool> {
    source.ask(move |it| leader::works_for(it, epoch)).await
}

/// Connects, takes the lock, and brings the tables to what this version has. Blocks.
pub(crate) fn own(options: &PostgresOptions) -> Result<Owned, OpenError> {
    let (source, name) = Source::of(options)?;
    let wrap = |source| OpenError::Database {
        name: name.clone(),
        source,
    };
    let connection = source.open(None).map_err(wrap)?;
    let found = schema(&connection).map_err(wrap)?;
    must_do(&connection, &name, found == 0)?;
    if options.require_sync_standby && has_no_standby(&connection).map_err(wrap)? {
        return Err(OpenError::NoStandby { name });
    }
    if !lock(&connection).map_err(wrap)? {
        let owner = leader::found(&connection).map_err(wrap)?;
        return Err(OpenError::Owned { name, owner });
    }
    // With the lock, and so once more: from here on nobody else changes the tables.
    let found = schema(&connection).map_err(wrap)?;
    if usize::try_from(found).is_ok_and(|found| found > MIGRATIONS.len()) {
        return Err(OpenError::NewerDatabase {
            name,
            found,
            known: MIGRATIONS.len(),
        });
    }
    if found == 0 && options.must_exist {
        return Err(OpenError::Url {
            what: format!("{name} has no Postrider store; name the server's database"),
        });
    }
    if let Some(opens) = options.opens.as_ref().filter(|_| found > 0)
        && !can_open(&connection, opens)
    {
        return Err(OpenError::Sealed { name });
    }
    let epoch = number(&connection, FRESH_EPOCH).map_err(wrap)?;
    migrate(&connection, found, epoch).map_err(wrap)?;
    leader::introduce(&connection, epoch, options.node_url.as_deref()).map_err(wrap)?;
    let (lost, is_lost) = watch::channel(false);
    let (returns, is_back) = watch::channel(());
    Ok(Owned {
        name,
        connection,
        ownership: Ownership {
            source: source.clone(),
            epoch,
            lost,
            returns,
            next_try: Instant::now(),
            needs_standby: options.require_sync_standby,
        },
        source,
        epoch,
        lost: is_lost,
        returns: is_back,
    })
}

/// Refuses a server of a version, and a database of an encoding, in which not all can be kept.
fn must_do(connection: &Connection, name: &str, is_empty: bool) -> Result<(), OpenError> {
    let wrap = |source| OpenError::Database {
        name: name.to_owned(),
        source,
    };
    let version = "select current_setting('server_version_num')::bigint";
    let version = number(connection, version).map_err(wrap)?;
    if version < VERSION_MIN {
        return Err(OpenError::Url {
            what: format!(
                "{name} is PostgreSQL {}; {} is the oldest that will do",
                version / 10_000,
                VERSION_MIN / 10_000
            ),
        });
    }
    let encoding = "select current_setting('server_encoding')";
    let encoding: String = connection
        .query_row(encoding, (), |row| row.get(0))
        .map_err(wrap)?;
    if encoding != "UTF8" && !is_empty {
        // It has a store, which must be got out of there.
        tracing::warn!(
            encoding,
            "not every name and answer can be kept in the encoding of the database; move what is stored to one with UTF8 (postrider export)"
        );
    } else if encoding != "UTF8" {
        return Err(OpenError::Url {
            what: format!(
                "{name} has the encoding {encoding}, which not every name and answer can be kept in; make it with createdb --encoding UTF8 --template template0"
            ),
        });
    }
    Ok(())
}

fn number(connection: &Connection, sql: &str) -> SqlResult<i64> {
    connection.query_row(sql, (), |row| row.get(0))
}

fn lock(connection: &Connection) -> SqlResult<bool> {
    connection.query_row("select pg_try_advisory_lock(?1)", [OWNER_LOCK], |row| {
        row.get(0)
    })
}

/// The number of the last migration that was applied; 0 in an empty database.
fn schema(connection: &Connection) -> SqlResult<i64> {
    let is_there = "select to_regclass('postrider.meta') is not null";
    if !connection.query_row(is_there, (), |row| row.get(0))? {
        return Ok(0);
    }
    let sql = "select value from meta where key = 'schema'";
    let found = connection.query_row(sql, (), |row| row.get(0)).optional()?;
    Ok(found.unwrap_or(0))
}

/// Brings the tables to what this version has, and notes the new owner with the first of it: whoever owned it before must
/// not go on with tables that it does not know, and may where none of it came about.
fn migrate(connection: &Connection, done: i64, epoch: i64) -> SqlResult<()> {
    let schema = "select to_regnamespace('postrider') is null";
    let has_none = connection.query_row(schema, (), |row| row.get(0))?;
    // Not said where it is there: that takes a right which somebody who made it for us may not have given.
    let schema = if has_none {
        "create schema postrider;"
    } else {
        ""
    };
    let note = |key: &str, value: i64| {
        format!(
            "insert into meta (key, value) values ('{key}', {value}) on conflict (key) do update set value = excluded.value;"
        )
    };
    let owner = format!("{} {}", note("epoch", epoch), leader::BEGIN);
    let mut is_noted = false;
    for (number, sql) in (1_i64..)
        .zip(MIGRATIONS)
        .filter(|(number, _)| *number > done)
    {
        let schema = if number == 1 { schema } else { "" };
        let first = if is_noted { "" } else { &owner };
        // One message is one transaction. Whoever publishes waits behind a change of a table that waits for a dump of it: no
        // longer than this, and there is another try later.
        connection.execute_batch(&format!(
            "begin; set local lock_timeout = '{MIGRATION_WAITS}'; {schema} {sql}; {} {first} commit",
            note("schema", number)
        ))?;
        is_noted = true;
    }
    if !is_noted {
        connection.execute_batch(&format!("begin; {owner} commit"))?;
    }
    Ok(())
}

/// Numbers that the database gives go on behind those that came in.
pub(crate) fn count_on(connection: &Connection) -> SqlResult<()> {
    for (table, column) in [
        ("rendering", "id"),
        ("profile", "version"),
        ("outbox", "id"),
    ] {
        let sql = format!(
            // The next number, not yet given: of an empty table there is no last one, and 0 is refused.
            "select setval(pg_get_serial_sequence('postrider.{table}', '{column}'), (select coalesce(max({column}), 0) + 1 from {table}), false)"
        );
        connection.query_row(&sql, (), |_| Ok(()))?;
    }
    Ok(())
}

/// Lets the planner see what tables are like. It would come to it by itself.
pub(crate) fn look_at_tables<'t>(connection: &Connection, tables: impl Iterator<Item = &'t str>) {
    for table in tables {
        if let Err(error) = connection.execute_batch(&format!("analyze {table}")) {
            tracing::warn!(
                table,
                error = &error as &dyn std::error::Error,
                "failed to analyze a table; autovacuum will"
            );
        }
    }
}

/// Makes `postrider.publish()` fail until a server runs on the database again, and waits for those that have called it:
/// what they commit later would be where nobody looks any more.
pub(crate) fn take_no_more(connection: &Connection) -> SqlResult<()> {
    // Two signs. By the one whoever publishes is told what to do; the other one is for transactions that see the database
    // as it was when they began: of constraints everybody sees the newest.
    let sql = "insert into meta (key, value) values ('moved', 1) on conflict (key) do nothing";
    connection.execute(sql, ())?;
    connection.execute_batch(
        "begin;
         alter table outbox drop constraint if exists publish_where_the_store_is_now;
         alter table outbox add constraint publish_where_the_store_is_now check (false) not valid;
         commit",
    )
}

/// Lets `postrider.publish()` work again.
pub(crate) fn take_again(connection: &Connection) -> SqlResult<()> {
    let closed = "select exists (select 1 from meta where key = 'moved') or exists (select 1 from pg_constraint
         where conname = 'publish_where_the_store_is_now' and conrelid = 'postrider.outbox'::regclass)";
    // Not at each start: what changes a table waits for all who read it.
    if !connection.query_row(closed, (), |row| row.get::<bool>(0))? {
        return Ok(());
    }
    // Both or none: half of it would refuse everything, and nothing would tell that it does.
    connection.execute_batch(
        "begin;
         alter table outbox drop constraint if exists publish_where_the_store_is_now;
         delete from meta where key = 'moved';
         commit",
    )
}

impl Ownership {
    /// Whether somebody else owns it now, although the connection is there.
    pub(crate) fn is_lost(&self) -> bool {
        *self.lost.borrow()
    }

    /// Another connection in the place of one that is gone, if the database was ours all the time.
    pub(crate) fn again(&mut self) -> SqlResult<Connection> {
        let gone = |what: &str| SqlError::Unreachable(what.to_owned());
        if *self.lost.borrow() {
            return Err(gone("another server owns it now"));
        }
        if Instant::now() < self.next_try {
            return Err(gone("it was away a moment ago"));
        }
        let found = self.look();
        // A try may take longer than the pause.
        self.next_try = Instant::now() + RECONNECT_PAUSE;
        let (connection, is_ours, epoch) = found?;
        // Before the lock: another owner is the end, a lock that is not free may still be our own.
        if epoch != self.epoch {
            self.lost.send_replace(true);
            return Err(gone("another server owns it now"));
        }
        if !is_ours {
            // The connection before has not ended there yet, or somebody is about to take over.
            return Err(gone("its lock is not free"));
        }
        tracing::info!("the database is there again");
        self.returns.send_replace(());
        Ok(connection)
    }

    /// Tells those who wait that the owner lives, where the lock is still this connection's, and the database ours.
    pub(crate) fn beat(&self, connection: &Connection) -> SqlResult<()> {
        if !leader::beat(connection, self.epoch)? {
            tracing::error!(
                "the lock of the database is not ours any more; a pooler must give this server connections of its own (session mode)"
            );
            self.lost.send_replace(true);
        }
        Ok(())
    }

    /// A connection, whether it has the lock, and whose the database is.
    fn look(&self) -> SqlResult<(Connection, bool, i64)> {
        let connection = self.source.open(None)?;
        // The lock before the number: with it nobody else can change that any more.
        let is_ours = lock(&connection)?;
        let epoch = number(&connection, "select value from meta where key = 'epoch'")?;
        Ok((connection, is_ours, epoch))
    }
}

impl Session {
    /// Bytes that the database has on the disk.
    pub(crate) fn used_bytes(&self) -> SqlResult<u64> {
        let statement = self.prepare("select pg_database_size(current_database())")?;
        let rows = self.query(&statement, &[])?;
        let size = rows.first().map(|row| Row::Postgres(row).get(0));
        let size: i64 = size.unwrap_or(Err(SqlError::NoRow))?;
        Ok(size.unsigned_abs())
    }
}
