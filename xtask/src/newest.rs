//! The newest PostgreSQL that a registry has, beside the one that the system brings: what only that one breaks is found before a
//! user does.

use std::path::PathBuf;
use std::process::Command;

use crate::provide::modules;
use crate::{lints, run};

/// PostgreSQL 18, the server's programs alone.
const VERSION: &str = "18.4.0-beta.17";
/// What the tests take their server from; clients are the system's.
const VARIABLE: &str = "POSTRIDER_TEST_POSTGRES";

/// What is said of PostgreSQL, once more: the rules of the store, a database that goes away, the outbox.
pub(crate) fn check() -> anyhow::Result<()> {
    let programs = programs()?;
    for arguments in [
        &["--workspace", "--test", "postgres"][..],
        &["--workspace", "--test", "it", "outbox::"],
        &["--workspace", "--test", "it", "postgres::"],
    ] {
        run(lints::linted(&mut Command::new("cargo"))
            .args(["test", "--quiet"])
            .args(arguments)
            .env(VARIABLE, &programs))?;
    }
    Ok(())
}

/// Where they are, installed if they are missing.
pub(crate) fn programs() -> anyhow::Result<PathBuf> {
    let kind = match std::env::consts::ARCH {
        "aarch64" => "linux-arm64",
        _ => "linux-x64",
    };
    let package = format!("@embedded-postgres/{kind}");
    // Where another user can read it too: the server refuses to be root.
    let directory = std::env::temp_dir().join(format!("postrider-postgres-{VERSION}"));
    let programs = directory.join(format!("node_modules/{package}/native/bin"));
    if !programs.join("postgres").exists() {
        modules(&directory, &[&format!("{package}@{VERSION}")])?;
    }
    Ok(programs)
}
