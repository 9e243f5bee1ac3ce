//! The same random calls of three tenants on two servers, one over the model store and one over SQLite:
//! each caller must see the same on both, and nothing of the others.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use fastrand::Rng;
use postrider_api::{Api, ApiOptions, Exposition, Listener, MetricsFormat, ServerLimits};
use postrider_core::address::AddressPolicy;
use postrider_core::seal::Sealer;
use postrider_engine::machine::MachineLimits;
use postrider_engine::{Clock, Engine, Options, ProfileRegistry, SystemClock};
use postrider_service::{Service, ensure_root_key};
use postrider_store::Store;
use postrider_store::memory::MemoryStore;
use postrider_store_sql::SqlStore;
use postrider_transport::{HttpTransport, SystemResolver};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::support::http;

/// Metrics are not what is compared here.
#[derive(Debug)]
struct Nothing;

#[async_trait::async_trait]
impl Exposition for Nothing {
    async fn text(&self, _: MetricsFormat) -> String {
        String::new()
    }
}

const SEEDS: u64 = 6;
const CALLS: usize = 250;

/// A server over a store, and what its ids are called in order of their appearance.
struct Side {
    address: SocketAddr,
    root: String,
    stop: CancellationToken,
    names: HashMap<String, String>,
    /// Ids by the name that both sides give them.
    ids: HashMap<String, String>,
}

impl Side {
    async fn start(store: Arc<dyn Store>) -> Self {
        let clock = Arc::new(SystemClock);
        let profiles = ProfileRegistry::load(&*store, Vec::new()).await.unwrap();
        let sealer = Arc::new(Sealer::new(&[7; 32], &[]));
        let addresses = AddressPolicy::new(vec!["127.0.0.0/8".parse().unwrap()]);
        let transport = HttpTransport::new(postrider_transport::Options {
            addresses: addresses.clone(),
            resolver: Arc::new(SystemResolver::new().unwrap()),
            extra_ca: None,
            regions: Vec::new(),
            default_region: None,
            proxy: None,
            clock: clock.clone(),
        });
        let engine = Engine::start(Options {
            store: store.clone(),
            transport: Arc::new(transport.unwrap()),
            clock: clock.clone(),
            profiles: Arc::new(profiles),
            sealer: sealer.clone(),
            limits: MachineLimits::default(),
            counted_tenants: 0,
            tracer: None,
        });
        let options = postrider_service::Options {
            addresses,
            plain_http: true,
            ..postrider_service::Options::default()
        };
        let service = Service::new(store.clone(), engine.await.unwrap(), sealer, options);
        let api = Api::new(service, ApiOptions::default());
        let root = ensure_root_key(&*store, clock.now())
            .await
            .unwrap()
            .unwrap();
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listener = Listener::bind(any, ServerLimits::default()).await.unwrap();
        let address = listener.address().unwrap();
        let stop = CancellationToken::new();
        tokio::spawn(listener.serve(api.router(None, Arc::new(Nothing)), stop.clone()));
        Self {
            address,
            root: root.expose().to_owned(),
            stop,
            names: HashMap::new(),
            ids: HashMap::new(),
        }
    }

    /// Puts this side's ids in the place of names such as `<ep 3>`.
    fn own(&self, text: &str) -> String {
        let mut own = text.to_owned();
        for (name, id) in &self.ids {
            own = own.replace(name, id);
        }
        own
    }

    async fn call(&mut self, call: &Call) -> (u16, Value) {
        let bearer = format!(
            "Bearer {}",
            self.own(&call.key.replace("<root>", &self.root))
        );
        let headers = [
            ("authorization", bearer.as_str()),
            ("content-type", "application/json"),
        ];
        let body = match &call.body {
            Value::Null => String::new(),
            body => self.own(&body.to_string()),
        };
        let reply = http(
            self.address,
            call.method,
            &self.own(&call.path),
            &headers,
            body,
        )
        .await;
        let value = serde_json::from_str(&reply.text).unwrap_or(Value::Null);
        (reply.status, self.told(value))
    }

    /// What is said, with what differs by chance replaced by names.
    fn told(&mut self, value: Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.name(&text)),
            Value::Array(items) => items.into_iter().map(|item| self.told(item)).collect(),
            Value::Object(members) => members
                .into_iter()
                .map(|(name, value)| {
                    let told = self.told(value);
                    (name, told)
                })
                .collect(),
            other => other,
        }
    }

    fn name(&mut self, text: &str) -> String {
        let secret = ["whsec_", "pr_live_", "pr_test_", "pk_"];
        let is_id = text
            .split_once('_')
            .is_some_and(|(kind, rest)| rest.len() == 26 && (2..=4).contains(&kind.len()));
        if is_id || secret.iter().any(|prefix| text.starts_with(prefix)) {
            let kind = text.split('_').next().unwrap_or_default();
            let count = self.names.len();
            let name = self.names.entry(text.to_owned());
            let name = name.or_insert_with(|| format!("<{kind} {count}>")).clone();
            self.ids.insert(name.clone(), text.to_owned());
            return name;
        }
        if text.parse::<postrider_core::Timestamp>().is_ok() {
            return "<time>".to_owned();
        }
        // A cursor: which query, and the place of a row.
        if text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return "<cursor>".to_owned();
        }
        text.to_owned()
    }
}

#[derive(Debug, Clone)]
struct Call {
    key: String,
    method: &'static str,
    path: String,
    body: Value,
}

/// What the calls have made so far, by name.
#[derive(Default)]
struct Known {
    tenants: Vec<(String, String)>,
    endpoints: Vec<String>,
    events: Vec<String>,
    keys: Vec<String>,
}

fn any<'k>(rng: &mut Rng, from: &'k [String]) -> &'k str {
    match from.len() {
        0 => "ep_00000000000000000000000000",
        len => &from[rng.usize(..len)],
    }
}

fn pick(rng: &mut Rng, from: &[&'static str]) -> &'static str {
    from[rng.usize(..from.len())]
}

fn next(rng: &mut Rng, known: &Known, application: &str) -> Call {
    let (tenant, own_key) = known.tenants[rng.usize(..known.tenants.len())].clone();
    let key = if rng.u8(..3) == 0 {
        "<root>".to_owned()
    } else {
        own_key
    };
    let call = |method, path: String, body| Call {
        key: key.clone(),
        method,
        path,
        body,
    };
    let url = |rng: &mut Rng| match rng.u8(..6) {
        0 => "not a url".to_owned(),
        1 => "http://10.0.0.1/".to_owned(),
        number => format!("http://127.0.0.1:9/{number}"),
    };
    match rng.u8(..16) {
        0 | 1 => {
            let body = json!({ "url": url(rng), "events": [pick(rng, &["a.*", "b", "*", "%"])], "mode": pick(rng, &["live", "test"]) });
            call("POST", format!("/v1/tenants/{tenant}/endpoints"), body)
        }
        2 => call(
            "GET",
            format!("/v1/tenants/{tenant}/endpoints?limit={}", rng.u8(..4)),
            Value::Null,
        ),
        3 => {
            let body = match rng.u8(..5) {
                0 => json!({ "description": null }),
                1 => json!({ "url": null }),
                2 => json!({ "headers": { "x-a": "1" }, "rateLimit": rng.u8(..3) }),
                3 => json!({ "active": rng.bool() }),
                _ => json!({ "events": ["b", "a.b"] }),
            };
            call(
                "PATCH",
                format!("/v1/endpoints/{}", any(rng, &known.endpoints)),
                body,
            )
        }
        4 => call(
            "GET",
            format!("/v1/endpoints/{}", any(rng, &known.endpoints)),
            Value::Null,
        ),
        5 => call(
            "DELETE",
            format!("/v1/endpoints/{}", any(rng, &known.endpoints)),
            Value::Null,
        ),
        6..=8 => {
            let mut body =
                json!({ "type": pick(rng, &["a.b", "b", "c d"]), "data": { "n": rng.u8(..3) } });
            if rng.bool() {
                body["idempotencyKey"] = json!(format!("k{}", rng.u8(..4)));
            }
            if rng.u8(..4) == 0 {
                body["endpoint"] = json!(any(rng, &known.endpoints));
            }
            call("POST", format!("/v1/tenants/{tenant}/events"), body)
        }
        9 => call(
            "GET",
            format!("/v1/tenants/{tenant}/events?type=b&limit=3"),
            Value::Null,
        ),
        10 => call(
            "GET",
            format!("/v1/events/{}", any(rng, &known.events)),
            Value::Null,
        ),
        11 => call(
            "POST",
            "/v1/keys".to_owned(),
            json!({ "name": "k", "tenant": tenant }),
        ),
        12 => {
            let id = any(rng, &known.keys);
            match rng.u8(..3) {
                0 => call("DELETE", format!("/v1/keys/{id}"), Value::Null),
                1 => call(
                    "PATCH",
                    format!("/v1/keys/{id}"),
                    json!({ "active": rng.bool() }),
                ),
                _ => call("GET", format!("/v1/keys/{id}"), Value::Null),
            }
        }
        13 => {
            let path = format!(
                "/v1/applications/{application}/event-types/t{}",
                rng.u8(..3)
            );
            match rng.u8(..3) {
                0 => call("DELETE", path, Value::Null),
                _ => call(
                    "PUT",
                    path,
                    json!({ "description": format!("{}", rng.u8(..2)), "schema": { "type": "object" } }),
                ),
            }
        }
        14 => call(
            "GET",
            format!("/v1/applications/{application}/event-types"),
            Value::Null,
        ),
        _ => call(
            "GET",
            format!("/v1/audit?tenant={tenant}&limit=5"),
            Value::Null,
        ),
    }
}

async fn one_world(seed: u64) {
    let directory = tempfile::tempdir().unwrap();
    let options = postrider_store_sql::Options::default();
    let sqlite = SqlStore::open(directory.path(), &options).unwrap();
    let mut sides = [
        Side::start(Arc::new(MemoryStore::new(1))).await,
        Side::start(Arc::new(sqlite)).await,
    ];
    let mut rng = Rng::with_seed(seed);
    let mut known = Known::default();
    let mut history = Vec::new();
    let mut both = async |call: Call| {
        let [model, sqlite] = &mut sides;
        let (expected, found) = (model.call(&call).await, sqlite.call(&call).await);
        history.push(call);
        let tail = &history[history.len().saturating_sub(12)..];
        assert_eq!(
            expected, found,
            "seed {seed}: the model and SQLite differ after {tail:#?}"
        );
        assert!(expected.0 < 500, "{expected:?}");
        expected
    };
    let root = |method, path: &str, body| Call {
        key: "<root>".to_owned(),
        method,
        path: path.to_owned(),
        body,
    };
    let id = |value: &Value| value["id"].as_str().unwrap_or_default().to_owned();
    let made = both(root("POST", "/v1/applications", json!({ "name": "shop" }))).await;
    let application = id(&made.1);
    for name in ["a", "b", "c"] {
        let path = format!("/v1/applications/{application}/tenants");
        let tenant = id(&both(root("POST", &path, json!({ "name": name }))).await.1);
        let key = both(root(
            "POST",
            "/v1/keys",
            json!({ "name": name, "tenant": tenant }),
        ))
        .await
        .1;
        known
            .tenants
            .push((tenant, key["key"].as_str().unwrap().to_owned()));
    }
    let mut seen = HashMap::new();
    for _ in 0..CALLS {
        let call = next(&mut rng, &known, &application);
        let (status, told) = both(call.clone()).await;
        *seen.entry(status).or_insert(0_usize) += 1;
        if status == 201 && call.path.ends_with("/endpoints") {
            known.endpoints.push(id(&told));
        } else if status == 202 {
            known.events.push(id(&told));
        } else if status == 201 && call.path == "/v1/keys" {
            known.keys.push(id(&told));
        }
    }
    // Calls that are all refused would agree, too.
    for status in [200, 201, 202, 204, 400, 403, 404] {
        assert!(
            seen.contains_key(&status),
            "seed {seed}: nothing was answered {status}: {seen:?}"
        );
    }
    for side in &sides {
        side.stop.cancel();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_caller_sees_the_same_over_the_model_and_over_sqlite() {
    for seed in 0..SEEDS {
        one_world(seed).await;
    }
}
