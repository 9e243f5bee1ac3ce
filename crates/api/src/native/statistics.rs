//! Statistics of a tenant's deliveries: counts by type, key, mode and status, and over time
//! (`docs/systems.md`, S-31). The list behind every count is `/v1/deliveries` with the same filter.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use postrider_core::endpoint::EndpointKind;
use postrider_core::limits::SERIES_POINTS_MAX;
use postrider_core::tenant::Mode;
use postrider_core::time::parse_duration;
use postrider_core::{Id, Timestamp, id};
use postrider_store::{EndpointStats, StatisticsGroup, StatisticsQuery};
use serde::{Deserialize, Serialize};

use super::deliveries::{endpoint_or_key, status};
use super::events::bounds;
use crate::Api;
use crate::auth::Caller;
use crate::problem::{ApiError, ApiResult};
use crate::request::{Path, Query, ok, path_id};

/// What is looked at when no time is given.
const RANGE_DEFAULT: Duration = Duration::from_secs(24 * 3_600);
/// Points a series has at most when no period is given.
const POINTS_DEFAULT: u64 = 100;
/// Endpoints told of one by one.
const ENDPOINTS_TOLD: usize = 250;
/// Periods to choose from, in seconds: a minute to a week.
const PERIODS: [u64; 9] = [60, 300, 900, 3_600, 10_800, 21_600, 43_200, 86_400, 604_800];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StatisticsParams {
    since: Option<String>,
    until: Option<String>,
    r#type: Option<String>,
    status: Option<String>,
    mode: Option<Mode>,
    key: Option<String>,
    endpoint: Option<String>,
    /// Length of a point of the series: `5m`, `1h`, `1d`.
    period: Option<String>,
}

#[derive(Serialize, Clone, Copy, Default)]
struct Counts {
    total: u64,
    pending: u64,
    delivered: u64,
    failed: u64,
    cancelled: u64,
    skipped: u64,
    attempts: u64,
}

impl Counts {
    fn add(&mut self, stats: EndpointStats) {
        self.total +=
            stats.pending + stats.delivered + stats.failed + stats.cancelled + stats.skipped;
        self.pending += stats.pending;
        self.delivered += stats.delivered;
        self.failed += stats.failed;
        self.cancelled += stats.cancelled;
        self.skipped += stats.skipped;
        self.attempts += stats.attempts;
    }
}

#[derive(Serialize)]
struct ByType {
    r#type: String,
    #[serde(flatten)]
    counts: Counts,
}

#[derive(Serialize)]
struct ByMode {
    mode: Mode,
    #[serde(flatten)]
    counts: Counts,
}

#[derive(Serialize)]
struct ByEndpoint {
    endpoint: Id<id::Endpoint>,
    /// The public id of the API key that owns it.
    key: Option<String>,
    #[serde(flatten)]
    counts: Counts,
}

#[derive(Serialize)]
struct Point {
    at: Timestamp,
    #[serde(flatten)]
    counts: Counts,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StatisticsView {
    since: Timestamp,
    until: Timestamp,
    totals: Counts,
    by_type: Vec<ByType>,
    by_mode: Vec<ByMode>,
    /// Those with the most deliveries.
    by_endpoint: Vec<ByEndpoint>,
    /// How many others there are.
    more_endpoints: usize,
    period_seconds: u64,
    /// Periods without deliveries are left out.
    series: Vec<Point>,
}

fn period(given: Option<&str>, range: Duration) -> ApiResult<Duration> {
    let Some(text) = given else {
        let fits = |secs: &u64| range.as_secs() / secs <= POINTS_DEFAULT;
        let secs = PERIODS.into_iter().find(fits);
        return Ok(Duration::from_secs(
            secs.unwrap_or(PERIODS[PERIODS.len() - 1]),
        ));
    };
    let rule = || {
        let rule = format!(
            "must be a duration such as 5m, 1h or 1d, and the range have at most {SERIES_POINTS_MAX} of it"
        );
        ApiError::invalid("period", rule)
    };
    let period = parse_duration(text).ok_or_else(rule)?;
    if period.as_secs() == 0 || range.as_secs() / period.as_secs() > SERIES_POINTS_MAX {
        return Err(rule());
    }
    Ok(period)
}

/// Sums groups that share a key.
fn sums<K: Ord>(
    groups: &[StatisticsGroup],
    key: impl Fn(&StatisticsGroup) -> K,
) -> BTreeMap<K, Counts> {
    let mut sums: BTreeMap<K, Counts> = BTreeMap::new();
    for group in groups {
        sums.entry(key(group)).or_default().add(group.counts);
    }
    sums
}

pub(crate) async fn read(
    State(api): State<Api>,
    caller: Caller,
    Path(tenant): Path<String>,
    Query(query): Query<StatisticsParams>,
) -> ApiResult<Response> {
    let tenant = caller.tenant(&api, path_id(&tenant)?).await?;
    let (since, until) = bounds(query.since.as_deref(), query.until.as_deref())?;
    let until = until.unwrap_or_else(|| api.now());
    let since = since.unwrap_or_else(|| until.minus(RANGE_DEFAULT));
    if since >= until {
        return Err(ApiError::invalid("since", "must be before until"));
    }
    let endpoint = endpoint_or_key(
        &api,
        &caller,
        query.endpoint.as_deref(),
        query.key.as_deref(),
    )
    .await?;
    let period = period(query.period.as_deref(), until.since(since))?;
    let question = StatisticsQuery {
        tenant: tenant.id,
        since,
        until,
        event_type: query.r#type,
        endpoint,
        mode: caller.shown(query.mode)?,
        state: status(query.status.as_deref())?,
        period,
    };
    let store = api.0.store.clone();
    let count = async move { store.statistics(question).await };
    let statistics = api.counted(tenant.id, count).await?;
    let groups = &statistics.groups;
    let mut totals = Counts::default();
    for group in groups {
        totals.add(group.counts);
    }
    let (by_endpoint, more_endpoints) = by_endpoint(&api, groups).await?;
    let by_type = sums(groups, |group| group.event_type.clone());
    let by_mode = sums(groups, |group| group.mode == Mode::Test);
    let series = statistics.series.iter().map(|point| {
        let mut counts = Counts::default();
        counts.add(point.counts);
        Point {
            at: point.at,
            counts,
        }
    });
    Ok(ok(&StatisticsView {
        since,
        until,
        totals,
        by_type: by_type
            .into_iter()
            .map(|(name, counts)| ByType {
                r#type: name.as_ref().to_owned(),
                counts,
            })
            .collect(),
        by_mode: by_mode
            .into_iter()
            .map(|(test, counts)| ByMode {
                mode: if test { Mode::Test } else { Mode::Live },
                counts,
            })
            .collect(),
        by_endpoint,
        more_endpoints,
        period_seconds: period.as_secs(),
        series: series.collect(),
    }))
}

/// The endpoints with the most deliveries, each with the key that owns it, and how many there are
/// besides.
async fn by_endpoint(api: &Api, groups: &[StatisticsGroup]) -> ApiResult<(Vec<ByEndpoint>, usize)> {
    let mut sums: Vec<_> = sums(groups, |group| group.endpoint).into_iter().collect();
    sums.sort_by_key(|(_, counts)| std::cmp::Reverse(counts.total));
    let more = sums.len().saturating_sub(ENDPOINTS_TOLD);
    sums.truncate(ENDPOINTS_TOLD);
    let ids = sums.iter().map(|(endpoint, _)| *endpoint).collect();
    let mut owners = HashMap::new();
    for endpoint in api.store().endpoints(ids).await? {
        if let EndpointKind::Key(key) = endpoint.kind {
            match api.store().key(key).await {
                Ok(key) => drop(owners.insert(endpoint.id, key.public_id)),
                // A deleted key has none.
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    let told = sums.into_iter().map(|(endpoint, counts)| ByEndpoint {
        endpoint,
        key: owners.remove(&endpoint).flatten(),
        counts,
    });
    Ok((told.collect(), more))
}
