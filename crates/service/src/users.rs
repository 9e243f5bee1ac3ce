//! The console's users: who may make them, how they come in, and how that ends.
//!
//! Nobody chooses a password for somebody else: whoever makes a user gets a link, by which that person chooses one.

mod password;

use std::net::IpAddr;
use std::sync::Arc;

use std::time::Duration;

use postrider_core::limits::KEY_BYTES_MAX;
use postrider_core::session::{Holder, Session};
use postrider_core::tenant::Scope;
use postrider_core::user::{Password, Role, User};
use postrider_core::{Id, Secret, id};
use postrider_store::{Page, PageRequest, SessionsOf, UserFilter};
use serde::Deserialize;
use utoipa::ToSchema;

use crate::reading::{bounded_page, present, required};
use crate::refusal::{ErrorCode, Refusal, Result};
use crate::sessions::{SESSION_LASTS, SESSIONS_MAX, code, new_session};
use crate::{Caller, LinkMade, Service, Visit};

pub(crate) use password::Gate;

/// Users of one server.
const USERS_MAX: u32 = 1_000;
/// How long somebody may take to choose a password.
const INVITATION_LASTS: Duration = Duration::from_secs(3 * 24 * 3_600);

/// A user to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct NewUser {
    /// What they come in with: a mail address, a name. Capitals count for nothing.
    pub name: String,
    pub role: Role,
    /// Confines them to an application; none reaches everything. Of an application's key, its own.
    pub application: Option<Id<id::Application>>,
}

/// What changes of a user; what is not named stays.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct UserPatch {
    #[serde(deserialize_with = "present")]
    #[schema(nullable = false)]
    pub role: Option<Role>,
    /// False keeps them out, and whoever is in is out with the next page.
    #[serde(deserialize_with = "present")]
    #[schema(nullable = false)]
    pub active: Option<bool>,
}

/// A user as it was made, and the link by which that person chooses a password.
#[derive(Debug)]
pub struct UserMade {
    pub user: User,
    pub link: LinkMade,
}

impl Service {
    /// Makes a user.
    ///
    /// # Errors
    /// Of a field that cannot be, `scope_insufficient`, `name_taken`, `users_max`, or what the store answers.
    pub async fn create_user(&self, who: &Caller, new: NewUser) -> Result<UserMade> {
        let own = must_manage(who)?;
        required("name", &new.name, KEY_BYTES_MAX)?;
        if new.name.chars().any(char::is_control) {
            return Err(Refusal::invalid("name", "must be one line"));
        }
        let application = new.application.or(own);
        if let Some(application) = application {
            who.application(self, application).await?;
        }
        let by = who.changes(self.now())?;
        let user = User {
            id: self.store().ids().next(by.at),
            name: folded(&new.name),
            role: new.role,
            application,
            password: None,
            disabled_at: None,
            created_at: by.at,
            updated_at: by.at,
        };
        self.store()
            .create_user(user.clone(), USERS_MAX, by)
            .await?;
        let link = self.invite(who, &user).await?;
        Ok(UserMade { user, link })
    }

    /// Those whom the caller may manage, the newest first.
    ///
    /// # Errors
    /// `scope_insufficient`, or what the store answers.
    pub async fn list_users(&self, who: &Caller, page: PageRequest) -> Result<Page<User>> {
        let application = must_manage(who)?;
        let filter = UserFilter { application };
        Ok(self.store().list_users(filter, bounded_page(page)).await?)
    }

    /// # Errors
    /// `scope_insufficient`, `not_found`, or what the store answers.
    pub async fn user(&self, who: &Caller, id: Id<id::User>) -> Result<User> {
        let own = must_manage(who)?;
        let user = self.store().user(id).await?;
        if own.is_some() && user.application != own {
            return Err(Refusal::not_found("user"));
        }
        Ok(user)
    }

    /// Gives a user another role, keeps them out or lets them in.
    ///
    /// # Errors
    /// Of a field that cannot be, `scope_insufficient`, `not_found`, or what the store answers.
    pub async fn change_user(
        &self,
        who: &Caller,
        id: Id<id::User>,
        patch: UserPatch,
    ) -> Result<User> {
        let user = self.user(who, id).await?;
        if who.is_user(user.id) {
            let field = if patch.role.is_some() {
                "role"
            } else {
                "active"
            };
            return Err(Refusal::invalid(field, "somebody else has to change yours"));
        }
        let by = who.changes(self.now())?;
        let now = by.at;
        let change = move |user: &mut User| {
            user.role = patch.role.unwrap_or(user.role);
            match patch.active {
                Some(true) => user.disabled_at = None,
                Some(false) => user.disabled_at = user.disabled_at.or(Some(now)),
                None => {}
            }
            user.updated_at = now;
        };
        Ok(self.store().update_user(id, Box::new(change), by).await?)
    }

    /// Deletes a user; whoever is in as them is out.
    ///
    /// # Errors
    /// `scope_insufficient`, `not_found`, or what the store answers.
    pub async fn delete_user(&self, who: &Caller, id: Id<id::User>) -> Result<()> {
        let user = self.user(who, id).await?;
        if who.is_user(user.id) {
            let detail = "somebody else has to delete you";
            return Err(Refusal::new(ErrorCode::ScopeInsufficient, detail));
        }
        let by = who.changes(self.now())?;
        Ok(self.store().delete_user(id, by).await?)
    }

    /// A link by which a user chooses a password, once: the first, or one in the place of one that was forgotten. The one
    /// that they have stays until then.
    ///
    /// # Errors
    /// `scope_insufficient`, `not_found`, `validation_failed` of one that is disabled, or what the store answers.
    pub async fn user_link(&self, who: &Caller, id: Id<id::User>) -> Result<LinkMade> {
        let user = self.user(who, id).await?;
        if user.disabled_at.is_some() {
            return Err(Refusal::invalid("user", "is disabled; enable them first"));
        }
        self.invite(who, &user).await
    }

    async fn invite(&self, who: &Caller, user: &User) -> Result<LinkMade> {
        let by = who.changes(self.now())?;
        let ends = by.at.plus(INVITATION_LASTS);
        self.make_link(Holder::User(user.id), ends, by).await
    }

    /// Lets somebody in by name and password; none when they do not go together, whichever of the two it is.
    ///
    /// # Errors
    /// `rate_limited` when it was tried too often, `overloaded` when too many come at once, or what the store answers.
    pub async fn sign_in(
        &self,
        name: &str,
        password: &Secret,
        address: Option<IpAddr>,
    ) -> Result<Option<(Secret, Visit)>> {
        let name = folded(name);
        self.0.passwords.count(&name, address)?;
        let user = self.user_called(&name).await?;
        let hash = user.as_ref().filter(|user| user.disabled_at.is_none());
        let hash = hash.and_then(|user| user.password.as_ref());
        let hash = hash.map(|password| password.hash.clone());
        let is_it = self.0.passwords.is_it(password, hash, address).await?;
        match user.filter(|_| is_it) {
            Some(user) => self.let_in(user).await.map(Some),
            None => {
                tracing::warn!(
                    ?address,
                    "somebody did not come in: name or password is wrong"
                );
                Ok(None)
            }
        }
    }

    async fn user_called(&self, name: &str) -> Result<Option<User>> {
        if name.len() > KEY_BYTES_MAX {
            return Ok(None);
        }
        match self.store().user_by_name(name).await {
            Ok(user) => Ok(Some(user)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// A visit of somebody who proved who they are.
    async fn let_in(&self, user: User) -> Result<(Secret, Visit)> {
        let token = code();
        let now = self.now();
        let session = Session {
            opened_at: Some(now),
            ..new_session(self, Holder::User(user.id), &token, now.plus(SESSION_LASTS))
        };
        let caller = Caller::of_user(user);
        let by = caller.actor(now);
        let made = self
            .store()
            .create_session(session.clone(), SESSIONS_MAX, by);
        made.await?;
        let session = Arc::new(session);
        Ok((token, Visit { caller, session }))
    }

    /// Whose a link for choosing a password is; none of another link, or one that opens nothing any more.
    ///
    /// # Errors
    /// As [`Service::look_at_link`].
    pub async fn invited(&self, link: &Session) -> Result<Option<User>> {
        let Holder::User(id) = link.holder else {
            return Ok(None);
        };
        match self.store().user(id).await {
            Ok(user) => {
                let since = user.password.as_ref().map(|password| password.since);
                let is_newest = since.is_none_or(|since| link.created_at >= since);
                Ok(Some(user).filter(|user| user.disabled_at.is_none() && is_newest))
            }
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Uses a link for choosing a password, and lets its owner in; none when it opens nothing any more.
    ///
    /// # Errors
    /// `validation_failed` of a password that would be guessed: the link stays; `overloaded`, or what the store answers.
    pub async fn choose_password(
        &self,
        code: &str,
        password: &Secret,
        address: Option<IpAddr>,
    ) -> Result<Option<(Secret, Visit)>> {
        let Some(link) = self.look_at_link(code).await? else {
            return Ok(None);
        };
        let Some(user) = self.invited(&link).await? else {
            return Ok(None);
        };
        let hash = self.0.passwords.hash(password, &user.name, address).await?;
        // Of two who have the code, one gets on.
        let by = Caller::of_user(user.clone()).actor(self.now());
        match self.store().delete_session(link.id, by).await {
            Ok(()) => {}
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        let user = self.set_password(user.id, hash).await?;
        self.let_in(user).await.map(Some)
    }

    /// Changes the password of whoever is there. All that they have open ends; the browser that asked gets a new visit.
    ///
    /// # Errors
    /// `validation_failed` of either, `rate_limited`, `scope_insufficient` of who is no user, or what the store answers.
    pub async fn change_password(
        &self,
        visit: &Visit,
        present: &Secret,
        new: &Secret,
        address: Option<IpAddr>,
    ) -> Result<(Secret, Visit)> {
        let user = visit.caller.user().ok_or_else(|| {
            let detail = "only users have passwords; you came in with a key";
            Refusal::new(ErrorCode::ScopeInsufficient, detail)
        })?;
        self.0.passwords.count(&user.name, address)?;
        let hash = user.password.as_ref().map(|known| known.hash.clone());
        let is_it = self.0.passwords.is_it(present, hash, address).await?;
        if !is_it {
            return Err(Refusal::invalid("present", "is not your password"));
        }
        let hash = self.0.passwords.hash(new, &user.name, address).await?;
        let user = self.set_password(user.id, hash).await?;
        self.let_in(user).await
    }

    async fn set_password(&self, id: Id<id::User>, hash: String) -> Result<User> {
        let user = self.store().user(id).await?;
        let by = Caller::of_user(user).actor(self.now());
        let since = by.at;
        let change = move |user: &mut User| {
            user.password = Some(Password { hash, since });
            user.updated_at = since;
        };
        Ok(self.store().update_user(id, Box::new(change), by).await?)
    }

    /// The visits of whoever is there, the newest first: a user's own, or those with the same key.
    ///
    /// # Errors
    /// What the store answers.
    pub async fn own_sessions(&self, visit: &Visit, page: PageRequest) -> Result<Page<Session>> {
        let of = match visit.session.holder {
            Holder::User(user) => SessionsOf::User(user),
            Holder::Key(key) => SessionsOf::Key(key),
            Holder::Portal(_) => return Err(Refusal::not_found("page")),
        };
        Ok(self.store().list_sessions(of, bounded_page(page)).await?)
    }

    /// Ends a visit of the same user, or with the same key.
    ///
    /// # Errors
    /// `not_found`, or what the store answers.
    pub async fn end_own_session(&self, visit: &Visit, id: Id<id::Session>) -> Result<()> {
        let session = self.store().session(id).await?;
        let is_own = match (&session.holder, &visit.session.holder) {
            (Holder::User(of), Holder::User(own)) => of == own,
            (Holder::Key(of), Holder::Key(own)) => of == own,
            _ => false,
        };
        if !is_own {
            return Err(Refusal::not_found("session"));
        }
        let by = visit.caller.actor(self.now());
        Ok(self.store().delete_session(id, by).await?)
    }
}

/// A name as it is kept.
fn folded(name: &str) -> String {
    name.trim().to_lowercase()
}

impl Caller {
    /// Whether the caller says who may come in.
    pub fn manages_users(&self) -> bool {
        must_manage(self).is_ok()
    }
}

/// The application that the caller's users are confined to; none where there are all.
///
/// # Errors
/// `scope_insufficient` for who may not manage users.
fn must_manage(who: &Caller) -> Result<Option<Id<id::Application>>> {
    who.must_own("who else may come in")?;
    who.must_be_live()?;
    match who.scope() {
        Scope::Root => Ok(None),
        Scope::Application(application) => Ok(Some(application)),
        Scope::Tenant(..) => Err(Refusal::new(
            ErrorCode::ScopeInsufficient,
            "an application key is needed: users are of the product",
        )),
    }
}
