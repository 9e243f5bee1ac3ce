//! The console's users: who may make them, how they come in, and how that ends.
//!
//! Nobody chooses a password for somebody else: whoever makes a user gets a link, by which that person chooses one.

mod password;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use postrider_core::limits::KEY_BYTES_MAX;
use postrider_core::session::{Holder, Portal, Session};
use postrider_core::tenant::Scope;
use postrider_core::user::{Password, Role, User};
use postrider_core::{Id, Secret, Timestamp, id};
use postrider_store::{Page, PageRequest, Rule, SessionsOf, StoreError, UserFilter};
use serde::Deserialize;
use utoipa::ToSchema;

use crate::directory::stranger;
use crate::reading::{bounded_page, is_invisible, present, required};
use crate::refusal::{ErrorCode, Refusal, Result};
use crate::sessions::{SESSION_LASTS, SESSIONS_MAX, code, new_session};
use crate::{Caller, CameFrom, LinkMade, Service, Visit};

pub(crate) use password::Gate;

/// Users that reach everything.
const USERS_MAX: u32 = 1_000;
/// Of them, confined to one application.
const USERS_OF_APPLICATION_MAX: u32 = 100;
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

/// As a portal's terms have it.
pub(crate) fn password_since(user: &User) -> Option<i64> {
    user.password_since().map(Timestamp::as_micros)
}

impl Service {
    /// Makes a user.
    ///
    /// # Errors
    /// Of a field that cannot be, `scope_insufficient`, `name_taken`, `users_max`, or what the store answers.
    pub async fn create_user(&self, who: &Caller, new: NewUser) -> Result<UserMade> {
        let own = must_manage(who)?;
        let name = checked_name(&new.name)?;
        let application = new.application.or(own);
        if let Some(application) = application {
            who.application(self, application).await?;
        }
        let by = who.changes(self.now())?;
        let user = User {
            id: self.store().ids().next(by.at),
            name,
            role: new.role,
            application,
            password: None,
            disabled_at: None,
            created_at: by.at,
            updated_at: by.at,
        };
        let most = match application {
            None => USERS_MAX,
            Some(_) => USERS_OF_APPLICATION_MAX,
        };
        let (service, who) = (self.clone(), who.clone());
        self.to_the_end(async move {
            let made = service.store().create_user(user.clone(), most, by).await;
            made.map_err(taken)?;
            match service.invite(&who, &user).await {
                Ok(link) => Ok(UserMade { user, link }),
                // Nobody could come in as this user, whose name would be taken when it is tried again.
                Err(refusal) => {
                    let by = who.changes(service.now())?;
                    drop(service.store().delete_user(user.id, by).await);
                    Err(refusal)
                }
            }
        })
        .await
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
    /// that they have stays until then; links from before open nothing any more.
    ///
    /// # Errors
    /// `scope_insufficient`, `not_found`, `validation_failed` of one that is disabled, or what the store answers.
    pub async fn user_link(&self, who: &Caller, id: Id<id::User>) -> Result<LinkMade> {
        let user = self.user(who, id).await?;
        if who.is_user(user.id) {
            // Whoever sits at an open browser would take the account over.
            return Err(Refusal::invalid(
                "user",
                "is you: change your password at /me",
            ));
        }
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
        from: CameFrom,
    ) -> Result<Option<(Secret, Visit)>> {
        let name = folded(name);
        let user = self.user_called(&name, from.address).await?;
        let mut known = None;
        // Whoever may not come in is compared with nobody's password: that takes as long and says the same.
        if let Some(user) = &user
            && self.lets_in(user).await?
        {
            known = user.password.clone();
        }
        let hash = known.map(|password| password.hash);
        let is_it = self.0.passwords.is_it(&name, password, hash, from).await?;
        let let_in = match user.filter(|_| is_it) {
            Some(user) => self.let_in(user).await?,
            None => None,
        };
        if let_in.is_none() {
            tracing::warn!(address = ?from.address, "somebody did not come in: name or password is wrong");
        }
        Ok(let_in)
    }

    async fn user_called(&self, name: &str, from: Option<IpAddr>) -> Result<Option<User>> {
        // Nobody has such a name, and a form may hold a longer one.
        if name.len() > KEY_BYTES_MAX {
            return Ok(None);
        }
        match self.0.directory.user_called(name, stranger(from)).await {
            Ok(user) => Ok(Some(user)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether a user may come in, or go on: not when they are disabled, or their application is gone.
    pub(crate) async fn lets_in(&self, user: &User) -> Result<bool> {
        if !user.is_active() {
            return Ok(false);
        }
        let Some(application) = user.application else {
            return Ok(true);
        };
        match self.0.directory.application(application).await {
            Ok(_) => Ok(true),
            Err(refusal) if refusal.code == ErrorCode::NotFound => Ok(false),
            Err(refusal) => Err(refusal),
        }
    }

    /// Whether a portal that a user of the console opened goes on: as long as they may change what is in it, and have the
    /// password that they had.
    pub(crate) async fn still_looks(&self, portal: &Portal) -> Result<bool> {
        let Some(id) = portal.terms.user else {
            return Ok(true);
        };
        match self.store().user(id).await {
            Ok(user) => {
                // One that an earlier version opened says nothing of it, and ends within the hour.
                let before = portal.terms.password_since;
                let is_theirs = before.is_none() || before == password_since(&user);
                Ok(is_theirs && user.role != Role::Viewer && self.lets_in(&user).await?)
            }
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// A visit of somebody who proved who they are; none when that has changed meanwhile.
    async fn let_in(&self, user: User) -> Result<Option<(Secret, Visit)>> {
        let (token, now) = (code(), self.now());
        let session = Session {
            opened_at: Some(now),
            ..new_session(self, Holder::User(user.id), &token, now.plus(SESSION_LASTS))
        };
        let proved = user.password_since();
        let caller = Caller::of_user(user);
        let by = caller.actor(now);
        let made = self
            .store()
            .create_session(session.clone(), SESSIONS_MAX, by.clone());
        made.await?;
        // Whatever changes the password or disables the user from now on ends this visit too.
        let present = self
            .store()
            .user(caller.user().map_or(Id::from_u128(0), |user| user.id));
        // A store that does not answer lets nobody in.
        let stands = present
            .await
            .is_ok_and(|user| user.is_active() && user.password_since() == proved);
        if !stands {
            match self.store().delete_session(session.id, by).await {
                Err(error) if !error.is_not_found() => return Err(error.into()),
                _ => return Ok(None),
            }
        }
        let session = Arc::new(session);
        Ok(Some((token, Visit { caller, session })))
    }

    /// Whose a link for choosing a password is; none of another link, or one that opens nothing any more.
    ///
    /// # Errors
    /// What the store answers.
    pub async fn invited(&self, link: &Session) -> Result<Option<User>> {
        let Holder::User(id) = link.holder else {
            return Ok(None);
        };
        match self.store().user(id).await {
            Ok(user) if self.lets_in(&user).await? => Ok(Some(user)),
            Ok(_) => Ok(None),
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
        from: CameFrom,
    ) -> Result<Option<(Secret, Visit)>> {
        let Some(link) = self.look_at_link(code, from.address).await? else {
            return Ok(None);
        };
        let Some(user) = self.invited(&link).await? else {
            return Ok(None);
        };
        // When the link is known to open something: a hash takes a core and one of few places.
        let hash = self.0.passwords.hash(password, &user.name, from).await?;
        self.replace_password(user, hash, Some(link.id)).await
    }

    /// Changes the password of whoever is there. All that they have open ends; the browser that asked gets a new visit. None
    /// when somebody else has changed it meanwhile.
    ///
    /// # Errors
    /// `validation_failed` of either, `rate_limited`, `scope_insufficient` of who is no user, or what the store answers.
    pub async fn change_password(
        &self,
        visit: &Visit,
        present: &Secret,
        new: &Secret,
        from: CameFrom,
    ) -> Result<Option<(Secret, Visit)>> {
        let user = visit.caller.user().ok_or_else(|| {
            let detail = "only users have passwords; you came in with a key";
            Refusal::new(ErrorCode::ScopeInsufficient, detail)
        })?;
        let passwords = &self.0.passwords;
        let hash = user.password.as_ref().map(|known| known.hash.clone());
        if !passwords.is_it(&user.name, present, hash, from).await? {
            return Err(Refusal::invalid("present", "is not your password"));
        }
        let hash = passwords.hash(new, &user.name, from).await?;
        self.replace_password(user.clone(), hash, None).await
    }

    /// In the place of the one that was known, and of whatever is open; a client that goes away does not change that.
    async fn replace_password(
        &self,
        user: User,
        hash: String,
        link: Option<Id<id::Session>>,
    ) -> Result<Option<(Secret, Visit)>> {
        let service = self.clone();
        self.to_the_end(async move {
            let by = Caller::of_user(user.clone()).actor(service.now());
            let password = Password { hash, since: by.at };
            let before = user.password_since();
            let set = service
                .store()
                .set_password(user.id, before, password, link, by);
            match set.await {
                Ok(user) => service.let_in(user).await,
                Err(StoreError::Conflict { .. }) => Ok(None),
                Err(error) if error.is_not_found() => Ok(None),
                Err(error) => Err(error.into()),
            }
        })
        .await
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

/// Names are theirs over the whole server.
fn taken(error: StoreError) -> Refusal {
    match error {
        StoreError::Conflict {
            rule: Rule::NameTaken,
        } => Refusal::field(
            ErrorCode::NameTaken,
            "name",
            "is another user's; take another",
        ),
        error => error.into(),
    }
}

/// A name that two people cannot both read as theirs.
fn checked_name(given: &str) -> Result<String> {
    let name = folded(given);
    required("name", &name, KEY_BYTES_MAX)?;
    if name.chars().any(|c| c.is_control() || is_invisible(c)) {
        return Err(Refusal::invalid(
            "name",
            "must be one line, all of it to be seen",
        ));
    }
    Ok(name)
}

/// A name as it is kept.
fn folded(name: &str) -> String {
    name.trim().to_lowercase()
}

impl Caller {
    /// Whether the caller says who may come in.
    pub fn is_owner(&self) -> bool {
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
