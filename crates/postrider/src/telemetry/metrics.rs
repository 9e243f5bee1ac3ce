//! What is measured to a collector: the same as `/metrics` shows, read from its text, so that there is one registry and
//! one set of names.

use std::sync::Arc;
use std::time::Duration;

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint,
    ResourceMetrics, ScopeMetrics, Sum, metric, number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use postrider_api::{Exposition, MetricsFormat};
use postrider_core::Timestamp;
use postrider_engine::Clock;
use prost::Message as _;

use super::sender::{LAST_TIME_MAX, Sender};
use crate::config::{TelemetryConfig, TelemetrySignal};

/// Sends what is measured now and then.
pub(crate) struct Metrics {
    sender: Sender,
    resource: Resource,
    every: Duration,
    clock: Arc<dyn Clock>,
    /// Counters count from then on.
    began: Timestamp,
}

impl Metrics {
    /// None where nothing that is measured is to be sent.
    ///
    /// # Errors
    /// As [`Sender::new`].
    pub(crate) fn new(
        config: &TelemetryConfig,
        clock: Arc<dyn Clock>,
    ) -> anyhow::Result<Option<Self>> {
        let sender = Sender::new(config, TelemetrySignal::Metrics)?;
        let resource = Resource {
            attributes: vec![
                attribute("service.name", &config.service_name),
                attribute("service.version", env!("CARGO_PKG_VERSION")),
            ],
            ..Resource::default()
        };
        Ok(sender.map(|sender| Self {
            sender,
            resource,
            every: Duration::from_secs(config.metrics_secs.max(1)),
            began: clock.now(),
            clock,
        }))
    }

    /// Sends now and then, for as long as it is polled. A collector that hangs delays only the next time.
    pub(crate) async fn run(&self, exposition: &dyn Exposition) {
        loop {
            tokio::time::sleep(self.every).await;
            self.send(exposition).await;
        }
    }

    /// Sends what is measured at the end.
    pub(crate) async fn end(&self, exposition: &dyn Exposition) {
        let last = tokio::time::timeout(LAST_TIME_MAX, self.send(exposition)).await;
        if last.is_err() {
            tracing::warn!("the last metrics were not sent: the collector took too long");
        }
    }

    async fn send(&self, exposition: &dyn Exposition) {
        let text = exposition.text(MetricsFormat::OpenMetrics).await;
        let message = self.message(&text, self.clock.now());
        self.sender.send_message(message.encode_to_vec()).await;
    }

    fn message(&self, text: &str, now: Timestamp) -> ExportMetricsServiceRequest {
        let (began, now) = (nanos(self.began), nanos(now));
        let families = families(text).into_iter();
        let metrics = families.map(|family| family.metric(began, now)).collect();
        ExportMetricsServiceRequest {
            resource_metrics: vec![ResourceMetrics {
                resource: Some(self.resource.clone()),
                scope_metrics: vec![ScopeMetrics {
                    scope: Some(InstrumentationScope {
                        name: "postrider".to_owned(),
                        version: env!("CARGO_PKG_VERSION").to_owned(),
                        ..InstrumentationScope::default()
                    }),
                    metrics,
                    schema_url: String::new(),
                }],
                schema_url: String::new(),
            }],
        }
    }
}

fn nanos(at: Timestamp) -> u64 {
    u64::try_from(at.as_micros()).unwrap_or_default() * 1_000
}

fn attribute(key: &str, value: &str) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue {
            value: Some(any_value::Value::StringValue(value.to_owned())),
        }),
        ..KeyValue::default()
    }
}

/// A metric as OpenMetrics writes it.
#[derive(Debug, Default, PartialEq)]
struct Family {
    name: String,
    help: String,
    unit: String,
    kind: String,
    samples: Vec<Sample>,
}

#[derive(Debug, PartialEq)]
struct Sample {
    /// Behind the family's name: `_total`, `_bucket`, `_sum`, `_count` or nothing.
    suffix: String,
    labels: Vec<(String, String)>,
    value: f64,
}

/// Reads what the registry writes: version 1.0.0, without exemplars and timestamps.
fn families(text: &str) -> Vec<Family> {
    let mut families: Vec<Family> = Vec::new();
    for line in text.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            let (Some(what), Some(name)) = (words.next(), words.next()) else {
                continue;
            };
            let rest = words.next().unwrap_or_default();
            if families.last().is_none_or(|last| last.name != name) {
                families.push(Family {
                    name: name.to_owned(),
                    ..Family::default()
                });
            }
            if let Some(family) = families.last_mut() {
                match what {
                    "HELP" => family.help = rest.to_owned(),
                    "TYPE" => family.kind = rest.to_owned(),
                    "UNIT" => family.unit = rest.to_owned(),
                    _ => {}
                }
            }
        } else if let Some(family) = families.last_mut() {
            family.samples.extend(sample(&family.name, line));
        }
    }
    families
}

fn sample(family: &str, line: &str) -> Option<Sample> {
    let rest = line.strip_prefix(family)?;
    let at = rest.find(['{', ' '])?;
    let (suffix, mut rest) = rest.split_at(at);
    let mut labels = Vec::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        while !rest.starts_with('}') {
            let (name, value) = rest.split_once("=\"")?;
            let (value, behind) = quoted(value)?;
            labels.push((name.trim_start_matches(',').to_owned(), value));
            rest = behind;
        }
        rest = &rest[1..];
    }
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some(Sample {
        suffix: suffix.to_owned(),
        labels,
        value,
    })
}

/// A label's value up to its quote, and what is behind that.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match chars.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    None
}

impl Family {
    fn metric(self, began: u64, now: u64) -> Metric {
        let number = |sample: &Sample, began| NumberDataPoint {
            attributes: attributes(&sample.labels),
            start_time_unix_nano: began,
            time_unix_nano: now,
            value: Some(number_data_point::Value::AsDouble(sample.value)),
            ..NumberDataPoint::default()
        };
        let data = match self.kind.as_str() {
            "counter" => metric::Data::Sum(Sum {
                data_points: self.samples.iter().map(|s| number(s, began)).collect(),
                aggregation_temporality: AggregationTemporality::Cumulative.into(),
                is_monotonic: true,
            }),
            "histogram" => metric::Data::Histogram(Histogram {
                data_points: histograms(&self.samples, began, now),
                aggregation_temporality: AggregationTemporality::Cumulative.into(),
            }),
            // What is known of a build, too: it is 1.
            _ => metric::Data::Gauge(Gauge {
                data_points: self.samples.iter().map(|s| number(s, 0)).collect(),
            }),
        };
        Metric {
            name: self.name,
            description: self.help,
            unit: match self.unit.as_str() {
                "seconds" => "s".to_owned(),
                "bytes" => "By".to_owned(),
                other => other.to_owned(),
            },
            data: Some(data),
            ..Metric::default()
        }
    }
}

fn attributes(labels: &[(String, String)]) -> Vec<KeyValue> {
    let labels = labels.iter();
    labels.map(|(name, value)| attribute(name, value)).collect()
}

/// One for each set of labels: their samples stand together, buckets from the least on.
fn histograms(samples: &[Sample], began: u64, now: u64) -> Vec<HistogramDataPoint> {
    let mut points: Vec<(Vec<(String, String)>, HistogramDataPoint)> = Vec::new();
    for sample in samples {
        let mut labels = sample.labels.clone();
        let le = labels.iter().position(|(name, _)| name == "le");
        let le = le.map(|at| labels.remove(at).1);
        if points.last().is_none_or(|(of, _)| *of != labels) {
            let point = HistogramDataPoint {
                attributes: attributes(&labels),
                start_time_unix_nano: began,
                time_unix_nano: now,
                ..HistogramDataPoint::default()
            };
            points.push((labels.clone(), point));
        }
        let Some((_, point)) = points.last_mut() else {
            continue;
        };
        match (sample.suffix.as_str(), le.as_deref()) {
            ("_sum", _) => point.sum = Some(sample.value),
            ("_count", _) => point.count = whole(sample.value),
            ("_bucket", Some(le)) => {
                // OpenMetrics counts all up to a bound, OTLP those between two.
                let before: u64 = point.bucket_counts.iter().sum();
                let here = whole(sample.value).saturating_sub(before);
                point.bucket_counts.push(here);
                if le != "+Inf" {
                    point.explicit_bounds.extend(le.parse::<f64>().ok());
                }
            }
            _ => {}
        }
    }
    points.into_iter().map(|(_, point)| point).collect()
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a count, written as a number with a point"
)]
fn whole(value: f64) -> u64 {
    value.max(0.0) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"# HELP postrider_requests Requests, by \"route\".
# TYPE postrider_requests counter
postrider_requests_total{route="/v1/{id}",odd="a\"b\\c\nd, e=\"f}"} 17
postrider_requests_total{route="none",odd=""} 2
# HELP postrider_request_seconds Times.
# TYPE postrider_request_seconds histogram
# UNIT postrider_request_seconds seconds
postrider_request_seconds_sum{action="read"} 1.5
postrider_request_seconds_count{action="read"} 4
postrider_request_seconds_bucket{le="0.1",action="read"} 1
postrider_request_seconds_bucket{le="1.0",action="read"} 3
postrider_request_seconds_bucket{le="+Inf",action="read"} 4
# HELP postrider_ready Ready.
# TYPE postrider_ready gauge
postrider_ready 1
# EOF
"#;

    #[test]
    fn what_the_text_says_is_what_is_sent() {
        let found = families(TEXT);
        let mut metrics = found.into_iter().map(|family| family.metric(1, 2));
        let requests = metrics.next().unwrap();
        assert_eq!(requests.name, "postrider_requests");
        let Some(metric::Data::Sum(sum)) = requests.data else {
            panic!("{requests:?}");
        };
        assert!(sum.is_monotonic);
        let values: Vec<_> = sum.data_points.iter().map(|point| point.value).collect();
        assert_eq!(
            values,
            [17.0, 2.0].map(|v| Some(number_data_point::Value::AsDouble(v)))
        );
        assert_eq!(
            sum.data_points[0].attributes,
            [
                attribute("route", "/v1/{id}"),
                attribute("odd", "a\"b\\c\nd, e=\"f}")
            ]
        );
        let times = metrics.next().unwrap();
        assert_eq!(times.unit, "s");
        let Some(metric::Data::Histogram(times)) = times.data else {
            panic!("{times:?}");
        };
        let [point] = &times.data_points[..] else {
            panic!("{times:?}");
        };
        assert_eq!((point.count, point.sum), (4, Some(1.5)));
        assert_eq!(point.explicit_bounds, [0.1, 1.0]);
        assert_eq!(point.bucket_counts, [1, 2, 1]);
        let ready = metrics.next().unwrap();
        assert!(matches!(ready.data, Some(metric::Data::Gauge(_))));
        assert_eq!(metrics.next(), None);
    }
}
