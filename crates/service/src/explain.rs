//! A dry run: who would get an event, why the others would not, and the exact request of each.

use bytes::Bytes;
use postrider_core::endpoint::{CustomHeader, Endpoint, EndpointKind};
use postrider_core::event::Event;
use postrider_core::filter::Content;
use postrider_core::limits::PAGE_ROWS_DEFAULT;
use postrider_core::profile::{Profile, SignatureSpec};
use postrider_core::tenant::Tenant;
use postrider_core::{Id, id};
use postrider_store::{EndpointFilter, EndpointListing, Page, PageRequest, Target};

use crate::endpoints::may_sign;
use crate::events::{NewEvent, imagined};
use crate::reading::bounded_page;
use crate::refusal::{Refusal, Result};
use crate::{Caller, Service};

/// Endpoints explained in one answer.
pub const EXPLAINED_MAX: usize = PAGE_ROWS_DEFAULT;
/// Bytes of one answer, about.
const EXPLAINED_BYTES_MAX: usize = 4 * 1024 * 1024;
/// What a row has beside the body, with headers as long as they may be.
const ROW_BYTES: usize = 16 * 1024;

/// What one endpoint would get of an event.
#[derive(Debug)]
pub struct Explained {
    pub endpoint: Endpoint,
    /// Every reason against it; none when it would get the event.
    pub reasons: Vec<String>,
    /// What it would get now, or would if nothing spoke against it. Ids and times are made up.
    pub headers: Vec<(String, String)>,
    pub body: Bytes,
}

impl Service {
    /// Explains who would get an event. Nothing is stored and nothing is sent.
    ///
    /// # Errors
    /// As publishing the event has, and `scope_insufficient` where it would show what another key signs.
    pub async fn explain(
        &self,
        who: &Caller,
        tenant: Id<id::Tenant>,
        event: NewEvent<'_>,
        sent: &Bytes,
        page: PageRequest,
    ) -> Result<Page<Explained>> {
        let tenant = who.tenant(self, tenant).await?;
        // One after the other: each checks and renders as much as many publishes, for nobody but who asks.
        let _turn = self.0.explanations.take(Id::from_u128(who.holder())).await;
        let current = self.profile_of(tenant.application).await?;
        let new = imagined(self, who, &tenant, &current, event, sent).await?;
        let event = &*new.event;
        // Each row holds the whole body: large ones make short pages.
        let mut page = page;
        let row_bytes = ROW_BYTES + event.payload_bytes() * 2;
        page.limit = page
            .limit
            .min(EXPLAINED_MAX)
            .min(EXPLAINED_BYTES_MAX / row_bytes)
            // A page of none would never come to an end.
            .max(1);
        let found = candidates(self, who, &tenant, new.target, page).await?;
        let mut rows = Vec::with_capacity(found.rows.len());
        for endpoint in found.rows {
            let preview = self.engine().preview(endpoint.id, event, current.version);
            let mut request = preview.await?;
            if who.is_read_only() {
                hide_signatures(&current.profile, &mut request.headers);
            }
            rows.push(Explained {
                reasons: reasons(&endpoint, event, new.target),
                endpoint,
                headers: request.headers,
                body: request.body,
            });
        }
        let next = found.next;
        Ok(Page { rows, next })
    }
}

/// For somebody who may send nothing: whoever has a signature can send what it is of.
pub(crate) fn hide_signatures(profile: &Profile, headers: &mut [(String, String)]) {
    for (name, value) in headers {
        let signs = |spec: &SignatureSpec| spec.header.eq_ignore_ascii_case(name);
        if profile.signatures.iter().any(signs) {
            CustomHeader::STARS.clone_into(value);
        }
    }
}

/// Who comes into question: the one that the event is addressed to, or all of its kind.
async fn candidates(
    service: &Service,
    who: &Caller,
    tenant: &Tenant,
    target: Target,
    page: PageRequest,
) -> Result<Page<Endpoint>> {
    let one = |rows| Page { rows, next: None };
    let listing = match target {
        Target::Nobody => return Ok(one(Vec::new())),
        Target::Endpoint(id) | Target::IfEnabled(id) => {
            let endpoint = service.store().endpoint(id).await?;
            let visible = endpoint.tenant == tenant.id && who.may_touch(endpoint.mode);
            if !visible || endpoint.kind == EndpointKind::Callback {
                return Err(Refusal::not_found("endpoint"));
            }
            may_sign(who, &endpoint)?;
            return Ok(one(vec![endpoint]));
        }
        Target::Matching => EndpointListing::Registered,
        Target::Distributions => EndpointListing::Distributions,
    };
    let filter = EndpointFilter {
        tenant: tenant.id,
        listing,
        mode: who.shown(None)?,
        oldest_first: false,
    };
    Ok(service
        .store()
        .list_endpoints(filter, bounded_page(page))
        .await?)
}

/// What speaks against a delivery: the same questions that the store asks when it fans out.
fn reasons(endpoint: &Endpoint, event: &Event, target: Target) -> Vec<String> {
    let mut reasons = Vec::new();
    if let Some(disabled) = endpoint.health.disabled {
        let (reason, at) = (disabled.reason.as_str(), disabled.at);
        reasons.push(format!("it was disabled at {at} ({reason})"));
    }
    if endpoint.mode != event.mode {
        let (own, given) = (endpoint.mode.as_str(), event.mode.as_str());
        reasons.push(format!("it is a {own} endpoint, and the event is {given}"));
    }
    // What is addressed to an endpoint reaches it whatever it subscribed to.
    let chosen_by_type = matches!(target, Target::Matching | Target::Distributions);
    if chosen_by_type && !endpoint.subscription.matches(&event.event_type) {
        let patterns = endpoint.subscription.patterns().join(", ");
        reasons.push(format!(
            "it subscribed to {patterns}, not to {}",
            event.event_type
        ));
    }
    // An event that was sent whatever its filter says now, and whose content was deleted, is no event that fails it.
    let has_content = !event.data.is_empty();
    if let Some(filter) = endpoint
        .filter
        .as_ref()
        .filter(|_| chosen_by_type && has_content)
        && let Some(unmet) = filter.unmet(&Content::new(&event.data, event.meta.as_ref()))
    {
        reasons.push(format!("the event does not meet its filter: {unmet}"));
    }
    reasons
}
