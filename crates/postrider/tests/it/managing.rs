//! Managing applications, tenants, event types, endpoints, keys.

use std::collections::HashSet;
use std::sync::Arc;

use postrider_core::limits::{EVENT_TYPES_MAX, SECRETS_MAX};
use postrider_testkit::{Behaviour, Receiver};
use serde_json::{Value, json};
use standardwebhooks::Webhook;
use tokio::task::JoinSet;

use crate::support::{TestServer, id, text};

#[tokio::test]
async fn an_endpoint_is_changed_field_by_field() {
    let server = TestServer::start().await;
    let tenant = server.tenant("standard").await;
    let body = json!({ "url": "http://127.0.0.1:9/a", "events": ["order.*"], "description": "one", "headers": { "x-a": "b" }, "rateLimit": 5 });
    let made = server
        .good("POST", &format!("/v1/tenants/{tenant}/endpoints"), body)
        .await;
    assert!(text(&made, "secret").starts_with("whsec_"));
    let path = format!("/v1/endpoints/{}", id(&made));
    let read = server.good("GET", &path, Value::Null).await;
    assert!(
        read.get("secret").is_none(),
        "shown in the answer that made it, and on its own route"
    );
    assert_eq!(
        (
            &read["headers"]["x-a"],
            &read["rateLimit"],
            &read["ordering"]
        ),
        (&json!("****"), &json!(5), &json!("none"))
    );
    let changed = server
        .good(
            "PATCH",
            &path,
            json!({ "url": "http://127.0.0.1:9/b", "description": null, "ordering": "key" }),
        )
        .await;
    assert_eq!(
        (
            &changed["url"],
            &changed["description"],
            &changed["ordering"]
        ),
        (&json!("http://127.0.0.1:9/b"), &Value::Null, &json!("key"))
    );
    assert_eq!(
        (&changed["events"], &changed["rateLimit"]),
        (&json!(["order.*"]), &json!(5))
    );
    assert_eq!(
        server
            .good(
                "PATCH",
                &path,
                json!({ "rateLimit": null, "active": false })
            )
            .await["disabledReason"],
        "manual"
    );
    assert_eq!(
        server
            .call("PATCH", &path, json!({ "tenant": "x" }))
            .await
            .code(),
        "validation_failed"
    );
    // The profile's form of the id works wherever the id does.
    let by_wire_id = server
        .good(
            "GET",
            &format!("/v1/endpoints/{}", text(&made, "wireId")),
            Value::Null,
        )
        .await;
    assert_eq!(id(&by_wire_id), id(&made));
    server.good("DELETE", &path, Value::Null).await;
    assert_eq!(server.call("DELETE", &path, Value::Null).await.status, 404);
}

#[tokio::test]
async fn an_asymmetric_endpoint_shows_its_public_key() {
    let server = TestServer::start().await;
    let tenant = server.tenant("standard").await;
    let body = json!({ "url": "http://127.0.0.1:9/", "asymmetric": true });
    let made = server
        .good("POST", &format!("/v1/tenants/{tenant}/endpoints"), body)
        .await;
    assert!(text(&made, "publicKey").starts_with("whpk_"));
    let shown = server
        .good(
            "GET",
            &format!("/v1/endpoints/{}/secret", id(&made)),
            Value::Null,
        )
        .await;
    assert_eq!(
        (&shown["publicKey"], &shown["secret"]),
        (&made["publicKey"], &made["secret"])
    );
}

#[tokio::test]
async fn tenants_are_found_by_the_products_own_id_and_event_types_declared() {
    let server = TestServer::start().await;
    let application = server.application("shop", "standard").await;
    let tenants = format!("/v1/applications/{application}/tenants");
    let made = server
        .good(
            "POST",
            &tenants,
            json!({ "name": "Ada", "externalId": "cust-1" }),
        )
        .await;
    let found = server
        .good("GET", &format!("{tenants}?externalId=cust-1"), Value::Null)
        .await;
    assert_eq!(id(&found["data"][0]), id(&made));
    assert_eq!(
        server
            .good("GET", &format!("{tenants}?externalId=cust-2"), Value::Null)
            .await["data"],
        json!([])
    );
    assert_eq!(
        server
            .call(
                "POST",
                &tenants,
                json!({ "name": "Bob", "externalId": "cust-1" })
            )
            .await
            .code(),
        "name_taken"
    );
    let types = format!("/v1/applications/{application}/event-types");
    server
        .good(
            "PUT",
            &format!("{types}/order.paid"),
            json!({ "description": "an order was paid" }),
        )
        .await;
    let listed = server.good("GET", &types, Value::Null).await;
    assert_eq!(
        (
            &listed["data"][0]["name"],
            &listed["data"][0]["description"]
        ),
        (&json!("order.paid"), &json!("an order was paid"))
    );
    server
        .good("DELETE", &format!("{types}/order.paid"), Value::Null)
        .await;
    assert_eq!(
        server
            .call("DELETE", &format!("{types}/order.paid"), Value::Null)
            .await
            .status,
        404
    );
    let path = format!("/v1/applications/{application}");
    assert_eq!(
        server
            .good("PATCH", &path, json!({ "name": "store" }))
            .await["name"],
        "store"
    );
    assert_eq!(
        server
            .call("PATCH", &path, json!({ "profile": "vignetim" }))
            .await
            .code(),
        "profile_in_use"
    );
    let empty = server.application("empty", "standard").await;
    let moved = server
        .good(
            "PATCH",
            &format!("/v1/applications/{empty}"),
            json!({ "profile": "vignetim" }),
        )
        .await;
    assert_eq!(moved["profile"], "vignetim");
    assert!(text(&made, "secret").starts_with("whsec_"));
}

#[tokio::test]
async fn health_and_readiness_need_no_key() {
    let server = TestServer::start().await;
    for path in ["/health", "/ready"] {
        let reply = crate::support::http(server.address, "GET", path, &[], "").await;
        assert_eq!(reply.status, 200, "{path}");
    }
}

#[tokio::test]
async fn secrets_are_not_in_the_store_as_text() {
    let server = TestServer::start().await;
    let tenant = server.tenant("vignetim").await;
    let endpoint = server.endpoint(&tenant, "http://127.0.0.1:9/").await;
    let key = server
        .good("POST", "/v1/keys", json!({ "name": "k", "tenant": tenant }))
        .await;
    let secrets = [
        text(&endpoint, "secret").to_owned(),
        text(&key, "key").to_owned(),
        server.root.clone(),
    ];
    let directory = server.directory.path().join("data");
    let mut files = 0;
    for entry in std::fs::read_dir(directory).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        files += 1;
        for secret in &secrets {
            assert!(
                !bytes
                    .windows(secret.len())
                    .any(|window| window == secret.as_bytes())
            );
        }
    }
    assert!(files >= 3);
}

#[tokio::test]
async fn the_shape_of_every_answer_is_pinned() {
    let server = TestServer::start().await;
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let application = server
        .good("POST", "/v1/applications", json!({ "name": "shop" }))
        .await;
    let tenants = format!("/v1/applications/{}/tenants", id(&application));
    let tenant = server
        .good("POST", &tenants, json!({ "name": "Ada" }))
        .await;
    let endpoint = server.endpoint(&id(&tenant), &receiver.url("/hook")).await;
    let published = server
        .publish(&id(&tenant), "order.paid", json!({ "n": 1 }))
        .await;
    let event = server
        .good(
            "GET",
            &format!("/v1/events/{}", id(&published)),
            Value::Null,
        )
        .await;
    let row = server
        .finished(&format!("event={}", id(&published)), 1)
        .await
        .remove(0);
    let delivery = server
        .good("GET", &format!("/v1/deliveries/{}", id(&row)), Value::Null)
        .await;
    let key = server
        .good(
            "POST",
            "/v1/keys",
            json!({ "name": "k", "tenant": id(&tenant) }),
        )
        .await;
    let problem = server
        .call("POST", &tenants, json!({ "name": "" }))
        .await
        .json();
    let answers = json!({
        "application": application, "tenant": tenant, "endpoint": endpoint, "published": published,
        "event": event, "delivery": delivery, "key": key, "problem": problem,
    });
    // What differs from run to run is replaced by its kind.
    let filters = [
        (r"(app|ten|ep|evt|dlv|key|msg)_[0-9a-z]{26}", "${1}_…"),
        (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", "<time>"),
        (r"whsec_[A-Za-z0-9+/=]+", "whsec_…"),
        (r"pr_live_[A-Za-z0-9_-]+", "pr_live_…"),
        (r"pk_live_[0-9a-f]+", "pk_live_…"),
        (r"v1,[A-Za-z0-9+/=]+", "v1,…"),
        (r"127\.0\.0\.1:\d+", "<receiver>"),
        (r#""\d{10}""#, "\"<unix>\""),
        (r#"Micros": \d+"#, "Micros\": <micros>"),
    ];
    insta::with_settings!({ filters => filters }, { insta::assert_json_snapshot!(answers) });
}

#[tokio::test]
async fn changes_of_different_settings_at_once_all_last() {
    let server = TestServer::start().await;
    let application = server.application("trips", "simplifytrip").await;
    let tenant = server.tenant_of(&application).await;
    let application = format!("/v1/applications/{application}");
    let tenant = format!("/v1/tenants/{tenant}");
    let in_app = json!({ "webhooks": { "inApp": true } });
    for (path, one, other) in [
        (
            &application,
            json!({ "validate": "warn" }),
            json!({ "extraHeaders": [] }),
        ),
        (
            &tenant,
            json!({ "notifications": in_app }),
            json!({ "region": null }),
        ),
    ] {
        for _ in 0..20 {
            let change = |settings: &Value| json!({ "settings": settings });
            let first = server.good("PATCH", path, change(&one));
            let second = server.good("PATCH", path, change(&other));
            tokio::join!(first, second);
            let after = server.good("GET", path, Value::Null).await;
            for (name, value) in one.as_object().unwrap() {
                let now = &after["settings"][name];
                assert!(
                    now == value || now["webhooks"]["inApp"] == true,
                    "{name}: {after}"
                );
            }
            let back = one.as_object().unwrap().keys();
            let back: serde_json::Map<String, Value> =
                back.map(|name| (name.clone(), Value::Null)).collect();
            server
                .good("PATCH", path, json!({ "settings": back }))
                .await;
        }
    }
}

/// Each of the two is well beside what was there, and both together are not.
#[tokio::test]
async fn of_two_changes_that_do_not_go_together_one_is_refused() {
    let server = TestServer::start().await;
    let application = server.application("trips", "simplifytrip").await;
    let path = format!("/v1/applications/{application}");
    for _ in 0..20 {
        let names = |names: Value| json!({ "settings": { "modeNames": names } });
        let both = names(json!({ "live": "production", "test": "sandbox" }));
        server.good("PATCH", &path, both).await;
        let first = server.call("PATCH", &path, names(json!({ "live": "trial" })));
        let second = server.call("PATCH", &path, names(json!({ "test": "trial" })));
        let (first, second) = tokio::join!(first, second);
        let mut statuses = [first.status, second.status];
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 400]);
        let after = server.good("GET", &path, Value::Null).await;
        let names = &after["settings"]["modeNames"];
        assert_ne!(names["live"], names["test"], "{after}");
    }
}

#[tokio::test]
async fn however_many_change_it_at_once_nobody_is_refused() {
    let server = Arc::new(TestServer::start().await);
    let application = server.application("trips", "simplifytrip").await;
    let path = format!("/v1/applications/{application}");
    // Two accounts, each with a turn of its own.
    let new = json!({ "name": "k", "application": application });
    let own = text(&server.good("POST", "/v1/keys", new).await, "key").to_owned();
    let types = format!("{path}/event-types/order.completed");
    let mut changes = JoinSet::new();
    for number in 0..16 {
        let (server, path, types) = (server.clone(), path.clone(), types.clone());
        let (root, own) = (server.root.clone(), own.clone());
        changes.spawn(async move {
            let brand = json!({ "branding": { "name": format!("Trips {number}") } });
            let settings = json!({ "settings": brand });
            let name = json!({ "name": format!("trips-{number}") });
            let described = json!({ "description": format!("{number}") });
            for (key, method, path, body) in [
                (&own, "PATCH", &path, settings),
                (&root, "PATCH", &path, name),
                (&own, "PUT", &types, described.clone()),
            ] {
                let changed = server.call_as(key, method, path, body).await;
                assert_eq!(changed.status, 200, "{}", changed.text);
            }
        });
    }
    changes.join_all().await;
}

#[tokio::test]
async fn what_became_impossible_does_not_keep_from_changing_something_else() {
    let server = TestServer::start().await;
    let desk = server.tenant("standard").await;
    let application = server.application("partners", "vignetim").await;
    let path = format!("/v1/applications/{application}");
    let told = json!({ "settings": { "operationsTenant": desk } });
    server.good("PATCH", &path, told).await;
    server
        .good("DELETE", &format!("/v1/tenants/{desk}"), Value::Null)
        .await;
    let other = json!({ "settings": { "validate": "warn" } });
    let changed = server.good("PATCH", &path, other).await;
    assert_eq!(changed["settings"]["operationsTenant"], json!(desk));
    let again = json!({ "settings": { "operationsTenant": null } });
    server.good("PATCH", &path, again).await;
    let gone = json!({ "settings": { "operationsTenant": desk } });
    let gone = server.call("PATCH", &path, gone).await;
    assert_eq!(gone.json()["field"], "settings.operationsTenant");
}

#[tokio::test]
async fn a_replaced_header_value_is_in_the_audit_log_by_its_name() {
    let server = TestServer::start().await;
    let tenant = server.tenant("standard").await;
    let headers = |token: &str| json!({ "headers": { "x-team": "a", "x-token": token } });
    let mut body = headers("old-password");
    body["url"] = json!("http://127.0.0.1:9/");
    let path = format!("/v1/tenants/{tenant}/endpoints");
    let endpoint = id(&server.good("POST", &path, body).await);
    let path = format!("/v1/endpoints/{endpoint}");
    for token in ["new-password", "new-password"] {
        server.good("PATCH", &path, headers(token)).await;
    }
    let log = format!("/v1/audit?subject={endpoint}&action=endpoint.updated");
    let log = server.good("GET", &log, Value::Null).await;
    let rows = log["data"].as_array().unwrap();
    assert_eq!(rows.len(), 1, "what changes nothing is no change");
    assert_eq!(rows[0]["after"]["replaced"], json!(["x-token"]));
    assert!(!log.to_string().contains("password"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_event_types_at_once_one_is_the_last_that_there_may_be() {
    const CALLERS: usize = 27;
    let server = Arc::new(TestServer::start().await);
    let application = server.application("shop", "standard").await;
    let types = format!("/v1/applications/{application}/event-types");
    // All but one, by some callers at once so that it does not take long.
    let mut declaring = JoinSet::new();
    for first in 0..CALLERS {
        let (server, types) = (server.clone(), types.clone());
        declaring.spawn(async move {
            for number in (first..EVENT_TYPES_MAX - 1).step_by(CALLERS) {
                let path = format!("{types}/type-{number}");
                server.good("PUT", &path, json!({})).await;
            }
        });
    }
    declaring.join_all().await;
    let put = async |name: &str| {
        let path = format!("{types}/{name}");
        server.call("PUT", &path, json!({})).await
    };
    // More than once: which of them comes first is nobody's choice.
    for _ in 0..5 {
        let (one, other) = tokio::join!(put("last.one"), put("last.other"));
        let (name, taken, refused) = if one.status == 200 {
            ("last.one", one, other)
        } else {
            ("last.other", other, one)
        };
        assert_eq!(
            (taken.status, refused.status),
            (200, 409),
            "{taken:?} {refused:?}"
        );
        assert_eq!(refused.code(), "event_types_max");
        // What is there already is no further one.
        assert_eq!(put("type-0").await.status, 200);
        let listed = server.good("GET", &types, Value::Null).await;
        assert_eq!(listed["data"].as_array().unwrap().len(), EVENT_TYPES_MAX);
        let path = format!("{types}/{name}");
        server.good("DELETE", &path, Value::Null).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_that_are_rotated_at_once_are_no_more_than_an_endpoint_may_have() {
    let server = Arc::new(TestServer::start().await);
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let tenant = server.tenant("standard").await;
    let endpoint = server.endpoint(&tenant, &receiver.url("/")).await;
    let path = format!("/v1/endpoints/{}", id(&endpoint));
    // With the secret that it was made with it is one too many.
    let mut rotating = JoinSet::new();
    for _ in 0..SECRETS_MAX {
        let (server, rotate) = (server.clone(), format!("{path}/rotate-secret"));
        rotating.spawn(async move { server.call("POST", &rotate, Value::Null).await });
    }
    let mut secrets = HashSet::from([text(&endpoint, "secret").to_owned()]);
    for rotated in rotating.join_all().await {
        assert_eq!(rotated.status, 200, "{rotated:?}");
        secrets.insert(text(&rotated.json(), "secret").to_owned());
    }
    assert_eq!(secrets.len(), SECRETS_MAX + 1, "everybody got another one");
    let current = server
        .good("GET", &format!("{path}/secret"), Value::Null)
        .await;
    server.publish(&tenant, "a", json!(1)).await;
    let sent = receiver.wait_for(1).await.remove(0);
    let signatures: Vec<&str> = sent.headers["webhook-signature"].split(' ').collect();
    assert_eq!(signatures.len(), SECRETS_MAX);
    let signs = |secret: &str| {
        let at = sent.headers["webhook-timestamp"].parse().unwrap();
        let webhook = Webhook::new(secret).unwrap();
        let signed = webhook.sign(&sent.headers["webhook-id"], at, &sent.body);
        signatures.contains(&signed.unwrap().as_str())
    };
    let signing = secrets.iter().filter(|secret| signs(secret)).count();
    assert_eq!(signing, SECRETS_MAX, "each by itself");
    assert!(signs(text(&current, "secret")));
}
