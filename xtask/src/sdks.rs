//! Svix's own SDKs against a running server.

use std::path::Path;
use std::process::Command;

use anyhow::Context as _;

use crate::browser::{binary, modules, target};
use crate::contract::environment;
use crate::{languages, run, say};

const SCRIPT: &str = "crates/postrider/tests/svix/sdk.py";
/// One of each generation: they differ in what they call things.
const PYTHON: &str = "svix==2.9.1";
const JAVASCRIPT: &str = "svix@1.99.1";

/// Installs what is missing, and goes through the story.
///
/// # Errors
/// With what was found, or what could not be installed.
pub(crate) fn check() -> anyhow::Result<()> {
    languages()?;
    let target = target();
    let python = target.join("sdks");
    let node = std::path::absolute(target.join("sdks-node"))?;
    if !installed(&python) || !node.join("node_modules/svix/package.json").exists() {
        say("installing the SDKs");
        environment(&python, PYTHON).context("the SDK for Python could not be installed")?;
        modules(&node, &[JAVASCRIPT]).context("the SDK for JavaScript could not be installed")?;
    }
    run(Command::new(python.join("bin/python"))
        .arg(SCRIPT)
        .arg(binary(&target)?)
        .arg(&node))
}

fn installed(python: &Path) -> bool {
    let mut imports = Command::new(python.join("bin/python"));
    let imports = imports.args(["-c", "import svix"]).output();
    imports.is_ok_and(|imports| imports.status.success())
}
