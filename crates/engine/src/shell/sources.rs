//! What endpoints are, with their tenants and applications: read once for a lane and its first attempt, and for many at once.

use std::sync::Arc;

use postrider_core::{Id, id};
use postrider_store::{LaneEndpoint, Store, StoreError};

use crate::cache::{Cache, Changes, Gather, Read, Stamp};
use crate::shell::endpoints::parsed_bytes;

/// Endpoints held: what a lane has read its first attempt needs, and hardly anybody else.
const HELD_MAX: usize = 4_096;
/// Bytes of those, about.
const HELD_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Bytes that one has beside its texts.
const OVERHEAD: usize = 2_048;
/// Of what is not to be held: no count is this.
const NEVER_FRESH: u64 = u64::MAX;

/// An endpoint as it was read, and what that depends on.
pub(super) struct Source {
    pub(super) row: LaneEndpoint,
    pub(super) stamp: Stamp,
}

type Answer = Result<Source, StoreError>;

/// What it takes in memory, about. The application may be shared by those that were read together, and is counted with each.
fn bytes(row: &LaneEndpoint) -> usize {
    let metadata = row.tenant.iter();
    let metadata = metadata.flat_map(|tenant| &tenant.metadata);
    let metadata: usize = metadata.map(|(key, value)| key.len() + value.len()).sum();
    let logo = row.application.as_ref().ok();
    let logo = logo.and_then(|application| application.settings.branding.logo.as_ref());
    let endpoint = row.endpoint.text_bytes() + parsed_bytes(&row.endpoint);
    OVERHEAD + endpoint + metadata + logo.map_or(0, String::len)
}

pub(super) struct Sources {
    store: Arc<dyn Store>,
    changes: Arc<Changes>,
    held: Cache<Id<id::Endpoint>, Source>,
    reads: Gather<Id<id::Endpoint>, Answer>,
}

impl Sources {
    pub(super) fn new(store: Arc<dyn Store>, changes: Arc<Changes>) -> Self {
        Self {
            store,
            held: Cache::new(HELD_MAX, HELD_BYTES_MAX, changes.clone()),
            changes,
            reads: Gather::default(),
        }
    }

    /// An endpoint as it is, or was a moment ago and is still.
    pub(super) async fn get(&self, endpoint: Id<id::Endpoint>) -> Result<Arc<Source>, StoreError> {
        let read = async {
            let value = self.reads.get(endpoint, |ids| self.read(ids)).await?;
            let weight = bytes(&value.row) as u64;
            let stamp = value.stamp.clone();
            Ok(Read {
                value,
                weight,
                stamp,
            })
        };
        self.held.get(endpoint, read).await
    }

    async fn read(&self, ids: Vec<Id<id::Endpoint>>) -> Vec<Answer> {
        let so_far = self.changes.so_far();
        let rows = self.store.lane_endpoints(&ids).await;
        // Whose they are only the rows say, so they are counted behind the read: no matter, where nothing has changed.
        let stamps: Vec<Option<Stamp>> = rows
            .iter()
            .map(|row| row.as_ref().ok().map(|row| self.stamp(row)))
            .collect();
        let rows = if self.changes.so_far() == so_far {
            rows
        } else {
            // Read again they are no older than their counts.
            self.store.lane_endpoints(&ids).await
        };
        let stamped = rows.into_iter().zip(stamps).map(|(row, stamp)| {
            let row = row?;
            let never = || vec![(row.endpoint.id.as_u128(), NEVER_FRESH)];
            // What cannot be read is looked for again, as who asks for it tries again.
            let is_whole = row.tenant.is_ok() && row.application.is_ok();
            let stamp = stamp.filter(|_| is_whole).unwrap_or_else(never);
            Ok(Source { row, stamp })
        });
        stamped.collect()
    }

    fn stamp(&self, row: &LaneEndpoint) -> Stamp {
        let endpoint = &row.endpoint;
        [
            endpoint.id.as_u128(),
            endpoint.tenant.as_u128(),
            endpoint.application.as_u128(),
        ]
        .map(|thing| (thing, self.changes.of(thing)))
        .to_vec()
    }
}
