//! Whom an event is for: all that match, or one endpoint, key or distribution.

use postrider_core::Id;
use postrider_core::endpoint::EndpointKind;
use postrider_core::filter::WILDCARD;
use postrider_core::profile::{Profile, SecretScope};
use postrider_core::tenant::{Mode, Scope, Tenant};
use postrider_store::Target;

use super::NewEvent;
use crate::Service;
use crate::endpoints::{callback, valid_url};
use crate::reading::read_id;
use crate::refusal::{ErrorCode, Refusal, Result};

/// Whom an event is for, and the mode that follows from it.
pub(super) struct Address {
    to: To,
    pub(super) mode: Option<Mode>,
}

enum To {
    Known(Target),
    /// An endpoint for a one-off URL, which may have to be made.
    Callback(String),
}

impl Address {
    fn of(target: Target) -> Self {
        let to = To::Known(target);
        Self { to, mode: None }
    }

    /// The one-off URL, if it is one.
    pub(super) fn callback(&self) -> Option<String> {
        match &self.to {
            To::Callback(url) => Some(url.clone()),
            To::Known(_) => None,
        }
    }

    /// The target of an event of this mode. Asked last: it may make an endpoint.
    pub(super) async fn target(
        self,
        service: &Service,
        tenant: &Tenant,
        mode: Mode,
    ) -> Result<Target> {
        match self.to {
            To::Known(target) => Ok(target),
            To::Callback(url) => Ok(Target::Endpoint(
                callback(service, tenant, mode, url).await?,
            )),
        }
    }
}

pub(super) async fn address(
    service: &Service,
    tenant: &Tenant,
    profile: &Profile,
    body: &NewEvent<'_>,
) -> Result<Address> {
    let given = [
        ("callbackUrl", body.callback_url.is_some()),
        ("endpoint", body.endpoint.is_some()),
        ("key", body.key.is_some()),
        ("distribution", body.distribution.is_some()),
    ];
    let mut named = given.iter().filter(|(_, given)| *given);
    if let (Some((first, _)), Some((second, _))) = (named.next(), named.next()) {
        let rule = format!("cannot be together with {first}");
        return Err(Refusal::invalid(*second, rule));
    }
    if let Some(url) = &body.callback_url {
        // No name is looked up here: that would be for every event, and it is done before every connection.
        valid_url(service, profile, url).map_err(|error| {
            let code = ErrorCode::EndpointUrlInvalid;
            Refusal::field(code, "callbackUrl", error.to_string())
        })?;
        let to = To::Callback(url.clone());
        return Ok(Address { to, mode: None });
    }
    if let Some(endpoint) = &body.endpoint {
        // Whose it is, and of which mode, the store asks in the transaction.
        return Ok(Address::of(Target::Endpoint(read_id(endpoint)?)));
    }
    if let Some(key) = &body.key {
        return key_address(service, tenant, key).await;
    }
    if let Some(distribution) = &body.distribution {
        return distribution_address(service, tenant, profile, distribution, &body.r#type).await;
    }
    if profile.secret.scope == SecretScope::ApiKey {
        let detail = format!(
            "in the profile {} an event belongs to one API key: name its public id in key",
            profile.name
        );
        return Err(Refusal::field(ErrorCode::AddressUnclear, "key", detail));
    }
    Ok(Address::of(Target::Matching))
}

async fn key_address(service: &Service, tenant: &Tenant, public_id: &str) -> Result<Address> {
    let unknown = || Refusal::invalid("key", "is not the public id of a key of this tenant");
    let addressee = match service
        .0
        .directory
        .addressee(public_id, Id::from_u128(tenant.id.as_u128()))
        .await
    {
        Ok(addressee) => addressee,
        Err(error) if error.is_not_found() => return Err(unknown()),
        Err(error) => return Err(error.into()),
    };
    if addressee.key.scope != Scope::Tenant(tenant.application, tenant.id) {
        return Err(unknown());
    }
    // A key without a webhook is its owner's choice and no mistake of the product's.
    let target = addressee.endpoint.map_or(Target::Nobody, Target::IfEnabled);
    Ok(Address {
        to: To::Known(target),
        mode: Some(addressee.key.mode),
    })
}

async fn distribution_address(
    service: &Service,
    tenant: &Tenant,
    profile: &Profile,
    text: &str,
    event_type: &str,
) -> Result<Address> {
    if profile.distribution.is_none() {
        let detail = format!("the profile {} has endpoints only", profile.name);
        return Err(Refusal::field(
            ErrorCode::DistributionUnsupported,
            "distribution",
            detail,
        ));
    }
    if text == WILDCARD {
        return Ok(Address::of(Target::Distributions));
    }
    let unknown = || Refusal::invalid("distribution", "is not a distribution of this tenant");
    let id = text.parse().ok();
    let id = id.or_else(|| profile.find_endpoint(text, service.store().ids()));
    let endpoint = match service.store().endpoint(id.ok_or_else(unknown)?).await {
        Ok(endpoint) => endpoint,
        Err(error) if error.is_not_found() => return Err(unknown()),
        Err(error) => return Err(error.into()),
    };
    let is_one = matches!(endpoint.kind, EndpointKind::Distribution(_));
    if !is_one || endpoint.tenant != tenant.id {
        return Err(unknown());
    }
    if !endpoint.subscription.matches(event_type) {
        let triggers = endpoint.subscription.patterns().join(", ");
        let rule = format!("does not trigger this distribution; those that do are {triggers}");
        return Err(Refusal::field(ErrorCode::EventTypeUnknown, "type", rule));
    }
    Ok(Address {
        to: To::Known(Target::IfEnabled(endpoint.id)),
        mode: Some(endpoint.mode),
    })
}

pub(super) fn known_type(profile: &Profile, event_type: &str, distributions: bool) -> Result<()> {
    let spec = profile.distribution.as_ref();
    let of_distributions = spec.is_some_and(|spec| spec.allows(event_type));
    let (known, allowed) = if distributions && spec.is_some() {
        (spec.and_then(|spec| spec.events.as_ref()), of_distributions)
    } else {
        (
            profile.events.closed.as_ref(),
            profile.events.allows_type(event_type),
        )
    };
    if allowed {
        return Ok(());
    }
    let rule = if of_distributions {
        "triggers distributions: name one in distribution, or * for all that it triggers".to_owned()
    } else {
        let known: Vec<&str> = known.into_iter().flatten().map(String::as_str).collect();
        format!("must be one of: {}", known.join(", "))
    };
    Err(Refusal::field(ErrorCode::EventTypeUnknown, "type", rule))
}
