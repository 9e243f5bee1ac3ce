//! From an empty server to a product of one's own, by the pages alone.

use serde_json::{Value, json};

use super::browser::{Browser, portal_link};
use crate::support::{TestServer, text};

const LOGO: &str =
    "data:image/svg+xml;base64,PHN2ZyB4bWxucz0iaHR0cDovL3d3dy53My5vcmcvMjAwMC9zdmciLz4=";

/// Where a form led, which is there.
async fn led(browser: &mut Browser<'_>, path: &str, form: &[(&str, &str)]) -> String {
    let reply = browser.press(path, form).await;
    assert_eq!(reply.status, 303, "{path}: {reply:?}");
    let to = reply.headers["location"].clone();
    browser.page(&to).await;
    to.split('?').next().unwrap().to_owned()
}

#[tokio::test]
async fn a_product_is_made_with_its_customers_and_keys() {
    let server = TestServer::start().await;
    let mut operator = Browser::sign_in(&server, &server.root).await;
    assert!(
        operator
            .page("/")
            .await
            .contains("href=\"/applications/new\"")
    );
    let form = operator.page("/applications/new").await;
    assert!(form.contains("value=\"vignetim\""), "{form}");
    let form = [("name", ""), ("profile", "standard")];
    let refused = operator.press("/applications", &form).await;
    assert_eq!(refused.status, 400, "{refused:?}");
    let form = [("name", "shop"), ("profile", "standard")];
    let application = led(&mut operator, "/applications", &form).await;
    operator.page(&format!("{application}/tenants/new")).await;
    let form = [("name", "Ada"), ("external_id", "customer-4711")];
    let tenants = format!("{application}/tenants");
    let tenant = led(&mut operator, &tenants, &form).await;
    assert!(tenant.starts_with("/tenants/ten_"), "{tenant}");
    // The same id of the product's names one customer.
    let again = operator.press(&tenants, &form).await;
    assert_eq!(again.status, 400, "{again:?}");
    assert!(
        again.text.contains("value=\"customer-4711\""),
        "what was typed stays"
    );

    // What was chosen stays when a name is refused: a second press makes no other key.
    operator.page("/keys").await;
    let id = application.rsplit('/').next().unwrap();
    let form = [
        ("name", " "),
        ("application", id),
        ("mode", "test"),
        ("read_only", "1"),
    ];
    let wrong = operator.press("/keys", &form).await;
    assert_eq!(wrong.status, 400, "{wrong:?}");
    for chosen in [
        format!("value=\"{id}\" selected"),
        "value=\"test\" selected".to_owned(),
        "name=\"read_only\" value=\"1\" checked".to_owned(),
    ] {
        assert!(wrong.text.contains(&chosen), "{chosen}: {wrong:?}");
    }
    // A key of the application publishes for the customer.
    let id = application.rsplit('/').next().unwrap();
    let form = [
        ("name", "production"),
        ("application", id),
        ("mode", "live"),
    ];
    let made = operator.press("/keys", &form).await;
    assert_eq!(made.status, 200, "{made:?}");
    let key = shown_key(&made.text);
    let event = json!({ "type": "order.completed", "data": {} });
    let publish = format!("/v1{tenant}/events");
    let published = server.call_as(&key, "POST", &publish, event.clone()).await;
    assert_eq!(published.status, 202, "{published:?}");

    // Its text is replaced; the old one ends where that is asked for.
    let (_, rest) = made.text.split_once("action=\"/keys/").unwrap();
    let page = format!("/keys/{}", rest.split('/').next().unwrap());
    let rotated = operator
        .press(&format!("{page}/text"), &[("overlap", "1h")])
        .await;
    let second = shown_key(&rotated.text);
    for opens in [&key, &second] {
        let published = server.call_as(opens, "POST", &publish, event.clone()).await;
        assert_eq!(published.status, 202, "{published:?}");
    }
    assert!(
        operator
            .page(&page)
            .await
            .contains("The text before opens too, until")
    );
    let early = operator
        .press(&format!("{page}/text"), &[("overlap", "1h")])
        .await;
    assert!(early.text.contains("role=\"alert\""), "{early:?}");
    let form = [("overlap", "0s")];
    let third = shown_key(&operator.press(&format!("{page}/text"), &form).await.text);
    let old = server
        .call_as(&second, "POST", &publish, event.clone())
        .await;
    assert_eq!(old.status, 401, "{old:?}");
    led(&mut operator, &format!("{page}/disable"), &[]).await;
    let off = server
        .call_as(&third, "POST", &publish, event.clone())
        .await;
    assert_eq!(off.code(), "key_disabled");
    assert_eq!(
        led(&mut operator, &format!("{page}/delete"), &[]).await,
        "/keys"
    );
    let gone = server.call_as(&third, "POST", &publish, event).await;
    assert_eq!(gone.code(), "key_unknown");
}

/// A key that a page shows once.
fn shown_key(page: &str) -> String {
    let at = page.find("pr_live_").unwrap_or_else(|| panic!("{page}"));
    page[at..].split('<').next().unwrap().to_owned()
}

#[tokio::test]
async fn the_last_root_key_stays_and_says_so() {
    let server = TestServer::start().await;
    let mut operator = Browser::sign_in(&server, &server.root).await;
    let keys = operator.page("/keys").await;
    let (_, rest) = keys.split_once("href=\"/keys/").unwrap();
    let page = format!("/keys/{}", rest.split('"').next().unwrap());
    let shown = operator.page(&page).await;
    assert!(
        !shown.contains("/disable\""),
        "nobody turns off the key that they use: {shown}"
    );
    let refused = operator.press(&format!("{page}/delete"), &[]).await;
    assert!(
        refused.text.contains("make another live root key first"),
        "{refused:?}"
    );
    operator.page("/").await;
}

#[tokio::test]
async fn a_portal_has_the_name_the_logo_and_the_colour_of_its_product() {
    let server = TestServer::start().await;
    let application = server.application("shop", "standard").await;
    let tenant = server.tenant_of(&application).await;
    let mut operator = Browser::sign_in(&server, &server.root).await;
    let path = format!("/applications/{application}/settings");
    let settings = operator.page(&path).await;
    assert!(settings.contains("value=\"shop\""), "{settings}");
    let form = |name: &'static str, logo: &'static str, accent: &'static str| {
        [
            ("name", "shop"),
            ("validate", "warn"),
            ("retention_days", "30"),
            ("traceparent", "1"),
            ("brand_name", name),
            ("logo", logo),
            ("accent", accent),
        ]
    };
    for (logo, accent, field) in [
        ("https://example.com/logo.png", "#ffcc00", "logo"),
        ("data:text/html;base64,PHN2Zy8+", "#ffcc00", "logo"),
        (LOGO, "red; } body { display: none", "accent"),
    ] {
        let refused = operator
            .press(&path, &form("Ada’s shop", logo, accent))
            .await;
        assert_eq!(refused.status, 400, "{refused:?}");
        assert!(refused.text.contains(field), "{refused:?}");
        assert!(refused.text.contains("Ada’s shop"), "what was typed stays");
    }
    let name = "Ada’s <shop>";
    led(&mut operator, &path, &form(name, LOGO, "#ffcc00")).await;
    let stored = format!("/v1/applications/{application}");
    let stored = server.good("GET", &stored, Value::Null).await;
    assert_eq!(stored["settings"]["branding"]["name"], name);
    assert_eq!(stored["settings"]["retentionDays"], 30);
    assert_eq!(stored["settings"]["validate"], "warn");
    let audit = server.call("GET", "/v1/audit", Value::Null).await.text;
    assert!(
        !audit.contains("PHN2Zy"),
        "the log has no pictures: {audit}"
    );

    let link = portal_link(&server, &tenant, json!({})).await;
    let mut customer = Browser::by_link(&server, text(&link, "url")).await;
    let home = customer.page("/portal").await;
    assert!(home.contains("Ada’s &#60;shop&#62;</a>"), "{home}");
    assert!(!home.contains("Postrider"), "{home}");
    let address = |from: &str| {
        let at = home.find(from).unwrap_or_else(|| panic!("{from}: {home}"));
        home[at..].split('"').next().unwrap().to_owned()
    };
    let style = customer
        .send("GET", &address("/portal/brand.css?"), &[])
        .await;
    assert_eq!(style.headers["content-type"], "text/css");
    assert!(style.headers["cache-control"].starts_with("private"));
    // Yellow on white is moved until it is read.
    assert!(
        style.text.contains("--accent: #")
            && !style
                .text
                .contains("--accent: #ffcc00; --focus: #ffcc00; --accent-ink: #ffffff")
    );
    assert!(
        style.text.contains(".state.delivered"),
        "it is the whole style"
    );
    let logo = customer.send("GET", &address("/portal/logo?"), &[]).await;
    assert_eq!(logo.headers["content-type"], "image/svg+xml");
    assert!(logo.headers["content-security-policy"].contains("sandbox"));
    // Nobody sees it who is not in, and the console stays as it is.
    let nobody = Browser::new(&server).send("GET", "/portal/logo", &[]).await;
    assert_eq!(nobody.status, 401, "{nobody:?}");
    assert!(operator.page("/").await.contains("Postrider</a>"));
}

#[tokio::test]
async fn a_customer_and_an_application_are_deleted_by_name() {
    let server = TestServer::start().await;
    let application = server.application("shop", "standard").await;
    let tenant = server.tenant_of(&application).await;
    server.endpoint(&tenant, "https://example.com/hook").await;
    let mut operator = Browser::sign_in(&server, &server.root).await;
    let settings = operator.page(&format!("/tenants/{tenant}/settings")).await;
    let path = format!("/tenants/{tenant}/delete");
    assert!(settings.contains(&path), "{settings}");
    let asked = operator.page(&path).await;
    assert!(
        asked.contains("Delete Ada?") && asked.contains("0 deliveries"),
        "{asked}"
    );
    for wrong in ["", "ada", "shop"] {
        let refused = operator.press(&path, &[("name", wrong)]).await;
        assert_eq!(refused.status, 400, "{wrong}: {refused:?}");
    }
    let watched = led(&mut operator, &path, &[("name", "Ada")]).await;
    assert!(watched.starts_with("/deletions/task_"), "{watched}");
    assert_eq!(operator.send("GET", &path, &[]).await.status, 404);
    let id = watched.rsplit('/').next().unwrap();
    let done = |deletion: &Value| deletion["status"] == "finished";
    server.until(&format!("/v1/deletions/{id}"), done).await;
    let page = operator.page(&watched).await;
    assert!(
        page.contains("what it had is erased") && !page.contains("data-glance"),
        "{page}"
    );

    // A developer neither sees the way nor goes it.
    let asked = json!({ "name": "dev", "role": "developer" });
    let made = server.good("POST", "/v1/users", asked).await;
    let link = text(&made, "url").to_owned();
    let mut dev = Browser::new(&server);
    let link = super::browser::path_of(&link);
    let (enter, code) = link.split_once("?code=").unwrap();
    let password = "a correct horse, and a battery";
    let form = [("code", code), ("password", password), ("again", password)];
    assert_eq!(dev.send("POST", enter, &form).await.status, 303);
    let path = format!("/applications/{application}/delete");
    let settings = format!("/applications/{application}/settings");
    assert!(!dev.page(&settings).await.contains(&path));
    assert_eq!(dev.send("GET", &path, &[]).await.status, 404);
    let pressed = dev.press(&path, &[("name", "shop")]).await;
    assert!(matches!(pressed.status, 403 | 404), "{pressed:?}");

    let name = server
        .good(
            "GET",
            &format!("/v1/applications/{application}"),
            Value::Null,
        )
        .await;
    assert!(operator.page(&settings).await.contains(&path));
    operator.page(&path).await;
    led(&mut operator, &path, &[("name", text(&name, "name"))]).await;
    assert_eq!(operator.send("GET", &settings, &[]).await.status, 404);
}
