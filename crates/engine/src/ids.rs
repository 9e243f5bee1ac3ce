//! Maps by the ids of what is stored. The lower half of an id is mixed already (`Id::from_key`), so it is its own hash. Not
//! for ids that a caller makes up: those could all be alike.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

use postrider_core::Id;

pub(crate) type IdMap<K, V> = HashMap<Id<K>, V, BuildHasherDefault<LowerHalf>>;
pub(crate) type IdSet<K> = HashSet<Id<K>, BuildHasherDefault<LowerHalf>>;

#[derive(Debug, Default)]
pub(crate) struct LowerHalf(u64);

impl Hasher for LowerHalf {
    fn write_u128(&mut self, id: u128) {
        #[expect(clippy::cast_possible_truncation, reason = "the lower half")]
        {
            self.0 = id as u64;
        }
    }

    /// An id is written as one number.
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
