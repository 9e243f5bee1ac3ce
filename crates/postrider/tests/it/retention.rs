//! What ended long ago is forgotten, by the server itself and by hand; what waits is not.

use std::path::PathBuf;
use std::process::Stdio;

use postrider_testkit::{Behaviour, Receiver};
use serde_json::{Value, json};

use crate::binary::{
    Process, by_clock, call, endpoint, greeted, output, postrider, publish, tenant, text, until,
};
use crate::support::http;

/// A data directory, and a clock that can be set.
struct Place {
    directory: tempfile::TempDir,
    data: PathBuf,
    clock: PathBuf,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let place = Self {
            data: directory.path().join("data"),
            clock: directory.path().join("clock"),
            directory,
        };
        place.set("+0");
        place
    }

    /// How far the clock is ahead.
    fn set(&self, offset: &str) {
        std::fs::write(&self.clock, offset).unwrap();
    }

    /// A server by that clock, with a round every second.
    fn serve(&self, is_first: bool) -> Process {
        self.serve_with(is_first, &[])
    }

    fn serve_with(&self, is_first: bool, variables: &[(&str, &str)]) -> Process {
        let child = by_clock(postrider(), &self.clock)
            .args(["serve", "--dev", "--listen", "127.0.0.1:0", "--data"])
            .arg(&self.data)
            .env("POSTRIDER__RETENTION__EVERY_SECS", "1")
            .envs(variables.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        greeted(child, is_first)
    }
}

/// Without it everything would be old by the server's clock, and that clock not be believed.
async fn publish_to_nobody(process: &Process, root: &str) {
    let name = format!("nobody-{}", fastrand::u64(..));
    let application = json!({ "name": name, "profile": "standard" });
    let application = call(process, root, "POST", "/v1/applications", application).await;
    let path = format!(
        "/v1/applications/{}/tenants",
        application["id"].as_str().unwrap()
    );
    let made = call(process, root, "POST", &path, json!({ "name": "nobody" })).await;
    publish(process, root, made["id"].as_str().unwrap()).await;
}

fn rows(page: &Value) -> Vec<&str> {
    let rows = page["data"].as_array().unwrap();
    rows.iter().map(|row| row["id"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_ended_ninety_days_ago_is_forgotten_and_what_waits_is_kept() {
    let place = Place::new();
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let silent = Receiver::start(Behaviour::Hang).await;
    let process = place.serve(true);
    let root = process.root.clone().unwrap();
    let tenant = tenant(&process, &root, "standard").await;
    endpoint(&process, &root, &tenant, &receiver.url("/")).await;
    let old = publish(&process, &root, &tenant).await;
    let delivered = format!("/v1/deliveries?tenant={tenant}&status=delivered");
    until(&process, &root, &delivered, |page| rows(page).len() == 1).await;
    endpoint(&process, &root, &tenant, &silent.url("/")).await;
    let half = publish(&process, &root, &tenant).await;
    until(&process, &root, &delivered, |page| rows(page).len() == 2).await;
    silent.wait_for(1).await;
    let statistics =
        format!("/v1/tenants/{tenant}/statistics?since=2020-01-01T00:00:00Z&period=366d");
    let total = |statistics: &Value| statistics["totals"]["total"].as_u64().unwrap();
    let before = call(&process, &root, "GET", &statistics, Value::Null).await;
    assert_eq!(total(&before), 3, "{before}");

    place.set("+89d");
    let event = |event: &Value| format!("/v1/events/{}", event["id"].as_str().unwrap());
    // One that ends now shows that rounds went by: it is not old, and neither are the others.
    let young = publish(&process, &root, &tenant).await;
    until(&process, &root, &delivered, |page| rows(page).len() == 3).await;
    place.set("+91d");
    until(&process, &root, &delivered, |page| rows(page).len() == 2).await;
    // An event of which something waits stays whole.
    let all = format!("/v1/deliveries?tenant={tenant}");
    let left = call(&process, &root, "GET", &all, Value::Null).await;
    let of = |event: &Value| {
        let rows = left["data"].as_array().unwrap();
        rows.iter()
            .filter(|row| row["event"] == event["id"])
            .count()
    };
    assert_eq!((of(&old), of(&half), of(&young)), (0, 2, 2), "{left}");
    let after = call(&process, &root, "GET", &statistics, Value::Null).await;
    assert_eq!(total(&after), 4, "{after}");
    call(&process, &root, "GET", &event(&half), Value::Null).await;
    let bearer = format!("Bearer {root}");
    let headers = [("authorization", bearer.as_str())];
    let gone = http(process.address, "GET", &event(&old), &headers, "").await;
    assert_eq!(gone.status, 404, "{gone:?}");
    let audit = call(&process, &root, "GET", "/v1/audit", Value::Null).await;
    assert!(rows(&audit).len() >= 4, "kept for a year: {audit}");
    place.set("+500d");
    // Everything is old by this clock: it is not believed before something new has come.
    publish(&process, &root, &tenant).await;
    until(&process, &root, "/v1/audit", |page| rows(page).is_empty()).await;
}

/// As long as more is stored than may be; but nothing that somebody may be looking at, and nothing of who has a time of
/// their own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_more_than_may_be_stored_the_oldest_goes_early() {
    let place = Place::new();
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let process = place.serve_with(true, &[("POSTRIDER__RETENTION__MAX_BYTES", "1")]);
    let root = process.root.clone().unwrap();
    let mut all = Vec::new();
    for (profile, settings) in [
        ("standard", json!({})),
        ("vignetim", json!({ "retentionDays": 30 })),
    ] {
        let tenant = tenant(&process, &root, profile).await;
        let path = format!("/v1/tenants/{tenant}");
        let made = call(&process, &root, "GET", &path, Value::Null).await;
        let path = format!("/v1/applications/{}", made["application"].as_str().unwrap());
        call(
            &process,
            &root,
            "PATCH",
            &path,
            json!({ "settings": settings }),
        )
        .await;
        endpoint(&process, &root, &tenant, &receiver.url("/")).await;
        all.push(tenant);
    }
    let order = json!({ "type": "order.completed", "data": { "orderId": "1" } });
    let publish = async |tenant: &str| {
        let path = format!("/v1/tenants/{tenant}/events");
        call(&process, &root, "POST", &path, order.clone()).await
    };
    for tenant in &all {
        publish(tenant).await;
    }
    receiver.wait_for(2).await;
    let delivered = |tenant: &str, count: usize| {
        (
            format!("/v1/deliveries?tenant={tenant}&status=delivered"),
            count,
        )
    };
    for tenant in &all {
        let (path, count) = delivered(tenant, 1);
        until(&process, &root, &path, |page| rows(page).len() == count).await;
    }
    // What is younger than a day stays, though rounds go by.
    place.set("+23h");
    publish(&all[0]).await;
    let (path, count) = delivered(&all[0], 2);
    until(&process, &root, &path, |page| rows(page).len() == count).await;
    place.set("+25h");
    let (path, count) = delivered(&all[0], 1);
    until(&process, &root, &path, |page| rows(page).len() == count).await;
    let (path, count) = delivered(&all[1], 1);
    let kept = call(&process, &root, "GET", &path, Value::Null).await;
    assert_eq!(rows(&kept).len(), count, "it has thirty days: {kept}");
}

/// Whatever a browser keeps: somebody else may have its cookie.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_came_in_is_out_after_their_time_and_links_open_nothing_any_more() {
    let place = Place::new();
    let process = place.serve(true);
    let root = process.root.clone().unwrap();
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let key = format!("key={root}");
    let came = http(process.address, "POST", "/sign-in", &form, key).await;
    assert_eq!(came.status, 303, "{came:?}");
    let cookie = came.headers["set-cookie"].split(';').next().unwrap();
    let visit = async || {
        let headers = [("cookie", cookie), ("accept", "text/html")];
        http(process.address, "GET", "/", &headers, "").await.status
    };
    let user = json!({ "name": "ada", "role": "viewer" });
    let user = call(&process, &root, "POST", "/v1/users", user).await;
    let link = user["url"].as_str().unwrap();
    let path = crate::pages::browser::path_of(link);
    let open = async || {
        let headers = [("accept", "text/html")];
        http(process.address, "GET", &path, &headers, "")
            .await
            .status
    };
    for (clock, visited, opened) in [
        ("+11h", 200, 200),
        ("+13h", 303, 200),
        ("+71h", 303, 200),
        ("+73h", 303, 404),
    ] {
        place.set(clock);
        assert_eq!((visit().await, open().await), (visited, opened), "{clock}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_application_keeps_its_own_for_as_long_as_the_operator_says() {
    let place = Place::new();
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let process = place.serve(true);
    let root = process.root.clone().unwrap();
    let mut tenants = Vec::new();
    for profile in ["standard", "vignetim"] {
        let tenant = tenant(&process, &root, profile).await;
        endpoint(&process, &root, &tenant, &receiver.url("/")).await;
        tenants.push(tenant);
    }
    let applications = call(&process, &root, "GET", "/v1/applications", Value::Null).await;
    let application = applications["data"].as_array().unwrap();
    let application = application
        .iter()
        .find(|one| one["name"] == "standard")
        .unwrap();
    let path = format!("/v1/applications/{}", application["id"].as_str().unwrap());
    let days = |days: Value| json!({ "settings": { "retentionDays": days } });
    for impossible in [json!(0), json!(3_651), json!("90")] {
        let bearer = format!("Bearer {root}");
        let headers = [
            ("authorization", bearer.as_str()),
            ("content-type", "application/json"),
        ];
        let body = days(impossible).to_string();
        let refused = http(process.address, "PATCH", &path, &headers, body).await;
        assert_eq!(refused.status, 400, "{refused:?}");
        assert!(
            refused.json().to_string().contains("retentionDays"),
            "{refused:?}"
        );
    }
    call(&process, &root, "PATCH", &path, days(json!(200))).await;
    let key = json!({ "name": "product", "application": application["id"] });
    let key = call(&process, &root, "POST", "/v1/keys", key).await;
    let bearer = format!("Bearer {}", key["key"].as_str().unwrap());
    let headers = [
        ("authorization", bearer.as_str()),
        ("content-type", "application/json"),
    ];
    let body = days(json!(9)).to_string();
    let refused = http(process.address, "PATCH", &path, &headers, body).await;
    assert_eq!(
        refused.status, 403,
        "the disk is the operator's: {refused:?}"
    );

    for tenant in &tenants {
        let path = format!("/v1/tenants/{tenant}/events");
        let event = json!({ "type": "order.completed", "data": { "orderId": "1" } });
        call(&process, &root, "POST", &path, event).await;
    }
    receiver.wait_for(2).await;
    let of = |tenant: &str| format!("/v1/deliveries?tenant={tenant}&status=delivered");
    for tenant in &tenants {
        until(&process, &root, &of(tenant), |page| rows(page).len() == 1).await;
    }
    place.set("+91d");
    publish_to_nobody(&process, &root).await;
    until(&process, &root, &of(&tenants[1]), |page| {
        rows(page).is_empty()
    })
    .await;
    let kept = call(&process, &root, "GET", &of(&tenants[0]), Value::Null).await;
    assert_eq!(rows(&kept).len(), 1, "{kept}");
    place.set("+201d");
    publish_to_nobody(&process, &root).await;
    until(&process, &root, &of(&tenants[0]), |page| {
        rows(page).is_empty()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_would_go_can_be_counted_and_made_to_go_by_hand() {
    let place = Place::new();
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let process = place.serve(true);
    let root = process.root.clone().unwrap();
    let tenant = tenant(&process, &root, "standard").await;
    endpoint(&process, &root, &tenant, &receiver.url("/")).await;
    for _ in 0..3 {
        publish(&process, &root, &tenant).await;
    }
    let delivered = format!("/v1/deliveries?tenant={tenant}&status=delivered");
    until(&process, &root, &delivered, |page| rows(page).len() == 3).await;
    // Its own clock is ahead; the server's is not.
    let later = place.directory.path().join("later");
    std::fs::write(&later, "+91d").unwrap();
    let prune = |flags: &[&str]| {
        let mut command = by_clock(postrider(), &later);
        command
            .arg("prune")
            .args(flags)
            .arg("--data")
            .arg(&place.data);
        output(&mut command)
    };
    let planned = prune(&["--plan"]);
    assert!(
        text(&planned.stdout).starts_with("3 events, 3 deliveries,"),
        "{planned:?}"
    );
    let refused = prune(&[]);
    assert!(!refused.status.success());
    assert!(text(&refused.stderr).contains("in use"), "{refused:?}");
    drop(process);
    let pruned = prune(&["--vacuum"]);
    let told = text(&pruned.stdout);
    assert!(
        told.starts_with("3 events, 3 deliveries,") && told.contains("are gone"),
        "{pruned:?}"
    );
    let planned = prune(&["--plan"]);
    assert!(
        text(&planned.stdout).starts_with("0 events, 0 deliveries,"),
        "{planned:?}"
    );
    let process = place.serve(false);
    let left = call(&process, &root, "GET", &delivered, Value::Null).await;
    assert_eq!(rows(&left).len(), 0, "{left}");
}
