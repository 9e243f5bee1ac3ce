//! Tasks.

use super::fixture::{at, by, world};
use crate::{Store, Task, TaskKind, TaskState};

pub async fn a_task_comes_back_as_it_was_put(store: &dyn Store) {
    let world = world(store).await;
    let mut task = Task {
        id: store.ids().next(at(0)),
        kind: TaskKind::Replay,
        application: world.application,
        tenant: Some(world.tenant),
        request: "{}".into(),
        state: TaskState::Running,
        total: None,
        done: 0,
        skipped: 0,
        cursor: None,
        created_at: at(1),
        finished_at: None,
    };
    store.put_task(task.clone()).await.unwrap();
    assert_eq!(store.unfinished_tasks().await.unwrap(), [task.id]);
    task.state = TaskState::Failed("no room".into());
    task.done = 7;
    task.skipped = 1;
    task.cursor = Some("c".into());
    task.finished_at = Some(at(2));
    store.put_task(task.clone()).await.unwrap();
    assert_eq!(store.task(task.id).await.unwrap(), task);
    assert_eq!(store.unfinished_tasks().await.unwrap(), []);
    stopping_it_keeps_what_it_did(store, task).await;
}

/// Who stops a task knows less of what it has done than who runs it, and either may be first.
async fn stopping_it_keeps_what_it_did(store: &dyn Store, task: Task) {
    for is_stopper_first in [true, false] {
        let running = Task {
            id: store.ids().next(at(0)),
            state: TaskState::Running,
            finished_at: None,
            ..task.clone()
        };
        store.put_task(running.clone()).await.unwrap();
        let stopped = Task {
            state: TaskState::Cancelled,
            finished_at: Some(at(5)),
            ..running.clone()
        };
        // Whoever ran it may have come to its end besides.
        let finished = Task {
            state: TaskState::Finished,
            done: running.done + 6,
            total: Some(50),
            ..stopped.clone()
        };
        let ran = Task {
            state: stopped.state.clone(),
            ..finished.clone()
        };
        let mut ends = [stopped.clone(), ran.clone()];
        if !is_stopper_first {
            ends.reverse();
        }
        for end in ends {
            store.put_task(end).await.unwrap();
        }
        store.put_task(finished.clone()).await.unwrap();
        assert_eq!(store.task(ran.id).await.unwrap(), ran);
        let another = store.ids().next(at(0));
        for end in [&running, &stopped, &finished] {
            let end = Task {
                id: another,
                ..end.clone()
            };
            store.put_task(end).await.unwrap();
        }
        let expected = Task { id: another, ..ran };
        assert_eq!(store.task(another).await.unwrap(), expected);
    }
}

/// Tasks are listed by whose they are and what they do, the newest first, and over pages.
pub async fn tasks_are_listed_by_owner_and_kind(store: &dyn Store) {
    use crate::{PageRequest, TaskFilter};
    let world = world(store).await;
    let other = store.ids().next(at(0));
    store
        .create_tenant(world.a_tenant(other, None), "standard".into(), by())
        .await
        .unwrap();
    let mut ids = Vec::new();
    for (tenant, kind) in [
        (Some(world.tenant), TaskKind::Replay),
        (Some(other), TaskKind::Replay),
        (Some(other), TaskKind::Deletion),
        (None, TaskKind::Deletion),
    ] {
        let task = Task {
            id: store.ids().next(at(0)),
            kind,
            application: world.application,
            tenant,
            request: "{}".into(),
            state: TaskState::Running,
            total: None,
            done: 0,
            skipped: 0,
            cursor: None,
            created_at: at(1),
            finished_at: None,
        };
        ids.push(task.id);
        store.put_task(task).await.unwrap();
    }
    let elsewhere = store.ids().next(at(0));
    for (application, tenant, kind, wanted) in [
        (None, None, None, vec![3, 2, 1, 0]),
        (Some(world.application), None, None, vec![3, 2, 1, 0]),
        (Some(elsewhere), None, None, vec![]),
        (None, Some(other), None, vec![2, 1]),
        (None, Some(other), Some(TaskKind::Replay), vec![1]),
        (None, None, Some(TaskKind::Deletion), vec![3, 2]),
    ] {
        let filter = TaskFilter {
            application,
            tenant,
            kind,
        };
        let mut page = PageRequest::first(1);
        let mut found = Vec::new();
        loop {
            let listed = store.list_tasks(filter, page).await.unwrap();
            found.extend(listed.rows.iter().map(|task| task.id));
            page.cursor = listed.next;
            if page.cursor.is_none() {
                break;
            }
        }
        let wanted: Vec<_> = wanted.into_iter().map(|place: usize| ids[place]).collect();
        assert_eq!(found, wanted, "{filter:?}");
    }
}
