//! The formats of ids and secrets: a fixed prefix and a generator.

use crate::id::IdGenerator;
use crate::seal::hex;
use crate::tenant::Mode;
use crate::{Id, Secret, id};

/// Stands in the prefix of a secret for the mode of what it belongs to.
const MODE: &str = "{mode}";

/// `wh-{uuid}`, `msg_{ulid}`, `whs_{hex:18}`, `wh_{alnum:24}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdFormat {
    pub prefix: String,
    pub generator: IdPart,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdPart {
    Uuid,
    Ulid,
    Hex(usize),
    Alnum(usize),
    /// A whole number below 2^63.
    Int,
    /// 24 hex digits that begin with the time (MongoDB's).
    ObjectId,
}

impl IdFormat {
    /// # Errors
    /// A sentence that says what is wrong with the format.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (prefix, part) = split(text)?;
        // An id is written and read where nobody knows its mode.
        if prefix.contains(MODE) {
            return Err("{mode} has its place in secrets and keys only".to_owned());
        }
        let generator = match part {
            ("uuid", None) => IdPart::Uuid,
            ("ulid", None) => IdPart::Ulid,
            // Of the upper half, which tells ids apart, all has to be in it.
            ("hex", Some(len @ 16..=32)) => IdPart::Hex(len),
            ("alnum", Some(len @ 11..=32)) => IdPart::Alnum(len),
            ("int", None) => IdPart::Int,
            ("objectid", None) => IdPart::ObjectId,
            _ => return Err("use {uuid}, {ulid}, {objectid}, {int}, {hex:16} to {hex:32} or {alnum:11} to {alnum:32}; shorter ones would repeat".to_owned()),
        };
        Ok(Self { prefix, generator })
    }

    pub fn render<K>(&self, id: Id<K>) -> String {
        let text = match self.generator {
            IdPart::Uuid => id.uuid(),
            IdPart::Ulid => id.crockford(),
            IdPart::Hex(len) => id.hex(len),
            IdPart::Alnum(len) => id.alnum(len),
            IdPart::Int => id.key().to_string(),
            IdPart::ObjectId => id.object_id(),
        };
        format!("{}{text}", self.prefix)
    }

    /// Reads an id that this format wrote, where the format holds the whole id.
    pub fn read<K: id::Kind>(&self, text: &str) -> Option<Id<K>> {
        let id = Id::from_wire(text.strip_prefix(self.prefix.as_str())?)?;
        // Other spellings of the same bits are no id of this format: there is one text for each.
        (self.render(id) == text).then_some(id)
    }
}

impl IdFormat {
    /// Reads an id of this installation even where the format holds only its key.
    pub fn find<K: id::Kind>(&self, text: &str, ids: &IdGenerator) -> Option<Id<K>> {
        if let Some(id) = self.read(text) {
            return Some(id);
        }
        let rest = text.strip_prefix(self.prefix.as_str())?;
        let key = match self.generator {
            // They hold the whole id: `read` has seen all of these.
            IdPart::Uuid | IdPart::Ulid => return None,
            IdPart::Hex(len) if rest.len() == len => {
                i64::from_str_radix(rest.get(..16)?, 16).ok()?
            }
            IdPart::Alnum(len) if rest.len() == len => Id::<K>::key_of_alnum(rest)?,
            IdPart::Int => rest.parse().ok()?,
            IdPart::ObjectId => Id::<K>::key_of_object_id(rest)?,
            IdPart::Hex(_) | IdPart::Alnum(_) => return None,
        };
        let id = ids.of_key(key);
        (self.render(id) == text).then_some(id)
    }
}

/// How the secrets of a profile look and what a receiver keys its HMAC with.
#[derive(Debug, Clone)]
pub struct SecretPolicy {
    pub scope: SecretScope,
    pub format: SecretFormat,
    pub key: KeyBytes,
    pub show: Visibility,
    /// How long an old secret stays valid after rotation; none when the profile knows no rotation.
    pub overlap: Option<std::time::Duration>,
    /// Whether endpoints may have an Ed25519 key too (`whsk_`, `whpk_`).
    pub asymmetric: bool,
    /// Whether the owner of an endpoint may bring a secret: of any form where the text is the key (GitHub),
    /// otherwise of the profile's.
    pub client_set: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretFormat {
    /// May hold `{mode}`, which becomes `live` or `test`.
    pub prefix: String,
    pub part: SecretPart,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecretPart {
    Hex(usize),
    Alnum(usize),
    /// So many random bytes, in base 64.
    Base64(usize),
}

/// Whose a secret is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecretScope {
    Endpoint,
    /// One for all endpoints of a tenant (Voucherify's project).
    Tenant,
    /// One for each API key, which owns one endpoint (SimplifyTrip's checksum key).
    ApiKey,
}

/// How the bytes of the HMAC key come from the secret's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyBytes {
    /// The text itself, prefix included (Vignetim, Stripe).
    Utf8,
    /// What base 64 after the prefix says (Standard Webhooks).
    Base64AfterPrefix,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Visibility {
    /// Shown when it is made and never again.
    Once,
    /// May be read again by who may manage the endpoint.
    Always,
}

impl SecretFormat {
    /// Whether a text begins as secrets of this form do, of either mode.
    pub fn begins(&self, text: &str) -> bool {
        let modes = [Mode::Live, Mode::Test];
        let mut begins = modes
            .map(|mode| self.prefix.replace(MODE, mode.as_str()))
            .into_iter();
        begins.any(|begin| text.starts_with(&begin))
    }

    /// How they begin, for people.
    pub fn begin(&self) -> String {
        let of = |mode: Mode| self.prefix.replace(MODE, mode.as_str());
        match self.prefix.contains(MODE) {
            true => format!("{} or {}", of(Mode::Live), of(Mode::Test)),
            false => self.prefix.clone(),
        }
    }

    /// # Errors
    /// A sentence that says what is wrong with the format.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (prefix, part) = split(text)?;
        let part = match part {
            // 128 random bits at least; of base 64 the 24 bytes that Standard Webhooks asks for.
            ("hex", Some(len @ 32..=128)) => SecretPart::Hex(len),
            ("alnum", Some(len @ 22..=128)) => SecretPart::Alnum(len),
            ("base64", Some(len @ 24..=64)) => SecretPart::Base64(len),
            _ => return Err("use {hex:32} to {hex:128}, {alnum:22} to {alnum:128} or {base64:24} to {base64:64}; shorter ones could be guessed".to_owned()),
        };
        Ok(Self { prefix, part })
    }

    /// How many random bytes [`SecretFormat::make`] takes.
    pub fn random_len(&self) -> usize {
        match self.part {
            SecretPart::Hex(len) => len.div_ceil(2),
            // Two random bytes for each letter keep the bias below 1 in 1,000.
            SecretPart::Alnum(len) => len * 2,
            SecretPart::Base64(len) => len,
        }
    }

    /// Makes a secret from random bytes, for something of this mode.
    ///
    /// # Panics
    /// When `random` has not [`SecretFormat::random_len`] bytes.
    pub fn make(&self, mode: Mode, random: &[u8]) -> Secret {
        use base64::Engine as _;
        const LETTERS: &[u8; 62] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
        assert_eq!(random.len(), self.random_len(), "random bytes for a secret");
        let mut text = self.prefix.replace(MODE, mode.as_str());
        match self.part {
            // An odd length has half of the last byte.
            SecretPart::Hex(len) => text.push_str(&hex(random)[..len]),
            SecretPart::Alnum(_) => text.extend(random.chunks_exact(2).map(|pair| {
                let value = u16::from_be_bytes([pair[0], pair[1]]);
                char::from(LETTERS[usize::from(value % 62)])
            })),
            SecretPart::Base64(_) => {
                text.push_str(&base64::engine::general_purpose::STANDARD.encode(random))
            }
        }
        Secret::new(text)
    }
}

/// Splits `prefix{name:number}`.
fn split(text: &str) -> Result<(String, (&str, Option<usize>)), String> {
    let error = || {
        format!("{text:?} is not a prefix followed by one generator such as {{uuid}} or {{hex:42}}")
    };
    // From the right: a prefix may have braces too, those of `{mode}`.
    let (prefix, rest) = text.rsplit_once('{').ok_or_else(error)?;
    let inner = rest.strip_suffix('}').ok_or_else(error)?;
    let part = match inner.split_once(':') {
        Some((name, len)) => (name, Some(len.parse().map_err(|_| error())?)),
        None => (inner, None),
    };
    if !prefix
        // Once: the braces of a second one are then a mistake.
        .replacen(MODE, "", 1)
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
    {
        return Err("a prefix has letters, digits, _ and - only".to_owned());
    }
    Ok((prefix.to_owned(), part))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Timestamp;
    use crate::id::{Endpoint, IdGenerator};

    #[test]
    fn ids_come_back_from_the_wire() {
        let id: Id<Endpoint> = IdGenerator::new(3, 0).next(Timestamp::from_secs(1_774_017_075));
        for format in [
            "wh-{uuid}",
            "ep_{ulid}",
            "wh_{alnum:24}",
            "distr_{alnum:26}",
        ] {
            let format = IdFormat::parse(format).unwrap();
            assert_eq!(format.read(&format.render(id)), Some(id));
            assert_eq!(format.read::<Endpoint>("wh-x"), None);
        }
        assert_eq!(IdFormat::parse("wh-{uuid}").unwrap().render(id).len(), 39);
        assert_eq!(
            IdFormat::parse("whs_{hex:18}").unwrap().render(id).len(),
            22
        );
        for bad in ["", "wh", "{hex:4}", "{x}", "a b{uuid}", "{uuid}x", "{hex:}"] {
            assert!(IdFormat::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn secrets_have_the_documented_shape() {
        let format = SecretFormat::parse("whs_{hex:42}").unwrap();
        let secret = format.make(Mode::Live, &vec![0xab; format.random_len()]);
        assert_eq!(secret.expose().len(), 46);
        assert!(
            secret
                .expose()
                .bytes()
                .skip(4)
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        );
        assert!(SecretFormat::parse("x{hex:8}").is_err());
        let of_mode = SecretFormat::parse("ck_{mode}_{alnum:24}").unwrap();
        let made = of_mode.make(Mode::Test, &[7; 48]);
        assert!(made.expose().starts_with("ck_test_") && made.expose().len() == 32);
        assert!(IdFormat::parse("wh_{mode}_{uuid}").is_err());
        assert_eq!(
            SecretFormat::parse("{alnum:32}")
                .unwrap()
                .make(Mode::Live, &[7; 64])
                .expose()
                .len(),
            32
        );
    }

    #[test]
    fn an_object_id_begins_with_its_second_and_is_found_again() {
        let ids = IdGenerator::new(7, 0);
        let format = IdFormat::parse("{objectid}").unwrap();
        let at = Timestamp::from_micros(1_774_017_075_987_000);
        let mut seen = std::collections::HashSet::new();
        for _ in 0..5_000 {
            let id: Id<id::Event> = ids.next(at);
            let text = format.render(id);
            assert_eq!(text.len(), 24);
            assert!(text.bytes().all(|byte| b"0123456789abcdef".contains(&byte)));
            let seconds = i64::from_str_radix(&text[..8], 16).unwrap();
            // When a millisecond is used up, ids borrow the next.
            assert!((1_774_017_075..=1_774_017_076).contains(&seconds), "{text}");
            assert_eq!(format.find(&text, &ids), Some(id));
            assert!(seen.insert(text));
        }
        for other in ["", "69bd59b3", &"z".repeat(24)] {
            assert_eq!(format.find::<id::Event>(other, &ids), None);
        }
    }
}
