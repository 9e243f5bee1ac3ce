//! The binary as a process: killed, restarted, told to stop, started twice; its commands as a user types them.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use postrider_testkit::{Behaviour, Postgres, Receiver};
use serde_json::{Value, json};

use crate::binary::{
    Process, after, by_clock, call, endpoint, greeted, in_postgres, logged, output, postrider,
    publish, quiet, serve, serving, tenant, text, until,
};
use crate::support::http;

/// Publishes on several connections until the server is gone; returns the numbers acknowledged.
fn publisher(
    address: SocketAddr,
    key: &str,
    tenant: &str,
    first: u64,
    stop: Arc<AtomicBool>,
) -> tokio::task::JoinHandle<Vec<u64>> {
    let (bearer, path) = (
        format!("Bearer {key}"),
        format!("/v1/tenants/{tenant}/events"),
    );
    tokio::spawn(async move {
        let mut acknowledged = Vec::new();
        let Ok(stream) = tokio::net::TcpStream::connect(address).await else {
            return acknowledged;
        };
        let io = hyper_util::rt::TokioIo::new(stream);
        let Ok((mut sender, connection)) = hyper::client::conn::http1::handshake(io).await else {
            return acknowledged;
        };
        tokio::spawn(connection);
        for number in first.. {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let body = format!(r#"{{"type":"order.completed","data":{{"number":{number}}}}}"#);
            let request = http::Request::post(&path)
                .header("host", "test")
                .header("authorization", &bearer)
                .header("content-type", "application/json")
                .body(http_body_util::Full::new(bytes::Bytes::from(body)))
                .unwrap();
            let Ok(response) = sender.send_request(request).await else {
                break;
            };
            if response.status() != 202 {
                break;
            }
            acknowledged.push(number);
            if http_body_util::BodyExt::collect(response.into_body())
                .await
                .is_err()
            {
                break;
            }
        }
        acknowledged
    })
}

fn numbers(receiver: &Receiver) -> HashMap<u64, u32> {
    let mut seen = HashMap::new();
    for request in receiver.requests() {
        let body: Value = serde_json::from_slice(&request.body).unwrap();
        *seen
            .entry(body["data"]["number"].as_u64().unwrap())
            .or_default() += 1;
    }
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_when_the_process_is_killed_under_load() {
    killed_under_load(tempfile::tempdir().unwrap()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_in_postgres_when_the_process_is_killed_under_load() {
    let directory = tempfile::tempdir().unwrap();
    in_postgres(directory.path(), &Postgres::shared().database());
    killed_under_load(directory).await;
}

async fn killed_under_load(directory: tempfile::TempDir) {
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let mut process = serve(directory.path());
    let root = process.root.clone().unwrap();
    let tenant = tenant(&process, &root, "vignetim").await;
    let endpoint = json!({ "url": receiver.url("/") });
    call(
        &process,
        &root,
        "POST",
        &format!("/v1/tenants/{tenant}/endpoints"),
        endpoint,
    )
    .await;
    let mut acknowledged: Vec<u64> = Vec::new();
    for round in 1..=3_u64 {
        let stop = Arc::new(AtomicBool::new(false));
        let publishers: Vec<_> = (0..8)
            .map(|i| {
                publisher(
                    process.address,
                    &root,
                    &tenant,
                    round * 100_000_000 + i * 1_000_000,
                    stop.clone(),
                )
            })
            .collect();
        let before = receiver.requests().len();
        receiver.wait_for(before + 300).await;
        process.child.kill().unwrap();
        process.child.wait().unwrap();
        stop.store(true, Ordering::Relaxed);
        for publisher in publishers {
            acknowledged.extend(publisher.await.unwrap());
        }
        process = serve(directory.path());
    }
    assert!(acknowledged.len() >= 500, "{} events", acknowledged.len());
    // Everything acknowledged ends delivered, then arrived.
    let path = format!("/v1/deliveries?tenant={tenant}&status=pending&limit=1");
    let none = |page: &Value| page["data"].as_array().is_some_and(Vec::is_empty);
    until(&process, &root, &path, none).await;
    let seen = numbers(&receiver);
    let lost: Vec<&u64> = acknowledged
        .iter()
        .filter(|number| !seen.contains_key(number))
        .collect();
    assert!(
        lost.is_empty(),
        "{} of {} lost: {lost:?}",
        lost.len(),
        acknowledged.len()
    );
    let duplicates = seen.values().filter(|count| **count > 1).count();
    // A kill can repeat what was under way or not yet recorded, and nothing else.
    assert!(
        duplicates < acknowledged.len() / 2,
        "{duplicates} duplicates of {}",
        acknowledged.len()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_term_signal_finishes_what_is_under_way() {
    let directory = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(Behaviour::SlowStatus(Duration::from_millis(500), 200)).await;
    let mut process = serve(directory.path());
    let root = process.root.clone().unwrap();
    let tenant = tenant(&process, &root, "vignetim").await;
    call(
        &process,
        &root,
        "POST",
        &format!("/v1/tenants/{tenant}/endpoints"),
        json!({ "url": receiver.url("/") }),
    )
    .await;
    let event = json!({ "type": "order.completed", "data": { "number": 1 } });
    call(
        &process,
        &root,
        "POST",
        &format!("/v1/tenants/{tenant}/events"),
        event,
    )
    .await;
    receiver.wait_for(1).await;
    let pid = process.child.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-TERM", &pid])
            .status()
            .unwrap()
            .success()
    );
    let status = process.child.wait().unwrap();
    assert!(status.success(), "{status}");
    let process = serve(directory.path());
    let page = call(
        &process,
        &root,
        "GET",
        &format!("/v1/deliveries?tenant={tenant}"),
        Value::Null,
    )
    .await;
    assert_eq!(
        (&page["data"][0]["status"], &page["data"][0]["attemptsMade"]),
        (&json!("delivered"), &json!(1))
    );
    assert_eq!(
        receiver.requests().len(),
        1,
        "it was recorded before the process ended"
    );
}

#[tokio::test]
async fn a_second_server_on_the_same_data_gets_one_clear_line() {
    let directory = tempfile::tempdir().unwrap();
    let _process = serve(directory.path());
    let second = output(
        postrider()
            .args(["serve", "--listen", "127.0.0.1:0", "--data"])
            .arg(directory.path()),
    );
    let told = text(&second.stderr);
    assert!(!second.status.success());
    assert!(
        told.contains("is in use by another postrider process") && told.lines().count() == 1,
        "{told}"
    );
}

#[test]
fn what_is_not_a_postrider_database_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("postrider.db");
    let refused = |expected: &str| {
        let run = output(
            postrider()
                .args(["serve", "--listen", "127.0.0.1:0", "--data"])
                .arg(directory.path()),
        );
        let told = text(&run.stderr);
        assert!(!run.status.success() && told.contains(expected), "{told}");
    };
    std::fs::write(
        &file,
        "this is not a database, whatever its name says. ".repeat(400),
    )
    .unwrap();
    refused("is damaged or not a database");
    std::fs::remove_file(&file).unwrap();
    let other = rusqlite::Connection::open(&file).unwrap();
    other.execute_batch("create table theirs (x)").unwrap();
    refused("is not a Postrider database");
    other.execute_batch("drop table theirs; pragma application_id = 1347568722; create table t (x); pragma user_version = 99").unwrap();
    other.close().unwrap();
    refused("was written by a newer Postrider");
    std::fs::remove_file(&file).unwrap();
    std::fs::write(directory.path().join("master.key"), "short").unwrap();
    refused("this was a store");
    std::fs::write(&file, "").unwrap();
    refused("is missing or empty");
    let new = output(
        postrider()
            .args(["serve", "--new-store", "--listen", "127.0.0.1:0", "--data"])
            .arg(directory.path()),
    );
    assert!(text(&new.stderr).contains("master key"), "{new:?}");
    std::fs::set_permissions(
        directory.path().join("master.key"),
        std::os::unix::fs::PermissionsExt::from_mode(0o644),
    )
    .unwrap();
    refused("chmod 600");
    let key = directory.path().join("master.key");
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    for wrong in ["", "0", "not hex at all"] {
        std::fs::write(&key, wrong).unwrap();
        refused("is not a master key");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_commands_work_as_a_user_types_them() {
    let directory = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let process = serve(directory.path());
    let root = process.root.clone().unwrap();
    let url = format!("http://{}", process.address);
    let run = |args: &[&str]| {
        let run = output(
            postrider()
                .env("POSTRIDER_URL", &url)
                .env("POSTRIDER_KEY", &root)
                .args(args),
        );
        assert!(run.status.success(), "{args:?}: {}", text(&run.stderr));
        text(&run.stdout)
    };
    let json =
        |args: &[&str]| serde_json::from_str::<Value>(&run(&[args, &["--json"]].concat())).unwrap();
    let application = json(&["application", "create", "shop"])["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let tenant = json(&["tenant", "create", "--application", &application, "Ada Ltd"])["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let endpoint = json(&[
        "endpoint",
        "create",
        "--tenant",
        &tenant,
        &receiver.url("/"),
        "--events",
        "order.*",
    ]);
    let published = run(&[
        "event",
        "publish",
        "--tenant",
        &tenant,
        "order.completed",
        r#"{"orderId": "1"}"#,
    ]);
    assert!(
        published.starts_with("id ") && published.contains("deliveries           1"),
        "{published}"
    );
    let request = receiver.wait_for(1).await.remove(0);
    assert!(text(&request.body).ends_with(r#""data":{"orderId": "1"}}"#));
    let list = run(&["delivery", "list", "--tenant", &tenant]);
    assert!(
        list.starts_with("ID ") && list.contains("order.completed"),
        "{list}"
    );
    assert!(run(&["application", "list"]).contains("shop"));
    let other = run(&["tenant", "create", "--application", &application, "Bob"]);
    assert!(
        other.contains("testSecret") && other.contains("whsec_"),
        "{other}"
    );
    assert!(
        run(&["endpoint", "test", endpoint["id"].as_str().unwrap()])
            .contains("success              true")
    );
    assert!(
        run(&["endpoint", "stats", endpoint["id"].as_str().unwrap()])
            .contains("delivered            1")
    );
    assert!(
        run(&[
            "delivery",
            "replay",
            "--tenant",
            &tenant,
            "--status",
            "delivered"
        ])
        .contains("done                 1")
    );
    let copy = directory.path().join("copy.db");
    let backup = output(
        postrider()
            .arg("backup")
            .arg(&copy)
            .arg("--data")
            .arg(directory.path()),
    );
    assert!(backup.status.success(), "{}", text(&backup.stderr));
    let rows: i64 = rusqlite::Connection::open(&copy)
        .unwrap()
        .query_row("select count(*) from event", [], |row| row.get(0))
        .unwrap();
    assert_eq!(rows, 1);
    let again = output(
        postrider()
            .arg("backup")
            .arg(&copy)
            .arg("--data")
            .arg(directory.path()),
    );
    assert!(!again.status.success() && text(&again.stderr).contains("exists already"));
    let refused = output(
        postrider()
            .env("POSTRIDER_URL", &url)
            .env("POSTRIDER_KEY", "nonsense")
            .args(["application", "list"]),
    );
    assert!(
        text(&refused.stderr).contains("The API key is not known"),
        "{}",
        text(&refused.stderr)
    );
    let elsewhere = output(
        postrider()
            .env("POSTRIDER_URL", &url)
            .env("POSTRIDER_KEY", &root)
            .args(["endpoint", "delete", "../keys/key_x"]),
    );
    assert!(
        text(&elsewhere.stderr).contains("no such endpoint"),
        "an id is not a path"
    );
    let keyless = output(
        postrider()
            .env("POSTRIDER_URL", &url)
            .args(["application", "list"]),
    );
    assert!(
        text(&keyless.stderr).contains("POSTRIDER_KEY"),
        "{}",
        text(&keyless.stderr)
    );
    let nobody = output(
        postrider()
            .env("POSTRIDER_URL", "http://127.0.0.1:1")
            .env("POSTRIDER_KEY", "x")
            .args(["application", "list"]),
    );
    assert!(text(&nobody.stderr).contains("is `postrider serve` running?"));
}

#[test]
fn profiles_are_checked_and_shown() {
    let shown = output(postrider().args(["profile", "show", "vignetim"]));
    assert!(text(&shown.stdout).contains("X-Webhook-Signature"));
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &shown.stdout).unwrap();
    let checked = output(postrider().args(["profile", "check"]).arg(file.path()));
    assert!(
        checked.status.success()
            && text(&checked.stdout).contains("it retries after 0 s, 1 s, 5 s"),
        "{checked:?}"
    );
    std::fs::write(
        file.path(),
        text(&shown.stdout).replace("\"hex\"", "\"hexadecimal\""),
    )
    .unwrap();
    let refused = output(postrider().args(["profile", "check"]).arg(file.path()));
    assert!(
        !refused.status.success()
            && text(&refused.stderr).contains("signature.encoding: must be hex or base64"),
        "{refused:?}"
    );
}

#[test]
fn configuration_mistakes_are_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "[server]\nlissten = \"127.0.0.1:0\"\n").unwrap();
    let run = output(postrider().args(["serve", "--config"]).arg(file.path()));
    assert!(
        !run.status.success() && text(&run.stderr).contains("lissten"),
        "{}",
        text(&run.stderr)
    );
    // All mistakes at once, each with its line, by the command that starts nothing, too.
    let wrong = "[server]\nlistten = 1\n[limits]\nin_flight = \"many\"\n[log]\nlevel = 7\n";
    std::fs::write(file.path(), wrong).unwrap();
    let check = |path: &Path| output(postrider().args(["config", "check", "--config"]).arg(path));
    let run = check(file.path());
    let told = text(&run.stderr);
    for expected in ["line 2: ", "line 4: ", "line 6: ", "listten"] {
        assert!(!run.status.success() && told.contains(expected), "{told}");
    }
    std::fs::write(file.path(), "[log]\nlevel = \"loud,,=\"\n").unwrap();
    let told = check(file.path());
    assert!(text(&told.stderr).contains("log.level"), "{told:?}");
    std::fs::write(file.path(), "[server]\nshutdown_secs = 5\n").unwrap();
    assert!(check(file.path()).status.success());
    // All that `serve` would find before it opens a store.
    for (wrong, expected) in [
        (
            "[nodes]\nurl = \"http://10.0.0.1:8080\"\n",
            "set store.url too",
        ),
        (
            "[store]\nurl = \"mysql://x/y\"\n",
            "store.url cannot be used",
        ),
        ("[egress]\nproxy = \"ftp://proxy\"\n", "proxy"),
        ("[egress]\nextra_ca = \"/nowhere.pem\"\n", "/nowhere.pem"),
        ("[profiles]\ndirectory = \"/nowhere\"\n", "/nowhere"),
        (
            "[metrics]\nlisten = \"127.0.0.1:8080\"\n",
            "metrics.listen is server.listen",
        ),
        (
            "[notifications.smtp]\nhost = \"mail.example\"\nfrom = \"bad\"\n",
            "bad",
        ),
    ] {
        std::fs::write(file.path(), wrong).unwrap();
        let run = check(file.path());
        assert!(
            !run.status.success() && text(&run.stderr).contains(expected),
            "{wrong}: {run:?}"
        );
    }
    // Which addresses it leaves from is another machine's matter.
    let elsewhere = "[egress]\nbind = [\"203.0.113.7\"]\n";
    std::fs::write(file.path(), elsewhere).unwrap();
    let run = check(file.path());
    assert!(run.status.success(), "{run:?}");
    // A list in a variable.
    for (variable, value) in [
        ("POSTRIDER__TELEMETRY__SIGNALS", "traces,logs"),
        ("POSTRIDER__TELEMETRY__SIGNALS", "traces"),
        ("POSTRIDER__EGRESS__PORTS", "443"),
        ("POSTRIDER__EGRESS__PORTS", "443,8443"),
    ] {
        let run = output(postrider().args(["config", "check"]).env(variable, value));
        assert!(run.status.success(), "{variable}={value}: {run:?}");
    }
    for (variable, value, expected) in [
        (
            "POSTRIDER__LIMITS__IN_FLIGHT",
            "0",
            "limits.in_flight must be at least 1",
        ),
        ("POSTRIDER__LOG__LEVEL", "loud", "log.level"),
        (
            "POSTRIDER__LIMITS__TENANT_REQUESTS",
            "0",
            "leave it out for any number",
        ),
        (
            "POSTRIDER__SERVER__CORS_ORIGINS",
            "https://*.example.com",
            "name each origin by itself",
        ),
        (
            "POSTRIDER__SERVER__PUBLIC_URL",
            "hooks.example.com",
            "it is scheme, host and perhaps a port",
        ),
        (
            "POSTRIDER__TELEMETRY__ENDPOINT",
            "http://127.0.0.1:4318/v1/traces",
            "telemetry.endpoint ends with /v1/traces",
        ),
        (
            "POSTRIDER__TELEMETRY__ENDPOINT",
            "collector",
            "telemetry.endpoint \"collector\" is not a URL such as",
        ),
    ] {
        let run = output(
            postrider()
                .args(["serve", "--listen", "127.0.0.1:0"])
                .env(variable, value),
        );
        assert!(
            !run.status.success() && text(&run.stderr).contains(expected),
            "{run:?}"
        );
    }
    let run = output(
        postrider()
            .args(["serve", "--listen", "127.0.0.1:0"])
            .env("POSTRIDER__STORE__MAX_BYTES", "many"),
    );
    assert!(
        !run.status.success() && text(&run.stderr).contains("max_bytes"),
        "{}",
        text(&run.stderr)
    );
}

#[test]
fn the_demo_shows_retries_a_disable_and_valid_signatures() {
    let run = output(postrider().arg("demo"));
    let shown = text(&run.stdout);
    assert!(run.status.success(), "{shown}\n{}", text(&run.stderr));
    assert!(
        shown.contains("/dead was disabled")
            && shown.contains("is paused (failures) after 13 requests")
            && shown.contains("The second one is failed (stopped), after one request")
            && shown.contains("signature valid")
            && !shown.contains("REFUSED"),
        "{shown}"
    );
    let summary = shown
        .lines()
        .find(|line| line.contains("signatures verified"))
        .unwrap();
    let counts: Vec<u32> = summary
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    assert_eq!(counts[0], counts[1], "{summary}");
}

#[tokio::test]
async fn another_master_key_is_refused_and_files_are_private() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let process = serve(&data);
    let root = process.root.clone().unwrap();
    tenant(&process, &root, "vignetim").await;
    drop(process);
    for name in ["postrider.db", "master.key"] {
        let mode = std::fs::metadata(data.join(name))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o077, 0, "{name}");
    }
    let start = || {
        output(
            postrider()
                .args(["serve", "--listen", "127.0.0.1:0", "--data"])
                .arg(&data),
        )
    };
    let key = std::fs::read_to_string(data.join("master.key")).unwrap();
    std::fs::write(data.join("master.key"), "ab".repeat(32)).unwrap();
    let told = text(&start().stderr);
    assert!(
        told.contains("is not the master key of this store"),
        "{told}"
    );
    std::fs::remove_file(data.join("master.key")).unwrap();
    let told = text(&start().stderr);
    assert!(
        told.contains("is missing, and the store has secrets"),
        "{told}"
    );
    std::fs::write(data.join("master.key"), key).unwrap();
    std::fs::set_permissions(data.join("master.key"), PermissionsExt::from_mode(0o600)).unwrap();
    drop(serve(&data));
}

#[tokio::test]
async fn a_server_goes_on_when_nobody_reads_what_it_prints() {
    let directory = tempfile::tempdir().unwrap();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let child = postrider()
        .args(["serve", "--listen", &address.to_string(), "--data"])
        .arg(directory.path())
        .stdout(writer)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut process = Process {
        child,
        address,
        root: None,
    };
    // It answers, and a term signal ends it in order: it had not died of its own greeting.
    for _ in 0..200 {
        if tokio::net::TcpStream::connect(address).await.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let reply = http(process.address, "GET", "/health", &[], "").await;
    assert_eq!(reply.status, 200);
    let pid = process.child.id().to_string();
    let sent = Command::new("kill").args(["-TERM", &pid]).status().unwrap();
    assert!(sent.success());
    assert!(process.child.wait().unwrap().success());
}

/// Whoever has its log may stand still with the pipe open.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_goes_on_when_its_log_is_a_pipe_that_is_full() {
    /// Each of them makes some lines; the pipe takes 64 KiB.
    const EVENTS: usize = 200;
    let directory = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let (reader, writer) = std::io::pipe().unwrap();
    let mut command = serving(directory.path());
    command.env("POSTRIDER__LOG__LEVEL", "trace");
    command.stdout(Stdio::piped()).stderr(writer);
    let process = greeted(command.spawn().unwrap(), true);
    let root = process.root.clone().unwrap();
    let tenant = tenant(&process, &root, "standard").await;
    endpoint(&process, &root, &tenant, &receiver.url("/")).await;
    for _ in 0..EVENTS {
        publish(&process, &root, &tenant).await;
    }
    receiver.wait_for(EVENTS).await;
    drop(process);
    // It was full: whoever reads on gets whole lines up to then.
    drop(command);
    let mut told = Vec::new();
    std::io::Read::read_to_end(&mut { reader }, &mut told).unwrap();
    assert!(told.len() > 32 * 1_024, "{} bytes were told", told.len());
}

#[tokio::test]
async fn who_lost_the_root_key_makes_another_while_the_server_is_stopped() {
    let directory = tempfile::tempdir().unwrap();
    let root_key = |data: &Path| output(postrider().arg("root-key").arg("--data").arg(data));
    let nothing = root_key(&directory.path().join("elsewhere"));
    assert!(!nothing.status.success());
    assert!(text(&nothing.stderr).contains("there is no database"));
    let running = serve(directory.path());
    let in_use = root_key(directory.path());
    assert!(text(&in_use.stderr).contains("is in use by another postrider"));
    drop(running);
    let made = root_key(directory.path());
    assert!(made.status.success(), "{}", text(&made.stderr));
    let key = text(&made.stdout).trim().to_owned();
    let running = serve(directory.path());
    let keys = call(&running, &key, "GET", "/v1/keys", Value::Null).await;
    assert_eq!(keys["data"].as_array().unwrap().len(), 2);
}

pub(crate) fn signal(process: &Process, name: &str) {
    let sent = Command::new("kill")
        .args([format!("-{name}"), process.child.id().to_string()])
        .status()
        .unwrap();
    assert!(sent.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signals_that_mean_nothing_here_end_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let mut process = serve(directory.path());
    let root = process.root.clone().unwrap();
    let tenant = tenant(&process, &root, "standard").await;
    for name in ["HUP", "USR1", "USR2"] {
        signal(&process, name);
    }
    let path = format!("/v1/tenants/{tenant}/events");
    for _ in 0..20 {
        let event = json!({ "type": "a", "data": 1 });
        call(&process, &root, "POST", &path, event).await;
    }
    assert!(process.child.try_wait().unwrap().is_none());
    // And this one ends it as a request to stop does.
    signal(&process, "QUIT");
    assert!(process.child.wait().unwrap().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_nobody_reads_stops_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let mut child = postrider()
        .args(["serve", "--dev", "--listen", "127.0.0.1:0", "--data"])
        .arg(directory.path())
        .env("POSTRIDER__LOG__LEVEL", "debug")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The reading end of its log is closed at once.
    drop(child.stderr.take());
    let process = greeted(child, true);
    let root = process.root.clone().unwrap();
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let tenant = tenant(&process, &root, "standard").await;
    let endpoint = json!({ "url": receiver.url("/") });
    let path = format!("/v1/tenants/{tenant}/endpoints");
    call(&process, &root, "POST", &path, endpoint).await;
    let path = format!("/v1/tenants/{tenant}/events");
    for _ in 0..5 {
        let event = json!({ "type": "a", "data": 1 });
        call(&process, &root, "POST", &path, event).await;
    }
    receiver.wait_for(5).await;
}

/// Refused and told at the first event that comes, and by itself where none does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_moved_away_or_deleted_is_noticed() {
    for is_deleted in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("data");
        std::fs::create_dir(&data).unwrap();
        let log = tempfile::NamedTempFile::new().unwrap();
        let process = logged(&data, log.reopen().unwrap());
        let root = process.root.clone().unwrap();
        let tenant = tenant(&process, &root, "standard").await;
        let moved = directory.path().join("moved");
        match is_deleted {
            true => std::fs::remove_dir_all(&data).unwrap(),
            false => std::fs::rename(&data, &moved).unwrap(),
        }
        let mut ready = 200;
        for _ in 0..100 {
            ready = http(process.address, "GET", "/ready", &[], "").await.status;
            if ready == 503 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(ready, 503, "nobody has published");
        let bearer = format!("Bearer {root}");
        let headers = [
            ("authorization", bearer.as_str()),
            ("content-type", "application/json"),
        ];
        let path = format!("/v1/tenants/{tenant}/events");
        let event = json!({ "type": "a", "data": 1 }).to_string();
        for _ in 0..3 {
            let refused = http(process.address, "POST", &path, &headers, event.clone()).await;
            let refused = (refused.status, refused.code());
            assert_eq!(refused, (503, "store_unavailable".to_owned()));
        }
        let told = std::fs::read_to_string(log.path()).unwrap();
        let file = data.join("postrider.db");
        let names_it = |line: &str| line.contains("ERROR") && line.contains(file.to_str().unwrap());
        assert!(told.lines().any(names_it), "{told}");
        if !is_deleted {
            // Put back, it goes on as if nothing had been.
            std::fs::rename(&moved, &data).unwrap();
            let again = http(process.address, "POST", &path, &headers, event).await;
            assert_eq!(again.status, 202, "{again:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_server_is_kept_out_though_the_lock_file_is_deleted() {
    let directory = tempfile::tempdir().unwrap();
    let _process = serve(directory.path());
    std::fs::remove_file(directory.path().join("postrider.lock")).unwrap();
    let second = output(
        postrider()
            .args(["serve", "--listen", "127.0.0.1:0", "--data"])
            .arg(directory.path()),
    );
    assert!(!second.status.success());
    assert!(text(&second.stderr).contains("in use"), "{second:?}");
}

/// Root restores what a service of less rights is to open. Who is not root can restore for nobody else.
fn must_belong_to_the_directorys_owner(
    data: &Path,
    restore: &dyn Fn(&Path) -> std::process::Output,
) {
    use std::os::unix::fs::{MetadataExt as _, chown};
    const NOBODY: u32 = 65_534;
    let own = data.metadata().unwrap().uid();
    let wanted = if own == 0 { NOBODY } else { own };
    chown(data, Some(wanted), Some(wanted)).unwrap_or_default();
    let wanted = data.metadata().unwrap().uid();
    let restored = restore(data);
    assert!(restored.status.success(), "{restored:?}");
    for name in ["postrider.db", "postrider.lock"] {
        let owner = data.join(name).metadata().unwrap().uid();
        assert_eq!(owner, wanted, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_is_restored_and_never_beside_another_log() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let copy = directory.path().join("copy.db");
    let mut process = serve(&data);
    let root = process.root.clone().unwrap();
    let tenant = tenant(&process, &root, "standard").await;
    let run = |arguments: &[&std::ffi::OsStr]| output(postrider().args(arguments));
    let backup = run(&[
        "backup".as_ref(),
        copy.as_ref(),
        "--data".as_ref(),
        data.as_ref(),
    ]);
    assert!(backup.status.success(), "{backup:?}");
    let path = format!("/v1/tenants/{tenant}/events");
    let event = json!({ "type": "after.the.backup", "data": 1 });
    call(&process, &root, "POST", &path, event).await;
    let restore = |to: &Path| {
        run(&[
            "restore".as_ref(),
            copy.as_ref(),
            "--data".as_ref(),
            to.as_ref(),
        ])
    };
    let refused = restore(&data);
    assert!(text(&refused.stderr).contains("in use"), "{refused:?}");
    process.child.kill().unwrap();
    process.child.wait().unwrap();
    // Copied by hand beside the log that the killed server has left.
    let by_hand = directory.path().join("by-hand");
    std::fs::create_dir(&by_hand).unwrap();
    std::fs::copy(&copy, by_hand.join("postrider.db")).unwrap();
    for name in ["postrider.db-wal", "master.key"] {
        std::fs::copy(data.join(name), by_hand.join(name)).unwrap();
    }
    let wrong = run(&[
        "serve".as_ref(),
        "--listen".as_ref(),
        "127.0.0.1:0".as_ref(),
        "--data".as_ref(),
        by_hand.as_ref(),
    ]);
    assert!(
        text(&wrong.stderr).contains("the log of another database"),
        "{wrong:?}"
    );
    // Where the server has its configuration from, as `backup` and all others have it.
    let restored = output(
        postrider()
            .args(["restore".as_ref(), copy.as_os_str()])
            .env("POSTRIDER__STORE__DIRECTORY", &data),
    );
    assert!(restored.status.success(), "{restored:?}");
    assert!(data.join("postrider.db.before-restore-1").exists());
    must_belong_to_the_directorys_owner(&by_hand, &restore);
    let process = serve(&data);
    let events = call(&process, &root, "GET", &path, Value::Null).await;
    assert_eq!(events["data"], json!([]), "as it was when it was copied");
    drop(process);
    let doctor = run(&["doctor".as_ref(), "--data".as_ref(), data.as_ref()]);
    assert!(doctor.status.success(), "{doctor:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_row_costs_its_own_tenant_and_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let process = serve(directory.path());
    let root = process.root.clone().unwrap();
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let mut tenants = Vec::new();
    for profile in ["standard", "vignetim"] {
        let tenant = tenant(&process, &root, profile).await;
        let path = format!("/v1/tenants/{tenant}/endpoints");
        call(
            &process,
            &root,
            "POST",
            &path,
            json!({ "url": receiver.url("/") }),
        )
        .await;
        tenants.push(tenant);
    }
    drop(process);
    let file = directory.path().join("postrider.db");
    let database = rusqlite::Connection::open(&file).unwrap();
    let damage = |settings: &str| {
        let sql = "update tenant set settings = ?1 where id = (select min(id) from tenant)";
        assert_eq!(database.execute(sql, [settings]).unwrap(), 1);
    };
    damage("not JSON at all");
    database.close().map_err(|_| "open").unwrap();
    let process = serve(directory.path());
    let bearer = format!("Bearer {root}");
    let headers = [
        ("authorization", bearer.as_str()),
        ("content-type", "application/json"),
    ];
    let publish = |tenant: &str| {
        let path = format!("/v1/tenants/{tenant}/events");
        let event = json!({ "type": "order.completed", "data": { "orderId": "1" } }).to_string();
        async move {
            http(process.address, "POST", &path, &headers, event)
                .await
                .status
        }
    };
    assert_eq!(publish(&tenants[0]).await, 500);
    assert_eq!(publish(&tenants[1]).await, 202);
    receiver.wait_for(1).await;
    let doctor = output(postrider().args(["doctor", "--data"]).arg(directory.path()));
    let told = text(&doctor.stdout);
    assert!(
        !doctor.status.success() && told.contains("tenant row"),
        "{doctor:?}"
    );
}

#[tokio::test]
async fn a_delivery_whose_record_is_refused_is_set_aside_and_counted() {
    let directory = tempfile::tempdir().unwrap();
    let process = serve(directory.path());
    let root = process.root.clone().unwrap();
    let slow = Duration::from_secs(2);
    let receiver = Receiver::start(Behaviour::SlowStatus(slow, 200)).await;
    let tenant = tenant(&process, &root, "standard").await;
    endpoint(&process, &root, &tenant, &receiver.url("/")).await;
    publish(&process, &root, &tenant).await;
    receiver.wait_for(1).await;
    let ready = call(&process, &root, "GET", "/ready", Value::Null).await;
    assert_eq!(ready["setAside"], 0, "{ready}");
    // While the attempt is made, its row is damaged: no record of it can be written.
    let database = rusqlite::Connection::open(directory.path().join("postrider.db")).unwrap();
    database.busy_timeout(Duration::from_secs(5)).unwrap();
    assert_eq!(
        database
            .execute("update delivery set state = 9", [])
            .unwrap(),
        1
    );
    drop(database);
    until(&process, &root, "/ready", |ready| ready["setAside"] == 1).await;
    // The lane goes on with what comes after it.
    publish(&process, &root, &tenant).await;
    receiver.wait_for(2).await;
    let doctor = output(postrider().args(["doctor", "--data"]).arg(directory.path()));
    assert!(text(&doctor.stdout).contains("delivery row"), "{doctor:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_root_key_goes_to_a_file_where_one_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("root.key");
    // A store before this one had it too.
    std::fs::write(&file, "pr_live_0").unwrap();
    let mut child = postrider()
        .args(["serve", "--dev", "--listen", "127.0.0.1:0", "--data"])
        .arg(directory.path().join("data"))
        .arg("--root-key-file")
        .arg(&file)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let first = lines.next().unwrap().unwrap();
    let address: SocketAddr = first
        .split("http://")
        .nth(1)
        .unwrap()
        .split(',')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    let root = std::fs::read_to_string(&file).unwrap();
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&file).unwrap());
    assert_eq!(mode & 0o777, 0o600);
    let bearer = format!("Bearer {root}");
    let listed = http(
        address,
        "GET",
        "/v1/applications",
        &[("authorization", &bearer)],
        "",
    )
    .await;
    assert_eq!(listed.status, 200, "{listed:?}");
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(
        lines
            .map_while(Result::ok)
            .all(|line| !line.contains("pr_live_"))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_clock_is_set_an_hour_back_and_forward_and_nothing_stalls() {
    let directory = tempfile::tempdir().unwrap();
    let clock = directory.path().join("clock");
    let set = |offset: &str| std::fs::write(&clock, offset).unwrap();
    set("+0");
    let receiver = Receiver::start(Behaviour::Status(503)).await;
    let child = by_clock(postrider(), &clock)
        .args(["serve", "--dev", "--listen", "127.0.0.1:0", "--data"])
        .arg(directory.path().join("data"))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let process = greeted(child, true);
    let root = process.root.clone().unwrap();
    let tenant = tenant(&process, &root, "vignetim").await;
    let path = format!("/v1/tenants/{tenant}/endpoints");
    let endpoint = json!({ "url": receiver.url("/"), "rateLimit": 5 });
    call(&process, &root, "POST", &path, endpoint).await;
    let path = format!("/v1/tenants/{tenant}/events");
    let mut shown = Vec::new();
    // A schedule of 0, 0, 1 and 6 s; the clock is set after its second request each time.
    for (round, offset) in ["-3600", "+3600", "-86400"].into_iter().enumerate() {
        let data = json!({ "orderId": round.to_string() });
        let event = json!({ "type": "order.completed", "data": data });
        let made = call(&process, &root, "POST", &path, event).await;
        let made = call(
            &process,
            &root,
            "GET",
            &format!("/v1/events/{}", made["id"].as_str().unwrap()),
            Value::Null,
        )
        .await;
        shown.push(made["createdAt"].as_str().unwrap().to_owned());
        receiver.wait_for(round * 4 + 2).await;
        set(offset);
        receiver.wait_for(round * 4 + 4).await;
    }
    let requests = receiver.requests();
    for round in requests.chunks(4) {
        let after: Vec<u64> = round
            .iter()
            .map(|request| request.at.duration_since(round[0].at).as_millis() as u64)
            .collect();
        // Never early; that they came at all without an hour between is what was waited for.
        assert!(after[2] >= 1_000 && after[3] >= 6_000, "{after:?}");
    }
    assert!(
        shown[1] < shown[0] && shown[2] > shown[0],
        "people read the wall clock: {shown:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_route_can_be_called_and_a_payload_be_read_from_a_file_or_a_pipe() {
    let directory = tempfile::tempdir().unwrap();
    let process = serve(directory.path());
    let root = process.root.clone().unwrap();
    let tenant = tenant(&process, &root, "standard").await;
    let url = format!("http://{}", process.address);
    let run = |arguments: &[&str], input: &str| {
        let mut child = postrider()
            .args(arguments)
            .env("POSTRIDER_URL", &url)
            .env("POSTRIDER_KEY", &root)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), input.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    };
    let file = directory.path().join("payload.json");
    std::fs::write(&file, r#"{"from":"a file"}"#).unwrap();
    let file = format!("@{}", file.display());
    let publish = |data: &str, input: &str| {
        let run = run(
            &["event", "publish", "--tenant", &tenant, "a.b", data],
            input,
        );
        assert!(run.status.success(), "{run:?}");
        text(&run.stderr)
    };
    assert!(
        publish(&file, "").contains("explain"),
        "nobody gets it, and it says so"
    );
    publish("-", r#"{"from":"a pipe"}"#);
    let path = format!("/v1/tenants/{tenant}/events");
    let listed = run(&["api", "get", &path], "");
    let page: Value = serde_json::from_slice(&listed.stdout).unwrap();
    assert_eq!(page["data"].as_array().unwrap().len(), 2);
    let made = run(&["api", "POST", &path, "-"], r#"{"type":"a","data":1}"#);
    assert!(text(&made.stdout).contains("evt_"), "{made:?}");
    let refused = run(&["api", "post", &path, "{}"], "");
    assert!(text(&refused.stderr).contains("type"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_took_long_is_told_with_whose_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = serving(directory.path());
    command.env("POSTRIDER__LOG__SLOW_MS", "0");
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = greeted(command.spawn().unwrap(), true);
    let root = process.root.clone().unwrap();
    call(&process, &root, "GET", "/v1/keys", Value::Null).await;
    let log = BufReader::new(process.child.stderr.take().unwrap());
    let mut lines = log.lines().map(Result::unwrap);
    let told = lines.find(|line| line.contains("slow request")).unwrap();
    for part in [
        "WARN",
        "path=\"/v1/keys\"",
        "status=200",
        "key=\"key_",
        "request.id=",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
}

/// How a process ended, if it did within some time.
async fn ended(child: &mut Child, within: Duration) -> Option<ExitStatus> {
    let deadline = tokio::time::Instant::now() + within;
    loop {
        let status = child.try_wait().unwrap();
        if status.is_some() || tokio::time::Instant::now() >= deadline {
            return status;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What a server says that ends by itself, and does not serve.
pub(crate) async fn refused(command: &mut Command) -> String {
    let log = tempfile::NamedTempFile::new().unwrap();
    let command = command.stdout(Stdio::null()).stderr(log.reopen().unwrap());
    let mut child = command.spawn().unwrap();
    let status = ended(&mut child, Duration::from_secs(30)).await;
    if status.is_none() {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let told = std::fs::read_to_string(log.path()).unwrap();
    assert!(
        status.is_some_and(|status| !status.success()),
        "{status:?}: {told}"
    );
    told
}

/// The first line of a log that is as wanted, once it is there.
pub(crate) async fn line_of(log: &Path, wanted: impl Fn(&str) -> bool) -> String {
    let mut told = String::new();
    for _ in 0..600 {
        told = std::fs::read_to_string(log).unwrap();
        if let Some(line) = told.lines().find(|line| wanted(line)) {
            return line.to_owned();
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("no line is as wanted:\n{told}");
}

/// A server takes events, and they arrive.
async fn must_deliver(process: &Process, root: &str) {
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let tenant = tenant(process, root, "standard").await;
    endpoint(process, root, &tenant, &receiver.url("/")).await;
    for _ in 0..5 {
        publish(process, root, &tenant).await;
    }
    receiver.wait_for(5).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_cannot_start_sends_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(Behaviour::Hang).await;
    let process = serve(directory.path());
    let root = process.root.clone().unwrap();
    let tenant = tenant(&process, &root, "standard").await;
    endpoint(&process, &root, &tenant, &receiver.url("/")).await;
    publish(&process, &root, &tenant).await;
    // Killed before there was an answer: it is due at once at the next start.
    receiver.wait_for(1).await;
    drop(process);
    receiver.behave(Behaviour::Status(200));
    let somebody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = somebody.local_addr().unwrap().to_string();
    for (settings, expected) in [
        (
            &[
                ("POSTRIDER__NOTIFICATIONS__SMTP__HOST", "mail.example"),
                ("POSTRIDER__NOTIFICATIONS__SMTP__FROM", "bad"),
            ][..],
            "notifications.smtp cannot be used",
        ),
        (
            &[("POSTRIDER__METRICS__LISTEN", taken.as_str())][..],
            "choose another address with metrics.listen",
        ),
        (
            &[("POSTRIDER__SERVER__ROOT_KEY_FILE", "/nowhere/key")][..],
            "server.root_key_file",
        ),
        (
            &[("POSTRIDER__PROFILES__DIRECTORY", "/nowhere")][..],
            "/nowhere",
        ),
        (&[("POSTRIDER__EGRESS__PROXY", "ftp://proxy")][..], "proxy"),
    ] {
        let mut command = serving(directory.path());
        command.envs(settings.iter().copied());
        let told = refused(&mut command).await;
        assert!(told.contains(expected), "{expected}: {told}");
    }
    assert_eq!(receiver.requests().len(), 1);
    // It was due all the time.
    let _process = serve(directory.path());
    receiver.wait_for(2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_waits_no_longer_than_it_may() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let directory = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(Behaviour::Hang).await;
    let mut command = serving(directory.path());
    let mut process = quiet(command.env("POSTRIDER__SERVER__SHUTDOWN_SECS", "4"), true);
    let root = process.root.clone().unwrap();
    let tenant = tenant(&process, &root, "standard").await;
    endpoint(&process, &root, &tenant, &receiver.url("/")).await;
    publish(&process, &root, &tenant).await;
    receiver.wait_for(1).await;
    let mut client = tokio::net::TcpStream::connect(process.address)
        .await
        .unwrap();
    let head = format!(
        "POST /v1/tenants/{tenant}/events HTTP/1.1\r\nhost: test\r\nauthorization: Bearer {root}\r\ncontent-type: application/json\r\ncontent-length: 100\r\nexpect: 100-continue\r\n\r\n"
    );
    client.write_all(head.as_bytes()).await.unwrap();
    // When it is told to go on, the server waits for the body.
    let mut told = [0; 25];
    client.read_exact(&mut told).await.unwrap();
    assert_eq!(&told, b"HTTP/1.1 100 Continue\r\n\r\n");
    client.write_all(b"{\"type\":").await.unwrap();

    let began = tokio::time::Instant::now();
    signal(&process, "TERM");
    let status = ended(&mut process.child, Duration::from_secs(8)).await;
    assert!(status.is_some_and(|status| status.success()), "{status:?}");
    let took = began.elapsed();
    assert!(
        took >= Duration::from_secs(3),
        "they had their time: {took:?}"
    );
    drop(client);
    // What was cut off is sent again.
    receiver.behave(Behaviour::Status(200));
    let _process = quiet(&mut serving(directory.path()), false);
    receiver.wait_for(2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_changes_the_level_of_the_log() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("postrider.toml");
    let set = |level: &str| std::fs::write(&file, format!("[log]\nlevel = \"{level}\"\n")).unwrap();
    set("info");
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut command = serving(&directory.path().join("data"));
    command.arg("--config").arg(&file);
    command.stdout(Stdio::piped()).stderr(log.reopen().unwrap());
    let process = greeted(command.spawn().unwrap(), true);
    let root = process.root.clone().unwrap();
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let tenant = tenant(&process, &root, "standard").await;
    endpoint(&process, &root, &tenant, &receiver.url("/")).await;
    publish(&process, &root, &tenant).await;
    let path = format!("/v1/deliveries?tenant={tenant}&status=delivered");
    let is_there = |page: &Value| page["data"].as_array().is_some_and(|all| all.len() == 1);
    until(&process, &root, &path, is_there).await;
    let told = std::fs::read_to_string(log.path()).unwrap();
    assert!(told.contains("INFO") && !told.contains("DEBUG"), "{told}");

    set("debug");
    signal(&process, "HUP");
    line_of(log.path(), |line| line.contains("reloaded the log's level")).await;
    publish(&process, &root, &tenant).await;
    let told = line_of(log.path(), |line| line.contains("DEBUG attempt ")).await;
    for part in ["number=1", "status=200", &format!("tenant.id={tenant}")] {
        assert!(told.contains(part), "{part}: {told}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_profile_that_is_put_into_the_directory_is_there_after_a_signal() {
    let directory = tempfile::tempdir().unwrap();
    let profiles = directory.path().join("profiles");
    std::fs::create_dir(&profiles).unwrap();
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut command = serving(&directory.path().join("data"));
    command.env("POSTRIDER__PROFILES__DIRECTORY", &profiles);
    command.stdout(Stdio::piped()).stderr(log.reopen().unwrap());
    let process = greeted(command.spawn().unwrap(), true);
    let root = process.root.clone().unwrap();
    let shown = output(postrider().args(["profile", "show", "standard"]));
    let own = text(&shown.stdout)
        .replace("name = \"standard\"", "name = \"own\"")
        .replace("webhook-id", "x-own-id");
    std::fs::write(profiles.join("own.toml"), own).unwrap();
    let bearer = format!("Bearer {root}");
    let headers = [
        ("authorization", bearer.as_str()),
        ("content-type", "application/json"),
    ];
    let new = json!({ "name": "early", "profile": "own" }).to_string();
    let early = http(process.address, "POST", "/v1/applications", &headers, new).await;
    assert_eq!(early.status, 400, "nobody has asked for it yet: {early:?}");

    signal(&process, "HUP");
    line_of(log.path(), |line| {
        line.contains("reloaded") && line.contains("profiles")
    })
    .await;
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let tenant = tenant(&process, &root, "own").await;
    endpoint(&process, &root, &tenant, &receiver.url("/")).await;
    publish(&process, &root, &tenant).await;
    let request = receiver.wait_for(1).await.remove(0);
    assert!(request.headers.contains_key("x-own-id"), "{request:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_on_a_full_disk_stops_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let full = std::fs::File::options()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let mut command = serving(directory.path());
    // Something is told of each request and each attempt.
    command.env("POSTRIDER__LOG__LEVEL", "debug");
    command.stdout(Stdio::piped()).stderr(full);
    let mut process = greeted(command.spawn().unwrap(), true);
    let root = process.root.clone().unwrap();
    must_deliver(&process, &root).await;
    signal(&process, "TERM");
    assert!(process.child.wait().unwrap().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_greeting_that_cannot_be_told_stops_nothing() {
    for output in ["exec >&-", "exec >/dev/full"] {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("root.key");
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let mut command = postrider();
        command
            .args(["serve", "--dev", "--listen", &address.to_string(), "--data"])
            .arg(directory.path().join("data"))
            .env("POSTRIDER__SERVER__ROOT_KEY_FILE", &file);
        let mut command = after(output, &command);
        let mut process = Process {
            child: command.stderr(Stdio::null()).spawn().unwrap(),
            address,
            root: None,
        };
        // It listens before it has written the key.
        let mut root = String::new();
        for _ in 0..600 {
            root = std::fs::read_to_string(&file).unwrap_or_default();
            if !root.is_empty() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(!root.is_empty(), "{output}: it does not start");
        must_deliver(&process, &root).await;
        signal(&process, "TERM");
        assert!(process.child.wait().unwrap().success(), "{output}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_ahead_log_that_is_gone_after_a_kill_is_told() {
    const GONE: &str = "the last run did not end cleanly, and its write-ahead log is gone";
    let directory = tempfile::tempdir().unwrap();
    let process = serve(directory.path());
    let root = process.root.clone().unwrap();
    let tenant = tenant(&process, &root, "standard").await;
    publish(&process, &root, &tenant).await;
    drop(process);
    // Killed it was, and nothing is missing.
    let log = tempfile::NamedTempFile::new().unwrap();
    let process = logged(directory.path(), log.reopen().unwrap());
    let path = format!("/v1/tenants/{tenant}/events");
    let events = call(&process, &root, "GET", &path, Value::Null).await;
    assert_eq!(events["data"].as_array().unwrap().len(), 1, "{events}");
    drop(process);
    let told = std::fs::read_to_string(log.path()).unwrap();
    assert!(!told.contains(GONE), "{told}");

    // A log of zeros is one that SQLite passes over.
    for lose in [
        |file: &Path| std::fs::remove_file(file),
        |file: &Path| {
            let bytes = std::fs::metadata(file)?.len();
            std::fs::write(file, vec![0; usize::try_from(bytes).unwrap()])
        },
    ] {
        lose(&directory.path().join("postrider.db-wal")).unwrap();
        let log = tempfile::NamedTempFile::new().unwrap();
        let process = logged(directory.path(), log.reopen().unwrap());
        let told = line_of(log.path(), |line| line.contains(GONE)).await;
        for part in [
            "ERROR",
            "Compare with what the product has published",
            "postrider.db-wal",
        ] {
            assert!(told.contains(part), "{part}: {told}");
        }
        publish(&process, &root, &tenant).await;
        drop(process);
    }
}

/// Whoever could not start has lost nothing: the next one has nothing to miss.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_fails_has_the_next_one_miss_no_log() {
    use rusqlite::config::DbConfig;
    for (spoil, why) in [
        (
            "insert into meta (key, value) values ('filling', 1)",
            "import",
        ),
        ("pragma user_version = 1000", "newer"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        // Killed: its log has what the file lacks.
        drop(serve(directory.path()));
        {
            let database = rusqlite::Connection::open(directory.path().join("postrider.db"));
            let database = database.unwrap();
            // It leaves the log as it finds it.
            let keeps = DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE;
            database.set_db_config(keeps, true).unwrap();
            database.execute_batch(spoil).unwrap();
        }
        for _ in 0..2 {
            let refused = output(&mut serving(directory.path()));
            let told = text(&refused.stderr);
            assert!(!refused.status.success() && told.contains(why), "{told}");
            assert!(!told.contains("write-ahead log is gone"), "{told}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_is_made_up_is_refused_in_the_log_without_its_text() {
    const MADE_UP: &str = "pr_live_7h1sk3y1s0fn0body";
    let directory = tempfile::tempdir().unwrap();
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut command = serving(directory.path());
    // Whatever is told for those who look closely has none of it either.
    command.env("POSTRIDER__LOG__LEVEL", "trace");
    command.stdout(Stdio::piped()).stderr(log.reopen().unwrap());
    let process = greeted(command.spawn().unwrap(), true);
    let bearer = format!("Bearer {MADE_UP}");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = now.unwrap().as_secs().to_string();
    for (path, headers) in [
        ("/v1/keys", &[("authorization", bearer.as_str())][..]),
        (
            "/v2/partners/webhooks",
            &[
                ("x-api-key", MADE_UP),
                ("x-timestamp", now.as_str()),
                ("x-nonce", "1"),
                ("x-signature", "00"),
            ][..],
        ),
    ] {
        let refused = http(process.address, "GET", path, headers, "").await;
        assert_eq!(refused.status, 401, "{refused:?}");
        assert!(!refused.text.contains(MADE_UP), "{refused:?}");
        let id = format!("request.id=\"{}\"", refused.headers["x-request-id"]);
        let told = line_of(log.path(), |line| line.contains(&id)).await;
        // At a level that is told where nothing is set.
        for part in ["INFO", "method=GET", path, "status=401", "key=\"-\""] {
            assert!(told.contains(part), "{part}: {told}");
        }
    }
    let told = std::fs::read_to_string(log.path()).unwrap();
    assert!(!told.contains(MADE_UP), "{told}");
}
