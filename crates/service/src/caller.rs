//! Who asks, and what they may touch. What belongs to somebody else is simply not found.

use std::net::IpAddr;
use std::sync::Arc;

use aws_lc_rs::hmac;
use ipnet::IpNet;
use postrider_core::audit::Actor;
use postrider_core::event::Event;
use postrider_core::seal::{hex, sha256};
use postrider_core::secret::constant_time_eq;
use postrider_core::session::Portal;
use postrider_core::tenant::{ApiKey, Application, Mode, Scope, Tenant};
use postrider_core::user::{Role, User};
use postrider_core::{Id, Timestamp, id};

use crate::Service;
use crate::directory::stranger;
use crate::keys::KEY_SECRET_CONTEXT;
use crate::refusal::{ErrorCode, Refusal, Result};

/// Whoever proved to have a key, and may use it from where they are; or a customer whom the product let in.
#[derive(Debug, Clone)]
pub struct Caller {
    who: Who,
    pub(crate) scope: Scope,
    mode: Mode,
    /// Sees everything within the scope but secrets, and changes nothing.
    read_only: bool,
    /// What the caller begins ends then: the text of the key opens nothing any more.
    pub(crate) until: Option<Timestamp>,
    /// None when a proxy that is trusted did not tell.
    address: Option<IpAddr>,
}

#[derive(Debug, Clone)]
enum Who {
    Key(Arc<ApiKey>),
    /// Of the console.
    User(Arc<User>),
    /// By a portal link; a user of the console may have opened it.
    Customer(Id<id::Session>, Arc<str>, Option<Id<id::User>>),
    /// Whoever may write to the store's database.
    Database,
}

/// What is called in the audit log who publishes by the database.
const DATABASE: &str = "postrider.publish()";

/// The address that a request comes from, as far as the connection and the proxies that are trusted tell.
#[derive(Debug, Clone, Copy)]
pub struct CameFrom {
    /// None when a proxy that is trusted did not tell.
    pub address: Option<IpAddr>,
    /// A proxy that is not trusted is between: the address is everybody's who comes through it.
    pub is_proxys: bool,
}

/// On an answer that whoever asked wanted to be like that: its status tells nothing of this server.
#[derive(Debug, Clone, Copy)]
pub struct AsAskedFor;

/// A key that somebody says they have.
#[derive(Debug)]
pub struct Claim(Arc<ApiKey>);

/// A key that somebody proved to have.
#[derive(Debug)]
pub struct Proof {
    key: Arc<ApiKey>,
    /// When the text that proved it opens nothing any more, where that is known.
    until: Option<Timestamp>,
}

impl Claim {
    /// On whose account what comes with it goes, until it is proved.
    pub fn holder(&self) -> u128 {
        self.0.id.as_u128()
    }

    /// Proves it by the key's text; none when that is another.
    pub fn by_token(self, service: &Service, token: &str) -> Option<Proof> {
        let hash = sha256(token.as_bytes());
        let mut opening = self.0.opening(service.now());
        let found = opening.find(|(known, _)| constant_time_eq(&hash, *known));
        let until = found?.1;
        drop(opening);
        Some(Proof { key: self.0, until })
    }

    /// Proves it by the HMAC-SHA256 of a message in hex digits; none when it is not of this key, or the key's requests
    /// are not signed.
    ///
    /// # Errors
    /// `internal` when the key's secret does not open.
    pub fn by_signature(
        self,
        service: &Service,
        message: &[u8],
        signature: &str,
    ) -> Result<Option<Proof>> {
        let sealer = &service.0.sealer;
        let mut is_its = false;
        // All are tried, whichever it is: the time that it takes does not tell.
        for sealed in self.0.signing(service.now()) {
            let opened = sealer.open(sealed, KEY_SECRET_CONTEXT, self.0.id.as_u128());
            let secret = opened.map_err(Refusal::internal)?;
            let key = hmac::Key::new(hmac::HMAC_SHA256, secret.expose().as_bytes());
            let expected = hex(hmac::sign(&key, message).as_ref());
            is_its |= constant_time_eq(expected.as_bytes(), signature.as_bytes());
        }
        // What a signed request begins ends with it, so until when the text opens is no matter.
        Ok(is_its.then_some(Proof {
            key: self.0,
            until: None,
        }))
    }
}

impl Proof {
    /// Of a key that was proved before: its session has been opened.
    pub(crate) fn of(key: ApiKey) -> Self {
        Self {
            key: Arc::new(key),
            until: None,
        }
    }

    pub fn id(&self) -> Id<id::ApiKey> {
        self.key.id
    }
}

impl Service {
    /// The key with this public id, which proves nothing yet; none when it is not known. Who asks for very many waits behind
    /// others that ask from elsewhere.
    ///
    /// # Errors
    /// What the store answers.
    pub async fn claim(&self, public_id: &str, from: Option<IpAddr>) -> Result<Option<Claim>> {
        match self.0.directory.claimed(public_id, stranger(from)).await {
            Ok(key) => Ok(Some(Claim(Arc::new(key)))),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The key with this text, asked for as in [`Service::claim`].
    ///
    /// # Errors
    /// `key_unknown`, `key_expired` when it was replaced and its overlap is over.
    pub async fn prove(&self, text: &str, from: Option<IpAddr>) -> Result<Proof> {
        let hash = sha256(text.trim().as_bytes());
        match self.0.directory.key(hash, stranger(from)).await {
            Ok(key) => {
                let mut opening = key.opening(self.now());
                let until = opening.find(|(known, _)| **known == hash);
                let until = until.map(|(_, until)| until);
                drop(opening);
                // A key is found by its old text too, as long as its row has it.
                let until = until.ok_or_else(|| {
                    let detail = "the key was rotated and this is its old text; use the new one";
                    Refusal::new(ErrorCode::KeyExpired, detail)
                })?;
                Ok(Proof { key, until })
            }
            Err(error) if error.is_not_found() => Err(Refusal::new(
                ErrorCode::KeyUnknown,
                "the key was deleted, or was never one of this server",
            )),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether a key with this public id is one of this server.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn knows_public_id(&self, public_id: &str, from: Option<IpAddr>) -> Result<bool> {
        match self.0.directory.addressee(public_id, stranger(from)).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether a key whose text has this SHA-256 is one of this server, also if it was replaced.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn knows_key(&self, hash: [u8; 32], from: Option<IpAddr>) -> Result<bool> {
        match self.0.directory.key(hash, stranger(from)).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether a session whose token has this SHA-256 is one of this server.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn knows_session(&self, hash: [u8; 32], from: Option<IpAddr>) -> Result<bool> {
        match self.0.directory.session(hash, stranger(from)).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Lets in whoever proved to have a key, and is at `address`, as far as that is known.
    ///
    /// # Errors
    /// `key_disabled`, `key_expired` and `address_not_allowed` (`docs/systems.md`, S-40).
    pub fn admit(&self, proof: Proof, address: Option<IpAddr>) -> Result<Caller> {
        let Proof { key, until } = proof;
        if key.disabled_at.is_some() {
            let detail = "whoever manages the key can enable it again";
            return Err(Refusal::new(ErrorCode::KeyDisabled, detail));
        }
        if let Some(expired) = key.expires_at.filter(|at| *at <= self.now()) {
            let detail =
                format!("it ended at {expired}; make a new key, or give it a later expiresAt");
            return Err(Refusal::new(ErrorCode::KeyExpired, detail));
        }
        if key.allowed_ips.is_empty() {
            return Ok(Caller::of_key(key, until, address));
        }
        let Some(at) = address else {
            return Err(Refusal::new(
                ErrorCode::AddressNotAllowed,
                "the caller's address is not known; configure server.trusted_proxies",
            ));
        };
        if key.allowed_ips.iter().any(|net| net.contains(&at)) {
            return Ok(Caller::of_key(key, until, address));
        }
        Err(Refusal::new(
            ErrorCode::AddressNotAllowed,
            format!("{at} is not among the addresses that this key may be used from"),
        ))
    }
}

impl Caller {
    fn of_key(key: Arc<ApiKey>, until: Option<Timestamp>, address: Option<IpAddr>) -> Self {
        Self {
            until,
            scope: key.scope,
            mode: key.mode,
            read_only: key.read_only,
            who: Who::Key(key),
            address,
        }
    }

    /// A product that publishes in a transaction of its own: where it may write, it may publish.
    pub(crate) fn of_database() -> Self {
        Self {
            who: Who::Database,
            scope: Scope::Root,
            mode: Mode::Live,
            read_only: false,
            until: None,
            address: None,
        }
    }

    pub(crate) fn of_user(user: User) -> Self {
        let scope = user.application.map_or(Scope::Root, Scope::Application);
        Self {
            scope,
            mode: Mode::Live,
            read_only: user.role == Role::Viewer,
            until: None,
            address: None,
            who: Who::User(Arc::new(user)),
        }
    }

    pub(crate) fn of_portal(session: Id<id::Session>, portal: &Portal) -> Self {
        let name = portal.terms.name.as_deref();
        Self {
            who: Who::Customer(
                session,
                Arc::from(name.unwrap_or("a customer")),
                portal.terms.user,
            ),
            scope: Scope::Tenant(portal.application, portal.tenant),
            mode: portal.mode,
            read_only: portal.terms.read_only,
            until: None,
            address: None,
        }
    }

    /// What the caller makes, where nothing else is asked for.
    pub fn own_mode(&self) -> Mode {
        self.mode
    }

    /// How far the caller reaches.
    pub fn scope(&self) -> Scope {
        self.scope
    }

    /// Whether the caller changes nothing.
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// What the caller is called in the audit log.
    pub fn name(&self) -> &str {
        match &self.who {
            Who::Key(key) => &key.name,
            Who::User(user) => &user.name,
            Who::Customer(_, name, _) => name,
            Who::Database => DATABASE,
        }
    }

    /// The user of the console that it is; none of everybody else.
    pub fn user(&self) -> Option<&User> {
        match &self.who {
            Who::User(user) => Some(user),
            Who::Key(_) | Who::Customer(..) | Who::Database => None,
        }
    }

    pub(crate) fn is_user(&self, id: Id<id::User>) -> bool {
        self.user().is_some_and(|user| user.id == id)
    }

    /// Whether it is whoever has this key.
    pub(crate) fn has_key(&self, id: Id<id::ApiKey>) -> bool {
        matches!(&self.who, Who::Key(key) if key.id == id)
    }

    /// Whether it is a key of a tenant: it is one among several, each with an endpoint of its own. A customer in
    /// the portal is the whole tenant.
    pub(crate) fn is_one_of_tenants_keys(&self) -> bool {
        matches!((&self.who, self.scope), (Who::Key(_), Scope::Tenant(..)))
    }

    /// On whose account what the caller takes goes: its tenant's, its application's, or its own.
    pub fn holder(&self) -> u128 {
        match self.scope {
            // What reaches everything is nobody's in common: each is on its own account.
            Scope::Root => match &self.who {
                Who::Key(key) => key.id.as_u128(),
                Who::User(user) => user.id.as_u128(),
                Who::Customer(session, ..) => session.as_u128(),
                Who::Database => 0,
            },
            Scope::Application(application) => application.as_u128(),
            Scope::Tenant(_, tenant) => tenant.as_u128(),
        }
    }

    /// Who makes a change, for the audit log.
    ///
    /// # Errors
    /// As [`Caller::must_change`].
    pub(crate) fn changes(&self, at: Timestamp) -> Result<Actor> {
        self.must_change()?;
        Ok(self.actor(at))
    }

    /// Who did something that is no change of theirs: came, or went.
    pub(crate) fn actor(&self, at: Timestamp) -> Actor {
        match &self.who {
            Who::Key(key) => Actor {
                key: Some(key.id),
                user: None,
                name: Arc::from(key.name.as_str()),
                account: self.holder(),
                at,
            },
            Who::User(user) => Actor {
                key: None,
                user: Some(user.id),
                name: Arc::from(user.name.as_str()),
                account: self.holder(),
                at,
            },
            Who::Customer(_, name, user) => Actor {
                key: None,
                user: *user,
                name: name.clone(),
                account: self.holder(),
                at,
            },
            Who::Database => Actor {
                key: None,
                user: None,
                name: Arc::from(DATABASE),
                account: 0,
                at,
            },
        }
    }

    /// By a link to the portal.
    pub(crate) fn is_visitor(&self) -> bool {
        matches!(self.who, Who::Customer(..))
    }

    /// Refuses whoever may only look: changes, what is sent, and secrets.
    pub(crate) fn must_change(&self) -> Result<()> {
        if self.read_only {
            let detail = match &self.who {
                Who::Key(_) => {
                    "this key is read-only (readOnly): it changes nothing, sends nothing and shows no secret; use one that may"
                }
                Who::Customer(..) | Who::User(_) | Who::Database => {
                    "this visit is for looking: it changes nothing, sends nothing and shows no secret"
                }
            };
            return Err(Refusal::new(ErrorCode::ScopeInsufficient, detail));
        }
        Ok(())
    }

    /// Whether it is the product, or who runs the server, and no customer.
    pub(crate) fn is_product(&self) -> bool {
        match self.scope {
            Scope::Root | Scope::Application(_) => true,
            Scope::Tenant(..) => false,
        }
    }

    /// Refuses users of the console who are no owners, what keys of products may: `what` is theirs alone.
    pub(crate) fn must_own(&self, what: &str) -> Result<()> {
        match self.user().map(|user| user.role) {
            None | Some(Role::Owner) => Ok(()),
            Some(role @ (Role::Developer | Role::Viewer)) => {
                let role = role.as_str();
                let detail = format!("you are a {role}, and only an owner decides {what}");
                Err(Refusal::new(ErrorCode::ScopeInsufficient, detail))
            }
        }
    }

    /// Refuses networks for the caller's own key that would shut the caller out.
    pub(crate) fn must_stay_in(&self, networks: &[IpNet]) -> Result<()> {
        let inside = |address: IpAddr| networks.iter().any(|net| net.contains(&address));
        if networks.is_empty() || self.address.is_some_and(inside) {
            return Ok(());
        }
        let own = self
            .address
            .map_or("unknown".to_owned(), |address| address.to_string());
        let rule = format!("must hold the address that you call from ({own}): it is your own key");
        Err(Refusal::invalid("allowedIps", rule))
    }

    /// The application whose product the caller is of; none of all. What is asked over all tenants is not a tenant's.
    pub(crate) fn product(&self) -> Result<Option<Id<id::Application>>> {
        match self.scope {
            Scope::Root => Ok(None),
            Scope::Application(own) => Ok(Some(own)),
            Scope::Tenant(..) => Err(Refusal::new(
                ErrorCode::ScopeInsufficient,
                "a key of the application is needed: this is of all its tenants",
            )),
        }
    }

    pub(crate) fn must_be_root(&self) -> Result<()> {
        match self.scope {
            Scope::Root => Ok(()),
            Scope::Application(_) | Scope::Tenant(..) => Err(Refusal::new(
                ErrorCode::ScopeInsufficient,
                "a root key is needed: the operator has it",
            )),
        }
    }

    /// The application, if the caller may manage it.
    pub(crate) async fn application(
        &self,
        service: &Service,
        id: Id<id::Application>,
    ) -> Result<Arc<Application>> {
        match self.scope {
            Scope::Root => {}
            Scope::Application(own) if own == id => {}
            // It knows that its own application is there; what it lacks is the scope.
            Scope::Tenant(own, _) if own == id => {
                return Err(Refusal::new(
                    ErrorCode::ScopeInsufficient,
                    "an application key is needed",
                ));
            }
            Scope::Application(_) | Scope::Tenant(..) => {
                return Err(Refusal::not_found("application"));
            }
        }
        service.0.directory.application(id).await
    }

    /// The tenant, if the caller may see what it owns.
    pub(crate) async fn tenant(
        &self,
        service: &Service,
        id: Id<id::Tenant>,
    ) -> Result<Arc<Tenant>> {
        let tenant = service.0.directory.tenant(id).await?;
        if self.may_see(tenant.application, tenant.id) {
            Ok(tenant)
        } else {
            Err(Refusal::not_found("tenant"))
        }
    }

    /// The tenant, if the caller may publish for it.
    pub(crate) async fn publisher(
        &self,
        service: &Service,
        id: Id<id::Tenant>,
    ) -> Result<Arc<Tenant>> {
        self.must_change()?;
        let tenant = self.tenant(service, id).await?;
        match self.scope {
            Scope::Root | Scope::Application(_) => Ok(tenant),
            Scope::Tenant(..) => Err(Refusal::new(
                ErrorCode::ScopeInsufficient,
                "publishing needs an application key: only the product publishes",
            )),
        }
    }

    pub(crate) fn may_see(&self, application: Id<id::Application>, tenant: Id<id::Tenant>) -> bool {
        match self.scope {
            Scope::Root => true,
            Scope::Application(own) => own == application,
            // A tenant is of one application, so its id says enough.
            Scope::Tenant(_, own) => own == tenant,
        }
    }

    /// The mode of what the caller makes: the given one, or the key's. A test key makes nothing live.
    pub(crate) fn mode(&self, given: Option<Mode>) -> Result<Mode> {
        let mode = given.unwrap_or(self.mode);
        if self.may_touch(mode) {
            return Ok(mode);
        }
        Err(Refusal::field(
            ErrorCode::ScopeInsufficient,
            "mode",
            "a test key makes test events and endpoints only",
        ))
    }

    /// A test key sees and changes nothing that is live.
    pub(crate) fn may_touch(&self, mode: Mode) -> bool {
        self.mode == Mode::Live || mode == Mode::Test
    }

    /// The mode that a list is confined to: the one asked for, as far as the caller may see it.
    pub(crate) fn shown(&self, given: Option<Mode>) -> Result<Option<Mode>> {
        match (self.mode, given) {
            (Mode::Live, given) => Ok(given),
            (Mode::Test, Some(Mode::Live)) => Err(Refusal::field(
                ErrorCode::ScopeInsufficient,
                "mode",
                "a test key sees test events and endpoints only",
            )),
            (Mode::Test, _) => Ok(Some(Mode::Test)),
        }
    }

    /// What applications and tenants have, they have for their live traffic too.
    pub(crate) fn must_be_live(&self) -> Result<()> {
        if self.may_touch(Mode::Live) {
            return Ok(());
        }
        Err(Refusal::new(
            ErrorCode::ScopeInsufficient,
            "a test key changes nothing that live traffic depends on; use a live key",
        ))
    }

    /// The scope that the caller's lists are confined to.
    pub(crate) fn confined(&self) -> (Option<Id<id::Application>>, Option<Id<id::Tenant>>) {
        match self.scope {
            Scope::Root => (None, None),
            Scope::Application(application) => (Some(application), None),
            Scope::Tenant(_, tenant) => (None, Some(tenant)),
        }
    }

    pub(crate) fn may_see_event(&self, event: &Event) -> bool {
        self.may_see(event.application, event.tenant) && self.may_touch(event.mode)
    }
}
