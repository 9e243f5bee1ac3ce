//! Lints and documentation, looked at while the tests are built and run: `cargo clippy` and `cargo doc` would each compile
//! everything that comes from elsewhere once more.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, ensure};

use crate::browser::target;
use crate::cross::script;

const DRIVER: &str = "clippy-driver";
/// What `cargo clippy -- -D warnings` hands to it.
const WARNINGS_FAIL: &str = "-D__CLIPPY_HACKERY__warnings__CLIPPY_HACKERY__";
/// What it must refuse, or it looks at nothing.
const CONTROL: &str = "pub fn control(text: &String) -> usize { text.len() }\n";

/// In the place of rustdoc where that looks for examples: makes the pages too, since what is wrong in them is told only then.
const RUSTDOC: &str = r#"pages() {
    for word; do
        shift
        if [ "$skipped" ]; then skipped=; continue; fi
        case "$word" in
            --test) continue ;;
            --test-run-directory) skipped=yes; continue ;;
            --test-run-directory=*) continue ;;
        esac
        set -- "$@" "$word"
    done
    rustdoc "$@" -D warnings --out-dir "${0%/*}/pages"
}
pages "$@" && exec rustdoc "$@""#;

/// Has whoever compiles the tests lint what they compile; a warning fails. Every command that builds them must say so, or
/// it builds them once more.
pub(crate) fn linted(cargo: &mut Command) -> &mut Command {
    cargo
        .env("RUSTC_WORKSPACE_WRAPPER", DRIVER)
        .env("CLIPPY_ARGS", WARNINGS_FAIL)
}

/// Sees that a warning fails: that lints are asked for in this way is nowhere promised.
///
/// # Errors
/// When it does not.
pub(crate) fn control() -> anyhow::Result<()> {
    let folder = folder()?;
    let file = folder.join("control.rs");
    fs::write(&file, CONTROL)?;
    let mut compile = Command::new(DRIVER);
    // As cargo calls it: the compiler that it stands for comes first.
    compile.args(["rustc", "--crate-type", "lib", "--emit", "metadata"]);
    compile.arg("--out-dir").arg(&folder).arg(&file);
    let looked = linted(&mut compile).output().context(DRIVER)?;
    let told = String::from_utf8_lossy(&looked.stderr);
    ensure!(
        !looked.status.success() && told.contains("clippy::ptr_arg"),
        "what must be refused by a lint was not: {told}"
    );
    Ok(())
}

/// What to name in `RUSTDOC`, so that the test of examples looks at the documentation as a whole.
///
/// # Errors
/// When it could not be written.
pub(crate) fn rustdoc() -> anyhow::Result<PathBuf> {
    script(&folder()?.join("rustdoc"), RUSTDOC)
}

fn folder() -> anyhow::Result<PathBuf> {
    let folder = std::path::absolute(target().join("lints"))?;
    fs::create_dir_all(&folder)?;
    Ok(folder)
}
