//! What a delivery costs the processor, counted: a number that no other load of the machine changes.

use std::process::Command;

use anyhow::{Context as _, bail};

use crate::browser::{binary, target};
use crate::provide::{self, VALGRIND};
use crate::say;

/// Instructions for one delivery in the development build, as they were when somebody last looked.
const KNOWN: u64 = 668_000;
/// In a hundred: by so much they may differ without anybody asking why.
const TOLERANCE: u64 = 3;
/// Deliveries of the two runs, whose difference leaves out the start.
const RUNS: [u64; 2] = [200, 1_200];

/// Counts, and compares with what is known.
///
/// # Errors
/// When it is more or less, or cannot be counted.
pub(crate) fn check() -> anyhow::Result<()> {
    provide::programs(&[VALGRIND])?;
    // As the tests build it, which the gate has done by now.
    binary(&target())?;
    let [few, many] = RUNS;
    let each = (counted(many)?.saturating_sub(counted(few)?)) / (many - few);
    say(&format!(
        "{each} instructions for a delivery in the development build; {KNOWN} are known"
    ));
    let differs = each.abs_diff(KNOWN) * 100 > KNOWN * TOLERANCE;
    if differs && each > KNOWN {
        bail!(
            "a delivery costs more than it did: valgrind --tool=callgrind target/debug/examples/instructions 1200 says where. If it has to, write the new number into xtask/src/instructions.rs, and why into the commit"
        );
    }
    if differs {
        bail!(
            "a delivery costs less than it did: write the new number into xtask/src/instructions.rs, so that it stays so"
        );
    }
    Ok(())
}

fn counted(deliveries: u64) -> anyhow::Result<u64> {
    let program = target().join("debug/examples/instructions");
    let ran = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(program)
        .arg(deliveries.to_string())
        .output()?;
    let told = String::from_utf8_lossy(&ran.stderr);
    if !ran.status.success() {
        bail!("the deliveries could not be counted: {told}");
    }
    let line = told
        .lines()
        .find_map(|line| line.split_once("Collected : "));
    let count = line.with_context(|| format!("valgrind counted nothing: {told}"))?;
    Ok(count.1.trim().parse()?)
}
