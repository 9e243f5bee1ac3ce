//! What a year leaves behind, and what a long night of dead receivers does.

use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use super::process::{Run, Server};
use super::{fresh, latencies, time_pages};
use crate::{run, say};

/// Customers whose receivers are gone when the load generator ends, with one endpoint each.
const CUSTOMERS: &str = "1000";
/// Where all of them are, until the load generator ends and when they are back.
const PORT: &str = "9871";

/// `count` deliveries ended long ago.
pub(super) fn history(built: &Path, scratch: &Path, count: &str) -> anyhow::Result<()> {
    let server = filled(built, scratch, count, "finished")?;
    let after = server.load(built, &["--secs", "8"])?;
    tell("behind it the history", &after);
    time_pages(&server)
}

/// `count` deliveries wait for receivers that are gone.
pub(super) fn backlog(built: &Path, scratch: &Path, count: &str) -> anyhow::Result<()> {
    let server = filled(built, scratch, count, "pending")?;
    tell(
        "at once after the start",
        &server.load(built, &["--secs", "8"])?,
    );
    tell(
        "half a minute later",
        &server.load(built, &["--secs", "30"])?,
    );
    say(&format!("memory, at most: {:.0} MiB", server.peak_mib()?));
    let mut receivers = Command::new(built.join("examples/load"))
        .args(["--key", "none", "--receive-at", PORT, "--secs", "60"])
        .stdout(Stdio::piped())
        .spawn()?;
    let fresh = server.load(built, &["--secs", "30"])?;
    tell("all receivers are back; fresh ones meanwhile", &fresh);
    let mut came = String::new();
    let told = receivers.stdout.as_mut();
    told.map(|told| told.read_to_string(&mut came))
        .transpose()?;
    receivers.wait()?;
    say(&format!(
        "of what waited {} came within a minute",
        came.trim()
    ));
    Ok(())
}

/// A server that has begun again with so many deliveries; tells how it was before, and how long the start took.
fn filled(
    built: &Path,
    scratch: &Path,
    count: &str,
    what: &str,
) -> anyhow::Result<Server<'static>> {
    let data = fresh(scratch, "big")?;
    let server = Server::postrider(built, &data, None)?;
    tell("empty", &server.load(built, &["--secs", "8"])?);
    drop(server);
    let data = fresh(scratch, "big")?;
    let server = Server::postrider(built, &data, None)?;
    server.load(
        built,
        &[
            "--secs",
            "1",
            "--tenants",
            CUSTOMERS,
            "--rate",
            "100",
            "--port",
            PORT,
        ],
    )?;
    let key = server.key().to_owned();
    server.stop()?;
    run(Command::new(built.join("examples/fill"))
        .arg(&data)
        .args([count, what]))?;
    #[expect(
        clippy::disallowed_methods,
        reason = "how long a start takes is the question"
    )]
    let begun = Instant::now();
    let server = Server::postrider(built, &data, Some(key))?;
    say(&format!(
        "{count} {what}: it takes requests {:.1} s after its start, with {:.0} MiB",
        begun.elapsed().as_secs_f64(),
        server.peak_mib()?
    ));
    Ok(server)
}

fn tell(when: &str, run: &Run) {
    say(&format!(
        "{when}: {:.0} deliveries/s, {:.0} µs of CPU each; p50, p99, p99.9 {} ms; {:.0} MiB at most",
        run.figures.delivered,
        run.micros,
        latencies(&[*run]),
        run.peak_mib
    ));
}
