//! Who publishes: connections that each send one request after the other, at a rate or as fast as answers come.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Bytes of an event beside its padding.
const FRAME_BYTES: usize = 40;

/// What all connections share.
pub(crate) struct Publishing {
    pub(crate) server: SocketAddr,
    pub(crate) key: String,
    pub(crate) tenants: Vec<String>,
    pub(crate) bytes: usize,
    /// Events in one request.
    pub(crate) batch: u64,
    /// Between two requests of one connection; none is as fast as answers come.
    pub(crate) pause: Option<Duration>,
    pub(crate) connections: usize,
    /// Times are told from here.
    pub(crate) started: Instant,
    pub(crate) stop: AtomicBool,
    /// Events.
    pub(crate) accepted: AtomicU64,
    /// Requests.
    pub(crate) refused: AtomicU64,
    /// Microseconds from when a request was to be made until it was answered.
    pub(crate) latencies: Mutex<Vec<u32>>,
}

impl Publishing {
    /// Publishes on one connection until told to stop.
    pub(crate) async fn connection(self: Arc<Self>, index: usize) -> anyhow::Result<()> {
        let stream = TcpStream::connect(self.server).await?;
        stream.set_nodelay(true)?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let padding = "x".repeat(self.bytes.saturating_sub(FRAME_BYTES));
        // The connections take turns, so that a rate is not made of bursts.
        let share = index as f64 / self.connections as f64;
        let mut next = Instant::now() + self.pause.unwrap_or_default().mul_f64(share);
        let mut turn = index;
        while !self.stop.load(Ordering::Relaxed) {
            // When it was to be published, not when the request before it let it: what waited behind a slow answer counts
            // with its waiting.
            let due = match self.pause {
                Some(pause) => {
                    next += pause;
                    tokio::time::sleep_until(next.into()).await;
                    next
                }
                None => Instant::now(),
            };
            let at = due.saturating_duration_since(self.started).as_micros();
            let tenant = &self.tenants[turn % self.tenants.len()];
            turn += self.connections;
            let event =
                format!(r#"{{"type":"load.test","data":{{"at":{at},"padding":"{padding}"}}}}"#);
            let (path, body) = if self.batch == 1 {
                ("events", event)
            } else {
                let events = vec![event; usize::try_from(self.batch)?];
                (
                    "events/batch",
                    format!(r#"{{"events":[{}]}}"#, events.join(",")),
                )
            };
            let request = http::Request::post(format!("/v1/tenants/{tenant}/{path}"))
                .header("host", "localhost")
                .header("authorization", format!("Bearer {}", self.key))
                .header("content-type", "application/json")
                .body(Full::new(Bytes::from(body)))?;
            let response = sender.send_request(request).await?;
            let took = u32::try_from(due.elapsed().as_micros()).unwrap_or(u32::MAX);
            self.latencies.lock().unwrap().push(took);
            if response.status() == 202 {
                self.accepted.fetch_add(self.batch, Ordering::Relaxed);
            } else {
                self.refused.fetch_add(1, Ordering::Relaxed);
            }
            response.into_body().collect().await?;
        }
        Ok(())
    }
}
