//! A distribution: a named set of events with an endpoint of its own, live or paused, and a payload
//! that its owner designed (`vendors.md` F-01, F-08, F-11).

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::limits::{NAME_BYTES_MAX, PAYLOAD_FIELDS_MAX};

/// What an endpoint that belongs to a distribution has beside an endpoint's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Distribution {
    pub name: String,
    /// Typed by the owner; the `type` of its webhooks.
    pub event_name: String,
    pub payload: Payload,
}

/// What a distribution's webhooks carry of an event's data.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Payload {
    /// The chosen fields in their order; none takes the data as it is.
    pub fields: Option<Vec<PayloadField>>,
    /// Sends the payload alone, without an envelope around it.
    #[serde(default)]
    pub raw: bool,
}

/// A field of the data, and the name it gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
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
    #[error("has the name {0:?} twice")]
    Twice(String),
}

impl Payload {
    /// # Errors
    /// When the list is empty or too long, or a name is none or is there twice.
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
            if !seen.insert(&field.to) {
                return Err(InvalidPayload::Twice(field.to.clone()));
            }
        }
        Ok(())
    }

    /// The chosen part of an event's data. What the data lacks is left out; values keep their bytes.
    pub fn design<'d>(&self, data: &'d [u8]) -> Cow<'d, [u8]> {
        let Some(fields) = &self.fields else {
            return Cow::Borrowed(data);
        };
        let mut out = vec![b'{'];
        if let Ok(root) = serde_json::from_slice::<&RawValue>(data) {
            for field in fields {
                let Some(value) = find(root, &field.from) else {
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
        }
        out.push(b'}');
        Cow::Owned(out)
    }
}

fn find<'d>(root: &'d RawValue, path: &str) -> Option<&'d RawValue> {
    path.split('.').try_fold(root, |value, name| {
        match value.get().trim_start().as_bytes().first()? {
            b'{' => {
                let object: BTreeMap<Cow<'_, str>, &'d RawValue> =
                    serde_json::from_str(value.get()).ok()?;
                object.get(name).copied()
            }
            b'[' => {
                let list: Vec<&'d RawValue> = serde_json::from_str(value.get()).ok()?;
                list.get(name.parse::<usize>().ok()?).copied()
            }
            _ => None,
        }
    })
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
            ("a.b.c", "lost too"),
        ]);
        let designed = chosen.design(data.as_bytes());
        assert_eq!(
            std::str::from_utf8(&designed).unwrap(),
            r#"{"sku":"S1","amount":1.50,"name":"x","none":null}"#
        );
        assert_eq!(&*Payload::default().design(b"[1]"), b"[1]");
        assert_eq!(&*payload(&[("a", "a")]).design(b"7"), b"{}");
    }

    #[test]
    fn impossible_payloads_are_refused() {
        assert_eq!(payload(&[]).check(), Err(InvalidPayload::Count));
        for bad in [("", "a"), ("a", ""), ("a", "b\n")] {
            assert!(matches!(
                payload(&[bad]).check(),
                Err(InvalidPayload::Name(_))
            ));
        }
        let twice = payload(&[("a", "x"), ("b", "x")]);
        assert_eq!(twice.check(), Err(InvalidPayload::Twice("x".to_owned())));
    }
}
