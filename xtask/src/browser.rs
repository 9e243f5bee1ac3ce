//! The pages in a real browser.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

use crate::{apt, languages, quietly, run, say, works};

const SCRIPT: &str = "crates/postrider/tests/browser/pages.mjs";
/// What drives the browser, and what looks for barriers; the same versions everywhere.
const MODULES: &[&str] = &["playwright-core@1.65.1", "axe-core@4.14.1"];

/// Installs what is missing, and goes through the pages. Screenshots of all of them are left beneath `target`.
///
/// # Errors
/// With what was found, or what could not be installed.
pub(crate) fn check() -> anyhow::Result<()> {
    languages()?;
    let target = target();
    let modules = std::path::absolute(target.join("browser"))?;
    if !works("chromium", &["--version"]) {
        // Without a font there is nothing to press.
        apt(&["chromium", "fonts-dejavu-core"])?;
    }
    if !modules.join("node_modules/axe-core/axe.min.js").exists() {
        say("installing what drives the browser");
        self::modules(&modules, MODULES)
            .context("playwright-core and axe-core could not be installed")?;
    }
    run(Command::new("node")
        .arg(SCRIPT)
        .arg(binary(&target)?)
        .arg(&modules)
        .arg(modules.join("screenshots")))
}

/// Where everything is built.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from)
}

/// The binary that the tests have used: another choice of packages would build much of it once more.
pub(crate) fn binary(target: &Path) -> anyhow::Result<PathBuf> {
    run(Command::new("cargo").args([
        "test",
        "--workspace",
        "--all-targets",
        "--no-run",
        "--quiet",
    ]))?;
    Ok(target.join("debug/postrider").canonicalize()?)
}

/// Installs packages for JavaScript into a folder of their own.
///
/// # Errors
/// When they could not be.
pub(crate) fn modules(modules: &Path, packages: &[&str]) -> anyhow::Result<()> {
    if !works("npm", &["--version"]) {
        apt(&["npm"])?;
    }
    std::fs::create_dir_all(modules)?;
    std::fs::write(modules.join("package.json"), "{\"private\":true}")?;
    quietly(
        Command::new("npm")
            .args(["install", "--no-audit", "--no-fund", "--prefix"])
            .arg(modules)
            .args(packages),
    )
}
