//! Sessions in the model.

use async_trait::async_trait;
use postrider_core::audit::Actor;
use postrider_core::session::{Holder, Session};
use postrider_core::{Id, Timestamp, id};

use super::manage::newest;
use super::{MemoryStore, State};
use crate::{Entity, Page, PageRequest, Sessions, SessionsOf, StoreError};

impl State {
    fn session_where(&self, found: impl Fn(&Session) -> bool) -> Result<Session, StoreError> {
        let session = self.sessions.values().find(|session| found(session));
        session
            .cloned()
            .ok_or(StoreError::not_found(Entity::Session))
    }

    fn must_be_there(&self, holder: &Holder) -> Result<(), StoreError> {
        match holder {
            Holder::Key(key) => self.key_where(|known| known.id == *key).map(drop),
            Holder::User(user) => self.user(*user).map(drop),
            Holder::Portal(portal) => {
                self.application(portal.application)?;
                self.tenant(portal.tenant).map(drop)
            }
        }
    }
}

fn is_of(session: &Session, of: SessionsOf) -> bool {
    match (&session.holder, of) {
        (Holder::Key(key), SessionsOf::Key(of)) => *key == of,
        (Holder::Portal(portal), SessionsOf::Tenant(of)) => portal.tenant == of,
        (Holder::User(user), SessionsOf::User(of)) => *user == of,
        (Holder::Key(_) | Holder::User(_) | Holder::Portal(_), _) => false,
    }
}

fn whose(holder: &Holder) -> SessionsOf {
    match holder {
        Holder::Key(key) => SessionsOf::Key(*key),
        Holder::User(user) => SessionsOf::User(*user),
        Holder::Portal(portal) => SessionsOf::Tenant(portal.tenant),
    }
}

#[async_trait]
impl Sessions for MemoryStore {
    async fn create_session(
        &self,
        session: Session,
        max: u32,
        by: Actor,
    ) -> Result<(), StoreError> {
        let mut state = self.state();
        state.must_be_there(&session.holder)?;
        if let (Holder::User(user), None) = (&session.holder, session.opened_at) {
            state.end_visits(*user, |visit| visit.opened_at.is_none());
        }
        let of = whose(&session.holder);
        let known = state.sessions.values().filter(|known| is_of(known, of));
        let known: Vec<u128> = known.map(|known| known.id.as_u128()).collect();
        // One place is for the new one.
        let room = max.saturating_sub(1) as usize;
        // In the order of ids, so the oldest come first.
        for oldest in &known[..known.len().saturating_sub(room)] {
            if let Some(ended) = state.sessions.remove(oldest) {
                state.note(&self.ids, &by, Some(&ended), None);
            }
        }
        state.note(&self.ids, &by, None, Some(&session));
        state.sessions.insert(session.id.as_u128(), session);
        Ok(())
    }

    async fn session_by_hash(&self, hash: [u8; 32]) -> Result<Session, StoreError> {
        self.state().session_where(|session| session.hash == hash)
    }

    async fn session(&self, id: Id<id::Session>) -> Result<Session, StoreError> {
        self.state().session_where(|session| session.id == id)
    }

    async fn list_sessions(
        &self,
        of: SessionsOf,
        page: PageRequest,
    ) -> Result<Page<Session>, StoreError> {
        let state = self.state();
        let rows = state.sessions.iter().filter(|(_, row)| is_of(row, of));
        newest(rows.map(|(id, row)| (*id, row)), &("sessions", of), page)
    }

    async fn open_session(
        &self,
        code: [u8; 32],
        token: [u8; 32],
        now: Timestamp,
        by: Actor,
    ) -> Result<Session, StoreError> {
        let mut state = self.state();
        let unused = |session: &Session| session.hash == code && session.opened_at.is_none();
        let before = state.session_where(unused)?;
        let opened = Session {
            hash: token,
            opened_at: Some(now),
            ..before.clone()
        };
        state.sessions.insert(opened.id.as_u128(), opened.clone());
        state.note(&self.ids, &by, Some(&before), Some(&opened));
        Ok(opened)
    }

    async fn delete_session(&self, id: Id<id::Session>, by: Actor) -> Result<(), StoreError> {
        let mut state = self.state();
        let ended = state.sessions.remove(&id.as_u128());
        let ended = ended.ok_or(StoreError::not_found(Entity::Session))?;
        state.note(&self.ids, &by, Some(&ended), None);
        Ok(())
    }
}
