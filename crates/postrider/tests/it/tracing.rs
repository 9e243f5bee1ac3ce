//! One trace from the publish to the receiver, in records and in the log.

use std::process::Stdio;

use postrider_testkit::{Behaviour, Receiver};
use serde_json::{Value, json};

use crate::binary::{call, endpoint, greeted, postrider, tenant, until};
use crate::support::{TestServer, http, id, text};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const GIVEN: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

async fn publish(server: &TestServer, tenant: &str, path: &str, traceparent: &str, body: Value) {
    let bearer = format!("Bearer {}", server.root);
    let headers = [
        ("authorization", bearer.as_str()),
        ("content-type", "application/json"),
        ("traceparent", traceparent),
    ];
    let path = format!("/v1/tenants/{tenant}/{path}");
    let reply = http(server.address, "POST", &path, &headers, body.to_string()).await;
    assert!(reply.status < 300, "{reply:?}");
}

#[tokio::test]
async fn requests_carry_the_trace_of_their_publish_where_the_application_wants_it() {
    let server = TestServer::start().await;
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let body = json!({ "name": "traced", "settings": { "traceparent": true } });
    let traced = id(&server.good("POST", "/v1/applications", body).await);
    let traced = server.tenant_of(&traced).await;
    server.endpoint(&traced, &receiver.url("/traced")).await;
    let silent = server.tenant("vignetim").await;
    server.endpoint(&silent, &receiver.url("/silent")).await;
    let event = json!({ "type": "order.completed", "data": {} });
    publish(&server, &silent, "events", GIVEN, event.clone()).await;
    publish(&server, &traced, "events", GIVEN, event.clone()).await;
    let batch = json!({ "events": [event, event] });
    publish(&server, &traced, "events/batch", GIVEN, batch).await;
    // What is no traceparent is ignored, as the specification wants it.
    publish(&server, &traced, "events", "nonsense", event).await;

    let requests = receiver.wait_for(5).await;
    let of = |request: &&postrider_testkit::Request| request.target == "/traced";
    let sent: Vec<&str> = requests
        .iter()
        .filter(of)
        .filter_map(|request| request.headers.get("traceparent"))
        .map(String::as_str)
        .collect();
    assert_eq!(sent.len(), 3, "{sent:?}");
    let mut spans: Vec<&str> = sent
        .iter()
        .map(|sent| {
            assert!(
                sent.starts_with(&format!("00-{TRACE}-")) && sent.ends_with("-01"),
                "{sent}"
            );
            &sent[36..52]
        })
        .collect();
    spans.sort_unstable();
    spans.dedup();
    assert_eq!(
        spans.len(),
        3,
        "each request is a span of its own: {sent:?}"
    );
    assert!(!spans.contains(&"00f067aa0ba902b7"), "not the publisher's");
    let silent = requests
        .iter()
        .find(|request| request.target == "/silent")
        .unwrap();
    assert_eq!(silent.headers.get("traceparent"), None);

    let rows = server.finished(&format!("tenant={traced}"), 4).await;
    let mut kept = Vec::new();
    for row in &rows {
        let event = format!("/v1/events/{}", text(row, "event"));
        let event = server.good("GET", &event, Value::Null).await;
        kept.extend(event["traceparent"].as_str().map(str::to_owned));
    }
    assert_eq!(kept, [GIVEN; 3]);
}

#[tokio::test]
async fn the_log_has_one_line_for_a_request_and_one_for_an_attempt_with_their_ids() {
    let data = tempfile::tempdir().unwrap();
    let log = tempfile::NamedTempFile::new().unwrap();
    let child = postrider()
        .args(["serve", "--dev", "--listen", "127.0.0.1:0", "--data"])
        .arg(data.path())
        .env("POSTRIDER__LOG__LEVEL", "debug")
        .env("POSTRIDER__LOG__FORMAT", "json")
        .stdout(Stdio::piped())
        .stderr(log.reopen().unwrap())
        .spawn()
        .unwrap();
    let process = greeted(child, true);
    let root = process.root.clone().unwrap();
    let receiver = Receiver::start(Behaviour::Status(503)).await;
    let tenant = tenant(&process, &root, "standard").await;
    endpoint(&process, &root, &tenant, &receiver.url("/")).await;
    let bearer = format!("Bearer {root}");
    let headers = [
        ("authorization", bearer.as_str()),
        ("content-type", "application/json"),
        ("x-request-id", "from-the-proxy"),
        ("traceparent", GIVEN),
    ];
    let path = format!("/v1/tenants/{tenant}/events");
    let event = json!({ "type": "a.b", "data": 1 }).to_string();
    let reply = http(process.address, "POST", &path, &headers, event).await;
    assert_eq!(reply.status, 202, "{reply:?}");
    let pending = format!("/v1/deliveries?tenant={tenant}");
    let rows = until(&process, &root, &pending, |page| {
        page["data"][0]["attemptsMade"] == 1
    })
    .await;
    let delivery = call(
        &process,
        &root,
        "GET",
        &format!("/v1/deliveries/{}", id(&rows["data"][0])),
        Value::Null,
    )
    .await;
    drop(process);

    let log = std::fs::read_to_string(log.path()).unwrap();
    let lines = log
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let lines: Vec<Value> = lines.collect();
    let of = |target: &str| {
        lines
            .iter()
            .filter(move |line| line["target"] == target)
            .cloned()
            .collect::<Vec<_>>()
    };
    let requests = of("postrider::access");
    let request = requests
        .iter()
        .find(|line| line["fields"]["request.id"] == "from-the-proxy")
        .unwrap();
    assert_eq!(
        (&request["fields"]["trace.id"], &request["fields"]["status"]),
        (&json!(TRACE), &json!(202))
    );
    let attempts = of("postrider::attempt");
    assert_eq!(attempts.len(), 1, "{attempts:?}");
    let fields = &attempts[0]["fields"];
    let webhook = delivery["attempts"][0]["requestHeaders"]
        .as_array()
        .unwrap()
        .iter()
        .find(|pair| pair[0] == "webhook-id")
        .unwrap();
    assert_eq!(
        (
            &fields["delivery.id"],
            &fields["webhook.id"],
            &fields["trace.id"],
            &fields["status"],
            &fields["number"]
        ),
        (
            &delivery["id"],
            &webhook[1],
            &json!(TRACE),
            &json!(503),
            &json!(1)
        )
    );
}
