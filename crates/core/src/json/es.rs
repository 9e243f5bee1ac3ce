//! JSON as ECMAScript reads and writes it.
//!
//! Some receivers verify `JSON.stringify(JSON.parse(body))` instead of the bytes that came in. A body
//! written by [`compact`] is a fixed point of that: no white space, numbers as ECMAScript prints them,
//! integer-like keys first, no escape that `JSON.stringify` would not make.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};

use super::InvalidJson;

/// A value as `JSON.parse` makes it.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Null,
    Bool(bool),
    Number(f64),
    Text(String),
    List(Vec<Self>),
    /// In the order in which ECMAScript enumerates the keys.
    Object(Vec<(String, Self)>),
}

/// Parses as `JSON.parse` does.
///
/// # Errors
/// When it is not JSON, or a number is beyond the range of a double.
pub fn parse(bytes: &[u8]) -> Result<Value, InvalidJson> {
    serde_json::from_slice(bytes).map_err(|error| InvalidJson::Syntax(error.to_string()))
}

/// Rewrites JSON as `JSON.stringify(JSON.parse(json))` would.
///
/// # Errors
/// As [`parse`].
pub fn compact(bytes: &[u8]) -> Result<Vec<u8>, InvalidJson> {
    let value = parse(bytes)?;
    let mut out = Vec::with_capacity(bytes.len());
    value.write(&mut out);
    Ok(out)
}

/// A number as `String(number)` gives it.
pub fn number(value: f64) -> String {
    if value == 0.0 {
        // Negative zero too.
        return "0".to_owned();
    }
    ryu_js::Buffer::new().format(value).to_owned()
}

/// The first whole number that ECMAScript reads as another one, and what it makes of it: a double
/// holds 53 bits. `json` must be JSON.
pub fn changed_number(json: &[u8]) -> Option<(&str, String)> {
    /// Every whole number with so many digits is exact.
    const EXACT_DIGITS: usize = 15;
    let mut at = 0;
    while let Some(byte) = json.get(at) {
        match byte {
            b'"' => {
                at += 1;
                while json.get(at).is_some_and(|byte| *byte != b'"') {
                    // Of the quotes only one behind a backslash ends no text; the digits of `\u` are passed
                    // as all else is.
                    at += if json[at] == b'\\' { 2 } else { 1 };
                }
                at += 1;
            }
            b'-' | b'0'..=b'9' => {
                let rest = &json[at..];
                let end = rest
                    .iter()
                    .position(|byte| !b"+-.0123456789Ee".contains(byte));
                let text = str::from_utf8(&rest[..end.unwrap_or(rest.len())]).ok()?;
                at += text.len();
                let whole = text
                    .bytes()
                    .all(|byte| byte == b'-' || byte.is_ascii_digit());
                // A minus makes it one longer than it has digits, which costs a comparison and no more.
                if whole && text.len() > EXACT_DIGITS {
                    let value: f64 = text.parse().ok()?;
                    let sent = number(value);
                    // From 10^21 on it is written with an exponent, of the same number perhaps.
                    let same =
                        sent == text || (sent.contains('e') && format!("{value:.0}") == text);
                    if !same {
                        return Some((text, sent));
                    }
                }
            }
            _ => at += 1,
        }
    }
    None
}

impl Value {
    /// Writes as `JSON.stringify` does.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Null => out.extend_from_slice(b"null"),
            Self::Bool(true) => out.extend_from_slice(b"true"),
            Self::Bool(false) => out.extend_from_slice(b"false"),
            Self::Number(value) => out.extend_from_slice(number(*value).as_bytes()),
            Self::Text(text) => write_text(text, out),
            Self::List(items) => {
                out.push(b'[');
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        out.push(b',');
                    }
                    item.write(out);
                }
                out.push(b']');
            }
            Self::Object(members) => {
                out.push(b'{');
                for (index, (key, value)) in members.iter().enumerate() {
                    if index > 0 {
                        out.push(b',');
                    }
                    write_text(key, out);
                    out.push(b':');
                    value.write(out);
                }
                out.push(b'}');
            }
        }
    }
}

/// serde_json escapes exactly what `JSON.stringify` does: the quote, the backslash and control
/// characters, the latter by their short form or as lower-case `\u00xx`.
fn write_text(text: &str, out: &mut Vec<u8>) {
    serde_json::to_writer(out, text).expect("a string is JSON and a vector takes every byte");
}

/// Keys that ECMAScript puts first, in their numeric order: canonical array indices.
fn index(key: &str) -> Option<u32> {
    let canonical = key == "0"
        || (!key.starts_with('0') && !key.is_empty() && key.bytes().all(|b| b.is_ascii_digit()));
    // The greatest array index is 2^32 - 2.
    key.parse()
        .ok()
        .filter(|index| canonical && *index < u32::MAX)
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value as f64))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value as f64))
    }
    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Number(value))
    }
    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Value::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut indices: BTreeMap<u32, (String, Value)> = BTreeMap::new();
        let mut others: Vec<(String, Value)> = Vec::new();
        // Found by its name and not searched for: that would take the square of the keys.
        let mut places: HashMap<String, usize> = HashMap::new();
        while let Some((key, value)) = map.next_entry::<String, Value>()? {
            // A key that comes twice keeps its first place and its last value.
            match index(&key) {
                Some(index) => drop(indices.insert(index, (key, value))),
                None => match places.get(&key) {
                    Some(place) => others[*place].1 = value,
                    None => {
                        places.insert(key.clone(), others.len());
                        others.push((key, value));
                    }
                },
            }
        }
        let mut members: Vec<(String, Value)> = indices.into_values().collect();
        members.append(&mut others);
        Ok(Value::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(given: &str, expected: &str) {
        let once = compact(given.as_bytes()).unwrap();
        assert_eq!(std::str::from_utf8(&once).unwrap(), expected);
        assert_eq!(compact(&once).unwrap(), once, "a fixed point");
    }

    #[test]
    fn it_writes_what_ecmascript_writes() {
        check(" { \"b\" : 1.50 , \"a\" : [ ] } ", r#"{"b":1.5,"a":[]}"#);
        check(
            r#"{"10":1,"b":2,"2":3,"01":4,"4294967295":5,"-1":6}"#,
            r#"{"2":3,"10":1,"b":2,"01":4,"4294967295":5,"-1":6}"#,
        );
        check(
            "[1e21,1e20,123456789012345678901234567890,1e-7,0.000001,-0,-0.0,0.30000000000000004,11.5,100,1E3,5e-324,1.7976931348623157e308]",
            "[1e+21,100000000000000000000,1.2345678901234568e+29,1e-7,0.000001,0,0,0.30000000000000004,11.5,100,1000,5e-324,1.7976931348623157e+308]",
        );
        check(
            r#"[9007199254740993,12345678901234567890,-9223372036854775808]"#,
            "[9007199254740992,12345678901234567000,-9223372036854776000]",
        );
        check(
            "[\"\\u00e9\\/\\u2028 \\u001f\\b\\t\\n\\f\\r\\\"\\\\ \\ud83d\\ude00\"]",
            "[\"é/\u{2028} \\u001f\\b\\t\\n\\f\\r\\\"\\\\ 😀\"]",
        );
        assert!(compact(b"1e400").is_err());
    }

    #[test]
    fn it_tells_which_whole_number_changes() {
        for (json, changed) in [
            (
                "[9007199254740991, -9007199254740992, 100000000000000000000]",
                None,
            ),
            (
                "{\"a\\\"1\": \"9007199254740993\", \"b\": 0.1234567890123456789}",
                None,
            ),
            (
                "{\"a\": 9007199254740993}",
                Some(("9007199254740993", "9007199254740992")),
            ),
            (
                "[1, -12345678901234567890 ]",
                Some(("-12345678901234567890", "-12345678901234567000")),
            ),
            ("[123456789012345680000, 10000000000000000000000]", None),
            (
                "36028797018963968",
                Some(("36028797018963968", "36028797018963970")),
            ),
            ("1e30", None),
        ] {
            let told = changed_number(json.as_bytes());
            let told = told.as_ref().map(|(text, sent)| (*text, sent.as_str()));
            assert_eq!(told, changed, "{json}");
        }
    }
}
