//! JSON Schemas that cost more than their size shows.

use serde_json::{Value, json};

use crate::support::{TestServer, http, text};

/// A schema of a few lines that asks every value 2^levels times.
pub(crate) fn doubling(levels: u32) -> Value {
    let mut defs = serde_json::Map::new();
    defs.insert("a0".to_owned(), json!({ "type": "string" }));
    for level in 1..levels {
        let below = json!({ "$ref": format!("#/$defs/a{}", level - 1) });
        defs.insert(format!("a{level}"), json!({ "allOf": [below, below] }));
    }
    json!({ "$defs": defs, "$ref": format!("#/$defs/a{}", levels - 1) })
}

#[tokio::test]
async fn an_event_too_large_for_its_schema_is_refused_in_time() {
    let server = TestServer::start().await;
    let application = server.application("shop", "standard").await;
    let tenant = server.tenant_of(&application).await;
    let put = format!("/v1/applications/{application}/event-types/big");
    let body = json!({ "schema": { "items": doubling(10) } });
    assert_eq!(
        server.call("PUT", &put, body).await.json()["field"],
        "schema",
        "$defs are looked for from the root"
    );
    let mut schema = doubling(10);
    let every = schema["$ref"].take();
    schema.as_object_mut().unwrap().remove("$ref");
    schema["items"] = json!({ "$ref": every });
    server.good("PUT", &put, json!({ "schema": schema })).await;
    let events = format!("/v1/tenants/{tenant}/events");
    let large = json!({ "type": "big", "data": vec!["x"; 20_000] });
    let refused = server.call("POST", &events, large).await.json();
    assert_eq!(
        (text(&refused, "code"), text(&refused, "field")),
        ("data_invalid", "data")
    );
    let middle = json!({ "type": "big", "data": vec!["x"; 100] });
    server.good("POST", &events, middle).await;
    let mut wrong = vec![json!("x"); 100];
    wrong.push(json!(7));
    let refused = server
        .call("POST", &events, json!({ "type": "big", "data": wrong }))
        .await;
    assert_eq!(
        refused.json()["field"],
        "data/100",
        "found off the workers too"
    );
}

#[tokio::test]
async fn what_no_schema_can_look_at_is_refused_with_why() {
    let server = TestServer::start().await;
    let application = server.application("shop", "standard").await;
    let tenant = server.tenant_of(&application).await;
    let put = format!("/v1/applications/{application}/event-types/known");
    server.good("PUT", &put, json!({ "schema": {} })).await;
    let bearer = format!("Bearer {}", server.root);
    let headers = [
        ("authorization", bearer.as_str()),
        ("content-type", "application/json"),
    ];
    let events = format!("/v1/tenants/{tenant}/events");
    for data in [r#""\ud800""#, "1e400"] {
        let event = format!(r#"{{"type":"known","data":{data}}}"#);
        let refused = http(server.address, "POST", &events, &headers, event).await;
        let refused = refused.json();
        assert_eq!(text(&refused, "code"), "data_invalid", "{refused}");
        let detail = text(&refused, "detail");
        assert!(
            detail.contains("which no schema can look at"),
            "{data}: {detail}"
        );
    }
}
