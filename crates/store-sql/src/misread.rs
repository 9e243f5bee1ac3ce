//! Rows that do not read as what they are: each is read as the server reads it, in either database.

use std::ops::ControlFlow;

use postrider_core::attempt::Rendering;
use postrider_store::StoreError;

use crate::convert::{
    DELIVERY, EVENT_SUMMARY, delivery, event_summary, from_json, is_unreadable, reading,
};
use crate::read::{
    API_KEY, APPLICATION, AUDIT, ENDPOINT, NOTICE, Reader, SESSION, TASK, TENANT, USER,
    application_row, audit_row, endpoint_row, key_row, notice_row, session_row, tenant_row,
    user_row,
};
use crate::sql::{Row, SqlError, SqlResult, params};

/// Rows that are read at once.
const PIECE_ROWS: usize = 1_000;
/// Rows that are told of one mistake.
const TOLD_MAX: u32 = 20;

/// Something that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub table: String,
    /// The row's key in the database; none when it is about the table as a whole.
    pub row: Option<i64>,
    pub what: String,
}

/// What was found of all that is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Examined {
    pub findings: Vec<Finding>,
    /// The tables are those of this version. Rows of others are not read: a server takes them on first.
    pub is_current: bool,
}

/// Rows of a table, and how they are read.
pub(crate) struct Kind {
    pub(crate) table: &'static str,
    from: &'static str,
    /// The first is the key.
    columns: &'static str,
    read: fn(&Reader, &Row<'_>) -> SqlResult<()>,
}

/// Of all tables whose rows stand for something; those of others are counted, or are as good as any other.
pub(crate) const KINDS: &[Kind] = &[
    Kind::of("application", APPLICATION, |it, row| {
        application_row(row, it.salt).map(drop)
    }),
    Kind::of("tenant", TENANT, |it, row| {
        tenant_row(row, it.salt).map(drop)
    }),
    Kind::of("api_key", API_KEY, |it, row| {
        key_row(row, it.salt).map(drop)
    }),
    Kind::of("console_user", USER, |it, row| {
        user_row(row, it.salt).map(drop)
    }),
    Kind::of("session", SESSION, |it, row| {
        session_row(row, it.salt).map(drop)
    }),
    Kind::of("endpoint", ENDPOINT, |it, row| {
        endpoint_row(row, it.salt).map(drop)
    }),
    Kind::of("rendering", "id, text", |_, row| {
        from_json::<Rendering>(row, 1).map(drop)
    }),
    Kind::of("task", TASK, |it, row| it.task_row(row).map(drop)),
    Kind::of("notice", NOTICE, |it, row| {
        notice_row(row, it.salt).map(drop)
    }),
    Kind::of("audit", AUDIT, |it, row| audit_row(row, it.salt).map(drop)),
    // Without their data, which is as it was published.
    Kind {
        table: "event",
        from: "event e",
        columns: EVENT_SUMMARY,
        read: |it, row| event_summary(row, it.salt).map(drop),
    },
    Kind {
        table: "delivery",
        from: "delivery d",
        columns: DELIVERY,
        read: |it, row| delivery(row, it.salt).map(drop),
    },
];

impl Kind {
    const fn of(
        table: &'static str,
        columns: &'static str,
        read: fn(&Reader, &Row<'_>) -> SqlResult<()>,
    ) -> Self {
        Self {
            table,
            from: table,
            columns,
            read,
        }
    }

    fn finding(&self, row: Option<i64>, error: &SqlError) -> Finding {
        let what = match error {
            SqlError::Unreadable { column, what } => {
                let name = self.columns.split(',').nth(*column).unwrap_or_default();
                let name = name.trim().rsplit('.').next().unwrap_or_default();
                format!("{name}: {what}")
            }
            error => error.to_string(),
        };
        Finding {
            table: self.table.to_owned(),
            row,
            what,
        }
    }
}

impl Reader {
    /// Reads the next rows of a kind; tells of those that do not read, and behind which row the next ones are.
    pub(crate) fn misread(
        &self,
        kind: &Kind,
        after: i64,
        rows: usize,
    ) -> SqlResult<(Vec<Finding>, Option<i64>)> {
        let Kind { columns, from, .. } = kind;
        let sql = format!("select {columns} from {from} where id > ?1 order by id limit ?2");
        let mut statement = self.connection.prepare_cached(&sql)?;
        let (mut findings, mut count, mut last) = (Vec::new(), 0, after);
        let limit = i64::try_from(rows).unwrap_or(i64::MAX);
        statement.each(params![after, limit], |row| {
            (count, last) = (count + 1, row.get(0)?);
            match (kind.read)(self, row) {
                Ok(()) => {}
                Err(error) if is_unreadable(&error) => {
                    findings.push(kind.finding(Some(last), &error));
                }
                Err(error) => return Err(error),
            }
            Ok(ControlFlow::Continue(()))
        })?;
        Ok((findings, (count == rows).then_some(last)))
    }

    /// Reads all rows of all kinds.
    ///
    /// # Errors
    /// When the database cannot be reached, or asked.
    pub(crate) fn all_misread(&self) -> Result<Vec<Finding>, StoreError> {
        let mut findings = Vec::new();
        for kind in KINDS {
            let mut from = Some(i64::MIN);
            while let Some(after) = from.take() {
                match self.misread(kind, after, PIECE_ROWS) {
                    Ok((found, next)) => {
                        findings.extend(found);
                        from = next;
                    }
                    // The rest of a table whose page is damaged cannot be reached this way.
                    Err(error) if is_unreadable(&error) => {
                        findings.push(kind.finding(None, &error))
                    }
                    Err(error) => return Err(reading(error)),
                }
            }
        }
        self.orphans(&mut findings);
        Ok(findings)
    }

    /// Deliveries whose event, endpoint or profile is not there: they can never be sent.
    fn orphans(&self, findings: &mut Vec<Finding>) {
        for (table, column, key) in [
            ("event", "event_id", "id"),
            ("endpoint", "endpoint_id", "id"),
            ("profile", "profile", "version"),
        ] {
            // Of an event that is being written in pieces the deliveries come first; what is left of one goes when a server
            // has the store.
            let begun = "not exists (select 1 from meta where key = 'fan_out ' || d.event_id)";
            let sql = format!(
                "select id from delivery d where state = 0 and not exists (select 1 from {table} where {key} = d.{column}) and {begun} limit {TOLD_MAX}"
            );
            // What cannot be read at all is told of its table.
            let found: Vec<i64> = self.all(&sql, (), |row| row.get(0)).unwrap_or_default();
            for row in found {
                findings.push(Finding {
                    table: "delivery".to_owned(),
                    row: Some(row),
                    what: format!("its {table} is not there, so it cannot be sent"),
                });
            }
        }
    }
}
