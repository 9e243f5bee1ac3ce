//! Other systems than this one: Windows and macOS are checked, ARM64 Linux is built.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

use crate::browser::target;
use crate::provide::apt;
use crate::{quietly, run, works};

/// Without the C that is inside: nothing is linked here, and its authors compile it for them.
pub(crate) const WINDOWS: &str = "x86_64-pc-windows-gnu";
pub(crate) const MACOS: &str = "aarch64-apple-darwin";
/// In the place of a C compiler: makes what it was asked to make, with nothing in it.
const COMPILER: &str = r#"for word; do [ "$before" = -o ] && : > "$word"; before=$word; done
exit 0"#;
/// In the place of what makes libraries.
const ARCHIVER: &str = r#"for word; do case "$word" in *.a) : > "$word";; esac; done"#;
/// What an archive and a package for ARM64 are built for.
pub(crate) const ARM64: &str = "aarch64-unknown-linux-gnu";
/// The compiler and the C library for it, and what runs it here.
const FOR_ARM64: [&str; 3] = [
    "gcc-aarch64-linux-gnu",
    "libc6-dev-arm64-cross",
    "qemu-user-static",
];

/// Compiles for other systems as far as that goes without linking. A warning fails: it is of code that is theirs only.
///
/// # Errors
/// When it does not compile, or what it takes is not to be had.
pub(crate) fn check(kinds: &[&str]) -> anyhow::Result<()> {
    let folder = std::path::absolute(target().join("cross"))?;
    fs::create_dir_all(&folder)?;
    let compiler = script(&folder.join("cc"), COMPILER)?;
    let archiver = script(&folder.join("ar"), ARCHIVER)?;
    let mut check = Command::new("cargo");
    check.args(["check", "--quiet", "--locked", "--package", "postrider"]);
    // Without OpenTelemetry, in which nothing is of one system.
    check.arg("--no-default-features");
    // A folder of its own: whoever checks for another system holds the lock of this one's, for which all others would wait.
    check.env("CARGO_TARGET_DIR", folder.join("build"));
    check.env("RUSTFLAGS", "-D warnings");
    for kind in kinds {
        add(kind)?;
        check.args(["--target", kind]);
        let variable = kind.replace('-', "_");
        check.env(format!("CC_{variable}"), &compiler);
        check.env(format!("AR_{variable}"), &archiver);
        check.env(format!("RANLIB_{variable}"), "true");
    }
    // Asked for by who compiles for Apple; there is nothing in it either.
    check.env("SDKROOT", &folder);
    quietly(&mut check)
}

/// Has what the gate's check takes.
pub(crate) fn provide() -> anyhow::Result<()> {
    add(WINDOWS)
}

/// Builds a release for ARM64 with the C library inside, and sees that it runs.
///
/// # Errors
/// When it cannot be built.
pub(crate) fn arm64() -> anyhow::Result<PathBuf> {
    add(ARM64)?;
    if !works("aarch64-linux-gnu-gcc", &["--version"])
        || !works("qemu-aarch64-static", &["--version"])
    {
        apt(&FOR_ARM64)?;
    }
    let mut build = Command::new("cargo");
    build.args(["build", "--release", "--locked", "--package", "postrider"]);
    build.args(["--target", ARM64]);
    build.env("RUSTFLAGS", "-C target-feature=+crt-static");
    build.env(
        "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER",
        "aarch64-linux-gnu-gcc",
    );
    // Some of these machines have pages of 64 KiB; the allocator takes any smaller ones too.
    build.env("JEMALLOC_SYS_WITH_LG_PAGE", "16");
    run(&mut build)?;
    let binary = target().join(ARM64).join("release/postrider");
    let ran = Command::new("qemu-aarch64-static")
        .arg(&binary)
        .arg("--version")
        .output()?;
    let told = String::from_utf8_lossy(&ran.stdout);
    anyhow::ensure!(
        told.starts_with("postrider "),
        "the binary for ARM64 does not run: {told}"
    );
    Ok(binary)
}

/// Has the standard library of a system.
fn add(kind: &str) -> anyhow::Result<()> {
    quietly(Command::new("rustup").args(["target", "add", kind]))
        .with_context(|| format!("rustup could not add the target {kind}"))
}

/// Writes a program of the shell's.
#[cfg(unix)]
pub(crate) fn script(path: &Path, text: &str) -> anyhow::Result<PathBuf> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::write(path, format!("#!/bin/sh\n{text}\n"))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(path.to_owned())
}

#[cfg(not(unix))]
pub(crate) fn script(_: &Path, _: &str) -> anyhow::Result<PathBuf> {
    anyhow::bail!("the gate runs on Unix")
}
