//! The embedded store keeps the rules.

#![expect(
    clippy::unwrap_used,
    reason = "a test stops where something is not as it must be"
)]

use std::ops::Deref;

use postrider_store::Store;
use postrider_store_sql::{Options, Segments, SqlStore};

/// A store in a directory that goes away with it.
struct Fresh(
    SqlStore,
    #[expect(dead_code, reason = "removed on drop")] tempfile::TempDir,
);

impl Deref for Fresh {
    type Target = dyn Store;
    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

fn fresh(segments: Segments) -> Fresh {
    let directory = tempfile::tempdir().unwrap();
    let store = SqlStore::open(
        directory.path(),
        &Options {
            salt: 42,
            segments,
            ..Options::default()
        },
    )
    .unwrap();
    Fresh(store, directory)
}

/// Everything is in no segment yet.
mod behind_the_segments {
    postrider_store::store_conformance!(super::fresh(super::Segments::default()));
}

/// Everything is in a segment at once, and each has a few deliveries only.
mod in_small_segments {
    const SMALL: super::Segments = super::Segments { piece: 1, size: 3 };
    postrider_store::store_conformance!(super::fresh(SMALL));
}

/// Something is always in no segment yet.
mod in_part {
    const PART: super::Segments = super::Segments { piece: 2, size: 2 };
    postrider_store::store_conformance!(super::fresh(PART));
}
