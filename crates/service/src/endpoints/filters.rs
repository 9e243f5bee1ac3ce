//! Content filters: read, and tried on what was published lately.

use postrider_core::event::EventSummary;
use postrider_core::filter::{Content, ContentFilter};
use postrider_core::tenant::Mode;
use postrider_core::{Id, id};
use postrider_store::{EventFilter, PageRequest};
use serde_json::Value;

use crate::refusal::{ErrorCode, Refusal, Result};
use crate::{Caller, Service};

/// Events that a filter is tried on.
const TRIED: usize = 10;

/// One of the last events, and what of a filter it does not meet.
#[derive(Debug)]
pub struct FilterTried {
    pub event: EventSummary,
    /// None where it meets all of it.
    pub unmet: Option<String>,
}

pub(super) fn content_filter(written: Value) -> Result<ContentFilter> {
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

    /// What a filter would have done with the tenant's last events of a mode. Nothing is stored.
    ///
    /// # Errors
    /// `filter_invalid`, `not_found`, or what the store answers.
    pub async fn try_filter(
        &self,
        who: &Caller,
        tenant: Id<id::Tenant>,
        mode: Mode,
        filter: Value,
    ) -> Result<Vec<FilterTried>> {
        let tenant = who.tenant(self, tenant).await?;
        let filter = content_filter(filter)?;
        let of = EventFilter {
            tenant: Some(tenant.id),
            mode: who.shown(Some(mode))?,
            ..EventFilter::default()
        };
        let last = self.store().list_events(of, PageRequest::first(TRIED));
        let mut tried = Vec::with_capacity(TRIED);
        for event in last.await?.rows {
            let whole = self.store().event(event.id).await?;
            let unmet = filter.unmet(&Content::new(&whole.data, whole.meta.as_ref()));
            tried.push(FilterTried { event, unmet });
        }
        Ok(tried)
    }
}
