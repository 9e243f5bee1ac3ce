//! What people do on the pages, from the first one to what they wanted.

use postrider_testkit::{Behaviour, Receiver};
use serde_json::{Value, json};

use super::browser::{Browser, portal_link};
use crate::support::{TestServer, id, text};

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
    let file = format!("/portal/tenants/{tenant}/statistics.csv?range=24h");
    assert!(counted.contains(&file), "{counted}");
    let file = customer.send("GET", &file, &[]).await;
    assert_eq!(file.headers["content-type"], "text/csv; charset=utf-8");
    assert!(
        file.text
            .contains("type,\"RETURN_REQUEST_STATUS_CHANGED\",1,1,0,0,0,0,1\r\n"),
        "{file:?}"
    );
    assert!(
        file.text.ends_with("outcome,\"200 OK\",,,,,,,1\r\n"),
        "{file:?}"
    );
    assert!(
        counted.contains("half within") && counted.contains("answer=2xx"),
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
async fn voucherifys_customer_designs_a_distribution_pauses_it_and_replays_what_it_missed() {
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
        ("fields", "voucher.code as code\ncustomer.id as customerId"),
    ];
    let mut twice = form.to_vec();
    twice.push(("fields", "a as x\nb as x"));
    twice.retain(|(name, value)| *name != "fields" || value.contains("as x"));
    let wrong = customer.press(&new, &twice).await;
    assert!(
        wrong.status == 400 && wrong.text.contains("twice") && wrong.text.contains("b as x"),
        "{wrong:?}"
    );
    // Without an example of the type it is designed by the last event of it.
    let mut preview = form.to_vec();
    preview.push(("preview", "1"));
    let nothing = customer.press(&new, &preview).await;
    assert!(
        nothing.text.contains("There is nothing to design by yet"),
        "{nothing:?}"
    );
    let data = json!({ "voucher": { "code": "W-6" }, "customer": { "id": "c-6" } });
    server.publish(&tenant, trigger, data).await;
    let previewed = customer.press(&new, &preview).await;
    assert_eq!(previewed.status, 200, "{previewed:?}");
    let designed = "&#34;code&#34;: &#34;W-6&#34;,\n  &#34;customerId&#34;: &#34;c-6&#34;";
    assert!(
        previewed.text.contains("the last customer.rewarded") && previewed.text.contains(designed),
        "{previewed:?}"
    );
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
    let tenant_now = server
        .good("GET", &format!("/v1/tenants/{tenant}"), Value::Null)
        .await;
    assert_eq!(
        tenant_now["settings"]["notifications"]["distributions"]["inApp"],
        true
    );
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
    let task = replay
        .rsplit('/')
        .next()
        .unwrap()
        .split('?')
        .next()
        .unwrap();
    let ended = format!("/v1/replays/{task}");
    server
        .until(&ended, |found| found["status"] == "finished")
        .await;
    let page = customer.page(&replay).await;
    assert!(page.contains("1 of 1 sent again."), "{page}");
    assert!(customer.page(&replays).await.contains("1 of 1 sent again."));
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
    assert!(first.contains("The 50 distributions on this page are healthy."));
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
async fn a_filter_is_tried_on_the_last_events_before_it_is_saved() {
    let server = TestServer::start().await;
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let tenant = server.tenant("standard").await;
    let endpoint = id(&server.endpoint(&tenant, &receiver.url("/")).await);
    for amount in [5, 500] {
        let data = json!({ "amount": amount });
        server.publish(&tenant, "order.paid", data).await;
    }
    let link = portal_link(&server, &tenant, json!({})).await;
    let mut browser = Browser::by_link(&server, text(&link, "url")).await;
    let edit = format!("/portal/endpoints/{endpoint}/edit");
    let url = receiver.url("/");
    let filter = r#"{"data.amount": {"$gte": 100}}"#;
    let form = [("url", &*url), ("filter", filter), ("try", "1")];
    browser.page(&edit).await;
    let tried = browser.press(&edit, &form).await;
    assert_eq!(tried.status, 200, "{}", tried.text);
    assert_eq!(
        tried.text.matches("goes through").count(),
        1,
        "{}",
        tried.text
    );
    assert_eq!(tried.text.matches("does not meet").count(), 1);
    let of_others = [&form[..], &[("events", "order.failed")]].concat();
    let of_others = browser.press(&edit, &of_others).await;
    assert!(
        of_others.text.contains("no event of these types yet"),
        "{}",
        of_others.text
    );
    let shown = browser.page(&format!("/portal/endpoints/{endpoint}")).await;
    assert!(!shown.contains("$gte"), "nothing is saved yet");
    let wrong = [("url", &*url), ("filter", r#"{"amount": 1}"#)];
    let refused = browser.press(&edit, &wrong).await;
    assert_eq!(refused.status, 400);
    assert!(
        refused.text.contains("an event has data and meta only"),
        "{}",
        refused.text
    );
    let saved = browser.press(&edit, &form[..2]).await;
    assert_eq!(saved.status, 303);
    let shown = browser.page(&format!("/portal/endpoints/{endpoint}")).await;
    assert!(shown.contains("$gte"), "{shown}");
    // And the event that it keeps away says so.
    let event = server
        .publish(&tenant, "order.paid", json!({ "amount": 7 }))
        .await;
    let event = browser
        .page(&format!("/portal/events/{}", id(&event)))
        .await;
    assert!(
        event.contains("the event does not meet its filter"),
        "{event}"
    );
}
