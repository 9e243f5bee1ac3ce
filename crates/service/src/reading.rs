//! What people type: texts within bounds, ids, and changes that name only what they change.

use postrider_core::json::{InvalidJson, check_json_to};
use postrider_core::limits::{
    JSON_DEPTH_MAX, METADATA_BYTES_MAX, METADATA_ENTRIES_MAX, PAGE_ROWS_MAX,
};
use postrider_core::tenant::Metadata;
use postrider_core::{Id, Timestamp, id};
use postrider_store::PageRequest;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::refusal::{ErrorCode, Refusal, Result};

/// For what may be left out of a change but not be null (RFC 7396: null takes away).
///
/// # Errors
/// When it does not read.
pub fn present<'de, T: Deserialize<'de>, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// Tells null, which clears, from absence, which keeps.
///
/// # Errors
/// When it does not read.
pub fn nullable<'de, T: Deserialize<'de>, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// No page has more rows than [`PAGE_ROWS_MAX`], whatever door asks for it.
pub(crate) fn bounded_page(page: PageRequest) -> PageRequest {
    PageRequest {
        limit: page.limit.clamp(1, PAGE_ROWS_MAX),
        ..page
    }
}

/// Metadata within its bounds: it goes with every list.
pub(crate) fn checked_metadata(metadata: &Metadata) -> Result<()> {
    if metadata.len() > METADATA_ENTRIES_MAX {
        let rule = format!("must have at most {METADATA_ENTRIES_MAX} entries");
        return Err(Refusal::invalid("metadata", rule));
    }
    let entries = metadata.iter();
    let bytes: usize = entries.map(|(key, value)| key.len() + value.len()).sum();
    if bytes > METADATA_BYTES_MAX {
        let rule = format!("must have at most {METADATA_BYTES_MAX} bytes in all");
        return Err(Refusal::invalid("metadata", rule));
    }
    Ok(())
}

/// A range of time that is not empty.
pub(crate) fn must_be_range(since: Option<Timestamp>, until: Option<Timestamp>) -> Result<()> {
    match (since, until) {
        (Some(since), Some(until)) if since >= until => {
            Err(Refusal::invalid("until", "must be after since"))
        }
        _ => Ok(()),
    }
}

/// Refuses what a type did not take from a value: stored forms are read tolerantly, so that an older
/// version reads what a newer one wrote; what somebody sends is not.
///
/// # Errors
/// The path of the first unknown field.
pub(crate) fn only_known(given: &Value, taken: &impl Serialize) -> Result<(), String> {
    let taken = serde_json::to_value(taken).map_err(|error| error.to_string())?;
    match first_unknown(given, &taken) {
        Some(path) => Err(path),
        None => Ok(()),
    }
}

fn first_unknown(given: &Value, taken: &Value) -> Option<String> {
    match (given, taken) {
        (Value::Object(given), Value::Object(taken)) => {
            given
                .iter()
                .find_map(|(name, value)| match taken.get(name) {
                    // Null is as good as absent: what is absent a type may leave out when it is written.
                    None if value.is_null() => None,
                    None => Some(name.clone()),
                    Some(taken) => {
                        first_unknown(value, taken).map(|below| format!("{name}.{below}"))
                    }
                })
        }
        (Value::Array(given), Value::Array(taken)) => {
            given
                .iter()
                .zip(taken)
                .enumerate()
                .find_map(|(at, (given, taken))| {
                    first_unknown(given, taken).map(|below| format!("{at}.{below}"))
                })
        }
        // A list would be taken for the fields in their order.
        (Value::Array(_), Value::Object(_)) => Some("0".to_owned()),
        _ => None,
    }
}

/// For a field whose type is read tolerantly elsewhere.
///
/// # Errors
/// When it does not read, or something of it is not known.
pub fn strictly<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: DeserializeOwned + Serialize,
    D: serde::Deserializer<'de>,
{
    let given = Value::deserialize(deserializer)?;
    // Read and written again: what is missing then is what the type does not know.
    let taken: T = serde_json::from_value(given.clone()).map_err(serde::de::Error::custom)?;
    only_known(&given, &taken)
        .map_err(|path| serde::de::Error::custom(format!("unknown field `{path}`")))?;
    Ok(taken)
}

/// As [`strictly`], and null takes it away.
pub(crate) fn nullable_strictly<'de, T, D>(deserializer: D) -> Result<Option<Option<T>>, D::Error>
where
    T: DeserializeOwned + Serialize,
    D: serde::Deserializer<'de>,
{
    match Option::<Value>::deserialize(deserializer)? {
        None => Ok(Some(None)),
        Some(given) => strictly(given)
            .map(|taken| Some(Some(taken)))
            .map_err(serde::de::Error::custom),
    }
}

/// Characters of what somebody gave that a refusal repeats.
const GIVEN_SHOWN: usize = 64;

/// Reads the id of something that should be there: what is none is simply not found.
///
/// # Errors
/// `not_found`, with what an id of this kind looks like.
pub fn read_id<K: id::Kind>(text: &str) -> Result<Id<K>> {
    text.parse().map_err(|error: id::InvalidId| {
        // Somebody who mixed up two ids searches long for one that is there.
        let given: String = text.chars().take(GIVEN_SHOWN).collect();
        let (noun, prefix) = (K::NOUN, error.prefix);
        let detail =
            format!("{given:?} is no id of this kind: that of a {noun} begins with {prefix}");
        Refusal::new(ErrorCode::NotFound, detail)
    })
}

/// A text of at most `max` bytes without control characters.
pub(crate) fn bounded(field: &str, text: &str, max: usize) -> Result<()> {
    if text.len() > max {
        return Err(Refusal::invalid(
            field,
            format!("must have at most {max} bytes"),
        ));
    }
    if text.chars().any(char::is_control) {
        return Err(Refusal::invalid(field, "must not have control characters"));
    }
    Ok(())
}

/// Characters without width or ink, which would make two names look the same.
pub(crate) fn is_invisible(c: char) -> bool {
    // Most of Unicode's Default_Ignorable_Code_Point, and the blank of Braille.
    matches!(
        c,
        '\u{ad}'
            | '\u{34f}'
            | '\u{61c}'
            | '\u{115f}'..='\u{1160}'
            | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}'
            | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{2800}'
            | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}'
            | '\u{feff}'
            | '\u{ffa0}'
            | '\u{e0000}'..='\u{e0fff}'
    )
}

pub(crate) fn required(field: &str, text: &str, max: usize) -> Result<()> {
    if text.trim().is_empty() {
        return Err(Refusal::invalid(field, "must not be empty"));
    }
    let seen = |c: char| !c.is_whitespace() && !is_invisible(c);
    if !text.chars().any(seen) {
        return Err(Refusal::invalid(field, "must have something to see"));
    }
    bounded(field, text, max)
}

/// Refuses what is not JSON, is nested too deeply, or has a key twice.
///
/// # Errors
/// `body_not_json`, `body_too_deep`, `body_duplicate_key`.
pub fn well_formed(bytes: &[u8]) -> Result<()> {
    // The data of an event may have all the depth there is; its envelope is one level more.
    check_json_to(bytes, JSON_DEPTH_MAX + 1).map_err(|error| {
        let code = match error {
            InvalidJson::Syntax(_) => ErrorCode::BodyNotJson,
            InvalidJson::TooDeep(_) => ErrorCode::BodyTooDeep,
            InvalidJson::DuplicateKey(_) => ErrorCode::BodyDuplicateKey,
        };
        Refusal::new(code, format!("the body {error}"))
    })
}

/// Parses a body that is known to be well-formed JSON.
///
/// # Errors
/// `validation_failed`, with the field.
pub fn typed<'b, T: Deserialize<'b>>(bytes: &'b [u8]) -> Result<T> {
    // A list would be taken for the fields in their order.
    if bytes.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
        return Err(Refusal::new(
            ErrorCode::ValidationFailed,
            "must be a JSON object",
        ));
    }
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let read = serde_path_to_error::deserialize(&mut reader);
    if read.is_ok() && reader.end().is_err() {
        // Behind it may be a second object, which would be lost without a word.
        let detail = "something follows the JSON object";
        return Err(Refusal::new(ErrorCode::BodyNotJson, detail));
    }
    read.map_err(|error| {
        let path = error.path().to_string();
        let text = error.inner().to_string();
        // The path says where, and better than a line and a column of the bytes.
        let text = text.split(" at line ").next().unwrap_or_default();
        // serde names the field in its sentence when the field is the mistake.
        let named = ["missing field `", "unknown field `"]
            .iter()
            .find_map(|start| {
                let (name, _) = text.strip_prefix(start)?.split_once('`')?;
                Some(name)
            });
        let path = if path == "." { "" } else { &path };
        match (path, named) {
            ("", None) => Refusal::new(ErrorCode::ValidationFailed, text),
            ("", Some(name)) => Refusal::invalid(name, text),
            (path, Some(name)) if !path.ends_with(name) => {
                Refusal::invalid(format!("{path}.{name}"), text)
            }
            (path, _) => Refusal::invalid(path, text),
        }
    })
}
