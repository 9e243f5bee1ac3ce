//! Notices: who is told of what, once.

use std::sync::Arc;

use postrider_core::audit::Actor;
use postrider_core::delivery::{DeliveryState, FailReason, Series};
use postrider_core::endpoint::Endpoint;
use postrider_core::health::{DisableReason, HealthChange};
use postrider_core::judge::Next;
use postrider_core::notice::{Channels, NoticeClass, NoticeKind, NotificationSettings};
use postrider_core::tenant::Mode;
use postrider_core::{Id, id};

use super::fixture::{World, at, by, record, secs, world};
use super::log::a_distribution;
use crate::{
    AuditFilter, DueNotices, EXPIRED_TEXT, FinishDelivery, MailAudience, NewEvent, NoticeChannel,
    NoticeFilter, PageRequest, Resend, Store, Target, always, unconditionally,
};

const PAGE: PageRequest = PageRequest::first(50);

pub(super) async fn wants_notices(world: &World<'_>) {
    let webhooks = Channels {
        email: true,
        in_app: true,
        emails: vec!["ada@example.com".into()],
    };
    let settings = NotificationSettings {
        webhooks,
        distributions: Channels::default(),
        unconfirmed: Vec::new(),
    };
    notify(world, settings).await;
}

async fn notify(world: &World<'_>, settings: NotificationSettings) {
    let change = move |tenant: &mut postrider_core::tenant::Tenant| {
        tenant.settings.notifications = settings;
    };
    world
        .store
        .update_tenant(world.tenant, unconditionally(change), by())
        .await
        .unwrap();
}

/// Over all tenants it is what had to be told, whether on its page or by mail alone.
pub async fn notices_are_listed_over_all_tenants(store: &dyn Store) {
    let world = world(store).await;
    let other = World {
        tenant: store.ids().next(at(0)),
        ..world
    };
    let tenant = other.a_tenant(other.tenant, None);
    store
        .create_tenant(tenant, "standard".into(), by())
        .await
        .unwrap();
    wants_notices(&world).await;
    let mail = Channels {
        email: true,
        in_app: false,
        emails: vec!["bob@example.com".into()],
    };
    let settings = NotificationSettings {
        webhooks: mail,
        distributions: Channels::default(),
        unconfirmed: Vec::new(),
    };
    notify(&other, settings).await;
    for world in [&world, &other] {
        let endpoint = world.endpoint().await;
        world.fail_one(endpoint, at(1_000)).await;
    }
    let elsewhere = store.ids().next(at(0));
    for (application, tenant, wanted) in [
        (None, None, vec![other.tenant, world.tenant]),
        (
            Some(world.application),
            None,
            vec![other.tenant, world.tenant],
        ),
        (Some(elsewhere), None, vec![]),
        (None, Some(world.tenant), vec![world.tenant]),
        (None, Some(other.tenant), vec![]),
    ] {
        let filter = NoticeFilter {
            application,
            tenant,
            ..NoticeFilter::default()
        };
        let listed = store.list_notices(filter, PAGE).await.unwrap();
        let tenants: Vec<_> = listed.rows.iter().map(|notice| notice.tenant).collect();
        assert_eq!(tenants, wanted, "{filter:?}");
    }
}

pub async fn a_final_failure_is_told_once_to_who_asked_for_it(store: &dyn Store) {
    let world = world(store).await;
    let endpoint = world.endpoint().await;
    world.fail_one(endpoint, at(1_000)).await;
    let notices = |unread| {
        let filter = NoticeFilter {
            tenant: Some(world.tenant),
            unread,
            ..NoticeFilter::default()
        };
        store.list_notices(filter, PAGE)
    };
    assert_eq!(notices(false).await.unwrap().rows, [], "nobody asked");
    wants_notices(&world).await;
    for i in 0..9 {
        world.fail_one(endpoint, at(2_000 + i * 1_000)).await;
    }
    let rows = notices(false).await.unwrap().rows;
    let kinds: Vec<NoticeKind> = rows.iter().map(|notice| notice.kind).collect();
    let failed = NoticeKind::DeliveryFailed;
    // The tenth failure disables too; newest first.
    assert_eq!(kinds[..3], [NoticeKind::EndpointDisabled, failed, failed]);
    assert_eq!(rows.len(), 10);
    let last = &rows[0];
    assert_eq!(
        (
            last.endpoint,
            last.class,
            last.attempts,
            last.error.as_str()
        ),
        (endpoint, NoticeClass::Webhooks, 1, "answered 500")
    );
    assert!(last.mail_due && last.in_app && !last.publish_due);
    let audit = AuditFilter {
        action: Some("endpoint.updated".into()),
        ..AuditFilter::default()
    };
    let disabled = store.list_audit(audit, PAGE).await.unwrap().rows;
    assert_eq!(disabled.len(), 1, "the server disabled it once");
    assert_eq!(disabled[0].actor, Actor::system(at(10_000)));

    let audience = MailAudience {
        tenant: world.tenant,
        class: NoticeClass::Webhooks,
    };
    let due = DueNotices::Mail(audience);
    let oldest = rows[9].at;
    assert_eq!(store.mail_audiences().await.unwrap(), [(audience, oldest)]);
    let other = DueNotices::Mail(MailAudience {
        class: NoticeClass::Distributions,
        ..audience
    });
    assert_eq!(store.due_notices(other, 4).await.unwrap(), []);
    let first = store.due_notices(due, 4).await.unwrap();
    let ids: Vec<Id<id::Notice>> = first.iter().map(|notice| notice.id).collect();
    assert_eq!(ids.len(), 4);
    assert_eq!(ids[0], rows[9].id, "the oldest first");
    store
        .settle_notices(NoticeChannel::Mail, ids)
        .await
        .unwrap();
    let rest = store.due_notices(due, 50).await.unwrap();
    assert_eq!(rest.len(), 6);
    let none = store
        .due_notices(DueNotices::Publish { after: None }, 50)
        .await
        .unwrap();
    assert_eq!(none, []);
    let ids = rest.iter().map(|notice| notice.id).collect();
    let settled = store.settle_notices(NoticeChannel::Mail, ids);
    settled.await.unwrap();
    assert_eq!(store.mail_audiences().await.unwrap(), []);
    assert_eq!(
        store
            .read_notices(world.tenant, None, rows[1].id, at(20_000), 0)
            .await
            .unwrap(),
        9
    );
    let unread = notices(true).await.unwrap().rows;
    assert_eq!(unread.iter().map(|n| n.id).collect::<Vec<_>>(), [last.id]);
}

pub async fn notices_can_be_of_one_mode(store: &dyn Store) {
    let world = world(store).await;
    wants_notices(&world).await;
    let mut expected = Vec::new();
    for mode in [Mode::Live, Mode::Test] {
        let endpoint = Endpoint {
            mode,
            ..world.an_endpoint()
        };
        let id = endpoint.id;
        store.create_endpoint(endpoint, None, by()).await.unwrap();
        let mut event = world.an_event(at(1_000), "order.completed");
        event.mode = mode;
        let new = NewEvent {
            event: Arc::new(event),
            ..world.publishing(at(1_000), "order.completed")
        };
        let delivery = world.publish_new(at(1_000), new).await.unwrap().deliveries[0]
            .delivery
            .id;
        let next = Next::Failed(FailReason::Exhausted);
        let record = record(delivery, id, 1, next, HealthChange::None, at(2_000));
        world.record(at(2_000), record).await.unwrap();
        expected.push((mode, delivery));
    }
    let filter = |mode| NoticeFilter {
        tenant: Some(world.tenant),
        mode,
        unread: true,
        ..NoticeFilter::default()
    };
    assert_eq!(
        store
            .list_notices(filter(None), PAGE)
            .await
            .unwrap()
            .rows
            .len(),
        2
    );
    for (mode, delivery) in expected {
        let rows = store
            .list_notices(filter(Some(mode)), PAGE)
            .await
            .unwrap()
            .rows;
        let told: Vec<_> = rows.iter().map(|row| (row.mode, row.delivery)).collect();
        assert_eq!(told, [(mode, delivery)]);
    }
    let last = store.ids().next(secs(9));
    let read = store.read_notices(world.tenant, Some(Mode::Test), last, at(3_000), 0);
    assert_eq!(read.await.unwrap(), 1);
    let left = store.list_notices(filter(None), PAGE).await.unwrap().rows;
    assert_eq!(
        left.iter().map(|row| row.mode).collect::<Vec<_>>(),
        [Mode::Live]
    );
}

pub async fn what_waited_when_its_endpoint_gave_out_is_told(store: &dyn Store) {
    let world = world(store).await;
    wants_notices(&world).await;
    let state = DeliveryState::Failed(FailReason::EndpointDisabled);
    for (reason, expected) in [
        (
            DisableReason::Failures,
            vec!["its webhook was disabled while it waited"],
        ),
        (DisableReason::Manual, vec![]),
    ] {
        let endpoint = world.endpoint().await;
        let waiting = world.publish(at(1_000)).await;
        let waiting = waiting.deliveries.iter().map(|due| &due.delivery);
        let waiting = waiting.filter(|delivery| delivery.endpoint == endpoint);
        let waiting: Vec<_> = waiting.map(|delivery| delivery.id).collect();
        let disable = move |endpoint: &mut Endpoint| endpoint.health.disable(reason, at(2_000));
        store
            .update_endpoint(endpoint, always(disable), by())
            .await
            .unwrap();
        let finished = store.finish_pending(endpoint, state, at(3_000), 9).await;
        assert_eq!(finished.unwrap(), 1);
        let filter = NoticeFilter {
            tenant: Some(world.tenant),
            ..NoticeFilter::default()
        };
        let told = store.list_notices(filter, PAGE).await.unwrap().rows;
        let told = told.iter().filter(|notice| notice.endpoint == endpoint);
        let told: Vec<_> = told
            .inspect(|notice| assert_eq!([notice.delivery], waiting[..]))
            .map(|notice| notice.error.as_str())
            .collect();
        assert_eq!(
            told, expected,
            "{reason:?}: whoever closes it himself knows"
        );
    }
}

pub async fn thousands_that_waited_are_told_and_read(store: &dyn Store) {
    const WAITING: u32 = 1_050;
    let world = world(store).await;
    wants_notices(&world).await;
    let endpoint = world.endpoint().await;
    let many = (0..WAITING).map(|_| world.publishing(at(1_000), "order.paid"));
    let batch = crate::Batch::of_publishes(many);
    store.commit_all(at(1_000).into(), batch).await;
    let disable =
        |endpoint: &mut Endpoint| endpoint.health.disable(DisableReason::Failures, at(2_000));
    store
        .update_endpoint(endpoint, always(disable), by())
        .await
        .unwrap();
    let state = DeliveryState::Failed(FailReason::EndpointDisabled);
    for expected in [1_000, WAITING - 1_000, 0] {
        let finished = store
            .finish_pending(endpoint, state, at(3_000), 1_000)
            .await;
        assert_eq!(finished.unwrap(), expected);
    }
    let stats = store.endpoint_stats(endpoint, at(0)).await.unwrap();
    assert_eq!((stats.failed, stats.pending), (u64::from(WAITING), 0));
    let filter = NoticeFilter {
        tenant: Some(world.tenant),
        ..NoticeFilter::default()
    };
    let newest = store.list_notices(filter, PAGE).await.unwrap().rows;
    assert_eq!(&*newest[0].event_type, "order.paid");
    let last = newest[0].id;
    let read = store.read_notices(world.tenant, None, last, at(4_000), 0);
    assert_eq!(read.await.unwrap(), WAITING);
    let read = store.read_notices(world.tenant, None, last, at(4_000), 0);
    assert_eq!(read.await.unwrap(), 0);
}

pub async fn what_expired_is_told_and_one_resent_by_hand_is_not(store: &dyn Store) {
    let world = world(store).await;
    let endpoint = world.endpoint().await;
    wants_notices(&world).await;
    let due = world.publish(at(1_000)).await.deliveries.remove(0);
    let expired = FinishDelivery {
        delivery: due.delivery.id,
        endpoint,
        state: DeliveryState::Failed(FailReason::Expired),
    };
    for ended in [true, false] {
        assert_eq!(world.finish(at(2_000), expired).await.unwrap(), ended);
    }
    let filter = NoticeFilter {
        tenant: Some(world.tenant),
        ..NoticeFilter::default()
    };
    let rows = store.list_notices(filter, PAGE).await.unwrap().rows;
    assert_eq!(rows.len(), 1, "once");
    assert_eq!(
        (rows[0].kind, rows[0].endpoint, rows[0].attempts),
        (NoticeKind::DeliveryFailed, endpoint, 0)
    );
    assert_eq!(rows[0].error, EXPIRED_TEXT);
    assert_eq!(rows[0].url, "https://example.com/hook");

    let by_hand = Resend {
        delivery: due.delivery.id,
        attempts: 0,
        series: Series {
            single: true,
            ..Series::SCHEDULED
        },
    };
    world.resend(at(3_000), by_hand).await.unwrap();
    world.finish(at(2_000), expired).await.unwrap();
    let rows = store.list_notices(filter, PAGE).await.unwrap().rows;
    assert_eq!(rows.len(), 1);
}

pub async fn a_failure_of_a_deleted_distribution_is_told_as_one(store: &dyn Store) {
    let world = world(store).await;
    let distribution = a_distribution(&world, &["customer.rewarded"]);
    let (id, created) = (distribution.id, distribution.clone());
    store.create_endpoint(created, None, by()).await.unwrap();
    let channels = Channels {
        in_app: true,
        ..Channels::default()
    };
    let settings = NotificationSettings {
        webhooks: Channels::default(),
        distributions: channels,
        unconfirmed: Vec::new(),
    };
    notify(&world, settings).await;
    let new = NewEvent {
        target: Target::Distributions,
        ..world.publishing(at(1_000), "customer.rewarded")
    };
    let published = world.publish_new(at(1_000), new).await.unwrap();
    let delivery = published.deliveries[0].delivery.id;
    store.delete_endpoint(id, by()).await.unwrap();
    let next = Next::Failed(FailReason::Exhausted);
    let health = HealthChange::Failure {
        delivery_failed: true,
    };
    let failed = record(delivery, id, 1, next, health, at(2_000));
    world.record(at(2_000), failed).await.unwrap();
    let filter = NoticeFilter {
        tenant: Some(world.tenant),
        ..NoticeFilter::default()
    };
    let rows = store.list_notices(filter, PAGE).await.unwrap().rows;
    let told: Vec<_> = rows.iter().map(|row| (row.class, row.kind)).collect();
    assert_eq!(
        told,
        [(NoticeClass::Distributions, NoticeKind::DeliveryFailed)]
    );
    let kept = store.endpoints(vec![id]).await.unwrap();
    assert_eq!(
        kept[0].health,
        Default::default(),
        "nothing counts there any more"
    );
}
