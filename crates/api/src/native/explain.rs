//! A dry run: who would get an event, why the others would not, and the exact request of each.

use axum::body::Body;
use axum::extract::State;
use http::HeaderMap;
use postrider_core::{Id, id};
use postrider_service::{Caller, EXPLAINED_MAX, Explained, NewEvent};
use serde::Serialize;
use utoipa::ToSchema;

use crate::Api;
use crate::openapi::{HeaderPair, OfTenant, Refusals};
use crate::problem::Answer;
use crate::request::{
    List, Paging, Path, Query, list as list_of, must_be_json, read_id, typed, well_formed,
};

#[derive(Serialize, ToSchema)]
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

#[derive(Serialize, ToSchema)]
struct RequestView {
    #[schema(value_type = Vec<HeaderPair>)]
    headers: Vec<(String, String)>,
    body: String,
}

impl From<Explained> for EndpointExplained {
    fn from(explained: Explained) -> Self {
        Self {
            endpoint: explained.endpoint.id,
            url: explained.endpoint.url,
            would_receive: explained.reasons.is_empty(),
            reasons: explained.reasons,
            request: RequestView {
                headers: explained.headers,
                body: String::from_utf8_lossy(&explained.body).into_owned(),
            },
        }
    }
}

/// Tells who would get an event, why the others would not, and the exact requests. Nothing is stored or sent.
#[utoipa::path(
    post, path = "/v1/tenants/{tenant}/explain", tag = "Events", operation_id = "explainEvent",
    params(OfTenant, Paging),
    request_body = NewEvent<'_>,
    responses((status = OK, description = "Done.", body = List<EndpointExplained>), Refusals),
)]
pub(crate) async fn explain(
    State(api): State<Api>,
    caller: Caller,
    Path(tenant): Path<String>,
    Query(paging): Query<Paging>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let (tenant, page) = (read_id(&tenant)?, paging.request_of(EXPLAINED_MAX)?);
    must_be_json(&headers)?;
    let held = api.body(caller.holder(), body).await?;
    well_formed(&held)?;
    let event: NewEvent<'_> = typed(&held)?;
    let found = api.service.explain(&caller, tenant, event, &held, page);
    Ok(list_of(found.await?, EndpointExplained::from))
}
