//! From TOML to a compiled profile, with every mistake told by line.

mod api;
mod catalogue;
mod signatures;

use std::time::Duration;

use toml::de::DeTable;

use crate::endpoint_url::Scheme;
use crate::health::DisableRule;
use crate::profile::reader::{Mistake, Mistakes, Section, read_duration};
use crate::profile::schedule::STEPS_MAX;
use crate::profile::{
    Anchor, Class, Classify, CustomHeaders, EnginePolicy, HttpPolicy, IdFormat, Ids, JsonStyle,
    KeyBytes, MessageScope, ModeLabels, PortalNames, Profile, ResendFrom, ResendPolicy,
    RetrySchedule, SecretFormat, SecretPolicy, SecretScope, Steps, Template, TestSpec, Visibility,
};
use crate::seal::sha256_hex;

use api::read_api;
use catalogue::{read_api_keys, read_distribution, read_event_types, read_events};
use signatures::{read_headers, read_signatures};

const STATUS_MAX: usize = 599;
const RETRY_AFTER_MAX_DEFAULT: Duration = Duration::from_secs(24 * 3_600);
const THROTTLE_PAUSE_DEFAULT: Duration = Duration::from_secs(5);
impl Profile {
    /// Compiles a profile.
    ///
    /// # Errors
    /// All mistakes, in the order of their lines.
    pub fn parse(source: &str) -> Result<Self, Vec<Mistake>> {
        let mut mistakes = Mistakes::new(source);
        let document = match DeTable::parse(source) {
            Ok(document) => document,
            Err(error) => {
                mistakes.add(
                    &error.span().unwrap_or(0..0),
                    format!("not TOML: {}", error.message()),
                );
                return mistakes.into_result(None);
            }
        };
        let mut root = Section::root(&document);
        let profile = read_profile(&mut root, source, &mut mistakes);
        root.finish(&mut mistakes);
        mistakes.into_result(profile)
    }
}

#[expect(
    clippy::too_many_lines,
    reason = "one section after the other, as in the file"
)]
fn read_profile(root: &mut Section<'_>, source: &str, m: &mut Mistakes<'_>) -> Option<Profile> {
    let name = root.required_text("name", m);
    if name.is_empty()
        || !name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    {
        m.add(
            &root.span,
            "name must have lower-case letters, digits and - only",
        );
    }
    let summary = root.text("summary", m).unwrap_or_default();
    let ids = read_ids(root, m);
    let secret = read_secret(root, m);
    let (body, json, content_type, form_field) = read_body(root, m);
    let headers = read_headers(root, m);
    let signatures = read_signatures(root, &headers, m);
    let http = read_http(root, m);
    let classify = read_classify(root, m);
    let (retry, retry_test) = read_retries(root, m);
    let disable = read_disable(root, m);
    let resend = read_resend(root, m);
    let custom_headers = read_custom_headers(root, m);
    let events = read_events(root, m);
    let event_types = read_event_types(root, m);
    let distribution = read_distribution(root, m);
    let api_keys = read_api_keys(root, m);
    let mut section = root.section("engine", m);
    let engine = EnginePolicy {
        breaker: section.boolean("breaker", m).unwrap_or(false),
        throttle: section.boolean("throttle", m).unwrap_or(false),
    };
    section.finish(m);
    let mut section = root.section("limits", m);
    // The server's own bound (`ENDPOINTS_MAX`), which no profile raises.
    let endpoints_max = section.count("endpoints", 10_000, m);
    section.finish(m);
    let mut section = root.section("mode", m);
    let modes = ModeLabels {
        live: section.text("live", m).unwrap_or_else(|| "live".to_owned()),
        test: section.text("test", m).unwrap_or_else(|| "test".to_owned()),
    };
    section.finish(m);
    let test = read_test(root, m);
    let portal = read_portal(root, m);
    let api = read_api(root, m);
    // Whatever is absent was told by its reader, so `?` loses no mistake.
    Some(Profile {
        name,
        source: source.to_owned(),
        digest: sha256_hex(source.as_bytes()),
        summary,
        ids: ids?,
        secret: secret?,
        body: body?,
        form_field,
        json,
        content_type,
        headers,
        signatures,
        http,
        classify,
        retry: retry?,
        retry_test,
        disable,
        resend,
        custom_headers,
        events,
        event_types,
        distribution,
        api_keys,
        engine,
        endpoints_max,
        modes,
        test,
        portal,
        api,
    })
}

fn read_ids(root: &mut Section<'_>, m: &mut Mistakes<'_>) -> Option<Ids> {
    let mut section = root.section("ids", m);
    let endpoint = section.parsed("endpoint", m, IdFormat::parse);
    let message = section.parsed("message", m, IdFormat::parse);
    let message_scope = section
        .parsed("scope", m, |text| match text {
            "event" => Ok(MessageScope::Event),
            "delivery" => Ok(MessageScope::Delivery),
            _ => Err("must be event or delivery".to_owned()),
        })
        .unwrap_or(MessageScope::Event);
    let tenant = section.parsed("tenant", m, IdFormat::parse);
    for key in ["endpoint", "message"] {
        if section.get(key).is_none() {
            m.add(&section.span, format!("ids.{key} is needed"));
        }
    }
    section.finish(m);
    Some(Ids {
        endpoint: endpoint?,
        message: message?,
        message_scope,
        tenant,
    })
}

fn read_secret(root: &mut Section<'_>, m: &mut Mistakes<'_>) -> Option<SecretPolicy> {
    let mut section = root.section("secret", m);
    let format = section.parsed("format", m, SecretFormat::parse);
    if section.get("format").is_none() {
        m.add(
            &section.span,
            "secret.format is needed, such as \"whsec_{base64:24}\"",
        );
    }
    let key = section.parsed("key", m, |text| match text {
        "utf8" => Ok(KeyBytes::Utf8),
        "base64_after_prefix" => Ok(KeyBytes::Base64AfterPrefix),
        _ => Err("must be utf8 or base64_after_prefix".to_owned()),
    });
    let show = section.parsed("show", m, |text| match text {
        "once" => Ok(Visibility::Once),
        "always" => Ok(Visibility::Always),
        _ => Err("must be once or always".to_owned()),
    });
    let overlap = section.duration("overlap", m);
    let asymmetric = section.boolean("asymmetric", m).unwrap_or(false);
    let scope = section.parsed("scope", m, |text| match text {
        "endpoint" => Ok(SecretScope::Endpoint),
        "tenant" => Ok(SecretScope::Tenant),
        "api_key" => Ok(SecretScope::ApiKey),
        _ => Err("must be endpoint, tenant or api_key".to_owned()),
    });
    let client_set = section.boolean("client_set", m).unwrap_or(false);
    section.finish(m);
    Some(SecretPolicy {
        scope: scope.unwrap_or(SecretScope::Endpoint),
        format: format?,
        key: key.unwrap_or(KeyBytes::Utf8),
        show: show.unwrap_or(Visibility::Once),
        overlap,
        asymmetric,
        client_set,
    })
}

fn read_body(
    root: &mut Section<'_>,
    m: &mut Mistakes<'_>,
) -> (Option<Template>, JsonStyle, String, Option<String>) {
    let mut section = root.section("body", m);
    if section.get("template").is_none() {
        m.add(&section.span, "body.template is needed, such as '{\"type\":\"$event.type\",\"data\":\"$event.data\"}'");
    }
    let template = section.parsed("template", m, Template::json);
    let content_type = section
        .text("content_type", m)
        .unwrap_or_else(|| "application/json".to_owned());
    if content_type.is_empty() || !content_type.bytes().all(|b| matches!(b, b' '..=b'~')) {
        m.add(
            &section.span,
            "body.content_type must be what a header can carry: printable ASCII",
        );
    }
    let json = section.parsed("json", m, |text| match text {
        "verbatim" => Ok(JsonStyle::Verbatim),
        "es-compact" => Ok(JsonStyle::EsCompact),
        _ => Err("must be verbatim or es-compact".to_owned()),
    });
    let form_field = section.text("form_field", m);
    section.finish(m);
    let json = json.unwrap_or(JsonStyle::Verbatim);
    (template, json, content_type, form_field)
}

fn read_http(root: &mut Section<'_>, m: &mut Mistakes<'_>) -> HttpPolicy {
    let mut section = root.section("http", m);
    let mut schemes = Vec::new();
    let given = section.texts("schemes", m);
    if given.as_ref().is_some_and(Vec::is_empty) {
        // No URL could be registered.
        m.add(&section.span, "http.schemes must name https, http or both");
    }
    for (text, span) in given.unwrap_or_else(|| vec![("https".to_owned(), 0..0)]) {
        match Scheme::parse(&text) {
            Some(scheme) => schemes.push(scheme),
            None => m.add(
                &span,
                format!("http.schemes knows https and http, not {text:?}"),
            ),
        }
    }
    let total_timeout = section
        .duration("timeout", m)
        .unwrap_or(Duration::from_secs(10));
    let policy = HttpPolicy {
        schemes,
        total_timeout,
        // A document that gives a receiver ten seconds does not say for what.
        connect_timeout: section
            .duration("connect_timeout", m)
            .unwrap_or(total_timeout),
        repeat: section.boolean("repeat", m).unwrap_or(true),
        read_max: section
            // Bounded, since it is held in memory for each attempt.
            .count("read_max", 16 * 1024 * 1024, m)
            .unwrap_or(64 * 1024) as usize,
        title_case: section.boolean("title_case", m).unwrap_or(false),
    };
    if policy.total_timeout.is_zero() || policy.total_timeout > Duration::from_secs(300) {
        m.add(&section.span, "http.timeout must be from 1ms to 5m");
    }
    if policy.connect_timeout.is_zero() {
        // Every attempt would fail.
        m.add(&section.span, "http.connect_timeout must be at least 1ms");
    }
    section.finish(m);
    policy
}

fn read_classify(root: &mut Section<'_>, m: &mut Mistakes<'_>) -> Classify {
    let mut section = root.section("classify", m);
    // What no list names is tried again, 3xx among it.
    let mut statuses = vec![Class::Retry; STATUS_MAX + 1];
    // In the order of precedence, the strongest last.
    for (key, class, default) in [
        ("stop", Class::Stop, ""),
        ("throttle", Class::Throttle, ""),
        ("disable", Class::Disable, ""),
        ("ok", Class::Ok, "200-299"),
    ] {
        let ranges = section.parsed(key, m, read_statuses);
        let default = if key == "ok" {
            read_statuses(default).ok()
        } else {
            None
        };
        for range in ranges.or(default).unwrap_or_default() {
            // `read_statuses` takes nothing beyond the last index.
            statuses[range].fill(class);
        }
    }
    let unreachable = section.parsed("unreachable", m, |text| match text {
        "retry" => Ok(Class::Retry),
        "stop" => Ok(Class::Stop),
        _ => Err("must be retry or stop".to_owned()),
    });
    let classify = Classify {
        statuses,
        unreachable: unreachable.unwrap_or(Class::Retry),
        retry_after: section.boolean("retry_after", m).unwrap_or(false),
        retry_after_max: section
            .duration("retry_after_max", m)
            .unwrap_or(RETRY_AFTER_MAX_DEFAULT),
        throttle_pause: section
            .duration("throttle_pause", m)
            .unwrap_or(THROTTLE_PAUSE_DEFAULT),
    };
    section.finish(m);
    classify
}

/// Reads `200-299,410`.
fn read_statuses(text: &str) -> Result<Vec<std::ops::RangeInclusive<usize>>, String> {
    let number = |text: &str| {
        text.trim()
            .parse()
            .ok()
            .filter(|n| (100..=STATUS_MAX).contains(n))
    };
    let range = |part: &str| match part.split_once('-') {
        Some((from, to)) => Some(number(from)?..=number(to)?),
        None => number(part).map(|n| n..=n),
    };
    text.split(',')
        .map(|part| range(part).filter(|r| r.start() <= r.end()))
        .collect::<Option<Vec<_>>>()
        .ok_or_else(|| format!("{text:?} is not a list of statuses such as 200-299,410"))
}

/// The schedule, and the one for events of mode test where `[retry.test]` has another.
fn read_retries(
    root: &mut Section<'_>,
    m: &mut Mistakes<'_>,
) -> (Option<RetrySchedule>, Option<RetrySchedule>) {
    let mut section = root.section("retry", m);
    // Asked for before the rest is read: that ends with telling the keys that nobody asked for.
    let test = section.section("test", m);
    let test = if test.is_present() {
        read_retry(test, m)
    } else {
        None
    };
    (read_retry(section, m), test)
}

fn read_retry(mut section: Section<'_>, m: &mut Mistakes<'_>) -> Option<RetrySchedule> {
    let mut list = |key, m: &mut Mistakes<'_>| {
        let texts = section.texts(key, m)?;
        let mut durations = Vec::new();
        for (text, span) in texts {
            match read_duration(&text) {
                Ok(duration) => durations.push(duration),
                Err(why) => m.add(&span, why),
            }
        }
        Some(durations)
    };
    let delays = list("delays", m);
    let offsets = list("offsets", m);
    let base = section.duration("base", m);
    let anchor = section.parsed("anchor", m, |text| match text {
        "previous_end" => Ok(Anchor::PreviousEnd),
        "previous_start" => Ok(Anchor::PreviousStart),
        _ => Err("must be previous_end or previous_start".to_owned()),
    });
    let factor = section.number("factor", 100.0, m);
    let cap = section.duration("cap", m);
    let max_age = section.duration("max_age", m);
    let jitter = section.number("jitter", 1.0, m).unwrap_or(0.0);
    let steps = match (delays, offsets, base) {
        (Some(delays), None, None) => Steps::Delays {
            delays,
            anchor: anchor.unwrap_or(Anchor::PreviousEnd),
        },
        (None, Some(offsets), None) => Steps::Offsets(offsets),
        (None, None, Some(base)) => Steps::Exponential {
            base,
            factor: factor.unwrap_or(2.0),
            cap: cap.unwrap_or(Duration::from_secs(12 * 3_600)),
            max_age: max_age.unwrap_or(Duration::from_secs(3 * 86_400)),
        },
        _ => {
            m.add(
                &section.span,
                "retry needs one of delays, offsets, or base (with factor, cap, max_age)",
            );
            return None;
        }
    };
    let mistake = match &steps {
        Steps::Delays { delays, .. } if delays.len() > STEPS_MAX => {
            Some("retry.delays has more than 64 steps")
        }
        Steps::Offsets(offsets) if offsets.len() > STEPS_MAX => {
            Some("retry.offsets has more than 64 steps")
        }
        // `due_at` spreads the gap between two, which has to be more than none.
        Steps::Offsets(offsets)
            if !offsets.windows(2).all(|pair| pair[0] < pair[1])
                || offsets.first().is_some_and(Duration::is_zero) =>
        {
            Some("retry.offsets must grow, from more than 0s")
        }
        // Delays of nothing, or that shrink, would be requests without a pause until `max_age`.
        Steps::Exponential { base, factor, .. } if base.is_zero() || *factor < 1.0 => {
            Some("retry.base must be more than 0s and retry.factor at least 1")
        }
        Steps::Delays { .. } | Steps::Offsets(_) | Steps::Exponential { .. } => None,
    };
    if let Some(mistake) = mistake {
        m.add(&section.span, mistake);
    }
    section.finish(m);
    Some(RetrySchedule { steps, jitter })
}

fn read_disable(root: &mut Section<'_>, m: &mut Mistakes<'_>) -> DisableRule {
    let mut section = root.section("disable", m);
    let on = section.text("on", m);
    let count = section.count("count", 1_000_000, m);
    let after = section.duration("after", m);
    let rule = match (on.as_deref(), count, after) {
        (None | Some("never"), None, None) => DisableRule::Never,
        (Some("failed_deliveries"), Some(count), None) => DisableRule::FailedDeliveries(count),
        (Some("failing_for"), None, Some(after)) if !after.is_zero() => {
            DisableRule::FailingFor(after)
        }
        _ => {
            m.add(&section.span, "disable needs on = \"never\", \"failed_deliveries\" with count, or \"failing_for\" with after");
            DisableRule::Never
        }
    };
    section.finish(m);
    rule
}

fn read_custom_headers(root: &mut Section<'_>, m: &mut Mistakes<'_>) -> CustomHeaders {
    let mut section = root.section("custom_headers", m);
    let allow = section.boolean("allow", m).unwrap_or(false);
    let lower_case = section.boolean("lower_case", m).unwrap_or(false);
    let reserved = section.texts("reserved", m).unwrap_or_default();
    section.finish(m);
    CustomHeaders {
        allow,
        lower_case,
        reserved: reserved
            .into_iter()
            .map(|(text, _)| text.to_ascii_lowercase())
            .collect(),
    }
}

fn read_resend(root: &mut Section<'_>, m: &mut Mistakes<'_>) -> ResendPolicy {
    let mut section = root.section("resend", m);
    let series = section.boolean("series", m).unwrap_or(false);
    let while_disabled = section.boolean("while_disabled", m).unwrap_or(false);
    let max_age = section.duration("max_age", m);
    let from = section.texts("from", m).map(|texts| {
        let mut from = Vec::new();
        for (text, span) in texts {
            match ResendFrom::ALL.iter().find(|(name, _)| *name == text) {
                Some((_, end)) => from.push(*end),
                None => {
                    let known = ResendFrom::ALL.map(|(name, _)| name).join(", ");
                    m.add(&span, format!("resend.from knows {known}, not {text:?}"));
                }
            }
        }
        from
    });
    section.finish(m);
    ResendPolicy {
        from,
        max_age,
        series,
        while_disabled,
    }
}

fn read_portal(root: &mut Section<'_>, m: &mut Mistakes<'_>) -> PortalNames {
    let mut section = root.section("portal", m);
    let mut name = |key, default: &str, m: &mut Mistakes<'_>| {
        section.text(key, m).unwrap_or_else(|| default.to_owned())
    };
    let portal = PortalNames {
        endpoints: name("endpoints", "Endpoints", m),
        deliveries: name("deliveries", "Deliveries", m),
        statistics: name("statistics", "Statistics", m),
        keys: name("keys", "API keys", m),
        distributions: name("distributions", "Distributions", m),
        notifications: name("notifications", "Notifications", m),
        settings: name("settings", "Settings", m),
    };
    section.finish(m);
    portal
}

fn read_test(root: &mut Section<'_>, m: &mut Mistakes<'_>) -> TestSpec {
    let mut section = root.section("test", m);
    let mut text = |key, default: &str, m: &mut Mistakes<'_>| {
        section.text(key, m).unwrap_or_else(|| default.to_owned())
    };
    let spec = TestSpec {
        event: text("event", "webhook.test", m),
        message: text("message", "This is a test webhook.", m),
        ok: text("ok", "The endpoint accepted the test webhook.", m),
        fail: text("fail", "The endpoint did not accept the test webhook.", m),
        no_response_status: None,
    };
    let no_response_status = section
        .count("no_response_status", 599, m)
        .and_then(|n| u16::try_from(n).ok());
    section.finish(m);
    TestSpec {
        no_response_status,
        ..spec
    }
}
