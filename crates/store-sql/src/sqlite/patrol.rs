//! Looks at everything that is stored, in small pieces, while the server runs: what nobody asks for would
//! otherwise be found damaged when it is needed.

use postrider_store::StoreError;
use rusqlite::types::{Value, ValueRef};
use rusqlite::{Connection, Row, params_from_iter};

use super::doctor::tables;
use crate::convert::{is_unreadable, reading};
use crate::misread::{Finding, KINDS};
use crate::read::Reader;
use crate::sql::{SqlResult, unreadable};

/// Rows of one piece: a few milliseconds of one reader.
const PIECE_ROWS: usize = 200;

/// Where a patrol goes on.
#[derive(Debug, Clone, Default)]
pub struct Patrolled {
    /// Tables before it are done, by name.
    table: String,
    /// The last row that was looked at.
    after: Vec<Value>,
}

/// What a piece found, and where the next one begins; none when everything was looked at.
pub type Piece = (Vec<Finding>, Option<Patrolled>);

impl Reader {
    pub(crate) fn patrol(&self, from: &Patrolled) -> Result<Piece, StoreError> {
        // The other database looks after its own pages.
        let Some(connection) = self.connection.sqlite() else {
            return Ok((Vec::new(), None));
        };
        let names = tables(connection).map_err(reading)?;
        let Some(table) = names.iter().find(|name| **name >= from.table) else {
            return Ok((Vec::new(), None));
        };
        let mut findings = Vec::new();
        let after = if *table == from.table {
            from.after.as_slice()
        } else {
            &[]
        };
        let last = look(connection, table, after, &mut findings);
        let last = last.and_then(|last| {
            let key = match after.first() {
                Some(Value::Integer(key)) => *key,
                _ => i64::MIN,
            };
            // Now as what they are.
            for kind in KINDS.iter().filter(|kind| kind.table == table) {
                let misread = self.misread(kind, key, PIECE_ROWS)?.0;
                // One that has no text is told already.
                let told: Vec<_> = findings.iter().map(|finding| finding.row).collect();
                findings.extend(misread.into_iter().filter(|new| !told.contains(&new.row)));
            }
            in_order(after, last)
        });
        let next = match last {
            Ok(Some(ref after)) => Some(Patrolled {
                table: table.clone(),
                after: after.clone(),
            }),
            // It may be read another time.
            Err(error) if !is_unreadable(&error) => return Err(reading(error)),
            // The rest of a table whose page is damaged cannot be reached this way.
            Ok(None) | Err(_) => {
                let next = names.iter().find(|name| *name > table);
                next.map(|name| Patrolled {
                    table: name.clone(),
                    after: Vec::new(),
                })
            }
        };
        if let Err(error) = last {
            findings.push(Finding {
                table: table.clone(),
                row: None,
                what: error.to_string(),
            });
        }
        Ok((findings, next))
    }
}

/// Reads every value of the next rows. Returns the key of the last one, if there may be more.
fn look(
    connection: &Connection,
    table: &str,
    after: &[Value],
    findings: &mut Vec<Finding>,
) -> SqlResult<Option<Vec<Value>>> {
    let keys = keys_of(connection, table)?;
    let names = keys.join(", ");
    let condition = if after.is_empty() {
        String::new()
    } else {
        let marks = vec!["?"; after.len()].join(", ");
        format!("where ({names}) > ({marks})")
    };
    let sql =
        format!("select {names}, * from {table} {condition} order by {names} limit {PIECE_ROWS}");
    let mut statement = connection.prepare(&sql)?;
    let columns: Vec<String> = statement.column_names().map(str::to_owned).collect();
    let mut rows = statement.query(params_from_iter(after))?;
    let mut last = Vec::new();
    let mut count = 0;
    while let Some(row) = rows.next()? {
        count += 1;
        last = (0..keys.len())
            .map(|at| row.get(at))
            .collect::<rusqlite::Result<Vec<Value>>>()?;
        for (at, column) in columns.iter().enumerate().skip(keys.len()) {
            if let Err(what) = readable(row, at) {
                findings.push(Finding {
                    table: table.to_owned(),
                    row: match last.first() {
                        Some(Value::Integer(key)) => Some(*key),
                        _ => None,
                    },
                    what: format!("{column}: {what}"),
                });
            }
        }
    }
    Ok((count == PIECE_ROWS).then_some(last))
}

/// The columns of a table's primary key, in its order.
fn keys_of(connection: &Connection, table: &str) -> SqlResult<Vec<String>> {
    let sql = "select name from pragma_table_info(?1) where pk > 0 order by pk";
    let mut statement = connection.prepare_cached(sql)?;
    let names = statement.query_map([table], |row| row.get(0))?;
    Ok(names.collect::<rusqlite::Result<_>>()?)
}

/// A damaged key may lead back to where the round has been.
fn in_order(after: &[Value], last: Option<Vec<Value>>) -> SqlResult<Option<Vec<Value>>> {
    match (after.first(), last.as_ref().and_then(|last| last.first())) {
        (Some(Value::Integer(before)), Some(Value::Integer(now))) if now < before => {
            Err(unreadable(0, "its rows are out of order".to_owned()))
        }
        _ if last.as_deref() == Some(after) => {
            Err(unreadable(0, "its rows are out of order".to_owned()))
        }
        _ => Ok(last),
    }
}

fn readable(row: &Row<'_>, at: usize) -> Result<(), String> {
    let value = row.get_ref(at).map_err(|error| error.to_string())?;
    if let ValueRef::Text(text) = value {
        str::from_utf8(text).map_err(|error| error.to_string())?;
    }
    Ok(())
}
