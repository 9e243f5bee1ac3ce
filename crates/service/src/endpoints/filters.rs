//! Content filters: read, and tried on what was published lately.

use postrider_core::event::EventSummary;
use postrider_core::filter::{Content, ContentFilter};
use postrider_core::tenant::Mode;
use postrider_core::{Id, id};
use postrider_store::{EventFilter, PageRequest};
use serde_json::Value;

use super::rules::subscription;
use crate::refusal::{ErrorCode, Refusal, Result};
use crate::{Caller, Service};

/// Events that a filter is tried on, and events among which they are looked for.
const TRIED: usize = 10;
const LOOKED_AT: usize = 100;

/// One of the last events, and what of a filter it does not meet.
#[derive(Debug)]
pub struct FilterTried {
    pub event: EventSummary,
    /// None where it meets all of it.
    pub unmet: Option<String>,
}

pub(crate) fn content_filter(written: Value) -> Result<ContentFilter> {
    ContentFilter::new(written).map_err(|error| invalid(&error))
}

fn invalid(error: &postrider_core::filter::InvalidFilter) -> Refusal {
    Refusal::field(ErrorCode::FilterInvalid, "filter", error.to_string())
}

impl Service {
    /// A filter as somebody typed it, for doors whose forms are text.
    ///
    /// # Errors
    /// `filter_invalid`.
    pub fn read_filter(&self, text: &str) -> Result<Value> {
        let filter: std::result::Result<ContentFilter, _> = text.parse();
        filter.map(Into::into).map_err(|error| invalid(&error))
    }

    /// What a filter would have done with the tenant's last events of a mode that have these types, all when none are
    /// given. Nothing is stored.
    ///
    /// # Errors
    /// `filter_invalid`, `subscription_invalid`, `not_found`, or what the store answers.
    pub async fn try_filter(
        &self,
        who: &Caller,
        tenant: Id<id::Tenant>,
        mode: Mode,
        events: Option<Vec<String>>,
        filter: Value,
    ) -> Result<Vec<FilterTried>> {
        let tenant = who.tenant(self, tenant).await?;
        let profile = self.profile_of(tenant.application).await?.profile;
        let events = match events {
            Some(events) => Some(subscription(self, &profile, tenant.id, events, None).await?),
            None => None,
        };
        let filter = content_filter(filter)?;
        let of = EventFilter {
            tenant: Some(tenant.id),
            mode: who.shown(Some(mode))?,
            ..EventFilter::default()
        };
        let store = self.0.store.clone();
        let last = async move { store.list_events(of, PageRequest::first(LOOKED_AT)).await };
        let last = self.listed(who, last);
        let asked_for = |event: &EventSummary| {
            let mut events = events.iter();
            events.all(|events| events.matches(&event.event_type))
        };
        let last = last.await?.rows.into_iter().filter(asked_for).take(TRIED);
        let mut tried = Vec::with_capacity(TRIED);
        for event in last {
            let whole = match self.store().event(event.id).await {
                Ok(whole) => whole,
                // It went by its age meanwhile.
                Err(error) if error.is_not_found() => continue,
                Err(error) => return Err(error.into()),
            };
            // What it said was deleted: nobody can say whether it would have met the filter.
            if !whole.has_content() {
                continue;
            }
            let unmet = filter.unmet(&Content::new(&whole.data, whole.meta.as_ref()));
            tried.push(FilterTried { event, unmet });
        }
        Ok(tried)
    }
}
