//! What a schema may cost: counted before it is compiled, because a small text can unfold without end.
//!
//! Only the keywords that hold schemas are followed. What is unknown is not compiled either.

use std::collections::HashMap;

use serde_json::{Map, Value};

/// Schemas that one value is checked against at most, with every reference unfolded.
pub(super) const UNFOLDED_MAX: u64 = 10_000;
/// Patterns in one schema; each may take [`super::PATTERN_BYTES_MAX`].
const PATTERNS_MAX: usize = 50;
/// References that lead one to the next.
const REFERENCES_DEEP_MAX: usize = 32;
/// A value below `unevaluatedProperties` is looked at again for every keyword that may have done so.
const UNEVALUATED_FACTOR: u64 = 3;
/// A branch is tried for its result, and again for what is wrong with it.
const BRANCH_FACTOR: u64 = 2;

struct Counter<'s> {
    root: &'s Value,
    patterns: usize,
    /// What the schemas that were referred to cost; none while that is being counted.
    known: HashMap<&'s str, Option<u64>>,
    depth: usize,
}

/// How many schemas a value is checked against at most.
///
/// # Errors
/// What makes the schema too costly or impossible to count, as a sentence about it.
pub(super) fn unfolded(schema: &Value) -> Result<u64, String> {
    let mut counter = Counter {
        root: schema,
        patterns: 0,
        known: HashMap::new(),
        depth: 0,
    };
    let cost = counter.schema(schema)?;
    if cost > UNFOLDED_MAX {
        return Err(format!(
            "unfolds to more than {UNFOLDED_MAX} schemas; refer less often to the same parts"
        ));
    }
    Ok(cost)
}

impl<'s> Counter<'s> {
    fn schema(&mut self, schema: &'s Value) -> Result<u64, String> {
        let Value::Object(schema) = schema else {
            return Ok(1);
        };
        let mut cost: u64 = 1;
        let mut factor = 1;
        for (keyword, value) in schema {
            let below = match keyword.as_str() {
                "$ref" => self.reference(value)?,
                "$dynamicRef" | "$recursiveRef" => {
                    return Err(format!("has {keyword}; use $ref, which can be counted"));
                }
                "properties" | "dependentSchemas" | "dependencies" => self.each(value)?,
                "patternProperties" => {
                    self.pattern(value.as_object().map_or(0, Map::len))?;
                    self.each(value)?
                }
                // These cost nothing by themselves, but are compiled with what refers to them.
                "$defs" | "definitions" => {
                    self.each(value)?;
                    0
                }
                "allOf" | "prefixItems" => self.each(value)?,
                "anyOf" | "oneOf" => self.each(value)?.saturating_mul(BRANCH_FACTOR),
                "if" | "not" => self.schema(value)?.saturating_mul(BRANCH_FACTOR),
                "items" => match value {
                    Value::Array(_) => self.each(value)?,
                    _ => self.schema(value)?,
                },
                "unevaluatedProperties" | "unevaluatedItems" => {
                    factor = UNEVALUATED_FACTOR;
                    self.schema(value)?
                }
                "then"
                | "else"
                | "contains"
                | "propertyNames"
                | "additionalProperties"
                | "additionalItems"
                | "contentSchema" => self.schema(value)?,
                "pattern" => {
                    self.pattern(1)?;
                    1
                }
                _ => 1,
            };
            cost = cost.saturating_add(below);
        }
        Ok(cost.saturating_mul(factor))
    }

    fn each(&mut self, schemas: &'s Value) -> Result<u64, String> {
        let mut cost: u64 = 0;
        match schemas {
            Value::Object(schemas) => {
                for schema in schemas.values() {
                    cost = cost.saturating_add(self.schema(schema)?);
                }
            }
            Value::Array(schemas) => {
                for schema in schemas {
                    cost = cost.saturating_add(self.schema(schema)?);
                }
            }
            _ => {}
        }
        Ok(cost)
    }

    fn pattern(&mut self, count: usize) -> Result<(), String> {
        self.patterns += count;
        if self.patterns > PATTERNS_MAX {
            return Err(format!("has more than {PATTERNS_MAX} patterns"));
        }
        Ok(())
    }

    fn reference(&mut self, to: &'s Value) -> Result<u64, String> {
        let Value::String(to) = to else {
            return Ok(1);
        };
        let to = to.as_str();
        let Some(pointer) = to.strip_prefix('#').filter(|rest| rest.starts_with('/')) else {
            return Err(format!(
                "refers to {to:?}: other documents are never fetched, and a schema cannot hold itself; \
                 write the part into $defs and refer to it as #/$defs/its-name"
            ));
        };
        match self.known.get(to) {
            Some(Some(cost)) => return Ok(*cost),
            Some(None) => {
                return Err(format!(
                    "refers from {to:?} back to itself; write out as many levels as there are"
                ));
            }
            None => {}
        }
        // What is not there is told by whoever compiles it.
        let Some(target) = self.root.pointer(pointer) else {
            return Ok(1);
        };
        if self.depth == REFERENCES_DEEP_MAX {
            return Err(format!(
                "has more than {REFERENCES_DEEP_MAX} references one behind the other"
            ));
        }
        self.known.insert(to, None);
        self.depth += 1;
        let cost = self.schema(target)?;
        self.depth -= 1;
        self.known.insert(to, Some(cost));
        Ok(cost)
    }
}

/// Values in an event's data: what each schema may be asked about.
pub(super) fn values(data: &Value) -> u64 {
    match data {
        Value::Array(items) => 1 + items.iter().map(values).sum::<u64>(),
        Value::Object(members) => 1 + members.values().map(values).sum::<u64>(),
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_unfolds_without_end_is_told() {
        let mut defs = Map::new();
        defs.insert("a0".into(), json!({ "type": "string" }));
        for i in 1..20 {
            let below = json!({ "$ref": format!("#/$defs/a{}", i - 1) });
            defs.insert(format!("a{i}"), json!({ "allOf": [below, below] }));
        }
        let doubling = json!({ "$ref": "#/$defs/a19", "$defs": defs });
        assert!(unfolded(&doubling).unwrap_err().contains("unfolds"));
        let own =
            json!({ "$defs": { "a": { "items": { "$ref": "#/$defs/a" } } }, "$ref": "#/$defs/a" });
        assert!(unfolded(&own).unwrap_err().contains("back to itself"));
        for strange in [
            json!({ "$ref": "#" }),
            json!({ "$ref": "other.json" }),
            json!({ "$dynamicRef": "#x" }),
        ] {
            assert!(unfolded(&strange).is_err(), "{strange}");
        }
        let patterns: Map<String, Value> =
            (0..51).map(|i| (format!("^{i}"), json!(true))).collect();
        assert!(unfolded(&json!({ "patternProperties": patterns })).is_err());
        let mut nested = json!({ "type": "string" });
        for _ in 0..30 {
            nested = json!({ "allOf": [nested], "unevaluatedProperties": false });
        }
        assert!(unfolded(&nested).is_err());
    }

    #[test]
    fn a_property_may_have_a_keywords_name_and_parts_may_be_shared() {
        let schema = json!({
            "$defs": { "money": { "type": "number" }, "price": { "properties": { "net": { "$ref": "#/$defs/money" } } } },
            "properties": { "$ref": { "$ref": "#/$defs/price" }, "default": { "const": { "$ref": "kept.json" } } },
            "enum": [{ "$ref": "kept.json" }],
        });
        assert!(unfolded(&schema).unwrap() < 20);
        assert_eq!(values(&json!({ "a": [1, { "b": null }] })), 5);
    }
}
