//! Under a supervisor such as systemd, and what a package brings with the binary.

use std::os::unix::net::UnixDatagram;
use std::process::Stdio;
use std::time::Duration;

use crate::binary::{greeted, output, postrider, serving, text};

/// The next thing that the server tells.
fn told(socket: &UnixDatagram) -> String {
    let mut buffer = [0; 256];
    let count = socket.recv(&mut buffer).expect("it tells something");
    text(&buffer[..count]).trim_end().to_owned()
}

#[test]
fn a_supervisor_hears_that_it_is_ready_lives_and_stops() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    let mut command = serving(&directory.path().join("data"));
    command
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "300000")
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut process = greeted(command.spawn().unwrap(), true);
    assert_eq!(told(&socket), "READY=1");
    for _ in 0..3 {
        assert_eq!(told(&socket), "WATCHDOG=1");
    }
    let pid = rustix::process::Pid::from_child(&process.child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    while told(&socket) != "STOPPING=1" {}
    assert!(process.child.wait().unwrap().success());
}

#[test]
fn without_one_nobody_is_told_and_nothing_is_missing() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = serving(&directory.path().join("data"));
    command
        .env("NOTIFY_SOCKET", directory.path().join("nobody"))
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut process = greeted(command.spawn().unwrap(), true);
    assert!(process.child.try_wait().unwrap().is_none(), "it goes on");
}

#[test]
fn every_command_has_a_man_page_and_every_shell_its_completions() {
    let directory = tempfile::tempdir().unwrap();
    let man = directory.path().join("man");
    let written = output(postrider().arg("man-pages").arg(&man));
    assert!(written.status.success(), "{written:?}");
    for page in [
        "postrider.1",
        "postrider-serve.1",
        "postrider-tenant-create.1",
    ] {
        let page = std::fs::read_to_string(man.join(page)).unwrap();
        assert!(
            page.starts_with(".ie") && page.contains(".SH NAME"),
            "{page}"
        );
    }
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let printed = output(postrider().args(["completions", shell]));
        assert!(printed.status.success(), "{printed:?}");
        assert!(text(&printed.stdout).contains("import-svix"), "{shell}");
    }
}
