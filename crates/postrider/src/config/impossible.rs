//! What the form of a configuration allows, and what cannot be all the same.

use postrider_service::origin;

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
    // Asked this way round it refuses what is no number too.
    if !(0.0..=1.0).contains(&config.telemetry.sample) {
        wrong.push("telemetry.sample must be from 0 to 1".to_owned());
    }
    if config.telemetry.endpoint.is_some() && !cfg!(feature = "otel") {
        wrong.push("telemetry.endpoint is set, and this build has no OpenTelemetry: build it with the feature otel".to_owned());
    }
    of_callers(config, &mut wrong);
    of_addresses(config, &mut wrong);
    if let Err(error) = crate::log::filter(&config.log) {
        wrong.push(format!("{error:#}"));
    }
    wrong
}

/// What is said of those who call the API.
fn of_callers(config: &Config, wrong: &mut Vec<String>) {
    if config.server.keep_alive_secs == 0 {
        wrong.push("server.keep_alive_secs must be at least 1: it is how long a connection waits for its next request".to_owned());
    }
    let origins = config.server.cors_origins.iter();
    for given in origins.filter(|given| origin(given).is_none()) {
        wrong.push(format!(
            "server.cors_origins has {given:?}; name each origin by itself, with scheme, host and perhaps a port: https://app.example.com"
        ));
    }
    for (name, limit) in [
        (
            "limits.application_requests",
            config.limits.application_requests,
        ),
        ("limits.tenant_requests", config.limits.tenant_requests),
    ] {
        if limit == Some(0) {
            wrong.push(format!(
                "{name} must be at least 1; leave it out for any number"
            ));
        }
    }
}

/// Where it listens, and what others reach it by.
fn of_addresses(config: &Config, wrong: &mut Vec<String>) {
    // Links are made of it, and pages are at the root of it.
    let is_root = |text: &str| {
        let url = url::Url::parse(text).ok()?;
        let web = matches!(url.scheme(), "http" | "https") && url.host().is_some();
        let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
        Some(web && bare && url.username().is_empty())
    };
    if let Some(url) = &config.server.public_url
        && is_root(url) != Some(true)
    {
        wrong.push(format!(
            "server.public_url is {url:?}; it is scheme, host and perhaps a port, without a path: https://hooks.example.com"
        ));
    }
    // A port of 0 is another one for each.
    if config
        .metrics
        .listen
        .is_some_and(|metrics| metrics == config.server.listen && metrics.port() != 0)
    {
        wrong.push(format!(
            "metrics.listen is server.listen, {}: give it another port",
            config.server.listen
        ));
    }
    let signals = ["/v1/traces", "/v1/metrics", "/v1/logs"];
    let endpoint = config.telemetry.endpoint.as_deref().unwrap_or_default();
    let endpoint = endpoint.trim_end_matches('/');
    if let Some(signal) = signals.iter().find(|signal| endpoint.ends_with(**signal)) {
        wrong.push(format!(
            "telemetry.endpoint ends with {signal}, which is added for each signal: leave it out, and name those that are to be sent in telemetry.signals"
        ));
    }
}

/// What the files that a configuration names have wrong, and all else that `serve` would find before it opens the store.
/// Commands that do not serve do without them.
pub(super) fn unusable(config: &Config) -> Vec<String> {
    let mut wrong = Vec::new();
    if let Some(Err(error)) = config.server.tls.as_ref().map(TlsConfig::read) {
        wrong.push(format!("{error:#}"));
    }
    #[cfg(feature = "otel")]
    if let Err(error) = crate::telemetry::check(&config.telemetry) {
        wrong.push(format!("{error:#}"));
    }
    if let Some(Err(error)) = config.store.postgres().map(|options| options.check()) {
        wrong.push(format!(
            "store.url cannot be used: {:#}",
            anyhow::Error::new(error)
        ));
    }
    wrong.extend(crate::serve::unusable(config));
    wrong
}
