//! SimplifyTrip as its users meet it: API keys that own endpoints, resends by hand, statistics.

use std::collections::BTreeMap;

use postrider_testkit::{Behaviour, Receiver};
use serde_json::{Value, json};

use crate::support::{TestServer, hmac, id, text};

const ORDER: &str = "PURCHASE_ORDER_SUCCESS";

fn order() -> Value {
    json!({ "orderId": "3248417841", "status": "SUCCESS", "items": [{ "sku": "EAS5XY01GB04DPY", "status": "SUCCESS" }] })
}

async fn key(server: &TestServer, tenant: &str, mode: &str, webhook: &str) -> Value {
    let body = json!({ "name": "agency", "tenant": tenant, "mode": mode, "webhook": webhook });
    server.good("POST", "/v1/keys", body).await
}

async fn send(server: &TestServer, tenant: &str, key: &Value) -> Value {
    let body = json!({ "type": ORDER, "data": order(), "key": text(key, "publicId") });
    server
        .good("POST", &format!("/v1/tenants/{tenant}/events"), body)
        .await
}

/// The receiver's side of the vendor's signature page: flatten, sort, join, HMAC.
fn signature(secret: &str, body: &[u8]) -> String {
    fn walk(value: &Value, path: &str, flat: &mut BTreeMap<String, String>) {
        let under = |name: &str| {
            if path.is_empty() {
                name.to_owned()
            } else {
                format!("{path}_{name}")
            }
        };
        match value {
            Value::Object(map) => map.iter().for_each(|(k, v)| walk(v, &under(k), flat)),
            Value::Array(list) => {
                let numbered = list.iter().enumerate();
                numbered.for_each(|(i, v)| walk(v, &under(&i.to_string()), flat));
            }
            Value::Null => drop(flat.insert(path.to_owned(), String::new())),
            Value::String(text) => drop(flat.insert(path.to_owned(), text.clone())),
            other => drop(flat.insert(path.to_owned(), other.to_string())),
        }
    }
    let mut flat = BTreeMap::new();
    walk(&serde_json::from_slice(body).unwrap(), "", &mut flat);
    let pairs: Vec<String> = flat.iter().map(|(k, v)| format!("{k}={v}")).collect();
    hmac(secret, pairs.join("&"))
}

#[tokio::test]
async fn two_keys_share_a_url_and_each_event_goes_out_once_for_its_key() {
    let server = TestServer::start().await;
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let tenant = server.tenant("simplifytrip").await;
    let url = receiver.url("/hook");
    let test = key(&server, &tenant, "test", &url).await;
    let live = key(&server, &tenant, "live", &url).await;
    for (key, mode) in [(&test, "test"), (&live, "live")] {
        for (field, prefix, len) in [
            ("publicId", "pk", 32),
            ("key", "sk", 40),
            ("secret", "ck", 32),
        ] {
            let value = text(key, field);
            assert!(value.starts_with(&format!("{prefix}_{mode}_")), "{value}");
            assert_eq!(value.len(), len, "{value}");
        }
        // Shown once: nowhere again.
        let again = server
            .good("GET", &format!("/v1/keys/{}", id(key)), Value::Null)
            .await;
        assert_eq!(
            (&again["key"], &again["secret"]),
            (&Value::Null, &Value::Null)
        );
        assert_eq!(again["webhook"], url);
    }
    assert_eq!(send(&server, &tenant, &test).await["deliveries"], 1);
    let first = receiver.wait_for(1).await.remove(0);
    send(&server, &tenant, &live).await;
    let second = receiver.wait_for(2).await.remove(1);
    for (request, key, mode) in [(&first, &test, "test"), (&second, &live, "live")] {
        let body: Value = serde_json::from_slice(&request.body).unwrap();
        assert_eq!(request.method, "POST");
        assert_eq!(request.headers["content-type"], "application/json");
        assert_eq!(body["mode"], mode);
        assert_eq!(body["data"], order());
        assert_eq!(request.headers["webhook-id"], text(&body, "id"));
        assert!(!request.headers.contains_key("x-simplify-trip-key"));
        let expected = signature(text(key, "secret"), &request.body);
        assert_eq!(request.headers["x-simplify-trip-signature"], expected);
    }
    assert_eq!(receiver.requests().len(), 2, "once for its key");

    // The mode is the key's: a live event is not for a test key.
    let path = format!("/v1/tenants/{tenant}/events");
    let wrong =
        json!({ "type": ORDER, "data": order(), "key": text(&test, "publicId"), "mode": "live" });
    let refused = server.call("POST", &path, wrong).await;
    assert_eq!(
        (refused.code().as_str(), refused.json()["field"].clone()),
        ("validation_failed", json!("mode"))
    );
    let nobodys = json!({ "type": ORDER, "data": order() });
    assert_eq!(
        server.call("POST", &path, nobodys).await.code(),
        "address_unclear"
    );
    let unknown = json!({ "type": ORDER, "data": order(), "key": "pk_live_none" });
    assert_eq!(
        server.call("POST", &path, unknown).await.code(),
        "validation_failed"
    );
    let other = server.tenant("simplifytrip").await;
    let foreign = json!({ "type": ORDER, "data": order(), "key": text(&live, "publicId") });
    let path = format!("/v1/tenants/{other}/events");
    assert_eq!(
        server.call("POST", &path, foreign).await.code(),
        "validation_failed"
    );
    let direct = server
        .call(
            "POST",
            &format!("/v1/tenants/{tenant}/endpoints"),
            json!({ "url": url }),
        )
        .await;
    assert_eq!(direct.code(), "endpoint_needs_key");
}

#[tokio::test]
async fn a_key_is_changed_rotated_disabled_and_deleted_with_its_endpoint() {
    let server = TestServer::start().await;
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let tenant = server.tenant("simplifytrip").await;
    let key = key(&server, &tenant, "live", &receiver.url("/old")).await;
    let path = format!("/v1/keys/{}", id(&key));
    let change = async |body: Value| server.good("PATCH", &path, body).await;
    change(json!({ "webhook": receiver.url("/new"), "name": "renamed" })).await;
    let rotated = server
        .good("POST", &format!("{path}/rotate-secret"), Value::Null)
        .await;
    let fresh = text(&rotated, "secret");
    assert!(fresh.starts_with("ck_live_") && fresh != text(&key, "secret"));
    send(&server, &tenant, &key).await;
    let request = receiver.wait_for(1).await.remove(0);
    assert_eq!(request.target, "/new");
    assert_eq!(
        request.headers["x-simplify-trip-signature"],
        signature(fresh, &request.body),
        "the new checksum key alone signs"
    );

    let disabled = change(json!({ "active": false })).await;
    assert_eq!(disabled["active"], false);
    assert_eq!(send(&server, &tenant, &key).await["deliveries"], 0);
    let refused = server
        .call_as(
            text(&key, "key"),
            "GET",
            &format!("/v1/tenants/{tenant}"),
            Value::Null,
        )
        .await;
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (401, "key_disabled")
    );
    change(json!({ "active": true })).await;
    assert_eq!(send(&server, &tenant, &key).await["deliveries"], 1);
    receiver.wait_for(2).await;

    // Without its webhook the key goes on, and its events reach nobody.
    let bare = change(json!({ "webhook": null })).await;
    assert_eq!(bare["webhook"], Value::Null);
    assert_eq!(send(&server, &tenant, &key).await["deliveries"], 0);
    let again = change(json!({ "webhook": receiver.url("/third") })).await;
    assert!(
        text(&again, "secret").starts_with("ck_live_"),
        "a new endpoint, a new secret"
    );
    send(&server, &tenant, &key).await;
    assert_eq!(receiver.wait_for(3).await[2].target, "/third");
    for body in [
        json!({ "webhook": "ftp://x" }),
        json!({ "allowedIps": ["nowhere"] }),
        json!({ "name": "" }),
        json!({ "colour": "red" }),
    ] {
        assert_eq!(
            server.call("PATCH", &path, body.clone()).await.status,
            400,
            "{body}"
        );
    }
    server.good("DELETE", &path, Value::Null).await;
    assert_eq!(server.call("GET", &path, Value::Null).await.status, 404);
    let endpoint = format!("/v1/endpoints/{}", text(&again, "endpoint"));
    assert_eq!(server.call("GET", &endpoint, Value::Null).await.status, 404);

    let query = format!("/v1/audit?tenant={tenant}&limit=250");
    let audit = server.good("GET", &query, Value::Null).await;
    let log = audit.to_string();
    for secret in [
        text(&key, "key"),
        text(&key, "secret"),
        fresh,
        text(&again, "secret"),
    ] {
        assert!(!log.contains(secret), "a secret is in the audit log");
    }
    let actions: Vec<&str> = audit["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| text(row, "action"))
        .collect();
    assert_eq!(actions[..2], ["key.deleted", "endpoint.deleted"]);
    let updates = audit["data"].as_array().unwrap().iter();
    let mut updates = updates.filter(|row| row["action"] == "key.updated");
    // Newest first: the renaming was the first of all.
    let renamed = updates.next_back();
    assert_eq!(renamed.unwrap()["after"]["name"], "renamed");
    assert_eq!(renamed.unwrap()["before"]["name"], "agency");
    assert_eq!(renamed.unwrap()["actor"]["name"], "root");
}

#[tokio::test]
async fn a_checksum_key_is_rotated_by_its_own_key_or_who_manages_keys() {
    let server = TestServer::start().await;
    let tenant = server.tenant("simplifytrip").await;
    let own = key(&server, &tenant, "live", "http://127.0.0.1:9/").await;
    let other = key(&server, &tenant, "live", "http://127.0.0.1:9/").await;
    let rotate = format!("/v1/endpoints/{}/rotate-secret", text(&own, "endpoint"));
    let by = async |key: &Value| {
        let reply = server.call_as(text(key, "key"), "POST", &rotate, Value::Null);
        reply.await
    };
    assert_eq!(by(&other).await.code(), "scope_insufficient");
    assert_eq!(by(&own).await.status, 200);
    assert_eq!(server.call("POST", &rotate, Value::Null).await.status, 200);
    // Nor is it made to sign what the other key's holder likes.
    let test = format!("/v1/endpoints/{}/test", text(&own, "endpoint"));
    let explain = format!("/v1/tenants/{tenant}/explain");
    let forged = json!({ "type": "X", "data": { "forged": true }, "key": text(&own, "publicId") });
    for (path, body) in [(test, json!({})), (explain, forged)] {
        let reply = server.call_as(text(&other, "key"), "POST", &path, body.clone());
        assert_eq!(reply.await.code(), "scope_insufficient", "{path}");
        let reply = server.call_as(text(&own, "key"), "POST", &path, body);
        assert_eq!(reply.await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn of_changes_at_once_that_give_a_key_its_webhook_one_shows_the_secret() {
    let server = std::sync::Arc::new(TestServer::start().await);
    let tenant = server.tenant("simplifytrip").await;
    let key = json!({ "name": "k", "tenant": tenant });
    let key = server.good("POST", "/v1/keys", key).await;
    let path = format!("/v1/keys/{}", id(&key));
    let changes = (0..8).map(|n| {
        let (server, path) = (server.clone(), path.clone());
        tokio::spawn(async move {
            let body = json!({ "webhook": format!("http://127.0.0.1:9/{n}") });
            server.good("PATCH", &path, body).await
        })
    });
    let changes: Vec<_> = changes.collect();
    let mut shown = 0;
    for change in changes {
        shown += usize::from(change.await.unwrap()["secret"].is_string());
    }
    assert_eq!(shown, 1);
}

#[tokio::test]
async fn a_key_opens_only_from_where_it_may_be_used() {
    let server = TestServer::with(|config| {
        config.server.trusted_proxies = vec!["127.0.0.1/32".parse().unwrap()];
    })
    .await;
    let tenant = server.tenant("simplifytrip").await;
    let body = json!({ "name": "office", "tenant": tenant, "allowedIps": ["192.0.2.0/24", "2001:db8::7"] });
    let key = server.good("POST", "/v1/keys", body).await;
    assert_eq!(
        key["allowedIps"],
        json!(["192.0.2.0/24", "2001:db8::7/128"])
    );
    let bearer = format!("Bearer {}", text(&key, "key"));
    let path = format!("/v1/tenants/{tenant}");
    for (forwarded, status) in [
        (vec![], 403),
        (vec!["192.0.2.9"], 200),
        (vec!["2001:db8::7"], 200),
        (vec!["198.51.100.1"], 403),
        // Whoever asks can write anything before what the proxy adds.
        (vec!["192.0.2.9, 198.51.100.1"], 403),
        (vec!["198.51.100.1, 192.0.2.9"], 200),
        (vec!["192.0.2.9", "198.51.100.1"], 403),
        (vec!["198.51.100.1", "192.0.2.9"], 200),
        (vec!["rubbish"], 403),
        // What cannot be read hides nothing behind it.
        (vec!["192.0.2.9", "198.51.100.1, \u{e9}"], 403),
    ] {
        let mut headers = vec![("authorization", bearer.as_str())];
        headers.extend(forwarded.iter().map(|value| ("x-forwarded-for", *value)));
        let reply = crate::support::http(server.address, "GET", &path, &headers, "").await;
        assert_eq!(reply.status, status, "{forwarded:?}: {reply:?}");
        if status == 403 {
            assert_eq!(reply.code(), "address_not_allowed");
        }
    }
}

#[tokio::test]
async fn what_a_4xx_stopped_is_resent_by_hand_with_the_same_id_and_counted() {
    let server = TestServer::start().await;
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let tenant = server.tenant("simplifytrip").await;
    let key = key(&server, &tenant, "test", &receiver.url("/hook")).await;
    receiver.script([Behaviour::Status(429)]);
    let event = send(&server, &tenant, &key).await;
    let query = format!("event={}", id(&event));
    let stopped = server.finished(&query, 1).await.remove(0);
    assert_eq!(text(&stopped, "key"), id(&key), "a row says whose it is");
    assert_eq!(
        (text(&stopped, "status"), text(&stopped, "reason")),
        ("failed", "stopped")
    );
    server
        .good(
            "PATCH",
            &format!("/v1/keys/{}", id(&key)),
            json!({ "webhook": receiver.url("/fixed") }),
        )
        .await;
    let resend = format!("/v1/deliveries/{}/resend", id(&stopped));
    for count in 2..=3 {
        // From stopped, and once more from delivered.
        server.good("POST", &resend, json!({})).await;
        receiver.wait_for(count).await;
        server.finished(&query, 1).await;
    }
    let requests = receiver.requests();
    let bodies: Vec<Value> = requests
        .iter()
        .map(|r| serde_json::from_slice(&r.body).unwrap())
        .collect();
    assert_eq!(requests[1].target, "/fixed", "the URL of now");
    for body in &bodies[1..] {
        assert_eq!(
            (&body["id"], &body["createdAt"]),
            (&bodies[0]["id"], &bodies[0]["createdAt"])
        );
        assert!(text(body, "sentDate") >= text(&bodies[0], "sentDate"));
    }
    let whole = server
        .good(
            "GET",
            &format!("/v1/deliveries/{}", id(&stopped)),
            Value::Null,
        )
        .await;
    let attempts = whole["attempts"].as_array().unwrap();
    assert_eq!(attempts.len(), 3);
    for (attempt, request) in attempts.iter().zip(&requests) {
        assert_eq!(
            text(attempt, "requestBody").as_bytes(),
            &request.body[..],
            "the very bytes sent"
        );
        assert_eq!(attempt["method"], request.method);
    }
    assert_eq!(
        (&attempts[1]["manual"], &attempts[0]["statusCode"]),
        (&json!(true), &json!(429))
    );

    let path = format!(
        "/v1/tenants/{tenant}/statistics?key={}&period=1h",
        text(&key, "publicId")
    );
    let statistics = server.good("GET", &path, Value::Null).await;
    let totals = &statistics["totals"];
    assert_eq!(
        (&totals["total"], &totals["delivered"], &totals["attempts"]),
        (&json!(1), &json!(1), &json!(3))
    );
    assert_eq!(
        statistics["byType"],
        json!([{ "type": ORDER, "total": 1, "pending": 0, "delivered": 1, "failed": 0, "cancelled": 0, "skipped": 0, "attempts": 3 }])
    );
    assert_eq!(
        (
            &statistics["byMode"][0]["mode"],
            &statistics["byEndpoint"][0]["key"]
        ),
        (&json!("test"), &key["publicId"])
    );
    let series = statistics["series"].as_array().unwrap();
    assert_eq!(
        series
            .iter()
            .map(|point| point["total"].as_u64().unwrap())
            .sum::<u64>(),
        1
    );
    let list = format!(
        "/v1/deliveries?tenant={tenant}&key={}&type={ORDER}&mode=test&status=delivered",
        text(&key, "publicId")
    );
    assert_eq!(
        server.good("GET", &list, Value::Null).await["data"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    let none = format!("/v1/deliveries?tenant={tenant}&mode=live");
    assert_eq!(
        server.good("GET", &none, Value::Null).await["data"],
        json!([])
    );
    for bad in [
        "period=1s",
        "period=x",
        "since=2026-01-02T00:00:00Z&until=2026-01-01T00:00:00Z",
        "status=lost",
        "key=pk_none",
    ] {
        let reply = server
            .call(
                "GET",
                &format!("/v1/tenants/{tenant}/statistics?{bad}"),
                Value::Null,
            )
            .await;
        assert!((400..=404).contains(&reply.status), "{bad}: {reply:?}");
        assert!(!reply.code().is_empty());
    }
}

/// SimplifyTrip's profile with its three retries a second apart.
async fn hurried_server() -> (TestServer, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let built_in = include_str!("../../../../profiles/simplifytrip.toml");
    let hurried = built_in.replace(r#"["5m", "5m", "5m"]"#, r#"["1s", "1s", "1s"]"#);
    assert_ne!(hurried, built_in);
    std::fs::write(directory.path().join("simplifytrip.toml"), hurried).unwrap();
    let path = directory.path().to_owned();
    let server = TestServer::with(|config| {
        config.profiles.directory = Some(path);
        // The profile itself allows plain HTTP.
        config.egress.plain_http = false;
    })
    .await;
    (server, directory)
}

#[tokio::test]
async fn a_retry_goes_to_the_url_of_now_and_what_is_exhausted_can_be_resent() {
    let (server, _profiles) = hurried_server().await;
    let receiver = Receiver::start(Behaviour::Status(503)).await;
    // The first answer is late, so that the URL changes while its attempt runs.
    receiver.script([Behaviour::SlowStatus(
        std::time::Duration::from_secs(2),
        500,
    )]);
    let tenant = server.tenant("simplifytrip").await;
    let key = key(&server, &tenant, "live", &receiver.url("/old")).await;
    let event = send(&server, &tenant, &key).await;
    receiver.wait_for(1).await;
    let change = json!({ "webhook": receiver.url("/new") });
    let path = format!("/v1/keys/{}", id(&key));
    server.good("PATCH", &path, change).await;
    let query = format!("event={}", id(&event));
    let failed = server.finished(&query, 1).await.remove(0);
    assert_eq!(text(&failed, "reason"), "exhausted");
    let targets = || -> Vec<String> {
        let requests = receiver.requests().into_iter();
        requests.map(|request| request.target).collect()
    };
    assert_eq!(targets(), ["/old", "/new", "/new", "/new"]);
    let resend = format!("/v1/deliveries/{}/resend", id(&failed));
    server.good("POST", &resend, json!({})).await;
    server.finished(&query, 1).await;
    assert_eq!(
        targets().len(),
        5,
        "one attempt, and no other after it failed"
    );
}

#[tokio::test]
async fn the_three_payloads_have_schemas_and_examples_that_test_sends_are_made_from() {
    let server = TestServer::start().await;
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let application = server.application("trips", "simplifytrip").await;
    let tenant = server.tenant_of(&application).await;
    let key = key(&server, &tenant, "live", &receiver.url("/")).await;
    let types = server
        .good(
            "GET",
            &format!("/v1/applications/{application}/event-types"),
            Value::Null,
        )
        .await;
    let types = types["data"].as_array().unwrap().clone();
    assert_eq!(types.len(), 3);
    let events = format!("/v1/tenants/{tenant}/events");
    for (number, described) in types.iter().enumerate() {
        let body = json!({ "type": described["name"] });
        let path = format!("/v1/endpoints/{}/test", text(&key, "endpoint"));
        let answer = server.good("POST", &path, body).await;
        assert_eq!(
            (&answer["success"], &answer["statusCode"]),
            (&json!(true), &json!(200))
        );
        let request = receiver.wait_for(number + 1).await.remove(number);
        let sent: Value = serde_json::from_slice(&request.body).unwrap();
        assert_eq!(
            (&sent["type"], &sent["data"]),
            (&described["name"], &described["example"])
        );
        let bad =
            json!({ "type": described["name"], "data": { "status": 7 }, "key": key["publicId"] });
        let refused = server.call("POST", &events, bad).await;
        assert_eq!(
            (refused.status, refused.code().as_str()),
            (400, "data_invalid")
        );
    }
    let bad = json!({ "type": ORDER, "data": { "orderId": "1", "status": "S", "items": [{ "sku": "x", "status": 1 }] }, "key": key["publicId"] });
    let problem = server.call("POST", &events, bad.clone()).await.json();
    assert_eq!(problem["field"], "data/items/0/status");
    let put = format!("/v1/applications/{application}/event-types/OWN");
    for (schema, part) in [
        (
            json!({ "$ref": "http://127.0.0.1:9/s.json" }),
            "never fetched",
        ),
        (
            json!({ "$defs": { "a": { "items": { "$ref": "#/$defs/a" } } }, "$ref": "#/$defs/a" }),
            "back to itself",
        ),
        (crate::schemas::doubling(40), "unfolds"),
        (json!({ "pattern": "(a{999}){999}" }), "repeat less"),
        (json!({ "type": "obj" }), "not a JSON Schema"),
        (json!({ "pattern": "(a" }), "not a JSON Schema"),
    ] {
        let reply = server.call("PUT", &put, json!({ "schema": schema })).await;
        assert_eq!(
            (reply.status, reply.json()["field"].clone()),
            (400, json!("schema"))
        );
        assert!(text(&reply.json(), "detail").contains(part), "{reply:?}");
    }
    let settings = |validate: &str| json!({ "settings": { "validate": validate } });
    let path = format!("/v1/applications/{application}");
    server.good("PATCH", &path, settings("warn")).await;
    let warned = server.good("POST", &events, bad.clone()).await;
    assert!(
        text(&warned, "warning").starts_with("data/items/0/status"),
        "{warned}"
    );
    server.good("PATCH", &path, settings("off")).await;
    let silent = server.good("POST", &events, bad).await;
    assert_eq!(silent["warning"], Value::Null);
    assert_eq!(
        server.call("PATCH", &path, settings("maybe")).await.json()["field"],
        "settings.validate"
    );
}

#[tokio::test]
async fn optional_headers_are_the_applications_choice() {
    let server = TestServer::start().await;
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let application = server.application("trips", "simplifytrip").await;
    let tenant = server.tenant_of(&application).await;
    let key = key(&server, &tenant, "live", &receiver.url("/")).await;
    let path = format!("/v1/applications/{application}");
    for (number, (chosen, id, public)) in [
        (json!(["X-Simplify-Trip-Key"]), true, true),
        (json!(["-webhook-id", "X-Simplify-Trip-Key"]), false, true),
        (json!([]), true, false),
        (Value::Null, true, false),
    ]
    .into_iter()
    .enumerate()
    {
        server
            .good(
                "PATCH",
                &path,
                json!({ "settings": { "extraHeaders": chosen } }),
            )
            .await;
        send(&server, &tenant, &key).await;
        let request = receiver.wait_for(number + 1).await.remove(number);
        assert_eq!(request.headers.contains_key("webhook-id"), id);
        let sent = request
            .headers
            .get("x-simplify-trip-key")
            .map(String::as_str);
        assert_eq!(sent, public.then(|| text(&key, "publicId")));
    }
    let unknown = json!({ "settings": { "extraHeaders": ["x-signature"] } });
    assert_eq!(
        server.call("PATCH", &path, unknown).await.json()["field"],
        "settings.extraHeaders"
    );
}

#[tokio::test]
async fn a_keys_endpoint_that_failures_disabled_is_enabled_only_by_asking() {
    let server = TestServer::start().await;
    let receiver = Receiver::start(Behaviour::Status(410)).await;
    let tenant = server.tenant("standard").await;
    let key = key(&server, &tenant, "live", &receiver.url("/")).await;
    send(&server, &tenant, &key).await;
    let endpoint = format!("/v1/endpoints/{}", text(&key, "endpoint"));
    server
        .until(&endpoint, |view| view["active"] == false)
        .await;
    let path = format!("/v1/keys/{}", id(&key));
    for (change, active) in [
        (json!({ "name": "renamed" }), false),
        (json!({ "active": true }), true),
    ] {
        server.good("PATCH", &path, change.clone()).await;
        let view = server.good("GET", &endpoint, Value::Null).await;
        assert_eq!(view["active"], active, "{change}");
    }
}

#[tokio::test]
async fn an_event_whose_signed_form_would_be_endless_is_refused_when_it_is_published() {
    let server = TestServer::start().await;
    let tenant = server.tenant("simplifytrip").await;
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let key = key(&server, &tenant, "live", &receiver.url("/hook")).await;
    let event = |name: String| {
        let data = json!({ name: vec![1; 40_000] });
        json!({ "type": "X", "data": data, "key": key["publicId"] })
    };
    for path in ["events", "explain"] {
        let path = format!("/v1/tenants/{tenant}/{path}");
        let reply = server.call("POST", &path, event("n".repeat(100_000))).await;
        assert_eq!(reply.status, 400, "{}", reply.text);
        assert!(reply.text.contains("shorten the names"), "{}", reply.text);
    }
    let path = format!("/v1/endpoints/{}/test", text(&key, "endpoint"));
    let data = event("n".repeat(100_000))["data"].clone();
    let reply = server
        .call("POST", &path, json!({ "type": "X", "data": data }))
        .await;
    assert_eq!(reply.json()["field"], "data", "{}", reply.text);
    let path = format!("/v1/tenants/{tenant}/events");
    server
        .good("POST", &path, event("numbers".to_owned()))
        .await;
    let requests = receiver.wait_for(1).await;
    assert!(
        requests[0]
            .headers
            .contains_key("x-simplify-trip-signature")
    );
}
