//! `postrider demo`: the whole thing at work, on a server and receivers of its own.
//!
//! Nothing is staged: the server is the one that `serve` runs, the requests are real HTTPS to a
//! receiver whose certificate is signed by a CA made for this run, and every line is printed when
//! its request arrives, after its signature was verified as the profile's receivers verify it.

mod stage;

use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::client::Client;
use stage::{Part, Stage, say};

/// The sample of Vignetim's documentation.
const ORDER_COMPLETED: &str = r#"{"orderId":"ord-a1b2c3d4-e5f6-7890-abcd-ef1234567890","status":"COMPLETED","externalReference":"YOUR-ORDER-REF-001","products":[{"productId":"a1b2c3d4-e5f6-7890-abcd-ef1234567890","productTypeId":1,"status":"COMPLETED"}],"total":{"amount":11.5,"currency":"EUR"},"completedAt":"2026-03-20T14:31:15.000Z"}"#;
/// Failed deliveries in a row after which Vignetim disables an endpoint.
const FAILURES_TO_DISABLE: usize = 10;
/// The longest the demo waits for what it shows.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs the demo; with `stay`, its server and receivers go on until Ctrl-C.
///
/// # Errors
/// When the demo cannot start, or what it shows does not happen.
pub async fn run(stay: bool) -> anyhow::Result<()> {
    let stage = Stage::set().await?;
    let client = stage.client()?;
    say(&format!(
        "Server on {}, receiver on {}, everything temporary.\n",
        stage.server_url(),
        stage.receiver_url()
    ));
    say("1. Two products: one speaks as Vignetim does, one speaks Standard Webhooks.");
    let vignetim = tenant(&client, "travel", "vignetim").await?;
    let standard = tenant(&client, "shop", "standard").await?;
    let steady = stage
        .endpoint(
            &client,
            &vignetim,
            Part::new("steady", "vignetim", "order.completed"),
        )
        .await?;
    let recovers = stage
        .endpoint(
            &client,
            &vignetim,
            Part::new("recovers", "vignetim", "order.completed").answering(vec![500, 503, 500]),
        )
        .await?;
    stage
        .endpoint(
            &client,
            &standard,
            Part::new("shop", "standard", "invoice.*"),
        )
        .await?;
    say(
        "   endpoints: /steady answers 200, /recovers fails three times first, /shop is of the other product\n",
    );

    say(
        "2. Vignetim's order.completed goes to /steady and /recovers; retries are due at once, after 1 s, after 5 s.",
    );
    publish(&client, &vignetim, "order.completed", ORDER_COMPLETED).await?;
    publish(
        &client,
        &standard,
        "invoice.paid",
        r#"{"invoice": "in_1", "amount": 12.50}"#,
    )
    .await?;
    settled(&client, &recovers).await?;
    let delivery = last_delivery(&client, &recovers).await?;
    say("   The record of that delivery:");
    stage::print_attempts(&delivery);
    anyhow::ensure!(
        delivery["status"] == "delivered",
        "the delivery to /recovers did not succeed: {delivery}"
    );

    say(&format!(
        "\n3. /dead never answers 2xx: after {FAILURES_TO_DISABLE} failed deliveries in a row it is disabled."
    ));
    let dead = stage
        .endpoint(
            &client,
            &vignetim,
            Part::new("dead", "vignetim", "order.failed").answering(vec![503; 1_000]),
        )
        .await?;
    for _ in 0..FAILURES_TO_DISABLE {
        publish(
            &client,
            &vignetim,
            "order.failed",
            r#"{"orderId":"ord-2","status":"FAILED"}"#,
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

    say("\n4. A customer fixed a bug and wants the first event once more: one call.");
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
        ],
    )
    .await?;
    if stay {
        stage.invite(&vignetim, &id);
        tokio::signal::ctrl_c().await?;
    } else {
        say(
            "\nNext: `postrider demo --stay` keeps all this running to play with; `postrider serve --dev` starts your own server.",
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

async fn publish(
    client: &Client,
    tenant: &str,
    event_type: &str,
    data: &str,
) -> anyhow::Result<()> {
    let body = format!(r#"{{"type":"{event_type}","data":{data}}}"#);
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
