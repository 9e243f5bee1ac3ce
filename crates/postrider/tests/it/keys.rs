//! Keys over their life: rotated, limited, and used from a browser.

use serde_json::{Value, json};

use crate::pages::browser::Browser;
use crate::support::{Reply, TestServer, hmac, http, id, text};

async fn application_key(server: &TestServer) -> Value {
    let name = format!("shop-{}", fastrand::u32(..));
    let application = server.application(&name, "standard").await;
    let new = json!({ "name": "ci", "application": application });
    server.good("POST", "/v1/keys", new).await
}

async fn asks(server: &TestServer, key: &str) -> Reply {
    server.call_as(key, "GET", "/v1/keys", Value::Null).await
}

/// What a text of a key is answered when it opens nothing any more.
async fn refused_at_last(server: &TestServer, key: &str) -> Reply {
    for _ in 0..600 {
        let reply = asks(server, key).await;
        if reply.status == 401 {
            return reply;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("the old text opens still");
}

#[tokio::test]
async fn a_rotated_key_opens_with_both_texts_until_the_old_one_is_ended() {
    let server = TestServer::start().await;
    let made = application_key(&server).await;
    let (old, path) = (
        text(&made, "key"),
        format!("/v1/keys/{}", text(&made, "id")),
    );
    let mut visitor = Browser::sign_in(&server, old).await;
    visitor.page("/").await;

    let rotate = format!("{path}/rotate");
    let rotated = server.good("POST", &rotate, Value::Null).await;
    let new = text(&rotated, "key");
    assert_ne!(new, old);
    for name in ["id", "publicId", "name", "createdAt"] {
        assert_eq!(rotated[name], made[name], "{name} stays");
    }
    assert!(rotated["previousUntil"].is_string() && rotated["rotatedAt"].is_string());
    for key in [old, new] {
        assert_eq!(asks(&server, key).await.status, 200);
    }
    visitor.page("/").await;
    let shown = server.good("GET", &path, Value::Null).await;
    assert!(shown.get("key").is_none(), "shown once: {shown}");

    // Another rotation would end a text that is in use somewhere.
    let again = server
        .call("POST", &rotate, json!({ "overlap": "1h" }))
        .await;
    assert_eq!(
        (again.status, again.code().as_str()),
        (409, "rotation_pending")
    );
    let wrong = server
        .call("POST", &rotate, json!({ "overlap": "31d" }))
        .await;
    assert_eq!(
        (wrong.status, wrong.code().as_str()),
        (400, "validation_failed")
    );

    // What leaked is ended now, with all that was begun with it.
    let ended = server
        .good("POST", &rotate, json!({ "overlap": "0s" }))
        .await;
    assert!(ended.get("previousUntil").is_none(), "{ended}");
    for key in [old, new] {
        assert_eq!(asks(&server, key).await.status, 401, "it opens nothing");
    }
    assert_eq!(asks(&server, text(&ended, "key")).await.status, 200);
    let out = visitor.send("GET", "/", &[]).await;
    assert_ne!(out.status, 200, "the visit has ended: {out:?}");

    let told = server
        .good("GET", "/v1/audit?action=key.updated", Value::Null)
        .await;
    let log = told.to_string();
    assert_eq!(told["data"].as_array().unwrap().len(), 2, "{log}");
    for key in [old, new, text(&ended, "key")] {
        assert!(!log.contains(key));
    }
}

#[tokio::test]
async fn an_overlap_ends_by_itself_and_the_answer_says_so() {
    let server = TestServer::start().await;
    let made = application_key(&server).await;
    let path = format!("/v1/keys/{}/rotate", text(&made, "id"));
    server.good("POST", &path, json!({ "overlap": "1s" })).await;
    let refused = refused_at_last(&server, text(&made, "key")).await;
    assert_eq!(refused.code(), "key_expired");
    assert!(refused.text.contains("rotated"), "{refused:?}");
}

#[tokio::test]
async fn a_partner_signs_with_either_secret_during_the_overlap() {
    let server = TestServer::start().await;
    let tenant = server.tenant("vignetim").await;
    let new = json!({ "name": "partner", "tenant": tenant });
    let made = server.good("POST", "/v1/keys", new).await;
    let signed = async |secret: &str| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let (now, nonce) = (
            now.unwrap().as_secs().to_string(),
            fastrand::u64(..).to_string(),
        );
        let path = "/v2/partners/webhooks";
        let signature = hmac(secret, format!("{now}.{nonce}.GET.{path}."));
        let headers = [
            ("x-api-key", text(&made, "publicId")),
            ("x-timestamp", &now),
            ("x-nonce", &nonce),
            ("x-signature", &signature),
        ];
        http(server.address, "GET", path, &headers, "").await.status
    };
    let path = format!("/v1/keys/{}/rotate", text(&made, "id"));
    let rotated = server.good("POST", &path, Value::Null).await;
    let (old, new) = (text(&made, "key"), text(&rotated, "key"));
    assert_eq!((signed(old).await, signed(new).await), (200, 200));
    let ended = server.good("POST", &path, json!({ "overlap": "0s" })).await;
    assert_eq!((signed(old).await, signed(new).await), (401, 401));
    assert_eq!(signed(text(&ended, "key")).await, 200);
    // Whoever has stolen it does not keep its owner out.
    let own = server
        .call_as(text(&ended, "key"), "POST", &path, Value::Null)
        .await;
    assert_eq!(own.code(), "scope_insufficient");
}

#[tokio::test]
async fn a_key_has_so_many_requests_a_minute_and_is_told_how_many_are_left() {
    let server = TestServer::with(|config| config.limits.application_requests = Some(3)).await;
    let made = application_key(&server).await;
    for left in [2, 1, 0] {
        let reply = asks(&server, text(&made, "key")).await;
        assert_eq!(reply.status, 200);
        assert_eq!(reply.headers["ratelimit-policy"], "\"key\";q=3;w=60");
        let said = &reply.headers["ratelimit"];
        assert!(said.starts_with(&format!("\"key\";r={left};t=")), "{said}");
    }
    let over = asks(&server, text(&made, "key")).await;
    assert_eq!((over.status, over.code().as_str()), (429, "rate_limited"));
    let wait: u32 = over.headers["retry-after"].parse().unwrap();
    assert!((1..=60).contains(&wait), "{over:?}");
    // Nobody else is meant.
    let other = application_key(&server).await;
    assert_eq!(asks(&server, text(&other, "key")).await.status, 200);
    let root = asks(&server, &server.root).await;
    assert_eq!(root.status, 200);
    assert!(!root.headers.contains_key("ratelimit"));
}

#[tokio::test]
async fn pages_of_named_origins_may_call_the_api_and_no_others() {
    let ours = "https://app.example.com";
    let server = TestServer::with(|config| {
        config.server.cors_origins = vec![ours.to_owned()];
    })
    .await;
    let preflight = async |origin: &str, path: &str| {
        let headers = [
            ("origin", origin),
            ("access-control-request-method", "POST"),
            (
                "access-control-request-headers",
                "authorization,idempotency-key",
            ),
        ];
        http(server.address, "OPTIONS", path, &headers, "").await
    };
    let allowed = preflight(ours, "/v1/keys").await;
    assert_eq!(allowed.status, 200);
    assert_eq!(allowed.headers["access-control-allow-origin"], ours);
    assert_eq!(
        allowed.headers["access-control-allow-headers"],
        "authorization,idempotency-key"
    );
    assert!(
        !allowed
            .headers
            .contains_key("access-control-allow-credentials")
    );
    let bearer = format!("Bearer {}", server.root);
    for (origin, is_ours) in [
        (ours, true),
        ("https://app.example.com.evil.example", false),
    ] {
        let headers = [("origin", origin), ("authorization", bearer.as_str())];
        let reply = http(server.address, "GET", "/v1/applications", &headers, "").await;
        let told = reply.headers.get("access-control-allow-origin");
        assert_eq!(told.map(String::as_str), is_ours.then_some(ours));
        // What is refused can be read too.
        let refused = http(server.address, "GET", "/v1/nothing", &headers, "").await;
        assert_eq!(refused.status, 404);
        assert_eq!(
            refused.headers.contains_key("access-control-allow-origin"),
            is_ours
        );
    }
    // So can what is refused before anything is looked at.
    let headers = [("origin", ours), ("content-encoding", "gzip")];
    let refused = http(server.address, "POST", "/v1/keys", &headers, "{}").await;
    assert_eq!(refused.status, 415);
    assert!(refused.headers.contains_key("access-control-allow-origin"));
    // The pages are nobody's to read.
    let console = preflight(ours, "/").await;
    assert!(
        !console.headers.contains_key("access-control-allow-origin"),
        "{console:?}"
    );

    let closed = TestServer::start().await;
    let headers = [("origin", ours), ("access-control-request-method", "POST")];
    let reply = http(closed.address, "OPTIONS", "/v1/keys", &headers, "").await;
    assert_eq!(reply.status, 405);
}

#[tokio::test]
async fn what_was_begun_with_an_old_text_ends_with_it() {
    let server = TestServer::start().await;
    let made = application_key(&server).await;
    let (old, path) = (
        text(&made, "key"),
        format!("/v1/keys/{}", text(&made, "id")),
    );
    server
        .good(
            "POST",
            &format!("{path}/rotate"),
            json!({ "overlap": "2s" }),
        )
        .await;
    let mut visitor = Browser::sign_in(&server, old).await;
    visitor.page("/").await;
    let link = server
        .call_as(old, "POST", "/v1/console-links", Value::Null)
        .await;
    let link = link.json();
    let ends = |value: &Value| value["expiresAt"].as_str().unwrap().to_owned();
    let until = server.good("GET", &path, Value::Null).await;
    assert_eq!(
        ends(&link),
        text(&until, "previousUntil"),
        "the link ends then too"
    );
    refused_at_last(&server, old).await;
    let out = visitor.send("GET", "/", &[]).await;
    assert_ne!(out.status, 200, "the visit has ended: {out:?}");
}

#[tokio::test]
async fn a_lost_answer_costs_nobody_the_text_that_is_in_use() {
    let server = TestServer::start().await;
    let made = application_key(&server).await;
    let path = format!("/v1/keys/{}/rotate", text(&made, "id"));
    let lost = server.good("POST", &path, Value::Null).await;
    let again = server.good("POST", &path, json!({ "again": true })).await;
    assert_eq!(again["previousUntil"], lost["previousUntil"], "as it was");
    for (key, opens) in [(&made, 200), (&lost, 401), (&again, 200)] {
        assert_eq!(asks(&server, text(key, "key")).await.status, opens);
    }
    // Two at once: one is made, and the text in use opens on.
    let made = application_key(&server).await;
    let path = format!("/v1/keys/{}/rotate", text(&made, "id"));
    let rotate = || server.call("POST", &path, Value::Null);
    let (one, other) = tokio::join!(rotate(), rotate());
    let mut statuses = [one.status, other.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 409]);
    assert_eq!(asks(&server, text(&made, "key")).await.status, 200);
}

#[tokio::test]
async fn vendors_apis_count_each_request_once_and_say_429() {
    let server = TestServer::with(|config| {
        config.limits.application_requests = Some(2);
        config.limits.tenant_requests = Some(1);
    })
    .await;
    let application = server.application("svix", "svix").await;
    let new = json!({ "name": "svix", "application": application });
    let made = server.good("POST", "/v1/keys", new).await;
    let bearer = format!("Bearer {}", text(&made, "key"));
    let call = async |bearer: &str, path: &str, body: &str| {
        let headers = [
            ("authorization", bearer),
            ("content-type", "application/json"),
            ("idempotency-key", path),
        ];
        http(server.address, "POST", path, &headers, body.to_owned()).await
    };
    let ada = call(&bearer, "/api/v1/app", r#"{"name":"Ada","uid":"ada"}"#).await;
    assert_eq!(ada.status, 201, "{ada:?}");
    assert!(
        ada.headers["ratelimit"].starts_with("\"key\";r=1;"),
        "{ada:?}"
    );
    let access = call(&bearer, "/api/v1/auth/app-portal-access/ada", "{}").await;
    let token = access.json()["token"].as_str().unwrap().to_owned();
    let over = call(&bearer, "/api/v1/app", r#"{"name":"Bob"}"#).await;
    assert_eq!(over.status, 429, "{over:?}");
    assert_ne!(over.headers["retry-after"], "0");
    // Its customer's token is one more, with a tenant's limit.
    let bearer = format!("Bearer {token}");
    let list = async || {
        let headers = [("authorization", bearer.as_str())];
        http(
            server.address,
            "GET",
            "/api/v1/app/ada/endpoint",
            &headers,
            "",
        )
        .await
    };
    assert_eq!((list().await.status, list().await.status), (200, 429));

    let tenant = server.tenant("voucherify").await;
    let new = json!({ "name": "manager", "tenant": tenant });
    let made = server.good("POST", "/v1/keys", new).await;
    let project = server
        .good("GET", &format!("/v1/tenants/{tenant}"), Value::Null)
        .await;
    let path = format!(
        "/management/v1/projects/{}/webhooks",
        text(&project, "wireId")
    );
    let headers = [
        ("x-management-id", text(&made, "publicId")),
        ("x-management-token", text(&made, "key")),
    ];
    let list = async || http(server.address, "GET", &path, &headers, "").await;
    assert_eq!(list().await.status, 200);
    let over = list().await;
    assert_eq!(over.status, 429, "{over:?}");
    assert!(over.headers.contains_key("retry-after"), "{over:?}");
}

/// What a product keeps about a customer for itself, its id for them among it, is none of theirs.
#[tokio::test]
async fn a_customer_does_not_see_what_is_noted_about_them() {
    let server = TestServer::start().await;
    let application = server.application("shop", "standard").await;
    let path = format!("/v1/applications/{application}/tenants");
    let new = json!({ "name": "Ada", "externalId": "c-1", "metadata": { "plan": "churning" } });
    let tenant = id(&server.good("POST", &path, new).await);
    let new = json!({ "name": "k", "tenant": tenant });
    let key = server.good("POST", "/v1/keys", new).await;
    let path = format!("/v1/tenants/{tenant}");
    let own = server
        .call_as(text(&key, "key"), "GET", &path, Value::Null)
        .await;
    assert_eq!(own.json()["name"], "Ada");
    assert!(
        !own.text.contains("churning") && !own.text.contains("c-1"),
        "{}",
        own.text
    );
    let products = server.good("GET", &path, Value::Null).await;
    assert_eq!(products["metadata"]["plan"], "churning");
    assert_eq!(products["externalId"], "c-1");
}
