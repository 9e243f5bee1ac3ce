//! A running server held against its own OpenAPI document.

use std::path::PathBuf;
use std::process::Command;

use crate::browser::{binary, target};
use crate::{provide, run, say, works};

/// What makes requests from the document; the same version everywhere, so that it makes the same requests.
const SCHEMATHESIS: &str = "schemathesis==4.32.5";
const SCRIPT: &str = "crates/postrider/tests/openapi/contract.py";

/// Installs what is missing, and runs the check.
///
/// # Errors
/// With what was found, or what could not be installed.
pub(crate) fn check() -> anyhow::Result<()> {
    let program = provide()?;
    run(Command::new("python3")
        .arg(SCRIPT)
        .arg(binary(&target())?)
        .arg(std::path::absolute(program)?))
}

/// Has what makes the requests; it is where this says.
pub(crate) fn provide() -> anyhow::Result<PathBuf> {
    provide::for_tests()?;
    let environment = target().join("contract");
    let program = environment.join("bin/st");
    if !works(&program.to_string_lossy(), &["--version"]) {
        say("installing schemathesis");
        provide::environment(&environment, SCHEMATHESIS)?;
    }
    Ok(program)
}

/// Renders the Helm chart with Helm, and tries the configurations that it makes.
///
/// # Errors
/// When something of it is wrong.
pub(crate) fn chart() -> anyhow::Result<()> {
    provide::environments()?;
    let target = target();
    run(Command::new("python3")
        .arg("packaging/helm/check")
        .env("POSTRIDER", std::path::absolute(binary(&target)?)?))
}
