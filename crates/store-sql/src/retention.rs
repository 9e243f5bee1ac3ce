//! Forgetting what ended long ago: a reader finds the next piece, the writer deletes it.

mod damaged;

use std::ops::ControlFlow;
use std::path::Path;

use std::sync::Arc;

use async_trait::async_trait;
use postrider_core::audit::AuditEntry;
use postrider_core::tenant::ApplicationSettings;
use postrider_core::{Id, Timestamp, id};
use postrider_store::{
    Aged, ContentOf, Keep, PruneFrom, Pruned, Retention, StoreError, UNTOLD_KEPT,
};

use crate::convert::{
    aborted, ahead, from_json, is_of_a_page, is_unreadable, reading, salt_of, time,
};
use crate::postgres::Source as Server;
use crate::read::{Reader, key_before};
use crate::segments::keys_text;
use crate::sql::{Connection, Optional as _, SqlError, SqlResult, Statement, params};
use crate::sqlite::open;
use crate::writer::Tx;
use crate::{OpenError, PostgresOptions, SqlStore};

/// Rows that a piece looks at.
const LOOK_ROWS: u32 = 2_000;
/// The same, with the deliveries of events: one event may have thousands.
const LOOK_ROWS_SUM: u32 = 20_000;
/// Events and deliveries that go in one piece, about: the writer is busy with them for some milliseconds.
const PIECE_ROWS: usize = 200;

/// Endpoints that a piece asks for what is left of them: each in every segment that there is.
const ENDPOINTS_ASKED: usize = 50;

/// An event whose deliveries all ended long ago, with those of them that go now.
#[derive(Clone)]
struct Old {
    event: i64,
    deliveries: Vec<i64>,
    /// There are no others.
    is_over: bool,
}

/// What a reader found to go.
enum Piece {
    Events(Vec<Old>),
    Rows(Vec<i64>),
}

/// What is to go of the rows that were looked at, and the key of the last of them, if there may be more.
type Looked = (Piece, Option<i64>);

impl Reader {
    /// Looks at so many rows, or fewer where events have very many deliveries.
    fn old_of(
        &self,
        keep: &Keep,
        from: PruneFrom,
        rows_max: usize,
        look: u32,
    ) -> SqlResult<Looked> {
        let after = key_of(from);
        match from.what {
            Aged::Events => self.old_events(keep, after, rows_max, look),
            Aged::Notices => {
                let row = format!(
                    "id, at + case when mail_due = 0 and publish_due = 0 then 0 else {} end, application_id from notice where true",
                    UNTOLD_KEPT.as_micros()
                );
                self.old_rows(&row, after, keep.latest(), look, |application| {
                    keep.of(application)
                })
            }
            Aged::Tasks => {
                let row = "id, finished_at, application_id from task where finished_at is not null";
                self.old_rows(row, after, keep.latest(), look, |application| {
                    keep.of(application)
                })
            }
            Aged::Audit => {
                let row = "id, at, coalesce(application_id, 0) from audit where true";
                self.old_rows(row, after, keep.audit_before, look, |_| keep.audit_before)
            }
            Aged::Endpoints => self.old_endpoints(keep, after, rows_max, look),
        }
    }

    /// Events all of whose deliveries ended long ago. As long as one waits, the others tell what was sent.
    fn old_events(&self, keep: &Keep, after: i64, rows_max: usize, look: u32) -> SqlResult<Looked> {
        let sql = "select id, created_at, application_id from event where id > ?1 and id < ?2 order by id limit ?3";
        let mut events = self.connection.prepare_cached(sql)?;
        let sql = "select count(*), count(case when state = 0 or coalesce(completed_at, created_at) >= ?2 then 1 end) = 0
                   from delivery where event_id = ?1";
        let mut count = self.connection.prepare_cached(sql)?;
        let sql = "select id from delivery where event_id = ?1 limit ?2";
        let mut deliveries = self.connection.prepare_cached(sql)?;
        let before = key_before(keep.latest(), self.ahead);
        let (mut found, mut taken, mut looked_at) = (Vec::new(), 0, 0);
        let (mut last, mut is_cut) = (None, false);
        let values = params![after, before, look];
        events.each(values, |row| {
            let event: i64 = row.get(0)?;
            (looked_at, last) = (looked_at + 1, Some(event));
            let before = keep.of(Id::from_key(row.get(2)?, self.salt));
            if time(row, 1)? < before {
                let of_it = params![event, before.as_micros()];
                let (of_it, is_over) =
                    count.query_row(of_it, |row| Ok((row.get(0)?, row.get(1)?)))?;
                let of_it: u32 = of_it;
                looked_at += of_it;
                if is_over {
                    let room = rows_max.saturating_sub(taken);
                    let limit = i64::try_from(room).unwrap_or(i64::MAX);
                    let ids: Vec<i64> = deliveries.query_all([event, limit], |row| row.get(0))?;
                    let is_all = ids.len() == of_it as usize;
                    taken += ids.len() + usize::from(is_all);
                    found.push(Old {
                        event,
                        deliveries: ids,
                        is_over: is_all,
                    });
                    if !is_all {
                        // One event may have thousands: the next piece begins with it.
                        (last, is_cut) = (Some(event - 1), true);
                        return Ok(ControlFlow::Break(()));
                    }
                }
            }
            if taken >= rows_max || looked_at >= LOOK_ROWS_SUM {
                is_cut = true;
                return Ok(ControlFlow::Break(()));
            }
            Ok(ControlFlow::Continue(()))
        })?;
        let last = last.filter(|_| is_cut || looked_at >= look);
        Ok((Piece::Events(found), last))
    }

    /// Of a table whose rows go one by one: `row` has their key, their time and their application.
    fn old_rows(
        &self,
        row: &str,
        after: i64,
        latest: Timestamp,
        look: u32,
        before: impl Fn(Id<id::Application>) -> Timestamp,
    ) -> SqlResult<Looked> {
        let sql = format!("select {row} and id > ?1 and id < ?2 order by id limit ?3");
        let mut statement = self.connection.prepare_cached(&sql)?;
        let end = key_before(latest, self.ahead);
        let (mut found, mut looked_at, mut last) = (Vec::new(), 0, None);
        statement.each(params![after, end, look], |row| {
            (looked_at, last) = (looked_at + 1, Some(row.get(0)?));
            if time(row, 1)? < before(Id::from_key(row.get(2)?, self.salt)) {
                found.push(row.get(0)?);
            }
            Ok(if found.len() >= PIECE_ROWS {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            })
        })?;
        let is_more = found.len() >= PIECE_ROWS || looked_at == look;
        Ok((Piece::Rows(found), last.filter(|_| is_more)))
    }

    /// Endpoints that were deleted long ago and have no delivery any more.
    fn old_endpoints(
        &self,
        keep: &Keep,
        after: i64,
        rows_max: usize,
        look: u32,
    ) -> SqlResult<Looked> {
        let sql = "select id, updated_at, application_id from endpoint where deleted = 1 and id > ?1 and id < ?2 order by id limit ?3";
        let mut endpoints = self.connection.prepare_cached(sql)?;
        let sql = "select 1 from segment s cross join delivery_of_endpoint x on x.segment = s.number where x.owner = ?1 limit 1";
        let mut entered = self.connection.prepare_cached(sql)?;
        let sql = "select 1 from delivery where id > coalesce((select last_key from segment order by number desc limit 1), 0)
                   and +endpoint_id = ?1 limit 1";
        let mut behind = self.connection.prepare_cached(sql)?;
        // A plan has no pieces.
        let asked_max = if rows_max == usize::MAX {
            rows_max
        } else {
            ENDPOINTS_ASKED
        };
        let end = key_before(keep.latest(), self.ahead);
        let (mut found, mut looked_at, mut asked, mut last) = (Vec::new(), 0, 0, None);
        endpoints.each(params![after, end, look], |row| {
            let endpoint: i64 = row.get(0)?;
            (looked_at, last) = (looked_at + 1, Some(endpoint));
            if time(row, 1)? < keep.of(Id::from_key(row.get(2)?, self.salt)) {
                asked += 1;
                let is_used = |statement: &mut Statement<'_>| {
                    let one = statement.query_row([endpoint], |row| row.get::<i64>(0));
                    one.optional().map(|one| one.is_some())
                };
                // In this order: rows go from behind the segments into one meanwhile.
                if !is_used(&mut behind)? && !is_used(&mut entered)? {
                    found.push(endpoint);
                }
            }
            Ok(match asked >= asked_max {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            })
        })?;
        let is_more = asked >= asked_max || looked_at == look;
        Ok((Piece::Rows(found), last.filter(|_| is_more)))
    }

    fn used_bytes(&self) -> Result<u64, StoreError> {
        let used = match &self.connection {
            Connection::Sqlite(connection) => open::used_bytes(connection).map_err(SqlError::from),
            Connection::Postgres(session) => session.used_bytes(),
        };
        used.map_err(reading)
    }
}

impl Piece {
    /// The last event, where some of its deliveries are for the next piece.
    fn cut(&self) -> Option<i64> {
        match self {
            Self::Events(events) => {
                let last = events.last().filter(|old| !old.is_over);
                last.map(|old| old.event)
            }
            Self::Rows(_) => None,
        }
    }

    /// What it has, one by one.
    fn apart(&self) -> Vec<Self> {
        match self {
            Self::Events(events) => {
                let events = events.iter().cloned();
                events.map(|old| Self::Events(vec![old])).collect()
            }
            Self::Rows(rows) => rows.iter().map(|row| Self::Rows(vec![*row])).collect(),
        }
    }

    fn is_nothing(&self) -> bool {
        match self {
            Self::Events(events) => events.is_empty(),
            Self::Rows(rows) => rows.is_empty(),
        }
    }
}

impl Tx {
    /// Deletes a piece, but for what was sent again since it was looked at. False where some of it has more attempts
    /// than go at once.
    fn forget(
        &mut self,
        what: Aged,
        piece: &Piece,
        latest: Timestamp,
    ) -> SqlResult<(Pruned, bool)> {
        match piece {
            Piece::Events(events) => self.forget_old(events, latest),
            Piece::Rows(rows) => {
                let (table, mut pruned) = (table_of(what), Pruned::default());
                // Not asked again whether it is to go: none of these comes back to life.
                let sql =
                    format!("delete from {table} where id in (select value from json_each(?1))");
                let gone = self.connection.execute(&sql, [keys_text(rows)])?;
                *count_of(&mut pruned, what) = gone as u64;
                Ok((pruned, true))
            }
        }
    }

    fn forget_old(&self, events: &[Old], latest: Timestamp) -> SqlResult<(Pruned, bool)> {
        let found: Vec<i64> = events
            .iter()
            .flat_map(|old| old.deliveries.clone())
            .collect();
        // One that was sent again since it was found waits, or has a young end.
        let sql =
            "select id from delivery where state <> 0 and coalesce(completed_at, created_at) < ?2
                   and id in (select value from json_each(?1))";
        let mut statement = self.connection.prepare_cached(sql)?;
        // The latest time of all applications will do: what has ended since is younger than any.
        let values = params![keys_text(&found), latest.as_micros()];
        let deliveries: Vec<i64> = statement.query_all(values, |row| row.get(0))?;
        let mut pruned = Pruned::default();
        if !self.forget_deliveries(&deliveries)?.is_all {
            return Ok((pruned, false));
        }
        pruned.deliveries = deliveries.len() as u64;
        let over = events.iter().filter(|old| old.is_over);
        let over: Vec<i64> = over.map(|old| old.event).collect();
        let sql = "select value from json_each(?1) where not exists (select 1 from delivery where event_id = value)";
        let mut statement = self.connection.prepare_cached(sql)?;
        // One that was sent again meanwhile, or that somebody has caught up on, has a delivery, and stays.
        let over: Vec<i64> = statement.query_all([keys_text(&over)], |row| row.get(0))?;
        pruned.events = self.forget_events(&over)? as u64;
        Ok((pruned, true))
    }

    /// Segments of which nothing is left, but for the last one, which is the mark.
    fn forget_segments(&self) -> SqlResult<()> {
        let sql = "delete from segment where number < (select max(number) from segment)
                   and not exists (select 1 from delivery_of_tenant where segment = number)
                   and not exists (select 1 from event_of_tenant where segment = number)";
        self.connection.execute(sql, ()).map(drop)
    }
}

/// The key behind which a round goes on.
fn key_of(from: PruneFrom) -> i64 {
    match from.after {
        0 => -1,
        after => Id::<()>::from_u128(after).key(),
    }
}

fn table_of(what: Aged) -> &'static str {
    match what {
        Aged::Events => "event",
        Aged::Notices => "notice",
        Aged::Tasks => "task",
        Aged::Audit => "audit",
        Aged::Endpoints => "endpoint",
    }
}

fn count_of(pruned: &mut Pruned, what: Aged) -> &mut u64 {
    match what {
        Aged::Events => &mut pruned.events,
        Aged::Notices => &mut pruned.notices,
        Aged::Tasks => &mut pruned.tasks,
        Aged::Audit => &mut pruned.audit,
        Aged::Endpoints => &mut pruned.endpoints,
    }
}

/// Where a round goes on behind a piece.
fn next(what: Aged, last: Option<u128>) -> Option<PruneFrom> {
    match last {
        Some(after) => Some(PruneFrom { what, after }),
        None => what.next().map(PruneFrom::beginning),
    }
}

#[async_trait]
impl Retention for SqlStore {
    async fn delete_content(&self, of: ContentOf, entry: AuditEntry) -> Result<(), StoreError> {
        let account = entry.actor.account;
        let entry = Arc::new(entry);
        let noting = entry.clone();
        let event = match of {
            ContentOf::Event(event) => event,
            ContentOf::Attempt(delivery, number) => {
                let delete = move |tx: &mut Tx| tx.delete_answer(delivery, number, &noting);
                return self.writer.call_by(account, delete).await;
            }
        };
        let delete = move |tx: &mut Tx| tx.delete_said(event, &noting);
        let mut is_noted = self.writer.call_by(account, delete).await?;
        let mut after = Some(0);
        while let Some(behind) = after {
            // What it said may have been deleted before, and only answers be left.
            let noting = (!is_noted).then(|| entry.clone());
            let delete = move |tx: &mut Tx| tx.delete_answers(event, behind, noting.as_deref());
            after = self.writer.call_by(account, delete).await?;
            is_noted = true;
        }
        Ok(())
    }

    async fn prune(
        &self,
        keep: &Keep,
        from: PruneFrom,
    ) -> Result<(Pruned, Option<PruneFrom>), StoreError> {
        let (what, latest) = (from.what, keep.latest());
        let keep = keep.clone();
        let find = move |reader: &Reader| {
            let ((piece, last), damaged) = reader.old(&keep, from, PIECE_ROWS)?;
            let cut = piece.cut().map(|event| reader.id_of(event));
            Ok((piece, last.map(|last| reader.id_of(last)), cut, damaged))
        };
        let (piece, mut last, cut, damaged) = self.chores.read(find).await?;
        let is_last = last.is_none();
        // The writer is asked for nothing, but for the segments at the end.
        if piece.is_nothing() && !is_last {
            let pruned = Pruned {
                damaged,
                ..Pruned::default()
            };
            return Ok((pruned, next(what, last)));
        }
        let piece = Arc::new(piece);
        let whole = piece.clone();
        let forget = move |tx: &mut Tx| tx.forget(what, &whole, latest).map_err(aborted);
        let (mut pruned, is_all) = match self.writer.call(forget).await {
            Err(error) if is_of_a_page(&error) => {
                // The rest of an event whose deliveries do not go would be the next piece again and again.
                last = cut.or(last);
                self.forget_apart(from, &piece, latest).await?
            }
            forgotten => forgotten?,
        };
        if is_last && what == Aged::Events {
            let forget = |tx: &mut Tx| tx.forget_segments().map_err(aborted);
            match self.writer.call(forget).await {
                Err(error) if is_of_a_page(&error) => pruned.damaged += 1,
                forgotten => forgotten?,
            }
        }
        pruned.damaged += damaged;
        // The rest of a piece with very many attempts goes in the next.
        let next = if is_all { next(what, last) } else { Some(from) };
        Ok((pruned, next))
    }

    async fn own_days(&self) -> Result<Vec<(Id<id::Application>, u32)>, StoreError> {
        self.lists.read(Reader::own_days).await
    }

    async fn used_bytes(&self) -> Result<u64, StoreError> {
        self.points.read(Reader::used_bytes).await
    }
}

impl SqlStore {
    /// Writes the database anew, so that the disk gets back what was freed; it needs as much room once more meanwhile.
    ///
    /// # Errors
    /// `Full`, or what SQLite says.
    pub async fn vacuum(&self) -> Result<(), StoreError> {
        // In no transaction, inside which SQLite refuses it.
        let vacuumed = self.writer.run(|tx| {
            // The other database does that by itself, all the time.
            let Some(connection) = tx.connection.sqlite() else {
                return Ok(());
            };
            // The whole database once more does not fit into memory.
            let sql = "pragma temp_store = file; vacuum; pragma temp_store = memory";
            Ok(connection.execute_batch(sql)?)
        });
        match vacuumed.await {
            Some(done) => done.map_err(aborted),
            None => Err(StoreError::aborted("the writer has ended")),
        }
    }
}

/// What a round would forget of the store in `directory`, which a server may be using. `keep` says until when what
/// is kept, by the days of the applications that have days of their own.
///
/// # Errors
/// When there is no database, or it cannot be read.
pub fn plan(
    directory: &Path,
    keep: impl FnOnce(&[(Id<id::Application>, u32)]) -> Keep,
) -> Result<Pruned, OpenError> {
    let file = directory.join(open::FILE);
    open::must_be_ours(&file)?;
    let wrap = |source| OpenError::from_sqlite(&file, source);
    let connection = open::open_reader(&file)
        .map(Connection::Sqlite)
        .map_err(|error| wrap(error.into()))?;
    let salt = salt_of(&connection).map_err(wrap)?;
    let ahead = ahead(&connection).map_err(wrap)?;
    let reader = Reader::new(connection, salt, ahead);
    let planned = reader.plan(keep);
    planned.map_err(|error| OpenError::Unreadable {
        path: file.clone(),
        source: Box::new(error),
    })
}

impl SqlStore {
    /// As [`plan`], of a database that a server may own.
    ///
    /// # Errors
    /// When it cannot be read.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub async fn plan_in(
        options: PostgresOptions,
        keep: impl FnOnce(&[(Id<id::Application>, u32)]) -> Keep + Send + 'static,
    ) -> Result<Pruned, OpenError> {
        let plan = move || {
            let (source, name) = Server::of(&options)?;
            let planned = source.open(None).map_err(reading).and_then(|connection| {
                let salt = salt_of(&connection).map_err(reading)?;
                let ahead = ahead(&connection).map_err(reading)?;
                Reader::new(connection, salt, ahead).plan(keep)
            });
            planned.map_err(|error| OpenError::UnreadableDatabase {
                name,
                source: Box::new(error),
            })
        };
        let planned = tokio::task::spawn_blocking(plan).await;
        planned.unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic()))
    }
}

impl Reader {
    fn own_days(&self) -> Result<Vec<(Id<id::Application>, u32)>, StoreError> {
        let sql = "select id, settings from application";
        let days = self.all(sql, (), |row| {
            let application = Id::from_key(row.get(0)?, self.salt);
            let days = match from_json::<ApplicationSettings>(row, 1) {
                Ok(settings) => settings.retention_days,
                // What it is to keep nobody knows, and what is gone does not come back.
                Err(error) if is_unreadable(&error) => Some(0),
                Err(error) => return Err(error),
            };
            Ok(days.map(|days| (application, days)))
        });
        Ok(days?.into_iter().flatten().collect())
    }

    fn plan(
        &self,
        keep: impl FnOnce(&[(Id<id::Application>, u32)]) -> Keep,
    ) -> Result<Pruned, StoreError> {
        let keep = keep(&self.own_days()?);
        let (mut pruned, mut from) = (Pruned::default(), Some(PruneFrom::default()));
        while let Some(piece) = from {
            let ((found, last), damaged) = self.old(&keep, piece, usize::MAX)?;
            pruned.damaged += damaged;
            match found {
                Piece::Events(events) => {
                    for old in events {
                        pruned.deliveries += old.deliveries.len() as u64;
                        pruned.events += u64::from(old.is_over);
                    }
                }
                Piece::Rows(rows) => *count_of(&mut pruned, piece.what) += rows.len() as u64,
            }
            from = next(piece.what, last.map(|last| self.id_of(last)));
        }
        Ok(pruned)
    }
}
