//! The fuzzer over every parser of hostile input, and a control that it must fail on.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::{quietly, run, say, works};

/// Coverage for the fuzzer, by what every compiler of Rust has.
const FLAGS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 -Cdebug-assertions=on";
/// What has a planted mistake.
const CONTROL: &str = "control";
/// An input that takes longer is a fault.
const INPUT_SECS_MAX: u32 = 10;
/// The control is found within seconds; this is for a slow machine.
const CONTROL_SECS_MAX: u32 = 60;

/// Fuzzes each target for `secs`. What is found is left in `fuzz/found` and belongs among the seeds.
///
/// # Errors
/// With the first target that fails, or when the control does not.
#[expect(
    clippy::too_many_lines,
    reason = "each target in the same way, and the control first"
)]
pub(crate) fn fuzz(secs: &str) -> anyhow::Result<()> {
    let secs: u32 = secs.parse().context("the seconds must be a whole number")?;
    if !works("c++", &["--version"]) {
        let install = ["install", "--yes", "--no-install-recommends", "g++"];
        quietly(Command::new("apt-get").args(install))
            .context("a C++ compiler is missing and could not be installed")?;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    run(Command::new("cargo")
        .args([
            "build",
            "--release",
            "-p",
            "postrider-fuzz",
            "--features",
            "libfuzzer",
        ])
        .args(["--target", &host()?, "--target-dir", "target/fuzz"])
        .args(["--config", "profile.release.lto=false"])
        .env("RUSTFLAGS", FLAGS)
        .current_dir(&root))?;
    let program = root
        .join("target/fuzz")
        .join(host()?)
        .join("release/postrider-fuzz");
    let run_target = |target: &str, secs: u32| {
        let (corpus, found) = (
            root.join("target/fuzz/corpus").join(target),
            root.join("fuzz/found/"),
        );
        std::fs::create_dir_all(&corpus)?;
        std::fs::create_dir_all(&found)?;
        let output = Command::new(&program)
            .arg(&corpus)
            .arg(root.join("fuzz/seeds").join(target))
            .arg(format!("-max_total_time={secs}"))
            .arg(format!("-timeout={INPUT_SECS_MAX}"))
            .arg(format!("-artifact_prefix={}", found.display()))
            .args(["-max_len=8192", "-print_final_stats=1", "-verbosity=0"])
            .env("FUZZ_TARGET", target)
            .output();
        output.with_context(|| format!("cannot run {}", program.display()))
    };
    if run_target(CONTROL, CONTROL_SECS_MAX)?.status.success() {
        bail!("the control was not found: this fuzzer finds nothing");
    }
    say("control: found, as it must be");
    // A test holds that each target has seeds.
    let seeds = std::fs::read_dir(root.join("fuzz/seeds")).context("failed to read fuzz/seeds")?;
    let mut targets = Vec::new();
    for target in seeds {
        targets.push(target?.file_name().to_string_lossy().into_owned());
    }
    targets.retain(|target| target != CONTROL);
    targets.sort();
    for target in &targets {
        let output = run_target(target, secs)?;
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        if !output.status.success() {
            let last: Vec<&str> = told.lines().rev().take(40).collect();
            let last: Vec<&str> = last.into_iter().rev().collect();
            bail!(
                "{target} failed; its input is in fuzz/found:\n{}",
                last.join("\n")
            );
        }
        let runs = told
            .lines()
            .find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
        say(&format!(
            "{target}: {} inputs, nothing found",
            runs.unwrap_or("?").trim()
        ));
    }
    Ok(())
}

/// The machine that this runs on; named, so that build scripts are not built for fuzzing.
fn host() -> anyhow::Result<String> {
    let output = Command::new("rustc").arg("-vV").output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(ToOwned::to_owned)
        .context("rustc does not tell its host")
}
