//! [`Tasks`] of the model.

use async_trait::async_trait;
use postrider_core::audit::Actor;
use postrider_core::{Id, id};

use crate::memory::MemoryStore;
use crate::{Page, PageRequest, StoreError, Task, TaskFilter, Tasks};

#[async_trait]
impl Tasks for MemoryStore {
    async fn put_task(&self, task: Task) -> Result<(), StoreError> {
        let mut state = self.state();
        let known = state.tasks.get(&task.id.as_u128());
        // A replay of a deleted tenant's is not remembered.
        let owned = |tenant: Id<id::Tenant>| state.tenants.contains_key(&tenant.as_u128());
        let lost = task.kind == crate::TaskKind::Replay && !task.tenant.is_some_and(owned);
        // One that has ended stays as it ended, whatever its last step still writes; but what that did counts.
        let goes_on = |known: &Task| {
            known.state == crate::TaskState::Running
                || (known.done <= task.done && known.skipped <= task.skipped)
        };
        if !lost && known.is_none_or(goes_on) {
            let ended = known.filter(|known| known.state != crate::TaskState::Running);
            let task = Task {
                state: ended.map_or(task.state, |ended| ended.state.clone()),
                total: task.total.or(known.and_then(|known| known.total)),
                cursor: task.cursor.or_else(|| known?.cursor.clone()),
                finished_at: known
                    .and_then(|known| known.finished_at)
                    .or(task.finished_at),
                ..task
            };
            state.tasks.insert(task.id.as_u128(), task);
        }
        Ok(())
    }

    async fn list_tasks(
        &self,
        filter: TaskFilter,
        page: PageRequest,
    ) -> Result<Page<Task>, StoreError> {
        self.state().list_tasks(filter, page)
    }

    async fn task(&self, id: Id<id::Task>) -> Result<Task, StoreError> {
        self.state().task(id)
    }

    async fn unfinished_tasks(&self) -> Result<Vec<Id<id::Task>>, StoreError> {
        let running = |task: &&Task| task.state == crate::TaskState::Running;
        Ok(self
            .state()
            .tasks
            .values()
            .filter(running)
            .map(|task| task.id)
            .collect())
    }

    async fn delete_owner(
        &self,
        owner: crate::Owner,
        task: Task,
        by: Actor,
    ) -> Result<(), StoreError> {
        self.state().delete_owner(&self.ids, owner, task, &by)
    }

    async fn erase(&self, owner: crate::Owner, _limit: u32) -> Result<crate::Erased, StoreError> {
        Ok(self.state().erase(owner))
    }
}
