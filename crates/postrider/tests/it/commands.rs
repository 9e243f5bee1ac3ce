//! Every kind of thing from the command line.

use postrider_testkit::{Behaviour, Receiver};
use serde_json::{Value, json};

use crate::binary::{output, postrider, text};
use crate::support::{TestServer, id, text as member};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_thing_has_its_verbs() {
    let server = TestServer::start().await;
    let application = server.application("shop", "voucherify").await;
    let tenant = server.tenant_of(&application).await;
    let url = format!("http://{}", server.address);
    let run = |arguments: &[&str]| {
        let mut command = postrider();
        let ran = output(
            command
                .args(arguments)
                .args(["--server", &url, "--key", &server.root]),
        );
        assert!(ran.status.success(), "{arguments:?}: {ran:?}");
        text(&ran.stdout)
    };
    let json_of = |arguments: &[&str]| -> Value {
        let told = run(&[arguments, &["--json"]].concat());
        serde_json::from_str(&told).unwrap_or_else(|_| panic!("{arguments:?}: {told}"))
    };
    let t = tenant.as_str();
    let new = r#"{"name":"d","eventName":"sent","url":"http://127.0.0.1:9/","events":["customer.order.created"]}"#;
    let made = json_of(&["distribution", "create", "--tenant", t, new]);
    let distribution = id(&made);
    let d = distribution.as_str();
    assert!(run(&["distribution", "list", "--tenant", t]).contains(d));
    let mut command = postrider();
    let command = command.args(["distribution", "test", d, "--server", &url]);
    let tested = output(command.args(["--key", &server.root]));
    assert!(!tested.status.success(), "nobody is there: {tested:?}");
    let paused = json_of(&["distribution", "update", d, r#"{"status":"paused"}"#]);
    assert_eq!(paused["status"], "paused");
    assert!(run(&["distribution", "get", d]).contains("paused"));
    run(&["distribution", "delete", d]);

    let a = application.as_str();
    run(&[
        "event-type",
        "put",
        "--application",
        a,
        "voucher.created",
        r#"{"description":"made"}"#,
    ]);
    assert!(run(&["event-type", "list", "--application", a]).contains("made"));
    run(&[
        "event-type",
        "delete",
        "--application",
        a,
        "voucher.created",
    ]);

    run(&["endpoint", "create", "--tenant", t, "http://127.0.0.1:9/"]);
    let event = r#"{"type":"voucher.created","data":{"id":"v_1"}}"#;
    let batch = format!(r#"{{"events":[{event},{event}]}}"#);
    let answers = json_of(&["event", "batch", "--tenant", t, &batch]);
    assert_eq!(
        answers["data"].as_array().map(Vec::len),
        Some(2),
        "{answers}"
    );
    // What is refused of a batch is not passed over.
    let mixed = format!(r#"{{"events":[{event},{{"type":"","data":1}}]}}"#);
    let mut command = postrider();
    let command = command.args(["event", "batch", "--tenant", t, &mixed]);
    let ran = output(command.args(["--server", &url, "--key", &server.root]));
    let told = text(&ran.stderr);
    assert!(
        !ran.status.success() && told.contains("1 were refused"),
        "{ran:?}"
    );
    let shown = run(&["event", "explain", "--tenant", t, event]);
    assert!(
        shown.contains("WOULD RECEIVE") && shown.contains("true"),
        "{shown}"
    );
    let rows = json_of(&["send-out", "list", "--tenant", t]);
    let first = member(&rows["data"][0], "delivery").to_owned();
    assert!(run(&["send-out", "get", &first]).contains(&first));
    // Nor is an answer that no API gives.
    let mut command = postrider();
    let command = command.args(["api", "get", "/metrics"]);
    let ran = output(command.args(["--server", &url, "--key", &server.root]));
    assert!(
        !ran.status.success() && text(&ran.stderr).contains("no JSON"),
        "{ran:?}"
    );
    run(&["notification", "list", "--tenant", t]);
    let counted = run(&["tenant", "statistics", t]);
    assert!(counted.contains('2'), "{counted}");
    let renamed = json_of(&["tenant", "update", t, r#"{"name":"Bea"}"#]);
    assert_eq!(renamed["name"], "Bea");
    assert!(run(&["tenant", "get", t]).contains("Bea"));
    let renamed = json_of(&["application", "update", a, r#"{"name":"store"}"#]);
    assert_eq!(renamed["name"], "store");
    let log = run(&["audit", "--subject", t]);
    assert!(log.contains("tenant.updated"), "{log}");
    let key = json_of(&["key", "create", "k", "--tenant", t]);
    assert!(run(&["key", "get", &id(&key)]).contains(member(&key, "publicId")));
    let path = format!("/v1/tenants/{t}/replays");
    let replay = server.good("POST", &path, json!({})).await;
    assert!(run(&["replay", "list", "--tenant", t]).contains(&id(&replay)));
    run(&["replay", "get", &id(&replay)]);
    run(&["replay", "cancel", &id(&replay)]);
    let user = json_of(&["user", "create", "Ada@example.com", "--role", "owner"]);
    assert!(member(&user, "url").contains("/enter?code="), "{user}");
    let u = id(&user);
    assert!(run(&["user", "list"]).contains("ada@example.com"));
    let kept_out = json_of(&[
        "user", "update", &u, "--role", "viewer", "--active", "false",
    ]);
    assert_eq!(
        (&kept_out["role"], &kept_out["active"]),
        (&json!("viewer"), &json!(false))
    );
    run(&["user", "update", &u, "--active", "true"]);
    assert!(run(&["user", "link", &u]).contains("/enter?code="));
    assert!(run(&["user", "get", &u]).contains("viewer"));
    run(&["user", "delete", &u]);
    // Once: it reads the server's figures twice.
    let screen = run(&["top", "--every", "1", "--times", "1"]);
    for row in [
        "accepted   ",
        "attempts   ",
        "lanes   ",
        " of 4096 requests",
        "0.0/s events",
    ] {
        assert!(screen.contains(row), "{row}: {screen}");
    }
    let deletion = json_of(&["tenant", "delete", t]);
    assert!(run(&["deletion", "get", &id(&deletion)]).contains("status"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_and_secrets_take_from_the_command_line_what_the_api_takes() {
    let server = TestServer::start().await;
    let tenant = server.tenant("standard").await;
    let url = format!("http://{}", server.address);
    let ask = |arguments: &[&str]| {
        let mut command = postrider();
        let connection = ["--server", &url, "--key", &server.root, "--json"];
        output(command.args(arguments).args(connection))
    };
    let json_of = |arguments: &[&str]| -> Value {
        let ran = ask(arguments);
        assert!(ran.status.success(), "{arguments:?}: {ran:?}");
        serde_json::from_slice(&ran.stdout).unwrap()
    };
    let file = |content: &str| {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content).unwrap();
        file
    };
    let own = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let (secret, value) = (file(&format!("{own}\n")), file("from a file\n"));
    let from_file = format!("x-file: @{}", value.path().display());
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let made = json_of(&[
        "endpoint",
        "create",
        &receiver.url("/"),
        "--tenant",
        &tenant,
        "--external-id",
        "mine",
        "--header",
        "X-Team: a: b",
        "--header",
        &from_file,
        "--asymmetric",
        "--secret-file",
        secret.path().to_str().unwrap(),
    ]);
    assert_eq!(made["externalId"], "mine");
    assert_eq!(made["secret"], own, "{made}");
    assert!(member(&made, "publicKey").starts_with("whpk_"), "{made}");
    let e = id(&made);
    let tested = json_of(&["endpoint", "test", &e]);
    assert_eq!(tested["statusCode"], 200);
    let headers = &receiver.requests()[0].headers;
    assert_eq!(
        (&*headers["x-team"], &*headers["x-file"]),
        ("a: b", "from a file")
    );
    let rotated = json_of(&["endpoint", "rotate-secret", &e, "--overlap", "0s"]);
    assert_ne!(rotated["secret"], own);
    let rotated = json_of(&["endpoint", "rotate-secret", &e, "--asymmetric"]);
    assert_ne!(rotated["publicKey"], made["publicKey"]);
    let twice = ["--header", "a: 1", "--header", "a: 2"];
    let new = [
        "endpoint",
        "create",
        "http://127.0.0.1:9/",
        "--tenant",
        &tenant,
    ];
    let refused = ask(&[&new[..], &twice].concat());
    assert!(text(&refused.stderr).contains("twice"), "{refused:?}");

    let link = json_of(&["tenant", "portal-link", &tenant]);
    let ended = ask(&["tenant", "end-portal-link", &id(&link)]);
    assert!(ended.status.success(), "{ended:?}");
    let other = server.tenant("voucherify").await;
    let shown = ask(&["tenant", "secret", &other, "--mode", "test"]);
    let anew = json_of(&["tenant", "rotate-secret", &other, "--mode", "test"]);
    assert_eq!(anew["mode"], "test");
    let told = text(if shown.status.success() {
        &shown.stdout
    } else {
        &shown.stderr
    });
    assert!(!told.contains(member(&anew, "secret")), "{told}");
}

#[test]
fn a_server_that_never_answers_is_given_up() {
    // It takes connections, by its system, and says nothing.
    let silent = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    for command in [&["health"][..], &["tenant", "get", "ten_x", "--key", "k"]] {
        let mut asked = postrider();
        let asked = asked
            .args(command)
            .args(["--server", &url, "--timeout", "1"]);
        let asked = output(asked);
        let told = text(&asked.stderr);
        assert!(
            !asked.status.success() && told.contains("no answer from"),
            "{command:?}: {asked:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_tells_what_it_lacks_while_its_server_runs() {
    let server = TestServer::start().await;
    let data = server.directory.path().join("data");
    let plan = |directory: &std::path::Path| {
        output(
            postrider()
                .args(["migrate", "--plan", "--data"])
                .arg(directory),
        )
    };
    let told = plan(&data);
    assert!(
        text(&told.stdout).contains("nothing is to be done"),
        "{told:?}"
    );
    let nothing = plan(server.directory.path());
    assert!(!nothing.status.success());
    assert!(
        text(&nothing.stderr).contains("there is no database"),
        "{nothing:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_a_plain_server_by_https_is_told_to_use_http() {
    let server = TestServer::start().await;
    let url = format!("https://{}", server.address);
    let mut command = postrider();
    let command = command.args(["application", "list", "--server", &url]);
    let ran = output(command.args(["--key", &server.root]));
    assert_eq!(ran.status.code(), Some(1), "{ran:?}");
    let told = text(&ran.stderr);
    assert!(told.contains(&format!("no TLS with {url}")), "{told}");
    assert!(told.contains("use http://"), "{told}");
}

#[test]
fn an_answer_that_cannot_be_written_is_a_failure() {
    let full = std::fs::File::options().write(true).open("/dev/full");
    let mut command = postrider();
    command.args(["config", "schema"]).stdout(full.unwrap());
    assert_eq!(command.status().unwrap().code(), Some(1));
}
