//! What somebody tries who has only the documents, or only an id from a log.

use std::time::Duration;

use postrider_testkit::{Behaviour, Receiver};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{TestServer, hmac, http, id, text};

#[tokio::test]
async fn the_path_of_the_document_and_a_bearer_key_serve_vignetims_api() {
    let server = TestServer::start().await;
    let tenant = server.tenant("vignetim").await;
    let key = json!({ "name": "k", "tenant": tenant });
    let key = server.good("POST", "/v1/keys", key).await;
    let bearer = format!("Bearer {}", text(&key, "key"));
    let headers = [
        ("authorization", bearer.as_str()),
        ("content-type", "application/json"),
    ];
    let body = json!({ "url": "https://example.com/hook", "events": ["order.completed"] });
    let made = http(
        server.address,
        "POST",
        "/webhooks",
        &headers,
        body.to_string(),
    )
    .await;
    assert_eq!(made.status, 201, "{made:?}");
    assert!(text(&made.json(), "signingSecret").starts_with("whs_"));
    for path in ["/webhooks", "/v2/partners/webhooks"] {
        let listed = http(server.address, "GET", path, &headers, "").await;
        assert_eq!(listed.status, 200, "{listed:?}");
        assert_eq!(listed.json()["data"].as_array().unwrap().len(), 1);
        assert!(
            listed.headers.contains_key("x-ratelimit-limit"),
            "{listed:?}"
        );
    }
    let wrong = [("authorization", "Bearer nothing")];
    let refused = http(server.address, "GET", "/webhooks", &wrong, "").await;
    assert_eq!(refused.status, 401);
}

#[tokio::test]
async fn a_request_is_signed_over_the_path_that_it_goes_to_with_the_base_or_without() {
    let server = TestServer::start().await;
    let tenant = server.tenant("vignetim").await;
    let key = json!({ "name": "k", "tenant": tenant });
    let key = server.good("POST", "/v1/keys", key).await;
    let ask = async |method: &str, path: &str, signed: &str, body: Value| {
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let at = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let at = at.unwrap().as_secs().to_string();
        let nonce = format!("{:032x}", fastrand::u128(..));
        let message = format!("{at}.{nonce}.{method}.{signed}.{body}");
        let signature = hmac(text(&key, "key"), message);
        let headers = [
            ("x-api-key", text(&key, "publicId")),
            ("x-timestamp", at.as_str()),
            ("x-nonce", nonce.as_str()),
            ("x-signature", signature.as_str()),
        ];
        http(server.address, method, path, &headers, body).await
    };
    // As the pages of the vendor write it, and below the base that they tell elsewhere.
    let (written, whole) = ("/webhooks", "/v2/partners/webhooks");
    for path in [written, whole] {
        let body = json!({ "url": "http://127.0.0.1:9/", "events": ["*"] });
        let made = ask("POST", path, path, body).await;
        assert_eq!(made.status, 201, "{path}: {made:?}");
    }
    for path in [written, whole] {
        let listed = ask("GET", path, path, Value::Null).await;
        assert_eq!(listed.status, 200, "{path}: {listed:?}");
        assert_eq!(listed.json()["data"].as_array().unwrap().len(), 2);
    }
    for (path, signed) in [(written, whole), (whole, written)] {
        let refused = ask("GET", path, signed, Value::Null).await;
        assert_eq!(
            (refused.status, &refused.json()["message"]),
            (401, &json!("Invalid signature")),
            "{path}"
        );
    }
}

#[tokio::test]
async fn an_idle_connection_is_kept_as_long_as_the_answer_says() {
    let server = TestServer::with(|config| config.server.keep_alive_secs = 2).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let request = b"GET /health HTTP/1.1\r\nhost: a\r\n\r\n";
    let began = tokio::time::Instant::now();
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    // It ends when the server closes.
    let read = stream.read_to_end(&mut answer);
    let read = tokio::time::timeout(Duration::from_secs(10), read).await;
    let kept = began.elapsed();
    read.expect("the connection is open still").unwrap();
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("keep-alive: timeout=2\r\n"), "{answer}");
    assert!(kept >= Duration::from_millis(1_500), "{kept:?}");
}

#[tokio::test]
async fn a_key_moves_its_own_webhook_and_nothing_else() {
    let server = TestServer::start().await;
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let tenant = server.tenant("simplifytrip").await;
    let new = json!({ "name": "k", "tenant": tenant, "webhook": "http://127.0.0.1:9/" });
    let own = server.good("POST", "/v1/keys", new).await;
    let other = server
        .good("POST", "/v1/keys", json!({ "name": "o", "tenant": tenant }))
        .await;
    let (key, path) = (text(&own, "key"), format!("/v1/keys/{}", id(&own)));
    let read = server.call_as(key, "GET", &path, Value::Null).await;
    assert_eq!((read.status, id(&read.json())), (200, id(&own)));
    let moved = json!({ "webhook": receiver.url("/") });
    let moved = server.call_as(key, "PATCH", &path, moved).await;
    assert_eq!(moved.json()["webhook"], receiver.url("/"), "{moved:?}");
    for (method, body) in [
        ("PATCH", json!({ "name": "x" })),
        ("PATCH", json!({ "active": false })),
        ("PATCH", json!({ "allowedIps": [] })),
        ("DELETE", Value::Null),
    ] {
        let refused = server.call_as(key, method, &path, body).await;
        assert_eq!(refused.code(), "scope_insufficient");
    }
    let foreign = format!("/v1/keys/{}", id(&other));
    assert_eq!(
        server
            .call_as(key, "GET", &foreign, Value::Null)
            .await
            .status,
        404
    );
}

#[tokio::test]
async fn an_application_names_the_modes_as_its_receivers_know_them() {
    let server = TestServer::start().await;
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let application = server.application("trips", "simplifytrip").await;
    let tenant = server.tenant_of(&application).await;
    let new = json!({ "name": "k", "tenant": tenant, "webhook": receiver.url("/") });
    let key = server.good("POST", "/v1/keys", new).await;
    let path = format!("/v1/applications/{application}");
    for (names, expected) in [
        (Value::Null, r#""mode":"live""#),
        (
            json!({ "live": "LIVE_MODE", "test": "TEST_MODE" }),
            r#""mode":"LIVE_MODE""#,
        ),
    ] {
        let settings = json!({ "settings": { "modeNames": names } });
        server.good("PATCH", &path, settings).await;
        let event = json!({ "type": "PURCHASE_ORDER_SUCCESS", "key": key["publicId"],
            "data": { "orderId": "1", "trackId": "t", "status": "SUCCESS", "items": [] } });
        let events = format!("/v1/tenants/{tenant}/events");
        server.good("POST", &events, event).await;
        let count = 1 + usize::from(expected.contains("LIVE"));
        let sent = receiver.wait_for(count).await.remove(count - 1);
        assert!(String::from_utf8_lossy(&sent.body).contains(expected));
    }
    let same = json!({ "settings": { "modeNames": { "live": "x", "test": "x" } } });
    let refused = server.call("PATCH", &path, same).await;
    assert_eq!(refused.json()["field"], "settings.modeNames");
}

#[tokio::test]
async fn deliveries_are_found_by_the_id_that_a_receiver_logs_and_say_what_happened() {
    let server = TestServer::start().await;
    let receiver = Receiver::start(Behaviour::Status(503)).await;
    let tenant = server.tenant("standard").await;
    server.endpoint(&tenant, &receiver.url("/")).await;
    server.publish(&tenant, "a", json!(1)).await;
    server.publish(&tenant, "a", json!(2)).await;
    let logged = receiver.wait_for(2).await[1].headers["webhook-id"].clone();
    server
        .until("/v1/deliveries", |page| {
            let rows = page["data"].as_array().unwrap();
            rows.len() == 2 && rows.iter().all(|row| row["attemptsMade"] == 1)
        })
        .await;
    let found = format!("/v1/deliveries?webhookId={logged}");
    let found = server.good("GET", &found, Value::Null).await;
    let rows = found["data"].as_array().unwrap();
    assert_eq!(rows.len(), 1);
    assert_eq!(
        (&rows[0]["url"], &rows[0]["lastStatus"]),
        (&json!(receiver.url("/")), &json!(503))
    );
    // And by the id of the endpoint that its customer sees, in the vendor's form.
    let other = server.tenant("vignetim").await;
    let made = server.endpoint(&other, &receiver.url("/")).await;
    let wire = text(&made, "wireId");
    assert_ne!(wire, id(&made));
    let event = json!({ "type": "order.completed", "data": { "orderId": "1" } });
    let path = format!("/v1/tenants/{other}/events");
    server.good("POST", &path, event).await;
    let found = format!("/v1/deliveries?endpoint={wire}");
    let found = server.good("GET", &found, Value::Null).await;
    assert_eq!(found["data"][0]["endpoint"], made["id"], "{found}");
    let counted = format!("/v1/tenants/{other}/statistics?endpoint={wire}");
    server.good("GET", &counted, Value::Null).await;
    let wrong = "/v1/deliveries?endpoint=nonsense";
    let wrong = server.call("GET", wrong, Value::Null).await;
    assert_eq!(wrong.json()["field"], "endpoint", "{wrong:?}");

    let by_own = format!("/v1/deliveries?webhookId={}", id(&rows[0]));
    let by_own = server.good("GET", &by_own, Value::Null).await;
    assert_eq!(by_own["data"][0]["id"], rows[0]["id"]);
    let nothing = server
        .good("GET", "/v1/deliveries?webhookId=msg_x", Value::Null)
        .await;
    assert_eq!(nothing["data"], json!([]));
}

#[tokio::test]
async fn replays_are_listed_and_stopped() {
    let server = TestServer::start().await;
    let receiver = Receiver::start(Behaviour::Status(410)).await;
    let tenant = server.tenant("standard").await;
    server.endpoint(&tenant, &receiver.url("/")).await;
    server.publish(&tenant, "a", json!(1)).await;
    server.finished("status=failed", 1).await;
    let path = format!("/v1/tenants/{tenant}/replays");
    let first = server.good("POST", &path, json!({})).await;
    let read = format!("/v1/replays/{}", id(&first));
    server
        .until(&read, |replay| replay["status"] == "finished")
        .await;
    let second = server.good("POST", &path, json!({ "type": "b" })).await;
    let listed = server.good("GET", &path, Value::Null).await;
    let ids: Vec<String> = listed["data"].as_array().unwrap().iter().map(id).collect();
    assert_eq!(ids, [id(&second), id(&first)]);
    let cancel = format!("/v1/replays/{}/cancel", id(&first));
    let ended = server.good("POST", &cancel, Value::Null).await;
    assert_eq!(
        ended["status"], "finished",
        "one that has ended stays as it ended"
    );
    let other = server
        .tenant_of(&server.application("other", "standard").await)
        .await;
    let key = json!({ "name": "k", "tenant": other });
    let key = server.good("POST", "/v1/keys", key).await;
    let foreign = server
        .call_as(text(&key, "key"), "POST", &cancel, Value::Null)
        .await;
    assert_eq!(foreign.status, 404);
}

#[tokio::test]
async fn test_calls_are_bounded_for_each_tenant() {
    let server = TestServer::start().await;
    let receiver = Receiver::start(Behaviour::Hang).await;
    let application = server.application("shop", "standard").await;
    let greedy = server.tenant_of(&application).await;
    let endpoint = id(&server.endpoint(&greedy, &receiver.url("/")).await);
    let path = format!("/v1/endpoints/{endpoint}/test");
    let hanging: Vec<_> = (0..10)
        .map(|_| {
            let (address, path) = (server.address, path.clone());
            let bearer = format!("Bearer {}", server.root);
            tokio::spawn(async move {
                let headers = [("authorization", bearer.as_str())];
                http(address, "POST", &path, &headers, "").await
            })
        })
        .collect();
    receiver.wait_for(10).await;
    let one_more = server.call("POST", &path, Value::Null).await;
    assert_eq!(
        (one_more.status, one_more.code()),
        (429, "test_calls_max".to_owned())
    );
    assert_eq!(one_more.headers["retry-after"], "1");
    // Another tenant's go on.
    let fine = Receiver::start(Behaviour::Status(200)).await;
    let calm = server.tenant_of(&application).await;
    let endpoint = id(&server.endpoint(&calm, &fine.url("/")).await);
    let path = format!("/v1/endpoints/{endpoint}/test");
    let answered = server.good("POST", &path, Value::Null).await;
    assert_eq!(answered["success"], true);
    for call in hanging {
        call.abort();
    }
}

#[tokio::test]
async fn a_test_call_is_in_the_audit_log_though_nobody_waited_for_its_answer() {
    let server = TestServer::start().await;
    let wait = Duration::from_millis(500);
    let receiver = Receiver::start(Behaviour::SlowStatus(wait, 503)).await;
    let tenant = server.tenant("standard").await;
    let endpoint = id(&server.endpoint(&tenant, &receiver.url("/")).await);
    let bearer = format!("Bearer {}", server.root);
    let headers = [("authorization", bearer.as_str())];
    let path = format!("/v1/endpoints/{endpoint}/test");
    let asked = http(server.address, "POST", &path, &headers, "");
    let gone = tokio::time::timeout(Duration::from_millis(200), asked).await;
    assert!(gone.is_err(), "the client went away");
    let audit = format!("/v1/audit?action=endpoint.tested&subject={endpoint}");
    let told = server
        .until(&audit, |page| page["data"][0] != Value::Null)
        .await;
    let after = &told["data"][0]["after"];
    assert_eq!(
        (&after["success"], &after["statusCode"], &after["url"]),
        (&json!(false), &json!(503), &json!(receiver.url("/")))
    );
}

#[tokio::test]
async fn an_imported_secret_signs_and_a_wrong_one_is_refused() {
    let server = TestServer::start().await;
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let tenant = server.tenant("standard").await;
    let path = format!("/v1/tenants/{tenant}/endpoints");
    let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let endpoint = |secret: &str| json!({ "url": receiver.url("/"), "secret": secret });
    for wrong in [
        "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "whsec_c2hvcnQ=",
        "whsec_%%%",
        "",
    ] {
        let refused = server.call("POST", &path, endpoint(wrong)).await;
        assert_eq!(
            (refused.status, &refused.json()["field"]),
            (400, &json!("secret")),
            "{wrong}"
        );
    }
    let made = server.good("POST", &path, endpoint(secret)).await;
    assert_eq!(made["secret"], secret);
    server.publish(&tenant, "a", json!(1)).await;
    let sent = receiver.wait_for(1).await.remove(0);
    let verifier = standardwebhooks::Webhook::new(secret).unwrap();
    let mut headers = ::http::HeaderMap::new();
    for name in ["webhook-id", "webhook-timestamp", "webhook-signature"] {
        let name = ::http::HeaderName::from_static(name);
        headers.insert(name.clone(), sent.headers[name.as_str()].parse().unwrap());
    }
    assert!(verifier.verify(&sent.body, &headers).is_ok());
}

#[tokio::test]
async fn a_name_that_leads_to_this_machine_is_refused_when_it_is_registered() {
    // Its own name leads to an address of its own, by its hosts file and without a network.
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let server = TestServer::with(|config| config.egress.allow.clear()).await;
    let tenant = server.tenant("standard").await;
    let path = format!("/v1/tenants/{tenant}/endpoints");
    let url = json!({ "url": format!("https://{}/hook", name.trim()) });
    let refused = server.call("POST", &path, url).await;
    assert_eq!(
        (refused.status, refused.code()),
        (400, "endpoint_url_invalid".to_owned()),
        "{refused:?}"
    );
    let unknown = json!({ "url": "https://not-there-yet.invalid/hook" });
    let taken = server.call("POST", &path, unknown).await;
    assert_eq!(taken.status, 201, "{taken:?}");
}

#[tokio::test]
async fn the_first_mistakes_are_told_with_what_to_do() {
    let server = TestServer::with(|config| config.egress.plain_http = false).await;
    let tenant = server.tenant("standard").await;
    // An id of another kind.
    let path = format!("/v1/deliveries/{tenant}");
    let mixed = server.call("GET", &path, Value::Null).await;
    assert_eq!(mixed.code(), "not_found");
    assert!(
        mixed.text.contains("delivery begins with dlv_"),
        "{mixed:?}"
    );
    // Plain HTTP without --dev.
    let path = format!("/v1/tenants/{tenant}/endpoints");
    let plain = server.call("POST", &path, json!({ "url": "http://example.com/" }));
    let plain = plain.await;
    assert!(plain.text.contains("--dev"), "{plain:?}");
    // An event that nobody gets.
    let nobody = server.publish(&tenant, "order.created", json!(1)).await;
    assert_eq!(nobody["deliveries"], 0);
    assert!(text(&nobody, "hint").contains("/explain"), "{nobody}");
    let new = json!({ "url": "https://127.0.0.1:9/" });
    server.good("POST", &path, new).await;
    let one = server.publish(&tenant, "order.created", json!(1)).await;
    assert!(one.get("hint").is_none(), "{one}");
}
