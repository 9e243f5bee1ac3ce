//! One batch: as much of it as one transaction takes, and what is damaged in one of its own.

use std::cell::Cell;
use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use postrider_core::limits::TRANSACTION_ROWS;
use postrider_core::time::Moment;
use postrider_store::{Answers, Batch, RecordAttempt, StoreError, Written};

use crate::convert::{aborted, is_of_a_page};
use crate::sql::{Failure, SqlError};
use crate::writer::Tx;

/// How the writes of a transaction are made.
struct Manner {
    /// Each in a savepoint of its own, so that one that fails leaves the others be.
    apart: bool,
    /// Deliveries that the transaction may still make. What is left when there are none is for the next.
    room: Cell<usize>,
    /// Writes so far, of all kinds.
    position: Cell<usize>,
    /// What met a damaged page in a try before this one.
    met: Met,
    /// What meets one in this.
    found: Cell<Met>,
}

/// Damaged pages that were met.
#[derive(Default)]
struct Met {
    /// The place of the write that met one, and what it is answered: it is not made, and those behind it are for the next.
    write: Option<(usize, StoreError)>,
    /// What is counted of attempts cannot be: it is left out.
    counts: bool,
}

impl Manner {
    fn new(apart: bool, met: Met) -> Self {
        Self {
            apart,
            room: Cell::new(TRANSACTION_ROWS),
            position: Cell::new(0),
            met,
            found: Cell::default(),
        }
    }
}

impl Tx {
    /// One transaction for a batch, or for its beginning; several only where damaged pages are met.
    pub(crate) fn commit_batch(&mut self, now: Moment, batch: Batch) -> Written {
        let (mut rest, mut all) = (batch, Answers::default());
        loop {
            let mut is_cut = false;
            let answers = match self.commit_some(now, &rest, &mut is_cut) {
                Ok(answers) => answers,
                // Of what comes after it too, which would overtake what could not be written.
                Err(error) => Answers::failed(&rest, || error.copied()),
            };
            for (new, answer) in rest.publishes.iter().zip(&answers.publishes) {
                // Not accepted: what there is of it goes.
                if answer.is_err() {
                    self.pieces.refuse(new.event.id.key());
                }
            }
            rest = rest.behind(&answers);
            all.append(answers);
            // What is behind a damaged page had its turn in this batch: nobody waits for the next because of it.
            if !is_cut || rest.is_empty() {
                return Written { rest, answers: all };
            }
        }
    }

    /// One transaction for the first writes, at least one. What cannot be written because a
    /// row that it needs is damaged spoils the transaction; then it is made again with a savepoint for each write,
    /// so that only that one is refused. A damaged page spoils it all the same; then it is made once more, and ends before
    /// the write that met it, which `is_cut` says, or counts no attempts.
    fn commit_some(
        &mut self,
        now: Moment,
        batch: &Batch,
        is_cut: &mut bool,
    ) -> Result<Answers, StoreError> {
        match self.tried(now, batch, &Manner::new(false, Met::default())) {
            Some(Err(error)) if is_of_one(&error) => {}
            Some(committed) => return committed,
            None => {}
        }
        let mut met = Met::default();
        loop {
            let how = Manner::new(true, met);
            let committed = self.tried(now, batch, &how);
            let found = how.found.take();
            *is_cut = how.met.write.is_some();
            // Each is met once at most: what was met before is not tried again.
            if found.write.is_none() && !found.counts {
                return committed.unwrap_or_else(|| {
                    Err(StoreError::aborted("a write broke off inside the server"))
                });
            }
            met = Met {
                write: found.write.or(how.met.write),
                counts: found.counts || how.met.counts,
            };
        }
    }

    /// None when it panicked.
    fn tried(
        &mut self,
        now: Moment,
        batch: &Batch,
        how: &Manner,
    ) -> Option<Result<Answers, StoreError>> {
        let tried = catch_unwind(AssertUnwindSafe(|| {
            self.in_transaction(|tx| tx.write_some(now, batch, how))
        }));
        if tried.is_err() {
            // A panic has gone past the rollback that an error gets.
            self.roll_back();
        }
        tried.ok()
    }

    fn write_some(
        &mut self,
        now: Moment,
        batch: &Batch,
        how: &Manner,
    ) -> Result<Answers, StoreError> {
        let records = &batch.records;
        if how.apart {
            // One damaged row would spoil what is asked of all of them together.
            self.look_ahead_at_nothing();
        } else {
            self.look_ahead(batch).map_err(aborted)?;
            // All at once, because each segment is then read and written once. Apart, each write sees to its own.
            let entered = self.entered(records);
            self.leave_tallies(&entered).map_err(aborted)?;
        }
        // The order of the fields is that of the writes: what a batch ends, it may send again.
        let answers = Answers {
            records: self.each(how, records, |tx, record| {
                tx.record(now.wall, record).map(is_made)
            })?,
            finishes: self.each(how, &batch.finishes, |tx, finish| {
                tx.finish(now.wall, *finish).map(is_made)
            })?,
            resends: self.each(how, &batch.resends, |tx, resend| {
                tx.resend(now, *resend).map(is_made)
            })?,
            catch_ups: self.each(how, &batch.catch_ups, |tx, missed| {
                tx.catch_up(now, *missed).map(is_made)
            })?,
            publishes: self.each(how, &batch.publishes, |tx, new| {
                // Of what was begun on another connection: nothing of this one is spoilt by it.
                if tx.pieces.is_refused(new.event.id.key()) {
                    let detail =
                        "the database was away while the event was being written; publish it again";
                    let detail = detail.to_owned();
                    return Ok(Some(Err(StoreError::Unavailable { detail })));
                }
                let (published, work) = tx.publish(now, new)?;
                // Of the other kinds each write is about one delivery; only an event makes many, or asks for many.
                let left = how.room.get().saturating_sub(work);
                how.room.set(left);
                Ok(published.map(Ok))
            })?,
        };
        self.come_back().map_err(aborted)?;
        if how.met.counts {
            // Statistics lack them until the segments are made anew.
            tracing::error!("a page with counts of attempts is damaged: see postrider doctor");
            self.outcomes.clear();
        }
        let counted = match how.apart {
            // What is only queued would fail where nobody knows any more that it was this.
            true => self.apart(|tx| tx.count_outcomes().map_err(aborted)),
            false => self.count_outcomes().map_err(aborted),
        };
        match counted {
            Err(error) if how.apart && is_of_one(&error) => {
                how.found.set(Met {
                    write: None,
                    counts: true,
                });
                Err(error)
            }
            counted => counted.map(|()| answers),
        }
    }

    /// The writes of one kind, until there is no room, or one is not whole yet: none. An error spoils the transaction.
    fn each<W, A>(
        &mut self,
        how: &Manner,
        writes: &[W],
        write: impl Fn(&mut Self, &W) -> Made<A>,
    ) -> Result<Vec<Result<A, StoreError>>, StoreError> {
        let mut answers = Vec::with_capacity(writes.len());
        for one in writes {
            // Asked before a write, not after it: an event is written whole, whatever it makes.
            if how.room.get() == 0 {
                break;
            }
            let position = how.position.get();
            how.position.set(position + 1);
            if let Some((bad, error)) = &how.met.write
                && *bad == position
            {
                answers.push(Err(error.copied()));
                how.room.set(0);
                break;
            }
            let written = if how.apart {
                self.apart(|tx| write(tx, one))
            } else {
                write(self, one)
            };
            answers.push(match written {
                Ok(Some(answer)) => answer,
                Ok(None) => break,
                // What the caller did wrong was found before anything was written.
                Err(error @ (StoreError::NotFound { .. } | StoreError::Conflict { .. })) => {
                    Err(error)
                }
                Err(error) if how.apart && is_of_a_page(&error) => {
                    how.found.set(Met {
                        write: Some((position, error.copied())),
                        counts: false,
                    });
                    return Err(error);
                }
                Err(error) if how.apart && is_of_one(&error) => Err(for_good(error)),
                Err(error) => return Err(error),
            });
        }
        Ok(answers)
    }

    /// Deliveries of records that are in a segment.
    fn entered(&self, records: &[Arc<RecordAttempt>]) -> HashSet<i64> {
        let keys = records.iter();
        let keys = keys.filter_map(|record| record.delivery.key_in(self.salt));
        keys.filter(|key| *key <= self.indexed_until).collect()
    }

    /// A write inside a savepoint: when it fails, nothing of it is left.
    fn apart<A>(
        &mut self,
        write: impl FnOnce(&mut Self) -> Result<A, StoreError>,
    ) -> Result<A, StoreError> {
        let run = |tx: &Self, sql| tx.connection.execute_batch(sql).map_err(aborted);
        run(self, "savepoint one")?;
        let so_far = (self.pieces.so_far(), self.outcomes.len());
        let noted = self.shares.so_far();
        let written = catch_unwind(AssertUnwindSafe(|| {
            let written = write(self)?;
            // What is only queued could fail where nobody knows any more whose it is.
            self.connection.flush().map_err(aborted)?;
            Ok(written)
        }));
        let written = written.unwrap_or_else(|_| {
            Err(StoreError::Corrupt {
                place: "a write that broke off".to_owned(),
                source: "a panic inside the server".into(),
            })
        });
        if written.is_err() {
            // The cache may have learned what is undone here.
            self.fanout.undo();
            self.pieces.undo(so_far.0);
            self.outcomes.truncate(so_far.1);
            self.shares.undo(noted);
            if let Err(lost) = self.connection.roll_back_to("one") {
                // The whole transaction is undone, as SQLite does when the disk is full: that is why, and tells more.
                let of_all = written.err().filter(|error| !is_of_one(error));
                let detail = format!("the transaction was lost: {lost}");
                return Err(of_all.unwrap_or(StoreError::Unavailable { detail }));
            }
        }
        // A savepoint is still there after what came since was undone.
        run(self, "release one")?;
        written
    }
}

/// What one write has come to: an answer, or none while it is not whole yet.
type Made<A> = Result<Option<Result<A, StoreError>>, StoreError>;

fn is_made<A>(written: A) -> Option<Result<A, StoreError>> {
    Some(Ok(written))
}

/// Tried again it would fail again, and everything would wait for it.
fn for_good(error: StoreError) -> StoreError {
    match error {
        StoreError::Aborted { source } => StoreError::Corrupt {
            place: source.to_string(),
            source,
        },
        error => error,
    }
}

/// Whether it is the fault of one write, or of the rows that it needs, and not of the whole store.
fn is_of_one(error: &StoreError) -> bool {
    match error {
        StoreError::Corrupt { .. } => true,
        // A full disk, a broken connection or somebody in the way would meet the next write as well.
        StoreError::Aborted { source } => source
            .downcast_ref::<SqlError>()
            .is_none_or(|error| matches!(error.failure(), Failure::Taken | Failure::Refused)),
        _ => false,
    }
}
