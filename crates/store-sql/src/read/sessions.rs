//! Reading sessions.

use postrider_core::session::{Holder, Portal, Session};
use postrider_core::{Id, id};
use postrider_store::queries::query_digest;
use postrider_store::{Entity, Page, PageRequest, SessionsOf, StoreError};

use super::Reader;
use super::list::Conditions;
use crate::convert::{from_json, mode, time, time_opt};
use crate::sql::{Row, SqlResult, params, unreadable};

pub(crate) const SESSION: &str = "id, hash, key_id, application_id, tenant_id, mode, terms, created_at, opened_at, expires_at, user_id";

pub(crate) fn session_row(row: &Row<'_>, salt: u64) -> SqlResult<Session> {
    let key: Option<i64> = row.get(2)?;
    let owner: (Option<i64>, Option<i64>) = (row.get(3)?, row.get(4)?);
    let user: Option<i64> = row.get(10)?;
    let holder = match (key, user, owner) {
        (Some(key), _, _) => Holder::Key(Id::from_key(key, salt)),
        (None, Some(user), _) => Holder::User(Id::from_key(user, salt)),
        (None, None, (Some(application), Some(tenant))) => Holder::Portal(Portal {
            application: Id::from_key(application, salt),
            tenant: Id::from_key(tenant, salt),
            mode: mode(row, 5)?,
            terms: from_json(row, 6)?,
        }),
        (None, None, _) => return Err(unreadable(4, "a session is nobody's")),
    };
    Ok(Session {
        id: Id::from_key(row.get(0)?, salt),
        holder,
        hash: row.get(1)?,
        created_at: time(row, 7)?,
        opened_at: time_opt(row, 8)?,
        expires_at: time(row, 9)?,
    })
}

impl Reader {
    pub(crate) fn session_by_hash(&self, hash: [u8; 32]) -> Result<Session, StoreError> {
        let sql = format!("select {SESSION} from session where hash = ?1");
        self.find(&sql, params![hash], Entity::Session, |row| {
            session_row(row, self.salt)
        })
    }

    pub(crate) fn session(&self, id: Id<id::Session>) -> Result<Session, StoreError> {
        let sql = format!("select {SESSION} from session where id = ?1");
        self.one(&sql, id, Entity::Session, |row| session_row(row, self.salt))
    }

    pub(crate) fn list_sessions(
        &self,
        of: SessionsOf,
        page: PageRequest,
    ) -> Result<Page<Session>, StoreError> {
        let mut conditions = Conditions::of("session").that_read();
        match of {
            SessionsOf::Key(key) => conditions.add("key_id = ?", key.key()),
            SessionsOf::User(user) => conditions.add("user_id = ?", user.key()),
            SessionsOf::Tenant(tenant) => conditions.add("tenant_id = ?", tenant.key()),
        }
        let query = query_digest(&("sessions", of));
        let row = |row: &Row<'_>| session_row(row, self.salt);
        self.page(SESSION, conditions, query, page, row, |session| {
            session.id.as_u128()
        })
    }
}
