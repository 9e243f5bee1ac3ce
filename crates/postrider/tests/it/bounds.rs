//! What is bounded, and what is asked for in parts because of it.

use postrider_testkit::{Behaviour, Receiver};
use serde_json::{Value, json};

use crate::support::{TestServer, http, id, text};

/// More attempts than one answer shows.
const ATTEMPTS: u64 = 31;

#[tokio::test]
async fn a_delivery_shows_its_last_attempts_and_all_of_them_in_pages() {
    let server = TestServer::start().await;
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let tenant = server.tenant("standard").await;
    server.endpoint(&tenant, &receiver.url("/")).await;
    server.publish(&tenant, "a", json!({ "n": 1 })).await;
    let query = format!("tenant={tenant}");
    let delivery = id(&server.finished(&query, 1).await[0]);
    let path = format!("/v1/deliveries/{delivery}");
    for made in 2..=ATTEMPTS {
        let again = format!("{path}/resend");
        server.good("POST", &again, Value::Null).await;
        let ended = |row: &Value| row["status"] != "pending" && row["attemptsMade"] == made;
        server.until(&path, ended).await;
    }
    let numbers = |page: &Value, name: &str| -> Vec<u64> {
        let rows = page[name].as_array().unwrap().iter();
        rows.map(|row| row["number"].as_u64().unwrap()).collect()
    };
    let read = server.good("GET", &path, Value::Null).await;
    assert_eq!(
        numbers(&read, "attempts"),
        (7..=ATTEMPTS).collect::<Vec<_>>()
    );
    let first = format!("{path}/attempts?limit=20");
    let first = server.good("GET", &first, Value::Null).await;
    let next = format!("{path}/attempts?cursor={}", text(&first, "nextCursor"));
    let second = server.good("GET", &next, Value::Null).await;
    let mut seen = numbers(&first, "data");
    seen.extend(numbers(&second, "data"));
    assert_eq!(seen, (1..=ATTEMPTS).rev().collect::<Vec<_>>());
    assert_eq!(second["nextCursor"], Value::Null);
    let oldest = &second["data"].as_array().unwrap()[10];
    assert!(text(oldest, "requestBody").ends_with(r#""data":{"n":1}}"#));
    let many = format!("{path}/attempts?limit=26");
    let many = server.call("GET", &many, Value::Null).await;
    assert_eq!(many.json()["field"], "limit");
    let foreign = format!("/v1/deliveries?cursor={}", text(&first, "nextCursor"));
    let foreign = server.call("GET", &foreign, Value::Null).await;
    assert_eq!(foreign.code(), "cursor_invalid");
}

#[tokio::test]
async fn meta_is_small_because_lists_show_it() {
    let server = TestServer::start().await;
    let tenant = server.tenant("standard").await;
    let path = format!("/v1/tenants/{tenant}/events");
    let event = |bytes: usize| {
        let around = r#"{"m":""}"#.len();
        json!({ "type": "a", "data": 1, "meta": { "m": "m".repeat(bytes - around) } })
    };
    assert_eq!(
        server.call("POST", &path, event(16 * 1_024)).await.status,
        202
    );
    let refused = server.call("POST", &path, event(16 * 1_024 + 1)).await;
    assert_eq!(
        (refused.status, refused.json()["field"].clone()),
        (400, json!("meta"))
    );
    let text = json!({ "type": "a", "data": 1, "meta": "m" });
    let text = server.call("POST", &path, text).await;
    assert_eq!(text.json()["field"], "meta", "an object");
    let listed = server.good("GET", &path, Value::Null).await;
    assert_eq!(listed["data"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn an_endpoint_and_a_key_are_not_asked_for_together() {
    let server = TestServer::start().await;
    let tenant = server.tenant("simplifytrip").await;
    let key = json!({ "name": "k", "tenant": tenant, "webhook": "http://127.0.0.1:9/" });
    let key = server.good("POST", "/v1/keys", key).await;
    let both = format!(
        "endpoint={}&key={}",
        text(&key, "endpoint"),
        text(&key, "publicId")
    );
    for path in [
        format!("/v1/deliveries?{both}"),
        format!("/v1/tenants/{tenant}/statistics?{both}"),
    ] {
        let reply = server.call("GET", &path, Value::Null).await;
        assert_eq!(
            (reply.status, &reply.json()["field"]),
            (400, &json!("key")),
            "{path}"
        );
    }
}

#[tokio::test]
async fn a_retried_publish_gets_its_first_answer_whatever_changed_meanwhile() {
    let server = TestServer::start().await;
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let application = server.application("shop", "standard").await;
    let tenant = server.tenant_of(&application).await;
    server.endpoint(&tenant, &receiver.url("/")).await;
    let path = format!("/v1/tenants/{tenant}/events");
    let event = json!({ "type": "a.b", "data": { "n": 1 }, "idempotencyKey": "k" });
    let first = server.good("POST", &path, event.clone()).await;
    let strict = json!({ "schema": { "type": "string" } });
    let schema = format!("/v1/applications/{application}/event-types/a.b");
    server.good("PUT", &schema, strict).await;
    let again = server.good("POST", &path, event.clone()).await;
    assert_eq!(
        (id(&again), &again["duplicate"]),
        (id(&first), &json!(true))
    );
    assert_eq!(again["deliveries"], 1);
    let batch = json!({ "events": [event] });
    let batch = server.good("POST", &format!("{path}/batch"), batch).await;
    assert_eq!(id(&batch["data"][0]), id(&first));
    let other = json!({ "type": "a.b", "data": { "n": 2 }, "idempotencyKey": "k" });
    assert_eq!(
        server.call("POST", &path, other).await.code(),
        "data_invalid"
    );
    assert_eq!(receiver.wait_for(1).await.len(), 1);
}

#[tokio::test]
async fn the_last_root_key_cannot_be_lost() {
    let server = TestServer::start().await;
    let keys = server.good("GET", "/v1/keys", Value::Null).await;
    let first = format!("/v1/keys/{}", id(&keys["data"][0]));
    let refused = server.call("DELETE", &first, Value::Null).await;
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (409, "last_root_key")
    );
    let second = server
        .good("POST", "/v1/keys", json!({ "name": "second" }))
        .await;
    let as_second = async |method: &str, path: &str, body: Value| {
        let reply = server.call_as(text(&second, "key"), method, path, body);
        reply.await.status
    };
    let off = json!({ "active": false });
    assert_eq!(as_second("PATCH", &first, off).await, 200);
    let own = format!("/v1/keys/{}", id(&second));
    assert_eq!(as_second("DELETE", &own, Value::Null).await, 409);
    assert_eq!(as_second("DELETE", &first, Value::Null).await, 204);
}

#[tokio::test]
async fn nobody_shuts_himself_out_with_his_own_key() {
    let server = TestServer::start().await;
    let keys = server.good("GET", "/v1/keys", Value::Null).await;
    let own = format!("/v1/keys/{}", id(&keys["data"][0]));
    let out = json!({ "allowedIps": ["203.0.113.1"] });
    let refused = server.call("PATCH", &own, out).await;
    assert_eq!(
        (refused.status, &refused.json()["field"]),
        (400, &json!("allowedIps"))
    );
    let inside = json!({ "allowedIps": ["203.0.113.1", "127.0.0.0/8"] });
    server.good("PATCH", &own, inside).await;
    server
        .good("PATCH", &own, json!({ "allowedIps": [] }))
        .await;
}

#[tokio::test]
async fn a_tenant_has_so_many_unfinished_replays_and_no_more() {
    let server = TestServer::start().await;
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let tenant = server.tenant("standard").await;
    server.endpoint(&tenant, &receiver.url("/")).await;
    let events: Vec<Value> = (0..200)
        .map(|n| json!({ "type": "a", "data": n }))
        .collect();
    let batch = json!({ "events": events });
    let path = format!("/v1/tenants/{tenant}/events/batch");
    server.good("POST", &path, batch).await;
    server.finished(&format!("tenant={tenant}"), 200).await;
    let path = format!("/v1/tenants/{tenant}/replays");
    let all = json!({ "status": "delivered" });
    let mut accepted = Vec::new();
    let refused = loop {
        let reply = server.call("POST", &path, all.clone()).await;
        if reply.status != 202 {
            break reply;
        }
        accepted.push(id(&reply.json()));
    };
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (409, "replays_max")
    );
    assert!(accepted.len() >= 10);
    for replay in accepted {
        let path = format!("/v1/replays/{replay}");
        server
            .until(&path, |replay| replay["status"] == "finished")
            .await;
    }
    assert_eq!(server.call("POST", &path, all).await.status, 202);
}

#[tokio::test]
async fn a_long_id_of_a_request_is_not_kept() {
    let server = TestServer::start().await;
    let said = async |bytes: usize| {
        let given = "r".repeat(bytes);
        let headers = [("x-request-id", given.as_str())];
        let reply = http(server.address, "GET", "/health", &headers, "").await;
        reply.headers["x-request-id"] == given
    };
    assert!(said(128).await);
    assert!(!said(129).await);
}

#[tokio::test]
async fn statistics_tell_of_so_many_endpoints_and_how_many_more_there_are() {
    const TOLD: usize = 250;
    let server = TestServer::start().await;
    let tenant = server.tenant("standard").await;
    for _ in 0..=TOLD {
        server.endpoint(&tenant, "http://127.0.0.1:9/").await;
    }
    server.publish(&tenant, "a", json!(1)).await;
    let path = format!("/v1/tenants/{tenant}/statistics");
    let statistics = server.good("GET", &path, Value::Null).await;
    let told = statistics["byEndpoint"].as_array().unwrap().len();
    assert_eq!(
        (told, &statistics["moreEndpoints"]),
        (TOLD, &json!(1)),
        "{statistics}"
    );
}

/// To find all that is wrong of what is large takes memory for each.
#[tokio::test]
async fn a_refusal_tells_so_many_mistakes_and_of_what_is_slow_one() {
    let server = TestServer::start().await;
    let application = server.application("shop", "standard").await;
    let tenant = server.tenant_of(&application).await;
    let put = format!("/v1/applications/{application}/event-types/a");
    let schema = json!({ "items": { "allOf": vec![json!({ "type": "string" }); 20] } });
    server.good("PUT", &put, json!({ "schema": schema })).await;
    let events = format!("/v1/tenants/{tenant}/events");
    for (values, told) in [(9, 5), (10_000, 1)] {
        let event = json!({ "type": "a", "data": vec![1; values] });
        let refused = server.call("POST", &events, event).await;
        assert_eq!(refused.code(), "data_invalid", "{refused:?}");
        let count = refused.text.matches("is not of type").count();
        assert_eq!(count, told, "{values}: {refused:?}");
    }
}
