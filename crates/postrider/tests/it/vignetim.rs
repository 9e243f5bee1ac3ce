//! Vignetim's management API as its partners use it: signed requests, documented answers.

mod deliveries;

use postrider_testkit::{Behaviour, Receiver};
use serde_json::{Value, json};

use crate::support::{Reply, TestServer, hmac as sign, http, text};

struct Partner<'s> {
    server: &'s TestServer,
    key: String,
    secret: String,
}

fn now() -> i64 {
    i64::try_from(
        std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .as_secs(),
    )
    .unwrap()
}

impl<'s> Partner<'s> {
    async fn new(server: &'s TestServer, tenant: &str, mode: &str) -> Self {
        let made = server
            .good(
                "POST",
                "/v1/keys",
                json!({ "name": "partner", "tenant": tenant, "mode": mode }),
            )
            .await;
        let text = |name: &str| made[name].as_str().unwrap().to_owned();
        Self {
            server,
            key: text("publicId"),
            secret: text("key"),
        }
    }

    async fn signed(
        &self,
        method: &str,
        path: &str,
        body: &str,
        timestamp: i64,
        nonce: &str,
    ) -> Reply {
        let path = format!("/v2/partners{path}");
        let signature = sign(
            &self.secret,
            format!("{timestamp}.{nonce}.{method}.{path}.{body}"),
        );
        self.send(
            method,
            &path,
            body,
            &timestamp.to_string(),
            nonce,
            &signature,
        )
        .await
    }

    async fn send(
        &self,
        method: &str,
        path: &str,
        body: &str,
        timestamp: &str,
        nonce: &str,
        signature: &str,
    ) -> Reply {
        let headers = [
            ("x-api-key", self.key.as_str()),
            ("x-timestamp", timestamp),
            ("x-nonce", nonce),
            ("x-signature", signature),
        ];
        let reply = http(self.server.address, method, path, &headers, body.to_owned()).await;
        for name in [
            "x-ratelimit-limit",
            "x-ratelimit-remaining",
            "x-ratelimit-reset",
        ] {
            assert!(
                reply.headers.contains_key(name),
                "{name} is on every answer: {reply:?}"
            );
        }
        reply
    }

    async fn call(&self, method: &str, path: &str, body: Value) -> Reply {
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        self.signed(
            method,
            path,
            &body,
            now(),
            &format!("{:032x}", fastrand::u128(..)),
        )
        .await
    }
}

fn keys(text: &str) -> Vec<String> {
    let object: serde_json::Map<String, Value> = serde_json::from_str(text).unwrap();
    let mut places: Vec<(usize, String)> = object
        .keys()
        .map(|key| (text.find(&format!("\"{key}\":")).unwrap(), key.clone()))
        .collect();
    places.sort();
    places.into_iter().map(|(_, key)| key).collect()
}

fn error(status: u16, message: impl Into<Value>, error: &str) -> String {
    format!(
        r#"{{"statusCode":{status},"message":{},"error":"{error}"}}"#,
        message.into()
    )
}

/// A server that checks URLs as in production, where nothing is allowed but public HTTPS.
async fn strict() -> TestServer {
    TestServer::with(|config| {
        config.egress.allow.clear();
        config.egress.plain_http = false;
    })
    .await
}

#[tokio::test]
async fn webhooks_are_created_listed_changed_and_deleted_as_documented() {
    let server = strict().await;
    let tenant = server.tenant("vignetim").await;
    let partner = Partner::new(&server, &tenant, "live").await;
    let body = json!({ "url": "https://yourapp.com/webhooks/vignetim", "events": ["order.completed", "order.failed"], "description": "Production order notifications" });
    let created = partner.call("POST", "/webhooks", body).await;
    assert_eq!(created.status, 201);
    assert_eq!(
        keys(&created.text),
        [
            "id",
            "url",
            "events",
            "description",
            "active",
            "signingSecret",
            "createdAt"
        ]
    );
    let webhook = created.json();
    let (id, secret) = (
        webhook["id"].as_str().unwrap(),
        webhook["signingSecret"].as_str().unwrap(),
    );
    assert!(id.starts_with("wh-") && id.len() == 39, "{id}");
    assert!(
        secret.starts_with("whs_") && secret.len() == 46,
        "42 hex digits"
    );
    assert_eq!(webhook["createdAt"].as_str().unwrap().len(), 24);
    let list = partner.call("GET", "/webhooks", Value::Null).await;
    let item = list.json()["data"][0].clone();
    let fields = [
        "id",
        "url",
        "events",
        "description",
        "active",
        "consecutiveFailures",
        "createdAt",
        "updatedAt",
    ];
    assert_eq!(
        keys(
            list.text
                .trim_start_matches(r#"{"data":["#)
                .trim_end_matches("]}")
        ),
        fields
    );
    assert_eq!(
        (&item["consecutiveFailures"], &item["createdAt"]),
        (&json!(0), &webhook["createdAt"])
    );
    let path = format!("/webhooks/{id}");
    let changed = partner
        .call(
            "PUT",
            &path,
            json!({ "url": "https://yourapp.com/v2", "events": ["*"] }),
        )
        .await;
    assert_eq!(
        (changed.status, keys(&changed.text)),
        (200, fields.map(str::to_owned).to_vec())
    );
    assert_eq!(
        changed.json()["description"],
        "Production order notifications",
        "only what is provided changes"
    );
    assert_eq!(
        partner
            .call("PUT", &path, json!({ "active": false }))
            .await
            .json()["active"],
        false
    );
    assert_eq!(
        partner
            .call("PUT", &path, json!({ "active": true }))
            .await
            .json()["active"],
        true
    );
    assert_eq!(partner.call("PUT", &path, json!({})).await.status, 200);
    let deleted = partner.call("DELETE", &path, Value::Null).await;
    assert_eq!((deleted.status, deleted.text.as_str()), (204, ""));
    for (method, body) in [
        ("DELETE", Value::Null),
        ("PUT", json!({})),
        ("POST", Value::Null),
    ] {
        let path = if method == "POST" {
            format!("{path}/test")
        } else {
            path.clone()
        };
        let reply = partner.call(method, &path, body).await;
        assert_eq!(
            (reply.status, reply.text),
            (404, error(404, "Webhook not found", "Not Found"))
        );
    }
    assert_eq!(
        partner.call("GET", &path, Value::Null).await.status,
        404,
        "there is no GET of one (V-53)"
    );
    let bare = partner
        .call(
            "POST",
            "/webhooks",
            json!({ "url": "https://a.example/", "events": ["*", "order.failed"] }),
        )
        .await
        .json();
    assert_eq!(
        (&bare["description"], &bare["events"]),
        (&Value::Null, &json!(["*", "order.failed"]))
    );
}

#[tokio::test]
async fn every_mistake_in_a_body_is_told() {
    let server = strict().await;
    let tenant = server.tenant("vignetim").await;
    let partner = Partner::new(&server, &tenant, "test").await;
    let good = "https://yourapp.com/";
    let unknown = "each value in events must be one of the following values: order.completed, order.failed, order.refunded, order.cancelled, *";
    for (body, messages) in [
        (
            json!({}),
            json!(["url should not be empty", "events should not be empty"]),
        ),
        (
            json!({ "url": good, "events": [] }),
            json!(["events should not be empty"]),
        ),
        (
            json!({ "url": good, "events": "*" }),
            json!(["events should not be empty"]),
        ),
        (
            json!({ "url": good, "events": [1] }),
            json!(["each value in events must be a string"]),
        ),
        (
            json!({ "url": good, "events": ["order.shipped"] }),
            json!([unknown]),
        ),
        (
            json!({ "url": good, "events": ["order.*"] }),
            json!([unknown]),
        ),
        (
            json!({ "url": "http://yourapp.com/", "events": ["*"] }),
            json!(["url must use HTTPS"]),
        ),
        (
            json!({ "url": "https://127.1/", "events": ["*"] }),
            json!(["url must be a publicly accessible address"]),
        ),
        (
            json!({ "url": "https://localhost/", "events": ["*"] }),
            json!(["url must be a publicly accessible address"]),
        ),
        (
            json!({ "url": "https://[::ffff:10.0.0.1]/", "events": ["*"] }),
            json!(["url must be a publicly accessible address"]),
        ),
        (
            json!({ "url": "nonsense", "events": ["*"] }),
            json!(["url must be a URL address"]),
        ),
        (
            json!({ "url": 7, "events": ["*"] }),
            json!(["url must be a URL address"]),
        ),
        (
            json!({ "url": good, "events": ["*"], "active": true }),
            json!(["property active should not exist"]),
        ),
        (
            json!({ "url": good, "events": ["*"], "description": 7 }),
            json!(["description must be a string of at most 1024 bytes"]),
        ),
    ] {
        let reply = partner.call("POST", "/webhooks", body.clone()).await;
        assert_eq!(
            (reply.status, reply.text),
            (400, error(400, messages, "Bad Request")),
            "{body}"
        );
    }
    for body in ["{", "[]", "7", r#"{"url":"a","url":"b"}"#] {
        let reply = partner
            .signed(
                "POST",
                "/webhooks",
                body,
                now(),
                &format!("{:032x}", fastrand::u128(..)),
            )
            .await;
        assert_eq!(
            (reply.status, &reply.json()["error"]),
            (400, &json!("Bad Request")),
            "{body}"
        );
    }
    let large = partner
        .call("POST", "/webhooks", json!({ "url": "x".repeat(300_000) }))
        .await;
    assert_eq!(
        (large.status, &large.json()["statusCode"]),
        (413, &json!(413))
    );
    assert_eq!(
        partner.call("GET", "/webhooks", Value::Null).await.json()["data"],
        json!([])
    );
    let webhook = partner
        .call("POST", "/webhooks", json!({ "url": good, "events": ["*"] }))
        .await
        .json();
    let path = format!("/webhooks/{}", webhook["id"].as_str().unwrap());
    let reply = partner
        .call("PUT", &path, json!({ "active": "yes", "events": [] }))
        .await;
    let messages = json!([
        "events should not be empty",
        "active must be a boolean value"
    ]);
    assert_eq!(
        (reply.status, reply.text),
        (400, error(400, messages, "Bad Request"))
    );
}

/// Clients send `{}` or `null` where the documents have no body; nothing in one does anything.
#[tokio::test]
async fn a_body_that_the_documents_do_not_have_does_nothing() {
    let server = TestServer::start().await;
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let tenant = server.tenant("vignetim").await;
    let partner = Partner::new(&server, &tenant, "live").await;
    let new = json!({ "url": receiver.url("/"), "events": ["*"] });
    let made = partner.call("POST", "/webhooks", new.clone()).await.json();
    let own = format!("/webhooks/{}", text(&made, "id"));
    let stray = json!({ "active": false, "url": "http://127.0.0.1:9/", "mode": "test" });
    for stray in [json!({}), stray] {
        let test = format!("{own}/test");
        let tested = partner.call("POST", &test, stray.clone()).await;
        assert_eq!(tested.json()["success"], true, "{stray}: {}", tested.text);
        let webhook = partner.call("POST", "/webhooks", new.clone()).await.json();
        let gone = format!("/webhooks/{}", text(&webhook, "id"));
        let deleted = partner.call("DELETE", &gone, stray.clone()).await;
        assert_eq!(deleted.status, 204, "{stray}: {}", deleted.text);
    }
    assert_eq!(receiver.requests().len(), 2);
    let listed = partner.call("GET", "/webhooks", Value::Null).await.json();
    let left = &listed["data"];
    assert_eq!(left.as_array().unwrap().len(), 1, "{listed}");
    for name in ["id", "url", "active"] {
        assert_eq!(left[0][name], made[name], "{listed}");
    }
}

#[tokio::test]
async fn a_declared_type_can_be_subscribed_to_and_a_key_for_reading_is_forbidden_the_rest() {
    let server = TestServer::start().await;
    let application = server.application("vouchers", "vignetim").await;
    let tenant = server.tenant_of(&application).await;
    let partner = Partner::new(&server, &tenant, "live").await;
    let body = json!({ "url": "http://127.0.0.1:9/", "events": ["order.renamed"] });
    let unknown = partner.call("POST", "/webhooks", body.clone()).await;
    assert_eq!(unknown.status, 400, "{}", unknown.text);
    let path = format!("/v1/applications/{application}/event-types/order.renamed");
    server.good("PUT", &path, json!({})).await;
    let made = partner.call("POST", "/webhooks", body.clone()).await;
    assert_eq!(made.status, 201, "{}", made.text);
    let looks = json!({ "name": "looks", "tenant": tenant, "readOnly": true });
    let looks = server.good("POST", "/v1/keys", looks).await;
    let text = |name: &str| looks[name].as_str().unwrap().to_owned();
    let partner = Partner {
        server: &server,
        key: text("publicId"),
        secret: text("key"),
    };
    let refused = partner.call("POST", "/webhooks", body).await;
    let expected = error(403, "This key may not do that", "Forbidden");
    assert_eq!((refused.status, refused.text), (403, expected));
}

#[tokio::test]
async fn ten_webhooks_per_organization_and_environment() {
    let server = strict().await;
    let tenant = server.tenant("vignetim").await;
    let (live, sandbox) = (
        Partner::new(&server, &tenant, "live").await,
        Partner::new(&server, &tenant, "test").await,
    );
    let body = json!({ "url": "https://yourapp.com/", "events": ["*"] });
    for _ in 0..10 {
        assert_eq!(
            live.call("POST", "/webhooks", body.clone()).await.status,
            201
        );
    }
    let eleventh = live.call("POST", "/webhooks", body.clone()).await;
    assert_eq!(
        (eleventh.status, eleventh.text),
        (
            400,
            error(
                400,
                "Maximum of 10 webhooks per organization reached",
                "Bad Request"
            )
        )
    );
    assert_eq!(sandbox.call("POST", "/webhooks", body).await.status, 201);
    assert_eq!(
        sandbox.call("GET", "/webhooks", Value::Null).await.json()["data"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    let list = live.call("GET", "/webhooks", Value::Null).await.json();
    assert_eq!(list["data"].as_array().unwrap().len(), 10);
    let of_live = list["data"][0]["id"].as_str().unwrap();
    assert_eq!(
        sandbox
            .call("DELETE", &format!("/webhooks/{of_live}"), Value::Null)
            .await
            .status,
        404
    );
}

#[tokio::test]
async fn unsigned_stale_replayed_and_forged_requests_are_refused() {
    let server = strict().await;
    let (tenant, other) = (
        server.tenant("vignetim").await,
        server.tenant("vignetim").await,
    );
    let partner = Partner::new(&server, &tenant, "live").await;
    let path = "/v2/partners/webhooks";
    let missing = http(server.address, "GET", path, &[], "").await;
    assert_eq!(
        (missing.status, missing.text),
        (
            401,
            error(401, "Missing authentication headers", "Unauthorized")
        )
    );
    for offset in [-301, 301] {
        let reply = partner
            .signed("GET", "/webhooks", "", now() + offset, "n1")
            .await;
        assert_eq!(
            (reply.status, reply.text),
            (
                401,
                error(
                    401,
                    "Request timestamp is outside the allowed window",
                    "Unauthorized"
                )
            )
        );
    }
    assert_eq!(
        partner
            .signed("GET", "/webhooks", "", now() - 290, "n1")
            .await
            .status,
        200
    );
    let replayed = partner.signed("GET", "/webhooks", "", now(), "n1").await;
    assert_eq!(
        (replayed.status, replayed.text),
        (
            401,
            error(401, "Nonce has already been used", "Unauthorized")
        )
    );
    let refused = error(401, "Invalid signature", "Unauthorized");
    let at = now().to_string();
    let right = sign(&partner.secret, format!("{at}.n2.GET.{path}."));
    for (method, body, nonce, signature) in [
        ("GET", "", "n2", "0".repeat(64)),
        ("GET", "", "n2", right.to_uppercase()),
        ("GET", "", "n3", right.clone()),
        ("POST", "", "n2", right.clone()),
        ("GET", "x", "n2", right.clone()),
    ] {
        let reply = partner
            .send(method, path, body, &at, nonce, &signature)
            .await;
        assert_eq!(
            (reply.status, &reply.text),
            (401, &refused),
            "{method} {body:?} {nonce}"
        );
    }
    assert_eq!(
        partner
            .send("GET", path, "", &at, "n2", &right)
            .await
            .status,
        200,
        "a forgery uses up no nonce"
    );
    let unknown = Partner {
        key: "pk_live_nobody".to_owned(),
        secret: partner.secret.clone(),
        server: &server,
    };
    assert_eq!(
        unknown.call("GET", "/webhooks", Value::Null).await.text,
        refused
    );
    // Another organization's webhook is simply not found.
    let stranger = Partner::new(&server, &other, "live").await;
    let webhook = partner
        .call(
            "POST",
            "/webhooks",
            json!({ "url": "https://yourapp.com/", "events": ["*"] }),
        )
        .await
        .json();
    let theirs = format!("/webhooks/{}", webhook["id"].as_str().unwrap());
    assert_eq!(
        stranger
            .call("PUT", &theirs, json!({ "active": false }))
            .await
            .status,
        404
    );
    assert_eq!(
        stranger.call("GET", "/webhooks", Value::Null).await.json()["data"],
        json!([])
    );
    // A key of a product with another profile has no business here.
    let standard = server.tenant("standard").await;
    assert_eq!(
        Partner::new(&server, &standard, "live")
            .await
            .call("GET", "/webhooks", Value::Null)
            .await
            .status,
        403
    );
}

#[tokio::test]
async fn the_hundred_and_first_request_in_a_minute_is_one_too_many() {
    let server = strict().await;
    let tenant = server.tenant("vignetim").await;
    let partner = Partner::new(&server, &tenant, "live").await;
    for used in 1..=100 {
        let reply = partner.call("GET", "/webhooks", Value::Null).await;
        assert_eq!(
            (
                reply.status,
                reply.headers["x-ratelimit-remaining"].as_str()
            ),
            (200, (100 - used).to_string().as_str())
        );
        assert_eq!(reply.headers["x-ratelimit-limit"], "100");
    }
    let refused = partner.call("GET", "/webhooks", Value::Null).await;
    let resets: i64 = refused.headers["x-ratelimit-reset"].parse().unwrap();
    assert!((0..=61).contains(&(resets - now())));
    let body = refused.json();
    assert_eq!(
        (refused.status, &body["error"]),
        (429, &json!("Too Many Requests"))
    );
    let message = body["message"].as_str().unwrap();
    assert!(
        message.starts_with("Rate limit exceeded. Try again in ") && message.ends_with(" seconds."),
        "{message}"
    );
    let sandbox = Partner::new(&server, &tenant, "test").await;
    assert_eq!(
        sandbox.call("GET", "/webhooks", Value::Null).await.headers["x-ratelimit-limit"],
        "500"
    );
}

#[tokio::test]
async fn a_captured_request_that_is_sent_again_and_again_uses_up_nothing() {
    let server = strict().await;
    let tenant = server.tenant("vignetim").await;
    let partner = Partner::new(&server, &tenant, "live").await;
    let standing = |reply: &Reply| {
        let remaining = reply.headers["x-ratelimit-remaining"].clone();
        (reply.status, remaining)
    };
    let at = now();
    let first = partner.signed("GET", "/webhooks", "", at, "n1").await;
    assert_eq!(standing(&first), (200, "99".to_owned()));
    // More often than a partner may ask in a minute.
    for _ in 1..150 {
        let replayed = partner.signed("GET", "/webhooks", "", at, "n1").await;
        let refused = error(401, "Nonce has already been used", "Unauthorized");
        assert_eq!((replayed.status, replayed.text), (401, refused));
    }
    let fresh = partner.call("GET", "/webhooks", Value::Null).await;
    assert_eq!(standing(&fresh), (200, "98".to_owned()));
}

#[tokio::test]
async fn the_test_call_tells_how_the_endpoint_answered() {
    let server = TestServer::start().await;
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let tenant = server.tenant("vignetim").await;
    let partner = Partner::new(&server, &tenant, "live").await;
    let webhook = partner
        .call(
            "POST",
            "/webhooks",
            json!({ "url": receiver.url("/"), "events": ["*"] }),
        )
        .await
        .json();
    let path = format!("/webhooks/{}/test", webhook["id"].as_str().unwrap());
    partner
        .call(
            "PUT",
            path.trim_end_matches("/test"),
            json!({ "active": false }),
        )
        .await;
    let good = partner.call("POST", &path, Value::Null).await;
    assert_eq!(
        (good.status, keys(&good.text)),
        (
            200,
            ["success", "statusCode", "responseTime", "message"]
                .map(str::to_owned)
                .to_vec()
        )
    );
    let body = good.json();
    assert_eq!(
        (&body["success"], &body["statusCode"], &body["message"]),
        (
            &json!(true),
            &json!(200),
            &json!("Test webhook delivered successfully")
        )
    );
    assert!(body["responseTime"].is_u64());
    let request = receiver.wait_for(1).await.remove(0);
    let sent: Value = serde_json::from_slice(&request.body).unwrap();
    assert_eq!(
        (&sent["event"], &sent["data"]["webhookId"]),
        (&json!("webhook.test"), &webhook["id"])
    );
    let expected = sign(
        webhook["signingSecret"].as_str().unwrap(),
        std::str::from_utf8(&request.body).unwrap(),
    );
    assert_eq!(request.headers["x-webhook-signature"], expected);
    assert_eq!(
        request.headers["x-webhook-timestamp"],
        sent["timestamp"].as_str().unwrap()
    );
    for (behaviour, status) in [(Behaviour::Status(404), 404), (Behaviour::Reset, 500)] {
        receiver.behave(behaviour);
        let bad = partner.call("POST", &path, json!({})).await;
        let body = bad.json();
        assert_eq!(
            (bad.status, &body["success"], &body["statusCode"]),
            (200, &json!(false), &json!(status))
        );
        let message = if status == 404 {
            "Webhook endpoint returned non-2xx status code"
        } else {
            "connection closed before message completed"
        };
        assert_eq!(body["message"], message);
    }
    let listed = partner.call("GET", "/webhooks", Value::Null).await.json();
    assert_eq!(
        (
            &listed["data"][0]["consecutiveFailures"],
            &listed["data"][0]["active"]
        ),
        (&json!(0), &json!(false))
    );
}

#[tokio::test]
async fn a_profile_of_ones_own_speaks_it_at_a_place_of_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let known = postrider_core::profile::built_in();
    let source = &known
        .iter()
        .find(|known| known.name == "vignetim")
        .unwrap()
        .source;
    let own = source
        .replace("\"vignetim\"", "\"partners\"")
        .replace("/v2/partners", "/v2/mine");
    let own = own.replace("dialect = \"partners\"", "dialect = \"vignetim\"");
    std::fs::write(directory.path().join("partners.toml"), own).unwrap();
    let of = directory.path().to_owned();
    let server = TestServer::with(|config| config.profiles.directory = Some(of)).await;
    for path in ["/v2/mine/webhooks", "/v2/partners/webhooks", "/webhooks"] {
        let refused = http(server.address, "GET", path, &[], "").await;
        assert_eq!(refused.status, 401, "{path}: {}", refused.text);
        assert_eq!(refused.json()["statusCode"], 401, "{path}");
    }
}
