//! The part of the seam that the pages need: who is there, and the links that let somebody in.

use async_trait::async_trait;
use postrider_core::audit::Actor;
use postrider_core::session::Session;
use postrider_core::{Id, Timestamp, id};

use crate::{Page, PageRequest, StoreError};

/// Whose sessions.
#[derive(Debug, Clone, Copy)]
pub enum SessionsOf {
    /// Of those who came with a key.
    Key(Id<id::ApiKey>),
    /// Of a user of the console.
    User(Id<id::User>),
    /// Of a tenant's people.
    Tenant(Id<id::Tenant>),
}

/// Sessions of people at the pages. A store reads no clock: whether one has expired is for who reads it to see.
#[async_trait]
pub trait Sessions: Send + Sync + 'static {
    /// Makes a session. Its holder has `max` at most: where it would be more, the oldest end. Of a user's links the newest
    /// alone opens something: the others end. `NotFound` of a key,
    /// a user, a tenant or an application that is not there.
    async fn create_session(&self, session: Session, max: u32, by: Actor)
    -> Result<(), StoreError>;

    /// The session that this opens.
    async fn session_by_hash(&self, hash: [u8; 32]) -> Result<Session, StoreError>;

    async fn session(&self, id: Id<id::Session>) -> Result<Session, StoreError>;

    /// Newest first.
    async fn list_sessions(
        &self,
        of: SessionsOf,
        page: PageRequest,
    ) -> Result<Page<Session>, StoreError>;

    /// Uses a link: what its code opened, `token` opens from now on. `NotFound` of one that was used: of two who
    /// have the code, one gets in.
    async fn open_session(
        &self,
        code: [u8; 32],
        token: [u8; 32],
        now: Timestamp,
        by: Actor,
    ) -> Result<Session, StoreError>;

    async fn delete_session(&self, id: Id<id::Session>, by: Actor) -> Result<(), StoreError>;
}
