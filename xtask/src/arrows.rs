//! Which crate may know which: the arrows of the house, held against every `Cargo.toml`.

use std::path::Path;

use anyhow::{Context as _, bail};

/// Our crates that each crate may depend on, and the others it must not.
const ARROWS: &[(&str, &[&str], &[&str])] = &[
    (
        "core",
        &[],
        &[
            "tokio",
            "hyper",
            "axum",
            "rusqlite",
            "tokio-postgres",
            "fastrand",
        ],
    ),
    (
        "store",
        &["core"],
        &["hyper", "axum", "rusqlite", "tokio-postgres"],
    ),
    ("store-sql", &["core", "store"], &["hyper", "axum"]),
    (
        "engine",
        &["core", "store"],
        &["hyper", "axum", "rusqlite", "tokio-postgres", "rustls"],
    ),
    (
        "transport",
        &["core", "engine"],
        &["axum", "rusqlite", "tokio-postgres"],
    ),
    // Above it nobody sees the store or the engine: doors ask the service.
    (
        "service",
        &["core", "store", "engine"],
        &[
            "http",
            "hyper",
            "axum",
            "rusqlite",
            "tokio-postgres",
            "rustls",
        ],
    ),
    (
        // Its listener speaks TLS.
        "api",
        &["core", "service"],
        &["rusqlite", "tokio-postgres", "jsonschema"],
    ),
    (
        "pages",
        &["core", "service"],
        &[
            "hyper",
            "rusqlite",
            "tokio-postgres",
            "rustls",
            "jsonschema",
        ],
    ),
    (
        "notify",
        &["core", "service"],
        &["hyper", "axum", "rusqlite", "tokio-postgres"],
    ),
    // Beside the transport it makes attempts, and beside the doors it takes requests.
    (
        "nodes",
        &["core", "engine", "service", "api"],
        &["rusqlite", "tokio-postgres", "jsonschema"],
    ),
    // Only the binary sees everything, and only wires.
    (
        "postrider",
        &[
            "core",
            "store",
            "store-sql",
            "engine",
            "transport",
            "service",
            "api",
            "nodes",
            "notify",
            "pages",
        ],
        &["rusqlite", "tokio-postgres"],
    ),
    ("testkit", &[], &["rusqlite", "axum"]),
];

/// Checks every crate's normal dependencies.
///
/// # Errors
/// With each arrow that is not allowed, and each crate that the table does not know.
pub(crate) fn check() -> anyhow::Result<()> {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates");
    let mut wrong = Vec::new();
    for entry in std::fs::read_dir(&crates).context("failed to read crates/")? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let file = crates.join(&name).join("Cargo.toml");
        let text = std::fs::read_to_string(&file)
            .with_context(|| format!("failed to read {}", file.display()))?;
        let manifest: toml::Table = text
            .parse()
            .with_context(|| format!("failed to parse {}", file.display()))?;
        let Some((_, allowed, forbidden)) = ARROWS.iter().find(|(known, ..)| *known == name) else {
            wrong.push(format!("crates/{name} is not in the table of arrows"));
            continue;
        };
        let dependencies = manifest.get("dependencies").and_then(toml::Value::as_table);
        for dependency in dependencies.iter().flat_map(|table| table.keys()) {
            let ours = dependency.strip_prefix("postrider-");
            if ours.is_some_and(|ours| !allowed.contains(&ours))
                || forbidden.contains(&dependency.as_str())
            {
                wrong.push(format!("crates/{name} must not depend on {dependency}"));
            }
        }
        let inherits = manifest
            .get("lints")
            .and_then(|lints| lints.get("workspace"))
            .and_then(toml::Value::as_bool);
        if inherits != Some(true) {
            wrong.push(format!("crates/{name} must inherit the workspace's lints"));
        }
    }
    if !wrong.is_empty() {
        bail!("{}", wrong.join("\n"));
    }
    Ok(())
}
