//! A load generator: publishes to a running server and receives what it delivers.
//!
//! ```text
//! postrider serve --dev --data /tmp/load &
//! cargo run --release --example load -- --key pr_live_… --secs 20
//! ```
//!
//! `--hang` adds an endpoint of another tenant that accepts connections and never answers, and
//! sends it as many events as the healthy one, to show what that costs the healthy one. The hard cases:
//!
//! ```text
//! --rate 1000                                            the control
//! --rate 1000 --bad-endpoints 1000 --bad-rate 5          1,000 endpoints of one tenant that hang
//! --rate 1000 --bad-endpoints 1000 --bad-rate 5 --slow 2000   that answer after two seconds
//! --rate 100 --bad-endpoints 1 --bad-rate 10000 --slow 1  one that publishes 100 times as much
//! --endpoints 5                                          five fast endpoints at full speed
//! ```
//!
//! Times are from when an event was to be published, at a rate, and from its request otherwise, until it came.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::cast_sign_loss,
    reason = "a tool for measuring, not a part of the server"
)]

mod publishers;
mod receivers;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use clap::Parser;
use postrider::client::Client;
use postrider_core::Secret;
use serde_json::json;
use tokio::task::JoinSet;

use publishers::Publishing;
use receivers::Received;

/// Tenants that are made at once.
const MAKING: usize = 32;
/// Before it is measured.
const WARM_UP: Duration = Duration::from_secs(1);

#[derive(Parser)]
struct Args {
    #[arg(long, default_value = "http://127.0.0.1:8080")]
    url: String,
    #[arg(long)]
    key: String,
    /// Connections that publish
    #[arg(long, default_value_t = 64)]
    connections: usize,
    #[arg(long, default_value_t = 10)]
    secs: u64,
    /// Bytes of payload
    #[arg(long, default_value_t = 1_024)]
    bytes: usize,
    /// Events in one request
    #[arg(long, default_value_t = 1)]
    batch: u64,
    /// Events per second over all connections; 0 is as fast as answers come
    #[arg(long, default_value_t = 0)]
    rate: u64,
    /// Send as many events to an endpoint that never answers
    #[arg(long)]
    hang: bool,
    /// Tenants that get events in turn
    #[arg(long, default_value_t = 1)]
    tenants: usize,
    /// Endpoints of each, the first of all tenants at one receiver, the second at another
    #[arg(long, default_value_t = 1)]
    endpoints: usize,
    /// Endpoints of another tenant, that hang or are slow
    #[arg(long, default_value_t = 0)]
    bad_endpoints: usize,
    /// Events per second to those
    #[arg(long, default_value_t = 5.0)]
    bad_rate: f64,
    /// Those answer after so many milliseconds instead of never
    #[arg(long)]
    slow: Option<u64>,
    /// Another server, on the same machine, that serves those: what is left then is not for sharing one
    #[arg(long, requires = "bad_key")]
    bad_url: Option<String>,
    #[arg(long)]
    bad_key: Option<String>,
    /// Receivers speak TLS, with certificate.pem and key.pem of this directory
    #[arg(long, requires = "certificates")]
    https: bool,
    #[arg(long, env = "LOAD_CERTIFICATES")]
    certificates: Option<PathBuf>,
    /// Port of the first receiver; 0 is any that is free
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Publish nothing: only receive at this port, and tell how much came
    #[arg(long)]
    receive_at: Option<u16>,
    /// Print the figures as JSON
    #[arg(long)]
    json: bool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let started = Instant::now();
    let received = Arc::new(Received::default());
    if let Some(port) = args.receive_at {
        receivers::prompt(port, None, received.clone(), started).await?;
        tokio::time::sleep(Duration::from_secs(args.secs)).await;
        println!("{}", received.count.load(Ordering::Relaxed));
        return Ok(());
    }
    let client = Arc::new(Client::new(&args.url, Secret::new(args.key.clone()))?);
    let application = make(
        &client,
        "/v1/applications",
        &format!("load-{}", std::process::id()),
    )
    .await?;
    let prompt = prompt(&args, &received, started).await?;
    let mut tenants = many_tenants(&client, &application, args.tenants, prompt).await?;
    let bad = bad_tenant(&args, &client, &application).await?;
    if args.hang {
        let to = receivers::hanging().await?;
        let to = format!("http://{to}");
        tenants.push(tenant(&client, &application, &[to], 0).await?);
    }
    let per_second = args.rate as f64 / args.batch as f64;
    let publishing = Arc::new(Publishing {
        server: args.url.trim_start_matches("http://").parse()?,
        key: args.key.clone(),
        tenants,
        bytes: args.bytes,
        batch: args.batch,
        pause: (args.rate > 0)
            .then(|| Duration::from_secs_f64(args.connections as f64 / per_second)),
        connections: args.connections,
        started,
        stop: AtomicBool::new(false),
        accepted: AtomicU64::new(0),
        refused: AtomicU64::new(0),
        latencies: Mutex::default(),
    });
    if args.json {
        println!("{}", json!({ "begun": true }));
    }
    let mut tasks = JoinSet::new();
    for index in 0..args.connections {
        tasks.spawn(publishing.clone().connection(index));
    }
    if let Some(bad) = bad {
        let (by, tenant) = bad;
        tasks.spawn(pester(by, tenant, args.bad_rate, publishing.clone()));
    }
    tokio::time::sleep(WARM_UP).await;
    received.latencies.lock().unwrap().clear();
    publishing.latencies.lock().unwrap().clear();
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let (accepted, delivered) = (count(&publishing.accepted), count(&received.count));
    let since = Instant::now();
    tokio::time::sleep(Duration::from_secs(args.secs)).await;
    let secs = since.elapsed().as_secs_f64();
    let accepted = (count(&publishing.accepted) - accepted) as f64 / secs;
    let delivered = (count(&received.count) - delivered) as f64 / secs;
    publishing.stop.store(true, Ordering::Relaxed);
    while let Some(result) = tasks.join_next().await {
        result??;
    }
    tell(args.json, &publishing, &received, accepted, delivered);
    Ok(())
}

/// The receivers that answer at once.
async fn prompt(
    args: &Args,
    received: &Arc<Received>,
    started: Instant,
) -> anyhow::Result<Vec<String>> {
    let tls = match &args.certificates {
        Some(directory) if args.https => Some(receivers::tls(directory)?),
        _ => None,
    };
    let scheme = if args.https { "https" } else { "http" };
    let mut prompt = Vec::new();
    for number in 0..args.endpoints {
        let port = if number == 0 { args.port } else { 0 };
        let one = receivers::prompt(port, tls.clone(), received.clone(), started);
        prompt.push(format!("{scheme}://{}", one.await?));
    }
    Ok(prompt)
}

/// Prints what was measured.
fn tell(
    as_json: bool,
    publishing: &Publishing,
    received: &Received,
    accepted: f64,
    delivered: f64,
) {
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let at = percentiles(&received.latencies);
    let answered = percentiles(&publishing.latencies);
    let (refused, connections) = (count(&publishing.refused), count(&received.connections));
    let (p50, p99, p999, most) = (at(0.5), at(0.99), at(0.999), at(0.9999));
    if as_json {
        let figures = json!({
            "accepted": accepted, "delivered": delivered, "refused": refused,
            "p50": p50, "p99": p99, "p999": p999, "max": most, "connections": connections,
            "received": count(&received.count),
            "answered_p50": answered(0.5), "answered_p99": answered(0.99), "answered_p999": answered(0.999),
        });
        println!("{figures}");
    } else {
        println!(
            "accepted {accepted:.0}/s, delivered {delivered:.0}/s, refused {refused}; publish to receipt: p50 {p50:.2} ms, p99 {p99:.2} ms, p99.9 {p999:.2} ms, max {most:.2} ms; to the answer: p50 {:.2} ms, p99 {:.2} ms; at most {connections} connections to one receiver",
            answered(0.5),
            answered(0.99)
        );
    }
}

/// What so many in one did not take longer than, in milliseconds.
fn percentiles(latencies: &Mutex<Vec<u32>>) -> impl Fn(f64) -> f64 + use<> {
    let mut latencies = std::mem::take(&mut *latencies.lock().unwrap());
    latencies.sort_unstable();
    move |q| {
        let found = latencies.get((latencies.len() as f64 * q) as usize);
        f64::from(found.copied().unwrap_or(0)) / 1_000.0
    }
}

/// The tenant whose endpoints hang or are slow, where there is to be one, and who publishes for it.
async fn bad_tenant(
    args: &Args,
    client: &Arc<Client>,
    application: &str,
) -> anyhow::Result<Option<(Arc<Client>, String)>> {
    if args.bad_endpoints == 0 {
        return Ok(None);
    }
    let to = match args.slow {
        Some(millis) => receivers::slow(Duration::from_millis(millis)).await?,
        None => receivers::hanging().await?,
    };
    let all = vec![format!("http://{to}"); args.bad_endpoints];
    let (client, application) = match (&args.bad_url, &args.bad_key) {
        (Some(url), Some(key)) => {
            let client = Arc::new(Client::new(url, Secret::new(key.clone()))?);
            let application = make(&client, "/v1/applications", "beside").await?;
            (client, application)
        }
        _ => (client.clone(), application.to_owned()),
    };
    let tenant = tenant(&client, &application, &all, 0).await?;
    Ok(Some((client, tenant)))
}

/// Publishes for a tenant at a rate, whatever becomes of it.
async fn pester(
    client: Arc<Client>,
    tenant: String,
    rate: f64,
    publishing: Arc<Publishing>,
) -> anyhow::Result<()> {
    const AT_ONCE: usize = 64;
    let pause = Duration::from_secs_f64(1.0 / rate);
    let mut next = Instant::now();
    let mut calls = JoinSet::new();
    while !publishing.stop.load(Ordering::Relaxed) {
        next += pause;
        tokio::time::sleep_until(next.into()).await;
        let (client, path) = (client.clone(), format!("/v1/tenants/{tenant}/events"));
        calls.spawn(async move {
            let event = json!({ "type": "load.test", "data": {} });
            drop(client.post(&path, &event).await);
        });
        while calls.len() > AT_ONCE {
            calls.join_next().await;
        }
    }
    Ok(())
}

async fn many_tenants(
    client: &Arc<Client>,
    application: &str,
    count: usize,
    receivers: Vec<String>,
) -> anyhow::Result<Vec<String>> {
    let mut made = Vec::with_capacity(count);
    let mut making = JoinSet::new();
    for number in 0..count {
        let (client, application) = (client.clone(), application.to_owned());
        let receivers = receivers.clone();
        making.spawn(async move { tenant(&client, &application, &receivers, number).await });
        if making.len() == MAKING
            && let Some(tenant) = making.join_next().await
        {
            made.push(tenant??);
        }
    }
    while let Some(tenant) = making.join_next().await {
        made.push(tenant??);
    }
    Ok(made)
}

/// A tenant with an endpoint at each of the receivers.
async fn tenant(
    client: &Client,
    application: &str,
    receivers: &[String],
    number: usize,
) -> anyhow::Result<String> {
    let tenant = make(
        client,
        &format!("/v1/applications/{application}/tenants"),
        "load",
    )
    .await?;
    for receiver in receivers {
        let url = json!({ "url": format!("{receiver}/{number}") });
        client
            .post(&format!("/v1/tenants/{tenant}/endpoints"), &url)
            .await?;
    }
    Ok(tenant)
}

/// Makes what only needs a name, and returns its id.
async fn make(client: &Client, path: &str, name: &str) -> anyhow::Result<String> {
    let made = client.post(path, &json!({ "name": name })).await?;
    Ok(made["id"].as_str().unwrap_or_default().to_owned())
}
