//! A product that moves here brings what its customers have: their receivers verify, and their programs call, as before.

use postrider_testkit::{Behaviour, Receiver, Request};
use serde_json::{Value, json};

use crate::binary::{output, postrider};
use crate::support::{TestServer, hmac, http, id};

/// What `postrider verify` says of a request, which knows the secret alone.
fn is_verified(profile: &str, secret: &str, sent: &Request) -> bool {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), sent.saved()).unwrap();
    let mut command = postrider();
    command.args(["verify", "--profile", profile, "--secret", secret]);
    output(command.arg(file.path())).status.success()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn customers_keep_their_secrets_under_every_profile() {
    let server = TestServer::start().await;
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let url = receiver.url("/hook");
    for (profile, own, other, kind, data) in [
        (
            "standard",
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
            "order.created",
            json!({ "a": 1 }),
        ),
        (
            "svix",
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
            "order.created",
            json!({ "a": 1 }),
        ),
        (
            "stripe",
            "whsec_an-old-one",
            "whsec_another-one",
            "charge.succeeded",
            json!({ "a": 1 }),
        ),
        ("github", "an old one", "another", "push", json!({ "a": 1 })),
        (
            "vignetim",
            "whs_of-the-old-system",
            "whs_another",
            "order.completed",
            json!({ "orderId": "1" }),
        ),
        (
            "voucherify",
            "of-the-old-system",
            "another",
            "voucher.created",
            json!({ "id": "v_1" }),
        ),
        (
            "simplifytrip",
            "ck_live_of_the_old_system",
            "ck_live_another",
            "esim.activated",
            json!({ "a": "b" }),
        ),
    ] {
        let application = server.application(profile, profile).await;
        let tenants = format!("/v1/applications/{application}/tenants");
        let new = match profile {
            "voucherify" => json!({ "name": "t", "secret": own }),
            _ => json!({ "name": "t" }),
        };
        let tenant = id(&server.good("POST", &tenants, new).await);
        let mut event = json!({ "type": kind, "data": data });
        let (path, new) = match profile {
            "simplifytrip" => {
                let new = json!({ "name": "k", "tenant": tenant, "webhook": url, "secret": own });
                ("/v1/keys".to_owned(), new)
            }
            "voucherify" => (
                format!("/v1/tenants/{tenant}/endpoints"),
                json!({ "url": url }),
            ),
            _ => (
                format!("/v1/tenants/{tenant}/endpoints"),
                json!({ "url": url, "secret": own }),
            ),
        };
        let made = server.good("POST", &path, new).await;
        if profile == "simplifytrip" {
            event["key"] = made["publicId"].clone();
        }
        let events = format!("/v1/tenants/{tenant}/events");
        let before = receiver.requests().len();
        server.good("POST", &events, event.clone()).await;
        let sent = receiver.wait_for(before + 1).await.remove(before);
        assert!(is_verified(profile, own, &sent), "{profile}: {sent:?}");
        assert!(!is_verified(profile, other, &sent), "{profile}");

        // And where somebody changes it there meanwhile.
        let made = id(&made);
        let (method, path) = match profile {
            "simplifytrip" => ("POST", format!("/v1/keys/{made}/rotate-secret")),
            "voucherify" => ("POST", format!("/v1/tenants/{tenant}/rotate-secret")),
            _ => ("PATCH", format!("/v1/endpoints/{made}")),
        };
        server.good(method, &path, json!({ "secret": other })).await;
        server.good("POST", &events, event).await;
        let sent = receiver.wait_for(before + 2).await.remove(before + 1);
        assert!(is_verified(profile, other, &sent), "{profile}: {sent:?}");
    }
}

#[tokio::test]
async fn customers_keep_the_keys_that_they_call_the_api_with() {
    let server = TestServer::start().await;
    let vignetim = server.tenant("vignetim").await;
    let simplifytrip = server.tenant("simplifytrip").await;
    let bring = |tenant: &str, public: &str, text: &str| {
        let new = json!({ "name": "old", "tenant": tenant, "publicId": public, "key": text });
        server.call("POST", "/v1/keys", new)
    };
    let made = bring(&vignetim, "partner-7", "the-secret-of-partner-7").await;
    assert_eq!(made.status, 201, "{made:?}");
    assert_eq!(made.json()["publicId"], "partner-7");
    // A signed request, as the partner's program makes it.
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
    let (timestamp, nonce) = (now.as_secs().to_string(), "n-1");
    let path = "/v2/partners/webhooks";
    let signature = hmac(
        "the-secret-of-partner-7",
        format!("{timestamp}.{nonce}.GET.{path}."),
    );
    let headers = [
        ("x-api-key", "partner-7"),
        ("x-timestamp", timestamp.as_str()),
        ("x-nonce", nonce),
        ("x-signature", &signature),
    ];
    let listed = http(server.address, "GET", path, &headers, "").await;
    assert_eq!(listed.status, 200, "{listed:?}");
    let made = bring(&simplifytrip, "pk_live_old", "sk_live_of_the_old_system");
    let made = made.await;
    assert_eq!(made.status, 201, "{made:?}");
    let own = format!("/v1/keys/{}", id(&made.json()));
    let read = server
        .call_as("sk_live_of_the_old_system", "GET", &own, Value::Null)
        .await;
    assert_eq!(read.status, 200, "{read:?}");

    // One is one customer's, whoever brings it again.
    let again = bring(&vignetim, "partner-7", "another-secret-of-somebody").await;
    assert_eq!(again.code(), "name_taken");
    let again = bring(&vignetim, "partner-8", "the-secret-of-partner-7").await;
    assert_eq!(again.code(), "name_taken");
    let weak = bring(&vignetim, "partner-9", "short").await;
    assert_eq!(weak.json()["field"], "key", "{weak:?}");
    let half = json!({ "name": "half", "tenant": vignetim, "publicId": "partner-9" });
    let half = server.call("POST", "/v1/keys", half).await;
    assert_eq!(half.json()["field"], "key", "{half:?}");
}

/// What a product may, its customers may not, under a profile whose documentation gives them no such thing.
#[tokio::test]
async fn customers_bring_no_secret_where_their_system_has_no_such_thing() {
    let server = TestServer::start().await;
    let tenant = server.tenant("vignetim").await;
    let key = json!({ "name": "own", "tenant": tenant });
    let key = server.good("POST", "/v1/keys", key).await;
    let key = key["key"].as_str().unwrap();
    let path = format!("/v1/tenants/{tenant}/endpoints");
    let url = "http://127.0.0.1:9/";
    let new = json!({ "url": url, "secret": "whs_my_own" });
    let refused = server.call_as(key, "POST", &path, new).await;
    assert_eq!(refused.json()["field"], "secret", "{refused:?}");
    let made = server
        .call_as(key, "POST", &path, json!({ "url": url }))
        .await;
    let endpoint = format!("/v1/endpoints/{}", id(&made.json()));
    let change = json!({ "secret": "whs_my_own" });
    let refused = server.call_as(key, "PATCH", &endpoint, change).await;
    assert_eq!(refused.json()["field"], "secret", "{refused:?}");
    let project = server.tenant("voucherify").await;
    let new = json!({ "url": url, "secret": "of one endpoint" });
    let path = format!("/v1/tenants/{project}/endpoints");
    let refused = server.call("POST", &path, new).await;
    assert_eq!(refused.json()["field"], "secret", "{refused:?}");
    let application = server.application("another", "vignetim").await;
    let path = format!("/v1/applications/{application}/tenants");
    let new = json!({ "name": "t", "secret": "of all endpoints" });
    let refused = server.call("POST", &path, new).await;
    assert_eq!(refused.json()["field"], "secret", "{refused:?}");
}
