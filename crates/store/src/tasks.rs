//! Long work that outlives a process, and the erasing of what was deleted.

use async_trait::async_trait;
use postrider_core::audit::Actor;
use postrider_core::{Id, id};

use crate::{Erased, Owner, Page, PageRequest, StoreError, Task, TaskFilter};

/// Work that goes on after a restart.
#[async_trait]
pub trait Tasks: Send + Sync + 'static {
    /// Writes a task that is new or runs; one that has ended stays as it is.
    async fn put_task(&self, task: Task) -> Result<(), StoreError>;

    /// Newest first.
    async fn list_tasks(
        &self,
        filter: TaskFilter,
        page: PageRequest,
    ) -> Result<Page<Task>, StoreError>;

    async fn task(&self, id: Id<id::Task>) -> Result<Task, StoreError>;

    /// Of all that are running, the oldest first: one that does not read keeps nobody from the others.
    async fn unfinished_tasks(&self) -> Result<Vec<Id<id::Task>>, StoreError>;

    /// Deletes a tenant or an application: from now on it is not found, its keys open nothing, and nothing can be
    /// published for it. What it had is left for [`Tasks::erase`]; `task` remembers that, in the same transaction.
    async fn delete_owner(&self, owner: Owner, task: Task, by: Actor) -> Result<(), StoreError>;

    /// Erases up to about `limit` rows of each kind of a deleted owner's: first it ends its endpoints, then its
    /// records go. To be called until nothing is left. The audit log keeps who deleted the owner.
    async fn erase(&self, owner: Owner, limit: u32) -> Result<Erased, StoreError>;
}
