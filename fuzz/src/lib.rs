//! What is done with hostile input. Each target takes any bytes and must neither panic nor hang; beside that it
//! holds what is true of every answer.

use std::sync::LazyLock;

use bytes::Bytes;
use postrider_core::address::AddressPolicy;
use postrider_core::endpoint_url::{Scheme, UrlPolicy, check_url};
use postrider_core::filter::{Content, ContentFilter};
use postrider_core::json::{check_json, es};
use postrider_core::limits::URL_BYTES_MAX;
use postrider_core::profile::{Profile, SigningKey, built_in, signing_key};
use postrider_core::{Secret, Timestamp};
use postrider_store::Cursor;

/// What takes any bytes.
pub type Target = fn(&[u8]);

/// One for each parser that strangers reach.
pub const TARGETS: &[(&str, Target)] = &[
    ("profile", profile),
    ("schema", schema),
    ("filter", filter),
    ("json", json),
    ("url", url),
    ("retry-after", retry_after),
    ("cursor", cursor),
    ("signed-request", signed_request),
];

fn parts(data: &[u8]) -> Vec<&str> {
    let parts = data.split(|byte| *byte == 0);
    parts
        .filter_map(|part| std::str::from_utf8(part).ok())
        .collect()
}

/// A profile of an operator's own. One that parses can be verified with.
fn profile(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    match Profile::parse(text) {
        Ok(profile) => drop(profile.verify(&|_| None, b"{}", &[], Timestamp::default())),
        Err(mistakes) => assert!(!mistakes.is_empty(), "refused without a reason"),
    }
}

/// A schema and, after a zero, data to check by it. What the counter lets through ends in time.
fn schema(data: &[u8]) {
    let parts = parts(data);
    let Some(schema) = parts.first() else { return };
    let data = parts.get(1).copied().unwrap_or("{}");
    postrider_service::fuzzing::schema(schema, data);
}

/// Looks that a small event leaves plenty of.
const FILTERED_BYTES_MAX: usize = 1_024;

/// A content filter and, after a zero, the data of an event. What is taken is taken again as it is shown, is met or its
/// opposite is, and what is not met is named.
fn filter(data: &[u8]) {
    let parts = parts(data);
    let Some(Ok(filter)) = parts.first().map(|text| text.parse::<ContentFilter>()) else {
        return;
    };
    let again: ContentFilter = filter.text().parse().expect("what is shown is a filter");
    assert_eq!(filter, again);
    let event = parts.get(1).copied().unwrap_or("{}");
    if event.len() > FILTERED_BYTES_MAX {
        return;
    }
    let event = Bytes::copy_from_slice(event.as_bytes());
    let content = Content::new(&event, Some(&event));
    let is_met = filter.matches(&content);
    assert_eq!(is_met, filter.unmet(&content).is_none());
    let opposite = format!("{{\"$not\":{}}}", filter.text());
    if let Ok(opposite) = opposite.parse::<ContentFilter>() {
        assert_ne!(
            is_met,
            opposite.matches(&Content::new(&event, Some(&event)))
        );
    }
}

/// What we take as JSON another reader takes, and what is made canonical stays so.
fn json(data: &[u8]) {
    let fine = check_json(data).is_ok();
    let read: Result<&serde_json::value::RawValue, _> = serde_json::from_slice(data);
    assert!(!fine || read.is_ok(), "taken, but no JSON");
    if fine && let Ok(once) = es::compact(data) {
        let twice = es::compact(&once).expect("what was written is JSON");
        assert_eq!(once, twice, "not a fixed point");
    }
}

/// A URL that is taken is taken again as it was written back, and leads to nothing private.
fn url(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let addresses = AddressPolicy::default();
    let policy = UrlPolicy {
        schemes: &[Scheme::Http, Scheme::Https],
        addresses: &addresses,
    };
    let Ok(taken) = check_url(text, policy) else {
        return;
    };
    let policy = UrlPolicy {
        schemes: &[Scheme::Http, Scheme::Https],
        addresses: &addresses,
    };
    let again = taken.as_str();
    if again.len() <= URL_BYTES_MAX {
        assert!(check_url(again, policy).is_ok(), "{again} was taken once");
    }
    let host = taken.host_str().unwrap_or_default();
    assert!(!host.ends_with("localhost"), "{again}");
}

/// `Retry-After`, and after a zero the answer's `Date`.
fn retry_after(data: &[u8]) {
    let parts = parts(data);
    let date = parts.get(1).copied();
    postrider_transport::fuzzing::retry_after(parts.first().copied().unwrap_or(""), date);
}

/// A cursor that is taken is written as it was read, in one case of letters.
fn cursor(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(cursor) = text.parse::<Cursor>() {
        assert_eq!(cursor.to_string(), text.to_ascii_lowercase());
    }
}

static SIGNERS: LazyLock<Vec<(&Profile, Vec<SigningKey>)>> = LazyLock::new(|| {
    let secret = Secret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
    let signer = |profile: &'static Profile| {
        let key = signing_key(&profile.secret, &secret);
        (profile, key.into_iter().collect())
    };
    built_in().iter().map(signer).collect()
});

/// A request as a receiver reads it: header values and last the body, between zeros. Nothing that a stranger makes
/// up is valid.
fn signed_request(data: &[u8]) {
    let mut parts: Vec<&[u8]> = data.split(|byte| *byte == 0).collect();
    let body = parts.pop().unwrap_or_default();
    let values: Vec<&str> = parts
        .into_iter()
        .filter_map(|part| std::str::from_utf8(part).ok())
        .collect();
    for (profile, keys) in SIGNERS.iter() {
        let header = |name: &str| {
            let place = name.bytes().map(usize::from).sum::<usize>();
            values.get(place % values.len().max(1)).copied()
        };
        let now = Timestamp::from_secs(1_700_000_000);
        let verified = profile.verify(&header, body, keys, now);
        assert!(verified.is_err(), "{} took a forged request", profile.name);
    }
}

/// What the fuzzer must find: else it finds nothing elsewhere either.
///
/// # Panics
/// When the input begins with five bytes that nobody tries by accident.
pub fn control(data: &[u8]) {
    let mut left = b"rider".iter().zip(data);
    let planted = data.len() >= 5 && left.all(|(wanted, given)| wanted == given);
    assert!(!planted, "the planted mistake was found");
}
