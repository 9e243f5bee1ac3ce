//! Voucherify's distributions, its project secret and its send-out log.

use std::time::Duration;

use postrider_testkit::{Behaviour, Receiver, Request};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::pages::browser::Browser;
use crate::support::{TestServer, hmac, id, text};

const META: &str = r#"{"id":"evcus_1","group_id":"v-0ead4423d55b6996f2"}"#;

/// Voucherify's profile with its twelve retries in milliseconds instead of minutes.
pub(crate) fn in_a_hurry() -> TempDir {
    let offsets: Vec<String> = (1..=12).map(|n| format!("\"{}ms\"", n * 20)).collect();
    with_offsets(&offsets.join(", "))
}

fn with_offsets(offsets: &str) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let built_in = include_str!("../../../../profiles/voucherify.toml");
    let line = built_in
        .lines()
        .find(|line| line.starts_with("offsets = ["))
        .unwrap();
    let hurried = built_in.replace(line, &format!("offsets = [{offsets}]"));
    std::fs::write(directory.path().join("voucherify.toml"), hurried).unwrap();
    directory
}

pub(crate) async fn hurried_server() -> (TestServer, TempDir) {
    server_with(in_a_hurry()).await
}

pub(crate) async fn server_with(profiles: TempDir) -> (TestServer, TempDir) {
    let path = profiles.path().to_owned();
    let server = TestServer::with(|config| config.profiles.directory = Some(path)).await;
    (server, profiles)
}

pub(crate) async fn create(server: &TestServer, tenant: &str, url: &str, extra: Value) -> Value {
    let mut body = json!({
        "name": "Welcome mail", "eventName": "Voucher-sent", "url": url, "events": ["customer.rewarded", "customer.segment.entered"],
    });
    body.as_object_mut()
        .unwrap()
        .extend(extra.as_object().unwrap().clone());
    let path = format!("/v1/tenants/{tenant}/distributions");
    server.good("POST", &path, body).await
}

pub(crate) async fn send(
    server: &TestServer,
    tenant: &str,
    event_type: &str,
    to: Option<&str>,
) -> Value {
    let mut body = json!({ "type": event_type, "data": { "voucher": { "code": "AB 12" }, "amount": 1.50, "customer": { "id": "cust_1" } } });
    body["meta"] = serde_json::from_str(META).unwrap();
    if let Some(to) = to {
        body["distribution"] = json!(to);
    }
    server
        .good("POST", &format!("/v1/tenants/{tenant}/events"), body)
        .await
}

pub(crate) fn body(request: &Request) -> Value {
    serde_json::from_slice(&request.body).unwrap()
}

pub(crate) fn is_signed(request: &Request, secret: &str) -> bool {
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
async fn a_paused_distribution_holds_what_waits_and_goes_on_with_it() {
    let server = TestServer::start().await;
    let receiver = Receiver::start(Behaviour::Hang).await;
    let tenant = server.tenant("voucherify").await;
    let new = json!({ "name": "n", "eventName": "e", "events": ["customer.rewarded"], "url": receiver.url("/"), "rateLimit": 1 });
    let path = format!("/v1/tenants/{tenant}/distributions");
    let made = server.good("POST", &path, new).await;
    let path = format!("/v1/distributions/{}", id(&made));
    for _ in 0..2 {
        send(&server, &tenant, "customer.rewarded", Some(&id(&made))).await;
    }
    // One is on its way, the other waits for its turn.
    receiver.wait_for(1).await;
    server
        .good("PATCH", &path, json!({ "status": "paused" }))
        .await;
    let waiting = format!("/v1/deliveries?tenant={tenant}&status=pending");
    let held = server.good("GET", &waiting, Value::Null).await;
    assert_eq!(
        held["data"].as_array().unwrap().len(),
        2,
        "nothing is given up"
    );
    receiver.behave(Behaviour::Status(200));
    server
        .good("PATCH", &path, json!({ "status": "live" }))
        .await;
    let query = format!("tenant={tenant}&status=delivered");
    server.finished(&query, 1).await;
}

#[tokio::test]
async fn nothing_is_sent_while_a_distribution_is_paused_and_what_waited_when_it_goes_on() {
    // One request at a time, so that the second waits for the end of the first.
    let server = TestServer::with(|config| config.limits.endpoint_in_flight = 1).await;
    let slow = Duration::from_secs(2);
    let receiver = Receiver::start(Behaviour::SlowStatus(slow, 200)).await;
    let webhooks = Receiver::start(Behaviour::Status(200)).await;
    let tenant = server.tenant("voucherify").await;
    server.endpoint(&tenant, &webhooks.url("/")).await;
    let distribution = create(&server, &tenant, &receiver.url("/"), json!({})).await;
    let own = id(&distribution);
    let path = format!("/v1/distributions/{own}");
    let first = send(&server, &tenant, "customer.rewarded", Some(&own)).await;
    let waiting = send(&server, &tenant, "customer.rewarded", Some(&own)).await;
    receiver.wait_for(1).await;
    server
        .good("PATCH", &path, json!({ "status": "paused" }))
        .await;
    let skipped = send(&server, &tenant, "customer.rewarded", Some("*")).await;
    assert_eq!(skipped["deliveries"], 0);
    // What was under way ends, and the turn of the second would have come.
    let ended = server
        .finished(&format!("event={}", id(&first)), 1)
        .await
        .remove(0);
    assert_eq!(ended["status"], "delivered");
    // Others of the tenant go on meanwhile, one after the other so that time passes.
    for _ in 0..3 {
        let event = server.publish(&tenant, "voucher.created", json!({})).await;
        let sent = server.finished(&format!("event={}", id(&event)), 1).await;
        assert_eq!(sent[0]["status"], "delivered");
    }
    assert_eq!(webhooks.requests().len(), 3);
    assert_eq!(receiver.requests().len(), 1, "only what was under way");
    let held = format!("/v1/deliveries?event={}", id(&waiting));
    let held = server.good("GET", &held, Value::Null).await;
    assert_eq!(
        (&held["data"][0]["status"], &held["data"][0]["attemptsMade"]),
        (&json!("pending"), &json!(0))
    );

    server
        .good("PATCH", &path, json!({ "status": "live" }))
        .await;
    let went_on = server.finished(&format!("event={}", id(&waiting)), 1).await;
    assert_eq!(
        (&went_on[0]["status"], &went_on[0]["attemptsMade"]),
        (&json!("delivered"), &json!(1))
    );
    // What came while it was paused waited for nothing.
    let rows = server.finished(&format!("event={}", id(&skipped)), 1).await;
    assert_eq!(rows[0]["status"], "skipped");
    assert_eq!(receiver.requests().len(), 2);
}

/// None is lost though the pause was longer than the schedule, and they do not come together (`docs/systems.md`, A-27).
#[tokio::test]
async fn after_a_long_pause_the_retries_that_were_left_go_on_at_their_distance() {
    let (server, _profiles) = server_with(with_offsets(r#""1s", "2s""#)).await;
    let receiver = Receiver::start(Behaviour::Status(500)).await;
    let tenant = server.tenant("voucherify").await;
    let distribution = create(&server, &tenant, &receiver.url("/"), json!({})).await;
    let own = id(&distribution);
    let path = format!("/v1/distributions/{own}");
    let event = send(&server, &tenant, "customer.rewarded", Some(&own)).await;
    receiver.wait_for(1).await;
    let began = std::time::Instant::now();
    server
        .good("PATCH", &path, json!({ "status": "paused" }))
        .await;
    // Until the schedule is over; nothing tells of what does not happen.
    while began.elapsed() < Duration::from_millis(2_500) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(receiver.requests().len(), 1, "it is paused");
    server
        .good("PATCH", &path, json!({ "status": "live" }))
        .await;
    let query = format!("event={}", id(&event));
    let ended = server.finished(&query, 1).await.remove(0);
    assert_eq!(
        (&ended["status"], &ended["attemptsMade"]),
        (&json!("failed"), &json!(3)),
        "{ended}"
    );
    let requests = receiver.requests();
    let apart = requests[2].at - requests[1].at;
    assert!(apart >= Duration::from_secs(1), "{apart:?}");
}

#[tokio::test]
async fn a_type_that_the_application_declares_triggers_distributions_too() {
    let server = TestServer::start().await;
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let application = server.application("shop", "voucherify").await;
    let tenant = server.tenant_of(&application).await;
    let path = format!("/v1/tenants/{tenant}/distributions");
    let failed = "customer.publication.failed";
    let new =
        json!({ "name": "n", "eventName": "e", "url": receiver.url("/"), "events": [failed] });
    let refused = server.call("POST", &path, new.clone()).await;
    assert_eq!(refused.code(), "event_type_unknown");
    // What is no name is not looked up, which would remember it.
    let mut long = new.clone();
    long["events"] = json!(["x".repeat(200_000)]);
    let refused = server.call("POST", &path, long).await;
    assert_eq!(refused.code(), "subscription_invalid");
    let declare = format!("/v1/applications/{application}/event-types/{failed}");
    server.good("PUT", &declare, json!({})).await;
    let made = server.good("POST", &path, new).await;
    // A form has a box for it too, and one for what was declared once and is not any more.
    server.good("DELETE", &declare, Value::Null).await;
    let mut operator = Browser::sign_in(&server, &server.root).await;
    let edit = format!("/distributions/{}/edit", id(&made));
    let form = operator.page(&edit).await;
    let checked = format!("value=\"{failed}\" checked");
    assert!(form.contains(&checked), "{form}");
    server.good("PUT", &declare, json!({})).await;
    let event = json!({ "type": failed, "data": {}, "distribution": "*" });
    let events = format!("/v1/tenants/{tenant}/events");
    server.good("POST", &events, event).await;
    receiver.wait_for(1).await;
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
        (
            "headers",
            json!({ "X-Upper": "1", "x-upper": "2" }),
            "headers.x-upper",
        ),
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
