//! How the things of the service are shown, the same on every page.

use std::time::Duration;

use bytes::Bytes;
use postrider_core::attempt::{Attempt, Response, Timings};
use postrider_core::endpoint::{Endpoint, EndpointKind};
use postrider_core::limits::JSON_DEPTH_MAX;
use postrider_core::profile::Profile;
use postrider_core::tenant::Mode;
use postrider_core::{Id, Timestamp, id};
use postrider_service::{DeliveryListed, Page, PageRequest, Refusal};
use url::Url;

use crate::door::Visitor;
use crate::words::{self, After, Standing, ago, long};

/// Rows of a list on a page.
pub(crate) const ROWS: usize = 50;
/// Bytes of a body that is indented; of longer ones the bytes alone are shown.
const PRETTY_BYTES_MAX: usize = 4 * BODY_SHOWN_MAX;
/// Bytes of a body that are shown; the rest is told of.
const BODY_SHOWN_MAX: usize = 32 * 1024;

/// A time: for people, for machines, and how long ago.
#[derive(Debug, Clone)]
pub(crate) struct When {
    pub(crate) iso: String,
    pub(crate) text: String,
    pub(crate) ago: String,
}

impl When {
    pub(crate) fn new(at: Timestamp, now: Timestamp) -> Self {
        let iso = at.to_string();
        let text = iso.replace('T', " ").replace('Z', " UTC");
        Self {
            text,
            ago: ago(at, now),
            iso,
        }
    }
}

/// A row of a list of deliveries.
pub(crate) struct DeliveryRow {
    pub(crate) href: String,
    pub(crate) created: When,
    pub(crate) event_type: String,
    pub(crate) endpoint: String,
    pub(crate) standing: Standing,
    pub(crate) attempts: u32,
    pub(crate) last: String,
    pub(crate) took: String,
    pub(crate) test: bool,
}

impl DeliveryRow {
    pub(crate) fn new(visitor: &Visitor, listed: &DeliveryListed, now: Timestamp) -> Self {
        let delivery = &listed.delivery;
        let endpoint = listed.endpoint.as_ref();
        let last = listed.last.as_ref();
        Self {
            href: visitor.href(format_args!("/deliveries/{}", delivery.id)),
            created: When::new(delivery.created_at, now),
            event_type: delivery.event_type.as_ref().to_owned(),
            endpoint: endpoint.map_or_else(|| delivery.endpoint.to_string(), name_of),
            standing: Standing::of_delivery(delivery),
            attempts: delivery.attempts,
            last: last.map_or_else(String::new, |last| words::outcome(&last.outcome)),
            took: last.map_or_else(String::new, |last| {
                long(Duration::from_micros(last.timings.total_micros.into()))
            }),
            test: delivery.mode == Mode::Test,
        }
    }
}

/// What an endpoint is called: its description, or where it leads.
pub(crate) fn name_of(endpoint: &Endpoint) -> String {
    let own = match &endpoint.kind {
        EndpointKind::Distribution(distribution) => Some(distribution.name.clone()),
        EndpointKind::Registered | EndpointKind::Callback | EndpointKind::Key(_) => {
            endpoint.description.clone()
        }
    };
    let own = own.filter(|own| !own.trim().is_empty());
    own.unwrap_or_else(|| short_url(&endpoint.url))
}

/// Gives those that have one name in a list the end of their ids, so that they are told apart.
pub(crate) fn tell_apart<'n>(names: impl IntoIterator<Item = (&'n mut String, String)>) {
    const SHOWN: usize = 4;
    let mut names: Vec<_> = names.into_iter().collect();
    let mut counts = std::collections::HashMap::new();
    for (name, _) in &names {
        *counts.entry((*name).clone()).or_insert(0) += 1;
    }
    for (name, id) in &mut names {
        if counts.get(name.as_str()).is_some_and(|count| *count > 1) {
            let from = id.len().saturating_sub(SHOWN);
            let end = id.get(from..).unwrap_or(id);
            **name = format!("{name} (…{end})");
        }
    }
}

/// A URL without its scheme: what tells endpoints apart.
fn short_url(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.trim_end_matches('/').to_owned()
}

/// A row of a list of endpoints.
pub(crate) struct EndpointRow {
    pub(crate) href: String,
    pub(crate) name: String,
    /// Where it leads, unless that is its name.
    pub(crate) url: Option<String>,
    pub(crate) events: String,
    pub(crate) standing: Standing,
    pub(crate) since: Option<When>,
    pub(crate) test: bool,
}

impl EndpointRow {
    pub(crate) fn new(visitor: &Visitor, endpoint: &Endpoint, now: Timestamp) -> Self {
        let health = &endpoint.health;
        let since = health.disabled.map(|disabled| disabled.at);
        let since = since.or(health.failing_since);
        Self {
            href: visitor.href(format_args!("/endpoints/{}", endpoint.id)),
            name: name_of(endpoint),
            url: (name_of(endpoint) != short_url(&endpoint.url)).then(|| endpoint.url.clone()),
            events: endpoint.subscription.patterns().join(", "),
            standing: Standing::of_endpoint(endpoint),
            since: since.map(|at| When::new(at, now)),
            test: endpoint.mode == Mode::Test,
        }
    }
}

/// A body, for reading and byte for byte.
pub(crate) struct BodyShown {
    /// Indented, where it is JSON.
    pub(crate) pretty: Option<String>,
    pub(crate) raw: String,
    pub(crate) bytes: usize,
    /// What is shown is not all there is.
    pub(crate) cut: bool,
    pub(crate) text: bool,
}

impl BodyShown {
    pub(crate) fn new(body: &Bytes, truncated: bool) -> Self {
        let shown = &body[..body.len().min(BODY_SHOWN_MAX)];
        let cut = truncated || shown.len() < body.len();
        // A cut may go through a letter, which makes a text no less of one.
        let text = std::str::from_utf8(shown).is_ok() || cut;
        let raw = if text {
            String::from_utf8_lossy(shown).into_owned()
        } else {
            hex_lines(shown)
        };
        let pretty = (!cut).then(|| pretty(shown)).flatten();
        Self {
            pretty: pretty.filter(|pretty| *pretty != raw),
            raw,
            bytes: body.len(),
            cut,
            text,
        }
    }
}

/// JSON with a line for each value; numbers stay as they were written. None where it is no JSON.
pub(crate) fn pretty(bytes: &[u8]) -> Option<String> {
    let value: &serde_json::value::RawValue = serde_json::from_slice(bytes).ok()?;
    let mut text = String::with_capacity(value.get().len() * 2);
    let mut depth = 0_usize;
    let (mut quoted, mut escaped) = (false, false);
    let mut letters = value.get().chars().peekable();
    let line = |text: &mut String, depth: usize| {
        text.push('\n');
        text.extend(std::iter::repeat_n("  ", depth));
    };
    while let Some(letter) = letters.next() {
        // Deep ones would be nearly all blanks, as many as the square of their length.
        if depth > JSON_DEPTH_MAX || text.len() > PRETTY_BYTES_MAX {
            return None;
        }
        if quoted {
            text.push(letter);
            // First this: it asks whether the letter before has escaped this one.
            quoted = escaped || letter != '"';
            escaped = !escaped && letter == '\\';
            continue;
        }
        match letter {
            '"' => {
                quoted = true;
                text.push(letter);
            }
            '{' | '[' => {
                text.push(letter);
                while letters.next_if(|next| next.is_ascii_whitespace()).is_some() {}
                let closes = letters.next_if(|next| matches!(next, '}' | ']'));
                if let Some(closes) = closes {
                    text.push(closes);
                } else {
                    depth += 1;
                    line(&mut text, depth);
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                line(&mut text, depth);
                text.push(letter);
            }
            ',' => {
                text.push(letter);
                line(&mut text, depth);
            }
            ':' => text.push_str(": "),
            blank if blank.is_ascii_whitespace() => {}
            other => text.push(other),
        }
    }
    Some(text)
}

fn hex_lines(bytes: &[u8]) -> String {
    let lines = bytes.chunks(16).map(|line| {
        let digits: Vec<String> = line.iter().map(|byte| format!("{byte:02x}")).collect();
        digits.join(" ")
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// An attempt, unfolded.
pub(crate) struct AttemptShownRow {
    pub(crate) number: u32,
    pub(crate) started: When,
    /// Time since the one before ended.
    pub(crate) gap: Option<String>,
    pub(crate) manual: bool,
    pub(crate) outcome: String,
    pub(crate) why: String,
    pub(crate) standing: Standing,
    pub(crate) request_line: String,
    pub(crate) request_headers: Vec<(String, String)>,
    pub(crate) body: Option<BodyShown>,
    pub(crate) response_headers: Vec<(String, String)>,
    pub(crate) response: Option<BodyShown>,
    pub(crate) phases: Vec<Phase>,
    pub(crate) total: String,
    pub(crate) egress: Option<String>,
    /// The same request by hand, where its body is not longer than what is shown.
    pub(crate) curl: Option<String>,
    pub(crate) url: String,
    /// What each signature is of, by the header that has it, where that is made here.
    pub(crate) signed: Vec<(String, BodyShown)>,
}

/// Where time went: a part of the bar.
pub(crate) struct Phase {
    pub(crate) name: &'static str,
    pub(crate) took: String,
    /// In thousandths of the whole.
    pub(crate) from: u64,
    pub(crate) width: u64,
    pub(crate) class: &'static str,
}

impl AttemptShownRow {
    pub(crate) fn new(
        attempt: &Attempt,
        body: Option<&Bytes>,
        before: Option<&Attempt>,
        profile: &Profile,
        after: After,
        now: Timestamp,
    ) -> Self {
        let class = profile.classify.class(&attempt.outcome);
        let gap = before.map(|before| long(attempt.started_at.since(before.ended_at)));
        let response = attempt.response.as_ref();
        Self {
            number: attempt.number,
            started: When::new(attempt.started_at, now),
            gap,
            manual: attempt.manual,
            outcome: words::outcome(&attempt.outcome),
            why: words::why(attempt, profile, after),
            standing: Standing::of_attempt(class, after),
            request_line: format!("POST {}", target(&attempt.url)),
            request_headers: attempt.request_headers.clone(),
            body: body.map(|body| BodyShown::new(body, false)),
            response_headers: response.map_or_else(Vec::new, |answer| answer.headers.clone()),
            response: response.map(
                |Response {
                     body, truncated, ..
                 }| { BodyShown::new(body, *truncated) },
            ),
            phases: phases(&attempt.timings),
            total: long(Duration::from_micros(attempt.timings.total_micros.into())),
            egress: attempt.egress.as_ref().map(|egress| match &egress.region {
                Some(region) => format!("{} (region {region})", egress.address),
                None => egress.address.to_string(),
            }),
            curl: body
                .is_none_or(|body| body.len() <= BODY_SHOWN_MAX)
                .then(|| curl(attempt, body)),
            url: attempt.url.clone(),
            signed: Vec::new(),
        }
    }
}

/// Path and query of a URL, as they stand in the request line.
fn target(url: &str) -> String {
    match Url::parse(url) {
        Ok(url) => match url.query() {
            Some(query) => format!("{}?{query}", url.path()),
            None => url.path().to_owned(),
        },
        Err(_) => url.to_owned(),
    }
}

fn phases(timings: &Timings) -> Vec<Phase> {
    let total = u64::from(timings.total_micros).max(1);
    let part = |value: Option<u32>| u64::from(value.unwrap_or(0));
    let (dns, connect, tls) = (
        part(timings.dns_micros),
        part(timings.connect_micros),
        part(timings.tls_micros),
    );
    let first = timings.first_byte_micros.map(u64::from);
    let before = dns + connect + tls;
    let waiting = first.unwrap_or(total).saturating_sub(before);
    let reading = first.map_or(0, |first| total.saturating_sub(first));
    let mut from = 0;
    let mut shown = Vec::new();
    for (name, class, micros) in [
        ("name", "dns", dns),
        ("connection", "connect", connect),
        ("TLS", "tls", tls),
        ("waiting", "wait", waiting),
        ("answer", "read", reading),
    ] {
        if micros == 0 {
            continue;
        }
        // However short it was, it is to be seen.
        let width = (micros * 1_000 / total).max(4);
        shown.push(Phase {
            name,
            class,
            took: long(Duration::from_micros(micros)),
            from,
            width,
        });
        from += width;
    }
    shown
}

/// The same request by hand. What is behind stars stays there.
fn curl(attempt: &Attempt, body: Option<&Bytes>) -> String {
    let quoted = |text: &str| format!("'{}'", text.replace('\'', "'\\''"));
    let mut command = format!("curl -X POST {}", quoted(&attempt.url));
    for (name, value) in &attempt.request_headers {
        // curl writes both itself: a body that is changed by hand has another length.
        if !name.eq_ignore_ascii_case("content-length") && !name.eq_ignore_ascii_case("host") {
            command += &format!(" \\\n  -H {}", quoted(&format!("{name}: {value}")));
        }
    }
    if let Some(text) = body.and_then(|body| std::str::from_utf8(body).ok()) {
        command += &format!(" \\\n  --data-binary {}", quoted(text));
    }
    command
}

/// What is asked of a list: where its page begins.
pub(crate) fn page_of(visitor: &Visitor) -> Result<PageRequest, Refusal> {
    page_by(visitor, "after")
}

/// The same of one of several lists on a page, each with a name of its own for where it begins.
pub(crate) fn page_by(visitor: &Visitor, name: &str) -> Result<PageRequest, Refusal> {
    let mut page = PageRequest::first(ROWS);
    if let Some(text) = visitor.query.get(name) {
        let parsed = text.parse();
        page.cursor = Some(parsed.map_err(|error: postrider_service::InvalidCursor| {
            Refusal::invalid(name, error.to_string())
        })?);
    }
    Ok(page)
}

/// The address of the next page of one of several lists.
pub(crate) fn next_by<T>(page: &Page<T>, path: &str, name: &str) -> Option<String> {
    let cursor = page.next.as_ref()?;
    Some(format!("{path}?{name}={cursor}"))
}

/// The address of a list's next page, with the same filters.
pub(crate) fn next_of<T>(page: &Page<T>, path: &str, filters: &[(&str, &str)]) -> Option<String> {
    let cursor = page.next.as_ref()?.to_string();
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    for (name, value) in filters.iter().filter(|(_, value)| !value.is_empty()) {
        query.append_pair(name, value);
    }
    query.append_pair("after", &cursor);
    Some(format!("{path}?{}", query.finish()))
}

/// An id in an address; what does not read is not there.
pub(crate) fn read<K: id::Kind>(visitor: &Visitor, text: &str) -> Result<Id<K>, crate::Failure> {
    postrider_service::read_id(text)
        .map_err(|refusal| crate::Failure::Refused(visitor.face, refusal))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_indented_and_its_values_stay_as_they_were_written() {
        let text = r#"{"a":[1,2.50,{"b":"x\"{,"}],"c":{},"d":[ ]}"#;
        let expected = "{\n  \"a\": [\n    1,\n    2.50,\n    {\n      \"b\": \"x\\\"{,\"\n    }\n  ],\n  \"c\": {},\n  \"d\": []\n}";
        assert_eq!(pretty(text.as_bytes()).as_deref(), Some(expected));
        assert_eq!(pretty(b"<html>"), None);
        let deep = ["[".repeat(8_000), "]".repeat(8_000)].concat();
        assert_eq!(pretty(deep.as_bytes()), None);
    }

    #[test]
    fn phases_cover_the_whole() {
        let shown = phases(&Timings {
            dns_micros: Some(1_000),
            connect_micros: Some(2_000),
            tls_micros: None,
            first_byte_micros: Some(8_000),
            total_micros: 10_000,
        });
        let told: Vec<_> = shown.iter().map(|p| (p.name, p.from, p.width)).collect();
        assert_eq!(
            told,
            [
                ("name", 0, 100),
                ("connection", 100, 200),
                ("waiting", 300, 500),
                ("answer", 800, 200)
            ]
        );
    }

    #[test]
    fn only_those_of_one_name_are_told_apart() {
        let mut names = ["hook", "other", "hook"].map(str::to_owned);
        let ids = ["ep_0001", "ep_0002", "x"].map(str::to_owned);
        tell_apart(names.iter_mut().zip(ids));
        assert_eq!(names, ["hook (…0001)", "other", "hook (…x)"]);
    }
}
