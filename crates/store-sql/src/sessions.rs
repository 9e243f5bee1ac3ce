//! Sessions of people at the pages.

use async_trait::async_trait;
use postrider_core::audit::Actor;
use postrider_core::session::{Holder, Session};
use postrider_core::{Id, Timestamp, id};
use postrider_store::{Entity, Page, PageRequest, Sessions, SessionsOf, StoreError};

use crate::SqlStore;
use crate::convert::{aborted, mode_number, to_json};
use crate::read::{SESSION, session_row};
use crate::sql::{Optional, Row, Value, params};
use crate::writer::Tx;

impl Tx {
    fn session_where(&self, condition: &str, value: &dyn Value) -> Result<Session, StoreError> {
        let sql = format!("select {SESSION} from session where {condition}");
        let row = |row: &Row<'_>| session_row(row, self.salt);
        let found = self.connection.query_row(&sql, [value], row).optional();
        found
            .map_err(aborted)?
            .ok_or(StoreError::not_found(Entity::Session))
    }

    fn create_session(
        &mut self,
        session: &Session,
        max: u32,
        by: &Actor,
    ) -> Result<(), StoreError> {
        let (column, owner, portal) = match &session.holder {
            Holder::Key(key) => {
                self.must_exist("api_key", key.key(), Entity::ApiKey)?;
                ("key_id", key.key(), None)
            }
            Holder::User(user) => {
                self.must_exist("console_user", user.key(), Entity::User)?;
                if session.opened_at.is_none() {
                    // The newest link alone opens something.
                    let sql = "delete from session where user_id = ?1 and opened_at is null";
                    let ended = self.connection.execute(sql, [user.key()]);
                    ended.map_err(aborted)?;
                }
                ("user_id", user.key(), None)
            }
            Holder::Portal(portal) => {
                let application = portal.application.key();
                self.must_exist("application", application, Entity::Application)?;
                self.must_exist("tenant", portal.tenant.key(), Entity::Tenant)?;
                ("tenant_id", portal.tenant.key(), Some(portal))
            }
        };
        // The limit stands for none: SQLite has no offset without one.
        let sql = format!(
            "select id from session where {column} = ?1 order by id desc limit {} offset ?2",
            u32::MAX
        );
        let too_many: Vec<i64> = {
            let mut statement = self.connection.prepare_cached(&sql).map_err(aborted)?;
            statement
                // One place is for the new one.
                .query_all(params![owner, max.saturating_sub(1)], |row| row.get(0))
                .map_err(aborted)?
        };
        for oldest in too_many {
            self.delete_session(self.id(oldest), by)?;
        }
        let sql = "insert into session (id, hash, key_id, application_id, tenant_id, mode, terms, created_at, opened_at, expires_at, user_id)
                   values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)";
        let values = params![
            session.id.key(),
            session.hash,
            (column == "key_id").then_some(owner),
            portal.map(|portal| portal.application.key()),
            portal.map(|portal| portal.tenant.key()),
            portal.map(|portal| mode_number(portal.mode)),
            portal.map(|portal| to_json(&portal.terms)),
            session.created_at.as_micros(),
            session.opened_at.map(Timestamp::as_micros),
            session.expires_at.as_micros(),
            (column == "user_id").then_some(owner),
        ];
        self.connection.execute(sql, values).map_err(aborted)?;
        self.note(by, None, Some(session)).map_err(aborted)
    }

    fn open_session(
        &mut self,
        code: &[u8; 32],
        token: [u8; 32],
        now: Timestamp,
        by: &Actor,
    ) -> Result<Session, StoreError> {
        let before = self.session_where("hash = ?1 and opened_at is null", code)?;
        let opened = Session {
            hash: token,
            opened_at: Some(now),
            ..before.clone()
        };
        // The token takes the place of the code, which so opens nothing a second time.
        let sql = "update session set hash = ?2, opened_at = ?3 where id = ?1";
        let values = params![before.id.key(), token, now.as_micros()];
        self.connection.execute(sql, values).map_err(aborted)?;
        self.note(by, Some(&before), Some(&opened))
            .map_err(aborted)?;
        Ok(opened)
    }

    fn delete_session(&mut self, id: Id<id::Session>, by: &Actor) -> Result<(), StoreError> {
        let key = self.key(id, Entity::Session)?;
        let before = self.session_where("id = ?1", &key)?;
        let sql = "delete from session where id = ?1";
        self.connection.execute(sql, [key]).map_err(aborted)?;
        self.note(by, Some(&before), None).map_err(aborted)
    }
}

#[async_trait]
impl Sessions for SqlStore {
    async fn create_session(
        &self,
        session: Session,
        max: u32,
        by: Actor,
    ) -> Result<(), StoreError> {
        self.writer
            .change(by.account, move |tx| tx.create_session(&session, max, &by))
            .await
    }

    async fn session_by_hash(&self, hash: [u8; 32]) -> Result<Session, StoreError> {
        self.points
            .read(move |reader| reader.session_by_hash(hash))
            .await
    }

    async fn session(&self, id: Id<id::Session>) -> Result<Session, StoreError> {
        self.points.read(move |reader| reader.session(id)).await
    }

    async fn list_sessions(
        &self,
        of: SessionsOf,
        page: PageRequest,
    ) -> Result<Page<Session>, StoreError> {
        self.lists
            .read(move |reader| reader.list_sessions(of, page))
            .await
    }

    async fn open_session(
        &self,
        code: [u8; 32],
        token: [u8; 32],
        now: Timestamp,
        by: Actor,
    ) -> Result<Session, StoreError> {
        self.writer
            .call_by(by.account, move |tx| {
                tx.open_session(&code, token, now, &by)
            })
            .await
    }

    async fn delete_session(&self, id: Id<id::Session>, by: Actor) -> Result<(), StoreError> {
        self.writer
            .call_by(by.account, move |tx| tx.delete_session(id, &by))
            .await
    }
}
