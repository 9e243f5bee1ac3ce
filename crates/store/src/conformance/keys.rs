//! API keys, the last of the root keys, and nonces.

use postrider_core::tenant::{ApiKey, Mode, PreviousText, Scope};
use postrider_core::{Id, id};

use super::fixture::{self, at, by, secs, world};
use crate::{KeyChange, KeyFilter, PageRequest, Rule, Store, StoreError};

pub async fn keys_are_found_by_hash_and_public_id(store: &dyn Store) {
    let world = world(store).await;
    let key = |hash: u8, scope, public_id: Option<&str>| ApiKey {
        mode: Mode::Test,
        public_id: public_id.map(Into::into),
        sealed_secret: public_id.map(|_| vec![9; 30]),
        allowed_ips: vec!["10.0.0.0/8".parse().unwrap()],
        ..fixture::key(store, hash, scope)
    };
    let root = key(1, Scope::Root, None);
    let application = key(2, Scope::Application(world.application), None);
    let tenant = key(
        3,
        Scope::Tenant(world.application, world.tenant),
        Some("pk_1"),
    );
    for key in [&root, &application, &tenant] {
        store.create_key(key.clone(), None, 99, by()).await.unwrap();
        assert_eq!(store.key_by_hash(key.secret_hash).await.unwrap(), *key);
        assert_eq!(store.key(key.id).await.unwrap(), *key);
    }
    assert_eq!(store.key_by_public_id("pk_1").await.unwrap(), tenant);
    assert!(
        store
            .key_by_public_id("pk_2")
            .await
            .unwrap_err()
            .is_not_found()
    );
    let of_application = store
        .list_keys(
            KeyFilter {
                application: Some(world.application),
                ..KeyFilter::default()
            },
            PageRequest::first(9),
        )
        .await
        .unwrap()
        .rows;
    assert_eq!(of_application, [tenant.clone(), application]);
    assert_eq!(
        store
            .list_keys(KeyFilter::default(), PageRequest::first(9))
            .await
            .unwrap()
            .rows
            .len(),
        3
    );
    store.delete_key(tenant.id, by()).await.unwrap();
    assert!(store.key_by_hash([3; 32]).await.unwrap_err().is_not_found());
    assert!(
        store
            .delete_key(tenant.id, by())
            .await
            .unwrap_err()
            .is_not_found()
    );
}

/// What opens one key opens no other, whoever brought it.
pub async fn a_keys_text_and_public_id_are_its_own(store: &dyn Store) {
    let world = world(store).await;
    let scope = Scope::Tenant(world.application, world.tenant);
    let key = ApiKey {
        public_id: Some("pk_1".into()),
        previous: Some(PreviousText {
            secret_hash: [2; 32],
            sealed_secret: None,
            since: at(1),
            until: at(9),
        }),
        ..fixture::key(store, 1, scope)
    };
    store.create_key(key.clone(), None, 99, by()).await.unwrap();
    let wanted = key.previous.clone();
    let change: KeyChange = Box::new(move |key, _| key.previous = wanted);
    store.update_key(key.id, change, by()).await.unwrap();
    let named = ApiKey {
        public_id: Some("pk_1".into()),
        ..fixture::key(store, 3, scope)
    };
    for other in [
        fixture::key(store, 1, scope),
        fixture::key(store, 2, scope),
        named,
    ] {
        let refused = store.create_key(other.clone(), None, 99, by()).await;
        let rule = Rule::NameTaken;
        assert!(
            matches!(refused, Err(StoreError::Conflict { rule: is }) if is == rule),
            "{other:?}: {refused:?}"
        );
    }
}

pub async fn keys_are_bounded_for_each_owner(store: &dyn Store) {
    let world = world(store).await;
    let tenant = Scope::Tenant(world.application, world.tenant);
    for (hash, scope) in [Scope::Root, Scope::Application(world.application), tenant]
        .into_iter()
        .enumerate()
    {
        let hash = u8::try_from(hash).unwrap() * 10;
        for more in 0..2 {
            let key = fixture::key(store, hash + more, scope);
            store.create_key(key, None, 2, by()).await.unwrap();
        }
        let key = fixture::key(store, hash + 2, scope);
        let refused = store.create_key(key.clone(), None, 2, by()).await;
        let rule = Rule::KeysMax;
        assert!(
            matches!(refused, Err(StoreError::Conflict { rule: is }) if is == rule),
            "{scope:?}: {refused:?}"
        );
        assert!(store.key(key.id).await.unwrap_err().is_not_found());
    }
}

pub async fn a_rotated_key_is_found_by_both_texts_as_long_as_it_has_them(store: &dyn Store) {
    let key = ApiKey {
        sealed_secret: Some(vec![1; 30]),
        ..fixture::key(store, 1, Scope::Root)
    };
    store.create_key(key.clone(), None, 99, by()).await.unwrap();
    let rotated = ApiKey {
        secret_hash: [2; 32],
        sealed_secret: Some(vec![2; 30]),
        rotated_at: Some(at(5)),
        previous: Some(PreviousText {
            secret_hash: [1; 32],
            sealed_secret: Some(vec![1; 30]),
            since: at(1),
            until: at(9),
        }),
        ..key.clone()
    };
    let becomes = |wanted: &ApiKey| -> KeyChange {
        let wanted = wanted.clone();
        Box::new(move |key, _| *key = wanted)
    };
    let changed = store.update_key(key.id, becomes(&rotated), by());
    assert_eq!(changed.await.unwrap().0, rotated);
    for hash in [[1; 32], [2; 32]] {
        assert_eq!(store.key_by_hash(hash).await.unwrap(), rotated);
    }
    let alone = ApiKey {
        previous: None,
        ..rotated
    };
    let changed = store.update_key(key.id, becomes(&alone), by());
    changed.await.unwrap();
    assert_eq!(store.key_by_hash([2; 32]).await.unwrap(), alone);
    let gone = store.key_by_hash([1; 32]).await;
    assert!(gone.unwrap_err().is_not_found());
}

pub async fn the_last_root_key_stays(store: &dyn Store) {
    let key = |hash: u8, mode| ApiKey {
        mode,
        ..fixture::key(store, hash, Scope::Root)
    };
    let (first, second, test) = (key(1, Mode::Live), key(2, Mode::Live), key(3, Mode::Test));
    assert!(!store.has_root_key().await.unwrap());
    store
        .create_key(test.clone(), None, 99, by())
        .await
        .unwrap();
    assert!(
        !store.has_root_key().await.unwrap(),
        "it manages tests only"
    );
    for key in [&first, &second] {
        store.create_key(key.clone(), None, 99, by()).await.unwrap();
    }
    let active = |active: bool| -> KeyChange {
        Box::new(move |key, _| key.disabled_at = (!active).then_some(at(9)))
    };
    store
        .update_key(first.id, active(false), by())
        .await
        .unwrap();
    let last = |refused: StoreError| {
        matches!(
            refused,
            StoreError::Conflict {
                rule: Rule::LastRootKey
            }
        )
    };
    let disabled = store.update_key(second.id, active(false), by()).await;
    assert!(last(disabled.unwrap_err()));
    assert!(last(store.delete_key(second.id, by()).await.unwrap_err()));
    assert_eq!(store.key(second.id).await.unwrap(), second);
    store.delete_key(test.id, by()).await.unwrap();
    store
        .update_key(first.id, active(true), by())
        .await
        .unwrap();
    store.delete_key(second.id, by()).await.unwrap();
    assert!(store.has_root_key().await.unwrap());
}

pub async fn a_nonce_is_used_once(store: &dyn Store) {
    let (a, b): (Id<id::ApiKey>, Id<id::ApiKey>) =
        (store.ids().next(at(0)), store.ids().next(at(0)));
    assert!(store.use_nonce(a, "n", secs(300)).await.unwrap());
    assert!(!store.use_nonce(a, "n", secs(300)).await.unwrap());
    assert!(
        store.use_nonce(b, "n", secs(300)).await.unwrap(),
        "nonces of another key are its own"
    );
    store.sweep(at(0), secs(299)).await.unwrap();
    assert!(!store.use_nonce(a, "n", secs(300)).await.unwrap());
    store.sweep(at(0), secs(300)).await.unwrap();
    assert!(store.use_nonce(a, "n", secs(600)).await.unwrap());
}
