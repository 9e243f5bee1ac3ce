//! How attempts ended, counted beside the tallies of deliveries: an attempt is counted in the segment of its delivery.
//!
//! Most are made before their delivery is entered, and are counted with it. Those that come later are counted at the end of their
//! commit; what is deleted is taken out.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::LazyLock;

use postrider_core::attempt::Attempt;
use postrider_store::{TOOK_MILLIS, took_class};

use crate::segments::{keys_text, tally_micros};
use crate::sql::{Connection, Optional as _, SqlResult, params};
use crate::writer::Tx;

/// The first segment whose attempts are counted. Those before it were made by a version that did not, and of them nobody tells
/// how attempts ended.
const COUNTED_FROM: &str = "outcomes_from";

/// How an attempt is counted, its code and its class, as columns; `row` is what its row is called, with a dot, or nothing.
pub(crate) fn code_and_class(row: &str) -> String {
    let ends = TOOK_MILLIS.iter().enumerate();
    let class: Vec<String> = ends
        .map(|(class, millis)| format!("when {row}total_us <= {millis}000 then {class}"))
        .collect();
    let (class, beyond) = (class.join(" "), TOOK_MILLIS.len());
    format!(
        "coalesce(cast({row}status as text), {row}reason, '') as code, case {class} else {beyond} end as class"
    )
}

/// Counts the attempts of the deliveries from ?2 to ?3, which are being entered into the segment ?1.
static ENTER: LazyLock<String> = LazyLock::new(|| {
    format!(
        "insert into outcome_tally (segment, tenant_id, endpoint_id, event_type, mode, period, code, class, attempts)
         select cast(?1 as bigint), tenant_id, endpoint_id, event_type, mode, period, code, class, count(*) from (
             select d.tenant_id, d.endpoint_id, d.event_type, d.mode, d.created_at / {} as period, {}
             from delivery d cross join attempt a on a.delivery_id = d.id where d.id between ?2 and ?3) as made
         where true group by 2, 3, 4, 5, 6, 7, 8
         on conflict (segment, tenant_id, endpoint_id, event_type, mode, period, code, class) do update
         set attempts = outcome_tally.attempts + excluded.attempts",
        tally_micros!(),
        code_and_class("a.")
    )
});

/// Adds to a count, which may be less than nothing.
const ADD: &str =
    "insert into outcome_tally (segment, tenant_id, endpoint_id, event_type, mode, period, code, class, attempts)
     values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
     on conflict (segment, tenant_id, endpoint_id, event_type, mode, period, code, class) do update
     set attempts = outcome_tally.attempts + excluded.attempts";

/// Takes away what counts nothing more, of the deliveries ?2, which are in the segment ?1.
const CLEAR: &str = concat!(
    "delete from outcome_tally where attempts <= 0 and (segment, tenant_id, endpoint_id, event_type, mode, period) in (
         select cast(?1 as bigint), tenant_id, endpoint_id, event_type, mode, created_at / ",
    tally_micros!(),
    " from delivery where id in (select value from json_each(?2)))"
);

/// What attempts are told apart by within a segment, but for their code and class.
type Of = (i64, i64, String, i64, i64);

/// An attempt as it is counted: its delivery, its code and its class.
pub(crate) type Counted = (i64, String, i64);

/// The first segment whose attempts are counted in the tally.
pub(crate) fn counted_from(connection: &Connection) -> SqlResult<i64> {
    let mut statement = connection.prepare_cached("select value from meta where key = ?1")?;
    let found = statement
        .query_row([COUNTED_FROM], |row| row.get(0))
        .optional()?;
    Ok(found.unwrap_or(0))
}

/// Says that all segments are entered anew, and so are counted.
pub(crate) const COUNT_ALL: &str =
    "delete from outcome_tally; update meta set value = 0 where key = 'outcomes_from'";

impl Tx {
    /// Counts the attempts of deliveries that are being entered.
    pub(crate) fn enter_outcomes(&self, segment: i64, from: i64, until: i64) -> SqlResult<()> {
        let mut statement = self.connection.prepare_cached(&ENTER)?;
        statement.execute([segment, from, until]).map(drop)
    }

    /// Notes an attempt that was just recorded, if its delivery is in a segment already.
    pub(crate) fn note_outcome(&mut self, delivery: i64, attempt: &Attempt) {
        if delivery <= self.indexed_until {
            let class = took_class(attempt.timings.total_micros);
            let class = i64::try_from(class).unwrap_or(i64::MAX);
            let code = attempt.outcome.code().into_owned();
            self.outcomes.push((delivery, code, class));
        }
    }

    /// Counts what was noted: all at once, because each question may have a way to go.
    pub(crate) fn count_outcomes(&mut self) -> SqlResult<()> {
        let noted = std::mem::take(&mut self.outcomes);
        let deliveries: BTreeSet<i64> = noted.iter().map(|(delivery, ..)| *delivery).collect();
        for (segment, keys) in self.by_segment(&deliveries)? {
            self.shift(segment, &keys, &noted, 1)?;
        }
        Ok(())
    }

    /// Takes attempts that were just deleted, of deliveries that are still there, out of their segments' counts.
    pub(crate) fn leave_outcomes(
        &self,
        gone: &[Counted],
        segments: &BTreeMap<i64, Vec<i64>>,
    ) -> SqlResult<()> {
        for (segment, keys) in segments {
            self.shift(*segment, keys, gone, -1)?;
            let mut clear = self.connection.prepare_cached(CLEAR)?;
            clear.execute(params![*segment, keys_text(keys)])?;
        }
        Ok(())
    }

    /// Adds attempts of the deliveries `keys`, which are in a segment, to its counts, each `times`.
    fn shift(&self, segment: i64, keys: &[i64], attempts: &[Counted], times: i64) -> SqlResult<()> {
        let sql = concat!(
            "select tenant_id, endpoint_id, event_type, mode, created_at / ",
            tally_micros!(),
            ", id from delivery where id in (select value from json_each(?1))"
        );
        let mut of: BTreeMap<i64, Of> = BTreeMap::new();
        let mut statement = self.connection.prepare_cached(sql)?;
        statement.each([keys_text(keys)], |row| {
            // One that does not read is left out: it would undo the records of all others.
            let Ok(event_type) = row.text(2).map(str::to_owned) else {
                return Ok(ControlFlow::Continue(()));
            };
            let apart = (
                row.get(0)?,
                row.get(1)?,
                event_type,
                row.get(3)?,
                row.get(4)?,
            );
            of.insert(row.get(5)?, apart);
            Ok(ControlFlow::Continue(()))
        })?;
        drop(statement);
        // Once each: one statement for many rows must not meet a row twice.
        let mut counts: BTreeMap<(&Of, &str, i64), i64> = BTreeMap::new();
        for (delivery, code, class) in attempts {
            if let Some(of) = of.get(delivery) {
                *counts.entry((of, code, *class)).or_default() += times;
            }
        }
        let mut add = self.connection.prepare_cached(ADD)?;
        for ((of, code, class), attempts) in counts {
            let (tenant, endpoint, event_type, mode, period) = of;
            add.enqueue(params![
                segment,
                *tenant,
                *endpoint,
                &**event_type,
                *mode,
                *period,
                code,
                class,
                attempts
            ])?;
        }
        Ok(())
    }
}
