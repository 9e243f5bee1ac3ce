//! Event types as customers see them, and the test that sends an example of one.

use postrider_testkit::{Behaviour, Receiver};
use serde_json::{Value, json};

use super::browser::{Browser, portal_link};
use crate::support::{TestServer, id, text};

/// Bytes of a page's HTML at most.
const HTML_BYTES_MAX: usize = 100 * 1024;

async fn declare(server: &TestServer, application: &str, name: &str, described: Value) {
    let path = format!("/v1/applications/{application}/event-types/{name}");
    server.good("PUT", &path, described).await;
}

async fn endpoint(server: &TestServer, tenant: &str, url: &str) -> String {
    let path = format!("/v1/tenants/{tenant}/endpoints");
    id(&server.good("POST", &path, json!({ "url": url })).await)
}

#[tokio::test]
async fn a_types_example_is_sent_to_an_endpoint_of_the_tenant_and_to_no_other() {
    let server = TestServer::start().await;
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let application = server.application("shop", "standard").await;
    let tenant = server.tenant_of(&application).await;
    let stranger = server.tenant_of(&application).await;
    let described = json!({
        "description": "an order is complete", "example": { "orderId": "o-77" },
        "schema": { "type": "object", "required": ["orderId"] },
    });
    declare(&server, &application, "order.completed", described).await;
    declare(&server, &application, "order.lost", json!({})).await;
    let path = format!("/portal/tenants/{tenant}/event-types");
    let link = portal_link(&server, &tenant, json!({})).await;
    let mut customer = Browser::by_link(&server, text(&link, "url")).await;
    let none = customer.page(&path).await;
    assert!(
        none.contains("With an endpoint, each of these can be sent"),
        "{none}"
    );
    let own = endpoint(&server, &tenant, &receiver.url("/own")).await;
    let other = endpoint(&server, &stranger, &receiver.url("/other")).await;

    let page = customer.page(&path).await;
    for told in [
        "2 types are known.",
        "&#34;orderId&#34;: &#34;o-77&#34;",
        "<summary>schema</summary>",
        "&#34;required&#34;",
        "No example is known.",
        &format!("<option value=\"{own}\">"),
        "value=\"order.completed\">Send a test of",
    ] {
        assert!(page.contains(told), "{told}: {page}");
    }
    let verify = format!("/portal/tenants/{tenant}/verify");
    assert!(page.contains(&format!("href=\"{verify}#functions\"")));
    let verify = customer.page(&verify).await;
    for told in ["function verify_standard(", "def verify_standard_ed25519("] {
        assert!(verify.contains(told), "{told}: {verify}");
    }
    assert!(verify.len() < 100 * 1024, "{}", verify.len());
    // There is nothing to send of a type without an example, and nobody else's endpoint to send it to.
    assert!(!page.contains("value=\"order.lost\"") && !page.contains(&other));
    let form = [("endpoint", own.as_str()), ("type", "order.completed")];
    let sent = customer.press(&path, &form).await;
    assert!(sent.text.contains("order.completed to "), "{sent:?}");
    assert!(sent.text.contains("arrived</h2>"), "{sent:?}");
    assert!(
        sent.text.contains("<details class=\"type\" open>"),
        "what was tried is open"
    );
    let got = receiver.requests();
    assert_eq!((got.len(), got[0].target.as_str()), (1, "/own"));
    let body: Value = serde_json::from_slice(&got[0].body).unwrap();
    assert_eq!(body["data"]["orderId"], "o-77", "{body}");

    // What a person types is looked at as what a program sends: nothing is signed that is no JSON.
    let at = format!("/portal/endpoints/{own}");
    customer.page(&at).await;
    let typed = [
        ("type", "order.completed"),
        ("data", r#"{"a":1},"id":"mine""#),
    ];
    let refused = customer.press(&format!("{at}/test"), &typed).await;
    assert!(refused.text.contains("data is not JSON: "), "{refused:?}");
    assert_eq!(receiver.requests().len(), 1);

    let without = [("endpoint", own.as_str()), ("type", "order.lost")];
    let refused = customer.press(&path, &without).await;
    assert!(refused.text.contains("no example"), "{refused:?}");
    let strange = [("endpoint", other.as_str()), ("type", "order.completed")];
    assert_eq!(customer.press(&path, &strange).await.status, 404);
    // Not even for who may see both: the page is one tenant's.
    let mut operator = Browser::sign_in(&server, &server.root).await;
    let path = path.trim_start_matches("/portal");
    operator.page(path).await;
    assert_eq!(operator.press(path, &strange).await.status, 404);
    assert_eq!(receiver.requests().len(), 1);
}

#[tokio::test]
async fn who_only_looks_sees_the_types_and_sends_none() {
    let server = TestServer::start().await;
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let application = server.application("shop", "standard").await;
    let tenant = server.tenant_of(&application).await;
    let described = json!({ "example": { "orderId": "o-77" } });
    declare(&server, &application, "order.completed", described).await;
    let own = endpoint(&server, &tenant, &receiver.url("/own")).await;
    let link = portal_link(&server, &tenant, json!({ "readOnly": true })).await;
    let mut reader = Browser::by_link(&server, text(&link, "url")).await;
    let path = format!("/portal/tenants/{tenant}/event-types");
    let page = reader.page(&path).await;
    assert!(page.contains("o-77") && !page.contains("id=\"send\""));
    let form = [("endpoint", own.as_str()), ("type", "order.completed")];
    let refused = reader.press(&path, &form).await;
    assert!(
        refused.text.contains("is for looking") && receiver.requests().is_empty(),
        "{refused:?}"
    );
}

#[tokio::test]
async fn of_many_types_with_long_examples_every_one_is_found_on_a_small_page() {
    let server = TestServer::start().await;
    let application = server.application("shop", "standard").await;
    let tenant = server.tenant_of(&application).await;
    for number in 0..110 {
        let described = json!({ "example": { "quotes": "\"".repeat(1_800), "number": number } });
        declare(
            &server,
            &application,
            &format!("order.number{number}"),
            described,
        )
        .await;
    }
    let link = portal_link(&server, &tenant, json!({})).await;
    let mut customer = Browser::by_link(&server, text(&link, "url")).await;
    let path = format!("/portal/tenants/{tenant}/event-types");
    let page = customer.page(&path).await;
    assert!(page.len() <= HTML_BYTES_MAX, "{} bytes", page.len());
    assert!(page.contains("10 more are not listed here"), "{page}");
    assert!(
        page.contains("There is no room for its example"),
        "not all examples fit"
    );
    let found = customer.page(&format!("{path}?find=number109")).await;
    assert!(
        found.contains("&#34;number&#34;: 109") && !found.contains("order.number108"),
        "{found}"
    );
    // Of many endpoints the newest can be chosen, which is told.
    let told = "The newest are in the list";
    for number in 0..25 {
        endpoint(&server, &tenant, &format!("https://example.com/{number}")).await;
    }
    assert!(!customer.page(&path).await.contains(told), "all are there");
    let newest = endpoint(&server, &tenant, "https://example.com/newest").await;
    let page = customer.page(&path).await;
    assert!(page.contains(told) && page.contains(&newest), "{page}");
    assert!(page.len() <= HTML_BYTES_MAX, "{} bytes", page.len());
    let application = format!("/applications/{application}");
    let mut operator = Browser::sign_in(&server, &server.root).await;
    let page = operator.page(&application).await;
    assert!(page.len() <= HTML_BYTES_MAX, "{} bytes", page.len());
}

#[tokio::test]
async fn of_a_closed_catalogue_every_type_is_there_by_name() {
    let server = TestServer::start().await;
    for (profile, types, name) in [
        ("vignetim", "4 types are known.", "order.refunded"),
        ("voucherify", "types are known.", "customer.rewarded"),
        ("standard", "None is known by name", "any type can be sent"),
    ] {
        let tenant = server.tenant(profile).await;
        let link = portal_link(&server, &tenant, json!({})).await;
        let mut customer = Browser::by_link(&server, text(&link, "url")).await;
        let path = format!("/portal/tenants/{tenant}/event-types");
        let page = customer.page(&path).await;
        assert!(page.contains(types) && page.contains(name), "{page}");
        assert!(page.len() <= HTML_BYTES_MAX, "{} bytes", page.len());
    }
}
