//! How an endpoint is doing: the test call, and counts of its deliveries.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use postrider_core::Timestamp;
use postrider_core::attempt::{Attempt, Outcome};
use postrider_core::endpoint::Endpoint;
use postrider_core::event::Event;
use postrider_core::profile::Class;
use postrider_engine::CurrentProfile;
use serde::{Deserialize, Serialize};

use super::found;
use crate::Api;
use crate::auth::Caller;
use crate::problem::ApiResult;
use crate::request::{Path, Query, given_time, ok};

const STATS_DEFAULT: Duration = Duration::from_secs(24 * 3_600);

/// Makes the test call: one signed request, now, not recorded, whatever the endpoint's state.
pub(crate) async fn send_test(
    api: &Api,
    endpoint: &Endpoint,
    current: &CurrentProfile,
) -> ApiResult<(bool, Attempt)> {
    let profile = &current.profile;
    let now = api.now();
    let wire_id = profile.ids.endpoint.render(endpoint.id);
    let data =
        serde_json::json!({ "webhookId": wire_id, "message": profile.test.message }).to_string();
    let event = Event {
        id: api.store().ids().next(now),
        application: endpoint.application,
        tenant: endpoint.tenant,
        event_type: Arc::from(profile.test.event.as_str()),
        data: Bytes::from(data),
        meta: None,
        mode: endpoint.mode,
        occurred_at: now,
        created_at: now,
        ordering_key: None,
        deliver_before: None,
    };
    let attempt = api
        .engine()
        .test(endpoint.id, Arc::new(event), current.version)
        .await?;
    let success = profile.classify.class(&attempt.outcome) == Class::Ok;
    Ok((success, attempt))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TestView {
    success: bool,
    status_code: Option<u16>,
    /// Milliseconds.
    response_time: u64,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

pub(crate) async fn test(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Response> {
    let (endpoint, profile) = found(&api, &caller, &id).await?;
    let (success, attempt) = send_test(&api, &endpoint, &profile).await?;
    let (status_code, error) = match attempt.outcome {
        Outcome::Answered { status, .. } => (Some(status), None),
        Outcome::Unreachable { reason, detail } => {
            (None, Some(format!("{}: {detail}", reason.as_str())))
        }
    };
    let test = &profile.profile.test;
    let message = if success {
        test.ok.clone()
    } else {
        test.fail.clone()
    };
    let response_time = u64::from(
        attempt
            .timings
            .first_byte_micros
            .unwrap_or(attempt.timings.total_micros)
            / 1_000,
    );
    Ok(ok(&TestView {
        success,
        status_code,
        response_time,
        message,
        error,
    }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StatsQuery {
    since: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StatsView {
    since: Timestamp,
    pending: u64,
    delivered: u64,
    failed: u64,
    cancelled: u64,
    attempts: u64,
}

pub(crate) async fn stats(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    Query(query): Query<StatsQuery>,
) -> ApiResult<Response> {
    let (endpoint, _) = found(&api, &caller, &id).await?;
    let since = given_time("since", query.since.as_deref())?
        .unwrap_or_else(|| api.now().minus(STATS_DEFAULT));
    let s = api.store().endpoint_stats(endpoint.id, since).await?;
    let view = StatsView {
        since,
        pending: s.pending,
        delivered: s.delivered,
        failed: s.failed,
        cancelled: s.cancelled,
        attempts: s.attempts,
    };
    Ok(ok(&view))
}
