//! One trace from the publish to the receiver, in records and in the log.

use std::process::Stdio;
use std::time::Duration;

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value;
use opentelemetry_proto::tonic::metrics::v1::{metric, number_data_point};
use opentelemetry_proto::tonic::trace::v1::Span;
use postrider_core::seal::hex;
use postrider_testkit::{Behaviour, Receiver};
use prost::Message;
use serde_json::{Value, json};

use crate::binary::{call, endpoint, greeted, postrider, quiet, serving, tenant, until};
use crate::process::signal;
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

/// Spans that a collector got, once the server has ended.
async fn collected(server: TestServer, collector: &Receiver) -> Vec<Span> {
    assert!(
        server.server.unwrap().shut_down().await,
        "nothing is cut off"
    );
    let mut spans = Vec::new();
    let requests = collector.requests().into_iter();
    for request in requests.filter(|request| request.target == "/v1/traces") {
        assert_eq!(request.headers["content-type"], "application/x-protobuf");
        assert_eq!(request.headers["x-tenant"], "ours", "as the file has it");
        let sent = ExportTraceServiceRequest::decode(request.body).unwrap();
        for resource in sent.resource_spans {
            let named = format!("{:?}", resource.resource);
            assert!(
                named.contains("service.name") && named.contains("hooks"),
                "{named}"
            );
            spans.extend(
                resource
                    .scope_spans
                    .into_iter()
                    .flat_map(|scope| scope.spans),
            );
        }
    }
    spans
}

fn attribute(span: &Span, name: &str) -> String {
    let found = span
        .attributes
        .iter()
        .find(|attribute| attribute.key == name);
    let value = found.and_then(|attribute| attribute.value.clone()?.value);
    match value {
        Some(any_value::Value::StringValue(text)) => text,
        Some(any_value::Value::IntValue(number)) => number.to_string(),
        other => panic!("{name} of {span:?}: {other:?}"),
    }
}

#[tokio::test]
async fn a_collector_gets_the_publish_and_every_attempt_as_one_trace() {
    let collector = Receiver::start(Behaviour::Status(200)).await;
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let files = tempfile::tempdir().unwrap();
    let headers = files.path().join("headers");
    std::fs::write(&headers, "x-tenant: ours\n").unwrap();
    let server = TestServer::with(|config| {
        config.telemetry.endpoint = Some(collector.url(""));
        config.telemetry.headers_file = Some(headers);
        config.telemetry.service_name = "hooks".to_owned();
    })
    .await;
    let body = json!({ "name": "traced", "settings": { "traceparent": true } });
    let application = id(&server.good("POST", "/v1/applications", body).await);
    let tenant = server.tenant_of(&application).await;
    server
        .endpoint(&tenant, &receiver.url("/hook?token=hidden"))
        .await;
    let dead = server.endpoint(&tenant, "http://127.0.0.1:1/dead").await;
    let event = json!({ "type": "order.completed", "data": {} });
    publish(&server, &tenant, "events", GIVEN, event.clone()).await;
    // A trace that its beginner does not record is not recorded here.
    publish(
        &server,
        &tenant,
        "events",
        &GIVEN.replace("-01", "-00"),
        event.clone(),
    )
    .await;
    let requests = receiver.wait_for(2).await;
    let path = format!("/v1/deliveries?endpoint={}", text(&dead, "id"));
    let failed_once = |found: &Value| {
        let rows = found["data"].as_array().unwrap();
        rows.len() == 2
            && rows
                .iter()
                .all(|row| row["attemptsMade"].as_u64() >= Some(1))
    };
    server.until(&path, failed_once).await;
    // Nobody's trace: one begins here.
    server.publish(&tenant, "order.completed", json!({})).await;
    receiver.wait_for(3).await;
    let refused = json!({ "type": "no type", "data": {} });
    server
        .call("POST", &format!("/v1/tenants/{tenant}/events"), refused)
        .await;
    let spans = collected(server, &collector).await;

    let of = |trace: &str, name: &str| -> Vec<&Span> {
        let of_trace = |span: &&Span| hex(&span.trace_id) == trace && span.name == name;
        spans.iter().filter(of_trace).collect()
    };
    let published = of(TRACE, "publish");
    assert_eq!(published.len(), 1, "{spans:#?}");
    assert_eq!(hex(&published[0].parent_span_id), "00f067aa0ba902b7");
    assert_eq!(attribute(published[0], "postrider.deliveries"), "2");
    // A slow machine may have come to a retry.
    let mut attempts = of(TRACE, "deliver");
    attempts.retain(|span| attribute(span, "postrider.attempt.number") == "1");
    assert_eq!(attempts.len(), 2, "{spans:#?}");
    for attempt in &attempts {
        assert_eq!(attempt.parent_span_id, published[0].span_id);
        assert!(attempt.start_time_unix_nano >= published[0].start_time_unix_nano);
        assert!(attempt.end_time_unix_nano >= attempt.start_time_unix_nano);
    }
    let good = |span: &&&Span| {
        span.attributes
            .iter()
            .any(|a| a.key == "http.response.status_code")
    };
    let arrived = attempts.iter().find(good).unwrap();
    assert_eq!(attribute(arrived, "http.response.status_code"), "200");
    assert_eq!(attribute(arrived, "postrider.next"), "delivered");
    let carried = |request: &postrider_testkit::Request| {
        request.headers["traceparent"] == format!("00-{TRACE}-{}-01", hex(&arrived.span_id))
    };
    assert!(
        requests.iter().any(carried),
        "the receiver's parent is this span"
    );
    let lost = attempts.iter().find(|span| !good(span)).unwrap();
    assert_eq!(attribute(lost, "error.type"), "connect");
    assert_eq!(attribute(lost, "postrider.next"), "retry");
    assert_eq!(lost.status.as_ref().unwrap().code, 2, "an error");

    let others = spans.iter().filter(|span| hex(&span.trace_id) != TRACE);
    let mut others: Vec<&str> = others.map(|span| span.name.as_str()).collect();
    others.sort_unstable();
    assert_eq!(others[others.len() - 2..], ["publish", "publish"]);
    let refused = spans.iter().find(|span| {
        span.attributes.iter().any(|a| a.key == "error.type") && span.name == "publish"
    });
    let refused = refused.unwrap();
    assert_eq!(attribute(refused, "error.type"), "validation_failed");
    // What is none may be as long as a body.
    assert!(
        !refused
            .attributes
            .iter()
            .any(|a| a.key == "postrider.event.type")
    );
    assert!(
        !format!("{spans:?}").contains("hidden"),
        "what opens a receiver stays here"
    );
}

#[tokio::test]
async fn a_collector_that_is_away_delays_nothing() {
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let server = TestServer::with(|config| {
        config.telemetry.endpoint = Some("http://127.0.0.1:1".to_owned());
    })
    .await;
    let tenant = server.tenant("standard").await;
    server.endpoint(&tenant, &receiver.url("/")).await;
    for _ in 0..50 {
        server.publish(&tenant, "order.completed", json!({})).await;
    }
    receiver.wait_for(50).await;
    assert!(server.server.unwrap().shut_down().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn that_a_collector_takes_nothing_is_told_once() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = serving(directory.path());
    command.env("POSTRIDER__TELEMETRY__ENDPOINT", "http://127.0.0.1:1");
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = greeted(command.spawn().unwrap(), true);
    let root = process.root.clone().unwrap();
    let tenant = tenant(&process, &root, "standard").await;
    crate::binary::publish(&process, &root, &tenant).await;
    let log = std::io::BufReader::new(process.child.stderr.take().unwrap());
    let told = std::io::BufRead::lines(log)
        .map(Result::unwrap)
        .find(|line| line.contains("takes no spans"));
    assert!(told.unwrap().contains("Connection refused"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_gets_what_is_measured_and_the_log() {
    let collector = Receiver::start(Behaviour::Status(200)).await;
    let receiver = Receiver::start(Behaviour::Status(503)).await;
    let directory = tempfile::tempdir().unwrap();
    let mut command = serving(directory.path());
    command.env("POSTRIDER__TELEMETRY__ENDPOINT", collector.url(""));
    command.env("POSTRIDER__TELEMETRY__METRICS_SECS", "1");
    command.env("POSTRIDER__LOG__LEVEL", "debug");
    command.stdout(Stdio::piped()).stderr(Stdio::null());
    let mut process = greeted(command.spawn().unwrap(), true);
    let root = process.root.clone().unwrap();
    let tenant = tenant(&process, &root, "standard").await;
    let secret = "/hook?token=hidden";
    endpoint(&process, &root, &tenant, &receiver.url(secret)).await;
    let event = id(&crate::binary::publish(&process, &root, &tenant).await);
    let webhook = event.replace("evt_", "msg_");
    receiver.wait_for(1).await;
    let pid = rustix::process::Pid::from_child(&process.child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(process.child.wait().unwrap().success());

    let requests = collector.requests();
    let of = |path: &'static str| {
        requests
            .iter()
            .filter(move |request| request.target == path)
    };
    let metrics = of("/v1/metrics")
        .map(|request| ExportMetricsServiceRequest::decode(request.body.clone()).unwrap());
    let last = metrics
        .last()
        .expect("metrics are sent at the end at the latest");
    let resource = &last.resource_metrics[0];
    assert!(format!("{:?}", resource.resource).contains("service.name"));
    let metrics = &resource.scope_metrics[0].metrics;
    let metric = |name: &str| {
        let found = metrics.iter().find(|metric| metric.name == name);
        found
            .unwrap_or_else(|| panic!("there is no {name}"))
            .data
            .clone()
    };
    let Some(metric::Data::Sum(deliveries)) = metric("postrider_deliveries") else {
        panic!("{metrics:?}");
    };
    assert!(deliveries.is_monotonic);
    let count: f64 = deliveries
        .data_points
        .iter()
        .map(|point| match point.value {
            Some(number_data_point::Value::AsDouble(value)) => value,
            other => panic!("{other:?}"),
        })
        .sum();
    assert_eq!(count, 1.0);
    let Some(metric::Data::Histogram(requests_took)) = metric("postrider_request_seconds") else {
        panic!("{metrics:?}");
    };
    for point in &requests_took.data_points {
        assert_eq!(point.bucket_counts.iter().sum::<u64>(), point.count);
        assert_eq!(point.bucket_counts.len(), point.explicit_bounds.len() + 1);
    }

    let mut lines = Vec::new();
    for request in of("/v1/logs") {
        let sent = ExportLogsServiceRequest::decode(request.body.clone()).unwrap();
        let scopes = sent
            .resource_logs
            .into_iter()
            .flat_map(|resource| resource.scope_logs);
        lines.extend(scopes.flat_map(|scope| scope.log_records));
    }
    let told: Vec<String> = lines.iter().map(|line| format!("{line:?}")).collect();
    let has = |words: &[&str]| {
        told.iter()
            .any(|line| words.iter().all(|word| line.contains(word)))
    };
    assert!(has(&["attempt", webhook.as_str(), "503"]), "{told:#?}");
    assert!(has(&["shutting down"]), "up to the end");
    assert!(
        !told.iter().any(|line| line.contains("hidden")),
        "{told:#?}"
    );
    assert!(lines.iter().all(|line| line.severity_number > 0));
}

/// Whoever collects is no part of what has to be finished.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_hangs_holds_up_no_shutdown() {
    const LONGEST: Duration = Duration::from_secs(8);
    let directory = tempfile::tempdir().unwrap();
    let collector = Receiver::start(Behaviour::Hang).await;
    let mut command = serving(directory.path());
    command
        .env("POSTRIDER__TELEMETRY__ENDPOINT", collector.url(""))
        .env("POSTRIDER__TELEMETRY__SIGNALS", "traces,metrics,logs");
    let mut process = quiet(&mut command, true);
    let root = process.root.clone().unwrap();
    let tenant = tenant(&process, &root, "standard").await;
    for _ in 0..20 {
        crate::binary::publish(&process, &root, &tenant).await;
    }
    signal(&process, "TERM");
    let ended = tokio::task::spawn_blocking(move || process.child.wait());
    let ended = tokio::time::timeout(LONGEST, ended).await;
    // Nine seconds it took when each of the three had its time for itself.
    assert!(ended.expect("it has ended").unwrap().unwrap().success());
    assert!(!collector.requests().is_empty(), "it was asked");
}
