//! Traces to a collector of OpenTelemetry; beside them what is measured ([`metrics`]) and the log ([`logs`]).
//!
//! Spans are made when they have ended, from what the records say, and handed to a thread that sends them in groups. One
//! that finds no room there is lost: nothing waits for a collector.

pub(crate) mod logs;
pub(crate) mod metrics;
mod sender;

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use opentelemetry::trace::{
    Event, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, SpanData, SpanEvents, SpanLinks, SpanProcessor as _,
};
use postrider_core::Timestamp;
use postrider_core::attempt::{Outcome, Timings};
use postrider_core::judge::Next;
use postrider_core::trace::TraceParent;
use postrider_engine::{AttemptSpan, PublishSpan, Tracer};
use url::Url;

use crate::config::{TelemetryConfig, TelemetrySignal};
use sender::{DELAY, EXPORT_TIME_MAX, GROUP_MAX, LAST_TIME_MAX, QUEUE_MAX, Sender, resource};

/// # Errors
/// With what cannot be used of a configuration.
pub(crate) fn check(config: &TelemetryConfig) -> anyhow::Result<()> {
    Sender::new(config, TelemetrySignal::Traces).map(drop)
}

/// Sends spans to a collector.
#[derive(Debug)]
pub(crate) struct Telemetry {
    processor: BatchSpanProcessor,
    scope: InstrumentationScope,
    /// Of 2^64, how many traces that begin here are recorded.
    sampled_below: u64,
    samples_all: bool,
}

impl Telemetry {
    /// What is configured; none where nothing is to be sent. Called inside the runtime that is to send.
    ///
    /// # Errors
    /// When the endpoint is no URL, or the file with headers cannot be read.
    pub(crate) fn new(config: &TelemetryConfig) -> anyhow::Result<Option<Self>> {
        let Some(sender) = Sender::new(config, TelemetrySignal::Traces)? else {
            return Ok(None);
        };
        let exporter = SpanExporter::builder()
            .with_http()
            .with_endpoint(sender.url.clone())
            .with_timeout(EXPORT_TIME_MAX)
            .with_http_client(sender)
            .build()
            .context("telemetry.endpoint")?;
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(QUEUE_MAX)
            .with_max_export_batch_size(GROUP_MAX)
            .with_scheduled_delay(DELAY)
            .build();
        let mut processor = BatchSpanProcessor::builder(exporter)
            .with_batch_config(batches)
            .build();
        processor.set_resource(&resource(config));
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a share of all numbers, from 0 to 1, to the nearest"
        )]
        let sampled_below = (config.sample.clamp(0.0, 1.0) * u64::MAX as f64) as u64;
        Ok(Some(Self {
            processor,
            scope: InstrumentationScope::builder("postrider")
                .with_version(env!("CARGO_PKG_VERSION"))
                .build(),
            sampled_below,
            samples_all: config.sample >= 1.0,
        }))
    }

    /// Sends what waits. Waits itself: not to be called where others wait for it.
    pub(crate) fn end(&self) {
        if let Err(error) = self.processor.shutdown_with_timeout(LAST_TIME_MAX) {
            tracing::warn!("the last spans were not sent: {error}");
        }
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "what a span is made of, named where it is called"
    )]
    fn span(
        &self,
        context: TraceParent,
        parent: Option<u64>,
        (kind, name): (SpanKind, &'static str),
        (began, ended): (Timestamp, Timestamp),
        attributes: Vec<KeyValue>,
        events: SpanEvents,
        status: Status,
    ) {
        self.processor.on_end(SpanData {
            span_context: SpanContext::new(
                TraceId::from_bytes(context.trace().to_be_bytes()),
                SpanId::from_bytes(context.span().to_be_bytes()),
                TraceFlags::SAMPLED,
                false,
                TraceState::default(),
            ),
            parent_span_id: parent.map_or(SpanId::INVALID, |parent| {
                SpanId::from_bytes(parent.to_be_bytes())
            }),
            parent_span_is_remote: kind == SpanKind::Producer && parent.is_some(),
            span_kind: kind,
            name: Cow::Borrowed(name),
            start_time: system_time(began),
            end_time: system_time(ended),
            attributes,
            dropped_attributes_count: 0,
            events,
            links: SpanLinks::default(),
            status,
            instrumentation_scope: self.scope.clone(),
        });
    }
}

impl Tracer for Telemetry {
    fn begin(&self, parent: Option<TraceParent>) -> TraceParent {
        let span = fastrand::u64(1..);
        if let Some(parent) = parent {
            return parent.child(span);
        }
        let is_sampled = self.samples_all || fastrand::u64(..) < self.sampled_below;
        TraceParent::root(fastrand::u128(1..), span, is_sampled)
    }

    fn published(&self, span: &PublishSpan<'_>) {
        let mut attributes = vec![
            text("postrider.application.id", &span.application),
            text("postrider.tenant.id", &span.tenant),
        ];
        attributes.extend(span.event_type.map(|of| text("postrider.event.type", &of)));
        let status = match span.result {
            Ok((event, deliveries)) => {
                attributes.push(text("postrider.event.id", &event));
                attributes.push(KeyValue::new("postrider.deliveries", i64::from(deliveries)));
                Status::Unset
            }
            Err(code) => {
                attributes.push(KeyValue::new("error.type", code));
                Status::error(code)
            }
        };
        self.span(
            span.context,
            span.parent.map(|parent| parent.span()),
            (SpanKind::Producer, "publish"),
            (span.began, span.ended),
            attributes,
            SpanEvents::default(),
            status,
        );
    }

    fn attempted(&self, span: &AttemptSpan<'_>) {
        let mut attributes = vec![
            KeyValue::new("http.request.method", "POST"),
            text("postrider.application.id", &span.application),
            text("postrider.tenant.id", &span.tenant),
            text("postrider.endpoint.id", &span.endpoint),
            text("postrider.event.id", &span.event),
            text("postrider.event.type", &span.event_type),
            text("postrider.delivery.id", &span.delivery),
            KeyValue::new("postrider.attempt.number", i64::from(span.number)),
            KeyValue::new("postrider.next", next_word(span.next)),
        ];
        // No more of the URL: its path and query may be what opens the receiver.
        if let Some((host, port)) = place(span.url) {
            attributes.push(KeyValue::new("server.address", host));
            attributes.push(KeyValue::new("server.port", i64::from(port)));
        }
        let status = match span.outcome {
            Outcome::Answered { status, .. } => {
                let code = i64::from(*status);
                attributes.push(KeyValue::new("http.response.status_code", code));
                if span.next == Next::Delivered {
                    Status::Unset
                } else {
                    attributes.push(KeyValue::new("error.type", code.to_string()));
                    Status::error(format!("answered {code}"))
                }
            }
            Outcome::Unreachable { reason, detail } => {
                attributes.push(KeyValue::new("error.type", reason.as_str()));
                Status::error(detail.clone())
            }
        };
        self.span(
            span.publish.child(span.span),
            Some(span.publish.span()),
            (SpanKind::Client, "deliver"),
            (span.began, span.ended),
            attributes,
            steps(span.began, &span.timings),
            status,
        );
    }
}

/// When the name was resolved, the connection there, TLS agreed on, and the first byte read.
fn steps(began: Timestamp, timings: &Timings) -> SpanEvents {
    let mut events = SpanEvents::default();
    let mut at = 0;
    for (name, took) in [
        ("dns", timings.dns_micros),
        ("connect", timings.connect_micros),
        ("tls", timings.tls_micros),
    ] {
        if let Some(took) = took {
            at += u64::from(took);
            events.events.push(step(name, began, at));
        }
    }
    if let Some(first_byte) = timings.first_byte_micros {
        let event = step("first byte", began, first_byte.into());
        events.events.push(event);
    }
    events
}

fn step(name: &'static str, began: Timestamp, micros: u64) -> Event {
    let at = system_time(began) + Duration::from_micros(micros);
    Event::new(name, at, Vec::new(), 0)
}

fn next_word(next: Next) -> &'static str {
    match next {
        Next::Delivered => "delivered",
        Next::Retry { .. } => "retry",
        Next::Failed(_) => "failed",
    }
}

fn text(name: &'static str, value: &impl ToString) -> KeyValue {
    KeyValue::new(name, value.to_string())
}

fn place(url: &str) -> Option<(String, u16)> {
    let url = Url::parse(url).ok()?;
    Some((url.host_str()?.to_owned(), url.port_or_known_default()?))
}

fn system_time(at: Timestamp) -> SystemTime {
    let micros = u64::try_from(at.as_micros()).unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::from_micros(micros)
}
