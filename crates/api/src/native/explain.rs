//! A dry run: who would get an event, why the others would not, and the exact request of each.

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::HeaderMap;
use postrider_core::endpoint::Endpoint;
use postrider_core::event::Event;
use postrider_core::limits::PAGE_ROWS_MAX;
use postrider_core::{Id, id};
use postrider_store::PageRequest;
use serde::Serialize;

use super::events::imagined;
use crate::Api;
use crate::auth::Caller;
use crate::problem::ApiResult;
use crate::request::{Path, must_be_json, ok, path_id, read_body};

#[derive(Serialize)]
struct ExplainView {
    data: Vec<EndpointExplained>,
}

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
    headers: HeaderMap,
    body: Body,
) -> ApiResult<Response> {
    let tenant = caller.tenant(&api, path_id(&tenant)?).await?;
    must_be_json(&headers)?;
    let bytes = read_body(body, api.0.options.body_max, api.0.options.body_timeout).await?;
    let current = api.0.directory.profile(tenant.application).await?;
    let event = imagined(&api, &caller, &tenant, &current, &bytes).await?;
    let mut data = Vec::new();
    let mut page = PageRequest::first(PAGE_ROWS_MAX);
    loop {
        let found = api.store().list_endpoints(tenant.id, page).await?;
        for endpoint in found.rows.into_iter().filter(|e| caller.may_touch(e.mode)) {
            let request = api
                .engine()
                .preview(endpoint.id, &event, current.version)
                .await?;
            let reasons = reasons(&endpoint, &event);
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
        page.cursor = found.next;
        if page.cursor.is_none() {
            return Ok(ok(&ExplainView { data }));
        }
    }
}

/// What speaks against a delivery: the same questions that the store asks when it fans out.
fn reasons(endpoint: &Endpoint, event: &Event) -> Vec<String> {
    let mut reasons = Vec::new();
    if let Some(disabled) = endpoint.health.disabled {
        let (reason, at) = (disabled.reason.as_str(), disabled.at);
        reasons.push(format!("it was disabled at {at} ({reason})"));
    }
    if endpoint.mode != event.mode {
        let (own, given) = (endpoint.mode.as_str(), event.mode.as_str());
        reasons.push(format!("it is a {own} endpoint, and the event is {given}"));
    }
    if !endpoint.subscription.matches(&event.event_type) {
        let patterns = endpoint.subscription.patterns().join(", ");
        reasons.push(format!(
            "it subscribed to {patterns}, not to {}",
            event.event_type
        ));
    }
    reasons
}
