//! What all tenants share, turns, slots and memory, and what each has of it.
//!
//! Turns alone are not fair: a tenant whose requests hang would hold every slot soon. So a tenant may
//! have as many requests under way as there are free slots, and as many bytes as there are free bytes
//! (a dynamic threshold; Choudhury and Hahne 1998). One greedy tenant gets half, two a third each, and
//! something is always left for a tenant that has nothing yet.

use std::collections::{BTreeSet, VecDeque};

use postrider_core::id;

use super::{EndpointId, TenantId};
use crate::ids::IdMap;

#[derive(Debug)]
pub(super) struct Shares {
    tenants: IdMap<id::Tenant, Share>,
    /// Tenants with lanes that can send, in the order of their turns.
    ring: VecDeque<TenantId>,
    /// Tenants with lanes that can send, and all the slots they may have; the least first.
    parked: BTreeSet<(usize, TenantId)>,
    in_flight: usize,
    in_flight_max: usize,
    memory: usize,
    memory_max: usize,
}

#[derive(Debug, Default)]
struct Share {
    /// Lanes that can send now.
    lanes: VecDeque<EndpointId>,
    queued: Queued,
    in_flight: usize,
    memory: usize,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Queued {
    #[default]
    No,
    Ring,
    Parked,
}

impl Shares {
    pub(super) fn new(in_flight_max: usize, memory_max: usize) -> Self {
        Self {
            tenants: IdMap::default(),
            ring: VecDeque::new(),
            parked: BTreeSet::new(),
            in_flight: 0,
            in_flight_max: in_flight_max.max(1),
            memory: 0,
            memory_max,
        }
    }

    /// Whether a tenant waits because it has as many slots as it may.
    pub(super) fn is_parked(&self, tenant: TenantId) -> bool {
        let share = self.tenants.get(&tenant);
        share.is_some_and(|share| share.queued == Queued::Parked)
    }

    /// Whether a tenant has half of what it may have under way: what its lanes need beyond what they have learned would
    /// be lacking to others of them.
    pub(super) fn is_crowded(&self, tenant: TenantId) -> bool {
        let free = self.in_flight_max - self.in_flight;
        let own = self.tenants.get(&tenant).map_or(0, |share| share.in_flight);
        // It may have as many as are free when it has them: half of own and free together.
        own * 3 >= free
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    pub(super) fn memory(&self) -> usize {
        self.memory
    }

    /// Whether the tenant may hold more in memory.
    pub(super) fn has_room(&self, tenant: TenantId) -> bool {
        // Every lane may hold a few however full memory is, so more may be taken than there is.
        let free = self.memory_max.saturating_sub(self.memory);
        let own = self.tenants.get(&tenant).map_or(0, |share| share.memory);
        free > 0 && own <= free
    }

    pub(super) fn take_memory(&mut self, tenant: TenantId, bytes: usize) {
        self.memory += bytes;
        self.tenants.entry(tenant).or_default().memory += bytes;
    }

    pub(super) fn give_memory(&mut self, tenant: TenantId, bytes: usize) {
        self.memory -= bytes;
        if let Some(share) = self.tenants.get_mut(&tenant) {
            share.memory -= bytes;
        }
        self.let_go(tenant);
    }

    /// A lane can send.
    pub(super) fn queue(&mut self, tenant: TenantId, lane: EndpointId) {
        let share = self.tenants.entry(tenant).or_default();
        share.lanes.push_back(lane);
        // A parked tenant stays so until a slot is given back.
        if share.queued == Queued::No {
            share.queued = Queued::Ring;
            self.ring.push_back(tenant);
        }
    }

    /// The lane whose turn it is, if a slot is free for its tenant.
    pub(super) fn next(&mut self) -> Option<EndpointId> {
        loop {
            // Never below zero: a slot is taken only after one was found free here.
            let free = self.in_flight_max - self.in_flight;
            if free == 0 {
                return None;
            }
            let tenant = self.ring.pop_front()?;
            let Some(share) = self.tenants.get_mut(&tenant) else {
                continue;
            };
            // Out of the ring, so that no turn is spent on it while it may have no more.
            if share.in_flight >= free {
                share.queued = Queued::Parked;
                self.parked.insert((share.in_flight, tenant));
                continue;
            }
            let lane = share.lanes.pop_front();
            if share.lanes.is_empty() {
                share.queued = Queued::No;
            } else {
                self.ring.push_back(tenant);
            }
            match lane {
                Some(lane) => return Some(lane),
                None => self.let_go(tenant),
            }
        }
    }

    /// A request of the tenant starts.
    pub(super) fn take_slot(&mut self, tenant: TenantId) {
        self.in_flight += 1;
        self.recount(tenant, |share| share.in_flight += 1);
    }

    /// A request of the tenant ended.
    pub(super) fn give_slot(&mut self, tenant: TenantId) {
        self.in_flight -= 1;
        self.recount(tenant, |share| share.in_flight -= 1);
        let free = self.in_flight_max - self.in_flight;
        // The one with the least comes first: when it has too many, all behind it have.
        while let Some((in_flight, tenant)) = self.parked.first().copied()
            && in_flight < free
        {
            self.parked.pop_first();
            if let Some(share) = self.tenants.get_mut(&tenant) {
                share.queued = Queued::Ring;
                self.ring.push_back(tenant);
            }
        }
        self.let_go(tenant);
    }

    /// Changes how many requests a tenant has under way; a parked one keeps its place by that.
    fn recount(&mut self, tenant: TenantId, change: impl FnOnce(&mut Share)) {
        let share = self.tenants.entry(tenant).or_default();
        let before = share.in_flight;
        change(share);
        if share.queued == Queued::Parked && self.parked.remove(&(before, tenant)) {
            self.parked.insert((share.in_flight, tenant));
        }
    }

    fn let_go(&mut self, tenant: TenantId) {
        let idle = |share: &Share| {
            share.queued == Queued::No
                && share.lanes.is_empty()
                && share.in_flight == 0
                && share.memory == 0
        };
        if self.tenants.get(&tenant).is_some_and(idle) {
            self.tenants.remove(&tenant);
        }
    }
}

#[cfg(test)]
mod tests {
    use postrider_core::Id;

    use super::*;

    /// Takes slots for tenants that always want more, until nobody gets one.
    fn fill(shares: &mut Shares, tenants: &[TenantId]) -> IdMap<id::Tenant, usize> {
        let mut taken: IdMap<id::Tenant, usize> = IdMap::default();
        for tenant in tenants {
            shares.queue(*tenant, Id::from_u128(tenant.as_u128()));
        }
        while let Some(lane) = shares.next() {
            let tenant = Id::from_u128(lane.as_u128());
            shares.take_slot(tenant);
            *taken.entry(tenant).or_default() += 1;
            shares.queue(tenant, lane);
        }
        taken
    }

    #[test]
    fn one_tenant_gets_half_of_the_slots_and_several_get_the_same() {
        let tenants: Vec<TenantId> = (1..=9).map(Id::from_u128).collect();
        for greedy in 1..=9 {
            let mut shares = Shares::new(100, 0);
            let taken = fill(&mut shares, &tenants[..greedy]);
            let fair = 100 / (greedy + 1);
            for (tenant, count) in &taken {
                assert!(count.abs_diff(fair) <= 1, "{tenant:?} {count} of {fair}");
            }
            let late = fill(&mut shares, &[Id::from_u128(77)]);
            assert!(late.len() == 1, "a slot is left for whoever has none");
        }
    }

    #[test]
    fn a_parked_tenant_goes_on_when_slots_are_given_back() {
        let tenant = Id::from_u128(1);
        let mut shares = Shares::new(10, 0);
        let taken = fill(&mut shares, &[tenant])[&tenant];
        shares.give_slot(tenant);
        assert_eq!(shares.next().map(|lane| lane.as_u128()), Some(1));
        for _ in 1..taken {
            shares.give_slot(tenant);
        }
        assert_eq!(shares.in_flight(), 0);
        assert!(shares.tenants.is_empty(), "nothing is kept of an idle one");
    }
}
