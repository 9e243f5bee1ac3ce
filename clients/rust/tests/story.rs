//! A server of its own, used as a product uses it. `POSTRIDER` names the binary.

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use postrider_client::types::{ApplicationView, Mode};
use postrider_client::{Client, Problem, connect};
use serde_json::json;

struct Server {
    process: Child,
    client: Client,
    _directory: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

async fn server() -> Server {
    let binary = std::env::var("POSTRIDER").expect("POSTRIDER names the binary of the server");
    let directory = tempfile::tempdir().unwrap();
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let key_file = directory.path().join("root.key");
    let mut process = Command::new(binary)
        .args(["serve", "--dev"])
        .env("POSTRIDER__SERVER__LISTEN", address.to_string())
        .env("POSTRIDER__SERVER__ROOT_KEY_FILE", &key_file)
        .env("POSTRIDER__STORE__DIRECTORY", directory.path().join("data"))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the server starts");
    // It says what it does; somebody has to read that.
    let log = BufReader::new(process.stderr.take().unwrap());
    std::thread::spawn(move || log.lines().for_each(drop));
    let is_up = || std::net::TcpStream::connect(address).is_ok();
    let patience = std::time::Instant::now();
    let key = || std::fs::read_to_string(&key_file).unwrap_or_default();
    while !is_up() || key().trim().is_empty() {
        assert!(
            process.try_wait().unwrap().is_none(),
            "the server has ended"
        );
        assert!(
            patience.elapsed().as_secs() < 30,
            "the server does not start"
        );
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let key = key();
    let client = connect(&format!("http://{address}/"), key.trim()).unwrap();
    Server {
        process,
        client,
        _directory: directory,
    }
}

async fn application(client: &Client, name: &str) -> ApplicationView {
    let made = client.create_application();
    let made = made.body_map(|new| new.name(name).profile("standard".to_owned()));
    made.send().await.unwrap().into_inner()
}

#[tokio::test]
async fn a_product_publishes_sees_and_is_told_what_is_wrong() {
    let server = server().await;
    let client = &server.client;
    let shop = application(client, "shop").await;
    let tenant = client.create_tenant().application(shop.id.clone());
    let tenant = tenant
        .body_map(|new| new.name("Ada Ltd"))
        .send()
        .await
        .unwrap();
    let endpoint = client.create_endpoint().tenant(tenant.id.clone());
    let endpoint = endpoint.body_map(|new| new.url("http://127.0.0.1:9/hook".to_owned()));
    let endpoint = endpoint.send().await.unwrap();
    assert!(
        endpoint
            .secret
            .as_ref()
            .is_some_and(|secret| secret.starts_with("whsec_"))
    );

    let publish = || {
        client
            .publish_event()
            .tenant(tenant.id.clone())
            .idempotency_key("order-1-completed")
            .body_map(|event| {
                event
                    .type_("order.completed")
                    .data(json!({ "orderId": "1" }))
            })
            .send()
    };
    let (first, again) = (publish().await.unwrap(), publish().await.unwrap());
    assert_eq!((first.deliveries, &again.id), (1, &first.id));
    let event = client
        .get_event()
        .event(first.id.clone())
        .send()
        .await
        .unwrap();
    assert_eq!(event.data, Some(json!({ "orderId": "1" })));
    assert!(matches!(event.mode, Mode::Live));
    let deliveries = client
        .list_deliveries()
        .event(first.id.clone())
        .send()
        .await
        .unwrap();
    assert_eq!(deliveries.data.len(), 1);
    assert_eq!(deliveries.data[0].endpoint, endpoint.id);

    let wrong = client.create_endpoint().tenant(tenant.id.clone());
    let wrong = wrong
        .body_map(|new| new.url("nowhere".to_owned()))
        .send()
        .await;
    let error = wrong.unwrap_err();
    let problem = Problem::of(&error).expect("the server said what is wrong");
    assert_eq!(problem.code.as_str(), "endpoint_url_invalid");
    assert!(!problem.detail.is_empty());
    let nobody = client
        .get_event()
        .event("evt_01m8ggnwg8e009nnw4bt6w21ab".to_owned())
        .send()
        .await;
    assert_eq!(Problem::of(&nobody.unwrap_err()).unwrap().status, 404);
}
