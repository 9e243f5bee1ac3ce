//! JSON Schemas of event types, compiled. The one place that knows the crate that does it.
//!
//! A schema comes from whoever has an application's key, and the data from whoever publishes: what
//! both may cost together is bounded before anything is checked.

mod cost;

use std::collections::HashMap;
use std::sync::Arc;

use jsonschema::{PatternOptions, Retrieve, Uri, Validator};
use postrider_core::profile::Profile;
use postrider_core::tenant::EventType;

use crate::problem::{ApiError, ApiResult};

/// Mistakes told of one event; there may be more.
const MISTAKES_TOLD: usize = 5;
/// Memory that one compiled pattern may take, and again its cache.
const PATTERN_BYTES_MAX: usize = 1024 * 1024;
/// Checks of one value against one schema that an event may need; about a second. More are refused.
const CHECKS_MAX: u64 = 20_000_000;
/// Checks made where the request is handled; more are made on a thread of their own.
const CHECKS_INLINE_MAX: u64 = 50_000;

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

/// A schema, and what checking one value against it costs at most.
pub(crate) struct Compiled {
    validator: Validator,
    unfolded: u64,
}

/// The schemas of an application's event types.
pub(crate) struct Schemas {
    by_type: HashMap<String, Arc<Compiled>>,
}

/// A mistake: the path in the data, and the rule.
pub(crate) type Mistake = (String, String);

/// Compiles a schema.
///
/// # Errors
/// A sentence: not JSON, not a schema, too costly, or one that refers to another document.
fn compile(text: &str) -> Result<Compiled, String> {
    let schema: serde_json::Value =
        serde_json::from_str(text).map_err(|error| format!("is not JSON: {error}"))?;
    let unfolded = cost::unfolded(&schema)?;
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
        unfolded,
    })
}

/// Compiles a schema that somebody puts, and checks its example against it.
///
/// # Errors
/// With the place of the mistake: `schema`, or a path below `example`.
pub(crate) async fn try_out(event_type: &EventType) -> ApiResult<()> {
    let Some(schema) = event_type.schema.clone() else {
        return Ok(());
    };
    let compiled = off_the_workers(move || compile(&schema)).await?;
    let compiled = compiled.map_err(|why| ApiError::invalid("schema", why))?;
    let Some(example) = &event_type.example else {
        return Ok(());
    };
    let checked = Arc::new(compiled).check(example).await?;
    checked.map_err(|(path, why)| {
        let place = path.replacen("data", "example", 1);
        ApiError::invalid(place, format!("does not fit the schema: {why}"))
    })
}

/// Runs what may take long where no request waits for it.
async fn off_the_workers<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> ApiResult<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(ApiError::internal)
}

impl Schemas {
    /// The profile's schemas, and the application's own in their place where it has one.
    pub(crate) async fn new(profile: Arc<Profile>, own: Vec<EventType>) -> ApiResult<Self> {
        let make = move || {
            let described = profile.event_types.iter();
            let described = described.map(|known| (&known.name, known.schema.as_ref()));
            let own = own.iter().map(|known| (&known.name, known.schema.as_ref()));
            let mut by_type = HashMap::new();
            for (name, schema) in described.chain(own) {
                match schema.map(|schema| compile(schema)) {
                    Some(Ok(compiled)) => drop(by_type.insert(name.clone(), Arc::new(compiled))),
                    // It was compiled when it was put; a later version may know better.
                    Some(Err(why)) => {
                        tracing::warn!(event_type = %name, why, "a schema is not used");
                    }
                    None => drop(by_type.remove(name)),
                }
            }
            Self { by_type }
        };
        off_the_workers(make).await
    }

    /// Checks the data of an event. An event type without a schema takes all.
    ///
    /// # Errors
    /// The inner one: the path in the data and the rule of the first mistakes.
    pub(crate) async fn check(
        &self,
        event_type: &str,
        data: &str,
    ) -> ApiResult<Result<(), Mistake>> {
        match self.by_type.get(event_type) {
            Some(compiled) => compiled.check(data).await,
            None => Ok(Ok(())),
        }
    }
}

impl Compiled {
    async fn check(self: &Arc<Self>, data: &str) -> ApiResult<Result<(), Mistake>> {
        let data: serde_json::Value = match serde_json::from_str(data) {
            Ok(data) => data,
            Err(error) => return Ok(Err(("data".to_owned(), error.to_string()))),
        };
        let checks = self.unfolded.saturating_mul(cost::values(&data));
        if checks > CHECKS_MAX {
            let why = "has too many values for a schema of this size; send less in one event";
            return Ok(Err(("data".to_owned(), why.to_owned())));
        }
        if checks <= CHECKS_INLINE_MAX {
            return Ok(self.mistakes(&data, MISTAKES_TOLD));
        }
        let this = self.clone();
        off_the_workers(move || this.mistakes(&data, 1)).await
    }

    fn mistakes(&self, data: &serde_json::Value, told: usize) -> Result<(), Mistake> {
        if self.validator.is_valid(data) {
            return Ok(());
        }
        let path =
            |error: &jsonschema::ValidationError<'_>| format!("data{}", error.instance_path());
        if told == 1 {
            // To find all mistakes takes memory for each.
            let first = self.validator.validate(data);
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
