//! The embedded store keeps the rules.

#![expect(
    clippy::unwrap_used,
    reason = "a test stops where something is not as it must be"
)]

use std::ops::Deref;

use postrider_store::Store;
use postrider_store_sqlite::{Options, SqliteStore};

/// A store in a directory that goes away with it.
struct Fresh(
    SqliteStore,
    #[expect(dead_code, reason = "removed on drop")] tempfile::TempDir,
);

impl Deref for Fresh {
    type Target = dyn Store;
    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

fn fresh() -> Fresh {
    let directory = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(
        directory.path(),
        &Options {
            salt: 42,
            ..Options::default()
        },
    )
    .unwrap();
    Fresh(store, directory)
}

postrider_store::store_conformance!(fresh());
