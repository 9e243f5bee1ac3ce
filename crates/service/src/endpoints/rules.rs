//! What the fields of an endpoint may be.

use std::time::Duration;

use postrider_core::endpoint_url::{InvalidUrl, Scheme, UrlPolicy, check_url, domain};
use postrider_core::filter::Subscription;
use postrider_core::limits::{DESCRIPTION_BYTES_MAX, KEY_BYTES_MAX};
use postrider_core::profile::Profile;
use postrider_core::tenant::Metadata;
use postrider_core::{Id, id};
use postrider_engine::SharedTurns;

use crate::Service;
use crate::reading::{bounded, checked_metadata, required};
use crate::refusal::{ErrorCode, Refusal, Result};

/// Deliveries per second that a limit may name.
const RATE_MAX: u32 = 100_000;
/// Checks a URL against the profile's schemes and the operator's addresses.
pub(crate) fn valid_url(service: &Service, profile: &Profile, url: &str) -> Result<(), InvalidUrl> {
    let options = &service.0.options;
    let both = [Scheme::Https, Scheme::Http];
    let schemes: &[Scheme] = if options.plain_http {
        &both
    } else {
        &profile.http.schemes
    };
    check_url(
        url,
        UrlPolicy {
            schemes,
            addresses: &options.addresses,
        },
    )
    .map(drop)
}

/// Time for looking a name up while somebody registers it, its turn included.
const LOOKUP_MAX: Duration = Duration::from_secs(1);
/// Names that are looked up at once while they are registered: each takes descriptors, and may take all of its time.
const LOOKUPS_MAX: usize = 32;
/// Of them, of one tenant.
const LOOKUPS_EACH: usize = 4;

/// Turns for looking up names.
pub(crate) struct Lookups(SharedTurns);

impl Default for Lookups {
    fn default() -> Self {
        Self(SharedTurns::new(LOOKUPS_EACH, LOOKUPS_MAX))
    }
}

/// Refuses a URL whose name leads to forbidden addresses only. One that does not resolve yet is taken:
/// it is looked up again before every connection. So is one that was not looked up in time.
pub(crate) async fn must_lead_out(
    service: &Service,
    of: Id<id::Tenant>,
    field: &str,
    url: &str,
) -> Result<()> {
    let Some(names) = &service.0.options.names.0 else {
        return Ok(());
    };
    let Some(host) = domain(url) else {
        return Ok(());
    };
    let looking = async {
        let _turn = service.0.lookups.0.take(of).await;
        names.addresses(&host).await
    };
    let found = tokio::time::timeout(LOOKUP_MAX, looking).await;
    let found = found.unwrap_or_default();
    let policy = &service.0.options.addresses;
    // One address that leads out is enough, since deliveries go to no other.
    let forbidden = !found.is_empty() && found.iter().all(|at| policy.check(*at).is_err());
    if !forbidden {
        return Ok(());
    }
    // Not which ones: what names of this network mean is not for tenants to find out.
    let rule = "must lead to a public address; its name does not";
    Err(Refusal::field(ErrorCode::EndpointUrlInvalid, field, rule))
}

pub(crate) fn checked_url(service: &Service, profile: &Profile, url: &str) -> Result<()> {
    valid_url(service, profile, url).map_err(|error| {
        let mut rule = error.to_string();
        if error == InvalidUrl::HttpsOnly {
            rule.push_str(
                "; for development, `postrider serve --dev` takes http:// and this machine",
            );
        }
        Refusal::field(ErrorCode::EndpointUrlInvalid, "url", rule)
    })
}

pub(crate) async fn subscription(
    service: &Service,
    profile: &Profile,
    tenant: Id<id::Tenant>,
    patterns: Vec<String>,
    has: Option<&Subscription>,
) -> Result<Subscription> {
    let unknown = service.unknown_type(profile, tenant, &patterns, has);
    if let Some(unknown) = unknown.await? {
        return Err(Refusal::field(
            ErrorCode::EventTypeUnknown,
            "events",
            format!("{unknown:?} is not in the catalogue; declare it, or name one that is"),
        ));
    }
    Subscription::new(patterns).map_err(|error| {
        Refusal::field(ErrorCode::SubscriptionInvalid, "events", error.to_string())
    })
}

pub(crate) fn checked_rate(rate: Option<u32>) -> Result<()> {
    match rate {
        Some(rate) if !(1..=RATE_MAX).contains(&rate) => Err(Refusal::invalid(
            "rateLimit",
            format!("must be a whole number from 1 to {RATE_MAX}, per second"),
        )),
        Some(_) | None => Ok(()),
    }
}

/// What the product calls it and notes of it.
pub(crate) fn checked_names(external_id: Option<&str>, metadata: Option<&Metadata>) -> Result<()> {
    if let Some(external_id) = external_id {
        required("externalId", external_id, KEY_BYTES_MAX)?;
    }
    metadata.map_or(Ok(()), checked_metadata)
}

/// A description may have lines.
pub(crate) fn checked_description(description: Option<&str>) -> Result<()> {
    let is_line = |c: char| matches!(c, '\n' | '\r' | '\t');
    let text: String = description.unwrap_or_default().replace(is_line, " ");
    bounded("description", &text, DESCRIPTION_BYTES_MAX)
}
