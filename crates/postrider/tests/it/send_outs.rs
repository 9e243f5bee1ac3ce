//! Voucherify's send-outs: their log, their thirteen requests, and retries by hand.

use std::time::Duration;

use postrider_testkit::{Behaviour, Receiver};
use serde_json::{Value, json};

use crate::distributions::{body, create, hurried_server, in_a_hurry, send, server_with};
use crate::support::{TestServer, id, text};

#[tokio::test]
async fn a_send_out_stays_as_it_was_first_sent_whatever_was_designed_since() {
    let server = TestServer::start().await;
    let receiver = Receiver::start(Behaviour::Status(500)).await;
    let tenant = server.tenant("voucherify").await;
    let payload = json!({ "payload": { "fields": [{ "from": "voucher.code", "to": "code" }] } });
    let distribution = create(&server, &tenant, &receiver.url("/"), payload).await;
    send(&server, &tenant, "customer.rewarded", Some("*")).await;
    let first = receiver.wait_for(1).await.remove(0);
    let sendouts = format!("/v1/tenants/{tenant}/send-outs?status=RETRYING");
    let retrying = server
        .until(&sendouts, |page| page["data"][0]["attempts"] == 1)
        .await;
    let row = &retrying["data"][0];
    assert_eq!(
        (text(row, "status"), text(row, "error")),
        ("RETRYING", "answered 500")
    );
    assert!(row["nextAttemptAt"].is_string());

    let path = format!("/v1/distributions/{}", id(&distribution));
    let change = json!({ "eventName": "Another", "payload": { "raw": true } });
    server.good("PATCH", &path, change).await;
    let whole = format!("/v1/send-outs/{}", text(row, "delivery"));
    let whole = server.good("GET", &whole, Value::Null).await;
    assert_eq!(
        (text(&whole, "type"), &whole["data"]),
        ("Voucher-sent", &body(&first))
    );
    let delivery = format!("/v1/deliveries/{}", text(row, "delivery"));
    let delivery = server.good("GET", &delivery, Value::Null).await;
    let kept = text(&delivery["attempts"][0], "requestBody").as_bytes();
    assert_eq!(kept, &first.body[..], "the very bytes sent");
    // What is published now has the new design.
    send(&server, &tenant, "customer.rewarded", Some("*")).await;
    assert!(body(&receiver.wait_for(2).await[1]).get("type").is_none());
}

#[tokio::test]
async fn thirteen_failures_pause_a_distribution_and_disable_a_webhook_and_the_log_shows_them() {
    let (server, _profiles) = hurried_server().await;
    let receiver = Receiver::start(Behaviour::Status(410)).await;
    let tenant = server.tenant("voucherify").await;
    let distribution = create(&server, &tenant, &receiver.url("/d"), json!({})).await;
    let webhook = server.endpoint(&tenant, &receiver.url("/w")).await;
    send(&server, &tenant, "customer.rewarded", Some("*")).await;
    send(&server, &tenant, "customer.rewarded", None).await;
    let path = format!("/v1/distributions/{}", id(&distribution));
    let paused = server.until(&path, |view| view["status"] == "paused").await;
    assert_eq!(text(&paused, "pausedReason"), "failures");
    let endpoint = format!("/v1/endpoints/{}", id(&webhook));
    server
        .until(&endpoint, |view| view["active"] == false)
        .await;
    let count = |path: &str| {
        receiver
            .requests()
            .iter()
            .filter(|request| request.target == path)
            .count()
    };
    assert_eq!(
        (count("/d"), count("/w")),
        (13, 13),
        "the first request and twelve retries"
    );
    let same = receiver
        .requests()
        .into_iter()
        .filter(|request| request.target == "/d");
    let bodies: std::collections::HashSet<_> = same.map(|request| request.body).collect();
    assert_eq!(bodies.len(), 1, "byte-identical");

    let sendouts = format!("/v1/tenants/{tenant}/send-outs");
    let failed = server
        .good(
            "GET",
            &format!(
                "{sendouts}?status=FAILED&source={}",
                text(&distribution, "wireId")
            ),
            Value::Null,
        )
        .await;
    let rows = failed["data"].as_array().unwrap();
    assert_eq!(rows.len(), 1);
    let row = &rows[0];
    let wire: Value = serde_json::from_slice(bodies.iter().next().unwrap()).unwrap();
    assert_eq!(
        (
            text(row, "status"),
            text(row, "type"),
            text(row, "sendOutId"),
            text(row, "requestId")
        ),
        (
            "FAILED",
            "Voucher-sent",
            text(&wire, "id"),
            "v-0ead4423d55b6996f2"
        )
    );
    assert_eq!(
        row["source"],
        json!({ "id": distribution["wireId"], "object": "distribution", "name": "Welcome mail" })
    );
    assert_eq!(
        (text(row, "targetUrl"), text(row, "error")),
        (receiver.url("/d").as_str(), "answered 410")
    );
    assert!(row["executedAt"].is_string() && row["eventCreatedAt"].is_string());
    let whole = server
        .good(
            "GET",
            &format!("/v1/send-outs/{}", text(row, "delivery")),
            Value::Null,
        )
        .await;
    assert_eq!(whole["data"], wire, "the complete webhook");
    let by_id = server
        .good(
            "GET",
            &format!("{sendouts}?sendOutId={}", text(row, "sendOutId")),
            Value::Null,
        )
        .await;
    assert_eq!(by_id["data"].as_array().unwrap().len(), 1);
    for nothing in [
        "sendOutId=whs_000000000000000000",
        "status=SUCCEEDED",
        "type=voucher.created",
    ] {
        let page = server
            .good("GET", &format!("{sendouts}?{nothing}"), Value::Null)
            .await;
        assert_eq!(page["data"], json!([]), "{nothing}");
    }
    let by_name = format!("{sendouts}?type=Voucher-sent");
    let by_name = server.good("GET", &by_name, Value::Null).await;
    assert_eq!(
        by_name["data"].as_array().unwrap().len(),
        1,
        "as it is shown"
    );
    let renamed = json!({ "eventName": "Voucher-posted" });
    server.good("PATCH", &path, renamed).await;
    for (name, count) in [("Voucher-sent", 1), ("Voucher-posted", 0)] {
        let found = format!("{sendouts}?type={name}");
        let found = server.good("GET", &found, Value::Null).await;
        let found = found["data"].as_array().unwrap().len();
        assert_eq!(found, count, "{name}: as it was sent");
    }
    assert_eq!(row["reason"], "exhausted");

    // Paused as it is, it can be tried by hand, and stays as it was.
    let retry = format!("/v1/send-outs/{}/retry", text(row, "delivery"));
    let sent_out = format!("/v1/send-outs/{}", text(row, "delivery"));
    let tried = server.good("POST", &retry, json!({})).await;
    assert_eq!(tried["status"], "FAILED");
    let tried = server.until(&sent_out, |view| view["attempts"] == 14).await;
    assert_eq!(tried["status"], "FAILED");
    let still = server.good("GET", &path, Value::Null).await;
    assert_eq!(still["status"], "paused");
    server
        .good(
            "PATCH",
            &path,
            json!({ "status": "live", "payload": { "raw": true } }),
        )
        .await;
    receiver.behave(Behaviour::Status(200));
    while server.call("POST", &retry, json!({})).await.status != 202 {}
    let all = receiver.wait_for(28).await;
    assert_eq!(
        all[27].body,
        bodies.into_iter().next().unwrap(),
        "the same id and body, though it was redesigned"
    );
    let succeeded = format!("/v1/send-outs/{}", text(row, "delivery"));
    server
        .until(&succeeded, |view| view["status"] == "SUCCEEDED")
        .await;
    assert_eq!(
        server.call("POST", &retry, json!({})).await.code(),
        "resend_not_allowed"
    );

    let audit = server
        .good(
            "GET",
            &format!("/v1/audit?subject={}", id(&distribution)),
            Value::Null,
        )
        .await;
    let rows: Vec<(&str, &Value)> = audit["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| (text(row, "action"), &row["actor"]["name"]))
        .collect();
    assert_eq!(
        rows,
        [
            ("distribution.updated", &json!("root")),
            ("distribution.updated", &json!("root")),
            ("distribution.updated", &json!("postrider")),
            ("distribution.created", &json!("root"))
        ]
    );
}

#[tokio::test]
// The thirty days are one second here.
async fn a_send_out_that_is_too_old_is_not_sent_again() {
    let profiles = in_a_hurry();
    let file = profiles.path().join("voucherify.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains("max_age = \"30d\""));
    std::fs::write(&file, text.replace("\"30d\"", "\"1s\"")).unwrap();
    let (server, _profiles) = server_with(profiles).await;
    let receiver = Receiver::start(Behaviour::Status(500)).await;
    let tenant = server.tenant("voucherify").await;
    let webhook = server.endpoint(&tenant, &receiver.url("/w")).await;
    send(&server, &tenant, "customer.rewarded", None).await;
    let failed = server.finished(&format!("tenant={tenant}"), 1).await;
    let endpoint = format!("/v1/endpoints/{}", id(&webhook));
    server
        .until(&endpoint, |view| view["active"] == false)
        .await;
    let enabled = json!({ "active": true });
    server.good("PATCH", &endpoint, enabled).await;
    // So that not a thousand fit into the time.
    receiver.behave(Behaviour::SlowStatus(Duration::from_millis(200), 500));
    let retry = format!("/v1/send-outs/{}/retry", id(&failed[0]));
    let refused = loop {
        let reply = server.call("POST", &retry, json!({})).await;
        // Until then it is sent again, or waits for that.
        if !matches!(reply.status, 202) && reply.code() != "delivery_pending" {
            break reply;
        }
    };
    assert_eq!(refused.code(), "resend_not_allowed");
}

#[tokio::test]
async fn a_retry_by_hand_may_succeed_while_its_source_is_disabled() {
    let (server, _profiles) = hurried_server().await;
    let receiver = Receiver::start(Behaviour::Status(500)).await;
    let tenant = server.tenant("voucherify").await;
    let webhook = server.endpoint(&tenant, &receiver.url("/w")).await;
    let endpoint = format!("/v1/endpoints/{}", id(&webhook));
    send(&server, &tenant, "customer.rewarded", None).await;
    server
        .until(&endpoint, |view| view["active"] == false)
        .await;
    let failed = server.finished(&format!("tenant={tenant}"), 1).await;
    receiver.behave(Behaviour::Status(200));
    let retry = format!("/v1/send-outs/{}/retry", id(&failed[0]));
    server.good("POST", &retry, json!({})).await;
    let view = format!("/v1/send-outs/{}", id(&failed[0]));
    let view = server
        .until(&view, |view| view["status"] == "SUCCEEDED")
        .await;
    assert_eq!(view["attempts"], 14);
    let still = server.good("GET", &endpoint, Value::Null).await;
    assert_eq!(still["active"], false, "whoever repaired it enables it");
    server.good("DELETE", &endpoint, Value::Null).await;
    send(&server, &tenant, "customer.rewarded", None).await;
    assert_eq!(receiver.wait_for(14).await.len(), 14);
}

#[tokio::test]
async fn retries_of_a_disabled_source_are_bounded_and_one_at_a_time() {
    let (server, _profiles) = hurried_server().await;
    let receiver = Receiver::start(Behaviour::Status(500)).await;
    let tenant = server.tenant("voucherify").await;
    let webhook = server.endpoint(&tenant, &receiver.url("/w")).await;
    for _ in 0..6 {
        send(&server, &tenant, "customer.rewarded", None).await;
    }
    let endpoint = format!("/v1/endpoints/{}", id(&webhook));
    server
        .until(&endpoint, |view| view["active"] == false)
        .await;
    let failed = server.finished(&format!("tenant={tenant}"), 6).await;
    let paths = failed.iter().map(id);
    let paths: Vec<_> = paths
        .map(|id| format!("/v1/send-outs/{id}/retry"))
        .collect();
    receiver.behave(Behaviour::Hang);
    for path in &paths[..4] {
        server.good("POST", path, json!({})).await;
    }
    let fifth = server.call("POST", &paths[4], json!({})).await;
    assert_eq!((fifth.status, fifth.code().as_str()), (503, "overloaded"));
    let again = server.call("POST", &paths[0], json!({})).await;
    assert_eq!(again.code(), "delivery_pending");
    let enabled = json!({ "active": true });
    server.good("PATCH", &endpoint, enabled).await;
    let again = server.call("POST", &paths[0], json!({})).await;
    assert_eq!(again.code(), "delivery_pending", "not by its lane either");
}

#[tokio::test]
async fn what_expired_is_not_retried_past_its_lane() {
    let (server, _profiles) = hurried_server().await;
    let receiver = Receiver::start(Behaviour::Status(500)).await;
    let tenant = server.tenant("voucherify").await;
    let webhook = server.endpoint(&tenant, &receiver.url("/w")).await;
    let before = postrider_core::Timestamp::from_micros(
        i64::try_from(
            std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .unwrap()
                .as_micros(),
        )
        .unwrap()
            + 5_000_000,
    );
    let event = json!({ "type": "customer.rewarded", "data": {}, "deliverBefore": before });
    let path = format!("/v1/tenants/{tenant}/events");
    server.good("POST", &path, event).await;
    let endpoint = format!("/v1/endpoints/{}", id(&webhook));
    server
        .until(&endpoint, |view| view["active"] == false)
        .await;
    let failed = server.finished(&format!("tenant={tenant}"), 1).await;
    // So that not a thousand fit into the time.
    receiver.behave(Behaviour::SlowStatus(Duration::from_millis(200), 500));
    let retry = format!("/v1/send-outs/{}/retry", id(&failed[0]));
    let refused = loop {
        let reply = server.call("POST", &retry, json!({})).await;
        if reply.status != 202 && reply.code() != "delivery_pending" {
            break reply;
        }
    };
    assert_eq!(refused.code(), "resend_not_allowed");
    assert!(refused.text.contains("deliverBefore"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_retries_at_once_one_is_sent_and_none_after_it_succeeded() {
    let (server, _profiles) = hurried_server().await;
    let server = std::sync::Arc::new(server);
    let receiver = Receiver::start(Behaviour::SlowStatus(Duration::from_secs(1), 500)).await;
    let tenant = server.tenant("voucherify").await;
    let webhook = server.endpoint(&tenant, &receiver.url("/w")).await;
    // All are there before the first has failed for good: with that it is disabled, and gets no more.
    for _ in 0..20 {
        send(&server, &tenant, "customer.rewarded", None).await;
    }
    receiver.behave(Behaviour::Status(500));
    let endpoint = format!("/v1/endpoints/{}", id(&webhook));
    server
        .until(&endpoint, |view| view["active"] == false)
        .await;
    let failed = server.finished(&format!("tenant={tenant}"), 20).await;
    server
        .good("PATCH", &endpoint, json!({ "active": true }))
        .await;
    receiver.behave(Behaviour::Status(200));
    let before = receiver.requests().len();
    let ids = failed.iter().flat_map(|row| vec![id(row); 8]);
    let retries = ids.map(|id| {
        let server = server.clone();
        tokio::spawn(async move {
            let retry = format!("/v1/send-outs/{id}/retry");
            server.call("POST", &retry, json!({})).await.status
        })
    });
    let retries: Vec<_> = retries.collect();
    let mut accepted = 0;
    for retry in retries {
        let status = retry.await.unwrap();
        assert!(matches!(status, 202 | 409), "{status}");
        accepted += usize::from(status == 202);
    }
    assert_eq!(accepted, 20, "one of eight of each");
    let query = format!("tenant={tenant}&status=delivered");
    server.finished(&query, 20).await;
    assert_eq!(receiver.requests().len(), before + 20);
}

#[tokio::test]
async fn a_send_out_whose_event_names_no_request_has_an_id_of_one_all_the_same() {
    let (server, _profiles) = hurried_server().await;
    let receiver = Receiver::start(Behaviour::Status(500)).await;
    let tenant = server.tenant("voucherify").await;
    let webhook = server.endpoint(&tenant, &receiver.url("/w")).await;
    server
        .publish(&tenant, "customer.rewarded", json!({}))
        .await;
    let endpoint = format!("/v1/endpoints/{}", id(&webhook));
    server
        .until(&endpoint, |view| view["active"] == false)
        .await;
    let failed = server.finished(&format!("tenant={tenant}"), 1).await;
    let sent_out = format!("/v1/send-outs/{}", id(&failed[0]));
    let whole = server.good("GET", &sent_out, Value::Null).await;
    let request = text(&whole, "requestId");
    let digits = request.strip_prefix("v-").unwrap_or_default();
    assert!(
        digits.len() == 18 && digits.bytes().all(|digit| digit.is_ascii_hexdigit()),
        "as Voucherify's look: {request}"
    );
    let log = format!("/v1/tenants/{tenant}/send-outs");
    let listed = server.good("GET", &log, Value::Null).await;
    assert_eq!(text(&listed["data"][0], "requestId"), request);

    receiver.behave(Behaviour::Status(200));
    let retry = format!("{sent_out}/retry");
    let retried = server.good("POST", &retry, json!({})).await;
    assert_eq!(text(&retried, "requestId"), request);
    let succeeded = server
        .until(&sent_out, |view| view["status"] == "SUCCEEDED")
        .await;
    assert_eq!(text(&succeeded, "requestId"), request);
    // To receivers the event says nothing of it, before as behind: what it is to say there is the product's.
    let requests = receiver.wait_for(14).await;
    let first = body(&requests[0]);
    assert_eq!(first.get("event"), Some(&Value::Null));
    assert_eq!(text(&first, "id"), text(&succeeded, "sendOutId"));
    assert!(requests.iter().all(|sent| sent.body == requests[0].body));

    // Another event is of another request.
    let enabled = json!({ "active": true });
    server.good("PATCH", &endpoint, enabled).await;
    server
        .publish(&tenant, "customer.rewarded", json!({}))
        .await;
    let listed = server.good("GET", &log, Value::Null).await;
    let rows = listed["data"].as_array().unwrap();
    assert_eq!(text(&rows[1], "requestId"), request, "newest first");
    assert_ne!(text(&rows[0], "requestId"), request);
}
