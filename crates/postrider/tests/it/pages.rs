//! The pages, as browsers get them: who is let in, what they see, and what a stranger cannot make them do.

use postrider_testkit::{Behaviour, Receiver};
use serde_json::{Value, json};

use crate::support::{Reply, TestServer, http, id, text};

/// A browser without scripts: it keeps cookies, and sends the forms of the pages that it has.
struct Browser<'s> {
    server: &'s TestServer,
    cookies: Vec<(String, String)>,
    csrf: String,
}

impl<'s> Browser<'s> {
    fn new(server: &'s TestServer) -> Self {
        Self {
            server,
            cookies: Vec::new(),
            csrf: String::new(),
        }
    }

    async fn send(&mut self, method: &str, path: &str, form: &[(&str, &str)]) -> Reply {
        self.send_with(method, path, form, &[]).await
    }

    async fn send_with(
        &mut self,
        method: &str,
        path: &str,
        form: &[(&str, &str)],
        more: &[(&str, &str)],
    ) -> Reply {
        let cookies: Vec<String> = self
            .cookies
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let cookies = cookies.join("; ");
        let mut headers = vec![("cookie", cookies.as_str()), ("accept", "text/html")];
        if method == "POST" {
            headers.push(("content-type", "application/x-www-form-urlencoded"));
        }
        headers.extend(more);
        let body = url::form_urlencoded::Serializer::new(String::new())
            .extend_pairs(form)
            .finish();
        let reply = http(self.server.address, method, path, &headers, body).await;
        if let Some(set) = reply.headers.get("set-cookie") {
            let (name, rest) = set.split_once('=').unwrap();
            let (value, _) = rest.split_once(';').unwrap();
            self.cookies.retain(|(known, _)| known != name);
            self.cookies.push((name.to_owned(), value.to_owned()));
        }
        if let Some((_, rest)) = reply.text.split_once("name=\"csrf\" value=\"") {
            rest.split('"').next().unwrap().clone_into(&mut self.csrf);
        }
        reply
    }

    /// A page that must be there.
    async fn page(&mut self, path: &str) -> String {
        let reply = self.send("GET", path, &[]).await;
        assert_eq!(reply.status, 200, "{path}: {reply:?}");
        assert_eq!(reply.headers["cache-control"], "no-store", "{path}");
        assert!(
            reply.headers["content-security-policy"]
                .starts_with("default-src 'none'; script-src 'self'; style-src 'self'"),
            "{path}"
        );
        reply.text
    }

    /// Presses a button of the last page.
    async fn press(&mut self, path: &str, form: &[(&str, &str)]) -> Reply {
        let csrf = self.csrf.clone();
        let mut form = form.to_vec();
        form.push(("csrf", &csrf));
        self.send("POST", path, &form).await
    }

    async fn sign_in(server: &'s TestServer, key: &str) -> Self {
        let mut browser = Self::new(server);
        let reply = browser.send("POST", "/sign-in", &[("key", key)]).await;
        assert_eq!(reply.status, 303, "{reply:?}");
        browser
    }

    /// Comes in by a link.
    async fn by_link(server: &'s TestServer, link: &str) -> Self {
        let mut browser = Self::new(server);
        let path = path_of(link);
        let (path, code) = path.split_once("?code=").unwrap();
        let reply = browser.send("POST", path, &[("code", code)]).await;
        assert_eq!(reply.status, 303, "{reply:?}");
        browser
    }
}

fn path_of(link: &str) -> String {
    let (_, rest) = link.split_once("://").unwrap();
    rest[rest.find('/').unwrap()..].to_owned()
}

async fn portal_link(server: &TestServer, tenant: &str, asked: Value) -> Value {
    let path = format!("/v1/tenants/{tenant}/portal-links");
    server.good("POST", &path, asked).await
}

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
            .contains("the first application is one command away")
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
async fn a_failed_delivery_is_found_understood_mended_and_sent_again() {
    let server = TestServer::start().await;
    let bad = Receiver::start(Behaviour::Status(400)).await;
    let good = Receiver::start(Behaviour::Status(200)).await;
    let tenant = server.tenant("standard").await;
    let link = portal_link(&server, &tenant, json!({ "name": "ada@example.com" })).await;
    let mut browser = Browser::by_link(&server, text(&link, "url")).await;

    let home = browser.page("/portal").await;
    assert!(home.contains("No endpoint yet"), "{home}");
    browser
        .page(&format!("/portal/tenants/{tenant}/endpoints/new"))
        .await;
    let new = format!("/portal/tenants/{tenant}/endpoints");
    let wrong = browser
        .press(&new, &[("url", "nowhere"), ("description", "orders")])
        .await;
    assert_eq!(wrong.status, 400);
    assert!(
        wrong.text.contains("value=\"nowhere\"") && wrong.text.contains("value=\"orders\""),
        "what was typed stays"
    );
    let url = bad.url("/hook");
    let made = browser
        .press(
            &new,
            &[
                ("url", &url),
                ("description", "orders"),
                ("events", "order.*\nvoucher.redeemed"),
            ],
        )
        .await;
    assert_eq!(made.status, 200, "{made:?}");
    assert!(made.text.contains("whsec_"), "its secret is shown with it");
    let listed = server
        .good(
            "GET",
            &format!("/v1/tenants/{tenant}/endpoints"),
            Value::Null,
        )
        .await;
    let endpoint = id(&listed["data"][0]);
    assert_eq!(
        listed["data"][0]["events"],
        json!(["order.*", "voucher.redeemed"])
    );

    let path = format!("/portal/endpoints/{endpoint}");
    let tested = browser.press(&format!("{path}/test"), &[]).await;
    assert!(
        tested.text.contains("The test did not arrive") && tested.text.contains("400 Bad Request"),
        "{tested:?}"
    );

    server
        .publish(&tenant, "order.completed", json!({ "orderId": "o-1" }))
        .await;
    let deliveries = server
        .until("/v1/deliveries", |page| {
            page["data"][0]["attemptsMade"] == 1
        })
        .await;
    let delivery = id(&deliveries["data"][0]);
    let list = browser.page("/portal/deliveries").await;
    assert!(list.contains(&format!("/portal/deliveries/{delivery}")));
    let page = browser
        .page(&format!("/portal/deliveries/{delivery}"))
        .await;
    for told in [
        "Attempt 1 of",
        "The next attempt is due",
        "400 Bad Request",
        "&quot;orderId&quot;: &quot;o-1&quot;",
        "webhook-signature",
        "ada@example.com",
    ] {
        let told = told.replace("&quot;", "&#34;");
        assert!(page.contains(&told), "{told} is not in {page}");
    }
    let cancelled = browser
        .press(&format!("/portal/deliveries/{delivery}/cancel"), &[])
        .await;
    assert_eq!(
        cancelled.headers["location"],
        format!("/portal/deliveries/{delivery}?told=cancelled")
    );

    let edit = browser.page(&format!("{path}/edit")).await;
    assert!(edit.contains(&url));
    let url = good.url("/hook");
    let saved = browser
        .press(
            &format!("{path}/edit"),
            &[("url", &url), ("description", "orders"), ("events", "*")],
        )
        .await;
    assert_eq!(saved.headers["location"], format!("{path}?told=changed"));
    assert!(
        browser
            .page(&format!("{path}?told=changed"))
            .await
            .contains("Saved.")
    );
    let resent = browser
        .press(&format!("/portal/deliveries/{delivery}/resend"), &[])
        .await;
    assert_eq!(resent.status, 303, "{resent:?}");
    server
        .until(&format!("/v1/deliveries/{delivery}"), |found| {
            found["status"] == "delivered"
        })
        .await;
    assert_eq!(good.requests().len(), 1);
    let page = browser
        .page(&format!("/portal/deliveries/{delivery}?told=resent"))
        .await;
    assert!(
        page.contains("Delivered at attempt 2: 200 OK.") && page.contains("Sent again"),
        "{page}"
    );
    // By whom is in the audit log.
    let audit = server
        .good("GET", "/v1/audit?action=endpoint.updated", Value::Null)
        .await;
    assert_eq!(audit["data"][0]["actor"]["name"], "ada@example.com");
}

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
        let form = [("url", "https://example.com/"), ("name", "x")];
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
    assert_eq!(operator.send("GET", "/", &[]).await.status, 403);
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
async fn simplifytrips_customer_gives_a_key_its_webhook_and_reads_the_statistics() {
    let server = TestServer::start().await;
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let tenant = server.tenant("simplifytrip").await;
    let link = portal_link(&server, &tenant, json!({ "name": "agency" })).await;
    let mut customer = Browser::by_link(&server, text(&link, "url")).await;
    let home = customer.page("/portal").await;
    for name in ["Webhook statistics", "Webhook events", ">Settings<"] {
        assert!(home.contains(name), "{name}: {home}");
    }
    assert!(!home.contains("New key"), "the product gives keys");
    let mut operator = Browser::sign_in(&server, &server.root).await;
    operator.page(&format!("/tenants/{tenant}/keys/new")).await;
    let keys = format!("/tenants/{tenant}/keys");
    let wrong = operator
        .press(&keys, &[("name", "agency"), ("webhook", "nowhere")])
        .await;
    assert!(
        wrong.status == 400 && wrong.text.contains("value=\"nowhere\""),
        "{wrong:?}"
    );
    let made = operator
        .press(&keys, &[("name", "agency"), ("mode", "test")])
        .await;
    assert!(made.text.contains("Shown once"), "{made:?}");
    let key = &server
        .good("GET", &format!("/v1/keys?tenant={tenant}"), Value::Null)
        .await["data"][0];
    let path = format!("/portal/keys/{}", id(key));
    assert!(customer.page("/portal").await.contains(&path));
    customer.page(&path).await;
    let url = receiver.url("/hook");
    let named = customer
        .press(&format!("{path}/webhook"), &[("webhook", &url)])
        .await;
    assert!(
        named.text.contains("What its webhooks are signed with"),
        "{named:?}"
    );
    let event = json!({ "type": "RETURN_REQUEST_STATUS_CHANGED", "key": key["publicId"],
                        "data": { "returnRequestId": "r-1", "status": "REQUESTED" } });
    server
        .good("POST", &format!("/v1/tenants/{tenant}/events"), event)
        .await;
    server.finished(&format!("tenant={tenant}"), 1).await;
    let counted = customer
        .page(&format!("/portal/tenants/{tenant}/statistics"))
        .await;
    assert!(
        counted.contains("1 delivered.") && counted.contains("RETURN_REQUEST_STATUS_CHANGED"),
        "{counted}"
    );
    // Every number is a link to the list that it counts.
    let link = counted
        .split("href=\"")
        .find(|rest| rest.contains("status=delivered"))
        .unwrap();
    let link = link.split('"').next().unwrap().replace("&#38;", "&");
    assert!(
        customer
            .page(&link)
            .await
            .contains("1 delivery, the newest first."),
        "{link}"
    );
    let gone = customer
        .press(&format!("{path}/webhook"), &[("webhook", "")])
        .await;
    assert_eq!(gone.status, 303, "{gone:?}");
    assert!(customer.page(&path).await.contains("It has no webhook"));
}

#[tokio::test]
async fn voucherifys_customer_designs_a_distribution_is_told_of_its_pause_and_replays() {
    let server = TestServer::start().await;
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let tenant = server.tenant("voucherify").await;
    let link = portal_link(&server, &tenant, json!({ "name": "marketing" })).await;
    let mut customer = Browser::by_link(&server, text(&link, "url")).await;
    let home = customer.page("/portal").await;
    for name in [
        "Distributions",
        "Audit log · Webhook send outs",
        "Notification center",
        "Project settings",
    ] {
        assert!(home.contains(name), "{name}: {home}");
    }
    // Project settings show the secret, and replace it.
    let settings = format!("/portal/tenants/{tenant}/settings");
    customer.page(&settings).await;
    let shown = customer
        .press(&format!("{settings}/secret"), &[("mode", "live")])
        .await;
    let secret = server
        .good("GET", &format!("/v1/tenants/{tenant}/secret"), Value::Null)
        .await;
    assert!(shown.text.contains(text(&secret, "secret")), "{shown:?}");
    // The payload is designed by an example, and what is wrong keeps what was typed.
    let new = format!("/portal/tenants/{tenant}/distributions");
    let page = customer.page(&format!("{new}/new")).await;
    let trigger = "customer.rewarded";
    assert!(page.contains(&format!("value=\"{trigger}\"")), "{page}");
    let url = receiver.url("/hook");
    let form = [
        ("name", "Welcome"),
        ("event_name", "Voucher-sent"),
        ("url", url.as_str()),
        ("events", trigger),
        ("fields", "voucher.code as code\ncustomer.id"),
    ];
    let mut twice = form.to_vec();
    twice.push(("fields", "a as x\nb as x"));
    twice.retain(|(name, value)| *name != "fields" || value.contains("as x"));
    let wrong = customer.press(&new, &twice).await;
    assert!(
        wrong.status == 400 && wrong.text.contains("twice") && wrong.text.contains("b as x"),
        "{wrong:?}"
    );
    let mut preview = form.to_vec();
    preview.push(("preview", "1"));
    let previewed = customer.press(&new, &preview).await;
    assert_eq!(previewed.status, 200, "{previewed:?}");
    assert!(
        server
            .good(
                "GET",
                &format!("/v1/tenants/{tenant}/distributions"),
                Value::Null
            )
            .await["data"]
            .as_array()
            .unwrap()
            .is_empty()
    );
    let made = customer.press(&new, &form).await;
    let at = made.headers["location"].clone();
    assert!(at.ends_with("?told=created"), "{made:?}");
    let event = json!({ "type": trigger, "distribution": "*", "data": { "voucher": { "code": "W-7" }, "customer": { "id": "c" } } });
    server
        .good(
            "POST",
            &format!("/v1/tenants/{tenant}/events"),
            event.clone(),
        )
        .await;
    let deliveries = server.finished(&format!("tenant={tenant}"), 1).await;
    let sent: Value = serde_json::from_slice(&receiver.requests()[0].body).unwrap();
    assert!(sent.to_string().contains("\"code\":\"W-7\""), "{sent}");
    // The log has the columns of the vendor's, and leads to the complete data.
    let log = format!("/portal/tenants/{tenant}/send-outs");
    let listed = customer.page(&format!("{log}?status=succeeded")).await;
    for told in [
        "Send out ID",
        "Request ID",
        "Executed at",
        "Voucher-sent",
        "Welcome (distribution)",
        "succeeded",
        &url,
        "Show data",
    ] {
        assert!(listed.contains(told), "{told}: {listed}");
    }
    let failed = customer.page(&format!("{log}?status=failed")).await;
    assert!(failed.contains("No send out is like that."));
    let log = customer
        .page(&format!("/portal/deliveries/{}", id(&deliveries[0])))
        .await;
    assert!(
        log.contains("W-7") && log.contains("Delivered at the first attempt"),
        "{log}"
    );

    // Who wants to be told says so, and is told.
    let center = format!("/portal/tenants/{tenant}/notifications");
    customer.page(&center).await;
    let settings = [
        ("webhooks.is", "1"),
        ("distributions.is", "1"),
        ("distributions.inApp", "on"),
    ];
    let saved = customer
        .press(&format!("{center}/settings"), &settings)
        .await;
    assert_eq!(saved.status, 303, "{saved:?}");
    let path = at.split('?').next().unwrap().to_owned();
    customer.page(&path).await;
    let paused = customer.press(&format!("{path}/disable"), &[]).await;
    assert_eq!(paused.status, 303, "{paused:?}");
    server
        .good("POST", &format!("/v1/tenants/{tenant}/events"), event)
        .await;
    let skipped = server
        .until("/v1/deliveries?status=skipped", |page| {
            page["data"][0]["id"].is_string()
        })
        .await;
    let skipped = id(&skipped["data"][0]);
    customer.page(&path).await;
    assert_eq!(
        customer.press(&format!("{path}/enable"), &[]).await.status,
        303
    );
    // What was skipped meanwhile is sent by a replay that says how many before it begins.
    let replays = format!("/portal/tenants/{tenant}/replays");
    let counted = customer
        .page(&format!("{replays}?status=skipped&preview=1"))
        .await;
    assert!(
        counted.contains("1 delivery would be sent again."),
        "{counted}"
    );
    let begun = customer.press(&replays, &[("status", "skipped")]).await;
    let replay = begun.headers["location"].clone();
    assert!(replay.ends_with("?told=replaying"), "{begun:?}");
    server
        .until(&format!("/v1/deliveries/{skipped}"), |found| {
            found["status"] == "delivered"
        })
        .await;
    let mut page = String::new();
    for _ in 0..100 {
        page = customer.page(&replay).await;
        if page.contains("1 of 1 sent again.") && page.contains("finished") {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert!(page.contains("1 of 1 sent again."), "{page}");
    assert!(customer.page(&replays).await.contains("1 of 1 sent again."));

    // Of a final failure the customer hears in the notification center.
    receiver.behave(Behaviour::Status(400));
    let event =
        json!({ "type": trigger, "distribution": "*", "data": { "voucher": { "code": "W-8" } } });
    server
        .good("POST", &format!("/v1/tenants/{tenant}/events"), event)
        .await;
    let waits = server
        .until("/v1/deliveries?status=pending", |page| {
            page["data"][0]["attemptsMade"] == 1
        })
        .await;
    customer
        .page(&format!("/portal/deliveries/{}", id(&waits["data"][0])))
        .await;
    assert!(customer.page(&center).await.contains("Nothing to tell."));
}

#[tokio::test]
async fn what_failed_for_good_is_told_and_read() {
    let server = TestServer::start().await;
    let receiver = Receiver::start(Behaviour::Status(400)).await;
    let application = server.application("trips", "simplifytrip").await;
    let tenant = server.tenant_of(&application).await;
    let settings = json!({ "settings": { "notifications": { "webhooks": { "inApp": true } } } });
    server
        .good("PATCH", &format!("/v1/tenants/{tenant}"), settings)
        .await;
    let key = json!({ "name": "k", "tenant": tenant, "webhook": receiver.url("/hook") });
    let key = server.good("POST", "/v1/keys", key).await;
    let event = json!({ "type": "RETURN_REQUEST_STATUS_CHANGED", "key": key["publicId"], "data": { "returnRequestId": "r", "status": "REQUESTED" } });
    server
        .good("POST", &format!("/v1/tenants/{tenant}/events"), event)
        .await;
    server.finished(&format!("tenant={tenant}"), 1).await;
    let link = portal_link(&server, &tenant, json!({})).await;
    let mut customer = Browser::by_link(&server, text(&link, "url")).await;
    let path = format!("/portal/tenants/{tenant}/notifications");
    let told = customer.page(&path).await;
    assert!(
        told.contains("1 new one on this page.")
            && told.contains("RETURN_REQUEST_STATUS_CHANGED failed after 1 attempt"),
        "{told}"
    );
    let newest = told
        .split("name=\"newest\" value=\"")
        .nth(1)
        .unwrap()
        .split('"')
        .next()
        .unwrap()
        .to_owned();
    let read = customer
        .press(&format!("{path}/read"), &[("newest", &newest)])
        .await;
    assert_eq!(read.status, 303, "{read:?}");
    assert!(customer.page(&path).await.contains("Nothing new."));
    let wrong = customer
        .press(
            &format!("{path}/settings"),
            &[
                ("webhooks.is", "1"),
                ("webhooks.email", "on"),
                ("webhooks.emails", "nobody"),
            ],
        )
        .await;
    assert!(wrong.text.contains("role=\"alert\""), "{wrong:?}");
    assert!(
        wrong.text.contains(">nobody</textarea>"),
        "what was typed stays"
    );
}

#[tokio::test]
async fn the_last_of_many_distributions_can_be_reached() {
    let server = TestServer::start().await;
    let tenant = server.tenant("voucherify").await;
    for number in 0..51 {
        let new = json!({ "name": format!("D-{number}."), "eventName": "e", "url": "https://example.com/hook",
                          "events": ["customer.rewarded"] });
        let path = format!("/v1/tenants/{tenant}/distributions");
        server.good("POST", &path, new).await;
    }
    let mut browser = Browser::sign_in(&server, &server.root).await;
    let first = browser.page(&format!("/tenants/{tenant}")).await;
    assert!(first.contains("D-50.") && !first.contains("D-0."));
    assert!(first.contains("The 50 endpoints on this page are healthy."));
    let next = first
        .split("href=\"")
        .find(|rest| rest.contains("?distributions="));
    let next = next.unwrap().split('"').next().unwrap();
    let last = browser.page(next).await;
    assert!(last.contains("D-0.") && !last.contains("D-50."), "{last}");
}

#[tokio::test]
async fn a_request_is_verified_here_and_what_differs_is_told() {
    let server = TestServer::start().await;
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let tenant = server.tenant("standard").await;
    let endpoint = server.endpoint(&tenant, &receiver.url("/hook")).await;
    server
        .publish(
            &tenant,
            "order.completed",
            json!({ "a": "line\nbreak", "b": [1, 2] }),
        )
        .await;
    let got = receiver.wait_for(1).await.remove(0);
    let lines = ["webhook-id", "webhook-timestamp", "webhook-signature"]
        .map(|name| format!("{name}: {}\r\n", got.headers[name]));
    let body = String::from_utf8(got.body.to_vec()).unwrap();
    let request = format!("POST /hook HTTP/1.1\r\n{}\r\n{body}", lines.concat());
    let mut browser = Browser::sign_in(&server, &server.root).await;
    let path = format!("/tenants/{tenant}/verify");
    browser.page(&path).await;
    let secret = text(&endpoint, "secret");
    let changed = request.replace("[1,2]", "[1, 2]");
    let short = request.replace("webhook-id", "webhook-no");
    for (request, secret, said) in [
        (request.as_str(), secret, "The signature is valid"),
        (&changed, secret, "byte for byte"),
        (&short, secret, "the header webhook-id is missing"),
        (
            &request,
            "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
            "it is another secret",
        ),
        (&request, "hunter2", "That is no secret"),
        ("hello", secret, "That is no request"),
    ] {
        let reply = browser
            .press(&path, &[("request", request), ("secret", secret)])
            .await;
        assert!(reply.text.contains(said), "{said}: {reply:?}");
        assert!(!reply.text.contains(secret), "a secret is not shown again");
    }
    let old = [
        ("request", request.as_str()),
        ("secret", secret),
        ("at", "2020-01-01T00:00"),
    ];
    assert!(
        browser
            .press(&path, &old)
            .await
            .text
            .contains("say when it came")
    );
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

#[tokio::test]
async fn a_delivery_to_a_one_off_url_can_be_sent_again() {
    let server = TestServer::start().await;
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let tenant = server.tenant("standard").await;
    let event = json!({ "type": "a.b", "data": {}, "callbackUrl": receiver.url("/once") });
    server
        .good("POST", &format!("/v1/tenants/{tenant}/events"), event)
        .await;
    let delivery = id(&server.finished(&format!("tenant={tenant}"), 1).await[0]);
    let mut browser = Browser::sign_in(&server, &server.root).await;
    let page = browser.page(&format!("/deliveries/{delivery}")).await;
    assert!(
        page.contains("Send again") && !page.contains("deleted"),
        "{page}"
    );
    let again = browser
        .press(&format!("/deliveries/{delivery}/resend"), &[])
        .await;
    assert_eq!(again.status, 303, "{again:?}");
    receiver.wait_for(2).await;
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
