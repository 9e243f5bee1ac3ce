//! What is handed out: an archive and a Debian package of this machine's kind, with man pages, completions and licences.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

use crate::browser::target;
use crate::deny::{Package, packages};
use crate::{quietly, run, say, works};

/// The same everywhere, so that the same package comes out.
const CARGO_DEB: &str = "3.8.0";

/// Makes it all in `target/dist`.
///
/// # Errors
/// With what could not be made.
pub(crate) fn dist() -> anyhow::Result<()> {
    let target = target();
    let mut build = Command::new("cargo");
    run(build.args(["build", "--release", "--locked", "--package", "postrider"]))?;
    let binary = target.join("release/postrider");
    let dist = target.join("dist");
    let staged = dist.join("staged");
    if dist.exists() {
        std::fs::remove_dir_all(&dist)?;
    }
    std::fs::create_dir_all(staged.join("completions"))?;
    stage(&binary, &staged)?;
    let archive = archive(&binary, &staged, &dist)?;
    let package = package(&dist)?;
    let sums = sums(&[&archive, &package])?;
    std::fs::write(dist.join("SHA256SUMS"), &sums)?;
    say(sums.trim_end());
    Ok(())
}

/// What goes with the binary.
fn stage(binary: &Path, staged: &Path) -> anyhow::Result<()> {
    run(Command::new(binary)
        .arg("man-pages")
        .arg(staged.join("man")))?;
    for (shell, file) in [
        ("bash", "postrider.bash"),
        ("zsh", "_postrider"),
        ("fish", "postrider.fish"),
    ] {
        let made = Command::new(binary).args(["completions", shell]).output()?;
        std::fs::write(staged.join("completions").join(file), made.stdout)?;
    }
    std::fs::write(staged.join("LICENCES.md"), licences()?)?;
    Ok(())
}

/// The licences of all that is in the binary, with their texts as the packages bring them.
fn licences() -> anyhow::Result<String> {
    let tree = Command::new("cargo")
        .args(["tree", "--package", "postrider", "--edges", "normal"])
        .args(["--prefix", "none", "--format", "{p}", "--locked"])
        .output()?;
    let tree = String::from_utf8(tree.stdout)?;
    let in_it: BTreeSet<(&str, &str)> = tree.lines().filter_map(name_and_version).collect();
    let is_in_it = |package: &&Package| {
        package.source.is_some() && in_it.contains(&(&*package.name, &*package.version))
    };
    let all = packages()?;
    let mut text = String::from("# What this binary is built with\n");
    let (mut texts, mut count) = (BTreeSet::new(), 0);
    for package in all.iter().filter(is_in_it) {
        let license = package.license.as_deref().unwrap_or("see below");
        write!(
            text,
            "\n## {} {}\n\n{license}\n",
            package.name, package.version
        )?;
        count += 1;
        let folder = package.manifest_path.parent();
        for file in folder.map(license_files).transpose()?.unwrap_or_default() {
            let license = std::fs::read(&file)?;
            let license = String::from_utf8_lossy(&license);
            // Many have the same.
            if texts.insert(license.trim().to_owned()) {
                write!(text, "\n```\n{}\n```\n", license.trim_end())?;
            }
        }
    }
    anyhow::ensure!(
        count > 100,
        "only {count} packages are in the binary: is this the right tree?"
    );
    Ok(text)
}

fn name_and_version(line: &str) -> Option<(&str, &str)> {
    let mut parts = line.split_whitespace();
    Some((parts.next()?, parts.next()?.strip_prefix('v')?))
}

fn license_files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().to_ascii_uppercase();
        let is_one = ["LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE"];
        if entry.file_type()?.is_file() && is_one.iter().any(|start| name.starts_with(start)) {
            files.push(entry.path());
        }
    }
    files.sort_unstable();
    Ok(files)
}

fn archive(binary: &Path, staged: &Path, dist: &Path) -> anyhow::Result<PathBuf> {
    let name = format!("postrider-{}-{}", version(binary)?, std::env::consts::ARCH);
    let folder = dist.join(&name);
    std::fs::create_dir_all(&folder)?;
    let mut copy = Command::new("cp");
    copy.args(["-r", "LICENSE", "README.md", "CHANGELOG.md", "packaging"]);
    run(copy
        .args([&staged.join("man"), &staged.join("completions")])
        .args([&staged.join("LICENCES.md"), binary, &folder]))?;
    let archive = dist.join(format!("{name}.tar.gz"));
    // Nothing of this machine, and the same order every time.
    let mut tar = Command::new("tar");
    tar.args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner"]);
    tar.args(["--mtime=2026-01-01T00:00Z", "-czf"]);
    run(tar.arg(&archive).arg("-C").arg(dist).arg(&name))?;
    std::fs::remove_dir_all(folder)?;
    Ok(archive)
}

fn version(binary: &Path) -> anyhow::Result<String> {
    let told = Command::new(binary).arg("--version").output()?.stdout;
    let told = String::from_utf8(told)?;
    let version = told.split_whitespace().nth(1);
    Ok(version.context("the binary tells no version")?.to_owned())
}

fn package(dist: &Path) -> anyhow::Result<PathBuf> {
    if !works("cargo", &["deb", "--version"]) {
        say("installing cargo-deb");
        let wanted = format!("cargo-deb@{CARGO_DEB}");
        quietly(Command::new("cargo").args(["install", "--locked", &wanted]))?;
    }
    let mut make = Command::new("cargo");
    make.args(["deb", "--no-build", "--package", "postrider", "--output"]);
    run(make.arg(dist))?;
    let mut made = std::fs::read_dir(dist)?.filter_map(|entry| Some(entry.ok()?.path()));
    let package = made.find(|path| path.extension().is_some_and(|end| end == "deb"));
    package.context("cargo-deb made no package")
}

/// As `sha256sum --check` reads it.
fn sums(files: &[&Path]) -> anyhow::Result<String> {
    let mut sums = String::new();
    for file in files {
        let name = file.file_name().context("a file without a name")?;
        let mut sum = Command::new("sha256sum");
        let sum = sum
            .arg(name)
            .current_dir(file.parent().context("a file without a folder")?);
        sums.push_str(&String::from_utf8(sum.output()?.stdout)?);
    }
    Ok(sums)
}
