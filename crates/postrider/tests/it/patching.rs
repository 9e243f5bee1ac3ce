//! `null` in a PATCH (RFC 7396), of every member that the OpenAPI document has: it clears what may be empty, and is
//! refused otherwise; it is never passed over.

use serde_json::{Value, json};

use crate::support::{TestServer, id};

/// The members of a PATCH's body.
fn members(document: &Value, path: &str) -> Vec<String> {
    let schema = &document["paths"][path]["patch"]["requestBody"]["content"]["application/json"];
    let name = schema["schema"]["$ref"].as_str().unwrap();
    let name = name.rsplit('/').next().unwrap();
    let members = &document["components"]["schemas"][name]["properties"];
    members.as_object().unwrap().keys().cloned().collect()
}

/// What a member is when it was cleared; none where it cannot be.
fn cleared(member: &str) -> Option<Value> {
    Some(match member {
        "description" | "externalId" | "filter" | "rateLimit" | "expiresAt" | "webhook" => {
            Value::Null
        }
        "headers" | "metadata" => json!({}),
        "events" => json!(["*"]),
        "ordering" => json!("none"),
        "contentType" => json!("json"),
        "allowedIps" => json!([]),
        "payload" => json!({ "fields": null, "raw": false }),
        _ => return None,
    })
}

#[tokio::test]
async fn null_clears_what_may_be_empty_and_is_refused_otherwise() {
    let document = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi.json");
    let document = std::fs::read_to_string(document).unwrap();
    let document: Value = serde_json::from_str(&document).unwrap();
    let server = TestServer::start().await;
    let application = server.application("shop", "standard").await;
    let tenant = server.tenant_of(&application).await;
    let keyed = server.tenant("simplifytrip").await;
    let sets = server.tenant("voucherify").await;
    let url = "http://127.0.0.1:9/";
    let mut made = Vec::new();
    for (path, create, body) in [
        (
            "/v1/endpoints/{endpoint}",
            format!("/v1/tenants/{tenant}/endpoints"),
            json!({
                "url": url, "events": ["a.b"], "filter": { "data.a": 1 }, "description": "d", "externalId": "e",
                "metadata": { "a": "b" }, "headers": { "x-a": "b" }, "rateLimit": 5, "ordering": "endpoint",
            }),
        ),
        (
            "/v1/distributions/{distribution}",
            format!("/v1/tenants/{sets}/distributions"),
            json!({
                "name": "d", "eventName": "e", "url": url, "events": ["customer.order.created"],
                "filter": { "data.a": 1 }, "headers": { "x-a": "b" }, "rateLimit": 5,
                "payload": { "fields": [{ "from": "a", "to": "b" }] },
            }),
        ),
        (
            "/v1/keys/{key}",
            "/v1/keys".to_owned(),
            json!({
                "name": "k", "tenant": keyed, "webhook": url, "allowedIps": ["127.0.0.0/8"], "expiresAt": "2100-01-01T00:00:00Z",
            }),
        ),
        (
            "/v1/users/{user}",
            "/v1/users".to_owned(),
            json!({ "name": "ada@example.com", "role": "viewer" }),
        ),
    ] {
        let new = server.good("POST", &create, body).await;
        made.push((path, id(&new)));
    }
    made.push(("/v1/applications/{application}", application.clone()));
    made.push(("/v1/tenants/{tenant}", tenant.clone()));
    let named = json!({ "externalId": "t", "metadata": { "a": "b" } });
    server
        .good("PATCH", &format!("/v1/tenants/{tenant}"), named)
        .await;

    let patched = document["paths"].as_object().unwrap().iter();
    let patched = patched.filter(|(_, methods)| !methods["patch"].is_null());
    assert_eq!(
        patched.count(),
        made.len(),
        "each has a thing to be tried on"
    );
    for (path, thing) in made {
        let (start, _) = path.split_once('{').unwrap();
        let at = format!("{start}{thing}");
        for member in members(&document, path) {
            let before = server.good("GET", &at, Value::Null).await;
            let reply = server
                .call("PATCH", &at, json!({ member.as_str(): null }))
                .await;
            let after = server.good("GET", &at, Value::Null).await;
            if reply.status == 400 {
                let field = reply.json()["field"].clone();
                assert_eq!(field, json!(member), "{path} {member}: {reply:?}");
                assert_eq!(after[&member], before[&member], "{path} {member}");
                continue;
            }
            assert_eq!(reply.status, 200, "{path} {member}: {reply:?}");
            let cleared = cleared(&member);
            let cleared = cleared.unwrap_or_else(|| panic!("{path} {member} cannot be empty"));
            assert_eq!(after[&member], cleared, "{path} {member}");
        }
    }
}
