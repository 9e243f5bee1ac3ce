//! JSON Schemas of event types. The one place that knows the crate that does it.
//!
//! A schema comes from whoever has an application's key, and the data from whoever publishes: what
//! both may cost together is bounded before anything is checked, and nothing is compiled or checked
//! on the threads that serve everybody.

mod cost;
mod gate;

use std::sync::Arc;

use jsonschema::{PatternOptions, Retrieve, Uri, Validator};
use postrider_core::profile::Profile;
use postrider_core::tenant::EventType;
use postrider_core::{Id, id};
use serde_json::Value;

pub(crate) use gate::{Gate, Whose};

use crate::refusal::{Refusal, Result};
use cost::Cost;

/// Mistakes told of one event; there may be more.
const MISTAKES_TOLD: usize = 5;
/// Memory that one compiled pattern may take, and again its cache.
const PATTERN_BYTES_MAX: usize = 128 * 1024;
/// Checks of one value against one schema that an event may need; about a quarter of a second. More are
/// refused.
const CHECKS_MAX: u64 = 5_000_000;
/// Steps of patterns over texts that an event may need; about half a second. More are refused.
const PATTERN_STEPS_MAX: u64 = 100_000_000;
/// With more, an event waits for its application's turn among the slow ones.
const CHECKS_QUICK_MAX: u64 = 50_000;
const PATTERN_STEPS_QUICK_MAX: u64 = 1_000_000;
/// What is taken of memory for each byte of a schema's text.
const BYTES_COMPILED: usize = 40;

/// Whoever puts a schema must not make the server ask others for anything.
struct NeverFetch;

impl Retrieve for NeverFetch {
    fn retrieve(&self, _: &Uri<String>) -> Result<Value, Box<dyn std::error::Error + Send + Sync>> {
        Err("other documents are never fetched; write the referred part into $defs".into())
    }
}

/// A schema, and what checking one value against it costs at most.
struct Compiled {
    validator: Validator,
    cost: Cost,
    bytes: usize,
}

/// What is known of an event type of an application.
pub(crate) struct KnownType {
    /// The application itself has declared it.
    pub(crate) declared: bool,
    compiled: Option<Arc<Compiled>>,
}

/// Of what is accepted as JSON where nobody has to look at it.
const UNREADABLE: &str = "has half of a surrogate pair (\\ud800) or a number beyond 1.8e308, which no schema can look at";

/// A mistake: the path in the data, and the rule.
pub(crate) type Mistake = (String, String);

/// Compiles a schema.
///
/// # Errors
/// A sentence: not JSON, not a schema, too costly, or one that refers to another document.
fn compile(text: &str) -> Result<Compiled, String> {
    let mut schema: Value =
        serde_json::from_str(text).map_err(|error| format!("is not JSON: {error}"))?;
    let cost = cost::of(&mut schema)?;
    // A pattern must not be able to take for ever: the linear engine knows no look-around.
    let patterns = PatternOptions::regex()
        .size_limit(PATTERN_BYTES_MAX)
        .dfa_size_limit(PATTERN_BYTES_MAX);
    let validator = jsonschema::options()
        .with_pattern_options(patterns)
        .with_retriever(NeverFetch)
        .build(&schema)
        .map_err(|error| format!("is not a JSON Schema that can be used here: {error}"))?;
    Ok(Compiled {
        validator,
        cost,
        bytes: text.len() * BYTES_COMPILED + cost.patterns * 2 * PATTERN_BYTES_MAX,
    })
}

/// Compiles a schema that somebody puts, and checks its example against it.
///
/// # Errors
/// With the place of the mistake: `schema`, or a path below `example`.
pub(crate) async fn try_out(gate: &Gate, event_type: &EventType) -> Result<()> {
    let Some(schema) = event_type.schema.clone() else {
        return Ok(());
    };
    // To compile may take as long as a slow check, and whoever puts schemas waits for themselves.
    let turn = gate.slow(event_type.application.into()).await?;
    let compiled = turn.run(move || compile(&schema)).await?;
    let compiled = compiled.map_err(|why| Refusal::invalid("schema", why))?;
    let Some(example) = &event_type.example else {
        return Ok(());
    };
    let checked = Arc::new(compiled)
        .check(gate, event_type.application.into(), example)
        .await?;
    checked.map_err(|(path, why)| {
        let place = path.replacen("data", "example", 1);
        Refusal::invalid(place, format!("does not fit the schema: {why}"))
    })
}

/// What an application, or else its profile, says of an event type.
pub(crate) async fn known_type(
    gate: &Gate,
    application: Id<id::Application>,
    profile: &Profile,
    name: &str,
    own: Option<EventType>,
) -> Result<KnownType> {
    let declared = own.is_some();
    let schema = match own {
        Some(own) => own.schema,
        None => {
            let mut described = profile.event_types.iter();
            let described = described.find(|known| known.name == name);
            described.and_then(|known| known.schema.clone())
        }
    };
    let Some(schema) = schema else {
        let compiled = None;
        return Ok(KnownType { declared, compiled });
    };
    // It is made once for all who ask (`Directory::event_type`), but an application may have very many of them.
    let turn = gate.compiling(application).await?;
    let compiled = match turn.run(move || compile(&schema)).await? {
        Ok(compiled) => Some(Arc::new(compiled)),
        Err(why) => {
            // It was compiled when it was put; a later version may know better.
            tracing::warn!(event_type = %name, why, "a schema is not used");
            None
        }
    };
    Ok(KnownType { declared, compiled })
}

impl KnownType {
    /// Bytes in memory, about.
    pub(crate) fn weight(&self) -> u64 {
        const EMPTY: usize = 256;
        let bytes = self.compiled.as_ref().map_or(0, |compiled| compiled.bytes);
        (EMPTY + bytes) as u64
    }

    /// Checks the data of an event. An event type without a schema takes all.
    ///
    /// # Errors
    /// The inner one: the path in the data and the rule of the first mistakes.
    pub(crate) async fn check(
        &self,
        gate: &Gate,
        whose: Whose,
        data: &str,
    ) -> Result<Result<(), Mistake>> {
        match &self.compiled {
            Some(compiled) => compiled.check(gate, whose, data).await,
            None => Ok(Ok(())),
        }
    }
}

impl Compiled {
    async fn check(
        self: &Arc<Self>,
        gate: &Gate,
        whose: Whose,
        data: &str,
    ) -> Result<Result<(), Mistake>> {
        let data: Value = match serde_json::from_str(data) {
            Ok(data) => data,
            // It is JSON, which was looked at before.
            Err(_) => return Ok(Err(("data".to_owned(), UNREADABLE.to_owned()))),
        };
        let quick = match self.affordable(&data) {
            Ok(quick) => quick,
            Err(why) => return Ok(Err(("data".to_owned(), why))),
        };
        let (turn, told) = if quick {
            (gate.quick(whose).await?, MISTAKES_TOLD)
        } else {
            // To find all mistakes takes memory for each.
            (gate.slow(whose).await?, 1)
        };
        let this = self.clone();
        turn.run(move || this.mistakes(&data, told)).await
    }

    /// Whether data is checked quickly.
    ///
    /// # Errors
    /// When it would cost more than one event may.
    fn affordable(&self, data: &Value) -> Result<bool, String> {
        let size = cost::size(data);
        let checks = self.cost.schemas.saturating_mul(size.values);
        let steps = self.cost.states.saturating_mul(size.text);
        if checks > CHECKS_MAX || steps > PATTERN_STEPS_MAX {
            let what = if checks > CHECKS_MAX {
                "values for a schema"
            } else {
                "text for patterns"
            };
            return Err(format!(
                "has too many {what} of this size; send less in one event"
            ));
        }
        Ok(checks <= CHECKS_QUICK_MAX && steps <= PATTERN_STEPS_QUICK_MAX)
    }

    fn mistakes(&self, data: &Value, told: usize) -> Result<(), Mistake> {
        // What fits is seen without the memory that every mistake takes.
        if self.validator.is_valid(data) {
            return Ok(());
        }
        let path =
            |error: &jsonschema::ValidationError<'_>| format!("data{}", error.instance_path());
        if told == 1 {
            let first = self.validator.validate(data);
            // Masked, so that a refusal repeats nothing of the data.
            return first.map_err(|first| (path(&first), first.masked().to_string()));
        }
        let mut mistakes = self.validator.iter_errors(data).take(told);
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

/// What a stranger's schema does with a stranger's data.
pub(crate) fn fuzz(schema: &str, data: &str) {
    let Ok(compiled) = compile(schema) else {
        return;
    };
    let Ok(data) = serde_json::from_str::<Value>(data) else {
        return;
    };
    if compiled.affordable(&data).is_ok() {
        drop(compiled.mistakes(&data, MISTAKES_TOLD));
    }
}

#[cfg(test)]
mod tests {
    use postrider_core::{Id, Timestamp};

    use super::*;

    fn event_type(schema: &str, example: &str) -> EventType {
        EventType {
            vendor: None,
            application: Id::from_u128(1),
            name: "x".to_owned(),
            description: None,
            schema: Some(schema.to_owned()),
            example: Some(example.to_owned()),
            created_at: Timestamp::default(),
        }
    }

    #[tokio::test]
    async fn a_schema_that_would_take_for_ever_is_refused_at_once() {
        let doubling = |reference: &str, root: &str, own: &str| {
            let mut defs = vec![r#""a0":true"#.to_owned()];
            for i in 1..60 {
                let below = format!(r#"{{"$ref":"{reference}a{}"}}"#, i - 1);
                defs.push(format!(r#""a{i}":{{"allOf":[{below},{below}]}}"#));
            }
            let defs = defs.join(",");
            format!(r##"{{{root}"$defs":{{{own}{defs}}},"$ref":"{reference}a59"}}"##)
        };
        for schema in [
            doubling("#/$defs/", "", ""),
            doubling("#/%24defs/", "", ""),
            doubling("#/%24defs/", r#""$id":"http://x/y","#, ""),
            doubling("http://x/y#/$defs/", r#""$id":"http://x/y","#, ""),
            doubling(
                "#/definitions/",
                r#""$schema":"http://json-schema.org/draft-04/schema#","#,
                "",
            ),
            r##"{"$defs":{"a":{"$id":"http://x/a","$defs":{"b":true},"$ref":"#/$defs/b"}},"$ref":"#/$defs/a"}"##
                .to_owned(),
            r##"{"$defs":{"a":{"$anchor":"x"}},"$ref":"#x"}"##.to_owned(),
            r##"{"$ref":"#/$defs/nowhere"}"##.to_owned(),
            r##"{"allOf":[true],"$ref":"#/allOf/00"}"##.to_owned(),
            r#"{"pattern":"[ab]*a[ab]{5000}c"}"#.to_owned(),
        ] {
            let refused = try_out(&Gate::default(), &event_type(&schema, "1")).await;
            let refused = refused.map_err(|error| error.field);
            assert_eq!(refused, Err(Some("schema".to_owned())), "{schema}");
        }
    }

    #[tokio::test]
    async fn a_pattern_costs_its_size_times_the_text() {
        let schema = r#"{"items":{"pattern":"[ab]*a[ab]{600}c"}}"#;
        let text = "ab".repeat(120_000);
        let long = event_type(schema, &format!(r#"["{text}"]"#));
        let refused = try_out(&Gate::default(), &long).await.unwrap_err();
        assert!(refused.detail.contains("text"), "{}", refused.detail);
        let short = event_type(schema, r#"[""]"#);
        assert!(
            try_out(&Gate::default(), &short).await.is_err(),
            "it does not fit"
        );
        let usual = event_type(
            r#"{"$id":"https://x/y","properties":{"id":{"pattern":"^[a-z]{1,64}-\\d+$"},"$id":{"type":"string"}}}"#,
            r#"{"id":"order-1","$id":"x"}"#,
        );
        assert!(try_out(&Gate::default(), &usual).await.is_ok());
    }
}
