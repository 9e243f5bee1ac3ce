//! Lists: a page of rows, found within a bounded number of them.

use std::rc::Rc;
use std::time::Duration;

use postrider_core::{Id, Timestamp};
use postrider_store::{LastAnswer, Page, PageRequest, StatePattern, StoreError};

use super::Reader;
use crate::convert::reading;
use crate::segments::indexed_until;
use crate::sql::{Row, SqlResult, Value};

/// Rows of a stretch that a list with filters looks at before it gives what it has, and where to go on.
pub(super) const SCAN_ROWS_MAX: u32 = 20_000;
/// Ids may be so much ahead of the clock by themselves: they borrow of the next milliseconds.
const CLOCK_SLACK: Duration = Duration::from_secs(1);

/// Keys of ids made before this time are less, where ids have been so far ahead of the clock.
pub(crate) fn key_before(until: Timestamp, ahead: Duration) -> i64 {
    first_key(until.plus(ahead).plus(CLOCK_SLACK))
}

/// Keys of ids made at this time or later are not less.
pub(super) fn first_key(at: Timestamp) -> i64 {
    // A time too far away would be shifted out, and become a key of the past.
    at.as_millis().clamp(0, i64::MAX >> 16) << 16
}

/// What becomes of a row that does not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unreadable {
    /// The list fails: whoever asks decides by all of its rows.
    Refuse,
    /// It is left out, and told.
    LeaveOut,
}

impl Reader {
    /// A page, in the order of its conditions, of the rows that they leave. With filters, of the next
    /// [`SCAN_ROWS_MAX`] rows that they leave something of.
    pub(super) fn page<T>(
        &self,
        columns: &str,
        mut conditions: Conditions,
        query: u32,
        page: PageRequest,
        row: impl Fn(&Row<'_>) -> SqlResult<T>,
        id: impl Fn(&T) -> u128,
    ) -> Result<Page<T>, StoreError> {
        if let Some(after) = page.after(query)? {
            conditions.go_on_behind(Id::<()>::from_u128(after).key());
        }
        // Segments and what is in none of them yet are of one moment.
        let _snapshot = self.connection.snapshot().map_err(reading)?;
        let (mut rows, mut floor) = (Vec::new(), None);
        for stretch in self.stretches(&conditions)? {
            // One more than the page has, to know whether there are more.
            let missing = (page.limit + 1).saturating_sub(rows.len());
            // A stretch that was not gone through to its end leaves the next one to another page.
            if missing == 0 || floor.is_some() {
                break;
            }
            floor = self.floor(&conditions, stretch)?;
            let asked = conditions.asked(stretch, floor);
            let sql = format!(
                "select {columns}{} limit {missing}",
                asked.sql(conditions.order)
            );
            match conditions.unreadable {
                Unreadable::Refuse => rows.extend(self.all(&sql, asked.values, &row)?),
                Unreadable::LeaveOut => {
                    let read = self.all_that_read(&sql, asked.values, &row)?;
                    // As many rows were looked at as were asked for: the next page goes on behind them.
                    if !read.left_out.is_empty() && read.looked_at == missing {
                        floor = read.last;
                    }
                    rows.extend(read.rows);
                }
            }
        }
        let page = Page::cut(rows, page.limit, query, id);
        Ok(page.or_next(query, floor.map(|floor| self.id_of(floor))))
    }

    /// Where the rows of a list are, in its order.
    fn stretches(&self, conditions: &Conditions) -> Result<Vec<Stretch>, StoreError> {
        if conditions.owner.is_none() {
            return Ok(vec![Stretch::Table]);
        }
        let mark = indexed_until(&self.connection).map_err(reading)?;
        let mut stretches = vec![Stretch::Behind(mark), Stretch::Segments];
        if matches!(conditions.order, Order::OldestFirst) {
            stretches.reverse();
        }
        Ok(stretches)
    }

    /// An id begins with its time: what is out of the range is not even looked at. A clock that was set
    /// back made ids that are later than what they are of.
    pub(super) fn add_between(
        &self,
        conditions: &mut Conditions,
        column: &str,
        since: Option<Timestamp>,
        until: Option<Timestamp>,
    ) {
        if let Some(since) = since {
            conditions.starting_at(first_key(since));
            conditions.add(&format!("+{column} >= ?"), since.as_micros());
        }
        if let Some(until) = until {
            conditions.ending_before(key_before(until, self.ahead));
            let earlier = format!("{column} < ?");
            if self.ahead > CLOCK_SLACK {
                // Many rows may be between: as a filter they count among those that are looked at.
                conditions.filter(&earlier, until.as_micros());
            } else {
                conditions.add(&format!("+{earlier}"), until.as_micros());
            }
        }
    }

    /// The key of the last row that a list may look at, if there are more.
    fn floor(&self, conditions: &Conditions, stretch: Stretch) -> Result<Option<i64>, StoreError> {
        // Behind the segments the owner is a filter, too.
        let is_filtered =
            !conditions.filters.parts.is_empty() || matches!(stretch, Stretch::Behind(_));
        if !is_filtered {
            return Ok(None);
        }
        // An index alone has it, unless a condition looks at the rows.
        let asked = conditions.looked_at(stretch, !conditions.indexed.parts.is_empty());
        let sql = format!(
            "select {}{} limit 1 offset {SCAN_ROWS_MAX}",
            asked.key,
            asked.sql(conditions.order)
        );
        let found = self.all(&sql, asked.values, |row| row.get(0))?;
        Ok(found.first().copied())
    }
}

/// A part of a table that a list goes through in one go.
#[derive(Debug, Clone, Copy)]
enum Stretch {
    /// All of it, by what index there is.
    Table,
    /// What is behind the key, and in no segment yet: every row is looked at.
    Behind(i64),
    /// What an owner has in the segments.
    Segments,
}

/// How the rows of an owner are found.
#[derive(Debug, Clone, Copy)]
pub(super) struct OwnedBy {
    /// The column of the table, and the index of the segments.
    column: &'static str,
    index: &'static str,
}

impl OwnedBy {
    pub(super) fn index(self) -> &'static str {
        self.index
    }
}

pub(super) const DELIVERIES_OF_ENDPOINT: OwnedBy = OwnedBy {
    column: "endpoint_id",
    index: "delivery_of_endpoint",
};
pub(super) const DELIVERIES_OF_TENANT: OwnedBy = OwnedBy {
    column: "tenant_id",
    index: "delivery_of_tenant",
};
pub(super) const EVENTS_OF_TENANT: OwnedBy = OwnedBy {
    column: "tenant_id",
    index: "event_of_tenant",
};

/// What is asked of a table, of two kinds of conditions: an index serves the first, so that no
/// other row is looked at; the second look at each of those rows.
pub(super) struct Conditions {
    table: &'static str,
    order: Order,
    unreadable: Unreadable,
    owner: Option<(OwnedBy, i64)>,
    /// Keys from and before which rows are looked at.
    low: i64,
    high: i64,
    indexed: Clause,
    filters: Clause,
}

#[derive(Clone, Copy, Default)]
pub(super) enum Order {
    #[default]
    NewestFirst,
    OldestFirst,
}

impl Order {
    fn word(self) -> &'static str {
        match self {
            Self::NewestFirst => "desc",
            Self::OldestFirst => "asc",
        }
    }
}

#[derive(Default)]
struct Clause {
    parts: Vec<String>,
    values: Vec<Rc<dyn Value>>,
}

/// A question about one stretch: from where, under which conditions, and what its key is called.
struct Asked {
    from: String,
    parts: Vec<String>,
    values: Vec<Rc<dyn Value>>,
    key: &'static str,
    /// Before the key in the order, with a comma.
    segment: Option<&'static str>,
}

impl Asked {
    fn add(&mut self, part: String, value: i64) {
        self.parts.push(part);
        self.values.push(Rc::new(value));
    }

    fn take(&mut self, clause: &Clause) {
        self.parts.extend(clause.parts.iter().cloned());
        self.values.extend(clause.values.iter().cloned());
    }

    fn sql(&self, order: Order) -> String {
        let word = order.word();
        let condition = if self.parts.is_empty() {
            String::new()
        } else {
            format!(" where {}", self.parts.join(" and "))
        };
        let segment = self
            .segment
            .map_or_else(String::new, |column| format!("{column} {word}, "));
        format!(
            " from {}{condition} order by {segment}{} {word}",
            self.from, self.key
        )
    }
}

impl Conditions {
    pub(super) fn of(table: &'static str) -> Self {
        Self {
            table,
            order: Order::default(),
            unreadable: Unreadable::Refuse,
            owner: None,
            low: i64::MIN,
            high: i64::MAX,
            indexed: Clause::default(),
            filters: Clause::default(),
        }
    }

    pub(super) fn in_order(mut self, order: Order) -> Self {
        self.order = order;
        self
    }

    /// Without the rows that do not read: one keeps nobody from all that is behind it.
    pub(super) fn that_read(mut self) -> Self {
        self.unreadable = Unreadable::LeaveOut;
        self
    }

    /// Only the rows of an owner, found through the segments.
    pub(super) fn owned_by(&mut self, by: OwnedBy, owner: i64) {
        self.owner = Some((by, owner));
    }

    fn go_on_behind(&mut self, key: i64) {
        match self.order {
            Order::NewestFirst => self.ending_before(key),
            Order::OldestFirst => self.starting_at(key.saturating_add(1)),
        }
    }

    pub(super) fn starting_at(&mut self, key: i64) {
        self.low = self.low.max(key);
    }

    pub(super) fn ending_before(&mut self, key: i64) {
        self.high = self.high.min(key);
    }

    pub(super) fn add(&mut self, part: &str, value: impl Value + 'static) {
        self.indexed.parts.push(part.to_owned());
        self.indexed.values.push(Rc::new(value));
    }

    pub(super) fn add_opt(&mut self, part: &str, value: Option<impl Value + 'static>) {
        if let Some(value) = value {
            self.add(part, value);
        }
    }

    pub(super) fn add_text(&mut self, part: &str) {
        self.indexed.parts.push(part.to_owned());
    }

    pub(super) fn filter(&mut self, part: &str, value: impl Value + 'static) {
        // The plus keeps the planner from an index that does not have the order of the list.
        self.filters.parts.push(format!("+{part}"));
        self.filters.values.push(Rc::new(value));
    }

    pub(super) fn filter_text(&mut self, part: &str) {
        self.filters.parts.push(format!("+{part}"));
    }

    pub(super) fn filter_opt(&mut self, part: &str, value: Option<impl Value + 'static>) {
        if let Some(value) = value {
            self.filter(part, value);
        }
    }

    /// By how the last attempt ended.
    pub(super) fn filter_answer(&mut self, answer: Option<LastAnswer>) {
        match answer {
            None => {}
            Some(LastAnswer::Class(class)) => self.filter(
                "exists (select 1 from attempt a where a.delivery_id = d.id and a.number = d.attempts and a.status / 100 = ?)",
                class,
            ),
            // A filter comes with a value; no text is before the empty one, so all that are there pass.
            Some(LastAnswer::None) => self.filter(
                "exists (select 1 from attempt a where a.delivery_id = d.id and a.number = d.attempts and a.reason >= ?)",
                String::new(),
            ),
            Some(LastAnswer::Because(reason)) => self.filter(
                "exists (select 1 from attempt a where a.delivery_id = d.id and a.number = d.attempts and a.reason = ?)",
                reason.as_str().to_owned(),
            ),
        }
    }

    /// What an owner has of a state: of what did not succeed there is an index of its own.
    pub(super) fn add_state_of(&mut self, by: OwnedBy, owner: i64, state: Option<StatePattern>) {
        let did_not_succeed = match state {
            None | Some(StatePattern::Pending | StatePattern::Delivered) => false,
            Some(
                StatePattern::Unsuccessful
                | StatePattern::Failed
                | StatePattern::Cancelled
                | StatePattern::Skipped,
            ) => true,
        };
        if did_not_succeed {
            self.add(&format!("{} = ?", by.column), owner);
            self.add_text("state >= 2");
        } else {
            self.owned_by(by, owner);
        }
        self.add_state(state);
    }

    /// Written out, so that a partial index can serve it.
    pub(super) fn add_state(&mut self, state: Option<StatePattern>) {
        let filter = state.map(|state| state_condition(state).to_owned());
        self.filters.parts.extend(filter);
    }

    /// All that is looked at in a stretch; without the table's rows where only their keys are asked for.
    fn looked_at(&self, stretch: Stretch, with_rows: bool) -> Asked {
        let mut asked = Asked {
            from: self.table.to_owned(),
            parts: Vec::new(),
            values: Vec::new(),
            key: "id",
            segment: None,
        };
        match (stretch, self.owner) {
            (Stretch::Table, _) | (_, None) => {}
            (Stretch::Behind(mark), Some(_)) => asked.add("id > ?".to_owned(), mark),
            (Stretch::Segments, Some((by, owner))) => {
                asked.key = "x.key";
                asked.segment = Some("s.number");
                asked.from = format!(
                    "segment s cross join {} x on x.segment = s.number",
                    by.index
                );
                if with_rows {
                    asked.from += &format!(" cross join {} on id = x.key", self.table);
                }
                asked.add("x.owner = ?".to_owned(), owner);
                if self.low > i64::MIN {
                    // Not by an index: segments are gone through in their order.
                    asked.add("+s.last_key >= ?".to_owned(), self.low);
                }
                if self.high < i64::MAX {
                    asked.add("+s.first_key < ?".to_owned(), self.high);
                }
            }
        }
        if self.low > i64::MIN {
            asked.add(format!("{} >= ?", asked.key), self.low);
        }
        if self.high < i64::MAX {
            asked.add(format!("{} < ?", asked.key), self.high);
        }
        asked.take(&self.indexed);
        asked
    }

    /// What a stretch has for the list, no further than to `floor`.
    fn asked(&self, stretch: Stretch, floor: Option<i64>) -> Asked {
        let mut asked = self.looked_at(stretch, true);
        if let Some(floor) = floor {
            let not_behind = match self.order {
                Order::NewestFirst => ">=",
                Order::OldestFirst => "<=",
            };
            asked.add(format!("{} {not_behind} ?", asked.key), floor);
        }
        if let (Stretch::Behind(_), Some((by, owner))) = (stretch, self.owner) {
            // Not by an index: these rows are gone through by their keys.
            asked.add(format!("+{} = ?", by.column), owner);
        }
        asked.take(&self.filters);
        asked
    }
}

pub(super) fn state_condition(state: StatePattern) -> &'static str {
    match state {
        StatePattern::Pending => "state = 0",
        StatePattern::Delivered => "state = 1",
        StatePattern::Unsuccessful => "state in (2, 3)",
        StatePattern::Failed => "state = 2",
        StatePattern::Cancelled => "state = 3",
        StatePattern::Skipped => "state = 4",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sqlite::open::plan;

    /// How SQLite would go through a stretch.
    fn plan_of(conditions: &Conditions, stretch: Stretch) -> SqlResult<String> {
        let asked = conditions.asked(stretch, Some(5));
        let sql = format!("select d.id{} limit 51", asked.sql(conditions.order));
        plan(&sql, asked.values)
    }

    fn deliveries(order: Order) -> Conditions {
        let mut conditions = Conditions::of("delivery d").in_order(order);
        conditions.filter("mode = ?", 0);
        conditions.starting_at(1);
        conditions.ending_before(9);
        conditions.add("+created_at < ?", 9);
        conditions
    }

    #[test]
    fn what_failed_is_found_through_the_index_of_its_owner_in_its_order() -> SqlResult<()> {
        for (by, index) in [
            (DELIVERIES_OF_TENANT, "delivery_unsuccessful"),
            (DELIVERIES_OF_ENDPOINT, "delivery_endpoint_unsuccessful"),
        ] {
            let mut conditions = deliveries(Order::NewestFirst);
            conditions.add_state_of(by, 1, Some(StatePattern::Failed));
            let plan = plan_of(&conditions, Stretch::Table)?;
            assert!(plan.contains(&format!("INDEX {index} ")), "{plan}");
            assert!(!plan.contains("TEMP B-TREE"), "{plan}");
        }
        Ok(())
    }

    #[test]
    fn the_last_attempt_of_each_is_found_by_its_key() -> SqlResult<()> {
        for answer in ["5xx", "none", "timeout"] {
            let mut conditions = deliveries(Order::NewestFirst);
            conditions.owned_by(DELIVERIES_OF_TENANT, 1);
            conditions.filter_answer(LastAnswer::parse(answer));
            let plan = plan_of(&conditions, Stretch::Segments)?;
            assert!(
                plan.contains("SEARCH a USING PRIMARY KEY (delivery_id=? AND number=?)"),
                "{plan}"
            );
            assert!(
                plan.contains("SEARCH d USING INTEGER PRIMARY KEY"),
                "{plan}"
            );
        }
        Ok(())
    }

    #[test]
    fn a_list_goes_from_segment_to_segment_in_its_order() -> SqlResult<()> {
        for order in [Order::NewestFirst, Order::OldestFirst] {
            let mut conditions = deliveries(order);
            conditions.owned_by(DELIVERIES_OF_TENANT, 1);
            let plan = plan_of(&conditions, Stretch::Segments)?;
            let steps: Vec<&str> = plan.lines().collect();
            assert_eq!(
                steps,
                [
                    "SCAN s",
                    "SEARCH x USING PRIMARY KEY (segment=? AND owner=? AND key>? AND key<?)",
                    "SEARCH d USING INTEGER PRIMARY KEY (rowid=?)",
                ],
                "{plan}"
            );
            let plan = plan_of(&conditions, Stretch::Behind(3))?;
            assert_eq!(
                plan, "SEARCH d USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)",
                "{plan}"
            );
        }
        Ok(())
    }
}
