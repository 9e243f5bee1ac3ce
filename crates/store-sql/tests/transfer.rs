//! From a directory into PostgreSQL and back: everything, once, and nothing by halves.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test stops where something is not as it must be"
)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use postrider_core::endpoint::Endpoint;
use postrider_core::tenant::Mode;
use postrider_core::{Id, id};
use postrider_store::conformance::fixture::{at, by, filter, secs, world};
use postrider_store::{
    Batch, Catalogue as _, EventFilter, Keys as _, Lanes as _, NewEvent, PageRequest, Records as _,
    Store as _,
};
use postrider_store_sql::{
    OpenError, Options, PostgresOptions, Progress, Segments, SqlStore, export, import,
};
use postrider_testkit::Postgres;
use rusqlite::types::Value;

fn options() -> Options {
    Options {
        salt: 7,
        segments: Segments { piece: 2, size: 2 },
        ..Options::default()
    }
}

fn into(url: &str) -> PostgresOptions {
    PostgresOptions {
        url: url.to_owned(),
        ..PostgresOptions::default()
    }
}

/// A store with something in most of its tables. Returns its application and its last event.
async fn furnished(directory: &Path, events: i64) -> (Id<id::Application>, Id<id::Event>) {
    let store = SqlStore::open(directory, &options()).unwrap();
    let profile = store.put_profile("standard", "name = \"standard\"").await;
    assert_eq!(profile.unwrap(), 1);
    let (application, last) = {
        let world = world(&store).await;
        let endpoint = Endpoint {
            filter: Some(filter(r#"{ "data.a\u0000": 1 }"#)),
            description: Some("with a \u{0} in it".to_owned()),
            ..world.an_endpoint()
        };
        store.create_endpoint(endpoint, None, by()).await.unwrap();
        let lane = world.endpoint().await;
        let mut last = None;
        for first in (0..events).step_by(500) {
            let batch = (first..events.min(first + 500)).map(|n| {
                let mut event = world.an_event(at(n), "order.completed");
                event.data = Bytes::from(format!("{{\"n\": {n}}}"));
                event.meta = (n % 2 == 0).then(|| Bytes::from_static(b"{}"));
                NewEvent {
                    event: Arc::new(event),
                    ..world.keyed(at(n), &format!("key-ä-{n}"), 3)
                }
            });
            let batch = Batch::of_publishes(batch);
            for published in store.commit_all(at(first).into(), batch).await.publishes {
                last = Some(published.unwrap().event);
            }
        }
        world.fail_one(lane, secs(1)).await;
        store
            .use_nonce(Id::from_u128(1), "nonce", secs(60))
            .await
            .unwrap();
        (world.application, last.unwrap())
    };
    store.ping().await.unwrap();
    (application, last)
}

/// All rows of all tables, but for what each store keeps for itself.
fn dump(directory: &Path) -> BTreeMap<String, Vec<Vec<Value>>> {
    let file = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut file = file.filter(|path| path.extension().is_some_and(|extension| extension == "db"));
    let connection = rusqlite::Connection::open(file.next().unwrap()).unwrap();
    let names = "select name from sqlite_master where type = 'table' and name not like 'sqlite_%'";
    let mut names = connection.prepare(names).unwrap();
    let names: Vec<String> = names
        .query_map([], |row| row.get(0))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    let rows = |name: &String| {
        let sql = match name.as_str() {
            "meta" => {
                "select * from meta where key not in ('mark', 'ping', 'leader', 'beat')".to_owned()
            }
            name => format!("select * from {name}"),
        };
        let mut statement = connection.prepare(&sql).unwrap();
        let columns = statement.column_count();
        let rows = statement.query_map([], |row| (0..columns).map(|at| row.get(at)).collect());
        let mut rows: Vec<Vec<Value>> = rows.unwrap().map(Result::unwrap).collect();
        rows.sort_by_cached_key(|row| format!("{row:?}"));
        rows
    };
    names
        .iter()
        .map(|name| (name.clone(), rows(name)))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_goes_there_and_back() {
    let directory = tempfile::tempdir().unwrap();
    let (application, last) = furnished(directory.path(), 40).await;
    let url = Postgres::shared().database();
    let (tell, told) = std::sync::mpsc::channel();
    let rows = import(directory.path(), into(&url), move |progress| {
        let line = (progress.table.to_owned(), progress.done, progress.all);
        tell.send(line).unwrap();
    });
    assert!(rows.await.unwrap() > 200);
    let told: Vec<_> = told.iter().collect();
    assert!(told.contains(&("event".to_owned(), 41, 41)), "{told:?}");

    let again = import(directory.path(), into(&url), |_| ()).await;
    assert!(
        matches!(again, Err(OpenError::NotEmpty { .. })),
        "{again:?}"
    );

    let other = tempfile::tempdir().unwrap();
    export(into(&url), other.path(), |_| ()).await.unwrap();
    let (mut before, after) = (dump(directory.path()), dump(other.path()));
    // The one character that PostgreSQL has no text for.
    for row in before.get_mut("endpoint").unwrap() {
        for value in row {
            if let Value::Text(text) = value {
                *text = text.replace('\0', "\u{fffd}");
            }
        }
    }
    for (table, rows) in &before {
        assert_eq!(Some(rows), after.get(table), "{table}");
    }
    assert!(before["delivery"].len() >= 40 && before["delivery_of_tenant"].len() >= 30);
    assert!(!before["attempt"].is_empty() && !before["tally"].is_empty());

    // It goes on where it was: the same ids are found, and new ones are new.
    for place in 0..2 {
        let store = if place == 0 {
            SqlStore::connect(into(&url)).await.unwrap()
        } else {
            SqlStore::open(other.path(), &options()).unwrap()
        };
        let event = store.event(last).await.unwrap();
        assert_eq!(
            (&*event.data, event.mode),
            (&b"{\"n\": 39}"[..], Mode::Live)
        );
        let of = EventFilter {
            application: Some(application),
            ..EventFilter::default()
        };
        let listed = store
            .list_events(of, PageRequest::first(100))
            .await
            .unwrap();
        assert_eq!(listed.rows.len(), 41);
        let new: Id<id::Event> = store.ids().next(at(0));
        assert!(new > last, "{new} is not behind {last}");
        assert_eq!(store.put_profile("standard", "another").await.unwrap(), 2);
        assert_eq!(store.backlog().await.unwrap().len(), 1);
    }
}

/// Breaks off where a table is.
fn unplugged(table: &'static str, done: u64) -> impl FnMut(Progress<'_>) + Send + 'static {
    move |progress| {
        let at = (progress.table, progress.done);
        assert!(at != (table, done), "pulled the plug");
    }
}

/// How a move ended, none where it broke off. Waits until the database is nobody's.
async fn ended<F: Future<Output = Result<u64, OpenError>> + Send + 'static>(
    begin: impl Fn() -> F,
) -> Option<Result<u64, OpenError>> {
    loop {
        match tokio::spawn(begin()).await {
            Ok(Err(OpenError::Owned { .. })) => tokio::task::yield_now().await,
            ended => return ended.ok(),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_broken_off_goes_on_and_nobody_serves_a_part() {
    let directory = tempfile::tempdir().unwrap();
    furnished(directory.path(), 6_000).await;
    let url = Postgres::shared().database();
    // It ends in the middle of a table, and once more before another.
    for (table, done) in [("delivery", 5_000), ("event", 0)] {
        let (directory, to) = (directory.path().to_owned(), url.clone());
        let target = to.clone();
        let broken = ended(move || {
            let (directory, into) = (directory.clone(), into(&target));
            async move { import(&directory, into, unplugged(table, done)).await }
        });
        let broken = broken.await;
        assert!(broken.is_none(), "{table} was not on its way: {broken:?}");
        let served = SqlStore::connect(into(&url)).await;
        assert!(
            matches!(served, Err(OpenError::Unfinished { .. })),
            "{served:?}"
        );
    }
    // Not with another store's.
    let stranger = tempfile::tempdir().unwrap();
    drop(
        SqlStore::open(
            stranger.path(),
            &Options {
                salt: 8,
                ..options()
            },
        )
        .unwrap(),
    );
    let mixed = import(stranger.path(), into(&url), |_| ()).await;
    assert!(
        matches!(mixed, Err(OpenError::NotEmpty { .. })),
        "{mixed:?}"
    );
    import(directory.path(), into(&url), |_| ()).await.unwrap();

    let other = tempfile::tempdir().unwrap();
    let (target, source) = (other.path().to_owned(), url.clone());
    let broken = ended(move || {
        let (from, target) = (into(&source), target.clone());
        async move { export(from, &target, unplugged("delivery", 5_000)).await }
    });
    assert!(broken.await.is_none());
    let served = SqlStore::open(other.path(), &options());
    assert!(
        matches!(served, Err(OpenError::Unfinished { .. })),
        "{served:?}"
    );
    let (target, source) = (other.path().to_owned(), url.clone());
    let whole = ended(move || {
        let (from, target) = (into(&source), target.clone());
        async move { export(from, &target, |_| ()).await }
    });
    whole.await.unwrap().unwrap();
    let (before, after) = (dump(directory.path()), dump(other.path()));
    for table in [
        "event",
        "delivery",
        "idempotency",
        "tally",
        "attempt",
        "meta",
    ] {
        assert_eq!(before[table], after[table], "{table}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_served_is_not_moved() {
    let directory = tempfile::tempdir().unwrap();
    let store = SqlStore::open(directory.path(), &options()).unwrap();
    let url = Postgres::shared().database();
    let moved = import(directory.path(), into(&url), |_| ()).await;
    assert!(matches!(moved, Err(OpenError::InUse { .. })), "{moved:?}");
    drop(store);
    let store = SqlStore::connect(into(&url)).await.unwrap();
    let moved = export(into(&url), &directory.path().join("other"), |_| ()).await;
    assert!(matches!(moved, Err(OpenError::Owned { .. })), "{moved:?}");
    drop(store);
}

#[tokio::test(flavor = "multi_thread")]
async fn both_databases_have_the_same_tables() {
    let directory = tempfile::tempdir().unwrap();
    drop(SqlStore::open(directory.path(), &options()).unwrap());
    let url = Postgres::shared().database();
    drop(SqlStore::connect(into(&url)).await.unwrap());
    let file = directory.path().join("postrider.db");
    let connection = rusqlite::Connection::open(file).unwrap();
    let sql = "select m.name || '.' || c.name || ':' || case lower(c.type) when 'integer' then 'bigint' when 'blob' then 'bytea' else lower(c.type) end
               || case when c.\"notnull\" or c.pk > 0 then '' else '?' end
               from sqlite_master m, pragma_table_info(m.name) c where m.type = 'table' and m.name not like 'sqlite_%' order by 1";
    let mut statement = connection.prepare(sql).unwrap();
    let columns: Vec<String> = statement
        .query_map([], |row| row.get(0))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert!(columns.len() > 100, "{columns:?}");
    // In one go, in SQL: the tool of the tests runs statements and tells whether they worked.
    let wanted = columns.join(",");
    let same = format!(
        "select 1 / (case when (select string_agg(c, ',' order by c collate \"C\") from (select table_name || '.' || column_name || ':' || data_type
         || case is_nullable when 'YES' then '?' else '' end as c from information_schema.columns where table_schema = 'postrider') as x) = '{wanted}'
         then 1 else 0 end)"
    );
    assert!(Postgres::shared().execute(&url, &same), "{wanted}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_begun_before_a_server_ran_on_the_source_is_not_gone_on_with() {
    let directory = tempfile::tempdir().unwrap();
    furnished(directory.path(), 10).await;
    let url = Postgres::shared().database();
    let begin = |plug: Option<&'static str>| {
        let (directory, url) = (directory.path().to_owned(), url.clone());
        ended(move || {
            let (directory, into) = (directory.clone(), into(&url));
            let plug = unplugged(plug.unwrap_or_default(), 0);
            async move { import(&directory, into, plug).await }
        })
    };
    assert!(begin(Some("event")).await.is_none());
    let store = SqlStore::open(directory.path(), &options()).unwrap();
    store.note_steady(secs(9_000)).await.unwrap();
    drop(store);
    let changed = begin(None).await.unwrap();
    assert!(
        matches!(changed, Err(OpenError::Changed { .. })),
        "{changed:?}"
    );
}

/// Whoever began before the export sees the database as it was; an event that is put in now would be nobody's.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_publishes_into_a_store_that_was_exported() {
    let url = Postgres::shared().database();
    let served = || PostgresOptions {
        serves: true,
        ..into(&url)
    };
    let store = SqlStore::connect(served()).await.unwrap();
    world(&store).await;
    drop(store);
    let run = |sql: &str| Postgres::shared().execute(&url, sql);
    assert!(run("update postrider.tenant set external_id = 'ada'"));
    let publish = "select postrider.publish('shop', 'ada', 'a.b', '1')";
    assert!(run(publish));
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls)
        .await
        .unwrap();
    tokio::spawn(connection);
    let begin = "begin isolation level repeatable read; select count(*) from pg_class";
    client.batch_execute(begin).await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().join("other");
    export(into(&url), &target, |_| ()).await.unwrap();
    let published = client.batch_execute(publish).await;
    assert!(published.is_err(), "it sees no sign of the export");
    assert!(!run(publish));
    // What looks at the store by itself is no server.
    drop(SqlStore::connect(into(&url)).await.unwrap());
    assert!(!run(publish));
    drop(SqlStore::connect(served()).await.unwrap());
    assert!(run(publish), "a server runs there again");
}
