//! A PostgreSQL cluster to measure on: everything durable, as an operator has it, and gone afterwards.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::Context as _;

use crate::{quietly, run};

/// Files of the log that autoexplain writes.
const LOG: &str = "server.log";
/// Ended and removed when dropped.
pub(super) struct Cluster {
    directory: PathBuf,
    programs: PathBuf,
    postmaster: u32,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        drop(self.control(&["--mode", "fast", "stop"]));
        drop(std::fs::remove_dir_all(&self.directory));
    }
}

impl Cluster {
    pub(super) fn start() -> anyhow::Result<Self> {
        let programs = programs()?;
        let directory =
            std::env::temp_dir().join(format!("postrider-bench-{}", std::process::id()));
        std::fs::create_dir_all(&directory)?;
        if is_root()? {
            quietly(Command::new("chown").arg("postgres").arg(&directory))?;
        }
        let data = directory.join("data");
        quietly(
            as_owner(&programs.join("initdb"))?
                .arg("--pgdata")
                .arg(&data)
                .args(["--username", "postgres", "--auth", "trust"]),
        )?;
        let mut cluster = Self {
            directory,
            programs,
            postmaster: 0,
        };
        let socket = cluster.directory.display();
        // `fsync` and `synchronous_commit` are on by default, and stay so.
        let options =
            format!("-k {socket} -c listen_addresses= -c shared_buffers=1GB -c max_wal_size=8GB");
        let log = format!("{socket}/{LOG}");
        cluster.control(&["--wait", "--log", &log, "--options", &options, "start"])?;
        let told = std::fs::read_to_string(data.join("postmaster.pid"))?;
        let first = told.lines().next().unwrap_or_default();
        cluster.postmaster = first
            .trim()
            .parse()
            .context("postmaster.pid has no number")?;
        Ok(cluster)
    }

    /// An empty database; returns its URL.
    pub(super) fn database(&self) -> anyhow::Result<String> {
        drop(self.execute("drop database if exists bench with (force)"));
        self.execute("create database bench")?;
        let host = self.directory.to_string_lossy().replace('/', "%2F");
        Ok(format!("postgres://postgres@{host}/bench"))
    }

    /// Executes a statement in the database `postgres`.
    pub(super) fn execute(&self, sql: &str) -> anyhow::Result<()> {
        quietly(&mut self.psql("postgres", sql))
    }

    /// Somebody who reads the bench's database for a very long time, and sees it as it was at the beginning.
    pub(super) fn long_reader(&self) -> anyhow::Result<Reader> {
        let sql = "begin isolation level repeatable read; select count(*) from postrider.meta; select pg_sleep(100000)";
        let mut command = self.psql("bench", sql);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let reader = Reader(command.spawn()?);
        // Its snapshot is taken when it sleeps.
        self.execute(
            "do $$ begin
               while not exists (select 1 from pg_stat_activity where query like '%pg_sleep(100000)%' and pid <> pg_backend_pid()) loop
                 perform pg_sleep(0.05);
                 perform pg_stat_clear_snapshot();
               end loop;
             end $$",
        )?;
        Ok(reader)
    }

    pub(super) fn log(&self) -> anyhow::Result<String> {
        let log = std::fs::read(self.directory.join(LOG))?;
        Ok(String::from_utf8_lossy(&log).into_owned())
    }

    /// CPU of all its processes, in hundredths of a second.
    pub(super) fn ticks(&self) -> u64 {
        let postmaster = self.postmaster;
        let mut ticks = 0;
        for process in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Ok(stat) = std::fs::read_to_string(process.path().join("stat")) else {
                continue;
            };
            let id: u32 = process.file_name().to_string_lossy().parse().unwrap_or(0);
            let fields: Vec<u64> = stat
                .rsplit(") ")
                .next()
                .unwrap_or_default()
                .split(' ')
                .map(|field| field.parse().unwrap_or(0))
                .collect();
            let of = |range: std::ops::Range<usize>| fields.get(range).into_iter().flatten().sum();
            // Those that have ended are counted with their parent.
            ticks += match fields.get(1) {
                _ if id == postmaster => of(11..15),
                Some(parent) if *parent == u64::from(postmaster) => of(11..13),
                _ => 0,
            };
        }
        ticks
    }

    fn psql(&self, database: &str, sql: &str) -> Command {
        let mut command = Command::new(self.programs.join("psql"));
        command
            .args(["--quiet", "--no-psqlrc", "--username", "postgres"])
            .args(["--dbname", database, "--host"])
            .arg(&self.directory)
            .args(["--command", sql])
            .stdin(Stdio::null());
        command
    }

    fn control(&self, what: &[&str]) -> anyhow::Result<()> {
        run(as_owner(&self.programs.join("pg_ctl"))?
            .arg("--pgdata")
            .arg(self.directory.join("data"))
            .args(what)
            // What it starts has these for as long as it runs: nobody would wait for their end.
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null()))
    }
}

/// Ended when dropped.
pub(super) struct Reader(Child);

impl Drop for Reader {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// The newest that the system has.
fn programs() -> anyhow::Result<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten();
    let mut found: Vec<(u32, PathBuf)> = versions
        .filter_map(|version| {
            let number = version.file_name().to_str()?.parse().ok()?;
            Some((number, version.path().join("bin")))
        })
        .collect();
    found.sort();
    let newest = found.pop().map(|(_, programs)| programs);
    newest.context("PostgreSQL is not installed: apt-get install postgresql")
}

fn is_root() -> anyhow::Result<bool> {
    let id = Command::new("id").arg("-u").output()?;
    Ok(String::from_utf8_lossy(&id.stdout).trim() == "0")
}

/// The server refuses to be root: then it is its own user.
fn as_owner(program: &Path) -> anyhow::Result<Command> {
    let mut command = if is_root()? {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid=postgres", "--regid=postgres", "--clear-groups"])
            .arg(program);
        command
    } else {
        Command::new(program)
    };
    command.current_dir("/").env("LC_ALL", "C.UTF-8");
    Ok(command)
}
