//! Deleting a tenant or an application with all that is its.

use postrider_core::delivery::DeliveryState;
use postrider_core::tenant::{ApiKey, Scope};
use postrider_core::{Id, id};

use super::fixture::{self, World, at, by, world};
use crate::{
    AuditFilter, DeliveryFilter, EventFilter, Owner, PageRequest, Store, StoreError, Target, Task,
    TaskKind, TaskState,
};

fn a_deletion(world: &World<'_>, tenant: Option<Id<id::Tenant>>) -> Task {
    Task {
        id: world.store.ids().next(at(0)),
        kind: TaskKind::Deletion,
        application: world.application,
        tenant,
        request: String::new(),
        state: TaskState::Running,
        total: None,
        done: 0,
        skipped: 0,
        cursor: None,
        created_at: at(1),
        finished_at: None,
    }
}

async fn a_key(world: &World<'_>, hash: u8, scope: Scope) -> Result<ApiKey, StoreError> {
    let key = ApiKey {
        public_id: Some(format!("pk_{hash}")),
        ..fixture::key(world.store, hash, scope)
    };
    world.store.create_key(key.clone(), None, 99, by()).await?;
    Ok(key)
}

/// Erases in pieces, to the end; how many endpoints were told of.
async fn erase(store: &dyn Store, owner: Owner) -> usize {
    let mut closed = 0;
    for _ in 0..1_000 {
        let erased = store.erase(owner, 2).await.unwrap();
        closed += erased.closed.len();
        if erased.done {
            return closed;
        }
    }
    panic!("a deletion does not end");
}

async fn counts(store: &dyn Store, tenant: Id<id::Tenant>) -> (usize, usize) {
    let page = PageRequest::first(100);
    let deliveries = DeliveryFilter {
        tenant: Some(tenant),
        ..DeliveryFilter::default()
    };
    let events = EventFilter {
        tenant: Some(tenant),
        ..EventFilter::default()
    };
    (
        store
            .list_deliveries(deliveries, page)
            .await
            .unwrap()
            .rows
            .len(),
        store.list_events(events, page).await.unwrap().rows.len(),
    )
}

pub async fn what_a_deleted_tenant_had_is_gone_and_nothing_else(store: &dyn Store) {
    let world = world(store).await;
    let stays = World {
        tenant: store.ids().next(at(0)),
        ..world
    };
    let other = stays.a_tenant(stays.tenant, Some("other"));
    store
        .create_tenant(other, "standard".into(), by())
        .await
        .unwrap();
    let mut endpoint = store.ids().next(at(0));
    for world in [&stays, &world] {
        let made = world.an_endpoint();
        endpoint = made.id;
        store.create_endpoint(made, None, by()).await.unwrap();
        for number in 0..5 {
            let new = world.publishing(at(number), "order.created");
            world.publish_new(at(number), new).await.unwrap();
        }
    }
    let scope = Scope::Tenant(world.application, world.tenant);
    let key = a_key(&world, 7, scope).await.unwrap();
    let task = a_deletion(&world, Some(world.tenant));
    let owner = Owner::Tenant(world.tenant);
    store.delete_owner(owner, task.clone(), by()).await.unwrap();

    // At once: nobody finds it, nothing new can be its.
    assert!(store.tenant(world.tenant).await.unwrap_err().is_not_found());
    let by_hash = store.key_by_hash(key.secret_hash).await;
    assert!(by_hash.unwrap_err().is_not_found());
    assert!(store.key(key.id).await.unwrap_err().is_not_found());
    let by_public_id = store.key_by_public_id("pk_7").await;
    assert!(by_public_id.unwrap_err().is_not_found());
    let mut new = world.publishing(at(9), "order.created");
    for target in [Target::Matching, Target::Nobody] {
        new.target = target;
        let refused = world.publish_new(at(9), new.clone()).await;
        assert!(refused.unwrap_err().is_not_found(), "{target:?}");
    }
    assert!(a_key(&world, 8, scope).await.unwrap_err().is_not_found());
    let new = store.create_endpoint(world.an_endpoint(), None, by()).await;
    assert!(new.unwrap_err().is_not_found());
    let again = a_deletion(&world, Some(world.tenant));
    let again = store.delete_owner(owner, again, by()).await;
    assert!(again.unwrap_err().is_not_found());
    assert_eq!(store.unfinished_tasks().await.unwrap(), [task.id]);

    assert_eq!(erase(store, owner).await, 1);
    assert_eq!(counts(store, world.tenant).await, (0, 0));
    // Its lane may still ask.
    let pending = store.finish_pending(endpoint, DeliveryState::Cancelled, at(9), 10);
    assert_eq!(pending.await.unwrap(), 0);
    assert_eq!(counts(store, stays.tenant).await, (5, 5));
    assert!(store.key(key.id).await.unwrap_err().is_not_found());
    let filter = AuditFilter {
        tenant: Some(world.tenant),
        ..AuditFilter::default()
    };
    let left = store
        .list_audit(filter, PageRequest::first(9))
        .await
        .unwrap();
    let left: Vec<_> = left
        .rows
        .iter()
        .map(|row| (&*row.action, &row.before))
        .collect();
    assert_eq!(left, [("tenant.deleted", &None)], "who did it is kept");
}

pub async fn an_application_goes_with_its_tenants(store: &dyn Store) {
    let world = world(store).await;
    store
        .create_endpoint(world.an_endpoint(), None, by())
        .await
        .unwrap();
    let published = world
        .publish_new(at(1), world.publishing(at(1), "a.b"))
        .await;
    let event = published.unwrap().event;
    let key = a_key(&world, 7, Scope::Application(world.application)).await;
    let key = key.unwrap();
    let owner = Owner::Application(world.application);
    let task = a_deletion(&world, None);
    store.delete_owner(owner, task, by()).await.unwrap();
    let found = store.application(world.application).await;
    assert!(found.unwrap_err().is_not_found());
    let found = store.key_by_hash(key.secret_hash).await;
    assert!(found.unwrap_err().is_not_found());
    let refused = world
        .publish_new(at(9), world.publishing(at(9), "a.b"))
        .await;
    assert!(refused.unwrap_err().is_not_found());
    erase(store, owner).await;
    assert!(store.tenant(world.tenant).await.unwrap_err().is_not_found());
    assert!(store.event(event).await.unwrap_err().is_not_found());
    assert!(store.key(key.id).await.unwrap_err().is_not_found());
}
