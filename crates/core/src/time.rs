//! Points in time, as the store keeps them: microseconds since 1970 in UTC.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use jiff::SignedDuration;
use jiff::civil::DateTime;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A point in time with microsecond resolution, the finest that both stores keep.
///
/// Its text is RFC 3339 with milliseconds and `Z`; the wire formats of profiles are functions of it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The furthest time that RFC 3339 can write.
    pub const MAX: Self = Self(253_402_300_799_999_999);

    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    pub const fn from_millis(millis: i64) -> Self {
        Self(millis * 1_000)
    }

    pub const fn from_secs(secs: i64) -> Self {
        Self(secs * 1_000_000)
    }

    pub const fn as_micros(self) -> i64 {
        self.0
    }

    pub const fn as_millis(self) -> i64 {
        self.0.div_euclid(1_000)
    }

    /// Seconds since 1970, rounded down: what `webhook-timestamp` carries.
    pub const fn as_unix(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }

    /// Adds a duration; stops at [`Timestamp::MAX`].
    #[must_use]
    pub fn plus(self, by: Duration) -> Self {
        let by = i64::try_from(by.as_micros()).unwrap_or(i64::MAX);
        Self(self.0.saturating_add(by).min(Self::MAX.0))
    }

    #[must_use]
    pub fn minus(self, by: Duration) -> Self {
        Self(
            self.0
                .saturating_sub(i64::try_from(by.as_micros()).unwrap_or(i64::MAX)),
        )
    }

    /// The time from `earlier` to `self`; zero when `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// `2026-03-20T14:31:15.000Z`: always 24 characters, fraction cut, never rounded up.
    pub fn iso_ms(self) -> String {
        self.to_string()
    }

    /// The civil time in UTC; the whole range of RFC 3339 from 1970 on, which is wider than that of
    /// [`jiff::Timestamp`].
    fn civil(self) -> DateTime {
        // A time outside has no text: the nearest that has one stands for it.
        let micros = self.0.clamp(0, Self::MAX.0);
        EPOCH
            .checked_add(SignedDuration::from_micros(micros))
            .expect("the range 1970..=9999 is inside civil time")
    }
}

const EPOCH: DateTime = DateTime::constant(1970, 1, 1, 0, 0, 0, 0);

/// A point in time by two clocks.
///
/// The wall clock is what people and receivers read; it is set forward and back. The steady clock goes
/// on evenly and never back, over restarts too: what waits, waits by it. Its values look like wall times
/// and are near them as long as nobody sets the clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    pub wall: Timestamp,
    pub steady: Timestamp,
}

impl Moment {
    /// The steady time at which the wall clock will show `wall`, if nobody sets it.
    #[must_use]
    pub fn steady_of(self, wall: Timestamp) -> Timestamp {
        let ahead = self.steady.0.saturating_sub(self.wall.0);
        Timestamp(wall.0.saturating_add(ahead).min(Timestamp::MAX.0))
    }

    /// What the wall clock will show at the time `steady`, if nobody sets it.
    #[must_use]
    pub fn wall_of(self, steady: Timestamp) -> Timestamp {
        let behind = self.wall.0.saturating_sub(self.steady.0);
        Timestamp(steady.0.saturating_add(behind).min(Timestamp::MAX.0))
    }
}

/// Both clocks show the same: nobody ever set one.
impl From<Timestamp> for Moment {
    fn from(at: Timestamp) -> Self {
        Self {
            wall: at,
            steady: at,
        }
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let civil = self.civil();
        write!(
            f,
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
            civil.year(),
            civil.month(),
            civil.day(),
            civil.hour(),
            civil.minute(),
            civil.second(),
            civil.millisecond()
        )
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}(+{}us)", self.0.rem_euclid(1_000))
    }
}

/// The text is not an RFC 3339 time between 1970 and 9999.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an RFC 3339 time such as 2026-03-20T14:31:15.000Z")]
pub struct InvalidTimestamp;

impl FromStr for Timestamp {
    type Err = InvalidTimestamp;

    fn from_str(text: &str) -> Result<Self, InvalidTimestamp> {
        let (civil, rest) = civil_of(text).ok_or(InvalidTimestamp)?;
        let offset = offset_of(rest).ok_or(InvalidTimestamp)?;
        let local = civil.duration_since(EPOCH).as_micros();
        // An offset is less than a day, and civil times are far inside the range: nothing overflows.
        let micros = i64::try_from(local).map_err(|_| InvalidTimestamp)? - offset * 1_000_000;
        if !(0..=Self::MAX.0).contains(&micros) {
            return Err(InvalidTimestamp);
        }
        Ok(Self(micros))
    }
}

/// The date and time at the start of a text (RFC 3339 5.6), and what follows. Parts finer than a
/// microsecond are cut; a leap second is the second before it.
fn civil_of(text: &str) -> Option<(DateTime, &str)> {
    /// Of the fraction of a second.
    const DIGITS_MAX: usize = 9;
    let bytes = text.as_bytes();
    let number = |from: usize, len: usize| -> Option<i16> {
        let digits = bytes.get(from..from + len)?;
        let all = digits.iter().all(u8::is_ascii_digit);
        // Digits are ASCII, so both ends lie between characters.
        all.then(|| text[from..from + len].parse().ok()).flatten()
    };
    let mark = |at: usize, marks: &[u8]| bytes.get(at).is_some_and(|byte| marks.contains(byte));
    if !(mark(4, b"-") && mark(7, b"-") && mark(10, b"Tt") && mark(13, b":") && mark(16, b":")) {
        return None;
    }
    let small = |from| number(from, 2).and_then(|number| i8::try_from(number).ok());
    let second = small(17)?;
    // Which minutes have one nobody here knows, so any may.
    let (second, leap) = (second.min(59), second == 60);
    if !leap && small(17)? > 59 {
        return None;
    }
    // So long is what comes before a fraction, with every part of a fixed width.
    let mut at = 19;
    let mut nanos: i32 = 0;
    if mark(at, b".") {
        let digits = bytes[at + 1..]
            .iter()
            .take_while(|byte| byte.is_ascii_digit())
            .count();
        if digits == 0 || digits > DIGITS_MAX {
            return None;
        }
        let fraction = &text[at + 1..at + 1 + digits];
        nanos = format!("{fraction:0<9}").parse().ok()?;
        at += 1 + digits;
    }
    let civil = DateTime::new(
        number(0, 4)?,
        small(5)?,
        small(8)?,
        small(11)?,
        small(14)?,
        second,
        nanos,
    );
    Some((civil.ok()?, text.get(at..)?))
}

/// Seconds east of UTC: `Z`, or `+01:00`.
fn offset_of(text: &str) -> Option<i64> {
    if matches!(text, "Z" | "z") {
        return Some(0);
    }
    let (sign, rest) = match text.split_at_checked(1)? {
        ("+", rest) => (1, rest),
        ("-", rest) => (-1, rest),
        _ => return None,
    };
    let (hours, minutes) = rest.split_once(':')?;
    let part = |text: &str, most: i64| {
        let two = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
        let number: i64 = two.then(|| text.parse().ok()).flatten()?;
        (number <= most).then_some(number)
    };
    Some(sign * (part(hours, 23)? * 3_600 + part(minutes, 59)? * 60))
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Parses `0s`, `250ms`, `5m`, `2h`, `5d`.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let millis = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number.checked_mul(millis).map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_has_milliseconds_and_z() {
        let at: Timestamp = "2026-03-20T14:31:15Z".parse().unwrap();
        assert_eq!(at.iso_ms(), "2026-03-20T14:31:15.000Z");
        assert_eq!(
            Timestamp::from_micros(at.as_micros() + 999_999).iso_ms(),
            "2026-03-20T14:31:15.999Z"
        );
        assert_eq!(
            "2026-03-20T15:31:15.5+01:00"
                .parse::<Timestamp>()
                .unwrap()
                .iso_ms(),
            "2026-03-20T14:31:15.500Z"
        );
        assert!("yesterday".parse::<Timestamp>().is_err());
        assert!("1969-12-31T23:59:59Z".parse::<Timestamp>().is_err());
    }

    #[test]
    fn the_whole_range_of_rfc_3339_is_read_and_nothing_else() {
        for text in [
            "9999-12-31T23:59:59.999Z",
            "1970-01-01T00:00:00.000Z",
            "2024-02-29T12:00:00.000Z",
        ] {
            assert_eq!(text.parse::<Timestamp>().unwrap().iso_ms(), text);
        }
        assert_eq!(Timestamp::MAX.iso_ms(), "9999-12-31T23:59:59.999Z");
        assert_eq!(Timestamp::MAX.plus(Duration::from_secs(1)), Timestamp::MAX);
        for bad in [
            "2026-03-20T14:31:15+25:00",
            "2026-03-20T14:31:15+01:60",
            "2026-03-20T14:31:15Z[Europe/Berlin]",
            "2026-03-20T14:31:15",
            "2026-03-20",
            "2026-03-20T14:31Z",
            "2026-02-30T14:31:15Z",
            "+002026-03-20T14:31:15Z",
            "2026-03-20T24:00:00Z",
            "2026-03-20T14:31:61Z",
            "20260320T143115Z",
            "2026-03-20T14:31:15+01",
            "2026-03-20T14:31:15.Z",
            "",
        ] {
            assert!(bad.parse::<Timestamp>().is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(parse_duration("90s"), Some(Duration::from_secs(90)));
        assert_eq!(parse_duration("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(parse_duration("5d"), Some(Duration::from_secs(432_000)));
        for bad in ["", "5", "s", "-1s", "5 s", "99999999999999999d", "1.5h"] {
            assert_eq!(parse_duration(bad), None, "{bad}");
        }
    }
}
