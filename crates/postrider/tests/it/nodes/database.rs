//! What a database does to the nodes that have it: it goes away, is replaced, refuses, changes.

use std::process::Stdio;
use std::sync::atomic::Ordering;
use std::time::Duration;

use postrider_testkit::Postgres;
use serde_json::Value;
use tokio::task::JoinSet;

use super::{Load, Nodes, all_arrived, following, ordered, root_of, signal};
use crate::binary::{call, greeted, postrider};
use crate::support::http;

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_failover_to_a_synchronous_standby_loses_nothing_that_was_acknowledged() {
    let mut primary = Postgres::start();
    let url = primary.database();
    let mut standby = primary.standby();
    let set = |server: &Postgres, names: &str| {
        let set = format!("alter system set synchronous_standby_names = '{names}'");
        assert!(server.execute(&url, &set) && server.execute(&url, "select pg_reload_conf()"));
    };
    let both = primary.url_with(&standby, &url);
    let directory = tempfile::tempdir().unwrap();
    let started = || {
        let mut command = postrider();
        command
            .args(["serve", "--dev", "--listen", "127.0.0.1:0", "--data"])
            .arg(directory.path())
            .env("POSTRIDER__STORE__URL", &both)
            .env("POSTRIDER__STORE__REQUIRE_SYNC_STANDBY", "true");
        command
    };
    // Without a standby that the database waits for it does not even start.
    let refused = crate::binary::output(&mut started());
    let told = crate::binary::text(&refused.stderr);
    assert!(
        !refused.status.success() && told.contains("set synchronous_standby_names"),
        "{told}"
    );
    set(&primary, "*");
    let child = started()
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let node = greeted(child, true);
    let root = root_of(&node);
    let (customer, receiver) = ordered(&node, &root).await;
    let load = Load::start(vec![node.address], root.clone(), customer.clone());
    load.until(100).await;
    // Somebody takes the standby out of the configuration: nothing is accepted until it is in again.
    set(&primary, "");
    let address = node.address;
    let ready = |wanted: u16| async move {
        let mut looks = 0;
        while http(address, "GET", "/ready", &[], "").await.status != wanted {
            looks += 1;
            assert!(looks < 600, "it does not become {wanted}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    ready(503).await;
    set(&primary, "*");
    ready(200).await;
    load.until(50).await;
    primary.crash();
    standby.promote();
    // It has no standby of its own yet.
    ready(503).await;
    let next = standby.standby();
    set(&standby, "*");
    ready(200).await;
    load.until(50).await;
    let events = load.end().await;
    all_arrived(&node, &root, &customer, &receiver, &events).await;
    drop(next);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_database_that_starts_again_changes_nothing_of_who_leads() {
    let mut server = Postgres::start();
    let nodes = Nodes {
        directory: tempfile::tempdir().unwrap(),
        url: server.database(),
    };
    let (mut a, root, b) = nodes.pair().await;
    let (customer, receiver) = ordered(&b, &root).await;
    let load = Load::start(vec![a.address, b.address], root.clone(), customer.clone());
    load.until(50).await;
    server.crash();
    let (mut looks, mut asked) = (0, 200);
    while asked != 503 {
        asked = http(b.address, "GET", "/ready", &[], "").await.status;
        looks += 1;
        assert!(looks < 6_000, "nobody notices");
    }
    server.start_again();
    load.until(50).await;
    let events = load.end().await;
    all_arrived(&b, &root, &customer, &receiver, &events).await;
    let leads = call(&b, &root, "GET", "/v1/nodes", Value::Null).await;
    assert_eq!(leads["leader"], format!("http://{}/", a.address));
    assert!(a.child.try_wait().unwrap().is_none(), "it goes on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn every_connection_to_the_database_can_be_cut_under_load() {
    let nodes = Nodes::new();
    let (mut a, root, b) = nodes.pair().await;
    let (customer, receiver) = ordered(&b, &root).await;
    let load = Load::start(vec![a.address, b.address], root.clone(), customer.clone());
    let cut = "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'postrider' and datname = current_database()";
    for _ in 0..5 {
        load.until(20).await;
        assert!(Postgres::shared().execute(&nodes.url, cut));
    }
    load.until(20).await;
    let events = load.end().await;
    all_arrived(&b, &root, &customer, &receiver, &events).await;
    assert!(a.child.try_wait().unwrap().is_none(), "it leads on");
}

/// A pooler, or an administrator, may give a server no more connections than it has, and then not even those.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_database_that_gives_no_more_connections_loses_nothing() {
    let database = Postgres::shared().database();
    let name = database.rsplit('/').next().unwrap();
    let role = format!("app_{name}");
    let execute = |sql: &str| assert!(Postgres::shared().execute(&database, sql), "{sql}");
    execute(&format!(
        "create role {role} login; alter database {name} owner to {role}"
    ));
    let nodes = Nodes {
        directory: tempfile::tempdir().unwrap(),
        url: database.replace("postgres://postgres@", &format!("postgres://{role}@")),
    };
    let a = nodes.start("a");
    let root = root_of(&a);
    let (customer, receiver) = ordered(&a, &root).await;
    let load = Load::start(vec![a.address], root.clone(), customer.clone());
    load.until(50).await;
    // What it has stays; whoever would need one more is told, and nobody waits for it.
    execute(&format!("alter role {role} connection limit 1"));
    let mut lists = JoinSet::new();
    for _ in 0..40 {
        let bearer = format!("Bearer {root}");
        let path = format!("/v1/deliveries?tenant={customer}");
        let address = a.address;
        lists.spawn(async move {
            let headers = [("authorization", bearer.as_str())];
            http(address, "GET", &path, &headers, "").await.status
        });
    }
    let statuses = lists.join_all().await;
    let known = |status: &u16| matches!(status, 200 | 503);
    assert!(statuses.iter().all(known), "{statuses:?}");
    load.until(50).await;
    execute(&format!(
        "alter role {role} connection limit 0; select pg_terminate_backend(pid) from pg_stat_activity where usename = '{role}'"
    ));
    let (mut looks, mut ready) = (0, 200);
    while ready != 503 {
        ready = http(a.address, "GET", "/ready", &[], "").await.status;
        looks += 1;
        assert!(looks < 6_000, "nobody notices");
    }
    execute(&format!("alter role {role} connection limit -1"));
    load.until(50).await;
    let events = load.end().await;
    all_arrived(&a, &root, &customer, &receiver, &events).await;
}

/// The nodes of a version are replaced one after the other by those of the next, which has more tables.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn the_schema_is_brought_on_by_a_rolling_upgrade_under_load() {
    let nodes = Nodes::new();
    let mut a = nodes.start("a");
    let root = root_of(&a);
    let c = nodes.start("c");
    following(&a, &root, 1).await;
    let execute = |sql: &str| assert!(Postgres::shared().execute(&nodes.url, sql), "{sql}");
    // As the version before had left it: with the last migration taken back.
    execute(
        "set search_path = postrider;
         drop index outbox_turns;
         update meta set value = value - 1 where key = 'schema'",
    );
    let (customer, receiver) = ordered(&a, &root).await;
    let load = Load::start(vec![c.address], root.clone(), customer.clone());
    load.until(50).await;
    signal(&a, "-TERM");
    assert!(a.child.wait().unwrap().success());
    load.until(50).await;
    let _b = nodes.start("b");
    following(&c, &root, 1).await;
    load.until(50).await;
    assert_eq!(load.refused.load(Ordering::Relaxed), 0);
    execute(
        "do $$ begin
           if not exists (select from pg_indexes where indexname = 'outbox_turns') then
             raise exception 'the migration was not made';
           end if;
         end $$",
    );
    let events = load.end().await;
    let twice = all_arrived(&c, &root, &customer, &receiver, &events).await;
    assert_eq!(twice, 0, "who goes brings to its end what is under way");
}
