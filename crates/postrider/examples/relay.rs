//! The ceiling: the same HTTP server and client as Postrider's, and nothing between them. What is published is answered and
//! sent on; nothing is checked, kept, signed or tried again. Takes what the load generator sends, and is told from a server
//! by what it costs.
//!
//! ```text
//! cargo run --release --example relay
//! ```

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a tool for measuring, not a part of the server"
)]

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use bytes::Bytes;
use postrider_api::{Listener, ServerLimits};
use postrider_core::address::AddressPolicy;
use postrider_engine::{Request, SystemClock, Transport};
use postrider_transport::{HttpTransport, Options, SystemResolver};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// Attempts at once to one endpoint, as a lane has.
const PER_ENDPOINT: usize = 16;
/// As many headers, and as long, as a signed request has.
const HEADERS: [(&str, &str); 6] = [
    ("webhook-id", "msg_2aFzKq0Q0aFzKq0Q0aFzKq0Q"),
    ("webhook-timestamp", "1764043361"),
    (
        "webhook-signature",
        "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    ),
    ("content-type", "application/json"),
    ("user-agent", "Postrider/0.1.0"),
    ("accept", "*/*"),
];

struct Relay {
    transport: HttpTransport,
    endpoints: Mutex<HashMap<String, Vec<Endpoint>>>,
}

#[derive(Clone)]
struct Endpoint {
    url: String,
    turns: Arc<Semaphore>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let relay = Arc::new(Relay {
        transport: HttpTransport::new(Options {
            addresses: AddressPolicy::new(vec!["127.0.0.0/8".parse()?]),
            resolver: Arc::new(SystemResolver::new()?),
            extra_ca: std::env::var_os("POSTRIDER__EGRESS__EXTRA_CA").map(Into::into),
            regions: Vec::new(),
            default_region: None,
            proxy: None,
            clock: Arc::new(SystemClock),
        })?,
        endpoints: Mutex::default(),
    });
    let router = Router::new()
        .route("/v1/applications", post(named))
        .route("/v1/applications/{application}/tenants", post(named))
        .route("/v1/tenants/{tenant}/endpoints", post(endpoint))
        .route("/v1/tenants/{tenant}/events", post(publish))
        .with_state(relay);
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let listener = Listener::bind(address, ServerLimits::default()).await?;
    println!(
        "relays at http://{}, with the key\n  pr_live_none",
        listener.address()?
    );
    listener.serve(router, CancellationToken::new()).await;
    Ok(())
}

/// Anything that has an id.
async fn named(State(relay): State<Arc<Relay>>) -> (StatusCode, Json<Value>) {
    let mut endpoints = relay.endpoints.lock().unwrap();
    let id = format!("{}", endpoints.len());
    endpoints.insert(id.clone(), Vec::new());
    (StatusCode::CREATED, Json(json!({ "id": id })))
}

async fn endpoint(
    State(relay): State<Arc<Relay>>,
    Path(tenant): Path<String>,
    Json(endpoint): Json<Value>,
) -> (StatusCode, Json<Value>) {
    let endpoint = Endpoint {
        url: endpoint["url"].as_str().unwrap_or_default().to_owned(),
        turns: Arc::new(Semaphore::new(PER_ENDPOINT)),
    };
    let mut endpoints = relay.endpoints.lock().unwrap();
    endpoints.entry(tenant).or_default().push(endpoint);
    (StatusCode::CREATED, Json(json!({ "id": "" })))
}

/// Answers when each endpoint has a turn for it: what waits here is not more than what is being sent.
async fn publish(
    State(relay): State<Arc<Relay>>,
    Path(tenant): Path<String>,
    body: Bytes,
) -> (StatusCode, Json<Value>) {
    let endpoints = relay.endpoints.lock().unwrap().get(&tenant).cloned();
    for endpoint in endpoints.unwrap_or_default() {
        let turn = endpoint.turns.acquire_owned().await.unwrap();
        let (relay, body) = (relay.clone(), body.clone());
        tokio::spawn(async move {
            let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
            let request = Request {
                url: endpoint.url,
                headers: HEADERS.map(owned).into(),
                body,
                connect_timeout: Duration::from_secs(5),
                total_timeout: Duration::from_secs(15),
                read_max: 65_536,
                region: None,
                title_case: false,
                repeat: true,
            };
            relay.transport.send(&request).await;
            drop(turn);
        });
    }
    (StatusCode::ACCEPTED, Json(json!({ "deliveries": 1 })))
}
