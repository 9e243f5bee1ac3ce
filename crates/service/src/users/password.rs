//! Passwords: hashed so slowly that nobody tries many (Argon2id, RFC 9106, with the parameters that OWASP asks for).

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{LazyLock, Mutex, Once, PoisonError};
use std::time::Duration;

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use postrider_core::Secret;
use postrider_core::address::{AddressPolicy, CUSTOMER_BITS, network};
use postrider_core::seal::sha256;
use tokio::time::Instant;

use crate::budget::{Budget, Grant};
use crate::refusal::{ErrorCode, Refusal, Result};
use crate::{CameFrom, random};

/// Characters of a password: what one person remembers, and nobody finds by trying (NIST SP 800-63B-4, 3.1.1.2, asks for
/// 15 where nothing else proves who somebody is).
const CHARS_MIN: usize = 15;
/// Different ones among them.
const DIFFERENT_MIN: usize = 6;
/// Bytes of a password.
const BYTES_MAX: usize = 512;
/// Random bytes beside each password.
const SALT_BYTES: usize = 16;
/// Passwords that are looked at, at once: each has 19 MiB, and a core for some 20 ms.
const AT_ONCE: usize = 4;
/// How long one waits for its turn, and how often it looks.
const TURN_WAIT: Duration = Duration::from_secs(1);
const TURN_LOOK: Duration = Duration::from_millis(20);
/// Tries that failed: for one name from one address, for all names from one, and for one name from addresses that nobody
/// knows; in a window that begins with the first.
const FAILED_OF_NAME: u32 = 10;
const FAILED_OF_ADDRESS: u32 = 100;
const FAILED_OF_NOWHERE: u32 = 100;
/// For all names, from a proxy that hides addresses: one in a network of one's own, which has fewer than there are windows, so that
/// it does not fill them, and any other, which may be somebody who only says that it is one.
const FAILED_OF_NEAR_PROXY: u32 = 20_000;
const FAILED_OF_PROXY: u32 = 1_000;
const WINDOW: Duration = Duration::from_secs(10 * 60);
/// Windows that run at once; while there are as many, nobody comes in by name who has not tried before.
const WINDOWS_MAX: usize = 50_000;
/// Between two looks for windows that are over.
const SWEEP_PAUSE: Duration = Duration::from_secs(1);
/// Bits of an IPv6 address that one site may have.
const SITE_BITS: u8 = 48;

/// What a password is compared with whose user is not there: it takes as long.
static NOBODYS: LazyLock<String> =
    LazyLock::new(|| hashed(&random::bytes(SALT_BYTES)).unwrap_or_default());

/// Lets nobody try passwords as often as they like, or keep all cores busy with it.
pub(crate) struct Gate {
    running: Budget,
    failed: Mutex<Failed>,
    /// That addresses are hidden is told once.
    told: Once,
}

struct Failed {
    windows: HashMap<u128, Window>,
    swept_at: Instant,
}

#[derive(Clone, Copy)]
struct Window {
    ends_at: Instant,
    tries: u32,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            running: Budget::new(AT_ONCE),
            failed: Mutex::new(Failed {
                windows: HashMap::new(),
                swept_at: Instant::now(),
            }),
            told: Once::new(),
        }
    }
}

impl Gate {
    /// Whether a password is the one of this hash; never where there is none. What fails is counted for the name and for
    /// where it came from.
    ///
    /// # Errors
    /// `rate_limited` when too many failed before, `overloaded` when as many are looked at as can be.
    pub(crate) async fn is_it(
        &self,
        name: &str,
        password: &Secret,
        hash: Option<String>,
        from: CameFrom,
    ) -> Result<bool> {
        if from.is_proxys {
            self.told.call_once(|| {
                tracing::warn!(
                    "people come in through a proxy that is not in server.trusted_proxies: tries are counted by name alone, so that one may keep another out"
                );
            });
        }
        let buckets = buckets(name, from);
        // Before a turn is taken: whoever is over the limit must not keep others waiting for theirs.
        self.must_be_within(&buckets, Instant::now())?;
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
        let turn = self.turn(from).await.ok_or_else(too_many)?;
        // Others may have failed while this one waited.
        self.must_be_within(&buckets, Instant::now())?;
        let is_it = apart(turn, work).await?;
        // Who comes in has used up nothing of what others behind the same address may try.
        if !is_it {
            self.count(&buckets, Instant::now());
        }
        Ok(is_it)
    }

    /// What is kept of a password.
    ///
    /// # Errors
    /// `validation_failed` of one that would be guessed, `overloaded` as above.
    pub(crate) async fn hash(
        &self,
        password: &Secret,
        name: &str,
        from: CameFrom,
    ) -> Result<String> {
        must_be_good(password.expose(), name)?;
        let password = Secret::new(password.expose().to_owned());
        let turn = self.turn(from).await.ok_or_else(too_many)?;
        apart(turn, move || hashed(password.expose().as_bytes())).await
    }

    fn must_be_within(&self, buckets: &[(u128, u32)], now: Instant) -> Result<()> {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        if failed.windows.len() >= WINDOWS_MAX && now >= failed.swept_at + SWEEP_PAUSE {
            failed.swept_at = now;
            failed.windows.retain(|_, window| window.ends_at > now);
        }
        let full = failed.windows.len() >= WINDOWS_MAX;
        for (bucket, most) in buckets {
            let left = match failed.windows.get(bucket) {
                Some(window) if window.ends_at <= now => continue,
                Some(window) if window.tries < *most => continue,
                Some(window) => window.ends_at - now,
                None if full => WINDOW,
                None => continue,
            };
            let minutes = left.as_secs().div_ceil(60).max(1);
            let minutes = match minutes {
                1 => "a minute".to_owned(),
                some => format!("{some} minutes"),
            };
            let detail = format!("that was tried too often; wait {minutes} and try again");
            return Err(Refusal::new(ErrorCode::RateLimited, detail));
        }
        Ok(())
    }

    fn count(&self, buckets: &[(u128, u32)], now: Instant) {
        // Not bounded here: only what `must_be_within` has let through is counted, four at once.
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        for (bucket, _) in buckets {
            let fresh = Window {
                ends_at: now + WINDOW,
                tries: 0,
            };
            let window = failed.windows.entry(*bucket).or_insert(fresh);
            if window.ends_at <= now {
                *window = fresh;
            }
            window.tries = window.tries.saturating_add(1);
        }
    }

    async fn turn(&self, from: CameFrom) -> Option<Grant> {
        // By site, as the tries are; all whose address nobody knows are one holder.
        let holder = known(from).map_or(0, |address| network(address, SITE_BITS));
        let begun = Instant::now();
        // A budget by shares has no queue, so it is asked again and again.
        loop {
            if let Some(turn) = self.running.take(holder, 1) {
                return Some(turn);
            }
            if begun.elapsed() >= TURN_WAIT {
                return None;
            }
            tokio::time::sleep(TURN_LOOK).await;
        }
    }
}

/// Work for a core, on a thread of its own.
async fn apart<T: Send + 'static>(
    turn: Grant,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(move || {
        // Held by the work, which goes on although whoever asked has gone.
        let _turn = turn;
        work()
    });
    done.await.map_err(Refusal::internal)?
}

fn too_many() -> Refusal {
    let detail = "as many come in at once as can; try again in a moment";
    Refusal::new(ErrorCode::Overloaded, detail)
}

/// The address that is one's own.
fn known(from: CameFrom) -> Option<IpAddr> {
    from.address.filter(|_| !from.is_proxys)
}

/// What a try counts for, and how many of each may fail. Whose address is known is counted with it, so that nobody keeps
/// somebody else out by trying.
fn buckets(name: &str, from: CameFrom) -> Vec<(u128, u32)> {
    let bucket = |of: String| {
        let hash = sha256(of.as_bytes());
        hash[..16]
            .iter()
            .fold(0, |all, byte| all << 8 | u128::from(*byte))
    };
    let Some(address) = known(from) else {
        let proxy = from.address.map(|address| {
            let most = match AddressPolicy::default().check(address) {
                Ok(()) => FAILED_OF_PROXY,
                Err(_) => FAILED_OF_NEAR_PROXY,
            };
            let proxy = network(address, SITE_BITS);
            (bucket(format!("proxy {proxy:x}")), most)
        });
        let name = (bucket(format!("name {name}")), FAILED_OF_NOWHERE);
        return std::iter::once(name).chain(proxy).collect();
    };
    let (own, site) = (network(address, CUSTOMER_BITS), network(address, SITE_BITS));
    vec![
        (bucket(format!("{own:x} {name}")), FAILED_OF_NAME),
        (bucket(format!("site {site:x}")), FAILED_OF_ADDRESS),
    ]
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
    let letters: Vec<char> = password.to_lowercase().chars().collect();
    if letters.len() < CHARS_MIN {
        return wrong(format!(
            "must have {CHARS_MIN} characters or more: a few words are easy to remember"
        ));
    }
    if password.len() > BYTES_MAX {
        return wrong(format!("must have {BYTES_MAX} bytes at most"));
    }
    let mut different = letters.clone();
    different.sort_unstable();
    different.dedup();
    let digits = letters.iter().all(char::is_ascii_digit);
    // A short password typed again and again is as long as a good one.
    let repeats = (1..=letters.len() / 2).any(|part| {
        let again = letters.iter().skip(part);
        again.zip(&letters).all(|(one, other)| one == other)
    });
    let without_name = password.to_lowercase().replace(name, "");
    let is_name = without_name.chars().count() < CHARS_MIN / 2;
    if different.len() < DIFFERENT_MIN || digits || repeats || is_name {
        return wrong("would be guessed: take a few words".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(address: &str) -> CameFrom {
        CameFrom {
            address: Some(address.parse().unwrap()),
            is_proxys: false,
        }
    }

    const NOWHERE: CameFrom = CameFrom {
        address: None,
        is_proxys: false,
    };

    #[tokio::test]
    async fn a_password_opens_what_was_made_of_it_and_nothing_else() {
        let gate = Gate::default();
        let password = Secret::new("correct horse battery".to_owned());
        let hash = gate.hash(&password, "ada", NOWHERE).await.unwrap();
        assert!(
            hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"),
            "{hash}"
        );
        let other = gate.hash(&password, "ada", NOWHERE).await.unwrap();
        assert_ne!(hash, other, "each has a salt of its own");
        let wrong = Secret::new("correct horse batterz".to_owned());
        for (tried, hash, expected) in [
            (&password, Some(hash.clone()), true),
            (&wrong, Some(hash), false),
            (&password, None, false),
            (&password, Some("garbage".to_owned()), false),
        ] {
            let is_it = gate.is_it("ada", tried, hash, NOWHERE).await;
            assert_eq!(is_it.unwrap(), expected);
        }
    }

    #[tokio::test]
    async fn one_address_leaves_turns_to_others() {
        let gate = Gate::default();
        let from = at("192.0.2.1");
        let held: Vec<Grant> = [gate.turn(from).await, gate.turn(from).await]
            .into_iter()
            .flatten()
            .collect();
        assert_eq!(held.len(), 2);
        let password = Secret::new("correct horse battery".to_owned());
        tokio::time::pause();
        let refused = gate.is_it("ada", &password, None, from).await;
        assert_eq!(refused.unwrap_err().code, ErrorCode::Overloaded);
        tokio::time::resume();
        let other = gate.is_it("ada", &password, None, at("192.0.2.2")).await;
        assert!(!other.unwrap());
        // Who waits gets the next turn.
        let waits = gate.is_it("bob", &password, None, from);
        let ends = async {
            tokio::task::yield_now().await;
            drop(held);
        };
        let (waited, ()) = tokio::join!(waits, ends);
        assert!(!waited.unwrap());
    }

    #[test]
    fn what_would_be_guessed_is_refused() {
        for bad in [
            "short",
            "fourteen chars",
            "aaaaaaaaaaaaaaaaaaaa",
            "ada@example.com!",
            "ADA@example.comADA@example.com",
            "123456789012345",
            "passwordpassword",
            "abcabcabcabcabcabca",
            // Five different ones, in no order.
            "abcabdabcaebcda",
        ] {
            assert!(must_be_good(bad, "ada@example.com").is_err(), "{bad}");
        }
        let words: String = (0..100).map(|n| format!("word{n} ")).collect();
        let (longest, longer) = (&words[..512], &words[..513]);
        must_be_good(longest, "ada").unwrap();
        assert!(must_be_good(longer, "ada").is_err(), "too long");
        must_be_good("fifteen letters", "ada@example.com").unwrap();
    }

    /// Tries that fail until one is refused.
    fn tries(gate: &Gate, name: &str, from: CameFrom) -> u32 {
        let (buckets, now) = (buckets(name, from), Instant::now());
        let mut tried = 0;
        while gate.must_be_within(&buckets, now).is_ok() && tried < 1_000 {
            gate.count(&buckets, now);
            tried += 1;
        }
        tried
    }

    #[test]
    fn tries_are_counted_by_name_and_address() {
        let gate = Gate::default();
        let home = at("2001:db8::1");
        assert_eq!(tries(&gate, "ada", home), FAILED_OF_NAME);
        assert_eq!(tries(&gate, "ada", at("2001:db8::2")), 0, "one customer's");
        // Whoever tries hers elsewhere does not keep her out, and others where she is come in.
        assert_eq!(tries(&gate, "ada", at("192.0.2.1")), FAILED_OF_NAME);
        assert_eq!(tries(&gate, "bob", home), FAILED_OF_NAME);
        let names = (0..50).map(|n| tries(&gate, &n.to_string(), at("2001:db8:0:7::1")));
        assert_eq!(names.sum::<u32>(), FAILED_OF_ADDRESS - 2 * FAILED_OF_NAME);
    }

    #[test]
    fn behind_a_proxy_that_nobody_trusts_one_name_is_not_all() {
        let gate = Gate::default();
        let proxys = CameFrom {
            is_proxys: true,
            ..at("127.0.0.1")
        };
        assert_eq!(tries(&gate, "ada", proxys), FAILED_OF_NOWHERE);
        assert_eq!(tries(&gate, "ada", NOWHERE), 0);
        assert_eq!(tries(&gate, "bob", proxys), FAILED_OF_NOWHERE);
        assert_eq!(tries(&gate, "ada", at("127.0.0.1")), FAILED_OF_NAME);
    }

    #[test]
    fn made_up_names_behind_a_proxy_do_not_fill_the_windows() {
        let gate = Gate::default();
        let proxys = CameFrom {
            is_proxys: true,
            ..at("127.0.0.1")
        };
        let now = Instant::now();
        for number in 0..WINDOWS_MAX {
            let buckets = buckets(&number.to_string(), proxys);
            if gate.must_be_within(&buckets, now).is_err() {
                break;
            }
            gate.count(&buckets, now);
        }
        assert_eq!(tries(&gate, "ada", at("192.0.2.1")), FAILED_OF_NAME);
    }

    #[test]
    fn windows_are_bounded_and_end() {
        let gate = Gate::default();
        let now = Instant::now();
        for number in 0..WINDOWS_MAX as u128 {
            gate.count(&[(number, 1)], now);
        }
        assert!(gate.must_be_within(&[(u128::MAX, 1)], now).is_err());
        let later = now + WINDOW;
        gate.must_be_within(&[(u128::MAX, 1)], later).unwrap();
        assert!(gate.failed.lock().unwrap().windows.is_empty());
    }
}
