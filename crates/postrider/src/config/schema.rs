//! The configuration as a JSON Schema, made from its types: for editors, and for the page of its keys.

use serde_json::{Value, json};
use utoipa::{PartialSchema, ToSchema};

use super::Config;

/// The JSON Schema of a configuration file, with every key, its meaning and its default.
///
/// # Panics
/// Never: the defaults and the types are this program's own.
pub fn schema() -> Value {
    let mut named = Vec::new();
    Config::schemas(&mut named);
    let mut root = serde_json::to_value(Config::schema()).expect("a schema is JSON");
    let defaults = serde_json::to_value(Config::default()).expect("the defaults are JSON");
    let mut definitions = serde_json::Map::new();
    for (name, schema) in named {
        let mut schema = serde_json::to_value(schema).expect("a schema is JSON");
        point_to_definitions(&mut schema);
        definitions.insert(name, schema);
    }
    point_to_definitions(&mut root);
    for (section, schema) in properties(&mut root) {
        let name = schema["$ref"].as_str().and_then(|to| to.rsplit('/').next());
        let Some(section_schema) = name.and_then(|name| definitions.get_mut(name)) else {
            continue;
        };
        for (key, schema) in properties(section_schema) {
            let default = &defaults[section.as_str()][key.as_str()];
            if !default.is_null() {
                schema["default"] = default.clone();
            }
        }
    }
    root["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    root["title"] = json!("Postrider's configuration");
    root["$defs"] = Value::Object(definitions);
    root
}

fn properties(schema: &mut Value) -> impl Iterator<Item = (&String, &mut Value)> {
    let properties = schema.get_mut("properties").and_then(Value::as_object_mut);
    properties.into_iter().flatten()
}

/// In a schema by itself, what is named is elsewhere than in an API's document.
fn point_to_definitions(schema: &mut Value) {
    match schema {
        Value::Object(members) => {
            for (name, value) in members {
                match value {
                    Value::String(to) if name == "$ref" => {
                        *to = to.replace("#/components/schemas/", "#/$defs/");
                    }
                    value => point_to_definitions(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(point_to_definitions),
        _ => {}
    }
}
