//! What an operator sees of the doors, and the door that shows all metrics.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{MatchedPath, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use postrider_service::Caller;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::Api;
use crate::problem::Answer;

/// Everything that is measured, written down for whoever collects it.
#[async_trait::async_trait]
pub trait Exposition: Debug + Send + Sync + 'static {
    async fn text(&self, format: MetricsFormat) -> String;
}

/// How metrics are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricsFormat {
    /// Version 0.0.4, which everybody reads.
    Prometheus,
    /// Version 1.0.0, for those who ask for it.
    OpenMetrics,
}

impl MetricsFormat {
    fn asked(headers: &HeaderMap) -> Self {
        let accepts = headers.get_all(header::ACCEPT).iter();
        let mut texts = accepts.filter_map(|value| value.to_str().ok());
        if texts.any(|text| text.contains("application/openmetrics-text")) {
            Self::OpenMetrics
        } else {
            Self::Prometheus
        }
    }

    fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        })
    }
}

/// `/metrics` alone, for a socket that only whoever collects them reaches: it asks for no key.
pub fn metrics_router(exposition: Arc<dyn Exposition>) -> Router {
    let shown = |Extension(exposition): Extension<Arc<dyn Exposition>>, headers: HeaderMap| async move {
        written(&*exposition, &headers).await
    };
    Router::new()
        .route("/metrics", get(shown))
        .layer(Extension(exposition))
}

/// What the server measures of itself, as Prometheus reads it (root keys). `metrics.listen` serves it without a key.
#[utoipa::path(
    get, path = "/metrics", tag = "Server", operation_id = "getMetrics",
    responses(
        (status = OK, description = "In the format 0.0.4 of Prometheus, or OpenMetrics 1.0.0 where `Accept` names it.", content(
            (String = "text/plain"),
            (String = "application/openmetrics-text"),
        )),
        crate::openapi::Refusals,
    ),
)]
pub(crate) async fn metrics(
    State(api): State<Api>,
    caller: Caller,
    Extension(exposition): Extension<Arc<dyn Exposition>>,
    headers: HeaderMap,
) -> Answer {
    api.service.must_see_metrics(&caller)?;
    Ok(written(&*exposition, &headers).await)
}

async fn written(exposition: &dyn Exposition, headers: &HeaderMap) -> Response {
    let format = MetricsFormat::asked(headers);
    let text = exposition.text(format).await;
    let headers = [(header::CONTENT_TYPE, format.content_type())];
    (StatusCode::OK, headers, Body::from(text)).into_response()
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    method: &'static str,
    route: String,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Asked {
    action: &'static str,
}

/// Half a millisecond to eight seconds.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.000_5, 2.0, 15))
}

/// Requests, whatever they ask for.
#[derive(Debug)]
pub struct Metrics {
    requests: Family<Answered, Counter>,
    times: Family<Asked, Histogram>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            requests: Family::default(),
            times: Family::new_with_constructor(seconds),
        }
    }
}

impl Metrics {
    /// Adds all of them to what is shown.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "requests",
            "Requests that were answered, by method, route (none where there is no such route) and status",
            self.requests.clone(),
        );
        registry.register_with_unit(
            "request",
            "From a request's headers to its answer, by what it asks for: publish, change, read",
            Unit::Seconds,
            self.times.clone(),
        );
    }

    pub(crate) fn answered(
        &self,
        method: &Method,
        route: Option<&MatchedPath>,
        status: StatusCode,
        took: Duration,
    ) {
        // Paths that lead nowhere are one series, or whoever asks for many would make many.
        let route = route.map_or("none", MatchedPath::as_str);
        let answered = Answered {
            method: known(method),
            route: route.to_owned(),
            status: status.as_u16(),
        };
        self.requests.get_or_create(&answered).inc();
        let action = action(method, route);
        let times = self.times.get_or_create(&Asked { action });
        times.observe(took.as_secs_f64());
    }
}

/// A client may send any word as its method; each would be a series of its own.
fn known(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        _ => "other",
    }
}

fn action(method: &Method, route: &str) -> &'static str {
    if method.is_safe() {
        "read"
    } else if crate::edge::is_publish(route) {
        "publish"
    } else {
        "change"
    }
}
