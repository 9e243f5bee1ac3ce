//! The pages in a real browser.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::provide::{self, CHROMIUM};
use crate::{lints, run, say};

const SCRIPT: &str = "crates/postrider/tests/browser/pages.mjs";
/// What drives the browser, and what looks for barriers; the same versions everywhere.
const MODULES: &[&str] = &["playwright-core@1.65.1", "axe-core@4.14.1"];

/// Whether to leave screenshots of all pages beneath `target`, for a person who looks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Screenshots {
    Taken,
    /// They take as long as all else.
    NotTaken,
}

/// Installs what is missing, and goes through the pages.
///
/// # Errors
/// With what was found, or what could not be installed.
pub(crate) fn check(screenshots: Screenshots) -> anyhow::Result<()> {
    let target = target();
    let modules = provide()?;
    let mut look = Command::new("node");
    look.arg(SCRIPT).arg(binary(&target)?).arg(&modules);
    if screenshots == Screenshots::Taken {
        look.arg(modules.join("screenshots"));
    }
    run(&mut look)
}

/// Has the browser, and what drives it; the latter is where it says.
pub(crate) fn provide() -> anyhow::Result<PathBuf> {
    provide::for_tests()?;
    provide::programs(&[CHROMIUM])?;
    let modules = std::path::absolute(target().join("browser"))?;
    if !modules.join("node_modules/axe-core/axe.min.js").exists() {
        say("installing what drives the browser");
        provide::modules(&modules, MODULES)?;
    }
    Ok(modules)
}

/// Where everything is built.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from)
}

/// The binary that the tests have used: another choice of packages would build much of it once more.
pub(crate) fn binary(target: &Path) -> anyhow::Result<PathBuf> {
    let mut build = Command::new("cargo");
    run(lints::linted(&mut build).args(["test", "--workspace", "--no-run", "--quiet"]))?;
    Ok(target.join("debug/postrider").canonicalize()?)
}
