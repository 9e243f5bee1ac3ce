//! Users in the model.

use async_trait::async_trait;
use postrider_core::audit::Actor;
use postrider_core::session::{Holder, Session};
use postrider_core::user::{Password, User};
use postrider_core::{Id, Timestamp, id};

use super::manage::newest;
use super::{MemoryStore, State};
use crate::{Entity, Page, PageRequest, Rule, StoreError, UserChange, UserFilter, Users};

impl State {
    pub(super) fn user(&self, id: Id<id::User>) -> Result<User, StoreError> {
        let found = self.users.get(&id.as_u128()).cloned();
        found.ok_or(StoreError::not_found(Entity::User))
    }

    /// Ends sessions of a user.
    pub(super) fn end_visits(&mut self, id: Id<id::User>, which: impl Fn(&Session) -> bool) {
        let is_its = |holder: &Holder| matches!(holder, Holder::User(user) if *user == id);
        self.sessions
            .retain(|_, row| !(is_its(&row.holder) && which(row)));
    }
}

#[async_trait]
impl Users for MemoryStore {
    async fn create_user(&self, user: User, max: u32, by: Actor) -> Result<(), StoreError> {
        let mut state = self.state();
        if let Some(application) = user.application {
            state.application(application)?;
        }
        let alike = |known: &&User| known.application == user.application;
        if state.users.values().filter(alike).count() >= max as usize {
            return Err(StoreError::conflict(Rule::UsersMax));
        }
        if state.users.values().any(|known| known.name == user.name) {
            return Err(StoreError::conflict(Rule::NameTaken));
        }
        state.note(&self.ids, &by, None, Some(&user));
        state.users.insert(user.id.as_u128(), user);
        Ok(())
    }

    async fn user(&self, id: Id<id::User>) -> Result<User, StoreError> {
        self.state().user(id)
    }

    async fn user_by_name(&self, name: &str) -> Result<User, StoreError> {
        let state = self.state();
        let found = state.users.values().find(|user| user.name == name).cloned();
        found.ok_or(StoreError::not_found(Entity::User))
    }

    async fn list_users(
        &self,
        filter: UserFilter,
        page: PageRequest,
    ) -> Result<Page<User>, StoreError> {
        let state = self.state();
        let is_among = |user: &User| {
            let of = filter.application;
            of.is_none_or(|of| user.application == Some(of))
        };
        let rows = state.users.iter().filter(|(_, user)| is_among(user));
        newest(rows.map(|(id, row)| (*id, row)), &("users", filter), page)
    }

    async fn update_user(
        &self,
        id: Id<id::User>,
        change: UserChange,
        by: Actor,
    ) -> Result<User, StoreError> {
        let mut state = self.state();
        let before = state.user(id)?;
        let mut after = before.clone();
        change(&mut after);
        // With the change, so that no clock decides who is still in.
        if before.is_active() && !after.is_active() {
            state.end_visits(id, |_| true);
        }
        state.users.insert(id.as_u128(), after.clone());
        state.note(&self.ids, &by, Some(&before), Some(&after));
        Ok(after)
    }

    async fn set_password(
        &self,
        id: Id<id::User>,
        before: Option<Timestamp>,
        password: Password,
        link: Option<Id<id::Session>>,
        by: Actor,
    ) -> Result<User, StoreError> {
        let mut state = self.state();
        let known = state.user(id)?;
        // Of two who choose one at once the second would not know that theirs is not the one.
        if known.password_since() != before || !known.is_active() {
            return Err(StoreError::conflict(Rule::PasswordChanged));
        }
        if link.is_some_and(|link| !state.sessions.contains_key(&link.as_u128())) {
            return Err(StoreError::not_found(Entity::Session));
        }
        let user = User {
            updated_at: password.since,
            password: Some(password),
            ..known.clone()
        };
        state.end_visits(id, |_| true);
        state.users.insert(id.as_u128(), user.clone());
        state.note(&self.ids, &by, Some(&known), Some(&user));
        Ok(user)
    }

    async fn delete_user(&self, id: Id<id::User>, by: Actor) -> Result<(), StoreError> {
        let mut state = self.state();
        let before = state.user(id)?;
        state.users.remove(&id.as_u128());
        state.end_visits(id, |_| true);
        state.note(&self.ids, &by, Some(&before), None);
        Ok(())
    }
}
