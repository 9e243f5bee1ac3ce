//! The catcher, from somebody without a server to a request that is verified.

use serde_json::{Value, json};

use super::browser::{Browser, portal_link};
use crate::support::{TestServer, http, text};

async fn server() -> TestServer {
    TestServer::with(|config| config.pages.catcher = true).await
}

/// A catcher of a tenant's: its page in the portal, and its address.
async fn make(customer: &mut Browser<'_>, tenant: &str) -> (String, String) {
    let list = format!("/portal/tenants/{tenant}/catchers");
    customer.page(&list).await;
    let made = customer.press(&list, &[]).await;
    assert_eq!(made.status, 303, "{made:?}");
    let page = made.headers["location"]
        .split('?')
        .next()
        .unwrap()
        .to_owned();
    let shown = customer.page(&page).await;
    assert!(shown.contains("Nothing came yet"), "{shown}");
    let at = shown.find("http://").unwrap();
    let url = shown[at..].split('<').next().unwrap().to_owned();
    assert!(url.contains("/catch/"), "{url}");
    (page, url)
}

#[tokio::test]
async fn whoever_has_no_server_sees_a_signed_request_here() {
    let server = server().await;
    let tenant = server.tenant("standard").await;
    let link = portal_link(&server, &tenant, json!({})).await;
    let mut customer = Browser::by_link(&server, text(&link, "url")).await;
    let new = format!("/portal/tenants/{tenant}/endpoints/new");
    assert!(customer.page(&new).await.contains("No server yet?"));
    let (page, url) = make(&mut customer, &tenant).await;
    // The form has the address already.
    let encoded: String = url::form_urlencoded::byte_serialize(url.as_bytes()).collect();
    let shown = customer.page(&page).await;
    assert!(shown.contains(&format!("{new}?url={encoded}")), "{shown}");
    let form = customer.page(&format!("{new}?url={encoded}")).await;
    assert!(form.contains(&format!("value=\"{url}\"")), "{form}");
    // By the name that the browser knows it by, nobody here finds it.
    let known = url.replace("//test/", &format!("//{}/", server.address));
    server.endpoint(&tenant, &known).await;
    let data = json!({ "note": "<script>alert(1)</script>" });
    server.publish(&tenant, "order.completed", data).await;
    server.finished(&format!("tenant={tenant}"), 1).await;
    assert_eq!(
        customer
            .send("GET", &format!("{page}/glance"), &[])
            .await
            .text,
        "1"
    );
    let shown = customer.page(&page).await;
    assert!(
        shown.contains("1 request came.") && shown.contains("order.completed"),
        "{shown}"
    );
    let one = customer.page(&format!("{page}/1")).await;
    assert!(one.contains("The signature is valid"), "{one}");
    assert!(one.contains("webhook-signature: v1,"), "{one}");
    assert!(
        one.contains("&#60;script&#62;") && !one.contains("<script>alert"),
        "{one}"
    );

    // With a signature somebody could send what it is of: whoever may only look sees none.
    let link = portal_link(&server, &tenant, json!({ "readOnly": true })).await;
    let mut looker = Browser::by_link(&server, text(&link, "url")).await;
    let looked = looker.page(&format!("{page}/1")).await;
    assert!(looked.contains("The signature is valid"), "{looked}");
    assert!(looked.contains("webhook-signature: ****"), "{looked}");
    assert!(!looked.contains("v1,"), "{looked}");

    // What somebody else sends there is kept too, and told apart; it answers as the address asks.
    let path = url[url.find("/catch/").unwrap()..].to_owned();
    let asked = format!("{path}?status=503");
    let headers = [
        ("x-mine", "1"),
        ("authorization", "Bearer of-somebody"),
        ("x-forwarded-access-token", "of-somebody"),
        ("cookie", "postrider_console=of-somebody"),
    ];
    let sent = http(server.address, "PUT", &asked, &headers, "{}").await;
    assert_eq!((sent.status, sent.text.as_str()), (503, "caught\n"));
    assert_eq!(sent.headers["cache-control"], "no-store");
    let two = customer.page(&format!("{page}/2")).await;
    assert!(
        two.contains("PUT /catch/") && two.contains("x-mine: 1"),
        "{two}"
    );
    assert!(two.contains("was answered with 503"), "{two}");
    // The address is one of the console's: what lets people in there is nobody's to see here.
    assert!(
        !two.contains("of-somebody") && !two.contains("cookie"),
        "{two}"
    );
    assert!(two.contains("authorization: ****"), "{two}");
    let browser = [
        ("sec-fetch-site", "cross-site"),
        ("cookie", "postrider_console=of-somebody"),
    ];
    let seen = http(server.address, "GET", &path, &browser, "").await;
    assert_eq!((seen.status, seen.text.contains("not kept")), (200, true));
    assert_eq!(
        customer
            .send("GET", &format!("{page}/glance"), &[])
            .await
            .text,
        "2"
    );
    assert!(two.contains("there is no webhook-signature"), "{two}");
    let forged = [
        ("webhook-id", "msg_1"),
        ("webhook-timestamp", "1"),
        ("webhook-signature", "v1,aaaa"),
    ];
    http(server.address, "POST", &path, &forged, "{}").await;
    let three = customer.page(&format!("{page}/3")).await;
    assert!(
        three.contains("The signature is not one of an endpoint"),
        "{three}"
    );

    customer.page(&page).await;
    let ended = customer.press(&format!("{page}/end"), &[]).await;
    assert_eq!(ended.status, 303, "{ended:?}");
    let gone = http(server.address, "POST", &path, &[], "{}").await;
    assert_eq!(gone.status, 404);
    let log = server
        .good("GET", "/v1/audit?action=catcher.created", Value::Null)
        .await;
    assert_eq!(log["data"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_catcher_is_one_tenants_and_bounded() {
    let server = server().await;
    let (one, two) = (
        server.tenant("standard").await,
        server.tenant("standard").await,
    );
    let link = portal_link(&server, &one, json!({})).await;
    let mut customer = Browser::by_link(&server, text(&link, "url")).await;
    let (page, url) = make(&mut customer, &one).await;
    let link = portal_link(&server, &two, json!({})).await;
    let mut other = Browser::by_link(&server, text(&link, "url")).await;
    for path in [page.clone(), page.replace(&one, &two)] {
        let refused = other.send("GET", &path, &[]).await;
        assert_eq!(refused.status, 404, "{path}: {refused:?}");
    }
    let path = url[url.find("/catch/").unwrap()..].to_owned();
    let long = vec![b'x'; 256 * 1024];
    let kept = http(server.address, "POST", &path, &[], long.clone()).await;
    assert_eq!(kept.status, 200, "{kept:?}");
    let shown = customer.page(&format!("{page}/1")).await;
    assert!(shown.contains("too long to be kept whole"), "{shown}");
    let more = [long, vec![b'x']].concat();
    let refused = http(server.address, "POST", &path, &[], more).await;
    assert_eq!(refused.status, 413);
    // Whoever may only test sees what was made for tests, and takes no room from what is live.
    let link = portal_link(&server, &one, json!({ "mode": "test" })).await;
    let mut tester = Browser::by_link(&server, text(&link, "url")).await;
    assert_eq!(tester.send("GET", &page, &[]).await.status, 404);
    let list = format!("/portal/tenants/{one}/catchers");
    assert!(!tester.page(&list).await.contains(&page));
    for _ in 0..6 {
        make(&mut tester, &one).await;
    }
    assert_eq!(customer.send("GET", &page, &[]).await.status, 200);
    assert_eq!(tester.press(&format!("{page}/end"), &[]).await.status, 404);
    // Of a sixth one the oldest ends.
    for _ in 0..5 {
        make(&mut customer, &one).await;
    }
    assert_eq!(
        http(server.address, "POST", &path, &[], "{}").await.status,
        404
    );
    // Looking makes none.
    let looks = json!({ "readOnly": true });
    let link = portal_link(&server, &one, looks).await;
    let mut looker = Browser::by_link(&server, text(&link, "url")).await;
    let list = format!("/portal/tenants/{one}/catchers");
    assert!(!looker.page(&list).await.contains("Make an address"));
    assert_eq!(looker.press(&list, &[]).await.status, 403);
}

#[tokio::test]
async fn a_server_catches_only_where_somebody_says_so() {
    let server = TestServer::start().await;
    let tenant = server.tenant("standard").await;
    let mut operator = Browser::sign_in(&server, &server.root).await;
    let home = operator.page(&format!("/tenants/{tenant}")).await;
    assert!(!home.contains("/catchers"), "{home}");
    let list = format!("/tenants/{tenant}/catchers");
    assert_eq!(operator.send("GET", &list, &[]).await.status, 404);
    assert_eq!(operator.press(&list, &[]).await.status, 404);
    let path = format!("/catch/{}", "0".repeat(32));
    assert_eq!(
        http(server.address, "POST", &path, &[], "{}").await.status,
        404
    );
}

#[tokio::test]
async fn nothing_is_read_for_an_address_that_is_none() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let server = server().await;
    let mut slow = Vec::new();
    // More than all forms together may hold, of as many holders.
    for number in 0..150_u128 {
        let mut stream = tokio::net::TcpStream::connect(server.address)
            .await
            .unwrap();
        let head = format!(
            "POST /catch/{number:032x} HTTP/1.1\r\nhost: x\r\ncontent-length: 200000\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 404");
        slow.push(stream);
    }
    Browser::sign_in(&server, &server.root).await;
}
