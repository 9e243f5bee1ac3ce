//! `key=value&key=value`: the canonical form of a body that SimplifyTrip signs (`docs/systems.md`, S-37).
//!
//! The vendor's own code is not public; each detail of the reading (A-24) is a knob.

use std::collections::HashMap;

use crate::json::es::{self, Value};
use crate::limits::SIGNED_FORM_BYTES_MAX;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlatKv {
    /// Between the keys and indices of a path.
    pub separator: String,
    /// Between a path and its value.
    pub pair: String,
    /// Between pairs.
    pub join: String,
    /// What stands for null; none leaves the pair out.
    pub null: Option<String>,
    /// Keys of the root that are not signed.
    pub exclude: Vec<String>,
    /// What stands for an empty object or list; none leaves the pair out.
    pub empty: Option<String>,
    pub arrays: Arrays,
    pub sort: Sort,
    /// Values are percent-encoded, as in a query.
    pub encode: bool,
    /// The member of the body that is signed; none is the whole body.
    pub of: Option<String>,
}

/// What becomes of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrays {
    /// Its items are pairs, with their index in the path.
    Index,
    /// It is one value: its JSON.
    Json,
}

/// The order of the pairs, by their paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sort {
    /// UTF-16 code units: the order of ECMAScript's `sort()`.
    Utf16,
    /// UTF-8 bytes.
    Bytes,
    /// As they come.
    None,
}

/// The text to sign would be too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the form that is signed would have paths of more than {SIGNED_FORM_BYTES_MAX} bytes together; shorten the names above its long lists"
)]
pub struct FormTooLong;

struct Pairs {
    list: Vec<(String, String)>,
    /// Bytes that the paths may still have, also of what has others in it, or nothing: each is made.
    room: usize,
}

impl FlatKv {
    /// Whether a body around this data has a form. Half of the room is left for what that body has
    /// beside it and for the names above it.
    pub(super) fn check(&self, data: &[u8]) -> Result<(), FormTooLong> {
        let mut pairs = Pairs {
            list: Vec::new(),
            room: SIGNED_FORM_BYTES_MAX / 2,
        };
        match es::parse(data) {
            Ok(value) => self.walk(String::new(), &value, &mut pairs),
            // What cannot be read is refused by `Profile::unwritable`, in words of its own.
            Err(_) => Ok(()),
        }
    }

    /// The text that is signed for a body. A body that is not JSON signs as nothing, which no
    /// receiver accepts; a rendered body is always JSON.
    ///
    /// # Errors
    /// When the paths are longer than [`SIGNED_FORM_BYTES_MAX`] together: a long key over a long list
    /// is repeated for each of its items.
    pub fn canonical(&self, body: &[u8]) -> Result<Vec<u8>, FormTooLong> {
        let mut pairs = Pairs {
            list: Vec::new(),
            room: SIGNED_FORM_BYTES_MAX,
        };
        let mut root = es::parse(body).ok();
        if let Some(of) = &self.of {
            root = match root {
                Some(Value::Object(members)) => {
                    let mut members = members.into_iter();
                    members.find(|(key, _)| key == of).map(|(_, value)| value)
                }
                _ => None,
            };
        }
        if let Some(Value::Object(members)) = &root {
            for (key, value) in members
                .iter()
                .filter(|(key, _)| !self.exclude.contains(key))
            {
                self.walk(key.clone(), value, &mut pairs)?;
            }
        }
        let pairs = self.sorted(pairs.list).into_iter().map(|(path, value)| {
            let value = if self.encode {
                url::form_urlencoded::byte_serialize(value.as_bytes()).collect()
            } else {
                value
            };
            format!("{path}{}{value}", self.pair)
        });
        Ok(pairs.collect::<Vec<_>>().join(&self.join).into_bytes())
    }

    /// In order; of two pairs with one path the later one counts, at the place of the first.
    fn sorted(&self, pairs: Vec<(String, String)>) -> Vec<(String, String)> {
        // Found by its path and not searched for: a body has as many pairs as bytes allow.
        let mut places: HashMap<String, usize> = HashMap::with_capacity(pairs.len());
        let mut unique: Vec<(String, String)> = Vec::with_capacity(pairs.len());
        for (path, value) in pairs {
            match places.get(&path) {
                Some(place) => unique[*place].1 = value,
                None => {
                    places.insert(path.clone(), unique.len());
                    unique.push((path, value));
                }
            }
        }
        match self.sort {
            Sort::Utf16 => unique.sort_by(|(a, _), (b, _)| a.encode_utf16().cmp(b.encode_utf16())),
            Sort::Bytes => unique.sort_by(|(a, _), (b, _)| a.cmp(b)),
            Sort::None => {}
        }
        unique
    }

    fn walk(&self, path: String, value: &Value, pairs: &mut Pairs) -> Result<(), FormTooLong> {
        // Counted while they are made: at the end all of them would be in memory.
        pairs.room = pairs.room.checked_sub(path.len()).ok_or(FormTooLong)?;
        let under = |name: &str| format!("{path}{}{name}", self.separator);
        let text = match value {
            Value::Object(members) if members.is_empty() => match &self.empty {
                Some(empty) => empty.clone(),
                None => return Ok(()),
            },
            // As JSON, an empty list is a value like others.
            Value::List(items) if items.is_empty() && self.arrays == Arrays::Index => {
                match &self.empty {
                    Some(empty) => empty.clone(),
                    None => return Ok(()),
                }
            }
            Value::Object(members) => {
                for (key, value) in members {
                    self.walk(under(key), value, pairs)?;
                }
                return Ok(());
            }
            Value::List(items) if self.arrays == Arrays::Index => {
                for (index, value) in items.iter().enumerate() {
                    self.walk(under(&index.to_string()), value, pairs)?;
                }
                return Ok(());
            }
            Value::List(_) => {
                let mut json = Vec::new();
                value.write(&mut json);
                String::from_utf8(json).unwrap_or_default()
            }
            Value::Null => match &self.null {
                Some(null) => null.clone(),
                None => return Ok(()),
            },
            Value::Bool(flag) => flag.to_string(),
            Value::Number(number) => es::number(*number),
            Value::Text(text) => text.clone(),
        };
        pairs.list.push((path, text));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flat() -> FlatKv {
        FlatKv {
            separator: "_".into(),
            pair: "=".into(),
            join: "&".into(),
            null: Some(String::new()),
            exclude: vec!["signature".into()],
            empty: None,
            arrays: Arrays::Index,
            sort: Sort::Utf16,
            encode: false,
            of: None,
        }
    }

    #[test]
    fn what_has_nothing_in_it_takes_room_too() {
        let name = "a".repeat(1_000);
        let body = |items: usize| format!("{{\"{name}\":[{}]}}", vec!["[]"; items].join(","));
        assert_eq!(flat().canonical(body(10_000).as_bytes()), Ok(Vec::new()));
        assert_eq!(flat().canonical(body(20_000).as_bytes()), Err(FormTooLong));
    }

    #[test]
    fn every_detail_is_a_knob() {
        let canonical = |form: FlatKv, body: &str| {
            String::from_utf8(form.canonical(body.as_bytes()).unwrap()).unwrap()
        };
        let body = r#"{"b":[],"a":{"x y":[1,"é"],"e":{}},"a_e":7}"#;
        for (form, expected) in [
            (flat(), "a_e=7&a_x y_0=1&a_x y_1=é"),
            (
                FlatKv {
                    empty: Some("-".into()),
                    sort: Sort::None,
                    ..flat()
                },
                "b=-&a_x y_0=1&a_x y_1=é&a_e=7",
            ),
            (
                FlatKv {
                    arrays: Arrays::Json,
                    ..flat()
                },
                "a_e=7&a_x y=[1,\"é\"]&b=[]",
            ),
            (
                FlatKv {
                    encode: true,
                    of: Some("a".into()),
                    ..flat()
                },
                "x y_0=1&x y_1=%C3%A9",
            ),
            (
                FlatKv {
                    of: Some("nothing".into()),
                    ..flat()
                },
                "",
            ),
        ] {
            assert_eq!(canonical(form, body), expected);
        }
        // Beyond the first 65,536 characters the two orders differ.
        let body = "{\"\u{ff5e}\":1,\"\u{1f600}\":2}";
        let bytes = FlatKv {
            sort: Sort::Bytes,
            ..flat()
        };
        assert_eq!(canonical(flat(), body), "\u{1f600}=2&\u{ff5e}=1");
        assert_eq!(canonical(bytes, body), "\u{ff5e}=1&\u{1f600}=2");
    }

    #[test]
    fn paths_are_flattened_sorted_and_joined() {
        let body = r#"{"z":null,"a_b":true,"items":[{"n":1.50},2,[],{}],"B":"x y&z=é","signature":"no","list":[0,1,2,3,4,5,6,7,8,9,10]}"#;
        let expected = "B=x y&z=é&a_b=true&items_0_n=1.5&items_1=2&list_0=0&list_1=1&list_10=10&list_2=2&list_3=3&list_4=4&list_5=5&list_6=6&list_7=7&list_8=8&list_9=9&z=";
        assert_eq!(
            String::from_utf8(flat().canonical(body.as_bytes()).unwrap()).unwrap(),
            expected
        );
        assert_eq!(
            FlatKv {
                null: None,
                ..flat()
            }
            .canonical(b"{\"a\":null,\"b\":1}")
            .unwrap(),
            b"b=1"
        );
    }

    #[test]
    fn a_long_name_over_a_long_list_has_no_form() {
        let items = vec!["1"; 65_000].join(",");
        let body = format!("{{\"{}\":[{items}]}}", "k".repeat(130_000));
        assert_eq!(flat().canonical(body.as_bytes()), Err(FormTooLong));
        let body = format!("{{\"k\":[{items}]}}");
        assert!(flat().canonical(body.as_bytes()).is_ok());
    }
}
