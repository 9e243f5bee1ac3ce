//! Who hears of failures: by mail over real SMTP, in-app, and as operational webhooks.

use postrider::config::{NotificationsConfig, SmtpConfig, SmtpTlsConfig};
use postrider_testkit::{Behaviour, Mailbox, Receiver};
use serde_json::{Value, json};

use crate::support::{TestServer, id, text};

/// Where people reach the server.
const PUBLIC: &str = "https://hooks.example.com/";

/// Mail goes to this mailbox.
fn with_mail(mailbox: &Mailbox, every_secs: u64) -> NotificationsConfig {
    let address = mailbox.address;
    NotificationsConfig {
        every_secs,
        smtp: Some(SmtpConfig {
            host: address.ip().to_string(),
            port: Some(address.port()),
            tls: SmtpTlsConfig::None,
            from: "Postrider <postrider@example.com>".to_owned(),
            username: None,
            password_file: None,
        }),
    }
}

pub(crate) async fn server_with_mail(every_secs: u64) -> (TestServer, Mailbox) {
    let mailbox = Mailbox::start();
    let server = TestServer::with(|config| {
        config.notifications = with_mail(&mailbox, every_secs);
        config.server.public_url = Some(PUBLIC.to_owned());
    })
    .await;
    (server, mailbox)
}

/// The mail server takes connections and never says a word.
pub(crate) async fn server_with_hanging_mail() -> (TestServer, tokio::net::TcpListener) {
    let hanging = tokio::net::TcpListener::bind(("127.0.0.1", 0))
        .await
        .unwrap();
    let mut mail = with_mail(&Mailbox::start(), 1);
    if let Some(smtp) = &mut mail.smtp {
        smtp.port = Some(hanging.local_addr().unwrap().port());
    }
    let server = TestServer::with(|config| {
        config.notifications = mail;
        config.server.public_url = Some(PUBLIC.to_owned());
    })
    .await;
    (server, hanging)
}

fn notifications(email: bool) -> Value {
    let channels =
        json!({ "email": email, "inApp": true, "emails": ["ada@example.com", "ops@example.com"] });
    json!({ "settings": { "notifications": { "webhooks": channels } } })
}

/// Every event for this key fails at its first answer; SimplifyTrip disables nothing.
async fn failing(server: &TestServer) -> (String, Value, Receiver) {
    failing_of(server, "trips").await
}

async fn failing_of(server: &TestServer, name: &str) -> (String, Value, Receiver) {
    let receiver = Receiver::start(Behaviour::Status(400)).await;
    let application = server.application(name, "simplifytrip").await;
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
        // A mail for each of them, and none shows the other's address.
        let both = mailbox.wait_for(count * 2).await;
        let other = &both[count * 2 - 1];
        let mail = both[count * 2 - 2].clone();
        assert_eq!(mail.to, ["ada@example.com"]);
        assert_eq!(other.to, ["ops@example.com"]);
        assert!(!other.text.contains("ada@") && !mail.text.contains("ops@"));
        assert_eq!(mail.from, "postrider@example.com");
        let subject = mail
            .text
            .lines()
            .find(|line| line.starts_with("Subject:"))
            .unwrap();
        let number: usize = subject.split(' ').nth(2).unwrap().parse().unwrap();
        told += number;
        assert!(subject.contains("failed (Ada)"), "{subject}");
        assert!(mail.text.contains("to \"k\" http"), "{}", mail.text);
        assert!(mail.text.contains("/hook"), "{}", mail.text);
        if told >= 25 {
            break;
        }
    }
    assert_eq!(told, 25, "what failed before anybody asked is not told");
    assert!(mailbox.mails().len() < 20, "a digest, not a mail for each");

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
async fn a_dead_address_keeps_the_mail_from_nobody_else() {
    let (server, mailbox) = server_with_mail(1).await;
    mailbox.refuse("ada@example.com");
    let (tenant, key, _receiver) = failing(&server).await;
    let path = format!("/v1/tenants/{tenant}");
    server.good("PATCH", &path, notifications(true)).await;
    fail(&server, &tenant, &key, 1).await;
    let mail = mailbox.wait_for(1).await.remove(0);
    assert_eq!(mail.to, ["ops@example.com"]);
    // What was refused for good is not tried again: the next mail tells of the next failure only.
    fail(&server, &tenant, &key, 2).await;
    let mail = mailbox.wait_for(2).await.remove(1);
    assert!(mail.text.contains("2 send-outs failed"), "{}", mail.text);
}

#[tokio::test]
async fn who_is_put_off_gets_the_mail_later_and_the_others_once() {
    let (server, mailbox) = server_with_mail(1).await;
    mailbox.answer("ada@example.com", 450, 2);
    let (tenant, key, _receiver) = failing(&server).await;
    let path = format!("/v1/tenants/{tenant}");
    server.good("PATCH", &path, notifications(true)).await;
    fail(&server, &tenant, &key, 1).await;
    let mails = mailbox.wait_for(2).await;
    assert_eq!(mails[0].to, ["ops@example.com"]);
    assert_eq!(mails[1].to, ["ada@example.com"]);
    assert!(mails[1].text.contains("1 send-out failed"));
    fail(&server, &tenant, &key, 2).await;
    let mails = mailbox.wait_for(4).await;
    assert_eq!(mails[2].to, ["ada@example.com"]);
    assert_eq!(mails[3].to, ["ops@example.com"]);
    assert!(mails[2].text.contains("2 send-outs failed"));
}

#[tokio::test]
async fn a_full_mailbox_keeps_the_mail_from_nobody_elses_people() {
    let (server, mailbox) = server_with_mail(1).await;
    mailbox.answer("full@example.com", 452, 100_000);
    let to = |address: &str| {
        let mut settings = notifications(true);
        settings["settings"]["notifications"]["webhooks"]["emails"] = json!([address]);
        settings
    };
    // Their turn comes first.
    let (full, full_key, _first) = failing_of(&server, "first").await;
    let path = format!("/v1/tenants/{full}");
    server.good("PATCH", &path, to("full@example.com")).await;
    let (other, other_key, _second) = failing_of(&server, "second").await;
    let path = format!("/v1/tenants/{other}");
    server.good("PATCH", &path, to("ops@example.com")).await;
    fail(&server, &full, &full_key, 1).await;
    fail(&server, &other, &other_key, 1).await;
    let mails = mailbox.wait_for(1).await;
    assert_eq!(mails[0].to, ["ops@example.com"]);
}

#[tokio::test]
async fn who_has_the_mail_does_not_get_it_again_when_the_mail_server_breaks_off() {
    let (server, mailbox) = server_with_mail(1).await;
    let (tenant, key, _receiver) = failing(&server).await;
    let path = format!("/v1/tenants/{tenant}");
    server.good("PATCH", &path, notifications(true)).await;
    // No reply of SMTP: nothing more can be said on this connection.
    mailbox.answer("ops@example.com", 999, 2);
    fail(&server, &tenant, &key, 1).await;
    let mails = mailbox.wait_for(2).await;
    assert_eq!(mails[0].to, ["ada@example.com"]);
    assert_eq!(mails[1].to, ["ops@example.com"]);
    assert_eq!(mailbox.answers_left("ops@example.com"), 0);
}

#[tokio::test]
async fn an_outage_of_the_mail_server_costs_no_mail_of_the_day() {
    let (server, mailbox) = server_with_mail(0).await;
    let (tenant, key, _receiver) = failing(&server).await;
    let mut settings = notifications(true);
    let many: Vec<String> = (0..20).map(|at| format!("p{at}@example.com")).collect();
    settings["settings"]["notifications"]["webhooks"]["emails"] = json!(many);
    let path = format!("/v1/tenants/{tenant}");
    server.good("PATCH", &path, settings).await;
    // As often as the day's 500 mails would have been used up, and once more.
    mailbox.answer("postrider@example.com", 451, 26);
    fail(&server, &tenant, &key, 1).await;
    mailbox.answered("postrider@example.com").await;
    mailbox.wait_for(20).await;
}

#[tokio::test]
async fn a_server_that_refuses_the_sender_or_the_mail_loses_nothing() {
    let (server, mailbox) = server_with_mail(1).await;
    let (tenant, key, _receiver) = failing(&server).await;
    let path = format!("/v1/tenants/{tenant}");
    server.good("PATCH", &path, notifications(true)).await;
    mailbox.answer("postrider@example.com", 550, 2);
    mailbox.answer("ada@example.com", 554, 1);
    mailbox.answer("ops@example.com", 451, 1);
    fail(&server, &tenant, &key, 3).await;
    let mut mails = mailbox.wait_for(2).await;
    assert_eq!(mailbox.answers_left("postrider@example.com"), 0);
    assert_eq!(mailbox.answers_left("ada@example.com"), 0);
    let mut to: Vec<String> = mails.iter().flat_map(|mail| mail.to.clone()).collect();
    to.sort();
    assert_eq!(to, ["ada@example.com", "ops@example.com"]);
    let mail = mails.remove(0);
    assert!(mail.text.contains("3 send-outs failed"), "{}", mail.text);
}

#[tokio::test]
async fn a_mail_server_that_hangs_holds_up_no_operational_webhook() {
    let (server, hanging) = server_with_hanging_mail().await;
    let operator = Receiver::start(Behaviour::Status(200)).await;
    let operations = server.application("operations", "standard").await;
    let desk = server.tenant_of(&operations).await;
    server.endpoint(&desk, &operator.url("/ops")).await;
    let (tenant, key, _receiver) = failing(&server).await;
    let tenant_path = format!("/v1/tenants/{tenant}");
    let known = server.good("GET", &tenant_path, Value::Null).await;
    let application = format!("/v1/applications/{}", text(&known, "application"));
    let settings = json!({ "settings": { "operationsTenant": desk } });
    server.good("PATCH", &application, settings).await;
    server
        .good("PATCH", &tenant_path, notifications(true))
        .await;
    fail(&server, &tenant, &key, 1).await;
    // The mail server has the connection now and will never say a word.
    let _connection = hanging.accept().await.unwrap();
    fail(&server, &tenant, &key, 2).await;
    operator.wait_for(2).await;
}

#[tokio::test]
async fn a_paused_distribution_is_told_to_who_asked_for_distributions() {
    let mailbox = Mailbox::start();
    let profiles = crate::distributions::in_a_hurry();
    let server = TestServer::with(|config| {
        config.notifications = with_mail(&mailbox, 1);
        config.profiles.directory = Some(profiles.path().to_owned());
    })
    .await;
    let receiver = Receiver::start(Behaviour::Status(500)).await;
    let tenant = server.tenant("voucherify").await;
    let asked = json!({ "email": true, "inApp": true, "emails": ["ada@example.com"] });
    let settings = json!({ "settings": { "notifications": { "distributions": asked } } });
    server
        .good("PATCH", &format!("/v1/tenants/{tenant}"), settings)
        .await;
    server.endpoint(&tenant, &receiver.url("/webhook")).await;
    let distribution = json!({ "name": "Reward mails", "eventName": "e", "url": receiver.url("/d"), "events": ["customer.rewarded"] });
    let path = format!("/v1/tenants/{tenant}/distributions");
    let distribution = server.good("POST", &path, distribution).await;
    for to in [Value::Null, json!("*")] {
        let mut event = json!({ "type": "customer.rewarded", "data": {} });
        if !to.is_null() {
            event["distribution"] = to;
        }
        let path = format!("/v1/tenants/{tenant}/events");
        server.good("POST", &path, event).await;
    }
    server
        .finished(&format!("tenant={tenant}&status=failed"), 2)
        .await;
    let mail = mailbox.wait_for(1).await.remove(0);
    for part in [
        "1 distribution paused",
        "1 send-out failed",
        "\"Reward mails\" http",
        "/d",
    ] {
        assert!(mail.text.contains(part), "{part}: {}", mail.text);
    }
    assert!(
        !mail.text.contains("/webhook"),
        "nobody asked: {}",
        mail.text
    );
    let path = format!("/v1/tenants/{tenant}/notifications");
    let page = server.good("GET", &path, Value::Null).await;
    let rows = page["data"].as_array().unwrap();
    let told: Vec<&str> = rows.iter().map(|row| text(row, "type")).collect();
    assert_eq!(told, ["distribution.paused", "delivery.failed"]);
    for row in rows {
        assert_eq!(
            (text(row, "class"), text(row, "endpoint")),
            ("distributions", id(&distribution).as_str())
        );
    }
}

#[tokio::test]
async fn an_event_whose_time_ran_out_is_told() {
    let server = TestServer::start().await;
    let receiver = Receiver::start(Behaviour::Status(500)).await;
    let tenant = server.tenant("standard").await;
    server.endpoint(&tenant, &receiver.url("/")).await;
    server
        .good(
            "PATCH",
            &format!("/v1/tenants/{tenant}"),
            notifications(false),
        )
        .await;
    // The first retry would come after five seconds.
    let soon = postrider_core::Timestamp::from_micros(
        i64::try_from(
            std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .unwrap()
                .as_micros(),
        )
        .unwrap(),
    );
    let soon = soon.plus(std::time::Duration::from_secs(3));
    let event = json!({ "type": "a", "data": 1, "deliverBefore": soon.iso_ms() });
    let path = format!("/v1/tenants/{tenant}/events");
    server.good("POST", &path, event).await;
    let failed = server
        .finished(&format!("tenant={tenant}&status=failed"), 1)
        .await;
    assert_eq!(text(&failed[0], "reason"), "expired");
    let path = format!("/v1/tenants/{tenant}/notifications");
    let page = server.good("GET", &path, Value::Null).await;
    assert_eq!(page["data"].as_array().unwrap().len(), 1);
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
    for emails in [
        json!(["no address"]),
        json!(["a@b@example.com"]),
        json!(["Ada <ada@example.com>"]),
        json!(["a@b\nBcc: x@y"]),
        json!([7]),
    ] {
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
