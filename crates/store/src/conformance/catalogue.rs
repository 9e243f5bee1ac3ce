//! Applications with their tenants, event types and names; profiles.

use postrider_core::Id;
use postrider_core::tenant::{Application, ApplicationSettings, EventType, Metadata, Tenant};

use super::fixture::{World, at, by, world};
use crate::{Rule, Store, StoreError, unconditionally};

fn named(world: &World<'_>, name: &str) -> Application {
    let id = world.store.ids().next(at(0));
    Application {
        id,
        name: name.into(),
        profile: "standard".into(),
        settings: ApplicationSettings::default(),
        created_at: at(0),
        updated_at: at(0),
    }
}

pub async fn names_are_unique_where_they_must_be(store: &dyn Store) {
    let world = world(store).await;
    assert!(taken(
        store.create_application(named(&world, "shop"), by()).await
    ));
    let other = named(&world, "other");
    store.create_application(other.clone(), by()).await.unwrap();
    assert!(taken(
        store
            .update_application(
                other.id,
                unconditionally(|other: &mut Application| other.name = "shop".into()),
                by()
            )
            .await
            .map(drop)
    ));
    let change = |other: &mut Application| other.profile = "vignetim".into();
    let changed = store.update_application(other.id, unconditionally(change), by());
    let changed = changed.await.unwrap();
    assert_eq!(changed.profile, "vignetim");
    assert_eq!(store.application(other.id).await.unwrap(), changed);
    let mut tenant = world.a_tenant(store.ids().next(at(0)), Some("cust-1"));
    store
        .create_tenant(tenant.clone(), "standard".into(), by())
        .await
        .unwrap();
    assert_eq!(
        store
            .tenant_by_external_id(world.application, "cust-1")
            .await
            .unwrap(),
        tenant
    );
    assert!(
        store
            .tenant_by_external_id(other.id, "cust-1")
            .await
            .unwrap_err()
            .is_not_found()
    );
    let first = tenant.id;
    tenant.id = store.ids().next(at(0));
    assert!(taken(
        store
            .create_tenant(tenant.clone(), "standard".into(), by())
            .await
    ));
    tenant.external_id = Some("cust-2".into());
    store
        .create_tenant(tenant.clone(), "standard".into(), by())
        .await
        .unwrap();
    let rename = |to: &'static str| {
        let change = move |tenant: &mut Tenant| {
            tenant.external_id = Some(to.into());
            tenant.metadata = Metadata::from([("plan".into(), "gold".into())]);
        };
        store.update_tenant(first, unconditionally(change), by())
    };
    assert!(taken(rename("cust-2").await.map(drop)));
    let renamed = rename("cust-3").await.unwrap();
    assert_eq!(store.tenant(first).await.unwrap(), renamed);
    assert_eq!(renamed.external_id.as_deref(), Some("cust-3"));
    tenant.id = store.ids().next(at(0));
    tenant.application = other.id;
    store
        .create_tenant(tenant, "vignetim".into(), by())
        .await
        .unwrap();
    let event_type = |description: &str| EventType {
        application: world.application,
        name: "a.b".into(),
        description: Some(description.into()),
        schema: Some("{}".into()),
        example: None,
        vendor: Some("{\"archived\":true}".into()),
        created_at: at(1),
    };
    let put = |event_type, seen| store.put_event_type(event_type, seen, 1, by());
    put(event_type("one"), None).await.unwrap();
    let later = EventType {
        created_at: at(9),
        ..event_type("two")
    };
    for seen in [None, Some(event_type("another"))] {
        let overtaken = put(later.clone(), seen).await;
        let rule = Rule::ChangedMeanwhile;
        assert!(matches!(overtaken, Err(StoreError::Conflict { rule: found }) if found == rule));
    }
    let changed = put(later, Some(event_type("one"))).await.unwrap();
    assert_eq!(changed, event_type("two"), "it keeps when it was made");
    let one_more = EventType {
        name: "a.c".into(),
        ..event_type("three")
    };
    assert!(matches!(
        put(one_more, None).await,
        Err(StoreError::Conflict {
            rule: Rule::EventTypesMax
        })
    ));
    let known = store.event_type(world.application, "a.b").await.unwrap();
    assert_eq!(known, Some(event_type("two")));
    let names = store.event_type_names(world.application).await.unwrap();
    let bytes = event_type("two").text_bytes();
    assert_eq!(names, [("a.b".to_owned(), bytes)]);
    for (from, to, is_found) in [("a.b", "a.b", true), ("a", "b", true), ("a.c", "b", false)] {
        let names = from.to_owned()..=to.to_owned();
        let found = store.list_event_types(world.application, names).await;
        let wanted = is_found.then(|| event_type("two"));
        assert_eq!(found.unwrap(), Vec::from_iter(wanted), "{from} to {to}");
    }
    store
        .delete_event_type(world.application, "a.b", by())
        .await
        .unwrap();
    assert!(
        store
            .delete_event_type(world.application, "a.b", by())
            .await
            .unwrap_err()
            .is_not_found()
    );
}

pub(super) fn taken(result: Result<(), StoreError>) -> bool {
    let rule = Rule::NameTaken;
    result.is_err_and(
        |error| matches!(error, StoreError::Conflict { rule: broken } if broken == rule),
    )
}

/// A tenant's secrets have the form of its application's profile: neither becomes another between the looking and the writing.
pub async fn tenants_are_made_for_the_profile_that_their_application_has(store: &dyn Store) {
    let world = world(store).await;
    let tenant = world.a_tenant(store.ids().next(at(0)), None);
    let made = store.create_tenant(tenant, "vignetim".into(), by()).await;
    let rule = Rule::ChangedMeanwhile;
    assert!(
        matches!(made, Err(StoreError::Conflict { rule: is }) if is == rule),
        "{made:?}"
    );
    // The world has a tenant.
    let change = unconditionally(|shop: &mut Application| shop.profile = "vignetim".into());
    let changed = store.update_application(world.application, change, by());
    let (changed, rule) = (changed.await, Rule::ProfileInUse);
    assert!(
        matches!(changed, Err(StoreError::Conflict { rule: is }) if is == rule),
        "{changed:?}"
    );
    let shop = store.application(world.application).await.unwrap();
    assert_eq!(shop.profile, "standard");
}

pub async fn an_id_that_was_never_given_is_not_found(store: &dyn Store) {
    let world = world(store).await;
    let published = world.publish(at(1)).await;
    // The right key with another tail, and ids that a hostile caller makes up.
    for bits in [published.event.as_u128() ^ 1, 0, 1, u128::MAX, 1 << 127] {
        assert!(
            store
                .event(Id::from_u128(bits))
                .await
                .unwrap_err()
                .is_not_found()
        );
        assert!(
            store
                .delivery(Id::from_u128(bits))
                .await
                .unwrap_err()
                .is_not_found()
        );
        assert!(
            store
                .endpoint(Id::from_u128(bits))
                .await
                .unwrap_err()
                .is_not_found()
        );
        assert!(
            store
                .tenant(Id::from_u128(bits))
                .await
                .unwrap_err()
                .is_not_found()
        );
        assert!(
            store
                .application(Id::from_u128(bits))
                .await
                .unwrap_err()
                .is_not_found()
        );
        assert!(
            store
                .key(Id::from_u128(bits))
                .await
                .unwrap_err()
                .is_not_found()
        );
        assert!(
            store
                .task(Id::from_u128(bits))
                .await
                .unwrap_err()
                .is_not_found()
        );
    }
}

pub async fn the_same_profile_text_has_one_version(store: &dyn Store) {
    let first = store.put_profile("a", "x = 1").await.unwrap();
    let second = store.put_profile("a", "x = 2").await.unwrap();
    assert_ne!(first, second);
    assert_eq!(store.put_profile("a", "x = 1").await.unwrap(), first);
    let records = store.profiles().await.unwrap();
    assert_eq!(
        records
            .iter()
            .map(|record| (record.version, &*record.source))
            .collect::<Vec<_>>(),
        [(first, "x = 1"), (second, "x = 2")]
    );
}
