//! Project automation. `cargo xtask ci` is the gate, here and everywhere.

mod arrows;
mod bench;
mod browser;
mod contract;
mod cross;
mod deny;
mod dist;
mod fuzz;
mod instructions;
mod lints;
mod newest;
mod provide;
mod sdks;
mod systems;

use std::num::NonZero;
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context as _, anyhow, bail};

use crate::browser::Screenshots;

const HELP: &str = "\
cargo xtask ci         everything the gate runs, the second half of it side by side; stops at a failure
cargo xtask test       all tests, lints and documentation (arguments go on to cargo test)
cargo xtask sim [N]    the simulation over N seeds [default: 20000]
cargo xtask fuzz [N]   the fuzzer, N seconds for each parser of hostile input [default: 60]
cargo xtask contract   a running server against its OpenAPI document
cargo xtask sdks       Svix's own SDKs, and clients made from the OpenAPI document, against a running server
cargo xtask instructions  what a delivery costs the processor, compared with what is known
cargo xtask newest     what is said of PostgreSQL, on the newest one that a registry has
cargo xtask cross      Windows and macOS, compiled as far as a check goes
cargo xtask chart      the Helm chart, rendered by Helm, against the schemas of Kubernetes
cargo xtask browser    the pages in a real browser, with pictures of all of them
cargo xtask deny       licences, sources, versions and use of what comes from elsewhere
cargo xtask arrows     which crate may know which
cargo xtask systems    whether docs/systems.md has every requirement and its tests exist
cargo xtask bench      what a delivery costs, the bare relay beside it; or one of: store, table, neighbours, pages,
                       history [N], backlog [N]: what N deliveries behind a server, or waiting in it, cost [default: 10000000],
                       postgres [N]: a server on PostgreSQL, also with N deliveries behind it; plans [N]: the latter alone
cargo xtask dist       archives and Debian packages for this machine's kind and ARM64, and an image, in target/dist
cargo xtask demo       the demo, as a user runs it";

/// By so much is what runs beside the tests nicer than they are, and what only compiles, and takes what is left.
const NICER: i32 = 10;
const NICEST: i32 = 19;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (command, rest) = match arguments.split_first() {
        Some((command, rest)) => (command.as_str(), rest),
        None => ("help", &[][..]),
    };
    let result = match command {
        "ci" => ci(),
        "test" => test(rest),
        "sim" => sim(rest.first().map_or("20000", String::as_str)),
        "fuzz" => fuzz::fuzz(rest.first().map_or("60", String::as_str)),
        "contract" => contract::check(),
        "sdks" => sdks::check(),
        "chart" => contract::chart(),
        "cross" => cross::check(&[cross::WINDOWS, cross::MACOS]),
        "instructions" => instructions::check(),
        "newest" => newest::check(),
        "browser" => browser::check(Screenshots::Taken),
        "deny" => deny::check(),
        "arrows" => arrows::check(),
        "dist" => dist::dist(),
        "systems" => systems::check(),
        "bench" => bench::bench(rest),
        "demo" => cargo(&["run", "--release", "--", "demo"]),
        _ => {
            say(HELP);
            Ok(())
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Steps that come one after the other.
type Lane = fn() -> anyhow::Result<()>;

fn ci() -> anyhow::Result<()> {
    provide::components()?;
    let provided = std::thread::spawn(provide::all);
    step("format", || cargo(&["fmt", "--all", "--check"]))?;
    step("arrows", arrows::check)?;
    step("what comes from elsewhere", deny::check)?;
    step("requirements of the three systems", systems::check)?;
    step("lints, and what the tests run, built", || {
        lints::control()?;
        // The tests know it as a test only.
        run(lints::linted(&mut Command::new("cargo")).args(["build", "--quiet", "-p", "xtask"]))?;
        browser::binary(&browser::target()).map(drop)
    })?;
    step("what a machine with Rust alone lacks, installed", || {
        provided
            .join()
            .map_err(|_| anyhow!("the installation panicked"))?
    })?;
    // All that is left asks what is built already, and most of it is waiting for something: it goes side by side.
    let (tests, others) = std::thread::scope(|lanes| {
        let beside: [(i32, Lane); 4] = [
            (NICER, documents),
            (NICER, clients),
            (NICER, counted_and_newest),
            (NICEST, systems_elsewhere),
        ];
        let others = beside.map(|(nice, lane)| {
            lanes.spawn(move || {
                behind_the_tests(nice);
                lane()
            })
        });
        // The simulation's 2,000 seeds are one of the tests.
        let tests = step("tests, and the documentation", || {
            test(&["--quiet".to_owned()])
        });
        (tests, others.map(std::thread::ScopedJoinHandle::join))
    });
    let others = others.map(|lane| lane.unwrap_or_else(|_| Err(anyhow!("a check panicked"))));
    let failed: Vec<anyhow::Error> = std::iter::once(tests)
        .chain(others)
        .filter_map(Result::err)
        .collect();
    if !failed.is_empty() {
        let failed: Vec<String> = failed.iter().map(|error| format!("{error:#}")).collect();
        bail!("{}", failed.join("\nerror: "));
    }
    say("all checks passed");
    Ok(())
}

/// What the tests ask is answered first: they are the longest. Of this thread and what it starts.
fn behind_the_tests(nice: i32) {
    #[cfg(target_os = "linux")]
    // Without it everything takes longer, and nothing else is different.
    let _ = rustix::process::setpriority_process(None, nice);
    #[cfg(not(target_os = "linux"))]
    let _ = nice;
}

/// Looks at what describes the server: its pages, the document of the API, the README.
fn documents() -> anyhow::Result<()> {
    step("the pages in a browser", || {
        browser::check(Screenshots::NotTaken)
    })?;
    step("the API and its OpenAPI document", contract::check)?;
    step("the README's first command", readme)
}

/// Everything that is a client of the server.
fn clients() -> anyhow::Result<()> {
    step("receivers in six languages", receivers)?;
    step(
        "the SDKs of Svix, and clients made from the document",
        sdks::check,
    )?;
    step("the Helm chart", contract::chart)
}

/// What a delivery costs, and the database that is not this one's.
fn counted_and_newest() -> anyhow::Result<()> {
    step("instructions for a delivery", instructions::check)?;
    step("the newest PostgreSQL", newest::check)
}

/// Windows alone: what is not of Linux only or of all Unix is compiled for it. macOS too takes a minute more, and is looked at
/// by whoever makes a release.
fn systems_elsewhere() -> anyhow::Result<()> {
    step("Windows, as far as a check goes", || {
        cross::check(&[cross::WINDOWS])
    })
}

/// Runs what the README's first command runs, with the binary that the tests have used: an optimized build would
/// build everything once more. And sees that the second one is this.
fn readme() -> anyhow::Result<()> {
    let text = std::fs::read_to_string("README.md").context("failed to read README.md")?;
    let block = text
        .split("```")
        .nth(1)
        .context("the README begins with a block of commands")?;
    let commands: Vec<&str> = block
        .lines()
        .filter_map(|line| line.split('#').next())
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    let [first, second] = commands.as_slice() else {
        bail!("the README must begin with two commands, not {commands:?}");
    };
    if *second != "cargo xtask ci" {
        bail!("the README's second command must be the gate, not {second:?}");
    }
    let arguments = first
        .strip_prefix("cargo run --release -- ")
        .with_context(|| {
            format!("the README's first command must run the release, not {first:?}")
        })?;
    run(Command::new(browser::binary(&browser::target())?).args(arguments.split_whitespace()))
}

fn test(arguments: &[String]) -> anyhow::Result<()> {
    provide::components()?;
    provide::for_tests()?;
    // Most of what the tests of the server do is waiting.
    let threads = 2 * std::thread::available_parallelism().map_or(1, NonZero::get);
    let mut command = Command::new("cargo");
    // A snapshot that differs is a failure, never a new file.
    run(lints::linted(&mut command)
        .args(["test", "--workspace"])
        .args(arguments)
        .env("RUSTDOC", lints::rustdoc()?)
        .env("RUST_TEST_THREADS", threads.to_string())
        .env("INSTA_UPDATE", "no"))
}

pub(crate) fn works(program: &str, arguments: &[&str]) -> bool {
    Command::new(program)
        .args(arguments)
        .output()
        .is_ok_and(|probe| probe.status.success())
}

/// Runs a command and shows what it says only when it fails.
pub(crate) fn quietly(command: &mut Command) -> anyhow::Result<()> {
    let output = command
        .output()
        .with_context(|| format!("failed to start {command:?}"))?;
    if output.status.success() {
        return Ok(());
    }
    bail!(
        "{command:?} failed: {}",
        String::from_utf8_lossy(&output.stderr)
    )
}

/// Runs every function of `docs/receivers.md` against requests as the profiles send them.
fn receivers() -> anyhow::Result<()> {
    const FOLDER: &str = "crates/postrider/tests/receivers";
    provide::for_tests()?;
    run(Command::new("python3")
        .arg(format!("{FOLDER}/snippets.py"))
        .arg(format!("{FOLDER}/cases.json")))
}

fn sim(seeds: &str) -> anyhow::Result<()> {
    seeds
        .parse::<u64>()
        .context("the number of seeds must be a whole number")?;
    run(Command::new("cargo")
        .args([
            "test",
            "--release",
            "-p",
            "postrider-engine",
            "--test",
            "simulation",
            "every_accepted",
        ])
        .env("SEEDS", seeds))
}

fn step(name: &str, work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    say(&format!("== {name}"));
    #[expect(
        clippy::disallowed_methods,
        reason = "a step's duration is told to the person who waits"
    )]
    let started = Instant::now();
    let worked = work().with_context(|| format!("the step {name:?} failed"));
    if worked.is_err() {
        // Another lane may go on for minutes.
        say(&format!("== {name}: failed"));
    }
    worked?;
    say(&format!(
        "== {name}: {:.0} s",
        started.elapsed().as_secs_f64()
    ));
    Ok(())
}

fn cargo(arguments: &[&str]) -> anyhow::Result<()> {
    run(Command::new("cargo").args(arguments))
}

pub(crate) fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot run {command:?}"))?;
    if !status.success() {
        bail!("{command:?} ended with {status}");
    }
    Ok(())
}

#[expect(clippy::print_stderr, reason = "progress for the person who waits")]
pub(crate) fn say(text: &str) {
    eprintln!("{text}");
}
