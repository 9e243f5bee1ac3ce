//! Egress regions: what receivers may allow-list, and that deliveries keep to it.

use postrider::serve::Server;
use postrider_testkit::{Behaviour, Receiver};
use serde_json::{Value, json};

use crate::support::{TestServer, config, http, id};

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
