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
    // Those of an application are counted by themselves.
    let second = store.create_user(user(store, "eve"), 1, by()).await;
    assert!(is_conflict(&second, Rule::UsersMax));
    let other = User {
        application: Some(world.application),
        ..user(store, "eve")
    };
    let third = store.create_user(other, 1, by()).await;
    assert!(is_conflict(&third, Rule::UsersMax));
    let nowhere = User {
        application: Some(store.ids().next(at(0))),
        ..user(store, "eve")
    };
    let refused = store.create_user(nowhere, MAX, by()).await;
    assert!(refused.unwrap_err().is_not_found());
    let change = |user: &mut User| {
        user.role = Role::Owner;
        user.updated_at = at(3);
    };
    let changed = store
        .update_user(ada.id, Box::new(change), by())
        .await
        .unwrap();
    let expected = User {
        role: Role::Owner,
        updated_at: at(3),
        ..ada
    };
    assert_eq!(changed, expected);
    assert_eq!(store.user(ada.id).await.unwrap(), expected);
    let list = async |application| {
        let filter = UserFilter { application };
        let listed = store.list_users(filter, PageRequest::first(9)).await;
        let rows = listed.unwrap().rows.into_iter();
        rows.map(|user| user.name).collect::<Vec<_>>()
    };
    assert_eq!(list(None).await, ["bob", "ada"]);
    assert_eq!(list(Some(world.application)).await, ["bob"]);
}

pub async fn a_password_replaces_the_one_that_was_known(store: &dyn Store) {
    let ada = user(store, "ada");
    store.create_user(ada.clone(), MAX, by()).await.unwrap();
    let password = |since| Password {
        hash: format!("$argon2id${since}"),
        since: at(since),
    };
    let set = |before: Option<i64>, since, link| {
        let before = before.map(at);
        store.set_password(ada.id, before, password(since), link, by())
    };
    // Of two links the newer one alone opens something.
    let (first, second) = (session(store, &ada, 1), session(store, &ada, 2));
    for link in [&first, &second] {
        store.create_session(link.clone(), MAX, by()).await.unwrap();
    }
    let gone = store.session_by_hash([1; 32]).await;
    assert!(gone.unwrap_err().is_not_found());
    let used = set(None, 3, Some(first.id)).await;
    assert!(used.unwrap_err().is_not_found());
    assert_eq!(store.user(ada.id).await.unwrap(), ada, "nothing was done");

    let chosen = set(None, 3, Some(second.id)).await.unwrap();
    assert_eq!(chosen.password, Some(password(3)));
    assert_eq!(store.user(ada.id).await.unwrap(), chosen);
    let gone = store.session_by_hash([2; 32]).await;
    assert!(gone.unwrap_err().is_not_found(), "it is used");

    // Who knows an older one changes nothing, and a new one ends every visit.
    let mut visit = session(store, &ada, 4);
    visit.opened_at = Some(at(4));
    store.create_session(visit, MAX, by()).await.unwrap();
    for before in [None, Some(2)] {
        let late = set(before, 5, None).await.map(drop);
        assert!(is_conflict(&late, Rule::PasswordChanged));
    }
    assert!(store.session_by_hash([4; 32]).await.is_ok());
    set(Some(3), 5, None).await.unwrap();
    let gone = store.session_by_hash([4; 32]).await;
    assert!(gone.unwrap_err().is_not_found());

    // So does being disabled, and being enabled again brings nothing back.
    let mut visit = session(store, &ada, 6);
    visit.opened_at = Some(at(6));
    store.create_session(visit, MAX, by()).await.unwrap();
    for disabled_at in [Some(at(7)), None] {
        let change = move |user: &mut User| user.disabled_at = disabled_at;
        store
            .update_user(ada.id, Box::new(change), by())
            .await
            .unwrap();
        let gone = store.session_by_hash([6; 32]).await;
        assert!(gone.unwrap_err().is_not_found());
        if disabled_at.is_some() {
            let kept_out = set(Some(5), 8, None).await.map(drop);
            assert!(is_conflict(&kept_out, Rule::PasswordChanged));
        }
    }
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
