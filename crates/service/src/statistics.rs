//! Statistics of a tenant's deliveries: counts by type, key, mode and status, and over time
//! (`docs/systems.md`, S-31). The list behind every count is that of deliveries with the same filter.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use postrider_core::endpoint::EndpointKind;
use postrider_core::limits::SERIES_POINTS_MAX;
use postrider_core::tenant::Mode;
use postrider_core::time::parse_duration;
use postrider_core::{Id, Timestamp, id};
use postrider_store::{EndpointStats, Outcomes, StatePattern, StatisticsQuery, Times};

use crate::deliveries::endpoint_or_key;
use crate::reading::must_be_range;
use crate::refusal::{Refusal, Result};
use crate::{Caller, Service};

/// What is looked at when no time is given.
const RANGE_DEFAULT: Duration = Duration::from_secs(24 * 3_600);
/// Points a series has at most when no period is given.
const POINTS_DEFAULT: u64 = 100;
/// Endpoints told of one by one.
const ENDPOINTS_TOLD: usize = 250;
/// Periods to choose from, in seconds: a minute to a week.
const PERIODS: [u64; 9] = [60, 300, 900, 3_600, 10_800, 21_600, 43_200, 86_400, 604_800];

/// Which deliveries are counted.
#[derive(Debug, Default)]
pub struct StatisticsAsked {
    pub since: Option<Timestamp>,
    pub until: Option<Timestamp>,
    pub event_type: Option<String>,
    pub state: Option<StatePattern>,
    pub mode: Option<Mode>,
    /// The public id of an API key: what goes to the endpoint that it owns.
    pub key: Option<String>,
    pub endpoint: Option<Id<id::Endpoint>>,
    /// Length of a point of the series: `5m`, `1h`, `1d`.
    pub period: Option<String>,
    /// Without how attempts ended, which takes as long again.
    pub without_outcomes: bool,
}

/// Deliveries by how they stand, and the attempts that were made for them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub total: u64,
    pub pending: u64,
    pub delivered: u64,
    pub failed: u64,
    pub cancelled: u64,
    pub skipped: u64,
    pub attempts: u64,
}

impl Counts {
    fn of(stats: EndpointStats) -> Self {
        let mut counts = Self::default();
        counts.add(stats);
        counts
    }

    fn add(&mut self, stats: EndpointStats) {
        self.total += stats.total();
        self.pending += stats.pending;
        self.delivered += stats.delivered;
        self.failed += stats.failed;
        self.cancelled += stats.cancelled;
        self.skipped += stats.skipped;
        self.attempts += stats.attempts;
    }
}

/// Counts of one endpoint.
#[derive(Debug)]
pub struct CountsOfEndpoint {
    pub endpoint: Id<id::Endpoint>,
    /// The public id of the API key that owns it.
    pub key: Option<String>,
    pub counts: Counts,
}

/// How a tenant's deliveries fared in a range of time.
#[derive(Debug)]
pub struct Statistics {
    pub since: Timestamp,
    pub until: Timestamp,
    pub totals: Counts,
    /// By name; of very many the first that were found.
    pub by_type: Vec<(Arc<str>, Counts)>,
    /// Of all others together.
    pub other_types: Option<Counts>,
    pub by_mode: Vec<(Mode, Counts)>,
    /// Those with the most deliveries.
    pub by_endpoint: Vec<CountsOfEndpoint>,
    /// How many others there are.
    pub more_endpoints: usize,
    pub period: Duration,
    /// Counts from each time on; periods without deliveries are left out.
    pub series: Vec<Point>,
    /// Of the attempts that were made for them; none where a state was asked for.
    pub outcomes: Option<Outcomes>,
}

/// What there was from a time on, for a period.
#[derive(Debug, Clone, Copy)]
pub struct Point {
    pub at: Timestamp,
    pub counts: Counts,
    /// How long answers took; without any where a state was asked for.
    pub times: Times,
}

impl Service {
    /// Counts a tenant's deliveries; of the last day, when no time is given.
    ///
    /// # Errors
    /// Of a range or a period that cannot be, `not_found`, or what the store answers.
    pub async fn statistics(
        &self,
        who: &Caller,
        tenant: Id<id::Tenant>,
        asked: StatisticsAsked,
    ) -> Result<Statistics> {
        let tenant = who.tenant(self, tenant).await?;
        must_be_range(asked.since, asked.until)?;
        let until = asked.until.unwrap_or_else(|| self.now());
        let since = asked.since.unwrap_or_else(|| until.minus(RANGE_DEFAULT));
        if since >= until {
            return Err(Refusal::invalid("since", "must be before until"));
        }
        let endpoint = endpoint_or_key(self, who, asked.endpoint, asked.key.as_deref()).await?;
        let period = period(asked.period.as_deref(), until.since(since))?;
        let question = StatisticsQuery {
            tenant: tenant.id,
            since,
            until,
            event_type: asked.event_type,
            endpoint,
            mode: who.shown(asked.mode)?,
            state: asked.state,
            outcomes: !asked.without_outcomes,
            period,
        };
        let store = self.0.store.clone();
        let count = async move { store.statistics(question).await };
        let statistics = self.counted(tenant.id, count).await?;
        let mut totals = Counts::default();
        for (_, counts) in &statistics.by_mode {
            totals.add(*counts);
        }
        let (by_endpoint, more_endpoints) = by_endpoint(self, statistics.by_endpoint).await?;
        let by_type = statistics.by_type.into_iter();
        let others = Some(statistics.other_types).filter(|counts| counts.total() > 0);
        let by_mode = statistics.by_mode.into_iter();
        let series = statistics.series.into_iter();
        Ok(Statistics {
            since,
            until,
            totals,
            by_type: by_type
                .map(|(name, counts)| (name, Counts::of(counts)))
                .collect(),
            other_types: others.map(Counts::of),
            by_mode: by_mode
                .map(|(mode, counts)| (mode, Counts::of(counts)))
                .collect(),
            by_endpoint,
            more_endpoints,
            period,
            series: series
                .map(|point| Point {
                    at: point.at,
                    counts: Counts::of(point.counts),
                    times: point.times,
                })
                .collect(),
            outcomes: statistics.outcomes,
        })
    }
}

fn period(given: Option<&str>, range: Duration) -> Result<Duration> {
    let Some(text) = given else {
        let fits = |secs: &u64| range.as_secs() / secs <= POINTS_DEFAULT;
        // The finest that makes few enough points.
        let secs = PERIODS.into_iter().find(fits);
        return Ok(Duration::from_secs(
            secs.unwrap_or(PERIODS[PERIODS.len() - 1]),
        ));
    };
    let rule = || {
        let rule = format!(
            "must be a duration such as 5m, 1h or 1d, and the range have at most {SERIES_POINTS_MAX} of it"
        );
        Refusal::invalid("period", rule)
    };
    let period = parse_duration(text).ok_or_else(rule)?;
    // Parts of a second are cut: what has only those would be divided by as zero.
    if period.as_secs() == 0 || range.as_secs() / period.as_secs() > SERIES_POINTS_MAX {
        return Err(rule());
    }
    Ok(period)
}

/// The endpoints with the most deliveries, each with the key that owns it, and how many there are
/// besides.
async fn by_endpoint(
    service: &Service,
    mut sums: Vec<(Id<id::Endpoint>, EndpointStats)>,
) -> Result<(Vec<CountsOfEndpoint>, usize)> {
    sums.sort_by_key(|(_, counts)| std::cmp::Reverse(counts.total()));
    let more = sums.len().saturating_sub(ENDPOINTS_TOLD);
    // Before their keys are read, each by itself.
    sums.truncate(ENDPOINTS_TOLD);
    let ids = sums.iter().map(|(endpoint, _)| *endpoint).collect();
    let mut owners = HashMap::new();
    for endpoint in service.store().endpoints(ids).await? {
        if let EndpointKind::Key(key) = endpoint.kind {
            match service.store().key(key).await {
                Ok(key) => drop(owners.insert(endpoint.id, key.public_id)),
                // A deleted key has none.
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    let told = sums.into_iter().map(|(endpoint, counts)| CountsOfEndpoint {
        endpoint,
        key: owners.remove(&endpoint).flatten(),
        counts: Counts::of(counts),
    });
    Ok((told.collect(), more))
}
