//! A dry run: who would get an event, why the others would not, and the exact request of each.

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::HeaderMap;
use postrider_core::endpoint::{Endpoint, EndpointKind};
use postrider_core::event::Event;
use postrider_core::limits::PAGE_ROWS_DEFAULT;
use postrider_core::tenant::Tenant;
use postrider_core::{Id, id};
use postrider_store::{EndpointFilter, EndpointListing, Page, PageRequest, Target};
use serde::Serialize;

use super::endpoints::may_sign;
use super::events::imagined;
use crate::Api;
use crate::auth::Caller;
use crate::problem::{ApiError, ApiResult};
use crate::request::{Paging, Path, Query, list as list_of, must_be_json, path_id};

/// Endpoints explained in one answer.
const EXPLAINED_MAX: usize = PAGE_ROWS_DEFAULT;
/// Bytes of one answer, about.
const EXPLAINED_BYTES_MAX: usize = 4 * 1024 * 1024;
/// What a row has beside the body, with headers as long as they may be.
const ROW_BYTES: usize = 16 * 1024;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EndpointExplained {
    endpoint: Id<id::Endpoint>,
    url: String,
    would_receive: bool,
    /// Every reason against it.
    reasons: Vec<String>,
    /// What it would get now, or would if nothing spoke against it. Ids and times are made up.
    request: RequestView,
}

#[derive(Serialize)]
struct RequestView {
    headers: Vec<(String, String)>,
    body: String,
}

pub(crate) async fn explain(
    State(api): State<Api>,
    caller: Caller,
    Path(tenant): Path<String>,
    Query(paging): Query<Paging>,
    headers: HeaderMap,
    body: Body,
) -> ApiResult<Response> {
    let tenant = caller.tenant(&api, path_id(&tenant)?).await?;
    let page = paging.request_of(EXPLAINED_MAX)?;
    must_be_json(&headers)?;
    let bytes = api.body(caller.holder(), body).await?;
    let current = api.0.directory.profile(tenant.application).await?;
    let new = imagined(&api, &caller, &tenant, &current, &bytes).await?;
    let event = &*new.event;
    // Each row holds the whole body: large ones make short pages.
    let mut page = page;
    let row_bytes = ROW_BYTES + event.payload_bytes() * 2;
    page.limit = page.limit.min(EXPLAINED_BYTES_MAX / row_bytes).max(1);
    let found = candidates(&api, &caller, &tenant, new.target, page).await?;
    let mut data = Vec::with_capacity(found.rows.len());
    for endpoint in found.rows {
        let request = api
            .engine()
            .preview(endpoint.id, event, current.version)
            .await?;
        let reasons = reasons(&endpoint, event, new.target);
        data.push(EndpointExplained {
            endpoint: endpoint.id,
            url: endpoint.url,
            would_receive: reasons.is_empty(),
            reasons,
            request: RequestView {
                headers: request.headers,
                body: String::from_utf8_lossy(&request.body).into_owned(),
            },
        });
    }
    let next = found.next;
    Ok(list_of(Page { rows: data, next }, |view| view))
}

/// Who comes into question: the one that the event is addressed to, or all of its kind.
async fn candidates(
    api: &Api,
    caller: &Caller,
    tenant: &Tenant,
    target: Target,
    page: PageRequest,
) -> ApiResult<Page<Endpoint>> {
    let one = |rows| Page { rows, next: None };
    let listing = match target {
        Target::Nobody => return Ok(one(Vec::new())),
        Target::Endpoint(id) | Target::IfEnabled(id) => {
            let endpoint = api.store().endpoint(id).await?;
            let visible = endpoint.tenant == tenant.id && caller.may_touch(endpoint.mode);
            if !visible || endpoint.kind == EndpointKind::Callback {
                return Err(ApiError::not_found("endpoint"));
            }
            may_sign(caller, &endpoint)?;
            return Ok(one(vec![endpoint]));
        }
        Target::Matching => EndpointListing::Registered,
        Target::Distributions => EndpointListing::Distributions,
    };
    let filter = EndpointFilter {
        tenant: tenant.id,
        listing,
        mode: caller.shown(None)?,
    };
    Ok(api.store().list_endpoints(filter, page).await?)
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
    let chosen_by_type = matches!(target, Target::Matching | Target::Distributions);
    if chosen_by_type && !endpoint.subscription.matches(&event.event_type) {
        let patterns = endpoint.subscription.patterns().join(", ");
        reasons.push(format!(
            "it subscribed to {patterns}, not to {}",
            event.event_type
        ));
    }
    reasons
}
