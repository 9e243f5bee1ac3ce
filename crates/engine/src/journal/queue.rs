//! What waits for the journal, by tenant: nobody's flood keeps out or delays what others publish.

use std::collections::{HashMap, HashSet, VecDeque};

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
/// Deliveries that an event of a tenant is taken to make, before it is known: after a start nobody is, and a greater number would
/// be as many commits more. What makes more than there is room for comes back.
const FAN_OUT_UNKNOWN: usize = 16;
/// The same of one that was begun and is not whole: it makes many.
const FAN_OUT_BEGUN: usize = 256;
/// An event with more is likely to be written in pieces, of so many where a commit does not take long.
const FAN_OUT_LARGE: usize = 64;
/// Deliveries of events that are begun and not whole yet, about: they are in memory, on nobody's account. One event may be
/// more by itself.
const BEGUN_ROWS_MAX: usize = 65_536;
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

/// What a batch takes of those in line.
pub(super) struct Taken {
    pub(super) requests: Vec<RequestEntry>,
    /// Deliveries that they make, about.
    pub(super) rows: usize,
}

/// What an event of a tenant is taken to be.
#[derive(Debug, Clone, Copy)]
pub(super) struct FanOut {
    /// Deliveries that it makes.
    pub(super) makes: usize,
    /// What it takes, in deliveries: more where very many endpoints are looked at.
    pub(super) takes: usize,
}

impl FanOut {
    fn is_large(self) -> bool {
        self.makes.max(self.takes) > FAN_OUT_LARGE
    }
}

/// What is not known of any event.
const UNKNOWN: FanOut = FanOut {
    makes: FAN_OUT_UNKNOWN,
    takes: FAN_OUT_UNKNOWN,
};
/// What is resent or cancelled.
const ONE: FanOut = FanOut { makes: 1, takes: 1 };

/// Requests in the order of their turns: tenants in a ring, each tenant's in the order they came.
#[derive(Default)]
pub(super) struct Queue {
    tenants: HashMap<TenantId, VecDeque<RequestEntry>>,
    ring: VecDeque<TenantId>,
    /// What the last event of a tenant was.
    fan_outs: HashMap<TenantId, FanOut>,
    /// Tenants whose first in line was put back, with the deliveries that it makes; and their sum.
    begun: HashMap<TenantId, usize>,
    begun_rows: usize,
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
        // In their order, but whose is the first has had a turn: the last of all.
        let first = entries.first().map(|entry| entry.tenant);
        let others = entries.iter().map(|entry| entry.tenant);
        let others = others.filter(|tenant| Some(*tenant) != first);
        let mut placed = HashSet::new();
        if let Some(first) = first {
            self.ring.retain(|tenant| *tenant != first);
            let rows = self.fan_outs.get(&first).copied();
            let rows = rows.map_or(FAN_OUT_BEGUN, |known| known.makes);
            self.begun.insert(first, rows);
            self.begun_rows += rows;
        }
        for tenant in others.chain(first) {
            // Who has more in line is in the ring.
            let is_in = self.tenants.contains_key(&tenant) && Some(tenant) != first;
            if !is_in && placed.insert(tenant) {
                self.ring.push_back(tenant);
            }
        }
        for entry in entries.into_iter().rev() {
            self.tenants
                .entry(entry.tenant)
                .or_default()
                .push_front(entry);
        }
    }

    /// The next requests: at most `max`, and about as many deliveries as one transaction makes.
    pub(super) fn take(&mut self, max: usize) -> Taken {
        let mut taken = Vec::new();
        // What is written in several transactions goes behind what goes into the first of them. Only one has a piece in
        // each, so that the others keep their turn.
        let mut large: Option<RequestEntry> = None;
        let mut later = Vec::new();
        let mut behind = None;
        let mut rows = 0;
        // The rows are asked about before each: an event that makes more than all of them still goes.
        while taken.len() + usize::from(large.is_some()) < max
            && rows < TRANSACTION_ROWS
            && let Some(tenant) = self.ring.pop_front()
        {
            let Some(queue) = self.tenants.get_mut(&tenant) else {
                continue;
            };
            let is_event = |entry: &RequestEntry| matches!(entry.request, Request::Publish(..));
            let known = match queue.front().is_some_and(is_event) {
                true => self.fan_outs.get(&tenant).copied(),
                false => Some(ONE),
            };
            let begun = self.begun.get(&tenant).copied();
            // One that was put back is, though nobody knew before.
            // So is one that takes as much: what goes before the large one must leave it room.
            let is_large = begun.is_some() || known.is_some_and(FanOut::is_large);
            let has_room = begun.is_some()
                || self.begun.is_empty()
                || self.begun_rows + known.map_or(0, |known| known.makes) <= BEGUN_ROWS_MAX;
            if is_large && (large.is_some() || !has_room) {
                later.push(tenant);
                continue;
            }
            if let Some(rows) = begun {
                self.begun.remove(&tenant);
                self.begun_rows -= rows;
            }
            let entry = queue.pop_front();
            if is_large {
                large = entry;
            } else {
                taken.extend(entry);
            }
            if queue.is_empty() {
                self.tenants.remove(&tenant);
            } else if is_large {
                // It goes last, and what comes behind it not before it.
                behind = Some(tenant);
            } else {
                self.ring.push_back(tenant);
            }
            let known = known.unwrap_or(UNKNOWN);
            rows += match is_large {
                true => known.takes.min(FAN_OUT_LARGE),
                false => known.takes,
            };
        }
        for tenant in later.into_iter().rev() {
            self.ring.push_front(tenant);
        }
        self.ring.extend(behind);
        taken.extend(large);
        Taken {
            requests: taken,
            rows,
        }
    }

    /// What an event of the tenant was.
    pub(super) fn learn(&mut self, tenant: TenantId, event: FanOut) {
        if self.fan_outs.len() >= FAN_OUTS_MAX && !self.fan_outs.contains_key(&tenant) {
            // All at once: each is learned again by its next event.
            self.fan_outs.clear();
        }
        let FanOut { makes, takes } = event;
        let learned = FanOut {
            makes: makes.max(1),
            takes: takes.max(1),
        };
        self.fan_outs.insert(tenant, learned);
    }
}

#[cfg(test)]
mod tests {
    use postrider_core::Timestamp;
    use postrider_store::conformance::fixture::world;
    use postrider_store::memory::MemoryStore;

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

    fn of(makes: usize) -> FanOut {
        let takes = makes;
        FanOut { makes, takes }
    }

    fn entry(room: &Room, tenant: u128, request: Request) -> RequestEntry {
        let tenant = Id::from_u128(tenant);
        let place = room.take(tenant, 0).unwrap();
        RequestEntry {
            tenant,
            request,
            place,
        }
    }

    async fn an_event() -> impl Fn() -> Request {
        let store = Box::leak(Box::new(MemoryStore::new(1)));
        let world = world(&*store).await;
        move || {
            let event = world.publishing(Timestamp::from_secs(1), "a");
            Request::Publish(Box::new(event), tokio::sync::oneshot::channel().0)
        }
    }

    /// Events that are begun are in memory with all that they have so far.
    #[tokio::test]
    async fn not_all_large_events_are_begun_at_once() {
        const ROWS: usize = 1_000;
        let (room, event) = (Room::default(), an_event().await);
        let mut queue = Queue::default();
        for tenant in 0..200 {
            queue.learn(Id::from_u128(tenant), of(ROWS));
            queue.push(entry(&room, tenant, event()));
        }
        let mut begun = HashSet::new();
        for _ in 0..1_000 {
            let taken = queue.take(512).requests;
            begun.extend(taken.iter().map(|entry| entry.tenant));
            queue.put_back(taken);
        }
        assert_eq!(begun.len(), BEGUN_ROWS_MAX / ROWS);
    }

    /// A batch of events has their order, also where it took more than one transaction has room for.
    #[tokio::test]
    async fn what_was_put_back_goes_in_the_order_it_came() {
        let (room, event) = (Room::default(), an_event().await);
        let mut queue = Queue::default();
        queue.learn(Id::from_u128(1), of(1));
        let id = |entry: &RequestEntry| match &entry.request {
            Request::Publish(new, _) => new.event.id,
            _ => unreachable!("all are events"),
        };
        let entries: Vec<_> = (0..5).map(|_| entry(&room, 1, event())).collect();
        let came: Vec<_> = entries.iter().map(id).collect();
        for entry in entries {
            queue.push(entry);
        }
        let mut taken = queue.take(512).requests;
        let mut went = vec![id(&taken.remove(0))];
        queue.put_back(taken);
        while !queue.is_empty() {
            went.extend(queue.take(512).requests.iter().map(id));
        }
        assert_eq!(went, came);
    }

    /// Of a tenant whose events reach few, and are looked at by very many.
    #[tokio::test]
    async fn what_takes_much_leaves_room_for_what_makes_much() {
        let (room, event) = (Room::default(), an_event().await);
        let mut queue = Queue::default();
        let (makes, takes) = (1, 5_000);
        queue.learn(Id::from_u128(1), FanOut { makes, takes });
        queue.learn(Id::from_u128(2), of(1_000));
        for _ in 0..100 {
            queue.push(entry(&room, 1, event()));
        }
        queue.push(entry(&room, 2, event()));
        let mut rounds = 0;
        let mut is_written = false;
        while !is_written && rounds < 3 {
            rounds += 1;
            // As the store does it: until there is no room.
            let (mut left, mut put_back) = (TRANSACTION_ROWS, Vec::new());
            for entry in queue.take(512).requests {
                if left == 0 {
                    put_back.push(entry);
                    continue;
                }
                is_written |= entry.tenant.as_u128() == 2;
                let work = if entry.tenant.as_u128() == 1 {
                    takes
                } else {
                    64
                };
                left = left.saturating_sub(work);
            }
            queue.put_back(put_back);
        }
        assert!(is_written, "the other goes before it each time");
    }

    /// A tenant with large events resends and cancels as everybody does.
    #[tokio::test]
    async fn what_is_about_one_delivery_is_not_large() {
        let (room, event) = (Room::default(), an_event().await);
        let mut queue = Queue::default();
        for tenant in [1, 2] {
            queue.learn(Id::from_u128(tenant), of(10_000));
        }
        let finish = || {
            let finish = postrider_store::FinishDelivery {
                delivery: Id::from_u128(1),
                endpoint: Id::from_u128(1),
                state: postrider_core::delivery::DeliveryState::Cancelled,
            };
            Request::Finish(finish, tokio::sync::oneshot::channel().0)
        };
        queue.push(entry(&room, 1, event()));
        for _ in 0..100 {
            queue.push(entry(&room, 2, finish()));
        }
        let taken = queue.take(512);
        assert_eq!(taken.requests.len(), 101);
        assert_eq!(taken.rows, 100 + FAN_OUT_LARGE);
    }

    #[tokio::test]
    async fn tenants_with_large_events_have_their_turns() {
        const TENANTS: u128 = 5;
        const PIECES: usize = 4;
        let (room, event) = (Room::default(), an_event().await);
        let entry = |tenant: u128| entry(&room, tenant, event());
        let mut queue = Queue::default();
        for tenant in 1..=TENANTS {
            queue.learn(Id::from_u128(tenant), of(1_000));
            // One waits in line, or several.
            for _ in 0..tenant {
                queue.push(entry(tenant));
            }
        }
        queue.push(entry(99));
        let mut ended: HashMap<u128, usize> = HashMap::new();
        let mut pieces: HashMap<u128, usize> = HashMap::new();
        for round in 0..400 {
            let mut taken = queue.take(512).requests;
            if round == 0 {
                assert_eq!(taken.remove(0).tenant.as_u128(), 99, "small ones go first");
            }
            let [one] = <[RequestEntry; 1]>::try_from(taken).ok().unwrap();
            let tenant = one.tenant.as_u128();
            let done = pieces.entry(tenant).or_default();
            *done += 1;
            if *done < PIECES {
                queue.put_back(vec![one]);
            } else {
                *done = 0;
                *ended.entry(tenant).or_default() += 1;
                queue.push(entry(tenant));
            }
        }
        assert_eq!(ended.len(), 5);
        assert!(ended.values().all(|count| *count == 20), "{ended:?}");
    }
}
