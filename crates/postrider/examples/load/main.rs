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
//! --rate 4000                                            the control
//! --rate 4000 --bad-endpoints 1000 --bad-rate 5          1,000 endpoints of one tenant that hang
//! --rate 4000 --bad-endpoints 1000 --bad-rate 5 --slow 2000   that answer after two seconds
//! --rate 100 --bad-endpoints 1 --bad-rate 10000 --slow 1  one that publishes 100 times as much
//! --endpoints 5                                          five fast endpoints at full speed
//! ```

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::cast_sign_loss,
    reason = "a tool for measuring, not a part of the server"
)]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Parser;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1 as client;
use hyper::server::conn::http1 as server;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use postrider::client::Client;
use postrider_core::Secret;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};

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
    /// Publishes per second over all connections; 0 is as fast as answers come
    #[arg(long, default_value_t = 0)]
    rate: u64,
    /// Send as many events to an endpoint that never answers
    #[arg(long)]
    hang: bool,
    /// Endpoints of the healthy tenant, each with a receiver of its own
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
}

#[derive(Default)]
struct Received {
    count: AtomicU64,
    /// Connections to one receiver, at most.
    connections: AtomicU64,
    latencies: Mutex<Vec<u32>>,
}

#[expect(
    clippy::too_many_lines,
    reason = "one measurement, from the beginning to the end"
)]
#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let started = Instant::now();
    let received = Arc::new(Received::default());
    let healthy = receiver(received.clone(), started).await?;
    let client = Client::new(&args.url, Secret::new(args.key.clone()))?;
    let suffix = std::process::id();
    let application = client
        .post(
            "/v1/applications",
            &json!({ "name": format!("load-{suffix}") }),
        )
        .await?;
    let application = application["id"].as_str().unwrap_or_default().to_owned();
    let mut tenants = vec![tenant(&client, &application, healthy).await?];
    for _ in 1..args.endpoints {
        let another = receiver(received.clone(), started).await?;
        endpoint(&client, &tenants[0], another).await?;
    }
    let bad = if args.bad_endpoints > 0 {
        let to = match args.slow {
            Some(millis) => slow(Duration::from_millis(millis)).await?,
            None => hanging().await?,
        };
        let bad = tenant(&client, &application, to).await?;
        for _ in 1..args.bad_endpoints {
            endpoint(&client, &bad, to).await?;
        }
        Some(bad)
    } else {
        None
    };
    if args.hang {
        tenants.push(tenant(&client, &application, hanging().await?).await?);
    }
    let stop = Arc::new(AtomicBool::new(false));
    let published = Arc::new(AtomicU64::new(0));
    let refused = Arc::new(AtomicU64::new(0));
    let mut tasks = tokio::task::JoinSet::new();
    for index in 0..args.connections {
        let tenant = tenants[index % tenants.len()].clone();
        let (stop, published, refused) = (stop.clone(), published.clone(), refused.clone());
        let address: SocketAddr = args
            .url
            .trim_start_matches("http://")
            .trim_end_matches('/')
            .parse()?;
        let (key, bytes, connections) = (args.key.clone(), args.bytes, args.connections);
        let pause = (args.rate > 0)
            .then(|| Duration::from_secs_f64(args.connections as f64 / args.rate as f64));
        tasks.spawn(async move {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let (mut sender, connection) = client::handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            let padding = "x".repeat(bytes.saturating_sub(40));
            // The connections take turns, so that a rate is not made of bursts.
            let offset = pause.map_or(Duration::ZERO, |pause| {
                pause.mul_f64(index as f64 / connections as f64)
            });
            let mut next = Instant::now() + offset;
            while !stop.load(Ordering::Relaxed) {
                if let Some(pause) = pause {
                    next += pause;
                    tokio::time::sleep_until(next.into()).await;
                }
                let at = started.elapsed().as_micros();
                let body =
                    format!(r#"{{"type":"load.test","data":{{"at":{at},"padding":"{padding}"}}}}"#);
                let request = http::Request::post(format!("/v1/tenants/{tenant}/events"))
                    .header("host", "localhost")
                    .header("authorization", format!("Bearer {key}"))
                    .header("content-type", "application/json")
                    .body(Full::new(Bytes::from(body)))?;
                let response = sender.send_request(request).await?;
                let counter = if response.status() == 202 {
                    &published
                } else {
                    &refused
                };
                counter.fetch_add(1, Ordering::Relaxed);
                response.into_body().collect().await?;
            }
            anyhow::Ok(())
        });
    }
    if let Some(bad) = bad {
        let (stop, client) = (stop.clone(), client.clone());
        let pause = Duration::from_secs_f64(1.0 / args.bad_rate);
        tasks.spawn(async move {
            let mut next = Instant::now();
            let mut calls = tokio::task::JoinSet::new();
            while !stop.load(Ordering::Relaxed) {
                next += pause;
                tokio::time::sleep_until(next.into()).await;
                let (client, path) = (client.clone(), format!("/v1/tenants/{bad}/events"));
                calls.spawn(async move {
                    let event = json!({ "type": "load.test", "data": {} });
                    drop(client.post(&path, &event).await);
                });
                while calls.len() > 64 {
                    calls.join_next().await;
                }
            }
            anyhow::Ok(())
        });
    }
    // The first second warms up.
    tokio::time::sleep(Duration::from_secs(1)).await;
    received.latencies.lock().unwrap().clear();
    let (published_0, received_0, time_0) = (
        published.load(Ordering::Relaxed),
        received.count.load(Ordering::Relaxed),
        Instant::now(),
    );
    tokio::time::sleep(Duration::from_secs(args.secs)).await;
    let secs = time_0.elapsed().as_secs_f64();
    let accepted = published.load(Ordering::Relaxed) - published_0;
    let delivered = received.count.load(Ordering::Relaxed) - received_0;
    stop.store(true, Ordering::Relaxed);
    while let Some(result) = tasks.join_next().await {
        result??;
    }
    let mut latencies = std::mem::take(&mut *received.latencies.lock().unwrap());
    latencies.sort_unstable();
    let at = |q: f64| {
        latencies
            .get((latencies.len() as f64 * q) as usize)
            .copied()
            .unwrap_or(0) as f64
            / 1_000.0
    };
    println!(
        "accepted {:.0}/s, delivered {:.0}/s, refused {}; publish to receipt: p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms; at most {} connections to one receiver",
        accepted as f64 / secs,
        delivered as f64 / secs,
        refused.load(Ordering::Relaxed),
        at(0.5),
        at(0.99),
        at(0.9999),
        received.connections.load(Ordering::Relaxed)
    );
    Ok(())
}

async fn tenant(
    client: &Client,
    application: &str,
    receiver: SocketAddr,
) -> anyhow::Result<String> {
    let tenant = client
        .post(
            &format!("/v1/applications/{application}/tenants"),
            &json!({ "name": "load" }),
        )
        .await?;
    let id = tenant["id"].as_str().unwrap_or_default().to_owned();
    endpoint(client, &id, receiver).await?;
    Ok(id)
}

async fn endpoint(client: &Client, tenant: &str, receiver: SocketAddr) -> anyhow::Result<()> {
    client
        .post(
            &format!("/v1/tenants/{tenant}/endpoints"),
            &json!({ "url": format!("http://{receiver}/") }),
        )
        .await?;
    Ok(())
}

/// Answers, after a while.
async fn slow(after: Duration) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let service = service_fn(
                    move |request: http::Request<hyper::body::Incoming>| async move {
                        request.into_body().collect().await?;
                        tokio::time::sleep(after).await;
                        Ok::<_, hyper::Error>(http::Response::new(Full::new(Bytes::new())))
                    },
                );
                drop(
                    server::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await,
                );
            });
        }
    });
    Ok(address)
}

async fn receiver(received: Arc<Received>, started: Instant) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    let open = Arc::new(AtomicU64::new(0));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            drop(stream.set_nodelay(true));
            let (received, open) = (received.clone(), open.clone());
            let now = open.fetch_add(1, Ordering::Relaxed) + 1;
            received.connections.fetch_max(now, Ordering::Relaxed);
            tokio::spawn(async move {
                let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                    let received = received.clone();
                    async move {
                        let body = request.into_body().collect().await?.to_bytes();
                        received.count.fetch_add(1, Ordering::Relaxed);
                        let text = String::from_utf8_lossy(&body);
                        let sent: Option<u128> = text
                            .split("\"at\":")
                            .nth(1)
                            .and_then(|rest| rest.split(',').next())
                            .and_then(|at| at.parse().ok());
                        if let Some(sent) = sent {
                            let took = started.elapsed().as_micros().saturating_sub(sent);
                            received
                                .latencies
                                .lock()
                                .unwrap()
                                .push(u32::try_from(took).unwrap_or(u32::MAX));
                        }
                        Ok::<_, hyper::Error>(http::Response::new(Full::new(Bytes::new())))
                    }
                });
                drop(
                    server::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await,
                );
                open.fetch_sub(1, Ordering::Relaxed);
            });
        }
    });
    Ok(address)
}

/// Accepts connections and never answers.
async fn hanging() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            held.push(stream);
        }
    });
    Ok(address)
}
