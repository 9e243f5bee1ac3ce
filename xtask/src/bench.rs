//! Measurements: what a delivery costs the store, a whole server, and the bare relay beside it; and what is left of that
//! when there is much behind a server or much waits in it.

mod big;
mod cluster;
mod postgres;
mod process;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

use crate::browser::target;
use crate::{run, say};
use process::{Run, Server};

/// Endpoints of the store's two runs.
const ENDPOINTS: [&str; 2] = ["1", "10000"];
/// Deliveries of each of those.
const STORE_DELIVERIES: &str = "400000";
/// Runs of a row; the table has their medians.
const RUNS: usize = 5;
/// Times each page of a server.
const PAGES: &str = "crates/postrider/tests/python/pages_speed.py";

/// As fast as answers come. The relay takes no batches.
const ROWS: &[(&str, &[&str])] = &[
    ("1 KB, one endpoint", &[]),
    ("32 KB", &["--bytes", "32768"]),
    ("HTTPS, one endpoint", &["--https"]),
    ("100 endpoints", &["--tenants", "100"]),
    ("10,000 endpoints", &["--tenants", "10000"]),
    ("fan-out 10", &["--endpoints", "10"]),
    (
        "fan-out 1,000",
        &["--endpoints", "1000", "--connections", "4"],
    ),
    (BATCHES, &["--batch", "100", "--connections", "8"]),
];
const BATCHES: &str = "batches of 100";
/// Of the most that the first row had.
const SHARES: [(&str, f64); 3] = [("10 %", 0.1), ("50 %", 0.5), ("90 %", 0.9)];
/// Who is beside a customer with a steady rate; with nobody it is the control of what comes after it.
const NEIGHBOURS: &[(&str, &str)] = &[
    ("nobody beside", "--rate 1000"),
    (
        "1,000 that hang, 5/s each",
        "--rate 1000 --bad-endpoints 1000 --bad-rate 5",
    ),
    (
        "1,000 that take 2 s, 5/s each",
        "--rate 1000 --bad-endpoints 1000 --bad-rate 5 --slow 2000",
    ),
    (
        "1,000 that answer, 5/s each",
        "--rate 1000 --bad-endpoints 1000 --bad-rate 5 --slow 0",
    ),
    ("nobody beside, 100/s", "--rate 100"),
    (
        "one with 10,000/s",
        "--rate 100 --bad-endpoints 1 --bad-rate 10000 --slow 1",
    ),
];

/// Prints tables for this machine: of everything but the big ones, or of one of them.
pub(crate) fn bench(arguments: &[String]) -> anyhow::Result<()> {
    let built = build()?;
    let scratch = target().join("bench");
    let big = |what: fn(&Path, &Path, &str) -> anyhow::Result<()>| {
        let count = arguments.get(1).map_or("10000000", String::as_str);
        what(&built, &scratch, count)
    };
    match arguments.first().map(String::as_str) {
        None => {
            store(&built, &scratch)?;
            table(&built, &scratch)?;
            neighbours(&built, &scratch)?;
            pages(&built, &scratch)
        }
        Some("store") => store(&built, &scratch),
        Some("table") => table(&built, &scratch),
        Some("postgres") => big(postgres::postgres),
        Some("plans") => big(postgres::plans),
        Some("neighbours") => neighbours(&built, &scratch),
        Some("pages") => pages(&built, &scratch),
        Some("history") => big(big::history),
        Some("backlog") => big(big::backlog),
        Some(other) => anyhow::bail!(
            "there is no bench {other}: store, table, neighbours, pages, history [N], backlog [N], postgres [N] and plans [N]"
        ),
    }
}

fn build() -> anyhow::Result<PathBuf> {
    let cargo = |arguments: &[&str]| {
        let mut command = Command::new("cargo");
        run(command.args(["build", "--release"]).args(arguments))
    };
    cargo(&[
        "-p",
        "postrider",
        "--bin",
        "postrider",
        "--example",
        "load",
        "--example",
        "relay",
    ])?;
    cargo(&[
        "-p",
        "postrider-store-sql",
        "--example",
        "ageing",
        "--example",
        "fill",
    ])?;
    Ok(target().join("release"))
}

fn store(built: &Path, scratch: &Path) -> anyhow::Result<()> {
    for endpoints in ENDPOINTS {
        say(&format!("\nThe store by itself, endpoints: {endpoints}"));
        let directory = fresh(scratch, "store")?;
        run(Command::new(built.join("examples/ageing"))
            .args([STORE_DELIVERIES, endpoints])
            .arg(directory))?;
    }
    Ok(())
}

fn table(built: &Path, scratch: &Path) -> anyhow::Result<()> {
    say(&format!(
        "\nAs fast as answers come, 64 connections, load and receiver on the same machine; medians of {RUNS}\n\
         | | relay/s | µs | sqlite/s | µs | of the relay | p50, p99, p99.9 (ms) | bytes written | peak |\n\
         |---|---|---|---|---|---|---|---|---|"
    ));
    let mut most = 0.0;
    for (name, arguments) in ROWS {
        let arguments = [&["--secs", "5"], *arguments].concat();
        // In turn, so that both have the same neighbours on this machine.
        let (mut ours, mut relays) = (Vec::new(), Vec::new());
        for _ in 0..RUNS {
            if *name != BATCHES {
                relays.push(Server::relay(built)?.load(built, &arguments)?);
            }
            let server = Server::postrider(built, &fresh(scratch, "server")?, None)?;
            ours.push(server.load(built, &arguments)?);
        }
        let rate = median(&ours, |run| run.figures.delivered);
        let relay = median(&relays, |run| run.figures.delivered);
        if most == 0.0 {
            most = rate;
        }
        let (beside, part) = if relays.is_empty() {
            ("– | –".to_owned(), "–".to_owned())
        } else {
            let micros = median(&relays, |run| run.micros);
            (
                format!("{relay:.0} | {micros:.0}"),
                format!("{:.2}", rate / relay),
            )
        };
        say(&format!(
            "| {name} | {beside} | {rate:.0} | {:.0} | {part} | {} | {:.0} | {:.0} MiB |",
            median(&ours, |run| run.micros),
            latencies(&ours),
            median(&ours, |run| run.written),
            median(&ours, |run| run.peak_mib),
        ));
    }
    say(&format!(
        "\nAt a part of {most:.0}/s: p50, p99, p99.9 from when each was due (ms), CPU of a delivery (µs)\n\
         | | relay | µs | sqlite | µs |\n|---|---|---|---|---|"
    ));
    for (name, share) in SHARES {
        let rate = format!("{:.0}", most * share);
        let arguments = ["--secs", "8", "--rate", rate.as_str()];
        let relay = [Server::relay(built)?.load(built, &arguments)?];
        let server = Server::postrider(built, &fresh(scratch, "server")?, None)?;
        let ours = [server.load(built, &arguments)?];
        let (relays, own) = (latencies(&relay), latencies(&ours));
        say(&format!(
            "| {name}: {rate}/s | {relays} | {:.0} | {own} | {:.0} |",
            relay[0].micros, ours[0].micros
        ));
    }
    Ok(())
}

fn neighbours(built: &Path, scratch: &Path) -> anyhow::Result<()> {
    say(
        "\nA customer at a steady rate, and who is beside: in the same server, and in another process on the same machine\n| beside | p50, p99, p99.9 (ms) | in another process | refused | connections to its receiver |\n|---|---|---|---|---|",
    );
    for (name, arguments) in NEIGHBOURS {
        let arguments: Vec<&str> = arguments.split(' ').chain(["--secs", "8"]).collect();
        let (mut together, mut apart) = (Vec::new(), Vec::new());
        // In turn, so that both have the same neighbours on this machine.
        for _ in 0..RUNS {
            let server = Server::postrider(built, &fresh(scratch, "server")?, None)?;
            together.push(server.load(built, &arguments)?);
            if !arguments.contains(&"--bad-endpoints") {
                continue;
            }
            // What such a neighbour costs by the processor and the disk that all have in common.
            let beside = Server::postrider(built, &fresh(scratch, "beside")?, None)?;
            let server = Server::postrider(built, &fresh(scratch, "server")?, None)?;
            let by = ["--bad-url", beside.url(), "--bad-key", beside.key()];
            apart.push(server.load(built, &[&arguments[..], &by].concat())?);
        }
        let all = |runs: &[Run], of: fn(&Run) -> u64| runs.iter().map(of).max().unwrap_or(0);
        say(&format!(
            "| {name} | {} | {} | {} | {} |",
            latencies(&together),
            if apart.is_empty() {
                String::new()
            } else {
                latencies(&apart)
            },
            all(&together, |run| run.figures.refused),
            all(&together, |run| run.figures.connections)
        ));
    }
    Ok(())
}

/// How long each page takes when there is much behind it.
fn pages(built: &Path, scratch: &Path) -> anyhow::Result<()> {
    say("\nIts pages, after a minute as fast as answers come");
    let server = Server::postrider(built, &fresh(scratch, "pages")?, None)?;
    server.load(built, &["--secs", "60"])?;
    time_pages(&server)
}

fn time_pages(server: &Server<'_>) -> anyhow::Result<()> {
    run(Command::new("python3").args([PAGES, server.url(), server.key()]))
}

fn latencies(runs: &[Run]) -> String {
    format!(
        "{:.2}, {:.2}, {:.1}",
        median(runs, |run| run.figures.p50),
        median(runs, |run| run.figures.p99),
        median(runs, |run| run.figures.p999)
    )
}

fn median(runs: &[Run], of: impl Fn(&Run) -> f64) -> f64 {
    let mut all: Vec<f64> = runs.iter().map(of).collect();
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or(0.0)
}

fn fresh(scratch: &Path, name: &str) -> anyhow::Result<PathBuf> {
    let directory = scratch.join(name);
    if directory.exists() {
        std::fs::remove_dir_all(&directory).context("failed to remove the last run's data")?;
    }
    std::fs::create_dir_all(&directory).context("failed to make a directory for the run")?;
    Ok(directory)
}
