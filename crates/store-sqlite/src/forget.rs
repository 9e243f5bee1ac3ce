//! Deliveries and events that go for good, with all that hangs on them.

use std::collections::BTreeSet;

use rusqlite::params;

use crate::convert::SqlResult;
use crate::writer::Tx;

/// What went of some deliveries.
pub(crate) struct Forgotten {
    /// With attempts.
    pub(crate) rows: usize,
    /// Otherwise some have very many attempts: they go when those are gone, in a later piece.
    pub(crate) is_all: bool,
}

/// Attempts that go in one piece for each delivery of it.
const ATTEMPTS_EACH: usize = 4;

impl Tx {
    /// Deletes deliveries with their attempts, and the designs that only those had.
    pub(crate) fn forget_deliveries(&self, deliveries: &[i64]) -> SqlResult<Forgotten> {
        // One more, so that none is not all.
        let attempts_max = deliveries.len() * ATTEMPTS_EACH + 1;
        let mut rows = 0;
        let mut renderings = BTreeSet::new();
        for delivery in deliveries {
            let room = attempts_max.saturating_sub(rows);
            rows += self.forget_attempts(*delivery, room, &mut renderings)?;
            if rows >= attempts_max {
                break;
            }
        }
        let sql = "delete from rendering where id = ?1 and not exists (select 1 from attempt where rendering_id = ?1)";
        for rendering in renderings {
            self.connection.prepare_cached(sql)?.execute([rendering])?;
        }
        let is_all = rows < attempts_max;
        if is_all {
            let sql = "delete from delivery where id = ?1";
            let mut delete = self.connection.prepare_cached(sql)?;
            for delivery in deliveries {
                self.leave_with_delivery(*delivery)?;
                rows += delete.execute([delivery])?;
            }
        }
        Ok(Forgotten { rows, is_all })
    }

    fn forget_attempts(
        &self,
        delivery: i64,
        limit: usize,
        renderings: &mut BTreeSet<i64>,
    ) -> SqlResult<usize> {
        let sql = "delete from attempt where delivery_id = ?1
                   and number in (select number from attempt where delivery_id = ?1 limit ?2) returning rendering_id";
        let mut statement = self.connection.prepare_cached(sql)?;
        let gone = statement.query_map(
            params![delivery, i64::try_from(limit).unwrap_or(i64::MAX)],
            |row| row.get(0),
        )?;
        let gone: Vec<Option<i64>> = gone.collect::<SqlResult<_>>()?;
        renderings.extend(gone.iter().flatten());
        Ok(gone.len())
    }

    /// Events of which no delivery is left; returns how many went.
    pub(crate) fn forget_events(&self, events: &[i64]) -> SqlResult<usize> {
        let mut delete = self
            .connection
            .prepare_cached("delete from event where id = ?1")?;
        let mut rows = 0;
        for event in events {
            self.leave_with_event(*event)?;
            rows += delete.execute([event])?;
        }
        Ok(rows)
    }
}
