//! What the form of a configuration allows, and what cannot be all the same.

use http::HeaderValue;
use url::Url;

use super::{Config, TlsConfig};

/// What each value by itself allows, and together they cannot be.
pub(super) fn impossible(config: &Config) -> Vec<String> {
    let mut wrong = Vec::new();
    for (name, value) in [
        ("limits.body_bytes", config.limits.body_bytes),
        ("limits.bodies_bytes", config.limits.bodies_bytes),
        ("limits.answers_bytes", config.limits.answers_bytes),
        ("limits.in_flight", config.limits.in_flight),
        (
            "limits.endpoint_in_flight",
            config.limits.endpoint_in_flight,
        ),
        ("limits.memory_bytes", config.limits.memory_bytes),
        ("server.connections_max", config.server.connections_max),
    ] {
        if value == 0 {
            wrong.push(format!("{name} must be at least 1"));
        }
    }
    let has_url = config.store.url.is_some();
    for (name, is_set) in [
        ("store.max_bytes", config.store.max_bytes.is_some()),
        ("retention.max_bytes", config.retention.max_bytes.is_some()),
    ] {
        if has_url && is_set {
            wrong.push(format!(
                "{name} is for a database in store.directory; how much the one of store.url may have its own settings say"
            ));
        }
    }
    for (name, is_set) in [
        ("store.password_file", config.store.password_file.is_some()),
        ("store.ca_file", config.store.ca_file.is_some()),
    ] {
        if !has_url && is_set {
            wrong.push(format!(
                "{name} is for the database of store.url, and there is none"
            ));
        }
    }
    let prefixes = config.egress.nat64.iter();
    for prefix in prefixes.filter(|net| net.prefix_len() != 96) {
        wrong.push(format!(
            "egress.nat64 has {prefix}; a prefix has 96 bits, such as 2001:db8:64::/96"
        ));
    }
    if !(0.0..=1.0).contains(&config.telemetry.sample) {
        wrong.push("telemetry.sample must be from 0 to 1".to_owned());
    }
    if config.telemetry.endpoint.is_some() && !cfg!(feature = "otel") {
        wrong.push("telemetry.endpoint is set, and this build has no OpenTelemetry: build it with the feature otel".to_owned());
    }
    for given in &config.server.cors_origins {
        if origin(given).is_none() {
            wrong.push(format!(
                "server.cors_origins has {given:?}; an origin is a scheme, a host and perhaps a port, such as https://app.example.com"
            ));
        }
    }
    if let Some(Err(error)) = config.server.tls.as_ref().map(TlsConfig::read) {
        wrong.push(format!("{error:#}"));
    }
    if let Err(error) = crate::log::filter(&config.log) {
        wrong.push(format!("{error:#}"));
    }
    wrong
}

/// An origin as a browser writes it in a request.
pub(crate) fn origin(given: &str) -> Option<HeaderValue> {
    let url = Url::parse(given).ok()?;
    let written = url.origin().ascii_serialization();
    let is_one = matches!(url.scheme(), "http" | "https") && given.trim_end_matches('/') == written;
    is_one.then(|| HeaderValue::from_str(&written).ok())?
}
