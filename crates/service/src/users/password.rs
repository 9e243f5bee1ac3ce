//! Passwords: hashed so slowly that nobody tries many (Argon2id, RFC 9106, with the parameters that OWASP asks for).

use std::net::IpAddr;
use std::sync::LazyLock;
use std::time::Duration;

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use postrider_core::seal::sha256;
use postrider_core::{Id, Secret, Timestamp, id};
use tokio::time::Instant;

use crate::budget::Budget;
use crate::refusal::{ErrorCode, Refusal, Result};
use crate::{Windows, random};

/// Characters of a password: what one person remembers, and nobody finds by trying (NIST SP 800-63B-4, 3.1.1.2, asks for
/// 15 where nothing else proves who somebody is).
const CHARS_MIN: usize = 15;
/// Bytes of a password.
const BYTES_MAX: usize = 512;
/// Random bytes beside each password.
const SALT_BYTES: usize = 16;
/// Passwords that are looked at, at once: each has 19 MiB, and a core for some 20 ms.
const AT_ONCE: usize = 4;
/// Tries for one name from one address, and for all names from it, in a window that begins with the first.
const TRIES_OF_NAME: u32 = 10;
const TRIES_OF_ADDRESS: u32 = 100;
const WINDOW: Duration = Duration::from_secs(10 * 60);

/// What a password is compared with whose user is not there: it takes as long.
static NOBODYS: LazyLock<String> =
    LazyLock::new(|| hashed(&random::bytes(SALT_BYTES)).unwrap_or_default());

/// Lets nobody try passwords as often as they like, or keep all cores busy with it.
pub(crate) struct Gate {
    running: Budget,
    tries: Windows<id::User>,
    begun: Instant,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            running: Budget::new(AT_ONCE),
            tries: Windows::default(),
            begun: Instant::now(),
        }
    }
}

impl Gate {
    /// Counts a try to come in as `name` from an address.
    ///
    /// # Errors
    /// `rate_limited` when it is one too many.
    pub(crate) fn count(&self, name: &str, address: Option<IpAddr>) -> Result<()> {
        let from = holder(address);
        let now = Timestamp::from_secs(0).plus(self.begun.elapsed());
        let of_name = sha256(format!("{from:x} {name}").as_bytes());
        let mut first = [0; 16];
        first.copy_from_slice(&of_name[..16]);
        for (whose, most) in [
            (from, TRIES_OF_ADDRESS),
            (u128::from_le_bytes(first), TRIES_OF_NAME),
        ] {
            let standing = self.tries.count(Id::from_u128(whose), most, WINDOW, now);
            if standing.exceeded {
                let minutes = standing.resets_at.since(now).as_secs() / 60 + 1;
                let detail =
                    format!("that was tried too often; wait {minutes} minutes and try again");
                return Err(Refusal::new(ErrorCode::RateLimited, detail));
            }
        }
        Ok(())
    }

    /// Whether a password is the one of this hash; never where there is none.
    ///
    /// # Errors
    /// `overloaded` when as many are looked at as can be.
    pub(crate) async fn is_it(
        &self,
        password: &Secret,
        hash: Option<String>,
        address: Option<IpAddr>,
    ) -> Result<bool> {
        let password = Secret::new(password.expose().to_owned());
        let work = move || {
            let known = hash.is_some();
            let hash = hash.unwrap_or_else(|| NOBODYS.clone());
            let matches = PasswordHash::new(&hash).is_ok_and(|hash| {
                let password = password.expose().as_bytes();
                Argon2::default().verify_password(password, &hash).is_ok()
            });
            Ok(known && matches)
        };
        self.apart(address, work).await
    }

    /// What is kept of a password.
    ///
    /// # Errors
    /// `validation_failed` of one that would be guessed, `overloaded` as above.
    pub(crate) async fn hash(
        &self,
        password: &Secret,
        name: &str,
        address: Option<IpAddr>,
    ) -> Result<String> {
        must_be_good(password.expose(), name)?;
        let password = Secret::new(password.expose().to_owned());
        self.apart(address, move || hashed(password.expose().as_bytes()))
            .await
    }

    /// Work for a core, on a thread of its own.
    async fn apart<T: Send + 'static>(
        &self,
        address: Option<IpAddr>,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let turn = self.running.take(holder(address), 1).ok_or_else(|| {
            let detail = "as many come in at once as can; try again in a moment";
            Refusal::new(ErrorCode::Overloaded, detail)
        })?;
        let done = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            work()
        });
        done.await.map_err(Refusal::internal)?
    }
}

/// On whose account the tries from an address go: of IPv6, on that of its network, of which one customer has all.
fn holder(address: Option<IpAddr>) -> u128 {
    match address {
        None => 0,
        Some(IpAddr::V4(address)) => address.to_ipv6_mapped().to_bits(),
        Some(IpAddr::V6(address)) => address.to_bits() >> 64 << 64,
    }
}

fn hashed(password: &[u8]) -> Result<String> {
    let salt = random::bytes(SALT_BYTES);
    let hash: PasswordHash = Argon2::default()
        .hash_password_with_salt(password, &salt)
        .map_err(|error| Refusal::internal(error.to_string()))?;
    Ok(hash.to_string())
}

fn must_be_good(password: &str, name: &str) -> Result<()> {
    let wrong = |rule: String| Err(Refusal::invalid("password", rule));
    if password.chars().count() < CHARS_MIN {
        return wrong(format!(
            "must have {CHARS_MIN} characters or more: a few words are easy to remember"
        ));
    }
    if password.len() > BYTES_MAX {
        return wrong(format!("must have {BYTES_MAX} bytes at most"));
    }
    let mut letters = password.chars().map(|c| c.to_lowercase().to_string());
    let first = letters.next();
    let all_one = letters.all(|letter| Some(&letter) == first.as_ref());
    if all_one || password.to_lowercase().replace(name, "").chars().count() < CHARS_MIN / 2 {
        return wrong("would be guessed: take a few words".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_password_opens_what_was_made_of_it_and_nothing_else() {
        let gate = Gate::default();
        let password = Secret::new("correct horse battery".to_owned());
        let hash = gate.hash(&password, "ada", None).await.unwrap();
        assert!(
            hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"),
            "{hash}"
        );
        let other = gate.hash(&password, "ada", None).await.unwrap();
        assert_ne!(hash, other, "each has a salt of its own");
        let wrong = Secret::new("correct horse batterz".to_owned());
        for (tried, hash, expected) in [
            (&password, Some(hash.clone()), true),
            (&wrong, Some(hash), false),
            (&password, None, false),
            (&password, Some("garbage".to_owned()), false),
        ] {
            assert_eq!(gate.is_it(tried, hash, None).await.unwrap(), expected);
        }
    }

    #[tokio::test]
    async fn one_address_leaves_turns_to_others() {
        let gate = Gate::default();
        let (password, address) = (
            Secret::new("correct horse battery".to_owned()),
            Some(IpAddr::from([192, 0, 2, 1])),
        );
        let same = || gate.is_it(&password, None, address);
        let other = gate.is_it(&password, None, None);
        let (a, b, c, other) = tokio::join!(same(), same(), same(), other);
        assert!(a.is_ok() && b.is_ok() && other.is_ok());
        assert_eq!(c.unwrap_err().code, ErrorCode::Overloaded);
    }

    #[test]
    fn what_would_be_guessed_is_refused() {
        for bad in [
            "short",
            "fourteen chars",
            "aaaaaaaaaaaaaaaaaaaa",
            "ada@example.com!",
            "ADA@example.comADA@example.com",
        ] {
            assert!(must_be_good(bad, "ada@example.com").is_err(), "{bad}");
        }
        assert!(must_be_good(&"x y".repeat(200), "ada").is_err(), "too long");
        must_be_good("fifteen letters", "ada@example.com").unwrap();
    }

    #[test]
    fn tries_are_counted_by_name_and_address() {
        let gate = Gate::default();
        let address = |text: &str| Some(text.parse().unwrap());
        let home = address("2001:db8::1");
        for _ in 0..TRIES_OF_NAME {
            gate.count("ada", home).unwrap();
        }
        let refused = gate.count("ada", address("2001:db8::2")).unwrap_err();
        assert_eq!(refused.code, ErrorCode::RateLimited);
        // Whoever tries hers elsewhere does not keep her out, and others in her network come in.
        gate.count("ada", address("192.0.2.1")).unwrap();
        gate.count("bob", home).unwrap();
        let others = (0..TRIES_OF_ADDRESS).map(|n| gate.count(&n.to_string(), home));
        assert!(others.into_iter().any(|counted| counted.is_err()));
    }
}
