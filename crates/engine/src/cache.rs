//! The one cache: bounded by weight, each value read once however many ask, and never stale.
//!
//! What is cached depends on things that change: an endpoint on its tenant and application, too. Each of
//! them has a count of its changes ([`Changes`]), and a value knows the counts from before it was read.
//! So a change forgets what depends on it and nothing else, and costs one addition.

mod gather;

pub use gather::Gather;

use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use quick_cache::sync::{Cache as Bounded, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};

/// Counters; two things that share one are forgotten together, now and then.
const STRIPES: usize = 4_096;

/// How often things have changed, by a hash of their ids.
#[derive(Debug)]
pub struct Changes {
    stripes: Box<[AtomicU64]>,
    all: AtomicU64,
}

impl Default for Changes {
    fn default() -> Self {
        Self {
            stripes: (0..STRIPES).map(|_| AtomicU64::new(0)).collect(),
            all: AtomicU64::new(0),
        }
    }
}

impl Changes {
    fn stripe(&self, thing: u128) -> &AtomicU64 {
        // The ids of what is made together differ in few bits.
        let mixed = (thing as u64 ^ (thing >> 64) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        // A product mixes its upper bits best; twelve are as many as choose a stripe.
        &self.stripes[(mixed >> 52) as usize % STRIPES]
    }

    pub fn of(&self, thing: u128) -> u64 {
        self.stripe(thing).load(Ordering::SeqCst)
    }

    /// How often anything has changed. Who finds the same number before a read and after taking counts knows that these
    /// are of what was read.
    pub fn so_far(&self) -> u64 {
        self.all.load(Ordering::SeqCst)
    }

    /// To be called after the change can be read: what was read before it is not used any more.
    pub fn note(&self, thing: u128) {
        // First: who sees the other count sees this one.
        self.all.fetch_add(1, Ordering::SeqCst);
        self.stripe(thing).fetch_add(1, Ordering::SeqCst);
    }

    /// The same of everything there is.
    pub fn note_all(&self) {
        self.all.fetch_add(1, Ordering::SeqCst);
        for stripe in &self.stripes {
            stripe.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// What a value was read from: the count of each thing, taken before it was read.
pub type Stamp = Vec<(u128, u64)>;

struct Held<V> {
    value: Arc<V>,
    stamp: Stamp,
    weight: u64,
}

impl<V> Clone for Held<V> {
    fn clone(&self) -> Self {
        Self {
            value: self.value.clone(),
            stamp: self.stamp.clone(),
            weight: self.weight,
        }
    }
}

#[derive(Clone)]
struct ByWeight;

impl<K, V> Weighter<K, Arc<Held<V>>> for ByWeight {
    fn weight(&self, _: &K, held: &Arc<Held<V>>) -> u64 {
        // Without weight any number of them would be kept.
        held.weight.max(1)
    }
}

pub struct Cache<K, V> {
    held: Bounded<K, Arc<Held<V>>, ByWeight>,
    changes: Arc<Changes>,
}

impl<K, V> std::fmt::Debug for Cache<K, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Cache")
    }
}

/// A value to keep, with what it weighs and what it was read from.
#[derive(Debug)]
pub struct Read<V> {
    pub value: V,
    pub weight: u64,
    pub stamp: Stamp,
}

impl<K: Hash + Eq + Clone, V> Cache<K, V> {
    /// Holds about `items`, and no more than `weight` together.
    pub fn new(items: usize, weight: u64, changes: Arc<Changes>) -> Self {
        Self {
            held: Bounded::with_weighter(items, weight, ByWeight),
            changes,
        }
    }

    /// The same for values of which one alone may weigh a good part of all: in the usual number of shards, each with a
    /// part of the weight, such a one would never be kept.
    ///
    /// # Panics
    /// Never: what options need is given.
    pub fn of_heavy(items: usize, weight: u64, changes: Arc<Changes>) -> Self {
        let options = OptionsBuilder::new()
            .shards(1)
            .estimated_items_capacity(items)
            .weight_capacity(weight)
            .build()
            .expect("both capacities are given");
        let (hasher, life) = (DefaultHashBuilder::default(), DefaultLifecycle::default());
        Self {
            held: Bounded::with_options(options, ByWeight, hasher, life),
            changes,
        }
    }

    /// The value of a key. Whoever asks first reads it; the others wait for that.
    ///
    /// # Errors
    /// What `read` says; then the next one who waits reads.
    pub async fn get<E>(
        &self,
        key: K,
        read: impl Future<Output = Result<Read<V>, E>>,
    ) -> Result<Arc<V>, E> {
        if let Some(held) = self.held.get(&key) {
            if self.is_fresh(&held.stamp) {
                return Ok(held.value.clone());
            }
            // Taken out, or whoever asks below would be given it again instead of reading.
            self.held.remove(&key);
        }
        match self.held.get_value_or_guard_async(&key).await {
            Ok(held) if self.is_fresh(&held.stamp) => Ok(held.value.clone()),
            // Somebody changed it while it was read: this caller came after that.
            Ok(_) => Ok(Arc::new(read.await?.value)),
            Err(guard) => {
                let read = read.await?;
                let held = Arc::new(Held {
                    value: Arc::new(read.value),
                    stamp: read.stamp,
                    weight: read.weight,
                });
                // Kept or not, it is the answer: it was read after this caller asked.
                drop(guard.insert(held.clone()));
                Ok(held.value.clone())
            }
        }
    }

    fn is_fresh(&self, stamp: &Stamp) -> bool {
        stamp
            .iter()
            .all(|(thing, count)| self.changes.of(*thing) == *count)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    struct World {
        cache: Cache<u32, u32>,
        changes: Arc<Changes>,
        reads: AtomicU32,
        /// Of each value.
        weight: u64,
    }

    impl World {
        fn new() -> Self {
            Self::holding(100, 100, 1)
        }

        fn holding(items: usize, all: u64, weight: u64) -> Self {
            let changes = Arc::new(Changes::default());
            Self {
                cache: Cache::new(items, all, changes.clone()),
                changes,
                reads: AtomicU32::new(0),
                weight,
            }
        }

        async fn get(&self, key: u32) -> u32 {
            let read = async {
                let stamp = vec![(key.into(), self.changes.of(key.into()))];
                let value = self.reads.fetch_add(1, Ordering::SeqCst) + 1;
                tokio::task::yield_now().await;
                Ok::<_, ()>(Read {
                    value,
                    weight: self.weight,
                    stamp,
                })
            };
            *self.cache.get(key, read).await.unwrap()
        }
    }

    /// With shards none of them has room for such a one.
    #[tokio::test]
    async fn what_is_a_good_part_of_all_is_kept() {
        let mut world = World::holding(1_000, 64, 15);
        world.cache = Cache::of_heavy(1_000, 64, world.changes.clone());
        for key in [1, 2, 3, 1, 2, 3] {
            world.get(key).await;
        }
        assert_eq!(world.reads.load(Ordering::SeqCst), 3);
    }

    #[tokio::test]
    async fn many_who_ask_at_once_read_once() {
        let world = World::new();
        let (a, b, c) = tokio::join!(world.get(1), world.get(1), world.get(1));
        assert_eq!((a, b, c), (1, 1, 1));
    }

    #[tokio::test]
    async fn a_change_forgets_its_own_and_nothing_else() {
        let world = World::new();
        assert_eq!((world.get(1).await, world.get(2).await), (1, 2));
        world.changes.note(1);
        assert_eq!((world.get(1).await, world.get(2).await), (3, 2));
    }

    #[tokio::test]
    async fn what_was_read_before_a_change_is_not_kept_after_it() {
        let world = World::new();
        let change = async {
            tokio::task::yield_now().await;
            world.changes.note(1);
        };
        tokio::join!(world.get(1), change);
        assert_eq!(world.get(1).await, 2);
    }

    #[tokio::test]
    async fn what_is_held_weighs_no_more_than_all_may() {
        let world = World::holding(10, 25, 10);
        for key in 0..5 {
            world.get(key).await;
        }
        let held = world.cache.held.weight();
        assert!((10..=25).contains(&held), "{held}");
        let before = world.reads.load(Ordering::SeqCst);
        for key in 0..5 {
            world.get(key).await;
        }
        // Two were held, and may have given way to others meanwhile.
        let again = world.reads.load(Ordering::SeqCst) - before;
        assert!(again >= 3, "{again}");
    }
}
