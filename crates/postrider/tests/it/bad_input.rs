//! Bad input: each is refused with a clear problem and changes nothing.

use serde_json::{Value, json};

use crate::support::{TestServer, http, id};

#[tokio::test]
async fn urls_that_cannot_receive_are_refused() {
    let server = TestServer::with(|config| {
        config.egress.allow.clear();
        config.egress.plain_http = false;
    })
    .await;
    let tenant = server.tenant("standard").await;
    let path = format!("/v1/tenants/{tenant}/endpoints");
    let long = format!("https://example.com/{}", "x".repeat(2_048));
    for url in [
        "",
        "nonsense",
        "/relative",
        "https://",
        "https://user:pw@example.com/",
        "http://example.com/",
        "ftp://example.com/",
        "https://localhost/",
        "https://localhost./",
        "https://x.localhost/",
        "https://127.0.0.1/",
        "https://127.1/",
        "https://0x7f000001/",
        "https://2130706433/",
        "https://127.0.0.1./",
        "https://[::1]/",
        "https://[::ffff:10.0.0.1]/",
        "https://[64:ff9b::a00:1]/",
        "https://[2002:a00:1::]/",
        "https://[fd00::1]/",
        "https://[fe80::1]/",
        "https://10.0.0.1/",
        "https://172.16.0.1/",
        "https://192.168.0.1/",
        "https://169.254.169.254/latest/meta-data",
        "https://100.64.0.1/",
        "https://224.0.0.1/",
        "https://0.0.0.0/",
        "https://exa mple.com/",
        "https://example.com/\u{0}",
        &long,
    ] {
        let reply = server.call("POST", &path, json!({ "url": url })).await;
        assert_eq!(
            (reply.status, reply.code().as_str()),
            (400, "endpoint_url_invalid"),
            "{url:?}"
        );
        assert_eq!(reply.json()["field"], "url");
    }
    assert_eq!(
        server.call("POST", &path, json!({})).await.code(),
        "validation_failed"
    );
    assert_eq!(
        server.call("POST", &path, json!({ "url": 7 })).await.code(),
        "validation_failed"
    );
    assert_eq!(
        server.good("GET", &path, Value::Null).await["data"],
        json!([])
    );
}

#[tokio::test]
async fn fields_that_are_not_as_they_must_be_are_refused() {
    let server = TestServer::start().await;
    let (open, closed) = (
        server.tenant("standard").await,
        server.tenant("vignetim").await,
    );
    let url = "http://127.0.0.1:9/";
    let many: Vec<String> = (0..101).map(|i| format!("a.b{i}")).collect();
    let headers: serde_json::Map<String, Value> =
        (0..33).map(|i| (format!("x-{i}"), json!("v"))).collect();
    for (tenant, body, code) in [
        (
            &open,
            json!({ "url": url, "events": [] }),
            "subscription_invalid",
        ),
        (
            &open,
            json!({ "url": url, "events": "*" }),
            "validation_failed",
        ),
        (
            &open,
            json!({ "url": url, "events": [7] }),
            "validation_failed",
        ),
        (
            &open,
            json!({ "url": url, "events": many }),
            "subscription_invalid",
        ),
        (
            &open,
            json!({ "url": url, "events": ["a b"] }),
            "subscription_invalid",
        ),
        (
            &closed,
            json!({ "url": url, "events": ["order.shipped"] }),
            "event_type_unknown",
        ),
        (
            &closed,
            json!({ "url": url, "events": ["order.*"] }),
            "event_type_unknown",
        ),
        (
            &closed,
            json!({ "url": url, "headers": { "x-a": "b" } }),
            "validation_failed",
        ),
        (
            &closed,
            json!({ "url": url, "asymmetric": true }),
            "validation_failed",
        ),
        (
            &open,
            json!({ "url": url, "unknown": 1 }),
            "validation_failed",
        ),
        (
            &open,
            json!({ "url": url, "description": "x".repeat(1_025) }),
            "validation_failed",
        ),
        (
            &open,
            json!({ "url": url, "description": "a\u{7}b" }),
            "validation_failed",
        ),
        (
            &open,
            json!({ "url": url, "headers": { "webhook-id": "mine" } }),
            "validation_failed",
        ),
        (
            &open,
            json!({ "url": url, "headers": { "Host": "evil" } }),
            "validation_failed",
        ),
        (
            &open,
            json!({ "url": url, "headers": { "a b": "c" } }),
            "validation_failed",
        ),
        (
            &open,
            json!({ "url": url, "headers": { "x-a": "b\r\nx-c: d" } }),
            "validation_failed",
        ),
        (
            &open,
            json!({ "url": url, "headers": { "x-a": "" } }),
            "validation_failed",
        ),
        (
            &open,
            json!({ "url": url, "headers": { "X-A": "1", "x-a": "2" } }),
            "validation_failed",
        ),
        (
            &open,
            json!({ "url": url, "headers": headers }),
            "validation_failed",
        ),
        (
            &open,
            json!({ "url": url, "rateLimit": 0 }),
            "validation_failed",
        ),
        (
            &open,
            json!({ "url": url, "rateLimit": -1 }),
            "validation_failed",
        ),
        (
            &open,
            json!({ "url": url, "ordering": "sometimes" }),
            "validation_failed",
        ),
        (
            &open,
            json!({ "url": url, "mode": "staging" }),
            "validation_failed",
        ),
    ] {
        let reply = server
            .call(
                "POST",
                &format!("/v1/tenants/{tenant}/endpoints"),
                body.clone(),
            )
            .await;
        assert_eq!((reply.status, reply.code().as_str()), (400, code), "{body}");
    }
    for tenant in [open, closed] {
        assert_eq!(
            server
                .good(
                    "GET",
                    &format!("/v1/tenants/{tenant}/endpoints"),
                    Value::Null
                )
                .await["data"],
            json!([])
        );
    }
}

#[tokio::test]
async fn bodies_that_are_not_one_sound_json_value_are_refused() {
    let server = TestServer::start().await;
    let tenant = server.tenant("standard").await;
    let path = format!("/v1/tenants/{tenant}/events");
    let deep = format!(
        r#"{{"type":"a","data":{}{}}}"#,
        "[".repeat(65),
        "]".repeat(65)
    );
    for (body, status, code) in [
        (String::new(), 400, "body_not_json"),
        ("{".to_owned(), 400, "body_not_json"),
        ("[]".to_owned(), 400, "validation_failed"),
        (
            r#"{"type":"a","data":1} x"#.to_owned(),
            400,
            "body_not_json",
        ),
        (
            r#"{"type":"a","data":{"x":1,"x":2}}"#.to_owned(),
            400,
            "body_duplicate_key",
        ),
        (
            r#"{"type":"a","type":"b","data":1}"#.to_owned(),
            400,
            "body_duplicate_key",
        ),
        (deep, 400, "body_too_deep"),
        (r#"{"type":"a","data":1e}"#.to_owned(), 400, "body_not_json"),
        (r#"["a",{"z":1}]"#.to_owned(), 400, "validation_failed"),
        (r#"{"data":1}"#.to_owned(), 400, "validation_failed"),
        (r#"{"type":"a"}"#.to_owned(), 400, "validation_failed"),
        (
            r#"{"type":"a b","data":1}"#.to_owned(),
            400,
            "validation_failed",
        ),
        (
            r#"{"type":"a","data":1,"extra":1}"#.to_owned(),
            400,
            "validation_failed",
        ),
        (
            r#"{"type":"a","data":1,"occurredAt":"yesterday"}"#.to_owned(),
            400,
            "validation_failed",
        ),
        (
            r#"{"type":"a","data":1,"deliverBefore":"2020-01-01T00:00:00Z"}"#.to_owned(),
            400,
            "validation_failed",
        ),
        (
            r#"{"type":"a","data":1,"callbackUrl":"ftp://x/"}"#.to_owned(),
            400,
            "endpoint_url_invalid",
        ),
        (
            r#"{"type":"a","data":1,"idempotencyKey":""}"#.to_owned(),
            400,
            "validation_failed",
        ),
        (
            format!(r#"{{"type":"a","data":"{}"}}"#, "x".repeat(256 * 1024)),
            413,
            "body_too_large",
        ),
    ] {
        let short: String = body.chars().take(80).collect();
        let reply = server.raw(&path, body).await;
        assert_eq!(
            (reply.status, reply.code().as_str()),
            (status, code),
            "{short}"
        );
    }
    let not_utf8 = server
        .raw(&path, b"{\"type\":\"a\",\"data\":\"\xff\"}".to_vec())
        .await;
    assert_eq!(not_utf8.code(), "body_not_json");
    let bearer = format!("Bearer {}", server.root);
    for content_type in ["text/plain", "application/x-www-form-urlencoded", ""] {
        let headers = [
            ("authorization", bearer.as_str()),
            ("content-type", content_type),
        ];
        let reply = http(
            server.address,
            "POST",
            &path,
            &headers,
            r#"{"type":"a","data":1}"#,
        )
        .await;
        assert_eq!(
            (reply.status, reply.code().as_str()),
            (415, "content_type_unsupported")
        );
    }
    assert_eq!(
        server.good("GET", &path, Value::Null).await["data"],
        json!([])
    );
}

#[tokio::test]
async fn keys_and_scopes_are_enforced_and_strangers_find_nothing() {
    let server = TestServer::start().await;
    let (shop, other) = (
        server.application("shop", "standard").await,
        server.application("other", "standard").await,
    );
    let (ada, bob, eve) = (
        server.tenant_of(&shop).await,
        server.tenant_of(&shop).await,
        server.tenant_of(&other).await,
    );
    let bobs = id(&server.endpoint(&bob, "http://127.0.0.1:9/").await);
    let event = id(&server.publish(&bob, "a", json!(1)).await);
    let delivery = id(&server
        .until(&format!("/v1/deliveries?tenant={bob}"), |page| {
            page["data"][0].is_object()
        })
        .await["data"][0]);
    let key = async |body: Value| {
        server.good("POST", "/v1/keys", body).await["key"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let adas = key(json!({ "name": "ada", "tenant": ada })).await;
    let others = key(json!({ "name": "other", "application": other })).await;
    for stranger in [&adas, &others] {
        for (method, path, body) in [
            ("GET", format!("/v1/tenants/{bob}"), Value::Null),
            ("GET", format!("/v1/tenants/{bob}/endpoints"), Value::Null),
            (
                "POST",
                format!("/v1/tenants/{bob}/endpoints"),
                json!({ "url": "http://127.0.0.1:9/" }),
            ),
            (
                "POST",
                format!("/v1/tenants/{bob}/events"),
                json!({ "type": "a", "data": 1 }),
            ),
            ("POST", format!("/v1/tenants/{bob}/replays"), json!({})),
            ("GET", format!("/v1/endpoints/{bobs}"), Value::Null),
            (
                "PATCH",
                format!("/v1/endpoints/{bobs}"),
                json!({ "active": false }),
            ),
            ("DELETE", format!("/v1/endpoints/{bobs}"), Value::Null),
            ("POST", format!("/v1/endpoints/{bobs}/test"), json!({})),
            (
                "POST",
                format!("/v1/endpoints/{bobs}/rotate-secret"),
                json!({}),
            ),
            ("GET", format!("/v1/endpoints/{bobs}/secret"), Value::Null),
            ("GET", format!("/v1/endpoints/{bobs}/stats"), Value::Null),
            ("GET", format!("/v1/events/{event}"), Value::Null),
            ("GET", format!("/v1/deliveries/{delivery}"), Value::Null),
            (
                "POST",
                format!("/v1/deliveries/{delivery}/resend"),
                json!({}),
            ),
            ("GET", format!("/v1/deliveries?tenant={bob}"), Value::Null),
            (
                "POST",
                "/v1/keys".to_owned(),
                json!({ "name": "x", "tenant": bob }),
            ),
        ] {
            let reply = server.call_as(stranger, method, &path, body).await;
            assert_eq!(
                (reply.status, reply.code().as_str()),
                (404, "not_found"),
                "{method} {path}"
            );
        }
        // A filter that names another's endpoint or event finds nothing either.
        for query in [
            format!("endpoint={bobs}"),
            format!("event={event}"),
            String::new(),
        ] {
            let reply = server
                .call_as(
                    stranger,
                    "GET",
                    &format!("/v1/deliveries?{query}"),
                    Value::Null,
                )
                .await;
            assert_eq!(reply.json()["data"], json!([]), "{query}");
        }
    }
    assert_eq!(
        server
            .good("GET", &format!("/v1/endpoints/{bobs}"), Value::Null)
            .await["active"],
        true
    );
    for (method, path, body) in [
        (
            "POST",
            "/v1/applications".to_owned(),
            json!({ "name": "x" }),
        ),
        ("GET", "/v1/applications".to_owned(), Value::Null),
        (
            "POST",
            format!("/v1/tenants/{ada}/events"),
            json!({ "type": "a", "data": 1 }),
        ),
        ("POST", "/v1/keys".to_owned(), json!({ "name": "x" })),
    ] {
        let reply = server.call_as(&adas, method, &path, body).await;
        assert_eq!(
            (reply.status, reply.code().as_str()),
            (403, "scope_insufficient"),
            "{method} {path}"
        );
    }
    assert_eq!(
        server
            .call_as(&others, "GET", &format!("/v1/tenants/{eve}"), Value::Null)
            .await
            .status,
        200
    );
    for (authorization, code) in [
        ("", "key_missing"),
        ("Basic abc", "key_missing"),
        ("Bearer nonsense", "key_unknown"),
        ("Bearer", "key_missing"),
    ] {
        let reply = http(
            server.address,
            "GET",
            "/v1/applications",
            &[("authorization", authorization)],
            "",
        )
        .await;
        assert_eq!(
            (reply.status, reply.code().as_str()),
            (401, code),
            "{authorization:?}"
        );
    }
    let keys = server.good("GET", "/v1/keys", Value::Null).await;
    let ada_key = keys["data"]
        .as_array()
        .unwrap()
        .iter()
        .find(|key| key["name"] == "ada")
        .unwrap();
    assert_eq!(
        server
            .call_as(&adas, "GET", &format!("/v1/tenants/{ada}"), Value::Null)
            .await
            .status,
        200
    );
    server
        .good("DELETE", &format!("/v1/keys/{}", id(ada_key)), Value::Null)
        .await;
    assert_eq!(
        server
            .call_as(&adas, "GET", &format!("/v1/tenants/{ada}"), Value::Null)
            .await
            .code(),
        "key_unknown"
    );
}

#[tokio::test]
async fn lists_routes_and_ids_refuse_what_is_not_theirs() {
    let server = TestServer::start().await;
    let tenant = server.tenant("standard").await;
    for _ in 0..3 {
        server.publish(&tenant, "a.b", json!(1)).await;
    }
    let events = format!("/v1/tenants/{tenant}/events");
    let first = server
        .good("GET", &format!("{events}?limit=2"), Value::Null)
        .await;
    let cursor = first["nextCursor"].as_str().unwrap();
    let second = server
        .good(
            "GET",
            &format!("{events}?limit=2&cursor={cursor}"),
            Value::Null,
        )
        .await;
    assert_eq!(
        (
            second["data"].as_array().unwrap().len(),
            &second["nextCursor"]
        ),
        (1, &Value::Null)
    );
    for query in [
        "cursor=x".to_owned(),
        format!("type=a.b&cursor={cursor}"),
        format!("cursor={cursor}0"),
    ] {
        assert_eq!(
            server
                .call("GET", &format!("{events}?{query}"), Value::Null)
                .await
                .code(),
            "cursor_invalid",
            "{query}"
        );
    }
    for query in [
        "limit=0",
        "limit=251",
        "limit=x",
        "since=yesterday",
        "state=failed",
        "limit=1&limit=2",
    ] {
        assert_eq!(
            server
                .call("GET", &format!("{events}?{query}"), Value::Null)
                .await
                .code(),
            "validation_failed",
            "{query}"
        );
    }
    assert_eq!(
        server
            .call("GET", "/v1/deliveries?status=lost", Value::Null)
            .await
            .code(),
        "validation_failed"
    );
    assert_eq!(
        server
            .call("GET", "/v1/deliveries?endpoint=x", Value::Null)
            .await
            .code(),
        "validation_failed"
    );
    for path in [
        "/v1/events/x",
        "/v1/events/evt_7zzzzzzzzzzzzzzzzzzzzzzzzz",
        "/v1/endpoints/wh-x",
        "/v1/deliveries/%00",
        "/v1/events/%ff",
        "/v1/replays/task_x",
    ] {
        let reply = server.call("GET", path, Value::Null).await;
        assert_eq!(
            (reply.status, reply.code().as_str()),
            (404, "not_found"),
            "{path}"
        );
    }
    assert_eq!(
        server.call("GET", "/v2/nothing", Value::Null).await.code(),
        "route_unknown"
    );
    assert_eq!(
        server
            .call("PUT", "/v1/applications", Value::Null)
            .await
            .code(),
        "method_not_allowed"
    );
    let application = server.application("taken", "standard").await;
    let again = server
        .call("POST", "/v1/applications", json!({ "name": "taken" }))
        .await;
    assert_eq!((again.status, again.code().as_str()), (409, "name_taken"));
    assert_eq!(
        server
            .call(
                "POST",
                "/v1/applications",
                json!({ "name": "x", "profile": "nope" })
            )
            .await
            .code(),
        "validation_failed"
    );
    assert_eq!(
        server
            .call("POST", "/v1/applications", json!({ "name": " " }))
            .await
            .code(),
        "validation_failed"
    );
    let bad_type = format!("/v1/applications/{application}/event-types/a%20b");
    assert_eq!(
        server.call("PUT", &bad_type, json!({})).await.code(),
        "validation_failed"
    );
}

#[tokio::test]
async fn when_too_much_waits_publishers_are_told_to_come_back() {
    let server = TestServer::start().await;
    let tenant = server.tenant("standard").await;
    let path = format!("/v1/tenants/{tenant}/events");
    // Somebody else holds the database, so that nothing is committed for a while.
    let file = server.directory.path().join("data/postrider.db");
    let other = rusqlite::Connection::open(file).unwrap();
    other.execute_batch("begin immediate").unwrap();
    let body = json!({ "type": "a", "data": "x".repeat(250_000) }).to_string();
    let bearer = format!("Bearer {}", server.root);
    let (address, mut waiting) = (server.address, tokio::task::JoinSet::new());
    let mut refused = 0;
    let mut accepted = 0;
    for _ in 0..300 {
        let (bearer, path, body) = (bearer.clone(), path.clone(), body.clone());
        waiting.spawn(async move {
            let headers = [
                ("authorization", bearer.as_str()),
                ("content-type", "application/json"),
            ];
            http(address, "POST", &path, &headers, body).await
        });
    }
    // The first answers can only be refusals: what was taken waits for the database.
    while refused == 0 {
        let reply = waiting.join_next().await.unwrap().unwrap();
        assert_eq!((reply.status, reply.code().as_str()), (503, "overloaded"));
        assert_eq!(reply.headers["retry-after"], "1");
        refused += 1;
    }
    other.execute_batch("commit").unwrap();
    while let Some(reply) = waiting.join_next().await {
        match reply.unwrap().status {
            202 => accepted += 1,
            503 => refused += 1,
            other => panic!("{other}"),
        }
    }
    assert_eq!(accepted + refused, 300);
    let mut stored = 0;
    let mut cursor = String::new();
    loop {
        let page = server
            .good("GET", &format!("{path}?limit=250{cursor}"), Value::Null)
            .await;
        stored += page["data"].as_array().unwrap().len();
        let Some(next) = page["nextCursor"].as_str() else {
            break;
        };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(stored, accepted, "accepted and stored are the same");
}

#[tokio::test]
async fn what_follows_a_body_is_not_lost_without_a_word() {
    let server = TestServer::start().await;
    let tenant = server.tenant("standard").await;
    let events = format!("/v1/tenants/{tenant}/events");
    let one = r#"{"type":"a.b","data":1}"#;
    for (path, body) in [
        (
            format!("{events}/batch"),
            format!(r#"{{"events":[{one}]}}{{"events":[{one}]}}"#),
        ),
        (
            format!("{events}/batch"),
            format!(r#"{{"events":[{one}]}} junk"#),
        ),
        (events.clone(), format!("{one}{one}")),
        (
            "/v1/mail-confirmations".to_owned(),
            r#"{"code":"x"}{"code":"y"}"#.to_owned(),
        ),
    ] {
        let reply = server.raw(&path, body.clone()).await;
        assert_eq!(
            (reply.status, reply.code().as_str()),
            (400, "body_not_json"),
            "{body}"
        );
    }
    let none = server.good("GET", &events, Value::Null).await;
    assert_eq!(none["data"], json!([]));
}
