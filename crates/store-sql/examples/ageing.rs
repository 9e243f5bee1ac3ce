//! What a delivery costs the store as its history grows, and what looking at the history and forgetting it costs then.
//!
//! ```text
//! cargo run --release -p postrider-store-sql --example ageing -- DELIVERIES ENDPOINTS DIRECTORY|URL [PIECE SEGMENT]
//! ```
//!
//! With the URL of a PostgreSQL database it works in that; then the CPU time is that of this side only.
//!
//! Each group of 64 events, of as many random tenants with one endpoint each, is accepted in one commit with the
//! records of the group before, as the journal does under load. CPU time is the whole process's, which does nothing else.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a tool for measuring, not a part of the server"
)]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use postrider_core::attempt::{Attempt, Outcome, Response, Timings};
use postrider_core::event::Event;
use postrider_core::health::HealthChange;
use postrider_core::judge::Next;
use postrider_core::{Id, Timestamp, id};
use postrider_store::conformance::fixture::{World, record, world};
use postrider_store::{
    Batch, DeliveryFilter, EventFilter, Keep, NewEvent, PageRequest, PruneFrom, Pruned,
    RecordAttempt, Records as _, Retention as _, StatePattern, StatisticsQuery, Target,
};
use postrider_store_sql::{Options, PostgresOptions, Segments, SqlStore};

const GROUP: usize = 64;
const PAYLOAD: &[u8] = &[b'x'; 1_024];
/// Of so many deliveries one fails for good.
const ONE_FAILS: u64 = 200;

#[tokio::main]
async fn main() {
    let args: Vec<String> = std::env::args().collect();
    let number = |at: usize| args[at].parse::<u64>().unwrap();
    let (total, endpoints, directory) = (number(1), number(2), Path::new(&args[3]));
    let mut options = Options::default();
    if args.len() > 5 {
        options.segments = Segments {
            piece: u32::try_from(number(4)).unwrap(),
            size: u32::try_from(number(5)).unwrap(),
        };
    }
    let is_server = args[3].starts_with("postgres://");
    let store = if is_server {
        let options = PostgresOptions {
            url: args[3].clone(),
            segments: options.segments,
            ..PostgresOptions::default()
        };
        SqlStore::connect(options).await.unwrap()
    } else {
        SqlStore::open(directory, &options).unwrap()
    };
    let world = world(&store).await;
    let mut load = Load {
        owners: owners(&world, endpoints).await,
        world,
        dice: 88_172_645_463_325_252,
        waiting: Vec::new(),
    };
    let (mut done, step) = (0, total / 8);
    let (mut since, mut cpu_since) = (Instant::now(), cpu());
    let mut commits = Vec::new();
    while done < total {
        commits.push(load.group().await);
        done += GROUP as u64;
        if done % step < GROUP as u64 {
            let micros = (cpu() - cpu_since).as_micros() / u128::from(step);
            let rate = f64::from(u32::try_from(step).unwrap()) / since.elapsed().as_secs_f64();
            println!(
                "{done:>10} deliveries  {rate:>7.0}/s  cpu {micros:>4} us each  commits {}",
                spread(&mut commits)
            );
            commits.clear();
            (since, cpu_since) = (Instant::now(), cpu());
        }
    }
    println!("{} bytes each", store.used_bytes().await.unwrap() / total);
    look(&store, load.owners[0]).await;
    forget(&mut load).await;
}

/// Events and their ends, group by group.
struct Load<'s> {
    world: World<'s>,
    owners: Vec<(Id<id::Tenant>, Id<id::Endpoint>)>,
    dice: u64,
    waiting: Vec<(Id<id::Delivery>, Id<id::Endpoint>)>,
}

impl Load<'_> {
    /// Commits the next group, and tells how long that took.
    async fn group(&mut self) -> Duration {
        let now = now();
        let waiting = std::mem::take(&mut self.waiting);
        let ended = waiting.into_iter();
        let mut batch = Batch::of_records(
            ended.map(|(delivery, endpoint)| an_end(&mut self.dice, delivery, endpoint, now)),
        );
        batch.publishes.extend((0..GROUP).map(|_| {
            let at = next(&mut self.dice) % self.owners.len() as u64;
            let (tenant, _) = self.owners[usize::try_from(at).unwrap()];
            publishing(&self.world, tenant, now)
        }));
        let begun = Instant::now();
        let answers = self.world.store.commit_all(now.into(), batch).await;
        assert!(answers.records.iter().all(Result::is_ok));
        for published in answers.publishes {
            let published = published.unwrap();
            let due = published.deliveries.first().unwrap();
            self.waiting.push((due.delivery.id, due.delivery.endpoint));
        }
        begun.elapsed()
    }
}

/// Forgets all that was there, with a group of new deliveries after each piece, as a round and publishers take turns.
async fn forget(load: &mut Load<'_>) {
    let keep = Keep {
        before: now(),
        own: [].into(),
        audit_before: now(),
    };
    let (mut from, mut pruned) = (Some(PruneFrom::default()), Pruned::default());
    let (mut pieces, mut commits, cpu_since) = (Vec::new(), Vec::new(), cpu());
    while let Some(piece) = from {
        let begun = Instant::now();
        let (gone, next) = load.world.store.prune(&keep, piece).await.unwrap();
        pieces.push(begun.elapsed());
        (pruned, from) = (sum(pruned, gone), next);
        commits.push(load.group().await);
    }
    let micros = (cpu() - cpu_since).as_micros() / u128::from(pruned.deliveries.max(1));
    println!(
        "forgot {} deliveries in {} pieces of {}; commits between them {}; cpu {micros} us each with those",
        pruned.deliveries,
        pieces.len(),
        spread(&mut pieces),
        spread(&mut commits)
    );
}

fn sum(mut pruned: Pruned, gone: Pruned) -> Pruned {
    pruned += gone;
    pruned
}

fn spread(times: &mut [Duration]) -> String {
    times.sort();
    let of = |thousandth: usize| times[(times.len() - 1) * thousandth / 1_000];
    let (median, late, last) = (of(500), of(990), of(1_000));
    format!("{median:>5.1?} p50 {late:>5.1?} p99 {last:>5.1?} max")
}

async fn owners(world: &World<'_>, count: u64) -> Vec<(Id<id::Tenant>, Id<id::Endpoint>)> {
    let by = postrider_store::conformance::fixture::by;
    let mut owners = Vec::new();
    for _ in 0..count {
        let tenant = world.store.ids().next(now());
        let a_tenant = world.a_tenant(tenant, None);
        world
            .store
            .create_tenant(a_tenant, "standard".into(), by())
            .await
            .unwrap();
        let endpoint = postrider_core::endpoint::Endpoint {
            tenant,
            ..world.an_endpoint()
        };
        owners.push((tenant, endpoint.id));
        let created = world.store.create_endpoint(endpoint, None, by());
        created.await.unwrap();
    }
    owners
}

fn publishing(world: &World<'_>, tenant: Id<id::Tenant>, now: Timestamp) -> NewEvent {
    NewEvent {
        event: Arc::new(Event {
            tenant,
            data: Bytes::from_static(PAYLOAD),
            ..world.an_event(now, "order.completed")
        }),
        target: Target::Matching,
        profile: 1,
        idempotency: None,
    }
}

fn an_end(
    dice: &mut u64,
    delivery: Id<id::Delivery>,
    endpoint: Id<id::Endpoint>,
    now: Timestamp,
) -> RecordAttempt {
    let (status, next, health) = if next(dice).is_multiple_of(ONE_FAILS) {
        let reason = postrider_core::delivery::FailReason::Stopped;
        (410, Next::Failed(reason), HealthChange::None)
    } else {
        (200, Next::Delivered, HealthChange::Success)
    };
    RecordAttempt {
        attempt: an_attempt(status, now),
        ..record(delivery, endpoint, 1, next, health, now)
    }
}

fn an_attempt(status: u16, now: Timestamp) -> Attempt {
    let header = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    Attempt {
        number: 1,
        started_at: now,
        ended_at: now,
        url: "http://127.0.0.1:9100/t0/e0/some/path".into(),
        request_headers: [
            ("webhook-id", "msg_2aFzKq0Q0aFzKq0Q0aFzKq0Q"),
            ("webhook-timestamp", "1764043361"),
            (
                "webhook-signature",
                "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
            ),
            ("content-type", "application/json"),
            ("user-agent", "Postrider/0.1.0"),
            ("accept", "*/*"),
        ]
        .map(header)
        .into(),
        outcome: Outcome::Answered {
            status,
            retry_after_secs: None,
        },
        response: Some(Response {
            headers: [
                ("content-length", "0"),
                ("date", "Wed, 25 Nov 2026 04:02:41 GMT"),
            ]
            .map(header)
            .into(),
            body: Bytes::new(),
            truncated: false,
        }),
        timings: Timings {
            dns_micros: None,
            connect_micros: None,
            tls_micros: None,
            first_byte_micros: Some(300),
            total_micros: 400,
        },
        manual: false,
        egress: None,
        rendering: None,
    }
}

/// How long a look takes: the median of eleven.
async fn look(store: &SqlStore, (tenant, endpoint): (Id<id::Tenant>, Id<id::Endpoint>)) {
    let page = PageRequest::first(50);
    let of_tenant = DeliveryFilter {
        tenant: Some(tenant),
        ..DeliveryFilter::default()
    };
    let of_endpoint = DeliveryFilter {
        endpoint: Some(endpoint),
        ..DeliveryFilter::default()
    };
    let failed = |filter: &DeliveryFilter| DeliveryFilter {
        state: Some(StatePattern::Failed),
        ..filter.clone()
    };
    let filters = [
        ("all deliveries", DeliveryFilter::default()),
        ("a tenant's deliveries", of_tenant.clone()),
        ("an endpoint's deliveries", of_endpoint.clone()),
        ("a tenant's that failed", failed(&of_tenant)),
        ("an endpoint's that failed", failed(&of_endpoint)),
    ];
    for (what, filter) in filters {
        timed(what, || async {
            store
                .list_deliveries(filter.clone(), page)
                .await
                .map(|page| page.rows.len())
        })
        .await;
    }
    let of_tenant = EventFilter {
        tenant: Some(tenant),
        ..EventFilter::default()
    };
    timed("a tenant's events", || async {
        store
            .list_events(of_tenant.clone(), page)
            .await
            .map(|page| page.rows.len())
    })
    .await;
    let day = Duration::from_secs(86_400);
    let since = Timestamp::from_micros(now().as_micros() - 86_400_000_000);
    timed("an endpoint's counts of a day", || async {
        let stats = store.endpoint_stats(endpoint, since).await;
        stats.map(|stats| usize::try_from(stats.delivered).unwrap_or(0))
    })
    .await;
    let query = StatisticsQuery {
        tenant,
        since: Timestamp::from_micros(now().as_micros() - 30 * 86_400_000_000),
        until: now(),
        event_type: None,
        endpoint: None,
        mode: None,
        state: None,
        outcomes: true,
        period: day,
    };
    timed("a tenant's statistics of a month", || async {
        let statistics = store.statistics(query.clone()).await;
        statistics.map(|statistics| statistics.by_type.len())
    })
    .await;
}

async fn timed<F: Future<Output = Result<usize, postrider_store::StoreError>>>(
    what: &str,
    question: impl Fn() -> F,
) {
    let mut times = Vec::new();
    let mut found = Ok(0);
    for _ in 0..11 {
        let begun = Instant::now();
        found = question().await;
        times.push(begun.elapsed());
    }
    times.sort();
    let found = found.map_or_else(|error| error.to_string(), |found| found.to_string());
    println!("{what:<32} {:>9.1?}  ({found})", times[times.len() / 2]);
}

fn now() -> Timestamp {
    let since = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
    Timestamp::from_micros(i64::try_from(since.as_micros()).unwrap())
}

/// Xorshift: the same rows in each run.
fn next(dice: &mut u64) -> u64 {
    *dice ^= *dice << 13;
    *dice ^= *dice >> 7;
    *dice ^= *dice << 17;
    *dice
}

/// CPU time of the process, by the kernel's accounting (hundredths of a second).
fn cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap();
    let behind_name = &text[text.rfind(')').unwrap() + 2..];
    let fields: Vec<&str> = behind_name.split(' ').collect();
    let ticks = |at: usize| fields[at].parse::<u64>().unwrap();
    Duration::from_millis((ticks(11) + ticks(12)) * 10)
}
