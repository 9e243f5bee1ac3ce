//! From a publish to the receiver and into the record.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use postrider_core::limits::CALLBACKS_MAX;
use postrider_testkit::{Behaviour, Receiver};
use serde_json::{Value, json};

use crate::binary;
use crate::support::{TestServer, hmac, http, id, text};

fn header_map(request: &postrider_testkit::Request) -> HeaderMap {
    let pairs = request.headers.iter().map(|(n, v)| {
        (
            HeaderName::from_bytes(n.as_bytes()).unwrap(),
            HeaderValue::from_str(v).unwrap(),
        )
    });
    pairs.collect()
}

#[tokio::test]
async fn payload_bytes_arrive_as_they_were_published_and_a_third_party_accepts_the_signature() {
    let server = TestServer::start().await;
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let tenant = server.tenant("standard").await;
    let endpoint = server.endpoint(&tenant, &receiver.url("/hook")).await;
    let data = "{ \"b\" : 1.50,\n\t\"a\":\"\\u00e9é\\/\u{2028}\", \"big\": 1e300, \"n\": 12345678901234567890 }";
    let body =
        format!(r#"{{"data":{data},"type":"invoice.paid","occurredAt":"2026-03-20T14:31:15Z"}}"#);
    let published = server
        .raw(&format!("/v1/tenants/{tenant}/events"), body)
        .await;
    assert_eq!(published.status, 202);
    assert_eq!(published.json()["deliveries"], 1);
    let request = receiver.wait_for(1).await.remove(0);
    let expected = format!(
        r#"{{"type":"invoice.paid","timestamp":"2026-03-20T14:31:15.000Z","data":{data}}}"#
    );
    assert_eq!(std::str::from_utf8(&request.body).unwrap(), expected);
    let webhook = standardwebhooks::Webhook::new(text(&endpoint, "secret")).unwrap();
    webhook
        .verify(&request.body, &header_map(&request))
        .unwrap();
    let message = &request.headers["webhook-id"];
    assert!(message.starts_with("msg_"));
    // What a receiver reports is found again, with its payload.
    let event = server
        .good("GET", &format!("/v1/events/{message}"), Value::Null)
        .await;
    assert_eq!(id(&event), id(&published.json()));
    let whole = server
        .call("GET", &format!("/v1/events/{message}"), Value::Null)
        .await
        .text;
    assert!(whole.contains(data), "{whole}");
    let delivery = server
        .finished(&format!("event={}", id(&event)), 1)
        .await
        .remove(0);
    let record = server
        .good(
            "GET",
            &format!("/v1/deliveries/{}", id(&delivery)),
            Value::Null,
        )
        .await;
    let attempt = &record["attempts"][0];
    assert_eq!(
        (
            &record["status"],
            &attempt["statusCode"],
            &attempt["responseBody"]
        ),
        (&json!("delivered"), &json!(200), &json!("ok"))
    );
    assert_eq!(attempt["url"], receiver.url("/hook"));
    let sent: Vec<&str> = attempt["requestHeaders"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pair| pair[0].as_str().unwrap())
        .collect();
    assert!(
        [
            "webhook-id",
            "webhook-timestamp",
            "webhook-signature",
            "Content-Type"
        ]
        .iter()
        .all(|name| sent.contains(name)),
        "{sent:?}"
    );
}

#[tokio::test]
async fn vignetims_immediate_retry_waits_for_no_tick_and_the_others_come_in_time() {
    let server = TestServer::start().await;
    let receiver = Receiver::start(Behaviour::Status(500)).await;
    // On a connection that was used before, a reset would be tried again inside the attempt.
    receiver.script([
        Behaviour::Reset,
        Behaviour::Status(401),
        Behaviour::StatusWith(302, "location", receiver.url("/elsewhere")),
    ]);
    let tenant = server.tenant("vignetim").await;
    server.endpoint(&tenant, &receiver.url("/")).await;
    server
        .publish(&tenant, "order.completed", json!({ "orderId": "1" }))
        .await;
    let requests = receiver.wait_for(4).await;
    let first = &requests[0];
    for request in &requests {
        assert_eq!(request.body, first.body, "identical on all attempts (V-29)");
        assert_eq!(
            request.headers["x-webhook-signature"],
            first.headers["x-webhook-signature"]
        );
        assert_eq!(
            request.headers["x-webhook-timestamp"],
            first.headers["x-webhook-timestamp"]
        );
    }
    let delivery = server
        .finished(&format!("tenant={tenant}"), 1)
        .await
        .remove(0);
    assert_eq!(
        (
            &delivery["status"],
            &delivery["reason"],
            &delivery["attemptsMade"]
        ),
        (&json!("failed"), &json!("exhausted"), &json!(4))
    );
    let record = server
        .good(
            "GET",
            &format!("/v1/deliveries/{}", id(&delivery)),
            Value::Null,
        )
        .await;
    let times: Vec<(postrider_core::Timestamp, postrider_core::Timestamp)> = record["attempts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|attempt| {
            (
                text(attempt, "startedAt").parse().unwrap(),
                text(attempt, "endedAt").parse().unwrap(),
            )
        })
        .collect();
    // Never early; how late depends on the machine that runs the test.
    for (pair, delay) in times.windows(2).zip([0, 1, 5]) {
        assert!(
            pair[1].0.plus(Duration::from_millis(1)).since(pair[0].1) >= Duration::from_secs(delay),
            "{times:?}"
        );
    }
    let errors: Vec<&Value> = record["attempts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|attempt| &attempt["error"]["kind"])
        .collect();
    assert_eq!(
        errors,
        [&json!("reset"), &Value::Null, &Value::Null, &Value::Null]
    );
}

#[tokio::test]
async fn an_idempotency_key_gives_the_first_event_again() {
    let server = TestServer::start().await;
    let tenant = server.tenant("standard").await;
    let path = format!("/v1/tenants/{tenant}/events");
    let bearer = format!("Bearer {}", server.root);
    let publish = async |key: &str, body: &str| {
        let headers = [
            ("authorization", bearer.as_str()),
            ("content-type", "application/json"),
            ("idempotency-key", key),
        ];
        http(server.address, "POST", &path, &headers, body.to_owned()).await
    };
    let first = publish("k1", r#"{"type":"a","data":1}"#).await;
    let again = publish("k1", r#"{"type":"a","data":1}"#).await;
    assert_eq!(
        (again.status, id(&again.json()), &again.json()["duplicate"]),
        (202, id(&first.json()), &json!(true))
    );
    let other = publish("k1", r#"{"type":"a","data":2}"#).await;
    assert_eq!(
        (other.status, other.code().as_str()),
        (409, "idempotency_key_reused")
    );
    assert_eq!(
        server.good("GET", &path, Value::Null).await["data"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
}

#[tokio::test]
async fn a_batch_answers_for_each_event() {
    let server = TestServer::start().await;
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let tenant = server.tenant("vignetim").await;
    server.endpoint(&tenant, &receiver.url("/")).await;
    let path = format!("/v1/tenants/{tenant}/events/batch");
    let event = |name: &str| json!({ "type": name, "data": {} });
    let mixed = json!({ "events": [event("order.completed"), event("order.lost"), event("order.failed"), {"type": "order.failed"}] });
    let answers = server.good("POST", &path, mixed).await;
    let codes: Vec<&Value> = answers["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|answer| &answer["code"])
        .collect();
    assert_eq!(
        codes,
        [
            &Value::Null,
            &json!("event_type_unknown"),
            &Value::Null,
            &json!("validation_failed")
        ]
    );
    receiver.wait_for(2).await;
    let full: Vec<Value> = (0..1_000).map(|_| event("order.refunded")).collect();
    let answers = server.good("POST", &path, json!({ "events": full })).await;
    assert!(
        answers["data"]
            .as_array()
            .unwrap()
            .iter()
            .all(|answer| answer["deliveries"] == 1)
    );
    receiver.wait_for(1_002).await;
    for bad in [
        json!({ "events": [] }),
        json!({ "events": vec![event("order.failed"); 1_001] }),
    ] {
        assert_eq!(
            server.call("POST", &path, bad).await.code(),
            "validation_failed"
        );
    }
}

/// A secret that looks like an Ed25519 key is one only where the profile has those: elsewhere it signs, and can be ended.
#[tokio::test]
async fn a_secret_that_somebody_brought_ends_whatever_it_looks_like() {
    let server = TestServer::start().await;
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let tenant = server.tenant("github").await;
    let endpoints = format!("/v1/tenants/{tenant}/endpoints");
    let looks = format!("whsk_{}", "A".repeat(64));
    let endpoint = json!({ "url": receiver.url("/"), "secret": looks });
    let endpoint = server.good("POST", &endpoints, endpoint).await;
    let path = format!("/v1/endpoints/{}", id(&endpoint));
    let signature = |request: &postrider_testkit::receiver::Request| {
        request.headers["x-hub-signature-256"].clone()
    };
    server
        .good("PATCH", &path, json!({ "secret": "another, which is new" }))
        .await;
    server.publish(&tenant, "push", json!(1)).await;
    let request = receiver.wait_for(1).await.remove(0);
    assert_eq!(signature(&request).matches("sha256=").count(), 1);
}

#[tokio::test]
async fn a_rotated_secret_signs_beside_the_old_one() {
    let server = TestServer::start().await;
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let tenant = server.tenant("standard").await;
    let endpoint = server.endpoint(&tenant, &receiver.url("/")).await;
    let path = format!("/v1/endpoints/{}", id(&endpoint));
    let rotated = server
        .good("POST", &format!("{path}/rotate-secret"), json!({}))
        .await;
    assert_ne!(rotated["secret"], endpoint["secret"]);
    let shown = server
        .good("GET", &format!("{path}/secret"), Value::Null)
        .await;
    assert_eq!(
        (&shown["secret"], &shown["previousValidUntil"]),
        (&rotated["secret"], &rotated["previousValidUntil"])
    );
    server.publish(&tenant, "a", json!(1)).await;
    let request = receiver.wait_for(1).await.remove(0);
    for secret in [text(&endpoint, "secret"), text(&rotated, "secret")] {
        standardwebhooks::Webhook::new(secret)
            .unwrap()
            .verify(&request.body, &header_map(&request))
            .unwrap();
    }
    let vignetim = server.tenant("vignetim").await;
    let fixed = format!(
        "/v1/endpoints/{}",
        id(&server.endpoint(&vignetim, &receiver.url("/")).await)
    );
    assert_eq!(
        server
            .call("POST", &format!("{fixed}/rotate-secret"), json!({}))
            .await
            .code(),
        "rotation_unsupported"
    );
    assert_eq!(
        server
            .call("GET", &format!("{fixed}/secret"), Value::Null)
            .await
            .code(),
        "secret_not_shown"
    );
}

#[tokio::test]
async fn a_dead_endpoint_is_disabled_tested_enabled_and_its_failures_replayed() {
    let server = TestServer::start().await;
    let receiver = Receiver::start(Behaviour::Status(500)).await;
    let tenant = server.tenant("vignetim").await;
    let endpoint = server.endpoint(&tenant, &receiver.url("/")).await;
    let path = format!("/v1/endpoints/{}", id(&endpoint));
    for _ in 0..10 {
        server.publish(&tenant, "order.failed", json!({})).await;
    }
    let disabled = server
        .until(&path, |endpoint| endpoint["active"] == false)
        .await;
    assert_eq!(
        (
            &disabled["disabledReason"],
            &disabled["consecutiveFailures"]
        ),
        (&json!("failures"), &json!(10))
    );
    assert_eq!(
        server.publish(&tenant, "order.failed", json!({})).await["deliveries"],
        0
    );
    let failed = server
        .finished(&format!("tenant={tenant}&status=failed"), 10)
        .await;
    let refused = server
        .call(
            "POST",
            &format!("/v1/deliveries/{}/resend", id(&failed[0])),
            json!({}),
        )
        .await;
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (409, "endpoint_disabled")
    );
    // The test call works on a disabled endpoint and counts for nothing.
    let test = server
        .good("POST", &format!("{path}/test"), json!({}))
        .await;
    assert_eq!(
        (&test["success"], &test["statusCode"]),
        (&json!(false), &json!(500))
    );
    receiver.behave(Behaviour::Status(200));
    assert_eq!(
        server
            .good("POST", &format!("{path}/test"), json!({}))
            .await["success"],
        true
    );
    assert_eq!(
        server.good("GET", &path, Value::Null).await["consecutiveFailures"],
        10
    );
    let enabled = server.good("PATCH", &path, json!({ "active": true })).await;
    assert_eq!(
        (&enabled["active"], &enabled["consecutiveFailures"]),
        (&json!(true), &json!(0))
    );
    let replay = server
        .good("POST", &format!("/v1/tenants/{tenant}/replays"), json!({}))
        .await;
    let done = server
        .until(&format!("/v1/replays/{}", id(&replay)), |task| {
            task["status"] == "finished"
        })
        .await;
    assert_eq!((&done["done"], &done["skipped"]), (&json!(10), &json!(0)));
    let delivered = server.finished(&format!("tenant={tenant}"), 10).await;
    assert!(
        delivered
            .iter()
            .all(|row| row["status"] == "delivered" && row["attemptsMade"] == 5)
    );
    let record = server
        .good(
            "GET",
            &format!("/v1/deliveries/{}", id(&delivered[0])),
            Value::Null,
        )
        .await;
    assert_eq!(
        (
            &record["attempts"][3]["manual"],
            &record["attempts"][4]["manual"]
        ),
        (&json!(false), &json!(true))
    );
    let stats = server
        .good("GET", &format!("{path}/stats"), Value::Null)
        .await;
    assert_eq!(
        (&stats["delivered"], &stats["failed"], &stats["attempts"]),
        (&json!(10), &json!(0), &json!(50))
    );
}

#[tokio::test]
async fn deleting_an_endpoint_cancels_what_is_pending() {
    let server = TestServer::start().await;
    let receiver = Receiver::start(Behaviour::Status(500)).await;
    let tenant = server.tenant("standard").await;
    let endpoint = id(&server.endpoint(&tenant, &receiver.url("/")).await);
    server.publish(&tenant, "a", json!(1)).await;
    receiver.wait_for(1).await;
    let pending = format!("/v1/deliveries?tenant={tenant}");
    server
        .until(&pending, |page| {
            page["data"][0]["attemptsMade"] == 1 && page["data"][0]["status"] == "pending"
        })
        .await;
    server
        .good("DELETE", &format!("/v1/endpoints/{endpoint}"), Value::Null)
        .await;
    server
        .until(&pending, |page| page["data"][0]["status"] == "cancelled")
        .await;
    let send_outs = format!("/v1/tenants/{tenant}/send-outs?status=FAILED");
    let send_outs = server.good("GET", &send_outs, Value::Null).await;
    assert_eq!(send_outs["data"][0]["status"], "FAILED", "{send_outs}");
    assert_eq!(
        server
            .call("GET", &format!("/v1/endpoints/{endpoint}"), Value::Null)
            .await
            .status,
        404
    );
}

#[tokio::test]
async fn a_callback_url_gets_one_event_signed_with_the_tenants_secret() {
    let server = TestServer::start().await;
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let application = server.application("orders", "vignetim").await;
    let path = format!("/v1/applications/{application}/tenants");
    let tenant = server
        .good("POST", &path, json!({ "name": "agency" }))
        .await;
    let (tenant, secret) = (id(&tenant), text(&tenant, "secret").to_owned());
    server.endpoint(&tenant, &receiver.url("/registered")).await;
    for _ in 0..2 {
        let body =
            json!({ "type": "order.completed", "data": {}, "callbackUrl": receiver.url("/once") });
        assert_eq!(
            server
                .good("POST", &format!("/v1/tenants/{tenant}/events"), body)
                .await["deliveries"],
            1
        );
    }
    for request in receiver.wait_for(2).await {
        assert_eq!(request.target, "/once");
        let expected = hmac(&secret, &request.body);
        assert_eq!(request.headers["x-webhook-signature"], expected);
    }
    let listed = server
        .good(
            "GET",
            &format!("/v1/tenants/{tenant}/endpoints"),
            Value::Null,
        )
        .await;
    assert_eq!(
        listed["data"].as_array().unwrap().len(),
        1,
        "callbacks are not listed"
    );
}

#[tokio::test]
async fn a_callback_that_ends_for_another_one_of_the_same_batch_is_made_again() {
    let data = tempfile::tempdir().unwrap();
    let process = binary::serve(data.path());
    let root = process.root.clone().unwrap();
    let tenant = binary::tenant(&process, &root, "standard").await;
    let event = |url: &str| json!({ "type": "a", "data": {}, "callbackUrl": url });
    let path = format!("/v1/tenants/{tenant}/events");
    let url = "http://127.0.0.1:9/once";
    binary::call(&process, &root, "POST", &path, event(url)).await;
    drop(process);
    // As many as are remembered, older than that one.
    let database = rusqlite::Connection::open(data.path().join("postrider.db")).unwrap();
    let sql = "select group_concat(name, ', ') from pragma_table_info('endpoint') where name not in ('id', 'url')";
    let columns: String = database.query_row(sql, [], |row| row.get(0)).unwrap();
    let sql = format!(
        "with recursive n (n) as (select 1 union all select n + 1 from n where n < {CALLBACKS_MAX} - 1)
         insert into endpoint (id, url, {columns}) select id - n, url || n, {columns} from endpoint cross join n"
    );
    assert_eq!(
        database.execute(&sql, []).unwrap(),
        CALLBACKS_MAX as usize - 1
    );
    drop(database);

    let process = binary::serve(data.path());
    let oldest = format!("{url}{}", CALLBACKS_MAX - 1);
    let batch = json!({ "events": [event(&oldest), event("http://127.0.0.1:9/new")] });
    let path = format!("/v1/tenants/{tenant}/events/batch");
    let answer = binary::call(&process, &root, "POST", &path, batch).await;
    for result in answer["data"].as_array().unwrap() {
        assert_eq!(result["deliveries"], 1, "{answer}");
    }
}

#[tokio::test]
async fn a_callback_that_wants_no_more_ends_its_own_delivery_alone() {
    let server = TestServer::start().await;
    let receiver = Receiver::start(Behaviour::Status(410)).await;
    let application = server.application("orders", "standard").await;
    let tenant = server.tenant_of(&application).await;
    let path = format!("/v1/tenants/{tenant}/events");
    for done in 1..=2 {
        let body = json!({ "type": "a", "data": {}, "callbackUrl": receiver.url("/once") });
        assert_eq!(server.good("POST", &path, body).await["deliveries"], 1);
        let query = format!("tenant={tenant}&status=failed");
        for delivery in server.finished(&query, done).await {
            assert_eq!(text(&delivery, "reason"), "stopped", "{delivery}");
        }
    }
    assert_eq!(receiver.wait_for(2).await.len(), 2);
}

#[tokio::test]
async fn an_ordered_endpoint_gets_one_at_a_time_in_order() {
    let server = TestServer::start().await;
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    receiver.script([Behaviour::Status(200), Behaviour::Status(500)]);
    let tenant = server.tenant("vignetim").await;
    let body = json!({ "url": receiver.url("/"), "ordering": "endpoint" });
    server
        .good("POST", &format!("/v1/tenants/{tenant}/endpoints"), body)
        .await;
    for number in 0..5 {
        server
            .publish(&tenant, "order.completed", json!({ "number": number }))
            .await;
    }
    let requests = receiver.wait_for(6).await;
    let numbers: Vec<i64> = requests
        .iter()
        .map(|r| {
            serde_json::from_slice::<Value>(&r.body).unwrap()["data"]["number"]
                .as_i64()
                .unwrap()
        })
        .collect();
    assert_eq!(
        numbers,
        [0, 1, 1, 2, 3, 4],
        "the second failed once and held the rest"
    );
}

#[tokio::test]
async fn test_and_live_are_kept_apart() {
    let server = TestServer::start().await;
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let tenant = server.tenant("standard").await;
    for mode in ["live", "test"] {
        let body = json!({ "url": receiver.url(&format!("/{mode}")), "mode": mode });
        server
            .good("POST", &format!("/v1/tenants/{tenant}/endpoints"), body)
            .await;
    }
    for mode in ["test", "live"] {
        let body = json!({ "type": "a", "data": 1, "mode": mode });
        assert_eq!(
            server
                .good("POST", &format!("/v1/tenants/{tenant}/events"), body)
                .await["deliveries"],
            1
        );
    }
    let mut targets: Vec<String> = receiver
        .wait_for(2)
        .await
        .into_iter()
        .map(|request| request.target)
        .collect();
    targets.sort();
    assert_eq!(targets, ["/live", "/test"]);
}

#[tokio::test]
async fn gone_disables_a_standard_endpoint() {
    let server = TestServer::start().await;
    let receiver = Receiver::start(Behaviour::Status(410)).await;
    let tenant = server.tenant("standard").await;
    let endpoint = id(&server.endpoint(&tenant, &receiver.url("/")).await);
    server.publish(&tenant, "a", json!(1)).await;
    let disabled = server
        .until(&format!("/v1/endpoints/{endpoint}"), |endpoint| {
            endpoint["active"] == false
        })
        .await;
    assert_eq!(disabled["disabledReason"], "gone");
    assert_eq!(receiver.requests().len(), 1);
}

#[tokio::test]
async fn a_full_disk_refuses_loses_nothing_and_service_resumes() {
    const ROOM: u64 = 1_600_000;
    let server = TestServer::with(|config| config.store.max_bytes = Some(ROOM)).await;
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let tenant = server.tenant("standard").await;
    server.endpoint(&tenant, &receiver.url("/")).await;
    let body = json!({ "type": "a", "data": "x".repeat(100_000) });
    let path = format!("/v1/tenants/{tenant}/events");
    let mut accepted = 0;
    let refused = loop {
        let reply = server.call("POST", &path, body.clone()).await;
        if reply.status != 202 {
            break reply;
        }
        accepted += 1;
        assert!(accepted < 100, "the limit has no effect");
    };
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (503, "store_full")
    );
    assert_eq!(refused.headers["retry-after"], "1");
    // When there is room for none, whoever asks whether events are accepted is told.
    for bytes in [10_000, 5_000] {
        let small = json!({ "type": "a", "data": "x".repeat(bytes) });
        while server.call("POST", &path, small.clone()).await.status == 202 {
            accepted += 1;
        }
    }
    let ready = server.call("GET", "/ready", Value::Null).await;
    assert_eq!((ready.status, ready.code().as_str()), (503, "store_full"));
    assert_eq!(server.call("GET", "/health", Value::Null).await.status, 200);
    // Nothing refused is there, and everything accepted arrives.
    let page = server.good("GET", &path, Value::Null).await;
    assert_eq!(page["data"].as_array().unwrap().len(), accepted);
    receiver.wait_for(accepted).await;
    // A restart with more room: records that found none are made again, and publishing works.
    let TestServer {
        server: running,
        directory,
        root,
        ..
    } = server;
    running.unwrap().shut_down().await;
    let config = crate::support::config(&directory);
    let running = postrider::serve::Server::start(config).await.unwrap();
    let server = TestServer {
        address: running.address,
        server: Some(running),
        root,
        directory,
    };
    assert_eq!(server.call("POST", &path, body).await.status, 202);
    let rows = server
        .finished(&format!("tenant={tenant}"), accepted + 1)
        .await;
    assert!(rows.iter().all(|row| row["status"] == "delivered"));
}

/// What is refused first is what can wait, so that events still find room.
#[tokio::test]
async fn the_last_room_is_kept_for_events() {
    const ROOM: u64 = 4_000_000;
    let server = TestServer::with(|config| config.store.max_bytes = Some(ROOM)).await;
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let tenant = server.tenant("standard").await;
    server.endpoint(&tenant, &receiver.url("/")).await;
    let endpoints = format!("/v1/tenants/{tenant}/endpoints");
    let new = json!({ "url": "http://127.0.0.1:9/" });
    let events = format!("/v1/tenants/{tenant}/events");
    let large = json!({ "type": "a", "data": "x".repeat(60_000) });
    let refused = loop {
        let reply = server.call("POST", &events, large.clone()).await;
        assert_eq!(reply.status, 202, "events were refused first: {reply:?}");
        let made = server.call("POST", &endpoints, new.clone()).await;
        if made.status != 201 {
            break made;
        }
    };
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (503, "store_full")
    );
    assert_eq!(server.call("POST", &events, large).await.status, 202);
}

/// Events, and what is answered to them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_fills_the_disk_leaves_half_of_it_to_others() {
    const ROOM: u64 = 16_000_000;
    let server = TestServer::with(|config| config.store.max_bytes = Some(ROOM)).await;
    let receiver = Receiver::start(Behaviour::Body(200, "y".repeat(16_384))).await;
    let (greedy, calm) = (
        server.tenant("standard").await,
        server.tenant("standard").await,
    );
    server.endpoint(&calm, &receiver.url("/calm")).await;
    server.endpoint(&greedy, &receiver.url("/greedy")).await;
    server.publish(&calm, "a", json!(1)).await;
    let events = format!("/v1/tenants/{greedy}/events");
    let large = json!({ "type": "a", "data": "x".repeat(100_000) });
    let mut taken = 0_usize;
    let refused = loop {
        let reply = server.call("POST", &events, large.clone()).await;
        if reply.status != 202 {
            break reply;
        }
        taken += 1;
    };
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (503, "store_full")
    );
    assert!(refused.text.contains("this account"), "{refused:?}");
    assert!((40..100).contains(&taken), "about half: {taken}");
    receiver.wait_for(taken + 1).await;
    for _ in 0..20 {
        server.publish(&calm, "a", json!("z".repeat(100_000))).await;
    }
    let attempts = async |tenant: &str, count: usize| {
        let query = format!("tenant={tenant}");
        let last = server.finished(&query, count).await.remove(0);
        let path = format!("/v1/deliveries/{}", id(&last));
        server.good("GET", &path, Value::Null).await
    };
    let kept = attempts(&calm, 21).await;
    assert_eq!(
        text(&kept["attempts"][0], "responseBody").len(),
        16_384,
        "{kept}"
    );
    let of_greedy = attempts(&greedy, taken).await;
    let again = format!("/v1/deliveries/{}/resend", id(&of_greedy));
    server.good("POST", &again, Value::Null).await;
    receiver.wait_for(taken + 22).await;
    let cut = attempts(&greedy, taken).await;
    let attempts = cut["attempts"].as_array().unwrap();
    assert_eq!(
        attempts
            .iter()
            .map(|attempt| &attempt["statusCode"])
            .collect::<Vec<_>>(),
        [200, 200],
        "{cut}"
    );
    assert!(
        attempts
            .iter()
            .any(|attempt| attempt["responseBody"] == "" && attempt["responseTruncated"] == true),
        "{cut}"
    );
}

/// Endpoints that are made and deleted all day leave little behind.
#[tokio::test]
async fn what_is_deleted_leaves_little_room_taken() {
    const PAIRS: u64 = 100;
    let server = TestServer::start().await;
    let tenant = server.tenant("standard").await;
    let path = format!("/v1/tenants/{tenant}/endpoints");
    let patterns: Vec<String> = (0..100).map(|n| format!("{n:0>100}")).collect();
    let new = json!({
        "url": "http://127.0.0.1:9/", "events": patterns, "description": "d".repeat(1_000),
        "filter": { "data.a": "f".repeat(3_900) }, "metadata": { "m": "m".repeat(4_000) },
        "headers": { "x-a": "h".repeat(4_000) },
    });
    for _ in 0..PAIRS {
        let made = id(&server.good("POST", &path, new.clone()).await);
        server
            .good("DELETE", &format!("/v1/endpoints/{made}"), Value::Null)
            .await;
    }
    let used = async || {
        let metrics = server.call("GET", "/metrics", Value::Null).await.text;
        let line = metrics
            .lines()
            .find_map(|line| line.strip_prefix("postrider_store_bytes "));
        line.unwrap().parse::<f64>().unwrap()
    };
    let each = used().await / PAIRS as f64;
    // Of 47 KB that it was; what is left is the log of changes.
    assert!(each < 12_000.0, "{each} bytes for each");
    let log = server.good("GET", "/v1/audit?limit=1", Value::Null).await;
    let before = &log["data"][0]["before"];
    assert_eq!(before["events"]["bytes"], 10_301, "{before}");
    assert!(before["url"].is_string(), "{before}");
}

#[tokio::test]
async fn explain_tells_who_would_get_an_event_and_why_others_would_not() {
    let server = TestServer::start().await;
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let tenant = server.tenant("vignetim").await;
    let path = format!("/v1/tenants/{tenant}/endpoints");
    let make = async |events: &str, mode: &str| {
        let body = json!({ "url": receiver.url("/"), "events": [events], "mode": mode });
        id(&server.good("POST", &path, body).await)
    };
    let (gets, other, test) = (
        make("order.completed", "live").await,
        make("order.failed", "live").await,
        make("*", "test").await,
    );
    server
        .good(
            "PATCH",
            &format!("/v1/endpoints/{other}"),
            json!({ "active": false }),
        )
        .await;
    let event =
        r#"{"type":"order.completed","data":{"n": 1.50},"occurredAt":"2026-03-20T14:31:15Z"}"#;
    let explained = server
        .raw(&format!("/v1/tenants/{tenant}/explain"), event)
        .await
        .json();
    let rows = explained["data"].as_array().unwrap();
    let of = |id: &str| rows.iter().find(|row| row["endpoint"] == id).unwrap();
    assert_eq!(
        (&of(&gets)["wouldReceive"], &of(&gets)["reasons"]),
        (&json!(true), &json!([]))
    );
    let reasons: Vec<&str> = of(&other)["reasons"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r.as_str().unwrap())
        .collect();
    assert!(
        reasons[0].contains("(manual)") && reasons[1].contains("order.failed"),
        "{reasons:?}"
    );
    assert_eq!(
        of(&test)["reasons"],
        json!(["it is a test endpoint, and the event is live"])
    );
    assert_eq!(
        server
            .good("GET", &format!("/v1/tenants/{tenant}/events"), Value::Null)
            .await["data"],
        json!([])
    );
    assert_eq!(receiver.requests().len(), 0, "nothing is stored or sent");
    // What it showed is what a publish sends, byte for byte.
    server
        .raw(&format!("/v1/tenants/{tenant}/events"), event)
        .await;
    let sent = receiver.wait_for(1).await.remove(0);
    let shown = &of(&gets)["request"];
    assert_eq!(shown["body"], std::str::from_utf8(&sent.body).unwrap());
    let signature = shown["headers"]
        .as_array()
        .unwrap()
        .iter()
        .find(|pair| pair[0] == "X-Webhook-Signature")
        .unwrap();
    assert_eq!(signature[1], sent.headers["x-webhook-signature"].as_str());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_answers_in_a_millisecond_sees_few_connections() {
    const ALONE: usize = 10;
    // Where the schedule is exact, a receiver that pauses for 100 ms gets more, so that nothing is late.
    {
        let profile = "standard";
        let server = TestServer::start().await;
        // A timer goes in whole milliseconds: the least time is one, and a whole one may become two.
        let about_a_millisecond = Duration::from_micros(1);
        let receiver = Receiver::start(Behaviour::SlowStatus(about_a_millisecond, 200)).await;
        let tenant = server.tenant(profile).await;
        server.endpoint(&tenant, &receiver.url("/")).await;
        // How fast it is shows while nothing else is under way.
        for count in 1..=ALONE {
            server.publish(&tenant, "order.completed", json!({})).await;
            receiver.wait_for(count).await;
        }
        let path = format!("/v1/tenants/{tenant}/events/batch");
        let event = json!({ "type": "order.completed", "data": {} });
        let batch = json!({ "events": vec![event; 1_000] });
        let publish = || server.good("POST", &path, batch.clone());
        tokio::join!(publish(), publish(), publish());
        let requests = receiver.wait_for(ALONE + 3_000).await;
        // They are counted from 0 as they come.
        let connections = requests.iter().map(|request| request.connection + 1).max();
        assert!(
            connections.is_some_and(|count| count <= 16),
            "{profile}: {connections:?}"
        );
    }
}
