//! Statistics of a tenant's deliveries: counts by type, key, mode and status, and over time
//! (`docs/systems.md`, S-31). The list behind every count is `/v1/deliveries` with the same filter.

use axum::extract::State;
use postrider_core::tenant::Mode;
use postrider_core::{Id, Timestamp, id};
use postrider_service::{self as service, Caller, Statistics, StatisticsAsked, Times, read_state};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::deliveries::endpoint_meant;
use crate::Api;
use crate::openapi::{OfTenant, Refusals};
use crate::problem::Answer;
use crate::request::{Path, Query, given_time, ok, read_id};

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct StatisticsParams {
    /// From this time on.
    #[param(value_type = Option<Timestamp>)]
    since: Option<String>,
    /// Before this time.
    #[param(value_type = Option<Timestamp>)]
    until: Option<String>,
    /// Of this event type.
    r#type: Option<String>,
    /// `pending`, `delivered`, `failed`, `cancelled` or `skipped`.
    status: Option<String>,
    /// Of this mode.
    mode: Option<Mode>,
    /// The public id of an API key: what goes to the endpoint that it owns.
    key: Option<String>,
    /// To this endpoint, by its id or its `wireId`.
    endpoint: Option<String>,
    /// Length of a point of the series: `5m`, `1h`, `1d`.
    period: Option<String>,
}

#[derive(Serialize, Clone, Copy, Default, ToSchema)]
struct Counts {
    total: u64,
    pending: u64,
    delivered: u64,
    failed: u64,
    cancelled: u64,
    skipped: u64,
    attempts: u64,
}

impl From<service::Counts> for Counts {
    fn from(counts: service::Counts) -> Self {
        Self {
            total: counts.total,
            pending: counts.pending,
            delivered: counts.delivered,
            failed: counts.failed,
            cancelled: counts.cancelled,
            skipped: counts.skipped,
            attempts: counts.attempts,
        }
    }
}

#[derive(Serialize, ToSchema)]
struct ByType {
    r#type: String,
    #[serde(flatten)]
    counts: Counts,
}

#[derive(Serialize, ToSchema)]
struct ByMode {
    mode: Mode,
    #[serde(flatten)]
    counts: Counts,
}

#[derive(Serialize, ToSchema)]
struct ByEndpoint {
    endpoint: Id<id::Endpoint>,
    /// The public id of the API key that owns it.
    key: Option<String>,
    #[serde(flatten)]
    counts: Counts,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Point {
    at: Timestamp,
    #[serde(flatten)]
    counts: Counts,
    /// Not with `status`.
    #[serde(skip_serializing_if = "Option::is_none")]
    answer_times: Option<AnswerTimes>,
}

#[derive(Serialize, ToSchema)]
struct Outcome {
    /// A status, such as `200`, or why there was no answer: `dns`, `address_forbidden`, `connect`, `tls`, `timeout`,
    /// `reset`, `protocol`, `too_large`, `internal`.
    outcome: String,
    attempts: u64,
}

/// How long answers took, from looking up the name to the last byte, rounded up: half of them, and 99 of 100, took no longer. Null without answers, and where it was more than a minute.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct AnswerTimes {
    answers: u64,
    p50_millis: Option<u64>,
    p90_millis: Option<u64>,
    p99_millis: Option<u64>,
}

impl From<&Times> for AnswerTimes {
    fn from(times: &Times) -> Self {
        let within = |part| {
            let within = times.within(part)?;
            u64::try_from(within.as_millis()).ok()
        };
        Self {
            answers: times.answers(),
            p50_millis: within(50),
            p90_millis: within(90),
            p99_millis: within(99),
        }
    }
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct StatisticsView {
    since: Timestamp,
    until: Timestamp,
    totals: Counts,
    /// By name, at most 1,000.
    by_type: Vec<ByType>,
    /// Of all further types together.
    #[serde(skip_serializing_if = "Option::is_none")]
    other_types: Option<Counts>,
    by_mode: Vec<ByMode>,
    /// Those with the most deliveries.
    by_endpoint: Vec<ByEndpoint>,
    /// How many others there are.
    more_endpoints: usize,
    period_seconds: u64,
    /// Periods without deliveries are left out.
    series: Vec<Point>,
    /// How the attempts ended that were made for these deliveries, the most frequent first. Not with `status`, and not where some
    /// were recorded by a version that did not count them.
    #[serde(skip_serializing_if = "Option::is_none")]
    outcomes: Option<Vec<Outcome>>,
    /// Of the attempts that were answered; where `outcomes` are.
    #[serde(skip_serializing_if = "Option::is_none")]
    answer_times: Option<AnswerTimes>,
}

impl From<Statistics> for StatisticsView {
    fn from(s: Statistics) -> Self {
        let by_type = s.by_type.into_iter().map(|(name, counts)| ByType {
            r#type: name.as_ref().to_owned(),
            counts: counts.into(),
        });
        let by_mode = s.by_mode.into_iter().map(|(mode, counts)| ByMode {
            mode,
            counts: counts.into(),
        });
        let by_endpoint = s.by_endpoint.into_iter().map(|of| ByEndpoint {
            endpoint: of.endpoint,
            key: of.key,
            counts: of.counts.into(),
        });
        let is_counted = s.outcomes.is_some();
        let series = s.series.into_iter().map(|point| Point {
            at: point.at,
            counts: point.counts.into(),
            answer_times: is_counted.then(|| (&point.times).into()),
        });
        let outcomes = s.outcomes.as_ref().map(|outcomes| {
            let by_count = outcomes.by_count();
            let by_count = by_count.into_iter().map(|(outcome, attempts)| Outcome {
                outcome: outcome.to_owned(),
                attempts,
            });
            by_count.collect()
        });
        Self {
            since: s.since,
            until: s.until,
            totals: s.totals.into(),
            by_type: by_type.collect(),
            other_types: s.other_types.map(Into::into),
            by_mode: by_mode.collect(),
            by_endpoint: by_endpoint.collect(),
            more_endpoints: s.more_endpoints,
            period_seconds: s.period.as_secs(),
            series: series.collect(),
            outcomes,
            answer_times: s.outcomes.map(|outcomes| (&outcomes.times).into()),
        }
    }
}

/// Counts a tenant's deliveries by type, mode and endpoint, and over time.
#[utoipa::path(
    get, path = "/v1/tenants/{tenant}/statistics", tag = "Deliveries", operation_id = "getStatistics",
    params(OfTenant, StatisticsParams),
    responses((status = OK, description = "Done.", body = StatisticsView), Refusals),
)]
pub(crate) async fn read(
    State(api): State<Api>,
    caller: Caller,
    Path(tenant): Path<String>,
    Query(params): Query<StatisticsParams>,
) -> Answer {
    let asked = StatisticsAsked {
        since: given_time("since", params.since.as_deref())?,
        until: given_time("until", params.until.as_deref())?,
        event_type: params.r#type,
        state: read_state(params.status.as_deref())?,
        mode: params.mode,
        key: params.key,
        endpoint: endpoint_meant(&api, params.endpoint.as_deref()).await?,
        period: params.period,
        without_outcomes: false,
    };
    let tenant = read_id(&tenant)?;
    let statistics = api.service.statistics(&caller, tenant, asked).await?;
    Ok(ok(&StatisticsView::from(statistics)))
}
