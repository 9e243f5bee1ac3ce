//! Counts of deliveries: of whole segments from their tallies, of the rest from the rows.

use std::rc::Rc;

use postrider_core::delivery::{DeliveryState, FailReason};
use postrider_core::endpoint::Endpoint;
use postrider_core::{Id, Timestamp, id};
use postrider_store::{
    Alike, AlikeAttempts, Count, EndpointStats, Statistics, StatisticsQuery, StoreError,
};

use super::Reader;
use super::list::{
    DELIVERIES_OF_ENDPOINT, DELIVERIES_OF_TENANT, first_key, key_before, state_condition,
};
use crate::convert::{mode, mode_number, reading, time};
use crate::outcomes::{code_and_class, counted_from};
use crate::segments::{TALLY_MICROS, indexed_until};
use crate::sql::{Row, SqlResult, Value, unreadable};

/// What is counted, as SQL: `?` in the order of the values.
struct Question {
    since: Timestamp,
    until: Timestamp,
    owner: (super::list::OwnedBy, i64),
    /// Nobody asks for a time that tallies do not know.
    by_tallies: bool,
    parts: Vec<String>,
    values: Vec<Rc<dyn Value>>,
}

impl Question {
    fn must_be(&mut self, part: &str, value: Option<impl Value + 'static>) {
        if let Some(value) = value {
            self.parts.push(part.to_owned());
            self.values.push(Rc::new(value));
        }
    }
}

impl Reader {
    pub(crate) fn endpoint_stats(
        &self,
        endpoint: Id<id::Endpoint>,
        since: Timestamp,
    ) -> Result<EndpointStats, StoreError> {
        let (Endpoint { tenant, .. }, _) = self.lane_endpoint(endpoint)?;
        let mut question = Question {
            since,
            until: Timestamp::MAX,
            owner: (DELIVERIES_OF_ENDPOINT, endpoint.key()),
            by_tallies: true,
            parts: Vec::new(),
            values: Vec::new(),
        };
        // It follows from the endpoint, but tallies are found by their tenant first.
        question.must_be("tenant_id = ?", Some(tenant.key()));
        question.must_be("endpoint_id = ?", Some(endpoint.key()));
        let mut stats = EndpointStats::default();
        let _snapshot = self.connection.snapshot().map_err(reading)?;
        self.count(&question, |alike| {
            stats.count(alike.state, alike.attempts, alike.deliveries);
        })?;
        Ok(stats)
    }

    pub(crate) fn statistics(&self, query: &StatisticsQuery) -> Result<Statistics, StoreError> {
        let tenant = query.tenant.key();
        let endpoint = query.endpoint.map(Id::key);
        let period = query.period.as_micros();
        let mut question = Question {
            since: query.since,
            until: query.until,
            owner: endpoint.map_or((DELIVERIES_OF_TENANT, tenant), |endpoint| {
                (DELIVERIES_OF_ENDPOINT, endpoint)
            }),
            by_tallies: period.is_multiple_of(u128::from(TALLY_MICROS.unsigned_abs())),
            parts: Vec::new(),
            values: Vec::new(),
        };
        question.must_be("tenant_id = ?", Some(tenant));
        question.must_be("endpoint_id = ?", endpoint);
        question.must_be("event_type = ?", query.event_type.clone());
        question.must_be("mode = ?", query.mode.map(mode_number));
        question
            .parts
            .extend(query.state.map(|state| state_condition(state).to_owned()));
        let mut counted = Count::default();
        let _snapshot = self.connection.snapshot().map_err(reading)?;
        self.count(&question, |alike| counted.add(query, alike))?;
        let wants = query.outcomes && query.state.is_none();
        let are_counted = wants && self.are_attempts_counted(&question)? && {
            let each = |alike: &AlikeAttempts<'_>| counted.add_attempts(query, alike);
            match self.count_attempts(&question, each) {
                // There are too many of them to be read one by one; the deliveries are counted all the same.
                Err(StoreError::TooLong) => false,
                done => done.map(|()| true)?,
            }
        };
        Ok(counted.finish(are_counted))
    }

    /// Goes through all deliveries that a question is about, each once, as of the moment of the snapshot.
    fn count(
        &self,
        question: &Question,
        mut each: impl FnMut(&Alike<'_>),
    ) -> Result<(), StoreError> {
        const ROW: &str = "event_type, endpoint_id, mode, state";
        let sources = Sources {
            tallied: format!(
                "select {ROW}, period * {TALLY_MICROS}, t.deliveries, attempts from segment s cross join tally t on t.segment = s.number"
            ),
            row: format!("{ROW}, created_at, 1, attempts"),
            beside: "",
        };
        self.sweep(question, &sources, |row| {
            each(&alike(row, self.salt)?);
            Ok(())
        })
    }

    /// Whether all segments that a question is about have counts of attempts. Of those that an earlier version made, each
    /// attempt would have to be read: of a large tenant that takes longer than a question may.
    fn are_attempts_counted(&self, question: &Question) -> Result<bool, StoreError> {
        let from = counted_from(&self.connection).map_err(reading)?;
        let sql = "select not exists (select 1 from segment where number < ?1 and last_key >= ?2 and first_key < ?3 and last_at >= ?4 and first_at < ?5)";
        let (since, until) = (question.since.as_micros(), question.until.as_micros());
        let (low, high) = (
            first_key(question.since),
            key_before(question.until, self.ahead),
        );
        let mut statement = self.connection.prepare_cached(sql).map_err(reading)?;
        let all = statement.query_row([from, low, high, since, until], |row| row.get(0));
        all.map_err(reading)
    }

    /// Goes through the attempts of those deliveries.
    fn count_attempts(
        &self,
        question: &Question,
        mut each: impl FnMut(&AlikeAttempts<'_>),
    ) -> Result<(), StoreError> {
        let sources = Sources {
            tallied: format!(
                "select code, class, period * {TALLY_MICROS}, t.attempts from segment s cross join outcome_tally t on t.segment = s.number"
            ),
            row: format!("{}, created_at, 1", code_and_class("a.")),
            beside: " cross join attempt a on a.delivery_id = d.id",
        };
        self.sweep(question, &sources, |row| {
            each(&AlikeAttempts {
                code: row.text(0)?,
                class: row.get::<u32>(1)? as usize,
                at: time(row, 2)?,
                attempts: row.get::<i64>(3)?.unsigned_abs(),
            });
            Ok(())
        })
    }

    /// Asks for all that a question is about: whole segments by their tallies, what else there is by rows.
    fn sweep(
        &self,
        question: &Question,
        sources: &Sources,
        mut each: impl FnMut(&Row<'_>) -> SqlResult<()>,
    ) -> Result<(), StoreError> {
        // Read in the snapshot: with an older mark a piece entered since would be counted twice.
        let mark = indexed_until(&self.connection).map_err(reading)?;
        let (since, until) = (question.since.as_micros(), question.until.as_micros());
        let (low, high) = (
            first_key(question.since),
            key_before(question.until, self.ahead),
        );
        let (by, owner) = question.owner;
        let parts = question.parts.join(" and ");
        let mut ask = |sql: &str, first: Vec<i64>| {
            let first = first
                .into_iter()
                .map(|value| Rc::new(value) as Rc<dyn Value>);
            let values: Vec<Rc<dyn Value>> = first.chain(question.values.iter().cloned()).collect();
            let counted = self
                .connection
                .prepare_cached(sql)
                .and_then(|mut statement| statement.stream(values, &mut each));
            counted.map_err(reading)
        };
        let Sources {
            tallied,
            row,
            beside,
        } = sources;
        // A segment of events alone has no times, and so is asked in neither way: it has no deliveries.
        let is_whole = "(s.first_at >= ? and s.last_at < ?)";
        if question.by_tallies {
            let sql = format!(
                "{tallied} where s.last_key >= ? and s.first_key < ? and {is_whole} and {parts}"
            );
            ask(&sql, vec![low, high, since, until])?;
        }
        let by_rows = if question.by_tallies {
            "not "
        } else {
            "true or "
        };
        let sql = format!(
            "select {row}
             from segment s cross join {} x on x.segment = s.number cross join delivery d on d.id = x.key{beside}
             where s.last_key >= ? and s.first_key < ? and ({by_rows}{is_whole}) and x.owner = ? and x.key >= ? and x.key < ?
             and created_at >= ? and created_at < ? and {parts}",
            by.index()
        );
        let values = vec![low, high, since, until, owner, low, high, since, until];
        ask(&sql, values)?;
        let sql = format!(
            "select {row} from delivery d{beside}
             where d.id > ? and d.id >= ? and d.id < ? and created_at >= ? and created_at < ? and +{}",
            question.parts.join(" and +")
        );
        ask(&sql, vec![mark, low, high, since, until])
    }
}

/// Where counts come from, as SQL.
struct Sources {
    /// What of a segment's tally, `t`.
    tallied: String,
    /// The same columns of a delivery `d` that is asked by its row.
    row: String,
    /// What is joined to it.
    beside: &'static str,
}

fn alike<'r>(row: &'r Row<'_>, salt: u64) -> SqlResult<Alike<'r>> {
    let count = |column| row.get::<i64>(column).map(i64::unsigned_abs);
    Ok(Alike {
        event_type: row.text(0)?,
        endpoint: Id::from_key(row.get(1)?, salt),
        mode: mode(row, 2)?,
        state: match row.get(3)? {
            0 => DeliveryState::Pending,
            1 => DeliveryState::Delivered,
            // Why it failed is not counted.
            2 => DeliveryState::Failed(FailReason::Exhausted),
            3 => DeliveryState::Cancelled,
            4 => DeliveryState::Skipped,
            other => return Err(unreadable(3, format!("state {other}"))),
        },
        at: time(row, 4)?,
        deliveries: count(5)?,
        attempts: count(6)?,
    })
}
