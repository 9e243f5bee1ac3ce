//! How an endpoint is doing: the test call, and counts of its deliveries.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use postrider_core::attempt::{Attempt, Outcome, UnreachableReason};
use postrider_core::audit::{Actor, test_entry};
use postrider_core::endpoint::Endpoint;
use postrider_core::event::Event;
use postrider_core::filter::is_event_type;
use postrider_core::json::check_json;
use postrider_core::profile::{Class, Profile};
use postrider_core::{Id, Timestamp, id};

use super::{found, may_sign};
use crate::budget::{Budget, Grant};
use crate::events::carriable;
use crate::refusal::{ErrorCode, Refusal, Result};
use crate::windows::Windows;
use crate::{Caller, CurrentProfile, Service, event_types};

pub use postrider_store::EndpointStats;

const STATS_DEFAULT: Duration = Duration::from_secs(24 * 3_600);

/// Which event a test call sends. Nothing named: the profile's own test event.
#[derive(Debug, Default)]
pub struct TestAsked {
    pub event_type: Option<String>,
    /// JSON; the example of the event type, when it is not given.
    pub data: Option<String>,
}

/// How a test call ended.
#[derive(Debug)]
pub struct Tested {
    /// By the profile's rules.
    pub success: bool,
    pub attempt: Attempt,
    /// What was sent.
    pub body: Bytes,
    pub profile: Arc<Profile>,
}

impl Service {
    /// Makes the test call: one signed request, now, whatever the endpoint's state. It is no delivery; the audit
    /// log has who made it and how it ended, also where whoever asked goes away meanwhile.
    ///
    /// # Errors
    /// `test_calls_max`, `scope_insufficient` where the endpoint is another key's, or of an event that cannot be.
    pub async fn test_endpoint(&self, who: &Caller, id: &str, asked: TestAsked) -> Result<Tested> {
        let (endpoint, current) = found(self, who, id).await?;
        may_sign(who, &endpoint)?;
        let by = who.changes(self.now())?;
        // Before anything of it is looked at, which is work too.
        let place = self.0.probes.enter(endpoint.tenant, self.steady())?;
        let test = asked_for(self, &endpoint, &current.profile, asked).await?;
        let (service, profile) = (self.clone(), current.profile.clone());
        let (success, attempt, body) = self
            .to_the_end(
                async move { test_call(&service, &endpoint, &current, test, by, place).await },
            )
            .await?;
        Ok(Tested {
            success,
            attempt,
            body,
            profile,
        })
    }

    /// Counts of an endpoint's deliveries since then, or of the last day.
    ///
    /// # Errors
    /// `not_found`, or what the store answers.
    pub async fn endpoint_stats(
        &self,
        who: &Caller,
        id: &str,
        since: Option<Timestamp>,
    ) -> Result<(Timestamp, EndpointStats)> {
        let (endpoint, _) = found(self, who, id).await?;
        let since = since.unwrap_or_else(|| self.now().minus(STATS_DEFAULT));
        let store = self.0.store.clone();
        let count = async move { store.endpoint_stats(endpoint.id, since).await };
        Ok((since, self.counted(endpoint.tenant, count).await?))
    }
}

/// What a test call sends.
struct TestEvent {
    event_type: String,
    /// JSON.
    data: String,
}

impl TestEvent {
    /// The profile's own.
    fn of_profile(endpoint: &Endpoint, profile: &Profile) -> Self {
        let wire_id = profile.endpoint_id(endpoint.id, &endpoint.kind);
        let data = serde_json::json!({ "webhookId": wire_id, "message": profile.test.message });
        Self {
            event_type: profile.test.event.clone(),
            data: data.to_string(),
        }
    }
}

/// Test calls of a tenant in a minute; more are refused. As many as one vendor documents for all its calls
/// (`docs/systems.md`, V-66).
const PROBES_PER_MINUTE: u32 = 500;
/// Test calls of a tenant at once: one for each endpoint that a tenant of the same vendor may have.
const PROBES_AT_ONCE: usize = 10;
/// Of all tenants.
const PROBES_MAX: usize = 64;

/// Keeps test calls, which go past lanes, breakers and rate limits, from becoming a way to flood a host.
pub(crate) struct Probes {
    under_way: Budget,
    recent: Windows<id::Tenant>,
}

impl Default for Probes {
    fn default() -> Self {
        Self {
            under_way: Budget::new(PROBES_MAX),
            recent: Windows::default(),
        }
    }
}

impl Probes {
    fn enter(&self, tenant: Id<id::Tenant>, now: Timestamp) -> Result<Grant> {
        let minute = Duration::from_secs(60);
        // Counted before there is a place: trying again and again is what is to be bounded.
        let standing = self.recent.count(tenant, PROBES_PER_MINUTE, minute, now);
        let grant = self.under_way.take(tenant.as_u128(), 1);
        match grant {
            // The new one is among those that are held.
            Some(grant) if !standing.exceeded && grant.held() <= PROBES_AT_ONCE => Ok(grant),
            _ => Err(Refusal::new(
                ErrorCode::TestCallsMax,
                format!(
                    "a tenant makes {PROBES_PER_MINUTE} test calls in a minute, {PROBES_AT_ONCE} at once; wait a little"
                ),
            )),
        }
    }
}

async fn test_call(
    service: &Service,
    endpoint: &Endpoint,
    current: &CurrentProfile,
    test: TestEvent,
    by: Actor,
    place: Grant,
) -> Result<(bool, Attempt, Bytes)> {
    let profile = &current.profile;
    let now = service.now();
    let event = Event {
        id: service.store().ids().next(now),
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
    let (attempt, body) = service
        .engine()
        .test(endpoint.id, Arc::new(event), current.version)
        .await?;
    // What follows waits for the store, and no receiver is called any more.
    drop(place);
    if let Outcome::Unreachable {
        reason: UnreachableReason::Local,
        detail,
    } = &attempt.outcome
    {
        // The receiver was not asked, so nothing is said of it. Why is the operator's to know.
        tracing::warn!(endpoint.id = %endpoint.id, why = detail, "a test call could not be sent");
        let detail =
            "this server could not send just now, and has not asked the receiver; try again";
        return Err(Refusal::new(ErrorCode::Overloaded, detail));
    }
    let success = profile.classify.class(&attempt.outcome) == Class::Ok;
    tracing::info!(tenant.id = %endpoint.tenant, endpoint.id = %endpoint.id, success, "a test call was made");
    let entry = test_entry(
        service.store().ids().next(now),
        by,
        endpoint,
        &test.event_type,
        success,
        &attempt.outcome,
    );
    // The call was made, and whoever made it gets the answer, noted or not.
    if let Err(error) = service.store().note(entry).await {
        tracing::warn!(endpoint.id = %endpoint.id, error = &error as &dyn std::error::Error, "failed to record a test call");
    }
    Ok((success, attempt, body))
}

async fn asked_for(
    service: &Service,
    endpoint: &Endpoint,
    profile: &Arc<Profile>,
    asked: TestAsked,
) -> Result<TestEvent> {
    let event_type = match (asked.event_type, &asked.data) {
        (Some(event_type), _) => event_type,
        (None, None) => return Ok(TestEvent::of_profile(endpoint, profile)),
        (None, Some(_)) => return Err(Refusal::invalid("type", "is needed with data")),
    };
    if !is_event_type(&event_type) {
        return Err(Refusal::invalid("type", "is not an event type"));
    }
    let data = match asked.data {
        Some(data) => data,
        None => {
            let example = event_types::example(service, endpoint.application, &event_type).await?;
            let rule = "this event type has no example; give the data to send";
            example.ok_or_else(|| Refusal::invalid("data", rule))?
        }
    };
    // A page takes it as somebody has typed it.
    check_json(data.as_bytes()).map_err(|error| Refusal::invalid("data", error.to_string()))?;
    carriable(service, endpoint.into(), profile, data.as_bytes(), None).await?;
    Ok(TestEvent { event_type, data })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_000);

    /// Whether a tenant may not make its test call.
    fn is_refused(probes: &Probes, tenant: u128, now: Timestamp) -> bool {
        match probes.enter(Id::from_u128(tenant), now) {
            Ok(_) => false,
            Err(refusal) => {
                assert_eq!(refusal.code, ErrorCode::TestCallsMax);
                true
            }
        }
    }

    #[test]
    fn a_tenant_makes_so_many_test_calls_in_a_minute() {
        let probes = Probes::default();
        for _ in 0..PROBES_PER_MINUTE {
            assert!(!is_refused(&probes, 1, NOW));
        }
        let last = NOW.plus(Duration::from_micros(59_999_999));
        assert!(is_refused(&probes, 1, last), "one too many");
        assert!(!is_refused(&probes, 2, last), "of another tenant");
        let next = NOW.plus(Duration::from_secs(60));
        assert!(!is_refused(&probes, 1, next));
    }

    #[test]
    fn a_test_call_that_finds_no_place_counts_too() {
        let probes = Probes::default();
        let enter = || probes.enter(Id::from_u128(1), NOW);
        let under_way: Vec<Grant> = std::iter::from_fn(|| enter().ok()).collect();
        assert_eq!(under_way.len(), PROBES_AT_ONCE);
        // The last of those was refused, so as many less are left.
        let made = u32::try_from(PROBES_AT_ONCE).unwrap() + 1;
        for _ in made..PROBES_PER_MINUTE {
            assert!(enter().is_err());
        }
        drop(under_way);
        assert!(is_refused(&probes, 1, NOW));
    }

    #[test]
    fn test_calls_of_many_tenants_leave_a_place_for_one_that_has_none() {
        let probes = Probes::default();
        let mut under_way: Vec<Vec<Grant>> = Vec::new();
        for tenant in 1..=9 {
            let enter = || probes.enter(Id::from_u128(tenant), NOW).ok();
            under_way.push(std::iter::from_fn(enter).collect());
        }
        let each: Vec<usize> = under_way.iter().map(Vec::len).collect();
        assert_eq!(each, [10, 10, 10, 10, 10, 7, 4, 2, 1]);
        assert_eq!(each.iter().sum::<usize>(), PROBES_MAX);
        assert!(is_refused(&probes, 10, NOW), "there is no place at all");
        // One of the first tenant's ends: its place is for those who have none, and not for the first once more.
        drop(under_way[0].pop());
        assert!(is_refused(&probes, 1, NOW));
        assert!(!is_refused(&probes, 10, NOW));
    }
}
