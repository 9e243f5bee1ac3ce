//! Sessions: a link lets one in, once, and what it opened ends with who it was for.

use postrider_core::session::{Holder, Portal, PortalTerms, Session};
use postrider_core::tenant::{Mode, Scope};
use postrider_core::{Id, id};

use super::fixture::{self, World, at, by, world};
use crate::{Owner, PageRequest, SessionsOf, Store, Task, TaskKind, TaskState};

const MAX: u32 = 100;

fn portal(world: &World<'_>) -> Holder {
    Holder::Portal(Portal {
        application: world.application,
        tenant: world.tenant,
        mode: Mode::Test,
        terms: PortalTerms {
            name: Some("ada@example.com".into()),
            read_only: true,
            return_url: Some("https://shop.example/settings".into()),
            frame_origins: vec!["https://shop.example".into()],
            user: None,
            password_since: None,
        },
    })
}

fn session(store: &dyn Store, holder: Holder, hash: u8) -> Session {
    Session {
        id: store.ids().next(at(1)),
        holder,
        hash: [hash; 32],
        created_at: at(1),
        opened_at: None,
        expires_at: at(1_000),
    }
}

async fn key(store: &dyn Store) -> Id<id::ApiKey> {
    let key = fixture::key(store, 7, Scope::Root);
    store.create_key(key.clone(), None, 99, by()).await.unwrap();
    key.id
}

pub async fn a_link_lets_one_in_once(store: &dyn Store) {
    let world = world(store).await;
    let link = session(store, portal(&world), 1);
    store.create_session(link.clone(), MAX, by()).await.unwrap();
    assert_eq!(store.session_by_hash([1; 32]).await.unwrap(), link);
    let opened = store
        .open_session([1; 32], [2; 32], at(5), by())
        .await
        .unwrap();
    let expected = Session {
        hash: [2; 32],
        opened_at: Some(at(5)),
        ..link.clone()
    };
    assert_eq!(opened, expected);
    assert_eq!(store.session_by_hash([2; 32]).await.unwrap(), expected);
    assert_eq!(store.session(link.id).await.unwrap(), expected);
    // The code opens nothing any more, and the token is no code.
    assert!(
        store
            .session_by_hash([1; 32])
            .await
            .unwrap_err()
            .is_not_found()
    );
    for code in [1, 2] {
        let again = store.open_session([code; 32], [3; 32], at(6), by()).await;
        assert!(again.unwrap_err().is_not_found());
    }
    store.delete_session(link.id, by()).await.unwrap();
    assert!(
        store
            .session_by_hash([2; 32])
            .await
            .unwrap_err()
            .is_not_found()
    );
    let again = store.delete_session(link.id, by()).await;
    assert!(again.unwrap_err().is_not_found());
}

pub async fn of_too_many_sessions_the_oldest_ends(store: &dyn Store) {
    let world = world(store).await;
    let key = key(store).await;
    let mut made = Vec::new();
    for hash in 1..=3 {
        let own = session(store, Holder::Key(key), hash);
        store.create_session(own.clone(), 2, by()).await.unwrap();
        made.push(own);
        let other = session(store, portal(&world), 10 + hash);
        store.create_session(other, 9, by()).await.unwrap();
    }
    made.reverse();
    let listed = store
        .list_sessions(SessionsOf::Key(key), PageRequest::first(9))
        .await
        .unwrap();
    assert_eq!(listed.rows, made[..2]);
    let of_tenant = store.list_sessions(SessionsOf::Tenant(world.tenant), PageRequest::first(2));
    let of_tenant = of_tenant.await.unwrap();
    assert_eq!(of_tenant.rows.len(), 2);
    assert!(of_tenant.next.is_some(), "three were made");
}

pub async fn sessions_end_with_what_they_are_of(store: &dyn Store) {
    let world = world(store).await;
    let key = key(store).await;
    let missing = session(store, Holder::Key(store.ids().next(at(0))), 1);
    let refused = store.create_session(missing, MAX, by()).await;
    assert!(refused.unwrap_err().is_not_found());
    for (holder, hash) in [
        (Holder::Key(key), 2),
        (portal(&world), 3),
        (portal(&world), 4),
    ] {
        let mut made = session(store, holder, hash);
        if hash == 4 {
            made.expires_at = at(10);
        }
        store.create_session(made, MAX, by()).await.unwrap();
    }
    // Expired ones are swept, whoever they are of.
    store.sweep(at(0), at(10)).await.unwrap();
    assert!(
        store
            .session_by_hash([4; 32])
            .await
            .unwrap_err()
            .is_not_found()
    );
    assert!(store.session_by_hash([3; 32]).await.is_ok());
    let task = Task {
        id: store.ids().next(at(11)),
        kind: TaskKind::Deletion,
        application: world.application,
        tenant: Some(world.tenant),
        request: "{}".into(),
        state: TaskState::Running,
        total: None,
        done: 0,
        skipped: 0,
        cursor: None,
        created_at: at(11),
        finished_at: None,
    };
    let owner = Owner::Tenant(world.tenant);
    store.delete_owner(owner, task, by()).await.unwrap();
    let late = session(store, portal(&world), 5);
    let refused = store.create_session(late, MAX, by()).await;
    assert!(refused.unwrap_err().is_not_found());
    while !store.erase(owner, 100).await.unwrap().done {}
    assert!(
        store
            .session_by_hash([3; 32])
            .await
            .unwrap_err()
            .is_not_found()
    );
    assert!(store.session_by_hash([2; 32]).await.is_ok());
}
