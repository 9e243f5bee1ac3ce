//! A server of its own for each test, and plain HTTP to talk to it.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use postrider::config::Config;
use postrider::serve::Server;
use postrider_core::seal::hex;
use postrider_testkit::Postgres;
use serde_json::{Value, json};
use tempfile::TempDir;

pub(crate) struct TestServer {
    pub(crate) server: Option<Server>,
    pub(crate) address: SocketAddr,
    pub(crate) root: String,
    pub(crate) directory: TempDir,
}

#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: HashMap<String, String>,
    pub(crate) text: String,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("not JSON: {self:?}"))
    }

    /// The code of a problem, after checking that it is a proper one.
    pub(crate) fn code(&self) -> String {
        assert_eq!(
            self.headers["content-type"], "application/problem+json",
            "{self:?}"
        );
        let problem = self.json();
        assert_eq!(problem["status"], self.status, "{problem}");
        assert!(
            problem["title"].is_string()
                && problem["detail"]
                    .as_str()
                    .is_some_and(|detail| !detail.is_empty()),
            "{problem}"
        );
        let code = problem["code"].as_str().unwrap().to_owned();
        assert_eq!(problem["type"], format!("urn:postrider:problem:{code}"));
        code
    }
}

/// One request on a connection of its own.
pub(crate) async fn http(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Reply {
    http_to("test", address, method, path, headers, body).await
}

/// The same, asking for a host by another name.
pub(crate) async fn http_to(
    host: &str,
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Reply {
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    let connection = tokio::spawn(connection);
    let mut request = http::Request::builder()
        .method(method)
        .uri(path)
        .header("host", host);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = sender
        .send_request(request.body(Full::new(body.into())).unwrap())
        .await
        .unwrap();
    let status = response.status().as_u16();
    let pairs = response
        .headers()
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()));
    let headers = pairs.collect();
    let text = String::from_utf8(
        response
            .into_body()
            .collect()
            .await
            .unwrap()
            .to_bytes()
            .to_vec(),
    )
    .unwrap();
    connection.abort();
    Reply {
        status,
        headers,
        text,
    }
}

/// Configuration for tests: any port, loopback allowed over plain HTTP.
pub(crate) fn config(directory: &TempDir) -> Config {
    let mut config = Config::default();
    config.server.listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    config.server.shutdown_secs = 10;
    config.store.directory = directory.path().join("data");
    config.egress.allow = vec!["127.0.0.0/8".parse().unwrap()];
    config.egress.plain_http = true;
    if on_postgres() {
        config.store.url = Some(Postgres::shared().database());
    }
    config
}

/// Whether all tests are to keep their store in PostgreSQL: `TEST_STORE=postgres`.
pub(crate) fn on_postgres() -> bool {
    std::env::var("TEST_STORE").is_ok_and(|store| store == "postgres")
}

impl TestServer {
    pub(crate) async fn start() -> Self {
        Self::with(|_| ()).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut config = config(&directory);
        change(&mut config);
        let server = Server::start(config).await.unwrap();
        let root = server.root_key.as_ref().unwrap().expose().to_owned();
        Self {
            address: server.address,
            server: Some(server),
            root,
            directory,
        }
    }

    pub(crate) async fn call_as(&self, key: &str, method: &str, path: &str, body: Value) -> Reply {
        let bearer = format!("Bearer {key}");
        let mut headers = vec![("authorization", bearer.as_str())];
        let text = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        if !body.is_null() {
            headers.push(("content-type", "application/json"));
        }
        http(self.address, method, path, &headers, text).await
    }

    pub(crate) async fn raw(&self, path: &str, body: impl Into<Bytes>) -> Reply {
        let bearer = format!("Bearer {}", self.root);
        http(
            self.address,
            "POST",
            path,
            &[
                ("authorization", &bearer),
                ("content-type", "application/json"),
            ],
            body,
        )
        .await
    }

    pub(crate) async fn call(&self, method: &str, path: &str, body: Value) -> Reply {
        self.call_as(&self.root, method, path, body).await
    }

    /// A call that must succeed.
    pub(crate) async fn good(&self, method: &str, path: &str, body: Value) -> Value {
        let reply = self.call(method, path, body).await;
        assert!(
            (200..300).contains(&reply.status),
            "{method} {path}: {reply:?}"
        );
        if reply.text.is_empty() {
            Value::Null
        } else {
            reply.json()
        }
    }

    pub(crate) async fn application(&self, name: &str, profile: &str) -> String {
        id(&self
            .good(
                "POST",
                "/v1/applications",
                json!({ "name": name, "profile": profile }),
            )
            .await)
    }

    pub(crate) async fn tenant_of(&self, application: &str) -> String {
        id(&self
            .good(
                "POST",
                &format!("/v1/applications/{application}/tenants"),
                json!({ "name": "Ada" }),
            )
            .await)
    }

    /// An application of the profile with one tenant.
    pub(crate) async fn tenant(&self, profile: &str) -> String {
        let name = format!("{profile}-{}", fastrand::u64(..));
        let application = self.application(&name, profile).await;
        self.tenant_of(&application).await
    }

    pub(crate) async fn endpoint(&self, tenant: &str, url: &str) -> Value {
        self.good(
            "POST",
            &format!("/v1/tenants/{tenant}/endpoints"),
            json!({ "url": url }),
        )
        .await
    }

    pub(crate) async fn publish(&self, tenant: &str, event_type: &str, data: Value) -> Value {
        self.good(
            "POST",
            &format!("/v1/tenants/{tenant}/events"),
            json!({ "type": event_type, "data": data }),
        )
        .await
    }

    /// Looks at a path until the answer is as wanted.
    pub(crate) async fn until(&self, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        for _ in 0..600 {
            last = self.good("GET", path, Value::Null).await;
            if wanted(&last) {
                return last;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{path} did not become as wanted: {last}");
    }

    /// The deliveries that a query finds, once `count` of them are finished.
    pub(crate) async fn finished(&self, query: &str, count: usize) -> Vec<Value> {
        let path = format!("/v1/deliveries?limit=250&{query}");
        let page = self.until(&path, |page| {
            let rows = page["data"].as_array().unwrap();
            rows.len() >= count && rows.iter().all(|row| row["status"] != "pending")
        });
        page.await["data"].as_array().unwrap().clone()
    }
}

/// HMAC-SHA256 in hex, by a library that the server does not sign with.
pub(crate) fn hmac(secret: &str, message: impl AsRef<[u8]>) -> String {
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, secret.as_bytes());
    hex(aws_lc_rs::hmac::sign(&key, message.as_ref()).as_ref())
}

pub(crate) fn id(value: &Value) -> String {
    value["id"]
        .as_str()
        .unwrap_or_else(|| panic!("no id in {value}"))
        .to_owned()
}

pub(crate) fn text<'v>(value: &'v Value, name: &str) -> &'v str {
    value[name]
        .as_str()
        .unwrap_or_else(|| panic!("no {name} in {value}"))
}
