//! Checking JSON without rewriting it: depth, duplicate keys, and the bytes of a member.

pub mod es;

use std::borrow::Cow;
use std::collections::HashSet;

use crate::limits::JSON_DEPTH_MAX;

/// Why a body is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidJson {
    #[error("is not JSON: {0}")]
    Syntax(String),
    #[error("is nested deeper than {0} levels")]
    TooDeep(usize),
    #[error("has the key {0:?} twice in one object")]
    DuplicateKey(String),
}

/// Checks that `bytes` are one JSON value (RFC 8259), not deeper than [`JSON_DEPTH_MAX`], without
/// duplicate keys. What the grammar allows passes: half of a surrogate pair (`"\ud800"`) and numbers
/// beyond a double (`1e400`), which those who only carry JSON need not understand.
///
/// # Errors
/// When they are not; the message of a syntax error names line and column.
pub fn check_json(bytes: &[u8]) -> Result<(), InvalidJson> {
    check_json_to(bytes, JSON_DEPTH_MAX)
}

/// As [`check_json`], with another depth.
///
/// # Errors
/// As [`check_json`].
pub fn check_json_to(bytes: &[u8], depth_max: usize) -> Result<(), InvalidJson> {
    // First, so that all else can go by bytes: in UTF-8 the marks of JSON are in no other character.
    let text = str::from_utf8(bytes).map_err(|error| {
        let (line, column) = place(bytes, error.valid_up_to());
        InvalidJson::Syntax(format!("not UTF-8 at line {line} column {column}"))
    })?;
    let mut checker = Checker {
        bytes: text.as_bytes(),
        at: 0,
        depth_max,
    };
    checker.document().map_err(|mistake| match mistake {
        Mistake::Syntax(what) => {
            let (line, column) = place(bytes, checker.at);
            InvalidJson::Syntax(format!("{what} at line {line} column {column}"))
        }
        Mistake::TooDeep => InvalidJson::TooDeep(depth_max),
        Mistake::Duplicate(key) => InvalidJson::DuplicateKey(key),
    })
}

/// Line and column of a byte, counted from 1.
fn place(bytes: &[u8], at: usize) -> (usize, usize) {
    let before = &bytes[..at.min(bytes.len())];
    let line = before.iter().filter(|byte| **byte == b'\n').count();
    let start = before.iter().rposition(|byte| *byte == b'\n');
    (
        line + 1,
        before.len() - start.map_or(0, |start| start + 1) + 1,
    )
}

/// What becomes of a text: a key is compared with others.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Read {
    Kept,
    Passed,
}

enum Mistake {
    Syntax(&'static str),
    TooDeep,
    Duplicate(String),
}

/// Walks over a text with a stack of its own, however deep it is nested.
struct Checker<'t> {
    bytes: &'t [u8],
    at: usize,
    depth_max: usize,
}

enum Open<'t> {
    List,
    /// The keys so far, unescaped.
    Object(HashSet<Cow<'t, [u8]>>),
}

impl<'t> Checker<'t> {
    fn document(&mut self) -> Result<(), Mistake> {
        let mut open: Vec<Open<'t>> = Vec::new();
        loop {
            self.value(&mut open)?;
            // After a value: what is open goes on or ends.
            loop {
                self.skip_space();
                let next = self.bytes.get(self.at).copied();
                match (open.last_mut(), next) {
                    (None, None) => return Ok(()),
                    (None, Some(_)) => return Err(Mistake::Syntax("something after the value")),
                    (Some(Open::List), Some(b']')) | (Some(Open::Object(_)), Some(b'}')) => {
                        self.at += 1;
                        open.pop();
                    }
                    (Some(Open::List), Some(b',')) => {
                        self.at += 1;
                        break;
                    }
                    (Some(Open::Object(keys)), Some(b',')) => {
                        self.at += 1;
                        self.skip_space();
                        self.key(keys)?;
                        break;
                    }
                    (Some(Open::List), _) => return Err(Mistake::Syntax("expected , or ]")),
                    (Some(Open::Object(_)), _) => return Err(Mistake::Syntax("expected , or }")),
                }
            }
        }
    }

    /// One value; of a list or object that is not empty, as far as its first value.
    fn value(&mut self, open: &mut Vec<Open<'t>>) -> Result<(), Mistake> {
        loop {
            self.skip_space();
            match self.bytes.get(self.at) {
                Some(b'{') => {
                    self.enter(open)?;
                    if self.bytes.get(self.at) == Some(&b'}') {
                        self.at += 1;
                        return Ok(());
                    }
                    let mut keys = HashSet::new();
                    self.key(&mut keys)?;
                    open.push(Open::Object(keys));
                }
                Some(b'[') => {
                    self.enter(open)?;
                    if self.bytes.get(self.at) == Some(&b']') {
                        self.at += 1;
                        return Ok(());
                    }
                    open.push(Open::List);
                }
                Some(b'"') => return self.text(Read::Passed).map(drop),
                Some(b't') => return self.word("true"),
                Some(b'f') => return self.word("false"),
                Some(b'n') => return self.word("null"),
                Some(b'-' | b'0'..=b'9') => return self.number(),
                Some(_) => return Err(Mistake::Syntax("expected a value")),
                None => return Err(Mistake::Syntax("it ends where a value is expected")),
            }
        }
    }

    fn enter(&mut self, open: &[Open<'t>]) -> Result<(), Mistake> {
        if open.len() >= self.depth_max {
            return Err(Mistake::TooDeep);
        }
        self.at += 1;
        self.skip_space();
        Ok(())
    }

    fn key(&mut self, keys: &mut HashSet<Cow<'t, [u8]>>) -> Result<(), Mistake> {
        if self.bytes.get(self.at) != Some(&b'"') {
            return Err(Mistake::Syntax("expected a key"));
        }
        let key = self.text(Read::Kept)?;
        if keys.contains(&key) {
            // A key with half of a surrogate pair is no text; it is told as far as it is one.
            return Err(Mistake::Duplicate(
                String::from_utf8_lossy(&key).into_owned(),
            ));
        }
        keys.insert(key);
        self.skip_space();
        if self.bytes.get(self.at) != Some(&b':') {
            return Err(Mistake::Syntax("expected :"));
        }
        self.at += 1;
        Ok(())
    }

    /// A text, unescaped; half of a surrogate pair stays as three bytes that are no UTF-8. One without escapes is where it
    /// is, and of one that is only passed nothing is made.
    fn text(&mut self, read: Read) -> Result<Cow<'t, [u8]>, Mistake> {
        let mut unescaped = Vec::new();
        self.at += 1;
        let bytes = self.bytes;
        let start = self.at;
        loop {
            let rest = &bytes[self.at..];
            let is_mark = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..=0x1f);
            let Some(plain) = rest.iter().position(is_mark) else {
                self.at = bytes.len();
                return Err(Mistake::Syntax("a text without end"));
            };
            let has_escape = rest[plain] == b'\\' || !unescaped.is_empty();
            if read == Read::Kept && has_escape {
                unescaped.extend_from_slice(&rest[..plain]);
            }
            self.at += plain;
            match rest[plain] {
                b'"' => {
                    let end = self.at;
                    self.at += 1;
                    return Ok(match has_escape {
                        true => Cow::Owned(unescaped),
                        false => Cow::Borrowed(&bytes[start..end]),
                    });
                }
                b'\\' => {
                    if read == Read::Passed {
                        unescaped.clear();
                    }
                    self.escape(&mut unescaped)?;
                }
                _ => return Err(Mistake::Syntax("a control character in a text")),
            }
        }
    }

    fn escape(&mut self, text: &mut Vec<u8>) -> Result<(), Mistake> {
        let plain = match self.bytes.get(self.at + 1) {
            Some(b'u') => {
                let first = self.unit(self.at + 2)?;
                // `unit` has read the four digits, so the six bytes are there.
                self.at += 6;
                // The other half counts only right behind this one; alone, a half stays what it is.
                let is_pair =
                    (0xd800..0xdc00).contains(&first) && self.bytes[self.at..].starts_with(b"\\u");
                let second = if is_pair {
                    self.unit(self.at + 2)
                        .ok()
                        .filter(|second| (0xdc00..0xe000).contains(second))
                } else {
                    None
                };
                let code = match second {
                    Some(second) => {
                        self.at += 6;
                        0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00)
                    }
                    None => first,
                };
                match char::from_u32(code) {
                    Some(c) => text.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
                    None => {
                        // No UTF-8 has 0xff in it: such a key is equal to no other one.
                        let [_, _, high, low] = code.to_be_bytes();
                        text.extend_from_slice(&[0xff, high, low]);
                    }
                }
                return Ok(());
            }
            Some(escaped @ (b'"' | b'\\' | b'/')) => *escaped,
            Some(b'b') => 0x08,
            Some(b'f') => 0x0c,
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            _ => return Err(Mistake::Syntax("an escape that JSON has not")),
        };
        text.push(plain);
        self.at += 2;
        Ok(())
    }

    /// The four hex digits of an escape.
    fn unit(&self, at: usize) -> Result<u32, Mistake> {
        let digits = self.bytes.get(at..at + 4);
        digits
            .filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))
            .and_then(|digits| str::from_utf8(digits).ok())
            .and_then(|digits| u32::from_str_radix(digits, 16).ok())
            .ok_or(Mistake::Syntax("\\u without four hex digits"))
    }

    fn word(&mut self, word: &'static str) -> Result<(), Mistake> {
        if !self.bytes[self.at..].starts_with(word.as_bytes()) {
            return Err(Mistake::Syntax("expected a value"));
        }
        self.at += word.len();
        Ok(())
    }

    fn number(&mut self) -> Result<(), Mistake> {
        if self.bytes.get(self.at) == Some(&b'-') {
            self.at += 1;
        }
        match self.bytes.get(self.at) {
            // A zero stands alone (RFC 8259 6): a digit behind it is told as something that does not belong
            // there.
            Some(b'0') => self.at += 1,
            _ => self.digits()?,
        }
        if self.bytes.get(self.at) == Some(&b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.bytes.get(self.at), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.bytes.get(self.at), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), Mistake> {
        let start = self.at;
        while self.bytes.get(self.at).is_some_and(u8::is_ascii_digit) {
            self.at += 1;
        }
        if self.at == start {
            return Err(Mistake::Syntax("expected a digit"));
        }
        Ok(())
    }

    fn skip_space(&mut self) {
        while matches!(self.bytes.get(self.at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::too_many_lines, reason = "a table of cases")]
    fn depth_and_duplicates_are_found() {
        assert_eq!(
            check_json(br#"{"a":[1,2.5,"x",null,true],"b":{"a":1}}"#),
            Ok(())
        );
        let deep = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert_eq!(check_json(deep(64).as_bytes()), Ok(()));
        assert_eq!(
            check_json(deep(65).as_bytes()),
            Err(InvalidJson::TooDeep(64))
        );
        assert_eq!(
            check_json(deep(100_000).as_bytes()),
            Err(InvalidJson::TooDeep(64))
        );
        assert_eq!(
            check_json(br#"{"a":1,"a":2}"#),
            Err(InvalidJson::DuplicateKey("a".to_owned()))
        );
        assert_eq!(
            check_json(br#"[{"a":{"b":1,"\u0062":2}}]"#),
            Err(InvalidJson::DuplicateKey("b".to_owned()))
        );
        for legal in [
            r#""\ud800""#,
            r#"{"\ud800":1,"\ud801":2,"\ud83d\ude00":3}"#,
            "1e400",
            "[-0.0e-7, 123]",
            " \t\r\n1 ",
        ] {
            assert_eq!(check_json(legal.as_bytes()), Ok(()), "{legal}");
        }
        assert_eq!(
            check_json(r#"{"😀":1,"\ud83d\ude00":2}"#.as_bytes()),
            Err(InvalidJson::DuplicateKey("😀".to_owned()))
        );
        for bad in [
            "",
            "{",
            "{} x",
            "nul",
            "{\"a\":}",
            "\u{feff}{}",
            "01",
            "1.",
            "1e",
            "-",
            "+1",
            ".5",
            "[1,]",
            "{\"a\":1,}",
            "{a:1}",
            "'a'",
            "\"\u{1}\"",
            "\"\\x\"",
            "\"\\u12g4\"",
            "\"",
            "[",
            "]",
            "1 2",
            "tru",
            "NaN",
        ] {
            assert!(
                matches!(check_json(bad.as_bytes()), Err(InvalidJson::Syntax(_))),
                "{bad}"
            );
        }
        assert!(matches!(
            check_json(b"\"\xff\""),
            Err(InvalidJson::Syntax(_))
        ));
    }
}

#[cfg(test)]
mod properties {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever is made of the letters of JSON, both readers agree, but for what only this one takes.
        #[test]
        fn it_agrees_with_another_reader(text in r#"[\[\]{}:,"\\a0-2eE.+\- tnulr]{0,24}"#) {
            let ours = check_json(text.as_bytes());
            let theirs: Result<serde_json::Value, _> = serde_json::from_str(&text);
            match (&ours, &theirs) {
                (Ok(()), Err(error)) => prop_assert!(
                    error.to_string().contains("out of range") || error.to_string().contains("surrogate"),
                    "{text:?}: {error}"
                ),
                (Err(InvalidJson::Syntax(_)), Ok(_)) => prop_assert!(false, "{text:?}: {ours:?}"),
                _ => {}
            }
        }
    }
}
