//! A key that sees and changes nothing.

use postrider_testkit::{Behaviour, Receiver};
use serde_json::{Value, json};

use crate::support::{TestServer, http, id, text};

#[tokio::test]
async fn a_read_only_key_sees_all_but_secrets_and_changes_and_sends_nothing() {
    let server = TestServer::start().await;
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let application = server.application("shop", "standard").await;
    let tenant = server.tenant_of(&application).await;
    let endpoint = id(&server.endpoint(&tenant, &receiver.url("/")).await);
    let event = id(&server.publish(&tenant, "order.paid", json!({})).await);
    let delivery = server
        .finished(&format!("event={event}"), 1)
        .await
        .remove(0);
    let delivery = id(&delivery);
    let made = json!({ "name": "dashboard", "readOnly": true });
    let made = server.good("POST", "/v1/keys", made).await;
    assert_eq!(made["readOnly"], true);
    let (key, own) = (text(&made, "key").to_owned(), id(&made));
    let bearer = format!("Bearer {key}");
    let headers = [("authorization", &*bearer)];

    for path in [
        "/metrics".to_owned(),
        "/v1/applications".to_owned(),
        format!("/v1/tenants/{tenant}"),
        format!("/v1/endpoints/{endpoint}"),
        format!("/v1/events/{event}"),
        format!("/v1/deliveries/{delivery}"),
        format!("/v1/tenants/{tenant}/statistics"),
        "/v1/audit".to_owned(),
        "/v1/keys".to_owned(),
    ] {
        let seen = http(server.address, "GET", &path, &headers, "").await;
        assert_eq!(seen.status, 200, "{path}: {}", seen.text);
    }
    let of = |path: &str| format!("/v1/tenants/{tenant}{path}");
    let event = json!({ "type": "order.paid", "data": {} });
    let explained = server
        .call_as(&key, "POST", &of("/explain"), event.clone())
        .await;
    assert_eq!(explained.status, 200, "{}", explained.text);
    // Of whatever its holder wrote into the body: a receiver would take it for ours.
    let headers = &explained.json()["data"][0]["request"]["headers"];
    let signature = headers.as_array().unwrap().iter();
    let signature: Vec<_> = signature
        .filter(|header| header[0] == "webhook-signature")
        .map(|header| &header[1])
        .collect();
    assert_eq!(signature, ["****"], "{headers}");

    // Nor of what was sent: where it says nothing of its time, it could be sent again for ever.
    for path in [
        format!("/v1/deliveries/{delivery}"),
        format!("/v1/deliveries/{delivery}/attempts"),
    ] {
        let bearer = format!("Bearer {key}");
        let headers = [("authorization", &*bearer)];
        let shown = http(server.address, "GET", &path, &headers, "").await;
        assert!(
            shown.text.contains(r#""webhook-signature","****""#),
            "{}",
            shown.text
        );
        assert!(!shown.text.contains("v1,"), "{}", shown.text);
        let whole = server.good("GET", &path, Value::Null).await;
        assert!(whole.to_string().contains("v1,"), "{whole}");
    }

    let before = server.good("GET", "/v1/audit", Value::Null).await;
    let url = receiver.url("/");
    for (method, path, body) in [
        (
            "POST",
            "/v1/applications".to_owned(),
            json!({ "name": "x", "profile": "standard" }),
        ),
        (
            "PATCH",
            format!("/v1/applications/{application}"),
            json!({ "name": "x" }),
        ),
        (
            "DELETE",
            format!("/v1/applications/{application}"),
            Value::Null,
        ),
        (
            "PUT",
            format!("/v1/applications/{application}/event-types/a"),
            json!({}),
        ),
        (
            "POST",
            format!("/v1/applications/{application}/tenants"),
            json!({ "name": "x" }),
        ),
        ("PATCH", of(""), json!({ "name": "x" })),
        ("DELETE", of(""), Value::Null),
        ("GET", of("/secret"), Value::Null),
        ("POST", of("/rotate-secret"), json!({})),
        ("POST", of("/endpoints"), json!({ "url": url })),
        (
            "PATCH",
            format!("/v1/endpoints/{endpoint}"),
            json!({ "active": false }),
        ),
        ("DELETE", format!("/v1/endpoints/{endpoint}"), Value::Null),
        ("POST", format!("/v1/endpoints/{endpoint}/test"), json!({})),
        (
            "GET",
            format!("/v1/endpoints/{endpoint}/secret"),
            Value::Null,
        ),
        (
            "POST",
            format!("/v1/endpoints/{endpoint}/rotate-secret"),
            json!({}),
        ),
        ("POST", of("/events"), event.clone()),
        ("POST", of("/events/batch"), json!({ "events": [event] })),
        (
            "POST",
            format!("/v1/deliveries/{delivery}/resend"),
            json!({}),
        ),
        (
            "POST",
            format!("/v1/deliveries/{delivery}/cancel"),
            json!({}),
        ),
        ("POST", of("/replays"), json!({ "status": "delivered" })),
        ("POST", of("/portal-links"), json!({})),
        ("POST", "/v1/console-links".to_owned(), Value::Null),
        ("POST", "/v1/keys".to_owned(), json!({ "name": "more" })),
        (
            "POST",
            "/v1/keys".to_owned(),
            json!({ "name": "more", "tenant": tenant }),
        ),
        ("PATCH", format!("/v1/keys/{own}"), json!({ "name": "x" })),
        ("DELETE", format!("/v1/keys/{own}"), Value::Null),
    ] {
        let refused = server.call_as(&key, method, &path, body).await;
        assert_eq!(
            (refused.status, &*refused.code()),
            (403, "scope_insufficient"),
            "{method} {path}: {}",
            refused.text
        );
    }
    let after = server.good("GET", "/v1/audit", Value::Null).await;
    assert_eq!(before, after, "something was changed");
    assert_eq!(receiver.requests().len(), 1, "something was sent");
    // It is no key that the server can be managed with: the other one has to stay.
    let keys = server.good("GET", "/v1/keys", Value::Null).await;
    let root = keys["data"]
        .as_array()
        .unwrap()
        .iter()
        .find(|key| key["name"] == "root");
    let kept = server
        .call(
            "DELETE",
            &format!("/v1/keys/{}", id(root.unwrap())),
            Value::Null,
        )
        .await;
    assert_eq!((kept.status, &*kept.code()), (409, "last_root_key"));
}
