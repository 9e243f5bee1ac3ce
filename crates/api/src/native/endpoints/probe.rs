//! How an endpoint is doing: the test call, and counts of its deliveries.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use postrider_core::attempt::{Attempt, Outcome};
use postrider_core::audit::{Actor, test_entry};
use postrider_core::endpoint::Endpoint;
use postrider_core::event::Event;
use postrider_core::filter::is_event_type;
use postrider_core::profile::{Class, Profile};
use postrider_core::{Id, Timestamp, id};
use postrider_engine::CurrentProfile;
use postrider_engine::budget::{Budget, Grant};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{found, may_sign};
use crate::Api;
use crate::auth::Caller;
use crate::dialects::RateLimits;
use crate::native::event_types;
use crate::problem::{ApiError, ApiResult, ErrorCode};
use crate::request::{Path, Query, given_time, ok, typed, well_formed};

const STATS_DEFAULT: Duration = Duration::from_secs(24 * 3_600);

/// What a test call sends.
pub(crate) struct TestEvent {
    pub(crate) event_type: String,
    /// JSON.
    pub(crate) data: String,
}

impl TestEvent {
    /// The profile's own.
    pub(crate) fn of_profile(endpoint: &Endpoint, profile: &Profile) -> Self {
        let wire_id = profile.endpoint_id(endpoint.id, &endpoint.kind);
        let data = serde_json::json!({ "webhookId": wire_id, "message": profile.test.message });
        Self {
            event_type: profile.test.event.clone(),
            data: data.to_string(),
        }
    }
}

/// Test calls of a tenant in a minute; more are refused.
const PROBES_PER_MINUTE: u32 = 60;
/// Test calls of a tenant at once.
const PROBES_AT_ONCE: usize = 4;
/// Of all tenants.
const PROBES_MAX: usize = 64;

/// Keeps test calls, which go past lanes, breakers and rate limits, from becoming a way to flood a host.
pub(crate) struct Probes {
    under_way: Budget,
    recent: RateLimits<id::Tenant>,
}

impl Default for Probes {
    fn default() -> Self {
        Self {
            under_way: Budget::new(PROBES_MAX),
            recent: RateLimits::default(),
        }
    }
}

impl Probes {
    fn enter(&self, tenant: Id<id::Tenant>, now: Timestamp) -> ApiResult<Grant> {
        let minute = Duration::from_secs(60);
        let standing = self.recent.count(tenant, PROBES_PER_MINUTE, minute, now);
        let grant = self.under_way.take(tenant.as_u128(), 1);
        match grant {
            Some(grant) if !standing.exceeded && grant.held() <= PROBES_AT_ONCE => Ok(grant),
            _ => Err(ApiError::new(
                ErrorCode::TestCallsMax,
                format!(
                    "a tenant makes {PROBES_PER_MINUTE} test calls in a minute, {PROBES_AT_ONCE} at once; wait a little"
                ),
            )),
        }
    }
}

/// Makes the test call: one signed request, now, whatever the endpoint's state. It is no delivery; the audit log
/// has who made it and how it ended, also where the client goes away meanwhile.
pub(crate) async fn send_test(
    api: &Api,
    endpoint: &Endpoint,
    current: &CurrentProfile,
    test: TestEvent,
    by: Actor,
) -> ApiResult<(bool, Attempt)> {
    let (sending, endpoint, current) = (api.clone(), endpoint.clone(), current.clone());
    api.to_the_end(async move { test_call(&sending, &endpoint, &current, test, by).await })
        .await
}

async fn test_call(
    api: &Api,
    endpoint: &Endpoint,
    current: &CurrentProfile,
    test: TestEvent,
    by: Actor,
) -> ApiResult<(bool, Attempt)> {
    let profile = &current.profile;
    let now = api.now();
    let place = api.0.probes.enter(endpoint.tenant, now)?;
    let event = Event {
        id: api.store().ids().next(now),
        application: endpoint.application,
        tenant: endpoint.tenant,
        event_type: Arc::from(test.event_type.as_str()),
        data: Bytes::from(test.data),
        meta: None,
        mode: endpoint.mode,
        occurred_at: now,
        created_at: now,
        ordering_key: None,
        deliver_before: None,
        traceparent: None,
    };
    let attempt = api
        .engine()
        .test(endpoint.id, Arc::new(event), current.version)
        .await?;
    drop(place);
    let success = profile.classify.class(&attempt.outcome) == Class::Ok;
    tracing::info!(tenant.id = %endpoint.tenant, endpoint.id = %endpoint.id, success, "a test call was made");
    let entry = test_entry(
        api.store().ids().next(now),
        by,
        endpoint,
        &test.event_type,
        success,
        &attempt.outcome,
    );
    if let Err(error) = api.store().note(entry).await {
        tracing::warn!(endpoint.id = %endpoint.id, error = &error as &dyn std::error::Error, "failed to record a test call");
    }
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

/// Which event to send. Without a body: the profile's own test event.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TestBody<'b> {
    r#type: Option<String>,
    /// The example of the event type, when it is not given.
    #[serde(borrow)]
    data: Option<&'b RawValue>,
}

async fn asked_for(
    api: &Api,
    endpoint: &Endpoint,
    profile: &Profile,
    bytes: &Bytes,
) -> ApiResult<TestEvent> {
    if bytes.is_empty() {
        return Ok(TestEvent::of_profile(endpoint, profile));
    }
    well_formed(bytes)?;
    let asked: TestBody<'_> = typed(bytes)?;
    let event_type = match (asked.r#type, &asked.data) {
        (Some(event_type), _) => event_type,
        (None, None) => return Ok(TestEvent::of_profile(endpoint, profile)),
        (None, Some(_)) => return Err(ApiError::invalid("type", "is needed with data")),
    };
    if !is_event_type(&event_type) {
        return Err(ApiError::invalid("type", "is not an event type"));
    }
    let data = match asked.data {
        Some(data) => data.get().to_owned(),
        None => {
            let example = event_types::example(api, endpoint.application, &event_type).await?;
            let rule = "this event type has no example; give the data to send";
            example.ok_or_else(|| ApiError::invalid("data", rule))?
        }
    };
    let signable = profile.check_signable(data.as_bytes());
    signable.map_err(|error| ApiError::invalid("data", error.to_string()))?;
    Ok(TestEvent { event_type, data })
}

pub(crate) async fn test(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<String>,
    body: Body,
) -> ApiResult<Response> {
    let (endpoint, profile) = found(&api, &caller, &id).await?;
    may_sign(&caller, &endpoint)?;
    let bytes = api.body(caller.holder(), body).await?;
    let asked = asked_for(&api, &endpoint, &profile.profile, &bytes).await?;
    let by = caller.actor(&api);
    let (success, attempt) = send_test(&api, &endpoint, &profile, asked, by).await?;
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
    skipped: u64,
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
    let store = api.0.store.clone();
    let count = async move { store.endpoint_stats(endpoint.id, since).await };
    let s = api.counted(endpoint.tenant, count).await?;
    let view = StatsView {
        since,
        pending: s.pending,
        delivered: s.delivered,
        failed: s.failed,
        cancelled: s.cancelled,
        skipped: s.skipped,
        attempts: s.attempts,
    };
    Ok(ok(&view))
}
