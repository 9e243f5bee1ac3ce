//! What is damaged on disk is found by the server itself, before somebody needs it.

use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use postrider_testkit::{Behaviour, Receiver};
use serde_json::{Value, json};

use crate::binary::{
    Process, by_clock, call, endpoint, logged, output, postrider, publish, serve, serving, tenant,
    text, until,
};
use crate::process::refused;
use crate::support::http;

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
    empty_log(data);
    root
}

/// What is in the log goes into the file, so that damage there is not written over.
fn empty_log(data: &Path) {
    let database = rusqlite::Connection::open(data.join("postrider.db")).unwrap();
    let left: i64 = database
        .query_row("pragma wal_checkpoint(truncate)", [], |row| row.get(0))
        .unwrap();
    assert_eq!(left, 0);
}

/// Overwrites the page with the oldest rows of a table, or its only one.
fn overwrite(data: &Path, table: &str) {
    let file = data.join("postrider.db");
    let database = rusqlite::Connection::open(&file).unwrap();
    let (page, size): (u64, u64) = database
        .query_row(
            "select pageno, pgsize from dbstat where name = ?1 and pagetype = 'leaf' order by path limit 1",
            [table],
            |row| Ok((row.get::<_, i64>(0)?.cast_unsigned(), row.get::<_, i64>(1)?.cast_unsigned())),
        )
        .unwrap();
    drop(database);
    let mut open = std::fs::OpenOptions::new().write(true).open(&file).unwrap();
    open.seek(SeekFrom::Start((page - 1) * size)).unwrap();
    open.write_all(&vec![0xa5; usize::try_from(size).unwrap()])
        .unwrap();
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
    // The newest ones are needed at the start.
    overwrite(data.path(), "event");
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

#[tokio::test]
async fn a_task_that_does_not_read_keeps_nobody_from_starting_or_going_on() {
    let data = tempfile::tempdir().unwrap();
    let process = serve(data.path());
    let root = process.root.clone().unwrap();
    let tenant = tenant(&process, &root, "standard").await;
    let replays = format!("/v1/tenants/{tenant}/replays");
    let mut path = String::new();
    for _ in 0..2 {
        let replay = call(&process, &root, "POST", &replays, json!({})).await;
        path = format!("/v1/replays/{}", replay["id"].as_str().unwrap());
        until(&process, &root, &path, |replay| {
            replay["status"] == "finished"
        })
        .await;
    }
    drop(process);
    // As if it had been stopped meanwhile; and the first is of a kind that nobody knows.
    let database = rusqlite::Connection::open(data.path().join("postrider.db")).unwrap();
    for (sql, rows) in [
        ("update task set state = 0, finished_at = null", 2),
        (
            "update task set kind = 99 where id = (select min(id) from task)",
            1,
        ),
    ] {
        assert_eq!(database.execute(sql, []).unwrap(), rows, "{sql}");
    }
    drop(database);
    let log = tempfile::NamedTempFile::new().unwrap();
    let process = logged(data.path(), log.reopen().unwrap());
    until(&process, &root, &path, |replay| {
        replay["status"] == "finished"
    })
    .await;
    drop(process);
    let log = std::fs::read_to_string(log.path()).unwrap();
    assert!(log.contains("a task cannot be gone on with"), "{log}");
}

#[tokio::test]
async fn rows_that_do_not_read_keep_nobody_from_starting_or_from_the_rows_behind_them() {
    let data = tempfile::tempdir().unwrap();
    let process = serve(data.path());
    let root = process.root.clone().unwrap();
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let first = tenant(&process, &root, "standard").await;
    publish(&process, &root, &first).await;
    let second = tenant(&process, &root, "svix").await;
    endpoint(&process, &root, &second, &receiver.url("/")).await;
    for name in ["oldest", "damaged", "newest"] {
        let key = json!({ "name": name, "tenant": second });
        call(&process, &root, "POST", "/v1/keys", key).await;
    }
    drop(process);
    let database = rusqlite::Connection::open(data.path().join("postrider.db")).unwrap();
    for sql in [
        "update application set settings = '[' where id = (select min(id) from application)",
        "update tenant set live_secret = x'00' where id = (select min(id) from tenant)",
        "update api_key set mode = 7 where name = 'damaged'",
    ] {
        assert_eq!(database.execute(sql, []).unwrap(), 1, "{sql}");
    }
    drop(database);
    let log = tempfile::NamedTempFile::new().unwrap();
    let process = logged(data.path(), log.reopen().unwrap());
    publish(&process, &root, &second).await;
    receiver.wait_for(1).await;
    let path = format!("/v1/deliveries?tenant={second}&status=delivered");
    let is_recorded = |page: &Value| page["data"].as_array().unwrap().len() == 1;
    until(&process, &root, &path, is_recorded).await;
    // Page by page, past the one in the middle.
    let (mut names, mut next) = (Vec::new(), String::new());
    for _ in 0..8 {
        let path = format!("/v1/keys?limit=1{next}");
        let page = call(&process, &root, "GET", &path, Value::Null).await;
        let rows = page["data"].as_array().unwrap().iter();
        names.extend(rows.map(|key| key["name"].as_str().unwrap().to_owned()));
        let Some(cursor) = page["nextCursor"].as_str() else {
            break;
        };
        next = format!("&cursor={cursor}");
    }
    assert_eq!(names[..2], ["newest", "oldest"], "{names:?}");
    drop(process);
    let log = std::fs::read_to_string(log.path()).unwrap();
    assert!(
        log.contains("a stored row cannot be read and is left out"),
        "{log}"
    );
    // How long the damaged application keeps its event nobody knows: the other's goes.
    let clock = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(clock.path(), "+100d").unwrap();
    let mut prune = by_clock(postrider(), clock.path());
    let pruned = output(prune.args(["prune", "--data"]).arg(data.path()));
    let told = text(&pruned.stdout);
    assert!(told.starts_with("1 events, 1 deliveries"), "{pruned:?}");
}

/// The oldest ones: what comes behind them would never be forgotten.
#[tokio::test]
async fn retention_goes_on_behind_a_damaged_page() {
    const EVENTS: usize = 1_500;
    for table in ["event", "delivery", "attempt"] {
        let data = tempfile::tempdir().unwrap();
        let process = serve(data.path());
        let root = process.root.clone().unwrap();
        let receiver = Receiver::start(Behaviour::Status(200)).await;
        let tenant = tenant(&process, &root, "standard").await;
        endpoint(&process, &root, &tenant, &receiver.url("/")).await;
        let batch = json!({ "events": vec![json!({ "type": "a", "data": 1 }); EVENTS / 6] });
        for _ in 0..6 {
            let path = format!("/v1/tenants/{tenant}/events/batch");
            call(&process, &root, "POST", &path, batch.clone()).await;
        }
        receiver.wait_for(EVENTS).await;
        drop(process);
        empty_log(data.path());
        overwrite(data.path(), table);
        let clock = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(clock.path(), "+100d").unwrap();
        let mut prune = by_clock(postrider(), clock.path());
        let pruned = output(prune.args(["prune", "--data"]).arg(data.path()));
        let told = text(&pruned.stdout);
        let events: usize = told
            .split_once(" events")
            .and_then(|(count, _)| count.parse().ok())
            .unwrap_or_else(|| panic!("{table}: {pruned:?}"));
        assert!(
            (EVENTS / 2..EVENTS).contains(&events),
            "{table}: {pruned:?}"
        );
        assert!(told.contains("some of it is damaged"), "{table}: {told}");
    }
}

#[tokio::test]
async fn an_endpoint_that_does_not_read_waits_and_its_neighbours_do_not() {
    let data = tempfile::tempdir().unwrap();
    let process = serve(data.path());
    let root = process.root.clone().unwrap();
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let tenant = tenant(&process, &root, "standard").await;
    for path in ["/damaged", "/well"] {
        endpoint(&process, &root, &tenant, &receiver.url(path)).await;
    }
    drop(process);
    let database = rusqlite::Connection::open(data.path().join("postrider.db")).unwrap();
    let set = |from: &str, to: &str| {
        let sql = "update endpoint set subscription = ?2 where subscription = ?1 and url like '%/damaged'";
        assert_eq!(database.execute(sql, [from, to]).unwrap(), 1);
    };
    set("[\"*\"]", "[\"*");
    let log = tempfile::NamedTempFile::new().unwrap();
    let process = logged(data.path(), log.reopen().unwrap());
    publish(&process, &root, &tenant).await;
    receiver.wait_for(1).await;
    assert_eq!(receiver.requests()[0].target, "/well");
    let path = format!("/v1/tenants/{tenant}/endpoints");
    let listed = call(&process, &root, "GET", &path, Value::Null).await;
    let listed: Vec<_> = listed["data"].as_array().unwrap().iter().collect();
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!(listed[0]["url"], receiver.url("/well"));
    // What is for the damaged one waits until somebody mends it.
    let path = format!("/v1/deliveries?tenant={tenant}&status=pending");
    until(&process, &root, &path, |page| {
        page["data"].as_array().unwrap().len() == 1
    })
    .await;
    set("[\"*", "[\"*\"]");
    receiver.wait_for(2).await;
    assert_eq!(receiver.requests()[1].target, "/damaged");
    drop(process);
    let log = std::fs::read_to_string(log.path()).unwrap();
    assert!(log.contains("an endpoint cannot be read"), "{log}");
}

/// The id of the only tenant.
async fn only_tenant(process: &Process, root: &str) -> String {
    let all = call(process, root, "GET", "/v1/applications", Value::Null).await;
    let application = all["data"][0]["id"].as_str().unwrap();
    let path = format!("/v1/applications/{application}/tenants");
    let all = call(process, root, "GET", &path, Value::Null).await;
    all["data"][0]["id"].as_str().unwrap().to_owned()
}

/// A page that is damaged has rows of one tenant, whose deliveries are due when the server starts: that one has to wait,
/// and all others are served as ever.
async fn damage_costs_its_own_tenant_alone(
    table: &str,
    endpoints: usize,
    siblings: usize,
    is_sent: bool,
) {
    let data = tempfile::tempdir().unwrap();
    let process = serve(data.path());
    let root = process.root.clone().unwrap();
    let struck = Receiver::start(Behaviour::Hang).await;
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let first = tenant(&process, &root, "standard").await;
    for _ in 0..endpoints {
        endpoint(&process, &root, &first, &struck.url("/")).await;
    }
    let all = call(&process, &root, "GET", "/v1/applications", Value::Null).await;
    let application = all["data"][0]["id"].as_str().unwrap();
    let path = format!("/v1/applications/{application}/tenants");
    for _ in 0..siblings {
        call(&process, &root, "POST", &path, json!({ "name": "t" })).await;
    }
    // The last one, so that it is on another page.
    let other = tenant(&process, &root, "vignetim").await;
    endpoint(&process, &root, &other, &receiver.url("/")).await;
    publish(&process, &root, &first).await;
    // Under way when the server is killed, so due at once when it starts.
    struck.wait_for(endpoints).await;
    drop(process);
    empty_log(data.path());
    overwrite(data.path(), table);

    struck.behave(Behaviour::Status(200));
    let process = serve(data.path());
    if is_sent {
        // Some of its endpoints can be read; what they answer is to be recorded with everybody's.
        struck.wait_for(endpoints + 1).await;
    }
    let event = json!({ "type": "order.completed", "data": { "orderId": "1" } });
    let path = format!("/v1/tenants/{other}/events");
    for _ in 0..5 {
        call(&process, &root, "POST", &path, event.clone()).await;
    }
    receiver.wait_for(5).await;
    let path = format!("/v1/deliveries?tenant={other}");
    let are_delivered = |page: &Value| {
        let rows = page["data"].as_array().unwrap();
        rows.len() == 5 && rows.iter().all(|row| row["status"] == "delivered")
    };
    until(&process, &root, &path, are_delivered).await;

    let bearer = format!("Bearer {root}");
    let headers = [
        ("authorization", bearer.as_str()),
        ("content-type", "application/json"),
    ];
    // Nothing was held up meanwhile, and nothing of the others' was refused.
    let told = http(process.address, "GET", "/metrics", &headers, "")
        .await
        .text;
    assert!(told.contains("postrider_commit_failures_total 0"), "{told}");
    let path = format!("/v1/tenants/{first}/events");
    let event = json!({ "type": "a.b", "data": 1 }).to_string();
    let refused = http(process.address, "POST", &path, &headers, event).await;
    assert_eq!(refused.status, 500, "{refused:?}");
    until(&process, &root, "/ready", |ready| ready["damaged"] == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_page_of_endpoints_costs_their_own_tenant_alone() {
    damage_costs_its_own_tenant_alone("endpoint", 150, 0, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_page_of_tenants_costs_those_on_it_alone() {
    damage_costs_its_own_tenant_alone("tenant", 1, 60, false).await;
}

#[tokio::test]
async fn what_a_server_cannot_be_without_is_told_with_what_to_do() {
    // The newest ids are where new ones go on.
    for table in ["endpoint", "tenant", "meta"] {
        let data = tempfile::tempdir().unwrap();
        stopped(data.path(), 3).await;
        overwrite(data.path(), table);
        let told = refused(&mut serving(data.path())).await;
        let file = data.path().join("postrider.db");
        let expected = format!(
            "{} is damaged or not a database; restore it from a backup",
            file.display()
        );
        assert!(told.contains(&expected), "{table}: {told}");
        let doctor = output(postrider().args(["doctor", "--data"]).arg(data.path()));
        let found = format!("{table}: ");
        assert!(text(&doctor.stdout).contains(&found), "{doctor:?}");
    }
}

#[tokio::test]
async fn profiles_that_cannot_be_read_are_told_with_what_to_do() {
    let data = tempfile::tempdir().unwrap();
    stopped(data.path(), 3).await;
    overwrite(data.path(), "profile");
    let told = refused(&mut serving(data.path())).await;
    assert!(
        told.contains("profile")
            && (told.contains("postrider doctor") || told.contains("from a backup")),
        "{told}"
    );
    let doctor = output(postrider().args(["doctor", "--data"]).arg(data.path()));
    assert!(text(&doctor.stdout).contains("profile: "), "{doctor:?}");
}
