//! A mail address that a customer names gets nothing until somebody who reads it agrees.

use postrider_testkit::{Behaviour, Mail, Receiver};
use serde_json::{Value, json};

use crate::notifications::{server_with_hanging_mail, server_with_mail};
use crate::pages::browser::Browser;
use crate::support::{Reply, TestServer, http, id, text};

async fn customer(server: &TestServer) -> (String, String, Receiver) {
    let receiver = Receiver::start(Behaviour::Status(400)).await;
    let tenant = server.tenant("simplifytrip").await;
    let key = json!({ "name": "k", "tenant": tenant, "webhook": receiver.url("/hook") });
    let key = server.good("POST", "/v1/keys", key).await;
    (tenant, text(&key, "key").to_owned(), receiver)
}

fn names(emails: &[&str]) -> Value {
    json!({ "settings": { "notifications": { "webhooks": { "email": true, "emails": emails } } } })
}

/// One failure, which is told to whoever may be told.
async fn fail(server: &TestServer, tenant: &str, count: usize) {
    let keys = server
        .good("GET", &format!("/v1/keys?tenant={tenant}"), Value::Null)
        .await;
    let event = json!({ "type": "X", "data": {}, "key": keys["data"][0]["publicId"] });
    let path = format!("/v1/tenants/{tenant}/events");
    server.good("POST", &path, event).await;
    server
        .finished(&format!("tenant={tenant}&status=failed"), count)
        .await;
}

/// The path of the link in a mail.
fn link(mail: &Mail) -> String {
    // A long line of a mail is folded.
    let text = mail.text.replace("=\r\n", "");
    let (_, rest) = text.split_once("https://hooks.example.com").unwrap();
    rest.split_whitespace().next().unwrap().to_owned()
}

async fn open(server: &TestServer, method: &str, path: &str, body: &str) -> Reply {
    let headers = [("content-type", "application/json")];
    http(server.address, method, path, &headers, body.to_owned()).await
}

#[tokio::test]
async fn an_address_that_a_customer_names_gets_nothing_until_it_is_confirmed() {
    let (server, mailbox) = server_with_mail(1).await;
    let (tenant, key, _receiver) = customer(&server).await;
    let path = format!("/v1/tenants/{tenant}");
    let named = server
        .call_as(&key, "PATCH", &path, names(&["ada@example.com"]))
        .await
        .json();
    let notifications = &named["settings"]["notifications"];
    assert_eq!(notifications["unconfirmed"], json!(["ada@example.com"]));
    let question = mailbox.wait_for(1).await.remove(0);
    assert_eq!(question.to, ["ada@example.com"]);
    assert!(
        question.text.contains("Subject: Confirm notifications"),
        "{}",
        question.text
    );

    // Whoever saves the page with its form for another reason vouches for nobody.
    let mut operator = Browser::sign_in(&server, &server.root).await;
    let page = format!("/tenants/{tenant}/notifications");
    operator.page(&page).await;
    let form = [
        ("webhooks.is", "1"),
        ("webhooks.inApp", "on"),
        ("webhooks.email", "on"),
        ("webhooks.emails", "ada@example.com"),
    ];
    let saved = operator.press(&format!("{page}/settings"), &form).await;
    assert_eq!(saved.status, 303, "{saved:?}");
    let named = server.good("GET", &path, Value::Null).await;
    let notifications = &named["settings"]["notifications"];
    assert_eq!(notifications["webhooks"]["inApp"], true);
    assert_eq!(notifications["unconfirmed"], json!(["ada@example.com"]));

    // What is sent back is not believed, and asks nobody again.
    let mut back = named["settings"].clone();
    back.as_object_mut().unwrap().remove("region");
    back["notifications"]["unconfirmed"] = json!([]);
    let again = server
        .call_as(&key, "PATCH", &path, json!({ "settings": back }))
        .await
        .json();
    assert_eq!(again["settings"], named["settings"]);
    // The product changes something else, and sends back what it read: that vouches for nobody.
    let mut whole = named["settings"].clone();
    whole["notifications"]["webhooks"]["inApp"] = json!(true);
    let kept = server
        .good("PATCH", &path, json!({ "settings": whole }))
        .await;
    let notifications = &kept["settings"]["notifications"];
    assert_eq!(notifications["unconfirmed"], json!(["ada@example.com"]));
    fail(&server, &tenant, 1).await;
    // The product vouches for whom it names; its mail shows that the failure was told.
    server
        .good(
            "PATCH",
            &path,
            names(&["ada@example.com", "ops@example.com"]),
        )
        .await;
    let vouched = server.good("GET", &path, Value::Null).await;
    assert_eq!(
        vouched["settings"]["notifications"]["unconfirmed"],
        Value::Null
    );
    fail(&server, &tenant, 2).await;
    let mails = mailbox.wait_for(3).await;
    let to: Vec<&str> = mails[1..].iter().map(|mail| mail.to[0].as_str()).collect();
    assert_eq!(to, ["ada@example.com", "ops@example.com"]);
    assert!(
        mails
            .iter()
            .skip(1)
            .all(|mail| !mail.text.contains("Confirm"))
    );
}

#[tokio::test]
async fn the_link_of_the_mail_confirms_when_its_button_is_pressed() {
    let (server, mailbox) = server_with_mail(1).await;
    let (tenant, key, _receiver) = customer(&server).await;
    let path = format!("/v1/tenants/{tenant}");
    let wanted = names(&["ada@example.com", "bob@example.com"]);
    server.call_as(&key, "PATCH", &path, wanted).await;
    let questions = mailbox.wait_for(2).await;
    let of = |to: &str| questions.iter().find(|mail| mail.to == [to]).unwrap();
    let ada = link(of("ada@example.com"));
    // A scanner that opens the link confirms nothing.
    let page = open(&server, "GET", &ada, "").await;
    assert_eq!(page.status, 200);
    assert!(page.text.contains("<form method=post>"), "{}", page.text);
    assert!(page.headers["content-security-policy"].contains("default-src 'none'"));
    let waiting = |tenant: Value| tenant["settings"]["notifications"]["unconfirmed"].clone();
    let both = json!(["ada@example.com", "bob@example.com"]);
    assert_eq!(waiting(server.good("GET", &path, Value::Null).await), both);
    for _ in 0..2 {
        let pressed = open(&server, "POST", &ada, "").await;
        assert_eq!(pressed.status, 200, "{}", pressed.text);
    }
    let left = waiting(server.good("GET", &path, Value::Null).await);
    assert_eq!(left, json!(["bob@example.com"]));
    // Or by a program, with the code.
    let bob = link(of("bob@example.com"));
    let code = bob.strip_prefix("/confirm/").unwrap();
    let body = json!({ "code": code }).to_string();
    let confirmed = open(&server, "POST", "/v1/mail-confirmations", &body).await;
    assert_eq!(
        confirmed.json(),
        json!({ "tenant": tenant, "email": "bob@example.com" })
    );
    assert_eq!(
        waiting(server.good("GET", &path, Value::Null).await),
        Value::Null
    );
    fail(&server, &tenant, 1).await;
    mailbox.wait_for(4).await;

    let wrong = open(&server, "POST", "/confirm/nonsense", "").await;
    assert_eq!(wrong.status, 400);
    assert!(wrong.text.contains("no longer valid"), "{}", wrong.text);
    let mut changed = code.to_owned();
    changed.replace_range(20..21, if &code[20..21] == "A" { "B" } else { "A" });
    let body = json!({ "code": changed }).to_string();
    let forged = open(&server, "POST", "/v1/mail-confirmations", &body).await;
    assert_eq!(
        (forged.status, forged.code().as_str()),
        (400, "validation_failed")
    );
}

#[tokio::test]
async fn nobody_is_asked_more_often_than_once_an_hour() {
    let (server, mailbox) = server_with_mail(1).await;
    let (tenant, key, _receiver) = customer(&server).await;
    let (other, other_key, _other) = second_customer(&server).await;
    let path = format!("/v1/tenants/{tenant}");
    let again = format!("{path}/notifications/confirmations");
    server
        .call_as(&key, "PATCH", &path, names(&["ada@example.com"]))
        .await;
    mailbox.wait_for(1).await;
    for _ in 0..3 {
        let asked = server
            .call_as(&key, "POST", &again, json!({ "email": "ada@example.com" }))
            .await;
        assert_eq!(asked.status, 202, "{}", asked.text);
        server.call_as(&key, "PATCH", &path, names(&[])).await;
        server
            .call_as(&key, "PATCH", &path, names(&["ada@example.com"]))
            .await;
    }
    let elsewhere = format!("/v1/tenants/{other}");
    server
        .call_as(
            &other_key,
            "PATCH",
            &elsewhere,
            names(&["ADA@example.com", "eve@example.com"]),
        )
        .await;
    // Questions are asked in turn: whoever comes after all of them got one.
    let mails = mailbox.wait_for(2).await;
    assert_eq!(mails[1].to, ["eve@example.com"]);
    assert_eq!(mails.len(), 2);
    let unknown = server
        .call_as(&key, "POST", &again, json!({ "email": "who@example.com" }))
        .await;
    assert_eq!(
        (unknown.status, unknown.code().as_str()),
        (400, "validation_failed")
    );
    assert_eq!(id(&server.good("GET", &path, Value::Null).await), tenant);
}

async fn second_customer(server: &TestServer) -> (String, String, Receiver) {
    let receiver = Receiver::start(Behaviour::Status(400)).await;
    let applications = server.good("GET", "/v1/applications", Value::Null).await;
    let tenant = server.tenant_of(&id(&applications["data"][0])).await;
    let key = json!({ "name": "k", "tenant": tenant, "webhook": receiver.url("/hook") });
    let key = server.good("POST", "/v1/keys", key).await;
    (tenant, text(&key, "key").to_owned(), receiver)
}

#[tokio::test]
async fn questions_that_the_mail_server_does_not_take_are_bounded_for_their_tenant() {
    let (server, _hanging) = server_with_hanging_mail().await;
    let (tenant, key, _receiver) = customer(&server).await;
    let (other, other_key, _other) = second_customer(&server).await;
    let path = format!("/v1/tenants/{tenant}");
    server
        .call_as(&key, "PATCH", &path, names(&["ada@example.com"]))
        .await;
    let ask = |tenant: &str| format!("/v1/tenants/{tenant}/notifications/confirmations");
    let ada = json!({ "email": "ada@example.com" });
    let mut answers = Vec::new();
    for _ in 0..=256 {
        answers.push(
            server
                .call_as(&key, "POST", &ask(&tenant), ada.clone())
                .await,
        );
        if answers.last().is_some_and(|last| last.status != 202) {
            break;
        }
    }
    let last = answers.last().unwrap();
    assert_eq!(
        (last.status, last.code().as_str()),
        (503, "overloaded"),
        "{}",
        last.text
    );
    // Another tenant has room.
    let elsewhere = format!("/v1/tenants/{other}");
    server
        .call_as(&other_key, "PATCH", &elsewhere, names(&["eve@example.com"]))
        .await;
    let eve = json!({ "email": "eve@example.com" });
    let asked = server.call_as(&other_key, "POST", &ask(&other), eve).await;
    assert_eq!(asked.status, 202, "{}", asked.text);
    let long = json!({ "code": "A".repeat(5_000) }).to_string();
    let long = open(&server, "POST", "/v1/mail-confirmations", &long).await;
    assert_eq!((long.status, long.code().as_str()), (413, "body_too_large"));
}
