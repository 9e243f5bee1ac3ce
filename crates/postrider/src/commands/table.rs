//! Answers on a terminal: a table for a list, lines for one thing.

use std::io::IsTerminal as _;

use serde_json::Value;

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

/// Shows progress to a person; a program that reads stdout does not see it.
#[expect(
    clippy::print_stderr,
    reason = "progress is for the person at the terminal"
)]
pub(super) fn progress(text: &str) {
    if std::io::stderr().is_terminal() {
        eprint!("\r{text}");
    }
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        // Why an attempt got no answer.
        Value::Object(error) if error.contains_key("kind") => {
            format!("{}: {}", cell(&error["kind"]), cell(&error["detail"]))
        }
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
    let mut lines: Vec<Vec<String>> = vec![used.iter().map(|name| name.to_uppercase()).collect()];
    lines.extend(
        rows.iter()
            .map(|row| used.iter().map(|name| short(&row[*name])).collect()),
    );
    let width = |column: usize| {
        lines
            .iter()
            .map(|line| line[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..used.len()).map(width).collect();
    let mut text = String::new();
    for line in &lines {
        let cells: Vec<String> = line
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_table_is_as_wide_as_its_cells_and_drops_empty_columns() {
        let rows = [
            json!({"id": "a", "n": 1, "none": null}),
            json!({"id": "long\nid", "n": [1, "x"]}),
        ];
        assert_eq!(
            table(&rows, &["id", "n", "none"]),
            "ID       N\na        1\nlong id  1,x\n"
        );
        assert_eq!(table(&[], &["id"]), "nothing found\n");
    }
}
