//! The doctor tells an operator what of the machine would keep deliveries back, before a customer does.

use std::path::Path;
use std::process::Output;
use std::time::{Duration, SystemTime};

use postrider_testkit::{Behaviour, Postgres, Receiver};

use crate::binary::{endpoint, in_postgres, output, postrider, publish, serve, tenant, text};

/// What it says of a directory, to a receiver on this machine.
fn doctor(data: &Path, more: &[&str]) -> Output {
    let mut command = postrider();
    command.env("POSTRIDER__EGRESS__ALLOW", "127.0.0.0/8");
    output(command.args(["doctor", "--data"]).arg(data).args(more))
}

/// A directory whose server has left.
fn left_behind() -> tempfile::TempDir {
    let data = tempfile::tempdir().unwrap();
    drop(serve(data.path()));
    data
}

fn http_date(at: SystemTime) -> String {
    httpdate::fmt_http_date(at)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_that_is_well_is_told_so() {
    let data = left_behind();
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let now = http_date(SystemTime::now());
    receiver.behave(Behaviour::StatusWith(200, "date", now));
    let told = doctor(data.path(), &["--reach", &receiver.url("/hook")]);
    let lines = text(&told.stdout);
    assert!(told.status.success(), "{told:?}");
    for part in [
        "ok       clock: ",
        "ok       open files: ",
        "ok       master key: ",
        "ok       way out: ",
        "answered 200 from 127.0.0.1, ",
        "ok       clock: as that of 127.0.0.1",
        "everything that is stored can be read",
    ] {
        assert!(lines.contains(part), "{part:?} is not in\n{lines}");
    }
    let request = &receiver.requests()[0];
    assert_eq!((&*request.method, &*request.target), ("POST", "/hook"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_off_is_told_with_its_distance() {
    let data = left_behind();
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let later = http_date(SystemTime::now() + Duration::from_secs(3_600));
    receiver.behave(Behaviour::StatusWith(200, "date", later));
    let told = doctor(data.path(), &["--reach", &receiver.url("/")]);
    let lines = text(&told.stdout);
    assert!(!told.status.success(), "{told:?}");
    let line = lines
        .lines()
        .find(|line| line.starts_with("BAD      clock: "));
    let secs = line.and_then(|line| line.split(' ').find_map(|word| word.parse::<u64>().ok()));
    assert!(
        secs.is_some_and(|secs| secs.abs_diff(3_600) < 60),
        "{lines}"
    );
    // Here it is what was written that is later than now.
    let file = data.path().join("postrider.db");
    let written = std::fs::File::options().write(true).open(file).unwrap();
    let later = SystemTime::now() + Duration::from_secs(600);
    written.set_modified(later).unwrap();
    let told = doctor(data.path(), &[]);
    assert!(!told.status.success(), "{told:?}");
    assert!(
        text(&told.stdout).contains("behind the last write of the store"),
        "{told:?}"
    );
}

#[test]
fn a_way_that_is_barred_and_a_key_that_is_gone_are_told() {
    let data = left_behind();
    std::fs::remove_file(data.path().join("master.key")).unwrap();
    let told = output(
        postrider()
            .env("POSTRIDER__EGRESS__PROXY", "http://nobody.invalid:3128")
            .args(["doctor", "--reach", "http://10.0.0.1/", "--data"])
            .arg(data.path()),
    );
    let lines = text(&told.stdout);
    assert!(!told.status.success(), "{told:?}");
    for part in [
        "BAD      master key: ",
        "BAD      names: nobody.invalid of egress.proxy is not found",
        "BAD      way out: http://10.0.0.1/ is not reached (address_forbidden)",
    ] {
        assert!(lines.contains(part), "{part:?} is not in\n{lines}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_key_of_another_store_is_told() {
    let (data, other) = (tempfile::tempdir().unwrap(), left_behind());
    {
        let process = serve(data.path());
        let root = process.root.clone().unwrap();
        tenant(&process, &root, "standard").await;
    }
    let told = doctor(data.path(), &[]);
    assert!(
        text(&told.stdout).contains("ok       master key: "),
        "{told:?}"
    );
    let key = data.path().join("master.key");
    std::fs::copy(other.path().join("master.key"), key).unwrap();
    let told = doctor(data.path(), &[]);
    let lines = text(&told.stdout);
    assert!(!told.status.success(), "{told:?}");
    assert!(
        lines.contains("is not the master key of this store"),
        "{lines}"
    );
}

#[test]
fn a_database_that_is_not_reached_is_told() {
    let data = left_behind();
    let mut command = postrider();
    command.env(
        "POSTRIDER__STORE__URL",
        "postgres://postgres@127.0.0.1:1/postrider",
    );
    let told = output(command.args(["doctor", "--data"]).arg(data.path()));
    let lines = text(&told.stdout);
    assert!(!told.status.success(), "{told:?}");
    assert!(lines.contains("BAD      database: "), "{lines}");
    let mut command = postrider();
    command.env("POSTRIDER__STORE__URL", Postgres::shared().database());
    let told = output(command.args(["doctor", "--data"]).arg(data.path()));
    let lines = text(&told.stdout);
    assert!(lines.contains("ok       database: "), "{lines}");
    // What is in a directory beside it is not what the server has.
    let mut command = postrider();
    command.env(
        "POSTRIDER__STORE__URL",
        "postgres://postgres@127.0.0.1:1/postrider",
    );
    let target = data.path().join("copy.db");
    let told = output(
        command
            .arg("backup")
            .arg(&target)
            .arg("--data")
            .arg(data.path()),
    );
    assert!(
        !told.status.success() && text(&told.stderr).contains("pg_dump"),
        "{told:?}"
    );
}

/// Values that a newer version, or nobody, has written: each is told with its table and column, in either database.
async fn rows_that_do_not_read_are_told(url: Option<String>) {
    let data = tempfile::tempdir().unwrap();
    if let Some(url) = &url {
        in_postgres(data.path(), url);
    }
    let process = serve(data.path());
    let root = process.root.clone().unwrap();
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let tenant = tenant(&process, &root, "standard").await;
    endpoint(&process, &root, &tenant, &receiver.url("/")).await;
    publish(&process, &root, &tenant).await;
    receiver.wait_for(1).await;
    drop(process);
    let ask = || {
        let mut command = postrider();
        if let Some(url) = &url {
            command.env("POSTRIDER__STORE__URL", url);
        }
        output(command.args(["doctor", "--data"]).arg(data.path()))
    };
    let well = ask();
    assert!(well.status.success(), "{well:?}");
    for (sql, told) in [
        (
            "update postrider.endpoint set subscription = '5'",
            "subscription: ",
        ),
        ("update postrider.api_key set mode = 7", "mode: "),
        ("update postrider.delivery set state = 9", "state: "),
        (
            "update postrider.tenant set settings = '{\"notifications\":5}'",
            "settings: ",
        ),
    ] {
        let changed = match &url {
            Some(url) => Postgres::shared().execute(url, sql),
            None => {
                let database = rusqlite::Connection::open(data.path().join("postrider.db"));
                let sql = sql.replace("postrider.", "");
                database.unwrap().execute(&sql, []).unwrap() >= 1
            }
        };
        assert!(changed, "{sql}");
        let doctor = ask();
        let lines = text(&doctor.stdout);
        assert!(!doctor.status.success(), "{doctor:?}");
        let table = sql.split(['.', ' ']).nth(2).unwrap();
        assert!(
            lines
                .lines()
                .any(|line| line.starts_with(&format!("{table} row")) && line.contains(told)),
            "{sql}: {lines}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_do_not_read_are_told_with_what_they_are_about() {
    rows_that_do_not_read_are_told(None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_postgres_that_do_not_read_are_told_with_what_they_are_about() {
    rows_that_do_not_read_are_told(Some(Postgres::shared().database())).await;
}
