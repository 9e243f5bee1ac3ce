//! Ending by hand what waits.

use std::time::Duration;

use postrider_testkit::{Behaviour, Receiver};
use serde_json::{Value, json};

use crate::support::{TestServer, id, text};

/// An endpoint whose deliveries go one after the other, so that what is cancelled lets the next one go.
async fn in_order(server: &TestServer, tenant: &str, receiver: &Receiver) {
    let body = json!({ "url": receiver.url("/"), "ordering": "endpoint" });
    let path = format!("/v1/tenants/{tenant}/endpoints");
    server.good("POST", &path, body).await;
}

async fn delivery_of(server: &TestServer, published: &Value) -> String {
    let path = format!("/v1/deliveries?event={}", id(published));
    let rows = server.good("GET", &path, Value::Null).await;
    id(&rows["data"][0])
}

#[tokio::test]
async fn a_cancelled_delivery_is_not_sent_again_and_lets_the_next_one_go() {
    let server = TestServer::start().await;
    let receiver = Receiver::start(Behaviour::Status(500)).await;
    let tenant = server.tenant("standard").await;
    in_order(&server, &tenant, &receiver).await;
    let first = server.publish(&tenant, "a", json!(1)).await;
    let second = server.publish(&tenant, "a", json!(2)).await;
    let first = delivery_of(&server, &first).await;
    let path = format!("/v1/deliveries/{first}");
    server
        .until(&path, |delivery| delivery["attemptsMade"] == 1)
        .await;
    receiver.behave(Behaviour::Status(200));
    let cancelled = server
        .good("POST", &format!("{path}/cancel"), Value::Null)
        .await;
    assert_eq!(
        (text(&cancelled, "status"), &cancelled["attemptsMade"]),
        ("cancelled", &json!(1))
    );
    let second = delivery_of(&server, &second).await;
    let path_of_second = format!("/v1/deliveries/{second}");
    server
        .until(&path_of_second, |delivery| {
            delivery["status"] == "delivered"
        })
        .await;
    assert_eq!(receiver.requests().len(), 2, "one attempt of each");
    for ended in [&first, &second] {
        let again = format!("/v1/deliveries/{ended}/cancel");
        let again = server.call("POST", &again, Value::Null).await;
        assert_eq!(
            (again.status, again.code().as_str()),
            (409, "delivery_ended")
        );
    }
    // It may be sent all the same, by hand.
    server
        .good("POST", &format!("{path}/resend"), Value::Null)
        .await;
    server
        .until(&path, |delivery| delivery["status"] == "delivered")
        .await;
}

#[tokio::test]
async fn cancelling_under_an_attempt_keeps_its_failure_from_being_retried() {
    let server = TestServer::start().await;
    let slow = Duration::from_millis(700);
    let receiver = Receiver::start(Behaviour::SlowStatus(slow, 500)).await;
    let tenant = server.tenant("standard").await;
    in_order(&server, &tenant, &receiver).await;
    let first = server.publish(&tenant, "a", json!(1)).await;
    server.publish(&tenant, "a", json!(2)).await;
    receiver.wait_for(1).await;
    let first = delivery_of(&server, &first).await;
    let path = format!("/v1/deliveries/{first}");
    let cancelled = server
        .good("POST", &format!("{path}/cancel"), Value::Null)
        .await;
    assert_eq!(text(&cancelled, "status"), "cancelled");
    // The lane goes on, which it would not while the first is retried.
    let requests = receiver.wait_for(2).await;
    let next: Value = serde_json::from_slice(&requests[1].body).unwrap();
    assert_eq!(next["data"], json!(2), "not the first again");
    let kept = server.good("GET", &path, Value::Null).await;
    assert_eq!(
        (text(&kept, "status"), &kept["attemptsMade"]),
        ("cancelled", &json!(1))
    );
}

#[tokio::test]
async fn nobody_cancels_what_is_anothers() {
    let server = TestServer::start().await;
    let receiver = Receiver::start(Behaviour::Status(500)).await;
    let application = server.application("shop", "standard").await;
    let (ada, eve) = (
        server.tenant_of(&application).await,
        server.tenant_of(&application).await,
    );
    in_order(&server, &ada, &receiver).await;
    let published = server.publish(&ada, "a", json!(1)).await;
    let delivery = delivery_of(&server, &published).await;
    let key = |tenant: &str, mode: &str| json!({ "name": "k", "tenant": tenant, "mode": mode });
    let path = format!("/v1/deliveries/{delivery}/cancel");
    for (tenant, mode) in [(&eve, "live"), (&ada, "test")] {
        let key = server.good("POST", "/v1/keys", key(tenant, mode)).await;
        let refused = server
            .call_as(text(&key, "key"), "POST", &path, Value::Null)
            .await;
        assert_eq!(refused.status, 404, "{tenant} {mode}: {}", refused.text);
    }
    let own = server.good("POST", "/v1/keys", key(&ada, "live")).await;
    let own = server
        .call_as(text(&own, "key"), "POST", &path, Value::Null)
        .await;
    assert_eq!(own.status, 200, "{}", own.text);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_resent_while_it_is_cancelled_is_sent() {
    let server = TestServer::start().await;
    let receiver = Receiver::start(Behaviour::Status(500)).await;
    let tenant = server.tenant("standard").await;
    // Each waits in a lane of its own for its first retry, some seconds away.
    for _ in 0..40 {
        server.endpoint(&tenant, &receiver.url("/")).await;
    }
    server.publish(&tenant, "a", json!(1)).await;
    let waiting = format!("/v1/deliveries?tenant={tenant}&limit=100");
    let rows = server
        .until(&waiting, |page| {
            let rows = page["data"].as_array().unwrap();
            rows.len() == 40 && rows.iter().all(|row| row["attemptsMade"] == 1)
        })
        .await;
    receiver.behave(Behaviour::Status(200));
    let mut resent = Vec::new();
    for row in rows["data"].as_array().unwrap() {
        let path = |what: &str| format!("/v1/deliveries/{}/{what}", id(row));
        let (cancel, resend) = (path("cancel"), path("resend"));
        let (_, again) = tokio::join!(
            server.call("POST", &cancel, Value::Null),
            server.call("POST", &resend, Value::Null)
        );
        if again.status == 202 {
            resent.push(id(row));
        }
    }
    assert!(!resent.is_empty(), "none came after its cancelling");
    // Each was accepted, whatever came between.
    for delivery in resent {
        let path = format!("/v1/deliveries/{delivery}");
        server
            .until(&path, |delivery| delivery["status"] != "pending")
            .await;
    }
}

#[tokio::test]
async fn what_is_under_way_is_not_resent_though_it_is_cancelled() {
    let server = TestServer::start().await;
    let slow = Duration::from_secs(2);
    let receiver = Receiver::start(Behaviour::SlowStatus(slow, 400)).await;
    let tenant = server.tenant("standard").await;
    server.endpoint(&tenant, &receiver.url("/")).await;
    let published = server.publish(&tenant, "a", json!(1)).await;
    receiver.wait_for(1).await;
    let path = format!("/v1/deliveries/{}", delivery_of(&server, &published).await);
    let cancel = format!("{path}/cancel");
    server.good("POST", &cancel, Value::Null).await;
    let resend = format!("{path}/resend");
    let refused = server.call("POST", &resend, Value::Null).await;
    let code = refused.code();
    assert_eq!((refused.status, code.as_str()), (409, "delivery_pending"));
    server
        .until(&path, |delivery| delivery["attemptsMade"] == 1)
        .await;
    receiver.behave(Behaviour::Status(200));
    server.good("POST", &resend, Value::Null).await;
    server
        .until(&path, |delivery| delivery["status"] == "delivered")
        .await;
}
