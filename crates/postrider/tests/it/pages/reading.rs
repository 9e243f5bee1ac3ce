//! What somebody reads on the pages of deliveries and endpoints, and what a list lets them do.

use postrider_testkit::{Behaviour, Receiver};
use serde_json::{Value, json};

use super::browser::Browser;
use crate::support::{TestServer, hmac, id, text};

/// What stands between two marks of a page, as somebody reads it.
fn between(page: &str, from: &str, until: &str) -> String {
    let (_, rest) = page
        .split_once(from)
        .unwrap_or_else(|| panic!("no {from:?} in {page}"));
    let (found, _) = rest.split_once(until).unwrap();
    let marks = [
        ("&#34;", "\""),
        ("&#39;", "'"),
        ("&#60;", "<"),
        ("&#62;", ">"),
        ("&#38;", "&"),
    ];
    let read = |text: String, (mark, letter): &(&str, &str)| text.replace(mark, letter);
    marks.iter().fold(found.to_owned(), read)
}

#[tokio::test]
async fn the_text_that_was_signed_is_shown_to_the_byte() {
    let server = TestServer::start().await;
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let mut operator = Browser::sign_in(&server, &server.root).await;

    // What a signature is of is not the body alone, in this one it is in the header's order of things.
    let tenant = server.tenant("standard").await;
    server.endpoint(&tenant, &receiver.url("/hook")).await;
    let data = json!({ "name": "<b>\"Ada\" & 'Bob'</b>", "n": 1 });
    server.publish(&tenant, "order.completed", data).await;
    let request = receiver.wait_for(1).await.remove(0);
    let delivery = server
        .finished(&format!("tenant={tenant}"), 1)
        .await
        .remove(0);
    let page = operator
        .page(&format!("/deliveries/{}", id(&delivery)))
        .await;
    let (_, rest) = page
        .split_once("what <code>webhook-signature</code> is")
        .unwrap();
    let shown = between(rest, "<pre class=\"code\" data-copy-block>", "</pre>");
    let header = |name: &str| request.headers[name].as_str();
    let body = std::str::from_utf8(&request.body).unwrap();
    let signed = [header("webhook-id"), header("webhook-timestamp"), body].join(".");
    assert_eq!(shown, signed);

    // A canonical form of the body: signed again by the secret it is the signature.
    let tenant = server.tenant("simplifytrip").await;
    let asked = json!({ "name": "agency", "tenant": tenant, "webhook": receiver.url("/agency") });
    let key = server.good("POST", "/v1/keys", asked).await;
    let event = json!({ "type": "RETURN_REQUEST_STATUS_CHANGED", "key": key["publicId"],
                        "data": { "returnRequestId": "r-1", "status": "REQUESTED" } });
    server
        .good("POST", &format!("/v1/tenants/{tenant}/events"), event)
        .await;
    let request = receiver.wait_for(2).await.remove(1);
    let delivery = server
        .finished(&format!("tenant={tenant}"), 1)
        .await
        .remove(0);
    let page = operator
        .page(&format!("/deliveries/{}", id(&delivery)))
        .await;
    let (_, rest) = page.split_once("is a signature of</summary>").unwrap();
    let shown = between(rest, "<pre class=\"code\" data-copy-block>", "</pre>");
    let signature = hmac(text(&key, "secret"), &shown);
    let has_it = |value: &String| value.contains(&signature);
    assert!(request.headers.values().any(has_it), "{shown}: {request:?}");
}

#[tokio::test]
async fn all_that_a_list_holds_is_sent_again() {
    let server = TestServer::start().await;
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let tenant = server.tenant("standard").await;
    server.endpoint(&tenant, &receiver.url("/hook")).await;
    for (event_type, count) in [("order.completed", 3), ("order.other", 2)] {
        for number in 0..count {
            server
                .publish(&tenant, event_type, json!({ "n": number }))
                .await;
        }
    }
    server.finished(&format!("tenant={tenant}"), 5).await;
    let mut operator = Browser::sign_in(&server, &server.root).await;
    let list = format!("/deliveries?tenant={tenant}&type=order.completed");
    let any = operator.page(&list).await;
    assert!(
        !any.contains("Send all of these again"),
        "what waits is not sent again"
    );
    let ended = operator.page(&format!("{list}&status=delivered")).await;
    let replay = ended
        .split("href=\"")
        .find(|rest| rest.contains("/replays?"))
        .unwrap_or_else(|| panic!("{ended}"));
    let replay = replay.split('"').next().unwrap().replace("&#38;", "&");
    // A bar leads to just what it counts.
    let (_, strip) = ended.split_once("class=\"strip\"").unwrap();
    let bar = strip.split("<a href=\"").nth(1).unwrap();
    let bar = bar.split('"').next().unwrap().replace("&#38;", "&");
    assert!(
        bar.contains("type=order.completed") && bar.contains("until="),
        "{bar}"
    );
    let part = operator.page(&bar).await;
    assert!(part.contains("3 deliveries, the newest first."), "{part}");
    let none = operator.page(&format!("{list}&status=skipped")).await;
    assert!(
        none.contains("No delivery is like that.") && !none.contains("Send all of these again"),
        "{none}"
    );
    // By how the last attempt ended; a replay is not of just those.
    for (answer, count) in [("2xx", 3), ("4xx", 0), ("none", 0), ("timeout", 0)] {
        let path = format!("{list}&status=delivered&answer={answer}");
        let listed = operator.page(&path).await;
        let selected = format!("value=\"{answer}\" selected");
        assert!(listed.contains(&selected), "{listed}");
        assert_eq!(
            listed.matches("200 OK").count(),
            count,
            "{answer}: {listed}"
        );
        assert!(!listed.contains("Send all of these again"), "{answer}");
    }
    let wrong = operator
        .send("GET", &format!("{list}&answer=odd"), &[])
        .await;
    assert_eq!(wrong.status, 400, "{wrong:?}");
    let preview = operator.page(&replay).await;
    assert!(
        preview.contains("3 deliveries would be sent again."),
        "{preview}"
    );
    let form = [
        ("status", "delivered"),
        ("type", "order.completed"),
        ("mode", "live"),
    ];
    let begun = operator
        .press(&format!("/tenants/{tenant}/replays"), &form)
        .await;
    assert_eq!(begun.status, 303, "{begun:?}");
    receiver.wait_for(8).await;
}

#[tokio::test]
async fn a_list_tells_of_newer_ones_and_stays_as_it_is() {
    let server = TestServer::start().await;
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let tenant = server.tenant("standard").await;
    server.endpoint(&tenant, &receiver.url("/hook")).await;
    let mut operator = Browser::sign_in(&server, &server.root).await;
    let path = format!("/deliveries?tenant={tenant}&type=order.completed");
    let empty = operator.page(&path).await;
    let first = between(&empty, "data-news=\"", "\"");
    let count = operator.send("GET", &first, &[]).await;
    assert_eq!((count.status, count.text.as_str()), (200, "0"));
    server.publish(&tenant, "order.completed", json!({})).await;
    server.publish(&tenant, "order.other", json!({})).await;
    let count = operator.send("GET", &first, &[]).await.text;
    assert_eq!(count, "1", "of the list's own");
    let shown = operator.page(&path).await;
    let second = between(&shown, "data-news=\"", "\"");
    assert_eq!(operator.send("GET", &second, &[]).await.text, "0");
    for _ in 0..51 {
        server.publish(&tenant, "order.completed", json!({})).await;
    }
    assert_eq!(operator.send("GET", &second, &[]).await.text, "50 or more");
    let older = operator.page(&path).await;
    let next = between(&older, "class=\"pager\"><a class=\"button\" href=\"", "\"");
    assert!(
        !operator.page(&next).await.contains("data-news"),
        "older ones do not change"
    );
}

#[tokio::test]
async fn an_endpoint_tells_what_it_does_now_and_how_soon_it_answers() {
    let server = TestServer::start().await;
    let slow = Receiver::start(Behaviour::Hang).await;
    let fast = Receiver::start(Behaviour::Status(200)).await;
    let tenant = server.tenant("standard").await;
    let mut operator = Browser::sign_in(&server, &server.root).await;
    let answers = server.endpoint(&tenant, &fast.url("/hook")).await;
    for _ in 0..6 {
        server.publish(&tenant, "order.completed", json!({})).await;
    }
    server.finished(&format!("tenant={tenant}"), 6).await;
    let page = operator.page(&format!("/endpoints/{}", id(&answers))).await;
    assert!(page.contains("99 of 100 within"), "{page}");
    assert!(page.contains("(6 answered)"), "{page}");
    assert!(
        !page.contains("<dt>Now</dt>"),
        "it has nothing to do: {page}"
    );
    let other = server.tenant("standard").await;
    let hangs = server.endpoint(&other, &slow.url("/hook")).await;
    server.publish(&other, "order.completed", json!({})).await;
    slow.wait_for(1).await;
    let page = operator.page(&format!("/endpoints/{}", id(&hangs))).await;
    assert!(
        page.contains("1 under way, of 16 at once; nothing else waits"),
        "{page}"
    );
}

#[tokio::test]
async fn what_the_product_notes_is_the_products() {
    let server = TestServer::start().await;
    let tenant = server.tenant("standard").await;
    let mut operator = Browser::sign_in(&server, &server.root).await;
    operator
        .page(&format!("/tenants/{tenant}/endpoints/new"))
        .await;
    let form = [
        ("url", "https://example.com/hook"),
        ("external_id", "hook-1"),
        ("metadata", "plan: gold\n\nregion : eu"),
        ("ordering", "key"),
    ];
    let made = operator
        .press(&format!("/tenants/{tenant}/endpoints"), &form)
        .await;
    assert!(made.text.contains("plan: gold, region: eu"), "{made:?}");
    assert!(made.text.contains("hook-1"), "{made:?}");
    let listed = format!("/v1/tenants/{tenant}/endpoints");
    let endpoint = server.good("GET", &listed, Value::Null).await["data"][0].clone();
    assert_eq!(endpoint["externalId"], "hook-1");
    assert_eq!(endpoint["ordering"], "key");
    assert_eq!(
        endpoint["metadata"],
        json!({ "plan": "gold", "region": "eu" })
    );
    let edit = format!("/endpoints/{}/edit", id(&endpoint));
    let page = operator.page(&edit).await;
    assert!(
        page.contains("plan: gold\nregion: eu\n</textarea>"),
        "{page}"
    );
    // A form that somebody has overtaken takes nothing back, but by a second look.
    let overtaken = |page: &str| {
        let (_, rest) = page.split_once("name=\"seen\" value=\"").unwrap();
        rest.split('"').next().unwrap().to_owned()
    };
    let first = overtaken(&page);
    let api = format!("/v1/endpoints/{}", id(&endpoint));
    server.good("PATCH", &api, json!({ "rateLimit": 7 })).await;
    let form = [
        ("url", "https://example.com/hook"),
        ("seen", first.as_str()),
    ];
    let told = operator.press(&edit, &form).await;
    assert!(told.text.contains("Somebody has changed this"), "{told:?}");
    let kept = server.good("GET", &api, Value::Null).await;
    assert_eq!(kept["rateLimit"], 7);
    let second = overtaken(&told.text);
    let form = [
        ("url", "https://example.com/hook"),
        ("external_id", "hook-1"),
        ("seen", second.as_str()),
    ];
    assert_eq!(operator.press(&edit, &form).await.status, 303);
    let taken = server.good("GET", &api, Value::Null).await;
    assert_eq!(taken["rateLimit"], Value::Null);
    // What somebody else has changed since the form was shown stays.
    let shown = "plan: gold\nregion: eu";
    let form = [
        ("url", "https://example.com/hook"),
        ("external_id", "hook-1"),
        ("metadata", shown),
        ("metadata_shown", shown),
    ];
    let api = format!("/v1/endpoints/{}", id(&endpoint));
    let other = json!({ "metadata": { "crm:id": "7", "plan": "gold" } });
    server.good("PATCH", &api, other).await;
    assert_eq!(operator.press(&edit, &form).await.status, 303);
    let kept = server.good("GET", &api, Value::Null).await;
    assert_eq!(kept["metadata"]["crm:id"], "7");
    let page = operator.page(&edit).await;
    assert!(page.contains("the API changes them"), "{page}");
    let form = [
        ("url", "https://example.com/hook"),
        ("metadata", "nonsense"),
        ("metadata_shown", shown),
    ];
    let wrong = operator.press(&edit, &form).await;
    assert_eq!(wrong.status, 400, "{wrong:?}");

    // The customer neither sees nor changes them.
    let link = super::browser::portal_link(&server, &tenant, json!({})).await;
    let mut customer = Browser::by_link(&server, text(&link, "url")).await;
    let own = customer
        .page(&format!("/portal/endpoints/{}", id(&endpoint)))
        .await;
    assert!(!own.contains("gold") && !own.contains("hook-1"), "{own}");
    customer.page(&format!("/portal{edit}")).await;
    let form = [
        ("url", "https://example.com/other"),
        ("metadata", "plan: free"),
        ("external_id", "mine"),
    ];
    let changed = customer.press(&format!("/portal{edit}"), &form).await;
    assert_eq!(changed.status, 303, "{changed:?}");
    let endpoint = server.good("GET", &listed, Value::Null).await["data"][0].clone();
    assert_eq!(endpoint["url"], "https://example.com/other");
    assert_eq!(endpoint["externalId"], "hook-1");
    assert_eq!(endpoint["metadata"]["plan"], "gold");
    assert_eq!(endpoint["ordering"], "key", "a form without it leaves it");

    // Nor by a form that is not ours, when making one.
    customer.page("/portal").await;
    let form = [
        ("url", "https://example.com/squatted"),
        ("metadata", "plan: free"),
        ("external_id", "hook-2"),
    ];
    let path = format!("/portal/tenants/{tenant}/endpoints");
    let made = customer.press(&path, &form).await;
    assert_eq!(made.status, 200, "{made:?}");
    let named = format!("{listed}?externalId=hook-2");
    let named = server.good("GET", &named, Value::Null).await;
    assert_eq!(named["data"], json!([]));

    let settings = format!("/tenants/{tenant}/settings");
    operator.page(&settings).await;
    let form = [
        ("name", "Ada & Sons"),
        ("external_id", "c-1"),
        ("metadata", "plan: gold"),
    ];
    let saved = operator.press(&format!("{settings}/own"), &form).await;
    assert_eq!(saved.status, 303, "{saved:?}");
    assert!(
        operator
            .page(&settings)
            .await
            .contains("value=\"Ada &#38; Sons\"")
    );
    let refused = customer
        .press(&format!("/portal{settings}/own"), &form)
        .await;
    assert!(refused.text.contains("role=\"alert\""), "{refused:?}");
}

#[tokio::test]
async fn a_test_shows_what_was_sent_and_takes_data_of_ones_own() {
    let server = TestServer::start().await;
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let tenant = server.tenant("vignetim").await;
    let endpoint = server.endpoint(&tenant, &receiver.url("/hook")).await;
    let mut operator = Browser::sign_in(&server, &server.root).await;
    let path = format!("/endpoints/{}", id(&endpoint));
    let page = operator.page(&path).await;
    // Its profile shows a secret once: there is no button for it.
    assert!(!page.contains("Show secret"), "{page}");
    let test = format!("{path}/test");
    let shown = operator.press(&test, &[("type", ""), ("data", "")]).await;
    let sent = receiver.wait_for(1).await.remove(0);
    let body = std::str::from_utf8(&sent.body).unwrap();
    assert!(
        between(&shown.text, "--data-binary ", "\n").contains(body),
        "{}",
        shown.text
    );

    let own = [
        ("type", "order.failed"),
        ("data", "{\"orderId\":\"o-4711\"}"),
    ];
    operator.press(&test, &own).await;
    let sent = receiver.wait_for(2).await.remove(1);
    assert!(String::from_utf8_lossy(&sent.body).contains("\"orderId\":\"o-4711\""));
    // What cannot be sent stays as it was typed.
    let wrong = [("type", "order.failed"), ("data", "{\"orderId\":")];
    let refused = operator.press(&test, &wrong).await;
    assert!(
        refused.text.contains("{&#34;orderId&#34;:</textarea>"),
        "{}",
        refused.text
    );
}

#[tokio::test]
async fn what_was_sent_again_by_hand_does_not_change_what_was() {
    let server = TestServer::start().await;
    let receiver = Receiver::start(Behaviour::Status(410)).await;
    let tenant = server.tenant("vignetim").await;
    let endpoint = server.endpoint(&tenant, &receiver.url("/old")).await;
    server.publish(&tenant, "order.completed", json!({})).await;
    let query = format!("tenant={tenant}");
    let delivery = id(&server.finished(&query, 1).await[0]);
    let mut operator = Browser::sign_in(&server, &server.root).await;
    let path = format!("/deliveries/{delivery}");
    assert!(!operator.page(&path).await.contains("was changed since"));
    let change = json!({ "url": receiver.url("/new"), "active": true });
    let endpoint = format!("/v1/endpoints/{}", id(&endpoint));
    server.good("PATCH", &endpoint, change).await;
    let page = operator.page(&path).await;
    assert!(
        page.contains("was changed since: the last attempt went to"),
        "{page}"
    );
    receiver.behave(Behaviour::Status(200));
    operator.press(&format!("{path}/resend"), &[]).await;
    server
        .until(&format!("/v1{path}"), |one| one["status"] == "delivered")
        .await;
    let page = operator.page(&path).await;
    // Of four attempts by themselves three were tried again, and the fourth by hand.
    assert_eq!(
        page.matches("failed, tried again</span>").count(),
        3,
        "{page}"
    );
    assert!(!page.contains("was changed since"), "{page}");
}
