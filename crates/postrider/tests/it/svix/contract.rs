//! Every operation of Svix's open-source server, answered as its OpenAPI document says. `tests/svix/contract.json` has
//! what that document states: names, types, what is required, statuses.

use std::collections::BTreeSet;

use postrider_core::Timestamp;
use serde_json::{Map, Value, json};

use super::{Environment, with_a_dead_endpoint};
use crate::support::{Reply, text};

const CONTRACT: &str = include_str!("../../svix/contract.json");

/// What the document does not say although somebody relies on it: statuses of success.
const UNSAID: [(&str, u16); 3] = [
    ("DELETE /api/v1/app/{app_id}/msg/{msg_id}/content", 204),
    (
        "DELETE /api/v1/app/{app_id}/msg/{msg_id}/attempt/{attempt_id}/content",
        204,
    ),
    ("HEAD /api/v1/health", 204),
];

/// What SDKs of version 2 read where this document has an answer without a body: it is theirs that is given, since the
/// others read nothing there.
const LATER: [(&str, u16, &str); 2] = [
    (
        "POST /api/v1/app/{app_id}/endpoint/{endpoint_id}/secret/rotate",
        200,
        "EndpointSecretOut",
    ),
    (
        "POST /api/v1/app/{app_id}/msg/{msg_id}/endpoint/{endpoint_id}/resend",
        202,
        "object",
    ),
];

struct Contract {
    schemas: Map<String, Value>,
    operations: Map<String, Value>,
}

impl Contract {
    fn read() -> Self {
        let mut whole: Value = serde_json::from_str(CONTRACT).unwrap();
        let mut part = |name: &str| match whole[name].take() {
            Value::Object(part) => part,
            other => panic!("{name}: {other}"),
        };
        Self {
            schemas: part("schemas"),
            operations: part("operations"),
        }
    }

    /// The operation whose path has this shape, as the document writes it.
    fn named(&self, short: &str) -> String {
        let (method, path) = short.split_once(' ').unwrap();
        let wanted = format!("{method} /api/v1{path}");
        let mut names = self.operations.keys();
        let found = names.find(|name| shape(name) == wanted);
        found
            .unwrap_or_else(|| panic!("there is no {wanted}"))
            .clone()
    }

    /// Holds an answer to what the document says of the operation.
    fn hold(&self, operation: &str, reply: &Reply) -> Result<(), String> {
        let known = self.operations.get(operation);
        let known = known.ok_or_else(|| format!("there is no operation {operation}"))?;
        if UNSAID.contains(&(operation, reply.status)) {
            return Ok(());
        }
        let later =
            |&&(name, status, _): &&(&str, u16, _)| (name, status) == (operation, reply.status);
        if let Some((_, _, of)) = LATER.iter().find(later) {
            return self.fits(&reply.json(), of);
        }
        let schema = known["responses"].get(reply.status.to_string());
        let schema = schema.ok_or_else(|| format!("{operation} never answers {}", reply.status))?;
        match schema.as_str() {
            None if reply.text.is_empty() => Ok(()),
            None => Err(format!("{operation} answers a body: {}", reply.text)),
            Some(name) => self
                .fits(&reply.json(), name)
                .map_err(|what| format!("{operation} {}: {what}", reply.status)),
        }
    }

    /// Whether a value is of a type, in the notation of the file: a name, `[T]` or `map<T>`, with `?` where it may be
    /// null.
    fn fits(&self, value: &Value, of: &str) -> Result<(), String> {
        let is_nullable = of.ends_with('?');
        let of = of.trim_end_matches(['!', '?']);
        if value.is_null() {
            return if is_nullable {
                Ok(())
            } else {
                Err(format!("null is no {of}"))
            };
        }
        let wrong = || format!("{value} is no {of}");
        let must = |fits: bool| if fits { Ok(()) } else { Err(wrong()) };
        if let Some(item) = of.strip_prefix('[').and_then(|of| of.strip_suffix(']')) {
            let items = value.as_array().ok_or_else(wrong)?;
            return items.iter().try_for_each(|value| self.fits(value, item));
        }
        if let Some(item) = of.strip_prefix("map<").and_then(|of| of.strip_suffix('>')) {
            let items = value.as_object().ok_or_else(wrong)?;
            return items.values().try_for_each(|value| self.fits(value, item));
        }
        match of {
            "string" => must(value.is_string()),
            "bool" => must(value.is_boolean()),
            "object" => must(value.is_object()),
            "uri" => must(
                value
                    .as_str()
                    .is_some_and(|text| url::Url::parse(text).is_ok()),
            ),
            "date-time" => must(
                value
                    .as_str()
                    .is_some_and(|text| text.parse::<Timestamp>().is_ok()),
            ),
            "uint16" => must(value.as_u64().is_some_and(|n| u16::try_from(n).is_ok())),
            "int16" => must(value.as_i64().is_some_and(|n| i16::try_from(n).is_ok())),
            "int64" => must(value.as_i64().is_some()),
            "uint64" => must(value.as_u64().is_some()),
            name => self.fits_schema(value, name),
        }
    }

    fn fits_schema(&self, value: &Value, name: &str) -> Result<(), String> {
        let schema = self.schemas.get(name).and_then(Value::as_object);
        let schema = schema.ok_or_else(|| format!("there is no schema {name}"))?;
        if let Some(allowed) = schema.get("enum").and_then(Value::as_array) {
            return if allowed.contains(value) {
                Ok(())
            } else {
                Err(format!("{value} is no {name}"))
            };
        }
        let object = value
            .as_object()
            .ok_or_else(|| format!("{value} is no {name}"))?;
        for (field, of) in schema {
            let of = of.as_str().unwrap();
            match object.get(field) {
                Some(value) => self
                    .fits(value, of)
                    .map_err(|what| format!("{name}.{field}: {what}"))?,
                None if of.contains('!') => return Err(format!("{name} has no {field}")),
                None => {}
            }
        }
        Ok(())
    }
}

/// An operation's name without what stands in its path.
fn shape(operation: &str) -> String {
    let parts = operation.split('/');
    let parts = parts.map(|part| if part.starts_with('{') { "{}" } else { part });
    parts.collect::<Vec<_>>().join("/")
}

#[test]
fn what_does_not_fit_is_seen() {
    let contract = Contract::read();
    let good = json!({ "data": [], "done": true, "iterator": null });
    let list = "ListResponse_ApplicationOut_";
    assert_eq!(contract.fits(&good, list), Ok(()));
    for bad in [
        json!({ "data": [] }),
        json!({ "data": [{}], "done": true }),
        json!({ "data": null, "done": true }),
        json!({ "data": [], "done": 1 }),
    ] {
        assert!(contract.fits(&bad, list).is_err(), "{bad}");
    }
    assert!(contract.fits(&json!(9), "MessageStatus").is_err());
    assert!(contract.fits(&json!("yesterday"), "date-time").is_err());
    assert!(contract.fits(&json!(70_000), "uint16?").is_err());
    let reply = |status| Reply {
        status,
        headers: [].into(),
        text: String::new(),
    };
    assert!(contract.hold("GET /api/v1/health", &reply(200)).is_err());
    assert_eq!(contract.hold("GET /api/v1/health", &reply(204)), Ok(()));
}

/// Asks, holds the answer to the document, and remembers what was asked.
struct Walk<'e> {
    contract: Contract,
    environment: &'e Environment,
    tried: BTreeSet<String>,
    wrong: Vec<String>,
}

impl Walk<'_> {
    /// `places` are what stands in the path of the operation, in their order.
    async fn ask(&mut self, operation: &str, places: &[&str], body: Value) -> Reply {
        self.ask_with(operation, places, "", body).await
    }

    async fn ask_with(
        &mut self,
        operation: &str,
        places: &[&str],
        query: &str,
        body: Value,
    ) -> Reply {
        let (method, path) = operation.split_once(' ').unwrap();
        let mut places = places.iter();
        let segments = path.split('/').map(|segment| {
            if segment.starts_with('{') {
                places.next().expect(operation)
            } else {
                segment
            }
        });
        let path: Vec<&str> = segments.collect();
        let path = format!("{}{query}", path.join("/"));
        let operation = self.contract.named(operation);
        let reply = self.environment.ask(method, &path, body).await;
        self.tried.insert(operation.clone());
        self.wrong
            .extend(self.contract.hold(&operation, &reply).err());
        reply
    }

    /// One that must be done, not refused.
    async fn done(&mut self, operation: &str, places: &[&str], body: Value) -> Value {
        let reply = self.ask(operation, places, body).await;
        if reply.status >= 300 {
            self.wrong
                .push(format!("{operation} is refused: {reply:?}"));
        }
        serde_json::from_str(&reply.text).unwrap_or_default()
    }

    /// One that must be refused, in the words of the document.
    async fn refused(&mut self, operation: &str, places: &[&str], body: Value) {
        let reply = self.ask(operation, places, body).await;
        assert!(reply.status >= 400, "{operation}: {reply:?}");
    }

    async fn applications(&mut self) {
        let app =
            json!({ "name": "Bob", "uid": "bob", "rateLimit": null, "metadata": { "a": "b" } });
        self.done("POST /app", &[], app.clone()).await;
        self.ask_with("POST /app", &[], "?get_if_exists=true", app)
            .await;
        self.done("GET /app", &[], Value::Null).await;
        self.done("GET /app/{}", &["bob"], Value::Null).await;
        self.done("PATCH /app/{}", &["bob"], json!({ "name": "Bert" }))
            .await;
        for uid in ["bob", "new"] {
            self.done("PUT /app/{}", &[uid], json!({ "name": "x", "uid": uid }))
                .await;
        }
        self.refused("POST /app", &[], json!({ "name": "" })).await;
        self.refused("POST /app", &[], json!({ "name": "x", "uid": "bob" }))
            .await;
        self.refused("GET /app/{}", &["nobody"], Value::Null).await;
        self.refused("PATCH /app/{}", &["new"], json!({ "name": null }))
            .await;
        self.done("DELETE /app/{}", &["new"], Value::Null).await;
    }

    async fn event_types(&mut self) {
        let new = json!({ "name": "a.b", "description": "d", "schemas": { "1": { "type": "object", "examples": [{ "n": 1 }] } } });
        let made = self.done("POST /event-type", &[], new.clone()).await;
        self.refused("POST /event-type", &[], new).await;
        self.done("GET /event-type", &[], Value::Null).await;
        self.ask_with("GET /event-type", &[], "?with_content=true", Value::Null)
            .await;
        self.done("GET /event-type/{}", &["a.b"], Value::Null).await;
        let schemas = json!({ "1": { "type": "object", "examples": [{ "n": 1 }] } });
        let change = json!({ "description": "e", "archived": false, "schemas": schemas });
        self.done("PATCH /event-type/{}", &["a.b"], change.clone())
            .await;
        for name in ["a.b", "c.d"] {
            let place = [name];
            let put = self.done("PUT /event-type/{}", &place, change.clone());
            let is_since_then = put.await["createdAt"] == made["createdAt"];
            assert_eq!(is_since_then, name == "a.b", "{name}");
        }
        for member in ["description", "archived", "deprecated"] {
            self.refused("PATCH /event-type/{}", &["a.b"], json!({ member: null }))
                .await;
        }
        self.refused("GET /event-type/{}", &["x.y"], Value::Null)
            .await;
        self.done("DELETE /event-type/{}", &["c.d"], Value::Null)
            .await;
    }

    async fn endpoints(&mut self) {
        let of = "/app/{}/endpoint/{}";
        let new = json!({
            "url": "http://127.0.0.1:9/", "uid": "second", "description": "d", "version": 1,
            "channels": ["eu"], "filterTypes": ["a.b"], "rateLimit": 5, "metadata": { "a": "b" },
        });
        self.done("POST /app/{}/endpoint", &["ada"], new).await;
        let bad = json!({ "url": "nowhere" });
        self.refused("POST /app/{}/endpoint", &["ada"], bad).await;
        self.done("GET /app/{}/endpoint", &["ada"], Value::Null)
            .await;
        let one = ["ada", "second"];
        self.done(&format!("GET {of}"), &one, Value::Null).await;
        for member in ["url", "description", "disabled"] {
            self.refused(&format!("PATCH {of}"), &one, json!({ member: null }))
                .await;
        }
        let patch = json!({ "disabled": false, "channels": null });
        self.done(&format!("PATCH {of}"), &one, patch).await;
        for uid in ["second", "third"] {
            let put = json!({ "url": "http://127.0.0.1:9/x", "uid": uid });
            self.done(&format!("PUT {of}"), &["ada", uid], put).await;
        }
        let headers = json!({ "headers": { "x-a": "b" } });
        self.done(&format!("PUT {of}/headers"), &one, headers.clone())
            .await;
        self.done(&format!("PATCH {of}/headers"), &one, headers)
            .await;
        self.done(&format!("GET {of}/headers"), &one, Value::Null)
            .await;
        self.done(&format!("GET {of}/secret"), &one, Value::Null)
            .await;
        self.done(&format!("POST {of}/secret/rotate"), &one, json!({}))
            .await;
        self.done(&format!("GET {of}/stats"), &one, Value::Null)
            .await;
        let since = json!({ "since": "2026-01-01T00:00:00Z" });
        self.done(&format!("POST {of}/recover"), &one, since).await;
        let example = json!({ "eventType": "a.b" });
        self.done(&format!("POST {of}/send-example"), &one, example)
            .await;
        self.done(&format!("DELETE {of}"), &["ada", "third"], Value::Null)
            .await;
        self.refused(&format!("GET {of}"), &["ada", "third"], Value::Null)
            .await;
    }

    /// A message that failed once, and all that may be asked about it.
    async fn messages(&mut self) {
        let new = json!({
            "eventType": "a.b", "eventId": "mine", "channels": ["eu"], "payload": { "n": 1 },
        });
        let made = self.done("POST /app/{}/msg", &["ada"], new.clone()).await;
        self.refused(
            "POST /app/{}/msg",
            &["ada"],
            json!({ "eventType": "", "payload": 1 }),
        )
        .await;
        let message = text(&made, "id").to_owned();
        // By the dead endpoint and by "second".
        self.environment.attempted(&message, 2).await;
        self.done("GET /app/{}/msg", &["ada"], Value::Null).await;
        for id in [message.as_str(), "mine"] {
            self.done("GET /app/{}/msg/{}", &["ada", id], Value::Null)
                .await;
        }
        for (operation, last) in [
            ("GET /app/{}/attempt/endpoint/{}", "main"),
            ("GET /app/{}/attempt/msg/{}", message.as_str()),
            ("GET /app/{}/endpoint/{}/msg", "main"),
            ("GET /app/{}/msg/{}/endpoint", message.as_str()),
            ("GET /app/{}/msg/{}/attempt", message.as_str()),
        ] {
            let listed = self.done(operation, &["ada", last], Value::Null).await;
            let rows = listed["data"].as_array().map_or(0, Vec::len);
            assert!(rows > 0, "{operation} has nothing to hold");
        }
        let one = ["ada", message.as_str(), "main"];
        let operation = "GET /app/{}/msg/{}/endpoint/{}/attempt";
        let listed = self.done(operation, &one, Value::Null).await;
        let attempt = text(&listed["data"][0], "id").to_owned();
        let attempt = ["ada", message.as_str(), attempt.as_str()];
        let of_attempt = "/app/{}/msg/{}/attempt/{}";
        self.done(&format!("GET {of_attempt}"), &attempt, Value::Null)
            .await;
        self.done("POST /app/{}/msg/{}/endpoint/{}/resend", &one, Value::Null)
            .await;
        self.done(
            &format!("DELETE {of_attempt}/content"),
            &attempt,
            Value::Null,
        )
        .await;
        self.done(
            "DELETE /app/{}/msg/{}/content",
            &["ada", &message],
            Value::Null,
        )
        .await;
        for path in ["GET /app/{}/msg/{}", "GET /app/{}/attempt/msg/{}"] {
            self.done(path, &["ada", &message], Value::Null).await;
        }
    }

    async fn access(&mut self) {
        self.done("POST /auth/app-portal-access/{}", &["ada"], json!({}))
            .await;
        self.done("POST /auth/dashboard-access/{}", &["ada"], Value::Null)
            .await;
        for method in ["GET", "HEAD"] {
            for path in ["/health", "/health/ping"] {
                self.done(&format!("{method} {path}"), &[], Value::Null)
                    .await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_operation_answers_as_the_document_says() {
    let environment = with_a_dead_endpoint().await;
    let mut walk = Walk {
        contract: Contract::read(),
        environment: &environment,
        tried: BTreeSet::new(),
        wrong: Vec::new(),
    };
    walk.applications().await;
    walk.event_types().await;
    walk.endpoints().await;
    walk.messages().await;
    walk.access().await;
    let all = walk.contract.operations.keys();
    let missed: Vec<_> = all.filter(|name| !walk.tried.contains(*name)).collect();
    // With a key it is refused: only the token of an application is logged out. The other generates nothing there, and
    // is not here.
    let left_out = [
        "POST /api/v1/auth/logout",
        "POST /api/v1/event-type/schema/generate-example",
    ];
    assert_eq!(missed, left_out);
    assert!(walk.wrong.is_empty(), "{:#?}", walk.wrong);
}
