//! `docs/limits.md`, walked: every bound that refuses is reached and answered as the page says, and a neighbour's
//! events go on meanwhile.

mod quiet;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use postrider_testkit::{Behaviour, Receiver};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Reply, TestServer, hmac, http, id, text};

/// What is over a bound, and what the page says of it: the beginning of the row's first column, and a request.
struct Case {
    row: &'static str,
    method: &'static str,
    path: String,
    body: Value,
}

/// Rows that another test reaches, by its name: they need many requests, a small server, or a clock.
const ELSEWHERE: &[(&str, &str)] = &[
    (
        "time without an answer of a PostgreSQL database",
        "a_way_to_the_database_that_is_silent_is_taken_anew",
    ),
    (
        "time for a body to arrive",
        "a_body_that_does_not_arrive_is_given_up",
    ),
    (
        "questions that wait for the mailer",
        "questions_that_the_mail_server_does_not_take_are_bounded_for_their_tenant",
    ),
    (
        "bytes of a confirmation's body",
        "questions_that_the_mail_server_does_not_take_are_bounded_for_their_tenant",
    ),
    (
        "bodies in memory",
        "one_callers_bodies_do_not_take_anothers_room",
    ),
    (
        "answers in memory that were not taken",
        "answers_that_nobody_reads_are_bounded_for_their_caller",
    ),
    (
        "Vignetim's requests",
        "the_hundred_and_first_request_in_a_minute_is_one_too_many",
    ),
    (
        "requests of each key",
        "a_key_has_so_many_requests_a_minute_and_is_told_how_many_are_left",
    ),
    (
        "tries to come in by one name",
        "nobody_tries_passwords_for_long",
    ),
    (
        "a request to a catcher",
        "a_catcher_is_one_tenants_and_bounded",
    ),
    (
        "names and addresses whose tries are counted",
        "windows_are_bounded_and_end",
    ),
    (
        "passwords that are looked at",
        "one_address_leaves_turns_to_others",
    ),
    (
        "tries by all names that failed",
        "tries_are_counted_by_name_and_address",
    ),
    ("test calls", "test_calls_are_bounded_for_each_tenant"),
    (
        "test calls of all tenants at once",
        "test_calls_are_bounded_for_each_tenant",
    ),
    (
        "changes of endpoints, keys, tenants",
        "more_changes_than_may_wait_are_refused",
    ),
    (
        "publishes and resends that wait for the store",
        "when_too_much_waits_publishers_are_told_to_come_back",
    ),
    (
        "their payload",
        "when_too_much_waits_publishers_are_told_to_come_back",
    ),
    (
        "checks of one value against one schema",
        "an_event_too_large_for_its_schema_is_refused_in_time",
    ),
    (
        "steps of patterns over texts",
        "a_pattern_costs_its_size_times_the_text",
    ),
    ("API keys of one owner", "keys_are_bounded_for_each_owner"),
    (
        "endpoints of keys of one mode",
        "the_limit_counts_registered_endpoints_of_a_mode",
    ),
    (
        "distributions of one mode",
        "the_limit_counts_registered_endpoints_of_a_mode",
    ),
    (
        "one-off URLs",
        "of_too_many_callbacks_the_oldest_idle_one_ends",
    ),
    (
        "attempts of a delivery after which",
        "a_delivery_has_a_bounded_number_of_attempts",
    ),
    (
        "age of a delivery that is resent",
        "a_send_out_that_is_too_old_is_not_sent_again",
    ),
    (
        "resends of one delivery at once",
        "of_retries_at_once_one_is_sent_and_none_after_it_succeeded",
    ),
    (
        "resends past a disabled endpoint's lane",
        "retries_of_a_disabled_source_are_bounded_and_one_at_a_time",
    ),
    (
        "unfinished replays",
        "a_tenant_has_so_many_unfinished_replays_and_no_more",
    ),
    (
        "size of the database",
        "a_full_disk_refuses_loses_nothing_and_service_resumes",
    ),
    (
        "room that is kept for events and records",
        "the_last_room_is_kept_for_events",
    ),
    (
        "what is stored within half a day",
        "who_fills_the_disk_leaves_half_of_it_to_others",
    ),
    ("a form", "a_form_is_bounded"),
    (
        "what a key opens with beside its text",
        "a_rotated_key_opens_with_both_texts_until_the_old_one_is_ended",
    ),
    ("catchers", "one_application_leaves_catchers_to_another"),
    (
        "lookups for people who are not in",
        "who_tries_from_one_network_leaves_places_to_others",
    ),
];

/// Rows that no test reaches, and why.
const UNREACHED: &[(&str, &str)] = &[
    (
        "time for a cell to say whether it has a key",
        "it would take a server that says nothing for five seconds",
    ),
    (
        "keys that a door asks its cells for at once",
        "the same, and hundreds of requests",
    ),
    (
        "requests that a door has with one cell",
        "it would take thousands of requests that hang",
    ),
    (
        "time for a cell to begin its answer",
        "it would take two minutes",
    ),
    (
        "requests that wait for a node that leads",
        "they would have to wait for fifteen seconds, by the thousand",
    ),
    (
        "nodes that follow one that leads",
        "it would take sixty-five servers",
    ),
    (
        "time of a list or a count",
        "it would have to read for ten seconds",
    ),
    (
        "wait for a lock that another process has",
        "it is another process's fault, and takes five seconds each",
    ),
    (
        "time for a form to arrive",
        "it is that of bodies, and would take thirty seconds",
    ),
    (
        "requests to catchers that are being read",
        "it is that of forms, of which one tenant has half",
    ),
    (
        "forms that are read at once",
        "it would take thousands of connections",
    ),
];

fn over(server_tenants: &Tenants) -> Vec<Case> {
    let Tenants {
        standard: t,
        voucherify: v,
        simplifytrip: s,
        application: a,
    } = server_tenants;
    let mut cases = Vec::new();
    let mut case = |row, method, path: String, body| {
        cases.push(Case {
            row,
            method,
            path,
            body,
        });
    };
    let events = || format!("/v1/tenants/{t}/events");
    let event = |more: Value| {
        let mut event = json!({ "type": "a", "data": 1 });
        for (name, value) in more.as_object().unwrap() {
            event[name] = value.clone();
        }
        event
    };
    let long = |bytes: usize| "x".repeat(bytes);
    let mut deep = json!(1);
    for _ in 0..66 {
        deep = json!([deep]);
    }
    case(
        "a request's body",
        "POST",
        events(),
        event(json!({ "data": long(256 * 1024) })),
    );
    case(
        "levels of arrays and objects",
        "POST",
        events(),
        event(json!({ "data": deep })),
    );
    case(
        "rows of a page",
        "GET",
        format!("{}?limit=251", events()),
        Value::Null,
    );
    case(
        "rows of a page of `explain`",
        "POST",
        format!("/v1/tenants/{t}/explain?limit=51"),
        event(json!({})),
    );
    let series = "since=2020-01-01T00:00:00Z&until=2026-01-01T00:00:00Z&period=60s";
    case(
        "points of a time series",
        "GET",
        format!("/v1/tenants/{t}/statistics?{series}"),
        Value::Null,
    );
    case(
        "an event type's name",
        "POST",
        events(),
        event(json!({ "type": long(129) })),
    );
    case(
        "`data`",
        "POST",
        events(),
        event(json!({ "data": long(256 * 1024) })),
    );
    case(
        "`meta`",
        "POST",
        events(),
        event(json!({ "meta": { "m": long(16 * 1024) } })),
    );
    case(
        "`orderingKey`, `idempotencyKey`",
        "POST",
        events(),
        event(json!({ "orderingKey": long(256) })),
    );
    let batch = |count| json!({ "events": vec![json!({ "type": "a", "data": 1 }); count] });
    case(
        "events of a batch",
        "POST",
        format!("{}/batch", events()),
        batch(1_001),
    );
    let types = |name: &str| format!("/v1/applications/{a}/event-types/{name}");
    let schema = |schema: Value| json!({ "schema": schema });
    case(
        "a schema, an example",
        "PUT",
        types("x"),
        schema(json!({ "title": long(64 * 1024) })),
    );
    case(
        "a description",
        "PUT",
        types("x"),
        json!({ "description": long(1_025) }),
    );
    let mut definitions = json!({ "a0": true });
    for number in 1..20 {
        let before = json!({ "$ref": format!("#/$defs/a{}", number - 1) });
        definitions[format!("a{number}")] = json!({ "allOf": [before, before] });
    }
    let unfolding = json!({ "$defs": definitions, "$ref": "#/$defs/a19" });
    case(
        "schemas that a schema unfolds to",
        "PUT",
        types("x"),
        schema(unfolding),
    );
    let looping = json!({ "$defs": { "a": { "$ref": "#/$defs/a" } }, "$ref": "#/$defs/a" });
    case(
        "references one behind the other",
        "PUT",
        types("x"),
        schema(looping),
    );
    let patterns: Vec<Value> = (0..51)
        .map(|n| json!({ "pattern": format!("a{n}") }))
        .collect();
    case(
        "patterns",
        "PUT",
        types("x"),
        schema(json!({ "allOf": patterns })),
    );
    let endpoints = || format!("/v1/tenants/{t}/endpoints");
    let endpoint = |name: &str, value: Value| {
        let mut new = json!({ "url": "http://127.0.0.1:9/" });
        new[name] = value;
        new
    };
    let url = format!("http://127.0.0.1:9/{}", long(2_048));
    case("a URL", "POST", endpoints(), endpoint("url", json!(url)));
    case(
        "patterns of a subscription",
        "POST",
        endpoints(),
        endpoint("events", json!(vec!["a"; 101])),
    );
    let many: serde_json::Map<String, Value> =
        (0..51).map(|n| (format!("data.a{n}"), json!(n))).collect();
    let deep = (0..12).fold(json!({ "data.a": 1 }), |inner, _| json!({ "$not": inner }));
    for filter in [
        json!({ "data.a": long(4_096) }),
        json!(many),
        deep,
        json!({ "data.a": { "$in": vec![1; 101] } }),
    ] {
        let with = endpoint("filter", filter);
        case("a content filter", "POST", endpoints(), with);
    }
    let notes: serde_json::Map<String, Value> =
        (0..51).map(|n| (format!("n{n}"), json!("v"))).collect();
    for metadata in [json!(notes), json!({ "n": long(8_192) })] {
        let with = endpoint("metadata", metadata);
        let what = "metadata of a tenant or an endpoint";
        case(what, "POST", endpoints(), with);
    }
    let headers: serde_json::Map<String, Value> =
        (0..33).map(|n| (format!("x-{n}"), json!("v"))).collect();
    case(
        "custom headers",
        "POST",
        endpoints(),
        endpoint("headers", json!(headers)),
    );
    case(
        "`rateLimit`",
        "POST",
        endpoints(),
        endpoint("rateLimit", json!(100_001)),
    );
    case(
        "a secret that the caller brings",
        "POST",
        endpoints(),
        endpoint("secret", json!(long(256))),
    );
    case(
        "a description",
        "POST",
        endpoints(),
        endpoint("description", json!(long(1_025))),
    );
    let field = json!({ "from": "a.b", "to": "c" });
    let design = json!({ "name": "d", "eventName": "e", "url": "http://127.0.0.1:9/", "events": ["voucher.sent"],
                         "payload": { "fields": vec![field; 101] } });
    case(
        "fields of a designed payload",
        "POST",
        format!("/v1/tenants/{v}/distributions"),
        design,
    );
    let tenants = format!("/v1/applications/{a}/tenants");
    case(
        "names, `externalId`, `eventName`",
        "POST",
        tenants,
        json!({ "name": long(256) }),
    );
    let names = json!({ "settings": { "modeNames": { "live": long(33), "test": "t" } } });
    case(
        "`settings.modeNames`",
        "PATCH",
        format!("/v1/applications/{a}"),
        names,
    );
    for (name, value) in [("name", long(65)), ("logo", long(16 * 1_024 + 1))] {
        let branding = json!({ "settings": { "branding": { name: value } } });
        case(
            "`settings.branding`",
            "PATCH",
            format!("/v1/applications/{a}"),
            branding,
        );
    }
    let ips: Vec<String> = (0..101).map(|n| format!("10.0.0.{n}")).collect();
    let key = json!({ "name": "k", "tenant": s, "allowedIps": ips });
    case("`allowedIps`", "POST", "/v1/keys".to_owned(), key);
    let mail: Vec<String> = (0..21).map(|n| format!("a{n}@example.com")).collect();
    let mail = json!({ "settings": { "notifications": { "webhooks": { "emails": mail } } } });
    case(
        "addresses that get mail",
        "PATCH",
        format!("/v1/tenants/{t}"),
        mail,
    );
    let links = || format!("/v1/tenants/{t}/portal-links");
    let origins: Vec<String> = (0..9).map(|n| format!("https://a{n}.example")).collect();
    for (row, link) in [
        (
            "a portal link and what it opened",
            json!({ "lastsSecs": 604_801 }),
        ),
        (
            "origins that may have a portal",
            json!({ "frameOrigins": origins }),
        ),
        ("a link's name", json!({ "name": long(513) })),
    ] {
        case(row, "POST", links(), link);
    }
    cases
}

struct Tenants {
    standard: String,
    voucherify: String,
    simplifytrip: String,
    application: String,
}

/// The rows of the page: of each its first column, and what its caller gets.
fn rows() -> Vec<(String, String)> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/limits.md");
    let page = std::fs::read_to_string(page).unwrap();
    let rows = page
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| what |"));
    let rows = rows.map(|line| {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        assert_eq!(cells.len(), 5, "{line}");
        (cells[0].to_owned(), cells[4].to_owned())
    });
    rows.collect()
}

/// Whether a caller at the bound is refused.
fn refuses(says: &str) -> bool {
    let codes = [
        "400", "401", "408", "409", "413", "429", "431", "500", "503",
    ];
    codes.iter().any(|code| says.contains(code))
}

#[test]
fn every_other_bound_has_a_test_or_says_why_it_has_none() {
    let mut rows = rows();
    rows.retain(|(_, says)| !refuses(says));
    let known = || quiet::REACHED.iter().chain(quiet::UNREACHED);
    for (row, _) in &rows {
        let is_known = known().any(|(known, _)| row == known);
        assert!(is_known, "the bound {row:?} of the page has no test");
    }
    for (known, _) in known() {
        let is_there = rows.iter().any(|(row, _)| row == known);
        assert!(is_there, "the page has no row {known:?}");
    }
    for (row, test) in quiet::REACHED {
        assert!(is_a_test(test), "{row}: there is no test {test}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_bound_of_the_page_is_reached_and_answered_as_it_says() {
    let server = TestServer::start().await;
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let application = server.application("shop", "standard").await;
    let tenants = Tenants {
        standard: server.tenant_of(&application).await,
        voucherify: server.tenant("voucherify").await,
        simplifytrip: server.tenant("simplifytrip").await,
        application,
    };
    let neighbour = server.tenant("standard").await;
    server.endpoint(&neighbour, &receiver.url("/")).await;
    let neighbours = Neighbour::start(&server, &neighbour);

    let mut reached: Vec<&str> = ELSEWHERE
        .iter()
        .chain(UNREACHED)
        .map(|(row, _)| *row)
        .collect();
    let mut rows = rows();
    rows.retain(|(_, says)| refuses(says));
    let said = |row: &str| {
        let mut named = rows.iter().filter(|(name, _)| name.starts_with(row));
        named
            .next()
            .unwrap_or_else(|| panic!("the page has no row {row:?}"))
            .1
            .clone()
    };
    for case in over(&tenants) {
        let reply = server.call(case.method, &case.path, case.body).await;
        is_as_said(case.row, &said(case.row), &reply);
        reached.push(case.row);
    }
    for (row, reply) in others(&server, &tenants).await {
        is_as_said(row, &said(row), &reply);
        reached.push(row);
    }
    for (row, _) in &rows {
        let known = reached.iter().any(|known| row.starts_with(known));
        assert!(known, "no test reaches the bound {row:?} of the page");
    }
    for (_, test) in ELSEWHERE {
        assert!(is_a_test(test), "there is no test {test}");
    }
    let published = neighbours.stop().await;
    assert!(published > 0);
    receiver.wait_for(published).await;
}

fn is_as_said(row: &str, said: &str, reply: &Reply) {
    assert!(
        said.contains(&reply.status.to_string()),
        "{row}: {said}: {reply:?}"
    );
    if said.contains('`') {
        let code = reply.code();
        assert!(
            said.contains(&format!("`{code}`")),
            "{row}: {said}: {reply:?}"
        );
    }
}

/// Bounds that take more than one request with a JSON body.
async fn others(server: &TestServer, tenants: &Tenants) -> Vec<(&'static str, Reply)> {
    let mut replies = Vec::new();
    let bearer = format!("Bearer {}", server.root);
    let large = "x".repeat(33 * 1024);
    let headers = [
        ("authorization", bearer.as_str()),
        ("x-large", large.as_str()),
    ];
    let reply = http(server.address, "GET", "/v1/keys", &headers, "").await;
    replies.push(("a request's headers", reply));
    let batch = format!("/v1/tenants/{}/events/batch", tenants.standard);
    let reply = server.raw(&batch, vec![b' '; 16 * 1024 * 1024 + 1]).await;
    replies.push(("a batch's body", reply));
    // One event of a batch that is too large has its own answer.
    let event = json!({ "type": "a", "data": "x".repeat(256 * 1024) });
    let answer = server
        .call("POST", &batch, json!({ "events": [event] }))
        .await;
    assert!(answer.text.contains("body_too_large"), "{answer:?}");
    // A delivery's attempts have short pages.
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    server.endpoint(&tenants.standard, &receiver.url("/")).await;
    let event = server.publish(&tenants.standard, "a", json!(1)).await;
    let row = server
        .finished(&format!("event={}", id(&event)), 1)
        .await
        .remove(0);
    let path = format!("/v1/deliveries/{}/attempts?limit=26", id(&row));
    replies.push((
        "rows of a page of attempts",
        server.call("GET", &path, Value::Null).await,
    ));
    // A text of 8 MiB of paths is what a profile that signs pairs does not take.
    let many: Vec<Value> = (0..1_100).map(|_| json!(1)).collect();
    let mut nested = json!(many);
    for _ in 0..40 {
        nested = json!({ "a".repeat(200): nested });
    }
    let new =
        json!({ "name": "k", "tenant": tenants.simplifytrip, "webhook": "http://127.0.0.1:9/" });
    let key = server.good("POST", "/v1/keys", new).await;
    let event =
        json!({ "type": "PURCHASE_ORDER_SUCCESS", "key": text(&key, "publicId"), "data": nested });
    let path = format!("/v1/tenants/{}/events", tenants.simplifytrip);
    replies.push((
        "paths in the flat form",
        server.call("POST", &path, event).await,
    ));
    // Ten endpoints are Vignetim's limit; a thousand types an application's.
    let vignetim = server.tenant("vignetim").await;
    let path = format!("/v1/tenants/{vignetim}/endpoints");
    for _ in 0..10 {
        server
            .good("POST", &path, json!({ "url": "http://127.0.0.1:9/" }))
            .await;
    }
    let eleventh = server
        .call("POST", &path, json!({ "url": "http://127.0.0.1:9/" }))
        .await;
    replies.push(("endpoints of one mode that subscribe", eleventh));
    replies.push(("a nonce of Vignetim's", long_nonce(server, &vignetim).await));
    let application = server.application("many", "standard").await;
    let path = |n: usize| format!("/v1/applications/{application}/event-types/t{n}");
    for number in 0..1_000 {
        server.good("PUT", &path(number), json!({})).await;
    }
    replies.push((
        "event types of an application",
        server.call("PUT", &path(1_000), json!({})).await,
    ));
    let user = |n: usize| json!({ "name": format!("user{n}"), "role": "viewer" });
    for number in 0..1_000 {
        server.good("POST", "/v1/users", user(number)).await;
    }
    replies.push((
        "users of the console",
        server.call("POST", "/v1/users", user(1_000)).await,
    ));
    replies
}

/// A request as a partner of Vignetim signs it, with a nonce that is a byte too long; one of as many as it may have is
/// accepted.
async fn long_nonce(server: &TestServer, tenant: &str) -> Reply {
    let new = json!({ "name": "partner", "tenant": tenant, "mode": "live" });
    let key = server.good("POST", "/v1/keys", new).await;
    let path = "/v2/partners/webhooks";
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let at = now.unwrap().as_secs().to_string();
    let send = async |nonce: &str| {
        let signature = hmac(text(&key, "key"), format!("{at}.{nonce}.GET.{path}."));
        let headers = [
            ("x-api-key", text(&key, "publicId")),
            ("x-timestamp", at.as_str()),
            ("x-nonce", nonce),
            ("x-signature", signature.as_str()),
        ];
        http(server.address, "GET", path, &headers, "").await
    };
    assert_eq!(send(&"n".repeat(255)).await.status, 200);
    send(&"n".repeat(256)).await
}

/// Somebody else, who publishes all the while and is never refused.
struct Neighbour {
    stop: Arc<AtomicBool>,
    running: tokio::task::JoinHandle<usize>,
}

impl Neighbour {
    fn start(server: &TestServer, tenant: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (address, stopped) = (server.address, stop.clone());
        let (bearer, path) = (
            format!("Bearer {}", server.root),
            format!("/v1/tenants/{tenant}/events"),
        );
        let running = tokio::spawn(async move {
            let mut published = 0;
            while !stopped.load(Ordering::Relaxed) {
                let headers = [
                    ("authorization", bearer.as_str()),
                    ("content-type", "application/json"),
                ];
                let reply =
                    http(address, "POST", &path, &headers, r#"{"type":"a","data":1}"#).await;
                assert_eq!(reply.status, 202, "{reply:?}");
                published += 1;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            published
        });
        Self { stop, running }
    }

    async fn stop(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.running.await.unwrap()
    }
}

fn is_a_test(name: &str) -> bool {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut folders = vec![crates];
    let wanted = format!("fn {name}(");
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs")
                && std::fs::read_to_string(&path).unwrap().contains(&wanted)
            {
                return true;
            }
        }
    }
    false
}

#[tokio::test]
async fn a_body_that_does_not_arrive_is_given_up() {
    let server = TestServer::start().await;
    let tenant = server.tenant("standard").await;
    let mut stream = tokio::net::TcpStream::connect(server.address)
        .await
        .unwrap();
    let head = format!(
        "POST /v1/tenants/{tenant}/events HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{{",
        server.root
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = vec![0; 4_096];
    let read = tokio::time::timeout(Duration::from_secs(60), stream.read(&mut answer)).await;
    let answer = String::from_utf8_lossy(&answer[..read.unwrap().unwrap()]).into_owned();
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(answer.contains("body_timeout"), "{answer}");
}
