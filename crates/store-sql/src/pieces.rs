//! An event for very many endpoints, written in pieces: while one is not being written, others have their turn.
//!
//! The deliveries come first and the event last. Until then it is not accepted: nobody is told of it, and readers find no
//! such event. So it is still there whole or not at all. A mark in `meta` says that one was begun. What is refused, or was left
//! begun by a process or a connection, is taken away between other jobs, at a start before them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use postrider_core::delivery::DeliveryState;
use postrider_store::DueDelivery;
use tokio::time::Instant;

use crate::convert::aborted;
use crate::segments::keys_text;
use crate::sql::{Connection, Optional, SqlResult, params};
use crate::writer::Tx;

/// Deliveries of one event that one transaction makes. Each dirties a page of the index of what waits: these are some
/// one millisecond, for which all others wait.
const PIECE: usize = 64;
/// And the most, where a commit takes long by itself: a slow disk, a standby that is far away.
const PIECE_MAX: usize = 1_024;
/// Of the time that a commit takes by itself, which all wait for anyway, so much is worth one delivery more: making one takes
/// half of it.
const COMMIT_FOR_ONE: Duration = Duration::from_micros(40);
/// Deliveries that are taken away in one transaction.
const TAKEN_BACK_EACH: u32 = 1_000;
/// Between two tries.
const TAKE_BACK_PAUSE: Duration = Duration::from_secs(1);
/// Before the key of an event in `meta`.
const MARK: &str = "fan_out ";

/// Deliveries that a transaction makes of an event, where a commit takes so long by itself.
pub(crate) fn piece(commit: Duration) -> usize {
    let worth = commit.as_micros() / COMMIT_FOR_ONE.as_micros();
    usize::try_from(worth).map_or(PIECE_MAX, |worth| worth.clamp(PIECE, PIECE_MAX))
}

/// How far an event is.
#[derive(Debug, Clone)]
pub(crate) struct Begun {
    /// Decided with the first piece, whatever changes meanwhile.
    pub(crate) recipients: Arc<Vec<(i64, DeliveryState)>>,
    pub(crate) sequence: i64,
    /// Of the recipients those that have a delivery.
    pub(crate) made: usize,
}

/// What a transaction does about an event.
#[derive(Debug)]
enum Step {
    /// It is so far, and these are the deliveries of the last piece.
    Made(Begun, Vec<DueDelivery>),
    Ended,
    Refused,
}

/// The events that are begun, by their keys.
#[derive(Debug, Default)]
pub(crate) struct Pieces {
    /// With what the lanes are told of at the end.
    begun: HashMap<i64, (Begun, Vec<DueDelivery>)>,
    /// What the open transaction does.
    open: Vec<(i64, Step)>,
    /// Those that will not be accepted, and have deliveries that are to be taken away.
    refused: Vec<i64>,
    /// Not before then, when it could not be done.
    not_before: Option<Instant>,
}

impl Pieces {
    /// What a process has left begun, or a connection that broke: none of it is accepted.
    pub(crate) fn left(connection: &Connection) -> SqlResult<Self> {
        let sql = "select value from meta where key like 'fan_out %'";
        let mut statement = connection.prepare_cached(sql)?;
        Ok(Self {
            refused: statement.query_all((), |row| row.get(0))?,
            ..Self::default()
        })
    }

    /// Until the next start.
    pub(crate) fn forget_refused(&mut self) {
        self.refused.clear();
    }

    pub(crate) fn begun(&self, event: i64) -> Option<&Begun> {
        // As nearly always: nothing is looked for then.
        if self.begun.is_empty() {
            return None;
        }
        self.begun.get(&event).map(|(begun, _)| begun)
    }

    /// The deliveries that it has already.
    pub(crate) fn deliveries(&self, event: i64) -> Vec<DueDelivery> {
        let of = self.begun.get(&event);
        of.map_or_else(Vec::new, |(_, deliveries)| deliveries.clone())
    }

    /// One has got so far when the transaction is committed.
    pub(crate) fn made(&mut self, event: i64, begun: Begun, deliveries: Vec<DueDelivery>) {
        self.open.push((event, Step::Made(begun, deliveries)));
    }

    /// One has ended when the transaction is committed.
    pub(crate) fn ended(&mut self, event: i64) {
        self.open.push((event, Step::Ended));
    }

    /// As [`Pieces::refuse`], when the transaction is committed.
    pub(crate) fn give_up(&mut self, event: i64) {
        if self.begun.contains_key(&event) {
            self.open.push((event, Step::Refused));
        }
    }

    /// What was begun of one goes, as soon as it can; whoever comes with more of it is refused.
    pub(crate) fn refuse(&mut self, event: i64) {
        if self.begun.remove(&event).is_some() {
            self.refused.push(event);
        }
    }

    pub(crate) fn is_refused(&self, event: i64) -> bool {
        self.refused.contains(&event)
    }

    /// Whether something is to be taken away, and may be tried now.
    pub(crate) fn has_refused(&self) -> bool {
        !self.refused.is_empty() && self.not_before.is_none_or(|at| at <= Instant::now())
    }

    /// How much the open transaction has done.
    pub(crate) fn so_far(&self) -> usize {
        self.open.len()
    }

    /// The transaction is committed.
    pub(crate) fn is_true(&mut self) {
        for (event, step) in self.open.drain(..) {
            match step {
                Step::Made(begun, mut deliveries) => {
                    let entry = self.begun.entry(event);
                    let (known, all) = entry.or_insert_with(|| (begun.clone(), Vec::new()));
                    *known = begun;
                    all.append(&mut deliveries);
                }
                Step::Ended => drop(self.begun.remove(&event)),
                Step::Refused => {
                    self.begun.remove(&event);
                    self.refused.push(event);
                }
            }
        }
    }

    /// The transaction is rolled back, or what it has done since it had done so much.
    pub(crate) fn undo(&mut self, so_far: usize) {
        self.open.truncate(so_far);
    }
}

impl Tx {
    pub(crate) fn mark_begun(&self, event: i64) -> SqlResult<()> {
        let sql = "insert into meta (key, value) values (?1, ?2) on conflict (key) do nothing";
        let mut statement = self.connection.prepare_cached(sql)?;
        statement
            .execute(params![format!("{MARK}{event}"), event])
            .map(drop)
    }

    pub(crate) fn mark_ended(&self, event: i64) -> SqlResult<()> {
        let sql = "delete from meta where key = ?1";
        let mut statement = self.connection.prepare_cached(sql)?;
        statement
            .execute(params![format!("{MARK}{event}")])
            .map(drop)
    }

    /// Takes the deliveries of an event that will not be accepted away; true when there are no more.
    pub(crate) fn take_back(&mut self, event: i64) -> SqlResult<bool> {
        // Nobody knew what became of the last commit, and it was made.
        let accepted = {
            let mut statement = self
                .connection
                .prepare_cached("select id from event where id = ?1")?;
            let found: Option<i64> = statement.query_row([event], |row| row.get(0)).optional()?;
            found.is_some()
        };
        if accepted {
            return self.mark_ended(event).map(|()| true);
        }
        let sql = "select id from delivery where event_id = ?1 limit ?2";
        let keys: Vec<i64> = {
            let mut statement = self.connection.prepare_cached(sql)?;
            statement.query_all(params![event, TAKEN_BACK_EACH], |row| row.get(0))?
        };
        let segments = self.by_segment(&keys)?;
        self.leave_with_deliveries(&segments)?;
        let sql = "delete from delivery where id in (select value from json_each(?1))";
        let mut statement = self.connection.prepare_cached(sql)?;
        statement.execute([keys_text(&keys)])?;
        drop(statement);
        let is_over = keys.len() < TAKEN_BACK_EACH as usize;
        if is_over {
            self.mark_ended(event)?;
        }
        Ok(is_over)
    }

    /// One step of taking away what is refused: others have their turn between two.
    pub(crate) fn take_back_some(&mut self) {
        let Some(event) = self.pieces.refused.first().copied() else {
            return;
        };
        match self.in_transaction(|tx| tx.take_back(event).map_err(aborted)) {
            Ok(true) => {
                self.pieces.refused.retain(|refused| *refused != event);
            }
            Ok(false) => {}
            Err(error) => {
                self.pieces.not_before = Some(Instant::now() + TAKE_BACK_PAUSE);
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "what was begun of an event that is not accepted could not be taken away; trying again"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_that_takes_long_is_worth_more_deliveries() {
        let ms = Duration::from_millis;
        assert_eq!(piece(ms(0)), PIECE);
        assert_eq!(piece(ms(2)), PIECE);
        assert_eq!(piece(ms(10)), 250);
        assert_eq!(piece(ms(60_000)), PIECE_MAX);
    }
}
