//! A receiver's side on the command line: `verify` and `listen`.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};

use postrider_testkit::{Behaviour, Receiver};
use serde_json::json;

use crate::binary::{output, postrider, text};
use crate::support::{TestServer, http, text as member};

#[tokio::test]
async fn a_saved_request_is_verified_as_it_came_and_refused_when_a_byte_differs() {
    let server = TestServer::start().await;
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    for profile in ["standard", "vignetim", "voucherify"] {
        let tenant = server.tenant(profile).await;
        let made = server.endpoint(&tenant, &receiver.url("/hook")).await;
        let secret = member(&made, "secret");
        let before = receiver.requests().len();
        let (kind, data) = match profile {
            "vignetim" => ("order.completed", json!({ "orderId": "1" })),
            "voucherify" => ("voucher.created", json!({ "id": "v_1" })),
            _ => ("order.created", json!({ "a": 1 })),
        };
        server.publish(&tenant, kind, data).await;
        let sent = receiver.wait_for(before + 1).await.remove(before);
        let mut saved = sent.saved();
        let file = tempfile::NamedTempFile::new().unwrap();
        let verify = |saved: &[u8], at: &[&str]| {
            std::fs::write(file.path(), saved).unwrap();
            let mut command = postrider();
            command.args(["verify", "--profile", profile, "--secret", secret]);
            output(command.args(at).arg(file.path()))
        };
        let fine = verify(&saved, &[]);
        assert!(fine.status.success(), "{profile}: {fine:?}");
        let end = saved.len() - 1;
        saved[end] ^= 1;
        let refused = verify(&saved, &[]);
        assert!(!refused.status.success(), "{profile}: {refused:?}");
        assert!(
            text(&refused.stderr).contains("signature refused"),
            "{refused:?}"
        );
        saved[end] ^= 1;
        if profile == "standard" {
            let late = verify(&saved, &["--at", "2001-01-01T00:00:00Z"]);
            assert!(text(&late.stderr).contains("--at"), "{late:?}");
        }
    }
}

#[tokio::test]
async fn a_stranger_steers_no_terminal_and_is_not_told_200() {
    let run = output(postrider().args(["listen", "--secret", "nonsense"]));
    assert!(
        !run.status.success() && text(&run.stderr).contains("whsec_"),
        "{run:?}"
    );
    let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let mut child = postrider()
        .args(["listen", "--listen", "127.0.0.1:0", "--secret", secret])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut shown = BufReader::new(child.stdout.take().unwrap());
    let mut first = String::new();
    shown.read_line(&mut first).unwrap();
    let address = first
        .split("http://")
        .nth(1)
        .unwrap()
        .split('/')
        .next()
        .unwrap();
    let headers = [
        ("webhook-signature", "v1,AAAA"),
        ("webhook-id", "m"),
        ("webhook-timestamp", "1"),
    ];
    let body = "{\"a\":\"\u{1b}[2J\u{1b}]0;owned\u{7}\"}";
    let reply = http(address.parse().unwrap(), "POST", "/", &headers, body).await;
    assert_eq!(reply.status, 401);
    let pid = child.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-INT", &pid])
            .status()
            .unwrap()
            .success()
    );
    let mut rest = String::new();
    shown.read_to_string(&mut rest).unwrap();
    drop(child.wait());
    assert!(
        rest.contains("SIGNATURE REFUSED") && rest.contains("owned"),
        "{rest}"
    );
    assert!(
        !rest.contains('\u{1b}') && !rest.contains('\u{7}'),
        "{rest:?}"
    );
}
