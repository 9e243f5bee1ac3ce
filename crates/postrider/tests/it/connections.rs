//! Connections to the server that ask nothing: they cost others nothing.

use std::net::SocketAddr;
use std::time::Duration;

use postrider_testkit::{Behaviour, Receiver};
use serde_json::Value;

use crate::binary::{after, endpoint, publish, quiet, serving, tenant, until};
use crate::support::http;

/// Files that this process may have open, after it was given as many as there are for it.
fn files_max() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    let wanted = Rlimit {
        current: maximum,
        maximum,
    };
    setrlimit(Resource::Nofile, wanted).unwrap_or_default();
    // None is without a limit.
    let current = getrlimit(Resource::Nofile).current;
    current.map_or(usize::MAX, |most| {
        usize::try_from(most).unwrap_or(usize::MAX)
    })
}

/// Connections on which nothing is said; without those that did not come about.
async fn silent(address: SocketAddr, count: usize) -> Vec<tokio::net::TcpStream> {
    let mut opening = tokio::task::JoinSet::new();
    for _ in 0..count {
        let connect = tokio::net::TcpStream::connect(address);
        opening.spawn(tokio::time::timeout(Duration::from_secs(5), connect));
    }
    let opened = opening.join_all().await.into_iter();
    opened.filter_map(|stream| stream.ok()?.ok()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_say_nothing_leave_deliveries_the_descriptors_they_need() {
    let directory = tempfile::tempdir().unwrap();
    let mut few = after("ulimit -n 1024", &serving(directory.path()));
    let process = quiet(&mut few, true);
    let root = process.root.clone().unwrap();
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let tenant = tenant(&process, &root, "standard").await;
    endpoint(&process, &root, &tenant, &receiver.url("/")).await;
    // More than the server may open, where this process may; other tests need some too.
    let idle = silent(process.address, files_max().saturating_sub(256).min(1_100)).await;
    assert!(idle.len() > 512, "{}", idle.len());

    // On connections of its own, while the idle ones stay.
    let bearer = format!("Bearer {root}");
    let headers = [("authorization", bearer.as_str())];
    let metrics = http(process.address, "GET", "/metrics", &headers, "").await;
    let metrics = metrics.text;
    let of = |name: &str| -> usize {
        let start = format!("postrider_budget_{name}{{budget=\"connections\"}} ");
        let mut lines = metrics.lines();
        let value = lines.find_map(|line| line.strip_prefix(start.as_str()));
        value.unwrap().parse().unwrap()
    };
    assert!(of("max") < 512, "{}", of("max"));
    // About half, with those that it is giving up for the next.
    let share = of("max") / 4..=of("max") * 3 / 4;
    assert!(share.contains(&of("used")), "{}", of("used"));
    publish(&process, &root, &tenant).await;
    receiver.wait_for(1).await;
    let path = format!("/v1/deliveries?tenant={tenant}");
    let is_delivered = |page: &Value| page["data"][0]["status"] == "delivered";
    let page = until(&process, &root, &path, is_delivered).await;
    assert_eq!(page["data"][0]["attemptsMade"], 1, "{page}");
    drop(idle);
}
