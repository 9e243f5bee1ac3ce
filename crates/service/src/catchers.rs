//! Addresses of this server that keep what comes to them, for people who have no server of their own yet.
//!
//! All of it is in memory: a catcher is for looking at what arrives, and gone with the process or after a day.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use postrider_core::audit::{Actor, AuditEntry};
use postrider_core::endpoint::{CustomHeader, Endpoint};
use postrider_core::profile::VerifyError;
use postrider_core::seal::hex;
use postrider_core::tenant::{Mode, Tenant};
use postrider_core::{Id, Timestamp, id};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::budget::{Budget, Grant};
use crate::explain::hide_signatures;
use crate::refusal::{ErrorCode, Refusal, Result};
use crate::{Caller, Service, random};

/// Catchers of a tenant; of more the oldest ends.
const CATCHERS_OF_TENANT_MAX: usize = 5;
/// Catchers of all tenants, by share of each application.
const CATCHERS_MAX: usize = 1_000;
/// Requests that one keeps: the newest.
const CAUGHT_MAX: usize = 100;
/// Bytes of a body that are kept.
const BODY_KEPT_MAX: usize = 64 * 1024;
/// Bytes that all keep together, by share of each tenant.
const KEPT_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Bytes of a request's target and headers that are kept.
const HEAD_KEPT_MAX: usize = 16 * 1024;
/// What a kept request, and each of its headers, has beside its texts.
const OVERHEAD: usize = 512;
const HEADER_OVERHEAD: usize = 80;
/// Bytes of a body that is looked through for what it is about.
const ABOUT_BYTES_MAX: usize = 16 * 1024;
/// Characters of that.
const ABOUT_CHARS_MAX: usize = 64;
/// How long somebody waits for a verification to begin.
const TURN_WAIT: Duration = Duration::from_secs(2);
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
    /// The type of event that it seems to be of, whoever sent it; empty where it does not say.
    pub about: String,
}

/// What names of headers have whose values are nobody's to see, whoever sent them here.
const SEALED: [&str; 14] = [
    "auth",
    "token",
    "secret",
    "password",
    "passwd",
    "session",
    "jwt",
    "oidc",
    "credential",
    "api-key",
    "apikey",
    "forwarded-",
    "remote-user",
    "principal",
];

impl Caught {
    /// As it may be shown.
    fn shown(&self) -> Self {
        let mut shown = self.clone();
        for (name, value) in &mut shown.headers {
            let name = name.to_lowercase();
            if SEALED.iter().any(|word| name.contains(word)) {
                CustomHeader::STARS.clone_into(value);
            }
        }
        shown
    }

    /// Not all of its body was kept.
    pub fn is_cut(&self) -> bool {
        self.body.len() < self.bytes
    }

    fn weight(&self) -> usize {
        let headers = self.headers.iter();
        let headers: usize = headers
            .map(|(name, value)| name.len() + value.len() + HEADER_OVERHEAD)
            .sum();
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
    /// As much is verified just now as can be.
    Busy,
}

struct Catcher {
    place: Grant,
    tenant: Id<id::Tenant>,
    mode: Mode,
    made_at: Timestamp,
    begun: Instant,
    count: u64,
    caught: VecDeque<(Arc<Caught>, Grant)>,
}

impl Catcher {
    fn is_over(&self, now: Instant) -> bool {
        // By the clock that nobody sets; the other one is for people.
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
    places: Budget,
    kept: Budget,
    /// One verification at a time: a canonical form can be long work.
    verifying: Arc<Semaphore>,
}

impl Default for Catchers {
    fn default() -> Self {
        Self {
            by_code: Mutex::default(),
            places: Budget::new(CATCHERS_MAX),
            kept: Budget::new(KEPT_BYTES_MAX),
            verifying: Arc::new(Semaphore::new(1)),
        }
    }
}

impl Catchers {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Catcher>> {
        self.by_code.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A catcher of this tenant that is not over, of a mode that may be seen.
    fn with<T>(
        &self,
        tenant: Id<id::Tenant>,
        may_touch: impl Fn(Mode) -> bool,
        code: &str,
        look: impl FnOnce(&Catcher) -> T,
    ) -> Result<T> {
        let now = Instant::now();
        let catchers = self.lock();
        let own = catchers.get(code).filter(|catcher| {
            catcher.tenant == tenant && !catcher.is_over(now) && may_touch(catcher.mode)
        });
        own.map(look).ok_or_else(|| Refusal::not_found("catcher"))
    }

    /// Room for one more of a tenant's: its oldest ends where it has as many as it may.
    fn make(
        &self,
        application: Id<id::Application>,
        tenant: Id<id::Tenant>,
        mode: Mode,
        made_at: Timestamp,
    ) -> Result<CatcherListed> {
        let now = Instant::now();
        let mut catchers = self.lock();
        catchers.retain(|_, catcher| !catcher.is_over(now));
        let is_alike = |it: &Catcher| it.tenant == tenant && it.mode == mode;
        let of_tenant = catchers.iter().filter(|(_, it)| is_alike(it));
        // Its place is the new one's: there may be no other.
        let mut ended = None;
        if of_tenant.clone().count() >= CATCHERS_OF_TENANT_MAX {
            let oldest = of_tenant.min_by_key(|(_, catcher)| catcher.begun);
            ended = oldest
                .map(|(code, _)| code.clone())
                .and_then(|oldest| catchers.remove(&oldest));
        }
        let place = ended.map(|ended| ended.place);
        let place = place.or_else(|| self.places.take(application.as_u128(), 1));
        let place = place.ok_or_else(|| {
            let detail = "this application has as many as one may, of those that this server keeps; try again later";
            Refusal::new(ErrorCode::Overloaded, detail)
        })?;
        let code = hex(&random::bytes(CODE_BYTES));
        let catcher = Catcher {
            place,
            tenant,
            mode,
            made_at,
            begun: now,
            count: 0,
            caught: VecDeque::new(),
        };
        let listed = catcher.listed(&code);
        catchers.insert(code, catcher);
        Ok(listed)
    }

    /// Whose a catcher is that is not over.
    fn tenant_of(&self, code: &str) -> Option<Id<id::Tenant>> {
        let now = Instant::now();
        let catchers = self.lock();
        let found = catchers.get(code).filter(|it| !it.is_over(now));
        found.map(|catcher| catcher.tenant)
    }

    /// Keeps a request, in the place of the oldest of its tenant's where there is no more room.
    fn keep(&self, code: &str, mut caught: Caught) -> bool {
        let now = Instant::now();
        let mut catchers = self.lock();
        catchers.retain(|_, catcher| !catcher.is_over(now));
        let Some(catcher) = catchers.get_mut(code) else {
            return false;
        };
        // Also where there will be no room for it: whoever waits sees that something came.
        catcher.count += 1;
        caught.number = catcher.count;
        while catcher.caught.len() >= CAUGHT_MAX {
            catcher.caught.pop_front();
        }
        let (tenant, weight) = (catcher.tenant, caught.weight());
        // It ends: each time one of the tenant's requests goes, or there is none.
        let grant = loop {
            if let Some(grant) = self.kept.take(tenant.as_u128(), weight) {
                break Some(grant);
            }
            let own = catchers.values_mut().filter(|it| it.tenant == tenant);
            // Of the same moment, what an older catcher has goes first.
            let oldest = own
                .filter(|it| !it.caught.is_empty())
                .min_by_key(|it| (it.caught.front().map(|(caught, _)| caught.at), it.begun));
            match oldest {
                Some(oldest) => drop(oldest.caught.pop_front()),
                None => break None,
            }
        };
        if let (Some(grant), Some(catcher)) = (grant, catchers.get_mut(code)) {
            catcher.caught.push_back((Arc::new(caught), grant));
        }
        true
    }

    fn end_all_of(&self, tenant: Id<id::Tenant>) {
        self.lock().retain(|_, catcher| catcher.tenant != tenant);
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
        let (application, mode) = (tenant.application, who.own_mode());
        let made = self.0.catchers.make(application, tenant.id, mode, by.at)?;
        let after = serde_json::json!({ "endsAt": made.ends_at }).to_string();
        let noted = self.note_catcher(&tenant, by, "catcher.created", Some(after));
        if let Err(refusal) = noted.await {
            // Nobody was told its address.
            self.0.catchers.lock().remove(&made.code);
            return Err(refusal);
        }
        Ok(made)
    }

    async fn note_catcher(
        &self,
        tenant: &Tenant,
        by: Actor,
        action: &str,
        after: Option<String>,
    ) -> Result<()> {
        let entry = AuditEntry {
            id: self.store().ids().next(by.at),
            application: Some(tenant.application),
            tenant: Some(tenant.id),
            actor: by,
            action: action.to_owned(),
            subject: tenant.id.to_string(),
            before: None,
            after,
        };
        Ok(self.store().note(entry).await?)
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
            .filter(|(_, it)| it.tenant == tenant && !it.is_over(now))
            .filter(|(_, it)| who.may_touch(it.mode));
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
    ) -> Result<(CatcherListed, Vec<Arc<Caught>>)> {
        self.must_catch()?;
        let tenant = who.tenant(self, tenant).await?.id;
        let may_touch = |mode| who.may_touch(mode);
        let (listed, caught) = self.0.catchers.with(tenant, may_touch, code, |catcher| {
            let newest = catcher.caught.iter().rev();
            let caught: Vec<Arc<Caught>> = newest.map(|(caught, _)| caught.clone()).collect();
            (catcher.listed(code), caught)
        })?;
        let shown = caught.iter().map(|caught| {
            Arc::new(Caught {
                // A list tells of it.
                headers: Vec::new(),
                body: Bytes::new(),
                ..Caught::clone(caught)
            })
        });
        Ok((listed, shown.collect()))
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
        let may_touch = |mode| who.may_touch(mode);
        self.0
            .catchers
            .with(tenant, may_touch, code, |catcher| catcher.count)
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
        let may_touch = |mode| who.may_touch(mode);
        let caught = self.0.catchers.with(tenant, may_touch, code, |catcher| {
            let mut caught = catcher.caught.iter().map(|(caught, _)| caught);
            caught.find(|caught| caught.number == number).cloned()
        })?;
        let caught = caught.ok_or_else(|| Refusal::not_found("request"))?;
        let mut shown = caught.shown();
        let endpoints = self.with_address(who, tenant, code).await?;
        if who.is_read_only() {
            let of = self.store().tenant(tenant).await?.application;
            hide_signatures(&self.profile_of(of).await?.profile, &mut shown.headers);
        }
        // A signature is of the whole body.
        let verdict = match caught.is_cut() {
            true => CaughtVerdict::Cut,
            false => self.verified(caught, endpoints).await?,
        };
        Ok((shown, verdict))
    }

    /// The tenant's endpoints that lead to a catcher, as far as the first pages of them tell.
    async fn with_address(
        &self,
        who: &Caller,
        tenant: Id<id::Tenant>,
        code: &str,
    ) -> Result<Vec<Endpoint>> {
        const FIRST: usize = 250;
        let (mut endpoints, _) = self.endpoints_of_every_kind(who, tenant, FIRST).await?;
        // Nobody finds a code by trying, so whatever URL has it in it leads here.
        endpoints.retain(|endpoint| endpoint.url.contains(code));
        endpoints.truncate(SIGNERS_MAX);
        Ok(endpoints)
    }

    async fn verified(
        &self,
        caught: Arc<Caught>,
        endpoints: Vec<Endpoint>,
    ) -> Result<CaughtVerdict> {
        let mut signers = Vec::with_capacity(endpoints.len());
        for endpoint in endpoints {
            let version = self.profile_of(endpoint.application).await?.version;
            let verifier = self.engine().verifier(endpoint.id, version).await;
            signers.push((endpoint, verifier.map_err(Refusal::internal)?));
        }
        if signers.is_empty() {
            return Ok(CaughtVerdict::Unknown);
        }
        let turn = self.0.catchers.verifying.clone().acquire_owned();
        let Ok(turn) = tokio::time::timeout(TURN_WAIT, turn).await else {
            return Ok(CaughtVerdict::Busy);
        };
        let turn = turn.map_err(Refusal::internal)?;
        let work = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let header = |name: &str| {
                let mut named = caught.headers.iter();
                let found = named.find(|(known, _)| known.eq_ignore_ascii_case(name));
                found.map(|(_, value)| value.as_str())
            };
            let mut first = None;
            for (endpoint, verifier) in signers {
                // By the time when it came: a signed time grows old while people look.
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
        let tenant = who.tenant(self, tenant).await?;
        let by = who.changes(self.now())?;
        let may_touch = |mode| who.may_touch(mode);
        // Whose it is; without this, a code alone would end another tenant's.
        self.0.catchers.with(tenant.id, may_touch, code, |_| ())?;
        self.0.catchers.lock().remove(code);
        self.note_catcher(&tenant, by, "catcher.deleted", None)
            .await
    }

    /// Whose a catcher is: to be asked before anything of a request to it is read. None where there is none.
    ///
    /// # Errors
    /// What the store answers.
    pub async fn catcher_of(&self, code: &str) -> Result<Option<Id<id::Tenant>>> {
        if !self.catches() {
            return Ok(None);
        }
        let Some(tenant) = self.0.catchers.tenant_of(code) else {
            return Ok(None);
        };
        match self.0.directory.tenant(tenant).await {
            Ok(_) => Ok(Some(tenant)),
            Err(refusal) if refusal.code == ErrorCode::NotFound => {
                self.0.catchers.end_all_of(tenant);
                Ok(None)
            }
            Err(refusal) => Err(refusal),
        }
    }

    /// Keeps a request that came to a catcher's address; false when there is none.
    ///
    /// The address is one of this server's: what a browser sends to the server beside it is left out.
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
        let is_ours = |name: &str| {
            let own = ["cookie", "set-cookie", "proxy-authorization"];
            own.iter().any(|known| name.eq_ignore_ascii_case(known))
        };
        for (name, value) in headers.into_iter().filter(|(name, _)| !is_ours(name)) {
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
            about: about(&body),
            bytes,
            status,
        };
        self.0.catchers.keep(code, caught)
    }
}

/// What a body is about, as far as one can tell without knowing who sends.
fn about(body: &[u8]) -> String {
    if body.len() > ABOUT_BYTES_MAX {
        return String::new();
    }
    let value: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let names = [
        "type",
        "eventType",
        "event_type",
        "event",
        "topic",
        "action",
    ];
    let named = value.as_ref().and_then(|value| {
        let mut texts = names.iter().filter_map(|name| value.get(name)?.as_str());
        texts.next()
    });
    let seen = named.unwrap_or_default().chars();
    seen.take(ABOUT_CHARS_MAX).collect()
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

    const APPLICATION: Id<id::Application> = Id::from_u128(9);

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
            about: String::new(),
        }
    }

    #[tokio::test]
    async fn a_catcher_keeps_the_newest_and_one_tenant_leaves_room() {
        let catchers = Catchers::default();
        let (one, two) = (Id::from_u128(1), Id::from_u128(2));
        let made = catchers
            .make(APPLICATION, one, Mode::Live, Timestamp::default())
            .unwrap();
        for _ in 0..CAUGHT_MAX + 5 {
            assert!(catchers.keep(&made.code, caught(10)));
        }
        let seen = |code: &str, tenant| {
            let look = |catcher: &Catcher| {
                let kept = catcher.caught.iter();
                let numbers: Vec<u64> = kept.map(|(caught, _)| caught.number).collect();
                (numbers[0], numbers.len(), catcher.count)
            };
            catchers.with(tenant, |_| true, code, look).unwrap()
        };
        assert_eq!(seen(&made.code, one), (6, CAUGHT_MAX, 105));
        assert!(
            catchers.with(two, |_| true, &made.code, |_| ()).is_err(),
            "another's"
        );
        assert!(!catchers.keep("nobody's", caught(10)));
        // As much as a tenant can keep is half of what there is.
        let mut codes = vec![made.code];
        for _ in 1..CATCHERS_OF_TENANT_MAX {
            codes.push(
                catchers
                    .make(APPLICATION, one, Mode::Live, Timestamp::default())
                    .unwrap()
                    .code,
            );
        }
        for code in &codes {
            for _ in 0..CAUGHT_MAX {
                catchers.keep(code, caught(BODY_KEPT_MAX));
            }
        }
        assert!(catchers.kept.taken() <= KEPT_BYTES_MAX / 2 + BODY_KEPT_MAX);
        // The newest catcher of a tenant that keeps much has what came to it.
        let newest = codes.last().unwrap();
        assert_eq!(seen(newest, one).2, 100);
        assert!(seen(newest, one).1 > 50);
        // One of another mode is another's.
        assert!(
            catchers
                .with(one, |mode| mode == Mode::Test, newest, |_| ())
                .is_err()
        );
        let other = catchers
            .make(APPLICATION, two, Mode::Live, Timestamp::default())
            .unwrap();
        catchers.keep(&other.code, caught(BODY_KEPT_MAX));
        assert_eq!(seen(&other.code, two), (1, 1, 1));
        // The oldest makes room for one more.
        catchers
            .make(APPLICATION, one, Mode::Live, Timestamp::default())
            .unwrap();
        assert!(catchers.with(one, |_| true, &codes[0], |_| ()).is_err());
        assert!(catchers.with(one, |_| true, &codes[1], |_| ()).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_catcher_ends_after_a_day() {
        let catchers = Catchers::default();
        let one = Id::from_u128(1);
        let made = catchers
            .make(APPLICATION, one, Mode::Live, Timestamp::default())
            .unwrap();
        tokio::time::advance(LASTS).await;
        assert!(!catchers.keep(&made.code, caught(10)));
        assert!(catchers.with(one, |_| true, &made.code, |_| ()).is_err());
        catchers
            .make(APPLICATION, one, Mode::Live, Timestamp::default())
            .unwrap();
        assert_eq!(catchers.lock().len(), 1);
    }

    #[test]
    fn one_application_leaves_catchers_to_another() {
        let catchers = Catchers::default();
        let make = |application: u128, tenant: u128| {
            let (application, tenant) = (Id::from_u128(application), Id::from_u128(tenant));
            catchers.make(application, tenant, Mode::Live, Timestamp::default())
        };
        let mut made = 0;
        while make(1, 1_000 + made).is_ok() {
            made += 1;
        }
        assert_eq!(made, CATCHERS_MAX as u128 / 2);
        assert!(make(2, 1).is_ok());
        catchers.end_all_of(Id::from_u128(1_000));
        assert!(make(1, 1).is_ok(), "what ended leaves its place");
    }
}
