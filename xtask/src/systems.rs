//! `docs/systems.md` holds what is proved of each system: every requirement has its row, and every test
//! that a row names exists.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context as _, bail};

const PAGE: &str = "docs/systems.md";
/// The numbered requirements of each system: the letter and how many.
const REQUIREMENTS: [(&str, u32); 3] = [("V", 68), ("S", 41), ("F", 43)];
/// A proof without a test is a sentence, not a word.
const SENTENCE_MIN: usize = 20;

/// # Errors
/// With every number that is missing or there twice, and every test that does not exist.
pub(crate) fn check() -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let page = std::fs::read_to_string(root.join(PAGE))
        .with_context(|| format!("failed to read {PAGE}"))?;
    let mut wrong = Vec::new();
    let mut rows: HashMap<&str, u32> = HashMap::new();
    let mut sources: HashMap<String, String> = HashMap::new();
    for line in page.lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, number, what, proof, _] = cells.as_slice() else {
            continue;
        };
        if !number.contains('-') || number.starts_with('-') {
            continue;
        }
        *rows.entry(number).or_default() += 1;
        let tests: Vec<(&str, &str)> = proof
            .split('`')
            .filter_map(|part| part.split_once("::"))
            .filter(|(path, _)| path.ends_with(".rs"))
            .collect();
        if what.is_empty() || (tests.is_empty() && proof.len() < SENTENCE_MIN) {
            wrong.push(format!("{number}: has neither a test nor a sentence"));
        }
        for (path, name) in tests {
            let source = sources
                .entry(path.to_owned())
                .or_insert_with(|| std::fs::read_to_string(root.join(path)).unwrap_or_default());
            if !source.contains(&format!("fn {name}(")) {
                wrong.push(format!("{number}: there is no test {name} in {path}"));
            }
        }
    }
    for (letter, count) in REQUIREMENTS {
        for n in 1..=count {
            let number = format!("{letter}-{n:02}");
            match rows.remove(number.as_str()) {
                Some(1) => {}
                Some(times) => wrong.push(format!("{number}: is there {times} times")),
                None => wrong.push(format!("{number}: is missing")),
            }
        }
    }
    wrong.extend(
        rows.keys()
            .map(|number| format!("{number}: is no requirement")),
    );
    wrong.sort();
    if wrong.is_empty() {
        return Ok(());
    }
    bail!("{PAGE}:\n  {}", wrong.join("\n  "))
}
