//! Lists: a page of rows, found within a bounded number of them.

use std::time::Duration;

use postrider_core::{Id, Timestamp};
use postrider_store::{Page, PageRequest, StatePattern, StoreError};
use rusqlite::{Row, ToSql, params_from_iter};

use super::Reader;
use crate::convert::SqlResult;

/// Rows that a list with filters looks at before it gives what it has, and where to go on.
const SCAN_ROWS_MAX: u32 = 20_000;
/// Ids may be so much ahead of the clock by themselves: they borrow of the next milliseconds.
pub(super) const CLOCK_SLACK: Duration = Duration::from_secs(1);

/// Keys of ids made at this time or later are not less.
pub(super) fn first_key(at: Timestamp) -> i64 {
    at.as_millis().clamp(0, i64::MAX >> 16) << 16
}

impl Reader {
    /// A page, in the order of its conditions, of what `select` and its conditions find. With filters, of the next
    /// [`SCAN_ROWS_MAX`] rows that they leave something of.
    pub(super) fn page<T>(
        &self,
        select: &str,
        mut conditions: Conditions,
        query: u32,
        page: PageRequest,
        row: impl Fn(&Row<'_>) -> SqlResult<T>,
        id: impl Fn(&T) -> u128,
    ) -> Result<Page<T>, StoreError> {
        if let Some(after) = page.after(query)? {
            let behind = conditions.order.behind();
            conditions.add(behind, Id::<()>::from_u128(after).key());
        }
        let floor = self.floor(&conditions)?;
        if let Some(floor) = floor {
            let not_behind = conditions.order.up_to();
            conditions.add(not_behind, floor);
        }
        let limit = page.limit + 1;
        let sql = format!(
            "{select}{} order by id {} limit {limit}",
            conditions.sql(),
            conditions.order.word()
        );
        let rows = self.all(&sql, params_from_iter(conditions.values()), row)?;
        let page = Page::cut(rows, page.limit, query, id);
        Ok(page.or_next(
            query,
            floor.map(|floor| Id::<()>::from_key(floor, self.salt).as_u128()),
        ))
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
            conditions.add("id >= ?", first_key(since));
            conditions.add(&format!("+{column} >= ?"), since.as_micros());
        }
        if let Some(until) = until {
            let latest = until.plus(self.ahead).plus(CLOCK_SLACK);
            conditions.add("id < ?", first_key(latest));
            let earlier = format!("{column} < ?");
            if self.ahead > CLOCK_SLACK {
                // Many rows may be between: as a filter they count among those that are looked at.
                conditions.filter(&earlier, until.as_micros());
            } else {
                conditions.add(&format!("+{earlier}"), until.as_micros());
            }
        }
    }

    /// The id of the last row that a list may look at, if there are more.
    fn floor(&self, conditions: &Conditions) -> Result<Option<i64>, StoreError> {
        if conditions.filters.parts.is_empty() {
            return Ok(None);
        }
        let sql = format!(
            "select id from {}{} order by id {} limit 1 offset {SCAN_ROWS_MAX}",
            conditions.table,
            where_clause(conditions.indexed.parts.iter()),
            conditions.order.word()
        );
        let found = self.all(&sql, params_from_iter(&conditions.indexed.values), |row| {
            row.get(0)
        })?;
        Ok(found.first().copied())
    }
}

/// A `where` clause being built, of two kinds of conditions: an index serves the first, so that no
/// other row is looked at; the second look at each of those rows.
pub(super) struct Conditions {
    table: &'static str,
    order: Order,
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

    /// What comes after a row.
    fn behind(self) -> &'static str {
        match self {
            Self::NewestFirst => "id < ?",
            Self::OldestFirst => "id > ?",
        }
    }

    fn up_to(self) -> &'static str {
        match self {
            Self::NewestFirst => "id >= ?",
            Self::OldestFirst => "id <= ?",
        }
    }
}

#[derive(Default)]
struct Clause {
    parts: Vec<String>,
    values: Vec<Box<dyn ToSql>>,
}

impl Conditions {
    pub(super) fn of(table: &'static str) -> Self {
        Self {
            table,
            order: Order::default(),
            indexed: Clause::default(),
            filters: Clause::default(),
        }
    }

    pub(super) fn in_order(mut self, order: Order) -> Self {
        self.order = order;
        self
    }

    /// Nothing says yet where to look.
    pub(super) fn is_wide(&self) -> bool {
        self.indexed.parts.is_empty()
    }

    pub(super) fn add(&mut self, part: &str, value: impl ToSql + 'static) {
        self.indexed.parts.push(part.to_owned());
        self.indexed.values.push(Box::new(value));
    }

    pub(super) fn add_opt(&mut self, part: &str, value: Option<impl ToSql + 'static>) {
        if let Some(value) = value {
            self.add(part, value);
        }
    }

    pub(super) fn add_text(&mut self, part: &str) {
        self.indexed.parts.push(part.to_owned());
    }

    pub(super) fn filter(&mut self, part: &str, value: impl ToSql + 'static) {
        // The plus keeps the planner from an index that does not have the order of the list.
        self.filters.parts.push(format!("+{part}"));
        self.filters.values.push(Box::new(value));
    }

    pub(super) fn filter_opt(&mut self, part: &str, value: Option<impl ToSql + 'static>) {
        if let Some(value) = value {
            self.filter(part, value);
        }
    }

    /// Written out, so that a partial index can serve it: of a tenant's or an endpoint's there is one of
    /// what did not succeed, if `in_index`.
    pub(super) fn add_state(&mut self, state: Option<StatePattern>, in_index: bool) {
        let (unsuccessful, filter) = match state {
            None => return,
            Some(StatePattern::Pending) => (false, "state = 0"),
            Some(StatePattern::Delivered) => (false, "state = 1"),
            Some(StatePattern::Unsuccessful) => (true, "state in (2, 3)"),
            Some(StatePattern::Failed) => (true, "state = 2"),
            Some(StatePattern::Cancelled) => (true, "state = 3"),
            Some(StatePattern::Skipped) => (true, "state = 4"),
        };
        if unsuccessful && in_index {
            self.add_text("state >= 2");
        }
        self.filters.parts.push(filter.to_owned());
    }

    pub(super) fn sql(&self) -> String {
        where_clause(self.indexed.parts.iter().chain(&self.filters.parts))
    }

    /// The values of [`Conditions::sql`].
    pub(super) fn values(&self) -> impl Iterator<Item = &Box<dyn ToSql>> {
        self.indexed.values.iter().chain(&self.filters.values)
    }
}

fn where_clause<'p>(parts: impl Iterator<Item = &'p String>) -> String {
    let parts: Vec<&str> = parts.map(String::as_str).collect();
    if parts.is_empty() {
        String::new()
    } else {
        format!(" where {}", parts.join(" and "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::open::MIGRATIONS;

    /// The index that SQLite would go through.
    fn index_of(conditions: &Conditions) -> rusqlite::Result<String> {
        let connection = rusqlite::Connection::open_in_memory()?;
        for migration in MIGRATIONS {
            connection.execute_batch(migration)?;
        }
        let sql = format!(
            "explain query plan select * from delivery d{} order by id desc limit 51",
            conditions.sql()
        );
        let mut statement = connection.prepare(&sql)?;
        let values = params_from_iter(conditions.values());
        let plan = statement.query_map(values, |row| row.get::<_, String>("detail"))?;
        plan.collect()
    }

    #[test]
    fn a_list_goes_through_the_index_of_its_owner_in_its_order() -> rusqlite::Result<()> {
        for (column, index) in [
            ("tenant_id", "delivery_tenant"),
            ("endpoint_id", "delivery_endpoint"),
        ] {
            for (state, suffix) in [(None, ""), (Some(StatePattern::Failed), "_unsuccessful")] {
                let mut conditions = Conditions::of("delivery");
                conditions.add(&format!("{column} = ?"), 1);
                conditions.filter("mode = ?", 0);
                conditions.add("id >= ?", 1);
                conditions.add("id < ?", 9);
                conditions.add("+created_at < ?", 9);
                conditions.add_state(state, true);
                let plan = index_of(&conditions)?;
                let expected = match (index, suffix) {
                    ("delivery_tenant", "_unsuccessful") => "delivery_unsuccessful".to_owned(),
                    _ => format!("{index}{suffix}"),
                };
                assert!(plan.contains(&format!("INDEX {expected} ")), "{plan}");
                assert!(!plan.contains("TEMP B-TREE"), "{plan}");
            }
        }
        Ok(())
    }
}
