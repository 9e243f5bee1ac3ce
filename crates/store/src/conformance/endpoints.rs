//! Endpoints, callbacks among them.

use postrider_core::endpoint::{Endpoint, EndpointKind, EndpointSecret, Ordering};
use postrider_core::filter::Subscription;
use postrider_core::health::{DisableReason, Disabled, Health};
use postrider_core::tenant::{Metadata, Mode};
use postrider_core::{Id, id};

use super::catalogue::taken;
use super::fixture::{at, by, filter, secs, world};
use super::log::a_distribution;
use crate::{
    AuditFilter, EndpointListing, LaneEndpoint, NewEvent, PageRequest, Rule, Store, StoreError,
    Target, always,
};

pub async fn an_endpoint_comes_back_as_it_was_written(store: &dyn Store) {
    let world = world(store).await;
    let endpoint = Endpoint {
        description: Some("production".into()),
        subscription: Subscription::new(vec!["*".into(), "order.failed".into()]).unwrap(),
        filter: Some(filter(
            r#"{ "data.amount": { "$gte": 1.50 }, "meta.team": "a" }"#,
        )),
        headers: vec![("x-team".to_owned(), "a: b, c".to_owned()).into()],
        secrets: vec![
            EndpointSecret {
                sealed: vec![1; 9],
                created_at: at(5),
                expires_at: None,
            },
            EndpointSecret {
                sealed: vec![2; 9],
                created_at: at(1),
                expires_at: Some(secs(86_400)),
            },
        ],
        rate_limit: Some(50),
        ordering: Ordering::Key,
        mode: Mode::Test,
        health: Health {
            disabled: Some(Disabled {
                reason: DisableReason::Gone,
                at: at(7),
            }),
            consecutive_failures: 3,
            failing_since: Some(at(6)),
        },
        ..world.an_endpoint()
    };
    store
        .create_endpoint(endpoint.clone(), None, by())
        .await
        .unwrap();
    assert_eq!(store.endpoint(endpoint.id).await.unwrap(), endpoint);
    assert_eq!(
        store
            .list_endpoints(
                world.listing(EndpointListing::Registered),
                PageRequest::first(9)
            )
            .await
            .unwrap()
            .rows,
        std::slice::from_ref(&endpoint)
    );
    let changed = store
        .update_endpoint(
            endpoint.id,
            always(|endpoint| {
                endpoint.url = "https://example.com/other".into();
                endpoint.secrets.truncate(1);
                endpoint.updated_at = at(9);
            }),
            by(),
        )
        .await
        .unwrap();
    assert_eq!(
        (changed.url.as_str(), changed.secrets.len()),
        ("https://example.com/other", 1)
    );
    assert_eq!(store.endpoint(endpoint.id).await.unwrap(), changed);
}

pub async fn the_limit_counts_registered_endpoints_of_a_mode(store: &dyn Store) {
    let world = world(store).await;
    let max = Some(2);
    let first = world.an_endpoint();
    let first_id = first.id;
    store.create_endpoint(first, max, by()).await.unwrap();
    store
        .create_endpoint(
            Endpoint {
                mode: Mode::Test,
                ..world.an_endpoint()
            },
            max,
            by(),
        )
        .await
        .unwrap();
    store
        .create_endpoint(
            Endpoint {
                kind: EndpointKind::Callback,
                ..world.an_endpoint()
            },
            max,
            by(),
        )
        .await
        .unwrap();
    store
        .create_endpoint(world.an_endpoint(), max, by())
        .await
        .unwrap();
    let refused = store
        .create_endpoint(world.an_endpoint(), max, by())
        .await
        .unwrap_err();
    assert!(matches!(
        refused,
        StoreError::Conflict {
            rule: Rule::EndpointsMax
        }
    ));
    store.delete_endpoint(first_id, by()).await.unwrap();
    store
        .create_endpoint(world.an_endpoint(), max, by())
        .await
        .unwrap();
    // Distributions are counted by themselves.
    let mut made = Vec::new();
    for _ in 0..3 {
        let distribution = a_distribution(&world, &["a"]);
        made.push(store.create_endpoint(distribution, max, by()).await.is_ok());
    }
    assert_eq!(made, [true, true, false]);
    // So are those of keys.
    let mut made = Vec::new();
    for _ in 0..3 {
        let of_key = Endpoint {
            kind: EndpointKind::Key(store.ids().next(at(0))),
            ..world.an_endpoint()
        };
        made.push(store.create_endpoint(of_key, max, by()).await.is_ok());
    }
    assert_eq!(made, [true, true, false]);
}

async fn of_lane(store: &dyn Store, endpoint: Id<id::Endpoint>) -> LaneEndpoint {
    let mut found = store.lane_endpoints(&[endpoint]).await;
    found.remove(0).unwrap()
}

pub async fn endpoints_are_read_for_their_lanes_in_the_order_asked(store: &dyn Store) {
    let world = world(store).await;
    let bare = world.an_endpoint();
    let secret = |byte| EndpointSecret {
        sealed: vec![byte; 9],
        created_at: at(i64::from(byte)),
        expires_at: None,
    };
    // Of another tenant, and its secrets in an order that is not that of their bytes.
    let neighbour = world.a_tenant(store.ids().next(at(0)), Some("beside"));
    store
        .create_tenant(neighbour.clone(), "standard".into(), by())
        .await
        .unwrap();
    let signing = Endpoint {
        tenant: neighbour.id,
        secrets: vec![secret(2), secret(1)],
        ..world.an_endpoint()
    };
    for endpoint in [&bare, &signing] {
        let made = store.create_endpoint(endpoint.clone(), None, by()).await;
        made.unwrap();
    }
    let nobodys = store.ids().next(at(1));
    let asked = [signing.id, nobodys, bare.id, signing.id];
    let found = store.lane_endpoints(&asked).await;
    let [Ok(first), Err(none), Ok(third), Ok(again)] = found.as_slice() else {
        panic!("three are there: {found:?}");
    };
    assert!(none.is_not_found());
    assert_eq!((&first.endpoint, &third.endpoint), (&signing, &bare));
    assert_eq!(again.endpoint, signing);
    for (found, tenant) in [
        (first, &neighbour),
        (third, &world.a_tenant(world.tenant, None)),
        (again, &neighbour),
    ] {
        assert_eq!(&**found.tenant.as_ref().unwrap(), tenant);
        let application = found.application.as_ref().unwrap();
        assert_eq!(application.id, world.application);
    }
    assert!(store.lane_endpoints(&[]).await.is_empty());
}

pub async fn a_deleted_endpoint_is_not_found_but_its_lane_is(store: &dyn Store) {
    let world = world(store).await;
    let endpoint = world.endpoint().await;
    assert!(!of_lane(store, endpoint).await.is_deleted);
    world.publish(at(1)).await;
    store.delete_endpoint(endpoint, by()).await.unwrap();
    assert!(store.endpoint(endpoint).await.unwrap_err().is_not_found());
    assert!(
        store
            .delete_endpoint(endpoint, by())
            .await
            .unwrap_err()
            .is_not_found()
    );
    assert!(
        store
            .update_endpoint(endpoint, always(|_| ()), by())
            .await
            .unwrap_err()
            .is_not_found()
    );
    assert!(of_lane(store, endpoint).await.is_deleted);
    assert_eq!(
        store
            .list_endpoints(
                world.listing(EndpointListing::Registered),
                PageRequest::first(9)
            )
            .await
            .unwrap()
            .rows,
        []
    );
    assert_eq!(world.publish(at(2)).await.count, 0);
}

pub async fn an_external_id_names_one_endpoint_of_a_tenant_and_mode(store: &dyn Store) {
    let world = world(store).await;
    let called = |external_id: &str, mode: Mode| Endpoint {
        external_id: Some(external_id.into()),
        metadata: Metadata::from([("team".into(), "billing".into())]),
        mode,
        ..world.an_endpoint()
    };
    let create = |endpoint: &Endpoint| store.create_endpoint(endpoint.clone(), None, by());
    let (first, second) = (called("a", Mode::Live), called("b", Mode::Live));
    create(&first).await.unwrap();
    create(&second).await.unwrap();
    assert!(taken(create(&called("a", Mode::Live)).await));
    // The other mode's are others.
    let test = called("a", Mode::Test);
    create(&test).await.unwrap();
    let find = |mode, text| store.endpoint_by_external_id(world.tenant, mode, text);
    assert_eq!(find(Mode::Live, "a").await.unwrap(), first);
    assert_eq!(find(Mode::Test, "a").await.unwrap(), test);
    assert!(find(Mode::Test, "b").await.unwrap_err().is_not_found());
    let rename = |to: &'static str| {
        let change = move |endpoint: &mut Endpoint| endpoint.external_id = Some(to.into());
        store.update_endpoint(second.id, always(change), by())
    };
    assert!(taken(rename("a").await.map(drop)));
    assert_eq!(store.endpoint(second.id).await.unwrap(), second);
    rename("c").await.unwrap();
    assert_eq!(find(Mode::Live, "c").await.unwrap().id, second.id);
    // What is deleted leaves its name.
    store.delete_endpoint(first.id, by()).await.unwrap();
    assert!(find(Mode::Live, "a").await.unwrap_err().is_not_found());
    rename("a").await.unwrap();
}

pub async fn a_callback_endpoint_is_found_by_its_url_and_not_listed(store: &dyn Store) {
    let world = world(store).await;
    let callback = Endpoint {
        kind: EndpointKind::Callback,
        url: "https://example.com/once".into(),
        ..world.an_endpoint()
    };
    assert_eq!(
        store
            .callback_endpoint(world.tenant, Mode::Live, &callback.url)
            .await
            .unwrap(),
        None
    );
    store
        .create_endpoint(callback.clone(), None, by())
        .await
        .unwrap();
    assert_eq!(
        store
            .callback_endpoint(world.tenant, Mode::Live, &callback.url)
            .await
            .unwrap(),
        Some(callback.clone())
    );
    assert_eq!(
        store
            .callback_endpoint(world.tenant, Mode::Live, "https://example.com/")
            .await
            .unwrap(),
        None
    );
    assert_eq!(
        store
            .list_endpoints(
                world.listing(EndpointListing::Registered),
                PageRequest::first(9)
            )
            .await
            .unwrap()
            .rows,
        []
    );
    assert_eq!(
        world.publish(at(1)).await.count,
        0,
        "a callback gets only what names it"
    );
    let again = Endpoint {
        id: store.ids().next(at(0)),
        ..callback.clone()
    };
    let twice = store.create_endpoint(again.clone(), None, by()).await;
    assert!(matches!(
        twice,
        Err(StoreError::Conflict {
            rule: Rule::NameTaken
        })
    ));
    let tested = Endpoint {
        mode: Mode::Test,
        ..again
    };
    store
        .create_endpoint(tested.clone(), None, by())
        .await
        .unwrap();
    for (mode, endpoint) in [(Mode::Live, callback), (Mode::Test, tested)] {
        let found = store
            .callback_endpoint(world.tenant, mode, &endpoint.url)
            .await;
        assert_eq!(found.unwrap(), Some(endpoint), "each mode has its own");
    }
}

/// Of the endpoints that fail, those that have for the longest come first; one that is well again is not among them.
pub async fn endpoints_that_fail_are_listed_by_how_long(store: &dyn Store) {
    let world = world(store).await;
    let mut ids = Vec::new();
    for start in [3_000, 1_000, 2_000] {
        let endpoint = world.endpoint().await;
        world.fail_one(endpoint, at(start)).await;
        ids.push(endpoint);
    }
    let failing = async |application, limit| {
        let found = store.failing_endpoints(application, limit).await.unwrap();
        found.iter().map(|endpoint| endpoint.id).collect::<Vec<_>>()
    };
    // Each event goes to all that are there: the first one fails with the first.
    let all = failing(None, 9).await;
    assert_eq!(all.len(), 3);
    let since = async |id| store.endpoint(id).await.unwrap().health.failing_since;
    let mut times = Vec::new();
    for id in &all {
        times.push(since(*id).await.unwrap());
    }
    assert!(times.is_sorted(), "{times:?}");
    assert_eq!(failing(Some(world.application), 9).await, all);
    assert_eq!(failing(Some(store.ids().next(at(0))), 9).await, []);
    assert_eq!(failing(None, 1).await, all[..1]);
    store.delete_endpoint(all[0], by()).await.unwrap();
    assert_eq!(failing(None, 9).await, all[1..]);
}

/// A page of endpoints ends where its rows have many bytes, and the next one goes on there.
pub async fn a_page_of_endpoints_is_bounded_in_bytes(store: &dyn Store) {
    use crate::{EndpointFilter, EndpointListing, PageRequest};
    const COUNT: usize = 12;
    let world = world(store).await;
    for _ in 0..COUNT {
        let endpoint = Endpoint {
            headers: vec![("x-long".to_owned(), "v".repeat(200_000)).into()],
            ..world.an_endpoint()
        };
        store.create_endpoint(endpoint, None, by()).await.unwrap();
    }
    let filter = EndpointFilter {
        tenant: world.tenant,
        listing: EndpointListing::Registered,
        mode: None,
        oldest_first: false,
    };
    let mut page = PageRequest::first(250);
    let mut seen = Vec::new();
    loop {
        let found = store.list_endpoints(filter, page).await.unwrap();
        assert!((1..=5).contains(&found.rows.len()), "{}", found.rows.len());
        seen.extend(found.rows.into_iter().map(|endpoint| endpoint.id));
        page.cursor = found.next;
        if page.cursor.is_none() {
            break;
        }
    }
    seen.dedup();
    assert_eq!(seen.len(), COUNT);
    assert!(seen.is_sorted_by(|newer, older| newer > older));
}

/// With more callbacks than may be, the oldest ends that nothing waits for.
pub async fn of_too_many_callbacks_the_oldest_idle_one_ends(store: &dyn Store) {
    let world = world(store).await;
    let callback = |number: u32| Endpoint {
        kind: EndpointKind::Callback,
        url: format!("https://example.com/{number}"),
        ..world.an_endpoint()
    };
    let made: Vec<Endpoint> = (0..4).map(callback).collect();
    for endpoint in &made[..2] {
        let made = store.create_endpoint(endpoint.clone(), Some(2), by()).await;
        made.unwrap();
    }
    // Something waits for the first.
    let new = NewEvent {
        target: Target::Endpoint(made[0].id),
        ..world.publishing(at(1), "a.b")
    };
    world.publish_new(at(1), new).await.unwrap();
    let third = store.create_endpoint(made[2].clone(), Some(2), by()).await;
    third.unwrap();
    let known =
        |number: usize| store.callback_endpoint(world.tenant, made[number].mode, &made[number].url);
    assert!(known(0).await.unwrap().is_some(), "a delivery waits for it");
    assert!(known(1).await.unwrap().is_none());
    assert!(known(2).await.unwrap().is_some());
    let new = NewEvent {
        target: Target::Endpoint(made[2].id),
        ..world.publishing(at(2), "a.b")
    };
    world.publish_new(at(2), new).await.unwrap();
    let fourth = store.create_endpoint(made[3].clone(), Some(2), by()).await;
    assert!(
        matches!(
            fourth,
            Err(StoreError::Conflict {
                rule: Rule::EndpointsMax
            })
        ),
        "{fourth:?}"
    );
}

pub async fn a_change_that_refuses_writes_nothing(store: &dyn Store) {
    let world = world(store).await;
    let endpoint = world.endpoint().await;
    let before = store.endpoint(endpoint).await.unwrap();
    let change = Box::new(|endpoint: &mut Endpoint| {
        endpoint.url = "https://example.com/other".into();
        Err(StoreError::conflict(Rule::HeadersMax))
    });
    let refused = store.update_endpoint(endpoint, change, by()).await;
    assert!(matches!(
        refused,
        Err(StoreError::Conflict {
            rule: Rule::HeadersMax
        })
    ));
    assert_eq!(store.endpoint(endpoint).await.unwrap(), before);
    let filter = AuditFilter {
        subject: Some(endpoint.to_string()),
        ..AuditFilter::default()
    };
    let noted = store.list_audit(filter, PageRequest::first(9)).await;
    assert_eq!(noted.unwrap().rows.len(), 1, "it was made");
}
