//! Content filters: which of the events that an endpoint subscribed to it gets, by what they carry.

use postrider_testkit::{Behaviour, Receiver};
use serde_json::{Value, json};

use crate::pages::browser::Browser;
use crate::support::{TestServer, id, text};

fn order(amount: u32, currency: &str) -> Value {
    json!({ "amount": amount, "currency": currency, "items": [{ "sku": "a-1" }] })
}

#[tokio::test]
async fn an_endpoint_gets_the_events_that_meet_its_filter() {
    let server = TestServer::start().await;
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let tenant = server.tenant("standard").await;
    let endpoints = format!("/v1/tenants/{tenant}/endpoints");
    let filter =
        json!({ "data": { "amount": { "$gte": 100 }, "currency": { "$in": ["EUR", "USD"] } } });
    let body = json!({ "url": receiver.url("/"), "events": ["order.*"], "filter": filter });
    let endpoint = server.good("POST", &endpoints, body).await;
    assert_eq!(endpoint["filter"], filter, "as it was written");
    let path = format!("/v1/endpoints/{}", id(&endpoint));
    let publish =
        async |data| server.publish(&tenant, "order.paid", data).await["deliveries"].clone();
    assert_eq!(publish(order(100, "EUR")).await, 1);
    assert_eq!(publish(order(99, "EUR")).await, 0);
    assert_eq!(publish(order(100, "CHF")).await, 0);
    assert_eq!(receiver.wait_for(1).await.len(), 1);

    // Why, before it is published.
    let explained = json!({ "type": "order.paid", "data": order(99, "EUR") });
    let explain = format!("/v1/tenants/{tenant}/explain");
    let explained = server.good("POST", &explain, explained).await;
    let row = &explained["data"][0];
    assert_eq!(row["wouldReceive"], false);
    let reason = row["reasons"][0].as_str().unwrap();
    assert!(
        reason.starts_with("the event does not meet its filter: {\"data\":"),
        "{reason}"
    );

    // Another one, none, and what an endpoint of another's cannot see.
    let on_meta = json!({ "filter": { "meta.region": "eu-1" } });
    server.good("PATCH", &path, on_meta).await;
    assert_eq!(publish(order(100, "EUR")).await, 0);
    let event = json!({ "type": "order.paid", "data": {}, "meta": { "region": "eu-1" } });
    let events = format!("/v1/tenants/{tenant}/events");
    assert_eq!(server.good("POST", &events, event).await["deliveries"], 1);
    let named = json!({ "type": "order.paid", "data": {}, "endpoint": id(&endpoint) });
    assert_eq!(server.good("POST", &events, named).await["deliveries"], 1);
    let changed = server
        .good("PATCH", &path, json!({ "description": "x" }))
        .await;
    assert_eq!(changed["filter"], json!({ "meta.region": "eu-1" }));
    let taken = server.good("PATCH", &path, json!({ "filter": null })).await;
    assert_eq!(taken["filter"], Value::Null);
    assert_eq!(publish(order(1, "CHF")).await, 1);
    let audit = format!(
        "/v1/audit?subject={}&action=endpoint.updated",
        id(&endpoint)
    );
    let audit = server.good("GET", &audit, Value::Null).await;
    assert_eq!(
        audit["data"][0]["before"]["filter"],
        json!({ "meta.region": "eu-1" })
    );

    for (filter, wanted) in [
        (json!({ "amount": 1 }), "write \"data.amount\""),
        (json!({ "data.amount": { "$near": 1 } }), "$near"),
        (json!([1]), "must be an object"),
        (json!({}), "must have a condition"),
        (json!("x"), "must be an object"),
    ] {
        for (method, at) in [("POST", &endpoints), ("PATCH", &path)] {
            let mut body = json!({ "filter": filter });
            if method == "POST" {
                body["url"] = json!(receiver.url("/"));
            }
            let refused = server.call(method, at, body).await;
            assert_eq!((refused.status, &*refused.code()), (400, "filter_invalid"));
            let problem = refused.json();
            assert_eq!(problem["field"], "filter");
            assert!(text(&problem, "detail").contains(wanted), "{problem}");
        }
    }
}

#[tokio::test]
async fn many_filters_on_a_large_event_hold_nobody_up_and_lose_nothing() {
    let server = TestServer::start().await;
    let tenant = server.tenant("standard").await;
    let endpoints = format!("/v1/tenants/{tenant}/endpoints");
    let any: Vec<Value> = (0..49).map(|n| json!({ "data.list": n + 1 })).collect();
    let filter = json!({ "$or": any });
    for _ in 0..20 {
        // Nobody is there: what counts is whether it is sent.
        let body = json!({ "url": "http://127.0.0.1:9/", "filter": filter });
        server.good("POST", &endpoints, body).await;
    }
    // Twenty times forty-nine looks at a hundred thousand values, if nothing bounded them.
    let event = json!({ "type": "x", "data": { "list": vec![0; 100_000] } });
    let events = format!("/v1/tenants/{tenant}/events");
    let published = server.good("POST", &events, event).await;
    assert_eq!(published["deliveries"], 20, "undecided is let through");
}

#[tokio::test]
async fn a_distribution_is_triggered_by_the_events_that_meet_its_filter() {
    let server = TestServer::start().await;
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let tenant = server.tenant("voucherify").await;
    let filter = json!({ "data.amount": { "$gte": 100 } });
    let new = json!({
        "name": "large orders", "eventName": "order", "url": receiver.url("/"),
        "events": ["customer.order.paid"], "filter": filter,
    });
    let path = format!("/v1/tenants/{tenant}/distributions");
    let made = server.good("POST", &path, new.clone()).await;
    assert_eq!(made["filter"], filter, "as it was written");
    let publish = async |amount: u32| {
        let event = json!({ "type": "customer.order.paid", "distribution": "*", "data": { "amount": amount } });
        let path = format!("/v1/tenants/{tenant}/events");
        server.good("POST", &path, event).await["deliveries"].clone()
    };
    assert_eq!(
        (publish(100).await, publish(99).await),
        (json!(1), json!(0))
    );
    // While it is paused it misses those alone.
    let own = format!("/v1/distributions/{}", id(&made));
    server
        .good("PATCH", &own, json!({ "status": "paused" }))
        .await;
    publish(100).await;
    publish(99).await;
    let skipped = "/v1/deliveries?status=skipped";
    let skipped = server.good("GET", skipped, Value::Null).await;
    assert_eq!(skipped["data"].as_array().unwrap().len(), 1);
    let live = json!({ "status": "live", "filter": null });
    let changed = server.good("PATCH", &own, live).await;
    assert_eq!(changed.get("filter"), None, "taken away: {changed}");
    assert_eq!(publish(1).await, 1);
    let wrong = json!({ "filter": { "data.amount": { "$near": 1 } } });
    let refused = server.call("PATCH", &own, wrong).await;
    assert_eq!(refused.code(), "filter_invalid");

    // The same on its page.
    let mut browser = Browser::sign_in(&server, &server.root).await;
    let form = format!("/distributions/{}/edit", id(&made));
    browser.page(&form).await;
    let typed = |filter: &'static str| {
        let url = made["url"].as_str().unwrap().to_owned();
        [
            ("name", "large orders".to_owned()),
            ("event_name", "order".to_owned()),
            ("url", url),
            ("events", "customer.order.paid".to_owned()),
            ("filter", filter.to_owned()),
        ]
    };
    let post = async |browser: &mut Browser<'_>, filter| {
        let typed = typed(filter);
        let typed: Vec<(&str, &str)> = typed.iter().map(|(name, text)| (*name, &**text)).collect();
        browser.press(&form, &typed).await
    };
    let refused = post(&mut browser, r#"{"data.amount": {"$near": 1}}"#).await;
    assert!(
        refused.status == 400 && refused.text.contains("$near"),
        "{refused:?}"
    );
    let saved = post(&mut browser, r#"{"data.amount": {"$gte": 5}}"#).await;
    assert_eq!(saved.status, 303, "{saved:?}");
    assert!(browser.page(&form).await.contains("$gte"));
    assert_eq!((publish(5).await, publish(4).await), (json!(1), json!(0)));
}
