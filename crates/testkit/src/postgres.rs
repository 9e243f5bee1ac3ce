//! A PostgreSQL server of the tests' own: in a temporary directory, on a socket there, gone with the process.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Makes a cluster in `$1`, serves it until nobody holds the other end of the standard input, and removes it. Words on
/// the input start and stop it meanwhile, as an operator would.
const SERVE: &str = r#"
set -u
export PATH="$2:$PATH" LC_ALL=C.UTF-8
if [ -z "$3" ]; then
    initdb --pgdata "$1/data" --username postgres --auth trust --no-sync >"$1/initdb.log" 2>&1 || exit 1
else
    pg_basebackup --host "$3" --username postgres --pgdata "$1/data" --checkpoint fast --write-recovery-conf --no-sync \
        >"$1/initdb.log" 2>&1 || exit 1
fi
start() {
    postgres -D "$1/data" -k "$1" -c listen_addresses= -c fsync=off -c max_connections=200 >>"$1/server.log" 2>&1 &
    server=$!
}
start "$1"
while read -r word; do
    case "$word" in
        crash) kill -QUIT "$server"; wait "$server" ;;
        start) start "$1" ;;
        promote) pg_ctl --pgdata "$1/data" promote >>"$1/server.log" 2>&1 ;;
    esac
done
kill -QUIT "$server"
# It may stand still.
kill -CONT "$server"
wait "$server"
rm -rf "$1"
"#;
/// How long a server may take to be there.
const START_TIME_MAX: Duration = Duration::from_secs(60);

/// A cluster with databases.
#[derive(Debug)]
pub struct Postgres {
    directory: PathBuf,
    programs: PathBuf,
    supervisor: Child,
    databases: AtomicU32,
}

/// Where another server's programs are, beside the clients of the system's.
const VARIABLE: &str = "POSTRIDER_TEST_POSTGRES";

/// Where the programs are: the newest that the system has.
///
/// # Panics
/// When there are none: a test that cannot run fails.
fn programs() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten();
    let mut found: Vec<(u32, PathBuf)> = versions
        .flatten()
        .filter_map(|version| {
            let number = version.file_name().to_str()?.parse().ok()?;
            Some((number, version.path().join("bin")))
        })
        .filter(|(_, programs)| programs.join("postgres").exists())
        .collect();
    found.sort();
    found
        .pop()
        .map(|(_, programs)| programs)
        .expect("PostgreSQL is not installed: `cargo xtask test` installs it, or `apt-get install postgresql`")
}

/// The server refuses to be root: then it is its own user.
fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output().unwrap();
    String::from_utf8_lossy(&id.stdout).trim() == "0"
}

impl Postgres {
    /// One for all tests of this process.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Postgres> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    /// One of its own, for tests that hurt it.
    pub fn start() -> Self {
        Self::start_of(None)
    }

    /// A standby of this one, which gets all that it writes.
    pub fn standby(&self) -> Self {
        Self::start_of(Some(&self.directory))
    }

    fn start_of(primary: Option<&Path>) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let programs = programs();
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("postrider-pg-{}-{number}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory).unwrap();
        let mut command = if is_root() {
            let given = Command::new("chown")
                .arg("postgres")
                .arg(&directory)
                .status();
            assert!(given.unwrap().success());
            let mut command = Command::new("setpriv");
            command.args([
                "--reuid=postgres",
                "--regid=postgres",
                "--clear-groups",
                "sh",
            ]);
            command
        } else {
            Command::new("sh")
        };
        let mut path = std::env::var_os(VARIABLE).unwrap_or_default();
        if !path.is_empty() {
            path.push(":");
        }
        path.push(&programs);
        let supervisor = command
            .args(["-c", SERVE, "sh"])
            .args([directory.as_os_str(), &path])
            .arg(primary.unwrap_or(Path::new("")))
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let server = Self {
            directory,
            programs,
            supervisor,
            databases: AtomicU32::new(0),
        };
        server.wait();
        server
    }

    /// Waits until it takes connections.
    pub fn wait(&self) {
        let until = Instant::now() + START_TIME_MAX;
        while !self.run("pg_isready", &["--quiet"]) {
            assert!(
                Instant::now() < until,
                "PostgreSQL does not start: {}",
                std::fs::read_to_string(self.directory.join("server.log")).unwrap_or_default()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn run(&self, program: &str, arguments: &[&str]) -> bool {
        let ran = Command::new(self.programs.join(program))
            .arg("--host")
            .arg(&self.directory)
            .args(["--username", "postgres"])
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        ran.is_ok_and(|status| status.success())
    }

    /// An empty database; returns its URL.
    pub fn database(&self) -> String {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        assert!(self.run("createdb", &[&name]), "createdb failed");
        self.url(&name)
    }

    fn url(&self, database: &str) -> String {
        let host = self.directory.to_str().unwrap().replace('/', "%2F");
        format!("postgres://postgres@{host}/{database}")
    }

    /// Executes a statement as the database's owner; false when that failed.
    pub fn execute(&self, url: &str, sql: &str) -> bool {
        let database = url.rsplit('/').next().unwrap();
        self.run("psql", &["--quiet", "--dbname", database, "--command", sql])
    }

    /// Ends it as a power failure would, and returns when it is gone.
    pub fn crash(&mut self) {
        self.say("crash");
        let until = Instant::now() + START_TIME_MAX;
        while self.run("pg_isready", &["--quiet"]) {
            assert!(Instant::now() < until, "PostgreSQL does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Stops all of its processes where they are, or lets them go on.
    pub fn stand_still(&self, stands: bool) {
        let text = std::fs::read_to_string(self.directory.join("data/postmaster.pid")).unwrap();
        let server: i32 = text.lines().next().unwrap().trim().parse().unwrap();
        let mut children = Vec::new();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            // Behind the name, in which there may be anything: the state and the parent.
            let behind = stat.rsplit(") ").next().unwrap_or_default();
            if behind.split(' ').nth(1) == Some(text.lines().next().unwrap().trim()) {
                children.push(entry.file_name().into_string().unwrap());
            }
        }
        let signal = if stands { "-STOP" } else { "-CONT" };
        let tell = |processes: &[String]| Command::new("kill").arg(signal).args(processes).status();
        assert!(tell(&[server.to_string()]).unwrap().success());
        // One of them may have ended meanwhile.
        drop(tell(&children));
    }

    /// Starts it again, and waits until it takes connections.
    pub fn start_again(&mut self) {
        self.say("start");
        self.wait();
    }

    /// Makes a standby a server of its own, and waits until it takes writes.
    pub fn promote(&mut self) {
        self.say("promote");
        let until = Instant::now() + START_TIME_MAX;
        let writes = "create temporary table promoted (x int)";
        while !self.run(
            "psql",
            &["--quiet", "--dbname", "postgres", "--command", writes],
        ) {
            assert!(Instant::now() < until, "PostgreSQL does not promote");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The URL of a database that is on this server or on its standby.
    pub fn url_with(&self, standby: &Self, url: &str) -> String {
        let database = url.rsplit('/').next().unwrap();
        let host = |server: &Self| server.directory.to_str().unwrap().replace('/', "%2F");
        format!(
            "postgres://postgres@{},{}/{database}",
            host(self),
            host(standby)
        )
    }

    fn say(&mut self, word: &str) {
        use std::io::Write as _;
        let input = self.supervisor.stdin.as_mut().unwrap();
        writeln!(input, "{word}").unwrap();
    }

    /// Where its socket is.
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        drop(self.supervisor.stdin.take());
        drop(self.supervisor.wait());
    }
}
