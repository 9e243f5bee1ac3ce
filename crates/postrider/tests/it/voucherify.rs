//! Voucherify's management of project webhooks, and a send-out of a project.

use postrider_testkit::{Behaviour, Receiver};
use serde_json::{Value, json};

use crate::support::{Reply, TestServer, hmac, http, id};

struct Manager<'s> {
    server: &'s TestServer,
    key: Value,
    project: String,
}

impl<'s> Manager<'s> {
    /// A project, and an application's key that manages it.
    async fn new(server: &'s TestServer) -> (Self, Value) {
        let name = format!("loyalty-{}", fastrand::u64(..));
        let application = server.application(&name, "voucherify").await;
        let path = format!("/v1/applications/{application}/tenants");
        let tenant = server
            .good("POST", &path, json!({ "name": "project" }))
            .await;
        let key = json!({ "name": "management", "application": application });
        let key = server.good("POST", "/v1/keys", key).await;
        let project = tenant["wireId"].as_str().unwrap().to_owned();
        (
            Self {
                server,
                key,
                project,
            },
            tenant,
        )
    }

    async fn call(&self, method: &str, rest: &str, body: &str) -> Reply {
        let path = format!("/management/v1/projects/{}/webhooks{rest}", self.project);
        let text = |name: &str| self.key[name].as_str().unwrap();
        let headers = [
            ("x-management-id", text("publicId")),
            ("x-management-token", text("key")),
        ];
        http(
            self.server.address,
            method,
            &path,
            &headers,
            body.to_owned(),
        )
        .await
    }
}

#[tokio::test]
async fn project_webhooks_are_managed_as_documented() {
    let server = TestServer::start().await;
    let (manager, _) = Manager::new(&server).await;
    assert!(manager.project.starts_with("proj_") && manager.project.len() == 17);
    let body = r#"{"target_url":"http://127.0.0.1:9/a","events":["redemption.succeeded"]}"#;
    let created = manager.call("POST", "", body).await;
    let webhook = created.json();
    let wh = webhook["id"].as_str().unwrap().to_owned();
    assert_eq!(created.status, 200);
    assert!(wh.starts_with("wh_") && wh.len() == 27, "{wh}");
    let expected = format!(
        r#"{{"object":"webhook","created_at":{},"id":"{wh}","events":["redemption.succeeded"],"target_url":"http://127.0.0.1:9/a","active":true}}"#,
        webhook["created_at"]
    );
    assert_eq!(created.text, expected);
    assert_eq!(
        manager.call("GET", &format!("/{wh}"), "").await.text,
        expected
    );
    let list = manager.call("GET", "", "").await;
    assert_eq!(
        list.text,
        format!(r#"{{"object":"list","data_ref":"data","data":[{expected}],"total":1}}"#)
    );
    let replaced = r#"{"target_url":"http://127.0.0.1:9/b","events":["voucher.created","customer.updated"],"active":false}"#;
    let updated = manager
        .call("PUT", &format!("/{wh}"), replaced)
        .await
        .json();
    assert_eq!(
        (&updated["active"], &updated["events"]),
        (
            &json!(false),
            &json!(["voucher.created", "customer.updated"])
        )
    );
    let partial = manager
        .call(
            "PUT",
            &format!("/{wh}"),
            r#"{"target_url":"http://127.0.0.1:9/b"}"#,
        )
        .await;
    let problem = partial.json();
    assert_eq!(
        (partial.status, &problem["code"], &problem["key"]),
        (400, &json!(400), &json!("invalid_payload"))
    );
    assert_eq!(
        problem["details"],
        "Payload must have required property 'events'"
    );
    assert_eq!(problem["request_id"].as_str().unwrap().len(), 20);
    // It replaces: what is not named is as it is by itself.
    let again = replaced.replace(r#","active":false"#, "");
    let enabled = manager.call("PUT", &format!("/{wh}"), &again).await;
    assert_eq!(enabled.json()["active"], true);
    assert_eq!(
        manager.call("DELETE", &format!("/{wh}"), "").await.status,
        204
    );
    let gone = manager.call("GET", &format!("/{wh}"), "").await;
    let problem = gone.json();
    assert_eq!(
        (gone.status, &problem["key"], &problem["message"]),
        (404, &json!("not_found"), &json!("Resource not found"))
    );
    assert_eq!(
        problem["details"],
        format!("Cannot find webhook with id {wh}")
    );
    assert_eq!(
        (&problem["resource_id"], &problem["resource_type"]),
        (&json!(wh), &json!("webhook"))
    );
}

#[tokio::test]
async fn what_is_not_right_is_refused_and_changes_nothing() {
    let server = TestServer::start().await;
    let (manager, _) = Manager::new(&server).await;
    let (other, _) = Manager::new(&server).await;
    for body in [
        r#"{}"#,
        r#"{"target_url":"http://127.0.0.1:9/"}"#,
        r#"{"target_url":"nonsense","events":["redemption.failed"]}"#,
        r#"{"target_url":"https://10.0.0.1/","events":["redemption.failed"]}"#,
        r#"{"target_url":"http://127.0.0.1:9/","events":[]}"#,
        r#"{"target_url":"http://127.0.0.1:9/","events":["*"]}"#,
        r#"{"target_url":"http://127.0.0.1:9/","events":["order.lost"]}"#,
        r#"{"target_url":"http://127.0.0.1:9/","events":["redemption.failed"],"active":"yes"}"#,
        r#"{"target_url":"http://127.0.0.1:9/","events":["redemption.failed"],"headers":{}}"#,
        "[]",
        r#""text""#,
        r#"{"target_url":"http://127.0.0.1:9/","target_url":"http://127.0.0.1:8/","events":["redemption.failed"]}"#,
    ] {
        let reply = manager.call("POST", "", body).await;
        assert_eq!(
            (reply.status, &reply.json()["key"]),
            (400, &json!("invalid_payload")),
            "{body}"
        );
    }
    for body in ["", "{"] {
        let expected = r#"{"statusCode":400,"error":"Bad Request","message":"Invalid request payload JSON format"}"#;
        let reply = manager.call("POST", "", body).await;
        assert_eq!((reply.status, reply.text.as_str()), (400, expected));
    }
    assert_eq!(manager.call("GET", "", "").await.json()["total"], 0);
    let path = format!("/management/v1/projects/{}/webhooks", manager.project);
    let (public, token) = (
        manager.key["publicId"].as_str().unwrap(),
        manager.key["key"].as_str().unwrap(),
    );
    for headers in [
        vec![],
        vec![("x-management-id", public)],
        vec![("x-management-id", public), ("x-management-token", "no")],
        vec![("x-management-id", "no"), ("x-management-token", token)],
    ] {
        let reply = http(server.address, "GET", &path, &headers, "").await;
        let unauthorized = r#"{"code":401,"message":"Unauthorized","key":"unauthorized"}"#;
        assert_eq!((reply.status, reply.text.as_str()), (401, unauthorized));
    }
    // Another's project is not found, and so is one that is none.
    for project in [other.project.as_str(), "proj_x", "proj_zzzzzzzzzzzz"] {
        let stranger = Manager {
            server: &server,
            key: manager.key.clone(),
            project: project.to_owned(),
        };
        let reply = stranger.call("GET", "", "").await;
        let expected = format!(
            r#"{{"code":404,"message":"Resource not found","details":"Cannot find project with id {project}"}}"#
        );
        assert_eq!((reply.status, reply.text), (404, expected));
    }
}

#[tokio::test]
async fn a_key_manages_the_webhooks_of_its_mode() {
    let server = TestServer::start().await;
    let (live, tenant) = Manager::new(&server).await;
    let body = json!({ "name": "sandbox", "tenant": id(&tenant), "mode": "test" });
    let test = Manager {
        server: &server,
        key: server.good("POST", "/v1/keys", body).await,
        project: live.project.clone(),
    };
    let body = r#"{"target_url":"http://127.0.0.1:9/","events":["redemption.failed"]}"#;
    for (own, other) in [(&live, &test), (&test, &live)] {
        let webhook = own.call("POST", "", body).await.json();
        let path = format!("/{}", webhook["id"].as_str().unwrap());
        for (method, body) in [("GET", ""), ("PUT", body), ("DELETE", "")] {
            assert_eq!(
                other.call(method, &path, body).await.status,
                404,
                "{method}"
            );
        }
        assert_eq!(own.call("GET", &path, "").await.json(), webhook);
        assert_eq!(own.call("GET", "", "").await.json()["total"], 1);
    }
}

/// Clients send `{}` or `null` where the documents have no body; nothing in one does anything.
#[tokio::test]
async fn a_body_that_the_documents_do_not_have_does_nothing() {
    let server = TestServer::start().await;
    let (manager, _) = Manager::new(&server).await;
    let body = r#"{"target_url":"http://127.0.0.1:9/","events":["redemption.failed"]}"#;
    let made = manager.call("POST", "", body).await.json();
    let own = format!("/{}", made["id"].as_str().unwrap());
    let stray = r#"{"active":false,"target_url":"http://127.0.0.1:8/"}"#;
    for stray in ["null", "{}", stray, "no JSON"] {
        let read = manager.call("GET", &own, stray).await;
        assert_eq!((read.status, read.json()), (200, made.clone()), "{stray}");
        let webhook = manager.call("POST", "", body).await.json();
        let gone = format!("/{}", webhook["id"].as_str().unwrap());
        let deleted = manager.call("DELETE", &gone, stray).await;
        assert_eq!(deleted.status, 204, "{stray}: {}", deleted.text);
    }
    assert_eq!(manager.call("GET", "", "").await.json()["total"], 1);
}

#[tokio::test]
async fn a_type_that_the_application_declares_can_be_subscribed_to() {
    let server = TestServer::start().await;
    let (manager, tenant) = Manager::new(&server).await;
    let body = r#"{"target_url":"http://127.0.0.1:9/","events":["wallet.opened"]}"#;
    assert_eq!(manager.call("POST", "", body).await.status, 400);
    let application = tenant["application"].as_str().unwrap();
    let path = format!("/v1/applications/{application}/event-types/wallet.opened");
    server.good("PUT", &path, json!({})).await;
    let made = manager.call("POST", "", body).await;
    assert_eq!(made.status, 200, "{}", made.text);
    assert_eq!(made.json()["events"], json!(["wallet.opened"]));
    // What it has stays, though nobody declares it any more: it can still be switched off.
    server.good("DELETE", &path, Value::Null).await;
    let own = format!("/{}", made.json()["id"].as_str().unwrap());
    let off = r#"{"target_url":"http://127.0.0.1:9/","events":["wallet.opened"],"active":false}"#;
    let put = manager.call("PUT", &own, off).await;
    assert_eq!((put.status, &put.json()["active"]), (200, &json!(false)));
    assert_eq!(manager.call("POST", "", body).await.status, 400);
}

#[tokio::test]
async fn what_a_key_may_not_do_and_a_path_does_not_take_is_told_apart_from_mistakes() {
    let server = TestServer::start().await;
    let (mut manager, tenant) = Manager::new(&server).await;
    let other = manager.call("PATCH", "", "{}").await;
    assert_eq!(
        (other.status, other.text.as_str()),
        (
            405,
            r#"{"code":405,"message":"HTTP Method Not Allowed","details":"PATCH is not supported by this endpoint. Did you mean GET or POST?"}"#
        )
    );
    let application = &tenant["application"];
    let looking = json!({ "name": "looks", "application": application, "readOnly": true });
    manager.key = server.good("POST", "/v1/keys", looking).await;
    let body = r#"{"target_url":"http://127.0.0.1:9/","events":["redemption.failed"]}"#;
    let refused = manager.call("POST", "", body).await;
    assert_eq!(refused.status, 403, "{}", refused.text);
    assert_eq!(manager.call("GET", "", "").await.json()["total"], 0);
}

#[tokio::test]
async fn a_pattern_is_shown_as_the_events_that_it_matches() {
    let server = TestServer::start().await;
    let (manager, tenant) = Manager::new(&server).await;
    let made = server.endpoint(&id(&tenant), "http://127.0.0.1:9/").await;
    assert_eq!(made["events"], json!(["*"]));
    let path = format!("/{}", made["wireId"].as_str().unwrap());
    let shown = manager.call("GET", &path, "").await.json();
    assert_eq!(shown["events"].as_array().unwrap().len(), 67);
    let same = json!({ "target_url": shown["target_url"], "events": shown["events"] });
    let put = manager.call("PUT", &path, &same.to_string()).await;
    assert_eq!((put.status, put.json()), (200, shown));
}

#[tokio::test]
async fn a_whole_number_that_receivers_would_change_is_told() {
    let server = TestServer::start().await;
    let (_, tenant) = Manager::new(&server).await;
    let path = format!("/v1/tenants/{}/events", id(&tenant));
    let publish = async |data: &str| {
        let body = format!(r#"{{"type":"voucher.created","data":{data}}}"#);
        let reply = server.raw(&path, body).await;
        assert_eq!(reply.status, 202, "{reply:?}");
        reply.json()["warning"].clone()
    };
    assert_eq!(publish(r#"{"id":9007199254740991}"#).await, Value::Null);
    let warning = publish(r#"{"id":12345678901234567890}"#).await;
    let warning = warning.as_str().unwrap();
    assert!(
        warning.contains("12345678901234567890 has more digits"),
        "{warning}"
    );
    assert!(
        warning.contains("is sent as 12345678901234567000"),
        "{warning}"
    );
}

#[tokio::test]
async fn a_project_webhook_may_have_headers_of_its_own() {
    let server = TestServer::start().await;
    let receiver = Receiver::start(Behaviour::Status(202)).await;
    let tenant = server.tenant("voucherify").await;
    let path = format!("/v1/tenants/{tenant}/endpoints");
    let webhook = |headers: Value| json!({ "url": receiver.url("/"), "headers": headers });
    for headers in [
        json!({ "X-Team": "a", "x-team": "b" }),
        json!({ "x-team": "" }),
        json!({ "content-length": "1" }),
        json!({ "transfer-encoding": "chunked" }),
        json!({ "connection": "close" }),
        json!({ "keep-alive": "1" }),
        json!({ "te": "trailers" }),
        json!({ "upgrade": "h2c" }),
    ] {
        let reply = server.call("POST", &path, webhook(headers.clone())).await;
        let field = reply.json()["field"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        assert!(
            reply.status == 400 && field.starts_with("headers."),
            "{headers}: {reply:?}"
        );
    }
    server
        .good("POST", &path, webhook(json!({ "X-Team": "growth" })))
        .await;
    server.publish(&tenant, "voucher.created", json!({})).await;
    let request = receiver.wait_for(1).await.remove(0);
    assert_eq!(request.headers["x-team"], "growth");
    server.finished("status=delivered", 1).await;
}

#[tokio::test]
async fn a_projects_webhooks_are_signed_with_its_one_secret() {
    let server = TestServer::start().await;
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let (manager, tenant) = Manager::new(&server).await;
    for path in ["/a", "/b"] {
        let body = json!({ "target_url": receiver.url(path), "events": ["redemption.succeeded"] });
        assert_eq!(
            manager.call("POST", "", &body.to_string()).await.status,
            200
        );
    }
    let secret = tenant["secret"].as_str().unwrap();
    let shown = server
        .good(
            "GET",
            &format!("/v1/tenants/{}/secret", id(&tenant)),
            Value::Null,
        )
        .await;
    assert_eq!(shown["secret"], secret);
    let event = r#"{"type":"redemption.succeeded","data":{ "b": 1.50, "2": [], "1": "\u00e9" },"meta":{"id":"evred_1","channel":"API"}}"#;
    server
        .raw(&format!("/v1/tenants/{}/events", id(&tenant)), event)
        .await;
    let requests = receiver.wait_for(2).await;
    let mut sendouts = Vec::new();
    for request in requests {
        let text = std::str::from_utf8(&request.body).unwrap();
        let body: Value = serde_json::from_str(text).unwrap();
        assert!(
            text.contains(r#""data":{"1":"é","2":[],"b":1.5},"source":{"id":"wh_"#),
            "{text}"
        );
        assert!(
            text.ends_with(r#""event":{"id":"evred_1","channel":"API"}}"#),
            "{text}"
        );
        assert_eq!(request.method, "POST");
        assert_eq!(request.headers["content-type"], "application/json");
        assert_eq!(body["type"], "redemption.succeeded");
        assert_eq!(body["project_id"], manager.project);
        assert_eq!(body["source"]["target_url"], receiver.url(&request.target));
        sendouts.push(body["id"].clone());
        let expected = hmac(secret, &request.body);
        assert_eq!(request.headers["x-voucherify-signature"], expected);
    }
    assert_ne!(sendouts[0], sendouts[1], "one send-out for each webhook");
}

#[tokio::test]
async fn the_events_of_orders_are_of_the_catalogue_though_another_page_has_them() {
    const ORDERS: [&str; 6] = [
        "order.created",
        "order.updated",
        "order.paid",
        "order.canceled",
        "order.fulfilled",
        "order.processing",
    ];
    let server = TestServer::start().await;
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let (manager, tenant) = Manager::new(&server).await;
    // Nobody has declared them.
    let body = json!({ "target_url": receiver.url("/"), "events": ORDERS });
    let made = manager.call("POST", "", &body.to_string()).await;
    assert_eq!(made.status, 200, "{made:?}");
    assert_eq!(made.json()["events"], json!(ORDERS));
    for (before, name) in ORDERS.into_iter().enumerate() {
        let published = server.publish(&id(&tenant), name, json!({})).await;
        assert_eq!(published["deliveries"], 1, "{name}: {published}");
        let sent = receiver.wait_for(before + 1).await.remove(before);
        let sent: Value = serde_json::from_slice(&sent.body).unwrap();
        assert_eq!(sent["type"], name);
    }
    let path = format!("/v1/tenants/{}/events", id(&tenant));
    let event = json!({ "type": "order.lost", "data": {} });
    let unknown = server.call("POST", &path, event).await;
    assert_eq!(unknown.code(), "event_type_unknown");
}

#[tokio::test]
async fn a_project_webhook_keeps_its_headers_whichever_api_changes_it() {
    let server = TestServer::start().await;
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let (manager, tenant) = Manager::new(&server).await;
    let endpoints = format!("/v1/tenants/{}/endpoints", id(&tenant));
    let new = json!({
        "url": receiver.url("/"), "events": ["voucher.created"], "headers": { "X-Team": "growth", "x-token": "secret-1" },
    });
    let made = server.good("POST", &endpoints, new).await;
    // Their values may be passwords of the receiver's.
    let shown = json!({ "X-Team": "****", "x-token": "****" });
    assert_eq!(made["headers"], shown);
    let path = format!("/v1/endpoints/{}", id(&made));
    let read = server.good("GET", &path, Value::Null).await;
    assert_eq!(read["headers"], shown);
    let listed = server.good("GET", &endpoints, Value::Null).await;
    assert_eq!(listed["data"][0]["headers"], shown);
    let change = json!({ "description": "as it was" });
    let changed = server.good("PATCH", &path, change).await;
    assert_eq!(changed["headers"], shown);
    let sent = async |count: usize, event_type: &str| {
        server.publish(&id(&tenant), event_type, json!({})).await;
        let request = receiver.wait_for(count).await.remove(count - 1);
        assert_eq!(request.headers["x-team"], "growth", "{event_type}");
        assert_eq!(request.headers["x-token"], "secret-1", "{event_type}");
    };
    sent(1, "voucher.created").await;
    // This API replaces all that it has a word for; of headers it knows nothing.
    let body = json!({ "target_url": receiver.url("/"), "events": ["voucher.updated"] });
    let own = format!("/{}", made["wireId"].as_str().unwrap());
    let put = manager.call("PUT", &own, &body.to_string()).await;
    assert_eq!(put.status, 200, "{put:?}");
    let read = server.good("GET", &path, Value::Null).await;
    assert_eq!(
        (&read["headers"], &read["events"]),
        (&shown, &json!(["voucher.updated"]))
    );
    sent(2, "voucher.updated").await;
}
