//! A lane: what one endpoint has to get, and how much of it at once.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use postrider_core::endpoint::Ordering;
use postrider_core::judge::Signal;
use postrider_core::{Id, Timestamp, id};
use postrider_store::DueDelivery;

use super::breaker::{Breaker, FAILURES_TO_OPEN};
use super::concurrency::{Begun, Concurrency};
use super::rate::Rate;
use super::{LaneConfig, MachineLimits, PageWish, TenantId};
use crate::ids::{IdMap, IdSet};

/// Rows of a page of the store, when the pages before it were of use.
const PAGE_ROWS: u32 = 256;
/// Rows of the first page, and when memory is full: just enough to go on.
const PAGE_ROWS_SCARCE: u32 = 16;
/// Bytes of a page beside what is known already, and when memory is full. One delivery may have more.
const PAGE_BYTES: usize = 1024 * 1024;
const PAGE_BYTES_SCARCE: usize = 64 * 1024;
/// Deliveries that a lane may hold however full memory is, so that lanes which hold much cannot
/// bring those which need little to a halt. One whose receiver fails holds no more: what it held beside would be room that
/// others lack.
const SHARE: usize = 16;
/// Bytes of them: a lane that holds as many takes none beside the first, or lanes of large events would fill memory
/// many times over.
const SHARE_BYTES: usize = 64 * 1024;
const LOAD_RETRY: Duration = Duration::from_secs(1);
/// Bytes that a delivery takes beside its payload.
const ITEM_OVERHEAD: usize = 512;

type Place = (i64, Id<id::Delivery>);

/// A delivery that is taken.
#[derive(Debug)]
struct Underway {
    /// The ordering key, where that keeps others back.
    key: Option<String>,
    /// Somebody ended it meanwhile.
    ended: bool,
}

#[derive(Debug)]
pub(super) struct Lane {
    pub(super) config: Option<LaneConfig>,
    pub(super) asked_config: bool,
    /// In the ring of its tenant.
    pub(super) queued: bool,
    pub(super) timer: Option<Timestamp>,
    /// A `FinishPending` is under way.
    pub(super) finishing: bool,
    /// In the order of their places; waiting and due ones alike.
    items: BTreeMap<Place, DueDelivery>,
    known: IdSet<id::Delivery>,
    /// Taken and not settled: sent, expiring, or being recorded.
    unsettled: IdMap<id::Delivery, Underway>,
    /// Requests under way.
    in_flight: usize,
    /// Bytes of what is held or unsettled.
    bytes: usize,
    concurrency: Concurrency,
    /// Kept where the schedule is exact.
    begun: Begun,
    paused_until: Timestamp,
    /// When its owner did something about it last: what was sent before tells of a receiver that it was.
    begun_anew: Timestamp,
    /// This server could not send for the lane the last time: one at a time tries whether it can.
    unsendable: bool,
    breaker: Breaker,
    /// In a row.
    failures: u32,
    rate: Rate,
    /// Lower bound of the places of what waits in the store only.
    stored: Option<Timestamp>,
    /// Settled while a page was being read: the page may still show them as pending.
    loading: Option<IdSet<id::Delivery>>,
    /// The page that is being read lacks what is to go first.
    is_page_void: bool,
    load_not_before: Timestamp,
    /// Rows of the next page: few, until they turn out to be sent.
    page_rows: u32,
    /// Something may be pending although the lane is closed.
    unfinished: bool,
}

impl Lane {
    /// An empty lane that may have `ceiling` requests at once, at most.
    pub(super) fn new(ceiling: usize) -> Self {
        Self {
            config: None,
            asked_config: false,
            queued: false,
            timer: None,
            finishing: false,
            items: BTreeMap::new(),
            known: IdSet::default(),
            unsettled: IdMap::default(),
            in_flight: 0,
            bytes: 0,
            concurrency: Concurrency::new(ceiling),
            begun: Begun::default(),
            paused_until: Timestamp::default(),
            begun_anew: Timestamp::default(),
            unsendable: false,
            breaker: Breaker::default(),
            failures: 0,
            rate: Rate::default(),
            stored: None,
            loading: None,
            is_page_void: false,
            load_not_before: Timestamp::default(),
            page_rows: PAGE_ROWS_SCARCE,
            unfinished: false,
        }
    }
}

/// When a lane can send next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    Now,
    At(Timestamp),
    /// Not before something happens to it.
    Never,
}

impl Lane {
    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    /// The lane holds less than every lane may.
    pub(super) fn has_share(&self) -> bool {
        let held = self.items.len() + self.unsettled.len();
        let is_keyed = self
            .config
            .is_some_and(|config| config.ordering == Ordering::Key);
        // Where keys keep each other back, one that waits for hours must not be all that the lane may hold.
        let bytes_max = if is_keyed {
            SHARE * SHARE_BYTES
        } else {
            SHARE_BYTES
        };
        held == 0 || (held < SHARE && self.bytes < bytes_max)
    }

    /// The receiver failed again and again, and has not answered well since; a breaker is open then, if the lane has one.
    /// Not said of a lane that orders by keys: all of the few that it would hold may wait for one key, and every other with them.
    pub(super) fn is_failing(&self) -> bool {
        let keyed = |config: LaneConfig| config.ordering == Ordering::Key;
        self.failures >= FAILURES_TO_OPEN && !self.config.is_some_and(keyed)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.config.is_some_and(|config| config.closed.is_some())
    }

    /// Of the first delivery that is held in memory.
    pub(super) fn first_place(&self) -> Option<Timestamp> {
        let (place, _) = self.items.keys().next()?;
        Some(Timestamp::from_micros(*place))
    }

    pub(super) fn is_held(&self) -> bool {
        self.config.is_some_and(|config| config.held)
    }

    pub(super) fn is_ordered(&self) -> bool {
        self.config
            // Until its endpoint is known a lane keeps order, so that nothing was overtaken if it has one.
            .is_none_or(|config| config.ordering != Ordering::None)
    }

    pub(super) fn has_stored(&self) -> bool {
        // What a page on its way brings may be older than whatever comes now.
        self.stored.is_some() || self.loading.is_some()
    }

    pub(super) fn has_underway(&self) -> bool {
        !self.unsettled.is_empty()
    }

    /// Requests under way, and how many may be.
    pub(super) fn in_flight(&self) -> (usize, usize) {
        (self.in_flight, self.concurrency.allowed())
    }

    pub(super) fn breaker(&self) -> Breaker {
        self.breaker
    }

    /// Since when the first delivery is due, here or in the store; none where it is not yet.
    pub(super) fn due_since(&self, now: Timestamp) -> Option<Timestamp> {
        let held = self
            .items
            .first_key_value()
            .map(|((place, _), due)| Timestamp::from_micros(*place).max(due.delivery.due_at));
        // The place of what is in the store only is a lower bound, and zero where nobody knows.
        let stored = self.stored.filter(|place| *place > Timestamp::default());
        let first = [held, stored].into_iter().flatten().min()?;
        (first <= now).then_some(first)
    }

    pub(super) fn is_idle(&self) -> bool {
        self.items.is_empty()
            && self.unsettled.is_empty()
            && self.in_flight == 0
            && !self.has_stored()
            && !self.unfinished
            && !self.finishing
            && !self.queued
            && self.timer.is_none()
    }

    /// Takes a new configuration; returns the bytes that a closing lane lets go.
    pub(super) fn configure(&mut self, now: Timestamp, config: LaneConfig) -> usize {
        let was_ordered = self.is_ordered();
        let was_closed = self.is_closed();
        let first = self.config.is_none();
        let has_moved = self
            .config
            .is_some_and(|before| before.receiver != config.receiver);
        self.config = Some(config);
        self.asked_config = false;
        // `turn` does not ask whether the lane has one: an open one would go on holding it back.
        if !config.breaker {
            self.breaker = Breaker::default();
        }
        // Its owner has done something about it: what the receiver asked for before, a pause of days it may be, holds no more.
        if has_moved || (was_closed && config.closed.is_none()) {
            self.paused_until = Timestamp::default();
            self.breaker = Breaker::default();
            self.failures = 0;
            self.begun_anew = now;
        }
        if config.closed.is_some() {
            // Of a lane that was just made nobody knows what the store has, so it is finished to be sure.
            self.unfinished |=
                !self.items.is_empty() || self.has_stored() || !self.unsettled.is_empty() || first;
            return self.drop_items();
        }
        // Held: what it had in memory is in the store too.
        if config.held {
            if was_closed || !self.items.is_empty() {
                self.begin_with_first();
            }
            return self.drop_items();
        }
        // Enabled again, or of another order: what the store has is the truth.
        if was_closed || (!first && was_ordered != self.is_ordered()) {
            self.begin_with_first();
            return self.drop_items();
        }
        0
    }

    pub(super) fn drop_items(&mut self) -> usize {
        // What is under way stays counted until it is settled.
        self.known.clear();
        let bytes = self.items.values().map(size).sum();
        self.items.clear();
        self.bytes -= bytes;
        bytes
    }

    /// A lane whose receiver fails leaves what it will not need soon in the store; returns the bytes that it lets go.
    pub(super) fn leave_most(&mut self) -> usize {
        // A page that is being read may begin behind what would be left: an ordered lane waits for it.
        if !self.is_failing() || (self.is_ordered() && self.loading.is_some()) {
            return 0;
        }
        self.page_rows = PAGE_ROWS_SCARCE;
        let mut kept = 0;
        let beyond = self.items.iter().enumerate().find(|(at, (_, item))| {
            let is_beyond = *at >= SHARE || (*at > 0 && kept >= SHARE_BYTES);
            kept += size(item);
            is_beyond
        });
        let Some((_, (from, _))) = beyond else {
            return 0;
        };
        let from = *from;
        // One that the store has before what is kept would come back with the next page, again and again.
        let goes = |item: &DueDelivery| item.sequence >= from.0;
        let mut bytes = 0;
        for (place, item) in self.items.split_off(&from) {
            if goes(&item) {
                self.known.remove(&item.delivery.id);
                self.leave_in_store(Timestamp::from_micros(item.sequence));
                bytes += size(&item);
            } else {
                self.items.insert(place, item);
            }
        }
        self.bytes -= bytes;
        bytes
    }

    /// Holds a delivery in memory; returns its size.
    pub(super) fn insert(&mut self, due: DueDelivery) -> usize {
        let size = size(&due);
        let place = if self.is_ordered() {
            due.sequence
        } else {
            // A retry that kept its place in the store must not hold up others here.
            due.sequence.max(due.delivery.due_at.as_micros())
        };
        // It is here already, and its bytes are counted.
        if !self.known.insert(due.delivery.id) {
            return 0;
        }
        self.items.insert((place, due.delivery.id), due);
        self.bytes += size;
        size
    }

    pub(super) fn leave_in_store(&mut self, place: Timestamp) {
        if self.is_closed() {
            // A closed lane reads no pages: what is left in the store is finished there.
            self.unfinished = true;
        } else {
            self.stored = Some(self.stored.map_or(place, |stored| stored.min(place)));
        }
    }

    /// Whether a delivery is held or under way.
    pub(super) fn holds(&self, due: &DueDelivery) -> bool {
        self.known.contains(&due.delivery.id) || self.unsettled.contains_key(&due.delivery.id)
    }

    /// Whether a row of a page is held, under way, or was settled while the page was read.
    pub(super) fn knows(&self, due: &DueDelivery) -> bool {
        self.holds(due)
            || self
                .loading
                .as_ref()
                .is_some_and(|settled| settled.contains(&due.delivery.id))
    }

    /// The page came: what is left in the store begins at `next`, or at what was left meanwhile.
    pub(super) fn end_load(&mut self, next: Option<Timestamp>) {
        self.stored = [self.stored, next].into_iter().flatten().min();
    }

    /// What the lane gets next is the first that the store has. A page that is being read is not used: it may begin behind
    /// that.
    pub(super) fn begin_with_first(&mut self) {
        self.leave_in_store(Timestamp::default());
        self.is_page_void = self.loading.is_some();
    }

    /// Whether the page that was read is not to be used.
    pub(super) fn is_page_void(&mut self) -> bool {
        std::mem::take(&mut self.is_page_void)
    }

    pub(super) fn forget_settled(&mut self) {
        self.loading = None;
    }

    pub(super) fn load_failed(&mut self, now: Timestamp) {
        self.loading = None;
        self.is_page_void = false;
        self.load_not_before = now.plus(LOAD_RETRY);
        // Where the page was to begin is forgotten, so the next one begins with the first that waits.
        self.leave_in_store(Timestamp::default());
    }

    /// What to ask the store for now, if anything. Notes that the page is being read.
    pub(super) fn wants_page(
        &mut self,
        now: Timestamp,
        limits: &MachineLimits,
        memory_full: bool,
    ) -> Option<PageWish> {
        if self.is_held() {
            return None;
        }
        let from = self
            .stored
            .filter(|place| *place <= now.plus(limits.horizon))?;
        let room = if self.is_failing() {
            // It takes a page whole, so it asks for one when it has sent the last. Where the schedule is exact what hangs
            // keeps back nothing that is due, while there is memory for it.
            let may_hold = self.config.is_some_and(is_exact) && !memory_full;
            self.items.is_empty() && (self.has_share() || may_hold)
        } else if memory_full {
            self.has_share()
        } else {
            self.items.len() < limits.lane_items_max / 2
        };
        // Far retries in memory do not keep out what is due before them: the probe may be among it.
        let room = room
            || self
                .items
                .keys()
                .next()
                .is_some_and(|(place, _)| from.as_micros() < *place);
        if !room || self.loading.is_some() || now < self.load_not_before {
            return None;
        }
        self.loading = Some(IdSet::default());
        // The page's `next` says it anew; until then this is the place of what is left there meanwhile.
        self.stored = None;
        // A failing lane keeps little of a page.
        let (rows, bytes) = if memory_full || self.is_failing() {
            (PAGE_ROWS_SCARCE, PAGE_BYTES_SCARCE)
        } else {
            (self.page_rows, PAGE_BYTES)
        };
        self.page_rows = match self.is_failing() {
            true => PAGE_ROWS_SCARCE,
            false => (self.page_rows * 2).min(PAGE_ROWS),
        };
        // What is known may come back with the page, so ask for that much more. Not where the lane keeps little of it
        // anyway: what hangs may be large, and would be read again with each page.
        let (known, held) = if self.is_failing() {
            (0, 0)
        } else {
            (self.known.len() + self.unsettled.len(), self.bytes)
        };
        Some(PageWish {
            from,
            rows: rows.saturating_add(u32::try_from(known).unwrap_or(u32::MAX)),
            bytes: bytes + held,
        })
    }

    /// When to look at the store again, if something waits there.
    pub(super) fn wake_for_page(
        &self,
        now: Timestamp,
        limits: &MachineLimits,
    ) -> Option<Timestamp> {
        let place = self
            .stored
            .filter(|_| self.loading.is_none() && !self.is_held())?;
        let at = place.minus(limits.horizon).max(self.load_not_before);
        // A lane without room looks again when a delivery settles.
        (at > now).then_some(at)
    }

    /// When the lane can send its next delivery; `crowded` where its tenant has taken much of what there is.
    pub(super) fn turn(&self, now: Timestamp, crowded: bool) -> Turn {
        let Some(config) = self
            .config
            .filter(|config| config.closed.is_none() && !config.held)
        else {
            return Turn::Never;
        };
        if self.unsendable && self.in_flight > 0 {
            return Turn::Never;
        }
        let Some(slot_at) = self.slot_at(config, now, crowded) else {
            return Turn::Never;
        };
        let Some((_, due)) = self.candidate(config.ordering, now) else {
            return Turn::Never;
        };
        let Some(opens_at) = self.breaker.opens_at(now, self.in_flight) else {
            return Turn::Never;
        };
        let rate_at = config
            .rate_limit
            .map_or(now, |limit| self.rate.opens_at(limit, now));
        let at = due
            .max(self.paused_until)
            .max(slot_at)
            .max(opens_at)
            .max(rate_at);
        if at <= now { Turn::Now } else { Turn::At(at) }
    }

    /// When one request more may be under way; none before one of those has ended. Where the schedule is exact those that
    /// hang keep no other back, as long as the lanes of the same tenant leave each other enough.
    fn slot_at(&self, config: LaneConfig, now: Timestamp, crowded: bool) -> Option<Timestamp> {
        let allowed = self.concurrency.allowed();
        if self.in_flight < allowed {
            return Some(now);
        }
        let may_have_more =
            is_exact(config) && !crowded && self.in_flight < self.concurrency.ceiling();
        may_have_more.then(|| self.begun.next_at(now))
    }

    /// Whether it has as many under way as it has learned, and may have more.
    pub(super) fn would_have_more(&self) -> bool {
        self.in_flight >= self.concurrency.allowed() && self.config.is_some_and(is_exact)
    }

    /// Until when what was sent counts against the rate; none when it does not any more. A lane that is let go before
    /// that would come back with a whole second's worth.
    pub(super) fn limited_until(&self, now: Timestamp) -> Option<Timestamp> {
        self.config?.rate_limit?;
        self.rate.over_at().filter(|over| *over > now)
    }

    /// The delivery whose turn it is next, and when it is due.
    fn candidate(&self, ordering: Ordering, now: Timestamp) -> Option<(Place, Timestamp)> {
        match ordering {
            Ordering::None => self
                .items
                .iter()
                .next()
                .map(|(place, item)| (*place, item.delivery.due_at)),
            // Until its record is committed, for only that says whether it goes first again.
            Ordering::Endpoint if !self.unsettled.is_empty() => None,
            Ordering::Endpoint => self
                .items
                .iter()
                .next()
                .map(|(place, item)| (*place, item.delivery.due_at)),
            Ordering::Key => self.candidate_by_key(now),
        }
    }

    /// The first delivery whose key is free: nothing of it is under way or earlier in line.
    fn candidate_by_key(&self, now: Timestamp) -> Option<(Place, Timestamp)> {
        let mut busy: HashSet<&str> = self
            .unsettled
            .values()
            .filter_map(|underway| underway.key.as_deref())
            .collect();
        // Where nothing is due now, the timer of the lane is set for this one.
        let mut soonest: Option<(Place, Timestamp)> = None;
        for (place, item) in &self.items {
            let free = match item.event.ordering_key.as_deref() {
                Some(key) => busy.insert(key),
                None => true,
            };
            let due = item.delivery.due_at;
            if free && due <= now {
                return Some((*place, due));
            }
            if free && soonest.is_none_or(|(_, at)| due < at) {
                soonest = Some((*place, due));
            }
        }
        soonest
    }

    /// Takes the delivery whose turn it is. It counts as held in memory until it is settled.
    pub(super) fn take(&mut self, now: Timestamp, crowded: bool) -> Option<DueDelivery> {
        if self.turn(now, crowded) != Turn::Now {
            return None;
        }
        let ordering = self.config?.ordering;
        let (place, _) = self.candidate(ordering, now)?;
        let item = self.items.remove(&place)?;
        self.known.remove(&item.delivery.id);
        let key = if ordering == Ordering::Key {
            item.event.ordering_key.clone()
        } else {
            None
        };
        let underway = Underway { key, ended: false };
        self.unsettled.insert(item.delivery.id, underway);
        Some(item)
    }

    /// A request starts.
    pub(super) fn start(&mut self, now: Timestamp) {
        self.in_flight += 1;
        self.breaker.started(now);
        if self.config.is_some_and(is_exact) {
            self.begun.started(now);
        }
        if let Some(rate) = self.config.and_then(|config| config.rate_limit) {
            self.rate.started(rate, now);
        }
    }

    /// A request ended: its slot is free, and the lane learns from it. `took` is how long the receiver
    /// needed for its answer.
    pub(super) fn released(
        &mut self,
        now: Timestamp,
        started_at: Timestamp,
        took: Option<Duration>,
        signal: Signal,
    ) {
        // Asked before the slot is given back: with one slot free an answer says nothing of the limit.
        let was_busy = self.in_flight >= self.concurrency.allowed();
        self.in_flight -= 1;
        let config = self.config;
        if started_at < self.begun_anew {
            return;
        }
        match signal {
            Signal::Well => {
                self.breaker.succeeded();
                self.failures = 0;
                self.unsendable = false;
                self.concurrency.answered(now, took, was_busy);
            }
            // Whatever the profile has of pauses: no schedule is kept by what cannot be sent.
            Signal::Unheard { pause } => {
                if let Some(pause) = pause {
                    self.unsendable = true;
                    self.paused_until = self.paused_until.max(now.plus(pause));
                }
            }
            Signal::Strained { pause } => {
                self.unsendable = false;
                self.concurrency.strained(now, started_at);
                // Counted without a breaker too: how much the lane holds depends on it.
                self.failures = self.failures.saturating_add(1);
                if config.is_some_and(|config| config.breaker) {
                    self.breaker.failed(now);
                }
                // Without it the schedule is exact: no receiver puts off the lane's other deliveries.
                if let Some(pause) = pause.filter(|_| config.is_some_and(|config| config.throttle))
                {
                    self.paused_until = self.paused_until.max(now.plus(pause));
                }
            }
        }
    }

    pub(super) fn is_under_way(&self, delivery: Id<id::Delivery>) -> bool {
        self.unsettled.contains_key(&delivery)
    }

    /// Lets a delivery go; returns its size, and whether somebody ended it meanwhile.
    pub(super) fn settle(&mut self, due: &DueDelivery) -> (usize, bool) {
        let underway = self.unsettled.remove(&due.delivery.id);
        if let Some(settled) = &mut self.loading {
            settled.insert(due.delivery.id);
        }
        let size = size(due);
        // Counted since it was inserted: `take` left it in.
        self.bytes -= size;
        (size, underway.is_some_and(|underway| underway.ended))
    }

    /// Lets a delivery go that somebody ended, now or when its attempt is settled. It may be resent already: what
    /// the store has of it is the truth. Returns whose memory is free.
    pub(super) fn end(&mut self, delivery: Id<id::Delivery>) -> Option<(TenantId, usize)> {
        if let Some(settled) = &mut self.loading {
            settled.insert(delivery);
        }
        if let Some(underway) = self.unsettled.get_mut(&delivery) {
            underway.ended = true;
        }
        if !self.known.remove(&delivery) {
            return None;
        }
        let place = self.items.keys().find(|(_, id)| *id == delivery).copied()?;
        let item = self.items.remove(&place)?;
        let size = size(&item);
        self.bytes -= size;
        self.leave_in_store(Timestamp::from_micros(item.sequence));
        Some((item.delivery.tenant, size))
    }

    /// A closed lane finishes what is pending once nothing is under way.
    pub(super) fn wants_finish(&self) -> bool {
        // What is under way ends by its own record; what a page brings is finished with the rest.
        self.unfinished && !self.finishing && self.unsettled.is_empty() && self.loading.is_none()
    }

    pub(super) fn begin_finish(&mut self) {
        // Whatever is left in the store while this runs sets it again.
        self.unfinished = false;
        self.finishing = true;
        self.stored = None;
    }
}

/// Whether attempts are made at the times of the schedule, however the receiver is: it has no other brake.
fn is_exact(config: LaneConfig) -> bool {
    !config.breaker && !config.throttle
}

fn size(due: &DueDelivery) -> usize {
    due.event.payload_bytes() + ITEM_OVERHEAD
}
