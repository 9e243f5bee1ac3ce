//! `select postrider.publish(…)`: events that come with a product's own transaction, or not at all.

use std::collections::BTreeSet;
use std::time::Duration;

use postrider_testkit::{Behaviour, Postgres, Receiver};
use serde_json::{Value, json};

use crate::binary::{call, greeted, in_postgres, serving};
use crate::support::{TestServer, id};

/// A server on a database of its own, and the database.
async fn on_a_database() -> (TestServer, String) {
    let url = Postgres::shared().database();
    let of_server = url.clone();
    let server = TestServer::with(|config| config.store.url = Some(of_server)).await;
    (server, url)
}

/// A tenant whose product calls it `ada`, of an application `shop`.
async fn ada(server: &TestServer, settings: Value) -> (String, String) {
    let new = json!({ "name": "shop", "profile": "standard", "settings": settings });
    let application = id(&server.good("POST", "/v1/applications", new).await);
    let path = format!("/v1/applications/{application}/tenants");
    let tenant = json!({ "name": "Ada Ltd", "externalId": "ada" });
    (id(&server.good("POST", &path, tenant).await), application)
}

/// Asks until a condition in SQL holds.
async fn holds(url: &str, condition: &str) {
    let must = format!("select 1 / (case when {condition} then 1 else 0 end)");
    for _ in 0..400 {
        if Postgres::shared().execute(url, &must) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("never {condition}");
}

fn numbers(receiver: &Receiver) -> Vec<i64> {
    let of = |body: &[u8]| {
        let body: Value = serde_json::from_slice(body).unwrap();
        body["data"]["n"].as_i64().unwrap()
    };
    let requests = receiver.requests();
    requests.iter().map(|request| of(&request.body)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_comes_with_the_transaction_that_it_tells_of() {
    let (server, url) = on_a_database().await;
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let (tenant, _) = ada(&server, json!({})).await;
    // Otherwise what comes side by side may overtake.
    let ordered = json!({ "url": receiver.url("/"), "ordering": "endpoint" });
    let endpoints = format!("/v1/tenants/{tenant}/endpoints");
    server.good("POST", &endpoints, ordered).await;
    let sql = |sql: &str| Postgres::shared().execute(&url, sql);
    assert!(sql(
        "create table orders (n bigint); create role shop_app; grant usage on schema postrider to shop_app;
         grant execute on function postrider.publish(text, text, json), postrider.publish(text, text, text, json) to shop_app;
         grant all on orders to shop_app"
    ));
    // Whoever may publish sees nothing else.
    assert!(!sql(
        "set role shop_app; select count(*) from postrider.event"
    ));
    assert!(!sql(
        "set role shop_app; select count(*) from postrider.outbox"
    ));
    assert!(sql(
        "set role shop_app; begin; insert into orders values (1);
         select postrider.publish('shop', 'ada', 'order.paid', '{\"n\": 1,  \"text\": \"\\u00e9\"}'); commit"
    ));
    assert!(sql(
        "begin; insert into orders values (2); select postrider.publish('shop', 'ada', 'order.paid', '{\"n\": 2}'); rollback"
    ));
    assert!(sql(
        "select postrider.publish('shop', 'ada', '{\"type\": \"order.paid\", \"data\": {\"n\": 3}, \"idempotencyKey\": \"three\", \"meta\": {\"a\": 1}}');
         select postrider.publish('shop', 'ada', '{\"type\": \"order.paid\", \"data\": {\"n\": 3}, \"idempotencyKey\": \"three\", \"meta\": {\"a\": 1}}')"
    ));
    // Escapes that no text of the database can hold are the customer's business.
    assert!(sql(
        "select postrider.publish('shop', 'ada', 'order.paid', '{\"n\": 4, \"text\": \"a\\u0000b\"}')"
    ));
    // As some old programs have their connections.
    assert!(sql(
        "set standard_conforming_strings = off; set backslash_quote = on;
         select postrider.publish('shop', 'ada', 'order.paid', '{\"n\": 5}')"
    ));
    let requests = receiver.wait_for(4).await;
    assert_eq!(
        numbers(&receiver),
        [1, 3, 4, 5],
        "in their order, and the second never"
    );
    let body = String::from_utf8(requests[0].body.to_vec()).unwrap();
    assert!(
        body.contains(r#"{"n": 1,  "text": "\u00e9"}"#),
        "byte for byte: {body}"
    );
    holds(&url, "(select count(*) from postrider.outbox) = 0").await;
    assert_eq!(receiver.requests().len(), 4, "one key is one event");

    // What can be told at once fails the transaction.
    for (call, _) in [
        ("'shop', 'nobody', 'order.paid', '{}'", "a tenant"),
        ("'shop', 'ada', 'not a type', '{}'", "a type"),
        ("'shop', 'ada', '[]'", "an object"),
        ("'shop', 'ada', '{\"type\": \"a\"}'", "data"),
        ("'shop', 'ada', 'a', null", "data"),
        (
            "'shop', 'ada', 'a', json_build_object('n', repeat('x', 262144))::jsonb",
            "256 KiB",
        ),
        (
            "'shop', 'ada', '{\"type\": \"a\", \"data\": 1, \"idempotencyKey\": 7}'",
            "a key",
        ),
    ] {
        let transaction = format!(
            "begin; insert into orders values (9); select postrider.publish({call}); commit"
        );
        assert!(!sql(&transaction), "{call}");
    }
    holds(&url, "(select count(*) from orders where n = 9) = 0").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_event_stays_with_why_and_holds_nobody_up() {
    let (server, url) = on_a_database().await;
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let (tenant, application) = ada(&server, json!({ "validate": "enforce" })).await;
    server.endpoint(&tenant, &receiver.url("/")).await;
    let schema = json!({ "schema": { "type": "object", "required": ["n"] } });
    let path = format!("/v1/applications/{application}/event-types/order.paid");
    server.good("PUT", &path, schema).await;
    let sql = "select postrider.publish('shop', 'ada', 'order.paid', '{\"m\": 1}');
               select postrider.publish('shop', 'ada', '{\"type\": \"order.paid\", \"data\": {\"n\": 1}, \"colour\": \"red\"}');
               select postrider.publish('shop', 'ada', 'order.paid', '{\"n\": 2}')";
    assert!(Postgres::shared().execute(&url, sql));
    receiver.wait_for(1).await;
    assert_eq!(numbers(&receiver), [2]);
    let refused =
        |what| format!("(select count(*) from postrider.outbox where refused like '{what}') = 1");
    holds(&url, &refused("data\\_invalid: %")).await;
    holds(&url, &refused("validation\\_failed: colour %")).await;
    let root = format!("Bearer {}", server.root);
    let headers = [("authorization", &*root)];
    let metrics = crate::support::http(server.address, "GET", "/metrics", &headers, "").await;
    assert!(
        metrics.text.contains("\npostrider_outbox_refused 2\n"),
        "{}",
        metrics.text
    );
    assert!(
        metrics.text.contains("\npostrider_outbox_waiting 0\n"),
        "{}",
        metrics.text
    );
    // With its tenant it goes.
    server
        .call("DELETE", &format!("/v1/tenants/{tenant}"), Value::Null)
        .await;
    holds(&url, "(select count(*) from postrider.outbox) = 0").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_stays_open_hides_nothing() {
    let (server, url) = on_a_database().await;
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let (tenant, _) = ada(&server, json!({})).await;
    server.endpoint(&tenant, &receiver.url("/")).await;
    let long = url.clone();
    let open = std::thread::spawn(move || {
        let sql = "begin; select postrider.publish('shop', 'ada', 'order.paid', '{\"n\": 0}'); select pg_sleep(2); commit";
        Postgres::shared().execute(&long, sql)
    });
    // It has its number already.
    let locked = "exists (select 1 from pg_stat_activity where query like '%pg_sleep(2)%' and pid <> pg_backend_pid())";
    holds(&url, locked).await;
    for first in [1, 21, 41] {
        let sql = format!(
            "select postrider.publish('shop', 'ada', 'order.paid', json_build_object('n', n)) from generate_series({first}, {first} + 19) n"
        );
        assert!(Postgres::shared().execute(&url, &sql));
    }
    receiver.wait_for(60).await;
    assert!(!numbers(&receiver).contains(&0), "it is not committed");
    assert!(open.join().unwrap());
    receiver.wait_for(61).await;
    let all: BTreeSet<i64> = numbers(&receiver).into_iter().collect();
    assert_eq!(all, (0..=60).collect());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_dies_while_it_takes_events_loses_and_doubles_none() {
    let directory = tempfile::tempdir().unwrap();
    let url = Postgres::shared().database();
    in_postgres(directory.path(), &url);
    let start = |is_first| {
        let mut command = serving(directory.path());
        command.stdout(std::process::Stdio::piped());
        greeted(
            command.stderr(std::process::Stdio::null()).spawn().unwrap(),
            is_first,
        )
    };
    let mut process = start(true);
    let root = process.root.clone().unwrap();
    let application = json!({ "name": "shop", "profile": "standard" });
    let application = call(&process, &root, "POST", "/v1/applications", application).await;
    let path = format!("/v1/applications/{}/tenants", id(&application));
    let tenant = json!({ "name": "Ada Ltd", "externalId": "ada" });
    call(&process, &root, "POST", &path, tenant).await;
    process.child.kill().unwrap();
    process.child.wait().unwrap();
    // Nobody is there: it waits.
    let submit = "select postrider.publish('shop', 'ada', 'order.paid', json_build_object('n', n)) from generate_series(1, 3000) n";
    assert!(Postgres::shared().execute(&url, submit));
    // Nobody may take anything out of it while this lasts: what is published meanwhile is published, and still there.
    let held = url.clone();
    let held = std::thread::spawn(move || {
        let sql = "begin; lock table postrider.outbox in share mode; select pg_sleep(600); commit";
        Postgres::shared().execute(&held, sql)
    });
    let locked = "exists (select 1 from pg_locks where relation = 'postrider.outbox'::regclass and mode = 'ShareLock')";
    holds(&url, locked).await;
    let mut process = start(false);
    holds(&url, "(select count(*) from postrider.event) >= 500").await;
    process.child.kill().unwrap();
    process.child.wait().unwrap();
    holds(&url, "(select count(*) from postrider.outbox) = 3000").await;
    let release = "select pg_terminate_backend(pid) from pg_stat_activity where query like '%pg_sleep(600)%' and pid <> pg_backend_pid()";
    assert!(Postgres::shared().execute(&url, release));
    assert!(!held.join().unwrap());
    let process = start(false);
    holds(&url, "(select count(*) from postrider.outbox) = 0").await;
    holds(&url, "(select count(*) from postrider.event) = 3000").await;
    drop(process);
}

/// One whose events are taken slowly: behind them the others' would be late by as long as that takes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_with_many_events_for_many_endpoints_holds_nobody_up() {
    const ENDPOINTS: usize = 100;
    let (server, url) = on_a_database().await;
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let (many, application) = ada(&server, json!({})).await;
    for number in 0..ENDPOINTS {
        let path = format!("/many/{number}");
        server.endpoint(&many, &receiver.url(&path)).await;
    }
    let path = format!("/v1/applications/{application}/tenants");
    let tenant = json!({ "name": "Bob Ltd", "externalId": "bob" });
    let another = id(&server.good("POST", &path, tenant).await);
    let others = Receiver::start(Behaviour::Status(200)).await;
    server.endpoint(&another, &others.url("/")).await;
    let put =
        "select postrider.publish('shop', 'ada', 'order.paid', '1') from generate_series(1, 400)";
    assert!(Postgres::shared().execute(&url, put));
    receiver.wait_for(1).await;
    let put = "select postrider.publish('shop', 'bob', 'order.paid', '1')";
    assert!(Postgres::shared().execute(&url, put));
    others.wait_for(1).await;
    let left = "select 1 / (select count(*) from postrider.outbox)";
    assert!(
        Postgres::shared().execute(&url, left),
        "all of the others' were taken before"
    );
}

/// More of them than have turns at once: their application has a profile that the server does not know any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tenants_whose_events_cannot_be_taken_leave_turns_to_the_others() {
    let (server, url) = on_a_database().await;
    let execute = |sql: &str| assert!(Postgres::shared().execute(&url, sql), "{sql}");
    let gone = server.application("gone", "standard").await;
    let path = format!("/v1/applications/{gone}/tenants");
    for number in 0..20 {
        let tenant = json!({ "name": "Stuck", "externalId": format!("stuck-{number}") });
        server.good("POST", &path, tenant).await;
    }
    execute("update postrider.application set profile = 'nobodys'");
    // The server has it in memory until it is changed.
    let path = format!("/v1/applications/{gone}");
    server
        .good("PATCH", &path, json!({ "name": "gone-now" }))
        .await;
    execute(
        "select postrider.publish('gone-now', 'stuck-' || n, 'order.paid', '1') from generate_series(0, 19) n",
    );
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let (tenant, _) = ada(&server, json!({})).await;
    server.endpoint(&tenant, &receiver.url("/")).await;
    for count in 1..=3 {
        execute("select postrider.publish('shop', 'ada', 'order.paid', '1')");
        receiver.wait_for(count).await;
    }
    let left = "(select count(*) from postrider.outbox where refused is null) = 20";
    holds(&url, left).await;
}
