//! Egress regions: what receivers may allow-list, and that deliveries keep to it.

use std::path::Path;
use std::process::Stdio;

use postrider::serve::Server;
use postrider_testkit::{Behaviour, Receiver};
use serde_json::{Value, json};

use crate::binary::{Process, call, endpoint, greeted, publish, serving, tenant, until};
use crate::support::{TestServer, config, http, id, text};

fn region(name: &str, published: &str, bind: Option<&[&str]>) -> postrider::config::RegionConfig {
    postrider::config::RegionConfig {
        name: name.to_owned(),
        published: vec![published.parse().unwrap()],
        bind: bind.map(|list| list.iter().map(|text| text.parse().unwrap()).collect()),
    }
}

#[tokio::test]
async fn deliveries_leave_from_the_region_of_their_tenant_and_say_so() {
    let server = TestServer::with(|config| {
        config.egress.regions = vec![
            region("eu1", "34.247.197.22", Some(&["127.0.0.5"])),
            region("us1", "127.0.0.6", None),
        ];
    })
    .await;
    let published = http(server.address, "GET", "/v1/egress-ips", &[], "").await;
    assert_eq!(
        published.json(),
        json!({ "data": [
            { "region": "eu1", "default": true, "addresses": ["34.247.197.22"] },
            { "region": "us1", "default": false, "addresses": ["127.0.0.6"] },
        ] })
    );
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    for (number, (chosen, region, address)) in [
        (None, "eu1", "127.0.0.5"),
        (Some("us1"), "us1", "127.0.0.6"),
    ]
    .into_iter()
    .enumerate()
    {
        let tenant = server.tenant("voucherify").await;
        if let Some(chosen) = chosen {
            let settings = json!({ "settings": { "region": chosen } });
            server
                .good("PATCH", &format!("/v1/tenants/{tenant}"), settings)
                .await;
        }
        server.endpoint(&tenant, &receiver.url("/")).await;
        let event = server.publish(&tenant, "voucher.created", json!({})).await;
        receiver.wait_for(number + 1).await;
        let delivery = server
            .finished(&format!("event={}", id(&event)), 1)
            .await
            .remove(0);
        let egress = json!({ "region": region, "address": address });
        let sent = server
            .good(
                "GET",
                &format!("/v1/send-outs/{}", id(&delivery)),
                Value::Null,
            )
            .await;
        assert_eq!(sent["egress"], egress);
        let whole = server
            .good(
                "GET",
                &format!("/v1/deliveries/{}", id(&delivery)),
                Value::Null,
            )
            .await;
        assert_eq!(whole["attempts"][0]["egress"], egress);
    }
    let tenant = server.tenant("voucherify").await;
    let nowhere = json!({ "settings": { "region": "mars" } });
    let reply = server
        .call("PATCH", &format!("/v1/tenants/{tenant}"), nowhere)
        .await;
    assert_eq!(reply.json()["field"], "settings.region");
}

#[tokio::test]
async fn a_server_does_not_start_with_regions_that_cannot_work() {
    for (regions, default, part) in [
        (
            vec![region("eu1", "203.0.113.9", None)],
            None,
            "203.0.113.9",
        ),
        (
            vec![
                region("eu1", "127.0.0.1", None),
                region("eu1", "127.0.0.2", None),
            ],
            None,
            "twice",
        ),
        (vec![region("eu1", "127.0.0.1", None)], Some("as1"), "as1"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let mut config = config(&directory);
        config.egress.regions = regions;
        config.egress.default_region = default.map(str::to_owned);
        let error = Server::start(config).await.unwrap_err();
        assert!(format!("{error:#}").contains(part), "{error:#}");
    }
}

/// A server on this data, with a variable, and its log.
fn server_with(data: &Path, variable: Option<(&str, &str)>) -> (Process, tempfile::NamedTempFile) {
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut command = serving(data);
    command.envs(variable);
    command.stdout(Stdio::piped()).stderr(log.reopen().unwrap());
    let process = greeted(command.spawn().unwrap(), variable.is_none());
    (process, log)
}

/// Of endpoints that were there before, and of those to come; and of names the tenant does not hear where they lead.
#[tokio::test]
async fn what_the_operator_denies_is_not_connected_to() {
    let data = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let port = receiver.address.port();
    let by_address = receiver.url("/a");
    let by_name = format!("http://localhost:{port}/n");
    let translated = "http://[2a00:1450:64::a00:1]/".to_owned();
    let urls = [&by_address, &by_name, &translated];
    let (process, _) = server_with(data.path(), None);
    let root = process.root.clone().unwrap();
    let tenant = tenant(&process, &root, "standard").await;
    for url in urls {
        endpoint(&process, &root, &tenant, url).await;
    }
    publish(&process, &root, &tenant).await;
    receiver.wait_for(2).await;
    drop(process);
    let bearer = format!("Bearer {root}");
    let headers = [
        ("authorization", bearer.as_str()),
        ("content-type", "application/json"),
    ];
    let networks = "127.0.0.0/8,::1/128";
    let prefix = "2a00:1450:64::/96";
    for (variable, value, denied) in [
        ("POSTRIDER__EGRESS__DENY", networks, &urls[..2]),
        ("POSTRIDER__EGRESS__PORTS", "443,8443", &urls[..]),
        ("POSTRIDER__EGRESS__NAT64", prefix, &urls[2..]),
    ] {
        let (process, log) = server_with(data.path(), Some((variable, value)));
        for url in denied {
            let path = format!("/v1/tenants/{tenant}/endpoints");
            let new = json!({ "url": url }).to_string();
            let reply = http(process.address, "POST", &path, &headers, new).await;
            let refused = (reply.status, reply.code());
            let expected = (400, "endpoint_url_invalid".to_owned());
            assert_eq!(refused, expected, "{variable} {url}: {reply:?}");
            let tells = reply.text.contains("127.0.0.1") || reply.text.contains("loopback");
            assert!(!tells || **url != by_name, "{reply:?}");
        }
        let event = publish(&process, &root, &tenant).await;
        let path = format!("/v1/deliveries?event={}", id(&event));
        let page = call(&process, &root, "GET", &path, Value::Null).await;
        for row in page["data"].as_array().unwrap() {
            let path = format!("/v1/deliveries/{}", id(row));
            let is_tried = |delivery: &Value| delivery["attempts"][0].is_object();
            let delivery = until(&process, &root, &path, is_tried).await;
            let attempt = &delivery["attempts"][0];
            let url = text(attempt, "url");
            if !denied.iter().any(|denied| *denied == url) {
                continue;
            }
            let error = &attempt["error"];
            if url == by_name && variable.ends_with("DENY") {
                let nowhere = json!({ "kind": "dns", "detail": "the name has no address that deliveries can go to" });
                assert_eq!(*error, nowhere, "{variable}: {attempt}");
            } else {
                assert_eq!(error["kind"], "address_forbidden", "{variable}: {attempt}");
            }
        }
        let told = std::fs::read_to_string(log.path()).unwrap();
        let names_it = |line: &str| line.contains("localhost") && line.contains("127.0.0.1");
        let is_told = told.lines().any(names_it);
        assert_eq!(is_told, variable.ends_with("DENY"), "{told}");
        let is_of_others = denied.len() == 1;
        assert!(receiver.requests().len() == 2 || is_of_others, "{variable}");
    }
}
