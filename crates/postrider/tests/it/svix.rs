//! Svix's API without its SDKs, which `cargo xtask sdks` tries: whom it lets see what, and moving here from there.

mod contract;

use std::time::Duration;

use postrider_testkit::{Behaviour, Receiver};
use serde_json::{Value, json};

use crate::binary::{output, postrider, text as words};
use crate::support::{Reply, TestServer, http, text};

/// A server, and the key of an application that is managed as Svix's are.
struct Environment {
    server: TestServer,
    key: String,
}

impl Environment {
    async fn new() -> Self {
        let server = TestServer::start().await;
        let key = key(&server, "shop", "live").await;
        Self { server, key }
    }

    async fn ask(&self, method: &str, path: &str, body: Value) -> Reply {
        let path = format!("/api/v1{path}");
        self.server.call_as(&self.key, method, &path, body).await
    }

    /// An answer that is no refusal.
    async fn good(&self, method: &str, path: &str, body: Value) -> Value {
        let reply = self.ask(method, path, body).await;
        assert!(reply.status < 300, "{method} {path}: {reply:?}");
        reply.json()
    }
}

async fn key(server: &TestServer, name: &str, mode: &str) -> String {
    let application = server.application(name, "svix").await;
    let new = json!({ "name": name, "application": application, "mode": mode });
    let made = server.good("POST", "/v1/keys", new).await;
    text(&made, "key").to_owned()
}

fn import(from: &Environment, to: &Environment) -> std::process::Output {
    let url = |environment: &Environment| format!("http://{}", environment.server.address);
    output(postrider().env("SVIX_TOKEN", &from.key).args([
        "import-svix",
        "--from",
        &url(from),
        "--server",
        &url(to),
        "--key",
        &to.key,
    ]))
}

#[tokio::test]
async fn counts_are_of_attempts_in_the_time_that_is_asked_for() {
    let environment = Environment::new().await;
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    receiver.script([Behaviour::Status(500)]);
    environment
        .good("POST", "/app", json!({ "name": "Ada", "uid": "ada" }))
        .await;
    let hook = json!({ "url": receiver.url("/"), "uid": "main" });
    environment.good("POST", "/app/ada/endpoint", hook).await;
    let message = json!({ "eventType": "a.b", "payload": {} });
    let message = environment.good("POST", "/app/ada/msg", message).await;
    // It fails, its retry is taken, and so is one by hand.
    let message = text(&message, "id");
    environment.attempted(message, 1).await;
    let again = format!("/app/ada/msg/{message}/endpoint/main/resend");
    receiver.wait_for(2).await;
    environment.attempted(message, 2).await;
    environment.good("POST", &again, Value::Null).await;
    environment.attempted(message, 3).await;
    let stats = "/app/ada/endpoint/main/stats";
    let counted = environment.good("GET", stats, Value::Null).await;
    assert_eq!(
        (&counted["success"], &counted["fail"]),
        (&json!(2), &json!(1))
    );
    let before = format!("{stats}?since=2020-01-01T00:00:00Z&until=2020-02-01T00:00:00Z");
    let counted = environment.good("GET", &before, Value::Null).await;
    assert_eq!(
        (&counted["success"], &counted["fail"]),
        (&json!(0), &json!(0))
    );
}

#[tokio::test]
async fn an_example_that_was_declared_elsewhere_stays() {
    let environment = Environment::new().await;
    let schema = |example: Value| json!({ "1": { "type": "object", "examples": [example] } });
    let new = json!({ "name": "a.b", "description": "d", "schemas": schema(json!({ "n": 1 })) });
    environment.good("POST", "/event-type", new).await;
    let application = environment
        .server
        .good("GET", "/v1/applications", Value::Null)
        .await;
    let application = text(&application["data"][0], "id").to_owned();
    let path = format!("/v1/applications/{application}/event-types/a.b");
    let listed = format!("/v1/applications/{application}/event-types");
    let example = async || {
        let listed = environment.server.good("GET", &listed, Value::Null).await;
        let rows = listed["data"].as_array().unwrap().iter();
        let mut rows = rows.filter(|row| row["name"] == "a.b");
        rows.next().unwrap()["example"].clone()
    };
    assert_eq!(example().await, json!({ "n": 1 }));
    environment
        .server
        .good("PUT", &path, json!({ "example": { "n": 2 } }))
        .await;
    let patch = json!({ "description": "other", "schemas": null });
    environment.good("PATCH", "/event-type/a.b", patch).await;
    assert_eq!(example().await, json!({ "n": 2 }));
}

#[tokio::test]
async fn a_portal_may_do_what_was_asked_for_and_no_more() {
    let environment = Environment::new().await;
    let new = json!({ "name": "Ada", "uid": "ada" });
    environment.good("POST", "/app", new).await;
    let all = [
        "ViewBase",
        "ViewEndpointSecret",
        "ManageEndpointSecret",
        "CreateAttempts",
        "ManageEndpoint",
    ];
    let hook = |uid: &str| json!({ "url": "http://127.0.0.1:9/hook", "uid": uid });
    for (capabilities, wanted) in [
        (json!(null), 201),
        (json!(all), 201),
        (json!(["ViewBase"]), 403),
        (json!(["ViewBase", "ManageTransformations"]), 403),
    ] {
        let asked = json!({ "capabilities": capabilities });
        let path = "/auth/app-portal-access/ada";
        let access = environment.good("POST", path, asked).await;
        let server = &environment.server;
        let token = text(&access, "token");
        let path = "/api/v1/app/ada/endpoint";
        let uid = format!("hook-{wanted}-{}", capabilities.to_string().len());
        let reply = server.call_as(token, "POST", path, hook(&uid)).await;
        assert_eq!(reply.status, wanted, "{capabilities}: {reply:?}");
    }
    for capabilities in [
        json!([]),
        json!(["ViewBase", "ManageEndpoint"]),
        json!(["ViewEverything"]),
        json!(all[1..]),
    ] {
        let asked = json!({ "capabilities": capabilities });
        let path = "/auth/app-portal-access/ada";
        let reply = environment.ask("POST", path, asked).await;
        assert_eq!(reply.status, 422, "{capabilities}");
        assert!(reply.text.contains("capabilities"), "{reply:?}");
    }
}

#[tokio::test]
async fn a_slash_at_the_end_leads_to_the_same() {
    let environment = Environment::new().await;
    let new = json!({ "name": "Ada", "uid": "ada" });
    environment.good("POST", "/app/", new).await;
    for path in [
        "/app/ada/",
        "/app/?limit=1",
        "/event-type/",
        "/app/ada/msg/",
    ] {
        environment.good("GET", path, Value::Null).await;
    }
    assert_eq!(
        environment.ask("GET", "/app//", Value::Null).await.status,
        404
    );
    // Of our own API nobody has learned that.
    let server = &environment.server;
    let reply = server
        .call_as(&environment.key, "GET", "/v1/applications/", Value::Null)
        .await;
    assert_eq!(reply.status, 404);
}

#[tokio::test]
async fn what_would_be_kept_longer_than_asked_is_refused() {
    let environment = Environment::new().await;
    let new = json!({ "name": "Ada", "uid": "ada" });
    environment.good("POST", "/app", new).await;
    for (field, value, wanted) in [
        ("payloadRetentionHours", 1, 422),
        ("payloadRetentionPeriod", 5, 422),
        ("payloadRetentionPeriod", 90, 202),
    ] {
        let mut message = json!({ "eventType": "invoice.paid", "payload": {} });
        message[field] = json!(value);
        let reply = environment.ask("POST", "/app/ada/msg", message).await;
        assert_eq!(reply.status, wanted, "{field} {value}: {reply:?}");
    }
}

#[tokio::test]
async fn the_portal_is_in_a_frame_of_the_products_pages() {
    let environment = Environment::new().await;
    let server = &environment.server;
    let applications = server.good("GET", "/v1/applications", Value::Null).await;
    let application = text(&applications["data"][0], "id").to_owned();
    let path = format!("/v1/applications/{application}");
    let settings = |origin: &str| json!({ "settings": { "frameOrigins": [origin] } });
    let refused = server.call("PATCH", &path, settings("shop")).await;
    assert_eq!(refused.status, 400, "{refused:?}");
    assert!(refused.text.contains("settings.frameOrigins[0]"));
    server
        .good("PATCH", &path, settings("https://shop.example"))
        .await;
    let new = json!({ "name": "Ada", "uid": "ada" });
    environment.good("POST", "/app", new).await;
    let access = environment
        .good("POST", "/auth/app-portal-access/ada", json!({}))
        .await;
    let url: url::Url = text(&access, "url").parse().unwrap();
    let page = server
        .call("GET", &url[url::Position::BeforePath..], Value::Null)
        .await;
    let policy = &page.headers["content-security-policy"];
    assert!(
        policy.contains("frame-ancestors https://shop.example"),
        "{policy}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_moves_here_with_its_secrets_and_may_move_again() {
    let (from, to) = (Environment::new().await, Environment::new().await);
    let schemas = json!({ "1": { "type": "object", "examples": [{ "n": 1 }] } });
    let new = json!({ "name": "invoice.paid", "description": "Paid", "schemas": schemas });
    from.good("POST", "/event-type", new).await;
    from.good(
        "POST",
        "/app",
        json!({ "name": "Ada", "uid": "ada", "metadata": { "plan": "gold" } }),
    )
    .await;
    let nameless = from.good("POST", "/app", json!({ "name": "Eve" })).await;
    for number in 0..120 {
        let new = json!({ "name": "n", "uid": format!("customer-{number}") });
        from.good("POST", "/app", new).await;
    }
    let hook = json!({
        "url": "http://127.0.0.1:9/hook", "uid": "main", "channels": ["eu"], "filterTypes": ["invoice.paid"],
        "disabled": true, "rateLimit": 7, "headers": { "x-shop": "hidden" },
    });
    from.good("POST", "/app/ada/endpoint", hook).await;
    let eve = text(&nameless, "id");
    let of_eve = format!("/app/{eve}/endpoint");
    let other = json!({ "url": "http://127.0.0.1:9/eve" });
    let other = from.good("POST", &of_eve, other).await;
    // Both times: what is there already is brought in line.
    for round in 0..2 {
        let moved = import(&from, &to);
        let told = words(&moved.stdout);
        assert!(
            told.contains("1 event types, 122 applications and 2 endpoints"),
            "{told}"
        );
        assert!(
            told.contains("endpoint main of ada: its headers x-shop"),
            "{told}"
        );
        assert!(!moved.status.success(), "there is a header to set again");
        assert!(
            !told.contains("whsec_") && !told.contains("hidden"),
            "{told}"
        );
        let endpoint = to.good("GET", "/app/ada/endpoint/main", Value::Null).await;
        assert_eq!(endpoint["channels"], json!(["eu"]), "{endpoint}");
        assert_eq!(endpoint["filterTypes"], json!(["invoice.paid"]));
        assert_eq!(
            (&endpoint["disabled"], &endpoint["rateLimit"]),
            (&json!(true), &json!(7))
        );
        // As they were called: the product has stored these ids.
        let other_id = text(&other, "id");
        for place in [
            "/app/ada/endpoint/main/secret",
            &format!("{of_eve}/{other_id}/secret"),
        ] {
            let there = from.good("GET", place, Value::Null).await;
            assert_eq!(to.good("GET", place, Value::Null).await, there, "{place}");
        }
        let ada = to.good("GET", "/app/ada", Value::Null).await;
        assert_eq!(ada["metadata"], json!({ "plan": "gold" }));
        let event_type = to
            .good("GET", "/event-type/invoice.paid", Value::Null)
            .await;
        assert_eq!(event_type["schemas"], schemas);
        if round == 0 {
            let wrong = json!({ "url": "http://127.0.0.1:9/wrong", "disabled": false });
            to.good("PATCH", "/app/ada/endpoint/main", wrong).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_says_which_key_it_needs() {
    let (from, mut to) = (Environment::new().await, Environment::new().await);
    from.good("POST", "/app", json!({ "name": "Ada" })).await;
    to.key = to.server.root.clone();
    let refused = import(&from, &to);
    let told = words(&refused.stderr);
    assert!(
        told.contains("the key of an application with the profile svix"),
        "{told}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_sees_its_own_mode_and_application_only() {
    let live = Environment::new().await;
    live.good("POST", "/app", json!({ "name": "Ada", "uid": "ada" }))
        .await;
    let hook = |path: &str| json!({ "url": format!("http://127.0.0.1:9/{path}"), "uid": "main" });
    let made = live.good("POST", "/app/ada/endpoint", hook("live")).await;
    let sent = live.good(
        "POST",
        "/app/ada/msg",
        json!({ "eventType": "a", "eventId": "e", "payload": {} }),
    );
    let sent = sent.await;
    let (endpoint, message) = (text(&made, "id"), text(&sent, "id"));
    let server = &live.server;
    let listed = server.good("GET", "/v1/applications", Value::Null).await;
    let application = text(&listed["data"][0], "id");
    let new = json!({ "name": "tests", "application": application, "mode": "test" });
    let test_key = server.good("POST", "/v1/keys", new).await;
    let stranger = key(server, "another shop", "live").await;
    let places = [
        format!("/app/ada/endpoint/{endpoint}"),
        format!("/app/ada/endpoint/{endpoint}/secret"),
        "/app/ada/endpoint/main".to_owned(),
        format!("/app/ada/msg/{message}"),
        "/app/ada/msg/e".to_owned(),
        format!("/app/ada/attempt/msg/{message}"),
        format!("/app/ada/attempt/endpoint/{endpoint}"),
        format!("/app/ada/endpoint/{endpoint}/msg"),
    ];
    for place in &places {
        assert_eq!(
            live.ask("GET", place, Value::Null).await.status,
            200,
            "{place}"
        );
        for key in [text(&test_key, "key"), &stranger] {
            let path = format!("/api/v1{place}");
            let reply = server.call_as(key, "GET", &path, Value::Null).await;
            assert_eq!(reply.status, 404, "{place}: {reply:?}");
            assert_eq!(
                reply.json(),
                json!({ "code": "not_found", "detail": "Entity not found" })
            );
        }
    }
    // The same uid is another endpoint in the other mode.
    let test_key = text(&test_key, "key");
    let other = server
        .call_as(test_key, "POST", "/api/v1/app/ada/endpoint", hook("test"))
        .await;
    assert_eq!(other.status, 201, "{other:?}");
    assert_ne!(other.json()["id"], made["id"]);
}

/// A customer with an endpoint where nobody listens.
async fn with_a_dead_endpoint() -> Environment {
    let live = Environment::new().await;
    live.good("POST", "/app", json!({ "name": "Ada", "uid": "ada" }))
        .await;
    let hook = json!({ "url": "http://127.0.0.1:9/", "uid": "main" });
    live.good("POST", "/app/ada/endpoint", hook).await;
    live
}

impl Environment {
    async fn message(&self, number: usize) -> String {
        let new = json!({ "eventType": "a.b", "payload": { "n": number } });
        let made = self.good("POST", "/app/ada/msg", new).await;
        text(&made, "id").to_owned()
    }

    /// Waits until a message has had so many attempts.
    async fn attempted(&self, message: &str, count: usize) {
        let path = format!("/app/ada/attempt/msg/{message}?limit=50");
        let waiting = async {
            while rows(&self.good("GET", &path, Value::Null).await).len() < count {
                tokio::task::yield_now().await;
            }
        };
        let patience = Duration::from_secs(30);
        let waited = tokio::time::timeout(patience, waiting).await;
        assert!(waited.is_ok(), "{message} has not had {count} attempts");
    }

    /// One page of the endpoint's attempts: their ids, and where it goes on.
    async fn page(&self, limit: usize, iterator: Option<&str>) -> (Vec<String>, Option<String>) {
        let iterator = iterator.map(|iterator| format!("&iterator={iterator}"));
        let iterator = iterator.unwrap_or_default();
        let path = format!("/app/ada/attempt/endpoint/main?limit={limit}{iterator}");
        let page = self.good("GET", &path, Value::Null).await;
        let ids = rows(&page).iter().map(|row| text(row, "id").to_owned());
        let ids: Vec<String> = ids.collect();
        assert!(ids.len() <= limit, "{page}");
        let more = page["done"] == false;
        (ids, more.then(|| text(&page, "iterator").to_owned()))
    }
}

fn rows(page: &Value) -> &[Value] {
    page["data"].as_array().map_or(&[], Vec::as_slice)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_of_attempts_have_each_once_however_small_they_are() {
    let live = with_a_dead_endpoint().await;
    let mut messages = Vec::new();
    for number in 0..4 {
        messages.push(live.message(number).await);
    }
    for message in &messages {
        // By the schedule, after 5 s.
        live.attempted(message, 2).await;
    }
    let mut pages = Vec::new();
    for limit in [50, 1, 3, 5] {
        let (mut ids, mut iterator) = live.page(limit, None).await;
        while let Some(place) = &iterator {
            let (more, next) = live.page(limit, Some(place)).await;
            ids.extend(more);
            iterator = next;
        }
        pages.push(ids);
    }
    assert_eq!(pages[0].len(), 8, "{pages:?}");
    assert!(pages.iter().all(|ids| *ids == pages[0]), "{pages:?}");
    let wrong = "/app/ada/attempt/endpoint/main?iterator=nonsense";
    let wrong = live.ask("GET", wrong, Value::Null).await;
    assert_eq!(wrong.status, 422, "{wrong:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_goes_on_where_it_was_whatever_comes_meanwhile() {
    let live = with_a_dead_endpoint().await;
    let mut wanted = Vec::new();
    for number in 0..6 {
        let message = live.message(number).await;
        live.attempted(&message, 1).await;
        wanted.push(message);
    }
    let (first, mut iterator) = live.page(2, None).await;
    let mut seen = first;
    while let Some(place) = iterator {
        // More than are read at once.
        for number in 0..60 {
            live.message(number).await;
        }
        let (more, next) = live.page(2, Some(&place)).await;
        seen.extend(more);
        iterator = next;
    }
    assert_eq!(seen.len(), wanted.len(), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_is_sent_again_makes_nothing_twice() {
    let live = with_a_dead_endpoint().await;
    let post = async |key: &str, token: &str, path: &str, body: Value| {
        let path = format!("/api/v1{path}");
        let who = format!("Bearer {token}");
        let headers = [
            ("idempotency-key", key),
            ("content-type", "application/json"),
            ("authorization", &who),
        ];
        http(
            live.server.address,
            "POST",
            &path,
            &headers,
            body.to_string(),
        )
        .await
    };
    let token = live.key.as_str();
    let hook = || json!({ "url": "http://127.0.0.1:9/again" });
    let first = post("auto_1", token, "/app/ada/endpoint", hook()).await;
    let again = post("auto_1", token, "/app/ada/endpoint", hook()).await;
    assert_eq!((first.status, again.status), (201, 201), "{again:?}");
    assert_eq!(first.json(), again.json());
    let other = post("auto_2", token, "/app/ada/endpoint", hook()).await;
    assert_ne!(other.json()["id"], first.json()["id"]);
    // What was refused may be right the next time, and somebody else's key is another.
    let broken = post("auto_3", token, "/app/ada/endpoint", json!({})).await;
    assert_eq!(broken.status, 422, "{broken:?}");
    let mended = post("auto_3", token, "/app/ada/endpoint", hook()).await;
    assert_eq!(mended.status, 201, "{mended:?}");
    let stranger = key(&live.server, "another shop", "live").await;
    let theirs = post("auto_1", &stranger, "/app/ada/endpoint", hook()).await;
    assert_eq!(theirs.status, 404, "{theirs:?}");
}

/// More than all are remembered of, by one who makes very many things: what others made stays remembered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_makes_very_much_drives_nobodys_answers_out() {
    let live = with_a_dead_endpoint().await;
    let address = live.server.address;
    let post = |key: String, token: &str, path: &str, body: &Value| {
        let (who, body) = (format!("Bearer {token}"), body.to_string());
        let path = format!("/api/v1{path}");
        async move {
            let headers = [
                ("idempotency-key", key.as_str()),
                ("content-type", "application/json"),
                ("authorization", &who),
            ];
            http(address, "POST", &path, &headers, body).await
        }
    };
    let hook = json!({ "url": "http://127.0.0.1:9/once" });
    let path = "/app/ada/endpoint";
    let first = post("auto_1".to_owned(), &live.key, path, &hook).await;
    assert_eq!(first.status, 201, "{first:?}");
    let greedy = key(&live.server, "another shop", "live").await;
    let mut count = 1;
    let large = json!({ "name": "large", "metadata": { "note": "x".repeat(8_000) } });
    for _ in 0..220 {
        let mut making = tokio::task::JoinSet::new();
        for _ in 0..10 {
            count += 1;
            making.spawn(post(format!("auto_{count}"), &greedy, "/app", &large));
        }
        for made in making.join_all().await {
            assert_eq!(made.status, 201, "{made:?}");
        }
    }
    let again = post("auto_1".to_owned(), &live.key, path, &hook).await;
    assert_eq!(again.json(), first.json());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_ends_although_nothing_was_attempted_yet() {
    let live = with_a_dead_endpoint().await;
    let first = live.message(0).await;
    live.attempted(&first, 1).await;
    // From now on they wait.
    let slow = json!({ "rateLimit": 1 });
    live.good("PATCH", "/app/ada/endpoint/main", slow).await;
    for number in 0..1_100 {
        live.message(number).await;
    }
    let (mut seen, mut iterator) = live.page(50, None).await;
    for _ in 0..10 {
        let Some(place) = iterator else { break };
        let (more, next) = live.page(50, Some(&place)).await;
        seen.extend(more);
        assert_ne!(next.as_ref(), Some(&place), "it goes on");
        iterator = next;
    }
    assert_eq!(iterator, None, "it ends");
    let all = format!("/app/ada/attempt/msg/{first}");
    let wanted = live.good("GET", &all, Value::Null).await;
    let wanted = text(&rows(&wanted)[rows(&wanted).len() - 1], "id").to_owned();
    assert!(
        seen.contains(&wanted),
        "{wanted} is not among {}",
        seen.len()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_that_two_people_add_are_both_there() {
    let live = with_a_dead_endpoint().await;
    for number in 0..10 {
        let path = "/app/ada/endpoint/main/headers";
        let add = |name: String| live.ask("PATCH", path, json!({ "headers": { name: "x" } }));
        tokio::join!(add(format!("x-a{number}")), add(format!("x-b{number}")));
    }
    let path = "/app/ada/endpoint/main/headers";
    let there = live.good("GET", path, Value::Null).await;
    assert_eq!(there["sensitive"].as_array().unwrap().len(), 20, "{there}");
    let change = json!({ "headers": { "x-a0": null, "X-B0": "other" }, "deleteHeaders": ["x-a1"] });
    assert_eq!(live.ask("PATCH", path, change).await.status, 204);
    let there = live.good("GET", path, Value::Null).await;
    assert_eq!(there["sensitive"].as_array().unwrap().len(), 18, "{there}");
    // Nor do they have more together than one endpoint may.
    let many = |letter: char| {
        let headers: serde_json::Map<String, Value> = (0..10)
            .map(|number| (format!("x-{letter}{number}"), json!("x")))
            .collect();
        live.ask("PATCH", path, json!({ "headers": headers }))
    };
    let (one, other) = tokio::join!(many('y'), many('z'));
    let mut statuses = [one.status, other.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [204, 422], "{one:?} {other:?}");
    let there = live.good("GET", path, Value::Null).await;
    assert_eq!(there["sensitive"].as_array().unwrap().len(), 28, "{there}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_puts_by_name_makes_one_thing_however_often_and_at_once() {
    let live = with_a_dead_endpoint().await;
    let put = |path: &'static str, body: Value| live.good("PUT", path, body);
    let app = || put("/app/eve", json!({ "name": "Eve" }));
    let (one, other) = tokio::join!(app(), app());
    assert_eq!(one["id"], other["id"]);
    assert_eq!(app().await["uid"], "eve");
    let hook = || {
        put(
            "/app/eve/endpoint/hook",
            json!({ "url": "http://127.0.0.1:9/" }),
        )
    };
    let (one, other) = tokio::join!(hook(), hook());
    assert_eq!(one["id"], other["id"]);
    let all = live.good("GET", "/app/eve/endpoint", Value::Null).await;
    assert_eq!(rows(&all).len(), 1, "{all}");
    // One of another name is not overwritten.
    let other = json!({ "name": "Eve", "uid": "ada" });
    assert_eq!(live.ask("PUT", "/app/new", other).await.status, 409);
    let other = json!({ "url": "http://127.0.0.1:9/other", "uid": "hook" });
    assert_eq!(
        live.ask("PUT", "/app/eve/endpoint/new", other).await.status,
        409
    );
    // A message makes the application that it names, and no other.
    let to = |uid: &str| json!({ "eventType": "a", "payload": {}, "application": { "name": "n", "uid": uid } });
    let wrong = live.ask("POST", "/app/bob/msg", to("mallory")).await;
    assert_eq!(wrong.status, 422, "{wrong:?}");
    live.good("POST", "/app/bob/msg", to("bob")).await;
    live.good("POST", "/app/bob/msg", to("bob")).await;
    let all = live.good("GET", "/app", Value::Null).await;
    assert_eq!(rows(&all).len(), 3, "{all}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenants_key_neither_renames_it_nor_sees_others_by_name() {
    let server = TestServer::start().await;
    let application = server.application("shop", "standard").await;
    let tenants = format!("/v1/applications/{application}/tenants");
    let new = |external_id: &str| json!({ "name": "Ada", "externalId": external_id, "metadata": { "plan": "gold" } });
    let ada = server.good("POST", &tenants, new("ada")).await;
    server.good("POST", &tenants, new("eve")).await;
    let path = format!("/v1/tenants/{}", text(&ada, "id"));
    let taken = server
        .call("PATCH", &path, json!({ "externalId": "eve" }))
        .await;
    assert_eq!(taken.code(), "name_taken");
    let own = json!({ "name": "own", "tenant": text(&ada, "id") });
    let own = server.good("POST", "/v1/keys", own).await;
    let own = text(&own, "key");
    for change in [
        json!({ "externalId": "x" }),
        json!({ "metadata": { "plan": "free" } }),
    ] {
        let refused = server.call_as(own, "PATCH", &path, change).await;
        assert_eq!(refused.code(), "scope_insufficient");
    }
    // What it was called is not it any more, and somebody else may be called so.
    let renamed = server
        .good(
            "PATCH",
            &path,
            json!({ "externalId": "lovelace", "metadata": null }),
        )
        .await;
    assert_eq!(
        (text(&renamed, "externalId"), &renamed["metadata"]),
        ("lovelace", &json!({}))
    );
    let by_name = |name: &str| format!("{tenants}?externalId={name}");
    assert_eq!(
        server.good("GET", &by_name("ada"), Value::Null).await["data"],
        json!([])
    );
    let next = server.good("POST", &tenants, new("ada")).await;
    let found = server.good("GET", &by_name("ada"), Value::Null).await;
    assert_eq!(found["data"][0]["id"], next["id"]);

    let endpoints = format!("{path}/endpoints");
    let hook =
        |external_id: &str| json!({ "url": "http://127.0.0.1:9/", "externalId": external_id });
    let main = server.good("POST", &endpoints, hook("main")).await;
    let again = server.call("POST", &endpoints, hook("main")).await;
    assert_eq!(again.code(), "name_taken");
    let found = server
        .good("GET", &format!("{endpoints}?externalId=main"), Value::Null)
        .await;
    assert_eq!(found["data"][0]["id"], main["id"]);
    let many: Value = (0..51)
        .map(|number| (number.to_string(), json!("x")))
        .collect::<serde_json::Map<_, _>>()
        .into();
    let change = json!({ "metadata": many });
    let refused = server
        .call(
            "PATCH",
            &format!("/v1/endpoints/{}", text(&main, "id")),
            change,
        )
        .await;
    assert_eq!(refused.code(), "validation_failed");
}
