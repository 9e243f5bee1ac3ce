//! What an endpoint missed while it was disabled, and what a distribution did while it was paused.

use std::time::Duration;

use postrider_testkit::{Behaviour, Receiver};
use serde_json::{Value, json};

use crate::distributions::{create, send};
use crate::support::{TestServer, id, text};

async fn ended(server: &TestServer, replay: &Value) -> Value {
    let path = format!("/v1/replays/{}", id(replay));
    server
        .until(&path, |task| task["status"] != "running")
        .await
}

#[tokio::test]
async fn an_endpoint_catches_up_on_what_came_while_it_was_disabled_oldest_first() {
    let server = TestServer::start().await;
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let tenant = server.tenant("standard").await;
    let body = json!({ "url": receiver.url("/"), "events": ["order.*"], "ordering": "endpoint" });
    let endpoints = format!("/v1/tenants/{tenant}/endpoints");
    let endpoint = server.good("POST", &endpoints, body).await;
    let path = format!("/v1/endpoints/{}", id(&endpoint));
    server.publish(&tenant, "order.paid", json!(0)).await;
    server.finished(&format!("tenant={tenant}"), 1).await;
    server
        .good("PATCH", &path, json!({ "active": false }))
        .await;
    for number in 1..=12 {
        let published = server.publish(&tenant, "order.paid", json!(number)).await;
        assert_eq!(published["deliveries"], 0);
    }
    server.publish(&tenant, "voucher.made", json!(13)).await;

    let replays = format!("/v1/tenants/{tenant}/replays");
    let asked =
        json!({ "endpoint": id(&endpoint), "missed": true, "since": text(&endpoint, "createdAt") });
    let disabled = server.call("POST", &replays, asked.clone()).await;
    assert_eq!(
        (disabled.status, disabled.code().as_str()),
        (409, "endpoint_disabled")
    );
    for (name, value) in [
        ("mode", json!("test")),
        ("type", json!("order.paid")),
        ("status", json!("failed")),
        ("since", Value::Null),
        ("endpoint", Value::Null),
    ] {
        let mut wrong = asked.clone();
        wrong[name] = value;
        let refused = server.call("POST", &replays, wrong).await;
        assert_eq!(refused.status, 400, "{name}: {}", refused.text);
        assert!(refused.text.contains(name), "{}", refused.text);
    }
    let elsewhere = server.tenant("standard").await;
    let foreign = format!("/v1/tenants/{elsewhere}/replays");
    assert_eq!(
        server.call("POST", &foreign, asked.clone()).await.status,
        404
    );

    server.good("PATCH", &path, json!({ "active": true })).await;
    let replay = server.good("POST", &replays, asked.clone()).await;
    let done = ended(&server, &replay).await;
    assert_eq!(
        (
            &done["status"],
            &done["total"],
            &done["done"],
            &done["skipped"]
        ),
        (&json!("finished"), &json!(12), &json!(12), &json!(0))
    );
    let requests = receiver.wait_for(13).await;
    let sent = requests
        .iter()
        .map(|request| serde_json::from_slice::<Value>(&request.body).unwrap());
    let sent: Vec<Value> = sent.map(|body| body["data"].clone()).collect();
    assert_eq!(json!(sent), json!((0..=12).collect::<Vec<_>>()));
    // A second time there is nothing to do.
    let replay = server.good("POST", &replays, asked).await;
    let done = ended(&server, &replay).await;
    assert_eq!((&done["total"], &done["done"]), (&json!(0), &json!(0)));
}

#[tokio::test]
async fn a_replay_knows_how_many_it_has_to_send_and_begins_with_the_oldest() {
    let server = TestServer::start().await;
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let tenant = server.tenant("standard").await;
    let body = json!({ "url": receiver.url("/"), "ordering": "endpoint" });
    server
        .good("POST", &format!("/v1/tenants/{tenant}/endpoints"), body)
        .await;
    for number in 0..5 {
        server.publish(&tenant, "a", json!(number)).await;
    }
    server.finished(&format!("tenant={tenant}"), 5).await;
    let replays = format!("/v1/tenants/{tenant}/replays");
    let replay = server
        .good("POST", &replays, json!({ "status": "delivered" }))
        .await;
    assert_eq!(replay["total"], Value::Null, "{replay}");
    let done = ended(&server, &replay).await;
    assert_eq!((&done["total"], &done["done"]), (&json!(5), &json!(5)));
    let requests = receiver.wait_for(10).await;
    let again = requests[5..].iter();
    let again = again.map(|request| serde_json::from_slice::<Value>(&request.body).unwrap());
    let again: Vec<Value> = again.map(|body| body["data"].clone()).collect();
    assert_eq!(json!(again), json!([0, 1, 2, 3, 4]), "the oldest first");
}

#[tokio::test]
async fn what_a_paused_distribution_skipped_is_in_the_log_and_can_be_sent() {
    let server = TestServer::start().await;
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let tenant = server.tenant("voucherify").await;
    let distribution = create(&server, &tenant, &receiver.url("/"), json!({})).await;
    let path = format!("/v1/distributions/{}", id(&distribution));
    server
        .good("PATCH", &path, json!({ "status": "paused" }))
        .await;
    send(&server, &tenant, "customer.rewarded", Some("*")).await;
    send(&server, &tenant, "customer.rewarded", Some("*")).await;
    let log = format!("/v1/tenants/{tenant}/send-outs");
    let skipped = server
        .good("GET", &format!("{log}?status=SKIPPED"), Value::Null)
        .await;
    let rows = skipped["data"].as_array().unwrap();
    assert_eq!(rows.len(), 2, "{skipped}");
    let findings = postrider_store_sql::examine(&server.directory.path().join("data"))
        .unwrap()
        .findings;
    assert_eq!(findings, [], "it is nothing that the doctor minds");
    let row = &rows[0];
    assert_eq!(
        (text(row, "status"), &row["attempts"]),
        ("SKIPPED", &json!(0))
    );
    assert_eq!(row["source"]["id"], distribution["wireId"]);
    let failed = server
        .good("GET", &format!("{log}?status=FAILED"), Value::Null)
        .await;
    assert_eq!(failed["data"], json!([]));
    let statistics = format!("/v1/tenants/{tenant}/statistics");
    let statistics = server.good("GET", &statistics, Value::Null).await;
    assert_eq!(
        (
            &statistics["totals"]["skipped"],
            &statistics["totals"]["total"]
        ),
        (&json!(2), &json!(2))
    );
    // Live again it does not send them by itself.
    server
        .good("PATCH", &path, json!({ "status": "live" }))
        .await;
    send(&server, &tenant, "customer.rewarded", Some("*")).await;
    receiver.wait_for(1).await;
    let resend = format!("/v1/deliveries/{}/resend", text(row, "delivery"));
    server.good("POST", &resend, json!({})).await;
    receiver.wait_for(2).await;
    let replays = format!("/v1/tenants/{tenant}/replays");
    let asked = json!({ "endpoint": id(&distribution), "missed": true, "since": text(&distribution, "createdAt") });
    let replay = server.good("POST", &replays, asked).await;
    let done = ended(&server, &replay).await;
    assert_eq!(
        (&done["total"], &done["done"]),
        (&json!(1), &json!(1)),
        "{done}"
    );
    receiver.wait_for(3).await;
    let skipped = server
        .good("GET", &format!("{log}?status=SKIPPED"), Value::Null)
        .await;
    assert_eq!(skipped["data"], json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_that_is_cancelled_while_it_runs_sends_nothing_more() {
    // So many that it takes much longer than to look at it once and to cancel it.
    const EVENTS: usize = 1_000;
    let server = TestServer::start().await;
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let tenant = server.tenant("standard").await;
    server.endpoint(&tenant, &receiver.url("/")).await;
    let events = (0..EVENTS).map(|number| json!({ "type": "a", "data": number }));
    let events: Vec<Value> = events.collect();
    let path = format!("/v1/tenants/{tenant}/events/batch");
    server
        .good("POST", &path, json!({ "events": events }))
        .await;
    let waiting = format!("/v1/deliveries?tenant={tenant}&status=pending");
    let nothing = |page: &Value| page["data"] == json!([]);
    server.until(&waiting, nothing).await;
    assert_eq!(receiver.requests().len(), EVENTS);

    let slow = Duration::from_millis(50);
    receiver.behave(Behaviour::SlowStatus(slow, 200));
    let replays = format!("/v1/tenants/{tenant}/replays");
    let asked = json!({ "status": "delivered" });
    let replay = server.good("POST", &replays, asked).await;
    let path = format!("/v1/replays/{}", id(&replay));
    // Without a pause between two looks, so that it is met under way.
    let begun = async {
        loop {
            let seen = server.good("GET", &path, Value::Null).await;
            if seen["done"] != 0 {
                break seen;
            }
        }
    };
    let begun = tokio::time::timeout(Duration::from_secs(30), begun).await;
    let begun = begun.expect("it sent nothing");
    assert_eq!(text(&begun, "status"), "running", "{begun}");
    let mut cancelled = server
        .good("POST", &format!("{path}/cancel"), Value::Null)
        .await;
    assert_eq!(
        (text(&cancelled, "status"), &cancelled["total"]),
        ("cancelled", &json!(EVENTS))
    );
    assert!(cancelled["finishedAt"].is_string(), "{cancelled}");
    let done = usize::try_from(cancelled["done"].as_u64().unwrap()).unwrap();
    assert!((1..EVENTS).contains(&done), "{cancelled}");

    // What it had handed over goes out; this one is behind it.
    server.publish(&tenant, "a", json!(EVENTS)).await;
    server.until(&waiting, nothing).await;
    let sent = receiver.requests().len();
    assert!(
        (EVENTS + done + 1..2 * EVENTS).contains(&sent),
        "{sent} were sent: {cancelled}"
    );
    // The time that these take it would have had to go on.
    for number in 1..=3 {
        let event = server.publish(&tenant, "a", json!(EVENTS + number)).await;
        server.finished(&format!("event={}", id(&event)), 1).await;
    }
    assert_eq!(receiver.requests().len(), sent + 3);
    // What it sent meanwhile is counted, but for one that was on its way when it was stopped.
    let mut still = server.good("GET", &path, Value::Null).await;
    let done = usize::try_from(still["done"].as_u64().unwrap()).unwrap();
    assert!((done..=done + 1).contains(&(sent - EVENTS - 1)), "{still}");
    still["done"] = cancelled["done"].take();
    cancelled["done"] = still["done"].clone();
    assert_eq!(still, cancelled);
}
