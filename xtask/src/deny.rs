//! What comes from elsewhere: its licences and sources, one version of each, and nothing that is not used.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail, ensure};
use serde::Deserialize;
use spdx::{Expression, ParseMode};

/// The one place that packages come from.
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

#[derive(Deserialize)]
struct Rules {
    licenses: Licenses,
    bans: Bans,
}

#[derive(Deserialize)]
struct Licenses {
    allow: Vec<String>,
}

#[derive(Deserialize)]
struct Bans {
    deny: Vec<Named>,
    skip: Vec<Named>,
}

#[derive(Deserialize)]
struct Named {
    #[serde(rename = "crate")]
    name: String,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) license: Option<String>,
    pub(crate) source: Option<String>,
    pub(crate) manifest_path: PathBuf,
    dependencies: Vec<Dependency>,
    targets: Vec<Target>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    rename: Option<String>,
}

/// Checks all of it.
///
/// # Errors
/// With everything that is not as `deny.toml` has it, and each dependency of ours that nothing uses.
pub(crate) fn check() -> anyhow::Result<()> {
    let rules = std::fs::read_to_string("deny.toml").context("failed to read deny.toml")?;
    let rules: Rules = toml::from_str(&rules).context("deny.toml has a mistake")?;
    let packages = packages()?;
    let (foreign, ours): (Vec<_>, Vec<_>) = packages.iter().partition(|p| p.source.is_some());
    let libraries = libraries(&packages);
    let mut wrong = Vec::new();
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for package in foreign {
        let (name, version) = (&package.name, &package.version);
        if package.source.as_deref() != Some(REGISTRY) {
            wrong.push(format!("{name} {version} does not come from crates.io"));
        }
        if !may_be_shipped(package.license.as_deref(), &rules.licenses.allow) {
            let license = package.license.as_deref().unwrap_or("none");
            wrong.push(format!("{name} {version} has the licence {license}"));
        }
        versions.entry(name).or_default().insert(version);
    }
    for banned in &rules.bans.deny {
        if versions.contains_key(banned.name.as_str()) {
            wrong.push(format!("{} is not to be used (deny.toml)", banned.name));
        }
    }
    let skipped: BTreeSet<&str> = rules.bans.skip.iter().map(|s| s.name.as_str()).collect();
    for (name, versions) in &versions {
        match (versions.len() > 1, skipped.contains(name)) {
            (true, false) => wrong.push(format!("{name} is there in {} versions", versions.len())),
            (false, true) => wrong.push(format!("{name} needs no entry in deny.toml any more")),
            (true, true) | (false, false) => {}
        }
    }
    for package in ours {
        wrong.extend(unused(package, &libraries)?);
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// All packages that a build for this machine looks at.
///
/// # Errors
/// When cargo does not tell.
pub(crate) fn packages() -> anyhow::Result<Vec<Package>> {
    let version = Command::new("rustc").arg("-vV").output()?.stdout;
    let version = String::from_utf8(version)?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    let host = host.context("rustc does not tell its host")?;
    let arguments = [
        "metadata",
        "--format-version",
        "1",
        "--locked",
        "--filter-platform",
        host,
    ];
    let output = Command::new("cargo").args(arguments).output()?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr));
    }
    let metadata: Metadata = serde_json::from_slice(&output.stdout)?;
    Ok(metadata.packages)
}

fn may_be_shipped(license: Option<&str>, allowed: &[String]) -> bool {
    let Some(license) = license else { return false };
    // Older packages write a slash for "or", or name a licence by its old name.
    let Ok(expression) = Expression::parse_mode(license, ParseMode::LAX) else {
        return false;
    };
    expression.evaluate(|required| allowed.contains(&required.to_string()))
}

/// What packages are called in code, where that is another name.
fn libraries(packages: &[Package]) -> BTreeMap<&str, &str> {
    let mut libraries = BTreeMap::new();
    for package in packages {
        let is_library = |target: &&Target| target.kind.iter().any(|kind| kind.ends_with("lib"));
        if let Some(library) = package.targets.iter().find(is_library) {
            libraries.insert(package.name.as_str(), library.name.as_str());
        }
    }
    libraries
}

/// Dependencies that a package of ours names and does not use.
fn unused(package: &Package, libraries: &BTreeMap<&str, &str>) -> anyhow::Result<Vec<String>> {
    let folder = package.manifest_path.parent();
    let folder = folder.context("a manifest is in a folder")?;
    let mut sources = String::new();
    read_sources(folder, &mut sources)?;
    let words: BTreeSet<&str> = sources
        .split(|c: char| !c.is_alphanumeric() && c != '_')
        .collect();
    let unused = package.dependencies.iter().filter(|dependency| {
        let own = libraries.get(dependency.name.as_str()).copied();
        let name = dependency.rename.as_deref().or(own);
        let name = name.unwrap_or(&dependency.name);
        !words.contains(name.replace('-', "_").as_str())
    });
    Ok(unused
        .map(|dependency| format!("{} does not use {}", package.name, dependency.name))
        .collect())
}

fn read_sources(folder: &Path, sources: &mut String) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let is_source = path.extension().is_some_and(|extension| extension == "rs");
        if path.is_dir() && !path.ends_with("target") {
            read_sources(&path, sources)?;
        } else if is_source {
            sources.push_str(&std::fs::read_to_string(&path)?);
        }
    }
    Ok(())
}
