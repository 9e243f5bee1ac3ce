//! Distributions: named sets of events with an endpoint of their own, live or paused.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use postrider_core::distribution::{Distribution, Payload};
use postrider_core::endpoint::{Endpoint, EndpointKind};
use postrider_core::filter::Subscription;
use postrider_core::limits::{ENDPOINTS_MAX, KEY_BYTES_MAX};
use postrider_core::profile::{DistributionSpec, Profile};
use postrider_core::tenant::Mode;
use postrider_core::{Id, id};
use postrider_store::{EndpointListing, Page, PageRequest, always};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::endpoints::{
    checked_rate, checked_url, content_filter, custom_headers, found as found_endpoint,
    fresh_endpoint, listed, move_to, must_lead_out, set_active, without_secrets,
};
use crate::reading::{nullable, nullable_strictly, present, required, strictly};
use crate::refusal::{ErrorCode, Refusal, Result};
use crate::{Caller, Service};

/// Whether a distribution sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Activity {
    #[default]
    Live,
    Paused,
}

/// A distribution to be made.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct NewDistribution {
    pub name: String,
    /// The `type` of its webhooks.
    pub event_name: String,
    pub url: String,
    /// Event types that trigger it.
    pub events: Vec<String>,
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// Conditions on `data` and `meta`, such as `{"data.amount": {"$gte": 100}}`; only events that meet them trigger it.
    #[schema(value_type = Option<HashMap<String, Value>>)]
    pub filter: Option<Value>,
    #[serde(default, deserialize_with = "strictly")]
    pub payload: Payload,
    pub rate_limit: Option<u32>,
    pub mode: Option<Mode>,
    #[serde(default)]
    pub status: Activity,
}

/// What changes of a distribution; what is not named stays, and null takes away.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct DistributionPatch {
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    pub name: Option<String>,
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    pub event_name: Option<String>,
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    pub url: Option<String>,
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    pub events: Option<Vec<String>>,
    #[serde(default, deserialize_with = "nullable")]
    pub headers: Option<Option<BTreeMap<String, String>>>,
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<HashMap<String, Value>>)]
    pub filter: Option<Option<Value>>,
    #[serde(default, deserialize_with = "nullable_strictly")]
    pub payload: Option<Option<Payload>>,
    #[serde(default, deserialize_with = "nullable")]
    pub rate_limit: Option<Option<u32>>,
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    pub status: Option<Activity>,
}

impl fmt::Debug for NewDistribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        without_secrets(f, "NewDistribution", Some(&self.url))
    }
}

impl fmt::Debug for DistributionPatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        without_secrets(f, "DistributionPatch", self.url.as_deref())
    }
}

impl Service {
    /// Makes a distribution; it is an endpoint of that kind, with the profile that it is shown by.
    ///
    /// # Errors
    /// `distribution_unsupported`, of a field that cannot be, or what the store answers.
    pub async fn create_distribution(
        &self,
        who: &Caller,
        tenant: Id<id::Tenant>,
        new: NewDistribution,
    ) -> Result<(Endpoint, Arc<Profile>)> {
        // Before a name is looked up for them.
        who.must_change()?;
        let tenant = who.tenant(self, tenant).await?;
        let profile = self.profile_of(tenant.application).await?.profile;
        let spec = spec(&profile)?;
        required("name", &new.name, KEY_BYTES_MAX)?;
        required("eventName", &new.event_name, KEY_BYTES_MAX)?;
        checked_url(self, &profile, &new.url)?;
        must_lead_out(self, tenant.id, "url", &new.url).await?;
        checked_rate(new.rate_limit)?;
        checked_payload(&new.payload)?;
        let triggers = triggers(self, tenant.application, spec, new.events, None).await?;
        let filter = new.filter.map(content_filter).transpose()?;
        let mode = who.mode(new.mode)?;
        let (mut endpoint, _) = fresh_endpoint(self, &profile, &tenant, mode, new.url, triggers)?;
        endpoint.kind = EndpointKind::Distribution(Distribution {
            name: new.name,
            event_name: new.event_name,
            payload: new.payload,
        });
        custom_headers(self, &profile, endpoint.id, &[], new.headers)?.put(&mut endpoint);
        endpoint.rate_limit = new.rate_limit;
        endpoint.filter = filter;
        let by = who.changes(self.now())?;
        set_active(&mut endpoint, Some(new.status == Activity::Live), by.at);
        // A profile's limit is of registered endpoints: of distributions there is this server's bound only.
        self.store()
            .create_endpoint(endpoint.clone(), Some(ENDPOINTS_MAX), by)
            .await?;
        Ok((endpoint, profile))
    }

    /// # Errors
    /// `not_found`, or what the store answers.
    pub async fn list_distributions(
        &self,
        who: &Caller,
        tenant: Id<id::Tenant>,
        page: PageRequest,
    ) -> Result<(Page<Endpoint>, Arc<Profile>)> {
        listed(
            self,
            who,
            tenant,
            EndpointListing::Distributions,
            None,
            false,
            page,
        )
        .await
    }

    /// The distribution with this id, or the profile's form of it.
    ///
    /// # Errors
    /// `not_found`, also where it is another's, or no distribution.
    pub async fn distribution(&self, who: &Caller, id: &str) -> Result<(Endpoint, Arc<Profile>)> {
        found(self, who, id).await
    }

    /// # Errors
    /// Of a field that cannot be, `not_found`, or what the store answers.
    pub async fn change_distribution(
        &self,
        who: &Caller,
        id: &str,
        patch: DistributionPatch,
    ) -> Result<(Endpoint, Arc<Profile>)> {
        // Before a name is looked up for them.
        who.must_change()?;
        let (endpoint, profile) = found(self, who, id).await?;
        for (field, given) in [("name", &patch.name), ("eventName", &patch.event_name)] {
            if let Some(text) = given {
                required(field, text, KEY_BYTES_MAX)?;
            }
        }
        if let Some(url) = &patch.url {
            checked_url(self, &profile, url)?;
            must_lead_out(self, endpoint.tenant, "url", url).await?;
        }
        let payload = patch.payload.map(Option::unwrap_or_default);
        if let Some(payload) = &payload {
            checked_payload(payload)?;
        }
        checked_rate(patch.rate_limit.flatten())?;
        let spec = spec(&profile)?;
        let triggers = match patch.events {
            Some(events) => {
                let has = Some(&endpoint.subscription);
                Some(triggers(self, endpoint.application, spec, events, has).await?)
            }
            None => None,
        };
        let filter = patch.filter;
        let filter = filter.map(|given| given.map(content_filter).transpose());
        let filter = filter.transpose()?;
        let custom = patch.headers.map(Option::unwrap_or_default);
        let (id, known) = (endpoint.id, &endpoint.headers);
        let custom = custom.map(|given| custom_headers(self, &profile, id, known, given));
        let custom = custom.transpose()?;
        let by = who.changes(self.now())?;
        let now = by.at;
        let change = move |endpoint: &mut Endpoint| {
            if let EndpointKind::Distribution(distribution) = &mut endpoint.kind {
                if let Some(name) = patch.name {
                    distribution.name = name;
                }
                if let Some(event_name) = patch.event_name {
                    distribution.event_name = event_name;
                }
                if let Some(payload) = payload {
                    distribution.payload = payload;
                }
            }
            move_to(endpoint, patch.url);
            if let Some(triggers) = triggers {
                endpoint.subscription = triggers;
            }
            if let Some(filter) = filter {
                endpoint.filter = filter;
            }
            if let Some(custom) = custom {
                custom.put(endpoint);
            }
            endpoint.rate_limit = patch.rate_limit.unwrap_or(endpoint.rate_limit);
            let active = patch.status.map(|status| status == Activity::Live);
            set_active(endpoint, active, now);
            endpoint.updated_at = now;
        };
        let changed = self.write_endpoint(id, always(change), by).await?;
        Ok((changed, profile))
    }

    /// # Errors
    /// `not_found`, or what the store answers.
    pub async fn delete_distribution(&self, who: &Caller, id: &str) -> Result<()> {
        let (endpoint, _) = found(self, who, id).await?;
        self.erase_endpoint(endpoint.id, who.changes(self.now())?)
            .await
    }
}

fn spec(profile: &Profile) -> Result<&DistributionSpec> {
    profile.distribution.as_ref().ok_or_else(|| {
        Refusal::new(
            ErrorCode::DistributionUnsupported,
            format!("the profile {} has endpoints only", profile.name),
        )
    })
}

/// What triggers a distribution: types that the profile names, and those that the application declared itself.
async fn triggers(
    service: &Service,
    application: Id<id::Application>,
    spec: &DistributionSpec,
    events: Vec<String>,
    has: Option<&Subscription>,
) -> Result<Subscription> {
    // Asked one by one below, and remembered: no more than can be meant, and nothing that is no name.
    let events = Subscription::new(events).map_err(|error| {
        Refusal::field(ErrorCode::SubscriptionInvalid, "events", error.to_string())
    })?;
    // What it has stays, though its application declares it no more.
    let has = |name: &String| has.is_some_and(|has| has.patterns().contains(name));
    let others = events.patterns().iter();
    let others = others.filter(|name| !spec.allows(name));
    for name in others.filter(|name| !has(name)) {
        let directory = &service.0.directory;
        let own = directory
            .event_type(&service.0.schemas, application, name)
            .await?;
        if !own.declared {
            let known = spec.events.iter().flatten().cloned();
            return Err(Refusal::field(
                ErrorCode::EventTypeUnknown,
                "events",
                format!(
                    "{name:?} does not trigger distributions; those that do are {}, and types that the application declares",
                    known.collect::<Vec<_>>().join(", ")
                ),
            ));
        }
    }
    Ok(events)
}

fn checked_payload(payload: &Payload) -> Result<()> {
    let checked = payload.check();
    checked.map_err(|error| Refusal::invalid("payload.fields", error.to_string()))
}

async fn found(service: &Service, who: &Caller, id: &str) -> Result<(Endpoint, Arc<Profile>)> {
    let not_found = || Refusal::not_found("distribution");
    let found = found_endpoint(service, who, id).await;
    // Endpoints of all kinds are found by their ids; the answer is of what was asked for.
    let (endpoint, current) = found.map_err(|error| match error.code {
        ErrorCode::NotFound => not_found(),
        _ => error,
    })?;
    match endpoint.kind {
        EndpointKind::Distribution(_) => Ok((endpoint, current.profile)),
        EndpointKind::Registered | EndpointKind::Callback | EndpointKind::Key(_) => {
            Err(not_found())
        }
    }
}
