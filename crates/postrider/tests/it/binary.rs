//! The binary as a process: starting it, and talking to it.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use postrider_testkit::Postgres;

use crate::support::{http, on_postgres};

pub(crate) fn postrider() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_postrider"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("POSTRIDER")) {
        command.env_remove(name);
    }
    command
}

/// A server process; killed when dropped.
pub(crate) struct Process {
    pub(crate) child: Child,
    pub(crate) address: SocketAddr,
    pub(crate) root: Option<String>,
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

pub(crate) fn serve(data: &Path) -> Process {
    logged(data, Stdio::null())
}

/// What starts a server with its data in a directory, or in the database that the directory names.
pub(crate) fn serving(data: &Path) -> Command {
    let mut command = postrider();
    command
        .args(["serve", "--dev", "--listen", "127.0.0.1:0", "--data"])
        .arg(data);
    if on_postgres() && !data.join(STORE_URL).exists() {
        in_postgres(data, &Postgres::shared().database());
    }
    if let Ok(url) = std::fs::read_to_string(data.join(STORE_URL)) {
        command.env("POSTRIDER__STORE__URL", url);
    }
    command
}

const STORE_URL: &str = "store-url";

/// Makes servers with this directory keep everything in a database.
pub(crate) fn in_postgres(data: &Path, url: &str) {
    std::fs::create_dir_all(data).unwrap();
    std::fs::write(data.join(STORE_URL), url).unwrap();
}

/// A server whose log goes somewhere.
pub(crate) fn logged(data: &Path, log: impl Into<Stdio>) -> Process {
    let child = serving(data)
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .unwrap();
    // The root key is told at a first start only.
    let is_first = !data.join("known").exists();
    if is_first {
        std::fs::write(data.join("known"), "").unwrap();
    }
    greeted(child, is_first)
}

/// A server that has told its address and, at a first start, its root key.
pub(crate) fn greeted(mut child: Child, is_first: bool) -> Process {
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let first = lines.next().expect("it ended before it told its address");
    let first = first.unwrap();
    let address = first.split("://").nth(1).unwrap();
    let address = address.split(',').next().unwrap().parse().unwrap();
    let root = is_first.then(|| {
        let line = lines
            .map(Result::unwrap)
            .find(|line| line.trim().starts_with("pr_live_"))
            .unwrap();
        line.trim().to_owned()
    });
    Process {
        child,
        address,
        root,
    }
}

pub(crate) async fn call(
    process: &Process,
    key: &str,
    method: &str,
    path: &str,
    body: Value,
) -> Value {
    let bearer = format!("Bearer {key}");
    let headers = [
        ("authorization", bearer.as_str()),
        ("content-type", "application/json"),
    ];
    let text = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    let reply = http(process.address, method, path, &headers, text).await;
    assert!((200..300).contains(&reply.status), "{path}: {reply:?}");
    reply.json()
}

/// Looks at a path until the answer is as wanted.
pub(crate) async fn until(
    process: &Process,
    key: &str,
    path: &str,
    wanted: impl Fn(&Value) -> bool,
) -> Value {
    let mut last = Value::Null;
    for _ in 0..600 {
        last = call(process, key, "GET", path, Value::Null).await;
        if wanted(&last) {
            return last;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{path} did not become as wanted: {last}");
}

pub(crate) async fn endpoint(process: &Process, key: &str, tenant: &str, url: &str) {
    let path = format!("/v1/tenants/{tenant}/endpoints");
    call(process, key, "POST", &path, json!({ "url": url })).await;
}

pub(crate) async fn publish(process: &Process, key: &str, tenant: &str) -> Value {
    let path = format!("/v1/tenants/{tenant}/events");
    let event = json!({ "type": "a.b", "data": 1 });
    call(process, key, "POST", &path, event).await
}

pub(crate) async fn tenant(process: &Process, key: &str, profile: &str) -> String {
    let application = call(
        process,
        key,
        "POST",
        "/v1/applications",
        json!({ "name": profile, "profile": profile }),
    )
    .await;
    let path = format!(
        "/v1/applications/{}/tenants",
        application["id"].as_str().unwrap()
    );
    call(process, key, "POST", &path, json!({ "name": "t" })).await["id"]
        .as_str()
        .unwrap()
        .to_owned()
}

pub(crate) fn output(command: &mut Command) -> Output {
    command.output().unwrap()
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Where the library is that fakes the clock of a process.
fn faketime() -> std::path::PathBuf {
    let folders = std::fs::read_dir("/usr/lib").unwrap();
    let mut folders = folders.map(|entry| entry.unwrap().path());
    folders
        .find_map(|folder| {
            let library = folder.join("faketime/libfaketime.so.1");
            library.exists().then_some(library)
        })
        .expect("libfaketime is missing; `cargo xtask test` installs it")
}

/// A process whose wall clock is as far ahead as the file `clock` says, as in `+91d`.
pub(crate) fn by_clock(mut command: Command, clock: &Path) -> Command {
    command
        .env("LD_PRELOAD", faketime())
        .env("FAKETIME_TIMESTAMP_FILE", clock)
        .env("FAKETIME_NO_CACHE", "1")
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    command
}

/// The same command, by a shell that does something before it.
pub(crate) fn after(first: &str, command: &Command) -> Command {
    let mut shell = Command::new("sh");
    shell
        .args(["-c", &format!("{first}; exec \"$0\" \"$@\"")])
        .arg(command.get_program())
        .args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell
}

/// A server whose log nobody wants.
pub(crate) fn quiet(command: &mut Command, is_first: bool) -> Process {
    let command = command.stdout(Stdio::piped()).stderr(Stdio::null());
    greeted(command.spawn().unwrap(), is_first)
}
