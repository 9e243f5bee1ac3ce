//! Users of the console.

use async_trait::async_trait;
use postrider_core::audit::Actor;
use postrider_core::user::{Password, User};
use postrider_core::{Id, Timestamp, id};
use postrider_store::{Entity, Page, PageRequest, Rule, StoreError, UserChange, UserFilter, Users};

use crate::SqlStore;
use crate::convert::aborted;
use crate::manage::taken;
use crate::read::{USER, role_number, user_row};
use crate::sql::{Optional, Row, params};
use crate::writer::Tx;

impl Tx {
    fn user(&self, key: i64) -> Result<User, StoreError> {
        let sql = format!("select {USER} from console_user where id = ?1");
        let row = |row: &Row<'_>| user_row(row, self.salt);
        let found = self.connection.query_row(&sql, [key], row).optional();
        found
            .map_err(aborted)?
            .ok_or(StoreError::not_found(Entity::User))
    }

    fn create_user(&mut self, user: &User, max: u32, by: &Actor) -> Result<(), StoreError> {
        if let Some(application) = user.application {
            self.must_exist("application", application.key(), Entity::Application)?;
        }
        // 0 is no application's key: those that are confined to none count together.
        let sql = "select count(*) from console_user where coalesce(application_id, 0) = ?1";
        let alike = user.application.map_or(0, Id::key);
        let count: i64 = self
            .connection
            .query_row(sql, [alike], |row| row.get(0))
            .map_err(aborted)?;
        if count >= max.into() {
            return Err(StoreError::conflict(Rule::UsersMax));
        }
        let sql = "insert into console_user (id, name, role, application_id, password, password_since, disabled_at, created_at, updated_at)
                   values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
        let password = user.password.as_ref();
        let values = params![
            user.id.key(),
            user.name,
            role_number(user.role),
            user.application.map(Id::key),
            password.map(|password| password.hash.as_str()),
            password.map(|password| password.since.as_micros()),
            user.disabled_at.map(Timestamp::as_micros),
            user.created_at.as_micros(),
            user.updated_at.as_micros(),
        ];
        self.connection.execute(sql, values).map_err(taken)?;
        self.note(by, None, Some(user)).map_err(aborted)
    }

    fn update_user(
        &mut self,
        id: Id<id::User>,
        change: UserChange,
        by: &Actor,
    ) -> Result<User, StoreError> {
        let key = self.key(id, Entity::User)?;
        let before = self.user(key)?;
        let mut user = before.clone();
        change(&mut user);
        let sql =
            "update console_user set role = ?2, disabled_at = ?3, updated_at = ?4 where id = ?1";
        let values = params![
            key,
            role_number(user.role),
            user.disabled_at.map(Timestamp::as_micros),
            user.updated_at.as_micros(),
        ];
        self.connection.execute(sql, values).map_err(aborted)?;
        // In one transaction, so that no page is left to somebody who is disabled already.
        if before.is_active() && !user.is_active() {
            self.end_visits(key)?;
        }
        self.note(by, Some(&before), Some(&user)).map_err(aborted)?;
        Ok(user)
    }

    fn set_password(
        &mut self,
        id: Id<id::User>,
        before: Option<Timestamp>,
        password: Password,
        link: Option<Id<id::Session>>,
        by: &Actor,
    ) -> Result<User, StoreError> {
        let key = self.key(id, Entity::User)?;
        let known = self.user(key)?;
        // Of two who change the same password, the second would replace what it never knew.
        if known.password_since() != before || !known.is_active() {
            return Err(StoreError::conflict(Rule::PasswordChanged));
        }
        if let Some(link) = link {
            // One that was used, or replaced by a newer one, is not there any more.
            self.must_exist("session", link.key(), Entity::Session)?;
        }
        let sql = "update console_user set password = ?2, password_since = ?3, updated_at = ?3 where id = ?1";
        let values = params![key, password.hash, password.since.as_micros()];
        self.connection.execute(sql, values).map_err(aborted)?;
        self.end_visits(key)?;
        let user = User {
            updated_at: password.since,
            password: Some(password),
            ..known.clone()
        };
        self.note(by, Some(&known), Some(&user)).map_err(aborted)?;
        Ok(user)
    }

    fn end_visits(&self, user: i64) -> Result<(), StoreError> {
        let sql = "delete from session where user_id = ?1";
        let ended = self.connection.execute(sql, [user]);
        ended.map(drop).map_err(aborted)
    }

    fn delete_user(&mut self, id: Id<id::User>, by: &Actor) -> Result<(), StoreError> {
        let key = self.key(id, Entity::User)?;
        let before = self.user(key)?;
        self.end_visits(key)?;
        let sql = "delete from console_user where id = ?1";
        self.connection.execute(sql, [key]).map_err(aborted)?;
        self.note(by, Some(&before), None).map_err(aborted)
    }
}

#[async_trait]
impl Users for SqlStore {
    async fn create_user(&self, user: User, max: u32, by: Actor) -> Result<(), StoreError> {
        self.writer
            .make(by.account, move |tx| tx.create_user(&user, max, &by))
            .await
    }

    async fn user(&self, id: Id<id::User>) -> Result<User, StoreError> {
        self.points.read(move |reader| reader.user(id)).await
    }

    async fn user_by_name(&self, name: &str) -> Result<User, StoreError> {
        let name = name.to_owned();
        self.points
            .read(move |reader| reader.user_by_name(&name))
            .await
    }

    async fn list_users(
        &self,
        filter: UserFilter,
        page: PageRequest,
    ) -> Result<Page<User>, StoreError> {
        self.lists
            .read(move |reader| reader.list_users(filter, page))
            .await
    }

    async fn update_user(
        &self,
        id: Id<id::User>,
        change: UserChange,
        by: Actor,
    ) -> Result<User, StoreError> {
        self.writer
            .call_by(by.account, move |tx| tx.update_user(id, change, &by))
            .await
    }

    async fn set_password(
        &self,
        id: Id<id::User>,
        before: Option<Timestamp>,
        password: Password,
        link: Option<Id<id::Session>>,
        by: Actor,
    ) -> Result<User, StoreError> {
        self.writer
            .call_by(by.account, move |tx| {
                tx.set_password(id, before, password, link, &by)
            })
            .await
    }

    async fn delete_user(&self, id: Id<id::User>, by: Actor) -> Result<(), StoreError> {
        self.writer
            .call_by(by.account, move |tx| tx.delete_user(id, &by))
            .await
    }
}
