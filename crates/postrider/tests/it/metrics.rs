//! What an operator sees: `/metrics`, and the alerts and the dashboard that are made of it.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use postrider_testkit::{Behaviour, Receiver};
use serde_json::{Value, json};

use crate::support::{Reply, TestServer, http, id, text};

fn monitoring() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../monitoring")
}

/// Of a server whose metrics have a socket of their own.
async fn measured(tenants: usize) -> TestServer {
    TestServer::with(|config| {
        config.metrics.listen = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        config.metrics.tenants = tenants;
    })
    .await
}

async fn scraped(server: &TestServer) -> String {
    let address = server.server.as_ref().unwrap().metrics_address.unwrap();
    let reply = http(address, "GET", "/metrics", &[], "").await;
    assert_eq!(reply.status, 200);
    assert_eq!(
        reply.headers["content-type"],
        "text/plain; version=0.0.4; charset=utf-8"
    );
    reply.text
}

/// The sum of the series of a name that have all these labels; none where there is no such series.
fn sum(scrape: &str, name: &str, labels: &[&str]) -> Option<f64> {
    let of_name = scrape.lines().filter(|line| {
        let rest = line.strip_prefix(name);
        rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
    });
    let values = of_name.filter(|line| labels.iter().all(|label| line.contains(label)));
    let values: Vec<f64> = values
        .map(|line| line.rsplit(' ').next().unwrap().parse().unwrap())
        .collect();
    (!values.is_empty()).then(|| values.iter().sum())
}

/// Asks again until a series has a value.
async fn until(server: &TestServer, name: &str, labels: &[&str], wanted: f64) -> String {
    for _ in 0..600 {
        let scrape = scraped(server).await;
        if sum(&scrape, name, labels) == Some(wanted) {
            return scrape;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!(
        "{name} {labels:?} is not {wanted}:\n{}",
        scraped(server).await
    );
}

#[tokio::test]
async fn every_stage_from_publish_to_receipt_is_counted() {
    let server = measured(1).await;
    let well = Receiver::start(Behaviour::Status(200)).await;
    let gone = Receiver::start(Behaviour::Status(410)).await;
    let application = server.application("shop", "standard").await;
    let tenant = server.tenant_of(&application).await;
    let other = server.tenant_of(&application).await;
    server.endpoint(&tenant, &well.url("/")).await;
    server.endpoint(&other, &gone.url("/")).await;
    let path = format!("/v1/tenants/{tenant}/events");
    for number in 0..3 {
        let event = json!({ "type": "order.completed", "data": { "number": number } });
        let key = [
            ("authorization", &*format!("Bearer {}", server.root)),
            ("content-type", "application/json"),
            ("idempotency-key", &*format!("order-{number}")),
        ];
        for _ in 0..2 {
            http(server.address, "POST", &path, &key, event.to_string()).await;
        }
    }
    let refused = server.call("POST", &path, json!({ "type": "" })).await;
    assert_eq!(refused.status, 400);
    server.publish(&other, "order.completed", json!({})).await;
    let of = format!("application=\"{application}\"");
    let ended = ["state=\"delivered\"", &*of];
    until(&server, "postrider_deliveries_ended_total", &ended, 3.0).await;
    let disabled = ["reason=\"gone\""];
    let scrape = until(
        &server,
        "postrider_endpoints_disabled_total",
        &disabled,
        1.0,
    )
    .await;

    for (name, labels, wanted) in [
        ("postrider_events_total", &[&*of][..], 4.0),
        ("postrider_events_repeated_total", &[&of], 3.0),
        ("postrider_events_refused_total", &[], 0.0),
        ("postrider_deliveries_total", &[&of], 4.0),
        ("postrider_accept_seconds_count", &[], 4.0),
        ("postrider_attempts_total", &["outcome=\"2xx\"", &of], 3.0),
        ("postrider_attempts_total", &["outcome=\"4xx\"", &of], 1.0),
        ("postrider_attempt_seconds_count", &[], 4.0),
        ("postrider_receipt_seconds_count", &[], 3.0),
        ("postrider_ready", &[], 1.0),
        ("postrider_store_takes_records", &[], 1.0),
        ("postrider_set_aside", &[], 0.0),
        (
            "postrider_requests_total",
            &[
                "route=\"/v1/tenants/{tenant}/events\"",
                "method=\"POST\"",
                "status=\"400\"",
            ],
            1.0,
        ),
        (
            "postrider_tenant_attempts_total",
            &[&*format!("tenant=\"{tenant}\"")],
            3.0,
        ),
        // The second tenant is beyond the bound.
        (
            "postrider_tenant_attempts_total",
            &["tenant=\"other\""],
            1.0,
        ),
    ] {
        assert_eq!(
            sum(&scrape, name, labels),
            Some(wanted),
            "{name} {labels:?}\n{scrape}"
        );
    }
    assert!(sum(&scrape, "process_resident_memory_bytes", &[]).unwrap() > 1e6);
    assert!(sum(&scrape, "postrider_store_bytes", &[]).unwrap() > 0.0);
    assert!(sum(&scrape, "postrider_commit_writes_sum", &[]).unwrap() >= 8.0);
    let told = promtool(&["check", "metrics"], &scrape);
    assert!(told.is_empty(), "{told}");
}

#[tokio::test]
async fn a_receiver_that_fails_shows_as_such_and_not_as_a_server_that_is_slow() {
    let server = measured(0).await;
    let dead = Receiver::start(Behaviour::Status(503)).await;
    let tenant = server.tenant("standard").await;
    server.endpoint(&tenant, &dead.url("/")).await;
    for _ in 0..8 {
        server.publish(&tenant, "order.completed", json!({})).await;
    }
    let broken = ["standing=\"broken\""];
    until(&server, "postrider_lanes", &broken, 1.0).await;
    let scrape = scraped(&server).await;
    let ready = sum(
        &scrape,
        "postrider_oldest_due_seconds",
        &["standing=\"ready\""],
    );
    assert_eq!(ready, Some(0.0), "{scrape}");
    assert!(sum(&scrape, "postrider_lane_held", &broken).unwrap() > 0.0);
    assert_eq!(sum(&scrape, "postrider_tenant_attempts_total", &[]), None);
}

#[tokio::test]
async fn a_tenant_that_has_its_share_does_not_show_as_a_server_that_is_slow() {
    let server = TestServer::with(|config| {
        config.metrics.listen = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        config.limits.in_flight = 4;
    })
    .await;
    let hangs = Receiver::start(Behaviour::Hang).await;
    let tenant = server.tenant("standard").await;
    for path in ["/a", "/b", "/c"] {
        server.endpoint(&tenant, &hangs.url(path)).await;
    }
    server.publish(&tenant, "order.completed", json!({})).await;
    // Two are under way, and two are left for whoever comes.
    let share = ["standing=\"share\""];
    let scrape = until(&server, "postrider_lanes", &share, 1.0).await;
    let ready = ["standing=\"ready\""];
    assert_eq!(sum(&scrape, "postrider_lanes", &ready), Some(0.0));
}

#[tokio::test]
async fn a_delivery_that_was_cancelled_under_its_last_attempt_ends_once() {
    let server = measured(0).await;
    let gone = Behaviour::SlowStatus(Duration::from_millis(500), 410);
    let receiver = Receiver::start(gone).await;
    let tenant = server.tenant("standard").await;
    server.endpoint(&tenant, &receiver.url("/")).await;
    let event = server.publish(&tenant, "order.completed", json!({})).await;
    receiver.wait_for(1).await;
    let path = format!("/v1/deliveries?event={}", id(&event));
    let delivery = server.good("GET", &path, Value::Null).await;
    let delivery = format!("/v1/deliveries/{}", id(&delivery["data"][0]));
    let cancel = format!("{delivery}/cancel");
    server.good("POST", &cancel, Value::Null).await;
    let recorded = |delivery: &Value| delivery["attemptsMade"] == 1;
    server.until(&delivery, recorded).await;
    let cancelled = ["reason=\"cancelled\""];
    let scrape = until(
        &server,
        "postrider_deliveries_closed_total",
        &cancelled,
        1.0,
    )
    .await;
    assert_eq!(
        sum(&scrape, "postrider_deliveries_ended_total", &[]),
        None,
        "{scrape}"
    );
}

#[tokio::test]
async fn metrics_are_the_operators_alone() {
    let server = measured(0).await;
    let get = async |headers: &[(&str, &str)]| -> Reply {
        http(server.address, "GET", "/metrics", headers, "").await
    };
    assert_eq!(get(&[]).await.code(), "key_missing");
    let application = server.application("shop", "standard").await;
    let key = json!({ "name": "shop", "application": application });
    let key = server.good("POST", "/v1/keys", key).await;
    let bearer = format!("Bearer {}", text(&key, "key"));
    let refused = get(&[("authorization", &bearer)]).await;
    assert_eq!(
        (refused.status, &*refused.code()),
        (403, "scope_insufficient")
    );
    let bearer = format!("Bearer {}", server.root);
    let accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5";
    let shown = get(&[("authorization", &bearer), ("accept", accept)]).await;
    assert_eq!(shown.status, 200);
    assert_eq!(
        shown.headers["content-type"],
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    );
    assert!(shown.text.ends_with("# EOF\n"), "{}", shown.text);
    // Nobody's payloads, URLs or keys are in it.
    assert!(!shown.text.contains("pr_live_"), "{}", shown.text);
    // Whoever reaches the other socket gets metrics, and nothing else.
    let address = server.server.as_ref().unwrap().metrics_address.unwrap();
    let elsewhere = http(address, "GET", "/v1/applications", &[], "").await;
    assert_eq!(elsewhere.status, 404);
    assert!(!id(&key).is_empty());
}

#[tokio::test]
async fn alerts_and_the_dashboard_ask_for_what_is_there() {
    let server = measured(0).await;
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let tenant = server.tenant("standard").await;
    server.endpoint(&tenant, &receiver.url("/")).await;
    let path = format!("/v1/tenants/{tenant}/events");
    let key = [
        ("authorization", &*format!("Bearer {}", server.root)),
        ("content-type", "application/json"),
        ("idempotency-key", "once"),
    ];
    for _ in 0..2 {
        let event = r#"{"type":"order.completed","data":{}}"#;
        http(server.address, "POST", &path, &key, event).await;
    }
    let delivered = ["state=\"delivered\""];
    let scrape = until(&server, "postrider_deliveries_ended_total", &delivered, 1.0).await;
    let shown: BTreeSet<&str> = scrape
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split(['{', ' ']).next())
        .collect();
    for file in ["alerts.yml", "alerts_test.yml", "dashboard.json"] {
        let file = monitoring().join(file);
        let asked = std::fs::read_to_string(&file).unwrap();
        let words = asked.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        let asked: BTreeSet<&str> = words
            .filter(|word| word.starts_with("postrider_") || word.starts_with("process_"))
            .collect();
        assert!(asked.len() > 8, "{asked:?}");
        let missing: Vec<_> = asked.difference(&shown).collect();
        assert!(missing.is_empty(), "{}: {missing:?}", file.display());
    }
    let rules = monitoring();
    let told = promtool(
        &["check", "rules", rules.join("alerts.yml").to_str().unwrap()],
        "",
    );
    assert!(told.contains("SUCCESS"), "{told}");
    let tests = rules.join("alerts_test.yml");
    let told = promtool(&["test", "rules", tests.to_str().unwrap()], "");
    assert!(told.contains("SUCCESS"), "{told}");
    let dashboard = std::fs::read_to_string(rules.join("dashboard.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&dashboard).unwrap();
    assert_eq!(dashboard["title"], "Postrider");
}

/// What Prometheus's own tool says; it must be content.
fn promtool(arguments: &[&str], input: &str) -> String {
    let mut tool = Command::new("promtool")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is missing: cargo xtask test installs it");
    let mut stdin = tool.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).unwrap();
    drop(stdin);
    let output = tool.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    told
}
