//! What everything that goes to a collector is sent with, over OTLP in HTTP.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::Full;
use opentelemetry::KeyValue;
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_sdk::Resource;
use postrider_core::Secret;
use url::Url;

use crate::client::Client;
use crate::config::{TelemetryConfig, TelemetrySignal};

/// Time for one request to the collector.
pub(super) const EXPORT_TIME_MAX: Duration = Duration::from_secs(10);

/// Spans, and lines of the log, that wait to be sent; what comes on top is lost.
pub(super) const QUEUE_MAX: usize = 8_192;
/// Of them in one request.
pub(super) const GROUP_MAX: usize = 512;
/// How long they gather.
pub(super) const DELAY: Duration = Duration::from_secs(2);
/// Time that the last ones of a signal get at a shutdown.
pub(super) const LAST_TIME_MAX: Duration = Duration::from_secs(1);

/// Who sends it.
pub(super) fn resource(config: &TelemetryConfig) -> Resource {
    Resource::builder_empty()
        .with_attributes([
            KeyValue::new("service.name", config.service_name.clone()),
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        ])
        .build()
}

/// Lines of `name: value`.
fn headers(config: &TelemetryConfig) -> anyhow::Result<http::HeaderMap> {
    let mut headers = http::HeaderMap::new();
    let Some(path) = &config.headers_file else {
        return Ok(headers);
    };
    let file = path.display();
    let lines = std::fs::read_to_string(path);
    let lines = lines.with_context(|| format!("failed to read telemetry.headers_file {file}"))?;
    for (number, line) in lines
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
    {
        // Its value is likely a secret: a mistake is told by its line alone.
        let read = line.split_once(':').and_then(|(name, value)| {
            let name = name.trim().parse::<http::HeaderName>().ok()?;
            let mut value = value.trim().parse::<http::HeaderValue>().ok()?;
            value.set_sensitive(true);
            Some((name, value))
        });
        let (name, value) = read.with_context(|| {
            format!("telemetry.headers_file {file}, line {}: not a header such as `authorization: Bearer …`", number + 1)
        })?;
        headers.append(name, value);
    }
    Ok(headers)
}

/// What is beneath an error: what is above it speaks of the command line.
fn root_of(error: &(dyn std::error::Error + 'static)) -> String {
    let mut root = error;
    while let Some(source) = root.source() {
        root = source;
    }
    root.to_string()
}

/// Sends one signal. An exporter has a thread of its own; the connection is on the runtime's.
#[derive(Debug)]
pub(super) struct Sender {
    signal: TelemetrySignal,
    /// Where it goes.
    pub(super) url: String,
    client: Client,
    /// None until it is used inside one.
    runtime: Option<tokio::runtime::Handle>,
    headers: http::HeaderMap,
    /// The collector took nothing the last time.
    failing: AtomicBool,
}

impl Sender {
    /// None where this signal is not to be sent. It sends inside the runtime that it is made in.
    ///
    /// # Errors
    /// When the endpoint is no URL, or one of the files cannot be read.
    pub(super) fn new(
        config: &TelemetryConfig,
        signal: TelemetrySignal,
    ) -> anyhow::Result<Option<Self>> {
        let Some(endpoint) = &config.endpoint else {
            return Ok(None);
        };
        let url = format!("{}/v1/{}", endpoint.trim_end_matches('/'), signal.path());
        let client = Client::new(&url, Secret::new("")).ok().with_context(|| {
            format!("telemetry.endpoint {endpoint:?} is not a URL such as http://127.0.0.1:4318")
        })?;
        let client = match &config.ca_file {
            Some(authorities) => client.trusting(authorities).context("telemetry.ca_file")?,
            None => client,
        };
        let headers = headers(config)?;
        Ok(config.signals.contains(&signal).then_some(Self {
            signal,
            url,
            client,
            runtime: tokio::runtime::Handle::try_current().ok(),
            headers,
            failing: AtomicBool::new(false),
        }))
    }

    /// Sends one message of this signal's. What is not taken is told, once.
    pub(super) async fn send_message(&self, message: Vec<u8>) {
        let request = http::Request::post(&self.url)
            .header(http::header::CONTENT_TYPE, "application/x-protobuf")
            .body(Bytes::from(message));
        let sent = match request {
            Ok(request) => self.send(request).await,
            Err(error) => Err(error.into()),
        };
        self.tell(&sent);
    }

    async fn send(
        &self,
        request: http::Request<Bytes>,
    ) -> Result<http::Response<Bytes>, HttpError> {
        let target: Url = request.uri().to_string().parse()?;
        let (parts, body) = request.into_parts();
        let mut request = http::Request::builder()
            .method(parts.method)
            .uri(&target[url::Position::BeforePath..])
            .header(
                http::header::HOST,
                &target[url::Position::BeforeHost..url::Position::AfterPort],
            );
        // Not those that the library takes from the environment: what a collector gets is in our configuration.
        if let Some(kind) = parts.headers.get(http::header::CONTENT_TYPE) {
            request = request.header(http::header::CONTENT_TYPE, kind);
        }
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let request = request.body(Full::new(body))?;
        let client = self.client.clone();
        let runtime = self.runtime.as_ref().ok_or("no runtime to send in")?;
        let sending = runtime.spawn(async move {
            tokio::time::timeout(EXPORT_TIME_MAX, client.send(&target, request)).await
        });
        let (status, bytes) = sending.await???;
        Ok(http::Response::builder().status(status).body(bytes)?)
    }

    /// Tells when the collector begins to take nothing, and when it takes something again.
    fn tell(&self, sent: &Result<http::Response<Bytes>, HttpError>) {
        let why = match sent {
            Ok(answer) if answer.status().is_success() => None,
            Ok(answer) => Some(format!("it answers {}", answer.status())),
            Err(error) => Some(root_of(error.as_ref())),
        };
        match (why, self.failing.load(Ordering::Relaxed)) {
            (Some(why), false) => {
                self.failing.store(true, Ordering::Relaxed);
                tracing::warn!(
                    "the collector of telemetry.endpoint takes no {}, and they are lost: {why}",
                    self.signal.noun()
                );
            }
            (None, true) => {
                self.failing.store(false, Ordering::Relaxed);
                tracing::info!(
                    "the collector of telemetry.endpoint takes {} again",
                    self.signal.noun()
                );
            }
            (Some(_), true) | (None, false) => {}
        }
    }
}

#[async_trait]
impl HttpClient for Sender {
    async fn send_bytes(
        &self,
        request: http::Request<Bytes>,
    ) -> Result<http::Response<Bytes>, HttpError> {
        let sent = self.send(request).await;
        self.tell(&sent);
        sent
    }
}
