//! Answers on a terminal: a table for a list, lines for one thing.

use comfy_table::{Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use crate::listen::printable;
use crate::output::line;

/// Characters of a cell in a table; longer ones are cut, `--json` has them whole.
const CELL_MAX: usize = 72;

/// Shows an answer of the API.
pub(super) fn show(value: &Value, columns: &[&str], json: bool) {
    if json {
        line(&format!("{value:#}"));
        return;
    }
    match value.get("data").and_then(Value::as_array) {
        Some(rows) => {
            line(table(rows, columns).trim_end());
            if let Some(cursor) = value.get("nextCursor").and_then(Value::as_str) {
                line(&format!("more: --cursor {cursor}"));
            }
        }
        None => {
            for name in columns
                .iter()
                .filter(|name| value.get(**name).is_some_and(|value| !value.is_null()))
            {
                line(&format!("{name:<20} {}", cell(&value[*name])));
            }
        }
    }
}

/// A line that shows progress to a person at the terminal; elsewhere nothing of it is seen.
pub(super) fn progress() -> ProgressBar {
    let style = ProgressStyle::with_template("{spinner} {msg}").expect("a fixed template is right");
    ProgressBar::new_spinner().with_style(style)
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        // What a receiver answered, or a customer called something: a stranger's.
        Value::String(text) => printable(text),
        // Why an attempt got no answer.
        Value::Object(error) if error.contains_key("kind") => {
            format!("{}: {}", cell(&error["kind"]), cell(&error["detail"]))
        }
        // Who did it.
        Value::Object(actor) if actor.contains_key("name") => cell(&actor["name"]),
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

fn table(rows: &[Value], columns: &[&str]) -> String {
    if rows.is_empty() {
        return "nothing found\n".to_owned();
    }
    // A column without any value only takes room.
    let used: Vec<&str> = columns
        .iter()
        .copied()
        .filter(|name| rows.iter().any(|row| !row[*name].is_null()))
        .collect();
    let short = |value: &Value| {
        let text = cell(value).replace(['\n', '\r', '\t'], " ");
        if text.chars().count() > CELL_MAX {
            text.chars().take(CELL_MAX - 1).chain(['…']).collect()
        } else {
            text
        }
    };
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(used.iter().map(|name| heading(name)));
    for row in rows {
        table.add_row(used.iter().map(|name| short(&row[*name])));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let mut text = table.trim_fmt();
    text.push('\n');
    text
}

/// `consecutiveFailures` as people read it.
fn heading(name: &str) -> String {
    let mut words = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() {
            words.push(' ');
        }
        words.extend(letter.to_uppercase());
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_a_stranger_wrote_does_not_steer_the_terminal() {
        let steering = json!("\u{1b}[2Jgone\u{9b}31m");
        assert_eq!(cell(&steering), "\\u{1b}[2Jgone\\u{9b}31m");
        let table = table(&[json!({ "a": steering })], &["a"]);
        assert!(!table.contains(['\u{1b}', '\u{9b}']), "{table:?}");
    }

    #[test]
    fn a_table_is_as_wide_as_its_cells_and_drops_empty_columns() {
        let rows = [
            json!({"id": "a", "nTimes": 1, "none": null}),
            json!({"id": "long\nid", "nTimes": [1, "x"]}),
        ];
        assert_eq!(
            table(&rows, &["id", "nTimes", "none"]),
            "ID       N TIMES\na        1\nlong id  1,x\n"
        );
        assert_eq!(table(&[], &["id"]), "nothing found\n");
    }
}
