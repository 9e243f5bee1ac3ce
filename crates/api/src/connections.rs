//! The places for callers' connections: nobody keeps others out by holding them.
//!
//! Anybody may connect, and a connection on which nothing is asked costs the one who has it nothing. So a network has no
//! more of them than are free, but for proxies, behind which everybody is: what it opens beyond is in the place of what
//! it had, or is closed. And before the last places are taken, some are taken back: from the network that has the most,
//! of its connections without a request under way the one that has been so for the longest.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body, Frame, SizeHint};
use ipnet::IpNet;
use postrider_core::address::{CUSTOMER_BITS, network};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Of so many places one is kept free for those who come.
const RESERVE_PART: usize = 16;
/// Of so many of its places a network that wants more than its share gives one up at a time.
const GIVEN_UP_PART: usize = 16;
/// How long nothing was asked on a connection before its place may be somebody else's: who has come gets to speak.
const IDLE_MIN: Duration = Duration::from_secs(1);
/// Until it is looked again whether a place can be taken back, where there was none.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// In the place of a time: a request is under way.
const BUSY: u64 = u64::MAX;

/// The connections of a listener.
#[derive(Debug, Clone)]
pub struct Connections(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    max: usize,
    permits: Arc<Semaphore>,
    places: Mutex<Places>,
    began: Instant,
    /// Networks of proxies, which may have all places.
    proxies: Arc<[IpNet]>,
}

#[derive(Debug, Default)]
struct Places {
    next: u64,
    networks: HashMap<u128, Network>,
    /// Those that were asked to leave, and have nothing to end before.
    leaving: usize,
    /// Until then there was nothing to be taken back.
    rests_until: Option<Instant>,
}

/// The connections of a network.
#[derive(Debug, Default)]
struct Network {
    taken: HashMap<u64, Arc<Use>>,
    /// Of them, those that were asked to leave, and have nothing to end before.
    leaving: usize,
    /// Until then it has nothing to give up.
    rests_until: Option<Instant>,
}

/// What a connection is used for.
#[derive(Debug)]
struct Use {
    connections: Arc<Shared>,
    network: u128,
    /// Milliseconds from the beginning at which the last request had ended, and the last of its answer had left; or [`BUSY`].
    idle_since: AtomicU64,
    is_to_leave: CancellationToken,
    /// It is one of [`Places::leaving`].
    is_leaving: AtomicBool,
}

impl Connections {
    pub(crate) fn new(max: usize, proxies: Arc<[IpNet]>) -> Self {
        Self(Arc::new(Shared {
            max,
            permits: Arc::new(Semaphore::new(max)),
            places: Mutex::default(),
            began: Instant::now(),
            proxies,
        }))
    }

    /// How many are open, one that waits for the next client counted in.
    pub fn open(&self) -> usize {
        self.max()
            .saturating_sub(self.0.permits.available_permits())
    }

    pub fn max(&self) -> usize {
        self.0.max
    }

    /// Waits for room for one more.
    pub(crate) async fn room(&self) -> OwnedSemaphorePermit {
        loop {
            self.0.take_back();
            let permit = self.0.permits.clone().acquire_owned();
            // The semaphore is never closed.
            if let Ok(Ok(permit)) = tokio::time::timeout(LOOK_EVERY, permit).await {
                return permit;
            }
        }
    }

    /// The place of a connection from `address`; none when its network has as many as are free, all of them in use.
    pub(crate) fn place(&self, permit: OwnedSemaphorePermit, address: IpAddr) -> Option<Place> {
        let address = address.to_canonical();
        let shared = &self.0;
        let is_proxy = shared.proxies.iter().any(|proxy| proxy.contains(&address));
        let network = network(address, CUSTOMER_BITS);
        let mut places = shared.lock();
        let places = &mut *places;
        // With the one that is to be had.
        let free = shared.permits.available_permits() + places.leaving + 1;
        let of = places.networks.entry(network).or_default();
        // Those that leave are nobody's any more: counted here too, all would be asked to while none has left yet.
        if !is_proxy && of.taken.len().saturating_sub(of.leaving) >= free {
            let asked = of.give_up(shared.now());
            places.leaving += asked;
            if asked == 0 {
                return None;
            }
        }
        let connection = Arc::new(Use {
            connections: shared.clone(),
            network,
            idle_since: AtomicU64::new(shared.now()),
            is_to_leave: CancellationToken::new(),
            is_leaving: AtomicBool::new(false),
        });
        places.next += 1;
        let number = places.next;
        of.taken.insert(number, connection.clone());
        Some(Place {
            number,
            requests: Requests(connection),
            _permit: permit,
        })
    }
}

impl Shared {
    /// Asks so many to leave that there is a reserve again.
    fn take_back(&self) {
        let reserve = self.max.div_ceil(RESERVE_PART);
        let mut places = self.lock();
        let free = self.permits.available_permits() + places.leaving;
        let rests = places.rests_until.is_some_and(|at| at > Instant::now());
        if free >= reserve || rests {
            return;
        }
        // Twice the reserve: all that are open are looked at, which is not for every connection.
        let wanted = (2 * reserve).saturating_sub(free);
        let latest = self.now().checked_sub(millis(IDLE_MIN));
        let taken = latest.map_or(0, |latest| places.take_back(wanted, latest));
        if taken < wanted {
            places.rests_until = Some(Instant::now() + LOOK_EVERY);
        }
    }

    fn now(&self) -> u64 {
        millis(self.began.elapsed())
    }

    fn lock(&self) -> MutexGuard<'_, Places> {
        // Poisoned or not: nothing under this lock is half done.
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Places {
    /// One that was asked to leave has left, or does not in this moment.
    fn leaves_no_more(&mut self, network: u128) {
        self.leaving = self.leaving.saturating_sub(1);
        if let Some(of) = self.networks.get_mut(&network) {
            of.leaving = of.leaving.saturating_sub(1);
        }
    }

    /// Asks up to `wanted` connections to leave on which nothing was asked since `latest`; says how many.
    fn take_back(&mut self, wanted: usize, latest: u64) -> usize {
        let networks: Vec<_> = self.networks.values().collect();
        let mut idle: Vec<_> = networks.iter().map(|of| of.idle(latest)).collect();
        // Who has the most comes first, and of those who have as many, who has left theirs idle for the longest.
        let place = |at: usize, count: usize, idle: &[(u64, &Use)]| {
            let since = idle.last().map(|(since, _)| *since);
            since.map(|since| (count, Reverse(since), at))
        };
        let counts = networks
            .iter()
            .map(|of| of.taken.len().saturating_sub(of.leaving));
        let mut most: BinaryHeap<_> = counts
            .enumerate()
            .filter_map(|(at, count)| place(at, count, &idle[at]))
            .collect();
        let mut asked = Vec::new();
        while asked.len() < wanted
            && let Some((count, _, at)) = most.pop()
        {
            if let Some((_, of)) = idle[at].pop() {
                of.ask();
                asked.push(of.network);
                most.extend(place(at, count - 1, &idle[at]));
            }
        }
        self.leaving += asked.len();
        for network in &asked {
            if let Some(of) = self.networks.get_mut(network) {
                of.leaving += 1;
            }
        }
        asked.len()
    }
}

impl Network {
    /// Those that may be asked to leave, the longest idle one last, each with since when it is.
    fn idle(&self, latest: u64) -> Vec<(u64, &Use)> {
        let mut idle = Vec::new();
        for of in self.taken.values() {
            let since = of.idle_since.load(Ordering::Relaxed);
            if since <= latest && !of.is_to_leave.is_cancelled() {
                idle.push((since, &**of));
            }
        }
        idle.sort_unstable_by_key(|(since, _)| Reverse(*since));
        idle
    }

    /// Asks some of its connections to leave, however new they are; says how many.
    fn give_up(&mut self, now: u64) -> usize {
        if self.rests_until.is_some_and(|at| at > Instant::now()) {
            return 0;
        }
        // Several: all that it has are looked at, which is not for every connection.
        let wanted = self.taken.len().div_ceil(GIVEN_UP_PART);
        let idle = self.idle(now);
        let mut asked = 0;
        for (_, of) in idle.iter().rev().take(wanted) {
            of.ask();
            asked += 1;
        }
        drop(idle);
        self.leaving += asked;
        if asked < wanted {
            self.rests_until = Some(Instant::now() + LOOK_EVERY);
        }
        asked
    }
}

impl Use {
    fn ask(&self) {
        self.is_leaving.store(true, Ordering::Relaxed);
        self.is_to_leave.cancel();
    }
}

/// A connection's place; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    number: u64,
    requests: Requests,
    _permit: OwnedSemaphorePermit,
}

impl Place {
    /// Ends when the place is to be given back.
    pub(crate) async fn wanted(&self) {
        self.requests.0.is_to_leave.cancelled().await;
    }

    /// Whether a request is under way.
    pub(crate) fn is_busy(&self) -> bool {
        self.requests.0.idle_since.load(Ordering::Relaxed) == BUSY
    }

    /// Whether a request is under way, or something of its answer left within this time.
    pub(crate) fn is_used_within(&self, time: Duration) -> bool {
        let since = self.requests.0.idle_since.load(Ordering::Relaxed);
        since.saturating_add(millis(time)) >= self.requests.0.connections.now()
    }

    /// It does not leave in this moment: its place is not to be counted on.
    pub(crate) fn stays(&self) {
        self.requests.leaves_no_more();
    }

    /// What the requests of the connection are told to.
    pub(crate) fn requests(&self) -> Requests {
        self.requests.clone()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let connection = &self.requests.0;
        let mut places = connection.connections.lock();
        if connection.is_leaving.swap(false, Ordering::Relaxed) {
            places.leaves_no_more(connection.network);
        }
        if let Some(of) = places.networks.get_mut(&connection.network) {
            of.taken.remove(&self.number);
            if of.taken.is_empty() {
                places.networks.remove(&connection.network);
            }
        }
    }
}

/// The requests of one connection, one at a time.
#[derive(Debug, Clone)]
pub(crate) struct Requests(Arc<Use>);

impl Requests {
    pub(crate) fn begin(&self) {
        self.0.idle_since.store(BUSY, Ordering::Relaxed);
        // It was asked to leave in this moment: it does so when this request has ended, whenever that is.
        self.leaves_no_more();
    }

    /// Something of an answer left.
    pub(crate) fn wrote(&self) {
        // Larger than any time is that a request is under way.
        let now = self.0.connections.now();
        self.0.idle_since.fetch_max(now, Ordering::Relaxed);
    }

    /// The body of its answer, with whose end the request ends.
    pub(crate) fn answer<B>(self, body: B) -> Answer<B> {
        Answer {
            body,
            requests: self,
        }
    }

    fn leaves_no_more(&self) {
        if self.0.is_leaving.swap(false, Ordering::Relaxed) {
            let mut places = self.0.connections.lock();
            places.leaves_no_more(self.0.network);
        }
    }
}

/// The body of an answer that is under way.
#[derive(Debug)]
pub(crate) struct Answer<B> {
    body: B,
    requests: Requests,
}

impl<B> Drop for Answer<B> {
    fn drop(&mut self) {
        let now = self.requests.0.connections.now();
        self.requests.0.idle_since.store(now, Ordering::Relaxed);
    }
}

impl<B: Body + Unpin> Body for Answer<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(BUSY)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A busy server closes them late; it asked all of them to leave, one after the other, while none had left yet.
    #[tokio::test(start_paused = true)]
    async fn no_more_are_asked_to_leave_than_are_wanted_however_late_they_do() {
        const MAX: usize = 64;
        let connections = Connections::new(MAX, Arc::default());
        let mut places = Vec::new();
        for _ in 0..4 * MAX {
            tokio::time::advance(LOOK_EVERY).await;
            if let Ok(permit) = connections.0.permits.clone().try_acquire_owned() {
                places.extend(connections.place(permit, IpAddr::from([10, 0, 0, 1])));
            }
        }
        let asked = |place: &&Place| place.requests.0.is_to_leave.is_cancelled();
        let leaving = places.iter().filter(asked).count();
        let staying = places.len() - leaving;
        // Half, but for the piece that is given up for the next.
        assert!(staying >= MAX / 3, "{staying} of {}", places.len());
        drop(places);
        assert!(connections.0.lock().networks.is_empty());
        assert_eq!((connections.open(), connections.0.lock().leaving), (0, 0));
    }
}
