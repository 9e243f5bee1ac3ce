//! One door to several servers, each with a database of its own: whoever asks gets to the one that has their key.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use postrider_testkit::{Behaviour, Receiver};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::binary::{Process, greeted, output, postrider, text as said};
use crate::support::{Reply, TestServer, hmac, http, id, text};

async fn cell() -> TestServer {
    TestServer::with(|config| {
        config.server.trusted_proxies = vec!["127.0.0.1/32".parse().unwrap()];
    })
    .await
}

fn door(data: &Path, cells: &[&TestServer]) -> Process {
    let urls: Vec<String> = cells
        .iter()
        .map(|cell| format!("http://{}", cell.address))
        .collect();
    door_to(data, &urls.join(","))
}

fn door_to(data: &Path, urls: &str) -> Process {
    let child = postrider()
        .args(["serve", "--listen", "127.0.0.1:0", "--data"])
        .arg(data)
        .env("POSTRIDER__CELLS__URLS", urls)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    greeted(child, false)
}

async fn ask(door: SocketAddr, key: &str, method: &str, path: &str, body: Value) -> Reply {
    let bearer = format!("Bearer {key}");
    let headers = [
        ("authorization", bearer.as_str()),
        ("content-type", "application/json"),
    ];
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    http(door, method, path, &headers, body).await
}

/// Asks from another address of this machine.
async fn from(client: &str, door: SocketAddr, key: &str, path: &str) -> String {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(format!("{client}:0").parse().unwrap()).unwrap();
    let mut stream = socket.connect(door).await.unwrap();
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {key}\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_asks_at_the_door_gets_to_the_cell_that_has_their_key() {
    let (a, mut b) = (cell().await, cell().await);
    let data = tempfile::tempdir().unwrap();
    let door = door(data.path(), &[&a, &b]);
    let at = door.address;
    let receiver = Receiver::start(Behaviour::Status(200)).await;

    // Each root key makes applications where it is from.
    let mut keys = Vec::new();
    for (cell, name) in [(&a, "first"), (&b, "second")] {
        let new = json!({ "name": name, "profile": "standard" });
        let made = ask(at, &cell.root, "POST", "/v1/applications", new).await;
        assert_eq!(made.status, 201, "{}", made.text);
        let application = id(&made.json());
        let new = json!({ "name": "k", "application": application });
        let key = ask(at, &cell.root, "POST", "/v1/keys", new).await.json();
        keys.push((application, text(&key, "key").to_owned()));
    }
    for ((application, key), cell) in keys.iter().zip([&a, &b]) {
        let path = format!("/v1/applications/{application}/tenants");
        let tenant = ask(at, key, "POST", &path, json!({ "name": "t" })).await;
        let tenant = id(&tenant.json());
        let path = format!("/v1/tenants/{tenant}/endpoints");
        let new = json!({ "url": receiver.url(&format!("/{tenant}")) });
        assert_eq!(ask(at, key, "POST", &path, new).await.status, 201);
        let path = format!("/v1/tenants/{tenant}/events");
        let event = json!({ "type": "a", "data": "x".repeat(100_000) });
        let accepted = ask(at, key, "POST", &path, event).await;
        assert_eq!(accepted.status, 202, "{}", accepted.text);
        let event = id(&accepted.json());
        cell.finished(&format!("event={event}"), 1).await;
    }
    let requests = receiver.wait_for(2).await;
    assert_eq!(requests.len(), 2);

    // The systems' keys too, by what they are named by.
    let vignetim = b.tenant("vignetim").await;
    let new = json!({ "name": "partner", "tenant": vignetim, "mode": "live" });
    let key = b.good("POST", "/v1/keys", new).await;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let (now, path) = (now.unwrap().as_secs().to_string(), "/v2/partners/webhooks");
    let signature = hmac(text(&key, "key"), format!("{now}.n1.GET.{path}."));
    let headers = [
        ("x-api-key", text(&key, "publicId")),
        ("x-timestamp", now.as_str()),
        ("x-nonce", "n1"),
        ("x-signature", signature.as_str()),
    ];
    let listed = http(at, "GET", path, &headers, "").await;
    assert_eq!(listed.status, 200, "{}", listed.text);
    // Whatever a gateway between has added for itself.
    let signature = hmac(text(&key, "key"), format!("{now}.n2.GET.{path}."));
    let headers = [
        ("authorization", "Bearer of-a-gateway"),
        ("x-api-key", text(&key, "publicId")),
        ("x-timestamp", now.as_str()),
        ("x-nonce", "n2"),
        ("x-signature", signature.as_str()),
    ];
    let listed = http(at, "GET", path, &headers, "").await;
    assert_eq!(listed.status, 200, "{}", listed.text);
    // Nobody learns here which ids there are: neither at the door, nor from a cell that is asked by a stranger.
    let asked = [("x-postrider-public-id", text(&key, "publicId"))];
    let strangers = TestServer::start().await;
    let through = [asked[0], ("x-forwarded-for", "203.0.113.5")];
    for (server, headers) in [
        (at, &asked[..]),
        (strangers.address, &asked[..]),
        (b.address, &through[..]),
    ] {
        let told = http(server, "GET", "/node/knows", headers, "").await;
        assert_eq!(told.status, 404, "{}", told.text);
    }
    let told = http(b.address, "GET", "/node/knows", &asked, "").await;
    assert_eq!(told.json()["knows"], true, "who is trusted is told");

    // A cell knows whose a request is, not whose the door is.
    let new = json!({ "name": "fixed", "application": keys[1].0, "allowedIps": ["127.0.0.2"] });
    let key = ask(at, &b.root, "POST", "/v1/keys", new).await.json();
    let path = format!("/v1/applications/{}", keys[1].0);
    let (theirs, others) = (
        from("127.0.0.2", at, text(&key, "key"), &path).await,
        from("127.0.0.3", at, text(&key, "key"), &path).await,
    );
    assert!(theirs.starts_with("HTTP/1.1 200"), "{theirs}");
    assert!(others.contains("address_not_allowed"), "{others}");

    // What nobody knows is refused as a server refuses it, and a key that was known is not for ever.
    let unknown = ask(
        at,
        "pr_live_nobodys",
        "GET",
        "/v1/applications",
        Value::Null,
    )
    .await;
    assert_eq!(
        (unknown.status, unknown.code().as_str()),
        (401, "key_unknown")
    );
    let without = http(at, "GET", "/v1/applications", &[], "").await;
    assert_eq!(
        (without.status, without.code().as_str()),
        (401, "key_missing")
    );
    let path = format!("/v1/keys/{}", id(&key));
    assert_eq!(
        ask(at, &b.root, "DELETE", &path, Value::Null).await.status,
        204
    );
    let gone = from("127.0.0.2", at, text(&key, "key"), "/v1/keys").await;
    assert!(gone.contains("key_unknown"), "{gone}");

    // One that is away is its own customers' matter.
    assert_eq!(http(at, "GET", "/ready", &[], "").await.status, 200);
    b.server.take().unwrap().shut_down().await;
    let path = format!("/v1/applications/{}", keys[1].0);
    let away = ask(at, &keys[1].1, "GET", &path, Value::Null).await;
    assert_eq!(
        (away.status, away.code().as_str()),
        (503, "store_unavailable")
    );
    let path = format!("/v1/applications/{}", keys[0].0);
    assert_eq!(
        ask(at, &keys[0].1, "GET", &path, Value::Null).await.status,
        200
    );
    // It is no reason to send nobody to this door.
    let ready = http(at, "GET", "/ready", &[], "").await;
    assert_eq!((ready.status, &ready.json()["cells"]), (200, &json!(2)));
    let all = http(at, "GET", "/ready?all", &[], "").await;
    assert!(
        all.status == 503 && all.text.contains("1 of 2"),
        "{}",
        all.text
    );
    // HTTP/1.0 needs no Host.
    let mut stream = tokio::net::TcpStream::connect(at).await.unwrap();
    let request = format!(
        "GET {path} HTTP/1.0\r\nauthorization: Bearer {}\r\n\r\n",
        keys[0].1
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains(" 200 OK"), "{answer}");
    assert_eq!(http(at, "GET", "/health", &[], "").await.status, 200);
}

/// Nobody can say of a key that it is not the cell's that hangs; whoever has one that another cell knows does not wait for that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cell_that_hangs_keeps_nobody_from_the_others() {
    /// More than one cell is asked for at once.
    const STRANGERS: usize = 600;
    let cell = cell().await;
    let hangs = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let urls = format!(
        "http://{},http://{}",
        hangs.local_addr().unwrap(),
        cell.address
    );
    let data = tempfile::tempdir().unwrap();
    let door = door_to(data.path(), &urls);
    let at = door.address;
    // Connections are taken by the system, and nothing is ever answered.
    let ask_all = |key: String| {
        tokio::spawn(async move {
            ask(at, &key, "GET", "/v1/applications", Value::Null)
                .await
                .status
        })
    };
    let strangers: Vec<_> = (0..STRANGERS).map(|n| ask_all(format!("pk_{n}"))).collect();
    let mut accepted = Vec::new();
    while accepted.len() < 256 {
        accepted.push(hangs.accept().await.unwrap());
    }
    let known = ask(at, &cell.root, "GET", "/v1/applications", Value::Null).await;
    assert_eq!(known.status, 200, "{}", known.text);
    for stranger in strangers {
        assert_eq!(stranger.await.unwrap(), 503);
    }
}

#[test]
fn a_door_that_cannot_be_one_says_why() {
    let many: Vec<_> = (0..129)
        .map(|n| format!("http://10.0.0.1:{}", 8_000 + n))
        .collect();
    let many = many.join(",");
    for (name, value, why) in [
        (
            "POSTRIDER__CELLS__URLS",
            "10.0.0.1:8080",
            "must begin with http",
        ),
        ("POSTRIDER__CELLS__URLS", &many, "128"),
        (
            "POSTRIDER__CELLS__CA_FILE",
            "/nowhere",
            "cells.ca_file /nowhere",
        ),
        ("POSTRIDER__STORE__URL", "postgres://h/d", "no store.url"),
    ] {
        let told = output(
            postrider()
                .args(["config", "check"])
                .env("POSTRIDER__CELLS__URLS", "http://10.0.0.1:8080")
                .env(name, value),
        );
        let all = said(&told.stderr) + &said(&told.stdout);
        assert!(!told.status.success() && all.contains(why), "{name}: {all}");
    }
}

/// Of the door itself, and of a cell behind it that reads no further.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_answer_to_a_body_that_nobody_reads_arrives_at_a_door_too() {
    let cell = cell().await;
    let (data, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let with_cell = door(data.path(), &[&cell]);
    let without = door_to(other.path(), "http://127.0.0.1:9");
    // More than the system takes for a connection by itself.
    let large = "x".repeat(16 * 1024 * 1024);
    for (door, path, status) in [
        (&without, "/v1/events", 503),
        (&with_cell, "/nowhere", 404),
        (&with_cell, "/v1/applications", 413),
    ] {
        for _ in 0..3 {
            let mut stream = tokio::net::TcpStream::connect(door.address).await.unwrap();
            let root = &cell.root;
            let head = format!(
                "POST {path} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {root}\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
                large.len()
            );
            let sent = stream.write_all((head + &large).as_bytes()).await;
            assert!(sent.is_ok(), "{path}: {sent:?}");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            let wanted = format!("HTTP/1.1 {status}");
            assert!(answer.starts_with(&wanted), "{path}: {answer}");
        }
    }
}
