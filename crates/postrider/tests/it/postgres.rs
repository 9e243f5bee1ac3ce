//! A server whose store is PostgreSQL: taking over from another one, and a database that goes away.

mod silent;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use postrider_testkit::{Behaviour, Postgres, Receiver};
use serde_json::{Value, json};

use crate::binary::{
    Process, call, endpoint, greeted, in_postgres, output, postrider, publish, serve, serving,
    tenant, text, until,
};
use crate::support::http;

/// A directory for a node of a database, with the master key that all its nodes have.
fn node(directory: &Path, name: &str, url: &str, of: Option<&Path>) -> std::path::PathBuf {
    let data = directory.join(name);
    std::fs::create_dir(&data).unwrap();
    in_postgres(&data, url);
    if let Some(first) = of {
        std::fs::copy(first.join("master.key"), data.join("master.key")).unwrap();
    }
    data
}

/// Starts a server that must wait, and returns when it says so.
fn waiting(data: &Path) -> Child {
    let mut child = serving(data)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
    let told = log.find_map(|line| {
        line.ok()
            .filter(|line| line.contains("waiting to take over"))
    });
    assert!(told.is_some(), "it does not wait");
    // What it says later goes nowhere, but it can say it.
    std::thread::spawn(move || log.for_each(drop));
    child
}

/// Asks a server that may have no store just now.
async fn ask(process: &Process, key: &str, method: &str, path: &str, body: &str) -> (u16, String) {
    let bearer = format!("Bearer {key}");
    let headers = [
        ("authorization", bearer.as_str()),
        ("content-type", "application/json"),
    ];
    let reply = http(process.address, method, path, &headers, body.to_owned()).await;
    let code = if reply.status < 300 {
        String::new()
    } else {
        reply.code()
    };
    (reply.status, code)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_server_waits_and_takes_over_what_the_first_left() {
    let directory = tempfile::tempdir().unwrap();
    let url = Postgres::shared().database();
    let receiver = Receiver::start(Behaviour::Hang).await;
    let data = node(directory.path(), "first", &url, None);
    let mut first = serve(&data);
    let root = first.root.clone().unwrap();
    let customer = tenant(&first, &root, "standard").await;
    endpoint(&first, &root, &customer, &receiver.url("/")).await;
    publish(&first, &root, &customer).await;
    receiver.wait_for(1).await;
    let second = waiting(&node(directory.path(), "second", &url, Some(&data)));
    receiver.behave(Behaviour::Status(200));
    first.child.kill().unwrap();
    first.child.wait().unwrap();
    let second = greeted(second, false);
    // What was under way when the first ended has no record, and is sent again.
    let path = format!("/v1/deliveries?tenant={customer}&status=delivered");
    let one = |page: &Value| page["data"].as_array().is_some_and(|rows| rows.len() == 1);
    until(&second, &root, &path, one).await;
    assert_eq!(receiver.requests().len(), 2);
    let made = output(
        postrider()
            .arg("root-key")
            .env("POSTRIDER__STORE__URL", &url),
    );
    assert!(
        text(&made.stderr).contains("is in use by another postrider"),
        "{}",
        text(&made.stderr)
    );
    let planned = output(
        postrider()
            .args(["prune", "--plan"])
            .env("POSTRIDER__STORE__URL", &url),
    );
    assert!(planned.status.success(), "{}", text(&planned.stderr));
    assert!(
        text(&planned.stdout).starts_with("0 events"),
        "{}",
        text(&planned.stdout)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_ends_owns_its_database_until_all_is_recorded() {
    const SLOW: Duration = Duration::from_secs(6);
    let directory = tempfile::tempdir().unwrap();
    let url = Postgres::shared().database();
    let receiver = Receiver::start(Behaviour::SlowStatus(SLOW, 200)).await;
    let data = node(directory.path(), "first", &url, None);
    let mut first = serve(&data);
    let root = first.root.clone().unwrap();
    let customer = tenant(&first, &root, "standard").await;
    endpoint(&first, &root, &customer, &receiver.url("/")).await;
    publish(&first, &root, &customer).await;
    receiver.wait_for(1).await;
    let id = first.child.id().to_string();
    let told = std::process::Command::new("kill")
        .args(["-TERM", &id])
        .status();
    assert!(told.unwrap().success());
    // Whoever waits would take one without a sign of life for one that stands still.
    let beats = "do $$ declare seen text; begin
                   perform pg_sleep(1);
                   select value::text into seen from postrider.meta where key = 'beat';
                   perform pg_sleep(2.5);
                   if seen = (select value::text from postrider.meta where key = 'beat') then raise 'no sign of life'; end if;
                 end $$";
    assert!(Postgres::shared().execute(&url, beats));
    assert!(first.child.try_wait().unwrap().is_none(), "it has ended");
    assert!(first.child.wait().unwrap().success());
    assert_eq!(receiver.requests().len(), 1);
    let second = greeted(
        serving(&data).stdout(Stdio::piped()).spawn().unwrap(),
        false,
    );
    let path = format!("/v1/deliveries?tenant={customer}&status=delivered");
    let delivered = call(&second, &root, "GET", &path, Value::Null).await;
    assert_eq!(delivered["data"].as_array().map(Vec::len), Some(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_whose_database_was_taken_over_ends() {
    let directory = tempfile::tempdir().unwrap();
    let url = Postgres::shared().database();
    let data = node(directory.path(), "first", &url, None);
    let mut first = serve(&data);
    let second = waiting(&node(directory.path(), "second", &url, Some(&data)));
    let cut = "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'postrider' and datname = current_database()";
    std::process::Command::new("kill")
        .args(["-STOP", &first.child.id().to_string()])
        .status()
        .unwrap();
    // It cannot take the lock back before the other has it.
    assert!(Postgres::shared().execute(&url, cut));
    let second = greeted(second, false);
    std::process::Command::new("kill")
        .args(["-CONT", &first.child.id().to_string()])
        .status()
        .unwrap();
    let ended = first.child.wait().unwrap();
    assert!(!ended.success(), "{ended}");
    let ready = http(second.address, "GET", "/ready", &[], "").await;
    assert_eq!(ready.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_goes_away_costs_nothing_that_was_acknowledged() {
    let mut server = Postgres::start();
    let directory = tempfile::tempdir().unwrap();
    let data = node(directory.path(), "only", &server.database(), None);
    let receiver = Receiver::start(Behaviour::SlowStatus(Duration::from_millis(300), 200)).await;
    let process = serve(&data);
    let root = process.root.clone().unwrap();
    let customer = tenant(&process, &root, "standard").await;
    endpoint(&process, &root, &customer, &receiver.url("/")).await;
    for _ in 0..5 {
        publish(&process, &root, &customer).await;
    }
    receiver.wait_for(1).await;
    server.crash();
    let path = format!("/v1/tenants/{customer}/events");
    let event = json!({ "type": "a", "data": 1 }).to_string();
    let refused = ask(&process, &root, "POST", &path, &event).await;
    assert!(
        refused == (503, "store_unavailable".to_owned())
            || refused == (503, "outcome_unknown".to_owned()),
        "{refused:?}"
    );
    let mut ready = 200;
    while ready != 503 {
        ready = http(process.address, "GET", "/ready", &[], "").await.status;
    }
    server.start_again();
    while ask(&process, &root, "POST", &path, &event).await.0 != 202 {}
    while http(process.address, "GET", "/ready", &[], "").await.status != 200 {}
    let pending = format!("/v1/deliveries?tenant={customer}&status=pending&limit=1");
    let none = |page: &Value| page["data"].as_array().is_some_and(Vec::is_empty);
    until(&process, &root, &pending, none).await;
    // Five before, and at least the one that was accepted after.
    let delivered = format!("/v1/deliveries?tenant={customer}&status=delivered");
    let page = call(&process, &root, "GET", &delivered, Value::Null).await;
    assert!(page["data"].as_array().unwrap().len() >= 6, "{page}");
}

#[test]
fn a_root_key_is_not_made_in_a_database_without_a_store() {
    let mut command = postrider();
    command.arg("root-key");
    command.env("POSTRIDER__STORE__URL", Postgres::shared().database());
    let made = output(&mut command);
    let told = text(&made.stderr);
    assert!(
        !made.status.success() && told.contains("has no Postrider store"),
        "{told}"
    );
}

#[test]
fn what_cannot_be_used_is_told_with_what_to_do() {
    let tried = |name: &str, value: &str, more: &[(&str, &str)]| {
        let directory = tempfile::tempdir().unwrap();
        let mut command = postrider();
        command.args(["serve", "--listen", "127.0.0.1:0", "--data"]);
        command.arg(directory.path()).env(name, value);
        command.envs(more.iter().copied());
        let output = output(&mut command);
        assert!(!output.status.success());
        text(&output.stderr)
    };
    let url = "POSTRIDER__STORE__URL";
    assert!(tried(url, "postgres://127.0.0.1/", &[]).contains("it names no database"));
    let secret = "postgres://postgres:s3cret@127.0.0.1:1/postrider";
    let told = tried(url, secret, &[]);
    assert!(
        told.contains("cannot use the database postrider at 127.0.0.1"),
        "{told}"
    );
    assert!(!told.contains("s3cret"), "{told}");
    let told = tried(
        url,
        "postgres://postgres:s3@cret@127.0.0.1:1/postrider",
        &[],
    );
    assert!(
        told.contains("write %40") && !told.contains("cret"),
        "{told}"
    );
    let bytes = [("POSTRIDER__STORE__MAX_BYTES", "1000000")];
    assert!(
        tried(url, secret, &bytes).contains("store.max_bytes is for a database in store.directory")
    );
    let file = tried("POSTRIDER__STORE__PASSWORD_FILE", "/nowhere", &[]);
    assert!(
        file.contains("store.password_file is for the database of store.url"),
        "{file}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_database_that_is_back_has_not_recorded_is_sent_again() {
    let directory = tempfile::tempdir().unwrap();
    let url = Postgres::shared().database();
    let server = serve(&node(directory.path(), "a", &url, None));
    let root = server.root.clone().unwrap();
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let tenant = tenant(&server, &root, "standard").await;
    endpoint(&server, &root, &tenant, &receiver.url("/")).await;
    publish(&server, &root, &tenant).await;
    receiver.wait_for(1).await;
    let delivered = format!("/v1/deliveries?tenant={tenant}&status=delivered");
    until(&server, &root, &delivered, |listed| {
        listed["data"][0].is_object()
    })
    .await;
    // A standby that had not received the record, and took the place of the one that had.
    let sql = "delete from postrider.attempt; update postrider.delivery set state = 0, attempts = 0, completed_at = null;
               select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'postrider' and datname = current_database()";
    assert!(Postgres::shared().execute(&url, sql));
    let requests = receiver.wait_for(2).await;
    assert_eq!(
        requests[0].headers["webhook-id"],
        requests[1].headers["webhook-id"]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_whose_first_attempt_a_database_has_lost_ends_all_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let url = Postgres::shared().database();
    let server = serve(&node(directory.path(), "a", &url, None));
    let root = server.root.clone().unwrap();
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    receiver.script([Behaviour::Status(500)]);
    let tenant = tenant(&server, &root, "standard").await;
    endpoint(&server, &root, &tenant, &receiver.url("/")).await;
    publish(&server, &root, &tenant).await;
    receiver.wait_for(1).await;
    let list = format!("/v1/deliveries?tenant={tenant}");
    until(&server, &root, &list, |listed| {
        listed["data"][0]["attemptsMade"] == 1
    })
    .await;
    // The lane waits for the time of the second attempt.
    let sql = "delete from postrider.attempt; update postrider.delivery set attempts = 0, series_attempts = 0;
               select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'postrider' and datname = current_database()";
    assert!(Postgres::shared().execute(&url, sql));
    receiver.wait_for(2).await;
    let delivered = format!("/v1/deliveries?tenant={tenant}&status=delivered");
    until(&server, &root, &delivered, |listed| {
        listed["data"][0].is_object()
    })
    .await;
}

/// A change whose answer got lost, and one that a standby had not received: what is known of either is not true any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_database_that_is_back_says_holds_and_not_what_was_known() {
    let directory = tempfile::tempdir().unwrap();
    let url = Postgres::shared().database();
    let server = serve(&node(directory.path(), "a", &url, None));
    let root = server.root.clone().unwrap();
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let tenant = tenant(&server, &root, "standard").await;
    endpoint(&server, &root, &tenant, &receiver.url("/")).await;
    publish(&server, &root, &tenant).await;
    receiver.wait_for(1).await;
    let new = json!({ "name": "k", "tenant": tenant });
    let key = call(&server, &root, "POST", "/v1/keys", new).await;
    let customers = key["key"].as_str().unwrap();
    let own = format!("/v1/tenants/{tenant}");
    assert_eq!(ask(&server, customers, "GET", &own, "").await.0, 200);
    let listed = call(
        &server,
        &root,
        "GET",
        &format!("{own}/endpoints"),
        Value::Null,
    )
    .await;
    let path = format!(
        "/v1/endpoints/{}",
        listed["data"][0]["id"].as_str().unwrap()
    );
    call(&server, &root, "PATCH", &path, json!({ "active": false })).await;
    // Its lane knows that it is closed: this is not sent.
    publish(&server, &root, &tenant).await;
    let sql = "delete from postrider.api_key where name = 'k'; update postrider.endpoint set disabled_reason = null, disabled_at = null;
               select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'postrider' and datname = current_database()";
    assert!(Postgres::shared().execute(&url, sql));
    // It is there again when something is accepted.
    let events = format!("/v1/tenants/{tenant}/events");
    let event = json!({ "type": "a", "data": 1 }).to_string();
    let mut tries = 0;
    while ask(&server, &root, "POST", &events, &event).await.0 != 202 {
        tries += 1;
        assert!(tries < 600, "it does not come back");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    receiver.wait_for(2).await;
    let refused = ask(&server, customers, "GET", &own, "").await;
    assert_eq!(refused, (401, "key_unknown".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_moves_into_postgres_and_back_with_what_waits_in_it() {
    let (here, back) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let receiver = Receiver::start(Behaviour::Hang).await;
    let file = here.path().join("data");
    std::fs::create_dir(&file).unwrap();
    let spawned = |data: &Path, url: Option<&str>| {
        let mut command = postrider();
        command.args(["serve", "--dev", "--listen", "127.0.0.1:0", "--data"]);
        command
            .arg(data)
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        if let Some(url) = url {
            command.env("POSTRIDER__STORE__URL", url);
        }
        command.spawn().unwrap()
    };
    let first = greeted(spawned(&file, None), true);
    let root = first.root.clone().unwrap();
    let customer = tenant(&first, &root, "standard").await;
    endpoint(&first, &root, &customer, &receiver.url("/")).await;
    publish(&first, &root, &customer).await;
    receiver.wait_for(1).await;
    let url = Postgres::shared().database();
    let moved = |verb: &str, data: &Path| {
        let mut command = postrider();
        command.arg(verb).arg("--data").arg(data);
        output(command.env("POSTRIDER__STORE__URL", &url))
    };
    let refused = moved("import", &file);
    assert!(
        text(&refused.stderr).contains("is in use by another postrider process"),
        "{}",
        text(&refused.stderr)
    );
    let mut first = first;
    first.child.kill().unwrap();
    first.child.wait().unwrap();
    let imported = moved("import", &file);
    assert!(imported.status.success(), "{}", text(&imported.stderr));
    assert!(
        text(&imported.stdout).contains("counted table by table"),
        "{}",
        text(&imported.stdout)
    );
    let planned = moved("migrate", &file);
    assert!(
        text(&planned.stdout).contains("nothing is to be done"),
        "{planned:?}"
    );
    let behind = "update postrider.meta set value = 8 where key = 'schema'";
    assert!(Postgres::shared().execute(&url, behind));
    let planned = output(
        postrider()
            .args(["migrate", "--plan", "--data"])
            .arg(&file)
            .env("POSTRIDER__STORE__URL", &url),
    );
    assert!(
        text(&planned.stdout).contains("  9  Which endpoints fail"),
        "{planned:?}"
    );
    let present = "update postrider.meta set value = 13 where key = 'schema'";
    assert!(Postgres::shared().execute(&url, present));
    let again = moved("import", &file);
    assert!(
        text(&again.stderr).contains("has a store already"),
        "{}",
        text(&again.stderr)
    );
    receiver.behave(Behaviour::Status(200));
    let mut second = greeted(spawned(&file, Some(&url)), false);
    let path = format!("/v1/deliveries?tenant={customer}&status=delivered");
    let delivered = |count: usize| {
        move |page: &Value| {
            page["data"]
                .as_array()
                .is_some_and(|rows| rows.len() == count)
        }
    };
    until(&second, &root, &path, delivered(1)).await;
    publish(&second, &root, &customer).await;
    until(&second, &root, &path, delivered(2)).await;
    second.child.kill().unwrap();
    second.child.wait().unwrap();

    let target = back.path().join("data");
    std::fs::create_dir(&target).unwrap();
    std::fs::copy(file.join("master.key"), target.join("master.key")).unwrap();
    // A product publishes although no server runs.
    let name = "update postrider.tenant set external_id = 'ada'";
    assert!(Postgres::shared().execute(&url, name));
    let application = "(select name from postrider.application)";
    let submit = format!("select postrider.publish({application}, 'ada', 'a.b', '1')");
    assert!(Postgres::shared().execute(&url, &submit));
    let exported = moved("export", &target);
    assert!(
        !Postgres::shared().execute(&url, &submit),
        "nobody would look there"
    );
    assert!(exported.status.success(), "{}", text(&exported.stderr));
    let third = greeted(spawned(&target, None), false);
    until(&third, &root, &path, delivered(3)).await;
    publish(&third, &root, &customer).await;
    until(&third, &root, &path, delivered(4)).await;
    assert_eq!(
        receiver.requests().len(),
        5,
        "the first one twice: it was under way"
    );
}
