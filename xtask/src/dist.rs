//! What is handed out: a static binary in an archive and a Debian package, for this machine's kind and for ARM64, and a
//! container image, with man pages, completions, licences and a list of all that is inside.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

use crate::browser::target;
use crate::deny::{Package, packages};
use crate::{cross, quietly, run, say, works};

/// The same everywhere, so that the same package comes out.
const CARGO_DEB: &str = "3.8.0";
const CARGO_CYCLONEDX: &str = "0.5.9";

/// Makes it all in `target/dist`, and sees that it compiles for the systems that nothing is made for.
///
/// # Errors
/// With what could not be made.
pub(crate) fn dist() -> anyhow::Result<()> {
    let target = target();
    let kind = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let mut build = Command::new("cargo");
    build.args(["build", "--release", "--locked", "--package", "postrider"]);
    // With the C library inside it runs on any Linux, and needs nothing beside it in an image. A table of a million places to
    // relocate is a few kilobytes when it is packed, which that library reads since its version 2.36.
    build.env(
        "RUSTFLAGS",
        "-C target-feature=+crt-static -C link-arg=-Wl,-z,pack-relative-relocs",
    );
    run(build.args(["--target", &kind]))?;
    let binary = target.join(&kind).join("release/postrider");
    let dist = target.join("dist");
    let staged = dist.join("staged");
    if dist.exists() {
        std::fs::remove_dir_all(&dist)?;
    }
    std::fs::create_dir_all(staged.join("completions"))?;
    stage(&binary, &staged)?;
    let arch = std::env::consts::ARCH;
    let archive = archive_of(&binary, &version(&binary)?, arch, &staged, &dist)?;
    let deb = package(&kind, &dist)?;
    let image = image(&binary, &dist)?;
    let bill = bill_of_materials(&kind, &binary, &dist)?;
    let arm = cross::arm64()?;
    cross::check(&[cross::WINDOWS, cross::MACOS])?;
    let arm_archive = archive_of(&arm, &version(&binary)?, "aarch64", &staged, &dist)?;
    let arm_deb = package(cross::ARM64, &dist)?;
    let sums = sums(&[&archive, &deb, &image, &bill, &arm_archive, &arm_deb])?;
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

fn archive_of(
    binary: &Path,
    version: &str,
    arch: &str,
    staged: &Path,
    dist: &Path,
) -> anyhow::Result<PathBuf> {
    let name = format!("postrider-{version}-{arch}");
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

fn package(kind: &str, dist: &Path) -> anyhow::Result<PathBuf> {
    if !works("cargo", &["deb", "--version"]) {
        say("installing cargo-deb");
        let wanted = format!("cargo-deb@{CARGO_DEB}");
        quietly(Command::new("cargo").args(["install", "--locked", &wanted]))?;
    }
    let mut make = Command::new("cargo");
    make.args(["deb", "--no-build", "--package", "postrider"]);
    run(make.args(["--target", kind, "--output"]).arg(dist))?;
    // As Debian calls the machine.
    let arch = if kind == cross::ARM64 {
        "arm64"
    } else {
        "amd64"
    };
    let mut made = std::fs::read_dir(dist)?.filter_map(|entry| Some(entry.ok()?.path()));
    let is_it = |path: &PathBuf| path.to_string_lossy().ends_with(&format!("_{arch}.deb"));
    made.find(is_it).context("cargo-deb made no package")
}

/// A container image, as `docker load` and `podman load` take it. It is tried before it is handed out.
fn image(binary: &Path, dist: &Path) -> anyhow::Result<PathBuf> {
    if !works("buildah", &["--version"]) {
        say("installing buildah");
        quietly(Command::new("apt-get").args(["install", "--yes", "buildah"]))
            .context("an image is made with buildah, and it could not be installed")?;
    }
    let folder = dist.join("image");
    std::fs::create_dir_all(folder.join("data"))?;
    std::fs::copy(binary, folder.join("postrider"))?;
    std::fs::copy("packaging/Dockerfile", folder.join("Dockerfile"))?;
    let (version, arch) = (version(binary)?, std::env::consts::ARCH);
    let name = format!("postrider:{version}");
    let buildah = |arguments: &[&str]| -> anyhow::Result<String> {
        let mut command = Command::new("buildah");
        // Without a daemon, and without rights that a container would need to be made by somebody else.
        command.envs([("BUILDAH_ISOLATION", "chroot"), ("STORAGE_DRIVER", "vfs")]);
        let output = command.args(arguments).current_dir(&folder).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        anyhow::ensure!(
            output.status.success(),
            "buildah {arguments:?} failed: {said}"
        );
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    };
    buildah(&[
        "build", "--quiet", "--format", "docker", "--tag", &name, ".",
    ])?;
    let container = buildah(&["from", &name])?;
    let tried = buildah(&["run", &container, "/postrider", "--version"]);
    buildah(&["rm", &container])?;
    let tried = tried.context("the image does not run")?;
    anyhow::ensure!(tried.ends_with(&version), "the image says it is {tried:?}");
    let file = dist.join(format!("postrider-{version}-{arch}.image.tar"));
    let to = format!(
        "docker-archive:{}:{name}",
        std::path::absolute(&file)?.display()
    );
    buildah(&["push", &name, &to])?;
    std::fs::remove_dir_all(folder)?;
    Ok(file)
}

/// All that is inside, as CycloneDX lists it, for programs that look for known faults.
fn bill_of_materials(kind: &str, binary: &Path, dist: &Path) -> anyhow::Result<PathBuf> {
    if !works("cargo", &["cyclonedx", "--version"]) {
        say("installing cargo-cyclonedx");
        let wanted = format!("cargo-cyclonedx@{CARGO_CYCLONEDX}");
        quietly(Command::new("cargo").args(["install", "--locked", &wanted]))?;
    }
    let mut make = Command::new("cargo");
    make.args(["cyclonedx", "--quiet", "--format", "json", "--target", kind]);
    make.args(["--manifest-path", "crates/postrider/Cargo.toml"]);
    run(make.args(["--override-filename", "postrider.cdx"]))?;
    let file = dist.join(format!("postrider-{}.cdx.json", version(binary)?));
    // It makes one of each crate, beside its manifest.
    for folder in std::fs::read_dir("crates")?.chain(std::fs::read_dir(".")?) {
        let made = folder?.path().join("postrider.cdx.json");
        if made.starts_with("crates/postrider") {
            // Of this machine it tells nothing.
            let here = format!("path+file://{}/", std::env::current_dir()?.display());
            let bill = std::fs::read_to_string(&made)?;
            std::fs::write(&file, bill.replace(&here, "path+file:///"))?;
        }
        if made.exists() {
            std::fs::remove_file(&made)?;
        }
    }
    Ok(file)
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
