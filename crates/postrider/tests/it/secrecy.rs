//! What must be known to a receiver and to nobody else.

use postrider_testkit::{Behaviour, Receiver};
use serde_json::{Value, json};

use crate::support::{TestServer, id};

const STARS: &str = "****";

/// The values of a header in a list of pairs.
fn values(headers: &Value, name: &str) -> Vec<String> {
    let pairs = headers.as_array().unwrap().iter();
    let named = pairs.filter(|pair| pair[0] == name);
    let values = named.map(|pair| pair[1].as_str().unwrap().to_owned());
    values.collect()
}

#[tokio::test]
async fn a_custom_headers_value_is_known_to_the_receiver_only() {
    let server = TestServer::start().await;
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let tenant = server.tenant("standard").await;
    let new =
        json!({ "url": receiver.url("/"), "headers": { "x-token": "hunter2", "x-team": "a" } });
    let path = format!("/v1/tenants/{tenant}/endpoints");
    let endpoint = server.good("POST", &path, new).await;
    let shown = json!({ "x-token": STARS, "x-team": STARS });
    assert_eq!(endpoint["headers"], shown);
    let endpoint = id(&endpoint);
    let path = format!("/v1/endpoints/{endpoint}");
    server.publish(&tenant, "order.created", json!(1)).await;
    let sent = receiver.wait_for(1).await.remove(0);
    assert_eq!(sent.headers["x-token"], "hunter2");

    // Read, change one value and write it all back: what was shown as stars stays.
    let mut headers = server.good("GET", &path, Value::Null).await["headers"].clone();
    headers["x-team"] = json!("b");
    let changed = server.good("PATCH", &path, json!({ "headers": headers }));
    assert_eq!(changed.await["headers"], shown);
    server.publish(&tenant, "order.created", json!(2)).await;
    let sent = receiver.wait_for(2).await.remove(1);
    assert_eq!(sent.headers["x-token"], "hunter2");
    assert_eq!(sent.headers["x-team"], "b");
    let unknown = json!({ "headers": { "x-other": STARS } });
    let refused = server.call("PATCH", &path, unknown).await;
    assert_eq!(refused.json()["field"], "headers.x-other", "{refused:?}");

    let rows = server.finished(&format!("endpoint={endpoint}"), 2).await;
    let attempts = format!("/v1/deliveries/{}/attempts", id(&rows[0]));
    let attempts = server.good("GET", &attempts, Value::Null).await;
    let recorded = &attempts["data"][0]["requestHeaders"];
    assert_eq!(values(recorded, "x-token"), [STARS], "{recorded}");
    assert!(!values(recorded, "webhook-signature").is_empty());
    let event = json!({ "type": "order.created", "data": 1 });
    let explained = format!("/v1/tenants/{tenant}/explain");
    let explained = server.good("POST", &explained, event.clone()).await;
    let request = &explained["data"][0]["request"]["headers"];
    assert_eq!(values(request, "x-token"), [STARS], "{explained}");
    let tested = server.good("POST", &format!("{path}/test"), event).await;
    assert_eq!(receiver.wait_for(3).await[2].headers["x-token"], "hunter2");
    assert!(!tested.to_string().contains("hunter2"), "{tested}");

    // Nor is it in any file of the store.
    let files = std::fs::read_dir(server.directory.path().join("data")).unwrap();
    for file in files {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        assert!(!bytes.windows(7).any(|window| window == b"hunter2"));
    }
}
