//! Owners of endpoints, the audit log, notices, statistics.

use std::sync::Arc;
use std::time::Duration;

use postrider_core::audit::Actor;
use postrider_core::distribution::{Distribution, Payload};
use postrider_core::endpoint::{Endpoint, EndpointKind};
use postrider_core::filter::Subscription;
use postrider_core::health::DisableReason;
use postrider_core::tenant::{ApiKey, Mode, Scope};
use postrider_core::{Id, Timestamp, id};

use super::fixture::{self, World, at, by, world};
use crate::{
    AuditFilter, EndpointListing, EndpointStats, KeyFilter, NewEvent, PageRequest, StatePattern,
    StatisticsQuery, Store, Target, always, unconditionally,
};

const PAGE: PageRequest = PageRequest::first(50);

pub(super) fn a_distribution(world: &World<'_>, triggers: &[&str]) -> Endpoint {
    let triggers = triggers.iter().map(|name| (*name).to_owned()).collect();
    let distribution = Distribution {
        name: "Welcome".into(),
        event_name: "Voucher-sent".into(),
        payload: Payload::default(),
    };
    Endpoint {
        kind: EndpointKind::Distribution(distribution),
        subscription: Subscription::new(triggers).unwrap(),
        secrets: Vec::new(),
        ..world.an_endpoint()
    }
}

fn a_key(world: &World<'_>) -> ApiKey {
    ApiKey {
        name: "agency".into(),
        public_id: Some("pk_live_1".into()),
        created_at: at(0),
        ..fixture::key(
            world.store,
            3,
            Scope::Tenant(world.application, world.tenant),
        )
    }
}

async fn reached(world: &World<'_>, event_type: &str, target: Target) -> Vec<Id<id::Endpoint>> {
    let new = NewEvent {
        target,
        ..world.publishing(at(1), event_type)
    };
    let published = world.publish_new(at(1), new).await.unwrap();
    let reached = published.deliveries.iter().map(|due| due.delivery.endpoint);
    reached.collect()
}

pub async fn only_live_distributions_with_the_trigger_get_a_distributions_event(store: &dyn Store) {
    let world = world(store).await;
    let webhook = world.endpoint().await;
    let live = a_distribution(&world, &["customer.rewarded"]);
    let other = a_distribution(&world, &["customer.referred"]);
    let mut paused = a_distribution(&world, &["customer.rewarded"]);
    paused.health.disable(DisableReason::Manual, at(0));
    for endpoint in [&live, &other, &paused] {
        let endpoint = endpoint.clone();
        store.create_endpoint(endpoint, None, by()).await.unwrap();
    }
    let event = "customer.rewarded";
    assert_eq!(reached(&world, event, Target::Matching).await, [webhook]);
    assert_eq!(
        reached(&world, event, Target::Distributions).await,
        [live.id]
    );
    let one = Target::IfEnabled(other.id);
    assert_eq!(reached(&world, event, one).await, [other.id]);
    let nobody = Target::IfEnabled(paused.id);
    assert_eq!(reached(&world, event, nobody).await, []);
    assert_eq!(reached(&world, event, Target::Nobody).await, []);
    let listed = |listing| store.list_endpoints(world.listing(listing), PAGE);
    let rows = listed(EndpointListing::Distributions).await.unwrap().rows;
    assert_eq!(rows, [paused, other, live.clone()]);
    let rows = listed(EndpointListing::Registered).await.unwrap().rows;
    assert_eq!(rows.iter().map(|row| row.id).collect::<Vec<_>>(), [webhook]);
    let by_id = store.endpoints(vec![live.id, webhook, world.store.ids().next(at(3))]);
    assert_eq!(by_id.await.unwrap().len(), 2);
    store.delete_endpoint(live.id, by()).await.unwrap();
    assert_eq!(store.endpoints(vec![live.id]).await.unwrap(), [live]);
}

pub async fn a_key_and_its_endpoint_live_and_end_together(store: &dyn Store) {
    let world = world(store).await;
    let key = a_key(&world);
    let owned = || Endpoint {
        kind: EndpointKind::Key(key.id),
        ..world.an_endpoint()
    };
    let first = owned();
    store
        .create_key(key.clone(), Some(first.clone()), 99, by())
        .await
        .unwrap();
    assert_eq!(
        store.key_endpoint(key.id).await.unwrap().as_ref(),
        Some(&first)
    );
    // Only what is addressed to the key reaches it, and nobody sees it among the registered ones.
    let event = "order.completed";
    assert_eq!(reached(&world, event, Target::Matching).await, []);
    let to = |endpoint: &Endpoint| Target::IfEnabled(endpoint.id);
    assert_eq!(reached(&world, event, to(&first)).await, [first.id]);
    let registered = world.listing(EndpointListing::Registered);
    let listed = store.list_endpoints(registered, PAGE).await;
    assert_eq!(listed.unwrap().rows, []);

    let change = |key: &mut ApiKey, endpoint: &mut Option<Endpoint>| {
        key.disabled_at = Some(at(2));
        key.allowed_ips = vec!["192.0.2.0/24".parse().unwrap()];
        if let Some(endpoint) = endpoint {
            endpoint.url = "https://example.com/new".into();
            endpoint.health.disable(DisableReason::Manual, at(2));
        }
    };
    let (changed, endpoint) = store
        .update_key(key.id, Box::new(change), by())
        .await
        .unwrap();
    assert_eq!(store.key(key.id).await.unwrap(), changed);
    assert_eq!(store.endpoint(first.id).await.unwrap(), endpoint.unwrap());
    assert_eq!(changed.disabled_at, Some(at(2)));
    assert_eq!(reached(&world, event, to(&first)).await, []);

    let take = |_: &mut ApiKey, endpoint: &mut Option<Endpoint>| *endpoint = None;
    store
        .update_key(key.id, Box::new(take), by())
        .await
        .unwrap();
    assert_eq!(store.key_endpoint(key.id).await.unwrap(), None);
    assert!(store.endpoint(first.id).await.unwrap_err().is_not_found());
    let second = owned();
    let put = second.clone();
    let give = move |_: &mut ApiKey, endpoint: &mut Option<Endpoint>| *endpoint = Some(put);
    store
        .update_key(key.id, Box::new(give), by())
        .await
        .unwrap();
    assert_eq!(reached(&world, event, to(&second)).await, [second.id]);

    let of_tenant = KeyFilter {
        tenant: Some(world.tenant),
        ..KeyFilter::default()
    };
    assert_eq!(
        store.list_keys(of_tenant, PAGE).await.unwrap().rows.len(),
        1
    );
    store.delete_key(key.id, by()).await.unwrap();
    assert!(store.endpoint(second.id).await.unwrap_err().is_not_found());
    assert_eq!(store.list_keys(of_tenant, PAGE).await.unwrap().rows, []);
}

pub async fn every_change_is_in_the_audit_log(store: &dyn Store) {
    let world = world(store).await;
    let who = Actor {
        key: Some(store.ids().next(at(0))),
        user: Some(store.ids().next(at(0))),
        name: "ops".into(),
        account: 0,
        at: at(5),
    };
    let endpoint = world.endpoint().await;
    let rename = |url: &'static str| {
        let change = move |endpoint: &mut Endpoint| endpoint.url = url.into();
        store.update_endpoint(endpoint, always(change), who.clone())
    };
    rename("https://example.com/b").await.unwrap();
    // What changes nothing is no change.
    rename("https://example.com/b").await.unwrap();
    store.delete_endpoint(endpoint, who.clone()).await.unwrap();
    let callback = Endpoint {
        kind: EndpointKind::Callback,
        ..world.an_endpoint()
    };
    store.create_endpoint(callback, None, by()).await.unwrap();
    let change = |tenant: &mut postrider_core::tenant::Tenant| tenant.live_secret.since = at(9_000);
    store
        .update_tenant(world.tenant, unconditionally(change), who.clone())
        .await
        .unwrap();

    let all = AuditFilter {
        tenant: Some(world.tenant),
        ..AuditFilter::default()
    };
    let entries = store.list_audit(all.clone(), PAGE).await.unwrap().rows;
    let by_user = AuditFilter {
        user: who.user,
        ..all.clone()
    };
    let of_user = store.list_audit(by_user, PAGE).await.unwrap().rows;
    assert_eq!(of_user.len(), 3);
    assert!(of_user.iter().all(|entry| entry.actor == who));
    let actions: Vec<&str> = entries.iter().map(|entry| entry.action.as_str()).collect();
    assert_eq!(
        actions,
        [
            "tenant.updated",
            "endpoint.deleted",
            "endpoint.updated",
            "endpoint.created",
            "tenant.created"
        ]
    );
    let updated = &entries[2];
    assert_eq!(
        (&updated.actor, updated.application, updated.subject.clone()),
        (&who, Some(world.application), endpoint.to_string())
    );
    let (before, after) = (updated.before.as_ref(), updated.after.as_ref());
    assert!(before.is_some_and(|text| text.contains("example.com/hook")));
    assert!(after.is_some_and(|text| text.contains("example.com/b")));
    assert_eq!((&entries[3].before, &entries[1].after), (&None, &None));
    let only = |filter: AuditFilter| store.list_audit(filter, PAGE);
    for (filter, count) in [
        (
            AuditFilter {
                subject: Some(endpoint.to_string()),
                ..all.clone()
            },
            3,
        ),
        (
            AuditFilter {
                action: Some("endpoint.deleted".into()),
                ..all.clone()
            },
            1,
        ),
        (
            AuditFilter {
                key: who.key,
                ..all.clone()
            },
            3,
        ),
        (
            AuditFilter {
                since: Some(at(1)),
                ..all.clone()
            },
            3,
        ),
        (
            AuditFilter {
                until: Some(at(1)),
                ..all.clone()
            },
            2,
        ),
        (
            AuditFilter {
                application: Some(world.application),
                ..AuditFilter::default()
            },
            6,
        ),
    ] {
        let rows = only(filter.clone()).await.unwrap().rows;
        assert_eq!(rows.len(), count, "{filter:?}");
    }
}

pub async fn statistics_sum_up_to_what_the_pages_hold(store: &dyn Store) {
    let world = world(store).await;
    let endpoint = world.endpoint().await;
    const SECOND: i64 = 1_000_000;
    for i in 0..4 {
        world.fail_one(endpoint, at(i * SECOND)).await;
    }
    let paid = world.publishing(at(2 * SECOND), "order.paid");
    world.publish_new(at(2 * SECOND), paid).await.unwrap();
    let all = StatisticsQuery {
        tenant: world.tenant,
        since: at(0),
        until: at(10 * SECOND),
        event_type: None,
        endpoint: None,
        mode: None,
        state: None,
        outcomes: true,
        period: Duration::from_secs(2),
    };
    let found = store.statistics(all.clone()).await.unwrap();
    let counts = |failed, pending| EndpointStats {
        failed,
        pending,
        attempts: failed,
        ..EndpointStats::default()
    };
    let by_type = found.by_type.iter();
    let by_type: Vec<_> = by_type.map(|(name, of)| (&**name, *of)).collect();
    assert_eq!(
        by_type,
        [
            ("order.completed", counts(4, 0)),
            ("order.paid", counts(0, 1))
        ]
    );
    assert_eq!(found.by_endpoint, [(endpoint, counts(4, 1))]);
    assert_eq!(found.by_mode, [(Mode::Live, counts(4, 1))]);
    assert_eq!(found.other_types, EndpointStats::default());
    let outcomes = found.outcomes.expect("no state was asked for");
    let by_code: Vec<_> = outcomes.by_code.iter().collect();
    assert_eq!(by_code, [(&Arc::from("500"), &4)]);
    assert_eq!(outcomes.times.answers(), 4);
    let timed: u64 = found.series.iter().map(|of| of.times.answers()).sum();
    assert_eq!(timed, 4);
    let sum = |points: &[crate::StatisticsPoint]| {
        points.iter().fold((0, 0), |(failed, pending), point| {
            (failed + point.counts.failed, pending + point.counts.pending)
        })
    };
    assert_eq!(sum(&found.series), (4, 1));
    let starts: Vec<Timestamp> = found.series.iter().map(|point| point.at).collect();
    assert!(
        starts.iter().all(|at| all.period_of(*at) == *at),
        "{starts:?}"
    );
    assert!(
        starts.windows(2).all(|pair| pair[0] < pair[1]),
        "{starts:?}"
    );
    for (query, expected) in [
        (
            StatisticsQuery {
                until: "9000-01-01T00:00:00Z".parse().unwrap(),
                ..all.clone()
            },
            (4, 1),
        ),
        (
            StatisticsQuery {
                event_type: Some("order.paid".into()),
                ..all.clone()
            },
            (0, 1),
        ),
        (
            StatisticsQuery {
                state: Some(StatePattern::Failed),
                ..all.clone()
            },
            (4, 0),
        ),
        (
            StatisticsQuery {
                mode: Some(Mode::Test),
                ..all.clone()
            },
            (0, 0),
        ),
        (
            StatisticsQuery {
                endpoint: Some(world.tenant.cast()),
                ..all.clone()
            },
            (0, 0),
        ),
        (
            StatisticsQuery {
                since: at(2 * SECOND),
                ..all.clone()
            },
            (2, 1),
        ),
        (
            StatisticsQuery {
                until: at(2 * SECOND),
                ..all.clone()
            },
            (2, 0),
        ),
    ] {
        let found = store.statistics(query.clone()).await.unwrap();
        assert_eq!(sum(&found.series), expected, "{query:?}");
    }
}

pub async fn types_without_end_are_counted_together(store: &dyn Store) {
    const MORE: usize = 30;
    let world = world(store).await;
    let endpoint = world.endpoint().await;
    for number in 0..crate::TYPES_COUNTED_MAX + MORE {
        let new = world.publishing(at(1), &format!("user.{number}"));
        world.publish_new(at(1), new).await.unwrap();
    }
    let all = StatisticsQuery {
        tenant: world.tenant,
        since: at(0),
        until: at(10),
        event_type: None,
        endpoint: None,
        mode: None,
        state: None,
        outcomes: true,
        period: Duration::from_secs(2),
    };
    let found = store.statistics(all).await.unwrap();
    assert_eq!(found.by_type.len(), crate::TYPES_COUNTED_MAX);
    assert_eq!(found.other_types.pending, MORE as u64);
    let counted = found.by_endpoint[0].1.pending;
    assert_eq!(
        (found.by_endpoint[0].0, counted),
        (endpoint, (crate::TYPES_COUNTED_MAX + MORE) as u64)
    );
}
