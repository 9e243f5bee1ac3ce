//! Deleting what an event said, and what was answered to it.

use std::time::Duration;

use postrider_testkit::{Behaviour, Receiver};
use serde_json::{Value, json};

use crate::pages::browser::Browser;
use crate::support::{TestServer, id, text};

const SAID: &str = "4929-1234-5678-9012-of-ada";
const ANSWERED: &str = "thank-you-ada-lovelace";

async fn only_delivery(server: &TestServer, event: &str) -> Value {
    let path = format!("/v1/deliveries?event={event}");
    let rows = server.good("GET", &path, Value::Null).await;
    assert_eq!(rows["data"].as_array().map(Vec::len), Some(1), "{rows}");
    rows["data"][0].clone()
}

/// Where the store's files still have what was deleted.
fn found_in_files(server: &TestServer) -> Option<String> {
    for file in std::fs::read_dir(server.directory.path().join("data")).unwrap() {
        let file = file.unwrap().path();
        let bytes = std::fs::read(&file).unwrap();
        for word in [SAID, ANSWERED] {
            let mut windows = bytes.windows(word.len());
            if windows.any(|window| window == word.as_bytes()) {
                return Some(format!("{word} is still in {}", file.display()));
            }
        }
    }
    None
}

#[tokio::test]
async fn what_should_not_have_been_published_is_gone_with_what_was_answered() {
    let server = TestServer::start().await;
    let receiver = Receiver::start(Behaviour::Body(503, ANSWERED.to_owned())).await;
    let tenant = server.tenant("standard").await;
    server.endpoint(&tenant, &receiver.url("/")).await;
    // Long, so that the end of it is on a page of its own, which is freed whole.
    let data = json!({ "a": "x".repeat(9_000), "card": SAID });
    let body = json!({ "type": "a.b", "data": data, "meta": { "card": SAID } });
    let path = format!("/v1/tenants/{tenant}/events");
    let event = id(&server.good("POST", &path, body).await);
    let delivery = id(&only_delivery(&server, &event).await);
    let delivery_path = format!("/v1/deliveries/{delivery}");
    let seen = server
        .until(&delivery_path, |delivery| delivery["attemptsMade"] == 1)
        .await;
    assert!(seen.to_string().contains(ANSWERED) && seen.to_string().contains(SAID));

    let content = format!("/v1/events/{event}/content");
    let deleted = server.call("DELETE", &content, Value::Null).await;
    assert_eq!((deleted.status, deleted.text.as_str()), (204, ""));
    let again = server.call("DELETE", &content, Value::Null).await;
    assert_eq!(again.status, 204, "{again:?}");

    let event_path = format!("/v1/events/{event}");
    let left = server.good("GET", &event_path, Value::Null).await;
    assert_eq!(
        (&left["contentDeleted"], &left["data"], &left["type"]),
        (&json!(true), &Value::Null, &json!("a.b"))
    );
    let left = server.good("GET", &delivery_path, Value::Null).await;
    assert_eq!(left["status"], "cancelled", "{left}");
    assert_eq!(left["attempts"][0]["statusCode"], 503, "{left}");
    let again = server
        .call("POST", &format!("{delivery_path}/resend"), Value::Null)
        .await;
    assert_eq!(
        (again.status, again.code().as_str()),
        (409, "resend_not_allowed")
    );
    let log = format!("/v1/audit?subject={event}");
    let log = server.good("GET", &log, Value::Null).await;
    assert_eq!(log["data"].as_array().map(Vec::len), Some(1), "{log}");
    assert_eq!(log["data"][0]["action"], "event.content_deleted");
    // No page shows it either, and no file of the store has a word of it.
    let mut browser = Browser::sign_in(&server, &server.root.clone()).await;
    for path in [
        format!("/events/{event}"),
        format!("/deliveries/{delivery}"),
    ] {
        let page = browser.page(&path).await;
        assert!(!page.contains(SAID) && !page.contains(ANSWERED), "{path}");
    }
    // Not only when it has ended. What is written meanwhile gives it occasion.
    receiver.behave(Behaviour::Status(200));
    let patience = std::time::Instant::now();
    while let Some(found) = found_in_files(&server) {
        assert!(patience.elapsed().as_secs() < 30, "{found}");
        server.publish(&tenant, "x.y", json!(1)).await;
    }
}

#[tokio::test]
async fn only_the_product_deletes_and_not_under_an_attempt() {
    let server = TestServer::start().await;
    let slow = Duration::from_millis(700);
    let receiver = Receiver::start(Behaviour::SlowStatus(slow, 200)).await;
    let application = server.application("shop", "standard").await;
    let tenant = server.tenant_of(&application).await;
    let other = server.application("other", "standard").await;
    server.endpoint(&tenant, &receiver.url("/")).await;
    let key = async |new: Value| {
        let made = server.good("POST", "/v1/keys", new).await;
        text(&made, "key").to_owned()
    };
    let own = key(json!({ "name": "k", "tenant": tenant })).await;
    let looks = json!({ "name": "k", "application": application, "readOnly": true });
    let looks = key(looks).await;
    let stranger = key(json!({ "name": "k", "application": other })).await;
    let product = key(json!({ "name": "k", "application": application })).await;
    let event = server.publish(&tenant, "a.b", json!({ "n": 1 })).await;
    let event = id(&event);
    let content = format!("/v1/events/{event}/content");
    for (key, code) in [
        (&own, "scope_insufficient"),
        (&looks, "scope_insufficient"),
        (&stranger, "not_found"),
    ] {
        let refused = server.call_as(key, "DELETE", &content, Value::Null).await;
        assert_eq!(refused.code(), code);
    }
    receiver.wait_for(1).await;
    let early = server
        .call_as(&product, "DELETE", &content, Value::Null)
        .await;
    assert_eq!(
        (early.status, early.code().as_str()),
        (409, "delivery_pending")
    );
    let delivery = id(&only_delivery(&server, &event).await);
    let path = format!("/v1/deliveries/{delivery}");
    server
        .until(&path, |delivery| delivery["attemptsMade"] == 1)
        .await;
    let attempt = |number: &str| format!("{path}/attempts/{number}/content");
    for number in ["0", "2", "x"] {
        let missing = server
            .call_as(&product, "DELETE", &attempt(number), Value::Null)
            .await;
        assert_eq!(missing.code(), "not_found", "{number}");
    }
    for path in [attempt("1"), content] {
        let deleted = server.call_as(&product, "DELETE", &path, Value::Null).await;
        assert_eq!(deleted.status, 204, "{path}: {deleted:?}");
    }
    let log = format!("/v1/audit?subject={event}");
    let log = server.good("GET", &log, Value::Null).await;
    let rows = log["data"].as_array().unwrap();
    assert_eq!(rows.len(), 2, "{log}");
    assert_eq!(
        rows[1]["after"],
        json!({ "attempt": 1, "delivery": delivery })
    );
}

#[tokio::test]
async fn at_the_console_it_is_deleted_by_its_name() {
    let server = TestServer::start().await;
    let tenant = server.tenant("standard").await;
    let event = server
        .publish(&tenant, "a.b", json!({ "card": SAID }))
        .await;
    let event = id(&event);
    let mut browser = Browser::sign_in(&server, &server.root.clone()).await;
    let path = format!("/events/{event}");
    let page = browser.page(&path).await;
    let delete = format!("{path}/delete");
    assert!(page.contains(SAID) && page.contains(&delete), "{page}");
    browser.page(&delete).await;
    let wrong = browser.press(&delete, &[("name", "yes")]).await;
    assert_eq!(wrong.status, 400, "{wrong:?}");
    let done = browser.press(&delete, &[("name", "a.b")]).await;
    assert_eq!(done.status, 303, "{done:?}");
    let page = browser.page(&path).await;
    assert!(page.contains("It was deleted"), "{page}");
    assert!(!page.contains(SAID) && !page.contains(&delete), "{page}");
}
