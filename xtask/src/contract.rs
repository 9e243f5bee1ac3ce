//! A running server held against its own OpenAPI document.

use std::path::Path;
use std::process::Command;

use anyhow::Context as _;

use crate::browser::{binary, target};
use crate::{apt, languages, quietly, run, say, works};

/// What makes requests from the document; the same version everywhere, so that it makes the same requests.
const SCHEMATHESIS: &str = "schemathesis==4.32.5";
const SCRIPT: &str = "crates/postrider/tests/openapi/contract.py";

/// Installs what is missing, and runs the check.
///
/// # Errors
/// With what was found, or what could not be installed.
pub(crate) fn check() -> anyhow::Result<()> {
    languages()?;
    let target = target();
    let environment = target.join("contract");
    let program = environment.join("bin/st");
    let installed = program.to_string_lossy().into_owned();
    if !works(&installed, &["--version"]) {
        say("installing schemathesis");
        self::environment(&environment, SCHEMATHESIS)
            .context("schemathesis could not be installed")?;
    }
    run(Command::new("python3")
        .arg(SCRIPT)
        .arg(binary(&target)?)
        .arg(std::path::absolute(program)?))
}

/// Sees that Python can make environments: some systems keep that apart.
///
/// # Errors
/// When it could not be installed.
pub(crate) fn environments() -> anyhow::Result<()> {
    if works("python3", &["-m", "ensurepip", "--version"]) {
        return Ok(());
    }
    apt(&["python3-venv"])
}

/// Installs a package for Python into an environment of its own, so that nothing of the machine's changes.
///
/// # Errors
/// When it could not be.
pub(crate) fn environment(environment: &Path, package: &str) -> anyhow::Result<()> {
    environments()?;
    quietly(
        Command::new("python3")
            .args(["-m", "venv", "--clear"])
            .arg(environment),
    )?;
    let pip = environment.join("bin/pip");
    quietly(Command::new(pip).args(["install", "--quiet", package]))
}

/// Renders the Helm chart with Helm, and tries the configurations that it makes.
///
/// # Errors
/// When something of it is wrong.
pub(crate) fn chart() -> anyhow::Result<()> {
    environments()?;
    let target = target();
    run(Command::new("python3")
        .arg("packaging/helm/check")
        .env("POSTRIDER", std::path::absolute(binary(&target)?)?))
}
