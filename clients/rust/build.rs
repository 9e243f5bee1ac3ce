//! Makes the client from the server's OpenAPI document, `docs/openapi.json`.
//!
//! The generator reads OpenAPI 3.0; the document is 3.1. What differs is how a value may be null, and what 3.0 has no
//! word for, which says nothing of the client's types.

use std::{env, fs, path::Path};

use progenitor::{GenerationSettings, Generator, InterfaceStyle};
use serde_json::{Map, Value, json};

const DOCUMENT: &str = "../../docs/openapi.json";
/// What describes without changing a type, and what the server checks itself.
const LEFT_OUT: [&str; 3] = ["examples", "propertyNames", "pattern"];

fn main() {
    println!("cargo::rerun-if-changed={DOCUMENT}");
    let text = fs::read_to_string(DOCUMENT).expect("the document is at docs/openapi.json");
    let mut document: Value = serde_json::from_str(&text).expect("it is JSON");
    document["openapi"] = json!("3.0.3");
    // Pages, health and metrics are not for programs of this kind.
    let paths = document["paths"].as_object_mut().expect("it has paths");
    paths.retain(|path, _| path.starts_with("/v1/"));
    to_3_0(&mut document);
    // A newer server may have more of them.
    let codes = document.pointer_mut("/components/schemas/ErrorCode");
    let codes = codes.and_then(Value::as_object_mut);
    codes.expect("refusals have a code").remove("enum");
    let spec = serde_json::from_value(document).expect("it is OpenAPI 3.0 now");
    let mut settings = GenerationSettings::default();
    settings.with_interface(InterfaceStyle::Builder);
    let tokens = Generator::new(&settings)
        .generate_tokens(&spec)
        .expect("a client can be made of it");
    let file = syn::parse2(tokens).expect("the generator writes Rust");
    let out = env::var_os("OUT_DIR").expect("cargo sets it");
    let code = prettyplease::unparse(&file);
    fs::write(Path::new(&out).join("client.rs"), code).expect("OUT_DIR takes files");
}

fn to_3_0(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(to_3_0),
        Value::Object(object) => {
            object.values_mut().for_each(to_3_0);
            LEFT_OUT.iter().for_each(|name| drop(object.remove(*name)));
            null_apart(object);
            if object.contains_key("in")
                && let Some(schema) = object.get_mut("schema").and_then(Value::as_object_mut)
            {
                // A parameter is there or it is not.
                schema.remove("nullable");
            }
            if let Some(content) = object.get_mut("content").and_then(Value::as_object_mut)
                && let Some(problem) = content.remove("application/problem+json")
            {
                // The generator knows JSON by this name only.
                content.insert("application/json".to_owned(), problem);
            }
        }
        _ => {}
    }
}

/// `"type": ["string", "null"]` and `"oneOf": [{"type": "null"}, …]` become `"nullable": true`.
fn null_apart(object: &mut Map<String, Value>) {
    if let Some(Value::Array(types)) = object.get("type") {
        let known: Vec<Value> = types.iter().filter(|t| *t != "null").cloned().collect();
        let [of] = &known[..] else {
            panic!("a value of several types: {types:?}");
        };
        let of = of.clone();
        object.insert("type".to_owned(), of);
        object.insert("nullable".to_owned(), json!(true));
    }
    if let Some(Value::Array(choices)) = object.get_mut("oneOf") {
        let count = choices.len();
        choices.retain(|choice| choice["type"] != "null");
        let is_nullable = choices.len() < count;
        if let (true, [only]) = (is_nullable, &choices[..]) {
            let only = only.clone();
            object.remove("oneOf");
            object.insert("allOf".to_owned(), json!([only]));
        }
        if is_nullable {
            object.insert("nullable".to_owned(), json!(true));
        }
    }
}
