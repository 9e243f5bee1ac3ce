//! What is measured: a server or the relay as a process of its own, and what the kernel counts of it.

use std::io::{BufRead as _, BufReader, Lines};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use serde::Deserialize;

use super::cluster::Cluster;
use crate::browser::target;
use crate::quietly;

/// Of the receivers that speak TLS.
const CERTIFICATE: &str = "certificate.pem";

/// What the load generator tells at the end.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(super) struct Figures {
    /// In a second.
    pub(super) delivered: f64,
    pub(super) refused: u64,
    /// Milliseconds from publish to receipt.
    pub(super) p50: f64,
    pub(super) p99: f64,
    pub(super) p999: f64,
    /// To one receiver, at most.
    pub(super) connections: u64,
    /// Deliveries in all.
    pub(super) received: u64,
}

/// One run: what the load generator saw, and what it took.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run {
    pub(super) figures: Figures,
    /// CPU for each delivery.
    pub(super) micros: f64,
    /// Bytes handed to the disk for each delivery.
    pub(super) written: f64,
    /// The most memory that the process had.
    pub(super) peak_mib: f64,
}

/// Killed when dropped.
pub(super) struct Server<'c> {
    child: Child,
    url: String,
    key: String,
    /// Works for it, and what it takes is counted with what the server takes.
    database: Option<&'c Cluster>,
}

impl Drop for Server<'_> {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl<'c> Server<'c> {
    /// A Postrider server on a directory, whose root key is `key` unless this is its first start.
    pub(super) fn postrider(
        built: &Path,
        data: &Path,
        key: Option<String>,
    ) -> anyhow::Result<Self> {
        let mut command = Command::new(built.join("postrider"));
        command.args(["serve", "--dev", "--listen", "127.0.0.1:0", "--data"]);
        Self::start(command.arg(data), key)
    }

    /// The same on a database.
    pub(super) fn on_postgres(
        built: &Path,
        data: &Path,
        (url, cluster): (&str, &'c Cluster),
        key: Option<String>,
    ) -> anyhow::Result<Self> {
        let mut command = Command::new(built.join("postrider"));
        command.args(["serve", "--dev", "--listen", "127.0.0.1:0", "--data"]);
        command.arg(data).env("POSTRIDER__STORE__URL", url);
        let mut server = Self::start(&mut command, key)?;
        server.database = Some(cluster);
        Ok(server)
    }

    /// One of several, which tells the others an address of its own.
    pub(super) fn node(
        built: &Path,
        data: &Path,
        (url, cluster): (&str, &'c Cluster),
        key: String,
    ) -> anyhow::Result<Self> {
        // Free a moment ago: it has to be told before it listens.
        let address = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let mut command = Command::new(built.join("postrider"));
        command.args(["serve", "--dev", "--listen", &address.to_string(), "--data"]);
        command.arg(data).env("POSTRIDER__STORE__URL", url);
        command.env("POSTRIDER__NODES__URL", format!("http://{address}"));
        let mut server = Self::start(&mut command, Some(key))?;
        server.database = Some(cluster);
        Ok(server)
    }

    pub(super) fn relay(built: &Path) -> anyhow::Result<Self> {
        Self::start(&mut Command::new(built.join("examples/relay")), None)
    }

    /// Waits for the greeting, which has the address and the key.
    fn start(command: &mut Command, key: Option<String>) -> anyhow::Result<Self> {
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        // For the receivers that speak TLS.
        let trusted = certificates()?.join(CERTIFICATE);
        command.env("POSTRIDER__EGRESS__EXTRA_CA", trusted);
        let mut child = command.spawn().context("failed to start the server")?;
        let told = child.stdout.take().context("the server has no output")?;
        let (mut url, mut key) = (None, key);
        for line in BufReader::new(told).lines() {
            let line = line.context("the server's greeting cannot be read")?;
            if url.is_none() {
                let address = line.split("http://").nth(1);
                let address = address.and_then(|rest| rest.split(',').next());
                url = address.map(|address| format!("http://{address}"));
            }
            if key.is_none() && line.trim().starts_with("pr_live_") {
                key = Some(line.trim().to_owned());
            }
            if url.is_some() && key.is_some() {
                break;
            }
        }
        Ok(Self {
            child,
            database: None,
            url: url.context("the server did not tell its address")?,
            key: key.context("the server did not tell its key")?,
        })
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    pub(super) fn key(&self) -> &str {
        &self.key
    }

    /// Stops it as an operator would, and waits.
    pub(super) fn stop(mut self) -> anyhow::Result<()> {
        let pid = self.child.id().to_string();
        Command::new("kill").args(["-TERM", &pid]).status()?;
        self.child.wait()?;
        Ok(())
    }

    /// Lets the load generator at it.
    pub(super) fn load(&self, built: &Path, arguments: &[&str]) -> anyhow::Result<Run> {
        let mut child = Command::new(built.join("examples/load"))
            .args(["--json", "--url", &self.url, "--key", &self.key])
            .args(arguments)
            .env("LOAD_CERTIFICATES", certificates()?)
            .stdout(Stdio::piped())
            .spawn()
            .context("failed to run the load generator")?;
        let told = child.stdout.take().context("it has no output")?;
        let mut lines = BufReader::new(told).lines();
        // What it takes to make tenants and endpoints is not counted.
        next(&mut lines)?;
        let (cpu, written) = (self.cpu()?, self.written()?);
        let figures: Figures = serde_json::from_str(&next(&mut lines)?)?;
        let cpu = self.cpu()?.saturating_sub(cpu);
        let written = self.written()?.saturating_sub(written);
        let status = child.wait()?;
        anyhow::ensure!(status.success(), "the load generator failed: {status}");
        let each = |of: f64| of / to_f64(figures.received.max(1));
        Ok(Run {
            figures,
            micros: each(cpu.as_secs_f64() * 1_000_000.0),
            written: each(to_f64(written)),
            peak_mib: self.peak_mib()?,
        })
    }

    /// By the kernel's accounting, in hundredths of a second.
    fn cpu(&self) -> anyhow::Result<Duration> {
        let text = self.proc("stat")?;
        let behind_name = text.rsplit(") ").next().unwrap_or_default();
        let ticks = behind_name.split(' ').skip(11).take(2);
        let ticks: u64 = ticks.filter_map(|field| field.parse::<u64>().ok()).sum();
        let database = self.database.map_or(0, Cluster::ticks);
        Ok(Duration::from_millis((ticks + database) * 10))
    }

    /// Bytes, those that still wait for the disk counted in.
    fn written(&self) -> anyhow::Result<u64> {
        self.number("io", "write_bytes:")
    }

    /// The most memory that it had.
    pub(super) fn peak_mib(&self) -> anyhow::Result<f64> {
        Ok(to_f64(self.number("status", "VmHWM:")?) / 1_024.0)
    }

    fn number(&self, file: &str, name: &str) -> anyhow::Result<u64> {
        let text = self.proc(file)?;
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let line = line.with_context(|| format!("the kernel does not tell {name}"))?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    }

    fn proc(&self, file: &str) -> anyhow::Result<String> {
        std::fs::read_to_string(format!("/proc/{}/{file}", self.child.id()))
            .context("what the kernel counts can be read on Linux only")
    }
}

/// Where the certificate of the receivers and its key are; made when they are not.
fn certificates() -> anyhow::Result<PathBuf> {
    let directory = std::path::absolute(target().join("bench/certificates"))?;
    let certificate = directory.join(CERTIFICATE);
    if certificate.exists() {
        return Ok(directory);
    }
    std::fs::create_dir_all(&directory)?;
    quietly(
        Command::new("openssl")
            .args([
                "req",
                "-x509",
                "-nodes",
                "-days",
                "30",
                "-subj",
                "/CN=receiver",
            ])
            .args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"])
            .args(["-addext", "subjectAltName=IP:127.0.0.1"])
            .args(["-addext", "basicConstraints=critical,CA:FALSE"])
            .arg("-keyout")
            .arg(directory.join("key.pem"))
            .arg("-out")
            .arg(&certificate),
    )?;
    Ok(directory)
}

fn next(lines: &mut Lines<BufReader<ChildStdout>>) -> anyhow::Result<String> {
    let line = lines.next().context("the load generator broke off")?;
    Ok(line?)
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
pub(super) fn to_f64(number: u64) -> f64 {
    number as f64
}
