//! W3C Trace Context: which trace a publish belongs to, and so each request that follows from it.

use std::fmt;
use std::str::FromStr;

/// Bytes of a `traceparent` of version 00; a later version may go on after a dash.
const TEXT_BYTES: usize = 55;

/// A `traceparent` (W3C Trace Context, section 3.2). Neither of its ids is all zeroes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceParent {
    trace: u128,
    parent: u64,
    flags: u8,
}

/// The text is not a `traceparent`: whoever reads it goes on as if there was none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a traceparent")]
pub struct InvalidTraceParent;

/// The trace is recorded (W3C Trace Context, section 3.2.2.5).
const SAMPLED: u8 = 1;

impl TraceParent {
    /// The first span of a trace. Neither id may be 0.
    pub fn root(trace: u128, span: u64, is_sampled: bool) -> Self {
        debug_assert!(trace != 0 && span != 0, "a trace and a span have ids");
        Self {
            trace,
            parent: span,
            flags: if is_sampled { SAMPLED } else { 0 },
        }
    }

    pub fn trace(&self) -> u128 {
        self.trace
    }

    /// The span that what follows is a part of.
    pub fn span(&self) -> u64 {
        self.parent
    }

    /// Whether whoever began the trace records it.
    pub fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// The id that is common to the whole trace, in hex digits.
    pub fn trace_id(&self) -> String {
        format!("{:032x}", self.trace)
    }

    /// The same trace with another parent: what a request carries that a part of ours makes. `span` must not be 0.
    #[must_use]
    pub fn child(self, span: u64) -> Self {
        debug_assert_ne!(span, 0, "a span has an id");
        Self {
            parent: span,
            ..self
        }
    }
}

impl FromStr for TraceParent {
    type Err = InvalidTraceParent;

    fn from_str(text: &str) -> Result<Self, InvalidTraceParent> {
        let bytes = text.as_bytes();
        let lower_hex = |byte: &u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte);
        let field = |from: usize, to: usize| {
            let field = text.get(from..to).ok_or(InvalidTraceParent)?;
            if field.bytes().all(|byte| lower_hex(&byte)) {
                Ok(field)
            } else {
                Err(InvalidTraceParent)
            }
        };
        let version = field(0, 2)?;
        let (trace, parent, flags) = (field(3, 35)?, field(36, 52)?, field(53, 55)?);
        let dashes = [2, 35, 52].iter().all(|at| bytes.get(*at) == Some(&b'-'));
        // The form of version 00 is complete; a later one may go on, and is read as far as it is known here.
        let end = match bytes.get(TEXT_BYTES) {
            None => true,
            Some(b'-') => version != "00",
            Some(_) => false,
        };
        let read = Self {
            trace: u128::from_str_radix(trace, 16).map_err(|_| InvalidTraceParent)?,
            parent: u64::from_str_radix(parent, 16).map_err(|_| InvalidTraceParent)?,
            flags: u8::from_str_radix(flags, 16).map_err(|_| InvalidTraceParent)?,
        };
        // The version ff is forbidden (section 3.2.2.1), and so are ids of zeroes.
        let is_valid = dashes && end && version != "ff" && read.trace != 0 && read.parent != 0;
        is_valid.then_some(read).ok_or(InvalidTraceParent)
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            trace,
            parent,
            flags,
        } = self;
        // Whatever version it was read from: what a later one adds is known to nobody here, and not passed
        // on.
        write!(f, "00-{trace:032x}-{parent:016x}-{flags:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIVEN: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_traceparent_is_read_and_written_and_keeps_its_trace() {
        let read: TraceParent = GIVEN.parse().unwrap();
        assert_eq!(read.to_string(), GIVEN);
        let child = read.child(0xabc);
        let expected = "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000abc-01";
        assert_eq!(child.to_string(), expected);
        assert_eq!(child.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
    }

    #[test]
    fn what_the_specification_forbids_is_no_traceparent() {
        let wrong = [
            String::new(),
            GIVEN[..54].to_owned(),
            format!("{GIVEN}-more"),
            format!("{GIVEN}0"),
            GIVEN.replacen("00-", "ff-", 1),
            GIVEN.replacen("4b", "4B", 1),
            GIVEN.replacen('-', "_", 1),
            GIVEN.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            GIVEN.replace("00f067aa0ba902b7", &"0".repeat(16)),
            format!("+0{}", &GIVEN[2..]),
            format!("00-ü{}", &GIVEN[5..]),
        ];
        for text in wrong {
            assert_eq!(
                text.parse::<TraceParent>(),
                Err(InvalidTraceParent),
                "{text}"
            );
        }
    }

    #[test]
    fn of_a_later_version_the_known_fields_are_read() {
        let later = GIVEN.replacen("00-", "cc-", 1);
        let known = GIVEN.parse::<TraceParent>();
        assert_eq!(later.parse::<TraceParent>(), known);
        assert_eq!(format!("{later}-what-comes").parse::<TraceParent>(), known);
    }
}
