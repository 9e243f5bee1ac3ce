//! Receivers in other languages, written to the vendors' published verifiers, against a server and
//! random payloads.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use fastrand::Rng;
use serde_json::{Value, json};

use crate::support::{TestServer, http, text};

/// Payloads of each system for each receiver.
const PAYLOADS: usize = 10_000;
const BATCH: usize = 1_000;
const SYSTEMS: [&str; 3] = ["vignetim", "simplifytrip", "voucherify"];

/// A receiver process; it ends with the test.
struct Foreign {
    language: &'static str,
    process: Child,
    address: SocketAddr,
}

impl Drop for Foreign {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

impl Foreign {
    fn start(language: &'static str, program: &str, script: &str, secrets: &Value) -> Option<Self> {
        let path = format!("{}/tests/receivers/{script}", env!("CARGO_MANIFEST_DIR"));
        let mut process = Command::new(program)
            .args([path, secrets.to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("{program} cannot run: {error}; `cargo xtask ci` says what to do")
            });
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let port: u16 = line.trim().parse().unwrap();
        Some(Self {
            language,
            process,
            address: SocketAddr::from(([127, 0, 0, 1], port)),
        })
    }

    fn url(&self, system: &str) -> String {
        format!("http://{}/{system}", self.address)
    }

    async fn counts(&self) -> Value {
        http(self.address, "GET", "/", &[], "").await.json()
    }
}

/// Texts that have troubled signers before.
fn string(rng: &mut Rng) -> String {
    const PIECES: [&str; 14] = [
        "a", "Z9", " ", "é", "日本", "😀", "\\u2028", "\\u2029", "\\\"", "\\\\", "/", "\\n\\t",
        "\\u0001", "<&=+%",
    ];
    let pieces = 0..rng.usize(0..6);
    format!(
        "\"{}\"",
        pieces
            .map(|_| PIECES[rng.usize(0..PIECES.len())])
            .collect::<String>()
    )
}

fn number(rng: &mut Rng) -> String {
    const NUMBERS: [&str; 16] = [
        "1e21",
        "-0",
        "0.30000000000000004",
        "1e-7",
        "11.50",
        "9007199254740993",
        "1E400",
        "-1.5e-10",
        "123456789.125",
        "0.1",
        "5e-324",
        "1.7976931348623157e308",
        "100000000000000000000",
        "1e5",
        "-0.0",
        "2.50e+3",
    ];
    match rng.usize(0..3) {
        0 => rng.i64(-1_000_000..1_000_000).to_string(),
        1 => format!("{}", rng.f64() * 10f64.powi(rng.i32(-20..25))),
        // 1E400 is beyond a double, and refused at the door.
        _ => NUMBERS[rng.usize(0..NUMBERS.len())].replace("1E400", "1E300"),
    }
}

fn value(rng: &mut Rng, depth: usize) -> String {
    let kinds = if depth == 0 { 4 } else { 6 };
    match rng.usize(0..kinds) {
        0 => string(rng),
        1 | 2 => number(rng),
        3 => ["null", "true", "false"][rng.usize(0..3)].to_owned(),
        4 => {
            let items: Vec<String> = (0..rng.usize(0..4))
                .map(|_| value(rng, depth - 1))
                .collect();
            format!("[ {} ]", items.join(" , "))
        }
        _ => object(rng, depth),
    }
}

/// Keys that look like integers come first in ECMAScript, whatever their place was.
fn object(rng: &mut Rng, depth: usize) -> String {
    const KEYS: [&str; 12] = [
        "b",
        "10",
        "2",
        "a",
        "01",
        "-1",
        "é",
        "4294967295",
        "A_b",
        "0",
        "x y",
        "\\u2028",
    ];
    let mut keys: Vec<&str> = KEYS.to_vec();
    rng.shuffle(&mut keys);
    keys.truncate(rng.usize(0..5));
    let pairs = keys
        .iter()
        .map(|key| format!("\"{key}\" : {}", value(rng, depth.saturating_sub(1))));
    format!("{{ {} }}", pairs.collect::<Vec<_>>().join(", "))
}

fn payload(rng: &mut Rng, number: usize) -> String {
    if number.is_multiple_of(500) {
        // Deep, but within the bound.
        return format!("{}1{}", "[".repeat(40), "]".repeat(40));
    }
    object(rng, 4)
}

async fn publish(
    server: &TestServer,
    tenant: &str,
    event_type: &str,
    key: Option<&str>,
    payloads: &[String],
) {
    let address = key.map_or_else(String::new, |key| format!(r#","key":"{key}""#));
    for batch in payloads.chunks(BATCH) {
        let events = batch
            .iter()
            .map(|data| format!(r#"{{"type":"{event_type}","data":{data}{address}}}"#));
        let body = format!(r#"{{"events":[{}]}}"#, events.collect::<Vec<_>>().join(","));
        let reply = server
            .raw(&format!("/v1/tenants/{tenant}/events/batch"), body)
            .await;
        assert_eq!(reply.status, 202);
        for answer in reply.json()["data"].as_array().unwrap() {
            assert!(answer["id"].is_string(), "{answer}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn receivers_written_to_the_vendors_verifiers_accept_random_payloads() {
    let server = TestServer::start().await;
    let mut tenants = Vec::new();
    for system in SYSTEMS {
        tenants.push(server.tenant(system).await);
    }
    let shown = server
        .good(
            "GET",
            &format!("/v1/tenants/{}/secret", tenants[2]),
            Value::Null,
        )
        .await;
    // A receiver has its own secret where the vendor gives each one: made with a URL that is changed
    // once the receiver, which needs the secret to start, tells its port.
    let mut receivers = Vec::new();
    for (language, program, script) in [
        ("node", "node", "receiver.mjs"),
        ("python", "python3", "receiver.py"),
    ] {
        let nowhere = "http://127.0.0.1:9/";
        let endpoint = server.endpoint(&tenants[0], nowhere).await;
        let key = json!({ "name": language, "tenant": tenants[1], "webhook": nowhere });
        let key = server.good("POST", "/v1/keys", key).await;
        let secrets = json!({ "vignetim": endpoint["secret"], "simplifytrip": key["secret"], "voucherify": shown["secret"] });
        let Some(foreign) = Foreign::start(language, program, script, &secrets) else {
            continue;
        };
        let url = |system: &str| json!({ "url": foreign.url(system) });
        server
            .good(
                "PATCH",
                &format!("/v1/endpoints/{}", text(&endpoint, "id")),
                url(SYSTEMS[0]),
            )
            .await;
        let webhook = json!({ "webhook": foreign.url(SYSTEMS[1]) });
        server
            .good("PATCH", &format!("/v1/keys/{}", text(&key, "id")), webhook)
            .await;
        server.endpoint(&tenants[2], &foreign.url(SYSTEMS[2])).await;
        receivers.push((foreign, text(&key, "publicId").to_owned()));
    }
    let seed = std::env::var("SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let mut rng = Rng::with_seed(seed.unwrap_or(20_261_123));
    let payloads: Vec<String> = (0..PAYLOADS)
        .map(|number| payload(&mut rng, number))
        .collect();
    publish(&server, &tenants[0], "order.completed", None, &payloads).await;
    for (_, key) in &receivers {
        publish(&server, &tenants[1], "RANDOM", Some(key), &payloads).await;
    }
    publish(&server, &tenants[2], "voucher.created", None, &payloads).await;
    for (foreign, _) in &receivers {
        for _ in 0..1_200 {
            let counts = foreign.counts().await;
            let done =
                |system: &&str| counts[system]["good"].as_u64().unwrap_or(0) >= PAYLOADS as u64;
            let wrong = SYSTEMS
                .iter()
                .any(|system| counts[system]["bad"].as_u64().unwrap_or(0) > 0);
            if wrong || SYSTEMS.iter().all(done) {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        let counts = foreign.counts().await;
        for system in SYSTEMS {
            let (language, count) = (foreign.language, &counts[system]);
            assert_eq!(
                (&count["bad"], &count["first"]),
                (&json!(0), &Value::Null),
                "{system} in {language}: {count}"
            );
            // More when an answer was lost on its way and the request came once more.
            assert!(
                count["good"].as_u64().unwrap() >= PAYLOADS as u64,
                "{system} in {language}: {count}"
            );
        }
    }
    for tenant in &tenants {
        let path = format!("/v1/tenants/{tenant}/statistics");
        let statistics = server
            .until(&path, |view| view["totals"]["pending"] == 0)
            .await;
        let delivered = &statistics["totals"]["delivered"];
        assert_eq!(*delivered, PAYLOADS * receivers.len(), "{statistics}");
    }
}
