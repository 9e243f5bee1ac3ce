//! The column "postgres": a whole server on a database of its own, its CPU and the database's together; with a long reader,
//! with nodes, with much behind it, and the plans of its statements then.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use anyhow::Context as _;

use super::cluster::Cluster;
use super::process::{Run, Server};
use super::{RUNS, fresh, latencies, median};
use crate::{run, say};

const ROWS: &[(&str, &[&str])] = &[
    ("1 KB, one endpoint", &[]),
    ("10,000 endpoints", &["--tenants", "10000"]),
    ("fan-out 10", &["--endpoints", "10"]),
    ("batches of 100", &["--batch", "100", "--connections", "8"]),
];
/// Tenants that have the history, with one endpoint each.
const CUSTOMERS: &str = "1000";
/// Where the plans are written.
const PLANS: &str = "docs/postgres-plans.md";

pub(super) fn postgres(built: &Path, scratch: &Path, count: &str) -> anyhow::Result<()> {
    let cluster = Cluster::start()?;
    say(&format!(
        "\nOn PostgreSQL with fsync, load, receiver, server and database on the same machine; medians of {RUNS}; CPU of server and database\n\
         | | deliveries/s | µs | p50, p99, p99.9 (ms) |\n|---|---|---|---|"
    ));
    for (name, arguments) in ROWS {
        let arguments = [&["--secs", "8"], *arguments].concat();
        let mut runs = Vec::new();
        for _ in 0..RUNS {
            let server = on(&cluster, built, scratch)?;
            runs.push(server.load(built, &arguments)?);
        }
        tell(name, &runs);
    }
    {
        let server = on(&cluster, built, scratch)?;
        let mut alone = Vec::new();
        let mut beside = Vec::new();
        for _ in 0..RUNS {
            alone.push(server.load(built, &["--secs", "8"])?);
            let reader = cluster.long_reader()?;
            beside.push(server.load(built, &["--secs", "8"])?);
            drop(reader);
        }
        tell("one after the other in one database", &alone);
        tell("a reader holds a snapshot meanwhile", &beside);
    }
    history(&cluster, built, scratch, count)
}

/// What a server does with `count` deliveries behind it, and the plans of its statements then.
pub(super) fn plans(built: &Path, scratch: &Path, count: &str) -> anyhow::Result<()> {
    history(&Cluster::start()?, built, scratch, count)
}

fn tell(name: &str, runs: &[Run]) {
    say(&format!(
        "| {name} | {:.0} | {:.0} | {} |",
        median(runs, |run| run.figures.delivered),
        median(runs, |run| run.micros),
        latencies(runs)
    ));
}

/// A server on an empty database.
fn on<'c>(cluster: &'c Cluster, built: &Path, scratch: &Path) -> anyhow::Result<Server<'c>> {
    let url = cluster.database()?;
    Server::on_postgres(built, &fresh(scratch, "postgres")?, (&url, cluster), None)
}

/// `count` deliveries ended long ago; then the same again, with three nodes, and what the database did for it.
fn history(cluster: &Cluster, built: &Path, scratch: &Path, count: &str) -> anyhow::Result<()> {
    let url = cluster.database()?;
    let data = fresh(scratch, "postgres")?;
    let server = Server::on_postgres(built, &data, (&url, cluster), None)?;
    server.load(
        built,
        &["--secs", "1", "--tenants", CUSTOMERS, "--rate", "100"],
    )?;
    let key = server.key().to_owned();
    server.stop()?;
    run(Command::new(built.join("examples/fill")).args([url.as_str(), count, "finished"]))?;
    let server = Server::on_postgres(built, &data, (&url, cluster), Some(key.clone()))?;
    let mut runs = Vec::new();
    for _ in 0..RUNS {
        runs.push(server.load(built, &["--secs", "8"])?);
    }
    tell(&format!("{count} deliveries behind it"), &runs);
    server.stop()?;
    tell(
        &format!("{count} deliveries behind it, three nodes (CPU of the one that leads)"),
        &three_nodes(cluster, built, scratch, (&url, &data, &key))?,
    );
    // Of each connection that begins now.
    for setting in [
        "session_preload_libraries = 'auto_explain'",
        "auto_explain.log_min_duration = 0",
        "auto_explain.log_analyze = on",
        "auto_explain.log_buffers = on",
        "auto_explain.log_timing = off",
    ] {
        cluster.execute(&format!("alter database bench set {setting}"))?;
    }
    let server = Server::on_postgres(built, &data, (&url, cluster), Some(key))?;
    server.load(built, &["--secs", "5", "--rate", "500"])?;
    super::time_pages(&server)?;
    server.stop()?;
    let plans = slowest(&cluster.log()?, count)?;
    std::fs::write(PLANS, plans).with_context(|| format!("failed to write {PLANS}"))?;
    say(&format!("the plans of its statements are in {PLANS}"));
    Ok(())
}

/// The same server with two more that follow it, on the same machine.
fn three_nodes(
    cluster: &Cluster,
    built: &Path,
    scratch: &Path,
    (url, data, key): (&str, &Path, &str),
) -> anyhow::Result<Vec<Run>> {
    let leader = Server::node(built, data, (url, cluster), key.to_owned())?;
    let mut followers = Vec::new();
    for name in ["second", "third"] {
        let own = fresh(scratch, name)?;
        std::fs::copy(data.join("master.key"), own.join("master.key"))?;
        followers.push(Server::node(built, &own, (url, cluster), key.to_owned())?);
    }
    let mut runs = Vec::new();
    for _ in 0..RUNS {
        runs.push(leader.load(built, &["--secs", "8"])?);
    }
    for follower in followers {
        follower.stop()?;
    }
    leader.stop()?;
    Ok(runs)
}

/// What of a statement was seen.
struct Seen {
    times: usize,
    slowest: f64,
    plan: String,
}

/// Of each statement in a log of auto_explain the slowest plan.
fn slowest(log: &str, count: &str) -> anyhow::Result<String> {
    let mut seen: BTreeMap<String, Seen> = BTreeMap::new();
    let mut rest = log;
    while let Some((_, behind)) = rest.split_once("LOG:  duration: ") {
        let (took, behind) = behind
            .split_once(" ms  plan:\n")
            .context("no plan behind a duration")?;
        // A plan's lines begin with a tab, and the next entry of the log does not.
        let end = behind
            .match_indices('\n')
            .map(|(at, _)| at)
            .find(|at| !behind[at + 1..].starts_with('\t'));
        let (text, behind) = behind.split_at(end.unwrap_or(behind.len()));
        rest = behind;
        let text: Vec<&str> = text
            .lines()
            .map(|line| line.strip_prefix('\t').unwrap_or(line))
            .collect();
        let at = text
            .iter()
            .position(|line| line.contains("(cost="))
            .unwrap_or(text.len());
        let statement = text[..at].join(" ");
        let statement: Vec<&str> = statement
            .trim_start_matches("Query Text: ")
            .split_whitespace()
            .collect();
        let statement = statement.join(" ");
        let took: f64 = took.trim().parse().unwrap_or(0.0);
        let entry = seen.entry(statement).or_insert(Seen {
            times: 0,
            slowest: 0.0,
            plan: String::new(),
        });
        entry.times += 1;
        if took >= entry.slowest {
            entry.slowest = took;
            entry.plan = text[at..].join("\n");
        }
    }
    let mut page = format!(
        "# What its statements do in PostgreSQL\n\nOf each statement that a server makes, of an event's way at 500 a second and of its pages, the slowest plan that was seen \
         (`auto_explain` with `analyze` and `buffers`), with {count} deliveries stored. Made by `cargo xtask bench plans`. Nothing \
         that grows is read from one end to the other: a `Seq Scan` is of a table that stays small.\n"
    );
    let mut all: Vec<_> = seen.into_iter().collect();
    all.sort_by_key(|(_, seen)| std::cmp::Reverse(seen.times));
    for (statement, seen) in all {
        write!(
            page,
            "\n{} times, {:.2} ms at most:\n\n```sql\n{statement}\n```\n\n```\n{}\n```\n",
            seen.times, seen.slowest, seen.plan
        )?;
    }
    Ok(page)
}
