//! `postrider demo`: the whole thing at work, on a server and receivers of its own.
//!
//! Nothing is staged: the server is the one that `serve` runs, the requests are real HTTPS to a
//! receiver whose certificate is signed by a CA made for this run, and every line is printed when
//! its request arrives, after its signature was verified as the profile's receivers verify it.

mod stage;
mod verify;

use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::client::Client;
use crate::interrupt::Interrupt;
use postrider_core::Secret;
use stage::{Stage, say};
use verify::Method;

/// The sample of Vignetim's documentation.
const ORDER_COMPLETED: &str = r#"{"orderId":"ord-a1b2c3d4-e5f6-7890-abcd-ef1234567890","status":"COMPLETED","externalReference":"YOUR-ORDER-REF-001","products":[{"productId":"a1b2c3d4-e5f6-7890-abcd-ef1234567890","productTypeId":1,"status":"COMPLETED"}],"total":{"amount":11.5,"currency":"EUR"},"completedAt":"2026-03-20T14:31:15.000Z"}"#;
/// The event type and a shortened sample of SimplifyTrip's.
const ESIM_EVENT: &str = "PURCHASE_ORDER_SUCCESS";
const ESIM_ORDER: &str = r#"{"orderId":"3248417841","status":"SUCCESS","items":[{"sku":"EAS5XY01GB04DPY","quantity":1,"status":"SUCCESS","eSims":[{"iccid":"89812003916820391469"}]}]}"#;
/// Failed deliveries in a row after which Vignetim disables an endpoint.
const FAILURES_TO_DISABLE: usize = 10;
/// The longest the demo waits for what it shows.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs the demo; with `stay`, its server and receivers go on until Ctrl-C.
///
/// # Errors
/// When the demo cannot start, or what it shows does not happen.
#[expect(clippy::too_many_lines, reason = "a story, told in its order")]
pub async fn run(stay: bool) -> anyhow::Result<()> {
    let stage = Stage::set().await?;
    let client = stage.client()?;
    say(&format!(
        "Server on {}, receiver on {}, everything temporary.\n",
        stage.server_url(),
        stage.receiver_url()
    ));
    say(
        "1. One server, three systems that exist, and beside them the open Standard Webhooks specification.",
    );
    let vignetim = tenant(&client, "travel", "vignetim").await?;
    let simplifytrip = tenant(&client, "trips", "simplifytrip").await?;
    let voucherify = tenant(&client, "vouchers", "voucherify").await?;
    let standard = tenant(&client, "shop", "standard").await?;
    let (any, all) = (Vec::new(), "order.completed");
    let steady = stage
        .endpoint(
            &client,
            &vignetim,
            "steady",
            Method::Vignetim,
            all,
            any.clone(),
        )
        .await?;
    let failing = vec![500, 503, 500];
    let recovers = stage
        .endpoint(
            &client,
            &vignetim,
            "recovers",
            Method::Vignetim,
            all,
            failing,
        )
        .await?;
    let standard_webhooks = Method::StandardWebhooks;
    stage
        .endpoint(
            &client,
            &standard,
            "shop",
            standard_webhooks,
            "invoice.*",
            any.clone(),
        )
        .await?;
    say(&format!(
        "   Every receiver verifies as its vendor's page says. Vignetim's schedule runs in real time; SimplifyTrip's
   5 minutes are {} s here, and Voucherify's minute is {} ms, so that its 24 hours are {:.1} s.\n",
        stage::FIVE_MINUTES.as_secs(),
        stage::MINUTE.as_millis(),
        (stage::MINUTE * 1_440).as_secs_f64()
    ));

    say(
        "2. Vignetim's order.completed goes to /steady and /recovers; retries are due at once, after 1 s, after 5 s.",
    );
    publish(&client, &vignetim, all, ORDER_COMPLETED, json!({})).await?;
    let invoice = r#"{"invoice": "in_1", "amount": 12.50}"#;
    publish(&client, &standard, "invoice.paid", invoice, json!({})).await?;
    settled(&client, &recovers).await?;
    let delivery = last_delivery(&client, &recovers).await?;
    say("   The record of that delivery:");
    stage::print_attempts(&delivery);
    anyhow::ensure!(
        delivery["status"] == "delivered",
        "the delivery to /recovers did not succeed: {delivery}"
    );

    say(
        "\n3. SimplifyTrip: an API key owns an endpoint. What fails is tried three more times; a 4xx stops at once.",
    );
    let trips = simplify_trip(&stage, &client, &simplifytrip).await?;

    say(
        "\n4. Voucherify: a distribution whose receiver never answers 2XX gets 13 requests in 24 hours, and is paused.",
    );
    let distribution = distribution(&stage, &client, &voucherify).await?;

    say(&format!(
        "\n5. /dead never answers 2xx: after {FAILURES_TO_DISABLE} failed deliveries in a row it is disabled."
    ));
    let failing = vec![503; 1_000];
    let dead = stage
        .endpoint(
            &client,
            &vignetim,
            "dead",
            Method::Vignetim,
            "order.failed",
            failing,
        )
        .await?;
    for _ in 0..FAILURES_TO_DISABLE {
        publish(
            &client,
            &vignetim,
            "order.failed",
            r#"{"orderId":"ord-2","status":"FAILED"}"#,
            json!({}),
        )
        .await?;
    }
    let disabled = stage::eventually(PATIENCE, async || {
        let endpoint = client.get(&format!("/v1/endpoints/{dead}")).await?;
        Ok((endpoint["active"] == false).then_some(endpoint))
    });
    let disabled = disabled.await?.context("/dead was not disabled in time")?;
    say(&format!(
        "   /dead was disabled at {} (reason: {}, {} failures in a row)",
        disabled["disabledAt"].as_str().unwrap_or_default(),
        disabled["disabledReason"].as_str().unwrap_or_default(),
        disabled["consecutiveFailures"]
    ));

    say("\n6. A customer fixed a bug and wants the first event once more: one call.");
    let first = oldest_delivery(&client, &steady).await?;
    let id = first["id"].as_str().unwrap_or_default().to_owned();
    client
        .post(&format!("/v1/deliveries/{id}/resend"), &json!({}))
        .await?;
    settled(&client, &steady).await?;

    summary(
        &stage,
        &client,
        &[
            ("steady", &steady),
            ("recovers", &recovers),
            ("dead", &dead),
            ("trips", &trips),
            ("vouchers", &distribution),
        ],
    )
    .await?;
    if stay {
        let path = format!("/v1/tenants/{vignetim}/portal-links");
        let link = client
            .post(&path, &json!({ "name": "ada@example.com" }))
            .await?;
        let interrupt = Interrupt::listen()?;
        stage.invite(&vignetim, &id, link["url"].as_str().unwrap_or_default());
        interrupt.pressed().await;
    } else {
        say(
            "\nNext: `postrider demo --stay` keeps all this running, with links to its pages; `postrider serve --dev` starts your own server.",
        );
    }
    stage.clear().await;
    Ok(())
}

async fn tenant(client: &Client, name: &str, profile: &str) -> anyhow::Result<String> {
    let application = client
        .post(
            "/v1/applications",
            &json!({ "name": name, "profile": profile }),
        )
        .await?;
    let id = application["id"].as_str().unwrap_or_default();
    let tenant = client
        .post(
            &format!("/v1/applications/{id}/tenants"),
            &json!({ "name": format!("a customer of {name}") }),
        )
        .await?;
    Ok(tenant["id"].as_str().unwrap_or_default().to_owned())
}

/// SimplifyTrip's four requests, a 4xx that stops, and the resend by hand. Returns the endpoint.
async fn simplify_trip(stage: &Stage, client: &Client, tenant: &str) -> anyhow::Result<String> {
    let new = json!({ "name": "agency", "tenant": tenant, "mode": "test", "webhook": stage.url("trips") });
    let key = client.post("/v1/keys", &new).await?;
    let text = |name: &str| key[name].as_str().unwrap_or_default().to_owned();
    let (endpoint, public) = (text("endpoint"), text("publicId"));
    say(&format!("   API key {public}, its webhook is /trips"));
    let secret = Secret::new(text("secret"));
    stage.play(
        "trips",
        Method::SimplifyTrip,
        secret,
        vec![500, 502, 503, 200, 400],
    );
    let to = json!({ "key": public });
    publish(client, tenant, ESIM_EVENT, ESIM_ORDER, to.clone()).await?;
    settled(client, &endpoint).await?;
    publish(client, tenant, ESIM_EVENT, ESIM_ORDER, to).await?;
    settled(client, &endpoint).await?;
    let stopped = last_delivery(client, &endpoint).await?;
    say(&format!(
        "   The second one is {} ({}), after one request. By hand, once more: the same id, a fresh sentDate.",
        stopped["status"].as_str().unwrap_or_default(),
        stopped["reason"].as_str().unwrap_or_default()
    ));
    let id = stopped["id"].as_str().unwrap_or_default();
    client
        .post(&format!("/v1/deliveries/{id}/resend"), &json!({}))
        .await?;
    settled(client, &endpoint).await?;
    let resent = last_delivery(client, &endpoint).await?;
    anyhow::ensure!(
        resent["status"] == "delivered",
        "the resend failed: {resent}"
    );
    Ok(endpoint)
}

/// Voucherify's thirteen requests and the pause. Returns the distribution.
async fn distribution(stage: &Stage, client: &Client, tenant: &str) -> anyhow::Result<String> {
    let secret = client.get(&format!("/v1/tenants/{tenant}/secret")).await?;
    let secret = Secret::new(secret["secret"].as_str().unwrap_or_default());
    stage.play("vouchers", Method::Voucherify, secret, vec![410; 13]);
    let payload = json!({ "fields": [{ "from": "voucher.code", "to": "code" }] });
    let new = json!({ "name": "Welcome", "eventName": "Voucher-sent", "url": stage.url("vouchers"),
                      "events": ["customer.rewarded"], "payload": payload });
    let made = client
        .post(&format!("/v1/tenants/{tenant}/distributions"), &new)
        .await?;
    let id = made["id"].as_str().unwrap_or_default().to_owned();
    let to = json!({ "distribution": made["wireId"] });
    let data = r#"{"voucher":{"code":"WELCOME-7"},"customer":{"id":"cust_1"}}"#;
    publish(client, tenant, "customer.rewarded", data, to).await?;
    let path = format!("/v1/distributions/{id}");
    let paused = stage::eventually(PATIENCE, async || {
        let view = client.get(&path).await?;
        Ok((view["status"] == "paused").then_some(view))
    });
    let paused = paused
        .await?
        .context("the distribution was not paused in time")?;
    let delivery = last_delivery(client, &id).await?;
    let attempts = &delivery["attemptsMade"];
    anyhow::ensure!(*attempts == 13, "{attempts} requests instead of 13");
    say(&format!(
        "   {} is {} ({}) after {attempts} requests",
        paused["wireId"].as_str().unwrap_or_default(),
        paused["status"].as_str().unwrap_or_default(),
        paused["pausedReason"].as_str().unwrap_or_default()
    ));
    Ok(id)
}

/// Publishes an event; `address` says whom it is for.
async fn publish(
    client: &Client,
    tenant: &str,
    event_type: &str,
    data: &str,
    address: Value,
) -> anyhow::Result<()> {
    let address: String = address
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, value)| format!(r#","{name}":{value}"#))
        .collect();
    // As text: `data` goes out as it is written above.
    let body = format!(r#"{{"type":"{event_type}","data":{data}{address}}}"#);
    client
        .call(
            http::Method::POST,
            &format!("/v1/tenants/{tenant}/events"),
            Some(body),
        )
        .await?;
    Ok(())
}

async fn deliveries(client: &Client, endpoint: &str) -> anyhow::Result<Vec<Value>> {
    let page = client
        .get(&format!("/v1/deliveries?endpoint={endpoint}&limit=250"))
        .await?;
    Ok(page["data"].as_array().cloned().unwrap_or_default())
}

/// Waits until nothing of an endpoint is pending.
async fn settled(client: &Client, endpoint: &str) -> anyhow::Result<()> {
    let idle = stage::eventually(PATIENCE, async || {
        let all = deliveries(client, endpoint).await?;
        Ok(
            (!all.is_empty() && all.iter().all(|delivery| delivery["status"] != "pending"))
                .then_some(()),
        )
    });
    idle.await?.context("a delivery did not end in time")
}

async fn last_delivery(client: &Client, endpoint: &str) -> anyhow::Result<Value> {
    let all = deliveries(client, endpoint).await?;
    let id = all
        .first()
        .and_then(|delivery| delivery["id"].as_str())
        .context("there is no delivery")?;
    client.get(&format!("/v1/deliveries/{id}")).await
}

async fn oldest_delivery(client: &Client, endpoint: &str) -> anyhow::Result<Value> {
    deliveries(client, endpoint)
        .await?
        .pop()
        .context("there is no delivery")
}

async fn summary(stage: &Stage, client: &Client, endpoints: &[(&str, &str)]) -> anyhow::Result<()> {
    say("\nSummary");
    for (name, id) in endpoints {
        let stats = client.get(&format!("/v1/endpoints/{id}/stats")).await?;
        say(&format!(
            "   /{name:<9} {:>3} delivered, {:>3} failed, {:>3} attempts",
            stats["delivered"].to_string(),
            stats["failed"].to_string(),
            stats["attempts"].to_string()
        ));
    }
    let (received, verified) = stage.counts();
    say(&format!(
        "   {received} requests received over HTTPS, {verified} signatures verified"
    ));
    anyhow::ensure!(
        received == verified,
        "{} signatures were not valid",
        received - verified
    );
    Ok(())
}
