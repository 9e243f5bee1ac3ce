//! [`Tasks`] of the store: each method is a question for a reader, or a change for the writer.

use async_trait::async_trait;
use postrider_core::audit::Actor;
use postrider_core::{Id, id};
use postrider_store::{Erased, Owner, Page, PageRequest, StoreError, Task, TaskFilter, Tasks};

use crate::SqlStore;
use crate::writer::Tx;

#[async_trait]
impl Tasks for SqlStore {
    async fn put_task(&self, task: Task) -> Result<(), StoreError> {
        self.writer.call(move |tx| tx.put_task(&task)).await
    }

    async fn list_tasks(
        &self,
        filter: TaskFilter,
        page: PageRequest,
    ) -> Result<Page<Task>, StoreError> {
        self.lists
            .read(move |reader| reader.list_tasks(filter, page))
            .await
    }

    async fn task(&self, id: Id<id::Task>) -> Result<Task, StoreError> {
        self.points.read(move |reader| reader.task(id)).await
    }

    async fn unfinished_tasks(&self) -> Result<Vec<Id<id::Task>>, StoreError> {
        self.points.read(|reader| reader.unfinished_tasks()).await
    }

    async fn delete_owner(&self, owner: Owner, task: Task, by: Actor) -> Result<(), StoreError> {
        self.writer
            .call_by(by.account, move |tx| tx.delete_owner(owner, &task, &by))
            .await
    }

    async fn erase(&self, owner: Owner, limit: u32) -> Result<Erased, StoreError> {
        let erased = self.writer.call(move |tx| tx.erase(owner, limit)).await;
        if erased.is_err() {
            self.writer.run(Tx::erase_anew).await;
        }
        let erased = erased?;
        if erased.done {
            // Behind the commit: a log is not emptied inside a transaction.
            self.writer.run(|tx| tx.log_is_to_be_empty()).await;
        }
        Ok(erased)
    }
}
