//! JSON Schemas of event types, compiled. The one place that knows the crate that does it.
//!
//! References to other documents are never fetched: a schema that has one is refused when it is put.

use std::collections::HashMap;

use jsonschema::{PatternOptions, Retrieve, Uri, Validator};
use postrider_core::profile::Profile;
use postrider_core::tenant::EventType;

/// Mistakes told of one event; there may be more.
const MISTAKES_TOLD: usize = 5;

/// Whoever puts a schema must not make the server ask others for anything.
struct NeverFetch;

impl Retrieve for NeverFetch {
    fn retrieve(
        &self,
        _: &Uri<String>,
    ) -> Result<serde_json::Value, Box<dyn std::error::Error + Send + Sync>> {
        Err("other documents are never fetched; write the referred part into $defs".into())
    }
}

/// The schemas of an application's event types.
pub(crate) struct Schemas {
    by_type: HashMap<String, Validator>,
}

/// Compiles a schema.
///
/// # Errors
/// A sentence: not JSON, not a schema, or one that refers to another document.
pub(crate) fn compile(text: &str) -> Result<Validator, String> {
    let schema: serde_json::Value =
        serde_json::from_str(text).map_err(|error| format!("is not JSON: {error}"))?;
    // A pattern must not be able to take for ever: the linear engine knows no look-around.
    jsonschema::options()
        .with_pattern_options(PatternOptions::regex())
        .with_retriever(NeverFetch)
        .build(&schema)
        .map_err(|error| format!("is not a JSON Schema that can be used here: {error}"))
}

impl Schemas {
    /// The profile's schemas, and the application's own in their place where it has one.
    pub(crate) fn new(profile: &Profile, own: &[EventType]) -> Self {
        let described = profile.event_types.iter();
        let described = described.map(|known| (&known.name, known.schema.as_ref()));
        let own = own.iter().map(|known| (&known.name, known.schema.as_ref()));
        let mut by_type = HashMap::new();
        for (name, schema) in described.chain(own) {
            match schema.map(|schema| compile(schema)) {
                Some(Ok(validator)) => drop(by_type.insert(name.clone(), validator)),
                // It was compiled when it was put; a later version may know better.
                Some(Err(why)) => tracing::warn!(event_type = %name, why, "a schema is not used"),
                None => drop(by_type.remove(name)),
            }
        }
        Self { by_type }
    }

    /// Checks the data of an event. An event type without a schema takes all.
    ///
    /// # Errors
    /// The path in the data and the rule of the first mistakes.
    pub(crate) fn check(&self, event_type: &str, data: &str) -> Result<(), (String, String)> {
        let Some(validator) = self.by_type.get(event_type) else {
            return Ok(());
        };
        let data: serde_json::Value =
            serde_json::from_str(data).map_err(|error| ("data".to_owned(), error.to_string()))?;
        let mut mistakes = validator.iter_errors(&data).take(MISTAKES_TOLD);
        let path =
            |error: &jsonschema::ValidationError<'_>| format!("data{}", error.instance_path());
        let Some(first) = mistakes.next() else {
            return Ok(());
        };
        let mut detail = first.masked().to_string();
        for more in mistakes {
            detail.push_str(&format!("; {}: {}", path(&more), more.masked()));
        }
        Err((path(&first), detail))
    }
}
