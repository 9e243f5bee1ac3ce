//! A distribution: a named set of events with an endpoint of its own, live or paused, and a payload
//! that its owner designed (`docs/systems.md`, F-01, F-08, F-11).

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::limits::{JSON_DEPTH_MAX, NAME_BYTES_MAX, PAYLOAD_FIELDS_MAX};

/// What an endpoint that belongs to a distribution has beside an endpoint's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Distribution {
    pub name: String,
    /// Typed by the owner; the `type` of its webhooks.
    pub event_name: String,
    pub payload: Payload,
}

impl Distribution {
    /// Bytes in memory, about.
    pub fn bytes(&self) -> usize {
        let fields = self.payload.fields.iter().flatten();
        let fields: usize = fields
            .map(|field| size_of::<PayloadField>() + field.from.len() + field.to.len())
            .sum();
        size_of::<Self>() + self.name.len() + self.event_name.len() + fields
    }
}

/// What a distribution's webhooks carry of an event's data.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Payload {
    /// The chosen fields in their order; none takes the data as it is.
    pub fields: Option<Vec<PayloadField>>,
    /// Sends the payload alone, without an envelope around it.
    #[serde(default)]
    pub raw: bool,
}

/// A field of the data, and the name it gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PayloadField {
    /// Names with dots between them; a number goes into a list: `items.0.sku`.
    pub from: String,
    pub to: String,
}

/// Why a payload cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPayload {
    #[error("must have 1 to {PAYLOAD_FIELDS_MAX} entries; leave it out to send all data")]
    Count,
    #[error("has {0:?}, which is not 1 to {NAME_BYTES_MAX} bytes without control characters")]
    Name(String),
    #[error("has {0:?}, which goes deeper than {JSON_DEPTH_MAX} levels, as no data does")]
    Deep(String),
    #[error("has the name {0:?} twice")]
    Twice(String),
    #[error("takes {0:?} and what is in it or the same again; choose each part of the data once")]
    Overlap(String),
}

impl Payload {
    /// # Errors
    /// When the list is empty or too long, a name is none or is there twice, or a part of the data is
    /// chosen twice: a payload is never much longer than its data.
    pub fn check(&self) -> Result<(), InvalidPayload> {
        let Some(fields) = &self.fields else {
            return Ok(());
        };
        if fields.is_empty() || fields.len() > PAYLOAD_FIELDS_MAX {
            return Err(InvalidPayload::Count);
        }
        let usable = |name: &str| {
            !name.is_empty() && name.len() <= NAME_BYTES_MAX && !name.chars().any(char::is_control)
        };
        let mut seen = std::collections::HashSet::new();
        for field in fields {
            for name in [&field.from, &field.to] {
                if !usable(name) {
                    return Err(InvalidPayload::Name(name.clone()));
                }
            }
            if field.from.split('.').count() > JSON_DEPTH_MAX {
                return Err(InvalidPayload::Deep(field.from.clone()));
            }
            if !seen.insert(&field.to) {
                return Err(InvalidPayload::Twice(field.to.clone()));
            }
        }
        // The parts of a path sort before what is under them, with nothing else between.
        let mut paths: Vec<Vec<&str>> = fields
            .iter()
            .map(|field| field.from.split('.').map(plain_index).collect())
            .collect();
        paths.sort_unstable();
        match paths.windows(2).find(|pair| pair[1].starts_with(&pair[0])) {
            Some(pair) => Err(InvalidPayload::Overlap(pair[0].join("."))),
            None => Ok(()),
        }
    }

    /// The chosen part of an event's data. What the data lacks is left out; values keep their bytes.
    pub fn design<'d>(&self, data: &'d [u8]) -> Cow<'d, [u8]> {
        let Some(fields) = &self.fields else {
            return Cow::Borrowed(data);
        };
        let mut found: Vec<Option<&RawValue>> = vec![None; fields.len()];
        if let Ok(root) = serde_json::from_slice::<&RawValue>(data) {
            let paths = fields.iter().map(|field| field.from.split('.'));
            choose(root, paths.enumerate().collect(), &mut found);
        }
        let mut out = vec![b'{'];
        for (field, value) in fields.iter().zip(found) {
            let Some(value) = value else {
                continue;
            };
            if out.len() > 1 {
                out.push(b',');
            }
            serde_json::to_writer(&mut out, &field.to)
                .expect("a string is JSON and a vector takes every byte");
            out.push(b':');
            out.extend_from_slice(value.get().as_bytes());
        }
        out.push(b'}');
        Cow::Owned(out)
    }
}

/// An index as it is written shortest: `+01` and `1` name the same item of a list.
fn plain_index(name: &str) -> &str {
    let digits = name.strip_prefix('+').unwrap_or(name);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return name;
    }
    match digits.trim_start_matches('0') {
        "" => "0",
        digits => digits,
    }
}

/// Finds what the rest of each path leads to from `value`. Every part of the data is read once for
/// each level above it, however many paths lead there.
fn choose<'d, 'p>(
    value: &'d RawValue,
    paths: Vec<(usize, std::str::Split<'p, char>)>,
    found: &mut [Option<&'d RawValue>],
) {
    let mut below: BTreeMap<&'p str, Vec<(usize, std::str::Split<'p, char>)>> = BTreeMap::new();
    for (field, mut path) in paths {
        match path.next() {
            None => found[field] = Some(value),
            Some(name) => below.entry(name).or_default().push((field, path)),
        }
    }
    let text = value.get().trim_start();
    // What is taken as a whole is not read.
    if below.is_empty() {
        return;
    }
    if text.starts_with('{') {
        let members = serde_json::from_str::<BTreeMap<Cow<'_, str>, &'d RawValue>>(text);
        let members = members.unwrap_or_default();
        for (name, paths) in below {
            if let Some(member) = members.get(name) {
                choose(member, paths, found);
            }
        }
    } else if text.starts_with('[') {
        let items = serde_json::from_str::<Vec<&'d RawValue>>(text).unwrap_or_default();
        for (name, paths) in below {
            if let Some(item) = name.parse::<usize>().ok().and_then(|at| items.get(at)) {
                choose(item, paths, found);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(fields: &[(&str, &str)]) -> Payload {
        let fields = fields.iter().map(|(from, to)| PayloadField {
            from: (*from).to_owned(),
            to: (*to).to_owned(),
        });
        Payload {
            fields: Some(fields.collect()),
            raw: false,
        }
    }

    #[test]
    fn fields_are_chosen_renamed_and_keep_their_bytes() {
        let data =
            r#"{ "a" : {"b": 1.50, "caf\u00e9": "x"}, "items": [ {"sku":"S1"}, 2 ], "n": null }"#;
        let chosen = payload(&[
            ("items.0.sku", "sku"),
            ("a.b", "amount"),
            ("a.café", "name"),
            ("n", "none"),
            ("items.7", "lost"),
            ("items", "items"),
            ("items.0", "first"),
            ("a.b.c", "lost too"),
        ]);
        let designed = chosen.design(data.as_bytes());
        assert_eq!(
            std::str::from_utf8(&designed).unwrap(),
            r#"{"sku":"S1","amount":1.50,"name":"x","none":null,"items":[ {"sku":"S1"}, 2 ],"first":{"sku":"S1"}}"#
        );
        assert_eq!(&*Payload::default().design(b"[1]"), b"[1]");
        assert_eq!(&*payload(&[("a", "a")]).design(b"7"), b"{}");
    }

    #[test]
    fn impossible_payloads_are_refused() {
        assert_eq!(payload(&[]).check(), Err(InvalidPayload::Count));
        for (one, other) in [
            ("a", "a"),
            ("a.0.b", "a"),
            ("a.1", "a.+01.c"),
            ("a.00", "a.0"),
        ] {
            assert!(matches!(
                payload(&[(one, "x"), ("a-b", "y"), (other, "z")]).check(),
                Err(InvalidPayload::Overlap(_))
            ));
        }
        let apart = payload(&[("a.b", "x"), ("a.bc", "y"), ("ab", "z")]);
        assert_eq!(apart.check(), Ok(()));
        for bad in [("", "a"), ("a", ""), ("a", "b\n")] {
            assert!(matches!(
                payload(&[bad]).check(),
                Err(InvalidPayload::Name(_))
            ));
        }
        let deep = "a.".repeat(64) + "a";
        assert_eq!(
            payload(&[(&deep, "x")]).check(),
            Err(InvalidPayload::Deep(deep))
        );
        let twice = payload(&[("a", "x"), ("b", "x")]);
        assert_eq!(twice.check(), Err(InvalidPayload::Twice("x".to_owned())));
    }
}
