//! The places for callers' connections: nobody keeps others out by holding them.
//!
//! Anybody may connect, and a connection on which nothing is asked costs the one who has it nothing. So places are
//! taken back before the last is gone: from the network that has the most, of its connections without a request under
//! way the one that has been so for the longest.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Of so many places one is kept free for those who come.
const RESERVE_PART: usize = 16;
/// How long nothing was asked on a connection before its place may be taken: who has come gets to speak.
const IDLE_MIN: Duration = Duration::from_secs(1);
/// Until somebody who waits for a place has it looked again whether one can be taken back.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Bits of an IPv6 address that are one customer's network; within it, addresses are free.
const NETWORK_BITS: u32 = 64;
/// In the place of a time: a request is under way.
const BUSY: u64 = u64::MAX;

/// The connections of a listener.
#[derive(Debug, Clone)]
pub struct Connections {
    max: usize,
    permits: Arc<Semaphore>,
    places: Arc<Mutex<Places>>,
    began: Instant,
}

#[derive(Debug, Default)]
struct Places {
    next: u64,
    taken: HashMap<u64, Arc<Use>>,
    /// Those of them that were asked to leave.
    leaving: usize,
    /// Until then there was nothing to be taken back.
    rests_until: Option<Instant>,
}

/// What a connection is used for.
#[derive(Debug)]
struct Use {
    network: IpAddr,
    /// Milliseconds from the beginning at which the last request had ended, or [`BUSY`].
    idle_since: AtomicU64,
    is_to_leave: CancellationToken,
}

impl Connections {
    pub(crate) fn new(max: usize) -> Self {
        Self {
            max,
            permits: Arc::new(Semaphore::new(max)),
            places: Arc::default(),
            began: Instant::now(),
        }
    }

    /// How many are open, one that waits for the next client counted in.
    pub fn open(&self) -> usize {
        self.max.saturating_sub(self.permits.available_permits())
    }

    pub fn max(&self) -> usize {
        self.max
    }

    /// Waits for room for one more.
    pub(crate) async fn room(&self) -> OwnedSemaphorePermit {
        loop {
            self.take_back();
            let permit = self.permits.clone().acquire_owned();
            // The semaphore is never closed.
            if let Ok(Ok(permit)) = tokio::time::timeout(LOOK_EVERY, permit).await {
                return permit;
            }
        }
    }

    /// The place of a connection from `address`.
    pub(crate) fn place(&self, permit: OwnedSemaphorePermit, address: IpAddr) -> Place {
        let of = Arc::new(Use {
            network: network(address),
            idle_since: AtomicU64::new(self.now()),
            is_to_leave: CancellationToken::new(),
        });
        let mut places = self.lock();
        places.next += 1;
        let number = places.next;
        places.taken.insert(number, of.clone());
        drop(places);
        Place {
            number,
            of,
            connections: self.clone(),
            _permit: permit,
        }
    }

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
        let taken = latest.map_or(0, |latest| places.idlest(wanted, latest));
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

/// The connections of a network.
#[derive(Default)]
struct Network<'a> {
    count: usize,
    /// Those that may be asked to leave, with since when nothing was asked on them.
    idle: Vec<(u64, &'a Use)>,
}

impl Places {
    /// Asks up to `wanted` connections to leave on which nothing was asked since `latest`; says how many.
    fn idlest(&mut self, wanted: usize, latest: u64) -> usize {
        let mut networks: HashMap<IpAddr, Network<'_>> = HashMap::new();
        for of in self.taken.values() {
            if of.is_to_leave.is_cancelled() {
                continue;
            }
            let network = networks.entry(of.network).or_default();
            network.count += 1;
            let since = of.idle_since.load(Ordering::Relaxed);
            if since <= latest {
                network.idle.push((since, of));
            }
        }
        let mut most = BinaryHeap::new();
        for (address, network) in &mut networks {
            network
                .idle
                .sort_unstable_by_key(|(since, _)| Reverse(*since));
            most.push((network.count, *address));
        }
        let mut asked = 0;
        while asked < wanted
            && let Some((count, address)) = most.pop()
        {
            // Without another idle one, this network keeps what it has.
            let network = networks.get_mut(&address);
            let Some((_, of)) = network.and_then(|network| network.idle.pop()) else {
                continue;
            };
            of.is_to_leave.cancel();
            asked += 1;
            most.push((count - 1, address));
        }
        self.leaving += asked;
        asked
    }
}

/// A connection's place; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    number: u64,
    of: Arc<Use>,
    connections: Connections,
    _permit: OwnedSemaphorePermit,
}

impl Place {
    /// Ends when the place is to be given back.
    pub(crate) async fn wanted(&self) {
        self.of.is_to_leave.cancelled().await;
    }

    /// Whether a request is under way.
    pub(crate) fn is_busy(&self) -> bool {
        self.of.idle_since.load(Ordering::Relaxed) == BUSY
    }

    /// What the requests of the connection are told to.
    pub(crate) fn requests(&self) -> Requests {
        Requests {
            of: self.of.clone(),
            began: self.connections.began,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut places = self.connections.lock();
        places.taken.remove(&self.number);
        if self.of.is_to_leave.is_cancelled() {
            places.leaving = places.leaving.saturating_sub(1);
        }
    }
}

/// The requests of one connection, one at a time.
#[derive(Debug, Clone)]
pub(crate) struct Requests {
    of: Arc<Use>,
    began: Instant,
}

impl Requests {
    pub(crate) fn begin(&self) {
        self.of.idle_since.store(BUSY, Ordering::Relaxed);
    }

    /// The body of its answer, with whose end the request ends.
    pub(crate) fn answer<B>(self, body: B) -> Answer<B> {
        Answer {
            body,
            requests: self,
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
        let now = millis(self.requests.began.elapsed());
        self.requests.of.idle_since.store(now, Ordering::Relaxed);
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

/// The addresses that are one customer's.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let own = u128::MAX << (u128::BITS - NETWORK_BITS);
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & own))
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(BUSY)
}
