//! The pages, as browsers get them: who is let in, for how long, and where.

pub(crate) mod browser;
mod catalogue;
mod catching;
mod hostile;
mod operating;
mod products;
mod reading;
mod stories;

use serde_json::{Value, json};

use crate::support::{TestServer, id, text};
use browser::{Browser, path_of, portal_link};

#[tokio::test]
async fn the_console_opens_with_a_key_and_by_a_link_once() {
    let server = TestServer::start().await;
    let mut browser = Browser::new(&server);
    let reply = browser.send("GET", "/deliveries?status=failed", &[]).await;
    assert_eq!(reply.status, 303);
    let sign_in = reply.headers["location"].clone();
    assert_eq!(sign_in, "/sign-in?next=%2Fdeliveries%3Fstatus%3Dfailed");
    assert!(
        browser
            .page(&sign_in)
            .await
            .contains("value=\"/deliveries?status=failed\"")
    );
    let wrong = browser
        .send("POST", "/sign-in", &[("key", "pr_live_no")])
        .await;
    assert_eq!(wrong.status, 401);
    assert!(!wrong.headers.contains_key("set-cookie"));
    assert!(wrong.text.contains("role=\"alert\""), "{wrong:?}");
    let key = server.root.clone();
    let form = [("key", key.as_str()), ("next", "/deliveries?status=failed")];
    let right = browser.send("POST", "/sign-in", &form).await;
    assert_eq!(right.headers["location"], "/deliveries?status=failed");
    let cookie = &right.headers["set-cookie"];
    assert!(
        cookie.contains("; HttpOnly; SameSite=Lax; Secure; Max-Age=43"),
        "{cookie}"
    );
    assert!(!right.text.contains(&key) && !cookie.contains(&key));
    assert!(
        browser
            .page("/")
            .await
            .contains("make the first application")
    );
    // Nobody is sent elsewhere.
    let elsewhere = [("key", key.as_str()), ("next", "//evil.example")];
    let sent = Browser::new(&server)
        .send("POST", "/sign-in", &elsewhere)
        .await;
    assert_eq!(sent.headers["location"], "/");

    let link = server.good("POST", "/v1/console-links", Value::Null).await;
    let path = path_of(text(&link, "url"));
    for _ in 0..2 {
        // Whoever looks at the link does not use it.
        let looked = Browser::new(&server).page(&path).await;
        assert!(
            looked.contains("This link opens the pages once"),
            "{looked}"
        );
    }
    let mut second = Browser::by_link(&server, text(&link, "url")).await;
    second.page("/").await;
    // Whose key opened it is in the audit log.
    let audit = server
        .good("GET", "/v1/audit?action=session.updated", Value::Null)
        .await;
    assert!(
        audit["data"][0]["actor"]["key"].is_string(),
        "{}",
        audit["data"][0]
    );
    let again = Browser::new(&server).send("GET", &path, &[]).await;
    assert_eq!(again.status, 404);
    let (path, code) = path.split_once("?code=").unwrap();
    let again = Browser::new(&server)
        .send("POST", path, &[("code", code)])
        .await;
    assert_eq!(again.status, 404);
    assert!(!again.headers.contains_key("set-cookie"));

    let left = second.press("/sign-out", &[]).await;
    assert_eq!(left.status, 303);
    second.cookies = vec![("postrider_console".to_owned(), code.to_owned())];
    assert_eq!(
        second.send("GET", "/", &[]).await.status,
        303,
        "a code is no token"
    );
}

#[tokio::test]
async fn a_portal_is_in_frames_of_its_own_product_only() {
    let server = TestServer::start().await;
    let tenant = server.tenant("standard").await;
    let asked = json!({ "frameOrigins": ["https://shop.example", "http://localhost:3000"], "returnUrl": "https://shop.example/settings" });
    let link = portal_link(&server, &tenant, asked).await;
    let framed = "frame-ancestors https://shop.example http://localhost:3000";
    let mut browser = Browser::new(&server);
    let path = path_of(text(&link, "url"));
    let looked = browser.send("GET", &path, &[]).await;
    assert!(
        looked.headers["content-security-policy"].ends_with(framed),
        "{looked:?}"
    );
    let (path, code) = path.split_once("?code=").unwrap();
    let entered = browser.send("POST", path, &[("code", code)]).await;
    let cookie = &entered.headers["set-cookie"];
    assert!(
        cookie.contains("Path=/portal; HttpOnly; SameSite=None; Partitioned; Secure"),
        "{cookie}"
    );
    let page = browser.send("GET", "/portal", &[]).await;
    assert!(page.headers["content-security-policy"].ends_with(framed));
    assert!(!page.headers.contains_key("x-frame-options"));
    assert!(page.text.contains("href=\"https://shop.example/settings\""));
    // Of anybody else nothing is.
    let link = portal_link(&server, &tenant, json!({})).await;
    let mut browser = Browser::by_link(&server, text(&link, "url")).await;
    let page = browser.send("GET", "/portal", &[]).await;
    assert!(page.headers["content-security-policy"].ends_with("frame-ancestors 'none'"));
    assert_eq!(page.headers["x-frame-options"], "DENY");
    for wrong in [
        json!({ "frameOrigins": ["https://*.example"] }),
        json!({ "frameOrigins": ["https://a.example; script-src *"] }),
        json!({ "returnUrl": "javascript:alert(1)" }),
        json!({ "lastsSecs": 59 }),
        json!({ "name": "a\nb" }),
        json!({ "mode": "both" }),
    ] {
        let reply = server
            .call(
                "POST",
                &format!("/v1/tenants/{tenant}/portal-links"),
                wrong.clone(),
            )
            .await;
        assert_eq!(reply.status, 400, "{wrong}: {reply:?}");
    }
}

#[tokio::test]
async fn visits_end_when_they_are_ended_and_with_whom_they_are_of() {
    let server = TestServer::start().await;
    let tenant = server.tenant("standard").await;
    let link = portal_link(&server, &tenant, json!({ "name": "ada" })).await;
    let mut browser = Browser::by_link(&server, text(&link, "url")).await;
    browser.page("/portal").await;
    let path = format!("/v1/tenants/{tenant}/portal-links");
    let listed = server.good("GET", &path, Value::Null).await;
    assert_eq!(listed["data"][0]["name"], "ada");
    assert!(listed["data"][0]["openedAt"].is_string() && listed["data"][0]["url"].is_null());
    server
        .good(
            "DELETE",
            &format!("/v1/portal-links/{}", id(&link)),
            Value::Null,
        )
        .await;
    assert_eq!(browser.send("GET", "/portal", &[]).await.status, 401);
    // Of a key.
    let key = server
        .good("POST", "/v1/keys", json!({ "name": "op" }))
        .await;
    let mut operator = Browser::sign_in(&server, text(&key, "key")).await;
    operator.page("/").await;
    let path = format!("/v1/keys/{}", id(&key));
    server
        .good("PATCH", &path, json!({ "active": false }))
        .await;
    assert_eq!(operator.send("GET", "/", &[]).await.status, 401);
    server.good("DELETE", &path, Value::Null).await;
    assert_eq!(operator.send("GET", "/", &[]).await.status, 303);
    // Of a tenant.
    let link = portal_link(&server, &tenant, json!({})).await;
    let mut browser = Browser::by_link(&server, text(&link, "url")).await;
    browser.page("/portal").await;
    server
        .good("DELETE", &format!("/v1/tenants/{tenant}"), Value::Null)
        .await;
    assert_eq!(browser.send("GET", "/portal", &[]).await.status, 401);
}

#[tokio::test]
async fn only_the_product_makes_portal_links_and_within_its_mode() {
    let server = TestServer::start().await;
    let tenant = server.tenant("standard").await;
    let path = format!("/v1/tenants/{tenant}/portal-links");
    let own = server
        .good("POST", "/v1/keys", json!({ "name": "t", "tenant": tenant }))
        .await;
    let reply = server
        .call_as(text(&own, "key"), "POST", &path, json!({}))
        .await;
    assert_eq!(
        (reply.status, reply.code().as_str()),
        (403, "scope_insufficient")
    );
    let test = server
        .good("POST", "/v1/keys", json!({ "name": "x", "mode": "test" }))
        .await;
    let test = text(&test, "key");
    let live = server
        .call_as(test, "POST", &path, json!({ "mode": "live" }))
        .await;
    assert_eq!(live.status, 403);
    let link = server.call_as(test, "POST", &path, json!({})).await.json();
    assert_eq!(link["mode"], "test");
    let mut browser = Browser::by_link(&server, text(&link, "url")).await;
    let home = browser.page("/portal").await;
    assert!(home.contains("test mode"));
    // What belongs to a live link a test key does not end.
    let live = portal_link(&server, &tenant, json!({})).await;
    let end = format!("/v1/portal-links/{}", id(&live));
    assert_eq!(
        server
            .call_as(test, "DELETE", &end, Value::Null)
            .await
            .status,
        404
    );
}

#[tokio::test]
async fn pages_can_be_left_out_and_people_get_pages_where_nothing_is() {
    let server = TestServer::start().await;
    let mut browser = Browser::new(&server);
    let missing = browser.send("GET", "/nothing/here", &[]).await;
    assert_eq!(missing.status, 404);
    assert!(
        missing.text.contains("<h1>Not found</h1>") && missing.headers.contains_key("x-request-id")
    );
    assert_eq!(
        server
            .call("GET", "/nothing/here", Value::Null)
            .await
            .code(),
        "route_unknown"
    );
    for path in ["/assets/pages.css", "/assets/pages.js", "/assets/icon.svg"] {
        let asset = browser.send("GET", path, &[]).await;
        assert_eq!(asset.status, 200);
        assert!(asset.headers["cache-control"].contains("immutable"));
    }
    let without = TestServer::with(|config| config.pages.enabled = false).await;
    for path in ["/", "/sign-in", "/portal", "/assets/pages.css"] {
        let reply = without.call("GET", path, Value::Null).await;
        assert_eq!(reply.code(), "route_unknown", "{path}");
    }
}

#[tokio::test]
async fn a_link_is_not_followed_by_itself_over_somebody_elses_visit() {
    let server = TestServer::start().await;
    let (own, other) = (
        server.tenant("standard").await,
        server.tenant("standard").await,
    );
    let link = portal_link(&server, &own, json!({ "name": "ada" })).await;
    let mut browser = Browser::new(&server);
    let fresh = browser.page(&path_of(text(&link, "url"))).await;
    assert!(fresh.contains("data-go"));
    let mut browser = Browser::by_link(&server, text(&link, "url")).await;
    let link = portal_link(&server, &other, json!({})).await;
    let asked = browser.page(&path_of(text(&link, "url"))).await;
    assert!(
        !asked.contains("data-go") && asked.contains("You are in already, as ada"),
        "{asked}"
    );
}

#[tokio::test]
async fn in_a_frame_a_customer_can_read_that_the_visit_has_ended() {
    let server = TestServer::start().await;
    let mut browser = Browser::new(&server);
    let ended = browser.send("GET", "/portal", &[]).await;
    assert_eq!(ended.status, 401);
    assert!(
        ended.headers["content-security-policy"].ends_with("frame-ancestors *"),
        "{ended:?}"
    );
    assert!(!ended.headers.contains_key("x-frame-options"));
    // The console is in nobody's.
    let console = browser.send("GET", "/nothing", &[]).await;
    assert_eq!(console.headers["x-frame-options"], "DENY");
    // Where only forms go there is a page that says so.
    let form = browser.send("GET", "/sign-out", &[]).await;
    assert_eq!(form.status, 405);
    assert!(form.text.contains("go on from the first page"), "{form:?}");
}

#[tokio::test]
async fn behind_a_proxy_the_cookie_goes_over_https_only() {
    let server = TestServer::with(|config| {
        config.server.public_url = Some("https://hooks.example.com".to_owned());
    })
    .await;
    let key = server.root.clone();
    // What nginx sends on when nobody tells it otherwise.
    let stream = [("key", key.as_str())];
    let body = url::form_urlencoded::Serializer::new(String::new())
        .extend_pairs(stream)
        .finish();
    let headers = [("content-type", "application/x-www-form-urlencoded")];
    let reply = crate::support::http_to(
        "127.0.0.1:8080",
        server.address,
        "POST",
        "/sign-in",
        &headers,
        body,
    )
    .await;
    assert!(
        reply.headers["set-cookie"].contains("; Secure"),
        "{reply:?}"
    );
}
