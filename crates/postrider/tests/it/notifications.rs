//! Who hears of failures: by mail over real SMTP, in-app, and as operational webhooks.

use postrider::config::{SmtpConfig, SmtpTlsConfig};
use postrider_testkit::{Behaviour, Mailbox, Receiver};
use serde_json::{Value, json};

use crate::support::{TestServer, id, text};

async fn server_with_mail(every_secs: u64) -> (TestServer, Mailbox) {
    let mailbox = Mailbox::start();
    let address = mailbox.address;
    let server = TestServer::with(|config| {
        config.notifications.every_secs = every_secs;
        config.notifications.smtp = Some(SmtpConfig {
            host: address.ip().to_string(),
            port: Some(address.port()),
            tls: SmtpTlsConfig::None,
            from: "Postrider <postrider@example.com>".to_owned(),
            username: None,
            password_file: None,
        });
    })
    .await;
    (server, mailbox)
}

fn notifications(email: bool) -> Value {
    let channels =
        json!({ "email": email, "inApp": true, "emails": ["ada@example.com", "ops@example.com"] });
    json!({ "settings": { "notifications": { "webhooks": channels } } })
}

/// Fails at the first answer, and is disabled by the third failure.
async fn failing(server: &TestServer) -> (String, Value, Receiver) {
    let receiver = Receiver::start(Behaviour::Status(400)).await;
    let application = server.application("trips", "simplifytrip").await;
    let tenant = server.tenant_of(&application).await;
    let key = json!({ "name": "k", "tenant": tenant, "webhook": receiver.url("/hook") });
    let key = server.good("POST", "/v1/keys", key).await;
    (tenant, key, receiver)
}

async fn fail(server: &TestServer, tenant: &str, key: &Value, count: usize) {
    for _ in 0..count {
        let event = json!({ "type": "X", "data": {}, "key": key["publicId"] });
        server
            .good("POST", &format!("/v1/tenants/{tenant}/events"), event)
            .await;
    }
    server
        .finished(&format!("tenant={tenant}&status=failed"), count)
        .await;
}

#[tokio::test]
async fn failures_that_come_together_are_one_mail_and_each_is_told_once() {
    let (server, mailbox) = server_with_mail(1).await;
    let (tenant, key, _receiver) = failing(&server).await;
    fail(&server, &tenant, &key, 1).await;
    server
        .good(
            "PATCH",
            &format!("/v1/tenants/{tenant}"),
            notifications(true),
        )
        .await;
    fail(&server, &tenant, &key, 25).await;
    let mut told = 0;
    for count in 1.. {
        let mail = mailbox.wait_for(count).await.remove(count - 1);
        assert_eq!(mail.to, ["ada@example.com", "ops@example.com"]);
        assert_eq!(mail.from, "postrider@example.com");
        let subject = mail
            .text
            .lines()
            .find(|line| line.starts_with("Subject:"))
            .unwrap();
        let number: usize = subject.split(' ').nth(2).unwrap().parse().unwrap();
        told += number;
        assert!(subject.contains("failed (Ada)"), "{subject}");
        assert!(mail.text.contains("/hook"), "{}", mail.text);
        if told >= 25 {
            break;
        }
    }
    assert_eq!(told, 25, "what failed before anybody asked is not told");
    assert!(mailbox.mails().len() < 10, "a digest, not a mail for each");

    let path = format!("/v1/tenants/{tenant}/notifications");
    let page = server
        .good("GET", &format!("{path}?limit=100"), Value::Null)
        .await;
    let rows = page["data"].as_array().unwrap();
    assert_eq!(rows.len(), 25);
    assert_eq!(
        (
            text(&rows[0], "type"),
            text(&rows[0], "error"),
            text(&rows[0], "class")
        ),
        ("delivery.failed", "answered 400", "webhooks")
    );
    let read = server
        .good(
            "POST",
            &format!("{path}/read"),
            json!({ "upTo": rows[5]["id"] }),
        )
        .await;
    assert_eq!(read["read"], 20);
    let unread = server
        .good("GET", &format!("{path}?unread=true"), Value::Null)
        .await;
    assert_eq!(unread["data"].as_array().unwrap().len(), 5);
    assert_eq!(
        server
            .call("POST", &format!("{path}/read"), json!({ "upTo": "x" }))
            .await
            .status,
        400
    );

    // Turned off, nobody hears of the next.
    server
        .good(
            "PATCH",
            &format!("/v1/tenants/{tenant}"),
            json!({ "settings": { "notifications": null } }),
        )
        .await;
    fail(&server, &tenant, &key, 3).await;
    let page = server
        .good("GET", &format!("{path}?limit=100"), Value::Null)
        .await;
    assert_eq!(page["data"].as_array().unwrap().len(), 25);
}

#[tokio::test]
async fn mail_that_cannot_be_is_refused_when_it_is_asked_for() {
    let server = TestServer::start().await;
    let tenant = server.tenant("standard").await;
    let path = format!("/v1/tenants/{tenant}");
    let reply = server.call("PATCH", &path, notifications(true)).await;
    assert_eq!(
        reply.json()["field"],
        "settings.notifications.webhooks.email"
    );
    for emails in [json!(["no address"]), json!(["a@b\nBcc: x@y"]), json!([7])] {
        let channels = json!({ "webhooks": { "inApp": true, "emails": emails } });
        let body = json!({ "settings": { "notifications": channels } });
        assert_eq!(
            server.call("PATCH", &path, body).await.status,
            400,
            "{emails}"
        );
    }
    let view = server.good("GET", &path, Value::Null).await;
    assert_eq!(
        view["settings"]["notifications"]["webhooks"]["inApp"],
        false
    );
    let key = server
        .good(
            "POST",
            "/v1/keys",
            json!({ "name": "own", "tenant": tenant }),
        )
        .await;
    let own = server
        .call_as(text(&key, "key"), "PATCH", &path, notifications(false))
        .await;
    assert_eq!(own.status, 200, "a customer chooses for himself");
    let renamed = server
        .call_as(text(&key, "key"), "PATCH", &path, json!({ "name": "x" }))
        .await;
    assert_eq!(renamed.code(), "scope_insufficient");
}

#[tokio::test]
async fn an_operator_gets_failures_as_signed_webhooks_of_his_own() {
    let server = TestServer::start().await;
    let operator = Receiver::start(Behaviour::Status(200)).await;
    let operations = server.application("operations", "standard").await;
    let desk = server.tenant_of(&operations).await;
    let endpoint = server.endpoint(&desk, &operator.url("/ops")).await;
    let application = server.application("partners", "vignetim").await;
    let path = format!("/v1/applications/{application}");
    let settings = json!({ "settings": { "operationsTenant": desk } });
    server.good("PATCH", &path, settings.clone()).await;
    let own = server.tenant_of(&application).await;
    let loops = json!({ "settings": { "operationsTenant": own } });
    assert_eq!(
        server.call("PATCH", &path, loops).await.json()["field"],
        "settings.operationsTenant"
    );
    let loops = server
        .call(
            "PATCH",
            &format!("/v1/applications/{operations}"),
            json!({ "settings": { "operationsTenant": own } }),
        )
        .await;
    assert_eq!(loops.json()["field"], "settings.operationsTenant");

    // Nothing listens there: three retries within six seconds.
    let dead = Receiver::start(Behaviour::Status(500)).await;
    let broken = server.endpoint(&own, &dead.url("/dead")).await;
    let event = server
        .publish(&own, "order.completed", json!({ "orderId": "1" }))
        .await;
    let request = operator.wait_for(1).await.remove(0);
    let webhook = standardwebhooks::Webhook::new(text(&endpoint, "secret")).unwrap();
    let mut headers = http::HeaderMap::new();
    for name in ["webhook-id", "webhook-timestamp", "webhook-signature"] {
        headers.insert(name, request.headers[name].parse().unwrap());
    }
    webhook.verify(&request.body, &headers).unwrap();
    let body: Value = serde_json::from_slice(&request.body).unwrap();
    let delivery = server
        .finished(&format!("event={}", id(&event)), 1)
        .await
        .remove(0);
    assert_eq!(body["type"], "delivery.failed");
    assert_eq!(
        (
            &body["data"]["endpoint"],
            &body["data"]["delivery"],
            &body["data"]["attempts"]
        ),
        (&json!(id(&broken)), &json!(id(&delivery)), &json!(4))
    );
}
