//! Addresses of this server that keep what comes to them, for people who have no server of their own yet.
//!
//! All of it is in memory: a catcher is for looking at what arrives, and gone with the process or after a day.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use postrider_core::audit::AuditEntry;
use postrider_core::endpoint::Endpoint;
use postrider_core::profile::VerifyError;
use postrider_core::seal::hex;
use postrider_core::{Id, Timestamp, id};
use postrider_store::PageRequest;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::budget::{Budget, Grant};
use crate::refusal::{ErrorCode, Refusal, Result};
use crate::{Caller, Service, random};

/// Catchers of a tenant; of more the oldest ends.
const CATCHERS_OF_TENANT_MAX: usize = 5;
/// Catchers of all tenants.
const CATCHERS_MAX: usize = 1_000;
/// Requests that one keeps: the newest.
const CAUGHT_MAX: usize = 100;
/// Bytes of a body that are kept.
const BODY_KEPT_MAX: usize = 64 * 1024;
/// Bytes that all keep together, by share of each tenant.
const KEPT_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Bytes of a request's target and headers that are kept.
const HEAD_KEPT_MAX: usize = 16 * 1024;
/// What a kept request has beside its texts.
const OVERHEAD: usize = 512;
/// How long one lasts.
const LASTS: Duration = Duration::from_secs(24 * 3_600);
/// Random bytes in an address: nobody finds one by trying.
const CODE_BYTES: usize = 16;
/// Endpoints with a catcher's address whose secrets are tried.
const SIGNERS_MAX: usize = 8;

/// A request that came to a catcher.
#[derive(Debug, Clone)]
pub struct Caught {
    /// Counted from 1.
    pub number: u64,
    pub at: Timestamp,
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: Bytes,
    /// Bytes that the body had.
    pub bytes: usize,
    /// What it was answered with.
    pub status: u16,
}

impl Caught {
    /// Not all of its body was kept.
    pub fn is_cut(&self) -> bool {
        self.body.len() < self.bytes
    }

    fn weight(&self) -> usize {
        let headers = self.headers.iter();
        let headers: usize = headers.map(|(name, value)| name.len() + value.len()).sum();
        self.body.len() + self.target.len() + headers + OVERHEAD
    }
}

/// A catcher, as it is listed.
#[derive(Debug, Clone)]
pub struct CatcherListed {
    /// What its address ends with.
    pub code: String,
    pub made_at: Timestamp,
    pub ends_at: Timestamp,
    /// How many requests came to it.
    pub count: u64,
}

/// Whether what came was signed by an endpoint that has the catcher's address.
#[derive(Debug)]
pub enum CaughtVerdict {
    Valid(Box<Endpoint>),
    Invalid(VerifyError),
    /// No endpoint has this address.
    Unknown,
    /// Only a part of the body was kept.
    Cut,
}

struct Catcher {
    tenant: Id<id::Tenant>,
    made_at: Timestamp,
    begun: Instant,
    count: u64,
    caught: VecDeque<(Caught, Grant)>,
}

impl Catcher {
    fn is_over(&self, now: Instant) -> bool {
        now >= self.begun + LASTS
    }

    fn listed(&self, code: &str) -> CatcherListed {
        CatcherListed {
            code: code.to_owned(),
            made_at: self.made_at,
            ends_at: self.made_at.plus(LASTS),
            count: self.count,
        }
    }
}

/// All catchers of this process.
pub(crate) struct Catchers {
    by_code: Mutex<HashMap<String, Catcher>>,
    kept: Budget,
    /// One verification at a time: a canonical form can be long work.
    verifying: Arc<Semaphore>,
}

impl Default for Catchers {
    fn default() -> Self {
        Self {
            by_code: Mutex::default(),
            kept: Budget::new(KEPT_BYTES_MAX),
            verifying: Arc::new(Semaphore::new(1)),
        }
    }
}

impl Catchers {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Catcher>> {
        self.by_code.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A catcher of this tenant that is not over.
    fn with<T>(
        &self,
        tenant: Id<id::Tenant>,
        code: &str,
        look: impl FnOnce(&Catcher) -> T,
    ) -> Result<T> {
        let now = Instant::now();
        let catchers = self.lock();
        let found = catchers.get(code);
        let own = found.filter(|catcher| catcher.tenant == tenant && !catcher.is_over(now));
        own.map(look).ok_or_else(|| Refusal::not_found("catcher"))
    }

    /// Room for one more of a tenant's: its oldest ends where it has as many as it may.
    fn make(&self, tenant: Id<id::Tenant>, made_at: Timestamp) -> Result<CatcherListed> {
        let now = Instant::now();
        let mut catchers = self.lock();
        catchers.retain(|_, catcher| !catcher.is_over(now));
        let of_tenant = catchers.iter().filter(|(_, it)| it.tenant == tenant);
        if of_tenant.clone().count() >= CATCHERS_OF_TENANT_MAX {
            let oldest = of_tenant.min_by_key(|(_, catcher)| catcher.begun);
            if let Some(oldest) = oldest.map(|(code, _)| code.clone()) {
                catchers.remove(&oldest);
            }
        }
        if catchers.len() >= CATCHERS_MAX {
            let detail = "there are as many as this server keeps; try again later";
            return Err(Refusal::new(ErrorCode::Overloaded, detail));
        }
        let code = hex(&random::bytes(CODE_BYTES));
        let catcher = Catcher {
            tenant,
            made_at,
            begun: now,
            count: 0,
            caught: VecDeque::new(),
        };
        let listed = catcher.listed(&code);
        catchers.insert(code, catcher);
        Ok(listed)
    }

    /// Keeps a request, in the place of the oldest where there is no more room.
    fn keep(&self, code: &str, mut caught: Caught) -> bool {
        let now = Instant::now();
        let mut catchers = self.lock();
        let Some(catcher) = catchers.get_mut(code).filter(|it| !it.is_over(now)) else {
            return false;
        };
        catcher.count += 1;
        caught.number = catcher.count;
        while catcher.caught.len() >= CAUGHT_MAX {
            catcher.caught.pop_front();
        }
        let (holder, weight) = (catcher.tenant.as_u128(), caught.weight());
        let mut grant = self.kept.take(holder, weight);
        while grant.is_none() && catcher.caught.pop_front().is_some() {
            grant = self.kept.take(holder, weight);
        }
        if let Some(grant) = grant {
            catcher.caught.push_back((caught, grant));
        }
        true
    }
}

impl Service {
    /// Whether this server catches requests.
    pub fn catches(&self) -> bool {
        self.0.options.catcher
    }

    fn must_catch(&self) -> Result<()> {
        if self.catches() {
            return Ok(());
        }
        Err(Refusal::not_found("page"))
    }

    /// An address that keeps what comes to it.
    ///
    /// # Errors
    /// `not_found` where this server has none, `scope_insufficient`, `overloaded` when there are too many.
    pub async fn make_catcher(
        &self,
        who: &Caller,
        tenant: Id<id::Tenant>,
    ) -> Result<CatcherListed> {
        self.must_catch()?;
        let tenant = who.tenant(self, tenant).await?;
        let by = who.changes(self.now())?;
        let made = self.0.catchers.make(tenant.id, by.at)?;
        let entry = AuditEntry {
            id: self.store().ids().next(by.at),
            application: Some(tenant.application),
            tenant: Some(tenant.id),
            action: "catcher.created".to_owned(),
            subject: tenant.id.to_string(),
            before: None,
            after: Some(serde_json::json!({ "endsAt": made.ends_at }).to_string()),
            actor: by,
        };
        self.store().note(entry).await?;
        Ok(made)
    }

    /// A tenant's catchers, the newest first.
    ///
    /// # Errors
    /// `not_found`, or what the store answers.
    pub async fn catchers(
        &self,
        who: &Caller,
        tenant: Id<id::Tenant>,
    ) -> Result<Vec<CatcherListed>> {
        self.must_catch()?;
        let tenant = who.tenant(self, tenant).await?.id;
        let now = Instant::now();
        let catchers = self.0.catchers.lock();
        let own = catchers
            .iter()
            .filter(|(_, it)| it.tenant == tenant && !it.is_over(now));
        let mut listed: Vec<CatcherListed> = own.map(|(code, it)| it.listed(code)).collect();
        drop(catchers);
        listed.sort_by_key(|listed| std::cmp::Reverse(listed.made_at));
        Ok(listed)
    }

    /// What came to a catcher, the newest first.
    ///
    /// # Errors
    /// `not_found`, or what the store answers.
    pub async fn caught(
        &self,
        who: &Caller,
        tenant: Id<id::Tenant>,
        code: &str,
    ) -> Result<(CatcherListed, Vec<Caught>)> {
        self.must_catch()?;
        let tenant = who.tenant(self, tenant).await?.id;
        self.0.catchers.with(tenant, code, |catcher| {
            let newest = catcher.caught.iter().rev();
            let caught = newest.map(|(caught, _)| caught.clone()).collect();
            (catcher.listed(code), caught)
        })
    }

    /// How many requests came to a catcher so far.
    ///
    /// # Errors
    /// As [`Service::caught`].
    pub async fn count_caught(
        &self,
        who: &Caller,
        tenant: Id<id::Tenant>,
        code: &str,
    ) -> Result<u64> {
        self.must_catch()?;
        let tenant = who.tenant(self, tenant).await?.id;
        self.0.catchers.with(tenant, code, |catcher| catcher.count)
    }

    /// One of them, and whether an endpoint with the catcher's address signed it.
    ///
    /// # Errors
    /// As [`Service::caught`].
    pub async fn caught_one(
        &self,
        who: &Caller,
        tenant: Id<id::Tenant>,
        code: &str,
        number: u64,
    ) -> Result<(Caught, CaughtVerdict)> {
        self.must_catch()?;
        let tenant = who.tenant(self, tenant).await?.id;
        let caught = self.0.catchers.with(tenant, code, |catcher| {
            let mut caught = catcher.caught.iter().map(|(caught, _)| caught);
            caught.find(|caught| caught.number == number).cloned()
        })?;
        let caught = caught.ok_or_else(|| Refusal::not_found("request"))?;
        if caught.is_cut() {
            return Ok((caught, CaughtVerdict::Cut));
        }
        let endpoints = self.with_address(who, tenant, code).await?;
        let verdict = self.verified(&caught, endpoints).await?;
        Ok((caught, verdict))
    }

    /// The tenant's endpoints that lead to a catcher, as far as the first pages of them tell.
    async fn with_address(
        &self,
        who: &Caller,
        tenant: Id<id::Tenant>,
        code: &str,
    ) -> Result<Vec<Endpoint>> {
        const FIRST: usize = 250;
        let page = || PageRequest::first(FIRST);
        let (registered, profile) = self.list_endpoints(who, tenant, None, page()).await?;
        let mut endpoints = registered.rows;
        if profile.distribution.is_some() {
            let (listed, _) = self.list_distributions(who, tenant, page()).await?;
            endpoints.extend(listed.rows);
        }
        match self.list_keys(who, Some(tenant), page()).await {
            Ok(keys) => endpoints.extend(keys.rows.into_iter().filter_map(|key| key.endpoint)),
            // A tenant's key does not see the others.
            Err(refusal) if refusal.code == ErrorCode::ScopeInsufficient => {}
            Err(refusal) => return Err(refusal),
        }
        endpoints.retain(|endpoint| endpoint.url.contains(code));
        endpoints.truncate(SIGNERS_MAX);
        Ok(endpoints)
    }

    async fn verified(&self, caught: &Caught, endpoints: Vec<Endpoint>) -> Result<CaughtVerdict> {
        let mut signers = Vec::with_capacity(endpoints.len());
        for endpoint in endpoints {
            let version = self.profile_of(endpoint.application).await?.version;
            let verifier = self.engine().verifier(endpoint.id, version).await;
            signers.push((endpoint, verifier.map_err(Refusal::internal)?));
        }
        if signers.is_empty() {
            return Ok(CaughtVerdict::Unknown);
        }
        let turn = self.0.catchers.verifying.clone().acquire_owned().await;
        let turn = turn.map_err(Refusal::internal)?;
        let caught = caught.clone();
        let work = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let header = |name: &str| {
                let mut named = caught.headers.iter();
                let found = named.find(|(known, _)| known.eq_ignore_ascii_case(name));
                found.map(|(_, value)| value.as_str())
            };
            let mut first = None;
            for (endpoint, verifier) in signers {
                match verifier.verify(&header, &caught.body, caught.at) {
                    Ok(()) => return CaughtVerdict::Valid(Box::new(endpoint)),
                    Err(error) => drop(first.get_or_insert(error)),
                }
            }
            first.map_or(CaughtVerdict::Unknown, CaughtVerdict::Invalid)
        });
        work.await.map_err(Refusal::internal)
    }

    /// Ends a catcher: what comes to its address is not found.
    ///
    /// # Errors
    /// `not_found`, `scope_insufficient`, or what the store answers.
    pub async fn end_catcher(
        &self,
        who: &Caller,
        tenant: Id<id::Tenant>,
        code: &str,
    ) -> Result<()> {
        self.must_catch()?;
        let tenant = who.tenant(self, tenant).await?.id;
        who.must_change()?;
        self.0.catchers.with(tenant, code, |_| ())?;
        self.0.catchers.lock().remove(code);
        Ok(())
    }

    /// Keeps a request that came to a catcher's address; false when there is none.
    pub fn catch(&self, code: &str, request: CaughtRequest) -> bool {
        if !self.catches() {
            return false;
        }
        let CaughtRequest {
            method,
            mut target,
            headers,
            body,
            status,
        } = request;
        let cut = (0..=HEAD_KEPT_MAX.min(target.len())).rev();
        let cut = cut.into_iter().find(|at| target.is_char_boundary(*at));
        target.truncate(cut.unwrap_or(0));
        let mut room = HEAD_KEPT_MAX;
        let mut kept = Vec::new();
        for (name, value) in headers {
            let Some(left) = room.checked_sub(name.len() + value.len()) else {
                break;
            };
            room = left;
            kept.push((name, value));
        }
        let bytes = body.len();
        let caught = Caught {
            number: 0,
            at: self.now(),
            method,
            target,
            headers: kept,
            // A copy, so that the rest of a long one is not kept with it.
            body: Bytes::copy_from_slice(&body[..bytes.min(BODY_KEPT_MAX)]),
            bytes,
            status,
        };
        self.0.catchers.keep(code, caught)
    }
}

/// A request, as it came.
#[derive(Debug)]
pub struct CaughtRequest {
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: Bytes,
    /// What it is answered with.
    pub status: u16,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caught(bytes: usize) -> Caught {
        Caught {
            number: 0,
            at: Timestamp::default(),
            method: "POST".into(),
            target: "/catch/x".into(),
            headers: Vec::new(),
            body: Bytes::from(vec![0; bytes]),
            bytes,
            status: 200,
        }
    }

    #[tokio::test]
    async fn a_catcher_keeps_the_newest_and_one_tenant_leaves_room() {
        let catchers = Catchers::default();
        let (one, two) = (Id::from_u128(1), Id::from_u128(2));
        let made = catchers.make(one, Timestamp::default()).unwrap();
        for _ in 0..CAUGHT_MAX + 5 {
            assert!(catchers.keep(&made.code, caught(10)));
        }
        let seen = |code: &str, tenant| {
            let look = |catcher: &Catcher| {
                let kept = catcher.caught.iter();
                let numbers: Vec<u64> = kept.map(|(caught, _)| caught.number).collect();
                (numbers[0], numbers.len(), catcher.count)
            };
            catchers.with(tenant, code, look).unwrap()
        };
        assert_eq!(seen(&made.code, one), (6, CAUGHT_MAX, 105));
        assert!(catchers.with(two, &made.code, |_| ()).is_err(), "another's");
        assert!(!catchers.keep("nobody's", caught(10)));
        // As much as a tenant can keep is half of what there is.
        let mut codes = vec![made.code];
        for _ in 1..CATCHERS_OF_TENANT_MAX {
            codes.push(catchers.make(one, Timestamp::default()).unwrap().code);
        }
        for code in &codes {
            for _ in 0..CAUGHT_MAX {
                catchers.keep(code, caught(BODY_KEPT_MAX));
            }
        }
        assert!(catchers.kept.taken() <= KEPT_BYTES_MAX / 2 + BODY_KEPT_MAX);
        let other = catchers.make(two, Timestamp::default()).unwrap();
        catchers.keep(&other.code, caught(BODY_KEPT_MAX));
        assert_eq!(seen(&other.code, two), (1, 1, 1));
        // The oldest makes room for one more.
        catchers.make(one, Timestamp::default()).unwrap();
        assert!(catchers.with(one, &codes[0], |_| ()).is_err());
        assert!(catchers.with(one, &codes[1], |_| ()).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_catcher_ends_after_a_day() {
        let catchers = Catchers::default();
        let one = Id::from_u128(1);
        let made = catchers.make(one, Timestamp::default()).unwrap();
        tokio::time::advance(LASTS).await;
        assert!(!catchers.keep(&made.code, caught(10)));
        assert!(catchers.with(one, &made.code, |_| ()).is_err());
        catchers.make(one, Timestamp::default()).unwrap();
        assert_eq!(catchers.lock().len(), 1);
    }
}
