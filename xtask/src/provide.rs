//! What the steps need and a machine with Rust alone lacks. What cannot be had fails: a test that does not run proves
//! nothing.

use std::path::Path;
use std::process::Command;

use anyhow::Context as _;

use crate::{browser, contract, cross, newest, quietly, run, say, sdks, works};

/// Of the system's: what is called, how it says that it is there, and the packages that bring it.
type Program = (&'static str, &'static str, &'static [&'static str]);

/// What the tests run beside the server: receivers in other languages, and a clock that is set.
const FOR_TESTS: &[Program] = &[
    ("node", "--version", &["nodejs"]),
    ("python3", "--version", &["python3"]),
    ("go", "version", &["golang-go"]),
    ("java", "--version", &["default-jdk-headless"]),
    ("php", "--version", &["php-cli"]),
    ("ruby", "--version", &["ruby"]),
    ("faketime", "--version", &["faketime"]),
    ("promtool", "--version", &["prometheus"]),
];
pub(crate) const NPM: Program = ("npm", "--version", &["npm"]);
// Without a font there is nothing to press.
pub(crate) const CHROMIUM: Program = ("chromium", "--version", &["chromium", "fonts-dejavu-core"]);
pub(crate) const VALGRIND: Program = ("valgrind", "--version", &["valgrind"]);

/// Adds what the first steps need: two components of the toolchain.
///
/// # Errors
/// When one could not be added.
pub(crate) fn components() -> anyhow::Result<()> {
    for (component, probe) in [("rustfmt", "fmt"), ("clippy", "clippy")] {
        if !works("cargo", &[probe, "--version"]) {
            run(Command::new("rustup").args(["component", "add", component]))
                .with_context(|| format!("{component} is missing and could not be installed"))?;
        }
    }
    Ok(())
}

/// All that the steps after those need. Most of it is waiting for others, so it is done while this machine compiles.
///
/// # Errors
/// When something could not be installed.
pub(crate) fn all() -> anyhow::Result<()> {
    // In one go: each look at what there is, and each end of an installation, takes its time.
    let mut packages = missing(FOR_TESTS);
    packages.extend(missing(&[NPM, CHROMIUM, VALGRIND]));
    packages.extend(missing_database());
    packages.extend(missing_environments());
    apt(&packages)?;
    for_tests()?;
    newest::programs()?;
    browser::provide()?;
    contract::provide()?;
    sdks::provide()?;
    cross::provide()
}

/// What `cargo xtask test` needs.
///
/// # Errors
/// When something could not be installed.
pub(crate) fn for_tests() -> anyhow::Result<()> {
    let mut packages = missing(FOR_TESTS);
    packages.extend(missing_database());
    apt(&packages)?;
    if works("python3", &["-c", "import cryptography"]) {
        return Ok(());
    }
    // The interpreter's own installer; where the system keeps its packages to itself, the system's.
    let own = ["-m", "pip", "install", "--quiet", "cryptography"];
    let system = ["install", "--yes", "python3-cryptography"];
    quietly(Command::new("python3").args(own))
        .or_else(|_| quietly(Command::new("apt-get").args(system)))
        .context("the Python package cryptography is missing and could not be installed")
}

/// Installs what of it is missing.
///
/// # Errors
/// When something could not be installed.
pub(crate) fn programs(programs: &[Program]) -> anyhow::Result<()> {
    apt(&missing(programs))
}

fn missing(programs: &[Program]) -> Vec<&'static str> {
    programs
        .iter()
        .filter(|(program, version, _)| !works(program, &[version]))
        .flat_map(|(_, _, packages)| packages.iter().copied())
        .collect()
}

/// PostgreSQL, of which the tests start servers of their own. Its client alone is not it.
fn missing_database() -> Option<&'static str> {
    let versions = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten();
    let mut servers = versions
        .flatten()
        .map(|version| version.path().join("bin/postgres"));
    (!servers.any(|server| server.exists())).then_some("postgresql")
}

/// What Python makes environments with: some systems keep that apart.
fn missing_environments() -> Option<&'static str> {
    (!works("python3", &["-m", "ensurepip", "--version"])).then_some("python3-venv")
}

/// Sees that Python can make environments.
///
/// # Errors
/// When it could not be installed.
pub(crate) fn environments() -> anyhow::Result<()> {
    apt(missing_environments().as_slice())
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
        .with_context(|| format!("{package} could not be installed"))
}

/// Installs packages for JavaScript into a folder of their own.
///
/// # Errors
/// When they could not be.
pub(crate) fn modules(modules: &Path, packages: &[&str]) -> anyhow::Result<()> {
    programs(&[NPM])?;
    std::fs::create_dir_all(modules)?;
    std::fs::write(modules.join("package.json"), "{\"private\":true}")?;
    quietly(
        Command::new("npm")
            .args(["install", "--no-audit", "--no-fund", "--prefix"])
            .arg(modules)
            .args(packages),
    )
    .with_context(|| format!("{} could not be installed", packages.join(", ")))
}

/// Installs packages of the system's, if there are any to install.
///
/// # Errors
/// When they could not be.
pub(crate) fn apt(packages: &[&str]) -> anyhow::Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    let names = packages.join(", ");
    say(&format!("installing {names}"));
    let how = "do it by hand where apt-get is not there";
    quietly(Command::new("apt-get").arg("update"))
        .with_context(|| format!("{names} is missing: {how}"))?;
    quietly(
        Command::new("apt-get")
            .args(["install", "--yes", "--no-install-recommends"])
            .args(packages)
            .env("DEBIAN_FRONTEND", "noninteractive"),
    )
    .with_context(|| format!("{names} could not be installed: {how}"))
}
