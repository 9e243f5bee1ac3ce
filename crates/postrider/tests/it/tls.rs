//! TLS by the server itself.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use postrider::client::Client;
use postrider_core::Secret;
use postrider_testkit::certificates::Authority;
use postrider_testkit::{Behaviour, Receiver};
use serde_json::{Value, json};

use crate::binary::{
    Process, call, endpoint, greeted, output, postrider, publish, serving, tenant, until,
};
use crate::process::{line_of, signal};
use crate::support::{TestServer, http};

/// Puts the authority's certificate and one for `localhost` with its key into files.
fn certify(directory: &Path, authority: &Authority) {
    let (certificate, key) = authority.certified("localhost");
    std::fs::write(directory.join("ca.pem"), &authority.pem).unwrap();
    std::fs::write(directory.join("certificate.pem"), certificate).unwrap();
    std::fs::write(directory.join("key.pem"), key).unwrap();
}

fn serving_tls(directory: &Path) -> Command {
    let mut command = serving(&directory.join("data"));
    for (name, file) in [("CERTIFICATE", "certificate.pem"), ("KEY", "key.pem")] {
        let variable = format!("POSTRIDER__SERVER__TLS__{name}");
        command.env(variable, directory.join(file));
    }
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A client that reaches the server by the name in its certificate.
fn client(process: &Process, key: &str, ca: &Path) -> Client {
    let url = format!("https://localhost:{}", process.address.port());
    let client = Client::new(&url, Secret::new(key)).unwrap();
    client.trusting(ca).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_shown_replaced_by_a_signal_and_kept_when_the_next_is_broken() {
    let directory = tempfile::tempdir().unwrap();
    let ca = directory.path().join("ca.pem");
    certify(directory.path(), &Authority::default());
    let process = greeted(serving_tls(directory.path()).spawn().unwrap(), true);
    let root = process.root.clone().unwrap();
    let first = client(&process, &root, &ca);
    let made = first
        .post("/v1/applications", &json!({ "name": "shop" }))
        .await
        .unwrap();
    let tenants = format!("/v1/applications/{}/tenants", made["id"].as_str().unwrap());
    let tenant = first.post(&tenants, &json!({ "name": "t" })).await.unwrap();
    let links = format!(
        "/v1/tenants/{}/portal-links",
        tenant["id"].as_str().unwrap()
    );
    let link = first.post(&links, &json!({})).await.unwrap();
    let url = link["url"].as_str().unwrap();
    assert!(url.starts_with("https://localhost:"), "{url}");

    // Whoever asks without TLS is told.
    let plain = http(process.address, "GET", "/health", &[], "").await;
    assert_eq!(plain.status, 400);
    assert!(plain.text.contains("https://"), "{plain:?}");

    // The command line, which does not know the authority, and then does.
    let server = format!("https://localhost:{}", process.address.port());
    let list = || {
        let mut command = postrider();
        command.args(["application", "list", "--server", &server, "--key", &root]);
        command
    };
    let refused = output(&mut list());
    let told = String::from_utf8(refused.stderr).unwrap();
    assert!(!refused.status.success() && told.contains("--ca"), "{told}");
    let listed = output(list().arg("--ca").arg(&ca));
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.contains("shop"), "{listed}");

    // Another authority signs: those who trust the new one get in, those who trust the old one no more.
    certify(directory.path(), &Authority::default());
    let second = client(&process, &root, &ca);
    assert!(
        second.get("/v1/applications").await.is_err(),
        "not asked for yet"
    );
    signal(&process, "HUP");
    let mut is_replaced = false;
    for _ in 0..600 {
        is_replaced = second.get("/v1/applications").await.is_ok();
        if is_replaced {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(is_replaced, "the new certificate is shown");
    assert!(
        first.get("/v1/applications").await.is_err(),
        "the old one is not"
    );

    // A key of another certificate is refused, and what is there stays.
    let (_, stranger) = Authority::default().certified("localhost");
    std::fs::write(directory.path().join("key.pem"), stranger).unwrap();
    signal(&process, "HUP");
    let mut process = process;
    let log = std::io::BufReader::new(process.child.stderr.take().unwrap());
    let told = std::io::BufRead::lines(log)
        .map(Result::unwrap)
        .find(|line| line.contains("failed to reload"))
        .unwrap();
    assert!(told.contains("key.pem: is not the key of"), "{told}");
    second.get("/v1/applications").await.unwrap();
}

#[test]
fn files_that_cannot_be_used_are_told_before_anything_else() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    certify(path, &Authority::default());
    let refused = |what: &str| {
        let started = output(&mut serving_tls(path));
        let told = String::from_utf8(started.stderr).unwrap();
        assert!(!started.status.success() && told.contains(what), "{told}");
    };
    std::fs::write(path.join("certificate.pem"), "").unwrap();
    refused("certificate.pem: it holds no certificate");
    certify(path, &Authority::default());
    std::fs::remove_file(path.join("key.pem")).unwrap();
    refused("key.pem");
}

#[test]
fn a_container_asks_its_own_server_whatever_its_certificate_is_called() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    certify(path, &Authority::default());
    let process = greeted(serving_tls(path).spawn().unwrap(), true);
    let asked = || {
        let mut command = postrider();
        command.arg("health").env(
            "POSTRIDER__SERVER__LISTEN",
            format!("0.0.0.0:{}", process.address.port()),
        );
        for (name, file) in [("CERTIFICATE", "certificate.pem"), ("KEY", "key.pem")] {
            let variable = format!("POSTRIDER__SERVER__TLS__{name}");
            command.env(variable, path.join(file));
        }
        output(&mut command)
    };
    let healthy = asked();
    assert!(healthy.status.success(), "{healthy:?}");
    // Renewed, and not told of yet.
    certify(path, &Authority::default());
    assert!(asked().status.success());
}

#[test]
fn a_check_reads_the_files_and_commands_that_serve_nobody_do_without() {
    let directory = tempfile::tempdir().unwrap();
    let command = |arguments: &[&str]| {
        let mut command = postrider();
        command.args(arguments);
        let file = directory.path().join("nowhere.pem");
        for name in ["CERTIFICATE", "KEY"] {
            command.env(format!("POSTRIDER__SERVER__TLS__{name}"), &file);
        }
        command.env("POSTRIDER__STORE__DIRECTORY", directory.path());
        output(&mut command)
    };
    let checked = command(&["config", "check"]);
    let told = String::from_utf8(checked.stderr).unwrap();
    assert!(
        !checked.status.success() && told.contains("nowhere.pem"),
        "{told}"
    );
    drop(greeted(
        serving(directory.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
        true,
    ));
    let made = command(&["root-key"]);
    assert!(made.status.success(), "{made:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_begins_no_handshake_keeps_nobody_out_and_delays_no_shutdown() {
    let files = tempfile::tempdir().unwrap();
    certify(files.path(), &Authority::default());
    let server = TestServer::with(|config| {
        config.server.tls = Some(postrider::config::TlsConfig {
            certificate: files.path().join("certificate.pem"),
            key: files.path().join("key.pem"),
        });
    })
    .await;
    let silent = tokio::net::TcpStream::connect(server.address)
        .await
        .unwrap();
    let url = format!("https://localhost:{}", server.address.port());
    let client = Client::new(&url, Secret::new(server.root.clone())).unwrap();
    let client = client.trusting(&files.path().join("ca.pem")).unwrap();
    client.get("/v1/applications").await.unwrap();
    let stopped = server.server.unwrap().shut_down().await;
    assert!(stopped, "nothing was cut off");
    drop(silent);
}

/// An operator adds an authority that receivers have, and nobody's deliveries stop for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn authorities_that_receivers_may_have_are_read_again_after_a_signal() {
    let directory = tempfile::tempdir().unwrap();
    let (ca, log) = (
        directory.path().join("ca.pem"),
        tempfile::NamedTempFile::new().unwrap(),
    );
    let (before, now) = (Authority::default(), Authority::default());
    std::fs::write(&ca, &before.pem).unwrap();
    let mut command = serving(&directory.path().join("data"));
    command.env("POSTRIDER__EGRESS__EXTRA_CA", &ca);
    command.stdout(Stdio::piped()).stderr(log.reopen().unwrap());
    let process = greeted(command.spawn().unwrap(), true);
    let root = process.root.clone().unwrap();
    let tls = now.server("localhost", false, &[]);
    let receiver = Receiver::with_tls(Behaviour::Status(200), Some(tls)).await;
    let tenant = tenant(&process, &root, "standard").await;
    let url = format!("https://localhost:{}/", receiver.address.port());
    endpoint(&process, &root, &tenant, &url).await;
    let refused = publish(&process, &root, &tenant).await;
    let path = format!("/v1/deliveries?event={}", refused["id"].as_str().unwrap());
    let row = call(&process, &root, "GET", &path, Value::Null).await;
    let path = format!("/v1/deliveries/{}", row["data"][0]["id"].as_str().unwrap());
    let is_refused = |delivery: &Value| delivery["attempts"][0]["error"]["kind"] == "tls";
    until(&process, &root, &path, is_refused).await;

    std::fs::write(&ca, &now.pem).unwrap();
    signal(&process, "HUP");
    line_of(log.path(), |line| line.contains("reloaded")).await;
    publish(&process, &root, &tenant).await;
    receiver.wait_for(1).await;

    // What is no certificate changes nothing, and is told.
    std::fs::write(&ca, "nothing").unwrap();
    signal(&process, "HUP");
    let told = line_of(log.path(), |line| line.contains("failed to reload")).await;
    assert!(told.contains("ca.pem"), "{told}");
    publish(&process, &root, &tenant).await;
    receiver.wait_for(2).await;
}
