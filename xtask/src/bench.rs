//! Measurements: what a delivery costs the store with one endpoint and with many, and what a whole server does.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;

use crate::browser::target;
use crate::{run, say};

/// Endpoints of the store's two runs.
const ENDPOINTS: [&str; 2] = ["1", "10000"];
/// What the server gets: each a run of the load generator.
const LOADS: &[(&str, &[&str])] = &[
    ("as fast as answers come", &["--secs", "10"]),
    ("1,000/s", &["--secs", "10", "--rate", "1000"]),
    ("4,000/s", &["--secs", "10", "--rate", "4000"]),
];

/// Times each page of a server.
const PAGES: &str = "crates/postrider/tests/python/pages_speed.py";

/// Prints one table for this machine; `deliveries` is what each run of the store makes.
pub(crate) fn bench(deliveries: &str) -> anyhow::Result<()> {
    let cargo = |arguments: &[&str]| {
        let mut command = Command::new("cargo");
        run(command.args(["build", "--release"]).args(arguments))
    };
    cargo(&["-p", "postrider", "--bin", "postrider", "--example", "load"])?;
    cargo(&["-p", "postrider-store-sql", "--example", "ageing"])?;
    let built = target().join("release");
    let scratch = target().join("bench");
    for endpoints in ENDPOINTS {
        say(&format!("\nThe store by itself, endpoints: {endpoints}"));
        let directory = fresh(&scratch, "store")?;
        run(Command::new(built.join("examples/ageing"))
            .args([deliveries, endpoints])
            .arg(directory))?;
    }
    say("\nA server, with the load generator and the receiver on the same machine");
    for (what, arguments) in LOADS {
        let data = fresh(&scratch, "server")?;
        let server = Server::start(&built.join("postrider"), &data)?;
        let before = server.cpu()?;
        let output = Command::new(built.join("examples/load"))
            .args(["--url", &server.url, "--key", &server.key])
            .args(*arguments)
            .output()
            .context("failed to run the load generator")?;
        anyhow::ensure!(
            output.status.success(),
            "the load generator failed: {output:?}"
        );
        let told = String::from_utf8_lossy(&output.stdout);
        let told = told.lines().next_back().unwrap_or_default();
        let cpu = server.cpu()?.saturating_sub(before);
        say(&format!(
            "{what}: {told}; the server used {:.1} s of CPU and at most {}",
            cpu.as_secs_f64(),
            server.peak()?
        ));
    }
    pages(&built, &scratch)
}

/// How long each page takes when there is much behind it.
fn pages(built: &Path, scratch: &Path) -> anyhow::Result<()> {
    say("\nIts pages, after a minute as fast as answers come");
    let data = fresh(scratch, "pages")?;
    let server = Server::start(&built.join("postrider"), &data)?;
    let output = Command::new(built.join("examples/load"))
        .args(["--url", &server.url, "--key", &server.key, "--secs", "60"])
        .output()
        .context("failed to run the load generator")?;
    anyhow::ensure!(
        output.status.success(),
        "the load generator failed: {output:?}"
    );
    run(Command::new("python3").args([PAGES, &server.url, &server.key]))
}

fn fresh(scratch: &Path, name: &str) -> anyhow::Result<std::path::PathBuf> {
    let directory = scratch.join(name);
    if directory.exists() {
        std::fs::remove_dir_all(&directory).context("failed to remove the last run's data")?;
    }
    std::fs::create_dir_all(&directory).context("failed to make a directory for the run")?;
    Ok(directory)
}

/// Killed when dropped.
struct Server {
    child: Child,
    url: String,
    key: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Server {
    fn start(binary: &Path, data: &Path) -> anyhow::Result<Self> {
        let mut child = Command::new(binary)
            .args(["serve", "--dev", "--listen", "127.0.0.1:0", "--data"])
            .arg(data)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("failed to start the server")?;
        let told = child.stdout.take().context("the server has no output")?;
        let (mut url, mut key) = (None, None);
        for line in BufReader::new(told).lines() {
            let line = line.context("the server's greeting cannot be read")?;
            if url.is_none() {
                let address = line.split("http://").nth(1);
                let address = address.and_then(|rest| rest.split(',').next());
                url = address.map(|address| format!("http://{address}"));
            }
            if line.trim().starts_with("pr_live_") {
                key = Some(line.trim().to_owned());
                break;
            }
        }
        Ok(Self {
            child,
            url: url.context("the server did not tell its address")?,
            key: key.context("the server did not tell its key")?,
        })
    }

    /// By the kernel's accounting, in hundredths of a second.
    fn cpu(&self) -> anyhow::Result<Duration> {
        let text = self.proc("stat")?;
        let behind_name = text.rsplit(") ").next().unwrap_or_default();
        let ticks = behind_name.split(' ').skip(11).take(2);
        let ticks: u64 = ticks.filter_map(|field| field.parse::<u64>().ok()).sum();
        Ok(Duration::from_millis(ticks * 10))
    }

    /// The most memory that it had.
    fn peak(&self) -> anyhow::Result<String> {
        let text = self.proc("status")?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        Ok(line.unwrap_or("?").trim().to_owned())
    }

    fn proc(&self, file: &str) -> anyhow::Result<String> {
        std::fs::read_to_string(format!("/proc/{}/{file}", self.child.id()))
            .context("what the kernel counts can be read on Linux only")
    }
}
