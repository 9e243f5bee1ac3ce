//! People at the pages: how they come in, who they are then, and how that ends.
//!
//! Somebody comes with a key, or by a link that the product made for a customer. The code of a link opens it once;
//! what the browser keeps then is a token of 32 random bytes, of which the store has the hash.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use postrider_core::audit::Actor;
use postrider_core::seal::{hex, sha256};
use postrider_core::session::{Holder, Portal, PortalTerms, Session};
use postrider_core::tenant::{Mode, Scope};
use postrider_core::{Id, Secret, Timestamp, id};
use postrider_engine::budget::{Budget, Grant};
use postrider_store::{Page, PageRequest, SessionsOf};
use serde::Deserialize;
use url::Url;
use utoipa::ToSchema;

use crate::directory::stranger;
use crate::reading::bounded_page;
use crate::refusal::{ErrorCode, Refusal, Result};
use crate::users::password_since;
use crate::{Caller, Proof, Service, random};

/// Sessions of one key, of one user, and of one tenant; of more the oldest end.
pub(crate) const SESSIONS_MAX: u32 = 1_000;
/// How long somebody who came with a key stays, and how long a link to the console and what it opened last.
pub(crate) const SESSION_LASTS: Duration = Duration::from_secs(12 * 3_600);
/// How long a portal link, and what it opened, last when nothing is said.
const PORTAL_LINK_LASTS: Duration = Duration::from_secs(12 * 3_600);
/// The longest that one can be made for.
const PORTAL_LINK_LASTS_MAX: Duration = Duration::from_secs(7 * 24 * 3_600);
/// Origins that may have one portal in a frame.
const FRAME_ORIGINS_MAX: usize = 8;
/// Bytes of a name, an origin and a return URL.
const TEXT_BYTES_MAX: usize = 512;
/// Bytes of a code and of a token.
const CODE_BYTES: usize = 32;

/// A link into the portal.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct NewPortalLink {
    /// Live, or the test mode only; the key's, when it is not given.
    pub mode: Option<Mode>,
    /// Looks and changes nothing, and sees no secret.
    pub read_only: bool,
    /// Who comes, as the audit log calls them: a mail address, a name.
    pub name: Option<String>,
    /// Where "back" leads: `https://shop.example/settings`.
    pub return_url: Option<String>,
    /// Origins whose pages may have the portal in a frame: `https://shop.example`. The application's
    /// `settings.frameOrigins`, when none is given.
    pub frame_origins: Vec<String>,
    /// Seconds after which the link, and what it opened, end. 12 hours, when not given; 7 days at most.
    #[schema(minimum = 60, maximum = 604_800)]
    pub lasts_secs: Option<u64>,
}

/// A link that was made: its code is in this answer only.
#[derive(Debug)]
pub struct LinkMade {
    pub session: Session,
    pub code: Secret,
}

impl LinkMade {
    /// The link itself, at the server that people reach by `base`, such as `https://hooks.example.com`.
    pub fn at(&self, base: &str) -> Secret {
        let face = match self.session.holder {
            Holder::Key(_) | Holder::User(_) => "",
            Holder::Portal(_) => "/portal",
        };
        let (base, code) = (base.trim_end_matches('/'), self.code.expose());
        Secret::new(format!("{base}{face}/enter?code={code}"))
    }
}

/// Somebody who is there.
#[derive(Debug, Clone)]
pub struct Visit {
    pub caller: Caller,
    pub session: Arc<Session>,
}

/// Lookups for people who are not in yet, at once. What opens something has 32 random bytes: trying does not find it,
/// and so nobody is locked out by somebody else's tries.
const LOOKS_AT_ONCE: usize = 64;

/// Bounds what people who are not in yet make the store read.
pub(crate) struct Door(Budget);

impl Default for Door {
    fn default() -> Self {
        Self(Budget::new(LOOKS_AT_ONCE))
    }
}

impl Door {
    /// A place to look from an address, of which somebody else's are not used up.
    fn look(&self, from: Option<IpAddr>) -> Result<Grant> {
        let asker = stranger(from).as_u128();
        self.0.take(asker, 1).ok_or_else(too_many)
    }
}

impl Service {
    /// Lets somebody in who has a key. What comes back is for their browser only.
    ///
    /// # Errors
    /// `key_unknown`, `key_disabled`, `key_expired`, `address_not_allowed`, and `overloaded` when too many come at once.
    pub async fn come_in(&self, key: &str, address: Option<IpAddr>) -> Result<(Secret, Visit)> {
        let looking = self.0.door.look(address)?;
        let proof = self.prove(key, address).await?;
        // Whoever has a key is no stranger any more.
        drop(looking);
        let holder = Holder::Key(proof.id());
        let caller = self.admit(proof, address)?;
        let token = code();
        let now = self.now();
        let ends = ends(&caller, now.plus(SESSION_LASTS));
        let session = Session {
            opened_at: Some(now),
            ..new_session(self, holder, &token, ends)
        };
        let by = caller.actor(now);
        let made = self
            .store()
            .create_session(session.clone(), SESSIONS_MAX, by);
        made.await?;
        let session = Arc::new(session);
        Ok((token, Visit { caller, session }))
    }

    /// A link that lets somebody in once as whoever calls.
    ///
    /// # Errors
    /// `scope_insufficient` for who came by a link, or what the store answers.
    pub async fn console_link(&self, who: &Caller) -> Result<LinkMade> {
        let by = who.changes(self.now())?;
        let Some(key) = by.key else {
            let detail = "a link to the console is made with a key";
            return Err(Refusal::new(ErrorCode::ScopeInsufficient, detail));
        };
        let ends = ends(who, self.now().plus(SESSION_LASTS));
        self.make_link(Holder::Key(key), ends, by).await
    }

    /// A link for a customer: what it opens shows and changes what is the tenant's, of one mode or both.
    ///
    /// # Errors
    /// Of a field that cannot be, `scope_insufficient` for a tenant's key, `not_found`, or what the store answers.
    pub async fn create_portal_link(
        &self,
        who: &Caller,
        tenant: Id<id::Tenant>,
        new: NewPortalLink,
    ) -> Result<LinkMade> {
        let (holder, ends) = self.portal(who, tenant, new).await?;
        let by = who.changes(self.now())?;
        self.make_link(holder, ends, by).await
    }

    /// A token for a customer's own programs: whoever has it is who would come by such a link.
    ///
    /// # Errors
    /// As [`Service::create_portal_link`].
    pub async fn create_portal_token(
        &self,
        who: &Caller,
        tenant: Id<id::Tenant>,
        new: NewPortalLink,
    ) -> Result<Secret> {
        let (holder, ends) = self.portal(who, tenant, new).await?;
        let by = who.changes(self.now())?;
        let token = code();
        let session = Session {
            opened_at: Some(by.at),
            ..new_session(self, holder, &token, ends)
        };
        self.store()
            .create_session(session, SESSIONS_MAX, by)
            .await?;
        Ok(token)
    }

    async fn portal(
        &self,
        who: &Caller,
        tenant: Id<id::Tenant>,
        new: NewPortalLink,
    ) -> Result<(Holder, Timestamp)> {
        let tenant = who.tenant(self, tenant).await?;
        must_make_links(who)?;
        let mode = new.mode;
        let lasts = new
            .lasts_secs
            .map_or(PORTAL_LINK_LASTS, Duration::from_secs);
        if lasts < Duration::from_secs(60) || lasts > PORTAL_LINK_LASTS_MAX {
            let most = PORTAL_LINK_LASTS_MAX.as_secs();
            let rule = format!("must be from 60 to {most}");
            return Err(Refusal::invalid("lastsSecs", rule));
        }
        let mut terms = PortalTerms {
            user: who.user().map(|user| user.id),
            password_since: who.user().and_then(password_since),
            ..terms(new)?
        };
        if terms.frame_origins.is_empty() {
            let application = self.0.directory.application(tenant.application).await?;
            // Read again: what was stored is held to the rule of this version.
            terms.frame_origins =
                origins("settings.frameOrigins", &application.settings.frame_origins)?;
        }
        let portal = Portal {
            application: tenant.application,
            tenant: tenant.id,
            mode: who.mode(mode)?,
            terms,
        };
        Ok((Holder::Portal(portal), self.now().plus(lasts)))
    }

    /// A tenant's portal links and whom they let in, the newest first.
    ///
    /// # Errors
    /// `scope_insufficient` for a tenant's key, `not_found`, or what the store answers.
    pub async fn list_portal_links(
        &self,
        who: &Caller,
        tenant: Id<id::Tenant>,
        page: PageRequest,
    ) -> Result<Page<Session>> {
        let tenant = who.tenant(self, tenant).await?;
        must_make_links(who)?;
        let of = SessionsOf::Tenant(tenant.id);
        let listed = self.store().list_sessions(of, bounded_page(page)).await?;
        let may_touch = |session: &Session| match &session.holder {
            Holder::Portal(portal) => who.may_touch(portal.mode),
            Holder::Key(_) | Holder::User(_) => false,
        };
        Ok(Page {
            // The store knows no mode of sessions, so a page may have fewer rows than were asked for.
            rows: listed.rows.into_iter().filter(may_touch).collect(),
            next: listed.next,
        })
    }

    /// Ends a portal link, and whoever it let in is out.
    ///
    /// # Errors
    /// `scope_insufficient` for a tenant's key, `not_found`, or what the store answers.
    pub async fn end_portal_link(&self, who: &Caller, id: Id<id::Session>) -> Result<()> {
        let session = self.store().session(id).await?;
        let Holder::Portal(portal) = &session.holder else {
            return Err(Refusal::not_found("portal link"));
        };
        if !who.may_see(portal.application, portal.tenant) || !who.may_touch(portal.mode) {
            return Err(Refusal::not_found("portal link"));
        }
        // Behind the others: whoever may not see it is not told that it is there.
        must_make_links(who)?;
        let by = who.changes(self.now())?;
        Ok(self.store().delete_session(id, by).await?)
    }

    /// What a link leads to, without using it; none when it was used, has ended or never was.
    ///
    /// # Errors
    /// What the store answers, and `overloaded` when too many try at once.
    pub async fn look_at_link(&self, code: &str, from: Option<IpAddr>) -> Result<Option<Session>> {
        let _turn = self.0.door.look(from)?;
        let hash = sha256(code.as_bytes());
        let found = self.0.directory.session(hash, stranger(from)).await;
        match found {
            Ok(session) if session.opened_at.is_none() && session.expires_at > self.now() => {
                Ok(Some(session))
            }
            Ok(_) => Ok(None),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Lets somebody in who has the code of a link; none when somebody had it before, or it has ended.
    ///
    /// # Errors
    /// What the store answers, and `overloaded` when too many come at once.
    pub async fn use_link(
        &self,
        code: &str,
        from: Option<IpAddr>,
    ) -> Result<Option<(Secret, Session)>> {
        let Some(link) = self.look_at_link(code, from).await? else {
            return Ok(None);
        };
        let token = self::code();
        let now = self.now();
        let by = match &link.holder {
            Holder::Key(key) => Actor {
                key: Some(*key),
                user: None,
                name: Arc::from("by a link to the console"),
                account: key.as_u128(),
                at: now,
            },
            // By theirs they choose a password.
            Holder::User(_) => return Ok(None),
            Holder::Portal(portal) => Caller::of_portal(link.id, portal).actor(now),
        };
        let (code, hash) = (sha256(code.as_bytes()), sha256(token.expose().as_bytes()));
        // The store takes a code once: whoever comes second finds none.
        match self.store().open_session(code, hash, now, by).await {
            Ok(session) => Ok(Some((token, session))),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Who has this token; none when the session has ended, or what it is of.
    ///
    /// # Errors
    /// `key_disabled`, `key_expired`, `address_not_allowed`, or what the store answers.
    pub async fn visit(&self, token: &str, address: Option<IpAddr>) -> Result<Option<Visit>> {
        let hash = sha256(token.as_bytes());
        let found = self.0.directory.session(hash, stranger(address)).await;
        let session = match found {
            Ok(session) => session,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // Until a link is used its code has this place, and it is no token.
        if session.opened_at.is_none() || session.expires_at <= self.now() {
            return Ok(None);
        }
        let caller = match &session.holder {
            Holder::Key(key) => match self.store().key(*key).await {
                // By the time when it began: which text let them in the session does not know.
                Ok(key) if !key.lets_go_on(session.created_at, self.now()) => return Ok(None),
                Ok(key) => self.admit(Proof::of(key), address)?,
                Err(error) if error.is_not_found() => return Ok(None),
                Err(error) => return Err(error.into()),
            },
            Holder::User(user) => match self.store().user(*user).await {
                Ok(user) if !self.lets_in(&user).await? => return Ok(None),
                Ok(user) => Caller::of_user(user),
                Err(error) if error.is_not_found() => return Ok(None),
                Err(error) => return Err(error.into()),
            },
            Holder::Portal(portal) if !self.still_looks(portal).await? => {
                return Ok(None);
            }
            Holder::Portal(portal) => {
                let caller = Caller::of_portal(session.id, portal);
                match caller.tenant(self, portal.tenant).await {
                    Ok(_) => caller,
                    Err(refusal) if refusal.code == ErrorCode::NotFound => return Ok(None),
                    Err(refusal) => return Err(refusal),
                }
            }
        };
        let session = Arc::new(session);
        Ok(Some(Visit { caller, session }))
    }

    /// Ends a visit.
    ///
    /// # Errors
    /// What the store answers.
    pub async fn leave(&self, visit: &Visit) -> Result<()> {
        let by = visit.caller.actor(self.now());
        match self.store().delete_session(visit.session.id, by).await {
            // One that has ended meanwhile is what was asked for.
            Err(error) if !error.is_not_found() => Err(error.into()),
            _ => Ok(()),
        }
    }

    pub(crate) async fn make_link(
        &self,
        holder: Holder,
        ends: Timestamp,
        by: Actor,
    ) -> Result<LinkMade> {
        let code = code();
        let session = new_session(self, holder, &code, ends);
        let made = self
            .store()
            .create_session(session.clone(), SESSIONS_MAX, by);
        made.await?;
        Ok(LinkMade { session, code })
    }
}

/// When what a caller begins ends: with the text of the key that let them in, if that ends sooner.
fn ends(who: &Caller, usually: Timestamp) -> Timestamp {
    who.until.map_or(usually, |until| until.min(usually))
}

fn too_many() -> Refusal {
    let detail = "as many come in at once as can; try again in a moment";
    Refusal::new(ErrorCode::Overloaded, detail)
}

pub(crate) fn new_session(
    service: &Service,
    holder: Holder,
    code: &Secret,
    ends: Timestamp,
) -> Session {
    let now = service.now();
    Session {
        id: service.store().ids().next(now),
        holder,
        hash: sha256(code.expose().as_bytes()),
        created_at: now,
        opened_at: None,
        expires_at: ends,
    }
}

pub(crate) fn code() -> Secret {
    Secret::new(hex(&random::bytes(CODE_BYTES)))
}

/// Only the product sends its customers in.
fn must_make_links(who: &Caller) -> Result<()> {
    match who.scope() {
        Scope::Root | Scope::Application(_) => Ok(()),
        Scope::Tenant(..) => Err(Refusal::new(
            ErrorCode::ScopeInsufficient,
            "an application key is needed: the product makes portal links",
        )),
    }
}

fn terms(new: NewPortalLink) -> Result<PortalTerms> {
    let short = |field: &str, text: &str| {
        if text.is_empty() || text.len() > TEXT_BYTES_MAX {
            let rule = format!("must have 1 to {TEXT_BYTES_MAX} bytes");
            return Err(Refusal::invalid(field, rule));
        }
        Ok(())
    };
    if let Some(name) = &new.name {
        short("name", name)?;
        if name.chars().any(char::is_control) {
            return Err(Refusal::invalid("name", "must be one line"));
        }
    }
    if let Some(url) = &new.return_url {
        short("returnUrl", url)?;
        let web = Url::parse(url).is_ok_and(|url| matches!(url.scheme(), "https" | "http"));
        if !web {
            let rule = "must be an https URL such as https://shop.example/settings";
            return Err(Refusal::invalid("returnUrl", rule));
        }
    }
    Ok(PortalTerms {
        frame_origins: origins("frameOrigins", &new.frame_origins)?,
        name: new.name,
        read_only: new.read_only,
        return_url: new.return_url,
        user: None,
        password_since: None,
    })
}

/// Those that may have the portal in a frame, each as browsers write it.
///
/// # Errors
/// When there are too many, or one is no origin.
pub(crate) fn origins(field: &str, given: &[String]) -> Result<Vec<String>> {
    if given.len() > FRAME_ORIGINS_MAX {
        let rule = format!("must be {FRAME_ORIGINS_MAX} at most");
        return Err(Refusal::invalid(field, rule));
    }
    let each = given.iter().enumerate().map(|(at, given)| {
        origin(given).ok_or_else(|| {
            let rule = "must be an origin such as https://shop.example, without a path";
            Refusal::invalid(format!("{field}[{at}]"), rule)
        })
    });
    each.collect()
}

/// An origin, written as browsers write it: what comes out goes into a header. None where it is none, or has a
/// path, or a `*`, which is a name to nobody.
pub fn origin(given: &str) -> Option<String> {
    if given.len() > TEXT_BYTES_MAX {
        return None;
    }
    let url = Url::parse(given).ok()?;
    let bare = url.path() == "/"
        && url.query().is_none()
        && url.fragment().is_none()
        && url.username().is_empty()
        && url.password().is_none();
    let web = matches!(url.scheme(), "https" | "http") && url.host_str().is_some();
    // `*` is a host to the parser and everybody to a browser.
    let plain = url.host_str().is_some_and(|host| {
        let part = |byte: u8| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte);
        host.bytes().all(part)
    });
    (bare && web && plain).then(|| url.origin().ascii_serialization())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_nothing_else() {
        let read = |text: &str| origin(text);
        assert_eq!(
            read("https://Shop.example/").as_deref(),
            Some("https://shop.example")
        );
        assert_eq!(
            read("http://localhost:3000").as_deref(),
            Some("http://localhost:3000")
        );
        for wrong in [
            "*",
            "https://*.example",
            "https://shop.example/path",
            "https://shop.example; script-src *",
            "https://a:b@shop.example",
            "javascript:alert(1)",
            "null",
        ] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn who_tries_from_one_network_leaves_places_to_others() {
        let door = Door::default();
        let (one, neighbour, other) = ("2001:db8::1", "2001:db8::2", "2001:db8:0:1::1");
        let at = |text: &str| text.parse().ok();
        let mut looking = Vec::new();
        while let Ok(place) = door.look(at(one)) {
            looking.push(place);
        }
        assert_eq!(looking.len(), LOOKS_AT_ONCE / 2);
        assert!(door.look(at(neighbour)).is_err(), "it is the same network");
        assert!(door.look(at(other)).is_ok());
        assert!(door.look(None).is_ok(), "nobody knows where it is from");
    }
}
