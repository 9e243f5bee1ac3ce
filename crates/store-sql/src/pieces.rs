//! An event for very many endpoints, written in pieces: while one is not being written, others have their turn.
//!
//! The deliveries come first and the event last. Until then it is not accepted: nobody is told of it, and readers find no
//! such event. So it is still there whole or not at all. A mark in `meta` says that one was begun, and what a process has
//! left begun is taken away when the next one starts.

use std::collections::HashMap;
use std::sync::Arc;

use postrider_core::delivery::DeliveryState;
use postrider_store::{DueDelivery, StoreError};

use crate::convert::aborted;
use crate::segments::keys_text;
use crate::sql::{Optional, SqlResult, params};
use crate::writer::Tx;

/// Deliveries of one event that one transaction makes. Each dirties a page of the index of what waits: these are some
/// three milliseconds, for which all others wait.
pub(crate) const PIECE: usize = 256;
/// Deliveries that are taken away in one transaction.
const TAKEN_BACK_EACH: u32 = 1_000;
/// Before the key of an event in `meta`.
const MARK: &str = "fan_out ";

/// How far an event is.
#[derive(Debug, Clone)]
pub(crate) struct Begun {
    /// Decided with the first piece, whatever changes meanwhile.
    pub(crate) recipients: Arc<[(i64, DeliveryState)]>,
    pub(crate) sequence: i64,
    /// Of the recipients those that have a delivery.
    pub(crate) made: usize,
    /// What the lanes are told of at the end.
    pub(crate) deliveries: Vec<DueDelivery>,
}

/// The events that are begun, by their keys.
#[derive(Debug, Default)]
pub(crate) struct Pieces {
    begun: HashMap<i64, Begun>,
    /// What the open transaction does about them; none is that one has ended.
    open: Vec<(i64, Option<Begun>)>,
}

impl Pieces {
    pub(crate) fn begun(&self, event: i64) -> Option<&Begun> {
        self.begun.get(&event)
    }

    /// One has got so far, or has ended, when the transaction is committed.
    pub(crate) fn leave(&mut self, event: i64, begun: Option<Begun>) {
        self.open.push((event, begun));
    }

    /// Forgets one; whether it was begun.
    pub(crate) fn forget(&mut self, event: i64) -> bool {
        self.begun.remove(&event).is_some()
    }

    /// The transaction is committed.
    pub(crate) fn is_true(&mut self) {
        for (event, begun) in self.open.drain(..) {
            match begun {
                Some(begun) => drop(self.begun.insert(event, begun)),
                None => drop(self.begun.remove(&event)),
            }
        }
    }

    /// The transaction, or a part of it, is rolled back.
    pub(crate) fn undo(&mut self) {
        self.open.clear();
    }
}

impl Tx {
    pub(crate) fn mark_begun(&self, event: i64) -> SqlResult<()> {
        let sql = "insert into meta (key, value) values (?1, ?2)";
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
        self.leave_with_deliveries(&keys)?;
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

    pub(crate) fn take_back_whole(&mut self, event: i64) -> Result<(), StoreError> {
        while !self.in_transaction(|tx| tx.take_back(event).map_err(aborted))? {}
        Ok(())
    }

    /// Takes away what the last process has begun and not brought to its end.
    pub(crate) fn take_back_all(&mut self) -> Result<(), StoreError> {
        let sql = "select value from meta where key like 'fan_out %'";
        let begun: Vec<i64> = {
            let mut statement = self.connection.prepare_cached(sql).map_err(aborted)?;
            let found = statement.query_all((), |row| row.get(0));
            found.map_err(aborted)?
        };
        for event in begun {
            self.take_back_whole(event)?;
            tracing::info!(
                "an event that the last process had begun to write, and accepted not, was taken away"
            );
        }
        Ok(())
    }
}
