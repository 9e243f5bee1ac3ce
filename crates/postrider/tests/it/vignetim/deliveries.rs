//! What a partner sees of its deliveries through the API: failures counted, disabled, enabled.

use std::time::Duration;

use postrider_testkit::certificates::{Authority, self_signed};
use postrider_testkit::{Behaviour, Receiver};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Partner, error, strict};
use crate::support::{TestServer, text};

/// Vignetim's profile with something else in the place of what it has.
fn with(had: &str, has: &str) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let built_in = include_str!("../../../../../profiles/vignetim.toml");
    let changed = built_in.replace(had, has);
    assert_ne!(changed, built_in);
    std::fs::write(directory.path().join("vignetim.toml"), changed).unwrap();
    directory
}

/// Vignetim's profile whose last retry comes at once.
fn in_a_hurry() -> TempDir {
    with(r#"["0s", "1s", "5s"]"#, r#"["0s", "10ms", "10ms"]"#)
}

async fn until(partner: &Partner<'_>, wanted: impl Fn(&Value) -> bool) -> Value {
    for _ in 0..600 {
        let list = partner.call("GET", "/webhooks", Value::Null).await.json();
        // Polling spends the allowance of requests; a refusal is no list.
        if let Some(first) = list["data"].get(0).filter(|first| wanted(first)) {
            return first.clone();
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    panic!("the webhook never was as wanted");
}

#[tokio::test]
async fn failures_are_counted_ten_disable_and_true_enables_anew() {
    let profiles = in_a_hurry();
    let path = profiles.path().to_owned();
    let server = TestServer::with(|config| config.profiles.directory = Some(path)).await;
    let receiver = Receiver::start(Behaviour::Status(401)).await;
    let tenant = server.tenant("vignetim").await;
    let partner = Partner::new(&server, &tenant, "live").await;
    let body = json!({ "url": receiver.url("/"), "events": ["order.completed"] });
    let created = partner.call("POST", "/webhooks", body).await.json();
    assert_eq!(created["active"], true, "from the start");
    let id = text(&created, "id");
    assert_eq!(id, id.to_ascii_lowercase());
    let path = format!("/webhooks/{id}");

    server.publish(&tenant, "order.completed", json!({})).await;
    let failing = until(&partner, |webhook| webhook["consecutiveFailures"] == 1).await;
    assert_eq!(failing["active"], true);
    assert_eq!(
        receiver.requests().len(),
        4,
        "the first request and three retries"
    );
    for _ in 2..=10 {
        server.publish(&tenant, "order.completed", json!({})).await;
    }
    let disabled = until(&partner, |webhook| webhook["active"] == false).await;
    assert_eq!(disabled["consecutiveFailures"], 10);
    let missed = server.publish(&tenant, "order.completed", json!({})).await;
    assert_eq!(missed["deliveries"], 0);

    receiver.behave(Behaviour::Status(200));
    let change = json!({ "active": true, "url": receiver.url("/fixed"), "description": "fixed" });
    let enabled = partner.call("PUT", &path, change).await.json();
    assert_eq!(
        (&enabled["active"], &enabled["consecutiveFailures"]),
        (&json!(true), &json!(0))
    );
    assert_eq!(
        (&enabled["url"], &enabled["description"], &enabled["events"]),
        (
            &json!(receiver.url("/fixed")),
            &json!("fixed"),
            &json!(["order.completed"])
        )
    );
    assert!(text(&enabled, "updatedAt") > text(&disabled, "createdAt"));
    let before = receiver.requests().len();
    server.publish(&tenant, "order.completed", json!({})).await;
    let request = receiver.wait_for(before + 1).await.remove(before);
    assert_eq!(
        (request.method.as_str(), request.target.as_str()),
        ("POST", "/fixed")
    );
    assert_eq!(request.headers["content-type"], "application/json");
}

#[tokio::test]
async fn sandbox_and_production_get_their_own_events_only() {
    let server = TestServer::start().await;
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let tenant = server.tenant("vignetim").await;
    for mode in ["live", "test"] {
        let partner = Partner::new(&server, &tenant, mode).await;
        let body = json!({ "url": receiver.url(&format!("/{mode}")), "events": ["*"] });
        assert_eq!(partner.call("POST", "/webhooks", body).await.status, 201);
    }
    for (count, mode) in ["test", "live"].into_iter().enumerate() {
        let event = json!({ "type": "order.completed", "data": {}, "mode": mode });
        let path = format!("/v1/tenants/{tenant}/events");
        assert_eq!(server.good("POST", &path, event).await["deliveries"], 1);
        let request = receiver.wait_for(count + 1).await.remove(count);
        assert_eq!(request.target, format!("/{mode}"));
    }
}

#[tokio::test]
async fn disabled_webhooks_count_and_a_forbidden_change_is_refused() {
    let server = strict().await;
    let tenant = server.tenant("vignetim").await;
    let partner = Partner::new(&server, &tenant, "live").await;
    let body = json!({ "url": "https://yourapp.com/", "events": ["*"] });
    let mut path = String::new();
    for _ in 0..10 {
        let webhook = partner.call("POST", "/webhooks", body.clone()).await.json();
        path = format!("/webhooks/{}", text(&webhook, "id"));
        let off = partner.call("PUT", &path, json!({ "active": false })).await;
        assert_eq!(off.json()["active"], false);
    }
    let eleventh = partner.call("POST", "/webhooks", body).await;
    assert_eq!(eleventh.status, 400, "disabled ones count too");
    let inside = partner
        .call("PUT", &path, json!({ "url": "https://192.168.0.1/" }))
        .await;
    let message = json!(["url must be a publicly accessible address"]);
    assert_eq!(
        (inside.status, inside.text),
        (400, error(400, message, "Bad Request"))
    );
    for id in [
        "wh-x",
        "x",
        "wh-00000000-0000-0000-0000-00000000000g",
        "%00",
    ] {
        let reply = partner
            .call("PUT", &format!("/webhooks/{id}"), json!({}))
            .await;
        assert_eq!(
            (reply.status, reply.text),
            (404, error(404, "Webhook not found", "Not Found")),
            "{id}"
        );
    }
    let standard = server.tenant("standard").await;
    let stranger = Partner::new(&server, &standard, "live").await;
    let refused = stranger.call("GET", "/webhooks", Value::Null).await;
    assert_eq!(
        (
            refused.status,
            &refused.json()["statusCode"],
            &refused.json()["error"]
        ),
        (403, &json!(403), &json!("Forbidden"))
    );
}

#[tokio::test]
async fn the_test_call_waits_ten_seconds_at_most() {
    let server = TestServer::start().await;
    let receiver = Receiver::start(Behaviour::Hang).await;
    let tenant = server.tenant("vignetim").await;
    let partner = Partner::new(&server, &tenant, "live").await;
    let body = json!({ "url": receiver.url("/"), "events": ["*"] });
    let webhook = partner.call("POST", "/webhooks", body).await.json();
    let path = format!("/webhooks/{}/test", text(&webhook, "id"));
    let answer = partner.call("POST", &path, Value::Null).await.json();
    assert_eq!(
        (&answer["success"], &answer["responseTime"]),
        (&json!(false), &json!(10_000))
    );
}

#[tokio::test]
async fn the_test_call_says_why_no_answer_came() {
    // The documented ten seconds are two.
    let profiles = with(r#"timeout = "10s""#, r#"timeout = "2s""#);
    let path = profiles.path().to_owned();
    let server = TestServer::with(|config| config.profiles.directory = Some(path)).await;
    let silent = Receiver::start(Behaviour::Hang).await;
    let strangers = Authority::default().server("localhost", false, &[]);
    let with_tls = async |tls| {
        let receiver = Receiver::with_tls(Behaviour::Status(200), Some(tls)).await;
        let url = format!("https://localhost:{}/", receiver.address.port());
        (receiver, url)
    };
    let (_alone, alone) = with_tls(self_signed("localhost")).await;
    let (_unknown, unknown) = with_tls(strangers).await;
    // Somebody's port, which is nobody's from now on.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let closed = listener.local_addr().unwrap();
    drop(listener);
    // In the words of this machine.
    let refused = tokio::net::TcpStream::connect(closed).await.unwrap_err();
    let tenant = server.tenant("vignetim").await;
    let partner = Partner::new(&server, &tenant, "live").await;
    for (url, message) in [
        (format!("http://{closed}/"), refused.to_string()),
        (
            "https://nobody.invalid/".to_owned(),
            "the name has no address that deliveries can go to".to_owned(),
        ),
        (silent.url("/"), "no answer within 2 s".to_owned()),
        (
            alone,
            "the certificate is self-signed; use one of a public authority".to_owned(),
        ),
        (unknown, "the server sends its certificate without the intermediate one; configure the full chain".to_owned()),
    ] {
        let body = json!({ "url": url, "events": ["*"] });
        let webhook = partner.call("POST", "/webhooks", body).await.json();
        let path = format!("/webhooks/{}/test", text(&webhook, "id"));
        let answer = partner.call("POST", &path, Value::Null).await;
        let told = answer.json();
        assert_eq!(
            (answer.status, &told["success"], &told["statusCode"]),
            (200, &json!(false), &json!(500)),
            "{url}: {told}"
        );
        assert_eq!(text(&told, "message"), message, "{url}");
    }
}
