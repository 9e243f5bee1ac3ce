//! Voucherify's distributions, its project secret and its send-out log.

use postrider_testkit::{Behaviour, Receiver, Request};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{TestServer, hmac, id, text};

const META: &str = r#"{"id":"evcus_1","group_id":"v-0ead4423d55b6996f2"}"#;

/// Voucherify's profile with its twelve retries in milliseconds instead of minutes.
pub(crate) fn in_a_hurry() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let built_in = include_str!("../../../../profiles/voucherify.toml");
    let line = built_in
        .lines()
        .find(|line| line.starts_with("offsets = ["))
        .unwrap();
    let offsets: Vec<String> = (1..=12).map(|n| format!("\"{}ms\"", n * 20)).collect();
    let hurried = built_in.replace(line, &format!("offsets = [{}]", offsets.join(", ")));
    std::fs::write(directory.path().join("voucherify.toml"), hurried).unwrap();
    directory
}

async fn hurried_server() -> (TestServer, TempDir) {
    server_with(in_a_hurry()).await
}

async fn server_with(profiles: TempDir) -> (TestServer, TempDir) {
    let path = profiles.path().to_owned();
    let server = TestServer::with(|config| config.profiles.directory = Some(path)).await;
    (server, profiles)
}

async fn create(server: &TestServer, tenant: &str, url: &str, extra: Value) -> Value {
    let mut body = json!({
        "name": "Welcome mail", "eventName": "Voucher-sent", "url": url, "events": ["customer.rewarded", "customer.segment.entered"],
    });
    body.as_object_mut()
        .unwrap()
        .extend(extra.as_object().unwrap().clone());
    let path = format!("/v1/tenants/{tenant}/distributions");
    server.good("POST", &path, body).await
}

async fn send(server: &TestServer, tenant: &str, event_type: &str, to: Option<&str>) -> Value {
    let mut body = json!({ "type": event_type, "data": { "voucher": { "code": "AB 12" }, "amount": 1.50, "customer": { "id": "cust_1" } } });
    body["meta"] = serde_json::from_str(META).unwrap();
    if let Some(to) = to {
        body["distribution"] = json!(to);
    }
    server
        .good("POST", &format!("/v1/tenants/{tenant}/events"), body)
        .await
}

fn body(request: &Request) -> Value {
    serde_json::from_slice(&request.body).unwrap()
}

fn is_signed(request: &Request, secret: &str) -> bool {
    request.headers["x-voucherify-signature"] == hmac(secret, &request.body)
}

#[tokio::test]
async fn a_distributions_events_reach_only_it_and_project_events_only_webhooks() {
    let server = TestServer::start().await;
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let tenant = server.tenant("voucherify").await;
    let secret = server
        .good("GET", &format!("/v1/tenants/{tenant}/secret"), Value::Null)
        .await;
    let secret = text(&secret, "secret");
    server.endpoint(&tenant, &receiver.url("/webhook")).await;
    let payload = json!({ "payload": { "fields": [{ "from": "voucher.code", "to": "code" }, { "from": "customer.id", "to": "who" }] },
                          "headers": { "x-team": "growth", "a-b": "1" } });
    let designed = create(&server, &tenant, &receiver.url("/designed"), payload).await;
    let raw = json!({ "payload": { "raw": true }, "events": ["customer.rewarded"] });
    let raw = create(&server, &tenant, &receiver.url("/raw"), raw).await;
    let wire = text(&designed, "wireId");
    assert!(wire.starts_with("distr_") && wire.len() == 32, "{wire}");

    // `customer.rewarded` is both a project's event and a distribution's: the address tells which.
    assert_eq!(
        send(&server, &tenant, "customer.rewarded", None).await["deliveries"],
        1
    );
    let request = receiver.wait_for(1).await.remove(0);
    assert_eq!(
        (
            request.target.as_str(),
            body(&request)["source"]["object"].clone()
        ),
        ("/webhook", json!("webhook"))
    );
    assert_eq!(
        send(&server, &tenant, "customer.rewarded", Some(wire)).await["deliveries"],
        1
    );
    let request = receiver.wait_for(2).await.remove(1);
    assert_eq!(request.target, "/designed");
    let sent = body(&request);
    assert_eq!(sent["type"], "Voucher-sent");
    assert_eq!(
        sent["source"],
        json!({ "id": wire, "object": "distribution", "target_url": receiver.url("/designed") })
    );
    assert_eq!(
        sent["data"].to_string(),
        r#"{"code":"AB 12","who":"cust_1"}"#
    );
    assert_eq!(sent["event"], serde_json::from_str::<Value>(META).unwrap());
    assert_eq!(
        (
            request.headers["x-team"].as_str(),
            request.headers["a-b"].as_str()
        ),
        ("growth", "1")
    );
    let keys: Vec<&str> = [
        "id",
        "project_id",
        "created_at",
        "type",
        "data",
        "source",
        "event",
    ]
    .into();
    let text_of = std::str::from_utf8(&request.body).unwrap();
    let places: Vec<usize> = keys
        .iter()
        .map(|key| text_of.find(&format!("\"{key}\":")).unwrap())
        .collect();
    assert!(places.is_sorted(), "the documented order: {text_of}");
    assert!(is_signed(&request, secret));

    assert_eq!(
        send(&server, &tenant, "customer.rewarded", Some("*")).await["deliveries"],
        2
    );
    assert_eq!(
        send(&server, &tenant, "customer.segment.entered", Some("*")).await["deliveries"],
        1
    );
    let requests = receiver.wait_for(5).await;
    let raw_one = requests
        .iter()
        .find(|request| request.target == "/raw")
        .unwrap();
    assert_eq!(
        body(raw_one),
        json!({ "voucher": { "code": "AB 12" }, "amount": 1.5, "customer": { "id": "cust_1" } })
    );
    assert!(is_signed(raw_one, secret), "a raw payload is signed too");

    // Paused, it makes no send-outs; live again, it does.
    let path = format!("/v1/distributions/{}", id(&raw));
    let paused = server
        .good("PATCH", &path, json!({ "status": "paused" }))
        .await;
    assert_eq!(
        (text(&paused, "status"), text(&paused, "pausedReason")),
        ("paused", "manual")
    );
    assert_eq!(
        send(&server, &tenant, "customer.rewarded", Some(&id(&raw))).await["deliveries"],
        0
    );
    server
        .good("PATCH", &path, json!({ "status": "live" }))
        .await;
    assert_eq!(
        send(&server, &tenant, "customer.rewarded", Some(&id(&raw))).await["deliveries"],
        1
    );

    let list = server
        .good(
            "GET",
            &format!("/v1/tenants/{tenant}/distributions"),
            Value::Null,
        )
        .await;
    assert_eq!(list["data"].as_array().unwrap().len(), 2);
    let webhooks = server
        .good(
            "GET",
            &format!("/v1/tenants/{tenant}/endpoints"),
            Value::Null,
        )
        .await;
    assert_eq!(webhooks["data"].as_array().unwrap().len(), 1);
    let explained = json!({ "type": "customer.segment.entered", "data": {}, "distribution": "*" });
    let explained = server
        .good("POST", &format!("/v1/tenants/{tenant}/explain"), explained)
        .await;
    let reasons: Vec<usize> = explained["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["reasons"].as_array().unwrap().len())
        .collect();
    assert_eq!(reasons, [1, 0], "newest first: /raw has not this trigger");
    server.good("DELETE", &path, Value::Null).await;
    assert_eq!(server.call("GET", &path, Value::Null).await.status, 404);
}

#[tokio::test]
async fn what_a_distribution_cannot_be_is_refused_and_changes_nothing() {
    let server = TestServer::start().await;
    let tenant = server.tenant("voucherify").await;
    let path = format!("/v1/tenants/{tenant}/distributions");
    let good = json!({ "name": "n", "eventName": "e", "url": "https://example.com/", "events": ["customer.rewarded"] });
    for (name, value, field) in [
        ("name", json!(""), "name"),
        ("eventName", json!("a\nb"), "eventName"),
        ("url", json!("https://10.0.0.1/"), "url"),
        ("events", json!([]), "events"),
        ("events", json!(["voucher.created"]), "events"),
        ("headers", json!({ "X-Upper": "1" }), "headers.X-Upper"),
        ("headers", json!({ "x-empty": "" }), "headers.x-empty"),
        (
            "headers",
            json!({ "content-type": "text/plain" }),
            "headers.content-type",
        ),
        (
            "headers",
            json!({ "x-voucherify-signature": "0" }),
            "headers.x-voucherify-signature",
        ),
        ("payload", json!({ "fields": [] }), "payload.fields"),
        (
            "payload",
            json!({ "fields": [{ "from": "a", "to": "x" }, { "from": "b", "to": "x" }] }),
            "payload.fields",
        ),
        ("status", json!("sleeping"), "status"),
        ("rateLimit", json!(0), "rateLimit"),
    ] {
        let mut bad = good.clone();
        bad[name] = value;
        let reply = server.call("POST", &path, bad.clone()).await;
        assert_eq!(
            (reply.status, reply.json()["field"].as_str()),
            (400, Some(field)),
            "{bad}: {reply:?}"
        );
    }
    assert_eq!(
        server.good("GET", &path, Value::Null).await["data"],
        json!([])
    );
    let events = format!("/v1/tenants/{tenant}/events");
    for (to, event_type, code) in [
        (Some("distr_zzzz"), "customer.rewarded", "validation_failed"),
        (Some("*"), "voucher.created", "event_type_unknown"),
        (None, "customer.segment.entered", "event_type_unknown"),
    ] {
        let mut event = json!({ "type": event_type, "data": {} });
        if let Some(to) = to {
            event["distribution"] = json!(to);
        }
        let reply = server.call("POST", &events, event).await;
        assert_eq!(reply.code(), code, "{to:?} {event_type}");
    }
    let both =
        json!({ "type": "customer.rewarded", "data": {}, "distribution": "*", "endpoint": "ep_x" });
    assert_eq!(
        server.call("POST", &events, both).await.json()["field"],
        "distribution"
    );
    let other = server.tenant("standard").await;
    let reply = server
        .call("POST", &format!("/v1/tenants/{other}/distributions"), good)
        .await;
    assert_eq!(reply.code(), "distribution_unsupported");
}

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
            ("distribution.updated", &json!("postrider")),
            ("distribution.created", &json!("root"))
        ]
    );
}

/// The thirty days are milliseconds here.
#[tokio::test]
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
async fn a_projects_new_secret_signs_for_all_that_it_has() {
    let server = TestServer::start().await;
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let tenant = server.tenant("voucherify").await;
    server.endpoint(&tenant, &receiver.url("/w")).await;
    create(&server, &tenant, &receiver.url("/d"), json!({})).await;
    let path = format!("/v1/tenants/{tenant}");
    let old = server
        .good("GET", &format!("{path}/secret"), Value::Null)
        .await;
    send(&server, &tenant, "customer.rewarded", None).await;
    assert!(is_signed(
        &receiver.wait_for(1).await[0],
        text(&old, "secret")
    ));
    let new = server
        .good("POST", &format!("{path}/rotate-secret"), Value::Null)
        .await;
    assert_ne!(new, old);
    assert_eq!(
        server
            .good("GET", &format!("{path}/secret"), Value::Null)
            .await,
        new
    );
    send(&server, &tenant, "customer.rewarded", None).await;
    send(&server, &tenant, "customer.rewarded", Some("*")).await;
    for request in &receiver.wait_for(3).await[1..] {
        assert!(
            is_signed(request, text(&new, "secret")),
            "{}",
            request.target
        );
    }
    let test = json!({ "name": "test", "tenant": tenant, "mode": "test" });
    let test = server.good("POST", "/v1/keys", test).await;
    let refused = server
        .call_as(
            text(&test, "key"),
            "POST",
            &format!("{path}/rotate-secret?mode=live"),
            json!({}),
        )
        .await;
    assert_eq!(refused.code(), "scope_insufficient");
    let audit = server
        .good(
            "GET",
            &format!("/v1/audit?tenant={tenant}&action=tenant.updated"),
            Value::Null,
        )
        .await;
    assert_eq!(audit["data"].as_array().unwrap().len(), 1);
    assert!(!audit.to_string().contains(text(&new, "secret")));
}
