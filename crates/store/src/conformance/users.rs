//! The console's users: found by name, changed, and gone with their sessions.

use postrider_core::session::{Holder, Session};
use postrider_core::user::{Password, Role, User};

use super::fixture::{at, by, world};
use crate::{
    Owner, PageRequest, Rule, SessionsOf, Store, StoreError, Task, TaskKind, TaskState, UserFilter,
};

const MAX: u32 = 100;

fn user(store: &dyn Store, name: &str) -> User {
    User {
        id: store.ids().next(at(1)),
        name: name.into(),
        role: Role::Developer,
        application: None,
        password: None,
        disabled_at: None,
        created_at: at(1),
        updated_at: at(1),
    }
}

fn session(store: &dyn Store, user: &User, hash: u8) -> Session {
    Session {
        id: store.ids().next(at(1)),
        holder: Holder::User(user.id),
        hash: [hash; 32],
        created_at: at(1),
        opened_at: None,
        expires_at: at(1_000),
    }
}

fn is_conflict(refused: &Result<(), StoreError>, wanted: Rule) -> bool {
    matches!(refused, Err(StoreError::Conflict { rule }) if *rule == wanted)
}

pub async fn a_user_is_found_by_name_and_changed(store: &dyn Store) {
    let world = world(store).await;
    let ada = user(store, "ada");
    let bob = User {
        application: Some(world.application),
        role: Role::Viewer,
        ..user(store, "bob")
    };
    for made in [&ada, &bob] {
        store.create_user(made.clone(), MAX, by()).await.unwrap();
    }
    assert_eq!(store.user_by_name("ada").await.unwrap(), ada);
    assert_eq!(store.user(bob.id).await.unwrap(), bob);
    assert!(store.user_by_name("eve").await.unwrap_err().is_not_found());
    let again = store.create_user(user(store, "ada"), MAX, by()).await;
    assert!(is_conflict(&again, Rule::NameTaken));
    let third = store.create_user(user(store, "eve"), 2, by()).await;
    assert!(is_conflict(&third, Rule::UsersMax));
    let nowhere = User {
        application: Some(store.ids().next(at(0))),
        ..user(store, "eve")
    };
    let refused = store.create_user(nowhere, MAX, by()).await;
    assert!(refused.unwrap_err().is_not_found());
    let changed = store.update_user(
        ada.id,
        Box::new(|user| {
            user.role = Role::Owner;
            user.disabled_at = Some(at(3));
            user.updated_at = at(3);
            let hash = "$argon2id$".to_owned();
            user.password = Some(Password { hash, since: at(3) });
        }),
        by(),
    );
    let changed = changed.await.unwrap();
    assert_eq!(
        (changed.role, changed.disabled_at),
        (Role::Owner, Some(at(3)))
    );
    assert_eq!(store.user(ada.id).await.unwrap(), changed);
    let list = async |application| {
        let filter = UserFilter { application };
        let listed = store.list_users(filter, PageRequest::first(9)).await;
        let rows = listed.unwrap().rows.into_iter();
        rows.map(|user| user.name).collect::<Vec<_>>()
    };
    assert_eq!(list(None).await, ["bob", "ada"]);
    assert_eq!(list(Some(world.application)).await, ["bob"]);
}

pub async fn a_user_goes_with_what_it_opened(store: &dyn Store) {
    let world = world(store).await;
    let ada = user(store, "ada");
    let bob = User {
        application: Some(world.application),
        ..user(store, "bob")
    };
    let unknown = session(store, &ada, 9);
    let refused = store.create_session(unknown, MAX, by()).await;
    assert!(refused.unwrap_err().is_not_found());
    for (made, hash) in [(&ada, 1), (&bob, 2)] {
        store.create_user(made.clone(), MAX, by()).await.unwrap();
        let link = session(store, made, hash);
        store.create_session(link.clone(), MAX, by()).await.unwrap();
        assert_eq!(store.session_by_hash([hash; 32]).await.unwrap(), link);
    }
    let of = SessionsOf::User(ada.id);
    let listed = store.list_sessions(of, PageRequest::first(9)).await;
    assert_eq!(listed.unwrap().rows.len(), 1);
    store.delete_user(ada.id, by()).await.unwrap();
    assert!(store.user(ada.id).await.unwrap_err().is_not_found());
    let gone = store.session_by_hash([1; 32]).await;
    assert!(gone.unwrap_err().is_not_found());
    let again = store.delete_user(ada.id, by()).await;
    assert!(again.unwrap_err().is_not_found());

    let owner = Owner::Application(world.application);
    let task = Task {
        id: store.ids().next(at(11)),
        kind: TaskKind::Deletion,
        application: world.application,
        tenant: None,
        request: "{}".into(),
        state: TaskState::Running,
        total: None,
        done: 0,
        skipped: 0,
        cursor: None,
        created_at: at(11),
        finished_at: None,
    };
    store.delete_owner(owner, task, by()).await.unwrap();
    while !store.erase(owner, 100).await.unwrap().done {}
    assert!(store.user(bob.id).await.unwrap_err().is_not_found());
    let gone = store.session_by_hash([2; 32]).await;
    assert!(gone.unwrap_err().is_not_found());
}
