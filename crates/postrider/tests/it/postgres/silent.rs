//! A way to the database on which nothing comes any more, and nothing says so.

use std::path::Path;
use std::time::Duration;

use postrider_testkit::{Behaviour, Postgres, Receiver};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

use super::{ask, node};
use crate::binary::{Process, endpoint, publish, serve, tenant};
use crate::support::http;

/// How long the server may take to see it, which is half a minute, and to be back.
const TIME_MAX: Duration = Duration::from_secs(90);

/// Stands before a database as a pooler does. What is connected when it is told to be silent stays so, and hears nothing more,
/// not even an end; who connects later is served.
fn proxy(socket: &Path, database: &Path) -> watch::Sender<()> {
    let listener = UnixListener::bind(socket).unwrap();
    let (silence, silent) = watch::channel(());
    let database = database.to_owned();
    #[expect(clippy::disallowed_methods, reason = "it ends with the test")]
    tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((client, _)) = listener.accept().await {
            let server = UnixStream::connect(&database).await.unwrap();
            let mut silent = silent.clone();
            silent.mark_unchanged();
            kept.push(tokio::spawn(async move {
                let (mut client, mut server) = (client, server);
                let copied = tokio::io::copy_bidirectional(&mut client, &mut server);
                tokio::select! {
                    _ = copied => {}
                    _ = silent.changed() => std::future::pending().await,
                }
            }));
        }
    });
    silence
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_way_to_the_database_that_is_silent_is_taken_anew() {
    let directory = tempfile::tempdir().unwrap();
    let direct = Postgres::shared().database();
    let file = ".s.PGSQL.5432";
    let server = Postgres::shared().directory().join(file);
    let silence = proxy(&directory.path().join(file), &server);
    let host = directory.path().to_str().unwrap().replace('/', "%2F");
    let name = direct.rsplit('/').next().unwrap();
    let url = format!("postgres://postgres@{host}/{name}");
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let process = serve(&node(directory.path(), "first", &url, None));
    let root = process.root.clone().unwrap();
    let customer = tenant(&process, &root, "standard").await;
    endpoint(&process, &root, &customer, &receiver.url("/")).await;
    publish(&process, &root, &customer).await;
    receiver.wait_for(1).await;
    look(&process, &root, &customer).await;
    silence.send_replace(());
    let gone = "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'postrider' and datname = current_database()";
    assert!(Postgres::shared().execute(&direct, gone));
    accepts_again(&process, &root, &customer).await;
    receiver.wait_for(2).await;
    // Nor does anybody wait for connections that were kept for the next question.
    let looked = tokio::time::timeout(TIME_MAX, look(&process, &root, &customer)).await;
    assert!(looked.is_ok(), "a list waits for a connection that is dead");
}

/// It cannot be asked either what the database does, which goes on later as if nothing had been: with the lock of whoever gave
/// up its connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_stands_still_for_long_has_its_server_again() {
    /// Longer than the server waits.
    const STANDS_STILL: Duration = Duration::from_secs(42);
    let directory = tempfile::tempdir().unwrap();
    let database = Postgres::start();
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let process = serve(&node(directory.path(), "first", &database.database(), None));
    let root = process.root.clone().unwrap();
    let customer = tenant(&process, &root, "standard").await;
    endpoint(&process, &root, &customer, &receiver.url("/")).await;
    database.stand_still(true);
    tokio::time::sleep(STANDS_STILL).await;
    database.stand_still(false);
    accepts_again(&process, &root, &customer).await;
    receiver.wait_for(1).await;
}

/// Many at once, so that several connections are used.
async fn look(process: &Process, root: &str, customer: &str) {
    let path = format!("/v1/deliveries?tenant={customer}");
    let (address, root) = (process.address, root.to_owned());
    let mut all = tokio::task::JoinSet::new();
    for _ in 0..32 {
        let (path, bearer) = (path.clone(), format!("Bearer {root}"));
        all.spawn(
            async move { http(address, "GET", &path, &[("authorization", &bearer)], "").await },
        );
    }
    while let Some(reply) = all.join_next().await {
        assert_eq!(reply.unwrap().status, 200);
    }
}

async fn accepts_again(process: &Process, root: &str, customer: &str) {
    let path = format!("/v1/tenants/{customer}/events");
    let event = r#"{"type":"a.b","data":1}"#;
    let accepted = async {
        loop {
            let (status, code) = ask(process, root, "POST", &path, event).await;
            if status < 300 {
                return;
            }
            // Whoever waited hears what everybody hears whose database is away.
            assert_eq!(status, 503, "{code}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    let accepted = tokio::time::timeout(TIME_MAX, accepted).await;
    assert!(accepted.is_ok(), "nothing is accepted any more");
}
