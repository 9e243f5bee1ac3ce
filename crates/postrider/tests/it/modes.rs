//! A test key sees and changes nothing that is live.

use postrider_testkit::{Behaviour, Receiver};
use serde_json::{Value, json};

use crate::support::{TestServer, hmac, id, text};

/// A tenant with an endpoint and a delivery in each mode, and an application's test key.
struct Stage {
    server: TestServer,
    _receiver: Receiver,
    application: String,
    tenant: String,
    key: String,
    /// Of the live mode, then of the test mode.
    endpoints: [String; 2],
    events: [String; 2],
    deliveries: [String; 2],
}

async fn stage() -> Stage {
    let server = TestServer::start().await;
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let application = server.application("shop", "standard").await;
    let tenant = server.tenant_of(&application).await;
    let key = json!({ "name": "t", "application": application, "mode": "test" });
    let key = server.good("POST", "/v1/keys", key).await;
    let mut endpoints = Vec::new();
    let mut events = Vec::new();
    let mut deliveries = Vec::new();
    for mode in ["live", "test"] {
        let body = json!({ "url": receiver.url("/"), "mode": mode });
        let path = format!("/v1/tenants/{tenant}/endpoints");
        endpoints.push(id(&server.good("POST", &path, body).await));
        let body = json!({ "type": "a", "data": 1, "mode": mode });
        let path = format!("/v1/tenants/{tenant}/events");
        let event = id(&server.good("POST", &path, body).await);
        let query = format!("event={event}&status=delivered");
        deliveries.push(id(&server.finished(&query, 1).await[0]));
        events.push(event);
    }
    Stage {
        server,
        _receiver: receiver,
        application,
        tenant,
        key: text(&key, "key").to_owned(),
        endpoints: endpoints.try_into().unwrap(),
        events: events.try_into().unwrap(),
        deliveries: deliveries.try_into().unwrap(),
    }
}

impl Stage {
    async fn call(&self, method: &str, path: &str, body: Value) -> crate::support::Reply {
        self.server.call_as(&self.key, method, path, body).await
    }

    async fn ids(&self, path: &str) -> Vec<String> {
        let reply = self.call("GET", path, Value::Null).await;
        assert_eq!(reply.status, 200, "{path}: {reply:?}");
        let page = reply.json();
        page["data"].as_array().unwrap().iter().map(id).collect()
    }
}

#[tokio::test]
async fn a_test_key_makes_no_live_key() {
    let stage = stage().await;
    for owner in [
        json!({ "application": stage.application }),
        json!({ "tenant": stage.tenant }),
    ] {
        let mut body = owner;
        body["name"] = json!("made by a test key");
        let own = stage.call("POST", "/v1/keys", body.clone()).await;
        assert_eq!(own.json()["mode"], "test", "its own mode is the default");
        body["mode"] = json!("live");
        let live = stage.call("POST", "/v1/keys", body).await;
        assert_eq!(
            (live.status, live.code().as_str()),
            (403, "scope_insufficient")
        );
    }
    let root = json!({ "name": "root of the test mode", "mode": "test" });
    let root = stage.server.good("POST", "/v1/keys", root).await;
    let live = json!({ "name": "x", "mode": "live" });
    let refused = stage
        .server
        .call_as(text(&root, "key"), "POST", "/v1/keys", live);
    assert_eq!(refused.await.status, 403);
}

#[tokio::test]
async fn a_test_key_sees_what_is_of_the_test_mode() {
    let stage = stage().await;
    let tenant = &stage.tenant;
    let [_, endpoint] = &stage.endpoints;
    let [live, test] = &stage.deliveries;
    let endpoints = format!("/v1/tenants/{tenant}/endpoints");
    assert_eq!(stage.ids(&endpoints).await, [endpoint.as_str()]);
    let deliveries = format!("/v1/deliveries?tenant={tenant}");
    assert_eq!(stage.ids(&deliveries).await, [test.as_str()]);
    let events = format!("/v1/tenants/{tenant}/events");
    assert_eq!(stage.ids(&events).await, [stage.events[1].as_str()]);
    assert_eq!(stage.ids("/v1/keys").await.len(), 1, "itself");
    let statistics = format!("/v1/tenants/{tenant}/statistics");
    let counted = stage.call("GET", &statistics, Value::Null).await.json();
    assert_eq!(counted["totals"]["total"], 1);
    let send_outs = format!("/v1/tenants/{tenant}/send-outs");
    let shown = stage.call("GET", &send_outs, Value::Null).await.json();
    let shown = shown["data"].as_array().unwrap();
    assert_eq!(
        (shown.len(), text(&shown[0], "delivery")),
        (1, test.as_str())
    );
    for live in [
        format!("/v1/deliveries/{live}"),
        format!("/v1/events/{}", stage.events[0]),
        format!("/v1/endpoints/{}", stage.endpoints[0]),
    ] {
        let reply = stage.call("GET", &live, Value::Null).await;
        assert_eq!(reply.status, 404, "{live}");
    }
    let asked = format!("/v1/deliveries?tenant={tenant}&mode=live");
    let asked = stage.call("GET", &asked, Value::Null).await;
    assert_eq!(asked.json()["field"], "mode");
    let secret = format!("/v1/tenants/{tenant}/secret?mode=live");
    let secret = stage.call("GET", &secret, Value::Null).await;
    assert_eq!(secret.code(), "scope_insufficient");
    let replays = format!("/v1/tenants/{tenant}/replays");
    let replay = stage.server.good("POST", &replays, json!({})).await;
    let replay = format!("/v1/replays/{}", id(&replay));
    let replay = stage.call("GET", &replay, Value::Null).await;
    assert_eq!(replay.status, 404, "it is of both modes");
}

#[tokio::test]
async fn a_test_key_changes_and_sends_nothing_live() {
    let stage = stage().await;
    let (tenant, application) = (&stage.tenant, &stage.application);
    let [live, test] = &stage.deliveries;
    for (method, path) in [
        ("POST", format!("/v1/deliveries/{live}/resend")),
        ("POST", format!("/v1/send-outs/{live}/retry")),
        ("PATCH", format!("/v1/endpoints/{}", stage.endpoints[0])),
        ("DELETE", format!("/v1/endpoints/{}", stage.endpoints[0])),
    ] {
        let reply = stage.call(method, &path, json!({})).await;
        assert_eq!(reply.status, 404, "{method} {path}");
    }
    for (method, path, body) in [
        (
            "PATCH",
            format!("/v1/applications/{application}"),
            json!({ "settings": { "validate": "off" } }),
        ),
        (
            "PUT",
            format!("/v1/applications/{application}/event-types/a"),
            json!({ "schema": { "type": "string" } }),
        ),
        (
            "DELETE",
            format!("/v1/applications/{application}/event-types/a"),
            Value::Null,
        ),
        (
            "PATCH",
            format!("/v1/tenants/{tenant}"),
            json!({ "name": "x" }),
        ),
        (
            "POST",
            format!("/v1/applications/{application}/tenants"),
            json!({ "name": "x" }),
        ),
        (
            "POST",
            format!("/v1/tenants/{tenant}/replays"),
            json!({ "mode": "live", "status": "delivered" }),
        ),
    ] {
        let reply = stage.call(method, &path, body).await;
        assert_eq!(
            (reply.status, reply.code().as_str()),
            (403, "scope_insufficient"),
            "{method} {path}"
        );
    }
    let resent = format!("/v1/deliveries/{test}/resend");
    assert_eq!(stage.call("POST", &resent, Value::Null).await.status, 202);
    let query = format!("tenant={tenant}&status=delivered");
    stage.server.finished(&query, 2).await;
    let replays = format!("/v1/tenants/{tenant}/replays");
    let replay = stage
        .call("POST", &replays, json!({ "status": "delivered" }))
        .await;
    let path = format!("/v1/replays/{}", id(&replay.json()));
    let ended = stage
        .server
        .until(&path, |replay| replay["status"] == "finished")
        .await;
    assert_eq!(ended["done"], 1, "of both deliveries, the test one");
}

#[tokio::test]
async fn a_test_key_is_shown_no_live_signature() {
    let stage = stage().await;
    let explain = format!("/v1/tenants/{}/explain", stage.tenant);
    let [live, test] = &stage.endpoints;
    let all = json!({ "type": "a", "data": 1 });
    let shown = stage.call("POST", &explain, all.clone()).await.json();
    let shown = shown["data"].as_array().unwrap();
    assert_eq!(shown.len(), 1);
    assert_eq!(text(&shown[0], "endpoint"), test);
    let one = json!({ "type": "a", "data": 1, "endpoint": live });
    assert_eq!(stage.call("POST", &explain, one).await.status, 404);
    let page = format!("{explain}?limit=1");
    let first = stage.server.good("POST", &page, all.clone()).await;
    let next = format!("{page}&cursor={}", text(&first, "nextCursor"));
    let second = stage.server.good("POST", &next, all.clone()).await;
    assert_eq!(first["data"].as_array().unwrap().len(), 1);
    assert_eq!(
        text(&second["data"][0], "endpoint"),
        live,
        "the newest first"
    );
    let many = stage
        .call("POST", &format!("{explain}?limit=51"), all)
        .await;
    assert_eq!(many.json()["field"], "limit");
}

#[tokio::test]
async fn each_mode_has_its_own_idempotency_keys() {
    let stage = stage().await;
    let path = format!("/v1/tenants/{}/events", stage.tenant);
    let event = json!({ "type": "a", "data": 1, "idempotencyKey": "order-1" });
    let tested = stage.call("POST", &path, event.clone()).await.json();
    let lived = stage.server.good("POST", &path, event.clone()).await;
    assert_ne!(id(&lived), id(&tested));
    assert_eq!(lived.get("duplicate"), None, "it was not published before");
    let again = stage.call("POST", &path, event).await.json();
    assert_eq!(id(&again), id(&tested));
}

#[tokio::test]
async fn a_refused_live_event_is_never_answered_with_a_test_event() {
    let stage = stage().await;
    let path = format!("/v1/tenants/{}/events", stage.tenant);
    let event = json!({ "type": "a", "data": 1, "idempotencyKey": "order-1" });
    let tested = stage.call("POST", &path, event.clone()).await.json();
    let strict = json!({ "schema": { "type": "string" } });
    let schema = format!("/v1/applications/{}/event-types/a", stage.application);
    stage.server.good("PUT", &schema, strict).await;
    let live = stage.server.call("POST", &path, event.clone()).await;
    assert_eq!(live.code(), "data_invalid");
    let batch = json!({ "events": [event.clone()] });
    let batches = format!("{path}/batch");
    let batch = stage.server.call("POST", &batches, batch).await;
    assert_eq!(batch.json()["data"][0]["code"], "data_invalid");
    let again = stage.call("POST", &path, event).await.json();
    assert_eq!(id(&again), id(&tested));
}

#[tokio::test]
async fn each_mode_has_its_own_tenant_secret() {
    let server = TestServer::start().await;
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let application = server.application("shop", "voucherify").await;
    let path = format!("/v1/applications/{application}/tenants");
    let made = server.good("POST", &path, json!({ "name": "Ada" })).await;
    let tenant = format!("/v1/tenants/{}", id(&made));
    let key = json!({ "name": "t", "tenant": id(&made), "mode": "test" });
    let key = server.good("POST", "/v1/keys", key).await;
    let as_test = async |method: &str, path: String, body: Value| {
        let reply = server.call_as(text(&key, "key"), method, &path, body);
        reply.await.json()
    };
    let secret = as_test("GET", format!("{tenant}/secret"), Value::Null).await;
    assert_eq!(secret["mode"], "test");
    assert_eq!(secret["secret"], made["testSecret"]);
    assert_ne!(made["testSecret"], made["secret"]);
    let endpoint = json!({ "url": receiver.url("/test") });
    let endpoint = as_test("POST", format!("{tenant}/endpoints"), endpoint).await;
    assert_eq!(endpoint["secret"], made["testSecret"]);
    let shown = format!("/v1/endpoints/{}/secret", id(&endpoint));
    let shown = as_test("GET", shown, Value::Null).await;
    assert_eq!(shown["secret"], made["testSecret"]);
    server.endpoint(&id(&made), &receiver.url("/live")).await;
    let publish = async |mode: &str, callback: Option<String>| {
        let mut event = json!({ "type": "customer.rewarded", "data": {}, "mode": mode });
        if let Some(url) = callback {
            event["callbackUrl"] = json!(url);
        }
        server
            .good("POST", &format!("{tenant}/events"), event)
            .await
    };
    for mode in ["live", "test"] {
        publish(mode, None).await;
        publish(mode, Some(receiver.url("/once"))).await;
    }
    let mut signed_by: Vec<_> = receiver
        .wait_for(4)
        .await
        .iter()
        .map(|request| {
            let given = request.headers["x-voucherify-signature"].as_str();
            let by = ["secret", "testSecret"].into_iter();
            let mut by = by.filter(|name| hmac(text(&made, name), &request.body) == given);
            (request.target.clone(), by.next())
        })
        .collect();
    signed_by.sort();
    let expected = [
        ("/live", Some("secret")),
        ("/once", Some("secret")),
        ("/once", Some("testSecret")),
        ("/test", Some("testSecret")),
    ];
    let expected = expected.map(|(target, by)| (target.to_owned(), by));
    assert_eq!(signed_by, expected);
    let rotated = as_test("POST", format!("{tenant}/rotate-secret"), Value::Null).await;
    assert_ne!(rotated["secret"], made["testSecret"]);
    let live = server
        .good("GET", &format!("{tenant}/secret"), Value::Null)
        .await;
    assert_eq!(live["secret"], made["secret"], "the live one stays");
}

#[tokio::test]
async fn a_test_key_is_told_of_test_failures_and_reads_no_audit_log() {
    let server = TestServer::start().await;
    let receiver = Receiver::start(Behaviour::Status(400)).await;
    let tenant = server.tenant("simplifytrip").await;
    let asked = json!({ "webhooks": { "inApp": true } });
    let asked = json!({ "settings": { "notifications": asked } });
    let path = format!("/v1/tenants/{tenant}");
    server.good("PATCH", &path, asked).await;
    for mode in ["live", "test"] {
        let key =
            json!({ "name": mode, "tenant": tenant, "mode": mode, "webhook": receiver.url("/") });
        let key = server.good("POST", "/v1/keys", key).await;
        let event = json!({ "type": "X", "data": {}, "key": text(&key, "publicId") });
        server.good("POST", &format!("{path}/events"), event).await;
    }
    server
        .finished(&format!("tenant={tenant}&status=failed"), 2)
        .await;
    let key = json!({ "name": "t", "tenant": tenant, "mode": "test" });
    let key = server.good("POST", "/v1/keys", key).await;
    let as_test = async |method: &str, path: String, body: Value| {
        server.call_as(text(&key, "key"), method, &path, body).await
    };
    let notices = format!("{path}/notifications");
    let told = as_test("GET", notices.clone(), Value::Null).await.json();
    let told = told["data"].as_array().unwrap().clone();
    assert_eq!((told.len(), text(&told[0], "mode")), (1, "test"));
    let live = as_test("GET", format!("{notices}?mode=live"), Value::Null).await;
    assert_eq!(live.code(), "scope_insufficient");
    let all = server.good("GET", &notices, Value::Null).await;
    let newest = id(&all["data"][0]);
    let read = json!({ "upTo": newest });
    let read = as_test("POST", format!("{notices}/read"), read)
        .await
        .json();
    assert_eq!(read["read"], 1, "its own");
    let unread = server
        .good("GET", &format!("{notices}?unread=true"), Value::Null)
        .await;
    assert_eq!(unread["data"].as_array().unwrap().len(), 1);
    let audit = as_test("GET", format!("/v1/audit?tenant={tenant}"), Value::Null).await;
    assert_eq!(audit.code(), "scope_insufficient");
}
