//! Ids: UUID version 7 bits, told apart by kind in the type system and by prefix in text.
//!
//! The upper 64 bits (milliseconds, version, a counter) are unique within one installation and
//! grow with time, so a store may use them alone as its integer key: see [`Id::key`]. The lower 64
//! bits are a function of the key and the installation's salt; they make an id unique in the world
//! and cost a store nothing to keep.

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Timestamp;

/// What an id names; gives it its prefix.
pub trait Kind: Copy + Send + Sync + 'static {
    const PREFIX: &'static str;
    /// The noun an error message uses.
    const NOUN: &'static str;
}

macro_rules! kinds {
    ($($name:ident $prefix:literal $noun:literal;)*) => {$(
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name {}
        impl Kind for $name {
            const PREFIX: &'static str = $prefix;
            const NOUN: &'static str = $noun;
        }
        // A kind is no value; it only names the id's.
        impl utoipa::__dev::ComposeSchema for $name {
            fn compose(
                _: Vec<utoipa::openapi::RefOr<utoipa::openapi::Schema>>,
            ) -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
                utoipa::openapi::Object::new().into()
            }
        }
        impl utoipa::ToSchema for $name {}
    )*};
}

// Alphabetical; prefixes are public and never change.
kinds! {
    ApiKey "key_" "API key";
    Application "app_" "application";
    AuditEntry "aud_" "audit entry";
    Delivery "dlv_" "delivery";
    Endpoint "ep_" "endpoint";
    Event "evt_" "event";
    Notice "ntc_" "notification";
    Session "ses_" "session";
    Task "task_" "task";
    Tenant "ten_" "tenant";
    User "usr_" "user";
}

/// An id of one kind. Sorts by creation time.
pub struct Id<K> {
    bits: u128,
    kind: PhantomData<fn() -> K>,
}

const CROCKFORD: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const TEXT_LEN: usize = 26;

impl<K> Id<K> {
    pub const fn from_u128(bits: u128) -> Self {
        Self {
            bits,
            kind: PhantomData,
        }
    }

    pub const fn as_u128(self) -> u128 {
        self.bits
    }

    /// The upper half as a positive integer: unique within an installation. 48 bits of milliseconds
    /// leave the sign bit free until the year 6429; only an id made up by a user has it set.
    pub fn key(self) -> i64 {
        i64::try_from(self.bits >> 64).unwrap_or(i64::MAX)
    }

    /// The key, if the id is one of this installation.
    pub fn key_in(self, salt: u64) -> Option<i64> {
        // The lower half is worked out and not stored: with another one in it, it is nobody's id here.
        Some(self.key()).filter(|key| Self::from_key(*key, salt) == self)
    }

    /// Makes the id again from its key. The inverse of [`Id::key`] for ids of this installation.
    pub fn from_key(key: i64, salt: u64) -> Self {
        let high = u64::try_from(key).unwrap_or(0);
        // Variant bits 10, as RFC 9562 asks.
        let low = (mix(high ^ salt) & (u64::MAX >> 2)) | (1 << 63);
        Self::from_u128((u128::from(high) << 64) | u128::from(low))
    }

    /// The time the id was made, with millisecond resolution.
    pub fn created_at(self) -> Timestamp {
        Timestamp::from_millis(i64::try_from(self.bits >> 80).unwrap_or(0))
    }

    /// The same bits as an id of another kind, for ids derived from one another.
    pub const fn cast<L>(self) -> Id<L> {
        Id::from_u128(self.bits)
    }

    /// 26 characters of Crockford base 32, lower case.
    pub fn crockford(self) -> String {
        let text: Vec<u8> = (0..TEXT_LEN)
            .rev()
            .map(|i| CROCKFORD[digit(self.bits >> (5 * i), 32)])
            .collect();
        ascii(text)
    }

    /// The hyphenated form of RFC 9562, lower case.
    pub fn uuid(self) -> String {
        let hex = format!("{:032x}", self.bits);
        format!(
            "{}-{}-{}-{}-{}",
            &hex[..8],
            &hex[8..12],
            &hex[12..16],
            &hex[16..20],
            &hex[20..]
        )
    }

    /// The first `len` of 32 hex digits: from 16 on it holds the whole key.
    pub fn hex(self, len: usize) -> String {
        let mut hex = format!("{:032x}", self.bits);
        hex.truncate(len);
        hex
    }

    /// 24 hex digits with the layout of an ObjectId: the second it was made in, then what tells it from
    /// the others of that second.
    pub fn object_id(self) -> String {
        let (key, low) = ((self.bits >> 64) as u64, self.bits as u64);
        // Between the two are the four bits of the version, which are always 7.
        let (millis, counter) = (key >> 16, key & 0xfff);
        let seconds = (millis / 1_000) & 0xffff_ffff;
        // Ten bits for the millisecond, twelve for the counter, 42 of the lower half.
        let rest = ((millis % 1_000) << 54) | (counter << 42) | (low >> 22);
        format!("{seconds:08x}{rest:016x}")
    }

    /// `len` letters and digits: from 11 on they hold the whole key, from 22 on the whole id.
    pub fn alnum(self, len: usize) -> String {
        // Fewer than 22 digits cannot hold 128 bits: then only the key and as much of the rest as fits.
        let mut bits = self.bits >> alnum_shift(len);
        let mut text = vec![b'0'; len];
        for slot in text.iter_mut().rev() {
            *slot = BASE62[digit(bits, 62)];
            bits /= 62;
        }
        ascii(text)
    }
}

/// How many of an id's lowest bits a text of `len` letters and digits leaves out: a digit of base 62
/// holds 5.95 bits.
fn alnum_shift(len: usize) -> usize {
    if len < 22 {
        128_usize.saturating_sub(len * 59 / 10)
    } else {
        0
    }
}

fn parse_base62(text: &str) -> Option<u128> {
    let mut bits: u128 = 0;
    for byte in text.bytes() {
        let value = BASE62.iter().position(|b| *b == byte)?;
        bits = bits.checked_mul(62)?.checked_add(value as u128)?;
    }
    Some(bits)
}

impl<K: Kind> Id<K> {
    /// The key in a text that [`Id::alnum`] wrote, of whatever length.
    pub fn key_of_alnum(text: &str) -> Option<i64> {
        // Bits that are shifted out are told by whoever writes the id again and compares (`IdFormat::find`).
        let bits = parse_base62(text)?.checked_shl(u32::try_from(alnum_shift(text.len())).ok()?)?;
        i64::try_from(bits >> 64).ok()
    }

    /// The key that [`Id::object_id`] holds.
    pub fn key_of_object_id(text: &str) -> Option<i64> {
        // A sign is taken here as well; `IdFormat::find` writes the id again and compares.
        let seconds = i64::from_str_radix(text.get(..8)?, 16).ok()?;
        let rest = u64::from_str_radix(text.get(8..)?, 16).ok()?;
        let millis = seconds * 1_000 + (rest >> 54).cast_signed();
        let counter = ((rest >> 42) & 0xfff).cast_signed();
        Some((millis << 16) | 0x7000 | counter)
    }

    /// Reads back what a profile's id format wrote: `uuid`, `crockford`, 32 hex digits, or 22 and
    /// more letters and digits. Shorter forms do not hold the whole id and give `None`.
    pub fn from_wire(text: &str) -> Option<Self> {
        // 26 characters may be of either alphabet: what is not Crockford's is tried as the other below.
        if text.len() == TEXT_LEN
            && let Some(bits) = parse_crockford(text)
        {
            return Some(Self::from_u128(bits));
        }
        if text.len() == 36
            && text
                .as_bytes()
                .iter()
                .enumerate()
                .all(|(i, b)| (*b == b'-') == matches!(i, 8 | 13 | 18 | 23))
        {
            return Self::from_wire(&text.replace('-', ""));
        }
        if text.len() == 32
            && text
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        {
            return u128::from_str_radix(text, 16).ok().map(Self::from_u128);
        }
        if (22..=32).contains(&text.len()) {
            return parse_base62(text).map(Self::from_u128);
        }
        None
    }
}

fn digit(bits: u128, base: u128) -> usize {
    usize::try_from(bits % base).unwrap_or(0)
}

fn ascii(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).expect("the alphabets are ASCII")
}

fn parse_crockford(text: &str) -> Option<u128> {
    let mut bits: u128 = 0;
    // 26 digits have 130 bits: with more than 7 in front they would not fit into 128.
    if text.len() != TEXT_LEN || text.as_bytes()[0] > b'7' {
        return None;
    }
    for byte in text.bytes() {
        let value = CROCKFORD.iter().position(|b| *b == byte)?;
        bits = (bits << 5) | value as u128;
    }
    Some(bits)
}

/// The finalizer of SplitMix64: spreads a counter over 64 bits, one to one.
const fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Makes ids whose keys never repeat and never go back, whatever the clock does.
#[derive(Debug)]
pub struct IdGenerator {
    salt: u64,
    last: AtomicU64,
    /// The most milliseconds by which an id was later than the clock it was made by.
    ahead: AtomicU64,
}

impl IdGenerator {
    /// `floor` is the greatest key the store already holds (0 for a new one).
    pub fn new(salt: u64, floor: i64) -> Self {
        Self {
            salt,
            last: AtomicU64::new(u64::try_from(floor).unwrap_or(0)),
            ahead: AtomicU64::new(0),
        }
    }

    /// How far an id's time may be ahead of its clock's: a clock that is set back makes ids go on where
    /// they were.
    pub fn ahead(&self) -> Duration {
        Duration::from_millis(self.ahead.load(Ordering::Relaxed))
    }

    /// What [`IdGenerator::ahead`] was before a restart.
    pub fn was_ahead(&self, ahead: Duration) {
        let millis = u64::try_from(ahead.as_millis()).unwrap_or(u64::MAX);
        self.ahead.fetch_max(millis, Ordering::Relaxed);
    }

    pub fn salt(&self) -> u64 {
        self.salt
    }

    /// The id of this installation that has the key.
    pub fn of_key<K>(&self, key: i64) -> Id<K> {
        Id::from_key(key, self.salt)
    }

    pub fn next<K>(&self, now: Timestamp) -> Id<K> {
        let millis = u64::try_from(now.as_millis()).unwrap_or(0);
        // 0x7000 is the version (RFC 9562 5.7).
        let fresh = (millis << 16) | 0x7000;
        let step = |last: u64| {
            // 12 bits of counter; when they are used up, borrow the next millisecond.
            let following = if last & 0xfff == 0xfff {
                (((last >> 16) + 1) << 16) | 0x7000
            } else {
                last + 1
            };
            Some(if fresh > last { fresh } else { following })
        };
        // Relaxed, because nothing else is ordered by it: one atomic step makes each key once. `step` always
        // has a next key, so either way what comes back is the one before.
        let last = self
            .last
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, step)
            .unwrap_or_else(|last| last);
        let key = step(last).unwrap_or(fresh);
        let ahead = (key >> 16).saturating_sub(millis);
        // Looked at before it is written: with a clock that goes right nobody writes here.
        if ahead > self.ahead.load(Ordering::Relaxed) {
            self.ahead.fetch_max(ahead, Ordering::Relaxed);
        }
        Id::from_key(i64::try_from(key).unwrap_or(i64::MAX), self.salt)
    }
}

impl<K> Clone for Id<K> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<K> Copy for Id<K> {}
impl<K> PartialEq for Id<K> {
    fn eq(&self, other: &Self) -> bool {
        self.bits == other.bits
    }
}
impl<K> Eq for Id<K> {}
impl<K> PartialOrd for Id<K> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<K> Ord for Id<K> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.bits.cmp(&other.bits)
    }
}
impl<K> std::hash::Hash for Id<K> {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.bits.hash(state);
    }
}

impl<K: Kind> fmt::Display for Id<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(K::PREFIX)?;
        f.write_str(&self.crockford())
    }
}

impl<K: Kind> fmt::Debug for Id<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not an id of the expected kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("is not an id of the form {prefix}… followed by 26 letters and digits")]
pub struct InvalidId {
    pub prefix: &'static str,
}

impl<K: Kind> FromStr for Id<K> {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        text.strip_prefix(K::PREFIX)
            .and_then(parse_crockford)
            .map(Self::from_u128)
            .ok_or(InvalidId { prefix: K::PREFIX })
    }
}

impl<K: Kind> Serialize for Id<K> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de, K: Kind> Deserialize<'de> for Id<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_comes_back_and_another_kind_is_refused() {
        let generator = IdGenerator::new(7, 0);
        let id: Id<Event> = generator.next(Timestamp::from_millis(1_774_017_075_000));
        assert_eq!(id.to_string().parse::<Id<Event>>(), Ok(id));
        assert!(id.to_string().parse::<Id<Endpoint>>().is_err());
        assert_eq!(id.created_at(), Timestamp::from_millis(1_774_017_075_000));
        assert_eq!(Id::<Event>::from_key(id.key(), 7), id);
        assert_eq!(id.uuid().as_bytes()[14], b'7', "version 7 in {}", id.uuid());
    }

    #[test]
    fn keys_grow_when_the_clock_stands_or_goes_back() {
        let generator = IdGenerator::new(1, 0);
        let mut last = 0;
        for i in 0..10_000 {
            let id: Id<Event> = generator.next(Timestamp::from_millis(5_000_000 - i / 100));
            assert!(id.key() > last);
            last = id.key();
        }
        let after_restart = IdGenerator::new(1, last);
        assert!(after_restart.next::<Event>(Timestamp::from_millis(1)).key() > last);
    }

    #[test]
    fn wire_forms_hold_the_id() {
        let generator = IdGenerator::new(99, 0);
        for i in 0..500 {
            let id: Id<Endpoint> = generator.next(Timestamp::from_millis(1_774_017_075_000 + i));
            for text in [
                id.uuid(),
                id.crockford(),
                id.hex(32),
                id.alnum(22),
                id.alnum(24),
                id.alnum(26),
            ] {
                assert_eq!(Id::from_wire(&text), Some(id), "{text}");
            }
            assert_eq!(id.alnum(12).len(), 12);
        }
        for bad in ["", "x", "zzzz", &"Z".repeat(32), &"-".repeat(36), "ü"] {
            assert_eq!(Id::<Endpoint>::from_wire(bad), None, "{bad}");
        }
    }
}
