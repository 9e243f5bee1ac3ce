//! Checking JSON without rewriting it: depth, duplicate keys, and the bytes of a member.

pub mod es;

use std::collections::HashSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use crate::limits::JSON_DEPTH_MAX;

/// Why a body is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidJson {
    #[error("is not JSON: {0}")]
    Syntax(String),
    #[error("is nested deeper than {JSON_DEPTH_MAX} levels")]
    TooDeep,
    #[error("has the key {0:?} twice in one object")]
    DuplicateKey(String),
}

const TOO_DEEP: &str = "\u{1}too deep";
const DUPLICATE: &str = "\u{1}duplicate ";

/// Checks that `bytes` are one JSON value, not too deep, without duplicate keys.
///
/// # Errors
/// When they are not; the message of a syntax error names line and column.
pub fn check_json(bytes: &[u8]) -> Result<(), InvalidJson> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    // Our own limit is lower than serde_json's 128, so its recursion guard stays on.
    let checked = Checked { depth: 0 }
        .deserialize(&mut reader)
        .and_then(|()| reader.end());
    checked.map_err(|error| {
        let text = error.to_string();
        // serde_json appends the place to custom messages; ours carry a marker in front.
        if text.starts_with(TOO_DEEP) || text.contains("recursion limit") {
            InvalidJson::TooDeep
        } else if let Some(rest) = text.strip_prefix(DUPLICATE) {
            let key = rest.rsplit_once(" at line").map_or(rest, |(key, _)| key);
            InvalidJson::DuplicateKey(key.to_owned())
        } else {
            InvalidJson::Syntax(text)
        }
    })
}

#[derive(Clone, Copy)]
struct Checked {
    depth: usize,
}

impl Checked {
    fn deeper<E: Error>(self) -> Result<Self, E> {
        if self.depth >= JSON_DEPTH_MAX {
            return Err(E::custom(TOO_DEEP));
        }
        Ok(Self {
            depth: self.depth + 1,
        })
    }
}

impl<'de> DeserializeSeed<'de> for Checked {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Checked {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }
    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }
    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }
    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }
    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let inner = self.deeper()?;
        while seq.next_element_seed(inner)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let inner = self.deeper()?;
        let mut seen: HashSet<std::borrow::Cow<'de, str>> = HashSet::new();
        while let Some(Key(key)) = map.next_key()? {
            if !seen.insert(key.clone()) {
                return Err(A::Error::custom(format!("{DUPLICATE}{key}")));
            }
            map.next_value_seed(inner)?;
        }
        Ok(())
    }
}

#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] std::borrow::Cow<'a, str>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_and_duplicates_are_found() {
        assert_eq!(
            check_json(br#"{"a":[1,2.5,"x",null,true],"b":{"a":1}}"#),
            Ok(())
        );
        let deep = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert_eq!(check_json(deep(64).as_bytes()), Ok(()));
        assert_eq!(check_json(deep(65).as_bytes()), Err(InvalidJson::TooDeep));
        assert_eq!(
            check_json(deep(100_000).as_bytes()),
            Err(InvalidJson::TooDeep)
        );
        assert_eq!(
            check_json(br#"{"a":1,"a":2}"#),
            Err(InvalidJson::DuplicateKey("a".to_owned()))
        );
        assert_eq!(
            check_json(br#"[{"a":{"b":1,"\u0062":2}}]"#),
            Err(InvalidJson::DuplicateKey("b".to_owned()))
        );
        for bad in ["", "{", "{} x", "nul", "{\"a\":}", "\u{feff}{}"] {
            assert!(
                matches!(check_json(bad.as_bytes()), Err(InvalidJson::Syntax(_))),
                "{bad}"
            );
        }
        assert!(matches!(
            check_json(b"\"\xff\""),
            Err(InvalidJson::Syntax(_))
        ));
    }
}
