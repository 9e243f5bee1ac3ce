//! What a schema may cost: counted before it is compiled, because a small text can unfold without end.
//!
//! Only the keywords that hold schemas are followed. What is unknown is not compiled either.

use std::collections::HashMap;

use regex_automata::nfa::thompson::NFA;
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

/// Keywords that give a schema a name or another base: references would lead elsewhere than is counted.
const NAMING: [&str; 7] = [
    "$id",
    "$anchor",
    "$dynamicAnchor",
    "$recursiveAnchor",
    "$dynamicRef",
    "$recursiveRef",
    "$schema",
];
/// The dialects that are counted as they are checked.
const DIALECTS: [&str; 4] = [
    "https://json-schema.org/draft/2020-12/schema",
    "https://json-schema.org/draft/2019-09/schema",
    "http://json-schema.org/draft-07/schema",
    "http://json-schema.org/draft-06/schema",
];
/// States that are taken for a pattern which this engine does not read as it stands.
const STATES_UNKNOWN: u64 = 5_000;

/// What checking costs at most.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Cost {
    /// Schemas that one value is checked against, with every reference unfolded.
    pub(super) schemas: u64,
    /// States of the patterns that one text is tried with, unfolded likewise.
    pub(super) states: u64,
    /// Patterns that are compiled.
    pub(super) patterns: usize,
}

impl Cost {
    const ONE: Self = Self {
        schemas: 1,
        states: 0,
        patterns: 0,
    };

    fn plus(self, other: Self) -> Self {
        Self {
            schemas: self.schemas.saturating_add(other.schemas),
            states: self.states.saturating_add(other.states),
            patterns: 0,
        }
    }

    /// Of what a value is compared with: all of it, one after the other.
    fn of_values(compared: &Value) -> Self {
        Self {
            schemas: size(compared).values,
            ..Self::default()
        }
    }

    fn times(self, factor: u64) -> Self {
        Self {
            schemas: self.schemas.saturating_mul(factor),
            states: self.states.saturating_mul(factor),
            patterns: 0,
        }
    }
}

/// Whether the validator keeps such an `enum` in a table; it goes through any other from its beginning.
fn is_looked_up(options: &Value) -> bool {
    let options = options.as_array().map_or(&[][..], Vec::as_slice);
    let are_all = |kind: fn(&Value) -> bool| options.iter().all(|one| one.is_null() || kind(one));
    are_all(Value::is_string) || are_all(Value::is_i64)
}

struct Counter<'s> {
    root: &'s Value,
    patterns: usize,
    /// What the schemas that were referred to cost; none while that is being counted.
    known: HashMap<&'s str, Option<Cost>>,
    depth: usize,
}

/// How many schemas a value is checked against at most. Takes the schema's own `$id` away: it says
/// where the schema is published, and references inside would be read against it.
///
/// # Errors
/// What makes the schema too costly or impossible to count, as a sentence about it.
pub(super) fn of(schema: &mut Value) -> Result<Cost, String> {
    let mut dialect = None;
    if let Value::Object(root) = schema {
        // Only here at the root both may be; the dialect is put back for whoever compiles.
        root.remove("$id");
        dialect = root.remove("$schema");
    }
    if let Some(dialect) = &dialect {
        let known = dialect.as_str().map(|text| text.trim_end_matches('#'));
        if !known.is_some_and(|known| DIALECTS.contains(&known)) {
            let known = DIALECTS.join(", ");
            return Err(format!("has a $schema that is not one of {known}"));
        }
    }
    let mut counter = Counter {
        root: schema,
        patterns: 0,
        known: HashMap::new(),
        depth: 0,
    };
    let cost = counter.schema(schema)?;
    let patterns = counter.patterns;
    if let (Value::Object(root), Some(dialect)) = (&mut *schema, dialect) {
        root.insert("$schema".to_owned(), dialect);
    }
    if cost.schemas > UNFOLDED_MAX {
        return Err(format!(
            "unfolds to more than {UNFOLDED_MAX} schemas; refer less often to the same parts"
        ));
    }
    Ok(Cost { patterns, ..cost })
}

impl<'s> Counter<'s> {
    fn schema(&mut self, schema: &'s Value) -> Result<Cost, String> {
        let Value::Object(schema) = schema else {
            // What `dependencies` has may be names that have to be there.
            return Ok(Cost::of_values(schema));
        };
        let mut cost = Cost::ONE;
        let mut factor = 1;
        for (keyword, value) in schema {
            // `id` with a text is what draft 4 has for `$id`; a property of that name has a schema.
            if NAMING.contains(&keyword.as_str()) || (keyword == "id" && value.is_string()) {
                return Err(format!(
                    "has {keyword} inside; use $ref to #/$defs/its-name, which can be counted"
                ));
            }
            let below = match keyword.as_str() {
                "$ref" => self.reference(value)?,
                "properties" | "dependentSchemas" | "dependencies" => self.each(value)?,
                "patternProperties" => {
                    let names = value.as_object().into_iter().flat_map(Map::keys);
                    let mut states = Cost::default();
                    for name in names {
                        states = states.plus(self.pattern(name)?);
                    }
                    self.each(value)?.plus(states)
                }
                // These cost nothing by themselves, but are compiled with what refers to them.
                "$defs" | "definitions" => {
                    self.each(value)?;
                    Cost::default()
                }
                "allOf" | "prefixItems" => self.each(value)?,
                "anyOf" | "oneOf" => self.each(value)?.times(BRANCH_FACTOR),
                "if" | "not" => self.schema(value)?.times(BRANCH_FACTOR),
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
                "pattern" => match value.as_str() {
                    Some(pattern) => self.pattern(pattern)?.plus(Cost::ONE),
                    None => Cost::ONE,
                },
                "enum" if is_looked_up(value) => Cost::ONE,
                "enum" | "const" | "required" | "dependentRequired" => Cost::of_values(value),
                // What holds no schema is one check by itself, and what is unknown counts as much.
                _ => Cost::ONE,
            };
            cost = cost.plus(below);
        }
        Ok(cost.times(factor))
    }

    fn each(&mut self, schemas: &'s Value) -> Result<Cost, String> {
        let mut cost = Cost::default();
        match schemas {
            Value::Object(schemas) => {
                for schema in schemas.values() {
                    cost = cost.plus(self.schema(schema)?);
                }
            }
            Value::Array(schemas) => {
                for schema in schemas {
                    cost = cost.plus(self.schema(schema)?);
                }
            }
            _ => {}
        }
        Ok(cost)
    }

    /// What trying a text with a pattern costs for each of its bytes: a step for each state at most.
    fn pattern(&mut self, pattern: &str) -> Result<Cost, String> {
        self.patterns += 1;
        if self.patterns > PATTERNS_MAX {
            return Err(format!("has more than {PATTERNS_MAX} patterns"));
        }
        // The validator's own bound, found here so that the refusal names the pattern.
        let config = NFA::config().nfa_size_limit(Some(super::PATTERN_BYTES_MAX));
        let states = match NFA::compiler().configure(config).build(pattern) {
            Ok(nfa) => nfa.states().len() as u64,
            Err(error) if error.size_limit().is_some() => {
                return Err(format!(
                    "has the pattern {pattern:?}, which takes more than {} bytes; repeat less",
                    super::PATTERN_BYTES_MAX
                ));
            }
            // ECMAScript writes some things otherwise; the validator translates them.
            Err(_) => STATES_UNKNOWN,
        };
        Ok(Cost {
            states,
            ..Cost::default()
        })
    }

    fn reference(&mut self, to: &'s Value) -> Result<Cost, String> {
        let Value::String(to) = to else {
            return Ok(Cost::ONE);
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
        // One spelling for one place, and the place is there: what is read otherwise by whoever checks
        // would be counted wrongly.
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/$_-.~".contains(&byte);
        let target = Some(pointer)
            .filter(|pointer| pointer.bytes().all(plain))
            .and_then(|pointer| self.root.pointer(pointer));
        let Some(target) = target else {
            return Err(format!(
                "refers to {to:?}, which is not there; write it as #/$defs/its-name, with letters, digits, _, - and . only"
            ));
        };
        if self.depth == REFERENCES_DEEP_MAX {
            return Err(format!(
                "has more than {REFERENCES_DEEP_MAX} references one behind the other"
            ));
        }
        self.known.insert(to, None);
        self.depth += 1;
        // A mistake ends the whole count, so nobody sees what it leaves behind here.
        let cost = self.schema(target)?;
        self.depth -= 1;
        self.known.insert(to, Some(cost));
        Ok(cost)
    }
}

/// How large an event's data is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Size {
    /// What each schema may be asked about.
    pub(super) values: u64,
    /// Bytes that each pattern may be tried with: texts and names.
    pub(super) text: u64,
}

pub(super) fn size(data: &Value) -> Size {
    let mut size = Size::default();
    measure(data, &mut size);
    size
}

fn measure(data: &Value, size: &mut Size) {
    size.values += 1;
    match data {
        Value::String(text) => size.text += text.len() as u64 + 1,
        Value::Array(items) => items.iter().for_each(|item| measure(item, size)),
        Value::Object(members) => {
            for (name, value) in members {
                size.text += name.len() as u64 + 1;
                measure(value, size);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn unfolded(schema: &Value) -> Result<u64, String> {
        of(&mut schema.clone()).map(|cost| cost.schemas)
    }

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
    fn what_a_value_is_compared_with_one_by_one_counts_each() {
        let many = |of: fn(u64) -> Value| (0..500).map(of).collect::<Vec<_>>();
        let names = many(|i| json!(format!("n{i}")));
        let mut kinds = many(|i| json!(i));
        kinds.push(json!("x"));
        for costly in [
            json!({ "enum": kinds }),
            json!({ "enum": many(|i| json!([i])) }),
            json!({ "const": names }),
            json!({ "required": names }),
            json!({ "dependentRequired": { "a": names } }),
            json!({ "dependencies": { "a": names } }),
        ] {
            assert!(unfolded(&costly).unwrap() >= 500, "{costly}");
        }
        // These the validator looks up.
        for cheap in [
            json!({ "enum": names }),
            json!({ "enum": many(|i| if i == 0 { Value::Null } else { json!(i) }) }),
        ] {
            assert_eq!(unfolded(&cheap).unwrap(), 2, "{cheap}");
        }
    }

    #[test]
    fn a_property_may_have_a_keywords_name_and_parts_may_be_shared() {
        let schema = json!({
            "$defs": { "money": { "type": "number" }, "price": { "properties": { "net": { "$ref": "#/$defs/money" } } } },
            "properties": { "$ref": { "$ref": "#/$defs/price" }, "default": { "const": { "$ref": "kept.json" } } },
            "enum": [{ "$ref": "kept.json" }],
        });
        assert!(unfolded(&schema).unwrap() < 20);
        let size = size(&json!({ "a": [1, { "b": "xyz" }] }));
        assert_eq!(size, Size { values: 5, text: 8 });
    }
}
