//! Several servers with one database: whichever is asked, and whichever dies.

mod database;

use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use postrider::client::Client;
use postrider_core::Secret;
use postrider_testkit::certificates::Authority;
use postrider_testkit::{Behaviour, Postgres, Receiver};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::binary::{Process, call, endpoint, greeted, postrider, publish, tenant, until};
use crate::support::http;

/// Nodes of one database, each with a directory of its own.
struct Nodes {
    directory: TempDir,
    url: String,
}

impl Nodes {
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
            url: Postgres::shared().database(),
        }
    }

    fn data(&self, name: &str) -> PathBuf {
        let data = self.directory.path().join(name);
        if !data.exists() {
            std::fs::create_dir(&data).unwrap();
            let first = self.directory.path().join("a/master.key");
            if first.exists() {
                std::fs::copy(first, data.join("master.key")).unwrap();
            }
        }
        data
    }

    /// Starts a node, and returns when it answers. The first of all is `a`, which has the root key.
    fn start(&self, name: &str) -> Process {
        let data = self.data(name);
        let is_first = name == "a" && !data.join("known").exists();
        std::fs::write(data.join("known"), "").unwrap();
        greeted(spawned(&data, &self.url, free_port()), is_first)
    }

    /// One that leads, its root key, and one that follows it.
    async fn pair(&self) -> (Process, String, Process) {
        let a = self.start("a");
        let root = root_of(&a);
        let b = self.start("b");
        following(&b, &root, 1).await;
        (a, root, b)
    }
}

/// A port for a server that is told it before it starts. Not one that the system would give: until the server listens, any
/// connection of another test could get that.
fn free_port() -> u16 {
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    // Below those that the system gives.
    const PORTS: std::ops::Range<u32> = 12_000..32_000;
    loop {
        let number = std::process::id() + GIVEN.fetch_add(1, Ordering::Relaxed);
        let port = PORTS.start + number % (PORTS.end - PORTS.start);
        let port = u16::try_from(port).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

fn spawned(data: &Path, store: &str, port: u16) -> Child {
    let address = format!("127.0.0.1:{port}");
    let log = std::fs::File::create(data.join("log")).unwrap();
    let mut command = postrider();
    command
        .args(["serve", "--dev", "--listen", &address, "--data"])
        .arg(data)
        .env("POSTRIDER__STORE__URL", store)
        .env("POSTRIDER__NODES__URL", format!("http://{address}"))
        .env("POSTRIDER__LOG__LEVEL", "info")
        .stdout(Stdio::piped())
        .stderr(log);
    command.spawn().unwrap()
}

fn signal(process: &Process, signal: &str) {
    let id = process.child.id().to_string();
    let sent = std::process::Command::new("kill")
        .args([signal, &id])
        .status();
    assert!(sent.unwrap().success());
}

/// The root key, wherever it was shown.
fn root_of(first: &Process) -> String {
    first.root.clone().unwrap()
}

async fn following(node: &Process, root: &str, count: usize) -> Value {
    let so_many = |nodes: &Value| {
        nodes["followers"]
            .as_array()
            .is_some_and(|all| all.len() == count)
    };
    until(node, root, "/v1/nodes", so_many).await
}

/// Receivers of a test in which each node gets some: whose attempts a node makes is as good as chance, and of twelve receivers
/// all were others' in one run of a hundred. Three events for each are one page.
const ORIGINS: usize = 32;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_answers_and_all_make_attempts() {
    let nodes = Nodes::new();
    let a = nodes.start("a");
    let root = root_of(&a);
    let (b, c) = (nodes.start("b"), nodes.start("c"));
    following(&c, &root, 2).await;
    let customer = tenant(&b, &root, "standard").await;
    // Each address is an origin of its own.
    let mut receivers = Vec::new();
    for _ in 0..ORIGINS {
        let receiver = Receiver::start(Behaviour::Status(200)).await;
        endpoint(&c, &root, &customer, &receiver.url("/hook")).await;
        receivers.push(receiver);
    }
    for node in [&a, &b, &c] {
        publish(node, &root, &customer).await;
    }
    let path = format!("/v1/deliveries?tenant={customer}&status=delivered&limit=100");
    let all = |page: &Value| {
        page["data"]
            .as_array()
            .is_some_and(|rows| rows.len() == 3 * ORIGINS)
    };
    until(&b, &root, &path, all).await;
    for receiver in &receivers {
        assert_eq!(receiver.requests().len(), 3, "each event once");
    }
    let told = following(&a, &root, 2).await;
    let made = |node: &Value| node["attempts"].as_u64().unwrap();
    let made: u64 = told["followers"].as_array().unwrap().iter().map(made).sum();
    assert!(
        made > 0 && made < 3 * ORIGINS as u64,
        "some here, some there: {told}"
    );
    let bearer = format!("Bearer {root}");
    let headers = [("authorization", bearer.as_str())];
    let metrics = http(b.address, "GET", "/metrics", &headers, "").await;
    assert!(
        metrics.text.contains("postrider_followers 2\n"),
        "{}",
        metrics.text
    );
    let customers = call(
        &c,
        &root,
        "POST",
        "/v1/keys",
        json!({ "name": "ada", "tenant": customer }),
    )
    .await;
    let bearer = format!("Bearer {}", customers["key"].as_str().unwrap());
    let refused = http(
        c.address,
        "GET",
        "/v1/nodes",
        &[("authorization", bearer.as_str())],
        "",
    )
    .await;
    assert_eq!(refused.status, 403, "{refused:?}");
    // Nobody else can say that he is a node, or whom he asks for.
    let bearer = format!("Node {}", "0".repeat(64));
    let pretended = [
        ("authorization", bearer.as_str()),
        ("connection", "upgrade"),
        ("upgrade", "postrider-node-1"),
        ("x-postrider-link", "requests"),
        ("x-postrider-nonce", "0123456789abcdef"),
    ];
    let refused = http(a.address, "POST", "/node/link", &pretended, "").await;
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (401, "key_unknown")
    );
    let refused = http(b.address, "POST", "/node/link", &pretended, "").await;
    assert_eq!(refused.status, 503, "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_is_passed_on_is_its_clients() {
    let nodes = Nodes::new();
    let (a, root, b) = nodes.pair().await;
    // A key for one address: the leader sees where the follower's client is.
    let application = call(
        &b,
        &root,
        "POST",
        "/v1/applications",
        json!({ "name": "shop", "profile": "standard" }),
    )
    .await;
    let key = |networks: Value| json!({ "name": "here", "application": application["id"], "allowedIps": networks });
    let elsewhere = call(&b, &root, "POST", "/v1/keys", key(json!(["203.0.113.5"]))).await;
    let here = call(&b, &root, "POST", "/v1/keys", key(json!(["127.0.0.1"]))).await;
    let path = format!("/v1/applications/{}", application["id"].as_str().unwrap());
    for node in [&a, &b] {
        for (key, status) in [(&here, 200), (&elsewhere, 403)] {
            let bearer = format!("Bearer {}", key["key"].as_str().unwrap());
            let headers = [
                ("authorization", bearer.as_str()),
                ("x-postrider-client", "203.0.113.5 1.1"),
            ];
            let reply = http(node.address, "GET", &path, &headers, "").await;
            assert_eq!(reply.status, status, "{reply:?}");
        }
    }
    // A page, a body that is too long, and an address that there is not.
    let page = http(b.address, "GET", "/sign-in", &[("accept", "text/html")], "").await;
    assert!(
        page.status == 200 && page.text.contains("<form"),
        "{page:?}"
    );
    let bearer = format!("Bearer {root}");
    let headers = [
        ("authorization", bearer.as_str()),
        ("content-type", "application/json"),
    ];
    let long = format!("{{\"name\":\"{}\"}}", "x".repeat(2_000_000));
    let refused = http(b.address, "POST", "/v1/applications", &headers, long).await;
    assert_eq!(refused.code(), "body_too_large", "{refused:?}");
    let refused = http(b.address, "GET", "/v1/nowhere", &headers, "").await;
    assert_eq!(refused.status, 404);
}

/// Publishes to nodes in turn until told to stop, and counts.
struct Load {
    refused: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    accepted: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<Vec<String>>,
}

impl Load {
    /// What a node does not accept is published again under the same key to the next one.
    fn start(addresses: Vec<SocketAddr>, root: String, customer: String) -> Self {
        let (stop, accepted) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let refused = Arc::new(AtomicU64::new(0));
        let not_taken = refused.clone();
        let (stopped, counted) = (stop.clone(), accepted.clone());
        let task = tokio::spawn(async move {
            let path = format!("/v1/tenants/{customer}/events");
            let bearer = format!("Bearer {root}");
            let mut events = Vec::new();
            let mut turn = 0;
            while !stopped.load(Ordering::Relaxed) {
                let number = events.len();
                let key = format!("load-{number}");
                let event = json!({ "type": "a.b", "data": { "number": number } }).to_string();
                let headers = [
                    ("authorization", bearer.as_str()),
                    ("content-type", "application/json"),
                    ("idempotency-key", key.as_str()),
                ];
                turn += 1;
                let address = addresses[turn % addresses.len()];
                let Some((status, text)) = tried(address, &path, &headers, event).await else {
                    continue;
                };
                if status == 202 {
                    let accepted: Value = serde_json::from_str(&text).unwrap();
                    events.push(accepted["id"].as_str().unwrap().to_owned());
                    counted.fetch_add(1, Ordering::Relaxed);
                } else {
                    assert_eq!(status, 503, "{text}");
                    not_taken.fetch_add(1, Ordering::Relaxed);
                }
            }
            events
        });
        Self {
            refused,
            stop,
            accepted,
            task,
        }
    }

    async fn until(&self, count: u64) {
        let wanted = self.accepted.load(Ordering::Relaxed) + count;
        let mut looks = 0;
        while self.accepted.load(Ordering::Relaxed) < wanted {
            looks += 1;
            assert!(looks < 1_200, "nothing is accepted any more");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn end(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap()
    }
}

/// One request, to a node that may be gone.
async fn tried(
    address: SocketAddr,
    path: &str,
    headers: &[(&str, &str)],
    body: String,
) -> Option<(u16, String)> {
    let stream = tokio::net::TcpStream::connect(address).await.ok()?;
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.ok()?;
    let connection = tokio::spawn(connection);
    let mut request = hyper::Request::post(path).header("host", address.to_string());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request
        .body(http_body_util::Full::new(bytes::Bytes::from(body)))
        .unwrap();
    let response = sender.send_request(request).await.ok()?;
    let status = response.status().as_u16();
    let body = http_body_util::BodyExt::collect(response.into_body())
        .await
        .ok()?;
    connection.abort();
    Some((
        status,
        String::from_utf8_lossy(&body.to_bytes()).into_owned(),
    ))
}

/// All that was acknowledged arrived, and in the order in which it was.
async fn all_arrived(
    node: &Process,
    root: &str,
    customer: &str,
    receiver: &Receiver,
    events: &[String],
) -> usize {
    let pending = format!("/v1/deliveries?tenant={customer}&status=pending&limit=1");
    let none = |page: &Value| page["data"].as_array().is_some_and(Vec::is_empty);
    until(node, root, &pending, none).await;
    let mut first = Vec::new();
    let requests = receiver.requests();
    for request in &requests {
        let body: Value = serde_json::from_slice(&request.body).unwrap();
        let number = usize::try_from(body["data"]["number"].as_u64().unwrap()).unwrap();
        if !first.contains(&number) {
            first.push(number);
        }
    }
    let all: Vec<usize> = (0..first.len()).collect();
    assert_eq!(first, all, "an ordered lane keeps its order");
    assert!(
        first.len() >= events.len(),
        "{} of {}",
        first.len(),
        events.len()
    );
    requests.len() - first.len()
}

/// A customer with an endpoint that gets one event after the other.
async fn ordered(node: &Process, root: &str) -> (String, Receiver) {
    let customer = tenant(node, root, "standard").await;
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let path = format!("/v1/tenants/{customer}/endpoints");
    let asked = json!({ "url": receiver.url("/hook"), "ordering": "endpoint" });
    call(node, root, "POST", &path, asked).await;
    (customer, receiver)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn whichever_node_dies_nothing_that_was_acknowledged_is_lost() {
    let nodes = Nodes::new();
    let mut a = nodes.start("a");
    let root = root_of(&a);
    let (b, c) = (nodes.start("b"), nodes.start("c"));
    let addresses = vec![a.address, b.address, c.address];
    following(&a, &root, 2).await;
    let (customer, receiver) = ordered(&a, &root).await;
    let load = Load::start(addresses, root.clone(), customer.clone());
    load.until(100).await;
    // The one that leads.
    a.child.kill().unwrap();
    a.child.wait().unwrap();
    load.until(100).await;
    // One that follows: whoever it is of the two that are left, with a third one that comes.
    let d = nodes.start("d");
    following(&d, &root, 2).await;
    let leads = call(&d, &root, "GET", "/v1/nodes", Value::Null).await;
    let of = |node: &Process| format!("http://{}/", node.address);
    let (mut follower, leader) = match leads["leader"] == of(&b) {
        true => (c, b),
        false => (b, c),
    };
    assert_eq!(leads["leader"], of(&leader));
    follower.child.kill().unwrap();
    follower.child.wait().unwrap();
    load.until(100).await;
    let events = load.end().await;
    all_arrived(&d, &root, &customer, &receiver, &events).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn clients_of_the_nodes_that_stay_notice_nothing_of_a_rolling_restart() {
    let nodes = Nodes::new();
    let mut a = nodes.start("a");
    let root = root_of(&a);
    let (mut b, c) = (nodes.start("b"), nodes.start("c"));
    following(&a, &root, 2).await;
    let (customer, receiver) = ordered(&a, &root).await;
    let load = Load::start(vec![c.address], root.clone(), customer.clone());
    load.until(50).await;
    // The one that leads, and the one that may have followed it.
    for (node, next) in [(&mut a, "d"), (&mut b, "e")] {
        signal(node, "-TERM");
        assert!(node.child.wait().unwrap().success());
        load.until(50).await;
        *node = nodes.start(next);
        load.until(50).await;
    }
    following(&c, &root, 2).await;
    assert_eq!(load.refused.load(Ordering::Relaxed), 0);
    let events = load.end().await;
    let twice = all_arrived(&c, &root, &customer, &receiver, &events).await;
    assert_eq!(twice, 0, "who goes brings to its end what is under way");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_of_a_node_that_stands_still_is_made_by_another() {
    let nodes = Nodes::new();
    let (a, root, b) = nodes.pair().await;
    let customer = tenant(&a, &root, "standard").await;
    let mut receivers = Vec::new();
    for _ in 0..ORIGINS {
        let receiver = Receiver::start(Behaviour::Hang).await;
        endpoint(&a, &root, &customer, &receiver.url("/hook")).await;
        receivers.push(receiver);
    }
    publish(&a, &root, &customer).await;
    for receiver in &receivers {
        receiver.wait_for(1).await;
    }
    let told = call(&a, &root, "GET", "/v1/nodes", Value::Null).await;
    let under_way = told["followers"][0]["underWay"].as_u64().unwrap();
    assert!(under_way > 0, "{told}");
    signal(&b, "-STOP");
    for receiver in &receivers {
        receiver.behave(Behaviour::Status(200));
    }
    // It is noticed long before the attempts would have ended by themselves, and what it had is made here.
    following(&a, &root, 0).await;
    let path = format!("/v1/deliveries?tenant={customer}&status=delivered&limit=100");
    let so_many = |count: u64| {
        move |page: &Value| {
            page["data"]
                .as_array()
                .is_some_and(|rows| rows.len() as u64 == count)
        }
    };
    until(&a, &root, &path, so_many(under_way)).await;
    signal(&b, "-CONT");
    following(&a, &root, 1).await;
    publish(&b, &root, &customer).await;
    until(&a, &root, &path, so_many(under_way + ORIGINS as u64)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_stands_still_loses_its_place_and_ends() {
    let nodes = Nodes::new();
    let (mut a, root, b) = nodes.pair().await;
    let customer = tenant(&a, &root, "standard").await;
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    endpoint(&a, &root, &customer, &receiver.url("/hook")).await;
    signal(&a, "-STOP");
    let load = Load::start(vec![b.address], root.clone(), customer.clone());
    load.until(20).await;
    signal(&a, "-CONT");
    assert!(!a.child.wait().unwrap().success(), "it leads no more");
    load.until(20).await;
    let events = load.end().await;
    let pending = format!("/v1/deliveries?tenant={customer}&status=pending&limit=1");
    let none = |page: &Value| page["data"].as_array().is_some_and(Vec::is_empty);
    until(&b, &root, &pending, none).await;
    assert!(receiver.requests().len() >= events.len());
}

#[test]
fn a_node_that_cannot_be_one_says_why() {
    let nodes = Nodes::new();
    let told = |name: &str, more: &[(&str, &str)]| {
        let data = nodes.data(name);
        let mut command = postrider();
        command.args(["serve", "--listen", "127.0.0.1:0", "--data"]);
        command.arg(data).envs(more.iter().copied());
        let output = crate::binary::output(&mut command);
        assert!(!output.status.success());
        crate::binary::text(&output.stderr)
    };
    let url = ("POSTRIDER__NODES__URL", "http://127.0.0.1:1");
    let alone = told("x", &[url]);
    assert!(
        alone.contains("nodes.url is for servers with one database"),
        "{alone}"
    );
    let store = ("POSTRIDER__STORE__URL", nodes.url.as_str());
    let wrong = told("x", &[("POSTRIDER__NODES__URL", "10.0.0.1:8080"), store]);
    assert!(
        wrong.contains("nodes.url") && wrong.contains("http://"),
        "{wrong}"
    );
    let authorities = ("POSTRIDER__NODES__CA_FILE", "/nowhere.pem");
    let wrong = told("x", &[url, store, authorities]);
    assert!(
        wrong.contains("nodes.ca_file /nowhere.pem cannot be used"),
        "{wrong}"
    );
    // While another one leads: nobody makes a key of its own.
    let a = nodes.start("a");
    let data = nodes.data("y");
    std::fs::remove_file(data.join("master.key")).unwrap();
    let missing = told("y", &[url, store]);
    assert!(missing.contains("copy it from the first one"), "{missing}");
    drop(a);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_script_starts_three_nodes() {
    let nodes = Nodes::new();
    let ports = [free_port(), free_port(), free_port()];
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging/three-nodes.sh");
    let mut child = std::process::Command::new(script)
        .arg(&nodes.url)
        .arg(nodes.directory.path())
        .env("POSTRIDER", env!("CARGO_BIN_EXE_postrider"))
        .env("PORTS", ports.map(|port| port.to_string()).join(" "))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (mut root, mut all) = (None, false);
    for line in lines.map_while(Result::ok) {
        if line.trim().starts_with("pr_live_") {
            root = Some(line.trim().to_owned());
        }
        all |= line.starts_with("Three nodes answer");
        if all {
            break;
        }
    }
    assert!(all, "it says when it is done");
    let last = Process {
        child,
        address: SocketAddr::from(([127, 0, 0, 1], ports[2])),
        root,
    };
    let root = root_of(&last);
    following(&last, &root, 2).await;
    signal(&last, "-TERM");
    let mut last = last;
    assert!(last.child.wait().unwrap().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_speak_tls_to_each_other_and_trust_whom_they_are_told_to() {
    let nodes = Nodes::new();
    let authority = Authority::default();
    let directory = nodes.directory.path().to_owned();
    let certify = |authority: &Authority| {
        let (certificate, key) = authority.certified("localhost");
        std::fs::write(directory.join("ca.pem"), &authority.pem).unwrap();
        std::fs::write(directory.join("certificate.pem"), certificate).unwrap();
        std::fs::write(directory.join("key.pem"), key).unwrap();
    };
    certify(&authority);
    let start = |name: &str| {
        let data = nodes.data(name);
        let port = free_port();
        let mut command = postrider();
        command
            .args([
                "serve",
                "--dev",
                "--listen",
                &format!("127.0.0.1:{port}"),
                "--data",
            ])
            .arg(data)
            .env("POSTRIDER__STORE__URL", &nodes.url)
            .env("POSTRIDER__NODES__URL", format!("https://localhost:{port}"))
            .env("POSTRIDER__NODES__CA_FILE", directory.join("ca.pem"))
            .env(
                "POSTRIDER__SERVER__TLS__CERTIFICATE",
                directory.join("certificate.pem"),
            )
            .env("POSTRIDER__SERVER__TLS__KEY", directory.join("key.pem"))
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        greeted(command.spawn().unwrap(), name == "a")
    };
    let a = start("a");
    let root = root_of(&a);
    let b = start("b");
    let asked = |node: &Process| {
        let url = format!("https://localhost:{}", node.address.port());
        let client = Client::new(&url, Secret::new(&*root)).unwrap();
        client.trusting(&directory.join("ca.pem")).unwrap()
    };
    let follows = async |client: &Client| {
        let mut looks = 0;
        loop {
            let nodes = client.get("/v1/nodes").await;
            if nodes.is_ok_and(|nodes| nodes["followers"].as_array().unwrap().len() == 1) {
                return;
            }
            looks += 1;
            assert!(looks < 600, "nobody follows");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    follows(&asked(&b)).await;
    // A node that follows takes over a new certificate as well.
    let before = asked(&b);
    certify(&Authority::default());
    signal(&b, "-HUP");
    let after = asked(&b);
    let mut looks = 0;
    while after.get("/v1/nodes").await.is_err() {
        looks += 1;
        assert!(looks < 600, "the new certificate is not shown");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(before.get("/v1/nodes").await.is_err(), "the old one is not");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_client_of_a_node_does_is_no_other_clients_matter() {
    let nodes = Nodes::new();
    let (_a, root, b) = nodes.pair().await;
    let customer = tenant(&b, &root, "standard").await;
    let receiver = Receiver::start(Behaviour::SlowStatus(Duration::from_secs(4), 200)).await;
    let path = format!("/v1/tenants/{customer}/endpoints");
    let made = call(
        &b,
        &root,
        "POST",
        &path,
        json!({ "url": receiver.url("/") }),
    )
    .await;
    let test = format!("/v1/endpoints/{}/test", made["id"].as_str().unwrap());
    let (address, bearer) = (b.address, format!("Bearer {root}"));
    // A request that is under way while others do what they should not.
    let under_way = tokio::spawn(async move {
        let headers = [
            ("authorization", bearer.as_str()),
            ("content-type", "application/json"),
        ];
        http(address, "POST", &test, &headers, "{}").await
    });
    receiver.wait_for(1).await;
    let raw = async |bytes: Vec<u8>| {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        let mut answer = vec![0; 12];
        // Whoever breaks off gets none.
        drop(stream.read_exact(&mut answer).await);
        String::from_utf8_lossy(&answer).into_owned()
    };
    let long = format!(
        "GET /health HTTP/1.1\r\nhost: x\r\na: {}\r\nb: {}\r\n\r\n",
        "a".repeat(17_000),
        "b".repeat(20_000)
    );
    let ready = long.replace("/health", "/ready");
    assert_eq!(raw(ready.into_bytes()).await, "HTTP/1.1 431");
    for (head, body) in [
        (
            "POST /v1/applications HTTP/1.1\r\nhost: x\r\ncontent-length: 0000000000000000000000002\r\n\r\n",
            "{}",
        ),
        (
            "GET /ready HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n",
            "1\r\nx\r\n0\r\n\r\n",
        ),
        (
            "POST /v1/applications HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n",
            "{",
        ),
    ] {
        for _ in 0..20 {
            let answer = raw([head.as_bytes(), body.as_bytes()].concat()).await;
            assert!(
                answer.starts_with("HTTP/1.1 4") || answer.starts_with("HTTP/1.1 200"),
                "{head}: {answer}"
            );
        }
    }
    // And whoever goes without waiting for an answer.
    for _ in 0..50 {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream
            .write_all(b"GET /ready HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .unwrap();
    }
    let answered = under_way.await.unwrap();
    assert!(answered.status == 200, "{answered:?}");
}
