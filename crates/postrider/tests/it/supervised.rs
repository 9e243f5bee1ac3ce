//! Under a supervisor such as systemd, and what a package brings with the binary.

use std::os::unix::net::UnixDatagram;
use std::process::Stdio;
use std::time::Duration;

use postrider_testkit::Postgres;

use crate::binary::{greeted, in_postgres, output, postrider, serving, text};

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

/// Whoever starts it, an upgrade of a package say, does not wait until the other one ends.
#[test]
fn a_server_that_waits_for_anothers_place_is_ready_and_lives() {
    let directory = tempfile::tempdir().unwrap();
    let url = Postgres::shared().database();
    let data = |name: &str| {
        let data = directory.path().join(name);
        in_postgres(&data, &url);
        data
    };
    let first = serving(&data("first"))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let first = greeted(first, true);
    let second = data("second");
    std::fs::copy(
        directory.path().join("first/master.key"),
        second.join("master.key"),
    )
    .unwrap();
    let path = directory.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    let waits = serving(&second)
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "300000")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let waits = Waits(waits);
    assert_eq!(told(&socket), "READY=1");
    // It says so again while it waits.
    while told(&socket) != "WATCHDOG=1" {}
    drop((waits, first));
}

/// Ends with the test.
struct Waits(std::process::Child);

impl Drop for Waits {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
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

/// A file of `packaging`, with what is commented out there put in.
fn packaged(name: &str) -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../packaging/");
    let text = std::fs::read_to_string(format!("{path}{name}")).unwrap();
    let line = |line: &str| match line.trim_start().strip_prefix("# ") {
        Some(setting) if setting.contains(" = ") || setting.starts_with("POSTRIDER__") => {
            let indent = line.len() - line.trim_start().len();
            format!("{}{setting}\n", &line[..indent])
        }
        _ => format!("{line}\n"),
    };
    text.lines().map(line).collect()
}

#[test]
fn what_is_packaged_configures_a_server() {
    let directory = tempfile::tempdir().unwrap();
    let secret = directory.path().join("secret");
    std::fs::write(&secret, "secret").unwrap();
    let check = |toml: &str, variables: &[(String, String)]| {
        let file = directory.path().join("postrider.toml");
        // What a container has mounted is not here.
        let here = secret.to_str().unwrap();
        std::fs::write(&file, toml.replace("/secrets/password", here)).unwrap();
        let mut command = postrider();
        command.args(["config", "check", "--config"]).arg(file);
        command.envs(variables.iter().cloned());
        let checked = output(&mut command);
        let told = String::from_utf8(checked.stderr).unwrap();
        assert!(checked.status.success(), "{told}\n{toml}\n{variables:?}");
    };
    check(&packaged("postrider.toml"), &[]);

    let kubernetes = packaged("kubernetes.yaml");
    let (_, block) = kubernetes.split_once("  postrider.toml: |\n").unwrap();
    let lines = block
        .lines()
        .take_while(|line| line.is_empty() || line.starts_with("    "));
    let toml: Vec<&str> = lines.map(str::trim).collect();
    assert!(toml.len() > 10, "{toml:?}");
    check(&toml.join("\n"), &[]);

    for (file, between, count) in [("compose.yaml", ": ", 3), ("Dockerfile", "=", 2)] {
        let text = packaged(file);
        let settings = text.lines().filter_map(|line| {
            let setting = line
                .trim()
                .trim_start_matches("ENV ")
                .trim_end_matches([' ', '\\']);
            let (name, value) = setting.split_once(between)?;
            name.starts_with("POSTRIDER__")
                .then(|| (name.to_owned(), value.to_owned()))
        });
        let settings: Vec<_> = settings.collect();
        assert_eq!(settings.len(), count, "{file}: {settings:?}");
        check("", &settings);
    }
}

#[test]
fn a_container_engine_asks_whether_it_accepts_events() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = serving(&directory.path().join("data"));
    command.stdout(Stdio::piped()).stderr(Stdio::null());
    let mut process = greeted(command.spawn().unwrap(), true);
    let url = format!("http://{}", process.address);
    let asked = || output(postrider().args(["health", "--server", &url]));
    let healthy = asked();
    assert!(healthy.status.success(), "{healthy:?}");
    process.child.kill().unwrap();
    process.child.wait().unwrap();
    let gone = asked();
    let told = text(&gone.stderr);
    assert!(
        !gone.status.success() && told.contains("no server answers"),
        "{told}"
    );
}
