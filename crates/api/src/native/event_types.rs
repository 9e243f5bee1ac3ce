//! Event types of an application, with their schemas and examples.

use axum::body::Body;
use axum::extract::State;
use axum::response::IntoResponse;
use http::{HeaderMap, StatusCode};
use postrider_service::{Caller, EventTypeListed, NewEventType, Page};
use serde::Deserialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::views::EventTypeView;
use crate::Api;
use crate::openapi::{OfApplication, OfName, Refusals};
use crate::problem::Answer;
use crate::request::{
    List, NoBody, Path, list as list_of, must_be_json, ok, read_id, typed, well_formed,
};

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct EventTypeBody<'b> {
    description: Option<String>,
    /// Kept as they came, byte for byte.
    #[serde(borrow)]
    #[schema(value_type = Option<serde_json::Value>)]
    schema: Option<&'b RawValue>,
    #[serde(borrow)]
    #[schema(value_type = Option<serde_json::Value>)]
    example: Option<&'b RawValue>,
}

/// Declares an event type, or declares it anew.
#[utoipa::path(
    put, path = "/v1/applications/{application}/event-types/{name}", tag = "Event types", operation_id = "putEventType",
    params(OfApplication, OfName),
    request_body = EventTypeBody<'_>,
    responses((status = OK, description = "Done.", body = EventTypeView), Refusals),
)]
pub(crate) async fn put(
    State(api): State<Api>,
    caller: Caller,
    Path((id, name)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let application = read_id(&id)?;
    must_be_json(&headers)?;
    let bytes = api.body(caller.holder(), body).await?;
    well_formed(&bytes)?;
    let body: EventTypeBody<'_> = typed(&bytes)?;
    let text = |json: &RawValue| json.get().to_owned();
    let new = NewEventType {
        description: body.description,
        schema: body.schema.map(text),
        example: body.example.map(text),
        vendor: None,
    };
    let service = &api.service;
    let put = service.put_event_type(&caller, application, name, new);
    Ok(ok(&EventTypeView::from(put.await?)))
}

/// Lists an application's event types, and those of its profile.
#[utoipa::path(
    get, path = "/v1/applications/{application}/event-types", tag = "Event types", operation_id = "listEventTypes",
    params(OfApplication),
    responses((status = OK, description = "Done.", body = List<EventTypeView>), Refusals),
)]
pub(crate) async fn list(State(api): State<Api>, caller: Caller, Path(id): Path<String>) -> Answer {
    let mut held = api.answer(&caller);
    let mut rows = Vec::new();
    let each = |listed: EventTypeListed| {
        held.grow_by(listed.name().len() + listed.text_bytes())?;
        rows.push(listed);
        Ok(())
    };
    let listing = api.service.each_event_type(&caller, read_id(&id)?, each);
    listing.await?;
    Ok(list_of(Page { rows, next: None }, EventTypeView::listed))
}

/// Takes the declaration of an event type away.
#[utoipa::path(
    delete, path = "/v1/applications/{application}/event-types/{name}", tag = "Event types", operation_id = "deleteEventType",
    params(OfApplication, OfName),
    responses((status = NO_CONTENT, description = "Gone."), Refusals),
)]
pub(crate) async fn delete(
    State(api): State<Api>,
    caller: Caller,
    Path((id, name)): Path<(String, String)>,
    _: NoBody,
) -> Answer {
    let application = read_id(&id)?;
    let service = &api.service;
    service
        .delete_event_type(&caller, application, name)
        .await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
