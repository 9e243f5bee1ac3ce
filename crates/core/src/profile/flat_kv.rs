//! `key=value&key=value`: the canonical form of a body that SimplifyTrip signs (`vendors.md` S-37).
//!
//! The vendor's own code is not public; each detail of the reading (A-24) is a knob.

use std::collections::BTreeMap;

use crate::json::es::{self, Value};

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
}

impl FlatKv {
    /// The text that is signed for a body. A body that is not JSON signs as nothing, which no
    /// receiver accepts; a rendered body is always JSON.
    pub fn canonical(&self, body: &[u8]) -> Vec<u8> {
        let mut flat = BTreeMap::new();
        if let Ok(Value::Object(members)) = es::parse(body) {
            for (key, value) in members
                .iter()
                .filter(|(key, _)| !self.exclude.contains(key))
            {
                self.walk(key.clone(), value, &mut flat);
            }
        }
        let pairs: Vec<String> = flat
            .into_values()
            .map(|(path, value)| format!("{path}{}{value}", self.pair))
            .collect();
        pairs.join(&self.join).into_bytes()
    }

    /// Collects pairs by the UTF-16 code units of their paths: the order of ECMAScript's `sort()`.
    fn walk(&self, path: String, value: &Value, flat: &mut BTreeMap<Vec<u16>, (String, String)>) {
        let text = match value {
            Value::Object(members) => {
                for (key, value) in members {
                    self.walk(format!("{path}{}{key}", self.separator), value, flat);
                }
                return;
            }
            Value::List(items) => {
                for (index, value) in items.iter().enumerate() {
                    self.walk(format!("{path}{}{index}", self.separator), value, flat);
                }
                return;
            }
            Value::Null => match &self.null {
                Some(null) => null.clone(),
                None => return,
            },
            Value::Bool(flag) => flag.to_string(),
            Value::Number(number) => es::number(*number),
            Value::Text(text) => text.clone(),
        };
        flat.insert(path.encode_utf16().collect(), (path, text));
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
        }
    }

    #[test]
    fn paths_are_flattened_sorted_and_joined() {
        let body = r#"{"z":null,"a_b":true,"items":[{"n":1.50},2,[],{}],"B":"x y&z=é","signature":"no","list":[0,1,2,3,4,5,6,7,8,9,10]}"#;
        let expected = "B=x y&z=é&a_b=true&items_0_n=1.5&items_1=2&list_0=0&list_1=1&list_10=10&list_2=2&list_3=3&list_4=4&list_5=5&list_6=6&list_7=7&list_8=8&list_9=9&z=";
        assert_eq!(
            String::from_utf8(flat().canonical(body.as_bytes())).unwrap(),
            expected
        );
        assert_eq!(
            FlatKv {
                null: None,
                ..flat()
            }
            .canonical(b"{\"a\":null,\"b\":1}"),
            b"b=1"
        );
    }
}
