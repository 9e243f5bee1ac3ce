//! What waits for the journal, by tenant: nobody's flood keeps out or delays what others publish.

use std::collections::{HashMap, VecDeque};

use postrider_core::limits::TRANSACTION_ROWS;
use postrider_core::{Id, id};

use super::{Busy, Request, RequestEntry};
use crate::budget::{Budget, Grant};

type TenantId = Id<id::Tenant>;

/// Publishes and resends that wait; one more is refused.
const REQUESTS_MAX: usize = 8_192;
/// KiB of payload that waits; more is refused.
const REQUEST_KIB_MAX: usize = 64 * 1_024;
/// Of both.
pub(crate) const WAITING_MAX: (usize, usize) = (REQUESTS_MAX, REQUEST_KIB_MAX);
/// Deliveries that an event of a tenant is taken to make, before it is known.
const FAN_OUT_UNKNOWN: usize = 256;
/// An event with more is likely to be written in pieces.
const FAN_OUT_LARGE: usize = 256;
/// Tenants whose last fan-out is remembered.
const FAN_OUTS_MAX: usize = 100_000;

/// Room for what waits. One tenant that floods gets half.
#[derive(Debug, Clone)]
pub(super) struct Room {
    requests: Budget,
    kib: Budget,
}

/// The room of one request; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    _request: Grant,
    _kib: Grant,
}

impl Default for Room {
    fn default() -> Self {
        Self {
            requests: Budget::new(REQUESTS_MAX),
            kib: Budget::new(REQUEST_KIB_MAX),
        }
    }
}

impl Room {
    /// Requests and KiB of payload that have a place.
    pub(super) fn taken(&self) -> (usize, usize) {
        (self.requests.taken(), self.kib.taken())
    }

    pub(super) fn take(&self, tenant: TenantId, bytes: usize) -> Result<Place, Busy> {
        let holder = tenant.as_u128();
        Ok(Place {
            _request: self.requests.take(holder, 1).ok_or(Busy)?,
            _kib: self.kib.take(holder, bytes / 1_024 + 1).ok_or(Busy)?,
        })
    }
}

/// Requests in the order of their turns: tenants in a ring, each tenant's in the order they came.
#[derive(Default)]
pub(super) struct Queue {
    tenants: HashMap<TenantId, VecDeque<RequestEntry>>,
    ring: VecDeque<TenantId>,
    /// Deliveries that the last event of a tenant made.
    fan_outs: HashMap<TenantId, usize>,
}

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        self.ring.is_empty()
    }

    pub(super) fn push(&mut self, entry: RequestEntry) {
        let queue = self.tenants.entry(entry.tenant).or_default();
        if queue.is_empty() {
            self.ring.push_back(entry.tenant);
        }
        queue.push_back(entry);
    }

    /// Back in line with requests that found no room in a transaction: before all others of their tenants, and behind other
    /// tenants.
    pub(super) fn put_back(&mut self, entries: Vec<RequestEntry>) {
        for entry in entries.into_iter().rev() {
            let queue = self.tenants.entry(entry.tenant).or_default();
            if queue.is_empty() {
                self.ring.push_back(entry.tenant);
            }
            queue.push_front(entry);
        }
    }

    /// The next requests: at most `max`, and about as many deliveries as one transaction makes.
    pub(super) fn take(&mut self, max: usize) -> Vec<RequestEntry> {
        let mut taken = Vec::new();
        // What is written in several transactions goes behind what goes into the first of them.
        let mut large = Vec::new();
        let mut rows = 0;
        // The rows are asked about before each: an event that makes more than all of them still goes.
        while taken.len() + large.len() < max
            && rows < TRANSACTION_ROWS
            && let Some(tenant) = self.ring.pop_front()
        {
            let Some(queue) = self.tenants.get_mut(&tenant) else {
                continue;
            };
            let entry = queue.pop_front();
            let makes_many = entry
                .as_ref()
                .is_some_and(|entry| matches!(entry.request, Request::Publish(..)));
            let known = self.fan_outs.get(&tenant).copied();
            if known.is_some_and(|known| known > FAN_OUT_LARGE) {
                large.extend(entry);
            } else {
                taken.extend(entry);
            }
            if queue.is_empty() {
                self.tenants.remove(&tenant);
            } else {
                self.ring.push_back(tenant);
            }
            // What is resent or cancelled is one.
            rows += if makes_many {
                known.unwrap_or(FAN_OUT_UNKNOWN)
            } else {
                1
            };
        }
        taken.append(&mut large);
        taken
    }

    /// How many deliveries an event of the tenant made.
    pub(super) fn learn(&mut self, tenant: TenantId, deliveries: usize) {
        if self.fan_outs.len() >= FAN_OUTS_MAX && !self.fan_outs.contains_key(&tenant) {
            // All at once: each is learned again by its next event.
            self.fan_outs.clear();
        }
        self.fan_outs.insert(tenant, deliveries.max(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_gets_half_and_leaves_the_rest_to_others() {
        let (flood, calm) = (Id::from_u128(1), Id::from_u128(2));
        let room = Room::default();
        let mut places = Vec::new();
        while let Ok(place) = room.take(flood, 0) {
            places.push(place);
        }
        assert_eq!(places.len(), REQUESTS_MAX / 2);
        assert!(room.take(calm, 256 * 1_024).is_ok());
    }
}
