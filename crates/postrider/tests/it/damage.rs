//! What is damaged on disk is found by the server itself, before somebody needs it.

use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use postrider_testkit::{Behaviour, Receiver};
use serde_json::{Value, json};

use crate::binary::{
    Process, call, endpoint, logged, output, postrider, publish, serve, tenant, text, until,
};

/// A store with a few events, whose server has left.
async fn stopped(data: &Path, events: usize) -> String {
    let process = serve(data);
    let root = process.root.clone().unwrap();
    let tenant = tenant(&process, &root, "standard").await;
    endpoint(&process, &root, &tenant, "http://127.0.0.1:9/").await;
    for _ in 0..events {
        publish(&process, &root, &tenant).await;
    }
    let ready = call(&process, &root, "GET", "/ready", Value::Null).await;
    assert_eq!(ready["damaged"], json!(0), "{ready}");
    drop(process);
    // What is in the log goes into the file, so that damage there is not written over.
    let database = rusqlite::Connection::open(data.join("postrider.db")).unwrap();
    let left: i64 = database
        .query_row("pragma wal_checkpoint(truncate)", [], |row| row.get(0))
        .unwrap();
    assert_eq!(left, 0);
    root
}

/// What a server's log tells of the one thing that it finds damaged.
async fn found(data: &Path, root: &str) -> String {
    let log = tempfile::NamedTempFile::new().unwrap();
    let process = logged(data, log.reopen().unwrap());
    until(&process, root, "/ready", |ready| ready["damaged"] == 1).await;
    drop(process);
    let log = std::fs::read_to_string(log.path()).unwrap();
    let mut lines = log.lines();
    let told = lines.find(|line| line.contains("cannot be read; postrider doctor"));
    told.unwrap().to_owned()
}

#[tokio::test]
async fn a_row_that_does_not_read_is_found_and_told_with_its_table() {
    let data = tempfile::tempdir().unwrap();
    let root = stopped(data.path(), 3).await;
    let database = rusqlite::Connection::open(data.path().join("postrider.db")).unwrap();
    let sql = "update endpoint set subscription = '[\"a'";
    assert_eq!(database.execute(sql, []).unwrap(), 1);
    drop(database);
    let told = found(data.path(), &root).await;
    assert!(
        told.contains("endpoint") && told.contains("subscription"),
        "{told}"
    );
}

#[tokio::test]
async fn a_page_that_is_overwritten_is_found_and_the_rest_is_looked_at() {
    let data = tempfile::tempdir().unwrap();
    let root = stopped(data.path(), 300).await;
    let file = data.path().join("postrider.db");
    let database = rusqlite::Connection::open(&file).unwrap();
    let (page, size): (u64, u64) = database
        .query_row(
            // The oldest events; the newest are needed at the start.
            "select pageno, pgsize from dbstat where name = 'event' and pagetype = 'leaf' order by path limit 1",
            [],
            |row| Ok((row.get::<_, i64>(0)?.cast_unsigned(), row.get::<_, i64>(1)?.cast_unsigned())),
        )
        .unwrap();
    drop(database);
    let mut open = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(&file)
        .unwrap();
    open.seek(SeekFrom::Start((page - 1) * size)).unwrap();
    let mut before = vec![0; 16];
    open.read_exact(&mut before).unwrap();
    open.seek(SeekFrom::Start((page - 1) * size)).unwrap();
    open.write_all(&vec![0xa5; usize::try_from(size).unwrap()])
        .unwrap();
    drop(open);
    let told = found(data.path(), &root).await;
    assert!(
        told.contains("event") && told.contains("malformed"),
        "{told}"
    );
    let doctor = output(postrider().args(["doctor", "--data"]).arg(data.path()));
    assert!(text(&doctor.stdout).contains("event: "), "{doctor:?}");
}

#[tokio::test]
async fn what_was_made_under_an_unknown_version_holds_nothing_up() {
    let data = tempfile::tempdir().unwrap();
    let root = stopped(data.path(), 20).await;
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let database = rusqlite::Connection::open(data.path().join("postrider.db")).unwrap();
    let url = receiver.url("/");
    for (sql, rows) in [
        ("update delivery set profile = 4711, due_at = 1", 20),
        (&format!("update endpoint set url = '{url}'"), 1),
    ] {
        assert_eq!(database.execute(sql, []).unwrap(), rows, "{sql}");
    }
    drop(database);
    let process = serve(data.path());
    let customer = only_tenant(&process, &root).await;
    let customer = customer.as_str();
    publish(&process, &root, customer).await;
    receiver.wait_for(1).await;
    let path = format!("/v1/deliveries?tenant={customer}&status=pending");
    let others = |page: &Value| page["data"].as_array().is_some_and(|all| all.len() == 20);
    until(&process, &root, &path, others).await;
}

/// The id of the only tenant.
async fn only_tenant(process: &Process, root: &str) -> String {
    let all = call(process, root, "GET", "/v1/applications", Value::Null).await;
    let application = all["data"][0]["id"].as_str().unwrap();
    let path = format!("/v1/applications/{application}/tenants");
    let all = call(process, root, "GET", &path, Value::Null).await;
    all["data"][0]["id"].as_str().unwrap().to_owned()
}
