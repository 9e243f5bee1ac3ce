//! The part of the seam that the console's users need.

use async_trait::async_trait;
use postrider_core::audit::Actor;
use postrider_core::user::{Password, User};
use postrider_core::{Id, Timestamp, id};

use crate::{Page, PageRequest, StoreError};

/// A change of a user, applied inside the transaction that reads and writes it.
pub type UserChange = Box<dyn FnOnce(&mut User) + Send>;

/// Whose users.
#[derive(Debug, Clone, Copy, Default, Hash)]
pub struct UserFilter {
    /// Those that are confined to an application; none is all there are.
    pub application: Option<Id<id::Application>>,
}

/// The people of the console.
#[async_trait]
pub trait Users: Send + Sync + 'static {
    /// Makes a user. `Conflict(NameTaken)` when another has the name, `Conflict(UsersMax)` when there are `max` with
    /// the same reach already; `NotFound` of an application that is not there.
    async fn create_user(&self, user: User, max: u32, by: Actor) -> Result<(), StoreError>;

    async fn user(&self, id: Id<id::User>) -> Result<User, StoreError>;

    async fn user_by_name(&self, name: &str) -> Result<User, StoreError>;

    /// Newest first.
    async fn list_users(
        &self,
        filter: UserFilter,
        page: PageRequest,
    ) -> Result<Page<User>, StoreError>;

    /// Applies `change` to role and standing, and returns the user as it is then. The visits and links of one that is
    /// disabled by it end.
    async fn update_user(
        &self,
        id: Id<id::User>,
        change: UserChange,
        by: Actor,
    ) -> Result<User, StoreError>;

    /// Gives a user the password that replaces the one chosen at `before`; all visits and links of theirs end, and `link`,
    /// if there is one, must be among them. `Conflict(PasswordChanged)` when it is not that one any more, or the user is
    /// disabled; `NotFound` of a link that was used.
    async fn set_password(
        &self,
        id: Id<id::User>,
        before: Option<Timestamp>,
        password: Password,
        link: Option<Id<id::Session>>,
        by: Actor,
    ) -> Result<User, StoreError>;

    /// Deletes a user with its sessions and links.
    async fn delete_user(&self, id: Id<id::User>, by: Actor) -> Result<(), StoreError>;
}
