//! Who asks, and what they may touch. What belongs to somebody else is simply not found.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use http::header;
use http::request::Parts;
use ipnet::IpNet;
use postrider_core::audit::Actor;
use postrider_core::event::Event;
use postrider_core::seal::sha256;
use postrider_core::tenant::{ApiKey, Application, Mode, Scope, Tenant};
use postrider_core::{Id, id};

use crate::Api;
use crate::edge::AskedBy;
use crate::problem::{ApiError, ApiResult, ErrorCode};
use crate::server::Peer;

/// Who makes a change with this key, for the audit log.
pub(crate) fn actor(key: &ApiKey, api: &Api) -> Actor {
    Actor {
        key: Some(key.id),
        name: Arc::from(key.name.as_str()),
        at: api.now(),
    }
}

/// Refuses a key that is disabled, or used from where it may not be (`docs/systems.md`, S-40).
pub(crate) fn admit(api: &Api, key: &ApiKey, parts: &Parts) -> ApiResult<()> {
    if key.disabled_at.is_some() {
        let detail = "whoever manages the key can enable it again";
        return Err(ApiError::new(ErrorCode::KeyDisabled, detail));
    }
    if let Some(expired) = key.expires_at.filter(|at| *at <= api.now()) {
        let detail = format!("it ended at {expired}; make a new key, or give it a later expiresAt");
        return Err(ApiError::new(ErrorCode::KeyExpired, detail));
    }
    if key.allowed_ips.is_empty() {
        return Ok(());
    }
    let Some(address) = caller_address(api, parts) else {
        return Err(ApiError::new(
            ErrorCode::AddressNotAllowed,
            "the caller's address is not known; configure server.trusted_proxies",
        ));
    };
    if key.allowed_ips.iter().any(|net| net.contains(&address)) {
        return Ok(());
    }
    Err(ApiError::new(
        ErrorCode::AddressNotAllowed,
        format!("{address} is not among the addresses that this key may be used from"),
    ))
}

/// The address of who asks: the connection's other end, or, when that is a trusted proxy, the last
/// one in `X-Forwarded-For` that is none.
fn caller_address(api: &Api, parts: &Parts) -> Option<IpAddr> {
    let trusted = |address: &IpAddr| {
        let mut proxies = api.0.options.trusted_proxies.iter();
        proxies.any(|net| net.contains(address))
    };
    let mut address = parts.extensions.get::<Peer>()?.0.to_canonical();
    let mut lines: Vec<_> = parts.headers.get_all("x-forwarded-for").iter().collect();
    // The nearest proxy wrote last. What cannot be read makes the address unknown, never another one.
    while let Some(line) = lines.pop().filter(|_| trusted(&address)) {
        for text in line.to_str().ok()?.rsplit(',') {
            if !trusted(&address) {
                break;
            }
            address = text.trim().parse::<IpAddr>().ok()?.to_canonical();
        }
    }
    Some(address)
}

/// A caller with a valid bearer key.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) key: Arc<ApiKey>,
    /// None when a proxy that is trusted did not tell.
    address: Option<IpAddr>,
}

impl FromRequestParts<Api> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, ApiError> {
        Self::authenticate(parts, api).await
    }
}

impl Caller {
    async fn authenticate(parts: &Parts, api: &Api) -> ApiResult<Self> {
        let headers = &parts.headers;
        let missing = || {
            ApiError::new(
                ErrorCode::KeyMissing,
                "send Authorization: Bearer with an API key",
            )
        };
        let given = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .ok_or_else(missing)?;
        let (scheme, text) = given.split_once(' ').ok_or_else(missing)?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(missing());
        }
        match api.0.directory.key(sha256(text.trim().as_bytes())).await {
            Ok(key) => {
                if let Some(asked_by) = parts.extensions.get::<AskedBy>() {
                    asked_by.set(&key.id);
                }
                admit(api, &key, parts)?;
                let address = caller_address(api, parts);
                Ok(Self { key, address })
            }
            Err(error) if error.is_not_found() => Err(ApiError::new(
                ErrorCode::KeyUnknown,
                "the key was deleted, or was never one of this server",
            )),
            Err(error) => Err(error.into()),
        }
    }

    /// On whose account what the caller takes goes: its tenant's, its application's, or its own.
    pub(crate) fn holder(&self) -> u128 {
        match self.key.scope {
            Scope::Root => self.key.id.as_u128(),
            Scope::Application(application) => application.as_u128(),
            Scope::Tenant(_, tenant) => tenant.as_u128(),
        }
    }

    /// Who makes a change, for the audit log.
    pub(crate) fn actor(&self, api: &Api) -> Actor {
        actor(&self.key, api)
    }

    /// Refuses networks for the caller's own key that would shut the caller out.
    pub(crate) fn must_stay_in(&self, networks: &[IpNet]) -> ApiResult<()> {
        let inside = |address: IpAddr| networks.iter().any(|net| net.contains(&address));
        if networks.is_empty() || self.address.is_some_and(inside) {
            return Ok(());
        }
        let own = self
            .address
            .map_or("unknown".to_owned(), |address| address.to_string());
        let rule = format!("must hold the address that you call from ({own}): it is your own key");
        Err(ApiError::invalid("allowedIps", rule))
    }

    pub(crate) fn must_be_root(&self) -> ApiResult<()> {
        match self.key.scope {
            Scope::Root => Ok(()),
            Scope::Application(_) | Scope::Tenant(..) => Err(ApiError::new(
                ErrorCode::ScopeInsufficient,
                "a root key is needed: the operator has it",
            )),
        }
    }

    /// The application, if the caller may manage it.
    pub(crate) async fn application(
        &self,
        api: &Api,
        id: Id<id::Application>,
    ) -> ApiResult<Arc<Application>> {
        match self.key.scope {
            Scope::Root => {}
            Scope::Application(own) if own == id => {}
            Scope::Tenant(own, _) if own == id => {
                return Err(ApiError::new(
                    ErrorCode::ScopeInsufficient,
                    "an application key is needed",
                ));
            }
            Scope::Application(_) | Scope::Tenant(..) => {
                return Err(ApiError::not_found("application"));
            }
        }
        api.0.directory.application(id).await
    }

    /// The tenant, if the caller may see what it owns.
    pub(crate) async fn tenant(&self, api: &Api, id: Id<id::Tenant>) -> ApiResult<Arc<Tenant>> {
        let tenant = api.0.directory.tenant(id).await?;
        if self.may_see(tenant.application, tenant.id) {
            Ok(tenant)
        } else {
            Err(ApiError::not_found("tenant"))
        }
    }

    /// The tenant, if the caller may publish for it.
    pub(crate) async fn publisher(&self, api: &Api, id: Id<id::Tenant>) -> ApiResult<Arc<Tenant>> {
        let tenant = self.tenant(api, id).await?;
        match self.key.scope {
            Scope::Root | Scope::Application(_) => Ok(tenant),
            Scope::Tenant(..) => Err(ApiError::new(
                ErrorCode::ScopeInsufficient,
                "publishing needs an application key: only the product publishes",
            )),
        }
    }

    pub(crate) fn may_see(&self, application: Id<id::Application>, tenant: Id<id::Tenant>) -> bool {
        match self.key.scope {
            Scope::Root => true,
            Scope::Application(own) => own == application,
            Scope::Tenant(_, own) => own == tenant,
        }
    }

    /// The mode of what the caller makes: the given one, or the key's. A test key makes nothing live.
    pub(crate) fn mode(&self, given: Option<Mode>) -> ApiResult<Mode> {
        let mode = given.unwrap_or(self.key.mode);
        if self.may_touch(mode) {
            return Ok(mode);
        }
        Err(ApiError::field(
            ErrorCode::ScopeInsufficient,
            "mode",
            "a test key makes test events and endpoints only",
        ))
    }

    /// A test key sees and changes nothing that is live.
    pub(crate) fn may_touch(&self, mode: Mode) -> bool {
        self.key.mode == Mode::Live || mode == Mode::Test
    }

    /// The mode that a list is confined to: the one asked for, as far as the caller may see it.
    pub(crate) fn shown(&self, given: Option<Mode>) -> ApiResult<Option<Mode>> {
        match (self.key.mode, given) {
            (Mode::Live, given) => Ok(given),
            (Mode::Test, Some(Mode::Live)) => Err(ApiError::field(
                ErrorCode::ScopeInsufficient,
                "mode",
                "a test key sees test events and endpoints only",
            )),
            (Mode::Test, _) => Ok(Some(Mode::Test)),
        }
    }

    /// What applications and tenants have, they have for their live traffic too.
    pub(crate) fn must_be_live(&self) -> ApiResult<()> {
        if self.may_touch(Mode::Live) {
            return Ok(());
        }
        Err(ApiError::new(
            ErrorCode::ScopeInsufficient,
            "a test key changes nothing that live traffic depends on; use a live key",
        ))
    }

    pub(crate) fn may_see_event(&self, event: &Event) -> bool {
        self.may_see(event.application, event.tenant) && self.may_touch(event.mode)
    }
}
