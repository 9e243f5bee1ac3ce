//! What the operator sees over all customers: the last hour, the long work, and what had to be told.

use postrider_testkit::{Behaviour, Receiver};
use serde_json::{Value, json};

use super::browser::Browser;
use crate::support::{TestServer, id, text};

#[tokio::test]
async fn work_and_notices_are_listed_over_all_customers_of_a_product() {
    let server = TestServer::start().await;
    let receiver = Receiver::start(Behaviour::Status(410)).await;
    let channels = json!({ "inApp": true, "email": false, "emails": [] });
    let settings = json!({ "settings": { "notifications": { "webhooks": channels } } });
    let mut products = Vec::new();
    for name in ["shop", "travel"] {
        let application = server.application(name, "vignetim").await;
        let tenant = server.tenant_of(&application).await;
        let renamed = json!({ "name": format!("customer of {name}") });
        let path = format!("/v1/tenants/{tenant}");
        server.good("PATCH", &path, renamed).await;
        server.good("PATCH", &path, settings.clone()).await;
        server.endpoint(&tenant, &receiver.url("/gone")).await;
        server.publish(&tenant, "order.completed", json!({})).await;
        server.finished(&format!("tenant={tenant}"), 1).await;
        let replays = format!("/v1/tenants/{tenant}/replays");
        let replay = server.good("POST", &replays, json!({})).await;
        let done = |replay: &Value| replay["status"] == "finished";
        server
            .until(&format!("/v1/replays/{}", id(&replay)), done)
            .await;
        products.push((application, tenant, id(&replay)));
    }
    let (travel, gone, _) = &products[1];
    let deletion = server
        .good("DELETE", &format!("/v1/tenants/{gone}"), Value::Null)
        .await;
    let deletion = id(&deletion);
    let done = |deletion: &Value| deletion["status"] == "finished";
    server
        .until(&format!("/v1/deletions/{deletion}"), done)
        .await;

    let mut operator = Browser::sign_in(&server, &server.root).await;
    let home = operator.page("/").await;
    assert!(
        home.contains("href=\"/tasks\"") && home.contains("href=\"/notices\""),
        "{home}"
    );
    let tasks = operator.page("/tasks").await;
    // A replay goes with its customer, and what erased the customer stays.
    assert!(tasks.contains(&format!("/replays/{}", products[0].2)));
    assert!(!tasks.contains(&format!("/replays/{}", products[1].2)));
    assert!(tasks.contains("customer of shop") && tasks.contains("Deletion of a customer"));
    assert!(tasks.contains(&format!("/deletions/{deletion}")) && tasks.contains(gone.as_str()));
    let notices = operator.page("/notices").await;
    assert!(notices.contains("customer of shop"), "{notices}");
    assert!(notices.contains("order.completed") && notices.contains("410"));

    // Whoever has one product sees that one's.
    let asked = json!({ "name": "travel", "application": travel });
    let key = server.good("POST", "/v1/keys", asked).await;
    let mut product = Browser::sign_in(&server, text(&key, "key")).await;
    let tasks = product.page("/tasks").await;
    assert!(tasks.contains(&deletion) && !tasks.contains(&products[0].2));
    let notices = product.page("/notices").await;
    assert!(notices.contains("Nothing had to be told"), "{notices}");

    // A customer's key has neither page.
    let asked = json!({ "name": "ada", "tenant": products[0].1 });
    let key = server.good("POST", "/v1/keys", asked).await;
    let mut customer = Browser::sign_in(&server, text(&key, "key")).await;
    for path in ["/tasks", "/notices"] {
        let refused = customer.send("GET", path, &[]).await;
        assert_eq!(refused.status, 403, "{path}: {refused:?}");
    }
}

#[tokio::test]
async fn the_last_hour_is_counted_for_the_operator_alone() {
    let server = TestServer::start().await;
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let application = server.application("shop", "vignetim").await;
    let tenant = server.tenant_of(&application).await;
    let mut operator = Browser::sign_in(&server, &server.root).await;
    let hour = |attempts: &str| format!("<dt>attempts in the last hour</dt><dd>{attempts}</dd>");
    assert!(operator.page("/").await.contains(&hour("0")));
    server.endpoint(&tenant, &receiver.url("/hook")).await;
    for _ in 0..3 {
        server.publish(&tenant, "order.completed", json!({})).await;
    }
    server.finished(&format!("tenant={tenant}"), 3).await;
    let page = operator.page("/").await;
    assert!(page.contains(&hour("3")), "{page}");
    assert!(page.contains("<dt>answered with 2xx</dt><dd>100.0 %</dd>"));
    assert!(page.contains("The last hour: 3 attempts"), "{page}");

    let asked = json!({ "name": "shop", "application": application });
    let key = server.good("POST", "/v1/keys", asked).await;
    let mut product = Browser::sign_in(&server, text(&key, "key")).await;
    assert!(!product.page("/").await.contains("in the last hour"));
}

#[tokio::test]
async fn endpoints_that_fail_are_on_the_overview_and_found_among_many() {
    let server = TestServer::start().await;
    let receiver = Receiver::start(Behaviour::Status(500)).await;
    let mut products = Vec::new();
    for name in ["shop", "travel"] {
        let application = server.application(name, "vignetim").await;
        let tenant = server.tenant_of(&application).await;
        products.push((application, tenant));
    }
    let mut operator = Browser::sign_in(&server, &server.root).await;
    assert!(!operator.page("/").await.contains("Failing endpoints"));
    let (shop, customer) = &products[0];
    server.endpoint(customer, &receiver.url("/orders")).await;
    server.publish(customer, "order.completed", json!({})).await;
    server.finished(&format!("tenant={customer}"), 1).await;
    let page = operator.page("/").await;
    assert!(
        page.contains("Failing endpoints") && page.contains("/orders"),
        "{page}"
    );
    for (product, sees) in [(shop, true), (&products[1].0, false)] {
        let asked = json!({ "name": "p", "application": product });
        let key = server.good("POST", "/v1/keys", asked).await;
        let mut own = Browser::sign_in(&server, text(&key, "key")).await;
        let page = own.page("/").await;
        assert_eq!(page.contains("Failing endpoints"), sees, "{page}");
    }

    let customer = &server.tenant("standard").await;
    for number in 0..11 {
        server
            .endpoint(customer, &receiver.url(&format!("/hook-{number}")))
            .await;
    }
    let home = format!("/tenants/{customer}");
    assert!(
        operator
            .page(&home)
            .await
            .contains("URL, description or id")
    );
    let found = operator.page(&format!("{home}?find=HOOK-10")).await;
    assert!(
        found.contains("/hook-10") && !found.contains("/hook-9"),
        "{found}"
    );
    let none = operator.page(&format!("{home}?find=%3Cb%3E")).await;
    assert!(none.contains("No endpoint has “&#60;b&#62;”"), "{none}");
}
