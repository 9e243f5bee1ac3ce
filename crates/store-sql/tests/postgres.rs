//! The rules of the store on PostgreSQL, and what only a database on another machine can do to it.

#![expect(
    clippy::unwrap_used,
    reason = "a test stops where something is not as it must be"
)]

use postrider_store_sql::{PostgresOptions, Segments, SqlStore};
use postrider_testkit::Postgres;

async fn fresh(segments: Segments) -> Box<SqlStore> {
    let options = PostgresOptions {
        url: Postgres::shared().database(),
        salt: 42,
        segments,
        ..PostgresOptions::default()
    };
    Box::new(SqlStore::connect(options).await.unwrap())
}

/// Everything is in no segment yet.
mod behind_the_segments {
    postrider_store::store_conformance!(super::fresh(super::Segments::default()).await);
}

/// Something is always in no segment yet.
mod in_part {
    const PART: super::Segments = super::Segments { piece: 2, size: 2 };
    postrider_store::store_conformance!(super::fresh(PART).await);
}
