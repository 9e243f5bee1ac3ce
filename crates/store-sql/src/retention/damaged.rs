//! Forgetting goes on around what is damaged: that stays, and is told.

use std::sync::Arc;

use postrider_core::Timestamp;
use postrider_store::{Aged, Keep, PruneFrom, Pruned, StoreError};

use super::{LOOK_ROWS, Looked, Piece, key_of, table_of};
use crate::SqlStore;
use crate::convert::{aborted, is_of_a_page, reading};
use crate::read::{Reader, key_before};
use crate::sql::{Optional as _, SqlResult};
use crate::writer::Tx;

/// Rows that are looked at at once: fewer and fewer before what does not read.
const LOOKS: [u32; 4] = [LOOK_ROWS, 150, 12, 1];

impl Reader {
    /// What of the next rows is to go, and how often something was passed over.
    pub(super) fn old(
        &self,
        keep: &Keep,
        from: PruneFrom,
        rows_max: usize,
    ) -> Result<(Looked, u64), StoreError> {
        for look in LOOKS {
            match self.old_of(keep, from, rows_max, look) {
                Err(error) if error.is_of_a_page() => {}
                found => return found.map(|found| (found, 0)).map_err(reading),
            }
        }
        let latest = keep.latest().max(keep.audit_before);
        // Of those that are looked at: all others would be passed over one by one.
        let rows = match from.what {
            Aged::Endpoints => "endpoint where deleted = 1",
            Aged::Tasks => "task where finished_at is not null",
            what => &format!("{} where true", table_of(what)),
        };
        let behind = self.behind(rows, key_of(from), latest);
        Ok(((Piece::Rows(Vec::new()), behind.map_err(reading)?), 1))
    }

    /// The key of the row behind `after`, or before the first behind it that can be found; none if there is none.
    fn behind(&self, rows: &str, after: i64, latest: Timestamp) -> SqlResult<Option<i64>> {
        let sql = format!("select id from {rows} and id > ?1 order by id limit 1");
        // Damage reads as none inside.
        let find = |after: i64| {
            let mut statement = self.connection.prepare_cached(&sql)?;
            match statement
                .query_row([after], |row| row.get::<i64>(0))
                .optional()
            {
                Err(error) if error.is_of_a_page() => Ok(None),
                found => found.map(Some),
            }
        };
        // What was found is damaged where it leads to.
        if let Some(found) = find(after)? {
            return Ok(found);
        }
        let (mut lost, mut found) = (after, key_before(latest, self.ahead));
        while found - lost > 1 {
            let between = lost + (found - lost) / 2;
            match find(between)? {
                None => lost = between,
                Some(_) => found = between,
            }
        }
        Ok(find(found)?.flatten().map(|_| found))
    }
}

impl SqlStore {
    /// Deletes what a piece has one by one, but for what is damaged. False as with [`Tx::forget`].
    pub(super) async fn forget_apart(
        &self,
        from: PruneFrom,
        piece: &Piece,
        latest: Timestamp,
    ) -> Result<(Pruned, bool), StoreError> {
        let (mut pruned, mut is_all) = (Pruned::default(), true);
        for one in piece.apart() {
            let what = from.what;
            let one = Arc::new(one);
            let forget = move |tx: &mut Tx| tx.forget(what, &one, latest).map_err(aborted);
            match self.writer.call(forget).await {
                Ok((gone, is_whole)) => {
                    pruned += gone;
                    is_all &= is_whole;
                }
                Err(error) if is_of_a_page(&error) => pruned.damaged += 1,
                Err(error) => return Err(error),
            }
        }
        Ok((pruned, is_all))
    }
}
