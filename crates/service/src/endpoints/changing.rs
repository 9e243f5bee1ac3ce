//! Changing an endpoint: what is not named stays.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use postrider_core::Timestamp;
use postrider_core::endpoint::{Endpoint, EndpointSecret, Ordering};
use postrider_core::filter::{ContentFilter, Subscription};
use postrider_core::profile::Profile;
use postrider_core::tenant::Metadata;
use postrider_store::StoreError;
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::filters::content_filter;
use super::headers::{HeaderChanges, NewHeaders, custom_headers, header_changes};
use super::rules::{
    checked_description, checked_names, checked_rate, checked_url, must_lead_out, subscription,
};
use super::{
    ContentType, brought, found, move_to, must_be_registered, sealed, secrets, set_active,
    without_secrets,
};
use crate::reading::{nullable, present};
use crate::refusal::Result;
use crate::{Caller, CurrentProfile, Service};

/// What changes of an endpoint; what is not named stays, and null takes away.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct EndpointPatch {
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    pub url: Option<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub external_id: Option<Option<String>>,
    /// All of it anew.
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<HashMap<String, String>>)]
    pub metadata: Option<Option<Metadata>>,
    #[serde(default, deserialize_with = "nullable")]
    pub events: Option<Option<Vec<String>>>,
    #[serde(default, deserialize_with = "nullable")]
    #[schema(value_type = Option<HashMap<String, Value>>)]
    pub filter: Option<Option<Value>>,
    #[serde(default, deserialize_with = "nullable")]
    pub description: Option<Option<String>>,
    /// All that it is to have; a value of stars keeps the one of that name.
    #[serde(default, deserialize_with = "nullable")]
    pub headers: Option<Option<BTreeMap<String, String>>>,
    /// Those that change, each with its value or none; what is not named stays. Only a vendor's API asks for it.
    #[serde(skip)]
    pub header_changes: BTreeMap<String, Option<String>>,
    #[serde(default, deserialize_with = "nullable")]
    pub rate_limit: Option<Option<u32>>,
    #[serde(default, deserialize_with = "nullable")]
    pub ordering: Option<Option<Ordering>>,
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    pub active: Option<bool>,
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    pub secret: Option<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub content_type: Option<Option<ContentType>>,
}

impl fmt::Debug for EndpointPatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        without_secrets(f, "EndpointPatch", self.url.as_deref())
    }
}

impl Service {
    /// # Errors
    /// Of a field that cannot be, of an endpoint that is changed elsewhere, or what the store answers.
    pub async fn change_endpoint(
        &self,
        who: &Caller,
        id: &str,
        patch: EndpointPatch,
    ) -> Result<(Endpoint, Arc<Profile>)> {
        // Before a name is looked up for them.
        who.must_change()?;
        let (endpoint, CurrentProfile { profile, .. }) = found(self, who, id).await?;
        must_be_registered(&endpoint)?;
        // One moment for all of it: a secret that comes along is as old as the change.
        let by = who.changes(self.now())?;
        let change = Change::checked(self, who, &profile, &endpoint, patch, by.at).await?;
        let service = self.clone();
        let change = move |endpoint: &mut Endpoint| change.put(&service, endpoint);
        let changed = self
            .write_endpoint(endpoint.id, Box::new(change), by)
            .await?;
        Ok((changed, profile))
    }
}

/// A change that can be made.
struct Change {
    patch: EndpointPatch,
    subscription: Option<Subscription>,
    filter: Option<Option<ContentFilter>>,
    headers: Option<NewHeaders>,
    header_changes: HeaderChanges,
    secret: Option<EndpointSecret>,
    /// The profile has Ed25519 keys beside secrets.
    has_pairs: bool,
    form: Option<bool>,
    at: Timestamp,
}

impl Change {
    async fn checked(
        service: &Service,
        who: &Caller,
        profile: &Profile,
        endpoint: &Endpoint,
        mut patch: EndpointPatch,
        at: Timestamp,
    ) -> Result<Self> {
        if let Some(url) = &patch.url {
            checked_url(service, profile, url)?;
            must_lead_out(service, endpoint.tenant, "url", url).await?;
        }
        let external_id = patch.external_id.as_ref();
        checked_names(
            external_id.and_then(|text| text.as_deref()),
            patch.metadata.as_ref().and_then(Option::as_ref),
        )?;
        checked_description(patch.description.as_ref().and_then(|text| text.as_deref()))?;
        checked_rate(patch.rate_limit.flatten())?;
        let subscription = match patch.events.take() {
            Some(Some(events)) => {
                let has = Some(&endpoint.subscription);
                Some(subscription(service, profile, endpoint.tenant, events, has).await?)
            }
            Some(None) => Some(Subscription::all()),
            None => None,
        };
        let filter = patch.filter.take();
        let filter = filter.map(|given| given.map(content_filter).transpose());
        let (id, known) = (endpoint.id, &endpoint.headers);
        let headers = patch.headers.take().map(Option::unwrap_or_default);
        let headers = headers.map(|given| custom_headers(service, profile, id, known, given));
        let changes = std::mem::take(&mut patch.header_changes);
        let secret = patch.secret.take();
        let secret = secret.map(|text| brought(who, profile, text));
        let form = patch.content_type.map(Option::unwrap_or_default);
        Ok(Self {
            subscription,
            filter: filter.transpose()?,
            headers: headers.transpose()?,
            header_changes: header_changes(service, profile, endpoint, changes)?,
            secret: secret
                .transpose()?
                .map(|secret| sealed(service, id, &secret, at)),
            has_pairs: profile.secret.asymmetric,
            form: form.map(|form| form.is_form(profile)).transpose()?,
            patch,
            at,
        })
    }

    /// Makes it, inside the transaction that reads and writes the endpoint.
    fn put(
        self,
        service: &Service,
        endpoint: &mut Endpoint,
    ) -> std::result::Result<(), StoreError> {
        let patch = self.patch;
        move_to(endpoint, patch.url);
        endpoint.external_id = patch.external_id.unwrap_or(endpoint.external_id.take());
        if let Some(metadata) = patch.metadata {
            endpoint.metadata = metadata.unwrap_or_default();
        }
        endpoint.description = patch.description.unwrap_or(endpoint.description.take());
        endpoint.rate_limit = patch.rate_limit.unwrap_or(endpoint.rate_limit);
        if let Some(ordering) = patch.ordering {
            endpoint.ordering = ordering.unwrap_or_default();
        }
        if let Some(subscription) = self.subscription {
            endpoint.subscription = subscription;
        }
        if let Some(filter) = self.filter {
            endpoint.filter = filter;
        }
        if let Some(headers) = self.headers {
            headers.put(endpoint);
        }
        // Behind the whole list: single changes are of what is there then.
        self.header_changes.put(endpoint)?;
        if let Some(own) = self.secret {
            // It takes the place of the secrets, not of an Ed25519 key beside them.
            let id = endpoint.id;
            let is_pair = |secret: &_| secrets::is_pair(service, id, secret);
            endpoint
                .secrets
                .retain(|secret| self.has_pairs && is_pair(secret));
            endpoint.secrets.insert(0, own);
        }
        endpoint.form = self.form.unwrap_or(endpoint.form);
        set_active(endpoint, patch.active, self.at);
        endpoint.updated_at = self.at;
        Ok(())
    }
}
