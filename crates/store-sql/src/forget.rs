//! Deliveries and events that go for good, with all that hangs on them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use crate::outcomes::code_and_class;
use crate::segments::keys_text;
use crate::sql::{SqlResult, params};
use crate::writer::Tx;

/// What went of some deliveries.
pub(crate) struct Forgotten {
    /// With attempts.
    pub(crate) rows: usize,
    /// Otherwise some have very many attempts: they go when those are gone, in a later piece.
    pub(crate) is_all: bool,
}

/// Attempts that go in one piece for each delivery of it.
// Of the 250 deliveries of a piece of a deletion these are the 1,000 of docs/limits.md.
const ATTEMPTS_EACH: usize = 4;

impl Tx {
    /// Deletes deliveries with their attempts, and the designs that only those had.
    pub(crate) fn forget_deliveries(&self, deliveries: &[i64]) -> SqlResult<Forgotten> {
        // One more, so that none is not all.
        let attempts_max = deliveries.len() * ATTEMPTS_EACH + 1;
        let keys = keys_text(deliveries);
        // First, because an attempt is found by its delivery alone.
        let segments = self.by_segment(deliveries)?;
        let mut rows = self.forget_attempts(&keys, attempts_max, &segments)?;
        let is_all = rows < attempts_max;
        if is_all {
            // While the rows are there: what their segments have of them is read from them.
            self.leave_with_deliveries(&segments)?;
            let sql = "delete from delivery where id in (select value from json_each(?1))";
            rows += self.connection.prepare_cached(sql)?.execute([keys])?;
        }
        Ok(Forgotten { rows, is_all })
    }

    fn forget_attempts(
        &self,
        deliveries: &str,
        limit: usize,
        segments: &BTreeMap<i64, Vec<i64>>,
    ) -> SqlResult<usize> {
        let sql = format!(
            "delete from attempt where (delivery_id, number) in (
                 select a.delivery_id, a.number from json_each(?1) k cross join attempt a on a.delivery_id = k.value limit ?2)
             returning rendering_id, delivery_id, {}",
            code_and_class("")
        );
        let mut statement = self.connection.prepare_cached(&sql)?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let (mut gone, mut renderings) = (Vec::new(), BTreeSet::new());
        statement.each(params![deliveries, limit], |row| {
            // Once each: most attempts of a delivery have the same one.
            renderings.extend(row.get::<Option<i64>>(0)?);
            gone.push((row.get(1)?, row.text(2)?.to_owned(), row.get(3)?));
            Ok(ControlFlow::Continue(()))
        })?;
        drop(statement);
        self.leave_outcomes(&gone, segments)?;
        let sql = "delete from rendering where id = ?1 and not exists (select 1 from attempt where rendering_id = ?1)";
        for rendering in renderings {
            self.connection.prepare_cached(sql)?.execute([rendering])?;
        }
        Ok(gone.len())
    }

    /// Events of which no delivery is left; returns how many went.
    pub(crate) fn forget_events(&self, events: &[i64]) -> SqlResult<usize> {
        // As with deliveries: while the rows are there.
        self.leave_with_events(events)?;
        let sql = "delete from event where id in (select value from json_each(?1))";
        let mut delete = self.connection.prepare_cached(sql)?;
        delete.execute([keys_text(events)])
    }
}
