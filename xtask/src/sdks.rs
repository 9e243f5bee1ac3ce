//! Svix's own SDKs, and clients made from the OpenAPI document, against a running server.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::browser::{binary, target};
use crate::provide::{self, environment, modules};
use crate::{run, say, works};

const SCRIPT: &str = "crates/postrider/tests/svix/sdk.py";
/// They differ in what they call things. The one for Rust is named in the script.
const PYTHON: &str = "svix==2.9.1";
const JAVASCRIPT: &str = "svix@1.99.1";

const CLIENTS: &str = "crates/postrider/tests/clients/client.py";
const PUBLISHING: &str = "crates/postrider/tests/clients/publishing.py";
/// The usual generators; the same version everywhere, so that they make the same clients.
const FOR_PYTHON: &str = "openapi-python-client==0.29.1";
const FOR_TYPESCRIPT: [&str; 4] = [
    "openapi-typescript@7.13.0",
    "openapi-fetch@0.17.0",
    "typescript@5.9.3",
    "@types/node@20",
];

/// What users' programs in Rust are built with. They take most of their crates from where the server's are, as far as
/// version, features and profile are the same; three of them with folders of their own would build TLS three times.
fn users() -> anyhow::Result<[(&'static str, String); 2]> {
    let target = std::path::absolute(target())?;
    Ok([
        ("CARGO_TARGET_DIR", target.to_string_lossy().into_owned()),
        ("CARGO_PROFILE_DEV_DEBUG", "0".to_owned()),
    ])
}

/// Installs what is missing, and goes through the story.
///
/// # Errors
/// With what was found, or what could not be installed.
pub(crate) fn check() -> anyhow::Result<()> {
    provide()?;
    svix()?;
    clients()?;
    in_rust()?;
    publishing()
}

/// The client crate, which is not of the workspace: whoever builds the server does not build it.
fn in_rust() -> anyhow::Result<()> {
    const MANIFEST: &str = "clients/rust/Cargo.toml";
    let target = target();
    run(Command::new("cargo").args(["fmt", "--check", "--manifest-path", MANIFEST]))?;
    run(Command::new("cargo")
        .args(["test", "--quiet", "--locked", "--manifest-path", MANIFEST])
        .envs(users()?)
        .env("POSTRIDER", std::path::absolute(binary(&target)?)?))
}

/// Has the SDKs and the generators.
pub(crate) fn provide() -> anyhow::Result<()> {
    provide::for_tests()?;
    for_svix()?;
    for_clients().map(drop)
}

/// Where those for Python and for JavaScript are.
fn for_svix() -> anyhow::Result<(PathBuf, PathBuf)> {
    let target = target();
    let python = target.join("sdks");
    let node = std::path::absolute(target.join("sdks-node"))?;
    if !installed(&python) || !node.join("node_modules/svix/package.json").exists() {
        say("installing the SDKs");
        environment(&python, PYTHON)?;
        modules(&node, &[JAVASCRIPT])?;
    }
    Ok((python, node))
}

fn for_clients() -> anyhow::Result<(PathBuf, PathBuf)> {
    let target = target();
    let python = target.join("clients");
    let node = std::path::absolute(target.join("clients-node"))?;
    let is_there = works(&generator(&python)?.to_string_lossy(), &["--version"]);
    if !is_there || !node.join("node_modules/.bin/tsc").exists() {
        say("installing the generators of clients");
        environment(&python, FOR_PYTHON)?;
        modules(&node, &FOR_TYPESCRIPT)?;
    }
    Ok((python, node))
}

fn generator(python: &Path) -> anyhow::Result<PathBuf> {
    Ok(std::path::absolute(
        python.join("bin/openapi-python-client"),
    )?)
}

fn svix() -> anyhow::Result<()> {
    let target = target();
    let (python, node) = for_svix()?;
    run(Command::new(python.join("bin/python"))
        .arg(SCRIPT)
        .arg(binary(&target)?)
        .arg(&node)
        .arg(std::path::absolute(target.join("sdks-rust"))?)
        .envs(users()?))
}

/// Makes clients from the document of a running server, and goes through a story with each.
fn clients() -> anyhow::Result<()> {
    let target = target();
    let (python, node) = for_clients()?;
    let generator = generator(&python)?;
    run(Command::new(python.join("bin/python"))
        .arg(CLIENTS)
        .arg(binary(&target)?)
        .arg(&generator)
        .arg(&node))
}

/// Runs the programs of `docs/publishing.md`.
fn publishing() -> anyhow::Result<()> {
    let target = target();
    run(Command::new("python3")
        .arg(PUBLISHING)
        .arg(binary(&target)?)
        .arg(std::path::absolute(target.join("publishing"))?)
        .envs(users()?))
}

fn installed(python: &Path) -> bool {
    let mut imports = Command::new(python.join("bin/python"));
    let imports = imports.args(["-c", "import svix"]).output();
    imports.is_ok_and(|imports| imports.status.success())
}
