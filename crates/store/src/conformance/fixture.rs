//! Things to store, and the few steps that most rules begin with.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use postrider_core::attempt::{Attempt, Egress, Outcome, Rendering, Response, Timings};
use postrider_core::audit::Actor;
use postrider_core::delivery::Series;
use postrider_core::endpoint::{Endpoint, EndpointKind, EndpointSecret, Ordering};
use postrider_core::event::Event;
use postrider_core::filter::{ContentFilter, Subscription};
use postrider_core::health::{DisableRule, Health, HealthChange};
use postrider_core::judge::Next;
use postrider_core::tenant::{
    ApiKey, Application, ApplicationSettings, Metadata, Mode, Scope, Tenant, TenantSecret,
    TenantSettings,
};
use postrider_core::{Id, Timestamp, id};

use crate::{
    Batch, DueDelivery, DuePage, EndpointFilter, EndpointListing, FinishDelivery, Idempotency,
    LoadDue, NewEvent, Published, RecordAttempt, Recorded, Resend, Store, StoreError, Target,
};

/// A content filter, as a user writes it.
pub fn filter(text: &str) -> ContentFilter {
    text.parse().unwrap()
}

/// `micros` after a fixed day.
pub fn at(micros: i64) -> Timestamp {
    Timestamp::from_micros(1_774_017_075_000_000 + micros)
}

pub fn secs(secs: i64) -> Timestamp {
    at(secs * 1_000_000)
}

/// Whoever changes things in these rules.
pub fn by() -> Actor {
    Actor::system(at(0))
}

/// A live key that may be used from everywhere, for ever.
pub fn key(store: &dyn Store, hash: u8, scope: Scope) -> ApiKey {
    ApiKey {
        id: store.ids().next(at(0)),
        name: "a key".into(),
        scope,
        mode: Mode::Live,
        secret_hash: [hash; 32],
        public_id: None,
        sealed_secret: None,
        allowed_ips: Vec::new(),
        read_only: false,
        disabled_at: None,
        expires_at: None,
        created_at: at(1),
        rotated_at: None,
        previous: None,
    }
}

/// A store with one application and one tenant.
pub struct World<'s> {
    pub store: &'s dyn Store,
    pub application: Id<id::Application>,
    pub tenant: Id<id::Tenant>,
}

impl std::fmt::Debug for World<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "World({}, {})", self.application, self.tenant)
    }
}

pub async fn world(store: &dyn Store) -> World<'_> {
    let application = store.ids().next(at(0));
    store
        .create_application(
            Application {
                id: application,
                name: "shop".into(),
                profile: "standard".into(),
                settings: ApplicationSettings::default(),
                created_at: at(0),
                updated_at: at(0),
            },
            by(),
        )
        .await
        .unwrap();
    let world = World {
        store,
        application,
        tenant: store.ids().next(at(0)),
    };
    let tenant = world.a_tenant(world.tenant, None);
    store
        .create_tenant(tenant, "standard".into(), by())
        .await
        .unwrap();
    world
}

impl World<'_> {
    pub fn a_tenant(&self, id: Id<id::Tenant>, external_id: Option<&str>) -> Tenant {
        Tenant {
            id,
            application: self.application,
            name: "Ada's shop".into(),
            external_id: external_id.map(Into::into),
            metadata: Metadata::new(),
            live_secret: TenantSecret {
                sealed: vec![1, 2, 3],
                since: at(0),
            },
            test_secret: TenantSecret {
                sealed: vec![4, 5],
                since: at(1),
            },
            settings: TenantSettings::default(),
            created_at: at(0),
            updated_at: at(0),
        }
    }

    pub fn an_endpoint(&self) -> Endpoint {
        Endpoint {
            id: self.store.ids().next(at(0)),
            application: self.application,
            tenant: self.tenant,
            kind: EndpointKind::Registered,
            external_id: None,
            metadata: Metadata::new(),
            url: "https://example.com/hook".into(),
            description: None,
            subscription: Subscription::all(),
            filter: None,
            mode: Mode::Live,
            headers: Vec::new(),
            secrets: vec![EndpointSecret {
                sealed: vec![7; 40],
                created_at: at(0),
                expires_at: None,
            }],
            rate_limit: None,
            ordering: Ordering::None,
            form: false,
            health: Health::default(),
            created_at: at(0),
            updated_at: at(0),
        }
    }

    /// All endpoints of the tenant of this kind.
    pub fn listing(&self, listing: EndpointListing) -> EndpointFilter {
        EndpointFilter {
            tenant: self.tenant,
            listing,
            mode: None,
            oldest_first: false,
        }
    }

    pub async fn endpoint(&self) -> Id<id::Endpoint> {
        let endpoint = self.an_endpoint();
        let id = endpoint.id;
        self.store
            .create_endpoint(endpoint, None, by())
            .await
            .unwrap();
        id
    }

    pub fn an_event(&self, now: Timestamp, event_type: &str) -> Event {
        Event {
            id: self.store.ids().next(now),
            application: self.application,
            tenant: self.tenant,
            event_type: Arc::from(event_type),
            data: Bytes::from_static(b"{\"a\": 1.50}"),
            meta: None,
            mode: Mode::Live,
            occurred_at: now,
            created_at: now,
            ordering_key: None,
            deliver_before: None,
            traceparent: None,
        }
    }

    pub fn publishing(&self, now: Timestamp, event_type: &str) -> NewEvent {
        NewEvent {
            event: Arc::new(self.an_event(now, event_type)),
            target: Target::Matching,
            profile: 1,
            idempotency: None,
        }
    }

    pub async fn publish_new(
        &self,
        now: Timestamp,
        new: NewEvent,
    ) -> Result<Published, StoreError> {
        let batch = Batch::of_publishes([new]);
        only(self.store.commit_all(now.into(), batch).await.publishes)
    }

    pub async fn resend(&self, now: Timestamp, resend: Resend) -> Result<DueDelivery, StoreError> {
        let batch = Batch {
            resends: vec![resend],
            ..Batch::default()
        };
        only(self.store.commit_all(now.into(), batch).await.resends)
    }

    pub async fn finish(&self, now: Timestamp, finish: FinishDelivery) -> Result<bool, StoreError> {
        let batch = Batch {
            finishes: vec![finish],
            ..Batch::default()
        };
        only(self.store.commit_all(now.into(), batch).await.finishes)
    }

    pub async fn publish(&self, now: Timestamp) -> Published {
        self.publish_new(now, self.publishing(now, "order.completed"))
            .await
            .unwrap()
    }

    pub fn keyed(&self, now: Timestamp, key: &str, fingerprint: u8) -> NewEvent {
        let idempotency = Some(Idempotency {
            key: key.into(),
            fingerprint: [fingerprint; 32],
        });
        NewEvent {
            idempotency,
            ..self.publishing(now, "order.completed")
        }
    }

    pub async fn record(
        &self,
        now: Timestamp,
        record: RecordAttempt,
    ) -> Result<Recorded, StoreError> {
        let batch = Batch::of_records([record]);
        only(self.store.commit_all(now.into(), batch).await.records)
    }

    pub async fn due(&self, endpoint: Id<id::Endpoint>, until: Timestamp, limit: u32) -> DuePage {
        self.store
            .load_due(LoadDue {
                until,
                limit,
                ..LoadDue::all(endpoint)
            })
            .await
            .unwrap()
    }

    /// Publishes one event and fails its only delivery for good.
    pub async fn fail_one(&self, endpoint: Id<id::Endpoint>, now: Timestamp) -> Recorded {
        let delivery = self.publish(now).await.deliveries[0].delivery.id;
        let failed = HealthChange::Failure {
            delivery_failed: true,
        };
        let next = Next::Failed(postrider_core::delivery::FailReason::Exhausted);
        self.record(now, record(delivery, endpoint, 1, next, failed, now))
            .await
            .unwrap()
    }
}

pub fn only<T>(answers: Vec<T>) -> T {
    assert_eq!(answers.len(), 1);
    answers.into_iter().next().unwrap()
}

pub const RULE: DisableRule = DisableRule::FailedDeliveries(10);

pub fn record(
    delivery: Id<id::Delivery>,
    endpoint: Id<id::Endpoint>,
    number: u32,
    next: Next,
    health: HealthChange,
    now: Timestamp,
) -> RecordAttempt {
    RecordAttempt {
        delivery,
        endpoint,
        attempt: an_attempt(number, now),
        next,
        series: Series {
            attempts: number,
            started_at: Some(now),
            single: false,
        },
        health,
        rule: RULE,
        keep_place: false,
    }
}

pub fn an_attempt(number: u32, now: Timestamp) -> Attempt {
    Attempt {
        number,
        started_at: now,
        ended_at: now.plus(Duration::from_micros(1_234)),
        url: "https://example.com/hook".into(),
        request_headers: vec![
            ("X-Webhook-Event".into(), "order.completed".into()),
            ("X-Empty".into(), String::new()),
        ],
        outcome: Outcome::Answered {
            status: 500,
            retry_after_secs: Some(7),
        },
        response: Some(Response {
            headers: vec![("content-type".into(), "text/plain; charset=utf-8".into())],
            body: Bytes::from_static(b"\xff\x00oops"),
            truncated: true,
        }),
        timings: Timings {
            dns_micros: None,
            connect_micros: Some(2),
            tls_micros: Some(3),
            first_byte_micros: Some(4),
            total_micros: 5,
        },
        manual: true,
        egress: Some(Egress {
            region: Some(Arc::from("eu1")),
            address: "127.0.0.2".parse().unwrap(),
        }),
        rendering: Some(Arc::new(Rendering {
            form: true,
            distribution: None,
        })),
    }
}
