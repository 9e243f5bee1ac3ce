//! Deleting a tenant or an application with all that is its; and keys that end.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use postrider_core::Timestamp;
use postrider_testkit::{Behaviour, Receiver};
use serde_json::{Value, json};

use crate::binary::{call, endpoint, logged, publish, serve, tenant, until};
use crate::pages::browser::Browser;
use crate::support::{TestServer, id, text};

const NAME: &str = "ada-lovelace-of-marylebone";

/// How a deletion stands, once it has ended.
async fn ended(server: &TestServer, deletion: &Value) -> Value {
    let path = format!("/v1/deletions/{}", id(deletion));
    server
        .until(&path, |task| task["status"] == "finished")
        .await
}

#[tokio::test]
async fn a_deleted_tenant_is_gone_at_once_and_then_all_that_it_had() {
    let server = TestServer::start().await;
    let (receiver, hanging) = (
        Receiver::start(Behaviour::Status(200)).await,
        Receiver::start(Behaviour::Hang).await,
    );
    let application = server.application("shop", "standard").await;
    let (leaves, stays) = (
        server.tenant_of(&application).await,
        server.tenant_of(&application).await,
    );
    for tenant in [&leaves, &stays] {
        server.endpoint(tenant, &receiver.url("/")).await;
    }
    let slow = id(&server.endpoint(&leaves, &hanging.url("/")).await);
    let new = json!({ "name": "k", "tenant": leaves });
    let key = server.good("POST", "/v1/keys", new).await;
    let own = text(&key, "key").to_owned();
    let new = json!({ "name": "p", "application": application });
    let product = server.good("POST", "/v1/keys", new).await;
    let product = text(&product, "key").to_owned();
    for tenant in [&leaves, &stays] {
        server
            .publish(tenant, "order.created", json!({ "name": NAME }))
            .await;
    }
    receiver.wait_for(2).await;
    hanging.wait_for(1).await;

    let path = format!("/v1/tenants/{leaves}");
    let refused = server.call_as(&own, "DELETE", &path, Value::Null).await;
    assert_eq!(refused.code(), "scope_insufficient");
    let deletion = server.call_as(&product, "DELETE", &path, Value::Null).await;
    assert_eq!(deletion.status, 202, "{deletion:?}");
    let deletion = deletion.json();
    assert_eq!(deletion["tenant"], json!(leaves));

    // Nobody finds it any more, and its key opens nothing.
    for (key, path) in [
        (&product, path.clone()),
        (&product, format!("{path}/events")),
    ] {
        let gone = server.call_as(key, "GET", &path, Value::Null).await;
        assert_eq!(gone.code(), "not_found", "{path}");
    }
    let event = json!({ "type": "order.created", "data": 1 });
    let events = format!("{path}/events");
    let gone = server
        .call_as(&product, "POST", &events, event.clone())
        .await;
    assert_eq!(gone.code(), "not_found");
    let gone = server
        .call_as(&own, "GET", "/v1/deliveries", Value::Null)
        .await;
    assert_eq!(gone.code(), "key_unknown");
    let again = server.call_as(&product, "DELETE", &path, Value::Null).await;
    assert_eq!(again.code(), "not_found");

    let task = ended(&server, &deletion).await;
    assert!(task["erased"].as_u64().unwrap() >= 5, "{task}");
    let gone = server
        .call("GET", &format!("/v1/endpoints/{slow}"), Value::Null)
        .await;
    assert_eq!(gone.code(), "not_found");
    let left = server.good("GET", "/v1/deliveries", Value::Null).await;
    let owners = left["data"].as_array().unwrap().iter();
    let owners: Vec<&str> = owners.map(|row| text(row, "tenant")).collect();
    assert_eq!(owners, [stays.as_str()]);
    let log = format!("/v1/audit?subject={leaves}");
    let log = server.good("GET", &log, Value::Null).await;
    let rows = log["data"].as_array().unwrap();
    assert_eq!(rows.len(), 1, "who deleted it is kept: {log}");
    assert_eq!(
        (&rows[0]["action"], &rows[0]["before"]),
        (&json!("tenant.deleted"), &Value::Null)
    );

    // The others have what they had, and go on.
    let event = server.publish(&stays, "order.created", json!(2)).await;
    receiver.wait_for(3).await;
    server.finished(&format!("event={}", id(&event)), 1).await;

    // The same for all of the application; then no file of the store has a word of it.
    let path = format!("/v1/applications/{application}");
    let refused = server.call_as(&product, "DELETE", &path, Value::Null).await;
    assert_eq!(refused.code(), "scope_insufficient");
    let deletion = server.good("DELETE", &path, Value::Null).await;
    ended(&server, &deletion).await;
    let gone = server.call_as(&product, "GET", &path, Value::Null).await;
    assert_eq!(gone.code(), "key_unknown");
    let left = server.good("GET", "/v1/deliveries", Value::Null).await;
    assert_eq!(left["data"], json!([]));
    // Its log is emptied some seconds later, though nobody writes any more.
    let data = server.directory.path().join("data");
    let mut found = files_with(&data, NAME);
    for _ in 0..300 {
        if found.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        found = files_with(&data, NAME);
    }
    assert_eq!(found, [] as [PathBuf; 0], "what is erased is still there");
    server.application("shop", "standard").await;
}

/// The files of a store that have a word.
fn files_with(data: &Path, word: &str) -> Vec<PathBuf> {
    let files = std::fs::read_dir(data).unwrap();
    let mut files: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
    files.retain(|file| {
        let bytes = std::fs::read(file).unwrap();
        let mut windows = bytes.windows(word.len());
        windows.any(|window| window == word.as_bytes())
    });
    files
}

#[tokio::test]
async fn what_waits_to_be_erased_is_not_found() {
    let server = TestServer::start().await;
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let (large, small) = (
        server.application("large", "standard").await,
        server.application("small", "standard").await,
    );
    let many = server.tenant_of(&large).await;
    let batch = json!({ "events": vec![json!({ "type": "a", "data": 1 }); 100] });
    for _ in 0..30 {
        let path = format!("/v1/tenants/{many}/events/batch");
        server.good("POST", &path, batch.clone()).await;
    }
    let few = server.tenant_of(&small).await;
    server.endpoint(&few, &receiver.url("/")).await;
    let event = id(&server.publish(&few, "a", json!({ "name": NAME })).await);
    server.finished(&format!("event={event}"), 1).await;
    let looks = json!({ "name": "k", "application": small });
    let looks = server.good("POST", "/v1/keys", looks).await;
    let mut visitor = Browser::sign_in(&server, text(&looks, "key")).await;
    let page = format!("/events/{event}");
    assert_eq!(visitor.send("GET", &page, &[]).await.status, 200);

    // One deletion after the other: while the first goes on, the second has only begun.
    for application in [&large, &small] {
        let path = format!("/v1/applications/{application}");
        server.good("DELETE", &path, Value::Null).await;
    }
    let seen = server
        .call("GET", &format!("/v1/events/{event}"), Value::Null)
        .await;
    assert_eq!(seen.code(), "not_found", "{}", seen.text);
    let listed = server.good("GET", "/v1/deliveries", Value::Null).await;
    assert_eq!(listed["data"], json!([]));
    let visit = visitor.send("GET", &page, &[]).await;
    assert_ne!(visit.status, 200, "{}", visit.text);
}

#[tokio::test]
async fn a_deletion_goes_on_after_the_process_was_killed() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path();
    let process = serve(data);
    let root = process.root.clone().unwrap();
    let tenant = tenant(&process, &root, "standard").await;
    endpoint(&process, &root, &tenant, "http://127.0.0.1:9/").await;
    let event = json!({ "type": "a.b", "data": 1 });
    let batch = json!({ "events": vec![event; 1_000] });
    for _ in 0..3 {
        let path = format!("/v1/tenants/{tenant}/events/batch");
        call(&process, &root, "POST", &path, batch.clone()).await;
    }
    let path = format!("/v1/tenants/{tenant}");
    let deletion = call(&process, &root, "DELETE", &path, Value::Null).await;
    drop(process);
    let database = rusqlite::Connection::open(data.join("postrider.db")).unwrap();
    let sql = "select count(*) from delivery";
    let left: i64 = database.query_row(sql, [], |row| row.get(0)).unwrap();
    assert!(left > 0, "it was killed too late");
    drop(database);

    let process = serve(data);
    let path = format!("/v1/deletions/{}", id(&deletion));
    until(&process, &root, &path, |task| task["status"] == "finished").await;
    let left = call(&process, &root, "GET", "/v1/deliveries", Value::Null).await;
    assert_eq!(left["data"], json!([]));
}

#[tokio::test]
async fn nothing_goes_on_for_what_was_deleted_while_attempts_were_under_way() {
    let directory = tempfile::tempdir().unwrap();
    let slow = Duration::from_secs(2);
    let receiver = Receiver::start(Behaviour::SlowStatus(slow, 200)).await;
    let log = directory.path().join("log");
    let data = directory.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let process = logged(&data, std::fs::File::create(&log).unwrap());
    let root = process.root.clone().unwrap();
    // A tenant of its own, one that goes with its application, and one that stays.
    let mut owners = Vec::new();
    for profile in ["standard", "stripe", "github"] {
        let tenant = tenant(&process, &root, profile).await;
        endpoint(&process, &root, &tenant, &receiver.url("/")).await;
        owners.push(tenant);
    }
    for tenant in &owners[..2] {
        publish(&process, &root, tenant).await;
    }
    receiver.wait_for(2).await;
    let tenant = format!("/v1/tenants/{}", owners[0]);
    let other = format!("/v1/tenants/{}", owners[1]);
    let other = call(&process, &root, "GET", &other, Value::Null).await;
    let application = format!("/v1/applications/{}", text(&other, "application"));
    for path in [tenant, application] {
        let deletion = call(&process, &root, "DELETE", &path, Value::Null).await;
        let path = format!("/v1/deletions/{}", id(&deletion));
        until(&process, &root, &path, |task| task["status"] == "finished").await;
    }
    // What stays is sent twice, one after the other: both attempts above have ended long before, and what would
    // go on for them had its time.
    let delivered = |rows: &Value| {
        let mut rows = rows["data"].as_array().unwrap().iter();
        rows.all(|row| row["status"] == "delivered")
    };
    for _ in 0..2 {
        publish(&process, &root, &owners[2]).await;
        until(&process, &root, "/v1/deliveries", delivered).await;
    }
    let told = std::fs::read_to_string(&log).unwrap();
    let gone = told.matches("was deleted while an attempt was made");
    assert_eq!(gone.count(), 2, "{told}");
    assert!(!told.contains("WARN") && !told.contains("ERROR"), "{told}");
    let ready = call(&process, &root, "GET", "/ready", Value::Null).await;
    assert_eq!(ready["setAside"], 0, "{ready}");
}

#[tokio::test]
async fn a_key_opens_nothing_after_its_end() {
    let server = TestServer::start().await;
    let tenant = server.tenant("standard").await;
    let path = format!("/v1/tenants/{tenant}");
    for end in ["2020-01-01T00:00:00Z", "tomorrow"] {
        let new = json!({ "name": "k", "tenant": tenant, "expiresAt": end });
        let refused = server.call("POST", "/v1/keys", new).await;
        assert_eq!(refused.json()["field"], "expiresAt", "{refused:?}");
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let soon = now.unwrap() + Duration::from_secs(2);
    let soon = Timestamp::from_micros(soon.as_micros().try_into().unwrap());
    let new = json!({ "name": "k", "tenant": tenant, "expiresAt": soon.to_string() });
    let made = server.good("POST", "/v1/keys", new).await;
    assert!(made["expiresAt"].is_string(), "{made}");
    let key = text(&made, "key");
    let open = server.call_as(key, "GET", &path, Value::Null).await;
    assert_eq!(open.status, 200, "{open:?}");
    let mut last = open;
    for _ in 0..200 {
        if last.status == 401 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        last = server.call_as(key, "GET", &path, Value::Null).await;
    }
    assert_eq!(last.code(), "key_expired");
    let change = format!("/v1/keys/{}", id(&made));
    server
        .good("PATCH", &change, json!({ "expiresAt": null }))
        .await;
    let open = server.call_as(key, "GET", &path, Value::Null).await;
    assert_eq!(open.status, 200, "{open:?}");

    // A root key that ends is not the one with which the server stays manageable.
    let keys = server.good("GET", "/v1/keys", Value::Null).await;
    let keys = keys["data"].as_array().unwrap().iter();
    let root = keys.filter(|key| key["scope"] == "root").map(id).next();
    let root = format!("/v1/keys/{}", root.unwrap());
    let late = json!({ "expiresAt": "2099-01-01T00:00:00Z" });
    let refused = server.call("PATCH", &root, late).await;
    assert_eq!(refused.status, 409, "{refused:?}");
}
