//! Reading the console's users.

use postrider_core::user::{Password, Role, User};
use postrider_core::{Id, id};
use postrider_store::queries::query_digest;
use postrider_store::{Entity, Page, PageRequest, StoreError, UserFilter};

use super::Reader;
use super::list::Conditions;
use crate::convert::{time, time_opt};
use crate::sql::{Row, SqlResult, params, unreadable};

pub(crate) const USER: &str =
    "id, name, role, application_id, password, password_since, disabled_at, created_at, updated_at";

pub(crate) fn role_number(role: Role) -> i64 {
    match role {
        Role::Owner => 0,
        Role::Developer => 1,
        Role::Viewer => 2,
    }
}

pub(crate) fn user_row(row: &Row<'_>, salt: u64) -> SqlResult<User> {
    let role = match row.get(2)? {
        0 => Role::Owner,
        1 => Role::Developer,
        2 => Role::Viewer,
        other => return Err(unreadable(2, format!("role {other}"))),
    };
    let application: Option<i64> = row.get(3)?;
    let hash: Option<String> = row.get(4)?;
    let password = hash.zip(time_opt(row, 5)?);
    Ok(User {
        id: Id::from_key(row.get(0)?, salt),
        name: row.get(1)?,
        role,
        application: application.map(|key| Id::from_key(key, salt)),
        password: password.map(|(hash, since)| Password { hash, since }),
        disabled_at: time_opt(row, 6)?,
        created_at: time(row, 7)?,
        updated_at: time(row, 8)?,
    })
}

impl Reader {
    pub(crate) fn user(&self, id: Id<id::User>) -> Result<User, StoreError> {
        let sql = format!("select {USER} from console_user where id = ?1");
        self.one(&sql, id, Entity::User, |row| user_row(row, self.salt))
    }

    pub(crate) fn user_by_name(&self, name: &str) -> Result<User, StoreError> {
        let sql = format!("select {USER} from console_user where name = ?1");
        self.find(&sql, params![name], Entity::User, |row| {
            user_row(row, self.salt)
        })
    }

    pub(crate) fn list_users(
        &self,
        filter: UserFilter,
        page: PageRequest,
    ) -> Result<Page<User>, StoreError> {
        let mut conditions = Conditions::of("console_user");
        conditions.add_opt("application_id = ?", filter.application.map(Id::key));
        let query = query_digest(&("users", filter));
        let row = |row: &Row<'_>| user_row(row, self.salt);
        self.page(USER, conditions, query, page, row, |user| user.id.as_u128())
    }
}
