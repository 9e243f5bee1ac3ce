//! What one caller, row or request does reaches nobody else.

use std::time::Duration;

use postrider_testkit::{Behaviour, Receiver};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{TestServer, http, id, text};

/// Sends bytes as they are and reads what comes back until the server closes or `enough` is there.
async fn raw(server: &TestServer, bytes: &[u8], enough: &str) -> String {
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    let mut piece = [0; 4_096];
    while !String::from_utf8_lossy(&answer).contains(enough) {
        match stream.read(&mut piece).await {
            Ok(0) | Err(_) => break,
            Ok(count) => answer.extend_from_slice(&piece[..count]),
        }
    }
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn what_http_leaves_unclear_is_refused() {
    let server = TestServer::start().await;
    let tenant = server.tenant("standard").await;
    let path = format!("/v1/tenants/{tenant}/events");
    let body = r#"{"type":"a","data":1}"#;
    let (root, length) = (&server.root, body.len());
    let request = |lines: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nauthorization: Bearer {root}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n{lines}\r\n{body}"
        )
    };
    for (lines, status, code) in [
        ("", "400", "header_invalid"),
        ("host: a\r\nhost: b\r\n", "400", "header_invalid"),
        (
            "host: a\r\ncontent-encoding: gzip\r\n",
            "415",
            "content_encoding_unsupported",
        ),
        (
            "host: a\r\nx-management-token: x\r\nx-management-token: y\r\n",
            "400",
            "header_invalid",
        ),
        (
            "host: a\r\nidempotency-key: x\r\nidempotency-key: y\r\n",
            "400",
            "header_invalid",
        ),
    ] {
        let answer = raw(&server, request(lines).as_bytes(), "\"code\"").await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{answer}"
        );
        assert!(answer.contains(code), "{answer}");
    }
    let fine = raw(&server, request("host: a\r\n").as_bytes(), "deliveries").await;
    assert!(fine.starts_with("HTTP/1.1 202"), "{fine}");
    assert!(fine.contains("keep-alive: timeout=75"), "{fine}");
    let events = server.good("GET", &path, Value::Null).await;
    assert_eq!(events["data"].as_array().unwrap().len(), 1);
}

/// Whoever speaks one of the three systems' APIs understands its refusals alone, also those that come before anybody
/// has looked at the key.
#[tokio::test]
async fn what_http_leaves_unclear_is_refused_in_the_systems_own_shape() {
    let server = TestServer::start().await;
    let cases = [
        (
            "/v2/partners/webhooks",
            r#"{"statusCode":400,"message":""#,
            &[
                "x-ratelimit-limit: ",
                "x-ratelimit-remaining: ",
                "x-ratelimit-reset: ",
            ][..],
        ),
        (
            "/management/v1/projects/proj_0/webhooks",
            r#"{"code":400,"key":"invalid_payload","#,
            &[],
        ),
        (
            "/api/v1/app",
            r#"{"code":"content_encoding_unsupported","#,
            &[],
        ),
    ];
    for (path, shape, headers) in cases {
        let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\ncontent-encoding: gzip\r\n\r\n");
        let answer = raw(&server, request.as_bytes(), "}").await;
        assert!(answer.contains(shape), "{path}: {answer}");
        for header in headers {
            assert!(answer.contains(header), "{path}: no {header}: {answer}");
        }
    }
}

#[tokio::test]
async fn the_answer_to_a_body_that_nobody_reads_arrives() {
    let server = TestServer::start().await;
    let tenant = server.tenant("standard").await;
    let root = &server.root;
    // More than the system takes for a connection by itself.
    let large = "x".repeat(16 * 1024 * 1024);
    let events = format!("/v1/tenants/{tenant}/events");
    for (method, path, key, status) in [
        ("POST", events.as_str(), root.as_str(), 413),
        ("POST", &events, "nobody's", 401),
        ("PUT", &events, root, 405),
        ("POST", "/nowhere", root, 404),
        ("GET", "/health", root, 200),
    ] {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            large.len()
        );
        let answer = raw(&server, (head + &large).as_bytes(), "}").await;
        let wanted = format!("HTTP/1.1 {status}");
        assert!(answer.starts_with(&wanted), "{method} {path}: {answer}");
    }
    // Whoever waits for the answer before they send gets it, whether they asked for that or not.
    for asks in ["", "expect: 100-continue\r\n"] {
        let head = format!(
            "POST /nowhere HTTP/1.1\r\nhost: a\r\n{asks}content-length: {}\r\n\r\n",
            large.len()
        );
        let answer = raw(&server, head.as_bytes(), "\"code\"").await;
        assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
    }
}

#[tokio::test]
async fn one_callers_bodies_do_not_take_anothers_room() {
    const ROOM: usize = 400 * 1024;
    let server = TestServer::with(|config| config.limits.bodies_bytes = ROOM).await;
    let application = server.application("shop", "standard").await;
    let (greedy, calm) = (
        server.tenant_of(&application).await,
        server.tenant_of(&application).await,
    );
    let mut keys = Vec::new();
    for tenant in [&greedy, &calm] {
        let new = json!({ "name": "k", "tenant": tenant });
        let key = server.good("POST", "/v1/keys", new).await;
        keys.push(text(&key, "key").to_owned());
    }
    let (greedy_key, calm_key) = (&keys[0], &keys[1]);
    // Bodies that never end hold what they have sent.
    let mut held = Vec::new();
    for _ in 0..4 {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let head = format!(
            "POST /v1/tenants/{greedy}/endpoints HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {greedy_key}\r\ncontent-type: application/json\r\ncontent-length: 200000\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&vec![b' '; 90_000]).await.unwrap();
        held.push(stream);
    }
    let large =
        json!({ "url": "http://127.0.0.1:9/", "description": "d".repeat(1_000), "events": ["a"] });
    // Eventually refused for the greedy one, never for the other.
    let path = format!("/v1/tenants/{greedy}/endpoints");
    let fill = json!({ "url": "http://127.0.0.1:9/", "description": "d".repeat(190_000) });
    let refused = server.call_as(greedy_key, "POST", &path, fill).await;
    assert_eq!(
        (refused.status, refused.code()),
        (503, "overloaded".to_owned())
    );
    let path = format!("/v1/tenants/{calm}/endpoints");
    let other = server.call_as(calm_key, "POST", &path, large).await;
    assert_eq!(other.status, 201, "{other:?}");
    drop(held);
}

/// The systems' lists have no pages: what one tenant made long is refused to it before it is all in memory.
#[tokio::test]
async fn a_list_without_pages_is_bounded_for_its_caller() {
    let server = TestServer::with(|config| config.limits.answers_bytes = 256 * 1024).await;
    let application = server.application("shop", "voucherify").await;
    let (greedy, calm) = (
        server.tenant_of(&application).await,
        server.tenant_of(&application).await,
    );
    let new = json!({ "name": "management", "application": application });
    let key = server.good("POST", "/v1/keys", new).await;
    let headers = [
        ("x-management-id", text(&key, "publicId")),
        ("x-management-token", text(&key, "key")),
    ];
    for (tenant, count) in [(&greedy, 60), (&calm, 1)] {
        for number in 0..count {
            let url = format!("http://127.0.0.1:9/{number}");
            // Which is the longest that the vendor's list shows.
            let long = format!("{url}{}", "x".repeat(2_000));
            // And this it does not.
            let (headers, notes) = ("h".repeat(4_000), "d".repeat(400));
            let new = json!({ "url": long, "headers": { "x-a": headers }, "metadata": { "a": notes }, "description": "d".repeat(1_000) });
            server
                .good("POST", &format!("/v1/tenants/{tenant}/endpoints"), new)
                .await;
        }
    }
    for (tenant, wanted) in [(&greedy, 503), (&calm, 200)] {
        let shown = server
            .good("GET", &format!("/v1/tenants/{tenant}"), Value::Null)
            .await;
        let project = text(&shown, "wireId");
        let path = format!("/management/v1/projects/{project}/webhooks");
        let listed = http(server.address, "GET", &path, &headers, String::new()).await;
        assert_eq!(listed.status, wanted, "{}", listed.text);
    }
}

#[tokio::test]
async fn the_types_of_one_application_are_not_all_in_memory_for_whoever_asks() {
    let server = TestServer::with(|config| config.limits.answers_bytes = 512 * 1024).await;
    let (large, small) = (
        server.application("large", "standard").await,
        server.application("small", "standard").await,
    );
    let long = format!("[{}]", ["1234567890"; 5_000].join(","));
    for (application, count) in [(&large, 6), (&small, 1)] {
        for number in 0..count {
            let path = format!("/v1/applications/{application}/event-types/a.{number}");
            let new = json!({ "schema": { "const": long.clone() } });
            server.good("PUT", &path, new).await;
        }
    }
    for (application, wanted) in [(&large, 503), (&small, 200)] {
        let path = format!("/v1/applications/{application}/event-types");
        let listed = server.call("GET", &path, Value::Null).await;
        assert_eq!(listed.status, wanted, "{}", listed.text.len());
    }
    // Who needs the names alone has them.
    let tenant = server.tenant_of(&large).await;
    server.endpoint(&tenant, "http://127.0.0.1:9/").await;
}

#[tokio::test]
async fn answers_that_nobody_reads_are_bounded_for_their_caller() {
    let server = TestServer::with(|config| config.limits.answers_bytes = 3 * 1024 * 1024).await;
    let application = server.application("shop", "standard").await;
    let tenant = server.tenant_of(&application).await;
    for number in 0..50 {
        let url = format!("http://127.0.0.1:9/{number}");
        server.endpoint(&tenant, &url).await;
    }
    let event = json!({ "type": "a", "data": "d".repeat(20_000) }).to_string();
    let root = &server.root;
    let request = format!(
        "POST /v1/tenants/{tenant}/explain HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {root}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{event}",
        event.len()
    );
    let mut unread = Vec::new();
    let mut refused = false;
    for _ in 0..20 {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(8_192).unwrap();
        let mut stream = socket.connect(server.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut status = [0; 12];
        stream.read_exact(&mut status).await.unwrap();
        refused |= &status == b"HTTP/1.1 503";
        unread.push(stream);
    }
    assert!(refused, "what is not read counts");
    // Another key is answered meanwhile, and so is this one when the answers are gone.
    let new = json!({ "name": "k", "application": application });
    let key = server.good("POST", "/v1/keys", new).await;
    let explain = format!("/v1/tenants/{tenant}/explain");
    let body: Value = serde_json::from_str(&event).unwrap();
    let other = server
        .call_as(text(&key, "key"), "POST", &explain, body.clone())
        .await;
    assert_eq!(other.status, 200, "{}", other.status);
    drop(unread);
    for attempt in 0.. {
        let again = server.call("POST", &explain, body.clone()).await;
        if again.status == 200 {
            break;
        }
        assert!(attempt < 200, "the room is never given back");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn each_event_of_a_batch_has_its_own_answer_whatever_it_is() {
    let server = TestServer::start().await;
    let tenant = server.tenant("standard").await;
    let deep = format!("{}{}", "[".repeat(64), "]".repeat(64));
    let too_deep = format!("[{deep}]");
    let events = [
        r#"{"type":"a","data":1}"#.to_owned(),
        r#"{"type":"a","data":{"k":1,"k":2}}"#.to_owned(),
        format!(r#"{{"type":"a","data":{too_deep}}}"#),
        format!(r#"{{"type":"a","data":{deep}}}"#),
        r#"{"type":"a","data":"\ud800"}"#.to_owned(),
        r#"{"type":"a","data":1e400}"#.to_owned(),
        "7".to_owned(),
    ];
    let body = format!(r#"{{"events":[{}]}}"#, events.join(","));
    let bearer = format!("Bearer {}", server.root);
    let headers = [
        ("authorization", bearer.as_str()),
        ("content-type", "application/json"),
    ];
    let path = format!("/v1/tenants/{tenant}/events/batch");
    let reply = http(server.address, "POST", &path, &headers, body).await;
    assert_eq!(reply.status, 202, "{reply:?}");
    let answers = reply.json()["data"].as_array().unwrap().clone();
    let told: Vec<&str> = answers
        .iter()
        .map(|answer| answer["code"].as_str().unwrap_or("accepted"))
        .collect();
    assert_eq!(
        told,
        [
            "accepted",
            "body_duplicate_key",
            "body_too_deep",
            "accepted",
            "accepted",
            "accepted",
            "validation_failed"
        ]
    );
}

#[tokio::test]
async fn what_only_carriers_understand_goes_out_byte_for_byte() {
    let server = TestServer::start().await;
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let bearer = format!("Bearer {}", server.root);
    let headers = [
        ("authorization", bearer.as_str()),
        ("content-type", "application/json"),
    ];
    let data = r#"{"half":"\ud800","far":1e400}"#;
    let body = format!(r#"{{"type":"order.completed","data":{data}}}"#);
    let publish = |tenant: String| {
        let path = format!("/v1/tenants/{tenant}/events");
        let body = body.clone();
        async move { http(server.address, "POST", &path, &headers, body).await }
    };
    let tenant = server.tenant("standard").await;
    server.endpoint(&tenant, &receiver.url("/")).await;
    let accepted = publish(tenant).await;
    assert_eq!(accepted.status, 202, "{accepted:?}");
    let sent = receiver.wait_for(1).await.remove(0);
    assert!(String::from_utf8_lossy(&sent.body).contains(data));
    // Its receivers parse and write anew.
    let voucherify = server.tenant("voucherify").await;
    let body = body.replace("order.completed", "voucher.created");
    let path = format!("/v1/tenants/{voucherify}/events");
    let refused = http(server.address, "POST", &path, &headers, body).await;
    assert_eq!(
        (refused.status, &refused.json()["field"]),
        (400, &json!("data"))
    );
}

#[tokio::test]
async fn null_clears_what_may_be_empty_and_is_refused_elsewhere() {
    let server = TestServer::start().await;
    let tenant = server.tenant("standard").await;
    let new = json!({ "url": "http://127.0.0.1:9/", "events": ["a.b"], "headers": { "x-a": "1" }, "rateLimit": 5, "ordering": "endpoint" });
    let path = format!("/v1/tenants/{tenant}/endpoints");
    let endpoint = id(&server.good("POST", &path, new).await);
    let path = format!("/v1/endpoints/{endpoint}");
    for field in ["url", "active"] {
        let refused = server.call("PATCH", &path, json!({ field: null })).await;
        assert_eq!(
            (refused.status, &refused.json()["field"]),
            (400, &json!(field))
        );
    }
    let cleared = json!({ "headers": null, "events": null, "rateLimit": null, "ordering": null });
    let cleared = server.good("PATCH", &path, cleared).await;
    assert_eq!(
        (
            &cleared["headers"],
            &cleared["events"],
            &cleared["rateLimit"],
            &cleared["ordering"]
        ),
        (&json!({}), &json!(["*"]), &Value::Null, &json!("none"))
    );
    let new = json!({ "name": "k", "tenant": tenant, "allowedIps": ["::ffff:127.0.0.0/104", "10.0.0.0/8"] });
    let key = server.good("POST", "/v1/keys", new).await;
    assert_eq!(
        key["allowedIps"],
        json!(["127.0.0.0/8", "10.0.0.0/8"]),
        "as callers are known"
    );
    let path = format!("/v1/keys/{}", id(&key));
    let named = server.call("PATCH", &path, json!({ "name": null })).await;
    assert_eq!(
        (named.status, &named.json()["field"]),
        (400, &json!("name"))
    );
    let open = server
        .good("PATCH", &path, json!({ "allowedIps": null }))
        .await;
    assert_eq!(open["allowedIps"], json!([]));
}

#[tokio::test]
async fn what_nobody_would_read_is_refused() {
    let server = TestServer::start().await;
    for (method, path) in [
        ("POST", "/v1/deliveries/dlv_0/resend"),
        ("POST", "/v1/deliveries/dlv_0/cancel"),
        ("POST", "/v1/replays/rpl_0/cancel"),
        ("POST", "/v1/send-outs/dlv_0/retry"),
        ("POST", "/v1/users/usr_0/links"),
        ("POST", "/v1/console-links"),
        ("DELETE", "/v1/deliveries/dlv_0/attempts/1/content"),
        ("DELETE", "/v1/applications/app_0"),
        ("DELETE", "/v1/applications/app_0/event-types/a"),
        ("DELETE", "/v1/tenants/ten_0"),
        ("DELETE", "/v1/events/evt_0/content"),
        ("DELETE", "/v1/endpoints/end_0"),
        ("DELETE", "/v1/distributions/dis_0"),
        ("DELETE", "/v1/keys/key_0"),
        ("DELETE", "/v1/portal-links/lnk_0"),
        ("DELETE", "/v1/users/usr_0"),
    ] {
        let refused = server.call(method, path, json!({ "mode": "test" })).await;
        assert_eq!(refused.status, 400, "{method} {path}: {}", refused.text);
        assert_eq!(refused.json()["field"], "body", "{method} {path}");
        // Some clients send something wherever a body could be.
        let makes_a_link = path.ends_with("console-links");
        let wanted = if makes_a_link { 201 } else { 404 };
        for nothing in [json!({}), Value::Null] {
            let usual = server.call(method, path, nothing).await;
            assert_eq!(usual.status, wanted, "{method} {path}: {}", usual.text);
        }
    }
}

#[tokio::test]
async fn a_secret_is_replaced_as_it_is_asked_for() {
    let server = TestServer::start().await;
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let tenant = server.tenant("standard").await;
    let endpoint = id(&server.endpoint(&tenant, &receiver.url("/")).await);
    let path = format!("/v1/endpoints/{endpoint}/rotate-secret");
    for wrong in [
        json!({ "mode": "test" }),
        json!({ "overlap": "900d" }),
        json!({ "overlap": 0 }),
    ] {
        assert_eq!(
            server.call("POST", &path, wrong.clone()).await.status,
            400,
            "{wrong}"
        );
    }
    for _ in 0..12 {
        server.good("POST", &path, Value::Null).await;
    }
    let now = server.good("POST", &path, json!({ "overlap": "0s" })).await;
    assert_eq!(now.get("previousValidUntil"), None, "the old ones end now");
    server.publish(&tenant, "a", json!(1)).await;
    let sent = receiver.wait_for(1).await.remove(0);
    let signatures = sent.headers["webhook-signature"].split(' ').count();
    assert_eq!(signatures, 1);
    let pair = server
        .good("POST", &path, json!({ "asymmetric": true }))
        .await;
    assert!(text(&pair, "publicKey").starts_with("whpk_"), "{pair}");
    server.publish(&tenant, "a", json!(2)).await;
    let sent = receiver.wait_for(2).await.remove(1);
    assert!(
        sent.headers["webhook-signature"].contains("v1a,"),
        "{:?}",
        sent.headers
    );
    // A tenant's secret: the mode is read from the body, too.
    let voucherify = server.tenant("voucherify").await;
    let secret = format!("/v1/tenants/{voucherify}/secret");
    let before = server.good("GET", &secret, Value::Null).await;
    let rotate = format!("/v1/tenants/{voucherify}/rotate-secret");
    let test = server
        .good("POST", &rotate, json!({ "mode": "test" }))
        .await;
    assert_eq!(test["mode"], "test");
    let after = server.good("GET", &secret, Value::Null).await;
    assert_eq!(before, after, "the live one stays");
}

#[tokio::test]
async fn a_declared_type_can_be_published_in_a_closed_catalogue() {
    let server = TestServer::start().await;
    let application = server.application("shop", "voucherify").await;
    let tenant = server.tenant_of(&application).await;
    let path = format!("/v1/tenants/{tenant}/events");
    let event = json!({ "type": "own.thing", "data": {} });
    let unknown = server.call("POST", &path, event.clone()).await;
    assert_eq!(unknown.code(), "event_type_unknown");
    let declare = format!("/v1/applications/{application}/event-types/own.thing");
    let first = server.good("PUT", &declare, json!({})).await;
    let again = server
        .good("PUT", &declare, json!({ "description": "d" }))
        .await;
    assert_eq!(
        first["createdAt"], again["createdAt"],
        "it keeps when it was made"
    );
    server.good("POST", &path, event).await;
    server
        .good(
            "POST",
            &path,
            json!({ "type": "order.created", "data": {} }),
        )
        .await;
}

#[tokio::test]
async fn what_means_nothing_is_refused_with_its_rule() {
    let server = TestServer::start().await;
    let application = server.application("shop", "standard").await;
    let tenant = server.tenant_of(&application).await;
    let endpoints = format!("/v1/tenants/{tenant}/endpoints");
    for url in [
        "http://127.0.0.1:0/",
        "https://*/",
        "https://*.example.com/",
        &format!("https://{}.com/", "a".repeat(64)),
    ] {
        let refused = server.call("POST", &endpoints, json!({ "url": url })).await;
        assert_eq!(
            (refused.status, &refused.json()["field"]),
            (400, &json!("url")),
            "{url}"
        );
    }
    let tenants = format!("/v1/applications/{application}/tenants");
    let invisible = server
        .call("POST", &tenants, json!({ "name": "\u{200b}\u{feff}" }))
        .await;
    assert_eq!(
        (invisible.status, &invisible.json()["field"]),
        (400, &json!("name"))
    );
    let path = format!("/v1/tenants/{tenant}");
    for settings in [
        json!({ "notifications": [[], []] }),
        json!({ "unknown": 1 }),
        json!({ "notifications": { "x": 1 } }),
    ] {
        let refused = server
            .call("PATCH", &path, json!({ "settings": settings }))
            .await;
        assert_eq!(refused.status, 400, "{settings}");
    }
    let backwards = "/v1/deliveries?since=2026-02-01T00:00:00Z&until=2026-01-01T00:00:00Z";
    let refused = server.call("GET", backwards, Value::Null).await;
    assert_eq!(
        (refused.status, &refused.json()["field"]),
        (400, &json!("until"))
    );
}

#[tokio::test]
async fn a_secret_that_is_brought_leaves_the_ed25519_key() {
    let server = TestServer::start().await;
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let tenant = server.tenant("standard").await;
    let new = json!({ "url": receiver.url("/"), "asymmetric": true });
    let path = format!("/v1/tenants/{tenant}/endpoints");
    let made = server.good("POST", &path, new).await;
    let path = format!("/v1/endpoints/{}", id(&made));
    let own = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    server.good("PATCH", &path, json!({ "secret": own })).await;
    let shown = server
        .good("GET", &format!("{path}/secret"), Value::Null)
        .await;
    assert_eq!(shown["secret"], own);
    assert_eq!(shown["publicKey"], made["publicKey"]);
    server.publish(&tenant, "a", json!(1)).await;
    let sent = receiver.wait_for(1).await.remove(0);
    let signatures = sent.headers["webhook-signature"].as_str();
    assert!(
        signatures.contains("v1,") && signatures.contains("v1a,"),
        "{signatures}"
    );
}

#[tokio::test]
async fn settings_are_merged_at_every_level_and_a_foreign_key_reads_as_none() {
    let server = TestServer::start().await;
    let application = server.application("shop", "simplifytrip").await;
    let (one, two) = (
        server.tenant_of(&application).await,
        server.tenant_of(&application).await,
    );
    let path = format!("/v1/tenants/{one}");
    let settings = |settings: Value| json!({ "settings": { "notifications": settings } });
    for part in ["webhooks", "distributions"] {
        let mut patch = json!({});
        patch[part] = json!({ "inApp": true });
        server.good("PATCH", &path, settings(patch)).await;
    }
    let read = server.good("GET", &path, Value::Null).await;
    let notifications = &read["settings"]["notifications"];
    assert_eq!(
        notifications["webhooks"], notifications["distributions"],
        "{read}"
    );
    let mut keys = Vec::new();
    for tenant in [&one, &two] {
        let new = json!({ "name": "k", "tenant": tenant, "webhook": "http://127.0.0.1:9/" });
        keys.push(server.good("POST", "/v1/keys", new).await);
    }
    let foreign = format!("/v1/deliveries?key={}", text(&keys[1], "publicId"));
    let own = text(&keys[0], "key");
    let foreign = server.call_as(own, "GET", &foreign, Value::Null).await;
    let none = server
        .call_as(own, "GET", "/v1/deliveries?key=pk_none", Value::Null)
        .await;
    assert_eq!((foreign.status, foreign.text), (none.status, none.text));
}
