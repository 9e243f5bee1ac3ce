//! What a stranger, another customer, a publisher or a receiver cannot do by the pages.

use postrider_testkit::{Behaviour, Receiver};
use serde_json::{Value, json};

use super::browser::{Browser, portal_link};
use crate::support::{TestServer, id, text};

/// Every page and every act about what another tenant has.
fn of_another(
    tenant: &str,
    endpoint: &str,
    delivery: &str,
    event: &str,
) -> Vec<(&'static str, String)> {
    let get = [
        format!("/portal/tenants/{tenant}"),
        format!("/portal/tenants/{tenant}/endpoints/new"),
        format!("/portal/tenants/{tenant}/events"),
        format!("/portal/tenants/{tenant}/event-types"),
        format!("/portal/tenants/{tenant}/statistics"),
        format!("/portal/endpoints/{endpoint}"),
        format!("/portal/endpoints/{endpoint}/edit"),
        format!("/portal/deliveries?tenant={tenant}"),
        format!("/portal/tenants/{tenant}/replays"),
        format!("/portal/tenants/{tenant}/notifications"),
        format!("/portal/tenants/{tenant}/settings"),
        format!("/portal/tenants/{tenant}/verify"),
        format!("/portal/deliveries/{delivery}"),
        format!("/portal/events/{event}"),
    ];
    let post = [
        format!("/portal/tenants/{tenant}/portal"),
        format!("/portal/tenants/{tenant}/endpoints"),
        format!("/portal/tenants/{tenant}/event-types"),
        format!("/portal/tenants/{tenant}/replays"),
        format!("/portal/tenants/{tenant}/keys"),
        format!("/portal/tenants/{tenant}/notifications/settings"),
        format!("/portal/tenants/{tenant}/settings/secret"),
        format!("/portal/tenants/{tenant}/settings/rotate"),
        format!("/portal/endpoints/{endpoint}/enable"),
        format!("/portal/endpoints/{endpoint}/disable"),
        format!("/portal/endpoints/{endpoint}/delete"),
        format!("/portal/endpoints/{endpoint}/test"),
        format!("/portal/endpoints/{endpoint}/secret"),
        format!("/portal/endpoints/{endpoint}/rotate"),
        format!("/portal/endpoints/{endpoint}/edit"),
        format!("/portal/deliveries/{delivery}/resend"),
        format!("/portal/deliveries/{delivery}/cancel"),
    ];
    let get = get.into_iter().map(|path| ("GET", path));
    get.chain(post.into_iter().map(|path| ("POST", path)))
        .collect()
}

/// A tenant with an endpoint, an event and a delivery of it.
async fn furnished(server: &TestServer, receiver: &Receiver) -> (String, String, String, String) {
    let tenant = server.tenant("standard").await;
    let endpoint = id(&server.endpoint(&tenant, &receiver.url("/hook")).await);
    let event = server
        .publish(&tenant, "order.completed", json!({ "secretOf": "another" }))
        .await;
    let delivery = server.finished(&format!("tenant={tenant}"), 1).await;
    (tenant, endpoint, id(&delivery[0]), id(&event))
}

#[tokio::test]
async fn a_customer_sees_what_is_theirs_and_nothing_else() {
    let server = TestServer::start().await;
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let (tenant, endpoint, delivery, event) = furnished(&server, &receiver).await;
    let own = server.tenant("standard").await;
    let link = portal_link(&server, &own, json!({})).await;
    let mut browser = Browser::by_link(&server, text(&link, "url")).await;
    browser.page("/portal").await;
    for (method, path) in of_another(&tenant, &endpoint, &delivery, &event) {
        let form = [("url", "https://example.com/")];
        let reply = match method {
            "GET" => browser.send("GET", &path, &[]).await,
            _ => browser.press(&path, &form).await,
        };
        assert_eq!(reply.status, 404, "{method} {path}: {reply:?}");
        assert!(!reply.text.contains("secretOf"), "{path}");
    }
    // As a control: whoever may see it does, by the same paths.
    let link = portal_link(&server, &tenant, json!({})).await;
    let mut theirs = Browser::by_link(&server, text(&link, "url")).await;
    for (method, path) in of_another(&tenant, &endpoint, &delivery, &event) {
        if method == "GET" {
            theirs.page(&path).await;
        }
    }
    // A customer's cookie opens the portal alone, under whatever name.
    let token = browser.cookies[0].1.clone();
    browser.cookies = vec![("postrider_console".to_owned(), token)];
    for path in ["/", "/deliveries", "/audit", &format!("/tenants/{own}")] {
        assert_eq!(browser.send("GET", path, &[]).await.status, 303, "{path}");
    }
    // And no API.
    let token = &browser.cookies[0].1;
    let reply = server
        .call_as(token, "GET", "/v1/deliveries", Value::Null)
        .await;
    assert_eq!(reply.status, 401);
}

#[tokio::test]
async fn a_visit_for_looking_changes_nothing() {
    let server = TestServer::start().await;
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let (tenant, endpoint, delivery, event) = furnished(&server, &receiver).await;
    let link = portal_link(&server, &tenant, json!({ "readOnly": true })).await;
    let mut browser = Browser::by_link(&server, text(&link, "url")).await;
    let before = server
        .good("GET", &format!("/v1/endpoints/{endpoint}"), Value::Null)
        .await;
    for (method, path) in of_another(&tenant, &endpoint, &delivery, &event) {
        if method == "GET" {
            let page = browser.page(&path).await;
            assert!(
                !page.contains("Send again") && !page.contains(">Delete<"),
                "{path}"
            );
            continue;
        }
        let form = [
            ("url", "https://example.com/"),
            ("name", "x"),
            ("endpoint", &endpoint),
            ("type", "order.completed"),
        ];
        let reply = browser.press(&path, &form).await;
        let refused = reply.status == 403
            || reply.text.contains("this visit is for looking")
            || reply.text.contains("This visit is for looking");
        assert!(refused, "{path}: {reply:?}");
        assert!(!reply.text.contains("whsec_"), "{path}");
    }
    let after = server
        .good("GET", &format!("/v1/endpoints/{endpoint}"), Value::Null)
        .await;
    assert_eq!(before, after);
    assert_eq!(receiver.requests().len(), 1, "nothing more was sent");
}

#[tokio::test]
async fn forms_from_elsewhere_do_nothing() {
    let server = TestServer::start().await;
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let (_, endpoint, delivery, _) = furnished(&server, &receiver).await;
    let mut browser = Browser::sign_in(&server, &server.root).await;
    browser.page(&format!("/endpoints/{endpoint}")).await;
    let disable = format!("/endpoints/{endpoint}/disable");
    for csrf in [None, Some(""), Some("0000")] {
        let form: Vec<_> = csrf.iter().map(|csrf| ("csrf", *csrf)).collect();
        let reply = browser.send("POST", &disable, &form).await;
        assert_eq!(reply.status, 403, "{reply:?}");
    }
    // That of another visit is none.
    let mut other = Browser::sign_in(&server, &server.root).await;
    other.page(&format!("/deliveries/{delivery}")).await;
    let reply = browser
        .send("POST", &disable, &[("csrf", &other.csrf)])
        .await;
    assert_eq!(reply.status, 403);
    let found = server
        .good("GET", &format!("/v1/endpoints/{endpoint}"), Value::Null)
        .await;
    assert_eq!(found["active"], true);
    // Nor is anybody signed in by another site.
    let root = server.root.clone();
    let from = [("sec-fetch-site", "cross-site")];
    let reply = Browser::new(&server)
        .send_with("POST", "/sign-in", &[("key", &root)], &from)
        .await;
    assert_eq!(reply.status, 403);
    let right = browser.csrf.clone();
    let reply = browser.send("POST", &disable, &[("csrf", &right)]).await;
    assert_eq!(reply.status, 303, "{reply:?}");
}

#[tokio::test]
async fn what_others_wrote_is_text() {
    const EVIL: &str = "\"><script>alert(1)</script><img src=x onerror=alert(1)>'";
    let server = TestServer::start().await;
    let answer = Behaviour::StatusWith(400, "x-evil", EVIL.to_owned());
    let receiver = Receiver::start(answer).await;
    let application = server
        .good(
            "POST",
            "/v1/applications",
            json!({ "name": EVIL, "profile": "standard" }),
        )
        .await;
    let application = id(&application);
    let path = format!("/v1/applications/{application}/tenants");
    let tenant = id(&server
        .good("POST", &path, json!({ "name": EVIL, "externalId": EVIL }))
        .await);
    let new = json!({ "url": receiver.url("/hook"), "description": EVIL });
    let endpoint = id(&server
        .good("POST", &format!("/v1/tenants/{tenant}/endpoints"), new)
        .await);
    let types = format!("/v1/applications/{application}/event-types/a.b");
    server
        .good(
            "PUT",
            &types,
            json!({ "description": EVIL, "example": { "x": EVIL } }),
        )
        .await;
    let event = server.publish(&tenant, "a.b", json!({ "x": EVIL })).await;
    let page = server
        .until("/v1/deliveries", |page| {
            page["data"][0]["attemptsMade"] == 1
        })
        .await;
    let (delivery, event) = (id(&page["data"][0]), id(&event));
    let link = portal_link(&server, &tenant, json!({ "name": EVIL })).await;
    let mut browser = Browser::sign_in(&server, &server.root).await;
    let mut customer = Browser::by_link(&server, text(&link, "url")).await;
    let query: String = url::form_urlencoded::byte_serialize(EVIL.as_bytes()).collect();
    let paths = [
        format!("/tenants/{tenant}"),
        format!("/tenants/{tenant}/events?type={query}"),
        format!("/tenants/{tenant}/statistics"),
        format!("/tenants/{tenant}/event-types"),
        format!("/tenants/{tenant}/event-types?find={query}"),
        format!("/endpoints/{endpoint}"),
        format!("/endpoints/{endpoint}?told={query}"),
        format!("/endpoints/{endpoint}/edit"),
        format!("/deliveries?type={query}"),
        format!("/deliveries/{delivery}"),
        format!("/events/{event}"),
        format!("/audit?subject={query}"),
        "/audit".to_owned(),
    ];
    let mut seen = 0;
    for path in &paths {
        let own = browser.page(path).await;
        let theirs = customer.page(&format!("/portal{path}")).await;
        for page in [own, theirs] {
            assert!(
                !page.contains("<script>alert") && !page.contains("<img src=x"),
                "{path}"
            );
            seen += usize::from(page.contains("alert(1)"));
        }
    }
    for path in [
        "/",
        &format!("/applications/{application}"),
        &format!("/sign-in?next={query}"),
    ] {
        let page = browser.page(path).await;
        assert!(
            !page.contains("<script>alert") && !page.contains("<img src=x"),
            "{path}"
        );
    }
    assert!(seen > 15, "the text itself is shown: {seen}");
}

#[tokio::test]
async fn a_form_is_bounded() {
    let server = TestServer::start().await;
    let mut browser = Browser::sign_in(&server, &server.root).await;
    let tenant = server.tenant("standard").await;
    let path = format!("/tenants/{tenant}/endpoints");
    browser.page(&format!("{path}/new")).await;
    let long = "x".repeat(256 * 1024);
    let reply = browser.press(&path, &[("url", &long)]).await;
    assert_eq!(reply.status, 413, "{}", reply.status);
    let reply = Browser::new(&server)
        .send("POST", "/sign-in", &[("key", &long[..4_096])])
        .await;
    assert_eq!(reply.status, 413, "{}", reply.status);
}

#[tokio::test]
async fn a_page_stays_small_whatever_a_receiver_answers() {
    let server = TestServer::start().await;
    // Indented, each level would be a line of its own blanks.
    let deep = ["[".repeat(8_000), "]".repeat(8_000)].concat();
    let receiver = Receiver::start(Behaviour::Body(400, deep)).await;
    let tenant = server.tenant("standard").await;
    let endpoint = id(&server.endpoint(&tenant, &receiver.url("/hook")).await);
    server
        .publish(&tenant, "a.b", json!({ "long": "x".repeat(200 * 1024) }))
        .await;
    let page = server
        .until("/v1/deliveries", |page| {
            page["data"][0]["attemptsMade"] == 1
        })
        .await;
    let mut browser = Browser::sign_in(&server, &server.root).await;
    let path = format!("/deliveries/{}", id(&page["data"][0]));
    let shown = browser.page(&path).await;
    assert!(shown.len() < 150_000, "{} bytes", shown.len());
    assert!(!shown.contains("curl -X POST"), "a command with all of it");
    browser.page(&format!("/endpoints/{endpoint}")).await;
    let tested = browser
        .press(&format!("/endpoints/{endpoint}/test"), &[])
        .await;
    assert!(tested.text.len() < 100_000, "{} bytes", tested.text.len());
    // What is verified is bounded too.
    let verify = format!("/tenants/{tenant}/verify");
    browser.page(&verify).await;
    let long = "a: b\n".repeat(14_000);
    let refused = browser
        .press(&verify, &[("request", &long), ("secret", "whsec_x")])
        .await;
    assert!(
        refused.text.contains("65536 bytes here"),
        "{}",
        refused.text.len()
    );
}
